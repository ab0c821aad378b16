//! Directories and small files on the simulated disk.
//!
//! Owns the backend side of `crate::fs`. Must never make a name durable that was not synced:
//! only `write_atomic` syncs by itself.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::Disk;
use super::fault::Operation;
use super::file::{self, File};
use super::machine::Machine;
use super::task::spawn;
use super::tree::ENOENT;

/// Makes a directory and those above it. Their names are durable after `sync_dir` of each parent.
///
/// # Errors
/// ENOTDIR, or as injected.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_owned();
    let owned = path.clone();
    let disk = disk();
    disk.change_names(Operation::CreateDirectory, &path, move |inner| {
        inner.tree.create_directory_all(&owned)
    })
    .await
}

/// Names in a directory, sorted.
///
/// # Errors
/// ENOENT, ENOTDIR.
pub async fn list(path: impl AsRef<Path>) -> io::Result<Vec<String>> {
    disk().with(|inner| {
        let node = inner.tree.lookup(path.as_ref())?;
        Ok(inner.tree.directory(node)?.visible.keys().cloned().collect())
    })
}

/// Whether a path leads to something.
///
/// # Errors
/// ENOTDIR.
pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    match disk().with(|inner| inner.tree.lookup(path.as_ref())) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves a name, replacing a file of the new name.
///
/// # Errors
/// ENOENT, or as injected.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    rename_on(&disk(), from.as_ref(), to.as_ref()).await
}

/// Removes a file.
///
/// # Errors
/// ENOENT, EISDIR, or as injected.
pub async fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    file::remove(&disk(), path.as_ref()).await
}

/// Makes the names in a directory durable.
///
/// # Errors
/// EIO by injection: whether the names survive a crash is not known until a later one succeeds.
pub async fn sync_dir(path: impl AsRef<Path>) -> io::Result<()> {
    disk().sync_directory(path.as_ref()).await
}

/// The whole of a file.
///
/// # Errors
/// ENOENT, EISDIR, or EIO by injection or of an unreadable sector.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let disk = disk();
    let path = path.as_ref();
    let (node, len) = disk.with(|inner| {
        let node = inner.tree.lookup(path)?;
        Ok::<_, io::Error>((node, inner.tree.file(node)?.visible.len()))
    })?;
    disk.read(path, node, 0, len).await
}

/// Replaces a file by `bytes`: after a crash the old file is there or the new one, whole.
///
/// # Errors
/// As injected; the old file remains, or it is unknown whether the new one is durable.
pub async fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
    let (disk, path, bytes) = (disk(), path.as_ref().to_owned(), bytes.to_vec());
    // As in the real world it goes on when the caller has gone.
    let task = spawn(async move { write_atomic_on(&disk, &path, &bytes).await });
    task.await.unwrap_or_else(|| Err(io::Error::other("the write task ended early")))
}

async fn write_atomic_on(disk: &Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let temporary = temporary_path(path);
    if disk.with(|inner| inner.tree.lookup(&temporary)).is_ok() {
        file::remove(disk, &temporary).await?;
    }
    file::write_new(disk, &temporary, bytes).await?;
    rename_on(disk, &temporary, path).await?;
    disk.sync_directory(parent).await
}

/// Locks a directory, by its file `LOCK`, against a second process; freed when dropped.
///
/// # Errors
/// `WouldBlock` when another process holds it.
pub async fn lock_dir(dir: impl AsRef<Path>) -> io::Result<DirLock> {
    let disk = disk();
    let path = dir.as_ref().join("LOCK");
    if !exists(&path).await? {
        drop(File::create(&path, 0).await?);
    }
    let token = disk.lock(&path).ok_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))?;
    Ok(DirLock { disk, path, token })
}

/// Space left on the disk.
///
/// # Errors
/// None, here.
pub async fn free_space(_path: impl AsRef<Path>) -> io::Result<u64> {
    Ok(disk().free_bytes())
}

/// Whether direct I/O works in a directory: here it does, when there is one.
///
/// # Errors
/// ENOENT, ENOTDIR.
pub async fn prepare_directory(dir: impl AsRef<Path>) -> io::Result<()> {
    list(dir).await.map(|_| ())
}

/// A lock on a directory.
pub struct DirLock {
    disk: Disk,
    path: PathBuf,
    token: u64,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        self.disk.unlock(&self.path, self.token);
    }
}

impl fmt::Debug for DirLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("DirLock").field("path", &self.path).finish_non_exhaustive()
    }
}

fn disk() -> Disk {
    Machine::current().disk()
}

async fn rename_on(disk: &Disk, from: &Path, to: &Path) -> io::Result<()> {
    let (owned_from, owned_to) = (from.to_owned(), to.to_owned());
    disk.change_names(Operation::Rename, to, move |inner| inner.tree.rename(&owned_from, &owned_to))
        .await
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}
