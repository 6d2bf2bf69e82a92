//! The open model against a real server on loopback.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that fails")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fulldress_reports::latency::standard_histogram;
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, WriteAnswer};
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::{Traffic, TrafficError, TrafficPlan};
use support::{Reply, Server, arrivals, in_phase, orders, refused_url, start, sums};

fn fine() -> Reply {
    Reply::Answer(200, r#"{"id": 1}"#.to_owned())
}

#[tokio::test]
async fn every_planned_request_is_in_one_phase_and_one_bucket() {
    let server = Server::start(|_| fine());
    let clock = Clock::start();
    let traffic = start(arrivals("rate_per_s = 200", &["/a", "/b"]), &server.url, clock).await;
    let first_us = traffic.enter_phase(Phase::Warmup);
    clock.sleep_until(first_us + 400_000).await;
    let second_us = traffic.enter_phase(Phase::Upgrade);
    clock.sleep_until(second_us + 500_000).await;
    let third_us = traffic.enter_phase(Phase::Soak);
    let result = traffic.stop_at(third_us + 300_000).await.unwrap();

    // Arrivals stand at first_us + n * 5 ms.
    let before = |end_us: u64| (end_us - first_us).div_ceil(5000);
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.planned, before(third_us + 300_000));
    assert_eq!(in_phase(&result.intervals, Phase::Warmup).planned, before(second_us));
    assert_eq!(in_phase(&result.intervals, Phase::Upgrade).planned, before(third_us) - before(second_us));
    assert!(all.errors.is_empty(), "{:?}", all.errors);
    assert_eq!((all.sent, all.response.len(), all.service.len()), (all.planned, all.planned, all.planned));
    assert_eq!(server.seen().len() as u64, all.planned);
    assert_eq!(
        (result.driver.planned, result.driver.sent, result.driver.dropped),
        (all.planned, all.planned, 0)
    );
    assert_eq!(result.driver.send_lag.count, all.planned);
    assert_eq!(result.ended_us, third_us + 300_000);
    assert_eq!(result.driver.wall_us, result.ended_us - first_us);
    assert!(result.driver.cpu_us > 0 && result.driver.worker_lost.is_none());
    for record in &result.intervals {
        let (start_us, end_us) = match record.phase {
            Phase::Warmup => (first_us, second_us),
            Phase::Upgrade => (second_us, third_us),
            _ => (third_us, third_us + 300_000),
        };
        assert_eq!((record.start_us - start_us) % record.phase.interval_us(), 0);
        assert!(record.start_us + record.length_us <= end_us, "{record:?}");
    }
    assert!(result.intervals.iter().filter(|record| record.phase == Phase::Upgrade).count() >= 10);
}

/// Requests a second of the truth test.
const RATE: u64 = 500;

