//! Names of entries: one rule for what is built and for what is opened.

use std::collections::BTreeMap;

use unicode_normalization::UnicodeNormalization;

use super::error::{Defect, Flaw};
use super::limits::Limits;

/// Whether a name may stand in a package; a folder's trailing slash must have been cut off.
pub(super) fn check(name: &str, limits: &Limits) -> Result<(), Flaw> {
    let flaw = |defect| Err(Flaw::entry(defect, name, ""));
    // A leading letter and colon is a drive; it is told apart because "absolute" explains it better than "colon".
    let drive =
        name.as_bytes().get(1) == Some(&b':') && name.starts_with(|first: char| first.is_ascii_alphabetic());
    if name.starts_with('/') || drive {
        return flaw(Defect::NameAbsolute);
    }
    if name.chars().any(|character| character.is_control() || matches!(character, '\\' | ':')) {
        return flaw(Defect::NameCharacter);
    }
    if name.len() > limits.name_bytes_max || name.split('/').count() > limits.depth_max {
        let detail = format!("limit {} bytes, {} levels", limits.name_bytes_max, limits.depth_max);
        return Err(Flaw::entry(Defect::NameTooLong, name, detail));
    }
    for segment in name.split('/') {
        if segment == ".." {
            return flaw(Defect::NameTraversal);
        }
        if segment.is_empty() || segment.ends_with(['.', ' ']) {
            return flaw(Defect::NameEmpty);
        }
    }
    Ok(())
}

/// Names seen so far, by the form under which case-blind and normalising file systems know them.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: BTreeMap<String, (String, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    /// A folder with an entry of its own.
    Folder,
    /// A folder that only appears inside other names.
    Implied,
}

impl Names {
    /// Adds a name; its parents become folders.
    pub(super) fn add(&mut self, name: &str, kind: Kind) -> Result<(), Flaw> {
        for (end, _) in name.match_indices('/') {
            self.put(name, &name[..end], Kind::Implied)?;
        }
        self.put(name, name, kind)
    }

    fn put(&mut self, entry: &str, path: &str, kind: Kind) -> Result<(), Flaw> {
        let Some((earlier, earlier_kind)) = self.seen.get_mut(&folded(path)) else {
            self.seen.insert(folded(path), (path.to_owned(), kind));
            return Ok(());
        };
        let detail = format!("the other is \"{}\"", earlier.escape_debug());
        let folders = kind != Kind::File && *earlier_kind != Kind::File;
        if (kind == Kind::File) != (*earlier_kind == Kind::File) {
            return Err(Flaw::entry(Defect::FileAndFolder, entry, detail));
        }
        // Two spellings of one folder would be merged on some systems and kept apart on others.
        if !folders || earlier != path || (kind == Kind::Folder && *earlier_kind == Kind::Folder) {
            return Err(Flaw::entry(Defect::Duplicate, entry, detail));
        }
        if kind == Kind::Folder {
            *earlier_kind = Kind::Folder;
        }
        Ok(())
    }
}

fn folded(path: &str) -> String {
    // Upper case first: some letters have several lower forms of one upper form.
    path.nfkc().collect::<String>().to_uppercase().to_lowercase().nfkc().collect()
}
