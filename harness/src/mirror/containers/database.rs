//! The database's container: reached, prepared for the recorder, watched; its copies are made in `copies`.

mod copies;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fulldress_workloads::clock::Clock;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use tokio::sync::Mutex;

use super::engine::{ContainerSpec, ExecCall, Mount, MountSource, Ran};
use super::host::labels;
use super::model::{EVIDENCE_FOLDER, EVIDENCE_VOLUME};
use super::project::Project;
use crate::mirror::cluster::uuid;
use crate::mirror::connection::{self, database_error};
use crate::mirror::dataset::identifier;
use crate::mirror::{MirrorError, SUPERUSER};
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::recorder::settings;

/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(25);
/// How long the server may take to write everything to disk and end.
const STOP_GRACE: Duration = Duration::from_secs(60);
/// Longest copy of a volume or base backup.
const COPY_LIMIT: Duration = Duration::from_secs(3600);
/// Longest call of a small program in the container.
const CALL_LIMIT: Duration = Duration::from_secs(120);
/// Pause between two looks at the container.
const WATCH_PAUSE: Duration = Duration::from_millis(300);
/// How long the engine may not answer before it counts as dead.
const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(5);

/// The database of a mirror in containers.
pub struct Database {
    project: Arc<Project>,
    run: Arc<RunFolder>,
    /// Service of the compose file.
    service: String,
    image: String,
    /// Path of the data folder in the container.
    data_folder: String,
    /// The engine's name of the volume that the data lies in, and where it is mounted.
    data_volume: String,
    data_target: String,
    evidence_volume: String,
    name: String,
    password: String,
    port: u16,
    start_limit: Duration,
    /// Whether the server is stopped on purpose; held while it is.
    stopped: Mutex<()>,
    stopping: AtomicBool,
}

/// How a [`Database`] is reached and where its data is.
pub struct Place {
    /// Image of its container.
    pub image: String,
    /// Path of the data folder in the container.
    pub data_folder: String,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Password of our superuser; a new one when absent.
    pub password: Option<String>,
}

impl Database {
    /// A database that is not yet known to run.
    ///
    /// # Errors
    /// When the model has no volume for the data.
    pub async fn new(
        plan: &Plan,
        project: &Arc<Project>,
        run: &Arc<RunFolder>,
        place: Place,
    ) -> Result<Self, MirrorError> {
        let service = plan.mirror.database.service.clone().unwrap_or_default();
        let model = project.model().await;
        let lacks = || MirrorError::new(format!("service {service} has no volume for its data"), "");
        let (volume, data_target) = model.data_mount(&service, &place.data_folder).ok_or_else(lacks)?;
        let data_volume = model.volume_name(&volume).ok_or_else(lacks)?.to_owned();
        let evidence_volume = model.volume_name(EVIDENCE_VOLUME).ok_or_else(lacks)?.to_owned();
        drop(model);
        Ok(Self {
            project: Arc::clone(project),
            run: Arc::clone(run),
            service,
            image: place.image,
            data_folder: place.data_folder,
            data_volume,
            data_target,
            evidence_volume,
            name: plan.mirror.database.name.clone(),
            password: place.password.unwrap_or_else(uuid),
            port: place.port,
            start_limit: Duration::from_secs(plan.mirror.start_timeout_s),
            stopped: Mutex::default(),
            stopping: AtomicBool::new(false),
        })
    }

