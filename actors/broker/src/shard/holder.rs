//! Who holds a partition of a topic whose order is global: the one producer whose batches count.
//!
//! ```text
//!   nobody  --Hold, TakeOver by who never held it-------------> held, for a session from now on
//!   held    --Keep by the holder------------------------------> held, for a session from now on
//!   held    --Hold by another, session over; TakeOver---------> held by that one
//!   held    --Release by the holder---------------------------> nobody
//! ```
//! A batch of anybody but the holder is refused, so who lost the partition writes nothing behind
//! its successor. Who held it once and does not now never holds it again: what it may still have
//! under way follows on from before. So whoever is granted it is one of the partition's producers
//! from then on, whether it writes or not.
//!
//! Sessions go by the lease clock, which stands still while nobody leads. Batches do not count for
//! them: they do not tell that clock, and whoever writes also claims to keep.
//!
//! Owns: the holder, and what a claim does. Must never: read a clock.

use barrage_model::ProducerId;
use barrage_world::planted;

use super::partition::Partition;
use crate::api::claim::{Claim, ClaimKind, ClaimRefusal};

/// The producer that may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) producer: ProducerId,
    /// Silent for so long it may be replaced.
    pub(crate) session_ms: u32,
    /// When it was heard of, by the lease clock.
    pub(crate) heard_ms: u64,
}

impl Holder {
    /// How much of its session is left.
    pub(crate) fn left_ms(&self, now_ms: u64) -> u64 {
        self.heard_ms.saturating_add(u64::from(self.session_ms)).saturating_sub(now_ms)
    }
}

/// What a claim comes to: who holds the partition after it.
pub(crate) fn claim(
    partition: &Partition,
    claim: Claim,
    now_ms: u64,
) -> Result<Option<Holder>, ClaimRefusal> {
    let Claim { producer, kind, session_ms } = claim;
    let holder = partition.holder;
    let is_own = holder.is_some_and(|holder| holder.producer == producer);
    let holds = Holder { producer, session_ms, heard_ms: now_ms };
    match (kind, holder) {
        (ClaimKind::Release, holder) => Ok(holder.filter(|_| !is_own)),
        // A claim that is repeated because its answer was lost.
        _ if is_own => Ok(Some(holds)),
        (ClaimKind::Keep, _) => Err(ClaimRefusal::Lost),
        // Wrong when planted: who was replaced comes back.
        _ if partition.producers.contains_key(&producer)
            && !planted("broker-lost-holder-returns") =>
        {
            Err(ClaimRefusal::Lost)
        }
        (ClaimKind::TakeOver, _) | (ClaimKind::Hold, None) => Ok(Some(holds)),
        (ClaimKind::Hold, Some(holder)) => {
            let left_ms = holder.left_ms(now_ms);
            // Wrong when planted: two producers believe that each is the only one.
            match left_ms == 0 || planted("broker-claim-not-exclusive") {
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

    fn held(by: Option<Holder>) -> Partition {
        let (retention, order) = (Retention::UNLIMITED, TopicOrder::Global);
        let mut partition = Partition::new(PartitionConfig { retention, order, revision: 1 });
        partition.holder = by;
        partition
    }

    fn holds(id: i64, heard_ms: u64) -> Holder {
        Holder { producer: ProducerId(id), session_ms: SESSION_MS, heard_ms }
    }

    fn asks(kind: ClaimKind, id: i64) -> Claim {
        Claim { producer: ProducerId(id), kind, session_ms: SESSION_MS }
    }

    #[test]
    fn claims() {
        use ClaimKind::{Hold, Keep, Release, TakeOver};
        let (none, one, two) = (None, Some(holds(1, 1_000)), Some(holds(2, 1_000)));
        let refused = |left_ms| Err(ClaimRefusal::Held { left_ms });
        let granted = |heard_ms| Ok(Some(holds(2, heard_ms)));
        let table = [
            ("nobody holds it", none, Hold, 1_000, granted(1_000)),
            ("its own, again", two, Hold, 1_050, granted(1_050)),
            ("kept", two, Keep, 1_050, granted(1_050)),
            ("kept, late", two, Keep, 5_000, granted(5_000)),
            ("kept by nobody", none, Keep, 1_050, Err(ClaimRefusal::Lost)),
            ("kept by another", one, Keep, 5_000, Err(ClaimRefusal::Lost)),
            ("another's", one, Hold, 1_099, refused(1)),
            ("another's, over", one, Hold, 1_100, granted(1_100)),
            ("taken over", one, TakeOver, 1_001, granted(1_001)),
            ("given up", two, Release, 1_001, Ok(None)),
            ("not its to give", one, Release, 1_001, Ok(one)),
            ("nobody's", none, Release, 1_001, Ok(None)),
        ];
        for (what, by, kind, now_ms, expected) in table {
            assert_eq!(claim(&held(by), asks(kind, 2), now_ms), expected, "{what}");
        }
    }

    #[test]
    fn who_lost_it_never_holds_it_again() {
        for (by, kind) in [
            (Some(holds(1, 1_000)), ClaimKind::TakeOver),
            (Some(holds(1, 1_000)), ClaimKind::Hold),
            (None, ClaimKind::Hold),
            (None, ClaimKind::Keep),
        ] {
            let mut partition = held(by);
            partition.producers.insert(ProducerId(2), Producer::new(ProducerEpoch(0), 900));
            let asked = asks(kind, 2);
            assert_eq!(claim(&partition, asked, 9_000), Err(ClaimRefusal::Lost));
        }
    }
}
