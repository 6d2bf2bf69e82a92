//! Hazards of migrations: what a statement does to those who work beside it, as records, and which a traced statement
//! showed.
//!
//! A hazard is decided by what was measured (locks, scans, rewrites, limits in force), not by how a statement is written.
//! Each record has a bad and a good script; the reference is made from what these do when they are run.

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::Serialize;

use crate::lock::LockMode;
use crate::sql::{Token, tokens};
use crate::trace::{Script, Statement, Transactions};

/// A hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hazard {
    /// Stable for ever.
    pub id: &'static str,
    /// What it does to those beside it, one sentence.
    pub what: &'static str,
    /// When it fires.
    pub fires: &'static str,
    /// What decides it.
    pub decided_by: DecidedBy,
    /// What to do instead.
    pub remedy: &'static str,
    /// A script that shows it, on the tables of [`EXAMPLE_SETUP`].
    pub bad: &'static str,
    /// A script that reaches the same without it.
    pub good: &'static str,
}

/// What decides a hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DecidedBy {
    /// The text of the statement.
    Sql,
    /// The statement with the catalog that it meets.
    Catalog,
    /// Only a system that runs it.
    RunningSystem,
}

/// The tables that the examples work on.
pub const EXAMPLE_SETUP: &str = "\
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80) NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, state text, placed timestamp, total numeric(10,2));
CREATE INDEX orders_state ON orders (state);
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint REFERENCES orders, note text);
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, count(*) AS orders FROM orders GROUP BY customer_id;
CREATE UNIQUE INDEX totals_customer ON totals (customer_id);
CREATE TABLE events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE visits (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
INSERT INTO orders SELECT n, 1 + n % 500, 'open', '2025-01-01'::timestamp, n FROM generate_series(1, 2000) n;
INSERT INTO items SELECT n, n, 'note' FROM generate_series(1, 2000) n;
INSERT INTO events SELECT '2025-01-01'::date + n % 300, 'seen' FROM generate_series(1, 1000) n;
REFRESH MATERIALIZED VIEW totals;
";

/// Every hazard that a trace can show, in the order of the reference.
pub const HAZARDS: &[Hazard] = &[
    Hazard {
        id: "no-lock-timeout",
        what: "It may wait for its lock without end, and everybody who comes after it waits behind it.",
        fires: "A lock that blocks reads or writes of a relation that was there before is asked for with lock_timeout 0.",
        decided_by: DecidedBy::RunningSystem,
        remedy: "SET lock_timeout to what clients may wait, and try again when it strikes.",
        bad: "ALTER TABLE orders ADD COLUMN channel text;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text;",
    },
    Hazard {
        id: "rewrite",
        what: "All rows are written to a new file while nobody can read or write the table.",
        fires: "A table has another file after the statement, and its lock is ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Catalog,
        remedy: "Add a new column, fill it in batches, and change over; or keep to changes of type that need no rewrite.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,4);",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,2);",
    },
    Hazard {
        id: "scan-under-lock",
        what: "The table is read from end to end under a lock that blocks its writers or readers.",
        fires: "A relation is scanned by a statement that changes the schema and holds a lock on it which conflicts with writes.",
        decided_by: DecidedBy::Catalog,
        remedy: "Add the constraint NOT VALID and VALIDATE it in a later transaction; a CHECK that is valid spares SET NOT NULL its scan.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0);",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD CONSTRAINT paid CHECK (total >= 0) NOT VALID; COMMIT; \
               ALTER TABLE orders VALIDATE CONSTRAINT paid;",
    },
    Hazard {
        id: "index-build-blocks-writes",
        what: "Writers of the table wait until the index is built.",
        fires: "CREATE INDEX holds SHARE on a table that was there before.",
        decided_by: DecidedBy::Sql,
        remedy: "CREATE INDEX CONCURRENTLY, outside a transaction; look for an INVALID index afterwards.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX orders_placed ON orders (placed);",
        good: "CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "index-rebuild-blocks",
        what: "Readers that plan with the index wait, and writers of its table wait.",
        fires: "REINDEX without CONCURRENTLY: an index has a new file under ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Sql,
        remedy: "REINDEX … CONCURRENTLY.",
        bad: "SET lock_timeout = '500ms'; REINDEX INDEX orders_state;",
        good: "REINDEX INDEX CONCURRENTLY orders_state;",
    },
    Hazard {
        id: "constraint-builds-index",
        what: "A unique or exclusion constraint builds its index while nobody can read or write the table.",
        fires: "ALTER TABLE scans a table under ACCESS EXCLUSIVE to build an index of a new constraint.",
        decided_by: DecidedBy::Sql,
        remedy: "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … USING INDEX.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD CONSTRAINT once UNIQUE (id, placed);",
        good: "CREATE UNIQUE INDEX CONCURRENTLY once ON orders (id, placed); SET lock_timeout = '500ms'; \
               ALTER TABLE orders ADD CONSTRAINT once UNIQUE USING INDEX once;",
    },
    Hazard {
        id: "other-relation-locked",
        what: "A table that the statement does not name is locked as well: the other end of a foreign key, a parent, a default partition.",
        fires: "A lock that blocks writes is on a table that does not appear in the statement.",
        decided_by: DecidedBy::Catalog,
        remedy: "Know that both are locked; take them in the order in which the application does, and with a lock_timeout.",
        bad: "SET lock_timeout = '500ms'; DROP TABLE items;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE items RENAME TO items_retired;",
    },
    Hazard {
        id: "work-under-exclusive-lock",
        what: "A lock that nobody can pass is held while other statements run.",
        fires: "A statement runs in a transaction in which an earlier one took ACCESS EXCLUSIVE on a relation that was there before.",
        decided_by: DecidedBy::Sql,
        remedy: "Commit right after the statement that takes the lock; put the rest before it or into a transaction of its own.",
        bad: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD COLUMN channel text; SELECT count(*) FROM customers; COMMIT;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN channel text; BEGIN; SELECT count(*) FROM customers; COMMIT;",
    },
    Hazard {
        id: "backfill-under-exclusive-lock",
        what: "Rows are changed while nobody can read or write a table whose schema was changed before.",
        fires: "UPDATE, INSERT, DELETE or MERGE runs in a transaction that holds ACCESS EXCLUSIVE on a relation that was there before.",
        decided_by: DecidedBy::Sql,
        remedy: "Change the schema, commit, and fill in batches of bounded size, each a transaction.",
        bad: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD COLUMN channel text; UPDATE orders SET channel = 'web'; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD COLUMN channel text; COMMIT; \
               UPDATE orders SET channel = 'web' WHERE id <= 1000; UPDATE orders SET channel = 'web' WHERE id > 1000;",
    },
    Hazard {
        id: "several-exclusive-locks",
        what: "Two tables are closed to everybody at once, and who takes them in another order deadlocks.",
        fires: "A transaction holds ACCESS EXCLUSIVE on more than one table that was there before.",
        decided_by: DecidedBy::Sql,
        remedy: "One table, one transaction.",
        bad: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD COLUMN a int; ALTER TABLE customers ADD COLUMN b int; COMMIT;",
        good: "SET lock_timeout = '500ms'; BEGIN; ALTER TABLE orders ADD COLUMN a int; COMMIT; \
               BEGIN; ALTER TABLE customers ADD COLUMN b int; COMMIT;",
    },
    Hazard {
        id: "refresh-blocks-readers",
        what: "Readers of the materialized view wait until it is filled again.",
        fires: "REFRESH MATERIALIZED VIEW holds ACCESS EXCLUSIVE.",
        decided_by: DecidedBy::Sql,
        remedy: "REFRESH MATERIALIZED VIEW CONCURRENTLY; it needs a unique index.",
        bad: "SET lock_timeout = '500ms'; REFRESH MATERIALIZED VIEW totals;",
        good: "SET lock_timeout = '500ms'; REFRESH MATERIALIZED VIEW CONCURRENTLY totals;",
    },
    Hazard {
        id: "concurrently-under-lock-timeout",
        what: "lock_timeout also bounds the wait for older transactions: when it strikes, an INVALID index or a half detached partition stays.",
        fires: "A statement with CONCURRENTLY that waits for older transactions runs with a lock_timeout.",
        decided_by: DecidedBy::RunningSystem,
        remedy: "SET lock_timeout = 0 for it: what it holds while it waits blocks neither reads nor writes.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
        good: "SET lock_timeout = 0; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "index-drop-blocks",
        what: "Readers and writers of the table wait: first for the lock behind whoever is at work, then for the drop.",
        fires: "DROP INDEX without CONCURRENTLY holds ACCESS EXCLUSIVE on the index's table.",
        decided_by: DecidedBy::Sql,
        remedy: "DROP INDEX CONCURRENTLY, outside a transaction.",
        bad: "SET lock_timeout = '500ms'; DROP INDEX orders_state;",
        good: "DROP INDEX CONCURRENTLY orders_state;",
    },
    Hazard {
        id: "detach-blocks",
        what: "Readers and writers of the whole partitioned table wait.",
        fires: "DETACH PARTITION without CONCURRENTLY holds ACCESS EXCLUSIVE on the partitioned table.",
        decided_by: DecidedBy::Sql,
        remedy: "DETACH PARTITION … CONCURRENTLY, outside a transaction; the table must have no default partition.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE visits DETACH PARTITION visits_2025;",
        good: "ALTER TABLE visits DETACH PARTITION visits_2025 CONCURRENTLY;",
    },
    Hazard {
        id: "explicit-table-lock",
        what: "A whole table is closed to writers, or to everybody, where rows would do.",
        fires: "LOCK TABLE in a mode that blocks writes.",
        decided_by: DecidedBy::Sql,
        remedy: "SELECT … FOR UPDATE of the rows; an advisory lock where two programs must not meet.",
        bad: "SET lock_timeout = '500ms'; BEGIN; LOCK TABLE orders; UPDATE orders SET state = 'paid' WHERE id = 1; COMMIT;",
        good: "BEGIN; SELECT id FROM orders WHERE id = 1 FOR UPDATE; UPDATE orders SET state = 'paid' WHERE id = 1; COMMIT;",
    },
    Hazard {
        id: "no-statement-timeout",
        what: "Work that grows with the table is done under a lock, and nothing ends it when production is larger than thought.",
        fires: "A table is scanned, or its storage or an index of it is written anew, under a lock that blocks writes, with statement_timeout 0.",
        decided_by: DecidedBy::RunningSystem,
        remedy: "SET statement_timeout to what clients may wait in all.",
        bad: "SET lock_timeout = '500ms'; CREATE INDEX orders_placed ON orders (placed);",
        good: "SET lock_timeout = '500ms'; SET statement_timeout = '5s'; CREATE INDEX orders_placed ON orders (placed);",
    },
    Hazard {
        id: "table-read-again",
        what: "The table is read or written from end to end once more, under a lock, where one statement could do both.",
        fires: "A statement scans or rewrites, under a lock that blocks writes, a table that an earlier statement of the script already scanned or rewrote so.",
        decided_by: DecidedBy::Catalog,
        remedy: "One ALTER TABLE with several actions reads the table once.",
        bad: "SET lock_timeout = '500ms'; ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,4); \
              ALTER TABLE orders ALTER COLUMN placed TYPE date;",
        good: "SET lock_timeout = '500ms'; \
               ALTER TABLE orders ALTER COLUMN total TYPE numeric(12,4), ALTER COLUMN placed TYPE date;",
    },
    Hazard {
        id: "index-if-not-exists",
        what: "An INVALID index that an earlier attempt left behind counts as there: the script ends well, and no query uses it.",
        fires: "CREATE INDEX CONCURRENTLY IF NOT EXISTS.",
        decided_by: DecidedBy::Sql,
        remedy: "DROP INDEX CONCURRENTLY IF EXISTS before it, and no IF NOT EXISTS.",
        bad: "CREATE INDEX CONCURRENTLY IF NOT EXISTS orders_placed ON orders (placed);",
        good: "DROP INDEX CONCURRENTLY IF EXISTS orders_placed; CREATE INDEX CONCURRENTLY orders_placed ON orders (placed);",
    },
    Hazard {
        id: "fails",
        what: "The server refuses the statement, and what comes after it in the script does not run.",
        fires: "A statement ends in an error.",
        decided_by: DecidedBy::RunningSystem,
        remedy: "Read the error; a script that may run twice needs IF EXISTS and IF NOT EXISTS.",
        bad: "ALTER TABLE orders ADD COLUMN state text;",
        good: "SET lock_timeout = '500ms'; ALTER TABLE orders ADD COLUMN IF NOT EXISTS state text;",
    },
];

