//! A peer that restarts is found again: on the same ports, on others, with other cores, elsewhere.

use std::time::Duration;

use barrage_model::NodeId;
use barrage_peer::{Links, Options};
use barrage_world as world;
use barrage_world::sim::{self, Rng};

use crate::node::*;

/// Asks all of eight shards until each is answered by its core of `cores`.
async fn all_found(links: &Links, cores: u32) -> Duration {
    let began = world::Instant::now();
    for shard in 0..8 {
        for ask in [Ask::urgent(2, shard), Ask::bulk(2, shard, 2_000)] {
            let core = ask_until_answered(links, ask, 5 * SECOND).await;
            assert_eq!(u32::from(core), shard % cores);
        }
    }
    began.elapsed()
}

#[test]
fn a_peer_with_other_cores_and_ports_is_found_again() {
    let mut slowest = Duration::ZERO;
    for seed in 0..30 {
        let took = sim::run(seed, async move {
            let mut random = Rng::new(seed);
            let mut node = Node::start(2, 4, 9400).await;
            let one = machine(1);
            let links = on(&one, async { links(1) }).await;
            let mut slowest = Duration::ZERO;
            for round in 0..6 {
                let cores = node.acceptors.borrow().len() as u32;
                let found = links.clone();
                let took = on(&one, async move { all_found(&found, cores).await }).await;
                slowest = slowest.max(took);
                assert!(links.connections() <= 2 * cores as usize);
                if random.one_in(3) {
                    node.machine.power_off();
                } else {
                    node.machine.kill();
                }
                world::sleep(ms(random.below(3_000))).await;
                // Ports that are taken over by another core are as likely as those that are not.
                let (cores, port) = (random.between(1, 5) as u16, 9400 + random.below(4) as u16);
                node = Node::start(2, cores, port).await;
                assert!(round < 6);
            }
            slowest
        });
        slowest = slowest.max(took);
    }
    assert!(slowest < 5 * SECOND, "{slowest:?}");
}

/// The connections stand, but the shards are elsewhere.
#[test]
fn a_refused_shard_makes_the_cores_be_asked_for() {
    for seed in 0..10 {
        sim::run(seed, async {
            let old = Node::start(2, 2, 9400).await;
            let (one, shared) = (machine(1), book());
            let own = shared.clone();
            let links = on(&one, async { Links::new(identity(1), own, Options::default()) }).await;
            let found = links.clone();
            on(&one, async move { all_found(&found, 2).await }).await;
            let new = Node::start_on(&old.machine, 2, 3, 9500, 9301).await;
            old.is_empty.set(true);
            shared.set(NodeId(2), address(2, 9301));
            on(&one, async move { all_found(&links, 3).await }).await;
            assert!(new.begun.borrow().len() >= 16);
        });
    }
}

#[test]
fn a_peer_that_moves_is_found_by_the_book() {
    for seed in 0..10 {
        sim::run(seed, async {
            let node = Node::start(2, 2, 9400).await;
            let (one, shared) = (machine(1), book());
            let own = shared.clone();
            let links = on(&one, async { Links::new(identity(1), own, Options::default()) }).await;
            let found = links.clone();
            on(&one, async move { all_found(&found, 2).await }).await;
            node.machine.kill();
            let moved = machine(7);
            let _node = Node::start_on(&moved, 2, 3, 9400, 9333).await;
            shared.set(NodeId(2), address(7, 9333));
            on(&one, async move { all_found(&links, 3).await }).await;
        });
    }
}
