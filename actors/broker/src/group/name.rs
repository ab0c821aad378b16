//! Texts that clients give themselves: ids of members, names of instances and protocols.
//!
//! Owns: their bounds. Must never: be empty, or be read for a meaning.
//! Invariants: a clone shares the text.

use std::rc::Rc;

/// Longest name.
pub(crate) const NAME_BYTES_MAX: usize = 256;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(Rc<str>);

/// A member of a group, as whoever lets it in has named it: never given to another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberId(pub(crate) Name);

/// A place in a group that outlives the member who has it: whoever comes next under this name takes
/// it over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct InstanceName(pub(crate) Name);

/// How members of a classic group agree on an assignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProtocolName(pub(crate) Name);

impl Name {
    /// The text, unless it is empty or longer than [`NAME_BYTES_MAX`].
    pub(crate) fn new(text: &str) -> Option<Self> {
        (1..=NAME_BYTES_MAX).contains(&text.len()).then(|| Self(text.into()))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Its size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        let longest = "n".repeat(NAME_BYTES_MAX);
        for (text, is_name) in
            [("", false), ("n", true), (&longest, true), (&"n".repeat(257), false)]
        {
            let name = Name::new(text);
            assert_eq!(name.is_some(), is_name, "{}", text.len());
            assert!(name.is_none_or(|name| name.as_str() == text && name.size() == text.len()));
        }
    }
}
