//! Hazards that the text of a file states, for files that nobody has run yet: what the linter squawk has no rule for.
//!
//! Called for the SQL of a package and of a trace. Rules see the words of one statement and what its transaction did
//! before; a table that the file itself makes is nobody else's.

use super::{has, words};
use crate::sql::{Token, line_of, only_sql, split, tokens};

/// A hazard at a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stated {
    /// Counted from 1: the statement's first word.
    pub line: u32,
    /// The hazard's id.
    pub hazard: &'static str,
}

/// What the statements of a file state, in their order.
#[must_use]
pub fn stated(text: &str) -> Vec<Stated> {
    let sql = only_sql(text);
    let mut before = Before::default();
    let mut found = Vec::new();
    for part in split(&sql) {
        let words = words(part);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        // `split` gives slices of the text, so that the distance of their beginnings is an offset.
        let offset = part.as_ptr() as usize - sql.as_ptr() as usize;
        let line = line_of(&sql, offset + part.len() - part.trim_start().len());
        let case = Case { words: &words, before: &before };
        found.extend(
            RULES.iter().filter(|(_, fires)| fires(&case)).map(|(hazard, _)| Stated { line, hazard }),
        );
        before.add(part, &words);
    }
    found
}

/// What the file did before a statement.
#[derive(Default)]
struct Before {
    in_transaction: bool,
    /// Whether the transaction has altered a table that was there before.
    altered: bool,
    /// Constraints that the transaction added NOT VALID.
    not_valid: Vec<String>,
    /// Tables that the file made.
    made: Vec<String>,
    lock_timeout: bool,
    /// Whether the file has looked for an INVALID index, or dropped one.
    looked_for_invalid: bool,
}

impl Before {
    fn add(&mut self, part: &str, words: &[&str]) {
        match words {
            ["BEGIN", ..] | ["START", "TRANSACTION", ..] => self.in_transaction = true,
            ["COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] if !words.contains(&"TO") => {
                self.in_transaction = false;
            }
            ["CREATE", .., _] if words.iter().take(4).any(|word| *word == "TABLE") => {
                let skipped = ["TABLE", "IF", "NOT", "EXISTS"];
                let after = words.iter().skip_while(|word| **word != "TABLE");
                self.made.extend(after.copied().find(|word| !skipped.contains(word)).map(str::to_owned));
            }
            ["SET" | "RESET", ..] if words.contains(&"LOCK_TIMEOUT") => {
                self.lock_timeout = words[0] == "SET" && !sets_none(part);
            }
            _ => {}
        }
        if !self.in_transaction {
            self.altered = false;
            self.not_valid.clear();
        } else if words.starts_with(&["ALTER", "TABLE"]) {
            self.altered |= !words.contains(&"VALIDATE") && !self.names_made(words);
            if has(words, &["NOT", "VALID"]) {
                let names = words.windows(2).filter(|two| two[0] == "CONSTRAINT");
                self.not_valid.extend(names.map(|two| two[1].to_owned()));
            }
        }
        self.looked_for_invalid |= words.contains(&"INDISVALID") || has(words, &["DROP", "INDEX"]);
    }

    fn names_made(&self, words: &[&str]) -> bool {
        self.made.iter().any(|made| words.contains(&made.as_str()))
    }
}

/// Whether a SET gives no limit: 0 in any unit, or the default.
fn sets_none(part: &str) -> bool {
    let last = tokens(part).filter(|(token, _)| !matches!(token, Token::Space | Token::Comment)).last();
    last.is_some_and(|(_, at)| {
        let value = part[at..].trim().trim_matches('\'');
        let number = value.trim_end_matches(|letter: char| letter.is_ascii_alphabetic() || letter == ' ');
        value.eq_ignore_ascii_case("default") || number.parse() == Ok(0)
    })
}

struct Case<'a> {
    words: &'a [&'a str],
    before: &'a Before,
}

type Rule = (&'static str, fn(&Case<'_>) -> bool);

