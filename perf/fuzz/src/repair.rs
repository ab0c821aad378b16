//! Makes the checksums and lengths of a changed input right again, so that what lies behind them
//! is reached. A checksum stops noise, not a writer that is wrong or means harm.
//!
//! Owns: where each format keeps them. Where a format moves, its seeds are no longer taken and the
//! replay fails. Must never: touch any other byte.

#![cfg_attr(sim, expect(dead_code, reason = "the formats that need no disk are fed elsewhere"))]

/// The envelope of commands, checkpoints and messages: `u32` length at 4, CRC32C at 8 over what
/// lies before it and behind it.
pub(crate) fn envelope(bytes: &mut [u8]) {
    let Some((head, body)) = bytes.split_at_mut_checked(12) else { return };
    put(head, 4, &(body.len() as u32).to_le_bytes());
    let covered = crc32c::crc32c(head.get(..8).unwrap_or_default());
    put(head, 8, &crc32c::crc32c_append(covered, body).to_le_bytes());
}

/// How a group's checkpoint begins: kind, version, zero.
const CHECKPOINT: &[u8] = &[6, 1, 0, 0];

/// How a request between replicas begins.
const REQUEST: &[u8] = &[3, 1, 0, 0];

/// A message between replicas: its envelope and, behind that of a request, the entries or the
/// checkpoint it carries.
pub(crate) fn message(bytes: &mut [u8]) {
    let Some(room) = bytes.len().checked_sub(12) else { return };
    let size = if bytes.starts_with(REQUEST) { u32_at(bytes, 4) as usize } else { room };
    let (head, tail) = bytes.split_at_mut(12 + size.min(room));
    envelope(head);
    if tail.starts_with(CHECKPOINT) {
        envelope(tail);
    } else {
        entries(tail);
    }
}

/// Frames between nodes, one behind the other: of 64 bytes the last 4 are the CRC of those before,
/// and the body's length is at 52. Or a contact: the CRC at 0 covers the rest.
pub(crate) fn frames(bytes: &mut [u8]) {
    const HEAD: usize = 64;
    if !bytes.starts_with(b"BPEE") {
        return seal(bytes, 0, 4);
    }
    let mut rest = bytes;
    while let Some((head, behind)) = rest.split_at_mut_checked(HEAD) {
        let size = (u32_at(head, 52) as usize).min(behind.len());
        put(head, 52, &(size as u32).to_le_bytes());
        let crc = crc32c::crc32c(head.get(..60).unwrap_or_default());
        put(head, 60, &crc.to_le_bytes());
        let (body, others) = behind.split_at_mut(size);
        if head.get(5) == Some(&2) {
            seal(body, 0, 4);
        }
        rest = others;
    }
}

/// Entries of the log, each behind a `u32` length.
fn entries(mut bytes: &mut [u8]) {
    while let Some((length, rest)) = bytes.split_first_chunk_mut::<4>() {
        let size = (u32::from_le_bytes(*length) as usize).min(rest.len());
        *length = (size as u32).to_le_bytes();
        let (own, others) = rest.split_at_mut(size);
        entry(own);
        bytes = others;
    }
}

/// An entry of the log that fills `bytes`: body length at 8, CRC of the body at 12, CRC of
/// `[8, 80)` at 4. A thin one has its length at 8, the CRC of `[8, end)` at 4, and the header of
/// the entry, which is right as to itself, at 16.
pub(crate) fn entry(bytes: &mut [u8]) {
    if bytes.starts_with(b"BRT1") && bytes.len() >= 96 {
        if let Some(head) = bytes.get_mut(16..96) {
            seal(head, 4, 8);
        }
        put(bytes, 8, &(bytes.len() as u32).to_le_bytes());
        return seal(bytes, 4, 8);
    }
    let Some((head, body)) = bytes.split_at_mut_checked(80) else { return };
    put(head, 8, &(body.len() as u32).to_le_bytes());
    put(head, 12, &crc32c::crc32c(body).to_le_bytes());
    seal(head, 4, 8);
}

/// A structure whose CRC at `at` covers `[from, end)`.
pub(crate) fn seal(bytes: &mut [u8], at: usize, from: usize) {
    let crc = crc32c::crc32c(bytes.get(from..).unwrap_or_default());
    put(bytes, at, &crc.to_le_bytes());
}

