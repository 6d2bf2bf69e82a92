//! The facts of a rehearsal, folded from its events. `judge` reads nothing else.

mod invariant;
mod way;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::check::{CheckId, CheckSetting};
use crate::finding::{Finding, Waiver};
use crate::lock::LockEvidence;
use crate::phase::{Phase, PhaseSpan};
use crate::traffic::{TrafficEvidence, WriteAnswer};

pub use self::invariant::{InvariantBreak, InvariantEvidence, InvariantPhase};
pub use self::way::OtherWay;
pub(crate) use self::way::Way;

/// What was rehearsed, where and with what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RehearsalFacts {
    /// Unique id of the rehearsal.
    pub id: String,
    /// Name from the plan.
    pub name: String,
    /// Start, RFC 3339 in UTC.
    pub started_utc: String,
    /// `quick` or `nightly`.
    pub profile: String,
    /// `local`, `compose` or `attached`.
    pub mirror: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// Version of Fulldress.
    pub fulldress: String,
    /// How far the rules reach; see the plan's `[checks]`.
    pub limits: Limits,
}

/// Everything that `judge` holds the evidence against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Limits {
    /// The plan's word on single checks.
    pub checks: BTreeMap<CheckId, CheckSetting>,
    /// Latency objective outside upgrade and rollback, milliseconds.
    pub latency_ms: u64,
    /// Latency that is allowed inside upgrade and rollback, milliseconds.
    pub latency_changing_ms: u64,
    /// Availability objective, per cent of requests that must be good over 30 days.
    pub availability_percent: f64,
    /// Production's rate, requests per second; the error budget is scaled to it.
    pub production_rate_per_s: f64,
    /// Production's rows per relation, where known.
    pub production_rows: BTreeMap<String, u64>,
    /// Smallest share of production's rows for which durations count, per cent.
    pub scale_percent: f64,
    /// Accepted findings.
    pub waivers: Vec<Waiver>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            checks: BTreeMap::new(),
            latency_ms: 250,
            latency_changing_ms: 1000,
            availability_percent: 99.9,
            production_rate_per_s: 100.0,
            production_rows: BTreeMap::new(),
            scale_percent: 10.0,
            waivers: Vec::new(),
        }
    }
}

/// The package under rehearsal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PackageFacts {
    /// Name from the manifest.
    pub name: String,
    /// Version that it upgrades from.
    pub from: String,
    /// Version that it upgrades to.
    pub to: String,
    /// Stops on the way, in order.
    pub via: Vec<String>,
    /// SHA-256 of the archive, hexadecimal.
    pub sha256: String,
    /// Entries whose digest was checked.
    pub entries: u64,
    /// Why the archive was refused; absent when it was not.
    pub refused: Option<Refusal>,
    /// What is known of its signature; outside the verdict until signatures are verified.
    pub signature_note: String,
}

/// A package that was not opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Refusal {
    /// `PKG-ARCHIVE` or `PKG-DIGEST`.
    pub check: CheckId,
    /// One sentence.
    pub reason: String,
}

/// What preflight looked at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreflightEvidence {
    /// Rules that had what they need, by check.
    pub ran: Vec<CheckId>,
    /// Rules that had not: check and what is missing.
    pub missing: BTreeMap<CheckId, String>,
    /// What they found.
    pub findings: Vec<Finding>,
    /// What they met and could not decide, one sentence each: values that only a running script knows.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Size of one relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RelationSize {
    /// Schema-qualified relation.
    pub relation: String,
    /// Rows, counted.
    pub rows: u64,
    /// Bytes on disk, indexes included.
    pub bytes: u64,
}

/// Kind of a package step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// A file of SQL.
    Sql,
    /// A script that runs on the host.
    Script,
    /// A service in another version.
    Service,
    /// Keys of a configuration file.
    Config,
    /// The database snapshot that a restore goes back to.
    Snapshot,
    /// Restore of the database snapshot.
    Restore,
}

/// A step as it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StepRun {
    /// Id from the manifest.
    pub id: String,
    /// Kind.
    pub kind: StepKind,
    /// Phase in which it ran.
    pub phase: Phase,
    /// Start, microseconds since the rehearsal's epoch.
    pub start_us: u64,
    /// End, microseconds since the rehearsal's epoch.
    pub end_us: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// Why it failed; absent when it ended well.
    pub error: Option<String>,
    /// Its output, relative to the bundle.
    pub log: Option<String>,
}

