//! How exact the lock recorder is, and what it costs: `make bench-recorder`.
//!
//! *Holds*: a package transaction holds a lock for a known time; the recorder's interval is held against what the session
//! itself measured. *Cost*: throughput of pgbench on a server as it comes and on one with the recorder's settings and a
//! running recorder. Both take turns, so that a busy machine is busy for both; the ratio is that of each pair.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be made has nothing to tell")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress::process::{Launch, RunFolder};
use fulldress::recorder::log::LogPlace;
use fulldress::recorder::observation::{MigrationLock, PackageIdentity};
use fulldress::recorder::reconcile::StepSpan;
use fulldress::recorder::{Recorder, RecorderConfig, Recording, relation_names, settings};
use fulldress_reports::lock::LockMode;
use fulldress_reports::phase::{Phase, PhaseSpan};
use fulldress_workloads::clock::Clock;
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, PgConnection};

/// How long locks are held, milliseconds.
const HOLDS_MS: [u64; 5] = [10, 50, 137, 500, 2_000];
/// How often each.
const HOLDS_EACH: usize = 5;
/// A hold may be wrong by this, milliseconds, or by this share, whichever is larger.
const HOLD_ERROR_MS: f64 = 2.0;
const HOLD_ERROR_SHARE: f64 = 0.02;
/// Pairs of each comparison, and the length of each of a pair's two turns, seconds.
const PAIRS: usize = 10;
const TURN_S: u32 = 4;
/// Rows of pgbench's accounts, in units of 100,000.
const SCALE: &str = "10";
/// Least throughput with the recorder, of that without: in quiet phases, and while the upgrade is active.
const QUIET_MIN: f64 = 0.98;
const ACTIVE_MIN: f64 = 0.93;

const PACKAGE: &str = "package";
const APPLICATION: &str = "application";
const DATABASE: &str = "bench";

struct Server {
    cluster: Cluster,
    programs: PathBuf,
}

