//! Runs the package's steps on a mirror: SQL through psql, scripts in the sandbox, services and configuration
//! through the mirror.
//!
//! The conductor calls [`StepRunner::up`] and [`StepRunner::down`]; what a step says goes to its log.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fulldress_reports::evidence::{StepKind, StepRun};
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;

use super::config;
use super::control::ControlServer;
use super::host::{self, MirrorServices};
use super::script_host::{Program, ScriptHost};
use crate::inventory::Inventory;
use crate::mirror::{HostParts, Mirror, MirrorError, PACKAGE_ROLE, Services};
use crate::package::Package;
use crate::package::manifest::{Action, Rollback, RollbackAction, Step};
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::proofs::residue::State;

/// Errors after which a step is tried again: lock not available, deadlock, serialization failure.
const RETRIED: [&str; 3] = ["55P03", "40P01", "40001"];

/// The error of a step that was killed because its time was over.
pub const TIMED_OUT: &str = "did not end in time and was killed";

/// What a runner is made from.
pub struct RunnerParts<'parts> {
    /// The plan.
    pub plan: &'parts Arc<Plan>,
    /// The host that scripts see.
    pub inventory: &'parts Arc<Inventory>,
    /// The package.
    pub package: &'parts Arc<Package>,
    /// The mirror that it changes.
    pub mirror: &'parts Arc<dyn Mirror>,
    /// The rehearsal's working folder.
    pub run: &'parts RunFolder,
    /// Folder of the bundle for the steps' output.
    pub logs: &'parts Path,
    /// The rehearsal's clock.
    pub clock: Clock,
}

/// Runs steps of one package on one mirror.
pub struct StepRunner {
    plan: Arc<Plan>,
    services: Arc<dyn Services>,
    host: Box<dyn ScriptHost>,
    control: ControlServer<MirrorServices>,
    package_password: String,
    logs: PathBuf,
    /// Configuration files as they were before a step, by step.
    former: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Never to stand in a log.
    secrets: Vec<String>,
    clock: Clock,
}

/// How one attempt ended.
struct Attempt {
    error: Option<String>,
    /// Whether the error is one after which the step may be tried again.
    transient: bool,
}

impl Attempt {
    const fn well() -> Self {
        Self { error: None, transient: false }
    }

    fn failed(error: impl Into<String>) -> Self {
        Self { error: Some(error.into()), transient: false }
    }
}

impl StepRunner {
    /// Prepares script host and control socket; `name` tells runners of one rehearsal apart.
    ///
    /// # Errors
    /// When scripts cannot be confined here and the plan does not allow to run them unconfined.
    pub async fn start(parts: RunnerParts<'_>, name: &str) -> Result<Self, MirrorError> {
        let RunnerParts { plan, inventory, package, mirror, run, logs, clock } = parts;
        let failed = |error: &dyn std::fmt::Display| MirrorError::new(format!("failed to {error}"), "");
        run.folder(name, None).map_err(|error| failed(&error))?;
        let unpacked = run.path().join(name).join("package");
        package.extract_to(&unpacked).map_err(|error| failed(&error))?;
        let host = mirror.script_host(HostParts { name, inventory, package: &unpacked }).await?;
        let services = mirror.services();
        let state = host::declared(inventory);
        let actions = MirrorServices(Arc::clone(&services));
        let control = ControlServer::start(&host.control_socket(), state, actions, clock);
        let control = control.map_err(|error| failed(&error))?;
        std::fs::create_dir_all(logs)
            .map_err(|error| failed(&format!("make {}: {error}", logs.display())))?;
        let package_password = mirror.package_password().to_owned();
        let mut secrets: Vec<String> = plan.mirror.database.roles.values().cloned().collect();
        secrets.push(package_password.clone());
        secrets.retain(|secret| !secret.is_empty());
        Ok(Self {
            plan: Arc::clone(plan),
            services,
            host,
            control,
            package_password,
            logs: logs.to_owned(),
            former: Mutex::default(),
            secrets,
            clock,
        })
    }

