//! A client against a mock: what it sends is right, and what it counts is what happened.

use std::time::Instant;

use crate::args::BatchShape;
use crate::client::consumer::{Consumer, Wish};
use crate::client::dues::Spacing;
use crate::client::signals::Signals;
use crate::client::task::{Order, ProducerTask, Sending, Topic};
use crate::mock::Mock;
use crate::workload::payload::Payload;

use super::*;

const PARTITIONS: usize = 4;

fn sending(keys: Keys, rate: f64) -> Sending {
    Sending {
        record_size: 100,
        payload: Payload::Noise,
        keys,
        batch: BatchShape::Records(20),
        in_flight: 4,
        in_flight_asked: None,
        spacing: if rate > 0.0 { Spacing::of_rate(rate) } else { Spacing::default() },
        linger: Duration::from_millis(2),
        producers_all: 2,
    }
}

/// Two producers and a consumer on one thread, from start to end.
fn load(mock: &Mock, sending: &Sending) -> Did {
    let topic = Topic { id: 1, leaders: vec![mock.address; PARTITIONS] };
    let clock = Clock::now();
    let signals = Arc::new(Signals::new(clock, 1));
    let values = sending.payload.values(sending.record_size).unwrap();
    let keys = (sending.keys != Keys::None).then(|| KeySet::new(PARTITIONS));
    let stock = Stock::make(values, keys, sending.batch, 1).unwrap();
    let tasks = (0..2).map(|number| ProducerTask { topic: 0, number });
    let connect = |task: ProducerTask| {
        Producer::connect(task.number, &topic.keys(), sending, stock.size()).unwrap()
    };
    let wish = Wish {
        fetch_bytes: 4096,
        record_size: 100,
        spacing: (sending.keys == Keys::None).then_some(sending.spacing),
    };
    let by_leader = topic.by_leader(&[0, 1, 2, 3]);
    let engine = Engine {
        number: 0,
        core: 0,
        signals: Arc::clone(&signals),
        producers: tasks.map(connect).collect(),
        consumers: Consumer::connect(mock.address, &by_leader[&mock.address], wish).unwrap(),
        stock,
        sending: sending.clone(),
        warm_up: Duration::ZERO,
        pauses: false,
    };
    let thread = thread::spawn(|| engine.run());
    let at = |after: u64| {
        let at = clock.since_1970(Instant::now()) + Duration::from_millis(after);
        u64::try_from(at.as_micros()).unwrap()
    };
    signals.take(Order::Start { at_us: at(5) });
    signals.take(Order::Finish { at_us: at(305) });
    while !signals.all_produced() && !thread.is_finished() {
        thread::sleep(Duration::from_millis(2));
    }
    signals.take(Order::Drain);
    thread.join().unwrap().unwrap()
}

#[test]
fn what_is_published_is_consumed_and_both_are_counted() {
    for (keys, rate) in
        [(Keys::None, 0.0), (Keys::None, 2_000.0), (Keys::RoundRobin, 2_000.0), (Keys::Random, 0.0)]
    {
        let mock = Mock::start(PARTITIONS);
        let did = load(&mock, &sending(keys, rate));
        let stored: usize = (0..PARTITIONS).map(|n| mock.records(n)).sum();
        assert!(stored > 0, "{keys} {rate}");
        assert_eq!(did.totals.published, stored as u64, "{keys} {rate}");
        assert_eq!((did.totals.consumed, did.totals.left), (stored as u64, 0), "{keys} {rate}");
        // All that ended before the finish counts, each record with a latency of its own.
        let counted = did.publish.latencies().len();
        assert!(counted > 0 && counted <= did.totals.published, "{keys} {rate}");
        assert!(did.consume.latencies().len() <= did.totals.consumed, "{keys} {rate}");
        if rate > 0.0 {
            // Never more than was due: two producers, 0.3 s and what goes on in batches.
            assert!(stored <= 2 * (600 + 20), "{keys}: {stored}");
        }
        for partition in 0..PARTITIONS {
            mock.check_sequences(partition);
        }
    }
}

#[test]
fn more_in_flight_than_the_server_allows_is_refused() {
    let mock = Mock::start(1);
    let topic = Topic { id: 1, leaders: vec![mock.address] };
    let connect = |asked| {
        let sending = Sending { in_flight_asked: Some(asked), ..sending(Keys::None, 0.0) };
        Producer::connect(0, &topic.keys(), &sending, 1_000).map(drop)
    };
    connect(8).unwrap();
    let refused = connect(9).unwrap_err().to_string();
    assert!(refused.contains("may have 8"), "{refused}");
}

#[test]
fn a_key_goes_to_its_partition_and_nowhere_else() {
    let mock = Mock::start(PARTITIONS);
    load(&mock, &sending(Keys::RoundRobin, 20_000.0));
    let mut seen = 0;
    for partition in 0..PARTITIONS {
        for key in mock.keys(partition) {
            let key = key.expect("every record has a key");
            let expected = barrage_model::key_hash(&key) as usize % PARTITIONS;
            assert_eq!(expected, partition, "{}", key.escape_ascii());
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen}");
}
