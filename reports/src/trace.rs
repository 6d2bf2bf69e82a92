//! What `fulldress trace` found: the locks of scripts, statement by statement, and how that reads.
//!
//! The serde form is the format `fulldress/trace/1`.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::figures::{cut, duration_us, thousands};
use crate::lock::LockMode;

/// Name and version of the JSON form.
pub const SCHEMA: &str = "fulldress/trace/1";
/// Widest statement in the text.
const SQL_MAX: usize = 100;

/// Scripts that were run one after another on one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Trace {
    /// [`SCHEMA`].
    pub schema: String,
    /// The server's own name of its version, such as `15.14`.
    pub server_version: String,
    /// In the order in which they ran.
    pub scripts: Vec<Script>,
}

/// One script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Script {
    /// As the caller named it.
    pub file: String,
    /// How its statements were wrapped.
    pub transactions: Transactions,
    /// In the order of the file.
    pub statements: Vec<Statement>,
}

/// How the statements of a script were wrapped into transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transactions {
    /// The whole file is one.
    File,
    /// The file has BEGIN and COMMIT of its own; what stands outside is on its own.
    Own,
    /// Each statement is one.
    Statement,
}

/// One statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Statement {
    /// Counted from 1 within the script.
    pub index: usize,
    /// Line of its first word, counted from 1.
    pub line: u32,
    /// Its text without the semicolon.
    pub sql: String,
    /// The strongest mode per relation that was there, committed, before the statement's transaction. System catalogs
    /// and TOAST tables are left out, and so are locks weaker than SHARE UPDATE EXCLUSIVE that the statement itself gave
    /// back.
    pub locks: Vec<Lock>,
    /// Tables and materialized views whose rows were all written to a new file.
    pub rewritten: Vec<String>,
    /// Indexes that were built anew.
    pub rebuilt: Vec<String>,
    /// Relations read from end to end, with the rows read.
    pub scanned: Vec<Scan>,
    /// Indexes that are INVALID after it and were not before.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub invalid_indexes: Vec<String>,
    /// Foreign keys that it made and whose columns begin no index, as `table.constraint`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unindexed_foreign_keys: Vec<String>,
    /// From sending it to its answer, without the time that the tracer itself held it up.
    pub duration_us: u64,
    /// `lock_timeout` in force when it began; 0 is no limit.
    pub lock_timeout_ms: u64,
    /// `statement_timeout` in force when it began; 0 is no limit.
    pub statement_timeout_ms: u64,
    /// What the server refused it with.
    pub error: Option<SqlError>,
    /// What is missing from `locks`, and why; absent when they are exact.
    pub unobserved: Option<String>,
    /// Ids of the hazards that it showed.
    pub hazards: Vec<String>,
}

/// A lock on a relation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Lock {
    /// Schema-qualified, quoted where SQL would need it.
    pub relation: String,
    /// The mode.
    pub mode: LockMode,
    /// `table`, `partitioned table`, `index`, `sequence`, `view`, `materialized view`, `foreign table`.
    pub kind: String,
}

/// A scan from end to end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Scan {
    /// Schema-qualified.
    pub relation: String,
    /// Rows read, over all scans of the statement.
    pub rows: u64,
}

/// The server's refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct SqlError {
    /// Five characters; `08006` when the connection was cut.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
}

impl Trace {
    /// The first statement that failed, with its script.
    #[must_use]
    pub fn first_error(&self) -> Option<(&Script, &Statement)> {
        self.scripts
            .iter()
            .find_map(|script| Some((script, script.statements.iter().find(|one| one.error.is_some())?)))
    }

    /// The trace as text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        for script in &self.scripts {
            let wrapped = match script.transactions {
                Transactions::File => "the file is one transaction",
                Transactions::Own => "the file's own transactions",
                Transactions::Statement => "each statement is a transaction",
            };
            // Writing to a String cannot fail, here and below.
            _ = writeln!(out, "{}  (PostgreSQL {}, {wrapped})", script.file, self.server_version);
            for statement in &script.statements {
                statement.write(&mut out, &script.file);
            }
            out.push('\n');
        }
        out
    }
}

impl Statement {
    fn write(&self, out: &mut String, file: &str) {
        let sql: Vec<&str> = self.sql.split_whitespace().collect();
        let sql = cut(&sql.join(" "), SQL_MAX);
        _ = writeln!(out, "\n{file}:{}  {sql}  [{}]", self.line, duration_us(self.duration_us));
        let width = self.locks.iter().map(|lock| lock.mode.sql().len()).max().unwrap_or(0);
        for lock in &self.locks {
            _ = writeln!(out, "    {:<width$}  {} {}", lock.mode.sql(), lock.kind, lock.relation);
        }
        for relation in &self.rewritten {
            _ = writeln!(out, "    rewrites {relation}");
        }
        for relation in &self.rebuilt {
            _ = writeln!(out, "    rebuilds {relation}");
        }
        for scan in &self.scanned {
            _ = writeln!(out, "    reads all of {} ({} rows)", scan.relation, thousands(scan.rows));
        }
        for index in &self.invalid_indexes {
            _ = writeln!(out, "    leaves the INVALID index {index}");
        }
        for key in &self.unindexed_foreign_keys {
            _ = writeln!(out, "    the foreign key {key} has no index");
        }
        if let Some(error) = &self.error {
            _ = writeln!(out, "    error {}: {}", error.sqlstate, error.message);
        }
        if let Some(unobserved) = &self.unobserved {
            _ = writeln!(out, "    not observed: {unobserved}");
        }
        if !self.hazards.is_empty() {
            let limit = |ms: u64| if ms == 0 { "none".to_owned() } else { format!("{ms} ms") };
            _ = writeln!(
                out,
                "    hazards: {} (lock_timeout {})",
                self.hazards.join(", "),
                limit(self.lock_timeout_ms)
            );
        }
    }
}
