//! CRC32C arithmetic: what becomes of a CRC when bytes follow, without reading those bytes.
//!
//! Owns: multiplication by powers of x modulo the Castagnoli polynomial.
//! Must never do: read a payload. The `crc32c` crate does that, in hardware.
//! Invariants: `combine(crc(a), crc(b), b.len()) == crc(ab)`. The crate's own combine squares
//! 32 x 32 matrices (16 us for 64 KiB); this costs a few hundred operations.

/// The CRC32C polynomial, bit-reversed: bit 31 is x^0.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;
const X_TO_THE_8: u32 = 1 << (31 - 8);

/// The CRC32C of two byte strings joined, from their CRCs and the length of the second.
#[must_use]
pub fn combine(first: u32, second: u32, second_len: usize) -> u32 {
    shift(first, second_len) ^ second
}

/// The part of `crc` that remains visible after `len` more bytes: `crc` * x^(8 len).
pub(crate) fn shift(crc: u32, mut len: usize) -> u32 {
    let mut power = ONE;
    let mut square = X_TO_THE_8;
    while len != 0 {
        if len & 1 == 1 {
            power = multiply(square, power);
        }
        square = multiply(square, square);
        len >>= 1;
    }
    multiply(power, crc)
}

/// `a` * `b` modulo the polynomial.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut mask = ONE;
    while mask != 0 {
        if a & mask != 0 {
            product ^= b;
        }
        b = if b & 1 == 1 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        mask >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_equals_the_crc_of_the_whole() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
        for split in [0, 1, 40, 4096, 65_537, 99_999, 100_000] {
            let (a, b) = bytes.split_at(split);
            let whole = crc32c::crc32c(&bytes);
            assert_eq!(combine(crc32c::crc32c(a), crc32c::crc32c(b), b.len()), whole, "{split}");
        }
    }

    #[test]
    fn combine_equals_the_crate() {
        for len in [1, 7, 61, 1 << 20, 8 << 20] {
            let want = crc32c::crc32c_combine(0x1234_5678, 0x9abc_def0, len);
            assert_eq!(combine(0x1234_5678, 0x9abc_def0, len), want, "{len}");
        }
    }
}
