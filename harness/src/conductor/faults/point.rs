//! Where a fault can strike: before every statement of a step's SQL, and before every command of a script.
//!
//! `faults` asks a package for its points and takes the text of a step with the fault in it; `cell` runs that.

use fulldress_reports::evidence::FaultKind;
use fulldress_reports::sql::{line_of, only_sql, split};

use crate::package::Package;
use crate::package::manifest::{Action, Step};

/// What a session runs while it waits to be struck; it is found by this name.
pub(super) const PAUSE: &str = "fulldress_fault";
/// Where a script counts its commands; hosts empty the folder by themselves, so that it is no residue.
pub(super) const COMMANDS: &str = "/tmp/fulldress-commands";
/// Longest that a session waits to be struck, seconds.
const PAUSE_S: u32 = 600;

/// A place in a step.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Point {
    /// Index of the step in the manifest.
    pub step: usize,
    /// Where in it.
    pub place: Place,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Before a statement.
    Statement {
        /// Counted from 1.
        number: usize,
        /// Statements in the file.
        of: usize,
        /// Line of its first word.
        line: u32,
        /// Byte offset of its first word.
        offset: usize,
    },
    /// Before a command, counted as the script runs them.
    Command {
        /// Counted from 1.
        number: usize,
        /// Commands that it ran without a fault.
        of: usize,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Statement { number, of, line, .. } => {
                write!(formatter, "before statement {number} of {of}, line {line}")
            }
            Self::Command { number, of } => write!(formatter, "before command {number} of {of}"),
        }
    }
}

/// The faults that can strike at a kind of place.
pub(super) const fn faults_at(place: Place) -> &'static [FaultKind] {
    match place {
        Place::Statement { .. } => &FaultKind::ALL,
        Place::Command { .. } => &[FaultKind::Fails, FaultKind::MigratorKilled],
    }
}

/// Points of the SQL of a step.
pub(super) fn statements(step: usize, text: &str) -> Vec<Point> {
    let sql = only_sql(text);
    let parts = split(&sql);
    let of = parts.len();
    let point = |(number, part): (usize, &&str)| {
        let start = part.as_ptr() as usize - sql.as_ptr() as usize;
        let offset = start + (part.len() - part.trim_start().len());
        let place = Place::Statement { number: number + 1, of, line: line_of(text, offset), offset };
        Point { step, place }
    };
    parts.iter().enumerate().map(point).collect()
}

/// Points of a script that ran so many commands.
pub(super) fn commands(step: usize, of: usize) -> Vec<Point> {
    (1..=of).map(|number| Point { step, place: Place::Command { number, of } }).collect()
}

/// A step's file with a fault in it.
pub(super) fn with_fault(text: &str, place: Place, fault: FaultKind) -> String {
    match place {
        Place::Statement { offset, .. } => {
            let (before, after) = text.split_at(offset);
            format!("{before}\n{}\n{after}", statement(fault))
        }
        Place::Command { number, .. } => {
            let end = if fault == FaultKind::MigratorKilled { "kill -KILL $$" } else { "exit 1" };
            let strike = format!("[ \"$(wc -c <{COMMANDS})\" -ne {number} ] || {end}");
            trapped(text, &format!("printf x >>{COMMANDS}; {strike}"))
        }
    }
}

/// A script that counts its commands.
pub(super) fn counting(text: &str) -> String {
    trapped(text, &format!("printf x >>{COMMANDS}"))
}

/// Whether bash runs the script: only its traps see every command.
pub(super) fn is_bash(text: &str) -> bool {
    text.lines().next().is_some_and(|first| first.starts_with("#!") && first.contains("bash"))
}

/// The trap stands behind the first line, in functions and subshells too.
fn trapped(text: &str, action: &str) -> String {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    format!("{first}\nset -T; : >{COMMANDS}; trap '{action}' DEBUG\n{rest}")
}

/// What strikes, as a statement. A session that must be struck from outside waits for it.
fn statement(fault: FaultKind) -> String {
    let raise = |message: &str, state: &str| {
        format!(
            "DO $fulldress$ BEGIN RAISE EXCEPTION '{message}' USING ERRCODE = '{state}'; END $fulldress$;"
        )
    };
    match fault {
        FaultKind::Fails => raise("the rehearsal lets this statement fail", "P0001"),
        FaultKind::LockTimeout => raise("canceling statement due to lock timeout, by the rehearsal", "55P03"),
        FaultKind::MigratorKilled
        | FaultKind::BackendTerminated
        | FaultKind::DatabaseRestarted
        | FaultKind::ConnectionCut => format!("SELECT pg_catalog.pg_sleep({PAUSE_S}) AS {PAUSE};"),
    }
}

/// The step with another file, which is tried once: a fault that is tried again is none.
pub(super) fn step_with(step: &Step, file: &str) -> Step {
    let action = match &step.action {
        Action::Sql { retry_pause, .. } => {
            Action::Sql { file: file.to_owned(), retries: 0, retry_pause: *retry_pause }
        }
        Action::Script { retry_pause, .. } => {
            Action::Script { file: file.to_owned(), retries: 0, retry_pause: *retry_pause }
        }
        other => other.clone(),
    };
    Step { action, ..step.clone() }
}

/// Name of a step's file with a fault: beside the file itself, since scripts look for their neighbours.
pub(super) fn faulty_name(file: &str) -> String {
    match file.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/fulldress-fault-{name}"),
        None => format!("fulldress-fault-{file}"),
    }
}

/// The package with one more file in it.
pub(super) fn package_with(package: &Package, beside: &str, name: &str, text: String) -> Package {
    let mut changed = package.clone();
    if let Some(file) = package.files.get(beside) {
        let mut file = file.clone();
        file.bytes = text.into_bytes();
        changed.files.insert(name.to_owned(), file);
    }
    changed
}

#[cfg(test)]
mod tests {
    use fulldress_reports::evidence::FaultKind;

    use super::{Place, statements, with_fault};

    #[test]
    fn every_statement_has_a_point_and_the_fault_stands_before_it() {
        let text = "-- note\nBEGIN;\nCREATE TABLE a (x int DEFAULT ';'::text::int);\nDO $$ BEGIN; END $$;\nCOMMIT;\n";
        let points = statements(3, text);
        let lines: Vec<u32> = points
            .iter()
            .map(|point| match point.place {
                Place::Statement { line, .. } => line,
                Place::Command { .. } => 0,
            })
            .collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        let faulty = with_fault(text, points[1].place, FaultKind::Fails);
        let (before, after) = faulty.split_once("DO $fulldress$").unwrap();
        assert!(before.ends_with("BEGIN;\n\n"), "{before}");
        assert!(after.contains("CREATE TABLE a"), "{after}");
        assert_eq!(statements(0, &faulty).len(), points.len() + 1);
    }

    #[test]
    fn a_script_keeps_its_first_line() {
        let place = Place::Command { number: 2, of: 5 };
        let faulty = with_fault("#!/bin/bash\nset -eu\necho a\n", place, FaultKind::MigratorKilled);
        assert!(
            faulty.starts_with("#!/bin/bash\nset -T;") && faulty.contains("-ne 2 ] || kill -KILL $$"),
            "{faulty}"
        );
        assert!(faulty.ends_with("set -eu\necho a\n"));
    }
}
