//! The conductor: plays a plan from package to verdict and stops whatever was started, however it ends.
//!
//! `commands::run` calls [`rehearse`]. The play itself is in [`play`]; this file holds what surrounds it: the
//! event stream, the early ends (Ctrl-C, time limit, panic, a mirror that dies, a disk that fills up) and the
//! bundle.

mod choice;
pub mod double_run;
pub mod faults;
mod impact;
mod play;
pub mod traffic;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::event::Happening;
use fulldress_reports::evidence::{Interruption, PackageFacts, RehearsalFacts};
use fulldress_reports::report::Report;
use fulldress_workloads::clock::Clock;
use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;

use self::choice::Ground;
use self::play::Play;
use crate::bundle;
use crate::events::{Consumer, Events};
use crate::inventory::Inventory;
use crate::mirror::MirrorError;
use crate::mirror::containers::engine::{Engine, is_stray, run_label};
use crate::package::{self, Limits, Package};
use crate::plan::Plan;
use crate::process::RunFolder;
use crate::progress::Progress;

/// The run folder's file system must keep this much free.
const DISK_FREE_BYTES_MIN: u64 = 16 << 20;

/// Within this a mirror's death is noticed.
const DEATH_NOTICED: Duration = Duration::from_secs(1);
/// How long a container engine that is gone may take to be there again: one that was restarted needs a few seconds.
const ENGINE_RETURN_LIMIT: Duration = Duration::from_secs(20);
/// Longest that containers may take to be removed.
const CONTAINER_SWEEP_LIMIT: Duration = Duration::from_secs(60);

/// What a rehearsal needs beside its plan.
pub struct Request {
    /// The plan.
    pub plan: Plan,
    /// What production is known to have.
    pub inventory: Inventory,
    /// Where the bundle goes; the folder is made.
    pub bundle: PathBuf,
    /// What a person sees.
    pub progress: Progress,
    /// Ends the rehearsal early.
    pub cancel: CancellationToken,
}

