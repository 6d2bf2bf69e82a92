//! Samples `pg_locks` and keeps only what changes.
//!
//! `Recorder` starts it with a connection of its own, switches its pace, and takes its [`SampleLog`] at the
//! end. It survives a restart of the server: it connects again, and the gap is counted.

mod gaps;
mod look;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fulldress_reports::lock::LockMode;
use fulldress_workloads::clock::Clock;
use fulldress_workloads::pacer::Pacer;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::sync::{Notify, oneshot, watch};

pub use self::gaps::{GAP_US, Gap, Gaps};
use self::state::State;
use super::observation::{LockTarget, PackageIdentity, SessionId};

/// Pace while the package is at work, microseconds: half of what is declared as a gap, so that a look which comes late by
/// less than that leaves none.
pub const FAST_US: u64 = 2_500;

/// Pace otherwise, microseconds.
pub const SLOW_US: u64 = 200_000;

/// Longest that one attempt to connect or one sample may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// One lock, or one wait for a lock, from the first sample that showed it to the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// Session.
    pub session: SessionId,
    /// Login role.
    pub role: String,
    /// `application_name`.
    pub application: String,
    /// Whether the session is the package's.
    pub package: bool,
    /// Whether a client's backend holds or wants it; autovacuum and the like do not count as victims.
    pub client: bool,
    /// Virtual transaction.
    pub vxid: String,
    /// What is locked.
    pub target: LockTarget,
    /// Mode, where it is a table-level mode's name.
    pub mode: Option<LockMode>,
    /// Held, or only waited for.
    pub granted: bool,
    /// When the wait began, exact; absent for held locks and in the wait's first instants.
    pub wait_since_us: Option<i64>,
    /// Last sample before it that did not show it; absent where the session's first sample shows it.
    pub not_before_us: Option<i64>,
    /// First sample that shows it, latest possible instant.
    pub first_us: i64,
    /// Last sample that shows it, earliest possible instant.
    pub last_us: i64,
    /// First sample after it that no longer shows it.
    pub gone_us: Option<i64>,
    /// Whether its transaction went on without it.
    pub gone_within_transaction: bool,
    /// Sessions that stood in its way, for waits that are not on a relation.
    pub blockers: BTreeSet<u32>,
    /// The session's statement at the first sight.
    pub query: String,
    /// When that statement arrived, microseconds since 1970.
    pub query_start_us: Option<i64>,
}

/// Whether a virtual transaction is `3/0`: what stands beside a lock whose transaction has ended a moment ago.
pub(super) fn is_ending(vxid: &str) -> bool {
    vxid.ends_with("/0")
}

/// A package session, as samples showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSighting {
    /// Session.
    pub session: SessionId,
    /// Login role.
    pub role: String,
    /// First sample that shows it.
    pub first_us: i64,
    /// Last sample that shows it.
    pub last_us: i64,
}

/// What the sampler saw, and how well it could look. Times are the server's, microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub struct SampleLog {
    /// Locks and waits.
    pub sightings: Vec<Sighting>,
    /// Package sessions.
    pub sessions: Vec<SessionSighting>,
    /// Names of relations by object id: schema-qualified, and the first one known.
    pub names: BTreeMap<u32, String>,
    /// Samples that the schedule asked for.
    pub planned: u64,
    /// Samples taken.
    pub taken: u64,
    /// Between which instants each look read the locks.
    pub looks: Vec<(i64, i64)>,
    /// When nothing was looked at while the pace was fast.
    pub gaps: Gaps,
    /// Times at which the connection was lost, on the rehearsal's clock, microseconds, with the reason.
    pub losses: Vec<(u64, String)>,
    /// Sightings beyond the limit.
    pub dropped: u64,
}

/// The running sampler.
#[derive(Debug)]
pub struct Sampler {
    control: Arc<Control>,
    stop: watch::Sender<bool>,
    log: oneshot::Receiver<SampleLog>,
}

#[derive(Debug, Default)]
struct Control {
    fast: AtomicBool,
    suspended: AtomicBool,
    changed: Notify,
}

