//! `barrage delay`: records that wait for their time: ls, cancel, reschedule.
//!
//! Must never: exit 0 when one of the records that were named was not changed.

use std::process::ExitCode;
use std::time::Duration;

use barrage_client::{Change, Client, Delay, DelayedId, DelayedRecords};
use barrage_model::units::parse_duration;
use barrage_model::{PartitionId, TopicName};
use serde::Serialize;

use crate::exit::{FAILURE, say};
use crate::output::{Output, OutputArgs, print_json, print_table, when};
use crate::position::instant_ms;
use crate::server::ServerArgs;

/// What can be done with records that wait.
#[derive(Debug, clap::Subcommand)]
pub enum DelayCommand {
    /// List records that wait, the oldest of each partition first
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Let nobody have them
    Cancel(CancelArgs),
    /// Let them wait until another time
    Reschedule(RescheduleArgs),
}

/// Flags of `delay ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// List at most so many of each partition; all are counted
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 10)]
    count: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `delay cancel`.
#[derive(Debug, clap::Args)]
pub struct CancelArgs {
    #[command(flatten)]
    records: Records,
}

/// Flags of `delay reschedule`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("when").required(true).args(["delay", "at"])))]
pub struct RescheduleArgs {
    #[command(flatten)]
    records: Records,
    #[command(flatten)]
    when: DelayArgs,
}

/// Which records, and how to say what came of it.
#[derive(Debug, clap::Args)]
struct Records {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    /// Which records: what `produce --receipts` or `delay ls` names
    #[arg(value_name = "PARTITION:ID", required = true)]
    ids: Vec<DelayedId>,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// From when on records are to be had, if not at once.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct DelayArgs {
    /// Only after so long: 30s, 15m, 12h, 40d
    #[arg(long, value_name = "TIME", value_parser = parse_delay, conflicts_with = "at")]
    delay: Option<Duration>,
    /// Only from this instant on: 2026-11-21T20:00:00Z, 2026-11-21, or milliseconds since 1970
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    at: Option<u64>,
}

impl DelayArgs {
    pub(crate) fn delay(self) -> Option<Delay> {
        self.delay.map(Delay::For).or(self.at.map(Delay::Until))
    }
}

pub(crate) async fn run(command: DelayCommand) -> anyhow::Result<ExitCode> {
    match command {
        DelayCommand::Ls(args) => list(args).await,
        DelayCommand::Cancel(args) => change(args.records, Change::Cancel).await,
        DelayCommand::Reschedule(args) => {
            let Some(delay) = args.when.delay() else {
                unreachable!("one of both is required");
            };
            change(args.records, Change::Reschedule(delay)).await
        }
    }
}

#[derive(Serialize)]
struct WaitingRow {
    partition: u32,
    count: u64,
    oldest: Vec<DelayedRow>,
}

#[derive(Serialize)]
struct DelayedRow {
    id: String,
    due_ms: u64,
    due: String,
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let (_client, delayed) = open(&args.server, &args.topic).await?;
    let mut rows = Vec::new();
    for partition in 0..delayed.partition_count() {
        let waiting = delayed.list(PartitionId(partition), args.count).await?;
        let row = |(id, due_ms): &(DelayedId, u64)| DelayedRow {
            id: id.to_string(),
            due_ms: *due_ms,
            due: instant(*due_ms),
        };
        let oldest = waiting.oldest.iter().map(row).collect();
        rows.push(WaitingRow { partition, count: waiting.count, oldest });
    }
    match args.output.output {
        Output::Json => print_json(&rows)?,
        Output::Table => {
            let lines = rows
                .iter()
                .flat_map(|row| row.oldest.iter().map(|one| vec![one.id.clone(), one.due.clone()]));
            print_table(&["RECORD", "DUE"], lines.collect())?;
            let count: u64 = rows.iter().map(|row| row.count).sum();
            say(&format!("{count} records wait"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct ChangedRow {
    id: String,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

async fn change(records: Records, change: Change) -> anyhow::Result<ExitCode> {
    let (_client, delayed) = open(&records.server, &records.topic).await?;
    let results = delayed.change(&records.ids, change).await;
    let row = |(id, result): (&DelayedId, &Result<(), _>)| ChangedRow {
        id: id.to_string(),
        ok: result.is_ok(),
        error: result.as_ref().err().map(ToString::to_string),
    };
    let rows: Vec<ChangedRow> = records.ids.iter().zip(&results).map(row).collect();
    let done = rows.iter().filter(|row| row.ok).count();
    match records.output.output {
        Output::Json => print_json(&rows)?,
        Output::Table => {
            for row in &rows {
                if let Some(error) = &row.error {
                    say(&format!("{}: {error}", row.id));
                }
            }
            let what = if change == Change::Cancel { "cancelled" } else { "rescheduled" };
            say(&format!("{done} of {} {what}", rows.len()));
        }
    }
    Ok(if done == rows.len() { ExitCode::SUCCESS } else { ExitCode::from(FAILURE) })
}

/// The client has to live as long as what it gave.
async fn open(server: &ServerArgs, topic: &TopicName) -> anyhow::Result<(Client, DelayedRecords)> {
    let client = server.connect().await?;
    let delayed = client.delayed(topic.as_str()).await?;
    Ok((client, delayed))
}

fn instant(milliseconds: u64) -> String {
    when(i64::try_from(milliseconds).unwrap_or(i64::MAX))
}

fn parse_delay(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

fn parse_instant(text: &str) -> Result<u64, String> {
    let found = instant_ms(text).and_then(|at| u64::try_from(at).ok());
    found.ok_or_else(|| {
        "use 2026-11-21T20:00:00Z, 2026-11-21T20:00 (UTC), 2026-11-21, or milliseconds since 1970"
            .to_owned()
    })
}