/// A span in which a service was not healthy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Outage {
    /// Service.
    pub service: String,
    /// Phase in which it began.
    pub phase: Phase,
    /// Begin, microseconds since the rehearsal's epoch: the last healthy answer's end.
    pub start_us: u64,
    /// End, microseconds since the rehearsal's epoch.
    pub end_us: u64,
    /// What the health endpoint said.
    pub reason: String,
}

impl Outage {
    /// Length in microseconds.
    #[must_use]
    pub const fn length_us(&self) -> u64 {
        self.end_us.saturating_sub(self.start_us)
    }
}

/// How the dependent services fared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DependentEvidence {
    /// Services that were watched.
    pub watched: Vec<String>,
    /// Health probes answered or timed out.
    pub probes: u64,
    /// Spans in which one was out.
    pub outages: Vec<Outage>,
}

/// What became of an acknowledged write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WriteFate {
    /// It is there, once, with its value.
    Kept,
    /// It is gone.
    Lost,
    /// It is there with another value.
    Changed,
    /// It is there more than once.
    Duplicated,
    /// The answer never came when it was written: nothing can be said.
    Indeterminate,
    /// It could not be read back.
    Unread,
}

/// Acknowledged writes of one phase, by fate. The fates add up to the number of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerPhase {
    /// Phase of the intended start.
    pub phase: Phase,
    /// Writes by fate.
    pub fates: BTreeMap<WriteFate, u64>,
}

/// A write that was not kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenWrite {
    /// The client's idempotency key.
    pub key: String,
    /// Phase of the intended start.
    pub phase: Phase,
    /// What became of it.
    pub fate: WriteFate,
    /// What was answered then.
    pub answer: WriteAnswer,
    /// What the running version or the database says now, in a few words.
    pub seen: String,
}

/// The ledger after it was read back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LedgerEvidence {
    /// Entries: acknowledged and indeterminate writes.
    pub entries: u64,
    /// Entries by phase and fate.
    pub phases: Vec<LedgerPhase>,
    /// Writes that were not kept, at most 1,000; `ledger.jsonl` has all.
    pub broken: Vec<BrokenWrite>,
    /// Entries on which the running version and the database disagree.
    pub witness_disagreements: u64,
}

impl LedgerEvidence {
    /// Entries of a fate over all phases.
    #[must_use]
    pub fn total(&self, fate: WriteFate) -> u64 {
        self.phases.iter().filter_map(|phase| phase.fates.get(&fate)).sum()
    }
}

/// One named difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// Class: `table`, `column`, `index`, … or for residue the probe's name.
    pub kind: String,
    /// The object, qualified.
    pub object: String,
    /// Definition before; absent when it was not there.
    pub before: Option<String>,
    /// Definition after; absent when it is not there.
    pub after: Option<String>,
}

/// Schema fingerprints compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SchemaEvidence {
    /// SHA-256 of the schema before, hexadecimal.
    pub before: String,
    /// After the upgrade.
    pub upgraded: String,
    /// After rollback.
    pub rolled_back: String,
    /// What the upgrade changed.
    pub upgrade: Vec<Difference>,
    /// What the rollback did not bring back.
    pub drift: Vec<Difference>,
    /// Tables whose columns came back in another order; no drift.
    pub order_only: Vec<String>,
}

/// Row counts and content hashes of the tables that the workload leaves alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DataEvidence {
    /// Tables compared.
    pub tables: Vec<String>,
    /// Tables or sequences that did not come back.
    pub differences: Vec<Difference>,
}

/// Effects that are still there after rollback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ResidueEvidence {
    /// Probes that answered before and after, by check.
    pub probed: Vec<CheckId>,
    /// Probes that did not: check and why.
    pub unreachable: BTreeMap<CheckId, String>,
    /// What is left, by check.
    pub left: BTreeMap<CheckId, Vec<Difference>>,
}

