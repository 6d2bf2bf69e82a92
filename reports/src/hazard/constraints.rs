//! Hazards of indexes, partitions and constraints: how strong a lock, and what is read under it.

use super::{DecidedBy, Hazard, Shown};
use crate::check::CheckId;

/// The records.
pub(super) const CONSTRAINTS: &[Hazard] = &[
    Hazard {
        id: "index-build-blocks-writes",
        name: "index built with writers waiting",
        what: "Writers of the table wait until the index is built.",
        fires: "CREATE INDEX holds SHARE on a table that was there before.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-index-creation"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "CREATE INDEX CONCURRENTLY, outside a transaction; look for an INVALID index afterwards.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX orders_placed ON orders (placed);",
        good: "CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "index-drop-blocks",
        name: "index dropped with readers waiting",
        what: "Readers and writers of the table wait: first for the lock behind whoever is at work, then for the drop.",
        fires: "DROP INDEX without CONCURRENTLY holds ACCESS EXCLUSIVE on the index's table.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-index-deletion"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "DROP INDEX CONCURRENTLY, outside a transaction.",
        bad: "SET lock_timeout = '500ms'; DROP INDEX orders_state;",
        good: "DROP INDEX CONCURRENTLY orders_state;",
    },
    Hazard {
        id: "index-rebuild-blocks",
        name: "index rebuilt with readers waiting",
        what: "Readers that plan with the index wait, and writers of its table wait.",
        fires: "REINDEX without CONCURRENTLY: an index has a new file under ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-reindex"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "REINDEX … CONCURRENTLY.",
        bad: "SET lock_timeout = '500ms'; REINDEX INDEX orders_state;",
        good: "REINDEX INDEX CONCURRENTLY orders_state;",
    },
    Hazard {
        id: "detach-blocks",
        name: "partition detached with readers waiting",
        what: "Readers and writers of the whole partitioned table wait.",
        fires: "DETACH PARTITION without CONCURRENTLY holds ACCESS EXCLUSIVE on the partitioned table.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-partition-detach"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "DETACH PARTITION … CONCURRENTLY, outside a transaction; the table must have no default partition.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE visits DETACH PARTITION visits_2025;",
        good: "ALTER TABLE visits DETACH PARTITION visits_2025 CONCURRENTLY;",
    },
    Hazard {
        id: "constraint-builds-index",
        name: "constraint that builds an index",
        what: "A unique or exclusion constraint builds its index while nobody can read or write the table.",
        fires: "ALTER TABLE scans a table under ACCESS EXCLUSIVE to build an index of a new constraint.",
        decided_by: DecidedBy::Sql,
        squawk: &["disallowed-unique-constraint", "adding-serial-primary-key-field"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD CONSTRAINT once UNIQUE (id, placed); \
              ALTER TABLE payments ADD PRIMARY KEY (id);",
        good: "CREATE UNIQUE INDEX CONCURRENTLY once ON orders (id, placed); SET lock_timeout = '500ms'; \
               ALTER TABLE orders ADD CONSTRAINT once UNIQUE USING INDEX once;",
    },
    Hazard {
        id: "scan-under-lock",
        name: "table read under a lock",
        what: "The table is read from end to end under a lock that blocks its writers or readers.",
        fires: "A relation is scanned by a statement that changes the schema and holds a lock on it which conflicts with writes.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "Add the constraint NOT VALID and VALIDATE it in a later transaction; a CHECK that is valid spares SET NOT NULL its scan.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0);",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid;",
    },
    Hazard {
        id: "concurrently-in-transaction",
        name: "CONCURRENTLY inside a transaction",
        what: "PostgreSQL refuses it, and the migration ends half way, or its tool runs it in a way that nobody meant.",
        fires: "A statement with CONCURRENTLY ends in 25001, active SQL transaction.",
        decided_by: DecidedBy::Sql,
        squawk: &["ban-concurrent-index-creation-in-transaction"],
        shown: Shown::Trace,
        checks: &[CheckId::UpgStep],
        remedy: "Give the statement a file of its own that the migration tool does not wrap.",
        bad: "BEGIN; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); COMMIT;",
        good: "CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "attach-scans",
        name: "partition attached with a scan",
        what: "The new partition, and the default one as well, is read from end to end while nobody can use it.",
        fires: "ATTACH PARTITION scans a table on which it holds a lock that blocks writes.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "A valid CHECK on the new partition that says what its bounds say; no default partition, or one with a CHECK that excludes them.",
        bad: "CREATE TABLE visits_2026 (at date NOT NULL); BEGIN; SET lock_timeout = '500ms'; \
               ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); \
               COMMIT;",
        good: "CREATE TABLE visits_2026 (at date NOT NULL, CHECK (at >= '2026-01-01' AND at < '2027-01-01')); \
               BEGIN; SET lock_timeout = '500ms'; \
               ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); \
               COMMIT;",
    },
    Hazard {
        id: "partition-created-in-place",
        name: "partition created in place",
        what: "The whole partitioned table is closed to everybody, and its default partition is read from end to end.",
        fires: "CREATE TABLE … PARTITION OF holds a lock that blocks reads or writes on a table that was there before.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "CREATE TABLE with the same columns, then ATTACH PARTITION, which lets readers and writers of the parent pass.",
        bad: "SET lock_timeout = '500ms'; \
               CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
        good: "CREATE TABLE visits_2026 (at date NOT NULL, CHECK (at >= '2026-01-01' AND at < '2027-01-01')); \
               SET lock_timeout = '500ms'; \
               ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');",
    },
    Hazard {
        id: "primary-key-checks-null",
        name: "primary key on a column that may be null",
        what: "The index is there, and yet the table is read from end to end while nobody can use it: to see that no value is null.",
        fires: "ADD PRIMARY KEY USING INDEX scans its table.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "Have the columns NOT NULL before, by way of a valid CHECK.",
        bad: "CREATE UNIQUE INDEX CONCURRENTLY payments_id ON payments (id); SET lock_timeout = '500ms'; \
               ALTER TABLE payments ADD CONSTRAINT payments_pkey PRIMARY KEY USING INDEX payments_id;",
        good: "CREATE UNIQUE INDEX CONCURRENTLY payments_id ON payments (id); SET lock_timeout = '500ms'; \
               ALTER TABLE payments ADD CONSTRAINT id_set CHECK (id IS NOT NULL) NOT VALID; \
               ALTER TABLE payments VALIDATE CONSTRAINT id_set; ALTER TABLE payments ALTER COLUMN id SET NOT NULL; \
               ALTER TABLE payments ADD CONSTRAINT payments_pkey PRIMARY KEY USING INDEX payments_id;",
    },
    Hazard {
        id: "exclusion-constraint",
        name: "exclusion constraint on a full table",
        what: "Its index is built while nobody can read or write the table, and there is no other way to it.",
        fires: "ALTER TABLE … ADD EXCLUDE scans its table.",
        decided_by: DecidedBy::Sql,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "Give it to a new table, fill that in batches, and change over.",
        bad: "SET lock_timeout = '500ms'; \
               ALTER TABLE payments ADD CONSTRAINT once EXCLUDE USING btree (id WITH =);",
        good: "CREATE TABLE payments_new (LIKE payments, CONSTRAINT once EXCLUDE USING btree (id WITH =)); \
               INSERT INTO payments_new SELECT * FROM payments WHERE id <= 100;",
    },
    Hazard {
        id: "foreign-key-validates",
        name: "foreign key checked at once",
        what: "Writers of both tables wait while every row of the referencing one is looked up.",
        fires: "ADD FOREIGN KEY scans a table under a lock that blocks its writers.",
        decided_by: DecidedBy::Sql,
        squawk: &["adding-foreign-key-constraint"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "Add it NOT VALID, commit, and VALIDATE it in another transaction.",
        bad: "SET lock_timeout = '500ms'; \
               ALTER TABLE payments ADD CONSTRAINT payments_order FOREIGN KEY (order_id) REFERENCES orders;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE payments ADD CONSTRAINT payments_order FOREIGN KEY (order_id) REFERENCES orders NOT VALID; \
               COMMIT; ALTER TABLE payments VALIDATE CONSTRAINT payments_order;",
    },
    Hazard {
        id: "check-validates",
        name: "CHECK checked at once",
        what: "Nobody can read or write the table while every row is checked.",
        fires: "ALTER TABLE … ADD CHECK scans its table under ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Sql,
        squawk: &["constraint-missing-not-valid"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "Add it NOT VALID, commit, and VALIDATE it in another transaction.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0);",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid;",
    },
    Hazard {
        id: "validate-in-same-transaction",
        name: "VALIDATE beside what it should come after",
        what: "The lock of an earlier statement is still held while the table is read: NOT VALID has won nothing.",
        fires: "VALIDATE CONSTRAINT scans a table on which its transaction already holds a lock that blocks writes.",
        decided_by: DecidedBy::Sql,
        squawk: &["constraint-missing-not-valid"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "COMMIT between the two.",
        bad: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid;",
    },
    Hazard {
        id: "validate-with-stronger-action",
        name: "VALIDATE beside a stronger action",
        what: "One ALTER TABLE takes the strongest lock of its actions: the table is read while nobody can use it.",
        fires: "ALTER TABLE with VALIDATE CONSTRAINT scans its table under a lock that blocks writes and that this statement took.",
        decided_by: DecidedBy::Sql,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "A statement of its own for VALIDATE.",
        bad: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid, ADD COLUMN channel text;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid; ALTER TABLE orders ADD COLUMN channel text;",
    },
    Hazard {
        id: "set-not-null-scans",
        name: "SET NOT NULL with a scan",
        what: "Nobody can read or write the table while every row is looked at for a null.",
        fires: "ALTER COLUMN … SET NOT NULL scans its table.",
        decided_by: DecidedBy::Catalog,
        squawk: &["adding-not-nullable-field"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "A CHECK (… IS NOT NULL) that is NOT VALID at first and validated then spares the scan.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ALTER COLUMN total SET NOT NULL;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               ALTER TABLE orders ADD CONSTRAINT total_set CHECK (total IS NOT NULL) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT total_set; \
               ALTER TABLE orders ALTER COLUMN total SET NOT NULL;",
    },
    Hazard {
        id: "required-column",
        name: "required column without a value",
        what: "It works on an empty table and is refused by production's.",
        fires: "ADD COLUMN … NOT NULL without a default ends in 23502: a row has no value for it.",
        decided_by: DecidedBy::Sql,
        squawk: &["adding-required-field"],
        shown: Shown::Trace,
        checks: &[CheckId::UpgStep],
        remedy: "Give it a constant default, or add it nullable, fill it and make it required then.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text NOT NULL;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text NOT NULL DEFAULT 'web';",
    },
];
