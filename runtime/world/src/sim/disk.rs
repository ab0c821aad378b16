//! The simulated disk: an in-memory file system that tells what is durable from what is not.
//!
//! Owns one disk's files, names, locks, faults and the count of its operations; what a test does
//! to it from outside of its machine. How an operation runs is in `operation`.
//!
//! Invariants: a flush covers the writes that completed before it was issued, no other; an
//! operation has its effect at its completion, and operations in flight complete in any order;
//! after a crash no operation completes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use super::chaos::Chaos;
use super::content::SECTOR_SIZE;
use super::executor::{self, TimerKey};
use super::fault::{Counters, Faults, Injection};
use super::image::Image;
use super::tree::{Tree, error};

/// How a disk behaves when nothing is wrong with it.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Space for files; more is refused with ENOSPC.
    pub capacity_bytes: u64,
    /// How long a read takes.
    pub read_latency: RangeInclusive<Duration>,
    /// How long a write takes; the wider, the more writes overtake each other.
    pub write_latency: RangeInclusive<Duration>,
    /// How long a flush takes.
    pub flush_latency: RangeInclusive<Duration>,
    /// How long an operation on names takes.
    pub name_latency: RangeInclusive<Duration>,
}

impl Default for DiskOptions {
    fn default() -> Self {
        let micros = Duration::from_micros;
        Self {
            capacity_bytes: 1 << 40,
            read_latency: micros(40)..=micros(400),
            write_latency: micros(20)..=micros(600),
            flush_latency: micros(100)..=micros(2_000),
            name_latency: micros(20)..=micros(200),
        }
    }
}

/// A simulated disk. Cloning gives another handle; it outlives the runs that use it.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<RefCell<Inner>>,
}

pub(super) struct Inner {
    pub(super) tree: Tree,
    pub(super) options: DiskOptions,
    pub(super) faults: Faults,
    pub(super) operation_count: u64,
    pub(super) change_count: u64,
    pub(super) crash_at: Option<u64>,
    pub(super) crashed: bool,
    locks: BTreeMap<PathBuf, u64>,
    lock_count: u64,
    /// Operations issued and not yet complete, each with the number of its run.
    pub(super) in_flight: BTreeSet<(u64, TimerKey)>,
    /// The process that uses the disk, with the number of its run: whether it was killed.
    process: (u64, Weak<Cell<bool>>),
}

impl Default for Disk {
    fn default() -> Self {
        Self::new(DiskOptions::default())
    }
}

impl Disk {
    /// An empty disk.
    #[must_use]
    pub fn new(options: DiskOptions) -> Self {
        Self::with_tree(Tree::new(), options)
    }

    /// A disk that holds what survived.
    #[must_use]
    pub fn boot(image: Image) -> Self {
        Self::with_tree(image.tree, image.options)
    }

    fn with_tree(tree: Tree, options: DiskOptions) -> Self {
        let inner = Inner {
            tree,
            options,
            faults: Faults::default(),
            operation_count: 0,
            change_count: 0,
            crash_at: None,
            crashed: false,
            locks: BTreeMap::new(),
            lock_count: 0,
            in_flight: BTreeSet::new(),
            process: (0, Weak::new()),
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// How many operations were issued, reads excepted: the points where a crash differs.
    #[must_use]
    pub fn operation_count(&self) -> u64 {
        self.inner.borrow().operation_count
    }

    /// Loses power when operation number `operation` (counted from 1) is issued, before it has
    /// any effect. The machine's tasks are dropped; `run_until_crash` then answers None.
    pub fn crash_at(&self, operation: u64) {
        assert!(operation > 0, "operations are counted from 1");
        self.inner.borrow_mut().crash_at = Some(operation);
    }

    /// Whether the power was lost.
    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.inner.borrow().crashed
    }

    /// Lets a fault happen.
    pub fn inject(&self, injection: Injection) {
        self.inner.borrow_mut().faults.inject(injection);
    }

    /// Lets operations go wrong by chance from now on; `Chaos::default()` ends it.
    pub fn set_chaos(&self, chaos: Chaos) {
        self.inner.borrow_mut().faults.set_chaos(chaos);
    }

    /// Withdraws the faults that have not fired, those that stay, and chaos. Damage remains.
    pub fn clear_faults(&self) {
        self.inner.borrow_mut().faults.clear();
    }

    /// Operations done and faults fired.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.inner.borrow().faults.counters
    }

    /// Changes the size of the disk.
    pub fn set_capacity_bytes(&self, capacity_bytes: u64) {
        self.inner.borrow_mut().options.capacity_bytes = capacity_bytes;
    }

