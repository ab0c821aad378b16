//! The machine of the tests: a list of commands.

use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use barrage_commitlog::Options;
use barrage_model::{NodeId, ShardId};
use barrage_raft::{
    Applied, Group, GroupOptions, Machine, NoPeers, Parts, Proposal, RestoreError, Timing,
    UnknownCommand,
};
use bytes::Bytes;
use futures_util::future::join_all;

pub(crate) const SHARD: ShardId = ShardId(3);
pub(crate) const SEGMENT_BYTES: u64 = 1 << 20;
pub(crate) const NEVER: u64 = u64::MAX;

/// Remembers every command; answers how many there are.
#[derive(Default)]
pub(crate) struct Journal {
    pub(crate) commands: Vec<Vec<u8>>,
    pub(crate) last_index: u64,
    pub(crate) log_times_ms: Vec<i64>,
    /// A later build, which knows [`UNKNOWN`] too.
    pub(crate) knows_all: bool,
}

/// A command that this build does not know.
pub(crate) const UNKNOWN: &[u8] = b"of the next release";

impl Machine for Journal {
    type Reply = usize;

    fn apply(&mut self, entry: &Applied<'_>) -> Result<usize, UnknownCommand> {
        if entry.command == UNKNOWN && !self.knows_all {
            return Err(UnknownCommand("a command of the next release".to_owned()));
        }
        assert!(entry.id.index.0 > self.last_index, "applied twice or out of order");
        self.last_index = entry.id.index.0;
        self.commands.push(entry.command.to_vec());
        self.log_times_ms.push(entry.log_time_ms);
        Ok(self.commands.len())
    }

    fn checkpoint(&self) -> Parts {
        let mut bytes = self.last_index.to_le_bytes().to_vec();
        for command in &self.commands {
            bytes.extend_from_slice(&u32::try_from(command.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(command);
        }
        Parts::one(bytes)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        *self = Self { knows_all: self.knows_all, ..Self::default() };
        let (index, mut rest) = bytes.split_at(8);
        self.last_index = u64::from_le_bytes(index.try_into().unwrap());
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
            self.commands.push(rest[4..4 + length].to_vec());
            rest = &rest[4 + length..];
        }
        Ok(())
    }
}

pub(crate) fn options(dir: &Path, checkpoint_bytes: u64) -> GroupOptions<Journal> {
    GroupOptions {
        node: NodeId(7),
        shard: SHARD,
        dir: dir.join("shard"),
        log: Options { segment_bytes: SEGMENT_BYTES, ..Options::new(SHARD) },
        checkpoint_bytes,
        timing: Timing::default(),
        peers: Rc::new(NoPeers),
        machine: Journal::default(),
    }
}

pub(crate) fn command(number: usize) -> Vec<u8> {
    format!("command {number}").into_bytes()
}

pub(crate) fn proposal(command: Vec<u8>) -> Proposal {
    Proposal { command: Bytes::from(command), runs: Vec::new(), log_time_ms: 42 }
}

/// Proposes `numbers`, all before the first is awaited.
pub(crate) async fn propose_all(group: &Group<Journal>, numbers: Range<usize>) -> Vec<usize> {
    let term = group.leader_term().unwrap();
    let proposed: Vec<_> =
        numbers.map(|number| group.propose(proposal(command(number)), term)).collect();
    join_all(proposed).await.into_iter().map(|committed| committed.unwrap().reply).collect()
}
