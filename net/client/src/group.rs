//! Groups of a topic: made, changed, removed, listed.
//!
//! Owns: the words between the settings that programs hold and those on the wire. Must never: judge
//! them; the server does.

use barrage_model::{QueueSettings, TopicId, TopicName};
use barrage_wire::{
    ErrorCode, ErrorReply, GroupAlter, GroupCreate, GroupDelete, GroupList, GroupListReply,
    GroupSettings, GroupSummary, NewGroup, Request, Response,
};

use crate::client::{Client, Effect, Whom};
use crate::error::ClientError;
use crate::options::QueueOptions;
use crate::queue::{Begin, Queue};

impl Client {
    /// Makes a queue group; answered when every partition has it.
    ///
    /// # Errors
    /// The topic is unknown, the group exists, a name or a setting is not allowed, or no server
    /// answers.
    pub async fn create_group(
        &self,
        topic: &str,
        name: &str,
        settings: &QueueSettings,
        begin: Begin,
    ) -> Result<GroupSummary, ClientError> {
        let (topic, name) = (topic.to_owned(), name.to_owned());
        let at_end = begin == Begin::End;
        let kind = NewGroup::Queue { settings: on_the_wire(settings), at_end };
        self.make_group(GroupCreate { topic, name, kind }).await
    }

    /// Makes a stream group, or takes the topic into the stream group of this name. It begins where
    /// its members say, until something is stored: by a commit, or a reset.
    ///
    /// # Errors
    /// The topic is unknown, the group exists, a name is not allowed, or no server answers.
    pub async fn create_stream_group(
        &self,
        topic: &str,
        name: &str,
    ) -> Result<GroupSummary, ClientError> {
        let (topic, name) = (topic.to_owned(), name.to_owned());
        self.make_group(GroupCreate { topic, name, kind: NewGroup::Stream }).await
    }

    async fn make_group(&self, body: GroupCreate) -> Result<GroupSummary, ClientError> {
        let answer = self.ask(&Request::GroupCreate(body), Effect::Change).await?;
        match answer.decode()? {
            Response::GroupCreate(summary) => Ok(summary),
            _ => Err(answer.wrong()),
        }
    }

    /// Gives a queue group other settings; answered when every partition goes by them.
    ///
    /// # Errors
    /// The topic or the group is unknown, a setting is not allowed, or no server answers.
    pub async fn alter_group(
        &self,
        topic: &str,
        name: &str,
        settings: &QueueSettings,
    ) -> Result<GroupSummary, ClientError> {
        let (topic, name) = (topic.to_owned(), name.to_owned());
        let body = GroupAlter { topic, name, settings: on_the_wire(settings) };
        let answer = self.ask(&Request::GroupAlter(body), Effect::Change).await?;
        match answer.decode()? {
            Response::GroupAlter(summary) => Ok(summary),
            _ => Err(answer.wrong()),
        }
    }

    /// Removes a queue group, and what it has leased and settled; or takes the topic out of a
    /// stream group, which is gone with its last one. The records stay in the topic.
    ///
    /// # Errors
    /// The topic or the group is unknown, or no server answers.
    pub async fn delete_group(&self, topic: &str, name: &str) -> Result<(), ClientError> {
        let body = GroupDelete { topic: topic.to_owned(), name: name.to_owned() };
        let answer = self.ask(&Request::GroupDelete(body), Effect::Change).await?;
        match answer.decode()? {
            Response::GroupDelete => Ok(()),
            _ => Err(answer.wrong()),
        }
    }

    /// The groups of a topic, by name.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn list_groups(&self, topic: &str) -> Result<Vec<GroupSummary>, ClientError> {
        let (reply, _) = self.list_groups_from(topic, Whom::default()).await?;
        Ok(reply.groups)
    }

    /// The group of a topic by its name; of the topic with this id, if there is one to be.
    pub(crate) async fn group(
        &self,
        topic: &str,
        name: &str,
        id: Option<TopicId>,
    ) -> Result<GroupSummary, ClientError> {
        let mut whom = Whom::default();
        loop {
            let is_first = whom.last.is_empty();
            let (reply, server) = self.list_groups_from(topic, whom).await?;
            let is_same = id.is_none_or(|id| reply.topic == id);
            let found = reply.groups.into_iter().find(|group| is_same && group.name == name);
            match found {
                Some(group) => return Ok(group),
                // A node that was away may not know what the others know.
                None if is_first && self.pool().servers().len() > 1 => {
                    whom = Whom { last: vec![server], ..Whom::default() };
                }
                None => {
                    let message = format!("topic {topic} has no group {name}");
                    let reply = ErrorReply::new(ErrorCode::UnknownGroup, message);
                    return Err(ClientError::Refused(reply));
                }
            }
        }
    }

    /// The groups and who told them.
    pub(crate) async fn list_groups_from(
        &self,
        topic: &str,
        whom: Whom,
    ) -> Result<(GroupListReply, String), ClientError> {
        let request = Request::GroupList(GroupList { topic: topic.to_owned() });
        let answer = self.ask_whom(&request, Effect::None, whom).await?;
        match answer.decode()? {
            Response::GroupList(reply) => Ok((reply, answer.server)),
            _ => Err(answer.wrong()),
        }
    }

    /// A queue group of a topic, to receive from and to settle.
    ///
    /// # Errors
    /// The topic or the group is unknown, an option makes no sense, or no server answers.
    pub async fn queue(
        &self,
        topic: &str,
        group: &str,
        options: QueueOptions,
    ) -> Result<Queue, ClientError> {
        Queue::open(self, topic, group, options).await
    }
}

fn on_the_wire(settings: &QueueSettings) -> GroupSettings {
    GroupSettings {
        visibility_ms: settings.visibility_ms,
        deliveries_max: settings.deliveries_max,
        max_age_ms: settings.max_age_ms,
        dead_letter: settings.dead_letter.as_ref().map(TopicName::to_string),
        backoff: settings.backoff.to_string(),
        filter: settings.filter.clone(),
        order: settings.order,
    }
}
