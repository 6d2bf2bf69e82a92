//! ROLL-INVARIANT: what the plan says must hold in the data, read before the traffic, while it runs, and after it.
//!
//! The play lets [`Readings`] begin before the traffic, a [`Sampler`] go on with them and learn the phases, and reads
//! once more when the traffic has ended. Readings must disturb nothing that is measured: they take a small share of one core, are not
//! counted in the statistics, and give way to any session that waits for them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_reports::evidence::{InvariantBreak, InvariantEvidence, InvariantPhase};
use fulldress_reports::phase::Phase;
use fulldress_workloads::clock::Clock;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::plan::{Holds, Invariant};

/// Least pause between two rounds of readings.
const PAUSE_MIN: Duration = Duration::from_millis(1000);
/// A round is followed by a pause of so many times its own length: readings take 2 % of a core at most.
const PAUSE_SHARE: u32 = 49;
/// Longest wait for a lock: whoever holds it is what is measured.
const LOCK_LIMIT: &str = "50ms";
/// Longest reading while there is no traffic.
const QUIET_LIMIT: Duration = Duration::from_secs(60);
/// How soon a reading gives way to a session that waits for it.
const GIVE_WAY: Duration = Duration::from_millis(10);
/// SQLSTATEs that say nothing of the invariant: a time limit, a lock, a server that goes or is full, a conflict.
const NO_ANSWER: [&str; 8] = ["57014", "55P03", "57P01", "57P02", "57P03", "53300", "40001", "40P01"];

/// Reads the invariants now and then, until it is stopped or dropped.
pub struct Sampler {
    task: JoinHandle<()>,
    phase: watch::Sender<Phase>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// What is known of one invariant.
#[derive(Debug, Clone)]
struct Kept {
    invariant: Invariant,
    /// The answer from before the traffic.
    reference: Option<String>,
    evidence: InvariantEvidence,
}

/// What the readings came to.
#[derive(Debug, Clone, Default)]
pub struct Readings(Vec<Kept>);

/// One answer, or why there is none.
enum Reading {
    Rows(u64),
    Value(String),
    Missed(String),
    Failed(String),
}

impl Sampler {
    /// Goes on with the readings from the baseline on.
    #[must_use]
    pub fn start(server: &PgConnectOptions, readings: Readings, clock: Clock) -> Self {
        let kept = Arc::new(Mutex::new(readings.0));
        let (phase, phases) = watch::channel(Phase::Warmup);
        let task = tokio::spawn(sample(quiet(server), clock, phases, Arc::clone(&kept)));
        Self { task, phase, kept }
    }

