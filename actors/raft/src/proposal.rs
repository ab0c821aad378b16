//! A proposal: what a leader asks its group to commit, and the answer that comes back.
//!
//! Owns: `Proposal`, the future that resolves with the machine's reply, the errors.
//! Must never: print a payload; copy one.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use barrage_commitlog::Run;
use barrage_model::LogIndex;
use barrage_world::channel::oneshot;
use barrage_world::planted;
use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::raft::ClientWriteResult;
use openraft::raft::responder::Responder;

use crate::vocabulary::Types;

/// What the log writes beside an entry's payload, generously.
const ENTRY_HEAD_BYTES_MAX: u64 = 256;
/// What the log writes beside a run's payload, generously.
const RUN_HEAD_BYTES_MAX: u64 = 64;

/// What a leader asks its group to commit. Cloning counts references; it copies no payload.
#[derive(Clone)]
pub struct Proposal {
    /// The machine's command.
    pub command: Bytes,
    /// Batches that travel beside the command, stamped by the leader.
    pub runs: Vec<Run>,
    /// The entry's log time: `max(previous, now)` on the leader.
    pub log_time_ms: i64,
}

impl Proposal {
    /// Payload bytes: the command and every batch.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let runs: u64 = self.runs.iter().map(|run| u64::from(run.byte_len)).sum();
        (self.command.len() as u64).saturating_add(runs)
    }

    /// The entry's bytes in the log, at most.
    pub(crate) fn entry_bytes_max(&self) -> u64 {
        let run_heads = RUN_HEAD_BYTES_MAX.saturating_mul(self.runs.len() as u64);
        self.size_bytes().saturating_add(run_heads).saturating_add(ENTRY_HEAD_BYTES_MAX)
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} bytes", self.size_bytes())
    }
}

/// Why a proposal has no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProposeError {
    /// Not the leader in the given term. Nothing was appended.
    #[error("not the leader in this term")]
    NotLeader,
    /// Too many proposals are waiting. Nothing was appended.
    #[error("too many proposals are waiting")]
    Full,
    /// Larger than a segment of the log. Nothing was appended.
    #[error("larger than a segment of the log")]
    TooLarge,
    /// The disk is full. Nothing was appended.
    #[error("disk is full")]
    DiskFull,
    /// Leadership changed while the entry was in flight; it may or may not be committed.
    #[error("leadership changed in flight: outcome unknown")]
    Lost,
    /// The group has stopped; an entry in flight may or may not be committed.
    #[error("group has stopped: outcome unknown")]
    Stopped,
}

/// A proposal that was committed and applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed<R> {
    /// Where its entry stands in the log.
    pub index: LogIndex,
    /// What the machine said to it.
    pub reply: R,
}

/// Resolves with the machine's reply once the entry is committed and applied. Dropping it does not
/// withdraw the proposal.
#[must_use = "the reply says whether the proposal was committed"]
pub struct Proposed<R> {
    state: State,
    reply: PhantomData<fn() -> R>,
}

enum State {
    Refused(ProposeError),
    Waiting(oneshot::Receiver<ClientWriteResult<Types>>),
}

impl<R> Proposed<R> {
    pub(crate) fn refused(error: ProposeError) -> Self {
        Self { state: State::Refused(error), reply: PhantomData }
    }

    pub(crate) fn waiting(receiver: oneshot::Receiver<ClientWriteResult<Types>>) -> Self {
        Self { state: State::Waiting(receiver), reply: PhantomData }
    }
}

impl<R: 'static> Future for Proposed<R> {
    type Output = Result<Committed<R>, ProposeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let receiver = match &mut self.get_mut().state {
            State::Refused(error) => return Poll::Ready(Err(error.clone())),
            State::Waiting(receiver) => receiver,
        };
        Pin::new(receiver).poll(context).map(|received| match received {
            Ok(Ok(response)) => Ok(Committed {
                index: LogIndex(response.log_id.index),
                reply: response.data.take::<R>(),
            }),
            // Wrong when planted: another leader may still commit the entry.
            Ok(Err(_)) if planted("raft-unknown-called-failed") => Err(ProposeError::NotLeader),
            Ok(Err(ClientWriteError::LogEntryDiscarded(_))) => Err(ProposeError::Lost),
            Ok(Err(_)) => Err(ProposeError::NotLeader),
            Err(_) => Err(ProposeError::Stopped),
        })
    }
}

/// The end of a proposal's channel that openraft holds.
pub(crate) struct ReplySender<T>(pub(crate) oneshot::Sender<T>);

impl<T: 'static> Responder<Types, T> for ReplySender<T> {
    fn on_complete(self, result: T) {
        // The proposer may have gone (a deadline passed): then nobody is told, which is fine.
        drop(self.0.send(result));
    }
}
