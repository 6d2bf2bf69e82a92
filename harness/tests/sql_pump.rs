//! Arrivals by SQL on a real PostgreSQL: values of every type, errors by the server's own code, the ledger, a restart, and
//! the truth about a locked table.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[expect(dead_code, reason = "no recorder is needed here")]
#[path = "support/server.rs"]
mod server;

use std::collections::BTreeMap;

use fulldress::mirror::cluster::Programs;
use fulldress::proofs::ledger::{Asked, read_back};
use fulldress_reports::evidence::WriteFate;
use fulldress_reports::latency::standard_histogram;
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, WriteAnswer};
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::{Traffic, TrafficError, TrafficPlan, TrafficResult};
use server::{APPLICATION, Server, execute, until};
use sqlx::postgres::PgConnectOptions;

/// A workload from what stands below its head.
fn workload(text: &str) -> Workload {
    Workload::parse("w.toml", &format!("schema = \"fulldress/workload/1\"\nname = \"test\"\n{text}")).unwrap()
}

/// A scenario of SQL with these settings and steps.
fn scenario(settings: &str, steps: &str) -> Workload {
    workload(&format!(
        "[[feeder]]\nname = \"orders\"\ndatabase = \"app\"\nquery = \"SELECT id, state FROM orders ORDER BY id\"\n\
         order = \"sequence\"\n[[scenario]]\nname = \"sql\"\nmodel = \"arrivals\"\ndatabase = \"app\"\n{settings}\n{steps}"
    ))
}

async fn start(workload: Workload, options: PgConnectOptions, clock: Clock) -> Result<Traffic, TrafficError> {
    let databases = BTreeMap::from([("app".to_owned(), options)]);
    Traffic::start(TrafficPlan { workload, base_url: None, databases, clock, seed: 1, users_stream: None })
        .await
}

/// Plays a workload for a while.
async fn play(server: &Server, workload: Workload, length_us: u64) -> TrafficResult {
    let clock = Clock::start();
    let traffic = start(workload, server.options(APPLICATION), clock).await.unwrap();
    let start_us = traffic.enter_phase(Phase::Baseline);
    traffic.stop_at(start_us + length_us).await.unwrap()
}

/// Planned requests, errors by kind, and requests that went well, of one route.
fn sums(result: &TrafficResult, route: &str) -> (u64, BTreeMap<ErrorKind, u64>, u64) {
    let (mut planned, mut errors, mut well) = (0, BTreeMap::new(), 0);
    for record in result.intervals.iter().filter(|record| record.route == route) {
        planned += record.planned;
        well += record.response.unpack().unwrap().len();
        for (kind, count) in &record.errors {
            *errors.entry(*kind).or_default() += count;
        }
    }
    (planned, errors, well)
}

fn kind(name: &str) -> ErrorKind {
    name.parse().unwrap()
}

#[tokio::test]
async fn values_of_every_type_arrive_as_written() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let mut admin = server.admin().await;
    execute(
        &mut admin,
        "CREATE TYPE mood AS ENUM ('well', 'ill'); CREATE DOMAIN cents AS int CHECK (VALUE >= 0); \
         CREATE SCHEMA \"Odd\"; CREATE TYPE \"Odd\".\"Kind\" AS ENUM ('a b'); \
         GRANT USAGE ON SCHEMA \"Odd\" TO PUBLIC; \
         CREATE TABLE things (a bool, b int2, c int4, d int8, e real, f float8, g numeric(10, 2), h text, i varchar(9), \
         j char(3), k uuid, l json, m jsonb, n date, o timestamptz, p interval, q bytea, r int[], s text[], t mood, \
         u cents, v \"Odd\".\"Kind\", w inet, x bit(3), y text, z int); GRANT ALL ON things TO PUBLIC",
    )
    .await;
    let values = r#"["{{ true }}", -3, "{{ feed.orders.id }}", 9007199254740993, 0.5, 1e300, "12.50", "it's", "é", "x",
        "00112233-4455-6677-8899-aabbccddeeff", '{"a": 1}', '{"b": [2]}', "2024-02-29", "2024-01-02 03:04:05+00", "90 minutes",
        '\x00ff', "{1,2}", '{"a b",c}', "ill", 7, "a b", "10.0.0.1/8", "101", "{{ null }}", "{{ null }}"]"#;
    let numbers: Vec<String> = (1..=26).map(|number| format!("${number}")).collect();
    let step = format!(
        "[[scenario.step]]\nroute = \"insert\"\nstatement = \"INSERT INTO things VALUES ({})\"\nparameters = {values}\n\
         expect = {{ rows = 1 }}\n",
        numbers.join(", ")
    );
    let result = play(&server, scenario("rate_per_s = 50\nconnections_max = 2", &step), 200_000).await;
    let (planned, errors, well) = sums(&result, "insert");
    assert_eq!((planned, errors, well), (10, BTreeMap::new(), 10));
    let rows: Vec<String> =
        sqlx::query_scalar("SELECT things::text FROM things ORDER BY c").fetch_all(&mut admin).await.unwrap();
    assert_eq!(rows.len(), 10);
    assert_eq!(
        rows[0],
        r#"(t,-3,1,9007199254740993,0.5,1e+300,12.50,it's,é,"x  ",00112233-4455-6677-8899-aabbccddeeff,"{""a"": 1}","{""b"": [2]}",2024-02-29,"2024-01-02 03:04:05+00",01:30:00,"\\x00ff","{1,2}","{""a b"",c}",ill,7,"a b",10.0.0.1/8,101,,)"#
    );
    assert!(rows[9].starts_with("(t,-3,10,"), "the feeder goes on row by row: {}", rows[9]);
}

