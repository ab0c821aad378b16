//! Single values on the wire: integers little-endian, text and lists with a `u32` length in front.
//!
//! Must never trust a length: a claim longer than the bytes left is an error before anything is
//! allocated. Rows of a list carry their own size, so that a later version may add fields at the
//! end of a row and an older reader steps over them.

use barrage_model::{
    CoreId, GroupId, NodeId, Offset, PartitionId, PartitionKey, ProducerEpoch, ProducerId,
    Retention, ShardId, Term, TopicId,
};
use bytes::{BufMut, BytesMut};

/// Why bytes are not the message they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("needs {needed} more bytes, {left} are left")]
    Truncated {
        /// Bytes the field needs.
        needed: usize,
        /// Bytes there are.
        left: usize,
    },
    /// Bytes follow the last field.
    #[error("{count} bytes follow the last field")]
    Trailing {
        /// How many.
        count: usize,
    },
    /// Text is not UTF-8.
    #[error("text is not utf-8")]
    NotUtf8,
    /// A tag has no meaning.
    #[error("{what} cannot be {value}")]
    BadTag {
        /// The field.
        what: &'static str,
        /// What it held.
        value: u32,
    },
    /// The handshake does not begin with the magic number.
    #[error("magic number is {found:#010x}: the peer does not speak this protocol")]
    BadMagic {
        /// What stood there.
        found: u32,
    },
}

/// Reads fields off the front of borrowed bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes `count` bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, tail)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Truncated { needed: count, left: self.rest.len() });
        };
        self.rest = tail;
        Ok(head)
    }

    /// Takes everything that is left.
    pub(crate) const fn rest(&mut self) -> &'a [u8] {
        let all = self.rest;
        self.rest = &[];
        all
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, tail)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::Truncated { needed: N, left: self.rest.len() });
        };
        self.rest = tail;
        Ok(*head)
    }

    pub(crate) fn take<T: Field>(&mut self) -> Result<T, DecodeError> {
        T::take(self)
    }

    /// Ends a message: nothing may be left.
    pub(crate) const fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing { count: self.rest.len() })
    }
}

/// A value that knows its bytes.
pub(crate) trait Field: Sized {
    /// Appends the value.
    fn put(&self, out: &mut BytesMut);
    /// Takes the value off the front.
    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// Bytes of the shortest value: a list cannot claim more rows than that leaves room for.
    fn size_min() -> usize;
}

/// The bytes of the shortest value of a message's field.
pub(crate) fn size_min_of<M, T: Field>(_field: impl Fn(&M) -> &T) -> usize {
    T::size_min()
}

/// Writes the fields of a message in their order on the wire. Encode and decode share the one list.
macro_rules! fields {
    ($message:ident { $($field:ident),* $(,)? }) => {
        impl $crate::field::Field for $message {
            fn put(&self, out: &mut bytes::BytesMut) {
                $($crate::field::Field::put(&self.$field, out);)*
                let _ = out;
            }
            fn take(
                reader: &mut $crate::field::Reader<'_>,
            ) -> Result<Self, $crate::field::DecodeError> {
                $(let $field = reader.take()?;)*
                let _ = reader;
                Ok(Self { $($field),* })
            }
            fn size_min() -> usize {
                0 $(+ $crate::field::size_min_of(|message: &Self| &message.$field))*
            }
        }
    };
}
pub(crate) use fields;

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            fn put(&self, out: &mut BytesMut) {
                out.put_slice(&self.to_le_bytes());
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self::from_le_bytes(reader.array()?))
            }
            fn size_min() -> usize {
                size_of::<Self>()
            }
        }
    )*};
}
integers!(u8, u16, u32, u64, u128, i16, i32, i64);

macro_rules! newtypes {
    ($($id:ident),*) => {$(
        impl Field for $id {
            fn put(&self, out: &mut BytesMut) {
                self.0.put(out);
            }
            fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(reader.take()?))
            }
            fn size_min() -> usize {
                size_of::<Self>()
            }
        }
    )*};
}
newtypes!(
    GroupId,
    NodeId,
    ShardId,
    CoreId,
    Term,
    TopicId,
    PartitionId,
    Offset,
    ProducerId,
    ProducerEpoch
);

fields!(PartitionKey { topic, partition });
fields!(Retention { time_ms, bytes, ttl_ms, until_acked });

