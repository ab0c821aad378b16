//! Regressions: faults that reading the code found, each shown by a test before it was mended.
use super::fixture::{blank, checkpoint_at, entry, id, key, options, value_at};
use crate::*;
use barrage_model::{LogIndex, Offset};
use barrage_world::sim::{Disk, Fault, Injection, Operation, Rng, run_on, run_until_crash};
use barrage_world::{fs, sleep, timeout};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;
const DIR: &str = "/data/shards/1";
async fn open_with(options: Options, applied: Option<LogId>) -> Result<CommitLog, OpenError> {
    fs::create_dir_all("/data/shards").await.unwrap();
    for dir in ["/", "/data"] {
        fs::sync_dir(dir).await.unwrap();
    }
    let checkpoint = checkpoint_at(Path::new(DIR), applied).await;
    CommitLog::open(PathBuf::from(DIR), options, checkpoint).await.map(|(log, _)| log)
}
use barrage_model::LogId;
async fn produce(log: &CommitLog, from: u64, count: u64) {
    for n in from..from + count {
        log.append(vec![entry(1, n, n, format!("value {n}").as_bytes())]).await.unwrap();
        log.set_committed(id(1, n));
        log.index_run(LogIndex(n), 0);
        log.set_applied(id(1, n));
    }
}
fn seg(n: u64) -> String {
    format!("{DIR}/{n:020}.log")
}

