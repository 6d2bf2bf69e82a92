//! A reader of shell scripts that finds the simple commands in them, wherever the shell would run one: in lists,
//! pipelines, groups, branches, loops, functions and substitutions; and not in comments or quoted text.
//!
//! It is no shell: nothing is executed and nothing expanded beyond variables with literal values. Scripts come from
//! a package and are hostile until proven otherwise, so nesting is bounded instead of trusted to the stack.
//! Grammar: POSIX.1-2017, Shell Command Language, with bash's arrays, `[[`, here-strings and process substitution.

use super::word::{Part, Variables, Word, merge};

/// Deeper nesting than people write; it bounds the stack.
const DEPTH_MAX: usize = 40;

/// What a script contains.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) commands: Vec<Command>,
    pub(super) heredocs: Vec<Heredoc>,
    /// Every value that a variable is given, anywhere in the script.
    pub(super) variables: Variables,
    /// Why reading ended early: line and what was met.
    pub(super) flaw: Option<(u32, &'static str)>,
}

/// A simple command.
#[derive(Debug, Default, Clone)]
pub(super) struct Command {
    pub(super) line: u32,
    pub(super) words: Vec<Word>,
    /// Assignments before the words.
    pub(super) assignments: Vec<(String, Word)>,
    pub(super) redirects: Vec<(String, Word)>,
    /// Index of its here-document.
    pub(super) heredoc: Option<usize>,
    /// Commands of one pipeline, and those grouped or substituted inside it, share a statement.
    pub(super) statement: usize,
    /// Whether a pipe feeds it.
    pub(super) fed: bool,
}

/// A here-document.
#[derive(Debug, Default)]
pub(super) struct Heredoc {
    pub(super) body: String,
    /// First line of the body.
    pub(super) line: u32,
}

/// Reads a script whose first line has the number `line`.
pub(super) fn read(text: &str, line: u32) -> Script {
    let mut script = Script::default();
    let mut reader = Reader::new(text, line, 0, &mut script);
    if let Err(what) = reader.list(None) {
        let line = reader.line;
        script.flaw.get_or_insert((line, what));
    }
    script
}

struct Reader<'script> {
    text: Vec<char>,
    at: usize,
    line: u32,
    depth: usize,
    script: &'script mut Script,
    /// Here-documents whose bodies start after the next newline: index, delimiter, quoted, tabs cut.
    pending: Vec<(usize, String, bool, bool)>,
    statement: usize,
}

/// Where a word ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// At blanks and operators.
    Blank,
    /// At the closing double quote.
    Quote,
    /// At the brace that closes an expansion; the flag says whether double quotes are around it.
    Brace { quoted: bool },
    /// At the end of the text: an unquoted here-document.
    Text,
}

type Read<T> = Result<T, &'static str>;

/// What the list is in the middle of.
#[derive(Default)]
struct Progress {
    command: Command,
    parens: usize,
    cases: usize,
    fed: bool,
}

impl<'script> Reader<'script> {
    fn new(text: &str, line: u32, depth: usize, script: &'script mut Script) -> Self {
        let statement = script.commands.len();
        Self { text: text.chars().collect(), at: 0, line, depth, script, pending: Vec::new(), statement }
    }

    fn peek(&self) -> Option<char> {
        self.text.get(self.at).copied()
    }

    fn peek_at(&self, ahead: usize) -> Option<char> {
        self.text.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += 1;
        self.line += u32::from(character == '\n');
        Some(character)
    }

    fn eat(&mut self, text: &str) -> bool {
        let matches =
            text.chars().enumerate().all(|(ahead, character)| self.peek_at(ahead) == Some(character));
        if matches {
            text.chars().for_each(|_| {
                self.next();
            });
        }
        matches
    }

    fn blanks(&mut self) {
        loop {
            match (self.peek(), self.peek_at(1)) {
                (Some(' ' | '\t' | '\r'), _) => {
                    self.next();
                }
                (Some('\\'), Some('\n')) => {
                    self.eat("\\\n");
                }
                _ => return,
            }
        }
    }

