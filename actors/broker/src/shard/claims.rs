//! What producers ask of a partition that one of them holds.
//!
//! Owns: what a request may ask for, and what it becomes in the log.
//! Invariants: what is answered is applied, hence durable; a lead that is over answers nothing.

use barrage_model::limits::{PRODUCER_SESSION_MS_MAX, PRODUCER_SESSION_MS_MIN};
use barrage_model::{GroupId, PartitionKey};

use super::Shard;
use super::groups::{Op, Outcome, Slot, What};
use crate::api::claim::{Claim, ClaimError, ClaimKind, ClaimRefusal, ClaimRequest};
use crate::api::queue::QueueError;

impl Shard {
    /// Carries out a claim; it is decided when it is applied.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(), ClaimError> {
        let ClaimRequest { key, claim } = request;
        let (least, most) = (PRODUCER_SESSION_MS_MIN, PRODUCER_SESSION_MS_MAX);
        if !(least..=most).contains(&claim.session_ms) {
            let reason = format!("a session takes {least} to {most} ms, not {}", claim.session_ms);
            return Err(QueueError::Invalid { reason }.into());
        }
        if !claim.producer.is_some() {
            let reason = "a claim is made under a producer id".to_owned();
            return Err(QueueError::Invalid { reason }.into());
        }
        if claim.kind == ClaimKind::Hold {
            self.stand_by(key, claim).await?;
        }
        let slot = Slot { key, group: GroupId(0) };
        let op = Op { slot, what: What::Claim(Box::new(claim)) };
        match self.submit_op(op).await? {
            Outcome::Claimed(result) => Ok(result?),
            _ => Err(QueueError::UnknownPartition.into()),
        }
    }

    /// Whoever stands by asks again and again: what is refused by what is known anyway need not go
    /// into the log.
    async fn stand_by(&self, key: PartitionKey, claim: Claim) -> Result<(), ClaimError> {
        self.confirm().await.map_err(QueueError::from)?;
        let now_ms = self.inner.lease_now_ms();
        let left_ms = self.inner.group.with_machine(|machine| {
            let holder = machine.state().partitions.get(&key)?.holder?;
            (holder.producer != claim.producer).then(|| holder.left_ms(now_ms))
        });
        match left_ms {
            Some(left_ms) if left_ms > 0 => Err(ClaimRefusal::Held { left_ms }.into()),
            _ => Ok(()),
        }
    }
}
