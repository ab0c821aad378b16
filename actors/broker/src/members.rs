//! Making the members of a group the ones that the catalog assigns, while this node leads it.
//!
//! Owns: when a step is taken and how it is carried out; which step is `barrage_cluster::change`'s.
//! Must never: take two steps at a time.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use barrage_cluster::change::{self, Change, View};
use barrage_model::NodeId;
use barrage_raft::{Group, Machine, MembershipError, Role, Status};
use barrage_world::{sleep, sleep_coarse, timeout};

use crate::beacons::now_ms;
use crate::core::{CATALOG_SHARD, Core};

/// How often the members are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// A step that is not committed by then is looked at anew.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// A replica that has all but so many entries counts as caught up: the rest comes while the
/// change is under way.
const LAG_MAX: u64 = 64;

/// How often it is looked at whether a lead is gone, and how many times before it is offered again.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(2);
const HAND_OVER_LOOKS: usize = 50;

/// The members of a led group that have all but the newest entries.
pub(crate) fn in_sync(status: &Status) -> BTreeSet<NodeId> {
    let last = status.last_index.map_or(0, |index| index.0);
    let near = status.matched.iter().filter(|(_, matched)| {
        matched.is_some_and(|matched| matched.index.0.saturating_add(LAG_MAX) >= last)
    });
    let mut nodes: BTreeSet<NodeId> = near.map(|(node, _)| *node).collect();
    nodes.insert(status.node);
    nodes.retain(|node| status.voters.contains(node) || status.learners.contains(node));
    nodes
}

impl Core {
    /// Keeps the members of a group as assigned while this node leads it, for ever.
    pub(crate) async fn keep_members<M: Machine>(self: Rc<Self>, group: Group<M>) {
        while !self.is_closing.get() && !group.is_over() {
            sleep_coarse(LOOK_INTERVAL).await;
            if self.is_leaving.get() || group.leader_term().is_none() {
                continue;
            }
            let Some(change) = self.next_change(&group) else { continue };
            tracing::info!(shard = %group.shard(), ?change, "members change");
            match timeout(STEP_TIMEOUT, carry_out(&group, &change)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::warn!(shard = %group.shard(), ?change, %error, "not changed yet");
                    sleep(LOOK_INTERVAL * 5).await;
                }
                Err(_) => tracing::warn!(shard = %group.shard(), ?change, "not committed yet"),
            }
        }
    }

    /// Hands every lead of this core to another voter that is in sync, if there is one.
    pub(crate) async fn hand_over(&self) {
        // From here on nothing is handed back.
        self.is_leaving.set(true);
        if let Some(catalog) = self.catalog_shard.get() {
            self.hand_over_lead(catalog.group()).await;
        }
        for shard in self.shards() {
            self.hand_over_lead(shard.group()).await;
        }
    }

    /// Hands a lead over to a whole replica, if there is one, and waits until it is gone.
    pub(crate) async fn hand_over_lead<M: Machine>(&self, group: &Group<M>) {
        while group.leader_term().is_some() {
            let status = group.status();
            let able = in_sync(&status);
            let mut others = status.voters.iter().filter(|node| **node != status.node);
            let may = |node: &&NodeId| {
                let is_whole = self.board.borrow().is_whole(**node, group.shard(), now_ms());
                able.contains(*node) && is_whole
            };
            let Some(to) = others.find(may) else { return };
            if let Err(error) = group.transfer_leadership(*to).await {
                tracing::warn!(shard = %group.shard(), %error, "the lead is not handed over");
                return;
            }
            for _ in 0..HAND_OVER_LOOKS {
                sleep(HAND_OVER_PAUSE).await;
                if group.leader_term().is_none() {
                    break;
                }
            }
        }
    }

    fn next_change<M: Machine>(&self, group: &Group<M>) -> Option<Change> {
        let catalog = self.catalog();
        let assigned = catalog.nodes().assignment().get(&group.shard())?;
        let watchers = match group.shard() {
            CATALOG_SHARD => {
                let all = catalog.nodes().members().map(|node| node.id);
                all.filter(|node| !assigned.contains(node)).collect()
            }
            _ => BTreeSet::new(),
        };
        let status = group.status();
        if status.role != Role::Leader {
            return None;
        }
        // Who is damaged gives its lead away at once: it is not to be given one.
        let board = self.board.borrow();
        let mut caught_up = in_sync(&status);
        caught_up.retain(|node| *node == self.node() || !board.is_damaged(*node, group.shard()));
        let view = View {
            leader: self.node(),
            caught_up,
            changing: status.changing && status.half_changed.is_none(),
            half_changed: status.half_changed,
            voters: status.voters,
            learners: status.learners,
        };
        change::next(assigned, &watchers, &view)
    }
}

async fn carry_out<M: Machine>(group: &Group<M>, change: &Change) -> Result<(), MembershipError> {
    match change {
        Change::AddLearner(node) => group.add_learner(*node).await,
        Change::ChangeVoters(voters) => group.change_voters(voters).await,
        Change::RemoveLearner(node) => group.remove_learner(*node).await,
        Change::Transfer(to) => {
            group.transfer_leadership(*to).await?;
            // It takes about a round trip; asked again at once it would begin anew.
            sleep(LOOK_INTERVAL * 2).await;
            Ok(())
        }
    }
}
