//! Samples `pg_locks` and keeps only what changes.
//!
//! `Recorder` starts it with a connection of its own, switches its pace, and takes its [`SampleLog`] at the
//! end. It survives a restart of the server: it connects again, and the gap is counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fulldress_reports::lock::LockMode;
use fulldress_workloads::clock::Clock;
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::sync::{Notify, oneshot, watch};

use super::observation::{AdvisoryKey, LockTarget, PackageIdentity, SessionId};

/// Pace while the package is at work, microseconds.
pub const FAST_US: u64 = 20_000;

/// Pace otherwise, microseconds.
pub const SLOW_US: u64 = 200_000;

/// Most sightings kept; later ones are counted only.
const SIGHTINGS_MAX: usize = 200_000;

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
    /// Longest gap between samples at the fast pace, microseconds.
    pub gap_max_us: u64,
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
        let work = Work {
            options,
            identity,
            clock,
            control: Arc::clone(&control),
            state: State { log: SampleLog { names, ..SampleLog::default() }, ..State::default() },
        };
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
                let _ = done.send(work.run(Some(connection), stopped).await);
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
        mut connection: Option<PgConnection>,
        mut stopped: watch::Receiver<bool>,
    ) -> SampleLog {
        let mut due_us = self.clock.now_us();
        let mut fast_since_us = None;
        while !*stopped.borrow() {
            if self.control.suspended.load(Ordering::Acquire) {
                connection = None;
                fast_since_us = None;
                tokio::select! {
                    () = self.control.changed.notified() => {}
                    changed = stopped.changed() => if changed.is_err() { break },
                }
                due_us = self.clock.now_us();
                continue;
            }
            self.state.log.planned += 1;
            if connection.is_none() {
                connection = connect(&self.options).await.ok();
            }
            if let Some(mut live) = connection.take() {
                match tokio::time::timeout(PATIENCE, self.state.sample(&mut live, &self.identity)).await {
                    Ok(Ok(())) => connection = Some(live),
                    Ok(Err(error)) => self.state.lose(self.clock.now_us(), error.to_string()),
                    Err(_) => self.state.lose(self.clock.now_us(), "a sample took too long".to_owned()),
                }
            }
            let fast = self.control.fast.load(Ordering::Acquire);
            let now_us = self.clock.now_us();
            self.state.note_gap(fast, connection.is_some(), now_us, &mut fast_since_us);
            let period_us = if fast { FAST_US } else { SLOW_US };
            due_us += period_us;
            if now_us > due_us {
                // Instants that passed while the last sample took its time are missed, not made up for.
                let missed = (now_us - due_us) / period_us;
                self.state.log.planned += missed;
                due_us += missed * period_us;
            }
            tokio::select! {
                () = self.clock.sleep_until(due_us) => {}
                () = self.control.changed.notified() => due_us = self.clock.now_us(),
                changed = stopped.changed() => if changed.is_err() { break },
            }
        }
        self.state.log
    }
}

#[derive(Default)]
struct State {
    log: SampleLog,
    /// Index into `log.sightings` of what the last sample showed.
    open: HashMap<Key, usize>,
    open_sessions: HashMap<SessionId, usize>,
    last_sample_us: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    session: SessionId,
    vxid: String,
    target: LockTarget,
    mode: String,
    granted: bool,
}

const SAMPLE: &str = include_str!("sampler.sql");

impl State {
    async fn sample(
        &mut self,
        connection: &mut PgConnection,
        who: &PackageIdentity,
    ) -> Result<(), sqlx::Error> {
        let (low_us, high_us, rows): (i64, i64, String) =
            sqlx::query_as(SAMPLE).bind(&who.roles).bind(&who.addresses).fetch_one(&mut *connection).await?;
        let rows: Vec<Row> =
            serde_json::from_str(&rows).map_err(|error| sqlx::Error::Decode(error.into()))?;
        self.learn_names(connection, &rows).await?;
        self.absorb(low_us, high_us, rows);
        Ok(())
    }

    /// Asks for the names of relations not met before. A relation of an open transaction has none yet.
    async fn learn_names(&mut self, connection: &mut PgConnection, rows: &[Row]) -> Result<(), sqlx::Error> {
        let relations = rows.iter().filter_map(|row| row.relation).filter(|oid| *oid >= 16384);
        let unknown: BTreeSet<u32> = relations.filter(|oid| !self.log.names.contains_key(oid)).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let unknown: Vec<i64> = unknown.into_iter().map(i64::from).collect();
        let named: Vec<(i64, String)> = sqlx::query_as(
            "SELECT wanted, o.identity FROM unnest($1::bigint[]) AS wanted \
             CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::oid, wanted::oid, 0) AS o \
             WHERE o.identity IS NOT NULL",
        )
        .bind(unknown)
        .fetch_all(connection)
        .await?;
        let named = named.into_iter().filter_map(|(oid, name)| Some((u32::try_from(oid).ok()?, name)));
        self.log.names.extend(named);
        Ok(())
    }

