//! The workload file: what production's clients do, as scenarios of arrivals or users.
//!
//! The conductor loads it before anything starts; every template is compiled and rendered once with probe values,
//! so that a mistake is an error with a file and a line, never an empty string in a request.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use fulldress_reports::traffic::Model;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use toml::Spanned;

use crate::answer::{Expectation, JsonExpectation};
use crate::template::{Session, TemplateId, Templates};

/// The version of the format that this crate reads.
pub const SCHEMA: &str = "fulldress/workload/1";

/// Largest workload file, bytes.
const SIZE_MAX: u64 = 1 << 20;
/// Highest rate that one scenario may ask for, requests a second.
const RATE_MAX_PER_S: f64 = 100_000.0;

/// Why a workload file was refused.
#[derive(Debug, thiserror::Error)]
#[error("workload {file}{}: {what}", line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct WorkloadError {
    /// Path as it was given.
    pub file: String,
    /// Line, counted from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong and what to do.
    pub what: String,
}

/// A valid workload; cheap to clone.
#[derive(Debug, Clone)]
pub struct Workload {
    file: String,
    source: Arc<str>,
    name: String,
    scenarios: Vec<Arc<Scenario>>,
}

/// A scenario with its templates compiled.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) model: ScenarioModel,
    /// Time limit of one request, milliseconds.
    pub(crate) timeout_ms: u64,
    pub(crate) steps: Vec<Step>,
    templates: Templates,
}

/// What drives a scenario.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ScenarioModel {
    /// Open model.
    Arrivals { rate_per_s: f64, schedule: ScheduleKind, connections_max: usize, backlog_max: usize },
    /// Closed model.
    Users { users: u32, think_ms: (u64, u64) },
}

/// How intended starts are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ScheduleKind {
    /// Equal gaps.
    Constant,
    /// Exponential gaps, as independent clients make them.
    Poisson,
}

