//! `fulldress roundtrip` against a real server: every layout and every verdict, from the histories in `fixtures/histories`.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "support/program.rs"]
mod program;
#[path = "support/versions.rs"]
mod versions;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fulldress::history;
use fulldress::process::RunFolder;
use fulldress::roundtrip::{Error, Request, embedded};
use fulldress_reports::roundtrip::{Migration, Requirement, RoundTrip};
use program::{Ended, fulldress, repository};
use versions::versions;

fn fixture(name: &str) -> PathBuf {
    repository().join("fixtures/histories").join(name)
}

fn request(dir: &Path) -> Request {
    Request {
        folder: dir.display().to_string(),
        setups: Vec::new(),
        rows: None,
        seed: 1,
        from: None,
        to: None,
        superuser: false,
        postgres: None,
        required: Requirement::defaults(),
    }
}

fn try_walk(dir: &Path, request: &Request) -> Result<RoundTrip, Error> {
    let state = tempfile::Builder::new().prefix("fulldress-roundtrip-").tempdir().unwrap();
    let folder = Arc::new(RunFolder::create_in(state.path()).unwrap().0);
    let history = history::read(dir, None).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let walked = runtime.block_on(embedded(request, &history, &folder, &mut |_| {}));
    Arc::try_unwrap(folder).unwrap().close().unwrap();
    walked
}

#[track_caller]
fn walk(dir: &Path, request: &Request) -> RoundTrip {
    try_walk(dir, request).unwrap()
}

/// A history of golang-migrate: ups and downs by name.
fn history_of(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, sql) in files {
        std::fs::write(folder.path().join(format!("{name}.sql")), sql).unwrap();
    }
    folder
}

/// `id verdict classes reapply` of every migration.
fn verdicts(trip: &RoundTrip) -> Vec<String> {
    trip.migrations
        .iter()
        .map(|migration| {
            let again = migration.reapply.map_or("-".to_owned(), |again| format!("{again:?}").to_lowercase());
            let classes = migration.classes.join(",");
            let number = migration.id.split('_').next().unwrap();
            [number, migration.verdict.name(), &classes, &again].join(" ").replace("  ", " ")
        })
        .collect()
}

fn migration<'trip>(trip: &'trip RoundTrip, id: &str) -> &'trip Migration {
    trip.migrations.iter().find(|migration| migration.id == id).unwrap()
}

#[test]
fn every_verdict_is_reached_and_the_history_goes_on_from_each() {
    let dir = fixture("golang-migrate");
    let trip = walk(&dir, &request(&dir));
    assert_eq!(
        verdicts(&trip),
        [
            "0001 exact same",
            "0002 exact same",
            "0003 order-only same",
            "0004 drift index failed",
            "0005 down-failed -",
            "0006 empty-down -",
            "0007 no-down -",
            "0008 up-failed -",
            "0009 exact same",
            "0010 exact same",
            "0011 drift type failed",
            "0012 drift index differs",
        ]
    );
    let failure = migration(&trip, "0005_shipments").failure.clone().unwrap();
    assert!(failure.place.to_string().ends_with("0005_shipments.down.sql:3"), "{failure:?}");
    assert_eq!(failure.sqlstate.as_deref(), Some("2BP01"));
    let wrong = migration(&trip, "0008_wrong");
    assert!(wrong.place.to_string().ends_with("0008_wrong.up.sql:3"), "{}", wrong.place);
    // What comes later is judged without what it would have made.
    let since: Vec<&str> =
        trip.migrations.iter().filter_map(|migration| migration.incomplete_since.as_deref()).collect();
    assert_eq!(since, ["0008_wrong"; 4]);
    assert_eq!(migration(&trip, "0009_email_index").incomplete_since.as_deref(), Some("0008_wrong"));
    let drift = migration(&trip, "0004_order_channel");
    assert_eq!(drift.differences.len(), 1);
    assert_eq!(drift.differences[0].object, "public.orders_placed_at");
    // Where it is made, since the way back does not name it.
    assert!(drift.place.to_string().ends_with("0004_order_channel.up.sql:3"), "{}", drift.place);
    assert!(trip.notes.iter().any(|note| note.file.ends_with("0013_program.go")));
    assert!(
        trip.text().contains("12 migrations: 4 exact, 1 order-only, 3 drift, 1 down-failed"),
        "{}",
        trip.text()
    );
}

