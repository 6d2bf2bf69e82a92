//! `fulldress package`: build and inspect packages.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{CommandResult, Failure, print, print_json};
use crate::cli::{Format, Package};
use crate::package::{self, Limits};

/// Builds or inspects a package.
///
/// # Errors
/// When the folder or the package cannot be used.
pub fn run(args: &Package) -> CommandResult {
    match args {
        Package::Build { folder, out } => build(folder, out.clone()),
        Package::Inspect { package, format } => inspect(package, *format),
    }
}

fn build(folder: &Path, out: Option<PathBuf>) -> CommandResult {
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned());
    let out = match (out, name) {
        (Some(out), _) => out,
        (None, Some(name)) => PathBuf::from(format!("{name}.zip")),
        (None, None) => return Err(Failure::usage("the folder has no name: say where to write with --out")),
    };
    let built = package::build::build_to(folder, &out, &Limits::default()).map_err(Failure::usage)?;
    print(&format!(
        "wrote {}: {} entries, sha256 {}\n",
        out.display(),
        built.package.files.len(),
        built.package.sha256
    ));
    Ok(0)
}

fn inspect(path: &Path, format: Format) -> CommandResult {
    let package = super::preflight::open(path)?;
    let facts = package.facts();
    if format == Format::Json {
        print_json(&facts)?;
        return Ok(0);
    }
    let mut text = format!(
        "{} {} to {}, sha256 {}, {}\n",
        facts.name, facts.from, facts.to, facts.sha256, facts.signature_note
    );
    for step in &package.manifest.steps {
        let what = step.action.package_file().map_or_else(String::new, |file| format!(" {file}"));
        let back = if step.rollback.is_some() { "" } else { ", no rollback" };
        let kind = format!("{:?}", step.action.kind()).to_lowercase();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {} {kind}{what}{back}", step.id);
    }
    print(&text);
    Ok(0)
}
