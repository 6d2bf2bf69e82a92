//! Whether the lock recorder misses anything, or sees what was not there: random transactions of a package in several
//! sessions at once, each of which writes down from its own lock table what it took.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "support/versions.rs"]
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::RunFolder;
use fulldress::recorder::log::LogPlace;
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::sampler::GAP_US;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::lock::{LockMode, LockRecord};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor, PgConnection, Row};

/// Transactions on each version.
const TRANSACTIONS: usize = 1_000;
/// Sessions of the package that work at once. Each has tables of its own, so that none waits for another for ever.
const SESSIONS: usize = 3;
const TABLES_EACH: usize = 3;
/// The table that all of them read and write.
const SHARED: &str = "shared";
const PACKAGE: &str = "package";
const OWNER: &str = "owner";
const DATABASE: &str = "shop";
/// The two clocks may be apart by what the recorder says, and by a millisecond of the log.
const SLACK_US: u64 = 2_000;

/// A lock that a session had taken, on the rehearsal's clock.
#[derive(Debug, Clone)]
struct Truth {
    pid: u32,
    relation: String,
    mode: LockMode,
    statement: String,
    /// Whether event triggers fire for the statement.
    triggering: bool,
    /// Before the statement was sent, after it had ended, before the end of the transaction was sent, after that.
    asked_us: u64,
    seen_us: u64,
    ending_us: u64,
    ended_us: u64,
}

/// What a session does next.
struct Deed {
    sql: String,
    triggering: bool,
}

fn deed(random: &mut StdRng, table: &str, number: usize) -> Deed {
    let lock = |mode: &str| format!("LOCK TABLE {table} IN {mode} MODE");
    let (sql, triggering) = match random.random_range(0..14) {
        0 => (format!("ALTER TABLE {table} ADD COLUMN added_{number} int"), true),
        1 => (
            format!("ALTER TABLE {table} ALTER COLUMN b SET STATISTICS {}", random.random_range(1..900)),
            true,
        ),
        2 => (format!("CREATE INDEX made_{number} ON {table} (b)"), true),
        3 => (
            format!(
                "CREATE TRIGGER made_{number} BEFORE DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION nothing()"
            ),
            true,
        ),
        4 => (format!("ALTER TABLE {table} ADD CONSTRAINT made_{number} CHECK (a > 0) NOT VALID"), true),
        5 => (lock("SHARE UPDATE EXCLUSIVE"), false),
        6 => (lock("SHARE"), false),
        7 => (lock("SHARE ROW EXCLUSIVE"), false),
        8 => (lock("EXCLUSIVE"), false),
        9 => (lock("ACCESS EXCLUSIVE"), false),
        10 => (lock("ROW EXCLUSIVE"), false),
        11 => (format!("UPDATE {table} SET b = b + 1 WHERE a = {}", random.random_range(1..100)), false),
        12 => (format!("UPDATE {SHARED} SET b = b + 1 WHERE a = {number}"), false),
        _ => (format!("ANALYZE {table}"), false),
    };
    Deed { sql, triggering }
}

/// Modes that the session holds on tables and indexes, from its own view of the lock table.
async fn held(session: &mut PgConnection) -> BTreeSet<(String, LockMode)> {
    let query = "SELECT n.nspname || '.' || c.relname, l.mode FROM pg_catalog.pg_locks l \
                 JOIN pg_catalog.pg_class c ON c.oid = l.relation \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                 WHERE l.pid = pg_catalog.pg_backend_pid() AND l.granted AND l.locktype = 'relation' \
                 AND c.relkind IN ('r', 'i') AND n.nspname = 'public'";
    let rows = session.fetch_all(query).await.unwrap();
    let mode = |row: &sqlx::postgres::PgRow| LockMode::parse(&row.get::<String, _>(1)).unwrap();
    rows.iter().map(|row| (row.get(0), mode(row))).collect()
}

