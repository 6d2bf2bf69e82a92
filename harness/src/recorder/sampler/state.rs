//! What the sampler knows from look to look.
//!
//! The sampler's thread hands it what each look brought; it says when a full look is due, and keeps what changed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

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

/// Most glances that wait for one full look: two seconds of the fast pace and more.
const WAITING_MAX: usize = 1_000;

/// How a look is taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// Locks of the package and waits for relations.
    Glance,
    /// All that is kept.
    Full,
    /// A full look that was read while glances were: of the package's locks and of waits for relations they tell.
    Beside,
}

impl Depth {
    /// Whether it may be the first look to show something that glances tell of, or that only full looks do.
    const fn begins(self, glanced: bool) -> bool {
        match self {
            Self::Glance => glanced,
            Self::Full => true,
            Self::Beside => !glanced,
        }
    }

    /// Whether something has ended that it does not show. Only full looks list what clients hold.
    const fn ends(self, client_hold: bool) -> bool {
        match self {
            Self::Glance => !client_hold,
            Self::Full => true,
            Self::Beside => client_hold,
        }
    }
}

/// The sampler's memory.
#[derive(Debug, Default)]
pub(super) struct State {
    log: SampleLog,
    /// Server's time minus the rehearsal's, microseconds.
    offset_us: i64,
    /// Whether the sampler is to look often.
    fast: bool,
    /// Index into `log.sightings` of what the last look showed.
    open: HashMap<Key, usize>,
    open_sessions: HashMap<SessionId, usize>,
    /// Between which instants the last look read the locks that glances tell of.
    last_look_us: Option<(i64, i64)>,
    last_full_us: Option<i64>,
    client_holds: usize,
    /// When the last full look was asked for, on the rehearsal's clock.
    full_us: Option<u64>,
    /// A full look is to be asked for.
    wanted: bool,
    /// It is itself the sample that the schedule asked for.
    owed: bool,
    /// A full look has told who there is, since the last loss.
    acquainted: bool,
    /// Glances that show somebody who is not known yet, and those after them.
    waiting: VecDeque<Look>,
    /// Sessions that the last full look named, by process id.
    who: HashMap<u32, Who>,
    /// Sessions that it found not to be the package's.
    others: Vec<i32>,
    others_set: HashSet<u32>,
    database: Option<i64>,
}

