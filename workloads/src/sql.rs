//! Traffic by SQL on PostgreSQL: prepared statements and transactions on connections like the application's.
//!
//! `traffic` prepares a scenario before anything is sent; [`Lanes`](crate::lanes::Lanes) drive it as they drive HTTP. The
//! harness reads acknowledged writes back with a [`KeyedQuery`].

mod ending;
mod parameter;
mod prepare;
mod read_back;
mod value;

use std::cell::Cell;
use std::sync::Arc;

use fulldress_reports::traffic::ErrorKind;
use futures_util::TryStreamExt as _;
use serde_json::Value;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Either, Executor as _, PgConnection};

use self::ending::{Ending, state_of};
use self::prepare::Prepared;
use crate::answer::{INDETERMINATE, Judgement};
use crate::file::{Scenario, SqlStep};
use crate::lanes::{Progress, Protocol, WriteKey};
use crate::template::Session;

pub use self::read_back::KeyedQuery;

/// How much longer than the client the server works on a statement that nobody waits for any more, milliseconds: else it
/// would stay in the queue for its locks for as long as they are held.
const GIVING_UP_MS: u64 = 250;
/// Prepared statements that sqlx keeps for a connection unless told otherwise.
const STATEMENTS_MIN: usize = 100;

/// A scenario's statements, prepared for one database.
#[derive(Debug)]
pub(crate) struct Sql {
    scenario: Arc<Scenario>,
    options: PgConnectOptions,
    /// Sent once on every new connection.
    greeting: Arc<str>,
    /// Per step and statement.
    steps: Vec<Vec<Prepared>>,
}

/// Why a step ended before its last statement.
enum Fault {
    Refused(sqlx::Error),
    WrongRows(u64),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Refused(error)
    }
}

/// Checks that traffic may go to a database: only this machine's own, since traffic must never leave the mirror.
///
/// # Errors
/// One sentence.
pub(crate) fn check_address(options: &PgConnectOptions) -> Result<(), String> {
    let host = options.get_host();
    let socket = options.get_socket().is_some() || host.starts_with('/');
    let ip = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    if socket || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
        Ok(())
    } else {
        Err(format!("traffic goes to loopback and Unix sockets only, and `{host}` is neither"))
    }
}

impl Sql {
    /// Lets the server describe every statement of a scenario.
    ///
    /// # Errors
    /// A sentence that names scenario and step: no connection, or a statement that the server does not take.
    pub(crate) async fn prepare(
        scenario: &Arc<Scenario>,
        options: &PgConnectOptions,
    ) -> Result<Self, String> {
        let name = &scenario.name;
        let mut connection = options.connect().await.map_err(|error| {
            format!("scenario `{name}`: database `{}`: {error}", scenario.database().unwrap_or_default())
        })?;
        let mut steps = Vec::new();
        for step in scenario.sql_steps() {
            let prepared = prepare_step(&mut connection, step).await;
            steps.push(prepared.map_err(|what| format!("scenario `{name}`, step `{}`: {what}", step.route))?);
        }
        // How the session ends does not matter.
        let _ended = connection.close().await;
        let limit_ms = scenario.timeout_ms + GIVING_UP_MS;
        let greeting = format!(
            "SELECT pg_catalog.set_config('statement_timeout', '{limit_ms}', false) WHERE \
             pg_catalog.current_setting('statement_timeout')::interval \
             NOT BETWEEN interval '1 ms' AND interval '{limit_ms} ms'"
        );
        let statements = steps.iter().map(Vec::len).sum::<usize>();
        let options = options.clone().statement_cache_capacity(statements.max(STATEMENTS_MIN));
        Ok(Self { scenario: Arc::clone(scenario), options, greeting: greeting.into(), steps })
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.options.connect().await?;
        connection.execute(AssertSqlSafe(Arc::clone(&self.greeting))).await?;
        Ok(connection)
    }

