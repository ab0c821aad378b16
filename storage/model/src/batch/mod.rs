//! The record batch: Kafka's format, version 2 (magic 2), the one format of records everywhere.
//!
//! Owns: building, checking, stamping and opening batches.
//! Must never do: copy or open a payload where only the envelope is asked for.
//! Invariants: the producer's CRC covers bytes [21, end) and travels unchanged to the consumer;
//! the two fields that a leader stamps (base offset, leader epoch) lie before it, outside the CRC.
//! All integers are big-endian, as in Kafka. `storage/model/README.md` has the drawing.

mod build;
mod compression;
mod error;
mod header;
mod records;
mod varint;
mod view;

pub use build::{BatchBuilder, NewRecord};
pub use compression::Compression;
pub use error::{BatchError, RecordFault};
pub use header::{BatchHeader, HEADER_SIZE, set_producer, stamp};
pub use records::{
    Content, DecompressionLimits, Header, Headers, HeadersIter, Record, Records, RecordsIter,
    records,
};
pub use view::{BatchView, Batches, batches};

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failing test may panic")]
mod tests;
