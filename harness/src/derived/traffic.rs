//! The workload file of derived traffic: every route of every chosen table, at one rate.
//!
//! `derived` gives tables with their routes and which of them the migrations touch; the file is an ordinary workload, to be
//! edited.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::catalog::Table;
use super::routes::{Parameter, Route, SHARES, Statement, Write};

/// Tables that get traffic although no migration touches them: the largest ones.
const OTHERS_MAX: usize = 20;
/// Keys of a table that requests choose from.
const FED_ROWS: u32 = 10_000;
/// Weight that is shared out among the tables.
const WEIGHT: u32 = 10_000;
/// Connections of the derived application.
const CONNECTIONS: u32 = 16;

/// A workload file, and what is in it.
#[derive(Debug)]
pub struct DerivedTraffic {
    /// The file's text.
    pub text: String,
    /// Routes in it.
    pub routes: usize,
    /// Whether some of its writes go into the ledger.
    pub has_ledger: bool,
}

/// A table with the routes that work on it.
#[derive(Debug)]
pub struct Exercised {
    /// The table.
    pub table: Table,
    /// Its routes.
    pub routes: Vec<Route>,
}

/// Which of all tables get traffic: those that the migrations touch, and the largest others. What is left out is told.
#[must_use]
pub fn choose(tables: Vec<Table>, touched: &BTreeSet<String>, decisions: &mut Vec<String>) -> Vec<Table> {
    let (mut ours, mut others): (Vec<Table>, Vec<Table>) =
        tables.into_iter().partition(|table| touched.contains(&table.name));
    for table in ours.iter().filter(|table| table.rows == 0) {
        decisions.push(format!("{}: it has no rows, so that it gets no traffic", table.name));
    }
    ours.retain(|table| table.rows > 0);
    others.retain(|table| table.rows > 0);
    others.sort_by(|left, right| right.rows.cmp(&left.rows).then_with(|| left.name.cmp(&right.name)));
    if others.len() > OTHERS_MAX {
        let more = others.len() - OTHERS_MAX;
        decisions.push(format!(
            "{more} tables that no migration touches get no traffic: the {OTHERS_MAX} largest of them do"
        ));
        others.truncate(OTHERS_MAX);
    }
    ours.extend(others);
    ours
}

/// Writes traffic at `rate_per_s` statements and transactions a second. Tables in `touched` get half of it.
#[must_use]
pub fn write(
    tables: &[Exercised],
    touched: &BTreeSet<String>,
    rate_per_s: f64,
    name: &str,
) -> DerivedTraffic {
    let ours = tables.iter().filter(|one| touched.contains(&one.table.name)).count();
    let others = tables.len() - ours;
    let share = |of: usize, part: u32| part / u32::try_from(of.max(1)).unwrap_or(u32::MAX);
    let (our_weight, other_weight) = match (ours, others) {
        (0, of) | (of, 0) => (share(of, WEIGHT), share(of, WEIGHT)),
        (ours, others) => (share(ours, WEIGHT / 2), share(others, WEIGHT / 2)),
    };
    let mut text = head(name, rate_per_s);
    let mut feeders = String::new();
    let mut derived = DerivedTraffic { text: String::new(), routes: 0, has_ledger: false };
    for (number, Exercised { table, routes }) in tables.iter().enumerate() {
        let feeder = format!("table_{}", number + 1);
        write_feeder(&mut feeders, table, routes, &feeder);
        let weight = if touched.contains(&table.name) { our_weight } else { other_weight };
        for route in routes {
            let of_kind = SHARES.iter().find(|(kind, _)| *kind == route.kind).map_or(1, |(_, share)| *share);
            write_route(&mut text, route, &feeder, (weight * of_kind / 100).max(1));
            derived.routes += 1;
            derived.has_ledger |= route.write.is_some();
        }
    }
    text.push_str(&feeders);
    DerivedTraffic { text, ..derived }
}

