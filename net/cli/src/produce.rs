//! `barrage produce`: one record per line of stdin or a file, and a summary of what became of them.
//!
//! Must never: print on stdout, or exit 0 when a record failed or its fate is unknown.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use barrage_client::{ClientError, Producer, ProducerOptions, Record, Report, Rival};
use barrage_model::batch::Compression;
use barrage_model::headers::{ROUTING_KEY, TAG, TTL_MS};
use barrage_model::limits::RECORD_BYTES_MAX;
use barrage_model::units::{parse_duration, parse_duration_ms};
use barrage_model::{PartitionId, Priorities, TopicName};
use barrage_wire::Acks;
use indicatif::{ProgressBar, ProgressStyle};

use crate::delay::DelayArgs;
use crate::exit::{FAILURE, say};
use crate::lines::{Line, Lines, read_ahead};
use crate::output::{Output, OutputArgs};
use crate::server::ServerArgs;
use crate::tally::Tally;

/// Large batches: a pipe wants throughput, and the linger bounds what a person waits.
const BATCH_BYTES: usize = 1024 * 1024;

/// Flags of `produce`.
#[derive(Debug, clap::Args)]
pub struct ProduceArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Read this file instead of stdin
    #[arg(long, value_name = "F")]
    file: Option<PathBuf>,
    /// Split each line at the first of these into key and value; a line without it has no key
    #[arg(long, value_name = "C", value_parser = parse_separator)]
    key_separator: Option<Separator>,
    /// Give every record this header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<Header>,
    /// Give every record this tag, for the filters of groups; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Give every record this routing key, for the filters of groups: words between dots
    #[arg(long, value_name = "KEY")]
    routing_key: Option<String>,
    /// How long queue groups are to have each record, from when it comes into the topic; later it
    /// goes to their dead-letter topics, or is done with
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<String>,
    /// How urgent the records are, 0 to 9; what is above the topic's highest level is of that
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "partition")]
    #[arg(value_parser = clap::value_parser!(u8).range(..i64::from(Priorities::LEVELS_MAX)))]
    priority: u8,
    #[command(flatten)]
    delay: DelayArgs,
    /// How batches are compressed: none, gzip, snappy, lz4, zstd
    #[arg(long, value_name = "NAME", default_value = "none")]
    compression: Compression,
    /// When a record counts as acknowledged: on a majority of replicas (quorum), or on every one
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = AcksArg::Quorum)]
    acks: AcksArg,
    /// Send everything to this partition
    #[arg(long, value_name = "N")]
    partition: Option<u32>,
    /// Write `partition offset line_number` for each acknowledged record, as its ack arrives; of a
    /// delayed record its id in place of the offset
    #[arg(long, value_name = "F")]
    receipts: Option<PathBuf>,
    /// How long a record is tried before it counts as failed or unknown
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_timeout)]
    timeout: Duration,
    /// When another producer holds the topic, whose order is global: wait until it is gone
    #[arg(long, conflicts_with = "take_over")]
    stand_by: bool,
    /// When another producer holds the topic, whose order is global: take it over
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// When the server says yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum AcksArg {
    /// On disk on a majority of replicas
    Quorum,
    /// On disk on every replica
    All,
}

/// A type of its own, because clap takes a `Vec` for a flag that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Separator(Vec<u8>);

/// A header that every record gets.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Header {
    name: String,
    value: String,
}

impl ProduceArgs {
    fn rival(&self) -> Rival {
        match (self.take_over, self.stand_by) {
            (true, _) => Rival::TakeOver,
            (_, true) => Rival::Wait,
            _ => Rival::Refuse,
        }
    }

    fn headers(&self) -> Vec<(&[u8], &[u8])> {
        let named = self.headers.iter().map(|header| (header.name.as_str(), &header.value));
        let tags = self.tags.iter().map(|tag| (TAG, tag));
        let routing_key = self.routing_key.iter().map(|key| (ROUTING_KEY, key));
        let ttl = self.ttl.iter().map(|ttl| (TTL_MS, ttl));
        let all = named.chain(tags).chain(routing_key).chain(ttl);
        all.map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
    }
}

