//! The one chart: latency, errors, phases, steps, locks and outages over the same time axis, as static SVG.
//!
//! Colours come from the page's style sheet, so that light, dark and print each have theirs; every mark carries
//! a `<title>`, which browsers show on hover without a script.

use maud::{Markup, html};

use crate::evidence::Evidence;
use crate::figures::{cut, duration_us, thousands};
use crate::latency::objective_us;
use crate::lock::{LockMode, LockOutcome, LockRecord};
use crate::traffic::SeriesPoint;

/// Size of the drawing, in units of its view box.
const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 10.0;
const PLOT_TOP: f64 = 24.0;
const PLOT_HEIGHT: f64 = 230.0;
const LANE_HEIGHT: f64 = 16.0;
/// Width of an average letter of the labels.
const LETTER: f64 = 5.9;
/// More points than the drawing has columns say nothing more.
const POINTS_MAX: usize = 1_000;
/// Locks drawn, longest first; the table has all.
const LOCKS_MAX: usize = 24;
/// Widest label, letters.
const LABEL_MAX: usize = 64;

/// One of a point's latencies.
type Value = fn(&SeriesPoint) -> Option<u64>;

/// Draws the evidence of a rehearsal.
pub(super) fn draw(evidence: &Evidence) -> Markup {
    let scale = Scale::of(evidence);
    let series = evidence.traffic.as_ref().map_or(&[][..], |traffic| traffic.series.as_slice());
    let points = thin(series);
    let bands_bottom = PLOT_TOP + PLOT_HEIGHT;
    let mut strips = Strips { top: bands_bottom + 12.0, scale: &scale, drawn: Vec::new() };
    strips.errors(&points);
    strips.bars("steps", steps(evidence));
    strips.bars("locks", locks(evidence));
    strips.bars("outages", outages(evidence));
    let (bottom, drawn) = (strips.top + 4.0, strips.drawn);
    let height = bottom + 30.0;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height:.0}")) role="img"
            aria-label="Response time, errors, phases, steps, locks and outages over time" {
            (bands(evidence, &scale, bottom))
            (grid(&scale))
            (latency(evidence, &scale, &points))
            @for strip in drawn { (strip) }
            (axis(&scale, bottom))
        }
    }
}

/// Maps time and latency to the drawing.
struct Scale {
    length_us: f64,
    low_us: f64,
    high_us: f64,
}

impl Scale {
    fn of(evidence: &Evidence) -> Self {
        let ends = evidence.phases.iter().filter_map(|span| span.end_us);
        let length_us = ends.max().unwrap_or(evidence.length_us).max(1_000_000);
        let series = evidence.traffic.iter().flat_map(|traffic| &traffic.series);
        let (mut low_us, mut high_us) = (u64::MAX, 0);
        for point in series {
            low_us = low_us.min(point.p50_us.unwrap_or(u64::MAX));
            high_us = high_us.max(point.max_us.unwrap_or(0));
        }
        let limits = &evidence.rehearsal.limits;
        high_us = high_us.max(limits.latency_ms.max(limits.latency_changing_ms).saturating_mul(1_000));
        let low = decade_below(if low_us == u64::MAX { 1_000 } else { low_us.max(1) });
        Self { length_us: length_us as f64, low_us: low, high_us: (high_us as f64 * 1.3).max(low * 100.0) }
    }

