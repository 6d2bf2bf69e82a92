//! Feeders as the workload file states them: where rows come from, and in which order requests get them.
//!
//! `file` reads them; [`crate::feeder`] fetches the rows before the traffic starts.

use std::path::PathBuf;

use super::raw::{RawFeeder, RawOrder};
use super::{Reader, WorkloadError};

/// Where values for templates come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FeederSpec {
    pub(crate) name: String,
    pub(crate) source: FeederSource,
    pub(crate) order: Order,
}

/// What gives a feeder's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FeederSource {
    /// A query on a named connection.
    Query { database: String, query: String },
    /// A file with one row a line, the first one naming the columns.
    Csv(PathBuf),
    /// A file with one JSON object a line.
    JsonLines(PathBuf),
}

/// Which row a request gets.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Order {
    /// One after the other, and from the first again.
    Sequence,
    /// One after the other, each once.
    Once,
    /// Row k with a share proportional to k to the power of minus the exponent; all alike for 0.
    Popularity(f64),
}

impl Reader<'_> {
    pub(super) fn feeder(&self, raw: &RawFeeder) -> Result<FeederSpec, WorkloadError> {
        let name = raw.name.get_ref();
        let fault =
            |what: &str| Err(self.fault(Some(raw.name.span().start), format!("feeder `{name}`: {what}")));
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        if name.is_empty()
            || !name.chars().all(plain)
            || name.starts_with(|first: char| first.is_ascii_digit())
        {
            return fault("a name of letters, digits and `_` is needed: templates call it `feed.NAME`");
        }
        let source = match (&raw.database, &raw.query, &raw.file) {
            (Some(database), Some(query), None) => {
                FeederSource::Query { database: database.clone(), query: query.clone() }
            }
            (None, None, Some(file)) => {
                let path = self.folder().join(file);
                match file.extension().and_then(|extension| extension.to_str()) {
                    Some("csv") => FeederSource::Csv(path),
                    Some("jsonl" | "ndjson") => FeederSource::JsonLines(path),
                    _ => return fault("`file` ends in .csv or .jsonl: what it holds is known by that"),
                }
            }
            _ => return fault("it needs `query` with the `database` that runs it, or `file`"),
        };
        let order = match (raw.order, raw.popularity) {
            (Some(RawOrder::Sequence | RawOrder::Once), Some(_)) => {
                return fault(
                    "`popularity` means nothing where rows are taken one after the other; remove it",
                );
            }
            (Some(RawOrder::Sequence), None) => Order::Sequence,
            (Some(RawOrder::Once), None) => Order::Once,
            (_, Some(exponent)) if !(0.0..=10.0).contains(&exponent) => {
                return fault("`popularity` is an exponent from 0 (all rows alike) to 10");
            }
            (_, exponent) => Order::Popularity(exponent.unwrap_or(0.0)),
        };
        Ok(FeederSpec { name: name.clone(), source, order })
    }
}
