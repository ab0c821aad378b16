//! Entries whose places have left memory: what is held, what a restart reads, what reads find.

use super::fixture::{blank, checkpoint_at, entry, id, key, options, run, value_at};
use crate::*;
use barrage_model::{LogId, LogIndex, Offset};
use barrage_world::sim::{Disk, Fault, Injection, Operation, Rng, run_on, run_until_crash};
use barrage_world::{fs, sleep};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIR: &str = "/data/shards/1";
/// Entries of a segment.
const FEW: u64 = 8;

fn few() -> Options {
    Options {
        floor: Floor::Records,
        segment_entries_max: FEW,
        segment_bytes: 256 * 1024,
        cache_bytes: 0,
        ..options()
    }
}

async fn open_with(
    options: Options,
    applied: Option<LogId>,
) -> Result<(CommitLog, RecoveryReport), OpenError> {
    fs::create_dir_all("/data/shards").await.unwrap();
    for dir in ["/", "/data"] {
        fs::sync_dir(dir).await.unwrap();
    }
    let checkpoint = checkpoint_at(Path::new(DIR), applied).await;
    CommitLog::open(PathBuf::from(DIR), options, checkpoint).await
}

async fn open(applied: Option<LogId>) -> (CommitLog, RecoveryReport) {
    open_with(few(), applied).await.unwrap()
}

fn sent(index: u64) -> Entry {
    entry(1 + index / 50, index, index, format!("value {index:05}").as_bytes())
}

/// Appends and applies.
async fn produce(log: &CommitLog, range: std::ops::Range<u64>) {
    for n in range {
        let sent = sent(n);
        let id = sent.id;
        log.append(vec![sent]).await.unwrap();
        log.set_committed(id);
        log.index_run(LogIndex(n), 0);
        log.set_applied(id);
    }
}

async fn rest() {
    sleep(Duration::from_secs(2)).await;
}

/// Every way to read entries `range`, and the records in them.
async fn check_reads(log: &CommitLog, range: std::ops::Range<u64>) {
    let whole = log.read_whole_entries(range.clone(), usize::MAX).await.unwrap();
    let bare = log.read_entries(range.clone(), usize::MAX).await.unwrap();
    assert_eq!((whole.len() as u64, bare.len()), (range.end - range.start, whole.len()));
    let shard = few().shard;
    let mut raw = bytes::Bytes::from(log.read_raw_entries(range.clone()).await.unwrap().unwrap());
    let mut sizes = Vec::new();
    for (n, (whole, bare)) in range.clone().zip(whole.iter().zip(&bare)) {
        let sent = sent(n);
        assert_eq!(whole.encode(shard), sent.encode(shard), "entry {n}");
        assert_eq!((bare.id, &bare.command), (sent.id, &sent.command));
        let len = u32::from_le_bytes(*raw.first_chunk().unwrap()) as usize;
        let (own, _) = Entry::decode_raw(&raw.slice(4..4 + len), shard).unwrap();
        assert_eq!(own.encode(shard), sent.encode(shard));
        raw = raw.slice(4 + len..);
        sizes.push(len);
        assert_eq!(log.log_id_at(LogIndex(n)), Some(sent.id));
        assert!(log.fingerprint(LogIndex(n)).await.unwrap().is_some());
        assert_eq!(value_at(log, n).await, Some(format!("value {n:05}").into_bytes()));
    }
    assert!(raw.is_empty());
    let ends = log.piece_ends(range.clone(), sizes[0] + sizes[1], 1).await.unwrap();
    assert_eq!(ends, [LogIndex(range.start + 2)]);
}

async fn remove_indexes() {
    for name in fs::list(DIR).await.unwrap().iter().filter(|name| name.ends_with(".idx")) {
        fs::remove(Path::new(DIR).join(name)).await.unwrap();
    }
}

fn forget_places(log: &CommitLog, segment: u64) {
    let segment = log.shared.state.borrow().segments[&segment].clone();
    log.shared.places.borrow_mut().forget(&segment);
}

fn index_of(segment: u64) -> PathBuf {
    PathBuf::from(format!("{DIR}/{segment:020}.idx"))
}

