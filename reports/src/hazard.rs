//! Hazards of migrations as records: what a statement does to those who work beside it, when, and what to do instead.
//!
//! A hazard that a trace can show is decided by what was measured (`measured`: locks, scans, rewrites, limits in force), not
//! by how a statement is written. `stated` is for files that nobody has run yet. Each record has a bad and a good script;
//! the reference (`reference`) is made from what these do when they are run.

mod constraints;
mod measured;
mod reference;
mod runner;
mod shape;
mod stated;
mod tables;
mod waiting;
mod way_back;

use crate::check::CheckId;
use crate::sql::{Token, tokens};
pub use measured::annotate;
pub use reference::{Executed, Linted, Played, reference};
pub use stated::{Stated, stated};

/// A hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hazard {
    /// Stable for ever.
    pub id: &'static str,
    /// A few words.
    pub name: &'static str,
    /// What it does to those beside it, one sentence.
    pub what: &'static str,
    /// When it fires.
    pub fires: &'static str,
    /// What decides it.
    pub decided_by: DecidedBy,
    /// Rules of the linter squawk that look for it.
    pub squawk: &'static [&'static str],
    /// What shows it.
    pub shown: Shown,
    /// The checks of a rehearsal that it breaks.
    pub checks: &'static [CheckId],
    /// What to do instead.
    pub remedy: &'static str,
    /// What shows it, on the tables of [`EXAMPLE_SETUP`]: a script, or for [`Shown::Sessions`] lines `session: statement`.
    pub bad: &'static str,
    /// What reaches the same without it.
    pub good: &'static str,
}

/// What decides a hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecidedBy {
    /// The text of the statement.
    Sql,
    /// The statement with the catalog that it meets.
    Catalog,
    /// Only a system that runs it.
    RunningSystem,
}

/// Who can show a hazard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// `fulldress trace`, by what it measures.
    Trace,
    /// Sessions beside each other: a rehearsal meets it, and the examples play it.
    Sessions(Harm),
    /// A rehearsal alone.
    Rehearsal,
}

/// What goes wrong when sessions are played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// A session that is not the migrator's waits for it.
    ClientWaits,
    /// The server refuses a statement that it would have run alone.
    Refused,
    /// An INVALID index is left.
    InvalidIndex,
}

/// The tables that the examples work on.
pub const EXAMPLE_SETUP: &str = "\
CREATE TABLE customers (id bigint PRIMARY KEY, name varchar(80) NOT NULL CONSTRAINT named CHECK (name <> ''));
CREATE TABLE orders (id bigint PRIMARY KEY, customer_id bigint, state text, placed timestamp, total numeric(10,2));
CREATE INDEX orders_state ON orders (state);
CREATE TABLE items (id bigint PRIMARY KEY, order_id bigint REFERENCES orders, note text);
CREATE DOMAIN amount AS numeric(10,2);
CREATE TABLE payments (id bigint, order_id bigint, paid amount);
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER payments_touch BEFORE UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION touch();
CREATE MATERIALIZED VIEW totals AS SELECT customer_id, count(*) AS orders FROM orders GROUP BY customer_id;
CREATE UNIQUE INDEX totals_customer ON totals (customer_id);
CREATE TABLE events (at date NOT NULL, what text) PARTITION BY RANGE (at);
CREATE TABLE events_2025 PARTITION OF events FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE TABLE visits (at date NOT NULL) PARTITION BY RANGE (at);
CREATE TABLE visits_2025 PARTITION OF visits FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
INSERT INTO customers SELECT n, 'customer ' || n FROM generate_series(1, 500) n;
INSERT INTO orders SELECT n, 1 + n % 500, 'open', '2025-01-01'::timestamp, n FROM generate_series(1, 2000) n;
INSERT INTO items SELECT n, n, 'note' FROM generate_series(1, 2000) n;
INSERT INTO payments SELECT n, n, n FROM generate_series(1, 200) n;
INSERT INTO events SELECT '2025-01-01'::date + n % 300, 'seen' FROM generate_series(1, 1000) n;
REFRESH MATERIALIZED VIEW totals;
";

/// Every hazard, in the order of the reference.
pub fn all() -> impl Iterator<Item = &'static Hazard> {
    let tables = [
        waiting::WAITING,
        tables::TABLES,
        constraints::CONSTRAINTS,
        shape::SHAPE,
        runner::RUNNER,
        way_back::WAY_BACK,
    ];
    tables.into_iter().flatten()
}

/// The record of an id.
#[must_use]
pub fn find(id: &str) -> Option<&'static Hazard> {
    all().find(|hazard| hazard.id == id)
}

/// Words of SQL in capitals; names in quotes without these.
fn words(sql: &str) -> Vec<String> {
    let words = tokens(sql).filter_map(|(token, _)| match token {
        Token::Word(word) => Some(word.trim_matches('"').to_uppercase()),
        _ => None,
    });
    words.collect()
}

/// Whether words stand side by side in a statement.
fn has(words: &[&str], wanted: &[&str]) -> bool {
    words.windows(wanted.len()).any(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Shown, all};

    #[test]
    fn ids_are_told_apart_and_written_alike() {
        let ids: BTreeSet<&str> = all().map(|hazard| hazard.id).collect();
        assert_eq!(ids.len(), all().count());
        let kebab = |id: &str| id.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
        assert_eq!(ids.into_iter().filter(|id| !kebab(id)).collect::<Vec<_>>(), [""; 0]);
    }

    #[test]
    fn what_a_trace_cannot_show_names_the_checks_that_do() {
        let silent = all().filter(|hazard| hazard.shown != Shown::Trace && hazard.checks.is_empty());
        assert_eq!(silent.map(|hazard| hazard.id).collect::<Vec<_>>(), [""; 0]);
    }
}
