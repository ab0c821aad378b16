//! The writer of a connection: a task that lives only while there is something to write.
//!
//! It starts when a reply is pushed and gives way once to the tasks that are ready now: what they
//! push in this turn leaves in one `sendmsg`. An idle connection has no writer and no buffers.

use std::rc::Rc;

use barrage_world::{Instant, planted, spawn, yield_now};

use crate::close::CloseReason;
use crate::outbox::writes;
use crate::session::Session;

/// What a socket takes at once, with the planted bug.
const SLICES_TAKEN: usize = 4;

/// Makes sure that what waits is written. Called after every push.
pub(crate) fn kick(session: &Rc<Session>) {
    if session.is_writing.replace(true) {
        return;
    }
    let session = Rc::clone(session);
    drop(spawn(async move { run(&session).await }));
}

async fn run(session: &Session) {
    // A new task runs at once, inside of its spawner: without this every reply of a turn would be
    // a system call of its own (68,000 a second of 43 % of the core, see `perf/records`).
    yield_now().await;
    loop {
        let pieces = session.outbox.borrow_mut().take();
        if pieces.is_empty() {
            break;
        }
        let size = pieces.iter().map(|piece| piece.as_ref().len() as u64).sum::<u64>();
        let mut result = Ok(());
        for mut write in writes(&pieces) {
            if planted("native-short-write-loses-tail") {
                // Wrong: what the socket did not take in one go is forgotten.
                write.truncate(SLICES_TAKEN);
            }
            session.write_began.set(Some(Instant::now()));
            result = session.stream.write_vectored_all(&write).await;
            if result.is_err() {
                break;
            }
        }
        session.write_began.set(None);
        session.replies_written(size);
        if let Err(error) = result {
            session.close(CloseReason::Io(error));
        }
    }
    session.is_writing.set(false);
    session.flushed.notify_all();
}
