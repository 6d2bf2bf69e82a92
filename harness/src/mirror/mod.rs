//! The mirror: the environment under test.
//!
//! The conductor starts it, takes its snapshot, restores it and stops it; step runner and probes ask it where
//! things are. Only this module and `process` start or stop anything. [`Mirror`] and [`Services`] are the cut between
//! the kinds: [`local`] is the one without containers.

pub mod cluster;
pub mod connection;
pub mod containers;
pub mod dataset;
pub mod local;
pub mod processes;
pub mod services;
pub mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use fulldress_reports::evidence::FaultKind;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;

use crate::inventory::Inventory;
use crate::recorder::log::LogPlace;
use crate::upgrade::script_host::ScriptHost;

pub use services::Services;

/// The superuser of every mirror's database: ours alone, so that its sessions are known.
pub const SUPERUSER: &str = "fulldress";
/// The package's own login role.
pub const PACKAGE_ROLE: &str = "fulldress_package";

/// A copy of the mirror's data, a base backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataCopy {
    /// From before the upgrade: the snapshot that a restore goes back to.
    Before,
    /// The upgraded state with what its clients wrote: where another way back begins.
    Upgraded,
}

impl DataCopy {
    /// Name of its folder.
    #[must_use]
    pub const fn folder(self) -> &'static str {
        match self {
            Self::Before => "backup",
            Self::Upgraded => "upgraded",
        }
    }
}

/// What a [`ScriptHost`] is made from.
#[derive(Clone, Copy)]
pub struct HostParts<'parts> {
    /// Tells the hosts of one mirror apart.
    pub name: &'parts str,
    /// The host that scripts see.
    pub inventory: &'parts Inventory,
    /// The unpacked package on this machine.
    pub package: &'parts Path,
}

/// The environment under test.
///
/// Implementations stop what they started in [`Mirror::stop`], which may be called more than once and at any time after
/// the start.
#[async_trait]
pub trait Mirror: Send + Sync + 'static {
    /// The services.
    fn services(&self) -> Arc<dyn Services>;

    /// How the superuser reaches the plan's database; the address stays for as long as the mirror runs.
    fn server(&self) -> PgConnectOptions;

    /// Where the database server's log is read.
    fn log_place(&self) -> LogPlace;

    /// Password of the package's login role; never logged.
    fn package_password(&self) -> &str;

    /// Connects to the plan's database as the superuser; waits while the server is stopped on purpose.
    ///
    /// # Errors
    /// When the server does not answer.
    async fn connect(&self) -> Result<PgConnection, MirrorError>;

    /// The schema as `pg_dump` writes it.
    ///
    /// # Errors
    /// When `pg_dump` fails.
    async fn dump_schema(&self) -> Result<String, MirrorError>;

    /// Takes a copy of the data that [`Self::restore`] goes back to, while everything runs; gives its size in bytes.
    ///
    /// # Errors
    /// When the base backup fails.
    async fn back_up(&self, copy: DataCopy) -> Result<u64, MirrorError>;

    /// Puts the database back to what [`Self::back_up`] took: services that use it stop, every connection is fenced, the
    /// data is replaced, server and services start.
    ///
    /// # Errors
    /// When something does not come back.
    async fn restore(&self, copy: DataCopy) -> Result<(), MirrorError>;

    /// A second mirror from the data as it was filled, with a database and services of its own; its services do not run
    /// yet. `hosts` names the script hosts it will have; the first is the one whose files its services read.
    ///
    /// # Errors
    /// When it does not come up.
    async fn clone_from_snapshot(&self, name: &str, hosts: &[&str]) -> Result<Arc<dyn Mirror>, MirrorError>;

    /// Lets the database server crash and recover.
    ///
    /// # Errors
    /// When it does not come back, or this kind of mirror cannot do it.
    async fn crash(&self) -> Result<(), MirrorError> {
        Err(MirrorError::new("this mirror cannot let its database crash", ""))
    }

    /// Whether a step's session can be struck so: what needs no more than the server's help always can.
    fn can_suffer(&self, fault: FaultKind) -> bool {
        matches!(fault, FaultKind::Fails | FaultKind::LockTimeout | FaultKind::BackendTerminated)
    }

    /// Where the package's scripts and SQL files run.
    ///
    /// # Errors
    /// When scripts cannot be confined and the plan does not allow to run them unconfined.
    async fn script_host(&self, parts: HostParts<'_>) -> Result<Box<dyn ScriptHost>, MirrorError>;

    /// Whether calls to the outside are watched.
    fn sees_outbound(&self) -> bool {
        false
    }

    /// What was called outside the mirror so far, read from whoever saw it; none where that is not watched.
    async fn outbound(&self) -> Option<Outbound> {
        None
    }

    /// Waits until the database server, or what it runs on, ends without being asked to; says so in one sentence with its
    /// last words.
    async fn died(&self) -> String;

    /// Stops everything that was started, and removes it.
    async fn stop(&self);
}

/// Calls to the outside of a mirror, all of them denied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outbound {
    /// In the order of their first time.
    pub calls: Vec<OutboundCall>,
    /// Whose calls could not be seen, and why.
    pub unseen: Vec<String>,
}

/// One target that one caller called, however often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundCall {
    /// Who.
    pub caller: Caller,
    /// What.
    pub called: Called,
    /// When first, microseconds since 1970 in UTC.
    pub first_unix_us: u64,
}

/// Who called outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A script of the package.
    Script,
    /// A service of the mirror, by name.
    Service(String),
}

impl std::fmt::Display for Caller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Script => formatter.write_str("a script"),
            Self::Service(name) => write!(formatter, "service {name}"),
        }
    }
}

/// What was called outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Called {
    /// A name that was asked for.
    Name(String),
    /// A bare address, as `tcp 192.0.2.1:443`.
    Address(String),
    /// So many packets to addresses that nobody could see yet.
    Unknown(u64),
}

/// Why the mirror failed: exit code 5.
#[derive(Debug, thiserror::Error)]
#[error("{what}{}", hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default())]
pub struct MirrorError {
    /// One clear sentence: what, where.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Log whose last lines say more.
    pub log: Option<PathBuf>,
}

impl MirrorError {
    /// A failure with a remedy; where none is given and the disk is full, with that remedy.
    #[must_use]
    pub fn new(what: impl Into<String>, hint: &str) -> Self {
        let what = what.into();
        let hint = if hint.is_empty() { disk_hint(&what) } else { Some(hint.to_owned()) };
        Self { what, hint, log: None }
    }

    /// A failure whose log says why: its last lines become part of the sentence.
    #[must_use]
    pub fn with_log(what: &str, log: PathBuf) -> Self {
        let tail = tail(&log, 3);
        let hint = disk_hint(&tail);
        let what = if tail.is_empty() { what.to_owned() } else { format!("{what}: {tail}") };
        Self { what, hint, log: Some(log) }
    }
}

impl From<crate::process::ProcessError> for MirrorError {
    fn from(error: crate::process::ProcessError) -> Self {
        Self::new(format!("failed to {error}"), "")
    }
}

/// What to do when a log or an error says that the disk is full.
#[must_use]
pub fn disk_hint(text: &str) -> Option<String> {
    (text.contains("No space left on device") || text.contains("53100"))
        .then(|| "the disk is full: free some, or set FULLDRESS_STATE to a folder with more room".to_owned())
}

/// The last non-empty lines of a file, joined; empty when there is none.
#[must_use]
pub fn tail(file: &std::path::Path, lines: usize) -> String {
    let text =
        std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].join(" | ")
}
