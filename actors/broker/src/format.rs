//! The checkpoint of a data shard: bounds, settings and producers of its partitions, and what their
//! groups have leased and settled, version 1.
//!
//! Owns: the stored form of [`State`] and [`Groups`], inside `barrage_cluster::format`'s envelope.
//! Must never: store payload, a hash map or anything derived.
//! Invariants: equal states give equal bytes; what is read back is equal to what was stored.

mod streams;

use barrage_cluster::catalog::PARTITIONS_MAX;
use barrage_cluster::format::{self, FormatError, Kind};
use barrage_model::{
    GroupId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Retention, Sequence,
    TopicId,
};
use barrage_world::planted;
use rkyv::{Archive, Deserialize, Serialize};

use crate::command::{PolicyV1, load_policy, store_policy};
use crate::queue::backlog::{Backlog, Saved};
use crate::queue::departures::Departures;
use crate::queue::window::{Mark, SavedChunk, State as MarkState, WORDS, Window};
use crate::shard::decide::{PRODUCERS_MAX, State};
use crate::shard::groups::{GroupConfig, Groups, QueueGroup, Slot};
use crate::shard::partition::{Partition, PartitionConfig};
use crate::shard::producers::{Producer, Remembered, WINDOW};

const VERSION: u8 = 1;

/// No record has ever been counted up to here; and counting on from there cannot overflow.
const OFFSET_MAX: Offset = Offset(1 << 62);

