//! A checkpoint file: the state machine at one log id, in parts.
//!
//! ```text
//! head   0 u64 magic "BRGCKP01"       20 u32 count of refused runs
//!        8 u32 CRC32C of [12, end)    24 u64 term
//!       12 u16 format version         32 u64 index
//!       14 u16 1: it came from a peer 40 refused runs: u64 index, u32 run, u32 reserved each
//!       16 u32 shard
//! part   0 u32 length                 then the part, opaque here
//!        4 u32 CRC32C
//! end    0 u32 2^31                   then zeros up to the end of the block
//!        4 u32 CRC32C
//! ```
//!
//! The CRC of a part, and of the end, covers all lengths and parts up to there, behind the head's:
//! a part that is missing, or elsewhere, does not go unnoticed. Parts are short, so that a state of
//! gigabytes is written and read in slices between which the core does other things.

use super::{BLOCK_BYTES, Fields, FormatError, Writer, group};
use barrage_model::{LogId, ShardId};
use std::collections::BTreeSet;

const MAGIC: u64 = u64::from_le_bytes(*b"BRGCKP01");
const VERSION: u16 = 2;
const INSTALLED: u16 = 1;
const REFUSED_BYTES: usize = 16;
const LENGTH_BYTES: usize = 4;
/// In the place of a part's length: nothing follows.
const END: u32 = 1 << 31;

/// Bytes of a head without its refused runs: enough to tell how long it is.
pub(crate) const HEAD_BYTES: usize = 40;
/// Bytes before a part.
pub(crate) const FRAME_BYTES: usize = 8;

/// How a checkpoint file begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The last entry that is applied in it.
    pub(crate) id: LogId,
    /// Runs that apply refused, which the log itself does not tell.
    pub(crate) refused: BTreeSet<(u64, u32)>,
    /// It came from a peer: the log may end before it.
    pub(crate) installed: bool,
}

/// The checksum of all that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chain(u32);

/// What stands before a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Bytes of the part; `None` at the end.
    pub(crate) len: Option<usize>,
    crc: u32,
}

/// The head's bytes, and the chain that begins with it.
pub(crate) fn encode_head(shard: ShardId, head: &Head) -> (Vec<u8>, Chain) {
    let Head { id, refused, installed } = head;
    let mut out = vec![0; HEAD_BYTES + refused.len() * REFUSED_BYTES];
    let mut writer = Writer::new(&mut out);
    writer.u64(MAGIC);
    writer.u32(0);
    writer.u16(VERSION);
    writer.u16(if *installed { INSTALLED } else { 0 });
    writer.u32(shard.0);
    writer.u32(refused.len() as u32);
    group::put_log_id(&mut writer, Some(*id));
    for (index, run) in refused {
        writer.u64(*index);
        writer.u32(*run);
        writer.u32(0);
    }
    let crc = crc32c::crc32c(out.get(12..).unwrap_or_default());
    if let Some(slot) = out.get_mut(8..12) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    (out, Chain(crc))
}

/// Bytes of the whole head that begins so. Not checked yet: what is asked for may not be there.
pub(crate) fn head_len(begin: &[u8]) -> Result<usize, FormatError> {
    let mut fields = Fields::new(begin);
    if fields.u64()? != MAGIC {
        return Err(FormatError::Magic);
    }
    let (_, version, _, _) = (fields.u32()?, fields.u16()?, fields.u16()?, fields.u32()?);
    if version != VERSION {
        return Err(FormatError::Version(u32::from(version)));
    }
    Ok(HEAD_BYTES + fields.u32()? as usize * REFUSED_BYTES)
}

/// The head in `bytes`, all of which are its, and the chain that begins with it.
pub(crate) fn decode_head(bytes: &[u8], shard: ShardId) -> Result<(Head, Chain), FormatError> {
    if head_len(bytes)? != bytes.len() {
        return Err(FormatError::Short);
    }
    let mut fields = Fields::new(bytes);
    let _magic = fields.u64()?;
    let crc = fields.u32()?;
    if crc != crc32c::crc32c(bytes.get(12..).unwrap_or_default()) {
        return Err(FormatError::Checksum);
    }
    let _version = fields.u16()?;
    let installed = match fields.u16()? {
        0 => false,
        INSTALLED => true,
        _ => return Err(FormatError::Field("origin")),
    };
    if ShardId(fields.u32()?) != shard {
        return Err(FormatError::Elsewhere("shard"));
    }
    let refused_count = fields.u32()?;
    let id = group::read_log_id(&mut fields)?;
    let mut refused = BTreeSet::new();
    for _ in 0..refused_count {
        let row = (fields.u64()?, fields.u32()?);
        fields.u32()?;
        refused.insert(row);
    }
    Ok((Head { id, refused, installed }, Chain(crc)))
}

impl Chain {
    /// What is written before a part.
    pub(crate) fn frame(&mut self, part: &[u8]) -> [u8; FRAME_BYTES] {
        let len = u32::try_from(part.len()).ok().filter(|len| *len < END);
        let Some(len) = len else { panic!("a part of {} bytes is no part", part.len()) };
        self.next(len, part)
    }

    /// What is written behind the last part.
    pub(crate) fn end(&mut self) -> [u8; FRAME_BYTES] {
        self.next(END, &[])
    }

    fn next(&mut self, len: u32, part: &[u8]) -> [u8; FRAME_BYTES] {
        self.pass(len, part);
        let [l0, l1, l2, l3] = len.to_le_bytes();
        let [c0, c1, c2, c3] = self.0.to_le_bytes();
        [l0, l1, l2, l3, c0, c1, c2, c3]
    }

