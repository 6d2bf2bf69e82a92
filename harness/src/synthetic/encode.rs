//! Values in the forms that the server reads: binary COPY, text COPY, and literals of statements.
//!
//! Called by `copy` and `trial`. The binary forms are those of the server's `recv` functions; integers are big-endian.

use super::value::{Scalar, Shape, Value, date_text, time_text};

/// Appends a field of a binary COPY: its length and its bytes.
pub(super) fn binary(shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    match (shape, value) {
        (Shape::Narrowed { shape, .. }, value) => binary(shape, value, out),
        (Shape::Scalar { scalar, .. }, Value::Units(units)) => scalar_binary(*scalar, *units, out),
        (Shape::Bool, Value::Bool(value)) => out.extend_from_slice(&[0, 0, 0, 1, u8::from(*value)]),
        (Shape::Json { binary: true }, Value::Text(text)) => {
            length(text.len() + 1, out);
            out.push(1);
            out.extend_from_slice(text.as_bytes());
        }
        (_, Value::Text(text)) => {
            length(text.len(), out);
            out.extend_from_slice(text.as_bytes());
        }
        (Shape::Network { cidr }, Value::Bytes(address)) => {
            length(4 + address.len(), out);
            let (family, size) = if address.len() == 4 { (2, 4) } else { (3, 16) };
            out.extend_from_slice(&[family, size * 8, u8::from(*cidr), size]);
            out.extend_from_slice(address);
        }
        (Shape::Bit { length: bits, .. }, Value::Bytes(bytes)) => {
            length(4 + bytes.len(), out);
            let bits = bits.unwrap_or(u32::try_from(bytes.len() * 8).unwrap_or(0));
            out.extend_from_slice(&bits.to_be_bytes());
            out.extend_from_slice(bytes);
        }
        (_, Value::Bytes(bytes)) => {
            length(bytes.len(), out);
            out.extend_from_slice(bytes);
        }
        (Shape::Array { element, oid }, Value::List(values)) => framed(out, |out| {
            let dimensions = i32::from(!values.is_empty());
            out.extend_from_slice(&dimensions.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&oid.to_be_bytes());
            if !values.is_empty() {
                length(values.len(), out);
                out.extend_from_slice(&1_i32.to_be_bytes());
            }
            values.iter().for_each(|value| binary(element, value, out));
        }),
        (Shape::Range { bound }, Value::Range(bounds)) => range_binary(bound, bounds, out),
        (Shape::Multirange { bound }, Value::List(values)) => framed(out, |out| {
            length(values.len(), out);
            for value in values {
                if let Value::Range(bounds) = value {
                    range_binary(bound, bounds, out);
                }
            }
        }),
        (Shape::Record(fields), Value::Record(values)) => framed(out, |out| {
            length(fields.len(), out);
            for ((oid, shape), value) in fields.iter().zip(values) {
                out.extend_from_slice(&oid.to_be_bytes());
                binary(shape, value, out);
            }
        }),
        // A value that has no such form cannot come here: `Shape::is_binary` and the plan see to it.
        _ => out.extend_from_slice(&(-1_i32).to_be_bytes()),
    }
}

fn length(length: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
}

/// Writes something whose length stands before it.
fn framed(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out);
    let written = u32::try_from(out.len() - start - 4).unwrap_or(0);
    out[start..start + 4].copy_from_slice(&written.to_be_bytes());
}

fn range_binary(bound: &Shape, bounds: &(Value, Value), out: &mut Vec<u8>) {
    framed(out, |out| {
        // Only the lower bound is inclusive.
        out.push(2);
        binary(bound, &bounds.0, out);
        binary(bound, &bounds.1, out);
    });
}

