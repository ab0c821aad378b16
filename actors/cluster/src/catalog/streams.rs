//! What commands do to stream groups. Deleting one is deleting a group: see `groups`.
//!
//! Owns: making stream groups, and taking topics into them. Must never: give a group's id to
//! another one, of either kind.
//! Invariants: a topic has a name once, for a queue group or for a stream group.

use std::collections::BTreeSet;

use barrage_model::limits::GROUPS_PER_TOPIC_MAX;
use barrage_model::{GroupId, GroupName, ShardId, TopicId, TopicName};

use super::{Catalog, CatalogError, Reply};
use crate::stream::{STREAMS_MAX, Stream, TOPICS_PER_STREAM_MAX};
use crate::topic::Topic;

impl Catalog {
    pub(super) fn create_stream(
        &mut self,
        topic: &TopicName,
        name: GroupName,
        log_time_ms: i64,
    ) -> Result<Reply, CatalogError> {
        let topic = self.topic_named(topic).cloned().ok_or(CatalogError::UnknownTopic)?;
        self.check_new(&topic, &name)?;
        let known = self.streams.named(&name).map(|stream| Stream::clone(stream));
        let has_room = known.as_ref().is_none_or(|s| s.topics.len() < TOPICS_PER_STREAM_MAX);
        if !has_room || self.streams.held() >= STREAMS_MAX {
            return Err(CatalogError::StreamsFull);
        }
        self.revision += 1;
        let mut stream = match known {
            Some(known) => Stream { revision: self.revision, ..known },
            None => self.new_stream(name, log_time_ms),
        };
        stream.topics.insert(topic.id);
        self.streams.put(stream);
        Ok(Reply::Topic(topic))
    }

    fn new_stream(&mut self, name: GroupName, log_time_ms: i64) -> Stream {
        self.next_group += 1;
        let shards = u64::from(self.shards.max(1));
        // The rest of a division by a u32 is one.
        let place = u32::try_from(self.next_group % shards).unwrap_or(0);
        Stream {
            id: GroupId(self.next_group),
            name,
            shard: ShardId(1 + place),
            topics: BTreeSet::new(),
            revision: self.revision,
            created_ms: log_time_ms,
        }
    }

