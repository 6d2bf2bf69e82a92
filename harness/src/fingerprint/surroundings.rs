//! The settings that decide how the server writes a value or a definition, held fixed while something is read.
//!
//! Called by the rooms of the fingerprints. Each script is one message, and so one transaction where none is open:
//! what is set ends with it. Where one is open, it gets its own settings back at the script's end.

use sqlx::{AssertSqlSafe, PgConnection, Row};

/// Names are qualified, dates have one form, floats are whole, and nothing is compiled for a statement that runs once.
const FIXED: [(&str, &str); 10] = [
    ("search_path", "pg_catalog, pg_temp"),
    ("DateStyle", "ISO, YMD"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("quote_all_identifiers", "off"),
    ("row_security", "off"),
    ("jit", "off"),
    ("lock_timeout", "0"),
];

/// Settings of a session as they were.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// Major version of the server.
    pub(super) major: u32,
    before: Vec<String>,
}

impl Surroundings {
    /// Reads what is set.
    pub(super) async fn of(connection: &mut PgConnection) -> Result<Self, sqlx::Error> {
        let names = FIXED.map(|(name, _)| format!("current_setting('{name}')")).join(", ");
        let query = format!("SELECT current_setting('server_version_num')::int / 10000, {names}");
        let row = sqlx::raw_sql(AssertSqlSafe(query)).fetch_one(connection).await?;
        let before = (1..=FIXED.len()).map(|column| row.try_get(column)).collect::<Result<_, _>>()?;
        Ok(Self { major: row.try_get::<i32, _>(0)?.unsigned_abs(), before })
    }

    /// The script with the fixed settings, and some more, around it. Its first and its last result are not the script's.
    pub(super) fn around(&self, further: &[(&str, &str)], script: &str) -> String {
        let set = FIXED.iter().chain(further).map(|(name, value)| setting(name, value));
        let back = FIXED.iter().zip(&self.before).map(|((name, _), value)| setting(name, value));
        format!(
            "SELECT {};\n{script};\nSELECT {}",
            set.collect::<Vec<_>>().join(", "),
            back.collect::<Vec<_>>().join(", ")
        )
    }
}

fn setting(name: &str, value: &str) -> String {
    format!("set_config('{name}', '{}', true)", value.replace('\'', "''"))
}
