//! Crash states (T2): every crash point of short workloads, random crashes of longer ones.
//!
//! ```text
//!   short words        every operation is a crash point; for each, the disk comes back whole,
//!                      bare, in a drawn way; of the shortest, in every way there is
//!   on recycled files  the same behind a log whose segments have been used before
//!   crash in recovery  every operation of every start on what a crash left
//!   torn flush         every flush, and every write, fails or stores a part; then the power goes
//!   long words         at random, life after life on what the crash before left
//! ```

use super::fixture::{entry, id, key, options, value_at};
use super::workload::{
    Acked, DIR, Model, Op, Workload, check_disk, check_image, draw, models, observe, open,
    open_with, run_workload, value, vote, words, workload,
};
use crate::{OpenError, Options};
use barrage_model::{LogId, LogIndex, Offset};
use barrage_world::sim::{
    CRASH_STYLES, Choices, CrashStyle, Disk, Fault, Injection, Operation, Rng, run_on,
    run_until_crash,
};
use barrage_world::{fs, sleep};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPS: [Op; 8] =
    [Op::Small, Op::Large, Op::Vote, Op::Truncate, Op::Checkpoint, Op::Floor, Op::Retain, Op::Idle];

/// Those that change the log's own order, for longer words.
const CHANGING: [Op; 4] = [Op::Small, Op::Large, Op::Vote, Op::Truncate];

/// Which ways a disk comes back are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Images {
    /// All of the unsynced or nothing of it, and one more way.
    Drawn,
    /// Every set of whole writes and of torn ones, up to a bound.
    Every,
}

/// Ways looked at for one crash point, at most.
const IMAGES_MAX: usize = 200;

/// Every crash point of a workload that begins on a copy of `disk`.
fn check_every_point(workload: &Workload, disk: &Disk, from: &Model, images: Images) -> u64 {
    let models = models(workload, from);
    let dry = Disk::boot(disk.snapshot());
    let acked = Acked::default();
    run_on(1, &dry, run_workload(workload.clone(), from.clone(), acked.clone()));
    assert_eq!(acked.get(), workload.steps.len());
    let mut states = 0;
    for point in 1..=dry.operation_count() {
        let acked = Acked::default();
        let crashed = Disk::boot(disk.snapshot());
        crashed.crash_at(point);
        let run = run_workload(workload.clone(), from.clone(), acked.clone());
        assert!(run_until_crash(1, &crashed, run).is_none(), "the power is cut at {point}");
        let allowed = &models[acked.get()..];
        let what = (workload, point);
        states += match images {
            Images::Drawn => check_drawn(&crashed, allowed, point, &what),
            Images::Every => check_every_image(&crashed, allowed, &what),
        };
    }
    states
}

fn check_drawn(disk: &Disk, allowed: &[Model], point: u64, what: &dyn std::fmt::Debug) -> u64 {
    let mut random = Rng::new(point);
    let style = CRASH_STYLES[random.below(2) as usize];
    check_image(disk.crash_as(style, |choices| random.below(choices)), allowed, what);
    check_image(disk.crash(&mut random), allowed, what);
    2
}

fn check_every_image(disk: &Disk, allowed: &[Model], what: &dyn std::fmt::Debug) -> u64 {
    let mut seen = BTreeSet::new();
    for style in [CrashStyle::Writes, CrashStyle::Prefixes] {
        let mut choices = Choices::default();
        for _ in 0..IMAGES_MAX {
            let image = disk.crash_as(style, |count| choices.choose(count));
            if seen.insert(image.digest()) {
                check_image(image, allowed, what);
            }
            if !choices.advance() {
                break;
            }
        }
    }
    // What is torn by sectors has too many ways: a few of them.
    let mut random = Rng::new(seen.len() as u64);
    for _ in 0..4 {
        let image = disk.crash_as(CrashStyle::Sectors, |count| random.below(count));
        if seen.insert(image.digest()) {
            check_image(image, allowed, what);
        }
    }
    seen.len() as u64
}

/// All words of one to three operations, and of six over the four that change the log.
#[test]
fn every_crash_point_of_every_short_workload() {
    let mut states = 0;
    for (alphabet, length) in [(&OPS[..], 1), (&OPS[..], 2), (&OPS[..], 3), (&CHANGING[..], 6)] {
        for word in words(alphabet, length) {
            let workload = workload(&word, &mut Rng::new(states));
            let empty = Disk::default();
            states += check_every_point(&workload, &empty, &Model::default(), Images::Drawn);
        }
    }
    eprintln!("{states} crash states of short workloads");
    assert!(states > 100_000, "only {states} crash states were seen");
}

