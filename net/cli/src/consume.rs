//! `barrage consume`: prints the records of a topic, in order within each partition; or those that
//! a group gives: of a queue group, which are acked, or of a stream group, whose offsets are kept.
//!
//! Must never: print anything but records on stdout; print a record of a topic twice; ack one, or
//! store an offset behind one, that was not printed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use barrage_client::queue::{Received, Record};
use barrage_client::stream::StreamConsumer;
use barrage_client::{Client, Consumer, ConsumerOptions, FetchedBatch, StreamOptions};
use barrage_model::{GroupName, PartitionId, TopicName};
use barrage_wire::GroupKind;

use crate::exit::say;
use crate::group::{GroupArgs, find};
use crate::output::print;
use crate::position::Position;
use crate::queue::{Worker, open};
use crate::server::ServerArgs;
use crate::template::{Fields, Template};

/// Output is written in pieces of about this size, or when there is nothing more to read.
const BUFFER_BYTES: usize = 256 * 1024;
/// How often a member of a stream group that is to stop at the end looks whether it is there.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Fetched at once, per partition.
const FETCH_BYTES: u32 = 2 * 1024 * 1024;

/// Flags of `consume`.
#[derive(Debug, clap::Args)]
pub struct ConsumeArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Where to begin: start, end, an offset, or a time as @2026-11-21T08:00:00Z or @-10m
    #[arg(
        long,
        value_name = "start|end|OFFSET|@TIME",
        default_value = "start",
        allow_hyphen_values = true,
        conflicts_with = "group"
    )]
    from: Position,
    /// Read this partition only
    #[arg(long, value_name = "N", conflicts_with = "group")]
    partition: Option<u32>,
    /// Share the work of this group, whose kind is found out: of a queue group each record is acked
    /// when it was printed, of a stream group it is stored how far records were printed
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
    /// Stop after so many records
    #[arg(short = 'n', value_name = "COUNT")]
    count: Option<u64>,
    /// Stop at the end, as it is when the command starts; with --group when it has nothing to give
    #[arg(long)]
    exit: bool,
    /// How to print a record: %k %v %o %p %t %h %% and \n \t \r \0 \\ \xHH
    #[arg(long, default_value = "%v\\n", allow_hyphen_values = true)]
    format: Template,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: ConsumeArgs) -> anyhow::Result<ExitCode> {
    match args.group.clone() {
        Some(group) => share(args, group).await,
        None => read(args).await,
    }
}

async fn share(args: ConsumeArgs, group: GroupName) -> anyhow::Result<ExitCode> {
    let place = GroupArgs { topic: args.topic.clone(), group };
    let client = args.server.connect().await?;
    match find(&client, &place).await?.kind {
        GroupKind::Queue(_) => work(args, place).await,
        GroupKind::Stream { .. } => follow(args, &client, &place).await,
    }
}

/// Prints records as a member of a stream group.
async fn follow(args: ConsumeArgs, client: &Client, place: &GroupArgs) -> anyhow::Result<ExitCode> {
    let options = StreamOptions { fetch_bytes_max: FETCH_BYTES, ..StreamOptions::default() };
    let GroupArgs { topic, group } = place;
    let member = client.stream(&[topic.as_str()], group.as_str(), options).await;
    let mut member = member.with_context(|| place.words())?;
    let left = args.count.unwrap_or(u64::MAX);
    let mut printer = Printer { format: &args.format, left, out: Vec::new() };
    let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
    while printer.left > 0 {
        let printed = tokio::select! {
            printed = tokio::time::timeout(LOOK_EVERY, printer.print_next(&mut member)) => printed,
            // Others need not wait for the end of its session.
            _ = &mut interrupted => break,
        };
        match printed {
            Ok(printed) => printed.with_context(|| place.words())?,
            Err(_) if !args.exit => {}
            Err(_) => {
                let lag = member.lag().await.with_context(|| place.words())?;
                if lag == Some(0) {
                    break;
                }
            }
        }
    }
    member.close().await.with_context(|| place.words())?;
    Ok(ExitCode::SUCCESS)
}

/// Prints and acks the records of a queue group.
async fn work(args: ConsumeArgs, place: GroupArgs) -> anyhow::Result<ExitCode> {
    let worker = Worker {
        queue: open(&args.server, &place).await?,
        left: args.count.unwrap_or(u64::MAX),
        wait: args.exit.then_some(Duration::ZERO),
    };
    let mut out = Vec::new();
    let write = |received: &[Received]| {
        out.clear();
        for Received { record, .. } in received {
            args.format.print_fields(&fields(record), &mut out);
        }
        Ok(print(&out)?)
    };
    worker.work(write).await.with_context(|| place.words())
}

/// What a template prints of a record.
fn fields(record: &Record) -> Fields<'_, impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone> {
    let headers = record.headers.iter();
    Fields {
        partition: record.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: headers.map(|(key, value)| (key.as_ref(), value.as_deref())),
    }
}

async fn read(args: ConsumeArgs) -> anyhow::Result<ExitCode> {
    let client = args.server.connect().await?;
    let options = ConsumerOptions {
        partitions: args.partition.map(|partition| vec![PartitionId(partition)]),
        from: args.from.resolve(),
        stop_at_end: args.exit,
        fetch_bytes_max: FETCH_BYTES,
        ..ConsumerOptions::default()
    };
    let mut consumer = client.consumer(args.topic.as_str(), options).await?;
    let mut printer = Printer {
        format: &args.format,
        left: args.count.unwrap_or(u64::MAX),
        out: Vec::with_capacity(2 * BUFFER_BYTES),
    };
    let result = printer.print_all(&mut consumer).await;
    // What was read before an error is printed before the error is told.
    printer.flush()?;
    result.map(|()| ExitCode::SUCCESS)
}

struct Printer<'a> {
    format: &'a Template,
    left: u64,
    out: Vec<u8>,
}

impl Printer<'_> {
    async fn print_all(&mut self, consumer: &mut Consumer) -> anyhow::Result<()> {
        while self.left > 0 {
            if consumer.is_drained() {
                self.flush()?;
            }
            let Some(batch) = consumer.next_batch().await? else { return Ok(()) };
            self.print_batch(&batch)?;
        }
        Ok(())
    }

    /// Prints what a stream group gives next, all of it: the next call counts it as done.
    async fn print_next(&mut self, member: &mut StreamConsumer) -> anyhow::Result<()> {
        if self.left == u64::MAX {
            let batch = member.next_batch().await?.batch;
            self.print_batch(&batch)?;
            self.left = u64::MAX;
        } else {
            // A batch may hold more than is wanted.
            let record = member.next().await?.record;
            self.format.print_fields(&fields(&record), &mut self.out);
            self.left -= 1;
        }
        self.flush()
    }

    fn print_batch(&mut self, batch: &FetchedBatch) -> anyhow::Result<()> {
        if batch.skipped > 0 {
            say(&format!(
                "partition {}: retention dropped {} records before they were read",
                batch.partition, batch.skipped
            ));
        }
        let records = batch.records()?;
        for record in &records {
            let record = record?;
            if !batch.wants(record.offset) {
                continue;
            }
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.format.print(batch.partition, &record, &mut self.out);
            if self.out.len() >= BUFFER_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if !self.out.is_empty() {
            print(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }
}
