//! Words of a shell script: text and variables, and the values that they may have.

use std::collections::BTreeMap;

/// Stands for a part of a word whose value only a running shell knows. A private-use character: no script has it.
pub(super) const UNKNOWN: char = '\u{E000}';
/// Combinations of variables' values that are followed.
const VALUES_MAX: usize = 16;

/// Every value that a variable is given, by name.
pub(super) type Variables = BTreeMap<String, Vec<Word>>;

/// One word of a command.
#[derive(Debug, Clone, Default)]
pub(super) struct Word {
    pub(super) parts: Vec<Part>,
    /// As written.
    pub(super) raw: String,
}

/// A piece of a word.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Text(String),
    Variable { name: String, default: Option<Word> },
    Unknown,
}

impl Word {
    pub(super) fn push_char(&mut self, character: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(character),
            _ => self.parts.push(Part::Text(character.to_string())),
        }
    }

    /// The text of a word without variables.
    pub(super) fn literal(&self) -> Option<String> {
        match &self.parts[..] {
            [] => Some(String::new()),
            [Part::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    /// Every value that the word may have; parts that are not known are [`UNKNOWN`].
    pub(super) fn values(&self, variables: &Variables) -> Vec<String> {
        self.values_within(variables, 0)
    }

    fn values_within(&self, variables: &Variables, depth: usize) -> Vec<String> {
        let mut values = vec![String::new()];
        for part in &self.parts {
            let pieces = match part {
                Part::Text(text) => vec![text.clone()],
                Part::Variable { name, default } if depth < 4 => {
                    let mut pieces: Vec<String> = Vec::new();
                    let assigned = variables.get(name).into_iter().flatten();
                    for word in assigned.chain(default) {
                        pieces.extend(word.values_within(variables, depth + 1));
                    }
                    if pieces.is_empty() { vec![UNKNOWN.to_string()] } else { pieces }
                }
                Part::Variable { .. } | Part::Unknown => vec![UNKNOWN.to_string()],
            };
            values = values
                .iter()
                .flat_map(|value| pieces.iter().map(move |piece| format!("{value}{piece}")))
                .take(VALUES_MAX)
                .collect();
        }
        values.dedup();
        values
    }

    /// `NAME=value` taken apart, when the word is written so.
    pub(super) fn assignment(&self) -> Option<(String, Word)> {
        let (name, _) = self.raw.split_once('=')?;
        let plain = name.strip_suffix('+').unwrap_or(name);
        if !is_name(plain) {
            return None;
        }
        let mut value = self.clone();
        // The raw text starts with the name, so the first part is text and starts with it too.
        if let Some(Part::Text(text)) = value.parts.first_mut() {
            *text = text.get(name.len() + 1..).unwrap_or_default().to_owned();
        }
        value.raw = self.raw[name.len() + 1..].to_owned();
        Some((plain.to_owned(), value))
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Joins neighbouring text.
pub(super) fn merge(parts: &mut Vec<Part>) {
    let mut merged: Vec<Part> = Vec::with_capacity(parts.len());
    for part in parts.drain(..) {
        match (merged.last_mut(), part) {
            (Some(Part::Text(text)), Part::Text(more)) => text.push_str(&more),
            (_, part) => merged.push(part),
        }
    }
    *parts = merged;
}
