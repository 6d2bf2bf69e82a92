//! The open-model pump: requests start when the schedule says, whatever the answers take.
//!
//! `traffic` starts it; it tells its [`Recorder`]. One thread of its own with a single-threaded runtime, so that
//! nothing else in the process delays an arrival. Each scenario has a *lane* per connection: a lane carries one
//! request at a time, then takes the oldest one of the backlog, and parks its connection when there is none.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::traffic::{ErrorKind, Model};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Ending, judge, ledger_entry};
use crate::clock::Clock;
use crate::connection::{Connection, Target, exchange};
use crate::file::{Rendered, Scenario, ScenarioModel, Workload};
use crate::pacer::Pacer;
use crate::recording::{Finished, Recorder, RouteId};
use crate::schedule::Schedule;
use crate::template::Session;

/// How long requests in flight may still end after the stop, microseconds.
pub(crate) const DRAIN_US: u64 = 2_000_000;
/// Arrivals dispatched in one go before the lanes get their turn, when the pump has to catch up.
const BURST_MAX: usize = 64;

/// What `traffic` has told the pump.
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    /// First intended instant.
    start_us: Option<u64>,
    /// First instant at which nothing arrives any more.
    stop_us: Option<u64>,
}

/// The running pump; dropping it stops it without draining.
#[derive(Debug)]
pub(crate) struct ArrivalsPump {
    control: watch::Sender<Control>,
    recorder: Recorder,
    ended: oneshot::Receiver<std::io::Result<()>>,
}

/// Everything that a scenario's lanes need to know.
#[derive(Debug, Clone)]
struct Context {
    target: Target,
    clock: Clock,
    recorder: Recorder,
    seed: u64,
}

impl ArrivalsPump {
    /// Starts the pump's thread; nothing is sent before [`ArrivalsPump::begin`].
    ///
    /// # Errors
    /// The machine gives no thread.
    pub(crate) fn start(
        workload: &Workload,
        target: Target,
        clock: Clock,
        seed: u64,
        recorder: Recorder,
    ) -> std::io::Result<Self> {
        let scenarios: Vec<Arc<Scenario>> = workload.of_model(Model::Arrivals).cloned().collect();
        let (control, listener) = watch::channel(Control::default());
        let (end, ended) = oneshot::channel();
        let context = Context { target, clock, recorder: recorder.clone(), seed };
        std::thread::Builder::new().name("arrivals".to_owned()).spawn(move || {
            // Nobody waits for the end of a pump that was dropped.
            drop(end.send(run(&scenarios, &context, &listener)));
        })?;
        Ok(Self { control, recorder, ended })
    }

    /// The schedule's first instant.
    pub(crate) fn begin(&self, start_us: u64) {
        self.control.send_modify(|control| control.start_us = control.start_us.or(Some(start_us)));
    }

    /// Nothing arrives from `stop_us` on.
    pub(crate) fn stop_at(&self, stop_us: u64) {
        self.control.send_modify(|control| control.stop_us = Some(stop_us));
    }

    /// The pump's books.
    pub(crate) const fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Waits until everything in flight has ended or was cut off, at most [`DRAIN_US`] after the stop.
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
    scenarios: &[Arc<Scenario>],
    context: &Context,
    listener: &watch::Receiver<Control>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let mut paced = tokio::task::JoinSet::new();
        for (index, scenario) in (0..).zip(scenarios) {
            let lanes = Rc::new(Lanes::new(Arc::clone(scenario), context, index));
            paced.spawn_local(pace(lanes, listener.clone()));
        }
        while let Some(ended) = paced.join_next().await {
            ended.map_err(std::io::Error::other)??;
        }
        Ok(())
    })
}

/// Plays one scenario's schedule from the start that `control` names to its stop.
async fn pace(lanes: Rc<Lanes>, mut control: watch::Receiver<Control>) -> std::io::Result<()> {
    let Ok(start_us) = control.wait_for(|control| control.start_us.is_some()).await.map(|c| c.start_us)
    else {
        return Ok(());
    };
    let ScenarioModel::Arrivals { rate_per_s, schedule, .. } = lanes.scenario.model else { return Ok(()) };
    let mut schedule = Schedule::new(schedule, rate_per_s, start_us.unwrap_or(0), lanes.seed);
    let clock = lanes.context.clock;
    let pacer = Pacer::new(clock)?;
    let stop_us = loop {
        let stop_us = control.borrow_and_update().stop_us;
        let next_us = schedule.peek_us();
        if let Some(stop_us) = stop_us.filter(|stop_us| next_us >= *stop_us) {
            break stop_us;
        }
        tokio::select! {
            biased;
            changed = control.changed() => match changed {
                Ok(()) => continue,
                // Whoever would tell the pump to stop is gone.
                Err(_) => { lanes.cut.cancel(); break clock.now_us() }
            },
            waited = pacer.wait_until(next_us) => waited?,
        }
        // After a stall of the pump itself many are due: each keeps the instant that it was meant for.
        let until_us = control.borrow().stop_us.unwrap_or(u64::MAX).min(clock.now_us() + 1);
        for _ in 0..BURST_MAX {
            if schedule.peek_us() >= until_us {
                break;
            }
            lanes.dispatch(schedule.take_us());
        }
        tokio::task::yield_now().await;
    };
    lanes.drain(stop_us).await;
    Ok(())
}

/// A planned request.
#[derive(Debug)]
struct Job {
    intended_us: u64,
    step: usize,
    rendered: Rendered,
}

