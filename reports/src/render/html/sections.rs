//! Everything below the first screen.

use maud::{Markup, html};

use super::faults::faults;
use super::invariants::invariants;
use super::ways::both_ways;
use crate::check::Outcome;
use crate::evidence::{Difference, Evidence, WriteFate};
use crate::figures::{count, cut, duration_us, thousands};
use crate::lock::{
    Bounds, GapTime, LockMode, LockOrder, LockRecord, OrderedLock, RecorderTrust, StatementRetries,
};
use crate::render::{markdown, quantile};
use crate::report::Report;
use crate::traffic::{Model, RouteSummary};

/// Rows of a table; the raw evidence in the bundle has all. Keeps the page below half a megabyte.
pub(super) const ROWS_MAX: usize = 200;
const FATES: [WriteFate; 6] = [
    WriteFate::Kept,
    WriteFate::Lost,
    WriteFate::Changed,
    WriteFate::Duplicated,
    WriteFate::Indeterminate,
    WriteFate::Unread,
];

pub(super) fn all(report: &Report) -> Markup {
    let evidence = &report.evidence;
    html! {
        (findings(report))
        (traffic(evidence))
        (locks(evidence))
        (ledger(evidence))
        (differences(evidence))
        (both_ways(evidence))
        (invariants(evidence))
        (faults(evidence))
        (steps(evidence))
        (reach(report))
        (trust(evidence))
        (checks(report))
    }
}

fn findings(report: &Report) -> Markup {
    html! {
        h2 { "Findings (" (report.findings.len()) ")" }
        @if report.findings.is_empty() { p { "Nothing was found." } }
        ol.findings {
            @for finding in report.findings.iter().take(ROWS_MAX) {
                @let waiver = report.waiver_of(finding);
                @let outcome = report.checks.iter().find(|check| check.id == finding.check).map(|check| check.outcome);
                li class=(if outcome == Some(Outcome::Fail) && waiver.is_none() { "fail" } else { "" }) {
                    p {
                        code { (finding.check) } " " strong { (finding.object) }
                        @if let Some(place) = &finding.place { " at " code { (place) } }
                    }
                    p { (super::prose(&finding.what)) }
                    p.remedy { (finding.remedy) }
                    @if let Some(waiver) = waiver {
                        p.waived { "Accepted by " (waiver.owner) " until " (waiver.expires) ": " (waiver.reason) }
                    }
                }
            }
        }
        (cut_short(report.findings.len()))
    }
}

pub(super) fn cut_short(rows: usize) -> Markup {
    html! { @if rows > ROWS_MAX { p.how { (rows - ROWS_MAX) " more stand in report.json." } } }
}

fn traffic(evidence: &Evidence) -> Markup {
    let Some(traffic) = &evidence.traffic else {
        return html! { h2 { "Phases and routes" } p { "The traffic was not summed up." } };
    };
    let mut rows: Vec<&RouteSummary> = traffic.phases.iter().chain(&traffic.routes).collect();
    // A phase's total stands above its routes.
    rows.sort_by_key(|row| (row.phase, row.route != "all", row.model));
    html! {
        h2 { "Phases and routes" }
        div.scroll { table {
            thead { tr {
                th { "phase" } th { "route" } th.n { "planned" } th.n { "sent" } th.n { "errors" } th.n { "slow" }
                th.n { "p50" } th.n { "p90" } th.n { "p99" } th.n { "p99.9" } th.n { "max" }
            } }
            tbody { @for row in rows.iter().take(ROWS_MAX) { (traffic_row(row)) } }
        } }
        (cut_short(rows.len()))
        p.how {
            "Response time of requests that ended without an error, merged from the intervals in latency.hlog. A \
             quantile is printed when at least ten samples lie beyond it. Slow: above the phase's objective. “all” \
             sums the open-model routes; closed-model routes decide nothing alone."
        }
    }
}

