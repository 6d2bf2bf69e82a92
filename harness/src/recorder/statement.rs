//! Statements as text: literals taken out, scripts taken apart, places found in the package's files.

use std::collections::BTreeMap;

use fulldress_reports::finding::Place;
use fulldress_reports::sql::{Token, tokens};

/// A statement without literals and comments, whitespace collapsed, cut to `limit` characters.
/// Identifiers stay. The body of a dollar quote is treated as SQL, so that a DO block remains readable.
#[must_use]
pub fn normalise(text: &str, limit: usize) -> String {
    let mut out = String::new();
    let mut gap = false;
    for (token, _) in tokens(text) {
        let piece = match token {
            Token::Comment | Token::Space => {
                gap = !out.is_empty();
                continue;
            }
            Token::Literal | Token::Number => "?",
            Token::Word(text) | Token::Symbol(text) => text,
        };
        if gap {
            out.push(' ');
            gap = false;
        }
        out.push_str(piece);
    }
    let trimmed = out.trim_end_matches([';', ' ']);
    trimmed.chars().take(limit).collect()
}

/// The first words of a statement in capitals, comments skipped.
#[must_use]
pub fn first_words(text: &str, count: usize) -> Vec<String> {
    let words = tokens(text).filter_map(|(token, _)| match token {
        Token::Word(word) => Some(word.to_uppercase()),
        _ => None,
    });
    words.take(count).collect()
}

/// Whether a statement names a relation, with or without its schema.
#[must_use]
pub fn mentions(text: &str, relation: &str) -> bool {
    let bare = relation.rsplit('.').next().unwrap_or(relation).trim_matches('"');
    tokens(text).any(|(token, _)| match token {
        Token::Word(word) => word.trim_matches('"').eq_ignore_ascii_case(bare),
        _ => false,
    })
}

/// Whether a statement changes the schema, and whether event triggers fire for it.
#[must_use]
pub fn schema_change(text: &str) -> Option<SchemaChange> {
    let words = first_words(text, 3);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let shared = ["ROLE", "USER", "GROUP", "DATABASE", "TABLESPACE", "SYSTEM", "EVENT"];
    match words.as_slice() {
        ["CREATE" | "ALTER" | "DROP", object, ..] if shared.contains(object) => None,
        ["CREATE" | "ALTER" | "DROP" | "COMMENT" | "REFRESH" | "SECURITY" | "IMPORT", ..] => {
            Some(SchemaChange::Triggering)
        }
        ["TRUNCATE" | "CLUSTER" | "REINDEX", ..] | ["VACUUM", "FULL", ..] => Some(SchemaChange::Silent),
        _ => None,
    }
}

/// How a schema change shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaChange {
    /// Event triggers fire for it.
    Triggering,
    /// No event trigger fires for it: TRUNCATE, CLUSTER, REINDEX, VACUUM FULL.
    Silent,
}

/// Whether a statement only opens, closes or configures a transaction or session.
#[must_use]
pub fn is_control(text: &str) -> bool {
    let control = [
        "BEGIN",
        "START",
        "COMMIT",
        "END",
        "ROLLBACK",
        "ABORT",
        "SAVEPOINT",
        "RELEASE",
        "SET",
        "RESET",
        "SHOW",
        "DISCARD",
        "DEALLOCATE",
        "LISTEN",
        "UNLISTEN",
    ];
    first_words(text, 1).first().is_some_and(|word| control.contains(&word.as_str()))
}

/// The package's files, prepared for finding statements in them.
#[derive(Debug, Default)]
pub struct PackageFiles {
    files: Vec<(String, Collapsed)>,
}

impl PackageFiles {
    /// Prepares files given as path and text.
    #[must_use]
    pub fn new(files: &BTreeMap<String, String>) -> Self {
        Self { files: files.iter().map(|(path, text)| (path.clone(), Collapsed::new(text))).collect() }
    }

    /// Where a statement stands, whatever the whitespace and the case; the first place of several.
    #[must_use]
    pub fn find(&self, statement: &str) -> Option<Place> {
        let needle = Collapsed::new(strip_leading_comments(statement)).text;
        let needle = needle.trim_end_matches([';', ' ']);
        if needle.is_empty() {
            return None;
        }
        self.files.iter().find_map(|(path, haystack)| {
            let at = haystack.text.find(needle)?;
            Some(Place { file: path.clone(), line: Some(haystack.line(at)) })
        })
    }
}

