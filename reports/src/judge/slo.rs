//! Rules on what clients and dependent services felt: outages, slow and failed requests, error budget.

use crate::check::Outcome;
use crate::evidence::Evidence;
use crate::figures::{self, duration_us, milliseconds, percent, ratio_part, share_percent};
use crate::finding::Finding;
use crate::latency::objective_us;
use crate::phase::Phase;
use crate::traffic::{ErrorKind, Model, RouteSummary, TrafficEvidence};

use super::{Case, Ruling, played, unplayed};

/// The phases whose requests are judged; caches fill in warmup.
pub(super) const JUDGED: [Phase; 5] =
    [Phase::Baseline, Phase::Upgrade, Phase::Soak, Phase::Rollback, Phase::Recovery];
/// Fewer requests than this in a phase cannot carry a share.
const PHASE_REQUESTS_MIN: u64 = 100;
/// A single route is judged from this many planned requests on: below, one bad request is a fifth of a per cent.
const ROUTE_REQUESTS_MIN: u64 = 500;
/// Seconds of the period that an error budget is given for.
const BUDGET_PERIOD_S: f64 = 30.0 * 86_400.0;

pub(super) fn outage(case: &Case<'_>) -> Ruling {
    let Some(dependents) = &case.evidence.dependents else {
        return Ruling::inconclusive("no dependent service was watched");
    };
    if dependents.watched.is_empty() || dependents.probes == 0 {
        return Ruling::inconclusive("no dependent service answered a health probe");
    }
    let mut outages: Vec<_> = dependents
        .outages
        .iter()
        .filter(|outage| (Phase::Upgrade..=Phase::Recovery).contains(&outage.phase))
        .collect();
    outages.sort_by_key(|outage| (std::cmp::Reverse(outage.length_us()), outage.start_us));
    let findings: Vec<_> = outages
        .iter()
        .filter(|outage| milliseconds(outage.length_us()) > case.limit)
        .map(|outage| {
            let length = outage.length_us();
            let what = format!(
                "{} was out for {} ms in phase {} (limit {}): {}.",
                outage.service,
                figures::thousands(length / 1_000),
                outage.phase,
                case.limit_text(),
                figures::cut(&outage.reason, 160)
            );
            case.measured(outage.service.as_str(), None, milliseconds(length), what)
        })
        .collect();
    let watched = dependents.watched.join(", ");
    let pass = match outages.first() {
        None => format!("{watched} answered every health probe"),
        Some(worst) => format!(
            "{} of {watched}, the longest {} ({})",
            figures::count(outages.len() as u64, "short outage"),
            duration_us(worst.length_us()),
            worst.service
        ),
    };
    let observed = outages.first().map_or(0.0, |outage| milliseconds(outage.length_us()));
    let changed = [Phase::Upgrade, Phase::Soak, Phase::Rollback, Phase::Recovery];
    case.decided(observed, findings, pass).unless_missing(unplayed(case.evidence, &changed))
}

pub(super) fn latency(case: &Case<'_>) -> Ruling {
    let limits = &case.evidence.rehearsal.limits;
    shares(case, "slow", |summary| {
        let objective = duration_us(objective_us(limits, summary.phase));
        (summary.slow, summary.sent, format!("were slower than {objective}"))
    })
}

pub(super) fn errors(case: &Case<'_>) -> Ruling {
    shares(case, "failed", |summary| {
        let dropped = summary.errors.get(&ErrorKind::Dropped).copied().unwrap_or(0);
        let kinds: Vec<_> = summary
            .errors
            .iter()
            .filter(|(kind, number)| **number > 0 && **kind != ErrorKind::FeederDry)
            .map(|(kind, number)| format!("{} {kind}", figures::thousands(*number)))
            .collect();
        // A dropped request was never sent, and still a client would have got no answer.
        (summary.failed(), summary.sent + dropped, format!("failed ({})", kinds.join(", ")))
    })
}

/// Judges a share of the requests per phase, and per route where it was asked for often enough.
fn shares(case: &Case<'_>, word: &str, part: impl Fn(&RouteSummary) -> (u64, u64, String)) -> Ruling {
    let Some(traffic) = &case.evidence.traffic else {
        return Ruling::inconclusive("the traffic was not summed up");
    };
    let mut judged: Vec<(f64, &RouteSummary)> = summaries(traffic)
        .map(|summary| {
            let (bad, whole, _) = part(summary);
            (share_percent(bad, whole), summary)
        })
        .collect();
    judged.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.phase.cmp(&right.1.phase)));
    let findings: Vec<Finding> = judged
        .iter()
        .filter(|(share, _)| *share > case.limit)
        .map(|(share, summary)| {
            let (bad, whole, how) = part(summary);
            let what = format!(
                "{} of {} in phase {} on {} {how}: {} (limit {}).",
                figures::thousands(bad),
                figures::count(whole, "request"),
                summary.phase,
                routes_of(summary),
                percent(*share),
                case.limit_text()
            );
            case.measured(format!("{} {}", summary.phase, summary.route), None, *share, what)
        })
        .collect();
    let baseline_broken =
        judged.iter().any(|(share, summary)| *share > case.limit && summary.phase == Phase::Baseline);
    let pass = judged.first().map_or_else(String::new, |(share, summary)| {
        format!("at most {} {word}, in phase {} on {}", percent(*share), summary.phase, routes_of(summary))
    });
    let observed = judged.first().map_or(0.0, |(share, _)| *share);
    let mut ruling = case.decided(observed, findings, pass).unless_missing(too_few(case.evidence, traffic));
    if ruling.outcome == Outcome::Fail && baseline_broken {
        ruling.evidence = format!(
            "The baseline itself breaks this objective: the mirror does not carry the load even before the upgrade. {}",
            ruling.evidence
        );
    }
    ruling
}

