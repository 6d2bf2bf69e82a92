//! Why a request counts as an error: the closed list of kinds, and the server's own code for SQL.
//!
//! The pumps name a kind, the judge counts it; its written form is the key in `report.json` and `events.jsonl`.

use std::borrow::Cow;
use std::fmt::{Display, Formatter};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What stands before a SQLSTATE in files and tables.
const SQL: &str = "sql-";

/// Why a request counts as an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// No connection could be made.
    Connect,
    /// The connection broke before the last byte.
    Reset,
    /// The request's own time limit ran out.
    Timeout,
    /// Status 4xx that was not expected.
    Status4xx,
    /// Status 5xx.
    Status5xx,
    /// Another status than the one expected.
    StatusOther,
    /// The answer came and was not the right one: another body, another number of rows.
    WrongBody,
    /// The right answer came, and later than the workload allows for this step.
    Late,
    /// The driver itself could not send it: backlog full.
    Dropped,
    /// Nothing was sent: a feeder of the workload had no row left.
    FeederDry,
    /// The database server refused it with this code: `sql-23505`.
    Sql(Sqlstate),
}

/// The kinds that have a name of their own.
const NAMES: [(ErrorKind, &str); 10] = [
    (ErrorKind::Connect, "connect"),
    (ErrorKind::Reset, "reset"),
    (ErrorKind::Timeout, "timeout"),
    (ErrorKind::Status4xx, "status-4xx"),
    (ErrorKind::Status5xx, "status-5xx"),
    (ErrorKind::StatusOther, "status-other"),
    (ErrorKind::WrongBody, "wrong-body"),
    (ErrorKind::Late, "late"),
    (ErrorKind::Dropped, "dropped"),
    (ErrorKind::FeederDry, "feeder-dry"),
];

impl Display for ErrorKind {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match (self, NAMES.iter().find(|(kind, _)| kind == self)) {
            (Self::Sql(state), _) => write!(formatter, "{SQL}{state}"),
            (_, Some((_, name))) => formatter.pad(name),
            // The list has every other kind; a test holds that.
            (_, None) => formatter.write_str("unknown"),
        }
    }
}

/// A text that names no kind of error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no kind of error")]
pub struct UnknownErrorKind(String);

impl FromStr for ErrorKind {
    type Err = UnknownErrorKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = NAMES.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind);
        named
            .or_else(|| text.strip_prefix(SQL).and_then(Sqlstate::parse).map(Self::Sql))
            .ok_or_else(|| UnknownErrorKind(text.to_owned()))
    }
}

impl Serialize for ErrorKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ErrorKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'_, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for ErrorKind {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ErrorKind".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        String::json_schema(generator)
    }
}

/// The five characters by which a SQL server classes an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sqlstate([u8; 5]);

impl Sqlstate {
    /// Reads a code: five digits or capital letters.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let code: [u8; 5] = text.as_bytes().try_into().ok()?;
        code.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()).then_some(Self(code))
    }

    /// The code.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII comes in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Display for Sqlstate {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{ErrorKind, NAMES, Sqlstate};

    #[test]
    fn every_kind_survives_its_name_as_a_key() {
        let mut kinds: Vec<ErrorKind> = NAMES.iter().map(|(kind, _)| *kind).collect();
        for kind in &kinds {
            // The compiler points here when a kind is new: give it a name above.
            match kind {
                ErrorKind::Connect
                | ErrorKind::Reset
                | ErrorKind::Timeout
                | ErrorKind::Status4xx
                | ErrorKind::Status5xx
                | ErrorKind::StatusOther
                | ErrorKind::WrongBody
                | ErrorKind::Late
                | ErrorKind::Dropped
                | ErrorKind::FeederDry
                | ErrorKind::Sql(_) => {}
            }
        }
        kinds.push(ErrorKind::Sql(Sqlstate::parse("40P01").unwrap()));
        let counts: BTreeMap<ErrorKind, u64> = kinds.into_iter().zip(1..).collect();
        let text = serde_json::to_string(&counts).unwrap();
        assert!(text.contains("\"status-4xx\":4") && text.contains("\"sql-40P01\":11"), "{text}");
        assert_eq!(serde_json::from_str::<BTreeMap<ErrorKind, u64>>(&text).unwrap(), counts);
        for wrong in ["sql-4", "sql-40p01", "sql-40P0é", "status"] {
            assert!(wrong.parse::<ErrorKind>().is_err(), "{wrong}");
        }
    }
}
