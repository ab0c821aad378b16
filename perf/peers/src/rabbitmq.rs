//! RabbitMQ: one queue, and the Erlang name server that a node of it needs.
//!
//! Owns: its configuration, its servers, the messages that load it.
//! Must never: count a record before the broker confirms it; touch the installed node.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use tokio::time::timeout;

use crate::installed;
use crate::load::Lane;
use crate::measure::{Broker, Setup};
use crate::process::{self, Process};
use crate::scenario::Shape;
use crate::subject::Durability;

/// A running server with one queue.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    /// Ends after the node that asks it.
    #[expect(dead_code, reason = "it is held")]
    names: Process,
    address: SocketAddr,
}

/// Publishes a number of persistent records and waits until each is confirmed.
#[derive(Debug)]
pub(crate) struct Publisher {
    channel: Channel,
    /// Its channels end with it.
    #[expect(dead_code, reason = "it is held")]
    connection: Arc<Connection>,
    record: Vec<u8>,
    records: u32,
}

/// Receives what the queue pushes and acks each record. An ack has no answer.
#[derive(Debug)]
pub(crate) struct Worker {
    consumer: Consumer,
    /// Its channels end with it.
    #[expect(dead_code, reason = "it is held")]
    connection: Arc<Connection>,
    records: u32,
    record_size: usize,
}

/// Where a node listens.
#[derive(Clone, Copy, Debug)]
struct Addresses {
    clients: SocketAddr,
    nodes: SocketAddr,
    names: SocketAddr,
}

const READY_TIMEOUT: Duration = Duration::from_secs(90);
/// When a queue is taken for empty.
const LULL: Duration = Duration::from_millis(20);
const QUEUE: &str = "records";
/// Both the name server and the node write their files here.
const NAME_SERVER: &str = "epmd";
const PERSISTENT: u8 = 2;

/// The configuration file: one listener, and nothing in the log but warnings.
fn configuration(addresses: Addresses) -> String {
    let clients = addresses.clients;
    format!("listeners.tcp.default = {clients}\nlog.console = true\nlog.console.level = warning\n")
}

/// What keeps a node in a folder of its own, away from the installed one.
fn environment(folder: &Path, addresses: Addresses) -> Vec<(&'static str, String)> {
    let path = |name: &str| folder.join(name).display().to_string();
    vec![
        // The Erlang cookie is made there.
        ("HOME", path("")),
        ("RABBITMQ_NODENAME", format!("peer{}@localhost", addresses.clients.port())),
        ("RABBITMQ_CONF_ENV_FILE", path("environment.conf")),
        ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins")),
        ("RABBITMQ_MNESIA_BASE", path("data")),
        ("RABBITMQ_LOG_BASE", path("log")),
        ("RABBITMQ_LOGS", "-".to_owned()),
        ("RABBITMQ_PID_FILE", path("pid")),
        ("RABBITMQ_DIST_PORT", addresses.nodes.port().to_string()),
        ("ERL_EPMD_PORT", addresses.names.port().to_string()),
        ("ERL_EPMD_ADDRESS", addresses.names.ip().to_string()),
    ]
}

/// How a queue of this durability is declared.
fn queue_arguments(durability: Durability) -> FieldTable {
    let kind = match durability {
        Durability::Strict => "quorum",
        Durability::Default => "classic",
    };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    arguments
}

/// Runs a name server of its own, which the node finds instead of starting one that stays.
fn start_names(setup: &Setup, addresses: Addresses) -> Result<Process> {
    let binary = installed::in_path(NAME_SERVER).context("epmd of Erlang is not in the path")?;
    let mut command = Command::new(binary);
    command.arg("-port").arg(addresses.names.port().to_string());
    command.arg("-address").arg(addresses.names.ip().to_string());
    Process::start(NAME_SERVER, command, &setup.cores, &setup.folder)
}

fn start_node(setup: &Setup, addresses: Addresses) -> Result<Process> {
    let folder = &setup.folder;
    fs::write(folder.join("rabbitmq.conf"), configuration(addresses))?;
    fs::write(folder.join("environment.conf"), "")?;
    fs::write(folder.join("advanced.config"), "[].\n")?;
    fs::write(folder.join("plugins"), "[].\n")?;
    let mut command = Command::new(&setup.binary);
    command.envs(environment(folder, addresses)).current_dir(folder);
    Process::start("rabbitmq-server", command, &setup.cores, folder)
}

async fn connect(address: SocketAddr) -> Result<Connection> {
    let uri = format!("amqp://guest:guest@{address}/%2f");
    Ok(Connection::connect(&uri, ConnectionProperties::default()).await?)
}

impl Server {
    /// One channel for each request under way.
    async fn channels(&self, shape: &Shape) -> Result<Vec<(Arc<Connection>, Channel)>> {
        let mut channels = Vec::new();
        for _ in 0..shape.connections {
            let connection = Arc::new(connect(self.address).await?);
            for _ in 0..shape.in_flight {
                channels.push((Arc::clone(&connection), connection.create_channel().await?));
            }
        }
        Ok(channels)
    }
}

