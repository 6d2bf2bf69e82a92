//! PRE-SQL: hazards that the SQL of a package states.

use super::invocation::Invocation;
use super::{Report, Scene};
use crate::lint::lint;
use crate::package::manifest::Action;

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    let package = scene.input.package;
    let is_sql = |action: &&Action| matches!(action, Action::Sql { .. });
    let up = package.manifest.steps.iter().map(|step| &step.action);
    let down = package.manifest.steps.iter().filter_map(super::scripts::rollback_of);
    let mut names: Vec<&str> = up.chain(down).filter(is_sql).filter_map(Action::package_file).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if let Some(file) = package.files.get(name) {
            judge(&String::from_utf8_lossy(&file.bytes), 1, name, report);
        }
    }
    for script in &scene.scripts {
        for invocation in script.execution.invocations.iter().filter(|one| one.program == "psql") {
            judge_invocation(invocation, script.name, report);
        }
    }
}

/// SQL that a script hands to psql is what a file of a step would be.
fn judge_invocation(invocation: &Invocation, file: &str, report: &mut Report) {
    if let Some((body, line)) = &invocation.heredoc {
        // What the shell would take away before psql reads it; lines stay.
        judge(&body.replace("\\$", "$").replace("\\`", "`"), *line, file, report);
    }
    for command in invocation.option(&["-c", "--command"]).into_iter().flat_map(|text| text.values) {
        judge(&command, invocation.line, file, report);
    }
}

fn judge(text: &str, first_line: u32, file: &str, report: &mut Report) {
    let findings = lint(text);
    for found in findings.found {
        let hazard = found.hazard;
        let what = format!("{} (`{}`): {}", hazard.name, hazard.id, hazard.what);
        let place = (file, first_line + found.line - 1);
        report.add(format!("{file}: {}", hazard.id), place, what).remedy = Some(hazard.remedy.to_owned());
    }
    for (line, why) in findings.unread {
        report.note((file, first_line + line - 1), why);
    }
}