#[test]
fn entries_stay_until_they_are_applied() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let o = Options { segment_bytes: 32 << 20, ..options() };
        let log = open_with(o, None).await.unwrap();
        let entries = (0..20)
            .map(|n| Entry { command: Bytes::from(vec![1; 1 << 20]), ..entry(1, n, n, b"v") })
            .collect();
        log.append(entries).await.unwrap();
        log.append(vec![blank(1, 20)]).await.unwrap();
        let read = log.read_entries(0..21, usize::MAX).await.unwrap();
        for e in &read[..20] {
            log.index_run(e.id.index, 0);
        }
    });
}
#[test]
fn one_large_command_is_applied() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let o = Options { segment_bytes: 64 << 20, ..options() };
        let log = open_with(o, None).await.unwrap();
        log.append(vec![Entry { command: Bytes::from(vec![1; 17 << 20]), ..entry(1, 0, 0, b"v") }])
            .await
            .unwrap();
        log.append(vec![blank(1, 1)]).await.unwrap();
        let read = log.read_entries(0..2, 4 << 20).await.unwrap();
        log.index_run(read[0].id.index, 0);
    });
}
#[test]
fn a_mark_covers_only_what_was_synced_before_it() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        log.append(vec![entry(1, 0, 0, b"zero")]).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        // the write is complete but its flush is slow; an empty append queues a mark
        disk.inject(
            Injection::next(Operation::Flush, Fault::Stall(Duration::from_millis(20))).at(seg(1)),
        );
        let a = log.append(vec![entry(1, 1, 1, b"acked")]);
        sleep(Duration::from_millis(10)).await;
        let b = log.append(Vec::new());
        a.await.unwrap();
        b.await.unwrap();
        sleep(Duration::from_secs(5)).await;
        log.close().await;
    });
    let r = run_on(1, &disk, async { verify("/data".as_ref()).await.unwrap() });
    let end = r.segments.last().unwrap().data_end;
    // the last non-bare group: acked entry 1 is the second block from the end
    disk.flip_bit(seg(1), end - 2 * 4096 + 200, 1).unwrap();
    run_on(2, &disk, async {
        match open_with(options(), None).await {
            Err(OpenError::Damaged(_)) => {}
            Ok(log) => panic!("acknowledged entry cut: last {:?}", log.last_log_id()),
            Err(e) => panic!("{e}"),
        }
    });
}
#[test]
fn a_write_that_found_space_takes_the_full_flag_back() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 1).await;
        sleep(Duration::from_secs(1)).await;
        disk.inject(Injection::next(Operation::Write, Fault::ENOSPC).at(seg(1)));
        produce(&log, 1, 1).await;
        sleep(Duration::from_secs(60)).await;
        assert!(!log.is_full(), "one ENOSPC refuses records for ever");
    });
}
/// Found by `cargo xtask chaos --nemesis disk-full`: a node without room tried to write an index
/// file at every apply and logged each time that it could not, seventy times a second and shard.
#[test]
fn an_index_file_without_room_is_tried_now_and_then() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        for n in 0..12 {
            log.append(vec![entry(1, n, n, &[b'x'; 9_000])]).await.unwrap();
            log.index_run(LogIndex(n), 0);
        }
        sleep(Duration::from_secs(1)).await;
        disk.set_capacity_bytes(0);
        let before = disk.operation_count();
        for _ in 0..200 {
            log.set_applied(id(1, 11));
            sleep(Duration::from_millis(5)).await;
        }
        let spent = disk.operation_count() - before;
        assert!(spent < 50, "{spent} operations of the disk for 200 applies");
        let index = Path::new(&seg(1)).with_extension("idx");
        assert!(disk.len_raw(&index).is_err(), "it found room where there is none");
        disk.set_capacity_bytes(u64::MAX);
        sleep(Duration::from_secs(5)).await;
        assert!(disk.len_raw(&index).is_ok(), "it is written when there is room");
    });
}
#[test]
fn a_log_closes_on_a_full_disk() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        disk.set_capacity_bytes(0);
        for n in 0..30 {
            drop(log.append(vec![entry(1, n, n, &[b'x'; 9000])]));
        }
        sleep(Duration::from_secs(5)).await;
        assert!(timeout(Duration::from_secs(60), log.close()).await.is_ok(), "close hangs");
    });
}
#[test]
fn a_torn_tail_on_a_full_disk_opens() {
    let mut torn = 0;
    for seed in 0..200u64 {
        let disk = Disk::default();
        let mut random = Rng::new(seed);
        disk.crash_at(40 + random.below(40));
        let r = run_until_crash(seed, &disk, async {
            let log = open_with(options(), None).await.unwrap();
            sleep(Duration::from_secs(1)).await;
            for n in 0..30 {
                drop(log.append(vec![entry(1, n, n, &[b'x'; 9000])]));
                if n % 4 == 3 {
                    sleep(Duration::from_millis(3)).await;
                }
            }
            sleep(Duration::from_secs(1)).await;
        });
        if r.is_some() {
            continue;
        }
        let disk = Disk::boot(disk.crash(&mut random));
        disk.set_capacity_bytes(0);
        run_on(7, &disk, async {
            match CommitLog::open(PathBuf::from(DIR), options(), None).await {
                Ok((_, report)) => {
                    torn += u64::from(report.scanned_segments > 0);
                }
                // Without a spare segment there is nowhere to go on; the error says so.
                Err(OpenError::Io { source, .. }) => {
                    assert_eq!(source.raw_os_error(), Some(28), "seed {seed}");
                    let names = fs::list(DIR).await.unwrap();
                    assert!(!names.iter().any(|name| name.starts_with("pool-")), "{names:?}");
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        });
    }
    assert!(torn > 100, "only {torn} logs were opened");
}
#[test]
fn a_failed_retention_leaves_no_hole() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.set_floor(id(1, 35)).await.unwrap();
        log.set_start(key(0), Offset(30));
        disk.inject(Injection::next(Operation::Rename, Fault::EIO).at(format!("{DIR}/pool-")));
        disk.inject(Injection::next(Operation::Rename, Fault::EIO));
        disk.inject(Injection::next(Operation::Remove, Fault::EIO).at(seg(1)));
        drop(log.retain().await);
        drop(log.retain().await);
        log.close().await;
        open_with(options(), Some(id(1, 39))).await.unwrap_or_else(|e| panic!("refused: {e}"));
    });
}
#[test]
fn the_floor_is_durable_before_files_go() {
    let mut bad = 0;
    for point in 1..40u64 {
        for seed in 0..4u64 {
            let disk = Disk::default();
            let d = disk.clone();
            let r = run_until_crash(1, &disk, async move {
                let log = open_with(options(), None).await.unwrap();
                produce(&log, 0, 40).await;
                sleep(Duration::from_secs(1)).await;
                d.crash_at(d.operation_count() + point);
                drop(log.set_floor(id(1, 35)));
                log.set_start(key(0), Offset(30));
                log.retain().await.unwrap();
                sleep(Duration::from_secs(1)).await;
            });
            if r.is_some() {
                continue;
            }
            let disk = Disk::boot(disk.crash(&mut Rng::new(seed)));
            run_on(7, &disk, async {
                let log = open_with(options(), Some(id(1, 39))).await.unwrap();
                let (first, floor) = (log.first_log_id(), log.hard_state().floor);
                if floor.is_none() && first.is_none_or(|f| f.index.0 > 0) {
                    bad += 1;
                }
            });
        }
    }
    assert_eq!(bad, 0);
}
#[test]
fn a_refused_run_stays_refused_after_a_restart() {
    for (refused_base, what) in [(0u64, "equal"), (5, "ahead")] {
        let disk = Disk::default();
        run_on(1, &disk, async {
            let log = open_with(options(), None).await.unwrap();
            log.append(vec![entry(1, 0, refused_base, b"refused")]).await.unwrap();
            log.append(vec![entry(1, 1, 0, b"accepted")]).await.unwrap();
            log.refuse_run(LogIndex(0), 0);
            log.index_run(LogIndex(1), 0);
            log.set_applied(id(1, 1));
            log.write_checkpoint(id(1, 1), [b"state".to_vec()]).await.unwrap();
            assert_eq!(value_at(&log, 0).await, Some(b"accepted".to_vec()));
            log.close().await;
            let log = open_with(options(), Some(id(1, 1))).await.unwrap();
            let slices = log.read_batches(key(0), Offset(0), 1).await.unwrap();
            let ok = slices.first().is_some_and(|s| s.windows(8).any(|w| w == b"accepted"));
            assert!(ok, "{what}");
        });
    }
}

