//! Real randomness: the kernel's, a page at a time.

use std::cell::RefCell;
use std::io;

/// Random bytes fetched per system call.
const RESERVE_BYTES: usize = 256;

struct Reserve {
    bytes: [u8; RESERVE_BYTES],
    /// Bytes from here on are unused.
    position: usize,
}

thread_local! {
    static RESERVE: RefCell<Reserve> =
        const { RefCell::new(Reserve { bytes: [0; RESERVE_BYTES], position: RESERVE_BYTES }) };
}

pub(crate) fn fill_random(bytes: &mut [u8]) {
    RESERVE.with_borrow_mut(|reserve| {
        for chunk in bytes.chunks_mut(RESERVE_BYTES) {
            if reserve.position + chunk.len() > RESERVE_BYTES {
                from_kernel(&mut reserve.bytes);
                reserve.position = 0;
            }
            let end = reserve.position + chunk.len();
            let Some(unused) = reserve.bytes.get_mut(reserve.position..end) else {
                unreachable!("the reserve holds a whole chunk")
            };
            chunk.copy_from_slice(unused);
            // A number that was handed out must not be found in memory later.
            unused.fill(0);
            reserve.position = end;
        }
    });
}

/// Requests of up to 256 bytes are answered whole once the kernel's generator is seeded.
#[expect(unsafe_code, reason = "std has no randomness")]
fn from_kernel(bytes: &mut [u8; RESERVE_BYTES]) {
    loop {
        // SAFETY: the kernel writes at most `len` bytes into `bytes`.
        let count = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if usize::try_from(count) == Ok(bytes.len()) {
            return;
        }
        let error = io::Error::last_os_error();
        let interrupted = error.kind() == io::ErrorKind::Interrupted;
        assert!(count >= 0 || interrupted, "the kernel gives no randomness: {error}");
    }
}
