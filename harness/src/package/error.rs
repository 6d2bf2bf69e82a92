//! Why a package is refused: a table of defects, each with its check, meaning and remedy.

use std::path::{Path, PathBuf};

use fulldress_reports::check::CheckId;
use fulldress_reports::evidence::Refusal;
use thiserror::Error;

use crate::document::DocumentError;

/// The record of a defect.
#[derive(Debug, Clone, Copy)]
pub struct DefectRecord {
    /// Which defect.
    pub defect: Defect,
    /// Stable for ever.
    pub id: &'static str,
    /// The check that it fails.
    pub check: CheckId,
    /// What is wrong, a lower-case fragment.
    pub meaning: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

macro_rules! defects {
    ($($variant:ident $id:literal $check:ident $meaning:literal $remedy:literal;)*) => {
        /// One way in which an archive may be unsound.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Defect {
            $(#[doc = $meaning] $variant,)*
        }

        /// Every defect.
        pub const DEFECTS: &[DefectRecord] = &[
            $(DefectRecord {
                defect: Defect::$variant, id: $id, check: CheckId::$check, meaning: $meaning, remedy: $remedy,
            },)*
        ];
    };
}

defects! {
    NotAnArchive "not-an-archive" PkgArchive "not a zip archive"
        "name the package's zip file";
    ArchiveTooLarge "archive-too-large" PkgArchive "the archive is larger than the limit"
        "leave what is not needed out of the package, or raise the limit";
    TooManyEntries "too-many-entries" PkgArchive "the archive has more entries than the limit"
        "leave what is not needed out of the package, or raise the limit";
    EntryTooLarge "entry-too-large" PkgArchive "the entry is larger than the limit"
        "leave it out of the package, or raise the limit";
    TotalTooLarge "total-too-large" PkgArchive "the entries are together larger than the limit"
        "leave what is not needed out of the package, or raise the limit";
    Ratio "compression-ratio" PkgArchive "the entry unpacks to suspiciously many times its size"
        "ask the vendor what it is; store it without compression if it is meant";
    TrailingBytes "trailing-bytes" PkgArchive "bytes follow the end of the archive"
        "ask the vendor for the archive as it was built";
    SeveralEnds "several-end-records" PkgArchive "more than one end record: readers would disagree about the content"
        "build the archive again, without archives stored uncompressed inside it";
    Comment "archive-comment" PkgArchive "the archive carries a comment, which readers interpret differently"
        "build the archive without a comment";
    MultiDisk "several-disks" PkgArchive "the archive is part of a set of several disks"
        "build one archive";
    Zip64 "zip64" PkgArchive "the archive uses zip64, which a package below 4 GiB does not need"
        "build the archive without zip64 fields";
    DirectoryBounds "central-directory-bounds" PkgArchive "the central directory does not fill the space before the end record"
        "ask the vendor for an intact archive";
    DirectoryCount "central-directory-count" PkgArchive "the end record counts other entries than the central directory has"
        "ask the vendor for an intact archive";
    Truncated "truncated" PkgArchive "a header or an entry's data reaches beyond its space"
        "ask the vendor for an intact archive";
    Gap "gap" PkgArchive "bytes that belong to no entry stand before or between entries"
        "ask the vendor for the archive as it was built";
    Overlap "overlap" PkgArchive "two entries share bytes"
        "ask the vendor for an intact archive";
    HeaderMismatch "header-mismatch" PkgArchive "local header and central directory disagree"
        "ask the vendor for an intact archive";
    ReaderMismatch "reader-mismatch" PkgArchive "two readings of the archive disagree"
        "build the archive again with `fulldress package build`";
    Encrypted "encrypted" PkgArchive "the entry is encrypted"
        "build the archive without a password";
    Flags "flags" PkgArchive "the entry uses flags that a package may not have (data descriptor, patch, masking)"
        "build the archive to a file and not to a pipe, without such features";
    Method "method" PkgArchive "the entry is compressed by another method than stored or deflate"
        "build the archive with deflate";
    ExtraField "extra-field" PkgArchive "an extra field is malformed, repeated or renames the entry"
        "build the archive again with `fulldress package build`";
    NameEncoding "name-encoding" PkgArchive "the name is not UTF-8, or is not marked as UTF-8"
        "build the archive with UTF-8 names";
    NameEmpty "name-empty" PkgArchive "the name or one segment of it is empty, `.` or ends in a dot or space"
        "name every file plainly";
    NameAbsolute "name-absolute" PkgArchive "the name is an absolute path or starts with a drive letter"
        "make every name relative to the package";
    NameTraversal "name-traversal" PkgArchive "the name climbs out of the package with `..`"
        "make every name relative to the package";
    NameCharacter "name-character" PkgArchive "the name contains a control character, a backslash or a colon"
        "rename the file";
    NameTooLong "name-too-long" PkgArchive "the name is longer or deeper than the limit"
        "shorten the path";
    Duplicate "duplicate-name" PkgArchive "two entries have the same name, or names that some file systems take for the same"
        "keep one of them, or rename one";
    FileAndFolder "file-and-folder" PkgArchive "one name is a file and a folder"
        "rename one of them";
    Special "special-file" PkgArchive "the entry is a symbolic link, device, socket or has setuid, setgid or sticky bits"
        "put a plain file in its place";
    FolderWithData "folder-with-data" PkgArchive "a folder entry carries data"
        "ask the vendor for an intact archive";
    Corrupt "corrupt-data" PkgArchive "the data does not unpack to its declared size and CRC-32"
        "ask the vendor for an intact archive";
    ManifestMissing "manifest-missing" PkgArchive "there is no manifest.toml at the top of the package"
        "build the package with `fulldress package build`";
    DigestWrong "digest-wrong" PkgDigest "the content has another SHA-256 digest than the manifest states"
        "ask the vendor for an intact archive, or build the package again";
    EntryUnlisted "entry-unlisted" PkgDigest "the manifest's [entries] does not list the file"
        "build the package again, or ask the vendor where the file comes from";
    EntryMissing "entry-missing" PkgDigest "the manifest's [entries] lists a file that the archive lacks"
        "ask the vendor for a complete archive";
}

impl Defect {
    /// The defect's record.
    #[must_use]
    pub fn record(self) -> &'static DefectRecord {
        // The macro makes one record a variant, in the order of the variants.
        &DEFECTS[self as usize]
    }
}

