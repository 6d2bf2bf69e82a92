//! The plan: `rehearsal.toml`, parsed and validated before anything starts.
//!
//! Raw types only say what a person typed; [`Plan::read`] resolves paths against the plan's folder and checks
//! what single keys cannot show. `fulldress init` writes [`TEMPLATE`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use fulldress_reports::check::{CheckId, CheckSetting};
use fulldress_reports::evidence::Limits;
use fulldress_reports::finding::Waiver;
use fulldress_workloads::file::Workload;
use serde::Deserialize;

use crate::document::{Document, DocumentError};

/// Schema that this version reads.
pub const SCHEMA: &str = "fulldress/plan/1";

/// The commented plan that `fulldress init` writes.
pub const TEMPLATE: &str = include_str!("plan_template.toml");

/// A rehearsal's plan; paths are absolute after [`Plan::read`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// `fulldress/plan/1`.
    pub schema: String,
    /// Name of the rehearsal; part of the bundle's folder name.
    pub name: String,
    /// How much is proven.
    #[serde(default)]
    pub profile: Profile,
    /// Seed of every random choice.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The package: a zip, or a source folder.
    pub package: PathBuf,
    /// What production is known to have.
    pub inventory: PathBuf,
    /// The environment under test.
    pub mirror: Mirror,
    /// Traffic.
    pub traffic: Traffic,
    /// Lengths of the phases.
    #[serde(default)]
    pub phases: Phases,
    /// The way back.
    #[serde(default)]
    pub rollback: Rollback,
    /// The lock that migrating sessions must hold.
    #[serde(default)]
    pub migration_lock: MigrationLock,
    /// The trial of two runners.
    #[serde(default)]
    pub double_run: DoubleRun,
    /// Faults inside the upgrade, on clones.
    #[serde(default)]
    pub faults: Faults,
    /// What else lives in production's database.
    #[serde(default)]
    pub actors: Actors,
    /// Where effects of the upgrade could be left.
    #[serde(default)]
    pub residue: Residue,
    /// Second witness of acknowledged writes.
    #[serde(default)]
    pub ledger: Ledger,
    /// Data that must come back.
    #[serde(default)]
    pub data: Data,
    /// Environment of the package's scripts, beside the database's address.
    #[serde(default)]
    pub script_environment: BTreeMap<String, String>,
    /// Objectives of the service.
    #[serde(default)]
    pub objectives: Objectives,
    /// Limits of checks, by id.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckSetting>,
    /// What this rehearsal leaves out beside what none covers, one phrase each; stands in the report.
    #[serde(default)]
    pub not_rehearsed: Vec<String>,
    /// Accepted findings.
    #[serde(default, rename = "waiver")]
    pub waivers: Vec<Waiver>,
    /// The plan's own file; filled in by [`Plan::read`].
    #[serde(skip)]
    pub file: PathBuf,
}

const fn default_seed() -> u64 {
    20_240_101
}

/// How much is proven.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// The phases and the quick proofs.
    #[default]
    Quick,
    /// Every proof, as a night allows it.
    Nightly,
}

impl Profile {
    /// The word of files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Nightly => "nightly",
        }
    }
}

/// The environment under test.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Which kind.
    #[serde(default)]
    pub kind: MirrorKind,
    /// Compose file of the mirror in containers.
    pub compose: Option<PathBuf>,
    /// Image of the container that scripts run in, and of the gateway. It needs bash, coreutils, psql and sudo.
    #[serde(default = "default_runner_image")]
    pub runner_image: String,
    /// Folder of PostgreSQL's programs for the local mirror; found on the machine when absent.
    pub postgres: Option<PathBuf>,
    /// Run the package's scripts on this machine when bubblewrap is missing. Dangerous.
    #[serde(default)]
    pub allow_host_scripts: bool,
    /// Seconds within which the database and each service must answer.
    #[serde(default = "default_start_timeout")]
    pub start_timeout_s: u64,
    /// The database.
    pub database: Database,
    /// What fills it.
    #[serde(default)]
    pub dataset: Dataset,
    /// Services, in the order in which they start.
    #[serde(default, rename = "service")]
    pub services: Vec<Service>,
}

const fn default_start_timeout() -> u64 {
    30
}

fn default_runner_image() -> String {
    std::env::var("FULLDRESS_RUNNER_IMAGE").unwrap_or_else(|_| "fulldress/runner:1".to_owned())
}

