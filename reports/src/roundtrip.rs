//! What `fulldress roundtrip` found: every migration of a history up, down and up again.
//!
//! The serde form is the format `fulldress/roundtrip/1`. The harness gives [`Facts`]; the verdict is decided here.

mod text;
mod verdict;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use crate::evidence::Difference;

pub use verdict::{REQUIREMENTS, Requirement, RequirementRecord, VERDICTS, Verdict, VerdictRecord};

/// Name and version of the JSON form.
pub const SCHEMA: &str = "fulldress/roundtrip/1";

/// A history that was walked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct RoundTrip {
    /// [`SCHEMA`].
    pub schema: String,
    /// The server's own name of its version, such as `15.14`.
    pub server_version: String,
    /// The folder as the caller named it.
    pub folder: String,
    /// How its files were read, such as `golang-migrate`.
    pub layout: String,
    /// Why they were read so.
    pub layout_reason: String,
    /// Rows that each table was filled with; absent when no rows were made.
    pub rows: Option<u64>,
    /// What the rows were made from.
    pub seed: u64,
    /// What makes the walk fail.
    pub required: Vec<Requirement>,
    /// In the order in which they ran.
    pub migrations: Vec<Migration>,
    /// What was left out or read otherwise than it stands, beside the migrations.
    pub notes: Vec<Note>,
    /// Tables that could not be filled, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unfilled: BTreeMap<String, String>,
}

/// One migration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Migration {
    /// Its file's or folder's name without what all names have.
    pub id: String,
    /// What came of it.
    pub verdict: Verdict,
    /// Classes of the differences, sorted.
    pub classes: Vec<String>,
    /// Between the schema before it and the schema after its way back.
    pub differences: Vec<Difference>,
    /// Tables whose columns came back in another physical order, and views whose list of columns did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reordered: Vec<String>,
    /// What became of the rows; absent when they were not compared.
    pub data: Option<Data>,
    /// What the second way up came to; absent when there was none.
    pub reapply: Option<Reapply>,
    /// Time of the first way up, in milliseconds.
    pub up_ms: u64,
    /// Time of the way back, in milliseconds; absent when it was not tried.
    pub down_ms: Option<u64>,
    /// Time of everything that was done for it, in milliseconds.
    pub took_ms: u64,
    /// Where the way up stands.
    pub up: Place,
    /// Where the way back stands; absent when there is none.
    pub down: Option<Place>,
    /// What failed.
    pub failure: Option<Failure>,
    /// The first migration before this one whose way up failed; absent when there was none. What it would have made is missing, and
    /// the verdict rests on that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incomplete_since: Option<String>,
    /// Where somebody should look first.
    pub place: Place,
    /// What was left out or run otherwise than it stands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<Note>,
}

/// What became of rows that were there before a migration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Data {
    /// Rows that are gone or have another value, by table; tables without such rows are left out.
    pub lost: BTreeMap<String, u64>,
}

/// What a second way up came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reapply {
    /// The schema of the first.
    Same,
    /// Another schema.
    Differs,
    /// The server refused it.
    Failed,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Place {
    /// As the caller would open it.
    pub file: String,
    /// Counted from 1.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.file, self.line)
    }
}

/// A sentence about a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Note {
    /// Which file.
    pub file: String,
    /// Which line, counted from 1; absent when the whole file is meant.
    pub line: Option<u32>,
    /// What is there, and what was done about it.
    pub text: String,
}

impl std::fmt::Display for Note {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => write!(formatter, "{}:{line}: {}", self.file, self.text),
            None => write!(formatter, "{}: {}", self.file, self.text),
        }
    }
}

/// Which way failed, where and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Failure {
    /// Which way.
    pub during: Way,
    /// The statement.
    pub place: Place,
    /// SQLSTATE, five characters; absent when the script never reached the server.
    pub sqlstate: Option<String>,
    /// The server's words, or why it was not sent.
    pub what: String,
    /// What would help; absent when nothing general would.
    pub hint: Option<String>,
}

/// A way through a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// The first way up.
    Up,
    /// The way back.
    Down,
    /// The second way up.
    Reapply,
}

/// The script of a way back, before it is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WayBack {
    /// There is no file and no section for it.
    Missing,
    /// It has no statement.
    Empty(Place),
    /// It has some.
    Written(Place),
}

