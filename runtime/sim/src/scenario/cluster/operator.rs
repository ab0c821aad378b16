//! What operators order while things go wrong: leads that go elsewhere, nodes that are emptied,
//! nodes that come in the place of others.
//!
//! Owns: giving an order until it is carried out, and what has to follow from it. Must never: take
//! a node away while another one is away for good: of every shard a majority of the copies stays.

use std::rc::Rc;
use std::time::Duration;

use barrage_model::{NodeId, ShardId};
use barrage_wire::{ClusterChange, ClusterDescription, Request, Response};
use barrage_world as world;
use barrage_world::sim::{Disk, Machine};

use super::nemesis::Nemesis;
use super::plan::Act;
use super::process::Node;
use super::register::is_at_rest;
use crate::workload::{Client, milliseconds, pick};

/// The first node of a cluster.
const FOUNDER: NodeId = NodeId(1);
/// How long a node runs that was removed.
const REMOVED_RUNS_FOR: Duration = milliseconds(3_000);
/// Between two attempts of an operator.
const ORDER_PAUSE: Duration = milliseconds(300);

impl Nemesis {
    /// Somebody at a machine of their own.
    pub(super) fn operator(&self) -> (Machine, Client) {
        let machine = Machine::at(self.operators, &Disk::default());
        let random = self.random().fork();
        (machine, Client::new("operator", &self.context, random))
    }

    /// An order that is given once, and may be refused.
    pub(super) fn order(self: &Rc<Self>, act: Act) -> bool {
        let Some(newest) = self.register.newest() else { return false };
        let change = match act {
            Act::Balance => ClusterChange::Balance,
            Act::Copies => {
                // Never one: with it a lost disk would be a lost shard.
                let most: &[u8] = if self.plan.nodes >= 5 { &[3, 5] } else { &[3] };
                ClusterChange::SetCopies { copies: *pick(&mut self.random(), most) }
            }
            _ => {
                let many = |shard: &&barrage_wire::ShardDescription| shard.assigned.len() > 1;
                let shards: Vec<_> = newest.shards.iter().filter(many).collect();
                if shards.is_empty() {
                    return false;
                }
                let shard = *pick(&mut self.random(), &shards);
                let to = *pick(&mut self.random(), &shard.assigned);
                ClusterChange::Transfer { shard: shard.shard, to }
            }
        };
        let (machine, mut operator) = self.operator();
        let nemesis = Rc::clone(self);
        drop(machine.spawn(async move {
            if change_once(&mut operator, change).await {
                nemesis.count("order-carried-out");
            }
            operator.hang_up();
        }));
        true
    }

    /// A fresh node comes, another one is emptied and goes.
    pub(super) fn swap(self: &Rc<Self>) -> bool {
        let Some(spare) = self.nodes.iter().find(|node| !node.is_wanted.get()) else {
            return false;
        };
        // The founder is the one that might found again.
        let founder = self.register.place_of(FOUNDER).and_then(|place| self.node(place));
        let founder = founder.filter(|node| node.is_running() && !node.is_stopping());
        let old = match founder.filter(|_| self.random().one_in(2)) {
            None => self.a_running_one(),
            founder => founder,
        };
        let Some(old) = old else { return false };
        let Some(id) = self.register.node_at(old.place).filter(|_| self.moves.get() == 0) else {
            return false;
        };
        self.begin_move();
        spare.wipe();
        spare.start();
        let (nemesis, place) = (Rc::clone(self), old.place);
        drop(world::spawn(async move {
            nemesis.empty(id).await;
            if let Some(old) = nemesis.node(place) {
                nemesis.start_removed(old).await;
                old.is_wanted.set(false);
                old.wipe();
            }
            nemesis.count("node-swapped");
            nemesis.moves.set(0);
        }));
        true
    }

    /// Who forgot that a node was removed starts it again on its old disk: it says so and ends, or
    /// waits for a cluster that does not know it.
    async fn start_removed(self: &Rc<Self>, old: &Node) {
        old.kill();
        world::sleep(REMOVED_RUNS_FOR).await;
    }

    /// A node is lost with its disk, and a fresh one comes in its place. Only while every shard has
    /// all its copies: then a majority of each is left.
    pub(super) fn replace(self: &Rc<Self>) -> bool {
        if self.moves.get() > 0 || !self.is_whole() {
            return false;
        }
        let Some(old) = self.a_running_one().filter(|old| self.may_lose(old.place)) else {
            return false;
        };
        let Some(id) = self.register.node_at(old.place) else { return false };
        self.begin_move();
        old.wipe();
        old.start();
        let nemesis = Rc::clone(self);
        drop(world::spawn(async move {
            nemesis.empty(id).await;
            // Until then another loss might be one too many.
            while !nemesis.is_whole() {
                world::sleep(ORDER_PAUSE).await;
            }
            nemesis.count("node-replaced");
            nemesis.moves.set(0);
        }));
        true
    }

    fn begin_move(&self) {
        self.moves.set(1);
        self.has_moved.set(true);
    }

    /// Whether every shard has all its copies, and there are several.
    pub(super) fn is_whole(&self) -> bool {
        self.register.newest().is_some_and(|newest| {
            is_at_rest(&newest) && newest.shards.iter().all(|shard| shard.voters.len() >= 3)
        })
    }

    /// Has a node emptied, and waits until it is no member any more.
    async fn empty(self: &Rc<Self>, node: NodeId) {
        let is_member = |newest: &ClusterDescription| newest.nodes.iter().any(|it| it.node == node);
        let (machine, mut operator) = self.operator();
        let change = ClusterChange::Decommission { node };
        let ordered = machine.spawn(async move {
            while !change_once(&mut operator, change.clone()).await {
                world::sleep(ORDER_PAUSE).await;
            }
            operator.hang_up();
        });
        ordered.await;
        let mut looks_without = 0;
        // Some node may be behind: it is gone when several say so.
        while looks_without < 8 {
            world::sleep(ORDER_PAUSE).await;
            match self.register.newest().is_some_and(|newest| !is_member(&newest)) {
                true => looks_without += 1,
                false => looks_without = 0,
            }
        }
    }
}

/// Orders a change of the cluster; whether it is carried out, or was before.
pub(super) async fn change_once(operator: &mut Client, change: ClusterChange) -> bool {
    let request = Request::ClusterChange(change);
    let asked = operator.ask(&request, Duration::ZERO, |response| match response {
        Response::ClusterChange(_) => Some(()),
        _ => None,
    });
    match asked.await {
        Ok(()) => true,
        Err(refusal) => {
            tracing::debug!(?refusal, ?request, "refused");
            // An unknown node was removed: an order before was carried out.
            refusal.says("is no member of the cluster")
        }
    }
}

/// The holder of a shard behind `node`, in their order.
pub(super) fn next_holder(description: &ClusterDescription, shard: ShardId) -> Option<NodeId> {
    let row = description.shards.iter().find(|row| row.shard == shard)?;
    let mut holders = row.assigned.clone();
    holders.sort_unstable();
    let leader = row.leader?;
    let behind = holders.iter().find(|node| **node > leader);
    behind.or_else(|| holders.first()).copied().filter(|node| *node != leader)
}
