//! Seeded randomness for code under test. Owns the backend side of `crate::random`.
//!
//! Draws from a stream of its own: what a test draws never shifts the scheduler's picks.

use super::executor;

pub(crate) fn fill_random(bytes: &mut [u8]) {
    executor::world().user_random(|random| {
        for chunk in bytes.chunks_mut(size_of::<u64>()) {
            let number = random.next_u64().to_le_bytes();
            for (byte, drawn) in chunk.iter_mut().zip(number) {
                *byte = drawn;
            }
        }
    });
}
