use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fulldress_reports::roundtrip::WayBack;

use super::{History, Layout, read};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/histories").join(name)
}

/// A folder with these files.
fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

fn ids(history: &History) -> Vec<&str> {
    history.migrations.iter().map(|migration| migration.id.as_str()).collect()
}

/// The sentence with which a folder is refused.
#[track_caller]
fn refused(folder: &Path, layout: Option<Layout>) -> String {
    read(folder, layout).map(|history| ids(&history).join(" ")).unwrap_err().to_string()
}

#[test]
fn every_layout_is_told_by_its_files() {
    for (name, layout, reason) in [
        ("golang-migrate", Layout::GolangMigrate, ".up.sql and .down.sql"),
        ("sqlx", Layout::Sqlx, "`-- no-transaction`"),
        ("diesel", Layout::Diesel, "have an up.sql each"),
        ("dbmate", Layout::Dbmate, "`-- migrate:up`"),
        ("goose", Layout::Goose, "`-- +goose Up`"),
        ("refinery", Layout::Refinery, "versions of their own"),
        ("flyway", Layout::Flyway, "V1__name.sql"),
        ("plain", Layout::Plain, "no tool's marks"),
    ] {
        let history = read(&fixture(name), None).unwrap();
        assert_eq!(history.layout, layout, "{name}");
        assert!(history.reason.contains(reason), "{name}: {}", history.reason);
        assert_eq!(layout.name(), name);
    }
}

#[test]
fn what_stands_near_decides_between_two_tools_of_the_same_names() {
    let pair: [(&str, &[u8]); 2] = [("m/1_a.up.sql", b"select 1"), ("m/1_a.down.sql", b"select 1")];
    let with = |name: &'static str, text: &'static [u8]| {
        let folder = folder(&[pair[0], pair[1], (name, text)]);
        read(&folder.path().join("m"), None).unwrap().layout
    };
    assert_eq!(with("Cargo.toml", b"[dependencies]\nsqlx = \"0.8\"\n"), Layout::Sqlx);
    assert_eq!(
        with("go.mod", b"require github.com/golang-migrate/migrate/v4 v4.18.0\n"),
        Layout::GolangMigrate
    );
    assert_eq!(with("m/2_b.sql", b"select 1"), Layout::Sqlx);
    assert_eq!(with("README", b""), Layout::GolangMigrate);
}

#[test]
fn each_tool_has_its_order() {
    let numbers: [(&str, &[u8]); 3] = [("10_c.sql", b""), ("9_b.sql", b""), ("009_a.sql", b"")];
    let folder_of = folder(&numbers[..2]);
    let order = |layout| ids(&read(folder_of.path(), Some(layout)).unwrap()).join(" ");
    assert_eq!(order(Layout::Sqlx), "9_b 10_c");
    assert_eq!(order(Layout::Goose), "9_b 10_c");
    // By the text of the names.
    assert_eq!(order(Layout::Dbmate), "10_c 9_b");
    let folders = folder(&[("9_b/up.sql", b"select 1"), ("10_c/up.sql", b"select 1")]);
    assert_eq!(ids(&read(folders.path(), None).unwrap()), ["10_c", "9_b"]);
    assert!(refused(folder(&numbers).path(), Some(Layout::Sqlx)).contains("version 9 is already that of"));
}

#[test]
fn each_tool_has_its_transactions() {
    let transactions = |name: &str| -> Vec<(bool, usize)> {
        let history = read(&fixture(name), None).unwrap();
        history.migrations.iter().map(|one| (one.up.transaction, one.up.parts.len())).collect()
    };
    assert!(transactions("golang-migrate").iter().all(|one| *one == (false, 1)));
    assert_eq!(transactions("sqlx"), [(true, 1), (true, 1), (false, 1), (true, 1)]);
    assert_eq!(transactions("diesel"), [(true, 1), (false, 1), (true, 1), (true, 1)]);
    assert_eq!(transactions("dbmate"), [(true, 1), (false, 1), (true, 1), (true, 1)]);
    // The last has a problem, and no parts.
    assert_eq!(transactions("goose"), [(true, 1), (true, 3), (false, 1), (true, 0)]);
    assert_eq!(transactions("refinery"), [(true, 1); 3]);
    assert_eq!(transactions("flyway"), [(true, 1), (true, 1), (false, 1), (true, 1), (true, 1)]);
    assert_eq!(transactions("plain"), [(true, 1), (true, 1), (false, 2), (true, 0)]);
}

