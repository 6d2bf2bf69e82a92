//! Judging answers: status, body, session variables, and what the ledger keeps of a write.
//!
//! Both pumps ask here, so that an error means the same in both models.

use fulldress_reports::phase::Phase;
use fulldress_reports::traffic::{ErrorKind, LedgerEntry, WriteAnswer};
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

use crate::file::Step;
use crate::template::Session;

/// Largest body that is read, bytes; a longer one counts as wrong.
pub(crate) const BODY_BYTES_MAX: usize = 8 << 20;

/// What a right answer looks like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expectation {
    pub(crate) status: u16,
    /// Longest response time that is right, microseconds.
    pub(crate) latency_us_max: Option<u64>,
    /// JSON pointer and what must stand there.
    pub(crate) json: Vec<(String, JsonExpectation)>,
}

/// What must stand at a JSON pointer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged, expecting = "\"present\", \"nonempty\" or { equals = VALUE }")]
pub(crate) enum JsonExpectation {
    /// By a word.
    Word(ExpectationWord),
    /// By its value.
    Equals(EqualsExpectation),
}

/// The words of [`JsonExpectation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ExpectationWord {
    /// Anything but nothing; `null` counts.
    Present,
    /// A string, list or object with at least one element.
    Nonempty,
}

/// The exact value wanted.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EqualsExpectation {
    equals: Value,
}

impl JsonExpectation {
    fn holds(&self, found: Option<&Value>) -> bool {
        match (self, found) {
            (_, None) => false,
            (Self::Word(ExpectationWord::Present), Some(_)) => true,
            (Self::Word(ExpectationWord::Nonempty), Some(found)) => match found {
                Value::Array(items) => !items.is_empty(),
                Value::Object(members) => !members.is_empty(),
                Value::String(text) => !text.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) => false,
            },
            (Self::Equals(wanted), Some(found)) => wanted.equals == *found,
        }
    }
}

/// How a request ended, before it is judged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Ending {
    /// An answer came to its last byte.
    Answered {
        /// HTTP status.
        status: u16,
        /// The answer's headers; a pump may leave them out where the step takes nothing from them.
        headers: HeaderMap,
        /// The whole body.
        body: bytes::Bytes,
    },
    /// No answer came, or not all of it.
    Broken {
        /// Why.
        kind: ErrorKind,
        /// Whether the system may have received the request.
        perhaps_sent: bool,
    },
}

/// A judged ending.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Judgement {
    /// The error, if it is one.
    pub(crate) error: Option<ErrorKind>,
    /// What became of the write, if the step is one: `null` stands for indeterminate.
    pub(crate) write: Option<(WriteAnswer, Value)>,
}

impl Judgement {
    /// A write that was right and acknowledged with this value.
    pub(crate) const fn acknowledged(value: Value) -> Self {
        Self { error: None, write: Some((WriteAnswer::Acknowledged, value)) }
    }
}

/// Judges an ending and lets the session remember what the step extracts.
pub(crate) fn judge(step: &Step, ending: &Ending, session: Option<&mut Session>) -> Judgement {
    match ending {
        Ending::Broken { kind, perhaps_sent } => {
            let write = (step.projection.is_some() && *perhaps_sent).then_some(INDETERMINATE);
            Judgement { error: Some(*kind), write }
        }
        Ending::Answered { status, headers, body } => judge_answer(step, *status, headers, body, session),
    }
}

/// A write of which nobody knows whether it happened.
pub(crate) const INDETERMINATE: (WriteAnswer, Value) = (WriteAnswer::Indeterminate, Value::Null);

fn judge_answer(
    step: &Step,
    status: u16,
    headers: &HeaderMap,
    body: &[u8],
    session: Option<&mut Session>,
) -> Judgement {
    if status != step.expect.status {
        let error = match status {
            400..500 => ErrorKind::Status4xx,
            500..600 => ErrorKind::Status5xx,
            _ => ErrorKind::StatusOther,
        };
        // A refusal by 4xx is definite; behind any other status the write may have happened.
        let perhaps_done = step.projection.is_some() && error != ErrorKind::Status4xx;
        return Judgement { error: Some(error), write: perhaps_done.then_some(INDETERMINATE) };
    }
    let reads_body = !step.expect.json.is_empty() || !step.extract.is_empty() || step.projection.is_some();
    if !reads_body {
        return Judgement { error: None, write: None };
    }
    let needs_json = !step.expect.json.is_empty()
        || step.projection.is_some()
        || step.extract.iter().any(|(_, place)| place.needs_json());
    let json: Option<Value> = if needs_json { serde_json::from_slice(body).ok() } else { None };
    let at = |pointer: &str| json.as_ref().and_then(|json| json.pointer(pointer));
    let mut right = (json.is_some() || !needs_json)
        && step.expect.json.iter().all(|(pointer, want)| want.holds(at(pointer)));
    if let Some(session) = session {
        for (name, place) in &step.extract {
            let found = place.find(headers, body, json.as_ref());
            right &= found.is_some_and(|found| session.remember(name, &found));
        }
    }
    let write = step.projection.as_ref().map(|pointers| {
        let mut value = serde_json::Map::new();
        for pointer in pointers {
            if let Some(found) = at(pointer) {
                value.insert(pointer.clone(), found.clone());
            }
        }
        if (200..300).contains(&status) && value.len() == pointers.len() {
            (WriteAnswer::Acknowledged, Value::Object(value))
        } else {
            right = false;
            INDETERMINATE
        }
    });
    Judgement { error: (!right).then_some(ErrorKind::WrongBody), write }
}

