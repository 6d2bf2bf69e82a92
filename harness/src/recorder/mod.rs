//! The lock recorder: what the package locked, for how long, and who waited behind it.
//!
//! The conductor starts it before the first phase, switches its pace, and takes its evidence at the end. Four
//! sources (event triggers, sampler, wait log, statement log) are joined by [`reconcile`]; what they disagree
//! on is part of the result. It starts and stops nothing: the mirror applies [`settings`].

pub mod clock;
mod config;
mod heard;
pub mod leftovers;
pub mod log;
pub mod observation;
pub mod reconcile;
pub mod sampler;
pub mod settings;
pub mod statement;
pub mod triggers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use fulldress_reports::lock::{LockEvidence, LockLeftover};
use fulldress_reports::phase::{Phase, PhaseSpan};
use sqlx::PgConnection;

use self::clock::ServerClock;
pub use self::config::RecorderConfig;
pub use self::heard::Heard;
use self::heard::Hearing;
use self::leftovers::Unfinished;
use self::log::{LogError, LogEvents, LogReader};
use self::reconcile::{Material, RawWait, Reconciled, SourceState, StepSpan};
use self::sampler::{Gap, Sampler};

/// Why the recorder could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RecorderError {
    /// No connection to the mirror's database, or it was lost.
    #[error("{doing}: {source}; the recorder needs a superuser's connection to the mirror's database")]
    Database {
        /// What it was doing.
        doing: &'static str,
        /// Why.
        source: sqlx::Error,
    },
    /// The sampler's task ended by itself.
    #[error("collect the samples: the sampler's task failed")]
    Sampler,
    /// The server's log could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What was written last did not arrive.
    #[error("read the server's log to its end: that did not arrive")]
    LogEnd,
    /// Raw evidence could not be written.
    #[error("write the raw locks: {0}")]
    Write(#[from] std::io::Error),
}

fn database(doing: &'static str) -> impl FnOnce(sqlx::Error) -> RecorderError {
    move |source| RecorderError::Database { doing, source }
}

/// The running recorder.
#[derive(Debug)]
pub struct Recorder {
    config: RecorderConfig,
    connection: PgConnection,
    sampler: Sampler,
    log: Option<LogReader>,
    events: LogEvents,
    hearing: Hearing,
    server_clock: ServerClock,
    index_tables: BTreeMap<u32, u32>,
    unfinished_before: Unfinished,
    leftovers: Vec<LockLeftover>,
    leftovers_unread: Vec<Phase>,
    state: SourceState,
}

/// What was recorded.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recording {
    /// For the report.
    pub evidence: LockEvidence,
    /// Every client's lock wait, also those that were not behind the package.
    pub waits: Vec<RawWait>,
    /// When the sampler did not look for longer than it promises, while upgrade or rollback was active.
    pub gaps: Vec<Gap>,
    /// The clients' statements of the warmup.
    pub heard: Vec<Heard>,
}

impl Recording {
    /// Writes `locks.jsonl`: one line a lock of the package (`lock`), one a client's wait (`wait`), one a gap between two
    /// samples (`gap`).
    ///
    /// # Errors
    /// The writer's.
    pub fn write_raw(&self, into: &mut impl Write) -> Result<(), RecorderError> {
        for record in &self.evidence.records {
            serde_json::to_writer(&mut *into, &serde_json::json!({ "lock": record }))
                .map_err(std::io::Error::from)?;
            into.write_all(b"\n")?;
        }
        for wait in &self.waits {
            serde_json::to_writer(&mut *into, &serde_json::json!({ "wait": wait }))
                .map_err(std::io::Error::from)?;
            into.write_all(b"\n")?;
        }
        for gap in &self.gaps {
            serde_json::to_writer(&mut *into, &serde_json::json!({ "gap": gap }))
                .map_err(std::io::Error::from)?;
            into.write_all(b"\n")?;
        }
        Ok(into.flush()?)
    }
}

