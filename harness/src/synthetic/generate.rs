//! Makes values of a column from numbers.
//!
//! Called by `row`. A [`Maker`] is made once for each column and case; making a value then is a function of one number: the row's
//! place where values must differ, else a random one.

use std::sync::Arc;

use super::demand::Demand;
use super::keys::{below, mix};
use super::pattern::{Like, matching};
use super::samples::{Letters, mixed_word, sample, word};
use super::value::{DAY_US, Scalar, Shape, Value};

/// Rows from which on random values come from a pool, and values in it.
const POOLED_ROWS: u64 = 20_000;
const POOL: u64 = 4_096;
/// Characters of a text without a limit.
const TEXT_MAX: u64 = 200;
/// Days since 2000-01-01 of 2023-01-01 and 2025-12-31: what lies in the past of every rehearsal.
const FIRST_DAY: i64 = 8_401;
const LAST_DAY: i64 = 9_496;

/// How a column's values are made.
#[derive(Debug, Clone)]
pub(super) struct Maker {
    kind: Kind,
    demand: Demand,
    /// Random values that were made before, where a table has so many rows that making each would take long.
    pool: Option<Arc<[Value]>>,
}

#[derive(Debug, Clone)]
enum Kind {
    Null,
    Chosen(Vec<Value>),
    /// Where random values lie, where distinct ones, and how far those are from each other.
    Units {
        plain: Units,
        wide: Units,
        step: u64,
    },
    Bool,
    Text {
        max: u64,
        style: Style,
    },
    Uuid,
    Bytes {
        length: u64,
    },
    Network,
    Mac {
        length: usize,
    },
    Bit {
        bits: u32,
    },
    Json,
    List {
        item: Box<Maker>,
        minimum: u64,
        maximum: u64,
    },
    Range {
        low: i64,
        width: i64,
    },
    Ranges {
        low: i64,
        width: i64,
    },
    Record(Vec<Maker>),
    Sample {
        name: String,
        modifier: i32,
    },
}

/// So many units from here on.
#[derive(Debug, Clone, Copy)]
struct Units {
    low: i64,
    size: u64,
}

/// What a text looks like, by the column's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Words,
    Email,
    Link,
    Digits,
    Address,
}

/// A number for a value, and whether different numbers must give different values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Number {
    /// The row's place among those that must differ, or a random number.
    pub(super) value: u64,
    pub(super) distinct: bool,
    /// The column's key: of places that are the same with every seed, it makes different values.
    pub(super) salt: u64,
    /// Texts have plain letters only, though nothing known asks for them.
    pub(super) is_plain: bool,
}

impl Number {
    const fn random(value: u64) -> Self {
        Self { value, distinct: false, salt: 0, is_plain: false }
    }

    /// One in `0..size`; the place itself where values must differ.
    const fn below(self, size: u64) -> u64 {
        if self.distinct { self.value % size } else { below(self.value, size) }
    }
}

