//! One connection to one core of a peer: made, used, lost, made again.
//!
//! ```text
//!   connect --> read answers until it is lost --> rest --> asked for meanwhile? --> connect ...
//!      \                                          ^   \--> nobody: the task ends, the next call
//!       `---- failed ----------------------------'         starts it again
//! ```
//! One task per lane does this, one writes while there is something to write.
//!
//! Invariants: what was sent on a connection is answered on it or never; a lane that was retired
//! touches no call any more.

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::Rc;
use std::time::Duration;

use barrage_world::channel::Event;
use barrage_world::net::Stream;
use barrage_world::{Instant, random_u64, sleep, spawn, timeout, yield_now};

use crate::batch::Batch;
use crate::frame::{FrameError, Refusal};
use crate::inbox::Inbox;
use crate::peer::Peer;
use crate::reach::{Reach, Verdict};
use crate::traffic::{CallError, Strange, Way};

/// The way to one core of a peer, urgent or bulk.
pub(crate) struct Lane {
    way: Way,
    reach: RefCell<Reach>,
    connection: RefCell<Option<Rc<Connection>>>,
    /// Why the last connection was lost, or not made.
    trouble: RefCell<String>,
    /// Told when calls on their way have ended.
    room: Event,
    is_retired: Cell<bool>,
}

struct Connection {
    stream: Stream,
    is_writing: Cell<bool>,
    /// Why we close it; the first reason counts.
    reason: RefCell<Option<LaneError>>,
}

