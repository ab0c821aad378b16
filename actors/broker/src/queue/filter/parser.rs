//! Reads an expression.
//!
//! ```text
//!   any       = all { OR all }
//!   all       = negation { AND negation }
//!   negation  = NOT negation | primary
//!   primary   = ( any ) | TRUE | FALSE | header relation value | value relation header
//!             | header IS [NOT] NULL
//!             | header [NOT] IN ( text { , text } )
//!             | header [NOT] BETWEEN number AND number
//!             | header [NOT] (CONTAINS | STARTSWITH | ENDSWITH) text
//!   relation  = = | <> | < | <= | > | >=          value = number | text | TRUE | FALSE | header
//! ```
//!
//! Owns: the grammar, and the bounds of what is read.
//! Must never: panic, or recurse further than [`DEPTH_MAX`], whatever the text is.
//! Invariants: what a tree is written as is read as an equal tree, within the same bounds.

use super::expression::{Condition, Operand, Place};
use super::fault::{Bound, Expected, ExpressionError};
use super::name::Name;
use super::number::Number;
use super::relation::Relation;
use super::token::{Keyword, Kind, Span, Token, Tokens};

/// Bytes of an expression, at most, as it comes and as it is kept.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 4096;
/// Conditions, values of lists, NOTs and parentheses, at most.
pub(crate) const PARTS_MAX: usize = 256;
/// NOTs and parentheses within each other, at most.
pub(crate) const DEPTH_MAX: usize = 32;

/// Reads the whole text.
pub(super) fn parse(text: &str) -> Result<Condition, ExpressionError> {
    let check = |bytes: usize| match bytes {
        0..=EXPRESSION_BYTES_MAX => Ok(()),
        _ => Err(ExpressionError::TooLong { bytes }),
    };
    check(text.len())?;
    let mut tokens = Tokens::new(text);
    let token = tokens.next()?;
    let mut parser = Parser { tokens, token, parts: 0, depth: 0 };
    let condition = parser.any()?;
    parser.expect(&Kind::End, Expected::End)?;
    assert_eq!(parser.depth, 0, "everything opened was closed");
    // Blanks and digits that were left out are written.
    check(condition.to_string().len())?;
    Ok(condition)
}

