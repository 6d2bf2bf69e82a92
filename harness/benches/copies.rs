//! How long the mirror in containers takes to copy its database, against `cp -a` of the same volume: the base backup, the
//! way back to it, and the clone for a second runner. All take turns on one machine; the ratio of the medians counts. Each
//! is timed until it is on the disk: a copy that is only in memory says how fast memory is.
//!
//! `cargo bench --profile dev --bench copies`, after `make images`. Needs root, to read the volume.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that fails says so and ends"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use fulldress::inventory::Inventory;
use fulldress::mirror::containers::compose::ComposeMirror;
use fulldress::mirror::containers::engine::{Engine, run_label};
use fulldress::mirror::{DataCopy, Mirror};
use fulldress::plan::Plan;
use fulldress::process::RunFolder;
use fulldress_workloads::clock::Clock;

/// Orders of the dataset: with their lines and what they are about 3.9 GB, so that starting programs is no large part of it.
const ORDERS: &str = "4000000";
/// Turns of each.
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut plan = Plan::read(&root.join("fixtures/storefront/rehearsal.toml")).unwrap();
    let program = PathBuf::from(env!("CARGO_BIN_EXE_fulldress"));
    for word in &mut plan.mirror.dataset.command {
        match word.as_str() {
            "200000" => ORDERS.clone_into(word),
            // The program's neighbours are no neighbours of a benchmark.
            "storefront-seed" => *word = program.with_file_name(&word).display().to_string(),
            _ => {}
        }
    }
    plan.mirror.dataset.timeout_s = 1800;
    let inventory = Arc::new(Inventory::load(&root.join("fixtures/storefront/inventory.toml")).unwrap());
    let run = Arc::new(RunFolder::create().unwrap().0);
    let label = run_label(run.path());
    let engine = Engine::connect().await.unwrap();
    let logs = tempfile::tempdir().unwrap();
    let tell = |what: String| println!("{what}");
    let mirror =
        ComposeMirror::start(engine.clone(), program, Arc::new(plan), inventory, run, logs.path(), tell)
            .await
            .unwrap();
    let (data, size_mb) = data_folder(&label);
    println!("data: {size_mb} MB");
    let mut times: [Vec<f64>; 4] = Default::default();
    for round in 0..ROUNDS {
        times[0].push(copied(&data));
        let clock = flushed();
        mirror.back_up(DataCopy::Before).await.unwrap();
        times[1].push(seconds(clock));
        let clock = flushed();
        mirror.restore(DataCopy::Before).await.unwrap();
        times[2].push(seconds(clock));
        let clock = flushed();
        let clone = mirror.clone_from_snapshot(&format!("clone-{round}"), &[]).await.unwrap();
        times[3].push(seconds(clock));
        clone.stop().await;
        println!(
            "round {round}: cp -a {:.1} s, base backup {:.1} s, restore {:.1} s, clone {:.1} s",
            times[0][round], times[1][round], times[2][round], times[3][round]
        );
    }
    mirror.stop().await;
    engine.sweep(|run| run == label).await.unwrap();
    let [copy, backup, restore, clone] = times.map(median);
    println!(
        "median of {ROUNDS}: cp -a {copy:.1} s; base backup {:.2}, restore with stop and start {:.2}, \
         clone with its start {:.2} times that (limit 2)",
        backup / copy,
        restore / copy,
        clone / copy
    );
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// Starts to count once nothing is left to be written.
fn flushed() -> Clock {
    assert!(Command::new("sync").status().unwrap().success());
    Clock::start()
}

/// Until everything is written.
fn seconds(since: Clock) -> f64 {
    assert!(Command::new("sync").status().unwrap().success());
    std::time::Duration::from_micros(since.now_us()).as_secs_f64()
}

fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker").args(arguments).output().unwrap();
    assert!(output.status.success(), "docker {}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// The largest volume of the run, on this machine's disk, and its size.
fn data_folder(label: &str) -> (PathBuf, u64) {
    let filter = format!("label=dev.fulldress.run={label}");
    let names = docker(&["volume", "ls", "--quiet", "--filter", &filter]);
    let folders = names.lines().filter(|name| name.ends_with("_database")).map(|name| {
        let folder = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", name]);
        let folder = PathBuf::from(folder.trim());
        let size = Command::new("du").arg("-sm").arg(&folder).output().unwrap();
        let size = String::from_utf8(size.stdout).unwrap();
        (folder, size.split_whitespace().next().unwrap().parse().unwrap())
    });
    folders.max_by_key(|(_, size)| *size).unwrap()
}

/// Copies the folder to its neighbour, as somebody would by hand.
fn copied(folder: &Path) -> f64 {
    let target = folder.with_file_name("copy");
    let clock = flushed();
    assert!(Command::new("cp").arg("-a").arg(folder).arg(&target).status().unwrap().success());
    let taken = seconds(clock);
    std::fs::remove_dir_all(target).unwrap();
    taken
}
