//! Replicas of one shard on simulated machines, each with a disk of its own, and a transport
//! between them that may be cut or spoil what it carries.

#![allow(dead_code, reason = "not every test needs all of it")]

pub(crate) mod shelf;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{Floor, Options};
use barrage_model::{NodeId, ShardId, Term};
use barrage_raft::{
    Answer, Ballot, Call, Folder, Group, GroupOptions, PeerError, Peers, SeedError, SeedOptions,
    SeedProgress, Timing, seed,
};
use barrage_world as world;
use barrage_world::channel::watch;
use barrage_world::sim::{Disk, Machine, Rng};
use bytes::Bytes;

use self::shelf::{Shelf, advance, record, value, value_at};

pub(crate) const SHARD: ShardId = ShardId(3);
pub(crate) const DIR: &str = "/data";
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const SEGMENT_BYTES: u64 = 128 << 10;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

type Slot = Rc<RefCell<Place>>;

/// What answers on a node.
#[derive(Clone, Default)]
pub(crate) enum Place {
    #[default]
    Nothing,
    Copied(Rc<Ballot>),
    Open(Group<Shelf>),
}

/// Who runs where, and what the links do. Cloning shares it.
#[derive(Clone, Default)]
pub(crate) struct Wires {
    nodes: Rc<RefCell<BTreeMap<NodeId, (Machine, Slot)>>>,
    cut: Rc<RefCell<BTreeSet<NodeId>>>,
    /// Every so many large answers, one byte is spoiled.
    pub(crate) spoil_one_in: Rc<Cell<u64>>,
    large_count: Rc<Cell<u64>>,
    pub(crate) spoiled_count: Rc<Cell<u64>>,
}

struct Wire {
    from: NodeId,
    wires: Wires,
}

impl Peers for Wire {
    fn call(&self, call: Call) -> Answer {
        let (wires, from) = (self.wires.clone(), self.from);
        Box::pin(async move {
            world::sleep(ms(1)).await;
            let lost = PeerError::TimedOut(call.to, call.deadline_in);
            let target = wires.nodes.borrow().get(&call.to).cloned();
            let is_cut = |node| wires.cut.borrow().contains(node);
            let reached = target.filter(|(machine, slot)| {
                !machine.is_killed()
                    && !matches!(*slot.borrow(), Place::Nothing)
                    && !is_cut(&call.to)
                    && !is_cut(&from)
            });
            let Some((machine, slot)) = reached else {
                world::sleep(ms(20)).await;
                return Err(PeerError::Unreachable(call.to, "cut off".to_owned()));
            };
            let place = slot.borrow().clone();
            let asked = machine.spawn(async move {
                let request = call.request.into_bytes();
                match place {
                    Place::Open(group) => group.handle(request).await.ok(),
                    Place::Copied(ballot) => ballot.handle(request).await.ok().flatten(),
                    Place::Nothing => None,
                }
            });
            match world::timeout(call.deadline_in, asked).await {
                Ok(Some(Some(answer))) if !is_cut(&call.to) && !is_cut(&from) => {
                    Ok(wires.spoil(answer))
                }
                _ => Err(lost),
            }
        })
    }
}

impl Wires {
    fn spoil(&self, answer: Bytes) -> Bytes {
        if self.spoil_one_in.get() == 0 || answer.len() < 1_000 {
            return answer;
        }
        let large_count = self.large_count.replace(self.large_count.get() + 1);
        if !large_count.is_multiple_of(self.spoil_one_in.get()) {
            return answer;
        }
        self.spoiled_count.set(self.spoiled_count.get() + 1);
        let mut bytes = answer.to_vec();
        let at = usize::try_from(world::random_u64() % bytes.len() as u64).unwrap();
        bytes[at] ^= 4;
        Bytes::from(bytes)
    }

    pub(crate) fn cut(&self, node: u64) {
        self.cut.borrow_mut().insert(NodeId(node));
    }

    pub(crate) fn heal(&self) {
        self.cut.borrow_mut().clear();
    }
}

