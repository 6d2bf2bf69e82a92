//! Which hazards a traced statement showed: a rule per id over what was measured, the statement's words, and what the
//! script did before.
//!
//! Called by the tracer once a script has run; notes the ids in each statement.

use super::{has, words};
use crate::check::CheckId;
use crate::figures::milliseconds;
use crate::lock::LockMode;
use crate::trace::{Script, Statement, Transactions};

/// Statements that only say how others run.
const CONTROL: [&str; 11] =
    ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "SET", "RESET", "SHOW"];
/// Errors of making what is there: table, column, object, schema, function.
const DUPLICATE: [&str; 5] = ["42P07", "42701", "42710", "42P06", "42723"];
/// What is changed in the catalog alone.
const CATALOG_ONLY: [&str; 8] =
    ["TRIGGER", "RULE", "POLICY", "SECURITY", "OWNER", "RENAME", "REPLICA", "STORAGE"];

/// Notes in each statement of the scripts the hazards that it showed. Where they are `connected`, each ran on what the
/// ones before it left, and may undo what those did.
pub fn annotate(scripts: &mut [Script], connected: bool) {
    let mut said = Vec::new();
    for script in scripts {
        let before = if connected { said } else { Vec::new() };
        said = annotate_one(script, before);
    }
}

/// Gives the words of what was said before back, with the script's own.
fn annotate_one(script: &mut Script, said: Vec<Vec<String>>) -> Vec<Vec<String>> {
    let mut earlier = Earlier { open: script.transactions == Transactions::File, said, ..Earlier::default() };
    let mut begun = None;
    for (index, statement) in script.statements.iter_mut().enumerate() {
        let words = words(&statement.sql);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let begins = matches!(words.as_slice(), ["BEGIN", ..] | ["START", "TRANSACTION", ..]);
        let found = Case { statement: &certain(statement), words: &words, earlier: &earlier }.hazards();
        statement.hazards = found.into_iter().map(str::to_owned).collect();
        earlier.transaction(&words);
        earlier.add(&certain(statement), &words);
        if begins {
            begun = Some(index);
        }
    }
    // A file that is one transaction is ended by whoever runs it.
    if script.transactions == Transactions::Own
        && earlier.open
        && let Some(statement) = begun.and_then(|index| script.statements.get_mut(index))
    {
        statement.hazards.push("transaction-left-open".to_owned());
    }
    earlier.said
}

/// The statement without what was seen by chance: one that fails lets its locks go before anybody can read all of them.
fn certain(statement: &Statement) -> Statement {
    let mut certain = statement.clone();
    if certain.error.is_some() {
        certain.locks.clear();
    }
    certain
}

/// What earlier statements of the script did.
#[derive(Default)]
struct Earlier {
    /// Whether a transaction of more than one statement is open.
    open: bool,
    /// Tables that it holds under ACCESS EXCLUSIVE.
    exclusive: Vec<String>,
    /// Relations that it holds under a lock that blocks their writers.
    blocked: Vec<String>,
    /// Its savepoints with the lengths of the two lists.
    savepoints: Vec<(String, usize, usize)>,
    /// Tables that the script has worked through under a lock.
    worked: Vec<String>,
    /// Tables that an ALTER TABLE has closed, and none validated since.
    altered: Vec<String>,
    /// The words of every statement that the server took.
    said: Vec<Vec<String>>,
}

