//! Telling the other nodes what this one is, and keeping what they tell.
//!
//! ```text
//!   core --Report when something changed--> first core: beacon --> every other node
//!   a beacon comes in --> board of the first core --> copies on every core: hints, metadata
//! ```
//!
//! Owns: when a report, a beacon and a copy of the board go out.
//! Must never: wait for a node that does not answer; decide by what was heard what only a log may.
//! Invariants: an unchanged node costs one small message per peer and interval.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use barrage_cluster::beacon::{self, Beacon, Board, Replica};
use barrage_cluster::message::{Answer, Message};
use barrage_model::{CoreId, NodeId, ShardId};
use barrage_raft::{Call, Group, Machine, Status, Urgency};
use barrage_world::{Instant, sleep, spawn, timeout_coarse};
use bytes::Bytes;

use crate::api::Leader;
use crate::core::{CATALOG_CORE, CATALOG_SHARD, Core, Report};
use crate::members::in_sync;
use crate::message::Request;
use crate::refusal;
use crate::replicas::Place;
use crate::start::StartError;

/// How often a core looks whether its replicas are what they were; news comes at once.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Beacons follow each other no faster than this.
const BEACON_PAUSE: Duration = Duration::from_millis(10);
/// After this long a beacon's answer is of no use.
const BEACON_DEADLINE: Duration = Duration::from_secs(1);

/// Milliseconds of the clock that the board goes by.
pub(crate) fn now_ms() -> u64 {
    Instant::now().0 / 1_000_000
}

impl Core {
    /// What this core carries, as the others are to know it.
    fn replicas_here(&self) -> Vec<Replica> {
        let catalog = self.catalog_shard.get().map(|shard| {
            let leads = shard.group().leader_term().is_some();
            row(shard.group(), if leads { self.catalog().revision() } else { 0 })
        });
        let places = self.places.borrow();
        let data = places.iter().map(|(shard, place)| match place {
            Place::Open(shard) => {
                let damaged = shard.is_damaged();
                Replica { damaged, ..row(shard.group(), shard.agreed()) }
            }
            Place::Opening(opening) => {
                let seeding = Some(opening.bytes.get());
                Replica { shard: *shard, seeding, ..Replica::default() }
            }
        });
        catalog.into_iter().chain(data).collect()
    }

    /// Reports to the first core whenever something changed, for ever.
    pub(crate) async fn keep_reporting(self: Rc<Self>) {
        let mut told: Option<(u64, Vec<Replica>)> = None;
        while !self.is_closing.get() {
            let now = (self.catalog().revision(), self.replicas_here());
            if told.as_ref() != Some(&now) {
                let (revision, replicas) = now.clone();
                let taken = if self.id == CATALOG_CORE {
                    self.take_report(self.id, Report { revision, replicas });
                    true
                } else {
                    let report = Request::Report { revision, replicas };
                    self.router.request(CATALOG_CORE, report).is_ok()
                };
                told = taken.then_some(now);
            }
            let news = self.news.listen();
            timeout_coarse(LOOK_INTERVAL, news).await.ok();
        }
    }

    /// Makes it news when this node comes to lead a group, or leads it no more, for ever.
    pub(crate) async fn keep_telling_leads<M: Machine>(self: Rc<Self>, group: Group<M>) {
        while !group.is_over() {
            group.lead_changed().await;
            self.news.notify_all();
        }
    }

    /// On the first core: a core has told.
    pub(crate) fn take_report(&self, core: CoreId, report: Report) {
        if let Some(place) = self.reports.borrow_mut().get_mut(usize::from(core.0)) {
            *place = report;
        }
        self.news_for_others.notify_all();
    }

    /// On the first core: tells every other node, at once when there is news, for ever.
    pub(crate) async fn keep_beacons(self: Rc<Self>) {
        let life = u64::try_from(barrage_world::unix_time_ms()).unwrap_or(0);
        let interval = Duration::from_millis(beacon::INTERVAL_MS);
        for number in 0.. {
            if self.is_closing.get() {
                return;
            }
            let news = self.news_for_others.listen();
            let beacon = self.beacon(life, number);
            let bytes = Bytes::from(Message::Beacon(beacon.clone()).encode());
            self.hear(beacon);
            for node in self.other_nodes() {
                let call = self.node_call(node, BEACON_DEADLINE, bytes.clone());
                let answer = self.peers.call(call);
                let core = Rc::clone(&self);
                drop(spawn(async move {
                    if let Ok(bytes) = answer.await {
                        core.take_answer(&bytes);
                    }
                }));
            }
            sleep(BEACON_PAUSE).await;
            timeout_coarse(interval, news).await.ok();
        }
    }

    fn take_answer(&self, bytes: &[u8]) {
        if let Ok(Answer::Refused { code: refusal::REMOVED, .. }) = Answer::decode(bytes) {
            self.fail(StartError::Removed { node: self.node() }.to_string());
        }
    }

    fn beacon(&self, life: u64, number: u64) -> Beacon {
        let reports = self.reports.borrow();
        Beacon {
            node: self.node(),
            life,
            number,
            peer_address: self.options.peer_address.clone(),
            core_addresses: self.options.core_addresses.clone(),
            revision: reports.iter().map(|report| report.revision).min().unwrap_or(0),
            replicas: reports.iter().flat_map(|report| report.replicas.clone()).collect(),
            lives: self.board.borrow().lives(self.node()),
        }
    }

