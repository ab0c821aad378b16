//! What a seed asks for: the configuration of the node, the workload and the mix of faults.
//!
//! Owns: every number of a run that is not the scheduler's. Must never: be drawn from anything
//! but the seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_broker::BrokerOptions;
use barrage_model::Retention;
use barrage_native::Options;
use barrage_world::sim::{LinkOptions, Rng};

use super::process::DATA_DIR;
use crate::workload::{ConsumerPlan, ProducerPlan, TopicPlan, milliseconds, pick};

/// A kind of fault, or of order from an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    Kill,
    PowerLoss,
    Stop,
    Pause,
    Cut,
    CutOneWay,
    SlowLink,
    LossyLink,
    HealNetwork,
    ClockJump,
    ClockRate,
    FlushError,
    WriteError,
    ReadError,
    NameError,
    DiskStall,
    DiskFull,
}

impl Act {
    /// All of them, each with how often it is drawn when it is in the mix.
    const ALL: [(Self, u64); 17] = [
        (Self::Kill, 4),
        (Self::PowerLoss, 4),
        (Self::Stop, 2),
        (Self::Pause, 2),
        (Self::Cut, 2),
        (Self::CutOneWay, 2),
        (Self::SlowLink, 2),
        (Self::LossyLink, 2),
        (Self::HealNetwork, 3),
        (Self::ClockJump, 2),
        (Self::ClockRate, 1),
        (Self::FlushError, 1),
        (Self::WriteError, 1),
        (Self::ReadError, 1),
        (Self::NameError, 1),
        (Self::DiskStall, 3),
        (Self::DiskFull, 2),
    ];

    /// The name it is counted under.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::PowerLoss => "power-loss",
            Self::Stop => "orderly-stop",
            Self::Pause => "pause",
            Self::Cut => "cut",
            Self::CutOneWay => "cut-one-way",
            Self::SlowLink => "slow-link",
            Self::LossyLink => "lossy-link",
            Self::HealNetwork => "heal-network",
            Self::ClockJump => "clock-jump",
            Self::ClockRate => "clock-rate",
            Self::FlushError => "flush-error",
            Self::WriteError => "write-error",
            Self::ReadError => "read-error",
            Self::NameError => "name-error",
            Self::DiskStall => "disk-stall",
            Self::DiskFull => "disk-full",
        }
    }
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) cores: u16,
    /// How many cores the next process has: now and then another number.
    pub(super) cores_change_one_in: u64,
    pub(super) broker: BrokerOptions,
    pub(super) native: Options,
    pub(super) link: LinkOptions,
    pub(super) topics: Vec<TopicPlan>,
    pub(super) producers: Vec<ProducerPlan>,
    pub(super) consumers: Vec<ConsumerPlan>,
    /// Clients that do not keep to the protocol.
    pub(super) vandals: u64,
    /// Topics that come and go.
    pub(super) passing_topics: bool,
    pub(super) faults_for: Duration,
    pub(super) pause_between_acts: RangeInclusive<Duration>,
    pub(super) down_for: RangeInclusive<Duration>,
    pub(super) acts: Vec<Act>,
    pub(super) buggify: bool,
}

const KIB: u64 = 1024;

