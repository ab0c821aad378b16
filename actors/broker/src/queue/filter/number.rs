//! A number, as an expression names it and a header holds it.
//!
//! Owns: how numbers are read, ordered and written. Must never: allocate; call a value a number
//! that has no end (`inf`, `nan`).
//! Invariants: what is whole and fits in 64 bits is exact, everything else is a binary fraction;
//! each number has one form, so that equal numbers are equal values, and what is written is read
//! as the same number again. Numbers of either form are ordered exactly.

use std::cmp::Ordering;
use std::fmt;

/// Bytes of a number, at most; a longer text is none.
pub(super) const NUMBER_BYTES_MAX: usize = 64;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Number(Form);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Whole(i64),
    /// Finite, and either no whole number or one that does not fit.
    Real(f64),
}

/// What fits in 64 bits: `[-2^63, 2^63)`.
const WHOLE_START: f64 = i64::MIN as f64;
const WHOLE_END: f64 = -WHOLE_START;

impl Number {
    /// Reads all of `text`: a sign, digits, a point, an exponent, as in `-1.5e3`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > NUMBER_BYTES_MAX {
            return None;
        }
        if let Ok(whole) = text.parse() {
            return Some(Self(Form::Whole(whole)));
        }
        // The standard library also reads the names of what has no end.
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            return None;
        }
        let real: f64 = text.parse().ok().filter(|real: &f64| real.is_finite())?;
        let is_whole = real.fract() == 0.0 && (WHOLE_START..WHOLE_END).contains(&real);
        Some(Self(if is_whole { Form::Whole(real as i64) } else { Form::Real(real) }))
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0, other.0) {
            (Form::Whole(one), Form::Whole(other)) => one.cmp(&other),
            (Form::Real(one), Form::Real(other)) => one.total_cmp(&other),
            (Form::Whole(one), Form::Real(other)) => order(one, other),
            (Form::Real(one), Form::Whole(other)) => order(other, one).reverse(),
        }
    }
}

/// A whole number against one that is none, or does not fit: they are never equal.
fn order(whole: i64, real: f64) -> Ordering {
    if real < WHOLE_START {
        return Ordering::Greater;
    }
    // What lies above the range becomes its last number, which is below it all the same.
    if whole <= real.floor() as i64 { Ordering::Less } else { Ordering::Greater }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Form::Whole(whole) => write!(f, "{whole}"),
            // The shortest text of this number; an exponent keeps it short.
            Form::Real(real) => write!(f, "{real:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::dice::Dice;

    #[test]
    fn numbers_are_read_and_written() {
        for (text, want) in [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("+7", "7"),
            ("007", "7"),
            ("5.0", "5"),
            ("5.", "5"),
            (".5", "0.5"),
            ("-.5e1", "-5"),
            ("1e3", "1000"),
            ("1E-3", "0.001"),
            ("1.25", "1.25"),
            ("9223372036854775807", "9223372036854775807"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775808", "9.223372036854776e18"),
            ("1e300", "1e300"),
            ("1e-400", "0"),
        ] {
            let number = Number::parse(text);
            let written = number.map(|number| number.to_string()).unwrap_or_default();
            assert_eq!(written, want, "{text}");
            assert_eq!(Number::parse(&written), number, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_read() {
        let long = "0".repeat(NUMBER_BYTES_MAX + 1);
        for text in [
            "", " 1", "1 ", "+", "-", ".", "e5", ".e5", "1e", "1e+", "1.2.3", "1_000", "0x10",
            "5L", "1.5f", "inf", "-inf", "infinity", "nan", "NaN", "1e400", "-1e400", "--1", "+-1",
            "٣", "1\0", &long,
        ] {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_ordered_exactly() {
        let ascending = [
            "-1e300",
            "-9223372036854777856",
            "-9223372036854775808",
            "-9007199254740993",
            "-9007199254740992",
            "-1.5",
            "-1",
            "-0.5",
            "0",
            "1e-300",
            "0.5",
            "1",
            "1.5",
            "2",
            "9007199254740992",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "1e300",
        ];
        for (one, low) in ascending.iter().enumerate() {
            for (other, high) in ascending.iter().enumerate() {
                let order = Number::parse(low).cmp(&Number::parse(high));
                assert_eq!(order, one.cmp(&other), "{low} {high}");
            }
        }
    }

    #[test]
    fn any_number_is_written_as_it_is_read() {
        let mut dice = Dice::new(2);
        for _ in 0..20_000 {
            let bits = dice.below(1 << 31) << 33 | dice.below(1 << 31) << 2 | dice.below(4);
            let text = format!("{:?}", f64::from_bits(bits));
            let number = Number::parse(&text);
            assert_eq!(number.is_some(), f64::from_bits(bits).is_finite(), "{text}");
            let written = number.map(|number| number.to_string());
            assert_eq!(written.as_deref().and_then(Number::parse), number, "{text}");
        }
    }
}
