//! A short rehearsal of the storefront in folders of its own, so that whatever it leaves behind can be seen.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use fulldress_reports::report::Report;
use fulldress_workloads::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use toml::{Table, Value};

use crate::docker;
use crate::program::{Ended, fulldress, package, report, repository};

/// Longest that a rehearsal may take to reach a point of its course.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Longest that a whole rehearsal may take, beside others on a slow machine: it is a hang that this is to find.
pub(crate) const WHOLE: Duration = Duration::from_secs(360);
/// Longest that it may take to stop everything and write its bundle.
pub(crate) const STOPPING: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Rows of the table orders.
const ORDERS: u64 = 2_000;

/// Checks whose outcome rests on how fast the machine was.
const TIMED: [&str; 8] = [
    "LOCK-HOLD",
    "LOCK-WAIT",
    "DEP-OUTAGE",
    "SLO-LATENCY",
    "SLO-ERRORS",
    "SLO-BUDGET",
    "EVID-DRIVER",
    "EVID-RECORDER",
];

/// Rehearsals that share the machine's two cores must not decide a verdict.
static MACHINE: RwLock<()> = RwLock::new(());

/// Waits until the machine is ours alone: for tests that assert a verdict.
pub(crate) fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until nobody needs the machine alone.
pub(crate) fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Looks until a condition gives something.
#[track_caller]
pub(crate) fn await_some<Found>(what: &str, limit: Duration, look: impl FnMut() -> Option<Found>) -> Found {
    let Some(found) = await_until(limit, look) else { panic!("{what}: not within {} s", limit.as_secs()) };
    found
}

/// Looks until a condition gives something, or the time is over.
fn await_until<Found>(limit: Duration, mut look: impl FnMut() -> Option<Found>) -> Option<Found> {
    let clock = Clock::start();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Duration::from_micros(clock.now_us()) >= limit {
            return None;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Which mirror a test is played on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    Containers,
}

/// A plan and the folders that its rehearsal may use. Paths are short: a socket's may have 107 bytes.
pub(crate) struct Stage {
    pub(crate) plan: Table,
    pub(crate) state: PathBuf,
    /// More arguments of `fulldress run`.
    pub(crate) arguments: Vec<&'static str>,
    /// Variables of its environment.
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) kind: Kind,
    folder: TempDir,
}

impl Stage {
    /// The storefront's own plan on one kind of mirror; none, which is told, where there is no such kind.
    pub(crate) fn on(kind: Kind) -> Option<Self> {
        (kind == Kind::Local || docker::answer()).then(|| Self::of(kind))
    }

    /// The storefront's own plan on the embedded mirror.
    pub(crate) fn new() -> Self {
        Self::of(Kind::Local)
    }

    /// With few rows and short phases.
    fn of(kind: Kind) -> Self {
        let folder = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
        // PostgreSQL's user must pass, as it does through the temporary folder.
        open(folder.path(), 0o755);
        let state = folder.path().join("s");
        for inner in [&state, &folder.path().join("t")] {
            std::fs::create_dir(inner).unwrap();
            open(inner, 0o711);
        }
        let state = state.canonicalize().unwrap();
        let workload = folder.path().join("workload.toml");
        std::fs::write(&workload, small_workload()).unwrap();
        let mut plan = short_plan(&workload);
        let name = if kind == Kind::Local { "local" } else { "compose" };
        plan["mirror"].as_table_mut().unwrap().insert("kind".to_owned(), name.into());
        Self { plan, state, arguments: Vec::new(), environment: Vec::new(), kind, folder }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn bundle(&self) -> PathBuf {
        self.path().join("b")
    }

    /// A table of the plan, such as `mirror.dataset`.
    pub(crate) fn table(&mut self, path: &str) -> &mut Table {
        path.split('.').fold(&mut self.plan, |table, key| table[key].as_table_mut().unwrap())
    }

    /// Fills the table of orders with this many rows.
    pub(crate) fn orders(&mut self, rows: u64) {
        let command = self.table("mirror.dataset")["command"].as_array_mut().unwrap();
        let known = ORDERS.to_string();
        *command.iter_mut().find(|part| part.as_str() == Some(&known)).unwrap() = rows.to_string().into();
    }

    /// Lets the plan name two ways back.
    pub(crate) fn ways_back(&mut self, methods: [&str; 2]) {
        let methods = Value::from(methods.map(Value::from).to_vec());
        self.plan.insert("rollback".to_owned(), Table::from_iter([("method".to_owned(), methods)]).into());
    }

    /// A service of the plan.
    pub(crate) fn service(&mut self, name: &str) -> &mut Table {
        let services = self.table("mirror")["service"].as_array_mut().unwrap();
        let named = |service: &&mut Value| service["name"].as_str() == Some(name);
        services.iter_mut().find(named).unwrap().as_table_mut().unwrap()
    }

    /// Makes every check advisory that a busy machine can turn: a restart fills much of so short a phase, and other
    /// tests run beside it. For tests in which only the way it ends is judged.
    pub(crate) fn forgive_timing(&mut self) {
        let checks = self.table("checks");
        for id in TIMED {
            let setting = checks.entry(id).or_insert_with(|| Table::new().into());
            setting.as_table_mut().unwrap().insert("required".to_owned(), false.into());
        }
    }

    /// Starts the rehearsal with one of the storefront's packages.
    pub(crate) fn start(&self, kind: &str) -> Rehearsal<'_> {
        self.start_package(&package(kind))
    }