/// Phase totals that can carry a share, and the routes that can on their own; open model only.
fn summaries(traffic: &TrafficEvidence) -> impl Iterator<Item = &RouteSummary> {
    let totals = traffic.phases.iter().filter(|summary| summary.sent >= PHASE_REQUESTS_MIN);
    let routes = traffic.routes.iter().filter(|summary| summary.planned >= ROUTE_REQUESTS_MIN);
    totals.chain(routes).filter(|summary| summary.model == Model::Arrivals && JUDGED.contains(&summary.phase))
}

/// Which phase keeps a share from being judged.
fn too_few(evidence: &Evidence, traffic: &TrafficEvidence) -> Option<String> {
    if let Some(missing) = unplayed(evidence, &JUDGED) {
        return Some(missing);
    }
    let thin: Vec<_> = JUDGED
        .into_iter()
        .map(|phase| (phase, total(traffic, phase).map_or(0, |summary| summary.sent)))
        .filter(|(_, sent)| *sent < PHASE_REQUESTS_MIN)
        .map(|(phase, sent)| format!("{sent} in {phase}"))
        .collect();
    (!thin.is_empty()).then(|| {
        format!(
            "fewer than {PHASE_REQUESTS_MIN} open-model requests were sent in a phase ({})",
            thin.join(", ")
        )
    })
}

fn total(traffic: &TrafficEvidence, phase: Phase) -> Option<&RouteSummary> {
    traffic.phases.iter().find(|summary| summary.phase == phase && summary.model == Model::Arrivals)
}

fn routes_of(summary: &RouteSummary) -> &str {
    if summary.route == "all" { "all routes" } else { &summary.route }
}

/// Share of a 30-day error budget that upgrade and rollback would spend at production's rate.
///
/// Source: Google, The Site Reliability Workbook, chapter 5; budget = (1 − objective) × requests of the period.
pub(super) fn budget(case: &Case<'_>) -> Ruling {
    let Some(traffic) = &case.evidence.traffic else {
        return Ruling::inconclusive("the traffic was not summed up");
    };
    let limits = &case.evidence.rehearsal.limits;
    let (mut bad, mut planned, mut seconds) = (0, 0, 0.0);
    for phase in [Phase::Upgrade, Phase::Rollback] {
        if let (Some(summary), Some((start_us, end_us))) =
            (total(traffic, phase), played(&case.evidence.phases, phase))
        {
            bad += summary.failed() + summary.slow;
            // What a dry feeder left unsent is no request of anybody.
            planned += summary.planned - (summary.errors_total() - summary.failed());
            seconds += ratio_part(end_us.saturating_sub(start_us)) / 1e6;
        }
    }
    if planned < PHASE_REQUESTS_MIN || seconds <= 0.0 {
        return Ruling::inconclusive(format!(
            "fewer than {PHASE_REQUESTS_MIN} open-model requests were planned in upgrade and rollback"
        ));
    }
    let allowed =
        (1.0 - limits.availability_percent / 100.0) * limits.production_rate_per_s * BUDGET_PERIOD_S;
    let scaled = ratio_part(bad) * limits.production_rate_per_s / (ratio_part(planned) / seconds);
    let missing = unplayed(case.evidence, &[Phase::Upgrade, Phase::Rollback]);
    if allowed < 1.0 {
        return Ruling::inconclusive(format!(
            "an objective of {} % at {} requests per second leaves no error budget to hold {} against",
            limits.availability_percent,
            limits.production_rate_per_s,
            figures::count(bad, "bad request")
        ));
    }
    let spent = scaled * 100.0 / allowed;
    let sentence = format!(
        "{} in upgrade and rollback would spend {} of the 30-day error budget at {} requests per second",
        figures::count(bad, "bad request"),
        percent(spent),
        limits.production_rate_per_s
    );
    let findings = if spent > case.limit {
        let what = format!("{sentence} (limit {}).", case.limit_text());
        vec![case.measured("error budget", None, spent, what)]
    } else {
        Vec::new()
    };
    case.decided(spent, findings, sentence).unless_missing(missing)
}
