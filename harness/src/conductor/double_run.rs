//! LOCK-DOUBLE-RUN: a second runner is really started beside the first, on a clone of the mirror.
//!
//! The play starts a [`Trial`] from the mirror's snapshot and plays it once nobody is measured any more. Both runners are
//! step runners as the rehearsal's own. What is seen of them ([`watch`]), what they sent ([`account`]) and what they
//! left decide how the second one behaved ([`outcome`]).

mod account;
mod outcome;
mod watch;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fulldress_reports::evidence::{DoubleRunEvidence, StepKind, StepRun};
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use tokio::sync::watch as signal;
use tokio::task::JoinSet;

use self::account::Account;
use self::outcome::Told;
use self::watch::{Runner, Seen, Whose};
use crate::actors::Actors;
use crate::fingerprint::SchemaFingerprint;
use crate::inventory::Inventory;
use crate::mirror::{Mirror, MirrorError};
use crate::package::Package;
use crate::package::manifest::{OnFailure, Step};
use crate::plan::{self, Plan};
use crate::process::RunFolder;
use crate::proofs::data;
use crate::recorder::log::{LogEvents, LogReader};
use crate::recorder::observation::MigrationLock;
use crate::upgrade::steps::{RunnerParts, StepRunner};

/// How long the reader beside two runners keeps a change waiting: longer than one runner starts after the other, and shorter
/// than the lock_timeout of most packages, which may try again after the pause.
const READER_HOLD_MS: u64 = 150;
const READER_PAUSE_MS: u64 = 100;

/// A clone of the mirror with two runners.
pub struct Trial {
    plan: Arc<Plan>,
    package: Arc<Package>,
    mirror: Arc<dyn Mirror>,
    runners: [Arc<StepRunner>; 2],
    clock: Clock,
}

/// What a trial is made of.
pub struct Parts {
    /// Name of the clone; tells trials of one run folder apart.
    pub name: String,
    /// Names of the two script hosts. Short, since a socket's path has little room.
    pub hosts: [String; 2],
    /// The plan.
    pub plan: Arc<Plan>,
    /// The host that scripts see.
    pub inventory: Arc<Inventory>,
    /// The package that both run.
    pub package: Arc<Package>,
    /// The mirror whose snapshot it starts from.
    pub mirror: Arc<dyn Mirror>,
    /// The rehearsal's working folder.
    pub run: Arc<RunFolder>,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The rehearsal's clock.
    pub clock: Clock,
}

/// What one runner alone came to.
#[derive(Debug, Default)]
pub struct Alone {
    /// The schema that it reached.
    pub upgraded: SchemaFingerprint,
    /// Steps that failed.
    pub failed: BTreeSet<String>,
}

