//! The closed model: worker and pump over an in-memory pipe, against a real server on loopback.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that fails")]

mod support;

use std::collections::BTreeMap;

use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, Model, WriteAnswer};
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::{Traffic, TrafficPlan};
use fulldress_workloads::worker::{WorkerError, worker};
use support::{Reply, Server, in_phase, sums, workload};
use tokio::task::JoinHandle;

fn journey(timeout_ms: u64) -> Workload {
    workload(&format!(
        r#"
        [[scenario]]
        name = "shoppers"
        model = "users"
        users = 4
        think_ms = {{ min = 5, max = 20 }}
        timeout_ms = {timeout_ms}
        [[scenario.step]]
        route = "POST /carts"
        method = "POST"
        path = "/carts"
        body = '{{"customer_id": {{{{ random(1, 9) }}}}}}'
        expect = {{ status = 201 }}
        extract = {{ cart_id = "/id" }}
        [[scenario.step]]
        route = "checkout"
        method = "POST"
        path = "/carts/{{{{ cart_id }}}}/checkout"
        headers = {{ Idempotency-Key = "{{{{ key }}}}" }}
        expect = {{ status = 201 }}
        acknowledged = {{ key = "{{{{ key }}}}", value = ["/total_cents"], read_back = "/orders/by-key/{{{{ key }}}}" }}
        "#
    ))
}

/// Traffic whose worker runs as a task of this process.
async fn start(
    workload: Workload,
    base_url: &str,
    clock: Clock,
) -> (Traffic, JoinHandle<Result<(), WorkerError>>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (reader, writer) = tokio::io::split(theirs);
    let running = tokio::spawn(worker(reader, writer));
    let (reader, writer) = tokio::io::split(ours);
    let users_stream: Option<(Box<_>, Box<_>)> = Some((Box::new(reader), Box::new(writer)));
    let users_stream = users_stream.map(|(reader, writer)| (reader as _, writer as _));
    let plan = TrafficPlan {
        workload,
        base_url: Some(base_url.to_owned()),
        databases: BTreeMap::new(),
        clock,
        seed: 7,
        users_stream,
    };
    (Traffic::start(plan).await.unwrap(), running)
}

fn shop() -> Server {
    Server::start(|seen| match seen.path.as_str() {
        "/carts" => Reply::Answer(201, r#"{"id": "c-7"}"#.to_owned()),
        "/carts/c-7/checkout" => Reply::Answer(201, r#"{"id": 1, "total_cents": 450}"#.to_owned()),
        _ => Reply::Answer(404, String::new()),
    })
}

#[tokio::test]
async fn users_walk_their_journey_and_everything_is_reported() {
    let server = shop();
    let clock = Clock::start();
    let (traffic, running) = start(journey(2000), &server.url, clock).await;
    let first_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(first_us + 900_000).await;
    assert!(traffic.figures().rate_per_s > 10.0, "{:?}", traffic.figures());
    let second_us = traffic.enter_phase(Phase::Upgrade);
    clock.sleep_until(second_us + 500_000).await;
    let told_us = clock.now_us();
    let result = traffic.stop().await.unwrap();
    assert!(clock.now_us() - told_us < 2_000_000);
    running.await.unwrap().unwrap();
    assert_eq!(result.driver.worker_lost, None);

    let all = sums(&result.intervals, |record| record.model == Model::Users);
    assert!(all.errors.is_empty(), "{:?}", all.errors);
    assert_eq!(all.planned, server.seen().len() as u64);
    assert_eq!((all.sent, all.response.len()), (all.planned, all.planned));
    // Four users with about 13 ms of thought: at least 50 requests a second even on a busy machine.
    assert!(all.planned > 50, "{}", all.planned);
    assert!(in_phase(&result.intervals, Phase::Upgrade).planned > 5);
    for record in &result.intervals {
        let phase_start_us = if record.phase == Phase::Upgrade { second_us } else { first_us };
        assert_eq!((record.start_us - phase_start_us) % record.phase.interval_us(), 0);
    }
    let checkouts = sums(&result.intervals, |record| record.route == "checkout");
    assert_eq!(result.ledger.len() as u64, checkouts.planned);
    for entry in &result.ledger {
        assert_eq!(entry.answer, WriteAnswer::Acknowledged);
        assert_eq!(entry.value, serde_json::json!({"/total_cents": 450}));
        assert!(server.seen().iter().any(|seen| seen.key.as_ref() == Some(&entry.key)));
    }
    assert_eq!(result.driver.planned, 0, "the driver's account is about the open model");
}

#[tokio::test]
async fn a_hanging_system_does_not_keep_the_worker() {
    let server = shop();
    let clock = Clock::start();
    let (traffic, running) = start(journey(60_000), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 300_000).await;
    server.frozen.send_replace(true);
    clock.sleep_until(start_us + 600_000).await;
    let told_us = clock.now_us();
    let result = traffic.stop().await.unwrap();
    assert!(clock.now_us() - told_us < 2_200_000, "{}", clock.now_us() - told_us);
    running.await.unwrap().unwrap();
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.errors, [(ErrorKind::Timeout, 4)].into());
    let checkouts = sums(&result.intervals, |record| record.route == "checkout").errors;
    let unknown = result.ledger.iter().filter(|entry| entry.answer == WriteAnswer::Indeterminate).count();
    assert_eq!(unknown as u64, checkouts.values().sum::<u64>());
}

#[tokio::test]
async fn an_error_ends_the_journey_with_its_kind() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/carts" => Reply::Break,
        _ => Reply::Answer(201, String::new()),
    });
    let clock = Clock::start();
    let (traffic, _running) = start(journey(2000), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Rollback);
    let result = traffic.stop_at(start_us + 400_000).await.unwrap();
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.errors, [(ErrorKind::Reset, all.planned)].into());
    assert!(all.planned > 4 && result.intervals.iter().all(|record| record.route == "POST /carts"));
}

