//! What the conditions of a table demand of each column together, case by case.
//!
//! Called by `plan` and `types`; `generate` makes values that meet a demand.

use super::checks::{Atom, Comparison, Conjunction, Constant};
use super::pattern::Pattern;
use super::samples::Letters;
use super::value::{Scalar, Shape, Value};

/// Cases of one table that are kept.
const CASES_MAX: usize = 48;
/// Surely before and surely after the server's clock.
const PAST: &str = "2026-01-01";
const FUTURE: &str = "2100-01-01";

/// The demand on one column; without any it is any value of the type, or null where the column takes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Demand {
    /// Must be null, or must not.
    pub(super) null: Option<bool>,
    /// Bounds in the scalar's units, both inclusive.
    pub(super) low: Option<i64>,
    pub(super) high: Option<i64>,
    pub(super) among: Option<Vec<Value>>,
    pub(super) except: Vec<Value>,
    /// Items of an array.
    pub(super) items: Option<Vec<Value>>,
    /// Characters, bytes or items.
    pub(super) length_min: Option<u64>,
    pub(super) length_max: Option<u64>,
    pub(super) patterns: Vec<Pattern>,
    /// Of a text.
    pub(super) letters: Option<Letters>,
    /// `object`, `array`, …
    pub(super) json: Option<String>,
    /// Follows from another column of the row.
    pub(super) beside: Option<Beside>,
}

/// A column that follows from another: `this comparison other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Beside {
    pub(super) other: usize,
    pub(super) comparison: Comparison,
}

/// What a table's columns are like to conditions.
pub(super) struct Columns<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) shapes: Vec<&'a Shape>,
    /// Their values come from elsewhere: keys of other tables, sequences. Only null can be demanded of them.
    pub(super) is_given: Vec<bool>,
    pub(super) not_null: Vec<bool>,
}

/// Demands on all columns that hold together.
pub(super) type Case = Vec<Demand>;

/// Cases that meet every condition, each by its name and its alternatives; and the names of those that are not surely met.
pub(super) fn cases(
    columns: &Columns<'_>,
    conditions: &[(String, Vec<Conjunction>)],
) -> (Vec<Case>, Vec<String>) {
    let mut cases = vec![vec![Demand::default(); columns.names.len()]];
    let mut uncertain = Vec::new();
    for (name, ways) in conditions {
        let mut sure = Vec::new();
        let mut unsure = Vec::new();
        for way in ways {
            for case in &cases {
                let mut longer = case.clone();
                if let Some(certain) = columns.demand_all(&mut longer, way) {
                    if certain { sure.push(longer) } else { unsure.push(longer) }
                }
            }
        }
        if sure.is_empty() {
            uncertain.push(name.clone());
        }
        let found = if sure.is_empty() { unsure } else { sure };
        if !found.is_empty() {
            cases = spread(found);
        }
    }
    (cases, uncertain)
}

/// At most as many as are kept, from everywhere in the list.
fn spread(cases: Vec<Case>) -> Vec<Case> {
    let count = cases.len();
    if count <= CASES_MAX {
        return cases;
    }
    let mut cases: Vec<Option<Case>> = cases.into_iter().map(Some).collect();
    (0..CASES_MAX).filter_map(|index| cases[index * count / CASES_MAX].take()).collect()
}

