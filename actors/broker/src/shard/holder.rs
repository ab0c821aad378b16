//! Who holds a partition of a topic whose order is global: the one producer whose batches count.
//!
//! ```text
//!   nobody   --Hold-------------------------------------> held
//!   held     --Hold by the holder, a batch of it--------> held, for a session from now on
//!   held     --Hold by another: session over, or it is
//!              the holder's own next id; TakeOver-------> held by that one
//!   held     --Release by the holder--------------------> nobody
//! ```
//! A batch of anybody but the holder is refused, so who lost the partition writes nothing behind
//! its successor. Who has written here and is not the holder has lost it, and never holds it again:
//! what it may still have under way follows on from before.
//!
//! Owns: the holder, and what a claim does. Must never: read a clock; time is the log time.

use barrage_model::ProducerId;

use super::partition::Partition;
use crate::api::claim::{Claim, ClaimKind, ClaimRefusal};

/// The producer that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) producer: ProducerId,
    /// Silent for so long it may be replaced.
    pub(crate) session_ms: u32,
    /// Log time of its newest claim or batch.
    pub(crate) heard_ms: i64,
}

impl Holder {
    /// How much of its session is left.
    fn left_ms(&self, log_time_ms: i64) -> u64 {
        let until = self.heard_ms.saturating_add(i64::from(self.session_ms));
        u64::try_from(until.saturating_sub(log_time_ms)).unwrap_or(0)
    }
}

/// What a claim comes to: who holds the partition after it.
pub(crate) fn claim(
    partition: &Partition,
    claim: Claim,
    log_time_ms: i64,
) -> Result<Option<Holder>, ClaimRefusal> {
    let Claim { producer, instead_of, kind, session_ms } = claim;
    let own = partition.holder.filter(|holder| holder.producer == producer);
    let holds = Holder { producer, session_ms, heard_ms: log_time_ms };
    match (kind, partition.holder) {
        (ClaimKind::Release, holder) => Ok(holder.filter(|_| own.is_none())),
        _ if own.is_some() => Ok(Some(holds)),
        _ if partition.producers.contains_key(&producer) => Err(ClaimRefusal::Lost),
        (ClaimKind::TakeOver, _) | (ClaimKind::Hold, None) => Ok(Some(holds)),
        (ClaimKind::Hold, Some(holder)) => {
            let left_ms = holder.left_ms(log_time_ms);
            // Wrong when planted: two producers believe that each is the only one.
            let is_free = left_ms == 0 || barrage_world::planted("broker-claim-not-exclusive");
            match is_free || Some(holder.producer) == instead_of {
                true => Ok(Some(holds)),
                false => Err(ClaimRefusal::Held { left_ms }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{ProducerEpoch, Retention, TopicOrder};

    use super::super::partition::PartitionConfig;
    use super::super::producers::Producer;
    use super::*;

    const SESSION_MS: u32 = 100;

    fn held(by: Option<i64>) -> Partition {
        let order = TopicOrder::Global;
        let mut partition =
            Partition::new(PartitionConfig { retention: Retention::UNLIMITED, order, revision: 1 });
        partition.holder = by.map(|id| holds(id, 1_000));
        partition
    }

    fn holds(id: i64, heard_ms: i64) -> Holder {
        Holder { producer: ProducerId(id), session_ms: SESSION_MS, heard_ms }
    }

    fn asks(kind: ClaimKind, id: i64, instead_of: Option<i64>) -> Claim {
        let instead_of = instead_of.map(ProducerId);
        Claim { producer: ProducerId(id), instead_of, kind, session_ms: SESSION_MS }
    }

    #[test]
    fn claims() {
        use ClaimKind::{Hold, Release, TakeOver};
        let refused = |left_ms| Err(ClaimRefusal::Held { left_ms });
        let table = [
            ("nobody holds it", None, asks(Hold, 2, None), 1_000, Ok(Some(holds(2, 1_000)))),
            ("its own, again", Some(2), asks(Hold, 2, None), 1_050, Ok(Some(holds(2, 1_050)))),
            ("its own, late", Some(2), asks(Hold, 2, None), 5_000, Ok(Some(holds(2, 5_000)))),
            ("another's", Some(1), asks(Hold, 2, None), 1_099, refused(1)),
            ("another's, over", Some(1), asks(Hold, 2, None), 1_100, Ok(Some(holds(2, 1_100)))),
            ("its next id", Some(1), asks(Hold, 2, Some(1)), 1_001, Ok(Some(holds(2, 1_001)))),
            ("not its own", Some(1), asks(Hold, 2, Some(3)), 1_001, refused(99)),
            ("taken over", Some(1), asks(TakeOver, 2, None), 1_001, Ok(Some(holds(2, 1_001)))),
            ("given up", Some(2), asks(Release, 2, None), 1_001, Ok(None)),
            ("not its to give", Some(1), asks(Release, 2, None), 1_001, Ok(Some(holds(1, 1_000)))),
            ("nobody's", None, asks(Release, 2, None), 1_001, Ok(None)),
        ];
        for (what, by, asked, now_ms, expected) in table {
            assert_eq!(claim(&held(by), asked, now_ms), expected, "{what}");
        }
    }

    #[test]
    fn who_lost_it_never_holds_it_again() {
        for (by, kind) in [(Some(1), ClaimKind::TakeOver), (None, ClaimKind::Hold)] {
            let mut partition = held(by);
            let wrote = Producer::new(ProducerEpoch(0), 900);
            partition.producers.insert(ProducerId(2), wrote);
            let asked = asks(kind, 2, None);
            assert_eq!(claim(&partition, asked, 9_000), Err(ClaimRefusal::Lost));
        }
    }
}
