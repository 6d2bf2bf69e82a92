//! Fills every empty table: catalog, plan, rows, sequences.
//!
//! Called by whoever has a schema without data; the room's entrance. Foreign keys are right by construction, so that the server's
//! triggers need not run where the role may switch them off.

use std::collections::BTreeMap;
use std::sync::Arc;

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};

use super::catalog;
use super::keys::SKEW;
use super::plan::{State, plan};
use super::writer::Writer;
use super::{FillError, Filled, FilledTable, Request};

/// Texts as this module reads and writes them; the mirror's data is disposable, so that no commit waits for the disk.
const SETTINGS: &str = "SET jit = off; SET maintenance_work_mem = '256MB'; SET synchronous_commit = off; SET client_min_messages = error; SET statement_timeout = 0; \
    SET lock_timeout = 0; SET DateStyle = ISO; SET IntervalStyle = postgres; SET TimeZone = 'UTC'; \
    SET bytea_output = hex; SET standard_conforming_strings = on; SET extra_float_digits = 1";
/// No trigger of the application, no check of a foreign key.
pub(super) const UNWATCHED: &str = "SET session_replication_role = replica";

/// Fills every empty ordinary or partitioned table outside the server's own schemas, `fulldress` and extensions. Tables that have rows
/// are left alone, and their keys are used.
///
/// # Errors
/// When the server does not let us in, or a connection breaks. A table that cannot be filled is told in [`Filled`].
pub async fn fill(server: &PgConnectOptions, request: &Request) -> Result<Filled, FillError> {
    let mut connection = connect(server).await?;
    let catalog = catalog::read(&mut connection).await?;
    let has_rows = catalog::with_rows(&mut connection, &catalog.relations).await?;
    let mut state =
        State { empty: has_rows.iter().map(|has_rows| !has_rows).collect(), keys: BTreeMap::new() };
    for key in &catalog.foreign_keys {
        if state.is_to_fill(&catalog, key.relation) && !state.is_to_fill(&catalog, key.target) {
            let keys = catalog::keys(&mut connection, key).await?;
            state.keys.insert((key.relation, key.name.clone()), keys);
        }
    }
    if catalog.is_superuser {
        execute(&mut connection, UNWATCHED).await?;
    }
    let mut writer = Writer::new(server, catalog.is_superuser, request.writers);
    let mut filled: BTreeMap<usize, FilledTable> = BTreeMap::new();
    let mut current = Arc::new(plan(&catalog, &state, request));
    // Tables that go alone, since one of them was refused when they went together.
    let mut alone = 0;
    loop {
        let mut waiting =
            current.order.iter().copied().filter(|place| !filled.contains_key(place)).peekable();
        let Some(&place) = waiting.peek() else { break };
        if alone == 0 {
            let together = writer.together(&current, waiting);
            match writer.insert(&mut connection, &current, &together).await? {
                Some(outcomes) => {
                    filled.extend(outcomes);
                    continue;
                }
                None => alone = together.len(),
            }
        }
        alone = alone.saturating_sub(1);
        let (outcome, was_tried) = writer.fill(&mut connection, &current, place).await?;
        filled.insert(place, outcome);
        if was_tried {
            // What refers to it must be planned anew, from the rows that there are.
            let oid = catalog.relations[place].oid;
            state.empty[place] = false;
            for key in catalog.foreign_keys.iter().filter(|key| key.target == oid) {
                let keys = catalog::keys(&mut connection, key).await?;
                state.keys.insert((key.relation, key.name.clone()), keys);
            }
            current = Arc::new(plan(&catalog, &state, request));
        }
    }
    writer.advance_sequences(&mut connection).await?;
    let mut tables: Vec<FilledTable> = filled.into_values().collect();
    tables.sort_by(|left, right| left.relation.cmp(&right.relation));
    let _closed = connection.close().await;
    Ok(Filled { tables, skew: f64::from(SKEW) })
}

/// A session as this room needs it.
pub(super) async fn connect(server: &PgConnectOptions) -> Result<PgConnection, FillError> {
    let mut connection = server.connect().await.map_err(FillError::server("connect"))?;
    execute(&mut connection, SETTINGS).await?;
    Ok(connection)
}

/// Runs statements without an answer.
pub(super) async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), FillError> {
    let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
    statement.execute(connection).await.map(drop).map_err(FillError::server("prepare the session"))
}
