//! The private working folder of one rehearsal, and the memory of what it started.
//!
//! The folder holds a lock for as long as its owner lives, and a list of the process groups that were started.
//! A folder whose lock is free belongs to a run that was killed: whoever starts next ends its groups and deletes it.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fulldress_workloads::clock::Clock;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

/// The variable that marks every process of a run, whichever group or session it moved to.
const MARKER: &str = "FULLDRESS_RUN";
/// Others may pass through to what is theirs inside, but not look around.
const FOLDER_MODE: u32 = 0o711;
/// How often a deletion is tried again while killed processes still hold or write files.
const DELETE_TRIES: u32 = 50;
/// How long between two tries.
const DELETE_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no working folder.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A folder or file could not be made, read or deleted.
    #[error("{what} {path}: {source}; set FULLDRESS_STATE to a folder of yours that is writable")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The folder belongs to somebody else, who could replace what we run.
    #[error(
        "use {path}: it is not a folder that only you can write; delete it or set FULLDRESS_STATE to one of yours"
    )]
    NotOurs {
        /// The folder.
        path: String,
    },
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.display().to_string();
    move |source| StateError::Io { what, path, source }
}

/// One started process group, as a line of `children.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// The group, which is its leader's number.
    pid: i32,
    /// When the leader started, clock ticks since boot (field 22 of `/proc/PID/stat`): with the number it is unique.
    start_ticks: u64,
    /// For people.
    program: String,
}

/// The list of running groups, written anew with every change: it is short, and must be whole after a SIGKILL.
#[derive(Debug, Clone)]
pub(super) struct Records {
    folder: PathBuf,
    running: Arc<Mutex<BTreeMap<i32, Record>>>,
}

impl Records {
    pub(super) fn marker(&self) -> (&'static str, PathBuf) {
        (MARKER, self.folder.clone())
    }

    pub(super) fn add(&self, pid: Pid, start_ticks: u64, program: &str) {
        let pid = pid.as_raw_nonzero().get();
        self.change(|running| {
            running.insert(pid, Record { pid, start_ticks, program: program.to_owned() });
        });
    }

    pub(super) fn remove(&self, pid: Pid) {
        self.change(|running| {
            running.remove(&pid.as_raw_nonzero().get());
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<i32, Record>)) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut running);
        // A full disk must not stop the stopping: the marker in each child's environment is the second memory.
        let _best_effort = write_records(&self.folder, running.values());
    }
}

fn write_records<'record>(folder: &Path, records: impl Iterator<Item = &'record Record>) -> io::Result<()> {
    let next = folder.join("children.next");
    let mut text = Vec::new();
    for record in records {
        serde_json::to_writer(&mut text, record)?;
        text.push(b'\n');
    }
    File::create(&next)?.write_all(&text)?;
    std::fs::rename(next, folder.join("children.jsonl"))
}

/// When a process started, in clock ticks since boot; none when it is gone.
pub(super) fn start_ticks(pid: Pid) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The second field is the program's name in parentheses and may hold anything, also parentheses.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// The private working folder of one rehearsal. Dropping it ends what is still running of this run and deletes it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    records: Records,
    /// Whether the state folder was made for us, and goes with the last run in it.
    state_is_ours: bool,
    /// Held for as long as we live; the kernel frees it however we end.
    _lock: File,
}

impl RunFolder {
    /// Makes the folder under `$FULLDRESS_STATE`, or under a folder of ours in the temporary folder. What runs
    /// before left behind is ended and deleted first; the second value says what that was, one sentence each.
    ///
    /// Blocks on files, and for as long as another rehearsal is starting.
    ///
    /// # Errors
    /// A state folder that cannot be made or is not ours.
    pub fn create() -> Result<(Self, Vec<String>), StateError> {
        let ours = || std::env::temp_dir().join(format!("fulldress-{}", rustix::process::geteuid().as_raw()));
        let named = std::env::var_os("FULLDRESS_STATE").map(PathBuf::from);
        let (mut folder, swept) = Self::create_in(&named.clone().unwrap_or_else(ours))?;
        folder.state_is_ours |= named.is_none();
        Ok((folder, swept))
    }

