//! How far the sources agree, and what they missed.

use std::collections::BTreeSet;

use fulldress_reports::lock::{GapTime, LockMode, LockSource, RecorderTrust};

use super::holdings::Draft;
use super::timeline::{Change, Timeline};
use super::{Context, Material, SHORT_STATEMENT_CHARACTERS};
use crate::recorder::log::LogKind;
use crate::recorder::sampler::{GAP_US, SLOW_US};
use crate::recorder::statement::{SchemaChange, normalise, schema_change};

/// Most disagreements listed.
const DISAGREEMENTS_MAX: usize = 20;

/// Bounds by which the report tells the gaps between samples, microseconds.
const GAPS_US: [u64; 6] = [GAP_US, 10_000, 20_000, 50_000, 100_000, 500_000];

/// Largest share of the time in gaps longer than the detection floor, per cent.
const BLIND_PERCENT_MAX: f64 = 1.0;

/// Judges the sources against each other.
pub(super) fn trust(context: &Context<'_>, timelines: &[Timeline<'_>], drafts: &[Draft]) -> RecorderTrust {
    let state = context.material.sources;
    let mut trust = RecorderTrust { server_log: state.log_read, ..RecorderTrust::default() };
    sampling(&mut trust, context.material);
    let mut disagreements = state.problems.clone();
    let lost = context.material.events.iter().filter_map(|event| match &event.what {
        LogKind::NoteLost(reason) => Some(reason),
        _ => None,
    });
    let lost: Vec<&String> = lost.collect();
    disagreements.extend(lost.iter().map(|reason| format!("an event trigger's note was lost: {reason}")));
    if state.log_malformed > 0 {
        disagreements.push(format!("{} lines of the server's log could not be read", state.log_malformed));
    }
    if context.material.samples.dropped > 0 {
        disagreements.push(format!(
            "{} sightings of the sampler were beyond its limit",
            context.material.samples.dropped
        ));
    }
    let mut fired = false;
    let mut missed = false;
    for timeline in timelines {
        for change in &timeline.changes {
            trust.ddl_statements += 1;
            fired |= change.start.is_some();
            if sources(timeline, change, drafts).len() >= 2 {
                trust.ddl_seen_twice += 1;
            }
            if let Some(sentence) = disagreement(context, timeline, change) {
                missed |= change.start.is_none();
                disagreements.push(sentence);
            }
        }
        disagreements.extend(held_too_long(context, timeline, drafts));
    }
    trust.triggers = state.triggers_installed && lost.is_empty() && (fired || !missed);
    disagreements.truncate(DISAGREEMENTS_MAX);
    trust.disagreements = disagreements;
    trust
}

/// The figures that do not depend on what the package did.
fn sampling(trust: &mut RecorderTrust, material: &Material<'_>) {
    let gaps = &material.samples.gaps;
    trust.samples_planned = material.samples.planned;
    trust.samples_taken = material.samples.taken;
    trust.sample_gap_max_us = gaps.longest_us;
    trust.clock_error_us = material.clock.error_us();
    trust.sampled_us = gaps.watched_us;
    trust.gaps = GAPS_US
        .map(|above_us| {
            let (count, time_us) = gaps.above(above_us);
            GapTime { above_us, gaps: count, time_us }
        })
        .to_vec();
    let known =
        |above_us: &u64| trust.blind_percent(*above_us).is_some_and(|share| share < BLIND_PERCENT_MAX);
    let slowest_us = gaps.longest_us.max(if gaps.watched_us == 0 { SLOW_US } else { GAP_US });
    trust.detection_floor_us =
        GAPS_US.into_iter().find(known).map_or(slowest_us, |floor| floor.min(slowest_us));
}

fn sources(timeline: &Timeline<'_>, change: &Change<'_>, drafts: &[Draft]) -> BTreeSet<LockSource> {
    let mut sources = BTreeSet::new();
    if change.start.is_some() {
        sources.insert(LockSource::EventTrigger);
    }
    if timeline.statements[change.statement].logged {
        sources.insert(LockSource::StatementLog);
    }
    let own = drafts.iter().filter(|draft| {
        draft.session == timeline.session
            && (draft.statement, draft.part) == (change.statement, change.part)
            && draft.mode >= LockMode::ShareUpdateExclusiveLock
    });
    let sampled = own.flat_map(|draft| &draft.sources);
    sources.extend(sampled.filter(|source| matches!(source, LockSource::Sampler | LockSource::WaitLog)));
    sources
}

fn disagreement(context: &Context<'_>, timeline: &Timeline<'_>, change: &Change<'_>) -> Option<String> {
    let statement = &timeline.statements[change.statement];
    let text = context.text(timeline, change.statement, change.part);
    let shown = || normalise(&text, SHORT_STATEMENT_CHARACTERS);
    let pid = timeline.session.pid;
    if change.start.is_none() {
        let expected = context.material.sources.triggers_installed
            && context.material.sources.log_read
            && statement.failed.is_none()
            && schema_change(&text) == Some(SchemaChange::Triggering);
        return expected.then(|| format!("session {pid}: no event trigger fired for: {}", shown()));
    }
    let missing = context.is_fully_logged(timeline) && !statement.logged;
    missing.then(|| format!("session {pid}: an event trigger fired and the statement log lacks: {}", shown()))
}

/// A lock that the sampler still saw after the log says that its transaction was over.
fn held_too_long(context: &Context<'_>, timeline: &Timeline<'_>, drafts: &[Draft]) -> Vec<String> {
    let own = drafts.iter().filter(|draft| draft.session == timeline.session);
    let late =
        own.filter(|draft| draft.released.0 == draft.released.1 && draft.acquired.1 > draft.released.1);
    late.map(|draft| {
        let name = context.names.get(&draft.oid).map_or("?", String::as_str);
        format!(
            "session {}: {} on {name} was seen after the log says that its transaction ended",
            timeline.session.pid,
            draft.mode.sql()
        )
    })
    .collect()
}
