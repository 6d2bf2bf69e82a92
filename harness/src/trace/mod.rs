//! `fulldress trace`: the exact locks of a script, statement by statement, as the server's own lock table has them.
//!
//! Two sessions: the migrator's runs the script, the observer's looks at what that one holds after each statement, while
//! the transaction is open. Statements that cannot run inside a transaction are made to wait where they can be read
//! ([`stops`]). Nothing is derived from the text of a statement but the locks on indexes that [`companions`] names.

mod companions;
mod observer;
mod run;
pub(crate) mod script;
mod stops;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::hazard;
use fulldress_reports::trace::{SCHEMA, Script, Trace, Transactions};
use percent_encoding::percent_decode_str;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};

use crate::lint::lint;
use crate::mirror::cluster::{Cluster, Programs, own, uuid};
use crate::mirror::{MirrorError, PACKAGE_ROLE, SUPERUSER};
use crate::process::{Launch, RunFolder};
pub use run::TraceError;
use run::{Run, Runner, Seen};
pub use script::ScriptError;
use script::{Class, Statement};

/// Time limit of the setup.
const SETUP_LIMIT: Duration = Duration::from_secs(3600);
/// How often a server whose sessions were lost is looked at, and the pause between two looks.
const DEATH_LOOKS: u32 = 50;
const DEATH_PAUSE: Duration = Duration::from_millis(20);
/// The database that scripts run on, the copy for one script, and the copy in which statements are looked at alone.
const DATABASE: &str = "fulldress_trace";
const COPY: &str = "fulldress_trace_copy";
/// Owner of everything, and the role that loads the setups.
pub(crate) const OWNER: &str = "fulldress_owner";
pub(crate) const SETUP: &str = "fulldress_setup";
const ALONE: &str = "fulldress_trace_alone";

/// A script as it was read.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the caller named it.
    pub file: String,
    /// Its text.
    pub text: String,
}

/// Why there is no trace.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A script that is not only SQL.
    #[error("{file}, {source}")]
    Script {
        /// The script.
        file: String,
        /// What is wrong.
        source: ScriptError,
    },
    /// The setup failed.
    #[error("the setup {file} failed: {said}; correct it, or name it without --setup")]
    Setup {
        /// The setup.
        file: String,
        /// What psql said.
        said: String,
    },
    /// The given database cannot be used.
    #[error("{what}; {hint}")]
    Database {
        /// What is wrong.
        what: String,
        /// What to do.
        hint: &'static str,
    },
    /// The embedded server failed.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The database could not be observed.
    #[error(transparent)]
    Observe(#[from] TraceError),
    /// The database was lost in the middle.
    #[error("{what}; the trace ends there")]
    Lost {
        /// What happened.
        what: String,
        /// What was seen until then.
        trace: Box<Trace>,
    },
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        TraceError(error).into()
    }
}

/// What is traced, and how.
#[derive(Debug, Default)]
pub struct Request {
    /// Files for psql that make what production has; run in order.
    pub setups: Vec<Source>,
    /// Run in order, each on what the ones before left.
    pub scripts: Vec<Source>,
    /// Each statement is a transaction of its own.
    pub autocommit: bool,
    /// Each script runs on what the setups left, and not on what the scripts before it left.
    pub independent: bool,
    /// Scripts run as a superuser, who can also read files and run programs as the server's user.
    pub superuser: bool,
    /// Folder of PostgreSQL's programs, else the machine's newest.
    pub postgres: Option<PathBuf>,
}

/// Scripts that were read, with how they will be wrapped.
struct Prepared<'request> {
    source: &'request Source,
    statements: Vec<Statement>,
    transactions: Transactions,
}

fn prepare(request: &Request) -> Result<Vec<Prepared<'_>>, Error> {
    let mut all = Vec::new();
    for source in &request.scripts {
        let statements = script::read(&source.text)
            .map_err(|error| Error::Script { file: source.file.clone(), source: error })?;
        let transactions = script::transactions(&statements, request.autocommit);
        all.push(Prepared { source, statements, transactions });
    }
    Ok(all)
}

