//! Writes rows with COPY: binary where every type of the table has a binary form, else as text.
//!
//! Called by `fill`, once for each share of a table's rows; a share is one statement and one transaction.

use sqlx::PgConnection;

use super::encode;
use super::plan::Table;
use super::row::{At, Rows};

/// Bytes that are sent at once.
const BUFFER: usize = 256 << 10;
/// Signature, flags, length of the extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The statement that rows of this table go through.
fn statement(table: &Table) -> String {
    let columns: Vec<&str> = table.columns.iter().map(|column| column.quoted.as_str()).collect();
    let format = if table.is_binary() { "binary" } else { "text" };
    format!("COPY {} ({}) FROM STDIN (FORMAT {format})", table.name, columns.join(", "))
}

/// Writes the rows of a range.
pub(super) async fn copy(
    connection: &mut PgConnection,
    rows: &Rows<'_>,
    table: &Table,
    range: std::ops::Range<u64>,
) -> Result<u64, sqlx::Error> {
    let binary = table.is_binary();
    let mut copy = connection.copy_in_raw(&statement(table)).await?;
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER + (8 << 10));
    if binary {
        buffer.extend_from_slice(HEADER);
    }
    for row in range {
        append(rows, table, At { row, attempt: 0 }, binary, &mut buffer);
        if buffer.len() >= BUFFER {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
        }
    }
    if binary {
        buffer.extend_from_slice(&(-1_i16).to_be_bytes());
    }
    copy.send(buffer.as_slice()).await?;
    copy.finish().await
}

/// Adds one row. What a debug build would spend on iterators is more than what the values cost, so that this counts by hand.
fn append(rows: &Rows<'_>, table: &Table, at: At, binary: bool, buffer: &mut Vec<u8>) {
    if binary {
        buffer.extend_from_slice(&u16::try_from(table.columns.len()).unwrap_or(0).to_be_bytes());
    }
    for place in 0..table.columns.len() {
        let shape = &table.columns[place].shape;
        let value = rows.value(table, place, at, 0);
        if binary {
            encode::binary(shape, &value, buffer);
            continue;
        }
        if place > 0 {
            buffer.push(b'\t');
        }
        encode::copy_text(shape, &value, buffer);
    }
    if !binary {
        buffer.push(b'\n');
    }
}
