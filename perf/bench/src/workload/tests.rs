//! Workloads from files and flags together, and the files that come with the product.

use clap::Parser;

use super::*;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    args: BenchArgs,
}

/// What a file and flags come to.
fn workload(text: &str, flags: &str) -> Result<Workload, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.yaml");
    std::fs::write(&path, text).unwrap();
    let words = ["bench", "run", path.to_str().unwrap()].into_iter();
    Workload::new(&Command::parse_from(words.chain(flags.split_whitespace())).args)
}

#[test]
fn flags_go_before_the_file_and_the_file_before_defaults() {
    let text = "topics: 2\npartitionsPerTopic: 16\nmessageSize: 1024\nproducerRate: 50000\n\
                consumerBacklogSizeGB: 1\ntestDurationMinutes: 15\n";
    let of_file = workload(text, "").unwrap();
    assert_eq!((of_file.name.as_str(), of_file.topics, of_file.partitions), ("some", 2, 16));
    assert_eq!((of_file.record_size, of_file.rate), (1024, 50_000));
    assert_eq!(of_file.backlog_records, 1 << 20);
    assert_eq!(of_file.duration, Duration::from_secs(900));
    // What neither says.
    assert_eq!((of_file.subscriptions, of_file.producers, of_file.consumers), (1, 1, 1));
    assert_eq!((of_file.keys, of_file.warm_up), (Keys::None, WARM_UP_DEFAULT));
    let flags = "--topics 3 --partitions 4 --record-size 64 --rate 100 --backlog 10 --duration 2 \
                 --producers 5 --consumers 6 --subscriptions 7 --keys RANDOM_NANO --warmup 0";
    let of_flags = workload(text, flags).unwrap();
    assert_eq!((of_flags.topics, of_flags.partitions, of_flags.record_size), (3, 4, 64));
    assert_eq!((of_flags.rate, of_flags.backlog_records), (100, 10));
    assert_eq!((of_flags.producers, of_flags.consumers, of_flags.subscriptions), (5, 6, 7));
    assert_eq!((of_flags.duration, of_flags.warm_up), (Duration::from_secs(2), Duration::ZERO));
    assert_eq!(of_flags.keys, Keys::Random);
}

#[test]
fn what_cannot_be_done_together_is_refused() {
    let check = |text: &str, flags: &str, part: &str| {
        let error = workload(text, flags).unwrap_err();
        assert!(error.contains(part), "{text:?} {flags}: {error}");
    };
    check("consumerBacklogSizeGB: 1\n", "", "a backlog needs a rate");
    check("consumerBacklogSizeGB: 1\nproducerRate: 1\n", "--consumers 0", "needs consumers");
    check("topics: 200\nproducersPerTopic: 100\n", "", "producers of all topics");
    check("randomBytesRatio: 0.5\n", "", "says nothing without useRandomizedPayloads");
    check("useRandomizedPayloads: true\npayloadFile: x\n", "", "exclude each other");
    check("payloadFile: no/such/file\n", "", "cannot be read from this folder");
    check("topics: 1\n", "--record-size 4", "--record-size must be from 8");
    check("topic: 1\n", "", "some.yaml: line 1: unknown key topic");
}

#[test]
fn a_batch_is_what_comes_while_a_record_may_wait() {
    let shape = BatchShape::Bytes(64 << 10);
    let batch = |flags: &str| workload("", flags).unwrap().batch(shape);
    assert_eq!(batch("--rate 50000 --linger 1ms"), BatchShape::Records(51));
    assert_eq!(batch("--rate 50000 --linger 1ms --producers 50"), BatchShape::Records(2));
    assert_eq!(batch("--rate 100 --linger 1ms"), BatchShape::Records(1));
    assert_eq!(batch("--rate 50000 --linger 0"), BatchShape::Records(1));
    // Not more than fit.
    assert_eq!(batch("--rate 50000 --linger 1s"), BatchShape::Records(528));
    assert_eq!(batch("--rate 0"), shape);
    // With keys each partition has a batch of its own, which fills slower.
    let usual = |flags: &str| workload("", flags).unwrap().batch_usual(shape);
    assert_eq!(usual("--rate 50000 --partitions 10"), BatchShape::Records(51));
    assert_eq!(usual("--rate 50000 --partitions 10 --keys RANDOM_NANO"), BatchShape::Records(6));
    assert_eq!(usual("--rate 0 --keys RANDOM_NANO"), shape);
}

#[test]
fn the_workloads_of_the_product_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let words = ["bench", "run", path.to_str().unwrap()];
        let workload = Workload::new(&Command::parse_from(words).args).unwrap();
        assert_ne!(workload.name, "flags");
        count += 1;
    }
    assert!(count >= 5, "{count}");
}