    fn x(&self, at_us: u64) -> f64 {
        LEFT + (at_us as f64 / self.length_us).min(1.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, us: u64) -> f64 {
        let part = ((us as f64).max(self.low_us) / self.low_us).ln() / (self.high_us / self.low_us).ln();
        PLOT_TOP + PLOT_HEIGHT * (1.0 - part.min(1.0))
    }
}

/// The power of ten at or below a value.
fn decade_below(us: u64) -> f64 {
    10_f64.powi(us.ilog10().try_into().unwrap_or(0))
}

/// At most [`POINTS_MAX`] points; a joined point has the worst of its parts, so that no stall disappears.
fn thin(series: &[SeriesPoint]) -> Vec<SeriesPoint> {
    let size = series.len().div_ceil(POINTS_MAX).max(1);
    series
        .chunks(size)
        .filter_map(|chunk| {
            let first = chunk.first()?;
            let worst = |of: Value| chunk.iter().filter_map(of).max();
            Some(SeriesPoint {
                start_us: first.start_us,
                length_us: chunk.iter().map(|point| point.length_us).sum(),
                count: chunk.iter().map(|point| point.count).sum(),
                errors: chunk.iter().map(|point| point.errors).sum(),
                p50_us: worst(|point| point.p50_us),
                p99_us: worst(|point| point.p99_us),
                max_us: worst(|point| point.max_us),
            })
        })
        .collect()
}

/// Phases as bands behind everything, with their names on top.
fn bands(evidence: &Evidence, scale: &Scale, bottom: f64) -> Markup {
    html! {
        @for span in &evidence.phases {
            @let left = scale.x(span.start_us);
            @let right = scale.x(span.end_us.unwrap_or(evidence.length_us));
            @let class = if span.phase.is_changing() { "band changing" } else { "band" };
            @let name = cut(span.phase.name(), ((right - left) / LETTER).max(1.0) as usize);
            rect class=(class) x=(px(left)) y="0" width=(px((right - left).max(0.0))) height=(px(bottom)) {
                title { (span.phase.name()) }
            }
            line class="edge" x1=(px(left)) x2=(px(left)) y1="0" y2=(px(bottom)) {}
            text class="phase" x=(px(f64::midpoint(left, right))) y="15" text-anchor="middle" { (name) }
        }
    }
}

/// One line a decade, with its value.
fn grid(scale: &Scale) -> Markup {
    let mut decades = Vec::new();
    let mut value = scale.low_us;
    while value < scale.high_us {
        decades.push(value as u64);
        value *= 10.0;
    }
    html! {
        @for us in decades {
            @let y = scale.y(us);
            line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(y)) y2=(px(y)) {}
            text x=(px(LEFT - 6.0)) y=(px(y + 4.0)) text-anchor="end" { (round_duration(us)) }
        }
    }
}

/// A decade's label: `10 ms` and not `10.0 ms`.
fn round_duration(us: u64) -> String {
    duration_us(us).replace(".0 ", " ")
}

fn latency(evidence: &Evidence, scale: &Scale, points: &[SeriesPoint]) -> Markup {
    let limits = &evidence.rehearsal.limits;
    let lines: [(&str, Value); 3] =
        [("max", |point| point.max_us), ("p99", |point| point.p99_us), ("p50", |point| point.p50_us)];
    html! {
        @for span in &evidence.phases {
            @let objective = objective_us(limits, span.phase);
            @let y = px(scale.y(objective));
            line class="limit" x1=(px(scale.x(span.start_us))) y1=(y) y2=(y)
                x2=(px(scale.x(span.end_us.unwrap_or(evidence.length_us)))) {
                title { "objective in " (span.phase) ": " (duration_us(objective)) }
            }
        }
        @for (class, value) in lines {
            @for part in runs(scale, points, value) { polyline class=(class) points=(part) {} }
        }
        @if points.is_empty() {
            text x=(px(WIDTH / 2.0)) y=(px(PLOT_TOP + PLOT_HEIGHT / 2.0)) text-anchor="middle" {
                "no latency was recorded"
            }
        }
    }
}

/// Lines through the points that have a value: where nobody was served there is a gap, not a line across it.
fn runs(scale: &Scale, points: &[SeriesPoint], value: Value) -> Vec<String> {
    let mut runs = vec![String::new()];
    for point in points {
        let middle_us = point.start_us + point.length_us / 2;
        match (value(point), runs.last_mut()) {
            (Some(us), Some(run)) => {
                if !run.is_empty() {
                    run.push(' ');
                }
                run.push_str(&format!("{},{}", px(scale.x(middle_us)), px(scale.y(us))));
            }
            (None, Some(run)) if !run.is_empty() => runs.push(String::new()),
            _ => {}
        }
    }
    runs.retain(|run| !run.is_empty());
    runs
}