/// Kind of the mirror.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum MirrorKind {
    /// Containers where the plan names a compose file, a container engine answers and the images can be had; otherwise
    /// local.
    #[default]
    Auto,
    /// Containers from the plan's compose file.
    Compose,
    /// A private PostgreSQL cluster and child processes on loopback.
    Local,
}

/// The database of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// Database name.
    pub name: String,
    /// Role that owns the schema; the package's login role is a member of it.
    pub owner: String,
    /// Login roles of the applications, with their passwords. The dataset command creates what they may do.
    #[serde(default)]
    pub roles: BTreeMap<String, String>,
    /// Settings as production has them, name and value.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
    /// Service of the compose file that it is.
    pub service: Option<String>,
    /// Port inside its container.
    #[serde(default = "default_database_port")]
    pub container_port: u16,
    /// Superuser inside its container; `POSTGRES_USER` of the service when absent.
    pub superuser: Option<String>,
    /// The superuser's password; `POSTGRES_PASSWORD` of the service when absent.
    pub superuser_password: Option<String>,
}

const fn default_database_port() -> u16 {
    5432
}

/// What fills the database: a command, a dump or a data folder. Without any, whatever the compose file's own
/// initialisation brings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dataset {
    /// Command; `{admin_url}`, `{seed}` and `{plan}` are replaced.
    pub command: Vec<String>,
    /// Variables of its environment, filled like the command.
    pub environment: BTreeMap<String, String>,
    /// Seconds within which it must end.
    pub timeout_s: u64,
    /// A dump of `pg_dump`: plain, custom or directory format.
    pub dump: Option<PathBuf>,
    /// A stopped server's data folder, copied into the container's volume. The roles in it are production's.
    pub data_folder: Option<PathBuf>,
}

impl Default for Dataset {
    fn default() -> Self {
        Self {
            command: Vec::new(),
            environment: BTreeMap::new(),
            timeout_s: 3600,
            dump: None,
            data_folder: None,
        }
    }
}

/// What a service is to the rehearsal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceRole {
    /// The system that is upgraded; traffic goes to it.
    Application,
    /// Works on the same database; its outage is measured.
    Dependent,
    /// Stands in for a third party.
    Stub,
}

/// A service of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Name.
    pub name: String,
    /// What it is.
    pub role: ServiceRole,
    /// Installed version; replaces `{version}`.
    #[serde(default)]
    pub version: String,
    /// Command of the local mirror; `{port}`, `{version}`, `{plan}`, `{host_root}`, `{url:SERVICE}` and
    /// `{database_url:ROLE}` are replaced.
    #[serde(default)]
    pub command: Vec<String>,
    /// Path that answers 200 when it is well.
    pub health: String,
    /// Variables of its environment, filled like the command; what is secret stands here and not in the command,
    /// which every user of the machine can read.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Port on loopback; a free one is chosen when absent.
    pub port: Option<u16>,
    /// Whether its processes can listen on one port side by side (SO_REUSEPORT): a new version is healthy then before
    /// the old one ends, as a production behind a load balancer does it.
    #[serde(default)]
    pub overlap: bool,
    /// Port inside its container.
    pub container_port: Option<u16>,
    /// Image of a version in the compose file's stead; `{version}` is replaced. When absent, the compose file's image
    /// with the version as its tag.
    pub image: Option<String>,
}

/// Traffic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Workload file.
    pub workload: PathBuf,
    /// Service that requests over HTTP are sent to; needed when the workload has some.
    pub target: Option<String>,
    /// Databases of the workload's SQL by the name that it gives, each with the role that connects.
    #[serde(default)]
    pub database: BTreeMap<String, String>,
}

/// Lengths of the phases in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Phases {
    /// Never judged.
    pub warmup_s: u64,
    /// Production as it is.
    pub baseline_s: u64,
    /// Least length of the upgrade; it lasts as long as its steps.
    pub upgrade_min_s: u64,
    /// The new version under load.
    pub soak_s: u64,
    /// Least length of the rollback.
    pub rollback_min_s: u64,
    /// The old version again.
    pub recovery_s: u64,
    /// The whole rehearsal is stopped after this.
    pub rehearsal_max_s: u64,
}

impl Default for Phases {
    fn default() -> Self {
        Self {
            warmup_s: 3,
            baseline_s: 10,
            upgrade_min_s: 8,
            soak_s: 10,
            rollback_min_s: 8,
            recovery_s: 8,
            rehearsal_max_s: 3600,
        }
    }
}

