//! TCP: exclusive listeners shared by cores, and streams that belong to one core.
//!
//! Must never bind with `SO_REUSEPORT` (a second node would silently take half the connections) nor
//! use glommio's read timeouts (their state outlives a dropped read): idle timers are the caller's.
//!
//! ```text
//! accept thread, blocking --flume, in turn--> Listener of each core -> Stream on that core
//! ```
//!
//! glommio's own accept switches the socket between blocking and not around each call, which on a
//! socket shared by cores lets one core block inside another's accept; so one thread accepts.
//!
//! Invariants: one task reads and one task writes a stream at a time; a stream stays on its core.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures_lite::{AsyncRead, AsyncWrite};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::io_error;
use super::task::yield_if_needed;

/// Connections the kernel completes before we accept them.
const BACKLOG: i32 = 4096;
/// Accepted connections that wait for one core.
const ACCEPTED_MAX: usize = 256;
/// Pause after an accept that failed because the process or system is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Slices handed to the kernel in one call; the system's limit is 1024.
const SLICES_MAX: usize = 256;

type Accepted = (TcpStream, SocketAddr);

/// A bound address; may be cloned and sent to every core that shall serve it.
#[derive(Clone)]
pub struct ListenerHandle {
    shared: Arc<Shared>,
}

struct Shared {
    listener: TcpListener,
    address: SocketAddr,
    cores: Mutex<Cores>,
}

#[derive(Default)]
struct Cores {
    queues: Vec<flume::Sender<Accepted>>,
    listener_count: usize,
    thread_started: bool,
    closed: bool,
}

impl Shared {
    fn cores(&self) -> MutexGuard<'_, Cores> {
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ListenerHandle {
    /// Serves the address on the calling core: accepted connections go to the cores in turn.
    ///
    /// # Errors
    /// When the accept thread cannot be started, or the address was closed.
    pub fn on_core(&self) -> io::Result<Listener> {
        let (queue, accepted) = flume::bounded(ACCEPTED_MAX);
        let mut cores = self.shared.cores();
        if cores.closed {
            return Err(io::Error::from(io::ErrorKind::NotConnected));
        }
        if !cores.thread_started {
            let shared = Arc::clone(&self.shared);
            let name = format!("accept-{}", self.shared.address.port());
            thread::Builder::new().name(name).spawn(move || accept_loop(&shared))?;
            cores.thread_started = true;
        }
        cores.queues.push(queue);
        cores.listener_count += 1;
        Ok(Listener { shared: Arc::clone(&self.shared), accepted })
    }

    /// The bound address, with the port the system chose for port 0.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }
}

impl fmt::Debug for ListenerHandle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ListenerHandle({})", self.shared.address)
    }
}

/// Blocks in accept and deals connections out, until the last listener is dropped.
fn accept_loop(shared: &Shared) {
    let mut turn = 0_usize;
    loop {
        let accepted = shared.listener.accept();
        let queues = {
            let cores = shared.cores();
            if cores.closed {
                return;
            }
            cores.queues.clone()
        };
        match accepted {
            Ok(accepted) => {
                turn = turn.wrapping_add(1);
                deal(&queues, turn, accepted);
            }
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => {
                    tracing::warn!(address = %shared.address, %error, "cannot accept");
                    thread::sleep(ACCEPT_PAUSE);
                }
            },
        }
    }
}

/// Gives the connection to the next core that has room; waits for one when none has, so that the
/// kernel's backlog fills and new connections slow down.
fn deal(queues: &[flume::Sender<Accepted>], turn: usize, accepted: Accepted) {
    let mut accepted = accepted;
    for step in 0..queues.len() {
        let Some(queue) = queues.get((turn + step) % queues.len()) else { return };
        match queue.try_send(accepted) {
            Ok(()) => return,
            Err(error) => accepted = error.into_inner(),
        }
    }
    if let Some(queue) = turn.checked_rem(queues.len()).and_then(|index| queues.get(index)) {
        // A core that ends meanwhile drops the connection with its queue.
        drop(queue.send(accepted));
    }
}

/// One core's share of a bound address. When the last one is dropped the address stops listening.
pub struct Listener {
    shared: Arc<Shared>,
    accepted: flume::Receiver<Accepted>,
}

impl Listener {
    /// Binds `address` for this process alone: an address in use is an error, not a share.
    ///
    /// # Errors
    /// `AddrInUse` or the system's error.
    pub fn bind_exclusive(address: SocketAddr) -> io::Result<ListenerHandle> {
        let domain = if address.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // Only lets a restarted node bind while its old connections linger in TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let shared = Shared { listener, address, cores: Mutex::default() };
        Ok(ListenerHandle { shared: Arc::new(shared) })
    }

    /// The next connection for this core. A dropped future has taken none.
    ///
    /// # Errors
    /// When the connection broke at once; the next call may succeed.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let accepted = self.accepted.recv_async().await;
        let (stream, peer) = accepted.map_err(|_| io::Error::other("the accept thread ended"))?;
        Ok((Stream::adopt(stream, peer), peer))
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut cores = self.shared.cores();
        cores.listener_count -= 1;
        if cores.listener_count == 0 {
            cores.closed = true;
            cores.queues.clear();
            // Ends the accept that the thread is blocked in, and refuses new connections.
            drop(SockRef::from(&self.shared.listener).shutdown(Shutdown::Both));
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Listener({})", self.shared.address)
    }
}

/// A connection on this core. Clones are handles to the same connection, so that one task may read
/// while another writes. Closed when the last handle drops.
#[derive(Clone)]
pub struct Stream {
    /// Used for readiness, and closes the descriptor; borrowed only within a poll.
    inner: Rc<RefCell<::glommio::net::TcpStream>>,
    descriptor: RawFd,
    peer: SocketAddr,
}

