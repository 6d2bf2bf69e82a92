//! One cell of the matrix: a clone, the upgrade up to a fault, and one way from there.
//!
//! `faults` starts it; it gives what became of the way, and leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::evidence::{Difference, FaultKind, FaultOutcome, FaultWay, StepKind, StepRun};
use fulldress_reports::phase::Phase;
use sqlx::PgConnection;

use super::point::{self, PAUSE, Place, Point};
use super::{Ground, unread};
use crate::fingerprint::SchemaFingerprint;
use crate::fingerprint::data::{Columns, DataDigest};
use crate::mirror::{DataCopy, Mirror, MirrorError};
use crate::package::Package;
use crate::package::manifest::{RollbackMethod, Step};
use crate::plan::ServiceRole;
use crate::proofs::residue::{self, State};
use crate::upgrade::steps::{RunnerParts, StepRunner};

/// Pause between two looks for the session that waits to be struck.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Differences that a cell names.
const NAMED_MAX: usize = 5;

/// What is tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cell {
    pub point: Point,
    pub fault: FaultKind,
    pub way: FaultWay,
}

/// A clone with a runner on it.
pub(super) struct Stage {
    pub mirror: Arc<dyn Mirror>,
    pub runner: Arc<StepRunner>,
}

/// What a way is held against.
#[derive(Debug, Clone, Default)]
pub(super) struct States {
    pub before: Option<Taken>,
    pub upgraded: Option<Taken>,
}

/// A state of a clone.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    schema: SchemaFingerprint,
    data: DataDigest,
    files: State,
}

impl Stage {
    /// A clone of the filled mirror with one runner of the package.
    ///
    /// # Errors
    /// When the clone does not come up.
    pub(super) async fn start(ground: &Ground, name: &str, package: Package) -> Result<Self, MirrorError> {
        let mirror = ground.mirror.clone_from_snapshot(name, &[name]).await?;
        let package = Arc::new(package);
        let logs = ground.bundle.join("logs").join("faults").join(name);
        let parts = RunnerParts {
            plan: &ground.plan,
            inventory: &ground.inventory,
            package: &package,
            mirror: &mirror,
            run: &ground.run,
            logs: &logs,
            clock: ground.clock,
        };
        let runner = StepRunner::start(parts, name).await.map(Arc::new);
        let has_scripts = package.manifest.steps.iter().any(|step| step.action.kind() == StepKind::Script);
        let services = if has_scripts { start_services(ground, &mirror).await } else { Ok(()) };
        match (runner, services) {
            (Ok(runner), Ok(())) => Ok(Self { mirror, runner }),
            (Err(error), _) | (_, Err(error)) => {
                mirror.stop().await;
                Err(error)
            }
        }
    }

    /// Stops and removes the clone.
    pub(super) async fn stop(self) {
        self.runner.stop().await;
        self.mirror.stop().await;
    }

    /// The state of now.
    ///
    /// # Errors
    /// When the clone cannot be read.
    pub(super) async fn take(&self) -> Result<Taken, MirrorError> {
        let mut connection = self.mirror.connect().await?;
        let columns = Columns::read(&mut connection).await.map_err(unread)?;
        let files = self.runner.files().await.map_err(|error| MirrorError::new(error, ""))?;
        Ok(Taken {
            schema: SchemaFingerprint::read(&mut connection).await.map_err(unread)?,
            data: DataDigest::read(&mut connection, &columns).await.map_err(unread)?,
            files,
        })
    }

    /// Runs a step of the upgrade; its error as a sentence.
    pub(super) async fn up(&self, step: &Step) -> Result<(), String> {
        failure(self.runner.up(step, Phase::Upgrade).await)
    }

