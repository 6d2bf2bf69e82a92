//! What the recorder measured: locks, waits, sessions, and how far it can be trusted.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::finding::Place;
use crate::phase::Phase;

/// PostgreSQL's table-level lock modes, weakest first.
/// Source of the conflict table: PostgreSQL documentation, "Explicit Locking", table 13.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LockMode {
    /// SELECT.
    AccessShareLock,
    /// SELECT FOR UPDATE and its kin.
    RowShareLock,
    /// INSERT, UPDATE, DELETE, MERGE.
    RowExclusiveLock,
    /// VACUUM, ANALYZE, CREATE INDEX CONCURRENTLY, VALIDATE.
    ShareUpdateExclusiveLock,
    /// CREATE INDEX.
    ShareLock,
    /// CREATE TRIGGER, ADD FOREIGN KEY.
    ShareRowExclusiveLock,
    /// REFRESH MATERIALIZED VIEW CONCURRENTLY.
    ExclusiveLock,
    /// ALTER TABLE, DROP, TRUNCATE, REINDEX.
    AccessExclusiveLock,
}

impl LockMode {
    /// All modes, weakest first.
    pub const ALL: [Self; 8] = [
        Self::AccessShareLock,
        Self::RowShareLock,
        Self::RowExclusiveLock,
        Self::ShareUpdateExclusiveLock,
        Self::ShareLock,
        Self::ShareRowExclusiveLock,
        Self::ExclusiveLock,
        Self::AccessExclusiveLock,
    ];

    /// The mode that `pg_locks.mode` or the server's log names.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// The name in `pg_locks.mode`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AccessShareLock => "AccessShareLock",
            Self::RowShareLock => "RowShareLock",
            Self::RowExclusiveLock => "RowExclusiveLock",
            Self::ShareUpdateExclusiveLock => "ShareUpdateExclusiveLock",
            Self::ShareLock => "ShareLock",
            Self::ShareRowExclusiveLock => "ShareRowExclusiveLock",
            Self::ExclusiveLock => "ExclusiveLock",
            Self::AccessExclusiveLock => "AccessExclusiveLock",
        }
    }

    /// The name in SQL, as a person reads it: `ACCESS EXCLUSIVE`.
    #[must_use]
    pub const fn sql(self) -> &'static str {
        match self {
            Self::AccessShareLock => "ACCESS SHARE",
            Self::RowShareLock => "ROW SHARE",
            Self::RowExclusiveLock => "ROW EXCLUSIVE",
            Self::ShareUpdateExclusiveLock => "SHARE UPDATE EXCLUSIVE",
            Self::ShareLock => "SHARE",
            Self::ShareRowExclusiveLock => "SHARE ROW EXCLUSIVE",
            Self::ExclusiveLock => "EXCLUSIVE",
            Self::AccessExclusiveLock => "ACCESS EXCLUSIVE",
        }
    }

    /// Whether two sessions cannot hold these modes on one relation at the same time.
    #[must_use]
    pub fn conflicts_with(self, other: Self) -> bool {
        use LockMode::{
            AccessExclusiveLock, AccessShareLock, ExclusiveLock, RowExclusiveLock, RowShareLock, ShareLock,
            ShareRowExclusiveLock, ShareUpdateExclusiveLock,
        };
        let (weak, strong) = if self <= other { (self, other) } else { (other, self) };
        match strong {
            AccessShareLock | RowShareLock | RowExclusiveLock => false,
            ShareUpdateExclusiveLock => weak == ShareUpdateExclusiveLock,
            ShareLock => matches!(weak, RowExclusiveLock | ShareUpdateExclusiveLock),
            ShareRowExclusiveLock => weak >= RowExclusiveLock,
            ExclusiveLock => weak >= RowShareLock,
            AccessExclusiveLock => true,
        }
    }

    /// Whether an application's reads or writes have to wait behind this mode.
    #[must_use]
    pub fn blocks_clients(self) -> bool {
        self.conflicts_with(Self::RowExclusiveLock)
    }
}

/// Where a fact about a lock comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LockSource {
    /// An event trigger logged the session's `pg_locks`.
    EventTrigger,
    /// The sampler saw it in `pg_locks`.
    Sampler,
    /// `log_lock_waits` reported it.
    WaitLog,
    /// The package role's statement log bounds it.
    StatementLog,
}

/// A measured duration as an interval, in microseconds: the truth lies between `low` and `high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Bounds {
    /// Proven at least.
    pub low_us: u64,
    /// Possible at most.
    pub high_us: u64,
}

