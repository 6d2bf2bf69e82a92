//! What each runner sent to the server, from the clone's log: how often it asked for the migration lock, what it
//! changed, and which statement failed it.
//!
//! [`super::Trial::play`] reads the log once both have ended; [`super::outcome`] reads the accounts.

use std::collections::BTreeMap;

use super::watch::Whose;
use crate::recorder::log::{LogEvent, LogKind};
use crate::recorder::observation::SessionId;
use crate::recorder::statement::{first_words, mentions, normalise, schema_change};

/// The same request for the migration lock, at least this often within one step, is a loop that waits for it.
const POLLS_MIN: usize = 3;
/// Errors by which a server or a script says that somebody else has the lock: lock not available, an exception that
/// the script raised, a statement that was cancelled while it waited.
const REFUSALS: [&str; 3] = ["55P03", "P0001", "57014"];
/// A lock row that is there already.
const UNIQUE_VIOLATION: &str = "23505";

/// One runner's account.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    /// Requests for the migration lock: when, server microseconds since 1970, step, statement without literals.
    asks: Vec<(i64, String, String)>,
    /// Statements that failed.
    pub(super) failures: Vec<Failure>,
    /// Schema changes that were sent and did not fail, by step. One that is skipped where its object is there already
    /// counts as none.
    changes: BTreeMap<String, usize>,
}

/// A statement that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    step: String,
    pub(super) sqlstate: String,
    /// Whether it asked for the migration lock and was told that somebody has it.
    refused: bool,
}

impl Account {
    /// Both runners' accounts; `table` is the lock table that the plan names.
    pub(super) fn both(events: &[LogEvent], whose: &Whose) -> [Self; 2] {
        let mut accounts = [Self::default(), Self::default()];
        let mut open: BTreeMap<SessionId, String> = BTreeMap::new();
        let table = whose.lock.table.as_deref();
        for event in events {
            let Some(runner) = event.host.as_deref().and_then(|host| whose.runner(host)) else { continue };
            accounts[runner].absorb(event, open.entry(event.session).or_default(), table);
        }
        accounts
    }

    fn absorb(&mut self, event: &LogEvent, last: &mut String, table: Option<&str>) {
        let step = event.application.clone().unwrap_or_default();
        match &event.what {
            LogKind::Statement { text } => {
                text.clone_into(last);
                if asks(text, table) {
                    self.asks.push((event.at_us, step.clone(), normalise(text, 200)));
                }
                if changes(text) {
                    *self.changes.entry(step).or_default() += 1;
                }
            }
            LogKind::Failed { sqlstate, .. } => {
                let text = event.statement.as_deref().unwrap_or(last);
                let on_table = table.is_some_and(|table| mentions(text, table));
                let told = REFUSALS.contains(&sqlstate.as_str()) || on_table && sqlstate == UNIQUE_VIOLATION;
                if changes(text) {
                    let count = self.changes.entry(step.clone()).or_default();
                    *count = count.saturating_sub(1);
                }
                let refused = told && asks(text, table);
                self.failures.push(Failure { step, sqlstate: sqlstate.clone(), refused });
            }
            _ => {}
        }
    }

    /// Whether it asked for the migration lock at all.
    pub(super) fn asked(&self) -> bool {
        !self.asks.is_empty()
    }

    /// How often it asked in the step in which it asked most with one statement, where that is a loop.
    pub(super) fn polls(&self) -> Option<usize> {
        let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for (_, step, text) in &self.asks {
            *counts.entry((step, text)).or_default() += 1;
        }
        counts.into_values().max().filter(|count| *count >= POLLS_MIN)
    }

    /// Whether it asked while `held` says that the other one had the lock.
    pub(super) fn asked_while(&self, held: impl Fn(i64) -> bool) -> bool {
        self.asks.iter().any(|(at_us, ..)| held(*at_us))
    }

    /// Whether a step that failed was refused the migration lock before it changed anything: a statement that asked for
    /// it failed, or the script gave up by itself after it had asked.
    pub(super) fn refused(&self, step: &str) -> bool {
        let failures: Vec<_> = self.failures.iter().filter(|failure| failure.step == step).collect();
        let asked = self.asks.iter().any(|(_, of, _)| of == step);
        let gave_up = failures.is_empty() && asked;
        let changed = self.changes.get(step).copied().unwrap_or(0) > 0;
        !changed && (gave_up || !failures.is_empty() && failures.iter().all(|failure| failure.refused))
    }
}

