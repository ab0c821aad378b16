//! `barrage queue`: receive, ack, nack, extend, peek, purge, rewind.
//!
//! Must never: say that a receipt was settled which was not.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use barrage_client::queue::{Queue, Receipt, Received, Record, SettleError};
use barrage_client::{From as Begin, QueueOptions};
use barrage_model::units::parse_duration;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::exit::{FAILURE, say};
use crate::group::{GroupArgs, parse_visibility};
use crate::output::{Output, OutputArgs, print, print_json};
use crate::position::Position;
use crate::server::ServerArgs;

/// What can be done with the records of a queue group.
#[derive(Debug, clap::Subcommand)]
pub enum QueueCommand {
    /// Lease records and print them with their receipts
    Receive(ReceiveArgs),
    /// Records are done, by their receipts
    Ack(AckArgs),
    /// Give records back, by their receipts
    Nack(NackArgs),
    /// Keep records for longer, by their receipts
    Extend(ExtendArgs),
    /// Print records that could be leased, without leasing them
    Peek(PeekArgs),
    /// Everything that is there now is done with
    Purge(PurgeArgs),
    /// Deliver again what was delivered before
    Rewind(RewindArgs),
}

/// Flags of `queue receive`.
#[derive(Debug, clap::Args)]
pub struct ReceiveArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// At most so many records
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long to wait for the first of them
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    wait: Duration,
    /// How long they are leased [default: the group's]
    #[arg(long, value_name = "TIME", value_parser = parse_visibility)]
    visibility: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `queue ack`.
