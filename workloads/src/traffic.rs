//! The handle by which the conductor starts traffic, moves it from phase to phase, and gets what was measured.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::latency::{quantiles, standard_histogram};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{DriverTrust, LedgerEntry, Model, SlowRequest, TrafficTick};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::arrivals::{ArrivalsPump, DRAIN_US, Source, Stop, Way};
use crate::clock::Clock;
use crate::connection::{Target, TargetError};
use crate::driver::process_cpu_us;
use crate::feeder::{Feed, Feeder, feeds_of};
use crate::file::{Scenario, Workload};
use crate::http::Http;
use crate::lanes::Protocol as _;
use crate::recording::{Flushed, IntervalRecord, Recorder};
use crate::sql::{self, Sql};
use crate::template::Session;
use crate::timeline::Timeline;
use crate::users::{UsersPump, UsersResult};
use crate::wire::Hello;

/// How far ahead of its first instant a phase is announced, so that every pump knows it in time; microseconds.
const ANNOUNCE_US: u64 = 50_000;
/// Between two rounds of packing histograms, milliseconds.
const FLUSH_MS: u64 = 500;
/// How long requests in flight may still end when somebody waits for the end, microseconds.
const DRAIN_SOON_US: u64 = 1_000_000;
/// How much longer than the drain the worker may take to send its last line, microseconds.
const PATIENCE_US: u64 = 1_000_000;

/// A stream from the users' worker.
pub type UsersReader = Box<dyn AsyncRead + Send + Unpin>;
/// A stream to the users' worker.
pub type UsersWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// What to play, and against what.
pub struct TrafficPlan {
    /// The scenarios.
    pub workload: Workload,
    /// `http://127.0.0.1:PORT` of the system under test; needed when a scenario speaks HTTP.
    pub base_url: Option<String>,
    /// How scenarios of SQL and feeders connect, by the name that the workload gives.
    pub databases: BTreeMap<String, PgConnectOptions>,
    /// The rehearsal's clock.
    pub clock: Clock,
    /// Every random choice follows from it.
    pub seed: u64,
    /// The worker's standard output and input; needed when the workload has users.
    pub users_stream: Option<(UsersReader, UsersWriter)>,
}

