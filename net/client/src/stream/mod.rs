//! Stream groups: members share the partitions of topics, and an offset is stored for each.
//!
//! ```text
//!  next --> records of the partitions that are ours, read ahead by a task each
//!    |        what was given before this call is done, and stored every now and then
//!    +-- a partition is to be given up: what was done of it is stored, then it is let go
//! ```
//! Guarantees
//! - A partition is read by one member at a time, in order, from what is stored.
//! - At least once: a record counts as done when the next one is asked for, or by
//!   [`StreamConsumer::commit`], and not before. What a member has read and not stored when it is
//!   lost, somebody reads again.
//! - What a lost member has read is never stored: the group knows its generations.
//!
//! ```no_run
//! # async fn example(client: barrage_client::Client) -> Result<(), Box<dyn std::error::Error>> {
//! use barrage_client::StreamOptions;
//!
//! let mut consumer = client.stream(&["orders"], "billing", StreamOptions::default()).await?;
//! loop {
//!     let record = consumer.next().await?;
//!     println!("{} {}: {:?}", record.topic, record.record.partition, record.record.value);
//! #   break;
//! }
//! consumer.close().await?;
//! # Ok(())
//! # }
//! ```

mod coordinator;
mod group;
mod membership;
mod share;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{At, Standing, StreamMember, StreamReads};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::coordinator::Coordinator;
pub use self::group::{GroupMember, GroupPartition, GroupState, StreamGroup};
use self::membership::{Fetched, Membership, is_final, lost, new_id};
use self::share::{Share, Slot, Terms};
use crate::client::Client;
use crate::consumer::{FetchOptions, FetchedBatch, fetch_limits};
use crate::error::ClientError;
use crate::options::{From, StreamOptions};
use crate::queue::Record;
use crate::route::Routes;

/// A batch of one of the topics.
#[derive(Clone, Debug)]
pub struct StreamBatch {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The batch.
    pub batch: FetchedBatch,
}

/// A record of one of the topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The record.
    pub record: Record,
}

/// A member of a stream group. Dropping it stops reading; the group waits for the rest of its
/// session, which [`Self::close`] spares the others.
#[derive(Debug)]
pub struct StreamConsumer {
    membership: Arc<Membership>,
    names: BTreeMap<barrage_model::TopicId, Arc<str>>,
    fetched: mpsc::Receiver<Fetched>,
    batches: VecDeque<(PartitionKey, Slot, FetchedBatch)>,
    records: VecDeque<(PartitionKey, Slot, Record)>,
    tasks: JoinSet<()>,
}

