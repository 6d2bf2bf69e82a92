//! Runs one script as a migrator would, and looks at every statement from the session beside it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use fulldress_reports::lock::LockMode;
use fulldress_reports::trace::{Lock, Scan, SqlError, Statement as Traced, Transactions};
use fulldress_workloads::clock::Clock;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use super::companions;
use super::observer::{Held, Observer, Relation, Relations};
use super::script::{Class, Statement};
use super::stops::{STOPPERS_MAX, Stops};
use crate::recorder::statement::mentions;

/// Said of statements after the one that failed.
pub(super) const NOT_RUN: &str = "not run: an earlier statement failed";

/// Why a trace cannot go on: the instrument failed, not a statement.
#[derive(Debug, thiserror::Error)]
#[error("the database could not be observed: {0}")]
pub struct TraceError(#[from] pub sqlx::Error);

/// What a statement showed.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Every mode seen per relation.
    pub(super) locks: BTreeSet<Held>,
    /// Numbers of the relations that were committed before its transaction.
    pub(super) before: BTreeSet<u32>,
    rewritten: Vec<String>,
    rebuilt: Vec<String>,
    scanned: Vec<Scan>,
    invalid_indexes: Vec<String>,
    unindexed_foreign_keys: Vec<String>,
    duration_us: u64,
    timeouts: (u64, u64),
    error: Option<SqlError>,
    unobserved: Option<String>,
}

impl Seen {
    /// The format's form; strongest mode per relation.
    pub(super) fn traced(self, index: usize, statement: &Statement) -> Traced {
        let mut strongest: BTreeMap<u32, &Held> = BTreeMap::new();
        for held in &self.locks {
            let entry = strongest.entry(held.oid).or_insert(held);
            if held.mode > entry.mode {
                *entry = held;
            }
        }
        let lock = |held: &&Held| Lock {
            relation: held.relation.clone(),
            mode: held.mode,
            kind: held.kind.to_owned(),
        };
        let mut locks: Vec<Lock> = strongest.values().map(lock).collect();
        // What hurts most stands first; a table before its indexes.
        locks.sort_by_key(|lock| (Reverse(lock.mode), lock.kind == "index", lock.relation.clone()));
        Traced {
            index,
            line: statement.line,
            sql: statement.sql.clone(),
            locks,
            rewritten: self.rewritten,
            rebuilt: self.rebuilt,
            scanned: self.scanned,
            invalid_indexes: self.invalid_indexes,
            unindexed_foreign_keys: self.unindexed_foreign_keys,
            duration_us: self.duration_us,
            lock_timeout_ms: self.timeouts.0,
            statement_timeout_ms: self.timeouts.1,
            error: self.error,
            unobserved: self.unobserved,
            hazards: Vec::new(),
        }
    }
}

/// What a script showed.
#[derive(Debug)]
pub(super) struct Run {
    /// One a statement.
    pub(super) seen: Vec<Seen>,
    /// Why it went no further, where the instrument failed.
    pub(super) lost: Option<TraceError>,
}

/// What the migrator's session tells of itself: files of the relations as its own transaction has them, and its scans.
type Own = BTreeMap<u32, (u32, i64, i64)>;

/// A migrator's session with the observer beside it.
pub(super) struct Runner {
    options: PgConnectOptions,
    migrator: PgConnection,
    observer: Observer,
    clock: Clock,
    in_transaction: bool,
    /// Relations committed before the transaction, and the locks held since earlier statements of it.
    before: Relations,
    held: BTreeSet<Held>,
    timeouts: Option<(u64, u64)>,
}