#[test]
fn memory_and_restart_do_not_grow_with_the_log() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        for round in 0..50 {
            produce(&log, round * 20..round * 20 + 20).await;
            sleep(Duration::from_millis(100)).await;
            let stats = log.stats();
            assert!(stats.slots <= 3 * FEW, "{} slots after {round} rounds", stats.slots);
        }
        rest().await;
        let stats = log.stats();
        assert!(stats.slots <= FEW, "only the active segment: {}", stats.slots);
        assert!(stats.slot_bytes < 128 * 40 + FEW * 32, "{} bytes", stats.slot_bytes);
        assert_eq!(stats.segments, 1000 / FEW);
        check_reads(&log, 0..1000).await;
        let last: Vec<_> = log.last_of_terms().iter().map(|id| id.index.0).collect();
        assert_eq!(last, (1..=20).map(|term| term * 50 - 1).collect::<Vec<_>>());
        log.close().await;
        // All but the newest are known by their index files.
        let (log, report) = open(Some(id(20, 999))).await;
        assert_eq!((report.skipped_segments, report.scanned_segments), (1000 / FEW - 1, 1));
        assert_eq!(report.entries, 1000);
        assert!(log.stats().slots <= FEW);
        check_reads(&log, 0..1000).await;
        produce(&log, 1000..1040).await;
        check_reads(&log, 0..1040).await;
        log.close().await;
    });
}

/// What the checkpoint does not cover is read and applied again; what it covers is not.
#[test]
fn a_restart_reads_what_the_checkpoint_does_not_cover() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        produce(&log, 0..100).await;
        rest().await;
        log.close().await;
        let (log, report) = open(Some(sent(50).id)).await;
        assert_eq!(report.skipped_segments, 51 / FEW);
        let again = log.read_entries(51..100, usize::MAX).await.unwrap();
        assert_eq!(again.len(), 49);
        for entry in again {
            log.index_run(entry.id.index, 0);
            log.set_applied(entry.id);
        }
        check_reads(&log, 0..100).await;
        log.close().await;
    });
}

/// A crash at every operation, so also between a seal and its index file: nothing is lost.
#[test]
fn a_crash_at_any_point_loses_nothing() {
    let mut skipped = 0;
    for point in 0..150 {
        let disk = Disk::default();
        disk.crash_at(40 + point * 3);
        run_until_crash(point, &disk, async {
            let (log, _) = open(None).await;
            for round in 0..6 {
                produce(&log, round * 10..round * 10 + 10).await;
                log.write_checkpoint(sent(round * 10 + 9).id, [b"state".to_vec()]).await.unwrap();
            }
        });
        let disk = Disk::boot(disk.crash(&mut Rng::new(point)));
        run_on(point, &disk, async {
            let found = CommitLog::read_checkpoint(Path::new(DIR), few().shard).await.unwrap();
            let applied = found.map(|found| found.id);
            let (log, report) = open(applied).await;
            skipped += report.skipped_segments;
            let next = log.last_log_id().map_or(0, |last| last.index.0 + 1);
            let first = applied.map_or(0, |applied| applied.index.0 + 1);
            for entry in log.read_entries(first..next, usize::MAX).await.unwrap() {
                log.index_run(entry.id.index, 0);
                log.set_applied(entry.id);
            }
            if next > 4 {
                check_reads(&log, 0..next).await;
            }
            produce(&log, next..next + 20).await;
            rest().await;
            check_reads(&log, 0..next + 20).await;
        });
    }
    assert!(skipped > 100, "only {skipped} segments were known by their index files");
}

/// An index file that was lost or rots is written again when somebody wants what it tells.
#[test]
fn an_index_file_that_rots_is_written_again() {
    let disk = Disk::default();
    let len = run_on(1, &disk, async {
        let (log, _) = open(None).await;
        produce(&log, 0..60).await;
        rest().await;
        log.close().await;
        fs::read(index_of(2)).await.unwrap().len() as u64
    });
    // Header, directory, terms, runs, padding, table: from one to the next.
    let places = (0..len).step_by(97).chain([12, 120, 130, 200, 4096, 4096 + 130]);
    for (trial, at) in places.enumerate() {
        for while_it_runs in [false, true] {
            let copy = Disk::boot(disk.snapshot());
            let beneath = copy.clone();
            run_on(trial as u64, &copy, async move {
                let damage = || match trial % 5 {
                    0 => beneath.overwrite(index_of(2), at / 4096 * 4096, &[0; 4096]),
                    _ => beneath.flip_bit(index_of(2), at, 5),
                };
                if !while_it_runs {
                    damage().unwrap();
                }
                let (log, _) = open(Some(sent(59).id)).await;
                if while_it_runs {
                    damage().unwrap();
                }
                check_reads(&log, 0..60).await;
                log.close().await;
                let (log, _) = open(Some(sent(59).id)).await;
                check_reads(&log, 0..60).await;
            });
        }
    }
}

