//! The background actors on a real PostgreSQL: each makes a schema change wait, what queues behind that is the change's,
//! and they themselves are neither clients nor traffic nor something that a package left.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[path = "support/server.rs"]
mod server;

use std::path::Path;

use fulldress::actors::{ANALYZE, Actors, IDLE_TRANSACTION, LONG_READER};
use fulldress::mirror::PACKAGE_ROLE;
use fulldress::plan;
use fulldress::proofs::data;
use fulldress_reports::lock::{LockMode, LockOutcome};
use fulldress_reports::phase::Phase;
use server::{APPLICATION, Server, execute, on_each_version, until};

/// How long an actor keeps its lock: long enough for a change and two clients to queue up on a busy machine.
const HOLD_MS: u64 = 2_000;

fn nobody() -> plan::Actors {
    let mut plan = plan::Actors::default();
    plan.long_reader.enabled = false;
    plan.idle_transaction.enabled = false;
    plan.analyze.enabled = false;
    plan
}

/// Plans in which one actor runs, by its application name; it comes back at once after each cycle.
fn alone() -> [(&'static str, plan::Actors); 3] {
    let mut reader = nobody();
    reader.long_reader =
        plan::LongReader { enabled: true, relations: Vec::new(), hold_ms: HOLD_MS, pause_ms: 20 };
    let mut idle = nobody();
    idle.idle_transaction =
        plan::IdleTransaction { enabled: true, relations: Vec::new(), hold_ms: HOLD_MS, pause_ms: 20 };
    let mut analyze = nobody();
    analyze.analyze = plan::Analyze { enabled: true, relations: Vec::new(), pause_ms: 20 };
    [(LONG_READER, reader), (IDLE_TRANSACTION, idle), (ANALYZE, analyze)]
}

fn tables() -> Vec<String> {
    vec!["public.orders".to_owned()]
}

/// A change waits behind an actor, two clients wait behind the change, and the actor itself waits when it comes back.
async fn queues_behind(postgres: &Path, holder: &'static str, plan: &plan::Actors) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    // ANALYZE computes an index's expression for every row that it samples: here that takes as long as a large table does.
    execute(
        &mut admin,
        "CREATE FUNCTION slow(id int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS \
         $$ BEGIN IF current_setting('application_name') = 'background-analyze' THEN PERFORM pg_sleep(0.002); END IF; \
         RETURN id; END $$; GRANT EXECUTE ON FUNCTION slow TO PUBLIC; CREATE INDEX ON orders (slow(id))",
    )
    .await;
    let mut recorder = server.recorder(server.config()).await;
    let actors = Actors::start(&server.cluster.options("postgres"), plan, &tables());
    let lock = |of: &str, granted: bool| {
        format!(
            "SELECT EXISTS (SELECT FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid) \
             WHERE l.relation = 'orders'::regclass AND l.granted = {granted} AND {of})"
        )
    };
    let of_holder = format!("a.application_name = '{holder}'");
    let of_package = format!("a.usename = '{PACKAGE_ROLE}'");
    until(&mut admin, &lock(&of_holder, true)).await;
    let holder_pid: i32 = sqlx::query_scalar(
        "SELECT pid FROM pg_stat_activity WHERE application_name = $1 ORDER BY pid LIMIT 1",
    )
    .bind(holder)
    .fetch_one(&mut admin)
    .await
    .unwrap();
    let change = server
        .beside(PACKAGE_ROLE, "BEGIN; ALTER TABLE orders ADD COLUMN note text; SELECT pg_sleep(0.2); COMMIT")
        .await;
    until(&mut admin, &lock(&of_package, false)).await;
    let left = recorder.leftovers(Phase::Upgrade).await.unwrap();
    let left: Vec<_> = left.iter().filter(|left| !left.kind.ends_with("setting")).collect();
    assert!(left.is_empty(), "{holder}: {left:?}");
    let mut clients = Vec::new();
    for sql in ["SELECT count(*) FROM orders", "UPDATE orders SET total = 1 WHERE id = 8"] {
        clients.push(server.beside(APPLICATION, sql).await);
    }
    until(
        &mut admin,
        &lock(&format!("{of_package} AND (SELECT count(*) FROM pg_locks WHERE NOT granted) = 3"), false),
    )
    .await;
    // It comes back while the change holds the table.
    until(&mut admin, &lock(&of_holder, false)).await;
    change.await.unwrap().unwrap();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    actors.stop();
    let recording = server.finish(recorder).await;

    let of_change = |mode: LockMode| {
        recording.evidence.records.iter().find(|one| one.relation == "public.orders" && one.mode == mode)
    };
    let record = of_change(LockMode::AccessExclusiveLock).unwrap();
    assert!(record.statement.contains("ALTER TABLE orders"), "{holder}: {record:#?}");
    assert_eq!((record.outcome, record.victims_total), (LockOutcome::Granted, 2), "{holder}: {record:#?}");
    assert!(record.victims.iter().all(|victim| victim.role == APPLICATION), "{holder}: {record:#?}");
    assert!(record.wait_us > 0, "{holder}: {record:#?}");
    assert_eq!(recording.evidence.other_waits, 0, "{holder}: {:#?}", recording.waits);
    let holder_pid = u32::try_from(holder_pid).unwrap();
    for wait in &recording.waits {
        assert_eq!(wait.behind.as_deref(), Some("public.orders"), "{holder}: {wait:#?}");
    }
    // The reader's wait names the holder alone, since only that lock conflicts with it.
    let named = recording.waits.iter().any(|wait| wait.wait.blockers.contains(&holder_pid));
    assert!(named, "{holder}: the log named nobody's lock: {:#?}", recording.waits);
    assert_eq!(recording.evidence.sessions.len(), 1, "{holder}: {:#?}", recording.evidence.sessions);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_queues_behind_a_change_that_waits_for_an_actor_is_the_changes() {
    let [reader, idle, analyze] = alone();
    on_each_version(async |postgres| {
        tokio::join!(
            queues_behind(postgres, reader.0, &reader.1),
            queues_behind(postgres, idle.0, &idle.1),
            queues_behind(postgres, analyze.0, &analyze.1)
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_are_no_traffic_and_outlive_what_the_package_drops() {
    on_each_version(no_traffic).await;
}

async fn no_traffic(postgres: &Path) {
    let server = Server::start(postgres).await;
    let mut admin = server.admin().await;
    execute(&mut admin, "CREATE TABLE gone (id int); INSERT INTO gone VALUES (1)").await;
    // Whoever made the tables has told what it counted when it is gone.
    until(&mut admin, "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'")
        .await;
    execute(&mut admin, "SELECT pg_stat_force_next_flush(); SELECT pg_stat_reset()").await;
    let mut plan = plan::Actors::default();
    plan.long_reader = plan::LongReader { hold_ms: 20, pause_ms: 20, ..plan.long_reader };
    plan.idle_transaction = plan::IdleTransaction { hold_ms: 20, pause_ms: 20, ..plan.idle_transaction };
    plan.analyze = plan::Analyze { pause_ms: 20, ..plan.analyze };
    let all = ["public.orders", "public.gone"].map(str::to_owned);
    let actors = Actors::start(&server.cluster.options("postgres"), &plan, &all);
    assert_eq!(
        actors.told(),
        [
            "long reader of all tables, 20 ms in every 40 ms",
            "idle transaction on all tables, 20 ms in every 40 ms",
            "ANALYZE of all tables, one every 20 ms"
        ]
    );
    let analyzed = |times: u32| {
        format!(
            "SELECT coalesce(sum(analyze_count), 0) > {times} FROM pg_stat_user_tables WHERE relname = 'orders'"
        )
    };
    until(&mut admin, &analyzed(1)).await;
    execute(&mut admin, "DROP TABLE gone").await;
    until(&mut admin, &analyzed(4)).await;
    for actor in [LONG_READER, IDLE_TRANSACTION] {
        let holds = format!(
            "SELECT EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity AS a USING (pid) \
             WHERE relation = 'orders'::regclass AND a.application_name = '{actor}')"
        );
        until(&mut admin, &holds).await;
    }
    actors.stop();
    let left = "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'background-%'";
    until(&mut admin, left).await;
    // What a session counted is told at its end at the latest.
    assert_eq!(data::read_or_written(&mut admin).await.unwrap(), Vec::<String>::new());
    let untouched = data::untouched(&mut admin, &[]).await.unwrap();
    assert!(untouched.contains("public.orders"), "{untouched:?}");
    // The probe sees what a client does.
    execute(&mut admin, "SELECT count(*) FROM orders; SELECT pg_stat_force_next_flush()").await;
    assert_eq!(data::read_or_written(&mut admin).await.unwrap(), ["public.orders"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn actors_can_be_switched_off() {
    on_each_version(switched_off).await;
}

async fn switched_off(postgres: &Path) {
    let server = Server::start(postgres).await;
    let actors = Actors::start(&server.cluster.options("postgres"), &nobody(), &tables());
    assert!(actors.told().is_empty());
    let mut admin = server.admin().await;
    until(&mut admin, "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name LIKE 'background-%'")
        .await;
}