/// The way back.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// Which way.
    pub method: RollbackMethod,
}

/// Which way back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackMethod {
    /// As the package's manifest declares.
    #[default]
    Declared,
    /// The package's own down steps.
    Down,
    /// The database snapshot from before the upgrade; the package's other down steps run too.
    Restore,
}

/// The lock that migrating sessions must hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationLock {
    /// Key of the advisory lock; any advisory lock counts when absent.
    pub advisory_key: Option<i64>,
    /// Lock table, schema-qualified, whose lock counts too.
    pub table: Option<String>,
}

/// The trial of two runners on a clone of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DoubleRun {
    /// Step of the first runner at whose start the second one is started; both start at once when absent.
    pub at_step: Option<String>,
    /// Seconds within which both must have ended.
    pub limit_s: u64,
}

impl Default for DoubleRun {
    fn default() -> Self {
        Self { at_step: None, limit_s: 300 }
    }
}

/// Faults inside the upgrade, each on a clone of the mirror.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Most faults that are tried; of more, a sample by the seed. None with 0.
    pub cells_max: usize,
    /// Clones that run at the same time.
    pub parallel: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self { cells_max: 200, parallel: 2 }
    }
}

/// What else lives in production's database.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Actors {
    /// A reader that keeps a snapshot and a lock for a while, as a dump or a report does.
    pub long_reader: LongReader,
    /// A transaction that has read and sits idle, as an application's does that calls somebody else meanwhile.
    pub idle_transaction: IdleTransaction,
    /// ANALYZE of the tables, as autovacuum does it.
    pub analyze: Analyze,
}

/// The background long reader.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongReader {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations that it reads, schema-qualified; all tables when empty, as a dump reads them.
    pub relations: Vec<String>,
    /// How long each transaction stays open, milliseconds.
    pub hold_ms: u64,
    /// Pause between transactions, milliseconds.
    pub pause_ms: u64,
}

impl Default for LongReader {
    fn default() -> Self {
        Self { enabled: true, relations: Vec::new(), hold_ms: 800, pause_ms: 1200 }
    }
}

/// The background idle transaction.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdleTransaction {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations that it reads, schema-qualified; all tables when empty: any may be what the package changes.
    pub relations: Vec<String>,
    /// How long each transaction sits idle, milliseconds.
    pub hold_ms: u64,
    /// Pause between transactions, milliseconds.
    pub pause_ms: u64,
}

impl Default for IdleTransaction {
    fn default() -> Self {
        // Another cycle than the long reader's: the two overlap now and then, and leave gaps.
        Self { enabled: true, relations: Vec::new(), hold_ms: 400, pause_ms: 2100 }
    }
}

/// The background ANALYZE.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Analyze {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations, schema-qualified; all tables when empty.
    pub relations: Vec<String>,
    /// Pause after each relation, milliseconds.
    pub pause_ms: u64,
}

impl Default for Analyze {
    fn default() -> Self {
        Self { enabled: true, relations: Vec::new(), pause_ms: 1000 }
    }
}

/// Where effects of the upgrade could be left.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Residue {
    /// URL of the flag store's list, in flagd's JSON form; `{url:SERVICE}` is replaced.
    pub flags: Option<String>,
    /// URL of the webhook registry's list: a JSON array, or an object that holds one.
    pub webhooks: Option<String>,
}

/// Second witness of acknowledged writes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// Query with one parameter `$1`, an array of keys: returns each key that is there, and how often.
    pub witness: Option<String>,
}

/// Data that must come back.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Tables that are written rarely by the application, schema-qualified: not compared.
    pub ignore: Vec<String>,
}

/// Objectives of the service.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Objectives {
    /// Latency of a good request, milliseconds.
    pub latency_ms: u64,
    /// Latency that is allowed while upgrade and rollback run, milliseconds.
    pub latency_changing_ms: u64,
    /// Share of requests that must be good over 30 days, per cent.
    pub availability_percent: f64,
    /// Production's requests per second.
    pub production_rate_per_s: f64,
    /// Production's rows, by schema-qualified relation.
    pub production_rows: BTreeMap<String, u64>,
    /// Smallest share of production's rows for which durations count, per cent.
    pub scale_percent: f64,
}

impl Default for Objectives {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            latency_ms: limits.latency_ms,
            latency_changing_ms: limits.latency_changing_ms,
            availability_percent: limits.availability_percent,
            production_rate_per_s: limits.production_rate_per_s,
            production_rows: limits.production_rows,
            scale_percent: limits.scale_percent,
        }
    }
}

