//! The real world: glommio executors, direct-I/O files, sockets, cores.
//!
//! Owns every name of glommio, `std::{fs, net, thread}`, libc and sysinfo in the broker.
//! Must never: let a glommio error or handle out (errors are `std::io::Error` with their number);
//! block an executor thread (blocking calls go to the executor's helper thread).

#![expect(clippy::disallowed_methods, reason = "the real world's clocks and threads are here")]

use std::io;

use ::glommio::GlommioError;

pub mod buffer;
pub mod file;
pub mod fs;
pub(crate) mod guard;
pub mod net;
pub mod node;
pub mod preflight;
pub(crate) mod random;
pub mod task;
pub(crate) mod time;

#[cfg(test)]
mod tests;

/// Keeps the number of the system's error, which glommio's own conversion loses.
fn io_error<T>(error: GlommioError<T>) -> io::Error
where
    io::Error: From<GlommioError<T>>,
{
    match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => error.into(),
    }
}