impl Columns<'_> {
    /// Adds the demands of a conjunction to a case. None where they contradict it; whether nothing was skipped.
    fn demand_all(&self, case: &mut Case, way: &Conjunction) -> Option<bool> {
        let mut certain = way.certain;
        for atom in &way.atoms {
            certain &= self.demand(case, atom)?;
        }
        Some(certain)
    }

    fn place(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|column| *column == name)
    }

    fn demand(&self, case: &mut Case, atom: &Atom) -> Option<bool> {
        if let Atom::Columns(left, comparison, right) = atom {
            return Some(self.between(case, left, *comparison, right));
        }
        let (Atom::Null(name, _)
        | Atom::Compare(name, ..)
        | Atom::Among(name, ..)
        | Atom::Items(name, _)
        | Atom::Length(name, ..)
        | Atom::Match { column: name, .. }
        | Atom::Letters(name, _)
        | Atom::Json(name, _)
        | Atom::Columns(name, ..)) = atom;
        let Some(place) = self.place(name) else { return Some(false) };
        if let Atom::Null(_, null) = atom {
            let contradicts = (*null && self.not_null[place]) || case[place].null == Some(!*null);
            case[place].null = Some(*null);
            return (!contradicts).then_some(true);
        }
        if self.is_given[place] {
            return Some(false);
        }
        let certain = case[place].add(atom, self.shapes[place]);
        (!case[place].is_impossible()).then_some(certain)
    }

    /// One of two columns follows from the other.
    fn between(&self, case: &mut Case, left: &str, comparison: Comparison, right: &str) -> bool {
        let (Some(left), Some(right)) = (self.place(left), self.place(right)) else { return false };
        let ordered = |place: usize| matches!(self.shapes[place], Shape::Scalar { .. });
        let same_kind = match (self.shapes[left], self.shapes[right]) {
            (Shape::Scalar { scalar: left, .. }, Shape::Scalar { scalar: right, .. }) => {
                left.has_units_of(*right)
            }
            (left, right) => left == right,
        };
        if !same_kind || (comparison != Comparison::Equal && !ordered(left)) {
            // Two texts differ by chance.
            return comparison == Comparison::Unequal && !self.is_given[left] && !self.is_given[right];
        }
        // The later of the two in order, so that `started < ended < removed` is a chain.
        let flipped = comparison.flipped();
        let greater_first = matches!(comparison, Comparison::Greater | Comparison::GreaterOrEqual);
        let ways = [(left, comparison, right), (right, flipped, left)];
        let ways = if greater_first { ways } else { [ways[1], ways[0]] };
        for (this, comparison, other) in ways {
            let is_free = !self.is_given[this] && case[this].beside.is_none() && case[this].among.is_none();
            if is_free && !follows(case, other, this) {
                case[this].beside = Some(Beside { other, comparison });
                return true;
            }
        }
        false
    }
}

/// Whether a column follows from another, directly or not.
fn follows(case: &Case, mut column: usize, from: usize) -> bool {
    while let Some(beside) = case[column].beside {
        if beside.other == from {
            return true;
        }
        column = beside.other;
    }
    false
}

impl Demand {
    /// Adds an atom on this column; whether it is met for sure.
    pub(super) fn add(&mut self, atom: &Atom, shape: &Shape) -> bool {
        match atom {
            Atom::Null(_, null) => self.null = Some(*null),
            Atom::Compare(_, comparison, constant) => return self.compare(*comparison, constant, shape),
            Atom::Among(_, constants, is_in) => {
                let Some(values) = read_all(constants, shape) else { return false };
                if *is_in {
                    self.choose(values);
                } else {
                    self.except.extend(values);
                }
            }
            Atom::Items(_, constants) => {
                let Shape::Array { element, .. } = shape else { return false };
                let Some(values) = read_all(constants, element) else { return false };
                self.items = Some(values);
            }
            Atom::Length(_, comparison, length) => return self.length(*comparison, *length),
            Atom::Match { pattern, like, ignores_case, matches, .. } => {
                if !matches!(shape, Shape::Text { .. }) {
                    return false;
                }
                let read = if *like { Pattern::like } else { Pattern::new };
                let Some(pattern) = read(pattern, *ignores_case, *matches) else { return false };
                self.patterns.push(pattern);
            }
            Atom::Letters(_, letters) => return self.letters(*letters, shape),
            Atom::Json(_, kind) => self.json = Some(kind.clone()),
            Atom::Columns(..) => return false,
        }
        true
    }

