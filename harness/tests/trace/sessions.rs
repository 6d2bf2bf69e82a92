//! Plays the examples that need more than one session: lines `session: statement`, each sent when all others rest.
//!
//! A session rests when it has nothing to do, or waits, in the end, for one that has nothing to do. A wait that ends by
//! itself (a limit, a deadlock) is waited for, so that what is noted does not depend on who is faster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fulldress::mirror::cluster::{Cluster, Programs};
use fulldress_reports::hazard::{self, Harm, Played, Shown};
use sqlx::postgres::PgDatabaseError;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::task::JoinHandle;

use super::Stage;

/// Longest time that a statement may take to rest.
const REST_MAX: Duration = Duration::from_secs(20);
const MIGRATOR: &str = "migrator";

/// What came of an example.
#[derive(Debug)]
pub(crate) struct Play {
    played: Vec<Played>,
    /// Sessions that waited, and for whom.
    waits: BTreeSet<(String, String)>,
    refused: Vec<String>,
    invalid_indexes: Vec<String>,
}

impl Play {
    pub(crate) fn shows(&self, harm: Harm) -> bool {
        match harm {
            Harm::ClientWaits => {
                self.waits.iter().any(|(who, whom)| who != MIGRATOR && whom.as_str() == MIGRATOR)
            }
            Harm::Refused => !self.refused.is_empty(),
            Harm::InvalidIndex => !self.invalid_indexes.is_empty(),
        }
    }

    pub(crate) fn shown(self) -> Vec<Played> {
        self.played
    }
}

/// The bad and the good example of each hazard that sessions show, in the order of the records.
pub(crate) fn play_all(stage: &Stage, postgres: &Path) -> Vec<Play> {
    let folder = stage.folder();
    let plays = stage.runtime.block_on(async {
        let programs = Programs::find(Some(postgres)).unwrap();
        let settings = BTreeMap::from([
            ("autovacuum".to_owned(), "off".to_owned()),
            ("fsync".to_owned(), "off".to_owned()),
        ]);
        let mut cluster =
            Cluster::create(programs, &folder, "sessions", settings, Duration::from_secs(60)).await.unwrap();
        cluster.start().await.unwrap();
        let mut admin = cluster.connect("postgres").await.unwrap();
        admin.execute("CREATE DATABASE source").await.unwrap();
        let mut source = cluster.connect("source").await.unwrap();
        source.execute(sqlx::raw_sql(hazard::EXAMPLE_SETUP)).await.unwrap();
        source.close().await.unwrap();
        let mut plays = Vec::new();
        for hazard in hazard::all().filter(|hazard| matches!(hazard.shown, Shown::Sessions(_))) {
            for script in [hazard.bad, hazard.good] {
                admin.execute("CREATE DATABASE play TEMPLATE source").await.unwrap();
                plays.push(play(&cluster, script).await);
                admin.execute("DROP DATABASE play WITH (FORCE)").await.unwrap();
            }
        }
        cluster.stop().await;
        plays
    });
    Arc::try_unwrap(folder).unwrap().close().unwrap();
    plays
}

type Ended = (PgConnection, Option<String>);

struct Session {
    pid: i32,
    /// Absent while a statement runs.
    idle: Option<PgConnection>,
    running: Option<JoinHandle<Ended>>,
}

struct Stand<'a> {
    cluster: &'a Cluster,
    observer: PgConnection,
    sessions: BTreeMap<String, Session>,
    /// Sessions with a lock_timeout: their waits end by themselves.
    limited: BTreeSet<String>,
    waits: BTreeSet<(String, String)>,
    refused: Vec<String>,
}

async fn play(cluster: &Cluster, script: &str) -> Play {
    let observer = cluster.connect("play").await.unwrap();
    let mut stand = Stand {
        cluster,
        observer,
        sessions: BTreeMap::new(),
        limited: BTreeSet::new(),
        waits: BTreeSet::new(),
        refused: Vec::new(),
    };
    let mut played = Vec::new();
    for line in script.split("; ") {
        let (session, sql) = line.split_once(": ").unwrap();
        let notes = stand.step(session, sql).await;
        played.push(Played { session: session.to_owned(), sql: sql.to_owned(), notes });
    }
    assert!(
        stand.sessions.values().all(|session| session.running.is_none()),
        "{script}: somebody still waits"
    );
    let query = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid";
    let invalid_indexes: Vec<String> =
        sqlx::query_scalar(query).fetch_all(&mut stand.observer).await.unwrap();
    if let Some(last) = played.last_mut() {
        last.notes.extend(invalid_indexes.iter().map(|index| format!("leaves the INVALID index {index}")));
    }
    Play { played, waits: stand.waits, refused: stand.refused, invalid_indexes }
}

