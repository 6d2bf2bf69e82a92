//! What every protocol's arrivals have in common: connections, a backlog, and the books.
//!
//! `arrivals` paces it; it tells its [`Recorder`]. A scenario has a *lane* per connection: a lane carries one request at a
//! time, then takes the oldest one of the backlog, and parks its connection when there is none. What a request is, only
//! the [`Protocol`] knows.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::traffic::{ErrorKind, LedgerEntry};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::Judgement;
use crate::clock::Clock;
use crate::feeder::Feed;
use crate::file::{Mix, Scenario, ScenarioModel};
use crate::recording::{Finished, Recorder, RouteId};
use crate::schedule::Arrival;
use crate::template::Session;

/// How far a request has come: what a caller who gives up can know about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// No connection stands yet.
    Connecting,
    /// The system works on it, and undoes it when the connection breaks.
    Working,
    /// What was sent may take effect though its answer never comes.
    Deciding,
}

impl Progress {
    /// The kind of error when time runs out now. Before a connection stands, that means that none could be made.
    pub(crate) const fn out_of_time(self) -> ErrorKind {
        match self {
            Self::Connecting => ErrorKind::Connect,
            Self::Working | Self::Deciding => ErrorKind::Timeout,
        }
    }
}

/// The key of a write and how it is read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WriteKey {
    pub(crate) key: String,
    pub(crate) read_back: String,
    pub(crate) database: Option<String>,
}

/// One way to talk to the system under test.
pub(crate) trait Protocol: 'static {
    /// A request with its values.
    type Request: 'static;
    /// What carries requests, one at a time.
    type Connection: 'static;
    /// How a request ended, before it is judged.
    type Ending;

    /// Makes the next request of a step.
    ///
    /// # Errors
    /// A sentence about a value that cannot be sent.
    fn render(&self, step: usize, session: &mut Session)
    -> Result<(Self::Request, Option<WriteKey>), String>;

    /// Whether the other side has not closed it, as far as this side has heard.
    fn is_open(connection: &Self::Connection) -> bool;

    /// The connection, once another request may be sent on it; nothing when it is of no more use.
    async fn reusable(connection: Self::Connection) -> Option<Self::Connection>;

    /// Sends one request and reads the whole answer.
    async fn exchange(
        &self,
        idle: Option<Self::Connection>,
        step: usize,
        request: Self::Request,
        progress: &Cell<Progress>,
    ) -> (Self::Ending, Option<Self::Connection>);

    /// The ending of an exchange that was given up.
    fn abandoned(&self, progress: Progress) -> Self::Ending;

    /// Judges an ending.
    fn judge(&self, step: usize, ending: &Self::Ending) -> Judgement;

    /// What a person would want to know about an ending that is an error.
    fn said(ending: &Self::Ending) -> Option<String>;

    /// Whether an ending says that the other connections are most likely dead, too.
    fn ends_others(ending: &Self::Ending) -> bool;
}

/// A planned request.
struct Job<Request> {
    intended_us: u64,
    step: usize,
    request: Request,
    write: Option<WriteKey>,
}

/// The connections of one scenario and what waits for one.
pub(crate) struct Lanes<P: Protocol> {
    protocol: P,
    scenario: Arc<Scenario>,
    clock: Clock,
    recorder: Recorder,
    connections_max: usize,
    backlog_max: usize,
    mixes: Vec<Mix>,
    labels: Vec<String>,
    routes: Vec<RouteId>,
    state: RefCell<LaneState<P>>,
    cut: CancellationToken,
    tasks: TaskTracker,
}

struct LaneState<P: Protocol> {
    session: Session,
    idle: Vec<P::Connection>,
    /// Lanes that carry a request, and idle connections.
    open: usize,
    backlog: VecDeque<Job<P::Request>>,
}

impl<P: Protocol> Lanes<P> {
    /// Lanes without a connection; `seed` decides everything random.
    pub(crate) fn new(
        protocol: P,
        scenario: Arc<Scenario>,
        feeds: Vec<Feed>,
        clock: Clock,
        recorder: Recorder,
        seed: u64,
    ) -> Self {
        let (connections_max, backlog_max) = match scenario.model {
            ScenarioModel::Arrivals { connections_max, backlog_max, .. } => (connections_max, backlog_max),
            ScenarioModel::Users { .. } => (0, 0),
        };
        let session = Session::new(seed, clock.epoch_unix_us()).fed(feeds);
        let labels: Vec<String> = scenario.routes().into_iter().map(str::to_owned).collect();
        Self {
            routes: labels.iter().map(|label| recorder.route(label)).collect(),
            labels,
            mixes: scenario.mixes(),
            protocol,
            clock,
            recorder,
            connections_max,
            backlog_max,
            state: RefCell::new(LaneState { session, idle: Vec::new(), open: 0, backlog: VecDeque::new() }),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            scenario,
        }
    }

