//! How long a topic keeps its records.
//!
//! Owns: the retention setting, as text and as numbers.
//! Must never do: decide what is deleted; that is the log's and the broker's work.
//! Invariants: `None` in both fields means unlimited; printing and parsing are inverse.

use std::fmt;
use std::str::FromStr;

use crate::units::{ByteSize, UnitError, format_duration_ms, parse_duration_ms};

/// Limits of a topic's stored records; a record goes when any limit that is set is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retention {
    /// Records older than this, by log time, may go.
    pub time_ms: Option<u64>,
    /// The oldest records of a partition go when it holds more bytes than this.
    pub bytes: Option<u64>,
}

impl Retention {
    /// Records never go.
    pub const UNLIMITED: Self = Self { time_ms: None, bytes: None };

    /// Three days, any size.
    pub const DEFAULT: Self = Self { time_ms: Some(3 * 24 * 60 * 60 * 1_000), bytes: None };

    /// Whether nothing limits the records.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.time_ms.is_none() && self.bytes.is_none()
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    /// Parses `3d`, `10GiB`, both as `3d,10GiB`, or `unlimited`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().eq_ignore_ascii_case("unlimited") {
            return Ok(Self::UNLIMITED);
        }
        let mut retention = Self::UNLIMITED;
        for part in text.split(',').map(str::trim) {
            let known = match (parse_duration_ms(part), part.parse::<ByteSize>()) {
                // A bare number is refused: nobody can tell whether it means time or bytes.
                _ if part.bytes().all(|byte| byte.is_ascii_digit()) => None,
                // `5m` is five minutes and five mebibytes; time is what retention is asked in.
                (Ok(time_ms), _) => Some((&mut retention.time_ms, time_ms)),
                (_, Ok(size)) => Some((&mut retention.bytes, size.0)),
                (Err(UnitError::TooLarge { .. }), _) | (_, Err(UnitError::TooLarge { .. })) => {
                    return Err(RetentionError::TooLarge { text: text.to_owned() });
                }
                _ => None,
            };
            let Some((slot, value)) = known else {
                return Err(RetentionError::Unknown { text: text.to_owned() });
            };
            if value == 0 {
                return Err(RetentionError::Zero { text: text.to_owned() });
            }
            if slot.replace(value).is_some() {
                return Err(RetentionError::Twice { text: text.to_owned() });
            }
        }
        Ok(retention)
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match (self.time_ms.map(format_duration_ms), self.bytes.map(ByteSize)) {
            (None, None) => "unlimited".to_owned(),
            (Some(time), None) => time,
            (None, Some(size)) => size.to_string(),
            (Some(time), Some(size)) => format!("{time},{size}"),
        };
        formatter.pad(&text)
    }
}

/// Why a retention was not understood. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// Neither a time, a size nor `unlimited`.
    #[error("retention {text:?} is not a time like 3d, a size like 10GiB, or unlimited")]
    Unknown {
        /// What was read.
        text: String,
    },
    /// Two times or two sizes.
    #[error("retention {text:?} gives the same kind of limit twice")]
    Twice {
        /// What was read.
        text: String,
    },
    /// A limit of nothing would delete every record at once.
    #[error("retention {text:?} is zero; nothing would be kept")]
    Zero {
        /// What was read.
        text: String,
    },
    /// The value does not fit.
    #[error("retention {text:?} is too large; use unlimited")]
    TooLarge {
        /// What was read.
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_parses_and_prints() {
        let day = 86_400_000;
        let table = [
            ("3d", Some(3 * day), None),
            ("12h", Some(day / 2), None),
            ("10GiB", None, Some(10 << 30)),
            ("3d,10GiB", Some(3 * day), Some(10 << 30)),
            ("unlimited", None, None),
        ];
        for (text, time_ms, bytes) in table {
            let want = Retention { time_ms, bytes };
            assert_eq!(text.parse(), Ok(want), "{text}");
            assert_eq!(want.to_string(), text);
        }
        assert_eq!(Retention::default().to_string(), "3d");
    }

    #[test]
    fn bad_retention_says_why() {
        let owned = |text: &str| text.to_owned();
        let table = [
            ("3", RetentionError::Unknown { text: owned("3") }),
            ("", RetentionError::Unknown { text: owned("") }),
            ("forever", RetentionError::Unknown { text: owned("forever") }),
            ("1d,2d", RetentionError::Twice { text: owned("1d,2d") }),
            ("0d", RetentionError::Zero { text: owned("0d") }),
            ("99999999999999999d", RetentionError::TooLarge { text: owned("99999999999999999d") }),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Retention>(), Err(want));
        }
    }
}