#[derive(Archive, Serialize, Deserialize)]
struct StateV1 {
    log_time_ms: i64,
    sweep_after_ms: i64,
    catalog_revision: u64,
    partitions: Vec<PartitionV1>,
    groups: Vec<GroupV1>,
    streams: Vec<streams::StreamV1>,
    clock_ms: u64,
    digest: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV1 {
    topic: u64,
    partition: u32,
    start_offset: u64,
    next_offset: u64,
    retention_time_ms: Option<u64>,
    retention_bytes: Option<u64>,
    revision: u64,
    producers: Vec<ProducerV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct ProducerV1 {
    id: i64,
    epoch: i16,
    last_ms: i64,
    /// First sequence, last sequence, base offset; oldest first.
    batches: Vec<(i32, i32, u64)>,
}

#[derive(Archive, Serialize, Deserialize)]
struct GroupV1 {
    slot: (u64, u32, u64),
    policy: PolicyV1,
    revision: u64,
    start: u64,
    fresh: u64,
    next_tag: u32,
    /// Producer (-1 for none), first sequence, offsets.
    departures: (i64, i32, Vec<u64>),
    chunks: Vec<ChunkV1>,
}

/// No words of settled bits mean that all are settled.
#[derive(Archive, Serialize, Deserialize)]
struct ChunkV1 {
    number: u64,
    settled: Vec<u64>,
    marks: Vec<MarkV1>,
}

/// The state: 0 leased, 1 delayed, 2 visible, 3 dying.
#[derive(Archive, Serialize, Deserialize)]
struct MarkV1 {
    at: u16,
    state: u8,
    deliveries: u16,
    tag: u32,
    first_ms: u64,
    until_ms: u64,
}

/// The state as bytes.
pub(crate) fn encode(state: &State, groups: &Groups) -> Vec<u8> {
    let partitions = state.partitions.iter().map(store_partition).collect();
    let stored = StateV1 {
        log_time_ms: state.log_time_ms,
        sweep_after_ms: state.sweep_after_ms,
        catalog_revision: state.catalog_revision,
        partitions,
        groups: groups.slots.iter().map(store_group).collect(),
        streams: streams::store(&groups.streams),
        clock_ms: groups.clock_ms,
        digest: groups.digest,
    };
    format::seal(Kind::ShardCheckpoint, VERSION, &stored)
}

/// The state in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<(State, Groups), FormatError> {
    let (version, payload) = format::open(Kind::ShardCheckpoint, bytes)?;
    if version != VERSION {
        return Err(FormatError::Version { found: version });
    }
    let stored = format::decode::<StateV1>(payload)?;
    let partitions: std::collections::BTreeMap<_, _> =
        stored.partitions.into_iter().map(load_partition).collect();
    let bounded = |partition: &Partition| {
        partition.start_offset <= partition.next_offset && partition.next_offset <= OFFSET_MAX
    };
    let producers = partitions.values().map(|partition| partition.producers.len()).sum();
    if !partitions.values().all(bounded)
        || partitions.len() as u64 > PARTITIONS_MAX
        || producers > PRODUCERS_MAX
    {
        return Err(FormatError::Content);
    }
    let count = stored.groups.len();
    let slots: Option<std::collections::BTreeMap<_, _>> =
        stored.groups.into_iter().map(load_group).collect();
    let slots = slots.ok_or(FormatError::Content)?;
    let within = |(slot, group): (&Slot, &QueueGroup)| {
        let partition = partitions.get(&slot.key);
        partition.is_some_and(|partition| group.backlog.fresh() <= partition.next_offset)
    };
    if slots.len() != count || !slots.iter().all(within) {
        return Err(FormatError::Content);
    }
    let streams = streams::load(stored.streams).ok_or(FormatError::Content)?;
    let groups = Groups { slots, streams, clock_ms: stored.clock_ms, digest: stored.digest };
    let state = State {
        partitions,
        log_time_ms: stored.log_time_ms,
        producers,
        sweep_after_ms: stored.sweep_after_ms,
        catalog_revision: stored.catalog_revision,
    };
    Ok((state, groups))
}

fn store_group((slot, group): (&Slot, &QueueGroup)) -> GroupV1 {
    let Saved { window, fresh, next_tag, departures } = group.backlog.save();
    let chunk = |chunk: SavedChunk| ChunkV1 {
        number: chunk.number,
        settled: chunk.settled.map(|words| words.to_vec()).unwrap_or_default(),
        marks: chunk.marks.iter().map(store_mark).collect(),
    };
    let producer = departures.producer.unwrap_or(ProducerId::NONE);
    let list = departures.list.iter().map(|offset| offset.0).collect();
    GroupV1 {
        slot: (slot.key.topic.0, slot.key.partition.0, slot.group.0),
        policy: store_policy(&group.config.policy),
        revision: group.config.revision,
        start: window.start().0,
        fresh: fresh.0,
        next_tag,
        departures: (producer.0, departures.first.0, list),
        chunks: match planted("broker-leases-not-in-checkpoint") {
            // Wrong: after a restart what was leased or acked is delivered again.
            true => Vec::new(),
            false => window.chunks().map(chunk).collect(),
        },
    }
}

fn load_group(stored: GroupV1) -> Option<(Slot, QueueGroup)> {
    let (topic, partition, group) = stored.slot;
    let key = PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) };
    let chunk = |chunk: ChunkV1| {
        let settled = match chunk.settled.as_slice() {
            [] => None,
            words => Some(<[u64; WORDS]>::try_from(words).ok()?),
        };
        let marks: Option<Vec<_>> = chunk.marks.into_iter().map(load_mark).collect();
        Some(SavedChunk { number: chunk.number, settled, marks: marks? })
    };
    // One by one: taken apart a chunk is several times as large as it is stored.
    let mut is_sound = true;
    let chunks = stored.chunks.into_iter().map_while(|stored| {
        let chunk = chunk(stored);
        is_sound &= chunk.is_some();
        chunk
    });
    let window = Window::from_chunks(Offset(stored.start), chunks)?;
    if !is_sound {
        return None;
    }
    let (producer, first, list) = stored.departures;
    let departures = Departures {
        producer: Some(ProducerId(producer)).filter(|producer| producer.is_some()),
        first: Sequence(first),
        list: list.into_iter().map(Offset).collect(),
    };
    let backlog = Backlog::restore(Saved {
        window,
        fresh: Offset(stored.fresh),
        next_tag: stored.next_tag,
        departures,
    })?;
    let config = GroupConfig { policy: load_policy(stored.policy), revision: stored.revision };
    Some((Slot { key, group: GroupId(group) }, QueueGroup { config, backlog }))
}

fn store_mark((at, mark): &(u16, Mark)) -> MarkV1 {
    let state = match mark.state {
        MarkState::Leased => 0,
        MarkState::Delayed => 1,
        MarkState::Visible => 2,
        MarkState::Dying => 3,
    };
    let Mark { deliveries, tag, first_ms, until_ms, .. } = *mark;
    MarkV1 { at: *at, state, deliveries, tag, first_ms, until_ms }
}

