//! `fulldress load` as a person runs it: a check, traffic alone with its files, and Ctrl-C.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure here is the test's failure")]

#[expect(dead_code, reason = "the storefront is not played here")]
#[path = "support/program.rs"]
mod program;
#[expect(dead_code, reason = "no recorder is needed here")]
#[path = "support/server.rs"]
mod server;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use fulldress::mirror::cluster::Programs;
use fulldress_workloads::clock::Clock;
use program::{Ended, fulldress};
use rustix::process::{Pid, Signal, kill_process};
use server::{APPLICATION, PASSWORD, Server, until};

const HEAD: &str = "schema = \"fulldress/workload/1\"\nname = \"test\"\n[[scenario]]\nname = \"reads\"\n\
                    model = \"arrivals\"\nrate_per_s = 100\ndatabase = \"app\"\nconnections_max = 4\n";
const READ: &str = "[[scenario.step]]\nroute = \"order by key\"\nstatement = \"SELECT * FROM orders WHERE id = $1\"\n\
                    parameters = [\"{{ random(1, 1000) }}\"]\nexpect = { rows = 1 }\n";
const WRONG: &str = "[[scenario.step]]\nroute = \"no order\"\nstatement = \"SELECT * FROM orders WHERE id = 0\"\n\
                     expect = { rows = 1 }\n";
const HANGS: &str = "[[scenario.step]]\nroute = \"hangs\"\nstatement = \"SELECT pg_sleep(30)\"\n";

/// `fulldress load` of a workload from these parts, with more arguments.
fn load(folder: &Path, server: &Server, parts: &[&str], arguments: &[&str]) -> Child {
    let workload = folder.join("workload.toml");
    std::fs::write(&workload, parts.concat()).unwrap();
    let url = server.cluster.url(APPLICATION, PASSWORD, "postgres");
    let mut command = fulldress();
    command.arg("load").arg(workload).arg("--database").arg(format!("app={url}")).args(arguments);
    command.env("FULLDRESS_STATE", folder.join("state")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

async fn ended(child: Child) -> Ended {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap().into()).await.unwrap()
}

#[tokio::test]
async fn a_check_sends_every_step_once_and_says_which_is_wrong() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let folder = tempfile::tempdir().unwrap();
    let right = ended(load(folder.path(), &server, &[HEAD, READ], &["--check"])).await.expect_code(0);
    right.expect_said("reads order by key").expect_said("right");
    let wrong = load(folder.path(), &server, &[HEAD, READ, WRONG], &["--check", "--format", "json"]);
    let wrong = ended(wrong).await.expect_code(1);
    let steps: serde_json::Value = serde_json::from_str(&wrong.stdout).unwrap();
    let errors: Vec<_> = steps.as_array().unwrap().iter().map(|step| &step["error"]).collect();
    assert_eq!(errors, [&serde_json::Value::Null, &"wrong-body".into()]);
    assert_eq!(steps[1]["said"], "0 rows");
    let refused = WRONG.replace("WHERE id = 0", "WHERE 1 / (id - id) = 0");
    ended(load(folder.path(), &server, &[HEAD, &refused], &["--check"]))
        .await
        .expect_code(1)
        .expect_said("WRONG: sql-22012 (division by zero)");
    let unknown = HEAD.replace("\"app\"", "\"other\"");
    ended(load(folder.path(), &server, &[&unknown, READ], &["--check"]))
        .await
        .expect_code(2)
        .expect_said("database `other`: the workload needs it");
}

#[tokio::test]
async fn traffic_alone_leaves_a_table_and_its_histograms() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let arguments = ["--duration", "1", "--out", out.to_str().unwrap()];
    let ended = ended(load(folder.path(), &server, &[HEAD, READ], &arguments)).await.expect_code(0);
    ended.expect_said("order by key 100 100 0").expect_said("100.00 % of the arrivals were sent");
    let log = std::fs::read_to_string(out.join("latency.hlog")).unwrap();
    assert!(log.contains("route=order%20by%20key;clock=response"), "{log}");
    let traffic: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("traffic.json")).unwrap()).unwrap();
    assert_eq!(traffic["driver"]["planned"], 100);
    let part = part_of_a_second(&server, folder.path(), "2/3").await.expect_code(0);
    part.expect_said("order by key 33 33 0");
    part_of_a_second(&server, folder.path(), "4/3")
        .await
        .expect_code(2)
        .expect_said("write 2/3 for the second of three");
}

