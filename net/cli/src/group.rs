//! `barrage group`: create, ls, describe, alter, reset, rm; of both kinds.

mod stream;
mod times;

use std::process::ExitCode;

use anyhow::Context;
use barrage_client::queue::{Begin, PartitionCounts};
use barrage_client::{Client, ClientError, From as Place, QueueOptions};
use barrage_model::group::{Order, VISIBILITY_MS_DEFAULT};
use barrage_model::units::format_duration_ms;
use barrage_model::{Backoff, GroupName, QueueSettings, TopicName};
use barrage_wire::{ErrorCode, ErrorReply, GroupKind, GroupSummary};
use serde::Serialize;

pub(crate) use self::times::parse_visibility;
use self::times::{MaxAge, parse_max_age};
use crate::exit::say;
use crate::output::{Output, OutputArgs, print_json, print_table, when};
use crate::position::{Position, PositionError};
use crate::server::ServerArgs;

/// What can be done with groups.
#[derive(Debug, clap::Subcommand)]
pub enum GroupCommand {
    /// Make a group
    Create(CreateArgs),
    /// List the groups of a topic
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Show a group: the counts of a queue group, members, offsets and lag of a stream group
    #[command(alias = "info", alias = "show")]
    Describe(DescribeArgs),
    /// Change a queue group
    Alter(AlterArgs),
    /// Let a stream group go on from another place, while nobody is in it
    Reset(ResetArgs),
    /// Remove a group; the records stay. A stream group of other topics stays theirs
    #[command(alias = "delete")]
    Rm(RemoveArgs),
}

/// As a filter that lets everything through is written.
const EVERYTHING: &str = "*";

/// Which group of which topic.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GroupArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    pub(crate) topic: TopicName,
    /// Which group of it: 1 to 249 of a-z A-Z 0-9 . _ - ~ + % | : @
    #[arg(value_parser = GroupName::parse)]
    pub(crate) group: GroupName,
}

impl GroupArgs {
    /// A server's no does not always name the group.
    pub(crate) fn words(&self) -> String {
        format!("group {} of {}", self.group, self.topic)
    }
}

/// Flags of `group create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// What kind of group: each record to one consumer until it is acked, or each partition to one
    /// member, with an offset stored for it
    #[arg(long, value_enum, default_value_t = Kind::Queue)]
    kind: Kind,
    /// How long a record is leased where the consumer does not say [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = parse_visibility)]
    visibility: Option<u64>,
    /// After so many deliveries a record goes to the dead-letter topic [default: never]
    #[arg(long, value_name = "N", requires = "dead_letter")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    max_deliveries: Option<u16>,
    /// Records that came into the topic so long ago are not delivered any more: they go to the
    /// dead-letter topic, or are done with [default: unlimited]
    #[arg(long, value_name = "TIME|unlimited", value_parser = parse_max_age)]
    max_age: Option<MaxAge>,
    /// Where records go that were delivered too often or are too old; made with one partition if
    /// there is none
    #[arg(long, value_name = "TOPIC", value_parser = TopicName::parse)]
    dead_letter: Option<TopicName>,
    /// Wait before a record is delivered again: always the same, doubling, one by one, or rocketmq
    /// [default: 0s]
    #[arg(long, value_name = "10s|1s..5m|10s,30s|rocketmq")]
    backoff: Option<Backoff>,
    /// Which records it wants: 'tags:new || sold', 'keys:stock.*.new' or 'headers:price > 10'
    /// [default: all]
    #[arg(long, conflicts_with = "order")]
    filter: Option<String>,
    /// Whether consumers get a record only when those before it with its key are settled
    /// [default: none]
    #[arg(long, value_enum)]
    order: Option<OrderBy>,
    /// Where it begins in each partition: start or end; a stream group also at a time
    #[arg(long, value_name = "start|end|@TIME", default_value = "start")]
    #[arg(allow_hyphen_values = true, value_parser = parse_beginning)]
    from: Position,
    #[command(flatten)]
    server: ServerArgs,
}

/// How the readers of a group share work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Each record is leased, then acked alone
    Queue,
    /// Each partition has one reader, and an offset
    Stream,
}

