//! The plan's invariants on a real PostgreSQL: what holds, what breaks and when, what cannot be read, and that a reading is in
//! nobody's way.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::Mirror;
use fulldress::mirror::local::LocalMirror;
use fulldress::plan::{Holds, Invariant, Plan};
use fulldress::process::RunFolder;
use fulldress::proofs::invariants::{Readings, Sampler};
use fulldress_reports::evidence::InvariantEvidence;
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use sqlx::{AssertSqlSafe, PgConnection};

fn invariant(name: &str, sql: &str, holds: Holds) -> Invariant {
    Invariant { name: name.to_owned(), sql: sql.to_owned(), holds, timeout_ms: 2000 }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

/// Readings of all in a phase, with an answer or without.
fn read(evidence: &[InvariantEvidence], phase: Phase) -> u64 {
    let of = |one: &InvariantEvidence| {
        let mut of_phase = one.phases.iter().filter(|reading| reading.phase == phase);
        of_phase.next().map_or(0, |reading| reading.held + reading.broken + reading.missed)
    };
    evidence.iter().map(of).min().unwrap()
}

/// Waits until each invariant was read in a phase.
async fn await_reading(sampler: &Sampler, phase: Phase) {
    let reading = async {
        while read(&sampler.evidence(), phase) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap();
}

/// A server with the table orders, 500 rows of it.
async fn shop(state: &Path) -> LocalMirror {
    let run_folder = Arc::new(RunFolder::create_in(state).unwrap().0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/faults").canonicalize().unwrap();
    let mut plan = Plan::read(&folder.join("rehearsal.toml")).unwrap();
    plan.mirror.services.clear();
    let logs = state.join("logs");
    std::fs::create_dir(&logs).unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
    LocalMirror::start(program, Arc::new(plan), run_folder, "ground", &logs, |_| ()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_is_told_with_its_phase_and_what_cannot_be_read_with_its_reason() {
    let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let mirror = shop(state.path()).await;
    let mut shop = mirror.connect().await.unwrap();
    let all = [
        invariant(
            "states are known",
            "SELECT id FROM orders WHERE state NOT IN ('new', 'paid') -- all",
            Holds::NoRows,
        ),
        invariant("orders are conserved", "SELECT count(*) FROM orders;", Holds::Unchanged),
        invariant("never held", "SELECT 1 FROM orders WHERE id < 4", Holds::NoRows),
        invariant("old column", "SELECT id FROM orders WHERE state IS NULL", Holds::NoRows),
        invariant(
            "writes",
            "WITH gone AS (DELETE FROM orders RETURNING id) SELECT id FROM gone",
            Holds::NoRows,
        ),
    ];
    let clock = Clock::start();
    let mut readings = Readings::new(&all);
    readings.read_before(&mirror.server(), clock).await;
    let sampler = Sampler::start(&mirror.server(), readings, clock);
    sampler.enter_phase(Phase::Baseline);
    await_reading(&sampler, Phase::Baseline).await;
    run(&mut shop, "ALTER TABLE orders RENAME COLUMN state TO status").await;
    run(&mut shop, "UPDATE orders SET status = 'odd' WHERE id IN (3, 5)").await;
    sampler.enter_phase(Phase::Upgrade);
    await_reading(&sampler, Phase::Upgrade).await;
    run(&mut shop, "ALTER TABLE orders RENAME COLUMN status TO state").await;
    run(&mut shop, "DELETE FROM orders WHERE id = 500").await;
    sampler.enter_phase(Phase::Soak);
    await_reading(&sampler, Phase::Soak).await;
    let mut readings: Readings = sampler.stop();
    run(&mut shop, "UPDATE orders SET state = 'new'").await;
    readings.read_after(&mirror.server(), clock).await;
    let evidence = readings.evidence();

    let [known, conserved, never, old, writes] = evidence.as_slice() else { panic!("{evidence:#?}") };
    let broken = known.broken_since.as_ref().unwrap();
    assert_eq!((broken.phase, broken.seen.as_str()), (Some(Phase::Soak), "2 offending rows"), "{known:#?}");
    assert_eq!(known.held_after, Some(true));
    let broken = conserved.broken_since.as_ref().unwrap();
    assert_eq!(
        (broken.phase, broken.seen.as_str()),
        (Some(Phase::Soak), "499 instead of 500"),
        "{conserved:#?}"
    );
    assert_eq!(conserved.held_after, Some(false));
    assert_eq!(never.broken.as_ref().unwrap().phase, Some(Phase::Warmup), "{never:#?}");
    let (phase, error) = old.error.as_ref().unwrap();
    assert!(*phase == Phase::Upgrade && error.contains("column \"state\" does not exist"), "{old:#?}");
    assert!(writes.error.as_ref().unwrap().1.contains("data-modifying statement"), "{writes:#?}");
    let orders: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&mut shop).await.unwrap();
    assert_eq!(orders, 499, "a reading has written");

    mirror.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_gives_way_and_counts_as_no_traffic() {
    let state = tempfile::Builder::new().prefix("fd").tempdir().unwrap();
    let mirror = shop(state.path()).await;
    let mut shop = mirror.connect().await.unwrap();
    let clock = Clock::start();

    // A change that needs the table does not wait for a reading that would go on for a minute.
    let sql = "SELECT FROM (SELECT pg_sleep(60)) AS asleep, orders";
    let slow = [Invariant { timeout_ms: 60_000, ..invariant("slow", sql, Holds::NoRows) }];
    let sampler = start_late(&mirror, &slow, clock);
    let is_reading = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'fulldress invariants'
        AND wait_event = 'PgSleep'";
    let reading = async {
        while sqlx::query_scalar::<_, i64>(is_reading).fetch_one(&mut shop).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reading).await.unwrap();
    let start_us = clock.now_us();
    run(&mut shop, "ALTER TABLE orders ADD COLUMN note text").await;
    assert!(clock.now_us() - start_us < 5_000_000, "a change waited for a reading");
    await_reading(&sampler, Phase::Upgrade).await;
    let evidence = sampler.stop().evidence();
    let why = evidence[0].missed.as_ref().unwrap();
    assert!(why.contains("canceling statement due to user request"), "{why}");

    // And no reading counts as traffic.
    run(&mut shop, "SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()").await;
    let scanned = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'orders'";
    let before: i64 = sqlx::query_scalar(scanned).fetch_one(&mut shop).await.unwrap();
    let again = [invariant("count", "SELECT count(*) FROM orders", Holds::Unchanged)];
    let sampler = start_late(&mirror, &again, clock);
    await_reading(&sampler, Phase::Upgrade).await;
    drop(sampler);
    run(&mut shop, "SELECT pg_stat_clear_snapshot()").await;
    let after: i64 = sqlx::query_scalar(scanned).fetch_one(&mut shop).await.unwrap();
    assert_eq!(after, before);
    mirror.stop().await;
}

/// A sampler whose invariants are read in the upgrade for the first time.
fn start_late(mirror: &LocalMirror, invariants: &[Invariant], clock: Clock) -> Sampler {
    let sampler = Sampler::start(&mirror.server(), Readings::new(invariants), clock);
    sampler.enter_phase(Phase::Upgrade);
    sampler
}
