//! An entry's bytes: the same on every replica and on the wire between nodes.
//!
//! ```text
//!  0 u32 magic "BRE1"          28 u32 shard
//!  4 u32 CRC32C of [8, 80)     32 u64 term
//!  8 u32 body length           40 u64 index
//! 12 u32 CRC32C of the body    48 i64 log time, ms since 1970
//! 16 u16 kind                  56 u64 hash of the previous entry's header (xxh3; 0: none)
//! 18 u16 format version        64 u64 reserved, zero
//! 20 u32 runs                  72 u64 reserved, zero
//! 24 u32 command length        80 body: run table, command, batches in the order of the table
//! run: u64 topic | u32 partition | u32 records | u64 base offset | i64 max timestamp
//!      | u32 bytes | u32 reserved
//! ```

use super::{Fields, FormatError, Writer, part};
use crate::copy::Link;
use crate::crc::Running;
use crate::entry::{Batch, Entry, EntryKind, Run};
use crate::pieces::Pieces;
use barrage_model::batch::BatchHeader;
use barrage_model::{LogId, LogIndex, Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use bytes::Bytes;

/// Bytes of an entry's header.
pub(crate) const HEADER_BYTES: usize = 80;
/// Bytes of one row of the run table.
pub(crate) const RUN_BYTES: usize = 40;
/// Where the hash of the entry before stands in the header.
const PREVIOUS_HASH: std::ops::Range<usize> = 56..64;
const MAGIC: u32 = u32::from_le_bytes(*b"BRE1");
const VERSION: u16 = 1;
/// Bytes at the head of a batch that the leader stamps; the batch's own CRC starts behind them.
const STAMPED_BYTES: usize = 21;
/// Most runs an entry may hold: bounds what a reader allocates for the table.
pub(crate) const RUNS_MAX: usize = 65_536;

/// An entry's header, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
    pub(crate) kind: u16,
    pub(crate) run_count: u32,
    pub(crate) command_len: u32,
    pub(crate) shard: ShardId,
    pub(crate) id: LogId,
    pub(crate) log_time_ms: i64,
    pub(crate) previous_hash: u64,
}

/// Bytes the entry takes in a group.
pub(crate) fn encoded_len(entry: &Entry) -> usize {
    let payload: usize = entry.runs.iter().map(|run| run.byte_len as usize).sum();
    HEADER_BYTES + entry.runs.len() * RUN_BYTES + entry.command.len() + payload
}

/// Hash that the next entry's header carries.
pub(crate) fn header_hash(header: &[u8]) -> u64 {
    // Zero means "no previous entry"; a header that hashes to it is given the next value.
    xxhash_rust::xxh3::xxh3_64(header).max(1)
}

/// Writes the entry at the start of `out`, stamping its batches; gives its length, the hash of its
/// header and the CRC of all of it. `out` must hold [`encoded_len`] bytes.
pub(crate) fn encode(
    entry: &Entry,
    shard: ShardId,
    previous_hash: u64,
    out: &mut [u8],
) -> (usize, u64, Running) {
    let len = encoded_len(entry);
    assert!(entry.runs.len() <= RUNS_MAX, "too many runs in one entry");
    let Some((head, body)) = out.get_mut(..len).and_then(|o| o.split_at_mut_checked(HEADER_BYTES))
    else {
        panic!("an entry of {len} bytes does not fit its group");
    };
    let body_crc = encode_body(entry, body);
    write_header(entry, shard, previous_hash, body.len(), body_crc, head);
    let mut whole = Running::over(head);
    whole.known(body, body_crc);
    (len, header_hash(head), whole)
}

/// As [`encode`], in pieces: the payload stays where it is, and is not read either, but for
/// batches that are cheaper to copy. The hash of the entry before is left out.
pub(crate) fn encode_pieces(entry: &Entry, shard: ShardId, out: &mut Pieces) {
    assert!(entry.runs.len() <= RUNS_MAX, "too many runs in one entry");
    let mut lead = vec![0; HEADER_BYTES + lead_len(entry)];
    let (head, rest) = lead.split_at_mut(HEADER_BYTES);
    write_lead(entry, rest);
    let mut crc = Running::over(rest);
    let mut body_len = rest.len();
    for run in &entry.runs {
        let start = body_len;
        for batch in &run.batches {
            let (stamped, records) = stamp(batch);
            crc.add(&stamped);
            crc.known(records, batch.crc);
            body_len += batch.bytes.len();
        }
        assert_eq!(body_len - start, run.byte_len as usize, "byte_len must match the batches");
    }
    write_header(entry, shard, 0, body_len, crc.value(), head);
    out.copy(&lead);
    for batch in entry.runs.iter().flat_map(|run| &run.batches) {
        out.copy(&stamp(batch).0);
        out.share(batch.bytes.slice(STAMPED_BYTES..));
    }
}

