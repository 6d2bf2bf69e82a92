//! Hazards that SQL states before anybody has run it: the linter squawk where it has a rule, our own where it has none.
//!
//! Called by preflight for the SQL of a package and by the tracer for statements that did not run. What squawk is given can
//! come from a stranger: it reads with a stack of its own, and long statements are kept from it.

use std::collections::BTreeSet;

use fulldress_reports::hazard::{self, Hazard};
use fulldress_reports::sql::{Token, line_of, only_sql, split, tokens};
use squawk_linter::{Linter, Rule};
use squawk_syntax::SourceFile;

/// Longest statement that squawk is given, in tokens: its reader goes one level deeper for each bracket.
const TOKENS_MAX: usize = 10_000;
/// Enough for as many levels, several times over; only what is used becomes memory.
const STACK_BYTES: usize = 512 << 20;
/// Rules whose findings a file cannot decide: a limit is needed only where work grows with the table, and the statement
/// does not say so.
const UNDECIDED: [&str; 1] = ["require-statement-timeout"];

/// The rule on lock_timeout.
const LOCK_TIMEOUT: &str = "require-lock-timeout";

/// A hazard at a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Counted from 1.
    pub line: u32,
    /// Its record.
    pub hazard: &'static Hazard,
}

/// What was found in a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// By line; each hazard once a line.
    pub found: Vec<Found>,
    /// What could not be read: line and why.
    pub unread: Unread,
}

/// Lines, and what could not be read there.
type Unread = Vec<(u32, String)>;
/// Lines, and the rules that speak there.
type Said = Vec<(u32, &'static str)>;

/// Reads a file of SQL, which may have commands of psql.
#[must_use]
pub fn lint(text: &str) -> Findings {
    let sql = only_sql(text);
    let (mut said, unread) = squawk(&sql);
    // It asks a lock_timeout of CONCURRENTLY as well, which does harm there, and names the first statement alone: so it is
    // asked for the others by themselves.
    let (blocking, _) =
        without(&sql, |part| words(part).any(|word| word.eq_ignore_ascii_case("concurrently")));
    said.retain(|(_, rule)| *rule != LOCK_TIMEOUT);
    said.extend(squawk(&blocking).0.into_iter().filter(|(_, rule)| *rule == LOCK_TIMEOUT));
    let mut lines: BTreeSet<(u32, &str)> =
        hazard::stated(text).into_iter().map(|stated| (stated.line, stated.hazard)).collect();
    for (line, rule) in said {
        if !UNDECIDED.contains(&rule)
            && let Some(hazard) = hazard::all().find(|hazard| hazard.squawk.contains(&rule))
        {
            lines.insert((line, hazard.id));
        }
    }
    // squawk asks NOT VALID of a foreign key by two rules, one of which is CHECK's as well.
    let doubled: Vec<u32> =
        lines.iter().filter(|(_, id)| *id == "foreign-key-validates").map(|(line, _)| *line).collect();
    lines.retain(|(line, id)| *id != "check-validates" || !doubled.contains(line));
    let found = lines.into_iter().filter_map(|(line, id)| Some(Found { line, hazard: hazard::find(id)? }));
    Findings { found: found.collect(), unread }
}

/// The rules of squawk, of those that our records name, that name something in a text.
#[must_use]
pub fn rules_that_speak(text: &str) -> BTreeSet<&'static str> {
    squawk(&only_sql(text)).0.into_iter().map(|(_, rule)| rule).collect()
}

/// Lines and rules, and what could not be read.
fn squawk(sql: &str) -> (Said, Unread) {
    let (sql, mut unread) = without_long_statements(sql);
    let read = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("squawk".to_owned()).stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, || speak(&sql)).ok()?.join().ok()
    });
    let Some((said, errors)) = read else {
        unread.push((1, "squawk failed at it".to_owned()));
        return (Vec::new(), unread);
    };
    // What follows a first error follows from it.
    unread.extend(errors.into_iter().take(1));
    (said, unread)
}

