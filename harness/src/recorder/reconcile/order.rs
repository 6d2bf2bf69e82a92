//! In which order the package and the clients take relations, and where the two go against each other.
//!
//! `reconcile` calls it once the package's locks are known. The package's order comes from its statements. A client's is
//! known where a sample met its transaction while it held one relation and before it took, or while it waited for, another.

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::{LockCycle, LockMode, LockOrder, LockOutcome, OrderSide, OrderedLock};

use super::holdings::Draft;
use super::timeline::Timeline;
use super::{Context, SHORT_STATEMENT_CHARACTERS};
use crate::recorder::log::{DeadlockWait, LogEvent, LogKind};
use crate::recorder::observation::{LockTarget, SessionId};
use crate::recorder::sampler::Sighting;
use crate::recorder::statement::normalise;

/// Most cycles reported.
const CYCLES_MAX: usize = 50;

/// Two relations that a transaction took, with what identifies them: object id and mode.
type Pair = ((u32, LockMode), (u32, LockMode));

/// Finds the orders, and the cycles between them.
pub(super) fn order(context: &Context<'_>, timelines: &[Timeline<'_>], drafts: &[Draft]) -> LockOrder {
    let package = package_pairs(context, drafts);
    let clients = client_pairs(context);
    let transactions: BTreeSet<&(SessionId, &str)> = clients.values().flat_map(|(_, seen)| seen).collect();
    let mut cycles = fired(context, timelines, drafts);
    let mut possible: BTreeMap<(OrderSide, OrderSide), LockCycle> = BTreeMap::new();
    for (had, asked) in &package {
        for (((first, first_mode), (second, second_mode)), (example, seen)) in &clients {
            let opposite = (*first, *second) == (asked.oid, had.oid);
            let exclude = asked.mode.conflicts_with(*first_mode) && had.mode.conflicts_with(*second_mode);
            if opposite && exclude {
                let cycle = LockCycle {
                    phase: context.phase(context.material.clock.rehearsal_us(asked.requested_us)),
                    fired: false,
                    package: package_side(context, timelines, had, asked),
                    other: client_side(context, *example),
                    transactions: seen.len() as u64,
                };
                possible.entry((cycle.package.clone(), cycle.other.clone())).or_insert(cycle);
            }
        }
    }
    let met = |cycle: &LockCycle| {
        cycles.iter().any(|fired: &LockCycle| {
            relations(&fired.package) == relations(&cycle.package)
                && relations(&fired.other) == relations(&cycle.other)
        })
    };
    let unmet: Vec<LockCycle> = possible.into_values().filter(|cycle| !met(cycle)).collect();
    cycles.extend(unmet);
    cycles.truncate(CYCLES_MAX);
    LockOrder { package_pairs: package.len() as u64, client_transactions: transactions.len() as u64, cycles }
}

fn relations(side: &OrderSide) -> (&str, &str) {
    (&side.first.relation, &side.second.relation)
}

/// Existing relations that the package asked for while it held another one, by the statements' order.
fn package_pairs<'d>(context: &Context<'_>, drafts: &'d [Draft]) -> Vec<(&'d Draft, &'d Draft)> {
    let existed = |draft: &&Draft| {
        let name = context.names.get(&draft.oid);
        name.is_some_and(|name| context.material.preexisting.contains(name))
    };
    let existing: Vec<&Draft> = drafts.iter().filter(existed).collect();
    let mut pairs = Vec::new();
    for had in existing.iter().filter(|had| had.outcome == LockOutcome::Granted) {
        let later = existing.iter().filter(|asked| {
            (&had.session, &had.vxid) == (&asked.session, &asked.vxid)
                && had.oid != asked.oid
                // Within one statement the order is the server's own, and no source tells it.
                && (had.statement, had.part) < (asked.statement, asked.part)
                && had.released.1 >= asked.acquired.0
        });
        pairs.extend(later.map(|asked| (*had, *asked)));
    }
    pairs
}

