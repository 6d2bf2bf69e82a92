//! The clients' lock waits: merged from log and samples, then laid on the package's locks.
//!
//! PostgreSQL's log names the granted holder of a lock, not the schema change that queues in between. So a wait on
//! a relation is laid on the package's lock that it conflicts with and overlaps longest, whoever holds the
//! relation; a wait for a row is followed from blocker to blocker until it ends at the package.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::LockMode;
use serde::Serialize;

use super::holdings::Draft;
use crate::recorder::log::{LogEvent, LogKind, RESOLUTION_US};
use crate::recorder::observation::{LockTarget, PackageIdentity, SessionId, is_own};
use crate::recorder::sampler::Sighting;

/// How far apart two sources may put the beginning of one wait, microseconds.
const SAME_WAIT_US: i64 = 5_000;

/// Longest chain of clients that wait for each other's rows.
const CHAIN_MAX: usize = 16;

/// One wait of a session that is not the package's. Times are the server's, microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientWait {
    /// Session.
    pub session: SessionId,
    /// Login role.
    pub role: String,
    /// `application_name`.
    pub application: String,
    /// The waiting statement, as the client sent it.
    #[serde(skip)]
    pub statement: String,
    /// What it waited for.
    pub target: LockTarget,
    /// The mode it asked for, where it is a table-level mode.
    pub mode: Option<LockMode>,
    /// When it began to wait.
    pub since_us: i64,
    /// When it stopped: with the lock, by a timeout, or with its session.
    pub until_us: i64,
    /// Pids that stood in its way, as far as a source named them.
    pub blockers: BTreeSet<u32>,
    /// Relation that the server names in the context of a row-lock wait, without its schema.
    pub row_of: Option<String>,
}

impl ClientWait {
    fn overlap_us(&self, from_us: i64, to_us: i64) -> i64 {
        self.until_us.min(to_us) - self.since_us.max(from_us)
    }

    const fn for_row(&self) -> bool {
        matches!(self.target, LockTarget::Transaction(_) | LockTarget::Tuple(_))
    }
}

/// All clients' waits, from both sources, each once.
pub(super) fn client_waits(
    events: &[&LogEvent],
    sightings: &[Sighting],
    identity: &PackageIdentity,
    end_us: i64,
) -> Vec<ClientWait> {
    let mut waits = logged_waits(events, identity, end_us);
    let logged = waits.len();
    let ours = |sighting: &&Sighting| !sighting.granted && !sighting.package && sighting.client;
    for sighting in sightings.iter().filter(ours) {
        if is_own(Some(&sighting.application)) {
            continue;
        }
        let since_us = sighting.wait_since_us.unwrap_or(sighting.first_us);
        let gone_us = sighting.gone_us.unwrap_or(end_us);
        let known = waits.iter_mut().enumerate().find(|(index, wait)| {
            let apart_us = if *index < logged { SAME_WAIT_US } else { 0 };
            wait.session == sighting.session
                && wait.target == sighting.target
                && wait.mode == sighting.mode
                && is_same(wait, sighting, apart_us)
        });
        if let Some((index, wait)) = known {
            wait.blockers.extend(&sighting.blockers);
            if index >= logged {
                wait.until_us = wait.until_us.max(i64::midpoint(sighting.last_us.max(since_us), gone_us));
            }
            continue;
        }
        waits.push(ClientWait {
            session: sighting.session,
            role: sighting.role.clone(),
            application: sighting.application.clone(),
            statement: sighting.query.clone(),
            target: sighting.target.clone(),
            mode: sighting.mode,
            since_us,
            until_us: i64::midpoint(sighting.last_us.max(since_us), gone_us),
            blockers: sighting.blockers.clone(),
            row_of: None,
        });
    }
    waits.retain(|wait| !identity.own_roles.contains(&wait.role));
    waits
}

/// Whether a sample shows a wait that is known: it began at the same time, or both went on at the same time, which two waits of
/// one session never do. The next one may begin at once, for the same lock.
fn is_same(wait: &ClientWait, sighting: &Sighting, apart_us: i64) -> bool {
    let Some(since_us) = sighting.wait_since_us else {
        // Only seen in its first instants, in which the server does not say since when.
        return sighting.first_us <= wait.until_us + SAME_WAIT_US
            && sighting.gone_us.is_none_or(|gone_us| gone_us >= wait.since_us - SAME_WAIT_US);
    };
    let together_us = wait.overlap_us(since_us, sighting.last_us);
    (since_us - wait.since_us).abs() <= apart_us || together_us > RESOLUTION_US
}

