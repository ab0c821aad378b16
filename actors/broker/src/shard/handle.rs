//! The handle of a data shard on the core that carries it.
//!
//! Owns: opening and closing the shard, what waits, its figures.
//! Must never: decide about a batch; that is the proposer's and apply's work.
//! Invariants: every batch submitted is answered; nothing is taken after closing has begun.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::task::Waker;

use barrage_cluster::message::Bounds;
use barrage_commitlog::{Floor, Options};
use barrage_model::{NodeId, Offset, PartitionKey, ShardId, Term};
use barrage_raft::{Group, GroupOptions, OpenError, Peers, ProposeError, Timing};
use barrage_world::channel::{Event, oneshot};
use barrage_world::{Instant, buggify, planted, sleep_until, spawn, unix_time_ms};

use super::alarms::Alarms;
use super::entry::{BATCH_OVERHEAD, WaitingBatch};
use super::expiry::Ages;
use super::groups::{Op, Outcome};
use super::machine::{ShardMachine, Told};
use super::order::Orders;
use super::proposer::Proposer;
use super::readers::Readers;
use super::releases::Releases;
use super::sift::Sifters;
use super::streams::{StreamOp, StreamOutcome};
use super::waiting::{Control, Waiting, WaitingOp, WaitingStreamOp};
use crate::api::queue::QueueError;
use crate::api::{FetchError, ProduceError, ShardStats};
use crate::command::Command;
use crate::reply::ProduceReply;

/// What an entry needs in a segment besides batches: headers, padding.
const ENTRY_RESERVE: usize = 64 * 1024;

/// How to open a shard.
#[derive(Clone)]
pub(crate) struct ShardOptions {
    pub(crate) node: NodeId,
    pub(crate) dir: PathBuf,
    pub(crate) log: Options,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) waiting_bytes_max: usize,
    pub(crate) timing: Timing,
    pub(crate) peers: Rc<dyn Peers>,
}

/// A shard; clones are the same one.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(super) inner: Rc<Inner>,
}

/// What the handle, the proposer and the readers share.
pub(crate) struct Inner {
    pub(super) group: Group<ShardMachine>,
    pub(super) readers: Readers,
    pub(super) alarms: Alarms,
    pub(super) sifters: Sifters,
    pub(super) orders: Orders,
    pub(super) ages: Ages,
    pub(super) releases: Releases,
    /// Where the lease clock stood when this node came to lead, and when that was.
    lease_base: Cell<Option<(Term, u64, Instant)>>,
    pub(super) waiting: RefCell<Waiting>,
    pub(super) in_flight: Cell<usize>,
    /// The proposer has ended, with nothing left to answer.
    pub(super) drained: Event,
    closing: Cell<bool>,
    /// What is wrong with this copy.
    pub(super) damage: RefCell<Option<String>>,
    pub(super) damaged: Event,
    /// The catalog revision that the partitions agree with, while this node leads.
    agreed: Cell<u64>,
    records: Cell<u64>,
    bytes: Cell<u64>,
}

impl Inner {
    pub(super) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(super) fn entry_bytes_max(&self) -> usize {
        self.group.log().entry_bytes_max().saturating_sub(ENTRY_RESERVE)
    }

    /// What the lease clock says now. On a leader it goes on from where it stood when the lead
    /// changed; elsewhere it stands still.
    pub(super) fn lease_now_ms(&self) -> u64 {
        let applied_ms = self.group.with_machine(|machine| machine.groups().clock_ms);
        if planted("broker-lease-clock-by-the-wall") {
            // Wrong: a clock that is set ahead ends every lease.
            return applied_ms.max(u64::try_from(unix_time_ms()).unwrap_or(0));
        }
        let Some(term) = self.group.leader_term() else { return applied_ms };
        let (base_ms, began) = match self.lease_base.get() {
            Some((known, base_ms, began)) if known == term => (base_ms, began),
            _ => {
                // Who leads has applied everything of his predecessors: this is where they ended.
                let began = Instant::now();
                self.lease_base.set(Some((term, applied_ms, began)));
                (applied_ms, began)
            }
        };
        let passed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(0);
        applied_ms.max(base_ms.saturating_add(passed_ms))
    }

