//! Samples `pg_locks` and keeps only what changes.
//!
//! `Recorder` starts it with connections of its own, switches its pace, and takes its [`SampleLog`] at the
//! end. It survives a restart of the server: it connects again, and the gap is counted.

mod asker;
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

use self::asker::{Answer, Asker};
pub use self::gaps::{GAP_US, Gap, Gaps};
use self::state::State;
use super::observation::{LockTarget, PackageIdentity, SessionId};

/// Pace while the package is at work, microseconds: so much less than what is declared as a gap that a look which comes late by
/// an ordinary wait for a processor leaves none. Each look costs the machine a third of a millisecond.
pub const FAST_US: u64 = 3_500;

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
    /// Connects and starts sampling at the slow pace. `offset_us` is the server's time minus the rehearsal's.
    ///
    /// # Errors
    /// The server's, where the first connections fail.
    pub async fn start(
        options: PgConnectOptions,
        identity: PackageIdentity,
        names: BTreeMap<u32, String>,
        clock: Clock,
        offset_us: i64,
    ) -> Result<Self, sqlx::Error> {
        let (connected, is_connected) = oneshot::channel();
        let (done, log) = oneshot::channel();
        let control = Arc::new(Control::default());
        let (stop, stopped) = watch::channel(false);
        let work = Work {
            options,
            identity,
            clock,
            control: Arc::clone(&control),
            state: State::new(names, offset_us),
        };
        // A thread of its own: a sample that is late because a task of ours has the thread is a gap in the evidence.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("lock sampler".to_owned()).spawn(move || {
            runtime.block_on(async move {
                let connections = match work.connect().await {
                    Ok(connections) => connections,
                    // Nobody waits any more when these are not received.
                    Err(error) => return drop(connected.send(Err(error))),
                };
                let _ = connected.send(Ok(()));
                // Without a log whoever waits for it learns that the thread failed.
                if let Ok(log) = work.run(connections, stopped).await {
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
        // The recorder asks the same few questions thousands of times: planning them anew costs more than asking.
        .options([("statement_timeout", "5s"), ("plan_cache_mode", "force_generic_plan"), ("jit", "off")])
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
    /// A connection for glances and one for what takes longer.
    async fn connect(&self) -> Result<(PgConnection, PgConnection), sqlx::Error> {
        let mut glancing = connect(&self.options).await?;
        let mut asking = connect(&self.options).await?;
        // The first time each question is prepared too, which takes longer than the pace.
        look::glance(&mut glancing, &[], 0).await?;
        look::full(&mut asking, &self.identity).await?;
        Ok((glancing, asking))
    }

    fn asker(&self, connection: Option<PgConnection>) -> Asker {
        Asker::start(self.options.clone(), self.identity.clone(), connection)
    }

    async fn run(
        mut self,
        (glancing, asking): (PgConnection, PgConnection),
        mut stopped: watch::Receiver<bool>,
    ) -> std::io::Result<SampleLog> {
        // The runtime's own timer ticks in milliseconds, which is half of the pace.
        let pacer = Pacer::new(self.clock)?;
        let mut glancing = Some(glancing);
        let mut asker = self.asker(Some(asking));
        let mut due_us = self.clock.now_us();
        while !*stopped.borrow() {
            if self.control.suspended.load(Ordering::Acquire) {
                glancing = None;
                asker = self.asker(None);
                self.state.watching(false, self.clock.now_us());
                self.state.forget();
                tokio::select! {
                    () = self.control.changed.notified() => {}
                    changed = stopped.changed() => if changed.is_err() { break },
                }
                due_us = self.clock.now_us();
                continue;
            }
            let fast = self.control.fast.load(Ordering::Acquire);
            self.state.watching(fast, self.clock.now_us());
            tokio::select! {
                biased;
                changed = stopped.changed() => if changed.is_err() { break },
                answer = asker.answer() => self.take(answer, &asker),
                () = self.control.changed.notified() => due_us = self.clock.now_us(),
                waited = pacer.wait_until(due_us) => {
                    waited?;
                    glancing = self.sample(glancing, fast).await;
                    if self.state.wants_full(self.clock.now_us()) && !asker.is_busy() {
                        self.state.asked(self.clock.now_us());
                        asker.look();
                    }
                    due_us = self.next_due(due_us, if fast { FAST_US } else { SLOW_US });
                }
            }
        }
        self.state.watching(false, self.clock.now_us());
        Ok(self.state.into_log())
    }

    /// Instants that passed while the last sample took its time are missed, not made up for.
    fn next_due(&mut self, due_us: u64, period_us: u64) -> u64 {
        let missed = self.clock.now_us().saturating_sub(due_us + period_us) / period_us;
        self.state.planned(missed);
        due_us + (missed + 1) * period_us
    }

    /// Takes one sample: a glance where that is enough; hands the connection back where it can go on.
    async fn sample(&mut self, connection: Option<PgConnection>, fast: bool) -> Option<PgConnection> {
        self.state.planned(1);
        if !fast || !self.state.may_glance() {
            self.state.want_full();
            return connection;
        }
        let mut live = match connection {
            Some(live) => live,
            None => connect(&self.options).await.ok()?,
        };
        let glance = self.state.glance(&mut live, &self.identity, self.clock);
        match tokio::time::timeout(PATIENCE, glance).await {
            Ok(Ok(())) => Some(live),
            Ok(Err(error)) => {
                self.state.lose(self.clock.now_us(), Some(error.to_string()));
                None
            }
            Err(_) => {
                self.state.lose(self.clock.now_us(), Some("a sample took too long".to_owned()));
                None
            }
        }
    }

    fn take(&mut self, answer: Answer, asker: &Asker) {
        match answer {
            Answer::Full(look, others) => asker.name(self.state.full(look, others)),
            Answer::Names(names) => self.state.name(names),
            Answer::Lost(reason) => self.state.lose(self.clock.now_us(), reason),
        }
    }
}
