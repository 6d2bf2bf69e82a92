//! `fulldress run`: the dress rehearsal.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use fulldress_reports::report::Report;
use fulldress_workloads::clock::Clock;
use fulldress_workloads::file::Workload;

use super::{CommandResult, Failure, cancel_on_signals, print, print_report, runtime};
use crate::bundle;
use crate::cli::{Format, Run};
use crate::conductor::{self, Finished, Request};
use crate::inventory::Inventory;
use crate::package::{self, Limits};
use crate::plan::{MirrorKind, Plan};
use crate::progress::Progress;

/// Reads the plan and everything that it names, then plays it.
///
/// # Errors
/// When something that the plan names cannot be used, or the bundle cannot be written.
pub fn run(args: &Run) -> CommandResult {
    let plan = read_plan(args)?;
    if args.dry_run {
        let (_, workload) = read_beside(&plan)?;
        print(&describe(&plan, &workload)?);
        return Ok(0);
    }
    let bundle = bundle_folder(args.out.as_deref(), &plan)?;
    rehearse(plan, bundle, args.quiet, args.format)
}

/// The folder for the bundle of a plan that was written by us.
///
/// # Errors
/// A plan that cannot be read, or a folder that holds something already.
pub fn bundle_of(out: Option<&Path>, plan: &Path) -> Result<PathBuf, Failure> {
    bundle_folder(out, &Plan::read(plan).map_err(Failure::diagnostic)?)
}

/// Plays a plan as it stands.
///
/// # Errors
/// As [`run`].
pub fn play(plan: &Path, bundle: &Path, quiet: bool, format: Format) -> CommandResult {
    rehearse(Plan::read(plan).map_err(Failure::diagnostic)?, bundle.to_owned(), quiet, format)
}

/// What the plan names; a fault in it must be found before anything starts.
fn read_beside(plan: &Plan) -> Result<(Inventory, Workload), Failure> {
    let inventory = Inventory::load(&plan.inventory).map_err(Failure::diagnostic)?;
    // Read again by the conductor.
    let workload = Workload::load(&plan.traffic.workload).map_err(Failure::usage)?;
    if !plan.package.exists() {
        return Err(Failure::usage(format!(
            "the package {} does not exist: correct `package` in the plan, or name another with --package",
            plan.package.display()
        )));
    }
    plan.check_workload(&workload).map_err(Failure::usage)?;
    check_services(plan, &inventory)?;
    Ok((inventory, workload))
}

fn rehearse(plan: Plan, bundle: PathBuf, quiet: bool, format: Format) -> CommandResult {
    let (inventory, _) = read_beside(&plan)?;
    let progress = if quiet { Progress::silent() } else { Progress::new() };
    let finished = runtime()?.block_on(async {
        let cancel = cancel_on_signals()?;
        let request = Request { plan, inventory, bundle, progress, cancel };
        conductor::rehearse(request).await.map_err(Failure::machine)
    })?;
    show(&finished, format)
}

/// Units and hosts of the inventory stand for services of the plan.
fn check_services(plan: &Plan, inventory: &Inventory) -> Result<(), Failure> {
    let units = inventory.units.iter().map(|unit| (&unit.name, &unit.service));
    let hosts = inventory.hosts.iter().map(|host| (&host.name, &host.service));
    for (name, service) in units.chain(hosts) {
        if let Some(service) = service
            && plan.service(service).is_none()
        {
            let inventory = plan.inventory.display();
            return Err(Failure::usage(format!(
                "{inventory}: `{name}` names the service `{service}`, which the plan does not have: correct it, or add a [[mirror.service]]"
            )));
        }
    }
    Ok(())
}

fn read_plan(args: &Run) -> Result<Plan, Failure> {
    let mut plan = Plan::read(&args.plan).map_err(Failure::diagnostic)?;
    if let Some(package) = &args.package {
        plan.package.clone_from(package);
    }
    if let Some(seed) = args.seed {
        plan.seed = seed;
    }
    if let Some(profile) = args.profile {
        plan.profile = profile;
    }
    if let Some(kind) = args.mirror {
        plan.set_kind(kind).map_err(Failure::usage)?;
    }
    Ok(plan)
}

