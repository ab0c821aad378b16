//! A node of the tests: acceptors on its cores, and a handler that shows who answered what.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::{NodeId, ShardId};
use barrage_peer::{
    Acceptor, Book, ClusterId, Contact, Handler, Header, Identity, Kind, Links, Options, Refusal,
    Reply,
};
use barrage_raft::{Call, PeerError, Peers, Urgency};
use barrage_world as world;
use barrage_world::net::Listener;
use barrage_world::sim::{Disk, Host, LinkOptions, Machine, Network};
use bytes::{BufMut, Bytes, BytesMut};

pub(crate) const CLUSTER: ClusterId = ClusterId(0xfeed);
pub(crate) const CONTACT_PORT: u16 = 9300;
pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Shards from here on no node carries.
pub(crate) const SHARDS: u32 = 1000;

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn identity(node: u64) -> Identity {
    Identity { cluster: CLUSTER, node: NodeId(node) }
}

/// Node `n` lives on host `n`.
pub(crate) fn host(node: u64) -> Host {
    Host(node as u16)
}

pub(crate) fn address(node: u64, port: u16) -> SocketAddr {
    SocketAddr::from((host(node).ip(), port))
}

pub(crate) fn machine(node: u64) -> Machine {
    Machine::at(host(node), &Disk::default())
}

/// The nodes 1 to 9 at their hosts.
pub(crate) fn book() -> Book {
    let book = Book::new();
    (1..10).for_each(|node| book.set(NodeId(node), address(node, CONTACT_PORT)));
    book
}

/// Runs `future` on the machine and answers what it answers.
pub(crate) async fn on<T: 'static>(
    machine: &Machine,
    future: impl Future<Output = T> + 'static,
) -> T {
    machine.spawn(future).await.unwrap()
}

pub(crate) fn links(node: u64) -> Links {
    Links::new(identity(node), book(), Options::default())
}

/// Links of any quality, the same in all directions.
pub(crate) fn set_links(options: LinkOptions) {
    Network::current().set_all(options);
}

pub(crate) fn listen(port: u16) -> Listener {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    Listener::bind_exclusive(any).unwrap().on_core().unwrap()
}

/// A node that serves: one acceptor per core, core ports from `first_port` on.
pub(crate) struct Node {
    pub(crate) machine: Machine,
    pub(crate) acceptors: Rc<RefCell<Vec<Acceptor>>>,
    /// The numbers of all requests, in the order they were begun.
    pub(crate) begun: Rc<RefCell<Vec<u64>>>,
    /// It carries no shard any more.
    pub(crate) is_empty: Rc<Cell<bool>>,
}

impl Node {
    pub(crate) async fn start(node: u64, cores: u16, first_port: u16) -> Self {
        Self::start_with(node, cores, first_port, Options::default()).await
    }

    pub(crate) async fn start_with(
        node: u64,
        cores: u16,
        first_port: u16,
        options: Options,
    ) -> Self {
        Self::begin(&machine(node), node, cores, (first_port, CONTACT_PORT), options).await
    }

    /// On a machine that is there, with another port of first contact.
    pub(crate) async fn start_on(
        machine: &Machine,
        node: u64,
        cores: u16,
        first_port: u16,
        contact_port: u16,
    ) -> Self {
        Self::begin(machine, node, cores, (first_port, contact_port), Options::default()).await
    }

    async fn begin(
        machine: &Machine,
        node: u64,
        cores: u16,
        (first_port, contact_port): (u16, u16),
        options: Options,
    ) -> Self {
        let machine = machine.clone();
        let acceptors = Rc::new(RefCell::new(Vec::new()));
        let begun = Rc::new(RefCell::new(Vec::new()));
        let (kept, kept_begun) = (Rc::clone(&acceptors), Rc::clone(&begun));
        let is_empty = Rc::new(Cell::new(false));
        let kept_empty = Rc::clone(&is_empty);
        let contact = Contact::new((first_port..first_port + cores).collect()).unwrap();
        let begin = machine.clone();
        on(&machine, async move {
            let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, contact_port));
            let first = Listener::bind_exclusive(any).unwrap();
            for core in 0..cores {
                let (contact, options, first) = (contact.clone(), options.clone(), first.clone());
                let (begun, is_empty) = (Rc::clone(&kept_begun), Rc::clone(&kept_empty));
                let handler = Rc::new(Echo { core, cores, begun, is_empty });
                let on_core = begin.core(core, cores);
                let serving = on(&on_core, async move {
                    let acceptor = Acceptor::new(identity(node), contact, handler, options);
                    acceptor.serve(first.on_core().unwrap());
                    acceptor.serve(listen(first_port + core));
                    acceptor
                });
                let acceptor = serving.await;
                kept.borrow_mut().push(acceptor);
            }
        })
        .await;
        Self { machine, acceptors, begun, is_empty }
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.acceptors.borrow().iter().map(Acceptor::held_bytes).sum()
    }
}

