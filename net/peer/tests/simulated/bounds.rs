//! What holds when the other side does not read: memory stays bounded on both sides, and others
//! are served meanwhile.

use std::time::Duration;

use barrage_model::NodeId;
use barrage_peer::{Header, Kind, Links, Load, Options};
use barrage_raft::{PeerError, Peers};
use barrage_world as world;
use barrage_world::net::Stream;
use barrage_world::sim;

use crate::node::*;

const MIB: usize = 1 << 20;

fn small() -> Options {
    Options {
        queued_bytes_max: 8 * MIB as u64,
        in_flight_bytes_max: 4 * MIB as u64,
        serving_bytes_max: 4 * MIB as u64,
        ..Options::default()
    }
}

/// Node 2 tells its cores, accepts connections there, and never reads.
async fn deaf_node() -> sim::Machine {
    let machine = machine(2);
    on(&machine, async {
        tell_contact(9400);
        let core = listen(9400);
        drop(world::spawn(async move {
            let mut kept = Vec::new();
            loop {
                kept.push(core.accept().await.unwrap());
            }
        }));
    })
    .await;
    machine
}

#[test]
fn a_peer_that_does_not_read_costs_bounded_memory() {
    for seed in 0..8 {
        sim::run(seed, async {
            let _deaf = deaf_node().await;
            let _three = Node::start(3, 1, 9400).await;
            on(&machine(1), async {
                let options = small();
                let most = options.queued_bytes_max + options.in_flight_bytes_max;
                let links = Links::new(identity(1), book(), options);
                let (mut timed_out, mut refused, mut waiting) = (0, 0, Vec::new());
                for round in 0..400 {
                    let ask = Ask::bulk(2, 1, MIB);
                    let (call, _) = ask.call();
                    let (answer, asked) = (links.call(call), world::Instant::now());
                    waiting.push(world::spawn(async move { (answer.await, asked.elapsed()) }));
                    let load = links.load();
                    assert!(load.queued_bytes + load.in_flight_bytes <= most, "{load:?}");
                    if round % 10 == 0 {
                        assert_eq!(Ask::bulk(3, 1, 10).ask(&links).await, Ok(Some(0)));
                    }
                    world::sleep(ms(30)).await;
                }
                for answer in waiting {
                    let (answer, took) = answer.await.unwrap();
                    assert!(took < 2 * SECOND + ms(20));
                    match answer.unwrap_err() {
                        PeerError::TimedOut(..) => timed_out += 1,
                        PeerError::Unreachable(..) => refused += 1,
                    }
                }
                assert!(timed_out > 10, "{timed_out} timed out, {refused} refused");
                assert!(refused > 100, "{timed_out} timed out, {refused} refused");
                assert_eq!(links.load(), Load::default());
            })
            .await;
        });
    }
}

/// More than may be under way at once: the rest follows as answers come, not by the clock.
#[test]
fn what_may_not_fly_yet_follows_the_answers() {
    for seed in 0..10 {
        sim::run(seed, async {
            let _two = Node::start(2, 1, 9400).await;
            on(&machine(1), async {
                let links = Links::new(identity(1), book(), small());
                let began = world::Instant::now();
                let ask = Ask { wait: ms(200), deadline_in: 60 * SECOND, ..Ask::bulk(2, 1, MIB) };
                let asks = (0..7).map(|_| world::spawn(ask.ask(&links)));
                let asked: Vec<_> = asks.collect();
                world::sleep(ms(1)).await;
                let flying = links.load().in_flight_bytes;
                assert!(flying <= small().in_flight_bytes_max, "{flying} bytes are under way");
                for answer in asked {
                    assert_eq!(answer.await.unwrap(), Ok(Some(0)));
                }
                assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
            })
            .await;
        });
    }
}

/// Sends requests and never reads an answer. Answers what the node held at most.
async fn flood(two: &Node, wait: Duration, filling: usize) -> u64 {
    let flooding = machine(4).spawn(async move {
        let stream = Stream::connect(address(2, 9400)).await.unwrap();
        for number in 0.. {
            let body = seal(number, wait, filling);
            let header = Header::new(Kind::Request, identity(4), NodeId(2), number);
            let body_size = body.len() as u32;
            let header = Header { body_size, within_ms: 600_000, ..header };
            let written = async {
                stream.write_all(&header.encode()).await.unwrap();
                stream.write_all(&body).await.unwrap();
            };
            if world::timeout(3 * SECOND, written).await.is_err() {
                break;
            }
        }
        world::sleep(600 * SECOND).await;
    });
    let one = machine(1);
    let links = on(&one, async { links(1) }).await;
    let mut most = 0;
    for _ in 0..200 {
        let links = links.clone();
        let took = on(&one, async move {
            let asked = world::Instant::now();
            assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
            asked.elapsed()
        });
        assert!(took.await < ms(20), "others wait");
        most = most.max(two.held_bytes());
        world::sleep(ms(30)).await;
    }
    drop(flooding);
    most
}

#[test]
fn requests_that_take_long_are_bounded() {
    sim::run(1, async {
        let two = Node::start_with(2, 1, 9400, small()).await;
        let most = flood(&two, 600 * SECOND, 100_000).await;
        assert!(most > 3 * MIB as u64);
        assert!(most <= 4 * MIB as u64 + 64 * 1024);
    });
}

#[test]
fn answers_that_nobody_takes_are_bounded_and_end_the_connection() {
    sim::run(2, async {
        let two = Node::start_with(2, 1, 9400, small()).await;
        let most = flood(&two, Duration::ZERO, 0).await;
        assert!(most > 3 * MIB as u64);
        assert!(most <= 4 * MIB as u64 + 4 * MIB as u64);
        assert_eq!(two.acceptors.borrow()[0].connections(), 2);
        world::sleep(20 * SECOND).await;
        assert_eq!(two.held_bytes(), 0);
        assert_eq!(two.acceptors.borrow()[0].connections(), 1);
    });
}

#[test]
fn more_connections_than_allowed_are_turned_away() {
    sim::run(3, async {
        let options = Options { connections_max: 3, ..Options::default() };
        let two = Node::start_with(2, 1, 9400, options).await;
        on(&machine(4), async {
            let mut kept = Vec::new();
            for _ in 0..10 {
                kept.push(Stream::connect(address(2, 9400)).await.unwrap());
            }
            world::sleep(SECOND).await;
        })
        .await;
        world::sleep(SECOND).await;
        assert_eq!(two.acceptors.borrow()[0].connections(), 0, "they have ended");
        on(&machine(4), async {
            let mut open = 0;
            let mut kept = Vec::new();
            for _ in 0..10 {
                let stream = Stream::connect(address(2, 9400)).await.unwrap();
                let ended = world::timeout(ms(100), stream.read(&mut [0; 8])).await;
                open += u32::from(ended.is_err());
                kept.push(stream);
            }
            assert_eq!(open, 3);
        })
        .await;
    });
}
