//! Direct-I/O files on the simulated disk.
//!
//! Owns an open file. Must never accept a position, a length or a buffer that direct I/O would
//! refuse: every one is a multiple of 4096 and a write takes a whole frozen buffer.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::buffer::Slice;
use super::disk::Disk;
use super::fault::Operation;
use super::machine::Machine;
use super::task::spawn;
use super::tree::{ENOSPC, Inode, error};
use crate::BLOCK_SIZE;

/// A file opened for direct reads and writes.
pub struct File {
    disk: Disk,
    node: Inode,
    path: PathBuf,
}

impl File {
    /// Makes a new file of `len` zero bytes; an existing one is an error.
    ///
    /// # Errors
    /// As a system would say it; on one the file does not exist.
    pub async fn create(path: impl AsRef<Path>, len: u64) -> io::Result<Self> {
        assert_aligned(len);
        let disk = Machine::current().disk();
        let path = path.as_ref().to_owned();
        let node = disk.create(&path, len).await?;
        Ok(Self { disk, node, path })
    }

    /// Opens an existing file.
    ///
    /// # Errors
    /// ENOENT, EISDIR.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let disk = Machine::current().disk();
        let path = path.as_ref().to_owned();
        let node = disk.with(|inner| {
            let node = inner.tree.lookup(&path)?;
            inner.tree.file_mut(node)?.open_count += 1;
            Ok::<Inode, io::Error>(node)
        })?;
        Ok(Self { disk, node, path })
    }

    /// Reads `len` bytes at `position`; fewer at the end of the file, none beyond it.
    ///
    /// # Errors
    /// EIO by injection or of an unreadable sector.
    pub async fn read_at(&self, position: u64, len: usize) -> io::Result<Slice> {
        assert_aligned(position);
        assert_aligned(len as u64);
        assert!(len > 0, "a read must ask for something");
        let bytes = self.disk.read(&self.path, self.node, position, len as u64).await?;
        Ok(Slice::from(bytes))
    }

    /// Writes a whole buffer at `position`; answers how many bytes were stored: all of them. An
    /// operation that was issued goes on to its end when the future is dropped.
    ///
    /// # Errors
    /// As a system would say it; some blocks may have been written. A disk that is full after a
    /// part of the buffer says ENOSPC.
    pub async fn write_at(&self, data: &Slice, position: u64) -> io::Result<usize> {
        assert_aligned(position);
        assert!(data.is_whole_buffer(), "only a whole frozen buffer can be written");
        let written = self.disk.write(&self.path, self.node, position, data.clone()).await?;
        if written == data.len() {
            return Ok(written);
        }
        // A task of its own owns the rest, so that a dropped caller leaves no half-known write.
        let (disk, path, node) = (self.disk.clone(), self.path.clone(), self.node);
        let data = data.clone();
        let rest =
            spawn(async move { write_rest(&disk, &path, node, position, data, written).await });
        rest.await.unwrap_or_else(|| Err(io::Error::other("the write task ended early")))
    }

    /// As [`Self::write_at`], and durable when it is complete; other writes are as before.
    ///
    /// # Errors
    /// Those of [`Self::write_at`] and [`Self::sync_data`].
    pub async fn write_durable_at(&self, data: &Slice, position: u64) -> io::Result<usize> {
        let written = self.write_at(data, position).await?;
        let range = position..position + data.len() as u64;
        self.disk.flush(&self.path, self.node, range).await?;
        Ok(written)
    }

    /// Makes durable the writes that completed before this call, and the length.
    ///
    /// # Errors
    /// EIO by injection: what it covered is lost, the next one succeeds. Never retry.
    pub async fn sync_data(&self) -> io::Result<()> {
        self.disk.flush(&self.path, self.node, 0..u64::MAX).await
    }

    /// The length as reads see it.
    ///
    /// # Errors
    /// None, here.
    pub async fn len(&self) -> io::Result<u64> {
        self.disk.with(|inner| inner.tree.file(self.node).map(|file| file.visible.len()))
    }

    /// Sets the length; bytes beyond the old one are zero.
    ///
    /// # Errors
    /// ENOSPC, or as injected.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        assert_aligned(len);
        self.disk.resize(&self.path, self.node, len).await
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes it.
    ///
    /// # Errors
    /// None, here.
    pub async fn close(self) -> io::Result<()> {
        drop(self);
        Ok(())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        self.disk.with(|inner| {
            if let Ok(file) = inner.tree.file_mut(self.node) {
                file.open_count = file.open_count.saturating_sub(1);
            }
        });
    }
}

impl fmt::Debug for File {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("File").field("path", &self.path).finish_non_exhaustive()
    }
}

fn assert_aligned(bytes: u64) {
    assert!(bytes.is_multiple_of(BLOCK_SIZE as u64), "{bytes} is not a whole number of blocks");
}

/// Goes on after a short write. A block that was written in part is written again, as direct I/O
/// wants it; where not even one block is taken the disk is full, as the real backend has it.
async fn write_rest(
    disk: &Disk,
    path: &Path,
    node: Inode,
    position: u64,
    data: Slice,
    mut written: usize,
) -> io::Result<usize> {
    let mut stored = 0;
    loop {
        let complete = written - written % BLOCK_SIZE;
        if complete == 0 {
            return Err(error(ENOSPC));
        }
        stored += complete;
        if stored >= data.len() {
            return Ok(stored);
        }
        let rest = data.slice(stored..data.len());
        written = disk.write(path, node, position + stored as u64, rest).await?;
    }
}

/// Writes a new file with ordinary buffered calls and makes its bytes durable.
pub(super) async fn write_new(disk: &Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let node = disk.create(path, 0).await?;
    let file = File { disk: disk.clone(), node, path: path.to_owned() };
    let data = Slice::from(bytes.to_vec());
    let mut stored = 0;
    while stored < data.len() {
        let rest = data.slice(stored..data.len());
        let written = disk.write(path, file.node, stored as u64, rest).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero));
        }
        stored += written;
    }
    file.sync_data().await
}

/// Removes a file's name; a missing one is an error.
pub(super) async fn remove(disk: &Disk, path: &Path) -> io::Result<()> {
    let owned = path.to_owned();
    disk.change_names(Operation::Remove, path, move |inner| inner.tree.remove(&owned)).await
}
