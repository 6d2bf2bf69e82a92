//! Steps over HTTP: a request from templates, what a right answer is, and what later steps take from it.

use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};

use super::raw::{RawAcknowledged, RawExtract, RawStep};
use super::scenario::{Scenario, ScenarioModel, Steps, latency_us_max};
use crate::answer::Expectation;
use crate::extract::Extraction;
use crate::template::{Session, TemplateId, Templates};

/// One request of a scenario.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) route: String,
    pub(crate) method: Method,
    pub(crate) weight: u32,
    pub(crate) expect: Expectation,
    /// Session variable and where its value stands in the answer.
    pub(crate) extract: Vec<(String, Extraction)>,
    /// JSON pointers of a write's projection; absent where the step writes nothing.
    pub(crate) projection: Option<Vec<String>>,
    /// What must hold for the step to be played.
    when: Option<TemplateId>,
    path: TemplateId,
    headers: Vec<(HeaderName, TemplateId)>,
    body: Option<TemplateId>,
    /// The write's key and the path that reads it back.
    write: Option<(TemplateId, TemplateId)>,
}

/// A request ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Rendered {
    pub(crate) path: String,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Option<String>,
    /// The write's key and the path that reads it back.
    pub(crate) write: Option<(String, String)>,
}

impl Step {
    /// Whether its condition holds for a session.
    ///
    /// # Errors
    /// A sentence: the condition needs a value that no answer has given yet.
    pub(crate) fn applies(&self, templates: &Templates, session: &Session) -> Result<bool, String> {
        match &self.when {
            Some(condition) => templates.holds(condition, &session.variables()),
            None => Ok(true),
        }
    }

    /// Renders the request with a fresh key.
    ///
    /// # Errors
    /// A sentence about the template or the value that cannot be sent.
    pub(crate) fn render(&self, templates: &Templates, session: &mut Session) -> Result<Rendered, String> {
        let context = session.context();
        let text = |id: &TemplateId| templates.render(id, &context);
        let path = text(&self.path)?;
        if !path.starts_with('/') {
            return Err(format!("path `{path}` does not begin with `/`"));
        }
        path.parse::<hyper::http::uri::PathAndQuery>().map_err(|error| format!("path `{path}`: {error}"))?;
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        for (name, id) in &self.headers {
            let value =
                HeaderValue::from_str(&text(id)?).map_err(|error| format!("header {name}: {error}"))?;
            headers.push((name.clone(), value));
        }
        if self.body.is_some() && !self.headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        let body = self.body.as_ref().map(text).transpose()?;
        let write = match &self.write {
            Some((key, read_back)) => Some((text(key)?, text(read_back)?)),
            None => None,
        };
        Ok(Rendered { path, headers, body, write })
    }
}

