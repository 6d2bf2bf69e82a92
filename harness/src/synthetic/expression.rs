//! The server's own rendering of a condition (`pg_get_expr`) as a tree: as much of SQL as CHECKs commonly use.
//!
//! Called by `checks` and `plan`. What it does not know becomes [`Expression::Unknown`] and never an error: such a condition is
//! left to trial.

use fulldress_reports::sql::{Token, tokens};

/// A part of a condition. Casts and collations are dropped: constants are read by the type of the column beside them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Column(String),
    Text(String),
    Number(String),
    Bool(bool),
    Null,
    Array(Vec<Expression>),
    /// A function by its unqualified name.
    Call(String, Vec<Expression>),
    Binary(String, Box<Expression>, Box<Expression>),
    /// `left operator ANY (array)`; or ALL.
    Quantified {
        operator: String,
        left: Box<Expression>,
        array: Box<Expression>,
        all: bool,
    },
    IsNull(Box<Expression>),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
    Unknown,
}

impl Expression {
    /// With another name for a column.
    pub(super) fn renamed(self, from: &str, to: &str) -> Self {
        let one = |inner: Box<Self>| Box::new(inner.renamed(from, to));
        let all = |parts: Vec<Self>| parts.into_iter().map(|part| part.renamed(from, to)).collect();
        match self {
            Self::Column(name) if name == from => Self::Column(to.to_owned()),
            Self::Array(items) => Self::Array(all(items)),
            Self::Call(name, arguments) => Self::Call(name, all(arguments)),
            Self::Binary(operator, left, right) => Self::Binary(operator, one(left), one(right)),
            Self::Quantified { operator, left, array, all } => {
                Self::Quantified { operator, left: one(left), array: one(array), all }
            }
            Self::IsNull(inner) => Self::IsNull(one(inner)),
            Self::Not(inner) => Self::Not(one(inner)),
            Self::And(parts) => Self::And(all(parts)),
            Self::Or(parts) => Self::Or(all(parts)),
            other => other,
        }
    }
}

/// Words that read as functions of no argument.
const NILADIC: [&str; 5] =
    ["current_date", "current_timestamp", "localtimestamp", "current_time", "localtime"];
/// Nested parentheses that are followed.
const DEPTH_MAX: u32 = 64;

/// Reads a condition.
pub(super) fn parse(text: &str) -> Expression {
    let mut parser = Parser { lexemes: lexemes(text), at: 0, depth: 0 };
    parser.disjunction().filter(|_| parser.at == parser.lexemes.len()).unwrap_or(Expression::Unknown)
}

/// Every word that could be a column's name, unquoted.
pub(super) fn words(text: &str) -> Vec<String> {
    let lexemes = lexemes(text).into_iter();
    lexemes
        .filter_map(|lexeme| match lexeme {
            Lexeme::Word(word) | Lexeme::Quoted(word) => Some(word),
            _ => None,
        })
        .collect()
}

/// Every constant in a condition: good candidates where nothing else is known.
pub(super) fn constants(text: &str) -> Vec<String> {
    let lexemes = lexemes(text).into_iter();
    lexemes
        .filter_map(|lexeme| match lexeme {
            Lexeme::Text(text) | Lexeme::Number(text) => Some(text),
            _ => None,
        })
        .collect()
}

#[derive(Debug, Clone, PartialEq)]
enum Lexeme {
    /// In lower case.
    Word(String),
    Quoted(String),
    Text(String),
    Number(String),
    Operator(String),
    /// One of `( ) [ ] , . :`; `::` is an operator.
    Mark(char),
}

fn lexemes(text: &str) -> Vec<Lexeme> {
    let mut found: Vec<Lexeme> = Vec::new();
    // Where the last operator ended: adjacent characters are one operator.
    let mut operator_end = usize::MAX;
    for (token, at) in tokens(text) {
        match token {
            Token::Comment | Token::Space => {}
            Token::Literal => {
                let rest = &text[at..];
                let end = tokens(rest).nth(1).map_or(rest.len(), |(_, next)| next);
                found.push(Lexeme::Text(unquote(&rest[..end])));
            }
            Token::Number => {
                let rest = &text[at..];
                let end = tokens(rest).nth(1).map_or(rest.len(), |(_, next)| next);
                found.push(Lexeme::Number(rest[..end].to_owned()));
            }
            Token::Word(word) => found.push(match word.strip_prefix('"') {
                Some(quoted) => Lexeme::Quoted(quoted.trim_end_matches('"').replace("\"\"", "\"")),
                None => Lexeme::Word(word.to_lowercase()),
            }),
            Token::Symbol(symbol) => {
                let letter = symbol.chars().next().unwrap_or(' ');
                if "()[],.".contains(letter) {
                    found.push(Lexeme::Mark(letter));
                } else if let (true, Some(Lexeme::Operator(last))) = (operator_end == at, found.last_mut()) {
                    last.push(letter);
                    operator_end = at + symbol.len();
                } else {
                    found.push(Lexeme::Operator(letter.to_string()));
                    operator_end = at + symbol.len();
                }
            }
        }
    }
    found
}

