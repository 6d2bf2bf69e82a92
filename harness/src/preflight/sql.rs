//! SQL text taken apart into statements without their comments, for rules that look for calls.

use crate::document::line_of;

/// One statement; comments are blanks, offsets and lines are kept.
#[derive(Debug)]
pub(super) struct Statement {
    pub(super) text: String,
    /// The text with the content of string literals blanked as well.
    pub(super) code: String,
    first_line: u32,
}

impl Statement {
    /// Line of a byte offset of the text.
    pub(super) fn line_at(&self, offset: usize) -> u32 {
        self.first_line + line_of(&self.text, offset) - 1
    }
}

/// Statements of a text whose first line has the number `line`. Bodies in dollar quotes are code, too: functions
/// and DO blocks run what they contain.
pub(super) fn statements(text: &str, line: u32) -> Vec<Statement> {
    let mut lexer = Lexer { rest: text, line, statements: Vec::new(), current: empty(line) };
    while let Some(first) = lexer.rest.chars().next() {
        lexer.step(first);
    }
    lexer.end();
    lexer.statements
}

fn empty(line: u32) -> Statement {
    Statement { text: String::new(), code: String::new(), first_line: line }
}

struct Lexer<'text> {
    rest: &'text str,
    line: u32,
    statements: Vec<Statement>,
    current: Statement,
}

impl Lexer<'_> {
    fn step(&mut self, first: char) {
        if self.rest.starts_with("--") {
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(end, false, false);
        } else if self.rest.starts_with("/*") {
            let end = self.rest.find("*/").map_or(self.rest.len(), |at| at + 2);
            self.take(end, false, false);
        } else if first == '\'' {
            let escapes = self.current.text.ends_with(['e', 'E']);
            let end = literal_end(self.rest, escapes);
            self.take(end, true, false);
        } else if first == '\\' && self.current.text.trim().is_empty() {
            // A command of psql ends with its line.
            let end = self.rest.find('\n').unwrap_or(self.rest.len());
            self.take(end, true, true);
            self.end();
        } else if first == ';' {
            self.take(1, true, true);
            self.end();
        } else {
            self.take(first.len_utf8(), true, true);
        }
    }

    /// Moves bytes into the statement; what is not shown becomes blanks so that offsets stay right.
    fn take(&mut self, bytes: usize, in_text: bool, in_code: bool) {
        let (taken, rest) = self.rest.split_at(bytes);
        for character in taken.chars() {
            let blank = |shown: bool, into: &mut String| {
                if shown || character == '\n' {
                    into.push(character);
                } else {
                    into.extend(std::iter::repeat_n(' ', character.len_utf8()));
                }
            };
            blank(in_text, &mut self.current.text);
            blank(in_code, &mut self.current.code);
            self.line += u32::from(character == '\n');
        }
        self.rest = rest;
    }

    fn end(&mut self) {
        let statement = std::mem::replace(&mut self.current, empty(self.line));
        if !statement.text.trim().is_empty() {
            self.statements.push(statement);
        }
    }
}

/// Bytes up to and with the closing quote; a doubled quote is part of the literal, and in `E'…'` an escaped one.
fn literal_end(text: &str, escapes: bool) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        if escapes && bytes[at] == b'\\' {
            at += 1;
        } else if bytes[at] == b'\'' {
            if bytes.get(at + 1) != Some(&b'\'') {
                return at + 1;
            }
            at += 1;
        }
        at += 1;
    }
    text.len()
}