    pub(super) fn count(&self, records: u32, bytes: u32) {
        self.records.set(self.records.get() + u64::from(records));
        self.bytes.set(self.bytes.get() + u64::from(bytes));
    }
}

impl Shard {
    /// Opens this node's replica. With `founding`, forms the group. A node that is the only voter
    /// leads when this returns.
    pub(crate) async fn open(options: ShardOptions, founding: bool) -> Result<Self, OpenError> {
        let (told, damaged) = (Told::default(), Event::new());
        let group = Group::open(GroupOptions {
            node: options.node,
            shard: options.log.shard,
            dir: options.dir,
            // Records live in the log only: a replica that comes late must get every entry whose
            // records are still promised.
            log: Options { floor: Floor::Records, ..options.log },
            checkpoint_bytes: options.checkpoint_bytes,
            timing: options.timing,
            peers: options.peers,
            machine: ShardMachine::new(told.clone(), damaged.clone()),
        })
        .await?;
        group.lead_if_alone(founding).await?;
        let Told { readers, alarms, orders, releases } = told;
        let inner = Rc::new(Inner {
            group,
            readers,
            alarms,
            sifters: Sifters::default(),
            orders,
            ages: Ages::default(),
            releases,
            lease_base: Cell::new(None),
            waiting: RefCell::new(Waiting::new(options.waiting_bytes_max)),
            in_flight: Cell::new(0),
            drained: Event::new(),
            closing: Cell::new(false),
            damage: RefCell::new(None),
            damaged,
            agreed: Cell::new(0),
            records: Cell::new(0),
            bytes: Cell::new(0),
        });
        drop(spawn(Proposer::new(Rc::clone(&inner)).run()));
        Ok(Self { inner })
    }

    /// The shard's number.
    pub(crate) fn id(&self) -> ShardId {
        self.inner.group.shard()
    }

    /// The timers of this shard's groups.
    pub(crate) fn alarms(&self) -> &Alarms {
        &self.inner.alarms
    }

    /// The group under the shard.
    pub(crate) fn group(&self) -> &Group<ShardMachine> {
        &self.inner.group
    }

    /// The catalog revision that the partitions agree with, while this node leads.
    pub(crate) fn agreed(&self) -> u64 {
        self.inner.agreed.get()
    }

    /// The partitions agree with this revision of the catalog.
    pub(crate) fn set_agreed(&self, revision: u64) {
        self.inner.agreed.set(revision);
    }

    /// Takes a batch up, in the order of the calls; the answer goes to `batch.reply`.
    pub(crate) fn submit(&self, batch: WaitingBatch<ProduceReply>) {
        let size = batch.batch.size_max();
        let limit = self.inner.entry_bytes_max().saturating_sub(BATCH_OVERHEAD);
        let refusal = if self.inner.is_closing() {
            Some(ProduceError::ShuttingDown)
        } else if self.inner.group.log().is_full() {
            Some(ProduceError::DiskFull)
        } else if size > limit {
            Some(ProduceError::TooLarge { size, limit })
        } else {
            None
        };
        if let Some(error) = refusal {
            return batch.reply.send(Err(error));
        }
        if buggify("broker-queue-full", 30) {
            return batch.reply.send(Err(ProduceError::QueueFull));
        }
        let pushed = self.inner.waiting.borrow_mut().push(batch);
        match pushed {
            Ok(Some(waker)) => waker.wake(),
            Ok(None) => {}
            Err(batch) => batch.reply.send(Err(ProduceError::QueueFull)),
        }
    }

