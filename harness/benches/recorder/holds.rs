//! How exactly holds are measured and waiters are counted.

use std::time::Duration;

use fulldress_reports::lock::{LockMode, LockRecord};
use fulldress_workloads::clock::Clock;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use tokio::task::JoinHandle;

use crate::server::{self, Server};

/// How long locks are held, milliseconds.
const HOLDS_MS: [u64; 5] = [10, 50, 137, 500, 2_000];
/// How often each, with none, one and up to four clients behind it.
const HOLDS_EACH: usize = 5;
/// A hold may be wrong by this, milliseconds, or by this share, whichever is larger.
const ERROR_MS: f64 = 2.0;
const ERROR_SHARE: f64 = 0.02;
/// Whoever asks so shortly before the end may find the lock free already, microseconds.
const SURELY_US: u64 = 2_000;

/// Not one of pgbench's: what is added to it here would be work for the clients whose throughput is measured later.
const TABLE: &str = "bench_hold";

/// What package and clients measured themselves, microseconds.
struct Truth {
    hold_ms: u64,
    /// The lock was held at least from the answer to the statement to the question for the end.
    least_us: u64,
    /// And at most from the question for the statement to the answer to the end.
    most_us: u64,
    /// Clients that waited for certain.
    waited: u64,
    /// Clients that may have waited: they asked just before the end.
    perhaps: u64,
}

/// A client asks for the table; when it asked and when it was answered.
fn client(mut session: PgConnection, clock: Clock) -> JoinHandle<(PgConnection, u64, u64)> {
    tokio::spawn(async move {
        let asked_us = clock.now_us();
        session.execute("SELECT count(*) FROM bench_hold").await.unwrap();
        (session, asked_us, clock.now_us())
    })
}

async fn hold(
    package: &mut PgConnection,
    clients: &mut Vec<PgConnection>,
    clock: Clock,
    (number, hold_ms): (usize, u64),
) -> Truth {
    package.execute("BEGIN").await.unwrap();
    let alter = format!("ALTER TABLE {TABLE} ADD COLUMN bench_{number} int");
    let asked_us = clock.now_us();
    package.execute(AssertSqlSafe(alter)).await.unwrap();
    let granted_us = clock.now_us();
    let asking = clients.split_off(clients.len() - number % HOLDS_EACH);
    let asking: Vec<_> = asking.into_iter().map(|session| client(session, clock)).collect();
    tokio::time::sleep(Duration::from_millis(hold_ms)).await;
    let ending_us = clock.now_us();
    package.execute("COMMIT").await.unwrap();
    let ended_us = clock.now_us();
    let (mut waited, mut perhaps) = (0, 0);
    for task in asking {
        let (session, asked_us, answered_us) = task.await.unwrap();
        clients.push(session);
        // Nobody is answered while the lock is held.
        assert!(answered_us >= ending_us, "a client passed an exclusive lock");
        if asked_us + SURELY_US <= ending_us {
            waited += 1;
        } else if asked_us <= ended_us {
            perhaps += 1;
        }
    }
    let (least_us, most_us) = (ending_us - granted_us, ended_us - asked_us);
    Truth { hold_ms, least_us, most_us, waited, perhaps }
}

/// Holds the records against the truth; whether all are within the claim.
pub(crate) async fn measure(server: &Server) -> bool {
    let clock = Clock::start();
    let mut package = server.package().connect().await.unwrap();
    package.execute("CREATE TABLE bench_hold (id int)").await.unwrap();
    let (recorder, preexisting) = server.recorder(clock).await;
    recorder.fast(true);
    let mut clients = Vec::new();
    for _ in 1..HOLDS_EACH {
        clients.push(server.application().connect().await.unwrap());
    }
    let mut truths = Vec::new();
    for (number, hold_ms) in HOLDS_MS.iter().flat_map(|hold| [*hold; HOLDS_EACH]).enumerate() {
        truths.push(hold(&mut package, &mut clients, clock, (number, hold_ms)).await);
    }
    package.close().await.unwrap();
    let recording = server::finish(recorder, &preexisting, clock).await;
    let mut records: Vec<&LockRecord> = recording
        .evidence
        .records
        .iter()
        .filter(|record| record.relation.ends_with(TABLE) && record.mode == LockMode::AccessExclusiveLock)
        .collect();
    records.sort_by_key(|record| record.requested_us);
    assert_eq!(records.len(), truths.len(), "holds recorded");
    println!("hold, ms   largest error, ms   widest interval, ms   allowed, ms   waiters: real, counted");
    let mut well = true;
    for hold_ms in HOLDS_MS {
        let of_length: Vec<(&Truth, &LockRecord)> = truths
            .iter()
            .zip(records.iter().copied())
            .filter(|(truth, _)| truth.hold_ms == hold_ms)
            .collect();
        well &= compare(hold_ms, &of_length);
    }
    well
}

/// The error is how far the middle of the recorded interval lies outside what the session measured.
fn compare(hold_ms: u64, pairs: &[(&Truth, &LockRecord)]) -> bool {
    let (mut error_us, mut width_us, mut counted_well) = (0, 0, true);
    let (mut real, mut perhaps, mut counted) = (0, 0, 0);
    for (truth, record) in pairs {
        let middle_us = u64::midpoint(record.hold.low_us, record.hold.high_us);
        let outside = truth.least_us.saturating_sub(middle_us).max(middle_us.saturating_sub(truth.most_us));
        error_us = error_us.max(outside);
        width_us = width_us.max(record.hold.high_us - record.hold.low_us);
        if !(truth.waited..=truth.waited + truth.perhaps).contains(&record.victims_total) {
            counted_well = false;
            println!(
                "{} waited and {} were counted:\n{:#?}",
                truth.waited, record.victims_total, record.victims
            );
        }
        real += truth.waited;
        perhaps += truth.perhaps;
        counted += record.victims_total;
    }
    let allowed_ms = ERROR_MS.max(ERROR_SHARE * ms(hold_ms * 1000));
    let real = if perhaps == 0 { real.to_string() } else { format!("{real} to {}", real + perhaps) };
    let verdict = if counted_well { "" } else { "  WRONG" };
    println!(
        "{hold_ms:>8} {:>19.2} {:>21.2} {allowed_ms:>13.1}   {real:>13}, {counted}{verdict}",
        ms(error_us),
        ms(width_us)
    );
    counted_well && ms(error_us) <= allowed_ms
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a short run are exact in a double")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}