impl Earlier {
    fn transaction(&mut self, words: &[&str]) {
        match words {
            ["BEGIN", ..] | ["START", "TRANSACTION", ..] => self.open = true,
            ["SAVEPOINT", name, ..] => {
                self.savepoints.push(((*name).to_owned(), self.exclusive.len(), self.blocked.len()));
            }
            ["RELEASE", .., name] => {
                if let Some(at) = self.savepoint(name) {
                    self.savepoints.truncate(at);
                }
            }
            ["ROLLBACK" | "ABORT", .., name] if words.contains(&"TO") => {
                if let Some(at) = self.savepoint(name) {
                    let (_, exclusive, blocked) = self.savepoints[at];
                    self.exclusive.truncate(exclusive);
                    self.blocked.truncate(blocked);
                    self.savepoints.truncate(at + 1);
                }
            }
            ["COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] => self.open = false,
            _ => {}
        }
        if !self.open {
            self.exclusive.clear();
            self.blocked.clear();
            self.savepoints.clear();
        }
    }

    fn savepoint(&self, name: &str) -> Option<usize> {
        self.savepoints.iter().rposition(|(known, ..)| known == name)
    }

    fn add(&mut self, statement: &Statement, words: &[&str]) {
        self.worked.extend(works_on(statement).map(str::to_owned));
        let closed = || tables(statement, LockMode::AccessExclusiveLock).map(str::to_owned);
        if words.contains(&"VALIDATE") {
            self.altered.retain(|table| !statement.locks.iter().any(|lock| lock.relation == *table));
        } else if words.starts_with(&["ALTER", "TABLE"]) {
            self.altered.extend(closed());
        }
        if self.open {
            let new: Vec<String> = closed().filter(|table| !self.exclusive.contains(table)).collect();
            self.exclusive.extend(new);
            let blocking = statement.locks.iter().filter(|lock| lock.mode.blocks_clients());
            self.blocked.extend(blocking.map(|lock| lock.relation.clone()));
        }
        if statement.error.is_none() {
            self.said.push(words.iter().map(|word| (*word).to_owned()).collect());
        }
    }

    /// Whether a statement was taken that has all these words.
    fn said(&self, wanted: &[&str]) -> bool {
        self.said.iter().any(|words| wanted.iter().all(|wanted| words.iter().any(|word| word == wanted)))
    }
}

/// Relations that hold rows and are locked in a mode at least this strong.
fn tables(statement: &Statement, at_least: LockMode) -> impl Iterator<Item = &str> {
    statement
        .locks
        .iter()
        .filter(move |lock| lock.mode >= at_least && lock.kind != "index" && lock.kind != "sequence")
        .map(|lock| lock.relation.as_str())
}

/// Tables that it reads or writes from end to end under a lock that blocks their writers.
fn works_on(statement: &Statement) -> impl Iterator<Item = &str> {
    let scanned = statement.scanned.iter().map(|scan| &scan.relation);
    statement
        .rewritten
        .iter()
        .chain(scanned)
        .map(String::as_str)
        .filter(move |relation| blocks(statement, relation))
}

/// Whether it holds a lock on a relation that blocks its writers.
fn blocks(statement: &Statement, relation: &str) -> bool {
    statement.locks.iter().any(|lock| lock.relation == relation && lock.mode.blocks_clients())
}

/// Whether a relation's bare name is among the words.
fn named(words: &[&str], relation: &str) -> bool {
    let bare = relation.rsplit('.').next().unwrap_or(relation).trim_matches('"').to_uppercase();
    words.contains(&bare.as_str())
}

/// A statement with its words and what was before it.
struct Case<'a> {
    statement: &'a Statement,
    words: &'a [&'a str],
    earlier: &'a Earlier,
}

type Rule = (&'static str, fn(&Case<'_>) -> bool);

