//! One pass of every scenario's steps against the running system: does the workload fit it?
//!
//! `fulldress load --check` asks. The steps go the way that the pumps send them, one after the other; a journey's are
//! played in order, with what earlier answers gave.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::traffic::{ErrorKind, Model};
use serde::Serialize;

use crate::answer::{Ending, Judgement, judge};
use crate::arrivals::Way;
use crate::clock::Clock;
use crate::connection::Target;
use crate::file::Scenario;
use crate::http::Http;
use crate::lanes::{Progress, Protocol};
use crate::template::Session;
use crate::traffic::{TrafficError, TrafficPlan, sources};

/// How one step went.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CheckedStep {
    /// The scenario.
    pub scenario: String,
    /// The step's label.
    pub route: String,
    /// Whether it was left out, since its condition does not hold.
    pub skipped: bool,
    /// What was wrong; absent where the answer was right.
    pub error: Option<ErrorKind>,
    /// What the system said about it, where it said something.
    pub said: Option<String>,
    /// From the sending to the last byte, connecting included; microseconds.
    pub took_us: u64,
}

/// Sends every step of a workload once. A plan's worker is not needed: journeys are walked here.
///
/// # Errors
/// As [`Traffic::start`](crate::traffic::Traffic::start).
pub async fn check(plan: TrafficPlan) -> Result<Vec<CheckedStep>, TrafficError> {
    let TrafficPlan { workload, base_url, databases, clock, seed, .. } = plan;
    let target = base_url.as_deref().map(Target::parse).transpose()?;
    if target.is_none() && workload.has_http() {
        return Err(TrafficError::NoBaseUrl(workload.name().to_owned()));
    }
    let sources = sources(&workload, target.as_ref(), &databases).await?;
    let local = tokio::task::LocalSet::new();
    let checked = local.run_until(async {
        let mut checked = Vec::new();
        for source in sources {
            let session = Session::new(seed, clock.epoch_unix_us()).fed(source.feeds);
            match source.way {
                Way::Http(http) => checked.extend(pass(&http, &source.scenario, session, clock, plain).await),
                Way::Sql(sql) => checked.extend(pass(&*sql, &source.scenario, session, clock, plain).await),
            }
        }
        for scenario in workload.of_model(Model::Users) {
            let Some(target) = target.clone() else { continue };
            let session = Session::new(seed, clock.epoch_unix_us());
            let http = Http { scenario: Arc::clone(scenario), target };
            let remembering = |http: &Http, step: usize, ending: &Ending, session: &mut Session| {
                judge(&http.scenario.http_steps()[step], ending, Some(session))
            };
            checked.extend(pass(&http, scenario, session, clock, remembering).await);
        }
        checked
    });
    Ok(checked.await)
}

/// Judges an ending where nothing is carried on to the next step.
fn plain<P: Protocol>(protocol: &P, step: usize, ending: &P::Ending, _session: &mut Session) -> Judgement {
    protocol.judge(step, ending)
}

/// Sends a scenario's steps on one connection after the other.
async fn pass<P: Protocol>(
    protocol: &P,
    scenario: &Scenario,
    mut session: Session,
    clock: Clock,
    judged: impl Fn(&P, usize, &P::Ending, &mut Session) -> Judgement,
) -> Vec<CheckedStep> {
    let mut connection = None;
    let mut checked = Vec::new();
    for (step, route) in scenario.routes().into_iter().enumerate() {
        let started_us = clock.now_us();
        let condition =
            scenario.http_steps().get(step).map(|step| step.applies(&scenario.templates, &session));
        if condition == Some(Ok(false)) {
            let (scenario, route) = (scenario.name.clone(), route.to_owned());
            checked.push(CheckedStep { scenario, route, skipped: true, error: None, said: None, took_us: 0 });
            continue;
        }
        // What cannot be rendered now lacks a value that an earlier step of the journey should have given.
        let (mut error, mut said) = (Some(ErrorKind::Dropped), None);
        if !matches!(condition, Some(Err(_)))
            && let Ok((request, _)) = protocol.render(step, &mut session)
        {
            let progress = Cell::new(Progress::Connecting);
            let limit = Duration::from_millis(scenario.timeout_ms);
            let exchange = protocol.exchange(connection.take(), step, request, &progress);
            let exchanged = tokio::time::timeout(limit, exchange).await;
            let (ending, kept) = exchanged.unwrap_or_else(|_| (protocol.abandoned(progress.get()), None));
            connection = match kept {
                Some(kept) => P::reusable(kept).await,
                None => None,
            };
            error = judged(protocol, step, &ending, &mut session).error;
            said = error.and_then(|_| P::said(&ending));
        }
        let took_us = clock.now_us().saturating_sub(started_us);
        let late = scenario.latency_us_max(step).is_some_and(|limit_us| took_us > limit_us);
        let error = error.or(late.then_some(ErrorKind::Late));
        let (scenario, route) = (scenario.name.clone(), route.to_owned());
        checked.push(CheckedStep { scenario, route, skipped: false, error, said, took_us });
    }
    checked
}
