//! The checkpoint of a data shard: bounds, settings and producers of its partitions, and what their
//! groups have leased and settled, version 2: in parts, each in `barrage_cluster::format`'s
//! envelope.
//!
//! ```text
//! Head, then per partition: Partition, Producers of it, ...
//!       then per queue group and partition: Group, Chunks of it, ...
//!       then per stream group: Stream
//!       then per partition with delayed records: Delays, DelayChunks of it, ...
//! ```
//!
//! Owns: the stored form of [`State`] and [`Groups`]. To take it shares what may be large, a
//! pointer per partition, stream group and 1,024 records of a window; parts are made from that one
//! by one. Must never: store payload, a hash map or anything derived.
//! Invariants: equal states give equal parts; what is read back is equal to what was stored; making
//! a part, and reading one, takes well under a millisecond, whatever the state holds.

mod streams;

use std::iter;
use std::ops::Bound;
use std::rc::Rc;

use barrage_cluster::catalog::PARTITIONS_MAX;
use barrage_cluster::format::retention::RetentionV1;
use barrage_cluster::format::{self, FormatError, Kind};
use barrage_model::{
    GroupId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Sequence, TopicId,
    TopicOrder,
};
use barrage_world::planted;
use rkyv::{Archive, Deserialize, Serialize};

use crate::command::{PolicyV1, load_policy, store_policy};
use crate::queue::backlog::{Backlog, Saved};
use crate::queue::delays::Delays;
use crate::queue::departures::{Departures, Numbering};
use crate::queue::window::{Mark, SavedChunk, State as MarkState, WORDS, Window};
use crate::shard::decide::{PRODUCERS_MAX, State};
use crate::shard::groups::{GroupConfig, Groups, QueueGroup, Slot};
use crate::shard::holder::Holder;
use crate::shard::partition::{Partition, PartitionConfig};
use crate::shard::producers::{Producer, Remembered, WINDOW};
use crate::shard::streams::Stream;

const VERSION: u8 = 5;

/// No record has ever been counted up to here; and counting on from there cannot overflow.
const OFFSET_MAX: Offset = Offset(1 << 62);

/// Producers in a part: about 36 KiB.
const PRODUCERS_OF_PART: usize = 256;
/// A part ends with the chunk that brings it to so much: below 64 KiB.
const MARKS_OF_PART: usize = 512;
/// Settled bits take as much as so many marks.
const MARKS_OF_BITS: usize = 4;

/// Variants are only ever appended.
#[derive(Archive, Serialize, Deserialize)]
enum PartV2 {
    Head(HeadV2),
    Partition(PartitionV2),
    /// Of the partition before it.
    Producers(Vec<ProducerV1>),
    Group(GroupV2),
    /// Of the group before it, ascending.
    Chunks(Vec<ChunkV1>),
    Stream(streams::StreamV1),
    /// Delayed records of a partition.
    Delays(DelaysV1),
    /// Of the delayed records before it, ascending.
    DelayChunks(Vec<ChunkV1>),
}

