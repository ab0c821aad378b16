//! Patterns of routing keys, as AMQP and CMQ have them.
//!
//! ```text
//!   stock.*.new    stock.apple.new             words between dots; * is one word, whatever it is
//!   stock.#        stock, stock.apple.new.1    # is any number of words, none too
//! ```
//!
//! Owns: the rule of routing keys. Must never: take time that is exponential in the count of `#`.
//! Invariants: a group has 1 to 64 patterns of at most [`KEY_BYTES_MAX`] bytes; to match one costs
//! at most the words of the key times those of the pattern, and no memory.

use std::fmt;
use std::str::Split;

use super::alternatives::{self, Alternatives, AlternativesError};

/// Bytes of a routing key and of a pattern, at most: AMQP's short string.
pub(crate) const KEY_BYTES_MAX: usize = 255;
const ONE: &str = "*";
const MANY: &str = "#";

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patterns(Alternatives);

impl Patterns {
    /// Takes patterns one by one; an empty one is that of a key without words.
    pub(super) fn new<'a>(
        patterns: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, AlternativesError> {
        Alternatives::new(patterns, KEY_BYTES_MAX).map(Self)
    }

    /// Reads patterns as they are written.
    pub(super) fn parse(line: &str) -> Result<Self, AlternativesError> {
        Self::new(alternatives::split(line))
    }

    /// Whether a pattern is that of this key. A key that is too long has none.
    pub(super) fn match_key(&self, key: &str) -> bool {
        key.len() <= KEY_BYTES_MAX && self.0.iter().any(|pattern| matches(pattern, key))
    }
}

impl fmt::Display for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Every `#` takes as few words as may be. Where what follows does not fit, the last one takes one
/// more: what those before it took need never be changed, as the last one could take that as well.
fn matches(pattern: &str, key: &str) -> bool {
    let (mut wanted, mut had) = (words(pattern), words(key));
    // Behind the last `#`: of the pattern, and of the key.
    let mut behind: Option<(Split<'_, char>, Split<'_, char>)> = None;
    loop {
        let here = had.clone();
        match (wanted.next(), had.next()) {
            (Some(MANY), _) => {
                behind = Some((wanted.clone(), here.clone()));
                had = here;
            }
            (None, None) => return true,
            (Some(ONE), Some(_)) => {}
            (Some(want), Some(word)) if want == word => {}
            // The key is too short already.
            (Some(_), None) => return false,
            _ => {
                let Some((pattern, key)) = &mut behind else { return false };
                key.next();
                (wanted, had) = (pattern.clone(), key.clone());
            }
        }
    }
}

/// The words of a key or a pattern; none in an empty one.
fn words(text: &str) -> Split<'_, char> {
    let mut words = text.split('.');
    if text.is_empty() {
        words.next();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::dice::Dice;
    use crate::queue::filter::sample;

    #[test]
    fn keys_match_patterns() {
        for (pattern, key, want) in [
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.b", "a", false),
            ("*", "a", true),
            ("*", "", false),
            ("*", "a.b", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a..c", true),
            ("a.*.c", "a.c", false),
            ("#", "", true),
            ("#", "a", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("a.#", "ab", false),
            ("#.c", "c", true),
            ("#.c", "a.b.c", true),
            ("#.c", "a.c.b", false),
            ("a.#.c", "a.c", true),
            ("a.#.c", "a.c.b.c", true),
            ("#.b.#", "a.b.c", true),
            ("#.b.#", "a.c", false),
            ("#.#", "", true),
            ("*.#", "", false),
            ("#.*", "a.b", true),
            ("#.a.#.b", "a.b.a.c.b", true),
            ("#.a.*.b", "a.b.a.a.b", true),
            ("#.a.*.b", "a.a.b.a.b", false),
            ("", "", true),
            ("", "a", false),
            (".", ".", true),
            (".", "", false),
            ("*.*", ".", true),
            ("a.", "a", false),
            ("a*", "ab", false),
            ("a*.#b", "a*.#b", true),
            ("股.*", "股.苹果", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern, key), want, "{pattern} {key}");
        }
    }

    /// As the rule is said, and exponential.
    fn matches_by_trying(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), None) => matches_by_trying(rest, &[]),
            (Some((&"#", rest)), Some((_, behind))) => {
                matches_by_trying(rest, key) || matches_by_trying(pattern, behind)
            }
            (Some((want, rest)), Some((word, behind))) if *want == "*" || want == word => {
                matches_by_trying(rest, behind)
            }
            _ => false,
        }
    }

    #[test]
    fn trying_everything_comes_to_the_same() {
        let mut dice = Dice::new(1);
        let mut matched = 0;
        for _ in 0..60_000 {
            let mut roll = |sides: &[&'static str]| {
                let count = dice.below(8);
                (0..count).map(|_| sample::one(&mut dice, sides)).collect::<Vec<&str>>()
            };
            let pattern = roll(&["a", "b", "*", "#", "#"]);
            let key = roll(&["a", "b", "c"]);
            let want = matches_by_trying(&pattern, &key);
            matched += u32::from(want);
            let (pattern, key) = (pattern.join("."), key.join("."));
            assert_eq!(matches(&pattern, &key), want, "{pattern} {key}");
        }
        assert!(matched > 10_000, "{matched}");
        assert!(matched < 50_000, "{matched}");
    }

    #[test]
    fn a_key_of_many_words_is_matched_at_once() {
        // Each of the 63 `#` could end at each of the 128 words.
        let pattern = format!("{}b", "#.a.".repeat(63));
        assert!(!matches(&pattern, &"a.".repeat(127)));
        assert!(matches(&pattern, &format!("{}b", "a.".repeat(127))));
    }

    #[test]
    fn any_of_the_patterns_will_do() {
        let patterns = Patterns::new(["b.#", "a.*"]);
        let written = patterns.as_ref().map(ToString::to_string);
        assert_eq!(written, Ok("a.* || b.#".to_owned()));
        assert_eq!(Patterns::parse("b.# ||a.*"), patterns);
        let match_key = |key| patterns.as_ref().map(|patterns| patterns.match_key(key));
        for (key, want) in [("a.x", true), ("b", true), ("a", false), ("", false)] {
            assert_eq!(match_key(key), Ok(want), "{key}");
        }
    }

    #[test]
    fn what_is_too_long_matches_nothing() {
        let all = Patterns::parse("#");
        let match_key = |key: &str| all.as_ref().map(|patterns| patterns.match_key(key));
        assert_eq!(match_key(&"a".repeat(KEY_BYTES_MAX)), Ok(true));
        assert_eq!(match_key(&"a".repeat(KEY_BYTES_MAX + 1)), Ok(false));
        let bytes_max = KEY_BYTES_MAX;
        let too_long = AlternativesError::TooLong { index: 1, bytes: 256, bytes_max };
        assert_eq!(Patterns::new(["a", &"#".repeat(256)]), Err(too_long));
        assert_eq!(Patterns::new([]), Err(AlternativesError::None));
        assert!(Patterns::parse("").is_ok_and(|patterns| patterns.match_key("")));
    }
}