/// Text in lower case with single spaces, and the line on which each word began.
#[derive(Debug, Default)]
struct Collapsed {
    text: String,
    /// Offset in `text` of the first byte of each source line that has any, with that line's number.
    lines: Vec<(usize, u32)>,
}

impl Collapsed {
    fn new(source: &str) -> Self {
        let mut collapsed = Self::default();
        for (index, line) in source.lines().enumerate() {
            let mut first = true;
            for word in line.split_whitespace() {
                if !collapsed.text.is_empty() {
                    collapsed.text.push(' ');
                }
                if first {
                    collapsed
                        .lines
                        .push((collapsed.text.len(), u32::try_from(index + 1).unwrap_or(u32::MAX)));
                    first = false;
                }
                collapsed.text.push_str(&word.to_lowercase());
            }
        }
        collapsed
    }

    fn line(&self, offset: usize) -> u32 {
        let after = self.lines.partition_point(|(start, _)| *start <= offset);
        self.lines.get(after.saturating_sub(1)).map_or(1, |(_, line)| *line)
    }
}

fn strip_leading_comments(text: &str) -> &str {
    let first = tokens(text).find(|(token, _)| !matches!(token, Token::Comment | Token::Space));
    first.map_or("", |(_, at)| &text[at..])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{PackageFiles, SchemaChange, first_words, mentions, normalise, schema_change};

    #[test]
    fn literals_go_and_identifiers_stay() {
        for (statement, expected) in [
            (
                "UPDATE  t1 SET a='x''y', b = 12.5\n WHERE \"Key 1\"= $1;",
                "UPDATE t1 SET a=?, b = ? WHERE \"Key 1\"= $?",
            ),
            ("ALTER ROLE r PASSWORD E'se\\'cret' -- why", "ALTER ROLE r PASSWORD ?"),
            ("DO $b$ BEGIN EXECUTE 'alter'; /* no */ END $b$", "DO $b$ BEGIN EXECUTE ?; END $b$"),
            ("select 1e5, col2", "select ?, col2"),
            ("select 'never closed", "select ?"),
        ] {
            assert_eq!(normalise(statement, 400), expected);
        }
        assert_eq!(normalise("select äöü", 8), "select ä");
    }

    #[test]
    fn statements_name_relations_with_or_without_schema() {
        assert!(mentions("alter table ONLY Orders add x int", "public.orders"));
        assert!(mentions("alter table public.\"orders\" add x int", "public.orders"));
        assert!(!mentions("alter table orders2 add x int", "public.orders"));
        assert!(!mentions("select 'orders'", "public.orders"));
    }

    #[test]
    fn schema_changes_are_told_from_the_rest() {
        for (statement, expected) in [
            ("-- c\nALTER TABLE t ADD x int", Some(SchemaChange::Triggering)),
            ("create index concurrently i on t(x)", Some(SchemaChange::Triggering)),
            ("truncate t", Some(SchemaChange::Silent)),
            ("vacuum full t", Some(SchemaChange::Silent)),
            ("vacuum t", None),
            ("alter role x set a = 1", None),
            ("update t set x = 1", None),
        ] {
            assert_eq!(schema_change(statement), expected, "{statement}");
        }
        assert_eq!(first_words("/* x */ alter -- y\n table", 2), ["ALTER", "TABLE"]);
    }

    #[test]
    fn a_statement_is_found_in_its_file_whatever_the_whitespace() {
        let files = BTreeMap::from([
            (
                "a.sh".to_owned(),
                "#!/bin/sh\n# don't\npsql <<SQL\nBEGIN;\n\nalter TABLE t\n    ADD x int;\nSQL\n".to_owned(),
            ),
            ("b.sql".to_owned(), "SELECT 1;\n".to_owned()),
        ]);
        let files = PackageFiles::new(&files);
        let found = |statement| files.find(statement).map(|place| place.to_string());
        assert_eq!(found("ALTER TABLE t ADD x int").as_deref(), Some("a.sh:6"));
        assert_eq!(found("-- first\n  select 1;").as_deref(), Some("b.sql:1"));
        assert_eq!(found("select 2"), None);
        assert_eq!(found(" ; "), None);
    }
}
