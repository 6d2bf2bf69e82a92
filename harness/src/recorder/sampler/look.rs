//! The sampler's two questions to the server, and the rows of their answers.
//!
//! `state` asks and compares; a glance tells of locks alone, a full look also who has them.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::LockMode;
use serde::Deserialize;
use sqlx::PgConnection;

use super::{Sighting, is_ending};
use crate::recorder::observation::{AdvisoryKey, LockTarget, PackageIdentity, SessionId};

const GLANCE: &str = include_str!("glance.sql");
const FULL: &str = include_str!("full.sql");

/// What one question brought. Times are the server's, microseconds since 1970.
#[derive(Debug)]
pub(super) struct Look {
    /// Earliest instant at which the locks were read.
    pub(super) low_us: i64,
    /// Latest.
    pub(super) high_us: i64,
    /// Locks and waits; in a full look also package sessions without any.
    pub(super) rows: Vec<Row>,
}

/// Reads the locks of every session that is not among `others`, and all waits.
pub(super) async fn glance(
    connection: &mut PgConnection,
    others: &[i32],
    database: i64,
) -> Result<Look, sqlx::Error> {
    let (low_us, high_us, rows): (i64, i64, String) =
        sqlx::query_as(GLANCE).bind(others).bind(database).fetch_one(connection).await?;
    Ok(Look { low_us, high_us, rows: parsed(&rows)? })
}

/// Reads the package's locks and all waits with their sessions, and which sessions are not the package's.
pub(super) async fn full(
    connection: &mut PgConnection,
    who: &PackageIdentity,
) -> Result<(Look, Vec<i32>), sqlx::Error> {
    let (low_us, high_us, rows, others): (i64, i64, String, Vec<i32>) =
        sqlx::query_as(FULL).bind(&who.roles).bind(&who.addresses).fetch_one(connection).await?;
    Ok((Look { low_us, high_us, rows: parsed(&rows)? }, others))
}

fn parsed(rows: &str) -> Result<Vec<Row>, sqlx::Error> {
    serde_json::from_str(rows).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Schema-qualified names of relations; one of an open transaction has none yet.
pub(super) async fn names(
    connection: &mut PgConnection,
    wanted: &BTreeSet<u32>,
) -> Result<BTreeMap<u32, String>, sqlx::Error> {
    let wanted: Vec<i64> = wanted.iter().copied().map(i64::from).collect();
    let named: Vec<(i64, String)> = sqlx::query_as(
        "SELECT wanted, o.identity FROM unnest($1::bigint[]) AS wanted \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::oid, wanted::oid, 0) AS o \
         WHERE o.identity IS NOT NULL",
    )
    .bind(wanted)
    .fetch_all(connection)
    .await?;
    Ok(named.into_iter().filter_map(|(oid, name)| Some((u32::try_from(oid).ok()?, name))).collect())
}

/// Who a session is; only full looks tell it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Who {
    pub(super) start_s: i64,
    pub(super) role: Option<String>,
    pub(super) application: Option<String>,
    pub(super) package: bool,
    pub(super) client: bool,
}

/// One row of a look: a lock of a package session, a waiter's wait, or a package session without locks.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) pid: u32,
    /// In a glance filled in from the full look before it.
    #[serde(flatten)]
    pub(super) who: Who,
    locktype: Option<String>,
    pub(super) relation: Option<u32>,
    transaction: Option<u64>,
    classid: Option<u32>,
    objid: Option<u32>,
    objsubid: Option<u16>,
    pub(super) vxid: Option<String>,
    mode: Option<String>,
    pub(super) granted: Option<bool>,
    pub(super) wait_since_us: Option<i64>,
    pub(super) blockers: Option<BTreeSet<u32>>,
    pub(super) query: Option<String>,
    pub(super) query_start_us: Option<i64>,
}

/// What makes a lock, or a wait for one, the same from look to look.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) session: SessionId,
    pub(super) vxid: String,
    target: LockTarget,
    mode: String,
    granted: bool,
}

impl Key {
    /// Whether its transaction has given its number back already.
    pub(super) fn is_ending(&self) -> bool {
        is_ending(&self.vxid)
    }

    pub(super) const fn is_granted(&self) -> bool {
        self.granted
    }

    /// Whether another is the same but for the transaction's number.
    pub(super) fn continues_as(&self, other: &Self) -> bool {
        (self.session, self.granted) == (other.session, other.granted)
            && self.target == other.target
            && self.mode == other.mode
    }
}

impl Row {
    pub(super) const fn session(&self) -> SessionId {
        SessionId { start_s: self.who.start_s, pid: self.pid }
    }

    pub(super) fn waits_for_relation(&self) -> bool {
        self.granted == Some(false) && self.locktype.as_deref() == Some("relation")
    }

    /// Whether it is a relation's lock that a session of the application holds.
    pub(super) fn is_client_hold(&self) -> bool {
        !self.who.package && self.granted == Some(true)
    }

    /// Whether it is another wait than the one that was seen last, for the same lock.
    pub(super) fn waits_anew(&self, last: &Sighting) -> bool {
        let since_us = self.wait_since_us.filter(|_| self.granted == Some(false));
        since_us.zip(last.wait_since_us).is_some_and(|(since_us, last_us)| since_us > last_us)
    }

    pub(super) fn target(&self) -> Option<LockTarget> {
        match self.locktype.as_deref()? {
            "relation" => self.relation.map(LockTarget::Relation),
            "tuple" => self.relation.map(LockTarget::Tuple),
            "transactionid" => self.transaction.map(LockTarget::Transaction),
            "advisory" => Some(LockTarget::Advisory(AdvisoryKey {
                classid: self.classid?,
                objid: self.objid?,
                objsubid: self.objsubid?,
            })),
            // Held by every open transaction: it says that the transaction lives, and is no lock to report.
            "virtualxid" if self.granted == Some(true) => None,
            "virtualxid" => Some(LockTarget::VirtualTransaction),
            other => Some(LockTarget::Other(other.to_owned())),
        }
    }

    pub(super) fn key(&self, target: &LockTarget) -> Key {
        Key {
            session: self.session(),
            vxid: self.vxid.clone().unwrap_or_default(),
            target: target.clone(),
            mode: self.mode.clone().unwrap_or_default(),
            granted: self.granted.unwrap_or(false),
        }
    }

    pub(super) fn sighting(
        self,
        target: LockTarget,
        not_before_us: Option<i64>,
        (low_us, high_us): (i64, i64),
    ) -> Sighting {
        Sighting {
            session: self.session(),
            role: self.who.role.unwrap_or_default(),
            application: self.who.application.unwrap_or_default(),
            package: self.who.package,
            client: self.who.client,
            vxid: self.vxid.unwrap_or_default(),
            target,
            mode: self.mode.as_deref().and_then(LockMode::parse),
            granted: self.granted.unwrap_or(false),
            wait_since_us: self.wait_since_us,
            not_before_us,
            first_us: high_us,
            last_us: low_us,
            gone_us: None,
            gone_within_transaction: false,
            blockers: self.blockers.unwrap_or_default(),
            query: self.query.unwrap_or_default(),
            query_start_us: self.query_start_us,
        }
    }
}
