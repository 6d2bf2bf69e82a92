//! What changes production: the upgrade, and the way back.

use std::sync::Arc;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{RollbackEvidence, SchemaState, StepKind, StepRun};
use fulldress_reports::phase::Phase;

use super::{Play, SNAPSHOT, ways};
use crate::fingerprint::SchemaFingerprint;
use crate::mirror::{DataCopy, Mirror, MirrorError};
use crate::package::manifest::{OnFailure, RollbackMethod};
use crate::plan::ServiceRole;
use crate::proofs::compat::Statements;
use crate::upgrade::steps::StepRunner;

impl Play {
    /// Upgrade and soak; gives the upgraded schema.
    pub(super) async fn upgrade(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
        statements: &mut Statements,
    ) -> Result<SchemaFingerprint, MirrorError> {
        self.enter(Phase::Upgrade).await;
        if self.will_restore() {
            self.take_snapshot(mirror).await?;
        }
        let failed = self.apply(runner, Phase::Upgrade).await;
        self.pause(self.plan.phases.upgrade_min_s).await;
        self.leftovers(Phase::Upgrade).await;
        self.enter(Phase::Soak).await;
        let upgraded = self.read_schema("upgraded").await?;
        self.try_statements(statements, SchemaState::Upgraded).await?;
        if failed {
            self.events.notice("a step failed that asks for rollback: the soak phase was cut short");
        } else {
            self.pause(self.plan.phases.soak_s).await;
        }
        self.keep_upgraded(mirror).await?;
        Ok(upgraded)
    }

    /// Runs all up steps; true when one failed that asks for rollback.
    pub(super) async fn apply(&mut self, runner: &Arc<StepRunner>, phase: Phase) -> bool {
        let package = Arc::clone(&self.package);
        for step in &package.manifest.steps {
            let (id, kind) = (step.id.clone(), step.action.kind());
            self.events.tell(Happening::StepStarted { id, kind, phase });
            let run = self.while_ticking(runner.up(step, phase)).await;
            let failed = run.error.is_some();
            self.finish_step(run);
            if failed && step.on_failure == OnFailure::Rollback {
                return true;
            }
        }
        false
    }

    fn finish_step(&mut self, run: StepRun) {
        self.steps.push(run.clone());
        self.events.tell(Happening::StepFinished(run));
    }

    /// The way back under traffic.
    pub(super) async fn roll_back(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
    ) -> Result<(), MirrorError> {
        self.enter(Phase::Rollback).await;
        // Watching is work for the application: only where another way is held against this one.
        let watch = self.other_way().map(|_| self.watch_application(mirror)).transpose()?;
        let mut evidence = self.go_back(mirror, runner, self.rollback_method(), Phase::Rollback).await?;
        self.pause(self.plan.phases.rollback_min_s).await;
        if let Some(watch) = watch {
            evidence.unavailable_us = ways::unavailable_us(watch).await;
        }
        self.leftovers(Phase::Rollback).await;
        evidence.stuck.extend(self.services_not_back(mirror).await);
        self.events.tell(Happening::Rollback(evidence));
        Ok(())
    }

    /// Goes back from the upgraded state: the steps' own rollbacks in reverse, or the snapshot under them.
    pub(super) async fn go_back(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
        method: RollbackMethod,
        phase: Phase,
    ) -> Result<RollbackEvidence, MirrorError> {
        let mut evidence = RollbackEvidence { method: ways::name(method).to_owned(), ..Default::default() };
        let start_us = self.events.clock().now_us();
        let package = Arc::clone(&self.package);
        let attempted: Vec<String> =
            self.steps.iter().filter(|run| run.phase == Phase::Upgrade).map(|run| run.id.clone()).collect();
        for step in package.manifest.steps.iter().rev().filter(|step| attempted.contains(&step.id)) {
            if method == RollbackMethod::Restore && step.action.kind() == StepKind::Sql {
                continue;
            }
            let Some(rollback) = &step.rollback else { continue };
            let (id, kind) = (step.id.clone(), step.action.kind());
            self.events.tell(Happening::StepStarted { id, kind, phase });
            let run = self.while_ticking(runner.down(step, rollback, phase)).await;
            if let Some(error) = &run.error {
                evidence.stuck.push(format!("rollback of step {} failed: {error}", run.id));
            }
            self.finish_step(run);
        }
        if method == RollbackMethod::Restore {
            self.restore(mirror, phase, &mut evidence).await?;
        }
        evidence.took_us = Some(self.events.clock().now_us() - start_us);
        Ok(evidence)
    }

    /// Application services that a way back did not bring back, a sentence each.
    pub(super) async fn services_not_back(&self, mirror: &Arc<dyn Mirror>) -> Vec<String> {
        let states = mirror.services().states().await;
        let application =
            self.plan.mirror.services.iter().filter(|service| service.role == ServiceRole::Application);
        application
            .filter_map(|service| {
                let expected = format!("version {} active", service.version);
                let found = states.get(&service.name).map(ToString::to_string).unwrap_or_default();
                (found != expected)
                    .then(|| format!("service {} is in {found} instead of {expected}", service.name))
            })
            .collect()
    }

    /// The snapshot is part of such an upgrade: what it costs the clients is measured too.
    async fn take_snapshot(&mut self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        let (id, kind, phase) = (SNAPSHOT.to_owned(), StepKind::Snapshot, Phase::Upgrade);
        self.events.tell(Happening::StepStarted { id: id.clone(), kind, phase });
        let clock = self.events.clock();
        let start_us = clock.now_us();
        self.snapshot_bytes = Some(self.while_ticking(mirror.back_up(DataCopy::Before)).await?);
        let end_us = clock.now_us();
        self.finish_step(StepRun { id, kind, phase, start_us, end_us, attempts: 1, error: None, log: None });
        Ok(())
    }

    async fn restore(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        phase: Phase,
        evidence: &mut RollbackEvidence,
    ) -> Result<(), MirrorError> {
        let (id, kind) = (SNAPSHOT.to_owned(), StepKind::Restore);
        self.events.tell(Happening::StepStarted { id: id.clone(), kind, phase });
        if let Some(recorder) = &mut self.recorder {
            recorder.before_restart().await;
        }
        let clock = self.events.clock();
        let start_us = clock.now_us();
        self.while_ticking(mirror.restore(DataCopy::Before)).await?;
        let end_us = clock.now_us();
        evidence.snapshot_bytes = self.snapshot_bytes;
        evidence.restore_us = Some(end_us - start_us);
        self.finish_step(StepRun { id, kind, phase, start_us, end_us, attempts: 1, error: None, log: None });
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.reinstall_after_restore().await
        {
            self.events
                .notice(format!("the recorder could not be installed again after the restore: {error}"));
        }
        Ok(())
    }

    async fn leftovers(&mut self, phase: Phase) {
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.leftovers(phase).await
        {
            self.events.notice(format!("left-over locks could not be read after {phase}: {error}"));
        }
    }
}
