//! The environment under test: its database, what fills it, and its services.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

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