impl Broker for Server {
    type Publisher = Publisher;
    type Worker = Worker;
    // The durability is that of the queue.
    const HARDENS: bool = false;

    async fn start(setup: &Setup) -> Result<Self> {
        let addresses = Addresses {
            clients: process::free_address()?,
            nodes: process::free_address()?,
            names: process::free_address()?,
        };
        let names = start_names(setup, addresses)?;
        let mut process = start_node(setup, addresses)?;
        let address = addresses.clients;
        let connection = process.until(READY_TIMEOUT, async || connect(address).await).await?;
        let channel = connection.create_channel().await?;
        let arguments = queue_arguments(setup.durability);
        let declared =
            channel.queue_declare(QUEUE.into(), QueueDeclareOptions::durable(), arguments);
        declared.await.context("cannot make the queue")?;
        Ok(Self { process, names, address })
    }

    async fn publishers(&self, shape: &Shape) -> Result<Vec<Publisher>> {
        let mut lanes = Vec::new();
        for (connection, channel) in self.channels(shape).await? {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let record = vec![b'r'; shape.record_size];
            lanes.push(Publisher { channel, connection, record, records: shape.batch_records });
        }
        Ok(lanes)
    }

    async fn workers(&self, shape: &Shape) -> Result<Vec<Worker>> {
        let mut lanes = Vec::new();
        for (connection, channel) in self.channels(shape).await? {
            let ahead = u16::try_from(shape.batch_records).unwrap_or(u16::MAX);
            channel.basic_qos(ahead, BasicQosOptions::default()).await?;
            let (tag, options) = ("".into(), BasicConsumeOptions::default());
            let consumer = channel.basic_consume(QUEUE.into(), tag, options, FieldTable::default());
            let (records, record_size) = (shape.batch_records, shape.record_size);
            let consumer = consumer.await?;
            lanes.push(Worker { consumer, connection, records, record_size });
        }
        Ok(lanes)
    }

    async fn harden(self, _setup: &Setup) -> Result<Self> {
        Ok(self)
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

impl Lane for Publisher {
    async fn turn(&mut self) -> Result<u64> {
        let mut confirms = Vec::with_capacity(self.records as usize);
        for _ in 0..self.records {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let options = BasicPublishOptions::default();
            let (exchange, queue) = ("".into(), QUEUE.into());
            let sent =
                self.channel.basic_publish(exchange, queue, options, &self.record, properties);
            confirms.push(sent.await?);
        }
        for confirm in confirms {
            ensure!(confirm.await?.is_ack(), "a record was refused");
        }
        Ok(u64::from(self.records))
    }
}

impl Lane for Worker {
    async fn turn(&mut self) -> Result<u64> {
        let mut acks = Vec::with_capacity(self.records as usize);
        while acks.len() < self.records as usize
            && let Ok(delivery) = timeout(LULL, self.consumer.next()).await
        {
            let delivery = delivery.context("the consumer was cancelled")??;
            let size = delivery.data.len();
            ensure!(size == self.record_size, "a record has {size} bytes");
            acks.push(async move { delivery.ack(BasicAckOptions::default()).await });
        }
        let sent = try_join_all(acks).await?;
        ensure!(sent.iter().all(|sent| *sent), "an ack was not sent");
        Ok(sent.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Addresses {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Addresses { clients: at(7000), nodes: at(7001), names: at(7002) }
    }

    #[test]
    fn a_node_stays_in_its_folder_and_on_loopback() {
        let variables = environment(Path::new("/data"), addresses());
        let check = |name: &str, want: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            assert_eq!(found.map(|(_, value)| value.as_str()), Some(want), "{name}");
        };
        check("HOME", "/data/");
        check("RABBITMQ_MNESIA_BASE", "/data/data");
        check("RABBITMQ_CONFIG_FILE", "/data/rabbitmq.conf");
        check("RABBITMQ_NODENAME", "peer7000@localhost");
        check("RABBITMQ_DIST_PORT", "7001");
        check("ERL_EPMD_PORT", "7002");
        check("ERL_EPMD_ADDRESS", "127.0.0.1");
        let text = configuration(addresses());
        assert!(text.contains("listeners.tcp.default = 127.0.0.1:7000\n"), "{text}");
    }

    #[test]
    fn the_durability_is_that_of_the_queue() {
        let check = |durability, want: &str| {
            let arguments = queue_arguments(durability);
            let kind = arguments.inner().get("x-queue-type");
            assert_eq!(kind, Some(&AMQPValue::LongString(want.into())), "{durability:?}");
        };
        check(Durability::Strict, "quorum");
        check(Durability::Default, "classic");
    }
}