impl Stand<'_> {
    async fn session(&mut self, name: &str) -> &mut Session {
        if !self.sessions.contains_key(name) {
            let mut connection = self.cluster.connect("play").await.unwrap();
            // The migrator looks for a deadlock first, so that it is the one that ends.
            let patience = if name == MIGRATOR { "100ms" } else { "10min" };
            let patient = format!("SET deadlock_timeout = '{patience}'");
            connection.execute(AssertSqlSafe(patient)).await.unwrap();
            let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await.unwrap();
            let session = Session { pid, idle: Some(connection), running: None };
            self.sessions.insert(name.to_owned(), session);
        }
        self.sessions.get_mut(name).unwrap()
    }

    /// Sends a statement and waits until all rest; gives what there is to say.
    async fn step(&mut self, name: &str, sql: &str) -> Vec<String> {
        if sql.starts_with("SET lock_timeout") && !sql.ends_with("= 0") {
            self.limited.insert(name.to_owned());
        }
        let session = self.session(name).await;
        let mut connection = session.idle.take().unwrap_or_else(|| panic!("{name} still waits: {sql}"));
        let sent = sql.to_owned();
        session.running = Some(tokio::spawn(async move {
            let error = match connection.execute(sqlx::raw_sql(AssertSqlSafe(sent))).await {
                Ok(_) => None,
                Err(sqlx::Error::Database(error)) => {
                    let error = error.downcast_ref::<PgDatabaseError>();
                    Some(format!("error {}", error.code()))
                }
                Err(error) => Some(error.to_string()),
            };
            (connection, error)
        }));
        tokio::time::timeout(REST_MAX, self.rest(name)).await.unwrap_or_else(|_| panic!("{sql}: no rest"))
    }

    async fn rest(&mut self, sender: &str) -> Vec<String> {
        let mut notes = Vec::new();
        loop {
            self.collect(sender, &mut notes).await;
            let graph = self.graph().await;
            if self.rests(&graph) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // Who of several is heard of first is chance.
        notes.sort_by_key(|note| (note.contains(": ") || note.ends_with(" goes on"), note.clone()));
        let graph = self.graph().await;
        if let Some(whom) = graph.get(sender).filter(|whom| !whom.is_empty()) {
            notes.push(format!("waits for {}", whom.join(", ")));
            self.waits.extend(whom.iter().map(|whom| (sender.to_owned(), whom.clone())));
        }
        notes
    }

    /// Takes in what has ended.
    async fn collect(&mut self, sender: &str, notes: &mut Vec<String>) {
        let mut ended = Vec::new();
        for (name, session) in &mut self.sessions {
            if session.running.as_ref().is_some_and(JoinHandle::is_finished)
                && let Some(running) = session.running.take()
            {
                let (connection, error) = running.await.unwrap();
                session.idle = Some(connection);
                ended.push((name.clone(), error));
            }
        }
        for (name, error) in ended {
            match error {
                Some(ref error) if name == sender => notes.push(error.clone()),
                Some(ref error) => notes.push(format!("{name}: {error}")),
                None if name == sender => {}
                None => notes.push(format!("{name} goes on")),
            }
            self.refused.extend(error);
        }
    }

    /// For whom each session waits that runs a statement.
    async fn graph(&mut self) -> BTreeMap<String, Vec<String>> {
        let mut graph = BTreeMap::new();
        for (name, session) in &self.sessions {
            if session.running.is_none() {
                continue;
            }
            let blockers: Vec<i32> = sqlx::query_scalar("SELECT pg_blocking_pids($1)")
                .bind(session.pid)
                .fetch_one(&mut self.observer)
                .await
                .unwrap();
            let whom = self.sessions.iter().filter(|(_, other)| blockers.contains(&other.pid));
            graph.insert(name.clone(), whom.map(|(name, _)| name.clone()).collect());
        }
        graph
    }

    /// Whether each session that runs waits, in the end, for one that does not.
    fn rests(&self, graph: &BTreeMap<String, Vec<String>>) -> bool {
        let idle = |name: &String| self.sessions.get(name).is_some_and(|session| session.running.is_none());
        graph.keys().all(|name| {
            if self.limited.contains(name) {
                return false;
            }
            let mut reached = BTreeSet::from([name.clone()]);
            let mut next = vec![name.clone()];
            while let Some(name) = next.pop() {
                for whom in graph.get(&name).into_iter().flatten() {
                    if idle(whom) {
                        return true;
                    }
                    if reached.insert(whom.clone()) {
                        next.push(whom.clone());
                    }
                }
            }
            false
        })
    }
}
