//! The entry table of an index file: where each entry of a sealed segment lies, a row of one size
//! for each, so that the row of an index is found by counting.
//!
//! ```text
//! block, 4096 bytes:  [row]*255 | u64 index of the first row's entry | u32 rows | u32 CRC32C
//! row, 16 bytes:      u32 position behind the segment's first group | u32 bytes | u64 header hash
//! ```
//!
//! A block is read and checked by itself. Its CRC starts from the segment's salt, so that a block
//! of another file, or of an earlier life of this one, does not pass. Unused rows are zero.

use super::{BLOCK_BYTES, Fields, FormatError, Writer, part};

/// Bytes of one row.
pub(crate) const ROW_BYTES: usize = 16;
/// What stands behind the rows of a block.
const TAIL_BYTES: usize = 16;
/// Rows of a block.
pub(crate) const BLOCK_ROWS: usize = (BLOCK_BYTES - TAIL_BYTES) / ROW_BYTES;

const _: () = assert!(BLOCK_ROWS * ROW_BYTES + TAIL_BYTES == BLOCK_BYTES);

/// Where one entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Bytes from the segment's first log position.
    pub(crate) offset: u32,
    pub(crate) len: u32,
    pub(crate) header_hash: u64,
}

/// Bytes of a table of so many rows.
pub(crate) fn encoded_len(rows: usize) -> usize {
    rows.div_ceil(BLOCK_ROWS) * BLOCK_BYTES
}

/// Writes the rows of the entries from `first` on, in whole blocks.
pub(crate) fn encode(salt: u64, first: u64, rows: &[Row], out: &mut [u8]) {
    assert_eq!(out.len(), encoded_len(rows.len()), "a table fills its blocks");
    for (number, (rows, block)) in
        rows.chunks(BLOCK_ROWS).zip(out.chunks_mut(BLOCK_BYTES)).enumerate()
    {
        let (body, tail) = block.split_at_mut(BLOCK_BYTES - TAIL_BYTES);
        body.fill(0);
        let mut writer = Writer::new(body);
        for row in rows {
            writer.u32(row.offset);
            writer.u32(row.len);
            writer.u64(row.header_hash);
        }
        let mut writer = Writer::new(tail);
        writer.u64(first + (number * BLOCK_ROWS) as u64);
        writer.u32(rows.len() as u32);
        let crc = crc(salt, block);
        if let Some(slot) = block.last_chunk_mut() {
            *slot = crc.to_le_bytes();
        }
    }
}

/// Reads the block whose first row is that of entry `first`.
pub(crate) fn decode(salt: u64, first: u64, block: &[u8]) -> Result<Vec<Row>, FormatError> {
    let block = part(block, 0, BLOCK_BYTES)?;
    let mut tail = Fields::new(part(block, BLOCK_BYTES - TAIL_BYTES, BLOCK_BYTES)?);
    let (found, count, claimed) = (tail.u64()?, tail.u32()? as usize, tail.u32()?);
    if crc(salt, block) != claimed {
        return Err(FormatError::Checksum);
    }
    if found != first {
        return Err(FormatError::Elsewhere("first entry"));
    }
    if count == 0 || count > BLOCK_ROWS {
        return Err(FormatError::Field("rows"));
    }
    let mut fields = Fields::new(block);
    (0..count)
        .map(|_| Ok(Row { offset: fields.u32()?, len: fields.u32()?, header_hash: fields.u64()? }))
        .collect()
}

fn crc(salt: u64, block: &[u8]) -> u32 {
    let covered = block.get(..block.len().saturating_sub(size_of::<u32>())).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(number: u32) -> Row {
        Row { offset: number * 100, len: 80 + number, header_hash: u64::from(number) + 7 }
    }

    fn table(count: u32) -> (Vec<Row>, Vec<u8>) {
        let rows: Vec<Row> = (0..count).map(row).collect();
        let mut bytes = vec![0xff; encoded_len(rows.len())];
        encode(3, 10, &rows, &mut bytes);
        (rows, bytes)
    }

    #[test]
    fn golden_bytes() {
        let (_, bytes) = table(2);
        let hex = |range| -> String {
            let bytes: &[u8] = bytes.get::<std::ops::Range<usize>>(range).unwrap();
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(hex(0..32), GOLDEN_ROWS, "the table changed: raise the index file's version");
        assert_eq!(hex(4080..4096), GOLDEN_TAIL);
        assert!(bytes[32..4080].iter().all(|byte| *byte == 0));
    }
    const GOLDEN_ROWS: &str = "0000000050000000070000000000000064000000510000000800000000000000";
    const GOLDEN_TAIL: &str = "0a000000000000000200000055b8bd32";

    #[test]
    fn every_row_is_found_by_counting() {
        for count in [1, 2, 254, 255, 256, 511] {
            let (rows, bytes) = table(count);
            let mut found = Vec::new();
            for block in bytes.chunks(BLOCK_BYTES) {
                found.extend(decode(3, 10 + found.len() as u64, block).unwrap());
            }
            assert_eq!(found, rows);
        }
        assert_eq!(encoded_len(0), 0);
    }

    #[test]
    fn damage_is_found() {
        let (_, bytes) = table(255);
        for at in 0..BLOCK_BYTES {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(3, 10, &bad).is_err(), "a flip at {at} went unseen");
        }
        assert!(decode(4, 10, &bytes).is_err(), "a block of another segment");
        assert!(decode(3, 11, &bytes).is_err(), "a block of another place");
        assert!(decode(3, 10, &bytes[..4095]).is_err());
        assert!(decode(3, 10, &[0; BLOCK_BYTES]).is_err());
    }
}