#[derive(Debug, clap::Args)]
pub struct AckArgs {
    #[command(flatten)]
    receipts: Receipts,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `queue nack`.
#[derive(Debug, clap::Args)]
pub struct NackArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// How long nobody gets them, 12h at most [default: the group's back-off]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    delay: Option<Duration>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `queue extend`.
#[derive(Debug, clap::Args)]
pub struct ExtendArgs {
    #[command(flatten)]
    receipts: Receipts,
    /// How long from now on, 1s to 12h
    #[arg(long, value_name = "TIME", value_parser = parse_visibility)]
    visibility: u64,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
struct Receipts {
    #[command(flatten)]
    place: GroupArgs,
    /// Which leases, as `queue receive` printed them
    #[arg(required = true, value_name = "RECEIPT")]
    receipts: Vec<Receipt>,
}

/// Flags of `queue peek`.
#[derive(Debug, clap::Args)]
pub struct PeekArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// At most so many records
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `queue purge`.
#[derive(Debug, clap::Args)]
pub struct PurgeArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `queue rewind`.
#[derive(Debug, clap::Args)]
pub struct RewindArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// From where on: start, an offset of every partition, or a time as @2026-11-21T08:00:00Z or
    /// @-10m
    #[arg(long, value_name = "start|OFFSET|@TIME", value_parser = parse_target)]
    #[arg(allow_hyphen_values = true)]
    to: Position,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: QueueCommand) -> anyhow::Result<ExitCode> {
    match command {
        QueueCommand::Receive(args) => receive(args).await,
        QueueCommand::Ack(AckArgs { receipts, server }) => {
            let Receipts { place, receipts } = receipts;
            let results = open(&server, &place).await?.ack(&receipts).await;
            Ok(report("acked", &receipts, &results))
        }
        QueueCommand::Nack(NackArgs { receipts, delay, server }) => {
            let Receipts { place, receipts } = receipts;
            let results = open(&server, &place).await?.nack(&receipts, delay).await;
            Ok(report("gave back", &receipts, &results))
        }
        QueueCommand::Extend(ExtendArgs { receipts, visibility, server }) => {
            let Receipts { place, receipts } = receipts;
            let visibility = Duration::from_millis(visibility);
            let results = open(&server, &place).await?.extend(&receipts, visibility).await;
            Ok(report("extended", &receipts, &results))
        }
        QueueCommand::Peek(args) => peek(args).await,
        QueueCommand::Purge(PurgeArgs { place, server }) => {
            let purged = open(&server, &place).await?.purge().await;
            purged.with_context(|| place.words())?;
            say(&format!("purged {}", place.words()));
            Ok(ExitCode::SUCCESS)
        }
        QueueCommand::Rewind(RewindArgs { place, to, server }) => {
            let rewound = open(&server, &place).await?.rewind(to.resolve()).await;
            rewound.with_context(|| place.words())?;
            say(&format!("rewound {}", place.words()));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn parse_target(text: &str) -> Result<Position, String> {
    match text.parse::<Position>().map_err(|error| error.to_string())? {
        Position::At(Begin::End) => {
            Err("behind the end there is nothing to deliver again; `queue purge` goes there".into())
        }
        position => Ok(position),
    }
}

pub(crate) async fn open(server: &ServerArgs, place: &GroupArgs) -> anyhow::Result<Queue> {
    let client = server.connect().await?;
    let GroupArgs { topic, group } = place;
    let queue = client.queue(topic.as_str(), group.as_str(), QueueOptions::default()).await;
    queue.with_context(|| place.words())
}

/// Says what became of each receipt that was not settled.
fn report(done: &str, receipts: &[Receipt], results: &[Result<(), SettleError>]) -> ExitCode {
    let mut failed = 0;
    for (receipt, result) in receipts.iter().zip(results) {
        if let Err(error) = result {
            failed += 1;
            say(&format!("{receipt}: {error}"));
        }
    }
    say(&format!("{done} {} of {}", receipts.len() - failed, receipts.len()));
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILURE),
    }
}

async fn receive(args: ReceiveArgs) -> anyhow::Result<ExitCode> {
    let queue = open(&args.server, &args.place).await?;
    let visibility = args.visibility.map(Duration::from_millis);
    let received = queue.receive(args.count as usize, args.wait, visibility).await;
    let received = received.with_context(|| args.place.words())?;
    let printed = match args.output.output {
        Output::Json => print_json(&received.iter().map(ReceivedRow::new).collect::<Vec<_>>()),
        Output::Table => {
            let mut out = Vec::new();
            for one in &received {
                print_line(&one.receipt.to_string(), &one.record, &mut out);
            }
            print(&out).map_err(Into::into)
        }
    };
    if printed.is_err() {
        // Nobody knows their receipts: others may have them at once. Part of them may have been
        // read, so that counts as a delivery.
        let receipts: Vec<Receipt> = received.iter().map(|one| one.receipt).collect();
        drop(queue.nack(&receipts, Some(Duration::ZERO)).await);
    }
    printed.map(|()| ExitCode::SUCCESS)
}

async fn peek(args: PeekArgs) -> anyhow::Result<ExitCode> {
    let queue = open(&args.server, &args.place).await?;
    let records = queue.peek(args.count as usize).await;
    let records = records.with_context(|| args.place.words())?;
    match args.output.output {
        Output::Json => print_json(&records.iter().map(RecordRow::new).collect::<Vec<_>>())?,
        Output::Table => {
            let mut out = Vec::new();
            for record in &records {
                let place = format!("{}-{}", record.partition, record.offset);
                print_line(&place, record, &mut out);
            }
            print(&out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a record is called, a tab, its value as it is.
pub(crate) fn print_line(name: &str, record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b'\t');
    out.extend_from_slice(record.value.as_deref().unwrap_or_default());
    out.push(b'\n');
}

/// A record as JSON. What is no text stands under a name that ends in `_base64`.
#[derive(Serialize)]
pub(crate) struct RecordRow {
    #[serde(flatten)]
    key: Map<String, Value>,
    #[serde(flatten)]
    value: Map<String, Value>,
    headers: Vec<Map<String, Value>>,
    partition: u32,
    offset: u64,
    timestamp_ms: i64,
}

#[derive(Serialize)]
struct ReceivedRow {
    #[serde(flatten)]
    record: RecordRow,
    receipt: String,
    delivery_count: u16,
    first_delivered_ms: u64,
    /// When others may have it, in words and in UTC.
    next_visible_time: String,
}

impl RecordRow {
    pub(crate) fn new(record: &Record) -> Self {
        let header = |(key, value): &(Bytes, Option<Bytes>)| {
            let mut row = text_or_base64("key", Some(key));
            row.extend(text_or_base64("value", value.as_ref()));
            row
        };
        Self {
            key: text_or_base64("key", record.key.as_ref()),
            value: text_or_base64("value", record.value.as_ref()),
            headers: record.headers.iter().map(header).collect(),
            partition: record.partition.0,
            offset: record.offset.0,
            timestamp_ms: record.timestamp_ms,
        }
    }
}

impl ReceivedRow {
    fn new(received: &Received) -> Self {
        let end_ms = i64::try_from(received.lease_end_ms).unwrap_or(i64::MAX);
        let end = jiff::Timestamp::from_millisecond(end_ms).unwrap_or(jiff::Timestamp::MAX);
        Self {
            record: RecordRow::new(&received.record),
            receipt: received.receipt.to_string(),
            delivery_count: received.deliveries,
            first_delivered_ms: received.first_delivered_ms,
            next_visible_time: end.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        }
    }
}

fn text_or_base64(name: &str, bytes: Option<&Bytes>) -> Map<String, Value> {
    let (name, value) = match bytes.map(|bytes| (bytes, std::str::from_utf8(bytes))) {
        None => (name.to_owned(), Value::Null),
        Some((_, Ok(text))) => (name.to_owned(), text.into()),
        Some((bytes, Err(_))) => (format!("{name}_base64"), BASE64.encode(bytes).into()),
    };
    Map::from_iter([(name, value)])
}

/// How `consume --group` reads: prints, then acks.
pub(crate) struct Worker {
    pub(crate) queue: Queue,
    pub(crate) left: u64,
    /// How long to wait for more; `None` for ever.
    pub(crate) wait: Option<Duration>,
}

/// Records that are leased at once: printing them takes far less than a lease.
const WORK_COUNT: u64 = 500;
/// One receive waits so long; then it is asked again.
const WORK_WAIT: Duration = Duration::from_secs(20);

impl Worker {
    /// Hands records to `write` and acks them when it has written them.
    pub(crate) async fn work(
        mut self,
        mut write: impl FnMut(&[Received]) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let mut failed = 0_usize;
        while self.left > 0 {
            let count = usize::try_from(self.left.min(WORK_COUNT)).unwrap_or(usize::MAX);
            let wait = self.wait.unwrap_or(WORK_WAIT);
            let received = self.queue.receive(count, wait, None).await?;
            if received.is_empty() && self.wait.is_some() {
                break;
            }
            self.left = self.left.saturating_sub(received.len() as u64);
            let receipts: Vec<Receipt> = received.iter().map(|one| one.receipt).collect();
            if let Err(error) = write(&received) {
                // What was not written is for others, at once.
                drop(self.queue.nack(&receipts, Some(Duration::ZERO)).await);
                return Err(error);
            }
            for (receipt, result) in receipts.iter().zip(self.queue.ack(&receipts).await) {
                if let Err(error) = result {
                    failed += 1;
                    say(&format!("{receipt}: printed, but not acked: {error}"));
                }
            }
        }
        if failed > 0 {
            bail!("{failed} records were printed and not acked: they may come again");
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{Offset, PartitionId};

    use super::*;

    #[test]
    fn what_is_no_text_is_base64() {
        let bytes = |bytes: &'static [u8]| Some(Bytes::from_static(bytes));
        let record = Record {
            partition: PartitionId(3),
            offset: Offset(7),
            timestamp_ms: 42,
            key: None,
            value: bytes(b"\xff\x00"),
            headers: vec![
                (Bytes::from_static(b"a"), bytes("ä".as_bytes())),
                (Bytes::from_static(b"\xff"), None),
            ],
        };
        let wanted = serde_json::json!({
            "key": null,
            "value_base64": "/wA=",
            "headers": [{"key": "a", "value": "ä"}, {"key_base64": "/w==", "value": null}],
            "partition": 3,
            "offset": 7,
            "timestamp_ms": 42,
        });
        assert_eq!(serde_json::to_value(RecordRow::new(&record)).unwrap(), wanted);
    }
}
