//! A flush group: what one replica wrote together, and the hard state at that moment.
//!
//! ```text
//!  0 u32 magic "BGRP"                        56 u32 shard
//!  4 u32 CRC32C of salt and [8, length)      60 u32 CRC of the previous group in the segment
//!  8 u64 segment number                      64 u64 vote: term
//! 16 u64 group number                        72 u64 vote: node
//! 24 u64 log position of this group          80 u64 committed: term      88 u64 index
//! 32 u64 synced_to                           96 u64 floor: term         104 u64 index
//! 40 u32 length, whole blocks               112 u64 truncate after: term 120 u64 index
//! 44 u32 bytes of entries                   128 entries, then zeros up to the length
//! 48 u32 entries
//! 52 u32 flags: 1 vote, 2 vote committed, 4 committed, 8 floor, 16 truncate, 32 truncate all
//! ```
//!
//! `synced_to` is the log position that was known to be on the medium when the group was built:
//! damage below the largest `synced_to` is damage to bytes that may be acknowledged.

use super::{BLOCK_BYTES, Fields, FormatError, Writer, part, round_up_to_block};
use crate::crc::Running;
use crate::entry::{HardState, Vote};
use barrage_model::{LogId, LogIndex, NodeId, ShardId, Term};
use barrage_world::planted;

/// Bytes of a group's header.
pub(crate) const HEADER_BYTES: usize = 128;
const MAGIC: u32 = u32::from_le_bytes(*b"BGRP");
const VOTE: u32 = 1;
const VOTE_COMMITTED: u32 = 2;
const COMMITTED: u32 = 4;
const FLOOR: u32 = 8;
const TRUNCATE: u32 = 16;
const TRUNCATE_ALL: u32 = 32;

/// Where a group stands; what it is checked against when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) segment: u64,
    pub(crate) salt: u64,
    pub(crate) position: u64,
}

/// Drop entries before taking this group's: all, or all behind one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Truncate {
    All,
    After(LogId),
}

/// A group's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) synced_to: u64,
    pub(crate) len: u32,
    pub(crate) entries_len: u32,
    pub(crate) entry_count: u32,
    pub(crate) previous_crc: u32,
    pub(crate) hard: HardState,
    pub(crate) truncate: Option<Truncate>,
}

/// Bytes a group with that many bytes of entries takes.
pub(crate) fn encoded_len(entries_len: usize) -> usize {
    round_up_to_block(HEADER_BYTES + entries_len)
}

/// Writes the header and the padding around entries that already lie in `out`; gives the CRC.
/// `entries_crc` is the CRC of those entries.
pub(crate) fn seal(header: &Header, place: &Place, out: &mut [u8], entries_crc: u32) -> u32 {
    assert_eq!(out.len(), header.len as usize, "a group fills its buffer");
    assert_eq!(out.len() % BLOCK_BYTES, 0, "a group is whole blocks");
    assert!(header.synced_to <= place.position, "the mark lies before the group");
    let Some((head, rest)) = out.split_at_mut_checked(HEADER_BYTES) else {
        panic!("a group is longer than its header");
    };
    encode_header(header, place, head);
    let (entries, padding) = rest.split_at_mut(header.entries_len as usize);
    padding.fill(0);
    let mut crc = Running::over(&place.salt.to_le_bytes());
    crc.add(head.get(8..).unwrap_or_default());
    crc.known(entries, entries_crc);
    crc.add(padding);
    if let Some(slot) = head.get_mut(4..8) {
        slot.copy_from_slice(&crc.value().to_le_bytes());
    }
    crc.value()
}

