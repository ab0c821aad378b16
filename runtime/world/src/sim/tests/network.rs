//! Tests of the network: datagrams, and each fault of a link.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::*;
use crate::sim::{Endpoint, Host, LinkOptions, Network, NetworkCounters, Packet};

const ONE: Host = Host(1);
const TWO: Host = Host(2);
const THREE: Host = Host(3);
const PORT: u16 = 7;

fn machine(host: Host) -> Machine {
    Machine::at(host, &Disk::default())
}

fn millis(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
}

/// Host ONE sends the numbers [0, count) to TWO, one each millisecond. Answers what arrived until
/// a second after the last was sent, and when.
fn send_numbers(seed: u64, count: u64, options: LinkOptions) -> (Vec<(u64, Duration)>, Network) {
    run(seed, async move {
        let network = Network::current();
        network.set_link(ONE, TWO, options);
        let (sends, receives) = (machine(ONE), machine(TWO));
        let arrived = Rc::new(RefCell::new(Vec::new()));
        let start = Instant::now();
        let into = Rc::clone(&arrived);
        drop(receives.spawn(async move {
            let endpoint = Endpoint::bind(PORT);
            loop {
                let Packet { from, bytes } = endpoint.recv().await;
                assert_eq!(from, (ONE, PORT));
                let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                into.borrow_mut().push((number, start.elapsed()));
            }
        }));
        let sent = sends.spawn(async move {
            let endpoint = Endpoint::bind(PORT);
            for number in 0..count {
                sleep(Duration::from_millis(1)).await;
                endpoint.send((TWO, PORT), Bytes::copy_from_slice(&number.to_le_bytes()));
            }
        });
        sent.await.unwrap();
        sleep(Duration::from_secs(1)).await;
        (arrived.take(), network)
    })
}

fn numbers(arrived: &[(u64, Duration)]) -> Vec<u64> {
    arrived.iter().map(|(number, _)| *number).collect()
}

/// The faults of `options` alone fire, and the same seed brings the same.
fn check(options: &LinkOptions, expected: &[&str]) -> (Vec<u64>, NetworkCounters) {
    const COUNT: u64 = 400;
    let (arrived, network) = send_numbers(5, COUNT, options.clone());
    let trace = trace_hash();
    let (again, network_again) = send_numbers(5, COUNT, options.clone());
    assert_eq!((&arrived, trace), (&again, trace_hash()));
    let counters = network.counters();
    assert_eq!(counters, network_again.counters());
    let (other, _) = send_numbers(6, COUNT, options.clone());
    assert!(trace != trace_hash());
    assert!(arrived != other || arrived.is_empty(), "chance depends on the seed");
    let fired = counters.faults().into_iter().filter(|(_, count)| *count > 0);
    assert_eq!(fired.map(|(name, _)| name).collect::<Vec<_>>(), expected);
    assert_eq!(counters.sent, COUNT);
    assert_eq!(counters.delivered, arrived.len() as u64);
    assert_eq!(counters.bytes, 8 * counters.delivered);
    (numbers(&arrived), counters)
}

#[test]
fn a_good_link_brings_all_in_order() {
    let (arrived, _) = check(&LinkOptions::default(), &[]);
    assert!(arrived.into_iter().eq(0..400));
}

#[test]
fn latency_is_kept_and_does_not_reorder() {
    let options = LinkOptions { latency: millis(20..=50), ..LinkOptions::default() };
    let (arrived, _) = send_numbers(1, 400, options.clone());
    assert!(numbers(&arrived).into_iter().eq(0..400));
    for (number, at) in arrived {
        let sent_at = Duration::from_millis(number + 1);
        // Each poll costs a little time, so the sender falls behind its milliseconds.
        assert!(at >= sent_at + *options.latency.start());
        assert!(at <= sent_at + *options.latency.end() + Duration::from_millis(5));
    }
}

#[test]
fn packets_are_lost() {
    let options = LinkOptions { loss_ppm: 300_000, ..LinkOptions::default() };
    let (arrived, counters) = check(&options, &["network-loss"]);
    assert!(arrived.is_sorted_by(|one, other| one < other));
    assert_eq!(counters.lost, 400 - arrived.len() as u64);
    assert!((60..180).contains(&counters.lost), "{counters:?}");
}

