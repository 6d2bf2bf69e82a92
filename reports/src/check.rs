//! Checks as data: a record per stable id, and the outcome that a rehearsal gave it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Unit of a check's limit and observed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Number of things.
    Count,
    /// Per cent.
    Percent,
}

/// What a check found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Evidence shows that the limit was kept.
    Pass,
    /// Evidence shows that it was broken.
    Fail,
    /// Too little evidence.
    Inconclusive,
    /// The instrument failed.
    Unmeasured,
    /// It was broken, and every finding of it is accepted by a waiver in force.
    Waived,
}

impl Outcome {
    /// The word used in files and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Unmeasured => "unmeasured",
            Self::Waived => "waived",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// The record of a check: what it means, before any rehearsal.
#[derive(Debug, Clone, Copy)]
pub struct CheckRecord {
    /// Stable for ever.
    pub id: CheckId,
    /// A few words for a table.
    pub title: &'static str,
    /// One sentence: what a pass means.
    pub meaning: &'static str,
    /// Whether it decides the verdict unless the plan says otherwise.
    pub required: bool,
    /// Unit of limit and observed value.
    pub unit: Unit,
    /// Largest value that passes unless the plan says otherwise.
    pub limit: f64,
    /// What to change when it fails.
    pub remedy: &'static str,
}

macro_rules! checks {
    ($($variant:ident $id:literal $required:literal $unit:ident $limit:literal $title:literal $meaning:literal $remedy:literal;)*) => {
        /// Stable id of a check.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        pub enum CheckId {
            $(#[doc = $meaning] #[serde(rename = $id)] $variant,)*
        }

        /// Every check, in the order of reports.
        pub const CHECKS: &[CheckRecord] = &[
            $(CheckRecord {
                id: CheckId::$variant, title: $title, meaning: $meaning, required: $required,
                unit: Unit::$unit, limit: $limit, remedy: $remedy,
            },)*
        ];

        impl CheckId {
            /// The id as files and reports print it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $id,)* }
            }
        }
    };
}

