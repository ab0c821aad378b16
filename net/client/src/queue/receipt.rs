//! The receipt of a lease, and why one may do nothing.
//!
//! ```text
//!  PARTITION-OFFSET-TAG    three decimal numbers; opaque to everybody else
//! ```
//! Invariant: what is printed parses back to an equal value.

use std::fmt;
use std::str::FromStr;

use barrage_model::{Offset, PartitionId};
use barrage_wire::Settled;

use crate::error::ClientError;

/// Names one lease of one record. Printed it is a handle that another process may settle it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    pub(super) partition: PartitionId,
    pub(super) offset: Offset,
    pub(super) tag: u32,
}

impl Receipt {
    /// The record's partition.
    #[must_use]
    pub const fn partition(&self) -> PartitionId {
        self.partition
    }

    /// The record's offset.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.offset
    }
}

impl fmt::Display for Receipt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, offset, tag } = self;
        formatter.pad(&format!("{partition}-{offset}-{tag}"))
    }
}

/// A text is no receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no receipt: a receive prints them, as 0-17-1")]
pub struct ReceiptParseError;

impl FromStr for Receipt {
    type Err = ReceiptParseError;

    fn from_str(text: &str) -> Result<Self, ReceiptParseError> {
        let mut words = text.split('-');
        let mut next = || words.next().and_then(number).ok_or(ReceiptParseError);
        let (partition, offset, tag) = (next()?, next()?, next()?);
        if words.next().is_some() {
            return Err(ReceiptParseError);
        }
        let narrow = |number| u32::try_from(number).map_err(|_| ReceiptParseError);
        let (partition, tag) = (PartitionId(narrow(partition)?), narrow(tag)?);
        Ok(Self { partition, offset: Offset(offset), tag })
    }
}

/// Digits alone: `parse` would take a sign as well.
fn number(word: &str) -> Option<u64> {
    word.bytes().all(|byte| byte.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

/// Why a receipt was not settled.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettleError {
    /// The record is done, by this receipt or another, or is no longer kept.
    #[error("the record is settled already")]
    AlreadySettled,
    /// Its lease is over, or was given back.
    #[error("the record is not leased any more")]
    NotLeased,
    /// Somebody else has it now.
    #[error("the record was leased again since")]
    Stale,
    /// Nobody has ever leased it.
    #[error("the record was never leased")]
    NeverLeased,
    /// Its request failed; whether it was carried out may be unknown.
    #[error(transparent)]
    Request(#[from] ClientError),
}

/// What a server said of a receipt.
pub(super) const fn verdict(settled: Settled) -> Result<(), SettleError> {
    match settled {
        Settled::Done => Ok(()),
        Settled::AlreadySettled => Err(SettleError::AlreadySettled),
        Settled::NotLeased => Err(SettleError::NotLeased),
        Settled::Stale => Err(SettleError::Stale),
        Settled::NeverLeased => Err(SettleError::NeverLeased),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_parses_back() {
        let table = [
            ("0-17-1", Some((0, 17, 1))),
            ("4294967295-18446744073709551615-4294967295", Some((u32::MAX, u64::MAX, u32::MAX))),
            ("0-0-0", Some((0, 0, 0))),
            ("", None),
            ("0-17", None),
            ("0-17-", None),
            ("0-17-1-1", None),
            ("0-+17-1", None),
            ("-1-17-1", None),
            ("0-17-4294967296", None),
            ("4294967296-17-1", None),
            ("0-18446744073709551616-1", None),
            ("a-17-1", None),
        ];
        for (text, wanted) in table {
            let wanted = wanted.map(|(partition, offset, tag)| Receipt {
                partition: PartitionId(partition),
                offset: Offset(offset),
                tag,
            });
            assert_eq!(text.parse().ok(), wanted, "{text:?}");
            if let Some(receipt) = wanted {
                assert_eq!(receipt.to_string(), text);
            }
        }
    }
}
