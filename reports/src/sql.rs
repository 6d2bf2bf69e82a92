//! SQL as tokens: enough to tell words from literals and comments, and statements from each other.
//!
//! The one reader of SQL: hazards, recorder, trace and preflight all take a file apart here.

/// A piece of SQL as the scanner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token<'a> {
    /// `--` to the end of the line, or a nested `/* */`.
    Comment,
    /// Whitespace.
    Space,
    /// A string in quotes.
    Literal,
    /// A number.
    Number,
    /// A word, a quoted identifier, or a dollar quote's delimiter.
    Word(&'a str),
    /// Any other character.
    Symbol(&'a str),
}

/// Splits SQL into tokens with their byte offsets.
pub fn tokens(text: &str) -> impl Iterator<Item = (Token<'_>, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = text.get(at..).filter(|rest| !rest.is_empty())?;
        let (token, length) = token(rest);
        let start = at;
        at += length;
        Some((token, start))
    })
}

/// The statements of a script that was sent as one string, without the semicolons between them. Bodies in dollar quotes
/// and of SQL-standard functions are part of theirs.
#[must_use]
pub fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut at = 0;
    // The body of a SQL-standard function: BEGIN ATOMIC … END. Other ends inside it are those of CASE.
    let mut atomic_depth = 0_u32;
    let mut after_begin = false;
    while at < text.len() {
        let (token, length) = token(&text[at..]);
        let here = at;
        at += length;
        match token {
            // What stands in dollar quotes is read as the server does: nothing in it has a meaning but the same quote.
            Token::Word(quote) if quote.starts_with('$') => {
                at = text[at..].find(quote).map_or(text.len(), |end| at + end + quote.len());
            }
            Token::Word(word) if after_begin && word.eq_ignore_ascii_case("atomic") => atomic_depth += 1,
            Token::Word(word) if atomic_depth > 0 && word.eq_ignore_ascii_case("case") => atomic_depth += 1,
            Token::Word(word) if atomic_depth > 0 && word.eq_ignore_ascii_case("end") => atomic_depth -= 1,
            Token::Symbol(";") if atomic_depth == 0 => {
                parts.push(&text[start..here]);
                start = at;
            }
            _ => {}
        }
        if !matches!(token, Token::Comment | Token::Space) {
            after_begin = matches!(token, Token::Word(word) if word.eq_ignore_ascii_case("begin"));
        }
    }
    parts.push(&text[start..]);
    parts.retain(|part| tokens(part).any(|(token, _)| matches!(token, Token::Word(_))));
    parts
}

/// A statement, or what a body in dollar quotes has between two semicolons; comments are blanks, offsets and lines are
/// kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Without comments.
    pub text: String,
    /// Without comments and the content of literals.
    pub code: String,
    first_line: u32,
}

impl Piece {
    fn empty(first_line: u32) -> Self {
        Self { text: String::new(), code: String::new(), first_line }
    }

    /// Line of a byte offset of the text.
    #[must_use]
    pub fn line_at(&self, offset: usize) -> u32 {
        let before = self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
        self.first_line + u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// Adds a piece of source; what is not shown becomes blanks, so that offsets stay right.
    fn take(&mut self, source: &str, in_text: bool, in_code: bool) {
        for (shown, into) in [(in_text, &mut self.text), (in_code, &mut self.code)] {
            if shown {
                into.push_str(source);
            } else {
                blank(source, into);
            }
        }
    }
}

/// As many bytes of blanks, lines kept.
fn blank(source: &str, into: &mut String) {
    into.extend(source.bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }));
}