impl Sampler {
    /// Connects and starts sampling at the slow pace.
    ///
    /// # Errors
    /// The server's, where the first connection fails.
    pub async fn start(
        options: PgConnectOptions,
        identity: PackageIdentity,
        names: BTreeMap<u32, String>,
        clock: Clock,
    ) -> Result<Self, sqlx::Error> {
        let (connected, is_connected) = oneshot::channel();
        let (done, log) = oneshot::channel();
        let control = Arc::new(Control::default());
        let (stop, stopped) = watch::channel(false);
        let work = Work { options, identity, clock, control: Arc::clone(&control), state: State::new(names) };
        // A thread of its own: a sample that is late because a task of ours has the thread is a gap in the evidence.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lock sampler".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let connection = match connect(&work.options).await {
                    Ok(connection) => connection,
                    // Nobody waits any more when these are not received.
                    Err(error) => return drop(connected.send(Err(error))),
                };
                let _ = connected.send(Ok(()));
                // Without a log whoever waits for it learns that the thread failed.
                if let Ok(log) = work.run(connection, stopped).await {
                    let _ = done.send(log);
                }
            });
        })?;
        is_connected.await.unwrap_or_else(|_| Err(sqlx::Error::WorkerCrashed))?;
        Ok(Self { control, stop, log })
    }

    /// Changes the pace at once.
    pub fn fast(&self, fast: bool) {
        self.control.fast.store(fast, Ordering::Release);
        self.control.changed.notify_one();
    }

    /// Lets the connection go and samples nothing until it is told to go on: the server is about to be stopped by
    /// ourselves, and nothing that the package does can be missed meanwhile.
    pub fn suspend(&self, suspended: bool) {
        self.control.suspended.store(suspended, Ordering::Release);
        self.control.changed.notify_one();
    }

    /// Stops and hands out what was seen; absent when the thread failed.
    pub async fn finish(mut self) -> Option<SampleLog> {
        self.stop.send_replace(true);
        (&mut self.log).await.ok()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Opens a connection that cannot hang and does not fill the log.
pub(super) async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let options = options
        .clone()
        .application_name("fulldress-recorder")
        .options([("statement_timeout", "5s")])
        .disable_statement_logging();
    match tokio::time::timeout(PATIENCE, options.connect()).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::from(std::io::ErrorKind::TimedOut))),
    }
}

struct Work {
    options: PgConnectOptions,
    identity: PackageIdentity,
    clock: Clock,
    control: Arc<Control>,
    state: State,
}

impl Work {
    async fn run(
        mut self,
        connection: PgConnection,
        mut stopped: watch::Receiver<bool>,
    ) -> std::io::Result<SampleLog> {
        // The runtime's own timer ticks in milliseconds, which is half of the pace.
        let pacer = Pacer::new(self.clock)?;
        let mut connection = Some(connection);
        let mut due_us = self.clock.now_us();
        while !*stopped.borrow() {
            if self.control.suspended.load(Ordering::Acquire) {
                connection = None;
                self.state.watching(false, self.clock.now_us());
                tokio::select! {
                    () = self.control.changed.notified() => {}
                    changed = stopped.changed() => if changed.is_err() { break },
                }
                due_us = self.clock.now_us();
                continue;
            }
            let fast = self.control.fast.load(Ordering::Acquire);
            self.state.watching(fast, self.clock.now_us());
            connection = self.sample(connection).await;
            let period_us = if fast { FAST_US } else { SLOW_US };
            due_us += period_us;
            let now_us = self.clock.now_us();
            if now_us > due_us {
                // Instants that passed while the last sample took its time are missed, not made up for.
                let missed = (now_us - due_us) / period_us;
                self.state.planned(missed);
                due_us += missed * period_us;
            }
            tokio::select! {
                waited = pacer.wait_until(due_us) => waited?,
                () = self.control.changed.notified() => due_us = self.clock.now_us(),
                changed = stopped.changed() => if changed.is_err() { break },
            }
        }
        self.state.watching(false, self.clock.now_us());
        Ok(self.state.into_log())
    }

    /// Takes one sample; hands the connection back where it can go on.
    async fn sample(&mut self, mut connection: Option<PgConnection>) -> Option<PgConnection> {
        self.state.planned(1);
        if connection.is_none() {
            connection = connect(&self.options).await.ok();
        }
        let mut live = connection?;
        let sample = self.state.sample(&mut live, &self.identity, self.clock);
        match tokio::time::timeout(PATIENCE, sample).await {
            Ok(Ok(())) => Some(live),
            Ok(Err(error)) => {
                self.state.lose(self.clock.now_us(), error.to_string());
                None
            }
            Err(_) => {
                self.state.lose(self.clock.now_us(), "a sample took too long".to_owned());
                None
            }
        }
    }
}
