//! The five compressions of a batch's payload, with bounded opening.
//!
//! Owns: the codes of the attributes field and the framing that Kafka clients use with each.
//! Must never do: allocate what a payload claims; only what has been produced, up to a limit.
//! Invariants: what `compress` makes, `decompress` opens; codes are those of Kafka.
//!
//! Snappy is framed as by snappy-java ("xerial"), since Java clients read nothing else:
//!
//! ```text
//! 82 'S' 'N' 'A' 'P' 'P' 'Y' 00 | version i32 = 1 | compatible i32 = 1 | { size i32 | block }...
//! ```
//!
//! A raw snappy block without the frame, as librdkafka may send, is read too.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use super::BatchError;

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Snappy in xerial frames.
    Snappy,
    /// LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const XERIAL_VERSION: i32 = 1;
const XERIAL_HEADER_SIZE: usize = XERIAL_MAGIC.len() + 2 * size_of::<i32>();
/// Input of one snappy block; snappy-java's default.
const XERIAL_BLOCK_SIZE: usize = 32 * 1024;

/// Windows of up to 64 MiB are opened: every level but "ultra" with its largest window.
const ZSTD_WINDOW_LOG_MAX: u32 = 26;
/// A window of 128 KiB is opened however little may come out: blocks have that size.
const ZSTD_WINDOW_LOG_MIN: u32 = 17;

/// First guess of how much a payload grows when opened.
const GROWTH_GUESS: usize = 4;

impl Compression {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The code in the low three bits of a batch's attributes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The compression of a code.
    pub const fn from_code(code: u8) -> Result<Self, BatchError> {
        match code {
            0 => Ok(Self::None),
            1 => Ok(Self::Gzip),
            2 => Ok(Self::Snappy),
            3 => Ok(Self::Lz4),
            4 => Ok(Self::Zstd),
            _ => Err(BatchError::UnknownCompression { code }),
        }
    }

    /// The name on the command line and in configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Appends `payload`, compressed, to `out`.
    pub(super) fn compress(self, payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match self {
            Self::None => out.extend_from_slice(payload),
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(&mut *out, flate2::Compression::default());
                encoder.write_all(payload)?;
                encoder.finish()?;
            }
            Self::Snappy => compress_xerial(payload, out)?,
            Self::Lz4 => {
                let mut encoder = lz4_flex::frame::FrameEncoder::new(&mut *out);
                encoder.write_all(payload)?;
                encoder.finish().map_err(io::Error::other)?;
            }
            Self::Zstd => {
                let mut encoder =
                    zstd::stream::write::Encoder::new(&mut *out, zstd::DEFAULT_COMPRESSION_LEVEL)?;
                encoder.set_pledged_src_size(Some(payload.len() as u64))?;
                encoder.include_contentsize(true)?;
                encoder.write_all(payload)?;
                encoder.finish()?;
            }
        }
        Ok(())
    }

    /// Opens `payload` into a new buffer of at most `limit` bytes. What the decoder itself needs is
    /// bounded too: 64 KiB for gzip, nothing for snappy, a window of `limit` for Zstandard, and for
    /// LZ4 twice the largest block of its format, 16 MiB, which it takes when the frame claims it.
    pub(super) fn decompress(self, payload: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
        let malformed = |_| BatchError::Decompress { compression: self };
        match self {
            Self::None if payload.len() > limit => Err(BatchError::DecompressedTooLarge { limit }),
            Self::None => Ok(payload.to_vec()),
            Self::Gzip => self.read(flate2::bufread::MultiGzDecoder::new(payload), payload, limit),
            Self::Snappy => decompress_snappy(payload, limit),
            Self::Lz4 => self.read(lz4_flex::frame::FrameDecoder::new(payload), payload, limit),
            Self::Zstd => {
                // What is larger by its own words is not begun.
                if let Ok(Some(claim)) = zstd::zstd_safe::get_frame_content_size(payload)
                    && claim > limit as u64
                {
                    return Err(BatchError::DecompressedTooLarge { limit });
                }
                let mut decoder =
                    zstd::stream::read::Decoder::with_buffer(payload).map_err(malformed)?;
                decoder.window_log_max(zstd_window_log_max(limit)).map_err(malformed)?;
                self.read(decoder, payload, limit)
            }
        }
    }

    /// Reads all of `decoder`, one byte beyond `limit` at most, so that the excess shows; the
    /// buffer never grows beyond that byte.
    fn read(
        self,
        mut decoder: impl Read,
        payload: &[u8],
        limit: usize,
    ) -> Result<Vec<u8>, BatchError> {
        let bound = limit.saturating_add(1);
        let guess = payload.len().saturating_mul(GROWTH_GUESS).clamp(1, bound);
        let mut out = Vec::with_capacity(guess);
        loop {
            let room = out.capacity().min(bound) - out.len();
            let read = decoder.by_ref().take(room as u64).read_to_end(&mut out);
            let read = read.map_err(|_| BatchError::Decompress { compression: self })?;
            if out.len() > limit {
                return Err(BatchError::DecompressedTooLarge { limit });
            }
            if read < room {
                return Ok(out);
            }
            out.reserve_exact(out.len().min(bound - out.len()));
        }
    }
}