/// Why a connection is not there.
#[derive(Debug, thiserror::Error)]
enum LaneError {
    #[error("{0}")]
    Contact(String),
    #[error("cannot connect: {0}")]
    Connect(std::io::Error),
    #[error("cannot connect in time")]
    ConnectTimeout,
    #[error("its core is gone")]
    NoCore,
    #[error("connection lost: {0}")]
    Io(#[from] std::io::Error),
    #[error("connection lost: the other side has ended it")]
    Ended,
    #[error("connection closed: {0}")]
    Frame(#[from] FrameError),
    #[error("connection closed: {0}")]
    Strange(#[from] Strange),
    #[error("connection closed: {0}")]
    Refused(Refusal),
    #[error("connection closed: no answer for too long")]
    Overdue,
    #[error("connection closed: no longer needed")]
    Retired,
}

impl Lane {
    pub(crate) fn new(way: Way, reach: Reach) -> Rc<Self> {
        Rc::new(Self {
            way,
            reach: RefCell::new(reach),
            connection: RefCell::new(None),
            trouble: RefCell::default(),
            room: Event::new(),
            is_retired: Cell::new(false),
        })
    }

    /// Whether a call may be queued now; begins to connect if need be.
    pub(crate) fn prepare(self: &Rc<Self>, peer: &Rc<Peer>) -> Result<(), CallError> {
        let verdict = self.reach.borrow_mut().handle_call();
        match verdict {
            Verdict::Queue => Ok(()),
            Verdict::QueueAndTry => {
                let (peer, lane) = (Rc::clone(peer), Rc::clone(self));
                drop(spawn(async move { run(&peer, &lane).await }));
                Ok(())
            }
            Verdict::Refuse => Err(CallError::Down(self.trouble.borrow().clone())),
        }
    }

    /// Makes sure that what is queued is written.
    pub(crate) fn kick(self: &Rc<Self>, peer: &Rc<Peer>) {
        let Some(connection) = self.connection.borrow().clone() else { return };
        if connection.is_writing.replace(true) {
            return;
        }
        let (peer, lane) = (Rc::clone(peer), Rc::clone(self));
        drop(spawn(async move { write(&peer, &lane, &connection).await }));
    }

    /// Calls on their way have ended: more may be sent.
    pub(crate) fn relieve(&self) {
        self.room.notify_all();
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.borrow().is_some()
    }

    /// The oldest answer is missing for too long.
    pub(crate) fn handle_overdue(&self) {
        self.close(LaneError::Overdue);
    }

    /// The lane is not used any more. Its calls are the caller's matter.
    pub(crate) fn retire(&self) {
        self.is_retired.set(true);
        self.close(LaneError::Retired);
    }

    fn close(&self, reason: LaneError) {
        let connection = self.connection.borrow().clone();
        if let Some(connection) = connection {
            connection.close(reason);
        }
        self.room.notify_all();
    }
}

impl Connection {
    /// Both of its tasks notice.
    fn close(&self, reason: LaneError) {
        self.reason.borrow_mut().get_or_insert(reason);
        // Fails only when the other side was faster.
        drop(self.stream.shutdown(Shutdown::Both));
    }

    fn is_closed(&self) -> bool {
        self.reason.borrow().is_some()
    }
}

/// The life of a lane, until nobody asks for it any more.
async fn run(peer: &Rc<Peer>, lane: &Rc<Lane>) {
    loop {
        let error = match connect(peer, lane).await {
            Ok(stream) => use_until_lost(peer, lane, stream).await,
            Err(error) => error,
        };
        if lane.is_retired.get() {
            return;
        }
        // The peer may have restarted with other ports.
        peer.suspect();
        let reason = error.to_string();
        tracing::debug!(peer = %peer.node(), way = ?lane.way, %reason, "no connection");
        *lane.trouble.borrow_mut() = reason.clone();
        let rest = lane.reach.borrow_mut().handle_failure(random_u64());
        peer.handle_lost(lane.way, CallError::Down(reason));
        sleep(rest).await;
        if lane.is_retired.get() || !lane.reach.borrow_mut().handle_rested() {
            return;
        }
    }
}

async fn connect(peer: &Rc<Peer>, lane: &Rc<Lane>) -> Result<Stream, LaneError> {
    if peer.is_suspect() {
        peer.ask().await.map_err(LaneError::Contact)?;
    }
    if lane.is_retired.get() {
        return Err(LaneError::Retired);
    }
    let address = lane.way.core.and_then(|core| peer.core_address(core));
    let address = address.ok_or(LaneError::NoCore)?;
    let options = peer.options();
    let connected = timeout(options.connect_timeout, Stream::connect(address)).await;
    let stream = connected.map_err(|_| LaneError::ConnectTimeout)?.map_err(LaneError::Connect)?;
    // Calls are gathered before they are written: waiting for more gains nothing.
    drop(stream.set_nodelay(true));
    drop(stream.set_keepalive(options.keepalive));
    Ok(stream)
}

async fn use_until_lost(peer: &Rc<Peer>, lane: &Rc<Lane>, stream: Stream) -> LaneError {
    if lane.is_retired.get() {
        return LaneError::Retired;
    }
    let (is_writing, reason) = (Cell::new(false), RefCell::new(None));
    let connection = Rc::new(Connection { stream, is_writing, reason });
    *lane.connection.borrow_mut() = Some(Rc::clone(&connection));
    lane.reach.borrow_mut().handle_connected();
    lane.kick(peer);
    let ended = read(peer, lane, &connection).await;
    *lane.connection.borrow_mut() = None;
    connection.close(ended);
    lane.room.notify_all();
    connection.reason.take().unwrap_or(LaneError::Ended)
}

async fn read(peer: &Rc<Peer>, lane: &Rc<Lane>, connection: &Connection) -> LaneError {
    let mut inbox = Inbox::new(peer.options().body_bytes_max);
    loop {
        match read_once(peer, lane, connection, &mut inbox).await {
            Ok(0) => return LaneError::Ended,
            Ok(_) if connection.is_closed() => return LaneError::Ended,
            Ok(_) => peer.handle_moved(lane.way),
            Err(error) => return error,
        }
        loop {
            match inbox.next_frame() {
                Ok(Some(frame)) => {
                    let refusal = match peer.handle_frame(lane.way, frame) {
                        Ok(refusal) => refusal,
                        Err(error) => return LaneError::Strange(error),
                    };
                    if let Some(fatal) = refusal.filter(|refusal| is_fatal(*refusal)) {
                        return LaneError::Refused(fatal);
                    }
                    lane.reach.borrow_mut().handle_answer();
                }
                Ok(None) => break,
                Err(error) => return LaneError::Frame(error),
            }
        }
        lane.room.notify_all();
    }
}

/// Whether it makes no sense to say more to whoever refused for this reason.
const fn is_fatal(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::WrongCluster | Refusal::WrongNode)
}

async fn read_once(
    peer: &Peer,
    lane: &Lane,
    connection: &Connection,
    inbox: &mut Inbox,
) -> Result<usize, LaneError> {
    if let Some(header) = inbox.header()? {
        // Memory is reserved for answers that are awaited only.
        peer.check_owed(lane.way, header.number)?;
    }
    if !inbox.is_within_frame() {
        inbox.release();
        connection.stream.readable().await?;
    }
    let buffer = inbox.buffer()?;
    let room = buffer.capacity() - buffer.len();
    let count = connection.stream.read_buf(buffer).await?;
    inbox.received(count, room);
    Ok(count)
}

/// A write that takes longer has waited until the other side took something.
const WRITE_WAIT_MIN: Duration = Duration::from_millis(10);

/// Writes what is queued, and ends when nothing is. All that the tasks which are ready now queue
/// leaves together.
async fn write(peer: &Rc<Peer>, lane: &Rc<Lane>, connection: &Connection) {
    // A new task runs at once, inside of its spawner; those that are ready come first.
    yield_now().await;
    while !connection.is_closed() {
        let mut batch = Batch::default();
        peer.take(lane.way, &mut batch);
        if batch.is_empty() {
            if !peer.has_queued(lane.way) {
                break;
            }
            // Too much is on its way: no await since `take`, so no wake-up is lost.
            lane.room.listen().await;
            continue;
        }
        for write in batch.writes() {
            let began = Instant::now();
            if let Err(error) = connection.stream.write_vectored_all(&write).await {
                connection.close(LaneError::Io(error));
                break;
            }
            // What the socket takes at once tells nothing of the other side.
            if began.elapsed() > WRITE_WAIT_MIN {
                peer.handle_moved(lane.way);
            }
        }
    }
    connection.is_writing.set(false);
}
