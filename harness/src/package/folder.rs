//! A package's source folder, read in a fixed order.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::error::{Defect, Flaw, PackageError};
use super::limits::Limits;
use super::name::{self, Kind, Names};
use super::open::PackageFile;

/// Reads every file under a folder, by its name in the package.
pub(super) fn read(root: &Path, limits: &Limits) -> Result<BTreeMap<String, PackageFile>, PackageError> {
    let mut files = BTreeMap::new();
    let mut names = Names::default();
    let mut total: u64 = 0;
    // A list and not recursion: the depth of a vendor's folder must not decide the depth of the stack.
    let mut pending: Vec<(PathBuf, String)> = vec![(root.to_owned(), String::new())];
    while let Some((folder, prefix)) = pending.pop() {
        let listing = fs::read_dir(&folder).map_err(io(&folder, "could not be listed"))?;
        for item in listing {
            let item = item.map_err(io(&folder, "could not be listed"))?;
            let path = item.path();
            let shown = format!("{prefix}{}", item.file_name().to_string_lossy());
            let flawed = |flaw: Flaw| flaw.at(root);
            if item.file_name().to_str().is_none() {
                return Err(flawed(Flaw::entry(Defect::NameEncoding, &shown, "")));
            }
            name::check(&shown, limits).map_err(flawed)?;
            // The link itself, not what it points to: a link may lead out of the folder.
            let metadata = fs::symlink_metadata(&path).map_err(io(&path, "could not be examined"))?;
            if metadata.is_dir() {
                pending.push((path, format!("{shown}/")));
                continue;
            }
            if !metadata.is_file() {
                return Err(flawed(Flaw::entry(Defect::Special, &shown, "")));
            }
            names.add(&shown, Kind::File).map_err(flawed)?;
            total += metadata.len();
            within(metadata.len(), total, files.len() + 1, &shown, limits).map_err(flawed)?;
            let bytes = fs::read(&path).map_err(io(&path, "could not be read"))?;
            let executable = metadata.permissions().mode() & 0o111 != 0;
            files.insert(shown, PackageFile { bytes, executable });
        }
    }
    Ok(files)
}

fn within(size: u64, total: u64, count: usize, name: &str, limits: &Limits) -> Result<(), Flaw> {
    if size > limits.entry_bytes_max {
        let detail = format!("{size} bytes, limit {}", limits.entry_bytes_max);
        return Err(Flaw::entry(Defect::EntryTooLarge, name, detail));
    }
    if total > limits.total_bytes_max {
        return Err(Flaw::archive(Defect::TotalTooLarge, format!("limit {} bytes", limits.total_bytes_max)));
    }
    if count > limits.entries_max {
        return Err(Flaw::archive(Defect::TooManyEntries, format!("limit {}", limits.entries_max)));
    }
    Ok(())
}

/// Puts path and action around the system's answer.
pub(super) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> PackageError {
    let path = path.to_owned();
    move |source| PackageError::Io { path, action, source }
}