    /// Sends a step's statements; gives the last row of the last one.
    async fn perform(
        &self,
        connection: &mut PgConnection,
        step: usize,
        request: Vec<PgArguments>,
        progress: &Cell<Progress>,
    ) -> Result<Option<PgRow>, Fault> {
        let stated = &self.scenario.sql_steps()[step];
        progress.set(if stated.is_transaction { Progress::Working } else { Progress::Deciding });
        if stated.is_transaction {
            connection.execute("BEGIN").await?;
        }
        let mut last = None;
        let prepared = self.steps[step].iter().zip(&stated.statements);
        for ((statement, stated), arguments) in prepared.zip(request) {
            let (count, row) = run(connection, statement, arguments).await?;
            if !stated.rows.holds(count) {
                return Err(Fault::WrongRows(count));
            }
            last = row;
        }
        if stated.is_transaction {
            progress.set(Progress::Deciding);
            connection.execute("COMMIT").await?;
        }
        Ok(last)
    }

    /// Brings a connection back to where the next step can use it; gives it up where that fails.
    async fn recover(
        &self,
        step: usize,
        mut connection: PgConnection,
        error: Option<&sqlx::Error>,
    ) -> Option<PgConnection> {
        if self.scenario.sql_steps()[step].is_transaction {
            connection.execute("ROLLBACK").await.ok()?;
        }
        // A plan that the server does not take any more, after the schema has changed under it: an application's pool
        // prepares again, too.
        if error.and_then(state_of).is_some_and(|state| matches!(state.as_str(), "0A000" | "26000")) {
            connection.clear_cached_statements().await.ok()?;
        }
        Some(connection)
    }

    /// What a write's row says in the columns that must survive.
    fn value(&self, step: usize, row: Option<&PgRow>) -> Option<Value> {
        let write = self.scenario.sql_steps()[step].write.as_ref()?;
        match row {
            _ if write.columns.is_empty() => Some(Value::Object(serde_json::Map::new())),
            Some(row) => value::columns(row, &write.columns).map(Value::Object),
            None => None,
        }
    }
}

/// Prepares a step's statements, and tries what reads its write back.
async fn prepare_step(connection: &mut PgConnection, step: &SqlStep) -> Result<Vec<Prepared>, String> {
    let mut statements = Vec::new();
    for statement in &step.statements {
        let prepared = Prepared::new(connection, &statement.text).await?;
        prepared.takes(statement.parameters())?;
        statements.push(prepared);
    }
    if let Some(write) = &step.write {
        let read_back = KeyedQuery::prepare(connection, &write.read_back).await;
        let read_back = read_back.map_err(|what| format!("acknowledged.read_back: {what}"))?;
        let missing = |columns: &[String]| write.columns.iter().find(|name| !columns.contains(name)).cloned();
        if let Some(column) = missing(read_back.columns()) {
            return Err(format!("acknowledged.value names `{column}`, which read_back does not give"));
        }
        if let Some(column) = missing(statements.last().map_or(&[], Prepared::columns)) {
            return Err(format!(
                "acknowledged.value names `{column}`, which the last statement does not return: add RETURNING"
            ));
        }
    }
    Ok(statements)
}

/// Runs one statement to its end: how many rows it returned or touched, and the last of them.
async fn run(
    connection: &mut PgConnection,
    statement: &Prepared,
    arguments: PgArguments,
) -> Result<(u64, Option<PgRow>), sqlx::Error> {
    let mut results = connection.fetch_many(statement.query(arguments));
    let (mut count, mut last) = (0, None);
    while let Some(result) = results.try_next().await? {
        match result {
            // The server's own count: rows of a SELECT, too.
            Either::Left(done) => count += done.rows_affected(),
            Either::Right(row) => last = Some(row),
        }
    }
    Ok((count, last))
}

impl Protocol for Sql {
    type Request = Vec<PgArguments>;
    type Connection = PgConnection;
    type Ending = Ending;