/// Says on this machine that node 2 is there, with one core.
pub(crate) fn tell_contact(core_port: u16) {
    let listener = listen(CONTACT_PORT);
    drop(world::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let body = Contact::new(vec![core_port]).unwrap().encode();
            let header = Header::new(Kind::ContactAnswer, identity(2), NodeId(1), 0);
            let header = Header { body_size: body.len() as u32, ..header };
            stream.write_all(&header.encode()).await.unwrap();
            stream.write_all(&body).await.unwrap();
        }
    }));
}

/// Answers with the number of the request and the core; waits as long as the request says.
struct Echo {
    core: u16,
    cores: u16,
    begun: Rc<RefCell<Vec<u64>>>,
    is_empty: Rc<Cell<bool>>,
}

impl Handler for Echo {
    fn handle(&self, shard: ShardId, _from: NodeId, request: Bytes) -> Reply {
        let begun = Rc::clone(&self.begun);
        let core = self.core;
        let is_mine = shard.0 % u32::from(self.cores) == u32::from(core) && shard.0 < SHARDS;
        let is_here = is_mine && !self.is_empty.get();
        Box::pin(async move {
            if !is_here {
                return Err(Refusal::UnknownShard);
            }
            let Some(Letter { number, wait }) = open(&request) else {
                return Err(Refusal::Damaged);
            };
            begun.borrow_mut().push(number);
            if !wait.is_zero() {
                world::sleep(wait).await;
            }
            Ok(seal(number, Duration::from_millis(u64::from(core)), 0))
        })
    }
}

/// A request: its number, and how long the answer shall take. In an answer: the core.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Letter {
    pub(crate) number: u64,
    pub(crate) wait: Duration,
}

/// `| u32 CRC32C of the rest | u64 number | u32 milliseconds | filling |`
pub(crate) fn seal(number: u64, wait: Duration, filling: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(16 + filling);
    bytes.put_u32_le(0);
    bytes.put_u64_le(number);
    bytes.put_u32_le(wait.as_millis() as u32);
    bytes.put_bytes(number as u8, filling);
    let crc = crc32c::crc32c(&bytes[4..]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

pub(crate) fn open(bytes: &[u8]) -> Option<Letter> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    if crc32c::crc32c(rest) != u32::from_le_bytes(*crc) {
        return None;
    }
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let wait = ms(u64::from(u32::from_le_bytes(*rest.first_chunk::<4>()?)));
    Some(Letter { number: u64::from_le_bytes(*number), wait })
}

thread_local! {
    static NUMBER: Cell<u64> = const { Cell::new(0) };
}

/// What a test asks a peer.
#[derive(Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) to: u64,
    pub(crate) shard: u32,
    pub(crate) urgency: Urgency,
    pub(crate) wait: Duration,
    pub(crate) filling: usize,
    pub(crate) deadline_in: Duration,
}

impl Ask {
    pub(crate) fn urgent(to: u64, shard: u32) -> Self {
        let (wait, deadline_in) = (Duration::ZERO, 2 * SECOND);
        Self { to, shard, urgency: Urgency::Urgent, wait, filling: 0, deadline_in }
    }

    pub(crate) fn bulk(to: u64, shard: u32, filling: usize) -> Self {
        Self { urgency: Urgency::Bulk, filling, ..Self::urgent(to, shard) }
    }

    /// The call, and the number its answer must carry.
    pub(crate) fn call(self) -> (Call, u64) {
        let number = NUMBER.with(|number| number.replace(number.get() + 1));
        let call = Call {
            to: NodeId(self.to),
            shard: ShardId(self.shard),
            urgency: self.urgency,
            deadline_in: self.deadline_in,
            request: seal(number, self.wait, self.filling).into(),
        };
        (call, number)
    }

    /// Asks, checks that the answer is the one to this question, and tells the core that answered;
    /// `None` when the answer was altered on its way.
    pub(crate) fn ask(
        self,
        links: &Links,
    ) -> impl Future<Output = Result<Option<u16>, PeerError>> + use<> {
        let (call, number) = self.call();
        let (answer, asked) = (links.call(call), world::Instant::now());
        async move {
            let answer = answer.await;
            // A poll costs some virtual time.
            let late = asked.elapsed().saturating_sub(self.deadline_in);
            assert!(late < ms(20), "an answer {late:?} after its deadline");
            Ok(open(&answer?).map(|letter| {
                assert_eq!(letter.number, number, "the answer to another call");
                letter.wait.as_millis() as u16
            }))
        }
    }
}

/// The answer, however long it takes to get through; at most `within`.
pub(crate) async fn ask_until_answered(links: &Links, ask: Ask, within: Duration) -> u16 {
    let asked = async {
        loop {
            if let Ok(Some(core)) = ask.ask(links).await {
                return core;
            }
            world::sleep(ms(20)).await;
        }
    };
    world::timeout(within, asked).await.unwrap()
}
