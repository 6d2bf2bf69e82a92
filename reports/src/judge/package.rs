//! Rules on the package as it arrived and on what preflight read in it.

use crate::check::{CheckId, Outcome};
use crate::evidence::PackageFacts;
use crate::figures;

use super::{Case, Ruling};

pub(super) fn archive(case: &Case<'_>) -> Ruling {
    let Some(package) = &case.evidence.package else {
        return Ruling::inconclusive("no package was opened");
    };
    let pass = format!("the archive opened; entries checked: {}", figures::thousands(package.entries));
    case.counted(refusal(case, package), pass)
}

pub(super) fn digest(case: &Case<'_>) -> Ruling {
    let Some(package) = &case.evidence.package else {
        return Ruling::inconclusive("no package was opened");
    };
    let findings = refusal(case, package);
    if findings.is_empty() && package.refused.is_some() {
        return Ruling::inconclusive("the archive was refused before its digests were checked");
    }
    if findings.is_empty() && package.entries == 0 {
        return Ruling::inconclusive("the digest of no entry was checked");
    }
    let entries = figures::thousands(package.entries);
    case.counted(findings, format!("{entries} of {entries} entries have the digest that the manifest states"))
}

fn refusal(case: &Case<'_>, package: &PackageFacts) -> Vec<crate::finding::Finding> {
    package
        .refused
        .iter()
        .filter(|refusal| refusal.check == case.record.id)
        .map(|refusal| case.finding(package.name.as_str(), refusal.reason.clone()))
        .collect()
}

pub(super) fn preflight(case: &Case<'_>) -> Ruling {
    let id: CheckId = case.record.id;
    let Some(preflight) = &case.evidence.preflight else {
        return Ruling::inconclusive("preflight did not run");
    };
    let findings: Vec<_> = preflight.findings.iter().filter(|finding| finding.check == id).cloned().collect();
    let ran = preflight.ran.contains(&id);
    let ruling = case.counted(findings, "preflight read the whole package and found nothing");
    match preflight.missing.get(&id) {
        _ if ruling.outcome == Outcome::Fail => ruling,
        Some(missing) => Ruling::inconclusive(format!("the rule could not run: {missing}")),
        None if ran => ruling,
        None => Ruling::inconclusive("preflight did not run this rule"),
    }
}