/// The ledger's line for a judged write.
pub(crate) fn ledger_entry(
    step: &Step,
    (key, read_back): (String, String),
    phase: Phase,
    answered_us: u64,
    (answer, value): (WriteAnswer, Value),
) -> LedgerEntry {
    let route = step.route.clone();
    LedgerEntry { key, route, phase, answered_us, answer, value, read_back, database: None }
}

#[cfg(test)]
mod tests {
    use super::{Ending, Judgement, judge};
    use crate::file::Workload;
    use fulldress_reports::traffic::{ErrorKind, Model, WriteAnswer};
    use hyper::HeaderMap;
    use serde_json::json;

    fn judged(ending: &Ending) -> Judgement {
        let workload = Workload::parse(
            "w.toml",
            r#"
            schema = "fulldress/workload/1"
            name = "t"
            [[scenario]]
            name = "a"
            model = "arrivals"
            rate_per_s = 1
            [[scenario.step]]
            route = "POST /orders"
            method = "POST"
            path = "/orders"
            expect = { status = 201, json = { "/lines" = "nonempty", "/status" = { equals = "placed" }, "/id" = "present" } }
            acknowledged = { key = "{{ key }}", value = ["/total_cents", "/lines"], read_back = "/k/{{ key }}" }
            "#,
        )
        .unwrap();
        let scenario = workload.of_model(Model::Arrivals).next().unwrap();
        judge(&scenario.http_steps()[0], ending, None)
    }

    fn answered(status: u16, body: &serde_json::Value) -> Ending {
        Ending::Answered { status, headers: HeaderMap::new(), body: body.to_string().into() }
    }

    #[test]
    fn a_full_answer_is_acknowledged_with_its_projection() {
        let body = json!({"id": null, "status": "placed", "total_cents": 5, "lines": [1]});
        let judgement = judged(&answered(201, &body));
        assert_eq!(judgement.error, None);
        let (answer, value) = judgement.write.unwrap();
        assert_eq!(answer, WriteAnswer::Acknowledged);
        assert_eq!(value, json!({"/total_cents": 5, "/lines": [1]}));
    }

    #[test]
    fn each_fault_has_its_kind_and_its_place_in_the_ledger() {
        let right = json!({"id": 1, "status": "placed", "total_cents": 5, "lines": [1]});
        let indeterminate = Some(WriteAnswer::Indeterminate);
        for (ending, error, write) in [
            (answered(409, &right), ErrorKind::Status4xx, None),
            (answered(503, &right), ErrorKind::Status5xx, indeterminate),
            (answered(200, &right), ErrorKind::StatusOther, indeterminate),
            (
                Ending::Answered { status: 201, headers: HeaderMap::new(), body: "no json".into() },
                ErrorKind::WrongBody,
                indeterminate,
            ),
            (
                answered(201, &json!({"id": 1, "status": "placed", "lines": [1]})),
                ErrorKind::WrongBody,
                indeterminate,
            ),
            (
                answered(201, &json!({"id": 1, "status": "odd", "total_cents": 5, "lines": [1]})),
                ErrorKind::WrongBody,
                Some(WriteAnswer::Acknowledged),
            ),
            (
                answered(201, &json!({"id": 1, "status": "placed", "total_cents": 5, "lines": []})),
                ErrorKind::WrongBody,
                Some(WriteAnswer::Acknowledged),
            ),
            (
                Ending::Broken { kind: ErrorKind::Timeout, perhaps_sent: true },
                ErrorKind::Timeout,
                indeterminate,
            ),
            (Ending::Broken { kind: ErrorKind::Connect, perhaps_sent: false }, ErrorKind::Connect, None),
        ] {
            let judgement = judged(&ending);
            assert_eq!(judgement.error, Some(error), "{ending:?}");
            assert_eq!(judgement.write.map(|(answer, _)| answer), write, "{ending:?}");
        }
    }
}
