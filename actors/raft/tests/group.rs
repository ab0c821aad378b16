//! A group of one voter on real files: order, terms, restarts, checkpoints.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(not(sim))]

mod journal;

use std::future::Future;
use std::path::{Path, PathBuf};

use barrage_commitlog::Options;
use barrage_model::{ShardId, Term};
use barrage_raft::{Group, GroupOptions, OpenError, ProposeError};
use barrage_world as world;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::journal::{
    Journal, NEVER, SEGMENT_BYTES, UNKNOWN, command, options, proposal, propose_all,
};

fn check_commands(group: &Group<Journal>, count: usize) {
    let expected: Vec<_> = (0..count).map(command).collect();
    group.with_machine(|machine| assert_eq!(machine.commands, expected));
}

/// Opens a group on an executor of its own and ends that executor with everything in it: what a
/// killed process leaves on disk (but for what the kernel still holds).
fn run<T, F: Future<Output = T>>(
    dir: &Path,
    checkpoint_bytes: u64,
    body: impl FnOnce(Group<Journal>) -> F,
) -> T {
    world::run_local(async {
        world::prepare_directory(dir).await.unwrap();
        body(Group::open_alone(options(dir, checkpoint_bytes)).await.unwrap()).await
    })
}

fn checkpoint_files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir.join("shard"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ckp"))
        .collect();
    files.sort();
    files
}

#[test]
fn pipelined_proposals_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        assert!(group.is_ready());
        let replies = propose_all(&group, 0..1000).await;
        assert_eq!(replies, (1..=1000).collect::<Vec<_>>());
        check_commands(&group, 1000);
        group.with_machine(|machine| assert!(machine.log_times_ms.iter().all(|time| *time == 42)));
        group.shutdown().await;
    });
}

#[test]
fn replies_arrive_whatever_is_awaited_first() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        let term = group.leader_term().unwrap();
        let first = group.propose(proposal(command(0)), term);
        drop(group.propose(proposal(command(1)), term));
        let third = group.propose(proposal(command(2)), term);
        let (third, first) = (third.await.unwrap(), first.await.unwrap());
        assert_eq!((first.reply, third.reply), (1, 3));
        assert_eq!(third.index.0, first.index.0 + 2);
        let mut rest: FuturesUnordered<_> =
            (3..50).map(|number| group.propose(proposal(command(number)), term)).collect();
        while let Some(reply) = rest.next().await {
            reply.unwrap();
        }
        check_commands(&group, 50);
        group.shutdown().await;
    });
}

#[test]
fn another_term_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        let term = group.leader_term().unwrap();
        for wrong in [Term(0), Term(term.0 + 1)] {
            let refused = group.propose(proposal(command(0)), wrong).await;
            assert_eq!(refused, Err(ProposeError::NotLeader));
        }
        assert_eq!(propose_all(&group, 0..1).await, [1]);
        group.shutdown().await;
    });
}

#[test]
fn too_large_a_proposal_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        let term = group.leader_term().unwrap();
        let large = proposal(vec![0; SEGMENT_BYTES as usize]);
        assert_eq!(group.propose(large, term).await, Err(ProposeError::TooLarge));
        assert_eq!(propose_all(&group, 0..1).await, [1]);
        group.shutdown().await;
    });
}

#[test]
fn state_survives_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first_term = run(dir.path(), NEVER, async |group| {
        propose_all(&group, 0..100).await;
        let term = group.leader_term().unwrap();
        group.shutdown().await;
        assert!(!group.is_ready());
        let refused = group.propose(proposal(command(0)), term).await;
        assert_eq!(refused, Err(ProposeError::Stopped));
        term
    });
    assert_eq!(checkpoint_files(dir.path()).len(), 1);
    run(dir.path(), NEVER, async |group| {
        check_commands(&group, 100);
        assert!(group.leader_term().unwrap() > first_term);
        assert_eq!(propose_all(&group, 100..101).await, [101]);
        group.shutdown().await;
    });
}

#[test]
fn state_survives_an_abrupt_end() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..4 {
        run(dir.path(), NEVER, async |group| {
            check_commands(&group, round * 50);
            propose_all(&group, round * 50..(round + 1) * 50).await;
        });
        assert!(checkpoint_files(dir.path()).is_empty());
    }
}

#[test]
fn checkpoints_are_taken_and_the_floor_follows() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 1 << 20, async |group| {
        for round in 0..20 {
            propose_all(&group, round * 50..(round + 1) * 50).await;
            world::yield_now().await;
        }
        let floor = async {
            while group.log().hard_state().floor.is_none() {
                world::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        world::timeout(std::time::Duration::from_secs(20), floor).await.unwrap();
    });
    // Two are kept; a third may not be removed yet.
    assert!((2..=3).contains(&checkpoint_files(dir.path()).len()));
    run(dir.path(), NEVER, async |group| {
        check_commands(&group, 1000);
        assert_eq!(propose_all(&group, 1000..1001).await, [1001]);
    });
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        for round in 0..3 {
            propose_all(&group, round * 50..(round + 1) * 50).await;
            group.take_checkpoint().await.unwrap();
            group.take_checkpoint().await.unwrap();
        }
        // The floor moves behind the call.
        world::sleep(std::time::Duration::from_millis(200)).await;
        assert!(group.log().hard_state().floor.is_some());
        propose_all(&group, 150..160).await;
    });
    let newest = checkpoint_files(dir.path()).pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    run(dir.path(), NEVER, async |group| {
        check_commands(&group, 160);
        assert_eq!(propose_all(&group, 160..161).await, [161]);
    });
}

#[test]
fn a_foreign_shard_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        propose_all(&group, 0..10).await;
    });
    world::run_local(async {
        world::prepare_directory(dir.path()).await.unwrap();
        let mut other = options(dir.path(), NEVER);
        other.shard = ShardId(4);
        other.log = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(ShardId(4)) };
        let refused = Group::open_alone(other).await.err();
        assert!(matches!(refused, Some(OpenError::Log(_))), "{refused:?}");
    });
}

#[test]
fn an_unknown_command_stops_the_replica_and_waits_for_the_build_that_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), NEVER, async |group| {
        propose_all(&group, 0..3).await;
        let term = group.leader_term().unwrap();
        let answered = group.propose(proposal(UNKNOWN.to_vec()), term).await;
        assert_eq!(answered, Err(ProposeError::Stopped));
        let reason = group.failed().await;
        assert!(reason.contains("of the next release"), "{reason}");
        // It is not skipped: what is behind it is not applied either.
        check_commands(&group, 3);
    });
    world::run_local(async {
        world::prepare_directory(dir.path()).await.unwrap();
        let machine = Journal { knows_all: true, ..Journal::default() };
        let options = GroupOptions { machine, ..options(dir.path(), NEVER) };
        let group = Group::open_alone(options).await.unwrap();
        group.with_machine(|machine| assert_eq!(machine.commands[3], UNKNOWN));
        group.shutdown().await;
    });
}