    /// Space that is not taken.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.options.capacity_bytes.saturating_sub(inner.tree.used_bytes())
    }

    /// Flips one bit of a file, on the medium and in what reads see.
    pub fn flip_bit(&self, path: impl AsRef<Path>, position: u64, bit: u32) -> io::Result<()> {
        assert!(bit < u8::BITS, "a byte has eight bits");
        if position >= self.len_raw(&path)? {
            return Err(error(super::tree::ENOENT));
        }
        self.damage(path.as_ref(), |file| file.flip_bit(position, bit))
    }

    /// Overwrites bytes of a file, on the medium and in what reads see.
    pub fn overwrite(&self, path: impl AsRef<Path>, position: u64, data: &[u8]) -> io::Result<()> {
        self.damage(path.as_ref(), |file| {
            file.visible.write(position, data);
            file.durable.write(position, data);
        })
    }

    /// Cuts or grows a file, on the medium and in what reads see.
    pub fn resize_raw(&self, path: impl AsRef<Path>, len: u64) -> io::Result<()> {
        self.damage(path.as_ref(), |file| {
            file.visible.set_len(len);
            file.durable.set_len(len);
        })
    }

    /// Makes the sector around `position` fail reads with EIO until it is written again.
    pub fn make_unreadable(&self, path: impl AsRef<Path>, position: u64) -> io::Result<()> {
        self.damage(path.as_ref(), |file| {
            file.unreadable.insert(position / SECTOR_SIZE);
        })
    }

    fn damage(
        &self,
        path: &Path,
        damage: impl FnOnce(&mut super::content::FileData),
    ) -> io::Result<()> {
        let mut inner = self.inner.borrow_mut();
        let inode = inner.tree.lookup(path)?;
        damage(inner.tree.file_mut(inode)?);
        inner.faults.counters.damages += 1;
        Ok(())
    }

    /// Bytes of a file as reads see them, without an operation: for tests to look at.
    pub fn read_raw(&self, path: impl AsRef<Path>, position: u64, len: u64) -> io::Result<Vec<u8>> {
        let inner = self.inner.borrow();
        let inode = inner.tree.lookup(path.as_ref())?;
        Ok(inner.tree.file(inode)?.visible.read(position, len))
    }

    /// Length of a file as reads see it, without an operation.
    pub fn len_raw(&self, path: impl AsRef<Path>) -> io::Result<u64> {
        let inner = self.inner.borrow();
        let inode = inner.tree.lookup(path.as_ref())?;
        Ok(inner.tree.file(inode)?.visible.len())
    }

    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.borrow_mut())
    }

    /// The power goes: no operation completes from here on.
    pub(super) fn cut_power(&self) {
        self.inner.borrow_mut().crashed = true;
    }

    /// A new process begins: the locks of the one before are gone, and what that left in flight
    /// completes, in the order in which it was due.
    pub(super) fn process_started(&self, killed: &Rc<Cell<bool>>) {
        assert!(!self.is_crashed(), "the disk has no power: boot a new one from its image");
        let run = executor::run_number();
        let process = (run, Rc::downgrade(killed));
        let (run_before, before) =
            self.with(|inner| std::mem::replace(&mut inner.process, process));
        assert!(
            run_before != run || before.upgrade().is_none_or(|killed| killed.get()),
            "a process uses the disk: kill its machine before another one starts"
        );
        self.inner.borrow_mut().locks.clear();
        if let Some(world) = executor::try_world() {
            for (run_before, key) in self.with(|inner| inner.in_flight.clone()) {
                if run_before == run {
                    world.timer_fire(key);
                }
            }
        }
        self.settle();
    }

    /// Completes the writes of an earlier run, which nothing else will complete any more.
    fn settle(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.in_flight.clear();
        for file in inner.tree.files_mut() {
            file.settle();
            file.open_count = 0;
        }
    }

    pub(super) fn lock(&self, path: &Path) -> Option<u64> {
        let mut inner = self.inner.borrow_mut();
        if inner.locks.contains_key(path) {
            return None;
        }
        inner.lock_count += 1;
        let token = inner.lock_count;
        inner.locks.insert(path.to_owned(), token);
        Some(token)
    }

    pub(super) fn unlock(&self, path: &Path, token: u64) {
        let mut inner = self.inner.borrow_mut();
        if inner.locks.get(path) == Some(&token) {
            inner.locks.remove(path);
        }
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Disk")
            .field("operation_count", &self.operation_count())
            .field("crashed", &self.is_crashed())
            .finish_non_exhaustive()
    }
}
