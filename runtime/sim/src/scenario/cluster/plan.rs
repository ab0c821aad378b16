//! What a seed asks for: how many nodes, their configuration, the workload and the mix of faults.
//!
//! Owns: every number of a run that is not the scheduler's. Must never: be drawn from anything
//! but the seed.

use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_broker::BrokerOptions;
use barrage_model::group::Order;
use barrage_model::{Retention, TopicOrder};
use barrage_native::Options;
use barrage_world::sim::{LinkOptions, Rng};

use super::delays::DelaysPlan;
use super::process::DATA_DIR;
use super::streams::StreamsPlan;
use crate::workload::{
    ConsumerPlan, GroupPlan, ProducerPlan, RivalPlan, TopicPlan, WorkerPlan, milliseconds, pick,
};

/// A kind of fault, or of order from an operator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Act {
    Kill,
    KillLeader,
    /// A node is away for long.
    Away,
    KillAll,
    PowerLoss,
    PowerLossOfAll,
    Stop,
    RollingRestart,
    Pause,
    CutOneWay,
    Halves,
    Isolate,
    IsolateLeader,
    Bridge,
    CutClients,
    SlowLink,
    LossyLink,
    HealNetwork,
    ClockJump,
    ClockRate,
    FlushError,
    WriteError,
    ReadError,
    DiskStall,
    /// Every flush of a disk takes long for a while.
    SlowDisk,
    DiskFull,
    /// What lies sealed on a disk rots while no process looks.
    Damage,
    /// An order is given, and something happens to whoever carries it out.
    Strike,
    Transfer,
    Balance,
    Copies,
    /// A node is emptied, a fresh one comes in its place.
    Swap,
    /// A node is lost with its disk, a fresh one comes in its place.
    Replace,
}

impl Act {
    /// All of them, each with how often it is drawn when it is in the mix.
    const ALL: [(Self, u64); 33] = [
        (Self::Kill, 4),
        (Self::KillLeader, 4),
        (Self::Away, 2),
        (Self::KillAll, 1),
        (Self::PowerLoss, 4),
        (Self::PowerLossOfAll, 1),
        (Self::Stop, 2),
        (Self::RollingRestart, 1),
        (Self::Pause, 3),
        (Self::CutOneWay, 3),
        (Self::Halves, 2),
        (Self::Isolate, 2),
        (Self::IsolateLeader, 6),
        (Self::Bridge, 1),
        (Self::CutClients, 1),
        (Self::SlowLink, 2),
        (Self::LossyLink, 2),
        (Self::HealNetwork, 7),
        (Self::ClockJump, 1),
        (Self::ClockRate, 1),
        (Self::FlushError, 1),
        (Self::WriteError, 1),
        (Self::ReadError, 1),
        (Self::DiskStall, 2),
        (Self::SlowDisk, 2),
        (Self::DiskFull, 1),
        (Self::Damage, 2),
        (Self::Strike, 6),
        (Self::Transfer, 4),
        (Self::Balance, 1),
        (Self::Copies, 1),
        (Self::Swap, 2),
        (Self::Replace, 2),
    ];

    /// The name it is counted under.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillLeader => "kill-leader",
            Self::Away => "away",
            Self::KillAll => "kill-of-all",
            Self::PowerLoss => "power-loss",
            Self::PowerLossOfAll => "power-loss-of-all",
            Self::Stop => "orderly-stop",
            Self::RollingRestart => "rolling-restart",
            Self::Pause => "pause",
            Self::CutOneWay => "cut-one-way",
            Self::Halves => "partition",
            Self::Isolate => "isolate",
            Self::IsolateLeader => "isolate-leader",
            Self::Bridge => "bridge",
            Self::CutClients => "cut-clients",
            Self::SlowLink => "slow-link",
            Self::LossyLink => "lossy-link",
            Self::HealNetwork => "heal-network",
            Self::ClockJump => "clock-jump",
            Self::ClockRate => "clock-rate",
            Self::FlushError => "flush-error",
            Self::WriteError => "write-error",
            Self::ReadError => "read-error",
            Self::DiskStall => "disk-stall",
            Self::SlowDisk => "slow-disk",
            Self::DiskFull => "disk-full",
            Self::Damage => "damage",
            Self::Strike => "strike",
            Self::Transfer => "transfer",
            Self::Balance => "balance",
            Self::Copies => "copies",
            Self::Swap => "swap",
            Self::Replace => "replace",
        }
    }
}