/// In which order consumers get records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum OrderBy {
    /// The oldest first, side by side
    None,
    /// Of each key one at a time, in order; records without a key side by side
    Key,
}

impl From<OrderBy> for Order {
    fn from(order: OrderBy) -> Self {
        match order {
            OrderBy::None => Self::None,
            OrderBy::Key => Self::Key,
        }
    }
}

/// Flags of `group ls`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Which topic
    #[arg(value_parser = TopicName::parse)]
    topic: TopicName,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `group describe`.
#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `group alter`.
#[derive(Debug, clap::Args)]
pub struct AlterArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// How long a record is leased where the consumer does not say
    #[arg(long, value_name = "TIME", value_parser = parse_visibility)]
    visibility: Option<u64>,
    /// After so many deliveries a record goes to the dead-letter topic
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_deliveries: Option<u16>,
    /// Records that came into the topic so long ago are not delivered any more
    #[arg(long, value_name = "TIME|unlimited", value_parser = parse_max_age)]
    max_age: Option<MaxAge>,
    /// Where records go that were delivered too often or are too old; made with one partition if
    /// there is none
    #[arg(long, value_name = "TOPIC", value_parser = TopicName::parse)]
    dead_letter: Option<TopicName>,
    /// Deliver again for ever, and forget what is too old
    #[arg(long, conflicts_with_all = ["max_deliveries", "dead_letter"])]
    no_dead_letter: bool,
    /// Wait before a record is delivered again: always the same, doubling, one by one, or rocketmq
    #[arg(long, value_name = "10s|1s..5m|10s,30s|rocketmq")]
    backoff: Option<Backoff>,
    /// Which records it wants, of those that it has not leased yet; '*' for all
    #[arg(long)]
    filter: Option<String>,
    /// Whether consumers get a record only when those before it with its key are settled
    #[arg(long, value_enum)]
    order: Option<OrderBy>,
}

/// Flags of `group reset`.
#[derive(Debug, clap::Args)]
pub struct ResetArgs {
    #[command(flatten)]
    place: GroupArgs,
    /// Where it goes on in each partition: start, end, an offset, or a time as @-10m
    #[arg(long, value_name = "start|end|OFFSET|@TIME", allow_hyphen_values = true)]
    to: Position,
    #[command(flatten)]
    server: ServerArgs,
}

