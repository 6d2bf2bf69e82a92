//! The session beside the migrator's: what that one holds and waits for, as the server's lock table has it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fulldress_reports::lock::LockMode;
use sqlx::postgres::types::Oid;
use sqlx::{Connection, PgConnection, Row};

/// Between two looks at a statement that runs: short, since what runs outside a transaction lets go at once.
const LOOK_PAUSE: Duration = Duration::from_micros(200);

/// A lock on a relation that was committed when it was seen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    pub(super) oid: u32,
    pub(super) relation: String,
    pub(super) kind: &'static str,
    pub(super) mode: LockMode,
}

/// A committed relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Relation {
    pub(super) name: String,
    pub(super) kind: &'static str,
    /// The file that holds its rows.
    filenode: u32,
    scans: i64,
    rows_read: i64,
    /// The table of an index.
    pub(super) table: Option<u32>,
    /// Whether it is a part of a partitioned table or index.
    pub(super) partition: bool,
}

impl Relation {
    /// Whether the rows are in another file now.
    pub(super) const fn file_differs(&self, old: &Self) -> bool {
        self.filenode != old.filenode
    }

    /// Scans from end to end that any session made.
    pub(super) const fn scans(&self) -> i64 {
        self.scans
    }

    /// Rows that those read.
    pub(super) const fn rows_read(&self) -> i64 {
        self.rows_read
    }
}

/// Committed relations by their number.
pub(super) type Relations = BTreeMap<u32, Relation>;

/// A session that looks at another one.
pub(super) struct Observer {
    connection: PgConnection,
    pid: i32,
}

const LOCKS: &str = "SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
     c.relkind::pg_catalog.text, l.mode \
     FROM pg_catalog.pg_locks l \
     JOIN pg_catalog.pg_class c ON c.oid = l.relation \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     WHERE l.pid = $1 AND l.locktype = 'relation' \
     AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
     AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

const RELATIONS: &str = "SELECT c.oid, pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), \
     c.relkind::pg_catalog.text, c.relfilenode, i.indrelid, \
     COALESCE(s.seq_scan, 0), COALESCE(s.seq_tup_read, 0), c.relispartition \
     FROM pg_catalog.pg_class c \
     JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
     LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
     LEFT JOIN pg_catalog.pg_stat_all_tables s ON s.relid = c.oid \
     WHERE c.relkind <> 'c' AND c.relkind <> 't' \
     AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'";

impl Observer {
    /// Looks at the session `pid` through a connection to the same database.
    pub(super) const fn new(connection: PgConnection, pid: i32) -> Self {
        Self { connection, pid }
    }

    /// Ends the session.
    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        self.connection.close().await
    }

    /// Locks on user relations that are committed: what the migrator's own transaction made is nobody else's.
    pub(super) async fn locks(&mut self) -> Result<BTreeSet<Held>, sqlx::Error> {
        read_locks(&mut self.connection, self.pid).await
    }

    /// Looks again and again until the future ends. `stopped` hears whom the migrator waits for, and may let it go on.
    pub(super) async fn watch<T>(
        &mut self,
        work: impl Future<Output = T>,
        mut stopped: impl AsyncFnMut(&[i32]) -> Result<(), sqlx::Error>,
    ) -> Result<(T, BTreeSet<Held>), sqlx::Error> {
        tokio::pin!(work);
        let mut seen = BTreeSet::new();
        let mut done = None;
        loop {
            let look = look(&mut self.connection, self.pid);
            tokio::pin!(look);
            // A look is never given up half way: its answer would be the next one's.
            let (locks, blockers) = loop {
                tokio::select! {
                    biased;
                    result = &mut work, if done.is_none() => done = Some(result),
                    look = &mut look => break look?,
                }
            };
            if let Some(done) = done {
                return Ok((done, seen));
            }
            seen.extend(locks);
            if blockers.is_empty() {
                tokio::time::sleep(LOOK_PAUSE).await;
            } else {
                stopped(&blockers).await?;
            }
        }
    }

    /// Committed relations, and what all sessions together have read of them.
    pub(super) async fn relations(&mut self) -> Result<Relations, sqlx::Error> {
        let rows = sqlx::query(RELATIONS).fetch_all(&mut self.connection).await?;
        let mut relations = Relations::new();
        for row in rows {
            let relation = Relation {
                name: row.try_get(1)?,
                kind: kind(&row.try_get::<String, _>(2)?),
                filenode: row.try_get::<Oid, _>(3)?.0,
                table: row.try_get::<Option<Oid>, _>(4)?.map(|oid| oid.0),
                scans: row.try_get(5)?,
                rows_read: row.try_get(6)?,
                partition: row.try_get(7)?,
            };
            relations.insert(row.try_get::<Oid, _>(0)?.0, relation);
        }
        Ok(relations)
    }

    /// Partitions of a relation, itself included.
    pub(super) async fn partitions(&mut self, oid: u32) -> Result<Vec<u32>, sqlx::Error> {
        let query = "SELECT relid::pg_catalog.oid FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass)";
        let rows = sqlx::query(query).bind(Oid(oid)).fetch_all(&mut self.connection).await?;
        let mut found: Vec<u32> = Vec::new();
        for row in rows {
            found.push(row.try_get::<Oid, _>(0)?.0);
        }
        if !found.contains(&oid) {
            found.push(oid);
        }
        Ok(found)
    }
}

/// Locks of a session, and the sessions that it waits for.
async fn look(connection: &mut PgConnection, pid: i32) -> Result<(BTreeSet<Held>, Vec<i32>), sqlx::Error> {
    // In this order: a session that waits has its request in the table already.
    let blockers: Vec<i32> = sqlx::query_scalar("SELECT pg_catalog.pg_blocking_pids($1)")
        .bind(pid)
        .fetch_one(&mut *connection)
        .await?;
    Ok((read_locks(connection, pid).await?, blockers))
}

async fn read_locks(connection: &mut PgConnection, pid: i32) -> Result<BTreeSet<Held>, sqlx::Error> {
    let mut locks = BTreeSet::new();
    for row in sqlx::query(LOCKS).bind(pid).fetch_all(connection).await? {
        let mode: String = row.try_get(3)?;
        let Some(mode) = LockMode::parse(&mode) else { continue };
        locks.insert(Held {
            oid: row.try_get::<Oid, _>(0)?.0,
            relation: row.try_get(1)?,
            kind: kind(&row.try_get::<String, _>(2)?),
            mode,
        });
    }
    Ok(locks)
}

fn kind(relkind: &str) -> &'static str {
    match relkind {
        "p" => "partitioned table",
        "i" | "I" => "index",
        "S" => "sequence",
        "v" => "view",
        "m" => "materialized view",
        "f" => "foreign table",
        _ => "table",
    }
}
