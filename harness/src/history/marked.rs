//! dbmate: one file with a section for each way, in the order of the file names as text.
//!
//! `pkg/dbmate/migration.go`: each section, with its mark, goes to the server as one simple query.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;

use super::folder::{Folder, Text, number};
use super::{History, HistoryError, Migration, Part, Problem, Script};

/// A section's first line.
struct Mark {
    /// Byte offset of the line.
    at: usize,
    line: u32,
    transaction: bool,
}

/// The first mark of a way.
fn mark(text: &str, way: &str) -> Option<Mark> {
    let mut at = 0;
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let said =
            line.strip_prefix("--").map(str::trim_start).and_then(|rest| rest.strip_prefix("migrate:"));
        if let Some(options) = said.and_then(|rest| rest.strip_prefix(way))
            && options.chars().next().is_none_or(char::is_whitespace)
        {
            return Some(Mark {
                at,
                line: u32::try_from(index + 1).unwrap_or(u32::MAX),
                transaction: !options.split_whitespace().any(|option| option == "transaction:false"),
            });
        }
        at += line.len();
    }
    None
}

/// Whether a text has dbmate's first mark.
pub(super) fn is_dbmate(text: &str) -> bool {
    mark(text, "up").is_some()
}

pub(super) fn dbmate(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    let mut versions: BTreeMap<&str, &str> = BTreeMap::new();
    for path in folder.top().filter(|path| path.ends_with(".sql")) {
        let Some((version, _)) = number(path) else {
            let text = "does not begin with a number; left out".to_owned();
            history.notes.push(Note { file: folder.show(path), line: None, text });
            continue;
        };
        if let Some(first) = versions.insert(version, path) {
            return Err(HistoryError::Twice {
                version: version.to_owned(),
                first: folder.show(first),
                second: folder.show(path),
            });
        }
        history.migrations.push(migration(folder, path));
    }
    Ok(())
}

fn migration(folder: &Folder, path: &str) -> Migration {
    let id = path.strip_suffix(".sql").unwrap_or(path).to_owned();
    let Text { sql, notes } = folder.text(path);
    let mut up = Script::of(folder.show(path), notes, true);
    let text = match sql {
        Ok(text) => text,
        Err(problem) => {
            up.problem = Some(problem);
            return Migration { id, up, down: None };
        }
    };
    let (first, second) = (mark(&text, "up"), mark(&text, "down"));
    let Some(first) = first else {
        let what = "has no `-- migrate:up`, without which dbmate refuses it".to_owned();
        up.problem = Some(Problem { line: 1, what });
        return Migration { id, up, down: None };
    };
    if second.as_ref().is_some_and(|second| second.at < first.at) {
        let what = "has `-- migrate:down` before `-- migrate:up`, which dbmate refuses".to_owned();
        up.problem = Some(Problem { line: first.line, what });
        return Migration { id, up, down: None };
    }
    let end = second.as_ref().map_or(text.len(), |second| second.at);
    up.transaction = first.transaction;
    up.parts.push(Part { line: first.line, sql: text[first.at..end].to_owned() });
    let down = second.map(|second| {
        let mut down = Script::of(folder.show(path), Vec::new(), second.transaction);
        down.parts.push(Part { line: second.line, sql: text[second.at..].to_owned() });
        down
    });
    Migration { id, up, down }
}
