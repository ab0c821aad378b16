//! Delayed records: how long a record waits before it comes into its partition, and what can be
//! done about those that wait.

use std::time::Duration;

use barrage_model::{Offset, PartitionId};
use barrage_wire::{
    self as wire, DelayChange, DelayChanged, DelayList, DelayedFate, DelayedRecord, Request,
    Response,
};

use crate::client::Client;
use crate::error::ClientError;
use crate::leader::{self, Terms};
use crate::route::Routes;

/// From when on a record is to be had. Until then it has an id, and no offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// After so long, counted from when the server takes it up.
    For(Duration),
    /// From this instant on, in milliseconds since 1970, by the server's clock.
    Until(u64),
}

impl Delay {
    /// Begins the times of a batch with this one.
    pub(crate) fn begin(self) -> wire::Delay {
        match self {
            Self::For(time) => wire::Delay::After(vec![milliseconds(time)]),
            Self::Until(due_ms) => wire::Delay::At(vec![due_ms]),
        }
    }

    /// Adds this time to those of a batch, if they are of a kind.
    pub(crate) fn add_to(self, times: &mut wire::Delay) -> bool {
        match (self, times) {
            (Self::For(time), wire::Delay::After(times)) => times.push(milliseconds(time)),
            (Self::Until(due_ms), wire::Delay::At(times)) => times.push(due_ms),
            _ => return false,
        }
        true
    }
}

/// The times of a batch that holds no more: one is enough where all are the same.
pub(crate) fn finished(mut times: wire::Delay) -> wire::Delay {
    let (wire::Delay::At(all) | wire::Delay::After(all)) = &mut times;
    if all.iter().all(|one| all.first() == Some(one)) {
        all.truncate(1);
    }
    times
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Names a delayed record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DelayedId {
    /// The partition it is to come to.
    pub partition: PartitionId,
    /// Its number among the delayed records of that partition.
    pub id: Offset,
}

impl std::fmt::Display for DelayedId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}:{}", self.partition, self.id)
    }
}

impl std::str::FromStr for DelayedId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (partition, id) = text.split_once(':')?;
            Some(Self { partition: partition.parse().ok()?, id: id.parse().ok()? })
        };
        parse().ok_or_else(|| format!("{text:?} is not PARTITION:ID, as in 0:17"))
    }
}

/// What is to become of delayed records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nobody gets them.
    Cancel,
    /// They wait until then instead.
    Reschedule(Delay),
}

/// Why a delayed record is not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// It came into its partition, or was cancelled.
    #[error("it does not wait any more: it was released or cancelled")]
    Gone,
    /// It does not wait any more; perhaps because of an earlier attempt of which no answer came.
    #[error("it does not wait any more; an attempt that was not answered may have cancelled it")]
    Unclear,
    /// There never was one.
    #[error("there is no delayed record of this id")]
    Unknown,
    /// Nobody could be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// What waits in a partition.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// How many records.
    pub count: u64,
    /// Some of them with the instant in milliseconds since 1970, the oldest ones first.
    pub oldest: Vec<(DelayedId, u64)>,
}

/// As many as a server takes at once.
const IDS_PER_REQUEST: usize = 10_000;

/// The delayed records of a topic.
#[derive(Debug)]
pub struct DelayedRecords {
    routes: Routes,
    patience: Duration,
}

impl Client {
    /// The delayed records of a topic: to cancel, to move, to list.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn delayed(&self, topic: &str) -> Result<DelayedRecords, ClientError> {
        let routes = Routes::resolve(self, topic).await?;
        Ok(DelayedRecords { routes, patience: self.pool().options().request_timeout })
    }
}

impl DelayedRecords {
    /// How many partitions the topic has.
    #[must_use]
    pub fn partition_count(&self) -> u32 {
        self.routes.partition_count()
    }