    /// Starts it with a package's folder.
    pub(crate) fn start_package(&self, package: &Path) -> Rehearsal<'_> {
        let plan = self.path().join("rehearsal.toml");
        std::fs::write(&plan, toml::to_string(&self.plan).unwrap()).unwrap();
        let stream = |name: &str| File::create(self.path().join(name)).unwrap();
        let child = fulldress()
            .args(["run".as_ref(), plan.as_os_str()])
            .args(["--package".as_ref(), package.as_os_str()])
            .args(["--out".as_ref(), self.bundle().as_os_str()])
            .args(&self.arguments)
            .env("FULLDRESS_STATE", &self.state)
            .env("TMPDIR", self.path().join("t"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(stream("stdout"))
            .stderr(stream("stderr"))
            .spawn()
            .unwrap();
        Rehearsal { stage: self, child }
    }

    /// Folders of runs in the state folder.
    pub(crate) fn run_folders(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.state).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    /// The only run's folder, once there is one.
    pub(crate) fn run_folder(&self) -> Option<PathBuf> {
        self.run_folders().pop()
    }

    /// Everything that runs for a run of this stage: processes, and what its label marks at the container engine.
    pub(crate) fn running(&self) -> Vec<String> {
        let mut running = self.processes();
        if self.kind == Kind::Containers {
            running.extend(docker::labelled(&self.state));
        }
        running
    }

    /// Every process that belongs to a run of this stage, as number and command line.
    pub(crate) fn processes(&self) -> Vec<String> {
        let state = self.state.display().to_string();
        let marker = format!("FULLDRESS_RUN={state}/");
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| {
            // What ended in the meantime, and what is a zombie, reads as nothing.
            let read = |file: &str| {
                let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let (environment, line) = (read("environ"), read("cmdline"));
            let folder = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
            let ours =
                environment.contains(&marker) || line.contains(&state) || folder.starts_with(&self.state);
            ours.then(|| format!("{pid} {line}"))
        })
        .collect()
    }

    /// Fails unless nothing runs and nothing is on disk outside the bundle.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.running(), Vec::<String>::new(), "still there");
        assert_eq!(self.run_folders(), Vec::<PathBuf>::new(), "left in the state folder");
        let temporary = std::fs::read_dir(self.path().join("t")).unwrap().map(|entry| entry.unwrap().path());
        assert_eq!(temporary.collect::<Vec<_>>(), Vec::<PathBuf>::new(), "left in the temporary folder");
    }

    /// The bundle's report; fails when the bundle lacks its raw events.
    #[track_caller]
    pub(crate) fn report(&self) -> Report {
        let events = fulldress::events::read(&self.bundle()).unwrap();
        assert!(events.len() > 2, "{events:?}");
        report(&self.bundle())
    }

    /// Why the rehearsal ended early, as the report says it.
    #[track_caller]
    pub(crate) fn reason(&self) -> String {
        self.report().evidence.interrupted.expect("the report does not say that it ended early").reason
    }
}

