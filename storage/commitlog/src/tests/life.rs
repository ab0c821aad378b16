//! A log's ordinary life: append, read, roll, restart, truncate, drop.

use super::fixture::{SHARD, blank, entry, folder, id, key, open_with, options, value_at};
use crate::{CommitLog, Vote};
use barrage_model::{LogIndex, NodeId, Offset, Term};
use barrage_world::{fs, run_local};
use std::path::Path;

async fn open(dir: &Path, applied: Option<u64>) -> CommitLog {
    open_with(dir, options(), applied).await
}

/// Appends one record per entry and accepts it.
async fn produce(log: &CommitLog, from: u64, count: u64) {
    for n in from..from + count {
        let ticket = log.append(vec![entry(1, n, n, format!("value {n}").as_bytes())]);
        ticket.await.unwrap();
        log.set_committed(id(1, n));
        log.index_run(LogIndex(n), 0);
        log.set_applied(id(1, n));
    }
}

#[test]
fn records_come_back_by_offset_across_segments_and_restarts() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        produce(&log, 0, 40).await;
        log.save_vote(Vote { term: Term(3), node: NodeId(1), committed: true }).await.unwrap();
        for offset in 0..40 {
            let value = value_at(&log, offset).await.unwrap();
            assert_eq!(value, format!("value {offset}").into_bytes());
        }
        assert!(log.stats().segments > 3, "the workload must roll");
        log.close().await;

        let log = open(&dir, Some(39)).await;
        assert_eq!(log.last_log_id(), Some(id(1, 39)));
        assert_eq!(log.hard_state().vote.map(|vote| vote.term), Some(Term(3)));
        assert_eq!(log.hard_state().committed, Some(id(1, 39)));
        produce(&log, 40, 5).await;
        for offset in 0..45 {
            let value = value_at(&log, offset).await.unwrap();
            assert_eq!(value, format!("value {offset}").into_bytes());
        }
        assert_eq!(value_at(&log, 45).await, None);
        log.close().await;
    });
}

#[test]
fn entries_not_applied_before_the_restart_are_indexed_by_apply() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        produce(&log, 0, 12).await;
        log.close().await;
        let log = open(&dir, Some(4)).await;
        assert!(value_at(&log, 4).await.is_some());
        let entries = log.read_entries(5..12, usize::MAX).await.unwrap();
        assert_eq!(entries.len(), 7);
        assert_eq!(value_at(&log, 5).await, None);
        for entry in entries {
            log.index_run(entry.id.index, 0);
        }
        assert_eq!(value_at(&log, 11).await, Some(b"value 11".to_vec()));
        log.close().await;
    });
}

#[test]
fn a_truncation_is_a_record_and_survives() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        drop(log.append((0..10).map(|n| blank(1, n)).collect()));
        drop(log.truncate_after(Some(id(1, 5))));
        log.append(vec![blank(2, 6)]).await.unwrap();
        let check = |entries: Vec<crate::Entry>| {
            let commands: Vec<_> = entries.iter().map(|e| e.command.clone()).collect();
            assert_eq!(commands, ["command 1/5", "command 2/6"]);
        };
        check(log.read_entries(5..10, usize::MAX).await.unwrap());
        log.close().await;
        let log = open(&dir, None).await;
        check(log.read_entries(5..10, usize::MAX).await.unwrap());
        assert_eq!(log.last_log_id(), Some(id(2, 6)));
        log.close().await;
    });
}

#[test]
fn released_segments_are_dropped_and_the_rest_stays() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        log.save_vote(Vote { term: Term(1), node: NodeId(7), committed: true }).await.unwrap();
        produce(&log, 0, 40).await;
        let before = log.stats().segments;
        log.set_floor(id(1, 35)).await.unwrap();
        log.set_start(key(0), Offset(30));
        log.retain().await.unwrap();
        assert!(log.stats().segments < before, "old segments must go");
        assert_eq!(value_at(&log, 30).await, Some(b"value 30".to_vec()));
        log.close().await;
        let log = open(&dir, Some(39)).await;
        assert_eq!(log.hard_state().vote.map(|vote| vote.node), Some(NodeId(7)));
        assert_eq!(log.hard_state().floor, Some(id(1, 35)));
        assert_eq!(value_at(&log, 39).await, Some(b"value 39".to_vec()));
        let report = crate::verify(dir.parent().unwrap().parent().unwrap()).await.unwrap();
        assert_eq!(report.damage, []);
        assert_eq!(report.partitions.len(), 1);
        assert_eq!(report.partitions[0].next_offset, Offset(40));
        assert_eq!(report.segments.iter().filter(|s| !s.sealed).count(), 1);
        assert!(report.segments.iter().all(|s| s.shard == SHARD));
        log.close().await;
    });
}

#[test]
fn rot_in_a_sealed_segment_is_found_in_the_round_that_comes_by() {
    let (_guard, dir) = folder();
    run_local(async {
        let log = open(&dir, None).await;
        produce(&log, 0, 60).await;
        let sealed = log.sealed_bytes();
        assert!(sealed > 3 * 20 * 1024, "several segments are sealed");
        let mut scrub = crate::Scrub::default();
        let round = async |scrub: &mut crate::Scrub| {
            let mut checked = 0;
            loop {
                match log.scrub(scrub, 5_000).await? {
                    0 => return Ok::<u64, crate::ReadError>(checked),
                    bytes => checked += bytes,
                }
            }
        };
        // Every sealed byte once, and again.
        assert_eq!(round(&mut scrub).await.unwrap(), sealed);
        assert_eq!(round(&mut scrub).await.unwrap(), sealed);
        let names = fs::list(&dir).await.unwrap();
        let second = names.iter().filter(|name| name.ends_with(".log")).nth(1).unwrap();
        let path = dir.join(second);
        let mut bytes = fs::read(&path).await.unwrap();
        bytes[20_000] ^= 1;
        let block = 20_000 / 4096 * 4096;
        let mut buffer = barrage_world::Buffer::new(4096);
        buffer.copy_from_slice(&bytes[block..block + 4096]);
        let file = barrage_world::File::open(&path).await.unwrap();
        file.write_at(&buffer.freeze(), block as u64).await.unwrap();
        file.close().await.unwrap();
        let found = round(&mut scrub).await;
        assert!(matches!(found, Err(crate::ReadError::Damaged(damage)) if damage.path == path));
        // What lies behind it is still looked at, and the next round meets it again.
        let rest = round(&mut scrub).await.unwrap();
        assert!(rest > 0 && rest < sealed);
        assert!(round(&mut scrub).await.is_err());
        log.close().await;
    });
}