fn traffic_row(row: &RouteSummary) -> Markup {
    let kinds: Vec<_> =
        row.errors.iter().map(|(kind, number)| format!("{} {kind}", thousands(*number))).collect();
    let response = &row.response;
    html! {
        tr {
            td { (row.phase) }
            td.wrap { (row.route) @if row.model == Model::Users { " (users)" } }
            td.n { (thousands(row.planned)) }
            td.n { (thousands(row.sent)) }
            td.n title=(kinds.join(", ")) { (thousands(row.errors_total())) }
            td.n { (thousands(row.slow)) }
            @for value in [response.p50_us, response.p90_us, response.p99_us, response.p999_us] {
                td.n { (quantile(value, response)) }
            }
            td.n { (duration_us(response.max_us)) }
        }
    }
}

fn locks(evidence: &Evidence) -> Markup {
    let Some(locks) = &evidence.locks else {
        return html! { h2 { "Locks of the package" } p { "The lock recorder reported nothing." } };
    };
    html! {
        h2 { "Locks of the package" }
        @if locks.records.is_empty() { p { "No lock of the package was recorded." } } @else {
            div.scroll { table {
                thead { tr {
                    th { "statement" } th { "relation" } th { "mode" } th.n { "waited" } th.n { "held" }
                    th.n { "idle" } th.n { "clients" } th.n { "longest wait" } th.n { "queue" } th.n { "drained" } th { "routes that waited" }
                    th.n { "lock_timeout" }
                } }
                tbody { @for record in locks.records.iter().take(ROWS_MAX) { (lock_row(record)) } }
            } }
        }
        (cut_short(locks.records.len()))
        p.how {
            "A hold is an interval between what is proven and what is possible, from event triggers, the statement \
             log, the server's wait log and samples of pg_locks. Clients: waits behind the lock, those included that \
             queued behind its request. Idle: of the hold, while the session was in its transaction and its client had not \
             sent the next statement. " (count(locks.other_waits, "client wait")) " had nothing to do with the package. \
             Drained: from the end of the lock until response times were within 10 % of the baseline's p99. A statement's \
             route is learnt in the warmup; where that does not tell, a request of it began just before the wait and ended \
             just after it."
        }
        @if !locks.retries.is_empty() { (retries(&locks.retries)) }
        @if !locks.excess.is_empty() {
            h3 { "What lock waits explain of the slow requests" }
            div.scroll { table {
                thead { tr {
                    th { "route" } th.n { "slow requests" } th.n { "slower in all by" } th.n { "lock waits" } th.n { "other" }
                } }
                tbody { @for route in locks.excess.iter().take(ROWS_MAX) {
                    tr {
                        td.wrap { (route.route) }
                        td.n { (thousands(route.requests)) }
                        td.n { (duration_us(route.excess_us)) }
                        td.n { (explained(route.explained_us, route.excess_us)) }
                        td.n { (explained(route.excess_us - route.explained_us, route.excess_us)) }
                    }
                } }
            } }
            p.how {
                "Requests of upgrade and rollback that took 10 ms or more longer than their route's median in the baseline. \
                 Other: restarts, a pool without a free connection, the machine."
            }
        }
        @if let Some(order) = &locks.order { (lock_order(order)) }
        @if !locks.leftovers.is_empty() {
            ul { @for left in &locks.leftovers { li { (left.kind) " " (left.object) ", after " (left.phase) } } }
        }
    }
}

fn lock_order(order: &LockOrder) -> Markup {
    let lock = |lock: &OrderedLock| {
        html! {
            (lock.mode.map_or("a lock", LockMode::sql)) " on " (lock.relation)
            @if let Some(statement) = &lock.statement { br; code { (cut(statement, 200)) } }
        }
    };
    html! {
        h3 { "Order of locks" }
        @if !order.cycles.is_empty() {
            div.scroll { table {
                thead { tr { th { "deadlock" } th { "who" } th { "had" } th { "asked for" } th.n { "transactions" } } }
                tbody { @for cycle in order.cycles.iter().take(ROWS_MAX) { @for side in [&cycle.package, &cycle.other] {
                    tr {
                        td { (if cycle.fired { "fired" } else { "possible" }) }
                        td { (side.role) }
                        td.wrap { (lock(&side.first)) }
                        td.wrap { (lock(&side.second)) }
                        td.n { (thousands(cycle.transactions)) }
                    }
                } } }
            } }
        }
        p.how {
            "The package held one existing relation while it asked for another in " (count(order.package_pairs, "case")) ". Of "
            (count(order.client_transactions, "client transaction")) " a sample met one that held a relation before it took the \
             next; what no sample met may go another way."
        }
    }
}

