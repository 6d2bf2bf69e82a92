//! Rules on the instrument itself: driver, recorder, and how far the evidence reaches.

use std::collections::{BTreeMap, BTreeSet};

use crate::check::{CheckId, Outcome};
use crate::evidence::Evidence;
use crate::figures::{self, duration_us, ratio_part, share_percent};
use crate::lock::RecorderTrust;
use crate::phase::Phase;
use crate::traffic::{DriverTrust, Model, TrafficEvidence};

use super::slo::JUDGED;
use super::{Case, Ruling, lock, played, unplayed};

/// Smallest share of the planned load that must have been offered, per cent.
const OFFERED_PERCENT_MIN: f64 = 99.9;
/// Smallest share of the planned samples that must have been taken, per cent; for reports that do not tell the gaps.
const SAMPLES_PERCENT_MIN: f64 = 90.0;
/// A sampling gap below this never counts, however tight the limits are, microseconds.
const GAP_FLOOR_US: u64 = 100_000;
/// Largest share of the time that may lie in longer gaps, per cent: the longest one says what can have been missed, the
/// share shows a sampler that was starved throughout. Shorter gaps raise the detection floor, which the report states, and
/// are no fault: a busy machine has them, and they hide no lock that is near its limit.
const BLIND_PERCENT_MAX: f64 = 10.0;
/// What the recorder itself declares as a gap, microseconds; only shown.
const GAP_DECLARED_US: u64 = 5_000;
/// A route is missed in a phase when at least this many requests of it were to be expected there.
const EXPECTED_REQUESTS_MIN: f64 = 5.0;

pub(super) fn driver(case: &Case<'_>) -> Ruling {
    let Some(traffic) = &case.evidence.traffic else {
        return Ruling::inconclusive("the traffic was not summed up");
    };
    let driver = &traffic.driver;
    if driver.planned == 0 {
        return Ruling::inconclusive("no open-model request was planned, so the driver could not be checked");
    }
    let limits = &case.evidence.rehearsal.limits;
    let lag_limit_us = limits.latency_ms.min(limits.latency_changing_ms) * 100;
    let findings: Vec<_> = driver_faults(driver, lag_limit_us)
        .into_iter()
        .map(|(object, what)| case.finding(object, what))
        .collect();
    let pass = format!(
        "offered {} of {}, send lag p99 {}",
        figures::thousands(driver.sent),
        figures::count(driver.planned, "planned request"),
        duration_us(send_lag_us(driver))
    );
    let mut ruling = case.counted(findings, pass);
    if ruling.outcome == Outcome::Fail {
        ruling.outcome = Outcome::Unmeasured;
    }
    ruling.unless_missing(unplayed(case.evidence, &JUDGED))
}

/// The 99th percentile of the send lag, or its largest value where too few samples carry a percentile.
fn send_lag_us(driver: &DriverTrust) -> u64 {
    driver.send_lag.p99_us.unwrap_or(driver.send_lag.max_us)
}

fn driver_faults(driver: &DriverTrust, lag_limit_us: u64) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    let lag_us = send_lag_us(driver);
    if lag_us > lag_limit_us {
        let (lag, limit) = (duration_us(lag_us), duration_us(lag_limit_us));
        let what = format!(
            "Requests left {lag} late (p99), more than {limit}: a tenth of the smallest latency objective."
        );
        faults.push(("send lag", what));
    }
    let offered = share_percent(driver.sent, driver.planned);
    if offered < OFFERED_PERCENT_MIN {
        let what = format!(
            "Only {offered:.2} % of the planned load was offered, less than {OFFERED_PERCENT_MIN} %."
        );
        faults.push(("offered load", what));
    }
    if driver.dropped > 0 {
        let requests = figures::count(driver.dropped, "request");
        faults.push(("backlog", format!("The driver dropped {requests} because its backlog was full.")));
    }
    if driver.dry > 0 {
        let requests = figures::count(driver.dry, "request");
        let what = format!(
            "A feeder of the workload had no row left for {requests}: give it more rows, or another order."
        );
        faults.push(("feeder", what));
    }
    if let Some(reason) = &driver.worker_lost {
        faults.push(("worker", format!("The users' worker ended before it was told to: {reason}.")));
    }
    faults
}