/// One part of a second of reads.
async fn part_of_a_second(server: &Server, folder: &Path, part: &str) -> Ended {
    ended(load(folder, server, &[HEAD, READ], &["--duration", "1", "--part", part])).await
}

#[tokio::test]
async fn ctrl_c_ends_it_within_two_seconds_and_tells_what_was_measured() {
    let server = Server::start(&Programs::find(None).unwrap().folder).await;
    let folder = tempfile::tempdir().unwrap();
    let child = load(folder.path(), &server, &[HEAD, HANGS], &["--duration", "60"]);
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    let hanging =
        "SELECT count(*) = 4 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'";
    until(&mut server.admin().await, hanging).await;
    let clock = Clock::start();
    kill_process(pid, Signal::INT).unwrap();
    let ended = ended(child).await.expect_code(0);
    let took_us = clock.now_us();
    assert!(took_us < 2_000_000, "{took_us} µs");
    ended.expect_said("4 timeout");
}

/// A shop that gives the cart `c-7`, and what it was asked; each request has a connection of its own.
fn shop() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let Some(first) = lines.next() else { continue };
            // No request has a body.
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let asked = first.trim_end_matches(" HTTP/1.1").to_owned();
            let (status, body) = match asked.as_str() {
                "POST /carts" => ("201 Created", r#"{"id": "c-7"}"#),
                "GET /carts/c-7" => ("200 OK", r#"{"items": []}"#),
                _ => ("404 Not Found", ""),
            };
            log.lock().unwrap().push(asked);
            let length = body.len();
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
            // A client that has gone needs no answer.
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
        }
    });
    (url, seen)
}

#[tokio::test]
async fn journeys_are_walked_by_the_check_and_by_the_load() {
    let (url, seen) = shop();
    let folder = tempfile::tempdir().unwrap();
    let workload = folder.path().join("workload.toml");
    let text = "schema = \"fulldress/workload/1\"\nname = \"test\"\n[[scenario]]\nname = \"shoppers\"\nmodel = \"users\"\n\
                users = 2\nthink_ms = { min = 5, max = 20 }\n\
                [[scenario.step]]\nroute = \"cart\"\nmethod = \"POST\"\npath = \"/carts\"\nexpect = { status = 201 }\n\
                extract = { cart = \"/id\" }\n\
                [[scenario.step]]\nroute = \"items\"\nmethod = \"GET\"\npath = \"/carts/{{ cart }}\"\n\
                [[scenario.step]]\nroute = \"refund\"\nmethod = \"POST\"\npath = \"/refunds\"\nwhen = \"cart == 'none'\"\n";
    std::fs::write(&workload, text).unwrap();
    let load = |arguments: &[&str]| {
        let mut command = fulldress();
        command.arg("load").arg(&workload).args(["--base-url", &url]).args(arguments);
        command
            .env("FULLDRESS_STATE", folder.path().join("state"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let checked = ended(load(&["--check"])).await.expect_code(0);
    checked
        .expect_said("shoppers cart")
        .expect_said("shoppers items")
        .expect_said("shoppers refund 0 µs skipped: its condition does not hold");
    assert_eq!(*seen.lock().unwrap(), ["POST /carts", "GET /carts/c-7"]);
    let played = ended(load(&["--duration", "2", "--format", "json"])).await.expect_code(0);
    let traffic: serde_json::Value = serde_json::from_str(&played.stdout).unwrap();
    assert_eq!(traffic["driver"]["worker_lost"], serde_json::Value::Null);
    let routes = traffic["routes"].as_array().unwrap();
    let sent = routes.iter().map(|route| route["sent"].as_u64().unwrap()).sum::<u64>();
    assert!(routes.len() == 2 && sent > 20, "{}", played.stdout);
    assert!(!folder.path().join("state").exists(), "the run's folder is gone again");
}
