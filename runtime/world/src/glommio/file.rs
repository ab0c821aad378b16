//! Files on direct I/O: aligned reads and writes that bypass the page cache.
//!
//! Must never be used for small metadata files (see `fs`). Every position and length is a multiple
//! of `BLOCK_SIZE`. Invariants: a write or sync that was started runs to its end also when its
//! caller's future is dropped, and holds its memory until then; errors keep their system number.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use ::glommio::io::{DmaFile, OpenOptions};

use super::buffer::{Buffer, Slice};
use super::task::spawn;
use super::{fs, io_error};
use crate::BLOCK_SIZE;

/// An open file. Dropping it closes it in the background.
pub struct File {
    file: Rc<DmaFile>,
    /// The same file, opened so that a write is durable when it is complete.
    durable: RefCell<Option<Rc<DmaFile>>>,
    path: PathBuf,
}

impl File {
    /// Creates `path`, which must not exist, with room for `len` bytes that read as zeros.
    ///
    /// # Errors
    /// The system's error; on one the file does not exist.
    pub async fn create(path: impl AsRef<Path>, len: u64) -> io::Result<Self> {
        assert_block_multiple(len);
        let path = path.as_ref();
        fs::prepare_parent(path).await?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        let file = options.dma_open(path).await.map_err(io_error)?;
        let file = Self::new(file, path);
        if len == 0 {
            return Ok(file);
        }
        match file.allocate(len).await {
            Ok(()) => Ok(file),
            Err(error) => {
                drop(file);
                drop(fs::remove(path).await);
                Err(error)
            }
        }
    }

