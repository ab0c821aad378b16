//! A segment's header: one block, written twice before the first group, never again.
//!
//! ```text
//!  0 u64 magic "BRGSEG01"       40 u64 log position of the first group
//!  8 u32 CRC32C of [12, 4096)   48 u64 bytes of the file
//! 12 u32 format version: 1 or 2  56 u32 flags (as in a group: vote, committed, floor)
//! 16 u32 shard                  60 u32 reserved
//! 20 u32 reserved               64 u64 vote term, node; committed term, index; floor term, index
//! 24 u64 segment number        112 u64 number of the first group
//! 32 u64 salt, random          120 u64 hash of the last entry's header before this segment
//! version 2, a segment that was rewritten:
//! 128 u64 log position where it began   136 u64 log position where the next one begins
//! ```
//!
//! What was rewritten is shorter than what it stands for. So that no position means two things, its
//! own positions come from [`REWRITTEN_START`] on, and no two rewritten segments share any.
//!
//! The hard state is restated here, so that the segment before can be dropped as soon as this one
//! is named. Everything before `position` was on the medium when this header was written.

use super::{BLOCK_BYTES, Fields, FormatError, Writer, group, part};
use crate::entry::{HardState, Vote};
use barrage_model::{NodeId, ShardId, Term};

/// File offset of the first group: behind the two copies of the header.
pub(crate) const DATA_START: u64 = 2 * BLOCK_BYTES as u64;
const MAGIC: u64 = u64::from_le_bytes(*b"BRGSEG01");
const VERSION: u32 = 1;
const REWRITTEN_VERSION: u32 = 2;
/// Positions in rewritten segments begin here: a log never grows so far.
pub(crate) const REWRITTEN_START: u64 = 1 << 61;

/// The part of the log that a rewritten segment stands for, as positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Original {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) shard: ShardId,
    pub(crate) number: u64,
    pub(crate) salt: u64,
    pub(crate) position: u64,
    pub(crate) file_bytes: u64,
    pub(crate) hard: HardState,
    pub(crate) first_group: u64,
    pub(crate) previous_hash: u64,
    /// Of a segment that was rewritten.
    pub(crate) original: Option<Original>,
}

