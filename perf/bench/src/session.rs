//! A blocking connection to a node, for what comes before and beside the load.
//!
//! Owns: handshake, one request at a time. Must never: be on a measured path.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use barrage_model::TopicOrder;
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_wire::{
    Correlation, FrameHeader, Hello, MetadataRequest, Request, Response, SessionLimits,
    TopicCreate, TopicRoutes,
};
use bytes::BytesMut;

use crate::lane::ANSWER_TIMEOUT;

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Session {
    stream: TcpStream,
    /// What the server allows.
    pub limits: SessionLimits,
}

/// How long a new topic's partitions may be without a leader.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(30);
const LEADERS_ASK_EVERY: Duration = Duration::from_millis(20);
const CORRELATION: Correlation = Correlation(0);

impl Session {
    /// Connects and shakes hands.
    pub(crate) fn connect(address: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
        Self::over(stream)
    }

    /// Shakes hands over a connection.
    pub(crate) fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let limits = SessionLimits {
            frame_bytes_max: 0,
            batch_bytes_max: 0,
            in_flight_requests_max: 0,
            in_flight_bytes_max: 0,
            idle_timeout_ms: 0,
        };
        let mut session = Self { stream, limits };
        let hello = Request::Hello(Hello::new("barrage bench"));
        session.limits = session.ask(&hello, |response| match response {
            Response::Hello(reply) => Some(reply.limits),
            _ => None,
        })?;
        Ok(session)
    }

    /// Sends a request and waits for its answer, of which `take` takes what is wanted.
    pub(crate) fn ask<T>(
        &mut self,
        request: &Request<'_>,
        take: impl FnOnce(Response<'_>) -> Option<T>,
    ) -> Result<T> {
        let mut out = BytesMut::new();
        request.encode(CORRELATION, &mut out);
        self.stream.write_all(&out)?;
        let mut head = [0; FrameHeader::SIZE];
        self.stream.read_exact(&mut head).context("no answer")?;
        let header = FrameHeader::parse(&head).context("a malformed answer")?;
        ensure!(header.frame_size() <= FRAME_BYTES_MAX + head.len(), "an oversized answer");
        let mut body = vec![0; header.body_size()];
        self.stream.read_exact(&mut body)?;
        match Response::decode(&header, &body).context("a malformed answer")? {
            Response::Error { error, .. } => bail!("{:?} is refused: {error}", request.opcode()),
            response => take(response)
                .with_context(|| format!("{:?} got another's answer", request.opcode())),
        }
    }

    /// Creates a topic and says where its partitions live.
    pub(crate) fn create_topic(&mut self, name: &str, partitions: u32) -> Result<TopicRoutes> {
        self.create(name, partitions)?;
        self.routes_when_led(name)
    }

    /// Creates a topic: its partitions are open when that is answered.
    pub(crate) fn create(&mut self, name: &str, partitions: u32) -> Result<()> {
        let create = TopicCreate {
            name: name.to_owned(),
            partitions,
            retention: None,
            priorities: 1,
            order: TopicOrder::Partition,
        };
        self.ask(&Request::TopicCreate(create), |response| match response {
            Response::TopicCreate(_) => Some(()),
            _ => None,
        })
    }

    /// Where the partitions live, once every one has a leader: nodes elect it after the topic is
    /// made.
    pub(crate) fn routes_when_led(&mut self, name: &str) -> Result<TopicRoutes> {
        let deadline = Instant::now() + LEADERS_TIMEOUT;
        loop {
            let routes = self.routes(name);
            let led = routes.as_ref().is_ok_and(|routes| {
                let mut partitions = routes.partitions.iter();
                partitions.all(|route| route.address.parse::<SocketAddr>().is_ok())
            });
            if led || Instant::now() >= deadline {
                return routes;
            }
            std::thread::sleep(LEADERS_ASK_EVERY);
        }
    }

    /// Where the topic's partitions live.
    pub(crate) fn routes(&mut self, name: &str) -> Result<TopicRoutes> {
        let request = Request::Metadata(MetadataRequest { topics: vec![name.to_owned()] });
        let mut topics = self.ask(&request, |response| match response {
            Response::Metadata(reply) => Some(reply.topics),
            _ => None,
        })?;
        let routes = topics.pop().context("the topic is unknown")?;
        ensure!(routes.error == 0, "the topic is unknown: error {}", routes.error);
        ensure!(!routes.partitions.is_empty(), "the topic has no partitions");
        Ok(routes)
    }

    /// The connection itself, to load it.
    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}