/// Why traffic could not start, or did not last.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// The base URL is not the mirror's.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The workload speaks HTTP and there is no base URL.
    #[error("start traffic of workload `{0}`: it speaks HTTP, and no base URL is given")]
    NoBaseUrl(String),
    /// The workload names a database that is not given, or that traffic may not go to.
    #[error("database `{name}`: {what}")]
    Database {
        /// The name that the workload gives.
        name: String,
        /// One sentence.
        what: String,
    },
    /// A statement or a feeder's query does not fit the database.
    #[error("{0}")]
    Sql(String),
    /// The workload has users and there is no worker.
    #[error("start traffic of workload `{0}`: it has users, which need a worker process")]
    NoWorker(String),
    /// The worker's first line cannot be written as JSON.
    #[error("start the users' worker: {0}")]
    Hello(#[from] serde_json::Error),
    /// The open-model pump could not start or ended by itself.
    #[error("drive arrivals: {0}")]
    Arrivals(#[from] std::io::Error),
}

/// What the traffic measured.
#[derive(Debug)]
pub struct TrafficResult {
    /// Per route and interval, in no particular order; an interval may have several records.
    pub intervals: Vec<IntervalRecord>,
    /// Every write that was acknowledged or whose answer never came.
    pub ledger: Vec<LedgerEntry>,
    /// Requests that took 10 ms or longer, and all of the warmup, in no particular order.
    pub slow: Vec<SlowRequest>,
    /// The driver's account of itself.
    pub driver: DriverTrust,
    /// First instant that belongs to no phase, microseconds since the epoch.
    pub ended_us: u64,
}

/// Where requests come from, one variant a model.
#[derive(Debug)]
enum Pump {
    Arrivals(ArrivalsPump),
    Users(UsersPump),
}

/// Running traffic. Dropping it stops everything at once, without draining.
#[derive(Debug)]
pub struct Traffic {
    clock: Clock,
    timeline: Timeline,
    pumps: Vec<Pump>,
    cpu_before_us: u64,
    flushing: JoinHandle<Collected>,
    /// Ends the flushing task, also when the traffic is dropped.
    stop_flushing: DropGuard,
}

/// What the flushing task has gathered from the open model's books.
#[derive(Debug)]
struct Collected {
    intervals: Vec<IntervalRecord>,
    ledger: Vec<LedgerEntry>,
    slow: Vec<SlowRequest>,
    send_lag: hdrhistogram::Histogram<u64>,
}

impl Traffic {
    /// Prepares every pump; the first request comes with the first phase. Feeders are filled and statements described by
    /// their database before. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// An address is not on loopback or missing, a database does not take what the workload says, the workload needs a
    /// worker and has none, or the machine gives no thread.
    pub async fn start(plan: TrafficPlan) -> Result<Self, TrafficError> {
        let TrafficPlan { workload, base_url, databases, clock, seed, users_stream } = plan;
        let target = base_url.as_deref().map(Target::parse).transpose()?;
        if target.is_none() && workload.has_http() {
            return Err(TrafficError::NoBaseUrl(workload.name().to_owned()));
        }
        let sources = sources(&workload, target.as_ref(), &databases).await?;
        let timeline = Timeline::default();
        let cpu_before_us = process_cpu_us();
        let recorder = Recorder::new(&workload, Model::Arrivals, timeline.clone(), clock);
        let mut pumps = Vec::new();
        if let (true, Some(target)) = (workload.has_users(), &target) {
            let Some((reader, writer)) = users_stream else {
                return Err(TrafficError::NoWorker(workload.name().to_owned()));
            };
            let hello = Hello {
                file: workload.file().to_owned(),
                workload: workload.source().to_owned(),
                part: workload.which_part().to_string(),
                scenarios: workload.scenarios().map(|(name, _)| name.to_owned()).collect(),
                base_url: target.url(),
                clock,
                seed,
            };
            pumps.push(Pump::Users(UsersPump::attach(reader, writer, &hello)?));
        }
        if !sources.is_empty() {
            pumps.push(Pump::Arrivals(ArrivalsPump::start(
                sources,
                clock,
                seed,
                workload.which_part(),
                recorder.clone(),
            )?));
        }
        let stop_flushing = CancellationToken::new();
        let flushing = tokio::spawn(flush(recorder, stop_flushing.clone()));
        let stop_flushing = stop_flushing.drop_guard();
        Ok(Self { clock, timeline, pumps, cpu_before_us, flushing, stop_flushing })
    }

    /// Announces a phase to every pump and returns its first instant, a little ahead of now, in microseconds since
    /// the epoch. The first phase starts the traffic.
    pub fn enter_phase(&self, phase: Phase) -> u64 {
        let from_us = self.clock.now_us() + ANNOUNCE_US;
        self.timeline.enter(phase, from_us);
        for pump in &self.pumps {
            match pump {
                Pump::Arrivals(arrivals) => arrivals.begin(from_us),
                Pump::Users(users) => users.enter(phase, from_us),
            }
        }
        from_us
    }

    /// Live figures. The percentile is the open model's where there is one.
    #[must_use]
    pub fn figures(&self) -> TrafficTick {
        let mut tick = TrafficTick::default();
        for pump in &self.pumps {
            let live = match pump {
                Pump::Arrivals(arrivals) => arrivals.recorder().live(),
                Pump::Users(users) => users.live(),
            };
            tick.rate_per_s += live.rate_per_s;
            tick.errors += live.totals.errors;
            tick.in_flight += live.totals.in_flight;
            // Arrivals stand last among the pumps.
            tick.p99_us = live.p99_us.or(tick.p99_us);
        }
        tick
    }

    /// Stops the traffic, drains it for up to two seconds, and returns what was measured.
    ///
    /// # Errors
    /// The open-model pump had ended by itself.
    pub async fn stop(self) -> Result<TrafficResult, TrafficError> {
        let stop = Stop { at_us: self.clock.now_us() + ANNOUNCE_US, drain_us: DRAIN_US };
        self.end(stop).await
    }

    /// As [`Traffic::stop`], for somebody who waits: within a good second, whatever is in flight.
    ///
    /// # Errors
    /// The open-model pump had ended by itself.
    pub async fn stop_soon(self) -> Result<TrafficResult, TrafficError> {
        let stop = Stop { at_us: self.clock.now_us() + ANNOUNCE_US, drain_us: DRAIN_SOON_US };
        self.end(stop).await
    }

    /// As [`Traffic::stop`], with the first instant that belongs to no phase; microseconds since the epoch.
    ///
    /// # Errors
    /// The open-model pump had ended by itself.
    pub async fn stop_at(self, stop_us: u64) -> Result<TrafficResult, TrafficError> {
        self.end(Stop { at_us: stop_us, drain_us: DRAIN_US }).await
    }

    async fn end(self, stop: Stop) -> Result<TrafficResult, TrafficError> {
        let stop_us = stop.at_us;
        let start_us = self.timeline.start_us().unwrap_or(stop_us);
        self.timeline.end(stop_us);
        for pump in &self.pumps {
            match pump {
                Pump::Arrivals(arrivals) => arrivals.stop(stop),
                Pump::Users(_) => {}
            }
        }
        self.clock.sleep_until(stop_us).await;
        for pump in &self.pumps {
            if let Pump::Users(users) = pump {
                users.stop();
            }
        }
        let mut driver = DriverTrust::default();
        let mut workers = UsersResult::default();
        for pump in self.pumps {
            match pump {
                Pump::Arrivals(arrivals) => {
                    let recorder = arrivals.recorder().clone();
                    arrivals.finish().await?;
                    let totals = recorder.totals();
                    (driver.planned, driver.sent) = (totals.planned, totals.sent);
                    (driver.dropped, driver.dry) = (totals.dropped, totals.dry);
                    driver.overflows += totals.overflows;
                }
                Pump::Users(users) => {
                    let patience = self.clock.sleep_until(stop_us + stop.drain_us + PATIENCE_US);
                    workers = users.finish(patience).await;
                }
            }
        }
        drop(self.stop_flushing);
        let collected = self.flushing.await.map_err(std::io::Error::other)?;
        driver.overflows += workers.totals.overflows;
        driver.cpu_us = process_cpu_us().saturating_sub(self.cpu_before_us) + workers.cpu_us;
        driver.wall_us = stop_us.saturating_sub(start_us);
        driver.send_lag = quantiles(&collected.send_lag);
        driver.worker_lost = workers.lost;
        let mut intervals = collected.intervals;
        intervals.append(&mut workers.intervals);
        let mut ledger = collected.ledger;
        ledger.append(&mut workers.ledger);
        let mut slow = collected.slow;
        slow.append(&mut workers.slow);
        Ok(TrafficResult { intervals, ledger, slow, driver, ended_us: stop_us })
    }
}

/// The open-model scenarios, each with its rows and the way that its requests take.
pub(crate) async fn sources(
    workload: &Workload,
    target: Option<&Target>,
    databases: &BTreeMap<String, PgConnectOptions>,
) -> Result<Vec<Source>, TrafficError> {
    for name in workload.databases() {
        let fault = |what: String| TrafficError::Database { name: name.to_owned(), what };
        let options = databases
            .get(name)
            .ok_or_else(|| fault("the workload needs it, and it is not given".to_owned()))?;
        sql::check_address(options).map_err(fault)?;
    }
    let mut feeders = BTreeMap::new();
    for spec in workload.feeders_in_use() {
        let feeder = Feeder::fetch(spec, databases).await.map_err(TrafficError::Sql)?;
        feeders.insert(spec.name.clone(), Arc::new(feeder));
    }
    let mut sources = Vec::new();
    for scenario in workload.of_model(Model::Arrivals) {
        let feeds = feeds_of(scenario, &feeders).map_err(TrafficError::Sql)?;
        let way = match (scenario.database().and_then(|name| databases.get(name)), target) {
            (Some(options), _) => {
                Way::Sql(Box::new(sql_way(scenario, options, &feeds).await.map_err(TrafficError::Sql)?))
            }
            (None, Some(target)) => {
                Way::Http(Http { scenario: Arc::clone(scenario), target: target.clone() })
            }
            (None, None) => continue,
        };
        sources.push(Source { scenario: Arc::clone(scenario), feeds, way });
    }
    Ok(sources)
}

/// Prepares a scenario of SQL, and encodes a first request of every step.
async fn sql_way(
    scenario: &Arc<Scenario>,
    options: &PgConnectOptions,
    feeds: &[Feed],
) -> Result<Sql, String> {
    let sql = Sql::prepare(scenario, options).await?;
    let mut session = Session::new(0, 0).fed(feeds.to_vec());
    for (index, step) in scenario.sql_steps().iter().enumerate() {
        sql.render(index, &mut session)
            .map_err(|what| format!("scenario `{}`, step `{}`: {what}", scenario.name, step.route))?;
    }
    Ok(sql)
}

/// Packs what is no longer young every now and then, and everything at the end.
async fn flush(recorder: Recorder, stop: CancellationToken) -> Collected {
    let mut collected = Collected {
        intervals: Vec::new(),
        ledger: Vec::new(),
        slow: Vec::new(),
        send_lag: standard_histogram(),
    };
    let mut take = |flushed: Flushed| {
        collected.intervals.extend(flushed.intervals);
        collected.ledger.extend(flushed.ledger);
        collected.slow.extend(flushed.slow);
        for lag_us in flushed.send_lags_us {
            collected.send_lag.saturating_record(lag_us);
        }
    };
    let mut round = tokio::time::interval(Duration::from_millis(FLUSH_MS));
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = round.tick() => take(recorder.flush(false)),
        }
    }
    take(recorder.flush(true));
    collected
}