fn lock_row(record: &LockRecord) -> Markup {
    let longest = record.victims.iter().map(|victim| victim.blocked_us).max();
    let timeout = match record.lock_timeout_ms {
        None => "unknown".to_owned(),
        Some(0) => "none".to_owned(),
        Some(limit_ms) => duration_us(limit_ms * 1_000),
    };
    html! {
        tr {
            td.wrap {
                code { (cut(&record.statement, 160)) }
                @if let Some(place) = &record.place { br; (place) " in " (record.phase) }
                @if record.rewritten { " · rewrote the table" }
            }
            td.wrap { (record.relation) @if !record.preexisting { " (new)" } }
            td { (record.mode.sql()) }
            td.n { (duration_us(record.wait_us)) }
            td.n { (interval(&record.hold)) }
            td.n { (record.idle.as_ref().map_or_else(|| "unknown".to_owned(), interval)) }
            td.n { (thousands(record.victims_total)) }
            td.n { (longest.map_or_else(|| "—".to_owned(), duration_us)) }
            td.n title=(queue_title(record)) { (record.queue_depth_max) }
            td.n { (drained(record)) }
            td.wrap {
                @for (index, waits) in record.routes.iter().enumerate() {
                    @if index > 0 { br; }
                    (waits.route.as_deref().unwrap_or("no route")) " " (thousands(waits.waits))
                }
            }
            td.n { (timeout) }
        }
    }
}

fn interval(bounds: &Bounds) -> String {
    if bounds.low_us == bounds.high_us {
        duration_us(bounds.high_us)
    } else {
        format!("{} – {}", duration_us(bounds.low_us), duration_us(bounds.high_us))
    }
}

fn retries(retries: &[StatementRetries]) -> Markup {
    html! {
        h3 { "Statements that were tried again" }
        div.scroll { table {
            thead { tr {
                th { "statement" } th.n { "lock_timeout" } th.n { "deadlock" } th.n { "cancelled" } th.n { "caught" }
                th.n { "tried again" } th { "at last" }
            } }
            tbody { @for one in retries.iter().take(ROWS_MAX) {
                tr {
                    td.wrap {
                        code { (cut(&one.statement, 160)) }
                        br;
                        @if let Some(place) = &one.place { (place) " in " }
                        (one.phase)
                    }
                    @for number in [one.timed_out, one.deadlocked, one.cancelled, one.caught, one.retries] {
                        td.n { (thousands(number)) }
                    }
                    td { (match one.succeeded { Some(true) => "succeeded", Some(false) => "failed", None => "unknown" }) }
                }
            } }
        } }
        (cut_short(retries.len()))
    }
}

/// `1.2 s (81 %)`.
#[expect(clippy::cast_precision_loss, reason = "microseconds of a rehearsal are far below 2^52")]
fn explained(part_us: u64, all_us: u64) -> String {
    format!("{} ({:.0} %)", duration_us(part_us), 100.0 * part_us as f64 / all_us.max(1) as f64)
}

fn drained(record: &LockRecord) -> String {
    match record.drain_us {
        _ if record.victims_total == 0 => "—".to_owned(),
        None => "never".to_owned(),
        Some(0) => "at once".to_owned(),
        Some(drain_us) => duration_us(drain_us),
    }
}

/// The queue's area, and how much more the clients waited than the lock was held.
fn queue_title(record: &LockRecord) -> String {
    let area = duration_us(record.queue_area_us);
    match record.amplification() {
        Some(times) => format!("{area} of waiting in all, {times:.1} for each second that the lock was held"),
        None => format!("{area} of waiting in all"),
    }
}

