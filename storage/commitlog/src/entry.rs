//! An entry of the shard log in memory: what Raft orders and apply decides on.
//!
//! An entry carries one command and, beside it, the record batches the command speaks of, gathered
//! into runs: all batches of one partition lie together. Cloning is cheap; payload is refcounted.

use crate::format::entry as entry_format;
use crate::pieces::Pieces;
use barrage_model::{LogId, NodeId, Offset, PartitionKey, ShardId, Term};
use bytes::Bytes;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Nothing but its position: what a new leader writes first.
    Blank,
    /// A command for the state machine, with its runs.
    Command,
    /// A change of the set of voters; the command bytes hold it.
    Membership,
}

/// One entry of a shard log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Term and index, given by Raft.
    pub id: LogId,
    /// What it is for.
    pub kind: EntryKind,
    /// The leader's clock when it was proposed, never falling: the enqueue time, in ms since 1970.
    pub log_time_ms: i64,
    /// The state machine's command, opaque here.
    pub command: Bytes,
    /// Batches by partition.
    pub runs: Vec<Run>,
}

/// Consecutive batches of one partition inside one entry.
#[derive(Clone, Debug)]
pub struct Run {
    /// The partition.
    pub key: PartitionKey,
    /// Offset of the first record, stamped by the leader.
    pub base_offset: Offset,
    /// Records in all batches.
    pub record_count: u32,
    /// Largest producer timestamp, in ms since 1970.
    pub max_timestamp: i64,
    /// Bytes of all batches.
    pub byte_len: u32,
    /// The batches. Empty when the payload lies in the log only: position and length are known
    /// there, and apply needs no payload.
    pub batches: Vec<Batch>,
    /// The batches are nowhere any more: when the log was rewritten nobody could read them. The
    /// CRC of the entry's body as it was, which tells the entry from any other still.
    pub gone: Option<u32>,
}

/// One record batch as the producer sent it. The log stamps it while copying it.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The whole batch, format v2.
    pub bytes: Bytes,
    /// Offset of its first record.
    pub base_offset: Offset,
    /// The term of the leader that took it in.
    pub leader_epoch: i32,
    /// The batch's own CRC32C, checked at the door.
    pub crc: u32,
}

/// Bytes that are not an entry of this shard.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an entry: {0}")]
pub struct EntryError(String);

/// A vote as Raft persists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vote {
    /// The term voted in.
    pub term: Term,
    /// The candidate voted for.
    pub node: NodeId,
    /// Whether the candidate is known to have won.
    pub committed: bool,
}

/// What every flush group restates, so that dropping old segments never loses a vote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest vote.
    pub vote: Option<Vote>,
    /// The newest committed position the log was told.
    pub committed: Option<LogId>,
    /// Everything up to here has left Raft's log (it may still be read by offset).
    pub floor: Option<LogId>,
}

impl Run {
    /// The offset after the run's last record.
    pub fn next_offset(&self) -> Offset {
        Offset(self.base_offset.0.saturating_add(u64::from(self.record_count)))
    }

    /// The run without its payload.
    pub(crate) fn without_payload(&self) -> Self {
        Self {
            key: self.key,
            base_offset: self.base_offset,
            record_count: self.record_count,
            max_timestamp: self.max_timestamp,
            byte_len: self.byte_len,
            batches: Vec::new(),
            gone: self.gone,
        }
    }
}

impl Entry {
    /// Adds the bytes that carry the entry, with its payload, to another replica: as the log holds
    /// them, but for the hash of the entry before it, which every log writes for itself.
    pub fn encode_into(&self, shard: ShardId, pieces: &mut Pieces) {
        assert!(self.is_whole(), "an entry without its payload cannot leave this replica");
        entry_format::encode_pieces(self, shard, pieces);
    }

    /// Those bytes, in one place.
    #[must_use]
    pub fn encode(&self, shard: ShardId) -> Vec<u8> {
        let mut pieces = Pieces::default();
        self.encode_into(shard, &mut pieces);
        pieces.into_bytes().into()
    }

    /// Bytes of them.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        entry_format::encoded_len(self)
    }

    /// Reads what [`Self::encode`] wrote; the payload stays in `bytes`.
    ///
    /// # Errors
    /// When a checksum, a length or the shard is wrong: nothing of it may be used.
    pub fn decode(bytes: &Bytes, shard: ShardId) -> Result<Self, EntryError> {
        entry_format::decode_whole(bytes, shard).map_err(|error| EntryError(error.to_string()))
    }

    /// Whether every run carries its payload, as far as there is any.
    pub(crate) fn is_whole(&self) -> bool {
        let is_whole =
            |run: &Run| run.byte_len == 0 || !run.batches.is_empty() || run.gone.is_some();
        self.runs.iter().all(is_whole)
    }

    /// The entry without its payload: what stays in memory once the payload is in the tail cache.
    pub(crate) fn without_payload(&self) -> Self {
        Self {
            id: self.id,
            kind: self.kind,
            log_time_ms: self.log_time_ms,
            command: self.command.clone(),
            runs: self.runs.iter().map(Run::without_payload).collect(),
        }
    }
}
