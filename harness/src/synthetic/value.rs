//! A value of a column, and how the types of values are described.
//!
//! `types` makes a [`Shape`] from the catalog, `generate` makes values of it, `encode` writes them.

use std::sync::Arc;

use super::demand::Demand;

/// A value without its type. The same units under another [`Scalar`] are another value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// A number, date or time in its scalar's units.
    Units(i64),
    Text(String),
    /// `bytea`, `uuid`, `macaddr`, `inet` (the address), bits (left-aligned).
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// Lower bound inclusive, upper exclusive.
    Range(Box<(Value, Value)>),
    Record(Vec<Value>),
    /// What the server's input function reads; has no binary form here.
    Literal(String),
}

/// A type whose values are ordered, counted in whole units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scalar {
    Int2,
    Int4,
    Int8,
    Oid,
    /// Units of 10^-scale.
    Numeric {
        scale: u8,
    },
    /// Thousandths.
    Float4,
    Float8,
    /// Hundredths.
    Money,
    /// Days since 2000-01-01.
    Date,
    /// Microseconds since midnight.
    Time,
    /// The same, in UTC.
    TimeTz,
    /// Microseconds since 2000-01-01.
    Timestamp,
    TimestampTz,
    /// Microseconds.
    Interval,
    Lsn,
}

/// What is made, and how it is written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Bool,
    /// Smallest and largest value that the type takes.
    Scalar {
        scalar: Scalar,
        low: i64,
        high: i64,
    },
    /// At most `max` characters; `fixed` pads.
    Text {
        max: Option<u64>,
        fixed: bool,
    },
    Enum(Arc<[String]>),
    Uuid,
    Bytea,
    Network {
        cidr: bool,
    },
    /// Bytes of the address.
    Mac {
        length: usize,
    },
    Bit {
        length: Option<u32>,
        varying: bool,
    },
    Json {
        binary: bool,
    },
    Array {
        element: Box<Shape>,
        oid: u32,
    },
    Range {
        bound: Box<Shape>,
    },
    Multirange {
        bound: Box<Shape>,
    },
    Record(Vec<(u32, Shape)>),
    /// A domain inside another type; its checks.
    Narrowed {
        shape: Box<Shape>,
        demand: Box<Demand>,
    },
    /// Known only by samples that the server's input function reads.
    Sample {
        name: String,
        modifier: i32,
    },
    /// Nothing is known.
    Unknown {
        name: String,
    },
}

impl Shape {
    /// Whether every value has a binary form.
    pub(super) fn is_binary(&self) -> bool {
        match self {
            Self::Sample { .. } | Self::Unknown { .. } => false,
            Self::Narrowed { shape, .. } => shape.is_binary(),
            Self::Array { element, .. } => element.is_binary(),
            Self::Range { bound } | Self::Multirange { bound } => bound.is_binary(),
            Self::Record(fields) => fields.iter().all(|(_, shape)| shape.is_binary()),
            _ => true,
        }
    }

    /// Whether a value can be made at all; else the type that is in the way.
    pub(super) fn unknown(&self) -> Option<&str> {
        match self {
            Self::Unknown { name } => Some(name),
            Self::Narrowed { shape, .. } => shape.unknown(),
            Self::Array { element, .. } => element.unknown(),
            Self::Range { bound } | Self::Multirange { bound } => bound.unknown(),
            Self::Record(fields) => fields.iter().find_map(|(_, shape)| shape.unknown()),
            _ => None,
        }
    }

    /// Reads a constant of a condition, or a key that the server gave as text.
    pub(super) fn read(&self, text: &str) -> Option<Value> {
        Some(match self {
            Self::Bool => Value::Bool(matches!(text, "t" | "true" | "on" | "1" | "yes")),
            Self::Scalar { scalar, low, high } => {
                let units = i64::try_from(scalar.units(text, false)?).ok()?;
                let exact = scalar.units(text, true)? == i128::from(units);
                (exact && (*low..=*high).contains(&units)).then_some(Value::Units(units))?
            }
            Self::Text { max, fixed } => {
                let text = if *fixed { text.trim_end_matches(' ') } else { text };
                let fits = max.is_none_or(|max| text.chars().count() as u64 <= max);
                fits.then(|| Value::Text(text.to_owned()))?
            }
            Self::Enum(labels) => {
                labels.iter().any(|label| label == text).then(|| Value::Text(text.to_owned()))?
            }
            Self::Uuid => {
                Value::Bytes(hexadecimal(&text.replace('-', "")).filter(|bytes| bytes.len() == 16)?)
            }
            Self::Bytea => Value::Bytes(hexadecimal(text.strip_prefix("\\x")?)?),
            Self::Narrowed { shape, .. } => return shape.read(text),
            _ => Value::Literal(text.to_owned()),
        })
    }
}

impl Scalar {
    /// Whether a number of units means the same in both.
    pub(super) fn has_units_of(self, other: Self) -> bool {
        let integers = [Self::Int2, Self::Int4, Self::Int8, Self::Oid];
        self == other || (integers.contains(&self) && integers.contains(&other))
    }

    /// A constant in this scalar's units, rounded down or up; absent where it cannot be read.
    pub(super) fn units(self, text: &str, up: bool) -> Option<i128> {
        let text = text.trim();
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 | Self::Oid => decimal(text, 0, up),
            Self::Numeric { scale } => decimal(text, scale, up),
            Self::Float4 | Self::Float8 => decimal(text, 3, up),
            Self::Money => decimal(text.trim_start_matches('$'), 2, up),
            Self::Date => Some(i128::from(date(text.get(..10)?)?)),
            Self::Time | Self::TimeTz => time(text).map(i128::from),
            Self::Timestamp | Self::TimestampTz => {
                let days = i128::from(date(text.get(..10)?)?);
                let clock = text.get(11..).filter(|clock| !clock.is_empty());
                let clock = clock.map_or(Some(0), time)?;
                Some(days * i128::from(DAY_US) + i128::from(clock))
            }
            Self::Interval => interval(text),
            Self::Lsn => None,
        }
    }
}