/// A relation, the mode on it, and where that was seen.
type Lock<'a> = (u32, LockMode, &'a Sighting);

/// What an order was seen in: one example, and all the transactions.
type Seen<'a> = ((&'a Sighting, &'a Sighting), BTreeSet<(SessionId, &'a str)>);

fn client_pairs<'a>(context: &Context<'a>) -> BTreeMap<Pair, Seen<'a>> {
    let mut transactions: BTreeMap<(SessionId, &str), Vec<Lock<'_>>> = BTreeMap::new();
    for sighting in &context.material.samples.sightings {
        let own = sighting.package || context.material.identity.own_roles.contains(&sighting.role);
        let (LockTarget::Relation(oid), Some(mode)) = (&sighting.target, sighting.mode) else { continue };
        // An index follows its table.
        if own || !sighting.client || context.material.index_tables.contains_key(oid) {
            continue;
        }
        let key = (sighting.session, sighting.vxid.as_str());
        transactions.entry(key).or_default().push((*oid, mode, sighting));
    }
    let mut pairs: BTreeMap<Pair, Seen<'a>> = BTreeMap::new();
    for (transaction, locks) in transactions {
        for (first, first_mode, had) in locks.iter().filter(|(.., sighting)| sighting.granted) {
            for (second, second_mode, asked) in locks.iter().filter(|(second, ..)| second != first) {
                if took_before(had, asked) {
                    let pair = ((*first, *first_mode), (*second, *second_mode));
                    let seen = pairs.entry(pair).or_insert_with(|| ((*had, *asked), BTreeSet::new()));
                    seen.1.insert(transaction);
                }
            }
        }
    }
    pairs
}

/// Whether one lock of a transaction was surely taken before another was taken or asked for.
fn took_before(had: &Sighting, asked: &Sighting) -> bool {
    let ended_us = had.gone_us.unwrap_or(i64::MAX);
    if asked.granted {
        // A look that shows the one lists all that the transaction holds, and not the other.
        had.first_us < asked.first_us && ended_us > asked.first_us
    } else {
        // Who waits takes nothing else meanwhile.
        had.first_us < asked.gone_us.unwrap_or(i64::MAX) && ended_us > asked.first_us
    }
}

fn package_side(context: &Context<'_>, timelines: &[Timeline<'_>], had: &Draft, asked: &Draft) -> OrderSide {
    let timeline = timelines.iter().find(|timeline| timeline.session == asked.session);
    let text = |draft: &Draft| {
        timeline.map_or_else(String::new, |one| context.text(one, draft.statement, draft.part))
    };
    let lock = |draft: &Draft| OrderedLock {
        relation: context.names.get(&draft.oid).cloned().unwrap_or_default(),
        mode: Some(draft.mode),
        statement: shown(&text(draft)),
    };
    OrderSide {
        role: timeline.map_or_else(String::new, |timeline| timeline.role.clone()),
        first: lock(had),
        second: lock(asked),
        place: context.files.find(&text(asked)),
    }
}

fn client_side(context: &Context<'_>, (had, asked): (&Sighting, &Sighting)) -> OrderSide {
    let lock = |sighting: &Sighting| OrderedLock {
        relation: relation(context, &sighting.target),
        mode: sighting.mode,
        statement: shown(&sighting.query),
    };
    OrderSide { role: asked.role.clone(), first: lock(had), second: lock(asked), place: None }
}

fn shown(statement: &str) -> Option<String> {
    Some(normalise(statement, SHORT_STATEMENT_CHARACTERS)).filter(|text| !text.is_empty())
}

fn relation(context: &Context<'_>, target: &LockTarget) -> String {
    match target {
        LockTarget::Relation(oid) | LockTarget::Tuple(oid) => {
            context.names.get(oid).cloned().unwrap_or_else(|| format!("relation {oid}"))
        }
        LockTarget::Transaction(_) => "a row".to_owned(),
        LockTarget::Advisory(key) => format!("advisory lock {key}"),
        LockTarget::VirtualTransaction => "the end of a transaction".to_owned(),
        LockTarget::Other(text) => text.clone(),
    }
}

