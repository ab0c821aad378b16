//! Which records a group wants.
//!
//! ```text
//!   *                               every record
//!   tags:new || sold                records with one of the tags
//!   keys:stock.*.new || order.#     records whose routing key is like one of the patterns
//!   headers:price > 10              records whose headers are so
//! ```
//!
//! Pure: what a filter says depends on nothing but the record. A file is a noun:
//!
//! * `tags`, `patterns`, `expression`: the three rules.
//! * `alternatives`: texts of which any one will do.
//! * `parser`, `token`, `fault`: how an expression is read, and what its author is told.
//! * `name`, `number`, `relation`: headers, numbers and comparisons as an expression writes them.
//! * `batch`: the records of a stored batch, as a filter sees them.
//! * `stored`: a filter as catalog, log and checkpoint keep it.
//!
//! Must never: allocate for a record; take longer than the bounds of the filter allow.
//! Invariants: a filter is written as a line that is read as an equal filter.

mod alternatives;
pub(crate) mod batch;
mod expression;
mod fault;
mod name;
mod number;
mod parser;
mod patterns;
mod relation;
#[cfg(test)]
mod sample;
mod stored;
mod tags;
mod token;

use std::fmt;
use std::str::FromStr;

use alternatives::AlternativesError;
use expression::Expression;
use fault::ExpressionError;
use patterns::Patterns;
use tags::{EVERYTHING, Tags};

pub(crate) use stored::{StoredFilter, to_be_stored};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    Everything,
    Tags(Tags),
    Keys(Patterns),
    Headers(Expression),
}

/// What a filter is made of, as a group's owner names it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "other protocols say it in these words"))]
pub(crate) enum FilterSpec<'a> {
    /// Any of these tags; everything if there are none.
    Tags(&'a [&'a str]),
    /// As `RocketMQ` writes tags: `TagA || TagB`; everything if it is `*` or empty.
    TagLine(&'a str),
    /// Any of these patterns of a routing key; everything if there are none.
    Patterns(&'a [&'a str]),
    /// An expression over headers.
    Expression(&'a str),
}

/// What a filter may ask of a record.
pub(crate) trait Facts {
    fn tags(&self) -> impl Iterator<Item = &str>;

    fn routing_key(&self) -> Option<&str>;

    /// The value of a header; the last one, where several have this name.
    fn header(&self, name: &str) -> Option<&[u8]>;
}

/// Why there is no such filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FilterError {
    #[error("tags: {0}")]
    Tags(AlternativesError),
    #[error("patterns of routing keys: {0}")]
    Patterns(AlternativesError),
    #[error("expression: {0}")]
    Expression(ExpressionError),
    #[error("a filter is * or begins with {TAGS}, {KEYS} or {HEADERS}")]
    UnknownKind,
}

const TAGS: &str = "tags:";
const KEYS: &str = "keys:";
const HEADERS: &str = "headers:";

impl Filter {
    /// Makes a filter of what a group's owner says.
    pub(crate) fn new(spec: FilterSpec<'_>) -> Result<Self, FilterError> {
        match spec {
            FilterSpec::Tags([]) | FilterSpec::Patterns([]) | FilterSpec::TagLine("") => {
                Ok(Self::Everything)
            }
            FilterSpec::Tags(tags) => {
                Tags::new(tags.iter().copied()).map(Self::Tags).map_err(FilterError::Tags)
            }
            FilterSpec::TagLine(line) if line.trim() == EVERYTHING => Ok(Self::Everything),
            FilterSpec::TagLine(line) => {
                Tags::parse(line).map(Self::Tags).map_err(FilterError::Tags)
            }
            FilterSpec::Patterns(patterns) => {
                let patterns = Patterns::new(patterns.iter().copied());
                patterns.map(Self::Keys).map_err(FilterError::Patterns)
            }
            FilterSpec::Expression(text) => {
                Expression::parse(text).map(Self::Headers).map_err(FilterError::Expression)
            }
        }
    }

    /// Whether the group wants this record. One without a routing key has a key without words.
    pub(crate) fn matches(&self, record: &impl Facts) -> bool {
        match self {
            Self::Everything => true,
            Self::Tags(tags) => tags.match_any(record.tags()),
            Self::Keys(patterns) => patterns.match_key(record.routing_key().unwrap_or_default()),
            Self::Headers(expression) => expression.matches(record),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str(EVERYTHING),
            Self::Tags(tags) => write!(f, "{TAGS}{tags}"),
            Self::Keys(patterns) => write!(f, "{KEYS}{patterns}"),
            Self::Headers(expression) => write!(f, "{HEADERS}{expression}"),
        }
    }
}