impl Runner {
    /// Connects both sessions; `migrator` says as whom.
    pub(super) async fn start(
        migrator: &PgConnectOptions,
        observer: &PgConnectOptions,
    ) -> Result<Self, TraceError> {
        let mut session = migrator
            .clone()
            .application_name("fulldress trace: migrator")
            // A parallel worker's scans and locks are its own, and would be missing from the leader's.
            .options([("max_parallel_workers_per_gather", "0"), ("max_parallel_maintenance_workers", "0")])
            .connect()
            .await?;
        let pid = sqlx::query_scalar("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut session).await?;
        let beside = observer.clone().application_name("fulldress trace: observer").connect().await?;
        Ok(Self {
            options: observer.clone(),
            migrator: session,
            observer: Observer::new(beside, pid),
            clock: Clock::start(),
            in_transaction: false,
            before: Relations::new(),
            held: BTreeSet::new(),
            timeouts: None,
        })
    }

    /// Ends both sessions and waits until the server has let them go: a database with a session cannot be copied.
    pub(super) async fn close(self) -> Result<(), TraceError> {
        // A connection that was cut is closed already.
        let _ = self.migrator.close().await;
        self.observer.close().await?;
        Ok(())
    }

    /// Runs the statements until one fails or the database is lost.
    pub(super) async fn run(&mut self, statements: &[Statement], transactions: Transactions) -> Run {
        let mut seen = Vec::new();
        let lost = self.each(statements, transactions, &mut seen).await.err();
        if lost.is_some() {
            let unobserved = |text: &str| Seen { unobserved: Some(text.to_owned()), ..Seen::default() };
            if seen.len() < statements.len() {
                seen.push(unobserved("the database was lost while it ran"));
            }
            seen.resize(statements.len(), unobserved("not run: the database was lost before"));
        }
        Run { seen, lost }
    }

    async fn each(
        &mut self,
        statements: &[Statement],
        transactions: Transactions,
        all: &mut Vec<Seen>,
    ) -> Result<(), TraceError> {
        if transactions == Transactions::File {
            self.begin().await?;
            self.send("BEGIN").await.map_err(failed)?;
        }
        for statement in statements {
            // A transaction command in a file that is to be run statement by statement has nothing to act on.
            let idle = transactions == Transactions::Statement
                && matches!(statement.class, Class::Begin | Class::End | Class::Savepoint);
            let seen = if idle { Seen::default() } else { self.statement(statement).await? };
            let stop = seen.error.is_some();
            all.push(seen);
            if stop {
                let unobserved = Some(NOT_RUN.to_owned());
                all.resize(statements.len(), Seen { unobserved, ..Seen::default() });
                // The connection may be what failed.
                let _ = (&mut self.migrator).execute("ROLLBACK").await;
                self.in_transaction = false;
                return Ok(());
            }
        }
        if self.in_transaction {
            // The file's own transaction that is never ended is the file's fault, and ends with its session.
            let end = if transactions == Transactions::File { "COMMIT" } else { "ROLLBACK" };
            let ended = self.send(end).await;
            self.in_transaction = false;
            if let (Err(error), Some(last)) = (ended, all.last_mut()) {
                last.error = Some(error);
            }
        }
        Ok(())
    }

    async fn statement(&mut self, statement: &Statement) -> Result<Seen, TraceError> {
        match statement.class {
            Class::Begin => {
                self.begin().await?;
                self.control(statement).await
            }
            Class::End => {
                let seen = self.control(statement).await?;
                self.in_transaction = false;
                self.held.clear();
                Ok(seen)
            }
            Class::SetTransaction => self.control(statement).await,
            Class::Savepoint => {
                let seen = self.control(statement).await?;
                // Going back lets go of what was taken since.
                self.held = self.observer.locks().await?;
                Ok(seen)
            }
            Class::Outside if !self.in_transaction => self.outside(statement).await,
            _ if self.in_transaction => self.inside(statement).await,
            _ => self.alone(statement).await,
        }
    }

    /// What there is before a transaction.
    async fn begin(&mut self) -> Result<(), TraceError> {
        self.before = self.observer.relations().await?;
        self.held.clear();
        self.in_transaction = true;
        Ok(())
    }

    /// A statement that takes no lock on a relation.
    async fn control(&mut self, statement: &Statement) -> Result<Seen, TraceError> {
        let timeouts = self.timeouts.unwrap_or_default();
        let started_us = self.clock.now_us();
        let error = self.send(&statement.sql).await.err();
        let duration_us = self.clock.now_us().saturating_sub(started_us);
        self.timeouts = None;
        Ok(Seen { duration_us, timeouts, error, ..Seen::default() })
    }

    /// A statement in a transaction of its own, which stays open until we have looked.
    async fn alone(&mut self, statement: &Statement) -> Result<Seen, TraceError> {
        let timeouts = self.effective_timeouts().await?;
        self.begin().await?;
        self.send("BEGIN").await.map_err(failed)?;
        let mut seen = self.inside(statement).await?;
        seen.timeouts = timeouts;
        // Its own COMMIT inside (a procedure, a DO block) is refused in a transaction of ours.
        let refused =
            seen.error.as_ref().is_some_and(|error| ["2D000", "25001"].contains(&error.sqlstate.as_str()));
        let end = if seen.error.is_none() { "COMMIT" } else { "ROLLBACK" };
        let ended = self.send(end).await;
        self.in_transaction = false;
        self.held.clear();
        if refused {
            return self.outside(statement).await;
        }
        if seen.error.is_none() {
            seen.error = ended.err();
        }
        Ok(seen)
    }

    /// A statement inside a transaction: what it took is held until that ends.
    async fn inside(&mut self, statement: &Statement) -> Result<Seen, TraceError> {
        if statement.class == Class::Setting {
            let seen = self.control(statement).await?;
            self.timeouts = None;
            return Ok(seen);
        }
        let timeouts = self.effective_timeouts().await?;
        let own_before = self.own().await?;
        let makes_key = mentions(&statement.sql, "references");
        let unindexed = match makes_key {
            true => names_of(&mut self.migrator, UNINDEXED).await?,
            false => BTreeSet::new(),
        };
        let started_us = self.clock.now_us();
        let sent = send(&mut self.migrator, &statement.sql);
        let (sent, passing) = self.observer.watch(sent, async |_| Ok(())).await?;
        let duration_us = self.clock.now_us().saturating_sub(started_us);
        let before: BTreeSet<u32> = self.before.keys().copied().collect();
        let mut seen = Seen { duration_us, timeouts, before, ..Seen::default() };
        let new = |held: &BTreeSet<Held>, known: &BTreeSet<Held>| -> BTreeSet<Held> {
            held.iter().filter(|held| !known.contains(held)).cloned().collect()
        };
        if let Err(error) = sent {
            seen.locks = new(&passing, &self.held);
            seen.error = Some(error);
            seen.unobserved = Some(
                "it failed, and PostgreSQL let its locks go at once: the list has those that were seen while it ran"
                    .to_owned(),
            );
            return Ok(seen);
        }
        let held = self.observer.locks().await?;
        seen.locks = new(&held, &self.held);
        // What a block of PL/pgSQL took and rolled back is gone by now, but may have been seen. Weak ones are left out,
        // since it is chance which are seen: an INSERT holds its indexes only while it writes.
        let strong = |held: &Held| held.mode >= LockMode::ShareUpdateExclusiveLock;
        // Nor does an index say anything whose table is held as strongly: some statements let it go again before their
        // end (`SetIndexStorageProperties` in tablecmds.c), so that it is chance too whether it is seen.
        let told_by_table = |index: &Held| {
            let table = self.before.get(&index.oid).and_then(|relation| relation.table);
            held.iter().any(|held| Some(held.oid) == table && held.mode >= index.mode)
        };
        let passed = new(&passing, &self.held).into_iter();
        seen.locks.extend(passed.filter(|held| strong(held) && !told_by_table(held)));
        self.held = held;
        let own = self.own().await?;
        for (oid, relation) in &self.before {
            let Some((file, scans, rows)) = own.get(oid) else { continue };
            let (old_file, old_scans, old_rows) = own_before.get(oid).copied().unwrap_or_default();
            seen.changed(relation, *file != old_file, scans - old_scans, rows - old_rows, statement);
        }
        if makes_key {
            let left = names_of(&mut self.migrator, UNINDEXED).await?;
            seen.unindexed_foreign_keys = left.difference(&unindexed).cloned().collect();
        }
        seen.sort();
        Ok(seen)
    }

    /// A statement that cannot run inside a transaction.
    async fn outside(&mut self, statement: &Statement) -> Result<Seen, TraceError> {
        let timeouts = self.effective_timeouts().await?;
        self.flush().await?;
        let before = self.observer.relations().await?;
        let invalid = names_of(&mut self.migrator, INVALID).await?;
        let touched = self.touched(statement, &before).await?;
        let names: Vec<String> =
            touched.iter().filter_map(|oid| Some(before.get(oid)?.name.clone())).collect();
        let mut stops = Stops::hold(&self.options, &names).await?;
        let started_us = self.clock.now_us();
        let sent = send(&mut self.migrator, &statement.sql);
        let (sent, mut locks) =
            self.observer.watch(sent, async |blockers| stops.stopped(blockers).await).await?;
        let duration_us = self.clock.now_us().saturating_sub(started_us).saturating_sub(stops.held_up_us);
        locks.extend(companions::of(statement, &locks, &before));
        // Under the name from before: a phase of the statement may have given it another.
        let named = |held: Held| Some(Held { relation: before.get(&held.oid)?.name.clone(), ..held });
        let locks = locks.into_iter().filter_map(named).collect();
        let mut seen = Seen { locks, duration_us, timeouts, ..Seen::default() };
        seen.error = sent.err();
        seen.unobserved = if seen.error.is_some() {
            Some("it failed: the list has the locks that were seen while it ran".to_owned())
        } else if names.len() > STOPPERS_MAX {
            Some(format!(
                "it runs outside a transaction over {} tables, of which {STOPPERS_MAX} were watched",
                names.len()
            ))
        } else if !names.is_empty() && stops.met == 0 {
            Some(
                "it runs outside a transaction, and met none of the places where its locks can be read"
                    .to_owned(),
            )
        } else {
            None
        };
        drop(stops);
        self.flush().await?;
        let after = self.observer.relations().await?;
        for (oid, old) in &before {
            let Some(new) = after.get(oid) else { continue };
            seen.changed(
                old,
                new.file_differs(old),
                new.scans() - old.scans(),
                new.rows_read() - old.rows_read(),
                statement,
            );
        }
        let left = names_of(&mut self.migrator, INVALID).await?;
        seen.invalid_indexes = left.difference(&invalid).cloned().collect();
        seen.before = before.keys().copied().collect();
        seen.sort();
        Ok(seen)
    }

    /// Tables that a statement names, with their partitions, and the tables of indexes that it names; all of them where
    /// it names none.
    async fn touched(
        &mut self,
        statement: &Statement,
        before: &Relations,
    ) -> Result<BTreeSet<u32>, TraceError> {
        let mut touched = BTreeSet::new();
        if !companions::touches_tables(statement) {
            return Ok(touched);
        }
        for (oid, relation) in before {
            if mentions(&statement.sql, &relation.name) {
                let table = relation.table.unwrap_or(*oid);
                touched.extend(self.observer.partitions(table).await?);
            }
        }
        if touched.is_empty() {
            let tables = before.iter().filter(|(_, relation)| relation.kind == "table");
            touched.extend(tables.map(|(oid, _)| *oid));
        }
        Ok(touched)
    }

    /// `lock_timeout` and `statement_timeout` of the migrator's session, ms.
    async fn effective_timeouts(&mut self) -> Result<(u64, u64), TraceError> {
        if let Some(timeouts) = self.timeouts {
            return Ok(timeouts);
        }
        let query = "SELECT (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'), \
                     (SELECT setting::pg_catalog.int8 FROM pg_catalog.pg_settings WHERE name = 'statement_timeout')";
        // Not kept as a prepared statement: DISCARD ALL would take it away.
        let read = sqlx::query_as::<_, (i64, i64)>(query).persistent(false);
        let (lock, statement) = read.fetch_one(&mut self.migrator).await?;
        let timeouts = (u64::try_from(lock).unwrap_or(0), u64::try_from(statement).unwrap_or(0));
        self.timeouts = Some(timeouts);
        Ok(timeouts)
    }

    /// Files and scans of the relations as the migrator's own transaction has them.
    async fn own(&mut self) -> Result<Own, TraceError> {
        let query = "SELECT c.oid, c.relfilenode, COALESCE(s.seq_scan, 0), COALESCE(s.seq_tup_read, 0) \
                     FROM pg_catalog.pg_class c \
                     LEFT JOIN pg_catalog.pg_stat_xact_all_tables s ON s.relid = c.oid \
                     WHERE c.oid >= 16384 AND c.relkind IN ('r', 'm', 'i', 'p')";
        let mut own = Own::new();
        for row in sqlx::query(query).persistent(false).fetch_all(&mut self.migrator).await? {
            let file = row.try_get::<Oid, _>(1)?.0;
            own.insert(row.try_get::<Oid, _>(0)?.0, (file, row.try_get(2)?, row.try_get(3)?));
        }
        Ok(own)
    }

    /// Has the migrator's statistics counted.
    async fn flush(&mut self) -> Result<(), TraceError> {
        (&mut self.migrator).execute("SELECT pg_catalog.pg_stat_force_next_flush()").await?;
        // They are handed in when a session goes idle after the next statement.
        (&mut self.migrator).execute("SELECT").await?;
        Ok(())
    }

    async fn send(&mut self, sql: &str) -> Result<(), SqlError> {
        send(&mut self.migrator, sql).await
    }
}

impl Seen {
    fn changed(&mut self, relation: &Relation, file: bool, scans: i64, rows: i64, statement: &Statement) {
        let name = relation.name.clone();
        // TRUNCATE gives a new file as well, but writes no row.
        let emptied = statement.is("TRUNCATE");
        if file && relation.kind == "index" {
            self.rebuilt.push(name.clone());
        } else if file && !emptied {
            self.rewritten.push(name.clone());
        }
        if scans > 0 {
            self.scanned.push(Scan { relation: name, rows: u64::try_from(rows).unwrap_or(0) });
        }
    }