#[test]
fn ways_back_are_found() {
    let backs = |name: &str| -> Vec<&'static str> {
        let history = read(&fixture(name), None).unwrap();
        let back = |way: &WayBack| match way {
            WayBack::Missing => "-",
            WayBack::Empty(_) => "empty",
            WayBack::Written(_) => "down",
        };
        history.migrations.iter().map(|one| back(&one.way_back())).collect()
    };
    assert_eq!(backs("sqlx"), ["-", "down", "down", "down"]);
    assert_eq!(backs("dbmate"), ["down", "down", "down", "empty"]);
    assert_eq!(backs("refinery"), ["-", "-", "-"]);
    assert_eq!(backs("flyway"), ["-", "down", "down", "empty", "-"]);
    assert_eq!(backs("plain"), ["down", "down", "down", "-"]);
    let flyway = read(&fixture("flyway"), None).unwrap();
    assert_eq!(
        ids(&flyway),
        ["V1__books", "V1.2__pages", "V1.10__title_index", "V2__grant", "R__long_books"]
    );
}

#[test]
fn what_cannot_be_run_is_told_with_its_line() {
    let problem = |name: &str, id: &str| {
        let history = read(&fixture(name), None).unwrap();
        let migration = history.migrations.into_iter().find(|one| one.id == id).unwrap();
        let problem = migration.up.problem.unwrap();
        format!("{}: {}", problem.line, problem.what)
    };
    assert!(problem("goose", "00005_unfinished").starts_with("4: has a statement from line 2 on"));
    assert!(problem("plain", "011_include").starts_with("2: `\\i more.sql` is a command of psql"));
    let notes = |name: &str| -> Vec<String> {
        let history = read(&fixture(name), None).unwrap();
        let own = history.migrations.iter().flat_map(|one| &one.up.notes);
        history.notes.iter().chain(own).map(ToString::to_string).collect()
    };
    assert!(notes("goose")[0].contains("00004_program.go: is a migration in code"), "{:?}", notes("goose"));
    assert!(notes("plain")[0].contains("001_rooms.sql:1: `\\set ON_ERROR_STOP on`"), "{:?}", notes("plain"));
}

#[test]
fn tools_are_not_psql() {
    let cases: [(&str, &str); 3] = [
        ("select 1;\n\\i x.sql\n", "2: `\\i x.sql` is a command of psql"),
        ("\n\ncopy t from stdin;\n1\n\\.\n", "3: COPY takes or gives rows"),
        ("-- a\ncopy t (a) to stdout", "2: COPY takes or gives rows"),
    ];
    for (sql, said) in cases {
        let folder = folder(&[("1_a.up.sql", sql.as_bytes())]);
        let history = read(folder.path(), None).unwrap();
        let problem = history.migrations[0].up.problem.clone().unwrap();
        assert!(format!("{}: {}", problem.line, problem.what).starts_with(said), "{}", problem.what);
    }
}