/// One request of a scenario.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) route: String,
    pub(crate) method: Method,
    pub(crate) weight: u32,
    pub(crate) expect: Expectation,
    /// Session variable and the JSON pointer that feeds it.
    pub(crate) extract: Vec<(String, String)>,
    /// JSON pointers of a write's projection; absent where the step writes nothing.
    pub(crate) projection: Option<Vec<String>>,
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWorkload {
    schema: Spanned<String>,
    name: String,
    #[serde(default)]
    scenario: Vec<RawScenario>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawScenario {
    name: Spanned<String>,
    model: Model,
    rate_per_s: Option<f64>,
    schedule: Option<ScheduleKind>,
    connections_max: Option<usize>,
    backlog_max: Option<usize>,
    users: Option<u32>,
    think_ms: Option<RawThink>,
    timeout_ms: Option<u64>,
    #[serde(default)]
    step: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawThink {
    min: u64,
    max: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    route: Spanned<String>,
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    body: Option<String>,
    weight: Option<u32>,
    #[serde(default)]
    expect: RawExpect,
    #[serde(default)]
    extract: BTreeMap<String, String>,
    acknowledged: Option<RawAcknowledged>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawExpect {
    status: Option<u16>,
    #[serde(default)]
    json: BTreeMap<String, JsonExpectation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAcknowledged {
    key: String,
    value: Vec<String>,
    read_back: String,
}

impl Workload {
    /// Reads and checks a workload file.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML of this format, or says something that cannot be played.
    pub fn load(path: &Path) -> Result<Self, WorkloadError> {
        let file = path.display().to_string();
        let fault = |what: String| WorkloadError { file: file.clone(), line: None, what };
        let size = std::fs::metadata(path).map_err(|error| fault(format!("cannot be read: {error}")))?.len();
        if size > SIZE_MAX {
            return Err(fault(format!("{size} bytes are more than the {SIZE_MAX} that a workload may have")));
        }
        let source =
            std::fs::read_to_string(path).map_err(|error| fault(format!("cannot be read: {error}")))?;
        Self::parse(&file, &source)
    }

    /// Checks a workload given as text; `file` is only named in errors.
    ///
    /// # Errors
    /// As [`Workload::load`].
    pub fn parse(file: &str, source: &str) -> Result<Self, WorkloadError> {
        let reader = Reader { file, source };
        let raw: RawWorkload = toml::from_str(source)
            .map_err(|error| reader.fault(error.span().map(|span| span.start), error.message().to_owned()))?;
        if raw.schema.get_ref() != SCHEMA {
            let what =
                format!("schema `{}` is not known; this version reads `{SCHEMA}`", raw.schema.get_ref());
            return Err(reader.fault(Some(raw.schema.span().start), what));
        }
        if raw.scenario.is_empty() {
            return Err(reader.fault(None, "no [[scenario]]: add at least one".to_owned()));
        }
        let mut names = BTreeSet::new();
        let mut scenarios = Vec::new();
        for scenario in &raw.scenario {
            if !names.insert(scenario.name.get_ref().clone()) {
                let what = format!("scenario `{}` is defined twice; rename one", scenario.name.get_ref());
                return Err(reader.fault(Some(scenario.name.span().start), what));
            }
            scenarios.push(Arc::new(reader.scenario(scenario)?));
        }
        Ok(Self { file: file.to_owned(), source: source.into(), name: raw.name, scenarios })
    }

    /// The workload's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file's text, as it was read.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Scenarios' names and models, in the order of the file.
    pub fn scenarios(&self) -> impl Iterator<Item = (&str, Model)> {
        self.scenarios.iter().map(|scenario| (scenario.name.as_str(), scenario.model()))
    }

    /// Whether a scenario needs the users' worker.
    #[must_use]
    pub fn has_users(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.model() == Model::Users)
    }

    /// Whether a scenario has an open model.
    #[must_use]
    pub fn has_arrivals(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.model() == Model::Arrivals)
    }

    /// Requests a second that the open-model scenarios ask for together.
    #[must_use]
    pub fn rate_per_s(&self) -> f64 {
        let rate = |scenario: &Arc<Scenario>| match scenario.model {
            ScenarioModel::Arrivals { rate_per_s, .. } => rate_per_s,
            ScenarioModel::Users { .. } => 0.0,
        };
        self.scenarios.iter().map(rate).sum()
    }

    /// The same workload with only the named scenarios.
    ///
    /// # Errors
    /// A name that no scenario has.
    pub fn select(&self, names: &[String]) -> Result<Self, WorkloadError> {
        for name in names {
            if !self.scenarios.iter().any(|scenario| scenario.name == *name) {
                let known: Vec<_> = self.scenarios.iter().map(|scenario| scenario.name.as_str()).collect();
                let what = format!("no scenario `{name}`; it has: {}", known.join(", "));
                return Err(WorkloadError { file: self.file.clone(), line: None, what });
            }
        }
        let mut selected = self.clone();
        selected.scenarios.retain(|scenario| names.contains(&scenario.name));
        Ok(selected)
    }

    /// The scenarios of one model.
    pub(crate) fn of_model(&self, model: Model) -> impl Iterator<Item = &Arc<Scenario>> {
        self.scenarios.iter().filter(move |scenario| scenario.model() == model)
    }
}

impl Scenario {
    /// The traffic model.
    pub(crate) const fn model(&self) -> Model {
        match self.model {
            ScenarioModel::Arrivals { .. } => Model::Arrivals,
            ScenarioModel::Users { .. } => Model::Users,
        }
    }

    /// Renders a step with a fresh key.
    ///
    /// # Errors
    /// A sentence about the template or the value that cannot be sent.
    pub(crate) fn render(&self, step: &Step, session: &mut Session) -> Result<Rendered, String> {
        let context = session.context();
        let text = |id: &TemplateId| self.templates.render(id, &context);
        let path = text(&step.path)?;
        if !path.starts_with('/') {
            return Err(format!("path `{path}` does not begin with `/`"));
        }
        path.parse::<hyper::http::uri::PathAndQuery>().map_err(|error| format!("path `{path}`: {error}"))?;
        let mut headers = Vec::with_capacity(step.headers.len() + 1);
        for (name, id) in &step.headers {
            let value =
                HeaderValue::from_str(&text(id)?).map_err(|error| format!("header {name}: {error}"))?;
            headers.push((name.clone(), value));
        }
        if step.body.is_some() && !step.headers.iter().any(|(name, _)| name == CONTENT_TYPE) {
            headers.push((CONTENT_TYPE, HeaderValue::from_static("application/json")));
        }
        let body = step.body.as_ref().map(text).transpose()?;
        let write = match &step.write {
            Some((key, read_back)) => Some((text(key)?, text(read_back)?)),
            None => None,
        };
        Ok(Rendered { path, headers, body, write })
    }
}

/// Turns raw tables into scenarios, with the file at hand for errors.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
}

impl Reader<'_> {
    fn fault(&self, offset: Option<usize>, what: String) -> WorkloadError {
        let line = offset.map(|offset| {
            let before = self.source.as_bytes().get(..offset).unwrap_or_default();
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        WorkloadError { file: self.file.to_owned(), line, what }
    }

    fn scenario(&self, raw: &RawScenario) -> Result<Scenario, WorkloadError> {
        let name = raw.name.get_ref();
        let fault =
            |what: String| self.fault(Some(raw.name.span().start), format!("scenario `{name}`: {what}"));
        let model = model_of(raw).map_err(fault)?;
        let timeout_ms = raw.timeout_ms.unwrap_or(5000);
        if !(1..=600_000).contains(&timeout_ms) {
            return Err(fault(format!("timeout_ms = {timeout_ms} is outside 1 to 600000")));
        }
        if raw.step.is_empty() {
            return Err(fault("no [[scenario.step]]: add at least one".to_owned()));
        }
        let mut scenario = Scenario {
            name: name.clone(),
            model,
            timeout_ms,
            steps: Vec::new(),
            templates: Templates::new(),
        };
        let mut known = Vec::new();
        for (index, step) in raw.step.iter().enumerate() {
            let step = build_step(step, index, &mut scenario, &mut known).map_err(|what| {
                let offset = step.route.span().start;
                self.fault(
                    Some(offset),
                    format!("scenario `{name}`, step `{}`: {what}", step.route.get_ref()),
                )
            })?;
            scenario.steps.push(step);
        }
        if scenario.model() == Model::Arrivals && scenario.steps.iter().all(|step| step.weight == 0) {
            return Err(fault("every step has weight 0: nothing would ever arrive".to_owned()));
        }
        Ok(scenario)
    }
}

fn model_of(raw: &RawScenario) -> Result<ScenarioModel, String> {
    let foreign = |keys: &[(&str, bool)], model: &str| match keys.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(format!("`{key}` means nothing in the model `{model}`; remove it")),
        None => Ok(()),
    };
    match raw.model {
        Model::Arrivals => {
            foreign(&[("users", raw.users.is_some()), ("think_ms", raw.think_ms.is_some())], "arrivals")?;
            let rate_per_s = raw.rate_per_s.ok_or("the model `arrivals` needs `rate_per_s`")?;
            if !(rate_per_s > 0.0 && rate_per_s <= RATE_MAX_PER_S) {
                return Err(format!("rate_per_s = {rate_per_s} is outside 0 (excluded) to {RATE_MAX_PER_S}"));
            }
            let connections_max = raw.connections_max.unwrap_or(64);
            if !(1..=10_000).contains(&connections_max) {
                return Err(format!("connections_max = {connections_max} is outside 1 to 10000"));
            }
            let schedule = raw.schedule.unwrap_or(ScheduleKind::Constant);
            let backlog_max = raw.backlog_max.unwrap_or(10_000);
            Ok(ScenarioModel::Arrivals { rate_per_s, schedule, connections_max, backlog_max })
        }
        Model::Users => {
            let keys = [
                ("rate_per_s", raw.rate_per_s.is_some()),
                ("schedule", raw.schedule.is_some()),
                ("connections_max", raw.connections_max.is_some()),
                ("backlog_max", raw.backlog_max.is_some()),
            ];
            foreign(&keys, "users")?;
            let users = raw.users.ok_or("the model `users` needs `users`")?;
            if !(1..=10_000).contains(&users) {
                return Err(format!("users = {users} is outside 1 to 10000"));
            }
            let think = raw.think_ms.as_ref().ok_or("the model `users` needs `think_ms = { min, max }`")?;
            if think.min > think.max || think.max > 600_000 {
                return Err(format!("think_ms {} to {} is not a range up to 600000", think.min, think.max));
            }
            if think.max == 0 {
                return Err("think_ms of 0 makes users that never think: state at least max = 1".to_owned());
            }
            Ok(ScenarioModel::Users { users, think_ms: (think.min, think.max) })
        }
    }
}

/// Builds a step, compiles its templates, and renders it once; `known` gains the variables that it extracts.
fn build_step(
    raw: &RawStep,
    index: usize,
    scenario: &mut Scenario,
    known: &mut Vec<String>,
) -> Result<Step, String> {
    let users = scenario.model() == Model::Users;
    if !users && !raw.extract.is_empty() {
        return Err("`extract` needs a journey: arrivals are independent of each other".to_owned());
    }
    if users && raw.weight.is_some() {
        return Err(
            "`weight` means nothing in a journey, whose steps follow each other; remove it".to_owned()
        );
    }
    if raw.weight == Some(0) {
        return Err("weight 0 never arrives: remove the step or give it a weight".to_owned());
    }
    let method = match raw.method.as_str() {
        method @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE") => {
            Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?
        }
        method => return Err(format!("method `{method}`: use GET, HEAD, POST, PUT, PATCH or DELETE")),
    };
    for pointer in raw.expect.json.keys().chain(raw.extract.values()) {
        check_pointer(pointer)?;
    }
    let mut add = |part: &str, source: &str| {
        scenario
            .templates
            .add(format!("{index} {part}"), source, known)
            .map_err(|error| format!("{part} `{source}`: {error}"))
    };
    let path = add("path", &raw.path)?;
    let mut headers = Vec::new();
    for (name, source) in &raw.headers {
        let header = name.parse::<HeaderName>().map_err(|error| format!("header `{name}`: {error}"))?;
        headers.push((header, add(&format!("header {name}"), source)?));
    }
    let body = raw.body.as_deref().map(|source| add("body", source)).transpose()?;
    let write = match &raw.acknowledged {
        Some(acknowledged) => {
            for pointer in &acknowledged.value {
                check_pointer(pointer)?;
            }
            if acknowledged.value.is_empty() {
                return Err("acknowledged.value is empty: name what must survive".to_owned());
            }
            Some((add("acknowledged.key", &acknowledged.key)?, add("read_back", &acknowledged.read_back)?))
        }
        None => None,
    };
    let step = Step {
        route: raw.route.get_ref().clone(),
        method,
        weight: raw.weight.unwrap_or(1),
        expect: Expectation {
            status: raw.expect.status.unwrap_or(200),
            json: raw.expect.json.iter().map(|(pointer, want)| (pointer.clone(), want.clone())).collect(),
        },
        extract: raw.extract.iter().map(|(name, pointer)| (name.clone(), pointer.clone())).collect(),
        projection: raw.acknowledged.as_ref().map(|acknowledged| acknowledged.value.clone()),
        path,
        headers,
        body,
        write,
    };
    probe(scenario, &step, known)?;
    known.extend(raw.extract.keys().cloned());
    Ok(step)
}

