//! goose: one file with annotations, whose statements go to the server one by one.
//!
//! `internal/sqlparser/parser.go`: a statement ends with a line whose last word ends in a semicolon, or at
//! `StatementEnd`; what stands in comments between statements is dropped.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;

use super::folder::{Folder, Text, by_value, number};
use super::{History, HistoryError, Migration, Part, Problem, Script};

/// Where the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Section {
    Before,
    Up,
    Down,
}

/// The two ways of a file as they are read.
struct Reader {
    section: Section,
    in_statement: bool,
    substitutes: bool,
    transaction: bool,
    statement: String,
    statement_line: u32,
    up: Vec<Part>,
    down: Option<Vec<Part>>,
}

/// An annotation's words, where a line is one.
fn annotation(line: &str) -> Option<String> {
    let rest = line.strip_prefix("--")?.trim().strip_prefix("+goose")?;
    let words: Vec<&str> = rest.split_whitespace().collect();
    Some(words.join(" ").to_ascii_uppercase())
}

/// Whether a text has goose's first annotation.
pub(super) fn is_goose(text: &str) -> bool {
    text.lines().any(|line| annotation(line).is_some_and(|words| words == "UP"))
}

pub(super) fn read(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    let mut versions: BTreeMap<(usize, String), &str> = BTreeMap::new();
    for path in folder.top().filter(|path| path.ends_with(".sql")) {
        let Some((digits, _)) = number(path).filter(|(_, rest)| rest.starts_with('_')) else {
            let text = "does not begin with a number and an underscore; left out".to_owned();
            history.notes.push(Note { file: folder.show(path), line: None, text });
            continue;
        };
        if let Some(first) = versions.insert(by_value(digits), path) {
            return Err(HistoryError::Twice {
                version: digits.to_owned(),
                first: folder.show(first),
                second: folder.show(path),
            });
        }
    }
    history.migrations.extend(versions.into_values().map(|path| migration(folder, path)));
    Ok(())
}

fn migration(folder: &Folder, path: &str) -> Migration {
    let id = path.strip_suffix(".sql").unwrap_or(path).to_owned();
    let Text { sql, notes } = folder.text(path);
    let mut up = Script::of(folder.show(path), notes, true);
    match sql.and_then(|text| take_apart(&text)) {
        Err(problem) => {
            up.problem = Some(problem);
            Migration { id, up, down: None }
        }
        Ok(reader) => {
            up.transaction = reader.transaction;
            up.parts = reader.up;
            let down = reader
                .down
                .map(|parts| Script { parts, ..Script::of(up.file.clone(), Vec::new(), up.transaction) });
            Migration { id, up, down }
        }
    }
}

fn take_apart(text: &str) -> Result<Reader, Problem> {
    let mut reader = Reader {
        section: Section::Before,
        in_statement: false,
        substitutes: false,
        transaction: true,
        statement: String::new(),
        statement_line: 1,
        up: Vec::new(),
        down: None,
    };
    let mut last = 1;
    for (index, line) in text.lines().enumerate() {
        last = u32::try_from(index + 1).unwrap_or(u32::MAX);
        let taken = match annotation(line) {
            Some(words) => reader.annotated(&words),
            None => reader.line(line, last),
        };
        taken.map_err(|what| Problem { line: last, what })?;
    }
    let unfinished = if reader.section == Section::Before {
        Some("has no `-- +goose Up`, without which goose refuses it".to_owned())
    } else if reader.in_statement {
        Some("has `-- +goose StatementBegin` without its end".to_owned())
    } else {
        reader.unfinished()
    };
    match unfinished {
        Some(what) => Err(Problem { line: last, what }),
        None => Ok(reader),
    }
}

impl Reader {
    fn annotated(&mut self, words: &str) -> Result<(), String> {
        match words {
            "UP" if self.section == Section::Before => self.section = Section::Up,
            "UP" => return Err("`-- +goose Up` stands here a second time".to_owned()),
            "DOWN" if self.section == Section::Up && !self.in_statement => {
                if let Some(what) = self.unfinished() {
                    return Err(what);
                }
                self.section = Section::Down;
                self.down = Some(Vec::new());
            }
            "DOWN" => return Err("`-- +goose Down` stands where goose does not take it".to_owned()),
            "STATEMENTBEGIN" if self.section != Section::Before && !self.in_statement => {
                self.in_statement = true;
            }
            "STATEMENTBEGIN" => {
                return Err("`-- +goose StatementBegin` stands where goose does not take it".to_owned());
            }
            "STATEMENTEND" if self.in_statement => {
                self.in_statement = false;
                self.finish();
            }
            "STATEMENTEND" => return Err("`-- +goose StatementEnd` has no beginning".to_owned()),
            "NO TRANSACTION" => self.transaction = false,
            "ENVSUB ON" | "ENVSUBST ON" => self.substitutes = true,
            "ENVSUB OFF" | "ENVSUBST OFF" => self.substitutes = false,
            other => return Err(format!("`-- +goose {other}` is no annotation that is known here")),
        }
        Ok(())
    }

