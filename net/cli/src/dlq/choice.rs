//! Which dead letters a command means.
//!
//! Pure: what a letter tells of itself goes in, yes or no comes out.

use std::str::FromStr;

use barrage_client::queue::Record;
use barrage_model::headers::TTL_MS;
use barrage_model::{GroupName, Offset, PartitionId, TopicName};

use crate::group::GroupArgs;

/// Which letters; one of these must be given.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct Choice {
    /// These ones, as `dlq peek` prints them
    #[arg(value_name = "PARTITION-OFFSET", conflicts_with = "all")]
    letters: Vec<LetterId>,
    /// Those with this header; more than one must all be there
    #[arg(long = "where", value_name = "HEADER=VALUE", conflicts_with = "all")]
    headers: Vec<Header>,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// Where a letter lies in its topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LetterId {
    partition: PartitionId,
    offset: Offset,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: String,
}

/// What a record of a dead-letter topic is to those who look after one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A letter of the group.
    Ours,
    /// Of the group, and it stands for a record that could not be moved.
    StandIn,
    /// A letter of another group.
    Others,
    /// No letter at all: somebody produced it.
    Foreign,
}

impl Choice {
    /// Whether a letter is meant.
    pub(super) fn takes(&self, record: &Record) -> bool {
        let named = self.letters.is_empty() || self.letters.contains(&LetterId::of(record));
        let matches = |wanted: &Header| {
            header(record, wanted.name.as_bytes()) == Some(wanted.value.as_bytes())
        };
        named && self.headers.iter().all(matches)
    }

    /// Those that are named and not among `seen`.
    pub(super) fn missing<'a>(
        &'a self,
        seen: &'a [LetterId],
    ) -> impl Iterator<Item = LetterId> + 'a {
        self.letters.iter().copied().filter(|letter| !seen.contains(letter))
    }

    /// Whether nothing but these can be meant.
    pub(super) fn is_done(&self, seen: &[LetterId]) -> bool {
        !self.letters.is_empty() && self.missing(seen).next().is_none()
    }
}

impl LetterId {
    pub(super) const fn of(record: &Record) -> Self {
        Self { partition: record.partition, offset: record.offset }
    }
}

impl Kind {
    pub(super) fn of(record: &Record, GroupArgs { topic, group }: &GroupArgs) -> Self {
        let told = (header(record, b"dead-letter-topic"), header(record, b"dead-letter-group"));
        let own = (topic.as_str().as_bytes(), group.as_str().as_bytes());
        match told {
            (Some(topic), Some(group)) if (topic, group) == own => {
                match header(record, b"dead-letter-error") {
                    Some(_) => Self::StandIn,
                    None => Self::Ours,
                }
            }
            (Some(_), Some(_)) => Self::Others,
            _ => Self::Foreign,
        }
    }
}

/// The group of the dead-letter topic that knows which letters of a group are done with.
pub(super) fn ledger(topic: &TopicName, group: &GroupName) -> Option<GroupName> {
    GroupName::parse(&format!("dlq:{topic}:{group}")).ok()
}

/// A header's value; of several with one name the last, which the broker has written.
pub(super) fn header<'a>(record: &'a Record, name: &[u8]) -> Option<&'a [u8]> {
    let mut found = record.headers.iter().rev().filter(|(key, _)| key.as_ref() == name);
    found.next().map(|(_, value)| value.as_deref().unwrap_or_default())
}

/// The headers that the record had before it died. How long it is wanted counts anew.
pub(super) fn own_headers(record: &Record) -> Vec<(&[u8], &[u8])> {
    let own = record.headers.iter().filter_map(|(key, value)| {
        let name = match key.as_ref() {
            b"dead-letter-ttl-ms" => TTL_MS.as_bytes(),
            key if key.starts_with(b"dead-letter-") => return None,
            key => key,
        };
        Some((name, value.as_deref().unwrap_or_default()))
    });
    own.collect()
}

impl std::fmt::Display for LetterId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}-{}", self.partition, self.offset)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (partition, offset) = text.split_once('-')?;
            let partition = PartitionId(partition.parse().ok()?);
            Some(Self { partition, offset: Offset(offset.parse().ok()?) })
        };
        parse().ok_or_else(|| "a letter is PARTITION-OFFSET, as `dlq peek` prints it".to_owned())
    }
}

impl FromStr for Header {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        choice: Choice,
    }

    fn choice(words: &[&str]) -> Result<Choice, clap::Error> {
        let words = std::iter::once("dlq").chain(words.iter().copied());
        Command::try_parse_from(words).map(|command| command.choice)
    }

    fn letter(offset: u64, headers: &[(&'static str, &'static str)]) -> Record {
        let header = |(name, value): &(&'static str, &'static str)| {
            (Bytes::from_static(name.as_bytes()), Some(Bytes::from_static(value.as_bytes())))
        };
        Record {
            partition: PartitionId(1),
            offset: Offset(offset),
            timestamp_ms: 1,
            key: None,
            value: None,
            headers: headers.iter().map(header).collect(),
        }
    }

    #[test]
    fn letters_are_chosen_by_name_and_header() {
        let (a, b) = (letter(7, &[("why", "late"), ("who", "x")]), letter(8, &[("why", "late")]));
        let takes = |words: &[&str]| {
            let choice = choice(words).unwrap();
            (choice.takes(&a), choice.takes(&b))
        };
        assert_eq!(takes(&["--all"]), (true, true));
        assert_eq!(takes(&["1-7", "1-9"]), (true, false));
        assert_eq!(takes(&["--where", "why=late"]), (true, true));
        assert_eq!(takes(&["--where", "why=late", "--where", "who=x"]), (true, false));
        assert_eq!(takes(&["1-8", "--where", "who=x"]), (false, false));
        for wrong in [&[][..], &["--all", "1-7"], &["7"], &["1-x"], &["--where", "why"]] {
            assert!(choice(wrong).is_err(), "{wrong:?}");
        }
        let named = choice(&["1-7", "1-8"]).unwrap();
        assert!(!named.is_done(&[LetterId::of(&a)]));
        assert!(named.is_done(&[LetterId::of(&a), LetterId::of(&b)]));
        assert!(!choice(&["--all"]).unwrap().is_done(&[LetterId::of(&a)]));
    }

    #[test]
    fn a_letter_says_whose_it_is() {
        let place = GroupArgs {
            topic: TopicName::parse("orders").unwrap(),
            group: GroupName::parse("pack").unwrap(),
        };
        let kind = |headers: &[(&'static str, &'static str)]| Kind::of(&letter(0, headers), &place);
        let (topic, group) = (("dead-letter-topic", "orders"), ("dead-letter-group", "pack"));
        assert_eq!(kind(&[("a", "b"), topic, group]), Kind::Ours);
        assert_eq!(kind(&[topic, group, ("dead-letter-error", "?")]), Kind::StandIn);
        assert_eq!(kind(&[topic, ("dead-letter-group", "other")]), Kind::Others);
        assert_eq!(kind(&[("a", "b")]), Kind::Foreign);
        let all = letter(0, &[("a", "b"), topic, group]);
        assert_eq!(own_headers(&all), [(&b"a"[..], &b"b"[..])]);
        assert_eq!(ledger(&place.topic, &place.group).unwrap().as_str(), "dlq:orders:pack");
    }
}