/// Renders a step once with every session variable standing at 1.
fn probe(scenario: &Scenario, step: &Step, known: &[String]) -> Result<(), String> {
    let mut session = Session::new(0, 0);
    for name in known {
        session.remember(name, &serde_json::Value::from(1));
    }
    let rendered = scenario.render(step, &mut session)?;
    let json =
        rendered.headers.iter().any(|(name, value)| name == CONTENT_TYPE && value == "application/json");
    if let (true, Some(body)) = (json, &rendered.body) {
        serde_json::from_str::<serde::de::IgnoredAny>(body)
            .map_err(|error| format!("body renders to `{body}`, which is no JSON: {error}"))?;
    }
    Ok(())
}

fn check_pointer(pointer: &str) -> Result<(), String> {
    if pointer.is_empty() || pointer.starts_with('/') {
        Ok(())
    } else {
        Err(format!("JSON pointer `{pointer}` must begin with `/`"))
    }
}

#[cfg(test)]
mod tests {
    use super::Workload;

    const HEAD: &str = "schema = \"fulldress/workload/1\"\nname = \"t\"\n";

    fn refusal(source: &str) -> String {
        Workload::parse("w.toml", &format!("{HEAD}{source}")).map(|_| ()).unwrap_err().to_string()
    }

    /// An arrivals scenario whose only step has these lines.
    fn step(lines: &str) -> String {
        format!(
            "[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\nrate_per_s = 10\n[[scenario.step]]\nroute = \"r\"\n{lines}"
        )
    }