/// A rule per hazard that a trace shows; `transaction-left-open` is the script's and no statement's.
const RULES: &[Rule] = &[
    ("no-lock-timeout", |case| case.blocking() && case.statement.lock_timeout_ms == 0),
    ("lock-timeout-too-long", |case| {
        let limit = CheckId::LockWait.record().limit;
        case.blocking() && milliseconds(case.statement.lock_timeout_ms.saturating_mul(1000)) > limit
    }),
    ("rewrite", |case| case.rewrites()),
    ("scan-under-lock", |case| {
        case.scans()
            && !case.rewrites()
            && !case.builds_constraint()
            && !case.creates_index()
            && !case.changes_rows()
            && !["REINDEX", "SELECT"].contains(&case.verb())
    }),
    ("index-build-blocks-writes", |case| case.creates_index() && case.blocking()),
    ("index-rebuild-blocks", |case| {
        case.verb() == "REINDEX" && !case.concurrently() && !case.statement.rebuilt.is_empty()
    }),
    ("constraint-builds-index", |case| case.builds_constraint()),
    ("exclusion-constraint", |case| case.builds_constraint() && case.word("EXCLUDE")),
    ("other-relation-locked", |case| case.unnamed(LockMode::ShareLock)),
    ("work-under-exclusive-lock", |case| case.under_exclusive() && !case.changes_rows()),
    ("backfill-under-exclusive-lock", |case| case.under_exclusive() && case.changes_rows()),
    ("several-exclusive-locks", |case| case.several_exclusive()),
    ("refresh-blocks-readers", |case| case.verb() == "REFRESH" && case.closes()),
    ("concurrently-under-lock-timeout", |case| {
        case.concurrently() && case.verb() != "REFRESH" && case.statement.lock_timeout_ms > 0
    }),
    ("index-drop-blocks", |case| case.has(&["DROP", "INDEX"]) && !case.concurrently() && case.blocking()),
    ("detach-blocks", |case| case.word("DETACH") && !case.concurrently() && case.blocking()),
    ("explicit-table-lock", |case| case.verb() == "LOCK" && case.blocking()),
    ("no-statement-timeout", |case| {
        case.statement.statement_timeout_ms == 0
            && (works_on(case.statement).next().is_some()
                || case.blocking() && !case.statement.rebuilt.is_empty())
    }),
    ("table-read-again", |case| {
        !case.changes_rows()
            && works_on(case.statement).any(|table| case.earlier.worked.iter().any(|known| known == table))
    }),
    ("index-if-not-exists", |case| {
        case.creates_index() && case.concurrently() && case.has(&["IF", "NOT", "EXISTS"])
    }),
    ("fails", |case| case.statement.error.is_some()),
    ("concurrently-in-transaction", |case| case.concurrently() && case.refused(&["25001"])),
    ("attach-scans", |case| case.has(&["ATTACH", "PARTITION"]) && case.scans()),
    ("partition-created-in-place", |case| {
        case.verb() == "CREATE" && case.has(&["PARTITION", "OF"]) && case.blocking()
    }),
    ("primary-key-checks-null", |case| case.has(&["PRIMARY", "KEY", "USING", "INDEX"]) && case.scans()),
    ("foreign-key-validates", |case| case.alters_table() && case.has(&["FOREIGN", "KEY"]) && case.scans()),
    ("check-validates", |case| {
        case.alters_table() && case.word("ADD") && case.word("CHECK") && case.scans() && !case.rewrites()
    }),
    ("validate-in-same-transaction", |case| {
        case.word("VALIDATE")
            && case.statement.scanned.iter().any(|scan| case.earlier.blocked.contains(&scan.relation))
    }),
    ("validate-with-stronger-action", |case| case.word("VALIDATE") && case.alters_table() && case.scans()),
    ("set-not-null-scans", |case| case.has(&["SET", "NOT", "NULL"]) && case.scans()),
    ("required-column", |case| case.alters_table() && case.word("ADD") && case.refused(&["23502"])),
    ("column-default-rewrites", |case| {
        case.alters_table() && case.word("ADD") && !case.changes_type() && case.rewrites()
    }),
    ("column-type-rewrites", |case| {
        case.changes_type() && (case.rewrites() || !case.statement.rebuilt.is_empty())
    }),
    ("column-type-rechecks", |case| {
        case.changes_type() && case.scans() && !case.rewrites() && case.statement.rebuilt.is_empty()
    }),
    ("maintenance-rewrites", |case| {
        let tidies = ["CLUSTER", "VACUUM"].contains(&case.verb())
            || ["LOGGED", "UNLOGGED", "TABLESPACE", "METHOD"].iter().any(|word| case.word(word));
        tidies && case.rewrites()
    }),
    ("drop-locks-referenced", |case| {
        let drops = case.has(&["DROP", "TABLE"]) || case.alters_table() && case.word("DROP");
        drops && case.unnamed(LockMode::AccessExclusiveLock)
    }),
    ("reference-locks-parent", |case| {
        case.word("REFERENCES") && case.blocking() && (case.verb() == "CREATE" || !case.word("FOREIGN"))
    }),
    ("catalog-change-blocks", |case| {
        ["CREATE", "ALTER", "DROP"].contains(&case.verb())
            && CATALOG_ONLY.iter().any(|word| case.word(word))
            && case.blocking()
            && works_on(case.statement).next().is_none()
    }),
    ("truncate-blocks", |case| case.verb() == "TRUNCATE" && case.closes()),
    ("domain-scans", |case| case.has(&["ALTER", "DOMAIN"]) && case.scans()),
    ("lock-taken-again", |case| {
        let again = |table: &str| {
            case.earlier.altered.iter().any(|known| known == table)
                && !case.earlier.exclusive.iter().any(|held| held == table)
        };
        case.alters_table() && tables(case.statement, LockMode::AccessExclusiveLock).any(again)
    }),
    ("backfill-unbatched", |case| {
        let locked = |relation: &str| case.statement.locks.iter().any(|lock| lock.relation == relation);
        ["UPDATE", "DELETE"].contains(&case.verb())
            && !case.word("WHERE")
            && case.statement.scanned.iter().any(|scan| locked(&scan.relation))
    }),
    ("transaction-nested", |case| {
        let begins = case.verb() == "BEGIN" || case.has(&["START", "TRANSACTION"]);
        begins && case.earlier.open
    }),
    ("savepoint-keeps-locks", |case| {
        let name = case.words.last().copied().unwrap_or_default();
        let savepoint = case.earlier.savepoint(name).and_then(|at| case.earlier.savepoints.get(at));
        case.verb() == "RELEASE"
            && savepoint.is_some_and(|(_, _, blocked)| case.earlier.blocked.len() > *blocked)
    }),
    ("not-rerunnable", |case| case.refused(&DUPLICATE)),
    ("invalid-index-left", |case| !case.statement.invalid_indexes.is_empty()),
    ("foreign-key-without-index", |case| !case.statement.unindexed_foreign_keys.is_empty()),
    ("way-back-rewrites", |case| case.changes_type() && case.rewrites() && case.undoes("TYPE", &["TYPE"])),
    ("way-back-scans", |case| {
        case.has(&["SET", "NOT", "NULL"]) && case.scans() && case.undoes("SET", &["DROP", "NOT", "NULL"])
    }),
    ("way-back-drops-index", |case| {
        let made = |name: &str| case.earlier.said(&["CREATE", "INDEX", "CONCURRENTLY", name]);
        case.has(&["DROP", "INDEX"]) && !case.concurrently() && case.blocking() && case.last_word(made)
    }),
    ("way-back-detaches", |case| {
        let attached = |name: &str| case.earlier.said(&["ATTACH", "PARTITION", name]);
        case.word("DETACH") && !case.concurrently() && case.blocking() && case.last_word(attached)
    }),
    ("way-back-drops-reference", |case| {
        let made = |name: &str| case.earlier.said(&["CREATE", "TABLE", name]);
        case.has(&["DROP", "TABLE"]) && case.unnamed(LockMode::AccessExclusiveLock) && case.last_word(made)
    }),
    ("way-back-drops-trigger", |case| {
        let name = case.words.iter().skip_while(|word| **word != "TRIGGER").nth(1);
        let made = name.is_some_and(|name| case.earlier.said(&["CREATE", "TRIGGER", name]));
        case.has(&["DROP", "TRIGGER"]) && case.closes() && made
    }),
];

