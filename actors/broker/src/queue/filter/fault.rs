//! What is wrong with the text of an expression, and where.
//!
//! Owns: the words in which the author of an expression is told. Must never: repeat more of the
//! text than [`FOUND_CHARS_MAX`].
//! Invariants: positions are bytes of the text, between two of its characters.

use std::fmt;

use super::number::Number;
use super::parser::{DEPTH_MAX, EXPRESSION_BYTES_MAX, PARTS_MAX};

const FOUND_CHARS_MAX: usize = 32;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    /// It is, or what it is written as to be kept.
    #[error("{bytes} bytes, at most {EXPRESSION_BYTES_MAX} are allowed")]
    TooLong { bytes: usize },
    #[error("more than {PARTS_MAX} conditions, values and parentheses at byte {at}")]
    TooMany { at: usize },
    #[error("more than {DEPTH_MAX} of NOT and ( within each other at byte {at}")]
    TooDeep { at: usize },
    #[error("expected {expected}, found {found} at byte {at}")]
    Unexpected { expected: Expected, found: Found, at: usize },
}

/// What could have stood there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    Condition,
    Comparison,
    /// Behind a header and NOT.
    Negated,
    Relation,
    Header,
    Value,
    Number,
    /// Behind the first number of a range.
    NumberFrom(Bound),
    Text,
    LongerText,
    Quote,
    And,
    Null,
    ListStart,
    ListEnd,
    GroupEnd,
    End,
}

/// Where a range begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bound(pub(super) Number);

/// What stood there: the end, or the beginning of a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found(Option<String>);

impl Found {
    pub(super) fn new(text: &str) -> Self {
        Self((!text.is_empty()).then(|| text.chars().take(FOUND_CHARS_MAX).collect()))
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(text) => f.write_str(text),
            None => f.write_str("the end"),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Condition => "a condition",
            Self::Comparison => "a comparison, IS, IN, BETWEEN, CONTAINS, STARTSWITH or ENDSWITH",
            Self::Negated => "IN, BETWEEN, CONTAINS, STARTSWITH or ENDSWITH",
            Self::Relation => "a comparison",
            Self::Header => "a header",
            Self::Value => "a value or a header",
            Self::Number => "a number",
            Self::NumberFrom(Bound(low)) => return write!(f, "a number from {low} on"),
            Self::Text => "a text in quotes",
            Self::LongerText => "a text that is not empty",
            Self::Quote => "the closing quote",
            Self::And => "AND",
            Self::Null => "NULL",
            Self::ListStart => "(",
            Self::ListEnd => "a comma or )",
            Self::GroupEnd => "AND, OR or )",
            Self::End => "AND, OR or the end",
        })
    }
}
