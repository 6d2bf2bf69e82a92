//! Where a feeder's rows come from: a query, a CSV file, or JSON lines. Every cell becomes text, as psql shows it.

use std::path::Path;

use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Column as _, ConnectOptions as _, Row as _, ValueRef as _};

/// Largest file, bytes.
const SIZE_MAX: u64 = 256 << 20;

/// One row; NULL is absent.
pub(crate) type Cells = Box<[Option<Box<str>>]>;

/// Rows of named columns.
#[derive(Debug, PartialEq)]
pub(crate) struct Table {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Cells>,
}

/// Runs a query.
pub(crate) async fn from_query(options: &PgConnectOptions, query: &str) -> Result<Table, String> {
    let mut connection = options.connect().await.map_err(|error| error.to_string())?;
    // The simple protocol gives every type as text.
    let fetched = sqlx::raw_sql(AssertSqlSafe(query)).fetch_all(&mut connection).await;
    let fetched = fetched.map_err(|error| error.to_string())?;
    let columns = fetched.first().map_or(&[][..], |row| row.columns());
    let columns: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
    let mut rows = Vec::with_capacity(fetched.len());
    for row in &fetched {
        let mut cells = Vec::with_capacity(columns.len());
        for index in 0..row.columns().len() {
            let value = row.try_get_raw(index).map_err(|error| error.to_string())?;
            let text = if value.is_null() { None } else { Some(value.as_str()) };
            cells.push(text.transpose().map_err(|error| error.to_string())?.map(Box::from));
        }
        rows.push(cells.into());
    }
    Ok(Table { columns, rows })
}

/// A file's text.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let size = std::fs::metadata(path).map_err(fault)?.len();
    if size > SIZE_MAX {
        return Err(format!(
            "{}: {size} bytes are more than the {SIZE_MAX} that it may have",
            path.display()
        ));
    }
    std::fs::read_to_string(path).map_err(fault)
}

/// Reads CSV as RFC 4180 has it, the first line naming the columns. An empty cell without quotes is NULL, as for COPY.
pub(crate) fn from_csv(text: &str) -> Result<Table, String> {
    let mut records = records(text)?.into_iter();
    let (_, head) = records.next().ok_or("there is no line that names the columns")?;
    let columns: Vec<String> = head.into_iter().map(|cell| cell.unwrap_or_default().into()).collect();
    let mut rows = Vec::new();
    for (line, cells) in records {
        if cells.len() != columns.len() {
            return Err(format!(
                "line {line} has {} cells, and {} columns are named",
                cells.len(),
                columns.len()
            ));
        }
        rows.push(cells.into());
    }
    Ok(Table { columns, rows })
}

/// A record with the line on which it begins.
type Record = (usize, Vec<Option<Box<str>>>);

fn records(text: &str) -> Result<Vec<Record>, String> {
    let mut records = Vec::new();
    let (mut cells, mut cell, mut quoted) = (Vec::new(), String::new(), false);
    let (mut line, mut begun) = (1, 1);
    let mut letters = text.chars().peekable();
    let take = |cell: &mut String, quoted: &mut bool| {
        let text = std::mem::take(cell);
        let was_quoted = std::mem::take(quoted);
        (was_quoted || !text.is_empty()).then(|| text.into_boxed_str())
    };
    while let Some(letter) = letters.next() {
        match letter {
            '"' if cell.is_empty() && !quoted => {
                quoted = true;
                loop {
                    match (letters.next(), letters.peek()) {
                        (Some('"'), Some('"')) => {
                            cell.push('"');
                            letters.next();
                        }
                        (Some('"'), _) => break,
                        (Some(inner), _) => {
                            line += usize::from(inner == '\n');
                            cell.push(inner);
                        }
                        (None, _) => {
                            return Err(format!("a quote that begins on line {begun} is never closed"));
                        }
                    }
                }
            }
            ',' => cells.push(take(&mut cell, &mut quoted)),
            '\r' if letters.peek() == Some(&'\n') => {}
            '\n' => {
                let blank = cells.is_empty() && cell.is_empty() && !quoted;
                if !blank {
                    cells.push(take(&mut cell, &mut quoted));
                    records.push((begun, std::mem::take(&mut cells)));
                }
                line += 1;
                begun = line;
            }
            letter => cell.push(letter),
        }
    }
    if !cells.is_empty() || !cell.is_empty() || quoted {
        cells.push(take(&mut cell, &mut quoted));
        records.push((begun, cells));
    }
    Ok(records)
}

/// Reads one JSON object a line; the columns are the first object's members. A member that is not there is NULL, as `null`
/// is; an array or object is its JSON.
pub(crate) fn from_json_lines(text: &str) -> Result<Table, String> {
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    for (number, line) in lines {
        let object: serde_json::Map<String, Value> = serde_json::from_str(line)
            .map_err(|error| format!("line {number} is no JSON object: {error}"))?;
        if columns.is_empty() {
            columns = object.keys().cloned().collect();
        }
        if let Some(unknown) = object.keys().find(|name| !columns.contains(name)) {
            return Err(format!("line {number} has `{unknown}`, which the first line has not"));
        }
        let cells = columns.iter().map(|name| match object.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.as_str().into()),
            Some(other) => Some(other.to_string().into()),
        });
        rows.push(cells.collect());
    }
    Ok(Table { columns, rows })
}

#[cfg(test)]
mod tests {
    use super::{Cells, Table, from_csv, from_json_lines};

    fn table(columns: &[&str], rows: &[&[Option<&str>]]) -> Table {
        let cells = |row: &&[Option<&str>]| -> Cells { row.iter().map(|cell| cell.map(Box::from)).collect() };
        Table {
            columns: columns.iter().map(|&name| name.to_owned()).collect(),
            rows: rows.iter().map(cells).collect(),
        }
    }

    #[test]
    fn csv_is_read_with_quotes_line_ends_and_nulls() {
        let text = "id,name\r\n1,\"a, \"\"b\"\"\nc\"\n\n2,\n3,\"\"\n4,ü";
        let expected = table(
            &["id", "name"],
            &[
                &[Some("1"), Some("a, \"b\"\nc")],
                &[Some("2"), None],
                &[Some("3"), Some("")],
                &[Some("4"), Some("ü")],
            ],
        );
        assert_eq!(from_csv(text), Ok(expected));
        for (text, expected) in [
            ("", "no line that names the columns"),
            ("a,b\n\"1\n\",2\n3\n", "line 4 has 1 cells, and 2 columns"),
            ("a\n\"1", "never closed"),
        ] {
            let error = from_csv(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn json_lines_are_read_by_the_first_lines_names() {
        let text = "{\"id\": 1, \"tags\": [\"x\"]}\n\n{\"id\": null}\n{\"tags\": \"y\", \"id\": true}\n";
        let expected = table(
            &["id", "tags"],
            &[&[Some("1"), Some("[\"x\"]")], &[None, None], &[Some("true"), Some("y")]],
        );
        assert_eq!(from_json_lines(text), Ok(expected));
        assert!(from_json_lines("{\"a\": 1}\n{\"b\": 1}\n").unwrap_err().contains("line 2 has `b`"));
        assert!(from_json_lines("[1]\n").unwrap_err().contains("line 1 is no JSON object"));
    }
}
