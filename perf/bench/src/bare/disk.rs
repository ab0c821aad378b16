//! Where one core of the bare server writes, and what it does when the bytes are safe there.
//!
//! Owns: the order of writes, the syncs. Must never: call anything safe that no sync covers.
//! Invariants: bytes are placed in the order they are submitted; at most one fdatasync runs, and
//! it covers every write that ended before it began.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;

use barrage_world::net::Stream;
use barrage_world::{File, Slice, fatal, spawn};

use super::leader::Leader;
use super::ledger::{CopyIndex, Number};
use super::segments::Segments;

/// A core's segments and what is on its way into them.
pub(super) struct Disk {
    segments: RefCell<Segments>,
    written: RefCell<Vec<Written>>,
    syncing: Cell<bool>,
}

/// Answers to a client, ready to send.
pub(super) struct Reply {
    pub stream: Stream,
    pub answers: Vec<u8>,
}

/// What follows when bytes are safe here.
pub(super) enum Held {
    /// They are safe enough.
    Answered(Reply),
    /// This is one copy of three.
    Counted(Rc<Leader>, Number),
}

/// Bytes whose write has ended and which await a sync.
struct Written {
    file: Rc<File>,
    held: Held,
}

impl Reply {
    /// Sends them. A client that left before its answer is no failure of the yardstick.
    pub(super) async fn send(self) {
        drop(self.stream.write_all(&self.answers).await);
    }
}

impl Held {
    async fn settle(self) {
        match self {
            Self::Answered(reply) => reply.send().await,
            Self::Counted(leader, number) => {
                let counted = leader.handle_held(CopyIndex::OWN, number).await;
                assert!(counted.is_ok(), "own writes end once");
            }
        }
    }
}

impl Disk {
    /// Makes the segments in `folder`.
    pub(super) async fn prepare(folder: &Path) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            segments: RefCell::new(Segments::prepare(folder).await?),
            written: RefCell::default(),
            syncing: Cell::new(false),
        }))
    }

    /// Writes at once; what `held` says follows the next sync.
    pub(super) fn submit(self: &Rc<Self>, slice: Slice, held: Held) {
        let (file, position) = self.segments.borrow_mut().place(slice.len());
        let disk = Rc::clone(self);
        drop(spawn(async move {
            if let Err(error) = file.write_at(&slice, position).await {
                fatal(&format!("bare write: {error}"));
            }
            drop(slice);
            disk.written.borrow_mut().push(Written { file, held });
            disk.sync_all().await;
        }));
    }

    /// Syncs and settles until nothing waits; does nothing when that is under way already.
    async fn sync_all(&self) {
        if self.syncing.replace(true) {
            return;
        }
        loop {
            let group = std::mem::take(&mut *self.written.borrow_mut());
            if group.is_empty() {
                break;
            }
            if let Err(error) = sync(&group).await {
                fatal(&format!("bare sync: {error}"));
            }
            for written in group {
                written.held.settle().await;
            }
        }
        self.syncing.set(false);
    }
}

/// Syncs every file of a group once; a group spans two when the segment rolled within it.
async fn sync(group: &[Written]) -> io::Result<()> {
    let mut synced: Vec<&Rc<File>> = Vec::new();
    for written in group {
        if !synced.iter().any(|file| Rc::ptr_eq(file, &written.file)) {
            written.file.sync_data().await?;
            synced.push(&written.file);
        }
    }
    Ok(())
}
