//! Preflight: everything that a package and the inventory say together, before anything is started.
//!
//! Called by the conductor and by `fulldress preflight`; tells the judge as [`PreflightEvidence`]. Each rule is a
//! record with a function; what a rule cannot decide it notes and does not guess.

mod config_key;
mod credential;
mod endpoint;
mod invocation;
mod path;
mod privilege;
mod schedule;
mod scripts;
mod shell;
mod sql;
mod unit;
mod word;

use std::collections::BTreeMap;

use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::PreflightEvidence;
use fulldress_reports::finding::{Finding, Place};

use crate::inventory::Inventory;
use crate::package::Package;
use scripts::ScriptFile;

/// What preflight looks at.
#[derive(Debug, Clone, Copy)]
pub struct PreflightInput<'input> {
    /// The package.
    pub package: &'input Package,
    /// What production is known to have.
    pub inventory: &'input Inventory,
}

/// The record of a rule. Its meaning and remedy are those of its check.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The check that it feeds.
    pub check: CheckId,
    /// What it looks at, a phrase.
    pub subject: &'static str,
    /// Whether it reads shell scripts, and so lacks evidence when one cannot be read.
    reads_scripts: bool,
    apply: fn(&Scene<'_>, &mut Report),
}

/// Every rule, in the order of the checks.
pub const RULES: &[Rule] = &[
    Rule {
        check: CheckId::PrePrivilege,
        subject: "programs that scripts run as root",
        reads_scripts: true,
        apply: privilege::apply,
    },
    Rule {
        check: CheckId::PreUnit,
        subject: "units that scripts name against the inventory's",
        reads_scripts: true,
        apply: unit::apply,
    },
    Rule {
        check: CheckId::PreConfigKey,
        subject: "keys that the package sets and production's files use",
        reads_scripts: false,
        apply: config_key::apply,
    },
    Rule {
        check: CheckId::PrePath,
        subject: "the known direct upgrades from the installed version",
        reads_scripts: false,
        apply: path::apply,
    },
    Rule {
        check: CheckId::PreSchedule,
        subject: "scheduled tasks that scripts and SQL create and their rollbacks remove",
        reads_scripts: true,
        apply: schedule::apply,
    },
    Rule {
        check: CheckId::PreEndpoint,
        subject: "hosts that scripts and SQL call against the inventory's",
        reads_scripts: true,
        apply: endpoint::apply,
    },
    Rule {
        check: CheckId::PreCredential,
        subject: "literal credentials in any file",
        reads_scripts: false,
        apply: credential::apply,
    },
    Rule {
        check: CheckId::PreSql,
        subject: "hazards that SQL of steps and of psql states",
        reads_scripts: false,
        apply: sql::apply,
    },
];

/// Applies every rule.
#[must_use]
pub fn preflight(package: &Package, inventory: &Inventory) -> PreflightEvidence {
    let scene = Scene { input: PreflightInput { package, inventory }, scripts: scripts::collect(package) };
    let mut evidence = PreflightEvidence::default();
    for script in &scene.scripts {
        evidence.notes.extend(
            script
                .execution
                .unseen
                .iter()
                .map(|(line, what)| format!("{}:{line}: {what}: what it runs was not examined", script.name)),
        );
    }
    evidence.notes.extend(scripts::foreign(package));
    let unread = scripts::unread(&scene.scripts);
    for rule in RULES {
        let mut report = Report::new(rule.check);
        (rule.apply)(&scene, &mut report);
        let findings = report.findings();
        let unread = unread.clone().filter(|_| rule.reads_scripts && findings.is_empty());
        match report.missing.or(unread) {
            Some(missing) => {
                evidence.missing.insert(rule.check, missing);
            }
            None => evidence.ran.push(rule.check),
        }
        evidence.findings.extend(findings);
        evidence.notes.extend(report.notes);
    }
    evidence.notes.dedup();
    evidence
}

/// What the rules share: the scripts are read once.
struct Scene<'scene> {
    input: PreflightInput<'scene>,
    scripts: Vec<ScriptFile<'scene>>,
}

/// What one rule has to say.
struct Report {
    check: CheckId,
    /// By object and file, in the order in which they were met.
    found: Vec<Found>,
    index: BTreeMap<(String, String), usize>,
    notes: Vec<String>,
    missing: Option<String>,
}

struct Found {
    object: String,
    file: String,
    lines: Vec<u32>,
    what: String,
    remedy: Option<String>,
}

impl Report {
    fn new(check: CheckId) -> Self {
        Self { check, found: Vec::new(), index: BTreeMap::new(), notes: Vec::new(), missing: None }
    }

    /// Adds a finding. The same object in the same file is one finding, whatever line it is met on again.
    fn add(&mut self, object: impl Into<String>, place: (&str, u32), what: impl Into<String>) -> &mut Found {
        let (object, file, line) = (object.into(), place.0.to_owned(), place.1);
        let key = (object.clone(), file.clone());
        let next = self.found.len();
        let index = *self.index.entry(key).or_insert(next);
        if index == next {
            let what = what.into();
            self.found.push(Found { object, file, lines: vec![line], what, remedy: None });
        } else if !self.found[index].lines.contains(&line) {
            self.found[index].lines.push(line);
        }
        &mut self.found[index]
    }

    fn note(&mut self, place: (&str, u32), what: impl std::fmt::Display) {
        self.notes.push(printable(&format!("{}:{}: {what}", place.0, place.1)));
    }

    fn findings(&self) -> Vec<Finding> {
        let finding = |found: &Found| {
            let again = match &found.lines[1..] {
                [] => String::new(),
                [line] => format!(" (again on line {line})"),
                lines => format!(" (and {} times more)", lines.len()),
            };
            Finding {
                check: self.check,
                object: printable(&found.object),
                // Line 0 marks what is about the whole file.
                place: Some(Place {
                    file: found.file.clone(),
                    line: found.lines.first().copied().filter(|l| *l > 0),
                }),
                what: printable(&format!("{}{again}", found.what)),
                remedy: found.remedy.clone().unwrap_or_else(|| self.check.record().remedy.to_owned()),
                magnitude: None,
            }
        };
        self.found.iter().map(finding).collect()
    }
}

/// The vendor's text without control characters: they must not reach a terminal.
fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            printable.extend(character.escape_debug());
        } else {
            printable.push(character);
        }
    }
    printable
}

#[cfg(test)]
mod tests;
