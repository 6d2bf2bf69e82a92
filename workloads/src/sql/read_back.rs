//! Reading a write back: a query with the write's key as its only parameter.

use futures_util::TryStreamExt as _;
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::prepare::Prepared;
use super::value::all_columns;

/// A query with one parameter, the key; prepared for one database.
#[derive(Debug)]
pub struct KeyedQuery {
    prepared: Prepared,
}

impl KeyedQuery {
    /// Lets the server describe the query.
    ///
    /// # Errors
    /// A sentence: what the server says, or that it does not take exactly one parameter.
    pub async fn prepare(connection: &mut PgConnection, text: &str) -> Result<Self, String> {
        let prepared = Prepared::new(connection, text).await?;
        prepared.takes(1).map_err(|_| format!("`{text}` must take one parameter, the key as $1"))?;
        Ok(Self { prepared })
    }

    /// Names of the columns that it gives.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        self.prepared.columns()
    }

    /// The rows of a key, in the form that the ledger keeps.
    ///
    /// # Errors
    /// A sentence: the key is no value of the parameter's type, or the server refuses.
    pub async fn rows(
        &self,
        connection: &mut PgConnection,
        key: &str,
    ) -> Result<Vec<Map<String, Value>>, String> {
        let arguments = self.prepared.encode(&[Some(key.to_owned())])?;
        let mut found = self.prepared.query(arguments).fetch(connection);
        let mut rows = Vec::new();
        while let Some(row) = found.try_next().await.map_err(|error| error.to_string())? {
            rows.push(all_columns(&row).ok_or("a column cannot be read")?);
        }
        Ok(rows)
    }
}
