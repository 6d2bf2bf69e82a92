//! ROLL-COMPAT: the statements of the old version's clients, prepared again on the upgraded schema and after rollback.
//!
//! The play has a [`Listener`] look at what clients run in the baseline, keeps the [`Statements`] that can be prepared then, and
//! tells which of them a later schema refuses: in new sessions, and in one of each role that stays open with every statement
//! prepared, as an application's pool does. Nothing is executed: the traffic itself does that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_reports::evidence::{BrokenStatement, CompatEvidence, SchemaState};
use fulldress_reports::sql::split;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use tokio::task::JoinHandle;

/// Pause between two looks. A session shows its last statement while it is idle too, so a look sees one of each.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// Most statements that are kept: clients that write values into the text would fill the memory.
const STATEMENTS_MAX: usize = 2_000;
/// SQLSTATEs of a session that the server ends.
const SHUTDOWN: &str = "57P";
/// First words of what PREPARE takes.
const PREPARED: [&str; 8] = ["select", "insert", "update", "delete", "with", "merge", "values", "table"];

/// Statements by the role whose sessions sent them.
type Seen = BTreeMap<String, BTreeSet<String>>;

/// Looks at what clients run, until it is stopped or dropped.
pub struct Listener {
    task: JoinHandle<()>,
    seen: Arc<Mutex<Seen>>,
}

impl Listener {
    /// Begins to look at the sessions of the application's roles.
    #[must_use]
    pub fn start(server: &PgConnectOptions, roles: &BTreeMap<String, String>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let task = tokio::spawn(listen(server.clone(), roles.keys().cloned().collect(), Arc::clone(&seen)));
        Self { task, seen }
    }

