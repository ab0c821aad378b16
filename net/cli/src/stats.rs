//! `barrage stats`: a node's counters, per core and shard.

use std::process::ExitCode;
use std::time::Duration;

use barrage_wire::{CoreStats, ShardStats, StatsReply};
use serde::Serialize;

use crate::exit::say;
use crate::output::{Output, OutputArgs, print_json, print_table};
use crate::server::ServerArgs;

/// Flags of `stats`.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    server: ServerArgs,
}

pub(crate) async fn run(args: StatsArgs) -> anyhow::Result<ExitCode> {
    let reply = args.server.connect().await?.stats().await?;
    match args.output.output {
        Output::Json => print_json(&Node::new(&reply))?,
        Output::Table => print_tables(&reply)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_tables(reply: &StatsReply) -> anyhow::Result<()> {
    let uptime = Duration::from_secs(reply.uptime_ms / 1000);
    say(&format!("node {}, barrage {}, up {uptime:?}", reply.node, reply.version));
    let heads = ["CORE", "CONNECTIONS", "MAILBOX", "MEMORY", "BUDGET"];
    let cells = |core: &CoreStats| {
        vec![
            core.core.to_string(),
            core.connections.to_string(),
            core.mailbox_depth.to_string(),
            bytes_in_words(core.memory_bytes),
            bytes_in_words(core.memory_bytes_max),
        ]
    };
    print_table(&heads, reply.cores.iter().map(cells).collect())?;
    crate::output::print(b"\n")?;
    let heads = [
        "SHARD",
        "CORE",
        "PARTITIONS",
        "RECORDS",
        "BYTES",
        "DISK",
        "FLUSHES",
        "RECORDS/FLUSH",
        "FLUSH-P50",
        "FLUSH-P99",
        "IN-FLIGHT",
        "WAITING",
        "CACHE",
        "HITS",
        "MISSES",
    ];
    print_table(&heads, reply.shards.iter().map(shard_cells).collect())
}

fn shard_cells(shard: &ShardStats) -> Vec<String> {
    vec![
        shard.shard.to_string(),
        shard.core.to_string(),
        shard.partitions.to_string(),
        shard.records.to_string(),
        bytes_in_words(shard.bytes),
        bytes_in_words(shard.disk_bytes),
        shard.flushes.to_string(),
        format!("{:.1}", records_per_flush(shard)),
        format!("{} us", shard.flush_p50_us),
        format!("{} us", shard.flush_p99_us),
        shard.entries_in_flight.to_string(),
        bytes_in_words(shard.bytes_waiting),
        bytes_in_words(shard.cache_bytes),
        shard.cache_hits.to_string(),
        shard.cache_misses.to_string(),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn records_per_flush(shard: &ShardStats) -> f64 {
    shard.records as f64 / shard.flushes.max(1) as f64
}

/// Rounded to one decimal: JSON has the exact number.
#[expect(clippy::cast_precision_loss, reason = "rounded for reading")]
pub(crate) fn bytes_in_words(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] =
        [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| bytes >= *size) {
        Some((unit, size)) => format!("{:.1} {unit}", bytes as f64 / *size as f64),
        None => format!("{bytes} B"),
    }
}

#[derive(Serialize)]
struct Node<'a> {
    node: u64,
    version: &'a str,
    uptime_ms: u64,
    cores: Vec<Core>,
    shards: Vec<Shard>,
}

#[derive(Serialize)]
struct Core {
    core: u16,
    connections: u32,
    mailbox_depth: u64,
    memory_bytes: u64,
    memory_bytes_max: u64,
}

#[derive(Serialize)]
struct Shard {
    shard: u32,
    core: u16,
    partitions: u32,
    records: u64,
    bytes: u64,
    disk_bytes: u64,
    flushes: u64,
    records_per_flush: f64,
    flush_p50_us: u64,
    flush_p99_us: u64,
    entries_in_flight: u64,
    cache_bytes: u64,
    cache_hits: u64,
    cache_misses: u64,
    batches_waiting: u64,
    bytes_waiting: u64,
}

impl<'a> Node<'a> {
    fn new(reply: &'a StatsReply) -> Self {
        let core = |core: &CoreStats| Core {
            core: core.core.0,
            connections: core.connections,
            mailbox_depth: core.mailbox_depth,
            memory_bytes: core.memory_bytes,
            memory_bytes_max: core.memory_bytes_max,
        };
        let shard = |shard: &ShardStats| Shard {
            shard: shard.shard.0,
            core: shard.core.0,
            partitions: shard.partitions,
            records: shard.records,
            bytes: shard.bytes,
            disk_bytes: shard.disk_bytes,
            flushes: shard.flushes,
            records_per_flush: records_per_flush(shard),
            flush_p50_us: shard.flush_p50_us,
            flush_p99_us: shard.flush_p99_us,
            entries_in_flight: shard.entries_in_flight,
            cache_bytes: shard.cache_bytes,
            cache_hits: shard.cache_hits,
            cache_misses: shard.cache_misses,
            batches_waiting: shard.batches_waiting,
            bytes_waiting: shard.bytes_waiting,
        };
        Self {
            node: reply.node.0,
            version: &reply.version,
            uptime_ms: reply.uptime_ms,
            cores: reply.cores.iter().map(core).collect(),
            shards: reply.shards.iter().map(shard).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::bytes_in_words;

    #[test]
    fn bytes_are_rounded_for_reading() {
        let table = [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (10 << 30, "10.0 GiB")];
        for (bytes, expected) in table {
            assert_eq!(bytes_in_words(bytes), expected);
        }
    }
}