/// Pieces of a text whose first line has the number `line`. Bodies in dollar quotes are code, too: functions and DO blocks
/// run what they contain. A command of psql is a piece of its own.
#[must_use]
pub fn pieces(text: &str, line: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut current = Piece::empty(line);
    let mut next_line = line;
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, mut length) = token(rest);
        let is_command = kind == Token::Symbol("\\");
        if is_command {
            // It ends with its line.
            length = rest.find('\n').unwrap_or(rest.len());
            pieces.push(std::mem::replace(&mut current, Piece::empty(next_line)));
        }
        let (source, after) = rest.split_at(length);
        rest = after;
        let shown = kind != Token::Comment;
        current.take(source, shown, shown && (kind != Token::Literal || is_command));
        next_line += u32::try_from(source.bytes().filter(|byte| *byte == b'\n').count()).unwrap_or(u32::MAX);
        if is_command || kind == Token::Symbol(";") {
            pieces.push(std::mem::replace(&mut current, Piece::empty(next_line)));
        }
    }
    pieces.push(current);
    pieces.retain(|piece| !piece.text.trim().is_empty());
    pieces
}

/// A text with blanks for its comments, and a semicolon and blanks for each command of psql: what is left is SQL, at the
/// same offsets.
#[must_use]
pub fn only_sql(text: &str) -> String {
    let mut sql = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let (kind, mut length) = token(rest);
        if kind == Token::Symbol("\\") {
            length = rest.find('\n').unwrap_or(rest.len());
            sql.push(';');
            blank(&rest[1..length], &mut sql);
        } else if kind == Token::Comment {
            blank(&rest[..length], &mut sql);
        } else {
            sql.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    sql
}

/// Commands of psql outside quotes, with their byte offsets, each to the end of its line.
#[must_use]
pub fn commands(text: &str) -> Vec<(usize, &str)> {
    let mut commands = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let (token, length) = token(&text[at..]);
        let here = at;
        at += length;
        match token {
            Token::Word(quote) if quote.starts_with('$') => {
                at = text[at..].find(quote).map_or(text.len(), |end| at + end + quote.len());
            }
            Token::Symbol("\\") => {
                at = text[here..].find('\n').map_or(text.len(), |end| here + end);
                commands.push((here, text[here..at].trim_end()));
            }
            _ => {}
        }
    }
    commands
}

/// Line of a byte offset, counted from 1.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> u32 {
    let before = text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count();
    u32::try_from(before + 1).unwrap_or(u32::MAX)
}

/// The token at the beginning of a text that is not empty, and its length in bytes.
fn token(rest: &str) -> (Token<'_>, usize) {
    let first = rest.chars().next().unwrap_or(' ');
    let lower_e = first.eq_ignore_ascii_case(&'e');
    if first.is_whitespace() {
        return (Token::Space, run(rest, char::is_whitespace));
    }
    if rest.starts_with("--") {
        return (Token::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Token::Comment, block_comment(rest));
    }
    if first == '\'' {
        return (Token::Literal, quoted(rest, '\'', false));
    }
    if lower_e && rest[1..].starts_with('\'') {
        return (Token::Literal, 1 + quoted(&rest[1..], '\'', true));
    }
    if first == '"' {
        let length = quoted(rest, '"', false);
        return (Token::Word(&rest[..length]), length);
    }
    if first == '$'
        && let Some(length) = dollar_delimiter(rest)
    {
        return (Token::Word(&rest[..length]), length);
    }
    if first.is_ascii_digit() {
        return (Token::Number, run(rest, |letter| letter.is_ascii_alphanumeric() || letter == '.'));
    }
    if first.is_alphabetic() || first == '_' {
        let length = run(rest, |letter| letter.is_alphanumeric() || letter == '_' || letter == '$');
        return (Token::Word(&rest[..length]), length);
    }
    (Token::Symbol(&rest[..first.len_utf8()]), first.len_utf8())
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|letter| !belongs(letter)).unwrap_or(text.len())
}

