//! Faults of a simulated disk: what can go wrong, when, and how often it did.
//!
//! Owns the list of faults waiting for their operation, and the counters. Invariant: a fault is
//! counted when it fires, so a test can assert that it was not vacuous.

use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::chaos::Chaos;
use super::rng::Rng;
use super::tree;

/// What a disk is asked to do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Operation {
    /// Bytes of a file are read.
    Read,
    /// Bytes of a file are written.
    Write,
    /// `sync_data` of a file.
    Flush,
    /// A file is created.
    Create,
    /// The length of a file is set.
    Resize,
    /// A name is moved.
    Rename,
    /// A file's name is removed.
    Remove,
    /// Directories are created.
    CreateDirectory,
    /// The names in a directory are made durable.
    SyncDirectory,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The operation fails with this error number and has no effect. A failed flush also drops
    /// what it covered, and the next flush succeeds without it.
    Error(i32),
    /// A write fails with this error number and has stored some of its sectors.
    Torn(i32),
    /// A write stores only some of its sectors and says so.
    Short,
    /// A write says it is done and stores nothing.
    Lost,
    /// A write says it is done and stores its bytes elsewhere in the file.
    Misdirected,
    /// A read finds a sector that cannot be read any more: EIO, until it is written again.
    LatentSector,
    /// A read finds a bit flipped, on the medium.
    BitFlip,
    /// The operation takes this much longer.
    Stall(Duration),
}

impl Fault {
    /// The medium or the link to it failed: EIO.
    pub const EIO: Self = Self::Error(tree::EIO);
    /// As [`Fault::EIO`], of a write that was under way.
    pub const TORN: Self = Self::Torn(tree::EIO);
    /// No space is left: ENOSPC.
    pub const ENOSPC: Self = Self::Error(tree::ENOSPC);

    /// Whether it can happen to such an operation.
    fn fits(self, operation: Operation) -> bool {
        match self {
            Self::Error(_) | Self::Stall(_) => true,
            Self::Torn(_) | Self::Short | Self::Lost | Self::Misdirected => {
                operation == Operation::Write
            }
            Self::LatentSector | Self::BitFlip => operation == Operation::Read,
        }
    }
}

/// A fault waiting for its operation.
#[derive(Clone, Debug)]
pub struct Injection {
    operation: Operation,
    fault: Fault,
    path: Option<PathBuf>,
    skip_count: u64,
    always: bool,
}

impl Injection {
    /// `fault` on the next `operation` of any file.
    #[must_use]
    pub fn next(operation: Operation, fault: Fault) -> Self {
        assert!(fault.fits(operation), "{fault:?} does not happen to {operation:?}");
        Self { operation, fault, path: None, skip_count: 0, always: false }
    }

    /// `fault` on every `operation` of any file, for good: until `Disk::clear_faults`.
    #[must_use]
    pub fn always(operation: Operation, fault: Fault) -> Self {
        Self { always: true, ..Self::next(operation, fault) }
    }

    /// Only for this path, or for paths below it.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..self }
    }

    /// Lets this many matching operations pass first.
    #[must_use]
    pub fn after(self, skip_count: u64) -> Self {
        Self { skip_count, ..self }
    }

    fn matches(&self, operation: Operation, path: &Path) -> bool {
        self.operation == operation
            && self.path.as_ref().is_none_or(|prefix| path.starts_with(prefix))
    }
}

/// Operations done and faults fired since the disk was made.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counters {
    /// Reads issued.
    pub reads: u64,
    /// Writes issued.
    pub writes: u64,
    /// Flushes issued.
    pub flushes: u64,
    /// Operations on names and directories issued.
    pub names: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads that failed, injected or of an unreadable sector.
    pub read_errors: u64,
    /// Writes that failed.
    pub write_errors: u64,
    /// Flushes that failed.
    pub flush_errors: u64,
    /// Operations on names and lengths that failed by injection.
    pub name_errors: u64,
    /// Operations refused because the disk is full.
    pub no_space: u64,
    /// Short writes.
    pub short_writes: u64,
    /// Writes that were acknowledged and not stored.
    pub lost_writes: u64,
    /// Writes stored elsewhere.
    pub misdirected_writes: u64,
    /// Stalls.
    pub stalls: u64,
    /// Writes that failed and stored some of their sectors; also among `write_errors`.
    pub torn_writes: u64,
    /// Sectors that reads have found unreadable by chance or injection.
    pub latent_sectors: u64,
    /// Bits that reads have found flipped by chance or injection.
    pub bit_flips: u64,
    /// Bits flipped, bytes overwritten and sectors made unreadable by the test.
    pub damages: u64,
}

