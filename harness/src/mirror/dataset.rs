//! How a mirror's database is filled, and how the package's role comes into it: the same for every kind.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection, Row};

use super::connection::database_error;
use super::processes::beside_us;
use super::{MirrorError, PACKAGE_ROLE};
use crate::plan::Plan;
use crate::process::{Launch, RunFolder, Sink};
use crate::recorder::settings;

/// Values of the plan's placeholders, but for those of the services.
///
/// `database_url` gives the URL of a role with its password; `admin_url` the superuser's. Both carry passwords.
#[must_use]
pub fn placeholders(
    plan: &Plan,
    host_root: &Path,
    admin_url: String,
    database_url: impl Fn(&str, &str) -> String,
) -> BTreeMap<String, String> {
    let mut values = BTreeMap::from([
        ("plan".to_owned(), plan.folder().display().to_string()),
        ("seed".to_owned(), plan.seed.to_string()),
        ("host_root".to_owned(), host_root.display().to_string()),
        ("admin_url".to_owned(), admin_url),
    ]);
    for (role, password) in &plan.mirror.database.roles {
        values.insert(format!("database_url:{role}"), database_url(role, password));
        values.insert(format!("password:{role}"), password.clone());
    }
    values
}

/// Runs the plan's dataset command.
///
/// # Errors
/// When it fails or does not end in time; its log's last lines say why.
pub async fn run_command(
    plan: &Plan,
    values: &BTreeMap<String, String>,
    run: &Arc<RunFolder>,
    logs: &Path,
) -> Result<(), MirrorError> {
    let dataset = &plan.mirror.dataset;
    let filled = |text: &String| {
        values.iter().fold(text.clone(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
    };
    let command: Vec<String> = dataset.command.iter().map(filled).collect();
    let log = logs.join("dataset.log");
    let mut launch = Launch::new(beside_us(&command[0])).args(&command[1..]).recorded_in(run);
    for (variable, value) in &dataset.environment {
        launch = launch.env(variable, filled(value));
    }
    launch.stdout = Sink::File(log.clone());
    launch.stderr = Sink::File(log.clone());
    let output = crate::process::run_to_end(launch, Duration::from_secs(dataset.timeout_s)).await?;
    if output.timed_out {
        let what = format!("the dataset command did not end within {} s", dataset.timeout_s);
        return Err(MirrorError {
            hint: Some("raise mirror.dataset.timeout_s".to_owned()),
            ..MirrorError::with_log(&what, log)
        });
    }
    if output.status.success() {
        Ok(())
    } else {
        Err(MirrorError::with_log("the dataset command failed", log))
    }
}

/// Whether a plain dump creates roles itself, as one of `pg_dumpall` does.
#[must_use]
pub fn brings_roles(dump: &Path) -> bool {
    use std::io::BufRead as _;
    let Ok(file) = std::fs::File::open(dump) else { return false };
    std::io::BufReader::new(file).split(b'\n').map_while(Result::ok).any(|line| {
        let start: Vec<u8> = line.iter().take(11).map(u8::to_ascii_lowercase).collect();
        start == b"create role" || start == b"create user"
    })
}

/// Creates what a dump of `pg_dump` takes for granted: the owner, and the applications' login roles with the plan's
/// passwords. A role that is there stays as it is.
///
/// # Errors
/// When the database refuses.
pub async fn create_missing_roles(connection: &mut PgConnection, plan: &Plan) -> Result<(), MirrorError> {
    let database = &plan.mirror.database;
    let mut wanted = vec![(&database.owner, "NOLOGIN".to_owned())];
    for (role, password) in &database.roles {
        let login = format!("LOGIN PASSWORD '{}'", password.replace('\'', "''"));
        wanted.retain(|(other, _)| *other != role);
        wanted.push((role, login));
    }
    for (role, options) in wanted {
        let known: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)")
            .bind(role)
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| database_error("cannot be read", &error))?;
        if !known {
            let create = format!("CREATE ROLE {} {options}", identifier(role));
            let created = connection.execute(AssertSqlSafe(create)).await;
            created.map_err(|error| database_error(&format!("cannot get the role `{role}`"), &error))?;
        }
    }
    Ok(())
}

/// Creates the package's login role, which works as the schema's owner: objects belong to the owner while the session
/// stays the package's.
///
/// # Errors
/// When the dataset did not bring the owner, or the database refuses.
pub async fn create_package_role(
    connection: &mut PgConnection,
    plan: &Plan,
    password: &str,
) -> Result<(), MirrorError> {
    let database_plan = &plan.mirror.database;
    let owner = identifier(&database_plan.owner);
    let known: bool = sqlx::query("SELECT count(*) > 0 FROM pg_roles WHERE rolname = $1")
        .bind(&database_plan.owner)
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| database_error("cannot be read", &error))?;
    if !known {
        let what = format!("the dataset did not bring the role `{}`", database_plan.owner);
        return Err(MirrorError::new(what, "create it there, or correct mirror.database.owner"));
    }
    let mut statements = vec![
        format!("CREATE ROLE {PACKAGE_ROLE} LOGIN PASSWORD '{password}' IN ROLE {owner}"),
        format!("ALTER ROLE {PACKAGE_ROLE} SET role = {owner}"),
    ];
    let applications: Vec<&str> = database_plan.roles.keys().map(String::as_str).collect();
    statements.extend(settings::role_statements(PACKAGE_ROLE, &applications));
    for statement in statements {
        connection
            .execute(AssertSqlSafe(statement))
            .await
            .map_err(|error| database_error("cannot be prepared for the package", &error))?;
    }
    Ok(())
}

/// A name as a quoted SQL identifier.
#[must_use]
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
