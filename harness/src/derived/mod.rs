//! A rehearsal from a folder of migrations and nothing else: schema, rows and traffic are derived, and written as the files of an
//! ordinary rehearsal.
//!
//! `commands::migrations` calls [`eject`] and plays what it wrote. The history is applied as its tool would ([`crate::roundtrip`]),
//! the tables are filled ([`crate::synthetic`]), [`catalog`] is read, [`routes`] are made of it and tried ([`trial`]), and
//! [`traffic`] and [`files`] are written.

pub mod catalog;
pub mod files;
pub mod phases;
pub mod routes;
pub mod traffic;
pub mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::lock::LockMode;
use fulldress_reports::sql::split;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, PgConnection};

use self::files::{Contents, OWNER, Step};
use self::phases::Phases;
use self::traffic::Exercised;
use crate::history::{History, Migration, Script};
use crate::mirror::MirrorError;
use crate::mirror::cluster::{Cluster, Programs, uuid};
use crate::process::RunFolder;
use crate::recorder::statement::first_words;
use crate::roundtrip::{self, Ground};
use crate::synthetic;
use crate::trace::{self, Source};

/// Tables that no migration touches get this part of the rows.
const OTHERS_PART: u64 = 10;
/// Longest that the database may take to start.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What is derived, and from what.
#[derive(Debug)]
pub struct Request {
    /// The folder as the caller named it.
    pub folder: String,
    /// The migrations in it.
    pub history: History,
    /// Positions of those that are rehearsed.
    pub rehearsed: std::ops::Range<usize>,
    /// Files for psql that make what production has before the first migration.
    pub setups: Vec<Source>,
    /// Rows of each table that the migrations touch.
    pub rows: u64,
    /// Statements and transactions a second.
    pub rate_per_s: f64,
    /// Seed of every random choice.
    pub seed: u64,
    /// Folder of PostgreSQL's programs, else the machine's newest.
    pub postgres: Option<PathBuf>,
}

/// What was written.
#[derive(Debug)]
pub struct Ejected {
    /// The plan.
    pub plan: PathBuf,
    /// What was decided, one sentence each.
    pub decisions: Vec<String>,
}

