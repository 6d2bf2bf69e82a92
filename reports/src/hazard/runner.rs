//! Hazards of the one who runs migrations: only a rehearsal sees them.

use super::{DecidedBy, Harm, Hazard, Shown};
use crate::check::CheckId;

/// The records.
pub(super) const RUNNER: &[Hazard] = &[
    Hazard {
        id: "two-runners",
        name: "two runners, no lock between them",
        what: "Both make the same change: one fails half way, or both write.",
        fires: "A second runner starts while the first is at work.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Sessions(Harm::Refused),
        checks: &[CheckId::LockDoubleRun, CheckId::LockMigration],
        remedy: "One advisory lock before the first statement, held to the last, and steps that see what is done.",
        bad: "migrator: BEGIN; migrator: CREATE TABLE refunds (id bigint PRIMARY KEY); \
               second: CREATE TABLE refunds (id bigint PRIMARY KEY); migrator: COMMIT",
        good: "migrator: SELECT pg_advisory_lock(7); \
               migrator: CREATE TABLE IF NOT EXISTS refunds (id bigint PRIMARY KEY); \
               second: SELECT pg_advisory_lock(7); migrator: SELECT pg_advisory_unlock(7); \
               second: CREATE TABLE IF NOT EXISTS refunds (id bigint PRIMARY KEY)",
    },
    Hazard {
        id: "advisory-lock-against-concurrently",
        name: "runner that waits in the way of CONCURRENTLY",
        what: "A second runner that waits for the advisory lock holds a snapshot that CREATE INDEX CONCURRENTLY waits for: a deadlock, and an INVALID index.",
        fires: "pg_advisory_lock is waited for while its holder builds an index CONCURRENTLY.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Sessions(Harm::InvalidIndex),
        checks: &[CheckId::LockDoubleRun, CheckId::LockResidue],
        remedy: "pg_try_advisory_lock with another try: nobody waits inside the server.",
        bad: "migrator: SELECT pg_advisory_lock(7); second: SELECT pg_advisory_lock(7); \
               migrator: CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); migrator: SELECT pg_advisory_unlock(7)",
        good: "migrator: SELECT pg_advisory_lock(7); second: SELECT pg_try_advisory_lock(7); \
               migrator: CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); migrator: SELECT pg_advisory_unlock(7)",
    },
    Hazard {
        id: "advisory-lock-behind-pooler",
        name: "session lock through a pooler of transactions",
        what: "The lock stays with whichever server session the pooler gave: it guards nothing, and it may never be given back.",
        fires: "pg_advisory_lock and the change run in sessions of their own.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Rehearsal,
        checks: &[CheckId::LockMigration, CheckId::LockResidue],
        remedy: "Connect past the pooler; or pg_advisory_xact_lock where the change is one transaction.",
        bad: "SELECT pg_advisory_lock(7); -- session 1 of the pool\nALTER TABLE orders ADD COLUMN channel text; \
               -- session 2",
        good: "BEGIN; SELECT pg_advisory_xact_lock(7); ALTER TABLE orders ADD COLUMN channel text; COMMIT;",
    },
    Hazard {
        id: "bookkeeping-locked",
        name: "locks of the migration tool's own table",
        what: "Whoever looks up the version waits: other runners, and services that check it when they start.",
        fires: "The tool locks its table for the whole migration.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Rehearsal,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "An advisory lock for the runner; a short transaction for the row that says what was done.",
        bad: "BEGIN; LOCK TABLE schema_migrations IN ACCESS EXCLUSIVE MODE; -- every step\nCOMMIT;",
        good: "SELECT pg_advisory_lock(7); -- every step\nINSERT INTO schema_migrations VALUES ('0042'); \
               SELECT pg_advisory_unlock(7);",
    },
    Hazard {
        id: "change-outside-migrations",
        name: "change that no migration file shows",
        what: "Neither a reader of the migrations nor the tool's lock and limits know of it.",
        fires: "A script of the package changes the schema by psql, pg_restore or an ORM.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Rehearsal,
        checks: &[CheckId::LockHold, CheckId::LockMigration, CheckId::LockTimeout],
        remedy: "A `sql` step; or the same lock and limits in the script.",
        bad: "-- in a shell script\n-- psql -c 'ALTER TABLE orders ADD COLUMN channel text'",
        good: "-- in a file of a sql step\nSET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text;",
    },
];
