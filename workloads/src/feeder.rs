//! Rows that feed templates: fetched once from a database or a file before the traffic starts, then handed out in memory.
//!
//! `traffic` fetches them; a [`Session`](crate::template::Session) takes one row of each for every request, so that all
//! values of a request belong together.

pub(crate) mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Value;
use minijinja::value::Object;
use sqlx::postgres::PgConnectOptions;

use self::table::{Cells, Table, from_csv, from_json_lines, from_query, read};
use crate::file::{FeederSource, FeederSpec, Order, Scenario};
use crate::template::NULL;

/// Rows that one feeder may hold.
const ROWS_MAX: usize = 1_000_000;

/// A feeder's rows; copies share them.
#[derive(Debug)]
pub(crate) struct Feeder {
    name: String,
    columns: Vec<String>,
    rows: Vec<Cells>,
    order: Order,
    /// Sums of the rows' weights, up to each row; empty where rows are taken in sequence.
    weights: Vec<f64>,
}

/// A scenario's place in a feeder.
#[derive(Debug, Clone)]
pub(crate) struct Feed {
    feeder: Arc<Feeder>,
    taken: usize,
}

/// One row as templates see it.
#[derive(Debug)]
struct FeederRow {
    feeder: Arc<Feeder>,
    index: usize,
}

impl Feeder {
    /// Reads the feeder's rows.
    ///
    /// # Errors
    /// A sentence: no connection, a query or a file that is not right, no rows, or too many.
    pub(crate) async fn fetch(
        spec: &FeederSpec,
        databases: &BTreeMap<String, PgConnectOptions>,
    ) -> Result<Self, String> {
        let fault = |what: String| format!("feeder `{}`: {what}", spec.name);
        let table = match &spec.source {
            FeederSource::Query { database, query } => match databases.get(database) {
                Some(options) => from_query(options, query).await,
                None => Err(format!("the database `{database}` is not given")),
            },
            FeederSource::Csv(path) => read(path).and_then(|text| from_csv(&text)),
            FeederSource::JsonLines(path) => read(path).and_then(|text| from_json_lines(&text)),
        };
        let Table { columns, rows } = table.map_err(fault)?;
        match rows.len() {
            0 => Err(fault("it gives no row".to_owned())),
            count if count > ROWS_MAX => {
                Err(fault(format!("{count} rows are more than the {ROWS_MAX} that it may have")))
            }
            _ => Ok(Self::new(spec, columns, rows)),
        }
    }

    fn new(spec: &FeederSpec, columns: Vec<String>, rows: Vec<Cells>) -> Self {
        let weights = match spec.order {
            Order::Sequence | Order::Once => Vec::new(),
            Order::Popularity(exponent) => {
                let mut sum = 0.0;
                let mut rank = 0.0_f64;
                let weigh = |_: &_| {
                    rank += 1.0;
                    sum += rank.powf(-exponent);
                    sum
                };
                rows.iter().map(weigh).collect()
            }
        };
        Self { name: spec.name.clone(), columns, rows, order: spec.order, weights }
    }

    /// Checks that a scenario finds the columns that it uses.
    ///
    /// # Errors
    /// A sentence that names the column.
    pub(crate) fn serves(&self, scenario: &Scenario) -> Result<(), String> {
        match scenario
            .templates
            .columns_of(&self.name)
            .find(|column| !self.columns.iter().any(|has| has == column))
        {
            Some(column) => Err(format!(
                "feeder `{}` gives no column `{column}`, which scenario `{}` uses; it gives: {}",
                self.name,
                scenario.name,
                self.columns.join(", ")
            )),
            None => Ok(()),
        }
    }

    /// The row that a throw of the dice, from 0 to below 1, falls on.
    fn index_of(&self, throw: f64) -> usize {
        let total = self.weights.last().copied().unwrap_or(0.0);
        let index = self.weights.partition_point(|sum| *sum <= throw * total);
        index.min(self.rows.len().saturating_sub(1))
    }
}

impl Feed {
    /// The beginning of a feeder.
    pub(crate) const fn new(feeder: Arc<Feeder>) -> Self {
        Self { feeder, taken: 0 }
    }