impl Stream {
    /// Connects to `address`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let inner = ::glommio::net::TcpStream::connect(address).await.map_err(io_error)?;
        let descriptor = inner.as_raw_fd();
        Ok(Self { inner: Rc::new(RefCell::new(inner)), descriptor, peer: address })
    }

    #[expect(unsafe_code, reason = "glommio takes over sockets by their descriptor only")]
    fn adopt(stream: TcpStream, peer: SocketAddr) -> Self {
        let descriptor = stream.into_raw_fd();
        // SAFETY: `into_raw_fd` gave up the descriptor, so glommio's stream is its only owner.
        let inner = unsafe { ::glommio::net::TcpStream::from_raw_fd(descriptor) };
        Self { inner: Rc::new(RefCell::new(inner)), descriptor, peer }
    }

    /// Reads into `buffer`; 0 is the end of the stream. A dropped future has read nothing.
    ///
    /// # Errors
    /// The system's error.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a read into nothing would look like the end of the stream");
        yield_if_needed().await;
        loop {
            match self.receive(buffer.as_mut_ptr(), buffer.len()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
            self.readable().await?;
        }
    }

    /// Reads into the spare capacity of `buffer`, without zeroing it first; 0 is the end of the
    /// stream. A dropped future has read nothing.
    ///
    /// # Errors
    /// The system's error.
    #[expect(unsafe_code, reason = "the kernel fills uninitialised capacity")]
    pub async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        assert!(buffer.capacity() > buffer.len(), "the caller reserves the capacity to read into");
        yield_if_needed().await;
        loop {
            let spare = buffer.spare_capacity_mut();
            match self.receive(spare.as_mut_ptr().cast(), spare.len()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    // SAFETY: the kernel has just initialised the first `count` spare bytes.
                    unsafe { buffer.advance_mut(count) };
                    return Ok(count);
                }
            }
            self.readable().await?;
        }
    }

    /// Waits until a read would not block: lets a connection be idle without a buffer.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn readable(&self) -> io::Result<()> {
        // An empty receive answers "would block" exactly when nothing waits, end included.
        poll_fn(|context| Pin::new(&mut *self.inner.borrow_mut()).poll_read(context, &mut []))
            .await
            .map(|_| ())
    }

    /// Writes all of `bytes`. Not cancel-safe: a dropped future may have written a part.
    ///
    /// # Errors
    /// The system's error; a part may have been written.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_vectored_all(&[IoSlice::new(bytes)]).await
    }

    /// Writes all of `slices` in as few calls as possible. Not cancel-safe.
    ///
    /// # Errors
    /// The system's error; a part may have been written.
    pub async fn write_vectored_all(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        for chunk in slices.chunks(SLICES_MAX) {
            let mut chunk = chunk.to_vec();
            let mut rest = chunk.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let sent = match self.send(rest) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.send_when_writable(rest).await?
                    }
                    result => result?,
                };
                if sent == 0 {
                    return Err(io::Error::from(io::ErrorKind::WriteZero));
                }
                IoSlice::advance_slices(&mut rest, sent);
            }
            yield_if_needed().await;
        }
        Ok(())
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// The system's error.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.socket(|socket| socket.shutdown(how))
    }

    /// Whether small writes leave at once.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.socket(|socket| socket.set_tcp_nodelay(nodelay))
    }

    /// Lets the kernel find out that a silent peer is gone: probes after `idle` without traffic.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        let keepalive = socket2::TcpKeepalive::new().with_time(idle);
        self.socket(|socket| socket.set_tcp_keepalive(&keepalive))
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn socket<T>(&self, call: impl FnOnce(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        let inner = self.inner.borrow();
        call(SockRef::from(&Descriptor(inner.as_raw_fd()).borrow()))
    }

    #[expect(unsafe_code, reason = "std has no receive with flags into raw memory")]
    fn receive(&self, start: *mut u8, len: usize) -> io::Result<usize> {
        // SAFETY: callers pass memory that is theirs to write for `len` bytes; the descriptor is
        // open as long as `self.inner` is.
        let count = unsafe { libc::recv(self.descriptor, start.cast(), len, libc::MSG_DONTWAIT) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    #[expect(unsafe_code, reason = "std has no vectored send with flags")]
    fn send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // SAFETY: all-zero is a valid msghdr: no address, no control data, no slices.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` has the layout of iovec, by its documentation; the kernel only reads it.
        message.msg_iov = slices.as_ptr().cast_mut().cast();
        message.msg_iovlen = slices.len() as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `message` points at `slices`, which outlive the call; the descriptor is open as
        // long as `self.inner` is.
        let count = unsafe { libc::sendmsg(self.descriptor, &raw const message, flags) };
        usize::try_from(count).map_err(|_| io::Error::last_os_error())
    }

    /// Sends some of the first slice as soon as the socket takes it. (An empty send cannot be used
    /// to wait: it succeeds on a full socket.)
    async fn send_when_writable(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(first) = slices.first() else { return Ok(0) };
        poll_fn(|context| Pin::new(&mut *self.inner.borrow_mut()).poll_write(context, first)).await
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Stream({})", self.peer)
    }
}

/// A descriptor that is open for as long as the value is in use.
struct Descriptor(RawFd);

impl Descriptor {
    #[expect(unsafe_code, reason = "a descriptor owned by glommio's stream is borrowed")]
    fn borrow(&self) -> std::os::fd::BorrowedFd<'_> {
        // SAFETY: the caller holds the stream that owns the descriptor while it uses this.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(self.0) }
    }
}
