//! PRE-CONFIG-KEY: keys that the new version deprecates or no longer knows, set by the package or used in production.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::document::Document;
use crate::inventory::{ConfigKey, Inventory, compare_versions};
use crate::package::manifest::Action;
use crate::package::{MANIFEST, Manifest};

use super::{Report, Scene};

/// Larger files are no configuration that people write.
const FILE_BYTES_MAX: u64 = 4 << 20;

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let (package, inventory) = (scene.input.package, scene.input.inventory);
    let manifest = &package.manifest;
    let ended = ended_keys(manifest, inventory);
    let configures = manifest.steps.iter().any(|step| matches!(step.action, Action::Config { .. }));
    let listed = !manifest.config_keys.is_empty() || !inventory.config_keys.is_empty();
    if !listed {
        if configures || !inventory.config_files.is_empty() {
            report.missing =
                Some("neither manifest nor inventory lists deprecated keys ([[config_key]])".to_owned());
        }
        return;
    }
    judge_steps(scene, &ended, report);
    judge_production(scene, &ended, report);
}

/// A key that the new version deprecates or has removed.
struct Ended<'input> {
    key: &'input str,
    /// `removed in 2.5` and the like.
    how: String,
    removed: bool,
    replacement: Option<&'input str>,
}

impl Ended<'_> {
    fn covers(&self, key: &str) -> bool {
        key.strip_prefix(self.key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    }

    fn remedy(&self) -> String {
        match self.replacement {
            Some(replacement) => {
                format!("use {replacement} in its place and unset {} in a config step", self.key)
            }
            None => format!("unset {} in a config step; nothing takes its place", self.key),
        }
    }
}

fn ended_keys<'input>(manifest: &'input Manifest, inventory: &'input Inventory) -> Vec<Ended<'input>> {
    let reached = |version: &String| compare_versions(version, &manifest.to).is_le();
    let ended = |key: &'input ConfigKey| {
        let removed = key.removed_in.as_ref().filter(|version| reached(version));
        let deprecated = key.deprecated_in.as_ref().filter(|version| reached(version));
        let how = match (removed, deprecated) {
            (Some(version), _) => format!("removed in {version}"),
            (None, Some(version)) => format!("deprecated in {version}"),
            (None, None) => return None,
        };
        let replacement = key.replacement.as_deref();
        Some(Ended { key: key.key.as_str(), how, removed: removed.is_some(), replacement })
    };
    manifest.config_keys.iter().chain(&inventory.config_keys).filter_map(ended).collect()
}

fn judge_steps(scene: &Scene<'_>, ended: &[Ended<'_>], report: &mut Report) {
    let package = scene.input.package;
    let document = Document { file: MANIFEST, text: &package.manifest_text };
    for step in &package.manifest.steps {
        let Action::Config { file, set, .. } = &step.action else { continue };
        for key in set.keys() {
            let Some(ended) = ended.iter().find(|ended| ended.covers(key)) else { continue };
            let step_start = offset_of_line(&package.manifest_text, step.line);
            let written = document.line_after(step_start, key);
            // A key that is not written in one piece is found by its last segment.
            let last = key.rsplit('.').next().unwrap_or(key);
            let line = if written == step.line { document.line_after(step_start, last) } else { written };
            let what = format!("step {} sets {key} in {file}, which is {}", step.id, ended.how);
            report.add(key.clone(), (MANIFEST, line), what).remedy = Some(ended.remedy());
        }
    }
}

fn offset_of_line(text: &str, line: u32) -> usize {
    text.split_inclusive('\n').take(line.saturating_sub(1) as usize).map(str::len).sum()
}

