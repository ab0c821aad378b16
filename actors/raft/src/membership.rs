//! Who replicates a group, and who leads it.
//!
//! Owns: forming a group, learners and voters, leadership transfer, and the group's status.
//!
//! Must never: change members on a replica that does not lead; forget a voter because it is down.

use std::collections::{BTreeMap, BTreeSet};

use barrage_model::{LogId, LogIndex, NodeId, Term};
use barrage_world::channel::mutex::MutexGuard;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, EmptyNode, ServerState};

use crate::group::Group;
use crate::machine::Machine;
use crate::vocabulary::{Types, from_raft_log_id};

/// What a replica is in its group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Receives entries, does not vote.
    Learner,
    /// Votes, follows.
    Follower,
    /// Votes, stands for election.
    Candidate,
    /// Proposes.
    Leader,
    /// The group has stopped here.
    Stopped,
}

/// A replica's view of its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// This replica.
    pub node: NodeId,
    /// What it is.
    pub role: Role,
    /// The newest term it has seen.
    pub term: Term,
    /// The node that leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// The last entry of its log.
    pub last_index: Option<LogIndex>,
    /// The last entry it knows to be committed.
    pub committed: Option<LogId>,
    /// The last entry it has applied.
    pub applied: Option<LogId>,
    /// The voters of its newest configuration; of both while it changes.
    pub voters: BTreeSet<NodeId>,
    /// Those that receive entries and do not vote.
    pub learners: BTreeSet<NodeId>,
    /// The newest configuration is one of two sets of voters, or not committed yet.
    pub changing: bool,
    /// A change is committed half-way, both sets of voters count: the set it was to lead to. Who
    /// began it may be gone, so whoever leads finishes it.
    pub half_changed: Option<BTreeSet<NodeId>>,
    /// On the leader: what each replica is known to have on its disk.
    pub matched: BTreeMap<NodeId, Option<LogId>>,
}

/// Why the members did not change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MembershipError {
    /// This replica does not lead; the node that does, if known.
    #[error("not the leader; the leader is {0:?}")]
    NotLeader(Option<NodeId>),
    /// The change before this one is not committed yet, or this one makes no sense.
    #[error("membership change refused: {0}")]
    Refused(String),
    /// The group has stopped.
    #[error("group has stopped: {0}")]
    Stopped(String),
}

