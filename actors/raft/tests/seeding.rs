//! Copies of a replica: complete whatever happens to the source, the links and the power.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
#![cfg(sim)]

mod cluster;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use barrage_commitlog::{CommitLog, Entry, EntryKind, Floor, Vote};
use barrage_model::{LogId, LogIndex, NodeId, Term};
use barrage_raft::{Content, FolderError, Held, OpenError};
use barrage_world as world;
use barrage_world::sim::{self, Fault, Injection, Operation, Rng};
use bytes::Bytes;

use crate::cluster::{
    Replica, SECOND, SEGMENT_BYTES, Wires, assert_alike, catch_up, checkpoint, formed, leader,
    log_options, ms, release, retain, store, wait_for_leader,
};

/// A group with a history: records, refused ones among them, checkpoints, some let go.
async fn with_history(wires: &Wires, count: u64) -> Vec<Replica> {
    let replicas = formed(wires, count, Floor::Records).await;
    let at = wait_for_leader(&replicas).await;
    for round in 1..4 {
        store(&replicas[at], 80).await;
        release(&replicas[at], round * 35).await;
        checkpoint(&replicas[at]).await;
        retain(&replicas[at]).await;
    }
    store(&replicas[at], 25).await;
    let group = replicas[at].group();
    assert!(group.log().hard_state().floor.is_some(), "the log begins behind a floor");
    assert!(group.with_machine(|shelf| shelf.refused) > 20);
    replicas
}

async fn add_learner(leader: &Replica, node: u64) {
    let group = leader.group();
    leader.run(async move { group.add_learner(NodeId(node)).await }).await.unwrap();
}

/// Opens a seeded replica, makes it a learner and compares it with the leader.
async fn join(replica: &Replica, leader: &Replica) {
    assert_eq!(content(replica).await, Content::Whole);
    replica.open().await;
    add_learner(leader, replica.node.0).await;
    store(leader, 5).await;
    assert!(catch_up(replica, leader).await, "{} does not catch up", replica.node);
    assert_alike(replica, leader).await;
    // Nothing of it depends on what was in memory.
    replica.shutdown().await;
    replica.open().await;
    assert!(catch_up(replica, leader).await);
    assert_alike(replica, leader).await;
}

async fn content(replica: &Replica) -> Content {
    let folder = replica.folder();
    replica.run(async move { folder.content().await }).await.unwrap()
}

async fn forget_indexes(dir: PathBuf) {
    for name in CommitLog::file_names(&dir).await.unwrap() {
        if name.ends_with(".idx") {
            world::fs::remove(dir.join(name)).await.unwrap();
        }
    }
}

/// Names and bytes of the checkpoint files.
async fn checkpoints(replica: &Replica) -> Vec<(String, Vec<u8>)> {
    let dir = replica.folder().dir;
    let read = replica.run(async move {
        let mut files = Vec::new();
        for name in CommitLog::file_names(&dir).await.unwrap() {
            if name.ends_with(".ckp") {
                let bytes = world::fs::read(dir.join(&name)).await.unwrap();
                files.push((name, bytes));
            }
        }
        files
    });
    read.await
}

#[test]
fn a_new_replica_becomes_whole() {
    for seed in 0..6 {
        sim::set_buggify(seed % 2 == 0);
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let new = Replica::new(4, &wires, Floor::Records);
            assert_eq!(content(&new).await, Content::Empty);
            new.seed_from(&[1]).await;
            let (there, here) = (checkpoints(&replicas[0]).await, checkpoints(&new).await);
            assert_eq!(here.len(), 1);
            assert!(there.contains(&here[0]), "another checkpoint");
            let progress = *new.progress.borrow();
            assert_eq!(progress.entries, progress.of);
            assert!(progress.bytes > 100_000);
            join(&new, &replicas[0]).await;
            let voters = BTreeSet::from([NodeId(1), NodeId(4)]);
            let group = replicas[0].group();
            let changed = replicas[0].run(async move { group.change_voters(&voters).await });
            changed.await.unwrap();
        });
    }
    sim::set_buggify(false);
}

#[test]
fn a_group_without_a_checkpoint_is_copied_too() {
    sim::run(1, async {
        let wires = Wires::default();
        let replicas = formed(&wires, 1, Floor::Records).await;
        store(&replicas[0], 10).await;
        let new = Replica::new(2, &wires, Floor::Records);
        new.seed_from(&[1]).await;
        join(&new, &replicas[0]).await;
    });
}