    /// As [`RunFolder::create`], under a given state folder.
    ///
    /// # Errors
    /// As [`RunFolder::create`].
    pub fn create_in(state: &Path) -> Result<(Self, Vec<String>), StateError> {
        // One at a time: between its making and its locking, a new folder looks like a stray.
        let (state, made, _door) = enter(state)?;
        let swept = sweep(&state)?;
        let path = state.join(name());
        DirBuilder::new().mode(FOLDER_MODE).create(&path).map_err(io_error("make", &path))?;
        // The umask may have taken the bits that let another user pass.
        std::fs::set_permissions(&path, Permissions::from_mode(FOLDER_MODE))
            .map_err(io_error("open", &path))?;
        let lock_path = path.join("lock");
        let lock = lock_file(&lock_path)?;
        lock.try_lock().map_err(|error| io_error("lock", &lock_path)(error.into()))?;
        let records = Records { folder: path.clone(), running: Arc::default() };
        Ok((Self { path, records, state_is_ours: made, _lock: lock }, swept))
    }

    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn records(&self) -> Records {
        self.records.clone()
    }

    /// Whether the run of a working folder has ended, however it did: its folder is gone, or nobody holds its lock.
    ///
    /// What is no absolute path of the form that a run's folder has tells nothing about a run, and a folder that we
    /// may not read belongs to somebody else: both count as alive, since the answer decides over a removal.
    #[must_use]
    pub fn is_abandoned(path: &Path) -> bool {
        let named_by_us = path.file_name().and_then(|name| name.to_str()).is_some_and(is_run_name);
        if !path.is_absolute() || !named_by_us {
            return false;
        }
        match path.read_dir() {
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::NotFound,
        }
        match File::open(path.join("lock")) {
            // The owner's lock is exclusive, so that not even a shared one is given beside it. Ours ends here.
            Ok(lock) => lock.try_lock_shared().is_ok(),
            // A deletion left it half done.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Makes a folder inside, for the given user when we are root.
    ///
    /// # Errors
    /// The kernel's word when it cannot be made.
    pub fn folder(&self, name: &str, user: Option<&super::User>) -> Result<PathBuf, StateError> {
        let path = self.path.join(name);
        std::fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(io_error("open", &path))?;
        if let Some(user) = user {
            std::os::unix::fs::chown(&path, Some(user.uid), Some(user.gid))
                .map_err(io_error("give away", &path))?;
        }
        Ok(path)
    }

    /// Ends what is still running of this run and deletes the folder. Blocks on files.
    ///
    /// # Errors
    /// What could not be deleted.
    pub fn close(self) -> Result<(), StateError> {
        self.clear()
    }

    fn clear(&self) -> Result<(), StateError> {
        if !self.path.exists() {
            return Ok(());
        }
        end_marked(&self.path);
        delete(&self.path).map_err(io_error("delete", &self.path))?;
        if let Some(state) = self.path.parent().filter(|_| self.state_is_ours)
            && let Ok(door) = File::open(state)
            && door.try_lock().is_ok()
        {
            // It stays when other runs are in it.
            let _in_use = std::fs::remove_dir(state);
        }
        Ok(())
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // Whatever stays is a stray that the next start deletes; a destructor has nobody to tell.
        let _swept_later = self.clear();
    }
}

/// Opens and locks the state folder, which is made when it is missing; says whether it was made.
fn enter(state: &Path) -> Result<(PathBuf, bool, File), StateError> {
    let mut made = false;
    loop {
        made |= own_folder(state)?;
        let path = state.canonicalize().map_err(io_error("find", state))?;
        let door = File::open(&path).map_err(io_error("open", &path))?;
        door.lock().map_err(io_error("lock", &path))?;
        // The last run of another start may have taken the folder away while we waited for its lock.
        if let (Ok(there), Ok(ours)) = (path.metadata(), door.metadata())
            && (there.dev(), there.ino()) == (ours.dev(), ours.ino())
        {
            return Ok((path, made, door));
        }
    }
}

/// Makes the state folder, or makes sure that nobody else can put things into it; says whether it was made.
fn own_folder(state: &Path) -> Result<bool, StateError> {
    if let Some(parent) = state.parent() {
        std::fs::create_dir_all(parent).map_err(io_error("make", parent))?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(state) {
        Ok(()) => {
            let mode = Permissions::from_mode(FOLDER_MODE);
            std::fs::set_permissions(state, mode).map_err(io_error("open", state))?;
            return Ok(true);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io_error("make", state)(error)),
    }
    let meta = state.symlink_metadata().map_err(io_error("look at", state))?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw() && meta.mode() & 0o022 == 0;
    let found = StateError::NotOurs { path: state.display().to_string() };
    if meta.is_dir() && ours { Ok(false) } else { Err(found) }
}

fn lock_file(path: &Path) -> Result<File, StateError> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(io_error("open", path))
}

/// `20260131T235959Z-1a2b3c4d`: sorts by time, and two starts in one second differ.
fn name() -> String {
    let now_us = i128::from(Clock::start().epoch_unix_us());
    let now = OffsetDateTime::from_unix_timestamp_nanos(now_us * 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let utc = now.format(format).unwrap_or_else(|_| now_us.to_string());
    format!("{utc}-{:08x}", rand::random::<u32>())
}

/// Whether a name is of the form that [`name`] makes.
fn is_run_name(name: &str) -> bool {
    let digits =
        |text: &str, most: usize| text.len() == most && text.bytes().all(|byte| byte.is_ascii_digit());
    let Some((stamp, random)) = name.split_once('-') else { return false };
    let Some((day, time)) = stamp.strip_suffix('Z').and_then(|stamp| stamp.split_once('T')) else {
        return false;
    };
    digits(day, 8)
        && digits(time, 6)
        && random.len() == 8
        && random.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Ends and deletes what killed runs left. The caller holds the door's lock.
fn sweep(state: &Path) -> Result<Vec<String>, StateError> {
    let mut swept = Vec::new();
    let entries = state.read_dir().map_err(io_error("read", state))?;
    for entry in entries {
        let path = entry.map_err(io_error("read", state))?.path();
        // Somebody may have named a folder with other things in it.
        let named_by_us = path.file_name().and_then(|name| name.to_str()).is_some_and(is_run_name);
        if !named_by_us || !path.is_dir() || path.is_symlink() {
            continue;
        }
        // A folder without a lock file is one that a deletion left half done.
        let lock_path = path.join("lock");
        let _lock = match OpenOptions::new().write(true).open(&lock_path) {
            Err(_) => None,
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &lock_path)(error)),
            },
        };
        swept.extend(end_recorded(&path));
        let marked = end_marked(&path);
        if marked > 0 {
            swept.push(format!("ended {marked} more processes of {}", path.display()));
        }
        delete(&path).map_err(io_error("delete", &path))?;
        swept.push(format!("deleted {}, which a killed run left behind", path.display()));
    }
    Ok(swept)
}

/// Kills the groups in a folder's list whose leader is still the process that was recorded.
fn end_recorded(folder: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join("children.jsonl")).unwrap_or_default();
    let records = text.lines().filter_map(|line| serde_json::from_str::<Record>(line).ok());
    let mut ended = Vec::new();
    for record in records {
        let Some(pid) = Pid::from_raw(record.pid) else { continue };
        if start_ticks(pid) == Some(record.start_ticks) && kill_process_group(pid, Signal::KILL).is_ok() {
            ended.push(format!(
                "ended `{}` (process group {}), left by a killed run",
                record.program, record.pid
            ));
        }
    }
    ended
}