#[test]
fn lost_index_files_are_written_again_by_whoever_reads() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        produce(&log, 0..60).await;
        rest().await;
        remove_indexes().await;
        // Two at once want the same.
        let other = log.clone();
        let both = barrage_world::spawn(async move { check_reads(&other, 0..60).await });
        check_reads(&log, 0..60).await;
        both.await.unwrap();
        assert!(fs::exists(index_of(1)).await.unwrap());
        // Only when the log itself is damaged is that said, with the place.
        remove_indexes().await;
        forget_places(&log, 2);
        let segment = Path::new(DIR).join(format!("{:020}.log", 2));
        disk.flip_bit(&segment, 3 * 4096 + 300, 1).unwrap();
        match log.read_entries(FEW..FEW + 1, 1).await {
            Err(ReadError::Damaged(damage)) => assert_eq!(damage.path, segment),
            read => panic!("{read:?}"),
        }
        assert!(log.read_entries(3 * FEW..4 * FEW, 1 << 20).await.is_ok());
    });
}

/// A table is derived, and whole as it is may tell of another entry: the log is believed.
#[test]
fn a_row_is_not_trusted_over_the_log() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        produce(&log, 0..30).await;
        rest().await;
        let table = log.shared.state.borrow().segments[&1].table().unwrap();
        // Everything is one entry further on.
        let path = index_of(1);
        let mut bytes = fs::read(&path).await.unwrap();
        let salt = log.shared.state.borrow().segments[&1].header.salt;
        let start = table.start as usize;
        let mut rows = format::table::decode(salt, 0, &bytes[start..]).unwrap();
        rows.rotate_left(1);
        format::table::encode(salt, 0, &rows, &mut bytes[start..]);
        fs::write_atomic(&path, &bytes).await.unwrap();
        forget_places(&log, 1);
        let read = log.read_whole_entries(3..4, usize::MAX).await;
        assert!(matches!(read, Err(ReadError::Damaged(_))), "{read:?}");
    });
}

/// The tail of a sealed segment is cut off by a record in a later one: it is in no table.
#[test]
fn what_a_later_segment_cuts_off_is_not_in_the_table() {
    for applied_late in [false, true] {
        let disk = Disk::default();
        run_on(1, &disk, async {
            let (log, _) = open(None).await;
            produce(&log, 0..12).await;
            // They fill the second segment and go on in the third.
            let stale = (12..20).map(|n| blank(7, n)).collect();
            log.append(stale).await.unwrap();
            log.truncate_after(Some(sent(11).id)).await.unwrap();
            let late: Vec<_> = (12..40).map(|n| entry(9, n, n, b"value late")).collect();
            log.append(late).await.unwrap();
            if applied_late {
                rest().await;
            }
            for n in 12..40 {
                log.index_run(LogIndex(n), 0);
                log.set_applied(id(9, n));
            }
            rest().await;
            assert!(log.stats().slots <= FEW);
            let check = async |log: &CommitLog| {
                check_reads(log, 0..12).await;
                for read in log.read_whole_entries(12..40, usize::MAX).await.unwrap() {
                    assert_eq!(read.id.term.0, 9);
                }
                assert_eq!(value_at(log, 12).await, Some(b"value late".to_vec()));
            };
            check(&log).await;
            log.close().await;
            let (log, report) = open(Some(id(9, 39))).await;
            assert!(report.skipped_segments >= 4, "{report:?}");
            check(&log).await;
            remove_indexes().await;
            forget_places(&log, 2);
            check(&log).await;
            log.close().await;
            let (log, _) = open(Some(id(9, 39))).await;
            check(&log).await;
        });
    }
}

#[test]
fn the_floor_moves_through_what_is_cold() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        produce(&log, 0..100).await;
        rest().await;
        for n in [60, 99] {
            log.write_checkpoint(sent(n).id, [b"state".to_vec()]).await.unwrap();
        }
        for start in [13, 24, 50] {
            log.set_start(key(0), Offset(start));
            let floor = log.released_floor(LogIndex(u64::MAX)).await.unwrap().unwrap();
            assert_eq!(floor.index.0, start / FEW * FEW - 1);
            log.set_floor(floor).await.unwrap();
            log.retain().await.unwrap();
            let first = log.first_log_id().unwrap().index.0;
            assert_eq!(first, floor.index.0 + 1);
            assert!(log.read_entries(first - 1..first, 1).await.unwrap().is_empty());
            check_reads(&log, first..100).await;
            assert_eq!(log.stats().segments, 100_u64.div_ceil(FEW) - first / FEW);
        }
        // Not along segments: as another replica's floor may be.
        log.set_floor(sent(53).id).await.unwrap();
        check_reads(&log, 54..100).await;
        log.close().await;
        let (log, _) = open(Some(sent(99).id)).await;
        log.set_start(key(0), Offset(54));
        assert_eq!(log.first_log_id(), Some(sent(54).id));
        check_reads(&log, 54..100).await;
        log.set_floor(sent(99).id).await.unwrap();
        assert_eq!((log.first_log_id(), log.last_log_id()), (None, Some(sent(99).id)));
        produce(&log, 100..120).await;
        check_reads(&log, 100..120).await;
    });
}

