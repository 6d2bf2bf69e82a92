//! SQL as tokens: enough to tell words from literals and comments, and statements from each other.

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
    use super::{Token, tokens};

    #[test]
    fn literals_and_comments_hold_no_words() {
        let text = "CREATE INDEX i -- CONCURRENTLY\n ON t (x) /* a /* UNIQUE */ b */ WHERE x <> 'concurrently' AND \"y\" = E'\\' z'";
        let words: Vec<&str> = tokens(text)
            .filter_map(|(token, _)| if let Token::Word(word) = token { Some(word) } else { None })
            .collect();
        assert_eq!(words, ["CREATE", "INDEX", "i", "ON", "t", "x", "WHERE", "x", "AND", "\"y\""]);
    }
}
