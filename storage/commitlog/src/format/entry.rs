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
//!      | u32 bytes | u32 1: its batches are gone (in a thin entry), else 0
//! ```
//!
//! A thin entry is one that was written again without batches that nobody may read any more. It is
//! the same entry: its header tells the body as it was, so that hashes and fingerprints stay. What
//! is left of the body has a checksum of its own.
//!
//! ```text
//!  0 u32 magic "BRT1"          16 the entry's header, as it was
//!  4 u32 CRC32C of [8, length) 96 run table with what is gone, command, the batches that are left
//!  8 u32 length
//! 12 u32 reserved, zero
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
/// Bytes before the header of a thin entry.
const THIN_BYTES: usize = 16;
/// Where the hash of the entry before stands in the header.
const PREVIOUS_HASH: std::ops::Range<usize> = 56..64;
const MAGIC: u32 = u32::from_le_bytes(*b"BRE1");
const THIN_MAGIC: u32 = u32::from_le_bytes(*b"BRT1");
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
    /// Bytes of all that is here, when batches of the entry are gone.
    thin_len: Option<u32>,
}

impl Header {
    /// Bytes that the entry takes here.
    pub(crate) fn len(&self) -> usize {
        match self.thin_len {
            Some(len) => len as usize,
            None => HEADER_BYTES + self.body_len as usize,
        }
    }

    /// Where the run table begins.
    fn table_start(&self) -> usize {
        HEADER_BYTES + if self.thin_len.is_some() { THIN_BYTES } else { 0 }
    }
}

/// Bytes the entry takes in a group.
pub(crate) fn encoded_len(entry: &Entry) -> usize {
    let kept = entry.runs.iter().filter(|run| run.gone.is_none());
    let payload: usize = kept.map(|run| run.byte_len as usize).sum();
    lead_start(entry) + lead_len(entry) + payload
}

/// Where the first batch of the entry begins in it.
pub(crate) fn payload_start(entry: &Entry) -> usize {
    lead_start(entry) + lead_len(entry)
}

fn lead_start(entry: &Entry) -> usize {
    HEADER_BYTES + if gone(entry).is_some() { THIN_BYTES } else { 0 }
}

/// The CRC of the body as it was, when batches are gone.
fn gone(entry: &Entry) -> Option<u32> {
    entry.runs.iter().find_map(|run| run.gone)
}