fn scalar_binary(scalar: Scalar, units: i64, out: &mut Vec<u8>) {
    match scalar {
        Scalar::Int2 => {
            out.extend_from_slice(&[0, 0, 0, 2]);
            out.extend_from_slice(&(units as i16).to_be_bytes());
        }
        Scalar::Int4 | Scalar::Oid | Scalar::Date => {
            // The length and the number as one.
            out.extend_from_slice(&((4_u64 << 32) | u64::from(units as u32)).to_be_bytes());
        }
        Scalar::Int8
        | Scalar::Money
        | Scalar::Time
        | Scalar::Timestamp
        | Scalar::TimestampTz
        | Scalar::Lsn => {
            out.extend_from_slice(&((8_u128 << 64) | u128::from(units as u64)).to_be_bytes()[4..]);
        }
        Scalar::Float4 => {
            out.extend_from_slice(&[0, 0, 0, 4]);
            out.extend_from_slice(&(units as f32 / 1_000.0).to_be_bytes());
        }
        Scalar::Float8 => {
            out.extend_from_slice(&[0, 0, 0, 8]);
            out.extend_from_slice(&(units as f64 / 1_000.0).to_be_bytes());
        }
        Scalar::TimeTz => {
            out.extend_from_slice(&[0, 0, 0, 12]);
            out.extend_from_slice(&units.to_be_bytes());
            out.extend_from_slice(&[0; 4]);
        }
        Scalar::Interval => {
            out.extend_from_slice(&[0, 0, 0, 16]);
            out.extend_from_slice(&units.to_be_bytes());
            out.extend_from_slice(&[0; 8]);
        }
        Scalar::Numeric { scale } => numeric_binary(units, scale, out),
    }
}