impl Maker {
    /// Of a column with this name and shape under a demand; `rows` values may have to differ.
    pub(super) fn new(name: &str, shape: &Shape, demand: &Demand, rows: u64) -> Self {
        let made = |kind| Self { kind, demand: demand.clone(), pool: None };
        if demand.null == Some(true) {
            return made(Kind::Null);
        }
        if let Some(among) = &demand.among {
            return made(Kind::Chosen(
                among.iter().filter(|value| !demand.excludes(value)).cloned().collect(),
            ));
        }
        match shape {
            Shape::Narrowed { shape, demand } => Self::new(name, shape, demand, rows),
            Shape::Scalar { scalar, low, high } => made(window(*scalar, *low, *high, demand, rows)),
            Shape::Enum(labels) => {
                let labels = labels.iter().map(|label| Value::Text(label.clone()));
                made(Kind::Chosen(labels.filter(|value| !demand.excludes(value)).collect()))
            }
            Shape::Bool if demand.except.is_empty() => made(Kind::Bool),
            Shape::Bool => {
                let both = [Value::Bool(true), Value::Bool(false)].into_iter();
                made(Kind::Chosen(both.filter(|value| !demand.excludes(value)).collect()))
            }
            Shape::Text { max, .. } => {
                let max = max.unwrap_or(TEXT_MAX.max(demand.length_min.unwrap_or(0)));
                made(Kind::Text { max: max.min(demand.length_max.unwrap_or(max)), style: style(name) })
            }
            Shape::Uuid => made(Kind::Uuid),
            Shape::Bytea => {
                let length =
                    demand.length_min.unwrap_or(16).max(16).min(demand.length_max.unwrap_or(u64::MAX));
                made(Kind::Bytes { length })
            }
            Shape::Network { .. } => made(Kind::Network),
            Shape::Mac { length } => made(Kind::Mac { length: *length }),
            Shape::Bit { length, .. } => made(Kind::Bit { bits: length.unwrap_or(32) }),
            Shape::Json { .. } => made(Kind::Json),
            Shape::Array { element, .. } => {
                let item_demand = Demand { among: demand.items.clone(), ..Demand::default() };
                let minimum = demand.length_min.unwrap_or(1);
                let maximum = demand.length_max.unwrap_or(minimum.max(3));
                made(Kind::List {
                    item: Box::new(Self::new(name, element, &item_demand, rows)),
                    minimum,
                    maximum,
                })
            }
            Shape::Range { bound } => made(ranges(bound, false)),
            Shape::Multirange { bound } => made(ranges(bound, true)),
            Shape::Record(fields) => {
                let field = |shape: &Shape| Self::new("", shape, &Demand::default(), rows);
                made(Kind::Record(fields.iter().map(|(_, shape)| field(shape)).collect()))
            }
            Shape::Sample { name, modifier } => {
                made(Kind::Sample { name: name.clone(), modifier: *modifier })
            }
            Shape::Unknown { .. } => made(Kind::Null),
        }
    }

    /// How many different values there are for sure.
    pub(super) fn capacity(&self) -> u64 {
        match &self.kind {
            Kind::Null => 1,
            Kind::Chosen(values) => values.len() as u64,
            Kind::Units { wide, step, .. } => wide.size / step,
            Kind::Bool => 2,
            Kind::Text { .. } if !self.demand.patterns.is_empty() => 1 << 20,
            Kind::Text { max, .. } => 36_u64.saturating_pow(u32::try_from(*max).unwrap_or(12).min(12)),
            Kind::Uuid => 1 << 48,
            Kind::Bytes { length } => 256_u64.saturating_pow(u32::try_from(*length).unwrap_or(8).min(7)),
            Kind::Network => 1 << 24,
            Kind::Mac { .. } => 1 << 40,
            Kind::Bit { bits } => 1 << (*bits).min(48),
            Kind::Json => u64::MAX,
            Kind::List { item, maximum, .. } => {
                if *maximum == 0 {
                    1
                } else {
                    item.capacity()
                }
            }
            Kind::Range { .. } | Kind::Ranges { .. } => 1 << 26,
            Kind::Record(fields) => fields.iter().map(Self::capacity).max().unwrap_or(1),
            Kind::Sample { name, .. } => match name.as_str() {
                "range" | "multirange" | "aclitem" => 1,
                "char" => 26,
                name if name.starts_with("reg") => 1,
                "point" | "box" | "circle" | "path" | "polygon" | "line" | "lseg" | "cube" | "seg" => 100_000,
                _ => 1 << 20,
            },
        }
    }

    /// Bounds of the demand within those of the type.
    pub(super) fn bounds(&self, low: i64, high: i64) -> (i64, i64) {
        (
            self.demand.low.map_or(low, |demand| demand.max(low)),
            self.demand.high.map_or(high, |demand| demand.min(high)),
        )
    }

    /// The same for a table of many rows: its random values come from a pool, where that is faster.
    pub(super) fn pooled(mut self, rows: u64, key: u64) -> Self {
        let is_slow = match self.kind {
            Kind::Text { .. } | Kind::Json | Kind::List { .. } | Kind::Record(_) | Kind::Sample { .. } => {
                true
            }
            Kind::Bytes { length } => length > 64,
            _ => false,
        };
        if rows >= POOLED_ROWS && is_slow {
            self.pool = Some((0..POOL).map(|place| self.make(Number::random(mix(key ^ place)))).collect());
        }
        self
    }

    /// The value of a number.
    pub(super) fn make(&self, number: Number) -> Value {
        if let Some(pool) = &self.pool
            && !number.distinct
            && !number.is_plain
        {
            return pool[below(number.value, POOL) as usize].clone();
        }
        let value = self.any(number);
        if self.demand.except.is_empty() || number.distinct || !self.demand.except.contains(&value) {
            return value;
        }
        let mut random = number.value;
        for _ in 0..8 {
            random = mix(random);
            let other = self.any(Number { value: random, ..number });
            if !self.demand.except.contains(&other) {
                return other;
            }
        }
        value
    }

