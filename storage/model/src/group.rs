//! Consumer groups: their names, and what a queue group does with records.
//!
//! Owns: which names a group may have, and the settings that client, wire, catalog and shard share.
//! Must never do: know a topic or a partition.
//! Invariants: a name is 1..=249 bytes of `[a-zA-Z0-9._~+%|:@-]`: what the names of JCQ, CMQ,
//! `RocketMQ` and most Kafka groups are made of.

use std::fmt;
use std::str::FromStr;

use crate::backoff::Backoff;
use crate::limits::{FILTER_BYTES_MAX, GROUP_NAME_BYTES_MAX};
use crate::topic::TopicName;

/// Shortest and longest lease, in milliseconds.
pub const VISIBILITY_MS_MIN: u64 = 1_000;
/// See [`VISIBILITY_MS_MIN`].
pub const VISIBILITY_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// The shortest time for which a group wants records, in milliseconds.
pub const MAX_AGE_MS_MIN: u64 = 1_000;
/// The lease of a group that names none, in milliseconds.
pub const VISIBILITY_MS_DEFAULT: u64 = 30_000;

/// A valid group name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupName(Box<str>);

impl GroupName {
    /// Checks `name` against the rule for group names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(name: &str) -> Result<Self, GroupNameError> {
        if name.is_empty() {
            return Err(GroupNameError::Empty);
        }
        if name.len() > GROUP_NAME_BYTES_MAX {
            return Err(GroupNameError::TooLong { size: name.len() });
        }
        let allowed = |c: &char| {
            c.is_ascii_alphanumeric()
                || matches!(c, '.' | '_' | '-' | '~' | '+' | '%' | '|' | ':' | '@')
        };
        match name.chars().find(|c| !allowed(c)) {
            Some(character) => Err(GroupNameError::Character { character }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl FromStr for GroupName {
    type Err = GroupNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

/// Why a name cannot be a group's. Each is the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GroupNameError {
    /// The name has no character.
    #[error("group name is empty")]
    Empty,
    /// The name is longer than a group name may be.
    #[error("group name has {size} bytes, at most {GROUP_NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// The name's size in bytes.
        size: usize,
    },
    /// The name has a character that none may have.
    #[error(
        "group name has the character {character:?}; allowed are a-z A-Z 0-9 . _ - ~ + % | : @"
    )]
    Character {
        /// The first such character.
        character: char,
    },
}

/// In which order the consumers of a queue group get the records of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The oldest first, side by side.
    #[default]
    None,
    /// A record that has a key only when all before it with that key are settled.
    Key,
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::None => "none",
            Self::Key => "key",
        })
    }
}

/// What a queue group does with records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a record is leased where the consumer does not say, in milliseconds.
    pub visibility_ms: u64,
    /// After so many deliveries a record goes to the dead-letter topic; `None` means never.
    pub deliveries_max: Option<u16>,
    /// Records that came into their partition so many milliseconds ago are not delivered any more;
    /// `None` means that they always are.
    pub max_age_ms: Option<u64>,
    /// Where records go that were delivered too often or are too old, or whose own time is over.
    /// Without it what is too old is done with.
    pub dead_letter: Option<TopicName>,
    /// Wait before the next delivery, where the consumer names none.
    pub backoff: Backoff,
    /// Which records it wants: `tags:new || sold`, `keys:stock.*.new` or `headers:price > 10`; all
    /// for `None`. The broker judges what is written here.
    pub filter: Option<String>,
    /// In which order its consumers get them.
    pub order: Order,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            visibility_ms: VISIBILITY_MS_DEFAULT,
            deliveries_max: None,
            max_age_ms: None,
            dead_letter: None,
            backoff: Backoff::default(),
            filter: None,
            order: Order::None,
        }
    }
}

/// Why settings make no sense. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A lease out of range.
    #[error("a record is leased for 1s to 12h, not for {ms} ms")]
    Visibility {
        /// The lease asked for, in milliseconds.
        ms: u64,
    },
    /// No delivery at all.
    #[error("a record is delivered at least once")]
    NoDelivery,
    /// A limit and nowhere to go.
    #[error("records that were delivered too often need a dead-letter topic to go to")]
    NoDeadLetter,
    /// An age out of range.
    #[error("a record is delivered for at least 1s, not for {ms} ms")]
    Age {
        /// The age asked for, in milliseconds.
        ms: u64,
    },
    /// The dead-letter topic is the topic itself.
    #[error("a topic cannot be its own dead-letter topic")]
    OwnDeadLetter,
    /// Too many levels.
    #[error("a back-off has at most {} levels", crate::backoff::LEVELS_MAX)]
    Levels,
    /// A filter that is too long.
    #[error("the filter has {bytes} bytes, at most {FILTER_BYTES_MAX} are allowed")]
    Filter {
        /// Its size.
        bytes: usize,
    },
    /// Both at once.
    #[error("a group has a filter or is ordered by key, not both")]
    FilteredOrder,
}