    fn blank_lines(&mut self) {
        loop {
            self.blanks();
            match self.peek() {
                Some('\n') => {
                    self.next();
                }
                Some('#') => self.comment(),
                _ => return,
            }
        }
    }

    fn comment(&mut self) {
        while self.peek().is_some_and(|character| character != '\n') {
            self.next();
        }
    }

    /// Reads commands up to `close`, or to the end of the text.
    fn list(&mut self, close: Option<char>) -> Read<()> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("nesting is too deep to be read");
        }
        let statement = self.statement;
        let mut progress = Progress::default();
        loop {
            self.blanks();
            let Some(character) = self.peek() else {
                self.finish(&mut progress);
                let open = close.is_some() || progress.parens > 0;
                return if open { Err("a parenthesis is not closed") } else { Ok(()) };
            };
            match character {
                ')' if progress.parens == 0 && close == Some(')') => {
                    self.next();
                    self.finish(&mut progress);
                    self.depth -= 1;
                    // What follows a substitution still belongs to the statement around it.
                    self.statement = statement;
                    return Ok(());
                }
                '#' => self.comment(),
                '\n' | ';' | '&' | '|' | '(' | ')' => self.operator(&mut progress, close.is_none())?,
                '<' | '>' => self.redirect(&mut progress)?,
                _ => self.command_word(&mut progress)?,
            }
        }
    }

    fn operator(&mut self, progress: &mut Progress, outermost: bool) -> Read<()> {
        if self.peek() == Some('&') && self.peek_at(1) == Some('>') {
            return self.redirect(progress);
        }
        if self.eat("((") {
            // `((` starts arithmetic only where a command may start; elsewhere it is two groups.
            if progress.command.words.is_empty() && self.arithmetic() {
                return Ok(());
            }
            self.at -= 1;
            self.finish(progress);
            progress.parens += 1;
            return Ok(());
        }
        let operator = self.next();
        if operator == Some('(') && progress.command.words.len() == 1 {
            let before = (self.at, self.line);
            self.blanks();
            if self.eat(")") {
                // `name()`: a definition runs nothing, its body is read as commands.
                progress.command = Command::default();
                return Ok(());
            }
            (self.at, self.line) = before;
        }
        self.finish(progress);
        match operator {
            Some('(') => progress.parens += 1,
            Some(')') => progress.parens = progress.parens.saturating_sub(1),
            Some('|') if !self.eat("|") => {
                self.eat("&");
                progress.fed = true;
                return Ok(());
            }
            Some(';') if matches!(self.peek(), Some(';' | '&')) => {
                while matches!(self.peek(), Some(';' | '&')) {
                    self.next();
                }
                if progress.cases > 0 {
                    self.case_pattern(progress)?;
                }
            }
            Some('&') => {
                self.eat("&");
            }
            Some('\n') => self.heredoc_bodies()?,
            _ => {}
        }
        progress.fed = operator == Some('(') && progress.fed;
        if progress.parens == 0 && outermost && !matches!(operator, Some('(' | ')')) {
            self.statement += 1;
        }
        Ok(())
    }

    /// Skips arithmetic behind `((`; false, and nothing skipped, when it does not end in `))`.
    fn arithmetic(&mut self) -> bool {
        let before = (self.at, self.line);
        let mut parens = 2;
        while let Some(character) = self.next() {
            match character {
                '(' => parens += 1,
                ')' if parens == 2 => {
                    if self.eat(")") {
                        return true;
                    }
                    break;
                }
                ')' => parens -= 1,
                _ => {}
            }
        }
        (self.at, self.line) = before;
        false
    }

    fn finish(&mut self, progress: &mut Progress) {
        let mut command = std::mem::take(&mut progress.command);
        command.statement = self.statement;
        command.fed = progress.fed;
        let declares = command.words.first().and_then(Word::literal).is_some_and(|name| {
            matches!(name.as_str(), "export" | "declare" | "local" | "readonly" | "typeset")
        });
        if declares {
            command.assignments.extend(command.words.iter().filter_map(Word::assignment));
        }
        for (name, value) in &command.assignments {
            self.script.variables.entry(name.clone()).or_default().push(value.clone());
        }
        if !command.words.is_empty() || !command.redirects.is_empty() || !command.assignments.is_empty() {
            self.script.commands.push(command);
        }
    }

    fn redirect(&mut self, progress: &mut Progress) -> Read<()> {
        const OPERATORS: [&str; 14] =
            ["<<<", "<<-", "<<", "<&", "<>", "<(", "<", ">>", ">&", ">|", ">(", ">", "&>>", "&>"];
        // A number that touches the operator is a file descriptor and no word.
        let touches = self.at > 0 && self.text[self.at - 1].is_ascii_digit();
        if touches
            && progress.command.words.last().is_some_and(|word| word.raw.bytes().all(|b| b.is_ascii_digit()))
        {
            progress.command.words.pop();
        }
        progress.command.line = if progress.command.line == 0 { self.line } else { progress.command.line };
        let operator = OPERATORS.into_iter().find(|operator| self.eat(operator)).unwrap_or("<");
        if matches!(operator, "<(" | ">(") {
            self.list(Some(')'))?;
            let word = Word { parts: vec![Part::Unknown], raw: format!("{operator}…)") };
            progress.command.words.push(word);
            return Ok(());
        }
        self.blanks();
        let target = self.word(End::Blank)?;
        if matches!(operator, "<<" | "<<-") {
            let quoted = target.raw.contains(['\'', '"', '\\']);
            let delimiter = target.literal().unwrap_or_else(|| target.raw.clone());
            let index = self.script.heredocs.len();
            self.script.heredocs.push(Heredoc::default());
            self.pending.push((index, delimiter, quoted, operator == "<<-"));
            progress.command.heredoc = Some(index);
        } else {
            progress.command.redirects.push((operator.to_owned(), target));
        }
        Ok(())
    }

    fn heredoc_bodies(&mut self) -> Read<()> {
        for (index, delimiter, quoted, tabs_cut) in std::mem::take(&mut self.pending) {
            let first_line = self.line;
            let mut body = String::new();
            loop {
                if self.peek().is_none() {
                    break;
                }
                let mut line = String::new();
                while let Some(character) = self.next() {
                    if character == '\n' {
                        break;
                    }
                    line.push(character);
                }
                let cut = if tabs_cut { line.trim_start_matches('\t') } else { &line };
                if cut == delimiter {
                    break;
                }
                body.push_str(cut);
                body.push('\n');
            }
            if !quoted {
                // Substitutions in the body run; the rest of it is data.
                let mut inner = Reader::new(&body, first_line, self.depth, self.script);
                inner.statement = self.statement;
                inner.word(End::Text)?;
            }
            self.script.heredocs[index] = Heredoc { body, line: first_line };
        }
        Ok(())
    }

    fn command_word(&mut self, progress: &mut Progress) -> Read<()> {
        let line = self.line;
        let word = self.word(End::Blank)?;
        if progress.command.words.is_empty() {
            if let Some((name, value)) = word.assignment() {
                progress.command.line = if progress.command.line == 0 { line } else { progress.command.line };
                return self.assigned(progress, name, value);
            }
            if progress.command.assignments.is_empty() && self.reserved(progress, &word)? {
                return Ok(());
            }
            progress.command.line = line;
        }
        progress.command.words.push(word);
        Ok(())
    }

    fn assigned(&mut self, progress: &mut Progress, name: String, value: Word) -> Read<()> {
        if !value.raw.is_empty() || self.peek() != Some('(') {
            progress.command.assignments.push((name, value));
            return Ok(());
        }
        self.next();
        loop {
            self.blank_lines();
            match self.peek() {
                None => return Err("an array is not closed"),
                Some(')') => {
                    self.next();
                    return Ok(());
                }
                Some(';' | '&' | '|' | '<' | '>' | '(') => return Err("an array holds an operator"),
                Some(_) => {
                    let element = self.word(End::Blank)?;
                    progress.command.assignments.push((name.clone(), element));
                }
            }
        }
    }

    /// Handles the words that shape commands; false when the word is none of them.
    fn reserved(&mut self, progress: &mut Progress, word: &Word) -> Read<bool> {
        match word.raw.as_str() {
            "if" | "then" | "elif" | "else" | "fi" | "while" | "until" | "do" | "done" | "{" | "}" | "!"
            | "coproc" => {}
            "function" => {
                self.blanks();
                self.word(End::Blank)?;
                self.blanks();
                if self.eat("(") {
                    self.blanks();
                    self.eat(")");
                }
            }
            "for" | "select" => self.loop_values()?,
            "case" => {
                self.blanks();
                self.word(End::Blank)?;
                self.blank_lines();
                self.word(End::Blank)?;
                progress.cases += 1;
                self.case_pattern(progress)?;
            }
            "esac" => progress.cases = progress.cases.saturating_sub(1),
            "[[" => self.condition()?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn loop_values(&mut self) -> Read<()> {
        self.blanks();
        if self.eat("((") {
            return if self.arithmetic() { Ok(()) } else { Err("arithmetic is not closed") };
        }
        let name = self.word(End::Blank)?.raw;
        self.blank_lines();
        if !(self.peek() == Some('i') && self.peek_at(1) == Some('n')) {
            return Ok(());
        }
        self.word(End::Blank)?;
        loop {
            self.blanks();
            if matches!(self.peek(), None | Some('\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>' | '#')) {
                return Ok(());
            }
            let value = self.word(End::Blank)?;
            self.script.variables.entry(name.clone()).or_default().push(value);
        }
    }

    /// Skips one pattern of a `case`, or its `esac`.
    fn case_pattern(&mut self, progress: &mut Progress) -> Read<()> {
        self.blank_lines();
        self.eat("(");
        loop {
            self.blanks();
            match self.peek() {
                None => return Err("a case is not closed"),
                Some(')') => {
                    self.next();
                    return Ok(());
                }
                Some('|' | '\n' | '(' | '<' | '>' | ';' | '&') => {
                    self.next();
                }
                Some(_) => {
                    if self.word(End::Blank)?.raw == "esac" {
                        progress.cases -= 1;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Skips `[[ … ]]`: its operators and patterns are no commands, its substitutions are.
    fn condition(&mut self) -> Read<()> {
        loop {
            self.blanks();
            match self.peek() {
                None => return Err("[[ is not closed"),
                Some('\n' | ';' | '&' | '|' | '(' | ')' | '<' | '>') => {
                    self.next();
                }
                Some(_) => {
                    if self.word(End::Blank)?.raw == "]]" {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn word(&mut self, end: End) -> Read<Word> {
        let start = self.at;
        let mut word = Word::default();
        let quoted = matches!(end, End::Quote | End::Text | End::Brace { quoted: true });
        loop {
            let Some(character) = self.peek() else {
                if matches!(end, End::Blank | End::Text) {
                    break;
                }
                return Err(if end == End::Quote {
                    "a double quote is not closed"
                } else {
                    "${ is not closed"
                });
            };
            match (character, end) {
                (' ' | '\t' | '\r' | '\n' | ';' | '&' | '|' | '<' | '>' | '(' | ')', End::Blank) => break,
                ('"', End::Quote) | ('}', End::Brace { .. }) => break,
                _ => {}
            }
            self.next();
            match character {
                '\\' => self.escape(&mut word, quoted),
                '\'' if !quoted => self.single_quoted(&mut word)?,
                '"' if end != End::Quote && end != End::Text => {
                    let inner = self.nested(End::Quote)?;
                    self.next();
                    // An empty quoted word is a word.
                    word.parts.push(Part::Text(String::new()));
                    word.parts.extend(inner.parts);
                }
                '`' => self.backticks(&mut word)?,
                '$' => self.dollar(&mut word, quoted)?,
                other => word.push_char(other),
            }
        }
        word.raw = self.text[start..self.at].iter().collect();
        merge(&mut word.parts);
        Ok(word)
    }

    fn nested(&mut self, end: End) -> Read<Word> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err("nesting is too deep to be read");
        }
        let word = self.word(end)?;
        self.depth -= 1;
        Ok(word)
    }

    fn escape(&mut self, word: &mut Word, quoted: bool) {
        match self.next() {
            Some('\n') => {}
            Some(character @ ('$' | '`' | '"' | '\\')) => word.push_char(character),
            Some(character) => {
                if quoted {
                    word.push_char('\\');
                }
                word.push_char(character);
            }
            None => word.push_char('\\'),
        }
    }

    fn single_quoted(&mut self, word: &mut Word) -> Read<()> {
        word.parts.push(Part::Text(String::new()));
        loop {
            match self.next() {
                None => return Err("a single quote is not closed"),
                Some('\'') => return Ok(()),
                Some(character) => word.push_char(character),
            }
        }
    }

    fn backticks(&mut self, word: &mut Word) -> Read<()> {
        let line = self.line;
        let mut inner = String::new();
        loop {
            match self.next() {
                None => return Err("a backquote is not closed"),
                Some('`') => break,
                Some('\\') if matches!(self.peek(), Some('`' | '\\' | '$')) => inner.extend(self.next()),
                Some(character) => inner.push(character),
            }
        }
        let mut reader = Reader::new(&inner, line, self.depth, self.script);
        reader.statement = self.statement;
        reader.list(None)?;
        word.parts.push(Part::Unknown);
        Ok(())
    }

    fn dollar(&mut self, word: &mut Word, quoted: bool) -> Read<()> {
        if self.eat("((") {
            if self.arithmetic() {
                word.parts.push(Part::Unknown);
                return Ok(());
            }
            self.at -= 1;
            self.list(Some(')'))?;
            word.parts.push(Part::Unknown);
        } else if self.eat("(") {
            self.list(Some(')'))?;
            word.parts.push(Part::Unknown);
        } else if self.eat("{") {
            let part = self.braces(quoted)?;
            word.parts.push(part);
        } else if !quoted && self.eat("'") {
            return self.ansi_quoted(word);
        } else if let Some(first) = self.peek() {
            if first.is_ascii_alphabetic() || first == '_' {
                let name = self.name();
                word.parts.push(Part::Variable { name, default: None });
            } else if first.is_ascii_digit() || "@*#?$!-".contains(first) {
                self.next();
                word.parts.push(Part::Variable { name: first.to_string(), default: None });
            } else {
                word.push_char('$');
            }
        } else {
            word.push_char('$');
        }
        Ok(())
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(character) = self.peek().filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(character);
            self.next();
        }
        name
    }

    /// Reads an expansion behind `${`.
    fn braces(&mut self, quoted: bool) -> Read<Part> {
        let plain = self.peek().is_some_and(|first| first.is_ascii_alphanumeric() || first == '_');
        let name = self.name();
        let defaults = [":-", "-", ":=", "="].into_iter().any(|operator| self.eat(operator));
        let rest = self.nested(End::Brace { quoted })?;
        self.next();
        // `${NAME[@]}` and `${NAME[*]}` are the array's elements, which are kept as the name's values.
        let whole = matches!(rest.raw.as_str(), "" | "[@]" | "[*]");
        Ok(match (plain, defaults) {
            (true, true) => Part::Variable { name, default: Some(rest) },
            (true, false) if whole => Part::Variable { name, default: None },
            _ => Part::Unknown,
        })
    }

    fn ansi_quoted(&mut self, word: &mut Word) -> Read<()> {
        loop {
            match self.next() {
                None => return Err("a single quote is not closed"),
                Some('\'') => return Ok(()),
                Some('\\') => {
                    if let Some(character) = self.next() {
                        word.push_char(character);
                    }
                }
                Some(character) => word.push_char(character),
            }
        }
    }
}
