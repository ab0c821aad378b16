//! `barrage topic`: create, ls, describe, alter, rm.

use std::process::ExitCode;

use anyhow::Context;
use barrage_client::TopicOptions;
use barrage_model::{Priorities, Retention, TopicName, TopicOrder};
use barrage_wire::{TopicDescription, TopicSummary};
use serde::Serialize;

use crate::exit::say;
use crate::output::{Output, OutputArgs, print_json, print_table, when};
use crate::server::ServerArgs;

/// What can be done with topics.
#[derive(Debug, clap::Subcommand)]
pub enum TopicCommand {
    /// Make a topic
    Create(CreateArgs),
    /// List topics
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Show a topic with its partitions
    #[command(alias = "info", alias = "show")]
    Describe(DescribeArgs),
    /// Change a topic
    Alter(AlterArgs),
    /// Remove a topic and its records
    #[command(alias = "delete")]
    Rm(RemoveArgs),
}

/// Flags of `topic create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// 1 to 249 of a-z A-Z 0-9 . _ -
    #[arg(value_parser = TopicName::parse)]
    name: TopicName,
    /// How many partitions [default: the server's, 1 for each level of priority]
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// How many levels of priority, 1 to 10, each with partitions of its own: workers of queue
    /// groups are given the highest first
    #[arg(long, value_name = "N", default_value = "1", value_parser = parse_priorities)]
    priorities: Priorities,
    /// Who may write: anybody, in the order of each partition; or, for one order of all, one
    /// producer at a time to one partition
    #[arg(long, default_value = "partition", value_name = "partition|global")]
    order: TopicOrder,
    /// How long records stay, parts with commas: a time, a size per partition, until-acked (every
    /// queue group is done with them), and how long queue groups are given them; or unlimited
    /// [default: the server's, 3d]
    #[arg(long, value_name = "3d,10GiB,until-acked,ttl=10m|unlimited")]
    retention: Option<Retention>,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `topic ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `topic describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    name: TopicName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `topic alter`.
#[derive(Debug, clap::Args)]
pub struct AlterArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    name: TopicName,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// More partitions than now
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// How long records stay, as at `create`; all of it is said anew
    #[arg(long, value_name = "3d,10GiB,until-acked,ttl=10m|unlimited")]
    retention: Option<Retention>,
}