#[test]
fn packets_come_twice() {
    let options = LinkOptions { duplicate_ppm: 300_000, ..LinkOptions::default() };
    let (arrived, counters) = check(&options, &["network-duplicate"]);
    assert_eq!(arrived.len() as u64, 400 + counters.duplicated);
    assert_eq!(BTreeSet::from_iter(arrived).len(), 400);
    assert!((60..180).contains(&counters.duplicated), "{counters:?}");
}

#[test]
fn packets_overtake_each_other() {
    let options =
        LinkOptions { latency: millis(1..=2), reorder_ppm: 300_000, ..LinkOptions::default() };
    let (arrived, counters) = check(&options, &["network-reorder"]);
    assert!(!arrived.is_sorted());
    assert_eq!(BTreeSet::from_iter(arrived).len(), 400);
    assert!((60..180).contains(&counters.reordered), "{counters:?}");
}

#[test]
fn a_byte_is_altered() {
    let options = LinkOptions { corrupt_ppm: 300_000, ..LinkOptions::default() };
    let (arrived, counters) = check(&options, &["network-corrupt"]);
    assert_eq!(arrived.len(), 400);
    let altered = arrived.iter().zip(0..).filter(|(number, sent)| *number != sent);
    for (number, sent) in altered.clone() {
        assert_eq!((number ^ sent).count_ones(), 1, "one bit of one byte");
    }
    assert_eq!(altered.count() as u64, counters.corrupted);
    assert!((60..180).contains(&counters.corrupted), "{counters:?}");
}

#[test]
fn nothing_passes_a_cut_link() {
    let options = LinkOptions { cut: true, ..LinkOptions::default() };
    let (arrived, counters) = check(&options, &["network-cut"]);
    assert!(arrived.is_empty());
    assert_eq!(counters.cut, 400);
}

#[test]
fn a_slow_link_takes_its_time_and_its_queue_ends() {
    let second = Duration::from_secs(1);
    let (arrived, network) =
        send_numbers(1, 10, LinkOptions { bytes_per_second: Some(80), ..LinkOptions::default() });
    // 100 ms each; a second after the tenth was sent the tenth arrives.
    assert!(arrived.len() >= 9, "{arrived:?}");
    for (number, at) in &arrived {
        assert!(*at >= Duration::from_millis(100) * (*number as u32 + 1), "{arrived:?}");
    }
    assert_eq!(network.counters().lost, 0);
    let (arrived, network) =
        send_numbers(1, 400, LinkOptions { bytes_per_second: Some(800), ..LinkOptions::default() });
    assert!(network.counters().lost > 100, "{:?}", network.counters());
    assert!(arrived.last().unwrap().1 <= second * 2);
}

/// What each of three hosts hears when all send to all: (from, to).
fn all_to_all(network: &Network, endpoints: &[Rc<Endpoint>]) -> impl Future<Output = Pairs> {
    for from in endpoints {
        for to in endpoints {
            from.send(to.address(), Bytes::from_static(b"hello"));
        }
    }
    let (network, endpoints) = (network.clone(), endpoints.to_vec());
    async move {
        sleep(Duration::from_millis(10)).await;
        let mut heard = Pairs::new();
        for endpoint in &endpoints {
            while let Some(packet) = endpoint.try_recv() {
                heard.insert((packet.from.0.0, endpoint.address().0.0));
            }
        }
        network.heal_all();
        heard
    }
}

type Pairs = BTreeSet<(u16, u16)>;

#[test]
fn cuts_are_one_way_and_partitions_have_bridges() {
    run(1, async {
        let network = Network::current();
        let mut endpoints = Vec::new();
        for host in [ONE, TWO, THREE] {
            let bound = machine(host).spawn(async { Rc::new(Endpoint::bind(PORT)) });
            endpoints.push(bound.await.unwrap());
        }
        let all: Pairs = (1..=3).flat_map(|from| (1..=3).map(move |to| (from, to))).collect();
        let without = |pairs: &[(u16, u16)]| -> Pairs {
            all.iter().copied().filter(|pair| !pairs.contains(pair)).collect()
        };
        assert_eq!(all_to_all(&network, &endpoints).await, all);
        network.cut(ONE, TWO);
        assert_eq!(all_to_all(&network, &endpoints).await, without(&[(1, 2)]));
        network.partition(&[&[ONE], &[TWO, THREE]]);
        let expected = without(&[(1, 2), (2, 1), (1, 3), (3, 1)]);
        assert_eq!(all_to_all(&network, &endpoints).await, expected);
        network.partition(&[&[ONE, TWO], &[TWO, THREE]]);
        assert_eq!(all_to_all(&network, &endpoints).await, without(&[(1, 3), (3, 1)]));
        network.set_all(LinkOptions { cut: true, ..LinkOptions::default() });
        network.heal(TWO, THREE);
        let expected = Pairs::from([(1, 1), (2, 2), (3, 3), (2, 3)]);
        assert_eq!(all_to_all(&network, &endpoints).await, expected);
        assert_eq!(all_to_all(&network, &endpoints).await, all);
    });
}

