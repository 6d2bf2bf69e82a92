//! Numbers as a person reads them. Called by `judge` for sentences and by every renderer for cells; both must
//! print the same figure the same way.

use crate::check::Unit;

/// A duration in microseconds: `840 µs`, `220 ms`, `6.1 s`, `2 min 5 s`.
#[must_use]
pub fn duration_us(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
        10_000..1_000_000 => format!("{} ms", us / 1_000),
        1_000_000..60_000_000 => format!("{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000),
        _ => format!("{} min {} s", us / 60_000_000, us % 60_000_000 / 1_000_000),
    }
}

/// A number with thousands set apart: `4,210`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share in per cent with as many digits as it needs to differ from nothing: `0.42 %`, `0.0031 %`, `12 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    match share.abs() {
        0.0 => "0 %".to_owned(),
        small if small < 0.000_1 => "under 0.0001 %".to_owned(),
        small if small < 0.01 => format!("{} %", trimmed(&format!("{share:.4}"))),
        small if small < 10.0 => format!("{} %", trimmed(&format!("{share:.2}"))),
        _ => format!("{share:.0} %"),
    }
}

/// A number with decimals, without the zeros that say nothing.
fn trimmed(number: &str) -> &str {
    number.trim_end_matches('0').trim_end_matches('.')
}

/// A check's limit or observed value in its unit.
#[must_use]
pub fn value(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Milliseconds => duration_us(to_count(number * 1_000.0)),
        Unit::Count => thousands(to_count(number)),
        Unit::Percent => percent(number),
    }
}

/// A number and its noun: `1 request`, `4,210 requests`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(number))
}

/// The first `most` characters, with an ellipsis where something was cut; line breaks become spaces.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if flat.chars().count() <= most {
        return flat;
    }
    let kept: String = flat.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// A count as a fraction's part; exact below 2^53, which no count of a rehearsal reaches.
#[must_use]
pub const fn ratio_part(number: u64) -> f64 {
    number as f64
}

/// Microseconds as milliseconds.
#[must_use]
pub const fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

/// `part` of `whole` in per cent; nothing of nothing is 0.
#[must_use]
pub fn share_percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { ratio_part(part) * 100.0 / ratio_part(whole) }
}

/// The nearest whole number; negative numbers and NaN become 0 (a float's cast saturates).
const fn to_count(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::{count, cut, duration_us, percent, thousands};

    #[test]
    fn figures_read_well() {
        let durations: Vec<_> =
            [0, 840, 2_345, 220_000, 999_999, 1_000_000, 6_149_000, 125_000_000].map(duration_us).into();
        assert_eq!(
            durations,
            ["0 µs", "840 µs", "2.3 ms", "220 ms", "999 ms", "1.0 s", "6.1 s", "2 min 5 s"]
        );
        assert_eq!([1, 999, 1_000, 1_204_331].map(thousands), ["1", "999", "1,000", "1,204,331"]);
        assert_eq!(
            [0.0, 0.003_14, 0.42, 1.0, 12.4].map(percent),
            ["0 %", "0.0031 %", "0.42 %", "1 %", "12 %"]
        );
        assert_eq!([0, 1, 4_210].map(|n| count(n, "write")), ["0 writes", "1 write", "4,210 writes"]);
        assert_eq!(cut("a\n  b c", 4), "a b…");
    }
}