    /// Runs a step with a fault in it, and strikes where the fault comes from outside.
    ///
    /// # Errors
    /// When the session that should be struck never came: one sentence.
    async fn strike(&self, step: &Step, place: Place, fault: FaultKind) -> Result<(), String> {
        let running = self.runner.up(step, Phase::Upgrade);
        tokio::pin!(running);
        let outside = matches!(place, Place::Statement { .. })
            && !matches!(fault, FaultKind::Fails | FaultKind::LockTimeout);
        if !outside {
            return struck(running.await);
        }
        let pid = tokio::select! {
            run = &mut running => return struck(run).and(Err("it ended before it could be struck".to_owned())),
            pid = self.waiting() => pid?,
        };
        match fault {
            // Dropped, its whole process group is killed.
            FaultKind::MigratorKilled => {}
            FaultKind::ConnectionCut => {
                self.runner.cut_connections();
                running.await;
            }
            FaultKind::DatabaseRestarted => {
                self.mirror.crash().await.map_err(|error| error.to_string())?;
                running.await;
            }
            _ => {
                let mut connection = self.mirror.connect().await.map_err(|error| error.to_string())?;
                let ended: Result<bool, _> = sqlx::query_scalar("SELECT pg_terminate_backend($1)")
                    .bind(pid)
                    .fetch_one(&mut connection)
                    .await;
                ended.map_err(|error| error.to_string())?;
                running.await;
            }
        }
        Ok(())
    }