/// Microseconds of a day.
pub(super) const DAY_US: i64 = 86_400_000_000;

/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_DAYS: i64 = 10_957;

fn decimal(text: &str, scale: u8, up: bool) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !(whole.len() + fraction.len() > 0
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()))
    {
        // Exponents are rare enough.
        let number: f64 = text.parse().ok().filter(|number: &f64| number.abs() < 1e15)?;
        let units = number * 10_f64.powi(i32::from(scale));
        return Some((if up { units.ceil() } else { units.floor() }) as i128);
    }
    let kept: String = fraction.chars().chain(std::iter::repeat('0')).take(usize::from(scale)).collect();
    let rest = fraction.get(usize::from(scale)..).unwrap_or("");
    let mut units: i128 = format!("0{whole}{kept}").parse().ok()?;
    let is_cut = rest.bytes().any(|byte| byte != b'0');
    if is_cut && (up == (sign == 1)) {
        units += 1;
    }
    Some(sign * units)
}

fn date(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    Some(days_of(year, month, day) - EPOCH_DAYS)
}

/// Microseconds since midnight in UTC of `12:34:56.7+01`.
fn time(text: &str) -> Option<i64> {
    let (clock, zone) = match text.rfind(['+', '-']) {
        Some(at) => (&text[..at], Some(&text[at..])),
        None => (text.trim_end_matches('Z'), None),
    };
    let mut parts = clock.trim().splitn(3, ':');
    let (hours, minutes) = (parts.next()?.parse::<i64>().ok()?, parts.next()?.parse::<i64>().ok()?);
    let seconds = i64::try_from(decimal(parts.next().unwrap_or("0"), 6, false)?).ok()?;
    let mut us = (hours * 60 + minutes) * 60_000_000 + seconds;
    if let Some(zone) = zone {
        let (sign, zone) = zone.split_at(1);
        let mut parts = zone.splitn(2, ':').map(|part| part.parse::<i64>().ok());
        let minutes = parts.next()?? * 60 + parts.next().flatten().unwrap_or(0);
        us -= minutes * 60_000_000 * if sign == "-" { -1 } else { 1 };
    }
    Some(us)
}

fn interval(text: &str) -> Option<i128> {
    let mut us = 0_i128;
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word.contains(':') {
            us += i128::from(time(word)?);
            continue;
        }
        let count = decimal(word, 0, false)?;
        let unit = words.next()?.trim_end_matches('s');
        let seconds = match unit {
            "year" => 31_557_600,
            "mon" | "month" => 2_592_000,
            "day" => 86_400,
            "hour" => 3_600,
            "minute" | "min" => 60,
            "second" | "sec" => 1,
            _ => return None,
        };
        us += count * seconds * 1_000_000;
    }
    Some(us)
}

fn hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// Days since 1970-01-01 of a date in the Gregorian calendar: H. Hinnant, "chrono-compatible low-level date algorithms".
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse: `YYYY-MM-DD` of days since 2000-01-01.
pub(super) fn date_text(days: i64) -> String {
    let days = days + EPOCH_DAYS + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `HH:MM:SS.uuuuuu`.
pub(super) fn time_text(us: i64) -> String {
    let seconds = us / 1_000_000;
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}.{:06}", seconds % 60, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Scalar, Shape, Value, date_text, days_of};

    #[test]
    fn constants_are_read_in_units() {
        let read =
            |scalar: Scalar, text| (scalar.units(text, false).unwrap(), scalar.units(text, true).unwrap());
        assert_eq!(read(Scalar::Int4, "0.5"), (0, 1));
        assert_eq!(read(Scalar::Int4, "-0.5"), (-1, 0));
        assert_eq!(read(Scalar::Numeric { scale: 2 }, "-12.345"), (-1235, -1234));
        assert_eq!(read(Scalar::Float8, "1e3"), (1_000_000, 1_000_000));
        assert_eq!(read(Scalar::Date, "2000-03-01"), (60, 60));
        assert_eq!(read(Scalar::TimestampTz, "2000-01-02 01:00:00+01").0, 86_400_000_000);
        assert_eq!(read(Scalar::Interval, "1 day 00:00:01").0, 86_401_000_000);
        assert_eq!(Scalar::Int4.units("many", false), None);
    }

    #[test]
    fn keys_are_read_back_by_their_shape() {
        let text = Shape::Text { max: Some(3), fixed: true };
        assert_eq!(text.read("ab "), Some(Value::Text("ab".to_owned())));
        assert_eq!(Shape::Text { max: Some(3), fixed: false }.read("abcd"), None);
        let uuid = Shape::Uuid.read("00000000-0000-4000-8000-0000000000ff");
        assert!(matches!(uuid, Some(Value::Bytes(bytes)) if bytes[15] == 255 && bytes.len() == 16));
        assert_eq!(Shape::Enum(["a".to_owned()].into()).read("b"), None);
    }

    proptest! {
        #[test]
        fn dates_come_back(days in -300_000_i64..300_000) {
            let text = date_text(days);
            prop_assume!(!text.starts_with('-'));
            prop_assert_eq!(Scalar::Date.units(&text, false), Some(i128::from(days)));
        }
    }

    #[test]
    fn the_epoch_of_the_server_is_known() {
        assert_eq!(days_of(1970, 1, 1), 0);
        assert_eq!(date_text(0), "2000-01-01");
    }
}
