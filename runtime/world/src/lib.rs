//! The world: everything a broker touches outside its own memory, behind one set of names.
//!
//! Owns: time, tasks, randomness, channels, mailboxes between cores, aligned buffers, direct-I/O
//! files, directories, sockets, cores. Two backends carry the same names and are chosen once, for
//! the whole build: `glommio` (the real machine) and `sim` (`--cfg sim`: seeded executor, virtual
//! clock, simulated disk).
//!
//! Must never: know anything about logs, Raft or protocols; leak a glommio type upward.
//!
//! What a backend must provide (the seam; `crate::backend` is the chosen one):
//!
//! ```text
//! time    now_ns() -> u64, unix_time_ms() -> i64, Sleep: Future<Output = ()> + Unpin + 'static,
//!         sleep(Duration) -> Sleep
//! task    spawn(fut) -> JoinHandle<T>, yield_now(), yield_if_needed(), run_local(fut) -> T,
//!         fatal(&str) -> !
//! random  fill_random(&mut [u8])
//! buffer  Buffer, Slice
//! file    File
//! fs      create_dir_all, list, exists, rename, remove, sync_dir, read, write_atomic, lock_dir,
//!         free_space, prepare_directory, DirLock
//! node    CoreContext, current_core, memory_total, memory_resident; real world only: CoreSet,
//!         NodeOptions, start and what else runs a process
//! net     Listener, ListenerHandle, Stream
//! preflight   real world only
//! ```

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        reason = "a test that meets an unexpected error should fail there"
    )
)]

pub mod channel;
pub mod mailbox;
pub mod random;
mod sabotage;
pub mod time;

#[cfg(not(sim))]
mod glommio;
#[cfg(sim)]
pub mod sim;

#[cfg(not(sim))]
use crate::glommio as backend;
#[cfg(sim)]
use crate::sim as backend;

#[cfg(not(sim))]
pub use crate::backend::preflight;
pub use crate::backend::{buffer, file, fs, net, node, task};

pub use crate::backend::buffer::{Buffer, Slice};
pub use crate::backend::file::File;
pub use crate::backend::fs::prepare_directory;
pub use crate::backend::task::{JoinHandle, fatal, run_local, spawn, yield_if_needed, yield_now};
pub use crate::random::{fill_random, random_u64};
pub use crate::sabotage::{buggify, planted};
pub use crate::time::{
    COARSE, Elapsed, Instant, sleep, sleep_coarse, sleep_until, timeout, timeout_coarse,
    unix_time_ms,
};

/// The unit of direct I/O: every position, length and buffer address is a multiple of it,
/// whatever the device claims.
pub const BLOCK_SIZE: usize = 4096;