impl State {
    pub(super) fn new(names: BTreeMap<u32, String>, offset_us: i64) -> Self {
        Self { log: SampleLog { names, ..SampleLog::default() }, offset_us, ..Self::default() }
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

    /// The server went away, for a reason where it is a new one.
    pub(super) fn lose(&mut self, now_us: u64, reason: Option<String>) {
        self.forget();
        self.log.losses.extend(reason.map(|reason| (now_us, reason)));
    }

    /// The connections are given up: who there is must be asked again, and glances that wait for it count as not taken.
    pub(super) fn forget(&mut self) {
        self.acquainted = false;
        self.waiting.clear();
    }

    /// Whether a glance can be understood.
    pub(super) const fn may_glance(&self) -> bool {
        self.acquainted
    }

    /// The next sample is a full look.
    pub(super) const fn want_full(&mut self) {
        self.wanted = true;
        self.owed = true;
    }

    /// Whether a full look is due: something asks for it, or the last one is as old as the slow pace.
    pub(super) fn wants_full(&self, now_us: u64) -> bool {
        self.wanted || self.full_us.is_none_or(|full_us| now_us - full_us >= SLOW_US)
    }

    /// A full look has been asked for.
    pub(super) const fn asked(&mut self, now_us: u64) {
        self.full_us = Some(now_us);
        self.wanted = false;
    }

    /// Glances, and takes it in where everybody in it is known.
    pub(super) async fn glance(
        &mut self,
        connection: &mut PgConnection,
        identity: &PackageIdentity,
        clock: Clock,
    ) -> Result<(), sqlx::Error> {
        if self.database.is_none() {
            let database =
                "SELECT oid::bigint FROM pg_catalog.pg_database WHERE datname = current_database()";
            self.database = Some(sqlx::query_scalar(database).fetch_one(&mut *connection).await?);
        }
        let seen = look::glance(connection, &self.others, self.database.unwrap_or_default()).await?;
        self.glanced(seen, identity, clock.now_us());
        Ok(())
    }

    fn glanced(&mut self, mut seen: Look, identity: &PackageIdentity, now_us: u64) {
        let text_due = self.full_us.is_none_or(|full_us| now_us - full_us >= TEXT_US);
        self.name_sessions(&mut seen.rows);
        self.wanted |= seen.rows.iter().any(|row| self.is_questionable(row, identity, text_due));
        if self.waiting.is_empty() && !seen.rows.iter().any(|row| self.is_stranger(row)) {
            self.absorb(seen, Depth::Glance);
            return;
        }
        self.wanted = true;
        self.waiting.push_back(seen);
        if self.waiting.len() > WAITING_MAX {
            self.lose(now_us, Some("who the sessions are was not answered".to_owned()));
        }
    }

    /// Whether the row cannot be taken in before a full look has said whose it is.
    fn is_stranger(&self, row: &Row) -> bool {
        let known = self.who.contains_key(&row.pid);
        !known && (row.waits_for_relation() || !self.others_set.contains(&row.pid))
    }

    /// Whether a row leaves a question that only a full look answers: who waits, and what does it run?
    fn is_questionable(&self, row: &Row, identity: &PackageIdentity, text_due: bool) -> bool {
        let Some(who) = self.who.get(&row.pid) else { return text_due || self.is_stranger(row) };
        let Some(target) = row.target() else { return false };
        let open = self.open.get(&row.key(&target));
        if open.is_some_and(|at| !row.waits_anew(&self.log.sightings[*at])) {
            return false;
        }
        let logged = who.role.as_ref().is_some_and(|role| identity.roles.contains(role));
        text_due || row.waits_for_relation() || (who.package && !logged)
    }

    /// Takes in a full look and the glances that waited for it; the relations in it that have no name yet.
    pub(super) fn full(&mut self, look: Look, others: Vec<i32>) -> BTreeSet<u32> {
        self.learn_sessions(&look, others);
        self.acquainted = true;
        while let Some(mut glance) = self.waiting.pop_front() {
            self.name_sessions(&mut glance.rows);
            // Who is still not known when the full look was read later has gone meanwhile.
            let gone = look.low_us >= glance.high_us;
            if !gone && glance.rows.iter().any(|row| self.is_stranger(row)) {
                self.waiting.push_front(glance);
                self.wanted = true;
                break;
            }
            self.absorb(glance, Depth::Glance);
        }
        let seen = self.open.values().filter_map(|index| match self.log.sightings[*index].target {
            LockTarget::Relation(oid) | LockTarget::Tuple(oid) => Some(oid),
            _ => None,
        });
        let relations = seen.chain(look.rows.iter().filter_map(|row| row.relation));
        let unnamed = relations.filter(|oid| *oid >= 16384 && !self.log.names.contains_key(oid)).collect();
        let after = self.last_look_us.is_none_or(|(_, high_us)| look.low_us >= high_us);
        let depth = if after && self.waiting.is_empty() { Depth::Full } else { Depth::Beside };
        self.absorb(look, depth);
        unnamed
    }

    /// Names that the server gave; the first one known stays.
    pub(super) fn name(&mut self, names: BTreeMap<u32, String>) {
        for (oid, name) in names {
            self.log.names.entry(oid).or_insert(name);
        }
    }

    fn name_sessions(&self, rows: &mut [Row]) {
        for row in rows {
            if let Some(who) = self.who.get(&row.pid) {
                row.who.clone_from(who);
            }
        }
    }

    fn learn_sessions(&mut self, look: &Look, others: Vec<i32>) {
        self.who = look.rows.iter().map(|row| (row.pid, row.who.clone())).collect();
        self.others_set = others.iter().map(|pid| pid.unsigned_abs()).collect();
        self.others = others;
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
            let glanced = row.who.package || row.waits_for_relation();
            let open = self.open.get(&key).copied();
            let ended = open.filter(|at| depth.begins(glanced) && row.waits_anew(&self.log.sightings[*at]));
            if let Some(ended) = ended {
                // The server told of no failure: a block that caught it asks again at once.
                let sighting = &mut self.log.sightings[ended];
                sighting.gone_us = row.wait_since_us;
                sighting.gone_within_transaction = true;
            }
            if let Some(index) = open.filter(|_| ended.is_none()) {
                self.see_again(index, row, (depth != Depth::Beside || !glanced).then_some(low_us));
                seen.insert(key, index);
            } else if !depth.begins(glanced) {
                // Who waits for whose row is asked in full looks only: it stops the lock manager.
            } else if row.is_client_hold() && self.client_holds >= CLIENT_HOLDS_MAX {
                // What was seen of the clients' order until now stands.
            } else if self.log.sightings.len() < SIGHTINGS_MAX {
                let known = self.open_sessions.contains_key(&session) || !row.who.package;
                let by_full = row.is_client_hold() || depth == Depth::Beside;
                let last_us = if by_full { self.last_full_us } else { self.last_look_us.map(|at| at.0) };
                let not_before_us = last_us.filter(|_| known);
                self.client_holds += usize::from(row.is_client_hold());
                seen.insert(key, self.log.sightings.len());
                self.log.sightings.push(row.sighting(target, not_before_us, (low_us, high_us)));
            } else {
                self.log.dropped += 1;
            }
        }
        for (key, index) in &self.open {
            let client_hold = key.is_granted() && !self.log.sightings[*index].package;
            if !depth.ends(client_hold) && !seen.contains_key(key) {
                seen.insert(key.clone(), *index);
            } else if !seen.contains_key(key) {
                let sighting = &mut self.log.sightings[*index];
                sighting.gone_us = Some(high_us);
                sighting.gone_within_transaction = transactions.contains(&(key.session, key.vxid.clone()));
            }
        }
        self.open = seen;
        self.open_sessions = sessions;
        if depth != Depth::Glance {
            self.last_full_us = Some(low_us);
        }
        if depth != Depth::Beside {
            self.looked((low_us, high_us), depth);
        }
    }

    fn looked(&mut self, look: (i64, i64), depth: Depth) {
        self.last_look_us = Some(look);
        // A full look beside the glances is none that the schedule asked for.
        self.log.taken += u64::from(depth == Depth::Glance || std::mem::take(&mut self.owed));
        let rehearsal_us = |server_us: i64| u64::try_from(server_us - self.offset_us).unwrap_or(0);
        self.log.gaps.looked(rehearsal_us(look.0), rehearsal_us(look.1));
        if self.log.looks.len() < LOOKS_MAX {
            self.log.looks.push(look);
        }
    }

    fn see_again(&mut self, index: usize, row: Row, last_us: Option<i64>) {
        let sighting = &mut self.log.sightings[index];
        sighting.last_us = last_us.unwrap_or(sighting.last_us);
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

#[cfg(test)]
mod tests;
