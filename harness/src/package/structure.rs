//! The structural pass over an archive's raw bytes, before any reader of zip files sees them.
//!
//! Readers tolerate what writers get wrong, each in its own way, so that one archive can mean two things. This
//! pass accepts only the form in which every reader sees the same entries: entries back to back from byte 0, the
//! central directory right behind them, one end record as the last 22 bytes.
//! Field layout: APPNOTE.TXT 6.3.10, sections 4.3.7, 4.3.12 and 4.3.16.

use super::error::{Defect, Flaw};
use super::limits::Limits;
use super::name::{self, Kind, Names};

const LOCAL_SIGNATURE: [u8; 4] = *b"PK\x03\x04";
const CENTRAL_SIGNATURE: [u8; 4] = *b"PK\x01\x02";
const END_SIGNATURE: [u8; 4] = *b"PK\x05\x06";
const ZIP64_LOCATOR_SIGNATURE: [u8; 4] = *b"PK\x06\x07";
const LOCAL_BYTES: usize = 30;
const CENTRAL_BYTES: usize = 46;
const END_BYTES: usize = 22;
/// Readers look for the end record in the last 22 bytes plus a comment of at most 65,535.
const END_SEARCH_BYTES: usize = END_BYTES + 65_535;

const FLAG_ENCRYPTED: u16 = 1;
const FLAG_UTF8: u16 = 1 << 11;
/// Deflate's two hint bits and the UTF-8 mark.
const FLAGS_KNOWN: u16 = 0b110 | FLAG_UTF8;

/// An entry as both of its headers describe it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Name without a folder's trailing slash.
    pub(super) name: String,
    pub(super) folder: bool,
    pub(super) executable: bool,
    pub(super) size: u64,
    pub(super) crc32: u32,
    pub(super) header_start: u64,
}

/// Examines an archive; the entries come in the order of the central directory.
pub(super) fn examine(bytes: &[u8], limits: &Limits) -> Result<Vec<Entry>, Flaw> {
    let directory = end_record(bytes)?;
    if directory.count > limits.entries_max {
        let detail = format!("{} entries, limit {}", directory.count, limits.entries_max);
        return Err(Flaw::archive(Defect::TooManyEntries, detail));
    }
    let headers = central_headers(bytes, &directory)?;
    let mut names = Names::default();
    let mut entries = Vec::with_capacity(headers.len());
    let mut spans = Vec::with_capacity(headers.len());
    let mut total: u64 = 0;
    for header in &headers {
        let entry = entry_of(header, limits)?;
        names.add(&entry.name, if entry.folder { Kind::Folder } else { Kind::File })?;
        total += entry.size;
        if total > limits.total_bytes_max {
            let detail = format!("limit {} bytes", limits.total_bytes_max);
            return Err(Flaw::archive(Defect::TotalTooLarge, detail));
        }
        spans.push((
            entry.header_start,
            local_end(bytes, header, &entry.name, directory.start)?,
            entry.name.clone(),
        ));
        entries.push(entry);
    }
    contiguous(spans, directory.start)?;
    Ok(entries)
}

struct Directory {
    start: usize,
    end: usize,
    count: usize,
}

fn end_record(bytes: &[u8]) -> Result<Directory, Flaw> {
    let tail_start = bytes.len().saturating_sub(END_SEARCH_BYTES);
    let ends: Vec<usize> = bytes[tail_start..]
        .windows(END_SIGNATURE.len())
        .enumerate()
        .filter(|(_, window)| **window == END_SIGNATURE)
        .map(|(offset, _)| tail_start + offset)
        .collect();
    let Some(&last) = ends.last() else {
        return Err(Flaw::archive(Defect::NotAnArchive, "no end record"));
    };
    let behind = bytes.len().saturating_sub(last);
    if behind < END_BYTES {
        return Err(Flaw::archive(Defect::Truncated, "the end record is cut off"));
    }
    if behind > END_BYTES {
        let comment_bytes = usize::from(u16_at(bytes, last + 20));
        let defect =
            if comment_bytes == behind - END_BYTES { Defect::Comment } else { Defect::TrailingBytes };
        return Err(Flaw::archive(defect, format!("{} bytes", behind - END_BYTES)));
    }
    if ends.len() > 1 {
        return Err(Flaw::archive(Defect::SeveralEnds, format!("at bytes {} and {last}", ends[0])));
    }
    if u16_at(bytes, last + 20) != 0 {
        return Err(Flaw::archive(Defect::Truncated, "the comment is cut off"));
    }
    let (count_here, count) = (u16_at(bytes, last + 8), u16_at(bytes, last + 10));
    let (size, start) = (u32_at(bytes, last + 12), u32_at(bytes, last + 16));
    let locator = last.checked_sub(20).is_some_and(|at| bytes[at..].starts_with(&ZIP64_LOCATOR_SIGNATURE));
    if count == u16::MAX || size == u32::MAX || start == u32::MAX || locator {
        return Err(Flaw::archive(Defect::Zip64, ""));
    }
    if u16_at(bytes, last + 4) != 0 || u16_at(bytes, last + 6) != 0 || count_here != count {
        return Err(Flaw::archive(Defect::MultiDisk, ""));
    }
    let (start, size) = (start as usize, size as usize);
    if start.checked_add(size) != Some(last) {
        let detail = format!("{size} bytes from byte {start}, the end record is at byte {last}");
        return Err(Flaw::archive(Defect::DirectoryBounds, detail));
    }
    Ok(Directory { start, end: last, count: usize::from(count) })
}

