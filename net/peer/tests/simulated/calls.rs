//! What holds when nothing fails: who answers, deadlines, refusals, dropped calls, the end.

use std::time::Duration;

use barrage_model::{NodeId, ShardId};
use barrage_peer::{Acceptor, ClusterId, Header, Identity, Inbox, Kind, Load, Refusal};
use barrage_raft::{PeerError, Peers, Urgency};
use barrage_world as world;
use barrage_world::net::Stream;
use barrage_world::sim::{self, LinkOptions};

use crate::node::*;

#[test]
fn every_shard_is_answered_by_its_core() {
    for seed in 0..20 {
        sim::run(seed, async {
            let _two = Node::start(2, 4, 9400).await;
            let _three = Node::start(3, 1, 9400).await;
            let one = machine(1);
            on(&one, async {
                let links = links(1);
                let asks = (0..64).flat_map(|shard| {
                    [Ask::urgent(2, shard), Ask::bulk(2, shard, 3_000), Ask::urgent(3, shard)]
                });
                let asked: Vec<_> = asks.map(|ask| (ask, world::spawn(ask.ask(&links)))).collect();
                for (ask, answer) in asked {
                    let cores = if ask.to == 2 { 4 } else { 1 };
                    let core = answer.await.unwrap().unwrap().unwrap();
                    assert_eq!(u32::from(core), ask.shard % cores);
                }
                assert_eq!(links.connections(), 4 * 2 + 1);
                assert_eq!(links.load(), Load::default());
            })
            .await;
        });
    }
}

#[test]
fn bodies_of_every_size_come_through() {
    for seed in 0..5 {
        sim::run(seed, async {
            let _two = Node::start(2, 2, 9400).await;
            on(&machine(1), async {
                let links = links(1);
                for filling in [0, 1, 1_008, 1_009, 30_000, 32_688, 70_000, 1 << 20, 5 << 20] {
                    let core = Ask::bulk(2, 1, filling).ask(&links).await.unwrap();
                    assert_eq!(core, Some(1), "{filling} bytes");
                }
            })
            .await;
        });
    }
}

#[test]
fn a_slow_answer_is_not_waited_for_beyond_the_deadline() {
    sim::run(1, async {
        let two = Node::start(2, 1, 9400).await;
        on(&machine(1), async {
            let links = links(1);
            for deadline_in in [ms(1), ms(100), 2 * SECOND] {
                let ask = Ask { wait: 10 * SECOND, deadline_in, ..Ask::urgent(2, 1) };
                let began = world::Instant::now();
                let error = ask.ask(&links).await.unwrap_err();
                assert_eq!(error, PeerError::TimedOut(NodeId(2), deadline_in));
                assert!(began.elapsed() >= deadline_in);
            }
            assert_eq!(links.load(), Load::default());
            let fine = Ask::urgent(2, 1).ask(&links).await;
            assert_eq!(fine, Ok(Some(0)), "the connection goes on");
        })
        .await;
        world::sleep(SECOND).await;
        assert_eq!(two.held_bytes(), 0, "nor does the other side go on for ever");
    });
}

#[test]
fn slow_answers_do_not_hold_up_others() {
    sim::run(2, async {
        let _two = Node::start(2, 1, 9400).await;
        on(&machine(1), async {
            let links = links(1);
            let slow = Ask { wait: SECOND, ..Ask::urgent(2, 1) };
            let slow = world::spawn(slow.ask(&links));
            let began = world::Instant::now();
            assert_eq!(Ask::urgent(2, 2).ask(&links).await, Ok(Some(0)));
            assert!(began.elapsed() < ms(20));
            assert_eq!(slow.await.unwrap(), Ok(Some(0)));
        })
        .await;
    });
}

