//! Opens a package: everything is checked in memory before the first byte reaches the disk.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use fulldress_reports::evidence::PackageFacts;
use zip::ZipArchive;

use super::MANIFEST;
use super::build::{build, manifest_text, sha256_hex};
use super::error::{Defect, Flaw, PackageError};
use super::folder::io;
use super::limits::Limits;
use super::manifest::Manifest;
use super::structure::{self, Entry};

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    /// Content.
    pub bytes: Vec<u8>,
    /// Whether it may be executed.
    pub executable: bool,
}

/// A package whose archive is sound and whose digests are right.
#[derive(Debug, Clone)]
pub struct Package {
    /// The archive or folder that it was opened from.
    pub path: PathBuf,
    /// What the package says of itself.
    pub manifest: Manifest,
    /// The manifest's text, for lines and spans.
    pub manifest_text: String,
    /// SHA-256 of the archive, lower-case hexadecimal.
    pub sha256: String,
    /// Every file but the manifest, by name.
    pub files: BTreeMap<String, PackageFile>,
}

/// Opens a source folder or an archive, whichever `path` is.
///
/// # Errors
/// As [`open`] and [`open_folder`].
pub fn open_any(path: &Path, limits: &Limits) -> Result<Package, PackageError> {
    if path.is_dir() { open_folder(path, limits) } else { open(path, limits) }
}

/// Opens an archive.
///
/// # Errors
/// Returns the first thing that makes the archive unsound, or an entry whose digest is wrong.
pub fn open(path: &Path, limits: &Limits) -> Result<Package, PackageError> {
    let file = fs::File::open(path).map_err(io(path, "could not be opened"))?;
    let metadata = file.metadata().map_err(io(path, "could not be examined"))?;
    if !metadata.is_file() {
        return Err(Flaw::archive(Defect::NotAnArchive, "not a regular file").at(path));
    }
    let mut bytes = Vec::new();
    // One byte beyond the limit tells a file that is too large even if it grows while it is read.
    let reading = file.take(limits.archive_bytes_max + 1).read_to_end(&mut bytes);
    reading.map_err(io(path, "could not be read"))?;
    open_bytes(&bytes, path, limits)
}

/// Opens a package's source folder: it is built in memory and opened as an archive, so that there is one path.
///
/// # Errors
/// As [`build`].
pub fn open_folder(folder: &Path, limits: &Limits) -> Result<Package, PackageError> {
    build(folder, limits).map(|built| built.package)
}

/// Opens an archive that is in memory; `path` names it in messages.
///
/// # Errors
/// As [`open`].
pub fn open_bytes(bytes: &[u8], path: &Path, limits: &Limits) -> Result<Package, PackageError> {
    let mut files = unpack(bytes, limits).map_err(|flaw| flaw.at(path))?;
    let manifest = files.remove(MANIFEST);
    let manifest = manifest.ok_or_else(|| Flaw::archive(Defect::ManifestMissing, "").at(path))?;
    let manifest_text = manifest_text(path, manifest.bytes)?;
    let invalid = |error| PackageError::Manifest { path: path.to_owned(), source: Box::new(error) };
    let manifest = Manifest::parse(&manifest_text, MANIFEST).map_err(invalid)?;
    digests(&manifest, &files).map_err(|flaw| flaw.at(path))?;
    manifest.require_files(&manifest_text, MANIFEST, |name| files.contains_key(name)).map_err(invalid)?;
    Ok(Package { path: path.to_owned(), manifest, manifest_text, sha256: sha256_hex(bytes), files })
}

fn unpack(bytes: &[u8], limits: &Limits) -> Result<BTreeMap<String, PackageFile>, Flaw> {
    if bytes.len() as u64 > limits.archive_bytes_max {
        let detail = format!("limit {} bytes", limits.archive_bytes_max);
        return Err(Flaw::archive(Defect::ArchiveTooLarge, detail));
    }
    let entries = structure::examine(bytes, limits)?;
    let disagree = |detail: String| Flaw::archive(Defect::ReaderMismatch, detail);
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| disagree(error.to_string()))?;
    archive.validate_header_consistency().map_err(|error| disagree(error.to_string()))?;
    if archive.len() != entries.len() || archive.offset() != 0 {
        return Err(disagree(format!("{} entries and {}", entries.len(), archive.len())));
    }
    let mut files = BTreeMap::new();
    for (index, entry) in entries.into_iter().enumerate() {
        let content = unpack_entry(&mut archive, index, &entry)?;
        if !entry.folder {
            files.insert(entry.name, PackageFile { bytes: content, executable: entry.executable });
        }
    }
    Ok(files)
}

