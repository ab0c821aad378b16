//! How long a record waits before it is delivered again.
//!
//! Owns: the delay after each delivery that failed, and how people write it.
//! Must never do: answer more than [`DELAY_MS_MAX`].
//! Invariants: what is printed parses back to an equal value.

use std::fmt;
use std::str::FromStr;

use crate::units::{UnitError, format_duration_ms, parse_duration_ms};

/// Longest wait: that of the longest lease.
pub const DELAY_MS_MAX: u64 = 12 * 60 * 60 * 1000;
/// Levels of a table, at most.
pub const LEVELS_MAX: usize = 64;

/// The name of RocketMQ's table.
const ROCKETMQ: &str = "rocketmq";

/// Delays of redelivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// Always the same, in milliseconds.
    Fixed(u64),
    /// Twice as long each time.
    Exponential {
        /// After the first delivery, in milliseconds.
        first_ms: u64,
        /// Never longer.
        ms_max: u64,
    },
    /// One by one, the last for all behind it; none means no wait.
    Levels(Vec<u64>),
}

impl Default for Backoff {
    /// A record that is given back may be had again at once.
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Backoff {
    /// The delays that `RocketMQ` consumers know: 16 of them, 10 s to 2 h (its levels 3 to 18).
    #[must_use]
    pub fn rocketmq() -> Self {
        let seconds =
            [10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200];
        Self::Levels(seconds.map(|seconds| seconds * 1_000).to_vec())
    }

    /// The wait after so many deliveries, in milliseconds.
    #[must_use]
    pub fn after(&self, deliveries: u16) -> u64 {
        let failed = u32::from(deliveries.saturating_sub(1));
        let delay_ms = match self {
            Self::Fixed(delay_ms) => *delay_ms,
            Self::Exponential { first_ms, ms_max } => {
                let factor = 1_u64.checked_shl(failed).unwrap_or(u64::MAX);
                first_ms.saturating_mul(factor).min(*ms_max)
            }
            Self::Levels(levels) => {
                let level = levels.get(failed as usize).or(levels.last());
                level.copied().unwrap_or(0)
            }
        };
        delay_ms.min(DELAY_MS_MAX)
    }

    /// Whether a table has as few levels as it may.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        match self {
            Self::Levels(levels) => levels.len() <= LEVELS_MAX,
            Self::Fixed(_) | Self::Exponential { .. } => true,
        }
    }
}

/// Why a text says no delays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no back-off: {cause}; write 10s, 1s..5m, 10s,30s,1m or rocketmq")]
pub struct BackoffError {
    text: String,
    cause: String,
}

impl FromStr for Backoff {
    type Err = BackoffError;

    /// Parses `10s` (always), `1s..5m` (doubling), `10s,30s,1m` (one by one) or `rocketmq`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = |cause: String| BackoffError { text: text.to_owned(), cause };
        let delay = |word: &str| {
            let delay_ms = parse_duration_ms(word.trim()).map_err(|e: UnitError| e.to_string())?;
            match delay_ms <= DELAY_MS_MAX {
                true => Ok(delay_ms),
                false => Err(format!("{word} is longer than {}", format_duration_ms(DELAY_MS_MAX))),
            }
        };
        if text == ROCKETMQ {
            return Ok(Self::rocketmq());
        }
        if let Some((first, last)) = text.split_once("..") {
            let (first_ms, ms_max) = (delay(first).map_err(&error)?, delay(last).map_err(&error)?);
            return match 0 < first_ms && first_ms <= ms_max {
                true => Ok(Self::Exponential { first_ms, ms_max }),
                false => Err(error("it must begin above 0 and not end below".to_owned())),
            };
        }
        let levels: Result<Vec<u64>, String> = text.split(',').map(delay).collect();
        match levels.map_err(&error)?.as_slice() {
            [only] => Ok(Self::Fixed(*only)),
            many if many.len() <= LEVELS_MAX => Ok(Self::Levels(many.to_vec())),
            many => Err(error(format!("{} levels, at most {LEVELS_MAX}", many.len()))),
        }
    }
}

impl fmt::Display for Backoff {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(delay_ms) => formatter.pad(&format_duration_ms(*delay_ms)),
            Self::Exponential { first_ms, ms_max } => {
                let (first, last) = (format_duration_ms(*first_ms), format_duration_ms(*ms_max));
                formatter.pad(&format!("{first}..{last}"))
            }
            levels if *levels == Self::rocketmq() => formatter.pad(ROCKETMQ),
            Self::Levels(levels) => match levels.as_slice() {
                [] => formatter.pad("0ms"),
                // One level alone would be read as a fixed delay: the same, said twice.
                [only] => formatter.pad(&format!("{0},{0}", format_duration_ms(*only))),
                many => {
                    let words: Vec<String> =
                        many.iter().map(|delay_ms| format_duration_ms(*delay_ms)).collect();
                    formatter.pad(&words.join(","))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays() {
        let after = |backoff: &Backoff| [1, 2, 3, 16, 17, u16::MAX].map(|n| backoff.after(n));
        assert_eq!(after(&Backoff::Fixed(5)), [5; 6]);
        let doubling = Backoff::Exponential { first_ms: 1_000, ms_max: 60_000 };
        assert_eq!(after(&doubling), [1_000, 2_000, 4_000, 60_000, 60_000, 60_000]);
        let levels = [10_000, 30_000, 60_000, 7_200_000, 7_200_000, 7_200_000];
        assert_eq!(after(&Backoff::rocketmq()), levels);
        assert_eq!(after(&Backoff::Levels(Vec::new())), [0; 6]);
        assert_eq!(Backoff::Fixed(u64::MAX).after(1), DELAY_MS_MAX);
        let endless = Backoff::Exponential { first_ms: u64::MAX, ms_max: u64::MAX };
        assert_eq!(endless.after(70), DELAY_MS_MAX);
        assert_eq!(Backoff::Fixed(1).after(0), 1);
    }

    #[test]
    fn what_people_write() {
        let table = [
            ("10s", Some(Backoff::Fixed(10_000))),
            ("0s", Some(Backoff::Fixed(0))),
            ("1s..5m", Some(Backoff::Exponential { first_ms: 1_000, ms_max: 300_000 })),
            ("10s,30s, 1m", Some(Backoff::Levels(vec![10_000, 30_000, 60_000]))),
            ("rocketmq", Some(Backoff::rocketmq())),
            ("", None),
            ("10", None),
            ("13h", None),
            ("5m..1s", None),
            ("0s..1s", None),
            ("1s,", None),
            ("soon", None),
        ];
        for (text, wanted) in table {
            let parsed = text.parse::<Backoff>();
            assert_eq!(parsed.clone().ok(), wanted, "{text}: {parsed:?}");
            if let Ok(backoff) = parsed {
                assert_eq!(backoff.to_string().parse(), Ok(backoff), "{text}");
            }
        }
    }
}
