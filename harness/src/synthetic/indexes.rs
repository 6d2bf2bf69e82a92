//! Indexes of a large table: switched off while its rows go in, built again afterwards.
//!
//! Called by `writer`. The entry in the catalog is marked as not ready, which the server then leaves alone; rebuilding marks it ready. So
//! names, definitions, comments and dependencies stay as they are, which dropping and creating would have to restore. Only a superuser
//! may, and only a mirror, whose data is disposable, is treated so.

use sqlx::{AssertSqlSafe, PgConnection};

use super::FillError;
use super::encode::quote;
use super::fill::execute;

/// Rows from which on building an index at once is faster than adding row by row.
pub(super) const LARGE: u64 = 100_000;

/// Indexes of a table that are switched off, by name.
pub(super) struct Suspended(Vec<String>);

/// Switches off every index of a table that is in use.
pub(super) async fn suspend(connection: &mut PgConnection, table: &str) -> Result<Suspended, FillError> {
    let query = format!(
        "UPDATE pg_catalog.pg_index SET indisready = false, indisvalid = false
         WHERE indrelid = {}::regclass AND indisready AND indisvalid AND indislive RETURNING indexrelid::regclass::text",
        quote(table)
    );
    let names = sqlx::query_scalar(AssertSqlSafe(query)).persistent(false).fetch_all(connection).await;
    names.map(Suspended).map_err(FillError::server("switch off indexes"))
}

impl Suspended {
    /// Builds them again. The inner error is the server's word on a key that is not unique.
    pub(super) async fn rebuild(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Result<(), String>, FillError> {
        let mut refusal = Ok(());
        for index in &self.0 {
            match execute(connection, &format!("REINDEX INDEX {index}")).await {
                Err(FillError::Server { source: sqlx::Error::Database(error), .. }) => {
                    refusal = Err(error.message().to_owned());
                }
                other => other?,
            }
        }
        Ok(refusal)
    }
}
