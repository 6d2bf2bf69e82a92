//! Texts that match a regular expression of a CHECK.
//!
//! Called by `checks` and `generate`. The server's dialect and ours agree on what CHECKs commonly use; where ours cannot read one,
//! the condition is left to trial.

use regex::Regex;
use regex_syntax::hir::{Class, Hir, HirKind};

use super::keys::{below, mix};
use super::samples::Letters;

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

/// What a text must be like.
pub(super) struct Like<'a> {
    pub(super) patterns: &'a [Pattern],
    /// In characters.
    pub(super) length: std::ops::RangeInclusive<u64>,
    pub(super) letters: Option<Letters>,
}

impl Like<'_> {
    fn fits(&self, text: &str) -> bool {
        self.length.contains(&(text.chars().count() as u64))
            && self.letters.is_none_or(|letters| letters.take(text))
            && self.patterns.iter().all(|pattern| pattern.agrees(text))
    }
}

/// The first candidate that is as it must be, else one made of the patterns; the last candidate where none was found.
pub(super) fn matching(like: &Like<'_>, candidates: impl Iterator<Item = String>, number: u64) -> String {
    let mut last = String::new();
    for candidate in candidates {
        if like.fits(&candidate) {
            return candidate;
        }
        last = candidate;
    }
    let patterns = like.patterns;
    for hir in patterns.iter().filter_map(|pattern| pattern.hir.as_ref()) {
        for attempt in 0..ATTEMPTS {
            let mut text = String::new();
            write(hir, &mut Numbers(mix(number ^ attempt.wrapping_mul(0x5851_f42d))), &mut text);
            if like.fits(&text) {
                return text;
            }
        }
    }
    last
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
    use super::{Letters, Like, Pattern, matching};

    fn made(patterns: &[Pattern], candidate: &str, length_max: u64, number: u64) -> String {
        let like = Like { patterns, length: 0..=length_max, letters: None };
        matching(&like, [candidate.to_owned()].into_iter(), number)
    }

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
                let made = made(&patterns, "no such", 100, number);
                assert!(patterns[0].agrees(&made), "{made} for {text}");
            }
        }
        let like =
            [Pattern::like("a\\_%b_", false, true).unwrap(), Pattern::new("[0-9]", false, false).unwrap()];
        let made = made(&like, "", 100, 5);
        assert!(made.starts_with("a_") && !made.contains(|letter: char| letter.is_ascii_digit()), "{made}");
        assert!(Pattern::new(r"(a)\1", false, true).is_none());
    }

    #[test]
    fn a_candidate_that_fits_is_kept() {
        let patterns = [Pattern::new("^[a-z ]+$", false, true).unwrap()];
        assert_eq!(made(&patterns, "amber river", 20, 1), "amber river");
        assert_ne!(made(&patterns, "amber river", 5, 1), "amber river");
    }

    #[test]
    fn the_first_candidate_that_fits_is_taken_and_letters_count_too() {
        let patterns = [Pattern::new("^[A-Za-z]+$", false, true).unwrap()];
        let candidates = || ["Ríver", "River", "river"].map(str::to_owned).into_iter();
        let like = |letters| Like { patterns: &patterns, length: 0..=20, letters };
        assert_eq!(matching(&like(None), candidates(), 1), "River");
        assert_eq!(matching(&like(Some(Letters::Lower)), candidates(), 1), "river");
    }
}
