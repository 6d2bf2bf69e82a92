//! Packages built, opened and refused. Hostile archives are written byte by byte: no zip writer would make them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use fulldress_reports::check::CheckId;
use proptest::prelude::*;
use tempfile::TempDir;

use super::build::{build, build_to, sha256_hex};
use super::{DEFECTS, Defect, Limits, PackageError, open, open_bytes, open_folder};

const MANIFEST_TEXT: &str = "schema = \"fulldress/package/1\"\nname = \"shop\"\nfrom = \"1\"\nto = \"2\"\n";

/// One entry of an archive as a hostile vendor may write it.
#[derive(Clone)]
struct Raw {
    name: Vec<u8>,
    local_name: Option<Vec<u8>>,
    flags: u16,
    method: u16,
    crc32: u32,
    size: u32,
    data: Vec<u8>,
    attributes: u32,
    extra: Vec<u8>,
    /// Where the central directory says that it starts.
    header_start: Option<u32>,
}

impl Raw {
    fn stored(name: &str, data: &[u8]) -> Self {
        Self {
            name: name.as_bytes().to_vec(),
            local_name: None,
            flags: 0,
            method: 0,
            crc32: crc32(data),
            size: u32::try_from(data.len()).unwrap(),
            data: data.to_vec(),
            attributes: 0o100_644 << 16,
            extra: Vec::new(),
            header_start: None,
        }
    }
}

fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    };
    !data.iter().fold(u32::MAX, step)
}

fn push(bytes: &mut Vec<u8>, halves: &[u16]) {
    halves.iter().for_each(|half| bytes.extend(half.to_le_bytes()));
}

fn push_words(bytes: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
}

fn half(length: usize) -> u16 {
    u16::try_from(length).unwrap()
}

/// Entries back to back, then the central directory, then the end record.
fn assemble(entries: &[Raw]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for entry in entries {
        let start = u32::try_from(bytes.len()).unwrap();
        let packed = u32::try_from(entry.data.len()).unwrap();
        let local_name = entry.local_name.as_ref().unwrap_or(&entry.name);
        bytes.extend(b"PK\x03\x04");
        push(&mut bytes, &[20, entry.flags, entry.method, 0, 0x21]);
        push_words(&mut bytes, &[entry.crc32, packed, entry.size]);
        push(&mut bytes, &[half(local_name.len()), half(entry.extra.len())]);
        bytes.extend(local_name.iter().chain(&entry.extra).chain(&entry.data));
        directory.extend(b"PK\x01\x02");
        push(&mut directory, &[0x031E, 20, entry.flags, entry.method, 0, 0x21]);
        push_words(&mut directory, &[entry.crc32, packed, entry.size]);
        push(&mut directory, &[half(entry.name.len()), half(entry.extra.len()), 0, 0, 0]);
        push_words(&mut directory, &[entry.attributes, entry.header_start.unwrap_or(start)]);
        directory.extend(entry.name.iter().chain(&entry.extra));
    }
    let start = u32::try_from(bytes.len()).unwrap();
    bytes.extend(&directory);
    bytes.extend(b"PK\x05\x06");
    push(&mut bytes, &[0, 0, half(entries.len()), half(entries.len())]);
    push_words(&mut bytes, &[u32::try_from(directory.len()).unwrap(), start]);
    push(&mut bytes, &[0]);
    bytes
}

/// The manifest as an entry, with the digests of plain files.
fn manifest_for(files: &[Raw]) -> Raw {
    let mut text = format!("{MANIFEST_TEXT}[entries]\n");
    for file in files {
        let name = String::from_utf8_lossy(&file.name);
        text.push_str(&format!("\"{name}\" = \"sha256:{}\"\n", sha256_hex(&file.data)));
    }
    Raw::stored("manifest.toml", text.as_bytes())
}

fn with_manifest(files: &[Raw]) -> Vec<Raw> {
    std::iter::once(manifest_for(files)).chain(files.iter().cloned()).collect()
}

fn opened(bytes: &[u8]) -> Result<super::Package, PackageError> {
    open_bytes(bytes, Path::new("upgrade.zip"), &Limits::default())
}

#[track_caller]
fn refused(bytes: &[u8], expected: Defect) {
    match opened(bytes) {
        Err(PackageError::Unsound { defect, .. }) => assert_eq!(defect, expected),
        other => panic!("expected {expected:?}, got {other:?}"),
    }
}