impl<M: Machine> Group<M> {
    /// Forms a new group of these voters. Done once, on one of them; the others learn of it.
    ///
    /// # Errors
    /// When this replica already has a log or a vote.
    pub async fn form(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let members: BTreeMap<u64, EmptyNode> =
            voters.iter().map(|node| (node.0, EmptyNode::new())).collect();
        self.core.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(error) => MembershipError::Refused(error.to_string()),
            RaftError::Fatal(fatal) => MembershipError::Stopped(fatal.to_string()),
        })
    }

    /// Whether the group was ever formed, as far as this replica knows.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn is_formed(&self) -> Result<bool, MembershipError> {
        let known = self.core.raft.is_initialized().await;
        known.map_err(|fatal| MembershipError::Stopped(fatal.to_string()))
    }

    /// Makes a node receive the log without a vote. Answers when that is committed; the node may
    /// still be far behind.
    ///
    /// # Errors
    /// As [`MembershipError`] says; after `NotLeader` the change may or may not take place.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let _one = self.may_change_members().await?;
        let added = self.core.raft.add_learner(node.0, EmptyNode::new(), false).await;
        added.map(drop).map_err(refused)
    }

    /// Replaces the set of voters, by way of both sets together; who is no voter any more leaves
    /// the group. New voters must be learners that have caught up.
    ///
    /// # Errors
    /// As [`MembershipError`] says; after `NotLeader` the change may or may not take place.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let _one = self.may_change_members().await?;
        let ids: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        let members = ChangeMembers::ReplaceAllVoters(ids);
        let changed = self.core.raft.change_membership(members, false).await;
        changed.map(drop).map_err(refused)
    }

    /// Makes a learner leave the group.
    ///
    /// # Errors
    /// As [`MembershipError`] says; after `NotLeader` the change may or may not take place.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let _one = self.may_change_members().await?;
        let members = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.core.raft.change_membership(members, false).await;
        changed.map(drop).map_err(refused)
    }

    /// One change at a time, and none by a leader that is no voter any more: openraft lets it lead
    /// until its removal is known everywhere, and asserts when it then changes members again.
    async fn may_change_members(&self) -> Result<MutexGuard<'_, ()>, MembershipError> {
        let guard = self.core.changing_members.lock().await;
        let node = self.core.node.0;
        let leads = self.core.raft.with_raft_state(move |state| {
            let mut voters = state.membership_state.effective().voter_ids();
            state.server_state == ServerState::Leader && voters.any(|voter| voter == node)
        });
        match leads.await.map_err(|fatal| MembershipError::Stopped(fatal.to_string()))? {
            true => Ok(guard),
            false => Err(MembershipError::NotLeader(self.status().leader)),
        }
    }

    /// Hands leadership to a voter that has everything; returns before it leads.
    ///
    /// # Errors
    /// When the group has stopped.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), MembershipError> {
        let told = self.core.raft.trigger().transfer_leader(to.0).await;
        told.map_err(|fatal| MembershipError::Stopped(fatal.to_string()))
    }

    /// A replica that stands back sends nothing while it leads, and does not stand for election:
    /// the others elect one of themselves, if they can.
    pub fn stand_back(&self, stands_back: bool) {
        self.core.rot.set_stands_back(stands_back);
        self.core.raft.runtime_config().elect(!stands_back);
        self.core.raft.runtime_config().heartbeat(!stands_back);
    }

    /// The newest term this replica has seen, and who leads in it as far as it knows.
    #[must_use]
    pub fn leader(&self) -> (Term, Option<NodeId>) {
        let metrics = self.core.metrics.borrow_watched();
        let leader = metrics.current_leader.map(NodeId);
        // openraft names a leader that was removed for as long as nobody else is known.
        let leads =
            |leader: &NodeId| *leader != self.core.node || metrics.state == ServerState::Leader;
        (Term(metrics.current_term), leader.filter(leads))
    }

    /// The group as this replica sees it.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.core.metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Learner) => Role::Learner,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Leader) => Role::Leader,
        };
        let matched = metrics.replication.iter().flatten();
        let changed_at = membership.log_id().as_ref().map(|id| id.index);
        let committed = metrics.local_committed.as_ref().map(|id| id.index);
        let configs = membership.membership().get_joint_config();
        let is_joint = configs.len() > 1;
        let target = configs.last().filter(|_| is_joint && changed_at <= committed);
        let half_changed = target.map(|ids| ids.iter().copied().map(NodeId).collect());
        // openraft names a leader that was removed for as long as nobody else is known.
        let leads = |leader: &NodeId| *leader != self.core.node || role == Role::Leader;
        Status {
            node: self.core.node,
            role,
            term: Term(metrics.current_term),
            leader: metrics.current_leader.map(NodeId).filter(leads),
            last_index: metrics.last_log_index.map(LogIndex),
            committed: metrics.local_committed.as_ref().map(from_raft_log_id),
            applied: self.applied(),
            voters: membership.membership().voter_ids().map(NodeId).collect(),
            learners: membership.membership().learner_ids().map(NodeId).collect(),
            changing: is_joint || changed_at > committed,
            half_changed,
            matched: matched
                .map(|(node, id)| (NodeId(*node), id.as_ref().map(from_raft_log_id)))
                .collect(),
        }
    }
}

fn refused(error: RaftError<Types, ClientWriteError<Types>>) -> MembershipError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            MembershipError::NotLeader(to.leader_id.map(NodeId))
        }
        RaftError::APIError(error) => MembershipError::Refused(error.to_string()),
        RaftError::Fatal(fatal) => MembershipError::Stopped(fatal.to_string()),
    }
}