    /// The facts so far, in the plan's order.
    #[must_use]
    pub fn evidence(&self) -> Vec<InvariantEvidence> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|one| one.evidence.clone()).collect()
    }

    /// Readings that begin from now on belong to this phase.
    pub fn enter_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Ends it and gives what was read.
    #[must_use]
    pub fn stop(self) -> Readings {
        self.task.abort();
        Readings(std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Readings {
    /// None yet.
    #[must_use]
    pub fn new(invariants: &[Invariant]) -> Self {
        Self(invariants.iter().map(Kept::new).collect())
    }

    /// Reads each invariant once, when there is no traffic yet.
    pub async fn read_before(&mut self, server: &PgConnectOptions, clock: Clock) {
        self.read_quietly(server, clock, Some(Phase::Warmup)).await;
    }

    /// The facts so far, in the plan's order.
    #[must_use]
    pub fn evidence(&self) -> Vec<InvariantEvidence> {
        self.0.iter().map(|one| one.evidence.clone()).collect()
    }

    /// Reads each invariant a last time, when there is no traffic any more.
    pub async fn read_after(&mut self, server: &PgConnectOptions, clock: Clock) {
        self.read_quietly(server, clock, None).await;
    }

    async fn read_quietly(&mut self, server: &PgConnectOptions, clock: Clock, phase: Option<Phase>) {
        let server = quiet(server);
        let mut pair = None;
        for one in &mut self.0 {
            let at_us = clock.now_us();
            let reading = read(&server, &mut pair, &one.invariant, QUIET_LIMIT).await;
            one.book(phase, at_us, reading);
        }
    }
}

impl Kept {
    fn new(invariant: &Invariant) -> Self {
        let evidence = InvariantEvidence { name: invariant.name.clone(), ..InvariantEvidence::default() };
        Self { invariant: invariant.clone(), reference: None, evidence }
    }

    /// Takes in a reading; without a phase it is the last one.
    fn book(&mut self, phase: Option<Phase>, at_us: u64, reading: Reading) {
        let evidence = &mut self.evidence;
        let offence = match reading {
            Reading::Rows(0) => None,
            Reading::Rows(1) => Some("1 offending row".to_owned()),
            Reading::Rows(rows) => Some(format!("{rows} offending rows")),
            Reading::Value(value) => match &self.reference {
                None => {
                    self.reference = Some(value);
                    None
                }
                Some(reference) if *reference == value => None,
                Some(reference) => Some(format!("{value} instead of {reference}")),
            },
            Reading::Missed(why) => {
                evidence.missed = Some(why);
                return evidence.count(phase, |of_phase| of_phase.missed += 1);
            }
            Reading::Failed(why) => {
                // The last reading is the recovery's, since the phase after it has no name.
                evidence.error.get_or_insert((phase.unwrap_or(Phase::Recovery), why));
                return evidence.count(phase, |of_phase| of_phase.missed += 1);
            }
        };
        if phase.is_none() {
            evidence.held_after = Some(offence.is_none());
        }
        let Some(seen) = offence else { return evidence.count(phase, |of_phase| of_phase.held += 1) };
        let broken = InvariantBreak { phase, at_us, seen };
        if !matches!(phase, Some(Phase::Warmup | Phase::Baseline)) && evidence.broken_since.is_none() {
            evidence.broken_since = Some(broken.clone());
        }
        evidence.broken.get_or_insert(broken);
        evidence.count(phase, |of_phase| of_phase.broken += 1);
    }
}

/// Counts readings where they belong.
trait Count {
    fn count(&mut self, phase: Option<Phase>, add: impl FnOnce(&mut InvariantPhase));
}

impl Count for InvariantEvidence {
    fn count(&mut self, phase: Option<Phase>, add: impl FnOnce(&mut InvariantPhase)) {
        let Some(phase) = phase else { return };
        if self.phases.last().is_none_or(|last| last.phase != phase) {
            self.phases.push(InvariantPhase { phase, held: 0, broken: 0, missed: 0 });
        }
        if let Some(last) = self.phases.last_mut() {
            add(last);
        }
    }
}

/// The session's settings: it writes nothing, counts as no traffic, takes one core at most and waits for nobody.
fn quiet(server: &PgConnectOptions) -> PgConnectOptions {
    server.clone().application_name("fulldress invariants").options([
        ("default_transaction_read_only", "on"),
        ("track_counts", "off"),
        ("max_parallel_workers_per_gather", "0"),
        ("lock_timeout", LOCK_LIMIT),
    ])
}

/// A session that reads, and one that ends its reading when somebody waits for it.
struct Pair {
    reader: PgConnection,
    watcher: PgConnection,
    pid: i32,
}

impl Pair {
    async fn connect(server: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut reader = server.connect().await?;
        let watcher = server.connect().await?;
        let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut reader).await?;
        Ok(Self { reader, watcher, pid })
    }
}

async fn sample(
    server: PgConnectOptions,
    clock: Clock,
    mut phases: watch::Receiver<Phase>,
    kept: Arc<Mutex<Vec<Kept>>>,
) {
    let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    let invariants: Vec<Invariant> = lock().iter().map(|one| one.invariant.clone()).collect();
    if invariants.is_empty() {
        return;
    }
    let mut pair: Option<Pair> = None;
    loop {
        let phase = *phases.borrow_and_update();
        let start_us = clock.now_us();
        let due = if phase == Phase::Warmup { &[][..] } else { &invariants };
        for (index, invariant) in due.iter().enumerate() {
            let at_us = clock.now_us();
            let limit = Duration::from_millis(invariant.timeout_ms);
            let reading = read(&server, &mut pair, invariant, limit).await;
            if let Some(one) = lock().get_mut(index) {
                one.book(Some(phase), at_us, reading);
            }
        }
        let took = Duration::from_micros(clock.now_us() - start_us);
        tokio::select! {
            () = tokio::time::sleep((took * PAUSE_SHARE).max(PAUSE_MIN)) => {}
            // Each phase is read soon after it began, however long the pause would be.
            changed = phases.changed() => if changed.is_err() { return },
        }
    }
}

/// Reads one invariant, on connections that are made when there are none; those that were lost are taken away.
async fn read(
    server: &PgConnectOptions,
    pair: &mut Option<Pair>,
    invariant: &Invariant,
    limit: Duration,
) -> Reading {
    let mut connected = match pair.take() {
        Some(connected) => connected,
        None => match Pair::connect(server).await {
            Ok(connected) => connected,
            Err(error) => return Reading::Missed(error.to_string()),
        },
    };
    let Pair { reader, watcher, pid } = &mut connected;
    let answer = tokio::select! {
        answer = ask(reader, invariant, limit) => answer,
        // Nobody could end the reading any more; both connections are given up.
        lost = give_way(watcher, *pid) => {
            let said = lost.as_database_error().map_or_else(|| lost.to_string(), |error| error.message().to_owned());
            return Reading::Missed(said);
        }
    };
    match answer {
        Ok(reading) => {
            *pair = Some(connected);
            reading
        }
        Err(sqlx::Error::Database(error)) => {
            *pair = Some(connected);
            let code = error.code().unwrap_or_default().into_owned();
            let said = format!("{} ({code})", error.message());
            if NO_ANSWER.contains(&code.as_str()) { Reading::Missed(said) } else { Reading::Failed(said) }
        }
        Err(error) => Reading::Missed(error.to_string()),
    }
}

async fn ask(
    session: &mut PgConnection,
    invariant: &Invariant,
    limit: Duration,
) -> Result<Reading, sqlx::Error> {
    let limit = format!("SET statement_timeout = {}", limit.as_millis());
    sqlx::raw_sql(AssertSqlSafe(limit)).execute(&mut *session).await?;
    let sql = invariant.sql.trim().trim_end_matches(';');
    // The plan's own words, in a session that may not write. The line's end closes a comment of theirs.
    Ok(match invariant.holds {
        Holds::NoRows => {
            let query = AssertSqlSafe(format!("SELECT count(*) FROM (\n{sql}\n) AS offending"));
            let rows: i64 = sqlx::query_scalar(query).fetch_one(session).await?;
            Reading::Rows(rows.unsigned_abs())
        }
        Holds::Unchanged => {
            let query = AssertSqlSafe(format!("SELECT conserved::text FROM (\n{sql}\n) AS conserved"));
            let rows: Vec<String> = sqlx::query_scalar(query).fetch_all(session).await?;
            match rows.as_slice() {
                [one] => Reading::Value(one.trim_matches(['(', ')']).to_owned()),
                rows => Reading::Failed(format!("it gives {} rows, and one can be compared", rows.len())),
            }
        }
    })
}

/// Cancels the reading of a session as soon as another one waits for a lock of it. Ends only when the watching does.
async fn give_way(watcher: &mut PgConnection, pid: i32) -> sqlx::Error {
    let cancel = "SELECT pg_cancel_backend($1) WHERE EXISTS (
        SELECT FROM pg_locks waiting JOIN pg_locks held USING (locktype, database, relation)
        WHERE NOT waiting.granted AND waiting.pid <> $1 AND held.granted AND held.pid = $1)";
    loop {
        tokio::time::sleep(GIVE_WAY).await;
        if let Err(error) = sqlx::query(cancel).bind(pid).execute(&mut *watcher).await {
            return error;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kept, Reading};
    use crate::plan::{Holds, Invariant};
    use fulldress_reports::phase::Phase;

    fn kept(holds: Holds) -> Kept {
        let (name, sql) = ("total".to_owned(), "SELECT 1".to_owned());
        Kept::new(&Invariant { name, sql, holds, timeout_ms: 1000 })
    }

    #[test]
    fn the_first_break_is_kept_and_the_first_since_the_upgrade() {
        let mut one = kept(Holds::NoRows);
        let readings = [
            (Phase::Warmup, 0),
            (Phase::Baseline, 2),
            (Phase::Upgrade, 0),
            (Phase::Soak, 1),
            (Phase::Soak, 9),
        ];
        for (at_us, (phase, rows)) in (0..).zip(readings) {
            one.book(Some(phase), at_us, Reading::Rows(rows));
        }
        one.book(None, 7, Reading::Rows(0));
        let evidence = one.evidence;
        assert_eq!(evidence.broken.unwrap().seen, "2 offending rows");
        let since = evidence.broken_since.unwrap();
        assert_eq!(
            (since.phase, since.at_us, since.seen.as_str()),
            (Some(Phase::Soak), 3, "1 offending row")
        );
        assert_eq!(evidence.held_after, Some(true));
        let soak = evidence.phases.last().unwrap();
        assert_eq!((soak.phase, soak.held, soak.broken), (Phase::Soak, 0, 2));
    }

    #[test]
    fn a_conserved_value_is_the_one_from_before() {
        let mut one = kept(Holds::Unchanged);
        one.book(Some(Phase::Warmup), 0, Reading::Value("40".to_owned()));
        one.book(Some(Phase::Upgrade), 1, Reading::Value("40".to_owned()));
        one.book(Some(Phase::Upgrade), 2, Reading::Missed("it took too long".to_owned()));
        assert_eq!(one.evidence.broken, None);
        one.book(None, 3, Reading::Value("39".to_owned()));
        assert_eq!(one.evidence.held_after, Some(false));
        assert_eq!(one.evidence.broken_since.unwrap().seen, "39 instead of 40");
    }
}
