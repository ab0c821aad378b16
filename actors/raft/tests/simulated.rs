//! A group of one voter on a simulated disk: power loss, a failed flush, a full disk.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(sim)]

mod journal;

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use barrage_raft::{Group, ProposeError};
use barrage_world as world;
use barrage_world::sim::{self, Disk, DiskOptions, Fault, Injection, Operation};

use crate::journal::{Journal, NEVER, command, options, proposal, propose_all};

const DIR: &str = "/data";
const SEEDS: u64 = 60;
const IMAGES_PER_CRASH: u64 = 4;
/// After a reboot the world draws other random names.
const REBOOT: u64 = 1 << 32;

async fn open(checkpoint_bytes: u64) -> Group<Journal> {
    world::fs::create_dir_all(DIR).await.unwrap();
    world::fs::sync_dir("/").await.unwrap();
    Group::open_alone(options(Path::new(DIR), checkpoint_bytes)).await.unwrap()
}

/// Proposes one after the other, a few in flight, and counts what was answered.
async fn fill(acked: Rc<Cell<usize>>, count: usize) {
    let group = open(64 << 10).await;
    let start = group.with_machine(|machine| machine.commands.len());
    for round in 0..count {
        let first = start + round * 4;
        propose_all(&group, first..first + 4).await;
        acked.set(first + 4);
    }
    group.shutdown().await;
}

/// What is there: the commands in order, none missing in between.
async fn check(acked: usize, proposed: usize) {
    let group = open(NEVER).await;
    let there = group.with_machine(|machine| {
        let expected: Vec<_> = (0..machine.commands.len()).map(command).collect();
        assert_eq!(machine.commands, expected);
        machine.commands.len()
    });
    assert!(there >= acked, "acknowledged {acked}, found {there}");
    assert!(there <= proposed, "proposed {proposed}, found {there}");
    propose_all(&group, there..there + 1).await;
    group.shutdown().await;
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let mut crashed_count = 0;
    for seed in 0..SEEDS {
        let dry = Disk::default();
        sim::run_on(seed, &dry, fill(Rc::default(), 12));
        let mut random = sim::Rng::new(seed);
        let acked = Rc::new(Cell::new(0));
        let disk = Disk::default();
        disk.crash_at(1 + random.below(dry.operation_count()));
        let ended = sim::run_until_crash(seed, &disk, fill(Rc::clone(&acked), 12));
        crashed_count += u64::from(ended.is_none());
        for _ in 0..IMAGES_PER_CRASH {
            let rebooted = Disk::boot(disk.crash(&mut random));
            sim::run_on(seed + REBOOT, &rebooted, check(acked.get(), 12 * 4));
        }
    }
    assert!(crashed_count > SEEDS / 2, "only {crashed_count} runs crashed");
}

#[test]
fn a_failed_flush_ends_the_group() {
    for seed in 0..20 {
        let disk = Disk::default();
        let acked = sim::run_on(seed, &disk, async {
            let group = open(NEVER).await;
            propose_all(&group, 0..10).await;
            let term = group.leader_term().unwrap();
            sim::Machine::current()
                .disk()
                .inject(Injection::next(Operation::Flush, Fault::EIO).at(DIR));
            let lost = group.propose(proposal(command(10)), term).await;
            assert_eq!(lost, Err(ProposeError::Stopped));
            let reason = world::timeout(Duration::from_secs(5), group.failed()).await.unwrap();
            assert!(!reason.is_empty());
            assert_eq!(group.leader_term(), None);
            let refused = group.propose(proposal(command(11)), term).await;
            assert_eq!(refused, Err(ProposeError::Stopped));
            world::timeout(Duration::from_secs(5), group.shutdown()).await.unwrap();
            10
        });
        let rebooted = Disk::boot(disk.snapshot());
        sim::run_on(seed + REBOOT, &rebooted, check(acked, acked + 1));
    }
}

#[test]
fn a_failed_flush_while_idle_is_noticed() {
    sim::run(1, async {
        let group = open(NEVER).await;
        propose_all(&group, 0..10).await;
        sim::Machine::current()
            .disk()
            .inject(Injection::next(Operation::Flush, Fault::EIO).at(DIR));
        world::timeout(Duration::from_secs(5), group.failed()).await.unwrap();
    });
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = Disk::new(DiskOptions { capacity_bytes: 8 << 20, ..DiskOptions::default() });
    sim::run_on(3, &disk, async {
        let group = open(NEVER).await;
        let term = group.leader_term().unwrap();
        let mut written = 0;
        let mut waiting = Vec::new();
        loop {
            let mut proposed = Box::pin(group.propose(proposal(vec![7; 200 << 10]), term));
            match world::timeout(Duration::from_secs(2), &mut proposed).await {
                Ok(Ok(_)) => written += 1,
                Ok(Err(error)) => {
                    assert_eq!(error, ProposeError::DiskFull);
                    break;
                }
                Err(_) => waiting.push(proposed),
            }
            assert!(written < 100, "the disk never filled");
        }
        assert!(written > 5);
        assert_eq!(group.failure(), None);
        group.with_machine(|machine| assert_eq!(machine.commands.len(), written));
        sim::Machine::current().disk().set_capacity_bytes(64 << 20);
        for proposed in waiting {
            proposed.await.unwrap();
        }
        let recovered = async {
            while group.propose(proposal(command(0)), term).await.is_err() {
                world::sleep(Duration::from_millis(50)).await;
            }
        };
        world::timeout(Duration::from_secs(10), recovered).await.unwrap();
        group.shutdown().await;
    });
}