/// A horizontal bar with its label.
struct Bar {
    class: &'static str,
    /// Begin of a thin lead-in: a lock that is waited for.
    lead_us: Option<u64>,
    start_us: u64,
    end_us: u64,
    label: String,
    title: String,
}

fn steps(evidence: &Evidence) -> Vec<Bar> {
    let bar = |step: &crate::evidence::StepRun| {
        let length = duration_us(step.end_us.saturating_sub(step.start_us));
        let failed = step.error.is_some();
        Bar {
            class: if failed { "bar bad" } else { "bar step" },
            lead_us: None,
            start_us: step.start_us,
            end_us: step.end_us,
            label: if failed { format!("{} failed", step.id) } else { step.id.clone() },
            title: format!("{} in {}: {length}", step.id, step.phase),
        }
    };
    evidence.steps.iter().map(bar).collect()
}

fn locks(evidence: &Evidence) -> Vec<Bar> {
    let Some(locks) = &evidence.locks else { return Vec::new() };
    let mut records: Vec<&LockRecord> =
        locks.records.iter().filter(|record| record.preexisting && record.mode.blocks_clients()).collect();
    records.sort_by_key(|record| (std::cmp::Reverse(record.hold.high_us), record.requested_us));
    records.truncate(LOCKS_MAX);
    records.sort_by_key(|record| record.requested_us);
    let bar = |record: &LockRecord| {
        let held = duration_us(record.hold.high_us);
        let waited = duration_us(record.wait_us);
        let granted = record.outcome == LockOutcome::Granted;
        let (mode, relation) = (record.mode.sql(), &record.relation);
        Bar {
            class: if record.mode == LockMode::AccessExclusiveLock {
                "bar exclusive"
            } else {
                "bar blocking"
            },
            lead_us: Some(record.requested_us),
            start_us: record.released_us.saturating_sub(record.hold.high_us).max(record.requested_us),
            end_us: record.released_us,
            label: if granted {
                format!("{mode} {relation} {held}")
            } else {
                format!("{mode} {relation} given up")
            },
            title: if granted {
                format!("{mode} on {relation} for {held}: {}", cut(&record.statement, 200))
            } else {
                format!("{mode} on {relation}, given up after {waited}: {}", cut(&record.statement, 200))
            },
        }
    };
    records.into_iter().map(bar).collect()
}

fn outages(evidence: &Evidence) -> Vec<Bar> {
    let outages = evidence.dependents.iter().flat_map(|dependents| &dependents.outages);
    outages
        .map(|outage| Bar {
            class: "bar bad",
            lead_us: None,
            start_us: outage.start_us,
            end_us: outage.end_us,
            label: format!("{} {}", outage.service, duration_us(outage.length_us())),
            title: format!("{} was out: {}", outage.service, cut(&outage.reason, 200)),
        })
        .collect()
}

/// Strips below the plot, one under the other.
struct Strips<'scale> {
    top: f64,
    scale: &'scale Scale,
    drawn: Vec<Markup>,
}