    /// What holds for the stream groups of every catalog that commands have made.
    pub(super) fn streams_are_sound(&self) -> bool {
        let is_sound = |stream: &Stream| {
            let takes_no_name = |topic: &TopicId| {
                let topic = self.topics.get(topic);
                topic.is_some_and(|topic| topic.groups.get(&stream.name).is_none())
            };
            (1..=self.next_group).contains(&stream.id.0)
                && (1..=self.shards).contains(&stream.shard.0)
                && stream.topics.len() <= TOPICS_PER_STREAM_MAX
                && stream.topics.iter().all(takes_no_name)
        };
        let has_room = |topic: &Topic| {
            topic.groups.len() + self.streams.count_of(topic.id) <= GROUPS_PER_TOPIC_MAX
        };
        let mut queue_groups = self.topics.values().flat_map(|topic| topic.groups.iter());
        self.streams.held() <= STREAMS_MAX
            && self.streams.iter().all(|stream| is_sound(stream))
            && self.topics.values().all(|topic| has_room(topic))
            && queue_groups.all(|group| self.streams.get(group.id).is_none())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::panic, reason = "tests fail by panicking")]

    use super::*;
    use crate::command::Command;
    use barrage_model::{Priorities, QueueSettings, Retention, TopicOrder};

    fn topic_name(text: &str) -> TopicName {
        TopicName::parse(text).unwrap()
    }

    fn group_name(text: &str) -> GroupName {
        GroupName::parse(text).unwrap()
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::new();
        catalog.apply(Command::Found { cluster: "c".to_owned(), shards: 3 }, 0);
        for name in ["a", "b"] {
            let (name, retention) = (topic_name(name), Retention::DEFAULT);
            catalog.apply(
                Command::CreateTopic {
                    name,
                    partitions: 3,
                    retention,
                    priorities: Priorities::NONE,
                    order: TopicOrder::Partition,
                },
                0,
            );
        }
        catalog
    }

    fn create(catalog: &mut Catalog, topic: &str, name: &str) -> Reply {
        let (topic, name) = (topic_name(topic), group_name(name));
        catalog.apply(Command::CreateStream { topic, name }, 7)
    }

    fn create_queue(catalog: &mut Catalog, topic: &str, name: &str) -> Reply {
        let (topic, name) = (topic_name(topic), group_name(name));
        let settings = QueueSettings::default();
        catalog.apply(Command::CreateGroup { topic, name, settings, at_end: false }, 7)
    }

    fn delete(catalog: &mut Catalog, topic: &str, name: &str) -> Reply {
        let (topic, name) = (topic_name(topic), group_name(name));
        catalog.apply(Command::DeleteGroup { topic, name }, 7)
    }

    fn topics(catalog: &Catalog, name: &str) -> Option<Vec<u64>> {
        let stream = catalog.streams().named(&group_name(name))?;
        Some(stream.topics.iter().map(|topic| topic.0).collect())
    }

    #[test]
    fn a_name_is_one_group_of_several_topics() {
        let mut catalog = catalog();
        let before = catalog.topic_named(&topic_name("a")).unwrap().revision;
        assert!(matches!(create(&mut catalog, "a", "g"), Reply::Topic(_)));
        let made = catalog.streams().named(&group_name("g")).cloned().unwrap();
        assert_eq!((made.id, made.shard, made.created_ms), (GroupId(1), ShardId(2), 7));
        assert!(matches!(create(&mut catalog, "b", "g"), Reply::Topic(_)));
        let wider = catalog.streams().named(&group_name("g")).cloned().unwrap();
        assert_eq!((wider.id, wider.shard, wider.topics.len()), (made.id, made.shard, 2));
        assert!(wider.revision > made.revision);
        let again = create(&mut catalog, "a", "g");
        assert_eq!(again, Reply::Refused(CatalogError::GroupExists));
        assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog.clone()));

        assert!(matches!(delete(&mut catalog, "a", "g"), Reply::Topic(_)));
        assert_eq!(topics(&catalog, "g"), Some(vec![2]));
        let gone = delete(&mut catalog, "a", "g");
        assert_eq!(gone, Reply::Refused(CatalogError::UnknownGroup));
        catalog.apply(Command::DeleteTopic { name: topic_name("b") }, 0);
        assert_eq!(topics(&catalog, "g"), None, "gone with its last topic");
        create(&mut catalog, "a", "g");
        let anew = catalog.streams().named(&group_name("g")).cloned().unwrap();
        assert_eq!((anew.id, anew.shard), (GroupId(2), ShardId(3)));
        // What concerns a group alone leaves the partitions as they are.
        assert_eq!(catalog.topic_named(&topic_name("a")).unwrap().revision, before);
        assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog));
    }

    #[test]
    fn a_topic_has_a_name_once_whatever_its_kind() {
        let mut catalog = catalog();
        assert!(matches!(create_queue(&mut catalog, "a", "g"), Reply::Topic(_)));
        let exists = || Reply::Refused(CatalogError::GroupExists);
        assert_eq!(create(&mut catalog, "a", "g"), exists());
        assert!(matches!(create(&mut catalog, "b", "g"), Reply::Topic(_)), "another topic's");
        assert_eq!(create_queue(&mut catalog, "b", "g"), exists());
        let (topic, name) = (topic_name("b"), group_name("g"));
        let settings = QueueSettings::default();
        let altered = catalog.apply(Command::AlterGroup { topic, name, settings }, 0);
        assert_eq!(altered, Reply::Refused(CatalogError::NotQueue));
        assert!(matches!(delete(&mut catalog, "a", "g"), Reply::Topic(_)));
        assert_eq!(topics(&catalog, "g"), Some(vec![2]), "only the queue group is gone");
        assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog));
    }

    #[test]
    fn groups_of_a_topic_are_bounded_together() {
        let mut catalog = catalog();
        assert!(matches!(create_queue(&mut catalog, "a", "queue"), Reply::Topic(_)));
        for number in 1..GROUPS_PER_TOPIC_MAX {
            assert!(matches!(create(&mut catalog, "a", &number.to_string()), Reply::Topic(_)));
        }
        let full = || Reply::Refused(CatalogError::GroupsFull);
        assert_eq!(create(&mut catalog, "a", "one-more"), full());
        assert_eq!(create_queue(&mut catalog, "a", "one-more"), full());
        assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog));
    }

    #[test]
    fn a_checkpoint_of_what_no_command_makes_is_refused() {
        let mut catalog = catalog();
        create(&mut catalog, "a", "g");
        create_queue(&mut catalog, "a", "queue");
        let check = |name: &str, change: &dyn Fn(&mut Stream)| {
            let mut changed = catalog.clone();
            let mut stream = Stream::clone(changed.streams.named(&group_name("g")).unwrap());
            changed.streams.leave(stream.id, TopicId(1), 1);
            change(&mut stream);
            changed.streams.put(stream);
            assert!(Catalog::restore(&changed.checkpoint()).is_err(), "{name}");
        };
        check("an id that was not given out", &|stream| stream.id = GroupId(9));
        check("the id of a queue group", &|stream| stream.id = GroupId(2));
        check("the name of a queue group", &|stream| stream.name = group_name("queue"));
        check("a shard that is none", &|stream| stream.shard = ShardId(4));
        check("a topic that is none", &|stream| assert!(stream.topics.insert(TopicId(9))));
    }
}