impl QueueSettings {
    /// Whether they make sense for a group of `topic`.
    ///
    /// # Errors
    /// What does not.
    pub fn check(&self, topic: &TopicName) -> Result<(), SettingsError> {
        if !(VISIBILITY_MS_MIN..=VISIBILITY_MS_MAX).contains(&self.visibility_ms) {
            return Err(SettingsError::Visibility { ms: self.visibility_ms });
        }
        if self.deliveries_max == Some(0) {
            return Err(SettingsError::NoDelivery);
        }
        if self.deliveries_max.is_some() && self.dead_letter.is_none() {
            return Err(SettingsError::NoDeadLetter);
        }
        if let Some(ms) = self.max_age_ms.filter(|ms| *ms < MAX_AGE_MS_MIN) {
            return Err(SettingsError::Age { ms });
        }
        if self.dead_letter.as_ref() == Some(topic) {
            return Err(SettingsError::OwnDeadLetter);
        }
        if !self.backoff.is_sound() {
            return Err(SettingsError::Levels);
        }
        if self.order == Order::Key && self.filter.is_some() {
            return Err(SettingsError::FilteredOrder);
        }
        match self.filter.as_ref().map_or(0, String::len) {
            0..=FILTER_BYTES_MAX => Ok(()),
            bytes => Err(SettingsError::Filter { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for name in ["a", "CID_pay", "%RETRY%g|1", "a.b-c~d+e:f@g", &"x".repeat(249)] {
            assert_eq!(GroupName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
        let long = "x".repeat(250);
        let table = [
            ("", GroupNameError::Empty),
            (long.as_str(), GroupNameError::TooLong { size: 250 }),
            ("a b", GroupNameError::Character { character: ' ' }),
            ("a/b", GroupNameError::Character { character: '/' }),
        ];
        for (name, want) in table {
            assert_eq!(GroupName::parse(name), Err(want), "{name:?}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_say_why() {
        let topic = TopicName::parse("orders").unwrap();
        let dead = Some(TopicName::parse("dead").unwrap());
        let sound = || QueueSettings {
            deliveries_max: Some(3),
            dead_letter: dead.clone(),
            ..QueueSettings::default()
        };
        let check = |change: &dyn Fn(&mut QueueSettings), wanted| {
            let mut settings = sound();
            change(&mut settings);
            assert_eq!(settings.check(&topic), wanted);
        };
        check(&|_| {}, Ok(()));
        check(&|s| s.visibility_ms = 999, Err(SettingsError::Visibility { ms: 999 }));
        check(&|s| s.deliveries_max = Some(0), Err(SettingsError::NoDelivery));
        check(&|s| s.deliveries_max = None, Ok(()));
        check(&|s| s.dead_letter = None, Err(SettingsError::NoDeadLetter));
        check(&|s| s.max_age_ms = Some(1_000), Ok(()));
        check(&|s| s.max_age_ms = Some(999), Err(SettingsError::Age { ms: 999 }));
        check(&|s| s.dead_letter = Some(topic.clone()), Err(SettingsError::OwnDeadLetter));
        check(&|s| s.backoff = Backoff::Levels(vec![1; 65]), Err(SettingsError::Levels));
        check(&|s| s.filter = Some("x".repeat(FILTER_BYTES_MAX)), Ok(()));
        let ordered = |s: &mut QueueSettings| s.order = Order::Key;
        check(&ordered, Ok(()));
        let both = |s: &mut QueueSettings| {
            s.filter = Some("tags:a".to_owned());
            s.order = Order::Key;
        };
        check(&both, Err(SettingsError::FilteredOrder));
        let (bytes, long) = (FILTER_BYTES_MAX + 1, "x".repeat(FILTER_BYTES_MAX + 1));
        check(&|s| s.filter = Some(long.clone()), Err(SettingsError::Filter { bytes }));
        assert_eq!(QueueSettings::default().check(&topic), Ok(()));
    }
}
