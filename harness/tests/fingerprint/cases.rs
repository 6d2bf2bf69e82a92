//! Single changes of a schema and the differences that name them, as `changes.txt` tells them.

use std::fmt::Write as _;
use std::path::Path;

pub(crate) const CHANGES: &str = include_str!("changes.txt");
/// Stands below a change that is none of the schema.
const NOTHING: &str = "nothing";

/// A change, and what it must be told as.
pub(crate) struct Case {
    /// Comments and empty lines before it.
    heading: String,
    /// Oldest version that knows it.
    pub(crate) since: u32,
    pub(crate) sql: String,
    /// Each with the version from which on it stands; 0 is every version.
    expected: Vec<(u32, String)>,
}

impl Case {
    pub(crate) fn all() -> Vec<Self> {
        let mut cases: Vec<Self> = Vec::new();
        let mut heading = String::new();
        for line in CHANGES.lines() {
            if let Some(expected) = line.strip_prefix("    ") {
                let (version, text) = versioned(expected, ": ");
                cases.last_mut().expect("a change before its differences").expected.push((version, text));
            } else if line.is_empty() || line.starts_with('#') {
                _ = writeln!(heading, "{line}");
            } else {
                let (since, sql) = versioned(line, "+ ");
                cases.push(Self { heading: std::mem::take(&mut heading), since, sql, expected: Vec::new() });
            }
        }
        cases
    }

    /// What must be told on a version, in order.
    pub(crate) fn at(&self, version: u32) -> Vec<&str> {
        let from = self.expected.iter().map(|(from, _)| *from).filter(|from| *from <= version).max();
        let lines = self.expected.iter().filter(|(at, text)| Some(*at) == from && text != NOTHING);
        lines.map(|(_, text)| text.as_str()).collect()
    }
}

/// Splits `18: text`; 0 for text without a version.
fn versioned(line: &str, mark: &str) -> (u32, String) {
    let split =
        line.split_once(mark).and_then(|(version, text)| Some((version.parse().ok()?, text.to_owned())));
    split.unwrap_or((0, line.to_owned()))
}

/// Writes the file anew from what each version told of each case, oldest version first.
pub(crate) fn rewrite(cases: &[Case], told: &[(u32, Vec<Option<Vec<String>>>)]) {
    let mut file = String::new();
    for (index, case) in cases.iter().enumerate() {
        let since = if case.since == 0 { String::new() } else { format!("{}+ ", case.since) };
        // Writing to a String cannot fail, here and below.
        _ = writeln!(file, "{}{since}{}", case.heading, case.sql);
        let mut before: Option<&Vec<String>> = None;
        for (version, answers) in told {
            let Some(answer) = &answers[index] else { continue };
            let prefix = before.map_or_else(String::new, |_| format!("{version}: "));
            if before != Some(answer) {
                for line in answer {
                    _ = writeln!(file, "    {prefix}{line}");
                }
                if answer.is_empty() {
                    _ = writeln!(file, "    {prefix}{NOTHING}");
                }
            }
            before = Some(answer);
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fingerprint/changes.txt");
    std::fs::write(path, file).expect("the file of changes");
}
