//! golang-migrate and sqlx: numbered files, one for each way.
//!
//! golang-migrate: `source/parse.go` (names), `database/postgres/postgres.go` (the whole file goes to the server as one
//! simple query, which PostgreSQL makes one transaction unless the file has its own). sqlx: `sqlx-core/src/migrate/`.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;

use super::folder::{Folder, by_value, number};
use super::{History, HistoryError, Migration, Script};

/// What begins a file that sqlx runs without a transaction.
pub(super) const SQLX_NO_TRANSACTION: &str = "-- no-transaction";

/// Which way a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// A file name taken apart.
struct Named<'name> {
    digits: &'name str,
    id: &'name str,
    direction: Direction,
}

/// A name of the form `1_name.up.sql`, or with sqlx also `1_name.sql`.
fn named(name: &str, simple: bool) -> Option<Named<'_>> {
    let (digits, rest) = number(name)?;
    if !rest.starts_with('_') {
        return None;
    }
    let (id, direction) = if let Some(id) = name.strip_suffix(".up.sql") {
        (id, Direction::Up)
    } else if let Some(id) = name.strip_suffix(".down.sql") {
        (id, Direction::Down)
    } else {
        (name.strip_suffix(".sql").filter(|_| simple)?, Direction::Up)
    };
    Some(Named { digits, id, direction })
}

/// Whether golang-migrate, and sqlx, would take the file.
pub(super) fn is_pair(name: &str) -> bool {
    named(name, false).is_some()
}

pub(super) fn golang_migrate(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    read(folder, history, false, |_| false)
}

pub(super) fn sqlx(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    read(folder, history, true, |sql| !sql.starts_with(SQLX_NO_TRANSACTION))
}

fn read(
    folder: &Folder,
    history: &mut History,
    simple: bool,
    transaction: impl Fn(&str) -> bool,
) -> Result<(), HistoryError> {
    type Ways = (Option<String>, Option<String>, String);
    let mut versions: BTreeMap<(usize, String), Ways> = BTreeMap::new();
    for path in folder.top() {
        let Some(named) = named(path, simple) else {
            if path.ends_with(".sql") {
                let text = format!("is not named as {} names migrations; left out", history.layout.name());
                history.notes.push(Note { file: folder.show(path), line: None, text });
            }
            continue;
        };
        let ways = versions.entry(by_value(named.digits)).or_default();
        let way = if named.direction == Direction::Up { &mut ways.0 } else { &mut ways.1 };
        if let Some(first) = way.replace(path.to_owned()) {
            return Err(HistoryError::Twice {
                version: named.digits.to_owned(),
                first: folder.show(&first),
                second: folder.show(path),
            });
        }
        if ways.2.is_empty() || named.direction == Direction::Up {
            named.id.clone_into(&mut ways.2);
        }
    }
    for (up, down, id) in versions.into_values() {
        let script = |path: &str| {
            let text = folder.text(path);
            let transaction = text.sql.as_deref().is_ok_and(&transaction);
            Script::whole(folder.show(path), text, transaction)
        };
        let Some(up) = up else {
            let file = folder.show(&down.unwrap_or_default());
            let text = "is a way back without a way up; left out".to_owned();
            history.notes.push(Note { file, line: None, text });
            continue;
        };
        let (up, down) = (script(&up), down.as_deref().map(script));
        history.migrations.push(Migration { id, up, down });
    }
    Ok(())
}