/// A window larger than what may come out is only a claim.
fn zstd_window_log_max(limit: usize) -> u32 {
    let log = limit.checked_next_power_of_two().map_or(u32::MAX, usize::ilog2);
    log.clamp(ZSTD_WINDOW_LOG_MIN, ZSTD_WINDOW_LOG_MAX)
}

impl fmt::Display for Compression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompressionName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|compression| compression.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| UnknownCompressionName { name: name.to_owned() })
    }
}

/// A name that is no compression's. The caller's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compression {name:?} is unknown; use none, gzip, snappy, lz4 or zstd")]
pub struct UnknownCompressionName {
    /// What was read.
    pub name: String,
}

fn compress_xerial(payload: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.extend_from_slice(&XERIAL_MAGIC);
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    out.extend_from_slice(&XERIAL_VERSION.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for block in payload.chunks(XERIAL_BLOCK_SIZE) {
        let compressed = encoder.compress_vec(block).map_err(io::Error::other)?;
        let size = i32::try_from(compressed.len()).map_err(io::Error::other)?;
        out.extend_from_slice(&size.to_be_bytes());
        out.extend_from_slice(&compressed);
    }
    Ok(())
}

fn decompress_snappy(payload: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    const MALFORMED: BatchError = BatchError::Decompress { compression: Compression::Snappy };
    let mut out = Vec::new();
    if !payload.starts_with(&XERIAL_MAGIC) {
        append_snappy_block(payload, limit, &mut out)?;
        return Ok(out);
    }
    let mut rest = payload.get(XERIAL_HEADER_SIZE..).ok_or(MALFORMED)?;
    while !rest.is_empty() {
        let (size, tail) = rest.split_first_chunk().ok_or(MALFORMED)?;
        let size = usize::try_from(i32::from_be_bytes(*size)).map_err(|_| MALFORMED)?;
        let (block, tail) = tail.split_at_checked(size).ok_or(MALFORMED)?;
        append_snappy_block(block, limit, &mut out)?;
        rest = tail;
    }
    Ok(out)
}

fn append_snappy_block(block: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), BatchError> {
    /// A snappy copy of 3 bytes makes at most 64, so no honest block claims more than this.
    const RATIO_MAX: usize = 32;
    const MALFORMED: BatchError = BatchError::Decompress { compression: Compression::Snappy };
    let size = snap::raw::decompress_len(block).map_err(|_| MALFORMED)?;
    let start = out.len();
    // The claim is bounded twice before it is allocated: by the limit and by what is possible.
    if size > limit - start {
        return Err(BatchError::DecompressedTooLarge { limit });
    }
    if size > block.len().saturating_mul(RATIO_MAX) {
        return Err(MALFORMED);
    }
    out.resize(start + size, 0);
    let target = out.get_mut(start..).ok_or(MALFORMED)?;
    let written = snap::raw::Decoder::new().decompress(block, target).map_err(|_| MALFORMED)?;
    if written == size { Ok(()) } else { Err(MALFORMED) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failing test may panic")]
mod tests {
    use super::*;

    fn check(compression: Compression, payload: &[u8]) {
        let mut bytes = Vec::new();
        compression.compress(payload, &mut bytes).unwrap();
        let size = payload.len();
        assert_eq!(compression.decompress(&bytes, size).as_deref(), Ok(payload), "{compression}");
        if size > 0 {
            let limit = size - 1;
            let want = Err(BatchError::DecompressedTooLarge { limit });
            assert_eq!(compression.decompress(&bytes, limit), want, "{compression}");
        }
    }

    #[test]
    fn every_compression_opens_what_it_made_within_its_limit() {
        let text = b"a barrage is a dam made of a line of gates. ".repeat(5_000);
        for compression in Compression::ALL {
            for payload in [&b""[..], b"x", &text, &[0; 300_000]] {
                check(compression, payload);
            }
        }
    }

    #[test]
    fn a_bare_snappy_block_is_read() {
        let bytes = snap::raw::Encoder::new().compress_vec(b"hello hello hello").unwrap();
        let opened = Compression::Snappy.decompress(&bytes, 100);
        assert_eq!(opened.as_deref(), Ok(&b"hello hello hello"[..]));
    }

    #[test]
    fn garbage_is_an_error() {
        let garbage = [0xa5; 64];
        for compression in Compression::ALL.into_iter().skip(1) {
            assert!(compression.decompress(&garbage, 1 << 20).is_err(), "{compression}");
        }
    }

    #[test]
    fn cut_off_payloads_are_errors() {
        let text = b"a line of gates ".repeat(100);
        for compression in Compression::ALL.into_iter().skip(1) {
            let mut bytes = Vec::new();
            compression.compress(&text, &mut bytes).unwrap();
            bytes.truncate(bytes.len() / 2);
            let opened = compression.decompress(&bytes, text.len());
            assert_eq!(opened, Err(BatchError::Decompress { compression }));
        }
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        // Says nothing of its content; window descriptor, then a last raw block of one byte.
        let frame = |window: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 0x09, 0, 0, b'x'];
        let open = |window_log: u8, limit| {
            let bytes = frame((window_log - 10) << 3);
            Compression::Zstd.decompress(&bytes, limit)
        };
        let refused = Err(BatchError::Decompress { compression: Compression::Zstd });
        let table = [(17, 1, true), (18, 1, false), (23, 8 << 20, true), (24, 8 << 20, false)];
        for (window_log, limit, fits) in table {
            let want = if fits { Ok(vec![b'x']) } else { refused.clone() };
            assert_eq!(open(window_log, limit), want, "a window of 2^{window_log} for {limit}");
        }
        assert!(open(26, 64 << 20).is_ok(), "the widest limit opens the widest window");
        assert!(open(27, 64 << 20).is_err(), "and no wider one");
    }

    #[test]
    fn a_snappy_claim_is_not_allocated() {
        // The varint claims 4 GiB - 1; two bytes follow.
        let claim = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0];
        assert!(Compression::Snappy.decompress(&claim, usize::MAX >> 1).is_err());
    }

    #[test]
    fn names_and_codes_are_inverse() {
        for compression in Compression::ALL {
            assert_eq!(compression.name().parse(), Ok(compression));
            assert_eq!(Compression::from_code(compression.code()), Ok(compression));
        }
        assert!("brotli".parse::<Compression>().is_err());
        assert_eq!(Compression::from_code(5), Err(BatchError::UnknownCompression { code: 5 }));
    }
}