    fn sort(&mut self) {
        self.rewritten.sort();
        self.rebuilt.sort();
        self.scanned.sort();
    }

    /// Adds locks that the statement asks for again although its transaction has them.
    pub(super) fn add_taken_again(&mut self, alone: &Self) {
        if self.error.is_none() && self.unobserved.is_none() && alone.error.is_none() {
            let known = |held: &&Held| self.before.contains(&held.oid);
            let again: Vec<Held> = alone.locks.iter().filter(known).cloned().collect();
            self.locks.extend(again);
        }
    }
}

/// Indexes that no query uses since their build has not ended.
const INVALID: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname) \
     FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE NOT i.indisvalid AND c.relkind = 'i' AND n.nspname !~ '^pg_'";
/// Foreign keys whose columns, in any order, begin no valid index of their table.
const UNINDEXED: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.relname) || '.' \
     || pg_catalog.quote_ident(c.conname) \
     FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_class t ON t.oid = c.conrelid \
     JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace \
     WHERE c.contype = 'f' AND NOT EXISTS ( \
         SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.conrelid AND i.indisvalid AND i.indpred IS NULL \
         AND c.conkey @> (i.indkey::pg_catalog.int2[])[0:pg_catalog.cardinality(c.conkey) - 1] \
         AND (i.indkey::pg_catalog.int2[])[0:pg_catalog.cardinality(c.conkey) - 1] @> c.conkey)";

/// Names that a query gives.
async fn names_of(
    connection: &mut PgConnection,
    query: &'static str,
) -> Result<BTreeSet<String>, TraceError> {
    // Not kept as a prepared statement: DISCARD ALL would take it away.
    let read = sqlx::query_scalar::<_, String>(query).persistent(false);
    Ok(read.fetch_all(connection).await?.into_iter().collect())
}

/// Sends a statement as it is: one query of the simple protocol.
async fn send(connection: &mut PgConnection, sql: &str) -> Result<(), SqlError> {
    match connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(error)) => {
            let error = error.downcast_ref::<PgDatabaseError>();
            Err(SqlError { sqlstate: error.code().to_owned(), message: error.message().to_owned() })
        }
        // Class 08: the connection was cut.
        Err(error) => Err(SqlError { sqlstate: "08006".to_owned(), message: error.to_string() }),
    }
}

/// A transaction command of ours that the server refuses.
fn failed(error: SqlError) -> TraceError {
    TraceError(sqlx::Error::Protocol(format!("{}: {}", error.sqlstate, error.message)))
}
