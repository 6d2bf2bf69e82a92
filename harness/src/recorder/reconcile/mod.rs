//! Joins what the sources saw into the evidence on locks.
//!
//! A pure function: `Recorder::finish` gathers the material, `reports` judges the
//! result. Sources are joined by session, virtual transaction and the server's clock; every bound comes from a
//! source that proves it. Times inside are the server's; they are mapped to the rehearsal's clock at the end.

mod holdings;
mod idle;
mod order;
mod retries;
mod sessions;
mod statements;
mod timeline;
mod trust;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::{
    Bounds, LockEvidence, LockLeftover, LockMode, LockOutcome, LockRecord, LockSource, QueuePoint, Victim,
};
use fulldress_reports::phase::{Phase, PhaseSpan};

pub use waits::ClientWait;

use self::holdings::Draft;
use self::timeline::Timeline;
use super::clock::ServerClock;
use super::log::{LogEvent, LogKind};
use super::observation::{LockTarget, MigrationLock, PackageIdentity, SessionId};
use super::sampler::{SampleLog, Sighting};
use super::statement::{PackageFiles, mentions, normalise};

/// Longest statement in a record, characters.
const STATEMENT_CHARACTERS: usize = 400;
/// Longest statement of a victim or a reference, characters.
pub(super) const SHORT_STATEMENT_CHARACTERS: usize = 200;
/// Most points of a queue over time.
const QUEUE_POINTS_MAX: usize = 200;
/// Most victims listed in a record.
const VICTIMS_MAX: usize = 50;

/// A step of the package as it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSpan {
    /// Id from the manifest.
    pub id: String,
    /// Start, microseconds since the rehearsal's epoch.
    pub start_us: u64,
    /// End, microseconds since the rehearsal's epoch.
    pub end_us: u64,
}

/// How the recorder itself fared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SourceState {
    /// Event triggers are installed.
    pub triggers_installed: bool,
    /// The server's log was read to its end without an error.
    pub log_read: bool,
    /// Lines of the log that could not be understood.
    pub log_malformed: u64,
    /// What went wrong, one sentence each.
    pub problems: Vec<String>,
}

/// Everything that is reconciled.
#[derive(Debug, Clone, Copy)]
pub struct Material<'a> {
    /// The server's log.
    pub events: &'a [LogEvent],
    /// The samples.
    pub samples: &'a SampleLog,
    /// Table of each index that was there at the start, by object id.
    pub index_tables: &'a BTreeMap<u32, u32>,
    /// Relation between the clocks.
    pub clock: &'a ServerClock,
    /// Which sessions are the package's.
    pub identity: &'a PackageIdentity,
    /// What counts as the migration lock.
    pub migration_lock: &'a MigrationLock,
    /// Phases as played.
    pub phases: &'a [PhaseSpan],
    /// Steps as they ran.
    pub steps: &'a [StepSpan],
    /// The package's files, path and text.
    pub files: &'a BTreeMap<String, String>,
    /// Relations that existed before the upgrade, schema-qualified.
    pub preexisting: &'a BTreeSet<String>,
    /// What was found left behind.
    pub leftovers: &'a [LockLeftover],
    /// Phases after which that could not be read.
    pub leftovers_unread: &'a [Phase],
    /// End of recording, server microseconds since 1970.
    pub end_us: i64,
    /// How the sources fared.
    pub sources: &'a SourceState,
}

/// A client's wait and whether the package was its cause; for `locks.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RawWait {
    /// The wait, on the server's clock.
    #[serde(flatten)]
    pub wait: ClientWait,
    /// When it began, microseconds since the rehearsal's epoch.
    pub start_us: u64,
    /// When it ended, microseconds since the rehearsal's epoch.
    pub end_us: u64,
    /// Relation of the package's lock that it stood behind.
    pub behind: Option<String>,
    /// That lock among the evidence's records.
    #[serde(skip)]
    pub record: Option<usize>,
    /// The waiting statement as the report shows it.
    pub statement: String,
}

