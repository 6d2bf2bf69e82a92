//! `fulldress trace`: the exact locks of scripts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fulldress_reports::render::sarif;

use super::{CommandResult, Failure, cancel_on_signals, postgres, print, print_json, runtime};
use crate::cli::{Format, Trace};
use crate::process::RunFolder;
use crate::trace::{Error, Request, Source, embedded, on_database};

/// Runs the scripts on a private or a given database and prints their locks; exit code 1 when the server refused a
/// statement, or one shows a hazard that is denied.
///
/// # Errors
/// Files that cannot be read or run, a machine without PostgreSQL, a signal.
pub fn run(args: &Trace) -> CommandResult {
    let runtime = runtime()?;
    let request = Request {
        setups: read(&args.setup)?,
        scripts: read(&args.scripts)?,
        autocommit: args.autocommit,
        independent: args.independent,
        superuser: args.superuser,
        postgres: runtime.block_on(postgres(args.postgres.as_deref()))?,
    };
    let (trace, lost) = runtime.block_on(async {
        let cancel = cancel_on_signals()?;
        let (folder, swept) = RunFolder::create().map_err(Failure::machine)?;
        for line in swept {
            eprintln!("fulldress: {line}");
        }
        let folder = Arc::new(folder);
        let traced = async {
            match &args.database {
                Some(url) => on_database(&request, url, &folder).await,
                None => embedded(&request, &folder).await,
            }
        };
        let traced = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::machine("the trace was cancelled; nothing is left running")),
            traced = traced => match traced {
                Ok(trace) => Ok((trace, None)),
                Err(error) => kept(error),
            },
        };
        // Whatever of it still runs goes with the folder.
        let closed = Arc::try_unwrap(folder).map_or(Ok(()), RunFolder::close);
        closed.map_err(Failure::machine)?;
        traced
    })?;
    match args.format {
        Format::Json => print_json(&trace)?,
        Format::Text => print(&trace.text()),
    }
    if let Some(path) = &args.sarif {
        let annotations = sarif::hazards(&trace, env!("CARGO_PKG_VERSION")).map_err(Failure::machine)?;
        std::fs::write(path, annotations)
            .map_err(|error| Failure::machine(format!("{} cannot be written: {error}", path.display())))?;
    }
    if let Some(lost) = lost {
        return Err(lost);
    }
    let denied = |id: &String| args.deny.iter().any(|denied| denied == id || denied == "all");
    let shown =
        trace.scripts.iter().flat_map(|script| &script.statements).any(|one| one.hazards.iter().any(denied));
    Ok(u8::from(shown || trace.first_error().is_some()))
}

/// What was seen before the database was lost, with the failure that is told once it is printed.
fn kept(error: Error) -> Result<(fulldress_reports::trace::Trace, Option<Failure>), Failure> {
    let failure = failure(&error);
    match error {
        Error::Lost { trace, .. } => Ok((*trace, Some(failure))),
        _ => Err(failure),
    }
}

pub(super) fn failure(error: &Error) -> Failure {
    match error {
        Error::Script { .. } | Error::Setup { .. } | Error::Database { .. } => Failure::usage(error),
        Error::Mirror(_) | Error::Observe(_) | Error::Lost { .. } => Failure::machine(error),
    }
}

pub(super) fn read(paths: &[PathBuf]) -> Result<Vec<Source>, Failure> {
    paths.iter().map(|path| source(path)).collect()
}

fn source(path: &Path) -> Result<Source, Failure> {
    let file = path.display().to_string();
    let bytes =
        std::fs::read(path).map_err(|error| Failure::usage(format!("{file} cannot be read: {error}")))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Failure::usage(format!("{file} is not UTF-8: convert it, for example with iconv")))?;
    Ok(Source { file, text })
}