struct Parser<'a> {
    tokens: Tokens<'a>,
    /// The next one.
    token: Token,
    parts: usize,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Condition, ExpressionError> {
        let mut conditions = vec![self.all()?];
        while self.takes(Keyword::Or)? {
            conditions.push(self.all()?);
        }
        Ok(Condition::any(conditions))
    }

    fn all(&mut self) -> Result<Condition, ExpressionError> {
        let mut conditions = vec![self.negation()?];
        while self.takes(Keyword::And)? {
            conditions.push(self.negation()?);
        }
        Ok(Condition::all(conditions))
    }

    fn negation(&mut self) -> Result<Condition, ExpressionError> {
        let span = self.token.span;
        if !self.takes(Keyword::Not)? {
            return self.primary();
        }
        self.enter(span)?;
        let condition = self.negation()?;
        self.depth -= 1;
        Ok(Condition::not(condition))
    }

    fn primary(&mut self) -> Result<Condition, ExpressionError> {
        let token = self.take()?;
        if token.kind == Kind::Open {
            self.enter(token.span)?;
            let condition = self.any()?;
            self.expect(&Kind::Close, Expected::GroupEnd)?;
            self.depth -= 1;
            return Ok(condition);
        }
        self.count(token.span)?;
        match token.kind {
            Kind::Name(name) => self.test(name),
            kind => match literal(kind) {
                Some(value) => self.value_first(value, token.span),
                None => Err(self.tokens.unexpected(token.span, Expected::Condition)),
            },
        }
    }

    /// What stands behind a header.
    fn test(&mut self, name: Name) -> Result<Condition, ExpressionError> {
        if self.takes(Keyword::Not)? {
            return self.negatable(name, Expected::Negated).map(Condition::not);
        }
        if let Kind::Relation(relation) = self.token.kind {
            self.take()?;
            let Token { kind, span } = self.take()?;
            let with = match kind {
                Kind::Name(other) => Some(Operand::Header(other)),
                kind => literal(kind),
            };
            let with = with.ok_or_else(|| self.tokens.unexpected(span, Expected::Value))?;
            return self.comparison(name, relation, with, span);
        }
        if self.takes(Keyword::Is)? {
            let is_negated = self.takes(Keyword::Not)?;
            self.expect(&Kind::Keyword(Keyword::Null), Expected::Null)?;
            let condition = Condition::IsNull(name);
            return Ok(if is_negated { Condition::not(condition) } else { condition });
        }
        self.negatable(name, Expected::Comparison)
    }

    /// A test that NOT may stand before.
    fn negatable(&mut self, name: Name, expected: Expected) -> Result<Condition, ExpressionError> {
        let token = self.take()?;
        match token.kind {
            Kind::Keyword(Keyword::Between) => self.range(name),
            Kind::Keyword(Keyword::In) => self.list(name),
            Kind::Keyword(Keyword::Contains) => self.has(name, Place::Anywhere),
            Kind::Keyword(Keyword::StartsWith) => self.has(name, Place::Start),
            Kind::Keyword(Keyword::EndsWith) => self.has(name, Place::End),
            _ => Err(self.tokens.unexpected(token.span, expected)),
        }
    }

    fn range(&mut self, name: Name) -> Result<Condition, ExpressionError> {
        let (low, _) = self.number()?;
        self.expect(&Kind::Keyword(Keyword::And), Expected::And)?;
        let (high, span) = self.number()?;
        if high < low {
            return Err(self.tokens.unexpected(span, Expected::NumberFrom(Bound(low))));
        }
        Ok(Condition::Between { name, low, high })
    }

    fn list(&mut self, name: Name) -> Result<Condition, ExpressionError> {
        self.expect(&Kind::Open, Expected::ListStart)?;
        let mut texts = Vec::new();
        loop {
            self.count(self.token.span)?;
            let (text, _) = self.text()?;
            texts.push(text);
            if self.token.kind != Kind::Comma {
                break;
            }
            self.take()?;
        }
        self.expect(&Kind::Close, Expected::ListEnd)?;
        Ok(Condition::In { name, texts })
    }

    fn has(&mut self, name: Name, place: Place) -> Result<Condition, ExpressionError> {
        let (text, span) = self.text()?;
        // `RocketMQ` takes it and never lets a record through; nobody means that.
        if text.is_empty() {
            return Err(self.tokens.unexpected(span, Expected::LongerText));
        }
        Ok(Condition::Has { name, place, text })
    }

    /// A value that stands alone, or before the header it is compared with.
    fn value_first(&mut self, value: Operand, at: Span) -> Result<Condition, ExpressionError> {
        let token = match (&self.token.kind, &value) {
            (Kind::Relation(_), _) => self.take()?,
            (_, Operand::Truth(truth)) => return Ok(Condition::Constant(*truth)),
            _ => return Err(self.tokens.unexpected(self.token.span, Expected::Relation)),
        };
        let header = self.take()?;
        match (token.kind, header.kind) {
            (Kind::Relation(relation), Kind::Name(name)) => {
                self.comparison(name, relation.flipped(), value, at)
            }
            _ => Err(self.tokens.unexpected(header.span, Expected::Header)),
        }
    }

    /// Texts and truths are equal or not; only numbers are less or greater.
    fn comparison(
        &self,
        name: Name,
        relation: Relation,
        with: Operand,
        with_at: Span,
    ) -> Result<Condition, ExpressionError> {
        let has_order = matches!(with, Operand::Number(_) | Operand::Header(_));
        if relation.is_order() && !has_order {
            return Err(self.tokens.unexpected(with_at, Expected::Number));
        }
        Ok(Condition::Compare { name, relation, with })
    }

    fn number(&mut self) -> Result<(Number, Span), ExpressionError> {
        let Token { kind, span } = self.take()?;
        match kind {
            Kind::Number(number) => Ok((number, span)),
            _ => Err(self.tokens.unexpected(span, Expected::Number)),
        }
    }

    fn text(&mut self) -> Result<(String, Span), ExpressionError> {
        let Token { kind, span } = self.take()?;
        match kind {
            Kind::Text(text) => Ok((text, span)),
            _ => Err(self.tokens.unexpected(span, Expected::Text)),
        }
    }

    /// Passes a word if it is the next one.
    fn takes(&mut self, keyword: Keyword) -> Result<bool, ExpressionError> {
        let is_next = self.token.kind == Kind::Keyword(keyword);
        if is_next {
            self.take()?;
        }
        Ok(is_next)
    }

    fn expect(&mut self, kind: &Kind, expected: Expected) -> Result<(), ExpressionError> {
        let token = self.take()?;
        match token.kind == *kind {
            true => Ok(()),
            false => Err(self.tokens.unexpected(token.span, expected)),
        }
    }

    fn take(&mut self) -> Result<Token, ExpressionError> {
        let next = self.tokens.next()?;
        Ok(std::mem::replace(&mut self.token, next))
    }

    fn count(&mut self, span: Span) -> Result<(), ExpressionError> {
        self.parts += 1;
        match self.parts {
            0..=PARTS_MAX => Ok(()),
            _ => Err(ExpressionError::TooMany { at: span.start }),
        }
    }

    /// Goes one level down; whoever does comes up again, or gives up.
    fn enter(&mut self, span: Span) -> Result<(), ExpressionError> {
        self.count(span)?;
        self.depth += 1;
        match self.depth {
            0..=DEPTH_MAX => Ok(()),
            _ => Err(ExpressionError::TooDeep { at: span.start }),
        }
    }
}