    /// Waits for the session that waits to be struck.
    async fn waiting(&self) -> Result<i32, String> {
        let query = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%' AND state = 'active'
            AND pid <> pg_backend_pid() AND wait_event = 'PgSleep'";
        let mut connection = self.mirror.connect().await.map_err(|error| error.to_string())?;
        loop {
            let pid: Option<i32> = sqlx::query_scalar(query)
                .bind(PAUSE)
                .fetch_optional(&mut connection)
                .await
                .map_err(|error| error.to_string())?;
            if let Some(pid) = pid {
                return Ok(pid);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// Waits until no session of the package is left: what was killed or cut may still roll back.
    async fn quiet(&self) -> Result<(), MirrorError> {
        let address = self.runner.address().to_string();
        let query = "SELECT count(*) FROM pg_stat_activity WHERE host(client_addr) = $1";
        let mut connection = self.mirror.connect().await?;
        loop {
            let left: i64 =
                sqlx::query_scalar(query).bind(&address).fetch_one(&mut connection).await.map_err(unread)?;
            if left == 0 {
                return Ok(());
            }
            end_sessions(&mut connection, &address).await?;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// Ends sessions that sleep for the fault: the client is gone, and a sleeping backend does not notice.
async fn end_sessions(connection: &mut PgConnection, address: &str) -> Result<(), MirrorError> {
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE host(client_addr) = $1 AND wait_event = 'PgSleep'",
    )
    .bind(address)
    .execute(connection)
    .await
    .map(drop)
    .map_err(unread)
}

/// Scripts speak to services, SQL does not need them. A dependent one would change rows by itself.
async fn start_services(ground: &Ground, mirror: &Arc<dyn Mirror>) -> Result<(), MirrorError> {
    let wanted = ground.plan.mirror.services.iter().filter(|service| service.role != ServiceRole::Dependent);
    for service in wanted {
        mirror.services().start(&service.name).await?;
    }
    Ok(())
}

fn failure(run: StepRun) -> Result<(), String> {
    run.error.map_or(Ok(()), |error| Err(format!("step {}: {error}", run.id)))
}

/// A fault that did not make the step fail was none.
fn struck(run: StepRun) -> Result<(), String> {
    match run.error {
        Some(_) => Ok(()),
        None => Err("the step ended well in spite of the fault".to_owned()),
    }
}

/// Steps that are played on clones: what changes the database or the host. Services are not upgraded there.
pub(super) fn is_played(step: &Step) -> bool {
    step.action.kind() != StepKind::Service
}

/// Plays a cell on a clone that was made for it.
///
/// # Errors
/// A sentence when the fault could not be tried: a step before it failed, or it did not strike.
pub(super) async fn play(
    stage: &Stage,
    ground: &Ground,
    cell: &Cell,
    states: &States,
) -> Result<(FaultOutcome, Vec<String>), String> {
    let unusable = |error: MirrorError| error.to_string();
    let steps = &ground.package.manifest.steps;
    let restores = ground.rollback == RollbackMethod::Restore && cell.way == FaultWay::Rollback;
    if restores {
        stage.mirror.back_up(DataCopy::Before).await.map_err(unusable)?;
    }
    for step in steps[..cell.point.step].iter().filter(|step| is_played(step)) {
        stage.up(step).await?;
    }
    let step = &steps[cell.point.step];
    let file = step.action.package_file().unwrap_or_default();
    let faulty = point::step_with(step, &point::faulty_name(file));
    stage.strike(&faulty, cell.point.place, cell.fault).await?;
    stage.quiet().await.map_err(unusable)?;
    let mut errors = Vec::new();
    match cell.way {
        FaultWay::Rollback => {
            roll_back(stage, &steps[..=cell.point.step], ground.rollback, &mut errors).await;
            if restores {
                stage.mirror.restore(DataCopy::Before).await.map_err(unusable)?;
            }
        }
        FaultWay::Resume => {
            for step in steps[cell.point.step..].iter().filter(|step| is_played(step)) {
                if let Err(error) = stage.up(step).await {
                    errors.push(error);
                    break;
                }
            }
        }
    }
    if !errors.is_empty() {
        return Ok((FaultOutcome::Stuck, errors));
    }
    let now = stage.take().await.map_err(unusable)?;
    let differences = match (cell.way, &states.before, &states.upgraded) {
        (FaultWay::Rollback, Some(before), _) => before.back(&now),
        (FaultWay::Resume, _, Some(upgraded)) => upgraded.again(&now),
        _ => return Err("there is no state to hold it against".to_owned()),
    };
    let outcome = if differences.is_empty() { FaultOutcome::Reached } else { FaultOutcome::Differs };
    Ok((outcome, differences))
}

/// The steps' rollbacks, last first; one that fails does not keep the others from running.
async fn roll_back(stage: &Stage, steps: &[Step], method: RollbackMethod, errors: &mut Vec<String>) {
    for step in steps.iter().rev().filter(|step| is_played(step)) {
        if method == RollbackMethod::Restore && step.action.kind() == StepKind::Sql {
            continue;
        }
        if let Some(rollback) = &step.rollback
            && let Err(error) = failure(stage.runner.down(step, rollback, Phase::Rollback).await)
        {
            errors.push(error);
        }
    }
}

impl Taken {
    /// What a rollback did not bring back: schema, rows and the host's files.
    fn back(&self, now: &Self) -> Vec<String> {
        let mut differences = self.schema.differences(&now.schema);
        differences.extend(self.data.differences(&now.data));
        differences.extend(residue::differences("file", &self.files, &now.files));
        named(&differences)
    }

    /// What an upgrade that was run again did not reach: schema and numbers of rows. Values may depend on the time.
    fn again(&self, now: &Self) -> Vec<String> {
        let mut named = named(&self.schema.differences(&now.schema));
        let found: BTreeMap<&str, u64> = now.data.rows().collect();
        for (table, rows) in self.data.rows() {
            let found = found.get(table).copied().unwrap_or(0);
            if found != rows && named.len() < NAMED_MAX {
                named.push(format!("table {table} has {found} rows instead of {rows}"));
            }
        }
        named
    }
}

fn named(differences: &[Difference]) -> Vec<String> {
    let one = |difference: &Difference| {
        let Difference { kind, object, before, after } = difference;
        match (before, after) {
            (None, _) => format!("{kind} {object} is there and was not"),
            (_, None) => format!("{kind} {object} is missing"),
            _ => format!("{kind} {object} differs"),
        }
    };
    differences.iter().take(NAMED_MAX).map(one).collect()
}