/// How the rollback ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RollbackEvidence {
    /// `down` or `restore`.
    pub method: String,
    /// Steps or services that did not come back, one sentence each. Empty: it ended.
    pub stuck: Vec<String>,
    /// Bytes of the snapshot, where one was restored.
    pub snapshot_bytes: Option<u64>,
    /// Time of the restore, microseconds.
    pub restore_us: Option<u64>,
    /// From the first step of the rollback to the end of the last, microseconds; absent where it was not noted.
    #[serde(default)]
    pub took_us: Option<u64>,
    /// Of the rollback, the time in which an application service did not answer its health check, microseconds; absent where that
    /// was not watched.
    #[serde(default)]
    pub unavailable_us: Option<u64>,
}

/// The second application of the upgrade.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReapplyEvidence {
    /// Steps that failed the second time and not the first, one sentence each.
    pub failed: Vec<String>,
    /// Differences between the schema upgraded once and upgraded again.
    pub differences: Vec<Difference>,
}

/// A state of the schema on which the old version's statements were tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SchemaState {
    /// After the upgrade.
    Upgraded,
    /// After the rollback.
    RolledBack,
}

/// The old version's statements on the schema after the upgrade and after the rollback.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CompatEvidence {
    /// Statements that clients were seen to send before the upgrade and that could be prepared then.
    pub statements: u64,
    /// Statements that were seen and could not be prepared then: cut off, or with parameters whose types only the client
    /// knows.
    pub unprepared: u64,
    /// States on which they were prepared again.
    pub tried: Vec<SchemaState>,
    /// What the server refused.
    pub broken: Vec<BrokenStatement>,
}

/// A statement of the old version that a state of the schema refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BrokenStatement {
    /// The statement as the server showed it, with `$1` for its parameters.
    pub sql: String,
    /// On which schema.
    pub state: SchemaState,
    /// SQLSTATE, five characters.
    pub sqlstate: String,
    /// The server's words.
    pub message: String,
}

/// What strikes a step in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The statement or command fails.
    Fails,
    /// The program that runs the step is killed by SIGKILL.
    MigratorKilled,
    /// The server ends the step's session.
    BackendTerminated,
    /// A lock is not had in time, at every try.
    LockTimeout,
    /// The database server crashes and recovers.
    DatabaseRestarted,
    /// The connection between them is cut.
    ConnectionCut,
}

impl FaultKind {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 6] = [
        Self::Fails,
        Self::MigratorKilled,
        Self::BackendTerminated,
        Self::LockTimeout,
        Self::DatabaseRestarted,
        Self::ConnectionCut,
    ];

    /// The words of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fails => "fails",
            Self::MigratorKilled => "migrator killed",
            Self::BackendTerminated => "backend terminated",
            Self::LockTimeout => "lock_timeout fires",
            Self::DatabaseRestarted => "database restarted",
            Self::ConnectionCut => "connection cut",
        }
    }
}

/// Where one goes after a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultWay {
    /// The rollback runs, and must reach the state before.
    Rollback,
    /// The upgrade runs again from the step on, and must reach the upgraded state.
    Resume,
}

impl FaultWay {
    /// The word of reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Resume => "resume",
        }
    }
}

/// What became of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultOutcome {
    /// It reached its state.
    Reached,
    /// It ended, and something differs.
    Differs,
    /// A step of it failed.
    Stuck,
}

/// One fault on a clone, and one way from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultCell {
    /// Step that was struck.
    pub step: String,
    /// Where in it, such as `before statement 3 of 5, line 12`.
    pub place: String,
    /// File of the package, and line where there is one.
    pub file: String,
    /// Line in the file.
    pub line: Option<u32>,
    /// What struck.
    pub fault: FaultKind,
    /// The way from there.
    pub way: FaultWay,
    /// What became of it.
    pub outcome: FaultOutcome,
    /// Errors or differences, one sentence each.
    pub why: Vec<String>,
    /// Time of the cell with its clone, microseconds.
    pub length_us: u64,
}

/// Faults inside the upgrade, each on a clone of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FaultEvidence {
    /// What was tried, in the order of the package.
    pub cells: Vec<FaultCell>,
    /// Cells that the package has: places, faults and ways.
    pub possible: u64,
    /// What was not tried and why, one phrase each.
    pub not_tried: Vec<String>,
}

