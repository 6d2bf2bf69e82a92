//! One parameter on its way to the server: a template's text in the binary form of the type that the server described.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};

/// The oid of `text`: what a value of any other type is sent as, for the server to read.
pub(super) const TEXT: Oid = Oid(25);

/// Types that are encoded here; oids are PostgreSQL's own and the same in every version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Text,
    Json,
    Jsonb,
    Bytea,
    Uuid,
}

impl Encoding {
    /// The encoding of a type; none where its value goes as text and the server reads it.
    pub(super) const fn of(oid: Oid) -> Option<Self> {
        Some(match oid.0 {
            16 => Self::Bool,
            21 => Self::Int2,
            23 => Self::Int4,
            20 => Self::Int8,
            26 => Self::Oid,
            700 => Self::Float4,
            701 => Self::Float8,
            19 | 25 | 1042 | 1043 => Self::Text,
            114 => Self::Json,
            3802 => Self::Jsonb,
            17 => Self::Bytea,
            2950 => Self::Uuid,
            _ => return None,
        })
    }

    /// The binary form of a value.
    ///
    /// # Errors
    /// A sentence, when the text is no value of the type.
    pub(super) fn encode(self, text: &str) -> Result<Vec<u8>, String> {
        let trimmed = text.trim();
        let bytes = match self {
            Self::Bool => truth(trimmed).map(|truth| vec![u8::from(truth)]),
            Self::Int2 => trimmed.parse::<i16>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Int4 => trimmed.parse::<i32>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Int8 => trimmed.parse::<i64>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Oid => trimmed.parse::<u32>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Float4 => trimmed.parse::<f32>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Float8 => trimmed.parse::<f64>().ok().map(|value| value.to_be_bytes().to_vec()),
            Self::Text | Self::Json => Some(text.as_bytes().to_vec()),
            // Its binary form has a version in front.
            Self::Jsonb => Some([&[1], text.as_bytes()].concat()),
            Self::Bytea => match text.strip_prefix("\\x") {
                Some(digits) => hexadecimal(digits),
                None => Some(text.as_bytes().to_vec()),
            },
            Self::Uuid => {
                let digits: String = trimmed.chars().filter(|letter| !"-{}".contains(*letter)).collect();
                hexadecimal(&digits).filter(|bytes| bytes.len() == 16)
            }
        };
        bytes.ok_or_else(|| format!("`{text}` is no value of the type {}", self.name()))
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Oid => "oid",
            Self::Float4 => "real",
            Self::Float8 => "double precision",
            Self::Text => "text",
            Self::Json => "json",
            Self::Jsonb => "jsonb",
            Self::Bytea => "bytea",
            Self::Uuid => "uuid",
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || !digits.len().is_multiple_of(2) {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

/// A value with the type that the server is told; NULL has no bytes.
pub(super) struct Bound {
    pub(super) type_info: PgTypeInfo,
    pub(super) bytes: Option<Vec<u8>>,
}

impl Type<Postgres> for Bound {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TEXT)
    }
}

impl Encode<'_, Postgres> for Bound {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Ok(match &self.bytes {
            Some(bytes) => {
                buffer.extend_from_slice(bytes);
                IsNull::No
            }
            None => IsNull::Yes,
        })
    }

    fn produces(&self) -> Option<PgTypeInfo> {
        Some(self.type_info.clone())
    }

    fn size_hint(&self) -> usize {
        self.bytes.as_ref().map_or(0, Vec::len)
    }
}

#[cfg(test)]
mod tests {
    use super::Encoding;

    #[test]
    fn values_have_the_form_that_the_server_reads() {
        for (encoding, text, bytes) in [
            (Encoding::Bool, "True", vec![1]),
            (Encoding::Int2, " -2 ", vec![0xff, 0xfe]),
            (Encoding::Int8, "258", vec![0, 0, 0, 0, 0, 0, 1, 2]),
            (Encoding::Float4, "1", vec![0x3f, 0x80, 0, 0]),
            (Encoding::Text, " é", " é".as_bytes().to_vec()),
            (Encoding::Jsonb, "{}", vec![1, b'{', b'}']),
            (Encoding::Bytea, "\\x00ff", vec![0, 255]),
            (Encoding::Bytea, "ab", vec![b'a', b'b']),
            (
                Encoding::Uuid,
                "{00112233-4455-6677-8899-AABBCCDDEEFF}",
                (0..16).map(|digit| digit * 17).collect(),
            ),
        ] {
            assert_eq!(encoding.encode(text), Ok(bytes), "{encoding:?} {text}");
        }
        for (encoding, text) in [
            (Encoding::Bool, "maybe"),
            (Encoding::Int4, "2147483648"),
            (Encoding::Int4, ""),
            (Encoding::Uuid, "0011"),
            (Encoding::Bytea, "\\x0"),
            (Encoding::Bytea, "\\xéé"),
        ] {
            assert!(encoding.encode(text).unwrap_err().contains("is no value of the type"), "{encoding:?}");
        }
    }
}
