//! The host that a package's scripts and SQL files run on: the cut between a sandbox on this machine and a container.
//!
//! A mirror makes it; the step runner runs steps on it; the residue probes read its files.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use crate::inventory::Inventory;
use crate::proofs::residue::State;

/// What a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program<'package> {
    /// A script of the package, by its path in it.
    Script(&'package str),
    /// A SQL file of the package, run by psql, which stops at the first error.
    Sql(&'package str),
}

/// How psql runs a SQL file; the file's path comes after these.
pub const PSQL_ARGS: [&str; 6] = ["-X", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", "-f"];

/// How a program ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ran {
    /// Exit code as a shell gives it: 128 and the signal's number when a signal ended it.
    pub code: i32,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it wrote to its error stream.
    pub stderr: Vec<u8>,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// The host that scripts see. An error is one sentence that reads after "failed to".
#[async_trait]
pub trait ScriptHost: Send + Sync + 'static {
    /// Runs a program to its end, or kills it and what it started after `limit`. The database's address is in its
    /// environment already.
    ///
    /// # Errors
    /// When it could not be started.
    async fn run(
        &self,
        program: Program<'_>,
        environment: &[(String, String)],
        limit: Duration,
    ) -> Result<Ran, String>;

    /// A file of the host by its absolute path; none when there is no such file.
    ///
    /// # Errors
    /// When the host cannot be read.
    async fn read(&self, path: &str) -> Result<Option<Vec<u8>>, String>;

    /// Cuts the connections that programs have to the database and to services; new ones can be made. Does nothing where
    /// [`crate::mirror::Mirror::can_suffer`] says that this cannot be.
    fn cut_connections(&self) {}

    /// Replaces the content of a file; its owner and mode stay.
    ///
    /// # Errors
    /// When the host cannot be written.
    async fn write(&self, path: &str, content: &[u8]) -> Result<(), String>;

    /// The host's files as a residue probe names them.
    ///
    /// # Errors
    /// When the host cannot be read.
    async fn files(&self) -> Result<State, String>;

    /// Address from which the host's sessions reach the database: it tells them from the application's, whatever role
    /// or application name they use.
    fn address(&self) -> IpAddr;

    /// Where the control server of the shims must listen.
    fn control_socket(&self) -> PathBuf;

    /// What a reader must know about how scripts run.
    fn notice(&self) -> Option<&'static str> {
        None
    }

    /// Cuts the package's connections.
    async fn stop(&self);
}

/// Login name of the user that scripts run as: the inventory's first.
#[must_use]
pub fn script_user(inventory: &Inventory) -> &str {
    inventory.users.first().map_or("deploy", |user| user.name.as_str())
}
