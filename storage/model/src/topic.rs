//! Topic names: parsed once at the border, then carried as a type that cannot be wrong.
//!
//! Owns: which names a topic may have (Kafka's rule).
//! Must never do: accept a name that is unsafe as a path component.
//! Invariants: 1..=249 bytes of `[a-zA-Z0-9._-]`, neither `.` nor `..`.

use std::fmt;
use std::str::FromStr;

use crate::limits::TOPIC_NAME_BYTES_MAX;

/// A valid topic name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Box<str>);

impl TopicName {
    /// Checks `name` against Kafka's rule for topic names.
    pub fn parse(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name.len() > TOPIC_NAME_BYTES_MAX {
            return Err(TopicNameError::TooLong { size: name.len() });
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Dots);
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        match name.chars().find(|c| !allowed(c)) {
            Some(character) => Err(TopicNameError::Character { character }),
            None => Ok(Self(name.into())),
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl AsRef<str> for TopicName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name)
    }
}

/// Why a name cannot be a topic's. Each is the caller's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TopicNameError {
    /// The name has no character.
    #[error("topic name is empty")]
    Empty,
    /// The name is longer than a topic name may be.
    #[error("topic name has {size} bytes, at most {TOPIC_NAME_BYTES_MAX} are allowed")]
    TooLong {
        /// The name's size in bytes.
        size: usize,
    },
    /// The name is `.` or `..`.
    #[error("topic name must not be '.' or '..'")]
    Dots,
    /// The name has a character outside `[a-zA-Z0-9._-]`.
    #[error("topic name has the character {character:?}; allowed are a-z A-Z 0-9 . _ -")]
    Character {
        /// The first such character.
        character: char,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for name in ["a", "orders", "a.b-c_D9", "...", &"x".repeat(249)] {
            assert_eq!(TopicName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn bad_names_say_why() {
        use TopicNameError::*;
        let long = "x".repeat(250);
        let table = [
            ("", Empty),
            (".", Dots),
            ("..", Dots),
            ("a/b", Character { character: '/' }),
            ("a b", Character { character: ' ' }),
            ("é", Character { character: 'é' }),
            (long.as_str(), TooLong { size: 250 }),
        ];
        for (name, want) in table {
            assert_eq!(TopicName::parse(name), Err(want), "{name:?}");
        }
    }
}
