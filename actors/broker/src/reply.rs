//! The way back to whoever sent a batch: a task on this core, or a request from another one.
//!
//! Owns: answering a produce exactly once. Must never: block; a mailbox has room for every answer
//! it owes.
//! Invariants: nobody drops a reply unanswered. On this core that would close the channel, which
//! says that the outcome is unknown; another core would wait for ever.

use barrage_world::channel::oneshot;

use crate::api::{Acks, ProduceError, Produced};
use crate::message::{Message, Reply, RequestId};
use crate::router::Link;

/// The result of a produce.
pub(crate) type ProduceResult = Result<Produced, ProduceError>;

/// Where the result of a produce goes, and what it waits for.
pub(crate) struct ProduceReply {
    pub(crate) way: Way,
    pub(crate) acks: Acks,
}

/// Where a result goes.
pub(crate) enum Way {
    /// To a task on this core.
    Here(oneshot::Sender<ProduceResult>),
    /// To another core.
    There { link: Link, id: RequestId },
}

impl ProduceReply {
    /// Answers.
    pub(crate) fn send(self, result: ProduceResult) {
        match self.way {
            // Nobody waits any more: the answer is not needed.
            Way::Here(sender) => drop(sender.send(result)),
            Way::There { link, id } => {
                link.answer(Message::Reply { id, reply: Reply::Produce(result) });
            }
        }
    }
}
