//! What a node tells at first contact: which port each of its cores is reached at.
//!
//! Owns: those bytes, and which core carries a shard. Pure.
//!
//! ```text
//! | u32 CRC32C of the rest | u16 core count | per core: u16 port |
//! ```
//! Who the node is stands in the header of the frame.
//!
//! Must never: take a node without cores, or a core without a port.

use barrage_model::{CoreId, ShardId};
use bytes::{BufMut, Bytes, BytesMut};

/// How a node's cores are reached: their ports, at the address of the node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Contact {
    ports: Vec<u16>,
}

/// Why bytes are no contact.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContactError {
    /// They were altered on their way, or are cut off.
    #[error("the contact is damaged")]
    Damaged,
    /// No cores, too many, or one without a port.
    #[error("the contact makes no sense")]
    Senseless,
}

impl Contact {
    /// Most cores of a node.
    pub const CORES_MAX: usize = 4096;
    const HEAD_SIZE: usize = size_of::<u32>() + size_of::<u16>();
    /// Bytes of the largest contact.
    pub const SIZE_MAX: usize = Self::HEAD_SIZE + Self::CORES_MAX * size_of::<u16>();

    /// The ports of a node's cores, in the order of the cores.
    ///
    /// # Errors
    /// When there is none, or more than [`Contact::CORES_MAX`], or a port is 0.
    pub fn new(ports: Vec<u16>) -> Result<Self, ContactError> {
        let is_sound = !ports.is_empty() && ports.len() <= Self::CORES_MAX && !ports.contains(&0);
        if is_sound { Ok(Self { ports }) } else { Err(ContactError::Senseless) }
    }

    /// The core that carries a shard's replica, if the node has one.
    #[must_use]
    pub fn core_of(&self, shard: ShardId) -> CoreId {
        let core = shard.0 as usize % self.ports.len();
        // Below 4096.
        CoreId(core as u16)
    }

    /// The port of a core.
    #[must_use]
    pub fn port(&self, core: CoreId) -> Option<u16> {
        self.ports.get(usize::from(core.0)).copied()
    }

    /// How many cores the node has.
    #[must_use]
    pub const fn core_count(&self) -> usize {
        self.ports.len()
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut body = BytesMut::with_capacity(Self::HEAD_SIZE + self.ports.len() * 2);
        body.put_u32_le(0);
        // At most 4096.
        body.put_u16_le(self.ports.len() as u16);
        self.ports.iter().for_each(|port| body.put_u16_le(*port));
        let (crc, rest) = body.split_at_mut(size_of::<u32>());
        crc.copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
        body.freeze()
    }

    /// Reads the whole of `bytes`.
    ///
    /// # Errors
    /// When they are damaged or make no sense.
    pub fn decode(bytes: &[u8]) -> Result<Self, ContactError> {
        let (crc, rest) = bytes.split_first_chunk::<4>().ok_or(ContactError::Damaged)?;
        if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
            return Err(ContactError::Damaged);
        }
        let (count, rest) = rest.split_first_chunk::<2>().ok_or(ContactError::Damaged)?;
        let (ports, odd) = rest.as_chunks::<2>();
        if ports.len() != usize::from(u16::from_le_bytes(*count)) || !odd.is_empty() {
            return Err(ContactError::Senseless);
        }
        Self::new(ports.iter().map(|port| u16::from_le_bytes(*port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact() -> Contact {
        Contact::new(vec![9301, 9302, 65535]).unwrap()
    }

    #[test]
    fn golden_bytes() {
        let hex: String = contact().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the format changed: raise the version of the frame");
    }

    const GOLDEN: &str = "cbddcfc8030055245624ffff";

    #[test]
    fn it_comes_back_as_it_was() {
        assert_eq!(Contact::decode(&contact().encode()), Ok(contact()));
        let largest = Contact::new(vec![1; Contact::CORES_MAX]).unwrap();
        assert_eq!(largest.encode().len(), Contact::SIZE_MAX);
        assert_eq!(Contact::decode(&largest.encode()), Ok(largest));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let bytes = contact().encode();
        for size in 0..bytes.len() {
            assert!(Contact::decode(&bytes[..size]).is_err(), "{size} bytes");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Contact::decode(&damaged), Err(ContactError::Damaged), "bit {bit}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert!(Contact::new(Vec::new()).is_err());
        assert!(Contact::new(vec![9301, 0]).is_err());
        assert!(Contact::new(vec![1; Contact::CORES_MAX + 1]).is_err());
        for rest in [&[0, 0][..], &[1, 0], &[1, 0, 0, 0], &[1, 0, 1, 0, 1], &[2, 0, 1, 0]] {
            let bytes = [&crc32c::crc32c(rest).to_le_bytes(), rest].concat();
            assert_eq!(Contact::decode(&bytes), Err(ContactError::Senseless), "{rest:?}");
        }
    }

    #[test]
    fn a_shard_lies_on_its_number_modulo_the_cores() {
        let cores = [0, 1, 2, 3, 7].map(|shard| contact().core_of(ShardId(shard)));
        assert_eq!(cores, [0, 1, 2, 0, 1].map(CoreId));
        assert_eq!(contact().port(CoreId(2)), Some(65535));
        assert_eq!(contact().port(CoreId(3)), None);
    }
}
