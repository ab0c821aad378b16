//! Being a member: heartbeats, what follows from their answers, commits.
//!
//! ```text
//!   heartbeat --told--> new partitions: stored offsets --> a reader each --> records
//!       |                to give up: readers end; the next poll commits and lets go --> heartbeat
//!       +--unknown--> everything is let go, and it joins anew
//!       +--not answered for most of a session--> everything is let go, and it joins again
//!       +--fenced, group gone--> the consumer fails
//! ```
//!
//! Owns: the tasks. Must never: commit what a lost member has read; let a heartbeat and a commit
//! cross: a commit bears the generation that the coordinator was told of last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use barrage_model::{Offset, PartitionKey, TopicId};
use barrage_wire::{At, ErrorCode, ErrorReply, Stored, StreamOffset};
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::coordinator::Coordinator;
use super::place_of;
use super::share::{Begin, Changed, Share, Slot};
use crate::consumer::{Cursor, FetchOptions, FetchedBatch, Message, Reader};
use crate::error::{ClientError, ErrorKind};
use crate::options::StreamOptions;
use crate::pause::{Pause, about, random};
use crate::route::Routes;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A commit that came too late for its generation is tried again after a heartbeat.
const COMMIT_ATTEMPTS_MAX: u32 = 3;
/// A request to the coordinator takes at most this part of a session, so that one that hangs does
/// not keep heartbeats from being sent; but that long in any case.
const SESSION_PARTS: u32 = 3;
const REQUEST_LIMIT_MIN: Duration = Duration::from_secs(1);
/// After so many parts of a session without an answer a member reads nothing any more: the rest is
/// for clocks that differ, and for the program to be done with what it has.
const PARTS_UNHEARD_MAX: u32 = 2;
const _: () = assert!(PARTS_UNHEARD_MAX < SESSION_PARTS);

/// What readers bring.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) key: PartitionKey,
    pub(super) slot: Slot,
    pub(super) what: Result<Vec<FetchedBatch>, ClientError>,
}

/// What the consumer and its tasks share.
#[derive(Debug)]
pub(super) struct Membership {
    pub(super) options: StreamOptions,
    pub(super) topics: BTreeMap<TopicId, Arc<Routes>>,
    pub(super) share: Mutex<Share>,
    /// Held while the coordinator is asked for something that bears the generation.
    pub(super) coordinator: tokio::sync::Mutex<Coordinator>,
    /// When the last heartbeat was sent that was answered.
    heard: Mutex<Instant>,
    failure: Mutex<Option<ClientError>>,
    /// Something happened that the consumer looks at.
    pub(super) news: Notify,
    /// The next heartbeat is due at once.
    hurry: Notify,
    fetched: mpsc::Sender<Fetched>,
    fetch: FetchOptions,
    permits: Arc<Semaphore>,
    tasks: Mutex<JoinSet<()>>,
    readers: Mutex<BTreeMap<Slot, AbortHandle>>,
}

impl Membership {
    pub(super) fn new(
        options: StreamOptions,
        topics: BTreeMap<TopicId, Arc<Routes>>,
        share: Share,
        coordinator: Coordinator,
        (fetch, permits): (FetchOptions, usize),
        fetched: mpsc::Sender<Fetched>,
    ) -> Self {
        let limit = REQUEST_LIMIT_MIN.max(options.session / SESSION_PARTS);
        Self {
            options,
            topics,
            share: Mutex::new(share),
            coordinator: tokio::sync::Mutex::new(coordinator.within(limit)),
            heard: Mutex::new(Instant::now()),
            failure: Mutex::new(None),
            news: Notify::new(),
            hurry: Notify::new(),
            fetched,
            fetch,
            permits: Arc::new(Semaphore::new(permits)),
            tasks: Mutex::new(JoinSet::new()),
            readers: Mutex::new(BTreeMap::new()),
        }
    }

