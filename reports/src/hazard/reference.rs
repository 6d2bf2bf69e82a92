//! The reference of all hazards as Markdown: the records, and what their examples did when they ran.
//!
//! Called by the test that runs the examples and keeps `docs/hazards.md` equal.

use std::fmt::Write as _;

use super::{DecidedBy, EXAMPLE_SETUP, Hazard, Shown, all};
use crate::trace::{Script, Statement};

/// The two examples of a hazard as they ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executed {
    /// Traced.
    Traced {
        /// The one that shows it.
        bad: Script,
        /// The one that does not.
        good: Script,
    },
    /// Played by sessions beside each other.
    Played {
        /// The one that shows it.
        bad: Vec<Played>,
        /// The one that does not.
        good: Vec<Played>,
    },
    /// Not run: only a rehearsal shows it.
    Told,
}

/// A statement of one of several sessions, and what came of it before the next one was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Played {
    /// Its session.
    pub session: String,
    /// The statement.
    pub sql: String,
    /// What was seen.
    pub notes: Vec<String>,
}

/// What a rule of squawk says about the two examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linted {
    /// The rule.
    pub rule: &'static str,
    /// Whether it names the bad one.
    pub bad: bool,
    /// Whether it names the good one.
    pub good: bool,
}

/// The reference of all hazards, with what the examples did and what squawk says about them; in the order of [`all`].
#[must_use]
pub fn reference(executed: &[(Executed, Vec<Linted>)]) -> String {
    let mut out = String::from(REFERENCE_HEAD);
    // Writing to a String cannot fail, here and below.
    _ = writeln!(out, "```sql\n{EXAMPLE_SETUP}```");
    for (hazard, (executed, linted)) in all().zip(executed) {
        write_record(&mut out, hazard, linted);
        match executed {
            Executed::Traced { bad, good } => {
                write_example(&mut out, "bad", &bad.statements, write_executed);
                write_example(&mut out, "good", &good.statements, write_executed);
            }
            Executed::Played { bad, good } => {
                write_example(&mut out, "bad", bad, write_played);
                write_example(&mut out, "good", good, write_played);
            }
            Executed::Told => {
                for (name, sql) in [("bad", hazard.bad), ("good", hazard.good)] {
                    _ = writeln!(out, "\n{name} (not run here):\n\n```\n{sql}\n```");
                }
            }
        }
    }
    out
}

fn write_record(out: &mut String, hazard: &Hazard, linted: &[Linted]) {
    let decided = match hazard.decided_by {
        DecidedBy::Sql => "the statement alone",
        DecidedBy::Catalog => "the statement with the catalog that it meets",
        DecidedBy::RunningSystem => "only a running system",
    };
    let checks: Vec<String> = hazard.checks.iter().map(|check| format!("`{check}`")).collect();
    let shown = match hazard.shown {
        Shown::Trace => format!("`fulldress trace`; in a rehearsal {}", checks.join(", ")),
        Shown::Sessions(_) | Shown::Rehearsal => format!("a rehearsal: {}", checks.join(", ")),
    };
    _ = writeln!(out, "\n## `{}`: {}\n\n{}\n", hazard.id, hazard.name, hazard.what);
    _ = writeln!(out, "- fires: {}\n- decided by: {decided}\n- shown by: {shown}", hazard.fires);
    for Linted { rule, bad, good } in linted {
        let said = match (bad, good) {
            (true, false) => "agrees",
            (true, true) => "names the good one as well",
            (false, true) => "misses the bad one and names the good one",
            (false, false) => "misses the bad one",
        };
        _ = writeln!(out, "- squawk's `{rule}`: {said}");
    }
    _ = writeln!(out, "- instead: {}", hazard.remedy);
}

fn write_example<T>(out: &mut String, name: &str, statements: &[T], write: fn(&mut String, &T)) {
    _ = writeln!(out, "\n{name}:\n\n```");
    for statement in statements {
        write(out, statement);
    }
    _ = writeln!(out, "```");
}

fn write_played(out: &mut String, played: &Played) {
    _ = writeln!(out, "{}: {};", played.session, played.sql);
    for note in &played.notes {
        _ = writeln!(out, "    -- {note}");
    }
}

/// A statement with what was measured, without times: those differ from run to run.
fn write_executed(out: &mut String, statement: &Statement) {
    let sql: Vec<&str> = statement.sql.split_whitespace().collect();
    _ = writeln!(out, "{};", sql.join(" "));
    // Those of a statement that failed are what a look met by chance.
    for lock in statement.locks.iter().filter(|_| statement.error.is_none()) {
        _ = writeln!(out, "    -- {} on {} {}", lock.mode.sql(), lock.kind, lock.relation);
    }
    for relation in &statement.rewritten {
        _ = writeln!(out, "    -- rewrites {relation}");
    }
    for scan in &statement.scanned {
        _ = writeln!(out, "    -- reads all of {} ({} rows)", scan.relation, scan.rows);
    }
    for index in &statement.invalid_indexes {
        _ = writeln!(out, "    -- leaves the INVALID index {index}");
    }
    for key in &statement.unindexed_foreign_keys {
        _ = writeln!(out, "    -- the foreign key {key} has no index");
    }
    if let Some(error) = &statement.error {
        _ = writeln!(out, "    -- error {}: {}", error.sqlstate, error.message);
    }
    if !statement.hazards.is_empty() {
        _ = writeln!(out, "    -- hazards: {}", statement.hazards.join(", "));
    }
}

const REFERENCE_HEAD: &str = "\
# Hazards

What goes wrong beside a migration. `fulldress trace` names what it can see under `hazards`, decided by what the server did: its
lock table, the scans that it counted, the files of its relations. What only a running system shows is decided by the checks of
a rehearsal that stand beside it. Below each stand a script that shows it and one that does not, with what was measured when
they ran on PostgreSQL 15 (sessions beside each other where it needs more than one); a test runs them again and fails when this
page differs. Written by `FULLDRESS_REGENERATE=1 cargo test --test trace hazards`.

The linter [squawk](https://squawkhq.com) reads the same examples without a server. Where it misses one, or names a script that
does no harm, that stands here; in a trace the measurement wins.

The tables that the examples work on:

";
