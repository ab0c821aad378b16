//! The floor that follows the records: who was away is caught up by entries as long as there are
//! any, and never by a checkpoint.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(sim)]

mod cluster;

use barrage_commitlog::Floor;
use barrage_model::{LogIndex, NodeId};
use barrage_world as world;
use barrage_world::{Instant, sim};

use crate::cluster::{
    Replica, SECOND, Wires, assert_alike, catch_up, checkpoint, formed, ms, release, retain, store,
    wait_for_leader,
};

async fn add_learner(leader: &Replica, node: u64) {
    let group = leader.group();
    leader.run(async move { group.add_learner(NodeId(node)).await }).await.unwrap();
}

fn floor(replica: &Replica) -> Option<LogIndex> {
    replica.group().log().hard_state().floor.map(|floor| floor.index)
}

#[test]
fn entries_stay_as_long_as_their_records() {
    sim::run(1, async {
        let replicas = formed(&Wires::default(), 1, Floor::Records).await;
        let one = &replicas[0];
        for _ in 0..4 {
            store(one, 60).await;
            checkpoint(one).await;
            retain(one).await;
        }
        assert_eq!(floor(one), None, "nothing was let go");
        let segments = one.group().log().stats().segments;
        release(one, 150).await;
        retain(one).await;
        world::sleep(SECOND).await;
        let low = floor(one).unwrap();
        let kept = one.group().with_machine(|shelf| shelf.stored[&150]);
        assert!(low.0 < kept, "the floor {low:?} has passed a record that is promised");
        assert!(one.group().log().stats().segments < segments);
        assert!(one.is_complete().await);
        one.shutdown().await;
        one.open().await;
        wait_for_leader(&replicas).await;
        assert_eq!(floor(one), Some(low));
        assert!(one.is_complete().await, "records are missing after a restart");
    });
}

#[test]
fn the_floor_stays_below_the_checkpoint_before_the_newest() {
    sim::run(2, async {
        let replicas = formed(&Wires::default(), 1, Floor::Records).await;
        let one = &replicas[0];
        store(one, 40).await;
        checkpoint(one).await;
        let first = one.group().applied().unwrap();
        store(one, 100).await;
        release(one, 140).await;
        retain(one).await;
        assert_eq!(floor(one), None, "there is one checkpoint only");
        checkpoint(one).await;
        retain(one).await;
        world::sleep(SECOND).await;
        assert!(floor(one).unwrap() <= first.index);
        store(one, 1).await;
        checkpoint(one).await;
        retain(one).await;
        world::sleep(SECOND).await;
        assert!(floor(one).unwrap() > first.index);
        assert!(one.is_complete().await);
    });
}

#[test]
fn who_was_away_is_caught_up_by_entries() {
    for seed in 0..4 {
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = formed(&wires, 3, Floor::Records).await;
            let at = wait_for_leader(&replicas).await;
            let away = (at + 1) % 3;
            store(&replicas[at], 20).await;
            wires.cut(replicas[away].node.0);
            for _ in 0..4 {
                store(&replicas[at], 60).await;
                checkpoint(&replicas[at]).await;
                retain(&replicas[at]).await;
            }
            wires.heal();
            assert!(catch_up(&replicas[away], &replicas[at]).await);
            assert_alike(&replicas[away], &replicas[at]).await;
            assert_eq!(floor(&replicas[away]), None, "it was given a checkpoint");
        });
    }
}

