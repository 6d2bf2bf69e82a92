//! Which tool's history a folder is: every file speaks for one family, and what stands near decides within it.

use std::collections::BTreeMap;

use super::folder::{Folder, number};
use super::numbered::SQLX_NO_TRANSACTION;
use super::{HistoryError, Layout, flyway, goose, marked, numbered, plain};

/// What a file can speak for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Diesel,
    Versioned,
    Pairs,
    Goose,
    Dbmate,
    Numbered,
}

/// The layout, and why.
pub(super) fn layout(folder: &Folder) -> Result<(Layout, String), HistoryError> {
    let mut votes: BTreeMap<Family, usize> = BTreeMap::new();
    let mut unmarked = false;
    for path in folder.files.iter().filter(|path| path.ends_with(".sql")) {
        if let Some(family) = family(folder, path) {
            unmarked |= family == Family::Numbered && !path.contains('/') && !plain::is_way_back(path);
            *votes.entry(family).or_default() += 1;
        }
    }
    // Of two with as many the one that is named first in the family's list: the others' names fit more by chance.
    let most = votes.iter().max_by_key(|(family, count)| (**count, std::cmp::Reverse(**family)));
    let Some((family, count)) = most else { return Err(no_history(folder)) };
    let all: usize = votes.values().sum();
    let (layout, mut reason) = match family {
        Family::Diesel => (Layout::Diesel, "its folders have an up.sql each".to_owned()),
        Family::Goose => (Layout::Goose, "its files have `-- +goose Up`".to_owned()),
        Family::Dbmate => (Layout::Dbmate, "its files have `-- migrate:up`".to_owned()),
        Family::Versioned => versioned(folder),
        Family::Pairs => pairs(folder, unmarked),
        Family::Numbered => simple(folder),
    };
    if *count < all && !(layout == Layout::Sqlx && family == &Family::Pairs) {
        reason = format!("{reason}, as {count} of {all} files that look like migrations do");
    }
    Ok((layout, reason))
}

fn family(folder: &Folder, path: &str) -> Option<Family> {
    if let Some((inside, "up.sql")) = path.rsplit_once('/') {
        return (!inside.contains('/')).then_some(Family::Diesel);
    }
    if flyway::named(path).is_some() {
        return Some(Family::Versioned);
    }
    if path.contains('/') {
        return (plain::is_way_back(path) || path.starts_with("up/")).then_some(Family::Numbered);
    }
    if numbered::is_pair(path) {
        return Some(Family::Pairs);
    }
    number(path.strip_prefix(['v', 'V']).unwrap_or(path))?;
    let text = folder.text(path).sql.unwrap_or_default();
    if goose::is_goose(&text) {
        Some(Family::Goose)
    } else if marked::is_dbmate(&text) {
        Some(Family::Dbmate)
    } else {
        Some(Family::Numbered)
    }
}

fn mentions(near: &BTreeMap<&'static str, String>, file: &str, word: &str) -> bool {
    near.get(file).is_some_and(|text| text.contains(word))
}

/// Whether a file begins as sqlx marks those without a transaction.
fn has_sqlx_mark(folder: &Folder) -> bool {
    folder
        .top()
        .filter(|path| path.ends_with(".sql"))
        .any(|path| folder.text(path).sql.is_ok_and(|sql| sql.starts_with(SQLX_NO_TRANSACTION)))
}

fn pairs(folder: &Folder, unmarked: bool) -> (Layout, String) {
    let near = folder.near(&["Cargo.toml", "go.mod"]);
    let pairs = "its files end in .up.sql and .down.sql";
    if has_sqlx_mark(folder) {
        (Layout::Sqlx, format!("{pairs}, and one begins with `{SQLX_NO_TRANSACTION}`"))
    } else if mentions(&near, "go.mod", "migrate") {
        (Layout::GolangMigrate, format!("{pairs}, and a go.mod near them names migrate"))
    } else if mentions(&near, "Cargo.toml", "sqlx") {
        (Layout::Sqlx, format!("{pairs}, and a Cargo.toml near them names sqlx"))
    } else if unmarked {
        (Layout::Sqlx, "some of its files end in .up.sql and .down.sql, and some in .sql alone".to_owned())
    } else {
        (Layout::GolangMigrate, pairs.to_owned())
    }
}

fn simple(folder: &Folder) -> (Layout, String) {
    let near = folder.near(&["Cargo.toml"]);
    let backs = folder.files.iter().any(|path| plain::is_way_back(path));
    if has_sqlx_mark(folder) {
        (Layout::Sqlx, format!("its files begin with a number, and one with `{SQLX_NO_TRANSACTION}`"))
    } else if !backs && mentions(&near, "Cargo.toml", "sqlx") {
        (Layout::Sqlx, "its files begin with a number, and a Cargo.toml near them names sqlx".to_owned())
    } else {
        (Layout::Plain, "its files begin with a number and have no tool's marks".to_owned())
    }
}

fn versioned(folder: &Folder) -> (Layout, String) {
    let near = folder.near(&["Cargo.toml"]);
    let all: Vec<_> = folder.files.iter().filter_map(|path| flyway::named(path)).collect();
    let of = |kind| -> Vec<&str> {
        all.iter().filter(|named| named.kind == kind).map(|named| named.version).collect()
    };
    let (ups, undos) = (of('V'), of('U'));
    let names = "its files are named V1__name.sql";
    if mentions(&near, "Cargo.toml", "refinery") {
        (Layout::Refinery, format!("{names}, and a Cargo.toml near them names refinery"))
    } else if !undos.is_empty() && undos.iter().all(|undo| !ups.contains(undo)) {
        (Layout::Refinery, format!("{names}, and those with U have versions of their own"))
    } else {
        (Layout::Flyway, names.to_owned())
    }
}

/// Says where else to look.
fn no_history(folder: &Folder) -> HistoryError {
    let inner = folder.files.iter().filter(|path| path.ends_with(".sql")).filter_map(|path| {
        let (inner, name) = path.rsplit_once('/')?;
        // diesel's files stand one folder deeper than the history.
        let inner = if name == "up.sql" || name == "down.sql" { inner.rsplit_once('/')?.0 } else { inner };
        number(name.trim_start_matches(['V', 'v']))
            .is_some()
            .then_some(inner)
            .or((name == "up.sql").then_some(inner))
    });
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for inner in inner {
        *counts.entry(inner).or_default() += 1;
    }
    let hint = match counts.iter().max_by_key(|(_, count)| **count) {
        Some((inner, _)) => format!("there are some in {}: name that folder", folder.show(inner)),
        None => {
            "name the folder that holds files such as 0001_name.up.sql; docs/roundtrip.md lists the names"
                .to_owned()
        }
    };
    folder.unusable("has no SQL migrations", hint)
}