/// Flags of `topic rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    name: TopicName,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: TopicCommand) -> anyhow::Result<ExitCode> {
    match command {
        TopicCommand::Create(args) => create(args).await?,
        TopicCommand::Ls(args) => list(args).await?,
        TopicCommand::Describe(args) => describe(args).await?,
        TopicCommand::Alter(args) => alter(args).await?,
        TopicCommand::Rm(args) => remove(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_priorities(text: &str) -> Result<Priorities, String> {
    let levels = text.parse().ok().and_then(Priorities::new);
    levels.ok_or_else(|| format!("a number from 1 to {} is wanted", Priorities::LEVELS_MAX))
}

/// A server's no does not always name the topic.
fn topic(name: &TopicName) -> impl FnOnce() -> String {
    let name = name.to_string();
    move || format!("topic {name}")
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let name = args.name.as_str();
    let CreateArgs { retention, priorities, order, .. } = args;
    let partitions = args.partitions.unwrap_or(0);
    let made = client
        .create_topic_with(name, TopicOptions { partitions, retention, priorities, order })
        .await
        .with_context(topic(&args.name))?;
    say(&format!("created {}", in_words(&made)));
    Ok(())
}

async fn alter(args: AlterArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let Change { partitions, retention } = args.change;
    let now = client
        .alter_topic(args.name.as_str(), partitions, retention)
        .await
        .with_context(topic(&args.name))?;
    say(&format!("altered {}", in_words(&now)));
    Ok(())
}

async fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    client.delete_topic(args.name.as_str()).await.with_context(topic(&args.name))?;
    say(&format!("removed {}", args.name));
    Ok(())
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let topics = args.server.connect().await?.list_topics().await?;
    let rows: Vec<_> = topics.iter().map(TopicRow::new).collect();
    match args.output.output {
        Output::Json => print_json(&rows),
        Output::Table => {
            let cells = |row: TopicRow| {
                let created = when(row.created_ms);
                let (partitions, id) = (row.partitions.to_string(), row.id.to_string());
                vec![row.name, partitions, row.retention, created, id]
            };
            let rows = rows.into_iter().map(cells).collect();
            print_table(&["NAME", "PARTITIONS", "RETENTION", "CREATED", "ID"], rows)
        }
    }
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let found = client.describe_topic(args.name.as_str()).await;
    let description = Description::new(found.with_context(topic(&args.name))?);
    match args.output.output {
        Output::Json => print_json(&description),
        Output::Table => {
            let Description { name, id, retention, priorities, order, created_ms, partitions } =
                description;
            let created = when(created_ms);
            let levels = levels_in_words(priorities);
            let order = order_in_words(&order);
            say(&format!(
                "{name}: id {id}, retention {retention}{levels}{order}, created {created}"
            ));
            let cells = |row: PartitionRow| {
                vec![
                    row.partition.to_string(),
                    row.shard.to_string(),
                    format!(
                        "node {} core {} at {}",
                        row.leader.node, row.leader.core, row.leader.address
                    ),
                    row.start_offset.to_string(),
                    row.high_watermark.to_string(),
                    row.bytes.to_string(),
                ]
            };
            let heads = ["PARTITION", "SHARD", "LEADER", "START", "HIGH-WATERMARK", "BYTES"];
            print_table(&heads, partitions.into_iter().map(cells).collect())
        }
    }
}

fn in_words(topic: &TopicSummary) -> String {
    let count = topic.partitions;
    let partitions = if count == 1 { "partition" } else { "partitions" };
    let levels = levels_in_words(topic.priorities);
    let order = order_in_words(&topic.order.to_string());
    format!("{}: {count} {partitions}, retention {}{levels}{order}", topic.name, topic.retention)
}

/// What is said behind the rest: nothing of a topic that anybody may write to.
fn order_in_words(order: &str) -> String {
    match order == TopicOrder::Partition.to_string() {
        true => String::new(),
        false => format!(", {order} order"),
    }
}

/// What is said behind the rest: nothing of a topic without priorities.
fn levels_in_words(levels: u8) -> String {
    match levels {
        1 => String::new(),
        levels => format!(", {levels} priorities"),
    }
}

#[derive(Serialize)]
struct TopicRow {
    name: String,
    id: u64,
    partitions: u32,
    retention: String,
    priorities: u8,
    order: String,
    created_ms: i64,
}

impl TopicRow {
    fn new(topic: &TopicSummary) -> Self {
        Self {
            name: topic.name.clone(),
            id: topic.topic.0,
            partitions: topic.partitions,
            retention: topic.retention.to_string(),
            priorities: topic.priorities,
            order: topic.order.to_string(),
            created_ms: topic.created_ms,
        }
    }
}

#[derive(Serialize)]
struct Description {
    name: String,
    id: u64,
    retention: String,
    priorities: u8,
    order: String,
    created_ms: i64,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: u32,
    shard: u32,
    leader: Leader,
    start_offset: u64,
    high_watermark: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Leader {
    node: u64,
    core: u16,
    address: String,
}

impl Description {
    fn new(description: TopicDescription) -> Self {
        let summary = TopicRow::new(&description.summary);
        let row = |partition: barrage_wire::PartitionDescription| PartitionRow {
            partition: partition.route.partition.0,
            shard: partition.route.shard.0,
            leader: Leader {
                node: partition.route.node.0,
                core: partition.route.core.0,
                address: partition.route.address,
            },
            start_offset: partition.start_offset.0,
            high_watermark: partition.high_watermark.0,
            bytes: partition.bytes,
        };
        Self {
            name: summary.name,
            id: summary.id,
            retention: summary.retention,
            priorities: summary.priorities,
            order: summary.order,
            created_ms: summary.created_ms,
            partitions: description.partitions.into_iter().map(row).collect(),
        }
    }
}