fn ledger(evidence: &Evidence) -> Markup {
    let Some(ledger) = &evidence.ledger else {
        return html! { h2 { "Ledger" } p { "The ledger was not read back." } };
    };
    html! {
        h2 { "Ledger" }
        div.scroll { table {
            thead { tr {
                th { "phase" }
                @for fate in FATES { th.n { (fate_name(fate)) } }
            } }
            tbody { @for phase in &ledger.phases {
                tr {
                    td { (phase.phase) }
                    @for fate in FATES { td.n { (thousands(phase.fates.get(&fate).copied().unwrap_or(0))) } }
                }
            } }
        } }
        @if !ledger.broken.is_empty() {
            p {
                "Examples: "
                @for (index, write) in ledger.broken.iter().take(10).enumerate() {
                    @if index > 0 { ", " }
                    code { (cut(&write.key, 60)) } " (" (fate_name(write.fate)) ", now: " (cut(&write.seen, 60)) ")"
                }
            }
        }
        p.how {
            "Every write that was acknowledged to a client, by the phase of its intended start, read back after \
             rollback through the running version with the database as second witness ("
            (count(ledger.witness_disagreements, "disagreement")) "). Indeterminate: its answer never came."
        }
    }
}

const fn fate_name(fate: WriteFate) -> &'static str {
    match fate {
        WriteFate::Kept => "kept",
        WriteFate::Lost => "lost",
        WriteFate::Changed => "changed",
        WriteFate::Duplicated => "duplicated",
        WriteFate::Indeterminate => "indeterminate",
        WriteFate::Unread => "unread",
    }
}

fn differences(evidence: &Evidence) -> Markup {
    let drift = evidence.schema.as_ref().map_or(&[][..], |schema| &schema.drift);
    let changed = evidence.schema.as_ref().map_or(&[][..], |schema| &schema.upgrade);
    let data = evidence.data.as_ref().map_or(&[][..], |data| &data.differences);
    let left: Vec<&Difference> =
        evidence.residue.iter().flat_map(|residue| residue.left.values().flatten()).collect();
    let reapplied = evidence.reapply.as_ref().map_or(&[][..], |reapply| &reapply.differences);
    html! {
        h2 { "What rollback left" }
        (difference_table("Schema that did not come back", &drift.iter().collect::<Vec<_>>(), evidence.schema.is_some()))
        (difference_table("Data that did not come back", &data.iter().collect::<Vec<_>>(), evidence.data.is_some()))
        (difference_table("Residue outside the database", &left, evidence.residue.is_some()))
        (difference_table("Schema after the second upgrade", &reapplied.iter().collect::<Vec<_>>(), evidence.reapply.is_some()))
        (difference_table("Schema that the upgrade changed", &changed.iter().collect::<Vec<_>>(), evidence.schema.is_some()))
        p.how {
            "Objects of the catalog, rows of the tables that the workload leaves alone, and the answers of the residue \
             probes, each taken before the upgrade and after rollback and compared object by object."
        }
    }
}

pub(super) fn difference_table(name: &str, rows: &[&Difference], compared: bool) -> Markup {
    html! {
        h3 { (name) }
        @if !compared { p { "Not compared." } }
        @else if rows.is_empty() { p { "No difference." } }
        @else {
            div.scroll { table {
                thead { tr { th { "kind" } th { "object" } th { "before" } th { "after" } } }
                tbody { @for row in rows.iter().take(ROWS_MAX) {
                    tr {
                        td.nowrap { (row.kind) }
                        td.wrap { (row.object) }
                        td.wrap { (side(row.before.as_deref())) }
                        td.wrap { (side(row.after.as_deref())) }
                    }
                } }
            } }
            (cut_short(rows.len()))
        }
    }
}

fn side(definition: Option<&str>) -> Markup {
    html! { @match definition { Some(text) => code { (cut(text, 300)) }, None => "—" } }
}

fn steps(evidence: &Evidence) -> Markup {
    html! {
        h2 { "Steps" }
        @if evidence.steps.is_empty() { p { "No step ran." } } @else {
            div.scroll { table {
                thead { tr { th { "step" } th { "phase" } th.n { "start" } th.n { "length" } th.n { "tries" } th { "end" } } }
                tbody { @for step in evidence.steps.iter().take(ROWS_MAX) {
                    tr {
                        td.wrap { (step.id) }
                        td { (step.phase) }
                        td.n { (duration_us(step.start_us)) }
                        td.n { (duration_us(step.end_us.saturating_sub(step.start_us))) }
                        td.n { (step.attempts) }
                        td.wrap { @match &step.error { Some(error) => span.fail { (cut(error, 300)) }, None => "ended well" } }
                    }
                } }
            } }
        }
        @if let Some(rollback) = &evidence.rollback {
            p {
                "Rollback by " (rollback.method)
                @if let Some(restore_us) = rollback.restore_us { ", restore " (duration_us(restore_us)) }
                @if let Some(bytes) = rollback.snapshot_bytes { " of " (thousands(bytes)) " bytes" }
                "."
            }
        }
        p.how { "Start counts from the rehearsal's first instant; the output of each step is in logs/." }
    }
}