/// Traces on an embedded PostgreSQL that is made for it in the run folder.
///
/// # Errors
/// A script or a setup that cannot be run, a machine without PostgreSQL. A statement that the server refuses is part of
/// the trace and no error.
pub async fn embedded(request: &Request, run: &Arc<RunFolder>) -> Result<Trace, Error> {
    let scripts = prepare(request)?;
    let programs = Programs::find(request.postgres.as_deref())?;
    let psql = Some(programs.folder.join("psql")).filter(|path| path.is_file());
    // Nobody else works here; what autovacuum locks would be taken for the script's.
    let settings = BTreeMap::from([
        ("autovacuum".to_owned(), "off".to_owned()),
        ("fsync".to_owned(), "off".to_owned()),
        ("max_prepared_transactions".to_owned(), "10".to_owned()),
        ("wal_level".to_owned(), "logical".to_owned()),
    ]);
    let mut cluster = Cluster::create(programs, run, "trace", settings, Duration::from_secs(60)).await?;
    cluster.start().await?;
    let traced = on_cluster(request, &scripts, &cluster, psql.as_deref(), run).await;
    let traced = match annotated(request, traced) {
        Err(Error::Lost { trace, .. }) if dies(&mut cluster).await => {
            let what = format!("PostgreSQL died while the scripts ran: {}", cluster.last_words());
            Err(Error::Lost { what, trace })
        }
        traced => traced,
    };
    cluster.stop().await;
    traced
}

/// Whether the server is gone; its sessions end a moment before it does.
async fn dies(cluster: &mut Cluster) -> bool {
    for _ in 0..DEATH_LOOKS {
        if cluster.has_died().await {
            return true;
        }
        tokio::time::sleep(DEATH_PAUSE).await;
    }
    false
}

async fn on_cluster(
    request: &Request,
    scripts: &[Prepared<'_>],
    cluster: &Cluster,
    psql: Option<&Path>,
    run: &Arc<RunFolder>,
) -> Result<Trace, Error> {
    let mut admin = cluster.connect("postgres").await?;
    let password = uuid();
    for statement in [
        format!("CREATE ROLE {OWNER} NOLOGIN CREATEDB CREATEROLE"),
        format!("CREATE ROLE {PACKAGE_ROLE} LOGIN PASSWORD '{password}' IN ROLE {OWNER}"),
        format!("CREATE ROLE {SETUP} LOGIN SUPERUSER PASSWORD '{password}'"),
        format!("CREATE DATABASE {DATABASE} OWNER {OWNER}"),
        // Objects belong to the owner while the session stays the migrator's. A superuser stays one.
        if request.superuser {
            format!("ALTER ROLE {PACKAGE_ROLE} SUPERUSER")
        } else {
            format!("ALTER ROLE {PACKAGE_ROLE} SET role = {OWNER}")
        },
    ] {
        admin.execute(sqlx::AssertSqlSafe(statement)).await?;
    }
    let as_setup = cluster.options(DATABASE).username(SETUP).password(&password);
    for setup in &request.setups {
        load(setup, &as_setup, Some(&password), psql, run).await?;
    }
    hand_over(&cluster.options(DATABASE)).await?;
    let mut trace = empty(&mut admin).await?;
    let ground = Ground { independent: request.independent, cluster, password: &password };
    for script in scripts {
        if let Err(lost) = ground.script(script, &mut admin, &mut trace.scripts).await {
            return Err(Error::Lost { what: lost.to_string(), trace: Box::new(trace) });
        }
    }
    Ok(trace)
}

/// Where the scripts of an embedded trace run.
struct Ground<'cluster> {
    independent: bool,
    cluster: &'cluster Cluster,
    password: &'cluster str,
}

impl Ground<'_> {
    /// Runs one script; what was seen of it is kept also when the database is lost.
    async fn script(
        &self,
        script: &Prepared<'_>,
        admin: &mut PgConnection,
        into: &mut Vec<Script>,
    ) -> Result<(), TraceError> {
        let database = if self.independent { COPY } else { DATABASE };
        if self.independent {
            copy(admin, COPY).await?;
        }
        let again = match wants_a_look_alone(script) {
            true => self.alone(script, admin).await?,
            false => Run { seen: Vec::new(), lost: None },
        };
        if let Some(lost) = again.lost {
            into.push(finish(script, again.seen));
            return Err(lost);
        }
        let mut runner = self.runner(database).await?;
        let Run { mut seen, lost } = runner.run(&script.statements, script.transactions).await;
        for (seen, alone) in seen.iter_mut().zip(&again.seen) {
            seen.add_taken_again(alone);
        }
        into.push(finish(script, seen));
        if let Some(lost) = lost {
            return Err(lost);
        }
        runner.close().await?;
        if self.independent {
            remove(admin, COPY).await?;
        }
        Ok(())
    }

    /// Runs a script statement by statement on a copy of the database.
    async fn alone(&self, script: &Prepared<'_>, admin: &mut PgConnection) -> Result<Run, TraceError> {
        copy(admin, ALONE).await?;
        let mut runner = self.runner(ALONE).await?;
        let run = runner.run(&script.statements, Transactions::Statement).await;
        if run.lost.is_none() {
            runner.close().await?;
            remove(admin, ALONE).await?;
        }
        Ok(run)
    }

    async fn runner(&self, database: &str) -> Result<Runner, TraceError> {
        let observer = self.cluster.options(database);
        let migrator = observer.clone().username(PACKAGE_ROLE).password(self.password);
        Runner::start(&migrator, &observer).await
    }
}

