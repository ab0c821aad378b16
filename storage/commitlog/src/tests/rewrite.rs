//! Sealed segments that are written again without what nobody wants: what is read before, meanwhile
//! and behind, after a restart, and by another replica.

use super::fixture::{SHARD, blank, folder, id, key, open_with, options, run, value_at};
use crate::*;
use barrage_model::batch::BatchView;
use barrage_model::{LogIndex, Offset, PartitionKey};
use barrage_world::{fs, run_local, spawn};
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

/// Records in partition 1 are large, those in partition 0 small.
const BULK: usize = 3_000;

fn sent(n: u64) -> Entry {
    let runs = vec![
        run(1, n, &vec![n as u8; BULK]),
        run(0, n, format!("value {n}").as_bytes()),
        run(2, n, b"refused"),
    ];
    Entry { runs, ..blank(1, n) }
}

async fn open(dir: &Path, applied: Option<u64>) -> CommitLog {
    open_with(dir, Options { floor: Floor::Records, ..options() }, applied).await
}

async fn produce(log: &CommitLog, range: Range<u64>) {
    for n in range {
        log.append(vec![sent(n)]).await.unwrap();
        apply(log, n);
    }
}

fn apply(log: &CommitLog, n: u64) {
    log.set_committed(id(1, n));
    log.index_run(LogIndex(n), 0);
    log.index_run(LogIndex(n), 1);
    log.refuse_run(LogIndex(n), 2);
    log.set_applied(id(1, n));
}

fn all(_: PartitionKey, range: Range<Offset>) -> u64 {
    range.end.0 - range.start.0
}

fn pace() -> Pace {
    Pace::new(1 << 40)
}

async fn rewrite_all(log: &CommitLog) -> Vec<Rewritten> {
    let mut done = Vec::new();
    while let Some(rewritten) = log.rewrite(&all, &mut pace()).await.unwrap() {
        done.push(rewritten);
    }
    done
}

/// Everything of partition 0, and of partition 1 what lies at or behind `start`.
async fn check(log: &CommitLog, range: Range<u64>, start: u64) {
    for n in range.clone() {
        assert_eq!(value_at(log, n).await, Some(format!("value {n}").into_bytes()));
        let bulk = log.read_batches(key(1), Offset(n), 1).await.unwrap();
        if n >= start {
            let bulk = BatchView::check(bulk.first().unwrap()).unwrap();
            assert_eq!(bulk.header().base_offset, Offset(n));
        }
        assert_eq!(log.time_of(key(0), Offset(n)).await.unwrap(), Some(n as i64));
        assert_eq!(log.offset_at_time(key(0), n as i64).await.unwrap(), Some(Offset(n)));
    }
    let whole = log.read_whole_entries(range.clone(), usize::MAX).await.unwrap();
    let bare = log.read_entries(range.clone(), usize::MAX).await.unwrap();
    assert_eq!((whole.len(), bare.len()), (range.clone().count(), whole.len()));
    for (n, (whole, bare)) in range.clone().zip(whole.iter().zip(&bare)) {
        let sent = sent(n);
        assert_eq!((whole.id, &whole.command), (sent.id, &sent.command));
        assert_eq!((bare.id, bare.log_time_ms), (sent.id, sent.log_time_ms));
        for (run, was) in whole.runs.iter().zip(&sent.runs) {
            assert_eq!((run.key, run.base_offset), (was.key, was.base_offset));
            assert_eq!((run.byte_len, run.record_count), (was.byte_len, was.record_count));
            assert_eq!(run.gone.is_some(), run.batches.is_empty());
            let may_go = run.key == key(2) || (run.key == key(1) && n < start);
            assert!(run.gone.is_none() || may_go, "entry {n}, {:?}", run.key);
        }
    }
}

/// The sealed segments' files, in bytes.
async fn bytes_of(dir: &Path) -> u64 {
    let mut sum = 0;
    for name in fs::list(dir).await.unwrap() {
        if name.ends_with(".log") {
            sum += fs::read(dir.join(name)).await.unwrap().len() as u64;
        }
    }
    sum
}