/// A rehearsal that ended, in whatever way.
pub struct Finished {
    /// The report, as `report.json` has it.
    pub report: Report,
    /// The bundle's folder.
    pub bundle: PathBuf,
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The bundle's folder or a file in it cannot be written.
    #[error("the bundle {}: {error}", folder.display())]
    Bundle {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A rendering failed.
    #[error("the bundle {}: {reason}", folder.display())]
    Rendering {
        /// The folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
}

/// How a play ended early.
enum Ending {
    Played,
    Failed(MirrorError),
    Interrupted(Interruption),
}

/// Plays a plan from package to verdict. Everything that was started is stopped when this returns.
///
/// # Errors
/// Only when the bundle cannot be written; whatever else goes wrong stands in the report.
pub async fn rehearse(request: Request) -> Result<Finished, RehearsalError> {
    let Request { plan, inventory, bundle, progress, cancel } = request;
    let unwritable = |error| RehearsalError::Bundle { folder: bundle.clone(), error };
    std::fs::create_dir_all(bundle.join("logs")).map_err(unwritable)?;
    let clock = Clock::start();
    let started_utc = bundle::rfc3339(clock.epoch_unix_us());
    let (events, consumer) = Consumer::start(clock, &bundle, progress).map_err(unwritable)?;
    events.tell(Happening::Started(facts(&plan, &started_utc, clock)));
    match open_package(&plan) {
        Err(refused) => {
            let (facts, reason) = *refused;
            events.notice(reason);
            events.tell(Happening::Package(facts));
        }
        Ok(package) => {
            events.tell(Happening::Package(package.facts()));
            events.tell(Happening::Preflight(crate::preflight::preflight(&package, &inventory)));
            let ending = perform(plan, inventory, package, &bundle, &events, cancel).await;
            tell_ending(&events, ending);
        }
    }
    events.tell(Happening::Finished);
    drop(events);
    let (evidence, failed) = consumer.finish().await;
    if let Some(error) = failed {
        return Err(unwritable(error));
    }
    let report = Report::build(evidence, &started_utc[..10]);
    bundle::render(&bundle, &report)
        .map_err(|reason| RehearsalError::Rendering { folder: bundle.clone(), reason })?;
    Ok(Finished { report, bundle })
}

fn facts(plan: &Plan, started_utc: &str, clock: Clock) -> RehearsalFacts {
    RehearsalFacts {
        id: format!("{:x}", clock.epoch_unix_us()),
        name: plan.name.clone(),
        started_utc: started_utc.to_owned(),
        profile: plan.profile.name().to_owned(),
        mirror: "none".to_owned(),
        seed: plan.seed,
        fulldress: env!("CARGO_PKG_VERSION").to_owned(),
        limits: plan.limits(),
    }
}

/// Opens the plan's package; a refusal is evidence.
fn open_package(plan: &Plan) -> Result<Package, Box<(PackageFacts, String)>> {
    let path = &plan.package;
    let opened = package::open_any(path, &Limits::default());
    opened.map_err(|error| {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let facts = PackageFacts {
            name,
            refused: Some(error.refusal()),
            signature_note: "signature not verified".to_owned(),
            ..Default::default()
        };
        Box::new((facts, format!("the package was refused: {error}")))
    })
}

/// Plays, or ends early; stops everything in either case.
async fn perform(
    plan: Plan,
    inventory: Inventory,
    package: Package,
    bundle: &Path,
    events: &Events,
    cancel: CancellationToken,
) -> Ending {
    let run = match RunFolder::create() {
        Ok((run, swept)) => {
            for stray in swept {
                events.notice(format!("cleaned up after an earlier rehearsal: {stray}"));
            }
            Arc::new(run)
        }
        Err(error) => return Ending::Failed(MirrorError::new(format!("failed to {error}"), "")),
    };
    sweep_strays(events).await;
    let limit = Duration::from_secs(plan.phases.rehearsal_max_s);
    let run_label = run_label(run.path());
    let mut play = Play::new(plan, inventory, package, bundle, events.clone(), Arc::clone(&run));
    let mirror = play.mirror_cell();
    let ending = {
        tokio::select! {
            biased;
            () = cancel.cancelled() => interrupted("interrupted: everything was stopped, and the evidence so far is kept", false),
            reason = play::died(Arc::clone(&mirror)) => reason_of_death(&reason),
            () = disk_full(run.path()) => interrupted(
                "the disk of the run folder is full: free some, or set FULLDRESS_STATE to a folder with more room", true),
            () = tokio::time::sleep(limit) => interrupted(
                &format!("the rehearsal did not end within {} s (phases.rehearsal_max_s)", limit.as_secs()), false),
            ending = to_its_end(play.play()) => ending,
        }
    };
    let ending = explain(ending, mirror).await;
    events.stage("stopping everything");
    let ground = play.ground();
    play.wind_down().await;
    drop(play);
    if let Some(Err(error)) = Arc::into_inner(run).map(RunFolder::close) {
        events.notice(format!("failed to {error}"));
    }
    if let Some(Ground::Containers(engine)) = ground {
        if engine.is_gone().await {
            events.stage("waiting for the container engine to come back, to remove what runs there");
            engine.comes_back(ENGINE_RETURN_LIMIT).await;
        }
        // Whatever a start that was cut short had begun; its programs ended with the run folder.
        sweep(&engine, events, |label| label == run_label, "removed at the end").await;
    }
    ending
}

/// Removes what killed rehearsals left at the container engine. A machine without one has nothing to sweep.
async fn sweep_strays(events: &Events) {
    let Ok(engine) = Engine::connect().await else { return };
    sweep(&engine, events, is_stray, "cleaned up after an earlier rehearsal").await;
}

/// Removes what `ours` says yes to until there is nothing more of it: the engine may still be making what a program that
/// was killed had asked for.
async fn sweep(engine: &Engine, events: &Events, ours: impl Fn(&str) -> bool + Send + Copy, why: &str) {
    let sweeping = async {
        loop {
            let swept = engine.sweep(ours).await?;
            if swept.is_empty() {
                return Ok::<(), MirrorError>(());
            }
            for thing in swept {
                events.notice(format!("{why}: {thing}"));
            }
        }
    };
    match tokio::time::timeout(CONTAINER_SWEEP_LIMIT, sweeping).await {
        Ok(Ok(())) => {}
        // What could not be removed is in the way of nobody but a rehearsal in containers, which says so itself.
        Ok(Err(error)) => events.notice(error.to_string()),
        Err(_) => events.notice(format!(
            "containers of a rehearsal were not removed within {} s: run `fulldress doctor --clean`",
            CONTAINER_SWEEP_LIMIT.as_secs()
        )),
    }
}

/// What failed may have failed because the mirror died a moment before anybody looked: then that is the reason.
async fn explain(ending: Ending, mirror: play::MirrorCell) -> Ending {
    match ending {
        Ending::Failed(error) => match tokio::time::timeout(DEATH_NOTICED, play::died(mirror)).await {
            Ok(reason) => reason_of_death(&reason),
            Err(_) => Ending::Failed(error),
        },
        ending => ending,
    }
}

/// Awaits a play; a panic in it is a bug of ours and must still leave nothing running and a bundle behind.
async fn to_its_end(playing: impl Future<Output = Result<(), MirrorError>>) -> Ending {
    match AssertUnwindSafe(playing).catch_unwind().await {
        Ok(Ok(())) => Ending::Played,
        Ok(Err(error)) => Ending::Failed(error),
        Err(panic) => interrupted(&format!("a bug in fulldress: {}", panic_text(&*panic)), true),
    }
}

fn interrupted(reason: &str, environment: bool) -> Ending {
    Ending::Interrupted(Interruption { reason: reason.to_owned(), environment })
}

/// A dead mirror's last words, with a remedy where they tell of one.
fn reason_of_death(last_words: &str) -> Ending {
    let hint = crate::mirror::disk_hint(last_words).map(|hint| format!("; {hint}")).unwrap_or_default();
    interrupted(&format!("{last_words}{hint}"), true)
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".to_owned())
}

/// Waits until the file system of a folder is full.
async fn disk_full(folder: &Path) {
    loop {
        if let Ok(state) = rustix::fs::statvfs(folder)
            && state.f_bavail * state.f_frsize < DISK_FREE_BYTES_MIN
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn tell_ending(events: &Events, ending: Ending) {
    match ending {
        Ending::Played => {}
        Ending::Interrupted(interruption) => events.tell(Happening::Interrupted(interruption)),
        Ending::Failed(error) => {
            events
                .tell(Happening::Interrupted(Interruption { reason: error.to_string(), environment: true }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, MirrorError, to_its_end};

    #[tokio::test]
    async fn a_panic_is_an_ending_and_names_itself() {
        let ending = to_its_end(async { panic!("index out of bounds") }).await;
        let Ending::Interrupted(interruption) = ending else { panic!("a panic was taken for another end") };
        assert!(
            interruption.environment
                && interruption.reason.contains("a bug in fulldress: index out of bounds")
        );
        let failed = to_its_end(async { Err(MirrorError::new("the port is taken", "")) }).await;
        assert!(matches!(failed, Ending::Failed(error) if error.to_string() == "the port is taken"));
        assert!(matches!(to_its_end(async { Ok(()) }).await, Ending::Played));
    }
}
