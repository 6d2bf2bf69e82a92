//! The lock recorder against a real PostgreSQL: what it measures is compared with what the clients saw.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::Duration;

use fulldress::recorder::log::LogPlace;
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::lock::{LockLeftover, LockMode, LockOrder, LockOutcome, LockRecord, LockSource};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// Longest that a test waits for a condition.
const PATIENCE: Duration = Duration::from_secs(20);

fn command(program: &str) -> std::process::Command {
    #[expect(clippy::disallowed_methods, reason = "the tests bring their own PostgreSQL and psql")]
    std::process::Command::new(program)
}

fn as_postgres(program: &str) -> std::process::Command {
    let mut command = command("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--pdeathsig=KILL"]);
    command.arg(format!("{BIN}/{program}")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A cluster in a temporary folder. It dies with the thread that started it, so it has a thread of its own.
struct Cluster {
    port: u16,
    data: PathBuf,
    orders: mpsc::Sender<Order>,
    thread: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

enum Order {
    Restart(mpsc::Sender<()>),
    Stop,
}

impl Cluster {
    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("fulldress-recorder-").tempdir().unwrap();
        let owned = command("chown").arg("postgres").arg(folder.path()).status().unwrap();
        assert!(owned.success());
        let data = folder.path().join("data");
        let made = as_postgres("initdb")
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .status()
            .unwrap();
        assert!(made.success(), "initdb");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut file = std::fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).unwrap();
        writeln!(file, "port={port}\nlisten_addresses='127.0.0.1'\nunix_socket_directories=''\nfsync=off")
            .unwrap();
        writeln!(file, "max_prepared_transactions=5\nautovacuum=off").unwrap();
        for (name, value) in settings::cluster_settings() {
            writeln!(file, "{name} = '{value}'").unwrap();
        }
        drop(file);
        // The package comes from an address of its own on the loopback network.
        std::fs::write(data.join("pg_hba.conf"), "host all all 127.0.0.0/8 trust\n").unwrap();
        let (orders, inbox) = mpsc::channel();
        let folder_of_data = data.clone();
        let thread = std::thread::spawn(move || keep_running(&folder_of_data, &inbox));
        Self { port, data, orders, thread: Some(thread), _folder: folder }
    }

    /// One cluster for all tests that run at the same time; the last one stops it.
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let cluster = Arc::new(Self::start());
            *shared = Arc::downgrade(&cluster);
            cluster
        })
    }

    fn restart(&self) {
        let (done, is_done) = mpsc::channel();
        self.orders.send(Order::Restart(done)).unwrap();
        is_done.recv().unwrap();
    }

    fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(role)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging()
    }
}

