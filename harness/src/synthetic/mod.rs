//! Synthetic data from the catalog: rows for every empty table that satisfy what the catalog demands.
//!
//! Called by the commands that have a schema and no data; tells its caller what was filled, and why something was not.
//! [`fill()`] reads the catalog once (`catalog`), plans each table (`plan`: types, checks, keys), and writes (`writer`).

mod catalog;
mod checks;
mod copy;
mod demand;
mod encode;
mod expression;
mod fill;
mod generate;
mod indexes;
mod insert;
mod keys;
mod order;
mod partitions;
mod pattern;
mod plan;
mod references;
mod roles;
mod row;
mod samples;
mod trial;
mod types;
mod value;
mod writer;

pub use fill::fill;

use std::collections::BTreeMap;

/// How many rows, and from which seed.
#[derive(Debug, Clone)]
pub struct Request {
    /// Rows of each table.
    pub rows: u64,
    /// The same catalog and the same seed give the same rows, whatever the number of writers.
    pub seed: u64,
    /// Connections that write.
    pub writers: usize,
    /// Rows of single tables, by schema-qualified name as the server quotes it.
    pub rows_of: BTreeMap<String, u64>,
}

impl Default for Request {
    fn default() -> Self {
        Self { rows: 100, seed: 1, writers: 2, rows_of: BTreeMap::new() }
    }
}

/// What was filled.
#[derive(Debug, Clone, PartialEq)]
pub struct Filled {
    /// Every table that was empty, in the order of their names. Tables that had rows are left alone and not listed.
    pub tables: Vec<FilledTable>,
    /// How uneven references are: the first share `x` of a table's keys receives the share `x^(1/skew)` of the references
    /// to it. Keys that a constraint wants spread evenly are an exception.
    pub skew: f64,
}

/// One table that was empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilledTable {
    /// Schema-qualified, as the server quotes it.
    pub relation: String,
    /// Rows written.
    pub rows: u64,
    /// One sentence why there are fewer rows than asked for, or none.
    pub unfilled: Option<String>,
}

/// Why nothing could be filled; a table that cannot be filled is no error.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// The server does not let us in, or the connection broke.
    #[error("{action}: {source}")]
    Server {
        /// What was to be done.
        action: &'static str,
        /// The server's or the driver's word.
        source: sqlx::Error,
    },
    /// The catalog's answer has not the form that was asked for.
    #[error("read the catalog's answer: {0}")]
    Answer(#[from] serde_json::Error),
    /// A writer ended without an answer.
    #[error("write rows: {0}")]
    Writer(#[from] tokio::task::JoinError),
}

impl FillError {
    /// For `map_err`.
    pub(crate) const fn server(action: &'static str) -> impl Fn(sqlx::Error) -> Self {
        move |source| Self::Server { action, source }
    }
}
