//! Directories and small files, by ordinary buffered calls on the executor's helper thread.
//!
//! Must never run a blocking call on the executor. A panic in such a call becomes an error value
//! (glommio would leave its caller waiting for ever).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::glommio::io::OpenOptions;

use super::io_error;
use crate::{BLOCK_SIZE, random};

/// Bytes of the file that is read to see whether a device can be polled.
const PROBE_BYTES: usize = 2 * BLOCK_SIZE;

thread_local! {
    /// Devices whose polling this executor's thread has found out about.
    static PROBED_DEVICES: RefCell<BTreeSet<u64>> = RefCell::default();
}

/// Creates `path` and its parents; fine when it exists.
///
/// # Errors
/// The system's error.
pub async fn create_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    blocking(move || fs::create_dir_all(path)).await
}

/// The names in `dir`, sorted; names that are not UTF-8 are not ours and are left out.
///
/// # Errors
/// The system's error.
pub async fn list(dir: impl AsRef<Path>) -> io::Result<Vec<String>> {
    let dir = dir.as_ref().to_path_buf();
    blocking(move || {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    })
    .await
}

/// Whether `path` exists.
///
/// # Errors
/// The system's error, when it cannot be told.
pub async fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    let path = path.as_ref().to_path_buf();
    blocking(move || path.try_exists()).await
}

/// Renames a file, replacing `to`. Durable after [`sync_dir`].
///
/// # Errors
/// The system's error.
pub async fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    let (from, to) = (from.as_ref().to_path_buf(), to.as_ref().to_path_buf());
    blocking(move || fs::rename(from, to)).await
}

/// Removes a file. Durable after [`sync_dir`].
///
/// # Errors
/// The system's error.
pub async fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    let path = path.as_ref().to_path_buf();
    blocking(move || fs::remove_file(path)).await
}

/// Makes creations, renames and removals in `dir` durable.
///
/// # Errors
/// The system's error.
pub async fn sync_dir(dir: impl AsRef<Path>) -> io::Result<()> {
    let dir = dir.as_ref().to_path_buf();
    blocking(move || fs::File::open(dir)?.sync_all()).await
}

/// The whole contents of a small file.
///
/// # Errors
/// The system's error.
pub async fn read(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref().to_path_buf();
    blocking(move || fs::read(path)).await
}

/// Replaces the contents of a small file: afterwards, also after a crash at any point, the file
/// holds the old contents or the new, never a mixture.
///
/// # Errors
/// The system's error; the old contents remain, or it is unknown whether the new are durable.
pub async fn write_atomic(path: impl AsRef<Path>, contents: &[u8]) -> io::Result<()> {
    let (path, contents) = (path.as_ref().to_path_buf(), contents.to_vec());
    blocking(move || {
        let mut temporary = path.clone().into_os_string();
        temporary.push(".tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&contents)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &path)?;
        fs::File::open(parent(&path))?.sync_all()
    })
    .await
}

/// Exclusive use of a directory, among processes, until dropped or the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: fs::File,
}

/// Locks `dir` by its file `LOCK`.
///
/// # Errors
/// `WouldBlock` when another process holds it; else the system's error.
pub async fn lock_dir(dir: impl AsRef<Path>) -> io::Result<DirLock> {
    let path = dir.as_ref().join("LOCK");
    blocking(move || {
        let file = fs::File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(DirLock { _file: file }),
            Err(fs::TryLockError::WouldBlock) => Err(io::Error::from(io::ErrorKind::WouldBlock)),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    })
    .await
}

/// Bytes that may still be written to the file system of `path`.
///
/// # Errors
/// The system's error.
pub async fn free_space(path: impl AsRef<Path>) -> io::Result<u64> {
    let path = path.as_ref().to_path_buf();
    blocking(move || free_space_now(&path)).await
}

#[expect(unsafe_code, reason = "std has no statvfs")]
pub(super) fn free_space_now(path: &Path) -> io::Result<u64> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends in a zero byte and `stat` has room for the answer.
    if unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so it filled `stat` in.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Makes direct I/O in `dir` safe on this executor. glommio reads from the first file it opens on
/// a device to see whether the device can be polled; on an empty file that read says yes, and every
/// later read on the device fails. So the first file must not be empty. Cheap when done before;
/// [`crate::File`] calls it by itself.
///
/// # Errors
/// The system's error: the directory is missing, not writable, or cannot do direct I/O.
pub async fn prepare_directory(dir: impl AsRef<Path>) -> io::Result<()> {
    let dir = dir.as_ref();
    let device = {
        let dir = dir.to_path_buf();
        // One stat of a directory that is about to be used: not worth a trip to another thread.
        fs::metadata(dir)?.dev()
    };
    if PROBED_DEVICES.with_borrow(|probed| probed.contains(&device)) {
        return Ok(());
    }
    let path = dir.join(format!(".probe-{:016x}", random::random_u64()));
    let probed = probe(&path).await;
    let removed = remove(&path).await;
    probed?;
    removed?;
    PROBED_DEVICES.with_borrow_mut(|probed| probed.insert(device));
    Ok(())
}

/// The probe for the directory that `path` is in. A directory that cannot be written is left to
/// fail, or not, when the file is opened: a read-only file is not empty.
pub(super) async fn prepare_parent(path: &Path) -> io::Result<()> {
    match prepare_directory(parent(path)).await {
        Err(error) => match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ENOSPC) => Ok(()),
            _ => Err(error),
        },
        Ok(()) => Ok(()),
    }
}

async fn probe(path: &Path) -> io::Result<()> {
    let written = path.to_path_buf();
    blocking(move || {
        let mut file = fs::File::create_new(written)?;
        file.write_all(&[0; PROBE_BYTES])?;
        file.sync_all()
    })
    .await?;
    let file = OpenOptions::new().read(true).write(true).dma_open(path).await.map_err(io_error)?;
    let read = file.read_at_aligned(0, BLOCK_SIZE).await.map_err(io_error);
    file.close().await.map_err(io_error)?;
    read.map(|_| ())
}

/// The directory of `path`; the current one when it names none.
fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

/// Runs `call` on the executor's helper thread.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let guarded = move || catch_unwind(AssertUnwindSafe(call));
    match ::glommio::executor().spawn_blocking(guarded).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::other("a blocking call panicked")),
    }
}