/// One record of the central directory.
struct Central<'bytes> {
    flags: u16,
    method: u16,
    /// Time and date as one field: compared, never interpreted.
    modified: u32,
    crc32: u32,
    packed: u32,
    size: u32,
    name: &'bytes [u8],
    extra: &'bytes [u8],
    disk: u16,
    attributes: u32,
    header_start: u32,
}

fn central_headers<'bytes>(bytes: &'bytes [u8], directory: &Directory) -> Result<Vec<Central<'bytes>>, Flaw> {
    let mut headers = Vec::with_capacity(directory.count);
    let mut at = directory.start;
    while at < directory.end {
        let truncated = || Flaw::archive(Defect::Truncated, format!("central directory at byte {at}"));
        let record = bytes[at..directory.end].get(..CENTRAL_BYTES).ok_or_else(truncated)?;
        if !record.starts_with(&CENTRAL_SIGNATURE) {
            return Err(Flaw::archive(Defect::DirectoryBounds, format!("no record at byte {at}")));
        }
        let name_end = at + CENTRAL_BYTES + usize::from(u16_at(record, 28));
        let extra_end = name_end + usize::from(u16_at(record, 30));
        let end = extra_end + usize::from(u16_at(record, 32));
        if end > directory.end {
            return Err(truncated());
        }
        headers.push(Central {
            flags: u16_at(record, 8),
            method: u16_at(record, 10),
            modified: u32_at(record, 12),
            crc32: u32_at(record, 16),
            packed: u32_at(record, 20),
            size: u32_at(record, 24),
            name: &bytes[at + CENTRAL_BYTES..name_end],
            extra: &bytes[name_end..extra_end],
            disk: u16_at(record, 34),
            attributes: u32_at(record, 38),
            header_start: u32_at(record, 42),
        });
        at = end;
    }
    if headers.len() != directory.count {
        let detail = format!("{} counted, {} there", directory.count, headers.len());
        return Err(Flaw::archive(Defect::DirectoryCount, detail));
    }
    Ok(headers)
}

fn entry_of(header: &Central<'_>, limits: &Limits) -> Result<Entry, Flaw> {
    let shown = String::from_utf8_lossy(header.name).into_owned();
    let flaw = |defect, detail: String| Err(Flaw::entry(defect, &shown, detail));
    let Ok(raw_name) = std::str::from_utf8(header.name) else {
        return flaw(Defect::NameEncoding, String::new());
    };
    if !raw_name.is_ascii() && header.flags & FLAG_UTF8 == 0 {
        return flaw(Defect::NameEncoding, "the UTF-8 mark is not set".to_owned());
    }
    let folder = raw_name.ends_with('/');
    let entry_name = raw_name.strip_suffix('/').unwrap_or(raw_name);
    name::check(entry_name, limits)?;
    if header.flags & FLAG_ENCRYPTED != 0 {
        return flaw(Defect::Encrypted, String::new());
    }
    if header.flags & !FLAGS_KNOWN != 0 {
        return flaw(Defect::Flags, format!("flags {:#06x}", header.flags));
    }
    if !matches!(header.method, 0 | 8) {
        return flaw(Defect::Method, format!("method {}", header.method));
    }
    if header.disk != 0 {
        return flaw(Defect::MultiDisk, String::new());
    }
    extra_fields(header.extra, &shown)?;
    if [header.packed, header.size, header.header_start].contains(&u32::MAX) {
        return flaw(Defect::Zip64, String::new());
    }
    if folder && header.size != 0 {
        return flaw(Defect::FolderWithData, format!("{} bytes", header.size));
    }
    let executable = plain_mode(header.attributes, folder)
        .ok_or_else(|| Flaw::entry(Defect::Special, &shown, format!("mode {:o}", header.attributes >> 16)))?;
    sizes(header, &shown, limits)?;
    Ok(Entry {
        name: entry_name.to_owned(),
        folder,
        executable,
        size: u64::from(header.size),
        crc32: header.crc32,
        header_start: u64::from(header.header_start),
    })
}

