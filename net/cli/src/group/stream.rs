//! `barrage group describe` of a stream group: members, partitions, offsets, lag.

use anyhow::Context;
use barrage_client::Client;
use barrage_client::stream::{GroupMember, GroupPartition};
use barrage_model::PartitionId;
use barrage_wire::GroupSummary;
use serde::Serialize;

use super::{GroupArgs, GroupRow, in_words};
use crate::exit::say;
use crate::output::{Output, print_json, print_table, when};

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    group: GroupRow,
    standing: &'static str,
    generation: u32,
    lag: u64,
    members: Vec<MemberRow>,
    partitions: Vec<PartitionRow>,
}

#[derive(Serialize)]
struct MemberRow {
    id: String,
    instance: Option<String>,
    generation: u32,
    partitions: Vec<u32>,
    giving_up: Vec<u32>,
}

#[derive(Serialize)]
struct PartitionRow {
    partition: u32,
    committed: Option<u64>,
    start: u64,
    end: u64,
    lag: u64,
    member: Option<String>,
}

/// Shows a stream group as far as it concerns its topic.
pub(super) async fn describe(
    client: &Client,
    place: &GroupArgs,
    group: &GroupSummary,
    output: Output,
) -> anyhow::Result<()> {
    let GroupArgs { topic, group: name } = place;
    let found = client.stream_group(topic.as_str(), name.as_str()).await;
    let state = found.with_context(|| place.words())?.describe().await;
    let state = state.with_context(|| place.words())?;
    let description = Description {
        group: GroupRow::new(group),
        standing: state.standing.name(),
        generation: state.generation,
        lag: state.partitions.iter().map(|partition| partition.lag).sum(),
        members: state.members.into_iter().map(member_row).collect(),
        partitions: state.partitions.into_iter().map(partition_row).collect(),
    };
    if output == Output::Json {
        return print_json(&description);
    }
    let Description { standing, generation, lag, members, partitions, .. } = description;
    let created = when(group.created_ms);
    say(&format!("{}, id {}, created {created}", in_words(group), group.group));
    let count = members.len();
    say(&format!("{standing}, generation {generation}, members {count}, lag {lag}"));
    if !members.is_empty() {
        let cells = |row: MemberRow| {
            let instance = row.instance.unwrap_or_else(none);
            vec![row.id, instance, numbers(&row.partitions), numbers(&row.giving_up)]
        };
        let heads = ["MEMBER", "INSTANCE", "PARTITIONS", "GIVING-UP"];
        print_table(&heads, members.into_iter().map(cells).collect())?;
    }
    let cells = |row: PartitionRow| {
        let committed = row.committed.map_or_else(none, |offset| offset.to_string());
        let numbers = [row.end, row.lag].map(|number| number.to_string());
        let [end, lag] = numbers;
        let member = row.member.unwrap_or_else(none);
        vec![row.partition.to_string(), committed, end, lag, member]
    };
    let heads = ["PARTITION", "COMMITTED", "END", "LAG", "MEMBER"];
    print_table(&heads, partitions.into_iter().map(cells).collect())
}

fn none() -> String {
    "-".to_owned()
}

fn numbers(all: &[u32]) -> String {
    let texts: Vec<String> = all.iter().map(u32::to_string).collect();
    if texts.is_empty() { none() } else { texts.join(",") }
}

fn member_row(member: GroupMember) -> MemberRow {
    let numbers = |all: Vec<PartitionId>| all.into_iter().map(|one| one.0).collect();
    MemberRow {
        id: member.id,
        instance: member.instance,
        generation: member.generation,
        partitions: numbers(member.partitions),
        giving_up: numbers(member.giving_up),
    }
}

fn partition_row(row: GroupPartition) -> PartitionRow {
    PartitionRow {
        partition: row.partition.0,
        committed: row.committed.map(|offset| offset.0),
        start: row.start.0,
        end: row.end.0,
        lag: row.lag,
        member: row.member,
    }
}
