//! Texts of which any one will do, joined by `||` when they are written in a line.
//!
//! Owns: how such a list is split, checked and written. Must never: know what a text stands for.
//! Invariants: the texts are sorted and differ; there are 1 to [`COUNT_MAX`]; what is written is
//! split into the same list again.

use std::fmt;

/// Texts of a list, at most.
pub(crate) const COUNT_MAX: usize = 64;
const DIVIDER: &str = "||";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alternatives(Vec<String>);

/// Why texts make no list. `index` says which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AlternativesError {
    #[error("there are none")]
    None,
    #[error("there are more than {COUNT_MAX}")]
    TooMany,
    #[error("number {index} has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLong { index: usize, bytes: usize, bytes_max: usize },
    #[error("number {index} is empty")]
    Empty { index: usize },
    #[error("number {index} is *, which stands alone for everything")]
    Everything { index: usize },
    #[error("number {index} contains {DIVIDER}, which divides them")]
    Divider { index: usize },
    #[error("number {index} begins or ends with white space")]
    WhiteSpace { index: usize },
}

impl Alternatives {
    /// Takes texts of at most `bytes_max` bytes each.
    pub(super) fn new<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        bytes_max: usize,
    ) -> Result<Self, AlternativesError> {
        let mut kept = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            check(index, text, bytes_max)?;
            kept.push(text.to_owned());
        }
        if kept.is_empty() {
            return Err(AlternativesError::None);
        }
        kept.sort_unstable();
        kept.dedup();
        Ok(Self(kept))
    }

    pub(super) fn contains(&self, text: &str) -> bool {
        self.0.binary_search_by(|one| one.as_str().cmp(text)).is_ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// What stands between the dividers, without the white space around it.
pub(super) fn split(line: &str) -> impl Iterator<Item = &str> {
    line.split(DIVIDER).map(bare)
}

impl fmt::Display for Alternatives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, text) in self.iter().enumerate() {
            let divider = if index == 0 { "" } else { " || " };
            write!(f, "{divider}{text}")?;
        }
        Ok(())
    }
}

fn check(index: usize, text: &str, bytes_max: usize) -> Result<(), AlternativesError> {
    let bytes = text.len();
    if index >= COUNT_MAX {
        return Err(AlternativesError::TooMany);
    }
    if bytes > bytes_max {
        return Err(AlternativesError::TooLong { index, bytes, bytes_max });
    }
    if text.contains(DIVIDER) {
        return Err(AlternativesError::Divider { index });
    }
    if text != bare(text) {
        return Err(AlternativesError::WhiteSpace { index });
    }
    Ok(())
}

/// White space is what `RocketMQ` strips: a blank and everything before it in the table.
fn bare(text: &str) -> &str {
    text.trim_matches(|c| c <= ' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_sorted_and_written_as_it_is_read() {
        for (texts, want) in [
            (&["b", "a", "b"][..], "a || b"),
            (&["a"], "a"),
            (&["|b", "a|"], "a| || |b"),
            (&["", "a"], " || a"),
            (&[""], ""),
            (&["a b", "\u{3000}"], "a b || \u{3000}"),
        ] {
            let list = Alternatives::new(texts.iter().copied(), 9).ok();
            let line = list.as_ref().map(ToString::to_string);
            assert_eq!(line.as_deref(), Some(want));
            assert_eq!(Alternatives::new(split(want), 9).ok(), list, "{want:?}");
        }
    }

    #[test]
    fn a_line_is_split() {
        for (line, want) in [
            ("a||b", &["a", "b"][..]),
            ("  a ||\t b\n", &["a", "b"]),
            ("a|b", &["a|b"]),
            ("a|||b", &["a", "|b"]),
            ("||", &["", ""]),
            ("", &[""]),
        ] {
            assert_eq!(split(line).collect::<Vec<_>>(), want, "{line:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        use AlternativesError::{Divider, None, TooLong, TooMany, WhiteSpace};
        let long = "ab".repeat(5);
        let many = vec!["a"; COUNT_MAX + 1];
        for (texts, want) in [
            (&[][..], None),
            (&["a", &long], TooLong { index: 1, bytes: 10, bytes_max: 9 }),
            (&["a||b"], Divider { index: 0 }),
            (&["a", "b", " c"], WhiteSpace { index: 2 }),
            (&["a\n"], WhiteSpace { index: 0 }),
            (&many, TooMany),
        ] {
            let list = Alternatives::new(texts.iter().copied(), 9);
            assert_eq!(list, Err(want), "{texts:?}");
        }
        let most = Alternatives::new(vec!["a"; COUNT_MAX], 9);
        assert_eq!(most.map(|list| list.to_string()), Ok("a".to_owned()));
    }
}
