//! What a shard must still do to agree with the catalog: a pure difference, so it can be asked at
//! any time.
//!
//! Owns: the rule that turns a catalog into `Open`, `Configure` and `Close` commands.
//! Must never: close because something is absent; only a topic that stands in the catalog's
//! `closing` is closed. Anything else that is unknown is kept and reported.
//! Invariants: no difference once the commands are applied; a crash in between loses nothing.

use barrage_cluster::{Catalog, Topic};
use barrage_model::{PartitionKey, ShardId};

use super::decide::State;
use super::partition::PartitionConfig;
use crate::command::Command;

/// Partitions in one command, at most.
const PARTITIONS_PER_COMMAND: usize = 1000;

/// What is to be proposed, and what nobody knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) commands: Vec<Command>,
    /// Open here, but in the catalog neither a topic nor closing.
    pub(crate) orphans: Vec<PartitionKey>,
}

/// Compares the applied state of `shard` with the catalog.
pub(crate) fn difference(state: &State, catalog: &Catalog, shard: ShardId) -> Difference {
    let config =
        |topic: &Topic| PartitionConfig { retention: topic.retention, revision: topic.revision };
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
    let mut commands = Vec::new();
    commands.extend(chunks(&open, |partitions| Command::Open { partitions }));
    commands.extend(chunks(&configure, |partitions| Command::Configure { partitions }));
    commands.extend(chunks(&close, |partitions| Command::Close { partitions }));
    Difference { commands, orphans }
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
    use barrage_model::{PartitionId, Retention, TopicId, TopicName};

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
        catalog.apply(CatalogCommand::CreateTopic { name, partitions, retention }, 0);
    }

    /// Applies the difference; what is open then must leave no further difference.
    fn settle(state: &mut State, catalog: &Catalog) -> usize {
        let wanted = difference(state, catalog, ShardId(1));
        wanted
            .commands
            .iter()
            .for_each(|command| machine::control(state, command, &mut Vec::new()));
        assert!(difference(state, catalog, ShardId(1)).commands.is_empty());
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

        catalog.apply(CatalogCommand::DeleteTopic { name }, 0);
        assert_eq!(settle(&mut state, &catalog), 1);
        assert_eq!(state.partitions.len(), 1);
    }

    #[test]
    fn a_lost_catalog_closes_nothing() {
        let mut state = State::default();
        settle(&mut state, &catalog(&[("a", 4)]));
        let empty = catalog(&[]);
        let found = difference(&state, &empty, ShardId(1));
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
}