/// One node.
pub(crate) struct Replica {
    pub(crate) node: NodeId,
    pub(crate) disk: Disk,
    pub(crate) machine: Machine,
    pub(crate) floor: Floor,
    pub(crate) progress: watch::Sender<SeedProgress>,
    wires: Wires,
    slot: Slot,
    ballot: Rc<Ballot>,
}

pub(crate) fn log_options(floor: Floor) -> Options {
    Options { floor, segment_bytes: SEGMENT_BYTES, cache_bytes: 64 << 10, ..Options::new(SHARD) }
}

impl Replica {
    pub(crate) fn new(node: u64, wires: &Wires, floor: Floor) -> Self {
        Self::boot(node, wires, floor, Disk::default())
    }

    pub(crate) fn boot(node: u64, wires: &Wires, floor: Floor, disk: Disk) -> Self {
        let (node, slot, machine) = (NodeId(node), Slot::default(), Machine::new(&disk));
        wires.nodes.borrow_mut().insert(node, (machine.clone(), Rc::clone(&slot)));
        let (progress, _) = watch::channel(SeedProgress::default());
        let (wires, ballot) = (wires.clone(), Rc::default());
        Self { node, disk, machine, floor, progress, wires, slot, ballot }
    }

    /// The power fails: what is on the disk may be any of what it may leave.
    pub(crate) fn crash(self, random: &mut Rng) -> Self {
        self.machine.power_off();
        let image = self.disk.crash(random);
        Self::boot(self.node.0, &self.wires, self.floor, Disk::boot(image))
    }

    /// The process ends; what it wrote is there.
    pub(crate) fn kill(self) -> Self {
        self.machine.kill();
        Self::boot(self.node.0, &self.wires, self.floor, self.disk.clone())
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder { dir: Path::new(DIR).join("shard"), log: log_options(self.floor) }
    }

    /// Runs a future on the node.
    pub(crate) async fn run<F>(&self, future: F) -> F::Output
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.machine.spawn(future).await.unwrap()
    }

    pub(crate) async fn open(&self) {
        let group = self.try_open().await.unwrap();
        *self.slot.borrow_mut() = Place::Open(group);
    }

    pub(crate) async fn try_open(&self) -> Result<Group<Shelf>, barrage_raft::OpenError> {
        let options = GroupOptions {
            node: self.node,
            shard: SHARD,
            dir: self.folder().dir,
            log: log_options(self.floor),
            checkpoint_bytes: u64::MAX,
            timing: Timing::default(),
            peers: Rc::new(Wire { from: self.node, wires: self.wires.clone() }),
            machine: Shelf::default(),
        };
        self.run(async move {
            prepare().await;
            Group::open(options).await
        })
        .await
    }

    pub(crate) fn group(&self) -> Group<Shelf> {
        match &*self.slot.borrow() {
            Place::Open(group) => group.clone(),
            _ => panic!("{} is not open", self.node),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(*self.slot.borrow(), Place::Open(_))
    }

    pub(crate) async fn shutdown(&self) {
        let group = self.group();
        *self.slot.borrow_mut() = Place::Nothing;
        self.run(async move { group.shutdown().await }).await;
    }

    pub(crate) async fn folder_is_whole(&self) -> bool {
        let folder = self.folder();
        let content = self.run(async move { folder.content().await }).await.unwrap();
        content == barrage_raft::Content::Whole
    }

    /// The seeding, to be run on the node.
    pub(crate) fn seeding(
        &self,
        sources: &[u64],
    ) -> impl Future<Output = Result<(), SeedError>> + 'static {
        let ballot = Rc::clone(&self.ballot);
        if !self.is_open() {
            *self.slot.borrow_mut() = Place::Copied(Rc::clone(&ballot));
        }
        let options = SeedOptions {
            node: self.node,
            folder: self.folder(),
            peers: Rc::new(Wire { from: self.node, wires: self.wires.clone() }),
            progress: self.progress.clone(),
            ballot,
            patience: Timing::default().election_timeout_max,
        };
        let sources: Vec<NodeId> = sources.iter().copied().map(NodeId).collect();
        async move {
            prepare().await;
            seed(&options, || sources.clone()).await
        }
    }

    pub(crate) async fn seed_from(&self, sources: &[u64]) {
        let seeded = self.run(self.seeding(sources));
        world::timeout(600 * SECOND, seeded).await.unwrap().unwrap();
    }

    /// Whether every record that is promised can be read here, with the right value.
    pub(crate) async fn is_complete(&self) -> bool {
        let group = self.group();
        let (start, next) = group.with_machine(|shelf| (shelf.start, shelf.next));
        let found = self.run(async move {
            // Apply may be ahead of this disk: what it has accepted is found once it is placed.
            while group.log().stats().entries_in_flight > 0 {
                world::sleep(ms(1)).await;
            }
            for offset in start..next {
                if value_at(group.log(), offset).await != Some(value(offset)) {
                    return Some(offset);
                }
            }
            None
        });
        found.await.is_none()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder().dir.join(name)
    }
}