/// How a lock request of the package ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LockOutcome {
    /// It was granted.
    Granted,
    /// `lock_timeout` ended it (SQLSTATE 55P03).
    TimedOut,
    /// A deadlock ended it (40P01).
    Deadlocked,
    /// It was cancelled (57014) or its session ended.
    Cancelled,
}

/// A session of the application that waited behind the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Victim {
    /// Backend process id.
    pub pid: u32,
    /// Login role.
    pub role: String,
    /// `application_name`, which any client may set: a label, not an identity.
    pub application: String,
    /// The waiting statement, cut to 200 characters; literals are replaced by `?`.
    pub statement: String,
    /// The mode it asked for; absent for a row lock.
    pub mode: Option<LockMode>,
    /// When it began to wait, microseconds since the rehearsal's epoch.
    pub since_us: u64,
    /// How long it waited behind this lock, microseconds.
    pub blocked_us: u64,
    /// Route of the workload whose request it served, where the times tell; see [`RouteWaits`].
    #[serde(default)]
    pub route: Option<String>,
}

/// Client waits behind one lock by the route of the workload that they served.
///
/// A kind of statement belongs to the route in whose requests it ran in the warmup, where every request and statement is
/// known; what that does not tell apart, to the route whose requests began just before most of its waits and ended just after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteWaits {
    /// Route; absent for waits that belong to no route, as a background service's.
    pub route: Option<String>,
    /// Waits.
    pub waits: u64,
    /// The longest, microseconds.
    pub longest_us: u64,
}

/// How many clients waited from an instant on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuePoint {
    /// Instant, microseconds since the rehearsal's epoch.
    pub at_us: u64,
    /// Clients that wait.
    pub depth: u32,
}

/// What lock waits explain of one route's slow requests in upgrade and rollback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RouteExcess {
    /// Route label from the workload.
    pub route: String,
    /// Requests that took longer than the route's median in the baseline by 10 ms or more.
    pub requests: u64,
    /// Sum of what they took longer than that median, microseconds.
    pub excess_us: u64,
    /// Of it, lock waits of statements that such a request made, microseconds. The rest has other causes: restarts, a
    /// pool without a free connection, the machine.
    pub explained_us: u64,
}

/// One lock of the package: per phase, step, statement, relation and mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockRecord {
    /// Phase in which it was requested.
    pub phase: Phase,
    /// Id of the package step, where known.
    pub step: Option<String>,
    /// The statement, cut to 400 characters; literals are replaced by `?`.
    pub statement: String,
    /// Where the statement stands in the package, where it was found there.
    pub place: Option<Place>,
    /// Schema-qualified relation.
    pub relation: String,
    /// Whether the relation existed before the upgrade: only such a lock can block a client.
    pub preexisting: bool,
    /// Strongest mode that the statement took on it.
    pub mode: LockMode,
    /// Backend process id of the package's session.
    pub pid: u32,
    /// When it was asked for, microseconds since the rehearsal's epoch.
    pub requested_us: u64,
    /// When it was let go or given up, microseconds since the rehearsal's epoch.
    pub released_us: u64,
    /// How long the package itself waited for it, microseconds.
    pub wait_us: u64,
    /// How long it was held.
    pub hold: Bounds,
    /// Of that, how long the session was idle in its transaction: its client had not sent the next statement yet. Absent
    /// where no statement log tells, and in reports from before it was measured.
    #[serde(default)]
    pub idle: Option<Bounds>,
    /// How the request ended.
    pub outcome: LockOutcome,
    /// Whether the relation's storage was rewritten under it.
    pub rewritten: bool,
    /// `lock_timeout` in force, milliseconds; 0 means none; absent means unknown.
    pub lock_timeout_ms: Option<u64>,
    /// Which sources saw it.
    pub sources: Vec<LockSource>,
    /// The longest waits behind it, longest first, at most 50.
    pub victims: Vec<Victim>,
    /// How many client waits there were behind it in all.
    pub victims_total: u64,
    /// Most clients waiting at one instant.
    pub queue_depth_max: u32,
    /// Sum of the clients' blocked time, microseconds.
    pub queue_area_us: u64,
    /// The queue over time: each point holds until the next; at most 200.
    #[serde(default)]
    pub queue: Vec<QueuePoint>,
    /// The waits by route, most first.
    #[serde(default)]
    pub routes: Vec<RouteWaits>,
    /// How long after its end the response times were back within 10 % of the baseline's 99th percentile, microseconds;
    /// absent where nobody waited, or they never were.
    #[serde(default)]
    pub drain_us: Option<u64>,
}

