//! ROLL-COMPAT: whether the old version lives with the upgraded schema, and with the one after rollback.

use std::collections::BTreeMap;

use super::{Case, Ruling};
use crate::evidence::{BrokenStatement, SchemaState};
use crate::figures::{self, cut};
use crate::finding::Finding;

/// Characters of a statement that name it in a finding.
const SQL_SHOWN: usize = 90;

pub(super) fn compat(case: &Case<'_>) -> Ruling {
    let Some(compat) = &case.evidence.compat else {
        return Ruling::inconclusive("no statement of the clients was tried on the upgraded schema");
    };
    let mut by_statement: BTreeMap<&str, Vec<&BrokenStatement>> = BTreeMap::new();
    for broken in &compat.broken {
        by_statement.entry(&broken.sql).or_default().push(broken);
    }
    let findings = by_statement.into_iter().map(|(sql, broken)| finding(case, sql, &broken)).collect();
    let pass = format!(
        "{} of the old version can be prepared on the upgraded schema and after rollback",
        figures::count(compat.statements, "statement")
    );
    let missing = if compat.statements == 0 {
        Some("no statement of the clients was seen before the upgrade".to_owned())
    } else {
        let untried = [SchemaState::Upgraded, SchemaState::RolledBack];
        let untried = untried.into_iter().find(|state| !compat.tried.contains(state));
        untried.map(|state| format!("the statements were not tried {}", place(state)))
    };
    let mut ruling = case.counted(findings, pass);
    if compat.unprepared > 0 {
        let more = figures::count(compat.unprepared, "more statement");
        ruling.evidence.push_str(&format!("; {more} could not be prepared before the upgrade either"));
    }
    ruling.unless_missing(missing)
}

fn finding(case: &Case<'_>, sql: &str, broken: &[&BrokenStatement]) -> Finding {
    let one = |broken: &&BrokenStatement| {
        format!("{} {}: {}", broken.sqlstate, place(broken.state), cut(&broken.message, 120))
    };
    let refusals: Vec<String> = broken.iter().map(one).collect();
    let shown = cut(sql, SQL_SHOWN);
    let what = format!("The old version's statement \"{shown}\" is refused: {}.", refusals.join("; "));
    case.finding(shown, what)
}

const fn place(state: SchemaState) -> &'static str {
    match state {
        SchemaState::Upgraded => "on the upgraded schema",
        SchemaState::RolledBack => "after the rollback",
    }
}