    pub(super) fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the consumer cannot go on, if so.
    pub(super) fn failure(&self) -> Option<ClientError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all readers.
    pub(super) fn stop(&self) {
        self.tasks().abort_all();
    }

    /// Sends heartbeats until the member is fenced or the group is gone.
    pub(super) async fn keep_alive(self: Arc<Self>) {
        let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
        loop {
            let wait = match self.beat().await {
                Ok(interval) => {
                    pause.reset();
                    interval
                }
                Err(error) if !error.is_retriable() => return self.fail(error),
                Err(_) => pause.next(),
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    /// Lets everything go before others are given it, while no heartbeat is answered.
    pub(super) async fn keep_watch(self: Arc<Self>) {
        let part = PAUSE_MIN.max(self.options.session / SESSION_PARTS);
        loop {
            let due = *self.heard() + part * PARTS_UNHEARD_MAX;
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
                continue;
            }
            if self.share().is_member() {
                let closed = self.share().handle_cut_off();
                self.close(closed);
                self.news.notify_one();
            }
            // What is answered by then was sent lately: no request takes longer than a part.
            tokio::time::sleep(part).await;
        }
    }

    /// Commits what the program is done with, again and again.
    pub(super) async fn keep_committing(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            // What cannot be stored now is stored the next time, or read again by somebody.
            drop(self.commit().await);
        }
    }

    /// One heartbeat, and what follows from its answer; how long to wait with the next.
    async fn beat(self: &Arc<Self>) -> Result<Duration, ClientError> {
        let mut coordinator = self.coordinator.lock().await;
        self.beat_with(&mut coordinator).await
    }

    async fn beat_with(
        self: &Arc<Self>,
        coordinator: &mut Coordinator,
    ) -> Result<Duration, ClientError> {
        let (member, says) = {
            let mut share = self.share();
            (share.member(), share.says())
        };
        let sent = Instant::now();
        match coordinator.heartbeat(member, says).await {
            Ok(told) => {
                *self.heard() = sent;
                let changed = self.share().handle_told(told.generation, &told.own, &told.give_up);
                self.follow(changed);
                Ok(Duration::from_millis(u64::from(told.interval_ms)))
            }
            Err(error) => match error.code() {
                Some(ErrorCode::UnknownMember) => {
                    self.lose();
                    Ok(Duration::ZERO)
                }
                Some(ErrorCode::StaleGeneration) => {
                    self.share().rejoin();
                    Ok(PAUSE_MIN)
                }
                _ => Err(error),
            },
        }
    }

    fn follow(self: &Arc<Self>, changed: Changed) {
        let Changed { opened, closed, must_give_up } = changed;
        self.close(closed);
        if must_give_up {
            self.news.notify_one();
        }
        if !opened.is_empty() {
            let membership = Arc::clone(self);
            let mut tasks = self.tasks();
            while tasks.try_join_next().is_some() {}
            tasks.spawn(async move { membership.open(opened).await });
        }
    }

    fn lose(&self) {
        let closed = self.share().handle_lost(new_id());
        self.close(closed);
        self.news.notify_one();
    }

    fn close(&self, slots: Vec<Slot>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        for slot in slots {
            if let Some(reader) = readers.remove(&slot) {
                reader.abort();
            }
        }
    }

    /// Finds out where partitions begin, and reads them.
    async fn open(self: Arc<Self>, opened: Vec<(PartitionKey, Slot)>) {
        let keys: Vec<PartitionKey> = opened.iter().map(|(key, _)| *key).collect();
        let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
        let stored = loop {
            let found = self.coordinator.lock().await.offsets(&keys).await;
            match found {
                Ok(stored) => break stored,
                Err(error) if !error.is_retriable() => return self.fail(error),
                Err(_) => tokio::time::sleep(pause.next()).await,
            }
        };
        let stored: BTreeMap<PartitionKey, Offset> =
            stored.into_iter().map(|row| (row.key, row.offset)).collect();
        for (key, slot) in opened {
            if let Some(offset) = stored.get(&key) {
                self.read(key, slot, Begin::Stored(*offset));
                continue;
            }
            // Each for itself: one whose leader is gone keeps no other waiting.
            let membership = Arc::clone(&self);
            self.tasks().spawn(async move { membership.choose(key, slot).await });
        }
    }

    /// Finds out where a partition begins of which nothing is stored, and reads it; ends when it is
    /// not the member's any more.
    async fn choose(self: Arc<Self>, key: PartitionKey, slot: Slot) {
        let Some(routes) = self.topics.get(&key.topic) else { return };
        // All of a partition that was added meanwhile came after the end there was.
        let is_new = key.partition.0 >= routes.partition_count();
        let at = if is_new { At::Start } else { place_of(self.options.from) };
        let mut pause = Pause::new(PAUSE_MIN, PAUSE_MAX);
        while self.share().is_own(key, slot) {
            match routes.list_offset(key.partition, at).await {
                Ok(found) if at == At::End => {
                    if let Some(from) = self.keep_end(key, slot, found.offset).await {
                        return self.read(key, slot, Begin::Stored(from));
                    }
                    tokio::time::sleep(pause.next()).await;
                }
                Ok(found) => return self.read(key, slot, Begin::Chosen(found.offset)),
                Err(error) if !error.is_retriable() => {
                    let (is_final, what) = (is_final(&error), Err(error));
                    if self.fetched.send(Fetched { key, slot, what }).await.is_err() || is_final {
                        return;
                    }
                    tokio::time::sleep(about(PAUSE_MAX)).await;
                }
                Err(_) => tokio::time::sleep(pause.next()).await,
            }
        }
    }

    /// Stores the end of a partition as the place where the group begins, before anything behind it
    /// is read: whoever comes after this member would find another end, and what lies between would
    /// be nobody's. None if it is not stored now, or if the partition is another's.
    async fn keep_end(
        self: &Arc<Self>,
        key: PartitionKey,
        slot: Slot,
        offset: Offset,
    ) -> Option<Offset> {
        let mut coordinator = self.coordinator.lock().await;
        let committer = {
            let share = self.share();
            share.committer().filter(|_| share.is_own(key, slot))?
        };
        let row = StreamOffset { key, offset, leader_epoch: None, metadata: String::new() };
        match coordinator.commit(Some(committer), vec![row]).await {
            Ok(results) => match results.first() {
                Some(Stored::Done) => return Some(offset),
                Some(Stored::Behind { stored }) => return Some(*stored),
                _ => self.hurry.notify_one(),
            },
            Err(error) if error.code() == Some(ErrorCode::StaleGeneration) => {
                drop(self.beat_with(&mut coordinator).await);
            }
            // Heartbeats find out what has become of the member.
            Err(_) => self.hurry.notify_one(),
        }
        None
    }

    fn read(self: &Arc<Self>, key: PartitionKey, slot: Slot, begin: Begin) {
        let (Begin::Stored(offset) | Begin::Chosen(offset)) = begin;
        // Under one lock: a slot that is closed meanwhile finds its reader, or is found closed.
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.share().open(key, slot, begin) {
            let membership = Arc::clone(self);
            let task = async move { membership.keep_reading(key, slot, offset).await };
            readers.insert(slot, self.tasks().spawn(task));
        }
    }

    /// Reads a partition until its slot is closed. What ends a reader is told; unless that is final
    /// the next one goes on where it was: the member keeps the partition, and nobody else reads it.
    async fn keep_reading(&self, key: PartitionKey, slot: Slot, mut offset: Offset) {
        let Some(routes) = self.topics.get(&key.topic) else { return };
        loop {
            let (sender, messages) = mpsc::channel(1);
            let reader = Reader {
                routes: Arc::clone(routes),
                cursor: Cursor::new(key.partition, offset, None),
                options: self.fetch,
                permits: Arc::clone(&self.permits),
                messages: sender,
            };
            let pass_on = self.pass_on(key, slot, &mut offset, messages);
            let ((), is_over) = tokio::join!(reader.run(), pass_on);
            if is_over {
                return;
            }
            tokio::time::sleep(about(PAUSE_MAX)).await;
        }
    }

    /// Passes on what a reader brings until it ends; true if nobody wants more. `offset` is where
    /// it ended.
    async fn pass_on(
        &self,
        key: PartitionKey,
        slot: Slot,
        offset: &mut Offset,
        mut messages: mpsc::Receiver<Message>,
    ) -> bool {
        let mut is_over = false;
        while let Some(message) = messages.recv().await {
            let what = match message {
                Message::Batches(batches) => {
                    *offset = batches.last().map_or(*offset, |batch| batch.end);
                    Ok(batches)
                }
                Message::Failed(error) => {
                    is_over |= is_final(&error);
                    Err(error)
                }
                Message::Finished => continue,
            };
            if self.fetched.send(Fetched { key, slot, what }).await.is_err() {
                return true;
            }
        }
        is_over
    }

    /// Commits what the program is done with.
    pub(super) async fn commit(self: &Arc<Self>) -> Result<(), ClientError> {
        let mut coordinator = self.coordinator.lock().await;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            let (committer, offsets) = {
                let share = self.share();
                (share.committer(), share.to_commit())
            };
            if offsets.is_empty() {
                return Ok(());
            }
            // As one that is no member it would store what others read by now.
            let Some(committer) = committer else { return Err(lost()) };
            match coordinator.commit(Some(committer), offsets.clone()).await {
                Ok(results) => return self.handle_stored(&offsets, &results),
                Err(error) if error.code() == Some(ErrorCode::StaleGeneration) => {
                    self.beat_with(&mut coordinator).await?;
                }
                Err(error) => {
                    if error.code() == Some(ErrorCode::UnknownMember) {
                        self.lose();
                        self.hurry.notify_one();
                    }
                    return Err(error);
                }
            }
        }
        Err(lost())
    }