/// The bytes of the header of an entry that begins with `entry`.
pub(crate) fn head(entry: &[u8]) -> &[u8] {
    let is_thin = entry.first_chunk().is_some_and(|magic| *magic == THIN_MAGIC.to_le_bytes());
    let start = if is_thin { THIN_BYTES } else { 0 };
    entry.get(start..start + HEADER_BYTES).unwrap_or_default()
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
    if let Some(body_crc) = gone(entry) {
        return encode_thin(entry, (shard, previous_hash, body_crc), out);
    }
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

/// As [`encode`], of an entry some of whose batches are gone.
fn encode_thin(
    entry: &Entry,
    (shard, previous_hash, body_crc): (ShardId, u64, u32),
    out: &mut [u8],
) -> (usize, u64, Running) {
    let len = encoded_len(entry);
    let Some((thin, rest)) = out.get_mut(..len).and_then(|o| o.split_at_mut_checked(THIN_BYTES))
    else {
        panic!("an entry of {len} bytes does not fit its group");
    };
    let (head, body) = rest.split_at_mut(HEADER_BYTES);
    let kept_crc = encode_body(entry, body);
    write_header(entry, shard, previous_hash, body_len(entry), body_crc, head);
    write_thin(len, thin);
    let mut crc = Running::over(thin.get(8..).unwrap_or_default());
    crc.add(head);
    crc.known(body, kept_crc);
    put_crc(thin, crc.value());
    let mut whole = Running::over(thin);
    whole.add(head);
    whole.known(body, kept_crc);
    (len, header_hash(head), whole)
}

/// Bytes of the body with all of its batches.
fn body_len(entry: &Entry) -> usize {
    lead_len(entry) + entry.runs.iter().map(|run| run.byte_len as usize).sum::<usize>()
}

/// What stands before the header of a thin entry, but for the checksum.
fn write_thin(len: usize, thin: &mut [u8]) {
    let mut writer = Writer::new(thin);
    writer.u32(THIN_MAGIC);
    writer.u32(0);
    writer.u32(len as u32);
    writer.u32(0);
    assert_eq!(writer.position(), THIN_BYTES);
}

/// Writes a CRC to where headers have theirs.
fn put_crc(head: &mut [u8], crc: u32) {
    if let Some(slot) = head.get_mut(4..8) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
}

/// As [`encode`], in pieces: the payload stays where it is, and is not read either, but for
/// batches that are cheaper to copy. The hash of the entry before is left out.
pub(crate) fn encode_pieces(entry: &Entry, shard: ShardId, out: &mut Pieces) {
    assert!(entry.runs.len() <= RUNS_MAX, "too many runs in one entry");
    let mut lead = vec![0; payload_start(entry)];
    let (thin, lead_bytes) = lead.split_at_mut(lead_start(entry) - HEADER_BYTES);
    let (head, rest) = lead_bytes.split_at_mut(HEADER_BYTES);
    write_lead(entry, rest);
    let was = gone(entry);
    if let Some(body_crc) = was {
        write_header(entry, shard, 0, body_len(entry), body_crc, head);
        write_thin(encoded_len(entry), thin);
    }
    // Of a body as it was, or of all that is left.
    let mut crc = Running::default();
    if was.is_some() {
        crc.add(thin.get(8..).unwrap_or_default());
        crc.add(head);
    }
    crc.add(rest);
    for run in &entry.runs {
        let mut len = 0;
        for batch in &run.batches {
            let (stamped, records) = stamp(batch);
            crc.add(&stamped);
            crc.known(records, batch.crc);
            len += batch.bytes.len();
        }
        let right = if run.gone.is_some() { 0 } else { run.byte_len as usize };
        assert_eq!(len, right, "byte_len must match the batches");
    }
    match was {
        Some(_) => put_crc(thin, crc.value()),
        None => write_header(entry, shard, 0, body_len(entry), crc.value(), head),
    }
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
    put_crc(head, crc);
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
        writer.u32(u32::from(run.gone.is_some()));
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
        let right = if run.gone.is_some() { 0 } else { run.byte_len as usize };
        assert_eq!(at - start, right, "byte_len must match the run's batches");
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
    let mut fields = Fields::new(bytes);
    if fields.u32()? != THIN_MAGIC {
        return decode_head(part(bytes, 0, HEADER_BYTES)?, shard);
    }
    fields.u32()?;
    let len = fields.u32()?;
    let header = decode_head(part(bytes, THIN_BYTES, THIN_BYTES + HEADER_BYTES)?, shard)?;
    let least = header.run_count as usize * RUN_BYTES + header.command_len as usize;
    let body_len = (len as usize).checked_sub(THIN_BYTES + HEADER_BYTES);
    if body_len.is_none_or(|left| !(least..=header.body_len as usize).contains(&left)) {
        return Err(FormatError::Field("length of a thin entry"));
    }
    Ok(Header { thin_len: Some(len), ..header })
}

fn decode_head(bytes: &[u8], shard: ShardId) -> Result<Header, FormatError> {
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
        thin_len: None,
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
    check_all(&decode_header(entry, shard)?, entry)
}

fn check_all(header: &Header, entry: &[u8]) -> Result<(), FormatError> {
    let (covered, crc) = match header.thin_len {
        None => (part(entry, HEADER_BYTES, header.len())?, header.body_crc),
        Some(_) => (part(entry, 8, header.len())?, Fields::new(part(entry, 4, 8)?).u32()?),
    };
    if crc32c::crc32c(covered) != crc {
        return Err(FormatError::Checksum);
    }
    Ok(())
}

/// A hash of all of the header that is the same on every replica, the CRC of the body among it.
pub(crate) fn fingerprint(entry: &[u8]) -> Option<u64> {
    let mut head: [u8; HEADER_BYTES] = *head(entry).first_chunk()?;
    // Its own CRC covers the hash of the entry before, which a log begun behind a floor lacks.
    head.get_mut(4..8)?.fill(0);
    head.get_mut(PREVIOUS_HASH)?.fill(0);
    Some(header_hash(&head))
}

/// How the entry hangs together with the one before it, in the log it was read from.
pub(crate) fn link(entry: &[u8]) -> Option<Link> {
    let head: &[u8; HEADER_BYTES] = head(entry).first_chunk()?;
    let previous = head.get(PREVIOUS_HASH)?.first_chunk()?;
    Some(Link { previous: u64::from_le_bytes(*previous), own: header_hash(head) })
}

/// Reads the run table. Gives each run without payload and the start of its bytes in the entry.
pub(crate) fn decode_runs(header: &Header, entry: &[u8]) -> Result<Vec<(Run, usize)>, FormatError> {
    let table_start = header.table_start();
    let table_end = table_start + header.run_count as usize * RUN_BYTES;
    let mut fields = Fields::new(part(entry, table_start, table_end)?);
    let mut at = table_end + header.command_len as usize;
    let mut body_len = at - table_start;
    let mut runs = Vec::with_capacity(header.run_count as usize);
    for _ in 0..header.run_count {
        let topic = TopicId(fields.u64()?);
        let partition = PartitionId(fields.u32()?);
        let record_count = fields.u32()?;
        let base_offset = Offset(fields.count("offset")?);
        let max_timestamp = fields.i64()?;
        let byte_len = fields.u32()?;
        let gone = match (fields.u32()?, header.thin_len) {
            (0, _) => None,
            (1, Some(_)) => Some(header.body_crc),
            _ => return Err(FormatError::Field("flags of a run")),
        };
        let key = PartitionKey { topic, partition };
        let batches = Vec::new();
        let run = Run { key, base_offset, record_count, max_timestamp, byte_len, batches, gone };
        let here = if run.gone.is_some() { 0 } else { byte_len as usize };
        runs.push((run, at));
        let bytes = |sum: usize, more| sum.checked_add(more).ok_or(FormatError::Field("run bytes"));
        (at, body_len) = (bytes(at, here)?, bytes(body_len, byte_len as usize)?);
    }
    if at != header.len() || body_len != header.body_len as usize {
        return Err(FormatError::Field("run bytes"));
    }
    if header.thin_len.is_some() && runs.iter().all(|(run, _)| run.gone.is_none()) {
        return Err(FormatError::Field("a thin entry with all of its batches"));
    }
    Ok(runs)
}

/// Reads a whole entry that lies at the start of `bytes`; its runs carry no payload.
pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Entry, FormatError> {
    let header = decode_header(bytes, shard)?;
    check_all(&header, bytes)?;
    let runs = decode_runs(&header, bytes)?.into_iter().map(|(run, _)| run).collect();
    let command_start = header.table_start() + header.run_count as usize * RUN_BYTES;
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
    if bytes.len() != header.len() {
        return Err(FormatError::Field("entry length"));
    }
    for (run, (_, start)) in entry.runs.iter_mut().zip(decode_runs(&header, bytes)?) {
        if run.gone.is_some() {
            continue;
        }
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
            gone: None,
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

    /// An entry of two runs, and the same without the batches of the first.
    fn thinned(len: usize) -> (Entry, Entry) {
        let mut whole = with_run(len);
        whole.runs.extend(with_run(61).runs);
        let mut out = vec![0; encoded_len(&whole)];
        encode(&whole, ShardId(1), 42, &mut out);
        let body_crc = decode_header(&out, ShardId(1)).unwrap().body_crc;
        let mut thin = whole.clone();
        thin.runs[0].gone = Some(body_crc);
        thin.runs[0].batches.clear();
        (whole, thin)
    }

    #[test]
    fn a_thin_entry_is_the_same_entry() {
        for len in [61, 4096, COMBINED] {
            let (whole, thin) = thinned(len);
            let [mut was, mut is] = [&whole, &thin].map(|entry| vec![0; encoded_len(entry)]);
            let (_, hash, _) = encode(&whole, ShardId(1), 42, &mut was);
            let (written, own, crc) = encode(&thin, ShardId(1), 42, &mut is);
            assert_eq!((written, own), (was.len() - len + THIN_BYTES, hash));
            assert_eq!(crc.value(), crc32c::crc32c(&is));
            assert_eq!((head(&is), fingerprint(&is)), (head(&was), fingerprint(&was)));
            assert_eq!(link(&is), link(&was));
            let back = decode(&is, ShardId(1)).unwrap();
            assert_eq!((back.id, &back.command), (whole.id, &whole.command));
            assert_eq!(back.runs[0].gone, thin.runs[0].gone);
            assert_eq!((back.runs[0].byte_len, back.runs[1].gone), (len as u32, None));
            let header = decode_header(&is, ShardId(1)).unwrap();
            assert_eq!(header.len(), is.len());
            let runs = decode_runs(&header, &is).unwrap();
            assert_eq!(runs[1].1, is.len() - 61);
            let mut pieces = Pieces::default();
            encode_pieces(&thin, ShardId(1), &mut pieces);
            encode(&thin, ShardId(1), 0, &mut is);
            assert!(pieces.into_bytes() == is);
        }
    }

    #[test]
    fn golden_bytes_of_a_thin_entry() {
        let (_, thin) = thinned(61);
        let mut out = vec![0; encoded_len(&thin)];
        encode(&thin, ShardId(1), 0, &mut out);
        let hex: String = out.iter().take(THIN_BYTES).map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN_THIN);
        assert_eq!(&out[THIN_BYTES + HEADER_BYTES + 36..][..4], [1, 0, 0, 0]);
    }
    const GOLDEN_THIN: &str = "42525431a590ccddf000000000000000";

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
        for entry in [with_run(61), thinned(61).1] {
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
}
