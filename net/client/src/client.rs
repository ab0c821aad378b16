//! The client: what a program holds, and the requests that are one question and one answer.
//!
//! Owns: the pool of connections. Must never: keep state of a producer or consumer.

use std::sync::Arc;
use std::time::Duration;

use barrage_model::{PartitionKey, Retention};
use barrage_wire::{
    At, ClusterChange, ClusterChanged, ClusterDescription, ErrorCode, ErrorReply, Frame,
    HelloReply, Hint, InitProducerReply, ListOffsetReply, ListOffsetRequest, MetadataReply,
    MetadataRequest, NodeAddress, Request, Response, StatsReply, TopicAlter, TopicCreate,
    TopicDelete, TopicDescribe, TopicDescription, TopicSummary,
};
use tokio::time::Instant;

use crate::connection::{Connection, decode};
use crate::consumer::Consumer;
use crate::error::ClientError;
use crate::options::{ClientOptions, ConsumerOptions, ProducerOptions, TopicOptions};
use crate::pause::Pause;
use crate::pool::Pool;
use crate::producer::Producer;

/// First pause before a request is sent again.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause before a request is sent again.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a server that was named is waited for before others are asked.
pub(crate) const PATIENCE: Duration = Duration::from_millis(500);

/// A handle on a cluster; clones share its connections. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
}

/// Whether a request may be sent again after a connection was lost under it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Asking twice does no harm.
    None,
    /// It changes something.
    Change,
}

/// Whom to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Whom {
    /// This one, if it can be reached at once; else any.
    pub(crate) first: Option<String>,
    /// These only when nobody else knows.
    pub(crate) last: Vec<String>,
    /// Who was away may say this for want of knowing better: it counts when all that answer do.
    pub(crate) doubted: Option<ErrorCode>,
}

/// An answer and who gave it.
pub(crate) struct Answer {
    pub(crate) server: String,
    frame: Frame,
}

impl Answer {
    pub(crate) fn decode(&self) -> Result<Response<'_>, ClientError> {
        decode(&self.server, &self.frame)
    }

    pub(crate) fn wrong(&self) -> ClientError {
        let (server, cause) = (self.server.clone(), "an answer to another question".to_owned());
        ClientError::Protocol { server, cause }
    }
}

