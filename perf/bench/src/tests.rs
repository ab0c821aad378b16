//! The load generator against a mock: what it sends is right, and what it counts is what happened.

use std::time::Duration;

use barrage_model::{GroupId, Offset};
use clap::Parser;

use crate::args::{BenchArgs, Plan};
use crate::meter::Window;
use crate::mock::Mock;
use crate::reader::{AtEnd, Reader, Wish as ReaderWish};
use crate::session::Session;
use crate::worker::{Wish, Worker};
use crate::{latency, pipe, produce};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: BenchArgs,
}

fn plan(flags: &str) -> Plan {
    let words = std::iter::once("bench").chain(flags.split_whitespace());
    let mut plan = Plan::new(&Command::parse_from(words).args).unwrap();
    // Tests run side by side on few cores; where does not matter to them.
    plan.client_cores = "0".parse().unwrap();
    plan
}

/// Sequences are right in every partition, to each of which something was sent; how many batches.
fn check_sequences(mock: &Mock, partitions: usize) -> usize {
    let sent: Vec<usize> = (0..partitions).map(|number| mock.check_sequences(number)).collect();
    assert!(sent.iter().all(|batches| *batches > 0), "{sent:?}");
    sent.iter().sum()
}

#[test]
fn producers_send_every_sequence_once_to_every_partition() {
    for (flags, partitions) in [
        ("produce --batch-records 10", 1),
        ("produce --batch-records 300 --partitions 3 --producers 2", 3),
        ("produce --batch-records 10 --partitions 2 --producers 5 --in-flight 3", 2),
    ] {
        let plan = plan(flags);
        let mock = Mock::start(partitions);
        for build in [false, true] {
            let mut lanes = produce::node_lanes(&plan, &mock.routes(), build).unwrap();
            assert_eq!(lanes.len(), plan.producers);
            for lane in &mut lanes {
                assert!(lane.in_flight <= 8, "the server allows no more");
                lane.batches_max = Some(40);
            }
            let window = Window::after(Duration::ZERO, Duration::from_secs(60));
            let reading = produce::run(lanes, window).unwrap().read();
            assert!(reading.records_per_s > 0.0);
        }
        let records = if flags.contains("300") { 300 } else { 10 };
        let sent = check_sequences(&mock, partitions);
        assert_eq!(sent, plan.producers * 80);
        let stored: usize = (0..partitions).map(|number| mock.records(number)).sum();
        assert_eq!(stored, sent * records);
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let plan = plan("latency --rate 2000 --duration 0.5 --batch-records 2 --producers 2");
    let mock = Mock::start(2);
    let reading = latency::run_node(&plan, &mock.routes()).unwrap().read();
    assert!((1_500.0..=2_100.0).contains(&reading.records_per_s), "{reading:?}");
    check_sequences(&mock, 2);
}

fn all_of(bytes_max: u32) -> ReaderWish {
    ReaderWish { at_end: AtEnd::Stop, bytes_max, fetches_max: 1, record_size: 100 }
}

#[test]
fn a_reader_reads_all_of_every_partition_and_stops() {
    let plan = plan("produce --batch-records 10 --partitions 2");
    let mock = Mock::start(2);
    let mut lanes = produce::node_lanes(&plan, &mock.routes(), false).unwrap();
    lanes[0].batches_max = Some(100);
    let window = Window::after(Duration::ZERO, Duration::from_secs(60));
    produce::run(lanes, window).unwrap();
    let parts = produce::partitions_of(0, 1, &mock.routes()).unwrap();
    let keys = &parts[&mock.address];
    let stream = Session::connect(mock.address).unwrap().into_stream();
    let reader = Reader::new(stream, 0, all_of(4096), keys);
    let window = Window::after(Duration::ZERO, Duration::from_secs(60));
    let meter = reader.run(window).unwrap();
    assert_eq!(meter.records_all(), 1000);
    assert!(meter.read().p50_us > 0);
}

#[test]
fn a_pipe_reads_every_record_that_was_sent() {
    // Of small batches a few are noted when they are sent: a slow machine may read none of those
    // in a window this short.
    for (flags, all_noted) in [
        ("pipe --batch-records 10 --duration 0.2", false),
        ("pipe --batch-records 1 --partitions 3 --producers 2 --duration 0.2", false),
        ("pipe --batch-records 1000 --producers 3 --duration 0.2 --fetch-bytes 300", true),
    ] {
        let plan = plan(flags);
        let mock = Mock::start(plan.partitions as usize);
        let (read, written) = pipe::load(&plan, &mock.routes()).unwrap();
        assert!(written.records_all() > 0, "{flags}");
        assert_eq!(read.records_all(), written.records_all(), "{flags}");
        let (read, written) = (read.read(), written.read());
        assert!(read.records_per_s > 0.0 && written.records_per_s > 0.0, "{flags}");
        assert!(read.p50_us > 0 || !all_noted, "{flags}: {read:?}");
    }
}

#[test]
fn more_in_flight_than_a_connection_may_have_is_refused() {
    let mock = Mock::start(1);
    let lanes = |flags: &str| produce::node_lanes(&plan(flags), &mock.routes(), false);
    assert_eq!(lanes("produce --batch-records 1 --in-flight 8").unwrap()[0].in_flight, 8);
    let refused = lanes("produce --batch-records 1 --in-flight 9").unwrap_err().to_string();
    assert!(refused.contains("may have 8") && refused.contains("--set"), "{refused}");
}

#[test]
fn a_reader_refuses_a_gap_and_damage() {
    let plan = plan("produce --batch-records 10");
    for damage in ["gap", "flip"] {
        let mock = Mock::start(1);
        let mut lanes = produce::node_lanes(&plan, &mock.routes(), false).unwrap();
        lanes[0].batches_max = Some(3);
        let window = Window::after(Duration::ZERO, Duration::from_secs(60));
        produce::run(lanes, window).unwrap();
        if damage == "gap" {
            mock.log.lock().unwrap()[0].remove(1);
        }
        let parts = produce::partitions_of(0, 1, &mock.routes()).unwrap();
        let stream = Session::connect(mock.address).unwrap().into_stream();
        let reader = Reader::new(stream, 0, all_of(1 << 20), &parts[&mock.address]);
        if damage == "flip" {
            // Beyond what the mock itself looks at: its stamp, not the payload.
            let mut log = mock.log.lock().unwrap();
            let last = log[0][2].len() - 1;
            log[0][2][last] ^= 1;
        }
        assert!(reader.run(window).is_err(), "{damage} was not noticed");
    }
}

#[test]
fn workers_ack_every_record_once() {
    let plan = plan("produce --batch-records 10 --partitions 2");
    let mock = Mock::start(2);
    let mut lanes = produce::node_lanes(&plan, &mock.routes(), false).unwrap();
    lanes[0].batches_max = Some(100);
    let window = Window::after(Duration::ZERO, Duration::from_secs(60));
    produce::run(lanes, window).unwrap();
    let parts = produce::partitions_of(0, 1, &mock.routes()).unwrap();
    let wish = Wish { group: GroupId(1), count_max: 7, bytes_max: 1 << 20, turns: 3, acks: true };
    let work = || {
        let stream = Session::connect(mock.address).unwrap().into_stream();
        Worker::new(stream, 0, wish, &parts[&mock.address], 100).run(window)
    };
    let read = work().unwrap().read();
    assert!(read.records_per_s > 0.0);
    for queue in mock.queues.lock().unwrap().iter_mut() {
        queue.acked.sort_unstable_by_key(|receipt| receipt.offset);
        let acked: Vec<u64> = queue.acked.iter().map(|receipt| receipt.offset.0).collect();
        assert_eq!(acked, (0..queue.next.0).collect::<Vec<_>>());
        assert_eq!(acked.len(), 500);
        queue.next = Offset(0);
    }
    let last = mock.log.lock().unwrap()[1][49].len() - 1;
    mock.log.lock().unwrap()[1][49][last] ^= 1;
    assert!(work().is_err(), "damage was not noticed");
}

#[test]
fn one_node_or_three_are_planned() {
    let planned = |flags: &str| {
        let words = std::iter::once("bench").chain(flags.split_whitespace());
        Plan::new(&Command::parse_from(words).args).map(|plan| plan.node_cores.len())
    };
    for (flags, nodes) in [
        ("bare", Some(1)),
        ("bare --nodes 3", Some(3)),
        ("produce --nodes 3 --server-cores 0", Some(3)),
        ("pipe --nodes 3", Some(3)),
        ("latency --nodes 3", Some(3)),
        ("consume-cold --nodes 3", None),
        ("consume-cold --nodes 1", Some(1)),
        ("connections", Some(1)),
        ("connections --nodes 3", None),
        ("partitions --nodes 3", None),
        ("partitions", Some(1)),
        ("partitions --partitions 200001", None),
        ("produce --partitions 10001", None),
        ("connections --connections 2", None),
        ("latency --p99-below 5ms", Some(1)),
        ("produce --p99-below 5ms", None),
        ("bare --nodes 0", None),
        ("bare --nodes 2", None),
        ("bare --nodes 4", None),
        ("bare-server --forward 127.0.0.1:1", None),
        ("bare-server --forward 127.0.0.1:1 --forward 127.0.0.1:2", Some(1)),
    ] {
        assert_eq!(planned(flags).ok(), nodes, "{flags}");
    }
}
