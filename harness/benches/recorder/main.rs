//! How exact the lock recorder is, and what it costs: `make bench-recorder`.
//!
//! [`holds`]: package transactions hold a lock for a known time before a known number of clients; the records are held against
//! what package and clients measured themselves. [`cost`]: throughput of pgbench on a server as it comes and on one with the
//! recorder's settings and a running recorder, in pairs. `PAIRS` in the environment makes it shorter or longer; 0 leaves the cost
//! out.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has nothing to tell")]

mod cost;
mod holds;
mod package;
mod server;

use std::path::Path;
use std::sync::Arc;

use fulldress::process::RunFolder;

use self::cost::{Comparison, Kind};
use self::server::Server;

/// Pairs of each comparison where `PAIRS` does not say.
const PAIRS: usize = 12;

/// Half of the pairs run on servers of their own, made in the other order: one of two servers is always a little faster, by
/// where its memory lies.
async fn measure(state: &Path, pairs: usize) -> bool {
    let run = Arc::new(RunFolder::create_in(state).unwrap().0);
    let mut comparisons: Vec<Comparison> = [Kind::SelectOnly, Kind::TpcbLike]
        .into_iter()
        .flat_map(|kind| [false, true].map(|active| Comparison::new(kind, active)))
        .collect();
    let mut well = true;
    for half in 0..2 {
        let share = if half == 0 { pairs.div_ceil(2) } else { pairs / 2 };
        if half == 1 && share == 0 {
            continue;
        }
        let start = async |recorded: bool| {
            let name = format!("{}-{half}", if recorded { "recorded" } else { "plain" });
            Server::start(&run, &name, recorded).await
        };
        let (mut one, mut other) = (start(half == 0).await, start(half != 0).await);
        let (recorded, plain) = if half == 0 { (&one, &other) } else { (&other, &one) };
        if half == 0 {
            well &= holds::measure(recorded).await;
        }
        for comparison in comparisons.iter_mut().filter(|_| share > 0) {
            comparison.measure(plain, recorded, share).await;
        }
        one.cluster.stop().await;
        other.cluster.stop().await;
    }
    if pairs > 0 {
        println!("\n{}", cost::HEAD);
    }
    for comparison in comparisons.iter().filter(|_| pairs > 0) {
        println!("{comparison}");
        well &= !comparison.is_refuted();
    }
    well
}

fn main() {
    let pairs = std::env::var("PAIRS").ok().map_or(PAIRS, |pairs| pairs.parse().unwrap());
    let state = tempfile::Builder::new().prefix("fulldress-bench-").tempdir().unwrap();
    let well = tokio::runtime::Runtime::new().unwrap().block_on(measure(state.path(), pairs));
    drop(state);
    assert!(well, "a figure is outside its claim");
}
