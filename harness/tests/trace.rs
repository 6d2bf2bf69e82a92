//! `fulldress trace` against real servers: what it prints is held against the lock table of the session itself.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "trace/hazards.rs"]
mod hazards;
#[path = "trace/sessions.rs"]
mod sessions;
#[path = "support/versions.rs"]
mod versions;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::RunFolder;
use fulldress::trace::{Request, Source, embedded};
use fulldress_reports::lock::LockMode;
use fulldress_reports::trace::{Statement, Trace, Transactions};
use sqlx::postgres::types::Oid;
use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};
use versions::versions;

const SETUP: &str = include_str!("trace/setup.sql");
const TABLE: &str = include_str!("trace/locks.txt");

/// Three servers at a time, each with its log of changes.
const ROOM_MIN_BYTES: u64 = 4 << 30;

type Locks = BTreeMap<String, LockMode>;

fn source(file: &str, text: impl Into<String>) -> Source {
    Source { file: file.to_owned(), text: text.into() }
}

struct Stage {
    state: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
}

impl Stage {
    fn new() -> Self {
        let state = tempfile::Builder::new().prefix("fulldress-trace-").tempdir_in(quick_folder()).unwrap();
        Self { state, runtime: tokio::runtime::Runtime::new().unwrap() }
    }

    fn folder(&self) -> Arc<RunFolder> {
        Arc::new(RunFolder::create_in(self.state.path()).unwrap().0)
    }

    fn trace(&self, postgres: Option<&Path>, setup: &str, scripts: Vec<Source>) -> Trace {
        self.request(Request {
            setups: vec![source("setup.sql", setup)],
            scripts,
            postgres: postgres.map(Path::to_path_buf),
            ..Request::default()
        })
    }

    fn request(&self, request: Request) -> Trace {
        let folder = self.folder();
        let trace = self.runtime.block_on(embedded(&request, &folder)).unwrap();
        Arc::try_unwrap(folder).unwrap().close().unwrap();
        trace
    }

    /// Statements of one script on the tables of the setup.
    fn statements(&self, script: &str) -> Vec<Statement> {
        let mut trace = self.trace(None, SETUP, vec![source("a.sql", script)]);
        trace.scripts.remove(0).statements
    }
}

/// Memory, where there is enough of it: a copy of a database is three hundred new files, which on a disk cost ten times
/// the script that runs on it.
fn quick_folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let roomy = rustix::fs::statvfs(memory).is_ok_and(|room| room.f_bavail * room.f_frsize > ROOM_MIN_BYTES);
    if roomy { memory.to_owned() } else { std::env::temp_dir() }
}

fn locks(statement: &Statement) -> Locks {
    statement.locks.iter().map(|lock| (lock.relation.clone(), lock.mode)).collect()
}

fn expected(locks: &[(&str, LockMode)]) -> Locks {
    locks.iter().map(|(relation, mode)| ((*relation).to_owned(), *mode)).collect()
}

/// A statement of the table with what holds from which version on.
struct Case {
    heading: Vec<String>,
    sql: String,
    locks: BTreeMap<u32, Vec<String>>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        let mut heading = Vec::new();
        for line in TABLE.lines() {
            if line.starts_with('#') {
                heading.push(line.to_owned());
            } else if let Some(lock) = line.strip_prefix("    ") {
                let (version, lock) = lock
                    .split_once(": ")
                    .map_or((0, lock), |(version, lock)| (version.parse().unwrap(), lock));
                let locks = cases.last_mut().unwrap().locks.entry(version).or_default();
                if !lock.is_empty() && lock != "none" {
                    locks.push(lock.to_owned());
                }
            } else if !line.is_empty() {
                cases.push(Self {
                    heading: std::mem::take(&mut heading),
                    sql: line.to_owned(),
                    locks: BTreeMap::new(),
                });
            }
        }
        cases
    }

    fn at(&self, version: u32) -> Vec<String> {
        self.locks.range(..=version).next_back().map(|(_, locks)| locks.clone()).unwrap_or_default()
    }

    fn statements(&self) -> Vec<&str> {
        self.sql.split(" ;; ").collect()
    }
}

fn lines(locks: &Locks) -> Vec<String> {
    locks.iter().map(|(relation, mode)| format!("{} {relation}", mode.name())).collect()
}