async fn prepare() {
    world::fs::create_dir_all(DIR).await.unwrap();
    world::fs::sync_dir("/").await.unwrap();
}

/// The replica that leads and serves, and its term.
pub(crate) fn leader(replicas: &[Replica]) -> Option<(usize, Term)> {
    replicas.iter().enumerate().find_map(|(at, replica)| {
        let open = !replica.machine.is_killed() && replica.is_open();
        let term = if open { replica.group().leader_term() } else { None };
        term.map(|term| (at, term))
    })
}

pub(crate) async fn wait_for_leader(replicas: &[Replica]) -> usize {
    for _ in 0..2_000 {
        if let Some((at, _)) = leader(replicas) {
            return at;
        }
        world::sleep(ms(10)).await;
    }
    panic!("nobody leads");
}

/// A group of `count` replicas that are all voters.
pub(crate) async fn formed(wires: &Wires, count: u64, floor: Floor) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for node in 1..=count {
        let replica = Replica::new(node, wires, floor);
        replica.open().await;
        replicas.push(replica);
    }
    let voters: BTreeSet<NodeId> = (1..=count).map(NodeId).collect();
    let group = replicas[0].group();
    replicas[0].run(async move { group.form(&voters).await }).await.unwrap();
    wait_for_leader(&replicas).await;
    replicas
}

/// Stores `count` records, every fifth try with a stamp that is refused.
pub(crate) async fn store(replica: &Replica, count: u64) {
    let group = replica.group();
    replica
        .run(async move {
            let term = group.leader_term().unwrap();
            let first = group.with_machine(|shelf| shelf.next);
            for offset in first..first + count {
                if offset % 5 == 0 {
                    let stale = record(offset + 53, b"never stored");
                    assert!(!group.propose(stale, term).await.unwrap().reply);
                }
                let stored = group.propose(record(offset, &value(offset)), term).await;
                assert!(stored.unwrap().reply);
            }
        })
        .await;
}

/// Lets go of everything before `start`.
pub(crate) async fn release(replica: &Replica, start: u64) {
    let group = replica.group();
    replica
        .run(async move {
            let term = group.leader_term().unwrap();
            group.propose(advance(start), term).await.unwrap();
        })
        .await;
}

pub(crate) async fn checkpoint(replica: &Replica) {
    let group = replica.group();
    replica.run(async move { group.take_checkpoint().await }).await.unwrap();
}

pub(crate) async fn retain(replica: &Replica) {
    let group = replica.group();
    replica.run(async move { group.retain().await }).await.unwrap();
}

/// Waits until `replica` has applied all that `of` has.
pub(crate) async fn catch_up(replica: &Replica, of: &Replica) -> bool {
    for _ in 0..3_000 {
        if replica.group().applied() >= of.group().applied() {
            return true;
        }
        world::sleep(ms(10)).await;
    }
    false
}

/// Both hold the same: what is applied, and every record.
pub(crate) async fn assert_alike(one: &Replica, other: &Replica) {
    let state = |replica: &Replica| -> Vec<Vec<u8>> {
        replica.group().with_machine(barrage_raft::Machine::checkpoint).collect()
    };
    assert_eq!(one.group().applied(), other.group().applied());
    assert!(state(one) == state(other), "the machines differ");
    assert!(one.is_complete().await, "{} misses records", one.node);
    assert!(other.is_complete().await, "{} misses records", other.node);
}
