//! Regressions that the simulated replicas found: what a log must bear that is one of several.

use super::fixture::{blank, checkpoint_at, entry, id, options, value_at};
use crate::*;
use barrage_model::{LogId, LogIndex};
use barrage_world::sim::{Disk, Fault, Injection, Machine, Operation, Rng, run_on};
use barrage_world::{fs, sleep};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIR: &str = "/data/1";

async fn open(options: Options, applied: Option<LogId>) -> (CommitLog, RecoveryReport) {
    fs::create_dir_all("/data").await.unwrap();
    fs::sync_dir("/").await.unwrap();
    let checkpoint = checkpoint_at(Path::new(DIR), applied).await;
    CommitLog::open(PathBuf::from(DIR), options, checkpoint).await.unwrap()
}

fn segment(number: u64) -> String {
    format!("{DIR}/{number:020}.log")
}

/// Two of three replicas had an entry on their disks, so it was committed and read on the third,
/// whose own write was still on its way. The cache was small and had let go of it: the read went
/// to a disk that did not have it, and called that damage. Found by seed 5 of `replicas`.
/// Now a write's bytes are served until it is complete, whatever the cache does.
#[test]
fn what_is_on_its_way_to_the_disk_is_read() {
    run_on(1, &Disk::default(), async {
        let small = Options { cache_bytes: 4096, group_bytes_target: 1, ..options() };
        let (log, _) = open(small, None).await;
        log.append(vec![blank(1, 0)]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let stall = Fault::Stall(Duration::from_secs(5));
        Machine::current().disk().inject(Injection::next(Operation::Write, stall).at(segment(1)));
        let values: Vec<Vec<u8>> = (0..3).map(|n| vec![n; 6_000]).collect();
        for (n, value) in (1..).zip(&values) {
            drop(log.append(vec![entry(1, n, n - 1, value)]));
        }
        sleep(Duration::from_millis(500)).await;
        let read = log.read_whole_entries(1..4, usize::MAX).await.unwrap();
        assert_eq!(read.len(), 3);
        for (entry, value) in read.iter().zip(&values) {
            let bytes = &entry.runs[0].batches[0].bytes;
            assert!(bytes.windows(value.len()).any(|part| part == &value[..]));
        }
        log.close().await;
    });
}

/// A flush failed and the process ended, as it must. The next one read the end of the log, which
/// was still to be seen, and went on behind it; its flushes succeeded without those bytes, which
/// the failed one had dropped. Then the power went, and they were gone below the sync mark: damage.
/// Found by seed 15 of `replicas`. Now the end is written again before anything relies on it.
#[test]
fn the_end_that_a_failed_flush_dropped_is_written_again() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(options(), None).await;
        log.append(vec![entry(1, 0, 0, b"zero")]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let disk = Machine::current().disk();
        disk.inject(Injection::next(Operation::Flush, Fault::EIO).at(segment(1)));
        assert!(log.append(vec![entry(1, 1, 1, b"one")]).await.is_err());
    });
    disk.clear_faults();
    run_on(2, &disk, async {
        let (log, _) = open(options(), None).await;
        let next = log.last_log_id().unwrap().index.0 + 1;
        assert_eq!(next, 2, "the entry is to be seen; else this test shows nothing");
        log.append(vec![entry(1, next, next, b"acknowledged")]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
    });
    let mut random = Rng::new(3);
    for _ in 0..50 {
        let rebooted = Disk::boot(disk.crash(&mut random));
        run_on(4, &rebooted, async {
            let (log, _) = open(options(), None).await;
            assert_eq!(log.last_log_id(), Some(id(1, 2)));
        });
    }
}

/// A spare segment was being made when its flush failed, which dropped its length; the next
/// process saw the length and took the spare. After a power loss the segment was an empty file.
/// Found by seed 356 of `replicas`. Now the length of every spare that is found is set anew.
#[test]
fn a_spare_keeps_its_length() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(options(), None).await;
        let disk = Machine::current().disk();
        for n in 0..40 {
            disk.inject(Injection::next(Operation::Flush, Fault::EIO).at(segment(2)).after(9));
            if log.append(vec![entry(1, n, n, &[7; 3_000])]).await.is_err() {
                break;
            }
        }
        // Some flush of a spare fails.
        disk.inject(Injection::next(Operation::Flush, Fault::EIO));
    });
    disk.clear_faults();
    run_on(2, &disk, async {
        let (log, _) = open(options(), None).await;
        let first = log.last_log_id().map_or(0, |last| last.index.0 + 1);
        for n in first..first + 60 {
            log.append(vec![entry(1, n, n, &[8; 3_000])]).await.unwrap();
        }
    });
    let mut random = Rng::new(3);
    for _ in 0..20 {
        let rebooted = Disk::boot(disk.crash(&mut random));
        run_on(4, &rebooted, async {
            open(options(), None).await;
        });
    }
}

