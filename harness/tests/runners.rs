//! Migrators as there are in the world, each run by one runner and by two on a real PostgreSQL, by the code that a
//! rehearsal uses: how the second runner is classed, and on what evidence.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "support/versions.rs"]
mod versions;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fulldress::conductor::double_run::{Alone, Parts, Trial};
use fulldress::fingerprint::SchemaFingerprint;
use fulldress::inventory::Inventory;
use fulldress::mirror::local::LocalMirror;
use fulldress::mirror::{Mirror, PACKAGE_ROLE, SUPERUSER};
use fulldress::package::{self, Limits, Package};
use fulldress::plan::Plan;
use fulldress::process::RunFolder;
use fulldress::recorder::{Recorder, RecorderConfig, relation_names};
use fulldress::upgrade::steps::{RunnerParts, StepRunner};
use fulldress_reports::check::{Check, CheckId, Outcome};
use fulldress_reports::evidence::DoubleRunOutcome::{Corrupted, Hung, NotSerialised, Refused, Serialised};
use fulldress_reports::evidence::{DoubleRunOutcome, Evidence};
use fulldress_reports::judge::judge;
use fulldress_reports::lock::LockEvidence;
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use futures_util::{StreamExt as _, stream};

/// Trials that run at the same time.
const AT_ONCE: usize = 4;

/// A migrator of `fixtures/runners` and what must come of it.
struct Case {
    name: &'static str,
    /// Step at which the second runner is started.
    at_step: Option<&'static str>,
    limit_s: u64,
    class: DoubleRunOutcome,
    /// Outcomes of LOCK-DOUBLE-RUN, and of LOCK-MIGRATION when it runs alone.
    outcomes: [Outcome; 2],
    /// What the sentence of LOCK-DOUBLE-RUN, its findings and the errors say.
    says: &'static [&'static str],
}

/// Those that last longest stand first.
const CASES: [Case; 10] = [
    // A committed row is no lock that a session holds: it stays when the session is gone.
    Case {
        limit_s: 6,
        says: &["did not end within their time limit", "asked for the migration lock", "exit code 137"],
        ..case("lock-row-stale", Hung, [Outcome::Fail, Outcome::Fail])
    },
    Case {
        limit_s: 6,
        says: &[
            "at the limit `CREATE INDEX CONCURRENTLY orders_state ON orders (state)`",
            "waited for the end of a transaction of the",
            "waited for advisory lock 4242 of the",
            "sat in a session with the migration lock",
        ],
        ..case("xact-lock-concurrently", Hung, [Outcome::Fail, Outcome::Fail])
    },
    Case {
        says: &[
            "waited on the migration lock",
            "runner waited",
            "for advisory lock 4242, the migration lock",
        ],
        ..case("blocking-advisory", Serialised, [Outcome::Pass, Outcome::Pass])
    },
    Case {
        says: &[
            "PostgreSQL broke a deadlock",
            "40P01",
            "Index public.orders_state is INVALID after two runners",
        ],
        ..case("blocking-advisory-concurrently", Corrupted, [Outcome::Fail, Outcome::Pass])
    },
    Case {
        says: &["asked for the migration lock", "times in one step"],
        ..case("polling-try-lock", Serialised, [Outcome::Pass, Outcome::Pass])
    },
    Case {
        says: &["refused before it changed anything", "another migration is running"],
        ..case("try-lock-fail-fast", Refused, [Outcome::Pass, Outcome::Pass])
    },
    Case {
        says: &["for a lock on schema_lock, the migration lock"],
        ..case("lock-table", Serialised, [Outcome::Pass, Outcome::Pass])
    },
    Case {
        says: &["neither asked for a migration lock", "42701", "already exists"],
        ..case("no-lock", Corrupted, [Outcome::Fail, Outcome::Fail])
    },
    Case {
        says: &[
            "neither asked for a migration lock",
            "Column public.orders.channel differs after two runners",
        ],
        ..case("no-lock-half-applied", Corrupted, [Outcome::Fail, Outcome::Fail])
    },
    Case {
        at_step: Some("020-elsewhere"),
        says: &["the two runners never met", "never while the other one had it"],
        ..case("never-met", NotSerialised, [Outcome::Inconclusive, Outcome::Pass])
    },
];

