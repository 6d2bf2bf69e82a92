//! The verdict rules: evidence in, checks, findings and verdict out.
//!
//! Called once, by [`crate::report::Report::build`]; renderers print what is decided here and decide nothing.
//! Every check has one rule, a function of the evidence and the plan's limits. Three adjustments follow in this
//! order: what a failed instrument takes away, what a small dataset takes away, and what waivers accept.

mod compat;
mod evid;
mod faults;
mod invariant;
mod lock;
mod order;
mod package;
mod roll;
mod slo;
#[cfg(test)]
mod tests;
mod trust;
mod verdict;
mod waiver;

use crate::check::{CHECKS, Check, CheckId, CheckRecord, Outcome};
use crate::evidence::Evidence;
use crate::figures;
use crate::finding::{Finding, Place};
use crate::phase::{Phase, PhaseSpan};

pub use verdict::Verdict;
pub(crate) use verdict::importance;
pub use waiver::WaivedFinding;

/// Everything that [`judge`] decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// One a record of [`CHECKS`], in their order.
    pub checks: Vec<Check>,
    /// What was found, by check in the order of [`CHECKS`], worst first within a check.
    pub findings: Vec<Finding>,
    /// Which findings a waiver in force accepts.
    pub waived: Vec<WaivedFinding>,
    /// The outcome of the whole.
    pub verdict: Verdict,
}

/// Judges the evidence against the limits that stand in it.
///
/// `today` is the day in UTC, `YYYY-MM-DD`, that waivers' expiry is held against: a bundle that is rendered
/// again a year later keeps its verdict when the day of the rehearsal is given.
#[must_use]
pub fn judge(evidence: &Evidence, today: &str) -> Judgement {
    let mut ruled: Vec<Ruled> = CHECKS.iter().map(|record| rule(evidence, record)).collect();
    trust::adjust(evidence, &mut ruled);
    let waived = waiver::apply(&evidence.rehearsal.limits.waivers, today, &mut ruled);
    let verdict = verdict::reach(evidence, &ruled, &waived);
    let findings = ruled.iter_mut().flat_map(|one| std::mem::take(&mut one.ruling.findings)).collect();
    let checks = ruled.into_iter().map(Ruled::into_check).collect();
    Judgement { checks, findings, waived, verdict }
}

/// What a rule may look at.
struct Case<'evidence> {
    evidence: &'evidence Evidence,
    record: &'static CheckRecord,
    /// Largest value that passes, in the record's unit.
    limit: f64,
}

/// What a rule decides.
struct Ruling {
    outcome: Outcome,
    observed: Option<f64>,
    evidence: String,
    findings: Vec<Finding>,
}

/// A rule's decision with what the plan says about its check.
struct Ruled {
    record: &'static CheckRecord,
    required: bool,
    limit: f64,
    ruling: Ruling,
}

fn rule(evidence: &Evidence, record: &'static CheckRecord) -> Ruled {
    let setting = evidence.rehearsal.limits.checks.get(&record.id).cloned().unwrap_or_default();
    let limit = setting.limit.unwrap_or(record.limit);
    let ruling = rule_of(record.id)(&Case { evidence, record, limit });
    Ruled { record, required: setting.required.unwrap_or(record.required), limit, ruling }
}

/// The table of rules. A match and not a map, so that a check without a rule does not compile.
fn rule_of(id: CheckId) -> fn(&Case<'_>) -> Ruling {
    match id {
        CheckId::PkgArchive => package::archive,
        CheckId::PkgDigest => package::digest,
        CheckId::PrePrivilege
        | CheckId::PreUnit
        | CheckId::PreConfigKey
        | CheckId::PrePath
        | CheckId::PreSchedule
        | CheckId::PreEndpoint
        | CheckId::PreCredential
        | CheckId::PreSql => package::preflight,
        CheckId::UpgStep => roll::steps,
        CheckId::LockHold => lock::hold,
        CheckId::LockWait => lock::wait,
        CheckId::LockMigration => lock::migration,
        CheckId::LockTimeout => lock::timeout,
        CheckId::LockDoubleRun => lock::double_run,
        CheckId::LockDeadlock => order::deadlock,
        CheckId::LockOrder => order::order,
        CheckId::LockResidue => lock::residue,
        CheckId::DepOutage => slo::outage,
        CheckId::SloLatency => slo::latency,
        CheckId::SloErrors => slo::errors,
        CheckId::SloBudget => slo::budget,
        CheckId::RollStuck => roll::stuck,
        CheckId::RollSchema => roll::schema,
        CheckId::RollData => roll::data,
        CheckId::RollLedger => roll::ledger,
        CheckId::RollFlag
        | CheckId::RollWebhook
        | CheckId::RollSchedule
        | CheckId::RollUnit
        | CheckId::RollFile => roll::residue,
        CheckId::RollReapply => roll::reapply,
        CheckId::RollFault => faults::faults,
        CheckId::RollCompat => compat::compat,
        CheckId::RollInvariant => invariant::invariants,
        CheckId::EvidDriver => evid::driver,
        CheckId::EvidRecorder => evid::recorder,
        CheckId::EvidCoverage => evid::coverage,
        CheckId::EvidScale => evid::scale,
    }
}