/// The evidence, and the raw waits under it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reconciled {
    /// For the report.
    pub evidence: LockEvidence,
    /// For `locks.jsonl`.
    pub waits: Vec<RawWait>,
}

/// Joins the sources.
#[must_use]
pub fn reconcile(material: &Material<'_>) -> Reconciled {
    let context = Context::new(material);
    let mut events: Vec<&LogEvent> = material.events.iter().collect();
    events.sort_by_key(|event| (event.session, event.line));
    let timelines = context.timelines(&events);
    let mut drafts = Vec::new();
    let statements_name = context.names_in_statements();
    for timeline in &timelines {
        let own = context.sightings(timeline.session);
        let mut found =
            holdings::drafts(timeline, &own, &statements_name, &material.samples.looks, material.end_us);
        found.extend(context.unseen_failures(timeline, &found));
        drafts.extend(found);
    }
    context.drop_indexes_of_locked_tables(&mut drafts);
    let waits = waits::client_waits(&events, &material.samples.sightings, material.identity, material.end_us);
    let behind = waits::attribute(&waits, &drafts, &context.names);
    let mut records = Vec::new();
    for (index, draft) in drafts.iter().enumerate() {
        let own =
            waits.iter().zip(&behind).filter(|(_, behind)| **behind == Some(index)).map(|(wait, _)| wait);
        let own: Vec<&ClientWait> = own.collect();
        records.extend(context.record(draft, &timelines, &own).map(|record| (index, record)));
    }
    records.sort_by_key(|(_, record)| (std::cmp::Reverse(record.hold.high_us), record.requested_us));
    let (of_draft, records): (Vec<usize>, Vec<LockRecord>) = records.into_iter().unzip();
    let trust = trust::trust(&context, &timelines, &drafts);
    let evidence = LockEvidence {
        records,
        sessions: timelines.iter().map(|timeline| sessions::session(&context, timeline, &drafts)).collect(),
        retries: retries::retries(&context, &timelines),
        leftovers: material.leftovers.to_vec(),
        leftovers_unread: material.leftovers_unread.to_vec(),
        other_waits: context.other_waits(&waits, &behind),
        excess: Vec::new(),
        order: Some(order::order(&context, &timelines, &drafts)),
        trust,
    };
    let waits = waits.into_iter().zip(behind).map(|(wait, behind)| RawWait {
        start_us: material.clock.rehearsal_us(wait.since_us),
        end_us: material.clock.rehearsal_us(wait.until_us),
        behind: behind.and_then(|index| context.names.get(&drafts[index].oid).cloned()),
        record: behind.and_then(|index| of_draft.iter().position(|draft| *draft == index)),
        statement: normalise(&wait.statement, SHORT_STATEMENT_CHARACTERS),
        wait,
    });
    Reconciled { waits: waits.collect(), evidence }
}

/// The material with its indexes.
pub(super) struct Context<'a> {
    material: &'a Material<'a>,
    files: PackageFiles,
    names: BTreeMap<u32, String>,
}

impl<'a> Context<'a> {
    fn new(material: &'a Material<'a>) -> Self {
        let mut names = material.samples.names.clone();
        for event in material.events {
            let LogKind::Note(note) = &event.what else { continue };
            let locked = note.locks.iter().filter_map(|lock| Some((lock.0, lock.1.clone()?)));
            let dropped = note.dropped.iter().map(|(oid, name, _)| (*oid, name.clone()));
            for (oid, name) in locked.chain(dropped) {
                // The first name known is the one that the clients knew, also after a rename.
                names.entry(oid).or_insert(name);
            }
        }
        Self { material, files: PackageFiles::new(material.files), names }
    }

    /// What a statement calls each relation that it locks: for an index it names the table.
    fn names_in_statements(&self) -> BTreeMap<u32, String> {
        let mut names = self.names.clone();
        for (index, table) in self.material.index_tables {
            if let (Some(table), Some(name)) = (self.names.get(table), names.get_mut(index)) {
                name.clone_from(table);
            }
        }
        names
    }