/// Why a plan cannot be used.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PlanError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {error}", file.display())]
    #[diagnostic(help("`fulldress init` writes a plan to start from"))]
    Unreadable {
        /// The plan.
        file: PathBuf,
        /// The kernel's word.
        error: std::io::Error,
    },
    /// It does not say what it must.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Document(#[from] Box<DocumentError>),
}

impl Plan {
    /// Reads and validates a plan.
    ///
    /// # Errors
    /// With file, line and a hint.
    pub fn read(file: &Path) -> Result<Self, PlanError> {
        let unreadable = |error| PlanError::Unreadable { file: file.to_owned(), error };
        let text = std::fs::read_to_string(file).map_err(unreadable)?;
        let name = file.display().to_string();
        let document = Document { file: &name, text: &text };
        let mut plan: Self = document.parse(SCHEMA).map_err(Box::new)?;
        plan.file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let folder = plan.folder();
        for path in [&mut plan.package, &mut plan.inventory, &mut plan.traffic.workload] {
            *path = folder.join(&*path);
        }
        let mirror = &mut plan.mirror;
        let optional = [
            &mut mirror.postgres,
            &mut mirror.compose,
            &mut mirror.dataset.dump,
            &mut mirror.dataset.data_folder,
        ];
        for path in optional.into_iter().flatten() {
            *path = folder.join(&*path);
        }
        plan.validate(document).map_err(Box::new)?;
        Ok(plan)
    }

