//! Statements that an application of a schema would send, per table: reads by key, by foreign key and along an index,
//! inserts, updates and deletes.
//!
//! `derived` asks for them; they are written into a workload file and played from there. A row is inserted as a copy of
//! an existing one with keys of its own, so that it keeps every rule of the table without anybody knowing the rules.

use super::catalog::{Column, Filled, Table};

/// Rows that one read along an index fetches.
const RANGE_ROWS: u32 = 50;

/// What a route does with its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Reads one row by its key.
    ReadByKey,
    /// Reads the rows that refer to one row of another table.
    ReadByForeignKey,
    /// Reads some rows in the order of an index.
    ReadRange,
    /// Adds a row.
    Insert,
    /// Writes a row again, with the values it has.
    Update,
    /// Adds a row and takes it away again, in one transaction.
    Delete,
}

impl Kind {
    /// Whether it leaves the table as it is.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::ReadByKey | Self::ReadByForeignKey | Self::ReadRange)
    }
}

/// Shares of the routes of one table, per cent: four reads to one write, as most applications have it.
pub const SHARES: [(Kind, u32); 6] = [
    (Kind::ReadByKey, 50),
    (Kind::ReadByForeignKey, 15),
    (Kind::ReadRange, 15),
    (Kind::Insert, 8),
    (Kind::Update, 8),
    (Kind::Delete, 4),
];

/// One route: a statement, or several in one transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Label in reports, such as `public.orders: read by id`.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// Its statements, in order.
    pub statements: Vec<Statement>,
    /// What must survive of it, where a client can name what it wrote.
    pub write: Option<Write>,
}

/// A write of the ledger: found again by the fresh text that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// Columns that the statement returns, and that must come back unchanged.
    pub columns: Vec<String>,
    /// Query that gives them again; `$1` is the fresh text.
    pub read_back: String,
}

/// A statement with its parameters `$1`, `$2`, ….
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// The SQL.
    pub sql: String,
    /// Values in the order of their numbers.
    pub parameters: Vec<Parameter>,
    /// Rows that a right answer has; absent where any number is right.
    pub rows: Option<u32>,
}

/// Where a parameter's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parameter {
    /// This column of a row that the table has; the same row for the whole route.
    Of(String),
    /// A text that no request had before; the same one for the whole route.
    Fresh,
}

/// The routes of a table, and why a kind of route has none.
#[must_use]
pub fn of(table: &Table) -> (Vec<Route>, Vec<String>) {
    let mut routes = Vec::new();
    let mut missing = Vec::new();
    if table.key.is_empty() {
        missing.push(format!("{}: it has no key, so that it is read along its indexes only", table.name));
    } else {
        routes.push(read(table, Kind::ReadByKey, "by", &table.key));
        match updated(table) {
            Some(column) => routes.push(update(table, column)),
            None => {
                missing.push(format!("{}: no update, all of its columns are part of the key", table.name))
            }
        }
    }
    let foreign = table.foreign_keys.iter().find(|key| indexed(table, key) && **key != table.key);
    if let Some(key) = foreign {
        routes.push(read(table, Kind::ReadByForeignKey, "of", key));
    }
    if let Some(column) = table.indexed.iter().find_map(|name| table.column(name)).filter(|one| ordered(one))
    {
        routes.push(range(table, column));
    }
    match copied(table) {
        Ok(copy) => {
            routes.push(insert(table, copy.clone()));
            routes.extend(delete(table, copy));
        }
        Err(why) => missing.push(format!("{}: no insert and no delete, {why}", table.name)),
    }
    (routes, missing)
}

/// Whether an index begins with the columns.
fn indexed(table: &Table, columns: &[String]) -> bool {
    columns.first().is_some_and(|first| table.indexed.contains(first))
}

/// Whether values of the column's type stand in an order that a parameter can point into.
fn ordered(column: &Column) -> bool {
    matches!(column.category, 'N' | 'S' | 'D') || column.base == "uuid"
}

/// Types that every client encodes; others are sent as text and read by the server.
const PLAIN: [&str; 12] = [
    "int2",
    "int4",
    "int8",
    "text",
    "varchar",
    "uuid",
    "bool",
    "date",
    "timestamp",
    "timestamptz",
    "float8",
    "numeric",
];

