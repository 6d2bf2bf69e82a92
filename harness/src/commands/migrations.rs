//! `fulldress migrations`: a rehearsal from a folder of SQL migrations alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{CommandResult, Failure, cancel_on_signals, postgres, print, roundtrip, run, runtime, trace};
use crate::cli::Migrations;
use crate::derived::{self, Ejected};
use crate::history::{self, History};
use crate::process::RunFolder;

/// Files of the derived rehearsal that the bundle keeps; the dataset follows from them and the seed.
const KEPT: [&str; 4] = ["rehearsal.toml", "inventory.toml", "workload.toml", "package"];

/// Derives a rehearsal, and plays it unless it is only written.
///
/// # Errors
/// A folder that is no history, a range that is not in it, a machine without PostgreSQL, a signal.
pub fn run(args: &Migrations) -> CommandResult {
    if args.rows == 0 || !args.rate.is_finite() || args.rate <= 0.0 {
        return Err(Failure::usage(
            "--rows and --rate must be above 0: without rows or traffic nothing is rehearsed",
        ));
    }
    let history = history::read(&args.dir, args.layout).map_err(Failure::usage)?;
    let rehearsed = range(args, &history)?;
    let runtime = runtime()?;
    let derived = runtime.block_on(async {
        let cancel = cancel_on_signals()?;
        let (folder, swept) = RunFolder::create().map_err(Failure::machine)?;
        for line in swept {
            eprintln!("fulldress: {line}");
        }
        let folder = Arc::new(folder);
        let target = match &args.eject {
            Some(target) => new_folder(target)?,
            None => new_folder(&folder.path().join("rehearsal"))?,
        };
        let deriving = derive(args, history, rehearsed, &target, &folder);
        let derived = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(Failure::machine("cancelled; nothing is left running")),
            derived = deriving => derived,
        };
        derived.map(|ejected| (folder, ejected))
    })?;
    let (folder, ejected) = derived;
    let played = finish(args, &ejected);
    drop(runtime);
    let closed = Arc::try_unwrap(folder).map_or(Ok(()), RunFolder::close);
    closed.map_err(Failure::machine)?;
    played
}

/// Says where it was written, or plays it.
fn finish(args: &Migrations, ejected: &Ejected) -> CommandResult {
    let mut text = String::from("what was derived\n");
    for decision in &ejected.decisions {
        text.push_str(&format!("  {decision}\n"));
    }
    if args.eject.is_some() {
        print(&format!("{text}\nwrote {0}\nplay it with: fulldress run {0}\n", ejected.plan.display()));
        return Ok(0);
    }
    if !args.quiet {
        eprint!("{text}");
    }
    let bundle = run::bundle_of(args.out.as_deref(), &ejected.plan)?;
    let code = run::play(&ejected.plan, &bundle, args.quiet, args.format)?;
    let derived = bundle.join("derived");
    let source = ejected.plan.parent().unwrap_or(Path::new("."));
    for name in KEPT {
        copy(&source.join(name), &derived.join(name))
            .map_err(|error| Failure::machine(format!("{}: {error}", derived.display())))?;
    }
    Ok(code)
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if from.is_dir() {
        for entry in std::fs::read_dir(from)? {
            let entry = entry?;
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
        return Ok(());
    }
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::copy(from, to).map(drop)
}

async fn derive(
    args: &Migrations,
    history: History,
    rehearsed: std::ops::Range<usize>,
    target: &Path,
    folder: &Arc<RunFolder>,
) -> Result<Ejected, Failure> {
    let request = derived::Request {
        folder: args.dir.display().to_string(),
        history,
        rehearsed,
        setups: trace::read(&args.setup)?,
        rows: args.rows,
        rate_per_s: args.rate,
        seed: args.seed,
        postgres: postgres(args.postgres.as_deref()).await?,
    };
    let mut tell = |text: String| {
        if !args.quiet {
            eprintln!("  {text}");
        }
    };
    derived::eject(&request, target, folder, &mut tell).await.map_err(|error| match error {
        derived::Error::Refused { .. } | derived::Error::Unusable { .. } | derived::Error::NoTraffic(_) => {
            Failure::usage(error)
        }
        derived::Error::History(error) => roundtrip::failure(&error),
        error => Failure::machine(error),
    })
}

/// Positions of the rehearsed migrations; the last one alone when nothing else was asked for.
fn range(args: &Migrations, history: &History) -> Result<std::ops::Range<usize>, Failure> {
    let last = history.migrations.last().map(|migration| migration.id.clone());
    let from = args.from.clone().or_else(|| args.to.clone()).or(last);
    crate::roundtrip::range(from.as_deref(), args.to.as_deref(), history).map_err(Failure::usage)
}

/// Makes a folder; one that holds something already is refused.
fn new_folder(folder: &Path) -> Result<PathBuf, Failure> {
    let name = folder.display();
    std::fs::create_dir_all(folder).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    let mut entries =
        std::fs::read_dir(folder).map_err(|error| Failure::usage(format!("{name}: {error}")))?;
    if entries.next().is_some() {
        return Err(Failure::usage(format!("{name} is not empty: name a new folder with --eject")));
    }
    Ok(folder.to_owned())
}
