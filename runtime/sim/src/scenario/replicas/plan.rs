//! What a seed asks for: the configuration of the replicas and the mix of faults.
//!
//! Owns: every number of a run that is not the scheduler's. Must never: be drawn from anything
//! but the seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_commitlog::Options;
use barrage_model::ShardId;
use barrage_raft::Timing;
use barrage_world::sim::{LinkOptions, Rng};

/// The one shard.
pub(super) const SHARD: ShardId = ShardId(5);

/// A kind of fault, or of order from an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    Kill,
    PowerLoss,
    PowerLossOfAll,
    Pause,
    CutOneWay,
    Partition,
    Bridge,
    Isolate,
    SlowLink,
    LossyLink,
    HealNetwork,
    ClockJump,
    ClockRate,
    FlushError,
    WriteError,
    ReadError,
    DiskStall,
    DiskFull,
    Transfer,
    Checkpoint,
    SwapVoter,
    LeaveBehind,
    SlowElection,
}

impl Act {
    /// All of them, each with how often it is drawn when it is in the mix.
    const ALL: [(Self, u64); 23] = [
        (Self::Kill, 4),
        (Self::PowerLoss, 4),
        (Self::PowerLossOfAll, 1),
        (Self::Pause, 2),
        (Self::CutOneWay, 3),
        (Self::Partition, 2),
        (Self::Bridge, 1),
        (Self::Isolate, 3),
        (Self::SlowLink, 2),
        (Self::LossyLink, 2),
        (Self::HealNetwork, 4),
        (Self::ClockJump, 1),
        (Self::ClockRate, 1),
        (Self::FlushError, 1),
        (Self::WriteError, 1),
        (Self::ReadError, 1),
        (Self::DiskStall, 2),
        (Self::DiskFull, 1),
        (Self::Transfer, 2),
        (Self::Checkpoint, 3),
        (Self::SwapVoter, 2),
        (Self::LeaveBehind, 2),
        (Self::SlowElection, 2),
    ];

    /// The name it is counted under.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::PowerLossOfAll => "power-loss-of-all",
            Self::Pause => "pause",
            Self::CutOneWay => "cut-one-way",
            Self::Partition => "partition",
            Self::Bridge => "bridge",
            Self::Isolate => "isolate",
            Self::SlowLink => "slow-link",
            Self::LossyLink => "lossy-link",
            Self::HealNetwork => "heal-network",
            Self::ClockJump => "clock-jump",
            Self::ClockRate => "clock-rate",
            Self::FlushError => "flush-error",
            Self::WriteError => "write-error",
            Self::ReadError => "read-error",
            Self::DiskStall => "disk-stall",
            Self::DiskFull => "disk-full",
            Self::Transfer => "transfer",
            Self::Checkpoint => "checkpoint",
            Self::SwapVoter => "swap-voter",
            Self::LeaveBehind => "leave-behind",
            Self::SlowElection => "slow-election",
        }
    }
}

/// Everything drawn from the seed.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) log: Options,
    pub(super) timing: Timing,
    pub(super) checkpoint_bytes: u64,
    pub(super) link: LinkOptions,
    /// One request in this many goes to the wrong node; never for zero.
    pub(super) misroute_one_in: u64,
    /// Voters at the start.
    pub(super) voters: u64,
    pub(super) clients: u32,
    /// Once in so many times what was promised is proposed again, later, with the same stamp.
    pub(super) again_one_in: u64,
    pub(super) payload_bytes: RangeInclusive<u64>,
    pub(super) think_time: RangeInclusive<Duration>,
    /// How long faults go on, in virtual time.
    pub(super) faults_for: Duration,
    pub(super) pause_between_acts: RangeInclusive<Duration>,
    /// The faults in the mix, each as often as it weighs.
    pub(super) acts: Vec<Act>,
    pub(super) buggify: bool,
}

impl Plan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let milliseconds = Duration::from_millis;
        let latency_ms = *pick(random, &[1, 1, 5, 30]);
        let mut acts = Vec::new();
        for (act, weight) in Act::ALL {
            // Every seed has a mix of its own: about half of the faults.
            if random.one_in(2) {
                acts.extend((0..weight).map(|_| act));
            }
        }
        if acts.is_empty() {
            acts.push(Act::Kill);
        }
        let noisy = random.one_in(2);
        let payload_max = *pick(random, &[16, 300, 4_000, 20_000]);
        let busy = random.one_in(2);
        Self {
            log: Options {
                segment_bytes: *pick(random, &[64, 128, 512]) * 1024,
                pool_segments: random.below(3) as usize,
                cache_bytes: *pick(random, &[16, 64, 1024]) * 1024,
                group_bytes_target: *pick(random, &[4096, 16 * 1024, 64 * 1024]),
                idle_mark_after: milliseconds(random.between(5, 60)),
                ..Options::new(SHARD)
            },
            timing: Timing {
                append_deadline: milliseconds(random.between(200, 1_500)),
                checkpoint_deadline: milliseconds(random.between(1_000, 5_000)),
                appends_in_flight_max: *pick(random, &[1, 2, 8]),
                append_entries_max: *pick(random, &[1, 2, 16, 1024]),
                ..Timing::default()
            },
            checkpoint_bytes: *pick(random, &[200, 1_000, 10_000]) * 1024,
            link: LinkOptions {
                latency: milliseconds(latency_ms) / 4..=milliseconds(latency_ms),
                loss_ppm: if noisy { random.below(30_000) as u32 } else { 0 },
                duplicate_ppm: if noisy { random.below(30_000) as u32 } else { 0 },
                reorder_ppm: if noisy { random.below(50_000) as u32 } else { 0 },
                corrupt_ppm: if noisy { random.below(5_000) as u32 } else { 0 },
                ..LinkOptions::default()
            },
            misroute_one_in: if noisy { random.between(50, 500) } else { 0 },
            voters: *pick(random, &[3, 3, 3, 5]),
            clients: random.between(1, 6) as u32,
            again_one_in: *pick(random, &[2, 5, 20]),
            payload_bytes: 1..=payload_max,
            think_time: milliseconds(0)..=milliseconds(if busy { 5 } else { 100 }),
            faults_for: milliseconds(random.between(4_000, 20_000)),
            pause_between_acts: milliseconds(20)..=milliseconds(random.between(200, 2_500)),
            acts,
            buggify: random.one_in(2),
        }
    }
}

pub(super) fn pick<'a, T>(random: &mut Rng, choices: &'a [T]) -> &'a T {
    let index = random.below(choices.len() as u64) as usize;
    match choices.get(index) {
        Some(choice) => choice,
        None => unreachable!("drawn below the number of choices"),
    }
}

pub(super) fn between(random: &mut Rng, range: &RangeInclusive<Duration>) -> Duration {
    let nanoseconds = |duration: &Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random.between(nanoseconds(range.start()), nanoseconds(range.end())))
}
