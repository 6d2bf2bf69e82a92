//! The copies of a database in containers: the snapshot that clones start from, the base backup, and the way back to it.
//!
//! The mirror calls it. Everything is copied by programs of the database's own image, inside containers of that image.

use sqlx::{PgConnection, Row as _};

use super::{COPY_LIMIT, Database, SUPERUSER, database_error};
use crate::mirror::cluster::uuid;
use crate::mirror::containers::engine::{ContainerSpec, Mount, MountSource};
use crate::mirror::containers::model::EVIDENCE_FOLDER;
use crate::mirror::{DataCopy, MirrorError};

/// Copies a running server's data folder `$1` to `$2`, without what belongs to the running server only (PostgreSQL's manual,
/// "Backing Up the Data Directory"). A file that went away meanwhile is in the log; any other failure is one. The control
/// file comes last, as in `pg_basebackup`, so that it knows all that the other files hold.
const COPY_RUNNING: &str = r#"
export LC_ALL=C
mkdir -p "$2"
find "$2" -mindepth 1 -delete
: >"$2".gone
cd "$1"
for entry in .[!.]* *; do
    case $entry in
    global | pg_dynshmem | pg_notify | pg_replslot | pg_serial | pg_snapshots | pg_stat_tmp | pg_subtrans | pg_wal) ;;
    postmaster.pid | postmaster.opts | '.[!.]*') ;;
    *) cp -a "$entry" "$2"/ 2>>"$2".gone || : ;;
    esac
done
mkdir "$2"/global
for entry in global/*; do
    [ "$entry" = global/pg_control ] || cp -a "$entry" "$2"/global/ 2>>"$2".gone || :
done
tries=0
# Read while the server writes it, it may be torn: two equal readings are not.
until cp -a global/pg_control "$2"/global/ && cmp -s global/pg_control "$2"/global/pg_control; do
    tries=$((tries + 1))
    [ "$tries" -lt 20 ] || { echo 'the control file never kept still' >&2; exit 1; }
done
for folder in pg_dynshmem pg_notify pg_replslot pg_serial pg_snapshots pg_stat_tmp pg_subtrans pg_wal/archive_status; do
    mkdir -p "$2/$folder"
done
chmod 700 "$2" "$2"/*/
! grep -v 'No such file or directory' "$2".gone >&2
"#;
/// Adds to the copy `$2` of the data folder `$1` what the end of the backup gave: the label `$3`, and the log's segments, which
/// are the rest. Prints the size in KiB.
const COMPLETE: &str = r#"
data=$1 copy=$2
printf '%s' "$3" >"$copy"/backup_label
shift 3
for segment; do cp -a "$data/pg_wal/$segment" "$copy"/pg_wal/; done
du -sk "$copy" | cut -f1
"#;

impl Database {
    /// Copies the data as it is now, from which clones are made. With `restart` the server is stopped for it, and has all
    /// its settings afterwards.
    ///
    /// # Errors
    /// When the copy fails or the server does not come back.
    pub async fn take_snapshot(&self, restart: bool) -> Result<(), MirrorError> {
        if !restart {
            return self.base_backup("snapshot").await.map(drop);
        }
        let _stopped = self.stopped.lock().await;
        self.stop().await?;
        let script = "rm -rf /fulldress/snapshot && cp -a \"$1\" /fulldress/snapshot";
        self.beside("copy the data", script, &[]).await?;
        self.start().await
    }

    /// Fills the data volume of a database that was never started from another's snapshot.
    ///
    /// # Errors
    /// When the copy fails.
    pub async fn fill_from(&self, other: &Self) -> Result<(), MirrorError> {
        let script = "mkdir -p \"$1\" /fulldress/log /fulldress/backup && cp -a /source/snapshot/. \"$1\"/ && \
                      chmod 700 \"$1\" /fulldress/* && \
                      chown \"$(stat -c %u:%g /source/snapshot)\" \"$1\" /fulldress /fulldress/*";
        self.beside("copy the snapshot", script, &[(&other.evidence_volume, "/source")]).await.map(drop)
    }

    /// Takes a base backup of the running server; gives its size in bytes.
    ///
    /// # Errors
    /// When a file cannot be copied, or the database has tablespaces outside its data folder.
    pub async fn back_up(&self, copy: DataCopy) -> Result<u64, MirrorError> {
        self.base_backup(copy.folder()).await
    }