/// Freezes the server twice, and holds what the pump says against what follows from the server's own instants.
async fn truth(connections: u64) {
    let server = Server::start(|_| fine());
    let clock = Clock::start();
    let settings = format!("rate_per_s = {RATE}\nconnections_max = {connections}");
    let traffic = start(arrivals(&settings, &["/a"]), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    let mut freezes = Vec::new();
    for at_ms in [500, 2200] {
        clock.sleep_until(start_us + at_ms * 1000).await;
        freezes.push(server.freeze(clock, Duration::from_millis(800)).await);
    }
    let result = traffic.stop_at(start_us + 4_000_000).await.unwrap();

    let planned = 4 * RATE;
    let mut truth = standard_histogram();
    for number in 0..planned {
        let due_us = start_us + number * 1_000_000 / RATE;
        let frozen = freezes.iter().find(|(from_us, until_us)| (*from_us..*until_us).contains(&due_us));
        truth.saturating_record(frozen.map_or(1, |(_, until_us)| until_us - due_us));
    }
    let all = sums(&result.intervals, |_| true);
    let said = |quantile: f64| (all.response.value_at_quantile(quantile), truth.value_at_quantile(quantile));
    println!(
        "{connections} connections: said and true p90 {:?} p99 {:?} max {:?}, p50 {}, service p90 {}, {:?}",
        said(0.9),
        said(0.99),
        (all.response.max(), truth.max()),
        said(0.5).0,
        all.service.value_at_quantile(0.9),
        result.driver.send_lag,
    );
    assert_eq!((all.planned, all.errors.len(), all.response.len()), (planned, 0, planned));
    assert_eq!(server.seen().len() as u64, planned);
    // A factor of two is caught, a busy machine is not.
    for (said, is) in [said(0.9), said(0.99), (all.response.max(), truth.max())] {
        assert!(said * 10 > is * 9 && said * 2 < is * 3, "the pump says {said} µs, and {is} µs is true");
    }
    // Six in ten requests met no freeze, and nothing is invented for them.
    assert!(said(0.5).0 < truth.max() / 8, "p50 {} µs", said(0.5).0);
    // Two freezes met one request on each connection: a clock that starts at the sending misses all others.
    assert!(all.service.value_at_quantile(0.9) < truth.value_at_quantile(0.9) / 2);
}

#[tokio::test]
async fn a_frozen_server_is_told_as_it_was_with_8_connections() {
    truth(8).await;
}

#[tokio::test]
async fn a_frozen_server_is_told_as_it_was_with_64_connections() {
    truth(64).await;
}

#[tokio::test]
async fn errors_have_their_kind() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/fine" => fine(),
        "/missing" => Reply::Answer(404, String::new()),
        "/down" => Reply::Answer(503, String::new()),
        "/elsewhere" => Reply::Answer(302, String::new()),
        "/wrong" => Reply::Answer(200, "{}".to_owned()),
        "/garbage" => Reply::Answer(200, "<html>".to_owned()),
        "/break" => Reply::Break,
        _ => Reply::Hang,
    });
    let expected = [
        ("/fine", None),
        ("/missing", Some(ErrorKind::Status4xx)),
        ("/down", Some(ErrorKind::Status5xx)),
        ("/elsewhere", Some(ErrorKind::StatusOther)),
        ("/wrong", Some(ErrorKind::WrongBody)),
        ("/garbage", Some(ErrorKind::WrongBody)),
        ("/break", Some(ErrorKind::Reset)),
        ("/hang", Some(ErrorKind::Timeout)),
    ];
    let clock = Clock::start();
    let paths: Vec<&str> = expected.iter().map(|(path, _)| *path).collect();
    let traffic = start(arrivals("rate_per_s = 200\ntimeout_ms = 150", &paths), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    let result = traffic.stop_at(start_us + 1_000_000).await.unwrap();
    for (path, kind) in expected {
        let route = sums(&result.intervals, |record| record.route == path);
        assert!(route.planned > 5, "{path}: {}", route.planned);
        match kind {
            None => assert_eq!((route.errors.len(), route.response.len()), (0, route.planned), "{path}"),
            Some(kind) => {
                assert_eq!(route.errors, [(kind, route.planned)].into(), "{path}");
                assert_eq!(route.response.len(), 0, "{path}");
            }
        }
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error_and_no_ledger_entry() {
    let clock = Clock::start();
    let traffic = start(orders("rate_per_s = 100"), &refused_url(), clock).await;
    let start_us = traffic.enter_phase(Phase::Rollback);
    let result = traffic.stop_at(start_us + 300_000).await.unwrap();
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.planned, 30);
    assert_eq!(all.errors, [(ErrorKind::Connect, 30)].into());
    // The driver offered them: the system under test is what refused.
    assert_eq!((result.driver.sent, result.driver.dropped), (30, 0));
    assert!(result.ledger.is_empty());
}

#[tokio::test]
async fn a_full_backlog_drops_and_says_so() {
    let server = Server::start(|_| fine());
    server.frozen.send_replace(true);
    let clock = Clock::start();
    let settings = "rate_per_s = 100\nconnections_max = 2\nbacklog_max = 5";
    let traffic = start(arrivals(settings, &["/a"]), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 500_000).await;
    let figures = traffic.figures();
    assert!(figures.errors >= 40 && figures.in_flight == 2, "{figures:?}");
    server.frozen.send_replace(false);
    let result = traffic.stop_at(start_us + 600_000).await.unwrap();
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.planned, 60);
    assert_eq!(all.errors.keys().collect::<Vec<_>>(), [&ErrorKind::Dropped]);
    assert_eq!(result.driver.dropped, all.errors[&ErrorKind::Dropped]);
    assert_eq!((result.driver.sent, all.sent), (60 - result.driver.dropped, 60 - result.driver.dropped));
    assert!(result.driver.dropped >= 40, "{:?}", result.driver);
    assert_eq!(all.response.len() + result.driver.dropped, 60);
}

