//! Flyway and refinery: `V1__name.sql`, in the order of the versions' numbers, in the folder and below it.
//!
//! Flyway: its reference on migrations and script configuration; U undoes the V of its version, R comes after all
//! others in the order of the descriptions, statements go to the server one by one. refinery: `refinery_core/src/util.rs`;
//! there U is a migration that may come late, a file is one request, and nothing is ever undone.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;
use fulldress_reports::sql::{commands, line_of};

use super::folder::{Folder, Text, by_value};
use super::{History, HistoryError, Migration, Part, Problem, Script};
use crate::trace::script::{Class, read as statements};

/// What refinery runs without a transaction has this among its lines.
const REFINERY_NO_TRANSACTION: &str = "-- +refinery NO TRANSACTION";

/// A file name taken apart.
pub(super) struct Named<'name> {
    /// `V`, `U` or `R`.
    pub(super) kind: char,
    /// The version as it stands; empty for `R`.
    pub(super) version: &'name str,
    /// The name without its ending.
    id: &'name str,
}

/// What a version sorts by: its numbers without zeros at the end.
type Version = Vec<(usize, String)>;

/// Takes a path apart, where its last part has such a name.
pub(super) fn named(path: &str) -> Option<Named<'_>> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let id = name.strip_suffix(".sql")?;
    let (head, _) = id.split_once("__")?;
    let kind = head.chars().next()?;
    let version = head.get(1..)?;
    let numbers = !version.is_empty()
        && version
            .split(['.', '_'])
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    match kind {
        'V' | 'U' if numbers => Some(Named { kind, version, id }),
        'R' if version.is_empty() => Some(Named { kind, version, id }),
        _ => None,
    }
}

fn order(version: &str) -> Version {
    let mut numbers: Version = version.split(['.', '_']).map(by_value).collect();
    while numbers.len() > 1 && numbers.last().is_some_and(|(length, _)| *length == 0) {
        numbers.pop();
    }
    numbers
}

/// Files of one kind by version.
fn versions<'folder>(
    folder: &'folder Folder,
    kinds: &[char],
) -> Result<BTreeMap<Version, (&'folder str, Named<'folder>)>, HistoryError> {
    let mut versions: BTreeMap<Version, (&str, Named<'_>)> = BTreeMap::new();
    for path in &folder.files {
        let Some(named) = named(path).filter(|named| kinds.contains(&named.kind)) else { continue };
        let version = named.version.to_owned();
        if let Some((first, _)) = versions.insert(order(&version), (path, named)) {
            return Err(HistoryError::Twice {
                version,
                first: folder.show(first),
                second: folder.show(path),
            });
        }
    }
    Ok(versions)
}

pub(super) fn refinery(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    for (path, named) in versions(folder, &['V', 'U'])?.into_values() {
        let text = folder.text(path);
        let transaction = !text
            .sql
            .as_deref()
            .is_ok_and(|sql| sql.lines().any(|line| line.trim() == REFINERY_NO_TRANSACTION));
        let up = Script::whole(folder.show(path), text, transaction);
        history.migrations.push(Migration { id: named.id.to_owned(), up, down: None });
    }
    Ok(())
}

pub(super) fn flyway(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    let mut undo = versions(folder, &['U'])?;
    for (version, (path, named)) in versions(folder, &['V'])? {
        let up = script(folder, path);
        let down = undo.remove(&version).map(|(path, _)| script(folder, path));
        history.migrations.push(Migration { id: named.id.to_owned(), up, down });
    }
    for (path, _) in undo.into_values() {
        let text = "undoes a version that is not here; left out".to_owned();
        history.notes.push(Note { file: folder.show(path), line: None, text });
    }
    let mut repeatable: Vec<(&str, Named<'_>)> =
        folder.files.iter().filter_map(|path| Some((path.as_str(), named(path)?))).collect();
    repeatable.retain(|(_, named)| named.kind == 'R');
    repeatable.sort_by(|(_, left), (_, right)| left.id.cmp(right.id));
    for (path, named) in repeatable {
        history.migrations.push(Migration { id: named.id.to_owned(), up: script(folder, path), down: None });
    }
    Ok(())
}

/// A script whose statements are sent one by one, in one transaction unless its configuration or one of them says
/// otherwise.
fn script(folder: &Folder, path: &str) -> Script {
    let shown = folder.show(path);
    let Text { sql, notes } = folder.text(path);
    let mut script = Script::of(shown.clone(), notes, true);
    let text = match sql {
        Ok(text) => text,
        Err(problem) => return Script { problem: Some(problem), ..script },
    };
    let (text, refused) = (&text, commands(&text).into_iter().next());
    if let Some((at, command)) = refused {
        let what = format!("`{command}` is a command of psql, which Flyway does not run here");
        return Script { problem: Some(Problem { line: line_of(text, at), what }), ..script };
    }
    let read = match statements(text) {
        Ok(read) => read,
        Err(error) => {
            let what = format!("{}; {}", error.what, error.hint);
            return Script { problem: Some(Problem { line: error.line, what }), ..script };
        }
    };
    let outside = read.iter().find(|statement| statement.class == Class::Outside);
    script.transaction = outside.is_none() && !configured_without_transaction(folder, path);
    if let Some(statement) = outside.filter(|_| read.len() > 1) {
        let text =
            "cannot run in a transaction, and others stand beside it: Flyway takes that only with mixed=true";
        script.notes.push(Note { file: shown.clone(), line: Some(statement.line), text: text.to_owned() });
    }
    if let Some(at) = text.find("${").filter(|at| text[*at..].split_once('}').is_some()) {
        let text_of = &text[at..=at + text[at..].find('}').unwrap_or(0)];
        let said = format!("{text_of} is a placeholder without a value here; it was left as it stands");
        script.notes.push(Note { file: shown, line: Some(line_of(text, at)), text: said });
    }
    script.parts = read.into_iter().map(|one| Part { line: one.line, sql: one.sql }).collect();
    script
}

fn configured_without_transaction(folder: &Folder, path: &str) -> bool {
    let configuration = format!("{path}.conf");
    if !folder.files.contains(&configuration) {
        return false;
    }
    folder.text(&configuration).sql.is_ok_and(|text| {
        text.lines().any(|line| {
            let line: String = line.chars().filter(|letter| !letter.is_whitespace()).collect();
            line.eq_ignore_ascii_case("executeInTransaction=false")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::{named, order};

    #[test]
    fn versions_sort_by_their_numbers() {
        let mut versions = ["2", "1.10", "1.9", "1", "10", "1_9_1"];
        versions.sort_by_key(|version| order(version));
        assert_eq!(versions, ["1", "1.9", "1_9_1", "1.10", "2", "10"]);
        assert_eq!(order("1.0"), order("1"));
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(named("a/V1_2__x.sql").unwrap().version, "1_2");
        assert_eq!(named("R__views.sql").unwrap().kind, 'R');
        for other in ["V__x.sql", "V1_x.sql", "R1__x.sql", "V1..2__x.sql", "V1__x.txt", "B1__x.sql"] {
            assert!(named(other).is_none(), "{other}");
        }
    }
}
