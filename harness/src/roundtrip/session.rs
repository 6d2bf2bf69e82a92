//! The migrator's session: sends a script as its tool would, and says where the server refused it.
//!
//! Called by [`super::ground`]. The session is a stranger's: it is set back after each script, and thrown away where that
//! is not certain.

use std::time::Duration;

use fulldress_reports::sql::{Token, split, tokens};
use fulldress_workloads::clock::Clock;
use futures_util::StreamExt as _;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError, PgErrorPosition};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use crate::history::{Part, Script};
use crate::recorder::statement::first_words;

/// Longest that a script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);

/// Why a script did not run to its end.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Line of the statement, as far as it is known.
    pub(crate) line: u32,
    pub(crate) sqlstate: Option<String>,
    pub(crate) what: String,
}

/// A session of the migrator.
pub(super) struct Session {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
}

impl Session {
    /// Connects with the first script.
    pub(super) const fn new(options: PgConnectOptions) -> Self {
        Self { options, connection: None }
    }

    /// Ends it; the server may need a moment more to see that.
    pub(super) async fn close(&mut self) {
        if let Some(connection) = self.connection.take() {
            // A session that is already gone needs no end.
            _ = connection.close().await;
        }
    }

    /// Runs a script; gives the time from its first request to its last answer, in microseconds.
    pub(super) async fn run(&mut self, script: &Script) -> Result<u64, Refusal> {
        if let Some(problem) = &script.problem {
            return Err(Refusal { line: problem.line, sqlstate: None, what: problem.what.clone() });
        }
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(|error| Refusal {
                line: 1,
                sqlstate: None,
                what: format!("the database lets nobody in: {error}"),
            })?,
        };
        let clock = Clock::start();
        let sent = tokio::time::timeout(SCRIPT_LIMIT, send(&mut connection, script)).await;
        let took_us = clock.now_us();
        match sent {
            // The server goes on until it sees that nobody listens; whoever copies the database next ends it.
            Err(_) => Err(Refusal {
                line: script.place().line,
                sqlstate: None,
                what: format!("it did not end within {} s", SCRIPT_LIMIT.as_secs()),
            }),
            Ok(Ok(())) => {
                let open = self.set_back(connection, script).await;
                open.map_or(Ok(took_us), Err)
            }
            Ok(Err(refusal)) => {
                if refusal.sqlstate.is_some() {
                    // What it says does not matter any more: the script failed.
                    _ = self.set_back(connection, script).await;
                }
                Err(refusal)
            }
        }
    }

    /// Makes the session as good as new, and keeps it if it is; tells when the script left its transaction open.
    async fn set_back(&mut self, mut connection: PgConnection, script: &Script) -> Option<Refusal> {
        let open = match connection.execute(sqlx::raw_sql("DISCARD ALL")).await {
            Ok(_) => false,
            // In a transaction, or in a failed one.
            Err(error) => matches!(code(&error).as_deref(), Some("25001" | "25P02")),
        };
        if open {
            let back = connection.execute(sqlx::raw_sql("ROLLBACK")).await;
            let set_back = connection.execute(sqlx::raw_sql("DISCARD ALL")).await;
            if back.is_err() || set_back.is_err() {
                return None;
            }
        }
        // Settings of roles and databases are those of the session's beginning.
        if !changes_settings(script) {
            self.connection = Some(connection);
        } else {
            _ = connection.close().await;
        }
        open.then(|| Refusal {
            line: script.place().line,
            sqlstate: None,
            what: "it leaves its transaction open, so that nothing of that stays".to_owned(),
        })
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

fn changes_settings(script: &Script) -> bool {
    script.parts.iter().any(|part| {
        let words: Vec<&str> = tokens(&part.sql)
            .filter_map(|(token, _)| if let Token::Word(word) = token { Some(word) } else { None })
            .collect();
        words.windows(2).any(|pair| {
            pair[0].eq_ignore_ascii_case("alter")
                && ["role", "user", "database"].iter().any(|kind| pair[1].eq_ignore_ascii_case(kind))
        })
    })
}

async fn send(connection: &mut PgConnection, script: &Script) -> Result<(), Refusal> {
    let around = |error: sqlx::Error| Refusal {
        line: script.place().line,
        sqlstate: code(&error),
        what: said(&error),
    };
    if script.transaction {
        connection.execute(sqlx::raw_sql("BEGIN")).await.map_err(around)?;
    }
    for part in &script.parts {
        send_part(connection, part).await?;
    }
    if script.transaction {
        // Constraints that wait for the end of the transaction speak here.
        connection.execute(sqlx::raw_sql("COMMIT")).await.map_err(around)?;
    }
    Ok(())
}

/// Sends one request; the statements that were answered tell which one was refused.
async fn send_part(connection: &mut PgConnection, part: &Part) -> Result<(), Refusal> {
    let mut answered = 0;
    let mut answers = sqlx::raw_sql(AssertSqlSafe(part.sql.as_str())).fetch_many(&mut *connection);
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(answer) => answered += usize::from(answer.is_left()),
            Err(error) => {
                let line = position(&error, part).unwrap_or_else(|| line_of_statement(part, answered));
                return Err(Refusal { line, sqlstate: code(&error), what: said(&error) });
            }
        }
    }
    Ok(())
}