#[test]
fn odd_bytes_are_told_in_one_sentence() {
    let files: [(&str, &[u8]); 5] = [
        ("1_bom.up.sql", b"\xef\xbb\xbfselect 1;"),
        ("2_latin.up.sql", b"select 1;\nselect 'caf\xe9';"),
        ("3_zero.up.sql", b"select 1;\0"),
        ("4_crlf.up.sql", b"select 1;\r\nselect 2;\r\n"),
        ("5_empty.up.sql", b""),
    ];
    let folder = folder(&files);
    let history = read(folder.path(), None).unwrap();
    let up = |index: usize| &history.migrations[index].up;
    assert_eq!(up(0).parts[0].sql, "select 1;");
    assert!(up(0).notes[0].text.contains("byte order mark"));
    assert!(up(1).problem.clone().is_some_and(|one| one.line == 2 && one.what.contains("not UTF-8")));
    assert!(up(2).problem.clone().is_some_and(|one| one.what.contains("zero byte")));
    assert_eq!(up(3).problem, None);
    assert!(up(4).is_empty());
    let file = std::fs::File::create(folder.path().join("6_huge.up.sql")).unwrap();
    file.set_len(65 << 20).unwrap();
    let history = read(folder.path(), None).unwrap();
    assert!(history.migrations[5].up.problem.clone().is_some_and(|one| one.what.contains("has 65 MiB")));
}

#[test]
fn links_out_of_the_folder_are_not_followed() {
    let outside = folder(&[("2_b.up.sql", b"select 2")]);
    let inside = folder(&[("1_a.up.sql", b"select 1")]);
    symlink(outside.path().join("2_b.up.sql"), inside.path().join("2_b.up.sql")).unwrap();
    symlink(inside.path().join("1_a.up.sql"), inside.path().join("3_c.up.sql")).unwrap();
    symlink("nowhere", inside.path().join("4_d.up.sql")).unwrap();
    symlink(inside.path(), inside.path().join("5_e")).unwrap();
    let history = read(inside.path(), None).unwrap();
    assert_eq!(ids(&history), ["1_a", "3_c"]);
    let notes: Vec<&str> = history.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(
        notes,
        [
            "is a link out of the folder; left out",
            "is a link that leads nowhere; left out",
            "is a link to a folder; left out"
        ]
    );
}

#[test]
fn a_folder_that_is_no_history_says_what_to_do() {
    let empty = folder(&[]);
    assert!(refused(empty.path(), None).contains("has no SQL migrations; name the folder"));
    assert!(refused(&empty.path().join("gone"), None).contains("cannot be opened"));
    let above = folder(&[("db/postgres/1_a/up.sql", b"select 1"), ("go.mod", b"")]);
    assert!(refused(above.path(), None).contains("there are some in"), "{}", refused(above.path(), None));
    assert!(refused(above.path(), None).contains("db/postgres: name that folder"));
    assert!(refused(&fixture("goose"), Some(Layout::Diesel)).contains("no migrations of the layout diesel"));
    let file = folder(&[("1_a.up.sql", b"")]);
    assert!(refused(&file.path().join("1_a.up.sql"), None).contains("is no folder"));
}

#[test]
fn the_other_layout_of_a_mixed_folder_is_left_out_and_told() {
    let mixed = folder(&[
        ("1_a.up.sql", b"select 1"),
        ("1_a.down.sql", b"select 1"),
        ("2_b.sql", b"-- +goose Up\nselect 1;"),
        ("seed.sql", b"select 1"),
        ("3_c.down.sql", b"select 1"),
    ]);
    std::fs::write(mixed.path().join("go.mod"), "require migrate").unwrap();
    let history = read(mixed.path(), None).unwrap();
    assert_eq!(history.layout, Layout::GolangMigrate);
    assert!(history.reason.contains("as 3 of 4 files"), "{}", history.reason);
    assert_eq!(ids(&history), ["1_a"]);
    let notes: Vec<String> = history.notes.iter().map(|note| note.text.clone()).collect();
    assert!(notes.iter().any(|note| note.contains("way back without a way up")));
    assert_eq!(notes.iter().filter(|note| note.contains("is not named as golang-migrate")).count(), 2);
}

#[test]
fn a_migration_is_named_by_its_id_or_its_number() {
    let history = read(&fixture("golang-migrate"), None).unwrap();
    let named = |typed: &str| history.migrations.iter().position(|one| one.is_named(typed));
    assert_eq!(named("0004_order_channel"), Some(3));
    assert_eq!(named("0004"), Some(3));
    assert_eq!(named("4"), Some(3));
    assert_eq!(named("0004_order"), None);
}