/// Length of a quoted piece, quotes included; to the end of the text where it is never closed.
fn quoted(text: &str, quote: char, backslash: bool) -> usize {
    let mut letters = text.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if backslash && letter == '\\' {
            letters.next();
        } else if letter == quote {
            if letters.peek().is_some_and(|(_, next)| *next == quote) {
                letters.next();
            } else {
                return at + quote.len_utf8();
            }
        }
    }
    text.len()
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_u32;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => {
                depth += 1;
                at += 2;
            }
            Some(b"*/") => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Length of `$$` or `$tag$`; absent for a parameter such as `$1`.
fn dollar_delimiter(text: &str) -> Option<usize> {
    let end = text[1..].find('$')? + 1;
    let tag = &text[1..end];
    let valid = tag.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        && !tag.starts_with(|letter: char| letter.is_ascii_digit());
    valid.then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::{Token, commands, only_sql, pieces, split, tokens};

    #[test]
    fn scripts_split_at_semicolons_of_the_top_level_only() {
        let script =
            "select ';'; /* ; */ DO $$ a; b; $$; create function f() begin atomic select 1; end; -- ;\n";
        let parts = split(script);
        assert_eq!(parts.len(), 3);
        assert!(parts[1].contains("a; b;") && parts[2].contains("select 1; end"));
    }

    #[test]
    fn what_stands_in_dollar_quotes_is_not_read() {
        assert_eq!(split("comment on table t is $$it's; here$$; select 1").len(), 2);
        assert_eq!(split("do $a$ x $$ y; $$ 'z; $a$; select 1").len(), 2);
        let body =
            "create function f() begin atomic select case when true then 1 end; select 2; end; select 3";
        assert_eq!(split(body).len(), 2);
        assert_eq!(split("create table t (atomic int); select 1").len(), 2);
        assert_eq!(split("select $1; select $$never closed; ").len(), 2);
    }

    #[test]
    fn commands_stand_outside_quotes() {
        let text = "\\set ON_ERROR_STOP on\nselect E'\\'', '\\x', $$ \\y $$ \\gexec\n-- \\z\n\\i a.sql";
        let found: Vec<&str> = commands(text).into_iter().map(|(_, command)| command).collect();
        assert_eq!(found, ["\\set ON_ERROR_STOP on", "\\gexec", "\\i a.sql"]);
    }

    #[test]
    fn pieces_keep_lines_and_commands_of_psql_end_with_theirs() {
        let text = "-- it's\nselect 'a;b' /* ' */\n\\gexec\n\\echo don't\ndo $$ begin x('y'); end $$;\n";
        let pieces = pieces(text, 10);
        let shown: Vec<(u32, &str)> = pieces
            .iter()
            .map(|piece| (piece.line_at(piece.text.len() - piece.text.trim_start().len()), piece.text.trim()))
            .collect();
        assert_eq!(
            shown,
            [
                (11, "select 'a;b'"),
                (12, "\\gexec"),
                (13, "\\echo don't"),
                (14, "do $$ begin x('y');"),
                (14, "end $$;")
            ]
        );
        assert_eq!(pieces[0].code.trim(), "select");
        assert_eq!(pieces[0].text.len(), pieces[0].code.len());
    }

    #[test]
    fn only_sql_keeps_offsets() {
        let text = "select 1 -- ä\n\\gexec\ncreate index i on t (x);";
        let sql = only_sql(text);
        assert_eq!(sql.len(), text.len());
        assert_eq!(sql.find("create"), text.find("create"));
        assert_eq!(split(&sql).len(), 2);
    }

    #[test]
    fn literals_and_comments_hold_no_words() {
        let text = "CREATE INDEX i -- CONCURRENTLY\n ON t (x) /* a /* UNIQUE */ b */ WHERE x <> 'concurrently' AND \"y\" = E'\\' z'";
        let words: Vec<&str> = tokens(text)
            .filter_map(|(token, _)| if let Token::Word(word) = token { Some(word) } else { None })
            .collect();
        assert_eq!(words, ["CREATE", "INDEX", "i", "ON", "t", "x", "WHERE", "x", "AND", "\"y\""]);
    }
}
