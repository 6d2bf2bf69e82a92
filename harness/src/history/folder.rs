//! The folder of a history as a list of its files, with the text of each; strangers may have made it.
//!
//! Called by the layouts; nothing outside the folder is read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fulldress_reports::roundtrip::Note;

use super::{HistoryError, Problem};

/// Largest file that is read, in bytes: no migration is longer, and a dump is not one.
const FILE_MAX_BYTES: u64 = 64 << 20;
/// Most entries that are listed, and how deep.
const ENTRIES_MAX: usize = 50_000;
const DEPTH_MAX: usize = 8;

/// A folder that was listed.
pub(super) struct Folder {
    root: PathBuf,
    /// As the caller named it, without a slash at the end.
    shown: String,
    /// Paths below it, sorted by their bytes.
    pub(super) files: Vec<String>,
    /// What was left out of the list.
    pub(super) notes: Vec<Note>,
}

/// A file as text.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// Its SQL without a byte order mark, or why there is none.
    pub(super) sql: Result<String, Problem>,
    /// What was left out.
    pub(super) notes: Vec<Note>,
}

impl Folder {
    /// Lists a folder.
    pub(super) fn open(dir: &Path) -> Result<Self, HistoryError> {
        let shown = dir.display().to_string();
        let shown = if shown.len() > 1 { shown.trim_end_matches('/').to_owned() } else { shown };
        let unusable = |what: String, hint: &str| HistoryError::Folder {
            folder: shown.clone(),
            what,
            hint: hint.to_owned(),
        };
        let root = dir.canonicalize().map_err(|error| {
            unusable(format!("cannot be opened: {error}"), "name the folder that holds the migrations")
        })?;
        if !root.is_dir() {
            return Err(unusable("is no folder".to_owned(), "name the folder that holds the migrations"));
        }
        let mut folder = Self { root, shown: shown.clone(), files: Vec::new(), notes: Vec::new() };
        folder
            .list("", 0)
            .map_err(|error| unusable(format!("cannot be read: {error}"), "see who may read it"))?;
        if folder.files.len() >= ENTRIES_MAX {
            return Err(unusable(
                format!("has {ENTRIES_MAX} files or more"),
                "name the folder that holds the migrations alone",
            ));
        }
        folder.files.sort();
        Ok(folder)
    }

    fn list(&mut self, below: &str, depth: usize) -> std::io::Result<()> {
        for entry in std::fs::read_dir(self.root.join(below))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else {
                let shown = name.to_string_lossy().into_owned();
                self.leave_out(&shown, "its name is not UTF-8; left out");
                continue;
            };
            if name.starts_with('.') || self.files.len() >= ENTRIES_MAX {
                continue;
            }
            let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                self.follow(path);
            } else if kind.is_dir() && depth < DEPTH_MAX {
                self.list(&path, depth + 1)?;
            } else if kind.is_file() {
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// A link counts as the file that it leads to, when that is one inside the folder.
    fn follow(&mut self, path: String) {
        let target = self.root.join(&path).canonicalize();
        match target {
            Ok(target) if !target.starts_with(&self.root) => {
                self.leave_out(&path, "is a link out of the folder; left out");
            }
            Ok(target) if target.is_file() => self.files.push(path),
            Ok(_) => self.leave_out(&path, "is a link to a folder; left out"),
            Err(_) => self.leave_out(&path, "is a link that leads nowhere; left out"),
        }
    }

    fn leave_out(&mut self, path: &str, text: &str) {
        let file = self.show(path);
        self.notes.push(Note { file, line: None, text: text.to_owned() });
    }

    /// A path below the folder as the caller would open it.
    pub(super) fn show(&self, path: &str) -> String {
        format!("{}/{path}", self.shown)
    }

    /// The folder cannot be used.
    pub(super) fn unusable(&self, what: impl Into<String>, hint: impl Into<String>) -> HistoryError {
        HistoryError::Folder { folder: self.shown.clone(), what: what.into(), hint: hint.into() }
    }

    /// Paths of the files that stand in the folder itself.
    pub(super) fn top(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(|path| !path.contains('/'))
    }

    /// The file's text.
    pub(super) fn text(&self, path: &str) -> Text {
        let shown = self.show(path);
        let problem = |line, what: String| Text { sql: Err(Problem { line, what }), notes: Vec::new() };
        let file = self.root.join(path);
        let size = match file.metadata() {
            Ok(data) => data.len(),
            Err(error) => return problem(1, format!("cannot be read: {error}")),
        };
        if size > FILE_MAX_BYTES {
            let size = size >> 20;
            return problem(1, format!("has {size} MiB; no more than {} are read", FILE_MAX_BYTES >> 20));
        }
        let bytes = match std::fs::read(&file) {
            Ok(bytes) => bytes,
            Err(error) => return problem(1, format!("cannot be read: {error}")),
        };
        let line_of = |offset: usize| {
            let before = bytes.iter().take(offset).filter(|byte| **byte == b'\n').count();
            u32::try_from(before + 1).unwrap_or(u32::MAX)
        };
        if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
            return problem(line_of(at), "has a zero byte, which PostgreSQL takes in no text".to_owned());
        }
        match std::str::from_utf8(&bytes) {
            Err(error) => problem(
                line_of(error.valid_up_to()),
                "is not UTF-8; convert it, for example with iconv".to_owned(),
            ),
            Ok(text) => match text.strip_prefix('\u{feff}') {
                None => Text { sql: Ok(text.to_owned()), notes: Vec::new() },
                Some(rest) => {
                    let text = "begins with a byte order mark, which PostgreSQL refuses; it was left out";
                    let note = Note { file: shown, line: Some(1), text: text.to_owned() };
                    Text { sql: Ok(rest.to_owned()), notes: vec![note] }
                }
            },
        }
    }

    /// Programs' own files that stand near and say which tool runs the history: the text of the first of each name in
    /// the folder or one of the three above it.
    pub(super) fn near(&self, names: &[&'static str]) -> BTreeMap<&'static str, String> {
        let mut found = BTreeMap::new();
        for folder in self.root.ancestors().take(4) {
            for name in names {
                let file = folder.join(name);
                if !found.contains_key(name) && file.metadata().is_ok_and(|data| data.len() < 1 << 20) {
                    let bytes = std::fs::read(file).unwrap_or_default();
                    found.insert(*name, String::from_utf8_lossy(&bytes).into_owned());
                }
            }
        }
        found
    }
}

/// The digits that a name begins with, and what comes after.
pub(super) fn number(name: &str) -> Option<(&str, &str)> {
    let end = name.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(name.len());
    (end > 0).then(|| name.split_at(end))
}

/// A number of any length as something that sorts by its value.
pub(super) fn by_value(digits: &str) -> (usize, String) {
    let digits = digits.trim_start_matches('0');
    (digits.len(), digits.to_owned())
}
