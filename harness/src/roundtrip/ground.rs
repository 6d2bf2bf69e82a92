//! The databases of a walk: one that lives, a copy of it from some migrations ago to come back to, and for a while two
//! that are compared row by row.
//!
//! Called by [`super::staircase`]. A copy costs more than most migrations, so that it is taken seldom, and a state in between
//! is made again from it by what was applied since.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fulldress_reports::roundtrip::Note;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use super::extensions::Extensions;
use super::session::{Refusal, Session, is_contained};
use super::{Error, Request};
use crate::history::Script;
use crate::mirror::cluster::{Cluster, uuid};
use crate::process::RunFolder;
use crate::trace::{OWNER, SETUP, hand_over, load};

/// The database that migrations run on, the copy of it, and the two that are compared row by row.
pub(crate) const LIVE: &str = "fulldress";
const KEPT: &str = "fulldress_kept";
/// A copy of it from some migrations ago, in which nobody made rows.
const BARE: &str = "fulldress_bare";
pub(super) const BEFORE: &str = "fulldress_before";
pub(super) const AFTER: &str = "fulldress_after";
/// Pause between two looks at who is still connected.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// Since this version a role that may make roles may not give away those that read files and run programs.
const SAFE_CREATEROLE: i32 = 160_000;
/// Roles whose members read and write files and run programs as the server's user.
const DENIED: &str = "'pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files'";

/// A script that ran.
pub(crate) struct Ran {
    /// In microseconds.
    pub(crate) us: u64,
    pub(crate) notes: Vec<Note>,
}

/// A script that did not.
pub(crate) struct Stopped {
    pub(crate) refusal: Refusal,
    pub(crate) notes: Vec<Note>,
    /// Whether the database is certainly as it was before.
    pub(super) contained: bool,
}

/// One database, with the migrator's session and ours.
pub(super) struct Site {
    pub(super) name: &'static str,
    options: PgConnectOptions,
    session: Session,
    probe: Option<PgConnection>,
}

impl Site {
    /// How synthetic rows reach it.
    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Our session.
    pub(super) async fn probe(&mut self) -> Result<&mut PgConnection, Error> {
        let connection = match self.probe.take() {
            Some(connection) => connection,
            None => {
                self.options.connect().await.map_err(Error::server("the database could not be looked at"))?
            }
        };
        Ok(self.probe.insert(connection))
    }

    async fn close(&mut self) {
        self.session.close().await;
        if let Some(probe) = self.probe.take() {
            // A session that is already gone needs no end.
            _ = probe.close().await;
        }
    }
}

/// The databases, and who works on them.
pub(crate) struct Ground<'cluster> {
    /// The server's own name of its version.
    pub(super) server_version: String,
    /// Such as 150014.
    pub(super) version_number: i32,
    pub(super) live: Site,
    cluster: &'cluster Cluster,
    admin: PgConnection,
    password: String,
    extensions: Extensions,
    roles: BTreeSet<String>,
}

impl<'cluster> Ground<'cluster> {
    /// Makes the roles, and the database as the setups leave it.
    pub(crate) async fn prepare(
        cluster: &'cluster Cluster,
        request: &Request,
        run: &Arc<RunFolder>,
    ) -> Result<Self, Error> {
        let doing = "the database could not be made";
        let mut admin = cluster.connect("postgres").await.map_err(Error::server(doing))?;
        let (server_version, version_number): (String, i32) = sqlx::query_as(
            "SELECT split_part(current_setting('server_version'), ' ', 1), current_setting('server_version_num')::int",
        )
        .fetch_one(&mut admin)
        .await
        .map_err(Error::server(doing))?;
        let password = uuid();
        for statement in statements(request, &password, version_number) {
            admin.execute(AssertSqlSafe(statement)).await.map_err(Error::server(doing))?;
        }
        let as_setup = cluster.options(LIVE).username(SETUP).password(&password);
        let psql = Some(cluster.programs().join("psql")).filter(|path| path.is_file());
        for setup in &request.setups {
            load(setup, &as_setup, Some(&password), psql.as_deref(), run).await?;
        }
        hand_over(&cluster.options(LIVE)).await.map_err(Error::server(doing))?;
        let extensions =
            Extensions::read(&mut admin, request.superuser).await.map_err(Error::server(doing))?;
        let live = site(cluster, LIVE, &password);
        let mut ground = Self {
            server_version,
            version_number,
            live,
            cluster,
            admin,
            password,
            extensions,
            roles: BTreeSet::new(),
        };
        // Whoever owns a database may drop and comment on what is in it.
        let given = format!("UPDATE pg_catalog.pg_extension SET extowner = '{OWNER}'::regrole");
        let given = ground.live.probe().await?.execute(AssertSqlSafe(given)).await;
        given.map_err(Error::server(doing))?;
        ground.keep().await?;
        ground.keep_bare().await?;
        Ok(ground)
    }

    /// Runs a script on the living database.
    pub(crate) async fn run(&mut self, script: &Script) -> Result<Result<Ran, Stopped>, Error> {
        run(&self.extensions, &mut self.live, script).await
    }

    /// Runs a script on another one.
    pub(super) async fn run_on(
        &self,
        site: &mut Site,
        script: &Script,
    ) -> Result<Result<Ran, Stopped>, Error> {
        run(&self.extensions, site, script).await
    }

    /// Ends every session of ours and of the migrator.
    pub(crate) async fn close(mut self) -> Result<(), Error> {
        self.live.close().await;
        self.leave(LIVE).await
    }

    /// Takes the copy anew from the living database.
    pub(super) async fn keep(&mut self) -> Result<(), Error> {
        self.live.close().await;
        self.remove(KEPT).await?;
        self.copy(LIVE, KEPT).await?;
        self.roles = self.all_roles().await?;
        Ok(())
    }

