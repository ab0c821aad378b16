//! The file that says that a replica's folder is not whole, and what it promised before.
//!
//! Owns: its bytes: the envelope of the module above around rkyv of `MarkerV1`.
//!
//! Must never: be read as whole when it is damaged. The vote in it is the only copy there is.

use barrage_commitlog::Vote;
use barrage_model::{NodeId, ShardId, Term};
use rkyv::rancor;

use super::{FormatError, open, seal};

const KIND_MARKER: u8 = 5;

/// What a replica that is not whole must not forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Marker {
    pub(crate) shard: ShardId,
    /// The newest vote of the replica, when it ever voted.
    pub(crate) vote: Option<Vote>,
}

#[derive(rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
struct MarkerV1 {
    shard: u32,
    /// Term, node, and whether it is known that the node won.
    vote: Option<(u64, u64, bool)>,
}

pub(crate) fn encode(marker: &Marker) -> Result<Vec<u8>, FormatError> {
    let vote = marker.vote.map(|vote| (vote.term.0, vote.node.0, vote.committed));
    let stored = MarkerV1 { shard: marker.shard.0, vote };
    let body = rkyv::to_bytes::<rancor::Error>(&stored).map_err(|_| FormatError::Body)?;
    seal(KIND_MARKER, &[&body])
}

pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Marker, FormatError> {
    let body = open(KIND_MARKER, bytes)?;
    let stored =
        rkyv::from_bytes::<MarkerV1, rancor::Error>(body).map_err(|_| FormatError::Body)?;
    if stored.shard != shard.0 {
        return Err(FormatError::Elsewhere);
    }
    let to_vote =
        |(term, node, committed)| Vote { term: Term(term), node: NodeId(node), committed };
    Ok(Marker { shard, vote: stored.vote.map(to_vote) })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    const SHARD: ShardId = ShardId(3);

    #[test]
    fn golden_bytes_round_trip_and_damage() {
        let vote = Some(Vote { term: Term(7), node: NodeId(2), committed: true });
        for marker in [Marker { shard: SHARD, vote }, Marker { shard: SHARD, vote: None }] {
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
        let bytes = encode(&Marker { shard: SHARD, vote }).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format changed: raise the version");
    }

    const GOLDEN: &str = "\
        05010000160000003c8ca90e03000000010700000000000000020000000000000001";
}