/// All words of one and two operations, and of three that change the log: every way the disk may
/// come back.
#[test]
fn every_image_of_every_crash_point_of_the_shortest_workloads() {
    let mut states = 0;
    for (alphabet, length) in [(&OPS[..], 1), (&OPS[..], 2), (&CHANGING[..], 3)] {
        for word in words(alphabet, length) {
            let workload = workload(&word, &mut Rng::new(states));
            let empty = Disk::default();
            states += check_every_point(&workload, &empty, &Model::default(), Images::Every);
        }
    }
    eprintln!("{states} crash images of the shortest workloads");
    assert!(states > 10_000, "only {states} images were seen");
}

/// A log in its second round of files: the active segment and the spare that comes next are full
/// of its own old groups.
fn used_before() -> (Disk, Model) {
    let word = [
        [Op::Large; 6].as_slice(),
        &[Op::Checkpoint, Op::Floor, Op::Retain],
        &[Op::Large; 6],
        &[Op::Checkpoint, Op::Floor, Op::Retain, Op::Idle, Op::Retain],
    ];
    let steps = word.concat().into_iter().map(|op| (op, true)).collect();
    let workload = Workload { steps };
    let model = models(&workload, &Model::default()).pop().unwrap();
    // Which spare comes next follows from its random name.
    for seed in 0..50 {
        let disk = Disk::default();
        run_on(seed, &disk, run_workload(workload.clone(), Model::default(), Acked::default()));
        let report = run_on(seed, &disk, async { crate::verify("/data".as_ref()).await.unwrap() });
        let active = report.segments.last().unwrap();
        let is_old = |path: &Path, from| {
            let bytes = disk.read_raw(path, from, options().segment_bytes).unwrap();
            bytes.iter().any(|byte| *byte != 0)
        };
        let files = disk.snapshot().files();
        let is_spare = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "free");
        let spare = files.into_iter().map(|(path, _)| path).find(is_spare);
        if is_old(&active.path, active.data_end) && spare.is_some_and(|path| is_old(&path, 0)) {
            return (Disk::boot(disk.snapshot()), model);
        }
    }
    panic!("no file was used again");
}

/// All words of three operations, and of five that change the log, where every new segment is a
/// file that was one before and is full of groups with good checksums.
#[test]
fn every_crash_point_of_short_workloads_on_recycled_segments() {
    let (disk, model) = used_before();
    let mut states = 0;
    for (alphabet, length) in [(&OPS[..], 3), (&CHANGING[..], 5)] {
        for word in words(alphabet, length) {
            let workload = workload(&word, &mut Rng::new(states));
            states += check_every_point(&workload, &disk, &model, Images::Drawn);
        }
    }
    eprintln!("{states} crash states on recycled segments");
    assert!(states > 50_000, "only {states} crash states were seen");
}

/// The power goes, and goes again at every operation of the start that follows.
#[test]
fn every_crash_point_of_every_recovery() {
    let mut states = 0;
    for word in words(&OPS[..], 2) {
        let workload = workload(&word, &mut Rng::new(states));
        let models = models(&workload, &Model::default());
        let dry = Disk::default();
        run_on(1, &dry, run_workload(workload.clone(), Model::default(), Acked::default()));
        for point in 1..=dry.operation_count() {
            let acked = Acked::default();
            let disk = Disk::default();
            disk.crash_at(point);
            let run = run_workload(workload.clone(), Model::default(), acked.clone());
            assert!(run_until_crash(1, &disk, run).is_none());
            let mut random = Rng::new(point);
            let image = disk.crash(&mut random);
            let (dry, _) = check_image(image.clone(), &models[acked.get()..], &(&workload, point));
            for again in 1..=dry.operation_count() {
                let disk = Disk::boot(image.clone());
                disk.crash_at(again);
                // Another seed: names of spares are random, and must not come twice.
                let ended = run_until_crash(point ^ again << 32, &disk, async {
                    let (log, _) = open().await.unwrap();
                    log.close().await;
                });
                if ended.is_none() {
                    let what = (&workload, point, again);
                    check_image(disk.crash(&mut random), &models[acked.get()..], &what);
                    states += 1;
                }
            }
        }
    }
    eprintln!("{states} crash states of recoveries");
    assert!(states > 10_000, "only {states} crash states were seen");
}