/// Records come and go at the source while it is copied.
#[test]
fn the_source_goes_on_writing_and_letting_go() {
    let mut rounds_all = 0;
    for seed in 0..12 {
        sim::set_buggify(seed % 2 == 0);
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = Rc::new(with_history(&wires, 1).await);
            let new = Replica::new(4, &wires, Floor::Records);
            let stop = Rc::new(Cell::new(false));
            let (source, stopped) = (Rc::clone(&replicas), Rc::clone(&stop));
            let writing = world::spawn(async move {
                let mut rounds = 0;
                while !stopped.get() {
                    store(&source[0], 7).await;
                    let next = source[0].group().with_machine(|shelf| shelf.next);
                    release(&source[0], next - 60).await;
                    checkpoint(&source[0]).await;
                    retain(&source[0]).await;
                    rounds += 1;
                }
                rounds
            });
            world::sleep(ms(50)).await;
            new.seed_from(&[1]).await;
            world::sleep(ms(100)).await;
            stop.set(true);
            rounds_all += writing.await.unwrap();
            join(&new, &replicas[0]).await;
        });
    }
    sim::set_buggify(false);
    assert!(rounds_all > 24, "only {rounds_all} rounds of writing");
}

/// The power fails at every point of a seeding in turn; the rest is done by the next one.
#[test]
fn a_seeding_that_was_cut_short_goes_on() {
    let (mut crashed_count, mut incomplete_count) = (0, 0);
    for seed in 0..60 {
        sim::set_buggify(seed % 2 == 0);
        sim::run(seed, async {
            let mut random = Rng::new(seed);
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let mut new = Replica::new(4, &wires, Floor::Records);
            for round in 0..4 {
                if round < 3 {
                    new.disk.crash_at(new.disk.operation_count() + 1 + random.below(60));
                }
                let seeding = new.machine.spawn(new.seeding(&[1]));
                match world::timeout(600 * SECOND, seeding).await.unwrap() {
                    Some(ended) => {
                        ended.unwrap();
                        break;
                    }
                    None => crashed_count += 1,
                }
                new = new.crash(&mut random);
                if round == 1 {
                    // The source is not the same as it was.
                    store(&replicas[0], 30).await;
                    let next = replicas[0].group().with_machine(|shelf| shelf.next);
                    release(&replicas[0], next - 60).await;
                    checkpoint(&replicas[0]).await;
                    checkpoint(&replicas[0]).await;
                    retain(&replicas[0]).await;
                }
                match content(&new).await {
                    Content::Whole => break,
                    Content::Incomplete => incomplete_count += 1,
                    Content::Empty => {}
                }
            }
            // The power may go on failing when all is done.
            let new = new.crash(&mut random);
            join(&new, &replicas[0]).await;
        });
    }
    sim::set_buggify(false);
    assert!(crashed_count > 60, "only {crashed_count} crashes");
    assert!(incomplete_count > 40, "only {incomplete_count} crashes within a seeding");
}

#[test]
fn a_source_that_dies_is_replaced() {
    let mut died_within = 0;
    for seed in 0..12 {
        sim::set_buggify(true);
        sim::run(seed, async {
            let wires = Wires::default();
            let mut replicas = with_history(&wires, 3).await;
            let at = wait_for_leader(&replicas).await;
            for other in [(at + 1) % 3, (at + 2) % 3] {
                assert!(catch_up(&replicas[other], &replicas[at]).await);
                checkpoint(&replicas[other]).await;
            }
            let new = Replica::new(4, &wires, Floor::Records);
            let seeding = new.machine.spawn(new.seeding(&[1, 2, 3]));
            for _ in 0..10_000 {
                if new.progress.borrow().bytes > 0 {
                    break;
                }
                world::sleep(ms(1)).await;
            }
            replicas[at].machine.power_off();
            died_within += u64::from(content(&new).await == Content::Incomplete);
            replicas.remove(at);
            wait_for_leader(&replicas).await;
            // Somebody else may have stood at the same time.
            world::sleep(SECOND).await;
            let next = wait_for_leader(&replicas).await;
            store(&replicas[next], 10).await;
            world::timeout(600 * SECOND, seeding).await.unwrap().unwrap().unwrap();
            join(&new, &replicas[next]).await;
        });
    }
    sim::set_buggify(false);
    assert!(died_within > 4, "only {died_within} died within");
}

#[test]
fn a_spoiled_piece_is_found() {
    let mut spoiled_count = 0;
    for seed in 0..6 {
        sim::set_buggify(true);
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let new = Replica::new(4, &wires, Floor::Records);
            wires.spoil_one_in.set(3);
            new.seed_from(&[1]).await;
            wires.spoil_one_in.set(0);
            spoiled_count += wires.spoiled_count.get();
            join(&new, &replicas[0]).await;
        });
    }
    sim::set_buggify(false);
    assert!(spoiled_count >= 6, "only {spoiled_count} pieces were spoiled");
}

