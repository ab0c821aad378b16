//! Where `--from` says to begin: `start`, `end`, an offset, or `@` and a time.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use barrage_client::From as Begin;
use barrage_model::Offset;
use barrage_model::units::parse_duration_ms;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// See the module. Times without an offset are UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// Known from the text alone.
    At(Begin),
    /// So many milliseconds before now.
    Ago(u64),
}

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PositionError;

impl std::fmt::Display for PositionError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(
            "use start, end, an offset, or @TIME: @2026-11-21T08:00:00Z, @2026-11-21, \
             @-10m (ago), or @1795248000000 (milliseconds since 1970)",
        )
    }
}

impl std::error::Error for PositionError {}

impl Position {
    /// What the consumer understands.
    pub(crate) fn resolve(self) -> Begin {
        match self {
            Self::At(begin) => begin,
            Self::Ago(milliseconds) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
                let ago = i64::try_from(milliseconds).unwrap_or(i64::MAX);
                Begin::Time(now.saturating_sub(ago))
            }
        }
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        match (text, text.strip_prefix('@')) {
            ("start", _) => Ok(Self::At(Begin::Start)),
            ("end", _) => Ok(Self::At(Begin::End)),
            (_, Some(time)) => time_of(time).ok_or(PositionError),
            (offset, None) => {
                let offset = offset.parse().map_err(|_| PositionError)?;
                Ok(Self::At(Begin::Offset(Offset(offset))))
            }
        }
    }
}

fn time_of(text: &str) -> Option<Position> {
    if let Some(ago) = text.strip_prefix('-') {
        return parse_duration_ms(ago).ok().map(Position::Ago);
    }
    instant_ms(text).map(|at| Position::At(Begin::Time(at)))
}

/// An instant, in milliseconds since 1970. Without an offset it is UTC.
pub(crate) fn instant_ms(text: &str) -> Option<i64> {
    if let Ok(milliseconds) = text.parse() {
        return Some(milliseconds);
    }
    let timestamp = Timestamp::from_str(text).ok().or_else(|| {
        let local = DateTime::from_str(text).ok()?;
        Some(local.to_zoned(TimeZone::UTC).ok()?.timestamp())
    })?;
    Some(timestamp.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let time = |milliseconds| Some(Position::At(Begin::Time(milliseconds)));
        let table = [
            ("start", Some(Position::At(Begin::Start))),
            ("end", Some(Position::At(Begin::End))),
            ("17", Some(Position::At(Begin::Offset(Offset(17))))),
            ("@1795248000000", time(1_795_248_000_000)),
            ("@1970-01-01T00:00:01Z", time(1_000)),
            ("@1970-01-01T01:00:01+01:00", time(1_000)),
            ("@1970-01-01T00:00:01.250", time(1_250)),
            ("@1970-01-02", time(86_400_000)),
            ("@-10m", Some(Position::Ago(600_000))),
            ("", None),
            ("begin", None),
            ("-1", None),
            ("@", None),
            ("@noon", None),
            ("@-", None),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
