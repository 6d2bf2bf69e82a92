//! `fulldress load`: a workload's traffic alone, without mirror, package or verdict.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::str::FromStr as _;
use std::time::Duration;

use fulldress_reports::evidence::Limits;
use fulldress_reports::figures::{duration_us, share_percent, thousands};
use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, Model, Quantiles, RouteSummary, TrafficEvidence};
use fulldress_workloads::check::{CheckedStep, check};
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;
use fulldress_workloads::traffic::{Traffic, TrafficError, TrafficPlan, TrafficResult};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::{CommandResult, Failure, cancel_on_signals, print, print_json, runtime};
use crate::cli::{Format, Load};
use crate::conductor::traffic::summarise;
use crate::process::RunFolder;
use crate::progress::Progress;
use crate::worker;

/// Pause between two live figures, microseconds.
const TICK_US: u64 = 500_000;
/// How long before its end the traffic is told of it, microseconds.
const AHEAD_US: u64 = 100_000;

/// Plays the workload, or one pass of it with `--check`.
///
/// # Errors
/// A workload that does not fit what is given or what runs; a machine that gives no worker.
pub fn run(args: &Load) -> CommandResult {
    let mut workload = Workload::load(&args.workload).map_err(Failure::usage)?;
    if !args.scenario.is_empty() {
        workload = workload.select(&args.scenario).map_err(Failure::usage)?;
    }
    if let Some(part) = args.part {
        workload = workload.part(part);
    }
    let databases = databases(&args.database)?;
    if let Some(folder) = &args.out {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
    }
    let plan = TrafficPlan {
        workload,
        base_url: args.base_url.clone(),
        databases,
        clock: Clock::start(),
        seed: args.seed,
        users_stream: None,
    };
    runtime()?.block_on(async {
        let cancel = cancel_on_signals()?;
        if args.check {
            check_once(plan, args.format, &cancel).await
        } else {
            play(plan, args, &cancel).await
        }
    })
}

/// The databases of `NAME=URL` pairs.
fn databases(given: &[String]) -> Result<BTreeMap<String, PgConnectOptions>, Failure> {
    let mut databases = BTreeMap::new();
    for pair in given {
        let fault = |what: &str| Failure::usage(format!("--database: {what}; give NAME=postgres://…"));
        let (name, url) = pair.split_once('=').ok_or_else(|| fault("there is no `=` in it"))?;
        // The error may repeat the URL, which may hold a password.
        let options =
            PgConnectOptions::from_str(url).map_err(|_| fault(&format!("`{name}` has no valid URL")))?;
        databases.insert(name.to_owned(), options.disable_statement_logging());
    }
    Ok(databases)
}

async fn check_once(plan: TrafficPlan, format: Format, cancel: &CancellationToken) -> CommandResult {
    let steps = tokio::select! {
        () = cancel.cancelled() => return Err(Failure::machine("the check was cancelled")),
        steps = check(plan) => steps.map_err(failure)?,
    };
    match format {
        Format::Json => print_json(&steps)?,
        Format::Text => print(&checked(&steps)),
    }
    Ok(u8::from(steps.iter().any(|step| step.error.is_some())))
}

/// What is given does not fit, or what runs does not.
fn failure(error: TrafficError) -> Failure {
    match error {
        TrafficError::Arrivals(_) | TrafficError::Hello(_) => Failure::machine(error),
        _ => Failure::usage(error),
    }
}

async fn play(mut plan: TrafficPlan, args: &Load, cancel: &CancellationToken) -> CommandResult {
    let clock = plan.clock;
    let (folder, _) = RunFolder::create().map_err(Failure::machine)?;
    let mut child = None;
    if plan.workload.has_users() {
        let program = std::env::current_exe().map_err(Failure::machine)?;
        let log = folder.path().join("worker.log");
        let (started, pipes) = worker::start(&program, &folder, log).await.map_err(Failure::machine)?;
        child = Some(started);
        plan.users_stream = Some(pipes);
    }
    let played = async {
        let traffic = tokio::select! {
            () = cancel.cancelled() => return Err(Failure::machine("cancelled before anything was sent")),
            traffic = Traffic::start(plan) => traffic.map_err(failure)?,
        };
        let start_us = traffic.enter_phase(Phase::Baseline);
        let end_us = start_us + args.duration * 1_000_000;
        let progress = Progress::new();
        // The end is told ahead of its time, so that exactly the planned arrivals lie before it.
        let last_us = end_us.saturating_sub(AHEAD_US);
        while clock.now_us() < last_us && !cancel.is_cancelled() {
            progress.traffic(clock.now_us(), &traffic.figures());
            tokio::select! {
                () = cancel.cancelled() => {}
                () = clock.sleep_until((clock.now_us() + TICK_US).min(last_us)) => {}
            }
        }
        progress.finish();
        let ended =
            if cancel.is_cancelled() { traffic.stop_soon().await } else { traffic.stop_at(end_us).await };
        ended.map_err(failure)
    }
    .await;
    if let Some(mut child) = child {
        // The traffic is over, and with it the worker's pipe; how it ends adds nothing.
        let _ = child.stop(Duration::from_millis(500)).await;
    }
    folder.close().map_err(Failure::machine)?;
    let result = played?;
    tell(&result, args, clock.epoch_unix_us())
}