impl StreamConsumer {
    pub(crate) async fn open(
        client: &Client,
        topics: &[&str],
        group: &str,
        options: StreamOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let coordinator = Coordinator::find(client, topics, group).await?;
        let (mut routes, mut names) = (BTreeMap::new(), BTreeMap::new());
        let mut partition_count: usize = 0;
        for topic in topics {
            let found = Routes::resolve(client, topic).await?;
            let id = found.key(barrage_model::PartitionId(0)).topic;
            partition_count += found.partition_count() as usize;
            routes.insert(id, Arc::new(found));
            names.insert(id, Arc::from(*topic));
        }
        let limits = fetch_limits(client, partition_count, options.fetch_wait).await?;
        let fetch = FetchOptions {
            bytes_max: options.fetch_bytes_max,
            wait: limits.wait,
            reconnect_timeout: options.reconnect_timeout,
        };
        let member = StreamMember { id: new_id(), instance: options.instance.clone() };
        let reads =
            StreamReads { topics: routes.keys().copied().collect(), assignor: options.assignor };
        let milliseconds =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let terms = Terms {
            reads,
            session_ms: milliseconds(options.session),
            rebalance_ms: milliseconds(options.rebalance),
        };
        let (sender, fetched) = mpsc::channel(options.prefetch_max);
        let commit_every = options.commit_every;
        let membership = Arc::new(Membership::new(
            options,
            routes,
            Share::new(member, terms),
            coordinator,
            (fetch, limits.permits),
            sender,
        ));
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&membership).keep_alive());
        tasks.spawn(Arc::clone(&membership).keep_watch());
        if let Some(every) = commit_every {
            tasks.spawn(Arc::clone(&membership).keep_committing(every));
        }
        let (batches, records) = (VecDeque::new(), VecDeque::new());
        Ok(Self { membership, names, fetched, batches, records, tasks })
    }

    /// The next record; waits for it. Whoever calls is done with all that came before, unless
    /// offsets are stored by hand. Cancel-safe.
    ///
    /// # Errors
    /// The member was fenced, the group is gone, or a partition is damaged: then every later call
    /// fails, too. Nobody answers for a partition, or its topic is gone: the next call goes on with
    /// the others, and with this one once that is over.
    pub async fn next(&mut self) -> Result<StreamRecord, ClientError> {
        self.poll().await?;
        loop {
            while let Some((key, slot, record)) = self.records.pop_front() {
                let end = Offset(record.offset.0 + 1);
                if self.membership.share().hand_out(key, slot, end) {
                    return Ok(StreamRecord { topic: self.name(key), record });
                }
            }
            let (key, slot, batch) = self.fetch().await?;
            if let Err(error) = self.open_batch(key, slot, &batch) {
                // What comes after it would be stored as if it had been read, too.
                self.membership.fail(error.clone());
                return Err(error);
            }
        }
    }

    /// The next batch; as [`Self::next`], and not to be mixed with it: a batch that was begun there
    /// is not given here.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn next_batch(&mut self) -> Result<StreamBatch, ClientError> {
        self.poll().await?;
        loop {
            let (key, slot, batch) = self.fetch().await?;
            if self.membership.share().hand_out(key, slot, batch.end) {
                return Ok(StreamBatch { topic: self.name(key), batch });
            }
        }
    }

    /// Stores how far records were handed out: the program is done with them.
    ///
    /// # Errors
    /// Nobody answers, or the member was lost since, or one of its partitions went to another one:
    /// then that is not stored, and somebody reads it again.
    pub async fn commit(&self) -> Result<(), ClientError> {
        self.membership.share().finish();
        self.membership.commit().await?;
        if self.membership.share().take_unstored() { Err(lost()) } else { Ok(()) }
    }

    /// The partitions that are read by this member now.
    #[must_use]
    pub fn partitions(&self) -> Vec<PartitionKey> {
        self.membership.share().positions().into_iter().map(|(key, _)| key).collect()
    }

    /// How many records there are in this member's partitions that were not handed out; `None`
    /// while partitions move between members.
    ///
    /// # Errors
    /// Somebody who must be asked does not answer.
    pub async fn lag(&self) -> Result<Option<u64>, ClientError> {
        let Some(topic) = self.names.keys().next() else { return Ok(None) };
        // What is ours comes by heartbeats: none of them comes between the two looks.
        let mut coordinator = self.membership.coordinator.lock().await;
        let state = coordinator.describe(*topic).await?;
        let (is_member, positions) = {
            let share = self.membership.share();
            (share.is_member(), share.positions())
        };
        drop(coordinator);
        if state.standing != Standing::Stable || !is_member {
            return Ok(None);
        }
        let mut lag = 0;
        for (key, position) in positions {
            let Some(routes) = self.membership.topics.get(&key.topic) else { continue };
            let Some(position) = position else { return Ok(None) };
            let bounds = routes.list_offset(key.partition, At::End).await?;
            // What retention dropped is nothing to wait for.
            let from = position.max(bounds.start_offset);
            lag += bounds.offset.0.saturating_sub(from.0);
        }
        Ok(Some(lag))
    }

    /// Stores what was handed out, unless that is done by hand, and leaves the group.
    ///
    /// # Errors
    /// It could not be stored, or nobody answers: then the group waits for the session's end.
    pub async fn close(mut self) -> Result<(), ClientError> {
        // No heartbeat comes after the leave: it would make a member anew. One that is not answered
        // is not waited for.
        self.tasks.shutdown().await;
        let stored = match self.membership.options.commit_every {
            Some(_) => {
                self.membership.share().finish();
                self.membership.commit().await
            }
            None => Ok(()),
        };
        self.membership.stop();
        let mut coordinator = self.membership.coordinator.lock().await;
        let (member, is_announced) = {
            let share = self.membership.share();
            (share.member(), share.is_announced())
        };
        let left = match is_announced {
            true => coordinator.leave(member).await,
            false => Ok(()),
        };
        stored.and(left)
    }

    /// The program is done with what it was given; what is to be given up is.
    async fn poll(&mut self) -> Result<(), ClientError> {
        if self.membership.options.commit_every.is_some() {
            self.membership.share().finish();
        }
        self.give_up().await
    }

    async fn give_up(&mut self) -> Result<(), ClientError> {
        if let Some(failure) = self.membership.failure() {
            return Err(failure);
        }
        if self.membership.share().must_give_up() {
            if self.membership.options.commit_every.is_some() {
                // What cannot be stored is read again by the next owner.
                drop(self.membership.commit().await);
            }
            self.membership.let_go();
        }
        Ok(())
    }

    /// The next batch of a partition that is ours.
    async fn fetch(&mut self) -> Result<(PartitionKey, Slot, FetchedBatch), ClientError> {
        loop {
            while let Some((key, slot, batch)) = self.batches.pop_front() {
                if self.membership.share().is_own(key, slot) {
                    return Ok((key, slot, batch));
                }
            }
            tokio::select! {
                fetched = self.fetched.recv() => match fetched {
                    Some(Fetched { key, slot, what: Ok(batches) }) => {
                        let batches = batches.into_iter().map(|batch| (key, slot, batch));
                        self.batches.extend(batches);
                    }
                    Some(Fetched { key, slot, what: Err(error) }) => {
                        if !self.membership.share().is_own(key, slot) {
                            continue;
                        }
                        if is_final(&error) {
                            // Nobody reads this partition while the member has it.
                            self.membership.fail(error.clone());
                        }
                        return Err(error);
                    }
                    None => return Err(ClientError::Closed),
                },
                () = self.membership.news.notified() => self.give_up().await?,
            }
        }
    }

    fn open_batch(
        &mut self,
        key: PartitionKey,
        slot: Slot,
        batch: &FetchedBatch,
    ) -> Result<(), ClientError> {
        for record in &batch.records()? {
            let record = record?;
            if batch.wants(record.offset) {
                let record = Record::copy(batch.partition, &record);
                self.records.push_back((key, slot, record));
            }
        }
        Ok(())
    }

    fn name(&self, key: PartitionKey) -> Arc<str> {
        self.names.get(&key.topic).map_or_else(|| Arc::from(""), Arc::clone)
    }
}

impl Drop for StreamConsumer {
    fn drop(&mut self) {
        self.membership.stop();
    }
}

impl Client {
    /// A member of a stream group, reading these topics of it.
    ///
    /// # Errors
    /// A topic is unknown or none of the group's, an option makes no sense, or no server answers.
    pub async fn stream(
        &self,
        topics: &[&str],
        group: &str,
        options: StreamOptions,
    ) -> Result<StreamConsumer, ClientError> {
        StreamConsumer::open(self, topics, group, options).await
    }

    /// A stream group of a topic, to look at and to reset.
    ///
    /// # Errors
    /// The topic or the group is unknown, or no server answers.
    pub async fn stream_group(&self, topic: &str, name: &str) -> Result<StreamGroup, ClientError> {
        StreamGroup::open(self, topic, name).await
    }
}

/// The place that is meant.
fn place_of(from: From) -> At {
    match from {
        From::Start => At::Start,
        From::End | From::Offset(_) => At::End,
        From::Time(milliseconds) => At::Time(milliseconds),
    }
}