    /// Ends it and gives what was seen.
    #[must_use]
    pub fn stop(self) -> BTreeMap<String, BTreeSet<String>> {
        self.task.abort();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *seen)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(server: PgConnectOptions, roles: Vec<String>, seen: Arc<Mutex<Seen>>) {
    let query = "SELECT DISTINCT usename::text, query FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND usename = ANY($1) AND query <> '' AND datname = current_database()";
    let mut connection: Option<PgConnection> = None;
    loop {
        if connection.is_none() {
            connection = server.connect().await.ok();
        }
        let rows: Option<Vec<(String, String)>> = match &mut connection {
            Some(open) => sqlx::query_as(query).bind(&roles).fetch_all(open).await.ok(),
            None => None,
        };
        match rows {
            // A connection that was cut is made again: what was missed then stands in the next look.
            None => connection = None,
            Some(rows) => {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                for (role, query) in rows {
                    keep(&mut seen, &role, &query);
                }
            }
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn keep(seen: &mut Seen, role: &str, query: &str) {
    let total: usize = seen.values().map(BTreeSet::len).sum();
    let statements = seen.entry(role.to_owned()).or_default();
    for statement in split(query).into_iter().map(str::trim).filter(|one| is_prepared(one)) {
        if total < STATEMENTS_MAX {
            statements.insert(statement.to_owned());
        }
    }
}

/// Whether PREPARE takes such a statement.
fn is_prepared(statement: &str) -> bool {
    let word: String = statement.chars().take_while(char::is_ascii_alphabetic).collect();
    PREPARED.contains(&word.to_ascii_lowercase().as_str())
}

/// The old version's statements, and where they are prepared.
pub struct Statements {
    server: PgConnectOptions,
    roles: BTreeMap<String, String>,
    by_role: Seen,
    /// By role.
    pool: BTreeMap<String, OpenSession>,
    evidence: CompatEvidence,
}

/// A session from before the upgrade that knows its statements' old plans.
struct OpenSession {
    session: PgConnection,
    /// By statement: how the server is asked for its plan.
    explain: BTreeMap<String, String>,
}

impl Statements {
    /// Keeps of what was seen all that can be prepared on the schema of now. `roles` are the application's, with their
    /// passwords.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn keep(
        seen: BTreeMap<String, BTreeSet<String>>,
        server: &PgConnectOptions,
        roles: &BTreeMap<String, String>,
    ) -> Result<Self, sqlx::Error> {
        let mut statements = Self {
            server: server.clone(),
            roles: roles.clone(),
            by_role: seen,
            pool: BTreeMap::new(),
            evidence: CompatEvidence::default(),
        };
        // The state has no meaning yet: what is refused now is only left out.
        let refused = statements.refused(SchemaState::Upgraded).await?;
        let refused: BTreeSet<&str> = refused.iter().map(|broken| broken.sql.as_str()).collect();
        for of_role in statements.by_role.values_mut() {
            of_role.retain(|sql| !refused.contains(sql.as_str()));
        }
        statements.evidence.unprepared = refused.len() as u64;
        statements.evidence.statements =
            statements.by_role.values().map(|of_role| of_role.len() as u64).sum();
        for (role, of_role) in &statements.by_role {
            if let Ok(session) = statements.as_role(role).connect().await {
                let open = OpenSession::with(session, of_role).await?;
                statements.pool.insert(role.clone(), open);
            }
        }
        Ok(statements)
    }

    fn as_role(&self, role: &str) -> PgConnectOptions {
        let password = self.roles.get(role).map_or("", String::as_str);
        self.server.clone().username(role).password(password)
    }

    /// Prepares all of them on the schema of now; gives what is known so far.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn try_on(&mut self, state: SchemaState) -> Result<CompatEvidence, sqlx::Error> {
        let mut broken = self.refused(state).await?;
        let in_new: BTreeSet<String> = broken.iter().map(|broken| broken.sql.clone()).collect();
        for open in self.pool.values_mut() {
            broken.extend(open.refused(state, &in_new).await);
        }
        // A session that has ended, such as by a restore, is what a pool replaces.
        self.pool.retain(|_, open| !open.explain.is_empty());
        self.evidence.broken.extend(broken);
        self.evidence.tried.push(state);
        Ok(self.evidence.clone())
    }

    async fn refused(&self, state: SchemaState) -> Result<Vec<BrokenStatement>, sqlx::Error> {
        let mut refused = Vec::new();
        for (role, statements) in &self.by_role {
            let mut session = match self.as_role(role).connect().await {
                Ok(session) => Ok(session),
                Err(sqlx::Error::Database(error)) => Err(error),
                Err(error) => return Err(error),
            };
            for sql in statements {
                let error = match &mut session {
                    // One that may not log in any more can send nothing.
                    Err(error) => {
                        Some((error.code().unwrap_or_default().into_owned(), error.message().to_owned()))
                    }
                    Ok(session) => prepare(session, sql).await?,
                };
                refused.extend(error.map(|(sqlstate, message)| BrokenStatement {
                    sql: sql.clone(),
                    state,
                    sqlstate,
                    message,
                }));
            }
            if let Ok(session) = session {
                session.close().await?;
            }
        }
        Ok(refused)
    }
}

impl OpenSession {
    /// Prepares statements that can be prepared, and keeps those that can be planned now.
    async fn with(mut session: PgConnection, statements: &BTreeSet<String>) -> Result<Self, sqlx::Error> {
        let mut explain = BTreeMap::new();
        for (number, sql) in statements.iter().enumerate() {
            let name = format!("fulldress_open_{number}");
            let prepared = format!("PREPARE {name} AS {sql}");
            sqlx::raw_sql(AssertSqlSafe(prepared)).execute(&mut session).await?;
            let parameters: i32 = sqlx::query_scalar(
                "SELECT coalesce(cardinality(parameter_types), 0) FROM pg_prepared_statements WHERE name = $1",
            )
            .bind(&name)
            .fetch_one(&mut session)
            .await?;
            let nulls = vec!["NULL"; usize::try_from(parameters).unwrap_or(0)].join(", ");
            let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
            let ask = format!("EXPLAIN EXECUTE {name}{arguments}");
            // What runs under SET ROLE, or bears no NULL, says nothing.
            if sqlx::raw_sql(AssertSqlSafe(ask.clone())).execute(&mut session).await.is_ok() {
                explain.insert(sql.clone(), ask);
            }
        }
        Ok(Self { session, explain })
    }

    /// Statements that this session cannot run any more, beside those that no session can.
    async fn refused(&mut self, state: SchemaState, known: &BTreeSet<String>) -> Vec<BrokenStatement> {
        let mut refused = Vec::new();
        for (sql, ask) in self.explain.iter().filter(|(sql, _)| !known.contains(*sql)) {
            match sqlx::raw_sql(AssertSqlSafe(ask.clone())).execute(&mut self.session).await {
                Ok(_) => {}
                Err(sqlx::Error::Database(error))
                    if !error.code().unwrap_or_default().starts_with(SHUTDOWN) =>
                {
                    refused.push(BrokenStatement {
                        sql: sql.clone(),
                        state,
                        sqlstate: error.code().unwrap_or_default().into_owned(),
                        message: format!("in a session that had prepared it before, {}", error.message()),
                    });
                }
                Err(_) => {
                    self.explain.clear();
                    return refused;
                }
            }
        }
        refused
    }
}

/// SQLSTATE and message when the server refuses it.
async fn prepare(session: &mut PgConnection, sql: &str) -> Result<Option<(String, String)>, sqlx::Error> {
    // Clients sent it to this very database; it is only prepared.
    let prepared =
        sqlx::raw_sql(AssertSqlSafe(format!("PREPARE fulldress_compat AS {sql}"))).execute(&mut *session);
    match prepared.await {
        Ok(_) => {
            sqlx::raw_sql("DEALLOCATE fulldress_compat").execute(session).await?;
            Ok(None)
        }
        Err(sqlx::Error::Database(error)) => {
            Ok(Some((error.code().unwrap_or_default().into_owned(), error.message().to_owned())))
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::{Seen, is_prepared, keep};

    #[test]
    fn only_what_prepare_takes_is_kept_and_each_statement_of_a_string() {
        assert!(is_prepared("SELECT 1") && is_prepared("with x as (select 1) select * from x"));
        assert!(!is_prepared("BEGIN") && !is_prepared("SET search_path = a") && !is_prepared("selection"));
        let mut seen = Seen::new();
        keep(&mut seen, "shop", "BEGIN; INSERT INTO a VALUES ($1); COMMIT");
        keep(&mut seen, "shop", "SELECT ';' FROM a");
        keep(&mut seen, "shop", "SELECT ';' FROM a");
        let kept: Vec<&str> = seen["shop"].iter().map(String::as_str).collect();
        assert_eq!(kept, ["INSERT INTO a VALUES ($1)", "SELECT ';' FROM a"]);
    }
}
