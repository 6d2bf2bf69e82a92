//! `fulldress compare`: bundles side by side.

use std::collections::BTreeSet;
use std::path::Path;

use fulldress_reports::compare;

use super::{CommandResult, Failure, print, print_json};
use crate::bundle;
use crate::cli::{Compare, Format};

/// Prints gates and quantiles of bundles side by side; no significance is claimed.
///
/// # Errors
/// When a bundle has no readable report, or they cannot be compared.
pub fn run(args: &Compare) -> CommandResult {
    let name = |path: &Path| {
        path.file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let names: BTreeSet<String> = args.bundles.iter().map(|path| name(path)).collect();
    let mut reports = Vec::new();
    for path in &args.bundles {
        // Two bundles of one name are told apart by their paths.
        let label = if names.len() == args.bundles.len() { name(path) } else { path.display().to_string() };
        reports.push((label, bundle::read(path).map_err(Failure::usage)?));
    }
    let labelled: Vec<_> = reports.iter().map(|(label, report)| (label.clone(), report)).collect();
    let comparison = compare::compare(&labelled).map_err(Failure::usage)?;
    match args.format {
        Format::Json => print_json(&comparison)?,
        Format::Text => print(&comparison.text()),
    }
    Ok(0)
}
