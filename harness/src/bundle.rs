//! Writes a rehearsal's bundle: raw evidence as it comes, renderings at the end.

use std::io::Write;
use std::path::{Path, PathBuf};

use fulldress_reports::render::RENDERERS;
use fulldress_reports::report::Report;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Microseconds since 1970 as RFC 3339 in UTC, to the second.
#[must_use]
pub fn rfc3339(unix_us: u64) -> String {
    let seconds = i64::try_from(unix_us / 1_000_000).unwrap_or(0);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|instant| instant.format(&Rfc3339).ok())
        .unwrap_or_else(|| "1970-01-01T00:00:00Z".to_owned())
}

/// The default folder of a bundle: `rehearsals/<utc>-<name>`.
#[must_use]
pub fn default_folder(unix_us: u64, name: &str) -> PathBuf {
    let stamp: String = rfc3339(unix_us).chars().filter(char::is_ascii_alphanumeric).collect();
    let name: String = name
        .chars()
        .map(|character| if character.is_alphanumeric() || character == '.' { character } else { '-' })
        .collect();
    Path::new("rehearsals").join(format!("{stamp}-{name}"))
}

/// Writes one JSON line per record.
///
/// # Errors
/// When the file cannot be written.
pub fn write_lines<Record: Serialize>(
    path: &Path,
    records: impl IntoIterator<Item = Record>,
) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    for record in records {
        serde_json::to_writer(&mut file, &record)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Writes `report.json` and every rendering of it.
///
/// # Errors
/// One sentence that names the file.
pub fn render(folder: &Path, report: &Report) -> Result<(), String> {
    let write = |name: &str, bytes: Vec<u8>| {
        std::fs::write(folder.join(name), bytes).map_err(|error| format!("{name}: {error}"))
    };
    write("report.json", report.to_json().map_err(|error| error.to_string())?)?;
    for renderer in RENDERERS {
        write(renderer.name(), renderer.render(report).map_err(|error| format!("failed to {error}"))?)?;
    }
    Ok(())
}

/// Reads the report of a bundle, given as its folder or its `report.json`.
///
/// # Errors
/// One sentence that names the file.
pub fn read(path: &Path) -> Result<Report, String> {
    let file = if path.is_dir() { path.join("report.json") } else { path.to_owned() };
    let bytes = std::fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    Report::from_json(&bytes).map_err(|error| format!("{}: {error}", file.display()))
}
