//! The package's shell scripts: which they are, which steps run them, and which files of the host they write.

use crate::package::manifest::Action;
use crate::package::{Package, RollbackAction, Step};

use super::invocation::{self, Execution, Invocation};

/// A shell script of the package.
pub(super) struct ScriptFile<'package> {
    pub(super) name: &'package str,
    pub(super) execution: Execution,
}

const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "ksh", "zsh"];

/// Reads every shell script, whether a step names it or another script may.
pub(super) fn collect(package: &Package) -> Vec<ScriptFile<'_>> {
    let named = script_files(package);
    let is_shell = |name: &str, bytes: &[u8]| match interpreter(bytes) {
        Some(program) => SHELLS.contains(&program.as_str()),
        None => named.contains(&name) || name.ends_with(".sh") || name.ends_with(".bash"),
    };
    let read = |name, bytes: &[u8]| ScriptFile {
        name,
        execution: invocation::follow(&String::from_utf8_lossy(bytes)),
    };
    package
        .files
        .iter()
        .filter(|(name, file)| is_shell(name, &file.bytes))
        .map(|(name, file)| read(name.as_str(), &file.bytes))
        .collect()
}

/// Notes on scripts in other languages.
pub(super) fn foreign(package: &Package) -> Vec<String> {
    let note = |name: &&str| {
        let program = interpreter(&package.files.get(*name)?.bytes)?;
        let foreign = !SHELLS.contains(&program.as_str());
        foreign.then(|| format!("{name}: a script for {program}; it was searched for credentials only"))
    };
    script_files(package).iter().filter_map(note).collect()
}

/// Why the scripts are not fully known; absent when they are.
pub(super) fn unread(scripts: &[ScriptFile<'_>]) -> Option<String> {
    let flaws =
        scripts.iter().flat_map(|script| script.execution.flaws.iter().map(move |flaw| (script.name, flaw)));
    let texts: Vec<String> = flaws.map(|(name, (line, what))| format!("{name}:{line}: {what}")).collect();
    let first = texts.first()?;
    Some(match texts.len() {
        1 => format!("a script could not be read to its end: {first}"),
        count => format!("{count} scripts could not be read to their ends, the first: {first}"),
    })
}

fn script_files(package: &Package) -> Vec<&str> {
    let script = |action: &Action| matches!(action, Action::Script { .. });
    let steps = package.manifest.steps.iter().filter(|step| script(&step.action));
    steps.flat_map(|step| [step.action.package_file(), step.rollback_file()]).flatten().collect()
}

/// Last segment of the program in the first line, `#!/usr/bin/env NAME` included.
fn interpreter(bytes: &[u8]) -> Option<String> {
    let line = bytes.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let base = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
    let mut words = line.split_whitespace().map(base);
    let first = words.next()?;
    if first == "env" {
        words.find(|word| !word.starts_with('-') && !word.contains('='))
    } else {
        Some(first)
    }
}

/// Steps whose way there runs a file, and whether any step's way back runs it.
pub(super) fn roles<'package>(package: &'package Package, file: &str) -> (Vec<&'package Step>, bool) {
    let forward = package.manifest.steps.iter().filter(|step| step.action.package_file() == Some(file));
    let back = package.manifest.steps.iter().any(|step| step.rollback_file() == Some(file));
    (forward.collect(), back)
}

/// The file that a step's rollback runs, with its kind's action.
pub(super) fn rollback_of(step: &Step) -> Option<&Action> {
    match &step.rollback.as_ref()?.action {
        RollbackAction::Run(action) => Some(action),
        RollbackAction::RestoreConfig { .. } => None,
    }
}

/// Absolute paths that an invocation writes to; parts that are not known are left out.
pub(super) fn written(invocation: &Invocation) -> Vec<String> {
    let mut targets: Vec<String> = Vec::new();
    for (operator, target) in &invocation.redirects {
        if operator.starts_with('>') || operator.starts_with("&>") {
            targets.extend(target.values.iter().cloned());
        }
    }
    match invocation.program.as_str() {
        "tee" => targets.extend(invocation.operands(&[]).iter().flat_map(|operand| operand.values.clone())),
        "cp" | "mv" | "install" | "ln" => {
            let operands = invocation.operands(&["-m", "-o", "-g", "-S", "--mode", "--owner", "--group"]);
            if let [sources @ .., target] = &operands[..] {
                for target in &target.values {
                    targets.push(target.trim_end_matches('/').to_owned());
                    // The target may be a folder: then the sources' names are written in it.
                    let names = sources.iter().flat_map(|source| source.values.iter());
                    targets.extend(names.filter_map(|name| {
                        let base = name.rsplit('/').next()?;
                        Some(format!("{}/{base}", target.trim_end_matches('/')))
                    }));
                }
            }
        }
        _ => {}
    }
    targets.retain(|target| target.starts_with('/') && !target.contains(super::word::UNKNOWN));
    targets
}