    fn timelines<'e>(&self, events: &[&'e LogEvent]) -> Vec<Timeline<'e>> {
        let identity = self.material.identity;
        let mut sessions: BTreeMap<SessionId, Vec<&'e LogEvent>> = BTreeMap::new();
        for event in events {
            if event.client {
                sessions.entry(event.session).or_default().push(event);
            }
        }
        sessions.retain(|_, lines| {
            lines.iter().any(|line| identity.owns(line.role.as_deref(), line.host.as_deref()))
        });
        for sighting in &self.material.samples.sessions {
            sessions.entry(sighting.session).or_default();
        }
        let build = |(session, lines)| Timeline::build(session, lines, &self.sightings(session));
        sessions.into_iter().map(build).collect()
    }

    fn sightings(&self, session: SessionId) -> Vec<&'a Sighting> {
        let all = self.material.samples.sightings.iter();
        all.filter(|sighting| sighting.package && sighting.session == session).collect()
    }

    /// Requests that failed faster than any source could see them wait: the statement's text must tell.
    fn unseen_failures(&self, timeline: &Timeline<'_>, found: &[Draft]) -> Vec<Draft> {
        let mut drafts = Vec::new();
        for (index, statement) in timeline.statements.iter().enumerate() {
            let outcome = match statement.failed.as_deref() {
                Some("55P03") => LockOutcome::TimedOut,
                Some("40P01") => LockOutcome::Deadlocked,
                _ => continue,
            };
            if found.iter().any(|draft| draft.statement == index && draft.outcome != LockOutcome::Granted) {
                continue;
            }
            let named = self.names.iter().find(|(_, name)| {
                self.material.preexisting.contains(*name) && mentions(&statement.text, name)
            });
            let (Some((oid, _)), Some(mode)) = (named, usual_mode(&statement.text)) else { continue };
            let end_us = statement.end.map_or(statement.start_us, |end| end.0).max(statement.start_us);
            drafts.push(Draft {
                session: timeline.session,
                vxid: statement.vxids.first().cloned().unwrap_or_default(),
                oid: *oid,
                mode,
                statement: index,
                part: 0,
                requested_us: statement.start_us,
                acquired: (end_us, end_us),
                released: (end_us, end_us),
                wait_us: end_us - statement.start_us,
                outcome,
                rewritten: false,
                sources: BTreeSet::from([LockSource::StatementLog]),
            });
        }
        drafts
    }

    /// An index whose table the same statement locks as strongly adds nothing that a client could meet.
    fn drop_indexes_of_locked_tables(&self, drafts: &mut Vec<Draft>) {
        let all = drafts.clone();
        drafts.retain(|draft| {
            let table = self.material.index_tables.get(&draft.oid);
            !table.is_some_and(|table| {
                all.iter().any(|other| {
                    (other.oid, other.session) == (*table, draft.session)
                        && other.statement <= draft.statement
                        && other.mode >= draft.mode
                        && other.released.1 >= draft.released.1
                })
            })
        });
    }

    fn record(&self, draft: &Draft, timelines: &[Timeline<'_>], waits: &[&ClientWait]) -> Option<LockRecord> {
        let relation = self.names.get(&draft.oid)?.clone();
        let system = ["pg_catalog.", "information_schema.", "pg_toast.", "pg_temp", "fulldress."];
        let weak = draft.mode < LockMode::RowExclusiveLock && waits.is_empty();
        if weak || system.iter().any(|prefix| relation.starts_with(prefix)) {
            return None;
        }
        let timeline = timelines.iter().find(|timeline| timeline.session == draft.session)?;
        let text = self.text(timeline, draft.statement, draft.part);
        let clock = self.material.clock;
        let requested_us = clock.rehearsal_us(draft.requested_us);
        let mut victims = self.victims(draft, waits);
        let queue_area_us = victims.iter().map(|victim| victim.blocked_us).sum();
        let queue = queue(&victims);
        let queue_depth_max = queue.iter().map(|point| point.depth).max().unwrap_or(0);
        let queue = thinned(queue);
        let victims_total = victims.len() as u64;
        victims.sort_by_key(|victim| std::cmp::Reverse(victim.blocked_us));
        victims.truncate(VICTIMS_MAX);
        let mut sources: Vec<LockSource> = draft.sources.iter().copied().collect();
        if !waits.is_empty() && !sources.contains(&LockSource::WaitLog) {
            sources.push(LockSource::WaitLog);
            sources.sort();
        }
        Some(LockRecord {
            phase: self.phase(requested_us),
            step: self.step(requested_us, &timeline.application),
            statement: normalise(&text, STATEMENT_CHARACTERS),
            place: self.files.find(&text),
            preexisting: self.material.preexisting.contains(&relation),
            relation,
            mode: draft.mode,
            pid: draft.session.pid,
            requested_us,
            released_us: clock.rehearsal_us(draft.released.1),
            wait_us: draft.wait_us.unsigned_abs(),
            hold: hold(draft),
            idle: idle::idle(self, timeline, draft),
            outcome: draft.outcome,
            rewritten: draft.rewritten,
            lock_timeout_ms: timeline.lock_timeout_ms(draft.acquired.1),
            sources,
            victims,
            victims_total,
            queue_depth_max,
            queue_area_us,
            queue,
            // What the traffic knows is added by whoever has both.
            routes: Vec::new(),
            drain_us: None,
        })
    }

    /// Whether the log has every statement of a session.
    fn is_fully_logged(&self, timeline: &Timeline<'_>) -> bool {
        self.material.sources.log_read && self.material.identity.roles.contains(&timeline.role)
    }

    fn text(&self, timeline: &Timeline<'_>, statement: usize, part: usize) -> String {
        let Some(statement) = timeline.statements.get(statement) else { return String::new() };
        let several = statement.parts.len() > 1;
        statement.parts.get(part).filter(|_| several).unwrap_or(&statement.text).clone()
    }

    fn victims(&self, draft: &Draft, waits: &[&ClientWait]) -> Vec<Victim> {
        let clock = self.material.clock;
        let mut sorted = waits.to_vec();
        sorted.sort_by_key(|wait| (wait.session, wait.since_us));
        let mut victims: Vec<Victim> = Vec::new();
        let mut last: Option<&ClientWait> = None;
        for wait in sorted {
            let blocked_us = u64::try_from(waits::overlap(wait, draft)).unwrap_or(0);
            let for_row = !matches!(wait.target, LockTarget::Relation(_));
            // A row is waited for twice in a row: for its queue, then for the transaction.
            let continued = last.is_some_and(|last| {
                for_row
                    && last.session == wait.session
                    && last.statement == wait.statement
                    && !matches!(last.target, LockTarget::Relation(_))
                    && wait.since_us - last.until_us <= 5_000
            });
            last = Some(wait);
            if let Some(victim) = victims.last_mut().filter(|_| continued) {
                victim.blocked_us += blocked_us;
                continue;
            }
            victims.push(Victim {
                pid: wait.session.pid,
                role: wait.role.clone(),
                application: wait.application.clone(),
                statement: normalise(&wait.statement, SHORT_STATEMENT_CHARACTERS),
                mode: wait.mode.filter(|_| !for_row),
                since_us: clock.rehearsal_us(wait.since_us),
                blocked_us,
                route: None,
            });
        }
        victims
    }

    fn phase(&self, at_us: u64) -> Phase {
        let begun = self.material.phases.iter().rfind(|span| span.start_us <= at_us);
        begun.or(self.material.phases.first()).map_or(Phase::Upgrade, |span| span.phase)
    }

    /// The step that ran then; where several overlap, the one that the session's label names.
    fn step(&self, at_us: u64, application: &str) -> Option<String> {
        let running =
            self.material.steps.iter().filter(|step| (step.start_us..=step.end_us).contains(&at_us));
        let running: Vec<&StepSpan> = running.collect();
        let labelled = running.iter().find(|step| application.contains(&step.id));
        labelled.or(running.last()).map(|step| step.id.clone())
    }

    fn other_waits(&self, waits: &[ClientWait], behind: &[Option<usize>]) -> u64 {
        let others = waits.iter().zip(behind).filter(|(wait, behind)| {
            let kind = matches!(
                wait.target,
                LockTarget::Relation(_) | LockTarget::Tuple(_) | LockTarget::Transaction(_)
            );
            let since_us = self.material.clock.rehearsal_us(wait.since_us);
            behind.is_none() && kind && self.phase(since_us).is_changing()
        });
        others.count() as u64
    }
}