pub(super) fn recorder(case: &Case<'_>) -> Ruling {
    let Some(locks) = &case.evidence.locks else {
        return Ruling::inconclusive("the lock recorder reported nothing");
    };
    let trust = &locks.trust;
    let lost = lost_samples(case.evidence, trust);
    let weak = weak_sources(trust);
    let outcome = if lost.is_empty() { Outcome::Inconclusive } else { Outcome::Unmeasured };
    let findings: Vec<_> =
        lost.into_iter().chain(weak).map(|(object, what)| case.finding(object, what)).collect();
    let blind = trust.blind_percent(GAP_DECLARED_US).map_or_else(String::new, |share| {
        format!(" ({share:.1} % of the time in gaps above {})", duration_us(GAP_DECLARED_US))
    });
    let pass = format!(
        "{} of {} seen by two sources, {} taken, longest gap {}{blind}, clock error {}",
        figures::thousands(trust.ddl_seen_twice),
        figures::count(trust.ddl_statements, "schema change"),
        figures::count(trust.samples_taken, "sample"),
        duration_us(trust.sample_gap_max_us),
        duration_us(trust.clock_error_us)
    );
    let mut ruling = case.counted(findings, pass);
    if ruling.outcome == Outcome::Fail {
        ruling.outcome = outcome;
        let floor = duration_us(trust.detection_floor_us);
        ruling.evidence.push_str(&format!(" Holds shorter than {floor} may have been missed."));
    }
    ruling.unless_missing(unplayed(case.evidence, &[Phase::Upgrade, Phase::Rollback]))
}

/// Samples that are gone: the instrument failed, whatever the other sources say, for waits and locks without
/// event triggers (TRUNCATE, LOCK TABLE, …) rest on the sampler.
fn lost_samples(evidence: &Evidence, trust: &RecorderTrust) -> Vec<(&'static str, String)> {
    let mut lost = Vec::new();
    lost.extend(starved(trust).map(|what| ("sampler", what)));
    let limit_of = |id: CheckId| {
        let setting = evidence.rehearsal.limits.checks.get(&id).and_then(|setting| setting.limit);
        setting.unwrap_or(id.record().limit)
    };
    let limit_ms = limit_of(CheckId::LockHold).min(limit_of(CheckId::LockWait));
    // Half the limit: a hold at the limit then meets at least one sample with room to spare.
    let gap_limit_us = (limit_ms * 500.0).max(ratio_part(GAP_FLOOR_US));
    if ratio_part(trust.sample_gap_max_us) > gap_limit_us {
        let gap = duration_us(trust.sample_gap_max_us);
        let what =
            format!("The sampler was silent for {gap} while steps ran: more than half the limit on a lock.");
        lost.push(("sampling gap", what));
    }
    lost
}

/// Says so where the sampler was kept from its work for too much of the time.
fn starved(trust: &RecorderTrust) -> Option<String> {
    if trust.samples_planned == 0 {
        return Some("No sample of the locks was planned.".to_owned());
    }
    if let Some(share) = trust.blind_percent(GAP_FLOOR_US) {
        let blind = share > BLIND_PERCENT_MAX;
        let bound = duration_us(GAP_FLOOR_US);
        return blind.then(|| {
            format!("{share:.1} % of the time lay in gaps between samples longer than {bound}, more than {BLIND_PERCENT_MAX} %.")
        });
    }
    let taken = share_percent(trust.samples_taken, trust.samples_planned);
    (taken < SAMPLES_PERCENT_MIN).then(|| {
        format!(
            "Only {taken:.1} % of the planned lock samples were taken, less than {SAMPLES_PERCENT_MIN} %."
        )
    })
}

/// Sources that are down or disagree: what they would have told is missing, the sampler still stands.
fn weak_sources(trust: &RecorderTrust) -> Vec<(&'static str, String)> {
    let mut weak = Vec::new();
    if !trust.triggers {
        weak.push(("event triggers", "The event triggers did not report.".to_owned()));
    }
    if !trust.server_log {
        weak.push(("server log", "The server's log could not be read to its end.".to_owned()));
    }
    if trust.ddl_seen_twice < trust.ddl_statements {
        let single = trust.ddl_statements - trust.ddl_seen_twice;
        let changes = figures::count(single, "schema change");
        weak.push(("second source", format!("{changes} were seen by one source only.")));
    }
    for disagreement in &trust.disagreements {
        weak.push(("disagreement", format!("Two sources disagree: {disagreement}.")));
    }
    weak
}

pub(super) fn coverage(case: &Case<'_>) -> Ruling {
    let Some(traffic) = &case.evidence.traffic else {
        return Ruling::inconclusive("the traffic was not summed up");
    };
    // A closed model slows down with the system: only the open model promises requests to every phase.
    let open = traffic.routes.iter().any(|summary| summary.model == Model::Arrivals);
    let promised = traffic.routes.iter().filter(|summary| !open || summary.model == Model::Arrivals);
    let routes: BTreeSet<&str> = promised.map(|summary| summary.route.as_str()).collect();
    if routes.is_empty() {
        return Ruling::inconclusive("no route was driven");
    }
    let mut findings: Vec<_> = JUDGED
        .into_iter()
        .flat_map(|phase| routes.iter().map(move |route| (phase, *route)))
        .filter(|(phase, route)| unserved(case.evidence, traffic, *phase, route))
        .map(|(phase, route)| {
            case.finding(route, format!("No request of {route} was sent in phase {phase}."))
        })
        .collect();
    findings.extend(untouched(case));
    let pass = format!("{} driven in every phase", figures::count(routes.len() as u64, "route"));
    let mut ruling = case.counted(findings, pass);
    if ruling.outcome == Outcome::Fail {
        ruling.outcome = Outcome::Inconclusive;
    }
    ruling.unless_missing(unplayed(case.evidence, &JUDGED))
}