const RULES: &[Rule] = &[
    ("refresh-blocks-readers", |case| case.verb("REFRESH") && !case.word("CONCURRENTLY")),
    ("explicit-table-lock", |case| case.verb("LOCK") && case.locks_writers() && !case.own()),
    ("partition-created-in-place", |case| {
        case.verb("CREATE") && case.has(&["PARTITION", "OF"]) && !case.own()
    }),
    ("truncate-blocks", |case| case.verb("TRUNCATE") && !case.own()),
    ("exclusion-constraint", |case| {
        case.alters_table() && case.word("ADD") && case.word("EXCLUDE") && !case.own()
    }),
    ("maintenance-rewrites", |case| {
        let storage: [&[&str]; 4] =
            [&["SET", "LOGGED"], &["SET", "UNLOGGED"], &["SET", "TABLESPACE"], &["SET", "ACCESS", "METHOD"]];
        let tidies = case.verb("CLUSTER") || case.verb("VACUUM") && case.word("FULL") && !case.word("FALSE");
        (tidies || case.alters_table() && storage.iter().any(|words| case.has(words))) && !case.own()
    }),
    ("validate-in-same-transaction", |case| {
        case.words.windows(3).any(|three| {
            three[..2] == ["VALIDATE", "CONSTRAINT"]
                && case.before.not_valid.iter().any(|name| name == three[2])
        })
    }),
    ("validate-with-stronger-action", |case| {
        let stronger = ["ADD", "DROP", "SET", "TYPE", "ENABLE", "DISABLE", "OWNER"];
        case.alters_table() && case.word("VALIDATE") && stronger.iter().any(|word| case.word(word))
    }),
    ("backfill-unbatched", |case| {
        (case.verb("UPDATE") || case.has(&["DELETE", "FROM"]) && case.verb("DELETE"))
            && !case.word("WHERE")
            && !case.own()
    }),
    ("backfill-under-exclusive-lock", |case| {
        case.before.altered && ["UPDATE", "DELETE", "INSERT", "MERGE"].iter().any(|verb| case.verb(verb))
    }),
    ("index-if-not-exists", |case| {
        case.verb("CREATE")
            && case.has(&["INDEX", "CONCURRENTLY", "IF", "NOT", "EXISTS"])
            && !case.before.looked_for_invalid
    }),
    ("concurrently-under-lock-timeout", |case| {
        case.before.lock_timeout
            && case.word("CONCURRENTLY")
            && (case.word("INDEX") || case.word("DETACH") || case.verb("REINDEX"))
    }),
];

impl Case<'_> {
    fn verb(&self, verb: &str) -> bool {
        self.words.first() == Some(&verb)
    }

    fn word(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn has(&self, wanted: &[&str]) -> bool {
        has(self.words, wanted)
    }

    fn alters_table(&self) -> bool {
        self.words.starts_with(&["ALTER", "TABLE"])
    }

    /// Whether it names a table that the file made.
    fn own(&self) -> bool {
        self.before.names_made(self.words)
    }

    /// Whether LOCK TABLE takes a mode that blocks writes; without a mode it takes the strongest.
    fn locks_writers(&self) -> bool {
        let weak = [&["IN", "ACCESS", "SHARE"][..], &["IN", "ROW"], &["IN", "SHARE", "UPDATE"]];
        !weak.iter().any(|words| self.has(words))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shown, all, find};
    use super::{RULES, stated};

    /// Firing on the bad example of its record, silent on the good one.
    #[test]
    fn every_rule_fires_on_the_bad_example_and_not_on_the_good_one() {
        for (id, _) in RULES {
            let hazard = find(id).unwrap();
            assert_eq!(hazard.shown, Shown::Trace);
            let states = |sql| stated(sql).iter().any(|stated| stated.hazard == *id);
            assert!(states(hazard.bad), "{id}: {}", hazard.bad);
            assert!(!states(hazard.good), "{id}: {}", hazard.good);
        }
    }

    #[test]
    fn lines_are_those_of_the_statements_first_words() {
        let text = "-- first\n\\set x\nSET lock_timeout = '2s';\n\n/* b */ CREATE INDEX CONCURRENTLY i ON t (x);\nREFRESH MATERIALIZED VIEW m;";
        let found: Vec<(u32, &str)> = stated(text).iter().map(|one| (one.line, one.hazard)).collect();
        assert_eq!(found, [(5, "concurrently-under-lock-timeout"), (6, "refresh-blocks-readers")]);
    }

    #[test]
    fn what_is_the_files_own_or_guarded_is_silent() {
        for text in [
            "CREATE TABLE a (x int); UPDATE a SET x = 1; TRUNCATE a; LOCK TABLE a;",
            "LOCK TABLE a IN ROW EXCLUSIVE MODE",
            "SET lock_timeout = '0s'; CREATE INDEX CONCURRENTLY i ON t (x)",
            "SET lock_timeout = '2s'; RESET lock_timeout; CREATE INDEX CONCURRENTLY i ON t (x)",
            "SELECT 1 FROM pg_index WHERE NOT indisvalid; CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (x)",
            "VACUUM (FULL false) t",
            "DO $$ BEGIN UPDATE t SET x = 1; END $$",
        ] {
            assert_eq!(stated(text), [], "{text}");
        }
        assert_eq!(stated("LOCK TABLE a IN SHARE ROW EXCLUSIVE MODE").len(), 1);
        assert!(all().count() > 48);
    }
}
