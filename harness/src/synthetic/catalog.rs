//! What the catalog says of the tables that may be filled, read in one round trip into plain types.
//!
//! Called by `fill`; `plan` and `types` read what it gives.

use std::sync::Arc;

use serde::Deserialize;
use sqlx::{AssertSqlSafe, PgConnection};

use super::FillError;

const QUERY: &str = include_str!("catalog.sql");

/// Keys that are read of a table that is not ours to fill.
const KEYS_MAX: u32 = 10_000;

/// The answer as the server gives it: lists that name each other by object identifiers.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Catalog {
    pub(super) is_superuser: bool,
    pub(super) relations: Vec<Relation>,
    pub(super) columns: Vec<Column>,
    pub(super) sequences: Vec<Sequence>,
    pub(super) foreign_keys: Vec<ForeignKey>,
    pub(super) checks: Vec<Check>,
    pub(super) unique: Vec<Unique>,
    pub(super) types: Vec<Type>,
}

/// An ordinary or partitioned table; partitions are none of their own.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Relation {
    pub(super) oid: i64,
    /// Schema-qualified and quoted.
    pub(super) name: String,
    pub(super) partitioned: bool,
    /// False where its file has no page.
    pub(super) may_have_rows: bool,
    /// The condition of each leaf; absent where it takes every row.
    pub(super) partitions: Vec<Option<String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Column {
    pub(super) relation: i64,
    pub(super) number: i16,
    pub(super) name: String,
    pub(super) quoted: String,
    #[serde(rename = "type")]
    pub(super) type_oid: i64,
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    pub(super) has_default: bool,
    pub(super) generated: bool,
}

/// A sequence that gives a column its default, or its identity.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Sequence {
    pub(super) relation: i64,
    pub(super) column: i16,
    /// Quoted, and qualified where needed.
    pub(super) name: String,
    pub(super) increment: i64,
    /// What it would give next.
    pub(super) next: i64,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct ForeignKey {
    pub(super) relation: i64,
    pub(super) name: String,
    pub(super) columns: Vec<i16>,
    pub(super) target: i64,
    pub(super) target_name: String,
    pub(super) target_columns: Vec<i16>,
    /// Their quoted names.
    pub(super) target_quoted: Vec<String>,
    /// MATCH FULL: all columns null, or none.
    pub(super) full: bool,
}

/// A CHECK of a table or of a domain.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Check {
    #[serde(default)]
    pub(super) relation: i64,
    pub(super) name: String,
    pub(super) condition: String,
}

/// A unique index, or that of an exclusion constraint.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Unique {
    pub(super) relation: i64,
    pub(super) name: String,
    /// Zero stands for an expression.
    pub(super) columns: Vec<i16>,
    pub(super) expressions: Option<String>,
    pub(super) predicate: Option<String>,
    pub(super) nulls_equal: bool,
    /// Of an exclusion constraint, column by column.
    pub(super) operators: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct Type {
    pub(super) oid: i64,
    pub(super) name: String,
    /// `pg_type.typtype`.
    pub(super) kind: String,
    pub(super) category: String,
    pub(super) element: i64,
    pub(super) base: i64,
    pub(super) modifier: i32,
    pub(super) not_null: bool,
    /// What a range or multirange is made of.
    pub(super) subtype: i64,
    pub(super) labels: Option<Vec<String>>,
    pub(super) fields: Option<Vec<Field>>,
    pub(super) checks: Option<Vec<Check>>,
}

/// A field of a composite type.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Field {
    #[serde(rename = "type")]
    pub(super) type_oid: i64,
    pub(super) modifier: i32,
}

/// Reads it.
pub(super) async fn read(connection: &mut PgConnection) -> Result<Catalog, FillError> {
    let text: String = sqlx::query_scalar(QUERY)
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(FillError::server("read the catalog"))?;
    Ok(serde_json::from_str(&text)?)
}

/// Which relations have rows, in the catalog's order.
pub(super) async fn with_rows(
    connection: &mut PgConnection,
    relations: &[Relation],
) -> Result<Vec<bool>, FillError> {
    let questions: Vec<String> = relations
        .iter()
        .filter(|relation| relation.may_have_rows)
        .map(|relation| {
            let only = if relation.partitioned { "" } else { "ONLY " };
            format!("EXISTS (SELECT FROM {only}{})", relation.name)
        })
        .collect();
    if questions.is_empty() {
        return Ok(vec![false; relations.len()]);
    }
    let query = format!("SELECT ARRAY[{}]", questions.join(", "));
    let answers: Vec<bool> = sqlx::query_scalar(AssertSqlSafe(query))
        .persistent(false)
        .fetch_one(connection)
        .await
        .map_err(FillError::server("look which tables have rows"))?;
    let mut answers = answers.into_iter();
    Ok(relations.iter().map(|relation| relation.may_have_rows && answers.next().unwrap_or(true)).collect())
}

/// The keys that a foreign key may refer to, as text, in their order.
pub(super) async fn keys(
    connection: &mut PgConnection,
    key: &ForeignKey,
) -> Result<Arc<[Vec<String>]>, FillError> {
    let columns = &key.target_quoted;
    let texts: Vec<String> = columns.iter().map(|column| format!("{column}::text")).collect();
    let known: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    let query = format!(
        "SELECT ARRAY[{}] FROM {} WHERE {} ORDER BY 1 LIMIT {KEYS_MAX}",
        texts.join(", "),
        key.target_name,
        known.join(" AND ")
    );
    let keys: Vec<Vec<String>> = sqlx::query_scalar(AssertSqlSafe(query))
        .persistent(false)
        .fetch_all(connection)
        .await
        .map_err(FillError::server("read the keys that references need"))?;
    Ok(keys.into())
}
