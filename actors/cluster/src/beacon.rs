//! What a node tells the others about itself, again and again: that it is there, how each of its
//! cores is reached, and what it knows of the shards it holds.
//!
//! Owns: the beacon and the board that keeps the newest one of each node. Pure: time comes in as
//! milliseconds of a clock that only grows.
//!
//! Must never: be the truth about anything but presence. Members, leaders and topics are decided
//! in the logs; a beacon that is late or lost costs time and nothing else.
//! Invariants: of one life of a node the board never goes back to an older beacon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use barrage_model::{NodeId, ShardId, Term};

use crate::catalog::Catalog;
use crate::node::Node;
use crate::plan::Sightings;

/// How often a node tells, in milliseconds; at once when there is news.
pub const INTERVAL_MS: u64 = 500;
/// A node not heard of for this long is not counted on: six beacons are missing.
pub const PRESENT_MS: u64 = 3_000;
const _: () = assert!(INTERVAL_MS * 2 < PRESENT_MS, "one lost beacon is no absence");

/// A shard as a replica of it sees it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Replica {
    /// The shard; 0 is the catalog's.
    pub shard: ShardId,
    /// The newest term it has seen.
    pub term: Term,
    /// It leads, and has applied all that was committed before.
    pub leads: bool,
    /// Who leads in that term, as far as it knows.
    pub leader: Option<NodeId>,
    /// Who votes; of both configurations while they change.
    pub voters: BTreeSet<NodeId>,
    /// They change, and that is not done: until it is, who counts as few in one of both
    /// configurations may be all there is of the other.
    pub changing: bool,
    /// Who receives entries without a vote.
    pub learners: BTreeSet<NodeId>,
    /// On the leader: voters and learners that have all but the newest entries.
    pub in_sync: BTreeSet<NodeId>,
    /// On the leader: the catalog revision that its partitions agree with.
    pub agreed: u64,
    /// Payload bytes copied so far while it is being made whole.
    pub seeding: Option<u64>,
    /// Its log is damaged, and it waits until the others can do without it.
    pub damaged: bool,
}

/// What a node tells.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Beacon {
    /// The node.
    pub node: NodeId,
    /// Which life of the node this is: grows from start to start, unless a clock is set back.
    pub life: u64,
    /// Grows with every beacon of a life.
    pub number: u64,
    /// `host:port` where other nodes reach it first.
    pub peer_address: String,
    /// `host:port` that reaches each core, by core.
    pub core_addresses: Vec<String>,
    /// The catalog revision that all its cores know.
    pub revision: u64,
    /// The replicas it holds, by shard.
    pub replicas: Vec<Replica>,
    /// The life it knows of each other node.
    pub lives: BTreeMap<NodeId, u64>,
}

/// The newest beacon of each node. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Board {
    heard: BTreeMap<NodeId, Heard>,
}

#[derive(Clone, Debug)]
struct Heard {
    beacon: Arc<Beacon>,
    /// When it came from the node itself; others only know where the node was.
    at_ms: Option<u64>,
}

impl Board {
    /// Takes a beacon in; answers whether it says something new, beyond that the node is there.
    pub fn hear(&mut self, beacon: Beacon, now_ms: u64) -> bool {
        let Some(known) = self.heard.get_mut(&beacon.node) else {
            let node = beacon.node;
            self.heard.insert(node, Heard { beacon: Arc::new(beacon), at_ms: Some(now_ms) });
            return true;
        };
        let was_absent = !is_present(known.at_ms, now_ms);
        // Lives are counted by the wall clock, which may have been set back between two of them:
        // one that nothing more is heard of was the former one, whatever it called itself.
        let is_next_life = was_absent && beacon.life != known.beacon.life;
        let newest = (known.beacon.life, known.beacon.number);
        let is_first = known.at_ms.is_none();
        if (beacon.life, beacon.number) <= newest && !is_next_life && !is_first {
            return false;
        }
        let is_same = known.beacon.peer_address == beacon.peer_address
            && known.beacon.core_addresses == beacon.core_addresses
            && known.beacon.revision == beacon.revision
            && known.beacon.replicas == beacon.replicas;
        *known = Heard { beacon: Arc::new(beacon), at_ms: Some(now_ms) };
        was_absent || !is_same
    }

