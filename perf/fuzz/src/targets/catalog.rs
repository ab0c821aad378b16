//! The catalog: its commands, its checkpoint, and what commands do to it.
//!
//! The first byte of the input chooses: one command, one checkpoint, or a history, which is a
//! checkpoint and commands, each behind a `u16` length. Checked: what was read is written as
//! something that reads the same; apply is total, and its result can be stored.
//!
//! A history may hold as much as the catalog's own limits allow: it is a cluster, not an input.

use barrage_cluster::node::{Birth, Presence};
use barrage_cluster::{Catalog, Command};
use barrage_model::group::Order;
use barrage_model::{
    Backoff, GroupName, NodeId, Priorities, QueueSettings, Retention, ShardId, TopicId, TopicName,
    TopicOrder,
};

use super::history;
use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict};

pub(super) const TARGET: Target =
    Target { name: "catalog", input_bytes_max: 4 * 1024, run, memory_extra, seeds, large };

const CHECKPOINT: u8 = 1;
const HISTORY: u8 = 2;
/// With topics; with a queue group; with a stream group.
const CHECKPOINTS_AFTER: [usize; 3] = [4, 6, 8];
const NUMBERS_MAX: u64 = 1 << 60;
/// 200,000 partitions and the loads of 65,536 shards, twice while they are made.
const HISTORY_BYTES_MAX: usize = 48 << 20;

/// A checkpoint's topic of one partition is some 76 bytes there and 320 here, by name and by id.
fn memory_extra(input: &[u8]) -> usize {
    match input.first().map(|kind| kind % 3) {
        Some(CHECKPOINT) => input.len() / 2,
        Some(HISTORY) => HISTORY_BYTES_MAX,
        _ => 0,
    }
}

fn run(input: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = input.split_first() else { return Verdict::Refused };
    let feed = match kind % 3 {
        0 => command,
        CHECKPOINT => checkpoint,
        _ => return Verdict::from(apply(bytes)),
    };
    let right = aside(|| history::repaired(bytes));
    feed(bytes);
    Verdict::from(feed(&right))
}

fn command(bytes: &[u8]) -> bool {
    let Ok(command) = Command::decode(bytes) else { return false };
    aside(|| assert_eq!(Command::decode(&command.encode()), Ok(command)));
    true
}

fn checkpoint(bytes: &[u8]) -> bool {
    let Ok(catalog) = Catalog::restore(bytes) else { return false };
    aside(|| assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog)));
    true
}

fn apply(bytes: &[u8]) -> bool {
    let mut steps = aside(|| history::read(bytes)).into_iter();
    let first = steps.next().unwrap_or_default();
    let restored = Catalog::restore(&first).ok();
    // One whose numbers are nearly used up was not made by counting, and is not counted on.
    let is_young = |catalog: &Catalog| {
        catalog.revision() < NUMBERS_MAX && catalog.newest_topic() < TopicId(NUMBERS_MAX)
    };
    let mut catalog = restored.filter(is_young).unwrap_or_default();
    let mut understood = false;
    for (step, log_time_ms) in steps.zip(0..) {
        understood |= Command::decode(&step).is_ok();
        drop(catalog.apply_bytes(&step, log_time_ms));
    }
    aside(|| assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog)));
    understood
}

fn presence() -> Presence {
    Presence { peer: "a:7500".to_owned(), client: "a:7400".to_owned(), level: 1 }
}

fn settings(backoff: Backoff) -> QueueSettings {
    let dead_letter = TopicName::parse("b").ok();
    let filter = Some("headers:price > 10".to_owned());
    let order = Order::None;
    QueueSettings {
        visibility_ms: 5_000,
        deliveries_max: Some(16),
        max_age_ms: Some(1_000),
        dead_letter,
        backoff,
        filter,
        order,
    }
}

