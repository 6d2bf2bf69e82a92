//! What the locks did to the traffic: which routes waited, how long the traffic took to recover, and what share of the slow
//! requests lock waits explain. The recorder knows sessions and statements, the traffic knows routes and requests; time is
//! what they have in common. `learnt` finds the routes of statements in the warmup; what it does not know, the waits tell.

mod learnt;

use std::collections::BTreeMap;

use fulldress_reports::lock::{RouteExcess, RouteWaits};
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_reports::traffic::{SeriesPoint, SlowRequest, TrafficEvidence};

use crate::recorder::Recording;
use crate::recorder::reconcile::RawWait;

/// How much earlier than its request a wait may seem to begin, or later to end: what a sample and the log's milliseconds
/// leave open, microseconds.
const TOLERANCE_US: u64 = 5_000;
/// Shorter waits are in no request that was kept, microseconds.
const WAIT_US_MIN: u64 = 5_000;
/// A request tells where a statement comes from when both its ends are this near to the wait's, microseconds.
const NEAR_US: u64 = 20_000;
/// Requests that are compared with one wait, those that began last before it.
const CANDIDATES_MAX: usize = 2_000;
/// Of what points to a route at all, this share must point to the same one.
const MAJORITY: f64 = 0.6;
/// What a request must take longer than usual to count, microseconds.
const EXCESS_US_MIN: u64 = 10_000;
/// Recovered: within this factor of the baseline's 99th percentile.
const RECOVERED: f64 = 1.1;
/// Points of the series of which the first and most must have recovered: a point's 99th percentile is its slowest request.
const RECOVERED_POINTS: usize = 5;

/// A kind of statement: its role and its text without literals.
type Kind<'a> = (&'a str, &'a str);

/// Adds to the recording what the traffic tells.
pub(super) fn lay(
    recording: &mut Recording,
    traffic: &TrafficEvidence,
    slow: &[SlowRequest],
    phases: &[PhaseSpan],
) {
    let learnt = learnt::learnt(&recording.heard, &of_warmup(slow, phases));
    let matched = matches(&recording.waits, slow, &learnt);
    let routes = routes(&recording.waits, slow, &matched, learnt);
    let route_of =
        |role: &str, statement: &str| routes.get(&(role, statement)).map(|route| (*route).to_owned());
    for record in &mut recording.evidence.records {
        for victim in &mut record.victims {
            victim.route = route_of(&victim.role, &victim.statement);
        }
        if record.victims_total > 0 {
            record.drain_us = drain_us(record.released_us, traffic);
        }
    }
    for (index, record) in recording.evidence.records.iter_mut().enumerate() {
        let own = recording.waits.iter().filter(|wait| wait.record == Some(index));
        let mut by_route: BTreeMap<Option<&str>, RouteWaits> = BTreeMap::new();
        for wait in own {
            let route = routes.get(&kind(wait)).copied();
            let entry = by_route.entry(route).or_insert_with(|| RouteWaits {
                route: route.map(str::to_owned),
                waits: 0,
                longest_us: 0,
            });
            entry.waits += 1;
            entry.longest_us = entry.longest_us.max(length_us(wait));
        }
        record.routes = by_route.into_values().collect();
        record.routes.sort_by_key(|route| std::cmp::Reverse((route.waits, route.longest_us)));
    }
    recording.evidence.excess = excess(&recording.waits, traffic, slow, phases, &matched, &routes);
}

fn kind(wait: &RawWait) -> Kind<'_> {
    (&wait.wait.role, &wait.statement)
}

const fn length_us(wait: &RawWait) -> u64 {
    wait.end_us.saturating_sub(wait.start_us)
}

/// The warmup's requests in the order of their start.
fn of_warmup<'a>(requests: &'a [SlowRequest], phases: &[PhaseSpan]) -> Vec<&'a SlowRequest> {
    let warmup = phases.iter().find(|span| span.phase == Phase::Warmup);
    let end_us = warmup.and_then(|span| span.end_us).unwrap_or(0);
    let mut of_warmup: Vec<&SlowRequest> = requests.iter().filter(|one| one.started_us < end_us).collect();
    of_warmup.sort_by_key(|request| request.started_us);
    of_warmup
}

