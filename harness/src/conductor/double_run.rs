//! LOCK-DOUBLE-RUN: a second runner is really started beside the first, on a clone of the mirror.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_reports::evidence::{DoubleRunEvidence, DoubleRunOutcome, StepKind, StepRun};
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use tokio::task::JoinSet;

use crate::inventory::Inventory;
use crate::mirror::{Mirror, MirrorError, PACKAGE_ROLE};
use crate::package::Package;
use crate::package::manifest::OnFailure;
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::proofs::schema::SchemaFingerprint;
use crate::upgrade::steps::{RunnerParts, StepRunner};

/// Pause between two looks for a runner that waits.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Both runners together may take this long.
const LIMIT: Duration = Duration::from_secs(300);

/// A clone of the mirror with two runners.
pub(super) struct Clone {
    package: Arc<Package>,
    mirror: Arc<dyn Mirror>,
    runners: [Arc<StepRunner>; 2],
}

/// What a clone is made of.
pub(super) struct Parts {
    pub(super) plan: Arc<Plan>,
    pub(super) inventory: Arc<Inventory>,
    pub(super) package: Arc<Package>,
    /// The mirror whose snapshot it starts from.
    pub(super) mirror: Arc<dyn Mirror>,
    pub(super) run: Arc<RunFolder>,
    /// The bundle's folder.
    pub(super) bundle: PathBuf,
    pub(super) clock: Clock,
}

impl Clone {
    /// Starts a clone from the mirror's snapshot.
    pub(super) async fn start(parts: Parts) -> Result<Self, MirrorError> {
        let Parts { plan, inventory, package, mirror, run, bundle, clock } = &parts;
        let clone = mirror.clone_from_snapshot("double-run", &["first", "second"]).await?;
        let runner = async |name: &str| {
            let logs = bundle.join("logs").join("double-run").join(name);
            let mirror = &clone;
            let parts = RunnerParts { plan, inventory, package, mirror, run, logs: &logs, clock: *clock };
            StepRunner::start(parts, name).await.map(Arc::new)
        };
        let (first, second) = tokio::join!(runner("first"), runner("second"));
        let services = clone.services().start_all().await;
        match (first, second, services) {
            (Ok(first), Ok(second), Ok(())) => {
                Ok(Self { package: Arc::clone(package), mirror: clone, runners: [first, second] })
            }
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                clone.stop().await;
                Err(error)
            }
        }
    }

    /// Runs the steps that touch the database in both runners at once, and holds the schema against the one that a
    /// single runner reached.
    pub(super) async fn play(&self, upgraded: &SchemaFingerprint) -> Result<DoubleRunEvidence, MirrorError> {
        let seen = Arc::new(Mutex::new(Seen::default()));
        // A set aborts what it holds when it is dropped: the play may be cut short here.
        let mut watcher = JoinSet::new();
        watcher.spawn(watch(Arc::clone(&self.mirror), Arc::clone(&seen)));
        let both = async { tokio::join!(self.apply(0), self.apply(1)) };
        let ended = tokio::time::timeout(LIMIT, both).await;
        drop(watcher);
        let seen = *seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok((first, second)) = ended else {
            return Ok(DoubleRunEvidence {
                outcome: DoubleRunOutcome::Hung,
                overlapped: true,
                ..Default::default()
            });
        };
        let schema = SchemaFingerprint::read(&mut self.mirror.connect().await?)
            .await
            .map_err(|error| MirrorError::new(format!("the clone's database cannot be read: {error}"), ""))?;
        Ok(judge(&first, &second, seen, upgraded.differences(&schema)))
    }

    /// Stops the clone.
    pub(super) async fn stop(&self) {
        for runner in &self.runners {
            runner.stop().await;
        }
        self.mirror.stop().await;
    }

    async fn apply(&self, runner: usize) -> Vec<StepRun> {
        let mut runs = Vec::new();
        for step in &self.package.manifest.steps {
            if !matches!(step.action.kind(), StepKind::Sql | StepKind::Script) {
                continue;
            }
            let run = self.runners[runner].up(step, Phase::Upgrade).await;
            let failed = run.error.is_some();
            runs.push(run);
            if failed && step.on_failure == OnFailure::Rollback {
                break;
            }
        }
        runs
    }
}

