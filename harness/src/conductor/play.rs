//! The play: mirror, dataset, snapshot, phases under traffic, proofs.
//!
//! Everything that was started hangs on [`Play`], so that [`Play::wind_down`] can stop it wherever the play was cut.

mod change;
mod finish;
mod outside;
mod prove;
mod start;
mod ways;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{DataEvidence, Reach, SchemaEvidence, StepRun};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_reports::traffic::LedgerEntry;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::Traffic;
use sqlx::PgConnection;

use self::outside::Outside;
use super::choice::Ground;
use crate::actors::Actors;
use crate::events::Events;
use crate::fingerprint::SchemaFingerprint;
use crate::fingerprint::data::{Columns, DataDigest};
use crate::inventory::Inventory;
use crate::mirror::{Mirror, MirrorError, Outbound};
use crate::package::Package;
use crate::plan::Plan;
use crate::process::{Child, RunFolder};
use crate::proofs::compat::{Listener, Statements};
use crate::proofs::data;
use crate::proofs::dependents::Watch;
use crate::proofs::invariants::{Readings, Sampler};
use crate::proofs::residue::Snapshot;
use crate::recorder::{self, Recorder};
use crate::upgrade::steps::StepRunner;

/// The mirror, once there is one; whoever watches over it waits here.
pub(super) type MirrorCell = Arc<OnceLock<Arc<dyn Mirror>>>;

/// Name of the runner whose upgrade is measured.
const RUNNER: &str = "main";
/// Id of the step that takes and of the step that restores the database snapshot.
const SNAPSHOT: &str = "database-snapshot";
/// Pause between two live figures.
const TICK_US: u64 = 500_000;
/// What this version does not rehearse, whatever the plan says.
const NOT_REHEARSED: [&str; 4] = [
    "replicas",
    "connection poolers",
    "real third parties",
    "both versions side by side (the old one's statements are prepared on the upgraded schema)",
];