#[test]
fn a_dropped_call_frees_its_place() {
    sim::run(3, async {
        let _two = Node::start(2, 1, 9400).await;
        on(&machine(1), async {
            let links = links(1);
            for round in 0..3 {
                let (call, _) = Ask { wait: SECOND, ..Ask::bulk(2, 1, 1 << 20) }.call();
                let answer = links.call(call);
                assert_eq!(links.load().queued, 1);
                if round > 0 {
                    world::sleep(ms(50)).await;
                    assert_eq!(links.load().in_flight, 1);
                }
                drop(answer);
                assert_eq!(links.load(), Load::default());
            }
            assert_eq!(Ask::bulk(2, 1, 10).ask(&links).await, Ok(Some(0)));
        })
        .await;
    });
}

#[test]
fn nobody_there_is_said_at_once() {
    sim::run(4, async {
        let one = machine(1);
        let _nobody = machine(2);
        on(&one, async {
            let links = links(1);
            let unknown = Ask::urgent(77, 1).ask(&links).await.unwrap_err();
            assert_eq!(
                unknown,
                PeerError::Unreachable(NodeId(77), "its address is not known".to_owned())
            );
            assert!(is_unreachable(Ask::urgent(2, 1).ask(&links).await));
            for _ in 0..200 {
                let began = world::Instant::now();
                assert!(is_unreachable(Ask::urgent(2, 1).ask(&links).await));
                assert!(began.elapsed() < ms(1));
                world::sleep(ms(7)).await;
            }
            // It comes up, and is found although every call is refused until then.
            let _two = Node::start(2, 1, 9400).await;
            ask_until_answered(&links, Ask::urgent(2, 1), 2 * SECOND).await;
        })
        .await;
    });
}

fn is_unreachable<T>(outcome: Result<T, PeerError>) -> bool {
    matches!(outcome, Err(PeerError::Unreachable(NodeId(2), _)))
}

#[test]
fn a_shard_that_is_not_there_is_refused() {
    sim::run(5, async {
        let _two = Node::start(2, 3, 9400).await;
        on(&machine(1), async {
            let links = links(1);
            for _ in 0..50 {
                let refused = Ask::urgent(2, SHARDS).ask(&links).await.unwrap_err();
                let PeerError::Unreachable(NodeId(2), reason) = refused else {
                    panic!("{refused}");
                };
                assert_eq!(reason, Refusal::UnknownShard.to_string());
                assert_eq!(Ask::urgent(2, SHARDS - 1).ask(&links).await, Ok(Some(0)));
                world::sleep(ms(100)).await;
            }
            assert_eq!(links.connections(), 2, "it is no reason to part");
        })
        .await;
    });
}

#[test]
fn another_node_at_the_address_is_not_spoken_to() {
    sim::run(6, async {
        let _three = Node::start(3, 1, 9400).await;
        on(&machine(1), async {
            let book = book();
            book.set(NodeId(2), address(3, CONTACT_PORT));
            let options = barrage_peer::Options::default();
            let links = barrage_peer::Links::new(identity(1), book, options);
            let PeerError::Unreachable(_, reason) =
                Ask::urgent(2, 1).ask(&links).await.unwrap_err()
            else {
                panic!("no answer in time");
            };
            assert!(reason.ends_with(&format!("node 3 of cluster {CLUSTER} is there")), "{reason}");
        })
        .await;
    });
}

/// The contact is right, but its port was taken over by another node.
#[test]
fn another_node_at_a_core_port_is_left_alone() {
    sim::run(6, async {
        let three = Node::start_on(&machine(2), 3, 1, 9400, 9399).await;
        on(&three.machine, async { tell_contact(9400) }).await;
        on(&machine(1), async {
            let links = links(1);
            for _ in 0..100 {
                let PeerError::Unreachable(_, reason) =
                    Ask::urgent(2, 1).ask(&links).await.unwrap_err()
                else {
                    panic!("no answer in time");
                };
                let said = Refusal::WrongNode.to_string();
                assert!(reason.ends_with(&said), "{reason}");
                world::sleep(ms(10)).await;
            }
        })
        .await;
        assert!(three.begun.borrow().is_empty(), "it took a request of another node");
    });
}