impl Case<'_> {
    fn hazards(&self) -> Vec<&'static str> {
        RULES.iter().filter(|(_, fires)| fires(self)).map(|(id, _)| *id).collect()
    }

    fn verb(&self) -> &str {
        self.words.first().copied().unwrap_or_default()
    }

    fn word(&self, word: &str) -> bool {
        self.words.contains(&word)
    }

    fn has(&self, wanted: &[&str]) -> bool {
        has(self.words, wanted)
    }

    /// Whether the statement's last name, before CASCADE and RESTRICT, is one that `known` knows.
    fn last_word(&self, known: impl Fn(&str) -> bool) -> bool {
        self.words
            .iter()
            .rev()
            .find(|word| !["CASCADE", "RESTRICT"].contains(word))
            .is_some_and(|name| known(name))
    }

    fn concurrently(&self) -> bool {
        self.word("CONCURRENTLY")
    }

    fn alters_table(&self) -> bool {
        self.has(&["ALTER", "TABLE"])
    }

    fn changes_type(&self) -> bool {
        self.alters_table() && self.word("TYPE")
    }

    fn changes_rows(&self) -> bool {
        ["UPDATE", "INSERT", "DELETE", "MERGE", "COPY"].contains(&self.verb())
    }

    fn creates_index(&self) -> bool {
        self.verb() == "CREATE" && self.words.iter().take(3).any(|word| *word == "INDEX")
    }

    fn refused(&self, states: &[&str]) -> bool {
        self.statement.error.as_ref().is_some_and(|error| states.contains(&error.sqlstate.as_str()))
    }

    /// Whether clients wait for it. An index alone that is rebuilt closes its table to everybody who plans with it; one
    /// that CONCURRENTLY replaces or drops is closed when nobody does.
    fn blocking(&self) -> bool {
        let gentle = |kind: &str| self.concurrently() && kind == "index";
        self.statement.locks.iter().any(|lock| lock.mode.blocks_clients() && !gentle(&lock.kind))
    }

    /// Whether a relation with rows is closed to everybody.
    fn closes(&self) -> bool {
        tables(self.statement, LockMode::AccessExclusiveLock).next().is_some()
    }

    fn scans(&self) -> bool {
        self.statement.scanned.iter().any(|scan| blocks(self.statement, &scan.relation))
    }

    fn rewrites(&self) -> bool {
        let closed = |relation: &String| {
            tables(self.statement, LockMode::AccessExclusiveLock).any(|table| table == relation)
        };
        self.statement.rewritten.iter().any(closed)
    }

    fn builds_constraint(&self) -> bool {
        self.verb() == "ALTER"
            && !self.rewrites()
            && self.scans()
            && ["UNIQUE", "PRIMARY", "EXCLUDE"].iter().any(|word| self.word(word))
            && !self.has(&["USING", "INDEX"])
    }

    /// Whether a table that it does not name is locked in a mode at least this strong.
    fn unnamed(&self, at_least: LockMode) -> bool {
        self.statement.locks.iter().any(|lock| {
            lock.mode >= at_least
                && lock.mode.blocks_clients()
                && ["table", "partitioned table"].contains(&lock.kind.as_str())
                && !named(self.words, &lock.relation)
        })
    }

    fn under_exclusive(&self) -> bool {
        let ends = self.verb() != "PREPARE" && CONTROL.contains(&self.verb());
        !self.earlier.exclusive.is_empty() && !ends
    }

    fn several_exclusive(&self) -> bool {
        let held = &self.earlier.exclusive;
        let mut all: Vec<&str> = tables(self.statement, LockMode::AccessExclusiveLock).collect();
        let fresh = all.iter().any(|relation| !held.iter().any(|known| known == relation));
        all.extend(held.iter().map(String::as_str));
        all.sort_unstable();
        all.dedup();
        fresh && all.len() > 1
    }

    /// Whether an earlier statement did `before` to the column to which this one does `now`.
    fn undoes(&self, now: &str, before: &[&str]) -> bool {
        let mut columns = self.words.windows(3).filter(|three| three[0] == "COLUMN" && three[2] == now);
        columns.any(|column| {
            let done: Vec<&str> = ["COLUMN", column[1]].iter().chain(before).copied().collect();
            self.earlier.said.iter().any(|words| {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                has(&words, &done)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::{Shown, all};
    use super::RULES;

    #[test]
    fn every_hazard_that_a_trace_shows_has_a_rule_and_no_other() {
        let mut ruled: BTreeSet<&str> = RULES.iter().map(|(id, _)| *id).collect();
        ruled.insert("transaction-left-open");
        let shown: BTreeSet<&str> =
            all().filter(|hazard| hazard.shown == Shown::Trace).map(|hazard| hazard.id).collect();
        assert_eq!(ruled, shown);
    }
}