    fn handle_stored(
        &self,
        offsets: &[StreamOffset],
        results: &[Stored],
    ) -> Result<(), ClientError> {
        let mut refused = None;
        let mut share = self.share();
        for (row, result) in offsets.iter().zip(results) {
            match result {
                // Who is further than we stored that in our place.
                Stored::Done | Stored::Behind { .. } => share.committed(row.key, row.offset),
                other => refused = Some((row.key, *other)),
            }
        }
        drop(share);
        match refused {
            None => Ok(()),
            Some((key, why)) => {
                self.hurry.notify_one();
                let message = format!("the offset of partition {key} is not stored: {why:?}");
                let reply = ErrorReply::new(ErrorCode::StaleGeneration, message);
                Err(ClientError::Refused(reply))
            }
        }
    }

    /// Lets go of what is to be given up, committed or not, and says so.
    pub(super) fn let_go(&self) {
        if self.share().let_go() {
            self.hurry.notify_one();
        }
    }

    pub(super) fn fail(&self, error: ClientError) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
        drop(failure);
        self.news.notify_one();
    }

    fn heard(&self) -> MutexGuard<'_, Instant> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a partition whose reading ended so cannot be read on. One whose topic is gone is taken
/// away by the coordinator, who may hear of that later than its readers.
pub(super) fn is_final(error: &ClientError) -> bool {
    let is_gone =
        error.kind() == ErrorKind::NotFound || matches!(error, ClientError::TopicReplaced { .. });
    !error.is_retriable() && !is_gone
}

/// A member's id: nobody else draws the same.
pub(super) fn new_id() -> String {
    format!("{:016x}{:016x}", random(), random())
}

pub(super) fn lost() -> ClientError {
    let message = "the member was lost: its partitions are others', or will be read again";
    ClientError::Refused(ErrorReply::new(ErrorCode::UnknownMember, message))
}