/// Sends one frame without a body and answers the header of what comes back.
async fn say(port: u16, header: Header) -> Header {
    let stream = Stream::connect(address(2, port)).await.unwrap();
    stream.write_all(&header.encode()).await.unwrap();
    let mut inbox = Inbox::new(1 << 20);
    loop {
        if let Some(frame) = inbox.next_frame().unwrap() {
            return frame.header;
        }
        assert!(stream.read_buf(inbox.buffer().unwrap()).await.unwrap() > 0, "hung up");
    }
}

#[test]
fn a_refusal_says_why_and_who_is_there() {
    sim::run(7, async {
        let _two = Node::start(2, 1, 9400).await;
        on(&machine(1), async {
            let stranger = Identity { cluster: ClusterId(1), node: NodeId(1) };
            let shard = ShardId(SHARDS);
            let cases = [
                (stranger, 2, Refusal::WrongCluster),
                (identity(1), 3, Refusal::WrongNode),
                (identity(1), 2, Refusal::UnknownShard),
            ];
            for (sender, to, refusal) in cases {
                for port in [CONTACT_PORT, 9400] {
                    let asked = Header::new(Kind::Request, sender, NodeId(to), 42);
                    let told = say(port, Header { shard, within_ms: 1000, ..asked }).await;
                    let expected = Header::new(Kind::Refused(refusal), identity(2), NodeId(1), 42);
                    assert_eq!(told, Header { shard, ..expected });
                }
            }
            let contact = Header::new(Kind::Contact, stranger, NodeId(2), 0);
            let told = say(CONTACT_PORT, contact).await;
            assert_eq!(told.kind, Kind::Refused(Refusal::WrongCluster));
            assert_eq!(told.cluster, CLUSTER);
        })
        .await;
    });
}

#[test]
fn what_is_no_frame_ends_the_connection() {
    sim::run(8, async {
        let two = Node::start(2, 1, 9400).await;
        let acceptor: Acceptor = two.acceptors.borrow()[0].clone();
        on(&machine(1), async move {
            let damaged = {
                let mut header = Header::new(Kind::Contact, identity(1), NodeId(2), 0).encode();
                header[20] ^= 1;
                header.to_vec()
            };
            let answer = Header::new(Kind::Answer, identity(1), NodeId(2), 0).encode().to_vec();
            for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), damaged, answer] {
                let stream = Stream::connect(address(2, 9400)).await.unwrap();
                stream.write_all(&bytes).await.unwrap();
                let ended = world::timeout(SECOND, stream.read(&mut [0; 100])).await.unwrap();
                assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
            }
            assert_eq!(acceptor.connections(), 0);
            let half = Stream::connect(address(2, 9400)).await.unwrap();
            half.write_all(b"BPEE").await.unwrap();
            world::sleep(10 * SECOND).await;
            assert_eq!(acceptor.connections(), 1);
            world::sleep(10 * SECOND).await;
            assert_eq!(acceptor.connections(), 0, "it does not go on");
        })
        .await;
    });
}

#[test]
fn requests_of_a_connection_are_begun_in_order() {
    for seed in 0..10 {
        sim::run(seed, async {
            set_links(LinkOptions { loss_ppm: 50_000, ..LinkOptions::default() });
            let two = Node::start(2, 1, 9400).await;
            on(&machine(1), async {
                let links = links(1);
                let asks = (0..100).map(|_| Ask {
                    deadline_in: 60 * SECOND,
                    wait: ms(1),
                    ..Ask::bulk(2, 1, 9)
                });
                let asked: Vec<_> = asks.map(|ask| ask.ask(&links)).collect();
                for answer in asked {
                    assert_eq!(answer.await, Ok(Some(0)));
                }
            })
            .await;
            assert_eq!(two.begun.borrow().len(), 100);
            assert!(two.begun.borrow().is_sorted());
        });
    }
}