const fn case(name: &'static str, class: DoubleRunOutcome, outcomes: [Outcome; 2]) -> Case {
    Case { name, at_step: None, limit_s: 30, class, outcomes, says: &[] }
}

/// A mirror that all migrators start from.
struct Ground {
    state: tempfile::TempDir,
    run: Arc<RunFolder>,
    plan: Plan,
    inventory: Arc<Inventory>,
    mirror: Arc<dyn Mirror>,
    clock: Clock,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/runners").canonicalize().unwrap()
}

/// The server's programs without psql: scripts run the distribution's, since that of a version which was fetched needs libraries
/// that lie outside of what a sandbox shows.
fn without_psql(postgres: &Path, run: &RunFolder) -> PathBuf {
    let folder = run.path().join("programs/bin");
    std::fs::create_dir_all(&folder).unwrap();
    for entry in std::fs::read_dir(postgres.canonicalize().unwrap()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "psql" {
            std::os::unix::fs::symlink(entry.path(), folder.join(entry.file_name())).unwrap();
        }
    }
    folder
}

impl Ground {
    async fn make(postgres: &Path) -> Self {
        // Short, since a socket's path has little room.
        let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        let run = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
        let mut plan = Plan::read(&folder().join("rehearsal.toml")).unwrap();
        plan.mirror.postgres = Some(without_psql(postgres, &run));
        // A plan needs one for its traffic; here there is none.
        plan.mirror.services.clear();
        let inventory = Arc::new(Inventory::load(&plan.inventory).unwrap());
        let logs = state.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let shared = Arc::new(plan.clone());
        let program = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
        let mirror = LocalMirror::start(program, shared, Arc::clone(&run), "ground", &logs, |_| ());
        let mirror = mirror.await.unwrap();
        let clock = Clock::start();
        Self { state, run, plan, inventory, mirror: Arc::new(mirror), clock }
    }

    fn open(name: &str) -> Arc<Package> {
        Arc::new(package::open_folder(&folder().join(name), &Limits::default()).unwrap())
    }

    /// What one runner comes to, watched by the recorder.
    async fn alone(
        &self,
        plan: &Arc<Plan>,
        package: &Arc<Package>,
        name: &'static str,
    ) -> (Alone, LockEvidence) {
        let host = short(name, "a");
        let mirror = self.mirror.clone_from_snapshot(&host, &[&host]).await.unwrap();
        let logs = self.state.path().join("logs").join(&host);
        let (inventory, run) = (&self.inventory, &*self.run);
        let parts =
            RunnerParts { plan, inventory, package, mirror: &mirror, run, logs: &logs, clock: self.clock };
        let runner = StepRunner::start(parts, &host).await.unwrap();
        let preexisting = relation_names(&mut mirror.connect().await.unwrap()).await.unwrap();
        let config = RecorderConfig::new(mirror.server(), mirror.log_place(), PACKAGE_ROLE, self.clock)
            .with_address(runner.address())
            .with_own_role(SUPERUSER)
            .with_migration_lock(&plan.migration_lock);
        let recorder = Recorder::start(config).await.unwrap();
        recorder.fast(true);
        for step in &package.manifest.steps {
            let run = runner.up(step, Phase::Upgrade).await;
            assert_eq!(run.error, None, "{name} alone, step {}", step.id);
        }
        let upgraded = SchemaFingerprint::read(&mut mirror.connect().await.unwrap()).await.unwrap();
        let recording = recorder.finish(&played(), &[], &BTreeMap::new(), &preexisting).await.unwrap();
        runner.stop().await;
        mirror.stop().await;
        (Alone { upgraded, ..Alone::default() }, recording.evidence)
    }

