//! Hazards of waiting: limits that are missing, and queues that form.

use super::{DecidedBy, Harm, Hazard, Shown};
use crate::check::CheckId;

/// The records.
pub(super) const WAITING: &[Hazard] = &[
    Hazard {
        id: "no-lock-timeout",
        name: "lock asked for without lock_timeout",
        what: "It may wait for its lock without end, and everybody who comes after it waits behind it.",
        fires: "A lock that blocks reads or writes of a relation that was there before is asked for with lock_timeout 0.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &["require-lock-timeout"],
        shown: Shown::Trace,
        checks: &[CheckId::LockTimeout, CheckId::LockWait],
        remedy: "SET lock_timeout to what clients may wait, and try again when it strikes.",
        bad: "ALTER TABLE orders ADD COLUMN channel text;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text;",
    },
    Hazard {
        id: "no-statement-timeout",
        name: "work without statement_timeout",
        what: "Work that grows with the table is done under a lock, and nothing ends it when production is larger than thought.",
        fires: "A table is scanned, or its storage or an index of it is written anew, under a lock that blocks writes, with statement_timeout 0.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &["require-statement-timeout"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "SET statement_timeout to what clients may wait in all.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX orders_placed ON orders (placed);",
        good: "SET lock_timeout = '500ms'; SET statement_timeout = '5s'; CREATE INDEX orders_placed ON orders (placed);",
    },
    Hazard {
        id: "concurrently-under-lock-timeout",
        name: "CONCURRENTLY under a lock_timeout",
        what: "lock_timeout also bounds the wait for older transactions: when it strikes, an INVALID index or a half detached partition stays.",
        fires: "A statement with CONCURRENTLY that waits for older transactions runs with a lock_timeout.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockResidue],
        remedy: "SET lock_timeout = 0 for it: what it holds while it waits blocks neither reads nor writes.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
        good: "SET lock_timeout = 0; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "lock-timeout-too-long",
        name: "lock_timeout beyond what clients bear",
        what: "Everybody who comes after the statement waits as long as it does.",
        fires: "A lock that blocks reads or writes is asked for with a lock_timeout above the limit of LOCK-WAIT.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockWait],
        remedy: "A lock_timeout below what a client may wait, and another try after a pause.",
        bad: "SET lock_timeout = '30s'; ALTER TABLE orders ADD COLUMN channel text;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text;",
    },
    Hazard {
        id: "queue-behind-long-transaction",
        name: "queue behind a waiting change",
        what: "A transaction that only reads keeps the change waiting, and the change keeps everybody else waiting.",
        fires: "A long or idle transaction holds the table when a change asks for it.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Sessions(Harm::ClientWaits),
        checks: &[CheckId::LockWait],
        remedy: "A short lock_timeout with another try; end what is idle in transaction before.",
        bad: "reader: BEGIN; reader: SELECT count(*) FROM orders; \
               migrator: ALTER TABLE orders ADD COLUMN channel text; \
               client: SELECT state FROM orders WHERE id = 1; reader: COMMIT",
        good: "reader: BEGIN; reader: SELECT count(*) FROM orders; migrator: SET lock_timeout = '100ms'; \
               migrator: ALTER TABLE orders ADD COLUMN channel text; \
               client: SELECT state FROM orders WHERE id = 1; reader: COMMIT; \
               migrator: ALTER TABLE orders ADD COLUMN channel text",
    },
    Hazard {
        id: "retry-storm",
        name: "another try without a pause",
        what: "Each try makes a new queue before the last has drained, and clients hardly get through.",
        fires: "A statement that ended in 55P03 is sent again at once.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Rehearsal,
        checks: &[CheckId::LockWait, CheckId::SloLatency],
        remedy: "A pause that grows and differs from try to try, and a bound on the tries.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text; -- 55P03, and again at once",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text; \
               -- 55P03, and again after a pause",
    },
    Hazard {
        id: "waits-for-unrelated-transaction",
        name: "CONCURRENTLY waits for strangers",
        what: "It waits for every older transaction, also for one that never touches the table; a limit that strikes meanwhile leaves an INVALID index.",
        fires: "A transaction with an older snapshot is open when CREATE INDEX CONCURRENTLY comes to its last phase.",
        decided_by: DecidedBy::RunningSystem,
        squawk: &[],
        shown: Shown::Sessions(Harm::InvalidIndex),
        checks: &[CheckId::LockResidue, CheckId::UpgStep],
        remedy: "No lock_timeout for it; look for long transactions of any database user first.",
        bad: "reader: BEGIN ISOLATION LEVEL REPEATABLE READ; reader: SELECT count(*) FROM customers; \
               migrator: SET lock_timeout = '100ms'; \
               migrator: CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); reader: COMMIT",
        good: "reader: BEGIN ISOLATION LEVEL REPEATABLE READ; reader: SELECT count(*) FROM customers; \
               migrator: SET lock_timeout = 0; \
               migrator: CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); reader: COMMIT",
    },
];
