//! A private PostgreSQL cluster in the run folder: made, started, snapshotted, restored, cloned, stopped.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, PgConnection};

use super::{MirrorError, SUPERUSER};
use crate::process::{Child, Launch, RunFolder, Sink, User};
use rustix::process::Signal;

/// Who may connect: everyone with a password, from any loopback address. The package's sessions come from one of
/// their own.
const ACCESS: &str =
    "host all all 127.0.0.0/8 scram-sha-256\nhost replication fulldress 127.0.0.0/8 scram-sha-256\n";
/// Lines at the end of the server's log that are searched for the reason of its end.
const ALARM_LINES_MAX: usize = 200;
/// Longest that a dump with rows may take.
const DUMP_LIMIT: Duration = Duration::from_secs(3600);
/// Pause between two attempts to connect.
const CONNECT_PAUSE: Duration = Duration::from_millis(25);
/// What a server says that can listen nowhere.
const PORT_TAKEN: &str = "could not create any TCP/IP sockets";
/// Ports that are tried.
const PORTS_MAX: u32 = 5;

/// PostgreSQL's programs on this machine.
#[derive(Debug, Clone)]
pub struct Programs {
    /// Folder of `initdb` and `postgres`.
    pub folder: PathBuf,
}

impl Programs {
    /// Finds them: in the given folder, else on `PATH`, else the newest of Debian's.
    ///
    /// # Errors
    /// When there are none.
    pub fn find(given: Option<&Path>) -> Result<Self, MirrorError> {
        let complete = |folder: &Path| {
            ["initdb", "postgres", "pg_dump", "pg_basebackup"].iter().all(|name| folder.join(name).is_file())
        };
        if let Some(folder) = given {
            return if complete(folder) {
                Ok(Self { folder: folder.to_owned() })
            } else {
                let what = format!("{} has no initdb, postgres, pg_dump and pg_basebackup", folder.display());
                Err(MirrorError::new(
                    what,
                    "name the folder that has them; a plan does so in mirror.postgres",
                ))
            };
        }
        Self::folders().find(|folder| complete(folder)).map(|folder| Self { folder }).ok_or_else(|| {
            MirrorError::new(
                "no PostgreSQL was found on this machine",
                "install the package postgresql, or set mirror.postgres",
            )
        })
    }
}

impl Programs {
    /// Where programs may be, best first: the folders of `PATH`, then those of Debian's packages.
    pub(super) fn folders() -> impl Iterator<Item = PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let of_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
        of_path.into_iter().chain(debian_folders())
    }
}

/// Debian's version folders, newest first.
fn debian_folders() -> Vec<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((path.file_name()?.to_str()?.parse().ok()?, path.join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, folder)| folder).collect()
}

/// A private cluster; stopped when dropped.
pub struct Cluster {
    programs: Programs,
    folder: PathBuf,
    port: u16,
    /// Whether the server ran on its port, so that others may know it.
    has_run: bool,
    password: String,
    user: Option<User>,
    settings: BTreeMap<String, String>,
    start_limit: Duration,
    run: Arc<RunFolder>,
    child: Option<Child>,
}