/// A defect at an entry, before the archive's path is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) defect: Defect,
    /// Name of the entry; absent when it concerns the archive.
    pub(super) entry: Option<String>,
    /// Figures, without a leading separator; may be empty.
    pub(super) detail: String,
}

impl Flaw {
    pub(super) fn archive(defect: Defect, detail: impl Into<String>) -> Self {
        Self { defect, entry: None, detail: detail.into() }
    }

    pub(super) fn entry(defect: Defect, entry: &str, detail: impl Into<String>) -> Self {
        Self { defect, entry: Some(entry.to_owned()), detail: detail.into() }
    }

    pub(super) fn at(self, path: &Path) -> PackageError {
        PackageError::Unsound {
            path: path.to_owned(),
            defect: self.defect,
            entry: self.entry,
            detail: self.detail,
        }
    }
}

/// Why a package could not be opened or built.
#[derive(Debug, Error)]
pub enum PackageError {
    /// A file or folder could not be read or written.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The archive is refused.
    #[error("{}", sentence(path, *defect, entry.as_deref(), detail))]
    Unsound {
        /// The archive or folder.
        path: PathBuf,
        /// What is wrong.
        defect: Defect,
        /// The entry concerned.
        entry: Option<String>,
        /// Figures; may be empty.
        detail: String,
    },
    /// The manifest does not say what it must.
    #[error("{}: {source}{}", path.display(), source.hint.as_deref().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Manifest {
        /// The archive or folder.
        path: PathBuf,
        /// Where and why.
        source: Box<DocumentError>,
    },
}

impl PackageError {
    /// The check that a refusal fails.
    #[must_use]
    pub fn check(&self) -> CheckId {
        match self {
            Self::Unsound { defect, .. } => defect.record().check,
            Self::Io { .. } | Self::Manifest { .. } => CheckId::PkgArchive,
        }
    }

    /// The refusal as evidence.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal { check: self.check(), reason: self.to_string() }
    }
}

fn sentence(path: &Path, defect: Defect, entry: Option<&str>, detail: &str) -> String {
    let record = defect.record();
    let mut text = path.display().to_string();
    if let Some(entry) = entry {
        // The name is the vendor's: control characters must not reach a terminal.
        text.push_str(&format!(": entry \"{}\"", entry.escape_debug()));
    }
    text.push_str(": ");
    text.push_str(record.meaning);
    if !detail.is_empty() {
        text.push_str(&format!(" ({detail})"));
    }
    text.push_str("; ");
    text.push_str(record.remedy);
    text
}