    /// Another node tells of this one; answers whether that is news. It says where the node may be
    /// found, not that it is there: two that told each other of a third would believe in it for
    /// ever.
    pub fn hear_of(&mut self, beacon: Beacon, now_ms: u64) -> bool {
        let known = self.heard.get(&beacon.node);
        let is_news = known.is_none_or(|known| {
            !is_present(known.at_ms, now_ms) && known.beacon.life != beacon.life
        });
        if is_news {
            self.heard.insert(beacon.node, Heard { beacon: Arc::new(beacon), at_ms: None });
        }
        is_news
    }

    /// Somebody says where a node is reached; answers whether that is news. All else that is known
    /// of it stays, and nothing is taken from one that is there.
    pub fn hear_where(&mut self, node: NodeId, peer_address: &str, now_ms: u64) -> bool {
        let known = self.heard.get(&node);
        let is_news = known.is_none_or(|known| {
            !is_present(known.at_ms, now_ms) && known.beacon.peer_address != peer_address
        });
        if is_news {
            let nothing = || Beacon { node, ..Beacon::default() };
            let known = known.map_or_else(nothing, |known| Beacon::clone(&known.beacon));
            let beacon = Beacon { peer_address: peer_address.to_owned(), ..known };
            self.heard.insert(node, Heard { beacon: Arc::new(beacon), at_ms: None });
        }
        is_news
    }

    /// The lives known of all nodes but this one.
    #[must_use]
    pub fn lives(&self, but: NodeId) -> BTreeMap<NodeId, u64> {
        let others = self.heard.iter().filter(|(node, _)| **node != but);
        others.map(|(node, heard)| (*node, heard.beacon.life)).collect()
    }

    /// Beacons of nodes that are there, and that whoever sent `beacon` knows no life of, or another
    /// one: two nodes that came back at new addresses find each other by a third one only.
    pub fn missed_by(&self, beacon: &Beacon, now_ms: u64) -> impl Iterator<Item = &Beacon> {
        self.beacons(now_ms).filter(|known| {
            known.node != beacon.node && beacon.lives.get(&known.node) != Some(&known.life)
        })
    }

    /// Drops nodes that are no members any more.
    pub fn keep_only(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.heard.retain(|node, _| is_member(*node));
    }

    /// The newest beacon of a node, however old.
    #[must_use]
    pub fn beacon(&self, node: NodeId) -> Option<&Beacon> {
        self.heard.get(&node).map(|heard| &*heard.beacon)
    }

    /// Where a member is reached: what it has told itself counts before what the catalog says. A
    /// node that was started elsewhere is found before a majority knows it.
    #[must_use]
    pub fn peer_address<'a>(&'a self, member: &'a Node) -> &'a str {
        self.beacon(member.id).map_or(&member.presence.peer, |beacon| &beacon.peer_address)
    }

    /// Whether a node was heard of lately.
    #[must_use]
    pub fn is_present(&self, node: NodeId, now_ms: u64) -> bool {
        self.heard.get(&node).is_some_and(|heard| is_present(heard.at_ms, now_ms))
    }

    /// Nodes that were heard of lately.
    #[must_use]
    pub fn present(&self, now_ms: u64) -> BTreeSet<NodeId> {
        self.beacons(now_ms).map(|beacon| beacon.node).collect()
    }

    fn beacons(&self, now_ms: u64) -> impl Iterator<Item = &Beacon> {
        let here = self.heard.values().filter(move |heard| is_present(heard.at_ms, now_ms));
        here.map(|heard| &*heard.beacon)
    }

    fn rows(&self, shard: ShardId, now_ms: u64) -> impl Iterator<Item = (NodeId, &Replica)> {
        self.beacons(now_ms).flat_map(move |beacon| {
            let own = beacon.replicas.iter().filter(move |replica| replica.shard == shard);
            own.map(|replica| (beacon.node, replica))
        })
    }

    /// Who leads a shard in the newest term that anybody knows of.
    #[must_use]
    pub fn leader(&self, shard: ShardId, now_ms: u64) -> Option<(Term, NodeId)> {
        let known = self.rows(shard, now_ms).filter_map(|(_, row)| Some((row.term, row.leader?)));
        known.max().filter(|(_, leader)| self.is_present(*leader, now_ms))
    }