/// Found by the scenario `log`, seed 4922. Opening read the checkpoint file a second time, only for
/// what apply had refused. When a disk spoiled the file between the two readings, the log opened
/// without that knowledge and served a batch that was never stored. Now both come from one reading.
#[test]
fn what_was_refused_comes_with_the_state_it_was_read_with() {
    run_on(1, &Disk::default(), async {
        let log = open_with(options(), None).await.unwrap();
        log.append(vec![entry(1, 0, 5, b"refused"), entry(1, 1, 0, b"accepted")]).await.unwrap();
        log.refuse_run(LogIndex(0), 0);
        log.index_run(LogIndex(1), 0);
        log.set_applied(id(1, 1));
        log.write_checkpoint(id(1, 1), [b"state".to_vec()]).await.unwrap();
        log.close().await;
        let found = checkpoint_at(Path::new(DIR), Some(id(1, 1))).await;
        let path = format!("{DIR}/{:020}.ckp", 1);
        barrage_world::sim::Machine::current().disk().flip_bit(path, 20, 0).unwrap();
        let (log, _) = CommitLog::open(PathBuf::from(DIR), options(), found).await.unwrap();
        assert_eq!(value_at(&log, 0).await, Some(b"accepted".to_vec()));
        assert!(log.read_batches(key(0), Offset(5), 1).await.unwrap().is_empty());
    });
}

#[test]
fn a_deleted_topic_pins_no_segment_after_a_restart() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.forget(key(0));
        log.set_floor(id(1, 35)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        log.close().await;
        let log = open_with(options(), Some(id(1, 39))).await.unwrap();
        log.keep_only(|_| false);
        let before = log.stats().segments;
        log.retain().await.unwrap();
        assert!(log.stats().segments < before, "deleted topic pins {before} segments");
    });
}
#[test]
fn a_damaged_index_is_rebuilt() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.set_floor(id(1, 35)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        produce(&log, 40, 20).await;
        log.set_floor(id(1, 55)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        log.close().await;
        disk.flip_bit(format!("{DIR}/{:020}.idx", 1), 64 + 72 + 5, 1).unwrap();
        let log = open_with(options(), Some(id(1, 59))).await.unwrap();
        let r = log.read_batches(key(0), Offset(0), 1).await;
        assert!(r.is_ok(), "{r:?}");
    });
}
#[test]
fn a_log_shorter_than_its_checkpoint_is_damage() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.close().await;
        let names = fs::list(DIR).await.unwrap();
        let last = names.iter().filter_map(|name| segment::number_of(name)).max().unwrap();
        for number in last - 1..=last {
            fs::remove(&seg(number)).await.unwrap();
        }
        let opened = open_with(options(), Some(id(1, 39))).await;
        assert!(matches!(opened, Err(OpenError::Damaged(_))), "{opened:?}");
    });
}
#[test]
fn an_unaligned_segment_size_is_refused() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let o = || Options { segment_bytes: 40 * 1024 + 512, ..options() };
        let Ok(log) = open_with(o(), None).await else { return };
        produce(&log, 0, 3).await;
        log.close().await;
        open_with(o(), Some(id(1, 2))).await.unwrap_or_else(|e| panic!("refused: {e}"));
    });
}

