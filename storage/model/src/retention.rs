//! How long a topic keeps its records.
//!
//! Owns: the retention setting, as text and as numbers.
//! Must never do: decide what is deleted; that is the log's and the broker's work.
//! Invariants: `None` in both fields means unlimited; printing and parsing are inverse.

use std::fmt;
use std::str::FromStr;

use crate::units::{ByteSize, UnitError, format_duration_ms, parse_duration_ms};

/// Limits of a topic's stored records; a record goes when any limit that is set is passed, except
/// that its time to live only ends that queue groups are given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Retention {
    /// Records older than this, by log time, may go.
    pub time_ms: Option<u64>,
    /// The oldest records of a partition go when it holds more bytes than this.
    pub bytes: Option<u64>,
    /// Records older than this, by log time, are given to no queue group any more: they go to its
    /// dead-letter topic, where it has one.
    pub ttl_ms: Option<u64>,
    /// Records that every queue group of the topic is done with may go. While there is no such
    /// group, none go because of this.
    pub until_acked: bool,
}

impl Retention {
    /// Records never go.
    pub const UNLIMITED: Self =
        Self { time_ms: None, bytes: None, ttl_ms: None, until_acked: false };

    /// Three days, any size.
    pub const DEFAULT: Self = Self { time_ms: Some(3 * 24 * 60 * 60 * 1_000), ..Self::UNLIMITED };

    /// Whether nothing takes the records away.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.time_ms.is_none() && self.bytes.is_none() && !self.until_acked
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl FromStr for Retention {
    type Err = RetentionError;

    /// Parses `unlimited`, or any of `3d`, `10GiB`, `until-acked` and `ttl=10m`, as
    /// `3d,10GiB,until-acked,ttl=10m`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut retention = Self::UNLIMITED;
        let mut is_unlimited = false;
        for part in text.split(',').map(str::trim) {
            if part.eq_ignore_ascii_case("unlimited") {
                is_unlimited = true;
                continue;
            }
            if part.eq_ignore_ascii_case(UNTIL_ACKED) {
                if std::mem::replace(&mut retention.until_acked, true) {
                    return Err(RetentionError::Twice { text: text.to_owned() });
                }
                continue;
            }
            if let Some(ttl) = part.strip_prefix(TTL) {
                set_ttl(&mut retention, ttl, text)?;
                continue;
            }
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
        match is_unlimited && !retention.is_unlimited() {
            true => Err(RetentionError::Unknown { text: text.to_owned() }),
            false => Ok(retention),
        }
    }
}

const UNTIL_ACKED: &str = "until-acked";
const TTL: &str = "ttl=";

fn set_ttl(retention: &mut Retention, ttl: &str, text: &str) -> Result<(), RetentionError> {
    let ttl_ms = match parse_duration_ms(ttl) {
        Ok(0) => return Err(RetentionError::Zero { text: text.to_owned() }),
        // A bare number is refused here, too.
        Ok(ttl_ms) if !ttl.bytes().all(|byte| byte.is_ascii_digit()) => ttl_ms,
        Err(UnitError::TooLarge { .. }) => {
            return Err(RetentionError::TooLarge { text: text.to_owned() });
        }
        _ => return Err(RetentionError::Unknown { text: text.to_owned() }),
    };
    match retention.ttl_ms.replace(ttl_ms) {
        None => Ok(()),
        Some(_) => Err(RetentionError::Twice { text: text.to_owned() }),
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            self.time_ms.map(format_duration_ms),
            self.bytes.map(|bytes| ByteSize(bytes).to_string()),
            self.until_acked.then(|| UNTIL_ACKED.to_owned()),
            self.ttl_ms.map(|ttl_ms| format!("{TTL}{}", format_duration_ms(ttl_ms))),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        formatter.pad(&if parts.is_empty() { "unlimited".to_owned() } else { parts.join(",") })
    }
}

/// Why a retention was not understood. Each is the caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RetentionError {
    /// None of what a retention is made of.
    #[error(
        "retention {text:?} is not a time like 3d, a size like 10GiB, until-acked, a time to live \
         like ttl=10m, or unlimited"
    )]
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
            let want = Retention { time_ms, bytes, ..Retention::UNLIMITED };
            assert_eq!(text.parse(), Ok(want), "{text}");
            assert_eq!(want.to_string(), text);
            let more = if text == "unlimited" { String::new() } else { format!("{text},") };
            let more = format!("{more}until-acked,ttl=90s");
            let want = Retention { ttl_ms: Some(90_000), until_acked: true, ..want };
            assert_eq!(more.parse(), Ok(want), "{more}");
            assert_eq!(want.to_string(), more);
        }
        assert_eq!(Retention::default().to_string(), "3d");
        assert_eq!("unlimited,ttl=90s".parse(), "ttl=90s".parse::<Retention>());
    }

    #[test]
    fn bad_retention_says_why() {
        let owned = |text: &str| text.to_owned();
        let table = [
            ("3", RetentionError::Unknown { text: owned("3") }),
            ("", RetentionError::Unknown { text: owned("") }),
            ("unlimited,3d", RetentionError::Unknown { text: owned("unlimited,3d") }),
            ("forever", RetentionError::Unknown { text: owned("forever") }),
            ("1d,2d", RetentionError::Twice { text: owned("1d,2d") }),
            ("ttl=5", RetentionError::Unknown { text: owned("ttl=5") }),
            ("ttl=0s", RetentionError::Zero { text: owned("ttl=0s") }),
            ("ttl=5s,ttl=6s", RetentionError::Twice { text: owned("ttl=5s,ttl=6s") }),
            ("until-acked,until-acked", {
                RetentionError::Twice { text: owned("until-acked,until-acked") }
            }),
            ("0d", RetentionError::Zero { text: owned("0d") }),
            ("99999999999999999d", RetentionError::TooLarge { text: owned("99999999999999999d") }),
        ];
        for (text, want) in table {
            assert_eq!(text.parse::<Retention>(), Err(want));
        }
    }
}