fn source(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("manifest.toml"), MANIFEST_TEXT).unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

#[test]
fn the_hand_written_archive_is_sound_before_it_is_made_hostile() {
    let package = opened(&assemble(&with_manifest(&[Raw::stored("a.sql", b"SELECT 1;")]))).unwrap();
    assert_eq!(package.files["a.sql"].bytes, b"SELECT 1;");
    let folder = Raw { attributes: 0o040_755 << 16, ..Raw::stored("scripts/", b"") };
    let script = Raw { attributes: 0o100_755 << 16, ..Raw::stored("scripts/a.sh", b"true") };
    let mut entries = with_manifest(&[script]);
    entries.push(folder);
    let package = opened(&assemble(&entries)).unwrap();
    assert!(package.files["scripts/a.sh"].executable);
    assert_eq!(package.files.len(), 1);
}

#[test]
fn hostile_names_are_refused() {
    let cases: &[(&str, Defect)] = &[
        ("../../etc/cron.d/x", Defect::NameTraversal),
        ("scripts/../../x", Defect::NameTraversal),
        ("/etc/passwd", Defect::NameAbsolute),
        ("C:x", Defect::NameAbsolute),
        ("scripts\\x.sh", Defect::NameCharacter),
        ("a\0b", Defect::NameCharacter),
        ("a\x1b[2Jb", Defect::NameCharacter),
        ("a.sql:stream", Defect::NameCharacter),
        ("a//b", Defect::NameEmpty),
        ("a/./b", Defect::NameEmpty),
        ("a./b", Defect::NameEmpty),
        ("", Defect::NameEmpty),
        ("1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17", Defect::NameTooLong),
    ];
    for (name, defect) in cases {
        refused(&assemble(&[Raw::stored("manifest.toml", b""), Raw::stored(name, b"x")]), *defect);
    }
    let latin = Raw { name: b"caf\xe9".to_vec(), ..Raw::stored("", b"x") };
    refused(&assemble(&[latin]), Defect::NameEncoding);
    refused(&assemble(&[Raw::stored("caf\u{e9}", b"x")]), Defect::NameEncoding);
}

#[test]
fn names_that_collide_are_refused() {
    let cases = [
        ("a.sql", "a.sql", Defect::Duplicate),
        ("a.sql", "A.SQL", Defect::Duplicate),
        ("caf\u{e9}", "cafe\u{301}", Defect::Duplicate),
        ("stra\u{df}e", "STRASSE", Defect::Duplicate),
        ("scripts/a", "Scripts/b", Defect::Duplicate),
        ("a", "a/b", Defect::FileAndFolder),
        ("a/b", "a", Defect::FileAndFolder),
    ];
    for (one, other, defect) in cases {
        let utf8 = |name| Raw { flags: 1 << 11, ..Raw::stored(name, b"x") };
        refused(&assemble(&[utf8(one), utf8(other)]), defect);
    }
    let folder = Raw { attributes: 0o040_755 << 16, ..Raw::stored("a/", b"") };
    refused(&assemble(&[folder.clone(), folder.clone()]), Defect::Duplicate);
    refused(&assemble(&[Raw::stored("a", b"x"), folder]), Defect::FileAndFolder);
}

#[test]
fn hostile_entries_are_refused() {
    let plain = || Raw::stored("a", b"payload");
    let cases = [
        (Raw { attributes: 0o120_777 << 16, ..plain() }, Defect::Special),
        (Raw { attributes: 0o020_666 << 16, ..plain() }, Defect::Special),
        (Raw { attributes: 0o104_755 << 16, ..plain() }, Defect::Special),
        (Raw { attributes: 0o040_755 << 16, ..plain() }, Defect::Special),
        (Raw { flags: 1, ..plain() }, Defect::Encrypted),
        (Raw { flags: 1 << 3, ..plain() }, Defect::Flags),
        (Raw { method: 12, ..plain() }, Defect::Method),
        (Raw { extra: vec![1, 0, 0, 0], ..plain() }, Defect::Zip64),
        (Raw { extra: vec![0x75, 0x70, 0, 0], ..plain() }, Defect::ExtraField),
        (Raw { extra: vec![0x55, 0x54, 9, 0], ..plain() }, Defect::ExtraField),
        (Raw { size: 8, ..plain() }, Defect::HeaderMismatch),
        (Raw { local_name: Some(b"b".to_vec()), ..plain() }, Defect::HeaderMismatch),
        (Raw { crc32: 1, ..plain() }, Defect::Corrupt),
        (Raw { method: 8, ..plain() }, Defect::Corrupt),
        (Raw { attributes: 0o040_755 << 16, ..Raw::stored("a/", b"x") }, Defect::FolderWithData),
        (Raw { header_start: Some(5), ..plain() }, Defect::HeaderMismatch),
        (Raw { header_start: Some(u32::MAX), ..plain() }, Defect::Zip64),
        (Raw { header_start: Some(1 << 20), ..plain() }, Defect::Truncated),
    ];
    for (entry, defect) in cases {
        refused(&assemble(&[Raw::stored("manifest.toml", b""), entry]), defect);
    }
}