/// The bundle's folder; one that holds something already is refused, so that no evidence is mixed or lost.
fn bundle_folder(out: Option<&Path>, plan: &Plan) -> Result<PathBuf, Failure> {
    let folder = match out {
        Some(folder) => folder.to_owned(),
        None => bundle::default_folder(Clock::start().epoch_unix_us(), &plan.name),
    };
    let name = folder.display();
    match std::fs::read_dir(&folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err(Failure::usage(format!("{name} is not empty: name a new folder with --out"))),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::usage(format!("{name}: {error}")))
        }
        _ => Ok(folder),
    }
}

fn show(finished: &Finished, format: Format) -> CommandResult {
    let code = print_report(&finished.report, format)?;
    if format == Format::Text {
        print(&locations(&finished.bundle, &finished.report));
    }
    Ok(code)
}

fn locations(bundle: &Path, report: &Report) -> String {
    let page = std::path::absolute(bundle.join("report.html")).unwrap_or_else(|_| bundle.join("report.html"));
    let mut text = format!("\nreport  {}\n", page.display());
    if report.verdict.exit_code == super::EXIT_MACHINE {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "logs    {}", bundle.join("logs").display());
    }
    text
}

/// What would happen, without starting anything.
fn describe(plan: &Plan, workload: &Workload) -> Result<String, Failure> {
    let limits = Limits::default();
    let opened = package::open_any(&plan.package, &limits);
    let package = opened.map_err(|error| Failure { text: error.to_string(), code: super::EXIT_REFUSED })?;
    let manifest = &package.manifest;
    let phases = &plan.phases;
    let mut text = format!("rehearsal  {}, seed {}\n", plan.name, plan.seed);
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line(
        "package",
        format!("{} {} to {}, {} steps", manifest.name, manifest.from, manifest.to, manifest.steps.len()),
    );
    let services: Vec<&str> = plan.mirror.services.iter().map(|service| service.name.as_str()).collect();
    let services = if services.is_empty() {
        "no services".to_owned()
    } else {
        format!("services {}", services.join(", "))
    };
    line("mirror", format!("{}, database {}, {}", kind(plan), plan.mirror.database.name, services));
    line("dataset", dataset(plan));
    let targets = plan
        .traffic
        .target
        .iter()
        .chain(plan.traffic.database.keys().filter(|_| !workload.databases().is_empty()));
    let targets: Vec<&str> = targets.map(String::as_str).collect();
    line("traffic", format!("workload {} against {}", workload.name(), targets.join(", ")));
    line(
        "phases",
        format!(
            "warmup {} s, baseline {} s, upgrade at least {} s, soak {} s, rollback at least {} s, recovery {} s",
            phases.warmup_s,
            phases.baseline_s,
            phases.upgrade_min_s,
            phases.soak_s,
            phases.rollback_min_s,
            phases.recovery_s
        ),
    );
    for step in &manifest.steps {
        let back = if step.rollback.is_some() { "with rollback" } else { "no rollback" };
        line("step", format!("{} ({}, {back})", step.id, format!("{:?}", step.action.kind()).to_lowercase()));
    }
    line("proofs", "ledger, schema, data, residue, second runner on a clone, second application".to_owned());
    Ok(text)
}

/// Where the mirror would be.
fn kind(plan: &Plan) -> String {
    match (plan.mirror.kind, &plan.mirror.compose) {
        (MirrorKind::Auto, Some(file)) => {
            format!("containers of {} where an engine answers, else local", file.display())
        }
        (MirrorKind::Compose, Some(file)) => format!("containers of {}", file.display()),
        _ => "local".to_owned(),
    }
}

/// What would fill the database.
fn dataset(plan: &Plan) -> String {
    let dataset = &plan.mirror.dataset;
    match (&dataset.dump, &dataset.data_folder) {
        (Some(dump), _) => format!("dump {}", dump.display()),
        (_, Some(folder)) => format!("data folder {}", folder.display()),
        _ if dataset.command.is_empty() => "whatever the database's container brings".to_owned(),
        _ => dataset.command.join(" "),
    }
}