/// The record of an id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Hazard> {
    HAZARDS.iter().find(|hazard| hazard.id == id)
}

/// Notes in each statement of a script the hazards that it showed.
pub fn annotate(script: &mut Script) {
    let mut exclusive: Vec<String> = Vec::new();
    let mut worked: Vec<String> = Vec::new();
    let mut own = false;
    for statement in &mut script.statements {
        let words = words(&statement.sql);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["BEGIN", ..] | ["START", "TRANSACTION", ..] => own = true,
            ["COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] if !words.contains(&"TO") => own = false,
            _ => {}
        }
        let open = own || script.transactions == Transactions::File;
        if !open {
            exclusive.clear();
        }
        let found = hazards(statement, &words, &Earlier { exclusive: &exclusive, worked: &worked });
        statement.hazards = found.into_iter().map(str::to_owned).collect();
        worked.extend(works_on(statement).map(str::to_owned));
        if open {
            exclusive.extend(tables(statement, LockMode::AccessExclusiveLock).map(str::to_owned));
            exclusive.sort();
            exclusive.dedup();
        }
    }
}

/// Relations that hold rows and are locked in a mode at least this strong.
fn tables(statement: &Statement, at_least: LockMode) -> impl Iterator<Item = &str> {
    statement
        .locks
        .iter()
        .filter(move |lock| lock.mode >= at_least && lock.kind != "index" && lock.kind != "sequence")
        .map(|lock| lock.relation.as_str())
}

