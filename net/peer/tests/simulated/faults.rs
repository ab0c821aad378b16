//! What holds when links fail: every call ends in time, with its own answer or none, and calls
//! are answered again soon after the links are well.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::NodeId;
use barrage_peer::Load;
use barrage_raft::{PeerError, Urgency};
use barrage_world as world;
use barrage_world::sim::{self, LinkOptions, Network, Rng};

use crate::node::*;

/// Many calls of all sizes between two nodes over such links; how many were answered, of how many.
async fn exchange(seed: u64, count: u64, deadline_in: Duration) -> (u64, u64) {
    let _two = Node::start(2, 2, 9400).await;
    on(&machine(1), async move {
        let (links, mut random) = (links(1), Rng::new(seed));
        let mut asked = Vec::new();
        for _ in 0..count {
            let urgency = if random.one_in(3) { Urgency::Urgent } else { Urgency::Bulk };
            let filling = match random.below(8) {
                0 => random.below(200_000) as usize,
                _ => random.below(3_000) as usize,
            };
            let wait = ms(random.below(20));
            let shard = random.below(8) as u32;
            let ask = Ask { urgency, wait, deadline_in, ..Ask::bulk(2, shard, filling) };
            asked.push((shard, world::spawn(ask.ask(&links))));
            world::sleep(ms(random.below(20))).await;
        }
        let mut answered = 0;
        for (shard, answer) in asked {
            if let Ok(Some(core)) = answer.await.unwrap() {
                assert_eq!(u32::from(core), shard % 2);
                answered += 1;
            }
        }
        assert_eq!(links.load(), Load::default());
        (answered, count)
    })
    .await
}

#[test]
fn lossy_links_delay_and_lose_no_call() {
    for seed in 0..20 {
        let (answered, count) = sim::run(seed, async move {
            set_links(LinkOptions {
                latency: ms(1)..=ms(5),
                loss_ppm: 20_000,
                duplicate_ppm: 20_000,
                reorder_ppm: 50_000,
                corrupt_ppm: 5_000,
                ..LinkOptions::default()
            });
            exchange(seed, 200, 60 * SECOND).await
        });
        assert_eq!(answered, count, "seed {seed}");
    }
}

/// Bits of the streams themselves change: a header that suffered ends its connection, a body that
/// did is noticed by whoever reads it, and no call gets the answer to another one.
#[test]
fn corrupt_streams_mix_nothing_up() {
    let (mut answered_all, mut count_all) = (0, 0);
    for seed in 0..40 {
        sim::set_buggify(seed % 2 == 0);
        let (answered, count) = sim::run(seed, async move {
            set_links(LinkOptions {
                corrupt_ppm: 20_000,
                corrupt_streams: true,
                ..LinkOptions::default()
            });
            exchange(seed, 200, 2 * SECOND).await
        });
        answered_all += answered;
        count_all += count;
    }
    sim::set_buggify(false);
    assert!(answered_all > count_all / 4, "{answered_all} of {count_all}");
    assert!(answered_all < count_all, "nothing was damaged");
}

#[test]
fn a_cut_link_is_noticed_by_deadlines_and_healed_soon() {
    let mut slowest = Duration::ZERO;
    for seed in 0..30 {
        let healed_in = sim::run(seed, async move {
            let _two = Node::start(2, 1, 9400).await;
            let mut random = Rng::new(seed);
            on(&machine(1), async move {
                let (links, network) = (links(1), Network::current());
                assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
                assert_eq!(Ask::bulk(2, 1, 9).ask(&links).await, Ok(Some(0)));
                network.cut(host(1), host(2));
                if random.one_in(2) {
                    network.cut(host(2), host(1));
                }
                let error = Ask::urgent(2, 1).ask(&links).await.unwrap_err();
                assert_eq!(error, PeerError::TimedOut(NodeId(2), 2 * SECOND));
                let healed = world::Instant::now() + ms(random.between(0, 20_000));
                while world::Instant::now() < healed {
                    let shorter = Ask { deadline_in: ms(200), ..Ask::urgent(2, 1) };
                    assert!(shorter.ask(&links).await.is_err());
                    world::sleep(ms(50)).await;
                }
                network.heal_all();
                let healed = world::Instant::now();
                let shorter = Ask { deadline_in: ms(200), ..Ask::urgent(2, 1) };
                ask_until_answered(&links, shorter, 10 * SECOND).await;
                healed.elapsed()
            })
            .await
        });
        slowest = slowest.max(healed_in);
    }
    assert!(slowest < 3 * SECOND, "{slowest:?}");
}

#[test]
fn a_paused_peer_is_waited_for_and_goes_on() {
    sim::run(3, async {
        let two = Node::start(2, 1, 9400).await;
        let paused = two.machine.clone();
        on(&machine(1), async move {
            let links = links(1);
            assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
            paused.pause();
            let error = Ask::urgent(2, 1).ask(&links).await.unwrap_err();
            assert_eq!(error, PeerError::TimedOut(NodeId(2), 2 * SECOND));
            world::sleep(30 * SECOND).await;
            paused.resume();
            ask_until_answered(&links, Ask::urgent(2, 1), 5 * SECOND).await;
        })
        .await;
    });
}

