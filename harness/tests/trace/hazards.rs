//! Every record of a hazard, run on real servers: its bad example shows it, its good one does not, and the reference says
//! what they did.

use std::path::Path;

use fulldress::lint::rules_that_speak;
use fulldress::trace::Request;
use fulldress_reports::hazard::{self, Executed, Hazard, Linted, Shown};
use fulldress_reports::trace::Script;

use super::sessions::{self, Play};
use super::versions::versions;
use super::{Stage, source};

#[test]
fn hazards_are_shown_by_their_bad_examples_and_not_by_the_good_ones() {
    // The reference is written from the version that the distribution has; the others agree on what they show.
    let mut reference = String::new();
    std::thread::scope(|scope| {
        // Mostly one process of the server works at a time: the versions stand beside each other.
        let running: Vec<_> = versions()
            .into_iter()
            .map(|(version, postgres)| (version, scope.spawn(move || execute(version, &postgres))))
            .collect();
        for (version, running) in running {
            let executed = running.join().unwrap();
            if version == 15 {
                let both: Vec<_> = executed.into_iter().zip(hazard::all().map(linted)).collect();
                reference = hazard::reference(&both);
            }
        }
    });
    if reference.is_empty() {
        println!("skipped: docs/hazards.md is written from PostgreSQL 15, which is not on this machine");
        return;
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/hazards.md");
    if std::env::var_os("FULLDRESS_REGENERATE").is_some() {
        std::fs::write(&path, &reference).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == reference, "docs/hazards.md differs from what the examples do: write it again");
}

/// What squawk says about the examples of a hazard.
fn linted(hazard: &Hazard) -> Vec<Linted> {
    let (bad, good) = (rules_that_speak(hazard.bad), rules_that_speak(hazard.good));
    let said = |rule: &&'static str| Linted { rule, bad: bad.contains(rule), good: good.contains(rule) };
    hazard.squawk.iter().map(said).collect()
}

/// The examples of all hazards on one version, in the order of the records.
fn execute(version: u32, postgres: &Path) -> Vec<Executed> {
    let stage = Stage::new();
    let traced = || hazard::all().filter(|hazard| hazard.shown == Shown::Trace);
    let examples = traced().flat_map(|hazard| {
        [
            source(&format!("{} bad", hazard.id), hazard.bad),
            source(&format!("{} good", hazard.id), hazard.good),
        ]
    });
    let trace = stage.request(Request {
        setups: vec![source("setup.sql", hazard::EXAMPLE_SETUP)],
        scripts: examples.collect(),
        independent: true,
        postgres: Some(postgres.to_path_buf()),
        ..Request::default()
    });
    let mut scripts = trace.scripts.into_iter();
    let mut played = sessions::play_all(&stage, postgres).into_iter();
    let mut wrong = Vec::new();
    let mut executed = Vec::new();
    for hazard in hazard::all() {
        executed.push(match hazard.shown {
            Shown::Trace => {
                let (bad, good) = (scripts.next().unwrap(), scripts.next().unwrap());
                wrong.extend(wrongly_traced(hazard, &bad, &good));
                Executed::Traced { bad, good }
            }
            Shown::Sessions(harm) => {
                let (bad, good) = (played.next().unwrap(), played.next().unwrap());
                if !bad.shows(harm) || good.shows(harm) {
                    wrong.push(format!("{}: bad {bad:#?}, good {good:#?}", hazard.id));
                }
                Executed::Played { bad: Play::shown(bad), good: Play::shown(good) }
            }
            Shown::Rehearsal => Executed::Told,
        });
    }
    assert!(wrong.is_empty(), "{version}: {}", wrong.join("\n"));
    executed
}

fn wrongly_traced(hazard: &Hazard, bad: &Script, good: &Script) -> Option<String> {
    let shows = |script: &Script| {
        script.statements.iter().any(|statement| statement.hazards.iter().any(|id| id == hazard.id))
    };
    let failed = good.statements.iter().any(|statement| statement.error.is_some());
    let wrong = !shows(bad) || shows(good) || failed;
    wrong.then(|| format!("{}: bad {:#?}, good {:#?}", hazard.id, bad.statements, good.statements))
}

#[test]
fn a_script_that_undoes_another_is_held_against_it() {
    let stage = Stage::new();
    let scripts = |connected: bool| {
        let up = source("up.sql", "CREATE INDEX CONCURRENTLY fresh ON orders (placed);");
        let down = source("down.sql", "DROP INDEX fresh;");
        let trace = stage.request(Request {
            setups: vec![source("setup.sql", hazard::EXAMPLE_SETUP)],
            scripts: vec![up, down],
            independent: !connected,
            ..Request::default()
        });
        trace.scripts[1].statements[0].hazards.iter().any(|id| id == "way-back-drops-index")
    };
    assert!(scripts(true));
    assert!(!scripts(false), "it ran without the other");
}

#[test]
fn statements_that_did_not_run_have_what_their_text_states() {
    let stage = Stage::new();
    let statements = stage.statements("SELECT 1 / 0;\n\nCREATE INDEX fresh\n  ON plain (a);\nSELECT 1;\n");
    assert_eq!(statements[0].hazards, ["fails"]);
    assert!(statements[1].hazards.iter().any(|id| id == "index-build-blocks-writes"), "{statements:#?}");
    assert_eq!(statements[2].hazards, [""; 0]);
}

#[test]
fn a_savepoint_that_is_rolled_back_leaves_no_exclusive_lock() {
    let stage = Stage::new();
    let statements = stage.statements(
        "BEGIN; SAVEPOINT a; ALTER TABLE plain ADD COLUMN x int; ROLLBACK TO a; UPDATE plain SET c = 1 WHERE a = 1; COMMIT;",
    );
    assert_eq!(statements[4].hazards, [""; 0]);
}