    fn any(&self, number: Number) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Chosen(values) if values.is_empty() => Value::Null,
            Kind::Chosen(values) => values[number.below(values.len() as u64) as usize].clone(),
            Kind::Units { plain, wide, step } => Value::Units(if number.distinct {
                wide.low.wrapping_add_unsigned(number.value.wrapping_mul(*step) % wide.size)
            } else {
                plain.low.wrapping_add_unsigned(below(number.value, plain.size))
            }),
            Kind::Bool => {
                Value::Bool(if number.distinct { number.value % 2 == 1 } else { number.value >> 63 == 1 })
            }
            Kind::Text { max, style } => Value::Text(self.text(number, *max, *style)),
            Kind::Uuid => Value::Bytes(uuid(number)),
            Kind::Bytes { length } => Value::Bytes(bytes(number, *length)),
            Kind::Network => {
                let low = (number.below(1 << 24) as u32).to_be_bytes();
                Value::Bytes(vec![10, low[1], low[2], low[3]])
            }
            Kind::Mac { length } => {
                let low = number.below(1 << 40).to_be_bytes();
                let mut address = vec![2; *length];
                address[length - 5..].copy_from_slice(&low[3..]);
                Value::Bytes(address)
            }
            Kind::Bit { bits } => Value::Bytes(bit_string(number, *bits)),
            Kind::Json => Value::Text(self.json(number)),
            Kind::List { item, minimum, maximum } => Value::List(list(item, *minimum, *maximum, number)),
            Kind::Range { low, width } => range(*low, *width, number.below(1 << 26)),
            Kind::Ranges { low, width } => {
                // Two ranges with a gap between.
                let place = number.below(1 << 25) * 2;
                Value::List(vec![range(*low, *width, place), range(*low, *width, place + 1)])
            }
            Kind::Record(fields) => {
                let capacity = self.capacity();
                let make = |(place, field): (usize, &Self)| {
                    // One field that differs is enough.
                    let distinct = number.distinct && field.capacity() == capacity;
                    let value = if distinct { number.value } else { mix(number.value ^ place as u64) };
                    field.make(Number { value, distinct, ..number })
                };
                Value::Record(fields.iter().enumerate().map(make).collect())
            }
            Kind::Sample { name, modifier } => {
                let number = if number.distinct { number.value } else { below(number.value, 1_000_000) };
                match name.as_str() {
                    "range" => Value::Literal("empty".to_owned()),
                    "multirange" => Value::Literal("{}".to_owned()),
                    _ => sample(name, *modifier, number).map_or(Value::Null, Value::Literal),
                }
            }
        }
    }

    fn text(&self, number: Number, max: u64, style: Style) -> String {
        let random = mix(number.value ^ number.salt);
        let text = if number.distinct {
            coded(random, &base_36(number.value, random), max, style)
        } else {
            phrase(random, max, style)
        };
        let minimum = self.demand.length_min.unwrap_or(0);
        let missing = minimum.saturating_sub(text.chars().count() as u64);
        let text = if missing > 0 { "0".repeat(missing as usize) + &text } else { text };
        let letters = self.demand.letters.or(number.is_plain.then_some(Letters::Lower));
        let spelled = |letters: Option<Letters>| letters.map_or(text.clone(), |one| one.respell(&text));
        if self.demand.patterns.is_empty() {
            return spelled(letters);
        }
        let like = Like { patterns: &self.demand.patterns, length: minimum..=max, letters };
        // The plainer, the more patterns take it.
        let spellings = [letters, Some(Letters::Ascii), Some(Letters::Lower)];
        matching(&like, spellings.into_iter().map(spelled), random)
    }

    fn json(&self, number: Number) -> String {
        let random = mix(number.value ^ number.salt);
        let id = if number.distinct { number.value } else { below(number.value, 1_000_000) };
        match self.demand.json.as_deref() {
            Some("array") => format!("[{id}, \"{}\"]", word(random)),
            Some("string") => format!("\"{}-{id}\"", word(random)),
            Some("number") => id.to_string(),
            Some("boolean") => (random.is_multiple_of(2)).to_string(),
            Some("null") => "null".to_owned(),
            _ => format!(
                "{{\"id\": {id}, \"label\": \"{}\", \"tags\": [\"{}\"]}}",
                if number.is_plain { word(random) } else { mixed_word(random) },
                word(random >> 8)
            ),
        }
    }
}