/// What the session itself sees: its rows of `pg_locks` before and after, by names read before its transaction.
async fn own_lock_table(
    connection: &mut PgConnection,
    names: &BTreeMap<u32, String>,
    case: &Case,
) -> Result<Locks, String> {
    async fn held(connection: &mut PgConnection, names: &BTreeMap<u32, String>) -> Vec<(String, LockMode)> {
        let query =
            "SELECT relation, mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation IS NOT NULL";
        let rows = sqlx::query(query).fetch_all(connection).await.unwrap();
        let read = rows.iter().filter_map(|row| {
            let name = names.get(&row.get::<Oid, _>(0).0)?;
            Some((name.clone(), LockMode::parse(row.get(1)).unwrap()))
        });
        read.collect()
    }
    connection.execute("BEGIN").await.unwrap();
    let statements = case.statements();
    let (last, first) = statements.split_last().unwrap();
    for statement in first {
        connection.execute(sqlx::raw_sql(AssertSqlSafe(*statement))).await.unwrap();
    }
    let before = held(connection, names).await;
    let ran = connection
        .execute(sqlx::raw_sql(AssertSqlSafe(*last)))
        .await
        .map_err(|error| format!("{last}: {error}"));
    if let Err(error) = ran {
        connection.execute("ROLLBACK").await.unwrap();
        return Err(error);
    }
    let after = held(connection, names).await;
    connection.execute("ROLLBACK").await.unwrap();
    let mut locks = Locks::new();
    for (relation, mode) in after.into_iter().filter(|lock| !before.contains(lock)) {
        let strongest = locks.entry(relation).or_insert(mode);
        *strongest = mode.max(*strongest);
    }
    Ok(locks)
}

/// The table's file; a version has lines of its own where it differs from the one before.
fn table(cases: &[Case], truths: &BTreeMap<u32, Vec<Vec<String>>>) -> String {
    let mut table = String::new();
    for (index, case) in cases.iter().enumerate() {
        for line in case.heading.iter().chain([&case.sql]) {
            // Writing to a String cannot fail, here and below.
            _ = writeln!(table, "{line}");
        }
        let mut before: Option<&Vec<String>> = None;
        for (version, truth) in truths {
            let locks = &truth[index];
            let prefix = before.map_or_else(String::new, |_| format!("{version}: "));
            if before.is_none_or(|before| before != locks) {
                if before.is_some() && locks.is_empty() {
                    _ = writeln!(table, "    {prefix}none");
                }
                for lock in locks {
                    _ = writeln!(table, "    {prefix}{lock}");
                }
            }
            before = Some(locks);
        }
    }
    table
}

async fn oracle(folder: &Arc<RunFolder>, postgres: &Path, cases: &[Case]) -> Vec<Locks> {
    let programs = Programs::find(Some(postgres)).unwrap();
    let settings = BTreeMap::from([
        ("autovacuum".to_owned(), "off".to_owned()),
        ("wal_level".to_owned(), "logical".to_owned()),
        ("max_parallel_workers_per_gather".to_owned(), "0".to_owned()),
        ("max_parallel_maintenance_workers".to_owned(), "0".to_owned()),
    ]);
    let mut cluster =
        Cluster::create(programs, folder, "oracle", settings, Duration::from_secs(60)).await.unwrap();
    cluster.start().await.unwrap();
    let mut admin = cluster.connect("postgres").await.unwrap();
    // Not `postgres`: a database of its own has the same settings as the traced one.
    admin.execute("CREATE DATABASE oracle").await.unwrap();
    let mut connection = cluster.connect("oracle").await.unwrap();
    connection.execute(sqlx::raw_sql(SETUP)).await.unwrap();
    let query = "SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname) \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE n.nspname IN ('public', 'other')";
    let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap();
    let names = rows.iter().map(|row| (row.get::<Oid, _>(0).0, row.get(1))).collect();
    let mut all = Vec::new();
    let mut refused = Vec::new();
    for case in cases {
        match own_lock_table(&mut connection, &names, case).await {
            Ok(locks) => all.push(locks),
            Err(error) => refused.push(error),
        }
    }
    cluster.stop().await;
    assert_eq!(refused, [""; 0], "{}", postgres.display());
    all
}

