//! Sizes and durations as people write them: `16MiB`, `30s`, `3d`, `500ms`.
//!
//! Owns: parsing and printing of quantities with a unit.
//! Must never do: guess a unit. A bare number is bytes for a size and an error for a duration.
//! Invariants: what is printed parses back to the same value; nothing overflows silently.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A count of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Units of size; the binary ones first, since printing picks the first that divides the value.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Units of duration in milliseconds, largest first.
const DURATION_UNITS: [(&str, u64); 6] = [
    ("w", 7 * 24 * 60 * 60 * 1_000),
    ("d", 24 * 60 * 60 * 1_000),
    ("h", 60 * 60 * 1_000),
    ("m", 60 * 1_000),
    ("s", 1_000),
    ("ms", 1),
];

impl ByteSize {
    /// `count` KiB.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// `count` MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// `count` GiB.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }

    /// The size as a length in memory, bounded by the address space.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    /// Parses `16MiB`, `16 mib`, `10GB`, `1.5GiB` or a bare number of bytes. Case is ignored.
    /// A lone `K`, `M`, `G` or `T` is binary, as in most tools that take sizes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, unit) = split(text)?;
        let factor = match unit.to_ascii_lowercase().as_str() {
            "" => 1,
            "k" => 1 << 10,
            "m" => 1 << 20,
            "g" => 1 << 30,
            "t" => 1 << 40,
            other => lookup(&SIZE_UNITS, other)
                .ok_or_else(|| UnitError::unknown(text, "B, KiB, MiB, GiB, TiB"))?,
        };
        scale(text, number, factor).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found =
            SIZE_UNITS.iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size));
        match found {
            Some((name, size)) => formatter.pad(&format!("{}{name}", self.0 / size)),
            None => formatter.pad("0B"),
        }
    }
}

/// Parses `500ms`, `30s`, `5m`, `12h`, `3d`, `1w` or `1.5s`. A number without a unit is an error.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    parse_duration_ms(text).map(Duration::from_millis)
}

/// As [`parse_duration`], in milliseconds.
pub fn parse_duration_ms(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text)?;
    let factor = lookup(&DURATION_UNITS, &unit.to_ascii_lowercase())
        .ok_or_else(|| UnitError::unknown(text, "ms, s, m, h, d, w"))?;
    scale(text, number, factor)
}

/// Prints milliseconds with the largest unit that loses nothing: `3d`, `90s`, `1500ms`.
#[must_use]
pub fn format_duration_ms(duration_ms: u64) -> String {
    // Weeks are understood but not printed: people say 30d, not 4w and two days.
    let units = DURATION_UNITS.iter().filter(|(name, _)| *name != "w");
    for (name, size) in units {
        if duration_ms >= *size && duration_ms.is_multiple_of(*size) {
            return format!("{}{name}", duration_ms / size);
        }
    }
    "0ms".to_owned()
}

/// Why a quantity was not understood. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// The text does not begin with a number.
    #[error("{text:?} does not begin with a number")]
    NotANumber {
        /// What was read.
        text: String,
    },
    /// The unit is missing or unknown.
    #[error("{text:?} has no known unit; use one of {units}")]
    UnknownUnit {
        /// What was read.
        text: String,
        /// The units that are understood here.
        units: &'static str,
    },
    /// The value does not fit.
    #[error("{text:?} is too large")]
    TooLarge {
        /// What was read.
        text: String,
    },
}

impl UnitError {
    fn unknown(text: &str, units: &'static str) -> Self {
        Self::UnknownUnit { text: text.to_owned(), units }
    }
}

/// Splits `16 MiB` into `16` and `MiB`.
fn split(text: &str) -> Result<(&str, &str), UnitError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(UnitError::NotANumber { text: text.to_owned() });
    }
    Ok((number, unit.trim()))
}

fn lookup(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor)
}

/// Multiplies a decimal number such as `1.5` by `factor`, in integers, rounding down.
fn scale(text: &str, number: &str, factor: u64) -> Result<u64, UnitError> {
    // Nine digits after the point are more than any unit here can tell apart in practice.
    const FRACTION_DIGITS_MAX: usize = 9;
    let not_a_number = || UnitError::NotANumber { text: text.to_owned() };
    let too_large = || UnitError::TooLarge { text: text.to_owned() };

    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') || fraction.len() > FRACTION_DIGITS_MAX {
        return Err(not_a_number());
    }
    let whole: u128 = whole.parse().map_err(|_| too_large())?;
    let part: u128 = match fraction {
        "" => 0,
        digits => digits.parse().map_err(|_| not_a_number())?,
    };
    let base = fraction.bytes().fold(1_u128, |base, _| base * 10);
    let bytes = whole
        .checked_mul(u128::from(factor))
        .and_then(|value| value.checked_add(part * u128::from(factor) / base))
        .ok_or_else(too_large)?;
    u64::try_from(bytes).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse() {
        let table = [
            ("0", 0),
            ("4096", 4096),
            ("16MiB", 16 << 20),
            ("16 mib", 16 << 20),
            ("16M", 16 << 20),
            ("10GB", 10_000_000_000),
            ("1.5GiB", 3 << 29),
            ("1TiB", 1 << 40),
            (" 7B ", 7),
        ];
        for (text, want) in table {
            assert_eq!(text.parse(), Ok(ByteSize(want)), "{text}");
        }
    }

    #[test]
    fn bad_sizes_are_errors() {
        for text in ["", "MiB", "-1", "1.2.3MiB", "16XiB", "99999999999999999999", "99999999TiB"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_print_exactly_and_parse_back() {
        for (size, want) in
            [(0, "0B"), (1, "1B"), (4096, "4KiB"), (3 << 29, "1536MiB"), (1000, "1KB")]
        {
            assert_eq!(ByteSize(size).to_string(), want);
            assert_eq!(want.parse(), Ok(ByteSize(size)));
        }
    }

    #[test]
    fn durations_parse() {
        let table = [
            ("500ms", 500),
            ("30s", 30_000),
            ("1.5s", 1_500),
            ("5m", 300_000),
            ("12h", 43_200_000),
            ("3d", 259_200_000),
            ("1w", 604_800_000),
            ("0s", 0),
        ];
        for (text, want) in table {
            assert_eq!(parse_duration_ms(text), Ok(want), "{text}");
        }
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn bad_durations_are_errors() {
        for text in ["", "30", "s", "3 years", "-3d", "99999999999999999d"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_print_and_parse_back() {
        for (ms, want) in [(0, "0ms"), (1_500, "1500ms"), (90_000, "90s"), (259_200_000, "3d")] {
            assert_eq!(format_duration_ms(ms), want);
            assert_eq!(parse_duration_ms(want), Ok(ms));
        }
    }
}