/// Every flush and every write of every word fails once, the writes having stored nothing or a
/// part. What was acknowledged before stays, whether the process ends and starts again on what is
/// visible, or the power goes, or both.
#[test]
fn every_failed_flush_and_torn_write_of_every_short_workload() {
    let mut states = 0;
    for length in 1..=3 {
        for word in words(&OPS[..], length) {
            let workload = workload(&word, &mut Rng::new(states));
            for (operation, fault) in [
                (Operation::Flush, Fault::EIO),
                (Operation::Write, Fault::EIO),
                (Operation::Write, Fault::TORN),
            ] {
                states += check_every_failure(&workload, operation, fault);
            }
        }
    }
    eprintln!("{states} states after failed flushes and writes");
    assert!(states > 10_000, "only {states} states were seen");
}

fn check_every_failure(workload: &Workload, operation: Operation, fault: Fault) -> u64 {
    let models = models(workload, &Model::default());
    let mut states = 0;
    for skipped in 0.. {
        let disk = Disk::default();
        // The log's own files only: a folder that cannot be made is no log.
        let failing = Injection::next(operation, fault).at(DIR).after(skipped);
        let acked = Acked::default();
        run_on(1, &disk, async {
            let (log, _) = open().await.unwrap();
            log.close().await;
        });
        disk.inject(failing);
        let before = disk.counters();
        run_on(1, &disk, run_workload(workload.clone(), Model::default(), acked.clone()));
        let after = disk.counters();
        let fired = after.flush_errors + after.write_errors + after.torn_writes
            > before.flush_errors + before.write_errors + before.torn_writes;
        if !fired {
            return states;
        }
        let allowed = &models[acked.get()..];
        let mut random = Rng::new(skipped);
        let what = (workload, operation, fault, skipped);
        check_image(disk.crash(&mut random), allowed, &what);
        // The process comes back without a power loss; what it shows must outlive one from then on.
        let found = check_disk(&disk, allowed, &what);
        check_image(disk.crash(&mut random), std::slice::from_ref(&found), &what);
        states += 3;
    }
    states
}

/// A first life, a crash, a second and a third life on what was left: 30,000 lives.
#[test]
fn random_crashes_of_crashes() {
    let mut torn = 0;
    for seed in 0..10_000u64 {
        let mut random = Rng::new(seed);
        let mut disk = Disk::default();
        let mut model = Model::default();
        for life in 0..3 {
            let count = random.between(1, 16);
            let steps = (0..count).map(|_| draw(&mut random)).collect();
            let workload = Workload { steps };
            let models = models(&workload, &model);
            let acked = Acked::default();
            disk.crash_at(disk.operation_count() + random.between(1, 60));
            let run = run_workload(workload.clone(), model.clone(), acked.clone());
            torn += u64::from(run_until_crash(seed, &disk, run).is_none());
            let allowed = &models[acked.get()..];
            let what = (seed, life, &workload, &models[0], acked.get());
            (disk, model) = check_image(disk.crash(&mut random), allowed, &what);
        }
    }
    eprintln!("{torn} random crashes");
    assert!(torn > 10_000, "only {torn} runs were cut");
}

/// One flipped bit anywhere in what is written: verification names it, and opening refuses it
/// or, in the one place where a copy exists or nothing was promised, still shows every record.
#[test]
fn a_flipped_bit_is_never_taken_for_the_end() {
    let mut refused = 0;
    for seed in 0..400u64 {
        let mut random = Rng::new(seed);
        let disk = Disk::default();
        let count = random.between(4, 14);
        let steps = (0..count).map(|_| draw(&mut random)).collect();
        let workload = Workload { steps };
        run_on(seed, &disk, run_workload(workload.clone(), Model::default(), Acked::default()));
        let expected = models(&workload, &Model::default()).pop().unwrap();
        // A clean stop marks the end: from here on nothing is ambiguous.
        run_on(seed, &disk, async { open().await.unwrap().0.close().await });
        // What index files tell of is not read at a start, and judged when it is.
        for (path, _) in disk.snapshot().files().into_iter().filter(|(path, _)| is_index(path)) {
            run_on(seed, &disk, async { fs::remove(&path).await.unwrap() });
        }
        let report = run_on(seed, &disk, async { crate::verify("/data".as_ref()).await.unwrap() });
        assert_eq!(report.damage, [], "seed {seed}");
        let bytes: u64 = report.segments.iter().map(|s| s.data_end).sum();
        let mut at = random.below(bytes);
        let hit = report.segments.iter().find(|segment| {
            let here = at < segment.data_end;
            at -= if here { 0 } else { segment.data_end };
            here
        });
        let segment = hit.unwrap();
        disk.flip_bit(&segment.path, at, random.below(8) as u32).unwrap();
        let report = run_on(seed, &disk, async { crate::verify("/data".as_ref()).await.unwrap() });
        let last_group = segment.data_end - 4096;
        if segment.sealed || at < last_group {
            assert!(!report.damage.is_empty(), "seed {seed}: a flip at {at} went unseen");
        }
        let opened = run_on(seed, &disk, async {
            let (log, checkpoint) = match open().await {
                Ok(opened) => opened,
                Err(OpenError::Damaged(damage)) => {
                    assert_eq!(damage.path, segment.path, "seed {seed}");
                    return None;
                }
                Err(error) => panic!("{error}"),
            };
            Some(observe(&log, checkpoint).await)
        });
        match opened {
            Some(found) => assert!(
                found.entries == expected.entries && found.vote == expected.vote,
                "seed {seed}: flip at {at}: found {found:?}, not {expected:?}"
            ),
            None => refused += 1,
        }
    }
    assert!(refused > 200, "only {refused} flips were refused");
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "idx")
}