fn tell(result: &TrafficResult, args: &Load, epoch_unix_us: u64) -> CommandResult {
    let (evidence, log) = summarise(result, &Limits::default(), epoch_unix_us);
    if let Some(folder) = &args.out {
        let log = log.map_err(Failure::machine)?;
        let json = serde_json::to_vec_pretty(&evidence).map_err(Failure::machine)?;
        write(folder, "latency.hlog", &log)?;
        write(folder, "traffic.json", &json)?;
    }
    match args.format {
        Format::Json => print_json(&evidence)?,
        Format::Text => print(&table(&evidence)),
    }
    Ok(0)
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let path = folder.join(name);
    std::fs::write(&path, bytes).map_err(|error| Failure::machine(format!("{}: {error}", path.display())))
}

/// A line for every step of a check.
fn checked(steps: &[CheckedStep]) -> String {
    let width =
        |texts: &dyn Fn(&CheckedStep) -> &str| steps.iter().map(|step| texts(step).chars().count()).max();
    let scenarios = width(&|step| &step.scenario).unwrap_or(0).max("scenario".len());
    let routes = width(&|step| &step.route).unwrap_or(0).max("step".len());
    let mut text = format!("{:<scenarios$}  {:<routes$}  {:>9}  result\n", "scenario", "step", "took");
    for step in steps {
        let took = duration_us(step.took_us);
        let said = step.said.as_ref().map_or_else(String::new, |said| format!(" ({said})"));
        let wrong = |error| format!("WRONG: {}{said}", meaning(error));
        let right = if step.skipped { "skipped: its condition does not hold" } else { "right" };
        let result = step.error.map_or_else(|| right.to_owned(), wrong);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<scenarios$}  {:<routes$}  {took:>9}  {result}", step.scenario, step.route);
    }
    text
}

/// A kind of error with what it means for the workload.
fn meaning(error: ErrorKind) -> String {
    match error {
        ErrorKind::Dropped => "could not be sent: an earlier step did not give what it needs".to_owned(),
        error => error.to_string(),
    }
}

/// A line for every route, and the driver's account of itself.
fn table(evidence: &TrafficEvidence) -> String {
    let routes =
        evidence.routes.iter().map(|row| row.route.chars().count()).max().unwrap_or(0).max("route".len());
    let mut text = format!(
        "{:<routes$}  {:>8} {:>9} {:>7}  {:>9} {:>9} {:>9}\n",
        "route", "planned", "sent", "errors", "p50", "p99", "max"
    );
    for row in &evidence.routes {
        let Quantiles { p50_us, p99_us, max_us, .. } = row.response;
        let quantile = |us: Option<u64>| us.map_or_else(|| "—".to_owned(), duration_us);
        let _ = writeln!(
            text,
            "{:<routes$}  {:>8} {:>9} {:>7}  {:>9} {:>9} {:>9}{}",
            row.route,
            thousands(row.planned),
            thousands(row.sent),
            thousands(row.errors_total()),
            quantile(p50_us),
            quantile(p99_us),
            duration_us(max_us),
            remarks(row),
        );
    }
    let driver = &evidence.driver;
    if driver.planned > 0 {
        let lag = driver.send_lag.p99_us.map_or_else(|| "—".to_owned(), duration_us);
        let _ = writeln!(
            text,
            "\ndriver: {:.2} % of the arrivals were sent, {} were dropped, send lag p99 {lag}",
            share_percent(driver.sent, driver.planned),
            thousands(driver.dropped),
        );
    }
    if driver.dry > 0 {
        let _ = writeln!(text, "a feeder had no row left for {} of them", thousands(driver.dry));
    }
    if let Some(lost) = &driver.worker_lost {
        let _ = writeln!(text, "the users' worker was lost: {lost}");
    }
    text
}

/// Which errors there were, and whether a closed model slowed down with the system.
fn remarks(row: &RouteSummary) -> String {
    let mut remarks: Vec<String> =
        row.errors.iter().map(|(kind, count)| format!("{} {kind}", thousands(*count))).collect();
    if row.model == Model::Users {
        remarks.push("users: slow down with the system".to_owned());
    }
    if remarks.is_empty() { String::new() } else { format!("  {}", remarks.join(", ")) }
}
