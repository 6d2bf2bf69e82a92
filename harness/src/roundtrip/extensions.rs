//! Extensions that a script names: those that only a superuser may make are made by us, those that are not installed are
//! left out, and either is told.
//!
//! Called by [`super::ground`] before a script runs. An extension that its owner may make stays with the script.

use std::collections::BTreeMap;

use fulldress_reports::roundtrip::Note;
use fulldress_reports::sql::{Token, split, tokens};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::history::Script;
use crate::trace::OWNER;

/// The extensions of this machine: whether the owner of a database may make it.
pub(super) struct Extensions {
    open: BTreeMap<String, bool>,
    superuser: bool,
}

/// A script without what was done for it or left out of it.
pub(super) struct Prepared {
    pub(super) script: Script,
    pub(super) notes: Vec<Note>,
    /// Whether something was made.
    pub(super) created: bool,
}

/// What a statement does to an extension.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    verb: Verb,
    extension: String,
    /// IF EXISTS or IF NOT EXISTS.
    lenient: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verb {
    Create,
    Other,
}

impl Extensions {
    pub(super) async fn read(admin: &mut PgConnection, superuser: bool) -> Result<Self, sqlx::Error> {
        let rows: Vec<(String, bool)> = sqlx::query_as(
            "SELECT name::text, bool_and(trusted OR NOT superuser) FROM pg_catalog.pg_available_extension_versions GROUP BY 1",
        )
        .fetch_all(admin)
        .await?;
        Ok(Self { open: rows.into_iter().collect(), superuser })
    }

    /// Whether a script names an extension that needs us.
    pub(super) fn concern(&self, script: &Script) -> bool {
        script
            .parts
            .iter()
            .flat_map(|part| split(&part.sql))
            .filter_map(named)
            .any(|named| self.needs_us(&named))
    }

    fn needs_us(&self, named: &Named) -> bool {
        match (self.open.get(&named.extension), &named.verb) {
            (None, Verb::Create) => true,
            (None, Verb::Other) => !named.lenient,
            (Some(open), Verb::Create) => !open && !self.superuser,
            (Some(_), Verb::Other) => false,
        }
    }

    /// Does what the script cannot; gives nothing where the server would not let us either.
    pub(super) async fn prepare(&self, probe: &mut PgConnection, script: &Script) -> Option<Prepared> {
        let mut prepared = Prepared { script: script.clone(), notes: Vec::new(), created: false };
        let mut changed = false;
        for index in 0..script.parts.len() {
            let part = &script.parts[index];
            for statement in split(&part.sql) {
                let Some(named) = named(statement).filter(|named| self.needs_us(named)) else { continue };
                let Named { extension, .. } = &named;
                let said = if !self.open.contains_key(extension) {
                    format!(
                        "the extension {extension} is not installed on this machine; the statement was left out, and \
                         what needs it will fail until it is installed"
                    )
                } else if self.make(probe, statement, extension).await {
                    prepared.created = true;
                    format!("only a superuser may make the extension {extension}; it was made for the script")
                } else {
                    continue;
                };
                changed = true;
                // `split` gives slices of the text, so that the distance of their beginnings is an offset.
                let start = statement.as_ptr() as usize - part.sql.as_ptr() as usize;
                let first = tokens(statement)
                    .find(|(token, _)| !matches!(token, Token::Comment | Token::Space))
                    .map_or(0, |(_, at)| at);
                let line = Some(part.line_at(start + first));
                prepared.notes.push(Note { file: script.file.clone(), line, text: said });
                let blank: String =
                    statement.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
                prepared.script.parts[index].sql.replace_range(start..start + statement.len(), &blank);
            }
        }
        changed.then_some(prepared)
    }

    /// Makes an extension, and gives it to the owner, who may then drop it.
    async fn make(&self, probe: &mut PgConnection, statement: &str, extension: &str) -> bool {
        let installed =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = $1)");
        let installed: Result<bool, _> =
            installed.bind(extension).persistent(false).fetch_one(&mut *probe).await;
        if !matches!(installed, Ok(false)) {
            return false;
        }
        let give = "UPDATE pg_catalog.pg_extension SET extowner = $1::text::regrole WHERE extname = $2";
        probe.execute(AssertSqlSafe(statement)).await.is_ok()
            && sqlx::query(give)
                .bind(OWNER)
                .bind(extension)
                .persistent(false)
                .execute(&mut *probe)
                .await
                .is_ok()
    }
}

fn named(statement: &str) -> Option<Named> {
    let mut words = tokens(statement).filter_map(|(token, _)| match token {
        Token::Word(word) => Some(word),
        _ => None,
    });
    let verb = match words.next()?.to_ascii_uppercase().as_str() {
        "CREATE" => Verb::Create,
        "DROP" | "ALTER" => Verb::Other,
        "COMMENT" if words.next()?.eq_ignore_ascii_case("ON") => Verb::Other,
        _ => return None,
    };
    if !words.next()?.eq_ignore_ascii_case("EXTENSION") {
        return None;
    }
    let mut name = words.next()?;
    let lenient = name.eq_ignore_ascii_case("IF");
    if lenient {
        name =
            words.find(|word| !["NOT", "EXISTS"].iter().any(|skipped| word.eq_ignore_ascii_case(skipped)))?;
    }
    let extension = match name.strip_prefix('"') {
        Some(quoted) => quoted.trim_end_matches('"').replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    Some(Named { verb, extension, lenient })
}

#[cfg(test)]
mod tests {
    use super::{Named, Verb, named};

    #[test]
    fn extensions_are_named() {
        for (sql, verb, extension, lenient) in [
            (
                "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\" WITH SCHEMA public",
                Verb::Create,
                "uuid-ossp",
                true,
            ),
            ("create extension Hstore", Verb::Create, "hstore", false),
            ("DROP EXTENSION IF EXISTS citext CASCADE", Verb::Other, "citext", true),
            ("COMMENT ON EXTENSION plpgsql IS 'x'", Verb::Other, "plpgsql", false),
        ] {
            let expected = Named { verb, extension: extension.to_owned(), lenient };
            assert_eq!(named(sql), Some(expected), "{sql}");
        }
        assert_eq!(named("CREATE TABLE extension ()"), None);
    }
}
