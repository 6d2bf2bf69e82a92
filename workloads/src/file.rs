//! The workload file: what production's clients do, as scenarios of arrivals or users.
//!
//! The conductor loads it before anything starts; every template is compiled and rendered once with probe values,
//! so that a mistake is an error with a file and a line, never an empty string in a request.

mod feeder;
mod http;
mod profile;
mod rates;
mod raw;
mod scenario;
mod sql;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use fulldress_reports::traffic::Model;

use self::profile::Profile;
use self::raw::RawWorkload;
use crate::schedule::Part;

pub(crate) use self::feeder::{FeederSource, FeederSpec, Order};
pub(crate) use self::http::{Rendered, Step, check_pointer};
pub(crate) use self::profile::Mix;
pub(crate) use self::rates::Rates;
#[cfg(test)]
pub(crate) use self::rates::Stretch;
pub(crate) use self::raw::RawExtract;
pub(crate) use self::scenario::{Scenario, ScenarioModel, Spread};
pub(crate) use self::sql::SqlStep;

/// The version of the format that this crate reads.
pub const SCHEMA: &str = "fulldress/workload/1";

/// Largest workload file, bytes.
const SIZE_MAX: u64 = 1 << 20;

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
    feeders: Vec<FeederSpec>,
    scenarios: Vec<Arc<Scenario>>,
    part: Part,
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
        let mut feeders = Vec::new();
        for feeder in &raw.feeder {
            if !names.insert(feeder.name.get_ref().clone()) {
                let what = format!("feeder `{}` is defined twice; rename one", feeder.name.get_ref());
                return Err(reader.fault(Some(feeder.name.span().start), what));
            }
            feeders.push(reader.feeder(feeder)?);
        }
        let profile = match &raw.profile {
            None => None,
            Some(profile) => Some(
                Profile::read(profile.get_ref(), reader.folder())
                    .map_err(|what| reader.fault(Some(profile.span().start), format!("profile: {what}")))?,
            ),
        };
        let mut names = BTreeSet::new();
        let mut scenarios = Vec::new();
        for scenario in &raw.scenario {
            if !names.insert(scenario.name.get_ref().clone()) {
                let what = format!("scenario `{}` is defined twice; rename one", scenario.name.get_ref());
                return Err(reader.fault(Some(scenario.name.span().start), what));
            }
            scenarios.push(Arc::new(reader.scenario(scenario, &feeders, profile.as_ref())?));
        }
        let (file, source, part) = (file.to_owned(), source.into(), Part::WHOLE);
        Ok(Self { file, source, name: raw.name, feeders, scenarios, part })
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

    /// Whether a scenario needs a base URL.
    #[must_use]
    pub fn has_http(&self) -> bool {
        self.scenarios.iter().any(|scenario| scenario.database().is_none())
    }

    /// Names of the databases that scenarios and the feeders in use need.
    #[must_use]
    pub fn databases(&self) -> BTreeSet<&str> {
        let scenarios = self.scenarios.iter().filter_map(|scenario| scenario.database());
        let feeders = self.feeders_in_use().filter_map(|feeder| match &feeder.source {
            FeederSource::Query { database, .. } => Some(database.as_str()),
            FeederSource::Csv(_) | FeederSource::JsonLines(_) => None,
        });
        scenarios.chain(feeders).collect()
    }

    /// Requests a second that the open-model scenarios ask for together at the beginning.
    #[must_use]
    pub fn rate_per_s(&self) -> f64 {
        let rate = |scenario: &Arc<Scenario>| match &scenario.model {
            ScenarioModel::Arrivals { rates, .. } => rates.first_per_s(),
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

    /// One part of the same workload: its share of the arrivals, by their numbers, and of the users. A scenario whose users
    /// are all in other parts is left out.
    #[must_use]
    pub fn part(&self, part: Part) -> Self {
        let mut mine = self.clone();
        mine.part = part;
        mine.scenarios.retain(|scenario| match scenario.model {
            ScenarioModel::Arrivals { .. } => true,
            ScenarioModel::Users { users, .. } => part.share_of(u64::from(users)) > 0,
        });
        mine
    }

    /// Which part of the traffic this is.
    pub(crate) const fn which_part(&self) -> Part {
        self.part
    }

    /// The feeders that a scenario takes values from.
    pub(crate) fn feeders_in_use(&self) -> impl Iterator<Item = &FeederSpec> {
        let used = |feeder: &&FeederSpec| {
            self.scenarios.iter().any(|scenario| scenario.templates.columns_of(&feeder.name).next().is_some())
        };
        self.feeders.iter().filter(used)
    }

    /// The scenarios of one model.
    pub(crate) fn of_model(&self, model: Model) -> impl Iterator<Item = &Arc<Scenario>> {
        self.scenarios.iter().filter(move |scenario| scenario.model() == model)
    }
}

/// Turns raw tables into scenarios and feeders, with the file at hand for errors.
struct Reader<'a> {
    file: &'a str,
    source: &'a str,
}

impl Reader<'_> {
    /// Where the files that the workload names lie, wherever the program was started.
    fn folder(&self) -> &Path {
        Path::new(self.file).parent().unwrap_or(Path::new(""))
    }

    fn fault(&self, offset: Option<usize>, what: String) -> WorkloadError {
        let line = offset.map(|offset| {
            let before = self.source.as_bytes().get(..offset).unwrap_or_default();
            before.iter().filter(|byte| **byte == b'\n').count() + 1
        });
        WorkloadError { file: self.file.to_owned(), line, what }
    }
}