impl Strips<'_> {
    fn errors(&mut self, points: &[SeriesPoint]) {
        let worst = points.iter().map(|point| point.errors).max().unwrap_or(0);
        let (top, height) = (self.top, 22.0);
        self.drawn.push(html! {
            (name("errors", top + height - 6.0))
            line class="grid" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(top + height)) y2=(px(top + height)) {}
            @for point in points.iter().filter(|point| point.errors > 0) {
                // At least three units high: a single error must be seen.
                @let tall = 3.0 + (height - 3.0) * point.errors as f64 / worst.max(1) as f64;
                @let wide = self.scale.x(point.start_us + point.length_us) - self.scale.x(point.start_us);
                rect class="error" x=(px(self.scale.x(point.start_us))) y=(px(top + height - tall))
                    width=(px(wide.max(1.0))) height=(px(tall)) {
                    title { (thousands(point.errors)) " of " (thousands(point.count)) " failed" }
                }
            }
        });
        self.top += height + 8.0;
    }

    /// Lays bars into as few lanes as their labels allow.
    fn bars(&mut self, label: &'static str, bars: Vec<Bar>) {
        if bars.is_empty() {
            return;
        }
        let mut lanes: Vec<f64> = Vec::new();
        let mut marks = Vec::new();
        for bar in &bars {
            let (left, right) = (self.scale.x(bar.lead_us.unwrap_or(bar.start_us)), self.scale.x(bar.end_us));
            let text = cut(&bar.label, LABEL_MAX);
            let width = text.chars().count() as f64 * LETTER + 6.0;
            let after = right.max(left + 2.0) + 4.0;
            // A label without room on the right stands on the left of its bar.
            let flipped = after + width > WIDTH;
            let (from, to) = if flipped { (left - width - 4.0, right) } else { (left, after + width) };
            let lane = lanes.iter().position(|end| *end <= from).unwrap_or(lanes.len());
            if lane == lanes.len() {
                lanes.push(0.0);
            }
            lanes[lane] = to;
            let top = self.top + lane as f64 * LANE_HEIGHT;
            marks.push(mark(bar, self.scale, top, &text, if flipped { None } else { Some(after) }));
        }
        self.drawn.push(html! {
            (name(label, self.top + 11.0))
            @for mark in marks { (mark) }
        });
        self.top += lanes.len() as f64 * LANE_HEIGHT + 6.0;
    }
}

fn mark(bar: &Bar, scale: &Scale, top: f64, text: &str, after: Option<f64>) -> Markup {
    let (left, right) = (scale.x(bar.start_us), scale.x(bar.end_us));
    let lead = bar.lead_us.map_or(left, |lead_us| scale.x(lead_us));
    let (x, anchor) = after.map_or((lead - 4.0, "end"), |after| (after, "start"));
    html! {
        @if lead < left {
            line class="lead" x1=(px(lead)) x2=(px(left)) y1=(px(top + 7.0)) y2=(px(top + 7.0)) {}
        }
        rect class=(bar.class) x=(px(left)) y=(px(top + 2.0)) width=(px((right - left).max(2.0))) height="10" {
            title { (bar.title) }
        }
        text class="label" x=(px(x)) y=(px(top + 11.0)) text-anchor=(anchor) { (text) }
    }
}

fn name(text: &str, y: f64) -> Markup {
    html! { text x=(px(LEFT - 6.0)) y=(px(y)) text-anchor="end" { (text) } }
}

/// Seconds since the rehearsal's epoch, at most a dozen ticks.
fn axis(scale: &Scale, bottom: f64) -> Markup {
    let length_s = (scale.length_us / 1e6) as u64;
    let step_s = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1_800, 3_600]
        .into_iter()
        .find(|step_s| length_s / step_s <= 12)
        .unwrap_or(7_200);
    let ticks = (0..=length_s / step_s).map(|index| index * step_s);
    html! {
        line class="edge" x1=(px(LEFT)) x2=(px(WIDTH - RIGHT)) y1=(px(bottom)) y2=(px(bottom)) {}
        @for second in ticks {
            @let x = scale.x(second * 1_000_000);
            @let anchor = if x > WIDTH - 30.0 { "end" } else { "middle" };
            line class="edge" x1=(px(x)) x2=(px(x)) y1=(px(bottom)) y2=(px(bottom + 4.0)) {}
            text x=(px(x)) y=(px(bottom + 17.0)) text-anchor=(anchor) { (second) " s" }
        }
    }
}

/// A coordinate with one decimal: more is invisible and makes the file large.
fn px(coordinate: f64) -> String {
    format!("{coordinate:.1}")
}
