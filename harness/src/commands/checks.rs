//! `fulldress checks`: every check with its meaning, limit and remedy.

use std::fmt::Write;

use fulldress_reports::check::{CHECKS, Unit};
use serde_json::json;

use super::{CommandResult, print, print_json};
use crate::cli::{Checks, Format};

/// Prints the records of all checks.
///
/// # Errors
/// Never; the signature is that of every command.
pub fn run(args: &Checks) -> CommandResult {
    if args.format == Format::Json {
        let records: Vec<_> = CHECKS
            .iter()
            .map(|check| {
                json!({
                    "id": check.id, "title": check.title, "meaning": check.meaning, "required": check.required,
                    "unit": check.unit, "limit": check.limit, "remedy": check.remedy,
                })
            })
            .collect();
        print_json(&records)?;
        return Ok(0);
    }
    let mut text = String::new();
    for check in CHECKS {
        let unit = match check.unit {
            Unit::Milliseconds => " ms",
            Unit::Count => "",
            Unit::Percent => " %",
        };
        let required = if check.required { "required" } else { "advisory" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{:<16} {required}, limit {}{unit}\n    {}\n    → {}",
            check.id, check.limit, check.meaning, check.remedy
        );
    }
    print(&text);
    Ok(0)
}