#[tokio::test]
async fn a_journey_follows_what_it_finds_in_answers() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/login" => {
            Reply::With("X-Token", "token t-5;".to_owned(), "<input name=csrf value='c-9'>".to_owned())
        }
        "/products" => Reply::Answer(200, r#"{"stock": 3}"#.to_owned()),
        path if path.ends_with("/t-5/c-9") => Reply::Answer(200, String::new()),
        _ => Reply::Answer(404, String::new()),
    });
    let workload = workload(
        r#"
        [[scenario]]
        name = "shoppers"
        model = "users"
        users = 3
        think_ms = { min = 5, max = 20 }
        [[scenario.step]]
        route = "login"
        method = "POST"
        path = "/login"
        when = "token is not defined"
        extract = { token = { header = "X-Token", regex = 'token (\S+);' }, csrf = { regex = "value='([^']*)'" } }
        [[scenario.step]]
        route = "look"
        method = "GET"
        path = "/products"
        extract = { stock = "/stock" }
        [[scenario.step]]
        route = "buy"
        method = "POST"
        path = "/buy/{{ token }}/{{ csrf }}"
        when = "stock > 2"
        [[scenario.step]]
        route = "order more"
        method = "POST"
        path = "/more/{{ token }}/{{ csrf }}"
        when = "stock <= 2"
        "#,
    );
    let clock = Clock::start();
    let (traffic, running) = start(workload, &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 600_000).await;
    let result = traffic.stop().await.unwrap();
    running.await.unwrap().unwrap();
    let planned = |route: &str| sums(&result.intervals, |record| record.route == route).planned;
    let all = sums(&result.intervals, |_| true);
    assert!(all.errors.is_empty(), "{:?}", all.errors);
    assert_eq!((planned("login"), planned("order more")), (3, 0), "a user keeps what it was given");
    let (looked, bought) = (planned("look"), planned("buy"));
    assert!(looked > 20 && bought <= looked && bought + 3 >= looked, "{looked} looked, {bought} bought");
    assert_eq!(all.planned, server.seen().len() as u64);
}

#[tokio::test]
async fn the_worker_ends_when_the_harness_is_gone() {
    let server = shop();
    let clock = Clock::start();
    let (traffic, running) = start(journey(2000), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 200_000).await;
    let gone_us = clock.now_us();
    drop(traffic);
    // Writing its last lines may fail, since nobody reads them; ending is what counts.
    drop(running.await.unwrap());
    assert!(clock.now_us() - gone_us < 2_000_000);
}

#[tokio::test]
async fn a_worker_that_dies_is_a_fact_about_the_driver() {
    let server = shop();
    let clock = Clock::start();
    let (traffic, running) = start(journey(2000), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 1_500_000).await;
    running.abort();
    let result = traffic.stop().await.unwrap();
    let lost = result.driver.worker_lost.unwrap();
    assert!(lost.contains("closed its output"), "{lost}");
}

#[tokio::test]
async fn a_first_line_that_is_none_is_refused() {
    let (mut ours, theirs) = tokio::io::duplex(4096);
    let (reader, writer) = tokio::io::split(theirs);
    tokio::io::AsyncWriteExt::write_all(&mut ours, b"{}\n").await.unwrap();
    let error = worker(reader, writer).await.unwrap_err();
    assert!(error.to_string().contains("started by `fulldress run`"), "{error}");
    let mut told = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut ours, &mut told).await.unwrap();
    assert!(told.starts_with(r#"{"failed":"read the first line"#), "{told}");
}