    /// Opens an existing file, for reading only when it must not be written.
    ///
    /// # Errors
    /// The system's error.
    pub async fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let path = path.as_ref();
        fs::prepare_parent(path).await?;
        let file = match OpenOptions::new().read(true).write(true).dma_open(path).await {
            Ok(file) => Ok(file),
            Err(error) => match error.raw_os_error() {
                Some(libc::EACCES | libc::EPERM | libc::EROFS) => DmaFile::open(path).await,
                _ => Err(error),
            },
        };
        file.map(|file| Self::new(file, path)).map_err(io_error)
    }

    /// Reads `len` bytes at `pos`; fewer at the end of the file, none beyond it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn read_at(&self, pos: u64, len: usize) -> io::Result<Slice> {
        assert_block_multiple(pos);
        assert_block_multiple(len as u64);
        assert!(len > 0, "a read must ask for something");
        let result = self.file.read_at_aligned(pos, len).await.map_err(io_error)?;
        Ok(Slice::from_read(result))
    }

    /// Writes `slice`, which must be a whole frozen [`Buffer`], at `pos`. Answers how many bytes
    /// were written: all of them.
    ///
    /// # Errors
    /// The system's error; some blocks may have been written. No space left is `ENOSPC` (28), also
    /// when the device took a part.
    pub async fn write_at(&self, slice: &Slice, pos: u64) -> io::Result<usize> {
        assert_block_multiple(pos);
        assert!(slice.whole_buffer().is_some(), "only a whole frozen buffer can be written");
        let (file, slice) = (Rc::clone(&self.file), slice.clone());
        // A task of its own owns the write, so that a dropped caller leaves no half-known write.
        match spawn(async move { write_whole(&file, slice, pos).await }).await {
            Some(result) => result,
            None => Err(io::Error::other("the write task ended early")),
        }
    }

    /// As [`Self::write_at`], and durable when it is complete (`O_DSYNC`): one round trip where a
    /// write and [`Self::sync_data`] take two. It says nothing of writes before it.
    ///
    /// # Errors
    /// Those of [`Self::write_at`] and [`Self::sync_data`]: nothing is known of what is durable.
    pub async fn write_durable_at(&self, slice: &Slice, pos: u64) -> io::Result<usize> {
        assert_block_multiple(pos);
        assert!(slice.whole_buffer().is_some(), "only a whole frozen buffer can be written");
        let Some(file) = self.opened_durable().await else {
            let written = self.write_at(slice, pos).await?;
            self.sync_data().await?;
            return Ok(written);
        };
        let slice = slice.clone();
        match spawn(async move { write_whole(&file, slice, pos).await }).await {
            Some(result) => result,
            None => Err(io::Error::other("the write task ended early")),
        }
    }

    /// The same file, opened with `O_DSYNC`; none where that cannot be.
    async fn opened_durable(&self) -> Option<Rc<DmaFile>> {
        let opened = self.durable.borrow().clone();
        if opened.is_some() {
            return opened;
        }
        // By its descriptor: the name may be another file's by now.
        let own = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DSYNC);
        let file = Rc::new(options.dma_open(own).await.ok()?);
        *self.durable.borrow_mut() = Some(Rc::clone(&file));
        Some(file)
    }

    /// Makes everything written before durable.
    ///
    /// # Errors
    /// The system's error. After one, nothing is known about what is durable: never retry.
    pub async fn sync_data(&self) -> io::Result<()> {
        let file = Rc::clone(&self.file);
        match spawn(async move { file.fdatasync().await.map_err(io_error) }).await {
            Some(result) => result,
            None => Err(io::Error::other("the sync task ended early")),
        }
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// The system's error.
    pub async fn len(&self) -> io::Result<u64> {
        self.file.file_size().await.map_err(io_error)
    }

    /// Cuts or extends the file; what is new reads as zeros.
    ///
    /// # Errors
    /// The system's error.
    pub async fn set_len(&self, len: u64) -> io::Result<()> {
        assert_block_multiple(len);
        let file = Rc::clone(&self.file);
        // As a write: it goes by the descriptor, which is another file's when this one is closed.
        match spawn(async move { file.truncate(len).await.map_err(io_error) }).await {
            Some(result) => result,
            None => Err(io::Error::other("the task ended early")),
        }
    }

    /// The path the file was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the file and waits until it is closed, unless a write is still under way, which
    /// then closes it.
    ///
    /// # Errors
    /// The system's error.
    pub async fn close(self) -> io::Result<()> {
        if let Some(durable) = self.durable.take() {
            durable.close_rc().await.map_err(io_error)?;
        }
        self.file.close_rc().await.map(|_| ()).map_err(io_error)
    }

    fn new(file: DmaFile, path: &Path) -> Self {
        Self { file: Rc::new(file), durable: RefCell::default(), path: path.to_path_buf() }
    }

    /// Reserves blocks, or only the length where the file system cannot reserve.
    async fn allocate(&self, len: u64) -> io::Result<()> {
        match self.file.pre_allocate(len, false).await {
            Ok(()) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => self.set_len(len).await,
            Err(error) => Err(io_error(error)),
        }
    }
}

impl fmt::Debug for File {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("File").field("path", &self.path).finish()
    }
}

fn assert_block_multiple(value: u64) {
    assert!(value.is_multiple_of(BLOCK_SIZE as u64), "{value} is not a whole number of blocks");
}

/// Writes until everything is written. A device that runs out of space may take a part without an
/// error; the next try then says why it took no more.
async fn write_whole(file: &DmaFile, slice: Slice, pos: u64) -> io::Result<usize> {
    let len = slice.len();
    let mut rest = slice;
    let mut pos = pos;
    loop {
        let Some(memory) = rest.whole_buffer() else {
            unreachable!("only whole buffers are written")
        };
        let written = file.write_rc_at(memory, pos).await.map_err(io_error)?;
        if written == rest.len() {
            return Ok(len);
        }
        // O_DIRECT wants whole blocks: a block that was written in part is written again.
        let written = written - written % BLOCK_SIZE;
        if written == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let mut buffer = Buffer::new(rest.len() - written);
        buffer.copy_from_slice(&rest.slice(written..rest.len()));
        rest = buffer.freeze();
        pos += written as u64;
    }
}