/// How the second runner behaved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DoubleRunOutcome {
    /// It waited on the migration lock, then found nothing to do.
    Serialised,
    /// It was refused before it changed anything.
    Refused,
    /// It ran beside the first, and nothing broke this time.
    #[default]
    NotSerialised,
    /// One of the two did not end within its time limit.
    Hung,
    /// The two got into each other's way: a step of one failed on what the other had done, or something else is left
    /// than one runner leaves.
    Corrupted,
}

/// What the second runner did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DoubleRunEvidence {
    /// How it ended.
    pub outcome: DoubleRunOutcome,
    /// Whether the two met: at the migration lock, or at work on the database at the same time. Without that nothing
    /// was tried.
    pub overlapped: bool,
    /// The second runner was seen waiting for an advisory lock or the lock table.
    pub waited_on_migration_lock: bool,
    /// Errors of either runner, one sentence each.
    pub errors: Vec<String>,
    /// Differences between the schema after one runner and after two.
    pub differences: Vec<Difference>,
    /// Step at whose start the second runner was started; absent: both started with the first step.
    #[serde(default)]
    pub at_step: Option<String>,
    /// What was seen of their meeting, one phrase each, what tells most first.
    #[serde(default)]
    pub seen: Vec<String>,
}

/// How far the evidence reaches: what a `pass` may claim.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reach {
    /// Sizes of the dataset.
    pub relations: Vec<RelationSize>,
    /// Settings of the database that matter, name and value.
    pub settings: BTreeMap<String, String>,
    /// Relations that client statements read or wrote before the upgrade, schema-qualified; empty: not known.
    #[serde(default)]
    pub traffic_relations: Vec<String>,
    /// Background actors that ran.
    pub actors: Vec<String>,
    /// What was not rehearsed, one phrase each.
    pub not_rehearsed: Vec<String>,
    /// Calls of services to the outside that were denied and that they made before the upgrade too, one phrase each.
    #[serde(default)]
    pub denied: Vec<String>,
}

/// Everything that is known after a rehearsal.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What was rehearsed.
    pub rehearsal: RehearsalFacts,
    /// Length of the rehearsal, microseconds.
    pub length_us: u64,
    /// The package.
    pub package: Option<PackageFacts>,
    /// Preflight.
    pub preflight: Option<PreflightEvidence>,
    /// Phases as played.
    pub phases: Vec<PhaseSpan>,
    /// Steps as they ran.
    pub steps: Vec<StepRun>,
    /// Traffic.
    pub traffic: Option<TrafficEvidence>,
    /// Locks.
    pub locks: Option<LockEvidence>,
    /// Dependent services.
    pub dependents: Option<DependentEvidence>,
    /// Acknowledged writes.
    pub ledger: Option<LedgerEvidence>,
    /// Schema.
    pub schema: Option<SchemaEvidence>,
    /// Data.
    pub data: Option<DataEvidence>,
    /// Residue.
    pub residue: Option<ResidueEvidence>,
    /// Rollback.
    pub rollback: Option<RollbackEvidence>,
    /// Second application.
    pub reapply: Option<ReapplyEvidence>,
    /// Another way back from the same upgraded state; absent where the plan names one way or the profile is quick.
    #[serde(default)]
    pub other_way: Option<OtherWay>,
    /// The old version's statements on other states of the schema.
    #[serde(default)]
    pub compat: Option<CompatEvidence>,
    /// Faults inside the upgrade.
    #[serde(default)]
    pub faults: Option<FaultEvidence>,
    /// What the plan says must hold in the data; empty: it says nothing, or nothing was read.
    #[serde(default)]
    pub invariants: Vec<InvariantEvidence>,
    /// Second runner.
    pub double_run: Option<DoubleRunEvidence>,
    /// Reach.
    pub reach: Option<Reach>,
    /// What went wrong with the rehearsal itself, one sentence each.
    pub notices: Vec<String>,
    /// Why it ended early: Ctrl-C, a time limit, a mirror that failed.
    pub interrupted: Option<Interruption>,
}

/// An early end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interruption {
    /// One sentence.
    pub reason: String,
    /// True when the mirror or the machine failed (exit code 5); false for Ctrl-C and time limits.
    pub environment: bool,
}
