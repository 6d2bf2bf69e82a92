//! ROLL-FAULT: the fault matrix. Each step of the upgrade is struck in the middle on a clone of its own, and from there the
//! rollback must reach the state before, and the upgrade, run again, the upgraded state.
//!
//! The play calls [`try_faults`] once nobody is measured any more, and tells what it gives. What a fault is stands in [`point`],
//! what becomes of it in [`cell`].

mod cell;
mod point;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fulldress_reports::evidence::{FaultCell, FaultEvidence, FaultWay, StepKind};
use fulldress_workloads::clock::Clock;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinSet;

use self::cell::{Cell, Stage, States, is_played};
use self::point::{Place, Point};
use crate::inventory::Inventory;
use crate::mirror::{Mirror, MirrorError};
use crate::package::Package;
use crate::package::manifest::{RollbackMethod, Step};
use crate::plan::{Plan, Profile};
use crate::process::RunFolder;

/// Errors of cells that are told one by one.
const UNTRIED_NAMED_MAX: usize = 5;

/// What faults are tried on.
#[derive(Clone)]
pub struct Ground {
    /// Tells matrices of one run folder apart. Short, since a socket's path has little room.
    pub name: String,
    /// The plan.
    pub plan: Arc<Plan>,
    /// The host that scripts see.
    pub inventory: Arc<Inventory>,
    /// The package.
    pub package: Arc<Package>,
    /// How it goes back.
    pub rollback: RollbackMethod,
    /// The mirror whose snapshot clones start from.
    pub mirror: Arc<dyn Mirror>,
    /// The rehearsal's working folder.
    pub run: Arc<RunFolder>,
    /// The bundle's folder.
    pub bundle: PathBuf,
    /// The rehearsal's clock.
    pub clock: Clock,
}

/// Strikes the upgrade on clones: all points in the nightly profile, up to the plan's number, and one of each step in the quick
/// one. `tell` hears the evidence so far after each cell.
///
/// # Errors
/// When the first clone cannot be made; later ones that fail are told as not tried.
pub async fn try_faults(
    ground: &Ground,
    mut tell: impl FnMut(&FaultEvidence),
) -> Result<FaultEvidence, MirrorError> {
    let mut evidence = FaultEvidence::default();
    if ground.plan.faults.cells_max == 0 {
        evidence.not_tried.push("the plan's faults.cells_max is 0".to_owned());
        return Ok(evidence);
    }
    let Reference { states, commands } = match reference(ground, &mut evidence).await? {
        Some(reference) => reference,
        None => return Ok(evidence),
    };
    let all = cells(ground, &commands, &mut evidence.not_tried);
    evidence.possible = all.len() as u64;
    let chosen = choose(ground, all, &mut evidence.not_tried);
    let states = Arc::new(states);
    let mut waiting = chosen.into_iter().enumerate();
    let mut running = JoinSet::new();
    let mut failed: Vec<String> = Vec::new();
    let mut done: BTreeMap<usize, FaultCell> = BTreeMap::new();
    loop {
        while running.len() < ground.plan.faults.parallel.max(1) {
            let Some((number, cell)) = waiting.next() else { break };
            let (ground, states) = (ground.clone(), Arc::clone(&states));
            running.spawn(async move { (number, try_one(&ground, number, &cell, &states).await) });
        }
        match running.join_next().await {
            None => break,
            Some(Ok((number, Ok(cell)))) => {
                done.insert(number, cell);
                evidence.cells = done.values().cloned().collect();
                tell(&evidence);
            }
            Some(Ok((_, Err(why)))) => failed.push(why),
            Some(Err(error)) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => failed.push(format!("a trial was given up: {error}")),
            },
        }
    }
    let more = failed.len().saturating_sub(UNTRIED_NAMED_MAX);
    failed.truncate(UNTRIED_NAMED_MAX);
    evidence.not_tried.extend(failed);
    if more > 0 {
        evidence.not_tried.push(format!("{more} more that could not be tried"));
    }
    Ok(evidence)
}

/// What an upgrade without a fault comes to.
struct Reference {
    states: States,
    /// Commands that each script ran, by index of the step.
    commands: BTreeMap<usize, usize>,
}

/// Upgrades a clone without a fault; none when the upgrade fails by itself.
async fn reference(ground: &Ground, evidence: &mut FaultEvidence) -> Result<Option<Reference>, MirrorError> {
    let mut package = (*ground.package).clone();
    for step in ground.package.manifest.steps.iter() {
        if let Some((file, text)) = script(&ground.package, step) {
            package = point::package_with(&package, file, &point::faulty_name(file), point::counting(text));
        }
    }
    let stage = Stage::start(ground, &format!("{}r", ground.name), package).await?;
    let upgraded = upgrade(&stage, ground).await;
    stage.stop().await;
    match upgraded {
        Ok(reference) => Ok(Some(reference)),
        Err(why) => {
            evidence.not_tried.push(format!("the upgrade fails without a fault on a clone: {why}"));
            Ok(None)
        }
    }
}

async fn upgrade(stage: &Stage, ground: &Ground) -> Result<Reference, String> {
    let unusable = |error: MirrorError| error.to_string();
    let mut commands = BTreeMap::new();
    let before = stage.take().await.map_err(unusable)?;
    for (index, step) in ground.package.manifest.steps.iter().enumerate().filter(|(_, step)| is_played(step))
    {
        match script(&ground.package, step) {
            Some((file, _)) => {
                stage.up(&point::step_with(step, &point::faulty_name(file))).await?;
                let counted = stage.runner.read(point::COMMANDS).await?.unwrap_or_default();
                commands.insert(index, counted.len());
            }
            None => stage.up(step).await?,
        }
    }
    let upgraded = stage.take().await.map_err(unusable)?;
    Ok(Reference { states: States { before: Some(before), upgraded: Some(upgraded) }, commands })
}

