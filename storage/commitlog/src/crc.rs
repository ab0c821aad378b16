//! CRC32C over bytes that are already in memory, and over bytes whose CRC is already known.
//!
//! An entry's CRC and a flush group's CRC both cover the payload. Passing over the payload twice
//! more would cost a seventh of the throughput each (design section 6), so the CRC that the door
//! has checked is joined in with [`Running::known`] instead.

use barrage_model::crc::combine;

/// Payloads shorter than this are cheaper to read again than to join by arithmetic.
const COMBINE_BYTES_MIN: usize = 16 * 1024;

/// A CRC32C that grows piece by piece.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Running(u32);

impl Running {
    /// A running CRC that has seen `bytes`.
    pub(crate) fn over(bytes: &[u8]) -> Self {
        Self(crc32c::crc32c(bytes))
    }

    /// Adds bytes by reading them.
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.0 = crc32c::crc32c_append(self.0, bytes);
    }

    /// Adds bytes whose CRC is `crc`, reading them only when that is cheaper.
    pub(crate) fn known(&mut self, bytes: &[u8], crc: u32) {
        if bytes.len() < COMBINE_BYTES_MIN {
            self.add(bytes);
        } else {
            self.0 = combine(self.0, crc, bytes.len());
        }
    }

    /// The CRC of everything seen.
    pub(crate) fn value(self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::Running;

    #[test]
    fn joined_equals_read() {
        let bytes: Vec<u8> = (0..100_000u32).map(|n| (n * 31 % 251) as u8).collect();
        for cut in [0, 1, 7, 4096, 50_000, 99_999, 100_000] {
            let (first, second) = bytes.split_at(cut);
            let whole = crc32c::crc32c(&bytes);
            let mut running = Running::over(first);
            running.known(second, crc32c::crc32c(second));
            assert_eq!(running.value(), whole, "cut at {cut}");
        }
    }
}