fn head(name: &str, rate_per_s: f64) -> String {
    format!(
        "# Traffic derived from the catalog: what an application of this schema may send. Edit rates, weights and statements\n\
         # to be more like your own.\n\
         schema = \"fulldress/workload/1\"\n\
         name = {}\n\n\
         [[scenario]]\n\
         name = \"derived\"\n\
         model = \"arrivals\"\n\
         database = \"app\"\n\
         rate_per_s = {rate_per_s:?}\n\
         schedule = \"poisson\"\n\
         connections_max = {CONNECTIONS}\n\
         timeout_ms = 10000\n",
        quoted(name)
    )
}

/// A string as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// An identifier as the server names it in an answer.
fn unquoted(identifier: &str) -> String {
    match identifier.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => identifier.to_owned(),
    }
}

/// Name of a column's field in the feeder: any column can stand there, a template's name may not.
fn field(table_column: &str) -> String {
    let plain: String = table_column.chars().filter(|letter| *letter != '"').collect();
    let name: String =
        plain.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    format!("c_{name}")
}

fn write_feeder(text: &mut String, table: &Table, routes: &[Route], feeder: &str) {
    let mut columns: BTreeSet<&str> = BTreeSet::new();
    for parameter in routes.iter().flat_map(|route| &route.statements).flat_map(|one| &one.parameters) {
        if let Parameter::Of(column) = parameter {
            columns.insert(column);
        }
    }
    let listed: Vec<String> =
        columns.iter().map(|column| format!("{column}::text AS {}", field(column))).collect();
    let there: Vec<String> = columns.iter().map(|column| format!("{column} IS NOT NULL")).collect();
    // Deterministic, and from all over the table: the first rows in the order of a key may be the oldest.
    let query = format!(
        "SELECT {} FROM {} WHERE {} ORDER BY md5({}::text) LIMIT {FED_ROWS}",
        listed.join(", "),
        table.name,
        there.join(" AND "),
        columns.first().copied().unwrap_or("1"),
    );
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "\n[[feeder]]\nname = \"{feeder}\"\ndatabase = \"app\"\norder = \"random\"\nquery = {}\n",
        quoted(&query)
    );
}

fn write_route(text: &mut String, route: &Route, feeder: &str, weight: u32) {
    // Writing to a String cannot fail.
    let _ = write!(text, "\n[[scenario.step]]\nroute = {}\nweight = {weight}\n", quoted(&route.name));
    match route.statements.as_slice() {
        [one] => {
            let _ = writeln!(text, "{}", fields(one, feeder).join("\n"));
        }
        several => {
            let all: Vec<String> =
                several.iter().map(|one| format!("  {{ {} }}", fields(one, feeder).join(", "))).collect();
            let _ = writeln!(text, "transaction = [\n{},\n]", all.join(",\n"));
        }
    }
    if let Some(Write { columns, read_back }) = &route.write {
        // A column's name in quotes is plain where it is asked for.
        let columns: Vec<String> = columns.iter().map(|column| quoted(&unquoted(column))).collect();
        let _ = writeln!(
            text,
            "acknowledged = {{ key = \"{{{{ key }}}}\", value = [{}], read_back = {} }}",
            columns.join(", "),
            quoted(read_back)
        );
    }
}

fn fields(statement: &Statement, feeder: &str) -> Vec<String> {
    let value = |parameter: &Parameter| match parameter {
        Parameter::Of(column) => quoted(&format!("{{{{ feed.{feeder}.{} }}}}", field(column))),
        Parameter::Fresh => quoted("{{ key }}"),
    };
    let parameters: Vec<String> = statement.parameters.iter().map(value).collect();
    let mut fields = vec![format!("statement = {}", quoted(&statement.sql))];
    if !parameters.is_empty() {
        fields.push(format!("parameters = [{}]", parameters.join(", ")));
    }
    if let Some(rows) = statement.rows {
        fields.push(format!("expect = {{ rows = {rows} }}"));
    }
    fields
}
