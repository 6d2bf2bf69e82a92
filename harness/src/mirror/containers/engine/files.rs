//! A container's files, through the engine's own archive and never by a program inside: an image need not have one,
//! and a program's own traces would stand in the change list.
//!
//! The engine reads volumes and bind mounts too, but not mounts of memory, and it leaves out sockets.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::ChangeType;
use bollard::query_parameters::{
    ContainerArchiveInfoOptionsBuilder, DownloadFromContainerOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tar::{Archive, Builder, EntryType, Header};
use tokio_util::io::StreamReader;

use super::super::super::MirrorError;
use super::{ChangeKind, Engine, EntryKind, FileEntry, NewFile, ReadFile, status};

/// Longest that an exchange of files may take.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(300);
/// Longest file that is read whole.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// Most paths of one tree.
const ENTRIES_MAX: usize = 500_000;
/// Mode of a folder that is made on the way.
const FOLDER_MODE: u32 = 0o755;
/// Bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o7777;

impl Engine {
    /// What changed in a container's own layer since it was made; what is in volumes and other mounts is not in it.
    ///
    /// # Errors
    /// When there is no such container.
    pub async fn changes(&self, id: &str) -> Result<Vec<(ChangeKind, String)>, MirrorError> {
        let what = format!("list the changes of the container {id}");
        let changes = self.call(&what, self.docker.container_changes(id)).await?;
        let changes = changes.into_iter().flatten().map(|change| {
            let kind = match change.kind {
                ChangeType::_0 => ChangeKind::Modified,
                ChangeType::_1 => ChangeKind::Added,
                ChangeType::_2 => ChangeKind::Deleted,
            };
            (kind, change.path)
        });
        Ok(changes.collect())
    }

    /// One path and, for a file, its content; none when nothing stands there. A symbolic link is not followed.
    ///
    /// # Errors
    /// When there is no such container, or the file is longer than 64 MiB.
    pub async fn read_file(&self, id: &str, path: &str) -> Result<Option<ReadFile>, MirrorError> {
        let what = format!("read {path} of the container {id}");
        let reading = async {
            let Some(archive) = self.archive(id, path).await? else { return Ok(None) };
            let mut archive = Archive::new(archive);
            let mut entries = archive.entries()?;
            let Some(mut entry) = entries.try_next().await? else { return Ok(None) };
            let length = entry.header().size()?;
            if length > FILE_BYTES_MAX {
                return Err(std::io::Error::other(format!(
                    "it has {length} bytes, and {FILE_BYTES_MAX} are the most"
                ))
                .into());
            }
            let (mut entry_facts, link) =
                describe(path.to_owned(), entry.header(), entry.link_name_bytes()?.as_deref())?;
            let mut content = Vec::new();
            if link.is_none() && matches!(entry_facts.kind, EntryKind::File { .. }) {
                entry.read_to_end(&mut content).await?;
                entry_facts.kind = EntryKind::File { sha256: hex(Sha256::digest(&content)), bytes: length };
            }
            Ok(Some(ReadFile { entry: entry_facts, content }))
        };
        self.within(EXCHANGE_LIMIT, &what, reading).await
    }

    /// A path and everything below it, sorted by path; empty when nothing stands there. Symbolic links are not
    /// followed; a file with several names is there once for each.
    ///
    /// # Errors
    /// When there is no such container, or there are more than 500,000 paths.
    pub async fn read_tree(&self, id: &str, path: &str) -> Result<Vec<FileEntry>, MirrorError> {
        let what = format!("read the tree {path} of the container {id}");
        let reading = async {
            match self.archive(id, path).await? {
                Some(archive) => Ok(read_archive(archive, path).await?),
                None => Ok(Vec::new()),
            }
        };
        self.within(EXCHANGE_LIMIT, &what, reading).await
    }

    /// Puts files into a container, running or not; what stood at a path is replaced.
    ///
    /// # Errors
    /// When there is no such container, or a path cannot be written.
    pub async fn write_files(&self, id: &str, files: &[NewFile]) -> Result<(), MirrorError> {
        let what =
            format!("write {} into the container {id}", files.first().map_or("nothing", |file| &file.path));
        let mut missing = Vec::new();
        for folder in folders_above(files) {
            // The engine would make them too, with whatever mode its own umask leaves.
            if !self.stands(id, &folder, &what).await? {
                missing.push(folder);
            }
        }
        let packed = async { Ok(pack(&missing, files).await?) };
        let archive = self.call(&what, packed).await?;
        let options = UploadToContainerOptionsBuilder::new().path("/").build();
        let body = bollard::body_full(Bytes::from(archive));
        self.within(EXCHANGE_LIMIT, &what, self.docker.upload_to_container(id, Some(options), body)).await
    }

    /// Whether anything stands at a path.
    async fn stands(&self, id: &str, path: &str, what: &str) -> Result<bool, MirrorError> {
        let options = ContainerArchiveInfoOptionsBuilder::new().path(path).build();
        let looking = async {
            match self.docker.get_container_archive_info(id, Some(options)).await {
                Ok(_) => Ok(true),
                Err(error) if status(&error) == Some(404) => {
                    // The same status stands for a container that is gone.
                    self.docker.inspect_container(id, None).await.map(|_| false)
                }
                Err(error) => Err(error),
            }
        };
        self.call(what, looking).await
    }

    /// A path and everything below it as a tar; none when nothing stands there.
    async fn archive(
        &self,
        id: &str,
        path: &str,
    ) -> Result<Option<impl AsyncRead + Unpin + Send + use<>>, Error> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut bytes = Box::pin(self.docker.download_from_container(id, Some(options)));
        let first = match bytes.try_next().await {
            // The same status stands for a container that is gone.
            Err(error) if status(&error) == Some(404) => {
                return self.docker.inspect_container(id, None).await.map(|_| None);
            }
            first => first?,
        };
        let all = stream::iter(first.map(Ok)).chain(bytes);
        Ok(Some(StreamReader::new(Box::pin(
            all.map_err(|error| std::io::Error::other(super::words(&error))),
        ))))
    }
}