/// The parts of a scalar's values that are used: a plain one, moved to where the demand wants it; and where values must differ and
/// the plain part is too small for all rows, as much as the demand leaves.
fn window(scalar: Scalar, type_low: i64, type_high: i64, demand: &Demand, rows: u64) -> Kind {
    let (mut low, mut high) = plain_window(scalar);
    let least = demand.low.unwrap_or(type_low).max(type_low);
    let most = demand.high.unwrap_or(type_high).min(type_high);
    let width = high - low;
    if low < least {
        low = least;
        high = high.max(least.saturating_add(width));
    }
    if high > most {
        high = most;
        low = low.min(most.saturating_sub(width)).max(least);
    }
    let size = |low: i64, high: i64| ((i128::from(high) - i128::from(low)).max(0) as u64).saturating_add(1);
    let plain = Units { low, size: size(low, high) };
    let step = match scalar {
        Scalar::Timestamp | Scalar::TimestampTz | Scalar::Interval => 3_600_000_000,
        Scalar::Time | Scalar::TimeTz => 1_000_000,
        _ => 1,
    };
    if plain.size / step < rows {
        high = most;
    }
    if size(low, high) / step < rows {
        low = least;
    }
    let wide = Units { low, size: size(low, high) };
    // Closer together where there are too many rows for the step.
    let step = if wide.size / step < rows { (wide.size / rows.max(1)).max(1) } else { step };
    Kind::Units { plain, wide, step }
}

/// Plain values: small positive numbers, instants of a few years past.
const fn plain_window(scalar: Scalar) -> (i64, i64) {
    match scalar {
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 => (1, 10_000),
        Scalar::Oid => (16_384, 99_999),
        Scalar::Numeric { scale: 0 } => (1, 10_000),
        Scalar::Numeric { .. } => (1, 99_999),
        Scalar::Float4 | Scalar::Float8 | Scalar::Money => (1, 999_999),
        Scalar::Date => (FIRST_DAY, LAST_DAY),
        Scalar::Time | Scalar::TimeTz => (0, DAY_US - 1),
        Scalar::Timestamp | Scalar::TimestampTz => (FIRST_DAY * DAY_US, LAST_DAY * DAY_US),
        Scalar::Interval => (1_000_000, 30 * DAY_US),
        Scalar::Lsn => (1, 1 << 32),
    }
}

/// Ranges of one width, none of which overlaps another where their places differ.
const fn ranges(bound: &Shape, several: bool) -> Kind {
    let (low, width) = match bound {
        Shape::Scalar { scalar: Scalar::Timestamp | Scalar::TimestampTz, .. } => {
            (FIRST_DAY * DAY_US, 3_600_000_000)
        }
        Shape::Scalar { scalar: Scalar::Date, .. } => (-700_000, 1),
        Shape::Scalar { scalar: Scalar::Int4 | Scalar::Int8, .. } => (1, 10),
        _ => (1, 100),
    };
    if several { Kind::Ranges { low, width } } else { Kind::Range { low, width } }
}

fn range(low: i64, width: i64, place: u64) -> Value {
    let lower = low + place as i64 * (width + 1);
    Value::Range(Box::new((Value::Units(lower), Value::Units(lower + width))))
}

fn list(item: &Maker, minimum: u64, maximum: u64, number: Number) -> Vec<Value> {
    let random = mix(number.value ^ 0x6c69_7374);
    let count = minimum + below(random, maximum.saturating_sub(minimum) + 1);
    let count = if number.distinct { count.max(1).min(maximum.max(1)) } else { count };
    (0..count)
        .map(|place| match place {
            0 => item.make(number),
            _ => item.make(Number { value: mix(random ^ place), distinct: false, ..number }),
        })
        .collect()
}

fn style(name: &str) -> Style {
    let has = |parts: &[&str]| parts.iter().any(|part| name.to_lowercase().contains(part));
    if has(&["email", "e_mail"]) {
        Style::Email
    } else if has(&["url", "uri", "link", "href", "website"]) {
        Style::Link
    } else if has(&["phone", "mobile", "fax"]) {
        Style::Digits
    } else if name == "ip" || has(&["ip_addr", "ipaddr", "remote_addr"]) {
        Style::Address
    } else {
        Style::Words
    }
}

