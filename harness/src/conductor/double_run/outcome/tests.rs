use std::collections::BTreeSet;

use fulldress_reports::evidence::DoubleRunOutcome::{Corrupted, Hung, NotSerialised, Refused, Serialised};
use fulldress_reports::evidence::{Difference, DoubleRunOutcome, StepKind, StepRun};
use fulldress_reports::phase::Phase;

use super::{Account, Seen, TIMED_OUT, Told};
use crate::conductor::double_run::watch::Whose;
use crate::recorder::log::{LogEvent, LogKind};
use crate::recorder::observation::{MigrationLock, SessionId};

fn run(attempts: u32, error: Option<&str>) -> Vec<StepRun> {
    vec![StepRun {
        id: "010".to_owned(),
        kind: StepKind::Sql,
        phase: Phase::Upgrade,
        start_us: 0,
        end_us: 10,
        attempts,
        error: error.map(str::to_owned),
        log: None,
    }]
}

/// What a runner sent in step 010; a statement that begins with `!` failed as a script's own exception does.
fn accounts(first: &[&str], second: &[&str]) -> [Account; 2] {
    let whose = Whose { addresses: ["a".to_owned(), "b".to_owned()], lock: MigrationLock::default() };
    let mut events = Vec::new();
    for (host, texts) in [("a", first), ("b", second)] {
        let event = |what| LogEvent {
            at_us: 0,
            session: SessionId { start_s: 0, pid: u32::from(host == "b") },
            line: 0,
            role: None,
            application: Some("010".to_owned()),
            host: Some(host.to_owned()),
            client: true,
            vxid: None,
            statement: None,
            context: None,
            what,
        };
        for text in texts {
            events.push(event(LogKind::Statement { text: text.trim_start_matches('!').to_owned() }));
            if text.starts_with('!') {
                let (sqlstate, message) = ("P0001".to_owned(), String::new());
                events.push(event(LogKind::Failed { sqlstate, message, deadlock: Vec::new() }));
            }
        }
    }
    Account::both(&events, &whose)
}

const TRY: &str = "SELECT pg_try_advisory_lock(1)";
const REFUSED: &str = "!SELECT pg_try_advisory_lock(1)";

struct Case {
    first: Vec<StepRun>,
    second: Vec<StepRun>,
    sent: [&'static [&'static str]; 2],
    met: bool,
    ended: bool,
    drifted: bool,
    expected: (DoubleRunOutcome, bool),
}

/// Two runners that came to a good end without ever asking for a lock.
fn well(expected: (DoubleRunOutcome, bool)) -> Case {
    let (first, second) = (run(1, None), run(1, None));
    Case { first, second, sent: [&[], &[]], met: true, ended: true, drifted: false, expected }
}

fn cases() -> Vec<Case> {
    let failed = || run(1, Some("exit code 3"));
    let asked: [&[&str]; 2] = [&[TRY], &[TRY]];
    vec![
        well((NotSerialised, true)),
        Case { met: false, ..well((NotSerialised, false)) },
        // Both asked, neither found it taken: that they met elsewhere proves nothing.
        Case { sent: asked, ..well((NotSerialised, false)) },
        Case { second: run(3, None), met: false, ..well((Serialised, true)) },
        Case { sent: [&[TRY], &[TRY, TRY, TRY]], ..well((Serialised, true)) },
        Case { second: failed(), met: false, ..well((Corrupted, true)) },
        Case { second: failed(), sent: [&[TRY], &[REFUSED]], ..well((Refused, true)) },
        Case { second: failed(), sent: asked, ..well((Refused, true)) },
        Case { first: failed(), second: failed(), sent: [&[REFUSED], &[REFUSED]], ..well((Corrupted, true)) },
        Case { second: run(3, None), drifted: true, ..well((Corrupted, true)) },
        Case { second: Vec::new(), ended: false, ..well((Hung, true)) },
        Case { second: run(1, Some(TIMED_OUT)), ..well((Hung, true)) },
    ]
}

#[test]
fn the_outcome_follows_the_evidence() {
    let drift = Difference { kind: "index".to_owned(), object: "i".to_owned(), before: None, after: None };
    for (number, case) in cases().into_iter().enumerate() {
        let accounts = accounts(case.sent[0], case.sent[1]);
        let evidence = super::judge(Told {
            runs: [case.first, case.second],
            ended: case.ended,
            seen: &Seen { met: case.met, ..Seen::default() },
            accounts: &accounts,
            differences: if case.drifted { vec![drift.clone()] } else { Vec::new() },
            failed_alone: &BTreeSet::new(),
        });
        assert_eq!((evidence.outcome, evidence.overlapped), case.expected, "case {number}: {evidence:?}");
    }
}

#[test]
fn a_step_that_fails_alone_too_is_no_effect_of_the_second_runner() {
    let failing = || run(1, Some("unit not found"));
    let judged = |failed_alone: &[&str]| {
        super::judge(Told {
            runs: [failing(), failing()],
            ended: true,
            seen: &Seen { met: true, ..Seen::default() },
            accounts: &accounts(&[TRY], &[TRY, TRY, TRY]),
            differences: Vec::new(),
            failed_alone: &failed_alone.iter().map(|id| (*id).to_owned()).collect(),
        })
    };
    assert_eq!(judged(&[]).outcome, Corrupted);
    let known = judged(&["010"]);
    assert_eq!((known.outcome, known.errors.len()), (Serialised, 0));
    assert_eq!(known.seen, ["the second runner asked for the migration lock 3 times in one step"]);
}
