//! Steps by SQL: a statement, or a transaction of several, with parameters from templates and what a right answer is.

use super::raw::{RawAcknowledged, RawExpect, RawParameter, RawStep};
use super::scenario::{Scenario, Steps, latency_us_max};
use crate::template::{NULL, Session, TemplateId, Templates};

/// One unit of work that a client waits for.
#[derive(Debug)]
pub(crate) struct SqlStep {
    pub(crate) route: String,
    pub(crate) weight: u32,
    /// Longest response time that is right, microseconds.
    pub(crate) latency_us_max: Option<u64>,
    /// In the order in which they are sent.
    pub(crate) statements: Vec<SqlStatement>,
    /// Whether BEGIN and COMMIT stand around them.
    pub(crate) is_transaction: bool,
    pub(crate) write: Option<SqlWrite>,
}

/// A statement as the file has it.
#[derive(Debug)]
pub(crate) struct SqlStatement {
    pub(crate) text: String,
    pub(crate) rows: Rows,
    parameters: Vec<TemplateId>,
}

/// How many rows a right answer returns or touches; both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) min: u64,
    pub(crate) max: u64,
}

/// What must survive of a step.
#[derive(Debug)]
pub(crate) struct SqlWrite {
    key: TemplateId,
    /// Columns that the last statement returns and the query gives again.
    pub(crate) columns: Vec<String>,
    /// Query with the key as `$1`.
    pub(crate) read_back: String,
}

/// The values of a step, ready to be encoded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RenderedSql {
    /// Per statement and parameter; NULL is absent.
    pub(crate) parameters: Vec<Vec<Option<String>>>,
    /// The write's key.
    pub(crate) key: Option<String>,
}

impl Rows {
    /// Whether so many rows are right.
    pub(crate) const fn holds(self, count: u64) -> bool {
        self.min <= count && count <= self.max
    }
}

impl SqlStatement {
    /// Number of parameters that the file gives.
    pub(crate) const fn parameters(&self) -> usize {
        self.parameters.len()
    }
}

impl SqlStep {
    /// Renders a step's values with a fresh key.
    ///
    /// # Errors
    /// A sentence about the template.
    pub(crate) fn render(&self, templates: &Templates, session: &mut Session) -> Result<RenderedSql, String> {
        let context = session.context();
        let mut parameters = Vec::with_capacity(self.statements.len());
        for statement in &self.statements {
            let values = statement
                .parameters
                .iter()
                .map(|id| templates.render(id, &context).map(|text| (text != NULL).then_some(text)));
            parameters.push(values.collect::<Result<Vec<_>, String>>()?);
        }
        let key = self.write.as_ref().map(|write| templates.render(&write.key, &context)).transpose()?;
        Ok(RenderedSql { parameters, key })
    }
}

/// Builds a step of a scenario of SQL, compiles its templates, and renders it once.
pub(super) fn build_step(raw: &RawStep, index: usize, scenario: &mut Scenario) -> Result<(), String> {
    refuse_http(raw)?;
    if raw.weight == Some(0) {
        return Err("weight 0 never arrives: remove the step or give it a weight".to_owned());
    }
    let templates = &mut scenario.templates;
    let mut statements = Vec::new();
    let is_transaction = raw.statement.is_none();
    if let Some(text) = &raw.statement {
        if !raw.transaction.is_empty() {
            return Err("`statement` and `transaction` exclude each other; keep one".to_owned());
        }
        let name = format!("{index}");
        statements.push(build_statement(text, &raw.parameters, &raw.expect, &name, templates)?);
    } else {
        if raw.transaction.is_empty() {
            return Err(
                "it has neither `statement` nor `transaction`, which a scenario of SQL needs".to_owned()
            );
        }
        if !raw.parameters.is_empty() || raw.expect.says_anything() {
            return Err(
                "`parameters` and `expect.rows` belong to the statements inside `transaction`".to_owned()
            );
        }
        for (number, inner) in raw.transaction.iter().enumerate() {
            let name = format!("{index}.{number}");
            if inner.expect.latency_ms.is_some() {
                return Err(
                    "`expect.latency_ms` belongs to the step: a transaction has one latency".to_owned()
                );
            }
            let built = build_statement(&inner.statement, &inner.parameters, &inner.expect, &name, templates);
            statements.push(built.map_err(|what| format!("statement {}: {what}", number + 1))?);
        }
    }
    let write = raw.acknowledged.as_ref().map(|write| build_write(write, index, templates)).transpose()?;
    let step = SqlStep {
        route: raw.route.get_ref().clone(),
        weight: raw.weight.unwrap_or(1),
        latency_us_max: latency_us_max(raw, scenario.timeout_ms)?,
        statements,
        is_transaction,
        write,
    };
    step.render(&scenario.templates, &mut Session::probing(&[]))?;
    if let Steps::Sql { steps, .. } = &mut scenario.steps {
        steps.push(step);
    }
    Ok(())
}