#[test]
fn a_seeding_that_was_dropped_goes_on() {
    for seed in 0..6 {
        sim::set_buggify(true);
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let new = Replica::new(4, &wires, Floor::Records);
            for span in [3, 10, 30, 60] {
                let short = world::timeout(ms(span), new.seeding(&[1]));
                if new.run(short).await.is_ok() {
                    break;
                }
            }
            if content(&new).await != Content::Whole {
                new.seed_from(&[1]).await;
            }
            join(&new, &replicas[0]).await;
        });
    }
    sim::set_buggify(false);
}

#[test]
fn a_voter_that_lost_its_log_comes_back_with_its_vote() {
    for seed in 0..6 {
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 3).await;
            let at = wait_for_leader(&replicas).await;
            let (leader_is, lost) = (&replicas[at], &replicas[(at + 1) % 3]);
            store(leader_is, 10).await;
            assert!(catch_up(lost, leader_is).await);
            let vote = lost.group().log().hard_state().vote.unwrap();
            lost.shutdown().await;
            let folder = lost.folder();
            lost.run(async move { folder.dismantle().await }).await.unwrap();
            assert_eq!(content(lost).await, Content::Incomplete);
            let dir = lost.folder().dir;
            let left = lost.run(async move { world::fs::list(dir).await }).await.unwrap();
            assert_eq!(left, ["incomplete"]);
            assert!(matches!(lost.try_open().await, Err(OpenError::Incomplete)));
            lost.seed_from(&[1, 2, 3]).await;
            lost.open().await;
            assert!(lost.group().log().hard_state().vote.unwrap().term >= vote.term);
            store(leader_is, 5).await;
            assert!(catch_up(lost, leader_is).await);
            assert_alike(lost, leader_is).await;
            // It counts again: without the third one there is still a majority.
            replicas[(at + 2) % 3].machine.power_off();
            store(leader_is, 5).await;
        });
    }
}

#[test]
fn a_vote_of_a_later_term_is_kept() {
    sim::run(3, async {
        let wires = Wires::default();
        let replicas = with_history(&wires, 1).await;
        let new = Replica::new(4, &wires, Floor::Records);
        let vote = Vote { term: Term(50), node: NodeId(9), committed: false };
        let folder = new.folder();
        new.run(async move {
            world::fs::create_dir_all(cluster::DIR).await.unwrap();
            let options = log_options(Floor::Records);
            let (log, _) = CommitLog::open(folder.dir.clone(), options, None).await.unwrap();
            log.save_vote(vote).await.unwrap();
            log.close().await;
            folder.dismantle().await.unwrap();
            // Twice is once.
            folder.dismantle().await.unwrap();
        })
        .await;
        new.seed_from(&[1]).await;
        new.open().await;
        assert_eq!(new.group().log().hard_state().vote, Some(vote));
        assert!(replicas[0].is_complete().await);
    });
}

#[test]
fn a_damaged_log_is_set_aside_unless_the_vote_is_lost_with_it() {
    // Within a segment the groups behind the damage restate the vote; without both copies of the
    // newest header nothing in its segment can be believed.
    let table: [(bool, &[u64], bool); 3] =
        [(false, &[8_500], true), (true, &[8_500], true), (true, &[100, 4_196], false)];
    for (newest, bytes, certain) in table {
        sim::run(4, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 3).await;
            let at = wait_for_leader(&replicas).await;
            let (leader_is, damaged) = (&replicas[at], &replicas[(at + 1) % 3]);
            assert!(catch_up(damaged, leader_is).await);
            store(leader_is, 40).await;
            assert!(catch_up(damaged, leader_is).await);
            damaged.shutdown().await;
            let mut segments = segments(damaged).await;
            let name = if newest { segments.pop() } else { segments.first().cloned() };
            let name = name.unwrap();
            // A segment that is known by its index file is not read at a start.
            damaged.run(forget_indexes(damaged.folder().dir)).await;
            for at in bytes {
                damaged.disk.flip_bit(damaged.file(&name), *at, 3).unwrap();
            }
            assert!(damaged.try_open().await.is_err(), "the damage went unnoticed");
            let folder = damaged.folder();
            let aside =
                damaged.run(async move { folder.set_damaged_aside(Held::Unknown).await }).await;
            if !certain {
                assert!(matches!(aside, Err(FolderError::VoteUncertain(_))), "{aside:?}");
                assert_eq!(content(damaged).await, Content::Whole, "nothing was changed");
                return;
            }
            let aside = aside.unwrap();
            let kept = damaged.run(async move { world::fs::list(aside).await }).await.unwrap();
            assert!(kept.contains(&segments[0]));
            damaged.seed_from(&[1, 2, 3]).await;
            damaged.open().await;
            store(leader_is, 5).await;
            assert!(catch_up(damaged, leader_is).await);
            assert_alike(damaged, leader_is).await;
        });
    }
}

