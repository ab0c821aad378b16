//! The vote of a replica that is being copied, where its group cannot do without it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(sim)]

mod cluster;

use barrage_commitlog::Floor;
use barrage_world as world;
use barrage_world::sim::{self, Rng};

use crate::cluster::{
    Replica, SECOND, Wires, assert_alike, catch_up, checkpoint, formed, ms, release, retain, store,
    wait_for_leader,
};

/// Three voters, of which one lacks what the others have let go of.
async fn with_one_behind(wires: &Wires) -> (Vec<Replica>, usize) {
    let replicas = formed(wires, 3, Floor::Records).await;
    let at = wait_for_leader(&replicas).await;
    let (leader, away) = (&replicas[at], &replicas[(at + 1) % 3]);
    store(leader, 20).await;
    wires.cut(away.node.0);
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
    wires.heal();
    let group = away.group();
    let needed = away.run(async move { group.needs_seed().await });
    world::timeout(20 * SECOND, needed).await.unwrap();
    (replicas, at)
}

/// What the node does with a replica that is behind.
async fn close(replica: &Replica) {
    let group = replica.group();
    replica.shutdown().await;
    let (folder, held) = (replica.folder(), group.held());
    replica.run(async move { folder.mark_incomplete(held).await }).await.unwrap();
}

/// One voter is being copied, the other follower is lost for good, and perhaps the leader is
/// started again: nobody had a majority, for ever, and one whole copy was there.
#[test]
fn a_copy_is_made_and_votes_when_the_third_voter_is_lost() {
    for seed in 0..8 {
        sim::run(seed, async {
            let mut random = Rng::new(seed);
            let wires = Wires::default();
            let (mut replicas, at) = with_one_behind(&wires).await;
            let (behind, lost) = ((at + 1) % 3, (at + 2) % 3);
            close(&replicas[behind]).await;
            replicas[lost].machine.kill();
            let restarts = seed % 2 == 1;
            if restarts {
                let leader = replicas.remove(at).kill();
                leader.open().await;
                replicas.insert(at, leader);
            }
            let mut copied = replicas.remove(behind);
            // The copy is cut short now and then: what it voted is not forgotten.
            for _ in 0..random.below(3) {
                let short = ms(500 + random.below(4_000));
                let seeding = copied.machine.spawn(copied.seeding(&[1, 2, 3]));
                drop(world::timeout(short, seeding).await);
                copied = copied.crash(&mut random);
            }
            if copied.folder_is_whole().await {
                copied.open().await;
            } else {
                copied.seed_from(&[1, 2, 3]).await;
                copied.open().await;
            }
            replicas.insert(behind, copied);
            // Whoever was opened last may stand before it hears of the leader.
            world::sleep(10 * SECOND).await;
            let leads = wait_for_leader(&replicas).await;
            store(&replicas[leads], 5).await;
            let follows = &replicas[if leads == at { behind } else { at }];
            assert!(catch_up(follows, &replicas[leads]).await);
            assert_alike(follows, &replicas[leads]).await;
        });
    }
}
