//! PRE-SCHEDULE: scheduled tasks that a step creates and its rollback does not remove.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use fulldress_reports::sql::pieces;
use regex::Regex;

use crate::inventory::unit_suffix;
use crate::package::Package;
use crate::package::manifest::Action;

use super::invocation::Invocation;
use super::scripts::{ScriptFile, roles, rollback_of, written};
use super::{Report, Scene, unit};

/// Folders and files whose entries are scheduled; cron(8).
const CRON_PATHS: &[&str] = &[
    "/etc/cron.d/",
    "/etc/cron.hourly/",
    "/etc/cron.daily/",
    "/etc/cron.weekly/",
    "/etc/cron.monthly/",
    "/etc/crontab",
    "/etc/anacrontab",
    "/var/spool/cron/",
];

/// A scheduled task, under the name by which creation and removal are matched.
struct Task {
    object: String,
    line: u32,
}

/// What a file does to scheduled tasks.
#[derive(Default)]
struct Tasks {
    created: Vec<Task>,
    removed: BTreeSet<String>,
}

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let package = scene.input.package;
    let inventory = scene.input.inventory;
    let files = scene.scripts.iter().map(|script| script.name);
    let sql_files = package.files.keys().map(String::as_str).filter(|name| name.ends_with(".sql"));
    for file in files.chain(sql_files) {
        let (steps, is_rollback) = roles(package, file);
        if steps.is_empty() && is_rollback {
            continue;
        }
        let mut tasks = tasks_of(scene, file);
        tasks.created.retain(|task| {
            // A timer that production has anyway is no new task.
            !inventory.units.iter().any(|unit| unit.name == task.object)
        });
        for task in &tasks.created {
            let removed = !steps.is_empty()
                && steps.iter().all(|step| {
                    let back = rollback_of(step).and_then(Action::package_file);
                    back.is_some_and(|back| tasks_of(scene, back).removed.contains(&task.object))
                });
            if !removed {
                let what = match steps.first() {
                    Some(step) => format!(
                        "step {} leaves a scheduled task ({}) that its rollback does not remove",
                        step.id, task.object
                    ),
                    None => format!("the file creates a scheduled task ({})", task.object),
                };
                report.add(task.object.clone(), (file, task.line), what);
            }
        }
    }
}

fn tasks_of(scene: &Scene<'_>, file: &str) -> Tasks {
    match scene.scripts.iter().find(|script| script.name == file) {
        Some(script) => script_tasks(script, scene.input.package, file),
        None => sql_tasks(scene.input.package, file),
    }
}

fn script_tasks(script: &ScriptFile<'_>, package: &Package, file: &str) -> Tasks {
    let mut tasks = Tasks::default();
    let is_rollback = roles(package, file).1;
    for invocation in &script.execution.invocations {
        let line = invocation.line;
        for path in written(invocation) {
            if let Some(object) = scheduled_path(&path) {
                tasks.created.push(Task { object, line });
            }
        }
        match invocation.program.as_str() {
            "crontab" => crontab(invocation, &script.execution.invocations, is_rollback, &mut tasks),
            "at" | "batch" => {
                let has = |option: &str| invocation.arguments.iter().any(|argument| argument.is(option));
                if has("-r") || has("-d") {
                    tasks.removed.insert("at job".to_owned());
                } else if !has("-l") && !has("-c") && !has("-V") {
                    tasks.created.push(Task { object: "at job".to_owned(), line });
                }
            }
            "atrm" => {
                tasks.removed.insert("at job".to_owned());
            }
            "systemd-run" if invocation.arguments.iter().any(|argument| argument.starts_with("--on-")) => {
                let name = invocation.option(&["--unit", "-u"]).and_then(|unit| unit.values.first().cloned());
                let object = name.map_or_else(|| "transient timer".to_owned(), |name| timer_name(&name));
                tasks.created.push(Task { object, line });
            }
            "systemctl" => timers(invocation, &mut tasks),
            "rm" | "unlink" => {
                let operands = invocation.operands(&[]);
                let paths = operands.iter().flat_map(|operand| operand.values.iter());
                tasks.removed.extend(paths.filter_map(|path| scheduled_path(path)));
            }
            _ => {}
        }
    }
    tasks
}