pub(crate) async fn run(args: ProduceArgs) -> anyhow::Result<ExitCode> {
    let (source, size) = open_source(args.file.as_deref())?;
    let receipts = args.receipts.as_deref().map(create_file).transpose()?;
    let client = args.server.connect().await?;
    let tally = Arc::new(Mutex::new(Tally::new(receipts)));
    let options = ProducerOptions {
        acks: match args.acks {
            AcksArg::Quorum => Acks::Quorum,
            AcksArg::All => Acks::All,
        },
        compression: args.compression,
        batch_bytes: BATCH_BYTES,
        delivery_timeout: args.timeout,
        rival: args.rival(),
        ..ProducerOptions::default()
    };
    let for_reports = Arc::clone(&tally);
    let on_report = Box::new(move |report: &Report<'_>| lock(&for_reports).handle_report(report));
    let topic = args.topic.as_str();
    let producer = Producer::with_reports(&client, topic, options, on_report).await?;
    let partition = args.partition.map(PartitionId);
    let partitions = producer.partition_count();
    if let Some(partition) = partition.filter(|partition| partition.0 >= partitions) {
        producer.close().await;
        return Err(ClientError::NoSuchPartition { partition, partitions }.into());
    }

    let bar = progress_bar(size);
    let started = Instant::now();
    let headers = args.headers();
    let mut feed =
        Feed { producer: &producer, args: &args, headers, tally: &tally, line_number: 0 };
    let fed = feed.run(source, &bar).await;
    producer.close().await;
    let elapsed = started.elapsed();
    let bytes = bar.position();
    bar.finish_and_clear();

    let mut tally = lock(&tally);
    let summary = tally.summary(bytes, elapsed);
    match args.output.output {
        Output::Table => say(&summary.in_words()),
        Output::Json => say(&serde_json::to_string(&summary)?),
    }
    fed?;
    if let Some(error) = tally.take_receipts_error() {
        return Err(error).context("receipts are incomplete");
    }
    Ok(if summary.is_complete() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// Feeds lines to the producer.
struct Feed<'a> {
    producer: &'a Producer,
    args: &'a ProduceArgs,
    headers: Vec<(&'a [u8], &'a [u8])>,
    tally: &'a Mutex<Tally>,
    /// Of the last line read; counted from 1.
    line_number: u64,
}

impl Feed<'_> {
    async fn run(&mut self, source: Source, bar: &ProgressBar) -> anyhow::Result<()> {
        let mut chunks = read_ahead(source);
        let mut lines = Lines::new(RECORD_BYTES_MAX);
        while let Some(chunk) = chunks.recv().await {
            let chunk = chunk.context("cannot read the input")?;
            bar.inc(chunk.len() as u64);
            if !bar.is_hidden() {
                bar.set_message(format!("{} acked", lock(self.tally).acked()));
            }
            lines.push(chunk);
            while let Some(line) = lines.next() {
                self.send(line).await?;
            }
            // Sending does not wait while there is room: let batches leave and answers in.
            tokio::task::yield_now().await;
        }
        match lines.last() {
            Some(line) => self.send(line).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, line: Line<'_>) -> anyhow::Result<()> {
        self.line_number += 1;
        let token = self.line_number;
        let Line::Bytes(line) = line else {
            let error = format!("a line is longer than {RECORD_BYTES_MAX} bytes");
            lock(self.tally).handle_failed(1, &error);
            return Ok(());
        };
        let (key, value) = split(line, self.args.key_separator.as_ref());
        let partition = self.args.partition.map(PartitionId);
        let (value, headers) = (Some(value), self.headers.as_slice());
        let (delay, priority) = (self.args.delay.delay(), self.args.priority);
        let record = Record { priority, key, value, headers, delay, token, ..Record::default() };
        let record = Record { partition, ..record };
        match self.producer.send(record).await {
            Ok(_delivery) => Ok(()),
            Err(error @ ClientError::Batch(_)) => {
                lock(self.tally).handle_failed(1, &error.to_string());
                Ok(())
            }
            Err(error) => Err(error).with_context(|| format!("at line {token}")),
        }
    }
}

type Source = Box<dyn Read + Send>;

fn open_source(path: Option<&Path>) -> anyhow::Result<(Source, Option<u64>)> {
    let Some(path) = path else { return Ok((Box::new(io::stdin()), None)) };
    let context = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(context)?;
    let metadata = file.metadata().with_context(context)?;
    Ok((Box::new(file), metadata.is_file().then_some(metadata.len())))
}

fn create_file(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

/// Shown on a terminal only; counts bytes read in any case.
fn progress_bar(size: Option<u64>) -> ProgressBar {
    let bar = match size {
        Some(size) => ProgressBar::new(size),
        None => ProgressBar::no_length(),
    };
    if !io::stderr().is_terminal() {
        bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        return bar;
    }
    let template = match size {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {msg} {eta}",
        None => "{spinner} {bytes} {bytes_per_sec} {msg}",
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn split<'a>(line: &'a [u8], separator: Option<&Separator>) -> (Option<&'a [u8]>, &'a [u8]) {
    let Some(Separator(separator)) = separator else { return (None, line) };
    let found = line.windows(separator.len()).position(|window| window == *separator);
    let Some(at) = found else { return (None, line) };
    let (key, rest) = line.split_at(at);
    (Some(key), rest.get(separator.len()..).unwrap_or_default())
}

/// `\t` may be written so, because a shell makes a real tab awkward.
fn parse_separator(text: &str) -> Result<Separator, String> {
    let separator = text.replace("\\t", "\t").into_bytes();
    if separator.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(Separator(separator))
    }
}

/// As the header has it.
fn parse_ttl(text: &str) -> Result<String, String> {
    match parse_duration_ms(text).map_err(|error| error.to_string())? {
        0 => Err("a record is wanted for some time".to_owned()),
        ttl_ms => Ok(ttl_ms.to_string()),
    }
}

fn parse_header(text: &str) -> Result<Header, String> {
    let (name, value) = text.split_once('=').ok_or("a header is NAME=VALUE")?;
    Ok(Header { name: name.to_owned(), value: value.to_owned() })
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(timeout) if timeout.is_zero() => Err("must be above zero".to_owned()),
        Ok(timeout) => Ok(timeout),
        Err(error) => Err(error.to_string()),
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_separator() {
        type Case<'a> = (&'a str, Option<&'a str>, Option<&'a str>, &'a str);
        let table: [Case<'_>; 7] = [
            ("a:b:c", Some(":"), Some("a"), "b:c"),
            ("abc", Some(":"), None, "abc"),
            (":b", Some(":"), Some(""), "b"),
            ("a:", Some(":"), Some("a"), ""),
            ("a=>b", Some("=>"), Some("a"), "b"),
            ("", Some(":"), None, ""),
            ("a:b", None, None, "a:b"),
        ];
        for (line, separator, key, value) in table {
            let separator = separator.map(|text| parse_separator(text).unwrap());
            let found = split(line.as_bytes(), separator.as_ref());
            assert_eq!(found, (key.map(str::as_bytes), value.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn separators_may_be_written_tabs_but_not_nothing() {
        assert_eq!(parse_separator("\\t"), Ok(Separator(b"\t".to_vec())));
        assert_eq!(parse_separator(":"), Ok(Separator(b":".to_vec())));
        assert!(parse_separator("").is_err());
    }
}
