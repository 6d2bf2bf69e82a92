//! The order in which package and clients take their locks.

use fulldress_reports::lock::LockMode;
use sqlx::Connection as _;

use crate::cluster::Cluster;
use crate::stage::{Stage, connect, run};

const WRITE_ORDERS: &str = "UPDATE orders SET total = 3 WHERE id = 1";
const WRITE_QUIET: &str = "UPDATE quiet SET id = 3";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_two_tables_the_other_way_round_is_a_possible_deadlock() {
    let stage = Stage::set(Cluster::shared()).await;
    let application = stage.application.clone();
    let order = stage.two_orders(WRITE_QUIET, WRITE_ORDERS).await;
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(!cycle.fired);
    let (package, other) = (&cycle.package, &cycle.other);
    assert_eq!(
        [&package.first, &package.second, &other.first, &other.second].map(|lock| lock.relation.as_str()),
        ["public.orders", "public.quiet", "public.quiet", "public.orders"]
    );
    assert_eq!(package.second.statement.as_deref(), Some("ALTER TABLE quiet ADD x int"));
    assert_eq!(package.place.as_ref().unwrap().to_string(), "up.sql:3");
    assert_eq!(other.role, application);
    assert_eq!(other.first.statement.as_deref(), Some("UPDATE quiet SET id = ?"));
    assert_eq!((other.second.mode, cycle.transactions), (Some(LockMode::RowExclusiveLock), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_two_tables_in_the_packages_order_is_none() {
    let order = Stage::set(Cluster::shared()).await.two_orders(WRITE_ORDERS, WRITE_QUIET).await;
    assert_eq!((order.package_pairs, order.client_transactions), (1, 1), "{order:#?}");
    assert!(order.cycles.is_empty(), "{order:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadlock_that_fired_names_both_sides() {
    let mut stage = Stage::set(Cluster::shared()).await;
    let mut package = connect(&stage.cluster.options(&stage.package, &stage.database)).await;
    let mut client = connect(&stage.cluster.options(&stage.application, &stage.database)).await;
    run(&mut package, "BEGIN").await;
    run(&mut package, "ALTER TABLE orders ADD x int").await;
    run(&mut client, "BEGIN").await;
    run(&mut client, WRITE_QUIET).await;
    let waiting = tokio::spawn(async move {
        let answer = sqlx::raw_sql(WRITE_ORDERS).execute(&mut client).await;
        (answer, client)
    });
    stage.until_waiting(1).await;
    let refused = sqlx::raw_sql("ALTER TABLE quiet ADD x int").execute(&mut package).await;
    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut package).await;
    let (answer, client) = waiting.await.unwrap();
    let codes: Vec<String> = [refused.err(), answer.err()]
        .into_iter()
        .flatten()
        .map(|error| error.as_database_error().unwrap().code().unwrap().into_owned())
        .collect();
    assert_eq!(codes, ["40P01"], "one of them, and only one");
    client.close().await.unwrap();
    package.close().await.unwrap();
    let application = stage.application.clone();
    let recording = stage.finish(&[]).await;

    let order = recording.evidence.order.as_ref().unwrap();
    let [cycle] = &order.cycles[..] else { panic!("{order:#?}") };
    assert!(cycle.fired);
    let (package, other) = (&cycle.package, &cycle.other);
    assert_eq!(
        [&package.first, &package.second, &other.first, &other.second].map(|lock| lock.relation.as_str()),
        ["public.orders", "public.quiet", "public.quiet", "public.orders"]
    );
    assert_eq!(
        (package.first.mode, other.role.as_str()),
        (Some(LockMode::AccessExclusiveLock), &*application)
    );
    assert_eq!(package.second.statement.as_deref(), Some("ALTER TABLE quiet ADD x int"));
    assert_eq!(other.second.statement.as_deref(), Some("UPDATE orders SET total = ? WHERE id = ?"));
    assert_eq!(other.second.mode, Some(LockMode::RowExclusiveLock));
}