fn keep_running(data: &Path, inbox: &mpsc::Receiver<Order>) {
    let run = || -> Child { as_postgres("postgres").arg("-D").arg(data).spawn().unwrap() };
    let stop = |mut server: Child| {
        // SIGINT is PostgreSQL's fast shutdown.
        let sent = command("kill").args(["-INT", &server.id().to_string()]).status().unwrap();
        assert!(sent.success());
        server.wait().unwrap();
    };
    let mut server = run();
    while let Ok(Order::Restart(done)) = inbox.recv() {
        stop(server);
        server = run();
        done.send(()).unwrap();
    }
    stop(server);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A database with a hot table, an application's role, a package's role and a recorder.
struct Stage {
    cluster: Arc<Cluster>,
    database: String,
    package: String,
    application: String,
    clock: Clock,
    recorder: Recorder,
    admin: PgConnection,
    preexisting: std::collections::BTreeSet<String>,
    address: String,
}

impl Stage {
    async fn set(cluster: Arc<Cluster>) -> Self {
        let log = LogPlace::Folder(cluster.data.join("log"));
        Self::set_with(cluster, log).await
    }

    async fn set_with(cluster: Arc<Cluster>, log: LogPlace) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [database, package, application] =
            ["shop", "package", "app"].map(|name| format!("{name}_{number}"));
        let mut root = connect(&cluster.options("postgres", "postgres")).await;
        run(&mut root, &format!("CREATE DATABASE {database}")).await;
        run(&mut root, &format!("CREATE ROLE {application} LOGIN")).await;
        run(&mut root, &format!("CREATE ROLE {package} LOGIN IN ROLE {application}")).await;
        run(&mut root, &format!("ALTER ROLE {package} SET role = '{application}'")).await;
        for statement in settings::role_statements(&package, &[&application]) {
            run(&mut root, &statement).await;
        }
        let mut admin = connect(&cluster.options("postgres", &database)).await;
        run(&mut admin, "CREATE TABLE orders (id int PRIMARY KEY, state text, total int)").await;
        run(&mut admin, "INSERT INTO orders SELECT g, 'new', g FROM generate_series(1, 1000) AS g").await;
        run(&mut admin, "CREATE TABLE quiet (id int)").await;
        run(&mut admin, &format!("ALTER TABLE orders OWNER TO {application}")).await;
        run(&mut admin, &format!("ALTER TABLE quiet OWNER TO {application}")).await;
        run(&mut admin, &format!("GRANT CREATE ON SCHEMA public TO {application}")).await;
        let preexisting = relation_names(&mut admin).await.unwrap();
        let clock = Clock::start();
        let address = format!("127.0.9.{number}");
        let server = cluster.options("postgres", &database);
        let config = RecorderConfig::new(server, log, &package, clock).with_address(&address);
        let recorder = Recorder::start(config).await.unwrap();
        recorder.fast(true);
        Self { cluster, database, package, application, clock, recorder, admin, preexisting, address }
    }

    fn psql(&self) -> std::process::Command {
        let mut psql = command(&format!("{BIN}/psql"));
        let target = format!(
            "host=127.0.0.1 port={} user={} dbname={} application_name=step-one",
            self.cluster.port, self.package, self.database
        );
        psql.args(["-X", "-q", "-A", "-t", "-d", &target]).stdin(Stdio::null()).stderr(Stdio::piped());
        psql
    }

    /// Runs a script with psql as the package; hands out what it printed, one line each.
    fn script(&self, sql: &str) -> tokio::task::JoinHandle<Vec<String>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(sql.as_bytes()).unwrap();
        let mut psql = self.psql();
        psql.arg("-f").arg(file.path());
        tokio::task::spawn_blocking(move || {
            let output = psql.output().unwrap();
            drop(file);
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
        })
    }

    /// A client of the application that runs one statement; hands out how long it took, microseconds.
    async fn client(&self, sql: &'static str) -> tokio::task::JoinHandle<u64> {
        let mut connection = connect(&self.cluster.options(&self.application, &self.database)).await;
        let clock = self.clock;
        tokio::spawn(async move {
            let start_us = clock.now_us();
            let _ = sqlx::raw_sql(sql).execute(&mut connection).await;
            let took_us = clock.now_us() - start_us;
            connection.close().await.unwrap();
            took_us
        })
    }

    async fn until(&mut self, condition: &str) {
        let sql = format!(
            "SELECT count(*) FROM pg_locks AS l JOIN pg_stat_activity AS s USING (pid) \
             WHERE s.datname = current_database() AND s.pid <> pg_backend_pid() AND {condition}"
        );
        let reached = async {
            loop {
                let count: i64 =
                    sqlx::query_scalar(AssertSqlSafe(sql.clone())).fetch_one(&mut self.admin).await.unwrap();
                if count > 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect(condition);
    }

    async fn until_waiting(&mut self, waiters: u32) {
        let others = waiters - 1;
        let condition = format!(
            "NOT l.granted AND (SELECT count(*) FROM pg_locks AS m JOIN pg_stat_activity AS t USING (pid) \
             WHERE NOT m.granted AND t.datname = current_database()) > {others}"
        );
        self.until(&condition).await;
    }

    /// Waits until a sample that began after now has ended; at the slow pace each one lists what clients hold. Two of what
    /// the activity view shows as one: the first may be the preparation of the sampler's statement, and no sample.
    async fn until_looked(&mut self) {
        for _ in 0..2 {
            let now: String = sqlx::query_scalar("SELECT clock_timestamp()::text")
                .fetch_one(&mut self.admin)
                .await
                .unwrap();
            let sql = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle' \
                 AND application_name = 'fulldress-recorder' AND query LIKE '%everyone AS MATERIALIZED%' \
                 AND query_start > '{now}'::timestamptz"
            );
            self.until_counted(&sql).await;
        }
    }

    async fn until_counted(&mut self, sql: &str) {
        let reached = async {
            loop {
                let count: i64 = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
                    .fetch_one(&mut self.admin)
                    .await
                    .unwrap();
                if count > 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect(sql);
    }

    /// A client's transaction that writes two tables, seen in between, and a package that changes orders and then quiet.
    async fn two_orders(mut self, first: &str, second: &str) -> LockOrder {
        self.recorder.fast(false);
        let mut client = connect(&self.cluster.options(&self.application, &self.database)).await;
        run(&mut client, "BEGIN").await;
        run(&mut client, first).await;
        self.until_looked().await;
        run(&mut client, second).await;
        self.until_looked().await;
        run(&mut client, "COMMIT").await;
        let script = "BEGIN;\nALTER TABLE orders ADD x int;\nALTER TABLE quiet ADD x int;\nCOMMIT;\n";
        self.script(script).await.unwrap();
        self.finish(&[("up.sql", script)]).await.evidence.order.unwrap()
    }

    async fn finish(self, files: &[(&str, &str)]) -> Recording {
        let now_us = self.clock.now_us();
        let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }];
        let steps = [StepSpan { id: "step-one".to_owned(), start_us: 0, end_us: now_us }];
        let files: BTreeMap<String, String> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let recording = self.recorder.finish(&phases, &steps, &files, &self.preexisting).await.unwrap();
        let trust = &recording.evidence.trust;
        assert!(trust.server_log, "{trust:?}");
        assert!(trust.samples_taken > 0 && trust.samples_taken <= trust.samples_planned, "{trust:?}");
        recording
    }
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    let connected = async {
        loop {
            match options.connect().await {
                Ok(connection) => return connection,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, connected).await.expect("a connection")
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect(sql);
}

fn on<'r>(recording: &'r Recording, relation: &str, mode: LockMode) -> Vec<&'r LockRecord> {
    let records = recording.evidence.records.iter();
    records.filter(|record| record.relation == relation && record.mode == mode).collect()
}

