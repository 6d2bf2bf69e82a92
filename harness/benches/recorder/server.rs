//! A server with pgbench's tables, the package's role and a table that only the package uses.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::{Launch, RunFolder};
use fulldress::recorder::log::LogPlace;
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

/// Rows of pgbench's accounts, in units of 100,000.
const SCALE: &str = "10";

const PACKAGE: &str = "package";
const APPLICATION: &str = "application";
const DATABASE: &str = "bench";

/// What a server of a bench is set to. Without `fsync` the processors are the limit: waits for the disk would hide the
/// recorder's share of them, and are noise.
const SETTINGS: [(&str, &str); 5] = [
    ("shared_buffers", "256MB"),
    ("max_wal_size", "4GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("fsync", "off"),
];

/// A server, with the recorder's settings or without.
pub(crate) struct Server {
    pub(crate) cluster: Cluster,
    programs: PathBuf,
}

impl Server {
    pub(crate) async fn start(run: &Arc<RunFolder>, name: &str, recorded: bool) -> Self {
        let programs = Programs::find(None).unwrap();
        let needed = settings::cluster_settings();
        let needed = needed.iter().filter(|_| recorded);
        let values: BTreeMap<String, String> = SETTINGS
            .iter()
            .chain(needed)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let folder = programs.folder.clone();
        let mut cluster =
            Cluster::create(programs, run, name, values, Duration::from_secs(60)).await.unwrap();
        cluster.start().await.unwrap();
        let server = Self { cluster, programs: folder };
        let mut admin = server.admin("postgres").await;
        let roles = settings::role_statements(PACKAGE, &[APPLICATION]);
        let statements = [
            format!("CREATE ROLE {APPLICATION} LOGIN SUPERUSER PASSWORD 'bench'"),
            format!("CREATE ROLE {PACKAGE} LOGIN PASSWORD 'bench' IN ROLE {APPLICATION}"),
            format!("ALTER ROLE {PACKAGE} SET role = {APPLICATION}"),
            format!("CREATE DATABASE {DATABASE} OWNER {APPLICATION}"),
        ];
        for statement in statements.into_iter().chain(roles.into_iter().filter(|_| recorded)) {
            admin.execute(AssertSqlSafe(statement)).await.unwrap();
        }
        server.pgbench(&["--initialize", "--quiet", "--scale", SCALE]).await;
        server
    }

    async fn admin(&self, database: &str) -> PgConnection {
        self.cluster.connect(database).await.unwrap()
    }

    /// How the package connects.
    pub(crate) fn package(&self) -> PgConnectOptions {
        self.cluster.options(DATABASE).username(PACKAGE).password("bench")
    }

    /// How a client connects.
    pub(crate) fn application(&self) -> PgConnectOptions {
        self.cluster.options(DATABASE).username(APPLICATION).password("bench")
    }

    /// Runs pgbench; what it printed.
    pub(crate) async fn pgbench(&self, arguments: &[&str]) -> String {
        let launch = Launch::new(self.programs.join("pgbench"))
            .args(arguments.iter().copied())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", APPLICATION)
            .env("PGPASSWORD", "bench")
            .env("PGDATABASE", DATABASE);
        let output = launch.output(Duration::from_secs(600)).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A recorder, and the relations that were there before it.
    pub(crate) async fn recorder(&self, clock: Clock) -> (Recorder, BTreeSet<String>) {
        let preexisting = relation_names(&mut self.admin(DATABASE).await).await.unwrap();
        let log = LogPlace::Folder(self.cluster.log_folder());
        let config = RecorderConfig::new(self.cluster.options(DATABASE), log, PACKAGE, clock);
        (Recorder::start(config).await.unwrap(), preexisting)
    }
}

/// What a recorder saw, all of it in the upgrade.
pub(crate) async fn finish(recorder: Recorder, preexisting: &BTreeSet<String>, clock: Clock) -> Recording {
    let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }];
    let steps = [StepSpan { id: "bench".to_owned(), start_us: 0, end_us: clock.now_us() }];
    recorder.finish(&phases, &steps, &BTreeMap::new(), preexisting).await.unwrap()
}