#[test]
fn every_layout_runs_as_its_tool_runs_it() {
    let expected: [(&str, &[&str]); 7] = [
        (
            "sqlx",
            &[
                "20240101000000 no-down -",
                "20240102000000 exact same",
                "20240103000000 exact same",
                "20240104000000 up-failed -",
            ],
        ),
        (
            "diesel",
            &[
                "2024-01-01-000000 exact same",
                "2024-01-02-000000 exact same",
                "2024-01-03-000000 exact same",
                "2024-01-04-000000 no-down -",
            ],
        ),
        (
            "dbmate",
            &[
                "20240101000000 exact same",
                "20240102000000 exact same",
                "20240103000000 drift table same",
                "20240104000000 empty-down -",
            ],
        ),
        (
            "goose",
            &["00001 exact same", "00002 drift function failed", "00003 exact same", "00005 up-failed -"],
        ),
        ("refinery", &["V1 no-down -", "V2 no-down -", "U3 no-down -"]),
        (
            "flyway",
            &["V1 no-down -", "V1.2 exact same", "V1.10 exact same", "V2 empty-down -", "R no-down -"],
        ),
        ("plain", &["001 exact same", "002 drift table same", "010 exact same", "011 up-failed -"]),
    ];
    for (name, verdicts_of) in expected {
        let dir = fixture(name);
        let trip = walk(&dir, &request(&dir));
        assert_eq!(verdicts(&trip), verdicts_of, "{name}\n{}", trip.text());
        assert_eq!(trip.layout, name);
    }
}

#[test]
fn half_of_a_script_that_failed_does_not_stay() {
    // CONCURRENTLY cannot stand in one request with others, and the index of the second is left INVALID.
    let dir = history_of(&[
        ("1_t.up", "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1);"),
        ("1_t.down", "DROP TABLE t;"),
        ("2_unique.up", "CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a);"),
        ("2_unique.down", "DROP INDEX t_a;"),
        ("3_index.up", "CREATE INDEX t_a ON t (a);"),
        ("3_index.down", "BEGIN; DROP INDEX t_a; COMMIT; DROP TABLE gone;"),
        ("4_index.up", "DROP INDEX t_a;"),
        ("4_index.down", "CREATE INDEX t_a ON t (a);"),
    ]);
    let trip = walk(dir.path(), &request(dir.path()));
    assert_eq!(verdicts(&trip), ["1 exact same", "2 up-failed -", "3 down-failed -", "4 exact same"]);
    assert_eq!(migration(&trip, "2_unique").failure.clone().unwrap().sqlstate.unwrap(), "23505");
}

#[test]
fn a_transaction_that_is_left_open_is_a_failure() {
    let dir =
        history_of(&[("1_t.up", "BEGIN; CREATE TABLE t (a int);"), ("2_u.up", "CREATE TABLE t (a int);")]);
    let trip = walk(dir.path(), &request(dir.path()));
    assert_eq!(verdicts(&trip), ["1 up-failed -", "2 no-down -"]);
    assert!(trip.migrations[0].failure.clone().unwrap().what.contains("leaves its transaction open"));
}

#[test]
fn scripts_are_strangers() {
    let files = [
        ("1_program.up", "COPY (SELECT 1) TO PROGRAM 'cat >/dev/null';"),
        ("2_borrow.up", "GRANT pg_execute_server_program TO fulldress_owner;"),
        ("3_member.up", "CREATE ROLE other ROLE fulldress_owner; GRANT pg_read_server_files TO other;"),
        ("4_super.up", "ALTER ROLE fulldress_owner SUPERUSER;"),
        ("5_read.up", "CREATE TABLE l (t text); COPY l FROM '/etc/hostname';"),
        ("6_role.up", "CREATE ROLE reader;"),
        ("6_role.down", "DROP ROLE reader;"),
    ];
    let dir = history_of(&files);
    for (version, postgres) in versions() {
        let trip = walk(dir.path(), &Request { postgres: Some(postgres), ..request(dir.path()) });
        let denied = trip.migrations.iter().take(5);
        let states: Vec<Option<String>> =
            denied.map(|one| one.failure.as_ref().and_then(|failure| failure.sqlstate.clone())).collect();
        assert_eq!(states, vec![Some("42501".to_owned()); 5], "{version}\n{}", trip.text());
        assert_eq!(verdicts(&trip)[5], "6 exact same");
    }
    let trip = walk(dir.path(), &Request { superuser: true, ..request(dir.path()) });
    assert_eq!(verdicts(&trip)[0], "1 no-down -", "{}", trip.text());
}