/// Kills every process whose first environment names the folder: those that moved to a group or session of
/// their own, and those whose start was not yet written down. Says how many.
fn end_marked(folder: &Path) -> usize {
    let mut marker = format!("{MARKER}=").into_bytes();
    marker.extend_from_slice(folder.as_os_str().as_encoded_bytes());
    let mut ended = 0;
    // A process that forks while we look may be missed once; a second look that finds nothing ends the hunt.
    for _ in 0..10 {
        let found: Vec<Pid> = processes().filter(|pid| is_marked(*pid, &marker)).collect();
        if found.is_empty() {
            break;
        }
        ended += found.iter().filter(|pid| kill_process(**pid, Signal::KILL).is_ok()).count();
        std::thread::sleep(Duration::from_millis(5));
    }
    ended
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
}

fn is_marked(pid: Pid, marker: &[u8]) -> bool {
    // A zombie has no environment any more, and reading it gives nothing.
    let environ = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    pid != rustix::process::getpid() && environ.split(|byte| *byte == 0).any(|variable| variable == marker)
}

/// Deletes a folder that processes may have filled with read-only folders, and which just killed ones still fill.
fn delete(folder: &Path) -> io::Result<()> {
    let mut tries = 0;
    loop {
        match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.exists() => return Ok(()),
            Err(_) if tries < DELETE_TRIES => {}
            ended => return ended,
        }
        open_up(folder);
        tries += 1;
        std::thread::sleep(DELETE_PAUSE);
    }
}