fn hold(draft: &Draft) -> Bounds {
    if draft.outcome != LockOutcome::Granted {
        return Bounds { low_us: 0, high_us: 0 };
    }
    let low_us = u64::try_from(draft.released.0 - draft.acquired.1).unwrap_or(0);
    let high_us = u64::try_from(draft.released.1 - draft.acquired.0).unwrap_or(0);
    Bounds { low_us, high_us: high_us.max(low_us) }
}

/// The number of waiting clients over time, a point where it changes.
fn queue(victims: &[Victim]) -> Vec<QueuePoint> {
    let mut edges: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    for victim in victims {
        edges.entry(victim.since_us).or_default().0 += 1;
        edges.entry(victim.since_us + victim.blocked_us).or_default().1 += 1;
    }
    let mut depth = 0_u32;
    edges
        .into_iter()
        .map(|(at_us, (came, went))| {
            depth = (depth + came).saturating_sub(went);
            QueuePoint { at_us, depth }
        })
        .collect()
}

/// As many points as are kept, the deepest of those that fall together; the last one stays.
fn thinned(queue: Vec<QueuePoint>) -> Vec<QueuePoint> {
    let together = queue.len().div_ceil(QUEUE_POINTS_MAX - 1).max(1);
    let last = queue.last().copied();
    let deepest = |points: &[QueuePoint]| points.iter().copied().max_by_key(|point| point.depth);
    let mut kept: Vec<QueuePoint> = queue.chunks(together).filter_map(deepest).collect();
    if kept.last() != last.as_ref() {
        kept.extend(last);
    }
    kept
}

