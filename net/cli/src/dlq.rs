//! `barrage dlq`: the dead letters of a group: ls, peek, redrive, rm.
//!
//! Letters lie in a topic like any other. Which of them are done with, redriven or removed, a queue
//! group of that topic knows (`ledger`), made when it is first needed; so letters stay where they
//! are as long as retention keeps them, and nobody handles one twice at the same time.
//!
//! Must never: be done with a letter whose record is not stored in its topic again, unless it is
//! told to remove it.

mod choice;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use barrage_client::queue::{Begin, Queue, Receipt, Received, Record};
use barrage_client::{Client, Producer, ProducerOptions, QueueOptions, Record as NewRecord};
use barrage_model::{Offset, PartitionId, QueueSettings, TopicName};
use barrage_wire::{ErrorCode, GroupKind};
use indicatif::{ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use self::choice::{Choice, Kind, LetterId, header, ledger, own_headers};
use crate::exit::{FAILURE, say};
use crate::group::GroupArgs;
use crate::output::{Output, OutputArgs, print, print_json, print_table};
use crate::queue::{RecordRow, print_line};
use crate::server::ServerArgs;

/// What can be done with the dead letters of a group.
#[derive(Debug, clap::Subcommand)]
pub enum DlqCommand {
    /// Count them, by partition of their topic
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Print the oldest of them
    Peek(PeekArgs),
    /// Put records back into the topic that they come from
    Redrive(RedriveArgs),
    /// Be done with letters without putting them back
    #[command(alias = "delete")]
    Rm(RemoveArgs),
}

/// Flags of `dlq ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `dlq peek`.
#[derive(Debug, clap::Args)]
pub struct PeekArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// At most so many
    #[arg(short = 'n', value_name = "COUNT", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `dlq redrive`.
#[derive(Debug, clap::Args)]
pub struct RedriveArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    choice: Choice,
    /// At most so many
    #[arg(short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// At most so many in a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Print which ones, and leave them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `dlq rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    choice: Choice,
    /// At most so many
    #[arg(short = 'n', value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print which ones, and leave them
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Letters that are handled together.
const BATCH: usize = 200;
/// So long a letter is kept from other commands if this one is killed.
const HELD: Duration = Duration::from_secs(300);

pub(crate) async fn run(command: DlqCommand) -> anyhow::Result<ExitCode> {
    match command {
        DlqCommand::Ls(args) => list(args).await?,
        DlqCommand::Peek(args) => peek(args).await?,
        DlqCommand::Redrive(args) => {
            let letters = Letters::open(&args.server, &args.place).await?;
            let topic = args.place.topic.as_str();
            let producer = letters.client.producer(topic, ProducerOptions::default()).await?;
            let work = Work {
                choice: args.choice,
                left: args.count.unwrap_or(u64::MAX),
                rate: args.rate,
                what: if args.dry_run { What::Show } else { What::Redrive(producer) },
            };
            return letters.work(work, args.output.output).await;
        }
        DlqCommand::Rm(args) => {
            let letters = Letters::open(&args.server, &args.place).await?;
            let what = if args.dry_run { What::Show } else { What::Remove };
            let left = args.count.unwrap_or(u64::MAX);
            let work = Work { choice: args.choice, left, rate: None, what };
            return letters.work(work, args.output.output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The letters of a group.
struct Letters {
    client: Client,
    place: GroupArgs,
    topic: TopicName,
    queue: Queue,
}

/// What is to be done, and with which.
struct Work {
    choice: Choice,
    left: u64,
    rate: Option<u32>,
    what: What,
}

enum What {
    Show,
    Redrive(Producer),
    Remove,
}

/// What became of them.
#[derive(Debug, Default, Serialize)]
struct Summary {
    /// Letters that were meant.
    chosen: u64,
    /// Of these, put back or removed.
    done: u64,
    /// Of these, not.
    failed: u64,
    /// Where they lie, in a dry run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    letters: Vec<String>,
    /// Named on the command line and not there.
    missing: Vec<String>,
}

impl Letters {
    async fn open(server: &ServerArgs, place: &GroupArgs) -> anyhow::Result<Self> {
        let client = server.connect().await?;
        let GroupArgs { topic, group } = place;
        let groups = client.list_groups(topic.as_str()).await.with_context(|| place.words())?;
        let Some(found) = groups.iter().find(|found| found.name == group.as_str()) else {
            // The words and the exit code of everybody who asks for an unknown group.
            let asked = client.queue(topic.as_str(), group.as_str(), QueueOptions::default());
            asked.await.with_context(|| place.words())?;
            return Err(anyhow!("{} was removed", place.words()));
        };
        let GroupKind::Queue(settings) = &found.kind else {
            return Err(anyhow!("{} is a stream group: it has no dead letters", place.words()));
        };
        let Some(dead) = &settings.dead_letter else {
            return Err(anyhow!(
                "{} has no dead-letter topic: `barrage group alter {topic} {group} \
                 --max-deliveries N --dead-letter TOPIC` gives it one",
                place.words()
            ));
        };
        let name = ledger(topic, group)
            .with_context(|| format!("the names {topic} and {group} are too long together"))?;
        let settings = QueueSettings::default();
        let made = client.create_group(dead, name.as_str(), &settings, Begin::Start).await;
        match made {
            Err(error) if error.code() == Some(ErrorCode::GroupExists) => {}
            other => drop(other.with_context(|| format!("dead-letter topic {dead}"))?),
        }
        let queue = client.queue(dead, name.as_str(), QueueOptions::default()).await;
        let queue = queue.with_context(|| format!("dead-letter topic {dead}"))?;
        let topic = TopicName::parse(dead).map_err(|error| anyhow!("{dead}: {error}"))?;
        Ok(Self { client, place: place.clone(), topic, queue })
    }

    /// Leases letters until none is left that was not looked at, and does what is to be done with
    /// those that are meant. The others are given back at the end, so that none comes twice.
    async fn work(self, mut work: Work, output: Output) -> anyhow::Result<ExitCode> {
        let (mut summary, mut seen) = (Summary::default(), Vec::new());
        let mut held: Vec<Receipt> = Vec::new();
        let mut passed: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        let (began, progress) = (Instant::now(), progress());
        let batch = work.rate.map_or(BATCH, |rate| BATCH.min(rate as usize));
        let result = loop {
            if work.left == 0 || work.choice.is_done(&seen) {
                break Ok(());
            }
            let received = match self.queue.receive(batch, Duration::ZERO, Some(HELD)).await {
                Ok(received) if received.is_empty() => break Ok(()),
                Ok(received) => received,
                Err(error) => break Err(error),
            };
            // What comes again was held for too long, or given back by others: it is held anew, and
            // those behind it come next.
            let is_new = |one: &Received| {
                passed.get(&one.record.partition).is_none_or(|last| one.record.offset > *last)
            };
            let (fresh, again): (Vec<_>, Vec<_>) = received.into_iter().partition(is_new);
            held.extend(again.iter().map(|one| one.receipt));
            for Received { record, .. } in &fresh {
                passed.insert(record.partition, record.offset);
            }
            let meant = self.sort(fresh, &mut work, &mut held).await;
            seen.extend(meant.iter().map(|one| LetterId::of(&one.record)));
            self.handle(&work.what, meant, &mut summary, &mut held).await;
            progress.set_message(format!("{} letters", summary.chosen));
            progress.tick();
            if let Some(rate) = work.rate {
                let due = Duration::from_secs_f64(summary.chosen as f64 / f64::from(rate));
                tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
            }
        };
        progress.finish_and_clear();
        // That one cannot be given back is no harm: its lease ends.
        drop(self.queue.release(&held).await);
        result.with_context(|| format!("dead-letter topic {}", self.topic))?;
        summary.missing = work.choice.missing(&seen).map(|letter| letter.to_string()).collect();
        if let What::Redrive(producer) = work.what {
            producer.close().await;
            return report(&summary, output, "redriven");
        }
        let word = if matches!(work.what, What::Show) { "chosen" } else { "removed" };
        report(&summary, output, word)
    }

    /// Those that are meant. Letters of other groups are none of this ledger's.
    async fn sort(
        &self,
        received: Vec<Received>,
        work: &mut Work,
        held: &mut Vec<Receipt>,
    ) -> Vec<Received> {
        let (mut meant, mut others) = (Vec::new(), Vec::new());
        for one in received {
            match Kind::of(&one.record, &self.place) {
                Kind::Others => others.push(one.receipt),
                Kind::Ours | Kind::StandIn if work.left > 0 && work.choice.takes(&one.record) => {
                    work.left -= 1;
                    meant.push(one);
                }
                _ => held.push(one.receipt),
            }
        }
        drop(self.queue.ack(&others).await);
        meant
    }

    async fn handle(
        &self,
        what: &What,
        meant: Vec<Received>,
        summary: &mut Summary,
        held: &mut Vec<Receipt>,
    ) {
        summary.chosen += meant.len() as u64;
        let done = match what {
            What::Show => {
                let names = meant.iter().map(|one| LetterId::of(&one.record).to_string());
                summary.letters.extend(names);
                held.extend(meant.iter().map(|one| one.receipt));
                return;
            }
            What::Remove => meant.iter().map(|one| one.receipt).collect(),
            What::Redrive(producer) => self.redrive(producer, &meant).await,
        };
        let left = meant.iter().map(|one| one.receipt).filter(|one| !done.contains(one));
        held.extend(left);
        for (receipt, result) in done.iter().zip(self.queue.ack(&done).await) {
            match result {
                Ok(()) => summary.done += 1,
                Err(error) => say(&format!("{receipt}: it may be handled again: {error}")),
            }
        }
        summary.failed = summary.chosen - summary.done;
    }

    /// Stores records in their topic again; answers for which ones that is certain.
    async fn redrive(&self, producer: &Producer, meant: &[Received]) -> Vec<Receipt> {
        let mut sent = Vec::new();
        for Received { record, receipt, .. } in meant {
            if Kind::of(record, &self.place) == Kind::StandIn {
                let letter = LetterId::of(record);
                say(&format!("{letter}: stands for a record that nobody could read; see `dlq rm`"));
                continue;
            }
            let headers = own_headers(record);
            let partition = header(record, b"dead-letter-partition")
                .and_then(|text| std::str::from_utf8(text).ok()?.parse().ok().map(PartitionId))
                .filter(|partition| partition.0 < producer.partition_count());
            let new = NewRecord {
                partition,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers: &headers,
                ..NewRecord::default()
            };
            sent.push((*receipt, record, producer.send(new).await));
        }
        producer.flush().await;
        let mut done = Vec::new();
        for (receipt, record, delivery) in sent {
            let stored = match delivery {
                Ok(delivery) => delivery.wait().await.map(drop).map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            match stored {
                Ok(()) => done.push(receipt),
                Err(error) => say(&format!("{}: {error:#}", LetterId::of(record))),
            }
        }
        done
    }
}

fn report(summary: &Summary, output: Output, word: &str) -> anyhow::Result<ExitCode> {
    match output {
        Output::Json => print_json(summary)?,
        Output::Table => {
            let mut out = Vec::new();
            for letter in &summary.letters {
                out.extend_from_slice(letter.as_bytes());
                out.push(b'\n');
            }
            print(&out)?;
        }
    }
    for letter in &summary.missing {
        say(&format!("{letter}: not there: done with before, or held by another command"));
    }
    let count = if word == "chosen" { summary.chosen } else { summary.done };
    say(&format!("{count} of {} {word}", summary.chosen));
    Ok(match summary.failed == 0 && summary.missing.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILURE),
    })
}

fn progress() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    if !io::stderr().is_terminal() {
        progress.set_draw_target(ProgressDrawTarget::hidden());
    }
    progress
}

#[derive(Serialize)]
struct Listing {
    dead_letter_topic: String,
    /// Letters in it that are not done with.
    letters: u64,
    /// Of these, held by another command just now.
    held: u64,
    /// On their way to it.
    on_their_way: u64,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: u32,
    letters: u64,
    held: u64,
    oldest: u64,
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let letters = Letters::open(&args.server, &args.place).await?;
    let source = crate::queue::open(&args.server, &args.place).await?.counts().await;
    let on_their_way = source.with_context(|| args.place.words())?.dying;
    let counts = letters.queue.counts().await;
    let counts = counts.with_context(|| format!("dead-letter topic {}", letters.topic))?;
    let row = |one: &barrage_client::queue::PartitionCounts| {
        let held = one.leased + one.delayed;
        let (partition, oldest) = (one.partition.0, one.start.0);
        PartitionRow { partition, letters: one.visible + held, held, oldest }
    };
    let partitions: Vec<PartitionRow> = counts.partitions.iter().map(row).collect();
    let held = counts.leased + counts.delayed;
    let listing = Listing {
        dead_letter_topic: letters.topic.to_string(),
        letters: counts.visible + held,
        held,
        on_their_way,
        partitions,
    };
    if args.output.output == Output::Json {
        return print_json(&listing);
    }
    say(&format!(
        "{} letters in {}, {} held, {on_their_way} on their way",
        listing.letters, listing.dead_letter_topic, listing.held
    ));
    let cells = |row: &PartitionRow| {
        [u64::from(row.partition), row.letters, row.held, row.oldest].map(|cell| cell.to_string())
    };
    let rows = listing.partitions.iter().map(|row| cells(row).into()).collect();
    print_table(&["PARTITION", "LETTERS", "HELD", "OLDEST"], rows)
}

async fn peek(args: PeekArgs) -> anyhow::Result<()> {
    let letters = Letters::open(&args.server, &args.place).await?;
    let records = letters.queue.peek(args.count as usize).await;
    let records = records.with_context(|| format!("dead-letter topic {}", letters.topic))?;
    let is_ours =
        |record: &&Record| matches!(Kind::of(record, &args.place), Kind::Ours | Kind::StandIn);
    let ours: Vec<&Record> = records.iter().filter(is_ours).collect();
    match args.output.output {
        Output::Json => {
            let rows: Vec<RecordRow> = ours.iter().map(|record| RecordRow::new(record)).collect();
            print_json(&rows)?;
        }
        Output::Table => {
            let mut out = Vec::new();
            for record in &ours {
                print_line(&LetterId::of(record).to_string(), record, &mut out);
            }
            print(&out)?;
        }
    }
    if ours.len() < records.len() {
        say(&format!("{} others are no letters of this group", records.len() - ours.len()));
    }
    Ok(())
}
