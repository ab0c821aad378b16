//! Blocks of files that nobody needs any more, given back to the file system a few at a time.
//!
//! Where the file system discards freed blocks at once (ext4 mounted with `discard`), removing a
//! file of 256 MiB keeps the device busy for about 45 ms, and flushes of the log wait behind it, up
//! to 36 ms. In steps of 8 MiB with pauses they waited 4 ms at most (a virtual disk, 240 KiB
//! written and flushed every 8 ms beside it).
//!
//! Owns: the steps. Must never: cut a file that has a name, or that has one again after a crash.

use barrage_world::{File, buggify, fs, sleep};
use std::io;
use std::path::Path;
use std::time::Duration;

/// Given back at once.
const STEP_BYTES: u64 = 8 << 20;
const SMALL_STEP_BYTES: u64 = 64 << 10;
/// Flushes come in between.
const PAUSE: Duration = Duration::from_millis(4);

/// A file without a name that has its blocks still.
pub(crate) struct Nameless {
    file: File,
    len: u64,
}

/// Takes a file's name away.
pub(crate) async fn unlink(path: &Path) -> io::Result<Option<Nameless>> {
    let file = File::open(path).await.ok();
    // Asked first: it is asked by name.
    let len = match &file {
        Some(file) => file.len().await.unwrap_or(0),
        None => 0,
    };
    let removed = fs::remove(path).await;
    let nameless = file.map(|file| Nameless { file, len });
    match removed {
        Ok(()) => Ok(nameless),
        Err(error) => {
            if let Some(Nameless { file, .. }) = nameless {
                file.close().await.ok();
            }
            Err(error)
        }
    }
}

impl Nameless {
    /// Frees all of it, once the folder is synced.
    pub(crate) async fn free(self) {
        give_back(&self.file, self.len, || false).await;
        self.file.close().await.ok();
    }
}

/// Frees the blocks of a file of `len` bytes. Its name is gone for good: else a crash might leave
/// it, cut short, under that name. What goes wrong is left to the system, which frees all when the
/// file is closed: also when it is to stop.
pub(crate) async fn give_back(file: &File, mut len: u64, stop: impl Fn() -> bool) {
    let step = if buggify("commitlog-cut-finely", 2) { SMALL_STEP_BYTES } else { STEP_BYTES };
    while len > step && !stop() {
        len = (len - 1) / step * step;
        if file.set_len(len).await.is_err() {
            return;
        }
        sleep(PAUSE).await;
    }
}