/// Statements that only say how others run.
const CONTROL: [&str; 11] =
    ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "SET", "RESET", "SHOW"];

/// Tables that it reads or writes from end to end under a lock that blocks their writers.
fn works_on(statement: &Statement) -> impl Iterator<Item = &str> {
    let scanned = statement.scanned.iter().map(|scan| &scan.relation);
    let blocks = |relation: &str| {
        statement.locks.iter().any(|lock| lock.relation == relation && lock.mode.blocks_clients())
    };
    statement.rewritten.iter().chain(scanned).map(String::as_str).filter(move |relation| blocks(relation))
}

/// What earlier statements did: tables that the transaction holds under ACCESS EXCLUSIVE, and those that the script has
/// worked through.
struct Earlier<'a> {
    exclusive: &'a [String],
    worked: &'a [String],
}

fn hazards(statement: &Statement, words: &[&str], earlier: &Earlier<'_>) -> Vec<&'static str> {
    let exclusive = earlier.exclusive;
    let verb = words.first().copied().unwrap_or_default();
    let concurrently = words.contains(&"CONCURRENTLY");
    let changes_rows = ["UPDATE", "INSERT", "DELETE", "MERGE", "COPY"].contains(&verb);
    let locked = |relation: &str, at_least| tables(statement, at_least).any(|table| table == relation);
    // An index alone that is rebuilt closes its table to everybody who plans with it; one that CONCURRENTLY replaces or
    // drops is closed when nobody does.
    let blocking = statement
        .locks
        .iter()
        .any(|lock| lock.mode.blocks_clients() && !(concurrently && lock.kind == "index"));
    let everything = LockMode::AccessExclusiveLock;
    let scans: Vec<&str> = statement
        .scanned
        .iter()
        .map(|scan| scan.relation.as_str())
        .filter(|relation| {
            statement.locks.iter().any(|lock| lock.relation == *relation && lock.mode.blocks_clients())
        })
        .collect();
    let rewrites = statement.rewritten.iter().any(|relation| locked(relation, everything));
    let builds_constraint = verb == "ALTER"
        && !rewrites
        && !scans.is_empty()
        && ["UNIQUE", "PRIMARY", "EXCLUDE"].iter().any(|word| words.contains(word))
        && !words.contains(&"USING");
    let creates_index = verb == "CREATE" && words.iter().take(3).any(|word| *word == "INDEX");
    let unnamed = statement.locks.iter().any(|lock| {
        lock.mode.blocks_clients()
            && ["table", "partitioned table"].contains(&lock.kind.as_str())
            && !named(words, &lock.relation)
    });
    let mut all_exclusive: Vec<&str> = tables(statement, everything).collect();
    let fresh = all_exclusive.iter().any(|relation| !exclusive.iter().any(|held| held == relation));
    all_exclusive.extend(exclusive.iter().map(String::as_str));
    all_exclusive.sort_unstable();
    all_exclusive.dedup();
    let under = !exclusive.is_empty() && !CONTROL.contains(&verb);
    [
        ("no-lock-timeout", blocking && statement.lock_timeout_ms == 0),
        ("rewrite", rewrites),
        (
            "scan-under-lock",
            !scans.is_empty()
                && !rewrites
                && !builds_constraint
                && !creates_index
                && verb != "REINDEX"
                && !changes_rows
                && verb != "SELECT",
        ),
        ("index-build-blocks-writes", creates_index && blocking),
        ("index-rebuild-blocks", verb == "REINDEX" && !concurrently && !statement.rebuilt.is_empty()),
        ("constraint-builds-index", builds_constraint),
        ("other-relation-locked", unnamed),
        ("work-under-exclusive-lock", under && !changes_rows),
        ("backfill-under-exclusive-lock", under && changes_rows),
        ("several-exclusive-locks", fresh && all_exclusive.len() > 1),
        ("refresh-blocks-readers", verb == "REFRESH" && tables(statement, everything).next().is_some()),
        (
            "concurrently-under-lock-timeout",
            concurrently && verb != "REFRESH" && statement.lock_timeout_ms > 0,
        ),
        ("index-drop-blocks", verb == "DROP" && words.get(1) == Some(&"INDEX") && !concurrently && blocking),
        ("detach-blocks", words.contains(&"DETACH") && !concurrently && blocking),
        ("explicit-table-lock", verb == "LOCK" && blocking),
        (
            "no-statement-timeout",
            statement.statement_timeout_ms == 0
                && (works_on(statement).next().is_some() || blocking && !statement.rebuilt.is_empty()),
        ),
        (
            "table-read-again",
            !changes_rows
                && works_on(statement).any(|table| earlier.worked.iter().any(|known| known == table)),
        ),
        (
            "index-if-not-exists",
            creates_index && concurrently && words.windows(3).any(|three| three == ["IF", "NOT", "EXISTS"]),
        ),
        ("fails", statement.error.is_some()),
    ]
    .into_iter()
    .filter(|(_, fires)| *fires)
    .map(|(id, _)| id)
    .collect()
}

/// Words of a statement in capitals, names in quotes without these.
fn words(sql: &str) -> Vec<String> {
    let words = tokens(sql).filter_map(|(token, _)| match token {
        Token::Word(word) => Some(word.trim_matches('"').to_uppercase()),
        _ => None,
    });
    words.collect()
}

/// Whether a relation's bare name is among the words.
fn named(words: &[&str], relation: &str) -> bool {
    let bare = relation.rsplit('.').next().unwrap_or(relation).trim_matches('"').to_uppercase();
    words.contains(&bare.as_str())
}

/// The two examples of a hazard as they were traced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The one that shows it.
    pub bad: Script,
    /// The one that does not.
    pub good: Script,
}

