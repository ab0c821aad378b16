//! The tags of which a group wants any.
//!
//! Owns: the rule of tags. Must never: let a record without tags through.
//! Invariants: 1 to 64 tags, none of them empty or `*`; whether a record matches costs a binary
//! search for each of its tags.

use std::fmt;

use super::alternatives::{self, Alternatives, AlternativesError};

/// Bytes of a tag, at most.
pub(crate) const TAG_BYTES_MAX: usize = 128;
/// Stands for every record in a line of tags.
pub(super) const EVERYTHING: &str = "*";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tags(Alternatives);

impl Tags {
    /// Takes tags one by one.
    pub(super) fn new<'a>(
        tags: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Result<Self, AlternativesError> {
        for (index, tag) in tags.clone().into_iter().enumerate() {
            match tag {
                "" => return Err(AlternativesError::Empty { index }),
                EVERYTHING => return Err(AlternativesError::Everything { index }),
                _ => {}
            }
        }
        Alternatives::new(tags, TAG_BYTES_MAX).map(Self)
    }

    /// Reads `TagA || TagB`; what is empty between two dividers is passed over, as `RocketMQ` does.
    pub(super) fn parse(line: &str) -> Result<Self, AlternativesError> {
        let tags: Vec<&str> = alternatives::split(line)
            .filter(|tag| !tag.is_empty())
            .take(alternatives::COUNT_MAX + 1)
            .collect();
        Self::new(tags)
    }

    /// Whether one of a record's tags is wanted.
    pub(super) fn match_any<'a>(&self, mut tags: impl Iterator<Item = &'a str>) -> bool {
        tags.any(|tag| self.0.contains(tag))
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_a_wanted_tag_matches() {
        for (wanted, tags, want) in [
            (&["a"][..], &["a"][..], true),
            (&["a", "b"], &["c", "b"], true),
            (&["a", "b"], &["c", "d"], false),
            (&["a"], &["A"], false),
            (&["a"], &["ab"], false),
            (&["a"], &[" a"], false),
            (&["a"], &[], false),
            (&["a"], &["", "*"], false),
            (&["红", "蓝"], &["蓝"], true),
        ] {
            let filter = Tags::new(wanted.iter().copied());
            let matches = filter.map(|filter| filter.match_any(tags.iter().copied()));
            assert_eq!(matches, Ok(want), "{wanted:?} {tags:?}");
        }
    }

    #[test]
    fn a_line_of_tags_is_read() {
        use AlternativesError::{Everything, None, TooLong, TooMany};
        let most = "x".repeat(TAG_BYTES_MAX);
        let long = "x".repeat(TAG_BYTES_MAX + 1);
        let too_long = TooLong { index: 1, bytes: 129, bytes_max: TAG_BYTES_MAX };
        for (line, want) in [
            ("TagA", Ok("TagA")),
            ("TagB || TagA||TagB", Ok("TagA || TagB")),
            ("||a|| ||", Ok("a")),
            ("a|b", Ok("a|b")),
            ("a b", Ok("a b")),
            ("a*", Ok("a*")),
            (&most, Ok(most.as_str())),
            ("", Err(None)),
            (" || ", Err(None)),
            ("a || *", Err(Everything { index: 1 })),
            (&format!("a || {long}"), Err(too_long)),
            (&"a||".repeat(65), Err(TooMany)),
            (&"||".repeat(10_000), Err(None)),
        ] {
            let read = Tags::parse(line).map(|tags| tags.to_string());
            assert_eq!(read, want.map(str::to_owned), "{line}");
        }
    }

    #[test]
    fn a_list_is_checked_tag_by_tag() {
        use AlternativesError::{Divider, Empty, Everything, None};
        for (tags, want) in [
            (&[][..], None),
            (&["a", ""], Empty { index: 1 }),
            (&["a", "b", "*"], Everything { index: 2 }),
            (&["a||b"], Divider { index: 0 }),
        ] {
            assert_eq!(Tags::new(tags.iter().copied()), Err(want), "{tags:?}");
        }
    }
}