/// Waits until the mirror's server dies by itself, and gives its last words.
pub(super) async fn died(mirror: MirrorCell) -> String {
    loop {
        if let Some(mirror) = mirror.get() {
            return mirror.died().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// State from before the upgrade.
struct Before {
    schema: SchemaFingerprint,
    /// The tables that the workload leaves alone, as they were.
    columns: Columns,
    data: DataDigest,
    residue: Snapshot,
    statements: Statements,
}

/// A play and everything that it started.
pub(super) struct Play {
    plan: Arc<Plan>,
    inventory: Arc<Inventory>,
    package: Arc<Package>,
    bundle: PathBuf,
    events: Events,
    run: Arc<RunFolder>,
    ground: Option<Ground>,
    mirror: MirrorCell,
    runner: Option<Arc<StepRunner>>,
    traffic: Option<Traffic>,
    worker: Option<Child>,
    recorder: Option<Recorder>,
    watch: Option<Watch>,
    actors: Option<Actors>,
    invariants: Option<Sampler>,
    readings: Readings,
    phases: Vec<PhaseSpan>,
    steps: Vec<StepRun>,
    relations: BTreeSet<String>,
    ledger: Vec<LedgerEntry>,
    reach: Reach,
    snapshot_bytes: Option<u64>,
    /// When the copy of the upgraded state was begun: what was acknowledged until then is in it.
    upgraded_until_us: u64,
}

impl Before {
    /// What of the schema differs from before; the way back under traffic also tells what the upgrade had changed.
    fn schema_now(
        &self,
        rolled_back: &SchemaFingerprint,
        upgraded: Option<&SchemaFingerprint>,
    ) -> SchemaEvidence {
        SchemaEvidence {
            before: self.schema.digest(),
            upgraded: upgraded.map(SchemaFingerprint::digest).unwrap_or_default(),
            rolled_back: rolled_back.digest(),
            upgrade: upgraded.map(|upgraded| self.schema.differences(upgraded)).unwrap_or_default(),
            drift: self.schema.differences(rolled_back),
            order_only: self.schema.order_only(rolled_back),
        }
    }

    /// What of the rows differs from before, in the tables that the workload leaves alone, and sequences that are behind.
    async fn data_now(&self, connection: &mut PgConnection) -> Result<DataEvidence, sqlx::Error> {
        let after = DataDigest::read(connection, &self.columns).await?;
        let mut differences = self.data.differences(&after);
        differences.extend(data::sequences_behind(connection).await?);
        Ok(DataEvidence { tables: self.columns.tables().map(str::to_owned).collect(), differences })
    }
}

impl Play {
    pub(super) fn new(
        plan: Plan,
        inventory: Inventory,
        package: Package,
        bundle: &Path,
        events: Events,
        run: Arc<RunFolder>,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            inventory: Arc::new(inventory),
            package: Arc::new(package),
            bundle: bundle.to_owned(),
            events,
            run,
            ground: None,
            mirror: Arc::default(),
            runner: None,
            traffic: None,
            worker: None,
            recorder: None,
            watch: None,
            actors: None,
            invariants: None,
            readings: Readings::default(),
            phases: Vec::new(),
            steps: Vec::new(),
            relations: BTreeSet::new(),
            ledger: Vec::new(),
            reach: Reach::default(),
            snapshot_bytes: None,
            upgraded_until_us: 0,
        }
    }

    /// What the mirror stands on, once that was chosen.
    pub(super) fn ground(&self) -> Option<Ground> {
        self.ground.clone()
    }

    pub(super) fn mirror_cell(&self) -> MirrorCell {
        Arc::clone(&self.mirror)
    }

    /// Plays from mirror to proofs.
    pub(super) async fn play(&mut self) -> Result<(), MirrorError> {
        let workload = Workload::load(&self.plan.traffic.workload)
            .map_err(|error| MirrorError::new(format!("the workload {error}"), ""))?;
        let mirror = self.start_mirror().await?;
        let runner = self.start_runner(&mirror).await?;
        self.start_services(&mirror).await?;
        let schema = self.read_schema("before").await?;
        self.relations = recorder::relation_names(&mut mirror.connect().await?).await.map_err(unread)?;
        self.start_recorder(&mirror, &runner).await?;
        let mut readings = Readings::new(&self.plan.invariants);
        readings.read_before(&mirror.server(), self.events.clock()).await;
        self.invariants = Some(Sampler::start(&mirror.server(), readings, self.events.clock()));
        self.start_traffic(&mirror, workload).await?;
        self.listen().await;

        // Here, and not in the baseline: looking at every file of a host is work that clients would feel.
        let residue = self.while_ticking(self.probe(&mirror, &runner)).await;
        self.pause(self.plan.phases.warmup_s).await;
        self.stop_listening().await;
        self.enter(Phase::Baseline).await;
        let listener = Listener::start(&mirror.server(), &self.plan.mirror.database.roles);
        self.pause(self.plan.phases.baseline_s).await;
        let untouched =
            data::untouched(&mut mirror.connect().await?, &self.plan.data.ignore).await.map_err(unread)?;
        self.reach.traffic_relations =
            data::read_or_written(&mut mirror.connect().await?).await.map_err(unread)?;
        self.events.tell(Happening::Reach(self.reach.clone()));
        let mut connection = mirror.connect().await?;
        let mut columns = Columns::read(&mut connection).await.map_err(unread)?;
        columns.retain(|table| untouched.contains(table));
        let data = DataDigest::read_gently(&mut connection, &columns).await.map_err(unread)?;
        drop(connection);
        let statements = self.keep_statements(&mirror, listener).await?;
        let mut before = Before { schema, columns, data, residue, statements };

        let upgraded = self.upgrade(&mirror, &runner, &mut before.statements).await?;
        self.roll_back(&mirror, &runner).await?;
        self.enter(Phase::Recovery).await;
        self.pause(self.plan.phases.recovery_s).await;
        self.end_traffic().await;
        self.prove(&mirror, &runner, before, &upgraded).await
    }

    /// Begins a phase for everyone who sorts by phase.
    async fn enter(&mut self, phase: Phase) {
        let boundary_us = match &self.traffic {
            Some(traffic) => traffic.enter_phase(phase),
            None => self.events.clock().now_us(),
        };
        if let Some(last) = self.phases.last_mut().filter(|span| span.end_us.is_none()) {
            last.end_us = Some(boundary_us);
            self.events.tell_at(boundary_us, Happening::PhaseEnded(last.phase));
        }
        self.phases.push(PhaseSpan { phase, start_us: boundary_us, end_us: None });
        self.events.tell_at(boundary_us, Happening::PhaseStarted(phase));
        if let Some(watch) = &self.watch {
            watch.enter_phase(phase);
        }
        if let Some(invariants) = &self.invariants {
            invariants.enter_phase(phase);
        }
        if let Some(recorder) = &self.recorder {
            recorder.fast(phase.is_changing());
        }
        self.events.clock().sleep_until(boundary_us).await;
    }

    /// Ends the phase that is open.
    fn end_phase(&mut self) {
        let now_us = self.events.clock().now_us();
        if let Some(last) = self.phases.last_mut().filter(|span| span.end_us.is_none()) {
            last.end_us = Some(now_us);
            self.events.tell_at(now_us, Happening::PhaseEnded(last.phase));
        }
    }

    /// Lets the phase last for some seconds from its start, and tells live figures.
    async fn pause(&self, seconds: u64) {
        let clock = self.events.clock();
        let start_us = self.phases.last().map_or_else(|| clock.now_us(), |span| span.start_us);
        let end_us = start_us + seconds * 1_000_000;
        while clock.now_us() < end_us {
            self.tick();
            clock.sleep_until((clock.now_us() + TICK_US).min(end_us)).await;
        }
    }

    fn tick(&self) {
        if let Some(traffic) = &self.traffic {
            self.events.tell(Happening::Tick(traffic.figures()));
        }
    }

    /// Awaits a step while live figures are told.
    async fn while_ticking<Done>(&self, work: impl Future<Output = Done>) -> Done {
        let mut ticks = tokio::time::interval(Duration::from_micros(TICK_US));
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    async fn read_schema(&self, name: &str) -> Result<SchemaFingerprint, MirrorError> {
        let mirror = self.mirror.get().ok_or_else(|| MirrorError::new("there is no mirror", ""))?;
        let fingerprint = SchemaFingerprint::read(&mut mirror.connect().await?).await.map_err(unread)?;
        let folder = self.bundle.join("schema");
        let path = folder.join(format!("{name}.sql"));
        let dump = mirror.dump_schema().await?;
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(&path, dump))
            .map_err(|error| MirrorError::new(format!("{}: {error}", path.display()), ""))?;
        Ok(fingerprint)
    }

    /// What scripts and services called outside while they ran.
    fn tell_outbound(&mut self, outbound: &Outbound) {
        let upgrade = self.phases.iter().find(|span| span.phase == Phase::Upgrade);
        let epoch_us = self.events.clock().epoch_unix_us();
        let Outside { findings, habits } =
            outside::sort(outbound, upgrade.map(|span| epoch_us + span.start_us));
        let unseen = outbound.unseen.iter().map(|whose| format!("calls to the outside of {whose}"));
        self.reach.not_rehearsed.extend(unseen);
        self.reach.denied = habits;
        self.events.tell(Happening::Reach(self.reach.clone()));
        if !findings.is_empty() {
            self.events.tell(Happening::Outbound(findings));
        }
    }

    /// Stops everything that still runs; what was measured until now is told.
    pub(super) async fn wind_down(&mut self) {
        self.end_traffic().await;
        if let Some(runner) = self.runner.take() {
            runner.stop().await;
        }
        if let Some(mirror) = self.mirror.get().cloned() {
            if let Some(outbound) = mirror.outbound().await {
                self.tell_outbound(&outbound);
            }
            mirror.stop().await;
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn unread(error: sqlx::Error) -> MirrorError {
    MirrorError::new(format!("the mirror's database cannot be read: {error}"), "")
}
