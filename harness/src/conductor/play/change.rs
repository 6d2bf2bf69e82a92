//! What changes production: the upgrade, and the way back.

use std::sync::Arc;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{RollbackEvidence, SchemaState, StepKind, StepRun};
use fulldress_reports::phase::Phase;

use super::{Play, SNAPSHOT};
use crate::fingerprint::SchemaFingerprint;
use crate::mirror::{Mirror, MirrorError};
use crate::package::manifest::{OnFailure, RollbackMethod};
use crate::plan::{RollbackMethod as PlannedMethod, ServiceRole};
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
        if self.rollback_method() == RollbackMethod::Restore {
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

    pub(super) fn rollback_method(&self) -> RollbackMethod {
        match self.plan.rollback.method {
            PlannedMethod::Declared => self.package.manifest.rollback,
            PlannedMethod::Down => RollbackMethod::Down,
            PlannedMethod::Restore => RollbackMethod::Restore,
        }
    }

    /// The way back: the steps' own rollbacks in reverse, or the snapshot under them.
    pub(super) async fn roll_back(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
    ) -> Result<(), MirrorError> {
        self.enter(Phase::Rollback).await;
        let method = self.rollback_method();
        let name = if method == RollbackMethod::Down { "down" } else { "restore" };
        let mut evidence = RollbackEvidence { method: name.to_owned(), ..Default::default() };
        let package = Arc::clone(&self.package);
        let attempted: Vec<String> =
            self.steps.iter().filter(|run| run.phase == Phase::Upgrade).map(|run| run.id.clone()).collect();
        for step in package.manifest.steps.iter().rev().filter(|step| attempted.contains(&step.id)) {
            if method == RollbackMethod::Restore && step.action.kind() == StepKind::Sql {
                continue;
            }
            let Some(rollback) = &step.rollback else { continue };
            let (id, kind) = (step.id.clone(), step.action.kind());
            self.events.tell(Happening::StepStarted { id, kind, phase: Phase::Rollback });
            let run = self.while_ticking(runner.down(step, rollback)).await;
            if let Some(error) = &run.error {
                evidence.stuck.push(format!("rollback of step {} failed: {error}", run.id));
            }
            self.finish_step(run);
        }
        if method == RollbackMethod::Restore {
            self.restore(mirror, &mut evidence).await?;
        }
        self.pause(self.plan.phases.rollback_min_s).await;
        self.leftovers(Phase::Rollback).await;
        let states = mirror.services().states().await;
        for service in &self.plan.mirror.services {
            let expected = format!("version {} active", service.version);
            let found = states.get(&service.name).map(ToString::to_string).unwrap_or_default();
            if service.role == ServiceRole::Application && found != expected {
                evidence.stuck.push(format!("service {} is in {found} instead of {expected}", service.name));
            }
        }
        self.events.tell(Happening::Rollback(evidence));
        Ok(())
    }

    /// The snapshot is part of such an upgrade: what it costs the clients is measured too.
    async fn take_snapshot(&mut self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        let (id, kind, phase) = (SNAPSHOT.to_owned(), StepKind::Snapshot, Phase::Upgrade);
        self.events.tell(Happening::StepStarted { id: id.clone(), kind, phase });
        let clock = self.events.clock();
        let start_us = clock.now_us();
        self.snapshot_bytes = Some(self.while_ticking(mirror.back_up()).await?);
        let end_us = clock.now_us();
        self.finish_step(StepRun { id, kind, phase, start_us, end_us, attempts: 1, error: None, log: None });
        Ok(())
    }

    async fn restore(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        evidence: &mut RollbackEvidence,
    ) -> Result<(), MirrorError> {
        let (id, kind, phase) = (SNAPSHOT.to_owned(), StepKind::Restore, Phase::Rollback);
        self.events.tell(Happening::StepStarted { id: id.clone(), kind, phase });
        if let Some(recorder) = &mut self.recorder {
            recorder.before_restart().await;
        }
        let clock = self.events.clock();
        let start_us = clock.now_us();
        self.while_ticking(mirror.restore()).await?;
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
