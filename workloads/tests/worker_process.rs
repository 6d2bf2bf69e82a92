//! The users' worker as a real child process: its pipes, its silence on standard output, its end.
//!
//! The program starts itself once more as the worker, as the harness does with its hidden command.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that fails")]

mod support;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use fulldress_workloads::traffic::{Traffic, TrafficPlan, UsersReader, UsersWriter};
use fulldress_workloads::worker::worker_process;
use support::{Reply, Server, sums, workload};

const NAME: &str = "a_worker_process_reports_over_its_pipes_and_ends";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if arguments == ["worker"] {
        runtime.block_on(worker_process()).unwrap();
    } else if arguments.iter().any(|argument| argument == "--list") {
        // Test runners ask for the names first.
        if !arguments.iter().any(|argument| argument == "--ignored") {
            println!("{NAME}: test");
        }
    } else if arguments.iter().all(|argument| argument.starts_with('-') || NAME.contains(argument.as_str())) {
        runtime.block_on(play());
        println!("test {NAME} ... ok");
    }
}

#[expect(clippy::disallowed_methods, reason = "stands in for harness::process, which workloads cannot use")]
async fn play() {
    let server = Server::start(|_| Reply::Answer(200, "{}".to_owned()));
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .arg("worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let reader: UsersReader = Box::new(child.stdout.take().unwrap());
    let writer: UsersWriter = Box::new(child.stdin.take().unwrap());
    let workload = workload(
        "[[scenario]]\nname = \"u\"\nmodel = \"users\"\nusers = 2\nthink_ms = { min = 5, max = 10 }\n\
         [[scenario.step]]\nroute = \"r\"\nmethod = \"GET\"\npath = \"/\"\n\
         [[scenario]]\nname = \"idle\"\nmodel = \"users\"\nusers = 2\nthink_ms = { min = 50, max = 100 }\n\
         [[scenario.step]]\nroute = \"never\"\nmethod = \"GET\"\npath = \"/never\"\nwhen = \"false\"\n",
    );
    let clock = Clock::start();
    let base_url = server.url.clone();
    let plan = TrafficPlan {
        workload,
        base_url: Some(base_url),
        databases: BTreeMap::default(),
        clock,
        seed: 3,
        users_stream: Some((reader, writer)),
    };
    let traffic = Traffic::start(plan).await.unwrap();
    let start_us = traffic.enter_phase(Phase::Baseline);
    clock.sleep_until(start_us + 700_000).await;
    let result = traffic.stop().await.unwrap();
    let status = tokio::time::timeout(Duration::from_secs(2), child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(result.driver.worker_lost, None);
    let all = sums(&result.intervals, |_| true);
    assert!(all.planned > 20 && all.errors.is_empty(), "{all:?}");
    assert_eq!(all.planned, server.seen().len() as u64);
    assert!(result.intervals.iter().all(|record| record.route == "r"));
    // Users with nothing to do think all the same: without a pause they would take a core for themselves.
    assert!(result.driver.cpu_us < result.driver.wall_us, "{:?}", result.driver);
}
