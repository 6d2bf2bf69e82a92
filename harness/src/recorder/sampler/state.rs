//! What the sampler knows from look to look.
//!
//! The sampler's thread asks it for samples; it decides how much to ask the server, and keeps what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use fulldress_workloads::clock::Clock;
use sqlx::PgConnection;

use super::look::{self, Key, Look, Row, Who};
use super::{SLOW_US, SampleLog, SessionSighting};
use crate::recorder::observation::{LockTarget, PackageIdentity, SessionId};

/// Most sightings kept; later ones are counted only.
const SIGHTINGS_MAX: usize = 200_000;

/// Most locks held by clients that are kept: they tell the order in which clients take relations, and nothing else.
const CLIENT_HOLDS_MAX: usize = 50_000;

/// Most looks whose instants are kept: half an hour and more of the fast pace.
const LOOKS_MAX: usize = 1_000_000;

/// Least time between two full looks that only the running statement's text asks for, microseconds. A full look costs the
/// server three times as much as a glance.
const TEXT_US: u64 = 20_000;

/// How a look is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    Glance,
    Full,
}

/// The sampler's memory.
#[derive(Debug, Default)]
pub(super) struct State {
    log: SampleLog,
    /// Whether the sampler is to look often.
    fast: bool,
    /// Index into `log.sightings` of what the last look showed.
    open: HashMap<Key, usize>,
    open_sessions: HashMap<SessionId, usize>,
    last_look_us: Option<i64>,
    last_full_us: Option<i64>,
    client_holds: usize,
    /// When the last full look was asked for, on the rehearsal's clock; absent: the next look must be one.
    full_us: Option<u64>,
    /// Sessions that the last full look named, by process id.
    who: HashMap<u32, Who>,
    /// Sessions that it found not to be the package's.
    others: Vec<i32>,
    others_set: HashSet<u32>,
    database: Option<i64>,
}

impl State {
    pub(super) fn new(names: BTreeMap<u32, String>) -> Self {
        Self { log: SampleLog { names, ..SampleLog::default() }, ..Self::default() }
    }

    pub(super) fn into_log(self) -> SampleLog {
        self.log
    }

    pub(super) const fn planned(&mut self, samples: u64) {
        self.log.planned += samples;
    }

    /// From now on the sampler is to look often, or no longer.
    pub(super) fn watching(&mut self, fast: bool, now_us: u64) {
        self.fast = fast;
        self.log.gaps.watching(fast, now_us);
    }

    pub(super) fn lose(&mut self, now_us: u64, reason: String) {
        self.full_us = None;
        self.log.losses.push((now_us, reason));
    }

    /// Takes one sample: a glance where that is enough.
    pub(super) async fn sample(
        &mut self,
        connection: &mut PgConnection,
        identity: &PackageIdentity,
        clock: Clock,
    ) -> Result<(), sqlx::Error> {
        let asked_us = clock.now_us();
        let recent = self.full_us.filter(|full| self.fast && asked_us - full < SLOW_US);
        if let (Some(full_us), Some(database)) = (recent, self.database) {
            let mut seen = look::glance(connection, &self.others, database).await?;
            let answered_us = clock.now_us();
            let text_due = asked_us - full_us >= TEXT_US;
            if !self.wants_full(&mut seen.rows, identity, text_due) {
                self.absorb(seen, Depth::Glance);
                self.log.gaps.looked(asked_us, answered_us);
                self.log.taken += 1;
                return Ok(());
            }
            let full = look::full(connection, identity).await?;
            self.learn_sessions(&full);
            self.name_sessions(&mut seen.rows);
            self.absorb(seen, Depth::Glance);
            self.absorb_full(connection, full.0).await?;
            self.log.gaps.looked(asked_us, answered_us);
        } else {
            if self.database.is_none() {
                let database =
                    "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()";
                self.database = Some(sqlx::query_scalar(database).fetch_one(&mut *connection).await?);
            }
            let full = look::full(connection, identity).await?;
            let answered_us = clock.now_us();
            self.learn_sessions(&full);
            self.absorb_full(connection, full.0).await?;
            self.log.gaps.looked(asked_us, answered_us);
        }
        self.full_us = Some(asked_us);
        self.log.taken += 1;
        Ok(())
    }

    /// Whether a glance leaves a question that only a full look answers: who is it, and what does it run?
    fn wants_full(&self, rows: &mut [Row], identity: &PackageIdentity, text_due: bool) -> bool {
        self.name_sessions(rows);
        rows.iter().any(|row| {
            let Some(who) = self.who.get(&row.pid) else {
                let stranger = !self.others_set.contains(&row.pid);
                return stranger || row.waits_for_relation() || text_due;
            };
            let Some(target) = row.target() else { return false };
            if self.open.contains_key(&row.key(&target)) {
                return false;
            }
            let logged = who.role.as_ref().is_some_and(|role| identity.roles.contains(role));
            text_due || row.waits_for_relation() || (who.package && !logged)
        })
    }

    fn name_sessions(&self, rows: &mut [Row]) {
        for row in rows {
            if let Some(who) = self.who.get(&row.pid) {
                row.who.clone_from(who);
            }
        }
    }