/// The deadlocks that the server reported with the package in them.
fn fired(context: &Context<'_>, timelines: &[Timeline<'_>], drafts: &[Draft]) -> Vec<LockCycle> {
    let mut cycles: Vec<LockCycle> = Vec::new();
    for event in context.material.events {
        let LogKind::Failed { deadlock, .. } = &event.what else { continue };
        let is_package = |pid: u32| timelines.iter().any(|timeline| timeline.session.pid == pid);
        let Some(own) = deadlock.iter().find(|wait| is_package(wait.pid)) else { continue };
        // In a longer circle the other side is who stands in the package's way.
        let Some(other) = deadlock.iter().find(|wait| wait.pid == own.blocker) else { continue };
        let Some(behind) = deadlock.iter().find(|wait| wait.blocker == own.pid) else { continue };
        let side = |wait: &DeadlockWait, has: &LockTarget| {
            deadlock_side(context, timelines, drafts, event, (wait, has))
        };
        let cycle = LockCycle {
            phase: context.phase(context.material.clock.rehearsal_us(event.at_us)),
            fired: true,
            package: side(own, &behind.target),
            other: side(other, &own.target),
            transactions: 1,
        };
        let same = |known: &&mut LockCycle| (&known.package, &known.other) == (&cycle.package, &cycle.other);
        match cycles.iter_mut().find(same) {
            Some(known) => known.transactions += 1,
            None => cycles.push(cycle),
        }
    }
    cycles
}

fn deadlock_side(
    context: &Context<'_>,
    timelines: &[Timeline<'_>],
    drafts: &[Draft],
    event: &LogEvent,
    (wait, has): (&DeadlockWait, &LockTarget),
) -> OrderSide {
    let at_us = event.at_us;
    let held = drafts.iter().find(|draft| {
        draft.session.pid == wait.pid
            && *has == LockTarget::Relation(draft.oid)
            && draft.outcome == LockOutcome::Granted
            && draft.acquired.0 <= at_us
            && draft.released.1 >= at_us
    });
    let seen = context.material.samples.sightings.iter().filter(|sighting| {
        sighting.session.pid == wait.pid
            && sighting.granted
            && sighting.target == *has
            && sighting.first_us <= at_us + crate::recorder::log::RESOLUTION_US
            && sighting.gone_us.is_none_or(|gone| gone >= at_us)
    });
    let seen = seen.max_by_key(|sighting| sighting.mode);
    let timeline = timelines.iter().find(|timeline| timeline.session.pid == wait.pid);
    let took = held.and_then(|draft| Some(context.text(timeline?, draft.statement, draft.part)));
    let took = took.or_else(|| seen.map(|sighting| sighting.query.clone()));
    let role = timeline.map(|timeline| timeline.role.clone()).or_else(|| role_of(context, event, wait.pid));
    OrderSide {
        role: role.unwrap_or_default(),
        first: OrderedLock {
            relation: relation(context, has),
            mode: held.map(|draft| draft.mode).or_else(|| seen.and_then(|sighting| sighting.mode)),
            statement: took.as_deref().and_then(shown),
        },
        second: OrderedLock {
            relation: relation(context, &wait.target),
            mode: wait.mode,
            statement: shown(&wait.statement),
        },
        place: timeline.and_then(|_| context.files.find(&wait.statement)),
    }
}

fn role_of(context: &Context<'_>, event: &LogEvent, pid: u32) -> Option<String> {
    if event.session.pid == pid {
        return event.role.clone();
    }
    let logged = context.material.events.iter().rev().filter(|one| one.at_us <= event.at_us);
    let logged = logged.filter(|one| one.session.pid == pid).find_map(|one| one.role.clone());
    let sampled = || {
        let sightings = context.material.samples.sightings.iter().rev();
        sightings
            .into_iter()
            .find(|sighting| sighting.session.pid == pid)
            .map(|sighting| sighting.role.clone())
    };
    logged.or_else(sampled)
}