#[tokio::test]
async fn errors_have_the_servers_code_and_leave_the_connection_usable() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let steps = r#"
        [[scenario.step]]
        route = "unique"
        statement = "INSERT INTO orders VALUES ($1, 'new', 1)"
        parameters = ["{{ feed.orders.id }}"]
        [[scenario.step]]
        route = "unique in a transaction"
        transaction = [
            { statement = "UPDATE orders SET total = total + 1 WHERE id = 1", expect = { rows = 1 } },
            { statement = "INSERT INTO orders VALUES (1, 'new', 1)" },
        ]
        [[scenario.step]]
        route = "rows"
        statement = "SELECT * FROM orders WHERE id = $1"
        parameters = [0]
        expect = { rows_min = 1 }
        [[scenario.step]]
        route = "rows in a transaction"
        transaction = [
            { statement = "UPDATE orders SET total = -1 WHERE id = 2", expect = { rows = 2 } },
        ]
        [[scenario.step]]
        route = "slow"
        statement = "SELECT pg_sleep(60)"
        [[scenario.step]]
        route = "killed"
        statement = "SELECT pg_terminate_backend(pg_backend_pid())"
        [[scenario.step]]
        route = "fine"
        transaction = [
            { statement = "UPDATE orders SET total = total + $1 WHERE id = 3", parameters = [1], expect = { rows = 1 } },
            { statement = "SELECT * FROM orders WHERE state = 'new'", expect = { rows_min = 500, rows_max = 1000 } },
        ]
        "#;
    let settings = "rate_per_s = 100\nconnections_max = 1\ntimeout_ms = 100\nbacklog_max = 1000";
    // One connection: what one step leaves behind, the next one finds.
    let result = play(&server, scenario(settings, steps), 700_000).await;
    let mut planned_in_all = 0;
    for (route, expected) in [
        ("unique", Some("sql-23505")),
        ("unique in a transaction", Some("sql-23505")),
        ("rows", Some("wrong-body")),
        ("rows in a transaction", Some("wrong-body")),
        ("slow", Some("timeout")),
        ("killed", Some("sql-57P01")),
        ("fine", None),
    ] {
        let (planned, errors, well) = sums(&result, route);
        assert!(planned > 2, "{route}: {planned}");
        let expected = expected.map(|name| (kind(name), planned)).into_iter().collect::<BTreeMap<_, _>>();
        assert_eq!((&errors, well), (&expected, if expected.is_empty() { planned } else { 0 }), "{route}");
        planned_in_all += planned;
    }
    assert_eq!(planned_in_all, 70);
    assert_eq!((result.driver.planned, result.driver.dropped), (70, 0));
    let mut admin = server.admin().await;
    let totals: Vec<i32> = sqlx::query_scalar("SELECT total FROM orders WHERE id IN (1, 2, 3) ORDER BY id")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    let fine = i32::try_from(sums(&result, "fine").0).unwrap();
    assert_eq!(totals, [1, 2, 3 + fine], "what was refused is undone, what was right is there");
    // The server gives up on what nobody waits for any more.
    until(
        &mut admin,
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%')",
    )
    .await;
}