/// Why nothing could be derived.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A migration before the rehearsed ones failed.
    #[error(
        "{file}:{line}: migration {id}, which comes before the rehearsed ones, failed: {what}; name what it needs with --setup"
    )]
    Refused {
        /// The migration.
        id: String,
        /// Its file.
        file: String,
        /// Line of the statement.
        line: u32,
        /// The server's words.
        what: String,
    },
    /// A rehearsed migration cannot be run at all.
    #[error("{file}:{line}: {what}")]
    Unusable {
        /// Its file.
        file: String,
        /// The line.
        line: u32,
        /// What stands there.
        what: String,
    },
    /// There is nothing that traffic could read or write.
    #[error(
        "before {0} there is no table that traffic could read or write; name a later migration with --from, or what production has with --setup"
    )]
    NoTraffic(String),
    /// The history could not be applied.
    #[error(transparent)]
    History(#[from] roundtrip::Error),
    /// The rows could not be made.
    #[error("the tables could not be filled: {0}")]
    Fill(#[from] synthetic::FillError),
    /// The embedded server failed.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// The server could not be asked.
    #[error("the database that everything is derived from cannot be read: {0}")]
    Server(#[from] sqlx::Error),
    /// The folder cannot be written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// The kernel's word.
        error: std::io::Error,
    },
}

/// Derives a rehearsal and writes it into a folder that exists. `tell` hears what is being done.
///
/// # Errors
/// A history that cannot be applied, a machine without PostgreSQL, a folder that cannot be written.
pub async fn eject(
    request: &Request,
    folder: &Path,
    run: &Arc<RunFolder>,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<Ejected, Error> {
    let steps = steps(request)?;
    let programs = Programs::find(request.postgres.as_deref())?;
    tell(format!("starting PostgreSQL from {}", programs.folder.display()));
    let mut cluster = Cluster::create(programs, run, "derived", roundtrip::settings(), START_LIMIT).await?;
    cluster.start().await?;
    let ejected = on_cluster(request, &steps, &cluster, folder, run, tell).await;
    cluster.stop().await;
    if ejected.is_err() && cluster.remove().is_err() {
        tell("the database's folder goes with the run folder".to_owned());
    }
    ejected
}

async fn on_cluster(
    request: &Request,
    steps: &[Step],
    cluster: &Cluster,
    folder: &Path,
    run: &Arc<RunFolder>,
    tell: &mut (dyn FnMut(String) + Send),
) -> Result<Ejected, Error> {
    let mut decisions = vec![format!("layout {}: {}", request.history.layout.name(), request.history.reason)];
    decisions.extend(request.history.notes.iter().map(|note| format!("{}: {}", note.file, note.text)));
    let before = &request.history.migrations[..request.rehearsed.start];
    tell(format!("applying {} migrations before the rehearsed ones", before.len()));
    let mut ground = Ground::prepare(cluster, &as_roundtrip(request), run).await?;
    for migration in before {
        apply(&mut ground, migration, &mut decisions).await?;
    }
    let database = cluster.options(roundtrip::LIVE);
    ground.close().await?;
    let roles = roles(&mut database.connect().await?).await?;
    let schema = cluster.dump_schema(roundtrip::LIVE).await?;

    tell("looking at what the rehearsed migrations touch".to_owned());
    let touched = touched(request, steps, &roles, schema, run, &mut decisions).await;

    tell("filling the tables".to_owned());
    fill(request, &database, &touched, &mut decisions).await?;
    let mut connection = database.connect().await?;
    let first = &request.history.migrations[request.rehearsed.start].id;
    let exercised = exercise(&mut connection, &touched, &mut decisions).await?;
    if exercised.is_empty() {
        return Err(Error::NoTraffic(first.clone()));
    }
    let name = format!("migrations {} to {}", first, steps.last().map_or("", |step| step.id.as_str()));
    let derived = traffic::write(&exercised, &touched, request.rate_per_s, &name);
    let routes = derived.routes;
    decisions.push(format!(
        "traffic: {routes} routes on {} tables, {:?} a second",
        exercised.len(),
        request.rate_per_s
    ));
    let (rarest, per_s) = &derived.rarest;
    let phases = Phases::of(*per_s);
    decisions.push(phases.decision(rarest, *per_s));
    if !derived.has_ledger {
        decisions.push("no write goes into the ledger: no client can name what it wrote".to_owned());
    }

    tell("writing the dataset".to_owned());
    let password = uuid();
    connection.execute(AssertSqlSafe(format!("ALTER ROLE {} RENAME TO {OWNER}", trace::OWNER))).await?;
    drop(connection);
    let io = |error| Error::Io { path: folder.to_owned(), error };
    let dump = folder.join(files::DUMP);
    std::fs::write(&dump, files::roles(&roles, &password)).map_err(io)?;
    cluster.dump_into(roundtrip::LIVE, &dump).await?;
    let plan = files::write(
        folder,
        &Contents {
            name,
            steps,
            from: before.last().map_or_else(|| "none".to_owned(), |migration| migration.id.clone()),
            phases,
            workload: &derived.text,
            decisions: &decisions,
            postgres: request.postgres.as_deref(),
            seed: request.seed,
            rows: request.rows,
            has_ledger: derived.has_ledger,
            has_untouched: exercised.iter().any(|one| one.routes.iter().all(|route| route.kind.reads())),
            password: &password,
        },
    );
    Ok(Ejected { plan: plan.map_err(io)?, decisions })
}

/// What the history is applied with.
fn as_roundtrip(request: &Request) -> roundtrip::Request {
    roundtrip::Request {
        folder: request.folder.clone(),
        setups: request.setups.clone(),
        rows: None,
        seed: request.seed,
        from: None,
        to: None,
        superuser: false,
        postgres: request.postgres.clone(),
        required: Vec::new(),
    }
}

async fn apply(
    ground: &mut Ground<'_>,
    migration: &Migration,
    decisions: &mut Vec<String>,
) -> Result<(), Error> {
    match ground.run(&migration.up).await? {
        Ok(ran) => {
            decisions.extend(ran.notes.iter().map(|note| format!("{}: {}", note.file, note.text)));
            Ok(())
        }
        Err(stopped) => Err(Error::Refused {
            id: migration.id.clone(),
            file: migration.up.file.clone(),
            line: stopped.refusal.line,
            what: stopped.refusal.what,
        }),
    }
}

/// Roles that the migrations made beside the owner: what they grant needs them.
async fn roles(connection: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT quote_ident(rolname) FROM pg_roles WHERE rolname !~ '^(pg_|fulldress)' ORDER BY 1",
    )
    .fetch_all(connection)
    .await
}

/// Tables that the rehearsed migrations lock for more than reading, by running them on the schema alone.
async fn touched(
    request: &Request,
    steps: &[Step],
    roles: &[String],
    schema: String,
    run: &Arc<RunFolder>,
    decisions: &mut Vec<String>,
) -> BTreeSet<String> {
    let made: String = roles.iter().map(|role| format!("CREATE ROLE {role};\n")).collect();
    let source = |step: &Step| Source { file: step.id.clone(), text: step.up.clone() };
    let traced = trace::Request {
        setups: vec![Source { file: "the schema before".to_owned(), text: made + &schema }],
        scripts: steps.iter().map(source).collect(),
        postgres: request.postgres.clone(),
        ..trace::Request::default()
    };
    let trace = match trace::embedded(&traced, run).await {
        Ok(trace) => trace,
        Err(trace::Error::Lost { trace, .. }) => *trace,
        Err(error) => {
            decisions.push(format!(
                "every table counts as touched, since the migrations could not be traced: {error}"
            ));
            return BTreeSet::new();
        }
    };
    let locks =
        trace.scripts.iter().flat_map(|script| &script.statements).flat_map(|statement| &statement.locks);
    let writes = |mode: LockMode| !matches!(mode, LockMode::AccessShareLock | LockMode::RowShareLock);
    let touched: BTreeSet<String> = locks
        .filter(|lock| writes(lock.mode) && lock.kind.ends_with("table"))
        .map(|lock| lock.relation.clone())
        .collect();
    let names: Vec<&str> = touched.iter().map(String::as_str).collect();
    decisions.push(match names.as_slice() {
        [] => "the migrations lock no table that was there before".to_owned(),
        names => format!("the migrations touch {}", names.join(", ")),
    });
    touched
}

async fn fill(
    request: &Request,
    database: &sqlx::postgres::PgConnectOptions,
    touched: &BTreeSet<String>,
    decisions: &mut Vec<String>,
) -> Result<(), Error> {
    let others = if touched.is_empty() { request.rows } else { (request.rows / OTHERS_PART).max(1) };
    let wanted = synthetic::Request {
        rows: others,
        seed: request.seed,
        rows_of: touched.iter().map(|table| (table.clone(), request.rows)).collect::<BTreeMap<_, _>>(),
        ..synthetic::Request::default()
    };
    let filled = synthetic::fill(database, &wanted).await?;
    let rows: u64 = filled.tables.iter().map(|table| table.rows).sum();
    decisions.push(format!("rows: {rows} in {} tables that were empty", filled.tables.len()));
    for table in &filled.tables {
        if let Some(why) = &table.unfilled {
            decisions.push(format!("{}: {} rows, since {why}", table.relation, table.rows));
        }
    }
    database.connect().await?.execute("ANALYZE").await?;
    Ok(())
}

/// Tables with the routes that work on them.
async fn exercise(
    connection: &mut PgConnection,
    touched: &BTreeSet<String>,
    decisions: &mut Vec<String>,
) -> Result<Vec<Exercised>, Error> {
    let tables = traffic::choose(catalog::read(connection).await?, touched, decisions);
    let mut exercised = Vec::new();
    for table in tables {
        let is_ours = touched.is_empty() || touched.contains(&table.name);
        let (mut derived, missing) = routes::of(&table);
        if is_ours {
            decisions.extend(missing);
        } else {
            // What nobody writes must come back to the last row.
            derived.retain(|route| route.kind.reads());
        }
        let mut routes = Vec::new();
        for route in derived {
            match trial::try_route(connection, &table, &route).await {
                Ok(()) => routes.push(route),
                Err(why) => decisions.push(format!("{}: left out, since {why}", route.name)),
            }
        }
        if routes.is_empty() {
            decisions.push(format!("{}: no route works on it, so that it gets no traffic", table.name));
        } else {
            exercised.push(Exercised { table, routes });
        }
    }
    Ok(exercised)
}

/// The rehearsed migrations as files for psql.
fn steps(request: &Request) -> Result<Vec<Step>, Error> {
    let step = |migration: &Migration| {
        let usable = |script: &Script| match &script.problem {
            Some(problem) => Err(Error::Unusable {
                file: script.file.clone(),
                line: problem.line,
                what: problem.what.clone(),
            }),
            None => Ok(for_psql(script)),
        };
        let down = migration.down.as_ref().filter(|script| !script.is_empty()).map(usable).transpose()?;
        Ok(Step { id: migration.id.clone(), up: usable(&migration.up)?, down })
    };
    request.history.migrations[request.rehearsed.clone()].iter().map(step).collect()
}

/// What psql must read to do as the migration's own tool does: psql sends statement by statement, while a request of several
/// statements is one transaction unless it manages its own.
fn for_psql(script: &Script) -> String {
    let parts = script.parts.iter().map(|part| {
        let statements = split(&part.sql);
        let manages = |statement: &&str| {
            let words = first_words(statement, 1);
            let first = words.first().map_or("", String::as_str);
            ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"].contains(&first)
        };
        let sql = part.sql.trim_end();
        if !script.transaction && statements.len() > 1 && !statements.iter().any(manages) {
            format!("BEGIN;\n{sql}\n;\nCOMMIT;\n")
        } else {
            // A semicolon too much is an empty statement.
            format!("{sql}\n;\n")
        }
    });
    let text: String = parts.collect();
    if script.transaction { format!("BEGIN;\n{text}COMMIT;\n") } else { text }
}

#[cfg(test)]
mod tests {
    use super::for_psql;
    use crate::history::{Part, Script};

    #[test]
    fn psql_does_as_the_tool_does() {
        let text = |transaction, parts: &[&str]| {
            let parts = parts.iter().map(|sql| Part { line: 1, sql: (*sql).to_owned() }).collect();
            for_psql(&Script {
                file: "a.sql".to_owned(),
                transaction,
                parts,
                problem: None,
                notes: Vec::new(),
            })
        };
        assert_eq!(text(true, &["select 1"]), "BEGIN;\nselect 1\n;\nCOMMIT;\n");
        assert_eq!(text(false, &["select 1; select 2;"]), "BEGIN;\nselect 1; select 2;\n;\nCOMMIT;\n");
        assert_eq!(text(false, &["begin; select 1; commit;"]), "begin; select 1; commit;\n;\n");
        assert_eq!(text(false, &["select 1 -- a", "select 2"]), "select 1 -- a\n;\nselect 2\n;\n");
    }
}