fn encode_header(header: &Header, place: &Place, head: &mut [u8]) {
    let hard = &header.hard;
    let mut flags = 0;
    flags |= if hard.vote.is_some() { VOTE } else { 0 };
    flags |= if hard.vote.is_some_and(|v| v.committed) { VOTE_COMMITTED } else { 0 };
    flags |= if hard.committed.is_some() { COMMITTED } else { 0 };
    flags |= if hard.floor.is_some() { FLOOR } else { 0 };
    flags |= match header.truncate {
        None => 0,
        Some(Truncate::After(_)) => TRUNCATE,
        Some(Truncate::All) => TRUNCATE | TRUNCATE_ALL,
    };
    let mut writer = Writer::new(head);
    writer.u32(MAGIC);
    writer.u32(0);
    writer.u64(place.segment);
    writer.u64(header.number);
    writer.u64(place.position);
    writer.u64(header.synced_to);
    writer.u32(header.len);
    writer.u32(header.entries_len);
    writer.u32(header.entry_count);
    writer.u32(flags);
    writer.u32(place.shard.0);
    writer.u32(header.previous_crc);
    writer.u64(hard.vote.map_or(0, |v| v.term.0));
    writer.u64(hard.vote.map_or(0, |v| v.node.0));
    put_log_id(&mut writer, hard.committed);
    put_log_id(&mut writer, hard.floor);
    put_log_id(
        &mut writer,
        match header.truncate {
            Some(Truncate::After(id)) => Some(id),
            _ => None,
        },
    );
    assert_eq!(writer.position(), HEADER_BYTES);
}

pub(crate) fn put_log_id(writer: &mut Writer<'_>, id: Option<LogId>) {
    writer.u64(id.map_or(0, |i| i.term.0));
    writer.u64(id.map_or(0, |i| i.index.0));
}

pub(crate) fn read_log_id(fields: &mut Fields<'_>) -> Result<LogId, FormatError> {
    Ok(LogId { term: Term(fields.count("term")?), index: LogIndex(fields.count("index")?) })
}

/// Reads the length a group claims, if this is the start of one of this place. Nothing is proven.
pub(crate) fn peek_len(bytes: &[u8], place: &Place) -> Result<usize, FormatError> {
    let mut fields = Fields::new(part(bytes, 0, HEADER_BYTES)?);
    if fields.u32()? != MAGIC {
        return Err(FormatError::Magic);
    }
    fields.u32()?;
    if fields.u64()? != place.segment {
        return Err(FormatError::Elsewhere("segment"));
    }
    fields.u64()?;
    if fields.u64()? != place.position {
        return Err(FormatError::Elsewhere("position"));
    }
    fields.u64()?;
    let (len, entries_len) = (fields.u32()? as usize, fields.u32()? as usize);
    if len == 0 || len % BLOCK_BYTES != 0 || entries_len > len.saturating_sub(HEADER_BYTES) {
        return Err(FormatError::Field("length"));
    }
    Ok(len)
}

