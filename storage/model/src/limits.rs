//! Hard limits of formats and requests. Configuration may lower some of them, never raise one.
//!
//! Owns: every bound that client, wire, log and broker must agree on.
//! Must never do: depend on configuration. Invariants: the relations asserted at the end.

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Unit of direct I/O: every position, length and buffer of the log is a multiple of it.
pub const BLOCK_SIZE: usize = 4096;

/// Largest record batch, as it is sent and stored, header included.
pub const BATCH_BYTES_MAX: usize = 8 * MIB;

/// Largest record: its key, value and headers together, before compression.
pub const RECORD_BYTES_MAX: usize = 4 * MIB;

/// Most records in a batch.
pub const RECORDS_PER_BATCH_MAX: u32 = 1_000_000;

/// Most headers of a record.
pub const HEADERS_PER_RECORD_MAX: u32 = 1_000;

/// Largest frame of the native protocol, length field not counted.
pub const FRAME_BYTES_MAX: usize = 16 * MIB;

/// Largest frame before the handshake is done.
pub const FRAME_BYTES_MAX_BEFORE_HANDSHAKE: usize = 8 * KIB;

/// Longest topic name.
pub const TOPIC_NAME_BYTES_MAX: usize = 249;

/// Longest group name.
pub const GROUP_NAME_BYTES_MAX: usize = 249;

/// Most groups of a topic.
pub const GROUPS_PER_TOPIC_MAX: usize = 1_000;

/// Longest filter of a group, as it is written.
pub const FILTER_BYTES_MAX: usize = 4 * KIB;

/// Most partitions of a topic.
pub const PARTITIONS_PER_TOPIC_MAX: u32 = 10_000;

/// Most bytes that one compressed byte may stand for when records are opened.
pub const DECOMPRESSION_RATIO_MAX: usize = 1_000;

/// What a batch may always decompress to, whatever the ratio. Equal records compress beyond any
/// ratio, and what a builder accepts uncompressed must be readable once compressed.
pub const DECOMPRESSED_BYTES_FLOOR: usize = BATCH_BYTES_MAX;

/// Most bytes that the records of a batch may decompress to.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * MIB;

const _: () = assert!(RECORD_BYTES_MAX < BATCH_BYTES_MAX);
const _: () = assert!(BATCH_BYTES_MAX < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX_BEFORE_HANDSHAKE < FRAME_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_MAX <= u32::MAX as usize);
const _: () = assert!(BATCH_BYTES_MAX <= DECOMPRESSED_BYTES_MAX);
const _: () = assert!(DECOMPRESSED_BYTES_FLOOR <= DECOMPRESSED_BYTES_MAX);
const _: () = assert!(RECORDS_PER_BATCH_MAX <= i32::MAX as u32);
const _: () = assert!(BLOCK_SIZE.is_power_of_two());

/// The shortest session of a producer that holds a topic, in milliseconds: several times an
/// election, so that who holds it outlives one.
pub const PRODUCER_SESSION_MS_MIN: u32 = 6_000;
/// The longest session of a producer that holds a topic, in milliseconds.
pub const PRODUCER_SESSION_MS_MAX: u32 = 30 * 60 * 1_000;
