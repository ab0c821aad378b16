//! What producers ask of a partition that one of them holds.
//!
//! Owns: what a request may ask for, and what it becomes in the log.
//! Invariants: what is answered is applied, hence durable; a lead that is over answers nothing.

use barrage_model::GroupId;

use super::Shard;
use super::groups::{Op, Outcome, Slot, What};
use crate::api::claim::{Claim, ClaimError, ClaimRequest};
use crate::api::queue::QueueError;

impl Shard {
    /// Carries out a claim; it is decided when it is applied.
    pub(crate) async fn claim(&self, request: ClaimRequest) -> Result<(), ClaimError> {
        let ClaimRequest { key, claim } = request;
        let (least, most) = (Claim::SESSION_MS_MIN, Claim::SESSION_MS_MAX);
        if !(least..=most).contains(&claim.session_ms) {
            let reason = format!("a session takes {least} to {most} ms, not {}", claim.session_ms);
            return Err(QueueError::Invalid { reason }.into());
        }
        if !claim.producer.is_some() {
            let reason = "a claim is made under a producer id".to_owned();
            return Err(QueueError::Invalid { reason }.into());
        }
        let slot = Slot { key, group: GroupId(0) };
        let op = Op { slot, what: What::Claim(Box::new(claim)) };
        match self.submit_op(op).await? {
            Outcome::Claimed(result) => Ok(result?),
            _ => Err(QueueError::UnknownPartition.into()),
        }
    }
}
