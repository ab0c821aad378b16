//! Headers of a record that the broker itself reads: what the filter of a queue group looks at, and
//! how long a record is wanted.
//!
//! Owns: their names. Every other header is the application's own; a filter may ask for it, too.
//! Must never do: give one name two meanings.

/// A tag of the record; a record with several tags has this header several times.
pub const TAG: &str = "tag";

/// The routing key: words between dots, as `stock.apple.new`. Of several the last one counts.
pub const ROUTING_KEY: &str = "routing-key";

/// How long queue groups are to have the record, in milliseconds from when it came into its
/// partition, as decimal digits; of several the last one counts. Who builds a batch without
/// [`crate::batch::BatchBuilder`] says in its attributes that it has such records.
pub const TTL_MS: &str = "ttl-ms";
