//! The expressions of a TOML file, one after the other: a table's header, or a key with its value.
//!
//! Owns: where an expression ends, and how large it may be. Must never: read what it means; that
//! is left to the parser, which gets one expression at a time, because its tree of a whole file
//! takes hundreds of bytes for each of the file's.

use std::ops::Range;

use toml_parser::Source;
use toml_parser::lexer::{Lexer, TokenKind};

/// An inline table with every setting in it has half as many.
const TOKENS_MAX: usize = 256;
/// Dots and opening brackets: each is a table to the parser, of almost a kilobyte.
const LEVELS_MAX: usize = 32;

/// Cuts a text into expressions.
pub(super) struct Expressions<'a> {
    text: &'a str,
    lexer: Lexer<'a>,
}

/// A part of the text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expression<'a> {
    pub(super) text: &'a str,
    /// Where it begins.
    pub(super) at: usize,
    /// Whether it is a table's header.
    pub(super) is_header: bool,
}

/// An expression that is larger than any setting, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub(super) at: usize,
}

impl<'a> Expressions<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, lexer: Source::new(text).lex() }
    }

    /// The next one, to the end of a line that is not within brackets.
    pub(super) fn next(&mut self) -> Option<Result<Expression<'a>, TooLarge>> {
        let mut span: Option<Range<usize>> = None;
        let (mut depth, mut tokens, mut levels) = (0_usize, 0, 0);
        let mut is_header = None;
        for token in self.lexer.by_ref() {
            let (start, end) = (token.span().start(), token.span().end());
            let begin = span.get_or_insert(start..end);
            begin.end = end;
            let at = begin.start;
            tokens += 1;
            match token.kind() {
                TokenKind::Dot => levels += 1,
                TokenKind::LeftSquareBracket | TokenKind::LeftCurlyBracket => {
                    levels += 1;
                    depth += 1;
                }
                TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket => {
                    depth = depth.saturating_sub(1);
                }
                _ => {}
            }
            if token.kind() != TokenKind::Whitespace {
                is_header.get_or_insert(token.kind() == TokenKind::LeftSquareBracket);
            }
            if tokens > TOKENS_MAX || levels > LEVELS_MAX {
                return Some(Err(TooLarge { at }));
            }
            if depth == 0 && token.kind() == TokenKind::Newline {
                break;
            }
        }
        let span = span.filter(|span| !span.is_empty())?;
        let at = span.start;
        let text = self.text.get(span)?;
        Some(Ok(Expression { text, at, is_header: is_header.unwrap_or(false) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Result<Vec<(&str, bool)>, TooLarge> {
        let mut expressions = Expressions::new(text);
        let mut cut = Vec::new();
        while let Some(next) = expressions.next() {
            let Expression { text: own, at, is_header } = next?;
            assert_eq!(text.get(at..at + own.len()), Some(own));
            cut.push((own, is_header));
        }
        Ok(cut)
    }

    #[test]
    fn expressions_end_with_their_line() {
        let table: [(&str, &[(&str, bool)]); 6] = [
            ("", &[]),
            ("\n# x\n", &[("\n", false), ("# x\n", false)]),
            ("a = 1\r\n b.c = '#x'", &[("a = 1\r\n", false), (" b.c = '#x'", false)]),
            (" [a.b] # y\nc = 1\n", &[(" [a.b] # y\n", true), ("c = 1\n", false)]),
            ("a = [\n1,\n]\nb = 2", &[("a = [\n1,\n]\n", false), ("b = 2", false)]),
            ("a = \"\"\"\nb\n\"\"\"\nc", &[("a = \"\"\"\nb\n\"\"\"\n", false), ("c", false)]),
        ];
        for (text, want) in table {
            assert_eq!(cut(text).as_deref(), Ok(want), "{text:?}");
        }
    }

    #[test]
    fn no_expression_is_larger_than_a_setting() {
        let fits = format!("\n{}a = 1", "a.".repeat(LEVELS_MAX));
        assert_eq!(cut(&fits).map(|cut| cut.len()), Ok(2));
        for text in [
            format!("\n{}a = 1", "a.".repeat(LEVELS_MAX + 1)),
            format!("\na = {}", "[".repeat(LEVELS_MAX + 1)),
            format!("\na = [{}", "1,".repeat(TOKENS_MAX)),
        ] {
            assert_eq!(cut(&text), Err(TooLarge { at: 1 }));
        }
    }
}
