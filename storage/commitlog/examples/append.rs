//! How fast the log alone takes batches: no socket, no Raft. Prints MiB/s and the flush median.
//!
//! `cargo run --release -p barrage-commitlog --example append -- DIR [BATCH_BYTES] [IN_FLIGHT]`

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that a person runs"
)]

use barrage_commitlog::{Batch, CommitLog, Entry, EntryKind, Options, Run};
use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_model::{LogId, LogIndex, Offset, PartitionId, PartitionKey, ShardId, Term, TopicId};
use barrage_world::{Instant, fs, run_local};
use bytes::Bytes;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

const RECORD_BYTES: usize = 100;
const RUN_FOR: Duration = Duration::from_secs(5);

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap());
    let batch_bytes = args.next().map_or(1 << 20, |a| a.parse().unwrap());
    let in_flight = args.next().map_or(8, |a| a.parse().unwrap());
    run_local(measure(dir, batch_bytes, in_flight));
}

fn batch(batch_bytes: usize) -> (Bytes, u32) {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    let value = vec![b'v'; RECORD_BYTES];
    let record = NewRecord { key: None, value: Some(&value), headers: &[], timestamp_ms: 0 };
    while builder.len_estimate() < batch_bytes {
        builder.push(&record).unwrap();
    }
    let count = builder.count();
    (builder.finish().unwrap().into(), count)
}

async fn measure(dir: PathBuf, batch_bytes: usize, in_flight: usize) {
    fs::create_dir_all(&dir).await.unwrap();
    let options = Options::new(ShardId(1));
    let (log, _) = CommitLog::open(dir.join("1"), options, None).await.unwrap();
    let (bytes, count) = batch(batch_bytes);
    let crc = BatchView::check(&bytes).unwrap().header().crc;
    let key = PartitionKey { topic: TopicId(1), partition: PartitionId(0) };
    let mut tickets = VecDeque::new();
    let start = Instant::now();
    let (mut index, mut total) = (0u64, 0usize);
    while start.elapsed() < RUN_FOR {
        let base_offset = Offset(index * u64::from(count));
        let batch = Batch { bytes: bytes.clone(), base_offset, leader_epoch: 1, crc };
        let run = Run {
            key,
            base_offset,
            record_count: count,
            max_timestamp: 0,
            byte_len: bytes.len() as u32,
            batches: vec![batch],
            gone: None,
        };
        let id = LogId { term: Term(1), index: LogIndex(index) };
        let entry = Entry {
            id,
            kind: EntryKind::Command,
            log_time_ms: 0,
            command: Bytes::from_static(b"append"),
            runs: vec![run],
        };
        tickets.push_back((id, log.append(vec![entry])));
        index += 1;
        if tickets.len() >= in_flight {
            let (id, ticket) = tickets.pop_front().unwrap();
            ticket.await.unwrap();
            log.index_run(id.index, 0);
            log.set_applied(id);
            drop(log.set_floor(id));
            log.set_start(key, base_offset);
            log.retain().await.unwrap();
        }
        total += bytes.len();
    }
    log.close().await;
    let seconds = start.elapsed().as_secs_f64();
    let stats = log.stats();
    println!(
        "{:.0} MiB/s, {:.2} M records/s of {RECORD_BYTES} B, flushes {}, flush p50 {} us p99 {} us",
        total as f64 / 1048576.0 / seconds,
        index as f64 * f64::from(count) / 1e6 / seconds,
        stats.flushes,
        stats.flush_p50_us,
        stats.flush_p99_us,
    );
}
