//! Locks that a statement outside a transaction takes on the indexes of its tables.
//!
//! No session of ours can hold an index without its table, so that a statement cannot be made to wait at one. Which mode
//! it takes follows from the statement alone; the source is PostgreSQL's code, named beside each.

use std::collections::BTreeSet;

use fulldress_reports::lock::LockMode;

use super::observer::{Held, Relations};
use super::script::Statement;
use crate::recorder::statement::mentions;

/// Whether tables are what it works on: a database or a tablespace is not in the lock table of relations.
pub(super) fn touches_tables(statement: &Statement) -> bool {
    !["SYSTEM", "DATABASE", "TABLESPACE", "SUBSCRIPTION"].iter().any(|object| {
        let words = statement.words(2);
        ["ALTER", "CREATE", "DROP"].iter().any(|verb| words == [*verb, *object])
    })
}

/// Locks on indexes of the tables in `locks`.
pub(super) fn of(statement: &Statement, locks: &BTreeSet<Held>, before: &Relations) -> Vec<Held> {
    let full = statement.is("VACUUM") && statement.words(6).iter().any(|word| word == "FULL");
    let concurrently = statement.words(8).iter().any(|word| word == "CONCURRENTLY");
    let (mode, named_only) = if full || statement.is("CLUSTER") || statement.is("REINDEX") && !concurrently {
        // `reindex_index` in index.c, which `rebuild_relation` in cluster.c ends in.
        (LockMode::AccessExclusiveLock, false)
    } else if statement.is("VACUUM") {
        // `heap_vacuum_rel` in vacuumlazy.c opens the indexes with it.
        (LockMode::RowExclusiveLock, false)
    } else if statement.is("REINDEX") {
        // `ReindexRelationConcurrently` in indexcmds.c: the old index is dropped at the end (`AcquireDeletionLock` in
        // dependency.c), when nobody plans with it any more.
        let by_name = statement.words(3).iter().any(|word| word == "INDEX");
        (LockMode::AccessExclusiveLock, by_name)
    } else if statement.is("DROP") {
        // `index_drop` in index.c: the last phase.
        (LockMode::AccessExclusiveLock, true)
    } else {
        return Vec::new();
    };
    let tables: BTreeSet<u32> = locks.iter().map(|held| held.oid).collect();
    let indexes = before.iter().filter(|(_, relation)| {
        relation.table.is_some_and(|table| tables.contains(&table))
            && (!named_only || mentions(&statement.sql, &relation.name))
    });
    indexes
        .map(|(oid, relation)| Held { oid: *oid, relation: relation.name.clone(), kind: relation.kind, mode })
        .collect()
}