    fn learn_sessions(&mut self, (look, others): &(Look, Vec<i32>)) {
        self.who = look.rows.iter().map(|row| (row.pid, row.who.clone())).collect();
        self.others.clone_from(others);
        self.others_set = others.iter().map(|pid| pid.unsigned_abs()).collect();
    }

    async fn absorb_full(&mut self, connection: &mut PgConnection, look: Look) -> Result<(), sqlx::Error> {
        let seen = self.open.values().filter_map(|index| match self.log.sightings[*index].target {
            LockTarget::Relation(oid) | LockTarget::Tuple(oid) => Some(oid),
            _ => None,
        });
        let relations = seen.chain(look.rows.iter().filter_map(|row| row.relation));
        let unknown: BTreeSet<u32> =
            relations.filter(|oid| *oid >= 16384 && !self.log.names.contains_key(oid)).collect();
        if !unknown.is_empty() {
            let named = look::names(connection, &unknown).await?;
            self.log.names.extend(named);
        }
        self.absorb(look, Depth::Full);
        Ok(())
    }

    fn absorb(&mut self, look: Look, depth: Depth) {
        let (low_us, high_us) = (look.low_us, look.high_us);
        let mut seen: HashMap<Key, usize> = HashMap::with_capacity(look.rows.len());
        let mut transactions: BTreeSet<(SessionId, String)> = BTreeSet::new();
        // A glance says nothing of sessions without locks: they are taken to be still there until a full look.
        let mut sessions = if depth == Depth::Full { HashMap::new() } else { self.open_sessions.clone() };
        for row in look.rows {
            if !self.who.contains_key(&row.pid) {
                continue;
            }
            let session = row.session();
            if row.who.package {
                let index = self.session_seen(session, &row, low_us, high_us);
                sessions.insert(session, index);
            }
            let Some(target) = row.target() else {
                transactions.extend(row.vxid.map(|vxid| (session, vxid)));
                continue;
            };
            let mut key = row.key(&target);
            if key.is_ending() {
                // A transaction that ends gives its number back before its locks.
                key = self.open.keys().find(|known| known.continues_as(&key)).cloned().unwrap_or(key);
            }
            transactions.insert((session, key.vxid.clone()));
            if let Some(index) = self.open.get(&key).copied() {
                self.see_again(index, row, low_us);
                seen.insert(key, index);
            } else if depth == Depth::Glance && !row.who.package && !row.waits_for_relation() {
                // Who waits for whose row is asked in full looks only: it stops the lock manager.
            } else if row.is_client_hold() && self.client_holds >= CLIENT_HOLDS_MAX {
                // What was seen of the clients' order until now stands.
            } else if self.log.sightings.len() < SIGHTINGS_MAX {
                let known = self.open_sessions.contains_key(&session) || !row.who.package;
                let last_us = if row.is_client_hold() { self.last_full_us } else { self.last_look_us };
                let not_before_us = last_us.filter(|_| known);
                self.client_holds += usize::from(row.is_client_hold());
                seen.insert(key, self.log.sightings.len());
                self.log.sightings.push(row.sighting(target, not_before_us, (low_us, high_us)));
            } else {
                self.log.dropped += 1;
            }
        }
        for (key, index) in &self.open {
            if depth == Depth::Glance && key.is_granted() && !self.log.sightings[*index].package {
                // Only full looks list what clients hold.
                seen.insert(key.clone(), *index);
            } else if !seen.contains_key(key) {
                let sighting = &mut self.log.sightings[*index];
                sighting.gone_us = Some(high_us);
                sighting.gone_within_transaction = transactions.contains(&(key.session, key.vxid.clone()));
            }
        }
        self.open = seen;
        self.open_sessions = sessions;
        self.last_look_us = Some(low_us);
        if depth == Depth::Full {
            self.last_full_us = Some(low_us);
        }
        if self.log.looks.len() < LOOKS_MAX {
            self.log.looks.push((low_us, high_us));
        }
    }

    fn see_again(&mut self, index: usize, row: Row, low_us: i64) {
        let sighting = &mut self.log.sightings[index];
        sighting.last_us = low_us;
        sighting.wait_since_us = sighting.wait_since_us.or(row.wait_since_us);
        sighting.blockers.extend(row.blockers.unwrap_or_default());
        if sighting.query_start_us.is_none() {
            // The glance that showed it first knew no statement.
            sighting.query = row.query.unwrap_or_default();
            sighting.query_start_us = row.query_start_us;
        }
    }

    fn session_seen(&mut self, session: SessionId, row: &Row, low_us: i64, high_us: i64) -> usize {
        if let Some(index) = self.open_sessions.get(&session).copied() {
            self.log.sessions[index].last_us = low_us;
            return index;
        }
        let known = self.log.sessions.iter().position(|known| known.session == session);
        known.unwrap_or_else(|| {
            let role = row.who.role.clone().unwrap_or_default();
            self.log.sessions.push(SessionSighting { session, role, first_us: high_us, last_us: low_us });
            self.log.sessions.len() - 1
        })
    }
}
