//! Reads the files of a server's log: in pieces, across rotation, and with a last line that is still being written.
//!
//! `Recorder` and the trial of two runners poll it; `line` says what each line means.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use sqlx::PgConnection;

use super::line::{Parsed, parse_line};
use super::{LogEvents, RESOLUTION_US};

/// Most bytes read from one file at a time.
const CHUNK_BYTES: u64 = 1 << 20;

/// Longest line that is kept while its end is missing, bytes.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Why the server's log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The folder or a file in it could not be read.
    #[error("read the server log in {}: {source}; check log_directory and its permissions", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The server refused to hand out its log.
    #[error("read the server log through SQL: {0}; the role needs pg_monitor and pg_read_server_files")]
    Sql(#[from] sqlx::Error),
    /// The mark at the log's end could not be written.
    #[error("mark the end of the log: {0}; the role needs to be a superuser")]
    Marker(sqlx::Error),
}

/// Where the log is.
#[derive(Debug, Clone)]
pub enum LogPlace {
    /// A folder of this machine.
    Folder(PathBuf),
    /// The server's own log folder, read over a connection.
    Server,
}

/// Reads a log incrementally: across rotation, and with a last line that is still being written.
#[derive(Debug)]
pub struct LogReader {
    place: LogPlace,
    database: String,
    since_us: i64,
    files: BTreeMap<String, FileState>,
}

#[derive(Debug, Default)]
pub(super) struct FileState {
    offset: u64,
    torn: Vec<u8>,
}

impl FileState {
    /// Takes in bytes and hands out the complete lines.
    pub(super) fn feed(&mut self, bytes: &[u8], (database, since_us): (&str, i64), into: &mut LogEvents) {
        self.offset += bytes.len() as u64;
        self.torn.extend_from_slice(bytes);
        let Some(end) = self.torn.iter().rposition(|byte| *byte == b'\n') else {
            if self.torn.len() > LINE_BYTES_MAX {
                into.malformed += 1;
                self.torn.clear();
            }
            return;
        };
        let rest = self.torn.split_off(end + 1);
        let complete = std::mem::replace(&mut self.torn, rest);
        for line in complete.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match parse_line(line, database) {
                Parsed::Event(event) if event.at_us + RESOLUTION_US >= since_us => into.events.push(*event),
                Parsed::Event(_) | Parsed::Irrelevant => {}
                Parsed::Malformed => into.malformed += 1,
            }
        }
    }
}

impl LogReader {
    /// A reader of what sessions of a database, and the server itself, have written since an instant in server
    /// microseconds since 1970.
    #[must_use]
    pub const fn new(place: LogPlace, database: String, since_us: i64) -> Self {
        Self { place, database, since_us, files: BTreeMap::new() }
    }

    /// Reads what was added since the last time. [`LogPlace::Server`] needs the connection.
    ///
    /// # Errors
    /// [`LogError`] where the log cannot be read; what was read before stays.
    pub async fn poll(
        &mut self,
        mut connection: Option<&mut PgConnection>,
        into: &mut LogEvents,
    ) -> Result<(), LogError> {
        for (name, size) in self.list(connection.as_deref_mut()).await? {
            let known = self.files.entry(name.clone()).or_default();
            if known.offset > size {
                // Another file under the same name, as after the restore of a data folder.
                *known = FileState::default();
            }
            loop {
                let offset = self.files.entry(name.clone()).or_default().offset;
                if offset >= size {
                    break;
                }
                let bytes = self.read(connection.as_deref_mut(), &name, offset).await?;
                if bytes.is_empty() {
                    break;
                }
                self.files.entry(name.clone()).or_default().feed(
                    &bytes,
                    (&self.database, self.since_us),
                    into,
                );
            }
        }
        Ok(())
    }

    async fn list(&self, connection: Option<&mut PgConnection>) -> Result<Vec<(String, u64)>, LogError> {
        match (&self.place, connection) {
            (LogPlace::Folder(folder), _) => {
                list_folder(folder).map_err(|source| LogError::Folder { folder: folder.clone(), source })
            }
            (LogPlace::Server, Some(connection)) => {
                let rows: Vec<(String, i64)> = sqlx::query_as(
                    "SELECT name, size FROM pg_catalog.pg_ls_logdir() WHERE name LIKE '%.json' ORDER BY name",
                )
                .fetch_all(connection)
                .await?;
                Ok(rows.into_iter().map(|(name, size)| (name, u64::try_from(size).unwrap_or(0))).collect())
            }
            (LogPlace::Server, None) => Ok(Vec::new()),
        }
    }

    async fn read(
        &self,
        connection: Option<&mut PgConnection>,
        name: &str,
        offset: u64,
    ) -> Result<Vec<u8>, LogError> {
        match (&self.place, connection) {
            (LogPlace::Folder(folder), _) => {
                let path = folder.join(name);
                read_chunk(&path, offset).map_err(|source| LogError::Folder { folder: folder.clone(), source })
            }
            (LogPlace::Server, Some(connection)) => Ok(sqlx::query_scalar(
                "SELECT pg_catalog.pg_read_binary_file(current_setting('log_directory') || '/' || $1, $2, $3)",
            )
            .bind(name)
            .bind(i64::try_from(offset).unwrap_or(i64::MAX))
            .bind(CHUNK_BYTES.cast_signed())
            .fetch_one(connection)
            .await?),
            (LogPlace::Server, None) => Ok(Vec::new()),
        }
    }
}

fn list_folder(folder: &std::path::Path) -> std::io::Result<Vec<(String, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".json") {
            files.push((name, entry.metadata()?.len()));
        }
    }
    files.sort();
    Ok(files)
}

fn read_chunk(path: &std::path::Path, offset: u64) -> std::io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(CHUNK_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}
