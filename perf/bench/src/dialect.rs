//! How a batch is asked for and answered: by the bare server, or by a node.
//!
//! Owns: the difference between the two, so that one load generator serves both and neither is
//! flattered. Must never: decode more of an answer than says which batch it is for.

use anyhow::{Context as _, Result, bail};
use barrage_model::{PartitionKey, ProducerEpoch, ProducerId, Sequence};
use barrage_wire::{Acks, Correlation, FrameHeader, ProduceRequest, Response};
use bytes::{Buf as _, BytesMut};

use crate::bare;
use crate::batches::Stamp;

/// Whom a producer talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// The bare server.
    Bare,
    /// A node.
    Native,
}

/// What a producer writes to: partitions in turn, each with its own sequence.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    pub producer: ProducerId,
    pub epoch: ProducerEpoch,
    partitions: Vec<(PartitionKey, Sequence)>,
    turn: usize,
}

impl Dialect {
    /// Appends what goes before a batch.
    pub(crate) fn encode_head(
        self,
        correlation: u32,
        key: PartitionKey,
        batch: &[u8],
        out: &mut BytesMut,
    ) -> Result<()> {
        match self {
            Self::Bare => bare::encode_head(correlation, batch.len(), out),
            Self::Native => {
                let request = ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch };
                request.encode_head(Correlation(correlation), out);
                Ok(())
            }
        }
    }

    /// Takes the next whole answer: the correlation of a batch that is durable. Any other answer
    /// is an error.
    pub(crate) fn next_answer(self, input: &mut BytesMut) -> Result<Option<u32>> {
        if self == Self::Bare {
            return Ok((input.len() >= bare::ANSWER_SIZE).then(|| input.get_u32_le()));
        }
        let Some(header) = FrameHeader::parse(input) else { return Ok(None) };
        if input.len() < header.frame_size() {
            return Ok(None);
        }
        let frame = input.split_to(header.frame_size());
        let body = frame.get(FrameHeader::SIZE..).context("a frame below its own size")?;
        match Response::decode(&header, body).context("a malformed answer")? {
            Response::Produce(_) => Ok(Some(header.correlation.0)),
            Response::Error { error, .. } => bail!("the server refused a batch: {error}"),
            other => bail!("a batch was answered by {other:?}"),
        }
    }
}

impl Targets {
    /// Writes to these partitions, all sequences at 0.
    pub(crate) fn new(producer: ProducerId, epoch: ProducerEpoch, keys: Vec<PartitionKey>) -> Self {
        assert!(!keys.is_empty(), "a producer writes somewhere");
        let partitions = keys.into_iter().map(|key| (key, Sequence(0))).collect();
        Self { producer, epoch, partitions, turn: 0 }
    }

    /// What a bare server is sent: its batches look like any others.
    pub(crate) fn bare() -> Self {
        Self::new(ProducerId(1), ProducerEpoch(0), vec![PartitionKey::default()])
    }

    /// The partition and stamp of the next batch of `records`.
    pub(crate) fn next(&mut self, records: u32) -> (PartitionKey, Stamp) {
        self.turn = (self.turn + 1) % self.partitions.len();
        let Some((key, sequence)) = self.partitions.get_mut(self.turn) else {
            unreachable!("the turn is taken modulo the partitions")
        };
        let stamp = Stamp { producer: self.producer, epoch: self.epoch, sequence: *sequence };
        *sequence = sequence.wrapping_advance(records);
        (*key, stamp)
    }
}