    /// On the first core: takes in what a node tells of itself, this one too.
    pub(crate) fn hear(&self, beacon: Beacon) {
        let is_own = beacon.node == self.node();
        if !is_own && self.catalog().nodes().get(beacon.node).is_none() {
            // A removed node, or one that this copy of the catalog does not know yet.
            return;
        }
        // With each of its own beacons the others learn who is still there.
        if self.note(|board| board.hear(beacon, now_ms())) || is_own {
            self.hand_on_board();
        }
    }

    /// On the first core: takes in what another node tells of a third one.
    pub(crate) fn hear_of(&self, beacon: Beacon) {
        // Where it once was this node is now, perhaps.
        let is_here = beacon.peer_address == self.options.peer_address;
        if is_here || self.catalog().nodes().get(beacon.node).is_none() {
            return;
        }
        if self.note(|board| board.hear_of(beacon, now_ms())) {
            self.hand_on_board();
        }
    }

    /// On the first core: takes in where a node is said to be.
    pub(crate) fn hear_where(&self, node: NodeId, peer_address: &str) {
        let is_here = peer_address == self.options.peer_address;
        if is_here || self.catalog().nodes().get(node).is_none() {
            return;
        }
        if self.note(|board| board.hear_where(node, peer_address, now_ms())) {
            self.hand_on_board();
        }
    }

    /// Changes the board; answers whether there was news.
    fn note(&self, change: impl FnOnce(&mut Board) -> bool) -> bool {
        let catalog = self.catalog();
        let mut news = false;
        self.board.send_if_modified(|board| {
            let board = Arc::make_mut(board);
            board.keep_only(|node| node == self.node() || catalog.nodes().get(node).is_some());
            news = change(board);
            news
        });
        news
    }

    /// Hands the board to the other cores.
    fn hand_on_board(&self) {
        let board = Arc::clone(&self.board.borrow());
        for core in self.router.others() {
            drop(self.router.request(core, Request::Board(Arc::clone(&board))));
        }
    }

    /// Tells a node of those that it has not heard of since they came back. It may be that neither
    /// knows where the other is now. With each beacon of its own it is told again, until it knows.
    pub(crate) fn pass_on(&self, beacon: &Beacon) {
        let board = self.board.borrow();
        for missed in board.missed_by(beacon, now_ms()) {
            if missed.node == self.node() {
                continue;
            }
            let bytes = Bytes::from(Message::Beacon(missed.clone()).encode());
            let answer = self.peers.call(self.node_call(beacon.node, BEACON_DEADLINE, bytes));
            drop(spawn(async move { drop(answer.await) }));
        }
    }

    /// All members but this one.
    pub(crate) fn other_nodes(&self) -> Vec<NodeId> {
        let catalog = self.catalog();
        let others = catalog.nodes().members().map(|node| node.id);
        others.filter(|node| *node != self.node()).collect()
    }

    /// A message to the first core of another node.
    pub(crate) fn node_call(&self, to: NodeId, deadline_in: Duration, request: Bytes) -> Call {
        Call {
            to,
            shard: CATALOG_SHARD,
            urgency: Urgency::Urgent,
            deadline_in,
            request: request.into(),
        }
    }

    /// Who leads a shard, as far as it is known here.
    pub(crate) fn leading_node(&self, shard: ShardId) -> Option<NodeId> {
        let heard = self.board.borrow().leader(shard, now_ms());
        let own = match shard {
            CATALOG_SHARD => self.catalog_shard.get().map(|catalog| catalog.group().leader()),
            _ => self.shard_by_id(shard).map(|shard| shard.group().leader()),
        };
        match (own, heard) {
            // The replica here hears of its leader first, and of the end of its own lead.
            (Some((term, leader)), Some((other, node))) if other <= term => leader.or_else(|| {
                // In the same term somebody else may know who it is.
                (other == term && node != self.node()).then_some(node)
            }),
            (Some((_, leader)), None) => leader,
            (_, Some((_, node))) => Some(node),
            (None, None) => None,
        }
    }

    /// Who leads a shard, and how that core is reached.
    pub(crate) fn leader_of(&self, shard: ShardId) -> Option<Leader> {
        let node = self.leading_node(shard)?;
        if node == self.node() {
            let core = self.core_of(shard);
            let address = self.options.core_addresses.get(usize::from(core.0))?.clone();
            return Some(Leader { node, core, address });
        }
        let board = self.board.borrow();
        let addresses = &board.beacon(node)?.core_addresses;
        let core = shard.0 as usize % addresses.len().max(1);
        let address = addresses.get(core)?.clone();
        Some(Leader { node, core: CoreId(u16::try_from(core).unwrap_or(0)), address })
    }
}

fn row<M: Machine>(group: &Group<M>, agreed: u64) -> Replica {
    let status = group.status();
    let leads = group.leader_term().is_some();
    let in_sync = if leads { in_sync(&status) } else { Default::default() };
    let Status { term, leader, voters, changing, learners, .. } = status;
    let (shard, agreed) = (group.shard(), if leads { agreed } else { 0 });
    let row = Replica { voters, changing, learners, in_sync, ..Replica::default() };
    Replica { shard, term, leads, leader, agreed, ..row }
}
