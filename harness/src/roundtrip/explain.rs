//! What would help a script that the server refused: a newer server, a role, a superuser.
//!
//! Called by [`super::staircase`]. Says nothing where nothing general helps.

use fulldress_reports::sql::{Token, tokens};

use super::session::Refusal;
use crate::history::Script;

/// Words that only servers from a version on understand: `sql` names them in capitals, as they follow each other.
const NEWER: [(u32, &str); 14] = [
    (15, "NULLS NOT DISTINCT"),
    (15, "MERGE INTO"),
    (15, "SECURITY_INVOKER"),
    (16, "ANY_VALUE"),
    (16, "RANDOM_NORMAL"),
    (16, "JSON_ARRAYAGG"),
    (16, "JSON_OBJECTAGG"),
    (17, "JSON_TABLE"),
    (17, "JSON_EXISTS"),
    (17, "TRANSACTION_TIMEOUT"),
    (18, "UUIDV7"),
    (18, "VIRTUAL"),
    (18, "WITHOUT OVERLAPS"),
    (18, "NOT ENFORCED"),
];

/// A sentence, where one helps.
pub(super) fn hint(refusal: &Refusal, script: &Script, version_number: i32) -> Option<String> {
    let has = u32::try_from(version_number / 10_000).unwrap_or(0);
    match refusal.sqlstate.as_deref()? {
        // Syntax, an unknown column, function, object or setting, a feature that is not there.
        "42601" | "42703" | "42883" | "42704" | "22023" | "0A000" => newer(script, has).or_else(|| {
            let role = refusal.what.starts_with("role ");
            role.then(|| "make the role in a file that --setup names".to_owned())
        }),
        "42501" => Some(
            "if it needs a superuser, --superuser runs the history as one, who can also run programs on this machine"
                .to_owned(),
        ),
        "3F000" | "42P01" => Some("if something else makes it first, name that with --setup".to_owned()),
        _ => None,
    }
}

fn newer(script: &Script, has: u32) -> Option<String> {
    let words: Vec<String> = script
        .parts
        .iter()
        .flat_map(|part| tokens(&part.sql))
        .filter_map(|(token, _)| match token {
            Token::Word(word) => Some(word.to_uppercase()),
            _ => None,
        })
        .collect();
    let (version, named) = NEWER.iter().filter(|(version, _)| *version > has).find(|(_, named)| {
        let wanted: Vec<&str> = named.split(' ').collect();
        words
            .windows(wanted.len())
            .any(|window| window.iter().zip(&wanted).all(|(word, wanted)| word == wanted))
    })?;
    let shown = named.to_lowercase();
    Some(format!("{shown} needs PostgreSQL {version}, and this is {has}: run it with --postgres {version}"))
}

#[cfg(test)]
mod tests {
    use super::{Refusal, hint};
    use crate::history::{Part, Script};

    #[test]
    fn a_newer_server_is_asked_for_where_the_text_needs_one() {
        let script = |sql: &str| Script {
            file: "a.sql".to_owned(),
            transaction: true,
            parts: vec![Part { line: 1, sql: sql.to_owned() }],
            problem: None,
            notes: Vec::new(),
        };
        let refusal = Refusal { line: 1, sqlstate: Some("42883".to_owned()), what: "function".to_owned() };
        let said = hint(&refusal, &script("create table t (id uuid default uuidv7())"), 150_014).unwrap();
        assert!(said.contains("uuidv7 needs PostgreSQL 18, and this is 15"), "{said}");
        assert_eq!(hint(&refusal, &script("create table t (id uuid default uuidv7())"), 180_001), None);
        assert_eq!(hint(&refusal, &script("select f('uuidv7')"), 150_014), None);
    }
}