/// The file of a step that is a script of bash, with its text.
fn script<'package>(
    package: &'package Package,
    step: &'package Step,
) -> Option<(&'package str, &'package str)> {
    let file = step.action.package_file().filter(|_| step.action.kind() == StepKind::Script)?;
    let text = std::str::from_utf8(&package.files.get(file)?.bytes).ok()?;
    point::is_bash(text).then_some((file, text))
}

/// Every cell of the package, in its order; what has none is told.
fn cells(ground: &Ground, commands: &BTreeMap<usize, usize>, not_tried: &mut Vec<String>) -> Vec<Cell> {
    let mut cells = Vec::new();
    for (index, step) in ground.package.manifest.steps.iter().enumerate() {
        let points = match step.action.kind() {
            StepKind::Sql => sql_points(ground, index, step),
            StepKind::Script => match commands.get(&index) {
                Some(of) => point::commands(index, *of),
                None => {
                    not_tried.push(format!("step {}: only scripts of bash can be struck", step.id));
                    Vec::new()
                }
            },
            _ => {
                not_tried.push(format!("step {}: faults strike SQL and scripts only", step.id));
                Vec::new()
            }
        };
        for point in points {
            let faults =
                point::faults_at(point.place).iter().filter(|fault| ground.mirror.can_suffer(**fault));
            for fault in faults {
                cells.extend([FaultWay::Rollback, FaultWay::Resume].map(|way| Cell {
                    point: point.clone(),
                    fault: *fault,
                    way,
                }));
            }
        }
    }
    cells
}

fn sql_points(ground: &Ground, index: usize, step: &Step) -> Vec<Point> {
    let bytes =
        step.action.package_file().and_then(|file| ground.package.files.get(file)).map(|file| &file.bytes);
    bytes
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .map_or_else(Vec::new, |text| point::statements(index, text))
}

/// The cells that are tried: a sample by the plan's seed where there are more than the plan wants.
fn choose(ground: &Ground, all: Vec<Cell>, not_tried: &mut Vec<String>) -> Vec<Cell> {
    let mut dice = ChaCha8Rng::seed_from_u64(ground.plan.seed);
    let total = all.len();
    let mut chosen = match ground.plan.profile {
        Profile::Quick => one_a_step(&all, &mut dice),
        Profile::Nightly => all,
    };
    let most = ground.plan.faults.cells_max;
    if chosen.len() > most {
        chosen.shuffle(&mut dice);
        chosen.truncate(most);
        chosen.sort();
    }
    if chosen.len() < total {
        let left = total - chosen.len();
        not_tried
            .push(format!("{left} of {total} faults: a sample by the seed {} was tried", ground.plan.seed));
    }
    chosen
}

/// One cell of each step. The first statement and the last stay out where there are others: there least is half done.
fn one_a_step(all: &[Cell], dice: &mut ChaCha8Rng) -> Vec<Cell> {
    let mut of_step: BTreeMap<usize, Vec<&Cell>> = BTreeMap::new();
    for cell in all {
        of_step.entry(cell.point.step).or_default().push(cell);
    }
    let inner = |cell: &&&Cell| match cell.point.place {
        Place::Statement { number, .. } | Place::Command { number, .. } => number > 1,
    };
    of_step
        .values()
        .filter_map(|cells| {
            let inner: Vec<&&Cell> = cells.iter().filter(inner).collect();
            let among: Vec<&Cell> =
                if inner.is_empty() { cells.clone() } else { inner.into_iter().copied().collect() };
            (!among.is_empty()).then(|| among[dice.random_range(0..among.len())].clone())
        })
        .collect()
}

/// Plays one cell on a clone of its own.
async fn try_one(ground: &Ground, number: usize, cell: &Cell, states: &States) -> Result<FaultCell, String> {
    let start_us = ground.clock.now_us();
    let step = &ground.package.manifest.steps[cell.point.step];
    let file = step.action.package_file().unwrap_or_default();
    let told = |why: String| format!("step {} {} ({}): {why}", step.id, cell.point.place, cell.fault.name());
    let text = ground.package.files.get(file).and_then(|file| std::str::from_utf8(&file.bytes).ok());
    let text = point::with_fault(text.unwrap_or_default(), cell.point.place, cell.fault);
    let package = point::package_with(&ground.package, file, &point::faulty_name(file), text);
    let name = format!("{}{number}", ground.name);
    let stage = Stage::start(ground, &name, package).await.map_err(|error| told(error.to_string()))?;
    let played = cell::play(&stage, ground, cell, states).await;
    stage.stop().await;
    let (outcome, why) = played.map_err(told)?;
    Ok(FaultCell {
        step: step.id.clone(),
        place: cell.point.place.to_string(),
        file: file.to_owned(),
        line: match cell.point.place {
            Place::Statement { line, .. } => Some(line),
            Place::Command { .. } => None,
        },
        fault: cell.fault,
        way: cell.way,
        outcome,
        why,
        length_us: ground.clock.now_us() - start_us,
    })
}

#[expect(clippy::needless_pass_by_value, reason = "the form that map_err calls")]
fn unread(error: sqlx::Error) -> MirrorError {
    MirrorError::new(format!("the clone's database cannot be read: {error}"), "")
}