/// Builds a step, compiles its templates, and renders it once; `known` gains the variables that it extracts, `journey` has
/// those of all steps: a condition may ask for what a later step has left in an earlier journey.
pub(super) fn build_step(
    raw: &RawStep,
    index: usize,
    scenario: &mut Scenario,
    known: &mut Vec<String>,
    journey: &[String],
) -> Result<(), String> {
    let method = check_keys(raw, matches!(scenario.model, ScenarioModel::Users { .. }))?;
    let condition = |source: &String| {
        let added = scenario.templates.add_condition(format!("{index} when"), source, journey);
        added.map_err(|error| format!("when `{source}`: {error}"))
    };
    let when = raw.when.as_ref().map(condition).transpose()?;
    let mut add = |part: &str, source: &str| {
        scenario
            .templates
            .add(format!("{index} {part}"), source, known)
            .map_err(|error| format!("{part} `{source}`: {error}"))
    };
    let path = raw.path.as_deref().ok_or("it needs `path`")?;
    let path = add("path", path)?;
    let mut headers = Vec::new();
    for (name, source) in &raw.headers {
        let header = name.parse::<HeaderName>().map_err(|error| format!("header `{name}`: {error}"))?;
        headers.push((header, add(&format!("header {name}"), source)?));
    }
    let body = raw.body.as_deref().map(|source| add("body", source)).transpose()?;
    let write = match &raw.acknowledged {
        Some(write) => {
            check_write(write)?;
            Some((add("acknowledged.key", &write.key)?, add("read_back", &write.read_back)?))
        }
        None => None,
    };
    let extraction = |(name, place): (&String, &RawExtract)| {
        let place = Extraction::read(place).map_err(|what| format!("extract `{name}`: {what}"))?;
        Ok((name.clone(), place))
    };
    let extract = raw.extract.iter().map(extraction).collect::<Result<_, String>>()?;
    let step = Step {
        route: raw.route.get_ref().clone(),
        method,
        weight: raw.weight.unwrap_or(1),
        expect: Expectation {
            status: raw.expect.status.unwrap_or(200),
            latency_us_max: latency_us_max(raw, scenario.timeout_ms)?,
            json: raw.expect.json.iter().map(|(pointer, want)| (pointer.clone(), want.clone())).collect(),
        },
        extract,
        projection: raw.acknowledged.as_ref().map(|acknowledged| acknowledged.value.clone()),
        when,
        path,
        headers,
        body,
        write,
    };
    probe(&scenario.templates, &step, known)?;
    known.extend(raw.extract.keys().cloned());
    if let Steps::Http(steps) = &mut scenario.steps {
        steps.push(step);
    }
    Ok(())
}

/// Which keys may stand together; gives the method.
fn check_keys(raw: &RawStep, users: bool) -> Result<Method, String> {
    if !users && !raw.extract.is_empty() {
        return Err("`extract` needs a journey: arrivals are independent of each other".to_owned());
    }
    if !users && raw.when.is_some() {
        return Err("`when` needs a journey: a request of `arrivals` that is due is sent".to_owned());
    }
    if users && raw.weight.is_some() {
        return Err(
            "`weight` means nothing in a journey, whose steps follow each other; remove it".to_owned()
        );
    }
    if raw.weight == Some(0) {
        return Err("weight 0 never arrives: remove the step or give it a weight".to_owned());
    }
    if !raw.parameters.is_empty() {
        return Err("`parameters` belong to a `statement`".to_owned());
    }
    if raw.expect.rows.or(raw.expect.rows_min).or(raw.expect.rows_max).is_some() {
        return Err("`expect.rows` belongs to a `statement`".to_owned());
    }
    for pointer in raw.expect.json.keys() {
        check_pointer(pointer)?;
    }
    match raw.method.as_deref() {
        Some(method @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE")) => {
            Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())
        }
        Some(method) => Err(format!("method `{method}`: use GET, HEAD, POST, PUT, PATCH or DELETE")),
        None => Err("it needs `method` and `path`, or `statement`".to_owned()),
    }
}

fn check_write(write: &RawAcknowledged) -> Result<(), String> {
    for pointer in &write.value {
        check_pointer(pointer)?;
    }
    if write.value.is_empty() {
        return Err("acknowledged.value is empty: name what must survive".to_owned());
    }
    Ok(())
}

/// Renders a step once with every session variable standing at 1.
fn probe(templates: &Templates, step: &Step, known: &[String]) -> Result<(), String> {
    let rendered = step.render(templates, &mut Session::probing(known))?;
    let json =
        rendered.headers.iter().any(|(name, value)| name == CONTENT_TYPE && value == "application/json");
    if let (true, Some(body)) = (json, &rendered.body) {
        serde_json::from_str::<serde::de::IgnoredAny>(body)
            .map_err(|error| format!("body renders to `{body}`, which is no JSON: {error}"))?;
    }
    Ok(())
}

/// Refuses what is no JSON pointer.
pub(crate) fn check_pointer(pointer: &str) -> Result<(), String> {
    if pointer.is_empty() || pointer.starts_with('/') {
        Ok(())
    } else {
        Err(format!("JSON pointer `{pointer}` must begin with `/`"))
    }
}
