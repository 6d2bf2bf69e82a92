//! How exact the lock recorder is, and what it costs: `make bench-recorder`.
//!
//! [`holds`]: package transactions hold a lock for a known time before a known number of clients; the records are held against
//! what package and clients measured themselves. [`cost`]: throughput of pgbench on a server as it comes and on one with the
//! recorder's settings and a running recorder, in pairs. `PAIRS` in the environment makes it shorter or longer.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has nothing to tell")]

mod cost;
mod holds;
mod package;
mod server;

use std::path::Path;
use std::sync::Arc;

use fulldress::process::RunFolder;

use self::cost::Kind;
use self::server::Server;

/// Pairs of each comparison; `PAIRS` says otherwise.
const PAIRS: usize = 12;

async fn measure(state: &Path, pairs: usize) -> bool {
    let run = Arc::new(RunFolder::create_in(state).unwrap().0);
    let mut recorded = Server::start(&run, "recorded", true).await;
    let mut well = holds::measure(&recorded).await;
    let mut plain = Server::start(&run, "plain", false).await;
    let mut lines = Vec::new();
    for kind in [Kind::SelectOnly, Kind::TpcbLike] {
        for active in [false, true] {
            let measured = cost::measure(&plain, &recorded, kind, active, pairs).await;
            well &= !measured.is_refuted();
            lines.push(measured.to_string());
        }
    }
    println!("\n{}", cost::HEAD);
    lines.iter().for_each(|line| println!("{line}"));
    plain.cluster.stop().await;
    recorded.cluster.stop().await;
    well
}

fn main() {
    let pairs = std::env::var("PAIRS").ok().map_or(PAIRS, |pairs| pairs.parse().unwrap());
    assert!(pairs > 0, "PAIRS must be one or more");
    let state = tempfile::Builder::new().prefix("fulldress-bench-").tempdir().unwrap();
    let well = tokio::runtime::Runtime::new().unwrap().block_on(measure(state.path(), pairs));
    drop(state);
    assert!(well, "a figure is outside its claim");
}