    fn compare(&mut self, comparison: Comparison, constant: &Constant, shape: &Shape) -> bool {
        if let (
            Shape::Scalar { scalar, .. },
            Comparison::Less | Comparison::LessOrEqual | Comparison::Greater | Comparison::GreaterOrEqual,
        ) = (shape, comparison)
        {
            let before = matches!(comparison, Comparison::Less | Comparison::LessOrEqual);
            let Some((low, high)) = units(*scalar, constant, before) else { return false };
            let bound =
                |units: i128| i64::try_from(units).unwrap_or(if units < 0 { i64::MIN } else { i64::MAX });
            let at_most = |old: Option<i64>, new: i64| Some(old.map_or(new, |old| old.min(new)));
            let at_least = |old: Option<i64>, new: i64| Some(old.map_or(new, |old| old.max(new)));
            match comparison {
                Comparison::Less => self.high = at_most(self.high, bound(high - 1)),
                Comparison::LessOrEqual => self.high = at_most(self.high, bound(low)),
                Comparison::Greater => self.low = at_least(self.low, bound(low + 1)),
                _ => self.low = at_least(self.low, bound(high)),
            }
            return true;
        }
        let Constant::Text(text) = constant else { return false };
        match comparison {
            Comparison::Equal => match shape.read(text) {
                Some(value) => self.choose(vec![value]),
                None => return false,
            },
            // What cannot be read is no value that could be made.
            Comparison::Unequal => match shape.read(text) {
                Some(Value::Text(text)) if text.is_empty() => {
                    self.length_min = Some(self.length_min.unwrap_or(0).max(1))
                }
                Some(value) => self.except.push(value),
                None => {}
            },
            _ => return false,
        }
        true
    }

    fn letters(&mut self, letters: Letters, shape: &Shape) -> bool {
        match shape {
            Shape::Text { .. } => {}
            // The bytes of bytes are what is counted anyway.
            Shape::Bytea => return letters == Letters::Ascii,
            _ => return false,
        }
        let both = self.letters.map_or(Some(letters), |before| before.and(letters));
        self.letters = both.or(self.letters);
        both.is_some()
    }

    fn choose(&mut self, values: Vec<Value>) {
        self.among = Some(match self.among.take() {
            Some(old) => old.into_iter().filter(|value| values.contains(value)).collect(),
            None => values,
        });
    }

    fn length(&mut self, comparison: Comparison, length: i64) -> bool {
        let at = |length: i64| u64::try_from(length).unwrap_or(0);
        let (low, high) = match comparison {
            Comparison::Equal => (Some(at(length)), Some(at(length))),
            Comparison::Less => (None, Some(at(length - 1))),
            Comparison::LessOrEqual => (None, Some(at(length))),
            Comparison::Greater => (Some(at(length + 1)), None),
            Comparison::GreaterOrEqual => (Some(at(length)), None),
            Comparison::Unequal if length == 0 => (Some(1), None),
            Comparison::Unequal => return false,
        };
        if let Some(low) = low {
            self.length_min = Some(self.length_min.map_or(low, |old| old.max(low)));
        }
        if let Some(high) = high {
            self.length_max = Some(self.length_max.map_or(high, |old| old.min(high)));
        }
        true
    }

    /// Whether no value meets it; null does.
    fn is_impossible(&self) -> bool {
        let crossed =
            |low: Option<i64>, high: Option<i64>| low.zip(high).is_some_and(|(low, high)| low > high);
        let lengths = self.length_min.zip(self.length_max).is_some_and(|(low, high)| low > high);
        let among = self.among.as_ref().is_some_and(|among| among.iter().all(|value| self.excludes(value)));
        self.null != Some(true) && (crossed(self.low, self.high) || lengths || among)
    }

    /// Whether a chosen value is against the rest of the demand.
    pub(super) fn excludes(&self, value: &Value) -> bool {
        let outside = match value {
            Value::Units(units) => {
                self.low.is_some_and(|low| *units < low) || self.high.is_some_and(|high| *units > high)
            }
            Value::Text(text) => self.letters.is_some_and(|letters| !letters.take(text)),
            _ => false,
        };
        outside || self.except.contains(value)
    }
}

fn read_all(constants: &[Constant], shape: &Shape) -> Option<Vec<Value>> {
    let values: Vec<Value> = constants
        .iter()
        .filter_map(|constant| match constant {
            Constant::Text(text) => shape.read(text),
            Constant::Now => None,
        })
        .collect();
    (!values.is_empty()).then_some(values)
}

/// A constant rounded down and up. What lies before the server's clock lies before the first, what lies after it after the second.
fn units(scalar: Scalar, constant: &Constant, before: bool) -> Option<(i128, i128)> {
    let text = match constant {
        Constant::Text(text) => text,
        Constant::Now if matches!(scalar, Scalar::Date | Scalar::Timestamp | Scalar::TimestampTz) => {
            if before { PAST } else { FUTURE }
        }
        Constant::Now => return None,
    };
    Some((scalar.units(text, false)?, scalar.units(text, true)?))
}
