//! What the recorder's sources speak about: sessions, lock targets and who belongs to the package.
//!
//! The sampler and the log parser produce these; `reconcile` joins them. Times are the server's, in
//! microseconds since 1970, until `reconcile` maps them to the rehearsal's clock.

use fulldress_reports::lock::LockMode;
use serde::{Deserialize, Serialize};

/// Remote host that PostgreSQL's log names for a client on the Unix socket.
pub const LOCAL_HOST: &str = "[local]";

/// Whether a session with this `application_name` is one of the recorder's: nothing of it is a client's doing.
#[must_use]
pub fn is_own(application: Option<&str>) -> bool {
    application.is_some_and(|name| name.starts_with("fulldress-"))
}

/// A server session. A pid alone is not enough: it comes back, at the latest after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId {
    /// When its backend started, whole seconds since 1970.
    pub start_s: i64,
    /// Backend process id.
    pub pid: u32,
}

impl SessionId {
    /// Reads `session_id` of the server's log: start and pid, hexadecimal, with a dot between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (start, pid) = text.split_once('.')?;
        Some(Self { start_s: i64::from_str_radix(start, 16).ok()?, pid: u32::from_str_radix(pid, 16).ok()? })
    }
}

/// What a session locks or waits for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LockTarget {
    /// A relation, by object id.
    Relation(u32),
    /// A row of a relation, while its queue is being kept in order.
    Tuple(u32),
    /// The end of another transaction: how a row lock is waited for.
    Transaction(u64),
    /// The end of another transaction that may have no id yet; CREATE INDEX CONCURRENTLY waits so.
    VirtualTransaction,
    /// An advisory lock.
    Advisory(AdvisoryKey),
    /// Anything else, as the server names it.
    Other(String),
}

/// The key of an advisory lock, as `pg_locks` splits it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AdvisoryKey {
    /// High half of a 64-bit key, or the first of two 32-bit keys.
    pub classid: u32,
    /// Low half, or the second key.
    pub objid: u32,
    /// 1 for one 64-bit key, 2 for two 32-bit keys.
    pub objsubid: u16,
}

impl AdvisoryKey {
    /// The 64-bit key, for locks that were taken with one.
    #[must_use]
    pub const fn bigint(self) -> Option<i64> {
        if self.objsubid == 1 {
            Some(((self.classid as u64) << 32 | self.objid as u64).cast_signed())
        } else {
            None
        }
    }
}

impl std::fmt::Display for AdvisoryKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bigint() {
            Some(key) => write!(formatter, "{key}"),
            None => write!(formatter, "({}, {})", self.classid.cast_signed(), self.objid.cast_signed()),
        }
    }
}

/// Which sessions are the package's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageIdentity {
    /// Login roles that only the package uses.
    pub roles: Vec<String>,
    /// Source addresses that only the package uses; [`LOCAL_HOST`] stands for the Unix socket.
    pub addresses: Vec<String>,
    /// Login roles of the rehearsal itself: a background actor that waits is no client that waited.
    pub own_roles: Vec<String>,
}

impl PackageIdentity {
    /// Whether a session with this login role and source address is the package's.
    #[must_use]
    pub fn owns(&self, role: Option<&str>, address: Option<&str>) -> bool {
        role.is_some_and(|role| self.roles.iter().any(|own| own == role))
            || address.is_some_and(|address| self.addresses.iter().any(|own| own == address))
    }
}

/// What counts as the migration lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MigrationLock {
    /// The advisory key that the plan names; absent: any advisory lock counts.
    pub advisory_key: Option<i64>,
    /// The lock table that the plan names, schema-qualified; a lock on it of ROW SHARE or stronger counts.
    pub table: Option<String>,
}

impl From<&crate::plan::MigrationLock> for MigrationLock {
    fn from(plan: &crate::plan::MigrationLock) -> Self {
        Self { advisory_key: plan.advisory_key, table: plan.table.clone() }
    }
}

impl MigrationLock {
    /// Whether an advisory lock with this key is the migration lock.
    #[must_use]
    pub fn accepts_key(&self, key: AdvisoryKey) -> bool {
        match self.advisory_key {
            // A plan that names only a lock table still accepts an advisory lock: either serialises runners.
            None => true,
            Some(wanted) => key.bigint() == Some(wanted),
        }
    }

    /// Whether a lock on this relation is the migration lock.
    #[must_use]
    pub fn accepts_relation(&self, relation: &str, mode: LockMode) -> bool {
        mode >= LockMode::RowShareLock && self.table.as_deref() == Some(relation)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdvisoryKey, PackageIdentity, SessionId};

    #[test]
    fn a_session_id_of_the_log_is_start_and_pid() {
        assert_eq!(SessionId::parse("6b03b7c5.42cc"), Some(SessionId { start_s: 0x6b03_b7c5, pid: 17100 }));
        assert_eq!(SessionId::parse("6b03b7c5"), None);
    }

    #[test]
    fn advisory_keys_read_as_they_were_given() {
        let one = AdvisoryKey { classid: u32::MAX, objid: u32::MAX, objsubid: 1 };
        let two = AdvisoryKey { classid: 7, objid: u32::MAX, objsubid: 2 };
        assert_eq!((one.to_string(), two.to_string()), ("-1".to_owned(), "(7, -1)".to_owned()));
    }

    #[test]
    fn the_address_makes_a_session_the_packages_whatever_its_role() {
        let identity = PackageIdentity {
            roles: vec!["pkg".into()],
            addresses: vec!["127.0.0.9".into()],
            ..Default::default()
        };
        assert!(identity.owns(Some("app"), Some("127.0.0.9")));
        assert!(identity.owns(Some("pkg"), Some("127.0.0.1")));
        assert!(!identity.owns(Some("app"), Some("127.0.0.1")));
        assert!(!identity.owns(None, None));
    }
}
