//! The container engine as a rehearsal's tests look at it from outside.

use std::path::Path;

use crate::program::program;

/// Whether a container engine answers; said when none does. Fails instead where `FULLDRESS_REQUIRE_CONTAINERS=1` says
/// that there must be one.
pub(crate) fn answer() -> bool {
    // A stopped engine takes the connection and never answers.
    let answers = program("timeout")
        .args(["30", "docker", "info"])
        .output()
        .is_ok_and(|output| output.status.success());
    let required = std::env::var("FULLDRESS_REQUIRE_CONTAINERS").is_ok_and(|value| value == "1");
    assert!(answers || !required, "FULLDRESS_REQUIRE_CONTAINERS=1, but no container engine answers");
    if !answers {
        println!("skipped: no container engine answers");
    }
    answers
}

/// Runs the engine's command line and gives its lines.
#[track_caller]
pub(crate) fn lines(arguments: &[&str]) -> Vec<String> {
    let output = program("docker").args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "docker {}: {said}", arguments.join(" "));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// Containers, networks and volumes of runs below a state folder.
pub(crate) fn labelled(state: &Path) -> Vec<String> {
    let format = "{{.Label \"dev.fulldress.run\"}}";
    let ours = format!(":{}/", state.display());
    let mut found = Vec::new();
    for (kind, arguments) in [
        ("container", ["ps", "--all", "--no-trunc", "--format", "{{.Names}} "].as_slice()),
        ("network", &["network", "ls", "--format", "{{.Name}} "]),
        ("volume", &["volume", "ls", "--format", "{{.Name}} "]),
    ] {
        let mut arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        arguments.last_mut().unwrap().push_str(format);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        found.extend(
            lines(&arguments)
                .into_iter()
                .filter(|line| line.contains(&ours))
                .map(|line| format!("{kind} {line}")),
        );
    }
    found
}

/// Whether the Compose plugin stands where every user of the machine finds it, so that it cannot be hidden.
pub(crate) fn has_system_wide_compose() -> bool {
    let shown = program("docker").args(["compose", "version"]).env("DOCKER_CONFIG", "/nowhere").output();
    shown.is_ok_and(|output| output.status.success())
}
