//! Sources of the recorder that are refused, rotate, are cut or die: each is said in a sentence, what was seen until then
//! stays, and no check passes on it.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "support/server.rs"]
mod server;

use std::path::Path;

use fulldress::mirror::PACKAGE_ROLE;
use fulldress::recorder::log::LogPlace;
use fulldress::recorder::{Recorder, Recording};
use fulldress_reports::check::{CheckId, Outcome};
use fulldress_reports::evidence::Evidence;
use fulldress_reports::judge::judge;
use fulldress_reports::lock::LockMode;
use fulldress_reports::phase::{Phase, PhaseSpan};
use server::{APPLICATION, PASSWORD, Server, connect, execute, on_each_version, until};

/// Checks that rest on the recorder, itself included.
const ON_RECORDER: [CheckId; 5] = [
    CheckId::EvidRecorder,
    CheckId::LockHold,
    CheckId::LockWait,
    CheckId::LockMigration,
    CheckId::LockTimeout,
];

const GUARDED: &str =
    "SELECT pg_advisory_lock(1); SET lock_timeout = '5s'; ALTER TABLE orders ADD COLUMN one int";
const SLOW: &str = "BEGIN; SET LOCAL lock_timeout = '5s'; ALTER TABLE orders ADD COLUMN two int; SELECT pg_sleep(0.3); COMMIT";

async fn change(server: &Server, sql: &'static str) {
    server.beside(PACKAGE_ROLE, sql).await.await.unwrap().unwrap();
}

fn outcomes(recording: &Recording, checks: &[CheckId]) -> Vec<(CheckId, Outcome, String)> {
    let span = |phase, start_us, end_us| PhaseSpan { phase, start_us, end_us: Some(end_us) };
    let evidence = Evidence {
        phases: vec![span(Phase::Upgrade, 0, u64::MAX - 1), span(Phase::Rollback, u64::MAX - 1, u64::MAX)],
        locks: Some(recording.evidence.clone()),
        ..Evidence::default()
    };
    let judged = judge(&evidence, "2026-01-01").checks.into_iter();
    judged.filter(|one| checks.contains(&one.id)).map(|one| (one.id, one.outcome, one.evidence)).collect()
}

#[track_caller]
fn assert_no_pass(recording: &Recording, checks: &[CheckId]) {
    let outcomes = outcomes(recording, checks);
    assert_eq!(outcomes.len(), checks.len());
    let passed = outcomes.iter().find(|(_, outcome, _)| *outcome == Outcome::Pass);
    assert!(passed.is_none(), "{passed:?} {:#?}", recording.evidence.trust);
}

#[track_caller]
fn assert_told(recording: &Recording, sentences: &[&str]) {
    let told = &recording.evidence.trust.disagreements;
    for sentence in sentences {
        assert!(told.iter().any(|one| one.contains(sentence)), "`{sentence}` is not in {told:#?}");
    }
}