    /// Cancels or moves records; what came of each, in their order. What is answered with `Ok` is
    /// durable: who is cancelled never comes.
    pub async fn change(&self, ids: &[DelayedId], change: Change) -> Vec<Result<(), ChangeError>> {
        let mut results: Vec<Option<Result<(), ChangeError>>> = vec![None; ids.len()];
        let mut partitions: Vec<PartitionId> = ids.iter().map(|id| id.partition).collect();
        partitions.sort_unstable();
        partitions.dedup();
        for partition in partitions {
            let own = ids.iter().enumerate().filter(|(_, id)| id.partition == partition);
            let own: Vec<(usize, Offset)> = own.map(|(place, id)| (place, id.id)).collect();
            for some in own.chunks(IDS_PER_REQUEST) {
                let ids = some.iter().map(|(_, id)| *id).collect();
                let told = match self.change_in(partition, ids, change).await {
                    Ok(told) => told,
                    Err(error) => vec![Err(ChangeError::Client(error)); some.len()],
                };
                for ((place, _), result) in some.iter().zip(told) {
                    if let Some(slot) = results.get_mut(*place) {
                        *slot = Some(result);
                    }
                }
            }
        }
        let missing = || Err(ChangeError::Unknown);
        results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
    }

    async fn change_in(
        &self,
        partition: PartitionId,
        ids: Vec<Offset>,
        change: Change,
    ) -> Result<Vec<Result<(), ChangeError>>, ClientError> {
        self.check(partition)?;
        let fate = match change {
            Change::Cancel => DelayedFate::Cancel,
            Change::Reschedule(Delay::For(time)) => DelayedFate::Postpone(milliseconds(time)),
            Change::Reschedule(Delay::Until(due_ms)) => DelayedFate::MoveTo(due_ms),
        };
        let key = self.routes.key(partition);
        let request = |_| Request::DelayChange(DelayChange { key, fate, ids: ids.clone() });
        let terms = Terms { wait: Duration::ZERO, patience: self.patience };
        let answer = leader::ask(&self.routes, partition, terms, request).await?;
        let Response::DelayChange(reply) = answer.decode()? else { return Err(answer.wrong()) };
        if reply.results.len() != ids.len() {
            return Err(answer.broken("not as many results as records".to_owned()));
        }
        let told = |result: DelayChanged| match result {
            DelayChanged::Done => Ok(()),
            DelayChanged::Gone if answer.is_repeated && change == Change::Cancel => {
                Err(ChangeError::Unclear)
            }
            DelayChanged::Gone => Err(ChangeError::Gone),
            DelayChanged::Unknown => Err(ChangeError::Unknown),
        };
        Ok(reply.results.into_iter().map(told).collect())
    }

    /// What waits in a partition; at most so many of the records are listed.
    ///
    /// # Errors
    /// There is no such partition, or it cannot be asked within the request timeout.
    pub async fn list(
        &self,
        partition: PartitionId,
        count_max: u32,
    ) -> Result<Waiting, ClientError> {
        self.check(partition)?;
        let key = self.routes.key(partition);
        let request = |_| Request::DelayList(DelayList { key, count_max });
        let terms = Terms { wait: Duration::ZERO, patience: self.patience };
        let answer = leader::ask(&self.routes, partition, terms, request).await?;
        let Response::DelayList(reply) = answer.decode()? else { return Err(answer.wrong()) };
        let row = |DelayedRecord { id, due_ms }| (DelayedId { partition, id }, due_ms);
        Ok(Waiting { count: reply.count, oldest: reply.oldest.into_iter().map(row).collect() })
    }

    fn check(&self, partition: PartitionId) -> Result<(), ClientError> {
        let partitions = self.routes.partition_count();
        match partition.0 < partitions {
            true => Ok(()),
            false => Err(ClientError::NoSuchPartition { partition, partitions }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_a_kind_share_a_batch() {
        let mut times = Delay::For(Duration::from_secs(1)).begin();
        assert!(Delay::For(Duration::from_millis(2)).add_to(&mut times));
        assert!(!Delay::Until(7).add_to(&mut times));
        assert_eq!(finished(times), wire::Delay::After(vec![1_000, 2]));
        assert_eq!(finished(wire::Delay::At(vec![7, 7, 7])), wire::Delay::At(vec![7]));
    }

    #[test]
    fn ids_are_read_as_they_are_told() {
        let id = DelayedId { partition: PartitionId(3), id: Offset(17) };
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in ["", "3", "3:", ":17", "a:1", "3:17:1"] {
            assert!(wrong.parse::<DelayedId>().is_err(), "{wrong}");
        }
    }
}
