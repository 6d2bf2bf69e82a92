//! A folder of SQL migrations as a history: which way up, which way back, and how its own tool would run each.
//!
//! Called by `roundtrip`; nothing is started here. What a file says is kept as it stands; what had to be left out or read
//! otherwise is told as a note with file and line.

mod code;
mod detect;
mod diesel;
mod flyway;
mod folder;
mod goose;
mod marked;
mod numbered;
mod plain;
mod refused;
#[cfg(test)]
mod tests;

use std::path::Path;

use clap::ValueEnum;
use fulldress_reports::roundtrip::{Note, Place, WayBack};
use fulldress_reports::sql::{Token, split, tokens};

use folder::Folder;

/// How the files of a history are named and run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Layout {
    /// `1_name.up.sql` and `1_name.down.sql`; each file is one request without a transaction around it
    GolangMigrate,
    /// `1_name.sql`, or pairs of `.up.sql` and `.down.sql`; a transaction a file unless it begins with `-- no-transaction`
    Sqlx,
    /// Folders with `up.sql` and `down.sql`; a transaction a file unless `metadata.toml` says otherwise
    Diesel,
    /// `1_name.sql` with `-- migrate:up` and `-- migrate:down`; a transaction a section unless `transaction:false`
    Dbmate,
    /// `1_name.sql` with `-- +goose Up` and `-- +goose Down`; sent statement by statement
    Goose,
    /// `V1__name.sql` and `U1__name.sql`, both ways up; there is no way back
    Refinery,
    /// `V1.2__name.sql`, undone by `U1.2__name.sql`; `R__name.sql` comes last
    Flyway,
    /// `001_name.sql`, with `001_name_down.sql`, `001_name.rollback.sql` or `down/001_name.sql` for the way back
    Plain,
}

impl Layout {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GolangMigrate => "golang-migrate",
            Self::Sqlx => "sqlx",
            Self::Diesel => "diesel",
            Self::Dbmate => "dbmate",
            Self::Goose => "goose",
            Self::Refinery => "refinery",
            Self::Flyway => "flyway",
            Self::Plain => "plain",
        }
    }
}

/// Migrations in the order in which their tool runs them.
#[derive(Debug, Clone)]
pub struct History {
    /// How they were read.
    pub layout: Layout,
    /// Why so, as the end of a sentence.
    pub reason: String,
    /// In order.
    pub migrations: Vec<Migration>,
    /// What was left out.
    pub notes: Vec<Note>,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// What tells it apart for a person.
    pub id: String,
    /// The way up.
    pub up: Script,
    /// The way back, where there is one.
    pub down: Option<Script>,
}

impl Migration {
    /// Whether a person who typed this means this migration: its id, or the number that it begins with.
    #[must_use]
    pub fn is_named(&self, typed: &str) -> bool {
        let number = self.id.split(['_', '-', ' ']).next().unwrap_or_default();
        self.id == typed || number == typed || number.trim_start_matches('0') == typed
    }

    /// Its way back as it stands in the files.
    #[must_use]
    pub fn way_back(&self) -> WayBack {
        match &self.down {
            None => WayBack::Missing,
            Some(script) if script.is_empty() => WayBack::Empty(script.place()),
            Some(script) => WayBack::Written(script.place()),
        }
    }
}

/// One way through a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// As the caller would open it.
    pub file: String,
    /// Whether its tool puts a transaction around all of it.
    pub transaction: bool,
    /// What is sent to the server, one request each.
    pub parts: Vec<Part>,
    /// Why it cannot be run at all; the parts are then not worth running.
    pub problem: Option<Problem>,
    /// What was read otherwise than it stands.
    pub notes: Vec<Note>,
}

/// One request of the simple query protocol, which may hold many statements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Line of its first byte, counted from 1.
    pub line: u32,
    /// Its text.
    pub sql: String,
}

/// Why a script cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Counted from 1.
    pub line: u32,
    /// What stands there, and what to do.
    pub what: String,
}