impl Field for bool {
    fn put(&self, out: &mut BytesMut) {
        out.put_u8(u8::from(*self));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.take::<u8>()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(DecodeError::BadTag { what: "boolean", value: u32::from(value) }),
        }
    }

    fn size_min() -> usize {
        1
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut BytesMut) {
        self.is_some().put(out);
        if let Some(value) = self {
            value.put(out);
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(if reader.take()? { Some(reader.take()?) } else { None })
    }

    fn size_min() -> usize {
        1
    }
}

impl Field for String {
    fn put(&self, out: &mut BytesMut) {
        length(self.len()).put(out);
        out.put_slice(self.as_bytes());
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count: u32 = reader.take()?;
        let bytes = reader.bytes(count as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
        Ok(text.to_owned())
    }

    fn size_min() -> usize {
        size_of::<u32>()
    }
}

/// A list: `u32` count, then per row `u32` size and the row.
impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut BytesMut) {
        length(self.len()).put(out);
        for row in self {
            let at = out.len();
            out.put_u32_le(0);
            row.put(out);
            let size = length(out.len() - at - ROW_PREFIX);
            if let Some(prefix) = out.get_mut(at..at + ROW_PREFIX) {
                prefix.copy_from_slice(&size.to_le_bytes());
            }
        }
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = reader.take::<u32>()? as usize;
        let left = reader.rest.len();
        let needed = count.saturating_mul(ROW_PREFIX + T::size_min());
        if needed > left {
            return Err(DecodeError::Truncated { needed, left });
        }
        // No more than there is room for: a row in memory is at most three times its shortest
        // bytes, while a list that grows by doubling may take six times.
        let mut rows = Self::with_capacity(count);
        for _ in 0..count {
            let size: u32 = reader.take()?;
            let mut row = Reader::new(reader.bytes(size as usize)?);
            rows.push(row.take()?);
        }
        Ok(rows)
    }

    fn size_min() -> usize {
        size_of::<u32>()
    }
}

const ROW_PREFIX: usize = size_of::<u32>();

/// A length as it stands on the wire. Nothing we hold is 4 GiB long: frames end at 16 MiB.
fn length(bytes: usize) -> u32 {
    let length = u32::try_from(bytes);
    assert!(length.is_ok(), "a field of {bytes} bytes cannot be sent");
    length.unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Field + PartialEq + std::fmt::Debug>(value: T, bytes: &[u8]) {
        let mut out = BytesMut::new();
        value.put(&mut out);
        assert_eq!(&out[..], bytes);
        let mut reader = Reader::new(&out);
        assert_eq!(reader.take::<T>(), Ok(value));
        assert_eq!(reader.finish(), Ok(()));
        for cut in 0..bytes.len() {
            let cut_short = Reader::new(&bytes[..cut]).take::<T>();
            assert!(cut_short.is_err(), "{cut} of {} bytes were enough", bytes.len());
        }
    }

    #[test]
    fn values_have_these_bytes() {
        check(0x0102_u16, &[2, 1]);
        check(0x0102_0304_u32, &[4, 3, 2, 1]);
        check(-2_i64, &[0xfe, 255, 255, 255, 255, 255, 255, 255]);
        check(true, &[1]);
        check(None::<u8>, &[0]);
        check(Some(7_u8), &[1, 7]);
        check("ab".to_owned(), &[2, 0, 0, 0, b'a', b'b']);
        check(vec![5_u16, 6], &[2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 2, 0, 0, 0, 6, 0]);
    }

    #[test]
    fn a_row_may_grow_and_old_readers_step_over_it() {
        let grown = [1, 0, 0, 0, 4, 0, 0, 0, 5, 0, 9, 9];
        let mut reader = Reader::new(&grown);
        assert_eq!(reader.take::<Vec<u16>>(), Ok(vec![5]));
        assert_eq!(reader.finish(), Ok(()));
    }

    #[test]
    fn claims_are_checked_before_anything_is_allocated() {
        let claim = [255, 255, 255, 255, 1, 2];
        assert!(Reader::new(&claim).take::<Vec<u16>>().is_err());
        // Two rows of two bytes and their sizes take twelve; there are eleven.
        let rows = [2, 0, 0, 0, 2, 0, 0, 0, 5, 0, 1, 0, 0, 0, 6];
        let missing = DecodeError::Truncated { needed: 12, left: 11 };
        assert_eq!(Reader::new(&rows).take::<Vec<u16>>(), Err(missing));
        assert!(Reader::new(&claim).take::<String>().is_err());
        let bad_text = [2, 0, 0, 0, 0xff, 0xfe];
        assert_eq!(Reader::new(&bad_text).take::<String>(), Err(DecodeError::NotUtf8));
        assert!(Reader::new(&[2]).take::<bool>().is_err());
    }
}