    /// Takes the copy without rows anew from the living database, which has none.
    pub(super) async fn keep_bare(&mut self) -> Result<(), Error> {
        self.live.close().await;
        self.remove(BARE).await?;
        self.copy(LIVE, BARE).await
    }

    /// Puts the copy in the living database's place.
    pub(super) async fn go_back(&mut self) -> Result<(), Error> {
        self.go_back_to(KEPT).await
    }

    /// Puts the copy without rows in the living database's place.
    pub(super) async fn go_back_to_bare(&mut self) -> Result<(), Error> {
        self.go_back_to(BARE).await
    }

    async fn go_back_to(&mut self, kept: &str) -> Result<(), Error> {
        self.live.close().await;
        self.remove(LIVE).await?;
        for role in self.all_roles().await?.difference(&self.roles) {
            // One that cannot go now is found again by whoever makes it.
            _ = self.admin.execute(AssertSqlSafe(format!("DROP ROLE {role}"))).await;
        }
        self.copy(kept, LIVE).await
    }

    /// A database of its own from the copy.
    pub(super) async fn copy_of_kept(&mut self, name: &'static str) -> Result<Site, Error> {
        self.remove(name).await?;
        self.copy(KEPT, name).await?;
        Ok(site(self.cluster, name, &self.password))
    }

    /// A database of its own from another one, which goes on.
    pub(super) async fn copy_of(&mut self, from: &mut Site, name: &'static str) -> Result<Site, Error> {
        from.close().await;
        self.remove(name).await?;
        self.copy(from.name, name).await?;
        Ok(site(self.cluster, name, &self.password))
    }

    /// Removes a database that is of no more use.
    pub(super) async fn remove(&mut self, name: &str) -> Result<(), Error> {
        self.admin_runs(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
    }

    /// Copies a database with its settings, which a template does not hand on.
    async fn copy(&mut self, from: &str, to: &str) -> Result<(), Error> {
        self.leave(from).await?;
        self.admin_runs(format!("CREATE DATABASE {to} TEMPLATE {from} OWNER {OWNER} STRATEGY FILE_COPY"))
            .await?;
        self.admin_runs(format!(
            "INSERT INTO pg_catalog.pg_db_role_setting \
             SELECT new.oid, setting.setrole, setting.setconfig FROM pg_catalog.pg_db_role_setting setting \
             JOIN pg_catalog.pg_database old ON old.oid = setting.setdatabase AND old.datname = '{from}' \
             JOIN pg_catalog.pg_database new ON new.datname = '{to}'"
        ))
        .await
    }

    async fn admin_runs(&mut self, statement: String) -> Result<(), Error> {
        let ran = self.admin.execute(AssertSqlSafe(statement)).await;
        ran.map(drop).map_err(Error::server("a copy of the database could not be made"))
    }

    async fn all_roles(&mut self) -> Result<BTreeSet<String>, Error> {
        let roles = sqlx::query_scalar("SELECT quote_ident(rolname) FROM pg_catalog.pg_roles");
        let roles: Vec<String> =
            roles.fetch_all(&mut self.admin).await.map_err(Error::server("the roles could not be read"))?;
        Ok(roles.into_iter().collect())
    }

    /// Ends every session on a database, and waits until the server has seen it: it makes no copy before.
    async fn leave(&mut self, name: &str) -> Result<(), Error> {
        let sessions = format!(
            "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
             WHERE datname = '{name}'"
        );
        loop {
            let left: i64 = sqlx::query_scalar(AssertSqlSafe(sessions.as_str()))
                .fetch_one(&mut self.admin)
                .await
                .map_err(Error::server("sessions could not be ended"))?;
            if left == 0 {
                return Ok(());
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

fn site(cluster: &Cluster, name: &'static str, password: &str) -> Site {
    let options = cluster.options(name);
    let session = Session::new(options.clone().username(OWNER).password(password));
    Site { name, options, session, probe: None }
}

/// Runs a script as its tool would, after what only a superuser can do of it.
async fn run(
    extensions: &Extensions,
    site: &mut Site,
    script: &Script,
) -> Result<Result<Ran, Stopped>, Error> {
    let prepared =
        if extensions.concern(script) { extensions.prepare(site.probe().await?, script).await } else { None };
    let made = prepared.as_ref().is_some_and(|prepared| prepared.created);
    let (changed, mut notes) = prepared.map_or((None, Vec::new()), |one| (Some(one.script), one.notes));
    let run = changed.as_ref().unwrap_or(script);
    notes.extend(script.notes.iter().cloned());
    Ok(match site.session.run(run).await {
        Ok(us) => Ok(Ran { us, notes }),
        Err(refusal) => {
            let refused = refusal.sqlstate.is_some() && !made && is_contained(run);
            Err(Stopped { refusal, notes, contained: refused || script.problem.is_some() })
        }
    })
}

fn statements(request: &Request, password: &str, version: i32) -> Vec<String> {
    let mut statements = vec![
        format!("CREATE ROLE {OWNER} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'"),
        format!("CREATE ROLE {SETUP} LOGIN SUPERUSER PASSWORD '{password}'"),
        format!("CREATE DATABASE {LIVE} OWNER {OWNER}"),
    ];
    if request.superuser {
        statements.push(format!("ALTER ROLE {OWNER} SUPERUSER"));
    } else if version < SAFE_CREATEROLE {
        // Before, whoever may make roles may give away every role that is no superuser.
        statements
            .push(format!("UPDATE pg_catalog.pg_authid SET rolsuper = true WHERE rolname IN ({DENIED})"));
    }
    statements
}