/// A reader is at it while retention takes the segment and its index file away.
#[test]
fn a_cold_read_and_retention_meet() {
    for seed in 0..40 {
        let disk = Disk::default();
        run_on(seed, &disk, async {
            let (log, _) = open(None).await;
            produce(&log, 0..60).await;
            for n in [50, 59] {
                log.write_checkpoint(sent(n).id, [b"state".to_vec()]).await.unwrap();
            }
            rest().await;
            let reader = log.clone();
            let reading = barrage_world::spawn(async move {
                match reader.read_whole_entries(0..40, usize::MAX).await {
                    Ok(read) => {
                        for (n, entry) in (0..).zip(read) {
                            assert_eq!(entry.id, sent(n).id);
                        }
                    }
                    Err(ReadError::NotFound { .. } | ReadError::Io { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            });
            sleep(Duration::from_micros(seed * 60)).await;
            log.set_start(key(0), Offset(40));
            log.set_floor(log.released_floor(LogIndex(u64::MAX)).await.unwrap().unwrap())
                .await
                .unwrap();
            log.retain().await.unwrap();
            reading.await.unwrap();
            rest().await;
            let names = fs::list(DIR).await.unwrap();
            assert!(!names.iter().any(|name| name == "00000000000000000001.idx"), "{names:?}");
        });
    }
}

/// Without room for index files everything stays in memory, and goes when there is room.
#[test]
fn places_stay_in_memory_until_the_index_file_is_durable() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        disk.inject(Injection::always(Operation::Rename, Fault::EIO).at(index_of(2)));
        produce(&log, 0..60).await;
        rest().await;
        assert_eq!(log.stats().slots, 60 - FEW);
        check_reads(&log, 0..60).await;
        disk.clear_faults();
        rest().await;
        assert!(log.stats().slots <= FEW);
        check_reads(&log, 0..60).await;
    });
}

/// A copy is read from end to end when it is whole, once, and let go on the way.
#[test]
fn a_copy_is_indexed_when_it_is_whole() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        drop(fs::create_dir_all("/data/shards").await);
        let log = CommitLog::open_incomplete(PathBuf::from(DIR), few()).await.unwrap();
        for n in 0..90 {
            log.append(vec![sent(n)]).await.unwrap();
            log.set_committed(sent(n).id);
        }
        log.append(Vec::new()).await.unwrap();
        rest().await;
        log.close().await;
        let (log, report) = open(Some(sent(89).id)).await;
        assert_eq!(report.skipped_segments, 0);
        assert!(log.stats().slots <= 4 * FEW, "{} slots", log.stats().slots);
        check_reads(&log, 0..90).await;
        rest().await;
        log.close().await;
        let (log, report) = open(Some(sent(89).id)).await;
        assert_eq!(report.scanned_segments, 1);
        check_reads(&log, 0..90).await;
    });
}

#[test]
fn reading_goes_no_further_than_it_is_asked_to() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let (log, _) = open(None).await;
        // One run of ten batches, and more behind it.
        let batches: Vec<Run> = (0..10).map(|n| run(0, n, b"of many")).collect();
        let mut many = batches.first().unwrap().clone();
        many.batches = batches.into_iter().flat_map(|run| run.batches).collect();
        many.record_count = 10;
        many.byte_len = many.batches.iter().map(|batch| batch.bytes.len() as u32).sum();
        log.append(vec![Entry { runs: vec![many], ..blank(1, 1) }]).await.unwrap();
        log.append(vec![entry(1, 2, 10, b"behind")]).await.unwrap();
        log.set_committed(id(1, 2));
        log.index_run(LogIndex(1), 0);
        log.index_run(LogIndex(2), 0);
        log.set_applied(id(1, 2));
        rest().await;
        let count = async |from, to, bytes_max| {
            let range = Offset(from)..Offset(to);
            let read = log.read_batches_of(key(0), range, bytes_max).await.unwrap();
            let of = |slice| barrage_model::batch::batches(slice).count();
            read.iter().map(|slice| of(slice)).sum::<usize>()
        };
        assert_eq!(count(3, 5, usize::MAX).await, 2);
        assert_eq!(count(0, 10, usize::MAX).await, 10);
        assert_eq!(count(9, 11, usize::MAX).await, 2);
        assert_eq!(count(0, 99, usize::MAX).await, 11);
        assert_eq!(count(3, 5, 1).await, 1, "one at least");
        log.close().await;
    });
}
