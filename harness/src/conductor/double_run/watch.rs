//! Looks at both runners' sessions while they run: when they meet, who holds the migration lock, who waits for whom.
//!
//! [`super::Trial::play`] starts it; what it saw goes to [`super::outcome`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_reports::lock::LockMode;
use serde::Deserialize;

use crate::mirror::Mirror;
use crate::recorder::observation::{AdvisoryKey, MigrationLock};

/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// Most waits that are told apart; a loop of failing statements could make as many as it likes.
const WAITS_MAX: usize = 1_000;

const LOOK: &str = include_str!("watch.sql");

/// One of the two runners: 0 or 1.
pub(super) type Runner = usize;

/// What was seen on the clone's server while both ran. Times are the server's, microseconds since 1970.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Sessions of both were at work at the same instant. Steps that overlap in time prove less: a quick one is at work
    /// for a few milliseconds of the time that its process lives.
    pub(super) met: bool,
    /// First and last of the unbroken looks that showed a runner with the migration lock.
    pub(super) held: Vec<(Runner, i64, i64)>,
    /// Waits for locks, one a session and thing waited for.
    pub(super) waits: Vec<Wait>,
    /// What each session did at the last look.
    pub(super) last: Vec<Session>,
    /// When that was.
    pub(super) last_us: i64,
}

/// One session at one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) runner: Runner,
    pub(super) statement: String,
    /// Whether it is at work, or sits in a transaction that it opened.
    pub(super) busy: bool,
    /// Whether it holds the migration lock.
    pub(super) holds: bool,
    /// What it waits for, and whose sessions stand in its way.
    pub(super) waits_for: Option<(String, Vec<Runner>)>,
}

/// One wait for a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) runner: Runner,
    pid: u32,
    since_us: i64,
    until_us: i64,
    /// What it waited for, as a phrase.
    pub(super) target: String,
    /// Whether that is the migration lock.
    pub(super) on_migration_lock: bool,
    /// Whether the other runner stood in its way.
    pub(super) for_the_other: bool,
}

impl Wait {
    /// How long it was seen to last, microseconds.
    pub(super) fn length_us(&self) -> u64 {
        u64::try_from(self.until_us - self.since_us).unwrap_or(0)
    }
}

/// Which sessions belong to which runner, and what counts as the migration lock.
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) addresses: [String; 2],
    pub(super) lock: MigrationLock,
}

impl Whose {
    pub(super) fn runner(&self, address: &str) -> Option<Runner> {
        self.addresses.iter().position(|own| own == address)
    }
}

