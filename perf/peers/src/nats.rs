//! NATS: one JetStream stream on disk.
//!
//! Owns: its configuration, its server, the messages that load it.
//! Must never: count a record before it is acknowledged.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, ConnectOptions};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;

use crate::load::Lane;
use crate::measure::{Broker, Setup};
use crate::process::{self, Process};
use crate::scenario::Shape;
use crate::subject::Durability;

/// A running server with one stream.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    address: SocketAddr,
    durability: Durability,
}

/// Publishes a window of records and waits for their acks.
#[derive(Debug)]
pub(crate) struct Publisher {
    context: Context,
    record: Bytes,
    records: u32,
}

/// Fetches records and acks each of them.
#[derive(Debug)]
pub(crate) struct Worker {
    client: Client,
    consumer: PullConsumer,
    records: usize,
    record_size: usize,
    /// Whether an ack counts when the server answers it, or when it is sent.
    confirms: bool,
}

const READY_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// A window may have to wait for an fsync of each record before it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const STREAM: &str = "records";
const CONSUMER: &str = "workers";
const ACK: &str = "+ACK";

/// The configuration file. The default interval is not written: old servers do not know its name.
fn configuration(address: SocketAddr, folder: &Path, durability: Durability) -> String {
    let sync = match durability {
        Durability::Strict => "  sync_interval: always\n",
        Durability::Default => "",
    };
    let folder = folder.display();
    format!("listen: \"{address}\"\njetstream {{\n  store_dir: \"{folder}\"\n{sync}}}\n")
}

impl Server {
    async fn run(setup: &Setup) -> Result<Self> {
        let address = process::free_address()?;
        let file = setup.folder.join("nats.conf");
        fs::write(&file, configuration(address, &setup.folder, setup.durability))?;
        let mut command = Command::new(&setup.binary);
        command.arg("--config").arg(file);
        let mut process = Process::start("nats-server", command, &setup.cores, &setup.folder)?;
        let attempt = async || {
            let context = jetstream::new(connect(address).await?);
            context.query_account().await.map(drop).map_err(anyhow::Error::from)
        };
        process.until(READY_TIMEOUT, attempt).await?;
        Ok(Self { process, address, durability: setup.durability })
    }

    async fn create_consumer(&self, shape: &Shape) -> Result<()> {
        let context = jetstream::new(connect(self.address).await?);
        // Twice what is under way, so that the server never waits for an ack before it sends.
        let unacked = 2 * shape.connections * shape.window();
        let config = pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            max_ack_pending: i64::try_from(unacked)?,
            ..pull::Config::default()
        };
        let made = context.create_consumer_on_stream(config, STREAM).await;
        made.map(drop).context("cannot make the consumer")
    }
}

async fn connect(address: SocketAddr) -> Result<Client> {
    let options = ConnectOptions::new().request_timeout(Some(ANSWER_TIMEOUT));
    Ok(options.connect(address.to_string()).await?)
}

impl Broker for Server {
    type Publisher = Publisher;
    type Worker = Worker;
    const HARDENS: bool = true;

    async fn start(setup: &Setup) -> Result<Self> {
        let server = Self::run(setup).await?;
        let config = stream::Config {
            name: STREAM.to_owned(),
            subjects: vec![STREAM.to_owned()],
            storage: stream::StorageType::File,
            num_replicas: 1,
            ..stream::Config::default()
        };
        let context = jetstream::new(connect(server.address).await?);
        context.create_stream(config).await.context("cannot make the stream")?;
        Ok(server)
    }

    async fn publishers(&self, shape: &Shape) -> Result<Vec<Publisher>> {
        let record = Bytes::from(vec![b'r'; shape.record_size]);
        let mut lanes = Vec::new();
        for _ in 0..shape.connections {
            let context = ContextBuilder::new()
                .timeout(ANSWER_TIMEOUT)
                .ack_timeout(ANSWER_TIMEOUT)
                .max_ack_inflight(shape.window())
                .build(connect(self.address).await?);
            for _ in 0..shape.in_flight {
                let (context, record) = (context.clone(), record.clone());
                lanes.push(Publisher { context, record, records: shape.batch_records });
            }
        }
        Ok(lanes)
    }

    async fn workers(&self, shape: &Shape) -> Result<Vec<Worker>> {
        self.create_consumer(shape).await?;
        let mut lanes = Vec::new();
        for _ in 0..shape.connections {
            let client = connect(self.address).await?;
            let context = jetstream::new(client.clone());
            let consumer: PullConsumer = context.get_consumer_from_stream(CONSUMER, STREAM).await?;
            for _ in 0..shape.in_flight {
                lanes.push(Worker {
                    client: client.clone(),
                    consumer: consumer.clone(),
                    records: shape.batch_records as usize,
                    record_size: shape.record_size,
                    confirms: self.durability == Durability::Strict,
                });
            }
        }
        Ok(lanes)
    }

    async fn harden(self, setup: &Setup) -> Result<Self> {
        self.process.stop(STOP_TIMEOUT).await?;
        Self::run(setup).await
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

impl Lane for Publisher {
    async fn turn(&mut self) -> Result<u64> {
        let mut acks = Vec::with_capacity(self.records as usize);
        for _ in 0..self.records {
            acks.push(self.context.publish(STREAM, self.record.clone()).await?);
        }
        for ack in acks {
            ack.await?;
        }
        Ok(u64::from(self.records))
    }
}

impl Lane for Worker {
    async fn turn(&mut self) -> Result<u64> {
        let mut fetched = self.consumer.fetch().max_messages(self.records).messages().await?;
        let mut confirmations = Vec::with_capacity(self.records);
        let mut records = 0;
        while let Some(message) = fetched.next().await {
            let message = message.map_err(|error| anyhow!(error))?;
            let size = message.payload.len();
            ensure!(size == self.record_size, "a record has {size} bytes");
            records += 1;
            if self.confirms {
                let reply = message.message.reply.context("a record cannot be acked")?;
                // As the library's own double ack, without a subscription for each.
                confirmations.push(self.client.request(reply, Bytes::from_static(ACK.as_bytes())));
            } else {
                message.ack().await.map_err(|error| anyhow!(error))?;
            }
        }
        try_join_all(confirmations).await?;
        Ok(records)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_durability_stands_in_the_configuration() {
        let check = |durability, strict: bool| {
            let address = SocketAddr::from(([127, 0, 0, 1], 7000));
            let text = configuration(address, Path::new("/data dir"), durability);
            assert_eq!(text.contains("sync_interval: always"), strict, "{text}");
            assert!(text.contains("listen: \"127.0.0.1:7000\"\n"), "{text}");
            assert!(text.contains("store_dir: \"/data dir\"\n"), "{text}");
            assert_eq!(text.matches(['{', '}']).count(), 2, "{text}");
        };
        check(Durability::Strict, true);
        check(Durability::Default, false);
    }
}