checks! {
    PkgArchive "PKG-ARCHIVE" true Count 0.0 "archive sound"
        "The archive opens within the limits on entries, sizes and paths."
        "Ask the vendor for an intact archive.";
    PkgDigest "PKG-DIGEST" true Count 0.0 "digests right"
        "Every entry has the SHA-256 digest that the manifest states."
        "Ask the vendor for an intact archive.";
    PrePrivilege "PRE-PRIVILEGE" true Count 0.0 "scripts need no root"
        "No script of the package asks for root privileges through sudo, su or doas."
        "Declare the privileged action as a service or config step, or run it from the deployment system.";
    PreUnit "PRE-UNIT" true Count 0.0 "units exist"
        "Every systemd unit that a script names is in the inventory."
        "Name the unit that production has.";
    PreConfigKey "PRE-CONFIG-KEY" true Count 0.0 "config keys current"
        "No config key that the package sets or production uses is deprecated or removed by the new version."
        "Use the replacement key before the upgrade.";
    PrePath "PRE-PATH" true Count 0.0 "upgrade path known"
        "The installed version has a known path to the new one through the versions that the package contains."
        "Upgrade through the required stops.";
    PreSchedule "PRE-SCHEDULE" true Count 0.0 "no scheduled task"
        "No script of the package creates a scheduled task that its rollback does not remove."
        "Remove the task in the rollback of the same step.";
    PreEndpoint "PRE-ENDPOINT" true Count 0.0 "no external endpoint"
        "No script of the package calls a host that the inventory does not know."
        "Remove the call, or name the endpoint in the inventory so that a stub stands in for it.";
    PreCredential "PRE-CREDENTIAL" true Count 0.0 "no credential in scripts"
        "No file of the package carries a hard-coded credential."
        "Take the credential from the environment, and replace the one that was shipped.";
    PreSql "PRE-SQL" false Count 0.0 "no hazard stated in SQL"
        "No SQL that a step or psql runs states a hazard that can be told without running it; the checks of locks measure the rest."
        "See the hazard in docs/hazards.md, and what to do instead.";
    UpgStep "UPG-STEP" true Count 0.0 "upgrade steps end well"
        "Every step of the upgrade ended well, within its time limit and its tries."
        "See the step's log, and repair it or what it expects.";
    LockHold "LOCK-HOLD" true Milliseconds 1000.0 "longest blocking lock held"
        "No lock that blocks the clients' reads or writes was held on an existing relation for longer than the limit."
        "Split the step: take the lock for the catalog change alone, backfill in batches in transactions of their own.";
    LockWait "LOCK-WAIT" true Milliseconds 1000.0 "longest wait of a client"
        "No client waited behind the package for longer than the limit, queueing behind a waiting lock included."
        "Set a short lock_timeout and try again, and keep each transaction that takes a strong lock short.";
    LockMigration "LOCK-MIGRATION" true Count 0.0 "migration lock held"
        "Every session that changed the schema held the migration lock while it did."
        "Take pg_advisory_lock (or the lock table that the plan names) before the first change, in the same session.";
    LockTimeout "LOCK-TIMEOUT" true Count 0.0 "lock_timeout set"
        "Every statement that takes a blocking lock on an existing relation ran with a lock_timeout."
        "SET lock_timeout before the statement, and retry when it fires.";
    LockDoubleRun "LOCK-DOUBLE-RUN" true Count 0.0 "second runner serialised"
        "A second runner started beside the first waits for it or is refused, and the schema ends the same."
        "Take the migration lock before the first statement, and make each step a no-op when it is already applied.";
    LockDeadlock "LOCK-DEADLOCK" true Count 0.0 "no deadlock"
        "No deadlock fired in which a session of the package took part."
        "Take the relations in the order in which the clients take them, or in transactions of their own.";
    LockOrder "LOCK-ORDER" false Count 0.0 "lock order agrees"
        "No transaction of a client was seen to take two relations in the opposite order to the package's, in modes that exclude each other; what no sample met is not known."
        "Take the relations in the order in which the clients take them, or in transactions of their own.";
    LockResidue "LOCK-RESIDUE" true Count 0.0 "no lock residue"
        "No invalid index, unvalidated constraint, disabled trigger, changed setting of a role or database, leaked advisory lock, idle or prepared transaction is left after a phase."
        "Drop and rebuild the invalid index, validate the constraint, enable the trigger, set the setting back; end the session that was left behind.";
    DepOutage "DEP-OUTAGE" true Milliseconds 1000.0 "dependent service outage"
        "No dependent service was unhealthy for longer than the limit at one time."
        "Find the lock in the findings of LOCK-HOLD and LOCK-WAIT that the service waited for.";
    SloLatency "SLO-LATENCY" true Percent 1.0 "slow requests"
        "In no judged phase was a larger share of the open-model requests slower than the latency objective."
        "See which lock or restart coincides with the slow requests.";
    SloErrors "SLO-ERRORS" true Percent 2.0 "failed requests"
        "In no judged phase did a larger share of the open-model requests fail."
        "See the errors by kind, and which step coincides with them.";
    SloBudget "SLO-BUDGET" true Percent 5.0 "error budget spent"
        "Upgrade and rollback together spend at most this share of the 30-day error budget."
        "Shorten the blip, or plan the release for a quieter hour.";
    RollStuck "ROLL-STUCK" true Count 0.0 "rollback ends"
        "Every rollback step ended well and the old version answers."
        "Repair the step; give it a timeout and a way out by hand.";
    RollSchema "ROLL-SCHEMA" true Count 0.0 "schema restored"
        "After rollback the schema is the one from before; column order is told apart and does not count."
        "Undo every change of the up step in its down step.";
    RollData "ROLL-DATA" true Count 0.0 "untouched data restored"
        "Tables that the workload leaves alone hold the same rows after rollback."
        "Keep what the up step removes or rewrites, so that the down step can bring it back.";
    RollLedger "ROLL-LEDGER" true Count 0.0 "acknowledged writes kept"
        "Every write that was acknowledged to a client is there after rollback, unchanged and once."
        "Roll the schema back by down steps instead of restoring the snapshot, or replay the writes since.";
    RollFlag "ROLL-FLAG" true Count 0.0 "feature flags restored"
        "Every feature flag has the value from before."
        "Set the flag back in the rollback.";
    RollWebhook "ROLL-WEBHOOK" true Count 0.0 "webhooks restored"
        "No third party keeps a registration that the upgrade made."
        "Deregister the webhook in the rollback.";
    RollSchedule "ROLL-SCHEDULE" true Count 0.0 "scheduled tasks restored"
        "The scheduled tasks are the ones from before."
        "Remove the task in the rollback.";
    RollUnit "ROLL-UNIT" true Count 0.0 "services restored"
        "Every service runs, in the version from before, and its unit is enabled as before."
        "Bring the old version back in the rollback.";
    RollFile "ROLL-FILE" true Count 0.0 "files restored"
        "The host's files are the ones from before."
        "Delete what was added and restore what was changed.";
    RollReapply "ROLL-REAPPLY" true Count 0.0 "applies again"
        "After rollback the upgrade applies again and ends in the same schema."
        "Make the down step complete, so that the up step meets the state it expects.";
    RollFault "ROLL-FAULT" true Count 0.0 "back and on from faults"
        "From every fault that was tried inside the upgrade, the rollback reaches the state before and the upgrade, run again, the upgraded state."
        "Make each step one transaction, or its statements no-ops where they are already done, on the way there and on the way back.";
    RollCompat "ROLL-COMPAT" true Count 0.0 "old statements still run"
        "Every statement that the clients of the old version were seen to send can be prepared on the upgraded schema and again after rollback, and sessions that had prepared it before can still run it."
        "Keep what the old version reads and writes until no old version runs: add first, remove in a later release.";
    RollInvariant "ROLL-INVARIANT" true Count 0.0 "invariants hold"
        "What the plan's invariants say of the data holds before, during and after upgrade and rollback; advisory when the plan declares none."
        "Change what belongs together in one transaction, on the way there and on the way back.";
    EvidDriver "EVID-DRIVER" true Count 0.0 "driver healthy"
        "The traffic driver offered what was planned, when it was planned."
        "Lower the rate or give the driver a core of its own.";
    EvidRecorder "EVID-RECORDER" true Count 0.0 "recorder healthy"
        "The lock recorder lost nothing, and its sources agree."
        "See the recorder's own figures in the report.";
    EvidCoverage "EVID-COVERAGE" true Count 0.0 "traffic met the locks"
        "Traffic was served in every phase by statements on the relations that the package locked."
        "Add the missing routes to the workload.";
    EvidScale "EVID-SCALE" false Count 0.0 "dataset large enough"
        "The relations that the package touched are at least as large as the plan says production's are, at the scale it allows."
        "Raise the dataset's size, or state production's sizes in the plan.";
}

