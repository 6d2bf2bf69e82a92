//! A PostgreSQL of one test with a hot table, an application's role, a package's role, and a recorder on it.

#[path = "versions.rs"]
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::mirror::{PACKAGE_ROLE, SUPERUSER};
use fulldress::process::RunFolder;
use fulldress::recorder::log::LogPlace;
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use tokio::task::JoinHandle;

/// Longest that a test waits for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The application's role.
pub(crate) const APPLICATION: &str = "shop";
/// Password of every role.
pub(crate) const PASSWORD: &str = "of-a-test";

pub(crate) struct Server {
    pub(crate) cluster: Cluster,
    pub(crate) clock: Clock,
    pub(crate) preexisting: BTreeSet<String>,
    _run: Arc<RunFolder>,
    _state: tempfile::TempDir,
}

/// Plays a test on every version of PostgreSQL that this machine has, one after the other; it gets the programs' folder.
pub(crate) async fn on_each_version(test: impl AsyncFn(&Path)) {
    for (version, postgres) in versions::versions() {
        println!("on PostgreSQL {version}");
        test(&postgres).await;
    }
}

impl Server {
    /// Starts one from PostgreSQL's programs in a folder.
    pub(crate) async fn start(postgres: &Path) -> Self {
        let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let mut all: BTreeMap<String, String> = settings::cluster_settings()
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        all.insert("fsync".into(), "off".into());
        all.insert("autovacuum".into(), "off".into());
        let programs = Programs::find(Some(postgres)).unwrap();
        let mut cluster = Cluster::create(programs, &run, "server", all, PATIENCE).await.unwrap();
        cluster.start().await.unwrap();
        let mut server =
            Self { cluster, clock: Clock::start(), preexisting: BTreeSet::new(), _run: run, _state: state };
        let mut admin = server.admin().await;
        execute(
            &mut admin,
            &format!(
                "CREATE ROLE {APPLICATION} LOGIN PASSWORD '{PASSWORD}'; \
                 CREATE ROLE {PACKAGE_ROLE} LOGIN PASSWORD '{PASSWORD}' IN ROLE {APPLICATION}; \
                 ALTER ROLE {PACKAGE_ROLE} SET role = '{APPLICATION}'; \
                 CREATE TABLE orders (id int PRIMARY KEY, state text, total int); \
                 INSERT INTO orders SELECT g, 'new', g FROM generate_series(1, 1000) AS g; \
                 ALTER TABLE orders OWNER TO {APPLICATION}; GRANT CREATE ON SCHEMA public TO {APPLICATION}"
            ),
        )
        .await;
        for statement in settings::role_statements(PACKAGE_ROLE, &[APPLICATION]) {
            execute(&mut admin, &statement).await;
        }
        server.preexisting = relation_names(&mut admin).await.unwrap();
        server
    }

    pub(crate) fn options(&self, role: &str) -> PgConnectOptions {
        self.cluster.options("postgres").username(role).password(PASSWORD)
    }

    pub(crate) async fn admin(&self) -> PgConnection {
        connect(&self.cluster.options("postgres")).await
    }

    pub(crate) fn config(&self) -> RecorderConfig {
        let log = LogPlace::Folder(self.cluster.log_folder());
        RecorderConfig::new(self.cluster.options("postgres"), log, PACKAGE_ROLE, self.clock)
            .with_own_role(SUPERUSER)
    }

    /// A recorder at its fast pace.
    pub(crate) async fn recorder(&self, config: RecorderConfig) -> Recorder {
        let recorder = Recorder::start(config).await.unwrap();
        recorder.fast(true);
        recorder
    }

    /// Runs statements as a role in a session of its own, beside the test.
    pub(crate) async fn beside(&self, role: &str, sql: &'static str) -> JoinHandle<Result<(), sqlx::Error>> {
        let mut connection = connect(&self.options(role)).await;
        tokio::spawn(async move { sqlx::raw_sql(sql).execute(&mut connection).await.map(drop) })
    }

    /// What was recorded, all of it in the upgrade.
    pub(crate) async fn finish(&self, recorder: Recorder) -> Recording {
        let now_us = self.clock.now_us();
        let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }];
        let steps = [StepSpan { id: "step".to_owned(), start_us: 0, end_us: now_us }];
        recorder.finish(&phases, &steps, &BTreeMap::new(), &self.preexisting).await.unwrap()
    }
}

/// Connects as soon as the server lets us in.
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

pub(crate) async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.expect(sql);
}

/// Waits until a query, whose answer is one boolean, says yes.
pub(crate) async fn until(connection: &mut PgConnection, query: &str) {
    let reached = async {
        while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut *connection)
            .await
            .expect(query)
        {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reached).await.expect(query);
}
