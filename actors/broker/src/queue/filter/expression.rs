//! An expression over the headers of a record, as `RocketMQ` users write them.
//!
//! ```text
//!   colour IN ('red', 'blue') AND (price BETWEEN 10 AND 20.5 OR NOT region STARTSWITH 'eu-')
//! ```
//!
//! Owns: what an expression says of a record, and how it is written.
//! Must never: allocate for a record, or look at a value longer than [`VALUE_BYTES_MAX`].
//! Invariants: a test is true, false or unknown, as in SQL: it is unknown if the header is missing,
//! is no UTF-8, is too long, or is no number (or `true`, `false`) where it is compared with one.
//! What is unknown stays so under NOT, and is no match in the end. Only IS NULL always knows.
//! AND stands in no AND and OR in no OR, so that a tree is read as it was written.

use std::cmp::Ordering;
use std::fmt;

use super::Facts;
use super::fault::ExpressionError;
use super::name::{Name, Quoted};
use super::number::Number;
use super::parser;
use super::relation::Relation;

/// Bytes of a header's value that is compared, at most: all properties of a `RocketMQ` message.
pub(crate) const VALUE_BYTES_MAX: usize = 32 * 1024;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expression(Condition);

impl Expression {
    /// Reads the whole text.
    pub(super) fn parse(text: &str) -> Result<Self, ExpressionError> {
        parser::parse(text).map(Self)
    }

    /// Whether it is true of a record. Cost: at most its parts times the bytes of a value.
    pub(super) fn matches(&self, record: &impl Facts) -> bool {
        self.0.holds(record) == Some(true)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A part of an expression that is true, false or unknown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Constant(bool),
    Compare {
        name: Name,
        relation: Relation,
        with: Operand,
    },
    /// Both ends are in the range.
    Between {
        name: Name,
        low: Number,
        high: Number,
    },
    In {
        name: Name,
        texts: Vec<String>,
    },
    IsNull(Name),
    Has {
        name: Name,
        place: Place,
        text: String,
    },
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// What a header is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Number(Number),
    Text(String),
    Truth(bool),
    Header(Name),
}

/// Where a text is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Anywhere,
    Start,
    End,
}

impl Condition {
    /// True if all are.
    pub(super) fn all(conditions: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match condition {
                Self::And(inner) => flat.extend(inner),
                condition => flat.push(condition),
            }
        }
        if flat.len() > 1 { Self::And(flat) } else { flat.pop().unwrap_or(Self::Constant(true)) }
    }

    /// True if one is.
    pub(super) fn any(conditions: Vec<Self>) -> Self {
        let mut flat = Vec::with_capacity(conditions.len());
        for condition in conditions {
            match condition {
                Self::Or(inner) => flat.extend(inner),
                condition => flat.push(condition),
            }
        }
        if flat.len() > 1 { Self::Or(flat) } else { flat.pop().unwrap_or(Self::Constant(false)) }
    }

    pub(super) fn not(condition: Self) -> Self {
        Self::Not(Box::new(condition))
    }

    /// Whether it is true of a record; none if that is unknown.
    fn holds(&self, record: &impl Facts) -> Option<bool> {
        match self {
            Self::Constant(truth) => Some(*truth),
            Self::Compare { name, relation, with } => {
                let value = text_of(record, name)?;
                let order = with.compare(value, *relation, record)?;
                Some(relation.holds(order))
            }
            Self::Between { name, low, high } => {
                let number = Number::parse(text_of(record, name)?)?;
                Some(*low <= number && number <= *high)
            }
            Self::In { name, texts } => {
                let value = text_of(record, name)?;
                Some(texts.iter().any(|text| text == value))
            }
            Self::IsNull(name) => Some(record.header(name.as_str()).is_none()),
            Self::Has { name, place, text } => Some(place.of(text_of(record, name)?, text)),
            Self::Not(condition) => condition.holds(record).map(|truth| !truth),
            Self::And(conditions) => {
                let mut all = Some(true);
                for condition in conditions {
                    match condition.holds(record) {
                        Some(true) => {}
                        Some(false) => return Some(false),
                        None => all = None,
                    }
                }
                all
            }
            Self::Or(conditions) => {
                let mut any = Some(false);
                for condition in conditions {
                    match condition.holds(record) {
                        Some(false) => {}
                        Some(true) => return Some(true),
                        None => any = None,
                    }
                }
                any
            }
        }
    }

    /// A test, with NOT where such a test has it.
    fn write_test(&self, f: &mut fmt::Formatter<'_>, not: &str) -> fmt::Result {
        match self {
            Self::Between { name, low, high } => {
                write!(f, "{name} {not}BETWEEN {low} AND {high}")
            }
            Self::In { name, texts } => {
                write!(f, "{name} {not}IN (")?;
                for (index, text) in texts.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", Quoted { text, quote: '\'' })?;
                }
                f.write_str(")")
            }
            Self::IsNull(name) => write!(f, "{name} IS {not}NULL"),
            Self::Has { name, place, text } => {
                write!(f, "{name} {not}{} {}", place.word(), Quoted { text, quote: '\'' })
            }
            Self::And(_) | Self::Or(_) => write!(f, "{not}({self})"),
            Self::Constant(_) | Self::Compare { .. } | Self::Not(_) => write!(f, "{not}{self}"),
        }
    }
}