/// Reads what was written.
impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(line: &str) -> Result<Self, FilterError> {
        if line == EVERYTHING {
            return Ok(Self::Everything);
        }
        if let Some(tags) = line.strip_prefix(TAGS) {
            return Tags::parse(tags).map(Self::Tags).map_err(FilterError::Tags);
        }
        if let Some(patterns) = line.strip_prefix(KEYS) {
            return Patterns::parse(patterns).map(Self::Keys).map_err(FilterError::Patterns);
        }
        let text = line.strip_prefix(HEADERS).ok_or(FilterError::UnknownKind)?;
        Self::new(FilterSpec::Expression(text))
    }
}

#[cfg(test)]
mod tests {
    use super::sample::{self, Record};
    use super::*;
    use crate::queue::dice::Dice;

    fn record() -> Record<'static> {
        let headers = vec![("price", &b"1"[..]), ("price", b"12")];
        Record { tags: vec!["new"], routing_key: Some("stock.apple"), headers }
    }

    #[test]
    fn a_filter_is_made_matched_and_written() {
        use FilterSpec::{Expression, Patterns, TagLine, Tags};
        for (spec, line, matches, matches_bare) in [
            (Tags(&[]), "*", true, true),
            (Patterns(&[]), "*", true, true),
            (TagLine(""), "*", true, true),
            (TagLine("*"), "*", true, true),
            (TagLine(" * "), "*", true, true),
            (Tags(&["sold", "new"]), "tags:new || sold", true, false),
            (Tags(&["sold"]), "tags:sold", false, false),
            (TagLine("sold||new"), "tags:new || sold", true, false),
            (Patterns(&["stock.*"]), "keys:stock.*", true, false),
            (Patterns(&["#"]), "keys:#", true, true),
            (Patterns(&["*", "a.b"]), "keys:* || a.b", false, false),
            (Patterns(&[""]), "keys:", false, true),
            (Patterns(&["", "#.apple"]), "keys: || #.apple", true, true),
            (Expression("price>10"), "headers:price > 10", true, false),
            (Expression("price IS NULL"), "headers:price IS NULL", false, true),
            (Expression("TRUE"), "headers:TRUE", true, true),
        ] {
            let filter = Filter::new(spec);
            let written = filter.as_ref().map(ToString::to_string);
            assert_eq!(written, Ok(line.to_owned()), "{spec:?}");
            assert_eq!(line.parse(), filter, "{line}");
            let match_one = |record| filter.as_ref().map(|filter| filter.matches(&record));
            assert_eq!(match_one(record()), Ok(matches), "{spec:?}");
            assert_eq!(match_one(Record::default()), Ok(matches_bare), "{spec:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_told() {
        let told = |spec| Filter::new(spec).map_err(|error| error.to_string());
        for (spec, want) in [
            (FilterSpec::Tags(&["a", ""]), "tags: number 1 is empty"),
            (FilterSpec::TagLine("a||*"), "tags: number 1 is *, which stands alone for everything"),
            (FilterSpec::TagLine("||"), "tags: there are none"),
            (
                FilterSpec::Patterns(&["a||b"]),
                "patterns of routing keys: number 0 contains ||, which divides them",
            ),
            (
                FilterSpec::Expression("a >"),
                "expression: expected a value or a header, found the end at byte 3",
            ),
        ] {
            assert_eq!(told(spec), Err(want.to_owned()), "{spec:?}");
        }
        let unknown = "a filter is * or begins with tags:, keys: or headers:";
        for line in ["", "a", "tags", "TAGS:a", " *", "** "] {
            let told = line.parse::<Filter>().map_err(|error| error.to_string());
            assert_eq!(told, Err(unknown.to_owned()), "{line}");
        }
        assert!("tags:".parse::<Filter>().is_err(), "no tags are written otherwise");
        assert!("headers:".parse::<Filter>().is_err());
    }

    #[test]
    fn no_bytes_do_harm() {
        let starts = ["", TAGS, KEYS, HEADERS];
        let mut dice = Dice::new(8);
        for _ in 0..20_000 {
            let start = sample::one(&mut dice, &starts);
            let bytes: Vec<u8> = (0..dice.below(20))
                .map(|_| match dice.below(3) {
                    0 => b'|',
                    1 => sample::one(&mut dice, b" a*#.'="),
                    _ => dice.below(256) as u8,
                })
                .collect();
            let line = format!("{start}{}", String::from_utf8_lossy(&bytes));
            if let Ok(filter) = line.parse::<Filter>() {
                filter.matches(&record());
                assert_eq!(filter.to_string().parse(), Ok(filter), "{line}");
            }
        }
    }
}
