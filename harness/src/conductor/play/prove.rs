//! Everything that is proven after the traffic.

use std::collections::BTreeSet;
use std::sync::Arc;

use fulldress_reports::check::CheckId;
use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{FaultEvidence, LedgerEvidence, ReapplyEvidence, SchemaState};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::LedgerEntry;
use tokio::task::JoinSet;

use super::{Before, Play, unread};
use crate::bundle;
use crate::conductor::{double_run, faults};
use crate::fingerprint::SchemaFingerprint;
use crate::mirror::{Mirror, MirrorError};
use crate::proofs::compat::{Listener, Statements};
use crate::proofs::ledger::{self, Asked, JudgedEntry};
use crate::proofs::residue::{FlagProbe, HostProbe, Snapshot, WebhookProbe};
use crate::upgrade::steps::StepRunner;

impl Play {
    pub(super) async fn probe(&self, mirror: &Arc<dyn Mirror>, runner: &StepRunner) -> Snapshot {
        let mut snapshot = Snapshot::default();
        if let Some(url) = &self.plan.residue.flags {
            snapshot.take(&FlagProbe { url: mirror.services().fill_urls(url) }).await;
        }
        if let Some(url) = &self.plan.residue.webhooks {
            snapshot.take(&WebhookProbe { url: mirror.services().fill_urls(url) }).await;
        }
        let (mut units, scheduled_tasks) = runner.host_state().await;
        for (name, state) in mirror.services().states().await {
            units.insert(format!("service {name}"), state.to_string());
        }
        snapshot.take(&HostProbe { check: CheckId::RollUnit, name: "unit", state: Ok(units) }).await;
        let tasks =
            HostProbe { check: CheckId::RollSchedule, name: "scheduled task", state: Ok(scheduled_tasks) };
        snapshot.take(&tasks).await;
        let files = runner.files().await;
        snapshot.take(&HostProbe { check: CheckId::RollFile, name: "file", state: files }).await;
        snapshot
    }

    /// Everything that is proven after the traffic.
    pub(super) async fn prove(
        &mut self,
        mirror: &Arc<dyn Mirror>,
        runner: &Arc<StepRunner>,
        mut before: Before,
        upgraded: &SchemaFingerprint,
    ) -> Result<(), MirrorError> {
        // Nobody is measured any more: what takes long without needing anything of the rest goes on beside it. A set
        // aborts what it holds when it is dropped; whatever that leaves belongs to the run folder.
        let mut cloning = JoinSet::new();
        cloning.spawn(double_run::Trial::start(double_run::Parts {
            name: "double-run".to_owned(),
            hosts: ["first", "second"].map(str::to_owned),
            plan: Arc::clone(&self.plan),
            inventory: Arc::clone(&self.inventory),
            package: Arc::clone(&self.package),
            mirror: Arc::clone(mirror),
            run: Arc::clone(&self.run),
            bundle: self.bundle.clone(),
            clock: self.events.clock(),
        }));
        let writes = self.writes_upgraded();
        self.events.stage("reading acknowledged writes back");
        self.prove_ledger(mirror).await?;
        self.readings.read_after(&mirror.server(), self.events.clock()).await;
        self.events.tell(Happening::Invariants(self.readings.evidence()));
        self.events.stage("comparing schema, data and residue");
        let rolled_back = self.read_schema("rolled-back").await?;
        self.events.tell(Happening::Schema(before.schema_now(&rolled_back, Some(upgraded))));
        self.try_statements(&mut before.statements, SchemaState::RolledBack).await?;
        let mut connection = mirror.connect().await?;
        let data = before.data_now(&mut connection).await.map_err(unread)?;
        self.events.tell(Happening::Data(data));
        let residue = before.residue.compare(&self.probe(mirror, runner).await);
        self.events.tell(Happening::Residue(residue));
        drop(connection);

        self.events.stage("applying the upgrade a second time, and with a second runner on a clone");
        let alone = double_run::Alone { upgraded: upgraded.clone(), failed: self.failed_in_upgrade() };
        let beside = async {
            let trial = awaited(&mut cloning).await?;
            let beside = trial.play(&alone).await;
            trial.stop().await;
            beside
        };
        let (beside, reapplied) = tokio::join!(beside, self.reapply(runner, upgraded));
        self.events.tell(Happening::DoubleRun(beside?));
        let applied_again = reapplied?;
        self.take_other_way(mirror, runner, &before, writes, applied_again).await?;
        self.try_faults(mirror).await
    }