#[test]
fn a_bomb_is_refused_before_it_unpacks() {
    let zeros = vec![0_u8; 4 << 20];
    let folder = source(&[]);
    fs::write(folder.path().join("zeros"), &zeros).unwrap();
    let error = build(folder.path(), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("suspiciously many times its size"), "{error}");
    // A declared size that lies about a bomb is found while it unpacks.
    let patient = Limits { ratio_max: u64::MAX, ..Limits::default() };
    let mut bytes = build(folder.path(), &patient).unwrap().bytes;
    let declared = u32::try_from(zeros.len()).unwrap().to_le_bytes();
    let places: Vec<usize> =
        bytes.windows(4).enumerate().filter(|(_, found)| *found == declared).map(|(at, _)| at).collect();
    assert_eq!(places.len(), 2);
    for at in places {
        bytes[at..at + 4].copy_from_slice(&1000_u32.to_le_bytes());
    }
    refused(&bytes, Defect::Corrupt);
}

#[test]
fn hostile_layouts_are_refused() {
    let entries = with_manifest(&[Raw::stored("a.sql", b"SELECT 1;")]);
    let good = assemble(&entries);
    refused(b"", Defect::NotAnArchive);
    refused(b"not a zip", Defect::NotAnArchive);
    refused(&good[..good.len() - 1], Defect::Truncated);
    refused(&[&good[..], b"trailing"].concat(), Defect::TrailingBytes);
    refused(&[b"MZ stub", &good[..]].concat(), Defect::DirectoryBounds);
    let mut commented = [&good[..], b"note"].concat();
    commented[good.len() - 2] = 4;
    refused(&commented, Defect::Comment);
    let mut miscounted = good.clone();
    miscounted[good.len() - 14] = 1;
    miscounted[good.len() - 12] = 1;
    refused(&miscounted, Defect::DirectoryCount);
    let mut disks = good.clone();
    disks[good.len() - 18] = 1;
    refused(&disks, Defect::MultiDisk);
    let mut wide = good.clone();
    wide[good.len() - 6..good.len() - 2].copy_from_slice(&u32::MAX.to_le_bytes());
    refused(&wide, Defect::Zip64);
    let nested = with_manifest(&[Raw::stored("inner.zip", &good)]);
    refused(&assemble(&nested), Defect::SeveralEnds);
}

#[test]
fn entries_that_share_or_leave_bytes_are_refused() {
    let mut entries =
        with_manifest(&[Raw::stored("a.sql", b"SELECT 1;"), Raw::stored("b.sql", b"SELECT 1;")]);
    let manifest_end = 30 + 13 + entries[0].data.len();
    // The same local header twice, under one name in the local header: the second name differs from it.
    entries[2].header_start = Some(u32::try_from(manifest_end).unwrap());
    refused(&assemble(&entries), Defect::HeaderMismatch);
    // The outer entry's data hold a whole local entry, to which a second record points.
    let inner = Raw::stored("b.sql", b"SELECT 2;");
    let inner_bytes = assemble(std::slice::from_ref(&inner))[..30 + 5 + 9].to_vec();
    let outer = Raw::stored("a.bin", &inner_bytes);
    let files = with_manifest(&[outer]);
    let pointed = u32::try_from(30 + 13 + files[0].data.len() + 30 + 5).unwrap();
    let mut bytes = assemble(&files);
    append_record(&mut bytes, &inner, pointed);
    refused(&bytes, Defect::Overlap);
    // Without its record, an entry's bytes belong to nobody.
    let full = with_manifest(&[Raw::stored("a.sql", b"SELECT 1;")]);
    let mut bytes = assemble(&full);
    drop_last_record(&mut bytes, 46 + 5);
    refused(&bytes, Defect::Gap);
}