/// Flags of `group rm`.
#[derive(Debug, clap::Args)]
pub struct RemoveArgs {
    #[command(flatten)]
    place: GroupArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(command: GroupCommand) -> anyhow::Result<ExitCode> {
    match command {
        GroupCommand::Create(args) => create(args).await?,
        GroupCommand::Ls(args) => list(args).await?,
        GroupCommand::Describe(args) => describe(args).await?,
        GroupCommand::Alter(args) => alter(args).await?,
        GroupCommand::Reset(args) => reset(args).await?,
        GroupCommand::Rm(args) => remove(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// An offset means another record in each partition: where a group begins is meant for all.
fn parse_beginning(text: &str) -> Result<Position, String> {
    match text.parse() {
        Ok(Position::At(Place::Offset(_))) => {
            Err("a group begins at start, end or @TIME; group reset takes an offset".to_owned())
        }
        other => other.map_err(|error: PositionError| error.to_string()),
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    match args.kind {
        Kind::Queue => create_queue(args).await,
        Kind::Stream => create_stream(args).await,
    }
}

async fn create_stream(args: CreateArgs) -> anyhow::Result<()> {
    let has_times = args.visibility.is_some() || args.max_age.is_some();
    let has_settings = has_times || args.backoff.is_some();
    let chooses = args.filter.is_some() || args.order.is_some();
    if has_settings || args.dead_letter.is_some() || chooses {
        let problem = "only queue groups have --visibility, --max-age, --backoff, --filter, \
                       --order and dead letters";
        return Err(usage(problem));
    }
    let from = args.from.resolve();
    let client = args.server.connect().await?;
    let GroupArgs { topic, group } = &args.place;
    let made = client.create_stream_group(topic.as_str(), group.as_str()).await;
    let made = made.with_context(|| args.place.words())?;
    if from != Place::Start {
        let begun = move_to(&client, &args.place, from).await;
        begun.with_context(|| format!("{} is made, and begins at start", args.place.words()))?;
    }
    say(&format!("created {}", in_words(&made)));
    Ok(())
}

async fn reset(args: ResetArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let moved = move_to(&client, &args.place, args.to.resolve()).await;
    moved.with_context(|| args.place.words())?;
    say(&format!("reset {}", args.place.words()));
    Ok(())
}

async fn move_to(client: &Client, place: &GroupArgs, to: Place) -> Result<(), ClientError> {
    let GroupArgs { topic, group } = place;
    client.stream_group(topic.as_str(), group.as_str()).await?.reset(to).await
}

fn usage(problem: &str) -> anyhow::Error {
    let reply = ErrorReply::new(ErrorCode::InvalidArgument, problem);
    ClientError::Refused(reply).into()
}

async fn create_queue(args: CreateArgs) -> anyhow::Result<()> {
    let begin = match args.from.resolve() {
        Place::Start => Begin::Start,
        Place::End => Begin::End,
        Place::Offset(_) | Place::Time(_) => {
            return Err(usage("a queue group begins at start or end; see queue rewind"));
        }
    };
    let client = args.server.connect().await?;
    let settings = QueueSettings {
        visibility_ms: args.visibility.unwrap_or(VISIBILITY_MS_DEFAULT),
        deliveries_max: args.max_deliveries,
        max_age_ms: args.max_age.and_then(|MaxAge(max_age_ms)| max_age_ms),
        dead_letter: args.dead_letter,
        backoff: args.backoff.unwrap_or_default(),
        filter: args.filter.filter(|filter| filter != EVERYTHING),
        order: args.order.map_or(Order::None, Order::from),
    };
    let GroupArgs { topic, group } = &args.place;
    let made = client.create_group(topic.as_str(), group.as_str(), &settings, begin).await;
    let made = made.with_context(|| args.place.words())?;
    say(&format!("created {}", in_words(&made)));
    ensure_topic(&client, settings.dead_letter.as_ref()).await
}

async fn alter(args: AlterArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let mut settings = settings(&find(&client, &args.place).await?)?;
    let Change { visibility, max_deliveries, max_age, dead_letter, no_dead_letter, .. } =
        args.change;
    settings.visibility_ms = visibility.unwrap_or(settings.visibility_ms);
    settings.backoff = args.change.backoff.unwrap_or(settings.backoff);
    settings.deliveries_max = max_deliveries.or(settings.deliveries_max);
    settings.max_age_ms = max_age.map_or(settings.max_age_ms, |MaxAge(max_age_ms)| max_age_ms);
    settings.dead_letter = dead_letter.or(settings.dead_letter);
    let filter = args.change.filter.or(settings.filter);
    settings.filter = filter.filter(|filter| filter != EVERYTHING);
    settings.order = args.change.order.map_or(settings.order, Order::from);
    if no_dead_letter {
        (settings.deliveries_max, settings.dead_letter) = (None, None);
    }
    let GroupArgs { topic, group } = &args.place;
    let now = client.alter_group(topic.as_str(), group.as_str(), &settings).await;
    let now = now.with_context(|| args.place.words())?;
    say(&format!("altered {}", in_words(&now)));
    ensure_topic(&client, settings.dead_letter.as_ref()).await
}

/// Makes the dead-letter topic if there is none: records would wait for it.
async fn ensure_topic(client: &Client, topic: Option<&TopicName>) -> anyhow::Result<()> {
    let Some(name) = topic else { return Ok(()) };
    let found = client.describe_topic(name.as_str()).await;
    if found.as_ref().err().and_then(ClientError::code) == Some(ErrorCode::UnknownTopic) {
        let made = client.create_topic(name.as_str(), 1, None).await;
        // Somebody else was faster.
        if made.as_ref().err().and_then(ClientError::code) != Some(ErrorCode::TopicExists) {
            made.with_context(|| format!("dead-letter topic {name}"))?;
            say(&format!("created topic {name} for dead letters: 1 partition"));
        }
        return Ok(());
    }
    found.map(drop).with_context(|| format!("dead-letter topic {name}"))
}

async fn remove(args: RemoveArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let GroupArgs { topic, group } = &args.place;
    let removed = client.delete_group(topic.as_str(), group.as_str()).await;
    removed.with_context(|| args.place.words())?;
    say(&format!("removed {}", args.place.words()));
    Ok(())
}

pub(crate) async fn find(client: &Client, place: &GroupArgs) -> anyhow::Result<GroupSummary> {
    let groups = client.list_groups(place.topic.as_str()).await;
    let groups = groups.with_context(|| format!("topic {}", place.topic))?;
    let found = groups.into_iter().find(|group| group.name == place.group.as_str());
    found.ok_or_else(|| {
        let message = format!("topic {} has no group {}", place.topic, place.group);
        ClientError::Refused(ErrorReply::new(ErrorCode::UnknownGroup, message)).into()
    })
}

/// The settings as a server tells them.
fn settings(group: &GroupSummary) -> anyhow::Result<QueueSettings> {
    let GroupKind::Queue(settings) = &group.kind else {
        return Err(usage("a stream group has no settings; group reset moves it"));
    };
    let dead_letter = settings.dead_letter.as_deref().map(TopicName::parse).transpose();
    Ok(QueueSettings {
        visibility_ms: settings.visibility_ms,
        deliveries_max: settings.deliveries_max,
        max_age_ms: settings.max_age_ms,
        dead_letter: dead_letter.context("the server's dead-letter topic")?,
        backoff: settings.backoff.parse().context("the server's back-off")?,
        filter: settings.filter.clone(),
        order: settings.order,
    })
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let groups = client.list_groups(args.topic.as_str()).await;
    let groups = groups.with_context(|| format!("topic {}", args.topic))?;
    let rows: Vec<_> = groups.iter().map(GroupRow::new).collect();
    match args.output.output {
        Output::Json => print_json(&rows),
        Output::Table => {
            let heads = [
                "NAME",
                "KIND",
                "VISIBILITY",
                "MAX-DELIVERIES",
                "MAX-AGE",
                "DEAD-LETTER",
                "BACKOFF",
                "FILTER",
                "ORDER",
                "CREATED",
                "ID",
            ];
            print_table(&heads, rows.into_iter().map(GroupRow::cells).collect())
        }
    }
}

async fn describe(args: DescribeArgs) -> anyhow::Result<()> {
    let client = args.server.connect().await?;
    let group = find(&client, &args.place).await?;
    if let GroupKind::Stream { .. } = group.kind {
        return stream::describe(&client, &args.place, &group, args.output.output).await;
    }
    let GroupArgs { topic, group: name } = &args.place;
    let queue = client.queue(topic.as_str(), name.as_str(), QueueOptions::default()).await;
    let counts = queue.with_context(|| args.place.words())?.counts().await;
    let counts = counts.with_context(|| args.place.words())?;
    let row = |one: &PartitionCounts| CountsRow {
        partition: one.partition.0,
        start_offset: one.start.0,
        visible: one.visible,
        leased: one.leased,
        delayed: one.delayed,
        dying: one.dying,
    };
    let description = Description {
        group: GroupRow::new(&group),
        visible: counts.visible,
        leased: counts.leased,
        delayed: counts.delayed,
        dying: counts.dying,
        partitions: counts.partitions.iter().map(row).collect(),
    };
    if args.output.output == Output::Json {
        return print_json(&description);
    }
    let created = when(group.created_ms);
    say(&format!("{}, id {}, created {created}", in_words(&group), group.group));
    let cells = |partition: String, start: String, counts: [u64; 4]| {
        let counts = counts.map(|count| count.to_string());
        [partition, start].into_iter().chain(counts).collect::<Vec<_>>()
    };
    let mut rows: Vec<_> = description
        .partitions
        .iter()
        .map(|row| {
            let (partition, start) = (row.partition.to_string(), row.start_offset.to_string());
            cells(partition, start, [row.visible, row.leased, row.delayed, row.dying])
        })
        .collect();
    let Description { visible, leased, delayed, dying, .. } = description;
    rows.push(cells("total".to_owned(), String::new(), [visible, leased, delayed, dying]));
    print_table(&["PARTITION", "START", "VISIBLE", "LEASED", "DELAYED", "DYING"], rows)
}

fn in_words(group: &GroupSummary) -> String {
    let GroupRow { name, kind, settings, topics, .. } = GroupRow::new(group);
    let Some(settings) = settings else {
        return format!("{name}: {kind}, topics {}", topics.unwrap_or_default().join(", "));
    };
    let limits = [
        settings.deliveries_max.map(|count| format!("{count} deliveries")),
        settings.max_age_ms.map(|max_age_ms| format!("for {}", format_duration_ms(max_age_ms))),
    ];
    let limits: Vec<String> = limits.into_iter().flatten().collect();
    let limit = match (limits.join(" or "), &settings.dead_letter) {
        (limit, None) if limit.is_empty() => "delivered for ever".to_owned(),
        (limit, None) => limit,
        (limit, Some(topic)) if limit.is_empty() => format!("what is over goes to {topic}"),
        (limit, Some(topic)) => format!("{limit}, then to {topic}"),
    };
    let visibility = format_duration_ms(settings.visibility_ms);
    let SettingsRow { backoff, filter, order, .. } = settings;
    let filter = match filter.as_str() {
        EVERYTHING => String::new(),
        filter => format!(", filter {filter}"),
    };
    let order = match order.as_str() {
        "none" => String::new(),
        order => format!(", ordered by {order}"),
    };
    format!("{name}: {kind}, visibility {visibility}, {limit}, back-off {backoff}{filter}{order}")
}

#[derive(Serialize)]
struct GroupRow {
    name: String,
    kind: &'static str,
    id: u64,
    #[serde(flatten)]
    settings: Option<SettingsRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<Vec<String>>,
    created_ms: i64,
}

/// What queue groups have.
#[derive(Serialize)]
struct SettingsRow {
    visibility_ms: u64,
    deliveries_max: Option<u16>,
    max_age_ms: Option<u64>,
    dead_letter: Option<String>,
    backoff: String,
    filter: String,
    order: String,
}

impl GroupRow {
    fn new(group: &GroupSummary) -> Self {
        let (kind, settings, topics) = match group.kind.clone() {
            GroupKind::Stream { topics } => ("stream", None, Some(topics)),
            GroupKind::Queue(settings) => {
                let settings = SettingsRow {
                    visibility_ms: settings.visibility_ms,
                    deliveries_max: settings.deliveries_max,
                    max_age_ms: settings.max_age_ms,
                    dead_letter: settings.dead_letter,
                    backoff: settings.backoff,
                    filter: settings.filter.unwrap_or_else(|| EVERYTHING.to_owned()),
                    order: settings.order.to_string(),
                };
                ("queue", Some(settings), None)
            }
        };
        let (name, id, created_ms) = (group.name.clone(), group.group.0, group.created_ms);
        Self { name, kind, id, settings, topics, created_ms }
    }

    fn cells(self) -> Vec<String> {
        let none = || "-".to_owned();
        let settings = match self.settings {
            None => [none(), none(), none(), none(), none(), none(), none()],
            Some(row) => [
                format_duration_ms(row.visibility_ms),
                row.deliveries_max.map_or_else(none, |count| count.to_string()),
                row.max_age_ms.map_or_else(none, format_duration_ms),
                row.dead_letter.unwrap_or_else(none),
                row.backoff,
                row.filter,
                row.order,
            ],
        };
        let mut cells = vec![self.name, self.kind.to_owned()];
        cells.extend(settings);
        cells.extend([when(self.created_ms), self.id.to_string()]);
        cells
    }
}

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    group: GroupRow,
    visible: u64,
    leased: u64,
    delayed: u64,
    dying: u64,
    partitions: Vec<CountsRow>,
}

#[derive(Serialize)]
struct CountsRow {
    partition: u32,
    start_offset: u64,
    visible: u64,
    leased: u64,
    delayed: u64,
    dying: u64,
}

const _: () = assert!(VISIBILITY_MS_DEFAULT == 30_000, "the flag's default says 30s");
