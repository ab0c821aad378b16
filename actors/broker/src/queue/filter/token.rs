//! The words of an expression.
//!
//! Owns: where a word begins and ends, and which are reserved (in any case of letters).
//! Must never: look further than the end of the word; pass over anything but white space.
//! Invariants: every call moves on, or has come to the end.

use super::fault::{Expected, ExpressionError, Found};
use super::name::{Name, Quoted, begins_word, continues_word};
use super::number::Number;
use super::relation::Relation;

/// A word and where it stands.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// Bytes of the text: `[start, end)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a word is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Close,
    Comma,
    Relation(Relation),
    Keyword(Keyword),
    Name(Name),
    Text(String),
    Number(Number),
    /// A character that begins no word.
    Stray,
    End,
}

/// A reserved word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    And,
    Between,
    Contains,
    EndsWith,
    False,
    In,
    Is,
    Not,
    Null,
    Or,
    StartsWith,
    True,
}

const KEYWORDS: [(&str, Keyword); 12] = [
    ("AND", Keyword::And),
    ("BETWEEN", Keyword::Between),
    ("CONTAINS", Keyword::Contains),
    ("ENDSWITH", Keyword::EndsWith),
    ("FALSE", Keyword::False),
    ("IN", Keyword::In),
    ("IS", Keyword::Is),
    ("NOT", Keyword::Not),
    ("NULL", Keyword::Null),
    ("OR", Keyword::Or),
    ("STARTSWITH", Keyword::StartsWith),
    ("TRUE", Keyword::True),
];

impl Keyword {
    /// The reserved word that is written so.
    pub(super) fn named(word: &str) -> Option<Self> {
        let (_, keyword) = KEYWORDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(word))?;
        Some(*keyword)
    }
}

/// A text, word by word.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// The next word; the end again and again.
    pub(super) fn next(&mut self) -> Result<Token, ExpressionError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let word = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
        let start = self.at + (rest.len() - word.len());
        let (kind, bytes) = self.read(start, word)?;
        let span = Span { start, end: start + bytes };
        assert!(bytes > 0 || kind == Kind::End, "every word is passed");
        self.at = span.end;
        Ok(Token { kind, span })
    }

    fn read(&self, start: usize, word: &str) -> Result<(Kind, usize), ExpressionError> {
        let Some(first) = word.chars().next() else {
            return Ok((Kind::End, 0));
        };
        match first {
            '\'' | '"' => {
                let Some((content, bytes)) = Quoted::parse(word) else {
                    let at = self.text.len();
                    let span = Span { start: at, end: at };
                    return Err(self.unexpected(span, Expected::Quote));
                };
                let kind = match first {
                    '\'' => Kind::Text(content),
                    _ => Name::new(&content).map_or(Kind::Stray, Kind::Name),
                };
                Ok((kind, bytes))
            }
            _ if begins_number(word) => {
                let bytes = number_bytes(word);
                let span = Span { start, end: start + bytes };
                let number = number(word.get(..bytes).unwrap_or_default());
                let number = number.ok_or_else(|| self.unexpected(span, Expected::Number))?;
                Ok((Kind::Number(number), bytes))
            }
            _ if begins_word(first) => {
                let bytes = word.find(|c| !continues_word(c)).unwrap_or(word.len());
                let word = word.get(..bytes).unwrap_or_default();
                let name = || Name::new(word).map_or(Kind::Stray, Kind::Name);
                Ok((Keyword::named(word).map_or_else(name, Kind::Keyword), bytes))
            }
            _ => Ok(mark(word).unwrap_or((Kind::Stray, first.len_utf8()))),
        }
    }

    /// That something else should have stood there.
    pub(super) fn unexpected(&self, span: Span, expected: Expected) -> ExpressionError {
        let found = Found::new(self.text.get(span.start..span.end).unwrap_or_default());
        ExpressionError::Unexpected { expected, found, at: span.start }
    }
}

/// A mark, the longest that fits, and its bytes.
fn mark(word: &str) -> Option<(Kind, usize)> {
    for (text, relation) in Relation::ALL {
        if word.starts_with(text) {
            return Some((Kind::Relation(relation), text.len()));
        }
    }
    let kind = match word.as_bytes().first()? {
        b'(' => Kind::Open,
        b')' => Kind::Close,
        b',' => Kind::Comma,
        _ => return None,
    };
    Some((kind, 1))
}

/// There is no arithmetic, so a sign before a digit is that of a number.
fn begins_number(word: &str) -> bool {
    let unsigned = word.strip_prefix(['+', '-']).unwrap_or(word);
    unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
}

/// How far a number goes; letters that follow it at once belong to it, and spoil it.
fn number_bytes(word: &str) -> usize {
    let mut before = None;
    let end = word.find(|c: char| {
        let may_be_signed = matches!(before, None | Some('e' | 'E'));
        before = Some(c);
        let continues = continues_word(c) || c == '.' || (may_be_signed && matches!(c, '+' | '-'));
        !continues
    });
    end.unwrap_or(word.len())
}

/// A number, with Java's mark of a long one.
fn number(text: &str) -> Option<Number> {
    let digits = text.strip_suffix(['l', 'L']).filter(|digits| digits.parse::<i64>().is_ok());
    Number::parse(digits.unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words as they stand in the text, and what they are.
    fn check(text: &str, want: &[(&str, Kind)]) {
        let mut tokens = Tokens::new(text);
        for (word, kind) in want {
            let found = tokens.next().ok();
            let span = found.as_ref().map(|token| token.span);
            let standing = span.and_then(|span| text.get(span.start..span.end));
            assert_eq!(standing, Some(*word), "{text}");
            assert_eq!(found.map(|token| &token.kind == kind), Some(true), "{text}: {word}");
        }
        let last = tokens.next().map(|token| token.kind);
        assert_eq!(last, Ok(Kind::End), "{text}");
    }

    fn name(name: &str) -> Kind {
        Name::new(name).map_or(Kind::Stray, Kind::Name)
    }

    fn number(text: &str) -> Kind {
        Number::parse(text).map_or(Kind::Stray, Kind::Number)
    }

    #[test]
    fn words_are_told_apart() {
        use Relation::{Equal, Greater, GreaterOrEqual, LessOrEqual, NotEqual};
        let relation = Kind::Relation;
        check("", &[]);
        check(" \t\r\n\x0c", &[]);
        check("a>=5", &[("a", name("a")), (">=", relation(GreaterOrEqual)), ("5", number("5"))]);
        check("a>-5", &[("a", name("a")), (">", relation(Greater)), ("-5", number("-5"))]);
        check("<>=", &[("<>", relation(NotEqual)), ("=", relation(Equal))]);
        check(
            "<=(,)",
            &[
                ("<=", relation(LessOrEqual)),
                ("(", Kind::Open),
                (",", Kind::Comma),
                (")", Kind::Close),
            ],
        );
        check("5-3", &[("5", number("5")), ("-3", number("-3"))]);
        check("1e-3+.5", &[("1e-3", number("0.001")), ("+.5", number("0.5"))]);
        check("12L 12l", &[("12L", number("12")), ("12l", number("12"))]);
        check("nOt NOTE", &[("nOt", Kind::Keyword(Keyword::Not)), ("NOTE", name("NOTE"))]);
        check("'it''s'", &[("'it''s'", Kind::Text("it's".to_owned()))]);
        check("\"not\"\"\"", &[("\"not\"\"\"", name("not\""))]);
        check("\"\"", &[("\"\"", Kind::Stray)]);
        check("!é-", &[("!", Kind::Stray), ("é", Kind::Stray), ("-", Kind::Stray)]);
    }
}
