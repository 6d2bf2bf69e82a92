//! The commands: each reads what it was given, calls one room, prints the result and names the exit code.

pub mod checks;
pub mod compare;
pub mod completions;
pub mod doctor;
pub mod gateway;
pub mod init;
pub mod load;
pub mod migrations;
pub mod package;
pub mod preflight;
pub mod report;
pub mod roundtrip;
pub mod run;
pub mod trace;
pub mod worker;

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use fulldress_reports::render::terminal::{self, Style};
use fulldress_reports::report::Report;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::Format;
use crate::mirror::versions;

/// Exit code of a usage error or an invalid plan.
pub const EXIT_USAGE: u8 = 2;
/// Exit code when the mirror or the machine failed.
pub const EXIT_MACHINE: u8 = 5;
/// Exit code of a refused package.
pub const EXIT_REFUSED: u8 = 6;

/// Why a command could not do its work.
#[derive(Debug)]
pub struct Failure {
    /// What a person reads.
    pub text: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// A usage error or an unusable file.
    #[must_use]
    pub fn usage(error: impl Display) -> Self {
        Self { text: error.to_string(), code: EXIT_USAGE }
    }

    /// A usage error with its place in a file shown.
    #[must_use]
    pub fn diagnostic(error: impl miette::Diagnostic + Send + Sync + 'static) -> Self {
        Self { text: format!("{:?}", miette::Report::new(error)), code: EXIT_USAGE }
    }

    /// The mirror or the machine failed.
    #[must_use]
    pub fn machine(error: impl Display) -> Self {
        Self { text: error.to_string(), code: EXIT_MACHINE }
    }
}

/// Result of a command: its exit code.
pub type CommandResult = Result<u8, Failure>;

/// Prints a failure and gives the process's exit code.
#[must_use]
pub fn finish(result: CommandResult) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("fulldress: {}", failure.text.trim());
            ExitCode::from(failure.code)
        }
    }
}

/// Writes to standard output; a reader that went away is no failure of ours.
fn print(text: &str) {
    let mut output = std::io::stdout().lock();
    let _ = output.write_all(text.as_bytes()).and_then(|()| output.flush());
}

fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::machine)?;
    print(&format!("{text}\n"));
    Ok(())
}

/// Prints a report and gives its exit code.
fn print_report(report: &Report, format: Format) -> CommandResult {
    match format {
        Format::Json => print_json(report)?,
        Format::Text => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            print(&terminal::text(report, Style { colour, ..Style::default() }));
        }
    }
    Ok(report.verdict.exit_code)
}

/// A runtime for the commands that need one.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::machine(format!("no runtime: {error}")))
}

/// The programs of PostgreSQL that `--postgres` means: a version that is on this machine, or a folder.
async fn postgres(typed: Option<&str>) -> Result<Option<PathBuf>, Failure> {
    match typed {
        Some(typed) => versions::choose(typed).await.map(Some).map_err(Failure::machine),
        None => Ok(None),
    }
}

/// A token that the first SIGINT, SIGTERM or SIGHUP cancels, so that what was started is stopped in order.
fn cancel_on_signals() -> Result<CancellationToken, Failure> {
    let cancel = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(|error| Failure::machine(format!("signals: {error}")))?;
        let cancel = cancel.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                cancel.cancel();
            }
        });
    }
    Ok(cancel)
}