    /// The plan's folder: what relative paths in it start from.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.file.parent().map(Path::to_owned).unwrap_or_default()
    }

    fn validate(&self, document: Document<'_>) -> Result<(), DocumentError> {
        let fault = |needle: &str, message: String, hint: &str| {
            let start = document.text.find(needle).unwrap_or(0);
            let hint = (!hint.is_empty()).then_some(hint);
            Err(document.error(start..start + needle.len(), message, hint))
        };
        for id in self.checks.keys() {
            if CheckId::parse(id).is_none() {
                let message = format!("[checks] names `{id}`, which is no check");
                return fault(id, message, "`fulldress checks` lists them");
            }
        }
        for (index, service) in self.mirror.services.iter().enumerate() {
            let name = &service.name;
            if self.mirror.services[..index].iter().any(|other| other.name == *name) {
                return fault(
                    name,
                    format!("service `{name}` is named twice"),
                    "give each a name of its own",
                );
            }
            if !service.health.starts_with('/') {
                let message = format!("health of service `{name}` is no path");
                return fault(&service.health, message, "write it as \"/healthz\"");
            }
        }
        self.check_placeholders(&fault)?;
        self.check_kinds(&fault)?;
        self.check_traffic(&fault)?;
        if !(0.0..100.0).contains(&self.objectives.availability_percent) {
            let message = "availability_percent is not in 0..100".to_owned();
            return fault("availability_percent", message, "99.9 is usual");
        }
        if self.phases.baseline_s == 0 {
            let message = "baseline_s is 0".to_owned();
            return fault("baseline_s", message, "later phases are compared with the baseline");
        }
        Ok(())
    }

    /// Where the traffic goes must be in the mirror.
    fn check_traffic(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        for (name, role) in &self.traffic.database {
            if !self.mirror.database.roles.contains_key(role) {
                let message =
                    format!("traffic.database.{name} names the role `{role}`, which the mirror has not");
                return fault(role, message, "name one of mirror.database.roles");
            }
        }
        let Some(target) = &self.traffic.target else { return Ok(()) };
        match self.mirror.services.iter().find(|service| service.name == *target) {
            None => {
                let message = format!("traffic.target names `{target}`, which is no service");
                fault("target", message, "name one of [[mirror.service]]")
            }
            Some(service) if service.role != ServiceRole::Application => {
                let message = format!("traffic.target `{target}` is not of role \"application\"");
                fault("target", message, "traffic goes to the system that is upgraded")
            }
            Some(_) => Ok(()),
        }
    }

    /// Checks that the plan says where a workload's traffic goes.
    ///
    /// # Errors
    /// One sentence.
    pub fn check_workload(&self, workload: &Workload) -> Result<(), String> {
        let file = self.file.display();
        if workload.has_http() && self.traffic.target.is_none() {
            let name = workload.name();
            return Err(format!(
                "{file}: the workload {name} speaks HTTP, and traffic.target is not there: name the service that it goes to"
            ));
        }
        match workload.databases().into_iter().find(|name| !self.traffic.database.contains_key(*name)) {
            Some(name) => Err(format!(
                "{file}: the workload uses the database `{name}`, and traffic.database.{name} is not there: name the role that connects"
            )),
            None => Ok(()),
        }
    }

    /// What each kind of mirror needs to be said.
    fn check_kinds(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let mirror = &self.mirror;
        if let Some(missing) = self.lacks_for_local().filter(|_| !self.can_be_containers()) {
            return fault("[mirror]", missing.0, missing.1);
        }
        if mirror.kind == MirrorKind::Local {
            return self.lacks_for_local().map_or(Ok(()), |missing| fault("[mirror]", missing.0, missing.1));
        }
        if mirror.compose.is_none() {
            return if mirror.kind == MirrorKind::Compose {
                let message = "mirror.kind is \"compose\", and mirror.compose is not there".to_owned();
                fault("[mirror]", message, "name the compose file: compose = \"docker-compose.yml\"")
            } else {
                Ok(())
            };
        }
        if mirror.database.service.is_none() {
            let message = "mirror.database.service is not there".to_owned();
            return fault(
                "[mirror.database]",
                message,
                "name the compose file's service that is the database",
            );
        }
        if let Some(service) = mirror.services.iter().find(|service| service.container_port.is_none()) {
            let message = format!("service `{}` has no container_port", service.name);
            return fault(&service.name, message, "name the port that it listens on inside its container");
        }
        let dataset = &mirror.dataset;
        let sources = [!dataset.command.is_empty(), dataset.dump.is_some(), dataset.data_folder.is_some()];
        if sources.iter().filter(|given| **given).count() > 1 {
            let message = "mirror.dataset has more than one of command, dump and data_folder".to_owned();
            return fault("[mirror.dataset]", message, "keep the one that fills the database");
        }
        Ok(())
    }

    /// Chooses another kind of mirror than the plan's.
    ///
    /// # Errors
    /// When the plan does not say what that kind needs; one sentence.
    pub fn set_kind(&mut self, kind: MirrorKind) -> Result<(), String> {
        let file = self.file.display();
        match kind {
            MirrorKind::Compose if self.mirror.compose.is_none() => {
                return Err(format!(
                    "{file}: mirror.compose is not there: name the compose file to use containers"
                ));
            }
            MirrorKind::Local => {
                if let Some((lack, hint)) = self.lacks_for_local() {
                    return Err(format!("{file}: {lack}, which the local mirror needs: {hint}"));
                }
            }
            MirrorKind::Auto | MirrorKind::Compose => {}
        }
        self.mirror.kind = kind;
        Ok(())
    }

    /// Whether the plan can be rehearsed in containers.
    #[must_use]
    pub fn can_be_containers(&self) -> bool {
        self.mirror.compose.is_some() && self.mirror.kind != MirrorKind::Local
    }

    /// What the local mirror would lack, and what to do about it.
    #[must_use]
    pub fn lacks_for_local(&self) -> Option<(String, &'static str)> {
        if let Some(service) = self.mirror.services.iter().find(|service| service.command.is_empty()) {
            return Some((format!("service `{}` has no command", service.name), "name its program"));
        }
        let dataset = &self.mirror.dataset;
        (dataset.command.is_empty() && dataset.dump.is_none()).then(|| {
            let lack = "mirror.dataset.command is empty, and there is no dump".to_owned();
            (lack, "name the program that fills the database, or a dump")
        })
    }

    /// Every `{…}` of a command, an environment or a residue URL must be one that the mirror fills.
    fn check_placeholders(
        &self,
        fault: &impl Fn(&str, String, &str) -> Result<(), DocumentError>,
    ) -> Result<(), DocumentError> {
        let mut everywhere: BTreeSet<String> =
            ["plan", "seed", "host_root", "admin_url"].map(str::to_owned).into();
        for role in self.mirror.database.roles.keys() {
            everywhere.extend([format!("database_url:{role}"), format!("password:{role}")]);
        }
        let mut of_services = everywhere.clone();
        of_services.extend(["port".to_owned(), "version".to_owned()]);
        of_services.extend(self.mirror.services.iter().map(|service| format!("url:{}", service.name)));
        let dataset = &self.mirror.dataset;
        let residue = [&self.residue.flags, &self.residue.webhooks].into_iter().flatten();
        let services = self.mirror.services.iter();
        let texts = dataset
            .command
            .iter()
            .chain(dataset.environment.values())
            .map(|text| (text, &everywhere))
            .chain(
                services
                    .flat_map(|one| one.command.iter().chain(one.environment.values()))
                    .map(|text| (text, &of_services)),
            )
            .chain(residue.map(|text| (text, &of_services)));
        for (text, known) in texts {
            if let Some(name) = placeholders(text).find(|name| !known.contains(*name)) {
                let message = format!("`{{{name}}}` is no placeholder that is filled here");
                let hint =
                    "name a role of mirror.database.roles or a service of the plan; docs/plan.md lists all";
                return fault(&format!("{{{name}}}"), message, hint);
            }
        }
        Ok(())
    }

    /// What the evidence is held against.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            checks: self
                .checks
                .iter()
                .filter_map(|(id, setting)| CheckId::parse(id).map(|id| (id, setting.clone())))
                .collect(),
            latency_ms: self.objectives.latency_ms,
            latency_changing_ms: self.objectives.latency_changing_ms,
            availability_percent: self.objectives.availability_percent,
            production_rate_per_s: self.objectives.production_rate_per_s,
            production_rows: self.objectives.production_rows.clone(),
            scale_percent: self.objectives.scale_percent,
            waivers: self.waivers.clone(),
        }
    }

    /// The service of a name.
    #[must_use]
    pub fn service(&self, name: &str) -> Option<&Service> {
        self.mirror.services.iter().find(|service| service.name == name)
    }
}

