//! Rules on the order in which relations are taken: deadlocks that fired, and those that only did not meet.

use crate::figures::{self, cut};
use crate::finding::Finding;
use crate::lock::{LockCycle, LockOrder, OrderSide, OrderedLock};
use crate::phase::Phase;

use super::{Case, Ruling, unplayed};

/// The phases whose locks are judged.
const CHANGING: [Phase; 2] = [Phase::Upgrade, Phase::Rollback];
const NO_ORDER: &str = "the lock recorder reported no order of locks";

pub(super) fn deadlock(case: &Case<'_>) -> Ruling {
    let Some(order) = order_of(case) else { return Ruling::inconclusive(NO_ORDER) };
    let findings = judged(order).filter(|cycle| cycle.fired).map(|cycle| {
        let times =
            if cycle.transactions > 1 { format!(" {} times", cycle.transactions) } else { String::new() };
        found(case, cycle, &format!("A deadlock fired{times}"))
    });
    case.counted(findings.collect(), "no deadlock fired with the package in it")
        .unless_missing(unplayed(case.evidence, &CHANGING))
}

pub(super) fn order(case: &Case<'_>) -> Ruling {
    let Some(order) = order_of(case) else { return Ruling::inconclusive(NO_ORDER) };
    let seen = figures::count(order.client_transactions, "client transaction");
    let findings = judged(order).filter(|cycle| !cycle.fired).map(|cycle| {
        let transactions = figures::count(cycle.transactions, "client transaction");
        found(
            case,
            cycle,
            &format!("{transactions} took the opposite order to the package, and did not meet it"),
        )
    });
    let findings: Vec<Finding> = findings.collect();
    if order.package_pairs > 0 && order.client_transactions == 0 && findings.is_empty() {
        return Ruling::inconclusive(
            "the package holds one relation while it takes another, and of no client transaction an order was seen",
        );
    }
    let pass = match order.package_pairs {
        0 => "the package never held one existing relation while it took another".to_owned(),
        pairs => {
            let pairs = figures::count(pairs, "pair");
            format!(
                "{pairs} of relations taken by the package one after the other, and none of the {seen} whose order was seen goes the other way"
            )
        }
    };
    case.counted(findings, pass).unless_missing(unplayed(case.evidence, &CHANGING))
}

fn order_of<'evidence>(case: &Case<'evidence>) -> Option<&'evidence LockOrder> {
    case.evidence.locks.as_ref()?.order.as_ref()
}

fn judged(order: &LockOrder) -> impl Iterator<Item = &LockCycle> {
    order.cycles.iter().filter(|cycle| cycle.phase.is_changing())
}

fn found(case: &Case<'_>, cycle: &LockCycle, what: &str) -> Finding {
    let object = format!("{} and {}", cycle.package.first.relation, cycle.package.second.relation);
    let what = format!("{what}: {}; {}.", side(&cycle.package), side(&cycle.other));
    Finding { place: cycle.package.place.clone(), ..case.finding(object, what) }
}

/// `storefront had ROW EXCLUSIVE on public.a (…) and asked for ACCESS EXCLUSIVE on public.b (…)`.
fn side(side: &OrderSide) -> String {
    format!("{} had {} and asked for {}", side.role, lock(&side.first), lock(&side.second))
}

fn lock(lock: &OrderedLock) -> String {
    let mode = lock.mode.map_or("a lock", crate::lock::LockMode::sql);
    let statement =
        lock.statement.as_ref().map_or_else(String::new, |text| format!(" (`{}`)", cut(text, 80)));
    format!("{mode} on {}{statement}", lock.relation)
}
