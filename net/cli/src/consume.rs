//! `barrage consume`: prints the records of a topic, in order within each partition; or those of a
//! queue group, and acks them.
//!
//! Must never: print anything but records on stdout; print a record of a topic twice; ack one that
//! was not printed.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use barrage_client::queue::Received;
use barrage_client::{Consumer, ConsumerOptions, FetchedBatch};
use barrage_model::{GroupName, PartitionId, TopicName};

use crate::exit::say;
use crate::group::GroupArgs;
use crate::output::print;
use crate::position::Position;
use crate::queue::{Worker, open};
use crate::server::ServerArgs;
use crate::template::{Fields, Template};

/// Output is written in pieces of about this size, or when there is nothing more to read.
const BUFFER_BYTES: usize = 256 * 1024;
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
    /// Share the work of this queue group: each record is acked when it was printed
    #[arg(long, value_name = "GROUP", value_parser = GroupName::parse)]
    group: Option<GroupName>,
    /// Stop after so many records
    #[arg(short = 'n', value_name = "COUNT")]
    count: Option<u64>,
    /// Stop at the end, as it is when the command starts; with --group when nothing is visible
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
        Some(group) => work(args, group).await,
        None => read(args).await,
    }
}

/// Prints and acks the records of a queue group.
async fn work(args: ConsumeArgs, group: GroupName) -> anyhow::Result<ExitCode> {
    let place = GroupArgs { topic: args.topic, group };
    let worker = Worker {
        queue: open(&args.server, &place).await?,
        left: args.count.unwrap_or(u64::MAX),
        wait: args.exit.then_some(Duration::ZERO),
    };
    let mut out = Vec::new();
    let write = |received: &[Received]| {
        out.clear();
        for Received { record, .. } in received {
            let headers = record.headers.iter();
            let fields = Fields {
                partition: record.partition,
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: headers.map(|(key, value)| (key.as_ref(), value.as_deref())),
            };
            args.format.print_fields(&fields, &mut out);
        }
        Ok(print(&out)?)
    };
    worker.work(write).await.with_context(|| place.words())
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