#[test]
fn locks_are_those_of_the_servers_own_table() {
    let stage = Stage::new();
    let cases = Case::all();
    assert!(cases.len() >= 150, "{} statements", cases.len());
    let mut truths: BTreeMap<u32, Vec<Vec<String>>> = BTreeMap::new();
    let mut wrong = String::new();
    for (version, postgres) in versions() {
        let folder = stage.folder();
        let truth = stage.runtime.block_on(oracle(&folder, &postgres, &cases));
        Arc::try_unwrap(folder).unwrap().close().unwrap();
        let scripts = cases
            .iter()
            .map(|case| source(&case.sql, format!("BEGIN;\n{};\nROLLBACK;", case.statements().join(";\n"))));
        let trace = stage.request(Request {
            setups: vec![source("setup.sql", SETUP)],
            scripts: scripts.collect(),
            // Publications of all tables, files of the server: the oracle is a superuser as well.
            superuser: true,
            postgres: Some(postgres.clone()),
            ..Request::default()
        });
        assert!(trace.server_version.starts_with(&version.to_string()), "{}", trace.server_version);
        for ((case, truth), script) in cases.iter().zip(&truth).zip(&trace.scripts) {
            let statement = &script.statements[script.statements.len() - 2];
            assert_eq!(statement.error, None, "{}", case.sql);
            assert_eq!(statement.unobserved, None, "{}", case.sql);
            let truth = lines(truth);
            let traced = lines(&locks(statement));
            // Writing to a String cannot fail, here and below.
            if traced != truth {
                _ = writeln!(
                    wrong,
                    "{version}: {}\n  the server: {truth:?}\n  the trace: {traced:?}",
                    case.sql
                );
            }
            if truth != case.at(version) && std::env::var_os("FULLDRESS_REGENERATE").is_none() {
                _ = writeln!(
                    wrong,
                    "{version}: {}\n  the server: {truth:?}\n  the table: {:?}",
                    case.sql,
                    case.at(version)
                );
            }
            truths.entry(version).or_default().push(truth);
        }
    }
    if std::env::var_os("FULLDRESS_REGENERATE").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trace/locks.txt");
        std::fs::write(path, table(&cases, &truths)).unwrap();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn statements_that_cannot_run_in_a_transaction_are_seen_at_stops() {
    use LockMode::{AccessExclusiveLock, RowExclusiveLock, ShareUpdateExclusiveLock};
    let weak = ShareUpdateExclusiveLock;
    let cases: &[(&str, &[(&str, LockMode)])] = &[
        ("CREATE INDEX CONCURRENTLY fresh ON plain (a)", &[("public.plain", weak)]),
        // The index that is replaced is dropped in the end, when nobody plans with it any more.
        (
            "REINDEX INDEX CONCURRENTLY fresh",
            &[("public.plain", weak), ("public.fresh", AccessExclusiveLock)],
        ),
        (
            "REINDEX TABLE CONCURRENTLY plain",
            &[("public.plain", weak), ("public.fresh", AccessExclusiveLock)],
        ),
        ("DROP INDEX CONCURRENTLY fresh", &[("public.plain", weak), ("public.fresh", AccessExclusiveLock)]),
        ("VACUUM plain", &[("public.plain", weak)]),
        ("VACUUM ANALYZE nodes", &[("public.nodes", weak), ("public.nodes_pkey", RowExclusiveLock)]),
        ("VACUUM FULL plain", &[("public.plain", AccessExclusiveLock)]),
        (
            "VACUUM (FULL) nodes",
            &[("public.nodes", AccessExclusiveLock), ("public.nodes_pkey", AccessExclusiveLock)],
        ),
        (
            "ALTER TABLE logs DETACH PARTITION logs_2024 CONCURRENTLY",
            // The index is a part of the partitioned one until then.
            &[
                ("public.logs", weak),
                ("public.logs_2024", AccessExclusiveLock),
                ("public.logs_2024_at_idx", AccessExclusiveLock),
            ],
        ),
        ("CREATE DATABASE another", &[]),
    ];
    let stage = Stage::new();
    for (version, postgres) in versions() {
        let scripts = cases.iter().map(|(sql, _)| source(sql, format!("{sql};")));
        let trace = stage.trace(Some(&postgres), SETUP, scripts.collect());
        for ((sql, locks_of), script) in cases.iter().zip(&trace.scripts) {
            let statement = &script.statements[0];
            assert_eq!((&statement.error, &statement.unobserved), (&None, &None), "{version}: {sql}");
            let seen = locks(statement);
            for (relation, mode) in *locks_of {
                assert_eq!(seen.get(*relation), Some(mode), "{version}: {sql}: {seen:?}");
            }
            if locks_of.is_empty() {
                assert!(seen.is_empty(), "{version}: {sql}: {seen:?}");
            }
            let strangers = seen.iter().filter(|(relation, mode)| {
                mode.blocks_clients() && !locks_of.iter().any(|(known, _)| known == relation)
            });
            assert_eq!(strangers.collect::<Vec<_>>(), vec![], "{version}: {sql}");
        }
        let full = &trace.scripts[6].statements[0];
        assert_eq!(full.rewritten, ["public.plain"], "{version}");
    }
}

#[test]
fn a_file_is_one_transaction_and_locks_taken_again_are_shown() {
    let stage = Stage::new();
    let statements = stage.statements(
        "ALTER TABLE plain ADD COLUMN one int;\nALTER TABLE plain ADD COLUMN two int;\nUPDATE plain SET two = a;\n\
         CREATE TABLE fresh (id int);\nALTER TABLE fresh ADD COLUMN x int;\n",
    );
    let plain = |mode| expected(&[("public.plain", mode)]);
    assert_eq!(locks(&statements[0]), plain(LockMode::AccessExclusiveLock));
    assert_eq!(locks(&statements[1]), plain(LockMode::AccessExclusiveLock), "asked for again");
    assert_eq!(locks(&statements[2]), plain(LockMode::RowExclusiveLock));
    assert_eq!(locks(&statements[4]), Locks::new(), "nobody else can see the table");
    assert_eq!(statements[2].scanned[0].rows, 500);
    assert_eq!(statements[0].line, 1);
    assert_eq!(statements[4].line, 5);
    assert_eq!(statements[2].hazards, ["backfill-under-exclusive-lock", "backfill-unbatched"]);
    assert_eq!(statements[1].hazards, ["no-lock-timeout", "work-under-exclusive-lock"]);
}

#[test]
fn a_savepoint_that_is_rolled_back_lets_go() {
    let stage = Stage::new();
    let statements = stage.statements(
        "BEGIN; SAVEPOINT a; LOCK TABLE orders; ROLLBACK TO a; LOCK TABLE orders IN SHARE MODE; COMMIT;",
    );
    assert_eq!(locks(&statements[2]), expected(&[("public.orders", LockMode::AccessExclusiveLock)]));
    assert_eq!(locks(&statements[4]), expected(&[("public.orders", LockMode::ShareLock)]));
}

#[test]
fn rewrites_and_scans_are_those_of_the_server() {
    // What each rewrites, and what it reads from end to end with how many rows.
    type Case = (&'static str, &'static [&'static str], &'static [(&'static str, u64)]);
    let cases: &[Case] = &[
        ("ALTER TABLE orders ADD COLUMN x int", &[], &[]),
        ("ALTER TABLE orders ADD COLUMN x int DEFAULT 1", &[], &[]),
        (
            "ALTER TABLE plain ADD COLUMN x uuid DEFAULT gen_random_uuid()",
            &["public.plain"],
            &[("public.plain", 500)],
        ),
        ("ALTER TABLE plain ALTER COLUMN b SET NOT NULL", &[], &[("public.plain", 500)]),
        ("ALTER TABLE plain ALTER COLUMN b TYPE varchar(50)", &["public.plain"], &[("public.plain", 500)]),
        ("ALTER TABLE customers ALTER COLUMN name TYPE text", &[], &[]),
        ("ALTER TABLE orders ADD CHECK (total >= 0)", &[], &[("public.orders", 1000)]),
        ("ALTER TABLE orders ADD CHECK (total >= 0) NOT VALID", &[], &[]),
        ("CREATE INDEX fresh ON orders (total)", &[], &[("public.orders", 1000)]),
        ("TRUNCATE plain", &[], &[]),
        // By way of the index; what is read from end to end are the builds of its four indexes.
        ("CLUSTER orders USING orders_once", &["public.orders"], &[("public.orders", 4000)]),
        (
            "REFRESH MATERIALIZED VIEW totals",
            &["public.totals"],
            &[("public.orders", 1000), ("public.totals", 300)],
        ),
        (
            "ALTER TABLE events ATTACH PARTITION events_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
            &[],
            &[("public.events_2026", 0), ("public.events_rest", 0)],
        ),
        (
            "DO $$ BEGIN EXECUTE 'ALTER TABLE plain ALTER COLUMN a TYPE bigint'; END $$",
            &["public.plain"],
            &[("public.plain", 500)],
        ),
        // The same types: only the session's time zone decides. Two indexes are built again.
        ("SET TimeZone = 'UTC'; ALTER TABLE customers ALTER COLUMN born TYPE timestamptz", &[], &[]),
        (
            "SET TimeZone = 'Europe/Vienna'; ALTER TABLE customers ALTER COLUMN born TYPE timestamptz",
            &["public.customers"],
            &[("public.customers", 900)],
        ),
    ];
    let stage = Stage::new();
    let scripts = cases.iter().map(|(sql, ..)| source(sql, format!("BEGIN; {sql}; ROLLBACK;")));
    let trace = stage.trace(None, SETUP, scripts.collect());
    for ((sql, rewritten, scanned), script) in cases.iter().zip(&trace.scripts) {
        let statement = &script.statements[script.statements.len() - 2];
        assert_eq!(statement.error, None, "{sql}");
        assert_eq!(statement.rewritten, *rewritten, "{sql}");
        let seen: Vec<(&str, u64)> =
            statement.scanned.iter().map(|scan| (scan.relation.as_str(), scan.rows)).collect();
        assert_eq!(seen, *scanned, "{sql}");
    }
}

#[test]
fn limits_in_force_and_errors_are_the_servers() {
    let stage = Stage::new();
    let trace = stage.trace(
        None,
        SETUP,
        vec![
            source("a.sql", "SET lock_timeout = '2s';\nSET statement_timeout = '1min';\nSELECT 1;\nALTER TABLE nothing ADD x int;\nSELECT 2;"),
            source("b.sql", "SELECT 3;"),
            source("c.sql", "SELECT 1;\nVACUUM plain;\nBEGIN;\n"),
        ],
    );
    let [a, b, c] = trace.scripts.as_slice() else { panic!("{trace:?}") };
    assert_eq!((a.statements[2].lock_timeout_ms, a.statements[2].statement_timeout_ms), (2_000, 60_000));
    assert_eq!(a.statements[3].error.as_ref().unwrap().sqlstate, "42P01");
    assert_eq!(a.statements[4].unobserved.as_deref(), Some("not run: an earlier statement failed"));
    assert_eq!(a.statements[4].error, None);
    // A session of its own: nothing of the first script's settings is left.
    assert_eq!((b.statements[0].lock_timeout_ms, &b.statements[0].error), (0, &None));
    assert_eq!(c.transactions, Transactions::Own);
    assert_eq!(trace.first_error().unwrap().1.line, 4);
}

#[test]
fn scripts_own_what_the_setup_made_and_are_no_superusers() {
    let stage = Stage::new();
    let setup = "CREATE ROLE app; CREATE TABLE a (id int); CREATE TABLE b (id int); ALTER TABLE b OWNER TO app; \
                 CREATE EXTENSION IF NOT EXISTS plpgsql;";
    let scripts = [
        "ALTER TABLE a ADD COLUMN x int; ALTER TABLE b ADD COLUMN x int; CREATE TABLE c (id int); CREATE SCHEMA d;",
        "COPY a TO PROGRAM 'true';",
        "CREATE ROLE e; DROP ROLE e;",
    ];
    let trace = stage.trace(None, setup, scripts.map(|sql| source("a.sql", sql)).to_vec());
    let errors = |script: usize| -> Vec<String> {
        let errors = trace.scripts[script].statements.iter().filter_map(|one| one.error.as_ref());
        errors.map(|error| error.sqlstate.clone()).collect()
    };
    assert_eq!(errors(0), [""; 0]);
    // 42501: insufficient privilege. A hostile script must not reach the machine.
    assert_eq!(errors(1), ["42501"]);
    assert_eq!(errors(2), [""; 0]);
}

#[test]
fn a_procedure_that_commits_is_run_outside() {
    let stage = Stage::new();
    let statements = stage.statements(
        "DO $$ BEGIN FOR i IN 1..3 LOOP UPDATE plain SET c = i WHERE a = i; COMMIT; END LOOP; END $$;\nVACUUM plain;",
    );
    assert_eq!(statements[0].error, None);
    assert_eq!(statements[0].locks[0].relation, "public.plain");
    assert_eq!(statements[0].locks[0].mode, LockMode::RowExclusiveLock);
}