fn sizes(header: &Central<'_>, name: &str, limits: &Limits) -> Result<(), Flaw> {
    let (size, packed) = (u64::from(header.size), u64::from(header.packed));
    if size > limits.entry_bytes_max {
        let detail = format!("{size} bytes, limit {}", limits.entry_bytes_max);
        return Err(Flaw::entry(Defect::EntryTooLarge, name, detail));
    }
    if header.method == 0 && size != packed {
        let detail = format!("stored, {packed} bytes packed and {size} unpacked");
        return Err(Flaw::entry(Defect::HeaderMismatch, name, detail));
    }
    if size > limits.ratio_floor_bytes && size / packed.max(1) > limits.ratio_max {
        let detail = format!("{packed} bytes unpack to {size}, limit {} times", limits.ratio_max);
        return Err(Flaw::entry(Defect::Ratio, name, detail));
    }
    Ok(())
}

/// Whether the entry may be executed; absent when it is no plain file or folder.
/// The upper half of the attributes is the Unix mode, whatever system the archive claims to come from:
/// extractors look at it without asking.
fn plain_mode(attributes: u32, folder: bool) -> Option<bool> {
    const TYPE: u32 = 0o170_000;
    const SPECIAL_BITS: u32 = 0o7000;
    const DOS_FOLDER: u32 = 0x10;
    let mode = attributes >> 16;
    let expected = if folder { 0o040_000 } else { 0o100_000 };
    let plain_type = mode & TYPE == 0 || mode & TYPE == expected;
    let dos_contradicts = attributes & DOS_FOLDER != 0 && !folder;
    (plain_type && mode & SPECIAL_BITS == 0 && !dos_contradicts).then_some(mode & 0o111 != 0)
}

fn extra_fields(mut extra: &[u8], name: &str) -> Result<(), Flaw> {
    const ZIP64: u16 = 0x0001;
    /// Info-ZIP's Unicode path and comment: a second name that only some readers use.
    const RENAMING: [u16; 2] = [0x7075, 0x6375];
    let mut seen = Vec::new();
    while !extra.is_empty() {
        let malformed = |detail: String| Flaw::entry(Defect::ExtraField, name, detail);
        if extra.len() < 4 {
            return Err(malformed("cut off".to_owned()));
        }
        let (id, length) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        if id == ZIP64 {
            return Err(Flaw::entry(Defect::Zip64, name, ""));
        }
        if RENAMING.contains(&id) || seen.contains(&id) {
            return Err(malformed(format!("field {id:#06x}")));
        }
        seen.push(id);
        extra = extra.get(4 + length..).ok_or_else(|| malformed("cut off".to_owned()))?;
    }
    Ok(())
}

/// Compares an entry's local header with the central directory; returns where its data ends.
fn local_end(bytes: &[u8], header: &Central<'_>, name: &str, limit: usize) -> Result<u64, Flaw> {
    let truncated = || Flaw::entry(Defect::Truncated, name, "");
    let start = header.header_start as usize;
    let local = bytes[..limit].get(start..).and_then(|rest| rest.get(..LOCAL_BYTES)).ok_or_else(truncated)?;
    let mismatch = |field: &str| Err(Flaw::entry(Defect::HeaderMismatch, name, field));
    if !local.starts_with(&LOCAL_SIGNATURE) {
        return mismatch("no local header where the central directory says");
    }
    let name_end = start + LOCAL_BYTES + usize::from(u16_at(local, 26));
    let extra_end = name_end + usize::from(u16_at(local, 28));
    let local_name = bytes[..limit].get(start + LOCAL_BYTES..name_end).ok_or_else(truncated)?;
    let extra = bytes[..limit].get(name_end..extra_end).ok_or_else(truncated)?;
    let fields = [
        ("name", local_name != header.name),
        ("flags", u16_at(local, 6) != header.flags),
        ("method", u16_at(local, 8) != header.method),
        ("time", u32_at(local, 10) != header.modified),
        ("CRC-32", u32_at(local, 14) != header.crc32),
        ("packed size", u32_at(local, 18) != header.packed),
        ("size", u32_at(local, 22) != header.size),
    ];
    if let Some((field, _)) = fields.iter().find(|(_, differs)| *differs) {
        return mismatch(field);
    }
    extra_fields(extra, name)?;
    let end = extra_end as u64 + u64::from(header.packed);
    if end > limit as u64 { Err(truncated()) } else { Ok(end) }
}

fn contiguous(mut spans: Vec<(u64, u64, String)>, limit: usize) -> Result<(), Flaw> {
    spans.sort();
    let mut at = 0;
    for (start, end, name) in &spans {
        if *start > at {
            return Err(Flaw::entry(Defect::Gap, name, format!("{} bytes before it", start - at)));
        }
        if *start < at {
            return Err(Flaw::entry(Defect::Overlap, name, format!("{} bytes", at - start)));
        }
        at = *end;
    }
    let left = limit as u64 - at;
    if left > 0 {
        return Err(Flaw::archive(Defect::Gap, format!("{left} bytes before the central directory")));
    }
    Ok(())
}

/// Little-endian field; callers have checked that the record is long enough.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
