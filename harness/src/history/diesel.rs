//! diesel: a folder a migration, in the order of the names' first part as text without hyphens.
//!
//! `diesel_migrations/src/file_based_migrations.rs`, `migrations_internals/src/lib.rs`.

use std::collections::{BTreeMap, BTreeSet};

use super::folder::Folder;
use super::{History, HistoryError, Migration, Script};

/// Folders that hold an `up.sql`.
pub(super) fn folders(folder: &Folder) -> BTreeSet<&str> {
    folder
        .files
        .iter()
        .filter_map(|path| path.strip_suffix("/up.sql"))
        .filter(|name| !name.contains('/'))
        .collect()
}

/// What diesel knows a migration by.
fn version(name: &str) -> String {
    name.split('_').next().unwrap_or_default().replace('-', "")
}

pub(super) fn read(folder: &Folder, history: &mut History) -> Result<(), HistoryError> {
    let mut versions: BTreeMap<String, &str> = BTreeMap::new();
    for name in folders(folder) {
        let version = version(name);
        if let Some(first) = versions.insert(version.clone(), name) {
            return Err(HistoryError::Twice {
                version,
                first: folder.show(first),
                second: folder.show(name),
            });
        }
    }
    let has = |path: &str| folder.files.iter().any(|file| file == path);
    for name in versions.into_values() {
        let metadata = format!("{name}/metadata.toml");
        let transaction = !has(&metadata) || runs_in_transaction(folder, &metadata);
        let script = |path: &str| Script::whole(folder.show(path), folder.text(path), transaction);
        let down = format!("{name}/down.sql");
        let up = script(&format!("{name}/up.sql"));
        let down = has(&down).then(|| script(&down));
        history.migrations.push(Migration { id: name.to_owned(), up, down });
    }
    Ok(())
}

/// What diesel cannot read counts for nothing there, too.
fn runs_in_transaction(folder: &Folder, path: &str) -> bool {
    let Ok(text) = folder.text(path).sql else { return true };
    let Ok(table) = text.parse::<toml::Table>() else { return true };
    table.get("run_in_transaction").and_then(toml::Value::as_bool).unwrap_or(true)
}