/// Everything a seed decides.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Members that there are when all is well.
    pub(super) nodes: usize,
    /// Clients come while the founder is still alone.
    pub(super) growing: bool,
    /// Copies wanted from the start on.
    pub(super) copies: u8,
    /// Cores of each node, by its place; one place is spare.
    pub(super) cores: Vec<u16>,
    pub(super) broker: BrokerOptions,
    pub(super) native: Options,
    pub(super) link: LinkOptions,
    pub(super) topics: Vec<TopicPlan>,
    pub(super) producers: Vec<ProducerPlan>,
    pub(super) consumers: Vec<ConsumerPlan>,
    /// Topics that come and go.
    pub(super) passing_topics: bool,
    pub(super) faults_for: Duration,
    pub(super) pause_between_acts: RangeInclusive<Duration>,
    pub(super) down_for: RangeInclusive<Duration>,
    pub(super) acts: Vec<Act>,
    pub(super) buggify: bool,
    /// In the scenario of that name.
    pub(super) queue: Option<QueuePlan>,
    /// In the scenario of that name.
    pub(super) streams: Option<StreamsPlan>,
    /// In the scenario of that name.
    pub(super) delays: Option<DelaysPlan>,
    /// Producers of the last topic, of which one at a time may write.
    pub(super) rivals: Vec<RivalPlan>,
}

const KIB: u64 = 1024;
const SEGMENT_BYTES_MIN: u64 = 128 * KIB;
/// How old records get that are still delivered.
const AGES_MS: [u64; 3] = [1_000, 2_000, 8_000];
const CORES: [u16; 3] = [1, 1, 2];

impl Plan {
    pub(super) fn draw(random: &mut Rng) -> Self {
        let nodes = *pick(random, &[3, 3, 3, 4, 5]);
        // Half of the kinds in most seeds, else a few that then come often.
        let share = *pick(random, &[2, 2, 4]);
        // What an order comes to when whoever carries it out ends is asked in every run.
        let mut acts = vec![Act::HealNetwork, Act::Strike, Act::Strike];
        for (act, weight) in Act::ALL {
            if random.one_in(share) {
                acts.extend(std::iter::repeat_n(act, weight as usize));
            }
        }
        // Topics let go of what is old: who was away for long has to be copied anew.
        let retaining = random.one_in(2);
        let topics = draw_topics(random, retaining);
        let busy = random.one_in(2);
        Self {
            nodes,
            growing: random.one_in(3),
            copies: if nodes == 5 { *pick(random, &[3, 5]) } else { 3 },
            cores: (0..=nodes).map(|_| *pick(random, &CORES)).collect(),
            broker: draw_broker(random, retaining),
            native: Options::default(),
            link: draw_link(random),
            producers: draw_producers(random, topics.len()),
            consumers: (0..random.between(1, 3)).map(|_| ConsumerPlan::draw(random)).collect(),
            passing_topics: random.one_in(2),
            topics,
            faults_for: milliseconds(random.between(4_000, 16_000)),
            pause_between_acts: milliseconds(20)..=milliseconds(if busy {
                600
            } else {
                random.between(600, 3_000)
            }),
            down_for: milliseconds(1)..=milliseconds(random.between(10, 4_000)),
            acts,
            buggify: random.one_in(2),
            queue: None,
            streams: None,
            delays: None,
            rivals: Vec::new(),
        }
    }

    /// As [`Self::draw`], with producers that want a topic each for itself, mostly.
    pub(super) fn draw_cluster(random: &mut Rng) -> Self {
        let mut plan = Self::draw(random);
        if !random.one_in(3) {
            plan.rivals = RivalPlan::draw_some(random);
            let (name, retention, order) =
                ("ledger".to_owned(), Retention::UNLIMITED, TopicOrder::Global);
            plan.topics.push(TopicPlan { name, partitions: 1, retention, order });
        }
        plan
    }

    /// As [`Self::draw`], with a queue group beside the readers. A record that is sent twice could
    /// not be told from one that is delivered twice: so producers are idempotent.
    pub(super) fn draw_queue(random: &mut Rng) -> Self {
        let mut plan = Self::draw(random);
        plan.queue = Some(QueuePlan::draw(random));
        plan.producers.iter_mut().for_each(|producer| producer.idempotent = true);
        // Not drawn: the seeds of before keep their plans otherwise.
        let mut apart = random.clone();
        let queue = plan.queue.as_mut().zip(plan.topics.first_mut());
        if let Some((queue, topic)) = queue.filter(|(_, topic)| topic.retention.is_unlimited()) {
            topic.retention.until_acked = apart.one_in(2);
            topic.retention.ttl_ms = apart.one_in(4).then(|| *pick(&mut apart, &AGES_MS));
            queue.group.ttl_ms = topic.retention.ttl_ms;
            if topic.retention.until_acked {
                // The smallest that are allowed, so that little of one is wanted soon.
                plan.broker.segment_bytes = SEGMENT_BYTES_MIN;
            }
        }
        plan
    }

    /// As [`Self::draw_queue`], and some of what is sent is delayed: not much, as nearly every
    /// record that comes is an entry of its own.
    pub(super) fn draw_delays(random: &mut Rng) -> Self {
        let mut plan = Self::draw_queue(random);
        let delays = DelaysPlan::draw(random);
        for producer in &mut plan.producers {
            producer.delay_one_in = Some(delays.one_in);
            producer.records_max = producer.records_max.min(5);
            producer.think_time = milliseconds(1)..=milliseconds(200);
        }
        plan.delays = Some(delays);
        if let Some(queue) = plan.queue.as_mut().filter(|_| random.one_in(2)) {
            queue.group.max_age_ms = Some(*pick(random, &AGES_MS));
        }
        plan
    }

