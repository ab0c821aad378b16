//! What commands do to the groups of topics.
//!
//! Owns: making, changing and deleting groups. Must never: give a group's id to another one.
//! Invariants: a group that is gone leaves no trace but the counter of ids: a shard closes what it
//! holds of a group that its topic does not name any more.

use std::sync::Arc;

use barrage_model::limits::GROUPS_PER_TOPIC_MAX;
use barrage_model::{GroupId, GroupName, QueueSettings, TopicName};

use super::{Catalog, CatalogError, Reply};
use crate::group::{self, Group};
use crate::topic::Topic;

/// Groups of a cluster, at most, each counted once for every partition of its topic, and once more
/// there for every 400 bytes of its filter: a shard keeps some 400 bytes for each.
pub const GROUPS_MAX: u64 = 1_000_000;

impl Catalog {
    pub(super) fn create_group(
        &mut self,
        topic: &TopicName,
        name: GroupName,
        settings: QueueSettings,
        at_end: bool,
        log_time_ms: i64,
    ) -> Result<Reply, CatalogError> {
        let mut topic = self.topic_to_change(topic)?;
        self.check_new(&topic, &name)?;
        settings.check(&topic.name)?;
        self.check_dead_letter(&settings)?;
        let partitions = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        self.check_groups(u64::from(partitions) * group::weight(&settings))?;
        self.next_group += 1;
        self.revision += 1;
        let group = Group {
            id: GroupId(self.next_group),
            name,
            settings,
            from_end: if at_end { partitions } else { 0 },
            revision: self.revision,
            created_ms: log_time_ms,
        };
        topic.groups.insert(group);
        Ok(self.put(topic))
    }

    pub(super) fn alter_group(
        &mut self,
        topic: &TopicName,
        name: &GroupName,
        settings: QueueSettings,
    ) -> Result<Reply, CatalogError> {
        let mut topic = self.topic_to_change(topic)?;
        if self.streams.of_topic_named(topic.id, name).is_some() {
            return Err(CatalogError::NotQueue);
        }
        settings.check(&topic.name)?;
        self.check_dead_letter(&settings)?;
        let group = topic.groups.get(name).ok_or(CatalogError::UnknownGroup)?;
        let more = group::weight(&settings).saturating_sub(group.weight());
        self.check_groups(topic.partitions.len() as u64 * more)?;
        self.revision += 1;
        let group = Group { settings, revision: self.revision, ..Group::clone(group) };
        topic.groups.insert(group);
        Ok(self.put(topic))
    }

    /// Letters come from every shard: no producer could hold a topic for all of them.
    fn check_dead_letter(&self, settings: &QueueSettings) -> Result<(), CatalogError> {
        let topic = settings.dead_letter.as_ref().and_then(|name| self.topic_named(name));
        match topic.is_some_and(|topic| topic.order.is_global()) {
            true => Err(CatalogError::GlobalDeadLetters),
            false => Ok(()),
        }
    }

    pub(super) fn delete_group(
        &mut self,
        topic: &TopicName,
        name: &GroupName,
    ) -> Result<Reply, CatalogError> {
        let mut topic = self.topic_to_change(topic)?;
        if let Some(stream) = self.streams.of_topic_named(topic.id, name) {
            let id = stream.id;
            self.revision += 1;
            self.streams.leave(id, topic.id, self.revision);
            return Ok(Reply::Topic(Arc::new(topic)));
        }
        topic.groups.remove(name).ok_or(CatalogError::UnknownGroup)?;
        self.revision += 1;
        Ok(self.put(topic))
    }

    /// Whether a topic may have a group of this name, of whichever kind.
    pub(super) fn check_new(&self, topic: &Topic, name: &GroupName) -> Result<(), CatalogError> {
        let stream = self.streams.of_topic_named(topic.id, name);
        if topic.groups.get(name).is_some() || stream.is_some() {
            return Err(CatalogError::GroupExists);
        }
        match topic.groups.len() + self.streams.count_of(topic.id) < GROUPS_PER_TOPIC_MAX {
            true => Ok(()),
            false => Err(CatalogError::GroupsFull),
        }
    }

    /// Whether there may be so many more.
    pub(super) fn check_groups(&self, more: u64) -> Result<(), CatalogError> {
        match self.groups_held() + more <= GROUPS_MAX {
            true => Ok(()),
            false => Err(CatalogError::GroupsFull),
        }
    }

    fn groups_held(&self) -> u64 {
        let held = |topic: &Topic| topic.groups.weight() * topic.partitions.len() as u64;
        self.topics.values().map(|topic| held(topic)).sum()
    }

    pub(super) fn topic_to_change(&self, name: &TopicName) -> Result<Topic, CatalogError> {
        self.topic_named(name).map(|topic| Topic::clone(topic)).ok_or(CatalogError::UnknownTopic)
    }