/// The mode that a kind of statement asks for first; only for requests that no source saw.
fn usual_mode(text: &str) -> Option<LockMode> {
    let words = super::statement::first_words(text, 1);
    match words.first().map(String::as_str) {
        Some("ALTER" | "DROP" | "TRUNCATE" | "CLUSTER") => Some(LockMode::AccessExclusiveLock),
        _ => certain_mode(text),
    }
}

/// The mode that a kind of statement takes on the relation that it names, where that does not depend on what it says.
fn certain_mode(text: &str) -> Option<LockMode> {
    let words = super::statement::first_words(text, 16);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["LOCK", ..] => {
            let named = words.iter().skip_while(|word| **word != "IN").skip(1);
            let named: Vec<&str> = named.take_while(|word| **word != "MODE").copied().collect();
            let mode = LockMode::ALL.into_iter().find(|mode| mode.sql() == named.join(" "));
            Some(mode.unwrap_or(LockMode::AccessExclusiveLock))
        }
        ["ANALYZE" | "VACUUM", ..] => Some(LockMode::ShareUpdateExclusiveLock),
        ["CREATE", "TRIGGER", ..] => Some(LockMode::ShareRowExclusiveLock),
        ["CREATE", "INDEX", "CONCURRENTLY", ..] => Some(LockMode::ShareUpdateExclusiveLock),
        ["CREATE", "INDEX" | "UNIQUE", ..] => Some(LockMode::ShareLock),
        ["UPDATE" | "DELETE" | "INSERT", ..] => Some(LockMode::RowExclusiveLock),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
