//! What a scenario is once its tables are understood: a model, steps of one protocol, and their compiled templates.
//!
//! `file` builds it; the pumps play it.

use fulldress_reports::traffic::Model;
use serde::Deserialize;

use super::feeder::FeederSpec;
use super::http::{self, Step};
use super::profile::{Mix, Profile};
use super::rates::{RATE_MAX_PER_S, Rates, read_rates};
use super::raw::{RawScenario, RawStep};
use super::sql::{self, SqlStep};
use super::{Reader, WorkloadError};
use crate::template::Templates;

/// A scenario with its templates compiled.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) model: ScenarioModel,
    /// Time limit of one request, milliseconds.
    pub(crate) timeout_ms: u64,
    pub(crate) steps: Steps,
    pub(crate) templates: Templates,
}

/// The steps of a scenario, all of one protocol.
#[derive(Debug)]
pub(crate) enum Steps {
    /// Requests.
    Http(Vec<Step>),
    /// Statements and transactions on a named database.
    Sql { database: String, steps: Vec<SqlStep> },
}

/// What drives a scenario.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ScenarioModel {
    /// Open model.
    Arrivals {
        rates: Rates,
        spread: Spread,
        /// How often each step is chosen as time goes on; empty where the steps' own weights always hold.
        mixes: Vec<Mix>,
        connections_max: usize,
        backlog_max: usize,
    },
    /// Closed model.
    Users { users: u32, think_ms: (u64, u64) },
}

/// How intended starts are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Spread {
    /// Equal gaps.
    Constant,
    /// Exponential gaps, as independent clients make them.
    Poisson,
}

impl Scenario {
    /// The traffic model.
    pub(crate) const fn model(&self) -> Model {
        match self.model {
            ScenarioModel::Arrivals { .. } => Model::Arrivals,
            ScenarioModel::Users { .. } => Model::Users,
        }
    }

    /// The steps' labels, in the order of the file.
    pub(crate) fn routes(&self) -> Vec<&str> {
        match &self.steps {
            Steps::Http(steps) => steps.iter().map(|step| step.route.as_str()).collect(),
            Steps::Sql { steps, .. } => steps.iter().map(|step| step.route.as_str()).collect(),
        }
    }

    /// How often each step is chosen among the others, from which offset on; the first one stands at 0.
    pub(crate) fn mixes(&self) -> Vec<Mix> {
        if let ScenarioModel::Arrivals { mixes, .. } = &self.model
            && !mixes.is_empty()
        {
            return mixes.clone();
        }
        let weights = match &self.steps {
            Steps::Http(steps) => steps.iter().map(|step| step.weight).collect(),
            Steps::Sql { steps, .. } => steps.iter().map(|step| step.weight).collect(),
        };
        vec![(0, weights)]
    }

    /// Longest response time of a step that is right, microseconds.
    pub(crate) fn latency_us_max(&self, step: usize) -> Option<u64> {
        match &self.steps {
            Steps::Http(steps) => steps.get(step)?.expect.latency_us_max,
            Steps::Sql { steps, .. } => steps.get(step)?.latency_us_max,
        }
    }

    /// The steps over HTTP; none of a scenario of SQL.
    pub(crate) fn http_steps(&self) -> &[Step] {
        match &self.steps {
            Steps::Http(steps) => steps,
            Steps::Sql { .. } => &[],
        }
    }

    /// The steps by SQL; none of a scenario over HTTP.
    pub(crate) fn sql_steps(&self) -> &[SqlStep] {
        match &self.steps {
            Steps::Http(_) => &[],
            Steps::Sql { steps, .. } => steps,
        }
    }

    /// The database that a scenario of SQL works on.
    pub(crate) fn database(&self) -> Option<&str> {
        match &self.steps {
            Steps::Http(_) => None,
            Steps::Sql { database, .. } => Some(database),
        }
    }
}

impl Reader<'_> {
    pub(super) fn scenario(
        &self,
        raw: &RawScenario,
        feeders: &[FeederSpec],
        profile: Option<&Profile>,
    ) -> Result<Scenario, WorkloadError> {
        let name = raw.name.get_ref();
        let fault =
            |what: String| self.fault(Some(raw.name.span().start), format!("scenario `{name}`: {what}"));
        let model = match raw.model {
            Model::Arrivals => self.arrivals(raw, profile),
            Model::Users => users(raw, profile),
        };
        let model = model.map_err(fault)?;
        let timeout_ms = raw.timeout_ms.unwrap_or(5000);
        if !(1..=600_000).contains(&timeout_ms) {
            return Err(fault(format!("timeout_ms = {timeout_ms} is outside 1 to 600000")));
        }
        if raw.step.is_empty() {
            return Err(fault("no [[scenario.step]]: add at least one".to_owned()));
        }
        let steps = steps_of(raw).map_err(fault)?;
        let mut templates = Templates::new();
        // A journey's requests depend on each other: what they need they get from each other's answers.
        if raw.model == Model::Arrivals {
            templates.feed_from(feeders.iter().map(|feeder| feeder.name.clone()));
        }
        let mut scenario = Scenario { name: name.clone(), model, timeout_ms, steps, templates };
        let mut known = Vec::new();
        let journey: Vec<String> = raw.step.iter().flat_map(|step| step.extract.keys().cloned()).collect();
        for (index, step) in raw.step.iter().enumerate() {
            let built = match scenario.database() {
                None => http::build_step(step, index, &mut scenario, &mut known, &journey),
                Some(_) => sql::build_step(step, index, &mut scenario),
            };
            built.map_err(|what| {
                let route = step.route.get_ref();
                let offset = step.route.span().start;
                self.fault(Some(offset), format!("scenario `{name}`, step `{route}`: {what}"))
            })?;
        }
        Ok(scenario)
    }
}