impl Client {
    /// Connects to the first of the servers that answers.
    ///
    /// # Errors
    /// `Unreachable` when none does.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        options.check()?;
        let client = Self { pool: Arc::new(Pool::new(options)) };
        client.pool.any(&[]).await?;
        Ok(client)
    }

    /// What the connected server said of itself.
    ///
    /// # Errors
    /// `Unreachable` when no server answers.
    pub async fn server(&self) -> Result<HelloReply, ClientError> {
        let (_, connection) = self.pool.any(&[]).await?;
        Ok(connection.hello().clone())
    }

    /// A producer for one topic.
    ///
    /// # Errors
    /// The topic is unknown, an option makes no sense, or no server answers.
    pub async fn producer(
        &self,
        topic: &str,
        options: ProducerOptions,
    ) -> Result<Producer, ClientError> {
        Producer::open(self, topic, options).await
    }

    /// A consumer of one topic.
    ///
    /// # Errors
    /// The topic or a partition is unknown, an option makes no sense, or no server answers.
    pub async fn consumer(
        &self,
        topic: &str,
        options: ConsumerOptions,
    ) -> Result<Consumer, ClientError> {
        Consumer::open(self, topic, options).await
    }

    /// Makes a topic; `partitions` 0 and retention `None` take the server's defaults.
    ///
    /// # Errors
    /// The name or a number is not allowed, the topic exists, or no server answers.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: u32,
        retention: Option<Retention>,
    ) -> Result<TopicSummary, ClientError> {
        let options = TopicOptions { partitions, retention, ..TopicOptions::default() };
        self.create_topic_with(name, options).await
    }

    /// Makes a topic.
    ///
    /// # Errors
    /// As [`Client::create_topic`].
    pub async fn create_topic_with(
        &self,
        name: &str,
        options: TopicOptions,
    ) -> Result<TopicSummary, ClientError> {
        let TopicOptions { partitions, retention, priorities, order } = options;
        let (name, priorities) = (name.to_owned(), priorities.levels());
        let body = TopicCreate { name, partitions, retention, priorities, order };
        let answer = self.ask(&Request::TopicCreate(body), Effect::Change).await?;
        match answer.decode()? {
            Response::TopicCreate(summary) => Ok(summary),
            _ => Err(answer.wrong()),
        }
    }

    /// Changes a topic; `None` leaves a property as it is.
    ///
    /// # Errors
    /// The topic is unknown, a value is not allowed, or no server answers.
    pub async fn alter_topic(
        &self,
        name: &str,
        partitions: Option<u32>,
        retention: Option<Retention>,
    ) -> Result<TopicSummary, ClientError> {
        let body = TopicAlter { name: name.to_owned(), partitions, retention };
        let answer = self.ask(&Request::TopicAlter(body), Effect::Change).await?;
        match answer.decode()? {
            Response::TopicAlter(summary) => Ok(summary),
            _ => Err(answer.wrong()),
        }
    }

    /// Removes a topic and its records.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let body = TopicDelete { name: name.to_owned() };
        let answer = self.ask(&Request::TopicDelete(body), Effect::Change).await?;
        match answer.decode()? {
            Response::TopicDelete => Ok(()),
            _ => Err(answer.wrong()),
        }
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// No server answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, ClientError> {
        let answer = self.ask(&Request::TopicList, Effect::None).await?;
        match answer.decode()? {
            Response::TopicList(reply) => Ok(reply.topics),
            _ => Err(answer.wrong()),
        }
    }

    /// One topic with the state of its partitions.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let body = TopicDescribe { name: name.to_owned() };
        let answer = self.ask(&Request::TopicDescribe(body), Effect::None).await?;
        match answer.decode()? {
            Response::TopicDescribe(description) => Ok(description),
            _ => Err(answer.wrong()),
        }
    }

    /// The counters of the connected node.
    ///
    /// # Errors
    /// No server answers.
    pub async fn stats(&self) -> Result<StatsReply, ClientError> {
        let answer = self.ask(&Request::Stats, Effect::None).await?;
        match answer.decode()? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(answer.wrong()),
        }
    }

    /// Where the partitions of `topics` live; of all topics when none is named.
    ///
    /// # Errors
    /// No server answers. An unknown topic is a row with an error.
    pub async fn metadata(&self, topics: &[&str]) -> Result<MetadataReply, ClientError> {
        self.metadata_from(topics, Whom::default()).await.map(|(reply, _)| reply)
    }

    /// The metadata and who told it.
    pub(crate) async fn metadata_from(
        &self,
        topics: &[&str],
        whom: Whom,
    ) -> Result<(MetadataReply, String), ClientError> {
        let topics = topics.iter().map(|&name| name.to_owned()).collect();
        let request = Request::Metadata(MetadataRequest { topics });
        let answer = self.ask_whom(&request, Effect::None, whom).await?;
        match answer.decode()? {
            Response::Metadata(reply) => {
                self.learn(&answer.server, &reply.nodes);
                Ok((reply, answer.server))
            }
            _ => Err(answer.wrong()),
        }
    }

    fn learn(&self, dialled: &str, nodes: &[NodeAddress]) {
        let address = |node: &NodeAddress| as_seen_from(dialled, node.address.clone());
        self.pool.learn(nodes.iter().map(address));
    }

    /// The cluster as one of its nodes sees it.
    ///
    /// # Errors
    /// No server answers.
    pub async fn describe_cluster(&self) -> Result<ClusterDescription, ClientError> {
        let answer = self.ask(&Request::ClusterDescribe, Effect::None).await?;
        match answer.decode()? {
            Response::ClusterDescribe(cluster) => {
                let addresses: Vec<_> = cluster
                    .nodes
                    .iter()
                    .filter(|node| !node.client.is_empty())
                    .map(|node| NodeAddress { node: node.node, address: node.client.clone() })
                    .collect();
                self.learn(&answer.server, &addresses);
                Ok(cluster)
            }
            _ => Err(answer.wrong()),
        }
    }

    /// Changes who is a member, or who holds and leads what; answered when the change is durable.
    /// Copies that it moves go on moving afterwards: see [`Self::describe_cluster`].
    ///
    /// # Errors
    /// A value is not allowed, or no server answers.
    pub async fn change_cluster(
        &self,
        change: ClusterChange,
    ) -> Result<ClusterChanged, ClientError> {
        // Changes say how it shall be: made twice they are made once.
        let answer = self.ask(&Request::ClusterChange(change), Effect::None).await?;
        match answer.decode()? {
            Response::ClusterChange(changed) => Ok(changed),
            _ => Err(answer.wrong()),
        }
    }

    /// An offset by its place in the partition or by time, with the partition's bounds.
    ///
    /// # Errors
    /// The partition is unknown, or no server answers.
    pub async fn list_offset(
        &self,
        key: PartitionKey,
        at: At,
    ) -> Result<ListOffsetReply, ClientError> {
        self.list_offset_from(key, at, Whom::default()).await
    }

    pub(crate) async fn list_offset_from(
        &self,
        key: PartitionKey,
        at: At,
        whom: Whom,
    ) -> Result<ListOffsetReply, ClientError> {
        let request = Request::ListOffset(ListOffsetRequest { key, at });
        let answer = self.ask_whom(&request, Effect::None, whom).await?;
        match answer.decode()? {
            Response::ListOffset(reply) => Ok(reply),
            _ => Err(answer.wrong()),
        }
    }

    /// A fresh producer id. [`Producer`] takes its own.
    ///
    /// # Errors
    /// No server answers.
    pub async fn init_producer(&self) -> Result<InitProducerReply, ClientError> {
        // Asked twice, one id stays unused: no harm.
        let answer = self.ask(&Request::InitProducer, Effect::None).await?;
        match answer.decode()? {
            Response::InitProducer(reply) => Ok(reply),
            _ => Err(answer.wrong()),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) async fn ask(
        &self,
        request: &Request<'_>,
        effect: Effect,
    ) -> Result<Answer, ClientError> {
        self.ask_whom(request, effect, Whom::default()).await
    }

    /// Asks a server; again, and others, within the request timeout, while that can do no harm.
    pub(crate) async fn ask_whom(
        &self,
        request: &Request<'_>,
        effect: Effect,
        whom: Whom,
    ) -> Result<Answer, ClientError> {
        let started = Instant::now();
        let late = || started.elapsed() >= self.pool.options().request_timeout;
        let mut pause = Pause::new(RETRY_PAUSE_MIN, RETRY_PAUSE_MAX);
        let Whom { first: mut hinted, last: mut tried, doubted } = whom;
        let mut heard: Option<ClientError> = None;
        // Of those that were tried, how many said what is doubted.
        let mut denial_count = 0;
        let mut denied: Option<ClientError> = None;
        loop {
            let found = match hinted.take() {
                Some(address) => self.named_or_any(address, &tried).await,
                None => self.pool.any(&tried).await,
            };
            let (server, connection) = match found {
                Ok(found) => found,
                Err(error) if denial_count > 0 && denial_count == tried.len() => {
                    return Err(denied.unwrap_or(error));
                }
                Err(error) if tried.is_empty() || late() => return Err(heard.unwrap_or(error)),
                // All others were asked: from the beginning.
                Err(_) => {
                    tried.clear();
                    denial_count = 0;
                    tokio::time::sleep(pause.next()).await;
                    continue;
                }
            };
            let result = connection.ask(request).await;
            // An error reply is an error here, so that it can be tried again.
            let result = result.and_then(|frame| decode(&server, &frame).map(|_| frame.clone()));
            let error = match result {
                Ok(frame) => {
                    self.pool.prefer(&server);
                    return Ok(Answer { server, frame });
                }
                Err(error) => error,
            };
            if doubted.is_some() && error.code() == doubted {
                tried.push(server);
                denial_count += 1;
                denied = Some(error);
                continue;
            }
            let harmless = error.is_refused_untouched() || effect == Effect::None;
            if !error.is_retriable() || !harmless || late() {
                return Err(error);
            }
            hinted = leader_of(&error).map(|address| as_seen_from(&server, address.to_owned()));
            if hinted.as_ref().is_some_and(|address| *address == server || tried.contains(address))
            {
                hinted = None;
            }
            match error.is_of_this_server() {
                true => tried.push(server),
                false => tokio::time::sleep(error.retry_after().unwrap_or(pause.next())).await,
            }
            heard = Some(error);
        }
    }

    async fn named_or_any(
        &self,
        address: String,
        tried: &[String],
    ) -> Result<(String, Connection), ClientError> {
        match self.pool.get_within(&address, PATIENCE).await {
            Ok(connection) => Ok((address, connection)),
            Err(_) => self.pool.any(tried).await,
        }
    }
}

/// Where an error says that the leader is.
pub(crate) fn leader_of(error: &ClientError) -> Option<&str> {
    match error {
        ClientError::Refused(ErrorReply { hint: Hint::Leader { address, .. }, .. }) => {
            Some(address.as_str()).filter(|address| !address.is_empty())
        }
        _ => None,
    }
}

/// A server that listens everywhere announces `0.0.0.0`: for us it is the host that we dialled.
pub(crate) fn as_seen_from(dialled: &str, address: String) -> String {
    let host = dialled.rsplit_once(':').map_or(dialled, |(host, _)| host);
    match address.rsplit_once(':') {
        Some(("0.0.0.0" | "[::]", port)) => format!("{host}:{port}"),
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::as_seen_from;

    #[test]
    fn unspecified_hosts_become_the_host_that_was_dialled() {
        let table = [
            ("db1:7400", "0.0.0.0:7401", "db1:7401"),
            ("[::1]:7400", "[::]:7401", "[::1]:7401"),
            ("db1:7400", "10.0.0.7:7401", "10.0.0.7:7401"),
            ("db1:7400", "", ""),
        ];
        for (dialled, address, expected) in table {
            assert_eq!(as_seen_from(dialled, address.to_owned()), expected);
        }
    }
}
