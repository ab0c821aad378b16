//! The commands of a data shard, and their bytes.
//!
//! Owns: the command enum and its rkyv form, version 1, inside `barrage_cluster::format`'s
//! envelope.
//! Must never: hold payload; batches travel beside the command, in the entry's runs, in the same
//! order.
//! Invariants: variants of `CommandV1` are only ever appended, and none is larger than the largest
//! before it; a golden test holds the layout still.

use barrage_cluster::format::{self, FormatError, Kind};
use barrage_model::{
    Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId, Retention, Sequence, TopicId,
};
use rkyv::{Archive, Deserialize, Serialize};

use crate::shard::decide::BatchRow;
use crate::shard::partition::PartitionConfig;
use crate::shard::producers::ProducerStamp;

const VERSION: u8 = 1;

/// A change of a data shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Appends the entry's runs.
    Produce {
        /// Batches per run, in the order of the runs.
        batch_counts: Vec<u32>,
        /// The batches of all runs, in order.
        rows: Vec<BatchRow>,
    },
    /// Opens partitions; one that is open takes over newer settings.
    Open { partitions: Vec<(PartitionKey, PartitionConfig)> },
    /// Newer settings for open partitions.
    Configure { partitions: Vec<(PartitionKey, PartitionConfig)> },
    /// Closes partitions and gives up their records.
    Close { partitions: Vec<PartitionKey> },
    /// Gives up the records below these offsets.
    AdvanceStart { starts: Vec<(PartitionKey, Offset)> },
    /// Every replica takes the hash of its state, and compares the one it took at `index`.
    Compare { index: u64, hash: u64 },
}

#[derive(Archive, Serialize, Deserialize)]
enum CommandV1 {
    Produce { batch_counts: Vec<u32>, rows: Vec<RowV1> },
    Open { partitions: Vec<PartitionV1> },
    Configure { partitions: Vec<PartitionV1> },
    Close { partitions: Vec<(u64, u32)> },
    AdvanceStart { starts: Vec<(u64, u32, u64)> },
    Compare { index: u64, hash: u64 },
}

/// A command's root lies at the end of its bytes: a larger one would move, and no older command
/// could be read. So what a new variant has beyond this goes into a box or a list.
const _: () = assert!(size_of::<ArchivedCommandV1>() == 17);

/// Producer -1 stands for none.
#[derive(Archive, Serialize, Deserialize)]
struct RowV1 {
    record_count: u32,
    producer: i64,
    epoch: i16,
    sequence: i32,
}

#[derive(Archive, Serialize, Deserialize)]
struct PartitionV1 {
    topic: u64,
    partition: u32,
    retention_time_ms: Option<u64>,
    retention_bytes: Option<u64>,
    revision: u64,
}

impl Command {
    /// The command as bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let opened = |partitions: &[_]| partitions.iter().map(store_partition).collect();
        let stored = match self {
            Self::Produce { batch_counts, rows } => CommandV1::Produce {
                batch_counts: batch_counts.clone(),
                rows: rows.iter().map(store_row).collect(),
            },
            Self::Open { partitions } => CommandV1::Open { partitions: opened(partitions) },
            Self::Configure { partitions } => {
                CommandV1::Configure { partitions: opened(partitions) }
            }
            Self::Close { partitions } => CommandV1::Close {
                partitions: partitions.iter().map(|key| (key.topic.0, key.partition.0)).collect(),
            },
            Self::Compare { index, hash } => CommandV1::Compare { index: *index, hash: *hash },
            Self::AdvanceStart { starts } => CommandV1::AdvanceStart {
                starts: starts
                    .iter()
                    .map(|(key, start)| (key.topic.0, key.partition.0, start.0))
                    .collect(),
            },
        };
        format::seal(Kind::ShardCommand, VERSION, &stored)
    }

    /// The command in `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let (version, payload) = format::open(Kind::ShardCommand, bytes)?;
        if version != VERSION {
            return Err(FormatError::Version { found: version });
        }
        let opened = |stored: Vec<_>| stored.into_iter().map(load_partition).collect();
        Ok(match format::decode::<CommandV1>(payload)? {
            CommandV1::Produce { batch_counts, rows } => {
                Self::Produce { batch_counts, rows: rows.into_iter().map(load_row).collect() }
            }
            CommandV1::Open { partitions } => Self::Open { partitions: opened(partitions) },
            CommandV1::Configure { partitions } => {
                Self::Configure { partitions: opened(partitions) }
            }
            CommandV1::Close { partitions } => Self::Close {
                partitions: partitions
                    .into_iter()
                    .map(|(topic, number)| key(topic, number))
                    .collect(),
            },
            CommandV1::Compare { index, hash } => Self::Compare { index, hash },
            CommandV1::AdvanceStart { starts } => Self::AdvanceStart {
                starts: starts
                    .into_iter()
                    .map(|(topic, number, start)| (key(topic, number), Offset(start)))
                    .collect(),
            },
        })
    }
}

