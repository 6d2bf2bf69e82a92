//! The fingerprints against real servers: equal for the same schema however it came about, different after any single
//! change, which is named; and the data digest, which sees every lost value.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "fingerprint/cases.rs"]
mod cases;
#[path = "fingerprint/data.rs"]
mod data;
#[path = "support/versions.rs"]
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fulldress::fingerprint::{SchemaFingerprint, catalog};
use fulldress::mirror::SUPERUSER;
use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::{Launch, RunFolder};
use fulldress_reports::evidence::Difference;
use sqlx::{AssertSqlSafe, Executor, PgConnection};

use cases::Case;
use versions::versions;

const SETUP: &str = include_str!("fingerprint/setup.sql");
const LIMIT: Duration = Duration::from_secs(60);
/// Kinds that the schema of the tests cannot have: a security label needs a library that gives it a meaning.
const WITHOUT: [&str; 2] = ["security label", "extension dependency"];

struct Server {
    cluster: Cluster,
    _run: Arc<RunFolder>,
    _state: tempfile::TempDir,
}

impl Server {
    async fn start(programs: &Path) -> Self {
        let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let settings = [("fsync", "off"), ("autovacuum", "off"), ("wal_level", "logical")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let programs = Programs::find(Some(programs)).unwrap();
        let mut cluster =
            Cluster::create(programs, &run, "server", BTreeMap::from(settings), LIMIT).await.unwrap();
        cluster.start().await.unwrap();
        Self { cluster, _run: run, _state: state }
    }

    /// A server with the database `shop`, which has something of every class.
    async fn with_shop(programs: &Path) -> Self {
        let server = Self::start(programs).await;
        let mut admin = server.connect("postgres").await;
        run(&mut admin, "CREATE DATABASE shop").await;
        run(&mut server.connect("shop").await, SETUP).await;
        server
    }

    async fn connect(&self, database: &str) -> PgConnection {
        self.cluster.connect(database).await.unwrap()
    }

    async fn program(&self, name: &str, arguments: &[&str]) {
        let options = self.cluster.admin_url("postgres");
        let password = options.split(['/', ':', '@']).nth(4).unwrap();
        let launch = Launch::new(self.cluster.programs().join(name))
            .args(arguments.iter().copied())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", password);
        let output = launch.output(LIMIT).await.unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let ran = connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await;
    ran.unwrap_or_else(|error| panic!("{error}: {}", &sql[..sql.len().min(300)]));
}

async fn schema(connection: &mut PgConnection) -> SchemaFingerprint {
    SchemaFingerprint::read(connection).await.unwrap()
}

fn block_on<Done>(work: impl Future<Output = Done>) -> Done {
    tokio::runtime::Runtime::new().unwrap().block_on(work)
}

fn same(what: &str, before: &SchemaFingerprint, after: &SchemaFingerprint) {
    let none: [Difference; 0] = [];
    assert_eq!(before.differences(after), none, "{what}");
    assert_eq!(before.digest(), after.digest(), "{what}");
}

/// What a change is told as; the server refuses none of them.
async fn told(
    connection: &mut PgConnection,
    before: &SchemaFingerprint,
    case: &Case,
) -> Result<Vec<String>, String> {
    run(connection, "BEGIN").await;
    let ran = connection.execute(sqlx::raw_sql(AssertSqlSafe(case.sql.clone()))).await;
    let told = match ran {
        Ok(_) => {
            let after = schema(connection).await;
            let groups = before.groups(&after);
            let named = before.differences(&after);
            let folded: usize = groups.iter().map(|group| 1 + group.folded.len()).sum();
            assert_eq!(folded, named.len(), "every difference stands in one group: {}", case.sql);
            assert_eq!(named.is_empty(), before.digest() == after.digest(), "{}", case.sql);
            Ok(groups.iter().map(|group| line(&group.head)).collect())
        }
        Err(error) => Err(format!("{}: {error}\n", case.sql)),
    };
    run(connection, "ROLLBACK").await;
    told
}

fn line(difference: &Difference) -> String {
    let sign = match (&difference.before, &difference.after) {
        (None, _) => "+ ",
        (_, None) => "- ",
        _ => "",
    };
    format!("{sign}{} {}", difference.kind, difference.object)
}

/// Tells the wanted cases on one version; those that it does not know are none.
async fn tell(
    version: u32,
    programs: &Path,
    cases: &[Case],
    wanted: impl Fn(usize) -> bool,
    wrong: &mut String,
) -> Vec<Option<Vec<String>>> {
    let server = Server::with_shop(programs).await;
    let mut connection = server.connect("shop").await;
    let before = schema(&mut connection).await;
    let mut answers = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        if case.since > version || !wanted(index) {
            answers.push(None);
            continue;
        }
        match told(&mut connection, &before, case).await {
            Ok(answer) => {
                if answer != case.at(version) {
                    let expected = case.at(version);
                    _ = writeln!(
                        wrong,
                        "{version}: {}\n  told: {answer:?}\n  expected: {expected:?}",
                        case.sql
                    );
                }
                answers.push(Some(answer));
            }
            Err(error) => {
                _ = write!(wrong, "{version}: {error}");
                answers.push(None);
            }
        }
    }
    same("after everything was rolled back", &before, &schema(&mut connection).await);
    answers
}

#[test]
fn every_single_change_is_named() {
    let cases = Case::all();
    assert!(cases.len() >= 120, "{} changes", cases.len());
    let mut wrong = String::new();
    let mut all = Vec::new();
    let work: Vec<_> = versions().into_iter().collect();
    let newest = work.last().unwrap().0;
    let regenerate = std::env::var_os("FULLDRESS_REGENERATE").is_some();
    // The newest tells every change, the others every second one, by turns.
    let wanted =
        |turn: usize, version| move |index: usize| regenerate || version == newest || index % 2 == turn % 2;
    std::thread::scope(|scope| {
        let threads = work.iter().enumerate().map(|(turn, (version, programs))| {
            let cases = &cases;
            scope.spawn(move || {
                let mut wrong = String::new();
                let answers = block_on(tell(*version, programs, cases, wanted(turn, *version), &mut wrong));
                (*version, answers, wrong)
            })
        });
        for thread in threads.collect::<Vec<_>>() {
            let (version, answers, of_version) = thread.join().unwrap();
            all.push((version, answers));
            wrong.push_str(&of_version);
        }
    });
    if regenerate {
        cases::rewrite(&cases, &all);
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The same schema with other ids, in another file, written by the server's own tools.
async fn dumped_and_restored(server: &Server, before: &SchemaFingerprint) {
    let file = server.cluster.log_folder().with_file_name("shop.dump");
    let file = file.to_str().unwrap();
    server.program("pg_dump", &["--format=custom", "--file", file, "shop"]).await;
    let mut admin = server.connect("postgres").await;
    run(&mut admin, "ALTER DATABASE shop RENAME TO shop_before").await;
    server.program("pg_restore", &["--create", "--exit-on-error", "--dbname=postgres", file]).await;
    let after = schema(&mut server.connect("shop").await).await;
    same("after a dump and a restore", before, &after);
    assert_eq!(before.order_only(&after), [""; 0]);
    // Of a copy inside the server, what belongs to the database itself is not copied.
    run(&mut admin, "CREATE DATABASE copied TEMPLATE shop").await;
    let copied = schema(&mut server.connect("copied").await).await;
    let kinds: BTreeSet<String> =
        before.differences(&copied).into_iter().map(|one| format!("{} {}", one.kind, one.object)).collect();
    let expected = [
        "comment database",
        "privilege database",
        "setting in this database work_mem",
        "setting role shop_reader in this database work_mem",
    ];
    let subscription = ["comment subscription feed", "privilege subscription feed", "subscription feed"];
    let expected = expected.iter().chain(&subscription).map(|name| (*name).to_owned());
    assert_eq!(kinds, expected.collect());
}

#[test]
fn the_same_schema_has_one_fingerprint() {
    for (version, programs) in versions() {
        block_on(async {
            let mut server = Server::with_shop(&programs).await;
            let mut connection = server.connect("shop").await;
            let before = schema(&mut connection).await;
            let counts = before.counts();
            let kinds: BTreeSet<&str> = catalog::queries().map(|query| query.kind).collect();
            let missing: BTreeSet<&str> =
                kinds.into_iter().filter(|kind| !counts.contains_key(kind)).collect();
            assert_eq!(missing, BTreeSet::from(WITHOUT), "{version}: the schema has nothing of these");
            let secrets = format!("{before:?}");
            assert!(!secrets.contains("hidden"), "{version}: a secret was read");

            run(&mut connection, "REINDEX SCHEMA shop").await;
            for statement in ["VACUUM FULL", "ANALYZE"] {
                run(&mut connection, statement).await;
            }
            same("after other files", &before, &schema(&mut connection).await);
            drop(connection);
            dumped_and_restored(&server, &before).await;
            server.cluster.stop().await;
            server.cluster.start().await.unwrap();
            let after = schema(&mut server.connect("shop").await).await;
            same("after a restart", &before, &after);
        });
    }
}

#[test]
fn reading_leaves_a_session_as_it_was() {
    let (_, programs) = versions().pop_last().unwrap();
    block_on(async {
        let server = Server::start(&programs).await;
        let mut connection = server.connect("postgres").await;
        let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
                        WHERE name IN ('search_path', 'TimeZone', 'DateStyle', 'jit', 'row_security', 'lock_timeout')";
        let settings_of = async |connection: &mut PgConnection| -> String {
            sqlx::query_scalar(settings).fetch_one(connection).await.unwrap()
        };
        run(&mut connection, "SET search_path = information_schema; SET TimeZone = 'Asia/Tokyo'").await;
        let outside = settings_of(&mut connection).await;
        assert!(outside.contains("Asia/Tokyo"), "{outside}");
        schema(&mut connection).await;
        assert_eq!(settings_of(&mut connection).await, outside);

        run(
            &mut connection,
            "BEGIN; SET LOCAL search_path = pg_catalog, public; CREATE TABLE public.t (a int)",
        )
        .await;
        let inside = settings_of(&mut connection).await;
        assert_eq!(schema(&mut connection).await.counts()["table"], 1, "the transaction's own table");
        assert_eq!(settings_of(&mut connection).await, inside);
        run(&mut connection, "ROLLBACK").await;
        assert_eq!(settings_of(&mut connection).await, outside);
        assert_eq!(schema(&mut connection).await.counts().get("table"), None);
    });
}