/// Bytes of run table and command.
fn lead_len(entry: &Entry) -> usize {
    entry.runs.len() * RUN_BYTES + entry.command.len()
}

fn write_header(
    entry: &Entry,
    shard: ShardId,
    previous_hash: u64,
    body_len: usize,
    body_crc: u32,
    head: &mut [u8],
) {
    let mut writer = Writer::new(head);
    writer.u32(MAGIC);
    writer.u32(0);
    writer.u32(body_len as u32);
    writer.u32(body_crc);
    writer.u16(kind_code(entry.kind));
    writer.u16(VERSION);
    writer.u32(entry.runs.len() as u32);
    writer.u32(entry.command.len() as u32);
    writer.u32(shard.0);
    writer.u64(entry.id.term.0);
    writer.u64(entry.id.index.0);
    writer.i64(entry.log_time_ms);
    writer.u64(previous_hash);
    writer.u64(0);
    writer.u64(0);
    assert_eq!(writer.position(), HEADER_BYTES);
    let (_, covered) = head.split_at(8);
    let crc = crc32c::crc32c(covered);
    if let Some(slot) = head.get_mut(4..8) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// Writes run table and command.
fn write_lead(entry: &Entry, lead: &mut [u8]) {
    let mut writer = Writer::new(lead);
    for run in &entry.runs {
        writer.u64(run.key.topic.0);
        writer.u32(run.key.partition.0);
        writer.u32(run.record_count);
        writer.u64(run.base_offset.0);
        writer.i64(run.max_timestamp);
        writer.u32(run.byte_len);
        writer.u32(0);
    }
    writer.put(&entry.command);
}

/// Writes run table, command and batches; gives the CRC of all three.
fn encode_body(entry: &Entry, body: &mut [u8]) -> u32 {
    let mut at = lead_len(entry);
    let Some(lead) = body.get_mut(..at) else {
        panic!("a body of {at} bytes and more does not fit its entry");
    };
    write_lead(entry, lead);
    let mut crc = Running::over(lead);
    for run in &entry.runs {
        let start = at;
        for batch in &run.batches {
            let end = at + batch.bytes.len();
            let Some(room) = body.get_mut(at..end) else {
                panic!("run of {:?} is longer than its byte_len", run.key);
            };
            // The one copy of the payload on its way to the disk.
            room.copy_from_slice(&batch.bytes);
            add_stamped(&mut crc, batch, room);
            at = end;
        }
        assert_eq!(at - start, run.byte_len as usize, "byte_len must match the run's batches");
    }
    assert_eq!(at, body.len(), "the body must be filled exactly");
    crc.value()
}

/// Stamps base offset and leader epoch, and joins the batch into the CRC without reading it again.
fn add_stamped(crc: &mut Running, batch: &Batch, room: &mut [u8]) {
    let (stamped, records) = stamp(batch);
    if let Some(head) = room.get_mut(..STAMPED_BYTES) {
        head.copy_from_slice(&stamped);
    }
    crc.add(&stamped);
    crc.known(records, batch.crc);
}

/// The head of a batch with base offset and leader epoch in it, and what lies behind.
fn stamp(batch: &Batch) -> ([u8; STAMPED_BYTES], &[u8]) {
    let Some((head, records)) = batch.bytes.split_first_chunk::<STAMPED_BYTES>() else {
        panic!("a batch shorter than its header passed the door");
    };
    let mut head = *head;
    if let Some(base) = head.get_mut(0..8) {
        base.copy_from_slice(&batch.base_offset.0.to_be_bytes());
    }
    if let Some(epoch) = head.get_mut(12..16) {
        epoch.copy_from_slice(&batch.leader_epoch.to_be_bytes());
    }
    (head, records)
}

/// Reads and checks a header. The body is not looked at.
pub(crate) fn decode_header(bytes: &[u8], shard: ShardId) -> Result<Header, FormatError> {
    let bytes = part(bytes, 0, HEADER_BYTES)?;
    let mut fields = Fields::new(bytes);
    if fields.u32()? != MAGIC {
        return Err(FormatError::Magic);
    }
    if fields.u32()? != crc32c::crc32c(part(bytes, 8, HEADER_BYTES)?) {
        return Err(FormatError::Checksum);
    }
    let (body_len, body_crc) = (fields.u32()?, fields.u32()?);
    let kind = fields.u16()?;
    let version = fields.u16()?;
    if version != VERSION {
        return Err(FormatError::Version(u32::from(version)));
    }
    let (run_count, command_len) = (fields.u32()?, fields.u32()?);
    if ShardId(fields.u32()?) != shard {
        return Err(FormatError::Elsewhere("shard"));
    }
    let id = LogId { term: Term(fields.count("term")?), index: LogIndex(fields.count("index")?) };
    let header = Header {
        body_len,
        body_crc,
        kind,
        run_count,
        command_len,
        shard,
        id,
        log_time_ms: fields.i64()?,
        previous_hash: fields.u64()?,
    };
    kind_of(kind)?;
    let table = run_count as usize * RUN_BYTES;
    if run_count as usize > RUNS_MAX || table + command_len as usize > body_len as usize {
        return Err(FormatError::Field("run count"));
    }
    Ok(header)
}

/// Checks the body of a whole entry against its header.
pub(crate) fn check_body(entry: &[u8], shard: ShardId) -> Result<(), FormatError> {
    let header = decode_header(entry, shard)?;
    let body = part(entry, HEADER_BYTES, HEADER_BYTES + header.body_len as usize)?;
    if crc32c::crc32c(body) != header.body_crc {
        return Err(FormatError::Checksum);
    }
    Ok(())
}

/// A hash of all of the header that is the same on every replica, the CRC of the body among it.
pub(crate) fn fingerprint(entry: &[u8]) -> Option<u64> {
    let mut head: [u8; HEADER_BYTES] = *entry.first_chunk()?;
    // Its own CRC covers the hash of the entry before, which a log begun behind a floor lacks.
    head.get_mut(4..8)?.fill(0);
    head.get_mut(PREVIOUS_HASH)?.fill(0);
    Some(header_hash(&head))
}

/// How the entry hangs together with the one before it, in the log it was read from.
pub(crate) fn link(entry: &[u8]) -> Option<Link> {
    let head: &[u8; HEADER_BYTES] = entry.first_chunk()?;
    let previous = head.get(PREVIOUS_HASH)?.first_chunk()?;
    Some(Link { previous: u64::from_le_bytes(*previous), own: header_hash(head) })
}

/// Reads the run table. Gives each run without payload and the start of its bytes in the entry.
pub(crate) fn decode_runs(header: &Header, entry: &[u8]) -> Result<Vec<(Run, usize)>, FormatError> {
    let table_end = HEADER_BYTES + header.run_count as usize * RUN_BYTES;
    let mut fields = Fields::new(part(entry, HEADER_BYTES, table_end)?);
    let mut at = table_end + header.command_len as usize;
    let mut runs = Vec::with_capacity(header.run_count as usize);
    for _ in 0..header.run_count {
        let topic = TopicId(fields.u64()?);
        let partition = PartitionId(fields.u32()?);
        let record_count = fields.u32()?;
        let base_offset = Offset(fields.count("offset")?);
        let max_timestamp = fields.i64()?;
        let byte_len = fields.u32()?;
        fields.u32()?;
        let key = PartitionKey { topic, partition };
        let run =
            Run { key, base_offset, record_count, max_timestamp, byte_len, batches: Vec::new() };
        runs.push((run, at));
        at = at.checked_add(byte_len as usize).ok_or(FormatError::Field("run bytes"))?;
    }
    if at != HEADER_BYTES + header.body_len as usize {
        return Err(FormatError::Field("run bytes"));
    }
    Ok(runs)
}

/// Reads a whole entry that lies at the start of `bytes`; its runs carry no payload.
pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Entry, FormatError> {
    let header = decode_header(bytes, shard)?;
    let end = HEADER_BYTES + header.body_len as usize;
    if crc32c::crc32c(part(bytes, HEADER_BYTES, end)?) != header.body_crc {
        return Err(FormatError::Checksum);
    }
    let runs = decode_runs(&header, bytes)?.into_iter().map(|(run, _)| run).collect();
    let command_start = HEADER_BYTES + header.run_count as usize * RUN_BYTES;
    let command = part(bytes, command_start, command_start + header.command_len as usize)?;
    Ok(Entry {
        id: header.id,
        kind: kind_of(header.kind)?,
        log_time_ms: header.log_time_ms,
        command: Bytes::copy_from_slice(command),
        runs,
    })
}

/// Reads a whole entry with its payload: the batches are slices of `bytes`. Nothing may follow it.
pub(crate) fn decode_whole(bytes: &Bytes, shard: ShardId) -> Result<Entry, FormatError> {
    let mut entry = decode(bytes, shard)?;
    let header = decode_header(bytes, shard)?;
    if bytes.len() != HEADER_BYTES + header.body_len as usize {
        return Err(FormatError::Field("entry length"));
    }
    for (run, (_, start)) in entry.runs.iter_mut().zip(decode_runs(&header, bytes)?) {
        let end = start + run.byte_len as usize;
        part(bytes, start, end)?;
        run.batches = split_run(run, &bytes.slice(start..end))?;
    }
    Ok(entry)
}

/// The batches of a run, which must lie one behind the other and fill it.
fn split_run(run: &Run, bytes: &Bytes) -> Result<Vec<Batch>, FormatError> {
    let mut batches = Vec::new();
    let (mut at, mut next) = (0, run.base_offset);
    while at < bytes.len() {
        let batch = bytes.slice(at..);
        let header = BatchHeader::peek(&batch).map_err(|_| FormatError::Field("batch"))?;
        let len = header.batch_len_total;
        if len == 0 || len > batch.len() || header.base_offset != next {
            return Err(FormatError::Field("batch"));
        }
        batches.push(Batch {
            bytes: batch.slice(..len),
            base_offset: header.base_offset,
            leader_epoch: header.leader_epoch,
            crc: header.crc,
        });
        next = header.next_offset();
        at += len;
    }
    if next != run.next_offset() {
        return Err(FormatError::Field("records of a run"));
    }
    Ok(batches)
}

fn kind_code(kind: EntryKind) -> u16 {
    match kind {
        EntryKind::Blank => 1,
        EntryKind::Command => 2,
        EntryKind::Membership => 3,
    }
}

fn kind_of(code: u16) -> Result<EntryKind, FormatError> {
    match code {
        1 => Ok(EntryKind::Blank),
        2 => Ok(EntryKind::Command),
        3 => Ok(EntryKind::Membership),
        _ => Err(FormatError::Field("kind")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Entry {
        Entry {
            id: LogId { term: Term(3), index: LogIndex(7) },
            kind: EntryKind::Command,
            log_time_ms: 1_700_000_000_000,
            command: Bytes::from_static(b"put"),
            runs: Vec::new(),
        }
    }

    fn with_run(len: usize) -> Entry {
        let bytes = vec![0x5a; len];
        let crc = crc32c::crc32c(&bytes[STAMPED_BYTES..]);
        let batch = Batch { bytes: bytes.into(), base_offset: Offset(9), leader_epoch: 3, crc };
        let key = PartitionKey { topic: TopicId(1), partition: PartitionId(2) };
        let run = Run {
            key,
            base_offset: Offset(9),
            record_count: 4,
            max_timestamp: 5,
            byte_len: len as u32,
            batches: vec![batch],
        };
        Entry { runs: vec![run], ..sample() }
    }

    #[test]
    fn golden_bytes() {
        let entry = sample();
        let mut out = vec![0; encoded_len(&entry)];
        encode(&entry, ShardId(1), 0, &mut out);
        let hex: String = out.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the entry format changed: raise the version");
    }
    const GOLDEN: &str = concat!(
        "42524531f31779a603000000034b9462020001000000000003000000010000000300000000000000",
        "07000000000000000068e5cf8b010000000000000000000000000000000000000000000000000000",
        "707574",
    );

    #[test]
    fn round_trip_and_joined_crc() {
        for len in [61, 4096, COMBINED] {
            let entry = with_run(len);
            let mut out = vec![0; encoded_len(&entry)];
            let (written, _, crc) = encode(&entry, ShardId(1), 42, &mut out);
            assert_eq!(written, out.len());
            assert_eq!(crc.value(), crc32c::crc32c(&out), "joined CRC of {len} bytes");
            let back = decode(&out, ShardId(1)).unwrap();
            assert_eq!(back.id, entry.id);
            assert_eq!(back.command, entry.command);
            assert_eq!(back.runs[0].base_offset, Offset(9));
            assert_eq!(decode_header(&out, ShardId(1)).unwrap().previous_hash, 42);
            assert_eq!(decode_header(&out, ShardId(2)), Err(FormatError::Elsewhere("shard")));
        }
    }
    const COMBINED: usize = 100_000;

    #[test]
    fn pieces_are_the_same_bytes() {
        let blank = Entry { kind: EntryKind::Blank, command: Bytes::new(), ..sample() };
        for entry in [blank, sample(), with_run(61), with_run(4096), with_run(COMBINED)] {
            let mut out = vec![0; encoded_len(&entry)];
            encode(&entry, ShardId(1), 0, &mut out);
            let mut pieces = Pieces::default();
            encode_pieces(&entry, ShardId(1), &mut pieces);
            assert!(pieces.into_bytes() == out, "{} bytes differ", out.len());
        }
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let entry = with_run(61);
        let mut out = vec![0; encoded_len(&entry)];
        encode(&entry, ShardId(1), 42, &mut out);
        for at in 0..out.len() {
            let mut bad = out.clone();
            bad[at] ^= 1;
            assert!(decode(&bad, ShardId(1)).is_err(), "a flip at {at} went unseen");
        }
        for len in 0..out.len() {
            assert!(decode(&out[..len], ShardId(1)).is_err(), "cut to {len} went unseen");
        }
    }
}