    fn render(
        &self,
        step: usize,
        session: &mut Session,
    ) -> Result<(Self::Request, Option<WriteKey>), String> {
        let stated = &self.scenario.sql_steps()[step];
        let rendered = stated.render(&self.scenario.templates, session)?;
        let values = self.steps[step].iter().zip(rendered.parameters);
        let request =
            values.map(|(statement, values)| statement.encode(&values)).collect::<Result<_, _>>()?;
        let write = rendered.key.zip(stated.write.as_ref()).map(|(key, write)| WriteKey {
            key,
            read_back: write.read_back.clone(),
            database: self.scenario.database().map(str::to_owned),
        });
        Ok((request, write))
    }

    fn is_open(_connection: &PgConnection) -> bool {
        // Nothing is heard on an idle connection; one that is dead costs a request, as in a pool that does not ask first.
        true
    }

    async fn reusable(connection: PgConnection) -> Option<PgConnection> {
        Some(connection)
    }

    async fn exchange(
        &self,
        idle: Option<PgConnection>,
        step: usize,
        request: Self::Request,
        progress: &Cell<Progress>,
    ) -> (Ending, Option<PgConnection>) {
        let mut connection = match idle {
            Some(connection) => connection,
            None => match self.open().await {
                Ok(connection) => connection,
                Err(error) => return (Ending::unconnected(&error), None),
            },
        };
        match self.perform(&mut connection, step, request, progress).await {
            Ok(row) => (Ending::Done { value: self.value(step, row.as_ref()) }, Some(connection)),
            Err(Fault::WrongRows(count)) => {
                let kept = !self.scenario.sql_steps()[step].is_transaction;
                (Ending::WrongRows { kept, count }, self.recover(step, connection, None).await)
            }
            Err(Fault::Refused(error)) => {
                let ending = Ending::refused(&error, progress.get());
                if ending.lost_connection() {
                    return (ending, None);
                }
                (ending, self.recover(step, connection, Some(&error)).await)
            }
        }
    }

    fn abandoned(&self, progress: Progress) -> Ending {
        let perhaps_done = progress == Progress::Deciding;
        // The connection is closed; that says nothing about the others.
        let said = "no answer in time".to_owned();
        Ending::Failed { kind: progress.out_of_time(), perhaps_done, lost_connection: false, said }
    }

    fn judge(&self, step: usize, ending: &Ending) -> Judgement {
        let writes = self.scenario.sql_steps()[step].write.is_some();
        let indeterminate = |perhaps_done: bool| (writes && perhaps_done).then_some(INDETERMINATE);
        match ending {
            Ending::Done { .. } if !writes => Judgement { error: None, write: None },
            Ending::Done { value: Some(value) } => Judgement::acknowledged(value.clone()),
            Ending::Done { value: None } => {
                Judgement { error: Some(ErrorKind::WrongBody), write: indeterminate(true) }
            }
            Ending::WrongRows { kept, .. } => {
                Judgement { error: Some(ErrorKind::WrongBody), write: indeterminate(*kept) }
            }
            Ending::Failed { kind, perhaps_done, .. } => {
                Judgement { error: Some(*kind), write: indeterminate(*perhaps_done) }
            }
        }
    }

    fn ends_others(ending: &Ending) -> bool {
        ending.lost_connection()
    }

    fn said(ending: &Ending) -> Option<String> {
        match ending {
            Ending::Done { .. } => None,
            Ending::WrongRows { count, .. } => Some(format!("{count} rows")),
            Ending::Failed { said, .. } => Some(said.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::check_address;

    #[test]
    fn only_this_machine_is_a_target() {
        let options = |host: &str| PgConnectOptions::new_without_pgpass().host(host);
        for host in ["127.0.0.1", "127.9.9.9", "localhost", "::1", "/run/postgresql"] {
            assert_eq!(check_address(&options(host)), Ok(()), "{host}");
        }
        for host in ["10.0.0.1", "db.example", "0.0.0.0"] {
            assert!(check_address(&options(host)).unwrap_err().contains(host));
        }
        assert_eq!(check_address(&options("db.example").socket("/run/postgresql")), Ok(()));
    }
}