/// Columns that were added under the recorder's eyes: each is one record.
fn seen(recording: &Recording) -> Vec<&str> {
    let of_orders =
        recording.evidence.records.iter().filter(|record| {
            record.relation == "public.orders" && record.mode == LockMode::AccessExclusiveLock
        });
    let mut columns: Vec<&str> = of_orders
        .filter_map(|record| record.statement.split("ADD COLUMN ").nth(1)?.split(' ').next())
        .collect();
    columns.sort_unstable();
    columns
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_no_superuser_records_what_it_may_and_nothing_passes() {
    on_each_version(no_superuser).await;
}

async fn no_superuser(postgres: &Path) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    execute(&mut admin, &format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")).await;
    let mut config = server.config();
    config.server = server.options("guest");
    config.log = Some(LogPlace::Server);
    let refused = ["the event triggers could not be installed", "read the server log through SQL"];
    let blind = "the recorder's role may not see what other sessions do: it needs pg_read_all_stats";

    let recorder = server.recorder(config.clone()).await;
    change(&server, GUARDED).await;
    let recording = server.finish(recorder).await;
    assert_told(&recording, &refused);
    assert_told(&recording, &[blind]);
    assert_no_pass(&recording, &ON_RECORDER);

    // As managed databases grant it.
    execute(&mut admin, "GRANT pg_monitor TO guest").await;
    let recorder = server.recorder(config).await;
    change(&server, SLOW).await;
    let recording = server.finish(recorder).await;
    assert_told(&recording, &refused);
    let trust = &recording.evidence.trust;
    assert!(!trust.triggers && !trust.server_log && trust.samples_taken > 0, "{trust:#?}");
    assert!(!trust.disagreements.iter().any(|one| one == blind), "{trust:#?}");
    let sampled = recording.evidence.records.iter().find(|one| one.mode == LockMode::AccessExclusiveLock);
    assert!(sampled.is_some_and(|one| one.hold.low_us > 100_000), "{:#?}", recording.evidence.records);
    assert_no_pass(&recording, &ON_RECORDER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rotates_is_read_on() {
    on_each_version(rotated).await;
}

async fn rotated(postgres: &Path) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    let recorder = server.recorder(server.config()).await;
    change(&server, GUARDED).await;
    // The name has a resolution of a second.
    let rotated = "SELECT pg_rotate_logfile() AND \
               (SELECT count(*) > 1 FROM pg_ls_logdir() WHERE name LIKE '%.json')";
    until(&mut admin, rotated).await;
    change(&server, SLOW).await;
    let recording = server.finish(recorder).await;
    assert_eq!(seen(&recording), ["one", "two"], "{:#?}", recording.evidence.records);
    let trust = &recording.evidence.trust;
    assert!(trust.server_log && trust.triggers && trust.disagreements.is_empty(), "{trust:#?}");
    assert_eq!((trust.ddl_statements, trust.ddl_seen_twice), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorder_whose_connections_are_cut_goes_on_and_says_so() {
    on_each_version(cut).await;
}

async fn cut(postgres: &Path) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    let mut recorder = server.recorder(server.config()).await;
    change(&server, GUARDED).await;
    let ours = "FROM pg_stat_activity WHERE application_name = 'fulldress-recorder'";
    let since: String =
        sqlx::query_scalar("SELECT clock_timestamp()::text").fetch_one(&mut admin).await.unwrap();
    execute(&mut admin, &format!("SELECT pg_terminate_backend(pid) {ours}")).await;
    until(&mut admin, &format!("SELECT EXISTS (SELECT {ours} AND backend_start > '{since}')")).await;
    let left = recorder.leftovers(Phase::Upgrade).await.unwrap();
    assert!(left.iter().all(|one| one.kind == "setting"), "{left:?}");
    change(&server, SLOW).await;
    let recording = server.finish(recorder).await;
    assert_eq!(seen(&recording), ["one", "two"], "{:#?}", recording.evidence.records);
    assert_told(&recording, &["the sampler lost the server"]);
    assert_no_pass(&recording, &ON_RECORDER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_crashes_and_comes_back_is_survived_and_nothing_passes() {
    on_each_version(crashed).await;
}

async fn crashed(postgres: &Path) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    let recorder = server.recorder(server.config()).await;
    change(&server, GUARDED).await;
    let open = server
        .beside(PACKAGE_ROLE, "BEGIN; ALTER TABLE orders ADD COLUMN lost int; SELECT pg_sleep(60)")
        .await;
    until(&mut admin, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%lost%' AND state = 'active' AND wait_event = 'PgSleep')").await;
    // The postmaster ends every session when one of them dies so, and recovers.
    let killed = sqlx::raw_sql("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'").execute(&mut admin).await;
    assert!(killed.is_err());
    assert!(open.await.unwrap().is_err());
    let mut admin = connect(&server.cluster.options("postgres")).await;
    until(&mut admin, "SELECT NOT pg_is_in_recovery()").await;
    change(&server, SLOW).await;
    let recording = server.finish(recorder).await;
    let seen = seen(&recording);
    assert!(seen.contains(&"one") && seen.contains(&"two"), "{:#?}", recording.evidence.records);
    assert_told(&recording, &["the sampler lost the server"]);
    assert_no_pass(&recording, &ON_RECORDER);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_at_the_end_leaves_what_was_seen_and_no_pass() {
    on_each_version(gone).await;
}

async fn gone(postgres: &Path) {
    let mut server = Server::start(postgres).await;
    let mut recorder: Recorder = server.recorder(server.config()).await;
    change(&server, GUARDED).await;
    server.beside(APPLICATION, "SELECT count(*) FROM orders").await.await.unwrap().unwrap();
    server.cluster.stop().await;
    let error = recorder.leftovers(Phase::Rollback).await.unwrap_err().to_string();
    assert!(error.starts_with("connect again: "), "{error}");
    let recording = server.finish(recorder).await;
    assert_eq!(seen(&recording), ["one"], "{:#?}", recording.evidence.records);
    assert_told(&recording, &["connect again: "]);
    assert!(!recording.evidence.trust.server_log, "{:#?}", recording.evidence.trust);
    assert_no_pass(&recording, &ON_RECORDER);
    assert_no_pass(&recording, &[CheckId::LockResidue]);
    let [(_, _, sentence)] = &outcomes(&recording, &[CheckId::LockResidue])[..] else { panic!() };
    assert!(sentence.contains("what was left behind after phase rollback could not be read"), "{sentence}");
}
