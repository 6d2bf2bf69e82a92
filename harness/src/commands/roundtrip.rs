//! `fulldress roundtrip`: every migration of a history up, down and up again.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::render::{junit, sarif};
use fulldress_reports::roundtrip::{Requirement, RoundTrip};
use fulldress_workloads::clock::Clock;
use indicatif::{ProgressBar, ProgressStyle};

use super::{CommandResult, Failure, cancel_on_signals, postgres, print, print_json, runtime, trace};
use crate::cli::{Format, Roundtrip};
use crate::history::{self, History};
use crate::process::RunFolder;
use crate::roundtrip::{Error, Progress, Request, embedded};

/// Pause between two plain lines of progress, in microseconds.
const LINE_EVERY_US: u64 = 5_000_000;

/// Walks the history and prints what came of each migration; exit code 1 when something happened that must not.
///
/// # Errors
/// A folder that is no history, a setup that fails, a machine without PostgreSQL, a signal.
pub fn run(args: &Roundtrip) -> CommandResult {
    let history = history::read(&args.dir, args.layout).map_err(Failure::usage)?;
    let runtime = runtime()?;
    let request = Request {
        folder: args.dir.display().to_string(),
        setups: trace::read(&args.setup)?,
        rows: (!args.no_data).then_some(args.rows),
        seed: args.seed,
        from: args.from.clone(),
        to: args.to.clone(),
        superuser: args.superuser,
        postgres: runtime.block_on(postgres(args.postgres.as_deref()))?,
        required: required(&args.fail_on),
    };
    let mut shown = Shown::new(args.quiet, &history);
    let trip = runtime.block_on(walk(&request, &history, &mut shown))?;
    match args.format {
        Format::Json => print_json(&trip)?,
        Format::Text => print(&trip.text()),
    }
    if let Some(path) = &args.junit {
        write(path, junit::round_trip(&trip).map_err(Failure::machine)?.as_bytes())?;
    }
    if let Some(path) = &args.sarif {
        write(path, &sarif::round_trip(&trip, env!("CARGO_PKG_VERSION")).map_err(Failure::machine)?)?;
    }
    let failed = trip.failed().next().is_some();
    Ok(u8::from(failed))
}

async fn walk(request: &Request, history: &History, shown: &mut Shown) -> Result<RoundTrip, Failure> {
    let cancel = cancel_on_signals()?;
    let (folder, swept) = RunFolder::create().map_err(Failure::machine)?;
    for line in swept {
        eprintln!("fulldress: {line}");
    }
    let folder = Arc::new(folder);
    let mut watch = |progress: Progress<'_>| shown.show(&progress);
    let walked = tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Failure::machine("the round trip was cancelled; nothing is left running")),
        walked = embedded(request, history, &folder, &mut watch) => walked.map_err(|error| failure(&error)),
    };
    shown.end();
    // Whatever of it still runs goes with the folder.
    let closed = Arc::try_unwrap(folder).map_or(Ok(()), RunFolder::close);
    closed.map_err(Failure::machine)?;
    walked
}

fn required(named: &[String]) -> Vec<Requirement> {
    if named.is_empty() {
        return Requirement::defaults();
    }
    named.iter().filter_map(|name| Requirement::named(name)).collect()
}

pub(super) fn failure(error: &Error) -> Failure {
    match error {
        Error::History(_) | Error::Unknown { .. } | Error::Backwards { .. } => Failure::usage(error),
        Error::Setup(setup) => trace::failure(setup),
        Error::Mirror(_)
        | Error::Fill(_)
        | Error::Server { .. }
        | Error::Unrepeatable { .. }
        | Error::Died(_) => Failure::machine(error),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes)
        .map_err(|error| Failure::machine(format!("{} cannot be written: {error}", path.display())))
}

/// What a person sees while it runs, on standard error.
struct Shown {
    bar: Option<ProgressBar>,
    quiet: bool,
    clock: Clock,
    said_us: u64,
}

impl Shown {
    fn new(quiet: bool, history: &History) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        if !quiet {
            let number = history.migrations.len();
            eprintln!("fulldress: {number} migrations of {}: {}", history.layout.name(), history.reason);
        }
        let bar = terminal.then(|| {
            let bar = ProgressBar::new_spinner();
            // The template is a constant.
            bar.set_style(
                ProgressStyle::with_template("{spinner} {elapsed} {pos}/{len} {msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar, quiet, clock: Clock::start(), said_us: 0 }
    }

    fn show(&mut self, progress: &Progress<'_>) {
        match (progress, &self.bar) {
            (Progress::Starting, Some(bar)) => bar.set_message("starting PostgreSQL"),
            (Progress::Begins { number, of, id }, Some(bar)) => {
                bar.set_length(u64::try_from(*of).unwrap_or(u64::MAX));
                bar.set_position(u64::try_from(*number).unwrap_or(u64::MAX));
                bar.set_message((*id).to_owned());
            }
            (Progress::Begins { number, of, id }, None) if !self.quiet => {
                let now_us = self.clock.now_us();
                if now_us - self.said_us > LINE_EVERY_US {
                    self.said_us = now_us;
                    eprintln!("fulldress: {number}/{of} {id}");
                }
            }
            _ => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