fn logged_waits(events: &[&LogEvent], identity: &PackageIdentity, end_us: i64) -> Vec<ClientWait> {
    let mut sessions: BTreeMap<SessionId, Vec<&LogEvent>> = BTreeMap::new();
    for event in events {
        let package = identity.owns(event.role.as_deref(), event.host.as_deref());
        if event.client && !package && !is_own(event.application.as_deref()) {
            sessions.entry(event.session).or_default().push(event);
        }
    }
    let mut waits = Vec::new();
    for lines in sessions.into_values() {
        let mut open: Option<ClientWait> = None;
        for line in lines {
            if let Some(mut wait) = open.take() {
                // Whatever the session says next, its wait is over by then; only the same wait may speak twice.
                wait.until_us = line.at_us.max(wait.since_us);
                if let LogKind::Acquired { after_us, .. } = line.what {
                    wait.until_us = wait.since_us + after_us;
                    waits.push(wait);
                    continue;
                }
                waits.push(wait);
            }
            match &line.what {
                LogKind::Waiting { mode, target, after_us, holders } => {
                    let mut wait = logged_wait(line, *mode, target, *after_us, end_us);
                    wait.blockers.extend(holders);
                    open = Some(wait);
                }
                LogKind::Acquired { mode, target, after_us } => {
                    let mut wait = logged_wait(line, *mode, target, *after_us, end_us);
                    wait.until_us = line.at_us;
                    waits.push(wait);
                }
                _ => {}
            }
        }
        waits.extend(open);
    }
    waits
}

fn logged_wait(
    line: &LogEvent,
    mode: Option<LockMode>,
    target: &LockTarget,
    after_us: i64,
    end_us: i64,
) -> ClientWait {
    let row = matches!(target, LockTarget::Transaction(_) | LockTarget::Tuple(_));
    let context = line.context.as_deref().filter(|_| row);
    ClientWait {
        session: line.session,
        role: line.role.clone().unwrap_or_default(),
        application: line.application.clone().unwrap_or_default(),
        statement: line.statement.clone().unwrap_or_default(),
        target: target.clone(),
        mode,
        // The stamp is cut to milliseconds: the middle of what it can mean.
        since_us: line.at_us - after_us + RESOLUTION_US / 2,
        until_us: end_us,
        blockers: BTreeSet::new(),
        row_of: context
            .and_then(|text| Some(text.split("in relation \"").nth(1)?.split('"').next()?.to_owned())),
    }
}

/// For each wait the index of the package's lock that it stood behind.
pub(super) fn attribute(
    waits: &[ClientWait],
    drafts: &[Draft],
    names: &BTreeMap<u32, String>,
) -> Vec<Option<usize>> {
    let mut behind: Vec<Option<usize>> = waits.iter().map(|wait| direct(wait, drafts, names)).collect();
    // A client that waits for another client's row stands behind what that other client waits for.
    for _ in 0..CHAIN_MAX {
        let mut changed = false;
        for (index, wait) in waits.iter().enumerate() {
            if behind[index].is_some() || !wait.for_row() {
                continue;
            }
            let link = waits.iter().zip(&behind).find_map(|(other, known)| {
                let blocks = wait.blockers.contains(&other.session.pid) && other.session != wait.session;
                (*known).filter(|_| blocks && wait.overlap_us(other.since_us, other.until_us) > 0)
            });
            let link = link.filter(|draft| overlap(wait, &drafts[*draft]) > 0);
            changed |= link.is_some();
            behind[index] = link;
        }
        if !changed {
            break;
        }
    }
    behind
}

/// How long a wait overlaps the span in which a lock was asked for or held.
pub(super) fn overlap(wait: &ClientWait, draft: &Draft) -> i64 {
    wait.overlap_us(draft.requested_us, draft.released.1)
}

fn direct(wait: &ClientWait, drafts: &[Draft], names: &BTreeMap<u32, String>) -> Option<usize> {
    let candidates = drafts.iter().enumerate().filter(|(_, draft)| match (&wait.target, wait.mode) {
        (LockTarget::Relation(oid), Some(mode)) => draft.oid == *oid && draft.mode.conflicts_with(mode),
        _ if wait.for_row() => {
            wait.blockers.contains(&draft.session.pid) && draft.mode >= LockMode::RowShareLock
        }
        _ => false,
    });
    let overlapping = candidates.filter(|(_, draft)| overlap(wait, draft) > 0);
    let best = overlapping.max_by_key(|(_, draft)| {
        let name = names.get(&draft.oid).map_or("", String::as_str);
        let named = wait.row_of.as_deref().is_some_and(|row_of| name.rsplit('.').next() == Some(row_of));
        (named, overlap(wait, draft), draft.mode, std::cmp::Reverse(draft.requested_us))
    });
    best.map(|(index, _)| index)
}