impl Recorder {
    /// Connects, measures the clocks, installs the triggers and starts to sample at the slow pace.
    ///
    /// Where the triggers may not be installed it goes on without them, and the evidence says so.
    ///
    /// # Errors
    /// [`RecorderError::Database`] where there is no connection or the catalog cannot be read.
    pub async fn start(config: RecorderConfig) -> Result<Self, RecorderError> {
        let mut connection = sampler::connect(&config.server).await.map_err(database("connect"))?;
        let mut server_clock = ServerClock::default();
        server_clock
            .measure(&mut connection, config.clock)
            .await
            .map_err(database("measure the server's clock"))?;
        let since_us = server_clock.server_us(config.clock.now_us());
        let mut state = SourceState::default();
        match triggers::install(&mut connection).await {
            Ok(()) => state.triggers_installed = true,
            Err(error) => state.problems.push(format!("the event triggers could not be installed: {error}")),
        }
        if !sees_others(&mut connection).await.map_err(database("ask what it may see"))? {
            state.problems.push(
                "the recorder's role may not see what other sessions do: it needs pg_read_all_stats"
                    .to_owned(),
            );
        }
        let names = relations(&mut connection).await.map_err(database("list the relations"))?;
        let index_tables = index_tables(&mut connection).await.map_err(database("list the indexes"))?;
        let unfinished_before =
            leftovers::unfinished(&mut connection).await.map_err(database("list what is unfinished"))?;
        let name: String = sqlx::query_scalar("SELECT current_database()")
            .fetch_one(&mut connection)
            .await
            .map_err(database("ask for the database's name"))?;
        let sampler = Sampler::start(
            config.server.clone(),
            config.identity.clone(),
            names,
            config.clock,
            server_clock.server_us(0),
        )
        .await
        .map_err(database("start the sampler"))?;
        let log = config.log.clone().map(|place| LogReader::new(place, name, since_us));
        Ok(Self {
            config,
            connection,
            sampler,
            log,
            events: LogEvents::default(),
            hearing: Hearing::default(),
            server_clock,
            index_tables,
            unfinished_before,
            leftovers: Vec::new(),
            leftovers_unread: Vec::new(),
            state,
        })
    }

    /// Samples every 3.5 ms instead of every 200 ms, or goes back; takes effect at once.
    pub fn fast(&self, fast: bool) {
        self.sampler.fast(fast);
    }

    /// Reads the server's log up to now. Call it before anything that removes the log, as the restore of a data
    /// folder does; otherwise [`Self::finish`] reads it all.
    pub async fn collect_log(&mut self) {
        let Some(reader) = &mut self.log else { return };
        if let Err(error) = reader.poll(Some(&mut self.connection), &mut self.events).await {
            self.state.problems.push(error.to_string());
        }
    }

    /// Call it before the server is stopped on purpose: the log is read up to now, and the sampler stays away until
    /// [`Self::reinstall_after_restore`].
    pub async fn before_restart(&mut self) {
        self.collect_log().await;
        self.sampler.suspend(true);
    }

    /// Connects again, installs the triggers again and measures the clock again. The sampler finds its own way
    /// back; what it missed is counted.
    ///
    /// # Errors
    /// [`RecorderError::Database`] where the server cannot be reached; a refused installation is only noted.
    pub async fn reinstall_after_restore(&mut self) -> Result<(), RecorderError> {
        self.sampler.suspend(false);
        let reinstalled = self.reinstall().await;
        if let Err(error) = &reinstalled {
            self.state.triggers_installed = false;
            self.state.problems.push(format!("the recorder did not come back after the restore: {error}"));
        }
        reinstalled
    }

    async fn reinstall(&mut self) -> Result<(), RecorderError> {
        self.connection =
            sampler::connect(&self.config.server).await.map_err(database("connect after the restore"))?;
        self.measure().await?;
        if let Err(error) = triggers::install(&mut self.connection).await {
            self.state.triggers_installed = false;
            self.state.problems.push(format!("the event triggers could not be installed again: {error}"));
        }
        let indexes = index_tables(&mut self.connection).await.map_err(database("list the indexes"))?;
        self.index_tables.extend(indexes);
        Ok(())
    }

    /// What the package has left behind now; kept for the evidence too, as is that it could not be read.
    ///
    /// # Errors
    /// [`RecorderError::Database`].
    pub async fn leftovers(&mut self, phase: Phase) -> Result<Vec<LockLeftover>, RecorderError> {
        let found = self.look_for_leftovers(phase).await;
        match &found {
            Ok(found) => self.leftovers.extend(found.iter().cloned()),
            Err(_) => self.leftovers_unread.push(phase),
        }
        found
    }

    async fn look_for_leftovers(&mut self, phase: Phase) -> Result<Vec<LockLeftover>, RecorderError> {
        self.reconnect_if_lost().await?;
        leftovers::leftovers(&mut self.connection, phase, &self.config.identity, &self.unfinished_before)
            .await
            .map_err(database("look for leftovers"))
    }

