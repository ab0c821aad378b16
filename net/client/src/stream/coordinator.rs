//! Requests to the coordinator of a group, wherever it is by now.
//!
//! Owns: who coordinated last. Must never: send what may not be carried out twice.

use std::time::Duration;

use barrage_model::{GroupId, Offset, PartitionKey, TopicId};
use barrage_wire::{
    ErrorCode, ErrorReply, GroupKind, Request, ResetTo, Response, Stored, StreamCommit,
    StreamCommitter, StreamDescribe, StreamDescription, StreamHeartbeat, StreamHeartbeatReply,
    StreamLeave, StreamMember, StreamOffset, StreamOffsets, StreamReset,
};

use tokio::time::Instant;

use crate::client::{Answer, Client, Effect, Whom};
use crate::error::ClientError;

/// Nodes that were away may not know a group yet: so long it may be unknown to all that answer.
const OPENING: Duration = Duration::from_secs(1);
const OPENING_PAUSE: Duration = Duration::from_millis(100);
/// Partitions in one request, at most: what a server takes.
const PARTITIONS_MAX: usize = 1_000;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    client: Client,
    group: GroupId,
    server: Option<String>,
    /// So long one request may take; else as long as any.
    limit: Option<Duration>,
}

impl Coordinator {
    pub(super) const fn new(client: Client, group: GroupId) -> Self {
        Self { client, group, server: None, limit: None }
    }

    /// The stream group of this name, and that it is one of all these topics.
    pub(super) async fn find(
        client: &Client,
        topics: &[&str],
        name: &str,
    ) -> Result<Self, ClientError> {
        let refused = |code, message| ClientError::Refused(ErrorReply::new(code, message));
        let mut found: Option<GroupId> = None;
        for topic in topics {
            let group = client.group(topic, name, None).await?;
            let GroupKind::Stream { .. } = group.kind else {
                let message = format!("group {name} of {topic} is a queue group, no stream group");
                return Err(refused(ErrorCode::InvalidArgument, message));
            };
            if found.is_some_and(|found| found != group.group) {
                let message = format!("group {name} was made again meanwhile");
                return Err(refused(ErrorCode::UnknownGroup, message));
            }
            found = Some(group.group);
        }
        match found {
            Some(group) => Ok(Self::new(client.clone(), group)),
            None => Err(ClientError::InvalidOption {
                name: "topics",
                problem: "needs at least one topic".to_owned(),
            }),
        }
    }

    /// No request takes longer than this.
    pub(super) fn within(self, limit: Duration) -> Self {
        Self { limit: Some(limit), ..self }
    }

    pub(super) const fn group(&self) -> GroupId {
        self.group
    }

    pub(super) async fn heartbeat(
        &mut self,
        member: StreamMember,
        beat: barrage_wire::StreamBeat,
    ) -> Result<StreamHeartbeatReply, ClientError> {
        let group = self.group;
        let request = Request::StreamHeartbeat(StreamHeartbeat { group, member, beat });
        let answer = self.ask(&request).await?;
        match answer.decode()? {
            Response::StreamHeartbeat(reply) => Ok(reply),
            _ => Err(answer.wrong()),
        }
    }

    /// Whom the group does not know has left it: the answer to the first leave may be lost.
    pub(super) async fn leave(&mut self, member: StreamMember) -> Result<(), ClientError> {
        let request = Request::StreamLeave(StreamLeave { group: self.group, member });
        let answer = match self.ask(&request).await {
            Ok(answer) => answer,
            Err(error) if error.code() == Some(ErrorCode::UnknownMember) => return Ok(()),
            Err(error) => return Err(error),
        };
        match answer.decode()? {
            Response::StreamLeave => Ok(()),
            _ => Err(answer.wrong()),
        }
    }

    /// Stores offsets; one result for each.
    pub(super) async fn commit(
        &mut self,
        committer: Option<StreamCommitter>,
        offsets: Vec<StreamOffset>,
    ) -> Result<Vec<Stored>, ClientError> {
        let mut results = Vec::with_capacity(offsets.len());
        for chunk in offsets.chunks(PARTITIONS_MAX) {
            let (group, committer) = (self.group, committer.clone());
            let commit = StreamCommit { group, committer, offsets: chunk.to_vec() };
            let answer = self.ask(&Request::StreamCommit(commit)).await?;
            match answer.decode()? {
                Response::StreamCommit(reply) if reply.results.len() == chunk.len() => {
                    results.extend(reply.results);
                }
                _ => return Err(answer.wrong()),
            }
        }
        Ok(results)
    }

    /// What is stored of these partitions.
    pub(super) async fn offsets(
        &mut self,
        keys: &[PartitionKey],
    ) -> Result<Vec<StreamOffset>, ClientError> {
        let mut offsets = Vec::new();
        for chunk in keys.chunks(PARTITIONS_MAX) {
            let request = StreamOffsets { group: self.group, keys: chunk.to_vec() };
            let answer = self.ask(&Request::StreamOffsets(request)).await?;
            match answer.decode()? {
                Response::StreamOffsets(reply) => offsets.extend(reply.offsets),
                _ => return Err(answer.wrong()),
            }
        }
        Ok(offsets)
    }

    /// Sets offsets; one result for each.
    pub(super) async fn reset(
        &mut self,
        to: &[(PartitionKey, Offset)],
    ) -> Result<Vec<Stored>, ClientError> {
        let mut results = Vec::with_capacity(to.len());
        for chunk in to.chunks(PARTITIONS_MAX) {
            let to = chunk.iter().map(|(key, offset)| ResetTo { key: *key, offset: *offset });
            let request = StreamReset { group: self.group, to: to.collect() };
            let answer = self.ask(&Request::StreamReset(request)).await?;
            match answer.decode()? {
                Response::StreamReset(reply) => results.extend(reply.results),
                _ => return Err(answer.wrong()),
            }
        }
        Ok(results)
    }

    pub(super) async fn describe(
        &mut self,
        topic: TopicId,
    ) -> Result<StreamDescription, ClientError> {
        let request = Request::StreamDescribe(StreamDescribe { group: self.group, topic });
        let answer = self.ask(&request).await?;
        match answer.decode()? {
            Response::StreamDescribe(description) => Ok(description),
            _ => Err(answer.wrong()),
        }
    }

    async fn ask(&mut self, request: &Request<'_>) -> Result<Answer, ClientError> {
        let began = Instant::now();
        loop {
            let doubted = Some(ErrorCode::UnknownGroup);
            let first = self.server.take();
            let whom = Whom { first: first.clone(), doubted, ..Whom::default() };
            // Every request to a group may be carried out twice: members name themselves.
            let asked = self.client.ask_whom(request, Effect::None, whom);
            let answer = match self.limit {
                None => asked.await,
                Some(limit) => tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
                    let server = first.unwrap_or_else(|| "the group's coordinator".to_owned());
                    Err(ClientError::RequestTimeout { server, limit })
                }),
            };
            match answer {
                Ok(answer) => {
                    self.server = Some(answer.server.clone());
                    return Ok(answer);
                }
                Err(error)
                    if error.code() == Some(ErrorCode::UnknownGroup)
                        && began.elapsed() < OPENING =>
                {
                    tokio::time::sleep(OPENING_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