    /// Strikes the steps in the middle, on clones.
    async fn try_faults(&self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        self.events.stage("striking the steps in the middle, on clones");
        let ground = faults::Ground {
            name: "f".to_owned(),
            plan: Arc::clone(&self.plan),
            inventory: Arc::clone(&self.inventory),
            package: Arc::clone(&self.package),
            rollback: self.rollback_method(),
            mirror: Arc::clone(mirror),
            run: Arc::clone(&self.run),
            bundle: self.bundle.clone(),
            clock: self.events.clock(),
        };
        let tell = |evidence: &FaultEvidence| self.events.tell(Happening::Faults(evidence.clone()));
        let evidence = faults::try_faults(&ground, tell).await?;
        self.events.tell(Happening::Faults(evidence));
        Ok(())
    }

    /// What the clients were seen to send, as far as it can be prepared.
    pub(super) async fn keep_statements(
        &self,
        mirror: &Arc<dyn Mirror>,
        listener: Listener,
    ) -> Result<Statements, MirrorError> {
        let roles = &self.plan.mirror.database.roles;
        Statements::keep(listener.stop(), &mirror.server(), roles).await.map_err(unread)
    }

    /// Tries the old version's statements on the schema of now.
    pub(super) async fn try_statements(
        &self,
        statements: &mut Statements,
        state: SchemaState,
    ) -> Result<(), MirrorError> {
        let evidence = self.while_ticking(statements.try_on(state)).await.map_err(unread)?;
        self.events.tell(Happening::Compat(evidence));
        Ok(())
    }

    async fn prove_ledger(&mut self, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
        let entries = std::mem::take(&mut self.ledger);
        let (evidence, entries) = self.read_back(mirror, entries).await?;
        if let Err(error) = bundle::write_lines(&self.bundle.join("ledger.jsonl"), &entries) {
            self.events.notice(format!("ledger.jsonl could not be written: {error}"));
        }
        self.events.tell(Happening::Ledger(evidence));
        Ok(())
    }

    /// Reads writes back through the running version, with the database as second witness.
    pub(super) async fn read_back(
        &self,
        mirror: &Arc<dyn Mirror>,
        entries: Vec<LedgerEntry>,
    ) -> Result<(LedgerEvidence, Vec<JudgedEntry>), MirrorError> {
        let target = self.plan.traffic.target.as_deref();
        let url = target.map(|target| mirror.services().url(target)).transpose()?;
        let asked = Asked { base_url: url.as_deref(), databases: &self.databases(mirror) };
        let mut connection = mirror.connect().await?;
        let witness = self.plan.ledger.witness.as_deref().map(|query| (&mut connection, query));
        ledger::read_back(entries, asked, witness).await.map_err(|error| {
            MirrorError::new(format!("ledger.witness: {error}"), "correct the query in the plan")
        })
    }

    /// Applies the upgrade a second time; whether all steps ended as the first time.
    async fn reapply(
        &mut self,
        runner: &Arc<StepRunner>,
        upgraded: &SchemaFingerprint,
    ) -> Result<bool, MirrorError> {
        self.enter(Phase::Reapply).await;
        self.apply(runner, Phase::Reapply).await;
        self.end_phase();
        let failed_before = self.failed_in_upgrade();
        let failed: Vec<String> = self
            .steps
            .iter()
            .filter(|run| run.phase == Phase::Reapply && !failed_before.contains(&run.id))
            .filter_map(|run| Some(format!("step {}: {}", run.id, run.error.as_ref()?)))
            .collect();
        let again = self.read_schema("upgraded-again").await?;
        let differences = upgraded.differences(&again);
        let applied_again = failed.is_empty();
        self.events.tell(Happening::Reapply(ReapplyEvidence { failed, differences }));
        Ok(applied_again)
    }

    /// Steps of the upgrade that failed, with nobody beside them.
    fn failed_in_upgrade(&self) -> BTreeSet<String> {
        let failed = self.steps.iter().filter(|run| run.phase == Phase::Upgrade && run.error.is_some());
        failed.map(|run| run.id.clone()).collect()
    }
}

/// The trial that a task starts; a panic in it goes on as if it had been awaited here.
async fn awaited(
    cloning: &mut JoinSet<Result<double_run::Trial, MirrorError>>,
) -> Result<double_run::Trial, MirrorError> {
    match cloning.join_next().await {
        Some(Ok(clone)) => clone,
        Some(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(MirrorError::new(format!("the clone's start was given up: {error}"), "")),
        },
        None => Err(MirrorError::new("no clone was started", "")),
    }
}