#[tokio::test]
async fn acknowledged_writes_are_read_back_by_sql() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let mut admin = server.admin().await;
    execute(
        &mut admin,
        "CREATE TABLE placed (key text, id serial, total numeric, at timestamptz DEFAULT now()); \
         GRANT ALL ON placed TO PUBLIC; GRANT ALL ON placed_id_seq TO PUBLIC",
    )
    .await;
    let steps = r#"
        [[scenario.step]]
        route = "place"
        transaction = [
            { statement = "UPDATE orders SET total = total + 1 WHERE id = $1", parameters = ["{{ feed.orders.id }}"] },
            { statement = "INSERT INTO placed (key, total) VALUES ($1, $2) RETURNING id, total, at", parameters = ["{{ key }}", "{{ random(1, 9) }}.50"] },
        ]
        acknowledged = { key = "{{ key }}", value = ["total", "at"], read_back = "SELECT total, at, id FROM placed WHERE key = $1" }
        "#;
    let result = play(&server, scenario("rate_per_s = 100", steps), 300_000).await;
    assert_eq!(sums(&result, "place"), (30, BTreeMap::new(), 30));
    assert_eq!(result.ledger.len(), 30);
    for entry in &result.ledger {
        assert_eq!((entry.answer, entry.database.as_deref()), (WriteAnswer::Acknowledged, Some("app")));
        let total = entry.value["total"].as_str().unwrap();
        assert!(total.ends_with(".5") && entry.value["at"].is_string(), "{entry:?}");
    }
    execute(
        &mut admin,
        "DELETE FROM placed WHERE id = 1; UPDATE placed SET total = total + 1 WHERE id = 2; \
         INSERT INTO placed SELECT * FROM placed WHERE id = 3; \
         ALTER TABLE placed ALTER total TYPE numeric(10, 3), ADD COLUMN channel text",
    )
    .await;
    let databases = BTreeMap::from([("app".to_owned(), server.options(APPLICATION))]);
    let asked = Asked { base_url: None, databases: &databases };
    let (evidence, _) = read_back(result.ledger, asked, None).await.unwrap();
    let fates = &evidence.phases[0].fates;
    let expected =
        [(WriteFate::Kept, 27), (WriteFate::Lost, 1), (WriteFate::Changed, 1), (WriteFate::Duplicated, 1)];
    assert_eq!(fates, &BTreeMap::from(expected), "{evidence:?}");
}

#[tokio::test]
async fn a_restart_costs_requests_and_loses_none() {
    let mut server = Server::start(&Programs::find(None).unwrap().folder).await;
    let steps = r#"
        [[scenario.step]]
        route = "read"
        statement = "SELECT * FROM orders WHERE id = $1"
        parameters = ["{{ feed.orders.id }}"]
        expect = { rows = 1 }
        "#;
    let clock = Clock::start();
    let workload = scenario("rate_per_s = 200\nconnections_max = 8\ntimeout_ms = 500", steps);
    let traffic = start(workload, server.options(APPLICATION), clock).await.unwrap();
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 500_000).await;
    server.cluster.stop().await;
    traffic.enter_phase(Phase::Rollback);
    server.cluster.start().await.unwrap();
    let back_us = traffic.enter_phase(Phase::Recovery);
    let result = traffic.stop_at(back_us + 1_000_000).await.unwrap();
    let (planned, errors, well) = sums(&result, "read");
    let wrong: u64 = errors.values().sum();
    assert_eq!(planned, well + wrong);
    assert_eq!(planned, (result.ended_us - start_us).div_ceil(5000));
    assert_eq!(result.driver.dropped, 0);
    assert!(wrong > 0 && well > 200, "{errors:?}, {well} went well");
    // Dead connections are not kept for later: the last half second is free of them.
    let late = result.intervals.iter().filter(|record| record.start_us >= back_us + 500_000);
    assert!(late.clone().all(|record| record.errors.is_empty()), "{:?}", late.collect::<Vec<_>>());
}

#[tokio::test]
async fn a_changed_schema_costs_one_error_a_connection() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let steps = r#"
        [[scenario.step]]
        route = "read"
        statement = "SELECT * FROM orders WHERE id = $1"
        parameters = ["{{ feed.orders.id }}"]
        "#;
    let clock = Clock::start();
    let workload = scenario("rate_per_s = 200\nconnections_max = 1", steps);
    let traffic = start(workload, server.options(APPLICATION), clock).await.unwrap();
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 300_000).await;
    execute(&mut server.admin().await, "ALTER TABLE orders ADD COLUMN channel text").await;
    let result = traffic.stop_at(start_us + 800_000).await.unwrap();
    // `cached plan must not change result type`: once, then the statement is prepared again.
    assert_eq!(sums(&result, "read"), (160, BTreeMap::from([(kind("sql-0A000"), 1)]), 159));
}