/// The oldest segment's header carries the floor of its time; the segments between that floor
/// and this one went later.
#[test]
fn dropped_segments_leave_no_hole_behind_an_old_floor() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        for round in 0..6 {
            produce(&log, round * 20, 20).await;
            log.set_floor(id(1, round * 20 + 10)).await.unwrap();
            log.set_start(key(0), Offset(round * 20 + 10));
            log.retain().await.unwrap();
        }
        log.close().await;
        let log = open_with(options(), Some(id(1, 119))).await.unwrap();
        assert_eq!(log.last_log_id(), Some(id(1, 119)));
        assert_eq!(log.hard_state().floor, Some(id(1, 110)));
        log.close().await;
    });
}

/// The retention task may be a step behind a node that stops.
#[test]
fn retention_on_a_closed_log_ends() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.set_floor(id(1, 35)).await.unwrap();
        log.set_start(key(0), Offset(30));
        log.close().await;
        let retained = timeout(Duration::from_secs(60), log.retain()).await;
        assert!(retained.is_ok_and(|result| result.is_err()), "it must neither hang nor claim");
    });
}

/// Found by the scenario `log`, seed 79. Entries 10 to 20 fill two segments and are cut off; what
/// comes in their place lies in later ones, and apply refuses a run of it. When the old segments
/// are dropped, what was refused below the old entries' end is forgotten with them, though it lies
/// behind. The next checkpoint does not tell of it, and when the index is rebuilt, the refused run
/// stands where an accepted one belongs.
#[test]
fn what_was_refused_is_not_forgotten_with_a_segment_that_was_cut_short() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 10).await;
        log.append((10..21).map(|n| entry(1, n, n, &[b'x'; 9_000])).collect()).await.unwrap();
        log.truncate_after(Some(id(1, 9))).await.unwrap();
        log.append(vec![entry(2, 10, 15, b"refused")]).await.unwrap();
        let late = (11..30).map(|n| entry(2, n, n - 1, format!("value {n}").as_bytes()));
        log.append(late.collect()).await.unwrap();
        log.refuse_run(LogIndex(10), 0);
        (11..30).for_each(|n| log.index_run(LogIndex(n), 0));
        log.set_applied(id(2, 29));
        log.write_checkpoint(id(2, 29), [b"state".to_vec()]).await.unwrap();
        log.set_floor(id(2, 25)).await.unwrap();
        log.set_start(key(0), Offset(10));
        let before = log.stats().segments;
        log.retain().await.unwrap();
        assert!(log.stats().segments < before, "the segments that were cut short go");
        log.write_checkpoint(id(2, 29), [b"state".to_vec()]).await.unwrap();
        log.close().await;
        for name in fs::list(DIR).await.unwrap().iter().filter(|name| name.ends_with(".idx")) {
            fs::remove(PathBuf::from(DIR).join(name)).await.unwrap();
        }
        let log = open_with(options(), Some(id(2, 29))).await.unwrap();
        assert_eq!(value_at(&log, 10).await, Some(b"value 11".to_vec()));
    });
}