    async fn evidence(&self, case: &Case) -> Evidence {
        let mut plan = self.plan.clone();
        plan.double_run.limit_s = case.limit_s;
        plan.double_run.at_step = case.at_step.map(str::to_owned);
        let (plan, package) = (Arc::new(plan), Self::open(case.name));
        let (alone, mut locks) = self.alone(&plan, &package, case.name).await;
        // How well a busy machine could sample is not what is tried here.
        locks.trust.samples_taken = locks.trust.samples_planned;
        locks.trust.sample_gap_max_us = 0;
        locks.trust.gaps.clear();
        let trial = Trial::start(Parts {
            name: short(case.name, "d"),
            hosts: ["1", "2"].map(|number| short(case.name, number)),
            plan,
            inventory: Arc::clone(&self.inventory),
            package,
            mirror: Arc::clone(&self.mirror),
            run: Arc::clone(&self.run),
            bundle: self.state.path().to_owned(),
            clock: self.clock,
        });
        let trial = trial.await.unwrap();
        let double_run = trial.play(&alone).await;
        trial.stop().await;
        Evidence {
            phases: played(),
            locks: Some(locks),
            double_run: Some(double_run.unwrap()),
            ..Evidence::default()
        }
    }
}

/// A name for a folder of a case, short since a socket's path has little room.
fn short(name: &str, what: &str) -> String {
    let number = CASES.iter().position(|case| case.name == name).unwrap();
    format!("c{number}{what}")
}

/// Upgrade and rollback, as far as the rules ask for them.
fn played() -> Vec<PhaseSpan> {
    let span = |phase, start_us, end_us| PhaseSpan { phase, start_us, end_us: Some(end_us) };
    vec![span(Phase::Upgrade, 0, u64::MAX - 1), span(Phase::Rollback, u64::MAX - 1, u64::MAX)]
}

/// What is not as the case wants it.
fn faults(case: &Case, evidence: &Evidence) -> Vec<String> {
    let judgement = judge(evidence, "2026-01-01");
    let check = |id: CheckId| -> &Check { judgement.checks.iter().find(|check| check.id == id).unwrap() };
    let (double_run, migration) = (check(CheckId::LockDoubleRun), check(CheckId::LockMigration));
    let run = evidence.double_run.as_ref().unwrap();
    let found = judgement.findings.iter().filter(|finding| finding.check == CheckId::LockDoubleRun);
    let said = std::iter::once(double_run.evidence.clone()).chain(found.map(|finding| finding.what.clone()));
    let said = said.collect::<Vec<_>>().join("\n");
    let mut faults = Vec::new();
    if run.outcome != case.class {
        faults.push(format!("it is {:?} and not {:?}", run.outcome, case.class));
    }
    for (check, wanted) in [(double_run, case.outcomes[0]), (migration, case.outcomes[1])] {
        if check.outcome != wanted {
            faults.push(format!("{} is {:?}: {}", check.id, check.outcome, check.evidence));
        }
    }
    let missing = case.says.iter().filter(|text| !said.contains(**text));
    faults.extend(missing.map(|text| format!("it does not say `{text}`")));
    if !faults.is_empty() {
        faults.push(format!("said:\n{said}\n{run:#?}"));
    }
    faults.into_iter().map(|fault| format!("{}: {fault}", case.name)).collect()
}

/// Processes that belong to the ground's run.
fn processes(state: &Path) -> Vec<String> {
    let marker = format!("FULLDRESS_RUN={}/", state.display());
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let of_run = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        String::from_utf8_lossy(&environment).contains(&marker)
    };
    let line = |pid: u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        format!("{pid} {}", String::from_utf8_lossy(&line).replace('\0', " "))
    };
    pids.filter(of_run).map(line).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_runner_of_every_migrator_is_classed_with_its_evidence() {
    for (version, postgres) in versions::versions() {
        let ground = Ground::make(&postgres).await;
        let trials = CASES.iter().map(|case| async { faults(case, &ground.evidence(case).await) });
        let faults: Vec<String> =
            stream::iter(trials).buffer_unordered(AT_ONCE).flat_map(stream::iter).collect().await;
        ground.mirror.stop().await;
        assert!(faults.is_empty(), "PostgreSQL {version}:\n{}", faults.join("\n"));
        // Also of those that hung.
        let left = processes(&ground.state.path().canonicalize().unwrap());
        assert_eq!(left, Vec::<String>::new(), "still there, on PostgreSQL {version}");
    }
}