impl Plan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let cores = pick(random, &[1, 1, 2, 2, 3, 4]);
        // All of it in most seeds, else a few kinds that then come often.
        let few = random.one_in(2);
        let mut acts = Vec::new();
        for (act, weight) in Act::ALL {
            if !few || random.one_in(4) {
                acts.extend(std::iter::repeat_n(act, weight as usize));
            }
        }
        if acts.is_empty() {
            acts = vec![Act::Kill, Act::PowerLoss];
        }
        let segment_bytes = *pick(random, &[128, 192, 256, 512]) * KIB;
        let topics = draw_topics(random);
        let producers = ProducerPlan::draw_some(random, topics.len());
        let busy = random.one_in(2);
        Self {
            cores: *cores,
            cores_change_one_in: *pick(random, &[1_000, 4]),
            broker: draw_broker(random, *cores, segment_bytes),
            native: draw_native(random),
            link: draw_link(random),
            consumers: (0..random.between(1, 4)).map(|_| ConsumerPlan::draw(random)).collect(),
            vandals: random.below(3),
            passing_topics: random.one_in(2),
            topics,
            producers,
            faults_for: milliseconds(random.between(3_000, 10_000)),
            pause_between_acts: milliseconds(20)..=milliseconds(if busy {
                400
            } else {
                random.between(400, 2_500)
            }),
            down_for: milliseconds(1)..=milliseconds(random.between(10, 1_500)),
            acts,
            buggify: random.one_in(2),
        }
    }

    /// The options of a process with this many cores.
    pub(super) fn broker(&self, cores: u16, core_addresses: Vec<String>) -> BrokerOptions {
        BrokerOptions { cores, core_addresses, ..self.broker.clone() }
    }
}

fn draw_topics(random: &mut Rng) -> Vec<TopicPlan> {
    let count = random.between(1, 3);
    let draw = |number| {
        let time_ms = Some(random.between(500, 8_000));
        let bytes = Some(random.between(20, 400) * KIB);
        let retention = match random.below(5) {
            0 => Retention { time_ms, ..Retention::UNLIMITED },
            1 => Retention { bytes, ..Retention::UNLIMITED },
            2 => Retention { time_ms, bytes, ..Retention::UNLIMITED },
            _ => Retention::UNLIMITED,
        };
        let partitions = random.between(1, 5) as u32;
        TopicPlan::open(format!("lasting-{number}"), partitions, retention)
    };
    (0..count).map(draw).collect()
}

fn draw_broker(random: &mut Rng, cores: u16, segment_bytes: u64) -> BrokerOptions {
    let checkpoint_bytes = *pick(random, &[64, 300, 4_000]) * KIB;
    BrokerOptions {
        cache_bytes: *pick(random, &[0, 64, 1_000]) * KIB,
        shard_cache_bytes_min: (*pick(random, &[8, 64, 512]) * KIB) as usize,
        request_bytes: *pick(random, &[16, 200, 4_000]) * KIB,
        segment_bytes,
        pool_segments: random.below(3) as usize,
        checkpoint_bytes: checkpoint_bytes / 4..=checkpoint_bytes,
        retention_tick: milliseconds(random.between(20, 800)),
        ..BrokerOptions::new(DATA_DIR.into(), cores)
    }
}

fn draw_native(random: &mut Rng) -> Options {
    let millis = |random: &mut Rng, low, high| milliseconds(random.between(low, high));
    Options {
        connections_max: random.between(12, 40) as usize,
        handshake_timeout: millis(random, 600, 3_000),
        idle_timeout: millis(random, 2_000, 20_000),
        write_timeout: millis(random, 1_000, 5_000),
        frame_timeout: millis(random, 1_000, 5_000),
        request_timeout: millis(random, 1_000, 4_000),
        frame_bytes_max: *pick(random, &[128, 1_024]) * KIB as u32,
        in_flight_requests_max: *pick(random, &[1, 2, 5, 64]),
        in_flight_bytes_max: *pick(random, &[4, 64, 1_024]) * KIB as u32,
        receive_bytes_max: *pick(random, &[8, 100, 4_000]) * KIB,
        reply_bytes_max: *pick(random, &[8, 100, 4_000]) * KIB,
        ..Options::default()
    }
}

fn draw_link(random: &mut Rng) -> LinkOptions {
    let noisy = random.one_in(2);
    let latency_us = *pick(random, &[200, 2_000, 20_000]);
    LinkOptions {
        latency: Duration::from_micros(latency_us / 4)..=Duration::from_micros(latency_us),
        loss_ppm: if noisy { random.below(20_000) as u32 } else { 0 },
        ..LinkOptions::default()
    }
}