    /// How our superuser reaches a database.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        self.options_of(SUPERUSER, &self.password, database)
    }

    fn options_of(&self, role: &str, password: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(role)
            .password(password)
            .database(database)
            .ssl_mode(PgSslMode::Prefer)
            .application_name("fulldress")
            .disable_statement_logging()
    }

    /// URL of a role on this machine; it carries the password and must not be logged.
    #[must_use]
    pub fn url(&self, role: &str, password: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// URL of our superuser; it carries the password and must not be logged.
    #[must_use]
    pub fn admin_url(&self) -> String {
        self.url(SUPERUSER, &self.password)
    }

    /// Password of our superuser.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// Connects to the plan's database; waits while the server is stopped on purpose, and while it recovers.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn connect(&self) -> Result<PgConnection, MirrorError> {
        let _running = self.stopped.lock().await;
        connection::connect(&self.options(&self.name), self.start_limit).await
    }

    /// Makes our superuser and the plan's database through the image's own superuser, and gives the server the settings
    /// that the recorder needs. Says whether some of them hold only from the next start.
    ///
    /// # Errors
    /// When the image's superuser is not let in, or a setting is refused.
    pub async fn prepare(&self, plan: &Plan) -> Result<bool, MirrorError> {
        let (role, password) = self.image_superuser(plan).await?;
        let options = self.options_of(&role, &password, "postgres");
        let mut connection = self.await_connection(&options).await?;
        let known = "SELECT count(*) > 0 FROM pg_database WHERE datname = $1";
        let known: bool = sqlx::query_scalar(known)
            .bind(&self.name)
            .fetch_one(&mut connection)
            .await
            .map_err(|error| database_error("cannot be read", &error))?;
        let mut statements = vec![
            format!("DROP ROLE IF EXISTS {SUPERUSER}"),
            format!("CREATE ROLE {SUPERUSER} LOGIN SUPERUSER REPLICATION PASSWORD '{}'", self.password),
        ];
        if !known {
            statements.push(format!("CREATE DATABASE {}", identifier(&self.name)));
        }
        let mut wanted = plan.mirror.database.settings.clone();
        wanted.extend(
            settings::cluster_settings().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        wanted.insert("log_directory".to_owned(), format!("{EVIDENCE_FOLDER}/log"));
        for (name, value) in wanted {
            statements.push(format!("ALTER SYSTEM SET {name} = '{}'", value.replace('\'', "''")));
        }
        for statement in statements {
            connection
                .execute(AssertSqlSafe(statement))
                .await
                .map_err(|error| database_error("cannot be prepared", &error))?;
        }
        self.make_folders().await?;
        let pending = self
            .reload(&mut connection)
            .await
            .map_err(|error| database_error("did not take the recorder's settings", &error));
        // The image's superuser may be an application's role too; its sessions are not ours.
        let _closed = connection.close().await;
        pending
    }

    /// Lets the server read its settings again; whether some wait for a start.
    async fn reload(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        connection.execute("SELECT pg_reload_conf()").await?;
        let clock = Clock::start();
        let limit_us = u64::try_from(self.start_limit.as_micros()).unwrap_or(u64::MAX);
        // A session reads them when the postmaster has told it to.
        let log_folder = format!("{EVIDENCE_FOLDER}/log");
        while sqlx::query_scalar::<_, String>("SHOW log_directory").fetch_one(&mut *connection).await?
            != log_folder
        {
            if clock.now_us() > limit_us {
                return Ok(true);
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        sqlx::query_scalar("SELECT count(*) > 0 FROM pg_settings WHERE pending_restart")
            .fetch_one(connection)
            .await
    }

    /// The log's and the backup's folders belong to the server's user.
    async fn make_folders(&self) -> Result<(), MirrorError> {
        let script = "mkdir -p /fulldress/log /fulldress/backup /fulldress/snapshot && chmod 700 /fulldress/* && \
                      chown \"$(stat -c %u:%g \"$1\")\" /fulldress /fulldress/*";
        self.exec_shell("prepare its folders", script, Some("0"), &[], &[]).await.map(drop)
    }

    async fn image_superuser(&self, plan: &Plan) -> Result<(String, String), MirrorError> {
        let model = self.project.model().await;
        // Compose doubles a dollar sign so that its own output can be read again.
        let variable = |name: &str| model.variable(&self.service, name).map(|value| value.replace("$$", "$"));
        let database = &plan.mirror.database;
        let role =
            database.superuser.clone().or_else(|| variable("POSTGRES_USER")).unwrap_or("postgres".into());
        let password = database.superuser_password.clone().or_else(|| variable("POSTGRES_PASSWORD"));
        let password = password.or_else(|| variable("POSTGRES_HOST_AUTH_METHOD").map(|_| String::new()));
        password.map(|password| (role, password)).ok_or_else(|| {
            MirrorError::new(
                format!("the superuser's password of service {} is not known", self.service),
                "set POSTGRES_PASSWORD in the compose file, or mirror.database.superuser_password in the plan",
            )
        })
    }

    /// Connects as soon as the server lets us in.
    async fn await_connection(&self, options: &PgConnectOptions) -> Result<PgConnection, MirrorError> {
        let clock = Clock::start();
        let limit_us = u64::try_from(self.start_limit.as_micros()).unwrap_or(u64::MAX);
        loop {
            let error = match options.connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => error,
            };
            let refused = error.as_database_error().and_then(|error| error.code());
            // 57P03: it is starting. Class 28: it will not let us in however long we wait.
            let hopeless = refused.is_some_and(|code| code.starts_with("28") || code.starts_with("3D"));
            let container = self.project.container(&self.service).await?;
            let ended = container.state != "running";
            if ended || hopeless || clock.now_us() > limit_us {
                let log = self.project.last_lines(&container.id).await;
                let what = format!(
                    "service {} did not accept connections within {} s ({error}): {log}",
                    self.service,
                    self.start_limit.as_secs()
                );
                return Err(MirrorError::new(what, ""));
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
    }

    /// Starts the stopped server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it does not.
    async fn start(&self) -> Result<(), MirrorError> {
        let container = self.project.container(&self.service).await?;
        self.project.engine().start(&container.id).await?;
        let connection = self.await_connection(&self.options(&self.name)).await?;
        drop(connection);
        self.stopping.store(false, Ordering::Release);
        Ok(())
    }

    async fn stop(&self) -> Result<(), MirrorError> {
        self.stopping.store(true, Ordering::Release);
        let container = self.project.container(&self.service).await?;
        self.project.engine().stop(&container.id, STOP_GRACE).await
    }

    /// Waits until a started server accepts connections.
    ///
    /// # Errors
    /// When it does not.
    pub async fn await_ready(&self) -> Result<(), MirrorError> {
        self.await_connection(&self.options(&self.name)).await.map(drop)
    }

    fn labels(&self) -> Vec<(String, String)> {
        labels(&self.run, self.project.name())
    }

    /// The schema as `pg_dump` writes it, without the recorder's own.
    ///
    /// # Errors
    /// When `pg_dump` fails.
    pub async fn dump_schema(&self) -> Result<String, MirrorError> {
        let environment = [
            ("PGHOST", "127.0.0.1"),
            ("PGUSER", SUPERUSER),
            ("PGPASSWORD", &self.password),
            ("PGDATABASE", &self.name),
            ("PGAPPNAME", "fulldress"),
        ];
        let script = "exec pg_dump --schema-only --exclude-schema=fulldress --no-password";
        let text = self.exec_shell("dump the schema", script, None, &environment, &[]).await?;
        Ok(crate::mirror::cluster::without_tokens(&text))
    }

    /// Loads a dump that the server's own programs wrote.
    ///
    /// # Errors
    /// When psql or `pg_restore` fails.
    pub async fn load_dump(&self, dump: &std::path::Path, limit: Duration) -> Result<(), MirrorError> {
        let is_plain = dump.is_file() && !crate::mirror::cluster::starts_with(dump, b"PGDMP");
        let script = if is_plain {
            "exec psql -X -q -v ON_ERROR_STOP=1 -f /dump"
        } else {
            "exec pg_restore --exit-on-error --no-password --dbname \"$PGDATABASE\" /dump"
        };
        let network = self.network().await?;
        let spec = ContainerSpec {
            name: format!("{}-load-{}", self.project.name(), uuid()),
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".into(), "-c".into(), script.into()]),
            user: Some("0".into()),
            network: Some(network),
            mounts: vec![Mount {
                source: MountSource::Bind(dump.display().to_string()),
                target: "/dump".into(),
                read_only: true,
            }],
            environment: [
                ("PGHOST", self.service.as_str()),
                ("PGUSER", SUPERUSER),
                ("PGPASSWORD", &self.password),
                ("PGDATABASE", &self.name),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            labels: self.labels(),
            ..ContainerSpec::default()
        };
        let ran = self.project.engine().run_once(&spec, limit).await?;
        self.judge(&format!("load the dump {}", dump.display()), ran).map(drop)
    }

    /// The engine's name of a network that the database is in.
    ///
    /// # Errors
    /// When it is in none.
    pub async fn network(&self) -> Result<String, MirrorError> {
        let model = self.project.model().await;
        let network = model.networks(&self.service).into_iter().next();
        network.and_then(|network| model.network_name(&network).map(str::to_owned)).ok_or_else(|| {
            MirrorError::new(format!("service {} of the compose file is in no network", self.service), "")
        })
    }

    /// Runs a shell script in the container; `$1` is the data folder, the arguments follow.
    async fn exec_shell(
        &self,
        what: &str,
        script: &str,
        user: Option<&str>,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<String, MirrorError> {
        let container = self.project.container(&self.service).await?;
        let call = ExecCall {
            command: ["sh", "-euc", script, "fulldress", &self.data_folder]
                .into_iter()
                .chain(arguments.iter().copied())
                .map(str::to_owned)
                .collect(),
            environment: environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            user: user.map(str::to_owned),
            ..ExecCall::default()
        };
        let limit = if what.contains("backup") { COPY_LIMIT } else { CALL_LIMIT };
        let ran = self.project.engine().exec(&container.id, &call, limit).await?;
        self.judge(what, ran)
    }

    fn judge(&self, what: &str, ran: Ran) -> Result<String, MirrorError> {
        if ran.code == 0 && !ran.timed_out {
            return Ok(String::from_utf8_lossy(&ran.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        let why = if ran.timed_out { "it did not end in time".to_owned() } else { last.trim().to_owned() };
        let what = format!("service {} failed to {what}: {why}", self.service);
        Err(MirrorError { hint: crate::mirror::disk_hint(&said), ..MirrorError::new(what, "") })
    }

    /// Waits until the server ends without being asked to, or the engine does not answer any more.
    pub async fn died(&self) -> String {
        let clock = Clock::start();
        let mut answered_us = clock.now_us();
        loop {
            if !self.stopping.load(Ordering::Acquire) {
                match self.look().await {
                    Ok(None) => answered_us = clock.now_us(),
                    Ok(Some(ended)) if !self.stopping.load(Ordering::Acquire) => return ended,
                    Ok(Some(_)) => {}
                    Err(error) => {
                        let silent = Duration::from_micros(clock.now_us() - answered_us);
                        if silent > ENGINE_SILENCE_MAX {
                            return format!("the container engine stopped answering: {error}");
                        }
                    }
                }
            }
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }

    /// How the container ended; none while it runs.
    async fn look(&self) -> Result<Option<String>, MirrorError> {
        let container = self.project.container(&self.service).await?;
        if container.state == "running" {
            return Ok(None);
        }
        let facts = self.project.engine().inspect(&container.id).await?;
        let code = facts.exit_code.unwrap_or_default();
        let memory = if facts.out_of_memory { ", out of memory" } else { "" };
        let said = self.project.engine().logs(&container.id, Some(20)).await.unwrap_or_default();
        let alarm = said.lines().rev().find(|line| line.contains("PANIC:") || line.contains("FATAL:"));
        let alarm = match alarm {
            Some(alarm) => Some(alarm.trim().to_owned()),
            None => self.last_alarm().await,
        };
        let said = alarm.map(|alarm| format!(", after it said: {alarm}")).unwrap_or_default();
        Ok(Some(format!(
            "PostgreSQL died by itself: its container ended with exit code {code}{memory}{said}"
        )))
    }

    /// A failure with the server's own last alarm where the disk explains it: whoever spoke to a server whose disk is full
    /// knows only that the connection broke.
    pub async fn explain(&self, error: MirrorError) -> MirrorError {
        let alarm = self.last_alarm().await.unwrap_or_default();
        if crate::mirror::disk_hint(&alarm).is_none() {
            return error;
        }
        let hint = "the disk is full: free some where the container engine keeps its volumes";
        MirrorError::new(format!("{}; PostgreSQL said: {alarm}", error.what), hint)
    }

    /// The last message of the server's log that tells of its end or of a full disk; the server may be gone.
    async fn last_alarm(&self) -> Option<String> {
        let script = "cat /fulldress/log/*.json 2>/dev/null | \
                      grep -E '\"error_severity\":\"(PANIC|FATAL)\"|No space left on device' | tail -n 1";
        let line = self.beside("read its log", script, &[]).await.ok()?;
        let line: serde_json::Value = serde_json::from_str(line.trim()).ok()?;
        line.get("message")?.as_str().map(str::to_owned)
    }

    /// Says that the server will be stopped on purpose.
    pub fn expect_end(&self) {
        self.stopping.store(true, Ordering::Release);
    }
}