    /// What a reader must know about how scripts run.
    #[must_use]
    pub fn notice(&self) -> Option<&'static str> {
        self.host.notice()
    }

    /// Address from which the package's sessions reach the database.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.host.address()
    }

    /// The host's files as a residue probe names them.
    ///
    /// # Errors
    /// When the host cannot be read; one sentence.
    pub async fn files(&self) -> Result<State, String> {
        self.host.files().await
    }

    /// Units and scheduled tasks as residue probes name them.
    pub async fn host_state(&self) -> (State, State) {
        let snapshot = self.control.host().snapshot().await;
        (host::units(&snapshot), host::scheduled_tasks(&snapshot))
    }

    /// Runs a step of the upgrade.
    pub async fn up(&self, step: &Step, phase: Phase) -> StepRun {
        if let Action::Config { file, .. } = &step.action {
            self.remember(&step.id, file).await;
        }
        self.run(&step.id, &step.action, step.timeout, phase).await
    }

    /// Runs a step's way back.
    pub async fn down(&self, step: &Step, rollback: &Rollback, phase: Phase) -> StepRun {
        match &rollback.action {
            RollbackAction::Run(action) => self.run(&step.id, action, rollback.timeout, phase).await,
            RollbackAction::RestoreConfig { file } => {
                let start_us = self.clock.now_us();
                let error = self.restore_config(&step.id, file).await.err();
                StepRun {
                    id: step.id.clone(),
                    kind: StepKind::Config,
                    phase,
                    start_us,
                    end_us: self.clock.now_us(),
                    attempts: 1,
                    error,
                    log: None,
                }
            }
        }
    }

    /// A file of the host; none when there is no such file.
    ///
    /// # Errors
    /// When the host cannot be read; one sentence.
    pub async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String> {
        self.host.read(path).await
    }

    /// Cuts the connections that the package's programs have now.
    pub fn cut_connections(&self) {
        self.host.cut_connections();
    }

    /// Cuts the package's connections and stops listening.
    pub async fn stop(&self) {
        self.host.stop().await;
    }

    async fn run(&self, id: &str, action: &Action, timeout: Duration, phase: Phase) -> StepRun {
        let start_us = self.clock.now_us();
        let end_us = start_us + u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX / 2);
        let (retries, pause) = match action {
            Action::Sql { retries, retry_pause, .. } | Action::Script { retries, retry_pause, .. } => {
                (*retries, *retry_pause)
            }
            Action::Service { .. } | Action::Config { .. } => (0, Duration::ZERO),
        };
        let log = self.logs.join(format!("{phase}-{id}.log"));
        let mut attempts = 0;
        let error = loop {
            attempts += 1;
            let left = Duration::from_micros(end_us.saturating_sub(self.clock.now_us()));
            let attempt = self.attempt(id, action, left, &log).await;
            let again = attempt.transient && attempts <= retries && self.clock.now_us() < end_us;
            if !again {
                break attempt.error;
            }
            tokio::time::sleep(pause).await;
        };
        let kept = log.is_file().then(|| self.log_name(&log));
        let end_us = self.clock.now_us();
        StepRun {
            id: id.to_owned(),
            kind: action.kind(),
            phase,
            start_us,
            end_us,
            attempts,
            error,
            log: kept,
        }
    }

    async fn attempt(&self, id: &str, action: &Action, left: Duration, log: &Path) -> Attempt {
        match action {
            Action::Sql { file, .. } => self.execute(id, Program::Sql(file), left, log).await,
            Action::Script { file, .. } => self.execute(id, Program::Script(file), left, log).await,
            Action::Service { service, version } => {
                match tokio::time::timeout(left, self.services.deploy(service, version)).await {
                    Ok(Ok(())) => Attempt::well(),
                    Ok(Err(error)) => Attempt::failed(error.to_string()),
                    Err(_) => Attempt::failed("did not end in time"),
                }
            }
            Action::Config { file, set, unset } => match self.configure(file, set, unset).await {
                Ok(()) => Attempt::well(),
                Err(error) => Attempt::failed(error),
            },
        }
    }

    /// Runs psql or a script to its end; its output goes to the log, without secrets.
    async fn execute(&self, id: &str, program: Program<'_>, left: Duration, log: &Path) -> Attempt {
        let ran = match self.host.run(program, &self.environment(id), left).await {
            Ok(ran) => ran,
            Err(error) => return Attempt::failed(format!("failed to {error}")),
        };
        let said = self.mask(&String::from_utf8_lossy(&ran.stderr));
        let text = self.mask(&String::from_utf8_lossy(&ran.stdout)) + &said;
        let written = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(error) = written {
            return Attempt::failed(format!("its log {} cannot be written: {error}", log.display()));
        }
        if ran.timed_out {
            return Attempt::failed(TIMED_OUT);
        }
        if ran.code == 0 {
            return Attempt::well();
        }
        let transient = RETRIED.iter().any(|state| said.contains(&format!("{state}:")));
        let line =
            said.lines().rev().find(|line| line.contains("ERROR")).or_else(|| said.lines().next_back());
        let error = match line {
            Some(line) => format!("exit code {}: {}", ran.code, line.trim()),
            None => format!("exit code {}", ran.code),
        };
        Attempt { error: Some(error), transient }
    }

    async fn configure(
        &self,
        file: &str,
        set: &BTreeMap<String, toml::Value>,
        unset: &[String],
    ) -> Result<(), String> {
        let former = self.host.read(file).await.map_err(|error| format!("failed to {error}"))?;
        let former = former.ok_or_else(|| format!("{file}: there is no such file on the mirror's host"))?;
        let changed = config::apply(file, &former, set, unset).map_err(|error| error.to_string())?;
        self.host.write(file, changed.as_bytes()).await.map_err(|error| format!("failed to {error}"))
    }

    fn environment(&self, id: &str) -> Vec<(String, String)> {
        let mut environment: Vec<(String, String)> = [
            ("PGDATABASE", self.plan.mirror.database.name.as_str()),
            ("PGUSER", PACKAGE_ROLE),
            ("PGPASSWORD", self.package_password.as_str()),
            ("PGAPPNAME", id),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        environment.extend(self.plan.script_environment.clone());
        environment
    }

    fn mask(&self, text: &str) -> String {
        self.secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), "********"))
    }

    /// Keeps a configuration file as it is before its first change by a step.
    async fn remember(&self, id: &str, file: &str) {
        if let Ok(Some(bytes)) = self.host.read(file).await {
            lock(&self.former).insert(id.to_owned(), bytes);
        }
    }

    async fn restore_config(&self, id: &str, file: &str) -> Result<(), String> {
        let former = lock(&self.former).remove(id).ok_or("the file was not there before the step")?;
        self.host.write(file, &former).await.map_err(|error| format!("failed to {error}"))
    }

    fn log_name(&self, log: &Path) -> String {
        let parts: Vec<_> = log.iter().collect();
        let from = parts.iter().rposition(|part| *part == "logs").unwrap_or(0);
        parts[from..].iter().collect::<PathBuf>().display().to_string()
    }
}

fn lock<Value>(mutex: &Mutex<Value>) -> MutexGuard<'_, Value> {
    // Each change is one call on the value, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