/// Whether a route that the baseline drives often enough was not driven in a phase.
fn unserved(evidence: &Evidence, traffic: &TrafficEvidence, phase: Phase, route: &str) -> bool {
    let sent_in = |wanted: Phase| -> u64 {
        let of_route =
            |summary: &&crate::traffic::RouteSummary| summary.route == route && summary.phase == wanted;
        traffic.routes.iter().filter(of_route).map(|summary| summary.sent).sum()
    };
    let length_us = |wanted: Phase| {
        played(&evidence.phases, wanted).map_or(0, |(start_us, end_us)| end_us.saturating_sub(start_us))
    };
    if sent_in(phase) > 0 || length_us(phase) == 0 {
        // A phase that was not played is named once, by `unplayed`, and not once a route.
        return false;
    }
    let baseline_us = length_us(Phase::Baseline).max(1);
    let expected =
        ratio_part(sent_in(Phase::Baseline)) * ratio_part(length_us(phase)) / ratio_part(baseline_us);
    phase == Phase::Baseline || expected >= EXPECTED_REQUESTS_MIN
}

/// A relation that the package touched, with its rows here and in production, where known.
pub(super) struct Touched<'evidence> {
    pub(super) relation: &'evidence str,
    pub(super) rows: Option<u64>,
    pub(super) production_rows: Option<u64>,
}

/// The existing relations that the package locked, largest first.
/// Tables that the package locked against clients and that no client statement met: no queue could form there.
fn untouched(case: &Case<'_>) -> Vec<crate::finding::Finding> {
    let (Some(locks), Some(reach)) = (&case.evidence.locks, &case.evidence.reach) else { return Vec::new() };
    if reach.traffic_relations.is_empty() {
        return Vec::new();
    }
    let tables: BTreeSet<&str> = reach.relations.iter().map(|size| size.relation.as_str()).collect();
    let locked: BTreeSet<&str> = lock::judged(locks)
        .filter(|record| record.preexisting && record.mode.blocks_clients())
        .map(|record| record.relation.as_str())
        .collect();
    locked
        .into_iter()
        .filter(|table| tables.contains(table) && !reach.traffic_relations.iter().any(|met| met == table))
        .map(|table| {
            case.finding(
                table,
                format!("The package locked {table}, and no client statement ever read or wrote it."),
            )
        })
        .collect()
}

pub(super) fn touched(evidence: &Evidence) -> Vec<Touched<'_>> {
    let Some(locks) = &evidence.locks else { return Vec::new() };
    let rows: BTreeMap<&str, u64> = evidence
        .reach
        .iter()
        .flat_map(|reach| &reach.relations)
        .map(|size| (size.relation.as_str(), size.rows))
        .collect();
    let relations: BTreeSet<&str> = lock::judged(locks)
        .filter(|record| record.preexisting)
        .map(|record| record.relation.as_str())
        .collect();
    let mut touched: Vec<_> = relations
        .into_iter()
        .map(|relation| Touched {
            relation,
            rows: rows.get(relation).copied(),
            production_rows: evidence.rehearsal.limits.production_rows.get(relation).copied(),
        })
        .collect();
    touched.sort_by(|left, right| right.rows.cmp(&left.rows).then(left.relation.cmp(right.relation)));
    touched
}

pub(super) fn scale(case: &Case<'_>) -> Ruling {
    let touched = touched(case.evidence);
    if touched.is_empty() {
        return Ruling::inconclusive("no existing relation is known to have been touched");
    }
    let scale_percent = case.evidence.rehearsal.limits.scale_percent;
    let mut findings = Vec::new();
    let mut unknown = Vec::new();
    for Touched { relation, rows, production_rows } in &touched {
        let (Some(rows), Some(production)) = (*rows, *production_rows) else {
            unknown.push(*relation);
            continue;
        };
        let share = share_percent(rows, production);
        if production > 0 && share < scale_percent {
            let what = format!(
                "{relation} had {} in the rehearsal and has {} in production: {}, less than {}.",
                figures::count(rows, "row"),
                figures::thousands(production),
                figures::percent(share),
                figures::percent(scale_percent)
            );
            findings.push(case.finding(*relation, what));
        }
    }
    let missing = (!unknown.is_empty())
        .then(|| format!("production's size is unknown for {}", figures::cut(&unknown.join(", "), 200)));
    let pass = format!("{} large enough", figures::count(touched.len() as u64, "touched relation"));
    let mut ruling = case.counted(findings, pass);
    if ruling.outcome == Outcome::Fail {
        // The upgrade did nothing wrong: its durations are not proven.
        ruling.outcome = Outcome::Inconclusive;
    } else if missing.is_some() && unknown.len() == touched.len() {
        return Ruling::inconclusive(missing.unwrap_or_default());
    }
    ruling.unless_missing(missing)
}