impl Script {
    /// A script that is sent as one request.
    fn whole(file: String, text: folder::Text, transaction: bool) -> Self {
        let mut script = Self::of(file, text.notes, transaction);
        match text.sql {
            Ok(sql) => script.parts.push(Part { line: 1, sql }),
            Err(problem) => script.problem = Some(problem),
        }
        script
    }

    /// A script without parts.
    const fn of(file: String, notes: Vec<Note>, transaction: bool) -> Self {
        Self { file, transaction, parts: Vec::new(), problem: None, notes }
    }

    /// Whether no statement is in it that could change anything: transactions and constants do not count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problem.is_none()
            && self.parts.iter().all(|part| split(&part.sql).iter().all(|statement| does_nothing(statement)))
    }

    /// Its first statement, or its first line where there is none.
    #[must_use]
    pub fn place(&self) -> Place {
        let problem = self.problem.as_ref().map(|problem| problem.line);
        let first = self.parts.iter().find_map(|part| {
            let (_, at) =
                tokens(&part.sql).find(|(token, _)| !matches!(token, Token::Comment | Token::Space))?;
            Some(part.line_at(at))
        });
        Place { file: self.file.clone(), line: problem.or(first).unwrap_or(1) }
    }
}

impl Part {
    /// Line of a byte of its text.
    #[must_use]
    pub fn line_at(&self, offset: usize) -> u32 {
        let before = self.sql.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        self.line.saturating_add(u32::try_from(before).unwrap_or(u32::MAX))
    }
}

fn does_nothing(statement: &str) -> bool {
    let words: Vec<String> = tokens(statement)
        .filter_map(|(token, _)| match token {
            Token::Word(word) => Some(word.to_uppercase()),
            _ => None,
        })
        .collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    matches!(
        words.as_slice(),
        ["BEGIN" | "COMMIT" | "END"]
            | ["BEGIN" | "START", "TRANSACTION"]
            | ["SELECT"]
            | ["SELECT", "NULL" | "TRUE"]
    )
}

/// Why a folder is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The folder cannot be used.
    #[error("{folder} {what}; {hint}")]
    Folder {
        /// The folder.
        folder: String,
        /// What is wrong.
        what: String,
        /// What to do.
        hint: String,
    },
    /// Two files claim one version, which the tool itself refuses.
    #[error("{second}: version {version} is already that of {first}; give one of them another")]
    Twice {
        /// The version.
        version: String,
        /// The file that was read first.
        first: String,
        /// The other.
        second: String,
    },
}

/// Reads a folder, with the given layout or the one that its files speak for.
///
/// # Errors
/// A folder that cannot be read, that has no migrations, or two of one version.
pub fn read(dir: &Path, layout: Option<Layout>) -> Result<History, HistoryError> {
    let folder = Folder::open(dir)?;
    let (layout, reason) = match layout {
        Some(layout) => (layout, "as --layout says".to_owned()),
        None => detect::layout(&folder)?,
    };
    let mut history = History { layout, reason, migrations: Vec::new(), notes: folder.notes.clone() };
    match layout {
        Layout::GolangMigrate => numbered::golang_migrate(&folder, &mut history),
        Layout::Sqlx => numbered::sqlx(&folder, &mut history),
        Layout::Diesel => diesel::read(&folder, &mut history),
        Layout::Dbmate => marked::dbmate(&folder, &mut history),
        Layout::Goose => goose::read(&folder, &mut history),
        Layout::Refinery => flyway::refinery(&folder, &mut history),
        Layout::Flyway => flyway::flyway(&folder, &mut history),
        Layout::Plain => plain::read(&folder, &mut history),
    }?;
    code::left_out(&folder, &mut history);
    for migration in &mut history.migrations {
        for script in [Some(&mut migration.up), migration.down.as_mut()].into_iter().flatten() {
            refused::look(layout, script);
        }
    }
    if history.migrations.is_empty() {
        let what = format!("has no migrations of the layout {}", layout.name());
        return Err(folder.unusable(what, "name another layout with --layout, or another folder"));
    }
    history.notes.sort();
    history.notes.dedup();
    Ok(history)
}