/// Plays one session's transactions; every lock that it took.
async fn play(options: PgConnectOptions, clock: Clock, lane: usize, seed: u64) -> Vec<Truth> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut session = options.connect().await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut session).await.unwrap();
    let tables: Vec<String> = (0..TABLES_EACH).map(|table| format!("t_{lane}_{table}")).collect();
    let mut truths = Vec::new();
    for transaction in (lane..TRANSACTIONS).step_by(SESSIONS) {
        session.execute("BEGIN").await.unwrap();
        let mut open: Vec<Truth> = Vec::new();
        let mut known = BTreeSet::new();
        for part in 0..random.random_range(1..4) {
            let table = tables.choose(&mut random).unwrap();
            let deed = deed(&mut random, table, transaction * 10 + part);
            let savepoint = random.random_ratio(1, 5);
            if savepoint {
                session.execute("SAVEPOINT before").await.unwrap();
            }
            let asked_us = clock.now_us();
            session.execute(AssertSqlSafe(deed.sql.clone())).await.unwrap();
            let now = held(&mut session).await;
            let seen_us = clock.now_us();
            let mut new: BTreeMap<&str, LockMode> = BTreeMap::new();
            for (relation, mode) in now.difference(&known) {
                let strongest = new.entry(relation).or_insert(*mode);
                *strongest = (*strongest).max(*mode);
            }
            let took = new.into_iter().map(|(relation, mode)| Truth {
                pid: pid.unsigned_abs(),
                relation: relation.to_owned(),
                mode,
                statement: deed.sql.clone(),
                triggering: deed.triggering,
                asked_us,
                seen_us,
                ending_us: 0,
                ended_us: 0,
            });
            let mut took: Vec<Truth> = took.collect();
            // From a millisecond on, most of them short.
            let length_ms = 1.0 + 40.0 * random.random::<f64>().powi(4);
            tokio::time::sleep(Duration::from_secs_f64(length_ms / 1000.0)).await;
            if savepoint {
                let ending_us = clock.now_us();
                session.execute("ROLLBACK TO before").await.unwrap();
                let ended_us = clock.now_us();
                truths.extend(took.drain(..).map(|truth| Truth { ending_us, ended_us, ..truth }));
            } else {
                known = now;
                open.append(&mut took);
            }
        }
        let ending_us = clock.now_us();
        session.execute(if random.random_ratio(1, 4) { "ROLLBACK" } else { "COMMIT" }).await.unwrap();
        let ended_us = clock.now_us();
        truths.extend(open.into_iter().map(|truth| Truth { ending_us, ended_us, ..truth }));
    }
    session.close().await.unwrap();
    truths
}

async fn recorded(run: &Arc<RunFolder>, postgres: &Path, seed: u64) -> (Recording, Vec<Truth>) {
    let mut values: BTreeMap<String, String> = settings::cluster_settings()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    values.extend([("fsync", "off"), ("autovacuum", "off")].map(|(name, value)| (name.into(), value.into())));
    let programs = Programs::find(Some(postgres)).unwrap();
    let mut cluster =
        Cluster::create(programs, run, "recall", values, Duration::from_secs(60)).await.unwrap();
    cluster.start().await.unwrap();
    let mut admin = cluster.connect("postgres").await.unwrap();
    for statement in [
        format!("CREATE ROLE {OWNER} LOGIN PASSWORD 'recall'"),
        format!("CREATE ROLE {PACKAGE} LOGIN PASSWORD 'recall' IN ROLE {OWNER}"),
        format!("ALTER ROLE {PACKAGE} SET role = {OWNER}"),
        format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"),
    ]
    .into_iter()
    .chain(settings::role_statements(PACKAGE, &[OWNER]))
    {
        admin.execute(AssertSqlSafe(statement)).await.unwrap();
    }
    let mut admin = cluster.connect(DATABASE).await.unwrap();
    let mut script = format!("SET ROLE {OWNER}; SET check_function_bodies = off;");
    let lanes = (0..SESSIONS).flat_map(|lane| (0..TABLES_EACH).map(move |table| format!("t_{lane}_{table}")));
    for table in lanes.chain([SHARED.to_owned()]) {
        let rows = if table == SHARED { TRANSACTIONS * 10 } else { 100 };
        write!(
            script,
            "CREATE TABLE public.{table} (a int PRIMARY KEY, b int); \
             INSERT INTO public.{table} SELECT g, g FROM generate_series(0, {rows}) g;"
        )
        .unwrap();
    }
    script.push_str("RESET ROLE; GRANT CREATE ON SCHEMA public TO owner;");
    script.insert_str(0, "GRANT CREATE ON SCHEMA public TO owner;");
    script.push_str(
        "CREATE FUNCTION public.nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN OLD; END $$;",
    );
    admin.execute(AssertSqlSafe(script)).await.unwrap();
    let preexisting = relation_names(&mut admin).await.unwrap();
    let clock = Clock::start();
    let log = LogPlace::Folder(cluster.log_folder());
    let config = RecorderConfig::new(cluster.options(DATABASE), log, PACKAGE, clock);
    let recorder = Recorder::start(config).await.unwrap();
    recorder.fast(true);
    let options = cluster.options(DATABASE).username(PACKAGE).password("recall");
    let lanes =
        (0..SESSIONS).map(|lane| tokio::spawn(play(options.clone(), clock, lane, seed + lane as u64)));
    let lanes: Vec<_> = lanes.collect();
    let mut truths = Vec::new();
    for lane in lanes {
        truths.extend(lane.await.unwrap());
    }
    let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }];
    let steps = [StepSpan { id: "recall".to_owned(), start_us: 0, end_us: clock.now_us() }];
    let recording = recorder.finish(&phases, &steps, &BTreeMap::new(), &preexisting).await.unwrap();
    cluster.stop().await;
    (recording, truths)
}