/// Reads that meet a flip give a typed error and never wrong bytes.
#[test]
fn a_read_of_a_flipped_record_is_an_error() {
    let disk = Disk::default();
    let steps = vec![(Op::Large, true); 12];
    run_on(1, &disk, run_workload(Workload { steps }, Model::default(), Acked::default()));
    run_on(1, &disk, async {
        let options = Options { cache_bytes: 0, ..options() };
        let (log, _) = open_with(options).await.unwrap();
        let entries = log.read_entries(0..12, usize::MAX).await.unwrap();
        for entry in entries {
            log.index_run(entry.id.index, 0);
        }
        disk.flip_bit(format!("{DIR}/{:020}.log", 1), 8192 + 128 + 80 + 40 + 500, 3).unwrap();
        let read = log.read_batches(key(0), Offset(0), 1).await;
        let Err(crate::ReadError::Damaged(damage)) = read else { panic!("{read:?}") };
        assert!(damage.position > 8192);
        assert!(log.read_batches(key(0), Offset(1), 1).await.is_ok());
        log.set_applied(id(0, 0));
        log.close().await;
    });
}

#[test]
fn a_failed_flush_is_final() {
    for operation in [Operation::Flush, Operation::Write] {
        let disk = Disk::default();
        run_on(1, &disk, async {
            let (log, _) = open().await.unwrap();
            log.append(vec![entry(1, 0, 0, &value(id(1, 0), false))]).await.unwrap();
            let fault = Injection::next(operation, Fault::EIO).at(format!("{DIR}/{:020}.log", 1));
            disk.inject(fault);
            let lost = log.append(vec![entry(1, 1, 1, &value(id(1, 1), false))]).await;
            assert!(lost.is_err(), "{operation:?}");
            // The device would say yes from now on; the log must not.
            assert_eq!(log.append(vec![entry(1, 2, 2, b"late")]).await, lost);
            assert!(log.wait_poisoned().await.contains(".log"));
            log.close().await;
        });
        let (_, found) = check_image(
            disk.snapshot(),
            &[0, 1, 2].map(|n| Model { entries: ids(n + 1), ..Model::default() }),
            &operation,
        );
        assert!(!found.entries.is_empty(), "what was acknowledged before stays");
    }
}

fn ids(count: u64) -> Vec<LogId> {
    (0..count).map(|n| id(1, n)).collect()
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open().await.unwrap();
        log.append(vec![entry(1, 0, 0, b"first")]).await.unwrap();
        log.index_run(LogIndex(0), 0);
        sleep(Duration::from_secs(1)).await;
        disk.set_capacity_bytes(0);
        let mut index = 1;
        while !log.is_full() {
            let value = vec![b'x'; 9_000];
            log.append(vec![entry(1, index, index, &value)]).await.unwrap();
            index += 1;
            sleep(Duration::from_millis(10)).await;
            assert!(index < 100, "the disk never filled");
        }
        assert_eq!(value_at(&log, 0).await, Some(b"first".to_vec()), "reads go on");
        log.save_vote(vote(9)).await.unwrap();
        disk.set_capacity_bytes(u64::MAX);
        sleep(Duration::from_secs(2)).await;
        assert!(!log.is_full(), "space returned");
        log.append(vec![entry(1, index, index, b"after")]).await.unwrap();
        log.close().await;
    });
}