fn commands() -> Vec<Command> {
    let name = |text: &str| TopicName::parse(text).ok();
    let named = |text: &str, command: fn(TopicName) -> Command| name(text).map(command);
    let grouped = |command: fn(TopicName, GroupName) -> Command| {
        name("orders").zip(GroupName::parse("pay").ok()).map(|(topic, name)| command(topic, name))
    };
    let commands = [
        Some(Command::Found { cluster: "c".repeat(32), shards: 2 }),
        Some(Command::RegisterNode { node: NodeId(1) }),
        named("orders", |name| Command::CreateTopic {
            name,
            partitions: 4,
            retention: Retention { time_ms: Some(1), ..Retention::UNLIMITED },
            priorities: Priorities::NONE,
            order: TopicOrder::Partition,
        }),
        named("orders", |name| Command::AlterTopic {
            name,
            partitions: Some(8),
            retention: Some(Retention::UNLIMITED),
        }),
        named("b", |name| Command::CreateTopic {
            name,
            partitions: 1,
            retention: Retention::DEFAULT,
            priorities: Priorities::NONE,
            order: TopicOrder::Partition,
        }),
        grouped(|topic, name| Command::CreateGroup {
            topic,
            name,
            settings: settings(Backoff::rocketmq()),
            at_end: true,
        }),
        grouped(|topic, name| Command::AlterGroup {
            topic,
            name,
            settings: settings(Backoff::Exponential { first_ms: 1, ms_max: 9 }),
        }),
        grouped(|topic, name| Command::DeleteGroup { topic, name }),
        grouped(|topic, name| Command::CreateStream { topic, name }),
        named("orders", |name| Command::DeleteTopic { name }),
        Some(Command::ForgetTopic { topic: TopicId(1) }),
        Some(Command::AllocateProducers { count: 1000 }),
        Some(Command::Join { birth: Birth(7), presence: presence() }),
        Some(Command::Announce { node: NodeId(2), presence: presence() }),
        Some(Command::Assign { shards: vec![(ShardId(1), vec![NodeId(2)])] }),
        Some(Command::Leave { node: NodeId(2) }),
        Some(Command::Stay { node: NodeId(2) }),
        Some(Command::Remove { node: NodeId(1) }),
        Some(Command::SetCopies { wanted: 5 }),
        Some(Command::RaiseLevel { level: 1 }),
    ];
    commands.into_iter().flatten().collect()
}

fn seeds() -> Vec<Seed> {
    let mut catalog = Catalog::new();
    let mut seeds = vec![("empty".to_owned(), [&[1], &catalog.checkpoint()[..]].concat())];
    let mut steps = vec![catalog.checkpoint()];
    for (number, command) in commands().into_iter().enumerate() {
        steps.push(command.encode());
        seeds.push((format!("command-{number}"), [&[0], &command.encode()[..]].concat()));
        drop(catalog.apply(command, 5));
        if CHECKPOINTS_AFTER.contains(&number) {
            let bytes = catalog.checkpoint();
            seeds.push((format!("checkpoint-{number}"), [&[1], &bytes[..]].concat()));
        }
    }
    seeds.push(("history".to_owned(), [&[HISTORY], &history::write(&steps)[..]].concat()));
    seeds
}

/// A catalog of many nodes, and one of many topics.
fn large() -> Vec<Seed> {
    let mut nodes = Catalog::new();
    for node in 1..=1_000 {
        drop(nodes.apply(Command::Join { birth: Birth(node), presence: presence() }, 0));
    }
    let mut topics = Catalog::new();
    drop(topics.apply(Command::Found { cluster: String::new(), shards: 1 }, 0));
    for number in 0..LARGE_BYTES / 120 {
        let name = TopicName::parse(&number.to_string());
        assert!(name.is_ok(), "a number is a name");
        let retention = Retention::UNLIMITED;
        drop(name.map(|name| {
            topics.apply(
                Command::CreateTopic {
                    name,
                    partitions: 1,
                    retention,
                    priorities: Priorities::NONE,
                    order: TopicOrder::Partition,
                },
                0,
            )
        }));
    }
    let mut partitions = topics.clone();
    let (count, retention) = (10_000, Retention::UNLIMITED);
    for name in ["a", "b", "c", "d"].into_iter().flat_map(TopicName::parse) {
        drop(partitions.apply(
            Command::CreateTopic {
                name,
                partitions: count,
                retention,
                priorities: Priorities::NONE,
                order: TopicOrder::Partition,
            },
            0,
        ));
    }
    let mut groups = partitions.clone();
    for number in 0..LARGE_BYTES / 120 {
        let (Ok(topic), Ok(name)) = (TopicName::parse("0"), GroupName::parse(&number.to_string()))
        else {
            continue;
        };
        let (settings, at_end) = (settings(Backoff::default()), false);
        drop(groups.apply(Command::CreateGroup { topic, name, settings, at_end }, 0));
    }
    let cases =
        [("nodes", nodes), ("topics", topics), ("partitions", partitions), ("groups", groups)];
    let seed = |(name, catalog): (&str, Catalog)| {
        (name.to_owned(), [&[1], &catalog.checkpoint()[..]].concat())
    };
    cases.map(seed).into()
}
