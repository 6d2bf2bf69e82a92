//! Fingerprints of a database: its schema, object by object, and its data, table by table.
//!
//! Called by the conductor before and after an upgrade and its way back; whoever compares two states tells the
//! differences. Nothing here depends on object ids, on the physical order of anything, or on a restart. Schema
//! `fulldress`, its event triggers and the roles `fulldress…` belong to the recorder and are left out.

pub mod catalog;
pub mod data;
pub mod groups;
pub mod lost;

mod globals;
mod objects;
mod privileges;
mod relations;
mod remarks;
mod routines;
mod row;
mod search;
mod surroundings;
mod types;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use fulldress_reports::evidence::Difference;
use futures_util::TryStreamExt as _;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Either, PgConnection, Row, ValueRef};

use self::surroundings::Surroundings;

/// What an object is, and which one.
type Name = (String, String);

/// What the catalog says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    definition: String,
    /// What is compared in place of the definition, where the reader looks past something.
    compared: Option<String>,
    /// The object that this one falls with, as `kind name`.
    parent: Option<String>,
}

impl Entry {
    fn essence(&self) -> &str {
        self.compared.as_deref().unwrap_or(&self.definition)
    }
}

/// Columns of a table or a view, as lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ColumnOrder {
    pub(crate) physical: String,
    pub(crate) sorted: String,
}

/// What of an object is compared; see [`SchemaFingerprint::look_past`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Compared {
    pub(crate) definition: String,
    /// The columns, where the definition is one without their order.
    pub(crate) columns: Option<ColumnOrder>,
}

/// A schema as named definitions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SchemaFingerprint {
    /// By kind and qualified object.
    objects: BTreeMap<Name, Entry>,
    /// By table or view. Kept apart from the definitions: it comes back differently without any fault.
    column_order: BTreeMap<String, ColumnOrder>,
}

impl SchemaFingerprint {
    /// Reads the schema of the connection's database, in one statement; in an open transaction as that sees it. Kinds of which there was
    /// no object at all just before are left out of the statement.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub async fn read(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let surroundings = Surroundings::of(connection).await?;
        let answer = surroundings.around(&[], &catalog::question());
        let answers = sqlx::raw_sql(AssertSqlSafe(answer)).fetch_all(&mut *connection).await?;
        // The other two are the settings before and after.
        let answer = answers.iter().find(|row| row.len() == 1).map(|row| text(row, 0)).transpose()?.flatten();
        let statement = catalog::statement(surroundings.major, answer.as_deref().unwrap_or_default());
        let script = surroundings.around(&[], &statement);
        let mut fingerprint = Self::default();
        let mut results = sqlx::raw_sql(AssertSqlSafe(script)).fetch_many(connection);
        while let Some(result) = results.try_next().await? {
            let Either::Right(row) = result else { continue };
            // The settings before and after.
            if row.len() != 4 {
                continue;
            }
            let text = |column: usize| text(&row, column);
            let (kind, object) = (text(0)?.unwrap_or_default(), text(1)?.unwrap_or_default());
            let (definition, parent) = (text(2)?.unwrap_or_default(), text(3)?);
            if kind == catalog::ORDER {
                let order = ColumnOrder { physical: definition, sorted: parent.unwrap_or_default() };
                fingerprint.column_order.insert(object, order);
            } else {
                fingerprint.objects.insert((kind, object), Entry { definition, compared: None, parent });
            }
        }
        Ok(fingerprint)
    }

    /// Compares objects from here on by what a rule makes of their kind and definition; none leaves the definition. Differences
    /// still show the definitions.
    pub(crate) fn look_past(&mut self, rule: impl Fn(&str, &str) -> Option<Compared>) {
        for ((kind, object), entry) in &mut self.objects {
            let Some(Compared { definition, columns }) = rule(kind, &entry.definition) else { continue };
            entry.compared = Some(definition);
            if let Some(columns) = columns {
                self.column_order.insert(object.clone(), columns);
            }
        }
    }

    /// SHA-256 over all definitions, hexadecimal; column order does not count.
    #[must_use]
    pub fn digest(&self) -> String {
        let mut digest = Sha256::new();
        for ((kind, object), entry) in &self.objects {
            for part in [kind, object, entry.essence()] {
                digest.update(part.as_bytes());
                digest.update([0]);
            }
        }
        hex(&digest.finalize())
    }

    /// Differences from `self` to `after`, named object by object, by kind and name.
    #[must_use]
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        let mut differences: Vec<Difference> = Vec::new();
        for (name, before) in &self.objects {
            let now = after.objects.get(name);
            if now.is_none_or(|now| now.essence() != before.essence()) {
                differences.push(difference(name, Some(before), now));
            }
        }
        let new = after.objects.iter().filter(|(name, _)| !self.objects.contains_key(*name));
        differences.extend(new.map(|(name, now)| difference(name, None, Some(now))));
        differences.sort_by(|left, right| (&left.kind, &left.object).cmp(&(&right.kind, &right.object)));
        differences
    }

    /// Tables, and views that are compared so, with the same columns in another order.
    #[must_use]
    pub fn order_only(&self, after: &Self) -> Vec<String> {
        let moved = |(table, order): &(&String, &ColumnOrder)| {
            after
                .column_order
                .get(*table)
                .is_some_and(|now| now.physical != order.physical && now.sorted == order.sorted)
        };
        self.column_order.iter().filter(moved).map(|(table, _)| table.clone()).collect()
    }

    /// How many objects there are, by kind.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for (kind, _) in self.objects.keys() {
            *counts.entry(kind.as_str()).or_default() += 1;
        }
        counts
    }
}

/// A column of text; thousands of rows are read, and what a value's type allows needs no check for each.
fn text(row: &PgRow, column: usize) -> Result<Option<String>, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    value.as_str().map(|text| Some(text.to_owned())).map_err(sqlx::Error::Decode)
}

fn difference((kind, object): &Name, before: Option<&Entry>, after: Option<&Entry>) -> Difference {
    let definition = |entry: Option<&Entry>| entry.map(|entry| entry.definition.clone());
    Difference {
        kind: kind.clone(),
        object: object.clone(),
        before: definition(before),
        after: definition(after),
    }
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}