impl LockRecord {
    /// Blocked query-seconds of clients per second of the hold; none where it was not held or nobody waited.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a rehearsal are far below 2^52")]
    pub fn amplification(&self) -> Option<f64> {
        let held = self.hold.high_us > 0 && self.queue_area_us > 0;
        held.then(|| self.queue_area_us as f64 / self.hold.high_us as f64)
    }
}

/// A statement of the package that was ended while it worked or waited for a lock, and was tried again.
///
/// What a function or a DO block catches itself reaches no log: it is counted as far as samples saw the statement wait again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatementRetries {
    /// Phase of the first attempt.
    pub phase: Phase,
    /// Step of the package, where known.
    pub step: Option<String>,
    /// The statement, cut to 400 characters; literals are replaced by `?`.
    pub statement: String,
    /// Where it stands in the package, where it was found there.
    pub place: Option<Place>,
    /// Attempts that `lock_timeout` ended (SQLSTATE 55P03).
    pub timed_out: u64,
    /// Attempts that a deadlock ended (40P01).
    pub deadlocked: u64,
    /// Attempts that were cancelled, by `statement_timeout` or by somebody (57014).
    pub cancelled: u64,
    /// Waits for a lock that a function or a DO block gave up and caught, and began again; from samples, so a lower bound.
    #[serde(default)]
    pub caught: u64,
    /// How many attempts followed one that had been ended so, in the same session or in another of the package, or by the
    /// statement itself.
    pub retries: u64,
    /// Whether the last attempt succeeded; absent where no log tells.
    pub succeeded: Option<bool>,
}

/// One database session of the package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackageSession {
    /// Backend process id.
    pub pid: u32,
    /// Login role.
    pub role: String,
    /// Phase in which it began.
    pub phase: Phase,
    /// Step that opened it, where known.
    pub step: Option<String>,
    /// Schema-changing statements that it ran on relations which existed before.
    pub schema_changes: u32,
    /// Whether it held the migration lock during every one of them.
    pub migration_lock_held: bool,
    /// Schema-changing statements that ran with no `lock_timeout`, cut to 200 characters each.
    pub without_lock_timeout: Vec<StatementRef>,
    /// First schema change without the migration lock.
    pub first_unlocked: Option<StatementRef>,
}

/// A statement and where it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StatementRef {
    /// The statement, cut to 200 characters; literals are replaced by `?`.
    pub statement: String,
    /// Where it stands in the package, where it was found there.
    pub place: Option<Place>,
}

/// One lock in an order of locks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct OrderedLock {
    /// Schema-qualified relation.
    pub relation: String,
    /// Mode; absent where the source does not tell, as for what the other side of a deadlock holds.
    pub mode: Option<LockMode>,
    /// The statement that took it or asked for it, cut to 200 characters, where a source tells; literals are replaced by `?`.
    pub statement: Option<String>,
}

/// One side of a lock order that turns against itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct OrderSide {
    /// Login role.
    pub role: String,
    /// What it had.
    pub first: OrderedLock,
    /// What it asked for while it had the first.
    pub second: OrderedLock,
    /// Where the package's second statement stands, where it was found there.
    pub place: Option<Place>,
}

/// Two transactions that take two relations in opposite order, in modes that exclude each other: when they meet, one of them
/// is ended by a deadlock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockCycle {
    /// Phase of the package's second request.
    pub phase: Phase,
    /// Whether they met: the server reported the deadlock (SQLSTATE 40P01).
    pub fired: bool,
    /// The package's side.
    pub package: OrderSide,
    /// The other side: a client's, or another session of the package.
    pub other: OrderSide,
    /// How many transactions of clients were seen to go the other way; for a deadlock, how often it fired.
    pub transactions: u64,
}

/// The order in which transactions took relations.
///
/// The package's order is known from its statements. Of the clients' transactions only those are known that a sample met while
/// they held one relation and before they took another: a short one may go unseen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockOrder {
    /// Pairs of relations that the package took one after the other.
    pub package_pairs: u64,
    /// Transactions of clients of which an order was seen.
    pub client_transactions: u64,
    /// Orders against each other, fired ones first.
    pub cycles: Vec<LockCycle>,
}

/// Something that a step left behind in the database's lock or index state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LockLeftover {
    /// After which phase it was seen.
    pub phase: Phase,
    /// `invalid index`, `unvalidated constraint`, `disabled trigger`, `setting`, `removed setting`, `idle transaction`,
    /// `advisory lock`, `prepared transaction`.
    pub kind: String,
    /// What: the index, the session, the lock's key.
    pub object: String,
}