#[test]
fn extensions_are_made_left_out_or_left_to_the_script() {
    let dir = history_of(&[
        (
            "1_gone.up",
            "CREATE EXTENSION no_such_thing;\nCOMMENT ON EXTENSION no_such_thing IS 'x';\nCREATE TABLE t (a int);",
        ),
        ("1_gone.down", "DROP TABLE t; DROP EXTENSION no_such_thing;"),
        ("2_trusted.up", "CREATE EXTENSION IF NOT EXISTS citext;"),
        ("2_trusted.down", "DROP EXTENSION citext;"),
        ("3_untrusted.up", "CREATE EXTENSION IF NOT EXISTS pageinspect;"),
        ("3_untrusted.down", "DROP EXTENSION IF EXISTS pageinspect;"),
    ]);
    let trip = walk(dir.path(), &request(dir.path()));
    assert_eq!(verdicts(&trip), ["1 exact same", "2 exact same", "3 exact same"], "{}", trip.text());
    let notes = |index: usize| -> Vec<String> {
        trip.migrations[index].notes.iter().map(ToString::to_string).collect()
    };
    assert!(notes(0)[0].ends_with(
        "1_gone.up.sql:1: the extension no_such_thing is not installed on this machine; the statement was left out, \
         and what needs it will fail until it is installed"
    ), "{:?}", notes(0));
    assert_eq!(notes(1), Vec::<String>::new());
    assert!(
        notes(2)[0].contains("only a superuser may make the extension pageinspect; it was made"),
        "{:?}",
        notes(2)
    );
}

#[test]
fn a_newer_server_is_asked_for_by_name() {
    let dir = history_of(&[("1_t.up", "CREATE TABLE t (\n  id uuid DEFAULT uuidv7()\n);")]);
    for (version, postgres) in versions() {
        let trip = walk(dir.path(), &Request { postgres: Some(postgres), ..request(dir.path()) });
        let failure = trip.migrations[0].failure.clone();
        if version < 18 {
            let failure = failure.unwrap();
            assert!(failure.place.to_string().ends_with("1_t.up.sql:2"), "{failure:?}");
            assert!(failure.hint.clone().unwrap().contains("uuidv7 needs PostgreSQL 18"), "{failure:?}");
        } else {
            assert_eq!(failure, None);
        }
    }
}

#[test]
fn a_range_is_walked_on_what_comes_before_it() {
    let dir = fixture("golang-migrate");
    let range = |from: &str, to: &str| Request {
        from: Some(from.to_owned()),
        to: Some(to.to_owned()),
        ..request(&dir)
    };
    let trip = walk(&dir, &range("9", "0010_own_transaction"));
    // What failed on the way there is told.
    assert_eq!(verdicts(&trip), ["0008 up-failed -", "0009 exact same", "0010 exact same"]);
    assert!(
        trip.text().contains("* 2 migrations were judged without what 0008_wrong would"),
        "{}",
        trip.text()
    );
    assert!(matches!(try_walk(&dir, &range("99", "10")), Err(Error::Unknown { option: "--from", .. })));
    assert!(matches!(try_walk(&dir, &range("10", "9")), Err(Error::Backwards { .. })));
}

