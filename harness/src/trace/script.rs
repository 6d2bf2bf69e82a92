//! A script as its statements, and how a migrator would wrap them into transactions.

use fulldress_reports::sql::{Token, split, tokens};
use fulldress_reports::trace::Transactions;

use crate::document::line_of;
use crate::recorder::statement::first_words;

/// A statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Line of its first word, counted from 1.
    pub(crate) line: u32,
    /// From the first word to the last, without comments before and the semicolon behind.
    pub(crate) sql: String,
    pub(crate) class: Class,
}

impl Statement {
    /// Whether this is its first word.
    pub(crate) fn is(&self, word: &str) -> bool {
        self.words(1).first().is_some_and(|first| first == word)
    }

    /// Its first words in capitals.
    pub(crate) fn words(&self, count: usize) -> Vec<String> {
        first_words(&self.sql, count)
    }
}

/// What a statement does to the transaction that it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Opens a transaction.
    Begin,
    /// Ends one.
    End,
    /// SAVEPOINT, RELEASE, ROLLBACK TO.
    Savepoint,
    /// SET TRANSACTION and its kin: nothing may be asked of the session before them.
    SetTransaction,
    /// Any other SET, RESET, SHOW.
    Setting,
    /// PostgreSQL refuses it inside a transaction.
    Outside,
    /// All else.
    Plain,
}

/// Why a script cannot be run as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}; {hint}")]
pub struct ScriptError {
    /// Counted from 1.
    pub line: u32,
    /// What stands there.
    pub what: String,
    /// What to do.
    pub hint: &'static str,
}

/// Takes a script apart.
pub(crate) fn read(text: &str) -> Result<Vec<Statement>, ScriptError> {
    let mut statements = Vec::new();
    for part in split(text) {
        let mut shown = tokens(part).filter(|(token, _)| !matches!(token, Token::Comment | Token::Space));
        let Some((first, start)) = shown.next() else { continue };
        // `split` gives slices of the text, so that the distance of their beginnings is an offset.
        let offset = part.as_ptr() as usize - text.as_ptr() as usize + start;
        let line = line_of(text, offset);
        if first == Token::Symbol("\\") {
            let command = part[start..].lines().next().unwrap_or_default().trim();
            return Err(ScriptError {
                line,
                what: format!("`{command}` is a command of psql, and no SQL"),
                hint: "a trace runs SQL only: take it out, or put what it includes in its place",
            });
        }
        let sql = part[start..].trim_end().to_owned();
        let words = words(&sql);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if words.first() == Some(&"COPY") && words.ends_with(&["FROM", "STDIN"]) {
            return Err(ScriptError {
                line,
                what: "COPY … FROM STDIN takes rows that only a client can send".to_owned(),
                hint: "load rows in the setup, which psql runs",
            });
        }
        statements.push(Statement { line, class: classify(&words), sql });
    }
    Ok(statements)
}

/// The statement's words in capitals; quoted names stay as they are.
fn words(sql: &str) -> Vec<String> {
    let words = tokens(sql).filter_map(|(token, _)| match token {
        Token::Word(word) if word.starts_with('"') => Some(word.to_owned()),
        Token::Word(word) => Some(word.to_uppercase()),
        _ => None,
    });
    words.collect()
}

fn classify(words: &[&str]) -> Class {
    let concurrently = words.contains(&"CONCURRENTLY");
    match words {
        ["BEGIN", ..] | ["START", "TRANSACTION", ..] => Class::Begin,
        ["ROLLBACK" | "ABORT", .., "TO", _] | ["SAVEPOINT" | "RELEASE", ..] => Class::Savepoint,
        ["ROLLBACK", "TO", ..] => Class::Savepoint,
        ["COMMIT" | "ROLLBACK", "PREPARED", ..] => Class::Outside,
        ["COMMIT" | "END" | "ROLLBACK" | "ABORT", ..] | ["PREPARE", "TRANSACTION", ..] => Class::End,
        ["SET", "TRANSACTION", ..] | ["SET", "LOCAL", "TRANSACTION", ..] => Class::SetTransaction,
        ["SET", "SESSION", "CHARACTERISTICS", ..] => Class::SetTransaction,
        ["SET" | "RESET" | "SHOW", ..] => Class::Setting,
        ["CREATE" | "DROP", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX", ..] if concurrently => {
            Class::Outside
        }
        ["REINDEX", ..] if concurrently || reindexes_many(words) => Class::Outside,
        ["ALTER", "TABLE", ..] if concurrently && words.contains(&"DETACH") => Class::Outside,
        ["VACUUM", ..] | ["ALTER", "SYSTEM", ..] => Class::Outside,
        // Without a table it takes them one by one.
        ["CLUSTER"] | ["CLUSTER", "VERBOSE"] => Class::Outside,
        ["CREATE" | "DROP", "DATABASE" | "TABLESPACE", ..] => Class::Outside,
        ["ALTER", "DATABASE", .., "TABLESPACE", _] => Class::Outside,
        ["CREATE" | "DROP", "SUBSCRIPTION", ..] => Class::Outside,
        _ => Class::Plain,
    }
}