fn speak(sql: &str) -> (Said, Unread) {
    let file = SourceFile::parse(sql);
    let errors = file.errors();
    let errors = errors.iter().map(|error| {
        (line_of(sql, error.range().start().into()), format!("squawk cannot read it: {}", error.message()))
    });
    let errors = errors.collect();
    let rules: Vec<(Rule, &'static str)> = hazard::all()
        .flat_map(|hazard| hazard.squawk)
        .filter_map(|name| Some((name.parse().ok()?, *name)))
        .collect();
    let mut linter = Linter::from(rules.iter().map(|(rule, _)| *rule));
    let violations = linter.lint(&file, sql);
    let said = violations.iter().filter_map(|violation| {
        let (_, name) = rules.iter().find(|(rule, _)| *rule == violation.code)?;
        Some((line_of(sql, violation.text_range.start().into()), *name))
    });
    (said.collect(), errors)
}

/// The text with blanks for statements that are too long.
fn without_long_statements(sql: &str) -> (String, Unread) {
    let (kept, left_out) =
        without(sql, |part| tokens(part).filter(|(token, _)| *token != Token::Space).count() > TOKENS_MAX);
    let why = |line| (line, format!("longer than {TOKENS_MAX} tokens: squawk was not asked"));
    (kept, left_out.into_iter().map(why).collect())
}

/// The text with blanks for some of its statements, and the lines of these.
fn without(sql: &str, left_out: impl Fn(&str) -> bool) -> (String, Vec<u32>) {
    let mut kept = sql.to_owned();
    let mut lines = Vec::new();
    for part in split(sql).into_iter().filter(|part| left_out(part)) {
        // `split` gives slices of the text, so that the distance of their beginnings is an offset.
        let start = part.as_ptr() as usize - sql.as_ptr() as usize;
        lines.push(line_of(sql, start + part.len() - part.trim_start().len()));
        let blank: String = part.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
        kept.replace_range(start..start + part.len(), &blank);
    }
    (kept, lines)
}

fn words(part: &str) -> impl Iterator<Item = &str> {
    tokens(part).filter_map(|(token, _)| match token {
        Token::Word(word) => Some(word),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use fulldress_reports::hazard::{self, Shown};

    use super::{lint, rules_that_speak};

    fn found(text: &str) -> Vec<(u32, &'static str)> {
        lint(text).found.iter().map(|found| (found.line, found.hazard.id)).collect()
    }

    #[test]
    fn every_rule_that_a_record_names_is_one_of_squawks() {
        for rule in hazard::all().flat_map(|hazard| hazard.squawk) {
            assert!(rule.parse::<squawk_linter::Rule>().is_ok(), "{rule}");
        }
    }

    /// Each rule that a record names speaks about the bad example of one of the records that name it.
    #[test]
    fn squawk_speaks_about_bad_examples() {
        let rules: std::collections::BTreeSet<&str> =
            hazard::all().flat_map(|hazard| hazard.squawk).copied().collect();
        for rule in rules {
            let mut named =
                hazard::all().filter(|hazard| hazard.squawk.contains(&rule) && hazard.shown == Shown::Trace);
            assert!(named.any(|hazard| rules_that_speak(hazard.bad).contains(rule)), "{rule}");
        }
    }

    #[test]
    fn lines_are_those_of_the_file_and_ignoring_comments_are_ignored() {
        let text = "SET lock_timeout = '1s';\n\\echo it's\n\n-- squawk-ignore require-concurrent-index-creation\n\
                    CREATE INDEX IF NOT EXISTS i ON t (x);\nUPDATE t SET x = 1;\n";
        assert_eq!(found(text), [(5, "index-build-blocks-writes"), (6, "backfill-unbatched")]);
        let key = "SET lock_timeout = '1s'; BEGIN; ALTER TABLE a ADD CONSTRAINT b FOREIGN KEY (c) REFERENCES d (e); COMMIT;";
        assert_eq!(found(key), [(1, "foreign-key-validates")]);
    }

    #[test]
    fn a_lock_timeout_is_asked_for_where_it_does_good() {
        let text =
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (x);\nALTER TABLE t DROP COLUMN IF EXISTS a;";
        assert_eq!(found(text), [(1, "index-if-not-exists"), (2, "no-lock-timeout")]);
    }

    #[test]
    fn harmless_sql_is_silent() {
        for text in [
            "SET lock_timeout = '200ms';\nALTER TABLE orders ADD COLUMN IF NOT EXISTS channel text NOT NULL DEFAULT 'web';",
            "SELECT 1;",
            "CREATE TABLE IF NOT EXISTS a (id bigint PRIMARY KEY);",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn deep_and_broken_sql_ends_well() {
        for deep in ["(", "not ", "case when ", "- "] {
            let sql = |times| format!("SET lock_timeout = 1; select {}1;\nTRUNCATE t;", deep.repeat(times));
            let sql_deep = sql(super::TOKENS_MAX / 3);
            assert!(found(&sql_deep).contains(&(2, "truncate-blocks")));
            let findings = lint(&sql(super::TOKENS_MAX * 10));
            assert!(findings.unread[0].1.contains("longer than"), "{:?}", findings.unread);
            assert_eq!(findings.found.len(), 1);
        }
        assert!(!lint("ALTER TABLE (;").unread.is_empty());
    }
}