    fn line(&mut self, line: &str, number: u32) -> Result<(), String> {
        if self.statement.is_empty() && (line.trim().is_empty() || line.trim_start().starts_with("--")) {
            return Ok(());
        }
        if self.section == Section::Before {
            return Err("has a statement before `-- +goose Up`, which goose refuses".to_owned());
        }
        if self.statement.is_empty() {
            self.statement_line = number;
        }
        self.statement.push_str(line);
        self.statement.push('\n');
        if !self.in_statement && ends_statement(line) {
            self.finish();
        }
        Ok(())
    }

    fn finish(&mut self) {
        let mut sql = std::mem::take(&mut self.statement);
        if sql.trim().is_empty() {
            return;
        }
        if self.substitutes {
            sql = substituted(&sql, |name| std::env::var(name).ok());
        }
        let part = Part { line: self.statement_line, sql };
        match self.section {
            Section::Down => self.down.get_or_insert_default().push(part),
            Section::Up | Section::Before => self.up.push(part),
        }
    }

    fn unfinished(&self) -> Option<String> {
        let begun = !self.statement.trim().is_empty();
        begun.then(|| {
            format!(
                "has a statement from line {} on that ends in no semicolon, which goose refuses",
                self.statement_line
            )
        })
    }
}

fn ends_statement(line: &str) -> bool {
    let words = line.split_whitespace().take_while(|word| !word.starts_with("--"));
    words.last().is_some_and(|word| word.ends_with(';'))
}

/// `$NAME`, `${NAME}` and `${NAME:-default}` by their values; what has none becomes nothing.
fn substituted(text: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let length = |text: &str| {
            let end = text.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
            let end = end.unwrap_or(text.len());
            if text.starts_with(|letter: char| letter.is_ascii_digit()) { 0 } else { end }
        };
        if let Some((inside, after)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            let (name, default) = inside.split_once(":-").unwrap_or((inside, ""));
            out.push_str(
                &value(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default.to_owned()),
            );
            rest = after;
        } else {
            let end = length(rest);
            if end == 0 {
                out.push('$');
            } else {
                out.push_str(&value(&rest[..end]).unwrap_or_default());
            }
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{substituted, take_apart};

    fn parts(text: &str) -> Vec<(u32, String)> {
        let reader = take_apart(text).unwrap();
        reader.up.into_iter().map(|part| (part.line, part.sql)).collect()
    }

    #[test]
    fn statements_end_where_goose_ends_them() {
        let text = "-- +goose Up\n-- a comment\nCREATE TABLE t (\n  a int, -- one;\n  b int\n); -- done\nSELECT 1;\n\
                    -- +goose StatementBegin\nDO $$ BEGIN\n  a;\nEND $$;\n-- +goose StatementEnd\n-- +goose Down\n";
        let lines: Vec<u32> = parts(text).iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [3, 7, 9]);
        assert!(parts(text)[2].1.starts_with("DO $$ BEGIN\n  a;\nEND $$;"));
    }

    #[test]
    fn what_goose_refuses_is_refused_with_its_line() {
        for (text, line, what) in [
            ("SELECT 1;\n", 1, "before `-- +goose Up`"),
            ("-- nothing\n", 1, "no `-- +goose Up`"),
            ("-- +goose Up\nSELECT 1\n-- +goose Down\n", 3, "no semicolon"),
            ("-- +goose Up\n-- +goose Up\n", 2, "second time"),
            ("-- +goose Up\n-- +goose StatementBegin\nSELECT 1;\n", 3, "without its end"),
            ("-- +goose Up\n-- +goose StatementEnd\n", 2, "no beginning"),
            ("-- +goose Down\n", 1, "does not take it"),
        ] {
            let problem = take_apart(text).map(|_| ()).unwrap_err();
            assert_eq!(problem.line, line, "{text}");
            assert!(problem.what.contains(what), "{}", problem.what);
        }
    }

    #[test]
    fn variables_get_their_values() {
        let value = |name: &str| (name == "A").then(|| "x".to_owned());
        assert_eq!(substituted("$A ${A} ${B:-y} ${B}$1 $$ $", value), "x x y $1 $$ $");
    }
}
