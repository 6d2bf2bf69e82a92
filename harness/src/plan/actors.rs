//! What else lives in production's database.

use serde::Deserialize;

/// What else lives in production's database.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Actors {
    /// A reader that keeps a snapshot and a lock for a while, as a dump or a report does.
    pub long_reader: LongReader,
    /// A transaction that has read and sits idle, as an application's does that calls somebody else meanwhile.
    pub idle_transaction: IdleTransaction,
    /// ANALYZE of the tables, as autovacuum does it.
    pub analyze: Analyze,
}

/// The background long reader.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LongReader {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations that it reads, schema-qualified; all tables when empty, as a dump reads them.
    pub relations: Vec<String>,
    /// How long each transaction stays open, milliseconds.
    pub hold_ms: u64,
    /// Pause between transactions, milliseconds.
    pub pause_ms: u64,
}

impl Default for LongReader {
    fn default() -> Self {
        Self { enabled: true, relations: Vec::new(), hold_ms: 800, pause_ms: 1200 }
    }
}

/// The background idle transaction.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdleTransaction {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations that it reads, schema-qualified; all tables when empty: any may be what the package changes.
    pub relations: Vec<String>,
    /// How long each transaction sits idle, milliseconds.
    pub hold_ms: u64,
    /// Pause between transactions, milliseconds.
    pub pause_ms: u64,
}

impl Default for IdleTransaction {
    fn default() -> Self {
        // Another cycle than the long reader's: the two overlap now and then, and leave gaps.
        Self { enabled: true, relations: Vec::new(), hold_ms: 400, pause_ms: 2100 }
    }
}

/// The background ANALYZE.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Analyze {
    /// Whether it runs.
    pub enabled: bool,
    /// Relations, schema-qualified; all tables when empty.
    pub relations: Vec<String>,
    /// Pause after each relation, milliseconds.
    pub pause_ms: u64,
}

impl Default for Analyze {
    fn default() -> Self {
        Self { enabled: true, relations: Vec::new(), pause_ms: 1000 }
    }
}