    /// Stops, reads the log to its end, takes the triggers away and joins the sources.
    ///
    /// `preexisting` names every relation from before the upgrade, indexes and views included, as
    /// [`relation_names`] lists them.
    ///
    /// # Errors
    /// [`RecorderError::Sampler`]; a lost server or log is part of the evidence instead.
    pub async fn finish(
        mut self,
        phases: &[PhaseSpan],
        steps: &[StepSpan],
        files: &BTreeMap<String, String>,
        preexisting: &BTreeSet<String>,
    ) -> Result<Recording, RecorderError> {
        if let Err(error) = self.close().await {
            self.state.problems.push(error.to_string());
            // What the server wrote before it went away may still be there.
            self.collect_log().await;
        }
        let samples = self.sampler.finish().await.ok_or(RecorderError::Sampler)?;
        for (at_us, reason) in &samples.losses {
            let at_ms = at_us / 1000;
            self.state
                .problems
                .push(format!("the sampler lost the server {at_ms} ms into the rehearsal: {reason}"));
        }
        self.state.log_malformed = self.events.malformed;
        let Reconciled { evidence, waits } = reconcile::reconcile(&Material {
            events: &self.events.events,
            samples: &samples,
            index_tables: &self.index_tables,
            clock: &self.server_clock,
            identity: &self.config.identity,
            migration_lock: &self.config.migration_lock,
            phases,
            steps,
            files,
            preexisting,
            leftovers: &self.leftovers,
            leftovers_unread: &self.leftovers_unread,
            end_us: self.server_clock.server_us(self.config.clock.now_us()),
            sources: &self.state,
        });
        let heard = self.hearing.statements(&self.server_clock);
        Ok(Recording { evidence, waits, gaps: samples.gaps.long, heard })
    }

    async fn close(&mut self) -> Result<(), RecorderError> {
        self.reconnect_if_lost().await?;
        self.measure().await?;
        self.read_log_to_end().await;
        triggers::uninstall(&mut self.connection).await.map_err(database("take the event triggers away"))
    }

    async fn measure(&mut self) -> Result<(), RecorderError> {
        let measured = self.server_clock.measure(&mut self.connection, self.config.clock).await;
        measured.map_err(database("measure the server's clock"))
    }

    async fn reconnect_if_lost(&mut self) -> Result<(), RecorderError> {
        if sqlx::query("SELECT 1").execute(&mut self.connection).await.is_err() {
            self.connection =
                sampler::connect(&self.config.server).await.map_err(database("connect again"))?;
        }
        Ok(())
    }

    async fn read_log_to_end(&mut self) {
        let Some(reader) = &mut self.log else {
            self.state.problems.push("the server's log is not available to the recorder".to_owned());
            return;
        };
        match reader.read_to_now(&mut self.connection, self.config.clock, &mut self.events).await {
            Ok(true) => self.state.log_read = true,
            Ok(false) => self.state.problems.push("the end of the server's log did not arrive".to_owned()),
            Err(error) => self.state.problems.push(error.to_string()),
        }
    }
}

/// Schema-qualified names of all relations of the database that are not the system's: what existed before the
/// upgrade, when it is asked before.
///
/// # Errors
/// The server's.
pub async fn relation_names(connection: &mut PgConnection) -> Result<BTreeSet<String>, sqlx::Error> {
    Ok(relations(connection).await?.into_values().collect())
}

/// Whether the role sees other roles' sessions whole.
async fn sees_others(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_catalog.pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')")
        .fetch_one(connection)
        .await
}

async fn relations(connection: &mut PgConnection) -> Result<BTreeMap<u32, String>, sqlx::Error> {
    let rows: Vec<(i64, String)> = sqlx::query_as(
        "SELECT c.oid::bigint, o.identity FROM pg_catalog.pg_class AS c \
         CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::oid, c.oid, 0) AS o \
         WHERE c.oid >= 16384::oid AND o.identity IS NOT NULL AND o.schema <> 'fulldress'",
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter_map(|(oid, name)| Some((u32::try_from(oid).ok()?, name))).collect())
}

async fn index_tables(connection: &mut PgConnection) -> Result<BTreeMap<u32, u32>, sqlx::Error> {
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT indexrelid::bigint, indrelid::bigint FROM pg_catalog.pg_index WHERE indexrelid >= 16384::oid",
    )
    .fetch_all(connection)
    .await?;
    let pair = |(index, table)| Some((u32::try_from(index).ok()?, u32::try_from(table).ok()?));
    Ok(rows.into_iter().filter_map(pair).collect())
}