/// Gives what the setups made to the migrator, and makes that a member of the roles that they made.
pub(crate) async fn hand_over(database: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let mut connection = database.clone().connect().await?;
    let reassign = format!("REASSIGN OWNED BY {SETUP} TO {OWNER}");
    connection.execute(sqlx::AssertSqlSafe(reassign)).await?;
    let roles: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(rolname) FROM pg_catalog.pg_roles \
         WHERE rolname !~ '^pg_' AND rolname NOT IN ($1, $2, $3, $4) AND NOT rolsuper",
    )
    .bind(SUPERUSER)
    .bind(SETUP)
    .bind(OWNER)
    .bind(PACKAGE_ROLE)
    .fetch_all(&mut connection)
    .await?;
    for role in roles {
        let grant = format!("GRANT {role} TO {OWNER}");
        connection.execute(sqlx::AssertSqlSafe(grant)).await?;
    }
    // A session that lingers would keep the database from being copied.
    connection.close().await
}

/// Whether statements of one transaction may ask again for locks that it has: the lock table does not show that. A file
/// that goes back to a savepoint has no meaning statement by statement.
fn wants_a_look_alone(script: &Prepared<'_>) -> bool {
    let goes_back = script.statements.iter().any(|statement| {
        statement.class == Class::Savepoint || statement.is("ROLLBACK") || statement.is("ABORT")
    });
    // A copy costs more than most scripts: none where each statement has its transaction to itself.
    let mut open = script.transactions == Transactions::File;
    let mut beside = 0;
    let mut most = 0;
    for statement in &script.statements {
        match statement.class {
            Class::Begin => (open, beside) = (true, 0),
            Class::End => open = false,
            Class::Plain if open => beside += 1,
            _ => {}
        }
        most = most.max(beside);
    }
    most > 1 && !goes_back
}

/// A copy of the scripts' database as it is now; nobody may be connected to that.
async fn copy(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let copy = format!("CREATE DATABASE {name} TEMPLATE {DATABASE} OWNER {OWNER}");
    admin.execute(sqlx::AssertSqlSafe(copy)).await.map(drop)
}

async fn remove(admin: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let remove = format!("DROP DATABASE {name} WITH (FORCE)");
    admin.execute(sqlx::AssertSqlSafe(remove)).await.map(drop)
}

fn finish(script: &Prepared<'_>, seen: Vec<Seen>) -> Script {
    let traced = script.statements.iter().zip(seen).enumerate();
    let statements = traced.map(|(index, (statement, seen))| seen.traced(index + 1, statement)).collect();
    Script { file: script.source.file.clone(), transactions: script.transactions, statements }
}

/// A trace of this server without scripts yet.
async fn empty(connection: &mut PgConnection) -> Result<Trace, sqlx::Error> {
    let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(connection).await?;
    // Distributions add their own word behind the number.
    let server_version = version.split_whitespace().next().unwrap_or_default().to_owned();
    Ok(Trace { schema: SCHEMA.to_owned(), server_version, scripts: Vec::new() })
}

/// Adds the hazards to what was traced, also where the database was lost.
fn annotated(request: &Request, traced: Result<Trace, Error>) -> Result<Trace, Error> {
    let annotate = |trace: &mut Trace| {
        hazard::annotate(&mut trace.scripts, !request.independent);
        for (script, source) in trace.scripts.iter_mut().zip(&request.scripts) {
            annotate_unrun(script, &source.text);
        }
    };
    match traced {
        Ok(mut trace) => {
            annotate(&mut trace);
            Ok(trace)
        }
        Err(Error::Lost { what, mut trace }) => {
            annotate(&mut trace);
            Err(Error::Lost { what, trace })
        }
        refused => refused,
    }
}

