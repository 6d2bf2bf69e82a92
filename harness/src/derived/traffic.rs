//! The workload file of derived traffic: every route of every chosen table, at one rate.
//!
//! `derived` gives tables with their routes and which of them the migrations touch; the file is an ordinary workload, to be
//! edited.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::catalog::Table;
use super::routes::{Kind, Parameter, Route, SHARES, Statement, Write};

/// Tables that get traffic although no migration touches them: the largest ones.
const OTHERS_MAX: usize = 20;
/// Keys of a table that requests choose from.
const FED_ROWS: u32 = 10_000;
/// Weight that is shared out among the routes.
const WEIGHT: f64 = 1_000_000.0;
/// What is dealt evenly among the routes, so that none is too rare to be measured; the rest goes by kind, as applications have it.
const EVEN: f64 = 0.6;
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
    /// The route that is sent least often, and how many requests a second that are.
    pub rarest: (String, f64),
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
    let kinds = |one: &Exercised| one.routes.iter().map(|route| route.kind).collect();
    let grouped: Vec<(bool, Vec<Kind>)> =
        tables.iter().map(|one| (touched.contains(&one.table.name), kinds(one))).collect();
    let shares = shares(&grouped);
    let mut text = head(name, rate_per_s);
    let mut feeders = String::new();
    let rarest = (String::new(), f64::INFINITY);
    let mut derived = DerivedTraffic { text: String::new(), routes: 0, has_ledger: false, rarest };
    for (number, (Exercised { table, routes }, shares)) in tables.iter().zip(shares).enumerate() {
        let feeder = format!("table_{}", number + 1);
        write_feeder(&mut feeders, table, routes, &feeder);
        for (route, share) in routes.iter().zip(shares) {
            // At most a million.
            write_route(&mut text, route, &feeder, ((share * WEIGHT).round() as u32).max(1));
            let per_s = share * rate_per_s;
            if per_s < derived.rarest.1 {
                derived.rarest = (route.name.clone(), per_s);
            }
            derived.routes += 1;
            derived.has_ledger |= route.write.is_some();
        }
    }
    text.push_str(&feeders);
    DerivedTraffic { text, ..derived }
}

/// Shares of all requests, route by route, of tables by whether the migrations touch them. Those that are touched get half of it; of each
/// half a part is dealt evenly, and the rest goes to each table alike and there by the kinds of its routes.
fn shares(tables: &[(bool, Vec<Kind>)]) -> Vec<Vec<f64>> {
    let of_kind =
        |kind: &Kind| SHARES.iter().find(|(one, _)| one == kind).map_or(1.0, |(_, share)| f64::from(*share));
    let group = |is_ours: bool| tables.iter().filter(move |(ours, _)| *ours == is_ours);
    let is_divided = group(true).count() > 0 && group(false).count() > 0;
    let half = if is_divided { 0.5 } else { 1.0 };
    let share = |(is_ours, kinds): &(bool, Vec<Kind>)| -> Vec<f64> {
        let routes: usize = group(*is_ours).map(|(_, kinds)| kinds.len()).sum();
        let evenly = half * EVEN / routes as f64;
        let table = half * (1.0 - EVEN) / group(*is_ours).count() as f64;
        let sum: f64 = kinds.iter().map(of_kind).sum();
        kinds.iter().map(|kind| evenly + table * of_kind(kind) / sum).collect()
    };
    tables.iter().map(share).collect()
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

#[cfg(test)]
mod tests {
    use super::shares;
    use crate::derived::routes::{Kind, SHARES};

    #[test]
    fn half_goes_to_what_is_touched_and_no_route_is_rare() {
        let all: Vec<Kind> = SHARES.iter().map(|(kind, _)| *kind).collect();
        let reads = vec![Kind::ReadByKey, Kind::ReadRange];
        let mut tables = vec![(true, all.clone())];
        tables.extend(vec![(false, reads.clone()); 20]);
        let dealt = shares(&tables);
        let sum = |of: &[Vec<f64>]| of.iter().flatten().sum::<f64>();
        assert!((sum(&dealt) - 1.0).abs() < 1e-9 && (sum(&dealt[..1]) - 0.5).abs() < 1e-9, "{dealt:?}");
        // Reads by key are most frequent still, and the rarest of the touched table has a twentieth of all.
        assert!(dealt[0][0] > 2.0 * dealt[0][5] && dealt[0][5] > 0.05, "{dealt:?}");
        assert!(dealt[1].iter().all(|share| *share > 0.3 / 40.0), "{dealt:?}");
        // Of one kind of tables alone everything is theirs, and a table without writes has as much as another.
        let dealt = shares(&[(true, reads), (true, all)]);
        assert!((sum(&dealt) - 1.0).abs() < 1e-9, "{dealt:?}");
    }
}