/// How far the recorder can be trusted.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RecorderTrust {
    /// Event triggers were installed and fired, or there was no DDL for them to fire on.
    pub triggers: bool,
    /// The server's log could be read to its end.
    pub server_log: bool,
    /// Package DDL statements seen by any source.
    pub ddl_statements: u64,
    /// Of these, seen by at least two sources.
    pub ddl_seen_twice: u64,
    /// Statements on which sources disagree, one sentence each, at most 20.
    pub disagreements: Vec<String>,
    /// Samples that the schedule asked for.
    pub samples_planned: u64,
    /// Samples taken.
    pub samples_taken: u64,
    /// Longest gap between two samples while the upgrade or rollback was active, microseconds.
    pub sample_gap_max_us: u64,
    /// Half the round trip of the clock measurement: the error of mapping server time to ours, microseconds.
    pub clock_error_us: u64,
    /// Shorter holds may be missed by the sampler alone, microseconds: less than 1 % of the time lay in gaps longer than
    /// this. A hold that no gap covers whole, and that is longer, was seen.
    pub detection_floor_us: u64,
    /// How long upgrade and rollback were active in all, microseconds: the time in which the gaps are.
    #[serde(default)]
    pub sampled_us: u64,
    /// The gaps by length, shortest bound first.
    #[serde(default)]
    pub gaps: Vec<GapTime>,
}

/// The gaps between samples that are longer than a bound. One goes from before the server read the locks for a sample to after
/// it had read them for the next, by its own stamps: whatever was locked throughout one such reading was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GapTime {
    /// The bound, microseconds.
    pub above_us: u64,
    /// How many are longer.
    pub gaps: u64,
    /// How long those are together, microseconds.
    pub time_us: u64,
}

impl RecorderTrust {
    /// Share of the time that lies in gaps longer than a bound, per cent; absent where the report does not tell.
    #[must_use]
    pub fn blind_percent(&self, above_us: u64) -> Option<f64> {
        let gaps = self.gaps.iter().find(|gaps| gaps.above_us == above_us)?;
        (self.sampled_us > 0).then(|| crate::figures::share_percent(gaps.time_us, self.sampled_us))
    }
}

/// Everything the recorder found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LockEvidence {
    /// Locks of the package that a client could meet, longest hold first.
    pub records: Vec<LockRecord>,
    /// The package's sessions.
    pub sessions: Vec<PackageSession>,
    /// Statements of the package that were tried again, most often first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<StatementRetries>,
    /// Left behind after a phase.
    pub leftovers: Vec<LockLeftover>,
    /// Phases after which the server could not be asked what was left behind.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers_unread: Vec<Phase>,
    /// Client lock waits that were not behind the package, in the phases upgrade and rollback.
    pub other_waits: u64,
    /// What lock waits explain of the slow requests, by route, largest excess first.
    #[serde(default)]
    pub excess: Vec<RouteExcess>,
    /// In which order relations were taken; absent in reports from before it was recorded.
    #[serde(default)]
    pub order: Option<LockOrder>,
    /// How far this can be trusted.
    pub trust: RecorderTrust,
}

#[cfg(test)]
mod tests {
    use super::{LockEvidence, LockMode};
    use crate::sample;

    /// PostgreSQL documentation, table 13.2, one row a mode; `X` = conflict.
    const TABLE: [&str; 8] =
        [".......X", "......XX", "....XXXX", "...XXXXX", "..XX.XXX", "..XXXXXX", ".XXXXXXX", "XXXXXXXX"];

    #[test]
    fn conflicts_are_those_of_the_documentation() {
        for (row, mode) in TABLE.iter().zip(LockMode::ALL) {
            for (cell, other) in row.chars().zip(LockMode::ALL) {
                assert_eq!(mode.conflicts_with(other), cell == 'X', "{mode:?} {other:?}");
            }
        }
    }

    #[test]
    fn a_report_from_before_idle_time_and_retries_were_measured_reads() {
        let locks = sample::hazardous().locks.unwrap();
        assert!(!locks.retries.is_empty() && locks.records[0].idle.is_some());
        let mut older = serde_json::to_value(&locks).unwrap();
        older.as_object_mut().unwrap().remove("retries").unwrap();
        for record in older["records"].as_array_mut().unwrap() {
            record.as_object_mut().unwrap().remove("idle").unwrap();
        }
        let read: LockEvidence = serde_json::from_value(older).unwrap();
        assert_eq!(read.records.len(), locks.records.len());
        assert!(read.retries.is_empty() && read.records.iter().all(|record| record.idle.is_none()));
    }
}
