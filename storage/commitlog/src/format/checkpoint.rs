//! A checkpoint file: the state machine at one log id, in an envelope.
//!
//! ```text
//!  0 u64 magic "BRGCKP01"       24 u64 term
//!  8 u32 CRC32C of [12, end)    32 u64 index
//! 12 u16 format version         40 u64 length of the state
//! 14 u16 1: it came from a peer
//! 16 u32 shard                  48 refused runs: u64 index, u32 run, u32 reserved each
//! 20 u32 count of refused runs     then the state, opaque here
//! ```

use super::{Fields, FormatError, Writer, group, part};
use barrage_model::{LogId, ShardId};
use std::collections::BTreeSet;

const MAGIC: u64 = u64::from_le_bytes(*b"BRGCKP01");
const VERSION: u16 = 1;
const INSTALLED: u16 = 1;
const HEADER_BYTES: usize = 48;

const REFUSED_BYTES: usize = 16;

/// What a checkpoint file holds. A log is opened with the one its state machine was restored from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last entry that is applied in it.
    pub id: LogId,
    /// Runs that apply refused, which the log itself does not tell.
    pub(crate) refused: BTreeSet<(u64, u32)>,
    /// It came from a peer: the log may end before it.
    pub(crate) installed: bool,
    /// The state machine's own bytes. Opening a log does not look at them.
    pub state: Vec<u8>,
}

/// Wraps the state.
pub(crate) fn encode(shard: ShardId, checkpoint: &Checkpoint) -> Vec<u8> {
    let Checkpoint { id, refused, installed, state } = checkpoint;
    let mut out = vec![0; HEADER_BYTES + refused.len() * REFUSED_BYTES + state.len()];
    let mut writer = Writer::new(&mut out);
    writer.u64(MAGIC);
    writer.u32(0);
    writer.u16(VERSION);
    writer.u16(if *installed { INSTALLED } else { 0 });
    writer.u32(shard.0);
    writer.u32(refused.len() as u32);
    group::put_log_id(&mut writer, Some(*id));
    writer.u64(state.len() as u64);
    for (index, run) in refused {
        writer.u64(*index);
        writer.u32(*run);
        writer.u32(0);
    }
    writer.put(state);
    let crc = crc32c::crc32c(out.get(12..).unwrap_or_default());
    if let Some(slot) = out.get_mut(8..12) {
        slot.copy_from_slice(&crc.to_le_bytes());
    }
    out
}

/// Unwraps the state.
pub(crate) fn decode(bytes: &[u8], shard: ShardId) -> Result<Checkpoint, FormatError> {
    let mut fields = Fields::new(bytes);
    if fields.u64()? != MAGIC {
        return Err(FormatError::Magic);
    }
    if fields.u32()? != crc32c::crc32c(part(bytes, 12, bytes.len())?) {
        return Err(FormatError::Checksum);
    }
    let version = fields.u16()?;
    if version != VERSION {
        return Err(FormatError::Version(u32::from(version)));
    }
    let installed = match fields.u16()? {
        0 => false,
        INSTALLED => true,
        _ => return Err(FormatError::Field("origin")),
    };
    if ShardId(fields.u32()?) != shard {
        return Err(FormatError::Elsewhere("shard"));
    }
    let refused_count = fields.u32()? as usize;
    let id = group::read_log_id(&mut fields)?;
    let len = fields.u64()?;
    let mut refused = BTreeSet::new();
    for _ in 0..refused_count {
        let row = (fields.u64()?, fields.u32()?);
        fields.u32()?;
        refused.insert(row);
    }
    let state = part(bytes, HEADER_BYTES + refused_count * REFUSED_BYTES, bytes.len())?;
    if len != state.len() as u64 {
        return Err(FormatError::Field("length"));
    }
    Ok(Checkpoint { id, refused, installed, state: state.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use barrage_model::{LogIndex, Term};

    #[test]
    fn golden_bytes_round_trip_and_damage() {
        let id = LogId { term: Term(2), index: LogIndex(3) };
        let refused = BTreeSet::from([(4, 5)]);
        let whole = Checkpoint { id, refused, installed: false, state: b"state".to_vec() };
        let bytes = encode(ShardId(1), &whole);
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, GOLDEN, "the checkpoint format changed: raise the version");
        assert_eq!(decode(&bytes, ShardId(1)), Ok(whole.clone()));
        let installed = Checkpoint { installed: true, ..whole };
        assert_eq!(decode(&encode(ShardId(1), &installed), ShardId(1)), Ok(installed));
        assert_eq!(decode(&bytes, ShardId(2)), Err(FormatError::Elsewhere("shard")));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(decode(&bad, ShardId(1)).is_err(), "a flip at {at} went unseen");
        }
    }
    const GOLDEN: &str = concat!(
        "425247434b503031dc86e30001000000010000000100000002000000000000000300000000000000",
        "0500000000000000040000000000000005000000000000007374617465",
    );
}