    /// A base backup into a folder of the evidence, by the server's low-level interface (PostgreSQL's manual, "Making a Base
    /// Backup Using the Low Level API"): files go from folder to folder instead of through a session of the server, which
    /// takes more than twice as long.
    async fn base_backup(&self, folder: &str) -> Result<u64, MirrorError> {
        let folder = format!("{EVIDENCE_FOLDER}/{folder}");
        let owner = self.exec_shell("find its user", "stat -c %u:%g \"$1\"", Some("0"), &[], &[]).await?;
        let owner = Some(owner.trim());
        // The backup belongs to this session: should it be cut, the server forgets the backup.
        let mut session = self.connect().await?;
        let failed = |error: sqlx::Error| database_error("cannot be backed up", &error);
        begin(&mut session).await.map_err(failed)?;
        self.exec_shell("take a base backup", COPY_RUNNING, owner, &[], &[&folder]).await?;
        let end = end(&mut session).await.map_err(failed)?;
        if !end.tablespaces.is_empty() {
            return Err(MirrorError::new(
                format!("the database has tablespaces outside its data folder ({})", end.tablespaces.trim()),
                "fill the mirror from a dump without tablespaces (`pg_dump --no-tablespaces`)",
            ));
        }
        let mut arguments = vec![folder.as_str(), &end.label];
        arguments.extend(end.segments.iter().map(String::as_str));
        let said = self.exec_shell("complete a base backup", COMPLETE, owner, &[], &arguments).await?;
        let kilobytes: u64 = said.trim().parse().unwrap_or(0);
        Ok(kilobytes * 1024)
    }

    /// Replaces the data by the base backup; every connection is fenced because the server stops.
    ///
    /// # Errors
    /// When the copy fails or the server does not come back.
    pub async fn restore(&self, copy: DataCopy) -> Result<(), MirrorError> {
        let _stopped = self.stopped.lock().await;
        self.stop().await?;
        let folder = copy.folder();
        let script = format!("find \"$1\" -mindepth 1 -delete && cp -a {EVIDENCE_FOLDER}/{folder}/. \"$1\"/");
        self.beside("put the base backup back", &script, &[]).await?;
        self.start().await
    }

    /// A container of the server's own image, so that nothing else is needed, works on the volumes of a server that is
    /// stopped or gone, and reads others: volume and folder; what it says.
    pub(super) async fn beside(
        &self,
        what: &str,
        script: &str,
        others: &[(&str, &str)],
    ) -> Result<String, MirrorError> {
        let volume = |source: &str, target: &str, read_only| Mount {
            source: MountSource::Volume(source.to_owned()),
            target: target.to_owned(),
            read_only,
        };
        let mut mounts = vec![
            volume(&self.data_volume, &self.data_target, false),
            volume(&self.evidence_volume, EVIDENCE_FOLDER, false),
        ];
        mounts.extend(others.iter().map(|(source, target)| volume(source, target, true)));
        let spec = ContainerSpec {
            name: format!("{}-copy-{}", self.project.name(), uuid()),
            image: self.image.clone(),
            entrypoint: Some(vec!["sh".into(), "-euc".into(), script.to_owned(), "copy".into()]),
            command: vec![self.data_folder.clone()],
            user: Some("0".into()),
            network: Some("none".into()),
            mounts,
            labels: self.labels(),
            ..ContainerSpec::default()
        };
        let ran = self.project.engine().run_once(&spec, COPY_LIMIT).await?;
        self.judge(what, ran)
    }
}

/// What the end of a backup gives.
struct BackupEnd {
    /// Content of `backup_label`.
    label: String,
    /// Content of `tablespace_map`.
    tablespaces: String,
    /// Files of the log without which the copy is torn.
    segments: Vec<String>,
}

/// Begins a backup with a slot that keeps the log for as long as the session lives.
async fn begin(session: &mut PgConnection) -> Result<(), sqlx::Error> {
    let slot = format!("{SUPERUSER}_backup_{}", uuid().replace('-', "_"));
    sqlx::query("SELECT pg_create_physical_replication_slot($1, true, true)")
        .bind(slot)
        .execute(&mut *session)
        .await?;
    sqlx::query("SELECT pg_backup_start('fulldress', true)").execute(session).await.map(drop)
}

async fn end(session: &mut PgConnection) -> Result<BackupEnd, sqlx::Error> {
    let stopped =
        sqlx::query("SELECT lsn::text, labelfile, coalesce(spcmapfile, '') FROM pg_backup_stop(false)")
            .fetch_one(&mut *session)
            .await?;
    let label: String = stopped.try_get(1)?;
    // `START WAL LOCATION: 0/2000028 (file 000000010000000000000002)`
    let first = label.split("(file ").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
    let segments = sqlx::query_scalar(
        "SELECT name FROM pg_ls_waldir() WHERE name ~ '\\.history$' \
         OR (name ~ '^[0-9A-F]{24}$' AND name BETWEEN $1 AND pg_walfile_name($2::pg_lsn)) ORDER BY name",
    )
    .bind(first)
    .bind(stopped.try_get::<String, _>(0)?)
    .fetch_all(session)
    .await?;
    Ok(BackupEnd { label: label.clone(), tablespaces: stopped.try_get(2)?, segments })
}