/// A text that no other code gives, in mixed letters.
fn coded(random: u64, code: &str, max: u64, style: Style) -> String {
    let word = mixed_word(random);
    let text = match style {
        Style::Email => format!("{word}.{code}@example.com"),
        Style::Link => format!("https://example.com/{word}/{code}"),
        Style::Words | Style::Digits | Style::Address => format!("{word}-{code}"),
    };
    if text.chars().count() as u64 <= max { text } else { code.to_owned() }
}

/// A text in mixed letters.
fn phrase(random: u64, max: u64, style: Style) -> String {
    let word = mixed_word;
    let mut text = match style {
        Style::Email => format!("{}.{}@example.com", word(random), random >> 8 & 0xffff),
        Style::Link => format!("https://example.com/{}/{}", word(random), word(random >> 8)),
        Style::Digits => format!("+1555{:07}", random % 10_000_000),
        Style::Address => format!("10.{}.{}.{}", random & 255, random >> 8 & 255, random >> 16 & 255),
        Style::Words => {
            let mut text = word(random).to_owned();
            for place in 1..=random >> 60 & 3 {
                text.push(' ');
                text.push_str(word(random >> (8 * place)));
            }
            text
        }
    };
    if let Some((cut, _)) = text.char_indices().nth(usize::try_from(max).unwrap_or(usize::MAX)) {
        text.truncate(cut);
    }
    // A blank at the end would be lost in types of a fixed length.
    text.truncate(text.trim_end().len());
    text
}

/// A number in digits and letters, some of them in upper case: texts of different numbers differ without regard to case.
fn base_36(mut number: u64, random: u64) -> String {
    let mut digits = [0_u8; 13];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        if random >> (32 + first) & 1 == 1 {
            digits[first] = digits[first].to_ascii_uppercase();
        }
        number /= 36;
        if number == 0 {
            return String::from_utf8_lossy(&digits[first..]).into_owned();
        }
    }
}

/// Version 4; the last six bytes are a bijection of the place.
fn uuid(number: Number) -> Vec<u8> {
    let value = number.value ^ number.salt;
    let (first, mut second) = (mix(value), mix(value ^ 0x7575_6964));
    if number.distinct {
        let place = number.value.wrapping_mul(0x9e37_79b9_7f4b) & ((1 << 48) - 1);
        second = (second & !((1 << 48) - 1)) | place;
    }
    let mut bytes = Vec::with_capacity(16);
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(&second.to_be_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    bytes
}

fn bytes(number: Number, length: u64) -> Vec<u8> {
    let mut random = number.value ^ number.salt;
    let mut bytes: Vec<u8> = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        random = mix(random);
        bytes.extend_from_slice(&random.to_be_bytes());
    }
    bytes.truncate(length as usize);
    if number.distinct {
        let place = number.value.to_be_bytes();
        let used = bytes.len().min(8);
        let start = bytes.len() - used;
        bytes[start..].copy_from_slice(&place[8 - used..]);
    }
    bytes
}

