//! A copy on real files: the same course as in the simulated world, once.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(not(sim))]

#[path = "cluster/shelf.rs"]
mod shelf;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::{Floor, Options};
use barrage_model::{NodeId, ShardId};
use barrage_raft::{
    Answer, Call, Content, Folder, Group, GroupOptions, PeerError, Peers, SeedOptions,
    SeedProgress, Timing, seed,
};
use barrage_world as world;
use barrage_world::channel::watch;

use crate::shelf::{Shelf, advance, record, value, value_at};

const SHARD: ShardId = ShardId(3);
const RECORDS: u64 = 2_000;

/// Every group of the process.
#[derive(Clone, Default)]
struct Local(Rc<RefCell<BTreeMap<NodeId, Group<Shelf>>>>);

impl Peers for Local {
    fn call(&self, call: Call) -> Answer {
        let group = self.0.borrow().get(&call.to).cloned();
        Box::pin(async move {
            let lost = || PeerError::Unreachable(call.to, "not open".to_owned());
            let group = group.ok_or_else(lost)?;
            group.handle(call.request.into_bytes()).await.map_err(|_| lost())
        })
    }
}

fn folder(dir: &Path) -> Folder {
    let log = Options { floor: Floor::Records, segment_bytes: 1 << 20, ..Options::new(SHARD) };
    Folder { dir: dir.join("shard"), log }
}

fn options(node: u64, dir: &Path, local: &Local) -> GroupOptions<Shelf> {
    let Folder { dir, log } = folder(dir);
    GroupOptions {
        node: NodeId(node),
        shard: SHARD,
        dir,
        log,
        checkpoint_bytes: u64::MAX,
        timing: Timing::default(),
        peers: Rc::new(local.clone()),
        machine: Shelf::default(),
    }
}

async fn store(group: &Group<Shelf>, count: u64) {
    let term = group.leader_term().unwrap();
    let next = group.with_machine(|shelf| shelf.next);
    for offset in next..next + count {
        let proposed = group.propose(record(offset, &value(offset)), term);
        if offset == next + count - 1 {
            assert!(proposed.await.unwrap().reply);
        }
    }
}

#[test]
fn a_replica_on_another_disk_becomes_whole() {
    let (there, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    world::run_local(async {
        for dir in [&there, &here] {
            world::prepare_directory(dir.path()).await.unwrap();
        }
        let local = Local::default();
        let source = Group::open_alone(options(1, there.path(), &local)).await.unwrap();
        local.0.borrow_mut().insert(NodeId(1), source.clone());
        for round in 1..4 {
            store(&source, RECORDS / 3).await;
            let term = source.leader_term().unwrap();
            source.propose(advance(round * 300), term).await.unwrap();
            source.take_checkpoint().await.unwrap();
            source.retain().await.unwrap();
        }
        assert!(source.log().hard_state().floor.is_some());
        let folder = folder(here.path());
        assert_eq!(folder.content().await.unwrap(), Content::Empty);
        let (progress, _) = watch::channel(SeedProgress::default());
        let peers = Rc::new(local.clone());
        let node = NodeId(2);
        let (ballot, patience) = (Rc::default(), Duration::from_secs(1));
        let folder_is = folder.clone();
        let seeding = SeedOptions { node, folder: folder_is, peers, progress, ballot, patience };
        for span in [1, 5] {
            let short = Duration::from_millis(span);
            drop(world::timeout(short, seed(&seeding, || vec![NodeId(1)])).await);
        }
        if folder.content().await.unwrap() != Content::Whole {
            seed(&seeding, || vec![NodeId(1), NodeId(2)]).await.unwrap();
        }
        assert_eq!(folder.content().await.unwrap(), Content::Whole);
        let copy = Group::open(options(2, here.path(), &local)).await.unwrap();
        local.0.borrow_mut().insert(NodeId(2), copy.clone());
        source.add_learner(NodeId(2)).await.unwrap();
        store(&source, 10).await;
        let follows = async {
            while copy.applied() < source.applied() {
                world::sleep(Duration::from_millis(5)).await;
            }
        };
        world::timeout(Duration::from_secs(20), follows).await.unwrap();
        let (start, next) = copy.with_machine(|shelf| (shelf.start, shelf.next));
        assert!(next > 1_900);
        for offset in start..next {
            assert_eq!(value_at(copy.log(), offset).await, Some(value(offset)), "at {offset}");
        }
        copy.shutdown().await;
        source.shutdown().await;
    });
}
