//! Times among a queue group's settings, as they are written.

use barrage_model::group::{MAX_AGE_MS_MIN, VISIBILITY_MS_MAX, VISIBILITY_MS_MIN};
use barrage_model::units::parse_duration_ms;

/// A lease in milliseconds.
pub(crate) fn parse_visibility(text: &str) -> Result<u64, String> {
    let visibility_ms = parse_duration_ms(text).map_err(|error| error.to_string())?;
    match (VISIBILITY_MS_MIN..=VISIBILITY_MS_MAX).contains(&visibility_ms) {
        true => Ok(visibility_ms),
        false => Err("a record is leased for 1s to 12h".to_owned()),
    }
}

/// How old a record may be that a group gets, in milliseconds; any without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MaxAge(pub(super) Option<u64>);

pub(super) fn parse_max_age(text: &str) -> Result<MaxAge, String> {
    if text.eq_ignore_ascii_case("unlimited") {
        return Ok(MaxAge(None));
    }
    match parse_duration_ms(text).map_err(|error| error.to_string())? {
        max_age_ms if max_age_ms >= MAX_AGE_MS_MIN => Ok(MaxAge(Some(max_age_ms))),
        _ => Err("a record is delivered for at least 1s; unlimited, for ever".to_owned()),
    }
}
