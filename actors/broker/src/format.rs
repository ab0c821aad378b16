//! The checkpoint of a data shard: bounds, settings and producers of its partitions, version 1.
//!
//! Owns: the stored form of [`State`], inside `barrage_cluster::format`'s envelope.
//! Must never: store payload, a hash map or anything derived.
//! Invariants: equal states give equal bytes; what is read back is equal to what was stored.

use barrage_cluster::catalog::PARTITIONS_MAX;
use barrage_cluster::format::{self, FormatError, Kind};
use barrage_model::{
    Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Retention, Sequence, TopicId,
};
use barrage_world::planted;
use rkyv::{Archive, Deserialize, Serialize};

use crate::shard::decide::{PRODUCERS_MAX, State};
use crate::shard::partition::{Partition, PartitionConfig};
use crate::shard::producers::{Producer, Remembered, WINDOW};

const VERSION: u8 = 1;

/// No record has ever been counted up to here; and counting on from there cannot overflow.
const OFFSET_MAX: Offset = Offset(1 << 62);

#[derive(Archive, Serialize, Deserialize)]
struct StateV1 {
    log_time_ms: i64,
    sweep_after_ms: i64,
    partitions: Vec<PartitionV1>,
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

/// The state as bytes.
pub(crate) fn encode(state: &State) -> Vec<u8> {
    let partitions = state.partitions.iter().map(store_partition).collect();
    let stored = StateV1 {
        log_time_ms: state.log_time_ms,
        sweep_after_ms: state.sweep_after_ms,
        partitions,
    };
    format::seal(Kind::ShardCheckpoint, VERSION, &stored)
}

/// The state in `bytes`.
pub(crate) fn decode(bytes: &[u8]) -> Result<State, FormatError> {
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
    Ok(State {
        partitions,
        log_time_ms: stored.log_time_ms,
        producers,
        sweep_after_ms: stored.sweep_after_ms,
    })
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

    use super::*;
    use crate::shard::decide::BatchRow;
    use crate::shard::producers::ProducerStamp;

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

    #[test]
    fn a_state_survives_the_round_trip() {
        for state in [State::default(), state()] {
            assert_eq!(decode(&encode(&state)).unwrap(), state);
        }
    }

    #[test]
    fn a_state_beyond_its_bounds_is_refused() {
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
        let check = |change: &dyn Fn(&mut Partition)| {
            let mut state = state();
            state.partitions.entry(key).and_modify(change);
            assert_eq!(decode(&encode(&state)), Err(FormatError::Content));
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
        let bytes = encode(&State { log_time_ms: 5, sweep_after_ms: 6, ..State::default() });
        assert_eq!(&bytes[..8], &[4, 1, 0, 0, 24, 0, 0, 0]);
        assert_eq!(&bytes[12..28], &[5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        let bytes = encode(&state());
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x04;
            assert!(decode(&broken).is_err());
            assert!(decode(&bytes[..at]).is_err());
        }
    }
}