/// Adds a record to the central directory of an archive.
fn append_record(bytes: &mut Vec<u8>, entry: &Raw, header_start: u32) {
    let end = bytes.split_off(bytes.len() - 22);
    let one = assemble(&[Raw { header_start: Some(header_start), ..entry.clone() }]);
    let record_bytes = 46 + entry.name.len();
    bytes.extend(&one[one.len() - 22 - record_bytes..one.len() - 22]);
    bytes.extend(resized(&end, 1, i64::try_from(record_bytes).unwrap()));
}

fn drop_last_record(bytes: &mut Vec<u8>, record_bytes: usize) {
    let end = bytes.split_off(bytes.len() - 22);
    bytes.truncate(bytes.len() - record_bytes);
    bytes.extend(resized(&end, -1, -i64::try_from(record_bytes).unwrap()));
}

/// The end record with its count and directory size changed.
fn resized(end: &[u8], count: i16, bytes: i64) -> Vec<u8> {
    let entries = (u16::from_le_bytes([end[8], end[9]])).wrapping_add_signed(count);
    let size = i64::from(u32::from_le_bytes([end[12], end[13], end[14], end[15]])) + bytes;
    let mut changed = end.to_vec();
    changed[8..10].copy_from_slice(&entries.to_le_bytes());
    changed[10..12].copy_from_slice(&entries.to_le_bytes());
    changed[12..16].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
    changed
}

#[test]
fn digests_decide_what_belongs_to_the_package() {
    let file = Raw::stored("a.sql", b"SELECT 1;");
    let changed = Raw { data: b"SELECT 2;".to_vec(), crc32: crc32(b"SELECT 2;"), ..file.clone() };
    let manifest = manifest_for(std::slice::from_ref(&file));
    refused(&assemble(&[manifest.clone(), changed]), Defect::DigestWrong);
    refused(&assemble(&[manifest.clone(), file, Raw::stored("extra.sh", b"x")]), Defect::EntryUnlisted);
    refused(&assemble(&[manifest]), Defect::EntryMissing);
    refused(&assemble(&[Raw::stored("a.sql", b"x")]), Defect::ManifestMissing);
    assert_eq!(Defect::DigestWrong.record().check, CheckId::PkgDigest);
}

#[test]
fn limits_hold() {
    let files: Vec<Raw> = (0..4).map(|n| Raw::stored(&format!("{n}.sql"), &[b'x'; 100])).collect();
    let bytes = assemble(&with_manifest(&files));
    let cases = [
        (Limits { entries_max: 4, ..Limits::default() }, Defect::TooManyEntries),
        (Limits { entry_bytes_max: 99, ..Limits::default() }, Defect::EntryTooLarge),
        (Limits { total_bytes_max: 300, ..Limits::default() }, Defect::TotalTooLarge),
        (Limits { archive_bytes_max: 300, ..Limits::default() }, Defect::ArchiveTooLarge),
        (Limits { name_bytes_max: 4, ..Limits::default() }, Defect::NameTooLong),
    ];
    for (limits, expected) in cases {
        let Err(PackageError::Unsound { defect, .. }) = open_bytes(&bytes, Path::new("p.zip"), &limits)
        else {
            panic!("{expected:?}")
        };
        assert_eq!(defect, expected);
    }
}