/// A large request over a link on which it takes long, while small ones behind it are late.
#[test]
fn a_long_transfer_is_not_mistaken_for_silence() {
    for seed in 0..6 {
        sim::run(seed, async {
            let rate = Some(1 << 20);
            set_links(LinkOptions { bytes_per_second: rate, ..LinkOptions::default() });
            let two = Node::start(2, 1, 9400).await;
            on(&machine(1), async move {
                let links = links(1);
                let wait = 5 * SECOND;
                let checkpoint =
                    Ask { deadline_in: 60 * SECOND, wait, ..Ask::bulk(2, 1, 20 << 20) };
                let checkpoint = world::spawn(checkpoint.ask(&links));
                let mut late = 0;
                for _ in 0..20 {
                    let small = Ask { deadline_in: ms(500), ..Ask::bulk(2, 2, 100) };
                    late += u32::from(small.ask(&links).await.is_err());
                    world::sleep(ms(500)).await;
                }
                assert!(late > 15, "the link was not slow");
                assert_eq!(checkpoint.await.unwrap(), Ok(Some(0)));
                assert_eq!(two.acceptors.borrow()[0].connections(), 1, "it was made anew");
            })
            .await;
        });
    }
}

/// Everything at once, by the seed: cuts, pauses, slow and lossy links, and calls all the time.
#[test]
fn whatever_happens_every_call_ends_in_time() {
    let answered_all = Rc::new(Cell::new((0_u64, 0_u64)));
    for seed in 0..60 {
        sim::set_buggify(seed % 2 == 0);
        let answered_all = Rc::clone(&answered_all);
        sim::run(seed, async move {
            let nodes = Rc::new([Node::start(2, 2, 9400).await, Node::start(3, 1, 9400).await]);
            let random = Rc::new(RefCell::new(Rng::new(seed)));
            let stop = Rc::new(Cell::new(false));
            let (one, mut clients) = (machine(1), Vec::new());
            let all_links = on(&one, async { links(1) }).await;
            for client in 0..4_u32 {
                let (links, stop) = (all_links.clone(), Rc::clone(&stop));
                let (random, answered_all) = (Rc::clone(&random), Rc::clone(&answered_all));
                clients.push(one.spawn(async move {
                    while !stop.get() {
                        let (to, filling, deadline) = {
                            let mut random = random.borrow_mut();
                            let filling = 1 << random.below(18);
                            (random.between(2, 3), filling, random.between(50, 2_000))
                        };
                        let ask =
                            Ask { deadline_in: ms(deadline), ..Ask::bulk(to, client, filling) };
                        let answered = ask.ask(&links).await.is_ok();
                        let (good, all) = answered_all.get();
                        answered_all.set((good + u64::from(answered), all + 1));
                        world::sleep(ms(10)).await;
                    }
                }));
            }
            for _ in 0..30 {
                fault(&mut random.borrow_mut(), &nodes[..]);
                let pause = random.borrow_mut().between(20, 1_500);
                world::sleep(ms(pause)).await;
            }
            Network::current().heal_all();
            set_links(LinkOptions::default());
            nodes.iter().for_each(|node| node.machine.resume());
            stop.set(true);
            for client in clients {
                client.await.unwrap();
            }
            on(&one, async move {
                for to in [2, 3] {
                    for ask in [Ask::urgent(to, 1), Ask::bulk(to, 0, 50_000)] {
                        ask_until_answered(&all_links, ask, 8 * SECOND).await;
                    }
                }
                assert_eq!(all_links.load(), Load::default());
            })
            .await;
        });
    }
    sim::set_buggify(false);
    let (answered, count) = answered_all.get();
    assert!(answered > count / 4, "{answered} of {count}");
    assert!(answered < count, "nothing failed");
}

fn fault(random: &mut Rng, nodes: &[Node]) {
    let network = Network::current();
    let node = random.below(2) as usize;
    let peer = nodes[node].machine.host();
    match random.below(9) {
        0 => network.cut(host(1), peer),
        1 => network.cut(peer, host(1)),
        2 => network.partition(&[&[host(1)], &[host(2), host(3)]]),
        3 | 4 => network.heal_all(),
        5 => nodes[node].machine.pause(),
        6 => nodes.iter().for_each(|node| node.machine.resume()),
        7 => set_links(LinkOptions {
            latency: ms(5)..=ms(60),
            bytes_per_second: Some(random.between(50_000, 5_000_000)),
            ..LinkOptions::default()
        }),
        _ => set_links(LinkOptions {
            loss_ppm: random.below(100_000) as u32,
            corrupt_ppm: random.below(10_000) as u32,
            corrupt_streams: true,
            ..LinkOptions::default()
        }),
    }
}
