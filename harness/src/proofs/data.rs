//! What the workload leaves alone and what it touches, how large tables are, and whether a sequence fell behind the
//! largest value of its column.
//!
//! Called by the conductor around the data digest, which has a room of its own.

use std::collections::BTreeSet;

use fulldress_reports::evidence::{Difference, RelationSize};
use sqlx::{AssertSqlSafe, PgConnection, Row};

const TABLES: &str =
    "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'fulldress')";

/// Tables into which nothing was written since the statistics were reset; call [`reset_statistics`] before.
///
/// # Errors
/// When the statistics cannot be read.
pub async fn untouched(
    connection: &mut PgConnection,
    ignore: &[String],
) -> Result<BTreeSet<String>, sqlx::Error> {
    let query = "SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables
        WHERE schemaname <> 'fulldress' AND n_tup_ins + n_tup_upd + n_tup_del = 0";
    let names: Vec<String> = sqlx::query_scalar(query).fetch_all(connection).await?;
    Ok(names.into_iter().filter(|name| !ignore.contains(name)).collect())
}

/// Tables that statements of clients read or wrote since the statistics were reset.
///
/// # Errors
/// When the statistics cannot be read.
pub async fn read_or_written(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    let query = "SELECT format('%I.%I', schemaname, relname) FROM pg_stat_user_tables
        WHERE schemaname <> 'fulldress'
          AND coalesce(seq_scan, 0) + coalesce(idx_scan, 0) + n_tup_ins + n_tup_upd + n_tup_del > 0 ORDER BY 1";
    sqlx::query_scalar(query).fetch_all(connection).await
}

/// Forgets the counters that [`untouched`] reads.
///
/// # Errors
/// When the role may not.
pub async fn reset_statistics(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_stat_reset()").execute(connection).await.map(|_| ())
}

/// Every table, schema-qualified.
///
/// # Errors
/// When the catalog cannot be read.
pub async fn tables(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query(TABLES).fetch_all(connection).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Rows and bytes of every table, largest first. Rows are counted.
///
/// # Errors
/// When a table cannot be read.
pub async fn sizes(connection: &mut PgConnection) -> Result<Vec<RelationSize>, sqlx::Error> {
    let mut sizes = Vec::new();
    for row in sqlx::query(TABLES).fetch_all(&mut *connection).await? {
        let relation: String = row.try_get(0)?;
        let query = format!(
            "SELECT count(*), pg_total_relation_size('{}') FROM {relation}",
            relation.replace('\'', "''")
        );
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut *connection).await?;
        let (rows, bytes): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        sizes.push(RelationSize { relation, rows: rows.unsigned_abs(), bytes: bytes.unsigned_abs() });
    }
    sizes
        .sort_by(|left, right| right.bytes.cmp(&left.bytes).then_with(|| left.relation.cmp(&right.relation)));
    Ok(sizes)
}

/// Sequences that would next give a value which their column already holds.
///
/// # Errors
/// When a sequence or its column cannot be read.
pub async fn sequences_behind(connection: &mut PgConnection) -> Result<Vec<Difference>, sqlx::Error> {
    let query = "SELECT format('%I.%I', n.nspname, s.relname), d.refobjid::regclass::text, quote_ident(a.attname)
        FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.deptype IN ('a', 'i') AND d.classid = 'pg_class'::regclass AND n.nspname <> 'fulldress'";
    let mut behind = Vec::new();
    for row in sqlx::query(query).fetch_all(&mut *connection).await? {
        let (sequence, table, column): (String, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let query = format!(
            "SELECT (SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM {sequence}), (SELECT max({column})::bigint FROM {table})"
        );
        let row = sqlx::query(AssertSqlSafe(query)).fetch_one(&mut *connection).await?;
        let (last, largest): (i64, Option<i64>) = (row.try_get(0)?, row.try_get(1)?);
        if largest.is_some_and(|largest| largest > last) {
            behind.push(Difference {
                kind: "sequence".to_owned(),
                object: sequence,
                before: largest.map(|largest| format!("largest value in {table}.{column} is {largest}")),
                after: Some(format!("last value given is {last}")),
            });
        }
    }
    Ok(behind)
}