    /// Takes an operation on a queue group up, in the order of the calls.
    pub(crate) fn submit_op(
        &self,
        op: Op,
    ) -> impl Future<Output = Result<Outcome, QueueError>> + 'static {
        let (reply, answer) = oneshot::channel();
        let waiting = WaitingOp { op, reply };
        let taken = self.take_op(|all| all.push_op(waiting).map_err(drop));
        async move {
            taken?;
            answer.await.unwrap_or(Err(QueueError::ShuttingDown))
        }
    }

    /// Takes an operation on a stream group up, in the order of the calls.
    pub(crate) fn submit_stream_op(
        &self,
        op: StreamOp,
    ) -> impl Future<Output = Result<StreamOutcome, QueueError>> + 'static {
        let (reply, answer) = oneshot::channel();
        let waiting = WaitingStreamOp { op, reply };
        let taken = self.take_op(|all| all.push_stream_op(waiting).map_err(drop));
        async move {
            taken?;
            answer.await.unwrap_or(Err(QueueError::ShuttingDown))
        }
    }

    fn take_op(
        &self,
        push: impl FnOnce(&mut Waiting) -> Result<Option<Waker>, ()>,
    ) -> Result<(), QueueError> {
        if self.inner.is_closing() {
            return Err(QueueError::ShuttingDown);
        }
        if self.inner.group.log().is_full() {
            return Err(QueueError::DiskFull);
        }
        if self.inner.group.leader_term().is_none() {
            return Err(QueueError::NotLeader { hint: None });
        }
        let pushed = push(&mut self.inner.waiting.borrow_mut());
        pushed.map_err(|()| QueueError::QueueFull)?.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Proposes a command without records, in order with the batches; answers when it is applied.
    pub(crate) async fn command(&self, command: Command) -> Result<(), ProposeError> {
        if self.inner.is_closing() {
            return Err(ProposeError::Stopped);
        }
        let (reply, answer) = oneshot::channel();
        let waker = self.inner.waiting.borrow_mut().push_control(Control { command, reply });
        if let Some(waker) = waker {
            waker.wake();
        }
        answer.await.unwrap_or(Err(ProposeError::Stopped))
    }

    /// Where a partition begins and ends, if it is open and may be read here.
    pub(crate) fn bounds(&self, key: PartitionKey) -> Result<Bounds, FetchError> {
        if self.inner.is_closing() {
            return Err(FetchError::ShuttingDown);
        }
        if !self.inner.group.leads_for_sure() {
            return Err(FetchError::NotLeader { hint: None });
        }
        let found = self.inner.group.with_machine(|machine| {
            let partition = machine.state().partitions.get(&key)?;
            Some((partition.start_offset, partition.next_offset))
        });
        let (start_offset, mut high_watermark) = found.ok_or(FetchError::UnknownPartition)?;
        if planted("broker-high-watermark-ahead-of-apply") {
            // Wrong: what is on its way to the disk counts as readable.
            high_watermark = Offset(high_watermark.0 + self.inner.in_flight.get() as u64);
        }
        let bytes = self.inner.group.log().partition_bytes(key);
        Ok(Bounds { start_offset, high_watermark, bytes })
    }

    /// The shard's figures.
    pub(crate) fn stats(&self) -> ShardStats {
        let log = self.inner.group.log().stats();
        let waiting = self.inner.waiting.borrow();
        let partitions = self.inner.group.with_machine(|machine| machine.state().partitions.len());
        ShardStats {
            shard: self.id(),
            partitions: partitions as u64,
            records: self.inner.records.get(),
            bytes: self.inner.bytes.get(),
            flushes: log.flushes,
            flush_p50_us: log.flush_p50_us,
            flush_p99_us: log.flush_p99_us,
            entries_in_flight: self.inner.in_flight.get() as u64,
            batches_waiting: waiting.batches() as u64,
            bytes_waiting: waiting.bytes() as u64,
            cache_bytes: log.cache_bytes,
            cache_hits: log.cache_hits,
            cache_misses: log.cache_misses,
            log_bytes_written: log.bytes,
            disk_bytes: log.disk_bytes,
        }
    }

    /// Lets what is under way finish, until the deadline, and closes the shard with a checkpoint.
    pub(crate) async fn shutdown(&self, deadline: Instant) {
        let drained = self.inner.drained.listen();
        if self.inner.closing.replace(true) {
            return;
        }
        self.inner.readers.wake_all();
        let waker = self.inner.waiting.borrow_mut().take_waker();
        if let Some(waker) = waker {
            waker.wake();
        }
        first_of(drained, sleep_until(deadline)).await;
        self.inner.group.shutdown().await;
    }
}

/// Ends when either does.
pub(crate) async fn first_of(left: impl Future<Output = ()>, right: impl Future<Output = ()>) {
    let mut left = std::pin::pin!(left);
    let mut right = std::pin::pin!(right);
    std::future::poll_fn(|context| {
        if left.as_mut().poll(context).is_ready() || right.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
}