impl Case<'_> {
    /// A finding of this check with the record's remedy.
    fn finding(&self, object: impl Into<String>, what: String) -> Finding {
        Finding {
            check: self.record.id,
            object: object.into(),
            place: None,
            what,
            remedy: self.record.remedy.to_owned(),
            magnitude: None,
        }
    }

    /// A finding with a place and a size.
    fn measured(
        &self,
        object: impl Into<String>,
        place: Option<&Place>,
        magnitude: f64,
        what: String,
    ) -> Finding {
        Finding { place: place.cloned(), magnitude: Some(magnitude), ..self.finding(object, what) }
    }

    /// Decides by the number of findings.
    fn counted(&self, findings: Vec<Finding>, pass: impl Into<String>) -> Ruling {
        let observed = figures::ratio_part(findings.len() as u64);
        self.decided(observed, findings, pass)
    }

    /// Decides by an observed value; a failure's sentence is the first finding's.
    fn decided(&self, observed: f64, findings: Vec<Finding>, pass: impl Into<String>) -> Ruling {
        let failed = observed > self.limit;
        let evidence = match findings.first() {
            Some(first) if failed && findings.len() > 1 => {
                format!("{} (and {} more)", first.what, findings.len() - 1)
            }
            Some(first) if failed => first.what.clone(),
            _ => pass.into(),
        };
        let outcome = if failed { Outcome::Fail } else { Outcome::Pass };
        Ruling { outcome, observed: Some(observed), evidence, findings }
    }

    /// The limit as a person reads it.
    fn limit_text(&self) -> String {
        figures::value(self.record.unit, self.limit)
    }
}

impl Ruling {
    fn inconclusive(missing: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Inconclusive,
            observed: None,
            evidence: missing.into(),
            findings: Vec::new(),
        }
    }

    /// A pass that rests on incomplete evidence is none; a failure stays one.
    fn unless_missing(mut self, missing: Option<String>) -> Self {
        if let Some(missing) = missing
            && self.outcome == Outcome::Pass
        {
            self.outcome = Outcome::Inconclusive;
            self.evidence = format!("{missing}; so far: {}", self.evidence);
        }
        self
    }
}

impl Ruled {
    fn into_check(self) -> Check {
        let margin = self.ruling.observed.filter(|_| self.limit > 0.0).map(|observed| observed / self.limit);
        Check {
            id: self.record.id,
            title: self.record.title.to_owned(),
            required: self.required,
            unit: self.record.unit,
            limit: self.limit,
            observed: self.ruling.observed,
            margin,
            outcome: self.ruling.outcome,
            evidence: self.ruling.evidence,
        }
    }
}

/// The span of a phase that was played to its end, microseconds.
fn played(phases: &[PhaseSpan], phase: Phase) -> Option<(u64, u64)> {
    phases.iter().find(|span| span.phase == phase).and_then(|span| Some((span.start_us, span.end_us?)))
}

/// Which of these phases were not played to their end, as a phrase; absent when all were.
fn unplayed(evidence: &Evidence, wanted: &[Phase]) -> Option<String> {
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|phase| played(&evidence.phases, **phase).is_none())
        .map(|phase| phase.name())
        .collect();
    let (noun, verb) = if missing.len() == 1 { ("phase", "was") } else { ("phases", "were") };
    (!missing.is_empty()).then(|| format!("{noun} {} {verb} not played to the end", missing.join(", ")))
}