    #[test]
    fn the_storefront_workload_is_valid() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("storefront.toml");
        let workload = Workload::load(&path).unwrap();
        assert_eq!(workload.scenarios().map(|(name, _)| name).collect::<Vec<_>>(), ["shop", "shoppers"]);
        assert!(workload.has_users() && workload.has_arrivals());
        assert!((workload.rate_per_s() - 150.0).abs() < f64::EPSILON);
        let shop = workload.select(&["shop".to_owned()]).unwrap();
        assert!(!shop.has_users());
        let error = workload.select(&["shopp".to_owned()]).unwrap_err().to_string();
        assert!(error.ends_with("no scenario `shopp`; it has: shop, shoppers"), "{error}");
    }

    #[test]
    fn faults_name_file_line_and_remedy() {
        for (source, expected) in [
            ("[[scenario]]\nname = 3\n", "workload w.toml:4: invalid type: integer `3`"),
            ("colour = 1\n", "workload w.toml:3: unknown field `colour`"),
            ("[[scenario]\n", "workload w.toml:3"),
            ("", "no [[scenario]]"),
            (
                "[[scenario]]\nname = \"a\"\nmodel = \"arrivals\"\n",
                "w.toml:4: scenario `a`: the model `arrivals` needs",
            ),
            ("[[scenario]]\nname = \"a\"\nmodel = \"users\"\nrate_per_s = 1\n", "`rate_per_s` means nothing"),
        ] {
            let error = refusal(source);
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
        let error = Workload::parse("w.toml", "schema = \"other\"\nname = \"x\"\n").unwrap_err().to_string();
        assert!(error.contains("w.toml:1: schema `other` is not known"), "{error}");
    }

    #[test]
    fn faulty_steps_are_refused_at_their_line() {
        for (lines, expected) in [
            (
                "method = \"GET\"\npath = \"/x/{{ id }}\"\n",
                "w.toml:8: scenario `a`, step `r`: path `/x/{{ id }}`: undefined variable `id`",
            ),
            ("method = \"GET\"\npath = \"/x/{{ random(1 }}\"\n", "syntax error"),
            ("method = \"GET\"\npath = \"/x/{{ random(5, 1) }}\"\n", "empty range"),
            ("method = \"GET\"\npath = \"x\"\n", "does not begin with `/`"),
            ("method = \"GET\"\npath = \"/x y\"\n", "path `/x y`"),
            ("method = \"FETCH\"\npath = \"/\"\n", "method `FETCH`"),
            ("method = \"GET\"\npath = \"/\"\nweight = 0\n", "weight 0 never arrives"),
            ("method = \"POST\"\npath = \"/\"\nbody = '{\"a\": }'\n", "no JSON"),
            ("method = \"GET\"\npath = \"/\"\nextract = { a = \"/id\" }\n", "needs a journey"),
            (
                "method = \"GET\"\npath = \"/\"\nexpect = { json = { \"id\" = \"present\" } }\n",
                "must begin with `/`",
            ),
            ("method = \"GET\"\npath = \"/\"\nexpect = { json = { \"/id\" = \"maybe\" } }\n", "present"),
        ] {
            let error = refusal(&step(lines));
            assert!(error.contains(expected), "{error}\nshould contain {expected}");
        }
    }

    #[test]
    fn a_journey_may_use_only_what_earlier_steps_extracted() {
        let journey = |first: &str, second: &str| {
            format!(
                "[[scenario]]\nname = \"u\"\nmodel = \"users\"\nusers = 1\nthink_ms = {{ min = 1, max = 2 }}\n\
                 [[scenario.step]]\nroute = \"one\"\nmethod = \"GET\"\npath = \"{first}\"\nextract = {{ id = \"/id\" }}\n\
                 [[scenario.step]]\nroute = \"two\"\nmethod = \"GET\"\npath = \"{second}\"\n"
            )
        };
        assert!(Workload::parse("w.toml", &format!("{HEAD}{}", journey("/", "/{{ id }}"))).is_ok());
        assert!(
            refusal(&journey("/{{ id }}", "/")).contains("step `one`: path `/{{ id }}`: undefined variable")
        );
    }
}