#[derive(Archive, Serialize, Deserialize)]
struct DelaysV1 {
    topic: u64,
    partition: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct HeadV2 {
    log_time_ms: i64,
    sweep_after_ms: i64,
    catalog_revision: u64,
    clock_ms: u64,
    digest: u32,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV2 {
    topic: u64,
    partition: u32,
    start_offset: u64,
    next_offset: u64,
    delay_start: u64,
    delay_next: u64,
    retention: RetentionV1,
    is_global: bool,
    revision: u64,
    /// Who holds it, for how long when silent, and when it was heard of.
    holder: Option<(i64, u32, u64)>,
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
struct GroupV2 {
    slot: (u64, u32, u64),
    policy: PolicyV1,
    revision: u64,
    start: u64,
    fresh: u64,
    next_tag: u32,
    rewinds: u32,
    departures: Box<DeparturesV1>,
}

#[derive(Archive, Serialize, Deserialize)]
struct DeparturesV1 {
    /// Producer, topic, partition.
    numbering: Option<(i64, u64, u32)>,
    first: i32,
    list: Vec<u64>,
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

/// The state as it is now, in parts that are made when they are asked for.
pub(crate) fn parts(state: &State, groups: &Groups) -> impl Iterator<Item = Vec<u8>> + use<> {
    let head = HeadV2 {
        log_time_ms: state.log_time_ms,
        sweep_after_ms: state.sweep_after_ms,
        catalog_revision: state.catalog_revision,
        clock_ms: groups.clock_ms,
        digest: groups.digest,
    };
    let partitions = state.partitions.clone().into_iter();
    let slots = groups.slots.iter();
    let slots = slots.map(|(slot, group)| (*slot, group.config.clone(), group.backlog.save()));
    let slots: Vec<_> = slots.collect();
    let streams = groups.streams.groups.clone().into_iter();
    let delays = groups.delays.iter().map(|(key, delays)| (*key, delays.save()));
    let delays: Vec<_> = delays.collect();
    iter::once(PartV2::Head(head))
        .chain(partitions.flat_map(|(key, partition)| parts_of_partition(key, partition)))
        .chain(slots.into_iter().flat_map(|(slot, config, saved)| parts_of(slot, &config, saved)))
        .chain(streams.map(|(group, stream)| PartV2::Stream(streams::store(group, &stream))))
        .chain(delays.into_iter().flat_map(|(key, window)| parts_of_delays(key, window)))
        .map(|part| format::seal(Kind::ShardCheckpoint, VERSION, &part))
}

fn parts_of_partition(key: PartitionKey, partition: Rc<Partition>) -> impl Iterator<Item = PartV2> {
    let head = PartV2::Partition(store_partition(key, &partition));
    // Wrong when planted: after a restart a repeated batch is not known to be one.
    let forgets = planted("broker-producer-state-not-in-checkpoint");
    let mut from = Bound::Unbounded;
    let producers = iter::from_fn(move || {
        let rest = partition.producers.range((from, Bound::Unbounded)).filter(|_| !forgets);
        let some: Vec<_> = rest.take(PRODUCERS_OF_PART).map(store_producer).collect();
        from = Bound::Excluded(ProducerId(some.last()?.id));
        Some(PartV2::Producers(some))
    });
    iter::once(head).chain(producers)
}

fn parts_of(
    slot: Slot,
    config: &GroupConfig,
    saved: Saved,
) -> impl Iterator<Item = PartV2> + use<> {
    let Saved { window, fresh, next_tag, rewinds, departures } = saved;
    let numbering = |Numbering { producer, into }| (producer.0, into.topic.0, into.partition.0);
    let head = PartV2::Group(GroupV2 {
        slot: (slot.key.topic.0, slot.key.partition.0, slot.group.0),
        policy: store_policy(&config.policy),
        revision: config.revision,
        start: window.start().0,
        fresh: fresh.0,
        next_tag,
        rewinds,
        departures: Box::new(DeparturesV1 {
            numbering: departures.numbering.map(numbering),
            first: departures.first.0,
            list: departures.list.iter().map(|offset| offset.0).collect(),
        }),
    });
    // Wrong when planted: after a restart what was leased or acked is delivered again.
    let forgets = planted("broker-leases-not-in-checkpoint");
    let chunks = chunks_of(window).map(PartV2::Chunks);
    iter::once(head).chain(chunks.filter(move |_| !forgets))
}

fn parts_of_delays(key: PartitionKey, window: Window) -> impl Iterator<Item = PartV2> {
    let head = PartV2::Delays(DelaysV1 { topic: key.topic.0, partition: key.partition.0 });
    // Wrong when planted: after a restart nobody knows what waits.
    let forgets = planted("broker-delays-not-in-checkpoint");
    let chunks = chunks_of(window).map(PartV2::DelayChunks);
    iter::once(head).chain(chunks.filter(move |_| !forgets))
}

fn chunks_of(window: Window) -> impl Iterator<Item = Vec<ChunkV1>> {
    let mut next = 0;
    iter::from_fn(move || {
        let (mut some, mut marks) = (Vec::new(), 0);
        for chunk in window.chunks_from(next) {
            marks += chunk.marks.len() + MARKS_OF_BITS;
            some.push(store_chunk(&chunk));
            if marks >= MARKS_OF_PART {
                break;
            }
        }
        next = some.last()?.number + 1;
        Some(some)
    })
}

/// A state that is being read, part by part.
#[derive(Default)]
pub(crate) struct Restoring {
    has_head: bool,
    state: State,
    groups: Groups,
    /// Whose producers may follow.
    partition: Option<PartitionKey>,
    /// Whose chunks may follow.
    slot: Option<Slot>,
    delays: Option<PartitionKey>,
}

impl Restoring {
    /// The next part.
    ///
    /// # Errors
    /// Bytes that no state ever had there; then what was read so far is of no use.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), FormatError> {
        let (version, payload) = format::open(Kind::ShardCheckpoint, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        let part = format::decode::<PartV2>(payload)?;
        if matches!(part, PartV2::Head(_)) == self.has_head {
            return Err(FormatError::Content);
        }
        let taken = match part {
            PartV2::Head(head) => {
                self.take_head(&head);
                Some(())
            }
            PartV2::Partition(stored) => self.take_partition(&stored),
            PartV2::Producers(stored) => self.take_producers(stored),
            PartV2::Group(stored) => self.take_group(stored),
            PartV2::Chunks(stored) => self.take_chunks(stored),
            PartV2::Stream(stored) => self.take_stream(stored),
            PartV2::Delays(stored) => self.take_delays(&stored),
            PartV2::DelayChunks(stored) => self.take_delay_chunks(stored),
        };
        taken.ok_or(FormatError::Content)
    }

    /// All parts are here.
    ///
    /// # Errors
    /// When there was none.
    pub(crate) fn end(self) -> Result<(State, Groups), FormatError> {
        if self.has_head { Ok((self.state, self.groups)) } else { Err(FormatError::Content) }
    }

    fn take_head(&mut self, head: &HeadV2) {
        self.has_head = true;
        self.state.log_time_ms = head.log_time_ms;
        self.state.sweep_after_ms = head.sweep_after_ms;
        self.state.catalog_revision = head.catalog_revision;
        self.groups.clock_ms = head.clock_ms;
        self.groups.digest = head.digest;
    }

    fn take_partition(&mut self, stored: &PartitionV2) -> Option<()> {
        let (key, partition) = load_partition(stored);
        let is_bounded = partition.start_offset <= partition.next_offset
            && partition.next_offset <= OFFSET_MAX
            && partition.delay_start <= partition.delay_next
            && partition.delay_next <= OFFSET_MAX
            && !key.is_delay_store()
            && (self.state.partitions.len() as u64) < PARTITIONS_MAX;
        self.partition = Some(key);
        let is_new = self.state.partitions.insert(key, Rc::new(partition)).is_none();
        (is_bounded && is_new).then_some(())
    }

    fn take_producers(&mut self, stored: Vec<ProducerV1>) -> Option<()> {
        let partition = self.state.partitions.get_mut(&self.partition?)?;
        let producers = &mut Rc::make_mut(partition).producers;
        for stored in stored {
            let (id, producer) = load_producer(stored);
            if producers.insert(id, producer).is_some() {
                return None;
            }
            self.state.producers += 1;
        }
        (self.state.producers <= PRODUCERS_MAX).then_some(())
    }

    fn take_group(&mut self, stored: GroupV2) -> Option<()> {
        let (slot, group) = load_group(stored)?;
        let partition = self.state.partitions.get(&slot.key)?;
        let is_within = group.backlog.fresh() <= partition.next_offset;
        self.slot = Some(slot);
        let is_new = self.groups.slots.insert(slot, group).is_none();
        (is_within && is_new).then_some(())
    }

    fn take_chunks(&mut self, stored: Vec<ChunkV1>) -> Option<()> {
        let group = self.groups.slots.get_mut(&self.slot?)?;
        stored.into_iter().try_for_each(|chunk| group.backlog.restore(load_chunk(chunk)?))
    }

    fn take_delays(&mut self, stored: &DelaysV1) -> Option<()> {
        let (topic, partition) = (TopicId(stored.topic), PartitionId(stored.partition));
        let key = PartitionKey { topic, partition };
        let start = self.state.partitions.get(&key)?.delay_start;
        self.delays = Some(key);
        self.groups.delays.insert(key, Delays::new(start)).is_none().then_some(())
    }

    fn take_delay_chunks(&mut self, stored: Vec<ChunkV1>) -> Option<()> {
        let key = self.delays?;
        let end = self.state.partitions.get(&key)?.delay_next;
        let delays = self.groups.delays.get_mut(&key)?;
        stored.into_iter().try_for_each(|chunk| delays.restore(load_chunk(chunk)?, end))
    }

    fn take_stream(&mut self, stored: streams::StreamV1) -> Option<()> {
        let (group, stream): (GroupId, Stream) = streams::load(stored)?;
        self.groups.streams.groups.insert(group, Rc::new(stream)).is_none().then_some(())
    }
}

fn load_group(stored: GroupV2) -> Option<(Slot, QueueGroup)> {
    let (topic, partition, group) = stored.slot;
    let key = PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) };
    let DeparturesV1 { numbering, first, list } = *stored.departures;
    let load = |(producer, topic, partition)| Numbering {
        producer: ProducerId(producer),
        into: PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) },
    };
    let departures = Departures {
        numbering: numbering.map(load),
        first: Sequence(first),
        list: list.into_iter().map(Offset).collect(),
    };
    let (start, fresh) = (Offset(stored.start), Offset(stored.fresh));
    let backlog =
        Backlog::begin_restore(start, fresh, (stored.next_tag, stored.rewinds), departures)?;
    let config = GroupConfig { policy: load_policy(stored.policy), revision: stored.revision };
    Some((Slot { key, group: GroupId(group) }, QueueGroup::new(config, backlog)))
}

