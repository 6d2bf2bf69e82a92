//! The users' worker: Goose drives virtual users in a process of its own, since its state is the process's.
//!
//! The harness's hidden `worker` command calls [`worker_process`]; [`crate::users`] is the other end of the pipe.
//! Goose is only the pump. Every call is timed to its last byte, judged and recorded here; its own metrics,
//! throttle, thresholds and corrections stay off.
//!
//! A user thinks after an answer, so the next request's intended start is the *end* of the previous one plus the
//! think time: response time and service time differ only by what the worker itself was late. A closed model cannot
//! see the requests that a stalled system kept its users from sending; that is what the open model is for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_reports::traffic::{ErrorKind, Model};
use goose::config::GooseConfiguration;
use goose::goose::{GooseMethod, GooseRequest, GooseUser, Scenario as GooseScenario, Transaction};
use goose::{GooseAttack, GooseError};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::answer::{BODY_BYTES_MAX, Ending, judge, ledger_entry};
use crate::clock::Clock;
use crate::connection::Target;
use crate::driver::process_cpu_us;
use crate::file::{Rendered, Scenario, ScenarioModel, Step, Workload};
use crate::recording::{Finished, Recorder};
use crate::schedule::{Part, UnknownPart};
use crate::template::Session;
use crate::timeline::Timeline;
use crate::wire::{Control, Hello, Report};

/// How long requests in flight may still end after the stop, microseconds; below the harness's patience.
const DRAIN_US: u64 = 1_200_000;
/// Between two reports, milliseconds.
const REPORT_MS: u64 = 500;