/// The connections of one scenario and what waits for one.
struct Lanes {
    scenario: Arc<Scenario>,
    context: Context,
    seed: u64,
    connections_max: usize,
    backlog_max: usize,
    weights: Vec<u32>,
    weights_total: u64,
    routes: Vec<RouteId>,
    state: RefCell<LaneState>,
    cut: CancellationToken,
    tasks: TaskTracker,
}

struct LaneState {
    session: Session,
    idle: Vec<Connection>,
    /// Lanes that carry a request, and idle connections.
    open: usize,
    backlog: VecDeque<Job>,
}

impl Lanes {
    fn new(scenario: Arc<Scenario>, context: &Context, index: u64) -> Self {
        let (connections_max, backlog_max) = match scenario.model {
            ScenarioModel::Arrivals { connections_max, backlog_max, .. } => (connections_max, backlog_max),
            ScenarioModel::Users { .. } => (0, 0),
        };
        // Any odd constant keeps the scenarios' dice apart.
        let seed = context.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let weights: Vec<u32> = scenario.steps.iter().map(|step| step.weight).collect();
        let session = Session::new(seed, context.clock.epoch_unix_us());
        Self {
            routes: scenario.steps.iter().map(|step| context.recorder.route(&step.route)).collect(),
            weights_total: weights.iter().map(|weight| u64::from(*weight)).sum(),
            weights,
            context: context.clone(),
            seed,
            connections_max,
            backlog_max,
            state: RefCell::new(LaneState { session, idle: Vec::new(), open: 0, backlog: VecDeque::new() }),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            scenario,
        }
    }

    /// An arrival is due: it gets a connection, a place in the backlog, or is dropped.
    fn dispatch(self: &Rc<Self>, intended_us: u64) {
        let mut state = self.state.borrow_mut();
        let step = state.session.choose(&self.weights, self.weights_total);
        self.context.recorder.planned(self.routes[step], intended_us);
        // Rendered here and not when a connection is free: the sequence then follows from the seed alone.
        let Ok(rendered) = self.scenario.render(&self.scenario.steps[step], &mut state.session) else {
            self.context.recorder.dropped(self.routes[step], intended_us);
            return;
        };
        let job = Job { intended_us, step, rendered };
        while let Some(connection) = state.idle.pop() {
            if connection.is_open() {
                self.tasks.spawn_local(Rc::clone(self).lane(Some(connection), job));
                return;
            }
            state.open -= 1;
        }
        if state.open < self.connections_max {
            state.open += 1;
            self.tasks.spawn_local(Rc::clone(self).lane(None, job));
        } else if state.backlog.len() < self.backlog_max {
            state.backlog.push_back(job);
        } else {
            self.context.recorder.dropped(self.routes[step], intended_us);
        }
    }

    /// Carries a request, then whatever waits, and parks the connection in the end.
    async fn lane(self: Rc<Self>, connection: Option<Connection>, job: Job) {
        let mut connection = self.perform(connection, job, false).await;
        loop {
            connection = match connection {
                Some(connection) => connection.reusable().await,
                None => None,
            };
            let waiting =
                if self.cut.is_cancelled() { None } else { self.state.borrow_mut().backlog.pop_front() };
            match waiting {
                Some(job) => connection = self.perform(connection, job, true).await,
                None => break,
            }
        }
        let mut state = self.state.borrow_mut();
        match connection {
            Some(connection) => state.idle.push(connection),
            None => state.open -= 1,
        }
    }

    /// Sends one request and writes down how it went.
    async fn perform(&self, idle: Option<Connection>, job: Job, waited: bool) -> Option<Connection> {
        let Context { target, clock, recorder, .. } = &self.context;
        let Job { intended_us, step, mut rendered } = job;
        let (route, step) = (self.routes[step], &self.scenario.steps[step]);
        let written = rendered.write.take();
        let started_us = clock.now_us();
        recorder.begun(route, intended_us, (!waited).then(|| started_us.saturating_sub(intended_us)));
        let may_be_sent = Cell::new(false);
        let limit = Duration::from_millis(self.scenario.timeout_ms);
        let exchanged = tokio::select! {
            biased;
            () = self.cut.cancelled() => None,
            exchanged = tokio::time::timeout(limit, exchange(idle, target, step, rendered, &may_be_sent)) => exchanged.ok(),
        };
        let (ending, connection) = exchanged.unwrap_or_else(|| {
            let perhaps_sent = may_be_sent.get();
            // Before a connection stands, running out of time means that none could be made.
            let kind = if perhaps_sent { ErrorKind::Timeout } else { ErrorKind::Connect };
            (Ending::Broken { kind, perhaps_sent }, None)
        });
        let ended_us = clock.now_us();
        let judgement = judge(step, &ending, None);
        recorder.finished(route, Finished { intended_us, started_us, ended_us, error: judgement.error });
        if let (Some(written), Some(write)) = (written, judgement.write) {
            let phase = recorder.timeline().slot(intended_us).phase;
            recorder.wrote(ledger_entry(step, written, phase, ended_us, write));
        }
        connection
    }

    /// Lets what is in flight end, then cuts it off; what never got a connection counts as dropped.
    async fn drain(&self, stop_us: u64) {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.context.clock.sleep_until(stop_us + DRAIN_US) => {}
            () = self.cut.cancelled() => {}
        }
        self.cut.cancel();
        self.tasks.wait().await;
        let mut state = self.state.borrow_mut();
        state.idle.clear();
        for job in state.backlog.drain(..) {
            self.context.recorder.dropped(self.routes[job.step], job.intended_us);
        }
    }
}