#[test]
fn a_checkpoint_is_not_taken_for_the_records_before_it() {
    sim::run(5, async {
        let wires = Wires::default();
        let replicas = formed(&wires, 3, Floor::Records).await;
        let at = wait_for_leader(&replicas).await;
        let (leader, away) = (&replicas[at], &replicas[(at + 1) % 3]);
        store(leader, 20).await;
        wires.cut(away.node.0);
        // Far behind: nobody waits for it.
        store(leader, 400).await;
        release(leader, 90).await;
        for _ in 0..3 {
            store(leader, 10).await;
            checkpoint(leader).await;
        }
        for _ in 0..5 {
            world::sleep(SECOND).await;
            retain(leader).await;
        }
        assert!(floor(leader).unwrap() > away.group().status().last_index.unwrap());
        wires.heal();
        let group = away.group();
        let needed = away.run(async move { group.needs_seed().await });
        world::timeout(20 * SECOND, needed).await.unwrap();
        assert_eq!(floor(away), None, "nothing was installed");
        // What the node does now.
        away.shutdown().await;
        let folder = away.folder();
        away.run(async move { folder.mark_incomplete(barrage_raft::Held::Unknown).await })
            .await
            .unwrap();
        assert!(away.try_open().await.is_err(), "an incomplete replica is not opened");
        away.seed_from(&[1, 2, 3]).await;
        away.open().await;
        store(leader, 5).await;
        assert!(catch_up(away, leader).await);
        assert_alike(away, leader).await;
    });
}

#[test]
fn an_entry_on_all_voters_is_told_from_one_on_a_majority() {
    sim::run(6, async {
        let wires = Wires::default();
        let replicas = formed(&wires, 3, Floor::Records).await;
        let at = wait_for_leader(&replicas).await;
        let leader = &replicas[at];
        let wait = |span| {
            let group = leader.group();
            let index = group.applied().unwrap().index;
            leader
                .machine
                .spawn(async move { group.flushed_by_all(index, Instant::now() + span).await })
        };
        store(leader, 3).await;
        wait(2 * SECOND).await.unwrap().unwrap();
        wires.cut(replicas[(at + 1) % 3].node.0);
        store(leader, 3).await;
        let missing = wait(ms(500)).await.unwrap().unwrap_err();
        assert_eq!((missing.have, missing.want), (2, 3));
        let begin = Instant::now();
        let late = wait(20 * SECOND);
        world::sleep(SECOND).await;
        wires.heal();
        late.await.unwrap().unwrap();
        assert!(begin.elapsed() < 10 * SECOND);
        // A leader that is cut off loses its office while it waits.
        store(leader, 1).await;
        wires.cut(leader.node.0);
        let group = leader.group();
        let beyond = LogIndex(group.applied().unwrap().index.0 + 1);
        let deadline = Instant::now() + 60 * SECOND;
        let lost =
            leader.machine.spawn(async move { group.flushed_by_all(beyond, deadline).await });
        world::sleep(10 * SECOND).await;
        wires.heal();
        let missing = world::timeout(20 * SECOND, lost).await.unwrap().unwrap().unwrap_err();
        assert!(missing.have < missing.want);
    });
}

/// A group of one was about to count on two newcomers, each a few entries behind, and let go of
/// those entries: both had to be copied anew, and their leader, which needed one of them to lead
/// for certain, gave no copies any more. Found as `cluster` seed 8, with an order given twice.
#[test]
fn what_a_newcomer_lacks_stays_while_it_is_near() {
    sim::run(6, async {
        let wires = Wires::default();
        let replicas = formed(&wires, 1, Floor::Records).await;
        let leader = &replicas[0];
        store(leader, 60).await;
        let new = Replica::new(2, &wires, Floor::Records);
        new.seed_from(&[1]).await;
        new.open().await;
        add_learner(leader, 2).await;
        assert!(catch_up(&new, leader).await);
        wires.cut(2);
        store(leader, 100).await;
        release(leader, 150).await;
        for _ in 0..3 {
            store(leader, 10).await;
            checkpoint(leader).await;
        }
        retain(leader).await;
        world::sleep(SECOND).await;
        let has = new.group().status().last_index;
        assert!(floor(leader) <= has, "{:?} is gone, the newcomer has {has:?}", floor(leader));
        // Nobody waits for one that is far behind.
        store(leader, 300).await;
        checkpoint(leader).await;
        // Nor any more for what was copied.
        world::sleep(11 * SECOND).await;
        retain(leader).await;
        world::sleep(SECOND).await;
        assert!(floor(leader) > has);
    });
}