/// Digits of base 10,000: their number, the weight of the first, sign, decimals shown.
fn numeric_binary(units: i64, scale: u8, out: &mut Vec<u8>) {
    let one = 10_u64.pow(u32::from(scale));
    let absolute = units.unsigned_abs();
    let mut groups = [0_u16; 8];
    let mut first = groups.len();
    let mut whole = absolute / one;
    // The scale is four at most, so that the fraction is one group, the last.
    let fraction = absolute % one * (10_000 / one);
    if fraction > 0 {
        first -= 1;
        groups[first] = fraction as u16;
    }
    let mut weight = -1_i16;
    while whole > 0 {
        first -= 1;
        groups[first] = (whole % 10_000) as u16;
        whole /= 10_000;
        weight += 1;
    }
    let mut last = groups.len();
    while last > first && groups[last - 1] == 0 {
        last -= 1;
    }
    let digits = &groups[first..last];
    let sign: u16 = if units < 0 { 0x4000 } else { 0 };
    out.extend_from_slice(&(8 + 2 * digits.len() as u32).to_be_bytes());
    out.extend_from_slice(&(digits.len() as u16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&u16::from(scale).to_be_bytes());
    for digit in digits {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

/// What the type's input function reads; absent for null.
pub(super) fn text(shape: &Shape, value: &Value) -> Option<String> {
    Some(match (shape, value) {
        (_, Value::Null) => return None,
        (Shape::Narrowed { shape, .. }, value) => text(shape, value)?,
        (_, Value::Literal(text) | Value::Text(text)) => text.clone(),
        (_, Value::Bool(value)) => (if *value { "t" } else { "f" }).to_owned(),
        (Shape::Scalar { scalar, .. }, Value::Units(units)) => scalar_text(*scalar, *units),
        (_, Value::Units(units)) => units.to_string(),
        (Shape::Uuid, Value::Bytes(bytes)) => {
            let digits = hexadecimal(bytes);
            format!(
                "{}-{}-{}-{}-{}",
                &digits[..8],
                &digits[8..12],
                &digits[12..16],
                &digits[16..20],
                &digits[20..]
            )
        }
        (Shape::Network { .. }, Value::Bytes(bytes)) => {
            bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(".")
        }
        (Shape::Mac { .. }, Value::Bytes(bytes)) => {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
        }
        (Shape::Bit { length, .. }, Value::Bytes(bytes)) => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
            digits[..length.map_or(digits.len(), |length| length as usize)].to_owned()
        }
        (_, Value::Bytes(bytes)) => format!("\\x{}", hexadecimal(bytes)),
        (Shape::Array { element, .. }, Value::List(values)) => {
            let items = values.iter().map(|value| text(element, value).map_or("NULL".to_owned(), quoted));
            format!("{{{}}}", items.collect::<Vec<_>>().join(","))
        }
        (Shape::Range { bound }, Value::Range(bounds)) => {
            let side = |value| text(bound, value).map_or(String::new(), quoted);
            format!("[{},{})", side(&bounds.0), side(&bounds.1))
        }
        (Shape::Multirange { bound }, Value::List(values)) => {
            let range = Shape::Range { bound: bound.clone() };
            let items = values.iter().filter_map(|value| text(&range, value));
            format!("{{{}}}", items.collect::<Vec<_>>().join(","))
        }
        (Shape::Record(fields), Value::Record(values)) => {
            let items = fields
                .iter()
                .zip(values)
                .map(|((_, shape), value)| text(shape, value).map_or(String::new(), quoted));
            format!("({})", items.collect::<Vec<_>>().join(","))
        }
        _ => return None,
    })
}

fn scalar_text(scalar: Scalar, units: i64) -> String {
    match scalar {
        Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Oid => units.to_string(),
        Scalar::Numeric { scale } => fixed_point(units, scale),
        Scalar::Float4 | Scalar::Float8 => fixed_point(units, 3),
        Scalar::Money => fixed_point(units, 2),
        Scalar::Date => date_text(units),
        Scalar::Time => time_text(units),
        Scalar::TimeTz => format!("{}+00", time_text(units)),
        Scalar::Timestamp | Scalar::TimestampTz => {
            let zone = if scalar == Scalar::TimestampTz { "+00" } else { "" };
            let day = super::value::DAY_US;
            format!("{} {}{zone}", date_text(units.div_euclid(day)), time_text(units.rem_euclid(day)))
        }
        Scalar::Interval => format!("{} seconds", fixed_point(units, 6)),
        Scalar::Lsn => format!("{:X}/{:X}", units >> 32, units & 0xffff_ffff),
    }
}

fn fixed_point(units: i64, scale: u8) -> String {
    let one = 10_u64.pow(u32::from(scale));
    let sign = if units < 0 { "-" } else { "" };
    let absolute = units.unsigned_abs();
    if scale == 0 {
        return format!("{sign}{absolute}");
    }
    format!("{sign}{}.{:0width$}", absolute / one, absolute % one, width = usize::from(scale))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An item of an array, record or range.
fn quoted(text: String) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Appends a field of a text COPY, without the tabulator.
pub(super) fn copy_text(shape: &Shape, value: &Value, out: &mut Vec<u8>) {
    let Some(text) = text(shape, value) else {
        out.extend_from_slice(b"\\N");
        return;
    };
    for byte in text.bytes() {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => out.push(byte),
        }
    }
}

/// A literal whose type the server takes from the column.
pub(super) fn literal(shape: &Shape, value: &Value, sql: &mut String) {
    match text(shape, value) {
        Some(text) => sql.push_str(&quote(&text)),
        None => sql.push_str("NULL"),
    }
}

/// A string constant, whatever `standard_conforming_strings` says.
pub(super) fn quote(text: &str) -> String {
    let prefix = if text.contains('\\') { "E" } else { "" };
    format!("{prefix}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::{binary, copy_text, literal, text};
    use crate::synthetic::value::{Scalar, Shape, Value};

    fn scalar(scalar: Scalar) -> Shape {
        Shape::Scalar { scalar, low: i64::MIN, high: i64::MAX }
    }

    #[test]
    fn numbers_have_the_servers_digits() {
        let encode = |units, scale| {
            let mut out = Vec::new();
            binary(&scalar(Scalar::Numeric { scale }), &Value::Units(units), &mut out);
            out[4..].chunks(2).map(|pair| i16::from_be_bytes([pair[0], pair[1]])).collect::<Vec<_>>()
        };
        // ndigits, weight, sign, dscale, digits
        assert_eq!(encode(1_234_567, 2), [3, 1, 0, 2, 1, 2345, 6700]);
        assert_eq!(encode(-50, 2), [1, -1, 0x4000, 2, 5000]);
        assert_eq!(encode(0, 2), [0, -1, 0, 2]);
        assert_eq!(encode(100_000_000, 0), [1, 2, 0, 0, 1]);
    }

    #[test]
    fn text_forms_nest() {
        let words = Shape::Array { element: Box::new(Shape::Text { max: None, fixed: false }), oid: 25 };
        let value = Value::List(vec![Value::Text("a\"b\\".to_owned()), Value::Null]);
        assert_eq!(text(&words, &value).unwrap(), r#"{"a\"b\\",NULL}"#);
        let mut sql = String::new();
        literal(&words, &value, &mut sql);
        assert_eq!(sql, r#"E'{"a\\"b\\\\",NULL}'"#);
        let range = Shape::Range { bound: Box::new(scalar(Scalar::Date)) };
        let value = Value::Range(Box::new((Value::Units(0), Value::Units(31))));
        assert_eq!(text(&range, &value).unwrap(), r#"["2000-01-01","2000-02-01")"#);
        assert_eq!(text(&scalar(Scalar::Money), &Value::Units(-5)).unwrap(), "-0.05");
        let mut out = Vec::new();
        copy_text(&Shape::Text { max: None, fixed: false }, &Value::Text("a\tb\\\n".to_owned()), &mut out);
        assert_eq!(out, br"a\tb\\\n");
    }
}
