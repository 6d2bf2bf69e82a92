//! Rows as INSERT statements: for small tables, of which many go in one round trip, and for single rows that are tried.
//!
//! Called by `writer` and `trial`. A COPY of few rows costs more than its rows: the driver's last message waits for the kernel's delayed
//! acknowledgement, 40 ms over TCP.

use super::encode;
use super::plan::Table;
use super::row::{At, Rows};
use super::value::Value;

/// All rows of a table, from the first attempt.
pub(super) fn all(rows: &Rows<'_>, table: &Table) -> String {
    if table.columns.is_empty() {
        // Nothing is ours to give; every column has its default.
        return format!("INSERT INTO {} SELECT FROM generate_series(1, {})", table.name, table.rows);
    }
    let mut values = Vec::new();
    let mut sql = head(table);
    for row in 0..table.rows {
        rows.row(table, At { row, attempt: 0 }, &mut values);
        sql.push_str(if row == 0 { "" } else { ", " });
        append(table, &values, &mut sql);
    }
    sql
}

/// One row.
pub(super) fn one(table: &Table, values: &[Value]) -> String {
    if table.columns.is_empty() {
        return format!("INSERT INTO {} DEFAULT VALUES", table.name);
    }
    let mut sql = head(table);
    append(table, values, &mut sql);
    sql
}

fn head(table: &Table) -> String {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.quoted.as_str()).collect();
    format!("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ", table.name, columns.join(", "))
}

fn append(table: &Table, values: &[Value], sql: &mut String) {
    for (place, (column, value)) in table.columns.iter().zip(values).enumerate() {
        sql.push(if place == 0 { '(' } else { ',' });
        encode::literal(&column.shape, value, sql);
    }
    sql.push(')');
}