impl CheckId {
    /// The check's record.
    #[must_use]
    pub fn record(self) -> &'static CheckRecord {
        // The macro makes one record a variant, in the order of the variants.
        &CHECKS[self as usize]
    }

    /// The check with this id.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        CHECKS.iter().map(|record| record.id).find(|id| id.name() == name)
    }
}

impl std::fmt::Display for CheckId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.pad(self.name())
    }
}

/// What the plan says about a check, where it differs from the record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckSetting {
    /// Largest value that passes, in the check's unit.
    pub limit: Option<f64>,
    /// Whether it decides the verdict.
    pub required: Option<bool>,
}

/// A check as a rehearsal judged it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Check {
    /// Which check.
    pub id: CheckId,
    /// A few words for a table.
    pub title: String,
    /// Whether it decides the verdict.
    pub required: bool,
    /// Unit of limit and observed value.
    pub unit: Unit,
    /// Largest value that passes.
    pub limit: f64,
    /// Worst value seen; absent without evidence.
    pub observed: Option<f64>,
    /// `observed / limit`; absent when the limit is 0 or nothing was observed.
    pub margin: Option<f64>,
    /// What it found out.
    pub outcome: Outcome,
    /// One sentence: the evidence, or what is missing.
    pub evidence: String,
}

#[cfg(test)]
mod tests {
    use super::{CHECKS, CheckId};

    #[test]
    fn every_record_is_found_by_its_id() {
        for record in CHECKS {
            assert_eq!(record.id.record().id, record.id);
            assert_eq!(CheckId::parse(record.id.name()), Some(record.id));
            let json = serde_json::to_string(&record.id).unwrap();
            assert_eq!(json, format!("\"{}\"", record.id.name()));
        }
    }
}