/// Writes the header into a block.
pub(crate) fn encode(header: &Header, block: &mut [u8]) {
    assert_eq!(block.len(), BLOCK_BYTES, "a segment header is one block");
    block.fill(0);
    let hard = &header.hard;
    let flags = u32::from(hard.vote.is_some())
        | u32::from(hard.vote.is_some_and(|v| v.committed)) << 1
        | u32::from(hard.committed.is_some()) << 2
        | u32::from(hard.floor.is_some()) << 3;
    let mut writer = Writer::new(block);
    writer.u64(MAGIC);
    writer.u32(0);
    writer.u32(if header.original.is_some() { REWRITTEN_VERSION } else { VERSION });
    writer.u32(header.shard.0);
    writer.u32(0);
    writer.u64(header.number);
    writer.u64(header.salt);
    writer.u64(header.position);
    writer.u64(header.file_bytes);
    writer.u32(flags);
    writer.u32(0);
    writer.u64(hard.vote.map_or(0, |v| v.term.0));
    writer.u64(hard.vote.map_or(0, |v| v.node.0));
    group::put_log_id(&mut writer, hard.committed);
    group::put_log_id(&mut writer, hard.floor);
    writer.u64(header.first_group);
    writer.u64(header.previous_hash);
    if let Some(Original { start, end }) = header.original {
        writer.u64(start);
        writer.u64(end);
    }
    let crc = crc32c::crc32c(block.get(12..).unwrap_or_default());
    if let Some(slot) = block.get_mut(8..12) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Reads and checks a header block.
pub(crate) fn decode(block: &[u8]) -> Result<Header, FormatError> {
    let mut fields = Fields::new(part(block, 0, BLOCK_BYTES)?);
    if fields.u64()? != MAGIC {
        return Err(FormatError::Magic);
    }
    if fields.u32()? != crc32c::crc32c(part(block, 12, BLOCK_BYTES)?) {
        return Err(FormatError::Checksum);
    }
    let version = fields.u32()?;
    if version != VERSION && version != REWRITTEN_VERSION {
        return Err(FormatError::Version(version));
    }
    let shard = ShardId(fields.u32()?);
    fields.u32()?;
    let (number, salt) = (fields.count("segment number")?, fields.u64()?);
    let (position, file_bytes) = (fields.count("position")?, fields.count("file bytes")?);
    let flags = fields.u32()?;
    fields.u32()?;
    let (term, node) = (Term(fields.count("term")?), NodeId(fields.u64()?));
    let vote = Vote { term, node, committed: flags & 2 != 0 };
    let committed = group::read_log_id(&mut fields)?;
    let floor = group::read_log_id(&mut fields)?;
    let hard = HardState {
        vote: (flags & 1 != 0).then_some(vote),
        committed: (flags & 4 != 0).then_some(committed),
        floor: (flags & 8 != 0).then_some(floor),
    };
    let (first_group, previous_hash) = (fields.count("first group")?, fields.u64()?);
    let original = match version {
        REWRITTEN_VERSION => {
            Some(Original { start: fields.count("start")?, end: fields.count("end")? })
        }
        _ => None,
    };
    if !file_bytes.is_multiple_of(BLOCK_BYTES as u64) || file_bytes < DATA_START {
        return Err(FormatError::Field("file bytes"));
    }
    if !position.is_multiple_of(BLOCK_BYTES as u64)
        || (position >= REWRITTEN_START) != original.is_some()
    {
        return Err(FormatError::Field("position"));
    }
    let blocks = |at: u64| at.is_multiple_of(BLOCK_BYTES as u64) && at < REWRITTEN_START;
    if original.is_some_and(|at| at.start > at.end || !blocks(at.start) || !blocks(at.end)) {
        return Err(FormatError::Field("original positions"));
    }
    // Groups are counted from one.
    if first_group == 0 {
        return Err(FormatError::Field("first group"));
    }
    Ok(Header {
        shard,
        number,
        salt,
        position,
        file_bytes,
        hard,
        first_group,
        previous_hash,
        original,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_model::{LogId, LogIndex};

    fn sample() -> Header {
        let vote = Vote { term: Term(5), node: NodeId(1), committed: false };
        Header {
            shard: ShardId(1),
            number: 2,
            salt: 3,
            position: 4096,
            file_bytes: 65_536,
            hard: HardState { vote: Some(vote), committed: None, floor: None },
            first_group: 6,
            previous_hash: 7,
            original: None,
        }
    }

    #[test]
    fn golden_bytes() {
        let mut block = vec![0; BLOCK_BYTES];
        encode(&sample(), &mut block);
        let hex: String = block.iter().take(128).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the segment format changed: raise the version");
        assert_eq!(decode(&block), Ok(sample()));
    }
    const GOLDEN: &str = concat!(
        "4252475345473031fa91695e01000000010000000000000002000000000000000300000000000000",
        "00100000000000000000010000000000010000000000000005000000000000000100000000000000",
        "00000000000000000000000000000000000000000000000000000000000000000600000000000000",
        "0700000000000000",
    );

    #[test]
    fn golden_bytes_of_a_rewritten_one() {
        let original = Some(Original { start: 4096, end: 8192 });
        let header = Header { position: REWRITTEN_START + 4096, original, ..sample() };
        let mut block = vec![0; BLOCK_BYTES];
        encode(&header, &mut block);
        let hex: String = block.iter().skip(120).take(24).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "070000000000000000100000000000000020000000000000");
        assert_eq!(block[12], 2, "older builds are told that they cannot read it");
        assert_eq!(decode(&block), Ok(header));
        let check = |name: &'static str, header: Header| {
            let mut block = vec![0; BLOCK_BYTES];
            encode(&header, &mut block);
            assert_eq!(decode(&block), Err(FormatError::Field(name)), "{header:?}");
        };
        check("position", Header { original: None, ..header });
        check("position", Header { position: 4096, ..header });
        for (start, end) in [(8192, 4096), (1, 4096), (4096, 4097), (4096, REWRITTEN_START)] {
            let original = Some(Original { start, end });
            check("original positions", Header { original, ..header });
        }
    }

    #[test]
    fn what_was_not_counted_is_refused_though_its_checksum_is_right() {
        let check = |name: &'static str, header: Header| {
            let mut block = vec![0; BLOCK_BYTES];
            encode(&header, &mut block);
            assert_eq!(decode(&block), Err(FormatError::Field(name)));
        };
        let far = u64::MAX - 4095;
        let id = LogId { term: Term(1), index: LogIndex(u64::MAX) };
        check("segment number", Header { number: far, ..sample() });
        check("position", Header { position: far, ..sample() });
        check("position", Header { position: 4097, ..sample() });
        check("file bytes", Header { file_bytes: far, ..sample() });
        check("first group", Header { first_group: u64::MAX, ..sample() });
        check("first group", Header { first_group: 0, ..sample() });
        let hard = HardState { floor: Some(id), ..sample().hard };
        check("index", Header { hard, ..sample() });
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let mut block = vec![0; BLOCK_BYTES];
        encode(&sample(), &mut block);
        for at in 0..block.len() {
            let mut bad = block.clone();
            bad[at] ^= 4;
            assert!(decode(&bad).is_err(), "a flip at {at} went unseen");
        }
        assert_eq!(decode(&[0; BLOCK_BYTES]), Err(FormatError::Magic));
    }
}