/// The object of a scheduled path: a timer's unit, or the path itself.
fn scheduled_path(path: &str) -> Option<String> {
    if path.contains("/systemd/") && path.ends_with(".timer") {
        return path.rsplit('/').next().map(str::to_owned);
    }
    let inside =
        |prefix: &&str| path.starts_with(*prefix) && (!prefix.ends_with('/') || path.len() > prefix.len());
    CRON_PATHS.iter().any(inside).then(|| path.to_owned())
}

fn timer_name(name: &str) -> String {
    match unit_suffix(name) {
        Some("timer") => name.to_owned(),
        Some(suffix) => format!("{}timer", &name[..name.len() - suffix.len()]),
        None => format!("{name}.timer"),
    }
}

fn timers(invocation: &Invocation, tasks: &mut Tasks) {
    let verb = |names: &[&str]| {
        let first = invocation.operands(&[]).first().map(|verb| verb.values.clone()).unwrap_or_default();
        first.iter().any(|verb| names.contains(&verb.as_str()))
    };
    let units = unit::named_units(invocation);
    let named = units.iter().flat_map(|unit| unit.values.iter()).filter(|name| name.ends_with(".timer"));
    if verb(&["enable", "start", "reenable"]) {
        tasks.created.extend(named.map(|name| Task { object: name.clone(), line: invocation.line }));
    } else if verb(&["disable", "stop", "mask"]) {
        // A transient timer is stopped by either of its names.
        tasks.removed.extend(units.iter().flat_map(|unit| unit.values.iter()).map(|name| timer_name(name)));
    }
}

fn crontab(invocation: &Invocation, all: &[Invocation], is_rollback: bool, tasks: &mut Tasks) {
    let has = |option: &str| invocation.arguments.iter().any(|argument| argument.is(option));
    let user = invocation.option(&["-u"]).and_then(|user| user.values.first().cloned());
    let object = user.map_or_else(|| "crontab".to_owned(), |user| format!("crontab of {user}"));
    if has("-l") {
        return;
    }
    let same_statement = || all.iter().filter(|other| other.statement == invocation.statement);
    let filters = same_statement().any(|other| match other.program.as_str() {
        "grep" | "egrep" => other.arguments.iter().any(|argument| {
            argument.values.iter().any(|v| {
                v == "--invert-match" || (v.starts_with('-') && !v.starts_with("--") && v.contains('v'))
            })
        }),
        "sed" => {
            other.arguments.iter().any(|argument| argument.values.iter().any(|value| value.ends_with('d')))
        }
        _ => false,
    });
    let adds = invocation.heredoc.is_some()
        || same_statement().any(|other| matches!(other.program.as_str(), "echo" | "printf" | "cat"));
    // A rollback that writes the crontab brings the old one back; lines that are only filtered out add nothing.
    if has("-r") || is_rollback || (filters && !adds) {
        tasks.removed.insert(object);
    } else {
        tasks.created.push(Task { object, line: invocation.line });
    }
}

static PG_CRON: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)\bcron\.(un)?schedule(?:_in_database)?\s*\(\s*(?:'([^']*)')?").ok());

fn sql_tasks(package: &Package, file: &str) -> Tasks {
    let mut tasks = Tasks::default();
    let (Some(content), Some(pattern)) = (package.files.get(file), PG_CRON.as_ref()) else { return tasks };
    for statement in pieces(&String::from_utf8_lossy(&content.bytes), 1) {
        for found in pattern.captures_iter(&statement.text) {
            let at = found.get(0).map_or(0, |whole| whole.start());
            let name = found.get(2).map_or("", |name| name.as_str());
            let object = format!("pg_cron job {name}").trim_end().to_owned();
            if found.get(1).is_some() {
                tasks.removed.insert(object);
            } else {
                tasks.created.push(Task { object, line: statement.line_at(at) });
            }
        }
    }
    tasks
}