#[test]
fn a_view_is_the_same_whenever_it_was_made_and_in_whatever_order_its_columns_are() {
    let dir = history_of(&[
        (
            "1_t.up",
            "CREATE TABLE t (id int PRIMARY KEY, a text, b text, at timestamp DEFAULT 'now'::timestamp);
            CREATE VIEW recent AS SELECT id FROM t WHERE at > 'now'::timestamp - interval '1 day';
            CREATE VIEW everything AS SELECT * FROM t;
            CREATE VIEW ordered AS SELECT a, b FROM t UNION SELECT b, a FROM t;",
        ),
        ("1_t.down", "DROP VIEW recent, everything, ordered; DROP TABLE t;"),
        ("2_moment.up", "DROP VIEW recent; ALTER TABLE t ALTER COLUMN at DROP DEFAULT;"),
        (
            "2_moment.down",
            "CREATE VIEW recent AS SELECT id FROM t WHERE at > 'now'::timestamp - interval '1 day';
            ALTER TABLE t ALTER COLUMN at SET DEFAULT 'now'::timestamp;",
        ),
        ("3_order.up", "DROP VIEW everything;"),
        ("3_order.down", "CREATE VIEW everything AS SELECT id, b, at, a FROM t;"),
        ("4_union.up", "DROP VIEW ordered;"),
        ("4_union.down", "CREATE VIEW ordered AS SELECT b, a FROM t UNION SELECT a, b FROM t;"),
    ]);
    let trip = walk(dir.path(), &request(dir.path()));
    let expected = ["1 exact same", "2 exact same", "3 order-only same", "4 drift view same"];
    assert_eq!(verdicts(&trip), expected, "{}", trip.text());
    assert_eq!(migration(&trip, "3_order").reordered, ["public.everything"]);
}

#[test]
fn what_is_done_to_the_letters_of_a_text_is_seen() {
    // A way back that undoes nothing.
    let lose_nothing = "ALTER TABLE people ALTER COLUMN slug SET NOT NULL;";
    let dir = history_of(&[
        (
            "1_people.up",
            "CREATE TABLE people (id serial PRIMARY KEY, email text NOT NULL UNIQUE, nick varchar(20) NOT NULL, slug text NOT NULL CHECK (slug = lower(slug)));",
        ),
        ("1_people.down", "DROP TABLE people;"),
        ("2_lower.up", "UPDATE people SET email = lower(email);"),
        ("2_lower.down", lose_nothing),
        ("3_title.up", "UPDATE people SET nick = initcap(nick);"),
        ("3_title.down", lose_nothing),
        ("4_ascii.up", "UPDATE people SET nick = regexp_replace(nick, '[^ -~]', '', 'g');"),
        ("4_ascii.down", lose_nothing),
        // In lower case it is already.
        ("5_slug.up", "UPDATE people SET slug = lower(slug);"),
        ("5_slug.down", lose_nothing),
    ]);
    let trip = walk(dir.path(), &Request { rows: Some(20), ..request(dir.path()) });
    let expected =
        ["1 exact same", "2 data-lost same", "3 data-lost same", "4 data-lost same", "5 exact same"];
    assert_eq!(verdicts(&trip), expected, "{}", trip.text());
    assert_eq!(migration(&trip, "2_lower").rows_lost(), 20);
    assert!(migration(&trip, "3_title").rows_lost() > 0);
}

/// Runs the program as a person does.
fn run(arguments: &[&str]) -> Ended {
    let state = tempfile::tempdir().unwrap();
    let output = fulldress().arg("roundtrip").args(arguments).env("FULLDRESS_STATE", state.path()).output();
    let left =
        std::fs::read_dir(state.path()).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir());
    assert_eq!(left.count(), 0, "something was left in the state folder");
    output.unwrap().into()
}