#[test]
fn what_nobody_wants_goes_and_the_rest_is_read_as_before() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        produce(&log, 0..60).await;
        assert_eq!(rewrite_all(&log).await, [], "all of it is wanted");
        let before = bytes_of(&dir).await;
        let fingerprint = log.fingerprint(LogIndex(3)).await.unwrap();

        log.set_start(key(1), Offset(50));
        let done = rewrite_all(&log).await;
        assert!(done.len() >= 4, "{done:?}");
        assert!(done.iter().all(|it| it.after * 2 <= it.before), "{done:?}");
        assert!(bytes_of(&dir).await * 2 < before);
        check(&log, 0..60, 50).await;
        assert_eq!(log.fingerprint(LogIndex(3)).await.unwrap(), fingerprint);
        assert_eq!(rewrite_all(&log).await, [], "once is enough");
        log.close().await;

        // By the index files, and without them.
        for indexed in [true, false] {
            if !indexed {
                for name in fs::list(&dir).await.unwrap() {
                    if name.ends_with(".idx") {
                        fs::remove(&dir.join(name)).await.unwrap();
                    }
                }
            }
            let log = open(&dir, Some(59)).await;
            log.set_start(key(1), Offset(50));
            check(&log, 0..60, 50).await;
            assert_eq!(log.fingerprint(LogIndex(3)).await.unwrap(), fingerprint);
            let mut scrub = Scrub::default();
            log.scrub(&mut scrub, u64::MAX).await.unwrap();
            log.close().await;
        }
        let report = verify(dir.parent().unwrap().parent().unwrap()).await.unwrap();
        assert_eq!(report.damage, []);

        // Once more, when even less is wanted; and then all of them go.
        let log = open(&dir, Some(59)).await;
        produce(&log, 60..100).await;
        log.forget(key(1));
        // The checkpoint of this test forgets what was refused.
        log.forget(key(2));
        log.set_start(key(0), Offset(90));
        assert_ne!(rewrite_all(&log).await, []);
        let before = log.stats().segments;
        log.set_floor(id(1, 85)).await.unwrap();
        log.retain().await.unwrap();
        let left = log.stats().segments;
        assert!(left * 2 < before, "{left} of {before}");
        log.close().await;
        let log = open(&dir, Some(99)).await;
        assert_eq!(value_at(&log, 95).await, Some(b"value 95".to_vec()));
        log.close().await;
    });
}

#[test]
fn who_reads_meanwhile_sees_nothing_of_it() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = Rc::new(open(&dir, None).await);
        produce(&log, 0..60).await;
        log.set_start(key(1), Offset(30));
        let reader = {
            let log = log.clone();
            spawn(async move {
                for _ in 0..20 {
                    check(&log, 0..60, 30).await;
                }
            })
        };
        let done = rewrite_all(&log).await;
        assert_ne!(done, []);
        reader.await;
        check(&log, 0..60, 30).await;
        log.close().await;
    });
}

#[test]
fn another_replica_takes_what_is_left() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        produce(&log, 0..60).await;
        log.set_start(key(1), Offset(50));
        assert_ne!(rewrite_all(&log).await, []);
        let raw = log.read_raw_entries(0..60).await.unwrap().unwrap();
        let fingerprint = log.fingerprint(LogIndex(3)).await.unwrap();
        let sent_on = log.read_whole_entries(0..60, usize::MAX).await.unwrap();
        log.close().await;

        let mut raw = bytes::Bytes::from(raw);
        for (name, sends) in [("copied", false), ("appended", true)] {
            let other = dir.join(name);
            let log = open(&other, None).await;
            for n in 0..60 {
                let entry = if sends {
                    let bytes = bytes::Bytes::from(sent_on[n as usize].encode(SHARD));
                    Entry::decode(&bytes, SHARD).unwrap()
                } else {
                    let len = u32::from_le_bytes(*raw.first_chunk().unwrap()) as usize;
                    let (entry, _) = Entry::decode_raw(&raw.slice(4..4 + len), SHARD).unwrap();
                    raw = raw.slice(4 + len..);
                    entry
                };
                log.append(vec![entry]).await.unwrap();
                apply(&log, n);
            }
            log.set_start(key(1), Offset(50));
            check(&log, 0..60, 50).await;
            assert_eq!(log.fingerprint(LogIndex(3)).await.unwrap(), fingerprint);
            log.close().await;
            let log = open(&other, Some(59)).await;
            log.set_start(key(1), Offset(50));
            check(&log, 0..60, 50).await;
            log.close().await;
        }
    });
}

/// The power goes at every operation of a rewriting: what is left is whole, the one or the other.
#[cfg(sim)]
#[test]
fn a_crash_at_any_operation_leaves_one_of_the_two() {
    use barrage_world::sim::{Disk, Rng, run_on, run_until_crash};
    let (_, dir) = folder();
    let prepare = async {
        let log = open(&dir, None).await;
        for dir in ["/", "/data"] {
            fs::sync_dir(dir).await.unwrap();
        }
        produce(&log, 0..30).await;
        log.set_start(key(1), Offset(25));
        log.close().await;
    };
    let disk = Disk::default();
    run_on(1, &disk, prepare);
    let work = async |dir: &Path| {
        let log = open(dir, Some(29)).await;
        log.set_start(key(1), Offset(25));
        assert_ne!(rewrite_all(&log).await, []);
        log.close().await;
    };
    let whole = Disk::boot(disk.snapshot());
    run_on(2, &whole, async { work(&dir).await });
    let operations = whole.operation_count();
    assert!(operations > 50, "{operations}");
    let mut rewritten = 0;
    for at in 1..=operations {
        for seed in 0..3 {
            let disk = Disk::boot(disk.snapshot());
            disk.crash_at(at);
            run_until_crash(2, &disk, async { work(&dir).await });
            let disk = Disk::boot(disk.crash(&mut Rng::new(seed)));
            run_on(3, &disk, async {
                let log = open(&dir, Some(29)).await;
                log.set_start(key(1), Offset(25));
                check(&log, 0..30, 25).await;
                log.close().await;
                let names = fs::list(&dir).await.unwrap();
                assert!(names.iter().all(|name| !name.ends_with(".rewrite")), "{names:?}");
                rewritten += u64::from(names.iter().any(|name| name.len() > 30));
            });
        }
    }
    assert!(rewritten > 10, "{rewritten}");
}