/// Makes every folder below writable for its owner; what fails here fails again, with a message, in the deletion.
fn open_up(folder: &Path) {
    let _best_effort = std::fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        // The entry's own type: a link is never followed out of the folder.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use rustix::process::getpid;

    use super::{RunFolder, start_ticks, write_records};

    #[test]
    fn a_folder_is_private_traversable_and_gone_when_closed() {
        let state = tempfile::tempdir().unwrap();
        let (folder, swept) = RunFolder::create_in(state.path()).unwrap();
        assert_eq!(swept, Vec::<String>::new());
        let path = folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o711);
        let deep = path.join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("file"), "text").unwrap();
        std::fs::set_permissions(&deep, Permissions::from_mode(0o500)).unwrap();
        folder.close().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_running_neighbour_is_left_alone_and_a_stray_is_deleted() {
        let state = tempfile::tempdir().unwrap();
        let (neighbour, _) = RunFolder::create_in(state.path()).unwrap();
        let stray = state.path().join("20200101T000000Z-00000000");
        std::fs::create_dir(&stray).unwrap();
        std::fs::write(stray.join("lock"), "").unwrap();
        let (_second, swept) = RunFolder::create_in(state.path()).unwrap();
        assert_eq!(swept.len(), 1, "{swept:?}");
        assert!(neighbour.path().exists() && !stray.exists());
    }

    #[test]
    fn a_run_is_abandoned_once_its_lock_is_free_or_its_folder_gone() {
        let state = tempfile::tempdir().unwrap();
        let (neighbour, _) = RunFolder::create_in(state.path()).unwrap();
        assert!(!RunFolder::is_abandoned(neighbour.path()));
        let path = neighbour.path().to_owned();
        neighbour.close().unwrap();
        assert!(RunFolder::is_abandoned(&path), "gone");
        std::fs::create_dir(&path).unwrap();
        assert!(RunFolder::is_abandoned(&path), "half deleted");
        std::fs::write(path.join("lock"), "").unwrap();
        assert!(RunFolder::is_abandoned(&path), "killed");
        let held = File::open(path.join("lock")).unwrap();
        held.lock().unwrap();
        assert!(!RunFolder::is_abandoned(&path), "held");
        assert!(!RunFolder::is_abandoned(&path.join("lock")), "not a folder of a run at all");
    }

    #[test]
    fn what_is_no_run_folders_path_is_never_abandoned() {
        for path in [
            "",
            "elsewhere:/tmp/fulldress-0/20200101T000000Z-00000000",
            "20200101T000000Z-00000000",
            "/no/such/folder",
            "/no/such/20200101T000000Z",
        ] {
            assert!(!RunFolder::is_abandoned(Path::new(path)), "{path}");
        }
        assert!(RunFolder::is_abandoned(Path::new("/no/such/20200101T000000Z-00000000")));
    }

    #[test]
    fn a_folder_that_is_not_a_run_is_never_swept() {
        let state = tempfile::tempdir().unwrap();
        let foreign = ["documents", "20200101T000000Z", "20200101T000000Z-0000000g"]
            .map(|name| state.path().join(name));
        for folder in &foreign {
            std::fs::create_dir(folder).unwrap();
        }
        let (_run, swept) = RunFolder::create_in(state.path()).unwrap();
        assert_eq!(swept, Vec::<String>::new());
        assert!(foreign.iter().all(|folder| folder.is_dir()));
    }

    #[test]
    fn a_state_folder_that_was_made_goes_with_its_last_run() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let (first, _) = RunFolder::create_in(&state).unwrap();
        let (second, _) = RunFolder::create_in(&state).unwrap();
        second.close().unwrap();
        assert!(state.is_dir());
        first.close().unwrap();
        assert!(!state.exists());
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let state = tempfile::tempdir().unwrap();
        std::fs::set_permissions(state.path(), Permissions::from_mode(0o777)).unwrap();
        let error = RunFolder::create_in(state.path()).unwrap_err().to_string();
        assert!(error.contains("FULLDRESS_STATE"), "{error}");
    }

    #[test]
    fn the_list_of_children_is_whole_after_each_change() {
        let state = tempfile::tempdir().unwrap();
        let (folder, _) = RunFolder::create_in(state.path()).unwrap();
        let us = start_ticks(getpid()).unwrap();
        folder.records().add(getpid(), us, "us");
        let text = std::fs::read_to_string(folder.path().join("children.jsonl")).unwrap();
        assert!(text.contains("\"us\"") && text.ends_with('\n'), "{text}");
        folder.records().remove(getpid());
        assert_eq!(std::fs::read_to_string(folder.path().join("children.jsonl")).unwrap(), "");
        write_records(folder.path(), [].iter()).unwrap();
    }
}
