//! The checks' reference, generated from their records. Called by the test that keeps `docs/checks.md` equal.

use std::fmt::Write as _;

use crate::check::{CHECKS, CheckRecord};
use crate::figures;

/// `docs/checks.md`: every check with its meaning, limit and remedy.
#[must_use]
pub fn checks_reference() -> String {
    let mut out = String::from(
        "# Checks\n\n\
         This page is generated from the records in `reports/src/check.rs`; do not edit it by hand.\n\n\
         A check's outcome is `pass`, `fail`, `inconclusive` (too little evidence), `unmeasured` (the instrument \
         failed) or `waived`. Without evidence a check is inconclusive and never passes. Required checks decide the \
         verdict; a plan may change `limit` and `required` under `[checks.<ID>]`.\n",
    );
    let mut family = "";
    for record in CHECKS {
        let id_family = record.id.name().split('-').next().unwrap_or_default();
        if id_family != family {
            family = id_family;
            // Writing to a String cannot fail, here and below.
            _ = writeln!(out, "\n## {}", family_title(family));
        }
        entry(&mut out, record);
    }
    out
}

fn entry(out: &mut String, record: &CheckRecord) {
    let limit = match record.limit {
        0.0 => "none allowed".to_owned(),
        limit => figures::value(record.unit, limit),
    };
    let weight = if record.required { "required" } else { "advisory" };
    _ = writeln!(out, "\n### {}: {}\n", record.id, record.title);
    _ = writeln!(out, "{}\n", record.meaning);
    _ = writeln!(out, "- Limit: {limit} ({weight})");
    _ = writeln!(out, "- Remedy: {}", record.remedy);
}

fn family_title(family: &str) -> &str {
    match family {
        "PKG" => "Package",
        "PRE" => "Preflight",
        "LOCK" => "Locks",
        "DEP" => "Dependent services",
        "SLO" => "Service objectives",
        "ROLL" => "Rollback",
        "EVID" => "Evidence",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::checks_reference;

    /// Set this variable to write the page anew after a change of the records.
    const REGENERATE: &str = "FULLDRESS_REGENERATE";

    #[test]
    fn the_page_in_the_repository_is_the_one_of_the_records() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md");
        let page = checks_reference();
        if std::env::var_os(REGENERATE).is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let stored = std::fs::read_to_string(path).unwrap();
        assert!(stored == page, "docs/checks.md is stale: run the tests with {REGENERATE}=1");
    }
}
