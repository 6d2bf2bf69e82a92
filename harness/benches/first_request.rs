//! How long from `fulldress run` to the first request in containers, against `docker compose up --wait` alone, on the
//! bookings' unchanged compose file. Both take turns on one machine; the ratio of the medians is what counts.
//!
//! `cargo bench --profile dev --bench first_request`, after `make images`.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that fails says so and ends"
)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fulldress_workloads::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};

/// Turns of each.
const ROUNDS: usize = 5;
/// The name of the project that Compose alone starts.
const PROJECT: &str = "fulldress-bench";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned();
    let (mut alone, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.push(compose(&root));
        ours.push(fulldress(&root, round));
        println!("round {round}: compose alone {:.1} s, fulldress {:.1} s", alone[round], ours[round]);
    }
    let (alone, ours) = (median(alone), median(ours));
    println!(
        "median: compose alone {alone:.1} s, fulldress {ours:.1} s, ratio {:.2} (limit 1.5)",
        ours / alone
    );
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// A command with the images of `make images`.
fn command(root: &Path, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let images = std::fs::read_to_string(root.join("target/images.env")).unwrap_or_default();
    command.envs(images.lines().filter_map(|line| line.split_once('=')));
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn seconds(since: Clock) -> f64 {
    std::time::Duration::from_micros(since.now_us()).as_secs_f64()
}

fn compose(root: &Path) -> f64 {
    let file = root.join("fixtures/bookings/compose.yaml");
    let call = |arguments: &[&str]| {
        let mut command = command(root, "docker");
        command.args(["compose", "--project-name", PROJECT, "--file"]).arg(&file).args(arguments);
        assert!(command.status().unwrap().success(), "docker compose {}", arguments.join(" "));
    };
    let clock = Clock::start();
    call(&["up", "--detach", "--wait"]);
    let taken = seconds(clock);
    call(&["down", "--volumes"]);
    taken
}

fn fulldress(root: &Path, round: usize) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join(round.to_string());
    let clock = Clock::start();
    let mut child = command(root, env!("CARGO_BIN_EXE_fulldress"))
        .arg("run")
        .arg(root.join("fixtures/bookings/rehearsal.toml"))
        .args(["--quiet", "--mirror", "compose", "--out"])
        .arg(&bundle)
        .spawn()
        .unwrap();
    await_traffic(&mut child, bundle.join("events.jsonl"));
    let taken = seconds(clock);
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    child.wait().unwrap();
    taken
}

/// The warmup begins with the first request.
fn await_traffic(child: &mut Child, events: PathBuf) {
    let begun = r#""event":"phase-started","data":"warmup""#;
    while !std::fs::read_to_string(&events).is_ok_and(|text| text.contains(begun)) {
        assert!(child.try_wait().unwrap().is_none(), "the rehearsal ended before its traffic began");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
