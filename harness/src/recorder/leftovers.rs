//! What a step left behind in the database's lock and index state.
//!
//! `Recorder` asks after each phase; the answers become findings of the check LOCK-RESIDUE.

use std::collections::BTreeSet;

use fulldress_reports::lock::LockLeftover;
use fulldress_reports::phase::Phase;
use sqlx::PgConnection;

use super::observation::{AdvisoryKey, PackageIdentity};

/// What is unfinished or switched off in the catalog: a kind as [`LockLeftover::kind`] has it, and the object.
pub(super) type Unfinished = BTreeSet<(String, String)>;

/// Reads it all. Constraints of partitions and inherited ones are left out: they follow their parent's.
const UNFINISHED: &str = "\
SELECT 'invalid index', o.identity FROM pg_catalog.pg_index AS i
CROSS JOIN LATERAL pg_catalog.pg_identify_object(1259::oid, i.indexrelid, 0) AS o
-- An index that is being built right now is invalid too: its builder still holds a lock on it or its table.
WHERE (NOT i.indisvalid OR NOT i.indisready) AND o.identity IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index AS p WHERE p.index_relid = i.indexrelid)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = i.indexrelid AND c.relkind = 'I')
UNION ALL
SELECT 'unvalidated constraint', (pg_catalog.pg_identify_object(2606::oid, c.oid, 0)).identity FROM pg_catalog.pg_constraint AS c
WHERE NOT c.convalidated AND c.conrelid <> 0 AND c.contype IN ('c', 'f', 'n') AND c.conparentid = 0 AND c.coninhcount = 0
UNION ALL
SELECT 'disabled trigger', (pg_catalog.pg_identify_object(2620::oid, t.oid, 0)).identity FROM pg_catalog.pg_trigger AS t
WHERE t.tgenabled = 'D' AND t.tgparentid = 0
UNION ALL
SELECT 'setting', pg_catalog.concat_ws(' ', setting, 'of', 'role ' || r.rolname, 'database ' || d.datname)
FROM pg_catalog.pg_db_role_setting AS s
LEFT JOIN pg_catalog.pg_roles AS r ON r.oid = s.setrole
LEFT JOIN pg_catalog.pg_database AS d ON d.oid = s.setdatabase
CROSS JOIN LATERAL unnest(s.setconfig) AS setting
WHERE s.setdatabase = 0 OR d.datname = current_database()";

/// What is unfinished or switched off now.
pub(super) async fn unfinished(connection: &mut PgConnection) -> Result<Unfinished, sqlx::Error> {
    let found: Vec<(String, String)> = sqlx::query_as(UNFINISHED).fetch_all(connection).await?;
    Ok(found.into_iter().collect())
}

/// Everything left behind now. `before` is what was unfinished before the package ran.
///
/// # Errors
/// The server's.
pub async fn leftovers(
    connection: &mut PgConnection,
    phase: Phase,
    identity: &PackageIdentity,
    before: &Unfinished,
) -> Result<Vec<LockLeftover>, sqlx::Error> {
    let found = |kind: &str, object: String| LockLeftover { phase, kind: kind.to_owned(), object };
    let mut leftovers = Vec::new();
    let now = unfinished(connection).await?;
    leftovers.extend(now.difference(before).map(|(kind, object)| found(kind, object.clone())));
    // A setting that is gone is a change as well; an index that is valid now is none.
    let gone = before.difference(&now).filter(|(kind, _)| kind == "setting");
    leftovers.extend(gone.map(|(_, object)| found("removed setting", object.clone())));
    let idle: Vec<(i32, String, String)> = sqlx::query_as(
        "SELECT s.pid, coalesce(s.usename::text, ''), coalesce(s.application_name, '') \
         FROM pg_catalog.pg_stat_activity AS s \
         WHERE s.state LIKE 'idle in transaction%' AND s.datname = current_database() \
           AND (s.usename = ANY ($1::text[]) OR coalesce(host(s.client_addr), \
                CASE WHEN s.client_port = -1 THEN '[local]' END) = ANY ($2::text[])) \
         ORDER BY s.pid",
    )
    .bind(&identity.roles)
    .bind(&identity.addresses)
    .fetch_all(&mut *connection)
    .await?;
    leftovers.extend(idle.into_iter().map(|(pid, role, application)| {
        found("idle transaction", format!("{role} pid {pid} {application}").trim().to_owned())
    }));
    let advisory: Vec<(i64, i64, i16, i32, String)> = sqlx::query_as(
        "SELECT l.classid::bigint, l.objid::bigint, l.objsubid, l.pid, coalesce(s.usename::text, '') \
         FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS s ON s.pid = l.pid \
         WHERE l.locktype = 'advisory' AND l.granted AND s.datname = current_database() \
           AND (s.usename = ANY ($1::text[]) OR coalesce(host(s.client_addr), \
                CASE WHEN s.client_port = -1 THEN '[local]' END) = ANY ($2::text[])) \
         ORDER BY 4, 1, 2",
    )
    .bind(&identity.roles)
    .bind(&identity.addresses)
    .fetch_all(&mut *connection)
    .await?;
    for (classid, objid, objsubid, pid, role) in advisory {
        let part = |value: i64| u32::try_from(value).unwrap_or(0);
        let key = AdvisoryKey {
            classid: part(classid),
            objid: part(objid),
            objsubid: u16::try_from(objsubid).unwrap_or(0),
        };
        leftovers.push(found("advisory lock", format!("{key} held by {role} pid {pid}")));
    }
    let prepared: Vec<String> = sqlx::query_scalar(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = current_database() ORDER BY gid",
    )
    .fetch_all(&mut *connection)
    .await?;
    leftovers.extend(prepared.into_iter().map(|gid| found("prepared transaction", gid)));
    Ok(leftovers)
}
