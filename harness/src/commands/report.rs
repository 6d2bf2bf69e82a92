//! `fulldress report`: render a bundle again, offline.

use super::{CommandResult, Failure, print_report};
use crate::bundle;
use crate::cli::Report as Args;

/// Writes every rendering again from `report.json`, and prints the verdict.
///
/// # Errors
/// When the bundle has no readable report.
pub fn run(args: &Args) -> CommandResult {
    let report = bundle::read(&args.bundle).map_err(Failure::usage)?;
    let folder = if args.bundle.is_dir() { args.bundle.clone() } else { args.bundle.with_file_name("") };
    bundle::render(&folder, &report).map_err(Failure::machine)?;
    print_report(&report, args.format)
}