#[test]
fn what_is_under_way_is_lost_by_a_cut() {
    run(1, async {
        let network = Network::current();
        network.set_all(LinkOptions { latency: millis(50..=50), ..LinkOptions::default() });
        let (one, two) = (machine(ONE), machine(TWO));
        let to = two.spawn(async { Endpoint::bind(PORT) }).await.unwrap();
        let from = one.spawn(async { Endpoint::bind(PORT) }).await.unwrap();
        from.send((TWO, PORT), Bytes::from_static(b"lost"));
        sleep(Duration::from_millis(20)).await;
        network.cut(ONE, TWO);
        sleep(Duration::from_millis(100)).await;
        network.heal(ONE, TWO);
        from.send((TWO, PORT), Bytes::from_static(b"heard"));
        assert_eq!(&to.recv().await.bytes[..], b"heard");
        assert_eq!(network.counters().cut, 1);
    });
}

#[test]
fn an_inbox_is_bounded_while_its_machine_is_paused() {
    run(1, async {
        let network = Network::current();
        let (one, two) = (machine(ONE), machine(TWO));
        let heard = Rc::new(Cell::new(0_u64));
        let count = Rc::clone(&heard);
        drop(two.spawn(async move {
            let endpoint = Endpoint::bind(PORT);
            loop {
                endpoint.recv().await;
                count.set(count.get() + 1);
            }
        }));
        let endpoint = one.spawn(async { Endpoint::bind(PORT) }).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        two.pause();
        for _ in 0..3_000 {
            endpoint.send((TWO, PORT), Bytes::from_static(b"hello"));
        }
        sleep(Duration::from_millis(10)).await;
        assert_eq!(heard.get(), 0);
        two.resume();
        sleep(Duration::from_millis(10)).await;
        let counters = network.counters();
        assert_eq!((heard.get(), counters.delivered, counters.lost), (1024, 1024, 1976));
    });
}

#[test]
fn a_port_is_free_after_its_process() {
    run(1, async {
        for power_off in [false, true] {
            let disk = Disk::default();
            let before = Machine::at(TWO, &disk);
            drop(before.spawn(async {
                let _endpoint = Endpoint::bind(PORT);
                std::future::pending::<()>().await;
            }));
            sleep(Duration::from_millis(1)).await;
            let disk = if power_off {
                before.power_off();
                Disk::boot(disk.crash(&mut Rng::new(1)))
            } else {
                before.kill();
                disk
            };
            let after = Machine::at(TWO, &disk);
            let endpoint = after.spawn(async { Endpoint::bind(PORT) }).await.unwrap();
            endpoint.send((TWO, PORT), Bytes::from_static(b"to itself"));
            assert_eq!(endpoint.recv().await.from, (TWO, PORT));
            after.kill();
        }
    });
}

#[test]
#[should_panic(expected = "port 7 of Host(0) is bound already")]
fn a_port_has_one_endpoint() {
    run(1, async {
        let _one = Endpoint::bind(PORT);
        let _other = Endpoint::bind(PORT);
    });
}

#[test]
fn a_dropped_endpoint_hears_nothing() {
    run(1, async {
        let (one, other) = (Endpoint::bind(1), Endpoint::bind(2));
        let address = other.address();
        drop(other);
        one.send(address, Bytes::from_static(b"hello"));
        sleep(Duration::from_millis(10)).await;
        let counters = Network::current().counters();
        assert_eq!((counters.sent, counters.delivered, counters.lost), (1, 0, 1));
        drop(Endpoint::bind(2));
    });
}
