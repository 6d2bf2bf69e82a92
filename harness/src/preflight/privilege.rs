//! PRE-PRIVILEGE: scripts that ask for root.

use super::{Report, Scene};

/// Programs that change the user, with what they do.
const PROGRAMS: &[(&str, &str)] = &[
    ("sudo", "runs a command as root"),
    ("sudoedit", "edits a file as root"),
    ("su", "starts a shell as another user"),
    ("doas", "runs a command as root"),
    ("pkexec", "runs a command as root"),
    ("run0", "runs a command as root"),
];

pub(super) fn apply(scene: &Scene<'_>, report: &mut Report) {
    for script in &scene.scripts {
        for invocation in &script.execution.invocations {
            let Some((program, effect)) = PROGRAMS.iter().find(|(program, _)| *program == invocation.program)
            else {
                continue;
            };
            let object = format!("{}: {program}", script.name);
            report.add(
                object,
                (script.name, invocation.line),
                format!("the script calls {program}, which {effect}"),
            );
        }
    }
}
