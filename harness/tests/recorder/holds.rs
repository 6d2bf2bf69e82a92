//! What a lock is measured to hold, who waits behind it, and what no trigger tells.

use std::time::Duration;

use fulldress_reports::lock::{LockMode, LockOutcome, LockSource};

use crate::cluster::Cluster;
use crate::stage::{Stage, connect, on, only, run};

const NOW: &str = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;\n";

fn instants(lines: &[String]) -> Vec<u64> {
    lines
        .iter()
        .filter_map(|line| line.parse().ok())
        .filter(|number| *number > 1_000_000_000_000_000)
        .collect()
}

const ALTER_GRANTED: &str =
    "l.relation = 'orders'::regclass AND l.mode = 'AccessExclusiveLock' AND l.granted";

#[tokio::test(flavor = "multi_thread")]
async fn a_held_alter_is_measured_within_its_bounds_and_its_victims_are_counted() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let script = format!(
        "BEGIN;\n{NOW}ALTER TABLE orders\n  ADD COLUMN note text; -- hot\n{NOW}SELECT pg_sleep(0.4);\n{NOW}COMMIT;\n{NOW}"
    );
    let package = stage.script(&script);
    stage.until(ALTER_GRANTED).await;
    let mut clients = Vec::new();
    for sql in [
        "SELECT count(*) FROM orders",
        "SELECT total FROM orders WHERE id = 7",
        "UPDATE orders SET total = 1 WHERE id = 8",
    ] {
        clients.push(stage.client(sql).await);
    }
    stage.until_waiting(3).await;
    let bystander = stage.client("SELECT count(*) FROM quiet").await;
    let printed = instants(&package.await.unwrap());
    let mut longest_us = 0;
    for client in clients {
        longest_us = longest_us.max(client.await.unwrap());
    }
    bystander.await.unwrap();
    let recording = stage.finish(&[("migrations/one.sql", &script)]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let [before, after, end, ended] = printed[..] else { panic!("{printed:?}") };
    assert!(record.hold.low_us <= ended - before, "{record:#?} {printed:?}");
    assert!(record.hold.high_us >= end - after, "{record:#?} {printed:?}");
    assert!(record.hold.high_us - record.hold.low_us < 100_000, "{record:#?}");
    assert!(record.hold.low_us >= 350_000, "{record:#?}");
    // The server worked for 400 ms of it.
    assert!(record.idle.unwrap().high_us < record.hold.high_us - 390_000, "{record:#?}");
    assert_eq!(record.victims_total, 3, "{record:#?}");
    assert_eq!(record.queue_depth_max, 3);
    assert!(record.victims[0].blocked_us <= longest_us + 2_000, "{longest_us} {record:#?}");
    assert!(record.victims.iter().all(|victim| victim.blocked_us > 50_000 && victim.mode.is_some()));
    assert!(record.victims.iter().any(|victim| victim.statement == "SELECT total FROM orders WHERE id = ?"));
    assert_eq!(record.statement, "ALTER TABLE orders ADD COLUMN note text");
    assert_eq!(record.place.as_ref().unwrap().to_string(), "migrations/one.sql:3");
    assert!(record.preexisting && !record.rewritten);
    assert_eq!(
        (record.outcome, record.lock_timeout_ms, record.step.as_deref()),
        (LockOutcome::Granted, Some(0), Some("step-one"))
    );
    for source in
        [LockSource::EventTrigger, LockSource::Sampler, LockSource::WaitLog, LockSource::StatementLog]
    {
        assert!(record.sources.contains(&source), "{source:?} {record:#?}");
    }
    let [session] = &recording.evidence.sessions[..] else { panic!("{:#?}", recording.evidence.sessions) };
    assert_eq!((session.schema_changes, session.migration_lock_held), (1, false));
    assert_eq!(session.without_lock_timeout.len(), 1);
    assert_eq!(session.first_unlocked.as_ref().unwrap().place, record.place);
    let trust = &recording.evidence.trust;
    assert_eq!((trust.ddl_statements, trust.ddl_seen_twice), (1, 1));
    assert!(trust.triggers && trust.disagreements.is_empty(), "{trust:#?}");
    assert!(trust.clock_error_us < 20_000, "{trust:#?}");
    assert_eq!(recording.evidence.other_waits, 0);
    let mut raw = Vec::new();
    recording.write_raw(&mut raw).unwrap();
    let lines = String::from_utf8(raw).unwrap();
    assert_eq!(lines.lines().filter(|line| line.starts_with("{\"wait\"")).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_behind_a_waiting_alter_is_the_alters_though_a_reader_holds_the_table() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let package = stage.script(
        "SELECT pg_advisory_lock(7);\nSET lock_timeout = '9s';\nALTER TABLE orders ADD COLUMN note text;\n",
    );
    stage.until("NOT l.granted AND l.mode = 'AccessExclusiveLock'").await;
    let clients =
        [stage.client("SELECT count(*) FROM orders").await, stage.client("SELECT max(id) FROM orders").await];
    stage.until_waiting(3).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    run(&mut reader, "COMMIT").await;
    for client in clients {
        client.await.unwrap();
    }
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(
        (record.outcome, record.victims_total, record.lock_timeout_ms),
        (LockOutcome::Granted, 2, Some(9_000))
    );
    assert!(record.wait_us >= 100_000, "{record:#?}");
    assert!(record.hold.high_us < record.wait_us, "{record:#?}");
    assert_eq!(recording.evidence.other_waits, 0);
    let session = &recording.evidence.sessions[0];
    assert!(session.migration_lock_held && session.without_lock_timeout.is_empty(), "{session:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_built_concurrently_blocks_no_client() {
    let mut stage = Stage::set(Cluster::shared()).await;
    // An old snapshot makes the build wait, so that its lock is held long enough to be seen.
    let mut old = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut old, "BEGIN; SELECT count(*) FROM orders; UPDATE orders SET total = 2 WHERE id = 3").await;
    let package = stage.script("CREATE INDEX CONCURRENTLY orders_state ON orders (state);\n");
    stage.until("NOT l.granted").await;
    tokio::time::sleep(Duration::from_millis(80)).await;
    stage.client("UPDATE orders SET total = 5 WHERE id = 9").await.await.unwrap();
    run(&mut old, "COMMIT").await;
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::ShareUpdateExclusiveLock);
    assert!(record.hold.high_us >= 80_000 && record.victims_total == 0, "{record:#?}");
    let blocking =
        recording.evidence.records.iter().filter(|record| record.preexisting && record.mode.blocks_clients());
    assert_eq!(blocking.count(), 0, "{:#?}", recording.evidence.records);
    assert!(recording.evidence.sessions[0].without_lock_timeout.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_that_fire_no_trigger_are_seen_and_nested_changes_are_counted() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let silent = "BEGIN;\nLOCK TABLE quiet IN SHARE MODE;\nSELECT pg_sleep(0.1);\nTRUNCATE orders;\nSELECT pg_sleep(0.1);\nCOMMIT;\n";
    stage.script(silent).await.unwrap();
    stage
        .script("DO $$ BEGIN EXECUTE 'ALTER TABLE quiet ADD a int'; EXECUTE 'ALTER TABLE orders ALTER total TYPE bigint'; END $$;")
        .await
        .unwrap();
    let mut psql = stage.psql();
    psql.args(["-c", "ALTER TABLE quiet ADD b int; CREATE TABLE fresh (id int); DROP TABLE orders"]);
    let status = tokio::task::spawn_blocking(move || psql.output().unwrap().status).await.unwrap();
    assert!(status.success());
    stage.until("true").await;
    let recording = stage.finish(&[("up.sql", silent)]).await;

    let locked = only(&recording, "public.quiet", LockMode::ShareLock);
    assert_eq!(locked.statement, "LOCK TABLE quiet IN SHARE MODE");
    // Half of what the script slept: samples bound this lock, and a busy machine takes fewer of them.
    assert!(locked.hold.low_us >= 100_000, "{locked:#?}");
    let exclusive = on(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let truncated =
        exclusive.iter().find(|record| record.statement == "TRUNCATE orders").expect("the truncation");
    assert_eq!(truncated.place.as_ref().unwrap().to_string(), "up.sql:4");
    assert!((80_000..180_000).contains(&truncated.hold.low_us), "{truncated:#?}");
    let rewrite = exclusive.iter().find(|record| record.statement.starts_with("DO ")).expect("the rewrite");
    assert!(rewrite.rewritten);
    let dropped = exclusive.iter().find(|record| record.statement == "DROP TABLE orders");
    assert!(dropped.is_some(), "{exclusive:#?}");
    let altered = on(&recording, "public.quiet", LockMode::AccessExclusiveLock);
    assert!(altered.iter().any(|record| record.statement == "ALTER TABLE quiet ADD b int"), "{altered:#?}");
    let changes: Vec<u32> =
        recording.evidence.sessions.iter().map(|session| session.schema_changes).collect();
    assert_eq!(changes, [1, 2, 2], "{:#?}", recording.evidence.sessions);
    assert_eq!(recording.evidence.trust.ddl_statements, 6);
    assert!(recording.evidence.trust.disagreements.is_empty(), "{:#?}", recording.evidence.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_in_one_transaction_has_row_lock_victims() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let package = stage
        .script("BEGIN;\nUPDATE orders SET state = 'old' WHERE id <= 500;\nSELECT pg_sleep(0.4);\nCOMMIT;\n");
    stage.until("s.state = 'active' AND s.query LIKE '%pg_sleep%' AND l.locktype = 'transactionid'").await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(stage.client("UPDATE orders SET total = 0 WHERE id = 5").await);
    }
    clients.push(stage.client("UPDATE orders SET total = 0 WHERE id = 900").await);
    stage.until_waiting(2).await;
    for client in clients {
        client.await.unwrap();
    }
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::RowExclusiveLock);
    assert_eq!(record.statement, "UPDATE orders SET state = ? WHERE id <= ?");
    let pids: std::collections::BTreeSet<u32> = record.victims.iter().map(|victim| victim.pid).collect();
    assert_eq!(pids.len(), 2, "{record:#?}");
    assert!(record.victims.iter().all(|victim| victim.mode.is_none()));
    assert!(record.victims[0].blocked_us > 100_000, "{record:#?}");
    assert_eq!(recording.evidence.sessions[0].schema_changes, 0);
}