fn literal(kind: Kind) -> Option<Operand> {
    match kind {
        Kind::Number(number) => Some(Operand::Number(number)),
        Kind::Text(text) => Some(Operand::Text(text)),
        Kind::Keyword(Keyword::True) => Some(Operand::Truth(true)),
        Kind::Keyword(Keyword::False) => Some(Operand::Truth(false)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::dice::Dice;
    use crate::queue::filter::sample;

    #[test]
    fn what_is_read_is_written_in_one_form() {
        for (text, want) in [
            ("a=1", "a = 1"),
            ("a<>1", "a <> 1"),
            (" a\t>=\r\n1.50 ", "a >= 1.5"),
            ("a = +5", "a = 5"),
            ("a = 1e3", "a = 1000"),
            ("5 < a", "a > 5"),
            ("5 >= a", "a <= 5"),
            ("'x' = a", "a = 'x'"),
            ("TRUE <> a", "a <> TRUE"),
            ("a = b", "a = b"),
            ("a > b", "a > b"),
            ("a is null", "a IS NULL"),
            ("a iS nOt Null", "a IS NOT NULL"),
            ("NOT a IS NULL", "a IS NOT NULL"),
            ("NOT a IS NOT NULL", "NOT a IS NOT NULL"),
            ("a in('x','it''s')", "a IN ('x', 'it''s')"),
            ("NOT a IN ('x')", "a NOT IN ('x')"),
            ("a between -1 and +2", "a BETWEEN -1 AND 2"),
            ("a not between 1 and 1.0", "a NOT BETWEEN 1 AND 1"),
            ("a contains'x'", "a CONTAINS 'x'"),
            ("a Not StartsWith 'x'", "a NOT STARTSWITH 'x'"),
            ("a ENDSWITH ''''", "a ENDSWITH ''''"),
            ("NOT a = 1", "NOT a = 1"),
            ("NOT (a = 1)", "NOT a = 1"),
            ("NOT NOT TRUE", "NOT NOT TRUE"),
            ("NOT (a = 1 AND b = 2)", "NOT (a = 1 AND b = 2)"),
            ("((a = 1))", "a = 1"),
            ("a = 1 AND (b = 2 AND c = 3)", "a = 1 AND b = 2 AND c = 3"),
            ("(a = 1 OR b = 2) OR c = 3", "a = 1 OR b = 2 OR c = 3"),
            ("a = 1 OR (b = 2 AND c = 3)", "a = 1 OR b = 2 AND c = 3"),
            ("(a = 1 OR b = 2) AND c = 3", "(a = 1 OR b = 2) AND c = 3"),
            ("a BETWEEN 1 AND 2 AND b = 3", "a BETWEEN 1 AND 2 AND b = 3"),
            ("\"a\" = 1 and \"x-y\" = 2", "a = 1 AND \"x-y\" = 2"),
            ("a = 12L", "a = 12"),
            ("like = 'x'", "like = 'x'"),
        ] {
            let written = parse(text).map(|condition| condition.to_string());
            assert_eq!(written.as_deref(), Ok(want), "{text}");
            assert_eq!(parse(want), parse(text), "{text}");
        }
    }

    #[test]
    fn what_is_no_expression_is_told_where() {
        for (text, want) in [
            ("", "expected a condition, found the end at byte 0"),
            ("  ", "expected a condition, found the end at byte 2"),
            (
                "a",
                "expected a comparison, IS, IN, BETWEEN, CONTAINS, STARTSWITH or ENDSWITH, \
                   found the end at byte 1",
            ),
            (
                "a LIKE 'x'",
                "expected a comparison, IS, IN, BETWEEN, CONTAINS, STARTSWITH or \
                            ENDSWITH, found LIKE at byte 2",
            ),
            (
                "a != 1",
                "expected a comparison, IS, IN, BETWEEN, CONTAINS, STARTSWITH or \
                        ENDSWITH, found ! at byte 2",
            ),
            (
                "a NOT = 1",
                "expected IN, BETWEEN, CONTAINS, STARTSWITH or ENDSWITH, \
                           found = at byte 6",
            ),
            ("a =", "expected a value or a header, found the end at byte 3"),
            ("a = NULL", "expected a value or a header, found NULL at byte 4"),
            ("a = -b", "expected a value or a header, found - at byte 4"),
            ("a == 1", "expected a value or a header, found = at byte 3"),
            ("a > 'x'", "expected a number, found 'x' at byte 4"),
            ("'x' < a", "expected a number, found 'x' at byte 0"),
            ("a <= TRUE", "expected a number, found TRUE at byte 5"),
            ("1 = 1", "expected a header, found 1 at byte 4"),
            ("1", "expected a comparison, found the end at byte 1"),
            ("'x' IN ('x')", "expected a comparison, found IN at byte 4"),
            ("a = 1x", "expected a number, found 1x at byte 4"),
            ("a = 1.2.3", "expected a number, found 1.2.3 at byte 4"),
            ("a = 1e999", "expected a number, found 1e999 at byte 4"),
            ("a = 1.5L", "expected a number, found 1.5L at byte 4"),
            ("a = 'x", "expected the closing quote, found the end at byte 6"),
            ("a = 'x''", "expected the closing quote, found the end at byte 8"),
            ("\"a = 1", "expected the closing quote, found the end at byte 6"),
            ("\"\" = 1", "expected a condition, found \"\" at byte 0"),
            ("a = 1 b = 2", "expected AND, OR or the end, found b at byte 6"),
            ("a = 1 AND", "expected a condition, found the end at byte 9"),
            ("a = 1 OR OR", "expected a condition, found OR at byte 9"),
            ("NOT", "expected a condition, found the end at byte 3"),
            ("(a = 1", "expected AND, OR or ), found the end at byte 6"),
            ("(a = 1 2", "expected AND, OR or ), found 2 at byte 7"),
            ("a = 1)", "expected AND, OR or the end, found ) at byte 5"),
            ("()", "expected a condition, found ) at byte 1"),
            ("a IS 1", "expected NULL, found 1 at byte 5"),
            ("a IS NOT", "expected NULL, found the end at byte 8"),
            ("a IN 'x'", "expected (, found 'x' at byte 5"),
            ("a IN ()", "expected a text in quotes, found ) at byte 6"),
            ("a IN (1)", "expected a text in quotes, found 1 at byte 6"),
            ("a IN ('x' 'y')", "expected a comma or ), found 'y' at byte 10"),
            ("a IN ('x',)", "expected a text in quotes, found ) at byte 10"),
            ("a BETWEEN 'x' AND 2", "expected a number, found 'x' at byte 10"),
            ("a BETWEEN 1, 2", "expected AND, found , at byte 11"),
            ("a BETWEEN 2 AND 1.5", "expected a number from 2 on, found 1.5 at byte 16"),
            ("a CONTAINS x", "expected a text in quotes, found x at byte 11"),
            ("a CONTAINS ''", "expected a text that is not empty, found '' at byte 11"),
            ("a = '红' 蓝", "expected AND, OR or the end, found 蓝 at byte 10"),
            ("名 = 1", "expected a condition, found 名 at byte 0"),
            ("-- a\na = 1", "expected a condition, found - at byte 0"),
        ] {
            let told = parse(text).map_err(|error| error.to_string());
            assert_eq!(told, Err(want.to_owned()), "{text}");
        }
        let long = format!("a = 1 {}", "x".repeat(99));
        let found = parse(&long).map_err(|error| error.to_string().chars().count());
        assert_eq!(
            found,
            Err("expected AND, OR or the end, found  at byte 6".len() + 32),
            "{long}"
        );
    }

    #[test]
    fn bounds_hold() {
        let nested = |open: &str, depth, close: &str| {
            let text = format!("{}TRUE{}", open.repeat(depth), close.repeat(depth));
            parse(&text).map(|_| ())
        };
        let deep = |bytes: usize| Err(ExpressionError::TooDeep { at: DEPTH_MAX * bytes });
        assert_eq!(nested("(", DEPTH_MAX, ")"), Ok(()));
        assert_eq!(nested("(", DEPTH_MAX + 1, ")"), deep(1));
        assert_eq!(nested("(", 4_000, ""), deep(1), "a bomb");
        assert_eq!(nested("NOT ", DEPTH_MAX, ""), Ok(()));
        assert_eq!(nested("NOT ", DEPTH_MAX + 1, ""), deep(4));
        assert_eq!(nested("NOT ", 1_000, ""), deep(4), "a bomb");
        assert_eq!(nested("NOT(", DEPTH_MAX / 2, ")"), Ok(()));
        assert_eq!(nested("NOT(", DEPTH_MAX / 2 + 1, ")"), deep(2));

        let joined = |count, by: &str| parse(&vec!["a=1"; count].join(by)).map(|_| ());
        let many = |at| Err(ExpressionError::TooMany { at });
        assert_eq!(joined(PARTS_MAX, " OR "), Ok(()));
        assert_eq!(joined(PARTS_MAX + 1, " OR "), many(PARTS_MAX * 7));
        assert_eq!(joined(PARTS_MAX + 1, " AND "), many(PARTS_MAX * 8));
        let list = |count| parse(&format!("a IN ({})", vec!["'x'"; count].join(","))).map(|_| ());
        assert_eq!(list(PARTS_MAX - 1), Ok(()), "the condition counts, too");
        assert_eq!(list(PARTS_MAX), many(6 + (PARTS_MAX - 1) * 4));

        let sized = |bytes: usize| parse(&format!("a = '{}'", "x".repeat(bytes - 6))).map(|_| ());
        let bytes = EXPRESSION_BYTES_MAX + 1;
        assert_eq!(sized(EXPRESSION_BYTES_MAX), Ok(()));
        assert_eq!(sized(bytes), Err(ExpressionError::TooLong { bytes }));
        let dense = format!("a='{}'", "x".repeat(EXPRESSION_BYTES_MAX - 4));
        let written = Err(ExpressionError::TooLong { bytes: EXPRESSION_BYTES_MAX + 2 });
        assert_eq!(parse(&dense).map(|_| ()), written, "what is kept has blanks");
        let huge = parse(&" ".repeat(1 << 20)).map(|_| ());
        assert_eq!(huge, Err(ExpressionError::TooLong { bytes: 1 << 20 }));
    }

    /// Whatever a text is, it is refused at a place within it, or is written and read again.
    fn survives(text: &str) -> bool {
        match parse(text) {
            Ok(condition) => {
                assert_eq!(parse(&condition.to_string()), Ok(condition), "{text}");
                return true;
            }
            Err(ExpressionError::TooLong { bytes }) => assert!(bytes > EXPRESSION_BYTES_MAX),
            Err(
                ExpressionError::TooMany { at }
                | ExpressionError::TooDeep { at }
                | ExpressionError::Unexpected { at, .. },
            ) => assert!(text.is_char_boundary(at), "{at} of {text}"),
        }
        false
    }

    #[test]
    fn no_bytes_do_harm() {
        let mut dice = Dice::new(5);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..dice.below(40)).map(|_| dice.below(256) as u8).collect();
            survives(&String::from_utf8_lossy(&bytes));
        }
        for _ in 0..300 {
            let bytes: Vec<u8> = (0..4_200).map(|_| dice.below(128) as u8).collect();
            survives(&String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn no_words_do_harm() {
        let words = [
            "a", "\"b\"", "'x'", "''", "1", "-2.5", "(", "(", ")", ")", ",", "=", "<>", "<", ">=",
            "AND", "OR", "NOT", "IS", "NULL", "IN", "BETWEEN", "CONTAINS", "TRUE", "FALSE", "'",
            "\"", "-", "!", "名",
        ];
        let mut dice = Dice::new(6);
        let mut read = 0;
        for _ in 0..200_000 {
            let count = 1 + dice.below(9);
            let text: Vec<&str> = (0..count).map(|_| sample::one(&mut dice, &words)).collect();
            read += u32::from(survives(&text.join(" ")));
        }
        assert!(read > 1_000, "{read} of them were expressions");
    }

    #[test]
    fn no_change_of_an_expression_does_harm() {
        let mut dice = Dice::new(7);
        let mut read = 0;
        for _ in 0..20_000 {
            let mut bytes = sample::condition(&mut dice, 2).to_string().into_bytes();
            for _ in 0..=dice.below(3) {
                let at = dice.below(bytes.len() as u64 + 1) as usize;
                let end = (at + dice.below(6) as usize).min(bytes.len());
                let with: Vec<u8> = match dice.below(4) {
                    0 => Vec::new(),
                    1 => vec![dice.below(256) as u8],
                    2 => vec![sample::one(&mut dice, b"()',\"=<>-. 5a")],
                    _ => bytes.get(at..end).unwrap_or_default().repeat(2),
                };
                bytes.splice(at..end, with);
            }
            read += u32::from(survives(&String::from_utf8_lossy(&bytes)));
        }
        assert!(read > 1_000, "{read} of them were expressions still");
    }
}