    /// The shard as its leader sees it.
    #[must_use]
    pub fn leading(&self, shard: ShardId, now_ms: u64) -> Option<(NodeId, &Replica)> {
        let leading = self.rows(shard, now_ms).filter(|(_, row)| row.leads);
        leading.max_by_key(|(_, row)| row.term)
    }

    /// Whether a node tells that its replica of a shard is damaged.
    #[must_use]
    pub fn is_damaged(&self, node: NodeId, shard: ShardId) -> bool {
        let rows = self.beacon(node).map_or(&[][..], |beacon| &beacon.replicas);
        rows.iter().any(|row| row.shard == shard && row.damaged)
    }

    /// Whether a node is there with a replica that is whole.
    #[must_use]
    pub fn is_whole(&self, node: NodeId, shard: ShardId, now_ms: u64) -> bool {
        let is_whole = |row: &Replica| row.shard == shard && row.seeding.is_none() && !row.damaged;
        let beacon = self.beacon(node).filter(|_| self.is_present(node, now_ms));
        beacon.is_some_and(|beacon| beacon.replicas.iter().any(is_whole))
    }

    /// Whether a majority of a shard's voters is in sync and whole without `node`. Of damaged ones
    /// the first by number counts the others as whole: they stay until it is repaired.
    #[must_use]
    pub fn is_spare(&self, node: NodeId, shard: ShardId, now_ms: u64) -> bool {
        let Some((_, row)) = self.leading(shard, now_ms) else { return false };
        if row.changing {
            return false;
        }
        let stays = |other: &&NodeId| {
            let waits = **other > node && self.is_damaged(**other, shard);
            self.is_whole(**other, shard, now_ms) || waits
        };
        let others = row.in_sync.iter().filter(|other| **other != node);
        let voters = others.filter(|other| row.voters.contains(other));
        voters.filter(stays).count() * 2 > row.voters.len()
    }

    /// Whether the partitions of a shard agree with this revision of the catalog.
    #[must_use]
    pub fn agrees(&self, shard: ShardId, revision: u64, now_ms: u64) -> bool {
        self.leading(shard, now_ms).is_some_and(|(_, row)| row.agreed >= revision)
    }

    /// Whether every node that is there knows this revision of the catalog.
    #[must_use]
    pub fn is_known(&self, revision: u64, now_ms: u64) -> bool {
        self.beacons(now_ms).all(|beacon| beacon.revision >= revision)
    }

    /// What a plan goes by. Where nobody is known to lead, every node may be a member.
    #[must_use]
    pub fn sightings(&self, catalog: &Catalog, now_ms: u64) -> Sightings {
        let mut sightings = Sightings { present: self.present(now_ms), ..Sightings::default() };
        for (shard, assigned) in catalog.nodes().assignment() {
            let Some((_, row)) = self.leading(*shard, now_ms) else {
                sightings.members.extend(catalog.nodes().members().map(|node| node.id));
                sightings.moving.insert(*shard);
                continue;
            };
            // All nodes watch the catalog; that alone does not make one of them its member.
            let is_catalog = *shard == ShardId(0);
            let watchers = row.learners.iter().filter(|_| !is_catalog);
            sightings.members.extend(row.voters.iter().chain(watchers));
            let wanted: BTreeSet<NodeId> = assigned.iter().copied().collect();
            if row.voters != wanted || (!is_catalog && !row.learners.is_empty()) {
                sightings.moving.insert(*shard);
            }
        }
        sightings
    }
}

