//! A retention as it is stored: in commands and checkpoints of the catalog and of the shards.

use barrage_model::Retention;
use rkyv::{Archive, Deserialize, Serialize};

/// See [`Retention`].
#[derive(Clone, Copy, Archive, Serialize, Deserialize)]
pub struct RetentionV1 {
    time_ms: Option<u64>,
    bytes: Option<u64>,
    ttl_ms: Option<u64>,
    until_acked: bool,
}

impl From<Retention> for RetentionV1 {
    fn from(retention: Retention) -> Self {
        let Retention { time_ms, bytes, ttl_ms, until_acked } = retention;
        Self { time_ms, bytes, ttl_ms, until_acked }
    }
}

impl From<RetentionV1> for Retention {
    fn from(stored: RetentionV1) -> Self {
        let RetentionV1 { time_ms, bytes, ttl_ms, until_acked } = stored;
        Self { time_ms, bytes, ttl_ms, until_acked }
    }
}
