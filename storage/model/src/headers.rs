//! Headers of a record that the broker itself reads: what the filter of a queue group looks at.
//!
//! Owns: their names. Every other header is the application's own; a filter may ask for it, too.
//! Must never do: give one name two meanings.

/// A tag of the record; a record with several tags has this header several times.
pub const TAG: &str = "tag";

/// The routing key: words between dots, as `stock.apple.new`. Of several the last one counts.
pub const ROUTING_KEY: &str = "routing-key";
