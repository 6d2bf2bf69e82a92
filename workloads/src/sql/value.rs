//! A row's columns as JSON, so that a value read back can be compared with the one that was acknowledged.
//!
//! Equal values give equal JSON, also where a migration has widened an integer. A type that is not known here stands as its
//! bytes: it compares equal as long as its type stays.

use serde_json::{Map, Number, Value};
use sqlx::postgres::{PgRow, PgValueRef};
use sqlx::{Row as _, TypeInfo as _, ValueRef as _};

/// The named columns; nothing where one is not there or cannot be read.
pub(super) fn columns(row: &PgRow, names: &[String]) -> Option<Map<String, Value>> {
    names.iter().map(|name| Some((name.clone(), value(&row.try_get_raw(name.as_str()).ok()?)?))).collect()
}

/// Every column; nothing where one cannot be read.
pub(super) fn all_columns(row: &PgRow) -> Option<Map<String, Value>> {
    use sqlx::Column as _;
    let names: Vec<String> = row.columns().iter().map(|column| column.name().to_owned()).collect();
    columns(row, &names)
}

fn value(raw: &PgValueRef<'_>) -> Option<Value> {
    if raw.is_null() {
        return Some(Value::Null);
    }
    let bytes = raw.as_bytes().ok()?;
    let oid = raw.type_info().oid()?.0;
    Some(match oid {
        16 => Value::Bool(bytes == [1]),
        20 | 21 | 23 => Value::from(whole(bytes)?),
        26 => Value::from(u32::from_be_bytes(bytes.try_into().ok()?)),
        700 => real(f64::from(f32::from_be_bytes(bytes.try_into().ok()?))),
        701 => real(f64::from_be_bytes(bytes.try_into().ok()?)),
        19 | 25 | 1042 | 1043 => Value::from(std::str::from_utf8(bytes).ok()?),
        114 => serde_json::from_slice(bytes).ok()?,
        3802 => serde_json::from_slice(bytes.get(1..)?).ok()?,
        1700 => numeric(bytes)?,
        _ => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Value::from(format!("{} \\x{digits}", raw.type_info().name()))
        }
    })
}

fn whole(bytes: &[u8]) -> Option<i64> {
    Some(match bytes.len() {
        2 => i64::from(i16::from_be_bytes(bytes.try_into().ok()?)),
        4 => i64::from(i32::from_be_bytes(bytes.try_into().ok()?)),
        _ => i64::from_be_bytes(bytes.try_into().ok()?),
    })
}

/// JSON has no infinities.
fn real(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::from(value.to_string()), Value::Number)
}

/// A numeric: groups of four decimal digits, as its binary form has them. A whole one that fits is a number, so that it
/// equals an integer; another is the text without zeros at its end.
fn numeric(bytes: &[u8]) -> Option<Value> {
    let field =
        |index: usize| Some(i16::from_be_bytes(bytes.get(index * 2..index * 2 + 2)?.try_into().ok()?));
    let (groups, weight, sign) = (usize::try_from(field(0)?).ok()?, i32::from(field(1)?), field(2)?);
    match sign.cast_unsigned() {
        0x0000 | 0x4000 => {}
        0xc000 => return Some(Value::from("NaN")),
        0xd000 => return Some(Value::from("Infinity")),
        _ => return Some(Value::from("-Infinity")),
    }
    let (mut before, mut after) = (String::new(), String::new());
    let last = i32::try_from(groups).ok()?;
    for place in 0..last.max(weight + 1) {
        let group = if place < last { field(4 + usize::try_from(place).ok()?)? } else { 0 };
        let side = if place <= weight { &mut before } else { &mut after };
        side.push_str(&format!("{group:04}"));
    }
    // Groups of zeros between the point and the first that is written.
    let gap = usize::try_from(-1 - weight).unwrap_or(0);
    let after = format!("{}{after}", "0000".repeat(gap));
    let after = after.trim_end_matches('0');
    let before = before.trim_start_matches('0');
    let minus = if sign == 0 { "" } else { "-" };
    let text = match (before, after) {
        ("", "") => "0".to_owned(),
        (before, "") => format!("{minus}{before}"),
        ("", after) => format!("{minus}0.{after}"),
        (before, after) => format!("{minus}{before}.{after}"),
    };
    Some(text.parse::<i64>().map_or_else(|_| Value::from(text.clone()), Value::from))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::numeric;

    fn written(weight: i16, sign: u16, groups: &[i16]) -> Value {
        let head = [i16::try_from(groups.len()).unwrap(), weight, sign.cast_signed(), 0];
        let bytes: Vec<u8> = head.iter().chain(groups).flat_map(|field| field.to_be_bytes()).collect();
        numeric(&bytes).unwrap()
    }

    #[test]
    fn numerics_read_as_psql_shows_them() {
        for (weight, sign, groups, expected) in [
            (0, 0, [].as_slice(), json!(0)),
            (0, 0, &[5], json!(5)),
            (0, 0x4000, &[12, 3400], json!("-12.34")),
            (1, 0, &[1], json!(10_000)),
            (1, 0, &[1, 2, 5000], json!("10002.5")),
            (-1, 0, &[5], json!("0.0005")),
            (-2, 0x4000, &[1200], json!("-0.000012")),
            (5, 0, &[1], json!("100000000000000000000")),
            (0, 0xc000, &[], json!("NaN")),
        ] {
            assert_eq!(written(weight, sign, groups), expected);
        }
    }
}
