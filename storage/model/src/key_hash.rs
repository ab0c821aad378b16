//! The hash of a record's key: Kafka's, so that a key lies where Kafka's clients look for it.
//!
//! Owns: the hash. Must never do: depend on anything but the key's bytes.
//! Invariants: the result is below 2^31.

/// The murmur2 hash of a key with Kafka's seed, without its sign. The key's partition is the
/// remainder by their count.
#[must_use]
pub fn key_hash(key: &[u8]) -> u32 {
    murmur2(key).cast_unsigned() % SIGN
}

/// Kafka clears the sign bit: `hash & 0x7fff_ffff`, which is a remainder by this.
const SIGN: u32 = 0x8000_0000;

fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const MIX: u32 = 0x5bd1_e995;
    const SHIFT: u32 = 24;
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(MIX);
        k ^= k >> SHIFT;
        hash = hash.wrapping_mul(MIX) ^ k.wrapping_mul(MIX);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    hash ^= hash >> 15;
    hash.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_gives_kafkas_published_values() {
        let table: &[(&[u8], i32)] = &[
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (data, expected) in table {
            assert_eq!(murmur2(data), *expected, "hash of {}", data.escape_ascii());
            assert_eq!(key_hash(data), (expected & 0x7fff_ffff).cast_unsigned());
        }
    }
}
