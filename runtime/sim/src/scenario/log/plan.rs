//! What a seed asks for: the disk, the log's settings, the lives and their ends.
//!
//! Owns every number of a run that is not the scheduler's. Each seed draws its own mix, and leaves
//! some things out altogether, so that combinations come up that an even mix would not show.

use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_commitlog::{Floor, Options};
use barrage_model::ShardId;
use barrage_world::sim::{Chaos, DiskOptions, Rng};

/// The one shard.
pub(super) const SHARD: ShardId = ShardId(1);
/// Where its log lies.
pub(super) const DIR: &str = "/data/shards/1";
/// What holds all shards.
pub(super) const DATA_DIR: &str = "/data";

/// One run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) disk: DiskOptions,
    pub(super) options: Options,
    pub(super) lives: u64,
    pub(super) weights: Weights,
    /// Partitions that records are sent to at one time.
    pub(super) partitions: u32,
    /// Bytes of one record's value.
    pub(super) value_bytes: RangeInclusive<u64>,
    /// Entries in one append, at most.
    pub(super) entries_max: u64,
    /// Readers beside the steps.
    pub(super) readers: u64,
    /// Kinds of disk faults that may come up.
    pub(super) faults: Vec<DiskFault>,
    /// Damages tried on the log at the end.
    pub(super) damages: u64,
    /// Whether the last of all lives is on a disk that loses writes and says nothing.
    pub(super) lying_end: bool,
    pub(super) buggify: bool,
}

/// How often a step is what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weights(pub(super) [(Step, u64); STEPS]);

const STEPS: usize = 11;

/// What a life does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    Append,
    Vote,
    Truncate,
    Apply,
    Checkpoint,
    Floor,
    Retain,
    Rewrite,
    Read,
    Settle,
    Rest,
}

/// What is wrong with the disk in one life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DiskFault {
    FlushError,
    WriteError,
    ReadError,
    NameError,
    ShortWrites,
    Stalls,
    Full,
    /// A little of everything that the log must bear.
    Weather,
}

impl DiskFault {
    /// Whether a log gives up for it. Space that is lacking, and reads, it must bear.
    pub(super) fn may_poison(self) -> bool {
        matches!(self, Self::FlushError | Self::WriteError | Self::NameError | Self::Weather)
    }
}

const DISK_FAULTS: [DiskFault; 8] = [
    DiskFault::FlushError,
    DiskFault::WriteError,
    DiskFault::ReadError,
    DiskFault::NameError,
    DiskFault::ShortWrites,
    DiskFault::Stalls,
    DiskFault::Full,
    DiskFault::Weather,
];

/// How a life ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The power goes when this many further disk operations were issued.
    PowerAtOperation(u64),
    /// The power goes after the last step.
    Power,
    /// The process ends after the last step; what is in flight still arrives.
    Kill,
    /// The log is closed.
    Close,
}

/// One process's life.
#[derive(Clone, Debug)]
pub(super) struct LifePlan {
    pub(super) options: Options,
    pub(super) steps: u64,
    pub(super) end: End,
    pub(super) fault: Option<DiskFault>,
    pub(super) chaos: Chaos,
    /// Promises of this life count for nothing.
    pub(super) lying: bool,
}

impl Plan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let faulty = random.one_in(2);
        let faults = DISK_FAULTS.into_iter().filter(|_| faulty && random.one_in(2)).collect();
        let value_max = pick(random, &[20, 200, 2_000, 9_000]);
        Self {
            disk: disk(random),
            options: options(random),
            lives: random.between(3, 9),
            weights: weights(random),
            partitions: random.between(1, 5) as u32,
            value_bytes: 0..=value_max,
            entries_max: random.between(1, 6),
            readers: random.between(1, 4),
            faults,
            damages: random.below(8),
            lying_end: random.one_in(4),
            buggify: random.one_in(2),
        }
    }

    /// The next life.
    pub(super) fn life(&self, random: &mut Rng) -> LifePlan {
        let steps = random.between(10, 300);
        let end = match random.below(10) {
            // The first operations of a life are recovery's.
            0 => match random.between(1, 12) {
                10.. => return self.short_life(),
                operations => End::PowerAtOperation(operations),
            },
            1..=4 => End::PowerAtOperation(random.between(1, steps * 4)),
            5..=6 => End::Power,
            7..=8 => End::Kill,
            _ => End::Close,
        };
        // Half of the lives are on a disk that is well.
        let drawn = random.below(self.faults.len() as u64 * 2 + 1) as usize;
        let fault = self.faults.get(drawn).copied();
        let options = match random.one_in(4) {
            // A log keeps to one floor for all of its life.
            true => Options { floor: self.options.floor, ..options(random) },
            false => self.options.clone(),
        };
        let chaos = chaos(fault, random);
        // A process that a failed flush has ended leaves what only the kernel has.
        let killed = fault == Some(DiskFault::FlushError) && random.one_in(2);
        let end = if killed { End::Kill } else { end };
        LifePlan { options, steps, end, fault, chaos, lying: false }
    }

    /// A life that finds what the last one left, and has not written anything when the power goes.
    fn short_life(&self) -> LifePlan {
        LifePlan { end: End::Power, ..self.calm_life(0) }
    }

    /// A life in which nothing goes wrong, with few steps or none.
    pub(super) fn calm_life(&self, steps: u64) -> LifePlan {
        LifePlan {
            options: self.options.clone(),
            steps,
            end: End::Close,
            fault: None,
            chaos: Chaos::default(),
            lying: false,
        }
    }

    /// A life on a disk that loses writes, puts them elsewhere and forgets bits.
    pub(super) fn lying_life(&self, random: &mut Rng) -> LifePlan {
        let chaos = Chaos {
            at: Some(DIR.into()),
            lost_write_ppm: 20_000,
            misdirected_write_ppm: 20_000,
            latent_sector_ppm: 2_000,
            bit_flip_ppm: 5_000,
            ..Chaos::default()
        };
        let steps = random.between(20, 120);
        let end = if random.one_in(2) { End::Power } else { End::Kill };
        LifePlan { chaos, steps, end, lying: true, ..self.calm_life(0) }
    }
}