fn said(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            match error.try_downcast_ref::<PgDatabaseError>().and_then(|error| error.detail()) {
                Some(detail) => format!("{} ({})", error.message(), detail.trim_end_matches('.')),
                None => error.message().to_owned(),
            }
        }
        error => format!("the session was lost: {error}"),
    }
}

/// The line that the server points at; it counts characters.
fn position(error: &sqlx::Error, part: &Part) -> Option<u32> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let Some(PgErrorPosition::Original(character)) = error.position() else { return None };
    let (offset, _) = part.sql.char_indices().nth(character.checked_sub(1)?)?;
    Some(part.line_at(offset))
}

/// The line of the statement that comes after those that were answered.
fn line_of_statement(part: &Part, answered: usize) -> u32 {
    let statements = split(&part.sql);
    let Some(statement) = statements.get(answered).or(statements.last()) else { return part.line };
    let first = tokens(statement).find(|(token, _)| !matches!(token, Token::Comment | Token::Space));
    // `split` gives slices of the text, so that the distance of their beginnings is an offset.
    let offset = statement.as_ptr() as usize - part.sql.as_ptr() as usize;
    part.line_at(offset + first.map_or(0, |(_, at)| at))
}

/// Whether a script that fails leaves nothing: it is one transaction, and nothing in it can end that.
pub(super) fn is_contained(script: &Script) -> bool {
    let statements: usize = script.parts.iter().map(|part| split(&part.sql).len()).sum();
    let one = script.transaction || script.parts.len() <= 1;
    // A block or a procedure can commit where nobody opened a transaction around it.
    let alone = !script.transaction && statements == 1;
    let ends = |statement: &str| {
        let words: Vec<String> = first_words(statement, 4);
        let first = words.first().map_or("", String::as_str);
        ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"].contains(&first)
            || alone && ["CALL", "DO", "VACUUM", "REINDEX", "CLUSTER"].contains(&first)
            || words.iter().any(|word| word == "CONCURRENTLY")
    };
    script.problem.is_some() || one && !script.parts.iter().any(|part| split(&part.sql).into_iter().any(ends))
}

#[cfg(test)]
mod tests {
    use super::{is_contained, line_of_statement};
    use crate::history::{Part, Script};

    fn script(transaction: bool, parts: &[&str]) -> Script {
        let parts = parts.iter().map(|sql| Part { line: 10, sql: (*sql).to_owned() }).collect();
        Script { file: "a.sql".to_owned(), transaction, parts, problem: None, notes: Vec::new() }
    }

    #[test]
    fn a_script_of_one_transaction_leaves_nothing_when_it_fails() {
        assert!(is_contained(&script(false, &["select 1; select 2"])));
        assert!(is_contained(&script(true, &["select 1", "do $$ begin end $$"])));
        assert!(!is_contained(&script(false, &["select 1", "select 2"])));
        assert!(!is_contained(&script(true, &["select 1; commit; select 2"])));
        assert!(!is_contained(&script(false, &["do $$ begin commit; end $$"])));
        // A build that fails leaves an index that is not valid.
        assert!(!is_contained(&script(false, &["create index concurrently i on t (x)"])));
    }

    #[test]
    fn the_statement_after_those_that_were_answered_is_the_refused_one() {
        let part = Part { line: 10, sql: "-- a\nselect 1;\n\n-- b\nselect 2;\nselect 3;".to_owned() };
        assert_eq!([0, 1, 2, 9].map(|answered| line_of_statement(&part, answered)), [11, 14, 15, 15]);
    }
}
