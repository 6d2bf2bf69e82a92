//! The open-model pump: requests start when the schedule says, whatever the answers take.
//!
//! `traffic` starts it; it tells its [`Recorder`]. One thread of its own with a single-threaded runtime, so that
//! nothing else in the process delays an arrival. Each scenario's schedule is paced here; its [`Lanes`] carry the requests,
//! over HTTP and by SQL alike.

use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{oneshot, watch};

use crate::clock::Clock;
use crate::feeder::Feed;
use crate::file::{Scenario, ScenarioModel};
use crate::http::Http;
use crate::lanes::{Lanes, Protocol};
use crate::pacer::Pacer;
use crate::recording::Recorder;
use crate::schedule::{Part, Schedule};
use crate::sql::Sql;

/// How long requests in flight may still end after the stop, microseconds.
pub(crate) const DRAIN_US: u64 = 2_000_000;
/// Arrivals dispatched in one go before the lanes get their turn, when the pump has to catch up.
const BURST_MAX: usize = 64;

/// What `traffic` has told the pump.
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    /// First intended instant.
    start_us: Option<u64>,
    /// First instant at which nothing arrives any more, and last one at which an answer is awaited.
    stop: Option<Stop>,
}

/// The end of a pump.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    /// First instant at which nothing arrives any more, microseconds since the epoch.
    pub(crate) at_us: u64,
    /// How long requests in flight may still end after it, microseconds.
    pub(crate) drain_us: u64,
}

/// The running pump; dropping it stops it without draining.
#[derive(Debug)]
pub(crate) struct ArrivalsPump {
    control: watch::Sender<Control>,
    recorder: Recorder,
    ended: oneshot::Receiver<std::io::Result<()>>,
}

/// A scenario with what carries its requests.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) feeds: Vec<Feed>,
    pub(crate) way: Way,
}

/// How requests reach the system under test.
#[derive(Debug)]
pub(crate) enum Way {
    /// Over HTTP.
    Http(Http),
    /// As statements of PostgreSQL.
    Sql(Box<Sql>),
}

impl ArrivalsPump {
    /// Starts the pump's thread; nothing is sent before [`ArrivalsPump::begin`].
    ///
    /// # Errors
    /// The machine gives no thread.
    pub(crate) fn start(
        sources: Vec<Source>,
        clock: Clock,
        seed: u64,
        part: Part,
        recorder: Recorder,
    ) -> std::io::Result<Self> {
        let (control, listener) = watch::channel(Control::default());
        let (end, ended) = oneshot::channel();
        let books = recorder.clone();
        std::thread::Builder::new().name("arrivals".to_owned()).spawn(move || {
            // Nobody waits for the end of a pump that was dropped.
            drop(end.send(run(sources, clock, seed, part, &books, &listener)));
        })?;
        Ok(Self { control, recorder, ended })
    }

    /// The schedule's first instant.
    pub(crate) fn begin(&self, start_us: u64) {
        self.control.send_modify(|control| control.start_us = control.start_us.or(Some(start_us)));
    }

    /// Nothing arrives from the stop on.
    pub(crate) fn stop(&self, stop: Stop) {
        self.control.send_modify(|control| control.stop = Some(stop));
    }

    /// The pump's books.
    pub(crate) const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Waits until everything in flight has ended or was cut off, at most the stop's drain after it.
    ///
    /// # Errors
    /// Why the pump ended without being told to.
    pub(crate) async fn finish(self) -> std::io::Result<()> {
        match self.ended.await {
            Ok(result) => result,
            Err(_) => Err(std::io::Error::other("the pump's thread panicked")),
        }
    }
}

fn run(
    sources: Vec<Source>,
    clock: Clock,
    seed: u64,
    part: Part,
    recorder: &Recorder,
    listener: &watch::Receiver<Control>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut paced = tokio::task::JoinSet::new();
        for (index, source) in (0_u64..).zip(sources) {
            // Any odd constant keeps the scenarios' dice apart.
            let seed = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let Source { scenario, feeds, way } = source;
            let (recorder, listener) = (recorder.clone(), listener.clone());
            match way {
                Way::Http(http) => {
                    let lanes = Lanes::new(http, scenario, feeds, clock, recorder, seed);
                    paced.spawn_local(pace(Rc::new(lanes), clock, seed, part, listener));
                }
                Way::Sql(sql) => {
                    let lanes = Lanes::new(*sql, scenario, feeds, clock, recorder, seed);
                    paced.spawn_local(pace(Rc::new(lanes), clock, seed, part, listener));
                }
            }
        }
        while let Some(ended) = paced.join_next().await {
            ended.map_err(std::io::Error::other)??;
        }
        Ok(())
    })
}

/// Plays one scenario's schedule from the start that `control` names to its stop.
async fn pace<P: Protocol>(
    lanes: Rc<Lanes<P>>,
    clock: Clock,
    seed: u64,
    part: Part,
    mut control: watch::Receiver<Control>,
) -> std::io::Result<()> {
    let Ok(start_us) = control.wait_for(|control| control.start_us.is_some()).await.map(|c| c.start_us)
    else {
        return Ok(());
    };
    let ScenarioModel::Arrivals { rates, spread, .. } = lanes.model() else { return Ok(()) };
    let start_us = start_us.unwrap_or(0);
    let mut schedule = Schedule::new(rates.clone(), *spread, start_us, seed, part);
    let pacer = Pacer::new(clock)?;
    let drained_us = loop {
        let stop = control.borrow_and_update().stop;
        let next_us = schedule.peek().map(|next| next.at_us);
        if let Some(stop) = stop.filter(|stop| next_us.is_none_or(|next_us| next_us >= stop.at_us)) {
            break stop.at_us + stop.drain_us;
        }
        tokio::select! {
            biased;
            changed = control.changed() => match changed {
                Ok(()) => continue,
                // Whoever would tell the pump to stop is gone.
                Err(_) => { lanes.cut_off(); break clock.now_us() }
            },
            // Where nothing is due any more, only the stop is awaited.
            waited = pacer.wait_until(next_us.unwrap_or(0)), if next_us.is_some() => waited?,
        }
        // After a stall of the pump itself many are due: each keeps the instant that it was meant for.
        let until_us = control.borrow().stop.map_or(u64::MAX, |stop| stop.at_us).min(clock.now_us() + 1);
        for _ in 0..BURST_MAX {
            if schedule.peek().is_none_or(|next| next.at_us >= until_us) {
                break;
            }
            if let Some(arrival) = schedule.take() {
                lanes.dispatch(arrival, arrival.at_us - start_us);
            }
        }
        tokio::task::yield_now().await;
    };
    lanes.drain(drained_us).await;
    Ok(())
}
