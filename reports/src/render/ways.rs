//! Both ways back beside each other: the same rows of text for terminal, Markdown and HTML.

use crate::evidence::{Evidence, Way, WriteFate};
use crate::figures::{count, cut, duration_us, thousands};

/// Longest cell, so that a table of three columns fits 80.
const CELL_MAX: usize = 23;
/// What was not proven.
const UNKNOWN: &str = "not known";
const BYTES_PER_GB: u128 = 1_000_000_000;

/// A row: what it tells, and the figure of each way.
pub(super) type Row = (&'static str, [String; 2]);

/// How one way's figure reads.
type Cell = fn(&Way<'_>) -> String;

const ROWS: [(&str, Cell); 10] = [
    ("way back", |way| way.rollback.method.clone()),
    ("taken", taken),
    ("ended", ended),
    ("acknowledged writes read back", |way| known(way.ledger, |ledger| thousands(ledger.entries))),
    ("of them lost or changed", broken_writes),
    ("application unavailable", |way| known(way.rollback.unavailable_us, duration_us)),
    ("time to roll back", |way| known(way.rollback.took_us, duration_us)),
    ("schema drift", |way| known(way.schema, |schema| count(schema.drift.len() as u64, "object"))),
    ("residue", residue),
    ("restored from", restored),
];

/// The table's rows, the head first; none where only one way was rehearsed.
pub(super) fn rows(evidence: &Evidence) -> Option<Vec<Row>> {
    let ways = evidence.ways()?;
    let row =
        |(name, cell): &(&'static str, Cell)| (*name, [0, 1].map(|way| cut(&cell(&ways[way]), CELL_MAX)));
    Some(ROWS.iter().map(row).collect())
}

/// Why the second way could not be taken.
pub(super) fn not_taken(evidence: &Evidence) -> Option<&str> {
    evidence.other_way.as_ref()?.not_taken.as_deref()
}

fn known<Value>(value: Option<Value>, tell: impl Fn(Value) -> String) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), tell)
}

fn taken(way: &Way<'_>) -> String {
    match (way.not_taken, way.under_traffic) {
        (Some(_), _) => "not taken",
        (None, true) => "under traffic",
        (None, false) => "afterwards, no traffic",
    }
    .to_owned()
}

fn ended(way: &Way<'_>) -> String {
    match (way.not_taken, way.rollback.stuck.len()) {
        (Some(_), _) => UNKNOWN.to_owned(),
        (None, 0) => "yes".to_owned(),
        (None, stuck) => format!("stuck: {}", count(stuck as u64, "error")),
    }
}

fn broken_writes(way: &Way<'_>) -> String {
    known(way.ledger, |ledger| {
        let broken = [WriteFate::Lost, WriteFate::Changed, WriteFate::Duplicated];
        let broken: u64 = broken.into_iter().map(|fate| ledger.total(fate)).sum();
        match ledger.total(WriteFate::Unread) {
            0 => thousands(broken),
            unread => format!("{}, {} unread", thousands(broken), thousands(unread)),
        }
    })
}

/// What stayed: rows of tables that nobody else writes, and effects outside the database.
fn residue(way: &Way<'_>) -> String {
    let (Some(data), Some(residue)) = (way.data, way.residue) else { return UNKNOWN.to_owned() };
    let left = residue.left.values().map(Vec::len).sum::<usize>() + data.differences.len();
    match residue.unreachable.len() {
        0 => count(left as u64, "effect"),
        unknown => format!("{left}, {unknown} unknown"),
    }
}

/// What a restore went back to, and how long it takes per gigabyte.
fn restored(way: &Way<'_>) -> String {
    let (Some(bytes), Some(us)) = (way.rollback.snapshot_bytes, way.rollback.restore_us) else {
        return "—".to_owned();
    };
    let per_gb = u64::try_from(u128::from(us) * BYTES_PER_GB / u128::from(bytes.max(1))).unwrap_or(u64::MAX);
    format!("backup, {}/GB", duration_us(per_gb))
}
