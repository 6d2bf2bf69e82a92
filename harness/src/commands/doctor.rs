//! `fulldress doctor`: what this machine has and lacks.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::{CommandResult, EXIT_MACHINE, Failure, print, print_json, runtime};
use crate::cli::{Doctor, Format};
use crate::mirror::cluster::Programs;
use crate::mirror::containers::engine::{Engine, is_stray};
use crate::mirror::versions;
use crate::process::{Launch, RunFolder, find_program};
use crate::upgrade::sandbox;

/// Longest that the Compose plugin may take to tell its version.
const COMPOSE_LIMIT: Duration = Duration::from_secs(10);

/// One thing that a rehearsal needs.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    well: bool,
    /// Whether a machine without it is healthy.
    optional: bool,
    /// Where it is, or what to do.
    what: String,
}

/// Looks, and with `--clean` removes what killed rehearsals left.
///
/// # Errors
/// When nothing can be looked at at all.
pub fn run(args: &Doctor) -> CommandResult {
    let runtime = runtime()?;
    let mut findings = vec![match Programs::find(None) {
        Ok(programs) => well("PostgreSQL", programs.folder.display().to_string()),
        Err(error) => ill("PostgreSQL", error.to_string()),
    }];
    findings.extend(
        runtime
            .block_on(versions::installed())
            .into_iter()
            .map(|one| well("installed", format!("PostgreSQL {} in {}", one.version, one.folder.display()))),
    );
    for (name, program) in [("psql", "psql"), ("setpriv", "setpriv"), ("curl", "curl")] {
        findings.push(match find_program(program.as_ref()) {
            Ok(path) => well(name, path.display().to_string()),
            Err(error) => ill(name, error.to_string()),
        });
    }
    findings.push(match runtime.block_on(sandbox::probe()) {
        Ok(confinement) => well("sandbox", format!("bubblewrap works ({confinement:?})")),
        Err(error) => ill("sandbox", error.to_string()),
    });
    let engine = runtime.block_on(Engine::connect());
    findings.push(match &engine {
        Ok(engine) => well("containers", engine.describe()),
        Err(error) => optional("containers", error.to_string()),
    });
    findings.push(match runtime.block_on(compose()) {
        Ok(version) => well("compose", format!("Docker Compose {version}")),
        Err(reason) => optional("compose", reason),
    });
    if args.clean {
        // Making a run folder sweeps what killed runs left; dropping it deletes it again.
        let (folder, mut swept) =
            RunFolder::create().map_err(|error| Failure::machine(format!("failed to {error}")))?;
        folder.close().map_err(|error| Failure::machine(format!("failed to {error}")))?;
        if let Ok(engine) = engine {
            swept.extend(runtime.block_on(engine.sweep(is_stray)).map_err(Failure::machine)?);
        }
        let what = if swept.is_empty() { "nothing was left behind".to_owned() } else { swept.join("; ") };
        findings.push(well("clean", what));
    }
    let healthy = findings.iter().all(|finding| finding.well || finding.optional);
    match args.format {
        Format::Json => print_json(&findings)?,
        Format::Text => {
            let mut text = String::new();
            for finding in &findings {
                let mark = match (finding.well, finding.optional) {
                    (true, _) => "ok     ",
                    (false, true) => "without",
                    (false, false) => "missing",
                };
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{mark}  {:<11} {}", finding.name, finding.what);
            }
            print(&text);
        }
    }
    Ok(if healthy { 0 } else { EXIT_MACHINE })
}

/// The version of the Compose plugin, which needs no engine to be asked.
async fn compose() -> Result<String, String> {
    let remedy =
        "a mirror of a Compose project needs it: `.ci/prerequisites` installs it where an engine answers";
    let launch = Launch::new("docker").args(["compose", "version", "--short"]);
    let output = launch.output(COMPOSE_LIMIT).await.map_err(|error| format!("failed to {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().trim().to_owned();
    Err(format!("`docker compose` does not work ({said}); {remedy}"))
}

const fn well(name: &'static str, what: String) -> Finding {
    Finding { name, well: true, optional: false, what }
}

const fn ill(name: &'static str, what: String) -> Finding {
    Finding { name, well: false, optional: false, what }
}

/// Missing, but only a mirror in containers needs it.
const fn optional(name: &'static str, what: String) -> Finding {
    Finding { name, well: false, optional: true, what }
}
