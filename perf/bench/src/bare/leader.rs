//! The receiving loop of three: forwards what it received, writes it too, and answers when two of
//! three have it; no Raft.
//!
//! Owns: the links to the two other nodes, which are bare servers like any other, and the answers.
//! Must never: forward bytes whose CRC it has not checked, wait for one entry's copies before it
//! forwards the next, or answer past what the ledger says.
//! Invariants: every copy gets the entries in the order they were entered; one task writes and one
//! reads a link; one task at a time answers clients.
//!
//! ```text
//!                +-> own disk: write, fdatasync -------------------+
//! session -enter-+-> link 1: queue -> socket -> bare server -> ... +-> ledger -> answers, in order
//!                +-> link 2: queue -> socket -> bare server -> ... +
//! ```

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;

use barrage_world::channel::event::Event;
use barrage_world::channel::mpsc::{self, Receiver, Sender};
use barrage_world::net::Stream;
use barrage_world::{Slice, fatal, spawn};

use super::disk::{Disk, Held, Reply};
use super::ledger::{COPIES, CopyIndex, ENTRIES_MAX, Ledger, NotUnderWay, Number};
use super::server::Received;
use super::{ANSWER_SIZE, HEAD_SIZE, Head};

/// What one core of the receiving node knows.
pub(super) struct Leader {
    disk: Rc<Disk>,
    ledger: RefCell<Ledger<Reply>>,
    links: Vec<Sender<Parcel>>,
    /// Said when a copy has caught up a little.
    room: Event,
    answering: Cell<bool>,
}

/// An entry on its way to another node.
#[derive(Clone)]
struct Parcel {
    head: [u8; HEAD_SIZE],
    slice: Slice,
    /// Of `slice`, without the padding.
    length: usize,
}

/// Entries written into a link at once, when so many wait: what one call of the system takes.
const PARCELS_MAX: usize = 128;
const ANSWERS_BYTES: usize = 4096;
const _: () = assert!(ANSWERS_BYTES.is_multiple_of(ANSWER_SIZE));

impl Leader {
    /// Connects to the two others.
    pub(super) async fn connect(disk: Rc<Disk>, others: &[SocketAddr]) -> io::Result<Rc<Self>> {
        assert!(others.len() + 1 == COPIES, "the command line is checked");
        let mut links = Vec::new();
        let mut streams = Vec::new();
        for address in others {
            let stream = Stream::connect(*address).await?;
            stream.set_nodelay(true)?;
            let (link, parcels) = mpsc::bounded(ENTRIES_MAX);
            links.push(link);
            streams.push((stream, parcels));
        }
        let leader = Rc::new(Self {
            disk,
            ledger: RefCell::new(Ledger::new()),
            links,
            room: Event::new(),
            answering: Cell::new(false),
        });
        for (index, (stream, parcels)) in streams.into_iter().enumerate() {
            let copy = CopyIndex(index + 1);
            let (leader, reading) = (Rc::clone(&leader), stream.clone());
            drop(spawn(async move { fatal(&ended(copy, leader.collect(&reading, copy).await)) }));
            drop(spawn(async move { fatal(&ended(copy, forward(&stream, parcels).await)) }));
        }
        Ok(leader)
    }

    /// Forwards and writes at once, unless a copy lags too far: then first waits for it. The reply
    /// goes out when two of three have the bytes.
    pub(super) async fn submit(self: &Rc<Self>, received: Received, stream: &Stream) {
        while !self.ledger.borrow().has_room() {
            self.room.listen().await;
        }
        let Received { slice, length, group, answers } = received;
        let reply = Reply { stream: stream.clone(), answers };
        // From here to the end nothing is awaited, so all three see the same order.
        let number = self.ledger.borrow_mut().enter(length, reply);
        let head = Head { length, group, correlation: number.0 }.encode();
        let parcel = Parcel { head, slice, length };
        for link in &self.links {
            if link.try_send(parcel.clone()).is_err() {
                unreachable!("a link's queue has room for all that may be under way")
            }
        }
        self.disk.submit(parcel.slice, Held::Counted(Rc::clone(self), number));
    }

    /// A copy holds an entry durably: answers what two of three now have.
    pub(super) async fn handle_held(
        &self,
        copy: CopyIndex,
        number: Number,
    ) -> Result<(), NotUnderWay> {
        self.ledger.borrow_mut().handle_held(copy, number)?;
        self.answer_all().await;
        self.room.notify_all();
        Ok(())
    }

    /// Answers until nothing is due; does nothing when that is under way already.
    async fn answer_all(&self) {
        if self.answering.replace(true) {
            return;
        }
        loop {
            let reply = self.ledger.borrow_mut().poll_reply();
            let Some(reply) = reply else { break };
            reply.send().await;
        }
        self.answering.set(false);
    }

    /// Takes another node's answers until it closes.
    async fn collect(&self, stream: &Stream, copy: CopyIndex) -> io::Result<()> {
        let mut input = [0; ANSWERS_BYTES];
        let mut kept = 0;
        loop {
            let count = stream.read(input.get_mut(kept..).unwrap_or_default()).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = kept + count;
            let (answers, rest) = input.get(..end).unwrap_or_default().as_chunks::<ANSWER_SIZE>();
            kept = rest.len();
            for answer in answers {
                let held = self.handle_held(copy, Number(u32::from_le_bytes(*answer))).await;
                held.map_err(|NotUnderWay| io::Error::other("an answer to nothing forwarded"))?;
            }
            input.copy_within(end - kept..end, 0);
        }
    }
}

impl Parcel {
    fn slices(&self) -> [IoSlice<'_>; 2] {
        let body = self.slice.get(..self.length).unwrap_or_default();
        [IoSlice::new(&self.head), IoSlice::new(body)]
    }
}

/// Sends what is queued, together, without waiting for answers.
async fn forward(stream: &Stream, mut parcels: Receiver<Parcel>) -> io::Result<()> {
    while let Some(parcel) = parcels.recv().await {
        let mut ready = vec![parcel];
        while ready.len() < PARCELS_MAX
            && let Ok(parcel) = parcels.try_recv()
        {
            ready.push(parcel);
        }
        let slices: Vec<IoSlice<'_>> = ready.iter().flat_map(Parcel::slices).collect();
        stream.write_vectored_all(&slices).await?;
    }
    Ok(())
}

/// Why a link ended, which it must not.
fn ended(copy: CopyIndex, result: io::Result<()>) -> String {
    let reason = result.err().map_or_else(|| "closed".to_owned(), |error| error.to_string());
    format!("bare link to copy {}: {reason}", copy.0)
}
