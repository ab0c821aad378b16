//! TCP of the simulated network: listeners shared by cores, and streams.
//!
//! Owns the names that `crate::net` shows, with the meaning they have on a real machine. Must never
//! know how a stream works. Invariants: a listener is bound by one process at a time; one task
//! reads and one task writes a stream at a time.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::host::Host;
use super::listening::{CoreQueue, Listening, Scope};
use super::machine::Machine;
use super::network::Network;
use super::socket::{Address, Socket, SocketKey};
use super::task::yield_if_needed;

/// A bound address; may be cloned and given to every core that shall serve it.
#[derive(Clone)]
pub struct ListenerHandle {
    shared: Rc<Shared>,
}

struct Shared {
    network: Network,
    owner: Machine,
    port: u16,
    address: SocketAddr,
    cores: std::cell::RefCell<Cores>,
}

#[derive(Default)]
struct Cores {
    listener_count: usize,
    closed: bool,
}

impl ListenerHandle {
    /// Serves the address on the calling core: accepted connections go to the cores in turn.
    ///
    /// # Errors
    /// When the address was closed.
    pub fn on_core(&self) -> io::Result<Listener> {
        let shared = &self.shared;
        let queue = shared.listening(Listening::add_core);
        let queue = queue.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        shared.cores.borrow_mut().listener_count += 1;
        Ok(Listener { shared: Rc::clone(shared), queue })
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

impl Shared {
    fn port(&self) -> Address {
        (self.owner.host(), self.port)
    }

    fn is_open(&self) -> bool {
        !self.cores.borrow().closed && !self.owner.is_killed() && self.network.is_current()
    }

    /// What the network knows of it, while it is open.
    fn listening<T>(&self, ask: impl FnOnce(&mut Listening) -> T) -> Option<T> {
        if !self.is_open() {
            return None;
        }
        self.network.sockets(|sockets| sockets.listeners.get_mut(&self.port()).map(ask))
    }

    fn close(&self) {
        if !self.is_open() {
            return;
        }
        self.cores.borrow_mut().closed = true;
        self.network.sockets(|sockets| {
            let listening = sockets.listeners.remove(&self.port());
            for key in listening.map_or_else(Vec::new, Listening::into_unaccepted) {
                self.network.drop_unaccepted(sockets, key);
            }
        });
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

/// One core's share of a bound address. When the last one is dropped the address stops listening.
pub struct Listener {
    shared: Rc<Shared>,
    queue: Rc<CoreQueue>,
}

impl Listener {
    /// Binds `address` for this process alone: an address in use is an error, not a share.
    ///
    /// # Errors
    /// `AddrInUse`, or `AddrNotAvailable` for an address of another host.
    pub fn bind_exclusive(address: SocketAddr) -> io::Result<ListenerHandle> {
        let (network, owner) = (Network::current(), Machine::current());
        let host = owner.host();
        let scope = match address.ip() {
            ip if ip.is_unspecified() => Scope::Any,
            ip if ip.is_loopback() => Scope::Loopback,
            ip if Host::of(ip) == Some(host) => Scope::Outside,
            _ => return Err(io::Error::from(io::ErrorKind::AddrNotAvailable)),
        };
        let port = network.sockets(|sockets| {
            let port = match address.port() {
                0 => sockets.free_port(host),
                port => port,
            };
            let before = sockets.listeners.get(&(host, port));
            if before.is_some_and(|before| !before.owner.is_killed()) {
                return Err(io::Error::from(io::ErrorKind::AddrInUse));
            }
            sockets.listeners.insert((host, port), Listening::new(owner.clone(), scope));
            Ok(port)
        })?;
        let address = SocketAddr::new(address.ip(), port);
        let shared = Shared { network, owner, port, address, cores: Default::default() };
        Ok(ListenerHandle { shared: Rc::new(shared) })
    }

    /// The next connection for this core. A dropped future has taken none.
    ///
    /// # Errors
    /// Never here: on a real machine, when the connection broke at once.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        let key = poll_fn(|context| self.queue.poll(context)).await;
        // There is room in the queue again.
        self.shared.listening(Listening::deal);
        let network = self.shared.network.clone();
        let path = network.sockets(|sockets| sockets.socket(key).map(|socket| socket.path));
        let Some(path) = path else {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        };
        let ip = if path.loopback { Ipv4Addr::LOCALHOST } else { path.to.0.ip() };
        let peer = SocketAddr::new(IpAddr::V4(ip), path.to.1);
        Ok((Stream::new(network, key, peer), peer))
    }

    /// The bound address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let is_last = {
            let mut cores = self.shared.cores.borrow_mut();
            cores.listener_count -= 1;
            cores.listener_count == 0
        };
        if is_last {
            self.shared.close();
        } else if self.shared.is_open() {
            let network = &self.shared.network;
            network.sockets(|sockets| {
                for key in self.queue.close() {
                    network.drop_unaccepted(sockets, key);
                }
            });
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Listener({})", self.shared.address)
    }
}

/// A connection. Clones are handles to the same connection, so that one task may read while
/// another writes. Closed when the last handle drops.
#[derive(Clone)]
pub struct Stream {
    handle: Rc<Handle>,
}

struct Handle {
    network: Network,
    key: SocketKey,
    peer: SocketAddr,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.network.close_socket(self.key);
    }
}

impl Handle {
    fn socket<T>(&self, act: impl FnOnce(&mut Socket) -> T) -> io::Result<T> {
        let output = self.network.use_socket(self.key, act);
        output.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))
    }

    fn poll_connected(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.socket(|socket| match socket.connection.failure() {
            Some(kind) => Poll::Ready(Err(io::Error::from(kind))),
            None if socket.connection.is_connecting() => {
                socket.wait_writable(context);
                Poll::Pending
            }
            None => Poll::Ready(Ok(())),
        })?
    }

    fn poll_readable(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        self.socket(|socket| match socket.connection.failure() {
            _ if !socket.connection.is_readable() => {
                socket.wait_readable(context);
                Poll::Pending
            }
            Some(kind) if !socket.connection.has_unread() => {
                Poll::Ready(Err(io::Error::from(kind)))
            }
            _ => Poll::Ready(Ok(())),
        })?
    }

    /// Some bytes, at most `max`; none at the end.
    fn poll_read(&self, context: &Context<'_>, max: usize) -> Poll<io::Result<Bytes>> {
        let max = self.network.random(|random| match random.one_in(SHORT_READ_PERIOD) {
            true => random.between(1, max as u64) as usize,
            false => max,
        });
        self.socket(|socket| {
            if !socket.connection.is_readable() {
                socket.wait_readable(context);
                return Poll::Pending;
            }
            Poll::Ready(socket.connection.read(max).map_err(io::Error::from))
        })?
    }

    /// Writes some of `bytes`.
    fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.socket(|socket| {
            if !socket.connection.is_writable() {
                socket.wait_writable(context);
                return Poll::Pending;
            }
            Poll::Ready(socket.connection.write(bytes).map_err(io::Error::from))
        })?
    }
}