/// For each wait the request that it fits into best, and how far their ends are apart. A request may hold several waits,
/// one after the other. Where the statement's route is known, only its requests count.
fn matches(
    waits: &[RawWait],
    slow: &[SlowRequest],
    learnt: &BTreeMap<Kind<'_>, &str>,
) -> Vec<Option<(usize, u64)>> {
    let mut by_start: Vec<usize> = (0..slow.len()).collect();
    by_start.sort_by_key(|request| slow[*request].started_us);
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    for (index, wait) in waits.iter().enumerate().filter(|(_, wait)| length_us(wait) >= WAIT_US_MIN) {
        let known = learnt.get(&kind(wait));
        let before =
            by_start.partition_point(|request| slow[*request].started_us <= wait.start_us + TOLERANCE_US);
        for request in by_start[..before].iter().rev().take(CANDIDATES_MAX) {
            let candidate = &slow[*request];
            if known.is_some_and(|route| *route != candidate.route) {
                continue;
            }
            if candidate.ended_us + TOLERANCE_US >= wait.end_us {
                let apart_us =
                    wait.start_us.abs_diff(candidate.started_us) + candidate.ended_us.abs_diff(wait.end_us);
                pairs.push((apart_us, index, *request));
            }
        }
    }
    pairs.sort_unstable();
    let mut matched: Vec<Option<(usize, u64)>> = vec![None; waits.len()];
    let mut held: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (apart_us, wait, request) in pairs {
        let in_request = held.entry(request).or_default();
        let overlaps = |other: &usize| {
            waits[*other].start_us < waits[wait].end_us && waits[wait].start_us < waits[*other].end_us
        };
        if matched[wait].is_none() && !in_request.iter().any(overlaps) {
            in_request.push(wait);
            matched[wait] = Some((request, apart_us));
        }
    }
    matched
}