impl LifePlan {
    /// Whether the log may be refused, poisoned or unreadable by what the disk answers.
    pub(super) fn may_fail(&self) -> bool {
        self.lying || self.fault.is_some_and(|fault| !matches!(fault, DiskFault::Stalls))
    }
}

fn disk(random: &mut Rng) -> DiskOptions {
    let micros = Duration::from_micros;
    let mut up_to = |micros_max: &[u64]| micros(10)..=micros(pick(random, micros_max));
    DiskOptions {
        read_latency: up_to(&[20, 400, 20_000, 100_000]),
        write_latency: up_to(&[20, 600, 20_000]),
        flush_latency: up_to(&[20, 2_000, 40_000]),
        name_latency: up_to(&[20, 200, 5_000]),
        ..DiskOptions::default()
    }
}

fn options(random: &mut Rng) -> Options {
    const KIB: u64 = 1024;
    Options {
        floor: if random.one_in(2) { Floor::Records } else { Floor::Checkpoint },
        segment_entries_max: pick(random, &[1, 5, 40, 512 * KIB]),
        segment_bytes: pick(random, &[24 * KIB, 40 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB]),
        pool_segments: random.below(3) as usize,
        unsynced_bytes_max: pick(random, &[4 * KIB, 64 * KIB, 32 * 1024 * KIB]),
        group_bytes_target: pick(random, &[1, 4 * KIB, 64 * KIB, 2_048 * KIB]) as usize,
        writes_max: pick(random, &[1, 2, 8]) as usize,
        cache_bytes: pick(random, &[0, 4 * KIB, 16 * KIB, 1024 * KIB]) as usize,
        idle_mark_after: Duration::from_millis(pick(random, &[1, 50])),
        ..Options::new(SHARD)
    }
}

fn weights(random: &mut Rng) -> Weights {
    let mut some = |most: u64| if random.one_in(4) { 0 } else { random.between(1, most) };
    Weights([
        (Step::Vote, some(4)),
        (Step::Truncate, some(6)),
        (Step::Checkpoint, some(3)),
        (Step::Floor, some(3)),
        (Step::Retain, some(5)),
        (Step::Rewrite, some(4)),
        (Step::Read, some(4)),
        (Step::Settle, some(6)),
        (Step::Rest, some(3)),
        // Without these nothing happens at all.
        (Step::Append, 10),
        (Step::Apply, 4),
    ])
}

impl Weights {
    pub(super) fn draw(&self, random: &mut Rng) -> Step {
        let total = self.0.iter().map(|(_, weight)| weight).sum();
        let mut at = random.below(total);
        for (step, weight) in self.0 {
            if at < weight {
                return step;
            }
            at -= weight;
        }
        Step::Append
    }
}

fn chaos(fault: Option<DiskFault>, random: &mut Rng) -> Chaos {
    let mut rate = |most: u64| random.between(most / 10, most) as u32;
    let calm = Chaos { at: Some(DIR.into()), ..Chaos::default() };
    match fault {
        Some(DiskFault::FlushError) => Chaos { eio_flush_ppm: rate(100_000), ..calm },
        Some(DiskFault::WriteError) => Chaos { eio_write_ppm: rate(100_000), ..calm },
        Some(DiskFault::ReadError) => Chaos { eio_read_ppm: rate(200_000), ..calm },
        Some(DiskFault::NameError) => Chaos { eio_name_ppm: rate(200_000), ..calm },
        Some(DiskFault::ShortWrites) => Chaos { short_write_ppm: rate(500_000), ..calm },
        Some(DiskFault::Stalls) => Chaos { stall_ppm: rate(100_000), ..calm },
        Some(DiskFault::Full) => Chaos { no_space_ppm: rate(200_000), ..calm },
        Some(DiskFault::Weather) => Chaos {
            eio_flush_ppm: rate(5_000),
            eio_write_ppm: rate(5_000),
            eio_read_ppm: rate(20_000),
            eio_name_ppm: rate(20_000),
            short_write_ppm: rate(50_000),
            stall_ppm: rate(50_000),
            no_space_ppm: rate(50_000),
            ..calm
        },
        None => Chaos::default(),
    }
}

pub(super) fn pick(random: &mut Rng, choices: &[u64]) -> u64 {
    let at = random.below(choices.len() as u64) as usize;
    choices.get(at).copied().unwrap_or_default()
}