impl Stream {
    /// Connects to `address`.
    ///
    /// # Errors
    /// Refused, or no answer in time.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let network = Network::current();
        let ip = address.ip();
        let loopback = ip.is_loopback() || ip.is_unspecified();
        let host = if loopback { Some(Machine::current().host()) } else { Host::of(ip) };
        let host = host.ok_or_else(|| io::Error::from(io::ErrorKind::NetworkUnreachable))?;
        let key = network.connect((host, address.port()), loopback);
        let stream = Self::new(network, key, address);
        poll_fn(|context| stream.handle.poll_connected(context)).await?;
        Ok(stream)
    }

    fn new(network: Network, key: SocketKey, peer: SocketAddr) -> Self {
        Self { handle: Rc::new(Handle { network, key, peer }) }
    }

    /// Reads into `buffer`; 0 is the end of the stream. A dropped future has read nothing.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "a read into nothing would look like the end of the stream");
        yield_if_needed().await;
        let bytes = poll_fn(|context| self.handle.poll_read(context, buffer.len())).await?;
        let mut rest = buffer;
        rest.put_slice(&bytes);
        Ok(bytes.len())
    }

    /// Reads into the spare capacity of `buffer`; 0 is the end of the stream. A dropped future has
    /// read nothing.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn read_buf(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        assert!(room > 0, "the caller reserves the capacity to read into");
        yield_if_needed().await;
        let bytes = poll_fn(|context| self.handle.poll_read(context, room)).await?;
        buffer.extend_from_slice(&bytes);
        Ok(bytes.len())
    }

    /// Waits until a read would not block: lets a connection be idle without a buffer.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| self.handle.poll_readable(context)).await
    }

    /// Writes all of `bytes`. Not cancel-safe: a dropped future may have written a part.
    ///
    /// # Errors
    /// The connection's error; a part may have been written.
    pub async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_vectored_all(&[IoSlice::new(bytes)]).await
    }

    /// Writes all of `slices`. Not cancel-safe.
    ///
    /// # Errors
    /// The connection's error; a part may have been written.
    pub async fn write_vectored_all(&self, slices: &[IoSlice<'_>]) -> io::Result<()> {
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let written = poll_fn(|context| self.handle.poll_write(context, rest)).await?;
                rest = rest.get(written..).unwrap_or_default();
            }
        }
        yield_if_needed().await;
        Ok(())
    }

    /// Ends one or both directions.
    ///
    /// # Errors
    /// When it is not connected any more.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let result = self.handle.socket(|socket| {
            if how != Shutdown::Write {
                socket.connection.shut_read()?;
            }
            if how != Shutdown::Read {
                socket.connection.shut_write()?;
            }
            Ok(())
        })?;
        result.map_err(|kind: io::ErrorKind| io::Error::from(kind))
    }

    /// Whether small writes leave at once; here they do.
    ///
    /// # Errors
    /// When the connection is of an earlier run.
    pub fn set_nodelay(&self, _nodelay: bool) -> io::Result<()> {
        self.handle.socket(|_| ())
    }

    /// Finds out that a silent peer is gone: probes after `idle` without traffic.
    ///
    /// # Errors
    /// When the connection is of an earlier run.
    pub fn set_keepalive(&self, idle: Duration) -> io::Result<()> {
        self.handle.socket(|socket| socket.set_keepalive(idle))
    }

    /// The other side's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.handle.peer
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Stream({})", self.peer_addr())
    }
}

/// One read in this many answers less than it could.
const SHORT_READ_PERIOD: u64 = 8;