/// Whether the session already held the relation at least as strongly: such a lock keeps nobody out, and is no record.
fn is_covered(truth: &Truth, truths: &[Truth]) -> bool {
    truths.iter().any(|earlier| {
        (earlier.pid, &earlier.relation) == (truth.pid, &truth.relation)
            && earlier.asked_us < truth.asked_us
            && earlier.ended_us >= truth.ended_us
            && earlier.asked_us < truth.ended_us
            && LockMode::ALL
                .into_iter()
                .all(|mode| !truth.mode.conflicts_with(mode) || earlier.mode.conflicts_with(mode))
    })
}

fn is_of(record: &LockRecord, truth: &Truth, slack_us: u64) -> bool {
    record.pid == truth.pid
        && record.relation == truth.relation
        && record.released_us + slack_us >= truth.asked_us
        && record.requested_us <= truth.ended_us + slack_us
}

#[test]
fn every_lock_of_random_transactions_is_recorded_and_no_other() {
    let state = tempfile::Builder::new().prefix("fulldress-recall-").tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seed: u64 =
        std::env::var("FULLDRESS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_123);
    for (version, postgres) in versions::versions() {
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let (recording, truths) = runtime.block_on(recorded(&run, &postgres, seed));
        Arc::try_unwrap(run).unwrap().close().unwrap();
        let trust = &recording.evidence.trust;
        let slack_us = SLACK_US + trust.clock_error_us;
        // What fires no trigger may hide between two samples: in a gap that the recorder declares, or for less than that.
        let in_gap = |truth: &Truth| {
            truth.ending_us - truth.seen_us <= GAP_US
                || recording.gaps.iter().any(|gap| {
                    gap.from_us <= truth.seen_us + trust.clock_error_us
                        && gap.to_us + trust.clock_error_us >= truth.ending_us
                })
        };
        let records: Vec<&LockRecord> =
            recording.evidence.records.iter().filter(|record| !record.relation.contains("made_")).collect();
        let mut wrong = String::new();
        let (mut seen, mut due) = (0_usize, 0_usize);
        // An index whose table is held as strongly adds nothing that a client could meet, and is no record.
        let is_table =
            |truth: &&Truth| !truth.relation.ends_with("_pkey") && !truth.relation.contains("made_");
        let told = truths.iter().filter(is_table);
        let told =
            told.filter(|truth| truth.mode >= LockMode::RowExclusiveLock && !is_covered(truth, &truths));
        let told: Vec<&Truth> = told.collect();
        for truth in told.iter().copied() {
            let covering = |record: &&LockRecord| is_of(record, truth, slack_us) && record.mode == truth.mode;
            let found = records.iter().copied().any(|record| covering(&record));
            let surely = truth.triggering || !in_gap(truth);
            due += usize::from(surely);
            seen += usize::from(found);
            if surely && !found {
                let near = records
                    .iter()
                    .filter(|record| (record.pid, &record.relation) == (truth.pid, &truth.relation));
                let near = near.filter(|record| record.requested_us.abs_diff(truth.asked_us) < 200_000);
                for record in near {
                    writeln!(
                        wrong,
                        "    has {:?} {}..{} `{}`",
                        record.mode, record.requested_us, record.released_us, record.statement
                    )
                    .unwrap();
                }
                writeln!(wrong, "missed after `{}`: {truth:?}", truth.statement).unwrap();
            }
        }
        let all = told.len();
        for record in records {
            let real = truths.iter().any(|truth| truth.mode == record.mode && is_of(record, truth, slack_us));
            if !real {
                let near = truths
                    .iter()
                    .filter(|truth| (truth.pid, &truth.relation) == (record.pid, &record.relation));
                for truth in near.filter(|truth| truth.asked_us.abs_diff(record.requested_us) < 100_000) {
                    writeln!(
                        wrong,
                        "    was {:?} {}..{}..{}..{} `{}`",
                        truth.mode,
                        truth.asked_us,
                        truth.seen_us,
                        truth.ending_us,
                        truth.ended_us,
                        truth.statement
                    )
                    .unwrap();
                }
                writeln!(wrong, "was not there: {record:?}").unwrap();
            }
        }
        println!(
            "PostgreSQL {version}, seed {seed}: {all} locks, {due} that no declared gap hides, {seen} recorded; {:.2} % of {:.1} s in gaps above 5 ms, the longest {:.1} ms; {} samples",
            trust.blind_percent(GAP_US).unwrap(),
            trust.sampled_us as f64 / 1e6,
            trust.sample_gap_max_us as f64 / 1000.0,
            trust.samples_taken
        );
        assert!(due * 2 > all, "only {due} of {all} locks could be asked for");
        let lines = wrong.lines().count();
        assert!(wrong.is_empty(), "PostgreSQL {version}, seed {seed}, {lines} wrong:\n{wrong}");
    }
}
