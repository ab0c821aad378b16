//! The simulated world: one thread, one seed, one virtual clock, disks that can lose
//! power, a network that can fail.
//!
//! Owns the backend that `--cfg sim` chooses. Must never touch the machine: no clock, thread,
//! file, socket or entropy. Invariant: the same seed and the same code give the same run, which
//! `trace_hash` shows; every failure prints its seed.
//!
//! # Running
//! `run(seed, future)` runs on a fresh machine with an empty disk; `run_on(seed, &disk, future)`
//! on a disk that the test keeps. A run ends with its future; tasks that are left are dropped and
//! writes in flight reach the disk before the next run on it, as after the end of a process.
//! When nothing is ready and no timer is set the run panics: deadlock.
//!
//! # Crash tests
//! A disk counts its operations (reads excepted). `crash_at(k)` cuts the power when operation k
//! is issued; `run_until_crash` then drops all tasks and answers None. `crash(&mut rng)` gives
//! one of the images such a power loss may leave, again and again for the same moment;
//! `crash_as(style, choose)` leaves the choices to the test (`Choices` walks through all of
//! them). `Image::digest` tells outcomes apart, so that each is checked once. What was acknowledged
//! lives outside the run.
//!
//! ```text
//! let acked = Rc::new(RefCell::new(Vec::new()));
//! let workload = |acked: Rc<RefCell<Vec<u64>>>| async move {
//!     let log = open("/data").await;                      // the code under test, as it is
//!     for number in 0..6 {
//!         log.append(number).await;
//!         acked.borrow_mut().push(number);                // durable from here on
//!     }
//! };
//! let dry = sim::Disk::default();                         // how many points are there?
//! sim::run_on(seed, &dry, workload(acked.clone()));
//! for point in 1..=dry.operation_count() {
//!     acked.borrow_mut().clear();
//!     let disk = sim::Disk::default();
//!     disk.crash_at(point);
//!     let ended = sim::run_until_crash(seed, &disk, workload(acked.clone()));
//!     assert!(ended.is_none());
//!     let mut random = sim::Rng::new(seed ^ point);
//!     for _ in 0..100 {
//!         let rebooted = sim::Disk::boot(disk.crash(&mut random));
//!         sim::run_on(seed, &rebooted, async { check_that_all_are_there(&acked).await });
//!     }
//! }
//! ```
//! A directory's own name must be synced too: `create_dir_all("/data")` then `sync_dir("/")`.
//! Or let a test prepare its disk in one run and go on with `Disk::boot(disk.snapshot())`.
//!
//! # Faults
//! `disk.inject(Injection::next(Operation::Flush, Fault::EIO).at("/data").after(2))`; also
//! `Fault::{Torn, Short, Lost, Misdirected, LatentSector, BitFlip, Stall, ENOSPC}`,
//! `set_capacity_bytes`, `flip_bit`, `overwrite`, `resize_raw`, `make_unreadable`.
//! `Injection::always` stays until `clear_faults`; `set_chaos` lets all of them happen by chance.
//! `counters()` tells which fired.
//!
//! # Several machines
//! `Machine::new(&disk).spawn(future)` runs a task, and all it spawns, on a disk and a clock of
//! its own within one run. `kill` ends the process: what it had in flight still reaches the disk,
//! and another machine may start on that disk at once. `power_off` takes the power: `disk.crash`
//! tells what is left, `Disk::boot` makes the next machine's disk of it. `pause` and `resume`
//! stop all its tasks and let them go on; `set_unix_offset_ms` and `set_clock_rate_ppm` make its
//! clock wrong; `core(index, count)` is a handle whose tasks find themselves on that core.
//!
//! # Network
//! `Machine::at(host, &disk)` is at `host.ip()`; `crate::net` works there as on a real machine, and
//! `Endpoint::bind(port)` sends datagrams. `Network::current()` holds the links, one for each
//! direction: `set_link(from, to, LinkOptions { loss_ppm: 10_000, ..default() })`, `set_all`,
//! `cut`, `heal`, `partition(&[&[a, b], &[b, c]])` with `b` as a bridge; `counters()` tells what
//! happened.
//! To a stream a loss is a delay of 200 ms and more, a cut of 15 s its end. A killed process's
//! streams end or are reset, by chance; a host without power is silent until another machine
//! boots there. The network's own timers go on under a deadlock: it is found some days later.
//!
//! # Replays
//! After `keep_journal(true)` the faults and what is done to machines are written down as they
//! happen, with `note` for a test's own lines; `take_journal` hands them out.

pub mod buffer;
pub mod file;
pub mod fs;
pub mod net;
pub mod node;
pub(crate) mod random;
pub mod task;
pub(crate) mod time;

mod chaos;
mod choices;
mod clock;
mod connection;
mod content;
mod datagram;
mod disk;
mod executor;
mod fault;
mod host;
mod image;
mod journal;
mod link;
mod listening;
mod machine;
mod network;
mod operation;
mod ready;
mod receiving;
mod rng;
mod sabotage;
mod sending;
mod socket;
mod tasks;
mod tree;

use std::future::Future;

pub use chaos::Chaos;
pub use choices::Choices;
pub use datagram::{Endpoint, Packet};
pub use disk::{Disk, DiskOptions};
pub use fault::{Counters, Fault, Injection, Operation};
pub use host::Host;
pub use image::{CRASH_STYLES, CrashStyle, Image};
pub use journal::{keep_journal, note, take_journal};
pub use link::LinkOptions;
pub use machine::Machine;
pub use network::{Network, NetworkCounters};
pub use rng::Rng;
pub use sabotage::{buggified, calm_buggify, plant, planted_was_reached, set_buggify};
pub(crate) use sabotage::{buggify, is_planted};

/// Nanoseconds since the world began, by its own clock: the same for all machines, whose clocks may
/// run faster or slower. For whoever looks on; what runs on a machine asks that machine's clock.
///
/// # Panics
/// Outside of a world.
#[must_use]
pub fn world_time_ns() -> u64 {
    executor::world().now_ns()
}

/// Runs `future` in a fresh world with an empty disk.
///
/// # Panics
/// On a deadlock, a livelock and any panic of a task; the seed is printed.
pub fn run<F: Future>(seed: u64, future: F) -> F::Output {
    run_on(seed, &Disk::default(), future)
}

/// Runs `future` in a fresh world on `disk`, which must not lose power meanwhile.
///
/// # Panics
/// As `run`, and when the disk crashes.
pub fn run_on<F: Future>(seed: u64, disk: &Disk, future: F) -> F::Output {
    match run_until_crash(seed, disk, future) {
        Some(output) => output,
        None => panic!("the disk lost power; seed {seed}"),
    }
}

/// Runs `future` in a fresh world on `disk`; None when the power was lost before its end.
pub fn run_until_crash<F: Future>(seed: u64, disk: &Disk, future: F) -> Option<F::Output> {
    executor::run(seed, disk, future)
}

/// The hash of all task picks, timers and disk operations of the current run, or of the last one
/// on this thread. Two runs with the same hash took the same way.
#[must_use]
pub fn trace_hash() -> u64 {
    executor::trace_hash()
}

/// How many polls the current run has made, or the last one on this thread: the size of a run.
#[must_use]
pub fn poll_count() -> u64 {
    executor::poll_count()
}

#[cfg(test)]
mod tests;