/// Found by the scenario `log`, seed 85. A damaged checkpoint is passed over for the one before
/// it; the log has let go what lies between that one and its floor. It opened all the same, and
/// Raft would have gone on behind the floor with a state that misses those entries: replicas that
/// differ, and records that are lost although they were acknowledged.
#[test]
fn a_checkpoint_below_the_floor_is_damage() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.write_checkpoint(id(1, 20), [b"state".to_vec()]).await.unwrap();
        log.write_checkpoint(id(1, 39), [b"state".to_vec()]).await.unwrap();
        log.set_floor(id(1, 30)).await.unwrap();
        log.close().await;
        for older in [Some(id(1, 20)), None] {
            let opened = open_with(options(), older).await;
            assert!(matches!(opened, Err(OpenError::Damaged(_))), "{older:?}: {opened:?}");
        }
        open_with(options(), Some(id(1, 39))).await.unwrap().close().await;
    });
}
#[test]
fn a_failed_folder_sync_is_final() {
    // The segment had been renamed into a spare, and stayed the log's oldest: every later
    // retention looked for a name that was gone, until the disk was full.
    for place in ["retention", "spare"] {
        let disk = Disk::default();
        run_on(1, &disk, async {
            let log = open_with(options(), None).await.unwrap();
            produce(&log, 0, 40).await;
            log.set_floor(id(1, 35)).await.unwrap();
            log.set_start(key(0), Offset(30));
            sleep(Duration::from_secs(1)).await;
            disk.inject(Injection::always(Operation::SyncDirectory, Fault::EIO));
            if place == "retention" {
                drop(log.retain().await);
            } else {
                for n in 40..80 {
                    drop(log.append(vec![entry(1, n, n, &[b'x'; 9000])]));
                }
            }
            sleep(Duration::from_secs(1)).await;
            assert!(matches!(log.append(Vec::new()).await, Err(LogError::Poisoned(_))), "{place}");
        });
        let disk = Disk::boot(disk.crash(&mut Rng::new(1)));
        run_on(2, &disk, async {
            let log = open_with(options(), Some(id(1, 39))).await.unwrap();
            assert!(log.last_log_id() >= Some(id(1, 39)), "{place}");
        });
    }
}
#[test]
fn what_a_read_finds_must_be_what_was_put_there() {
    // Flipped outside of what a batch's own checksum covers: base offset and length. And a write
    // that went astray: a whole entry, its checksums right, where another one belongs.
    let disk = Disk::default();
    let o = Options { cache_bytes: 0, segment_bytes: 1 << 20, ..options() };
    run_on(1, &disk, async {
        let log = open_with(o, None).await.unwrap();
        // Group by group, so that each entry begins a block of its own.
        produce(&log, 0, 20).await;
        sleep(Duration::from_secs(1)).await;
        let block = |n: u64| 2 * 4096 + n * 4096;
        let batch = disk.read_raw(seg(1), block(3), 4096).unwrap();
        let value = batch.windows(7).position(|bytes| bytes == b"value 3").unwrap() as u64;
        let mut refused = 0;
        for byte in (value - 80)..value {
            disk.flip_bit(seg(1), block(3) + byte, 1).unwrap();
            match log.read_batches(key(0), Offset(3), 1).await {
                Err(ReadError::Damaged(_)) => refused += 1,
                Ok(slices) => {
                    let slice = slices.first().unwrap();
                    let view = barrage_model::batch::BatchView::check(slice).unwrap();
                    assert_eq!(view.header().base_offset, Offset(3), "byte {byte}");
                }
                Err(error) => panic!("byte {byte}: {error}"),
            }
            disk.flip_bit(seg(1), block(3) + byte, 1).unwrap();
        }
        assert!(refused >= 56, "{refused} flips of 61 header bytes were refused");
        let other = disk.read_raw(seg(1), block(5), 4096).unwrap();
        disk.overwrite(seg(1), block(4), &other).unwrap();
        let read = log.read_whole_entries(4..5, usize::MAX).await;
        assert!(matches!(read, Err(ReadError::Damaged(_))), "{read:?}");
        let read = log.read_batches(key(0), Offset(4), 1).await;
        assert!(matches!(read, Err(ReadError::Damaged(_))), "another record was read");
    });
}
#[test]
fn a_truncation_may_reach_behind_the_oldest_segment() {
    // Entries 0..40 lie in segments of their own; the log is cut off after entry 20 by a record in
    // a late segment and goes on; then a floor lets the early segments go.
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        for n in 0..40 {
            log.append(vec![blank(1, n)]).await.unwrap();
        }
        log.truncate_after(Some(id(1, 20))).await.unwrap();
        for n in 21..30 {
            log.append(vec![blank(2, n)]).await.unwrap();
        }
        log.set_committed(id(2, 29));
        log.set_applied(id(2, 29));
        log.write_checkpoint(id(2, 29), [b"state".to_vec()]).await.unwrap();
        log.set_floor(id(2, 24)).await.unwrap();
        let before = log.stats().segments;
        log.retain().await.unwrap();
        assert!(log.stats().segments < before, "no segment went");
        log.close().await;
        let log = open_with(options(), Some(id(2, 29))).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(log.first_log_id(), Some(id(2, 25)));
        assert_eq!(log.last_log_id(), Some(id(2, 29)));
    });
}
#[test]
fn a_missing_oldest_segment_is_damage() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let log = open_with(options(), None).await.unwrap();
        produce(&log, 0, 40).await;
        log.close().await;
        fs::remove(&seg(1)).await.unwrap();
        match open_with(options(), None).await {
            Err(OpenError::Damaged(damage)) => {
                assert!(damage.to_string().contains("are missing"), "{damage}");
            }
            Err(error) => panic!("{error}"),
            Ok(log) => panic!("a log without its beginning opened at {:?}", log.first_log_id()),
        }
    });
}