    fn pass(&mut self, len: u32, part: &[u8]) {
        self.0 = crc32c::crc32c_append(crc32c::crc32c_append(self.0, &len.to_le_bytes()), part);
    }

    /// Checks a part that was read, or the end.
    pub(crate) fn check(&mut self, frame: Frame, part: &[u8]) -> Result<(), FormatError> {
        self.pass(frame.len.map_or(END, |len| len as u32), part);
        if self.0 == frame.crc { Ok(()) } else { Err(FormatError::Checksum) }
    }
}

impl Frame {
    /// Reads what stands before a part.
    pub(crate) fn decode(bytes: &[u8; FRAME_BYTES]) -> Self {
        let (len, crc) = bytes.split_at(LENGTH_BYTES);
        let number = |bytes: &[u8]| {
            bytes.first_chunk().map_or(0, |bytes: &[u8; LENGTH_BYTES]| u32::from_le_bytes(*bytes))
        };
        let len = Some(number(len)).filter(|len| *len != END).map(|len| len as usize);
        Self { len, crc: number(crc) }
    }
}

/// Whether `rest` is what follows the end of a file.
pub(crate) fn is_padding(rest: &[u8]) -> bool {
    rest.len() < BLOCK_BYTES && rest.iter().all(|byte| *byte == 0)
}

/// The whole file, and what is in it: for what is small.
pub(crate) mod whole {
    use super::*;
    use crate::format::round_up_to_block;

    pub(crate) fn encode(shard: ShardId, head: &Head, parts: &[&[u8]]) -> Vec<u8> {
        let (mut file, mut chain) = encode_head(shard, head);
        for part in parts {
            file.extend_from_slice(&chain.frame(part));
            file.extend_from_slice(part);
        }
        file.extend_from_slice(&chain.end());
        file.resize(round_up_to_block(file.len()), 0);
        file
    }

    pub(crate) fn decode(file: &[u8], shard: ShardId) -> Result<(Head, Vec<Vec<u8>>), FormatError> {
        let head = file.split_at_checked(head_len(file)?).ok_or(FormatError::Short)?;
        let (head, mut rest) = head;
        let (head, mut chain) = decode_head(head, shard)?;
        let mut parts = Vec::new();
        loop {
            let (frame, behind) = rest.split_first_chunk().ok_or(FormatError::Short)?;
            let frame = Frame::decode(frame);
            let split = behind.split_at_checked(frame.len.unwrap_or(0));
            let (part, behind) = split.ok_or(FormatError::Short)?;
            chain.check(frame, part)?;
            if frame.len.is_none() {
                return if is_padding(behind) {
                    Ok((head, parts))
                } else {
                    Err(FormatError::Field("padding"))
                };
            }
            parts.push(part.to_vec());
            rest = behind;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_model::{LogIndex, Term};

    #[test]
    fn golden_bytes_round_trip_and_damage() {
        let id = LogId { term: Term(2), index: LogIndex(3) };
        let refused = BTreeSet::from([(4, 5)]);
        let head = Head { id, refused, installed: false };
        let parts: [&[u8]; 3] = [b"state", b"", b"more"];
        let bytes = whole::encode(ShardId(1), &head, &parts);
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let hex: String = bytes[..used].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the checkpoint format changed: raise the version");
        let parts: Vec<Vec<u8>> = parts.iter().map(|part| part.to_vec()).collect();
        assert_eq!(whole::decode(&bytes, ShardId(1)), Ok((head.clone(), parts)));
        let installed = Head { installed: true, ..head };
        let again = whole::decode(&whole::encode(ShardId(1), &installed, &[]), ShardId(1));
        assert_eq!(again, Ok((installed, Vec::new())));
        assert_eq!(whole::decode(&bytes, ShardId(2)), Err(FormatError::Elsewhere("shard")));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(whole::decode(&bad, ShardId(1)).is_err(), "a flip at {at} went unseen");
        }
        for end in 0..used {
            assert!(whole::decode(&bytes[..end], ShardId(1)).is_err(), "a cut at {end}");
        }
    }

    /// Each part is whole, and still they are not what was written.
    #[test]
    fn parts_that_change_places_or_are_missing_are_seen() {
        let id = LogId { term: Term(2), index: LogIndex(3) };
        let head = Head { id, refused: BTreeSet::new(), installed: false };
        let bytes = whole::encode(ShardId(1), &head, &[b"one", b"two"]);
        let (first, second) = (HEAD_BYTES..HEAD_BYTES + 11, HEAD_BYTES + 11..HEAD_BYTES + 22);
        let mut swapped = bytes.clone();
        swapped[first.clone()].copy_from_slice(&bytes[second.clone()]);
        swapped[second.clone()].copy_from_slice(&bytes[first.clone()]);
        let mut missing = bytes.clone();
        missing.drain(second);
        let mut twice = bytes.clone();
        twice.splice(first.clone(), bytes[first.clone()].repeat(2));
        for bad in [swapped, missing, twice] {
            assert_eq!(whole::decode(&bad, ShardId(1)), Err(FormatError::Checksum));
        }
    }

    const GOLDEN: &str = concat!(
        "425247434b503031e118d15802000000010000000100000002000000000000000300000000000000",
        "0400000000000000050000000000000005000000e60efcc873746174650000000025e1b195040000",
        "0097628a176d6f7265000000809c331d84",
    );
}