#[tokio::test]
async fn what_does_not_fit_the_database_is_told_before_anything_is_sent() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let step =
        |lines: &str| scenario("rate_per_s = 1", &format!("[[scenario.step]]\nroute = \"r\"\n{lines}"));
    let cases = [
        (
            "statement = \"SELECT * FROM nobody\"",
            "scenario `sql`, step `r`: the server does not take `SELECT * FROM nobody`",
        ),
        ("statement = \"SELECT $1 + 1\"", "takes 1 parameters, and `parameters` gives 0"),
        (
            "statement = \"SELECT $1 + 1\"\nparameters = [\"{{ feed.orders.state }}\"]",
            "parameter $1: `new` is no value of the type integer",
        ),
        (
            "statement = \"SELECT $1::int\"\nparameters = [\"{{ feed.orders.total }}\"]",
            "feeder `orders` gives no column `total`",
        ),
        (
            "statement = \"INSERT INTO orders VALUES (1) RETURNING id\"\nacknowledged = { key = \"1\", value = [\"total\"], read_back = \"SELECT total FROM orders WHERE id = $1\" }",
            "the last statement does not return: add RETURNING",
        ),
        (
            "statement = \"SELECT 1\"\nacknowledged = { key = \"1\", read_back = \"SELECT total FROM orders\" }",
            "must take one parameter, the key as $1",
        ),
    ];
    for (lines, expected) in cases {
        let error =
            start(step(lines), server.options(APPLICATION), Clock::start()).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nshould contain {expected}");
    }
    let fine = || step("statement = \"SELECT 1\"");
    let elsewhere = server.options(APPLICATION).host("192.0.2.1");
    let error = start(fine(), elsewhere, Clock::start()).await.unwrap_err().to_string();
    assert!(error.contains("database `app`: traffic goes to loopback"), "{error}");
    let plan = TrafficPlan {
        workload: fine(),
        base_url: None,
        databases: BTreeMap::new(),
        clock: Clock::start(),
        seed: 1,
        users_stream: None,
    };
    let error = Traffic::start(plan).await.unwrap_err().to_string();
    assert!(error.contains("database `app`: the workload needs it"), "{error}");
}

/// Requests a second of the truth test.
const RATE: u64 = 500;

/// Locks the table again and again; compares what the pump says with what follows from the locks' own instants.
async fn truth(server: &Server, connections: usize) {
    let steps = r#"
        [[scenario.step]]
        route = "read"
        statement = "SELECT * FROM orders WHERE id = $1"
        parameters = ["{{ feed.orders.id }}"]
        expect = { rows = 1 }
        "#;
    let clock = Clock::start();
    let settings = format!("rate_per_s = {RATE}\nconnections_max = {connections}\ntimeout_ms = 5000");
    let traffic = start(scenario(&settings, steps), server.options(APPLICATION), clock).await.unwrap();
    let mut admin = server.admin().await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    let mut locks = Vec::new();
    for at_ms in [1_000, 3_500] {
        clock.sleep_until(start_us + at_ms * 1000).await;
        execute(&mut admin, "BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await;
        let locked_us = clock.now_us();
        clock.sleep_until(locked_us + 1_000_000).await;
        execute(&mut admin, "COMMIT").await;
        locks.push((locked_us, clock.now_us()));
    }
    let stop_us = start_us + 6_000_000;
    let result = traffic.stop_at(stop_us).await.unwrap();

    let mut truth = standard_histogram();
    let planned = 6 * RATE;
    for number in 0..planned {
        let due_us = start_us + number * 1_000_000 / RATE;
        let held = locks.iter().find(|(from_us, until_us)| (*from_us..*until_us).contains(&due_us));
        truth.saturating_record(held.map_or(1, |(_, until_us)| until_us - due_us));
    }
    let (mut response, mut service) = (standard_histogram(), standard_histogram());
    for record in &result.intervals {
        response.add(record.response.unpack().unwrap()).unwrap();
        service.add(record.service.unpack().unwrap()).unwrap();
    }
    println!(
        "{connections} connections: truth p90 {} p99 {} max {}, response p50 {} p90 {} p99 {} max {}, service p99 {}, {:?}",
        truth.value_at_quantile(0.9),
        truth.value_at_quantile(0.99),
        truth.max(),
        response.value_at_quantile(0.5),
        response.value_at_quantile(0.9),
        response.value_at_quantile(0.99),
        response.max(),
        service.value_at_quantile(0.99),
        result.driver.send_lag,
    );
    assert_eq!(sums(&result, "read"), (planned, BTreeMap::new(), planned));
    // A factor of two is caught, a busy machine is not.
    for (said, is) in [
        (response.value_at_quantile(0.9), truth.value_at_quantile(0.9)),
        (response.value_at_quantile(0.99), truth.value_at_quantile(0.99)),
        (response.max(), truth.max()),
    ] {
        assert!(said * 10 > is * 9 && said * 2 < is * 3, "the pump says {said} µs, and {is} µs is true");
    }
    if connections == 8 {
        // Two locks met eight requests each on a connection: a clock that starts at the sending misses the rest.
        assert!(service.value_at_quantile(0.99) < truth.value_at_quantile(0.99) / 2);
    }
}

#[tokio::test]
async fn a_locked_table_is_told_as_it_was() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    truth(&server, 8).await;
    truth(&server, 64).await;
}