#[tokio::test]
async fn the_ledger_holds_what_was_acknowledged_and_what_nobody_knows() {
    let server = Server::start(|seen| match seen.body.as_str() {
        r#"{"customer_id": 1}"# => Reply::Break,
        r#"{"customer_id": 2}"# => Reply::Answer(503, String::new()),
        r#"{"customer_id": 3}"# => Reply::Answer(422, String::new()),
        _ => Reply::Answer(201, r#"{"id": 4, "total_cents": 990}"#.to_owned()),
    });
    let clock = Clock::start();
    let traffic = start(orders("rate_per_s = 300"), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Soak);
    let result = traffic.stop_at(start_us + 700_000).await.unwrap();
    let seen = server.seen();
    assert_eq!(seen.len(), 210);
    let keys: BTreeSet<_> = seen.iter().filter_map(|seen| seen.key.clone()).collect();
    assert_eq!(keys.len(), 210, "every request has a key of its own");
    for seen in &seen {
        let entry = result.ledger.iter().find(|entry| Some(&entry.key) == seen.key.as_ref());
        let answer = match seen.body.as_str() {
            r#"{"customer_id": 1}"# | r#"{"customer_id": 2}"# => Some(WriteAnswer::Indeterminate),
            r#"{"customer_id": 3}"# => None,
            _ => Some(WriteAnswer::Acknowledged),
        };
        assert_eq!(entry.map(|entry| entry.answer), answer, "{seen:?}");
        let Some(entry) = entry else { continue };
        assert_eq!(entry.read_back, format!("/orders/by-key/{}", entry.key));
        assert_eq!((entry.phase, entry.route.as_str()), (Phase::Soak, "POST /orders"));
        let value = match entry.answer {
            WriteAnswer::Acknowledged => serde_json::json!({"/total_cents": 990}),
            WriteAnswer::Indeterminate => serde_json::Value::Null,
        };
        assert_eq!(entry.value, value);
        assert!(entry.answered_us >= start_us);
    }
}

#[tokio::test]
async fn a_stop_cuts_off_what_hangs_within_its_limit() {
    let server = Server::start(|_| Reply::Hang);
    let clock = Clock::start();
    let settings = "rate_per_s = 50\nconnections_max = 3\ntimeout_ms = 60000";
    let traffic = start(orders(settings), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    let stop_us = start_us + 200_000;
    let result = traffic.stop_at(stop_us).await.unwrap();
    let took_us = clock.now_us() - stop_us;
    assert!((1_900_000..2_600_000).contains(&took_us), "{took_us}");
    let all = sums(&result.intervals, |_| true);
    assert_eq!(all.planned, 10);
    assert_eq!(all.errors, [(ErrorKind::Timeout, 3), (ErrorKind::Dropped, 7)].into());
    assert_eq!(result.ledger.len(), 3);
    assert!(result.ledger.iter().all(|entry| entry.answer == WriteAnswer::Indeterminate));
}

#[tokio::test]
async fn one_seed_gives_one_sequence_of_requests() {
    let mut sequences = Vec::new();
    for _ in 0..2 {
        let server = Server::start(|_| fine());
        let clock = Clock::start();
        let traffic =
            start(arrivals("rate_per_s = 100\nconnections_max = 1", &["/a", "/b", "/c"]), &server.url, clock)
                .await;
        let start_us = traffic.enter_phase(Phase::Baseline);
        traffic.stop_at(start_us + 300_000).await.unwrap();
        sequences.push(server.seen().into_iter().map(|seen| seen.path).collect::<Vec<_>>());
    }
    assert_eq!(sequences[0].len(), 30);
    assert_eq!(sequences[0], sequences[1]);
}

#[tokio::test]
async fn traffic_leaves_neither_the_machine_nor_its_users_behind() {
    let plan = |workload, base_url: &str| TrafficPlan {
        workload,
        base_url: Some(base_url.to_owned()),
        databases: BTreeMap::new(),
        clock: Clock::start(),
        seed: 1,
        users_stream: None,
    };
    let error = Traffic::start(plan(orders("rate_per_s = 1"), "http://192.0.2.1:80")).await.unwrap_err();
    assert!(matches!(error, TrafficError::Target(_)) && error.to_string().contains("loopback only"));
    let users = support::workload(
        "[[scenario]]\nname = \"u\"\nmodel = \"users\"\nusers = 1\nthink_ms = { min = 1, max = 2 }\n\
         [[scenario.step]]\nroute = \"r\"\nmethod = \"GET\"\npath = \"/\"\n",
    );
    let error = Traffic::start(plan(users, "http://127.0.0.1:1")).await.unwrap_err();
    assert!(error.to_string().contains("need a worker process"), "{error}");
}

#[tokio::test]
async fn a_file_feeds_requests_row_by_row() {
    let server = Server::start(|_| fine());
    let folder = tempfile::tempdir().unwrap();
    let text = "schema = \"fulldress/workload/1\"\nname = \"test\"\n\
                [[feeder]]\nname = \"orders\"\nfile = \"orders.csv\"\norder = \"sequence\"\n\
                [[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 100\nconnections_max = 1\n\
                [[scenario.step]]\nroute = \"r\"\nmethod = \"GET\"\n\
                path = \"/{{ feed.orders.shop }}/{{ feed.orders.id | int + 1 }}\"\n";
    let file = folder.path().join("workload.toml");
    std::fs::write(&file, text).unwrap();
    let plan = || TrafficPlan {
        workload: Workload::load(&file).unwrap(),
        base_url: Some(server.url.clone()),
        databases: BTreeMap::new(),
        clock: Clock::start(),
        seed: 1,
        users_stream: None,
    };
    let refusal = |error: TrafficError| error.to_string();
    assert!(Traffic::start(plan()).await.map_err(refusal).unwrap_err().contains("orders.csv cannot be read"));
    std::fs::write(folder.path().join("orders.csv"), "id,kind\n1,x\n").unwrap();
    let error = Traffic::start(plan()).await.map_err(refusal).unwrap_err();
    assert!(error.contains("feeder `orders` gives no column `shop`, which scenario `a` uses"), "{error}");
    std::fs::write(folder.path().join("orders.csv"), "id,shop\n1,a\n5,b\n").unwrap();
    let traffic = Traffic::start(plan()).await.unwrap();
    let start_us = traffic.enter_phase(Phase::Baseline);
    traffic.stop_at(start_us + 50_000).await.unwrap();
    let paths: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(paths, ["/a/2", "/b/6", "/a/2", "/b/6", "/a/2"]);
}

#[tokio::test]
async fn steps_ramps_and_pauses_arrive_as_stated() {
    let server = Server::start(|_| fine());
    let clock = Clock::start();
    let rates = "rates = [{ for_s = 0.4, rate_per_s = 100 }, { for_s = 0.4, rate_per_s = 100, to_per_s = 400 }, \
                 { for_s = 0.2, rate_per_s = 0 }, { for_s = 0.1, rate_per_s = 50 }]";
    let traffic = start(arrivals(rates, &["/a"]), &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Upgrade);
    let result = traffic.stop_at(start_us + 1_200_000).await.unwrap();
    let mut planned = BTreeMap::new();
    for record in &result.intervals {
        *planned.entry((record.start_us - start_us) / 100_000).or_default() += record.planned;
    }
    // From the integral of the rate up to the end of each tenth of a second, rounded up; the last rate stays.
    let expected = [(0, 10), (1, 10), (2, 10), (3, 10), (4, 14), (5, 21), (6, 29), (7, 36), (10, 5), (11, 5)];
    assert_eq!(planned, BTreeMap::from(expected));
    assert_eq!(server.seen().len(), 150);
    assert!(result.intervals.iter().all(|record| record.errors.is_empty()));
}

#[tokio::test]
async fn parts_send_together_what_the_whole_sends() {
    let rows: String = (0..100).map(|row| format!("{row}\n")).collect();
    let (workload, _folder) = support::workload_beside(
        "ids.csv",
        &format!("id\n{rows}"),
        "[[feeder]]\nname = \"ids\"\nfile = \"ids.csv\"\norder = \"once\"\n\
         [[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 300\nschedule = \"poisson\"\n\
         [[scenario.step]]\nroute = \"a\"\nmethod = \"GET\"\npath = \"/a/{{ feed.ids.id }}/{{ random(1, 9999) }}\"\n\
         [[scenario.step]]\nroute = \"b\"\nmethod = \"GET\"\npath = \"/b/{{ feed.ids.id }}/{{ popular(9999) }}\"\n",
    );
    let play = async |workload: Workload| {
        let server = Server::start(|_| fine());
        let clock = Clock::start();
        let traffic = start(workload, &server.url, clock).await;
        let start_us = traffic.enter_phase(Phase::Baseline);
        let result = traffic.stop_at(start_us + 500_000).await.unwrap();
        let mut paths: Vec<String> = server.seen().into_iter().map(|seen| seen.path).collect();
        paths.sort();
        (paths, sums(&result.intervals, |_| true), result.driver)
    };
    let (whole, sums, driver) = play(workload.clone()).await;
    // Each row was sent once, and what came after the last one is counted and was not sent.
    assert_eq!(whole.len(), 100);
    assert!(sums.planned > 110, "{}", sums.planned);
    assert_eq!(sums.errors, [(ErrorKind::FeederDry, sums.planned - 100)].into());
    assert_eq!((driver.sent, driver.dry, driver.dropped), (100, sums.planned - 100, 0));
    let (mut together, mut planned) = (Vec::new(), 0);
    for part in ["1/3", "2/3", "3/3"] {
        let (paths, sums, _) = play(workload.part(part.parse().unwrap())).await;
        assert!((30..37).contains(&paths.len()), "{part}: {}", paths.len());
        together.extend(paths);
        planned += sums.planned;
    }
    together.sort();
    assert_eq!((together, planned), (whole, sums.planned));
}

#[tokio::test]
async fn a_profile_gives_rate_mix_and_connections() {
    let server = Server::start(|_| fine());
    let (workload, _folder) = support::workload_beside(
        "day.csv",
        "route,minute,rate_per_s,concurrency\nread,10:00,1800,20\nwrite,10:00,200,9\nwrite,10:01,0,9\n",
        "[profile]\nfile = \"day.csv\"\nfrom = \"10:00\"\nfactor = 0.1\n\
         [[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nprofile = true\n\
         [[scenario.step]]\nroute = \"read\"\nmethod = \"GET\"\npath = \"/r\"\n\
         [[scenario.step]]\nroute = \"write\"\nmethod = \"GET\"\npath = \"/w\"\n",
    );
    let clock = Clock::start();
    let traffic = start(workload, &server.url, clock).await;
    server.frozen.send_replace(true);
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 250_000).await;
    // A tenth of 29 clients, rounded up; 50 requests were due by now.
    assert_eq!(traffic.figures().in_flight, 3);
    server.frozen.send_replace(false);
    let result = traffic.stop_at(start_us + 1_000_000).await.unwrap();
    let read = sums(&result.intervals, |record| record.route == "read");
    assert_eq!(result.driver.planned, 200);
    assert!((165..195).contains(&read.planned), "nine in ten: {}", read.planned);
}

#[tokio::test]
async fn a_late_answer_is_an_error_and_still_a_write() {
    let server = Server::start(|_| Reply::Answer(201, r#"{"total_cents": 990}"#.to_owned()));
    let clock = Clock::start();
    let workload = support::workload(
        "[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 100\n\
         [[scenario.step]]\nroute = \"w\"\nmethod = \"POST\"\npath = \"/\"\nbody = '{}'\n\
         expect = { status = 201, latency_ms = 200 }\n\
         acknowledged = { key = \"{{ key }}\", value = [\"/total_cents\"], read_back = \"/{{ key }}\" }\n",
    );
    let traffic = start(workload, &server.url, clock).await;
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 200_000).await;
    let (from_us, until_us) = server.freeze(clock, Duration::from_millis(600)).await;
    let result = traffic.stop_at(start_us + 1_000_000).await.unwrap();
    let all = sums(&result.intervals, |_| true);
    let late = all.errors.get(&ErrorKind::Late).copied().unwrap_or(0);
    // One is due every 10 ms; late are those that had to wait for more than 200 ms of the freeze.
    let expected = (until_us - from_us - 200_000) / 10_000;
    assert!((expected - 1..expected + 20).contains(&late), "{late} late, {expected} expected");
    assert_eq!((all.planned, all.response.len() + late, all.errors.len()), (100, 100, 1));
    assert_eq!(result.ledger.len(), 100);
    assert!(result.ledger.iter().all(|entry| entry.answer == WriteAnswer::Acknowledged));
}
