//! `fulldress preflight`: everything that can be said without starting anything.

use std::fmt::Write;

use super::{CommandResult, EXIT_REFUSED, Failure, print, print_json};
use crate::cli::{Format, Preflight};
use crate::inventory::Inventory;
use crate::package::{self, Limits};

/// Opens the package safely and prints what preflight finds; exit code 1 when it finds something.
///
/// # Errors
/// When the inventory cannot be used or the package is refused.
pub fn run(args: &Preflight) -> CommandResult {
    let inventory = Inventory::load(&args.inventory).map_err(Failure::diagnostic)?;
    let package = open(&args.package)?;
    let evidence = crate::preflight::preflight(&package, &inventory);
    let code = u8::from(!evidence.findings.is_empty());
    if args.format == Format::Json {
        print_json(&evidence)?;
        return Ok(code);
    }
    let mut text = String::new();
    for finding in &evidence.findings {
        let place = finding.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "{:<15} {place}{}\n{:<15} → {}", finding.check, finding.what, "", finding.remedy);
    }
    for (check, missing) in &evidence.missing {
        let _ = writeln!(text, "{check:<15} could not be decided: {missing}");
    }
    let _ = writeln!(
        text,
        "{} findings by {} rules; the signature was not verified",
        evidence.findings.len(),
        evidence.ran.len()
    );
    print(&text);
    Ok(code)
}

/// Opens a zip or a source folder.
///
/// # Errors
/// Exit code 2 when it is not there, 6 when it is refused.
pub fn open(path: &std::path::Path) -> Result<package::Package, Failure> {
    if !path.exists() {
        return Err(Failure::usage(format!("the package {} does not exist", path.display())));
    }
    let limits = Limits::default();
    let opened = package::open_any(path, &limits);
    opened.map_err(|error| Failure { text: format!("{}: {error}", error.check()), code: EXIT_REFUSED })
}
