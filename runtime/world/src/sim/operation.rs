//! What a machine asks of its disk: reads, writes, flushes, lengths and names.
//!
//! Owns how an operation runs: it is counted, traced and given its fault when it is issued, and
//! has its effect after its latency. Must never answer an operation before its virtual latency, nor
//! forget a write whose caller has gone: what was issued completes, as in a kernel.
//!
//! ```text
//!   issue: number, trace, fault --> in flight, latency --> effect at completion --> the caller
//!                                       |
//!                          no power: it never completes
//! ```

use std::cell::RefCell;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use super::buffer::Slice;
use super::content::{ChangeId, ChangeKind, SECTOR_SIZE};
use super::disk::{Disk, DiskOptions, Inner};
use super::executor::{self, Due, EVENT_DISK, EVENT_DISK_FAULT};
use super::fault::{Fault, Operation};
use super::journal;
use super::machine::Machine;
use super::rng::{Rng, mix};
use super::tree::{EIO, ENOSPC, Inode, error};

impl Disk {
    /// Reads up to `len` bytes of a file.
    pub(super) async fn read(
        &self,
        path: &Path,
        node: Inode,
        position: u64,
        len: u64,
    ) -> io::Result<Vec<u8>> {
        let detail = mix(node) ^ mix(position) ^ len;
        let fault = self.issue(Operation::Read, path, detail).await;
        let latency = self.latency(Operation::Read, fault);
        self.finish(latency, move |inner| {
            inner.meet_damage(node, position, len, fault)?;
            let file = inner.tree.file(node)?;
            if file.is_unreadable(position, len.min(file.visible.len())) {
                inner.faults.counters.read_errors += 1;
                return Err(error(EIO));
            }
            Ok(file.visible.read(position, len))
        })
        .await
    }

    /// Writes to a file; answers how many bytes were stored.
    pub(super) async fn write(
        &self,
        path: &Path,
        node: Inode,
        position: u64,
        data: Slice,
    ) -> io::Result<usize> {
        let detail = mix(node) ^ mix(position) ^ hash_bytes(&data);
        let fault = self.issue(Operation::Write, path, detail).await;
        let latency = self.latency(Operation::Write, fault);
        let stored = self.with(|inner| inner.placed(node, position, data.clone(), fault));
        let (position, data) = stored?;
        let id = self.with(|inner| {
            inner.faults.counters.written_bytes += data.len() as u64;
            inner.issue_write(node, position, data.clone())
        })?;
        self.finish(latency, move |inner| {
            let file = inner.tree.file_mut(node)?;
            match fault {
                Some(Fault::Error(errno)) => {
                    file.cancel(id);
                    return Err(error(errno));
                }
                Some(Fault::Torn(errno)) => {
                    file.cancel(id);
                    inner.write_torn(node, position, &data)?;
                    return Err(error(errno));
                }
                Some(Fault::Lost) => file.cancel(id),
                _ => file.complete(id),
            }
            Ok(data.len())
        })
        .await
    }

    /// Makes the completed writes of a file durable, those that touch `range`.
    pub(super) async fn flush(
        &self,
        path: &Path,
        node: Inode,
        range: Range<u64>,
    ) -> io::Result<()> {
        let fault = self.issue(Operation::Flush, path, mix(node)).await;
        let latency = self.latency(Operation::Flush, fault);
        let covered = self.with(|inner| inner.tree.file(node).map(|file| file.flush_issue()))?;
        self.finish(latency, move |inner| {
            let file = inner.tree.file_mut(node)?;
            if let Some(Fault::Error(errno)) = fault {
                file.flush_fail(covered, &range);
                return Err(error(errno));
            }
            file.flush_complete(covered, &range);
            Ok(())
        })
        .await
    }

    /// Sets the length of a file.
    pub(super) async fn resize(&self, path: &Path, node: Inode, len: u64) -> io::Result<()> {
        let fault = self.issue(Operation::Resize, path, mix(node) ^ len).await;
        let latency = self.latency(Operation::Resize, fault);
        self.finish(latency, move |inner| {
            if let Some(Fault::Error(errno)) = fault {
                return Err(error(errno));
            }
            inner.resize(node, len)
        })
        .await
    }

    /// Makes a new file, open, of `len` zero bytes.
    pub(super) async fn create(&self, path: &Path, len: u64) -> io::Result<Inode> {
        let owned = path.to_owned();
        self.change_names(Operation::Create, path, move |inner| {
            inner.room_for(len)?;
            let node = inner.tree.create_file(&owned)?;
            inner.resize(node, len)?;
            inner.tree.file_mut(node)?.open_count += 1;
            Ok(node)
        })
        .await
    }

