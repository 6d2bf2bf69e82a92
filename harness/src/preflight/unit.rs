//! PRE-UNIT: units that scripts name and production does not have.

use crate::inventory::unit_suffix;

use super::invocation::{Argument, Invocation};
use super::scripts::written;
use super::{Report, Scene};

/// Verbs of systemctl(1) that take units.
const VERBS: &[&str] = &[
    "start",
    "stop",
    "restart",
    "try-restart",
    "reload",
    "reload-or-restart",
    "try-reload-or-restart",
    "enable",
    "disable",
    "reenable",
    "preset",
    "mask",
    "unmask",
    "is-active",
    "is-enabled",
    "is-failed",
    "status",
    "kill",
    "cat",
    "edit",
    "show",
    "reset-failed",
    "isolate",
    "revert",
    "set-property",
    "freeze",
    "thaw",
    "clean",
];

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let inventory = scene.input.inventory;
    let installed: Vec<String> = scene
        .scripts
        .iter()
        .flat_map(|script| script.execution.invocations.iter())
        .flat_map(written)
        .filter(|path| path.contains("/systemd/"))
        .filter_map(|path| path.rsplit('/').next().map(str::to_owned))
        .collect();
    let known = |name: &str| {
        let has = |name: &str| {
            inventory.units.iter().any(|unit| unit.name == name) || installed.iter().any(|unit| unit == name)
        };
        has(name) || template_of(name).is_some_and(|template| has(&template))
    };
    for script in &scene.scripts {
        for invocation in &script.execution.invocations {
            for unit in named_units(invocation) {
                let place = (script.name, invocation.line);
                for value in &unit.values {
                    match meaning(value) {
                        Meaning::Unit(name) if known(&name) => {}
                        Meaning::Unit(_) if inventory.units.is_empty() => {
                            report.missing = Some("the inventory lists no unit".to_owned());
                        }
                        Meaning::Unit(name) => {
                            let what = format!(
                                "the script names unit {name} ({} {}), which the inventory does not have",
                                invocation.program,
                                words(invocation)
                            );
                            let remedy =
                                format!("name a unit that production has: {}", candidates(scene, &name));
                            report.add(name, place, what).remedy = Some(remedy);
                        }
                        Meaning::Undecided(why) => {
                            report.note(place, format_args!("unit {} {why}; it was not compared", unit.raw));
                        }
                    }
                }
            }
        }
    }
}

enum Meaning {
    Unit(String),
    Undecided(&'static str),
}

fn meaning(value: &str) -> Meaning {
    if value.contains(super::word::UNKNOWN) {
        return Meaning::Undecided("has a value that only the running script knows");
    }
    if value.contains(['*', '?', '[']) {
        return Meaning::Undecided("is a pattern");
    }
    if value.contains(['{', '}', '<', '>', '%']) || value.contains("@@") {
        return Meaning::Undecided("is a placeholder of a template");
    }
    let name = value.rsplit('/').next().unwrap_or(value);
    Meaning::Unit(if unit_suffix(name).is_some() { name.to_owned() } else { format!("{name}.service") })
}

/// `name@instance.service` is an instance of `name@.service`.
fn template_of(name: &str) -> Option<String> {
    let (stem, suffix) = name.rsplit_once('.')?;
    let (template, _) = stem.split_once('@')?;
    Some(format!("{template}@.{suffix}"))
}

/// The units that an invocation names.
pub(super) fn named_units(invocation: &Invocation) -> Vec<&Argument> {
    let valued =
        ["-t", "--type", "-p", "--property", "-n", "--lines", "-o", "--output", "-s", "--signal", "--root"];
    let operands = invocation.operands(&valued);
    let remote = invocation.arguments.iter().any(|argument| argument.is("-H") || argument.is("-M"));
    match invocation.program.as_str() {
        "systemctl" if !remote => match operands.split_first() {
            Some((verb, units)) if VERBS.iter().any(|known| verb.is(known)) => {
                // `set-property UNIT NAME=VALUE`.
                units
                    .iter()
                    .copied()
                    .filter(|unit| !unit.values.iter().any(|value| value.contains('=')))
                    .collect()
            }
            _ => Vec::new(),
        },
        // An init script's verb comes last; without one the call only asks for its usage.
        "service" | "invoke-rc.d" | "rc-service" if operands.len() > 1 => operands[..1].to_vec(),
        _ => Vec::new(),
    }
}

fn words(invocation: &Invocation) -> String {
    invocation.arguments.iter().map(|argument| argument.raw.as_str()).collect::<Vec<_>>().join(" ")
}

/// Units of the inventory, those that share the longest beginning with the name first.
fn candidates(scene: &Scene<'_>, name: &str) -> String {
    let shared = |unit: &str| unit.chars().zip(name.chars()).take_while(|(one, other)| one == other).count();
    let mut units: Vec<&str> = scene.input.inventory.units.iter().map(|unit| unit.name.as_str()).collect();
    units.sort_by_key(|unit| (std::cmp::Reverse(shared(unit)), *unit));
    units.truncate(5);
    units.join(", ")
}