fn unpack_entry(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    index: usize,
    entry: &Entry,
) -> Result<Vec<u8>, Flaw> {
    let corrupt = |detail: String| Flaw::entry(Defect::Corrupt, &entry.name, detail);
    let mut file = archive.by_index(index).map_err(|error| corrupt(error.to_string()))?;
    let same_name = file.name_raw().strip_suffix(b"/").unwrap_or(file.name_raw()) == entry.name.as_bytes();
    let same_place = file.header_start() == entry.header_start;
    if !same_name || !same_place || file.size() != entry.size || file.crc32() != entry.crc32 {
        return Err(Flaw::entry(Defect::ReaderMismatch, &entry.name, ""));
    }
    let mut content = Vec::new();
    // The declared size bounds what is unpacked; one byte more shows that the declaration was false. The reader
    // compares the CRC-32 when it reaches the end.
    let read = (&mut file).take(entry.size + 1).read_to_end(&mut content);
    read.map_err(|error| corrupt(error.to_string()))?;
    if content.len() as u64 != entry.size {
        return Err(corrupt(format!("{} bytes declared, {} or more there", entry.size, content.len())));
    }
    Ok(content)
}

fn digests(manifest: &Manifest, files: &BTreeMap<String, PackageFile>) -> Result<(), Flaw> {
    for (name, file) in files {
        let Some(stated) = manifest.entries.get(name) else {
            return Err(Flaw::entry(Defect::EntryUnlisted, name, ""));
        };
        let found = sha256_hex(&file.bytes);
        if *stated != found {
            return Err(Flaw::entry(Defect::DigestWrong, name, format!("stated {stated}, found {found}")));
        }
    }
    match manifest.entries.keys().find(|name| !files.contains_key(*name)) {
        Some(name) => Err(Flaw::entry(Defect::EntryMissing, name, "")),
        None => Ok(()),
    }
}

impl Package {
    /// What the bundle says of the package.
    #[must_use]
    pub fn facts(&self) -> PackageFacts {
        PackageFacts {
            name: self.manifest.name.clone(),
            from: self.manifest.from.clone(),
            to: self.manifest.to.clone(),
            via: self.manifest.via.clone(),
            sha256: self.sha256.clone(),
            entries: self.files.len() as u64,
            refused: None,
            signature_note: "signature not verified".to_owned(),
        }
    }

    /// Writes every file and the manifest under `folder`, which is created when it is not there.
    /// Modes are 755 for folders and executable files, 644 for others. Existing files are never replaced.
    ///
    /// # Errors
    /// Returns the first file that could not be written; also when one is there already.
    pub fn extract_to(&self, folder: &Path) -> Result<(), PackageError> {
        make_folder(folder)?;
        write_file(&folder.join(MANIFEST), self.manifest_text.as_bytes(), false)?;
        for (name, file) in &self.files {
            // Names were checked segment by segment when the package was opened: no `..`, nothing absolute.
            for (end, _) in name.match_indices('/') {
                make_folder(&folder.join(&name[..end]))?;
            }
            write_file(&folder.join(name), &file.bytes, file.executable)?;
        }
        Ok(())
    }
}

fn make_folder(folder: &Path) -> Result<(), PackageError> {
    match fs::symlink_metadata(folder) {
        // A link in the target could lead anywhere.
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => {
            let there = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(io(folder, "could not be created")(there));
        }
        Err(_) => {}
    }
    fs::create_dir_all(folder).map_err(io(folder, "could not be created"))?;
    set_mode(folder, 0o755)
}

fn write_file(path: &Path, bytes: &[u8], executable: bool) -> Result<(), PackageError> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(io(path, "could not be created"))?;
    std::io::Write::write_all(&mut file, bytes).map_err(io(path, "could not be written"))?;
    // The umask may have taken bits that services with users of their own need.
    set_mode(path, mode)
}

pub(super) fn set_mode(path: &Path, mode: u32) -> Result<(), PackageError> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(io(path, "could not get its mode"))
}