fn load_mark(stored: MarkV1) -> Option<(u16, Mark)> {
    let state = match stored.state {
        0 => MarkState::Leased,
        1 => MarkState::Delayed,
        2 => MarkState::Visible,
        3 => MarkState::Dying,
        _ => return None,
    };
    let MarkV1 { at, deliveries, tag, first_ms, until_ms, .. } = stored;
    Some((at, Mark { state, deliveries, tag, first_ms, until_ms }))
}

fn store_partition((key, partition): (&PartitionKey, &Partition)) -> PartitionV1 {
    PartitionV1 {
        topic: key.topic.0,
        partition: key.partition.0,
        start_offset: partition.start_offset.0,
        next_offset: partition.next_offset.0,
        retention_time_ms: partition.config.retention.time_ms,
        retention_bytes: partition.config.retention.bytes,
        revision: partition.config.revision,
        producers: match planted("broker-producer-state-not-in-checkpoint") {
            // Wrong: after a restart a repeated batch is not known to be one.
            true => Vec::new(),
            false => partition.producers.iter().map(store_producer).collect(),
        },
    }
}

fn store_producer((id, producer): (&ProducerId, &Producer)) -> ProducerV1 {
    let batch = |batch: &Remembered| (batch.first.0, batch.last.0, batch.base_offset.0);
    ProducerV1 {
        id: id.0,
        epoch: producer.epoch.0,
        last_ms: producer.last_ms,
        batches: producer.batches().iter().map(batch).collect(),
    }
}

fn load_partition(stored: PartitionV1) -> (PartitionKey, Partition) {
    let key =
        PartitionKey { topic: TopicId(stored.topic), partition: PartitionId(stored.partition) };
    let retention = Retention { time_ms: stored.retention_time_ms, bytes: stored.retention_bytes };
    let partition = Partition {
        start_offset: Offset(stored.start_offset),
        next_offset: Offset(stored.next_offset),
        config: PartitionConfig { retention, revision: stored.revision },
        producers: stored.producers.into_iter().map(load_producer).collect(),
    };
    (key, partition)
}