fn key(topic: u64, partition: u32) -> PartitionKey {
    PartitionKey { topic: TopicId(topic), partition: PartitionId(partition) }
}

fn store_row(row: &BatchRow) -> RowV1 {
    let none = ProducerStamp {
        id: ProducerId::NONE,
        epoch: ProducerEpoch::NONE,
        sequence: Sequence::NONE,
    };
    let stamp = row.producer.unwrap_or(none);
    RowV1 {
        record_count: row.record_count,
        producer: stamp.id.0,
        epoch: stamp.epoch.0,
        sequence: stamp.sequence.0,
    }
}

fn load_row(stored: RowV1) -> BatchRow {
    let stamp = ProducerStamp {
        id: ProducerId(stored.producer),
        epoch: ProducerEpoch(stored.epoch),
        sequence: Sequence(stored.sequence),
    };
    BatchRow {
        record_count: stored.record_count,
        producer: Some(stamp).filter(|stamp| stamp.id.is_some()),
    }
}

fn store_partition((key, config): &(PartitionKey, PartitionConfig)) -> PartitionV1 {
    PartitionV1 {
        topic: key.topic.0,
        partition: key.partition.0,
        retention_time_ms: config.retention.time_ms,
        retention_bytes: config.retention.bytes,
        revision: config.revision,
    }
}

fn load_partition(stored: PartitionV1) -> (PartitionKey, PartitionConfig) {
    let retention = Retention { time_ms: stored.retention_time_ms, bytes: stored.retention_bytes };
    let config = PartitionConfig { retention, revision: stored.revision };
    (key(stored.topic, stored.partition), config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    fn all() -> Vec<Command> {
        let retention = Retention { time_ms: Some(5), bytes: None };
        let partitions = vec![(key(1, 2), PartitionConfig { retention, revision: 9 })];
        let producer =
            ProducerStamp { id: ProducerId(7), epoch: ProducerEpoch(1), sequence: Sequence(30) };
        vec![
            Command::Produce {
                batch_counts: vec![1, 1],
                rows: vec![
                    BatchRow { record_count: 10, producer: None },
                    BatchRow { record_count: 3, producer: Some(producer) },
                ],
            },
            Command::Open { partitions: partitions.clone() },
            Command::Configure { partitions },
            Command::Close { partitions: vec![key(1, 2), key(1, 3)] },
            Command::AdvanceStart { starts: vec![(key(1, 2), Offset(77))] },
            Command::Compare { index: 5, hash: 1 << 60 },
        ]
    }

    #[test]
    fn every_command_survives_the_round_trip() {
        for command in all() {
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
    }

    #[test]
    fn golden_bytes() {
        let row = BatchRow { record_count: 258, producer: None };
        let bytes = Command::Produce { batch_counts: vec![1], rows: vec![row] }.encode();
        let golden: &[u8] = &[
            3, 1, 0, 0, 39, 0, 0, 0, // type, version, zero, length
        ];
        assert_eq!(&bytes[..8], golden);
        // The row, then the batch count, wherever rkyv puts them: both stand before the root.
        assert_eq!(&bytes[12..16], &[1, 0, 0, 0]);
        assert_eq!(&bytes[16..20], &[2, 1, 0, 0]);
        assert_eq!(&bytes[20..34], &[0xff; 14]);
        // The root: tag, then relative position and length of the counts and of the rows.
        let root: &[u8] = &[0, 233, 255, 255, 255, 1, 0, 0, 0, 229, 255, 255, 255, 1, 0, 0, 0];
        assert_eq!(&bytes[34..], root);
    }

    #[test]
    fn corrupt_bytes_are_errors() {
        for command in all() {
            let bytes = command.encode();
            for at in 0..bytes.len() {
                let mut broken = bytes.clone();
                broken[at] ^= 0x10;
                assert!(Command::decode(&broken).is_err());
                assert!(Command::decode(&bytes[..at]).is_err());
            }
        }
    }
}
