//! Migrations that are programs: named like their neighbours, and not SQL. They are told, and left out.

use fulldress_reports::roundtrip::Note;

use super::History;
use super::folder::{Folder, number};

/// Endings of the languages that migration tools take beside SQL.
const LANGUAGES: [&str; 13] =
    ["go", "py", "rb", "js", "mjs", "cjs", "ts", "java", "kt", "rs", "php", "exs", "sh"];

pub(super) fn left_out(folder: &Folder, history: &mut History) {
    for path in &folder.files {
        let name = path.rsplit('/').next().unwrap_or(path);
        let Some((stem, ending)) = name.rsplit_once('.') else { continue };
        let test = stem.ends_with("_test") || stem.ends_with(".test") || stem.ends_with(".d");
        if !LANGUAGES.contains(&ending) || test || !is_named_like_one(stem) {
            continue;
        }
        let text = "is a migration in code, which only its application can run; left out, the history goes on without it";
        history.notes.push(Note { file: folder.show(path), line: None, text: text.to_owned() });
    }
}

/// `0012_name` or `V12__name`.
fn is_named_like_one(stem: &str) -> bool {
    let versioned = stem.strip_prefix(['V', 'U']).filter(|_| stem.contains("__")).unwrap_or(stem);
    number(versioned).is_some_and(|(_, rest)| rest.starts_with(['_', '-', '.']))
}

#[cfg(test)]
mod tests {
    use super::is_named_like_one;

    #[test]
    fn programs_beside_a_history_are_none_of_it() {
        for (stem, is) in
            [("0012_x", true), ("V12__x", true), ("migrate", false), ("embed", false), ("Version", false)]
        {
            assert_eq!(is_named_like_one(stem), is, "{stem}");
        }
    }
}