/// A step's `expect.latency_ms`, in microseconds.
pub(super) fn latency_us_max(raw: &RawStep, timeout_ms: u64) -> Result<Option<u64>, String> {
    match raw.expect.latency_ms {
        Some(limit_ms) if !(1..timeout_ms).contains(&limit_ms) => Err(format!(
            "expect.latency_ms = {limit_ms} is outside 1 to {}, below the scenario's timeout_ms",
            timeout_ms - 1
        )),
        limit_ms => Ok(limit_ms.map(|limit_ms| limit_ms * 1000)),
    }
}

/// The protocol that the steps speak, with no steps yet.
fn steps_of(raw: &RawScenario) -> Result<Steps, String> {
    let is_sql = raw.step.iter().any(|step| step.statement.is_some() || !step.transaction.is_empty());
    match (is_sql, &raw.database) {
        (false, None) => Ok(Steps::Http(Vec::new())),
        (false, Some(_)) => {
            Err("`database` means nothing without a step that has `statement` or `transaction`".to_owned())
        }
        (true, _) if raw.model == Model::Users => {
            Err("statements need the model `arrivals`: users walk through an application".to_owned())
        }
        (true, None) => Err("statements need `database = \"NAME\"`: the connection that they use".to_owned()),
        (true, Some(database)) => Ok(Steps::Sql { database: database.clone(), steps: Vec::new() }),
    }
}

/// Refuses the first of these keys that is set.
fn refuse(keys: &[(&str, bool)], why: &str) -> Result<(), String> {
    match keys.iter().find(|(_, set)| *set) {
        Some((key, _)) => Err(format!("`{key}` means nothing {why}; remove it")),
        None => Ok(()),
    }
}

/// The profile and the routes that a scenario with `profile = true` looks up in it.
fn profiled<'a>(
    raw: &'a RawScenario,
    profile: Option<&'a Profile>,
) -> Result<(&'a Profile, Vec<&'a str>), String> {
    let profile = profile.ok_or("`profile = true` needs a table [profile] that names the file")?;
    if raw.step.iter().any(|step| step.weight.is_some()) {
        return Err("`weight` means nothing with `profile = true`, which has each route's share; remove it"
            .to_owned());
    }
    Ok((profile, raw.step.iter().map(|step| step.route.get_ref().as_str()).collect()))
}

impl Reader<'_> {
    fn arrivals(&self, raw: &RawScenario, profile: Option<&Profile>) -> Result<ScenarioModel, String> {
        let foreign = [("users", raw.users.is_some()), ("think_ms", raw.think_ms.is_some())];
        refuse(&foreign, "in the model `arrivals`")?;
        let one = "state one of `rate_per_s`, `rates` and `profile = true`";
        let mut mixes = Vec::new();
        let mut clients = None;
        let rates = match (raw.rate_per_s, &raw.rates, raw.profile) {
            (Some(rate_per_s), None, false) => {
                if !(rate_per_s > 0.0 && rate_per_s <= RATE_MAX_PER_S) {
                    return Err(format!(
                        "rate_per_s = {rate_per_s} is outside 0 (excluded) to {RATE_MAX_PER_S}"
                    ));
                }
                Rates::constant(rate_per_s)
            }
            (None, Some(rates), false) => read_rates(rates, self.folder())?,
            (None, None, true) => {
                let (profile, routes) = profiled(raw, profile)?;
                let said = profile.arrivals(&routes).map_err(|what| format!("profile: {what}"))?;
                (mixes, clients) = (said.mixes, said.clients);
                said.rates
            }
            (None, None, false) => return Err(format!("the model `arrivals` needs a rate: {one}")),
            _ => return Err(format!("it has several rates: {one}")),
        };
        let connections_max = raw.connections_max.or(clients).unwrap_or(64);
        if !(1..=10_000).contains(&connections_max) {
            return Err(format!("connections_max = {connections_max} is outside 1 to 10000"));
        }
        let spread = raw.schedule.unwrap_or(Spread::Constant);
        let backlog_max = raw.backlog_max.unwrap_or(10_000);
        Ok(ScenarioModel::Arrivals { rates, spread, mixes, connections_max, backlog_max })
    }
}

fn users(raw: &RawScenario, profile: Option<&Profile>) -> Result<ScenarioModel, String> {
    let foreign = [
        ("rate_per_s", raw.rate_per_s.is_some()),
        ("rates", raw.rates.is_some()),
        ("schedule", raw.schedule.is_some()),
        ("connections_max", raw.connections_max.is_some()),
        ("backlog_max", raw.backlog_max.is_some()),
    ];
    refuse(&foreign, "in the model `users`")?;
    if raw.profile {
        let stated = [("users", raw.users.is_some()), ("think_ms", raw.think_ms.is_some())];
        refuse(&stated, "with `profile = true`, which has it")?;
        let (profile, routes) = profiled(raw, profile)?;
        let said = profile.users(&routes).map_err(|what| format!("profile: {what}"))?;
        return Ok(ScenarioModel::Users { users: said.users, think_ms: said.think_ms });
    }
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