    /// What drives the scenario.
    pub(crate) fn model(&self) -> &ScenarioModel {
        &self.scenario.model
    }

    /// Ends everything that is under way, without waiting for answers.
    pub(crate) fn cut_off(&self) {
        self.cut.cancel();
    }

    /// An arrival is due: it gets a connection, a place in the backlog, or is dropped.
    /// `since_start_us` is how far its instant lies behind the beginning of the schedule.
    pub(crate) fn dispatch(self: &Rc<Self>, arrival: Arrival, since_start_us: u64) {
        let Arrival { number, at_us: intended_us } = arrival;
        let mut state = self.state.borrow_mut();
        state.session.go_to(number);
        let mix = self.mixes.partition_point(|(from_us, _)| *from_us <= since_start_us).saturating_sub(1);
        let step = self.mixes.get(mix).map_or(0, |(_, weights)| state.session.choose(weights));
        self.recorder.planned(self.routes[step], intended_us);
        if state.session.is_dry() {
            self.recorder.unsent(self.routes[step], intended_us, ErrorKind::FeederDry);
            return;
        }
        // Rendered here and not when a connection is free: the sequence then follows from the seed alone.
        let Ok((request, write)) = self.protocol.render(step, &mut state.session) else {
            self.recorder.unsent(self.routes[step], intended_us, ErrorKind::Dropped);
            return;
        };
        let job = Job { intended_us, step, request, write };
        while let Some(connection) = state.idle.pop() {
            if P::is_open(&connection) {
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
            self.recorder.unsent(self.routes[step], intended_us, ErrorKind::Dropped);
        }
    }

    /// Carries a request, then whatever waits, and parks the connection in the end.
    async fn lane(self: Rc<Self>, connection: Option<P::Connection>, job: Job<P::Request>) {
        let mut connection = self.perform(connection, job, false).await;
        loop {
            connection = match connection {
                Some(connection) => P::reusable(connection).await,
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
    async fn perform(
        &self,
        idle: Option<P::Connection>,
        job: Job<P::Request>,
        waited: bool,
    ) -> Option<P::Connection> {
        let Job { intended_us, step, request, write } = job;
        let route = self.routes[step];
        let started_us = self.clock.now_us();
        self.recorder.begun(route, intended_us, (!waited).then(|| started_us.saturating_sub(intended_us)));
        let progress = Cell::new(Progress::Connecting);
        let limit = Duration::from_millis(self.scenario.timeout_ms);
        let exchange = self.protocol.exchange(idle, step, request, &progress);
        let exchanged = tokio::select! {
            biased;
            () = self.cut.cancelled() => None,
            exchanged = tokio::time::timeout(limit, exchange) => exchanged.ok(),
        };
        let (ending, connection) =
            exchanged.unwrap_or_else(|| (self.protocol.abandoned(progress.get()), None));
        let ended_us = self.clock.now_us();
        let judgement = self.protocol.judge(step, &ending);
        if P::ends_others(&ending) {
            self.close_idle();
        }
        if let (Some(WriteKey { key, read_back, database }), Some((answer, value))) = (write, judgement.write)
        {
            let phase = self.recorder.timeline().slot(intended_us).phase;
            let (route, answered_us) = (self.labels[step].clone(), ended_us);
            self.recorder.wrote(LedgerEntry {
                key,
                route,
                phase,
                answered_us,
                answer,
                value,
                read_back,
                database,
            });
        }
        let response_us = ended_us.saturating_sub(intended_us);
        let late = self.scenario.latency_us_max(step).is_some_and(|limit_us| response_us > limit_us);
        let error = judgement.error.or(late.then_some(ErrorKind::Late));
        self.recorder.finished(route, Finished { intended_us, started_us, ended_us, error });
        connection
    }

    fn close_idle(&self) {
        let mut state = self.state.borrow_mut();
        state.open -= state.idle.len();
        state.idle.clear();
    }

    /// Lets what is in flight end until an instant, then cuts it off; what never got a connection counts as dropped.
    pub(crate) async fn drain(&self, until_us: u64) {
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.clock.sleep_until(until_us) => {}
            () = self.cut.cancelled() => {}
        }
        self.cut.cancel();
        self.tasks.wait().await;
        let mut state = self.state.borrow_mut();
        state.idle.clear();
        for job in state.backlog.drain(..) {
            self.recorder.unsent(self.routes[job.step], job.intended_us, ErrorKind::Dropped);
        }
    }
}
