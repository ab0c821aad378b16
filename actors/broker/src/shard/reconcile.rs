//! What a shard must still do to agree with the catalog: a pure difference, so it can be asked at
//! any time.
//!
//! Owns: the rule that turns a catalog into commands that open, configure and close partitions and
//! groups of both kinds.
//! Must never: close because something is absent; only a topic that stands in the catalog's
//! `closing` is closed, only a group that its topic, which is there, does not name, and only a
//! stream group that the catalog has counted and does not have. Anything else that is unknown is
//! kept and reported.
//! Invariants: no difference once the commands are applied; a crash in between loses nothing.

use std::rc::Rc;

use barrage_cluster::group::Group;
use barrage_cluster::stream::Stream;
use barrage_cluster::{Catalog, Topic};
use barrage_model::limits::FILTER_BYTES_MAX;
use barrage_model::{GroupId, PartitionKey, ShardId};

use super::decide::State;
use super::groups::{GroupConfig, Groups, OpenGroup, Slot};
use super::partition::PartitionConfig;
use super::streams::{OpenStream, StreamConfig, Streams};
use crate::command::Command;
use crate::group::handover::TopicSize;
use crate::queue::backlog::Policy;
use crate::queue::filter::StoredFilter;

/// Partitions in one command, at most.
const PARTITIONS_PER_COMMAND: usize = 1000;
/// Bytes of filters in one command, at most: an entry must hold it, however small segments are.
const FILTER_BYTES_PER_COMMAND: usize = 4 * FILTER_BYTES_MAX;

/// What is to be proposed, and what nobody knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) commands: Vec<Command>,
    /// Open here, but in the catalog neither a topic nor closing.
    pub(crate) orphans: Vec<PartitionKey>,
}

/// Compares the applied state of `shard` with the catalog. Whoever comes to lead may have a copy
/// that is older than the one by which the leader before has closed what it still names: it changes
/// nothing.
pub(crate) fn difference(
    state: &State,
    groups: &Groups,
    catalog: &Catalog,
    shard: ShardId,
) -> Difference {
    if catalog.revision() < state.catalog_revision {
        return Difference::default();
    }
    let config = |topic: &Topic| {
        let Topic { retention, order, revision, .. } = *topic;
        PartitionConfig { retention, order, revision }
    };
    let mut open = Vec::new();
    let mut configure = Vec::new();
    for topic in catalog.topics() {
        for (key, _) in topic.places().filter(|(_, place)| *place == shard) {
            match state.partitions.get(&key) {
                None => open.push((key, config(topic))),
                Some(partition) if partition.config.revision < topic.revision => {
                    configure.push((key, config(topic)));
                }
                Some(_) => {}
            }
        }
    }
    let unknown = state.partitions.keys().filter(|key| catalog.topic(key.topic).is_none());
    let (close, orphans): (Vec<_>, _) = unknown.partition(|key| catalog.is_closing(key.topic));
    let (open_groups, close_groups) = group_difference(groups, catalog, shard);
    let (open_streams, close_streams) = stream_difference(&groups.streams, catalog, shard);
    let mut commands = Vec::new();
    let closes = !(close.is_empty() && close_groups.is_empty() && close_streams.is_empty());
    if closes && catalog.revision() > state.catalog_revision {
        commands.push(Command::Follow { revision: catalog.revision() });
    }
    commands.extend(chunks(&open, |partitions| Command::Open { partitions }));
    commands.extend(chunks(&configure, |partitions| Command::Configure { partitions }));
    commands.extend(chunks(&close, |partitions| Command::Close { partitions }));
    commands.extend(open_in_chunks(open_groups));
    commands.extend(chunks(&close_groups, |slots| Command::CloseGroups { slots }));
    commands.extend(chunks(&open_streams, |streams| Command::OpenStreams { streams }));
    commands.extend(chunks(&close_streams, |groups| Command::CloseStreams { groups }));
    Difference { commands, orphans }
}

