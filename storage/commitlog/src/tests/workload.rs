//! Workloads: operations in one total order, and what a log must hold after each of them.
//!
//! After a crash the log must hold the state after some prefix of its workload, at least as long
//! as what was acknowledged.

use super::fixture::{entry, id, key, options, value_at};
use crate::{CommitLog, LogError, OpenError, Options, Vote};
use barrage_model::{LogId, NodeId, Offset, ShardId, Term};
use barrage_world::sim::{Disk, Image, Rng, run_on};
use barrage_world::{fs, sleep};
use std::cell::Cell;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

pub(super) const DIR: &str = "/data/shards/1";

/// One operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// An entry of one block.
    Small,
    /// An entry of several blocks; a few of them fill a segment.
    Large,
    Vote,
    /// Removes the last entry, unless a checkpoint holds it, and raises the term.
    Truncate,
    /// Applies everything and writes a checkpoint.
    Checkpoint,
    /// Raises the floor to the checkpoint.
    Floor,
    /// Drops the segments below the floor; they become spares and then segments again.
    Retain,
    /// Lets the log fall idle, so that it marks its end.
    Idle,
}

/// Operations, each with whether the workload awaits its ticket before the next.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) steps: Vec<(Op, bool)>,
}

/// What a log must hold after some prefix of a workload.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) entries: Vec<LogId>,
    pub(super) vote: Option<u64>,
    pub(super) floor: Option<LogId>,
    pub(super) checkpoint: Option<LogId>,
}

impl Model {
    pub(super) fn apply(&mut self, op: Op, term: &mut u64) {
        let next = self.entries.last().or(self.floor.as_ref()).map_or(0, |id| id.index.0 + 1);
        match op {
            Op::Small | Op::Large => self.entries.push(id(*term, next)),
            Op::Vote => {
                *term += 1;
                self.vote = Some(*term);
            }
            Op::Truncate => {
                *term += 1;
                if self.entries.last().copied() > self.checkpoint {
                    self.entries.pop();
                }
            }
            Op::Checkpoint => self.checkpoint = self.entries.last().copied().or(self.checkpoint),
            Op::Floor => {
                self.floor = self.floor.max(self.checkpoint);
                self.entries.retain(|id| Some(*id) > self.floor);
            }
            Op::Retain | Op::Idle => {}
        }
    }

    /// Whether a log that was found holds the same. Its checkpoint may be newer: it is no part of
    /// the log's order.
    fn is(&self, found: &Self) -> bool {
        self.entries == found.entries
            && self.vote == found.vote
            && self.floor == found.floor
            && self.checkpoint <= found.checkpoint
    }
}

/// The state after every prefix: index k is after k operations.
pub(super) fn models(workload: &Workload, from: &Model) -> Vec<Model> {
    let mut model = from.clone();
    let mut term = first_term(from);
    let mut models = vec![model.clone()];
    for (op, _) in &workload.steps {
        model.apply(*op, &mut term);
        models.push(model.clone());
    }
    models
}

/// Terms never go back, whatever was cut off.
fn first_term(from: &Model) -> u64 {
    let entries = from.entries.last().map_or(0, |id| id.term.0);
    let floor = from.floor.map_or(0, |id| id.term.0);
    entries.max(floor).max(from.vote.unwrap_or(0)) + 10
}

pub(super) fn value(id: LogId, large: bool) -> Vec<u8> {
    let mut value = format!("{}/{}", id.term.0, id.index.0).into_bytes();
    if large {
        value.resize(9_000, b'.');
    }
    value
}

pub(super) fn vote(term: u64) -> Vote {
    Vote { term: Term(term), node: NodeId(1), committed: false }
}

/// Opens the log at its newest checkpoint, as a node does.
pub(super) async fn open() -> Result<(CommitLog, Option<LogId>), OpenError> {
    open_with(options()).await
}

pub(super) async fn open_with(options: Options) -> Result<(CommitLog, Option<LogId>), OpenError> {
    fs::create_dir_all("/data/shards").await.unwrap();
    for dir in ["/", "/data"] {
        fs::sync_dir(dir).await.unwrap();
    }
    let found = CommitLog::read_checkpoint(Path::new(DIR), ShardId(1)).await.unwrap();
    let applied = found.as_ref().map(|found| found.id);
    let (log, _) = CommitLog::open(PathBuf::from(DIR), options, found).await?;
    Ok((log, applied))
}

/// Counts the operations that were answered, in order.
pub(super) type Acked = Rc<Cell<usize>>;

/// Runs a workload to its end, or until the disk fails.
pub(super) async fn run_workload(workload: Workload, from: Model, acked: Acked) {
    let Ok((log, _)) = open().await else { return };
    drive(&log, workload, from, acked).await.ok();
}