/// Whether a statement asks for an advisory lock, or locks, writes or reads the lock table.
fn asks(text: &str, table: Option<&str>) -> bool {
    let lower = text.to_lowercase();
    let advisory = lower.contains("pg_advisory_lock")
        || lower.contains("pg_advisory_xact_lock")
        || lower.contains("pg_try_advisory_");
    advisory || table.is_some_and(|table| mentions(text, table)) && schema_change(text).is_none()
}

/// Whether a statement changes the schema for certain: one with IF NOT EXISTS or IF EXISTS may find nothing to do.
fn changes(text: &str) -> bool {
    let words = first_words(text, 8);
    let guarded =
        words.windows(2).any(|pair| pair[0] == "IF" && ["NOT", "EXISTS"].contains(&pair[1].as_str()));
    schema_change(text).is_some() && !guarded
}

#[cfg(test)]
mod tests {
    use super::{Account, LogEvent, LogKind, SessionId, Whose};
    use crate::recorder::observation::MigrationLock;

    /// Statements, each with the SQLSTATE by which it failed.
    type Lines<'a> = &'a [(&'a str, Option<&'a str>)];

    fn account(lines: Lines<'_>) -> Account {
        let lock = MigrationLock { advisory_key: None, table: Some("public.schema_lock".to_owned()) };
        let whose = Whose { addresses: ["127.0.0.9".to_owned(), "127.0.0.10".to_owned()], lock };
        let event = |what| LogEvent {
            at_us: 5,
            session: SessionId { start_s: 1, pid: 7 },
            line: 1,
            role: None,
            application: Some("010".to_owned()),
            host: Some("127.0.0.10".to_owned()),
            client: true,
            vxid: None,
            statement: None,
            context: None,
            what,
        };
        let mut events = Vec::new();
        for (text, failed) in lines {
            events.push(event(LogKind::Statement { text: (*text).to_owned() }));
            let failed = failed.map(|sqlstate| LogKind::Failed {
                sqlstate: sqlstate.to_owned(),
                message: String::new(),
                deadlock: Vec::new(),
            });
            events.extend(failed.map(event));
        }
        let [first, second] = Account::both(&events, &whose);
        assert!(!first.asked());
        second
    }

    #[test]
    fn a_refusal_is_an_answer_to_the_request_and_before_any_change() {
        let try_lock =
            "DO $$ BEGIN IF NOT pg_try_advisory_lock(4) THEN RAISE EXCEPTION 'busy'; END IF; END $$";
        let cases: [(Lines<'_>, bool); 8] = [
            (&[(try_lock, Some("P0001"))], true),
            (&[(try_lock, Some("55P03"))], true),
            (&[("SELECT pg_try_advisory_lock(4)", None)], true),
            (&[("INSERT INTO schema_lock VALUES (1)", Some("23505"))], true),
            (&[("CREATE TABLE IF NOT EXISTS history (id int)", None), (try_lock, Some("P0001"))], true),
            (&[("ALTER TABLE orders ADD a int", None), (try_lock, Some("P0001"))], false),
            (&[(try_lock, None), ("ALTER TABLE orders ADD a int", Some("42701"))], false),
            (&[("INSERT INTO orders VALUES (1)", Some("23505"))], false),
        ];
        for (lines, refused) in cases {
            assert_eq!(account(lines).refused("010"), refused, "{lines:?}");
        }
    }

    #[test]
    fn a_loop_of_requests_is_told_from_one_request() {
        let ask = ("SELECT pg_try_advisory_lock(4)", None);
        assert_eq!(account(&[ask, ask]).polls(), None);
        assert_eq!(account(&[ask, ask, ask, ask]).polls(), Some(4));
        let row = ("INSERT INTO public.schema_lock VALUES (1) ON CONFLICT DO NOTHING", None);
        assert_eq!(account(&[row; 3]).polls(), Some(3));
        assert!(!account(&[("CREATE TABLE public.schema_lock (id int)", None)]).asked());
    }
}
