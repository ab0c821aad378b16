//! Other nodes: what they ask this one, and asking the one that leads the catalog.
//!
//! Owns: answering messages between nodes, and the way of a catalog command to its leader.
//! Must never: repeat a command that may have been carried out, unless repeating changes nothing.
//! Invariants: a command that is answered `NotLeader` was not proposed.

use std::rc::Rc;
use std::time::Duration;

use barrage_cluster::format::message::is_message;
use barrage_cluster::message::{Answer, Message, Outcome};
use barrage_cluster::{Command, Reply};
use barrage_model::{NodeId, ShardId};
use barrage_raft::{Call, PeerError, Urgency};
use barrage_world::{Instant, buggify, planted, sleep};
use bytes::Bytes;

use crate::api::AdminError;
use crate::catalog_shard::CatalogShard;
use crate::core::{CATALOG_SHARD, Core};
use crate::refusal;

/// While nobody leads the catalog it is asked for again after this.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// The leader has this long to answer, then somebody else may lead.
const LEADER_DEADLINE: Duration = Duration::from_secs(5);

/// Why another node gets no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PeerRefusal {
    /// No replica of that shard is open on this core.
    #[error("no replica of the shard is open here")]
    UnknownShard,
    /// The bytes are damaged, or meant for another replica.
    #[error("the request is damaged")]
    Damaged,
}

impl Core {
    /// Answers another node's request for a shard of this core.
    pub(crate) async fn answer_peer(
        self: Rc<Self>,
        shard: ShardId,
        from: NodeId,
        request: Bytes,
    ) -> Result<Bytes, PeerRefusal> {
        if is_message(&request) {
            let message = Message::decode(&request).map_err(|_| PeerRefusal::Damaged)?;
            let answer = self.answer_message(from, message).await?;
            return Ok(Bytes::from(answer.encode()));
        }
        let answered = match shard {
            CATALOG_SHARD => {
                let catalog = self.catalog_shard.get().ok_or(PeerRefusal::UnknownShard)?;
                catalog.group().handle(request).await
            }
            data => match self.shard_by_id(data) {
                Some(shard) => shard.group().handle(request).await,
                None => {
                    let ballot = self.ballot(data).ok_or(PeerRefusal::UnknownShard)?;
                    let voted = ballot.handle(request).await.map_err(|_| PeerRefusal::Damaged)?;
                    return voted.ok_or(PeerRefusal::UnknownShard);
                }
            },
        };
        answered.map_err(|_| PeerRefusal::Damaged)
    }

    async fn answer_message(&self, from: NodeId, message: Message) -> Result<Answer, PeerRefusal> {
        match message {
            // Its own copy of the catalog does not say so when it was away at the time, and nobody
            // sends it a newer one. A number is never given again.
            Message::Beacon(_) if self.catalog().nodes().was_removed(from) => {
                Ok(Answer::Refused { code: refusal::REMOVED, reason: String::new() })
            }
            Message::Beacon(beacon) if beacon.node == from => {
                self.hear(beacon.clone());
                // Behind it: now it is known where the node is.
                self.pass_on(&beacon);
                Ok(Answer::Heard)
            }
            Message::Beacon(beacon) => {
                self.hear_of(beacon);
                Ok(Answer::Heard)
            }
            Message::Propose(command) => {
                let catalog = self.catalog_shard.get().ok_or(PeerRefusal::UnknownShard)?;
                let command = Command::decode(&command).map_err(|_| PeerRefusal::Damaged)?;
                Ok(match propose(catalog, &command).await {
                    Ok((revision, outcome)) => Answer::Proposed { revision, outcome },
                    Err(error) => refusal::answer(&error),
                })
            }
            Message::Describe(keys) => Ok(Answer::Described(self.describe_here(&keys).await)),
            Message::Append { key, batch } => {
                Ok(Answer::Appended(self.append_here(key, batch).await))
            }
        }
    }

