//! Config steps: keys of a TOML file on the mirror's host are set and unset; comments and order stay.

use std::collections::BTreeMap;

use toml_edit::{DocumentMut, Item, Table};

/// Why a config step failed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{file} is not TOML: {error}")]
    Syntax {
        /// Path on the host.
        file: String,
        /// Why.
        error: Box<toml_edit::TomlError>,
    },
    /// A key goes through something that is no table.
    #[error("{file}: `{key}` goes through a value that is no table")]
    Key {
        /// Path on the host.
        file: String,
        /// Dotted key.
        key: String,
    },
}

/// The content of a file after dotted keys were set and unset in `former`, its content before. `file` is for messages.
///
/// # Errors
/// See [`ConfigError`].
pub fn apply(
    file: &str,
    former: &[u8],
    set: &BTreeMap<String, toml::Value>,
    unset: &[String],
) -> Result<String, ConfigError> {
    let text = String::from_utf8_lossy(former);
    let syntax = |error| ConfigError::Syntax { file: file.to_owned(), error: Box::new(error) };
    let mut document: DocumentMut = text.parse().map_err(syntax)?;
    for (key, value) in set {
        let (table, last) = descend(document.as_table_mut(), key)
            .ok_or_else(|| ConfigError::Key { file: file.to_owned(), key: key.clone() })?;
        table[last] = Item::Value(edit_value(value));
    }
    for key in unset {
        if let Some((table, last)) = descend(document.as_table_mut(), key) {
            table.remove(last);
        }
    }
    Ok(document.to_string())
}

/// The table that holds the last part of a dotted key; missing tables are made.
fn descend<'table, 'key>(root: &'table mut Table, key: &'key str) -> Option<(&'table mut Table, &'key str)> {
    let (parents, last) = key.rsplit_once('.').map_or((None, key), |(parents, last)| (Some(parents), last));
    let mut table = root;
    for part in parents.into_iter().flat_map(|parents| parents.split('.')) {
        table = table.entry(part).or_insert_with(|| Item::Table(Table::new())).as_table_mut()?;
    }
    Some((table, last))
}

fn edit_value(value: &toml::Value) -> toml_edit::Value {
    match value {
        toml::Value::String(text) => text.clone().into(),
        toml::Value::Integer(number) => (*number).into(),
        toml::Value::Float(number) => (*number).into(),
        toml::Value::Boolean(truth) => (*truth).into(),
        toml::Value::Datetime(datetime) => datetime.to_string().into(),
        toml::Value::Array(items) => items.iter().map(edit_value).collect::<toml_edit::Array>().into(),
        toml::Value::Table(entries) => entries
            .iter()
            .map(|(key, value)| (key.as_str(), edit_value(value)))
            .collect::<toml_edit::InlineTable>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keys_are_set_and_unset_and_the_rest_stays() {
        let text = "# ours\n[checkout]\nlegacy_tax = true # old\nlimit = 3\n";
        let set = [
            ("checkout.tax_mode".to_owned(), toml::Value::from("inclusive")),
            ("search.size".to_owned(), 20.into()),
        ];
        let unset = ["checkout.legacy_tax".to_owned()];
        let after = super::apply("shop.toml", text.as_bytes(), &set.into(), &unset).unwrap();
        assert_eq!(after, "# ours\n[checkout]\nlimit = 3\ntax_mode = \"inclusive\"\n\n[search]\nsize = 20\n");
    }

    #[test]
    fn a_key_through_a_value_is_refused() {
        let set = [("checkout.tax".to_owned(), toml::Value::from(1))].into();
        let error = super::apply("shop.toml", b"checkout = 3\n", &set, &[]).unwrap_err().to_string();
        assert!(error.contains("`checkout.tax` goes through a value"), "{error}");
    }
}