fn unquote(literal: &str) -> String {
    let escaped = literal.starts_with(['e', 'E']);
    let inner = literal.trim_start_matches(['e', 'E']);
    let inner = inner.strip_prefix('\'').and_then(|inner| inner.strip_suffix('\'')).unwrap_or(inner);
    let text = inner.replace("''", "'");
    if escaped { text.replace("\\\\", "\\") } else { text }
}

struct Parser {
    lexemes: Vec<Lexeme>,
    at: usize,
    depth: u32,
}

impl Parser {
    fn peek(&self) -> Option<&Lexeme> {
        self.lexemes.get(self.at)
    }

    fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Lexeme::Word(found)) if found == word)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let found = self.peek() == Some(&Lexeme::Mark(mark));
        self.at += usize::from(found);
        found
    }

    fn take_operator(&mut self, operator: &str) -> bool {
        let found = matches!(self.peek(), Some(Lexeme::Operator(found)) if found == operator);
        self.at += usize::from(found);
        found
    }

    fn disjunction(&mut self) -> Option<Expression> {
        let mut parts = vec![self.conjunction()?];
        while self.take_word("or") {
            parts.push(self.conjunction()?);
        }
        if parts.len() == 1 { parts.pop() } else { Some(Expression::Or(parts)) }
    }

    fn conjunction(&mut self) -> Option<Expression> {
        let mut parts = vec![self.negation()?];
        while self.take_word("and") {
            parts.push(self.negation()?);
        }
        if parts.len() == 1 { parts.pop() } else { Some(Expression::And(parts)) }
    }

    fn negation(&mut self) -> Option<Expression> {
        if self.take_word("not") {
            return Some(Expression::Not(Box::new(self.negation()?)));
        }
        let mut expression = self.comparison()?;
        while self.take_word("is") {
            let negated = self.take_word("not");
            let test = if self.take_word("null") {
                Expression::IsNull(Box::new(expression))
            } else if self.take_word("true") {
                Expression::Call("is_true".to_owned(), vec![expression])
            } else if self.take_word("false") {
                Expression::Call("is_true".to_owned(), vec![Expression::Not(Box::new(expression))])
            } else if self.take_word("distinct") && self.take_word("from") {
                let right = self.comparison()?;
                let equal = Expression::Binary("=".to_owned(), Box::new(expression), Box::new(right));
                Expression::Not(Box::new(Expression::Call("is_true".to_owned(), vec![equal])))
            } else {
                return None;
            };
            expression = if negated { Expression::Not(Box::new(test)) } else { test };
        }
        Some(expression)
    }

    fn comparison(&mut self) -> Option<Expression> {
        let mut left = self.operand()?;
        while let Some(Lexeme::Operator(operator)) = self.peek().cloned() {
            if operator == "::" || operator == ":" {
                return None;
            }
            self.at += 1;
            let (any, all) = (self.take_word("any"), self.is_word("all"));
            if any || all {
                self.at += usize::from(all);
                let array = Box::new(self.operand()?);
                left = Expression::Quantified { operator, left: Box::new(left), array, all };
                continue;
            }
            let right = self.operand()?;
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
        Some(left)
    }

    fn operand(&mut self) -> Option<Expression> {
        let mut operand = self.primary()?;
        loop {
            if self.take_operator("::") {
                self.skip_type()?;
            } else if self.take_word("collate") {
                self.at += 1;
                while self.take_mark('.') {
                    self.at += 1;
                }
            } else if self.peek() == Some(&Lexeme::Mark('[')) {
                self.skip_to_close('[', ']')?;
                operand = Expression::Unknown;
            } else if self.take_word("at") {
                (self.take_word("time") && self.take_word("zone")).then_some(())?;
                self.primary()?;
                operand = Expression::Unknown;
            } else {
                return Some(operand);
            }
        }
    }

    fn primary(&mut self) -> Option<Expression> {
        let lexeme = self.peek()?.clone();
        self.at += 1;
        match lexeme {
            Lexeme::Mark('(') => {
                self.depth += 1;
                if self.depth > DEPTH_MAX {
                    return None;
                }
                let inner = self.disjunction()?;
                self.depth -= 1;
                self.take_mark(')').then_some(inner)
            }
            Lexeme::Text(text) => Some(Expression::Text(text)),
            Lexeme::Number(number) => Some(Expression::Number(number)),
            Lexeme::Operator(sign) if sign == "-" || sign == "+" => match self.operand()? {
                Expression::Number(number) if sign == "-" => Some(Expression::Number(format!("-{number}"))),
                Expression::Number(number) => Some(Expression::Number(number)),
                _ => Some(Expression::Unknown),
            },
            Lexeme::Quoted(name) => self.name(name),
            Lexeme::Word(word) => match word.as_str() {
                "true" => Some(Expression::Bool(true)),
                "false" => Some(Expression::Bool(false)),
                "null" => Some(Expression::Null),
                "array" => self.array(),
                "case" => self.case(),
                _ if NILADIC.contains(&word.as_str()) => Some(Expression::Call(word, Vec::new())),
                _ => self.name(word),
            },
            _ => None,
        }
    }

    /// A column, or a call.
    fn name(&mut self, first: String) -> Option<Expression> {
        let mut name = first;
        while self.take_mark('.') {
            let Some(Lexeme::Word(next) | Lexeme::Quoted(next)) = self.peek().cloned() else { return None };
            self.at += 1;
            name = next;
        }
        if !self.take_mark('(') {
            return Some(Expression::Column(name));
        }
        // TRIM(BOTH FROM x), EXTRACT(year FROM x).
        let mut arguments = Vec::new();
        while !self.take_mark(')') {
            let _side = self.take_word("both") || self.take_word("leading") || self.take_word("trailing");
            if self.take_word("from") || self.take_mark(',') || self.take_word("for") {
                continue;
            }
            arguments.push(self.disjunction()?);
        }
        Some(Expression::Call(name, arguments))
    }

    fn array(&mut self) -> Option<Expression> {
        self.take_mark('[').then_some(())?;
        let mut items = Vec::new();
        while !self.take_mark(']') {
            items.push(self.disjunction()?);
            self.take_mark(',');
        }
        Some(Expression::Array(items))
    }

    fn case(&mut self) -> Option<Expression> {
        let mut depth = 1;
        while depth > 0 {
            if self.is_word("case") {
                depth += 1;
            } else if self.is_word("end") {
                depth -= 1;
            }
            self.peek()?;
            self.at += 1;
        }
        Some(Expression::Unknown)
    }

    fn skip_type(&mut self) -> Option<()> {
        let Some(Lexeme::Word(_) | Lexeme::Quoted(_)) = self.peek() else { return None };
        self.at += 1;
        while self.take_mark('.') {
            self.at += 1;
        }
        loop {
            let more = ["varying", "precision", "without", "with", "time", "zone"];
            if more.iter().any(|word| self.take_word(word)) {
                continue;
            }
            match self.peek() {
                Some(Lexeme::Mark('(')) => self.skip_to_close('(', ')')?,
                Some(Lexeme::Mark('[')) => self.skip_to_close('[', ']')?,
                _ => return Some(()),
            }
        }
    }

    fn skip_to_close(&mut self, open: char, close: char) -> Option<()> {
        let mut depth = 0;
        loop {
            if self.take_mark(open) {
                depth += 1;
            } else if self.take_mark(close) {
                depth -= 1;
            } else {
                self.peek()?;
                self.at += 1;
            }
            if depth == 0 {
                return Some(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Expression, constants, parse, words};

    fn column(name: &str) -> Box<Expression> {
        Box::new(Expression::Column(name.to_owned()))
    }

    #[test]
    fn what_the_server_writes_is_read() {
        let text =
            "((status)::text = ANY ((ARRAY['open'::character varying, 'it''s'::character varying])::text[]))";
        let items = ["open", "it's"].map(|item| Expression::Text(item.to_owned())).to_vec();
        let expected = Expression::Quantified {
            operator: "=".to_owned(),
            left: column("status"),
            array: Box::new(Expression::Array(items)),
            all: false,
        };
        assert_eq!(parse(text), expected);
        let text = "(((a >= '-1'::integer) AND (\"B c\" < (0.5)::double precision)) OR (d IS NOT NULL))";
        let Expression::Or(parts) = parse(text) else { panic!("{text}") };
        assert_eq!(parts[1], Expression::Not(Box::new(Expression::IsNull(column("d")))));
        let Expression::And(parts) = &parts[0] else { panic!("{text}") };
        let number = Box::new(Expression::Number("0.5".to_owned()));
        assert_eq!(parts[1], Expression::Binary("<".to_owned(), column("B c"), number));
    }

    #[test]
    fn what_is_not_known_is_unknown_and_no_error() {
        for text in ["CASE WHEN a THEN 1 ELSE 2 END", "(a", "", "a AT TIME ZONE", "))", "SELECT 1 FROM x"] {
            let parsed = parse(text);
            assert_eq!(parsed, Expression::Unknown, "{text}");
        }
        let Expression::Binary(_, left, _) = parse("(x[1] > 0)") else { panic!() };
        assert_eq!(*left, Expression::Unknown);
    }

    #[test]
    fn words_and_constants_are_found() {
        assert_eq!(words("lower((\"E m\")::text) || x"), ["lower", "E m", "text", "x"]);
        assert_eq!(constants("(a <> 'b'::text) AND c > 12"), ["b", "12"]);
    }
}
