//! What a recorder is told before it starts.
//!
//! The conductor, the tests and the bench make one; `Recorder::start` takes it.

use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;

use super::log::LogPlace;
use super::observation::{MigrationLock, PackageIdentity};

/// What to record and how to reach it.
#[derive(Debug, Clone)]
pub struct RecorderConfig {
    /// The mirror's database, as a superuser.
    pub server: PgConnectOptions,
    /// Where the server's log is; absent where it cannot be read.
    pub log: Option<LogPlace>,
    /// Which sessions are the package's.
    pub identity: PackageIdentity,
    /// What counts as the migration lock.
    pub migration_lock: MigrationLock,
    /// The rehearsal's clock.
    pub clock: Clock,
}

impl RecorderConfig {
    /// Records what a login role that only the package has does on a server; any advisory lock counts as the migration lock.
    #[must_use]
    pub fn new(server: PgConnectOptions, log: LogPlace, package_role: &str, clock: Clock) -> Self {
        let identity = PackageIdentity { roles: vec![package_role.to_owned()], ..PackageIdentity::default() };
        Self { server, log: Some(log), identity, migration_lock: MigrationLock::default(), clock }
    }

    /// Sessions from this source address are the package's too, whatever their role.
    #[must_use]
    pub fn with_address(mut self, address: impl ToString) -> Self {
        self.identity.addresses.push(address.to_string());
        self
    }

    /// Sessions of this login role are the rehearsal's own: where they wait, no client waited.
    #[must_use]
    pub fn with_own_role(mut self, role: &str) -> Self {
        self.identity.own_roles.push(role.to_owned());
        self
    }

    /// Only this counts as the migration lock.
    #[must_use]
    pub fn with_migration_lock(mut self, lock: impl Into<MigrationLock>) -> Self {
        self.migration_lock = lock.into();
        self
    }
}
