//! The client: what a program holds, and the requests that are one question and one answer.
//!
//! Owns: the pool of connections. Must never: keep state of a producer or consumer.

use std::sync::Arc;
use std::time::Duration;

use barrage_model::{PartitionKey, Retention};
use barrage_wire::{
    At, Frame, HelloReply, InitProducerReply, ListOffsetReply, ListOffsetRequest, MetadataReply,
    MetadataRequest, Request, Response, StatsReply, TopicAlter, TopicCreate, TopicDelete,
    TopicDescribe, TopicDescription, TopicSummary,
};

use crate::connection::decode;
use crate::consumer::Consumer;
use crate::error::ClientError;
use crate::options::{ClientOptions, ConsumerOptions, ProducerOptions};
use crate::pool::Pool;
use crate::producer::Producer;

/// Pause before a request that took no effect is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// A handle on a cluster; clones share its connections. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct Client {
    pool: Arc<Pool>,
}

/// Whether a request may be sent again after a connection was lost under it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// Asking twice does no harm.
    None,
    /// It changes something.
    Change,
}

impl Client {
    /// Connects to the first of the servers that answers.
    ///
    /// # Errors
    /// `Unreachable` when none does.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        options.check()?;
        let client = Self { pool: Arc::new(Pool::new(options)) };
        client.pool.any().await?;
        Ok(client)
    }

    /// What the connected server said of itself.
    ///
    /// # Errors
    /// `Unreachable` when no server answers.
    pub async fn server(&self) -> Result<HelloReply, ClientError> {
        let (_, connection) = self.pool.any().await?;
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
        let body = TopicCreate { name: name.to_owned(), partitions, retention };
        let frame = self.ask(&Request::TopicCreate(body), Effect::Change).await?;
        match self.decode(&frame)? {
            Response::TopicCreate(summary) => Ok(summary),
            _ => Err(self.wrong_answer()),
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
        let frame = self.ask(&Request::TopicAlter(body), Effect::Change).await?;
        match self.decode(&frame)? {
            Response::TopicAlter(summary) => Ok(summary),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Removes a topic and its records.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let body = TopicDelete { name: name.to_owned() };
        let frame = self.ask(&Request::TopicDelete(body), Effect::Change).await?;
        match self.decode(&frame)? {
            Response::TopicDelete => Ok(()),
            _ => Err(self.wrong_answer()),
        }
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// No server answers.
    pub async fn list_topics(&self) -> Result<Vec<TopicSummary>, ClientError> {
        let frame = self.ask(&Request::TopicList, Effect::None).await?;
        match self.decode(&frame)? {
            Response::TopicList(reply) => Ok(reply.topics),
            _ => Err(self.wrong_answer()),
        }
    }

    /// One topic with the state of its partitions.
    ///
    /// # Errors
    /// The topic is unknown, or no server answers.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, ClientError> {
        let body = TopicDescribe { name: name.to_owned() };
        let frame = self.ask(&Request::TopicDescribe(body), Effect::None).await?;
        match self.decode(&frame)? {
            Response::TopicDescribe(description) => Ok(description),
            _ => Err(self.wrong_answer()),
        }
    }

    /// The counters of the connected node.
    ///
    /// # Errors
    /// No server answers.
    pub async fn stats(&self) -> Result<StatsReply, ClientError> {
        let frame = self.ask(&Request::Stats, Effect::None).await?;
        match self.decode(&frame)? {
            Response::Stats(stats) => Ok(stats),
            _ => Err(self.wrong_answer()),
        }
    }

    /// Where the partitions of `topics` live; of all topics when none is named.
    ///
    /// # Errors
    /// No server answers. An unknown topic is a row with an error.
    pub async fn metadata(&self, topics: &[&str]) -> Result<MetadataReply, ClientError> {
        let topics = topics.iter().map(|&name| name.to_owned()).collect();
        let body = MetadataRequest { topics };
        let frame = self.ask(&Request::Metadata(body), Effect::None).await?;
        match self.decode(&frame)? {
            Response::Metadata(reply) => Ok(reply),
            _ => Err(self.wrong_answer()),
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
        let body = ListOffsetRequest { key, at };
        let frame = self.ask(&Request::ListOffset(body), Effect::None).await?;
        match self.decode(&frame)? {
            Response::ListOffset(reply) => Ok(reply),
            _ => Err(self.wrong_answer()),
        }
    }

    /// A fresh producer id. [`Producer`] takes its own.
    ///
    /// # Errors
    /// No server answers.
    pub async fn init_producer(&self) -> Result<InitProducerReply, ClientError> {
        // Asked twice, one id stays unused: no harm.
        let frame = self.ask(&Request::InitProducer, Effect::None).await?;
        match self.decode(&frame)? {
            Response::InitProducer(reply) => Ok(reply),
            _ => Err(self.wrong_answer()),
        }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Asks any server; again, within the request timeout, while that can do no harm.
    async fn ask(&self, request: &Request<'_>, effect: Effect) -> Result<Frame, ClientError> {
        let started = tokio::time::Instant::now();
        loop {
            let (server, connection) = self.pool.any().await?;
            let result = connection.ask(request).await;
            // An error reply is an error here, so that it can be tried again.
            let error = match result.and_then(|frame| decode(server, &frame).map(|_| frame.clone()))
            {
                Ok(frame) => return Ok(frame),
                Err(error) => error,
            };
            let harmless = error.is_surely_without_effect() || effect == Effect::None;
            let late = started.elapsed() >= self.pool.options().request_timeout;
            if !error.is_retriable() || !harmless || late {
                return Err(error);
            }
            tokio::time::sleep(error.retry_after().unwrap_or(RETRY_PAUSE)).await;
        }
    }

    fn decode<'a>(&self, frame: &'a Frame) -> Result<Response<'a>, ClientError> {
        decode(self.server_name(), frame)
    }

    fn wrong_answer(&self) -> ClientError {
        let server = self.server_name().to_owned();
        ClientError::Protocol { server, cause: "an answer to another question".to_owned() }
    }

    fn server_name(&self) -> &str {
        self.pool.options().servers.first().map_or("", String::as_str)
    }
}