impl Trial {
    /// Starts a clone from the mirror's snapshot, with its services and two runners.
    ///
    /// # Errors
    /// When the clone does not come up.
    pub async fn start(parts: Parts) -> Result<Self, MirrorError> {
        let Parts { name, hosts, plan, inventory, package, mirror, run, bundle, clock } = &parts;
        let clone = mirror.clone_from_snapshot(name, &[&hosts[0], &hosts[1]]).await?;
        let runner = async |host: &str| {
            let logs = bundle.join("logs").join(name).join(host);
            let mirror = &clone;
            let parts = RunnerParts { plan, inventory, package, mirror, run, logs: &logs, clock: *clock };
            StepRunner::start(parts, host).await.map(Arc::new)
        };
        let (first, second) = tokio::join!(runner(&hosts[0]), runner(&hosts[1]));
        let services = clone.services().start_all().await;
        match (first, second, services) {
            (Ok(first), Ok(second), Ok(())) => Ok(Self {
                plan: Arc::clone(plan),
                package: Arc::clone(package),
                mirror: clone,
                runners: [first, second],
                clock: *clock,
            }),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                clone.stop().await;
                Err(error)
            }
        }
    }

    /// Runs the steps that touch the database in both runners, the second one from the start of the plan's step on, and
    /// holds what they leave against what a single runner came to.
    ///
    /// # Errors
    /// When the clone's database cannot be read.
    pub async fn play(&self, alone: &Alone) -> Result<DoubleRunEvidence, MirrorError> {
        let at_step = self.plan.double_run.at_step.as_deref();
        if let Some(wanted) = at_step.filter(|wanted| !self.steps().any(|step| step.id == *wanted)) {
            let missing =
                format!("double_run.at_step names `{wanted}`, which is no sql or script step of the package");
            return Ok(DoubleRunEvidence { seen: vec![missing], ..DoubleRunEvidence::default() });
        }
        let whose = self.whose();
        let mut log = LogReader::new(
            self.mirror.log_place(),
            self.plan.mirror.database.name.clone(),
            self.server_now_us().await?,
        );
        let seen = Arc::new(Mutex::new(Seen::default()));
        // A set aborts what it holds when it is dropped: the play may be cut short here.
        let mut watcher = JoinSet::new();
        watcher.spawn(watch::watch(Arc::clone(&self.mirror), whose.clone(), Arc::clone(&seen)));
        let runs = Mutex::new([Vec::new(), Vec::new()]);
        let reader = self.start_reader().await?;
        let (ended, seen) = self.run_both(at_step, &runs, &seen).await;
        reader.stop();
        drop(watcher);
        let events = self.read_log(&mut log).await?;
        // What a runner that was cut off leaves is our doing.
        let differences = if ended { alone.upgraded.differences(&self.schema().await?) } else { Vec::new() };
        let evidence = outcome::judge(Told {
            runs: runs.into_inner().unwrap_or_else(PoisonError::into_inner),
            ended,
            seen: &seen,
            accounts: &Account::both(&events.events, &whose),
            differences,
            failed_alone: &alone.failed,
        });
        Ok(DoubleRunEvidence { at_step: self.plan.double_run.at_step.clone(), ..evidence })
    }

    /// Stops the clone.
    pub async fn stop(&self) {
        for runner in &self.runners {
            runner.stop().await;
        }
        self.mirror.stop().await;
    }

    /// Starts a reader of all tables, behind which a change of the schema waits for a moment, as in production: a migration of
    /// a few milliseconds would be over before the second runner comes, and nothing would have been tried.
    async fn start_reader(&self) -> Result<Actors, MirrorError> {
        let tables = data::tables(&mut self.mirror.connect().await?).await.map_err(unread)?;
        let long_reader = plan::LongReader {
            enabled: true,
            relations: Vec::new(),
            hold_ms: READER_HOLD_MS,
            pause_ms: READER_PAUSE_MS,
        };
        let actors = plan::Actors {
            long_reader,
            idle_transaction: plan::IdleTransaction { enabled: false, ..plan::IdleTransaction::default() },
            analyze: plan::Analyze { enabled: false, ..plan::Analyze::default() },
        };
        Ok(Actors::start(&self.mirror.server(), &actors, &tables))
    }

    /// Whether both came to their end within the plan's limit, and what was seen until then; what has not ended is killed.
    async fn run_both(
        &self,
        at_step: Option<&str>,
        runs: &Mutex<[Vec<StepRun>; 2]>,
        seen: &Mutex<Seen>,
    ) -> (bool, Seen) {
        let (go, mut gone) = signal::channel(at_step.is_none());
        let first = self.apply(0, runs, |step| {
            if at_step == Some(step.id.as_str()) {
                go.send_replace(true);
            }
        });
        let first = async {
            first.await;
            // It may have ended before the step.
            go.send_replace(true);
        };
        let second = async {
            // The sender lives as long as this.
            let _ = gone.wait_for(|gone| *gone).await;
            self.apply(1, runs, |_| ()).await;
        };
        let limit = Duration::from_secs(self.plan.double_run.limit_s);
        let both = async { tokio::join!(first, second) };
        tokio::pin!(both);
        let ended = tokio::time::timeout(limit, both.as_mut()).await.is_ok();
        // Before what has not ended is killed, which lets its locks go.
        let seen = lock(seen).clone();
        (ended, seen)
    }

    async fn apply(&self, runner: Runner, runs: &Mutex<[Vec<StepRun>; 2]>, begins: impl Fn(&Step)) {
        for step in self.steps() {
            begins(step);
            let run = self.runners[runner].up(step, Phase::Upgrade).await;
            let failed = run.error.is_some();
            lock(runs)[runner].push(run);
            if failed && step.on_failure == OnFailure::Rollback {
                break;
            }
        }
    }

    /// The steps that touch the database.
    fn steps(&self) -> impl Iterator<Item = &Step> {
        let all = self.package.manifest.steps.iter();
        all.filter(|step| matches!(step.action.kind(), StepKind::Sql | StepKind::Script))
    }

    fn whose(&self) -> Whose {
        let [first, second] = &self.runners;
        Whose {
            addresses: [first, second].map(|runner| runner.address().to_string()),
            lock: MigrationLock::from(&self.plan.migration_lock),
        }
    }

    async fn schema(&self) -> Result<SchemaFingerprint, MirrorError> {
        SchemaFingerprint::read(&mut self.mirror.connect().await?).await.map_err(unread)
    }

    async fn server_now_us(&self) -> Result<i64, MirrorError> {
        sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
            .fetch_one(&mut self.mirror.connect().await?)
            .await
            .map_err(unread)
    }

    async fn read_log(&self, log: &mut LogReader) -> Result<LogEvents, MirrorError> {
        let mut events = LogEvents::default();
        let mut connection = self.mirror.connect().await?;
        let read = log.read_to_now(&mut connection, self.clock, &mut events).await;
        let whole = read.map_err(|error| MirrorError::new(format!("failed to {error}"), ""))?;
        if whole {
            Ok(events)
        } else {
            Err(MirrorError::new("the end of the clone's server log did not arrive", ""))
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn unread(error: sqlx::Error) -> MirrorError {
    MirrorError::new(format!("the clone's database cannot be read: {error}"), "")
}

fn lock<Value>(mutex: &Mutex<Value>) -> MutexGuard<'_, Value> {
    // Each change is one call on the value, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
