//! Texts that match a regular expression of a CHECK.
//!
//! Called by `checks` and `generate`. The server's dialect and ours agree on what CHECKs commonly use; where ours cannot read one,
//! the condition is left to trial.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::keys::{below, mix};

/// How often an unlimited repetition repeats beyond its least.
const REPEAT: u32 = 8;
/// Texts made until one fits everything.
const ATTEMPTS: u64 = 24;

/// What a text must match, or must not.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    regex: Regex,
    /// How to make one; absent for what must not match.
    hir: Option<Hir>,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.hir.is_some() == other.hir.is_some()
    }
}

impl Pattern {
    /// Reads the server's `~` (or `~*`) and `!~`.
    pub(super) fn new(text: &str, ignores_case: bool, matches: bool) -> Option<Self> {
        let text = if ignores_case { format!("(?i){text}") } else { text.to_owned() };
        let regex = Regex::new(&text).ok()?;
        let hir = matches.then(|| regex_syntax::parse(&text).ok());
        if hir == Some(None) {
            return None;
        }
        Some(Self { regex, hir: hir.flatten() })
    }

    /// Reads a pattern of LIKE.
    pub(super) fn like(text: &str, ignores_case: bool, matches: bool) -> Option<Self> {
        let mut regex = String::from("(?s)^");
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => regex.push_str(".*"),
                '_' => regex.push('.'),
                '\\' => regex.push_str(&regex::escape(&letters.next().unwrap_or('\\').to_string())),
                _ => regex.push_str(&regex::escape(&letter.to_string())),
            }
        }
        regex.push('$');
        Self::new(&regex, ignores_case, matches)
    }

    fn agrees(&self, text: &str) -> bool {
        self.regex.is_match(text) == self.hir.is_some()
    }
}

/// A text that agrees with all patterns, and a length; the candidate itself where it does.
pub(super) fn matching(
    patterns: &[Pattern],
    candidate: String,
    length: std::ops::RangeInclusive<u64>,
    number: u64,
) -> String {
    let fits = |text: &str| {
        length.contains(&(text.chars().count() as u64)) && patterns.iter().all(|pattern| pattern.agrees(text))
    };
    if fits(&candidate) {
        return candidate;
    }
    for hir in patterns.iter().filter_map(|pattern| pattern.hir.as_ref()) {
        for attempt in 0..ATTEMPTS {
            let mut text = String::new();
            write(hir, &mut Numbers(mix(number ^ attempt.wrapping_mul(0x5851_f42d))), &mut text);
            if fits(&text) {
                return text;
            }
        }
    }
    candidate
}

/// Random numbers after each other.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, size: u64) -> u64 {
        self.0 = mix(self.0);
        below(self.0, size)
    }
}

fn write(hir: &Hir, numbers: &mut Numbers, out: &mut String) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(class) => out.extend(letter(class, numbers)),
        HirKind::Repetition(repetition) => {
            let room = repetition.max.map_or(REPEAT, |max| max.saturating_sub(repetition.min).min(REPEAT));
            let count = u64::from(repetition.min) + numbers.below(u64::from(room) + 1);
            (0..count).for_each(|_| write(&repetition.sub, numbers, out));
        }
        HirKind::Capture(capture) => write(&capture.sub, numbers, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write(part, numbers, out)),
        HirKind::Alternation(parts) => {
            let chosen = numbers.below(parts.len() as u64) as usize;
            write(&parts[chosen], numbers, out);
        }
    }
}

/// A letter of a class: plain ones where it has some.
fn letter(class: &Class, numbers: &mut Numbers) -> Option<char> {
    let Class::Unicode(class) = class else { return None };
    let within = |low: char, high: char| -> Vec<char> {
        (low..=high)
            .filter(|letter| {
                class.ranges().iter().any(|range| (range.start()..=range.end()).contains(letter))
            })
            .collect()
    };
    let mut letters = within('a', 'z');
    letters.extend(within('0', '9'));
    if letters.is_empty() {
        letters = within(' ', '~');
    }
    match letters.len() as u64 {
        0 => class.ranges().first().map(|range| range.start()),
        count => letters.get(numbers.below(count) as usize).copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, matching};

    #[test]
    fn texts_match_what_checks_commonly_ask_for() {
        let ask = [
            r"^[A-Z]{3}-\d{4}$",
            r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
            "^(open|closed)$",
            "^#[0-9a-f]{6}$",
            "[[:digit:]]",
            r"^v\d+\.\d+(\.\d+)?$",
        ];
        for text in ask {
            let patterns = [Pattern::new(text, false, true).unwrap()];
            for number in 0..50 {
                let made = matching(&patterns, "no such".to_owned(), 0..=100, number);
                assert!(patterns[0].agrees(&made), "{made} for {text}");
            }
        }
        let like =
            [Pattern::like("a\\_%b_", false, true).unwrap(), Pattern::new("[0-9]", false, false).unwrap()];
        let made = matching(&like, String::new(), 0..=100, 5);
        assert!(made.starts_with("a_") && !made.contains(|letter: char| letter.is_ascii_digit()), "{made}");
        assert!(Pattern::new(r"(a)\1", false, true).is_none());
    }

    #[test]
    fn a_candidate_that_fits_is_kept() {
        let patterns = [Pattern::new("^[a-z ]+$", false, true).unwrap()];
        assert_eq!(matching(&patterns, "amber river".to_owned(), 0..=20, 1), "amber river");
        assert_ne!(matching(&patterns, "amber river".to_owned(), 0..=5, 1), "amber river");
    }
}