impl Cluster {
    /// Makes a cluster in a new folder; it does not run yet.
    ///
    /// # Errors
    /// When `initdb` fails.
    pub async fn create(
        programs: Programs,
        run: &Arc<RunFolder>,
        name: &str,
        settings: BTreeMap<String, String>,
        start_limit: Duration,
    ) -> Result<Self, MirrorError> {
        let user = crate::process::unprivileged_user();
        let folder = run.path().join(name);
        make_folder(&folder, user.as_ref())?;
        let password = uuid();
        let password_file = folder.join("superuser");
        std::fs::write(&password_file, &password).map_err(|error| io(&password_file, &error))?;
        own(&password_file, user.as_ref())?;
        let cluster = Self {
            programs,
            folder,
            port: free_port()?,
            has_run: false,
            password,
            user,
            settings,
            start_limit,
            run: Arc::clone(run),
            child: None,
        };
        let launch = cluster
            .program("initdb")
            .args(["--username", SUPERUSER, "--auth", "scram-sha-256", "--encoding", "UTF8"])
            .args(["--locale", "C.UTF-8", "--no-sync"])
            .args([
                "--pwfile".as_ref(),
                password_file.as_os_str(),
                "--pgdata".as_ref(),
                cluster.data().as_os_str(),
            ]);
        let output = launch.output(Duration::from_secs(120)).await?;
        // The password has served its purpose; it must not lie in a folder that outlives a crash.
        let _ = std::fs::remove_file(&password_file);
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let what = format!("initdb failed: {}", last_line(&said));
            return Err(MirrorError { hint: super::disk_hint(&said), ..MirrorError::new(what, "") });
        }
        let access = cluster.data().join("pg_hba.conf");
        std::fs::write(&access, ACCESS).map_err(|error| io(&access, &error))?;
        Ok(cluster)
    }

    /// A second cluster from a snapshot, with a port and logs of its own; it does not run yet.
    ///
    /// # Errors
    /// When the snapshot cannot be copied.
    pub async fn clone_from(
        &self,
        snapshot: &Path,
        run: &Arc<RunFolder>,
        name: &str,
    ) -> Result<Self, MirrorError> {
        let folder = run.path().join(name);
        make_folder(&folder, self.user.as_ref())?;
        let clone = Self {
            programs: self.programs.clone(),
            folder,
            port: free_port()?,
            has_run: false,
            password: self.password.clone(),
            user: self.user.clone(),
            settings: self.settings.clone(),
            start_limit: self.start_limit,
            run: Arc::clone(run),
            child: None,
        };
        clone.copy(snapshot, &clone.data()).await?;
        Ok(clone)
    }

    /// Starts the server and waits until it accepts connections. The first time its port may become another one: between choice and
    /// start anybody's connection can get it.
    ///
    /// # Errors
    /// When it ends or does not accept connections in time.
    pub async fn start(&mut self) -> Result<(), MirrorError> {
        let mut started = self.try_start().await;
        for _ in 1..PORTS_MAX {
            let is_taken = started.as_ref().is_err_and(|error| error.what.contains(PORT_TAKEN));
            if self.has_run || !is_taken {
                break;
            }
            self.port = free_port()?;
            started = self.try_start().await;
        }
        self.has_run |= started.is_ok();
        started
    }

    async fn try_start(&mut self) -> Result<(), MirrorError> {
        let console = self.folder.join("console.log");
        let mut launch = self.program("postgres").args(["-D".as_ref(), self.data().as_os_str()]);
        launch = launch.args(["-p".to_owned(), self.port.to_string()]);
        for (name, value) in self.effective_settings() {
            launch = launch.args(["-c".to_owned(), format!("{name}={value}")]);
        }
        // An immediate shutdown is the right last act when the harness is killed: the data is disposable.
        launch.death_signal = Signal::QUIT;
        launch.stop_signal = Signal::INT;
        launch.stdout = Sink::File(console.clone());
        launch.stderr = Sink::File(console.clone());
        let mut child = launch.start().await?;
        // Whoever has taken the port may accept and say nothing: no attempt outlasts the server or its limit.
        let limit = tokio::time::sleep(self.start_limit);
        tokio::pin!(limit);
        let mut last = None;
        loop {
            tokio::select! {
                biased;
                _ = child.wait() => return Err(MirrorError::with_log("PostgreSQL did not start", console)),
                () = &mut limit => {
                    let limit_s = self.start_limit.as_secs();
                    let error = last.map_or(String::new(), |error: sqlx::Error| format!(": {error}"));
                    let what = format!("PostgreSQL did not accept connections within {limit_s} s{error}");
                    return Err(MirrorError::with_log(&what, console));
                }
                attempt = self.connect("postgres") => match attempt {
                    Ok(_) => break,
                    Err(error) => last = Some(error),
                },
            }
            tokio::time::sleep(CONNECT_PAUSE).await;
        }
        self.child = Some(child);
        Ok(())
    }

    /// Stops the server: fast shutdown, which ends all sessions and writes everything to disk.
    pub async fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The server is gone either way; how it ended is in its log.
            let _ = child.stop(Duration::from_secs(20)).await;
        }
    }

    /// Ends the server as a crash does: nothing is written any more.
    pub async fn crash(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A grace of zero kills the whole group at once.
            let _ = child.stop(Duration::ZERO).await;
        }
    }

    /// Removes the stopped cluster's folder with everything in it.
    ///
    /// # Errors
    /// When something of it cannot be removed.
    pub fn remove(&self) -> std::io::Result<()> {
        debug_assert!(self.child.is_none(), "a stopped cluster is removed");
        std::fs::remove_dir_all(&self.folder)
    }

    /// Whether the server ended without being asked to.
    pub async fn has_died(&mut self) -> bool {
        match self.child.as_mut() {
            Some(child) => has_ended(child).await,
            None => false,
        }
    }

    /// How the server ended, and what it said last of its own end.
    #[must_use]
    pub fn last_words(&self) -> String {
        let ended = self
            .child
            .as_ref()
            .and_then(Child::status)
            .map_or("it ended".to_owned(), |status| status.to_string());
        match last_alarm(&self.log_folder()) {
            Some(alarm) => format!("{ended}, after it said: {alarm}"),
            None => ended,
        }
    }

    /// Copies the stopped cluster's data folder; gives its size in bytes.
    ///
    /// # Errors
    /// When the copy fails.
    pub async fn snapshot(&self, to: &Path) -> Result<u64, MirrorError> {
        debug_assert!(self.child.is_none(), "a snapshot is taken of a stopped cluster");
        self.copy(&self.data(), to).await?;
        folder_size(to).map_err(|error| io(to, &error))
    }

    /// Takes a base backup of the running cluster, as a release does before it changes anything; gives its size in
    /// bytes.
    ///
    /// # Errors
    /// When `pg_basebackup` fails.
    pub async fn back_up(&self, to: &Path) -> Result<u64, MirrorError> {
        let launch = self
            .program("pg_basebackup")
            .args(["--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password", "--pgdata"])
            .args([to])
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", &self.password)
            .env("PGAPPNAME", "fulldress");
        let output = launch.output(Duration::from_secs(3600)).await?;
        if output.status.success() {
            return folder_size(to).map_err(|error| io(to, &error));
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("pg_basebackup failed: {}", last_line(&said));
        Err(MirrorError { hint: super::disk_hint(&said), ..MirrorError::new(what, "") })
    }

    /// Replaces the stopped cluster's data folder by a copy of the snapshot.
    ///
    /// # Errors
    /// When the copy fails.
    pub async fn restore(&self, from: &Path) -> Result<(), MirrorError> {
        debug_assert!(self.child.is_none(), "a stopped cluster is restored");
        std::fs::remove_dir_all(self.data()).map_err(|error| io(&self.data(), &error))?;
        self.copy(from, &self.data()).await
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<(), MirrorError> {
        let mut launch = Launch::new("cp").args(["--archive", "--reflink=auto"]);
        launch = launch.args([from, to]).recorded_in(&self.run);
        launch.user.clone_from(&self.user);
        let output = launch.output(Duration::from_secs(3600)).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("the data folder could not be copied: {}", last_line(&said));
        Err(MirrorError { hint: super::disk_hint(&said), ..MirrorError::new(what, "") })
    }

    /// How to connect as the superuser.
    #[must_use]
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(SUPERUSER)
            .password(&self.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .application_name("fulldress")
            .disable_statement_logging()
    }

    /// Connects as the superuser.
    ///
    /// # Errors
    /// When the server does not let us in.
    pub async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        self.options(database).connect().await
    }

    /// URL of a role; it carries the password and must not be logged.
    #[must_use]
    pub fn url(&self, role: &str, password: &str, database: &str) -> String {
        format!("postgres://{role}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// URL of the superuser; it carries the password and must not be logged.
    #[must_use]
    pub fn admin_url(&self, database: &str) -> String {
        self.url(SUPERUSER, &self.password, database)
    }

    /// Port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the server's own logs.
    #[must_use]
    pub fn log_folder(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The schema as `pg_dump` writes it, without the recorder's own.
    ///
    /// # Errors
    /// When `pg_dump` fails.
    pub async fn dump_schema(&self, database: &str) -> Result<String, MirrorError> {
        let launch = self.pg_dump(database).args(["--schema-only"]);
        let output = launch.output(Duration::from_secs(120)).await?;
        if output.status.success() {
            Ok(without_tokens(&String::from_utf8_lossy(&output.stdout)))
        } else {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(MirrorError::new(format!("pg_dump failed: {}", last_line(&said)), ""))
        }
    }

    /// Appends schema and rows of a database to a file, as SQL for psql; roles are not in it.
    ///
    /// # Errors
    /// When `pg_dump` fails.
    pub async fn dump_into(&self, database: &str, file: &Path) -> Result<(), MirrorError> {
        let mut launch = self.pg_dump(database);
        launch.stdout = Sink::File(file.to_owned());
        let output = crate::process::run_to_end(launch, DUMP_LIMIT).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let what = format!("pg_dump failed: {}", last_line(&said));
        Err(MirrorError { hint: super::disk_hint(&said), ..MirrorError::new(what, "") })
    }

    fn pg_dump(&self, database: &str) -> Launch {
        self.client("pg_dump", database).args(["--exclude-schema=fulldress", "--no-password"])
    }

    /// A program that connects to a database as the superuser.
    fn client(&self, name: &str, database: &str) -> Launch {
        Launch::new(self.programs.folder.join(name))
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", SUPERUSER)
            .env("PGPASSWORD", &self.password)
            .env("PGDATABASE", database)
            .env("PGAPPNAME", "fulldress")
            .recorded_in(&self.run)
    }

    /// Loads a dump of `pg_dump`, plain or not; what the programs say goes to `log`.
    ///
    /// # Errors
    /// When psql or `pg_restore` fails, or does not end in time.
    pub async fn load_dump(
        &self,
        database: &str,
        dump: &Path,
        limit: Duration,
        log: &Path,
    ) -> Result<(), MirrorError> {
        let is_plain = dump.is_file() && !starts_with(dump, b"PGDMP");
        let (name, options) = if is_plain {
            ("psql", vec!["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
        } else {
            ("pg_restore", vec!["--exit-on-error", "--no-password", "--dbname", database])
        };
        let mut launch = self.client(name, database).args(options).args([dump]);
        launch.stdout = Sink::File(log.to_owned());
        launch.stderr = Sink::File(log.to_owned());
        let output = crate::process::run_to_end(launch, limit).await?;
        if output.timed_out {
            let what = format!("the dump {} was not loaded within {} s", dump.display(), limit.as_secs());
            return Err(MirrorError::with_log(&what, log.to_owned()));
        }
        if output.status.success() {
            Ok(())
        } else {
            let what = format!("the dump {} could not be loaded", dump.display());
            let said = std::fs::read_to_string(log).unwrap_or_default();
            // What comes after it is the statement that failed, which may be long.
            let reason = said.lines().find(|line| line.to_ascii_lowercase().contains("error:"));
            Err(match reason {
                Some(reason) => MirrorError {
                    log: Some(log.to_owned()),
                    ..MirrorError::new(format!("{what}: {}", reason.trim()), "")
                },
                None => MirrorError::with_log(&what, log.to_owned()),
            })
        }
    }

    /// Folder of PostgreSQL's programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs.folder
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn program(&self, name: &str) -> Launch {
        let mut launch = Launch::new(self.programs.folder.join(name)).recorded_in(&self.run);
        launch.user.clone_from(&self.user);
        launch.cwd = Some(self.folder.clone());
        launch.env("LC_ALL", "C.UTF-8").env("TZ", "UTC")
    }

    /// The plan's settings, under those that make the cluster private and readable for the recorder.
    fn effective_settings(&self) -> BTreeMap<String, String> {
        let mut settings = self.settings.clone();
        for (name, value) in [
            ("listen_addresses", "127.0.0.1"),
            ("unix_socket_directories", ""),
            ("log_timezone", "UTC"),
            ("cluster_name", "fulldress-mirror"),
        ] {
            settings.insert(name.to_owned(), value.to_owned());
        }
        settings.insert("log_directory".to_owned(), self.log_folder().display().to_string());
        settings
    }
}

/// Whether a file begins with these bytes; `false` for one that cannot be read.
#[must_use]
pub fn starts_with(file: &Path, bytes: &[u8]) -> bool {
    use std::io::Read as _;
    let mut head = vec![0; bytes.len()];
    std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut head)).is_ok() && head == bytes
}

/// A dump without the random tokens that newer dumps carry: two dumps of one schema must be equal.
#[must_use]
pub fn without_tokens(dump: &str) -> String {
    let kept =
        dump.lines().filter(|line| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict "));
    kept.flat_map(|line| [line, "\n"]).collect()
}

/// The last line of severity PANIC or FATAL in the newest jsonlog file, without those that only tell clients to go.
fn last_alarm(folder: &Path) -> Option<String> {
    let newest = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .max()?;
    let text = std::fs::read(newest).ok()?;
    String::from_utf8_lossy(&text).lines().rev().take(ALARM_LINES_MAX).find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let severity = line.get("error_severity")?.as_str()?;
        // SQLSTATE class 57P0x: the server tells a session that it is going down.
        let state = line.get("state_code").and_then(serde_json::Value::as_str).unwrap_or_default();
        let own = severity == "PANIC" || severity == "FATAL" && !state.starts_with("57P0");
        let message = line.get("message")?.as_str()?;
        own.then(|| format!("{severity}: {message}"))
    })
}

/// Whether a child has ended by now.
pub(super) async fn has_ended(child: &mut Child) -> bool {
    child.status().is_some() || tokio::time::timeout(Duration::ZERO, child.wait()).await.is_ok()
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Errors
/// When the machine gives none.
pub fn free_port() -> Result<u16, MirrorError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| MirrorError::new(format!("no free port on 127.0.0.1: {error}"), ""))
}

fn make_folder(folder: &Path, user: Option<&User>) -> Result<(), MirrorError> {
    std::fs::create_dir(folder).map_err(|error| io(folder, &error))?;
    own(folder, user)
}

/// Gives a file or folder to the unprivileged user.
///
/// # Errors
/// When it cannot be given away.
pub fn own(path: &Path, user: Option<&User>) -> Result<(), MirrorError> {
    match user {
        Some(user) => {
            std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(|error| io(path, &error))
        }
        None => Ok(()),
    }
}

fn io(path: &Path, error: &std::io::Error) -> MirrorError {
    let text = format!("{}: {error}", path.display());
    MirrorError { hint: super::disk_hint(&text), ..MirrorError::new(text, "") }
}

fn last_line(text: &str) -> String {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}

/// Bytes of all files below a folder.
///
/// # Errors
/// When it cannot be read.
pub fn folder_size(folder: &Path) -> std::io::Result<u64> {
    let mut size = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        size += if data.is_dir() { folder_size(&entry.path())? } else { data.len() };
    }
    Ok(size)
}

/// A random password: 122 bits from the system's generator.
#[must_use]
pub fn uuid() -> String {
    format!("{:032x}", rand::random::<u128>())
}
