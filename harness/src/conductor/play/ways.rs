//! Which ways back there are, and the other one, which is taken after the proofs of the first.
//!
//! The first is rehearsed under traffic. The other begins in the same upgraded state: services and host are there again because the
//! upgrade was applied a second time, the database because a copy of it was kept at the end of the soak. So what the new
//! version wrote is in it, and the ledger says what of it this way loses.

use std::sync::Arc;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{OtherWay, Outage, RollbackEvidence};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::LedgerEntry;

use super::{Before, Play, unread};
use crate::bundle;
use crate::mirror::{DataCopy, Mirror, MirrorError};
use crate::package::manifest::RollbackMethod;
use crate::plan::{Profile, RollbackMethod as Planned, ServiceRole};
use crate::proofs::dependents::Watch;
use crate::upgrade::steps::StepRunner;

/// The word of plans and reports.
pub(super) const fn name(method: RollbackMethod) -> &'static str {
    match method {
        RollbackMethod::Down => "down",
        RollbackMethod::Restore => "restore",
    }
}

/// How long an application service did not answer; absent where there is none to ask.
pub(super) async fn unavailable_us(watch: Watch) -> Option<u64> {
    let seen = watch.stop_after_next().await;
    (!seen.watched.is_empty()).then(|| together_us(&seen.outages))
}

/// Length of the time in which one or more were out.
fn together_us(outages: &[Outage]) -> u64 {
    let mut spans: Vec<(u64, u64)> = outages.iter().map(|outage| (outage.start_us, outage.end_us)).collect();
    spans.sort_unstable();
    let (mut total_us, mut until_us) = (0, 0);
    for (start_us, end_us) in spans {
        total_us += end_us.saturating_sub(start_us.max(until_us));
        until_us = until_us.max(end_us);
    }
    total_us
}

impl Play {
    /// The way under traffic, and the other one that the plan names: what the package declares may be the same as another.
    fn planned_ways(&self) -> (RollbackMethod, Option<RollbackMethod>) {
        let declared = self.package.manifest.rollback;
        let mut ways = self.plan.rollback.method.iter().map(|method| match method {
            Planned::Declared => declared,
            Planned::Down => RollbackMethod::Down,
            Planned::Restore => RollbackMethod::Restore,
        });
        // Reading the plan has refused an empty list.
        let first = ways.next().unwrap_or(declared);
        (first, ways.find(|way| *way != first))
    }

    /// The way that is taken under traffic.
    pub(super) fn rollback_method(&self) -> RollbackMethod {
        self.planned_ways().0
    }

    /// The way that is taken after the proofs.
    pub(super) fn other_way(&self) -> Option<RollbackMethod> {
        self.planned_ways().1.filter(|_| self.plan.profile == Profile::Nightly)
    }

    /// Whether a way is taken that goes back to the snapshot.
    pub(super) fn will_restore(&self) -> bool {
        self.rollback_method() == RollbackMethod::Restore || self.other_way() == Some(RollbackMethod::Restore)
    }

    /// A way that the plan names and this profile leaves out, as the report says it.
    pub(super) fn way_left_out(&self) -> Option<String> {
        let left_out = self.planned_ways().1.filter(|_| self.other_way().is_none())?;
        Some(format!("the way back by {} (the nightly profile takes it)", name(left_out)))
    }

    /// Keeps the upgraded state for the other way, with the writes that were acknowledged until now.
    pub(super) async fn keep_upgraded(&mut self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        if self.other_way().is_some() {
            self.upgraded_until_us = self.events.clock().now_us();
            self.while_ticking(mirror.back_up(DataCopy::Upgraded)).await?;
        }
        Ok(())
    }

    /// Starts to ask the application services for their health.
    pub(super) fn watch_application(&self, mirror: &Arc<dyn Mirror>) -> Result<Watch, MirrorError> {
        let services = mirror.services();
        let urls = services.of_role(ServiceRole::Application).into_iter();
        let urls = urls.map(|name| Ok((name.clone(), services.health_url(&name)?)));
        Ok(Watch::start(urls.collect::<Result<_, MirrorError>>()?, self.events.clock()))
    }

    /// The writes that are in the copy of the upgraded state.
    pub(super) fn writes_upgraded(&self) -> Vec<LedgerEntry> {
        if self.other_way().is_none() {
            return Vec::new();
        }
        self.ledger.iter().filter(|entry| entry.answered_us <= self.upgraded_until_us).cloned().collect()
    }

    /// Takes the other way back, where there is one, from the upgraded state that a second application has reached.
    pub(super) async fn take_other_way(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
        before: &Before,
        writes: Vec<LedgerEntry>,
        applied_again: bool,
    ) -> Result<(), MirrorError> {
        let Some(method) = self.other_way() else { return Ok(()) };
        let word = name(method);
        self.events.stage(format!("taking the other way back: {word}"));
        if !applied_again {
            let reason =
                "The upgrade did not apply a second time, so there was no upgraded state to begin in.";
            self.events.tell(Happening::OtherWay(OtherWay {
                rollback: RollbackEvidence { method: word.to_owned(), ..Default::default() },
                not_taken: Some(reason.to_owned()),
                ..OtherWay::default()
            }));
            return Ok(());
        }
        mirror.restore(DataCopy::Upgraded).await?;
        self.enter(Phase::OtherWay).await;
        let watch = self.watch_application(mirror)?;
        let mut rollback = self.go_back(mirror, runner, method, Phase::OtherWay).await?;
        rollback.unavailable_us = unavailable_us(watch).await;
        rollback.stuck.extend(self.services_not_back(mirror).await);
        self.end_phase();
        let (ledger, entries) = self.read_back(mirror, writes).await?;
        if let Err(error) = bundle::write_lines(&self.bundle.join(format!("ledger-{word}.jsonl")), &entries) {
            self.events.notice(format!("ledger-{word}.jsonl could not be written: {error}"));
        }
        let now = self.read_schema(&format!("rolled-back-{word}")).await?;
        let mut connection = mirror.connect().await?;
        let data = before.data_now(&mut connection).await.map_err(unread)?;
        drop(connection);
        let residue = before.residue.compare(&self.probe(mirror, runner).await);
        let schema = before.schema_now(&now, None);
        let way = OtherWay { rollback, not_taken: None, schema, data, residue, ledger };
        self.events.tell(Happening::OtherWay(way));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fulldress_reports::evidence::Outage;
    use fulldress_reports::phase::Phase;

    use super::together_us;

    #[test]
    fn two_services_that_are_out_at_once_count_once() {
        let outage = |start_us, end_us| Outage {
            service: "shop".to_owned(),
            phase: Phase::Rollback,
            start_us,
            end_us,
            reason: String::new(),
        };
        assert_eq!(together_us(&[]), 0);
        assert_eq!(together_us(&[outage(50, 90), outage(10, 30), outage(20, 40), outage(22, 25)]), 70);
    }
}