    /// As [`Self::draw`], with a stream group beside the readers. Faults go on for longer than the
    /// sessions of its members.
    pub(super) fn draw_streams(random: &mut Rng) -> Self {
        let mut plan = Self::draw(random);
        plan.streams = Some(StreamsPlan::draw(random));
        plan.faults_for = milliseconds(random.between(8_000, 20_000));
        plan
    }
}

/// A queue group of the first topic, and who works for it.
#[derive(Clone, Debug)]
pub(super) struct QueuePlan {
    pub(super) group: GroupPlan,
    pub(super) workers: Vec<WorkerPlan>,
    pub(super) dead_partitions: u32,
}

impl QueuePlan {
    fn draw(random: &mut Rng) -> Self {
        let deliveries_max = *pick(random, &[None, Some(1), Some(3)]);
        let backoff = *pick(random, &["0ms", "300ms", "100ms..2s"]);
        // Not drawn: the seeds of before keep their plans.
        let filter = (backoff == "300ms").then_some("keys:#");
        let order = if backoff == "100ms..2s" { Order::Key } else { Order::None };
        let (name, dead_letter) = ("workers", "dead");
        let (max_age_ms, ttl_ms) = (None, None);
        let group = GroupPlan {
            name,
            deliveries_max,
            max_age_ms,
            ttl_ms,
            dead_letter,
            backoff,
            filter,
            order,
        };
        Self {
            group,
            workers: (0..random.between(1, 4)).map(|_| WorkerPlan::draw(random)).collect(),
            dead_partitions: random.between(1, 2) as u32,
        }
    }
}

/// Where nothing is let go, what came first must still be there at the end, on every copy.
fn draw_topics(random: &mut Rng, retaining: bool) -> Vec<TopicPlan> {
    let count = random.between(1, 2);
    let draw = |number| {
        let partitions = random.between(1, 4) as u32;
        let retention = if retaining { draw_retention(random) } else { Retention::UNLIMITED };
        TopicPlan::open(format!("lasting-{number}"), partitions, retention)
    };
    (0..count).map(draw).collect()
}

fn draw_retention(random: &mut Rng) -> Retention {
    let time_ms = Some(random.between(500, 3_000));
    let bytes = Some(random.between(4, 60) * KIB);
    match random.below(3) {
        0 => Retention { time_ms, ..Retention::UNLIMITED },
        1 => Retention { bytes, ..Retention::UNLIMITED },
        _ => Retention { time_ms, bytes, ..Retention::UNLIMITED },
    }
}

/// Somebody writes to every topic; nobody waits long for a node that may be gone.
fn draw_producers(random: &mut Rng, topics: usize) -> Vec<ProducerPlan> {
    let mut producers = ProducerPlan::draw_some(random, topics);
    let first = producers.first().cloned();
    producers.extend(first.into_iter().cycle().take(topics.saturating_sub(producers.len())));
    for (number, producer) in producers.iter_mut().enumerate() {
        producer.topic = number.checked_rem(topics);
        producer.patience = producer.patience.min(milliseconds(3_000));
        let fast = *producer.think_time.end() < milliseconds(10);
        producer.think_time = milliseconds(1)..=milliseconds(if fast { 30 } else { 150 });
        producer.records_max = producer.records_max.min(20);
    }
    producers
}

fn draw_broker(random: &mut Rng, retaining: bool) -> BrokerOptions {
    // The smallest that are allowed, so that whole ones can go.
    let segments = if retaining { [128, 128, 192] } else { [128, 512, 4_096] };
    let checkpoint_bytes = *pick(random, &[100, 1_000, 64_000]) * KIB;
    BrokerOptions {
        shards: random.between(1, 4) as u32,
        cache_bytes: *pick(random, &[64, 1_000]) * KIB,
        shard_cache_bytes_min: (*pick(random, &[8, 64, 512]) * KIB) as usize,
        request_bytes: *pick(random, &[200, 4_000]) * KIB,
        segment_bytes: *pick(random, &segments) * KIB,
        pool_segments: random.below(3) as usize,
        checkpoint_bytes: checkpoint_bytes / 4..=checkpoint_bytes,
        retention_tick: milliseconds(random.between(50, 800)),
        ..BrokerOptions::new(DATA_DIR.into(), 1)
    }
}

fn draw_link(random: &mut Rng) -> LinkOptions {
    let noisy = random.one_in(2);
    let latency_us = *pick(random, &[200, 2_000, 10_000]);
    LinkOptions {
        latency: Duration::from_micros(latency_us / 4)..=Duration::from_micros(latency_us),
        loss_ppm: if noisy { random.below(10_000) as u32 } else { 0 },
        ..LinkOptions::default()
    }
}
