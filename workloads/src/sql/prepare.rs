//! A statement as the server described it: what its parameters are, and how each gets there.
//!
//! A type with no encoding here (dates, numerics, arrays, enums, domains, …) goes as text, and the statement is sent with a
//! cast around the parameter: the server's own input functions then read whatever they read from psql.

use std::collections::BTreeMap;
use std::sync::Arc;

use fulldress_reports::sql::{Token, tokens};
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArguments, PgTypeInfo};
use sqlx::query::Query;
use sqlx::{
    Arguments as _, AssertSqlSafe, Column as _, Either, Executor as _, PgConnection, Postgres,
    SqlSafeStr as _, Statement as _,
};

use super::parameter::{Bound, Encoding, TEXT};

/// A statement, ready to be sent with values.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    text: Arc<str>,
    parameters: Vec<(PgTypeInfo, Encoding)>,
    columns: Vec<String>,
}

impl Prepared {
    /// Lets the server describe a statement.
    ///
    /// # Errors
    /// The server's sentence, or a parameter that cannot be given as text.
    pub(super) async fn new(connection: &mut PgConnection, text: &str) -> Result<Self, String> {
        let (types, columns) = describe(connection, text).await.map_err(|error| sentence(&error, text))?;
        let mut parameters = Vec::with_capacity(types.len());
        let mut casts = BTreeMap::new();
        for (number, type_info) in (1..).zip(types) {
            let oid = type_info.oid().ok_or_else(|| format!("the type of ${number} is not known"))?;
            if let Some(encoding) = Encoding::of(oid) {
                parameters.push((type_info, encoding));
            } else {
                casts.insert(number, name_of(connection, oid).await.map_err(|error| error.to_string())?);
                parameters.push((PgTypeInfo::with_oid(TEXT), Encoding::Text));
            }
        }
        if casts.is_empty() {
            return Ok(Self { text: text.into(), parameters, columns });
        }
        let cast = with_casts(text, &casts);
        let names = casts.iter().map(|(number, name)| format!("${number} as {name}")).collect::<Vec<_>>();
        describe(connection, &cast).await.map_err(|error| {
            format!("{} cannot be given as text, which is how it would be sent: {error}", names.join(", "))
        })?;
        Ok(Self { text: cast.into(), parameters, columns })
    }

    /// Checks the number of parameters.
    ///
    /// # Errors
    /// One sentence.
    pub(super) fn takes(&self, given: usize) -> Result<(), String> {
        let wanted = self.parameters.len();
        if given == wanted {
            Ok(())
        } else {
            Err(format!("the statement takes {wanted} parameters, and `parameters` gives {given}"))
        }
    }

    /// Names of the columns that it returns.
    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Encodes a value for each parameter; NULL is absent.
    ///
    /// # Errors
    /// A sentence about a text that is no value of its type.
    pub(super) fn encode(&self, values: &[Option<String>]) -> Result<PgArguments, String> {
        let mut arguments = PgArguments::default();
        for (number, ((type_info, encoding), value)) in (1..).zip(self.parameters.iter().zip(values)) {
            let fault = |error: String| format!("parameter ${number}: {error}");
            let bytes = value.as_deref().map(|text| encoding.encode(text)).transpose().map_err(fault)?;
            let bound = Bound { type_info: type_info.clone(), bytes };
            arguments.add(bound).map_err(|error| fault(error.to_string()))?;
        }
        Ok(arguments)
    }

    /// The statement with its values.
    pub(super) fn query(&self, arguments: PgArguments) -> Query<'static, Postgres, PgArguments> {
        // The workload's own author wrote it; it runs in the mirror only.
        sqlx::query_with(AssertSqlSafe(Arc::clone(&self.text)), arguments)
    }
}

/// The types of a statement's parameters, and the names of its columns.
async fn describe(
    connection: &mut PgConnection,
    text: &str,
) -> Result<(Vec<PgTypeInfo>, Vec<String>), sqlx::Error> {
    let statement = connection.prepare(AssertSqlSafe(text.to_owned()).into_sql_str()).await?;
    let types = match statement.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    let columns = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    Ok((types, columns))
}

/// What the server says of a statement, and where.
fn sentence(error: &sqlx::Error, text: &str) -> String {
    match error.as_database_error() {
        Some(error) => format!("the server does not take `{}`: {}", text.trim(), error.message()),
        None => error.to_string(),
    }
}

/// A type's name as a statement can use it, schema and quotes included where they are needed.
async fn name_of(connection: &mut PgConnection, oid: Oid) -> Result<String, sqlx::Error> {
    // With -1, and not NULL: a bare `bit` would be `bit(1)`.
    sqlx::query_scalar("SELECT pg_catalog.format_type($1, -1)").bind(oid).fetch_one(connection).await
}

/// The statement with parameters that are read from text.
fn with_casts(text: &str, casts: &BTreeMap<usize, String>) -> String {
    let mut out = String::with_capacity(text.len() + 32);
    let mut all = tokens(text).peekable();
    let mut dollar: Option<&str> = None;
    let mut copied = 0;
    while let Some((token, at)) = all.next() {
        match (token, all.peek()) {
            (Token::Word(word), _) if word.starts_with('$') => match dollar {
                None => dollar = Some(word),
                Some(open) if open == word => dollar = None,
                Some(_) => {}
            },
            (Token::Symbol("$"), Some((Token::Number, digits_at))) if dollar.is_none() => {
                let digits: String = text[*digits_at..].chars().take_while(char::is_ascii_digit).collect();
                if let Some(name) = digits.parse().ok().and_then(|number: usize| casts.get(&number)) {
                    let end = digits_at + digits.len();
                    out.push_str(&text[copied..at]);
                    out.push_str(&format!("(${digits}::pg_catalog.text::{name})"));
                    copied = end;
                }
            }
            _ => {}
        }
    }
    out.push_str(&text[copied..]);
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::with_casts;

    #[test]
    fn only_parameters_get_a_cast() {
        let casts = BTreeMap::from([(1, "date".to_owned()), (12, "app.\"State\"[]".to_owned())]);
        let text = "SELECT $1, $2, '$1', \"$1\", $$ $1 $$, $q$ $1 $q$ /* $1 */ FROM a$1 WHERE x=$12+$1";
        assert_eq!(
            with_casts(text, &casts),
            "SELECT ($1::pg_catalog.text::date), $2, '$1', \"$1\", $$ $1 $$, $q$ $1 $q$ /* $1 */ FROM a$1 \
             WHERE x=($12::pg_catalog.text::app.\"State\"[])+($1::pg_catalog.text::date)"
        );
    }
}
