//! The way back, and what must be there again after it.

use serde::de::value::{SeqAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};

/// The way back.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rollback {
    /// Which ways, written as a word or a list. The first is rehearsed under traffic, the other after the proofs in the nightly
    /// profile.
    #[serde(deserialize_with = "word_or_list")]
    pub method: Vec<RollbackMethod>,
}

impl Default for Rollback {
    fn default() -> Self {
        Self { method: vec![RollbackMethod::default()] }
    }
}

/// A list, where one word stands for a list of it. An untagged enum would not say which word is wrong.
fn word_or_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<RollbackMethod>, D::Error> {
    struct WordOrList;
    impl<'de> Visitor<'de> for WordOrList {
        type Value = Vec<RollbackMethod>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("a way back such as \"down\", or a list of them")
        }

        fn visit_str<E: de::Error>(self, word: &str) -> Result<Self::Value, E> {
            RollbackMethod::deserialize(StrDeserializer::new(word)).map(|method| vec![method])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    deserializer.deserialize_any(WordOrList)
}

/// Which way back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollbackMethod {
    /// As the package's manifest declares.
    #[default]
    Declared,
    /// The package's own down steps.
    Down,
    /// The database snapshot from before the upgrade; the package's other down steps run too.
    Restore,
}

/// Where effects of the upgrade could be left.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Residue {
    /// URL of the flag store's list, in flagd's JSON form; `{url:SERVICE}` is replaced.
    pub flags: Option<String>,
    /// URL of the webhook registry's list: a JSON array, or an object that holds one.
    pub webhooks: Option<String>,
}

/// Second witness of acknowledged writes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ledger {
    /// Query with one parameter `$1`, an array of keys: returns each key that is there, and how often.
    pub witness: Option<String>,
}

/// What must hold in the data before, during and after upgrade and rollback.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invariant {
    /// Unique name.
    pub name: String,
    /// One query.
    pub sql: String,
    /// What its answer must be.
    #[serde(default)]
    pub holds: Holds,
    /// Longest that a reading may take while traffic runs, milliseconds; one that takes longer gives no answer.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

const fn default_timeout_ms() -> u64 {
    1000
}

/// When an invariant holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// The query gives no row: each row is an offence.
    #[default]
    NoRows,
    /// The query gives one row, the same as before the traffic.
    Unchanged,
}

/// Data that must come back.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Data {
    /// Tables that are written rarely by the application, schema-qualified: not compared.
    pub ignore: Vec<String>,
}