/// Groups to open or change, and groups to close: those that their topic names no more, and that
/// this catalog is not too old to know.
fn group_difference(
    groups: &Groups,
    catalog: &Catalog,
    shard: ShardId,
) -> (Vec<OpenGroup>, Vec<Slot>) {
    let mut open = Vec::new();
    for topic in catalog.topics().filter(|topic| !topic.groups.is_empty()) {
        for (key, _) in topic.places().filter(|(_, place)| *place == shard) {
            for group in topic.groups.iter() {
                let slot = Slot { key, group: group.id };
                let known = groups.slots.get(&slot);
                if known.is_none_or(|known| known.config.revision < group.revision) {
                    let config = GroupConfig { policy: policy(group), revision: group.revision };
                    let at_end = group.begins_at_end(key.partition);
                    open.push(OpenGroup { slot, config, at_end });
                }
            }
        }
    }
    let is_gone = |slot: &&Slot| {
        let topic = catalog.topic(slot.key.topic);
        let is_named = topic.is_none_or(|topic| topic.group(slot.group).is_some());
        slot.group <= catalog.newest_group() && !is_named
    };
    (open, groups.slots.keys().filter(is_gone).copied().collect())
}

/// Stream groups to open or change, and those to close: that are not there any more, in a catalog
/// that is not too old to know them.
fn stream_difference(
    streams: &Streams,
    catalog: &Catalog,
    shard: ShardId,
) -> (Vec<OpenStream>, Vec<GroupId>) {
    let revision = catalog.revision();
    let mut open = Vec::new();
    for stream in catalog.streams().iter().filter(|stream| stream.shard == shard) {
        let known = streams.groups.get(&stream.id).map(|known| &known.config);
        let is_as_known = |config: &StreamConfig| {
            revision <= config.revision || config.topics.iter().copied().eq(sizes(catalog, stream))
        };
        if !known.is_some_and(is_as_known) {
            let config = StreamConfig { topics: sizes(catalog, stream).collect(), revision };
            open.push(OpenStream { group: stream.id, config });
        }
    }
    let is_gone = |group: &&GroupId| {
        let here = catalog.streams().get(**group).is_some_and(|stream| stream.shard == shard);
        **group <= catalog.newest_group() && !here
    };
    (open, streams.groups.keys().filter(is_gone).copied().collect())
}

/// The topics of a stream group with their sizes, by topic.
fn sizes(catalog: &Catalog, stream: &Stream) -> impl Iterator<Item = TopicSize> {
    stream.topics.iter().filter_map(|topic| {
        let partitions = catalog.topic(*topic)?.partitions.len();
        Some(TopicSize { topic: *topic, partitions: u32::try_from(partitions).unwrap_or(u32::MAX) })
    })
}

fn policy(group: &Group) -> Policy {
    let settings = &group.settings;
    Policy {
        deliveries_max: settings.deliveries_max,
        max_age_ms: settings.max_age_ms,
        buries: settings.dead_letter.is_some(),
        backoff: settings.backoff.clone(),
        filter: settings.filter.clone().map(|line| Rc::new(StoredFilter::new(line))),
        order: settings.order,
    }
}

/// Groups with long filters go few by few.
fn open_in_chunks(all: Vec<OpenGroup>) -> Vec<Command> {
    let (mut chunks, mut bytes) = (Vec::new(), 0);
    for wanted in all {
        let filter = wanted.config.policy.filter.as_ref();
        let size = filter.map_or(0, |filter| filter.line().len());
        bytes += size;
        match chunks.last_mut() {
            Some(Command::OpenGroups { groups })
                if groups.len() < PARTITIONS_PER_COMMAND && bytes <= FILTER_BYTES_PER_COMMAND =>
            {
                groups.push(wanted);
            }
            _ => {
                chunks.push(Command::OpenGroups { groups: vec![wanted] });
                bytes = size;
            }
        }
    }
    chunks
}

