//! PRE-PATH: the installed version has a known way to the new one, through stops that the package contains.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::document::Document;
use crate::inventory::{Inventory, compare_versions};
use crate::package::MANIFEST;

use super::{Report, Scene};

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let (inventory, package) = (scene.input.inventory, scene.input.package);
    let manifest = &package.manifest;
    let document = Document { file: MANIFEST, text: &package.manifest_text };
    let line = |key: &str| document.line_after(0, &format!("\n{key}")) + 1;
    let (installed, to) = (inventory.installed.as_str(), manifest.to.as_str());
    if !same(installed, &manifest.from) {
        let what = format!("the package upgrades from {}, installed is {installed}", manifest.from);
        let remedy =
            format!("take the package that upgrades from {installed}, or upgrade to {} first", manifest.from);
        report.add(format!("from {}", manifest.from), (MANIFEST, line("from")), what).remedy = Some(remedy);
    }
    if same(installed, to) {
        return;
    }
    if inventory.paths.is_empty() {
        report.missing = Some("the inventory lists no known upgrade (`paths`)".to_owned());
        return;
    }
    let contained = |stop: &str| same(stop, to) || manifest.via.iter().any(|via| same(via, stop));
    if shortest(inventory, installed, to, contained).is_some() {
        return;
    }
    let object = format!("{installed} to {to}");
    let place = (MANIFEST, line("to"));
    match shortest(inventory, installed, to, |_| true) {
        None => {
            let what = format!("no sequence of known upgrades leads from {installed} to {to}");
            report.add(object, place, what);
        }
        Some(stops) => {
            let lacking: Vec<&str> = stops.iter().copied().filter(|stop| !contained(stop)).collect();
            let way =
                std::iter::once(installed).chain(stops.iter().copied()).collect::<Vec<_>>().join(" to ");
            let what = format!(
                "there is no direct upgrade from {installed} to {to}: the known way is {way}, and the package \
                 does not contain {}",
                lacking.join(", ")
            );
            let remedy =
                format!("upgrade to {} first, or take a package that contains it", lacking.join(", then "));
            report.add(object, place, what).remedy = Some(remedy);
        }
    }
}

fn same(one: &str, other: &str) -> bool {
    compare_versions(one, other).is_eq()
}

/// The stops after `from` on a shortest way to `to`, over versions that are allowed.
fn shortest<'inventory>(
    inventory: &'inventory Inventory,
    from: &'inventory str,
    to: &str,
    allowed: impl Fn(&str) -> bool,
) -> Option<Vec<&'inventory str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut seen = BTreeSet::from([from]);
    let mut pending = VecDeque::from([from]);
    while let Some(version) = pending.pop_front() {
        if same(version, to) {
            let mut stops = vec![version];
            let mut at = version;
            while let Some(earlier) = before.get(at).copied().filter(|earlier| *earlier != from) {
                stops.push(earlier);
                at = earlier;
            }
            stops.reverse();
            return Some(stops);
        }
        for [_, next] in inventory.paths.iter().filter(|[start, _]| same(start, version)) {
            if allowed(next) && seen.insert(next) {
                before.insert(next, version);
                pending.push_back(next);
            }
        }
    }
    None
}