/// Names between braces that look like placeholders; other braces, such as JSON, are left alone.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let (kind, _) = name.split_once(':').unwrap_or((name, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        (!kind.is_empty() && plain(kind) && !name.contains(char::is_whitespace)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::{Actors, Plan};
    use fulldress_workloads::file::Workload;

    fn read(text: &str) -> Result<Plan, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rehearsal.toml");
        std::fs::write(&file, text).unwrap();
        Plan::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn the_template_is_a_valid_plan() {
        let plan = read(super::TEMPLATE).unwrap();
        assert!(plan.package.is_absolute());
        let Actors { long_reader, idle_transaction, analyze } = plan.actors;
        assert!(long_reader.enabled && idle_transaction.enabled && analyze.enabled, "production has them");
    }

    #[test]
    fn traffic_has_somewhere_to_go() {
        let workload = |step: &str| {
            let text = format!(
                "schema = \"fulldress/workload/1\"\nname = \"w\"\n[[scenario]]\nname = \"s\"\n\
                 model = \"arrivals\"\nrate_per_s = 1\n{step}"
            );
            Workload::parse("w.toml", &text).unwrap()
        };
        let http = workload("[[scenario.step]]\nroute = \"r\"\nmethod = \"GET\"\npath = \"/\"\n");
        let sql =
            workload("database = \"app\"\n[[scenario.step]]\nroute = \"r\"\nstatement = \"SELECT 1\"\n");
        let plan = |line: &str| read(&super::TEMPLATE.replacen("target = \"shop\"", line, 1)).unwrap();
        assert_eq!(plan("target = \"shop\"").check_workload(&http), Ok(()));
        assert!(plan("").check_workload(&http).unwrap_err().contains("traffic.target is not there"));
        assert_eq!(plan("database = { app = \"shop\" }").check_workload(&sql), Ok(()));
        assert!(plan("").check_workload(&sql).unwrap_err().contains("traffic.database.app is not there"));
    }

    #[test]
    fn faults_name_their_line() {
        let cases = [
            ("[phases]", "[phases]\nwarmup = 3", "unknown field `warmup`"),
            ("target = \"shop\"", "target = \"nobody\"", "names `nobody`, which is no service"),
            ("target = \"shop\"", "database = { app = \"nobody\" }", "names the role `nobody`"),
            ("[checks]", "[checks]\nLOCK-HOLT = { limit = 3 }", "`LOCK-HOLT`, which is no check"),
            ("{database_url:shop}", "{database_url:shp}", "`{database_url:shp}` is no placeholder"),
            ("role = \"application\"", "role = \"app\"", "unknown variant `app`"),
        ];
        for (from, to, expected) in cases {
            assert!(super::TEMPLATE.contains(from), "{from}");
            let message = read(&super::TEMPLATE.replacen(from, to, 1)).unwrap_err();
            assert!(message.contains(expected) && message.contains("rehearsal.toml:"), "{message}");
        }
    }
}