/// Reads and checks a whole group; `bytes` starts with it. Gives the header and the group's CRC.
pub(crate) fn decode(bytes: &[u8], place: &Place) -> Result<(Header, u32), FormatError> {
    let len = peek_len(bytes, place)?;
    let bytes = part(bytes, 0, len)?;
    let mut fields = Fields::new(bytes);
    fields.u32()?;
    let claimed = fields.u32()?;
    let mut crc = Running::over(&place.salt.to_le_bytes());
    crc.add(part(bytes, 8, len)?);
    // Wrong when planted: sectors of an earlier life of the file pass for the group's own.
    if crc.value() != claimed && !planted("commitlog-stale-sectors-accepted") {
        return Err(FormatError::Checksum);
    }
    fields.u64()?;
    let number = fields.count("group number")?;
    fields.u64()?;
    let synced_to = fields.u64()?;
    // Recovery writes from the mark on, in whole blocks.
    if synced_to > place.position || !synced_to.is_multiple_of(BLOCK_BYTES as u64) {
        return Err(FormatError::Field("synced_to"));
    }
    let (len, entries_len, entry_count) = (fields.u32()?, fields.u32()?, fields.u32()?);
    let flags = fields.u32()?;
    if ShardId(fields.u32()?) != place.shard {
        return Err(FormatError::Elsewhere("shard"));
    }
    let previous_crc = fields.u32()?;
    let (term, node) = (Term(fields.count("term")?), NodeId(fields.u64()?));
    let vote = Vote { term, node, committed: flags & VOTE_COMMITTED != 0 };
    let committed = read_log_id(&mut fields)?;
    let floor = read_log_id(&mut fields)?;
    let truncate = read_log_id(&mut fields)?;
    if flags >= TRUNCATE_ALL << 1 {
        return Err(FormatError::Field("flags"));
    }
    let hard = HardState {
        vote: (flags & VOTE != 0).then_some(vote),
        committed: (flags & COMMITTED != 0).then_some(committed),
        floor: (flags & FLOOR != 0).then_some(floor),
    };
    let truncate = match (flags & TRUNCATE != 0, flags & TRUNCATE_ALL != 0) {
        (false, _) => None,
        (true, true) => Some(Truncate::All),
        (true, false) => Some(Truncate::After(truncate)),
    };
    let header =
        Header { number, synced_to, len, entries_len, entry_count, previous_crc, hard, truncate };
    Ok((header, claimed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { shard: ShardId(2), segment: 3, salt: 0x1234_5678_9abc_def0, position: 8192 }
    }

    fn header() -> Header {
        let id = |term, index| LogId { term: Term(term), index: LogIndex(index) };
        let vote = Vote { term: Term(5), node: NodeId(1), committed: true };
        let hard = HardState { vote: Some(vote), committed: Some(id(5, 9)), floor: Some(id(4, 2)) };
        Header {
            number: 17,
            synced_to: 4096,
            len: 4096,
            entries_len: 10,
            entry_count: 1,
            previous_crc: 99,
            hard,
            truncate: Some(Truncate::After(id(5, 8))),
        }
    }

    fn sample() -> Vec<u8> {
        let mut out = vec![0; 4096];
        out[HEADER_BYTES..HEADER_BYTES + 10].copy_from_slice(b"0123456789");
        seal(&header(), &place(), &mut out, crc32c::crc32c(b"0123456789"));
        out
    }

    #[test]
    fn golden_bytes() {
        let hex: String = sample().iter().take(140).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the group format changed: raise the segment version");
    }
    const GOLDEN: &str = concat!(
        "42475250cd3251b20300000000000000110000000000000000200000000000000010000000000000",
        "001000000a000000010000001f000000020000006300000005000000000000000100000000000000",
        "05000000000000000900000000000000040000000000000002000000000000000500000000000000",
        "0800000000000000303132333435363738390000",
    );

    #[test]
    fn round_trip() {
        let cases = [None, Some(Truncate::All), header().truncate];
        for truncate in cases {
            let header = Header { truncate, ..header() };
            let mut out = sample();
            seal(&header, &place(), &mut out, crc32c::crc32c(b"0123456789"));
            assert_eq!(decode(&out, &place()).unwrap().0, header);
        }
    }

    #[test]
    fn a_mark_that_no_writer_makes_is_refused_though_its_checksum_is_right() {
        for mark in [8192 + 4096, 4097] {
            let mut out = sample();
            out[32..40].copy_from_slice(&u64::to_le_bytes(mark));
            let mut crc = Running::over(&place().salt.to_le_bytes());
            crc.add(&out[8..]);
            out[4..8].copy_from_slice(&crc.value().to_le_bytes());
            assert_eq!(decode(&out, &place()), Err(FormatError::Field("synced_to")), "{mark}");
        }
    }

    #[test]
    fn every_flipped_byte_and_every_wrong_place_is_found() {
        let good = sample();
        assert!(decode(&good, &place()).is_ok());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(decode(&bad, &place()).is_err(), "a flip at {at} went unseen, padding too");
        }
        let wrong = [
            Place { segment: 4, ..place() },
            Place { salt: 1, ..place() },
            Place { position: 4096, ..place() },
            Place { shard: ShardId(9), ..place() },
        ];
        for place in wrong {
            assert!(decode(&good, &place).is_err(), "{place:?} accepted a foreign group");
        }
        assert_eq!(decode(&[0; 4096], &place()), Err(FormatError::Magic));
    }
}
