use std::collections::BTreeMap;

use super::{
    Data, Facts, Failure, Migration, Note, Place, REQUIREMENTS, Reapply, Requirement, RoundTrip, SCHEMA,
    VERDICTS, Verdict, Way, WayBack,
};
use crate::evidence::Difference;

fn place(file: &str, line: u32) -> Place {
    Place { file: file.to_owned(), line }
}

fn facts(id: &str) -> Facts {
    let mut facts = Facts::new(
        id.to_owned(),
        place(&format!("m/{id}.up.sql"), 1),
        WayBack::Written(place(&format!("m/{id}.down.sql"), 2)),
    );
    facts.reapply = Some(Reapply::Same);
    facts.data = Some(Data::default());
    (facts.up_ms, facts.down_ms, facts.took_ms) = (12, Some(3), 140);
    facts
}

fn difference(object: &str) -> Difference {
    Difference {
        kind: "index".to_owned(),
        object: object.to_owned(),
        before: None,
        after: Some("CREATE INDEX".to_owned()),
    }
}

fn failure(during: Way) -> Failure {
    Failure {
        during,
        place: place("m/x.down.sql", 7),
        sqlstate: Some("42P01".to_owned()),
        what: "relation \"t\" does not exist".to_owned(),
        hint: Some("a hint".to_owned()),
    }
}

/// One migration for each verdict.
fn every() -> Vec<Migration> {
    let lost = Data { lost: BTreeMap::from([("public.t".to_owned(), 2)]) };
    let all = [
        facts("exact"),
        Facts { reordered: vec!["public.t".to_owned()], ..facts("order") },
        Facts {
            differences: vec![difference("public.i"), difference("public.j")],
            classes: vec!["index".to_owned(), "index".to_owned()],
            difference_at: Some(place("m/drift.up.sql", 4)),
            data: Some(lost.clone()),
            ..facts("drift")
        },
        Facts { data: Some(lost), ..facts("lost") },
        Facts { failure: Some(failure(Way::Down)), reapply: None, ..facts("down") },
        Facts { back: WayBack::Empty(place("m/empty.down.sql", 1)), reapply: None, ..facts("empty") },
        Facts { back: WayBack::Missing, reapply: None, down_ms: None, ..facts("none") },
        Facts {
            failure: Some(failure(Way::Up)),
            reapply: None,
            down_ms: None,
            incomplete_since: Some("before".to_owned()),
            ..facts("up")
        },
    ];
    all.into_iter().map(Facts::judge).collect()
}

fn trip(migrations: Vec<Migration>) -> RoundTrip {
    RoundTrip {
        schema: SCHEMA.to_owned(),
        server_version: "15.14".to_owned(),
        folder: "m".to_owned(),
        layout: "golang-migrate".to_owned(),
        layout_reason: "its files are pairs of .up.sql and .down.sql".to_owned(),
        rows: Some(20),
        seed: 1,
        required: Requirement::defaults(),
        migrations,
        notes: vec![Note { file: "m/7_x.go".to_owned(), line: None, text: "is code; left out".to_owned() }],
        unfilled: BTreeMap::from([("public.u".to_owned(), "no value meets its check".to_owned())]),
    }
}

#[test]
fn every_verdict_follows_from_its_facts() {
    let verdicts: Vec<Verdict> = every().iter().map(|migration| migration.verdict).collect();
    let table: Vec<Verdict> = VERDICTS.iter().map(|record| record.verdict).collect();
    assert_eq!(verdicts, table);
}

#[test]
fn a_schema_that_did_not_come_back_outweighs_lost_rows_and_both_are_required() {
    let drift = &every()[2];
    assert_eq!(drift.verdict, Verdict::Drift);
    assert_eq!(drift.classes, ["index"]);
    assert_eq!(drift.unmet(&Requirement::defaults()), [Requirement::Drift, Requirement::DataLost]);
    assert_eq!(drift.unmet(&[Requirement::NoDown]), []);
}

#[test]
fn what_is_required_is_what_fails() {
    let trip = trip(every());
    let failed: Vec<&str> = trip.failed().map(|(migration, _)| migration.id.as_str()).collect();
    assert_eq!(failed, ["drift", "lost", "down", "up"]);
    let again =
        Facts { reapply: Some(Reapply::Failed), failure: Some(failure(Way::Reapply)), ..facts("again") };
    let again = again.judge();
    assert_eq!(again.verdict, Verdict::Exact);
    assert_eq!(again.unmet(&Requirement::defaults()), [Requirement::ReapplyFailed]);
}

#[test]
fn the_place_is_where_somebody_should_look_first() {
    let places: Vec<String> = every().iter().map(|migration| migration.place.to_string()).collect();
    assert_eq!(places[0], "m/exact.down.sql:2");
    assert_eq!(places[2], "m/drift.up.sql:4");
    assert_eq!(places[4], "m/x.down.sql:7");
    assert_eq!(places[6], "m/none.up.sql:1");
}

#[test]
fn names_are_those_of_the_json_form() {
    for record in VERDICTS {
        assert_eq!(serde_json::to_value(record.verdict).unwrap(), record.name);
        assert_eq!(record.verdict.name(), record.name);
    }
    for record in REQUIREMENTS {
        assert_eq!(serde_json::to_value(record.requirement).unwrap(), record.name);
        assert_eq!(Requirement::named(record.name), Some(record.requirement));
    }
}

#[test]
fn text() {
    insta::assert_snapshot!(trip(every()).text());
}

#[test]
fn nothing_that_was_run_reads_as_nothing() {
    assert!(trip(Vec::new()).text().contains("0 migrations: nothing was run"));
}

#[test]
fn json() {
    let text = serde_json::to_string_pretty(&trip(every())).unwrap();
    insta::assert_snapshot!(text);
}

/// Set this variable to write the schema anew after a change of the types.
const REGENERATE: &str = "FULLDRESS_REGENERATE";

#[test]
fn the_schema_in_the_repository_is_the_one_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/roundtrip-1.json");
    let schema = serde_json::to_string_pretty(&schemars::schema_for!(RoundTrip)).unwrap() + "\n";
    if std::env::var_os(REGENERATE).is_some() {
        std::fs::write(path, &schema).unwrap();
    }
    let stored = std::fs::read_to_string(path).unwrap();
    assert!(stored == schema, "schema/roundtrip-1.json is stale: run the tests with {REGENERATE}=1");
}

#[test]
fn sarif_and_junit() {
    let trip = trip(every());
    let sarif = crate::render::sarif::round_trip(&trip, "0.1.0").unwrap();
    insta::assert_snapshot!("sarif", String::from_utf8(sarif).unwrap());
    let junit = crate::render::junit::round_trip(&trip).unwrap();
    insta::with_settings!({ filters => vec![("uuid=\"[^\"]*\"", "uuid")] }, {
        insta::assert_snapshot!("junit", junit);
    });
}
