//! Redis: one stream in an append-only file.
//!
//! Owns: its configuration, its server, the commands that load it.
//! Must never: count a command before it is answered.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, Value, cmd};

use crate::load::Lane;
use crate::measure::{Broker, Setup};
use crate::process::{self, Process};
use crate::scenario::Shape;
use crate::subject::Durability;

/// A running server with one stream and one group.
#[derive(Debug)]
pub(crate) struct Server {
    process: Process,
    client: Client,
}

/// Sends the same commands again and again, each with a record, and waits for all answers.
#[derive(Debug)]
pub(crate) struct Publisher {
    connection: MultiplexedConnection,
    commands: Pipeline,
    records: u64,
}

/// Receives records of the group and acks each of them, all of a receive in one command.
#[derive(Debug)]
pub(crate) struct Worker {
    connection: MultiplexedConnection,
    receive: Cmd,
    record_size: usize,
}

const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// A pipeline may have to wait for an fsync of all before it; the library's own is half a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
const STREAM: &str = "records";
const GROUP: &str = "workers";
const FIELD: &str = "r";

/// The configuration file. There are no snapshots, and the file is not rewritten while it is
/// measured: both would only cost.
fn configuration(address: SocketAddr, folder: &Path, durability: Durability) -> String {
    format!(
        "bind {ip}\nport {port}\ndaemonize no\ndir \"{dir}\"\nsave \"\"\nappendonly yes\n\
         appendfsync {sync}\nauto-aof-rewrite-percentage 0\n",
        ip = address.ip(),
        port = address.port(),
        dir = folder.display(),
        sync = append_fsync(durability),
    )
}

const fn append_fsync(durability: Durability) -> &'static str {
    match durability {
        Durability::Strict => "always",
        Durability::Default => "everysec",
    }
}

impl Server {
    async fn connect(client: &Client, shape: Option<&Shape>) -> Result<MultiplexedConnection> {
        let lanes = shape.map_or(1, |shape| shape.in_flight);
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_pipeline_buffer_size(lanes);
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }

    /// Lanes of equal shares of the connections.
    async fn lanes<L>(
        &self,
        shape: &Shape,
        mut lane: impl FnMut(MultiplexedConnection, usize) -> L,
    ) -> Result<Vec<L>> {
        let mut lanes = Vec::new();
        for _ in 0..shape.connections {
            let connection = Self::connect(&self.client, Some(shape)).await?;
            for _ in 0..shape.in_flight {
                lanes.push(lane(connection.clone(), lanes.len()));
            }
        }
        Ok(lanes)
    }
}

impl Broker for Server {
    type Publisher = Publisher;
    type Worker = Worker;
    const HARDENS: bool = true;

    async fn start(setup: &Setup) -> Result<Self> {
        let address = process::free_address()?;
        let file = setup.folder.join("redis.conf");
        fs::write(&file, configuration(address, &setup.folder, setup.durability))?;
        let mut command = Command::new(&setup.binary);
        command.arg(file);
        let mut process = Process::start("redis-server", command, &setup.cores, &setup.folder)?;
        let client = Client::open(format!("redis://{address}"))?;
        let attempt = async || Self::connect(&client, None).await;
        let mut connection = process.until(READY_TIMEOUT, attempt).await?;
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(STREAM).arg(GROUP).arg("0").arg("MKSTREAM");
        create.exec_async(&mut connection).await.context("cannot make the stream")?;
        Ok(Self { process, client })
    }

    async fn publishers(&self, shape: &Shape) -> Result<Vec<Publisher>> {
        let record = vec![b'r'; shape.record_size];
        let mut commands = Pipeline::new();
        for _ in 0..shape.batch_records {
            commands.cmd("XADD").arg(STREAM).arg("*").arg(FIELD).arg(&record);
        }
        let records = u64::from(shape.batch_records);
        let lane = |connection, _| Publisher { connection, commands: commands.clone(), records };
        self.lanes(shape, lane).await
    }