fn only<'r>(recording: &'r Recording, relation: &str, mode: LockMode) -> &'r LockRecord {
    let found = on(recording, relation, mode);
    assert_eq!(found.len(), 1, "{relation} {mode:?} in {:#?}", recording.evidence.records);
    found[0]
}

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;\n";

fn instants(lines: &[String]) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line.parse().ok())
        .filter(|number| *number > 1_000_000_000_000_000)
        .collect()
}

const ALTER_GRANTED: &str =
    "l.relation = 'orders'::regclass AND l.mode = 'AccessExclusiveLock' AND l.granted";

#[tokio::test(flavor = "multi_thread")]
async fn a_held_alter_is_measured_within_its_bounds_and_its_victims_are_counted() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let script = format!(
        "BEGIN;\n{NOW}ALTER TABLE orders\n  ADD COLUMN note text; -- hot\n{NOW}SELECT pg_sleep(0.4);\n{NOW}COMMIT;\n{NOW}"
    );
    let package = stage.script(&script);
    stage.until(ALTER_GRANTED).await;
    let mut clients = Vec::new();
    for sql in [
        "SELECT count(*) FROM orders",
        "SELECT total FROM orders WHERE id = 7",
        "UPDATE orders SET total = 1 WHERE id = 8",
    ] {
        clients.push(stage.client(sql).await);
    }
    stage.until_waiting(3).await;
    let bystander = stage.client("SELECT count(*) FROM quiet").await;
    let printed = instants(&package.await.unwrap());
    let mut longest_us = 0;
    for client in clients {
        longest_us = longest_us.max(client.await.unwrap());
    }
    bystander.await.unwrap();
    let recording = stage.finish(&[("migrations/one.sql", &script)]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let [before, after, end, ended] = printed[..] else { panic!("{printed:?}") };
    assert!(record.hold.low_us <= ended - before, "{record:#?} {printed:?}");
    assert!(record.hold.high_us >= end - after, "{record:#?} {printed:?}");
    assert!(record.hold.high_us - record.hold.low_us < 100_000, "{record:#?}");
    assert!(record.hold.low_us >= 350_000, "{record:#?}");
    // The server worked for 400 ms of it.
    assert!(record.idle.unwrap().high_us < record.hold.high_us - 390_000, "{record:#?}");
    assert_eq!(record.victims_total, 3, "{record:#?}");
    assert_eq!(record.queue_depth_max, 3);
    assert!(record.victims[0].blocked_us <= longest_us + 2_000, "{longest_us} {record:#?}");
    assert!(record.victims.iter().all(|victim| victim.blocked_us > 50_000 && victim.mode.is_some()));
    assert!(record.victims.iter().any(|victim| victim.statement == "SELECT total FROM orders WHERE id = ?"));
    assert_eq!(record.statement, "ALTER TABLE orders ADD COLUMN note text");
    assert_eq!(record.place.as_ref().unwrap().to_string(), "migrations/one.sql:3");
    assert!(record.preexisting && !record.rewritten);
    assert_eq!(
        (record.outcome, record.lock_timeout_ms, record.step.as_deref()),
        (LockOutcome::Granted, Some(0), Some("step-one"))
    );
    for source in
        [LockSource::EventTrigger, LockSource::Sampler, LockSource::WaitLog, LockSource::StatementLog]
    {
        assert!(record.sources.contains(&source), "{source:?} {record:#?}");
    }
    let [session] = &recording.evidence.sessions[..] else { panic!("{:#?}", recording.evidence.sessions) };
    assert_eq!((session.schema_changes, session.migration_lock_held), (1, false));
    assert_eq!(session.without_lock_timeout.len(), 1);
    assert_eq!(session.first_unlocked.as_ref().unwrap().place, record.place);
    let trust = &recording.evidence.trust;
    assert_eq!((trust.ddl_statements, trust.ddl_seen_twice), (1, 1));
    assert!(trust.triggers && trust.disagreements.is_empty(), "{trust:#?}");
    assert!(trust.clock_error_us < 20_000, "{trust:#?}");
    assert_eq!(recording.evidence.other_waits, 0);
    let mut raw = Vec::new();
    recording.write_raw(&mut raw).unwrap();
    let lines = String::from_utf8(raw).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with("{\"wait\"")).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_behind_a_waiting_alter_is_the_alters_though_a_reader_holds_the_table() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let package = stage.script(
        "SELECT pg_advisory_lock(7);\nSET lock_timeout = '9s';\nALTER TABLE orders ADD COLUMN note text;\n",
    );
    stage.until("NOT l.granted AND l.mode = 'AccessExclusiveLock'").await;
    let clients =
        [stage.client("SELECT count(*) FROM orders").await, stage.client("SELECT max(id) FROM orders").await];
    stage.until_waiting(3).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    run(&mut reader, "COMMIT").await;
    for client in clients {
        client.await.unwrap();
    }
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(
        (record.outcome, record.victims_total, record.lock_timeout_ms),
        (LockOutcome::Granted, 2, Some(9_000))
    );
    assert!(record.wait_us >= 100_000, "{record:#?}");
    assert!(record.hold.high_us < record.wait_us, "{record:#?}");
    assert_eq!(recording.evidence.other_waits, 0);
    let session = &recording.evidence.sessions[0];
    assert!(session.migration_lock_held && session.without_lock_timeout.is_empty(), "{session:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_by_lock_timeout_keeps_its_victims() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let package = stage.script("SET lock_timeout = '300ms';\nALTER TABLE orders ADD COLUMN note text;\n");
    stage.until("NOT l.granted AND l.mode = 'AccessExclusiveLock'").await;
    let client = stage.client("SELECT count(*) FROM orders").await;
    let blocked_us = client.await.unwrap();
    package.await.unwrap();
    run(&mut reader, "COMMIT").await;
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(
        (record.outcome, record.victims_total, record.lock_timeout_ms),
        (LockOutcome::TimedOut, 1, Some(300))
    );
    assert!((290_000..600_000).contains(&record.wait_us), "{record:#?}");
    assert_eq!(record.hold.high_us, 0);
    assert!(record.victims[0].blocked_us <= blocked_us + 2_000, "{blocked_us} {record:#?}");
    assert!(recording.evidence.trust.disagreements.is_empty(), "{:#?}", recording.evidence.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_lets_pass_inside_its_transaction_is_idle_time_of_the_hold() {
    let stage = Stage::set(Cluster::shared()).await;
    let mut session = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    let (clock, pause) = (stage.clock, Duration::from_millis(150));
    run(&mut session, "BEGIN").await;
    let asked_us = clock.now_us();
    run(&mut session, "ALTER TABLE orders ADD COLUMN note text").await;
    let mut pauses_us = 0;
    for statement in ["SELECT pg_sleep(0.2)", "COMMIT"] {
        let answered_us = clock.now_us();
        tokio::time::sleep(pause).await;
        pauses_us += clock.now_us() - answered_us;
        run(&mut session, statement).await;
    }
    // All but what the server slept, at most.
    let most_us = clock.now_us() - asked_us - 200_000;
    session.close().await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let idle = record.idle.unwrap();
    assert!(idle.low_us <= most_us && idle.high_us >= pauses_us, "{pauses_us} {most_us} {record:#?}");
    // Two pauses, each between two lines whose stamps are cut to milliseconds.
    assert!(idle.high_us - idle.low_us <= 4_000, "{record:#?}");
    assert!(idle.low_us >= 296_000 && idle.high_us < record.hold.high_us, "{record:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_sent_again_is_counted_with_what_ended_it() {
    let stage = Stage::set(Cluster::shared()).await;
    let mut writer = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut writer, "BEGIN; UPDATE orders SET total = 2 WHERE id = 3").await;
    let (alter, update) =
        ("ALTER TABLE orders ADD COLUMN note text;\n", "UPDATE orders SET total = 9 WHERE id = 3;\n");
    let timeouts =
        ["SET lock_timeout = '60ms';\n", "SET lock_timeout = 0; SET statement_timeout = '60ms';\n"];
    let [locks, statements] = timeouts;
    let script = format!("{locks}{alter}{alter}DROP TABLE orders;\n{statements}{update}");
    stage.script(&script).await.unwrap();
    run(&mut writer, "COMMIT").await;
    // A shell that loops opens another session.
    let files = [("up.sql", script.as_str())];
    stage.script(&format!("{locks}{alter}{update}{update}")).await.unwrap();
    let recording = stage.finish(&files).await;

    let retries = &recording.evidence.retries;
    let [altered, updated] = &retries[..] else { panic!("{retries:#?}") };
    assert_eq!(altered.statement, "ALTER TABLE orders ADD COLUMN note text");
    assert_eq!(altered.place.as_ref().unwrap().to_string(), "up.sql:2");
    assert_eq!((altered.timed_out, altered.deadlocked, altered.cancelled, altered.retries), (2, 0, 0, 2));
    assert_eq!(updated.statement, "UPDATE orders SET total = ? WHERE id = ?");
    assert_eq!((updated.timed_out, updated.deadlocked, updated.cancelled, updated.retries), (0, 0, 1, 1));
    assert!(retries.iter().all(|one| one.succeeded == Some(true) && one.step.as_deref() == Some("step-one")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_built_concurrently_blocks_no_client() {
    let mut stage = Stage::set(Cluster::shared()).await;
    // An old snapshot makes the build wait, so that its lock is held long enough to be seen.
    let mut old = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut old, "BEGIN; SELECT count(*) FROM orders; UPDATE orders SET total = 2 WHERE id = 3").await;
    let package = stage.script("CREATE INDEX CONCURRENTLY orders_state ON orders (state);\n");
    stage.until("NOT l.granted").await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    stage.client("UPDATE orders SET total = 5 WHERE id = 9").await.await.unwrap();
    run(&mut old, "COMMIT").await;
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::ShareUpdateExclusiveLock);
    assert!(record.hold.high_us >= 80_000 && record.victims_total == 0, "{record:#?}");
    let blocking =
        recording.evidence.records.iter().filter(|record| record.preexisting && record.mode.blocks_clients());
    assert_eq!(blocking.count(), 0, "{:#?}", recording.evidence.records);
    assert!(recording.evidence.sessions[0].without_lock_timeout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_fire_no_trigger_are_seen_and_nested_changes_are_counted() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let silent = "BEGIN;\nLOCK TABLE quiet IN SHARE MODE;\nSELECT pg_sleep(0.1);\nTRUNCATE orders;\nSELECT pg_sleep(0.1);\nCOMMIT;\n";
    stage.script(silent).await.unwrap();
    stage
        .script("DO $$ BEGIN EXECUTE 'ALTER TABLE quiet ADD a int'; EXECUTE 'ALTER TABLE orders ALTER total TYPE bigint'; END $$;")
        .await
        .unwrap();
    let mut psql = stage.psql();
    psql.args(["-c", "ALTER TABLE quiet ADD b int; CREATE TABLE fresh (id int); DROP TABLE orders"]);
    let status = tokio::task::spawn_blocking(move || psql.output().unwrap().status).await.unwrap();
    assert!(status.success());
    stage.until("true").await;
    let recording = stage.finish(&[("up.sql", silent)]).await;

    let locked = only(&recording, "public.quiet", LockMode::ShareLock);
    assert_eq!(locked.statement, "LOCK TABLE quiet IN SHARE MODE");
    // Half of what the script slept: samples bound this lock, and a busy machine takes fewer of them.
    assert!(locked.hold.low_us >= 100_000, "{locked:#?}");
    let exclusive = on(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let truncated =
        exclusive.iter().find(|record| record.statement == "TRUNCATE orders").expect("the truncation");
    assert_eq!(truncated.place.as_ref().unwrap().to_string(), "up.sql:4");
    assert!((80_000..180_000).contains(&truncated.hold.low_us), "{truncated:#?}");
    let rewrite = exclusive.iter().find(|record| record.statement.starts_with("DO ")).expect("the rewrite");
    assert!(rewrite.rewritten);
    let dropped = exclusive.iter().find(|record| record.statement == "DROP TABLE orders");
    assert!(dropped.is_some(), "{exclusive:#?}");
    let altered = on(&recording, "public.quiet", LockMode::AccessExclusiveLock);
    assert!(altered.iter().any(|record| record.statement == "ALTER TABLE quiet ADD b int"), "{altered:#?}");
    let changes: Vec<u32> =
        recording.evidence.sessions.iter().map(|session| session.schema_changes).collect();
    assert_eq!(changes, [1, 2, 2], "{:#?}", recording.evidence.sessions);
    assert_eq!(recording.evidence.trust.ddl_statements, 6);
    assert!(recording.evidence.trust.disagreements.is_empty(), "{:#?}", recording.evidence.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_in_one_transaction_has_row_lock_victims() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let package = stage
        .script("BEGIN;\nUPDATE orders SET state = 'old' WHERE id <= 500;\nSELECT pg_sleep(0.4);\nCOMMIT;\n");
    stage.until("s.state = 'active' AND s.query LIKE '%pg_sleep%' AND l.locktype = 'transactionid'").await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(stage.client("UPDATE orders SET total = 0 WHERE id = 5").await);
    }
    clients.push(stage.client("UPDATE orders SET total = 0 WHERE id = 900").await);
    stage.until_waiting(2).await;
    for client in clients {
        client.await.unwrap();
    }
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::RowExclusiveLock);
    assert_eq!(record.statement, "UPDATE orders SET state = ? WHERE id <= ?");
    let pids: std::collections::BTreeSet<u32> = record.victims.iter().map(|victim| victim.pid).collect();
    assert_eq!(pids.len(), 2, "{record:#?}");
    assert!(record.victims.iter().all(|victim| victim.mode.is_none()));
    assert!(record.victims[0].blocked_us > 100_000, "{record:#?}");
    assert_eq!(recording.evidence.sessions[0].schema_changes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_through_the_packages_address_is_its_own_whatever_its_role() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay_port = relay.local_addr().unwrap().port();
    let (server_port, source) = (stage.cluster.port, stage.address.clone());
    let relaying = tokio::spawn(async move {
        let (mut inner, _) = relay.accept().await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        let mut outer = socket.connect(([127, 0, 0, 1], server_port).into()).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
    });
    let options = stage.cluster.options(&stage.application, &stage.database).port(relay_port);
    let mut session = connect(&options).await;
    // The client's own truth: the lock was held at least from the answer to ALTER to the start of COMMIT, and at
    // most from the start of ALTER to the answer to COMMIT.
    let truth = fulldress_workloads::clock::Clock::start();
    run(&mut session, "BEGIN").await;
    let asked_us = truth.now_us();
    run(&mut session, "ALTER TABLE orders ADD COLUMN note text").await;
    let granted_us = truth.now_us();
    let client = stage.client("SELECT count(*) FROM orders").await;
    stage.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let ending_us = truth.now_us();
    run(&mut session, "COMMIT").await;
    let (at_least_us, at_most_us) = (ending_us - granted_us, truth.now_us() - asked_us);
    client.await.unwrap();
    session.close().await.unwrap();
    relaying.await.unwrap();
    let application = stage.application.clone();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(record.victims_total, 1);
    // The application's role has no statement log: notes and samples bound the hold, some milliseconds apart.
    assert!(
        record.hold.low_us <= at_most_us && record.hold.high_us >= at_least_us,
        "{at_least_us} {at_most_us} {record:#?}"
    );
    assert!(record.hold.low_us >= at_least_us / 2, "{at_least_us} {record:#?}");
    assert_eq!(recording.evidence.sessions[0].role, application);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_found_while_they_are_there() {
    let mut stage = Stage::set(Cluster::shared()).await;
    // Other tests make roles with settings in the same cluster.
    let (package, database) = (stage.package.clone(), stage.database.clone());
    let ours = |found: Vec<LockLeftover>| -> Vec<LockLeftover> {
        let about_us = |one: &LockLeftover| {
            !one.kind.ends_with("setting") || one.object.contains(&package) || one.object.contains(&database)
        };
        found.into_iter().filter(about_us).collect()
    };
    run(&mut stage.admin, "ALTER TABLE orders ADD CONSTRAINT old CHECK (id > 0) NOT VALID").await;
    assert_eq!(
        ours(stage.recorder.leftovers(Phase::Baseline).await.unwrap()).len(),
        1,
        "made after the recorder's start"
    );
    run(&mut stage.admin, "ALTER TABLE orders DROP CONSTRAINT old").await;
    assert_eq!(ours(stage.recorder.leftovers(Phase::Baseline).await.unwrap()), []);
    run(
        &mut stage.admin,
        &format!(
            "ALTER TABLE orders ADD CONSTRAINT checked CHECK (id > 0) NOT VALID; \
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch(); \
             ALTER TABLE orders DISABLE TRIGGER touched; \
             ALTER DATABASE {database} SET work_mem = '8MB'"
        ),
    )
    .await;
    let mut session = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    run(&mut session, "INSERT INTO orders VALUES (2001, 'new', 1), (2002, 'new', 1)").await;
    let failed = sqlx::raw_sql("CREATE UNIQUE INDEX CONCURRENTLY orders_twice ON orders (state)")
        .execute(&mut session)
        .await;
    assert!(failed.is_err());
    run(&mut session, "SELECT pg_advisory_lock(99)").await;
    run(&mut session, "BEGIN; SELECT 1; PREPARE TRANSACTION 'left'").await;
    run(&mut session, "BEGIN; SELECT 1").await;
    let found = ours(stage.recorder.leftovers(Phase::Upgrade).await.unwrap());
    let kinds: Vec<&str> = found.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "disabled trigger",
            "invalid index",
            "setting",
            "unvalidated constraint",
            "idle transaction",
            "advisory lock",
            "prepared transaction"
        ],
        "{found:#?}"
    );
    assert_eq!(found[0].object, "touched on public.orders");
    assert_eq!(found[1].object, "public.orders_twice");
    assert_eq!(found[2].object, format!("work_mem=8MB of database {}", stage.database));
    assert_eq!(found[3].object, "checked on public.orders");
    assert!(found[5].object.starts_with("99 held by"));
    run(&mut session, "ROLLBACK").await;
    session.close().await.unwrap();
    run(&mut stage.admin, "ROLLBACK PREPARED 'left'").await;
    let recording = stage.finish(&[]).await;
    assert_eq!(ours(recording.evidence.leftovers).len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_is_survived_and_told() {
    let mut stage = Stage::set(Arc::new(Cluster::start())).await;
    stage.script("ALTER TABLE orders ADD COLUMN note text;").await.unwrap();
    stage.cluster.restart();
    stage.admin = connect(&stage.cluster.options("postgres", &stage.database)).await;
    stage.recorder.reinstall_after_restore().await.unwrap();
    let package =
        stage.script("BEGIN; ALTER TABLE quiet ADD COLUMN note text; SELECT pg_sleep(0.3); COMMIT;");
    stage.until("l.relation = 'quiet'::regclass AND l.mode = 'AccessExclusiveLock' AND l.granted").await;
    stage.client("SELECT count(*) FROM quiet").await.await.unwrap();
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    assert_eq!(only(&recording, "public.quiet", LockMode::AccessExclusiveLock).victims_total, 1);
    assert_eq!(on(&recording, "public.orders", LockMode::AccessExclusiveLock).len(), 1);
    let trust = &recording.evidence.trust;
    assert!(trust.disagreements.iter().any(|sentence| sentence.contains("lost the server")), "{trust:#?}");
    assert!(trust.samples_taken < trust.samples_planned, "{trust:#?}");
    assert!(trust.triggers && trust.ddl_seen_twice == 2, "{trust:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_package_there_is_nothing_to_report_and_nothing_amiss() {
    let mut stage = Stage::set_with(Cluster::shared(), LogPlace::Server).await;
    let mut writer = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut writer, "BEGIN; UPDATE orders SET total = 3 WHERE id = 1").await;
    let client = stage.client("UPDATE orders SET total = 4 WHERE id = 1").await;
    stage.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    run(&mut writer, "COMMIT").await;
    client.await.unwrap();
    let recording = stage.finish(&[]).await;

    let evidence = &recording.evidence;
    assert!(evidence.records.is_empty() && evidence.sessions.is_empty(), "{evidence:#?}");
    assert_eq!(evidence.other_waits, 1, "{:#?}", recording.waits);
    assert!(evidence.trust.triggers && evidence.trust.disagreements.is_empty(), "{:#?}", evidence.trust);
}

const WRITE_ORDERS: &str = "UPDATE orders SET total = 3 WHERE id = 1";
const WRITE_QUIET: &str = "UPDATE quiet SET id = 3";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_two_tables_the_other_way_round_is_a_possible_deadlock() {
    let stage = Stage::set(Cluster::shared()).await;
    let application = stage.application.clone();
    let order = stage.two_orders(WRITE_QUIET, WRITE_ORDERS).await;
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(!cycle.fired);
    let (package, other) = (&cycle.package, &cycle.other);
    assert_eq!(
        [&package.first, &package.second, &other.first, &other.second].map(|lock| lock.relation.as_str()),
        ["public.orders", "public.quiet", "public.quiet", "public.orders"]
    );
    assert_eq!(package.second.statement.as_deref(), Some("ALTER TABLE quiet ADD x int"));
    assert_eq!(package.place.as_ref().unwrap().to_string(), "up.sql:3");
    assert_eq!(other.role, application);
    assert_eq!(other.first.statement.as_deref(), Some("UPDATE quiet SET id = ?"));
    assert_eq!((other.second.mode, cycle.transactions), (Some(LockMode::RowExclusiveLock), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_two_tables_in_the_packages_order_is_none() {
    let order = Stage::set(Cluster::shared()).await.two_orders(WRITE_ORDERS, WRITE_QUIET).await;
    assert_eq!((order.package_pairs, order.client_transactions), (1, 1), "{order:#?}");
    assert!(order.cycles.is_empty(), "{order:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_that_fired_names_both_sides() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut package = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    let mut client = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut package, "BEGIN").await;
    run(&mut package, "ALTER TABLE orders ADD x int").await;
    run(&mut client, "BEGIN").await;
    run(&mut client, WRITE_QUIET).await;
    let waiting = tokio::spawn(async move {
        let answer = sqlx::raw_sql(WRITE_ORDERS).execute(&mut client).await;
        (answer, client)
    });
    stage.until_waiting(1).await;
    let refused = sqlx::raw_sql("ALTER TABLE quiet ADD x int").execute(&mut package).await;
    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut package).await;
    let (answer, client) = waiting.await.unwrap();
    let codes: Vec<String> = [refused.err(), answer.err()]
        .into_iter()
        .flatten()
        .map(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
        .collect();
    assert_eq!(codes, ["40P01"], "one of them, and only one");
    client.close().await.unwrap();
    package.close().await.unwrap();
    let application = stage.application.clone();
    let recording = stage.finish(&[]).await;

    let order = recording.evidence.order.as_ref().unwrap();
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(cycle.fired);
    let (package, other) = (&cycle.package, &cycle.other);
    assert_eq!(
        [&package.first, &package.second, &other.first, &other.second].map(|lock| lock.relation.as_str()),
        ["public.orders", "public.quiet", "public.quiet", "public.orders"]
    );
    assert_eq!(
        (package.first.mode, other.role.as_str()),
        (Some(LockMode::AccessExclusiveLock), &*application)
    );
    assert_eq!(package.second.statement.as_deref(), Some("ALTER TABLE quiet ADD x int"));
    assert_eq!(other.second.statement.as_deref(), Some("UPDATE orders SET total = ? WHERE id = ?"));
    assert_eq!(other.second.mode, Some(LockMode::RowExclusiveLock));
}