#[test]
fn exit_codes_and_files() {
    let plain = fixture("plain");
    let plain = plain.to_str().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (junit, sarif, setup) = (path("junit.xml"), path("findings.sarif"), path("setup.sql"));
    run(&[plain, "--no-data", "--junit", &junit, "--sarif", &sarif])
        .expect_code(1)
        .expect_said("plain: its files begin with a number")
        .expect_said("fail, 2: none may be up-failed, down-failed, drift, data-lost, reapply-failed");
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    assert!(read(&junit).contains("failures=\"2\""), "{}", read(&junit));
    let sarif: serde_json::Value = serde_json::from_str(&read(&sarif)).unwrap();
    let results = sarif["runs"][0]["results"].as_array().unwrap();
    assert_eq!(
        results.iter().map(|one| one["ruleId"].as_str().unwrap()).collect::<Vec<_>>(),
        ["drift", "up-failed"]
    );
    let region = &results[1]["locations"][0]["physicalLocation"]["region"];
    assert_eq!(region["startLine"], 2);
    let ended =
        run(&[plain, "--no-data", "--fail-on", "no-down,down-failed", "--to", "2", "--format", "json"]);
    let ended = ended.expect_code(0);
    let trip: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(trip["schema"], "fulldress/roundtrip/1");
    assert_eq!(trip["migrations"][1]["verdict"], "drift");
    run(&[folder.path().to_str().unwrap()]).expect_code(2).expect_said("has no SQL migrations");
    run(&[plain, "--from", "77"]).expect_code(2).expect_said("no migration is named so");
    std::fs::write(&setup, "CREATE TABLE lamps (id int);\nSELECT gone;\n").unwrap();
    run(&[plain, "--setup", &setup]).expect_code(2).expect_said("line 2");
    run(&[plain, "--postgres", "/nowhere"]).expect_code(5).expect_said("has no initdb");
    run(&[plain, "--postgres", "9.1"]).expect_code(5).expect_said("PostgreSQL 9.1 was not found");
    // One that is found without being named in FULLDRESS_POSTGRES.
    let Some((version, _)) =
        versions().into_iter().find(|(_, folder)| folder.starts_with("/usr/lib/postgresql"))
    else {
        return;
    };
    let ended =
        run(&[plain, "--no-data", "--to", "1", "--postgres", &version.to_string(), "--format", "json"]);
    let trip: serde_json::Value = serde_json::from_str(&ended.expect_code(0).stdout).unwrap();
    let said = trip["server_version"].as_str().unwrap();
    assert_eq!(said.split('.').next().unwrap(), version.to_string(), "{said}");
}

#[test]
fn rows_that_are_lost_are_counted_and_rows_that_stand_in_the_way_are_left_out() {
    let dir = history_of(&[
        ("1_people.up", "CREATE TABLE people (id bigserial PRIMARY KEY, name text NOT NULL, note text);"),
        ("1_people.down", "DROP TABLE people;"),
        // The column comes back, and what was in it does not.
        ("2_note.up", "ALTER TABLE people DROP COLUMN note;"),
        ("2_note.down", "ALTER TABLE people ADD COLUMN note text;"),
        // Every row has one already, so that only an empty table takes it.
        ("3_age.up", "ALTER TABLE people ADD COLUMN age int NOT NULL;"),
        ("3_age.down", "ALTER TABLE people DROP COLUMN age;"),
        ("4_kept.up", "ALTER TABLE people ALTER COLUMN name TYPE varchar(400);"),
        ("4_kept.down", "ALTER TABLE people ALTER COLUMN name TYPE text;"),
        ("5_wrong.up", "ALTER TABLE people ADD COLUMN wrong no_such_type;"),
    ]);
    let trip = walk(dir.path(), &Request { rows: Some(7), ..request(dir.path()) });
    let expected = ["1 exact same", "2 data-lost same", "3 exact same", "4 exact same", "5 up-failed -"];
    assert_eq!(verdicts(&trip), expected, "{}", trip.text());
    let data = |id: &str| migration(&trip, id).data.clone();
    assert_eq!(
        data("2_note").unwrap().lost.into_iter().collect::<Vec<_>>(),
        [("public.people".to_owned(), 7)]
    );
    assert!(data("3_age").is_none());
    let notes = &migration(&trip, "3_age").notes;
    assert!(
        notes.iter().any(|note| note.text.contains("walked without rows") && note.line == Some(1)),
        "{notes:?}"
    );
    assert_eq!(data("4_kept").unwrap().lost.len(), 0);
    // With no rows there is nothing to lose.
    let bare = walk(dir.path(), &request(dir.path()));
    assert_eq!(verdicts(&bare)[1], "2 exact same");
}
