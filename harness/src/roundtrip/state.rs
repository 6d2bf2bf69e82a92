//! What is compared at each stage of a walk: the schema, and the rows.
//!
//! Called by [`super::staircase`]; the one place that knows how fingerprints are read.

use std::collections::BTreeMap;

use fulldress_reports::evidence::Difference;
use sqlx::PgConnection;
use time::{Duration, OffsetDateTime};

use super::{Error, definition};
use crate::fingerprint::SchemaFingerprint;
use crate::fingerprint::data::{Columns, DataDigest};
use crate::fingerprint::lost;

/// A database at one stage.
#[derive(Debug, Clone)]
pub(super) struct State {
    schema: SchemaFingerprint,
    /// Empty where no rows are compared.
    columns: Columns,
    data: DataDigest,
}

/// What is different between two states.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) differences: Vec<Difference>,
    pub(super) classes: Vec<String>,
    pub(super) reordered: Vec<String>,
    /// Tables whose rows are not the same.
    pub(super) differing: Vec<String>,
}

impl State {
    /// Reads a database, its rows where there are any to be compared.
    pub(super) async fn read(probe: &mut PgConnection, rows: bool) -> Result<Self, Error> {
        let columns = match rows {
            true => Columns::read(probe).await.map_err(Error::server("the tables could not be read"))?,
            false => Columns::default(),
        };
        Self::read_columns(probe, columns).await
    }

    /// Reads a database after the way back, with the columns that were there before alone.
    pub(super) async fn read_back(probe: &mut PgConnection, before: &Self) -> Result<Self, Error> {
        Self::read_columns(probe, before.columns.clone()).await
    }

    async fn read_columns(probe: &mut PgConnection, columns: Columns) -> Result<Self, Error> {
        let unread = || Error::server("the schema could not be read");
        let mut schema = SchemaFingerprint::read(probe).await.map_err(unread())?;
        let query = "SELECT extract(epoch FROM clock_timestamp())::int8";
        let now: i64 = sqlx::query_scalar(query).fetch_one(&mut *probe).await.map_err(unread())?;
        let now = OffsetDateTime::UNIX_EPOCH + Duration::seconds(now);
        schema.look_past(|kind, text| definition::compared(kind, text, now));
        let data =
            DataDigest::read(probe, &columns).await.map_err(Error::server("the rows could not be read"))?;
        Ok(Self { schema, columns, data })
    }

    /// Whether the schema is the same; the order of columns does not count, nor the moment at which something was made.
    pub(super) fn has_schema_of(&self, other: &Self) -> bool {
        self.schema.digest() == other.schema.digest()
    }

    /// What did not come back.
    pub(super) fn change(&self, after: &Self) -> Change {
        let classes = self.schema.classes(&after.schema);
        Change {
            differences: self.schema.differences(&after.schema),
            classes: classes.into_iter().map(str::to_owned).collect(),
            reordered: self.schema.order_only(&after.schema),
            differing: self.data.differing(&after.data),
        }
    }
}

/// Rows that are gone or have another value, by table; tables that lost none are left out.
pub(super) async fn lost(
    before: &mut PgConnection,
    after: &mut PgConnection,
    of: &State,
    tables: &[String],
) -> Result<BTreeMap<String, u64>, Error> {
    let lost = lost::lost(before, after, &of.columns, tables).await;
    lost.map(|lost| lost.rows).map_err(Error::server("the lost rows could not be counted"))
}
