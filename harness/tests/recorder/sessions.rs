//! Whose a session is, what it leaves behind, and a server that restarts meanwhile.

use std::sync::Arc;
use std::time::Duration;

use fulldress::recorder::log::LogPlace;
use fulldress_reports::lock::{LockLeftover, LockMode};
use fulldress_reports::phase::Phase;
use sqlx::Connection as _;

use crate::cluster::Cluster;
use crate::stage::{PATIENCE, Stage, connect, on, only, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_through_the_packages_address_is_its_own_whatever_its_role() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let relay = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let relay_port = relay.local_addr().unwrap().port();
    let (server_port, source) = (stage.cluster.port, stage.address.clone());
    let relaying = tokio::spawn(async move {
        let (mut inner, _) = relay.accept().await.unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{source}:0").parse().unwrap()).unwrap();
        let mut outer = socket.connect(([127, 0, 0, 1], server_port).into()).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut inner, &mut outer).await;
    });
    let options = stage.cluster.options(&stage.application, &stage.database).port(relay_port);
    let mut session = connect(&options).await;
    // The client's own truth: the lock was held at least from the answer to ALTER to the start of COMMIT, and at
    // most from the start of ALTER to the answer to COMMIT.
    let truth = fulldress_workloads::clock::Clock::start();
    run(&mut session, "BEGIN").await;
    let asked_us = truth.now_us();
    run(&mut session, "ALTER TABLE orders ADD COLUMN note text").await;
    let granted_us = truth.now_us();
    let client = stage.client("SELECT count(*) FROM orders").await;
    stage.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    let ending_us = truth.now_us();
    run(&mut session, "COMMIT").await;
    let (at_least_us, at_most_us) = (ending_us - granted_us, truth.now_us() - asked_us);
    client.await.unwrap();
    session.close().await.unwrap();
    relaying.await.unwrap();
    let application = stage.application.clone();
    let recording = stage.finish(&[]).await;

    let record = only(&recording, "public.orders", LockMode::AccessExclusiveLock);
    assert_eq!(record.victims_total, 1);
    // The application's role has no statement log: notes and samples bound the hold, some milliseconds apart.
    assert!(
        record.hold.low_us <= at_most_us && record.hold.high_us >= at_least_us,
        "{at_least_us} {at_most_us} {record:#?}"
    );
    assert!(record.hold.low_us >= at_least_us / 2, "{at_least_us} {record:#?}");
    assert_eq!(recording.evidence.sessions[0].role, application);
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_found_while_they_are_there() {
    let mut stage = Stage::set(Cluster::shared()).await;
    // Other tests make roles with settings in the same cluster.
    let (package, database) = (stage.package.clone(), stage.database.clone());
    let ours = |found: Vec<LockLeftover>| -> Vec<LockLeftover> {
        let about_us = |one: &LockLeftover| {
            !one.kind.ends_with("setting") || one.object.contains(&package) || one.object.contains(&database)
        };
        found.into_iter().filter(about_us).collect()
    };
    run(&mut stage.admin, "ALTER TABLE orders ADD CONSTRAINT old CHECK (id > 0) NOT VALID").await;
    assert_eq!(
        ours(stage.recorder.leftovers(Phase::Baseline).await.unwrap()).len(),
        1,
        "made after the recorder's start"
    );
    run(&mut stage.admin, "ALTER TABLE orders DROP CONSTRAINT old").await;
    assert_eq!(ours(stage.recorder.leftovers(Phase::Baseline).await.unwrap()), []);
    run(
        &mut stage.admin,
        &format!(
            "ALTER TABLE orders ADD CONSTRAINT checked CHECK (id > 0) NOT VALID; \
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; \
             CREATE TRIGGER touched BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION touch(); \
             ALTER TABLE orders DISABLE TRIGGER touched; \
             ALTER DATABASE {database} SET work_mem = '8MB'"
        ),
    )
    .await;
    let mut session = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    run(&mut session, "INSERT INTO orders VALUES (2001, 'new', 1), (2002, 'new', 1)").await;
    let failed = sqlx::raw_sql("CREATE UNIQUE INDEX CONCURRENTLY orders_twice ON orders (state)")
        .execute(&mut session)
        .await;
    assert!(failed.is_err());
    run(&mut session, "SELECT pg_advisory_lock(99)").await;
    run(&mut session, "BEGIN; SELECT 1; PREPARE TRANSACTION 'left'").await;
    run(&mut session, "BEGIN; SELECT 1").await;
    let found = ours(stage.recorder.leftovers(Phase::Upgrade).await.unwrap());
    let kinds: Vec<&str> = found.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(
        kinds,
        [
            "disabled trigger",
            "invalid index",
            "setting",
            "unvalidated constraint",
            "idle transaction",
            "advisory lock",
            "prepared transaction"
        ],
        "{found:#?}"
    );
    assert_eq!(found[0].object, "touched on public.orders");
    assert_eq!(found[1].object, "public.orders_twice");
    assert_eq!(found[2].object, format!("work_mem=8MB of database {}", stage.database));
    assert_eq!(found[3].object, "checked on public.orders");
    assert!(found[5].object.starts_with("99 held by"));
    run(&mut session, "ROLLBACK").await;
    session.close().await.unwrap();
    run(&mut stage.admin, "ROLLBACK PREPARED 'left'").await;
    let recording = stage.finish(&[]).await;
    assert_eq!(ours(recording.evidence.leftovers).len(), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_is_survived_and_told() {
    let mut stage = Stage::set(Arc::new(Cluster::start())).await;
    stage.script("ALTER TABLE orders ADD COLUMN note text;").await.unwrap();
    stage.cluster.restart();
    stage.admin = connect(&stage.cluster.options("postgres", &stage.database)).await;
    stage.recorder.reinstall_after_restore().await.unwrap();
    let package =
        stage.script("BEGIN; ALTER TABLE quiet ADD COLUMN note text; SELECT pg_sleep(0.3); COMMIT;");
    stage.until("l.relation = 'quiet'::regclass AND l.mode = 'AccessExclusiveLock' AND l.granted").await;
    stage.client("SELECT count(*) FROM quiet").await.await.unwrap();
    package.await.unwrap();
    let recording = stage.finish(&[]).await;

    assert_eq!(only(&recording, "public.quiet", LockMode::AccessExclusiveLock).victims_total, 1);
    assert_eq!(on(&recording, "public.orders", LockMode::AccessExclusiveLock).len(), 1);
    let trust = &recording.evidence.trust;
    assert!(trust.disagreements.iter().any(|sentence| sentence.contains("lost the server")), "{trust:#?}");
    assert!(trust.samples_taken < trust.samples_planned, "{trust:#?}");
    assert!(trust.triggers && trust.ddl_seen_twice == 2, "{trust:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_package_there_is_nothing_to_report_and_nothing_amiss() {
    let mut stage = Stage::set_with(Cluster::shared(), LogPlace::Server).await;
    let mut writer = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut writer, "BEGIN; UPDATE orders SET total = 3 WHERE id = 1").await;
    let client = stage.client("UPDATE orders SET total = 4 WHERE id = 1").await;
    stage.until_waiting(1).await;
    tokio::time::sleep(Duration::from_millis(60)).await;
    run(&mut writer, "COMMIT").await;
    client.await.unwrap();
    let recording = stage.finish(&[]).await;

    let evidence = &recording.evidence;
    assert!(evidence.records.is_empty() && evidence.sessions.is_empty(), "{evidence:#?}");
    assert_eq!(evidence.other_waits, 1, "{:#?}", recording.waits);
    assert!(evidence.trust.triggers && evidence.trust.disagreements.is_empty(), "{:#?}", evidence.trust);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_run_is_heard_while_it_listens_and_the_logs_settings_come_back() {
    // Of its own: the settings are the whole server's.
    let mut stage = Stage::set(Arc::new(Cluster::start())).await;
    let application = stage.application.clone();
    let mut client = connect(&stage.cluster.options(&application, &stage.database)).await;
    let of_log = "SELECT pg_catalog.current_setting('log_min_duration_statement')";
    stage.recorder.listen().await.unwrap();
    // A session takes a reload in before its next statement; until then it is asked again.
    let heard = async {
        while sqlx::query_scalar::<_, String>(of_log).fetch_one(&mut client).await.unwrap() != "0" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
    let start_us = stage.clock.now_us();
    let state: String = sqlx::query_scalar("SELECT state FROM orders WHERE id = $1 AND total <> 77")
        .bind(7)
        .fetch_one(&mut client)
        .await
        .unwrap();
    assert_eq!(state, "new");
    run(&mut client, "SELECT pg_sleep(0.05)").await;
    let end_us = stage.clock.now_us();
    stage.recorder.stop_listening().await.unwrap();
    let usual = async {
        while sqlx::query_scalar::<_, String>(of_log).fetch_one(&mut client).await.unwrap() != "-1" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, usual).await.unwrap();
    run(&mut client, "SELECT 'not heard'").await;
    client.close().await.unwrap();
    let heard = stage.finish(&[]).await.heard;

    assert!(
        heard.iter().all(|one| !one.statement.contains("everyone")),
        "the recorder hears itself: {heard:#?}"
    );
    let of = |statement: &'static str| -> Vec<_> {
        heard.iter().filter(|one| one.role == application && one.statement == statement).collect()
    };
    let [order] = of("SELECT state FROM orders WHERE id = $? AND total <> ?")[..] else {
        panic!("{heard:#?}")
    };
    let [sleep] = of("SELECT pg_sleep(?)")[..] else { panic!("{heard:#?}") };
    assert!(of("SELECT ?").is_empty(), "{heard:#?}");
    let known_us = 2_000;
    assert!(start_us <= order.start_us + known_us && sleep.end_us <= end_us + known_us, "{heard:#?}");
    assert!(order.end_us <= sleep.start_us + known_us, "{heard:#?}");
    assert!(sleep.end_us - sleep.start_us >= 50_000, "{sleep:?}");
}
