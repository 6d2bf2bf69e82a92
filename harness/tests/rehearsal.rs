//! Whole rehearsals of the storefront, and everything that may cut one short: whatever happens, it says why,
//! exits with the right code, and leaves nothing running and nothing on disk beside its bundle.

#![expect(clippy::unwrap_used, reason = "the helpers of a test may fail it, as the test itself")]

#[path = "support/docker.rs"]
mod docker;
#[path = "support/engine_proxy.rs"]
mod engine_proxy;
#[path = "support/program.rs"]
mod program;
#[path = "support/stage.rs"]
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine_proxy::EngineProxy;
use fulldress_reports::check::{CheckId, Outcome};
use fulldress_reports::event::Happening;
use fulldress_reports::evidence::WriteFate;
use fulldress_reports::finding::Finding;
use fulldress_reports::lock::{LockMode, LockRecord, PackageSession, RouteWaits};
use fulldress_reports::phase::Phase;
use program::{Ended, fulldress, package, program, report};
use regex::Regex;
use rustix::process::{Pid, Signal, kill_process};
use stage::{Kind, PATIENCE, STOPPING, Stage, WHOLE, alone, await_some, shared};
use toml::Value;

/// One suite, both mirrors: a test in each for every name, which is a function that takes the stage. In containers they
/// are skipped where no engine answers, and those after `rarely` are played only when they are asked for.
macro_rules! on_both_mirrors {
    ($($name:ident)* ; rarely $($rare:ident)*) => {
        mod local {
            $(#[test] fn $name() { super::Stage::on(super::Kind::Local).into_iter().for_each(super::$name); })*
            $(#[test] fn $rare() { super::Stage::on(super::Kind::Local).into_iter().for_each(super::$rare); })*
        }
        mod containers {
            $(#[test] fn $name() { super::Stage::on(super::Kind::Containers).into_iter().for_each(super::$name); })*
            $(#[test]
            #[ignore = "ends as its neighbours do; `cargo test --test rehearsal -- --ignored` plays it"]
            fn $rare() { super::Stage::on(super::Kind::Containers).into_iter().for_each(super::$rare); })*
        }
    };
}

on_both_mirrors! {
    a_safe_upgrade_passes_with_exit_code_0
    an_unsafe_upgrade_fails_with_exit_code_1_and_no_secret_enters_its_bundle
    ctrl_c_while_the_database_is_filled
    ctrl_c_in_upgrade
    ctrl_c_in_rollback
    ctrl_c_while_the_second_runner_is_tried
    after_a_sigkill_all_children_die_and_doctor_clean_removes_the_rest
    the_next_rehearsal_cleans_up_after_a_sigkill_and_says_so
    a_postgresql_that_dies_during_the_upgrade_is_exit_code_5
    a_dataset_command_that_fails_is_told_with_its_last_words
    ; rarely
    both_ways_back_stand_beside_each_other
    ctrl_c_in_warmup
    ctrl_c_in_baseline
    a_polite_kill_in_soak_ends_as_ctrl_c_does
    ctrl_c_in_recovery
    a_rehearsal_that_lasts_too_long_is_stopped_and_its_evidence_kept
}

fn a_safe_upgrade_passes_with_exit_code_0(mut stage: Stage) {
    let _machine = alone();
    stage.arguments = vec!["--format", "json"];
    stage.ways_back(["down", "restore"]);
    // With fewer rows to migrate, the first of two runners may have ended before the second begins, and neither would ever
    // meet the other's lock.
    stage.orders(40_000);
    // Long enough that the restarts of the application are no large part of them.
    stage.table("phases").extend(["upgrade_min_s", "rollback_min_s"].map(|name| (name.to_owned(), 5.into())));
    let ended = stage.start("safe").finish(WHOLE).expect_code(0);
    stage.assert_clean();
    let printed: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let report = stage.report();
    assert_eq!(printed, serde_json::to_value(&report).unwrap());
    assert_eq!(report.verdict.outcome, Outcome::Pass);
    assert!(report.evidence.interrupted.is_none());
    // The quick profile takes one of two ways, and says so.
    assert_eq!(report.evidence.other_way, None);
    let left_out = "the way back by restore (the nightly profile takes it)";
    let not_rehearsed = &report.evidence.reach.as_ref().unwrap().not_rehearsed;
    assert!(not_rehearsed.iter().any(|one| one == left_out), "{not_rehearsed:?}");
    renders_again_byte_for_byte(&stage.bundle());
    compares_with_itself(&stage.bundle());
}

fn both_ways_back_stand_beside_each_other(mut stage: Stage) {
    let _machine = shared();
    let mut turned = Stage::on(stage.kind).unwrap();
    stage.ways_back(["restore", "down"]);
    turned.ways_back(["down", "restore"]);
    for stage in [&mut stage, &mut turned] {
        stage.forgive_timing();
        stage.plan.insert("profile".to_owned(), "nightly".into());
        // Two whole ones beside each other.
        stage.table("phases").insert("rehearsal_max_s".to_owned(), 300.into());
    }
    let (first, second) = (stage.start("safe"), turned.start("safe"));
    let title = "both ways back from the same upgraded state";
    first.finish(WHOLE).expect_said(title);
    second.finish(WHOLE).expect_said(title);
    for stage in [&stage, &turned] {
        stage.assert_clean();
    }
    // Whichever is taken under traffic, the restore loses what was acknowledged since its snapshot, and the steps nothing.
    for (stage, restored_first) in [(&stage, true), (&turned, false)] {
        let evidence = stage.report().evidence;
        assert!(evidence.interrupted.is_none(), "{:?}", evidence.interrupted);
        let other = evidence.other_way.unwrap();
        assert_eq!(other.not_taken, None);
        let first = (evidence.rollback.unwrap(), evidence.ledger.unwrap(), evidence.schema.unwrap());
        let second = (other.rollback, other.ledger, other.schema);
        let (restored, stepped) = if restored_first { (first, second) } else { (second, first) };
        for (rollback, ledger, schema) in [&restored, &stepped] {
            assert_eq!((&rollback.stuck, &schema.drift), (&vec![], &vec![]), "{}", rollback.method);
            // Services are replaced on both ways, and a restore takes longer than nothing.
            assert!(
                rollback.unavailable_us.unwrap() <= rollback.took_us.unwrap() + 3_000_000,
                "{rollback:?}"
            );
            assert_eq!(ledger.total(WriteFate::Unread), 0, "{:?}", ledger.phases);
            assert!(ledger.total(WriteFate::Kept) > 0, "{:?}", ledger.phases);
        }
        assert_eq!((restored.0.method.as_str(), stepped.0.method.as_str()), ("restore", "down"));
        assert!(restored.0.restore_us.unwrap() > 0 && restored.0.snapshot_bytes.unwrap() > 0);
        assert!(restored.0.unavailable_us.unwrap() > 0, "{:?}", restored.0);
        let lost: Vec<(Phase, u64)> = [&restored, &stepped]
            .iter()
            .flat_map(|way| &way.1.phases)
            .filter_map(|one| Some((one.phase, *one.fates.get(&WriteFate::Lost)?)))
            .collect();
        let total: u64 = lost.iter().map(|(_, number)| number).sum();
        assert_eq!(total, restored.1.total(WriteFate::Lost), "{lost:?}");
        assert!(lost.iter().any(|(phase, _)| *phase == Phase::Soak), "{lost:?}");
        assert!(lost.iter().all(|(phase, _)| *phase > Phase::Baseline), "{lost:?}");
        let word = if restored_first { "down" } else { "restore" };
        for file in [format!("ledger-{word}.jsonl"), format!("schema/rolled-back-{word}.sql")] {
            assert!(stage.bundle().join(&file).is_file(), "{file}");
        }
    }
}

fn renders_again_byte_for_byte(bundle: &Path) {
    let before = files(bundle);
    let ended: Ended = fulldress().arg("report").arg(bundle).output().unwrap().into();
    ended.expect_code(0).expect_said(&report(bundle).verdict.sentence);
    assert_eq!(files(bundle), before);
}

fn compares_with_itself(bundle: &Path) {
    let compare = |format: &str| -> Ended {
        fulldress().arg("compare").args([bundle, bundle]).args(["--format", format]).output().unwrap().into()
    };
    compare("text").expect_code(0).expect_said("verdict PASS PASS");
    let compared = compare("json").expect_code(0);
    serde_json::from_str::<serde_json::Value>(&compared.stdout).unwrap();
}

/// Every file below a folder, by path.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

fn an_unsafe_upgrade_fails_with_exit_code_1_and_no_secret_enters_its_bundle(stage: Stage) {
    let _machine = alone();
    stage.start("unsafe").finish(WHOLE).expect_code(1).expect_said("report.html");
    stage.assert_clean();
    let report = stage.report();
    assert_eq!(report.verdict.outcome, Outcome::Fail);
    assert!(report.evidence.interrupted.is_none());
    // However full the application's pool was, what waited is known by the route that made it.
    let locks = report.evidence.locks.as_ref().unwrap();
    let waits: Vec<&RouteWaits> = locks.records.iter().flat_map(|record| &record.routes).collect();
    let known: u64 = waits.iter().filter(|of| of.route.is_some()).map(|of| of.waits).sum();
    let all: u64 = waits.iter().map(|of| of.waits).sum();
    assert!(known > 0 && known * 10 >= all * 6, "{known} of {all}: {waits:?}");
    let revealing = [
        // The plan's passwords; the first also stands in a script of the package.
        "sf-app-2019",
        "sf-fulfilment-2019",
        r"PGPASSWORD=[\w-]",
        r"postgres(ql)?://[^:/\s]+:[^@\s*•…]+@",
        r"(?i)password '[\w-]",
    ];
    let revealing = revealing.map(|pattern| Regex::new(pattern).unwrap());
    let told: Vec<String> = files(&stage.bundle())
        .iter()
        .flat_map(|(path, bytes)| {
            let text = String::from_utf8_lossy(bytes).into_owned();
            let lines: Vec<String> = text
                .lines()
                .filter_map(|line| Some((line, revealing.iter().find_map(|pattern| pattern.find(line))?)))
                .map(|(line, found)| format!("{}: {}", path.display(), around(line, found.start())))
                .collect();
            lines
        })
        .collect();
    assert_eq!(told, Vec::<String>::new());
}

/// What stands about a place in a line.
fn around(line: &str, place: usize) -> String {
    let skipped = line[..place].chars().count().saturating_sub(60);
    line.chars().skip(skipped).take(140).collect()
}

/// Sends a signal once the events hold a text; everything must be stopped and the bundle be written.
#[track_caller]
fn signalled(stage: &mut Stage, event: &str, signal: Signal) {
    stage.forgive_timing();
    let mut rehearsal = stage.start("safe");
    rehearsal.await_event(event);
    assert!(!stage.running().is_empty(), "nothing runs, so nothing can be left running");
    rehearsal.signal(signal);
    let ended = rehearsal.finish(STOPPING);
    stage.assert_clean();
    let reason = stage.reason();
    assert!(reason.contains("interrupted"), "{reason}");
    ended.expect_code(3).expect_said("interrupted");
}

#[track_caller]
fn ctrl_c_at(mut stage: Stage, event: &str) {
    let _machine = shared();
    signalled(&mut stage, event, Signal::INT);
}

fn phase(name: &str) -> String {
    format!(r#""event":"phase-started","data":"{name}""#)
}

fn ctrl_c_while_the_database_is_filled(mut stage: Stage) {
    let _machine = shared();
    // So many that the filling is still going on.
    stage.orders(400_000);
    signalled(&mut stage, "filling database", Signal::INT);
}

fn ctrl_c_in_warmup(stage: Stage) {
    ctrl_c_at(stage, &phase("warmup"));
}

fn ctrl_c_in_baseline(stage: Stage) {
    ctrl_c_at(stage, &phase("baseline"));
}

fn ctrl_c_in_upgrade(stage: Stage) {
    ctrl_c_at(stage, r#""id":"030-backfill-channel""#);
}

fn a_polite_kill_in_soak_ends_as_ctrl_c_does(mut stage: Stage) {
    let _machine = shared();
    signalled(&mut stage, &phase("soak"), Signal::TERM);
}

fn ctrl_c_in_rollback(stage: Stage) {
    ctrl_c_at(stage, &phase("rollback"));
}

fn ctrl_c_in_recovery(stage: Stage) {
    ctrl_c_at(stage, &phase("recovery"));
}

fn ctrl_c_while_the_second_runner_is_tried(stage: Stage) {
    ctrl_c_at(stage, "applying the upgrade a second time");
}

fn after_a_sigkill_all_children_die_and_doctor_clean_removes_the_rest(stage: Stage) {
    let _machine = shared();
    let mut rehearsal = stage.start("unsafe");
    // In the middle of a sandboxed script that holds a table.
    rehearsal.await_event(r#""id":"020-migrate""#);
    rehearsal.signal(Signal::KILL);
    assert_eq!(rehearsal.finish(STOPPING).code, None);
    await_some("the death of all children", STOPPING, || stage.processes().is_empty().then_some(()));
    assert_eq!(stage.run_folders().len(), 1);
    let ended: Ended =
        fulldress().args(["doctor", "--clean"]).env("FULLDRESS_STATE", &stage.state).output().unwrap().into();
    ended.expect_said("which a killed run left behind");
    stage.assert_clean();
}

fn the_next_rehearsal_cleans_up_after_a_sigkill_and_says_so(mut stage: Stage) {
    let _machine = shared();
    let mut killed = stage.start("safe");
    killed.await_event("filling database");
    killed.signal(Signal::KILL);
    killed.finish(STOPPING);
    std::fs::remove_dir_all(stage.bundle()).unwrap();
    signalled(&mut stage, "filling database", Signal::INT);
    let notices = stage.report().evidence.notices;
    assert!(notices.iter().any(|notice| notice.contains("which a killed run left behind")), "{notices:?}");
}

/// Plays until the mirror or the machine fails; gives the one sentence that says why.
#[track_caller]
fn fails(stage: &Stage) -> String {
    let ended = stage.start("safe").finish(WHOLE);
    failed(stage, ended)
}

#[track_caller]
fn failed(stage: &Stage, ended: Ended) -> String {
    stage.assert_clean();
    let reason = stage.reason();
    assert!(!reason.contains('\n'), "{reason}");
    ended.expect_code(5).expect_said(&reason);
    eprintln!("{reason}");
    reason
}

#[track_caller]
fn assert_says(reason: &str, parts: &[&str]) {
    for part in parts {
        assert!(reason.contains(part), "`{part}` is missing: {reason}");
    }
}

fn a_postgresql_that_dies_during_the_upgrade_is_exit_code_5(stage: Stage) {
    let _machine = shared();
    let mut rehearsal = stage.start("unsafe");
    rehearsal.await_event(r#""id":"020-migrate""#);
    let last_words = match stage.kind {
        Kind::Local => {
            let file = stage.run_folder().unwrap().join("cluster/data/postmaster.pid");
            let text = std::fs::read_to_string(file).unwrap();
            let postmaster = text.lines().next().unwrap().parse().ok().and_then(Pid::from_raw).unwrap();
            kill_process(postmaster, Signal::KILL).unwrap();
            "signal: 9"
        }
        Kind::Containers => {
            let ours = docker::labelled(&stage.state);
            let database = ours.iter().find(|line| line.contains("-database-1 ")).unwrap();
            docker::lines(&["kill", database.split_whitespace().nth(1).unwrap()]);
            "exit code 137"
        }
    };
    let ended = rehearsal.finish(STOPPING);
    let reason = failed(&stage, ended);
    assert_says(&reason, &["PostgreSQL died by itself", last_words]);
    assert!(!reason.contains("HINT"), "{reason}");
}

/// PostgreSQL restarts by itself when one of its sessions is killed: the rehearsal goes on, and says what it missed.
#[test]
fn a_postgresql_that_restarts_during_the_soak_lets_no_lock_check_pass() {
    let _machine = shared();
    let mut stage = Stage::new();
    stage.forgive_timing();
    // A recovering server writes every file to disk first, which is not what is tried here.
    stage.table("mirror.database.settings").insert("fsync".to_owned(), "off".into());
    let mut rehearsal = stage.start("safe");
    rehearsal.await_event(&phase("soak"));
    let session = await_some("a session of the shop", PATIENCE, || {
        let all = stage.processes();
        let line =
            all.iter().find(|line| line.contains("postgres: ") && line.contains(" storefront storefront "));
        line?.split_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
    });
    kill_process(session, Signal::KILL).unwrap();
    let ended = rehearsal.finish(WHOLE);
    stage.assert_clean();
    let report = stage.report();
    assert!(report.evidence.interrupted.is_none(), "{:?} {}", report.evidence.interrupted, ended.stderr);
    let on_recorder = ["EVID-RECORDER", "LOCK-HOLD", "LOCK-WAIT", "LOCK-MIGRATION", "LOCK-TIMEOUT"];
    for check in report.checks.iter().filter(|check| on_recorder.contains(&check.id.to_string().as_str())) {
        assert_ne!(check.outcome, Outcome::Pass, "{}: {}", check.id, check.evidence);
    }
    assert_ne!(ended.code, Some(0), "{}", ended.stdout);
    let told = &report.evidence.locks.as_ref().unwrap().trust.disagreements;
    assert!(told.iter().any(|one| one.contains("the sampler lost the server")), "{told:?}");
}

/// A copy of a package with one more line at the end of a script.
fn with_line(stage: &Stage, kind: &str, script: &str, line: &str) -> PathBuf {
    let copy = stage.path().join("package");
    for (path, bytes) in files(&package(kind)) {
        let target = copy.join(path.strip_prefix(package(kind)).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes).unwrap();
    }
    let script = copy.join(script);
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(script, format!("{text}\n{line}\n")).unwrap();
    copy
}

/// A migration with one of each: a held rewrite-free lock, a scan under it, an index without and with CONCURRENTLY.
const MIGRATION: &str = "\\set ON_ERROR_STOP on
BEGIN;
ALTER TABLE orders ADD COLUMN note text;
UPDATE customers SET email = email WHERE id < 10;
SELECT pg_sleep(1.3);
COMMIT;
CREATE INDEX orders_note ON orders (note);
CREATE INDEX CONCURRENTLY orders_note_too ON orders (note);
";

/// A package of the migration alone, as a manifest's step.
fn migration(stage: &Stage, name: &str, step: &str, files: &[(&str, &str)]) -> PathBuf {
    let folder = stage.path().join(name);
    let manifest = format!(
        "schema = \"fulldress/package/1\"\nname = \"storefront\"\nfrom = \"2.3\"\nto = \"2.4\"\nvia = []\n\n\
         [rollback]\nmethod = \"restore\"\n\n[[step]]\nid = \"010-note\"\n{step}\ntimeout_s = 60\non_failure = \"rollback\"\n"
    );
    for (path, text) in files.iter().chain(&[("manifest.toml", manifest.as_str())]) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

#[test]
fn psql_in_a_script_gives_the_lock_findings_of_the_same_sql_in_a_step() {
    let _machine = alone();
    let found = |step: &str, files: &[(&str, &str)]| {
        let stage = Stage::new();
        let package = migration(&stage, "package", step, files);
        stage.start_package(&package).finish(WHOLE).expect_code(1);
        let report = stage.report();
        assert!(report.evidence.interrupted.is_none());
        let locks = report.findings.iter().filter(|finding| finding.check.name().starts_with("LOCK-"));
        let known = |finding: &Finding| {
            (finding.check, finding.object.clone(), finding.place.clone(), finding.remedy.clone())
        };
        let evidence = report.evidence.locks.unwrap();
        let of_upgrade =
            |session: &&PackageSession| session.phase == Phase::Upgrade && session.schema_changes > 0;
        let session = |session: &PackageSession| PackageSession { pid: 0, ..session.clone() };
        let sessions: Vec<_> = evidence.sessions.iter().filter(of_upgrade).map(session).collect();
        // An index that CONCURRENTLY makes is locked for an instant, which a sample meets by chance; nobody else knows it yet.
        let records = evidence.records.into_iter().filter(|record| {
            record.phase == Phase::Upgrade
                && record.mode >= LockMode::ShareUpdateExclusiveLock
                && record.relation == "public.orders"
        });
        let records: Vec<LockRecord> = records.collect();
        // The migration says itself how long it holds the table: the sleep, and what goes on around it.
        let held = records.iter().find(|record| record.mode == LockMode::AccessExclusiveLock).unwrap();
        assert!(held.hold.low_us >= 1_250_000 && held.hold.high_us < 3_000_000, "{held:#?}");
        assert!(held.hold.high_us - held.hold.low_us < 250_000, "{held:#?}");
        assert!(held.victims_total > 0 && held.queue_area_us > 0, "{held:#?}");
        let record = |record: LockRecord| {
            let LockRecord { statement, relation, mode, place, outcome, step, .. } = record;
            (
                relation,
                mode,
                statement,
                place,
                format!("{outcome:?}"),
                step,
                record.rewritten,
                record.lock_timeout_ms,
            )
        };
        let records: BTreeSet<_> = records.into_iter().map(record).collect();
        (locks.map(known).collect::<BTreeSet<_>>(), records, sessions)
    };
    let sql = ("sql/010-note.sql", MIGRATION);
    let script = ("scripts/010-note.sh", "#!/bin/sh\nexec psql -X -q -f sql/010-note.sql\n");
    let in_step = found("kind = \"sql\"\nfile = \"sql/010-note.sql\"", &[sql]);
    let in_script = found("kind = \"script\"\nfile = \"scripts/010-note.sh\"", &[sql, script]);
    assert_eq!(in_step, in_script);
    assert!(!in_step.2.is_empty() && in_step.1.len() >= 3, "{in_step:#?}");
    let checks: BTreeSet<CheckId> = in_step.0.iter().map(|(check, ..)| *check).collect();
    for check in [CheckId::LockHold, CheckId::LockMigration, CheckId::LockTimeout] {
        assert!(checks.contains(&check), "{check:?} {checks:?}");
    }
}

#[test]
fn what_a_script_in_containers_calls_outside_is_refused_and_found() {
    let _machine = shared();
    let Some(mut stage) = Stage::on(Kind::Containers) else { return };
    stage.forgive_timing();
    // Put together as it runs, so that nobody who reads the script can know it.
    let line = "zero=$(wc -c </dev/null)\ngetent hosts \"home${zero}.vendor.example\" || :\n\
                (exec 3<>\"/dev/tcp/192.${zero}.2.44/8443\") || :\n(echo x >\"/dev/udp/192.${zero}.2.45/514\") || :";
    let package = with_line(&stage, "safe", "scripts/050-webhook.up.sh", line);
    stage.start_package(&package).finish(WHOLE).expect_code(1);
    stage.assert_clean();
    let report = stage.report();
    let endpoint = report.findings.iter().filter(|finding| finding.check == CheckId::PreEndpoint);
    let mut found: Vec<&str> = endpoint.map(|finding| finding.object.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["home0.vendor.example", "tcp 192.0.2.44:8443", "udp 192.0.2.45:514"]);
}

/// The repository's compose file, changed, as the stage's own.
fn change_compose(stage: &mut Stage, change: impl FnOnce(String) -> String) {
    let text = std::fs::read_to_string(program::repository().join("docker-compose.yml")).unwrap();
    let fixtures = program::repository().join("fixtures");
    let text = change(text.replace("./fixtures", &fixtures.display().to_string()));
    let file = stage.path().join("compose.yaml");
    std::fs::write(&file, text).unwrap();
    stage.table("mirror").insert("compose".to_owned(), file.display().to_string().into());
}

#[test]
fn what_a_service_calls_outside_is_denied_and_found_when_it_began_with_the_upgrade() {
    let _machine = shared();
    let Some(mut stage) = Stage::on(Kind::Containers) else { return };
    stage.forgive_timing();
    // Another name and another address with each round.
    let script = "n=0; while :; do n=$$((n + 1)); getent hosts \"n$$n.chatty.example\"; \
                  (exec 3<>\"/dev/tcp/192.0.2.$$((n % 250 + 1))/443\"); sleep 0.3; done";
    // A port that somebody else has is none of the mirror's.
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let ports = [format!("127.0.0.1:{}:80", taken.local_addr().unwrap().port())];
    let service = serde_json::json!({
        "image": "fulldress/runner:1", "entrypoint": ["bash", "-c", script], "ports": ports
    });
    change_compose(&mut stage, |text| {
        text.replace("services:\n", &format!("services:\n  chatty: {service}\n"))
    });
    stage.start("safe").finish(WHOLE).expect_code(1);
    stage.assert_clean();
    let report = stage.report();
    let reach = report.evidence.reach.as_ref().unwrap();
    for kind in ["service chatty called n", "service chatty called tcp 192.0.2."] {
        assert!(reach.denied.iter().any(|habit| habit.starts_with(kind)), "{kind}: {reach:?}");
    }
    let endpoint = report.findings.iter().filter(|finding| finding.check == CheckId::PreEndpoint);
    let found: Vec<&Finding> = endpoint.collect();
    for kind in ["n", "tcp 192.0.2."] {
        assert!(found.iter().any(|finding| finding.object.starts_with(kind)), "{kind}: {found:?}");
    }
    for finding in found {
        assert!(finding.what.starts_with("Service chatty ") && finding.what.contains("since the upgrade"));
        // Of those that are only counted, both have some.
        let counted = finding.object == "further names and addresses";
        assert!(
            counted || !reach.denied.iter().any(|habit| habit.ends_with(&format!(" {}", finding.object)))
        );
    }
}

/// A rehearsal in containers whose engine can be taken away.
fn with_engine(play: impl FnOnce(Stage, &EngineProxy)) {
    let _machine = shared();
    on_engine(play);
}

/// The same with no other rehearsal beside it: each begins by removing what any that has ended left at the engine.
fn with_engine_alone(play: impl FnOnce(Stage, &EngineProxy)) {
    let _machine = alone();
    on_engine(play);
}

fn on_engine(play: impl FnOnce(Stage, &EngineProxy)) {
    let Some(mut stage) = Stage::on(Kind::Containers) else { return };
    let engine = EngineProxy::at(stage.path().join("engine.sock"));
    stage.environment.push(("DOCKER_HOST", engine.host()));
    stage.forgive_timing();
    play(stage, &engine);
}

/// What an absent engine could not remove is there, and the doctor removes it once there is one again.
#[track_caller]
fn the_doctor_cleans_up(stage: &Stage) {
    assert_eq!(stage.processes(), Vec::<String>::new());
    assert!(!docker::labelled(&stage.state).is_empty(), "who removed them?");
    let doctor = fulldress().args(["doctor", "--clean"]).env("FULLDRESS_STATE", &stage.state).output();
    Ended::from(doctor.unwrap()).expect_said("removed the container");
    stage.assert_clean();
}

#[test]
fn an_engine_that_falls_silent_during_the_rollback_ends_it_soon() {
    with_engine_alone(|stage, engine| {
        let mut rehearsal = stage.start("unsafe");
        rehearsal.await_event(&phase("rollback"));
        engine.fall_silent();
        let ended = rehearsal.finish(STOPPING);
        let reason = stage.reason();
        assert_says(&reason, &["the container engine", "does not answer", "fulldress doctor --clean"]);
        ended.expect_code(5).expect_said(&reason);
        assert!(stage.report().evidence.traffic.is_some(), "what was measured until then is kept");
        engine.answer_again();
        the_doctor_cleans_up(&stage);
    });
}

#[test]
fn an_engine_that_is_silent_for_a_moment_ends_nothing() {
    with_engine(|mut stage, engine| {
        stage.table("phases")["baseline_s"] = 12.into();
        let mut rehearsal = stage.start("safe");
        rehearsal.await_event(&phase("baseline"));
        engine.fall_silent();
        // Longer than the pause between two of its looks, shorter than what counts as silent.
        std::thread::sleep(Duration::from_secs(5));
        engine.answer_again();
        rehearsal.await_event(&phase("soak"));
        rehearsal.signal(Signal::INT);
        let ended = rehearsal.finish(STOPPING);
        stage.assert_clean();
        assert_says(&stage.reason(), &["interrupted"]);
        ended.expect_code(3);
    });
}

#[test]
fn an_engine_that_dies_during_the_rollback_is_told() {
    with_engine_alone(|stage, engine| {
        let mut rehearsal = stage.start("unsafe");
        rehearsal.await_event(&phase("rollback"));
        std::fs::remove_file(engine.path()).unwrap();
        engine.die();
        let ended = rehearsal.finish(STOPPING);
        let reason = stage.reason();
        assert_says(&reason, &["the container engine"]);
        ended.expect_code(5).expect_said(&reason);
        assert!(stage.report().evidence.traffic.is_some(), "what was measured until then is kept");
        the_doctor_cleans_up(&stage);
    });
}

#[test]
fn an_engine_that_is_started_again_during_the_rollback_keeps_nothing() {
    with_engine(|stage, engine| {
        let mut rehearsal = stage.start("unsafe");
        rehearsal.await_event(&phase("rollback"));
        engine.die();
        rehearsal.await_event("waiting for the container engine to come back");
        engine.answer_again();
        let ended = rehearsal.finish(STOPPING);
        let reason = stage.reason();
        assert_says(&reason, &["the container engine"]);
        ended.expect_code(5).expect_said(&reason);
        stage.assert_clean();
    });
}

#[test]
fn a_taken_port_is_named_with_its_service() {
    let _machine = shared();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut stage = Stage::new();
    stage.service("storefront").insert("port".to_owned(), Value::from(i64::from(port)));
    assert_says(&fails(&stage), &["storefront", &port.to_string()]);
}

#[test]
fn a_service_that_never_becomes_healthy_is_named_with_its_last_words() {
    let _machine = shared();
    let mut stage = Stage::new();
    stage.table("mirror").insert("start_timeout_s".to_owned(), 5.into());
    let script = "echo the payroll cannot be reached >&2; exec sleep 1000";
    stage.service("fulfilment")["command"] = vec!["sh", "-c", script].into();
    assert_says(&fails(&stage), &["fulfilment", "not healthy within 5 s", "the payroll cannot be reached"]);
}

#[test]
fn a_service_that_ends_while_it_starts_is_named_with_its_last_words() {
    let _machine = shared();
    let mut stage = Stage::new();
    stage.service("partner")["command"] = vec!["partner", "--no-such-flag"].into();
    assert_says(&fails(&stage), &["partner", "ended while it started", "--no-such-flag"]);
}

#[test]
fn a_missing_program_is_named() {
    let _machine = shared();
    let mut stage = Stage::new();
    stage.service("partner")["command"] = vec!["no-such-program"].into();
    assert_says(&fails(&stage), &["partner", "no-such-program"]);
}

fn a_dataset_command_that_fails_is_told_with_its_last_words(mut stage: Stage) {
    let _machine = shared();
    let script = "echo the dump is torn >&2; exit 3";
    stage.table("mirror.dataset")["command"] = vec!["sh", "-c", script].into();
    assert_says(&fails(&stage), &["dataset command failed", "the dump is torn"]);
}

/// A small file system over a folder, gone with this value.
struct SmallDisk<'folder>(&'folder Path);

impl<'folder> SmallDisk<'folder> {
    fn mount(folder: &'folder Path, size: &str) -> Result<Self, String> {
        let options = format!("size={size},mode=0711");
        let output = program("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder).output();
        match output {
            Ok(output) if output.status.success() => Ok(Self(folder)),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Err(format!("mount: {error}")),
        }
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Lazily where a test failed and something still holds it: it must not stay in the tree.
        let lazy = if std::thread::panicking() { ["--lazy"].as_slice() } else { &[] };
        let status = program("umount").args(lazy).arg(self.0).status();
        let unmounted = status.is_ok_and(|status| status.success());
        assert!(unmounted || std::thread::panicking(), "{} is still mounted", self.0.display());
    }
}

#[track_caller]
fn disk_of(size: &str) {
    let _machine = shared();
    let stage = Stage::new();
    let disk = match SmallDisk::mount(&stage.state, size) {
        Ok(disk) => disk,
        Err(error) => {
            eprintln!("skipped: no small disk can be mounted here: {error}");
            return;
        }
    };
    assert_says(&fails(&stage), &["disk", "full"]);
    drop(disk);
}

#[test]
fn a_disk_that_initdb_fills_is_told() {
    disk_of("24m");
}

#[test]
fn a_disk_that_the_rehearsal_fills_is_told() {
    disk_of("110m");
}

#[test]
fn a_volume_that_the_rehearsal_fills_is_told() {
    with_engine(|mut stage, engine| {
        stage.orders(200_000);
        let rehearsal = stage.start("safe");
        let volume = await_some("the database's volume", PATIENCE, || {
            let ours = docker::labelled(&stage.state);
            let names = ours.iter().filter_map(|line| line.strip_prefix("volume ")?.split(' ').next());
            names.map(str::to_owned).find(|name| name.ends_with("_database"))
        });
        // Volumes come before everything else: nothing holds this one yet, and a small one takes its place.
        engine.fall_silent();
        let labels = docker::lines(&[
            "volume",
            "inspect",
            "--format",
            "{{range $name, $value := .Labels}}--label={{$name}}={{$value}}\n{{end}}",
            &volume,
        ]);
        docker::lines(&["volume", "rm", &volume]);
        let small = ["type=tmpfs", "device=tmpfs", "o=size=96m"].map(|option| format!("--opt={option}"));
        let made = labels.iter().filter(|label| !label.is_empty()).chain(&small).map(String::as_str);
        docker::lines(
            &["volume", "create"].into_iter().chain(made).chain([volume.as_str()]).collect::<Vec<_>>(),
        );
        engine.answer_again();
        let ended = rehearsal.finish(WHOLE);
        assert_says(&failed(&stage, ended), &["disk is full"]);
    });
}

fn a_rehearsal_that_lasts_too_long_is_stopped_and_its_evidence_kept(mut stage: Stage) {
    let _machine = shared();
    stage.forgive_timing();
    stage.table("phases")["baseline_s"] = 600.into();
    // Nobody knows how long this machine takes until its traffic flows: a limit that ended the run before is doubled.
    let limits = std::iter::successors(Some(8_i64), |limit_s| Some(limit_s * 2));
    for limit_s in limits.take_while(|limit_s| Duration::from_secs(limit_s.unsigned_abs()) < PATIENCE) {
        stage.table("phases")["rehearsal_max_s"] = limit_s.into();
        let ended = stage.start("safe").finish(WHOLE);
        stage.assert_clean();
        assert_says(&stage.reason(), &[&format!("did not end within {limit_s} s"), "rehearsal_max_s"]);
        ended.expect_code(3);
        let events = fulldress::events::read(&stage.bundle()).unwrap();
        if events.iter().any(|event| event.what == Happening::PhaseStarted(Phase::Baseline)) {
            assert!(stage.report().evidence.traffic.is_some(), "what was measured until then is kept");
            return;
        }
        std::fs::remove_dir_all(stage.bundle()).unwrap();
    }
    panic!("the baseline did not begin within {PATIENCE:?}");
}

/// The plan's own choice, on a machine that is made to lack something.
fn without(lack: (&'static str, &str)) -> Stage {
    let mut stage = Stage::new();
    stage.environment.push((lack.0, lack.1.to_owned()));
    stage.table("mirror").insert("kind".to_owned(), "auto".into());
    stage
}

/// Ends in warmup on the local mirror and says why it is no other.
#[track_caller]
fn becomes_local(mut stage: Stage, why: &[&str]) {
    let _machine = shared();
    signalled(&mut stage, &phase("warmup"), Signal::INT);
    let report = stage.report();
    assert_eq!(report.evidence.rehearsal.mirror, "local");
    let notices = &report.evidence.notices;
    let told = notices.iter().find(|notice| notice.contains("the mirror is local, not in containers"));
    assert_says(told.unwrap_or_else(|| panic!("{notices:?}")), why);
}

/// The same, where the plan leaves no choice.
#[track_caller]
fn fails_in_containers(mut stage: Stage, why: &[&str]) {
    let _machine = shared();
    stage.table("mirror").insert("kind".to_owned(), "compose".into());
    assert_says(&fails(&stage), why);
}

#[test]
fn no_engine_is_told_and_the_mirror_becomes_local() {
    let lack = ("DOCKER_HOST", "unix:///nowhere/docker.sock");
    becomes_local(without(lack), &["/nowhere/docker.sock"]);
    fails_in_containers(without(lack), &["/nowhere/docker.sock"]);
}

#[test]
fn a_missing_compose_plugin_is_told_and_the_mirror_becomes_local() {
    if docker::answer() && !docker::has_system_wide_compose() {
        let lack = ("DOCKER_CONFIG", "/nowhere");
        becomes_local(without(lack), &["Compose plugin is missing", "docker-compose-plugin"]);
        fails_in_containers(without(lack), &["Compose plugin is missing", "docker-compose-plugin"]);
    }
}

#[test]
fn an_image_that_cannot_be_had_is_told_and_the_mirror_becomes_local() {
    if docker::answer() {
        let lack = ("STOREFRONT_IMAGE", "fulldress/no-such-image:1");
        becomes_local(without(lack), &["fulldress/no-such-image:1", "make images"]);
        let unknown = ("POSTGRES_IMAGE", "localhost:1/postgres:99");
        fails_in_containers(without(unknown), &["localhost:1/postgres:99"]);
    }
}

#[test]
fn a_compose_file_that_cannot_be_used_is_told() {
    if docker::answer() {
        let mut stage = without(("NO_COLOR", "1"));
        let file = stage.path().join("compose.yaml");
        stage.table("mirror").insert("compose".to_owned(), file.display().to_string().into());
        let cases: [(&str, &[&str]); 5] = [
            ("services: [", &["Compose refuses", "compose.yaml"]),
            ("services:\n  web: { image: x, network: odd }\n", &["Compose refuses", "network"]),
            ("services:\n  web: { image: 'fulldress/runner:1' }\n", &["no service `database`"]),
            (
                "services:\n  database: { image: 'fulldress/runner:1', privileged: true }\n  partner: { image: 'fulldress/runner:1' }\n  storefront: { image: 'fulldress/storefront:2.3' }\n  fulfilment: { image: 'fulldress/runner:1' }\n",
                &["service database", "privileged"],
            ),
            (
                "services:\n  database: { image: 'fulldress/runner:1' }\n  partner: { image: 'fulldress/runner:1', runtime: no-such }\n  storefront: { image: 'fulldress/storefront:2.3' }\n  fulfilment: { image: 'fulldress/runner:1' }\n",
                &["service partner", "no-such", "lacks it", "mirror.compose"],
            ),
        ];
        for (text, why) in cases {
            std::fs::write(&file, text).unwrap();
            let _nothing_yet = std::fs::remove_dir_all(stage.bundle());
            stage.table("mirror").insert("kind".to_owned(), "compose".into());
            assert_says(&fails(&stage), why);
        }
    }
}

#[test]
fn a_container_that_never_becomes_healthy_is_named_with_its_last_lines() {
    let Some(mut stage) = Stage::on(Kind::Containers) else { return };
    let _machine = shared();
    stage.table("mirror").insert("start_timeout_s".to_owned(), 10.into());
    let command = "command: [\"--listen\", \"0.0.0.0:8080\", \"--poll-ms\", \"200\"";
    let ill =
        "entrypoint: [sh, -c, \"echo the payroll cannot be reached; exec sleep 1000\"]\n    command: [\"x\"";
    change_compose(&mut stage, |text| {
        assert!(text.contains(command), "fulfilment is started in another way now");
        text.replace(command, ill)
    });
    assert_says(&fails(&stage), &["fulfilment", "not healthy within 10 s", "the payroll cannot be reached"]);
}