fn bit_string(number: Number, bits: u32) -> Vec<u8> {
    let low = number.below(1 << bits.min(48));
    let value = low << (64 - bits.min(48));
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(bits.div_ceil(8) as usize, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::{Maker, Number};
    use crate::synthetic::demand::Demand;
    use crate::synthetic::encode::text;
    use crate::synthetic::pattern::Pattern;
    use crate::synthetic::samples::Letters;
    use crate::synthetic::value::{Scalar, Shape, Value};

    fn distinct(shape: &Shape, demand: &Demand, rows: u64) -> usize {
        let maker = Maker::new("c", shape, demand, rows);
        assert!(maker.capacity() >= rows, "{} for {shape:?}", maker.capacity());
        let number = |value| Number { value, distinct: true, salt: 5, is_plain: false };
        // Also where an index folds case.
        let make = |value| text(shape, &maker.make(number(value))).unwrap().to_lowercase();
        (0..rows).map(make).collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn distinct_values_are_distinct_in_every_type() {
        let scalar = |scalar, low, high| Shape::Scalar { scalar, low, high };
        let text = Shape::Text { max: Some(2), fixed: false };
        let shapes = [
            scalar(Scalar::Int2, -32_768, 32_767),
            scalar(Scalar::Timestamp, i64::MIN / 2, i64::MAX / 2),
            scalar(Scalar::Time, 0, 86_399_999_999),
            Shape::Text { max: None, fixed: false },
            Shape::Uuid,
            Shape::Bytea,
            Shape::Network { cidr: true },
            Shape::Mac { length: 6 },
            Shape::Bit { length: Some(11), varying: false },
            Shape::Json { binary: true },
            Shape::Range { bound: Box::new(scalar(Scalar::Date, i64::MIN, i64::MAX)) },
            Shape::Array { element: Box::new(text.clone()), oid: 25 },
            Shape::Record(vec![(16, Shape::Bool), (25, text.clone())]),
            Shape::Sample { name: "point".to_owned(), modifier: -1 },
            text,
        ];
        for shape in &shapes {
            assert_eq!(distinct(shape, &Demand::default(), 1_200), 1_200, "{shape:?}");
        }
        let enumeration = Shape::Enum(Arc::new(["a".to_owned(), "b".to_owned()]));
        assert_eq!(distinct(&enumeration, &Demand::default(), 2), 2);
        let narrow = Demand { low: Some(10), high: Some(29), ..Demand::default() };
        assert_eq!(distinct(&shapes[0], &narrow, 20), 20);
    }

    #[test]
    fn demands_are_met() {
        let int = Shape::Scalar { scalar: Scalar::Int4, low: i64::from(i32::MIN), high: i64::from(i32::MAX) };
        let text = Shape::Text { max: Some(10), fixed: false };
        let demand =
            Demand { low: Some(-5), high: Some(-2), except: vec![Value::Units(-3)], ..Demand::default() };
        let long = Demand { length_min: Some(9), ..Demand::default() };
        for value in 0..200 {
            let number = Number::random(super::mix(value));
            let Value::Units(units) = Maker::new("c", &int, &demand, 0).make(number) else { panic!() };
            assert!([-5, -4, -2].contains(&units), "{units}");
            let Value::Text(made) = Maker::new("c", &text, &long, 0).make(number) else { panic!() };
            assert!((9..=10).contains(&made.chars().count()), "{made}");
        }
    }

    /// Texts of a column, random and distinct ones.
    fn texts(name: &str, max: Option<u64>, demand: &Demand, is_plain: bool) -> Vec<String> {
        let maker = Maker::new(name, &Shape::Text { max, fixed: false }, demand, 1_000);
        let numbers = (0..200).flat_map(|value| {
            [false, true].map(|distinct| {
                let value = if distinct { value } else { super::mix(value) };
                Number { value, distinct, salt: 5, is_plain }
            })
        });
        let text = |number| match maker.make(number) {
            Value::Text(text) => text,
            other => panic!("{other:?}"),
        };
        numbers.map(text).collect()
    }

    #[test]
    fn texts_have_every_kind_of_letter_that_is_allowed() {
        let is_mixed =
            |text: &String| !text.is_ascii() && text.to_lowercase() != *text && text.to_uppercase() != *text;
        for name in ["title", "email", "url"] {
            assert!(texts(name, None, &Demand::default(), false).iter().all(is_mixed), "{name}");
        }
        for max in 1..20 {
            let made = texts("title", Some(max), &Demand::default(), false);
            // One character is not enough for as many distinct ones as there are here: every other text is random.
            let step = if max == 1 { 2 } else { 1 };
            let mut lengths = made.iter().step_by(step).map(|text| text.chars().count() as u64);
            assert!(lengths.all(|length| length <= max), "{made:?}");
        }
        let short = texts("title", Some(4), &Demand::default(), false);
        assert!(short.iter().filter(|text| is_mixed(text)).count() > 150, "{short:?}");
        for letters in [Letters::Ascii, Letters::Lower, Letters::Upper] {
            let demand = Demand { letters: Some(letters), ..Demand::default() };
            assert!(texts("title", None, &demand, false).iter().all(|text| letters.take(text)));
        }
        assert!(texts("title", None, &Demand::default(), true).iter().all(|text| Letters::Lower.take(text)));
        let slug = Pattern::new("^[a-z0-9 -]+$", false, true).unwrap();
        let demand = Demand { patterns: vec![slug], ..Demand::default() };
        assert!(texts("title", None, &demand, false).iter().all(|text| Letters::Lower.take(text)));
    }
}