async fn drive(
    log: &CommitLog,
    workload: Workload,
    from: Model,
    acked: Acked,
) -> Result<(), LogError> {
    let mut model = from.clone();
    let mut term = first_term(&from);
    let mut applied_next = from.checkpoint.map_or(0, |id| id.index.0 + 1);
    let mut tickets = Vec::new();
    for (number, (op, wait)) in workload.steps.into_iter().enumerate() {
        model.apply(op, &mut term);
        let last = model.entries.last().copied();
        let ticket = match op {
            Op::Small | Op::Large => {
                let id = last.unwrap();
                let value = value(id, op == Op::Large);
                log.append(vec![entry(id.term.0, id.index.0, id.index.0, &value)])
            }
            Op::Vote => log.save_vote(vote(term)),
            Op::Truncate => log.truncate_after(last.or(model.floor)),
            Op::Floor if model.floor.is_some() => log.set_floor(model.floor.unwrap()),
            Op::Floor => log.append(Vec::new()),
            Op::Checkpoint => {
                if let Some(id) = last {
                    let new = applied_next..id.index.0 + 1;
                    applied_next = new.end.max(applied_next);
                    let new = log.read_entries(new, usize::MAX).await;
                    let new = new.map_err(|_| LogError::Closed)?;
                    new.iter().for_each(|entry| log.index_run(entry.id.index, 0));
                    log.set_applied(id);
                    log.write_checkpoint(id, [b"state".to_vec()])
                        .await
                        .map_err(|_| LogError::Closed)?;
                }
                log.append(Vec::new())
            }
            Op::Retain => {
                // Records up to the floor are not wanted any more.
                let start = model.floor.map_or(0, |floor| floor.index.0 + 1);
                log.set_start(key(0), Offset(start));
                log.retain().await.map_err(|_| LogError::Closed)?;
                log.append(Vec::new())
            }
            Op::Idle => {
                sleep(Duration::from_millis(200)).await;
                log.append(Vec::new())
            }
        };
        tickets.push((number, ticket));
        if wait {
            for (number, ticket) in tickets.drain(..) {
                ticket.await?;
                acked.set(number + 1);
            }
        }
    }
    for (number, ticket) in tickets {
        ticket.await?;
        acked.set(number + 1);
    }
    Ok(())
}

/// What is in the log, every entry's record read back by offset. What the checkpoint covers is
/// indexed by the log itself.
pub(super) async fn observe(log: &CommitLog, checkpoint: Option<LogId>) -> Model {
    let first = log.first_log_id().map_or(0, |id| id.index.0);
    let entries = log.read_entries(first..u64::MAX, usize::MAX).await.unwrap();
    for entry in &entries {
        assert_eq!(entry.runs.len(), 1);
        if checkpoint.is_none_or(|checkpoint| checkpoint.index < entry.id.index) {
            log.index_run(entry.id.index, 0);
        }
        let read = value_at(log, entry.id.index.0).await.unwrap();
        let large = read.len() == 9_000;
        assert_eq!(read, value(entry.id, large), "the record is the one that was appended");
    }
    let hard = log.hard_state();
    Model {
        entries: entries.iter().map(|entry| entry.id).collect(),
        vote: hard.vote.map(|vote| vote.term.0),
        floor: hard.floor,
        checkpoint,
    }
}

/// Reboots from an image: the state must be that of an acknowledged prefix or a longer one.
/// Gives the disk and the state for a second life.
pub(super) fn check_image(image: Image, allowed: &[Model], what: &dyn Debug) -> (Disk, Model) {
    let disk = Disk::boot(image);
    let found = check_disk(&disk, allowed, what);
    (disk, found)
}

/// Starts on a disk as it is.
pub(super) fn check_disk(disk: &Disk, allowed: &[Model], what: &dyn Debug) -> Model {
    let found = run_on(7, disk, async {
        let (log, checkpoint) = open().await.unwrap_or_else(|error| panic!("{error}; {what:?}"));
        let found = observe(&log, checkpoint).await;
        log.close().await;
        found
    });
    let fits = allowed.iter().any(|model| model.is(&found));
    assert!(fits, "found {found:?}, allowed {allowed:?}; {what:?}");
    found
}

/// All words of a length.
pub(super) fn words(alphabet: &[Op], length: usize) -> Vec<Vec<Op>> {
    let mut words = vec![Vec::new()];
    for _ in 0..length {
        let longer = |word: Vec<Op>| {
            alphabet.iter().map(move |op| word.iter().copied().chain([*op]).collect())
        };
        words = words.into_iter().flat_map(longer).collect();
    }
    words
}

/// A word whose tickets are awaited or not, differently from word to word.
pub(super) fn workload(word: &[Op], random: &mut Rng) -> Workload {
    Workload { steps: word.iter().map(|op| (*op, random.one_in(2))).collect() }
}

/// An operation of a long workload.
pub(super) fn draw(random: &mut Rng) -> (Op, bool) {
    // Appends are what matters most; an idle pause is rare.
    let op = match random.below(16) {
        0..5 => Op::Small,
        5..9 => Op::Large,
        9 => Op::Vote,
        10 => Op::Truncate,
        11..13 => Op::Checkpoint,
        13 => Op::Floor,
        14 => Op::Retain,
        _ => Op::Idle,
    };
    (op, random.one_in(2))
}
