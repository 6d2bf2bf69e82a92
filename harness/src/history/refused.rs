//! What a migration tool would send and no server takes: commands of psql, and rows that only a client can send.

use fulldress_reports::sql::{Token, commands, split, tokens};

use super::{Layout, Problem, Script};

/// Gives a script its problem, where its text has one.
pub(super) fn look(layout: Layout, script: &mut Script) {
    if script.problem.is_some() {
        return;
    }
    let found = script.parts.iter().find_map(|part| {
        let both = [command(layout, &part.sql), copy(&part.sql)];
        let (at, what) = both.into_iter().flatten().min()?;
        Some(Problem { line: part.line_at(at), what })
    });
    script.problem = found;
}

fn command(layout: Layout, sql: &str) -> Option<(usize, String)> {
    let (at, command) = commands(sql).into_iter().next()?;
    Some((at, format!("`{command}` is a command of psql, which {} sends to no server", layout.name())))
}

fn copy(sql: &str) -> Option<(usize, String)> {
    split(sql).into_iter().find_map(|statement| {
        let mut shown = tokens(statement).filter(|(token, _)| !matches!(token, Token::Comment | Token::Space));
        let (_, start) = shown.next()?;
        let words: Vec<String> = tokens(statement)
            .filter_map(|(token, _)| match token {
                Token::Word(word) => Some(word.to_ascii_uppercase()),
                _ => None,
            })
            .collect();
        let speaks = words.first().is_some_and(|word| word == "COPY")
            && words.windows(2).any(|pair| {
                (pair[0] == "FROM" && pair[1] == "STDIN") || (pair[0] == "TO" && pair[1] == "STDOUT")
            });
        // `split` gives slices of the text, so that the distance of their beginnings is an offset.
        let offset = statement.as_ptr() as usize - sql.as_ptr() as usize + start;
        let what = "COPY takes or gives rows that only a client can exchange; write INSERT, or load the rows with --setup";
        speaks.then(|| (offset, what.to_owned()))
    })
}