    async fn workers(&self, shape: &Shape) -> Result<Vec<Worker>> {
        let lane = |connection, index: usize| {
            let mut receive = cmd("XREADGROUP");
            receive.arg("GROUP").arg(GROUP).arg(format!("worker-{index}"));
            receive.arg("COUNT").arg(shape.batch_records).arg("STREAMS").arg(STREAM).arg(">");
            Worker { connection, receive, record_size: shape.record_size }
        };
        self.lanes(shape, lane).await
    }

    async fn harden(self, setup: &Setup) -> Result<Self> {
        let mut connection = Self::connect(&self.client, None).await?;
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("appendfsync").arg(append_fsync(setup.durability));
        set.exec_async(&mut connection).await.context("cannot set the durability")?;
        Ok(self)
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

impl Lane for Publisher {
    async fn turn(&mut self) -> Result<u64> {
        let answers: Vec<Value> = self.commands.query_async(&mut self.connection).await?;
        ensure!(answers.len() as u64 == self.records, "a record has no answer");
        Ok(self.records)
    }
}

impl Lane for Worker {
    async fn turn(&mut self) -> Result<u64> {
        let answer: Value = self.receive.query_async(&mut self.connection).await?;
        let ids = received(answer, self.record_size)?;
        if ids.is_empty() {
            return Ok(0);
        }
        let mut ack = cmd("XACK");
        ack.arg(STREAM).arg(GROUP).arg(&ids);
        let acked: u64 = ack.query_async(&mut self.connection).await?;
        ensure!(acked == ids.len() as u64, "{acked} of {} acks were taken", ids.len());
        Ok(acked)
    }
}

/// The ids in `[[stream, [[id, [field, record]], ..]]]`, or none in a nil.
fn received(answer: Value, record_size: usize) -> Result<Vec<Vec<u8>>> {
    if answer == Value::Nil {
        return Ok(Vec::new());
    }
    let [stream] = array(answer)?;
    let [_name, entries] = array(stream)?;
    let Value::Array(entries) = entries else { anyhow::bail!("not a list of entries") };
    let mut ids = Vec::with_capacity(entries.len());
    for entry in entries {
        let [id, fields] = array(entry)?;
        let [_field, record] = array(fields)?;
        let (Value::BulkString(id), Value::BulkString(record)) = (id, record) else {
            anyhow::bail!("not an entry");
        };
        ensure!(record.len() == record_size, "a record has {} bytes", record.len());
        ids.push(id);
    }
    Ok(ids)
}

fn array<const COUNT: usize>(value: Value) -> Result<[Value; COUNT]> {
    let Value::Array(values) = value else { anyhow::bail!("not an array") };
    let found = values.len();
    let values: Option<[Value; COUNT]> = values.try_into().ok();
    values.with_context(|| format!("{found} values instead of {COUNT}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_durability_stands_in_the_configuration() {
        let check = |durability, line: &str| {
            let address = SocketAddr::from(([127, 0, 0, 1], 7000));
            let text = configuration(address, Path::new("/data dir"), durability);
            let lines: Vec<&str> = text.lines().collect();
            for line in [line, "bind 127.0.0.1", "port 7000", "dir \"/data dir\"", "save \"\""] {
                assert!(lines.contains(&line), "{line} in {text}");
            }
        };
        check(Durability::Strict, "appendfsync always");
        check(Durability::Default, "appendfsync everysec");
    }

    #[test]
    fn received_records_are_checked() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let list = |values: &[Value]| Value::Array(values.to_vec());
        let entry = |id: &str, record: &str| list(&[text(id), list(&[text("r"), text(record)])]);
        let answer = |entries: &[Value]| list(&[list(&[text("records"), list(entries)])]);

        assert_eq!(received(Value::Nil, 3).unwrap(), Vec::<Vec<u8>>::new());
        let two = answer(&[entry("1-0", "abc"), entry("1-1", "def")]);
        assert_eq!(received(two, 3).unwrap(), [b"1-0".to_vec(), b"1-1".to_vec()]);
        assert!(received(answer(&[entry("1-0", "ab")]), 3).is_err(), "a record that is cut");
        assert!(received(Value::Okay, 3).is_err());
        assert!(received(list(&[text("records")]), 3).is_err());
    }
}
