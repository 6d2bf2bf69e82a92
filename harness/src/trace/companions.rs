//! Locks that a statement outside a transaction takes on the indexes of its tables.
//!
//! No session of ours can hold an index without its table, so that a statement cannot be made to wait at one. Which mode
//! it takes follows from the statement alone; the source is PostgreSQL's code, named beside each.

use std::collections::BTreeSet;

use fulldress_reports::lock::LockMode;

use super::observer::{Held, Relation, Relations};
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
    let named = |index: &Relation| mentions(&statement.sql, &index.name);
    let locked = |table: u32| locks.iter().any(|held| held.oid == table);
    let exclusively =
        |table: u32| locks.iter().any(|held| held.oid == table && held.mode == LockMode::AccessExclusiveLock);
    let on = |mode: LockMode, takes: &dyn Fn(u32, &Relation) -> bool| -> Vec<Held> {
        let indexes =
            before.iter().filter(|(_, relation)| relation.table.is_some_and(|table| takes(table, relation)));
        let held = |(oid, index): (&u32, &Relation)| Held {
            oid: *oid,
            relation: index.name.clone(),
            kind: index.kind,
            mode,
        };
        indexes.map(held).collect()
    };
    if full || statement.is("CLUSTER") || statement.is("REINDEX") && !concurrently {
        // `reindex_index` in index.c, which `rebuild_relation` in cluster.c ends in.
        on(LockMode::AccessExclusiveLock, &|table, _| locked(table))
    } else if statement.is("VACUUM") {
        // `heap_vacuum_rel` in vacuumlazy.c opens the indexes with it.
        on(LockMode::RowExclusiveLock, &|table, _| locked(table))
    } else if statement.is("REINDEX") {
        // `ReindexRelationConcurrently` in indexcmds.c: the old index is dropped at the end (`AcquireDeletionLock` in
        // dependency.c), when nobody plans with it any more.
        let by_name = statement.words(3).iter().any(|word| word == "INDEX");
        on(LockMode::AccessExclusiveLock, &|table, index| locked(table) && (!by_name || named(index)))
    } else if statement.is("DROP") {
        // `index_drop` in index.c: the last phase.
        on(LockMode::AccessExclusiveLock, &|table, index| locked(table) && named(index))
    } else if statement.is("ALTER") {
        // `DetachPartitionFinalize` in tablecmds.c, the one ALTER TABLE that runs outside a transaction: it detaches the
        // indexes of the partition from those of the partitioned table.
        on(LockMode::AccessExclusiveLock, &|table, index| index.partition && exclusively(table))
    } else {
        Vec::new()
    }
}
