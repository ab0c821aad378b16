//! The structures of the shard log on disk, one by one: segment header, flush group, entry, index
//! file, checkpoint file. The first byte of the input chooses which.
//!
//! Checked: what was read is written as something that reads the same. Blocks are filled up with
//! zeros, as they are on disk.

use barrage_commitlog::fuzzing::{self, BLOCK_BYTES, Checkpoint, Group, Index, Segment};
use barrage_commitlog::{Entry, EntryKind, Run};
use barrage_model::batch::BatchView;
use barrage_model::{LogId, LogIndex, ShardId, Term};
use bytes::Bytes;

use super::sample;
use crate::meter::aside;
use crate::repair;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target = Target {
    name: "log_format",
    input_bytes_max: 16 * 1024,
    run,
    memory_extra: no_extra,
    seeds,
    large,
};

const SHARD: ShardId = ShardId(1);
const SALT: u64 = 0x1234_5678_9abc_def0;

fn run(input: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = input.split_first() else { return Verdict::Refused };
    type Feed = fn(&[u8]) -> bool;
    type Repair = fn(&mut [u8]);
    let (feed, make_right): (Feed, Repair) = match kind % 5 {
        0 => (segment, |bytes| repair::seal(bytes, 8, 12)),
        1 => (group, |bytes| repair::group(bytes, SALT)),
        2 => (entry, repair::entry),
        3 => (index, repair::index),
        _ => (checkpoint, repair::checkpoint),
    };
    let is_in_blocks = kind % 5 < 2;
    let (raw, right) = aside(|| {
        let mut raw = bytes.to_vec();
        if is_in_blocks {
            raw.resize(raw.len().next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES), 0);
        }
        let mut right = raw.clone();
        make_right(&mut right);
        (raw, right)
    });
    feed(&raw);
    Verdict::from(feed(&right))
}

fn segment(bytes: &[u8]) -> bool {
    let Some(found) = Segment::decode(bytes) else { return false };
    aside(|| assert_eq!(Segment::decode(&found.encode()), Some(found)));
    true
}

fn group(bytes: &[u8]) -> bool {
    let Some(found) = Group::decode(bytes, SALT) else { return false };
    aside(|| assert!(found.is_sealed_alike(bytes, SALT), "{found:?} is sealed as another"));
    true
}

fn entry(bytes: &[u8]) -> bool {
    let len = fuzzing::scan_entry(bytes, SHARD);
    let bytes = aside(|| Bytes::copy_from_slice(bytes));
    let Ok(found) = Entry::decode(&bytes, SHARD) else { return false };
    aside(|| {
        assert_eq!(len, Some(bytes.len()), "a scan sees the same entry");
        let batches = || found.runs.iter().flat_map(|run| &run.batches);
        let again = Bytes::from(found.encode(SHARD));
        assert_eq!(again.len(), bytes.len());
        // Its CRC is joined from those of the batches, which are checked where they come in.
        if batches().all(|batch| BatchView::check(&batch.bytes).is_ok()) {
            let same = Entry::decode(&again, SHARD);
            assert_eq!(same.map(|same| format!("{same:?}")), Ok(format!("{found:?}")));
        }
    });
    true
}

fn index(bytes: &[u8]) -> bool {
    let Some(found) = Index::decode(bytes) else { return false };
    aside(|| assert_eq!(Index::decode(&found.encode(bytes)), Some(found)));
    true
}

fn checkpoint(bytes: &[u8]) -> bool {
    let Some(found) = Checkpoint::decode(bytes, SHARD) else { return false };
    aside(|| assert_eq!(Checkpoint::decode(&found.encode(), SHARD), Some(found)));
    true
}

fn seeds() -> Vec<Seed> {
    let entry = sample::entry(LogId { term: Term(3), index: LogIndex(7) });
    let blank = Entry { kind: EntryKind::Blank, runs: Vec::new(), ..entry.clone() };
    let mut thin = entry.clone();
    for run in thin.runs.iter_mut().skip(1) {
        (run.gone, run.batches) = (Some(5), Vec::new());
    }
    let entries = [blank.encode(SHARD), entry.encode(SHARD), thin.encode(SHARD)];
    let group = fuzzing::sample_group(SHARD, SALT, &entries.concat(), 3);
    let [blank, whole, thin] = entries;
    let structures = [
        ("segment", 0, fuzzing::sample_segment(SHARD).encode()),
        ("segment-rewritten", 0, fuzzing::sample_rewritten_segment(SHARD).encode()),
        ("group", 1, group),
        ("group-empty", 1, fuzzing::sample_group(SHARD, SALT, &[], 0)),
        ("entry-blank", 2, blank),
        ("entry", 2, whole),
        ("entry-thin", 2, thin),
        ("index", 3, fuzzing::sample_index(SHARD, 2, 5, 6)),
        ("index-empty", 3, fuzzing::sample_index(SHARD, 0, 0, 0)),
        ("checkpoint", 4, fuzzing::sample_checkpoint(SHARD, 1, &[b"state", b"more"])),
    ];
    let seed = |(name, kind, bytes): (&str, u8, Vec<u8>)| {
        // The zeros up to the end of a block come back when it is fed.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let kept = if kind < 2 { bytes.get(..end).unwrap_or_default() } else { &bytes };
        (name.to_owned(), [&[kind], kept].concat())
    };
    structures.map(seed).into()
}

/// Tables whose rows are as short as rows can be.
fn large() -> Vec<Seed> {
    let entry = sample::entry(LogId { term: Term(3), index: LogIndex(7) });
    let [first, second] = [0, 1].map(|at| entry.runs.get(at).cloned());
    let empty =
        second.clone().map(|run| Run { record_count: 0, byte_len: 0, batches: vec![], ..run });
    let with = |run: Option<Run>, count| {
        let runs = run.map_or_else(Vec::new, |run| vec![run; count]);
        Entry { runs, ..entry.clone() }.encode(SHARD)
    };
    let cases = [
        ("runs-of-two", 2, with(first, LARGE_BYTES / 512)),
        ("runs-of-one", 2, with(second, LARGE_BYTES / 256)),
        ("runs-of-none", 2, with(empty, LARGE_BYTES / 40)),
        ("rows", 3, fuzzing::sample_index(SHARD, LARGE_BYTES as u32 / 112, 1, 0)),
        ("runs", 3, fuzzing::sample_index(SHARD, 2, LARGE_BYTES as u64 / 80, 1)),
        ("entries", 3, fuzzing::sample_index(SHARD, 1, 1, LARGE_BYTES as u32 / 16)),
        ("refused", 4, fuzzing::sample_checkpoint(SHARD, LARGE_BYTES as u64 / 16, &[])),
        ("part", 4, fuzzing::sample_checkpoint(SHARD, 1, &[&vec![1; LARGE_BYTES]])),
        ("parts", 4, fuzzing::sample_checkpoint(SHARD, 1, &vec![&[][..]; LARGE_BYTES / 8])),
    ];
    let seed = |(name, kind, bytes): (&str, u8, Vec<u8>)| {
        (name.to_owned(), [&[kind], &bytes[..]].concat())
    };
    cases.map(seed).into()
}