fn reach(report: &Report) -> Markup {
    let settings = report.evidence.reach.iter().flat_map(|reach| &reach.settings);
    html! {
        h2 { "What this verdict may claim" }
        ul {
            @for line in markdown::reach_lines(report) { li { (line) } }
            @for (name, value) in settings { li { code { (name) " = " (value) } } }
        }
    }
}

fn trust(evidence: &Evidence) -> Markup {
    html! {
        h2 { "Driver and recorder" }
        div.scroll { table { tbody {
            @if let Some(driver) = evidence.traffic.as_ref().map(|traffic| &traffic.driver) {
                (fact("requests offered of planned", &format!("{} of {}", thousands(driver.sent), thousands(driver.planned))))
                (fact("dropped, backlog full", &thousands(driver.dropped)))
                (fact("send lag p99 / max", &format!("{} / {}", quantile(driver.send_lag.p99_us, &driver.send_lag), duration_us(driver.send_lag.max_us))))
                (fact("driver's CPU over wall time", &format!("{} / {}", duration_us(driver.cpu_us), duration_us(driver.wall_us))))
                (fact("samples above the histogram's range", &thousands(driver.overflows)))
                @if let Some(reason) = &driver.worker_lost { (fact("worker lost", reason)) }
            }
            @if let Some(trust) = evidence.locks.as_ref().map(|locks| &locks.trust) {
                (fact("event triggers / server log", &format!("{} / {}", works(trust.triggers), works(trust.server_log))))
                (fact("schema changes seen by two sources", &format!("{} of {}", thousands(trust.ddl_seen_twice), thousands(trust.ddl_statements))))
                (fact("lock samples taken of planned", &format!("{} of {}", thousands(trust.samples_taken), thousands(trust.samples_planned))))
                (fact("longest gap between samples", &duration_us(trust.sample_gap_max_us)))
                @if trust.sampled_us > 0 {
                    (fact("time in gaps between samples", &blind(trust)))
                }
                (fact("clock error / detection floor", &format!("{} / {}", duration_us(trust.clock_error_us), duration_us(trust.detection_floor_us))))
                @for disagreement in &trust.disagreements { (fact("disagreement", disagreement)) }
            }
        } } }
        p.how { "Send lag is actual minus intended start. A saturated driver makes the checks that rest on client timing unmeasured." }
    }
}

/// `0.31 % above 5.0 ms, 0.02 % above 10 ms of 25 s`.
fn blind(trust: &RecorderTrust) -> String {
    let share = |bound: &GapTime| {
        let share = trust.blind_percent(bound.above_us).unwrap_or(0.0);
        format!("{share:.2} % above {}", duration_us(bound.above_us))
    };
    let shares: Vec<String> = trust.gaps.iter().map(share).collect();
    format!("{} of {}", shares.join(", "), duration_us(trust.sampled_us))
}

fn fact(name: &str, value: &str) -> Markup {
    html! { tr { th { (name) } td.wrap { (value) } } }
}

const fn works(works: bool) -> &'static str {
    if works { "working" } else { "not working" }
}

fn checks(report: &Report) -> Markup {
    html! {
        h2 { "All checks" }
        div.scroll { table {
            thead { tr { th { "check" } th { "outcome" } th { "evidence" } } }
            tbody { @for check in &report.checks {
                tr {
                    td.id { (check.id) }
                    td class=(format!("outcome {}", check.outcome)) { (check.outcome) @if !check.required { " (advisory)" } }
                    td.wrap { (super::prose(&check.evidence)) }
                }
            } }
        } }
    }
}