fn is_present(at_ms: Option<u64>, now_ms: u64) -> bool {
    at_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < PRESENT_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(shard: u32, term: u64, leads: bool, leader: u64) -> Replica {
        Replica {
            shard: ShardId(shard),
            term: Term(term),
            leads,
            leader: Some(NodeId(leader)),
            voters: BTreeSet::from([NodeId(1), NodeId(2)]),
            agreed: term,
            ..Replica::default()
        }
    }

    fn beacon(node: u64, number: u64, replicas: Vec<Replica>) -> Beacon {
        Beacon { node: NodeId(node), life: 1, number, replicas, ..Beacon::default() }
    }

    #[test]
    fn only_newer_beacons_count_and_only_changes_are_news() {
        let mut board = Board::default();
        assert!(board.hear(beacon(1, 5, vec![row(1, 2, true, 1)]), 0));
        assert!(!board.hear(beacon(1, 6, vec![row(1, 2, true, 1)]), 10));
        assert!(!board.hear(beacon(1, 5, vec![row(1, 9, true, 1)]), 20));
        assert_eq!(board.leader(ShardId(1), 20), Some((Term(2), NodeId(1))));
        assert!(board.hear(beacon(1, 7, vec![row(1, 3, false, 2)]), 30));
        let reborn = Beacon { life: 2, number: 0, ..beacon(1, 0, Vec::new()) };
        assert!(board.hear(reborn, 40));
        assert!(!board.hear(beacon(1, 99, vec![row(1, 2, true, 1)]), 50), "a former life");
        // It comes back after an absence with nothing else to tell.
        let again = Beacon { life: 2, number: 1, ..beacon(1, 0, Vec::new()) };
        assert!(board.hear(again, 40 + PRESENT_MS));
    }

    #[test]
    fn who_came_back_unheard_is_passed_on_until_it_is_heard() {
        let life = |node, life| Beacon { life, ..beacon(node, 0, Vec::new()) };
        let (mut third, mut moved) = (Board::default(), Board::default());
        moved.hear(life(1, 10), 0);
        third.hear(life(1, 11), 0);
        third.hear(life(2, 21), 0);
        let told = |moved: &Board| Beacon { lives: moved.lives(NodeId(2)), ..life(2, 21) };
        let missed: Vec<_> = third.missed_by(&told(&moved), 1).cloned().collect();
        assert_eq!(missed, [life(1, 11)]);
        assert!(!moved.hear_of(life(1, 11), 2), "it is there");
        assert!(moved.hear_of(life(1, 11), PRESENT_MS));
        assert_eq!(third.missed_by(&told(&moved), 3).count(), 0);
        assert!(!moved.is_present(NodeId(1), PRESENT_MS), "nobody heard of it here");
        assert!(moved.hear(life(1, 11), PRESENT_MS), "from now on it is there");
        assert!(!moved.hear_of(life(1, 10), PRESENT_MS));
        // Of one that is not there nothing is passed on.
        assert_eq!(third.missed_by(&told(&Board::default()), PRESENT_MS - 1).count(), 1);
        assert_eq!(third.missed_by(&told(&Board::default()), PRESENT_MS).count(), 0);
    }

    #[test]
    fn where_a_node_is_said_to_be_counts_until_it_is_heard() {
        let node = NodeId(1);
        let at = |life, address: &str| Beacon {
            life,
            peer_address: address.to_owned(),
            ..beacon(1, 0, vec![row(1, 2, true, 1)])
        };
        let mut board = Board::default();
        let address = |board: &Board| board.beacon(node).map(|beacon| beacon.peer_address.clone());
        assert!(board.hear_where(node, "a:1", 0));
        assert!(!board.hear_where(node, "a:1", 1));
        assert!(board.hear_where(node, "b:1", 2), "it has moved on");
        assert_eq!(address(&board).as_deref(), Some("b:1"));
        assert!(board.hear(at(7, "c:1"), 3));
        assert!(!board.hear_where(node, "b:1", 4), "it is there");
        assert!(board.hear_where(node, "b:1", 3 + PRESENT_MS));
        assert_eq!(board.beacon(node), Some(&at(7, "b:1")), "all else stays");
    }

    /// Who may leave its shard to be made anew, of three voters.
    #[test]
    fn of_two_damaged_replicas_one_goes_first() {
        let nodes: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let cases: [(&[u64], &[u64], &[u64]); 7] = [
            // Damaged, being made whole, may go.
            (&[], &[], &[1, 2, 3]),
            (&[1], &[], &[1]),
            (&[2], &[], &[2]),
            (&[1, 2], &[], &[1]),
            (&[2, 3], &[], &[2]),
            (&[1, 2, 3], &[], &[1]),
            (&[2], &[1], &[]),
        ];
        for (damaged, seeding, may_go) in cases {
            let mut board = Board::default();
            for node in [1, 2, 3] {
                let in_sync = nodes.iter().filter(|node| !seeding.contains(&node.0));
                let row = Replica {
                    voters: nodes.clone(),
                    in_sync: in_sync.copied().collect(),
                    damaged: damaged.contains(&node),
                    seeding: seeding.contains(&node).then_some(0),
                    ..row(1, 2, node == 3, 3)
                };
                board.hear(beacon(node, 1, vec![row]), 0);
            }
            let asked = damaged.iter().chain(if damaged.is_empty() { &[1, 2, 3][..] } else { &[] });
            let spare = asked.copied().filter(|node| board.is_spare(NodeId(*node), ShardId(1), 0));
            let spare: Vec<u64> = spare.collect();
            assert_eq!(spare, may_go, "damaged {damaged:?}, being made whole {seeding:?}");
            assert!(!board.is_spare(NodeId(1), ShardId(1), PRESENT_MS), "nobody is there");
        }
    }

    /// Of one copy three are made: until that is done, the first is as good as the only one.
    #[test]
    fn nobody_is_spare_while_voters_change() {
        let voters: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        for changing in [true, false] {
            let mut board = Board::default();
            for node in [1, 2, 3] {
                let (voters, in_sync) = (voters.clone(), voters.clone());
                let row = Replica { voters, in_sync, changing, ..row(1, 2, node == 3, 3) };
                board.hear(beacon(node, 1, vec![row]), 0);
            }
            assert_eq!(board.is_spare(NodeId(1), ShardId(1), 0), !changing);
        }
    }

    /// The simulated cluster, seed 36: a node started again after its clock was set back by two
    /// hours, and for two hours nobody who had known it before listened to it.
    #[test]
    fn a_life_after_a_clock_was_set_back_is_heard_when_the_former_is_silent() {
        let mut board = Board::default();
        let former = Beacon { life: 100, ..beacon(1, 7, vec![row(1, 2, true, 1)]) };
        let later = |number| Beacon { life: 40, ..beacon(1, number, vec![row(1, 3, true, 1)]) };
        assert!(board.hear(former.clone(), 0));
        assert!(!board.hear(later(0), PRESENT_MS - 1), "the former one may still be there");
        assert!(board.hear(later(1), PRESENT_MS));
        assert!(!board.hear(later(1), PRESENT_MS + 1));
        assert_eq!(board.leader(ShardId(1), PRESENT_MS), Some((Term(3), NodeId(1))));
        // Of the same life nothing older is taken, however long the silence was.
        assert!(!board.hear(later(0), 3 * PRESENT_MS));
    }

    #[test]
    fn the_newest_term_leads_while_its_leader_is_there() {
        let mut board = Board::default();
        board.hear(beacon(1, 1, vec![row(1, 2, true, 1)]), 0);
        board.hear(beacon(2, 1, vec![row(1, 3, true, 2)]), 1_000);
        board.hear(beacon(3, 1, vec![row(1, 3, false, 2)]), 1_000);
        assert_eq!(board.leader(ShardId(1), 1_000), Some((Term(3), NodeId(2))));
        assert_eq!(board.leading(ShardId(1), 1_000).map(|(node, _)| node), Some(NodeId(2)));
        assert!(board.agrees(ShardId(1), 3, 1_000));
        assert!(!board.agrees(ShardId(1), 4, 1_000));
        assert_eq!(board.present(PRESENT_MS).len(), 2);
        board.hear(beacon(3, 2, vec![row(1, 3, false, 2)]), 3_900);
        // Node 2 is not heard of any more: nobody can be sent there.
        assert_eq!(board.leader(ShardId(1), 1_000 + PRESENT_MS), None);
        assert!(board.beacon(NodeId(2)).is_some(), "its addresses stay known");
    }

    #[test]
    fn a_shard_without_a_leader_keeps_every_node_a_member() {
        let mut catalog = Catalog::new();
        let found = crate::Command::Found { cluster: "c".to_owned(), shards: 1 };
        catalog.apply(found, 0);
        catalog.apply(crate::Command::RegisterNode { node: NodeId(1) }, 0);
        let mut board = Board::default();
        board.hear(beacon(1, 1, vec![row(0, 2, true, 1)]), 0);
        let sightings = board.sightings(&catalog, 0);
        assert_eq!(sightings.members, BTreeSet::from([NodeId(1), NodeId(2)]));
        assert_eq!(sightings.moving, BTreeSet::from([ShardId(0), ShardId(1)]));
        let one = BTreeSet::from([NodeId(1)]);
        let rows = [row(0, 2, true, 1), row(1, 2, true, 1)];
        let rows = rows.map(|row| Replica { voters: one.clone(), ..row });
        board.hear(beacon(1, 2, rows.to_vec()), 0);
        assert_eq!(board.sightings(&catalog, 0).moving, BTreeSet::new());
    }
}