/// The segments of a replica, oldest first.
async fn segments(replica: &Replica) -> Vec<String> {
    let dir = replica.folder().dir;
    let mut names = replica.run(async move { CommitLog::file_names(&dir).await }).await.unwrap();
    names.retain(|name| name.ends_with(".log"));
    names.sort();
    names
}

/// Makes a copy that is damaged anew, and compares it with the leader's.
async fn repair(damaged: &Replica, leader_is: &Replica) {
    let folder = damaged.folder();
    damaged.run(async move { folder.set_damaged_aside(Held::Unknown).await }).await.unwrap();
    world::sleep(60 * SECOND).await;
    // Whoever had it open before has ended: nobody makes files there.
    assert_eq!(content(damaged).await, Content::Incomplete);
    let dir = damaged.folder().dir;
    let left = damaged.run(async move { CommitLog::file_names(&dir).await }).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    damaged.seed_from(&[1, 2, 3]).await;
    damaged.open().await;
    store(leader_is, 5).await;
    assert!(catch_up(damaged, leader_is).await);
    assert_alike(damaged, leader_is).await;
}

/// Two copies of three were damaged, in different places that nobody had read since, and the third
/// was lost: what the leader could not read was never asked of the other one.
#[test]
fn copies_that_are_damaged_in_different_places_make_a_whole_one() {
    for seed in 0..4 {
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 3).await;
            let at = wait_for_leader(&replicas).await;
            let (leader_is, other) = (&replicas[at], &replicas[(at + 1) % 3]);
            assert!(catch_up(other, leader_is).await);
            world::sleep(60 * SECOND).await;
            let sealed = segments(leader_is).await.len() as u64 - 1;
            assert!(sealed >= 2, "{sealed}");
            for (replica, part) in [(leader_is, 0), (other, 1)] {
                let names = segments(replica).await;
                let (_, names) = names.split_last().unwrap();
                for name in names {
                    for at in (8_200..SEGMENT_BYTES).step_by(12_000).skip(part).step_by(2) {
                        replica.disk.flip_bit(replica.file(name), at, 3).unwrap();
                    }
                }
            }
            let new = Replica::new(4, &wires, Floor::Records);
            new.seed_from(&[1, 2, 3]).await;
            assert_eq!(content(&new).await, Content::Whole);
            new.open().await;
            assert!(new.is_complete().await);
        });
    }
}

/// `cluster` 2584: a sealed segment is known by its index file, so that the log opened; the first
/// entry above the floor, which openraft asks for, could not be read. The node ended, and did so at
/// every start.
#[test]
fn damage_met_while_a_group_starts_is_told_as_such() {
    sim::run(5, async {
        let wires = Wires::default();
        let replicas = with_history(&wires, 3).await;
        let at = wait_for_leader(&replicas).await;
        let (leader_is, damaged) = (&replicas[at], &replicas[(at + 1) % 3]);
        assert!(catch_up(damaged, leader_is).await);
        // The indexes are written meanwhile.
        world::sleep(60 * SECOND).await;
        damaged.shutdown().await;
        let segments = segments(damaged).await;
        let (_, sealed) = segments.split_last().unwrap();
        for name in sealed {
            for at in (8_200..SEGMENT_BYTES).step_by(100) {
                damaged.disk.flip_bit(damaged.file(name), at, 3).unwrap();
            }
        }
        let refused = damaged.try_open().await.err();
        assert!(matches!(refused, Some(OpenError::Damaged(_))), "{refused:?}");
        repair(damaged, leader_is).await;
    });
}