/// What the evidence says; `differences` are those from the schema that one runner reaches.
fn judge(
    first: &[StepRun],
    second: &[StepRun],
    seen: Seen,
    differences: Vec<fulldress_reports::evidence::Difference>,
) -> DoubleRunEvidence {
    // A runner that was told to come again met the other's migration lock as well.
    let told_to_come_again = first.iter().chain(second).any(|run| run.attempts > 1);
    let waited_on_migration_lock = seen.waited || told_to_come_again;
    let errors: Vec<String> = [("first", first), ("second", second)]
        .into_iter()
        .flat_map(|(name, runs)| {
            runs.iter().filter_map(move |run| {
                Some(format!("{name} runner, step {}: {}", run.id, run.error.as_ref()?))
            })
        })
        .collect();
    let failed_at_once = |runs: &[StepRun]| runs.iter().any(|run| run.error.is_some());
    let one_refused = failed_at_once(first) != failed_at_once(second);
    let outcome = match (errors.is_empty(), differences.is_empty()) {
        (true, true) if waited_on_migration_lock => DoubleRunOutcome::Serialised,
        (false, true) if waited_on_migration_lock && one_refused => DoubleRunOutcome::Refused,
        _ => DoubleRunOutcome::NotSerialised,
    };
    DoubleRunEvidence {
        outcome,
        // A runner whose steps failed or left something else met the other, however short the meeting was.
        overlapped: seen.met || waited_on_migration_lock || !errors.is_empty() || !differences.is_empty(),
        waited_on_migration_lock,
        errors,
        differences,
    }
}

/// What was seen on the clone's server while both ran.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// A session waited for an advisory lock.
    waited: bool,
    /// Two sessions of the package were at work at the same instant. Steps that overlap in time prove less: a quick one
    /// is at work for a few milliseconds of the time that its process lives.
    met: bool,
}

async fn watch(mirror: Arc<dyn Mirror>, seen: Arc<Mutex<Seen>>) {
    let Ok(mut connection) = mirror.connect().await else { return };
    let query = format!(
        "SELECT (SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted), \
         (SELECT count(*) > 1 FROM pg_stat_activity WHERE usename = '{PACKAGE_ROLE}' \
          AND backend_type = 'client backend' AND state <> 'idle')"
    );
    // Ends when the clone's server does.
    while let Ok((waits, meet)) = sqlx::query_as::<_, (bool, bool)>(sqlx::AssertSqlSafe(query.as_str()))
        .fetch_one(&mut connection)
        .await
    {
        {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.waited |= waits;
            seen.met |= meet;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use fulldress_reports::evidence::{Difference, DoubleRunOutcome, StepKind, StepRun};
    use fulldress_reports::phase::Phase;

    fn run(start_us: u64, end_us: u64, attempts: u32, error: Option<&str>) -> StepRun {
        StepRun {
            id: "010".to_owned(),
            kind: StepKind::Sql,
            phase: Phase::Upgrade,
            start_us,
            end_us,
            attempts,
            error: error.map(str::to_owned),
            log: None,
        }
    }

    #[test]
    fn the_outcome_follows_the_evidence() {
        let drift =
            Difference { kind: "index".to_owned(), object: "i".to_owned(), before: None, after: None };
        let well = || vec![run(0, 10, 1, None)];
        let again = || vec![run(5, 20, 3, None)];
        let failed = || vec![run(5, 20, 1, Some("42701"))];
        let met = |waited| super::Seen { waited, met: true };
        let never_met = super::Seen::default();
        let cases = [
            (well(), well(), met(true), false, DoubleRunOutcome::Serialised, true),
            (well(), again(), never_met, false, DoubleRunOutcome::Serialised, true),
            (well(), well(), met(false), false, DoubleRunOutcome::NotSerialised, true),
            (well(), well(), never_met, false, DoubleRunOutcome::NotSerialised, false),
            (well(), failed(), never_met, false, DoubleRunOutcome::NotSerialised, true),
            (well(), failed(), met(true), false, DoubleRunOutcome::Refused, true),
            (failed(), failed(), met(true), false, DoubleRunOutcome::NotSerialised, true),
            (well(), again(), met(true), true, DoubleRunOutcome::NotSerialised, true),
        ];
        for (first, second, seen, drifted, outcome, overlapped) in cases {
            let differences = if drifted { vec![drift.clone()] } else { Vec::new() };
            let evidence = super::judge(&first, &second, seen, differences);
            assert_eq!(
                (evidence.outcome, evidence.overlapped),
                (outcome, overlapped),
                "{first:?} {second:?}"
            );
        }
    }
}