fn judge_production(scene: &Scene<'_>, ended: &[Ended<'_>], report: &mut Report) {
    let inventory = scene.input.inventory;
    for config in &inventory.config_files {
        let Some(file) = inventory.file(&config.path) else { continue };
        let source = inventory.source_path(file);
        let size = fs::metadata(&source).map(|metadata| metadata.len());
        let text = match size {
            Ok(size) if size > FILE_BYTES_MAX => {
                report.missing = Some(format!("{} is too large to be read", source.display()));
                continue;
            }
            _ => fs::read_to_string(&source),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                report.missing = Some(format!("{} could not be read: {error}", source.display()));
                continue;
            }
        };
        let used = match keys_of(&config.path, &text) {
            Ok(used) => used,
            Err(error) => {
                report.missing = Some(format!("{} could not be understood: {error}", source.display()));
                continue;
            }
        };
        let (set, unset) = changes_of(scene, &config.path);
        for (key, line) in &used {
            let Some(ended) = ended.iter().find(|ended| ended.covers(key)) else { continue };
            let replaced = ended.replacement.is_some_and(|replacement| set.contains(replacement));
            let gone = unset.iter().any(|unset| *unset == key || key.starts_with(&format!("{unset}.")));
            // A deprecated key beside its replacement is only a warning's worth; a removed one must go.
            if gone || (replaced && !ended.removed) {
                continue;
            }
            let what = format!("production's {} uses {key}, which is {}", config.path, ended.how);
            report.add(key.clone(), (&config.path, *line), what).remedy = Some(ended.remedy());
        }
    }
}

/// Keys that the package sets and unsets in a file.
fn changes_of<'scene>(scene: &Scene<'scene>, path: &str) -> (BTreeSet<&'scene str>, BTreeSet<&'scene str>) {
    let (mut set, mut unset) = (BTreeSet::new(), BTreeSet::new());
    let package = scene.input.package;
    for step in &package.manifest.steps {
        if let Action::Config { file, set: sets, unset: unsets } = &step.action
            && file == path
        {
            set.extend(sets.keys().map(String::as_str));
            unset.extend(unsets.iter().map(String::as_str));
        }
    }
    (set, unset)
}

/// Dotted keys of a configuration file with their lines; 0 when the line is not known.
fn keys_of(path: &str, text: &str) -> Result<BTreeMap<String, u32>, String> {
    let mut keys = BTreeMap::new();
    match path.rsplit('.').next() {
        Some("toml") => {
            let table: toml::Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
            let value = serde_json::to_value(table).map_err(|error| error.to_string())?;
            flatten("", &value, text, &mut keys);
        }
        Some("json") => {
            let value: serde_json::Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            flatten("", &value, text, &mut keys);
        }
        Some("yaml" | "yml") => return Err("YAML is not read".to_owned()),
        _ => lines(text, &mut keys),
    }
    Ok(keys)
}

fn flatten(prefix: &str, value: &serde_json::Value, text: &str, keys: &mut BTreeMap<String, u32>) {
    let serde_json::Value::Object(members) = value else {
        keys.insert(prefix.to_owned(), line_of_key(text, prefix));
        return;
    };
    for (name, member) in members {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        flatten(&key, member, text, keys);
    }
}

/// Line of the first line that starts with the key's last segment, or with the whole of it.
fn line_of_key(text: &str, key: &str) -> u32 {
    let last = key.rsplit('.').next().unwrap_or(key);
    let starts = |line: &str| {
        let bare = line.trim_start().trim_start_matches(['"', '\'']);
        let ends =
            |rest: &str| !rest.starts_with(|next: char| next.is_alphanumeric() || next == '_' || next == '-');
        [key, last].into_iter().any(|name| bare.strip_prefix(name).is_some_and(ends))
    };
    text.lines().position(starts).and_then(|index| u32::try_from(index + 1).ok()).unwrap_or(0)
}

/// `key = value` and `key: value` lines, with `[section]` in front: ini, properties, environment files.
fn lines(text: &str, keys: &mut BTreeMap<String, u32>) {
    let mut section = String::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with(['#', ';', '!']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = format!("{}.", name.trim());
        } else if let Some(end) = line.find(['=', ':']) {
            let key = format!("{section}{}", line[..end].trim());
            keys.entry(key).or_insert_with(|| u32::try_from(index + 1).unwrap_or(u32::MAX));
        }
    }
}