/// Keys of the other protocol.
fn refuse_http(raw: &RawStep) -> Result<(), String> {
    let foreign = [
        ("method", raw.method.is_some()),
        ("path", raw.path.is_some()),
        ("headers", !raw.headers.is_empty()),
        ("body", raw.body.is_some()),
        ("extract", !raw.extract.is_empty()),
        ("when", raw.when.is_some()),
    ];
    match foreign.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(format!("`{key}` means nothing for SQL; a scenario speaks one protocol")),
        None => Ok(()),
    }
}

fn build_statement(
    text: &str,
    parameters: &[RawParameter],
    expect: &RawExpect,
    name: &str,
    templates: &mut Templates,
) -> Result<SqlStatement, String> {
    if fulldress_reports::sql::split(text).len() != 1 {
        return Err(format!("`{text}` is not one statement; several make a `transaction`"));
    }
    if expect.status.is_some() || !expect.json.is_empty() {
        return Err("`expect.status` and `expect.json` mean nothing for SQL; use `rows`".to_owned());
    }
    let rows = match (expect.rows, expect.rows_min, expect.rows_max) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
            return Err("`expect.rows` is exact; remove `rows_min` and `rows_max`".to_owned());
        }
        (Some(exact), None, None) => Rows { min: exact, max: exact },
        (None, min, max) => Rows { min: min.unwrap_or(0), max: max.unwrap_or(u64::MAX) },
    };
    if rows.min > rows.max {
        return Err(format!("expect: rows_min = {} is above rows_max = {}", rows.min, rows.max));
    }
    let mut ids = Vec::with_capacity(parameters.len());
    for (number, parameter) in parameters.iter().enumerate() {
        let source = parameter.source();
        let id = templates
            .add(format!("{name} ${}", number + 1), &source, &[])
            .map_err(|error| format!("parameter ${} `{source}`: {error}", number + 1))?;
        ids.push(id);
    }
    Ok(SqlStatement { text: text.to_owned(), rows, parameters: ids })
}

fn build_write(raw: &RawAcknowledged, index: usize, templates: &mut Templates) -> Result<SqlWrite, String> {
    if fulldress_reports::sql::split(&raw.read_back).len() != 1 {
        return Err(format!("acknowledged.read_back `{}` is not one query", raw.read_back));
    }
    let key = templates
        .add(format!("{index} key"), &raw.key, &[])
        .map_err(|error| format!("acknowledged.key `{}`: {error}", raw.key))?;
    Ok(SqlWrite { key, columns: raw.value.clone(), read_back: raw.read_back.clone() })
}

impl RawParameter {
    fn source(&self) -> String {
        match self {
            Self::Template(source) => source.clone(),
            Self::Whole(value) => value.to_string(),
            Self::Real(value) => value.to_string(),
            Self::Truth(value) => value.to_string(),
        }
    }
}

impl RawExpect {
    /// Whether any key about the answer itself is set.
    fn says_anything(&self) -> bool {
        self.status.is_some()
            || !self.json.is_empty()
            || self.rows.is_some()
            || self.rows_min.is_some()
            || self.rows_max.is_some()
    }
}
