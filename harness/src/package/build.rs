//! Builds a package from a folder: the same folder gives the same bytes, on every machine and at every time.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use toml_edit::{DocumentMut, Item, Table, value};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, System, ZipWriter};

use super::error::{Defect, Flaw, PackageError};
use super::folder::{self, io};
use super::limits::Limits;
use super::manifest::Manifest;
use super::open::{PackageFile, open_bytes, set_mode};
use super::{MANIFEST, Package};
use crate::document::Document;

/// A package as it was built.
#[derive(Debug)]
pub struct Built {
    /// The archive.
    pub bytes: Vec<u8>,
    /// What the archive holds, read back from its bytes.
    pub package: Package,
}

/// Builds a folder into an archive in memory, and opens it as every reader will.
///
/// # Errors
/// Returns what in the folder cannot be part of a package: links and special files, names or sizes beyond the
/// limits, a manifest that does not say what it must or names files that are not there.
pub fn build(folder: &Path, limits: &Limits) -> Result<Built, PackageError> {
    let mut files = folder::read(folder, limits)?;
    let source = files.remove(MANIFEST);
    let source = source.ok_or_else(|| Flaw::archive(Defect::ManifestMissing, "").at(folder))?;
    let text = manifest_text(folder, source.bytes)?;
    let invalid = |error| PackageError::Manifest { path: folder.to_owned(), source: Box::new(error) };
    let manifest = Manifest::parse(&text, MANIFEST).map_err(invalid)?;
    manifest.require_files(&text, MANIFEST, |name| files.contains_key(name)).map_err(invalid)?;
    let text = with_entries(&text, &files).map_err(invalid)?;
    let bytes = archive(&text, &files).map_err(|error| PackageError::Io {
        path: folder.to_owned(),
        action: "could not be packed",
        source: error.into(),
    })?;
    // What we write must pass what we demand of others; it is also the only way to an opened package.
    let package = open_bytes(&bytes, folder, limits)?;
    Ok(Built { bytes, package })
}

/// Builds a folder into an archive file. The file appears whole or not at all.
///
/// # Errors
/// As [`build`]; also when the file cannot be written.
pub fn build_to(folder: &Path, output: &Path, limits: &Limits) -> Result<Built, PackageError> {
    let built = build(folder, limits)?;
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(parent).map_err(io(output, "could not be created"))?;
    file.write_all(&built.bytes).map_err(io(output, "could not be written"))?;
    // A temporary file is its owner's alone; a package is for others.
    set_mode(file.path(), 0o644)?;
    file.persist(output).map_err(|error| io(output, "could not be written")(error.error))?;
    Ok(built)
}

/// The manifest's text; a package's manifest is UTF-8.
pub(super) fn manifest_text(path: &Path, bytes: Vec<u8>) -> Result<String, PackageError> {
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let document = Document { file: MANIFEST, text: &text };
        let source = document.error(offset..offset, "not UTF-8", Some("save the manifest as UTF-8"));
        PackageError::Manifest { path: path.to_owned(), source: Box::new(source) }
    })
}

/// SHA-256 as the manifest writes it, without its prefix.
pub(super) fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn with_entries(text: &str, files: &BTreeMap<String, PackageFile>) -> Result<String, super::DocumentError> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| {
        // The manifest was parsed before, so this is a disagreement of two parsers; say where.
        let place = Document { file: MANIFEST, text };
        place.error(error.span().unwrap_or(0..0), error.message().to_owned(), None)
    })?;
    let mut entries = Table::new();
    for (name, file) in files {
        entries.insert(name, value(format!("sha256:{}", sha256_hex(&file.bytes))));
    }
    document.insert("entries", Item::Table(entries));
    Ok(document.to_string())
}

fn archive(manifest: &str, files: &BTreeMap<String, PackageFile>) -> zip::result::ZipResult<Vec<u8>> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(6))
        // The earliest time that the format knows: a package is its content, not the hour it was built.
        .last_modified_time(DateTime::default())
        .system(System::Unix);
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    writer.start_file(MANIFEST, options.unix_permissions(0o644))?;
    writer.write_all(manifest.as_bytes())?;
    for (name, file) in files {
        // Two modes only, so that the builder's umask leaves no trace.
        let mode = if file.executable { 0o755 } else { 0o644 };
        writer.start_file(name.as_str(), options.unix_permissions(mode))?;
        writer.write_all(&file.bytes)?;
    }
    Ok(writer.finish()?.into_inner())
}