/// The value of a header as a text.
fn text_of<'a>(record: &'a impl Facts, name: &Name) -> Option<&'a str> {
    let value = record.header(name.as_str())?;
    if value.len() > VALUE_BYTES_MAX {
        return None;
    }
    std::str::from_utf8(value).ok()
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant(truth) => write_truth(f, *truth),
            Self::Compare { name, relation, with } => {
                write!(f, "{name} {relation} {with}")
            }
            Self::Not(condition) => condition.write_test(f, "NOT "),
            Self::And(conditions) => {
                for (index, condition) in conditions.iter().enumerate() {
                    f.write_str(if index == 0 { "" } else { " AND " })?;
                    match condition {
                        Self::Or(_) => write!(f, "({condition})")?,
                        _ => write!(f, "{condition}")?,
                    }
                }
                Ok(())
            }
            Self::Or(conditions) => {
                for (index, condition) in conditions.iter().enumerate() {
                    let or = if index == 0 { "" } else { " OR " };
                    write!(f, "{or}{condition}")?;
                }
                Ok(())
            }
            Self::Between { .. } | Self::In { .. } | Self::IsNull(_) | Self::Has { .. } => {
                self.write_test(f, "")
            }
        }
    }
}

impl Operand {
    /// How a value stands to this; none where they cannot be compared.
    fn compare(&self, value: &str, relation: Relation, record: &impl Facts) -> Option<Ordering> {
        match self {
            Self::Number(number) => Some(Number::parse(value)?.cmp(number)),
            Self::Text(text) => Some(value.cmp(text)),
            Self::Truth(truth) => Some(parse_truth(value)?.cmp(truth)),
            Self::Header(name) => {
                let other = text_of(record, name)?;
                match relation.is_order() {
                    true => Some(Number::parse(value)?.cmp(&Number::parse(other)?)),
                    false => Some(value.cmp(other)),
                }
            }
        }
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => Quoted { text, quote: '\'' }.fmt(f),
            Self::Truth(truth) => write_truth(f, *truth),
            Self::Header(name) => name.fmt(f),
        }
    }
}

fn write_truth(f: &mut fmt::Formatter<'_>, truth: bool) -> fmt::Result {
    f.write_str(if truth { "TRUE" } else { "FALSE" })
}