fn store_chunk(chunk: &SavedChunk) -> ChunkV1 {
    ChunkV1 {
        number: chunk.number,
        settled: chunk.settled.map(|words| words.to_vec()).unwrap_or_default(),
        marks: chunk.marks.iter().map(store_mark).collect(),
    }
}

fn load_chunk(stored: ChunkV1) -> Option<SavedChunk> {
    let settled = match stored.settled.as_slice() {
        [] => None,
        words => Some(<[u64; WORDS]>::try_from(words).ok()?),
    };
    let marks: Option<Vec<_>> = stored.marks.into_iter().map(load_mark).collect();
    Some(SavedChunk { number: stored.number, settled, marks: marks? })
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

fn store_partition(key: PartitionKey, partition: &Partition) -> PartitionV2 {
    PartitionV2 {
        topic: key.topic.0,
        partition: key.partition.0,
        start_offset: partition.start_offset.0,
        next_offset: partition.next_offset.0,
        delay_start: partition.delay_start.0,
        delay_next: partition.delay_next.0,
        retention: partition.config.retention.into(),
        is_global: partition.config.order.is_global(),
        revision: partition.config.revision,
        holder: partition.holder.map(|it| (it.producer.0, it.session_ms, it.heard_ms)),
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

fn load_partition(stored: &PartitionV2) -> (PartitionKey, Partition) {
    let key =
        PartitionKey { topic: TopicId(stored.topic), partition: PartitionId(stored.partition) };
    let retention = stored.retention.into();
    let (order, revision) = (TopicOrder::of(stored.is_global), stored.revision);
    let mut partition = Partition::new(PartitionConfig { retention, order, revision });
    // Wrong when planted: who restarts does not know who may write.
    let stored_holder = stored.holder.filter(|_| !planted("broker-holder-not-in-checkpoint"));
    partition.holder = stored_holder.map(|(producer, session_ms, heard_ms)| Holder {
        producer: ProducerId(producer),
        session_ms,
        heard_ms,
    });
    partition.start_offset = Offset(stored.start_offset);
    partition.next_offset = Offset(stored.next_offset);
    partition.delay_start = Offset(stored.delay_start);
    partition.delay_next = Offset(stored.delay_next);
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
    use crate::api::claim::{Claim, ClaimKind};
    use crate::queue::backlog::Policy;
    use crate::queue::filter::StoredFilter;
    use crate::shard::decide::BatchRow;
    use crate::shard::groups::{Op, OpenGroup, Outcome, What};
    use crate::shard::producers::ProducerStamp;
    use barrage_model::{Backoff, Retention};

    fn state() -> State {
        let mut state = State::default();
        for number in 0..3 {
            let key = PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
            let retention = Retention { bytes: Some(1 << 30), ..Retention::UNLIMITED };
            state.open(key, PartitionConfig { retention, order: TopicOrder::Global, revision: 4 });
            let claim = Claim {
                producer: ProducerId(i64::from(number)),
                kind: ClaimKind::Hold,
                session_ms: 9_000,
            };
            assert_eq!(state.claim(key, claim, (500, 700)), Some(Ok(())));
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
        // Of the delayed records of partition 1 the first is gone.
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(1) };
        state.accept(key.delay_store(), &BatchRow { record_count: 3, producer: None }, 1000);
        state.advance_delay_start(key, Offset(1));
        state
    }

    /// A group with records leased, given back, acked and on their way.
    fn groups() -> Groups {
        let (mut groups, state) = (Groups::default(), state());
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(1) };
        let slot = Slot { key, group: GroupId(5) };
        let filter = Some(Rc::new(StoredFilter::new("keys:stock.#".to_owned())));
        let (deliveries_max, backoff) = (Some(1), Backoff::rocketmq());
        let policy = Policy { deliveries_max, buries: true, backoff, filter, ..Policy::default() };
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
        let into = PartitionKey { topic: TopicId(8), partition: PartitionId(2) };
        let to = Numbering { producer: ProducerId(77), into };
        apply(What::Renumber { from: (None, Sequence(0)), to });
        apply(What::Depart { count_max: 2 });
        groups.wait(key, Offset(0), &[5_000, 6_000, u64::MAX]);
        groups.release(key, &[Offset(0)]);
        groups
    }

    fn encode(state: &State, groups: &Groups) -> Vec<Vec<u8>> {
        parts(state, groups).collect()
    }

    fn decode(parts: &[Vec<u8>]) -> Result<(State, Groups), FormatError> {
        let mut restoring = Restoring::default();
        parts.iter().try_for_each(|part| restoring.take(part))?;
        restoring.end()
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

    /// What is taken is the state of that moment, whatever happens while it is written.
    #[test]
    fn a_state_that_goes_on_is_stored_as_it_was() {
        let (mut state, mut groups) = (state(), groups());
        groups.streams = crate::fuzzing::sample_streams();
        let before = encode(&state, &groups);
        let mut taken = parts(&state, &groups);
        let first = taken.next();
        let (slot, key) = (
            *groups.slots.first_key_value().unwrap().0,
            PartitionKey { topic: TopicId(1), partition: PartitionId(0) },
        );
        state.advance_start(key, Offset(7));
        state.accept(key, &BatchRow { record_count: 9, producer: None }, 2_000);
        state.close(slot.key);
        groups.apply(&state, 2_000, &Op { slot, what: What::PassTime(vec![0]) });
        groups.close(&[slot]);
        let stream = *groups.streams.groups.first_key_value().unwrap().0;
        groups.streams.close(&[stream]);
        let after: Vec<Vec<u8>> = first.into_iter().chain(taken).collect();
        assert_eq!(after, before);
    }

    /// Thousands of producers and marks are many parts, none of them large.
    #[test]
    fn parts_are_small() {
        let (mut state, mut groups) = (state(), Groups::default());
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(1) };
        state.accept(key, &BatchRow { record_count: 50_000, producer: None }, 0);
        for number in 100..1_000 {
            let stamp = ProducerStamp {
                id: ProducerId(number),
                epoch: ProducerEpoch(0),
                sequence: Sequence(0),
            };
            state.accept(key, &BatchRow { record_count: 1, producer: Some(stamp) }, 0);
        }
        let slot = Slot { key, group: GroupId(5) };
        let config = GroupConfig { policy: Policy::default(), revision: 3 };
        groups.open(&state, &[OpenGroup { slot, config, at_end: false }]);
        for _ in 0..20 {
            let what = What::Lease { count_max: 1_000, visibility_ms: 5_000 };
            groups.apply(&state, 0, &Op { slot, what });
        }
        let parts = encode(&state, &groups);
        assert!(parts.len() > 20, "{}", parts.len());
        assert!(parts.iter().all(|part| part.len() < 1 << 16));
        let (restored, again) = decode(&parts).unwrap();
        assert_eq!(restored, state);
        assert_eq!(encode(&restored, &again), parts);
    }

    #[test]
    fn parts_that_cannot_follow_each_other_are_refused() {
        let bytes = encode(&state(), &groups());
        for at in 0..bytes.len() {
            let mut twice = bytes.clone();
            twice.insert(at, bytes[at].clone());
            assert_eq!(decode(&twice).err(), Some(FormatError::Content), "part {at}");
        }
        assert_eq!(decode(&[]).err(), Some(FormatError::Content));
        assert_eq!(decode(&bytes[1..]).err(), Some(FormatError::Content));
        let mut turned = bytes.clone();
        turned[1..].reverse();
        assert_eq!(decode(&turned).err(), Some(FormatError::Content));
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
        let cut = |partition: &mut Rc<Partition>| {
            Rc::make_mut(partition).next_offset = Offset(20);
        };
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
            state.partitions.entry(key).and_modify(|partition| change(Rc::make_mut(partition)));
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
        let parts = encode(&state(), &groups());
        let hex =
            |part: &Vec<u8>| part.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let all: Vec<String> = parts.iter().map(hex).collect();
        assert_eq!(all.len(), 11);
        assert_eq!(all[0], GOLDEN_HEAD, "the format changed: raise the version");
        assert_eq!(all[3], GOLDEN_PARTITION, "the format changed: raise the version");
    }
    const GOLDEN_HEAD: &str = concat!(
        "0405000067000000bc4b57c800e80300000000000048ee0000000000000000000000000000090000",
        "00000000008853e40400000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000",
    );
    const GOLDEN_PARTITION: &str = concat!(
        "04050000670000001e71ee8101010000000000000001000000060000000000000023000000000000",
        "00010000000000000003000000000000000000000000000000000100000040000000000000000000",
        "000000000001040000000000000001010000000000000028230000bc02000000000000",
    );

    #[test]
    fn corrupt_bytes_are_errors() {
        for part in encode(&state(), &groups()) {
            for at in 0..part.len() {
                let mut broken = part.clone();
                broken[at] ^= 0x04;
                assert!(Restoring::default().take(&broken).is_err());
                assert!(Restoring::default().take(&part[..at]).is_err());
            }
        }
    }
}