/// Why the worker ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The first line is missing or none of ours.
    #[error("read the first line: {0}; the worker is started by `fulldress run`, not by hand")]
    Hello(String),
    /// The workload cannot be played.
    #[error(transparent)]
    Workload(#[from] crate::file::WorkloadError),
    /// The target is not the mirror.
    #[error(transparent)]
    Target(#[from] crate::connection::TargetError),
    /// A control line is none of ours.
    #[error("read a control line: {0}")]
    Control(#[from] serde_json::Error),
    /// The harness does not read any more, or the machine refuses a thread.
    #[error("worker's pipes or thread: {0}")]
    Io(#[from] std::io::Error),
    /// The HTTP client cannot be made.
    #[error("make the HTTP client: {0}")]
    Client(#[from] reqwest::Error),
    /// Goose refused or ended by itself.
    #[error("goose: {0}")]
    Goose(String),
}

/// Runs the worker on the process's own standard input and output, which must be pipes.
///
/// Goose prints on standard output: what it prints goes to standard error instead, from here on.
///
/// # Errors
/// As [`worker`]; besides, standard input or output is no pipe.
pub async fn worker_process() -> Result<(), WorkerError> {
    use std::os::fd::AsFd as _;
    let input = std::io::stdin().as_fd().try_clone_to_owned()?;
    let output = std::io::stdout().as_fd().try_clone_to_owned()?;
    rustix::stdio::dup2_stdout(std::io::stderr()).map_err(std::io::Error::from)?;
    // Not tokio's stdin: its blocking read would keep the process from ending.
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(input)?;
    let writer = tokio::net::unix::pipe::Sender::from_owned_fd(output)?;
    worker(reader, writer).await
}

/// Plays the users' scenarios that the first line names until a line says stop or the input ends.
///
/// Ends within two seconds of being told.
///
/// # Errors
/// A line that is none of ours, a workload or target that cannot be used, a harness that is gone, or Goose ending by
/// itself. The reason is also sent as the last line.
pub async fn worker<R, W>(reader: R, mut writer: W) -> Result<(), WorkerError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let result = play(reader, &mut writer).await;
    if let Err(error) = &result {
        // If this cannot be written either, the harness sees the output end and says that.
        drop(send(&mut writer, &[Report::Failed(error.to_string())]).await);
    }
    result
}

async fn play<R, W>(reader: R, writer: &mut W) -> Result<(), WorkerError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut lines = BufReader::new(reader).lines();
    let first = lines.next_line().await?.ok_or_else(|| WorkerError::Hello("the input ended".to_owned()))?;
    let hello: Hello = serde_json::from_str(&first).map_err(|error| WorkerError::Hello(error.to_string()))?;
    let part = hello.part.parse().map_err(|error: UnknownPart| WorkerError::Hello(error.to_string()))?;
    let workload = Workload::parse(&hello.file, &hello.workload)?.select(&hello.scenarios)?.part(part);
    let target = Target::parse(&hello.base_url)?;
    let timeline = Timeline::default();
    let recorder = Recorder::new(&workload, Model::Users, timeline.clone(), hello.clock);
    let (start, started) = watch::channel(None);
    let crowd = Crowd::new(&workload, &hello, recorder.clone(), started);
    let (ended, mut goose_ended) = tokio::sync::oneshot::channel();
    let playing = CancellationToken::new();
    // Whatever way this function ends, Goose ends with it.
    let _guard = playing.clone().drop_guard();
    let goose = crowd.clone();
    std::thread::Builder::new().name("goose".to_owned()).spawn(move || {
        drop(ended.send(drive(&goose, &target, &playing)));
    })?;

    let mut report = tokio::time::interval(Duration::from_millis(REPORT_MS));
    loop {
        tokio::select! {
            line = lines.next_line() => match line?.map(|line| serde_json::from_str(&line)).transpose()? {
                Some(Control::Enter { phase, from_us }) => {
                    timeline.enter(phase, from_us);
                    start.send_modify(|start_us| *start_us = start_us.or(Some(from_us)));
                }
                Some(Control::Stop { .. }) | None => break,
            },
            _ = report.tick() => report_so_far(writer, &recorder, false).await?,
            result = &mut goose_ended => {
                return Err(match result {
                    Ok(Err(error)) => error,
                    Ok(Ok(())) | Err(_) => WorkerError::Goose("it ended by itself".to_owned()),
                });
            }
        }
    }
    timeline.end(hello.clock.now_us());
    crowd.drain().await;
    report_so_far(writer, &recorder, true).await?;
    let done = Report::Done { totals: recorder.totals(), cpu_us: process_cpu_us() };
    send(writer, &[done]).await?;
    Ok(())
}

async fn report_so_far<W: AsyncWrite + Unpin>(
    writer: &mut W,
    recorder: &Recorder,
    everything: bool,
) -> std::io::Result<()> {
    let flushed = recorder.flush(everything);
    let mut reports: Vec<Report> = flushed.intervals.into_iter().map(Report::Interval).collect();
    reports.extend(flushed.ledger.into_iter().map(Report::Ledger));
    reports.extend(flushed.slow.into_iter().map(Report::Slow));
    reports.push(Report::Live(recorder.live()));
    send(writer, &reports).await
}

async fn send<W: AsyncWrite + Unpin>(writer: &mut W, reports: &[Report]) -> std::io::Result<()> {
    let mut text = Vec::new();
    for report in reports {
        serde_json::to_writer(&mut text, report)?;
        text.push(b'\n');
    }
    writer.write_all(&text).await?;
    writer.flush().await
}

/// All users together; copies share them.
#[derive(Debug, Clone)]
struct Crowd {
    scenarios: Arc<[Arc<Scenario>]>,
    part: Part,
    clock: Clock,
    seed: u64,
    recorder: Recorder,
    started: watch::Receiver<Option<u64>>,
    stopping: Arc<AtomicBool>,
    cut: CancellationToken,
    visitors: Arc<Mutex<HashMap<usize, Visitor>>>,
}

/// One user between two journeys.
#[derive(Debug, Clone)]
struct Visitor {
    session: Session,
    /// Intended start of its next request.
    next_us: u64,
}

impl Crowd {
    fn new(
        workload: &Workload,
        hello: &Hello,
        recorder: Recorder,
        started: watch::Receiver<Option<u64>>,
    ) -> Self {
        Self {
            scenarios: workload.of_model(Model::Users).cloned().collect(),
            part: workload.which_part(),
            clock: hello.clock,
            seed: hello.seed,
            recorder,
            started,
            stopping: Arc::default(),
            cut: CancellationToken::new(),
            visitors: Arc::default(),
        }
    }

    fn users(&self) -> u32 {
        self.scenarios.iter().map(|scenario| self.users_of(scenario)).sum()
    }

    /// How many users of a scenario belong to this part.
    fn users_of(&self, scenario: &Scenario) -> u32 {
        // Not more than the whole has, which fits.
        u32::try_from(self.part.share_of(u64::from(users_and_think(scenario).0))).unwrap_or(u32::MAX)
    }

    /// Lets what is in flight end, then cuts it off.
    async fn drain(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let until_us = self.clock.now_us() + DRAIN_US;
        while self.recorder.totals().in_flight > 0 {
            if self.clock.now_us() >= until_us {
                // The cut lets every call end by itself at once, so this loop does too.
                self.cut.cancel();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// One journey of one user, from its first thought to its last answer or to its first error.
    async fn journey(&self, scenario: &Scenario, client: &reqwest::Client, user: &mut GooseUser) {
        // Goose gave the user a client of its own kind; ours follows no redirect and no proxy.
        user.client = client.clone();
        let mut visitor = self.visitor(scenario, user.weighted_users_index).await;
        let mut skipped_all = true;
        for (index, step) in scenario.http_steps().iter().enumerate() {
            let rendered = match step.applies(&scenario.templates, &visitor.session) {
                Ok(false) => continue,
                Ok(true) => step.render(&scenario.templates, &mut visitor.session),
                Err(what) => Err(what),
            };
            skipped_all = false;
            self.clock.sleep_until(visitor.next_us).await;
            if self.stopping.load(Ordering::SeqCst) {
                // Goose would call again at once; the runtime is dropped soon.
                std::future::pending::<()>().await;
            }
            let went_well = self.request((scenario, index), rendered, &mut visitor, user).await;
            visitor.next_us = self.clock.now_us() + think_us(scenario, &visitor.session);
            if !went_well {
                break;
            }
        }
        if skipped_all {
            // Whoever has nothing to do thinks all the same, and asks again later.
            visitor.next_us = self.clock.now_us() + think_us(scenario, &visitor.session);
            self.clock.sleep_until(visitor.next_us).await;
        }
        let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        visitors.insert(user.weighted_users_index, visitor);
    }

    /// The user as it was left after its last journey, or a new one once the first phase is known.
    async fn visitor(&self, scenario: &Scenario, index: usize) -> Visitor {
        let known = self.visitors.lock().unwrap_or_else(PoisonError::into_inner).remove(&index);
        if let Some(visitor) = known {
            return visitor;
        }
        // Goose writes a line to standard error for each failed request, which is counted here already. It sets up
        // its log while it starts, so a user is the first place from where it can be told to be quiet.
        log::set_max_level(log::LevelFilter::Off);
        let mut started = self.started.clone();
        let start_us = started.wait_for(Option::is_some).await.map(|start_us| start_us.unwrap_or(0));
        let Ok(start_us) = start_us else {
            // The worker is ending.
            return std::future::pending().await;
        };
        // Users of other parts have other dice.
        let place = self.part.place_of(index as u64);
        let seed = self.seed.wrapping_add((place + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let session = Session::new(seed, self.clock.epoch_unix_us());
        // Spread over one think time, so that users do not begin in step.
        let (_, (_, think_max_ms)) = users_and_think(scenario);
        let next_us = start_us + session.between(0, think_max_ms * 1000);
        Visitor { session, next_us }
    }

    /// Sends one request and writes down how it went; `false` ends the journey.
    async fn request(
        &self,
        (scenario, index): (&Scenario, usize),
        rendered: Result<Rendered, String>,
        visitor: &mut Visitor,
        user: &mut GooseUser,
    ) -> bool {
        let step = &scenario.http_steps()[index];
        let route = self.recorder.route(&step.route);
        let intended_us = visitor.next_us;
        self.recorder.planned(route, intended_us);
        let Ok(mut rendered) = rendered else {
            self.recorder.unsent(route, intended_us, ErrorKind::Dropped);
            return false;
        };
        let written = rendered.write.take();
        let started_us = self.clock.now_us();
        self.recorder.begun(route, intended_us, None);
        let ending = tokio::select! {
            biased;
            () = self.cut.cancelled() => Ending::Broken { kind: ErrorKind::Timeout, perhaps_sent: true },
            ending = call(scenario, step, rendered, user) => ending,
        };
        let ended_us = self.clock.now_us();
        let judgement = judge(step, &ending, Some(&mut visitor.session));
        if let (Some(written), Some(write)) = (written, judgement.write) {
            let phase = self.recorder.timeline().slot(intended_us).phase;
            self.recorder.wrote(ledger_entry(step, written, phase, ended_us, write));
        }
        let response_us = ended_us.saturating_sub(intended_us);
        let late = scenario.latency_us_max(index).is_some_and(|limit_us| response_us > limit_us);
        let error = judgement.error.or(late.then_some(ErrorKind::Late));
        // Last: the drain waits for this, and must find the ledger complete.
        self.recorder.finished(route, Finished { intended_us, started_us, ended_us, error });
        // A late answer is a right one: the journey goes on with it.
        judgement.error.is_none()
    }
}

fn users_and_think(scenario: &Scenario) -> (u32, (u64, u64)) {
    match scenario.model {
        ScenarioModel::Users { users, think_ms } => (users, think_ms),
        ScenarioModel::Arrivals { .. } => (0, (0, 0)),
    }
}

fn think_us(scenario: &Scenario, session: &Session) -> u64 {
    let (_, (min_ms, max_ms)) = users_and_think(scenario);
    session.between(min_ms * 1000, max_ms * 1000)
}

/// One call through Goose, to the last byte of its body.
async fn call(scenario: &Scenario, step: &Step, rendered: Rendered, user: &mut GooseUser) -> Ending {
    let Ok(url) = user.build_url(&rendered.path) else {
        return Ending::Broken { kind: ErrorKind::Dropped, perhaps_sent: false };
    };
    let mut builder =
        user.client.request(step.method.clone(), url).timeout(Duration::from_millis(scenario.timeout_ms));
    for (name, value) in rendered.headers {
        builder = builder.header(name, value);
    }
    if let Some(body) = rendered.body {
        builder = builder.body(body);
    }
    // Goose asks for a method only to name the request; the builder carries the real one.
    let request = GooseRequest::builder()
        .method(GooseMethod::Get)
        .set_request_builder(builder)
        .name(step.route.as_str());
    let answer = match user.request(request.build()).await {
        Ok(called) => called.response,
        // Goose refuses before sending only.
        Err(_) => return Ending::Broken { kind: ErrorKind::Dropped, perhaps_sent: false },
    };
    match answer {
        Ok(mut answer) => {
            let status = answer.status().as_u16();
            let headers = std::mem::take(answer.headers_mut());
            let mut body = Vec::new();
            loop {
                match answer.chunk().await {
                    Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                    Ok(None) => return Ending::Answered { status, headers, body: body.into() },
                    Err(error) => return broken(&error),
                }
                if body.len() > BODY_BYTES_MAX {
                    return Ending::Broken { kind: ErrorKind::WrongBody, perhaps_sent: true };
                }
            }
        }
        Err(error) => broken(&error),
    }
}

fn broken(error: &reqwest::Error) -> Ending {
    // A connect error may also be a timeout; no connection is the closer cause then.
    if error.is_connect() {
        Ending::Broken { kind: ErrorKind::Connect, perhaps_sent: false }
    } else if error.is_timeout() {
        Ending::Broken { kind: ErrorKind::Timeout, perhaps_sent: true }
    } else {
        Ending::Broken { kind: ErrorKind::Reset, perhaps_sent: true }
    }
}

/// Runs Goose on this thread until `playing` is cancelled; its users end with the runtime.
fn drive(crowd: &Crowd, target: &Target, playing: &CancellationToken) -> Result<(), WorkerError> {
    let client = reqwest::Client::builder()
        .no_proxy()
        .no_gzip()
        .redirect(reqwest::redirect::Policy::none())
        .tcp_nodelay(true)
        .build()?;
    let attack = attack(crowd, &client, target).map_err(|error| WorkerError::Goose(error.to_string()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        tokio::select! {
            () = playing.cancelled() => Ok(()),
            ended = attack.execute() => ended.map(drop).map_err(|error| WorkerError::Goose(error.to_string())),
        }
    });
    runtime.shutdown_background();
    result
}

fn attack(crowd: &Crowd, client: &reqwest::Client, target: &Target) -> Result<GooseAttack, Box<GooseError>> {
    let users = crowd.users().to_string();
    let configuration = GooseConfiguration::parse_args_default(&[
        "--host",
        target.url().as_str(),
        "--users",
        users.as_str(),
        // Users wait for the first phase themselves; Goose only has to have started them by then.
        "--increase-rate",
        "1000",
        "--no-metrics",
        "--no-print-metrics",
        "--no-telnet",
        "--quiet",
    ])
    .map_err(Box::new)?;
    let plain = goose::client::GooseClientBuilder::new().without_cookies();
    let mut attack = GooseAttack::initialize_with_config(configuration)
        .and_then(|attack| attack.set_client_builder_without_cookies(plain))
        .map_err(Box::new)?;
    for scenario in crowd.scenarios.iter() {
        let users = crowd.users_of(scenario);
        let (crowd, client, played) = (crowd.clone(), client.clone(), Arc::clone(scenario));
        let transaction = Transaction::new(Arc::new(move |user: &mut GooseUser| {
            let (crowd, client, scenario) = (crowd.clone(), client.clone(), Arc::clone(&played));
            Box::pin(async move {
                crowd.journey(&scenario, &client, user).await;
                Ok(())
            })
        }));
        // The weights are the users themselves, and all of them are started: each scenario gets exactly its own.
        let goose_scenario = GooseScenario::new(&scenario.name)
            .register_transaction(transaction)
            .set_weight(users as usize)
            .map_err(Box::new)?;
        attack = attack.register_scenario(goose_scenario);
    }
    Ok(attack)
}