/// The parameter of a number as an expression of the column's type.
fn parameter(table: &Table, column: &str, number: usize) -> String {
    match table.column(column) {
        Some(known) if !PLAIN.contains(&known.base.as_str()) => {
            format!("CAST(${number}::text AS {})", known.sql_type)
        }
        _ => format!("${number}"),
    }
}

/// `a = $1 AND b = $2` from the number `first` on.
fn matches(table: &Table, columns: &[String], first: usize) -> String {
    let one =
        |(place, column): (usize, &String)| format!("{column} = {}", parameter(table, column, first + place));
    columns.iter().enumerate().map(one).collect::<Vec<_>>().join(" AND ")
}

/// Every column by its name, as the clients of one version read them: one that goes away breaks the statement.
fn listed(table: &Table) -> String {
    table.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn values(columns: &[String]) -> Vec<Parameter> {
    columns.iter().cloned().map(Parameter::Of).collect()
}

fn read(table: &Table, kind: Kind, word: &str, columns: &[String]) -> Route {
    let sql = format!("SELECT {} FROM {} WHERE {}", listed(table), table.name, matches(table, columns, 1));
    let rows = (kind == Kind::ReadByKey).then_some(1);
    Route {
        name: format!("{}: read {word} {}", table.name, columns.join(", ")),
        kind,
        statements: vec![Statement { sql, parameters: values(columns), rows }],
        write: None,
    }
}

fn range(table: &Table, column: &Column) -> Route {
    let name = &column.name;
    let sql = format!(
        "SELECT {} FROM {} WHERE {name} >= {} ORDER BY {name} LIMIT {RANGE_ROWS}",
        listed(table),
        table.name,
        parameter(table, name, 1),
    );
    Route {
        name: format!("{}: read from {name} on", table.name),
        kind: Kind::ReadRange,
        statements: vec![Statement { sql, parameters: vec![Parameter::Of(name.clone())], rows: None }],
        write: None,
    }
}

/// The column that an update writes: one that no index and no key holds, where there is one.
fn updated(table: &Table) -> Option<&Column> {
    let free = |column: &&Column| column.filled != Filled::Generated && !table.key.contains(&column.name);
    let in_no_rule = |column: &&Column| {
        !table.indexed.contains(&column.name)
            && !table.foreign_keys.iter().flatten().any(|name| *name == column.name)
            && !table.unique.iter().flatten().any(|name| *name == column.name)
    };
    table.columns.iter().filter(free).find(in_no_rule).or_else(|| table.columns.iter().find(free))
}

fn update(table: &Table, column: &Column) -> Route {
    let name = &column.name;
    let condition = matches(table, &table.key, 1);
    let sql = format!("UPDATE {} SET {name} = {name} WHERE {condition}", table.name);
    Route {
        name: format!("{}: update {name}", table.name),
        kind: Kind::Update,
        statements: vec![Statement { sql, parameters: values(&table.key), rows: Some(1) }],
        write: None,
    }
}

/// The statement that copies a row under keys of its own, or why there can be none.
fn copied(table: &Table) -> Result<Statement, String> {
    if table.key.is_empty() {
        return Err("it has no key by which a row to copy is found".to_owned());
    }
    if let Some(rule) = &table.unusual {
        return Err(format!("a copied row could break {rule}"));
    }
    let mut fresh: Vec<&str> = Vec::new();
    for columns in &table.unique {
        let renewed = |name: &&String| {
            fresh.contains(&name.as_str())
                || table
                    .column(name)
                    .is_some_and(|column| by_itself(column) || expression(column, 1).is_some())
                    && !table.foreign_keys.iter().flatten().any(|foreign| foreign == *name)
        };
        let Some(name) = columns.iter().find(renewed) else {
            return Err(format!("the columns {} of a unique rule cannot be made new", columns.join(", ")));
        };
        if !fresh.contains(&name.as_str()) {
            fresh.push(name);
        }
    }
    let number = table.key.len() + 1;
    let mut names = Vec::new();
    let mut sources = Vec::new();
    let mut sends_fresh = false;
    for column in &table.columns {
        let is_fresh = fresh.contains(&column.name.as_str());
        if column.filled == Filled::Generated || is_fresh && by_itself(column) {
            continue;
        }
        names.push(column.name.as_str());
        sources.push(match expression(column, number).filter(|_| is_fresh) {
            Some(expression) => {
                sends_fresh = true;
                expression
            }
            None => column.name.clone(),
        });
    }
    let condition = matches(table, &table.key, 1);
    let (names, sources) = (names.join(", "), sources.join(", "));
    let sql = format!("INSERT INTO {0} ({names}) SELECT {sources} FROM {0} WHERE {condition}", table.name);
    let mut parameters = values(&table.key);
    if sends_fresh {
        parameters.push(Parameter::Fresh);
    }
    Ok(Statement { sql, parameters, rows: Some(1) })
}

/// Columns of a row that a write's ledger holds, beside the one that finds it.
const WITNESSED_MAX: usize = 4;

fn insert(table: &Table, copy: Statement) -> Route {
    let number = table.key.len() + 1;
    // By a column that a unique rule covers, so that an index finds it.
    let found_by = table.unique.iter().flatten().filter_map(|name| table.column(name)).find_map(|column| {
        let is_new = expression(column, number).is_some_and(|one| copy.sql.contains(&one));
        expression(column, 1).filter(|_| is_new).map(|one| format!("{} = {one}", column.name))
    });
    let route = |statement, write| Route {
        name: format!("{}: insert", table.name),
        kind: Kind::Insert,
        statements: vec![statement],
        write,
    };
    let Some(condition) = found_by else { return route(copy, None) };
    let witnessed = |column: &&Column| PLAIN.contains(&column.base.as_str()) && column.filled == Filled::Not;
    let columns: Vec<String> = table
        .columns
        .iter()
        .filter(witnessed)
        .take(WITNESSED_MAX)
        .map(|column| column.name.clone())
        .collect();
    if columns.is_empty() {
        return route(copy, None);
    }
    let listed = columns.join(", ");
    let sql = format!("{} RETURNING {listed}", copy.sql);
    let read_back = format!("SELECT {listed} FROM {} WHERE {condition}", table.name);
    route(Statement { sql, ..copy }, Some(Write { columns, read_back }))
}

/// Whether the server gives the column a new value when an INSERT leaves it out.
const fn by_itself(column: &Column) -> bool {
    matches!(column.filled, Filled::Sequence | Filled::Uuid)
}

/// A new value of the column's type, made in the server from a fresh text; none where the type has too few.
fn expression(column: &Column, number: usize) -> Option<String> {
    let text = format!("${number}::text");
    match column.base.as_str() {
        // The last characters of the text are the ones that differ.
        "text" | "varchar" | "bpchar" | "citext" => match column.length_max {
            None => Some(text),
            Some(length) if length >= 8 => Some(format!("right({text}, {length})")),
            Some(_) => None,
        },
        "uuid" => Some(format!("md5({text})::uuid")),
        "int8" => Some(format!("('x' || left(md5({text}), 15))::bit(60)::bigint")),
        "int4" => Some(format!("(('x' || left(md5({text}), 8))::bit(32)::int & 2147483647)")),
        "bytea" => Some(format!("decode(md5({text}), 'hex')")),
        _ => None,
    }
}

/// Insert and delete of one row, where the row can be found again.
fn delete(table: &Table, copy: Statement) -> Option<Route> {
    let number = table.key.len() + 1;
    // A key of several columns is found by the one that is new; the rest came with the copied row.
    let (condition, parameters) = table.key.iter().find_map(|name| {
        let column = table.column(name)?;
        if let Some(sequence) = &column.sequence {
            let condition = format!("{name} = currval('{}')", sequence.replace('\'', "''"));
            return Some((condition, Vec::new()));
        }
        let is_new = expression(column, number).is_some_and(|one| copy.sql.contains(&one));
        let condition = expression(column, 1).filter(|_| is_new)?;
        Some((format!("{name} = {condition}"), vec![Parameter::Fresh]))
    })?;
    let sql = format!("DELETE FROM {} WHERE {condition}", table.name);
    Some(Route {
        name: format!("{}: insert and delete", table.name),
        kind: Kind::Delete,
        statements: vec![copy, Statement { sql, parameters, rows: Some(1) }],
        write: None,
    })
}