/// A checkpoint was written while the disk did not have all the entries it covers: two other
/// replicas had committed them. After a power loss the log ended before its checkpoint, which is
/// what a log that lost its end looks like, and the replica refused to start.
/// Found by reading, before the seeds did. Now a checkpoint waits until the log has what it covers.
#[test]
fn a_checkpoint_does_not_reach_further_than_the_log() {
    for seed in 0..20 {
        let disk = Disk::default();
        run_on(seed, &disk, async {
            let (log, _) = open(options(), None).await;
            log.append(vec![blank(1, 0)]).await.unwrap();
            let slow = Fault::Stall(Duration::from_secs(2));
            Machine::current()
                .disk()
                .inject(Injection::next(Operation::Flush, slow).at(segment(1)));
            drop(log.append(vec![blank(1, 1)]));
            log.write_checkpoint(id(1, 1), [b"state".to_vec()]).await.unwrap();
        });
        let rebooted = Disk::boot(disk.crash(&mut Rng::new(seed)));
        run_on(seed + 100, &rebooted, async {
            let (log, _) = open(options(), Some(id(1, 1))).await;
            assert_eq!(log.last_log_id(), Some(id(1, 1)));
        });
    }
}

/// A replica that was far behind got a checkpoint and lost its power before the log knew: the log
/// ended long before the checkpoint, or held entries beside it that nobody had committed.
/// Both begin anew behind the checkpoint, and go on from there over further restarts.
#[test]
fn a_log_begins_anew_behind_a_peers_checkpoint() {
    for stale in [3, 30] {
        let disk = Disk::default();
        run_on(1, &disk, async {
            let (log, _) = open(options(), None).await;
            for n in 0..stale {
                log.append(vec![entry(1, n, n, b"stale")]).await.unwrap();
            }
            log.install_checkpoint(id(4, 20), [b"state".to_vec()]).await.unwrap();
        });
        let checkpoint = Some(id(4, 20));
        let mut rebooted = Disk::boot(disk.crash(&mut Rng::new(2)));
        for life in 0..3 {
            run_on(3 + life, &rebooted, async {
                let (log, report) = open(options(), checkpoint).await;
                assert_eq!(report.restarted, life == 0);
                assert_eq!(log.hard_state().floor, checkpoint);
                assert_eq!(log.last_log_id().map(|last| last.index.0), Some(20 + life));
                log.append(vec![entry(4, 21 + life, 21 + life, b"new")]).await.unwrap();
            });
            rebooted = Disk::boot(rebooted.crash(&mut Rng::new(life)));
        }
        run_on(9, &rebooted, async {
            let (log, _) = open(options(), checkpoint).await;
            for n in 21..24 {
                log.read_entries(n..n + 1, 1).await.unwrap();
                log.index_run(LogIndex(n), 0);
                assert_eq!(value_at(&log, n).await.as_deref(), Some(&b"new"[..]));
            }
        });
    }
}

/// The floor that a peer's checkpoint sets lies behind the end of the log, and the entries that
/// follow it share its flush group. Replay looked at the entries first, and found a hole.
#[test]
fn a_floor_behind_the_end_is_replayed_before_its_entries() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(options(), None).await;
        log.append(vec![blank(1, 0)]).await.unwrap();
        log.install_checkpoint(id(4, 20), [b"state".to_vec()]).await.unwrap();
        drop(log.set_floor(id(4, 20)));
        log.append(vec![blank(4, 21), blank(4, 22)]).await.unwrap();
    });
    run_on(2, &disk, async {
        let (log, report) = open(options(), Some(id(4, 20))).await;
        assert!(!report.restarted);
        assert_eq!(log.last_log_id(), Some(id(4, 22)));
    });
}