#[test]
fn a_refusal_is_one_sentence_with_what_where_and_what_to_do() {
    let error = opened(&assemble(&[Raw::stored("../x\x1b[2J", b"")])).unwrap_err();
    // The escape sequence comes first in the rule's order and never reaches a terminal.
    insta::assert_snapshot!(error, @r#"upgrade.zip: entry "../x\u{1b}[2J": the name contains a control character, a backslash or a colon; rename the file"#);
    assert_eq!(error.refusal().check, CheckId::PkgArchive);
    let missing = open(Path::new("/nonexistent/upgrade.zip"), &Limits::default()).unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/upgrade.zip: could not be opened"), "{missing}");
}

#[test]
fn every_defect_is_found_by_its_record_and_has_an_id_of_its_own() {
    for (index, record) in DEFECTS.iter().enumerate() {
        assert_eq!(record.defect as usize, index);
        assert!(matches!(record.check, CheckId::PkgArchive | CheckId::PkgDigest));
        assert_eq!(DEFECTS.iter().filter(|other| other.id == record.id).count(), 1);
    }
}

#[test]
fn what_is_no_plain_file_is_not_built() {
    let folder = source(&[("scripts/a.sh", "true")]);
    symlink("/etc/passwd", folder.path().join("scripts/link")).unwrap();
    let error = build(folder.path(), &Limits::default()).unwrap_err();
    assert!(matches!(error, PackageError::Unsound { defect: Defect::Special, .. }), "{error}");

    let folder = source(&[("a\nb", "x")]);
    let error = build(folder.path(), &Limits::default()).unwrap_err();
    assert!(error.to_string().contains("entry \"a\\nb\""), "{error}");

    let folder = source(&[]);
    let step = "[[step]]\nid = \"10\"\nkind = \"sql\"\nfile = \"gone.sql\"\n";
    fs::write(folder.path().join("manifest.toml"), format!("{MANIFEST_TEXT}{step}")).unwrap();
    let error = build(folder.path(), &Limits::default()).unwrap_err();
    let expected = "manifest.toml:8: step \"10\" names gone.sql, which the package does not contain";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn a_package_goes_to_disk_with_its_modes_and_nothing_else() {
    let folder = source(&[("scripts/a.sh", "#!/bin/sh\n"), ("sql/1/up.sql", "SELECT 1;")]);
    fs::set_permissions(folder.path().join("scripts/a.sh"), fs::Permissions::from_mode(0o700)).unwrap();
    let out = tempfile::tempdir().unwrap();
    let zip = out.path().join("upgrade.zip");
    let built = build_to(folder.path(), &zip, &Limits::default()).unwrap();
    assert_eq!(fs::metadata(&zip).unwrap().permissions().mode() & 0o777, 0o644);
    let package = open(&zip, &Limits::default()).unwrap();
    assert_eq!(package.sha256, built.package.sha256);
    assert_eq!(package.facts().signature_note, "signature not verified");
    assert_eq!(package.facts().entries, 2);
    let target = out.path().join("unpacked");
    package.extract_to(&target).unwrap();
    let mode = |name: &str| fs::metadata(target.join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("scripts/a.sh"), mode("sql/1/up.sql"), mode("sql")), (0o755, 0o644, 0o755));
    assert_eq!(fs::read(target.join("sql/1/up.sql")).unwrap(), b"SELECT 1;");
    let again = package.extract_to(&target).unwrap_err();
    assert!(again.to_string().contains("could not be created"), "{again}");
}

#[test]
fn the_same_folder_gives_the_same_bytes() {
    let files = [("b/x.sql", "SELECT 1;"), ("a.sh", "true"), ("b.txt", "b")];
    let (one, other) = (source(&files), source(&[files[2], files[0], files[1]]));
    let limits = Limits::default();
    let built = build(one.path(), &limits).unwrap();
    assert_eq!(built.bytes, build(other.path(), &limits).unwrap().bytes);
    assert_eq!(open_folder(other.path(), &limits).unwrap().sha256, built.package.sha256);
    // A manifest that was built once is the source of the next build.
    fs::write(one.path().join("manifest.toml"), &built.package.manifest_text).unwrap();
    assert_eq!(build(one.path(), &limits).unwrap().bytes, built.bytes);
}

fn trees() -> impl Strategy<Value = BTreeMap<String, (Vec<u8>, bool)>> {
    // Folders are lower case and files carry an extension, so that names do not collide.
    let name = "([a-d]{1,3}/){0,3}[a-z0-9_ -]{0,8}[a-z0-9]\\.(sql|sh|toml)";
    let content = prop::collection::vec(any::<u8>(), 0..2000);
    prop::collection::btree_map(name, (content, any::<bool>()), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_was_built_is_what_is_opened(tree in trees()) {
        let folder = source(&[]);
        for (name, (content, executable)) in &tree {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let expected = tree.into_iter().filter(|(name, _)| name != "manifest.toml");
        let package = opened(&build(folder.path(), &Limits::default()).unwrap().bytes).unwrap();
        let found = package.files.into_iter().map(|(name, file)| (name, (file.bytes, file.executable)));
        prop_assert!(found.eq(expected));
    }

    #[test]
    fn no_change_of_a_byte_panics_or_passes_unnoticed(at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let files = with_manifest(&[Raw::stored("a.sql", b"SELECT 1;")]);
        let mut bytes = assemble(&files);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(package) = opened(&bytes) {
            prop_assert_eq!(&package.files["a.sql"].bytes, b"SELECT 1;");
        }
    }
}