/// A running rehearsal.
pub(crate) struct Rehearsal<'stage> {
    stage: &'stage Stage,
    child: Child,
}

impl Rehearsal<'_> {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits until the events of the bundle hold a text, such as a phase's begin.
    #[track_caller]
    pub(crate) fn await_event(&mut self, text: &str) {
        let events = self.stage.bundle().join("events.jsonl");
        await_some(text, PATIENCE, || {
            if std::fs::read_to_string(&events).is_ok_and(|events| events.contains(text)) {
                return Some(());
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "ended before `{text}`:\n{}", self.said("stderr"));
            None
        });
    }

    /// Waits until the program has ended.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> Ended {
        let Some(status) = await_until(limit, || self.child.try_wait().unwrap()) else {
            // Where it stands, or nobody could say why it did not end.
            let events =
                std::fs::read_to_string(self.stage.bundle().join("events.jsonl")).unwrap_or_default();
            let last: Vec<&str> = events.lines().rev().take(5).collect();
            let limit_s = limit.as_secs();
            panic!("not ended within {limit_s} s; last events {last:#?}; it said:\n{}", self.said("stderr"));
        };
        Ended { code: status.code(), stdout: self.said("stdout"), stderr: self.said("stderr") }
    }

    fn said(&self, stream: &str) -> String {
        let bytes = std::fs::read(self.stage.path().join(stream)).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Rehearsal<'_> {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A failing test: the kernel ends the children with their parent.
            let _gone = self.child.kill().and_then(|()| self.child.wait());
        }
    }
}

fn open(folder: &Path, mode: u32) {
    std::fs::set_permissions(folder, Permissions::from_mode(mode)).unwrap();
}

/// The storefront's traffic against ids that the small dataset has.
fn small_workload() -> String {
    let text = std::fs::read_to_string(repository().join("workloads/storefront.toml")).unwrap();
    let (orders, customers) = ("random(1, 200000)", "random(1, 20000)");
    assert!(text.contains(orders) && text.contains(customers), "the workload asks for other ids now");
    text.replace(orders, &format!("random(1, {ORDERS})"))
        .replace(customers, &format!("random(1, {})", ORDERS / 10))
}

fn short_plan(workload: &Path) -> Table {
    let folder = repository().join("fixtures/storefront");
    let text = std::fs::read_to_string(folder.join("rehearsal.toml")).unwrap();
    let text =
        text.replace("\"200000\"", &format!("\"{ORDERS}\"")).replace("{plan}", &folder.display().to_string());
    assert!(text.contains(&format!("\"{ORDERS}\"")), "the plan's dataset has another size now");
    let mut plan: Table = text.parse().unwrap();
    let path = |path: &Path| Value::from(path.display().to_string());
    plan.insert("inventory".to_owned(), path(&folder.join("inventory.toml")));
    plan["mirror"]["compose"] = path(&repository().join("docker-compose.yml"));
    plan["traffic"]["workload"] = path(workload);
    // A production of the same size: the rehearsal is short, not out of scale.
    let rows = [("orders", ORDERS), ("order_lines", ORDERS * 2), ("customers", ORDERS / 10)];
    let rows = rows.map(|(name, rows)| (format!("public.{name}"), Value::from(i64::try_from(rows).unwrap())));
    plan["objectives"]["production_rows"] = Table::from_iter(rows).into();
    let seconds = [
        ("warmup_s", 1),
        ("baseline_s", 3),
        ("upgrade_min_s", 2),
        ("soak_s", 2),
        ("rollback_min_s", 2),
        ("recovery_s", 2),
        ("rehearsal_max_s", 120),
    ];
    let phases = seconds.map(|(name, seconds)| (name.to_owned(), Value::from(seconds)));
    plan.insert("phases".to_owned(), Table::from_iter(phases).into());
    plan["script_environment"]["STOREFRONT_BACKFILL_MIN_MS"] = "2000".into();
    // They have tests of their own.
    plan.insert("faults".to_owned(), Table::from_iter([("cells_max".to_owned(), Value::from(0))]).into());
    let advisory = Table::from_iter([("required".to_owned(), Value::from(false))]);
    plan["checks"].as_table_mut().unwrap().insert("ROLL-FAULT".to_owned(), advisory.into());
    plan
}
