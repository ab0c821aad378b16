//! The file that says that a replica's folder is not whole, and what it promised before.
//!
//! Owns: its bytes: the envelope of the module above around rkyv of `MarkerV2`. `MarkerV1` is read
//! too; it did not say what the replica held.
//!
//! Must never: be read as whole when it is damaged. The vote in it is the only copy there is.

use barrage_commitlog::Vote;
use barrage_model::{LogId, LogIndex, NodeId, ShardId, Term};
use rkyv::rancor;

use super::{FormatError, open, seal};

const KIND_MARKER_V1: u8 = 5;
const KIND_MARKER: u8 = 7;

/// What a replica that is not whole must not forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marker {
    pub(crate) shard: ShardId,
    /// The newest vote of the replica, when it ever voted.
    pub(crate) vote: Option<Vote>,
    pub(crate) held: Held,
}

/// What a replica had on its disk, at most, when it was found not to be whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Held {
    /// It may have acknowledged anything.
    Unknown,
    /// Nothing behind this entry; nothing at all.
    UpTo(Option<LogId>),
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct MarkerV1 {
    shard: u32,
    /// Term, node, and whether it is known that the node won.
    vote: Option<(u64, u64, bool)>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct MarkerV2 {
    shard: u32,
    vote: Option<(u64, u64, bool)>,
    /// `None` when it is not known; term and index of the last entry, when there ever was one.
    held: Option<Option<(u64, u64)>>,
}

pub(crate) fn encode(marker: &Marker) -> Result<Vec<u8>, FormatError> {
    let vote = marker.vote.map(|vote| (vote.term.0, vote.node.0, vote.committed));
    let held = match marker.held {
        Held::Unknown => None,
        Held::UpTo(last) => Some(last.map(|last| (last.term.0, last.index.0))),
    };
    let stored = MarkerV2 { shard: marker.shard.0, vote, held };
    let body = rkyv::to_bytes::<rancor::Error>(&stored).map_err(|_| FormatError::Body)?;
    seal(KIND_MARKER, &[&body])
}

pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Marker, FormatError> {
    let stored = match open(KIND_MARKER, bytes) {
        Ok(body) => rkyv::from_bytes::<MarkerV2, rancor::Error>(body),
        Err(error) => {
            let body = open(KIND_MARKER_V1, bytes).map_err(|_| error)?;
            let old = rkyv::from_bytes::<MarkerV1, rancor::Error>(body);
            old.map(|MarkerV1 { shard, vote }| MarkerV2 { shard, vote, held: None })
        }
    };
    let stored = stored.map_err(|_| FormatError::Body)?;
    if stored.shard != shard.0 {
        return Err(FormatError::Elsewhere);
    }
    let to_vote =
        |(term, node, committed)| Vote { term: Term(term), node: NodeId(node), committed };
    let to_id = |(term, index)| LogId { term: Term(term), index: LogIndex(index) };
    let held = stored.held.map_or(Held::Unknown, |last| Held::UpTo(last.map(to_id)));
    Ok(Marker { shard, vote: stored.vote.map(to_vote), held })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn golden_bytes_round_trip_and_damage() {
        let vote = Some(Vote { term: Term(7), node: NodeId(2), committed: true });
        let last = LogId { term: Term(6), index: LogIndex(90) };
        let all = [
            Marker { shard: SHARD, vote, held: Held::UpTo(Some(last)) },
            Marker { shard: SHARD, vote, held: Held::UpTo(None) },
            Marker { shard: SHARD, vote: None, held: Held::Unknown },
        ];
        for marker in all {
            let bytes = encode(&marker).unwrap();
            assert_eq!(decode(&bytes, SHARD), Ok(marker));
            assert_eq!(decode(&bytes, ShardId(4)), Err(FormatError::Elsewhere));
            for position in 0..bytes.len() {
                let mut damaged = bytes.clone();
                if let Some(byte) = damaged.get_mut(position) {
                    *byte ^= 1 << (position % 8);
                }
                assert!(decode(&damaged, SHARD).is_err(), "byte {position} went unnoticed");
                let cut = bytes.get(..position).unwrap();
                assert!(decode(cut, SHARD).is_err(), "cut at {position} went unnoticed");
            }
        }
        let bytes = encode(&Marker { shard: SHARD, vote, held: Held::UpTo(Some(last)) }).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format changed: raise the version");
        let old = MarkerV1 { shard: SHARD.0, vote: Some((7, 2, true)) };
        let old = rkyv::to_bytes::<rancor::Error>(&old).unwrap();
        let old = seal(KIND_MARKER_V1, &[&old]).unwrap();
        let hex: String = old.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN_V1);
        let read = decode(&old, SHARD);
        assert_eq!(read, Ok(Marker { shard: SHARD, vote, held: Held::Unknown }));
    }

    const GOLDEN: &str = "\
        070100002800000040652f8403000000010700000000000000020000000000000001010106000000\
        000000005a00000000000000";
    const GOLDEN_V1: &str = "\
        05010000160000003c8ca90e03000000010700000000000000020000000000000001";
}