#[test]
fn a_node_that_stops_answers_what_it_has_begun() {
    sim::run(10, async {
        let two = Node::start(2, 1, 9400).await;
        let acceptor = two.acceptors.borrow()[0].clone();
        on(&machine(1), async move {
            let links = links(1);
            assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
            let slow = Ask { wait: SECOND, ..Ask::urgent(2, 1) };
            let slow = world::spawn(slow.ask(&links));
            world::sleep(ms(100)).await;
            let deadline = world::Instant::now() + 5 * SECOND;
            let draining = world::spawn(async move {
                acceptor.drain(deadline).await;
                acceptor.connections()
            });
            world::sleep(ms(100)).await;
            let PeerError::Unreachable(_, reason) =
                Ask::urgent(2, 1).ask(&links).await.unwrap_err()
            else {
                panic!("no answer in time");
            };
            assert_eq!(reason, Refusal::Stopping.to_string());
            assert_eq!(slow.await.unwrap(), Ok(Some(0)));
            draining.await.unwrap();
            assert!(world::Instant::now() < deadline);
        })
        .await;
    });
}

#[test]
fn closed_links_end_their_calls_and_take_no_more() {
    sim::run(11, async {
        let two = Node::start(2, 1, 9400).await;
        on(&machine(1), async {
            let links = links(1);
            assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
            let ask = Ask { wait: SECOND, ..Ask::urgent(2, 1) };
            let asked =
                [world::spawn(ask.ask(&links)), world::spawn(Ask::bulk(3, 1, 9).ask(&links))];
            world::sleep(ms(100)).await;
            links.close();
            for answer in asked {
                let error = answer.await.unwrap().unwrap_err();
                assert!(matches!(error, PeerError::Unreachable(..)), "{error}");
            }
            let began = world::Instant::now();
            assert!(Ask::urgent(2, 1).ask(&links).await.is_err());
            assert!(began.elapsed() < ms(1));
            assert_eq!((links.connections(), links.load()), (0, Load::default()));
        })
        .await;
        world::sleep(2 * SECOND).await;
        assert_eq!(two.acceptors.borrow()[0].connections(), 0);
    });
}

/// Heartbeats while 64 MiB wait on the same slow link: the longest one.
fn slowest_heartbeat(seed: u64, backlog: usize) -> (Duration, Duration) {
    sim::run(seed, async move {
        let rate = Some(8 << 20);
        set_links(LinkOptions { bytes_per_second: rate, ..LinkOptions::default() });
        let _two = Node::start(2, 1, 9400).await;
        on(&machine(1), async move {
            let links = links(1);
            assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
            let began = world::Instant::now();
            let bulk = (0..backlog).map(|_| Ask {
                deadline_in: 60 * SECOND,
                urgency: Urgency::Bulk,
                ..Ask::bulk(2, 1, (1 << 20) - 100)
            });
            let bulk: Vec<_> = bulk.map(|ask| world::spawn(ask.ask(&links))).collect();
            let mut slowest = Duration::ZERO;
            while began.elapsed() < 6 * SECOND {
                let asked = world::Instant::now();
                assert_eq!(Ask::urgent(2, 1).ask(&links).await, Ok(Some(0)));
                slowest = slowest.max(asked.elapsed());
                world::sleep(ms(50)).await;
            }
            for answer in bulk {
                assert_eq!(answer.await.unwrap(), Ok(Some(0)));
            }
            (slowest, began.elapsed())
        })
        .await
    })
}

#[test]
fn heartbeats_do_not_wait_behind_64_mib() {
    for seed in 0..8 {
        let (idle, _) = slowest_heartbeat(seed, 0);
        let (busy, took) = slowest_heartbeat(seed, 63);
        assert!(took > 7 * SECOND, "the link was not slow");
        // At most what both sockets hold goes before it: 128 KiB are 16 ms on this link.
        assert!(busy < ms(40), "seed {seed}: {busy:?}, without load {idle:?}");
    }
}