    /// On the first core: has a command carried out by whoever leads the catalog. Answers with the
    /// catalog's revision then.
    pub(crate) async fn command(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<(u64, Outcome), AdminError> {
        let bytes = Bytes::from(command.encode());
        loop {
            match self.command_once(command, &bytes, deadline).await {
                Err(AdminError::NotLeader) if Instant::now() < deadline => {
                    if self.is_closing.get() {
                        return Err(AdminError::ShuttingDown);
                    }
                    sleep(LEADER_RETRY).await;
                }
                // What was not answered in time may have been carried out. Wrong when planted: a
                // topic that was made is said to have been there before.
                Err(AdminError::Timeout)
                    if (is_repeatable(command) || planted("broker-repeats-what-may-be-done"))
                        && Instant::now() < deadline =>
                {
                    sleep(LEADER_RETRY).await;
                }
                other => return other,
            }
        }
    }

    async fn command_once(
        &self,
        command: &Command,
        bytes: &Bytes,
        deadline: Instant,
    ) -> Result<(u64, Outcome), AdminError> {
        let catalog = self.catalog_shard.get().ok_or(AdminError::NotLeader)?;
        if catalog.group().leader_term().is_some() {
            return propose(catalog, command).await;
        }
        let leader = self.leading_node(CATALOG_SHARD).ok_or(AdminError::NotLeader)?;
        if leader == self.node() || buggify("broker-catalog-leader-unknown", 20) {
            return Err(AdminError::NotLeader);
        }
        let message = Bytes::from(Message::Propose(bytes.clone()).encode());
        let left = deadline.saturating_duration_since(Instant::now());
        match self.ask_node(leader, CATALOG_SHARD, left.min(LEADER_DEADLINE), message).await? {
            Answer::Proposed { revision, outcome } => Ok((revision, outcome)),
            Answer::Refused { code, reason } => Err(refusal::error(code, reason)),
            other => {
                let reason = format!("node {leader} gave a strange answer: {other:?}");
                Err(AdminError::Invalid { reason })
            }
        }
    }

    /// Asks the core of another node that carries a shard.
    pub(crate) async fn ask_node(
        &self,
        to: NodeId,
        shard: ShardId,
        deadline_in: Duration,
        request: Bytes,
    ) -> Result<Answer, AdminError> {
        let call =
            Call { to, shard, urgency: Urgency::Urgent, deadline_in, request: request.into() };
        let answer = self.peers.call(call).await.map_err(|error| match error {
            // Wrong: a command that may be carried out is taken for one that was not.
            _ if planted("broker-silence-taken-for-no") => AdminError::NotLeader,
            // Both leave open whether the request was carried out.
            PeerError::Unreachable(..) | PeerError::TimedOut(..) => AdminError::Timeout,
        })?;
        Answer::decode(&answer).map_err(|_| AdminError::Timeout)
    }
}

async fn propose(catalog: &CatalogShard, command: &Command) -> Result<(u64, Outcome), AdminError> {
    let reply = catalog.propose(command).await?;
    let revision = catalog.revision();
    let outcome = match reply {
        Reply::Done { .. } => Outcome::Done,
        Reply::Topic(topic) => Outcome::Topic(topic.id),
        Reply::Producers { first, count } => Outcome::Producers { first, count },
        Reply::Node(node) => Outcome::Node(node),
        Reply::Refused(error) => {
            return Err(AdminError::Invalid { reason: error.to_string() });
        }
    };
    Ok((revision, outcome))
}

/// Whether a command may be proposed twice without a difference that anybody sees.
fn is_repeatable(command: &Command) -> bool {
    match command {
        Command::Found { .. }
        | Command::RegisterNode { .. }
        | Command::ForgetTopic { .. }
        | Command::AllocateProducers { .. }
        | Command::Join { .. }
        | Command::Announce { .. }
        | Command::Leave { .. }
        | Command::Stay { .. }
        | Command::SetCopies { .. }
        | Command::AlterGroup { .. }
        | Command::RaiseLevel { .. } => true,
        Command::CreateTopic { .. }
        | Command::AlterTopic { .. }
        | Command::DeleteTopic { .. }
        | Command::CreateGroup { .. }
        | Command::DeleteGroup { .. }
        | Command::CreateStream { .. }
        | Command::Remove { .. }
        | Command::Assign { .. } => false,
    }
}
