//! The one typed event stream of the engine. Terminal, event file and report are consumers of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::evidence::{
    CompatEvidence, DataEvidence, DependentEvidence, DoubleRunEvidence, Evidence, FaultEvidence,
    Interruption, InvariantEvidence, LedgerEvidence, OtherWay, PackageFacts, PreflightEvidence, Reach,
    ReapplyEvidence, RehearsalFacts, ResidueEvidence, RollbackEvidence, SchemaEvidence, StepKind, StepRun,
};
use crate::finding::Finding;
use crate::lock::LockEvidence;
use crate::phase::{Phase, PhaseSpan};
use crate::traffic::{TrafficEvidence, TrafficTick};

/// One line of `events.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// When, microseconds since the rehearsal's epoch.
    pub at_us: u64,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What can happen in a rehearsal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", content = "data", rename_all = "kebab-case")]
pub enum Happening {
    /// The plan was read and the rehearsal begins.
    Started(RehearsalFacts),
    /// The package was opened or refused.
    Package(PackageFacts),
    /// The kind of the mirror was chosen: `local` or `compose`.
    Mirror(String),
    /// Preflight is done.
    Preflight(PreflightEvidence),
    /// What scripts tried to reach outside while they ran; what preflight found already is not counted twice.
    Outbound(Vec<Finding>),
    /// A stage outside the phases begins: mirror, dataset, snapshot, proofs. For a person only.
    Stage(String),
    /// A phase begins.
    PhaseStarted(Phase),
    /// A phase ended.
    PhaseEnded(Phase),
    /// A step begins.
    StepStarted {
        /// Id from the manifest.
        id: String,
        /// Kind.
        kind: StepKind,
        /// Phase.
        phase: Phase,
    },
    /// A step ended.
    StepFinished(StepRun),
    /// Live figures. Not folded.
    Tick(TrafficTick),
    /// The traffic stopped and was summed up.
    Traffic(TrafficEvidence),
    /// The recorder stopped and was reconciled.
    Locks(LockEvidence),
    /// Dependent services.
    Dependents(DependentEvidence),
    /// How the rollback ended.
    Rollback(RollbackEvidence),
    /// The ledger was read back.
    Ledger(LedgerEvidence),
    /// Schema fingerprints.
    Schema(SchemaEvidence),
    /// Data fingerprints.
    Data(DataEvidence),
    /// Residue.
    Residue(ResidueEvidence),
    /// Second application.
    Reapply(ReapplyEvidence),
    /// Another way back.
    OtherWay(OtherWay),
    /// The old version's statements on another schema; told again with each state that was tried.
    Compat(CompatEvidence),
    /// Faults inside the upgrade; told again with each that was tried.
    Faults(FaultEvidence),
    /// The plan's invariants; told again when they were read after the traffic.
    Invariants(Vec<InvariantEvidence>),
    /// Second runner.
    DoubleRun(DoubleRunEvidence),
    /// How far the evidence reaches.
    Reach(Reach),
    /// Something that a reader must know about the rehearsal itself.
    Notice(String),
    /// An early end.
    Interrupted(Interruption),
    /// The end.
    Finished,
}

impl Evidence {
    /// Folds events into evidence. Later facts of a kind replace earlier ones; steps, phases and notices add up.
    #[must_use]
    pub fn fold<'event>(events: impl IntoIterator<Item = &'event Event>) -> Self {
        let mut evidence = Self::default();
        for event in events {
            evidence.apply(event);
        }
        evidence
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: &Event) {
        self.length_us = self.length_us.max(event.at_us);
        match event.what.clone() {
            Happening::Started(facts) => self.rehearsal = facts,
            Happening::Package(facts) => self.package = Some(facts),
            Happening::Mirror(kind) => self.rehearsal.mirror = kind,
            Happening::Outbound(findings) => {
                if let Some(preflight) = &mut self.preflight {
                    let known = preflight.findings.clone();
                    let is_known = |finding: &Finding| {
                        let same = |known: &Finding| known.check == finding.check;
                        known.iter().any(|known| same(known) && known.object.contains(&finding.object))
                    };
                    preflight.findings.extend(findings.into_iter().filter(|finding| !is_known(finding)));
                }
            }
            Happening::Preflight(found) => self.preflight = Some(found),
            Happening::PhaseStarted(phase) => {
                self.phases.push(PhaseSpan { phase, start_us: event.at_us, end_us: None });
            }
            Happening::PhaseEnded(phase) => {
                if let Some(span) = self.phases.iter_mut().rev().find(|span| span.phase == phase) {
                    span.end_us = Some(event.at_us);
                }
            }
            Happening::StepFinished(run) => self.steps.push(run),
            Happening::Traffic(traffic) => self.traffic = Some(traffic),
            Happening::Locks(locks) => self.locks = Some(locks),
            Happening::Dependents(dependents) => self.dependents = Some(dependents),
            Happening::Rollback(rollback) => self.rollback = Some(rollback),
            Happening::Ledger(ledger) => self.ledger = Some(ledger),
            Happening::Schema(schema) => self.schema = Some(schema),
            Happening::Data(data) => self.data = Some(data),
            Happening::Residue(residue) => self.residue = Some(residue),
            Happening::Reapply(reapply) => self.reapply = Some(reapply),
            Happening::OtherWay(way) => self.other_way = Some(way),
            Happening::Compat(compat) => self.compat = Some(compat),
            Happening::Faults(faults) => self.faults = Some(faults),
            Happening::Invariants(invariants) => self.invariants = invariants,
            Happening::DoubleRun(double_run) => self.double_run = Some(double_run),
            Happening::Reach(reach) => self.reach = Some(reach),
            Happening::Notice(text) => self.notices.push(text),
            Happening::Interrupted(interruption) => self.interrupted = Some(interruption),
            Happening::Stage(_)
            | Happening::StepStarted { .. }
            | Happening::Tick(_)
            | Happening::Finished => {}
        }
    }
}