/// The route of each kind of statement: the one that was learnt, or where none was, the one that most of its waits point to.
fn routes<'a>(
    waits: &'a [RawWait],
    slow: &'a [SlowRequest],
    matched: &[Option<(usize, u64)>],
    learnt: BTreeMap<Kind<'a>, &'a str>,
) -> BTreeMap<Kind<'a>, &'a str> {
    let mut votes: BTreeMap<Kind<'a>, BTreeMap<Option<&'a str>, u32>> = BTreeMap::new();
    let unknown = |wait: &RawWait| length_us(wait) >= WAIT_US_MIN && !learnt.contains_key(&kind(wait));
    for (wait, matched) in waits.iter().zip(matched).filter(|(wait, _)| unknown(wait)) {
        // Several statements of one request stand apart from its ends; a wait without a near request is a vote for none.
        let near = matched.filter(|(_, apart_us)| *apart_us <= NEAR_US + length_us(wait) / 5);
        let vote = near.map(|(request, _)| slow[request].route.as_str());
        *votes.entry(kind(wait)).or_default().entry(vote).or_default() += 1;
    }
    let majority = |(kind, votes): (Kind<'a>, BTreeMap<Option<&'a str>, u32>)| {
        let all: u32 = votes.values().sum();
        let (route, most) = votes.into_iter().max_by_key(|(_, count)| *count)?;
        (f64::from(most) >= MAJORITY * f64::from(all)).then_some((kind, route?))
    };
    let voted: Vec<(Kind<'a>, &str)> = votes.into_iter().filter_map(majority).collect();
    learnt.into_iter().chain(voted).collect()
}

/// Excess over the baseline's median, by route, and what of it the waits of the route's own statements are.
fn excess(
    waits: &[RawWait],
    traffic: &TrafficEvidence,
    slow: &[SlowRequest],
    phases: &[PhaseSpan],
    matched: &[Option<(usize, u64)>],
    routes: &BTreeMap<Kind<'_>, &str>,
) -> Vec<RouteExcess> {
    let changing = |request: &SlowRequest| {
        phases.iter().any(|span| {
            let end_us = span.end_us.unwrap_or(u64::MAX);
            span.phase.is_changing() && (span.start_us..end_us).contains(&request.started_us)
        })
    };
    let usual_us = |route: &str| {
        let in_baseline = |summary: &&fulldress_reports::traffic::RouteSummary| {
            summary.phase == Phase::Baseline && summary.route == route
        };
        traffic.routes.iter().find(in_baseline).and_then(|summary| summary.service.p50_us).unwrap_or(0)
    };
    let mut waited_us: BTreeMap<usize, u64> = BTreeMap::new();
    for (wait, matched) in waits.iter().zip(matched) {
        let Some((request, _)) = matched else { continue };
        if routes.get(&kind(wait)) == Some(&slow[*request].route.as_str()) {
            *waited_us.entry(*request).or_default() += length_us(wait);
        }
    }
    let mut by_route: BTreeMap<&str, RouteExcess> = BTreeMap::new();
    for (index, request) in slow.iter().enumerate().filter(|(_, request)| changing(request)) {
        let excess_us = request.length_us().saturating_sub(usual_us(&request.route));
        if excess_us < EXCESS_US_MIN {
            continue;
        }
        let entry = by_route.entry(&request.route).or_insert_with(|| RouteExcess {
            route: request.route.clone(),
            requests: 0,
            excess_us: 0,
            explained_us: 0,
        });
        entry.requests += 1;
        entry.excess_us += excess_us;
        entry.explained_us += waited_us.get(&index).copied().unwrap_or(0).min(excess_us);
    }
    let mut all: Vec<RouteExcess> = by_route.into_values().collect();
    all.sort_by_key(|route| std::cmp::Reverse(route.excess_us));
    all
}

/// From a lock's end until the response times are as in the baseline again.
fn drain_us(released_us: u64, traffic: &TrafficEvidence) -> Option<u64> {
    let baseline = traffic.phases.iter().find(|summary| summary.phase == Phase::Baseline)?;
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a rehearsal are far below 2^52")]
    let limit_us = baseline.response.p99_us? as f64 * RECOVERED;
    let mut after: Vec<&SeriesPoint> =
        traffic.series.iter().filter(|point| point.start_us + point.length_us > released_us).collect();
    after.sort_by_key(|point| point.start_us);
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a rehearsal are far below 2^52")]
    let is_usual = |point: &SeriesPoint| point.p99_us.is_some_and(|slowest_us| slowest_us as f64 <= limit_us);
    let has_recovered = |points: &[&SeriesPoint]| {
        is_usual(points[0]) && points.iter().filter(|point| is_usual(point)).count() > RECOVERED_POINTS / 2
    };
    let recovered = after.windows(RECOVERED_POINTS).find(|points| has_recovered(points))?;
    Some(recovered[0].start_us.saturating_sub(released_us))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use fulldress_reports::lock::{LockMode, RouteExcess};
    use fulldress_reports::phase::{Phase, PhaseSpan};
    use fulldress_reports::traffic::{SeriesPoint, SlowRequest, TrafficEvidence};

    use super::{drain_us, lay};
    use crate::recorder::Recording;
    use crate::recorder::observation::{LockTarget, SessionId};
    use crate::recorder::reconcile::{ClientWait, RawWait};

    fn wait(pid: u32, role: &str, statement: &str, start_us: u64, end_us: u64) -> RawWait {
        let wait = ClientWait {
            session: SessionId { pid, start_s: 0 },
            role: role.to_owned(),
            application: String::new(),
            statement: statement.to_owned(),
            target: LockTarget::Relation(1),
            mode: Some(LockMode::AccessShareLock),
            since_us: 0,
            until_us: 0,
            blockers: BTreeSet::new(),
            row_of: None,
        };
        RawWait { wait, start_us, end_us, behind: None, record: None, statement: statement.to_owned() }
    }

    fn request(route: &str, started_us: u64, ended_us: u64) -> SlowRequest {
        SlowRequest { route: route.to_owned(), started_us, ended_us }
    }

    #[test]
    fn a_statement_belongs_to_the_route_whose_requests_it_fits_into() {
        let waits = vec![
            wait(1, "app", "SELECT a", 1_002_000, 3_000_000),
            wait(2, "app", "SELECT b", 1_101_000, 3_001_000),
            wait(3, "app", "SELECT a", 1_203_000, 3_002_000),
            // Polls for itself; the requests that were blocked at the time are others' already.
            wait(4, "worker", "SELECT poll", 1_150_000, 3_000_000),
        ];
        let slow = vec![
            request("GET /a", 1_000_000, 3_004_000),
            request("GET /b", 1_100_000, 3_003_000),
            request("GET /a", 1_200_000, 3_006_000),
            // A restart, no lock.
            request("GET /b", 5_000_000, 5_400_000),
        ];
        let mut recording = Recording { waits, ..Recording::default() };
        let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: Some(9_000_000) }];
        lay(&mut recording, &TrafficEvidence::default(), &slow, &phases);
        let excess = |route: &str, requests, excess_us, explained_us| RouteExcess {
            route: route.to_owned(),
            requests,
            excess_us,
            explained_us,
        };
        assert_eq!(
            recording.evidence.excess,
            [
                excess("GET /a", 2, 2_004_000 + 1_806_000, 1_998_000 + 1_799_000),
                excess("GET /b", 2, 1_903_000 + 400_000, 1_900_000),
            ]
        );
    }

    #[test]
    fn drained_is_when_the_response_times_are_usual_again() {
        let mut traffic = TrafficEvidence::default();
        let mut summary = baseline();
        summary.response.p99_us = Some(10_000);
        traffic.phases.push(summary);
        let slow = [90_000, 80_000, 70_000, 9_000, 8_000, 9_000, 9_000, 30_000, 9_000];
        traffic.series = slow
            .iter()
            .zip(0..)
            .map(|(p99_us, index)| SeriesPoint {
                start_us: 1_000_000 + index * 100_000,
                length_us: 100_000,
                count: 15,
                errors: 0,
                p50_us: Some(1_000),
                p99_us: Some(*p99_us),
                max_us: Some(*p99_us),
            })
            .collect();
        assert_eq!(drain_us(1_050_000, &traffic), Some(250_000));
        assert_eq!(drain_us(1_650_000, &traffic), None, "too few points are left");
    }

    fn baseline() -> fulldress_reports::traffic::RouteSummary {
        fulldress_reports::traffic::RouteSummary {
            phase: Phase::Baseline,
            route: "all".to_owned(),
            model: fulldress_reports::traffic::Model::Arrivals,
            planned: 0,
            sent: 0,
            errors: std::collections::BTreeMap::new(),
            slow: 0,
            response: fulldress_reports::traffic::Quantiles::default(),
            service: fulldress_reports::traffic::Quantiles::default(),
        }
    }
}