fn chunks<T: Clone>(all: &[T], command: impl Fn(Vec<T>) -> Command) -> Vec<Command> {
    all.chunks(PARTITIONS_PER_COMMAND).map(|chunk| command(chunk.to_vec())).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::super::machine;
    use super::*;
    use barrage_cluster::Command as CatalogCommand;
    use barrage_model::{
        GroupName, PartitionId, Priorities, QueueSettings, Retention, TopicId, TopicName,
        TopicOrder,
    };

    fn catalog(topics: &[(&str, u32)]) -> Catalog {
        let mut catalog = Catalog::new();
        catalog.apply(CatalogCommand::Found { cluster: "c".to_owned(), shards: 2 }, 0);
        for (name, partitions) in topics {
            create(&mut catalog, name, *partitions);
        }
        catalog
    }

    fn create(catalog: &mut Catalog, name: &str, partitions: u32) {
        let name = TopicName::parse(name).unwrap();
        let retention = Retention::DEFAULT;
        catalog.apply(
            CatalogCommand::CreateTopic {
                name,
                partitions,
                retention,
                priorities: Priorities::NONE,
                order: TopicOrder::Partition,
            },
            0,
        );
    }

    /// Applies the difference; what is open then must leave no further difference.
    fn settle(state: &mut State, catalog: &Catalog) -> usize {
        let groups = Groups::default();
        let wanted = difference(state, &groups, catalog, ShardId(1));
        wanted
            .commands
            .iter()
            .for_each(|command| machine::control(state, command, &mut Vec::new()));
        assert!(difference(state, &groups, catalog, ShardId(1)).commands.is_empty());
        wanted.commands.len()
    }

    #[test]
    fn a_shard_follows_the_catalog() {
        let mut state = State::default();
        let mut catalog = catalog(&[("a", 4), ("b", 2)]);
        assert_eq!(settle(&mut state, &catalog), 1);
        assert_eq!(state.partitions.len(), 3);
        assert_eq!(settle(&mut state, &catalog), 0);

        let name = TopicName::parse("a").unwrap();
        let retention = Some(Retention::UNLIMITED);
        let alter = CatalogCommand::AlterTopic { name: name.clone(), partitions: None, retention };
        catalog.apply(alter, 0);
        assert_eq!(settle(&mut state, &catalog), 1);

        let old = catalog.clone();
        catalog.apply(CatalogCommand::DeleteTopic { name }, 0);
        assert_eq!(settle(&mut state, &catalog), 2);
        assert_eq!(state.partitions.len(), 1);
        // The next leader's copy may be older (`cluster` seed 1417).
        assert_eq!(settle(&mut state, &old), 0);
        assert_eq!(state.partitions.len(), 1);
    }

    #[test]
    fn a_lost_catalog_closes_nothing() {
        let mut state = State::default();
        settle(&mut state, &catalog(&[("a", 4)]));
        let empty = catalog(&[]);
        let found = difference(&state, &Groups::default(), &empty, ShardId(1));
        assert!(found.commands.is_empty());
        let key = |number| PartitionKey { topic: TopicId(1), partition: PartitionId(number) };
        assert_eq!(found.orphans, [key(1), key(3)]);
    }

    #[test]
    fn many_partitions_take_several_commands() {
        let mut state = State::default();
        let catalog = catalog(&[("a", 5000)]);
        assert_eq!(settle(&mut state, &catalog), 3);
        assert_eq!(state.partitions.len(), 2500);
    }

    #[test]
    fn groups_follow_their_topics() {
        let (mut state, mut groups) = (State::default(), Groups::default());
        let mut catalog = catalog(&[("a", 4)]);
        let (topic, name) = (TopicName::parse("a").unwrap(), GroupName::parse("g").unwrap());
        let settings = QueueSettings::default();
        let change = |catalog: &mut Catalog, command| drop(catalog.apply(command, 0));
        let (at_end, settings_then) = (false, settings.clone());
        let create = CatalogCommand::CreateGroup {
            topic: topic.clone(),
            name: name.clone(),
            settings: settings_then,
            at_end,
        };
        change(&mut catalog, create);
        let old = catalog.clone();
        let mut settle = |catalog: &Catalog| {
            let wanted = difference(&state, &groups, catalog, ShardId(1)).commands;
            for command in &wanted {
                machine::control(&mut state, command, &mut Vec::new());
                match command {
                    Command::OpenGroups { groups: wanted } => groups.open(&state, wanted),
                    Command::CloseGroups { slots } => groups.close(slots),
                    _ => {}
                }
            }
            let again = difference(&state, &groups, catalog, ShardId(1)).commands;
            assert!(again.is_empty(), "{again:?}");
            (wanted.len(), groups.slots.len())
        };
        assert_eq!(settle(&catalog), (2, 2));
        let (topic_then, name_then) = (topic.clone(), name.clone());
        let alter = CatalogCommand::AlterGroup { topic: topic_then, name: name_then, settings };
        change(&mut catalog, alter);
        assert_eq!(settle(&catalog), (1, 2));
        change(&mut catalog, CatalogCommand::DeleteGroup { topic, name });
        assert_eq!(settle(&catalog), (2, 0));
        assert_eq!(settle(&old), (0, 0), "a copy that is older than the group's end");
        assert_eq!(settle(&tests::catalog(&[])), (0, 0));
    }

    #[test]
    fn a_filter_follows_its_group_and_long_ones_take_several_commands() {
        let (state, groups) = (State::default(), Groups::default());
        let mut catalog = catalog(&[("a", 20)]);
        let (topic, name) = (TopicName::parse("a").unwrap(), GroupName::parse("g").unwrap());
        let line = format!("tags:{}", "x".repeat(3_000));
        let settings = QueueSettings { filter: Some(line.clone()), ..QueueSettings::default() };
        let create = CatalogCommand::CreateGroup { topic, name, settings, at_end: false };
        catalog.apply(create, 0);
        let wanted = difference(&state, &groups, &catalog, ShardId(1)).commands;
        let opened = wanted.iter().filter_map(|command| match command {
            Command::OpenGroups { groups } => Some(groups),
            _ => None,
        });
        let opened: Vec<_> = opened.collect();
        assert_eq!(opened.iter().map(|groups| groups.len()).collect::<Vec<_>>(), [5, 5]);
        let lines = opened.into_iter().flatten().map(|open| open.config.policy.filter.as_ref());
        assert!(lines.flatten().all(|filter| filter.line() == line), "not the group's filter");
    }

    #[test]
    fn stream_groups_follow_the_catalog() {
        let mut streams = Groups::default();
        let mut catalog = catalog(&[("a", 4), ("b", 2)]);
        let name = |text: &str| GroupName::parse(text).unwrap();
        let topic = |text: &str| TopicName::parse(text).unwrap();
        let change = |catalog: &mut Catalog, command| drop(catalog.apply(command, 0));
        let settle = |groups: &mut Groups, catalog: &Catalog| {
            // Shard 2 has the groups with odd ids.
            let wanted = |groups: &Groups| stream_difference(&groups.streams, catalog, ShardId(2));
            let (open, close) = wanted(groups);
            groups.streams.open(&open, 0);
            groups.streams.close(&close);
            assert_eq!(wanted(groups), (Vec::new(), Vec::new()));
            let topics = groups.streams.groups.values().flat_map(|stream| &stream.config.topics);
            let sizes: Vec<_> = topics.map(|size| (size.topic.0, size.partitions)).collect();
            (open.len(), close.len(), sizes)
        };
        for (text, group) in [("a", "one"), ("a", "two"), ("b", "one")] {
            let command = CatalogCommand::CreateStream { topic: topic(text), name: name(group) };
            change(&mut catalog, command);
        }
        let old = catalog.clone();
        assert_eq!(settle(&mut streams, &catalog), (1, 0, vec![(1, 4), (2, 2)]));
        let grow =
            CatalogCommand::AlterTopic { name: topic("a"), partitions: Some(5), retention: None };
        change(&mut catalog, grow);
        assert_eq!(settle(&mut streams, &catalog), (1, 0, vec![(1, 5), (2, 2)]));
        assert_eq!(settle(&mut streams, &old), (0, 0, vec![(1, 5), (2, 2)]), "old news");
        change(&mut catalog, CatalogCommand::DeleteTopic { name: topic("b") });
        assert_eq!(settle(&mut streams, &catalog), (1, 0, vec![(1, 5)]));
        let empty = tests::catalog(&[]);
        assert_eq!(settle(&mut streams, &empty), (0, 0, vec![(1, 5)]), "a lost catalog");
        let gone = CatalogCommand::DeleteGroup { topic: topic("a"), name: name("one") };
        change(&mut catalog, gone);
        assert_eq!(settle(&mut streams, &catalog), (0, 1, vec![]));
    }
}
