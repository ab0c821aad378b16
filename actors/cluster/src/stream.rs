//! Stream groups as the catalog holds them: a name, its topics, and the shard that keeps its state.
//!
//! Whoever reads several topics in one group means one group: so a stream group has its name in the
//! whole cluster, and topics come and go under it. One without topics is gone.
//!
//! Owns: the shape of a stream group, and finding it by id, name and topic.
//! Must never: know members or offsets; the shard of the group knows those.
//! Invariants: every group has a topic; the indexes mirror the groups; a group's shard is chosen
//! when it is made, and stays, however many shards there are later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use barrage_model::{GroupId, GroupName, ShardId, TopicId};

/// Stream groups of a cluster, at most, each counted once for every topic that it is of.
pub const STREAMS_MAX: usize = 100_000;
/// Topics of a stream group, at most.
pub const TOPICS_PER_STREAM_MAX: usize = 256;

/// A stream group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Never used again, also not for a queue group.
    pub id: GroupId,
    /// Its name, its own among the stream groups of the cluster.
    pub name: GroupName,
    /// The data shard that keeps its members and offsets: whoever leads it coordinates the group.
    pub shard: ShardId,
    /// The topics it may read, at least one.
    pub topics: BTreeSet<TopicId>,
    /// Catalog revision of the last change.
    pub revision: u64,
    /// Log time of its creation in milliseconds since 1970.
    pub created_ms: i64,
}

/// The stream groups of a cluster. A clone is a pointer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Streams(Arc<Index>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Index {
    groups: BTreeMap<GroupId, Arc<Stream>>,
    // What follows is derived from the groups.
    names: BTreeMap<GroupName, GroupId>,
    topics: BTreeMap<TopicId, BTreeSet<GroupId>>,
    /// Groups, each counted once for every topic.
    held: usize,
}

impl Streams {
    /// A group by its id.
    pub fn get(&self, id: GroupId) -> Option<&Arc<Stream>> {
        self.0.groups.get(&id)
    }

    /// A group by its name.
    pub fn named(&self, name: &GroupName) -> Option<&Arc<Stream>> {
        self.get(*self.0.names.get(name)?)
    }

    /// A group of a topic by its name.
    pub fn of_topic_named(&self, topic: TopicId, name: &GroupName) -> Option<&Arc<Stream>> {
        self.named(name).filter(|stream| stream.topics.contains(&topic))
    }

    /// The groups of a topic, by id.
    pub fn of(&self, topic: TopicId) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.topics.get(&topic).into_iter().flatten().filter_map(|id| self.get(*id))
    }

    /// How many groups a topic has.
    pub fn count_of(&self, topic: TopicId) -> usize {
        self.0.topics.get(&topic).map_or(0, BTreeSet::len)
    }

    /// All of them, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Stream>> {
        self.0.groups.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.groups.is_empty()
    }

    /// How many there are, each counted once for every topic.
    pub(crate) fn held(&self) -> usize {
        self.0.held
    }

    /// How many names there are: as many as groups, where each has its own.
    pub(crate) fn name_count(&self) -> usize {
        self.0.names.len()
    }

    /// Takes a group in, in place of the one of its id.
    pub(crate) fn put(&mut self, stream: Stream) {
        assert!(!stream.topics.is_empty(), "a stream group has a topic");
        let index = Arc::make_mut(&mut self.0);
        index.take_out(stream.id);
        index.held += stream.topics.len();
        index.names.insert(stream.name.clone(), stream.id);
        for topic in &stream.topics {
            index.topics.entry(*topic).or_default().insert(stream.id);
        }
        index.groups.insert(stream.id, Arc::new(stream));
    }

    /// A group is of a topic no more; with its last one it is gone.
    pub(crate) fn leave(&mut self, id: GroupId, topic: TopicId, revision: u64) {
        let Some(stream) = self.get(id) else { return };
        let mut stream = Stream { revision, ..Stream::clone(stream) };
        stream.topics.remove(&topic);
        if stream.topics.is_empty() {
            Arc::make_mut(&mut self.0).take_out(id);
        } else {
            self.put(stream);
        }
    }

    /// A topic is gone.
    pub(crate) fn remove_topic(&mut self, topic: TopicId, revision: u64) {
        let ids: Vec<GroupId> = self.of(topic).map(|stream| stream.id).collect();
        ids.into_iter().for_each(|id| self.leave(id, topic, revision));
    }
}

impl Index {
    fn take_out(&mut self, id: GroupId) {
        let Some(stream) = self.groups.remove(&id) else { return };
        self.held -= stream.topics.len();
        self.names.remove(&stream.name);
        for topic in &stream.topics {
            if let Some(groups) = self.topics.get_mut(topic) {
                groups.remove(&id);
                if groups.is_empty() {
                    self.topics.remove(topic);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    fn stream(id: u64, name: &str, topics: &[u64]) -> Stream {
        Stream {
            id: GroupId(id),
            name: GroupName::parse(name).unwrap(),
            shard: ShardId(1),
            topics: topics.iter().copied().map(TopicId).collect(),
            revision: 1,
            created_ms: 0,
        }
    }

    fn ids(streams: &Streams, topic: u64) -> Vec<u64> {
        assert_eq!(streams.count_of(TopicId(topic)), streams.of(TopicId(topic)).count());
        streams.of(TopicId(topic)).map(|stream| stream.id.0).collect()
    }

    #[test]
    fn groups_are_found_by_name_and_topic() {
        let mut streams = Streams::default();
        streams.put(stream(1, "a", &[7]));
        streams.put(stream(2, "b", &[7, 8]));
        streams.put(stream(1, "a", &[7, 9]));
        assert_eq!((streams.len(), streams.held(), streams.name_count()), (2, 4, 2));
        assert_eq!(
            [ids(&streams, 7), ids(&streams, 8), ids(&streams, 9)],
            [vec![1, 2], vec![2], vec![1]]
        );
        let b = GroupName::parse("b").unwrap();
        assert!(streams.of_topic_named(TopicId(8), &b).is_some());
        assert!(streams.of_topic_named(TopicId(9), &b).is_none());
        let before = streams.clone();
        streams.remove_topic(TopicId(7), 5);
        assert_eq!(before.held(), 4, "a copy stays as it is");
        assert_eq!(streams.named(&b).unwrap().revision, 5);
        streams.leave(GroupId(2), TopicId(8), 6);
        streams.leave(GroupId(1), TopicId(9), 7);
        assert_eq!(streams, Streams::default());
    }
}