    /// Goes to the row of request number `number`, counted from 0.
    pub(crate) fn go_to(&mut self, number: u64) {
        self.taken = usize::try_from(number).unwrap_or(usize::MAX);
    }

    /// Whether every row was taken, and none may be taken again.
    pub(crate) fn is_dry(&self) -> bool {
        self.feeder.order == Order::Once && self.taken >= self.feeder.rows.len()
    }

    /// The feeder's name and the next row; `throw` gives a number from 0 to below 1.
    pub(crate) fn next_row(&mut self, throw: impl FnOnce() -> f64) -> (String, Value) {
        let index = match self.feeder.order {
            // A feeder has at least one row.
            Order::Sequence => self.taken % self.feeder.rows.len().max(1),
            // Whoever asks has seen that it is not dry; what is beyond the end is only tried out.
            Order::Once => self.taken.min(self.feeder.rows.len().saturating_sub(1)),
            Order::Popularity(_) => self.feeder.index_of(throw()),
        };
        self.taken = self.taken.wrapping_add(1);
        let row = FeederRow { feeder: Arc::clone(&self.feeder), index };
        (self.feeder.name.clone(), Value::from_object(row))
    }
}

impl Object for FeederRow {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let column = self.feeder.columns.iter().position(|column| key.as_str() == Some(column))?;
        let cell = self.feeder.rows.get(self.index)?.get(column)?;
        Some(Value::from(cell.as_deref().unwrap_or(NULL)))
    }
}

/// The feeds of one scenario, each at its beginning.
///
/// # Errors
/// A sentence about a column that a feeder does not give.
pub(crate) fn feeds_of(
    scenario: &Scenario,
    feeders: &BTreeMap<String, Arc<Feeder>>,
) -> Result<Vec<Feed>, String> {
    let mut feeds = Vec::new();
    for (name, feeder) in feeders {
        if scenario.templates.columns_of(name).next().is_some() {
            feeder.serves(scenario)?;
            feeds.push(Feed::new(Arc::clone(feeder)));
        }
    }
    Ok(feeds)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Feed, Feeder};
    use crate::file::{FeederSource, FeederSpec, Order};

    fn feed(order: Order, rows: usize) -> Feed {
        let spec = FeederSpec { name: "f".to_owned(), source: FeederSource::Csv("f.csv".into()), order };
        let rows = (0..rows).map(|row| vec![Some(row.to_string().into_boxed_str()), None].into()).collect();
        Feed::new(Arc::new(Feeder::new(&spec, vec!["id".to_owned(), "no".to_owned()], rows)))
    }

    fn id(feed: &mut Feed, throw: f64) -> usize {
        let (_, row) = feed.next_row(|| throw);
        assert_eq!(row.get_attr("no").unwrap().as_str(), Some(super::NULL));
        assert!(row.get_attr("other").unwrap().is_undefined());
        row.get_attr("id").unwrap().as_str().unwrap().parse().unwrap()
    }

    #[test]
    fn a_sequence_begins_again() {
        let mut feed = feed(Order::Sequence, 3);
        let ids: Vec<usize> = (0..7).map(|_| id(&mut feed, 0.0)).collect();
        assert_eq!(ids, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_feeder_of_once_runs_dry() {
        let mut feed = feed(Order::Once, 2);
        assert_eq!([id(&mut feed, 0.0), id(&mut feed, 0.0)], [0, 1]);
        assert!(feed.is_dry());
        feed.go_to(1);
        assert!(!feed.is_dry());
        assert_eq!(id(&mut feed, 0.0), 1);
    }

    #[test]
    fn popularity_follows_the_exponent() {
        let share_of_first = |exponent: f64| {
            let mut feed = feed(Order::Popularity(exponent), 100);
            let throws = (0..10_000).map(|throw| f64::from(throw) / 10_000.0);
            throws.filter(|throw| id(&mut feed, *throw) == 0).count()
        };
        assert_eq!(share_of_first(0.0), 100);
        // The first hundred harmonic numbers add up to 5.187.
        assert!((1920..1936).contains(&share_of_first(1.0)), "{}", share_of_first(1.0));
        assert_eq!(id(&mut feed(Order::Popularity(1.0), 100), 0.999_999_9), 99);
    }
}