fn load_producer(stored: ProducerV1) -> (ProducerId, Producer) {
    let epoch = ProducerEpoch(stored.epoch);
    let mut producer = Producer::new(epoch, stored.last_ms);
    for (first, last, base_offset) in stored.batches.into_iter().take(WINDOW) {
        let batch = Remembered {
            first: Sequence(first),
            last: Sequence(last),
            base_offset: Offset(base_offset),
        };
        producer.remember(epoch, batch, stored.last_ms);
    }
    (ProducerId(stored.id), producer)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use std::rc::Rc;

    use super::*;
    use crate::queue::backlog::Policy;
    use crate::queue::filter::StoredFilter;
    use crate::shard::decide::BatchRow;
    use crate::shard::groups::{Op, OpenGroup, Outcome, What};
    use crate::shard::producers::ProducerStamp;
    use barrage_model::Backoff;

    fn state() -> State {
        let mut state = State::default();
        for number in 0..3 {
            let key = PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
            let retention = Retention { time_ms: None, bytes: Some(1 << 30) };
            state.open(key, PartitionConfig { retention, revision: 4 });
            for batch in 0..7 {
                let stamp = ProducerStamp {
                    id: ProducerId(i64::from(number)),
                    epoch: ProducerEpoch(2),
                    sequence: Sequence(batch * 5),
                };
                let row = BatchRow { record_count: 5, producer: Some(stamp) };
                state.accept(key, &row, 1000);
            }
            state.advance_start(key, Offset(6));
        }
        state.end_entry(1000);
        state
    }

    /// A group with records leased, given back, acked and on their way.
    fn groups() -> Groups {
        let (mut groups, state) = (Groups::default(), state());
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(1) };
        let slot = Slot { key, group: GroupId(5) };
        let filter = Some(Rc::new(StoredFilter::new("keys:stock.#".to_owned())));
        let policy = Policy { deliveries_max: Some(1), backoff: Backoff::rocketmq(), filter };
        let config = GroupConfig { policy, revision: 3 };
        groups.open(&state, &[OpenGroup { slot, config, at_end: false }]);
        groups.pass_to(9);
        let mut apply = |what| groups.apply(&state, 1000, &Op { slot, what });
        let Outcome::Leased(leased) = apply(What::Lease { count_max: 20, visibility_ms: 5_000 })
        else {
            unreachable!("the group is open")
        };
        let receipts: Vec<_> = leased.iter().map(|one| one.receipt).collect();
        apply(What::Ack(receipts[..3].to_vec()));
        apply(What::Nack(vec![(receipts[5], None), (receipts[7], None), (receipts[8], None)]));
        apply(What::Release(vec![receipts[10]]));
        apply(What::Renumber { producer: ProducerId(77), lost: Vec::new() });
        apply(What::Depart { count_max: 2 });
        groups
    }

    #[test]
    fn groups_survive_the_round_trip_and_go_on_alike() {
        let bytes = encode(&state(), &groups());
        let (_, restored) = decode(&bytes).unwrap();
        assert_eq!(encode(&state(), &restored), bytes);
        let (slot, group) = restored.slots.first_key_value().unwrap();
        let counts = group.backlog.counts(state().partitions[&slot.key].next_offset);
        assert_eq!((counts.leased, counts.dying, counts.visible), (13, 3, 10));
        assert_eq!(group.backlog.start(), Offset(9));
        assert_eq!(Some(&group.config), groups().slots.get(slot).map(|group| &group.config));
        assert_eq!((restored.clock_ms, restored.digest), (9, groups().digest));
    }

    #[test]
    fn groups_that_cannot_be_are_refused() {
        let mut elsewhere = groups();
        let (slot, group) = elsewhere.slots.pop_first().unwrap();
        let key = PartitionKey { topic: TopicId(9), ..slot.key };
        elsewhere.slots.insert(Slot { key, ..slot }, group);
        let decoded = decode(&encode(&state(), &elsewhere));
        assert_eq!(decoded.err(), Some(FormatError::Content));
        let mut shorter = state();
        let cut = |partition: &mut Partition| partition.next_offset = Offset(20);
        shorter.partitions.entry(slot.key).and_modify(cut);
        let decoded = decode(&encode(&shorter, &groups()));
        assert_eq!(decoded.err(), Some(FormatError::Content));
    }

    #[test]
    fn a_state_survives_the_round_trip() {
        for state in [State::default(), state()] {
            let (restored, _) = decode(&encode(&state, &Groups::default())).unwrap();
            assert_eq!(restored, state);
        }
    }

    #[test]
    fn a_state_beyond_its_bounds_is_refused() {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
        let check = |change: &dyn Fn(&mut Partition)| {
            let mut state = state();
            state.partitions.entry(key).and_modify(change);
            let decoded = decode(&encode(&state, &Groups::default()));
            assert_eq!(decoded.err(), Some(FormatError::Content));
        };
        check(&|partition| partition.start_offset = Offset(partition.next_offset.0 + 1));
        check(&|partition| partition.next_offset = Offset(u64::MAX));
        check(&|partition| {
            let producers = 0..=PRODUCERS_MAX as i64;
            let new = |id| (ProducerId(id), Producer::new(ProducerEpoch(0), 0));
            partition.producers = producers.map(new).collect();
        });
    }

    #[test]
    fn golden_bytes() {
        let (log_time_ms, sweep_after_ms, catalog_revision) = (5, 6, 9);
        let state = State { log_time_ms, sweep_after_ms, catalog_revision, ..State::default() };
        let groups = Groups { clock_ms: 7, digest: 8, ..Groups::default() };
        let bytes = encode(&state, &groups);
        assert_eq!(&bytes[..8], &[4, 1, 0, 0, 60, 0, 0, 0]);
        assert_eq!(&bytes[60..], &[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]);
        let numbers = [5_u64, 6, 9].map(u64::to_le_bytes).concat();
        assert_eq!(&bytes[12..36], numbers);
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        let bytes = encode(&state(), &groups());
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x04;
            assert!(decode(&broken).is_err());
            assert!(decode(&bytes[..at]).is_err());
        }
    }
}
