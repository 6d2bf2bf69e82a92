//! `fulldress roundtrip`: every migration of a history up, down and up again on a private PostgreSQL, with schema and rows
//! compared at each stage.
//!
//! Called by `commands::roundtrip`; tells its progress to the caller. [`staircase`] walks, [`ground`] holds the databases,
//! [`session`] runs scripts as a stranger, [`state`] and [`definition`] are what is compared.

mod definition;
mod explain;
mod extensions;
mod ground;
mod session;
mod staircase;
mod state;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::roundtrip::{Migration, Requirement, RoundTrip, SCHEMA};

use crate::history::{History, HistoryError};
use crate::mirror::MirrorError;
use crate::mirror::cluster::{Cluster, Programs};
use crate::process::RunFolder;
use crate::trace::{Error as TraceError, Source};
pub(crate) use ground::{Ground, LIVE};
use staircase::Staircase;

/// What is walked, and how.
#[derive(Debug)]
pub struct Request {
    /// The folder as the caller named it.
    pub folder: String,
    /// Files for psql that make what production has before the first migration.
    pub setups: Vec<Source>,
    /// Rows for each table; none when no rows are made.
    pub rows: Option<u64>,
    /// What the rows are made from.
    pub seed: u64,
    /// The first and the last migration that are walked; the ones before are only applied.
    pub from: Option<String>,
    /// See `from`.
    pub to: Option<String>,
    /// Migrations run as a superuser, who can also read files and run programs as the server's user.
    pub superuser: bool,
    /// Folder of PostgreSQL's programs, else the machine's newest.
    pub postgres: Option<PathBuf>,
    /// What makes the walk fail.
    pub required: Vec<Requirement>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder is no history.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// `--from` or `--to` names no migration.
    #[error("{option} {typed}: no migration is named so; the history goes from {first} to {last}")]
    Unknown {
        /// `--from` or `--to`.
        option: &'static str,
        /// What was typed.
        typed: String,
        /// Id of the first migration.
        first: String,
        /// Id of the last.
        last: String,
    },
    /// `--to` comes before `--from`.
    #[error("--from {from} comes after --to {to}")]
    Backwards {
        /// What was typed.
        from: String,
        /// What was typed.
        to: String,
    },
    /// A setup failed.
    #[error(transparent)]
    Setup(#[from] TraceError),
    /// The embedded server failed.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The server could not be asked.
    #[error("{doing}: {source}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// A migration that had been applied could not be applied when the state was made again.
    #[error("{id} was applied once and could not be applied again to come back to its state: {what}")]
    Unrepeatable {
        /// The migration.
        id: String,
        /// The server's words.
        what: String,
    },
    /// Rows could not be made.
    #[error("the tables could not be filled: {0}")]
    Fill(#[from] crate::synthetic::FillError),
    /// The server died.
    #[error("PostgreSQL died: {0}")]
    Died(String),
}

impl Error {
    /// Gives an error of the server its context.
    fn server(doing: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self::Server { doing, source }
    }
}

/// One step of the walk, for whoever watches.
#[derive(Debug)]
pub enum Progress<'walk> {
    /// The server is started.
    Starting,
    /// A migration begins.
    Begins {
        /// Counted from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its id.
        id: &'walk str,
    },
    /// It ended.
    Ended(&'walk Migration),
}

/// Who watches.
pub type Watch<'watch> = dyn FnMut(Progress<'_>) + Send + 'watch;

/// Walks a history on an embedded PostgreSQL that is made for it in the run folder.
///
/// # Errors
/// A range that is not in the history, a setup that fails, a machine without PostgreSQL. What migrations do is part of the
/// result and no error.
pub async fn embedded(
    request: &Request,
    history: &History,
    run: &Arc<RunFolder>,
    watch: &mut Watch<'_>,
) -> Result<RoundTrip, Error> {
    let range = range(request.from.as_deref(), request.to.as_deref(), history)?;
    watch(Progress::Starting);
    let programs = Programs::find(request.postgres.as_deref())?;
    let mut cluster =
        Cluster::create(programs, run, "roundtrip", settings(), Duration::from_secs(60)).await?;
    cluster.start().await?;
    let walked = async {
        let ground = Ground::prepare(&cluster, request, run).await?;
        let server_version = ground.server_version.clone();
        let walk = Staircase::new(ground, request, history).walk(range, watch).await?;
        Ok(RoundTrip {
            schema: SCHEMA.to_owned(),
            server_version,
            folder: request.folder.clone(),
            layout: history.layout.name().to_owned(),
            layout_reason: history.reason.clone(),
            rows: request.rows,
            seed: request.seed,
            required: request.required.clone(),
            migrations: walk.migrations,
            notes: history.notes.iter().cloned().chain(walk.notes).collect(),
            unfilled: walk.unfilled,
        })
    }
    .await;
    let died = matches!(&walked, Err(Error::Server { .. } | Error::Mirror(_) | Error::Fill(_)))
        && cluster.has_died().await;
    let walked = if died { Err(Error::Died(cluster.last_words())) } else { walked };
    cluster.stop().await;
    walked
}

/// Nobody needs this server's data after it: nothing waits for a disk, and nothing works beside the migrations.
pub(crate) fn settings() -> BTreeMap<String, String> {
    let settings = [
        ("autovacuum", "off"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("synchronous_commit", "off"),
        ("wal_level", "minimal"),
        ("max_wal_senders", "0"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "1h"),
        ("shared_buffers", "128MB"),
        ("max_prepared_transactions", "10"),
        ("jit", "off"),
    ];
    settings.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Positions of the migrations from one to another, which a person may name by their number; of all when none is named.
///
/// # Errors
/// A name that no migration has, and a last one that comes before the first.
pub fn range(
    from: Option<&str>,
    to: Option<&str>,
    history: &History,
) -> Result<std::ops::Range<usize>, Error> {
    let all = &history.migrations;
    let find = |option, typed: &str| {
        all.iter().position(|migration| migration.is_named(typed)).ok_or_else(|| Error::Unknown {
            option,
            typed: typed.to_owned(),
            first: all.first().map_or_else(String::new, |one| one.id.clone()),
            last: all.last().map_or_else(String::new, |one| one.id.clone()),
        })
    };
    let first = from.map(|typed| find("--from", typed)).transpose()?.unwrap_or(0);
    let last = to.map(|typed| find("--to", typed)).transpose()?;
    let end = last.map_or(all.len(), |last| last + 1);
    if first >= end {
        let typed = |option: Option<&str>| option.unwrap_or_default().to_owned();
        return Err(Error::Backwards { from: typed(from), to: typed(to) });
    }
    Ok(first..end)
}