impl Server {
    async fn start(run: &Arc<RunFolder>, name: &str, recorded: bool) -> Self {
        let programs = Programs::find(None).unwrap();
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (setting, value) in [("shared_buffers", "256MB"), ("max_wal_size", "2GB"), ("autovacuum", "off")]
        {
            values.insert(setting.to_owned(), value.to_owned());
        }
        if recorded {
            let needed = settings::cluster_settings();
            values.extend(needed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        }
        let folder = programs.folder.clone();
        let mut cluster =
            Cluster::create(programs, run, name, values, Duration::from_secs(60)).await.unwrap();
        cluster.start().await.unwrap();
        let server = Self { cluster, programs: folder };
        let mut admin = server.admin("postgres").await;
        for statement in [
            format!("CREATE ROLE {APPLICATION} LOGIN SUPERUSER PASSWORD 'bench'"),
            format!("CREATE ROLE {PACKAGE} LOGIN PASSWORD 'bench' IN ROLE {APPLICATION}"),
            format!("ALTER ROLE {PACKAGE} SET role = {APPLICATION}"),
            format!("CREATE DATABASE {DATABASE} OWNER {APPLICATION}"),
        ] {
            admin.execute(AssertSqlSafe(statement)).await.unwrap();
        }
        if recorded {
            for statement in settings::role_statements(PACKAGE, &[APPLICATION]) {
                admin.execute(AssertSqlSafe(statement)).await.unwrap();
            }
        }
        server.pgbench(&["--initialize", "--quiet", "--scale", SCALE]).await;
        server
    }

    async fn admin(&self, database: &str) -> PgConnection {
        self.cluster.connect(database).await.unwrap()
    }

    async fn pgbench(&self, arguments: &[&str]) -> String {
        let launch = Launch::new(self.programs.join("pgbench"))
            .args(arguments.iter().copied())
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.cluster.port().to_string())
            .env("PGUSER", APPLICATION)
            .env("PGPASSWORD", "bench")
            .env("PGDATABASE", DATABASE);
        let output = launch.output(Duration::from_secs(600)).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Transactions per second.
    async fn throughput(&self, kind: &str) -> f64 {
        let turn = TURN_S.to_string();
        let said = self
            .pgbench(&["--no-vacuum", "--client=2", "--jobs=1", "--time", &turn, "--builtin", kind])
            .await;
        let line = said.lines().find(|line| line.starts_with("tps = ")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    async fn recorder(&self, clock: Clock) -> (Recorder, BTreeSet<String>) {
        let preexisting = relation_names(&mut self.admin(DATABASE).await).await.unwrap();
        let config = RecorderConfig {
            server: self.cluster.options(DATABASE),
            log: Some(LogPlace::Folder(self.cluster.log_folder())),
            identity: PackageIdentity {
                roles: vec![PACKAGE.to_owned()],
                addresses: Vec::new(),
                own_roles: Vec::new(),
            },
            migration_lock: MigrationLock::default(),
            clock,
        };
        (Recorder::start(config).await.unwrap(), preexisting)
    }
}

async fn finish(recorder: Recorder, preexisting: &BTreeSet<String>, clock: Clock) -> Recording {
    let phases = [PhaseSpan { phase: Phase::Upgrade, start_us: 0, end_us: None }];
    let steps = [StepSpan { id: "bench".to_owned(), start_us: 0, end_us: clock.now_us() }];
    recorder.finish(&phases, &steps, &BTreeMap::new(), preexisting).await.unwrap()
}

/// Largest distance of a recorded hold from what the session measured, per length; milliseconds.
async fn holds(server: &Server) -> bool {
    let clock = Clock::start();
    let (recorder, preexisting) = server.recorder(clock).await;
    recorder.fast(true);
    let options = server.cluster.options(DATABASE).username(PACKAGE).password("bench");
    let mut session = options.connect().await.unwrap();
    let mut truths = Vec::new();
    for (index, hold_ms) in HOLDS_MS.iter().flat_map(|hold| [*hold; HOLDS_EACH]).enumerate() {
        session.execute("BEGIN").await.unwrap();
        let alter = format!("ALTER TABLE pgbench_tellers ADD COLUMN bench_{index} int");
        let asked_us = clock.now_us();
        session.execute(AssertSqlSafe(alter)).await.unwrap();
        let granted_us = clock.now_us();
        tokio::time::sleep(Duration::from_millis(hold_ms)).await;
        let ending_us = clock.now_us();
        session.execute("COMMIT").await.unwrap();
        // The lock was held at least between the two middle instants, and at most between the outer ones.
        truths.push((hold_ms, ending_us - granted_us, clock.now_us() - asked_us));
    }
    drop(session);
    let recording = finish(recorder, &preexisting, clock).await;
    let mut records: Vec<_> = recording
        .evidence
        .records
        .iter()
        .filter(|record| {
            record.relation == "public.pgbench_tellers" && record.mode == LockMode::AccessExclusiveLock
        })
        .collect();
    records.sort_by_key(|record| record.requested_us);
    assert_eq!(records.len(), truths.len(), "holds recorded");
    println!("hold, ms   largest error, ms   widest interval, ms   allowed, ms");
    let mut well = true;
    for hold_ms in HOLDS_MS {
        let of_length = truths.iter().zip(&records).filter(|((length, ..), _)| *length == hold_ms);
        let (mut error_us, mut width_us) = (0, 0);
        for ((_, least_us, most_us), record) in of_length {
            let middle_us = u64::midpoint(record.hold.low_us, record.hold.high_us);
            let outside = least_us.saturating_sub(middle_us).max(middle_us.saturating_sub(*most_us));
            error_us = error_us.max(outside);
            width_us = width_us.max(record.hold.high_us - record.hold.low_us);
        }
        let allowed_ms = HOLD_ERROR_MS.max(HOLD_ERROR_SHARE * ms(hold_ms * 1000));
        println!("{hold_ms:>8} {:>19.2} {:>21.2} {allowed_ms:>13.1}", ms(error_us), ms(width_us));
        well &= ms(error_us) <= allowed_ms;
    }
    well
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a short run are exact in a double")]
fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

/// Median ratio of the pairs' throughputs, and the interval of the second smallest and second largest: it covers the
/// median with a confidence of 97.9 % for ten pairs (binomial, no assumption about the noise).
async fn cost(plain: &Server, recorded: &Server, kind: &str, active: bool) -> bool {
    let clock = Clock::start();
    let mut ratios = Vec::new();
    for pair in 0..PAIRS {
        let with = async || {
            let (recorder, preexisting) = recorded.recorder(clock).await;
            recorder.fast(active);
            let throughput = recorded.throughput(kind).await;
            finish(recorder, &preexisting, clock).await;
            throughput
        };
        // Who is first takes turns as well.
        let (with, without) = if pair % 2 == 0 {
            let without = plain.throughput(kind).await;
            (with().await, without)
        } else {
            (with().await, plain.throughput(kind).await)
        };
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    let median = f64::midpoint(ratios[PAIRS / 2 - 1], ratios[PAIRS / 2]);
    let (low, high) = (ratios[1], ratios[PAIRS - 2]);
    let claim = if active { ACTIVE_MIN } else { QUIET_MIN };
    let pace = if active { "active" } else { "quiet" };
    let shown = if low >= claim {
        "shown"
    } else if high < claim {
        "refuted"
    } else {
        "not shown: the noise is wider than the claim"
    };
    println!("{kind:<12} {pace:<7} {median:>6.3}   [{low:.3}, {high:.3}]   at least {claim}: {shown}");
    high >= claim
}

async fn measure(state: &Path) -> bool {
    let run = Arc::new(RunFolder::create_in(state).unwrap().0);
    let mut recorded = Server::start(&run, "recorded", true).await;
    let mut well = holds(&recorded).await;
    let mut plain = Server::start(&run, "plain", false).await;
    println!("\npgbench      pace    median   interval          claim");
    for kind in ["select-only", "tpcb-like"] {
        for active in [false, true] {
            well &= cost(&plain, &recorded, kind, active).await;
        }
    }
    plain.cluster.stop().await;
    recorded.cluster.stop().await;
    well
}

fn main() {
    let state = tempfile::Builder::new().prefix("fulldress-bench-").tempdir().unwrap();
    let well = tokio::runtime::Runtime::new().unwrap().block_on(measure(state.path()));
    drop(state);
    assert!(well, "a figure is outside its claim");
}