async fn read_archive(archive: impl AsyncRead + Unpin + Send, top: &str) -> std::io::Result<Vec<FileEntry>> {
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries()?;
    let mut tree: BTreeMap<String, FileEntry> = BTreeMap::new();
    while let Some(mut entry) = entries.try_next().await? {
        if tree.len() >= ENTRIES_MAX {
            return Err(std::io::Error::other(format!("there are more than {ENTRIES_MAX} paths")));
        }
        let path = place(top, &String::from_utf8_lossy(&entry.path_bytes()?));
        let link = entry.link_name_bytes()?.map(std::borrow::Cow::into_owned);
        let (mut facts, twin) = describe(path.clone(), entry.header(), link.as_deref())?;
        if let Some(twin) = twin {
            // A second name comes after the first and has no content of its own.
            if let Some(first) = tree.get(&place(top, &twin)) {
                facts.kind = first.kind.clone();
            }
        } else if let EntryKind::File { sha256, bytes } = &mut facts.kind {
            (*sha256, *bytes) = digest(&mut entry).await?;
        }
        tree.insert(path, facts);
    }
    Ok(tree.into_values().collect())
}

/// The absolute path of an archive's entry: its first part is the last part of the path that was asked for.
fn place(top: &str, name: &str) -> String {
    let top = top.trim_end_matches('/');
    let name = name.trim_start_matches("./").trim_matches('/');
    let below = if top.is_empty() { Some(name) } else { name.split_once('/').map(|(_, below)| below) };
    match below.filter(|below| !below.is_empty() && *below != ".") {
        Some(below) => format!("{top}/{below}"),
        None if top.is_empty() => "/".to_owned(),
        None => top.to_owned(),
    }
}

/// The facts of an entry, still without its content; for a second name of a file also the first one.
fn describe(
    path: String,
    header: &Header,
    link: Option<&[u8]>,
) -> std::io::Result<(FileEntry, Option<String>)> {
    let link = link.map(|name| String::from_utf8_lossy(name).into_owned());
    let kind = header.entry_type();
    let twin = (kind == EntryType::Link).then(|| link.clone()).flatten();
    let kind = match kind {
        EntryType::Directory => EntryKind::Folder,
        EntryType::Symlink => EntryKind::Link(link.unwrap_or_default()),
        EntryType::Char | EntryType::Block | EntryType::Fifo => EntryKind::Special,
        _ => EntryKind::File { sha256: hex(Sha256::digest(b"")), bytes: 0 },
    };
    let mode = header.mode()? & MODE_BITS;
    Ok((FileEntry { path, kind, mode, uid: header.uid()?, gid: header.gid()? }, twin))
}

async fn digest(content: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(String, u64)> {
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut bytes = 0_u64;
    loop {
        let length = content.read(&mut buffer).await?;
        if length == 0 {
            return Ok((hex(digest.finalize()), bytes));
        }
        digest.update(&buffer[..length]);
        bytes += length as u64;
    }
}

fn hex(digest: impl std::fmt::LowerHex) -> String {
    format!("{digest:x}")
}

/// Every folder above the files, those nearer to the root first.
fn folders_above(files: &[NewFile]) -> std::collections::BTreeSet<String> {
    let mut folders = std::collections::BTreeSet::new();
    for file in files {
        let mut path = file.path.as_str();
        while let Some((above, _)) = path.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
            folders.insert(above.to_owned());
            path = above;
        }
    }
    folders
}

async fn pack(folders: &[String], files: &[NewFile]) -> std::io::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for folder in folders {
        let mut header = header(EntryType::Directory, FOLDER_MODE, 0, 0, 0);
        archive.append_data(&mut header, relative(folder), tokio::io::empty()).await?;
    }
    for file in files {
        let mut header = header(EntryType::Regular, file.mode, file.uid, file.gid, file.content.len() as u64);
        archive.append_data(&mut header, relative(&file.path), file.content.as_slice()).await?;
    }
    archive.into_inner().await
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

fn header(kind: EntryType, mode: u32, uid: u64, gid: u64, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
    header.set_mtime(fulldress_workloads::clock::Clock::start().epoch_unix_us() / 1_000_000);
    header
}

#[cfg(test)]
mod tests {
    use super::{NewFile, folders_above, place};

    #[test]
    fn an_archives_name_becomes_an_absolute_path() {
        for (top, name, path) in [
            ("/etc/storefront", "storefront/", "/etc/storefront"),
            ("/etc/storefront/", "storefront/a/b", "/etc/storefront/a/b"),
            ("/etc/hosts", "hosts", "/etc/hosts"),
            ("/", "/", "/"),
            ("/", "./", "/"),
            ("/", "etc/hosts", "/etc/hosts"),
            ("/", "/etc/hosts", "/etc/hosts"),
        ] {
            assert_eq!(place(top, name), path, "{top} {name}");
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let file =
            |path: &str| NewFile { path: path.to_owned(), content: Vec::new(), mode: 0o644, uid: 0, gid: 0 };
        let folders: Vec<String> =
            folders_above(&[file("/b/c/d"), file("/a"), file("/b/e")]).into_iter().collect();
        assert_eq!(folders, ["/b", "/b/c"]);
    }
}
