//! A database of a test's own, its two roles, and a recorder beside them.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use fulldress::recorder::log::LogPlace;
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::lock::{LockMode, LockOrder, LockRecord};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::cluster::{BIN, Cluster, command};

/// Longest that a test waits for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A database with a hot table, an application's role, a package's role and a recorder.
pub(crate) struct Stage {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) database: String,
    pub(crate) package: String,
    pub(crate) application: String,
    pub(crate) clock: Clock,
    pub(crate) recorder: Recorder,
    pub(crate) admin: PgConnection,
    pub(crate) preexisting: std::collections::BTreeSet<String>,
    pub(crate) address: String,
}

impl Stage {
    pub(crate) async fn set(cluster: Arc<Cluster>) -> Self {
        let log = LogPlace::Folder(cluster.data.join("log"));
        Self::set_with(cluster, log).await
    }

    pub(crate) async fn set_with(cluster: Arc<Cluster>, log: LogPlace) -> Self {
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

    pub(crate) fn psql(&self) -> std::process::Command {
        let mut psql = command(&format!("{BIN}/psql"));
        let target = format!(
            "host=127.0.0.1 port={} user={} dbname={} application_name=step-one",
            self.cluster.port, self.package, self.database
        );
        psql.args(["-X", "-q", "-A", "-t", "-d", &target]).stdin(Stdio::null()).stderr(Stdio::piped());
        psql
    }

    /// Runs a script with psql as the package; hands out what it printed, one line each.
    pub(crate) fn script(&self, sql: &str) -> tokio::task::JoinHandle<Vec<String>> {
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
    pub(crate) async fn client(&self, sql: &'static str) -> tokio::task::JoinHandle<u64> {
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

    pub(crate) async fn until(&mut self, condition: &str) {
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

    pub(crate) async fn until_waiting(&mut self, waiters: u32) {
        let others = waiters - 1;
        let condition = format!(
            "NOT l.granted AND (SELECT count(*) FROM pg_locks AS m JOIN pg_stat_activity AS t USING (pid) \
             WHERE NOT m.granted AND t.datname = current_database()) > {others}"
        );
        self.until(&condition).await;
    }

    /// Waits until a sample that began after now has ended; at the slow pace each one lists what clients hold. Two of what
    /// the activity view shows as one: the first may be the preparation of the sampler's statement, and no sample.
    pub(crate) async fn until_looked(&mut self) {
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

    pub(crate) async fn until_counted(&mut self, sql: &str) {
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
    pub(crate) async fn two_orders(mut self, first: &str, second: &str) -> LockOrder {
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

    pub(crate) async fn finish(self, files: &[(&str, &str)]) -> Recording {
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

pub(crate) async fn connect(options: &PgConnectOptions) -> PgConnection {
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

pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect(sql);
}

pub(crate) fn on<'r>(recording: &'r Recording, relation: &str, mode: LockMode) -> Vec<&'r LockRecord> {
    let records = recording.evidence.records.iter();
    records.filter(|record| record.relation == relation && record.mode == mode).collect()
}

pub(crate) fn only<'r>(recording: &'r Recording, relation: &str, mode: LockMode) -> &'r LockRecord {
    let found = on(recording, relation, mode);
    assert_eq!(found.len(), 1, "{relation} {mode:?} in {:#?}", recording.evidence.records);
    found[0]
}
