//! Locks that are not had at once: given up, asked for again, or held while their session idles.

use std::time::Duration;

use fulldress_reports::lock::{LockMode, LockOutcome};
use sqlx::Connection as _;

use crate::cluster::Cluster;
use crate::stage::{Stage, connect, only, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_by_lock_timeout_keeps_its_victims() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let package = stage.script("SET lock_timeout = '300ms';\nALTER TABLE orders ADD COLUMN note text;\n");
    stage.until("NOT l.granted AND l.mode = 'AccessExclusiveLock'").await;
    let client = stage.client("SELECT count(*) FROM orders").await;
    let blocked_us = client.await.unwrap();
    package.await.unwrap();
    run(&mut reader, "COMMIT").await;
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(
        (record.outcome, record.victims_total, record.lock_timeout_ms),
        (LockOutcome::TimedOut, 1, Some(300))
    );
    assert!((290_000..600_000).contains(&record.wait_us), "{record:#?}");
    assert_eq!(record.hold.high_us, 0);
    assert!(record.victims[0].blocked_us <= blocked_us + 2_000, "{blocked_us} {record:#?}");
    assert!(recording.evidence.trust.disagreements.is_empty(), "{:#?}", recording.evidence.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_lets_pass_inside_its_transaction_is_idle_time_of_the_hold() {
    let stage = Stage::set(Cluster::shared()).await;
    let mut session = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    let (clock, pause) = (stage.clock, Duration::from_millis(150));
    run(&mut session, "BEGIN").await;
    let asked_us = clock.now_us();
    run(&mut session, "ALTER TABLE orders ADD COLUMN note text").await;
    let mut pauses_us = 0;
    for statement in ["SELECT pg_sleep(0.2)", "COMMIT"] {
        let answered_us = clock.now_us();
        tokio::time::sleep(pause).await;
        pauses_us += clock.now_us() - answered_us;
        run(&mut session, statement).await;
    }
    // All but what the server slept, at most.
    let most_us = clock.now_us() - asked_us - 200_000;
    session.close().await.unwrap();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    let idle = record.idle.unwrap();
    assert!(idle.low_us <= most_us && idle.high_us >= pauses_us, "{pauses_us} {most_us} {record:#?}");
    // Two pauses, each between two lines whose stamps are cut to milliseconds.
    assert!(idle.high_us - idle.low_us <= 4_000, "{record:#?}");
    assert!(idle.low_us >= 296_000 && idle.high_us < record.hold.high_us, "{record:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_is_sent_again_is_counted_with_what_ended_it() {
    let stage = Stage::set(Cluster::shared()).await;
    let mut writer = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut writer, "BEGIN; UPDATE orders SET total = 2 WHERE id = 3").await;
    let (alter, update) =
        ("ALTER TABLE orders ADD COLUMN note text;\n", "UPDATE orders SET total = 9 WHERE id = 3;\n");
    let timeouts =
        ["SET lock_timeout = '60ms';\n", "SET lock_timeout = 0; SET statement_timeout = '60ms';\n"];
    let [locks, statements] = timeouts;
    let script = format!("{locks}{alter}{alter}DROP TABLE orders;\n{statements}{update}");
    stage.script(&script).await.unwrap();
    run(&mut writer, "COMMIT").await;
    // A shell that loops opens another session.
    let files = [("up.sql", script.as_str())];
    stage.script(&format!("{locks}{alter}{update}{update}")).await.unwrap();
    let recording = stage.finish(&files).await;

    let retries = &recording.evidence.retries;
    let [altered, updated] = &retries[..] else { panic!("{retries:#?}") };
    assert_eq!(altered.statement, "ALTER TABLE orders ADD COLUMN note text");
    assert_eq!(altered.place.as_ref().unwrap().to_string(), "up.sql:2");
    assert_eq!((altered.timed_out, altered.deadlocked, altered.cancelled, altered.retries), (2, 0, 0, 2));
    assert_eq!(updated.statement, "UPDATE orders SET total = ? WHERE id = ?");
    assert_eq!((updated.timed_out, updated.deadlocked, updated.cancelled, updated.retries), (0, 0, 1, 1));
    assert!(retries.iter().all(|one| one.succeeded == Some(true) && one.step.as_deref() == Some("step-one")));
}

/// A block that asks for a table again and again, a moment each time, and then says how often it asked.
fn asking(attempts: u32) -> String {
    format!(
        "DO $$ DECLARE asked int := 0; BEGIN
  SET lock_timeout = '150ms';
  WHILE asked < {attempts} LOOP
    asked := asked + 1;
    BEGIN
      ALTER TABLE orders ADD COLUMN note text;
      EXIT;
    EXCEPTION WHEN lock_not_available THEN NULL;
    END;
  END LOOP;
  PERFORM set_config('fulldress.asked', asked::text, false);
END $$;\nSHOW fulldress.asked;\n"
    )
}

fn asked(printed: &[String]) -> u64 {
    printed.last().and_then(|line| line.parse().ok()).expect("the number of attempts")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_block_catches_and_asks_for_again_is_counted_and_its_waits_are_added_up() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let script = asking(1_000);
    let clock = stage.clock;
    let sent_us = clock.now_us();
    let package = stage.script(&script);
    let mut waits = std::collections::BTreeSet::new();
    while waits.len() < 4 {
        let since = "SELECT max(l.waitstart)::text FROM pg_locks AS l JOIN pg_stat_activity AS s USING (pid) \
                     WHERE NOT l.granted AND l.mode = 'AccessExclusiveLock' AND s.datname = current_database()";
        let since: Option<String> = sqlx::query_scalar(since).fetch_one(&mut stage.admin).await.unwrap();
        waits.extend(since);
        assert!(clock.now_us() - sent_us < 20_000_000, "{waits:?}");
    }
    run(&mut reader, "COMMIT").await;
    let asked = asked(&package.await.unwrap());
    let took_us = clock.now_us() - sent_us;
    let recording = stage.finish(&[("up.sql", script.as_str())]).await;

    let [told] = &recording.evidence.retries[..] else { panic!("{:#?}", recording.evidence.retries) };
    assert!(asked >= 4 && told.statement.starts_with("DO "), "{asked} {told:#?}");
    // The last attempt had the lock at once, or waited like the others: asked again once less than asked.
    assert!(told.caught == asked - 1 || told.caught == asked - 2, "{asked} {told:#?}");
    assert_eq!((told.retries, told.timed_out, told.succeeded), (told.caught, 0, Some(true)));
    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(record.outcome, LockOutcome::Granted);
    // Each attempt but the last waited its 150 ms; a look sees an end a pace late at most.
    assert!(
        record.wait_us >= (asked - 2) * 140_000 && record.wait_us <= took_us,
        "{asked} {took_us} {record:#?}"
    );
    assert!(record.hold.high_us < record.wait_us, "{record:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_a_block_gives_up_was_never_held_though_its_statement_succeeds() {
    let stage = Stage::set(Cluster::shared()).await;
    let mut reader = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut reader, "BEGIN; SELECT count(*) FROM orders").await;
    let script = format!("BEGIN;\n{}SELECT pg_sleep(0.2);\nCOMMIT;\n", asking(3));
    let printed = stage.script(&script).await.unwrap();
    assert!(printed.contains(&"3".to_owned()), "{printed:?}");
    run(&mut reader, "COMMIT").await;
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!((record.outcome, record.hold.high_us), (LockOutcome::TimedOut, 0), "{record:#?}");
    assert!((430_000..1_000_000).contains(&record.wait_us), "{record:#?}");
    let [told] = &recording.evidence.retries[..] else { panic!("{:#?}", recording.evidence.retries) };
    assert_eq!((told.caught, told.retries, told.succeeded), (2, 2, Some(true)));
}