    fn absorb(&mut self, low_us: i64, high_us: i64, rows: Vec<Row>) {
        self.log.taken += 1;
        let mut seen: HashMap<Key, usize> = HashMap::with_capacity(rows.len());
        let mut transactions: BTreeSet<(SessionId, String)> = BTreeSet::new();
        let mut sessions: HashMap<SessionId, usize> = HashMap::new();
        for row in rows {
            let session = row.session();
            if row.package {
                let index = self.session_seen(session, &row, low_us, high_us);
                sessions.insert(session, index);
            }
            let Some(target) = row.target() else {
                if let Some(vxid) = row.vxid {
                    transactions.insert((session, vxid));
                }
                continue;
            };
            transactions.insert((session, row.vxid.clone().unwrap_or_default()));
            let key = row.key(session, &target);
            if let Some(index) = self.open.get(&key).copied() {
                let sighting = &mut self.log.sightings[index];
                sighting.last_us = low_us;
                sighting.wait_since_us = sighting.wait_since_us.or(row.wait_since_us);
                sighting.blockers.extend(row.blockers.unwrap_or_default());
                seen.insert(key, index);
            } else if self.log.sightings.len() < SIGHTINGS_MAX {
                let known = self.open_sessions.contains_key(&session) || !row.package;
                let not_before_us = self.last_sample_us.filter(|_| known);
                seen.insert(key, self.log.sightings.len());
                self.log.sightings.push(row.sighting(session, target, not_before_us, (low_us, high_us)));
            } else {
                self.log.dropped += 1;
            }
        }
        for (key, index) in &self.open {
            if !seen.contains_key(key) {
                let sighting = &mut self.log.sightings[*index];
                sighting.gone_us = Some(high_us);
                sighting.gone_within_transaction = transactions.contains(&(key.session, key.vxid.clone()));
            }
        }
        self.open = seen;
        self.open_sessions = sessions;
        self.last_sample_us = Some(low_us);
    }

    fn session_seen(&mut self, session: SessionId, row: &Row, low_us: i64, high_us: i64) -> usize {
        if let Some(index) = self.open_sessions.get(&session).copied() {
            self.log.sessions[index].last_us = low_us;
            return index;
        }
        let known = self.log.sessions.iter().position(|known| known.session == session);
        known.unwrap_or_else(|| {
            let role = row.role.clone().unwrap_or_default();
            self.log.sessions.push(SessionSighting { session, role, first_us: high_us, last_us: low_us });
            self.log.sessions.len() - 1
        })
    }

    fn lose(&mut self, now_us: u64, reason: String) {
        self.log.losses.push((now_us, reason));
    }

    /// Keeps the longest time without a sample at the fast pace.
    fn note_gap(&mut self, fast: bool, alive: bool, now_us: u64, since_us: &mut Option<u64>) {
        let gap_us = since_us.map_or(0, |since| now_us.saturating_sub(since));
        if fast {
            self.log.gap_max_us = self.log.gap_max_us.max(gap_us);
        }
        if !fast {
            *since_us = None;
        } else if alive || since_us.is_none() {
            *since_us = Some(now_us);
        }
    }
}

/// One row of a sample: a lock of a package session, a waiter's wait, or a package session without locks.
#[derive(Debug, Deserialize)]
struct Row {
    pid: u32,
    start_s: i64,
    role: Option<String>,
    application: Option<String>,
    package: bool,
    client: bool,
    locktype: Option<String>,
    relation: Option<u32>,
    transaction: Option<u64>,
    classid: Option<u32>,
    objid: Option<u32>,
    objsubid: Option<u16>,
    vxid: Option<String>,
    mode: Option<String>,
    granted: Option<bool>,
    wait_since_us: Option<i64>,
    blockers: Option<BTreeSet<u32>>,
    query: Option<String>,
    query_start_us: Option<i64>,
}

impl Row {
    const fn session(&self) -> SessionId {
        SessionId { start_s: self.start_s, pid: self.pid }
    }

    fn target(&self) -> Option<LockTarget> {
        match self.locktype.as_deref()? {
            "relation" => self.relation.map(LockTarget::Relation),
            "tuple" => self.relation.map(LockTarget::Tuple),
            "transactionid" => self.transaction.map(LockTarget::Transaction),
            "advisory" => Some(LockTarget::Advisory(AdvisoryKey {
                classid: self.classid?,
                objid: self.objid?,
                objsubid: self.objsubid?,
            })),
            // Held by every open transaction: it says that the transaction lives, and is no lock to report.
            "virtualxid" if self.granted == Some(true) => None,
            "virtualxid" => Some(LockTarget::VirtualTransaction),
            other => Some(LockTarget::Other(other.to_owned())),
        }
    }

    fn key(&self, session: SessionId, target: &LockTarget) -> Key {
        Key {
            session,
            vxid: self.vxid.clone().unwrap_or_default(),
            target: target.clone(),
            mode: self.mode.clone().unwrap_or_default(),
            granted: self.granted.unwrap_or(false),
        }
    }

    fn sighting(
        self,
        session: SessionId,
        target: LockTarget,
        not_before_us: Option<i64>,
        (low_us, high_us): (i64, i64),
    ) -> Sighting {
        Sighting {
            session,
            role: self.role.unwrap_or_default(),
            application: self.application.unwrap_or_default(),
            package: self.package,
            client: self.client,
            vxid: self.vxid.unwrap_or_default(),
            target,
            mode: self.mode.as_deref().and_then(LockMode::parse),
            granted: self.granted.unwrap_or(false),
            wait_since_us: self.wait_since_us,
            not_before_us,
            first_us: high_us,
            last_us: low_us,
            gone_us: None,
            gone_within_transaction: false,
            blockers: self.blockers.unwrap_or_default(),
            query: self.query.unwrap_or_default(),
            query_start_us: self.query_start_us,
        }
    }
}
