//! Names of headers and texts in quotes, as an expression writes them.
//!
//! Owns: which names may stand without quotes, and how a quote within quotes is written: twice.
//! Must never: write what is read as something else.

use std::fmt;

use super::token::Keyword;

/// What a header is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name(String);

impl Name {
    /// No header is called nothing.
    pub(super) fn new(name: &str) -> Option<Self> {
        (!name.is_empty()).then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_word = self.0.starts_with(begins_word) && self.0.chars().all(continues_word);
        if is_word && Keyword::named(&self.0).is_none() {
            return f.write_str(&self.0);
        }
        Quoted { text: &self.0, quote: '"' }.fmt(f)
    }
}

pub(super) fn begins_word(c: char) -> bool {
    c.is_ascii_alphabetic() || matches!(c, '_' | '$')
}

pub(super) fn continues_word(c: char) -> bool {
    begins_word(c) || c.is_ascii_digit()
}

/// A text between quotes.
pub(super) struct Quoted<'a> {
    pub(super) text: &'a str,
    pub(super) quote: char,
}

impl Quoted<'_> {
    /// Reads the quoted text that `text` begins with: its content, and the bytes it takes; none if
    /// it is not closed.
    pub(super) fn parse(text: &str) -> Option<(String, usize)> {
        let mut chars = text.char_indices().peekable();
        let (_, quote) = chars.next()?;
        let mut content = String::new();
        while let Some((at, c)) = chars.next() {
            if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
                return Some((content, at + quote.len_utf8()));
            }
            content.push(c);
        }
        None
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { text, quote } = self;
        write!(f, "{quote}")?;
        for (index, part) in text.split(*quote).enumerate() {
            if index > 0 {
                write!(f, "{quote}{quote}")?;
            }
            f.write_str(part)?;
        }
        write!(f, "{quote}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_quoted_where_it_has_to_be() {
        for (name, want) in [
            ("a", "a"),
            ("_a$9", "_a$9"),
            ("9a", "\"9a\""),
            ("x-death", "\"x-death\""),
            ("a.b", "\"a.b\""),
            ("a\"b", "\"a\"\"b\""),
            ("not", "\"not\""),
            ("Contains", "\"Contains\""),
            ("notes", "notes"),
            ("名", "\"名\""),
        ] {
            let written = Name::new(name).map(|name| name.to_string());
            assert_eq!(written.as_deref(), Some(want));
        }
        assert_eq!(Name::new(""), None);
    }

    #[test]
    fn what_is_quoted_is_read() {
        for (text, want) in [
            ("'a'", Some(("a", 3))),
            ("'a' b", Some(("a", 3))),
            ("''", Some(("", 2))),
            ("''''", Some(("'", 4))),
            ("'a''b'", Some(("a'b", 6))),
            ("\"a'b\"", Some(("a'b", 5))),
            ("'红'", Some(("红", 5))),
            ("'", None),
            ("'a''", None),
            ("", None),
        ] {
            let want = want.map(|(content, bytes)| (content.to_owned(), bytes));
            assert_eq!(Quoted::parse(text), want, "{text}");
            if let Some((content, bytes)) = want {
                let quote = text.chars().next().unwrap_or_default();
                let written = Quoted { text: &content, quote }.to_string();
                assert_eq!(Some(written.as_str()), text.get(..bytes));
            }
        }
    }
}