fn reindexes_many(words: &[&str]) -> bool {
    words.iter().skip(1).any(|word| ["SCHEMA", "DATABASE", "SYSTEM"].contains(word))
}

/// How a migrator would wrap them: one transaction, unless the file manages its own or has a statement that PostgreSQL
/// refuses inside one.
pub(crate) fn transactions(statements: &[Statement], autocommit: bool) -> Transactions {
    let has = |class| statements.iter().any(|statement| statement.class == class);
    if has(Class::Begin) {
        Transactions::Own
    } else if autocommit || has(Class::Outside) {
        Transactions::Statement
    } else {
        Transactions::File
    }
}

#[cfg(test)]
mod tests {
    use fulldress_reports::trace::Transactions;

    use super::{Class, read, transactions};

    #[test]
    fn statements_keep_their_lines() {
        let text = "-- a ; comment\n\nALTER TABLE t\n  ADD x int;\n\n/* b */ CREATE FUNCTION f() RETURNS void BEGIN ATOMIC SELECT 1; END;\n";
        let statements = read(text).unwrap();
        let lines: Vec<_> = statements.iter().map(|one| (one.line, one.sql.as_str())).collect();
        assert_eq!(lines[0], (3, "ALTER TABLE t\n  ADD x int"));
        assert_eq!(lines[1].0, 6);
        assert!(lines[1].1.starts_with("CREATE FUNCTION") && lines[1].1.ends_with("END"));
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn classes_follow_what_postgresql_refuses_in_a_transaction() {
        for (sql, class) in [
            ("begin", Class::Begin),
            ("start transaction isolation level serializable", Class::Begin),
            ("end", Class::End),
            ("rollback", Class::End),
            ("rollback to a", Class::Savepoint),
            ("ROLLBACK TO SAVEPOINT a", Class::Savepoint),
            ("rollback work to a", Class::Savepoint),
            ("set transaction read only", Class::SetTransaction),
            ("set lock_timeout = 1", Class::Setting),
            ("create unique index concurrently i on t (x)", Class::Outside),
            ("create index i on t (x)", Class::Plain),
            ("create index \"CONCURRENTLY\" on t (x)", Class::Plain),
            ("refresh materialized view concurrently m", Class::Plain),
            ("alter table p detach partition q concurrently", Class::Outside),
            ("alter table p detach partition q", Class::Plain),
            ("reindex (verbose) table concurrently t", Class::Outside),
            ("reindex schema s", Class::Outside),
            ("reindex table t", Class::Plain),
            ("vacuum (full) t", Class::Outside),
            ("cluster", Class::Outside),
            ("cluster t using i", Class::Plain),
            ("alter type e add value 'x'", Class::Plain),
            ("commit prepared 'x'", Class::Outside),
        ] {
            assert_eq!(read(sql).unwrap()[0].class, class, "{sql}");
        }
    }

    #[test]
    fn a_file_is_one_transaction_unless_it_cannot_be() {
        let mode = |text, autocommit| transactions(&read(text).unwrap(), autocommit);
        assert_eq!(mode("select 1; select 2", false), Transactions::File);
        assert_eq!(mode("select 1; select 2", true), Transactions::Statement);
        assert_eq!(mode("select 1; vacuum", false), Transactions::Statement);
        assert_eq!(mode("begin; select 1; commit; vacuum", true), Transactions::Own);
    }

    #[test]
    fn what_is_no_sql_is_refused_with_its_line() {
        let error = read("select 1;\n\\i other.sql\n").unwrap_err();
        assert_eq!(error.line, 2);
        assert!(error.to_string().contains("`\\i other.sql` is a command of psql"), "{error}");
        let error = read("copy t (a) from stdin;\n1\n\\.\n").unwrap_err();
        assert!(error.to_string().starts_with("line 1: COPY"), "{error}");
    }
}