/// A flush group that fills `bytes`: length at 40, and at 4 the CRC of the salt and `[8, end)`.
pub(crate) fn group(bytes: &mut [u8], salt: u64) {
    put(bytes, 40, &(bytes.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c(&salt.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, bytes.get(8..).unwrap_or_default());
    put(bytes, 4, &crc.to_le_bytes());
}

/// An index file: `u32` rows at 20, terms at 84, entries at 80 from index `u64` at 72 on, which end
/// where `u64` at 64 says; salt at 32, hash of the last entry at 88, flags at 112. A row of 72
/// bytes has its `u32` count of runs at 12, their place at 56 and their CRC at 64; a run has 40
/// bytes, a term 16. The CRC at 8 covers `[12, runs)`. Behind the runs, at a whole block, lies the
/// entry table.
pub(crate) fn index(bytes: &mut [u8]) {
    const HEAD: usize = 120;
    const ROW: usize = 72;
    const TERM: usize = 16;
    let Some(room) = bytes.len().checked_sub(HEAD) else { return };
    let rows = (u32_at(bytes, 20) as usize).min(room / ROW);
    put(bytes, 20, &(rows as u32).to_le_bytes());
    let terms = (u32_at(bytes, 84) as usize).min((room - rows * ROW) / TERM);
    let terms_start = HEAD + rows * ROW;
    let mut start = terms_start + terms * TERM;
    let head_end = start;
    for row in 0..rows {
        let at = HEAD + row * ROW;
        let count = (u32_at(bytes, at + 12) as usize).min((bytes.len() - start) / 40);
        put(bytes, at + 12, &(count as u32).to_le_bytes());
        let crc = crc32c::crc32c(bytes.get(start..start + count * 40).unwrap_or_default());
        put(bytes, at + 56, &(start as u64).to_le_bytes());
        put(bytes, at + 64, &crc.to_le_bytes());
        start += count * 40;
    }
    let entries = entry_table(bytes, start.next_multiple_of(4096), terms);
    put(bytes, 80, &entries.to_le_bytes());
    let terms = if entries == 0 { 0 } else { terms as u32 };
    put(bytes, 84, &terms.to_le_bytes());
    let first = u64_at(bytes, 72);
    if entries > 0 {
        put(bytes, terms_start, &first.to_le_bytes());
        put(bytes, 64, &first.wrapping_add(u64::from(entries)).to_le_bytes());
    }
    if rows > 0 {
        put(bytes, 112, &1_u32.to_le_bytes());
    }
    // With fewer terms the runs begin earlier; the next round fits them.
    if let Some(head) = bytes.get_mut(..head_end) {
        seal(head, 8, 12);
    }
}

/// The blocks of an entry table at `start`: 255 rows of 16 bytes, the first one's index at 4080,
/// their count at 4088, the CRC of salt and block at 4092. Gives how many entries there are.
fn entry_table(bytes: &mut [u8], start: usize, terms: usize) -> u32 {
    const ROWS: usize = 255;
    let (salt, first) = (u64_at(bytes, 32), u64_at(bytes, 72));
    let wanted = if terms == 0 { 0 } else { u32_at(bytes, 80) as usize };
    let blocks = bytes.get(start..).map_or(0, |rest| rest.len() / 4096);
    let entries = wanted.min(blocks * ROWS);
    let table = bytes.get_mut(start..).unwrap_or_default();
    for (number, block) in table.chunks_exact_mut(4096).take(entries.div_ceil(ROWS)).enumerate() {
        let rows = (entries - number * ROWS).min(ROWS);
        put(block, 4080, &first.wrapping_add((number * ROWS) as u64).to_le_bytes());
        put(block, 4088, &(rows as u32).to_le_bytes());
        let crc = crc32c::crc32c(&salt.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, block.get(..4092).unwrap_or_default());
        put(block, 4092, &crc.to_le_bytes());
    }
    let last = entries.checked_sub(1);
    let hash =
        last.map_or(0, |last| u64_at(bytes, start + last / ROWS * 4096 + last % ROWS * 16 + 8));
    put(bytes, 88, &hash.to_le_bytes());
    entries as u32
}

/// A checkpoint file: `u32` refused runs of 16 bytes at 20, from 40 on, CRC of them at 8; then
/// parts behind their length and the CRC of all up to there; a length of 2^31 is the end, before
/// zeros.
pub(crate) fn checkpoint(bytes: &mut [u8]) {
    const END: u32 = 1 << 31;
    let Some(room) = bytes.len().checked_sub(40) else { return };
    let refused = (u32_at(bytes, 20) as usize).min(room / 16);
    put(bytes, 20, &(refused as u32).to_le_bytes());
    let (head, mut rest) = bytes.split_at_mut(40 + refused * 16);
    seal(head, 8, 12);
    let mut crc = u32_at(head, 8);
    while let Some((frame, behind)) = rest.split_at_mut_checked(8) {
        let wanted = u32_at(frame, 0);
        let len = if wanted == END { 0 } else { (wanted as usize).min(behind.len()) };
        let told = if wanted == END { END } else { len as u32 };
        put(frame, 0, &told.to_le_bytes());
        let (part, others) = behind.split_at_mut(len);
        crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, &told.to_le_bytes()), part);
        put(frame, 4, &crc.to_le_bytes());
        if wanted == END {
            return others.fill(0);
        }
        rest = others;
    }
}

/// A record batch that fills `bytes`: length at 8, CRC at 17 over `[21, end)`, big-endian.
pub(crate) fn batch(bytes: &mut [u8]) {
    put(bytes, 8, &(bytes.len().saturating_sub(12) as u32).to_be_bytes());
    let crc = crc32c::crc32c(bytes.get(21..).unwrap_or_default());
    put(bytes, 17, &crc.to_be_bytes());
}

/// Overwrites the bytes at `at`, if they are there.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

/// The number at `at`, or 0.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number.map_or(0, |number| u64::from_le_bytes(*number))
}

/// The number at `at`, or 0.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let number = bytes.get(at..).and_then(<[u8]>::first_chunk);
    number.map_or(0, |number| u32::from_le_bytes(*number))
}