/// Statements that did not run have nothing measured: what their text states is better than nothing. Elsewhere what was
/// measured stands alone.
fn annotate_unrun(script: &mut Script, text: &str) {
    let unrun = |statement: &fulldress_reports::trace::Statement| {
        statement.unobserved.as_deref() == Some(run::NOT_RUN)
    };
    if !script.statements.iter().any(unrun) {
        return;
    }
    for found in lint(text).found {
        // A finding may stand on a later line of its statement.
        let statement = script.statements.iter_mut().rfind(|statement| statement.line <= found.line);
        if let Some(statement) = statement.filter(|statement| unrun(statement)) {
            statement.hazards.push(found.hazard.id.to_owned());
        }
    }
}

/// Traces on a database that is there. Its schema changes.
///
/// # Errors
/// As [`embedded`], and when somebody else works on it.
pub async fn on_database(request: &Request, url: &str, run: &Arc<RunFolder>) -> Result<Trace, Error> {
    let scripts = prepare(request)?;
    let options = url.parse::<PgConnectOptions>().map_err(|error| Error::Database {
        what: format!("--database is no URL of PostgreSQL: {error}"),
        hint: "write it as postgres://user:password@host:port/database",
    })?;
    let options = options.ssl_mode(PgSslMode::Prefer).disable_statement_logging();
    let mut admin = options.clone().application_name("fulldress trace").connect().await.map_err(|error| {
        Error::Database {
            what: format!("the database cannot be reached: {error}"),
            hint: "see that the server runs and that the URL's user may connect",
        }
    })?;
    let others: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE datname = pg_catalog.current_database() \
         AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()",
    )
    .fetch_one(&mut admin)
    .await?;
    if others > 0 {
        return Err(Error::Database {
            what: format!("{others} other sessions use this database"),
            hint: "a trace changes the schema: name a disposable database that nobody works on",
        });
    }
    for setup in &request.setups {
        load(setup, &options, password(url).as_deref(), None, run).await?;
    }
    let mut trace = empty(&mut admin).await?;
    for script in &scripts {
        if let Err(lost) = on_given(script, &options, &mut trace.scripts).await {
            return annotated(request, Err(Error::Lost { what: lost.to_string(), trace: Box::new(trace) }));
        }
    }
    annotated(request, Ok(trace))
}

async fn on_given(
    script: &Prepared<'_>,
    options: &PgConnectOptions,
    into: &mut Vec<Script>,
) -> Result<(), TraceError> {
    let mut runner = Runner::start(options, options).await?;
    let run = runner.run(&script.statements, script.transactions).await;
    into.push(finish(script, run.seen));
    run.lost.map_or(Ok(()), Err)
}

/// Has psql run a setup, since a dump has commands and rows that only psql understands.
pub(crate) async fn load(
    setup: &Source,
    options: &PgConnectOptions,
    password: Option<&str>,
    psql: Option<&Path>,
    run: &Arc<RunFolder>,
) -> Result<(), Error> {
    let program = psql.map_or_else(|| "psql".into(), Path::to_path_buf);
    let user = crate::process::unprivileged_user();
    let folder = run.path().join("setup");
    if !folder.exists() {
        std::fs::create_dir(&folder)
            .map_err(|error| MirrorError::new(format!("{}: {error}", folder.display()), ""))?;
        own(&folder, user.as_ref())?;
    }
    let mut launch = Launch::new(program)
        .args(["--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", "--file=-"])
        // Not as an argument: every user of a machine reads those.
        .env("PGDATABASE", options.get_database().unwrap_or_default())
        .env("PGHOST", options.get_host())
        .env("PGPORT", options.get_port().to_string())
        .env("PGUSER", options.get_username())
        .recorded_in(run);
    if let Some(password) = password {
        launch = launch.env("PGPASSWORD", password);
    }
    launch.user = user;
    launch.cwd = Some(folder);
    let output =
        launch.feed(setup.text.clone().into_bytes(), SETUP_LIMIT).await.map_err(MirrorError::from)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = said.lines().find(|line| line.contains("ERROR") || line.contains("error")).unwrap_or(&said);
    let said = said.trim().replace("psql:<stdin>:", "line ");
    Err(Error::Setup { file: setup.file.clone(), said })
}

/// The password of a URL.
fn password(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(percent_decode_str(url.password()?).decode_utf8_lossy().into_owned())
}
