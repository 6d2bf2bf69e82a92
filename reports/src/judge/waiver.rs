//! Waivers: which findings are accepted today, and why others are not.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use time::Date;
use time::macros::format_description;

use crate::check::{CheckId, Outcome};
use crate::figures;
use crate::finding::{Finding, Waiver};

use super::Ruled;

/// A finding that a waiver in force accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaivedFinding {
    /// The check.
    pub check: CheckId,
    /// The finding's object.
    pub object: String,
    /// Why it is accepted.
    pub reason: String,
    /// Who answers for it.
    pub owner: String,
    /// Last day on which it holds, `YYYY-MM-DD` in UTC.
    pub expires: String,
}

/// Turns failed checks all of whose findings are accepted to `waived`; says for the others why a waiver did not
/// hold. Returns what was accepted.
pub(super) fn apply(waivers: &[Waiver], today: &str, ruled: &mut [Ruled]) -> Vec<WaivedFinding> {
    let mut waived = Vec::new();
    for one in ruled.iter_mut().filter(|one| one.ruling.outcome == Outcome::Fail) {
        let ruling = &mut one.ruling;
        let mut refused = Vec::new();
        let mut accepted = 0;
        for finding in &ruling.findings {
            match decide(waivers, finding, today) {
                Decision::None => {}
                Decision::Accepted(waiver) => {
                    accepted += 1;
                    waived.push(record(waiver));
                }
                Decision::Refused(sentence) => refused.push(sentence),
            }
        }
        if accepted > 0 && accepted == ruling.findings.len() {
            ruling.outcome = Outcome::Waived;
        }
        for sentence in refused {
            ruling.evidence.push(' ');
            ruling.evidence.push_str(&sentence);
        }
    }
    waived.sort_by(|left, right| (left.check, &left.object).cmp(&(right.check, &right.object)));
    waived.dedup();
    waived
}

enum Decision<'waiver> {
    /// No waiver names the finding.
    None,
    /// A waiver in force accepts it.
    Accepted(&'waiver Waiver),
    /// A waiver names it and does not hold.
    Refused(String),
}

fn decide<'waiver>(waivers: &'waiver [Waiver], finding: &Finding, today: &str) -> Decision<'waiver> {
    let mut decision = Decision::None;
    let named =
        waivers.iter().filter(|waiver| waiver.check == finding.check && waiver.object == finding.object);
    for waiver in named {
        match refusal(waiver, finding, today) {
            None => return Decision::Accepted(waiver),
            Some(sentence) => decision = Decision::Refused(sentence),
        }
    }
    decision
}

/// Why a waiver that names the finding does not hold; absent when it does.
fn refusal(waiver: &Waiver, finding: &Finding, today: &str) -> Option<String> {
    let Waiver { object, owner, expires, .. } = waiver;
    let (Some(last_day), Some(day)) = (parse_day(expires), parse_day(today)) else {
        return Some(format!(
            "The waiver of {owner} for {object} ends on `{expires}`, which is no day; write YYYY-MM-DD."
        ));
    };
    if day > last_day {
        return Some(format!("The waiver of {owner} for {object} expired on {expires}."));
    }
    let bound = waiver.bound?;
    let unit = finding.check.record().unit;
    match finding.magnitude {
        Some(magnitude) if magnitude <= bound => None,
        Some(magnitude) => Some(format!(
            "The waiver of {owner} for {object} accepts {} at most, and {} was seen.",
            figures::value(unit, bound),
            figures::value(unit, magnitude)
        )),
        None => Some(format!(
            "The waiver of {owner} for {object} has a bound, and the finding has no size to hold against it."
        )),
    }
}

fn parse_day(text: &str) -> Option<Date> {
    Date::parse(text, format_description!("[year]-[month]-[day]")).ok()
}

fn record(waiver: &Waiver) -> WaivedFinding {
    WaivedFinding {
        check: waiver.check,
        object: waiver.object.clone(),
        reason: waiver.reason.clone(),
        owner: waiver.owner.clone(),
        expires: waiver.expires.clone(),
    }
}