/// Headers are written by hand and by libraries: letters of either case will do.
fn parse_truth(value: &str) -> Option<bool> {
    match value {
        _ if value.eq_ignore_ascii_case("true") => Some(true),
        _ if value.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

impl Place {
    fn of(self, value: &str, text: &str) -> bool {
        match self {
            Self::Anywhere => value.contains(text),
            Self::Start => value.starts_with(text),
            Self::End => value.ends_with(text),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Anywhere => "CONTAINS",
            Self::Start => "STARTSWITH",
            Self::End => "ENDSWITH",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, Record};
    use super::*;
    use crate::queue::dice::Dice;

    /// What an expression says of a record; the headers are written `name=value name=value`.
    #[track_caller]
    fn check(headers: &str, table: &[(&str, Option<bool>)]) {
        let record = Record::with_headers(headers);
        for (text, want) in table {
            let expression = Expression::parse(text);
            let holds = expression.as_ref().map(|expression| expression.0.holds(&record));
            assert_eq!(holds, Ok(*want), "{text} of {headers}");
            let matches = expression.map(|expression| expression.matches(&record));
            assert_eq!(matches, Ok(*want == Some(true)), "{text} of {headers}");
        }
    }

    const TRUE: Option<bool> = Some(true);
    const FALSE: Option<bool> = Some(false);
    const UNKNOWN: Option<bool> = None;

    #[test]
    fn numbers_are_compared() {
        check(
            "a=5 b=-1.5 c=5.0 big=9007199254740993",
            &[
                ("a = 5", TRUE),
                ("a <> 5", FALSE),
                ("a = 5.0", TRUE),
                ("c = 5", TRUE),
                ("a > 4.9", TRUE),
                ("a >= 5", TRUE),
                ("a < 5", FALSE),
                ("a <= 5L", TRUE),
                ("10 > a", TRUE),
                ("5 < a", FALSE),
                ("b < -1", TRUE),
                ("b = -1.5", TRUE),
                ("big = 9007199254740992", FALSE),
                ("big > 9007199254740992", TRUE),
                ("a BETWEEN 5 AND 6", TRUE),
                ("a BETWEEN 4 AND 5", TRUE),
                ("a BETWEEN 5.5 AND 6", FALSE),
                ("a NOT BETWEEN 5.5 AND 6", TRUE),
                ("b BETWEEN -2 AND -1", TRUE),
                ("a > b", TRUE),
                ("a <= b", FALSE),
                ("a >= c", TRUE),
            ],
        );
    }

    #[test]
    fn texts_are_compared() {
        check(
            "a=red b=red c=it's empty= n=5 m=5.0 true=TRUE",
            &[
                ("a = 'red'", TRUE),
                ("'red' = a", TRUE),
                ("a = 'Red'", FALSE),
                ("a <> 'red'", FALSE),
                ("a <> 'blue'", TRUE),
                ("c = 'it''s'", TRUE),
                ("empty = ''", TRUE),
                ("empty IS NULL", FALSE),
                ("a = b", TRUE),
                ("a <> c", TRUE),
                ("n = '5'", TRUE),
                ("n = m", FALSE),
                ("n >= m", TRUE),
                ("a IN ('blue', 'red')", TRUE),
                ("a IN ('blue')", FALSE),
                ("a NOT IN ('blue')", TRUE),
                ("a CONTAINS 'e'", TRUE),
                ("a CONTAINS 'red'", TRUE),
                ("a CONTAINS 'er'", FALSE),
                ("a NOT CONTAINS 'er'", TRUE),
                ("a STARTSWITH 're'", TRUE),
                ("a STARTSWITH 'ed'", FALSE),
                ("a NOT STARTSWITH 'ed'", TRUE),
                ("a ENDSWITH 'ed'", TRUE),
                ("a ENDSWITH 're'", FALSE),
                ("a NOT ENDSWITH 're'", TRUE),
                ("\"true\" = TRUE", TRUE),
                ("\"true\" <> FALSE", TRUE),
                ("\"true\" = FALSE", FALSE),
                ("A = 'red'", UNKNOWN),
            ],
        );
    }

    #[test]
    fn what_is_missing_or_no_number_is_unknown() {
        check(
            "a=red n=5",
            &[
                ("x = 5", UNKNOWN),
                ("x <> 5", UNKNOWN),
                ("NOT x = 5", UNKNOWN),
                ("x = 'red'", UNKNOWN),
                ("x <> 'red'", UNKNOWN),
                ("x = y", UNKNOWN),
                ("n = x", UNKNOWN),
                ("x BETWEEN 1 AND 2", UNKNOWN),
                ("x NOT BETWEEN 1 AND 2", UNKNOWN),
                ("x IN ('red')", UNKNOWN),
                ("x NOT IN ('red')", UNKNOWN),
                ("x CONTAINS 'red'", UNKNOWN),
                ("x NOT CONTAINS 'red'", UNKNOWN),
                ("x = TRUE", UNKNOWN),
                ("x IS NULL", TRUE),
                ("x IS NOT NULL", FALSE),
                ("a IS NULL", FALSE),
                ("a IS NOT NULL", TRUE),
                ("a = 5", UNKNOWN),
                ("a <> 5", UNKNOWN),
                ("a > 5", UNKNOWN),
                ("a < n", UNKNOWN),
                ("n < a", UNKNOWN),
                ("a BETWEEN 1 AND 9", UNKNOWN),
                ("a = TRUE", UNKNOWN),
                ("n = TRUE", UNKNOWN),
            ],
        );
    }

    #[test]
    fn unknown_is_carried_as_in_sql() {
        check(
            "a=1",
            &[
                ("a = 1 AND a = 1", TRUE),
                ("a = 1 AND a = 2", FALSE),
                ("a = 1 AND x = 1", UNKNOWN),
                ("x = 1 AND a = 1", UNKNOWN),
                ("x = 1 AND a = 2", FALSE),
                ("a = 2 AND x = 1", FALSE),
                ("x = 1 AND x = 1", UNKNOWN),
                ("a = 2 OR a = 2", FALSE),
                ("a = 2 OR a = 1", TRUE),
                ("x = 1 OR a = 1", TRUE),
                ("a = 1 OR x = 1", TRUE),
                ("x = 1 OR a = 2", UNKNOWN),
                ("a = 2 OR x = 1", UNKNOWN),
                ("NOT (x = 1 OR a = 2)", UNKNOWN),
                ("NOT (x = 1 AND a = 2)", TRUE),
                ("NOT NOT a = 1", TRUE),
                ("TRUE", TRUE),
                ("FALSE", FALSE),
                ("NOT FALSE", TRUE),
                ("a = 1 OR a = 2 AND x = 1", TRUE),
                ("(a = 1 OR a = 2) AND x = 1", UNKNOWN),
                ("NOT a = 2 AND a = 1", TRUE),
            ],
        );
    }

    #[test]
    fn what_is_no_text_is_unknown_but_there() {
        let most = vec![b'7'; VALUE_BYTES_MAX];
        let long = vec![b'7'; VALUE_BYTES_MAX + 1];
        for (value, is_text) in [
            (&b"\xff"[..], false),
            (b"7\xc3", false),
            (b"\xed\xa0\x80", false),
            (&long, false),
            (&most, true),
            (b"", true),
            (b"\0", true),
        ] {
            let record = Record { headers: vec![("a", value)], ..Record::default() };
            for (text, want) in [
                ("a = ''", value.is_empty()),
                ("a <> ''", !value.is_empty()),
                ("a IN ('')", value.is_empty()),
                ("a CONTAINS '7'", value == most),
                ("a = a", true),
            ] {
                let holds = Expression::parse(text).map(|expression| expression.0.holds(&record));
                assert_eq!(holds, Ok(is_text.then_some(want)), "{text} of {} bytes", value.len());
            }
            let number = Expression::parse("a < 7").map(|one| one.0.holds(&record));
            assert_eq!(number, Ok(UNKNOWN), "none of them is a number");
            let there = Expression::parse("a IS NOT NULL").map(|one| one.matches(&record));
            assert_eq!(there, Ok(true));
        }
    }

    /// Values of a header, and what they are read as.
    const VALUES: [(Option<&str>, Option<f64>, Option<bool>); 12] = [
        (None, None, None),
        (Some(""), None, None),
        (Some("0"), Some(0.0), None),
        (Some("1"), Some(1.0), None),
        (Some("1.0"), Some(1.0), None),
        (Some("-2.5"), Some(-2.5), None),
        (Some("1e3"), Some(1000.0), None),
        (Some("true"), None, Some(true)),
        (Some("False"), None, Some(false)),
        (Some("it's"), None, None),
        (Some("nan"), None, None),
        (Some("\"q\""), None, None),
    ];

    fn value_of<'a>(
        record: &Record<'a>,
        name: &Name,
    ) -> (Option<&'a str>, Option<f64>, Option<bool>) {
        let header = record.headers.iter().find(|(header, _)| *header == name.as_str());
        let text = header.and_then(|(_, value)| std::str::from_utf8(value).ok());
        let row = VALUES.iter().find(|(value, _, _)| *value == text);
        row.map_or((None, None, None), |(_, number, truth)| (text, *number, *truth))
    }

    /// What an expression says, in halves: 0 is false, 1 unknown, 2 true. All tests come down to
    /// less, equal and greater, looked up in the table above.
    fn halves(condition: &Condition, record: &Record<'_>) -> u8 {
        let known = |truth: Option<bool>| truth.map_or(1, |truth| if truth { 2 } else { 0 });
        let number_of = |number: &Number| number.to_string().parse::<f64>().ok();
        match condition {
            Condition::Constant(truth) => known(Some(*truth)),
            Condition::Not(condition) => 2 - halves(condition, record),
            Condition::And(conditions) => {
                conditions.iter().map(|condition| halves(condition, record)).min().unwrap_or(2)
            }
            Condition::Or(conditions) => {
                conditions.iter().map(|condition| halves(condition, record)).max().unwrap_or(0)
            }
            Condition::IsNull(name) => known(Some(value_of(record, name).0.is_none())),
            Condition::In { name, texts } => {
                known(value_of(record, name).0.map(|text| texts.contains(&text.to_owned())))
            }
            Condition::Has { name, place, text } => known(value_of(record, name).0.map(|value| {
                let windows = value.as_bytes().windows(text.len()).enumerate();
                let at = windows.filter(|(_, window)| *window == text.as_bytes());
                let found: Vec<usize> = at.map(|(at, _)| at).collect();
                match place {
                    Place::Anywhere => !found.is_empty(),
                    Place::Start => found.contains(&0),
                    Place::End => found.iter().any(|at| at + text.len() == value.len()),
                }
            })),
            Condition::Between { name, low, high } => {
                let number = value_of(record, name).1;
                known(number.map(|n| Some(n) >= number_of(low) && Some(n) <= number_of(high)))
            }
            Condition::Compare { name, relation, with } => {
                let (text, number, truth) = value_of(record, name);
                let order = match with {
                    Operand::Number(with) => number.and_then(|n| n.partial_cmp(&number_of(with)?)),
                    Operand::Text(with) => text.map(|text| text.cmp(with)),
                    Operand::Truth(with) => truth.map(|truth| truth.cmp(with)),
                    Operand::Header(other) => {
                        let (other, other_number, _) = value_of(record, other);
                        match relation {
                            Relation::Equal | Relation::NotEqual => {
                                text.and_then(|text| Some(text.cmp(other?)))
                            }
                            _ => number.and_then(|n| n.partial_cmp(&other_number?)),
                        }
                    }
                };
                known(order.map(|order| {
                    let fitting = match relation {
                        Relation::Equal => [false, true, false],
                        Relation::NotEqual => [true, false, true],
                        Relation::Less => [true, false, false],
                        Relation::LessOrEqual => [true, true, false],
                        Relation::Greater => [false, false, true],
                        Relation::GreaterOrEqual => [false, true, true],
                    };
                    fitting.get((order as i8 + 1) as usize) == Some(&true)
                }))
            }
        }
    }

    #[test]
    fn a_naive_reading_comes_to_the_same() {
        let mut dice = Dice::new(3);
        let mut seen = [0_u32; 3];
        for _ in 0..30_000 {
            let condition = sample::condition(&mut dice, 4);
            let mut headers = Vec::new();
            for name in sample::NAMES {
                if let (Some(value), _, _) = sample::one(&mut dice, &VALUES) {
                    headers.push((name, value.as_bytes()));
                }
            }
            let record = Record { headers, ..Record::default() };
            let want = halves(&condition, &record);
            let holds = condition.holds(&record);
            assert_eq!(
                holds.map_or(1, |truth| u8::from(truth) * 2),
                want,
                "{condition} of {record:?}"
            );
            if let Some(seen) = seen.get_mut(usize::from(want)) {
                *seen += 1;
            }
        }
        assert!(seen.iter().all(|seen| *seen > 3_000), "{seen:?}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut dice = Dice::new(4);
        for _ in 0..20_000 {
            let condition = sample::condition(&mut dice, 4);
            let text = condition.to_string();
            if text.len() <= parser::EXPRESSION_BYTES_MAX {
                assert_eq!(Expression::parse(&text), Ok(Expression(condition)), "{text}");
            }
        }
    }
}
