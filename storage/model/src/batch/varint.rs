//! Zigzag variable-length integers, as in Kafka's records (and protocol buffers' `sint`).
//!
//! Owns: 7 bits a byte, lowest first, high bit set when more follow.
//! Must never do: read past 5 bytes (32 bit) or 10 bytes (64 bit).
//! Invariants: a value that was written reads back; a read never takes bytes when it fails.

const CONTINUE: u8 = 0x80;
const PAYLOAD: u8 = 0x7f;
const BITS_PER_BYTE: u32 = 7;

/// Appends `value`.
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= u64::from(CONTINUE) {
        out.push((rest as u8 & PAYLOAD) | CONTINUE);
        rest >>= BITS_PER_BYTE;
    }
    out.push(rest as u8);
}

/// How many bytes [`put`] appends for `value`.
pub(super) const fn size(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(BITS_PER_BYTE) as usize
}

/// Takes a 64-bit integer from the front of `bytes`.
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    let mut shift = 0;
    let mut rest = *bytes;
    loop {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        let part = u64::from(byte & PAYLOAD);
        // The tenth byte holds the one bit that is left.
        if shift == 63 && part > 1 {
            return None;
        }
        value |= part << shift;
        if byte & CONTINUE == 0 {
            *bytes = rest;
            return Some(unzigzag(value));
        }
        shift += BITS_PER_BYTE;
        if shift >= u64::BITS {
            return None;
        }
    }
}

/// Takes a 32-bit integer from the front of `bytes`.
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    const SIZE_MAX: usize = 5;
    let mut rest = *bytes;
    let value = i32::try_from(take_i64(&mut rest)?).ok()?;
    if bytes.len() - rest.len() > SIZE_MAX {
        return None;
    }
    *bytes = rest;
    Some(value)
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn known_encodings() {
        let table: [(i64, &[u8]); 7] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (64, &[0x80, 0x01]),
            (-65, &[0x81, 0x01]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, want) in table {
            assert_eq!(encoded(value), want, "{value}");
            assert_eq!(size(value), want.len(), "{value}");
            let mut bytes = want;
            assert_eq!(take_i64(&mut bytes), Some(value));
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn every_power_of_two_round_trips() {
        for bit in 0..64 {
            for value in
                [1_i64 << bit, (1_i64 << bit).wrapping_neg(), (1_i64 << bit) - (bit < 63) as i64]
            {
                let bytes = encoded(value);
                assert_eq!(take_i64(&mut bytes.as_slice()), Some(value));
                assert_eq!(size(value), bytes.len());
            }
        }
    }

    #[test]
    fn bad_varints_are_refused_and_take_nothing() {
        let eleven = [0x80; 11];
        let too_wide = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02];
        for bytes in [&[][..], &[0x80], &eleven, &too_wide] {
            let mut rest = bytes;
            assert_eq!(take_i64(&mut rest), None);
            assert_eq!(rest, bytes);
        }
        let wide = encoded(i64::from(i32::MAX) + 1);
        assert_eq!(take_i32(&mut wide.as_slice()), None);
        let overlong = [0x80, 0x80, 0x80, 0x80, 0x80, 0x00];
        assert_eq!(take_i32(&mut overlong.as_slice()), None);
    }
}
