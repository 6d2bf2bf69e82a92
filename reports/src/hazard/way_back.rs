//! Hazards of the way back: a rollback is often harsher than the change that it undoes.

use super::{DecidedBy, Hazard, Shown};
use crate::check::CheckId;

/// The records.
pub(super) const WAY_BACK: &[Hazard] = &[
    Hazard {
        id: "way-back-rewrites",
        name: "way back that rewrites",
        what: "The change was free, and its rollback writes the table anew while nobody can use it.",
        fires: "ALTER COLUMN … TYPE rewrites a table whose column an earlier ALTER COLUMN … TYPE changed without.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "Leave the wider type in the rollback; hold the old bound by a CHECK that is NOT VALID.",
        bad: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ALTER COLUMN state TYPE varchar; COMMIT; \
               BEGIN; ALTER TABLE orders ALTER COLUMN state TYPE varchar(50); COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ALTER COLUMN state TYPE varchar; COMMIT; \
               BEGIN; ALTER TABLE orders ADD CONSTRAINT short CHECK (length(state) <= 50) NOT VALID; COMMIT;",
    },
    Hazard {
        id: "way-back-scans",
        name: "way back that scans",
        what: "DROP NOT NULL was free, and its rollback reads the table while nobody can use it.",
        fires: "SET NOT NULL scans a table after DROP NOT NULL on the same column.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold],
        remedy: "A CHECK that is NOT VALID, validated, then SET NOT NULL.",
        bad: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE customers ALTER COLUMN name DROP NOT NULL; COMMIT; \
               BEGIN; ALTER TABLE customers ALTER COLUMN name SET NOT NULL; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE customers ALTER COLUMN name DROP NOT NULL; COMMIT; \
               BEGIN; ALTER TABLE customers ADD CONSTRAINT name_set CHECK (name IS NOT NULL) NOT VALID; COMMIT; \
               ALTER TABLE customers VALIDATE CONSTRAINT name_set; \
               ALTER TABLE customers ALTER COLUMN name SET NOT NULL;",
    },
    Hazard {
        id: "way-back-drops-index",
        name: "way back that drops an index at once",
        what: "CREATE INDEX CONCURRENTLY let everybody pass, and DROP INDEX does not.",
        fires: "DROP INDEX without CONCURRENTLY of an index that an earlier statement made CONCURRENTLY.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-index-deletion"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "DROP INDEX CONCURRENTLY.",
        bad: "CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); SET lock_timeout = '500ms'; \
               DROP INDEX orders_placed;",
        good: "CREATE INDEX CONCURRENTLY orders_placed ON orders (placed); DROP INDEX CONCURRENTLY orders_placed;",
    },
    Hazard {
        id: "way-back-detaches",
        name: "way back that detaches at once",
        what: "ATTACH PARTITION let readers and writers of the parent pass, and DETACH does not.",
        fires: "DETACH PARTITION without CONCURRENTLY of a partition that an earlier statement attached.",
        decided_by: DecidedBy::Sql,
        squawk: &["require-concurrent-partition-detach"],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "DETACH PARTITION … CONCURRENTLY.",
        bad: "CREATE TABLE visits_2026 (at date NOT NULL); SET lock_timeout = '500ms'; \
               ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); \
               ALTER TABLE visits DETACH PARTITION visits_2026;",
        good: "CREATE TABLE visits_2026 (at date NOT NULL); \
               ALTER TABLE visits ATTACH PARTITION visits_2026 FOR VALUES FROM ('2026-01-01') TO ('2027-01-01'); \
               ALTER TABLE visits DETACH PARTITION visits_2026 CONCURRENTLY;",
    },
    Hazard {
        id: "way-back-drops-reference",
        name: "way back that closes the referenced table",
        what: "CREATE TABLE with a foreign key let readers of the referenced table pass, and DROP TABLE does not.",
        fires: "DROP TABLE of a table that an earlier statement made holds ACCESS EXCLUSIVE on another.",
        decided_by: DecidedBy::Catalog,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockHold, CheckId::LockWait],
        remedy: "Leave the table, or rename it away, and drop it in a quiet hour.",
        bad: "SET lock_timeout = '500ms'; BEGIN; \
               CREATE TABLE refunds (id bigint PRIMARY KEY, order_id bigint REFERENCES orders); COMMIT; BEGIN; \
               DROP TABLE refunds; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               CREATE TABLE refunds (id bigint PRIMARY KEY, order_id bigint REFERENCES orders); COMMIT; BEGIN; \
               ALTER TABLE refunds RENAME TO refunds_retired; COMMIT;",
    },
    Hazard {
        id: "way-back-drops-trigger",
        name: "way back that closes the table for a trigger",
        what: "CREATE TRIGGER let readers pass, and DROP TRIGGER does not.",
        fires: "DROP TRIGGER of a trigger that an earlier statement made holds ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Sql,
        squawk: &[],
        shown: Shown::Trace,
        checks: &[CheckId::LockWait],
        remedy: "ALTER TABLE … DISABLE TRIGGER, which readers pass; drop it in a quiet hour.",
        bad: "SET lock_timeout = '500ms'; BEGIN; \
               CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch(); COMMIT; \
               BEGIN; DROP TRIGGER orders_touch ON orders; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; \
               CREATE TRIGGER orders_touch BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch(); COMMIT; \
               BEGIN; ALTER TABLE orders DISABLE TRIGGER orders_touch; COMMIT;",
    },
];