    /// Changes names: the effect is seen at completion and durable after a directory sync.
    pub(super) async fn change_names<T: 'static>(
        &self,
        operation: Operation,
        path: &Path,
        effect: impl FnOnce(&mut Inner) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let fault = self.issue(operation, path, 0).await;
        let latency = self.latency(operation, fault);
        self.finish(latency, move |inner| match fault {
            Some(Fault::Error(errno)) => Err(error(errno)),
            _ => effect(inner),
        })
        .await
    }

    /// Makes the names in a directory durable.
    pub(super) async fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let fault = self.issue(Operation::SyncDirectory, path, 0).await;
        let latency = self.latency(Operation::SyncDirectory, fault);
        let (node, covered) = self.with(|inner| {
            let node = inner.tree.lookup(path)?;
            inner.tree.directory(node)?;
            Ok::<_, io::Error>((node, inner.tree.sync_issue()))
        })?;
        self.finish(latency, move |inner| {
            if let Some(Fault::Error(errno)) = fault {
                // The names stay pending. A journal that failed stops the whole file system, or
                // keeps the change for its next commit; unlike a page of data, which is marked
                // clean, no name is shown and given up at the same time.
                return Err(error(errno));
            }
            inner.tree.sync_complete(node, covered);
            Ok(())
        })
        .await
    }

    /// Counts and traces an operation and draws its fault; never returns once power is lost.
    async fn issue(&self, operation: Operation, path: &Path, detail: u64) -> Option<Fault> {
        let number = self.with(|inner| inner.count(operation));
        let Some(number) = number else {
            return std::future::pending().await;
        };
        let path_hash = hash_bytes(path.as_os_str().as_encoded_bytes());
        executor::world().record(EVENT_DISK + operation as u64, path_hash ^ detail ^ mix(number));
        let world = executor::world();
        let take = |random: &mut Rng| self.with(|inner| inner.faults.take(operation, path, random));
        let fault = world.chaos_random(take)?;
        world.record(EVENT_DISK_FAULT, operation as u64);
        journal::note(|| {
            let host = world.with_machine(Machine::host).0;
            format!("host {host}: {operation:?} of {}: {fault:?}", path.display())
        });
        Some(fault)
    }

    fn latency(&self, operation: Operation, fault: Option<Fault>) -> Duration {
        let range = self.with(|inner| inner.options.latency(operation).clone());
        let (low, high) = (range.start().as_nanos() as u64, range.end().as_nanos() as u64);
        let drawn = executor::world().disk_random(|random| random.between(low, high));
        let stall = match fault {
            Some(Fault::Stall(stall)) => stall,
            _ => Duration::ZERO,
        };
        Duration::from_nanos(drawn) + stall
    }

    /// Has the effect after `latency`, whether or not the caller still waits.
    async fn finish<T: 'static>(
        &self,
        latency: Duration,
        effect: impl FnOnce(&mut Inner) -> io::Result<T> + 'static,
    ) -> io::Result<T> {
        let completion = Rc::new(RefCell::new(Completion { result: None, waker: None }));
        let world = executor::world();
        let at_ns = world.now_ns().saturating_add(latency.as_nanos() as u64);
        let run = executor::run_number();
        let (disk, done) = (self.clone(), Rc::clone(&completion));
        let call = move |key| {
            if disk.is_crashed() {
                return;
            }
            let result = disk.with(|inner| {
                inner.in_flight.remove(&(run, key));
                effect(inner)
            });
            let waker = {
                let mut done = done.borrow_mut();
                done.result = Some(result);
                done.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        let key = world.timer_add(at_ns, Due::Call(Box::new(call)));
        self.with(|inner| inner.in_flight.insert((run, key)));
        drop(world);
        std::future::poll_fn(|context| {
            let mut completion = completion.borrow_mut();
            match completion.result.take() {
                Some(result) => Poll::Ready(result),
                None => {
                    completion.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

struct Completion<T> {
    result: Option<io::Result<T>>,
    waker: Option<Waker>,
}

impl Inner {
    /// The number of the operation issued now; None when the power is lost.
    fn count(&mut self, operation: Operation) -> Option<u64> {
        if self.crashed {
            return None;
        }
        if operation == Operation::Read {
            return Some(0);
        }
        self.operation_count += 1;
        if self.crash_at == Some(self.operation_count) {
            self.crashed = true;
            journal::note(|| format!("power lost at operation {}", self.operation_count));
            return None;
        }
        Some(self.operation_count)
    }

    fn next_change(&mut self) -> u64 {
        self.change_count += 1;
        self.change_count
    }

    fn issue_write(&mut self, node: Inode, position: u64, data: Slice) -> io::Result<ChangeId> {
        let id = self.next_change();
        self.tree.file_mut(node)?.issue(id, ChangeKind::Write { position, data });
        Ok(id)
    }

    /// A write that fails has stored some of its sectors.
    fn write_torn(&mut self, node: Inode, position: u64, data: &Slice) -> io::Result<()> {
        let mut start = 0;
        while start < data.len() {
            let end = (start + SECTOR_SIZE as usize).min(data.len());
            if executor::world().chaos_random(|random| random.one_in(2)) {
                let sector = data.slice(start..end);
                let id = self.issue_write(node, position + start as u64, sector)?;
                self.tree.file_mut(node)?.complete(id);
            }
            start = end;
        }
        Ok(())
    }

    /// What a read finds wrong with the medium, or with the way to it.
    fn meet_damage(
        &mut self,
        node: Inode,
        position: u64,
        len: u64,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        if let Some(Fault::Error(errno)) = fault {
            return Err(error(errno));
        }
        let file = self.tree.file_mut(node)?;
        let end = position.saturating_add(len).min(file.visible.len());
        if position >= end {
            return Ok(());
        }
        let world = executor::world();
        let somewhere = || world.chaos_random(|random| random.between(position, end - 1));
        match fault {
            Some(Fault::LatentSector) => {
                file.unreadable.insert(somewhere() / SECTOR_SIZE);
                self.faults.counters.latent_sectors += 1;
            }
            Some(Fault::BitFlip) => {
                let bit = world.chaos_random(|random| random.below(8));
                file.flip_bit(somewhere(), bit as u32);
                self.faults.counters.bit_flips += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn room_for(&mut self, added: u64) -> io::Result<()> {
        if self.tree.used_bytes().saturating_add(added) > self.options.capacity_bytes {
            self.faults.counters.no_space += 1;
            return Err(error(ENOSPC));
        }
        Ok(())
    }

    fn resize(&mut self, node: Inode, len: u64) -> io::Result<()> {
        let len_before = self.tree.file(node)?.visible.len();
        if len > len_before {
            self.room_for(len - len_before)?;
        }
        let id = self.next_change();
        let file = self.tree.file_mut(node)?;
        file.issue(id, ChangeKind::SetLen(len));
        file.complete(id);
        Ok(())
    }

    /// Where and what a write really stores.
    fn placed(
        &mut self,
        node: Inode,
        position: u64,
        data: Slice,
        fault: Option<Fault>,
    ) -> io::Result<(u64, Slice)> {
        let file_len = self.tree.file(node)?.visible.len();
        let end = position + data.len() as u64;
        if end > file_len {
            self.room_for(end - file_len)?;
        }
        let world = executor::world();
        match fault {
            Some(Fault::Short) => {
                let sectors = (data.len() as u64).div_ceil(SECTOR_SIZE);
                let kept = world.disk_random(|random| random.below(sectors)) * SECTOR_SIZE;
                Ok((position, data.slice(0..kept as usize)))
            }
            Some(Fault::Misdirected) => {
                let blocks = file_len.max(end) / crate::BLOCK_SIZE as u64;
                let block = world.disk_random(|random| random.below(blocks.max(1)));
                Ok((block * crate::BLOCK_SIZE as u64, data))
            }
            _ => Ok((position, data)),
        }
    }
}

impl DiskOptions {
    fn latency(&self, operation: Operation) -> &RangeInclusive<Duration> {
        match operation {
            Operation::Read => &self.read_latency,
            Operation::Write => &self.write_latency,
            Operation::Flush => &self.flush_latency,
            _ => &self.name_latency,
        }
    }
}

/// Four lanes, because one would wait for its own multiplication at every word.
fn hash_bytes(bytes: &[u8]) -> u64 {
    let mut lanes = [1, 2, 3, 4];
    let (groups, rest) = bytes.as_chunks::<{ 4 * size_of::<u64>() }>();
    for group in groups {
        for (lane, word) in lanes.iter_mut().zip(group.as_chunks::<8>().0) {
            *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(HASH_PRIME).rotate_left(29);
        }
    }
    let hash = lanes.into_iter().fold(bytes.len() as u64, |hash, lane| mix(hash ^ lane));
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(HASH_PRIME);
    mix(rest.iter().fold(hash, add))
}

const HASH_PRIME: u64 = 0x9fb2_1c65_1e98_df25;
