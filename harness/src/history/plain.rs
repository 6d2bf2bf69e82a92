//! Numbered SQL without a tool that says how: run as `psql` would, a file after the other.
//!
//! A file is one transaction, unless it has its own or a statement that PostgreSQL refuses inside one; `trace` wraps
//! scripts by the same rule.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;
use fulldress_reports::sql::{commands, line_of};
use fulldress_reports::trace::Transactions;

use super::folder::{Folder, Text, by_value, number};
use super::{History, HistoryError, Migration, Part, Problem, Script};
use crate::trace::script::{read as statements, transactions};

/// Folders and endings that mark a way back.
const BACK: [&str; 5] = ["down", "rollback", "rollbacks", "undo", "revert"];
/// Commands of psql that change nothing but what psql shows.
const HARMLESS: [&str; 14] = [
    "\\set",
    "\\unset",
    "\\echo",
    "\\qecho",
    "\\warn",
    "\\timing",
    "\\pset",
    "\\encoding",
    "\\restrict",
    "\\unrestrict",
    "\\x",
    "\\t",
    "\\a",
    "\\conninfo",
];

/// A path taken apart.
struct Named<'path> {
    /// What it sorts by.
    numbers: Vec<(usize, String)>,
    /// The name without ending and direction.
    stem: &'path str,
    back: bool,
}

fn named(path: &str) -> Option<Named<'_>> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.strip_suffix(".sql")?;
    let digits = stem.strip_prefix(['v', 'V']).unwrap_or(stem);
    let (first, mut rest) = number(digits)?;
    let mut numbers = vec![by_value(first)];
    while let Some((next, after)) = rest.strip_prefix('.').and_then(number) {
        numbers.push(by_value(next));
        rest = after;
    }
    let (stem, way) = match stem.rsplit_once(['_', '.', '-']) {
        Some((before, word)) if word.eq_ignore_ascii_case("up") => (before, Some(false)),
        Some((before, word)) if BACK.iter().any(|back| word.eq_ignore_ascii_case(back)) => {
            (before, Some(true))
        }
        _ => (stem, None),
    };
    let in_folder = match folder {
        "" => Some(false),
        "up" => Some(false),
        folder if BACK.contains(&folder) => Some(true),
        _ => None,
    };
    Some(Named { numbers, stem, back: way == Some(true) || in_folder? })
}

/// Whether a path is that of a way back.
pub(super) fn is_way_back(path: &str) -> bool {
    named(path).is_some_and(|named| named.back)
}

/// Where a file stands in the order: by its numbers, then by its name.
type Position<'name> = (Vec<(usize, String)>, &'name str);

pub(super) fn read(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    let mut ups: BTreeMap<Position<'_>, &str> = BTreeMap::new();
    let mut backs: Vec<(Named<'_>, &str)> = Vec::new();
    for path in folder.files.iter().filter(|path| path.ends_with(".sql")) {
        match named(path) {
            None if path.contains('/') => {}
            None => {
                let text = "does not begin with a number; left out".to_owned();
                history.notes.push(Note { file: folder.show(path), line: None, text });
            }
            Some(named) if named.back => backs.push((named, path)),
            Some(named) => {
                let version = named.stem.to_owned();
                if let Some(first) = ups.insert((named.numbers, named.stem), path) {
                    return Err(HistoryError::Twice {
                        version,
                        first: folder.show(first),
                        second: folder.show(path),
                    });
                }
            }
        }
    }
    for ((numbers, stem), path) in &ups {
        let alone = ups.keys().filter(|(others, _)| others == numbers).count() == 1;
        // The same name, or with a number that only this one has any name.
        let at = backs
            .iter()
            .position(|(back, _)| back.stem == *stem)
            .or_else(|| backs.iter().position(|(back, _)| alone && back.numbers == *numbers));
        let down = at.map(|at| script(folder, backs.remove(at).1));
        history.migrations.push(Migration { id: (*stem).to_owned(), up: script(folder, path), down });
    }
    for (_, path) in backs {
        let text = "is a way back without a way up; left out".to_owned();
        history.notes.push(Note { file: folder.show(path), line: None, text });
    }
    Ok(())
}

fn script(folder: &Folder, path: &str) -> Script {
    let shown = folder.show(path);
    let Text { sql, notes } = folder.text(path);
    let mut script = Script::of(shown.clone(), notes, true);
    let text = match sql.and_then(|text| without_commands(&text, &shown, &mut script.notes)) {
        Ok(text) => text,
        Err(problem) => return Script { problem: Some(problem), ..script },
    };
    let read = match statements(&text) {
        Ok(read) => read,
        Err(error) => {
            let what = format!("{}; {}", error.what, error.hint);
            return Script { problem: Some(Problem { line: error.line, what }), ..script };
        }
    };
    script.transaction = transactions(&read, false) == Transactions::File;
    if script.transaction {
        script.parts.push(Part { line: 1, sql: text });
    } else {
        script.parts = read.into_iter().map(|one| Part { line: one.line, sql: one.sql }).collect();
    }
    script
}

/// The text with blanks for psql's commands that do nothing to the database.
fn without_commands(text: &str, shown: &str, notes: &mut Vec<Note>) -> Result<String, Problem> {
    let mut kept = text.to_owned();
    for (at, command) in commands(text) {
        let line = line_of(text, at);
        let word = command.split_whitespace().next().unwrap_or(command);
        if !HARMLESS.contains(&word) {
            let what = format!(
                "`{command}` is a command of psql, and only SQL is run here: put what it stands for in its place, or \
                 give what it needs with --setup"
            );
            return Err(Problem { line, what });
        }
        let said = format!("`{command}` is a command of psql that does nothing to the database; left out");
        notes.push(Note { file: shown.to_owned(), line: Some(line), text: said });
        kept.replace_range(at..at + command.len(), &" ".repeat(command.len()));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn ways_back_are_told_from_ways_up() {
        for (path, stem, back) in [
            ("001_a.sql", "001_a", false),
            ("001_a_down.sql", "001_a", true),
            ("001_a.rollback.sql", "001_a", true),
            ("down/001_a.sql", "001_a", true),
            ("up/001_a.sql", "001_a", false),
            ("001-a-undo.sql", "001-a", true),
            ("001_a.up.sql", "001_a", false),
            ("v1.2.3.sql", "v1.2.3", false),
        ] {
            let named = named(path).unwrap();
            assert_eq!((named.stem, named.back), (stem, back), "{path}");
        }
        for other in ["seed.sql", "001.txt", "old/001_a.sql"] {
            assert!(named(other).is_none(), "{other}");
        }
    }
}