/// Looks until it is dropped or the clone's server ends.
pub(super) async fn watch(mirror: Arc<dyn Mirror>, whose: Whose, seen: Arc<Mutex<Seen>>) {
    let Ok(mut connection) = mirror.connect().await else { return };
    let table = whose.lock.table.clone().unwrap_or_default();
    while let Ok((at_us, rows)) = sqlx::query_as::<_, (i64, String)>(LOOK)
        .bind(&whose.addresses[..])
        .bind(&table)
        .fetch_one(&mut connection)
        .await
    {
        let Ok(rows) = serde_json::from_str::<Vec<Row>>(&rows) else { return };
        seen.lock().unwrap_or_else(PoisonError::into_inner).absorb(at_us, &rows, &whose);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

#[derive(Debug, Clone, Deserialize)]
struct Row {
    pid: u32,
    address: String,
    busy: Option<bool>,
    query: Option<String>,
    keys: Vec<(u32, u32, u16)>,
    table_modes: Vec<String>,
    wait: Option<RowWait>,
}

#[derive(Debug, Clone, Deserialize)]
struct RowWait {
    locktype: String,
    relation: Option<String>,
    on_table: bool,
    key: Option<(u32, u32, u16)>,
    since_us: Option<i64>,
    blockers: Vec<u32>,
}

fn key((classid, objid, objsubid): (u32, u32, u16)) -> AdvisoryKey {
    AdvisoryKey { classid, objid, objsubid }
}

impl RowWait {
    fn target(&self) -> String {
        match (self.locktype.as_str(), self.key, &self.relation) {
            ("advisory", Some(parts), _) => format!("advisory lock {}", key(parts)),
            ("relation", _, Some(relation)) => format!("a lock on {relation}"),
            ("tuple", _, Some(relation)) => format!("a row of {relation}"),
            ("transactionid" | "virtualxid", ..) => "the end of a transaction".to_owned(),
            (other, ..) => format!("a lock of type {other}"),
        }
    }
}

impl Row {
    /// Whether it has locked the lock table's rows or the table itself; reading alone is no lock.
    fn locks_table(&self) -> bool {
        self.table_modes
            .iter()
            .filter_map(|mode| LockMode::parse(mode))
            .any(|mode| mode >= LockMode::RowShareLock)
    }

    fn holds(&self, lock: &MigrationLock) -> bool {
        self.keys.iter().any(|parts| lock.accepts_key(key(*parts)))
            || self.wait.is_none() && self.locks_table()
    }

    fn waits_on_migration_lock(&self, lock: &MigrationLock) -> bool {
        self.wait.as_ref().is_some_and(|wait| {
            // A row of the lock table is waited for through the transaction that has it.
            let row = ["transactionid", "tuple"].contains(&wait.locktype.as_str()) && self.locks_table();
            wait.on_table || row || wait.key.is_some_and(|parts| lock.accepts_key(key(parts)))
        })
    }
}

impl Seen {
    fn absorb(&mut self, at_us: i64, rows: &[Row], whose: &Whose) {
        let of: BTreeMap<u32, Runner> =
            rows.iter().filter_map(|row| Some((row.pid, whose.runner(&row.address)?))).collect();
        self.last.clear();
        let mut busy = [false; 2];
        for row in rows {
            let Some(runner) = of.get(&row.pid).copied() else { continue };
            let holds = row.holds(&whose.lock);
            let at_work = row.busy == Some(true);
            busy[runner] |= at_work;
            if holds {
                self.hold(runner, at_us);
            }
            let blockers = row.wait.iter().flat_map(|wait| &wait.blockers);
            let mut behind: Vec<Runner> = blockers.filter_map(|pid| of.get(pid).copied()).collect();
            behind.dedup();
            if let Some(wait) = &row.wait {
                self.wait(Wait {
                    runner,
                    pid: row.pid,
                    since_us: wait.since_us.unwrap_or(at_us),
                    until_us: at_us,
                    target: wait.target(),
                    on_migration_lock: row.waits_on_migration_lock(&whose.lock),
                    for_the_other: behind.iter().any(|other| *other != runner),
                });
            }
            self.last.push(Session {
                runner,
                statement: row.query.clone().unwrap_or_default(),
                busy: at_work,
                holds,
                waits_for: row.wait.as_ref().map(|wait| (wait.target(), behind)),
            });
        }
        self.met |= busy[0] && busy[1];
        self.last_us = at_us;
    }

    fn hold(&mut self, runner: Runner, at_us: i64) {
        let before_us = self.last_us;
        let open = self.held.iter_mut().rfind(|(of, _, last)| *of == runner && *last >= before_us);
        match open {
            Some((_, _, last)) => *last = at_us,
            None => self.held.push((runner, at_us, at_us)),
        }
    }

    fn wait(&mut self, wait: Wait) {
        let known = self.waits.iter_mut().find(|known| {
            (known.pid, &known.target) == (wait.pid, &wait.target) && known.since_us >= wait.since_us
                || (known.pid, known.since_us) == (wait.pid, wait.since_us)
        });
        if let Some(known) = known {
            known.until_us = wait.until_us;
            // In its first instants a wait has no start yet.
            known.since_us = known.since_us.min(wait.since_us);
            known.for_the_other |= wait.for_the_other;
            known.on_migration_lock |= wait.on_migration_lock;
        } else if self.waits.len() < WAITS_MAX {
            self.waits.push(wait);
        }
    }

    /// Whether the other runner was seen with the migration lock at an instant.
    pub(super) fn other_held(&self, runner: Runner, at_us: i64) -> bool {
        self.held.iter().any(|(of, first, last)| *of != runner && (*first..=*last).contains(&at_us))
    }
}

#[cfg(test)]
mod tests {
    use super::{MigrationLock, Row, RowWait, Seen, Whose};

    fn row(pid: u32, address: &str) -> Row {
        Row {
            pid,
            address: address.to_owned(),
            busy: Some(true),
            query: None,
            keys: Vec::new(),
            table_modes: Vec::new(),
            wait: None,
        }
    }

    #[test]
    fn a_wait_that_began_before_it_had_a_start_is_one_wait() {
        let lock = MigrationLock { advisory_key: Some(42), table: None };
        let whose = Whose { addresses: ["a".to_owned(), "b".to_owned()], lock };
        let holder = Row { keys: vec![(0, 42, 1)], ..row(1, "a") };
        let waiter = |since_us| Row {
            wait: Some(RowWait {
                locktype: "advisory".to_owned(),
                relation: None,
                on_table: false,
                key: Some((0, 42, 1)),
                since_us,
                blockers: vec![1],
            }),
            ..row(2, "b")
        };
        let mut seen = Seen::default();
        seen.absorb(100, &[holder.clone(), waiter(None)], &whose);
        seen.absorb(200, &[holder.clone(), waiter(Some(90))], &whose);
        seen.absorb(300, &[holder, waiter(Some(90))], &whose);
        let [wait] = &seen.waits[..] else { panic!("{:?}", seen.waits) };
        assert_eq!((wait.runner, wait.length_us(), wait.target.as_str()), (1, 210, "advisory lock 42"));
        assert!(wait.on_migration_lock && wait.for_the_other && seen.met);
        assert_eq!(seen.held, [(0, 100, 300)]);
        assert!(seen.other_held(1, 150) && !seen.other_held(0, 150) && !seen.other_held(1, 301));
    }

    #[test]
    fn reading_the_lock_table_is_no_lock_and_a_row_of_it_is() {
        let lock = MigrationLock { advisory_key: Some(42), table: Some("public.schema_lock".to_owned()) };
        let with = |mode: &str| Row { table_modes: vec![mode.to_owned()], ..row(1, "a") };
        assert!(!with("AccessShareLock").holds(&lock));
        assert!(with("RowExclusiveLock").holds(&lock));
        // Another advisory lock than the plan's is none.
        assert!(!Row { keys: vec![(0, 43, 1)], ..row(1, "a") }.holds(&lock));
    }
}