impl Counters {
    /// How often each fault fired, by name.
    #[must_use]
    pub fn faults(&self) -> [(&'static str, u64); 12] {
        [
            ("disk-read-error", self.read_errors),
            ("disk-write-error", self.write_errors),
            ("disk-flush-error", self.flush_errors),
            ("disk-name-error", self.name_errors),
            ("disk-no-space", self.no_space),
            ("disk-torn-write", self.torn_writes),
            ("disk-short-write", self.short_writes),
            ("disk-lost-write", self.lost_writes),
            ("disk-misdirected-write", self.misdirected_writes),
            ("disk-latent-sector", self.latent_sectors),
            ("disk-bit-flip", self.bit_flips),
            ("disk-stall", self.stalls),
        ]
    }
}

/// Sums up several disks, or the lives of one.
impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.names += other.names;
        self.written_bytes += other.written_bytes;
        self.read_errors += other.read_errors;
        self.write_errors += other.write_errors;
        self.flush_errors += other.flush_errors;
        self.name_errors += other.name_errors;
        self.no_space += other.no_space;
        self.short_writes += other.short_writes;
        self.lost_writes += other.lost_writes;
        self.misdirected_writes += other.misdirected_writes;
        self.stalls += other.stalls;
        self.torn_writes += other.torn_writes;
        self.latent_sectors += other.latent_sectors;
        self.bit_flips += other.bit_flips;
        self.damages += other.damages;
    }
}

#[derive(Default)]
pub(super) struct Faults {
    waiting: Vec<Injection>,
    chaos: Chaos,
    pub(super) counters: Counters,
}

impl Faults {
    pub(super) fn inject(&mut self, injection: Injection) {
        self.waiting.push(injection);
    }

    pub(super) fn set_chaos(&mut self, chaos: Chaos) {
        self.chaos = chaos;
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.chaos = Chaos::default();
    }

    /// The fault of an operation issued now: of those injected one that fires once, else one that
    /// stays, else one by chance.
    pub(super) fn take(
        &mut self,
        operation: Operation,
        path: &Path,
        random: &mut Rng,
    ) -> Option<Fault> {
        self.count_operation(operation);
        let injected = self.take_injected(operation, path);
        let fault = injected.or_else(|| self.chaos.draw(operation, path, random))?;
        self.count_fault(operation, fault);
        Some(fault)
    }

    fn take_injected(&mut self, operation: Operation, path: &Path) -> Option<Fault> {
        let (mut once, mut always) = (None, None);
        for (index, injection) in self.waiting.iter_mut().enumerate() {
            if !injection.matches(operation, path) {
                continue;
            }
            if injection.skip_count > 0 {
                injection.skip_count -= 1;
            } else if injection.always {
                always = always.or(Some(injection.fault));
            } else {
                once = once.or(Some(index));
            }
        }
        once.map(|index| self.waiting.remove(index).fault).or(always)
    }

    fn count_operation(&mut self, operation: Operation) {
        let counters = &mut self.counters;
        match operation {
            Operation::Read => counters.reads += 1,
            Operation::Write => counters.writes += 1,
            Operation::Flush => counters.flushes += 1,
            _ => counters.names += 1,
        }
    }

    fn count_fault(&mut self, operation: Operation, fault: Fault) {
        let counters = &mut self.counters;
        match (fault, operation) {
            (Fault::Error(tree::ENOSPC), _) => counters.no_space += 1,
            (Fault::Error(_), Operation::Read) => counters.read_errors += 1,
            (Fault::Error(_), Operation::Write) => counters.write_errors += 1,
            (Fault::Error(_), Operation::Flush) => counters.flush_errors += 1,
            (Fault::Error(_), _) => counters.name_errors += 1,
            (Fault::Torn(_), _) => {
                counters.write_errors += 1;
                counters.torn_writes += 1;
            }
            // Counted when they meet bytes: a read beyond the end finds nothing to be damaged.
            (Fault::LatentSector | Fault::BitFlip, _) => {}
            (Fault::Short, _) => counters.short_writes += 1,
            (Fault::Lost, _) => counters.lost_writes += 1,
            (Fault::Misdirected, _) => counters.misdirected_writes += 1,
            (Fault::Stall(_), _) => counters.stalls += 1,
        }
    }
}