/// What was seen of one migration; [`Facts::judge`] makes a [`Migration`] of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// As [`Migration::id`].
    pub id: String,
    /// Where the way up stands.
    pub up: Place,
    /// The way back.
    pub back: WayBack,
    /// What failed.
    pub failure: Option<Failure>,
    /// As [`Migration::differences`].
    pub differences: Vec<Difference>,
    /// As [`Migration::classes`]; in any order and more than once.
    pub classes: Vec<String>,
    /// As [`Migration::reordered`].
    pub reordered: Vec<String>,
    /// As [`Migration::data`].
    pub data: Option<Data>,
    /// As [`Migration::reapply`].
    pub reapply: Option<Reapply>,
    /// As [`Migration::up_ms`].
    pub up_ms: u64,
    /// As [`Migration::down_ms`].
    pub down_ms: Option<u64>,
    /// As [`Migration::took_ms`].
    pub took_ms: u64,
    /// As [`Migration::incomplete_since`].
    pub incomplete_since: Option<String>,
    /// The line that a difference is about, where one was found.
    pub difference_at: Option<Place>,
    /// As [`Migration::notes`].
    pub notes: Vec<Note>,
}

impl Facts {
    /// A migration of which nothing is known but where it stands.
    #[must_use]
    pub const fn new(id: String, up: Place, back: WayBack) -> Self {
        Self {
            id,
            up,
            back,
            failure: None,
            differences: Vec::new(),
            classes: Vec::new(),
            reordered: Vec::new(),
            data: None,
            reapply: None,
            up_ms: 0,
            down_ms: None,
            took_ms: 0,
            incomplete_since: None,
            difference_at: None,
            notes: Vec::new(),
        }
    }

    /// The migration with its verdict.
    #[must_use]
    pub fn judge(mut self) -> Migration {
        let verdict = Verdict::of(&self);
        self.classes.sort();
        self.classes.dedup();
        let down = match self.back {
            WayBack::Missing => None,
            WayBack::Empty(place) | WayBack::Written(place) => Some(place),
        };
        let failed_at = self.failure.as_ref().map(|failure| failure.place.clone());
        let place = failed_at
            .or(self.difference_at)
            .or_else(|| down.clone().filter(|_| verdict != Verdict::UpFailed))
            .unwrap_or_else(|| self.up.clone());
        Migration {
            id: self.id,
            verdict,
            classes: self.classes,
            differences: self.differences,
            reordered: self.reordered,
            data: self.data,
            reapply: self.reapply,
            up_ms: self.up_ms,
            down_ms: self.down_ms,
            took_ms: self.took_ms,
            up: self.up,
            down,
            failure: self.failure,
            incomplete_since: self.incomplete_since,
            place,
            notes: self.notes,
        }
    }
}

impl Migration {
    /// Rows that are gone or changed, over all tables.
    #[must_use]
    pub fn rows_lost(&self) -> u64 {
        self.data.iter().flat_map(|data| data.lost.values()).sum()
    }

    /// The requirements of a walk that this migration does not meet.
    #[must_use]
    pub fn unmet(&self, required: &[Requirement]) -> Vec<Requirement> {
        required.iter().copied().filter(|requirement| !requirement.met(self)).collect()
    }

    /// One sentence on what came of it, without its place.
    #[must_use]
    pub fn sentence(&self) -> String {
        text::sentence(self)
    }
}

impl RoundTrip {
    /// Migrations that do not meet what is required, with what they do not meet.
    pub fn failed(&self) -> impl Iterator<Item = (&Migration, Vec<Requirement>)> {
        self.migrations
            .iter()
            .map(|migration| (migration, migration.unmet(&self.required)))
            .filter(|(_, unmet)| !unmet.is_empty())
    }

    /// How many migrations have each verdict; verdicts that none has are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Verdict, usize> {
        let mut counts = BTreeMap::new();
        for migration in &self.migrations {
            *counts.entry(migration.verdict).or_default() += 1;
        }
        counts
    }

    /// The middle of the migrations' times, in milliseconds; none when there is no migration.
    #[must_use]
    pub fn median_ms(&self) -> Option<u64> {
        let mut times: Vec<u64> = self.migrations.iter().map(|migration| migration.took_ms).collect();
        times.sort_unstable();
        times.get(times.len() / 2).copied()
    }

    /// The walk as text for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        text::text(self)
    }
}

#[cfg(test)]
mod tests;