    /// What holds for the groups of every catalog that commands have made.
    pub(super) fn groups_are_sound(&self) -> bool {
        let groups = || self.topics.values().flat_map(|topic| topic.groups.iter());
        let ids: std::collections::BTreeSet<_> = groups().map(|group| group.id).collect();
        let held = groups().count();
        self.groups_held() <= GROUPS_MAX
            && ids.len() == held
            && ids.iter().all(|id| (1..=self.next_group).contains(&id.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]
    #![allow(clippy::panic, reason = "tests fail by panicking")]

    use super::*;
    use crate::command::Command;
    use barrage_model::{Priorities, Retention, TopicOrder};

    fn topic_name() -> TopicName {
        TopicName::parse("orders").unwrap()
    }

    fn catalog() -> Catalog {
        let mut catalog = Catalog::new();
        catalog.apply(Command::Found { cluster: "c".to_owned(), shards: 2 }, 0);
        let (name, retention) = (topic_name(), Retention::DEFAULT);
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
        catalog
    }

    fn create(catalog: &mut Catalog, name: &str, at_end: bool) -> Reply {
        let name = GroupName::parse(name).unwrap();
        let settings = QueueSettings::default();
        catalog.apply(Command::CreateGroup { topic: topic_name(), name, settings, at_end }, 7)
    }

    fn group(catalog: &Catalog, name: &str) -> Option<Arc<Group>> {
        let topic = catalog.topic_named(&topic_name()).unwrap();
        topic.groups.get(&GroupName::parse(name).unwrap()).cloned()
    }

    #[test]
    fn groups_are_made_changed_and_deleted() {
        let mut catalog = catalog();
        let before = catalog.topic_named(&topic_name()).unwrap().revision;
        assert!(matches!(create(&mut catalog, "a", false), Reply::Topic(_)));
        assert!(matches!(create(&mut catalog, "b", true), Reply::Topic(_)));
        let again = create(&mut catalog, "a", false);
        assert_eq!(again, Reply::Refused(CatalogError::GroupExists));
        let (a, b) = (group(&catalog, "a").unwrap(), group(&catalog, "b").unwrap());
        assert_eq!((a.id, b.id, a.from_end, b.from_end), (GroupId(1), GroupId(2), 0, 3));
        assert_eq!((a.created_ms, a.revision + 1), (7, b.revision));

        let name = GroupName::parse("a").unwrap();
        let settings = QueueSettings { visibility_ms: 5_000, ..QueueSettings::default() };
        let topic = topic_name();
        let alter = Command::AlterGroup { topic, name: name.clone(), settings: settings.clone() };
        catalog.apply(alter, 0);
        let altered = group(&catalog, "a").unwrap();
        assert_eq!((altered.id, &altered.settings), (a.id, &settings));
        assert!(altered.revision > b.revision);

        catalog.apply(Command::DeleteGroup { topic: topic_name(), name: name.clone() }, 0);
        assert_eq!(group(&catalog, "a"), None);
        let gone = catalog.apply(Command::DeleteGroup { topic: topic_name(), name }, 0);
        assert_eq!(gone, Reply::Refused(CatalogError::UnknownGroup));
        create(&mut catalog, "a", false);
        assert_eq!(group(&catalog, "a").unwrap().id, GroupId(3));
        // What concerns a group alone leaves the partitions as they are.
        assert_eq!(catalog.topic_named(&topic_name()).unwrap().revision, before);
        assert_eq!(Catalog::restore(&catalog.checkpoint()), Ok(catalog));
    }

    #[test]
    fn groups_are_bounded_by_the_partitions_they_are_in() {
        let mut catalog = catalog();
        let (name, retention) = (TopicName::parse("wide").unwrap(), Retention::DEFAULT);
        let wide = Command::CreateTopic {
            name: name.clone(),
            partitions: 10_000,
            retention,
            priorities: Priorities::NONE,
            order: TopicOrder::Partition,
        };
        assert!(matches!(catalog.apply(wide, 0), Reply::Topic(_)));
        let another = |number: u32| Command::CreateGroup {
            topic: name.clone(),
            name: GroupName::parse(&number.to_string()).unwrap(),
            settings: QueueSettings::default(),
            at_end: false,
        };
        for number in 0..99 {
            assert!(matches!(catalog.apply(another(number), 0), Reply::Topic(_)), "{number}");
        }
        let full = || Reply::Refused(CatalogError::GroupsFull);
        // A filter counts as another group for every 400 bytes.
        let filtered = |bytes| Command::AlterGroup {
            topic: name.clone(),
            name: GroupName::parse("7").unwrap(),
            settings: QueueSettings { filter: Some("x".repeat(bytes)), ..QueueSettings::default() },
        };
        assert_eq!(catalog.apply(filtered(401), 0), full());
        assert!(matches!(catalog.apply(filtered(400), 0), Reply::Topic(_)));
        assert_eq!(catalog.apply(another(99), 0), full());
        assert_eq!(create(&mut catalog, "one-more", false), full());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut catalog = catalog();
        let before = catalog.clone();
        let settings = QueueSettings { visibility_ms: 1, ..QueueSettings::default() };
        let (topic, name) = (topic_name(), GroupName::parse("a").unwrap());
        let create = Command::CreateGroup { topic, name: name.clone(), settings, at_end: false };
        let Reply::Refused(CatalogError::Settings(_)) = catalog.apply(create, 0) else {
            panic!("such a lease is refused")
        };
        let (topic, settings) = (TopicName::parse("no").unwrap(), QueueSettings::default());
        let create = Command::CreateGroup { topic, name, settings, at_end: false };
        assert_eq!(catalog.apply(create, 0), Reply::Refused(CatalogError::UnknownTopic));
        assert_eq!(catalog, before);
    }
}
