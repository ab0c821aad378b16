//! Randomness. Owns the two calls every crate draws from.
//!
//! Must never be used for secrets that outlive a connection, nor inside a state machine's apply.
//! In the simulated world the bytes come from the run's seed.

/// Fills `bytes` with random bytes.
pub fn fill_random(bytes: &mut [u8]) {
    crate::backend::random::fill_random(bytes);
}

/// A random 64-bit number.
#[must_use]
pub fn random_u64() -> u64 {
    let mut bytes = [0; size_of::<u64>()];
    fill_random(&mut bytes);
    u64::from_le_bytes(bytes)
}