/// Before it was killed it was sent much at once, two changes of the members among it. What comes
/// before those is not read at the start, but when it is known to be committed.
#[test]
fn a_group_that_dies_of_damage_says_so_and_is_copied_anew() {
    sim::run(6, async {
        let wires = Wires::default();
        let mut replicas = with_history(&wires, 3).await;
        let at = wait_for_leader(&replicas).await;
        let late = replicas.swap_remove((at + 1) % 3);
        let at = wait_for_leader(&replicas).await;
        assert!(catch_up(&late, &replicas[at]).await);
        late.shutdown().await;
        // One append carries hundreds of small entries, and less is looked through for members.
        for _ in 0..200 {
            release(&replicas[at], 105).await;
        }
        add_learner(&replicas[at], 4).await;
        let group = replicas[at].group();
        replicas[at].run(async move { group.remove_learner(NodeId(4)).await }).await.unwrap();
        let last = replicas[at].group().log().last_log_id();
        late.open().await;
        while late.group().log().last_log_id() < last {
            world::sleep(ms(1)).await;
        }
        let killed = late.kill();
        wires.cut(killed.node.0);
        killed.open().await;
        let rots = Injection::always(Operation::Read, Fault::BitFlip);
        killed.disk.inject(rots.at(killed.folder().dir));
        wires.heal();
        let group = killed.group();
        let failed = killed.run(async move { group.failed().await });
        let reason = world::timeout(60 * SECOND, failed).await.unwrap();
        killed.disk.clear_faults();
        assert!(killed.group().died_of_damage(), "{reason}");
        // Who else has it is still known.
        assert!(killed.group().status().voters.len() > 1);
        world::timeout(60 * SECOND, killed.shutdown()).await.expect("a dead group can be closed");
        let at = wait_for_leader(&replicas).await;
        repair(&killed, &replicas[at]).await;
    });
}

/// The end that was copied from an earlier leader is in no later leader's log.
#[test]
fn an_end_that_was_never_committed_is_cut_off() {
    for (seed, known) in [(1, true), (2, false)] {
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let new = Replica::new(4, &wires, Floor::Records);
            new.seed_from(&[1]).await;
            let folder = new.folder();
            new.run(async move {
                folder.mark_incomplete(Held::Unknown).await.unwrap();
                let log = CommitLog::open_incomplete(folder.dir, folder.log).await.unwrap();
                let last = log.last_log_id().unwrap();
                if !known {
                    log.truncate_after(log.hard_state().floor).await.unwrap();
                }
                let next = log.last_log_id().unwrap().index.0 + 1;
                for index in next..next + 3 {
                    let entry = Entry {
                        id: LogId { term: last.term, index: LogIndex(index) },
                        kind: EntryKind::Command,
                        log_time_ms: 1,
                        command: Bytes::from_static(b"of nobody"),
                        runs: Vec::new(),
                    };
                    log.append(vec![entry]).await.unwrap();
                }
                log.close().await;
            })
            .await;
            store(&replicas[0], 20).await;
            new.seed_from(&[1]).await;
            join(&new, &replicas[0]).await;
        });
    }
}

/// What apply refused is forgotten with the segments it lies in. A copy that still has those
/// entries, from an earlier attempt, must not take it for records.
#[test]
fn what_was_refused_before_the_floor_is_not_served() {
    for seed in 0..8 {
        sim::run(seed, async {
            let wires = Wires::default();
            let replicas = with_history(&wires, 1).await;
            let source = &replicas[0];
            let new = Replica::new(4, &wires, Floor::Records);
            new.seed_from(&[1]).await;
            let folder = new.folder();
            new.run(async move { folder.mark_incomplete(Held::Unknown).await }).await.unwrap();
            let floor = source.group().log().hard_state().floor;
            let next = source.group().with_machine(|shelf| shelf.next);
            release(source, next - 8 * (seed + 1)).await;
            // Long enough that the source no longer waits for whom it has nearly copied.
            world::sleep(20 * SECOND).await;
            for _ in 0..3 {
                store(source, 60).await;
                checkpoint(source).await;
                retain(source).await;
            }
            assert!(floor < source.group().log().hard_state().floor, "the floor has not moved");
            new.seed_from(&[1]).await;
            join(&new, source).await;
        });
    }
}

/// Only a leader that a majority has confirmed gives anything.
#[test]
fn a_leader_that_was_cut_off_is_no_source() {
    sim::run(8, async {
        let wires = Wires::default();
        let replicas = with_history(&wires, 3).await;
        let at = wait_for_leader(&replicas).await;
        for other in [(at + 1) % 3, (at + 2) % 3] {
            wires.cut(replicas[other].node.0);
        }
        let new = Replica::new(4, &wires, Floor::Records);
        let seeding = new.machine.spawn(new.seeding(&[1, 2, 3]));
        world::sleep(20 * SECOND).await;
        assert_eq!(content(&new).await, Content::Incomplete);
        assert_eq!(new.progress.borrow().bytes, 0, "a leader without a majority gave entries");
        wires.heal();
        world::timeout(60 * SECOND, seeding).await.unwrap().unwrap().unwrap();
        let (at, _) = leader(&replicas).unwrap();
        join(&new, &replicas[at]).await;
    });
}