/// The reference of all hazards as Markdown, with what the examples did; one a hazard, in the order of [`HAZARDS`].
#[must_use]
pub fn reference(executed: &[Executed]) -> String {
    let mut out = String::from(REFERENCE_HEAD);
    // Writing to a String cannot fail, here and below.
    _ = writeln!(out, "```sql\n{EXAMPLE_SETUP}```");
    for (hazard, executed) in HAZARDS.iter().zip(executed) {
        let decided = match hazard.decided_by {
            DecidedBy::Sql => "the statement alone",
            DecidedBy::Catalog => "the statement with the catalog that it meets",
            DecidedBy::RunningSystem => "only a running system",
        };
        _ = writeln!(out, "\n## `{}`\n\n{}\n", hazard.id, hazard.what);
        _ = writeln!(out, "- fires: {}\n- decided by: {decided}\n- instead: {}", hazard.fires, hazard.remedy);
        for (name, script) in [("bad", &executed.bad), ("good", &executed.good)] {
            _ = writeln!(out, "\n{name}:\n\n```");
            for statement in &script.statements {
                write_executed(&mut out, statement);
            }
            _ = writeln!(out, "```");
        }
    }
    out
}

/// A statement with what was measured, without times: those differ from run to run.
fn write_executed(out: &mut String, statement: &Statement) {
    let sql: Vec<&str> = statement.sql.split_whitespace().collect();
    _ = writeln!(out, "{};", sql.join(" "));
    for lock in &statement.locks {
        _ = writeln!(out, "    -- {} on {} {}", lock.mode.sql(), lock.kind, lock.relation);
    }
    for relation in &statement.rewritten {
        _ = writeln!(out, "    -- rewrites {relation}");
    }
    for scan in &statement.scanned {
        _ = writeln!(out, "    -- reads all of {} ({} rows)", scan.relation, scan.rows);
    }
    if let Some(error) = &statement.error {
        _ = writeln!(out, "    -- error {}: {}", error.sqlstate, error.message);
    }
    if !statement.hazards.is_empty() {
        _ = writeln!(out, "    -- hazards: {}", statement.hazards.join(", "));
    }
}

const REFERENCE_HEAD: &str = "\
# Hazards

What `fulldress trace` names under `hazards`. Each is decided by what the server did: its lock table, the scans that it
counted, the files of its relations. Below each stand a script that shows it and one that does not, with what was measured
when they ran on PostgreSQL 15; a test runs them again and fails when this page differs. Written by
`FULLDRESS_REGENERATE=1 cargo test --test trace hazards`.

The tables that the examples work on:

";
