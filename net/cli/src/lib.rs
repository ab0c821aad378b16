//! The client sub-commands of `barrage`: topics, produce, consume, groups, queues, stats,
//! cluster.
//!
//! Owns: flags, what is printed, exit codes. Data goes to stdout, words to stderr, nothing asks
//! back. Must never: know how the server works; everything goes through `barrage-client`.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests"))]
#![expect(clippy::disallowed_methods, reason = "outside of the broker: real clocks and threads")]

mod cluster;
mod consume;
mod delay;
mod dlq;
mod exit;
#[doc(hidden)]
pub mod fuzzing;
mod group;
mod lines;
mod output;
mod position;
mod produce;
mod queue;
mod server;
mod stats;
mod tally;
mod template;
mod topic;

use std::process::ExitCode;

pub use server::ServerArgs;

/// What a client can do.
#[derive(Debug, clap::Subcommand)]
pub enum ClientCommand {
    /// Make, list, describe, change and remove topics
    #[command(subcommand)]
    Topic(topic::TopicCommand),
    /// Send lines of stdin or a file as records
    Produce(produce::ProduceArgs),
    /// Print records
    Consume(consume::ConsumeArgs),
    /// Make, list, describe, change and remove groups
    #[command(subcommand)]
    Group(group::GroupCommand),
    /// Lease records of a queue group and settle them
    #[command(subcommand)]
    Queue(queue::QueueCommand),
    /// Look after records that wait for their time
    #[command(subcommand)]
    Delay(delay::DelayCommand),
    /// Look after the dead letters of a group
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Show a node's counters, per core and shard
    Stats(stats::StatsArgs),
    /// Show and change the cluster: nodes, shards, copies
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
}

/// Runs a command to its end.
///
/// Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 5 unreachable, 6 conflict, 7 the cluster is
/// not well (`cluster status`).
#[must_use]
pub fn run(command: ClientCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&error.into()),
    };
    let result = runtime.block_on(async {
        match command {
            ClientCommand::Topic(command) => topic::run(command).await,
            ClientCommand::Produce(args) => produce::run(args).await,
            ClientCommand::Consume(args) => consume::run(args).await,
            ClientCommand::Group(command) => group::run(command).await,
            ClientCommand::Queue(command) => queue::run(command).await,
            ClientCommand::Delay(command) => delay::run(command).await,
            ClientCommand::Dlq(command) => dlq::run(command).await,
            ClientCommand::Stats(args) => stats::run(args).await,
            ClientCommand::Cluster(command) => cluster::run(command).await,
        }
    });
    // A thread that still waits for stdin must not keep the process.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => exit::report(&error),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "barrage")]
    struct Cli {
        #[command(subcommand)]
        command: ClientCommand,
    }

    #[test]
    fn the_flags_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_is_taken_and_bad_ones_are_usage_errors() {
        let table = [
            ("topic create t --partitions 4 --retention 3d,10GiB --server h:1", true),
            ("topic create t --partitions 0", false),
            ("topic create t --priorities 10", true),
            ("topic create t --priorities 11", false),
            ("topic create t --order global", true),
            ("topic create t --order total", false),
            ("produce t --stand-by", true),
            ("produce t --take-over", true),
            ("produce t --take-over --stand-by", false),
            ("produce t --priority 9", true),
            ("produce t --priority 10", false),
            ("produce t --priority 1 --partition 1", false),
            ("topic create t --retention soon", false),
            ("topic create t --retention until-acked,ttl=10m", true),
            ("topic create t --retention ttl=10", false),
            ("topic create bad/name", false),
            ("topic ls -o json", true),
            ("topic describe t -o table", true),
            ("topic alter t", false),
            ("topic alter t --retention unlimited --partitions 8", true),
            ("topic rm t", true),
            ("topic", false),
            (
                "produce t --file f --key-separator : --compression zstd --partition 1 \
                 --receipts r --timeout 30s -o json",
                true,
            ),
            ("produce t --delay 30s", true),
            ("produce t --at 2026-11-21T20:00:00Z", true),
            ("produce t --at 1795248000000", true),
            ("produce t --delay 30s --at 1795248000000", false),
            ("produce t --at soon", false),
            ("delay ls t -n 5 -o json", true),
            ("delay cancel t 0:17 1:4", true),
            ("delay cancel t", false),
            ("delay cancel t 17", false),
            ("delay reschedule t 0:17 --delay 5m", true),
            ("delay reschedule t 0:17 --at 2026-11-21", true),
            ("delay reschedule t 0:17", false),
            ("produce t --compression zip", false),
            ("produce t --acks all", true),
            ("produce t --acks none", false),
            ("produce t --timeout 0s", false),
            ("produce t --key-separator=", false),
            ("produce", false),
            ("consume t --from start --partition 0 -n 3 --exit --format %k\\t%v\\n", true),
            ("consume t --from @2026-11-21T08:00:00Z", true),
            ("consume t --from -1", false),
            ("consume t --format %x", false),
            ("consume t --group g -n 3 --exit --format %v", true),
            ("consume t --group g --from end", false),
            ("consume t --group g --partition 1", false),
            ("consume t --group a/b", false),
            ("group create t g", true),
            (
                "group create t g --kind queue --visibility 30s --max-deliveries 3 \
                 --dead-letter d --backoff 1s..5m --from end --server h:1",
                true,
            ),
            ("group create t g --kind stream --from @-10m", true),
            ("group create t g --kind heap", false),
            ("group create t g --visibility 500ms", false),
            ("group create t g --visibility 13h", false),
            ("group create t g --max-deliveries 3", false),
            ("group create t g --dead-letter d", true),
            ("group create t g --max-age 1h", true),
            ("group create t g --max-age 1ms", false),
            ("group alter t g --max-age unlimited", true),
            ("produce t --ttl 5m", true),
            ("produce t --ttl 0s", false),
            ("group create t g --max-deliveries 0 --dead-letter d", false),
            ("group create t g --backoff 10s,30s", true),
            ("group create t g --backoff rocketmq", true),
            ("group create t g --backoff soon", false),
            ("group create t g --from 7", false),
            ("group create t", false),
            ("group ls t -o json", true),
            ("group ls", false),
            ("group describe t g -o table", true),
            ("group alter t g", false),
            ("group alter t g --visibility 1m --max-deliveries 4", true),
            ("group alter t g --no-dead-letter", true),
            ("group alter t g --no-dead-letter --dead-letter d", false),
            ("group reset t g --to 17", true),
            ("group reset t g --to @-10m", true),
            ("group reset t g", false),
            ("group rm t g", true),
            ("queue receive t g", true),
            ("queue receive t g -n 10 --wait 20s --visibility 30s -o json", true),
            ("queue receive t g -n 0", false),
            ("queue receive t g --visibility 0s", false),
            ("queue ack t g 0-17-1 3-0-2", true),
            ("queue ack t g", false),
            ("queue ack t g 0-17", false),
            ("queue nack t g 0-17-1 --delay 10s", true),
            ("queue nack t g --delay 10s 0-17-1", true),
            ("queue extend t g 0-17-1 --visibility 1m", true),
            ("queue extend t g 0-17-1", false),
            ("queue peek t g -n 5 -o json", true),
            ("queue purge t g", true),
            ("queue rewind t g --to start", true),
            ("queue rewind t g --to 17", true),
            ("queue rewind t g --to @-10m", true),
            ("queue rewind t g --to end", false),
            ("queue rewind t g", false),
            ("stats -o json", true),
            ("stats -o yaml", false),
            ("cluster status --wait 30s -o json --server a:1,b:1", true),
            ("cluster status --wait soon", false),
            ("cluster nodes", true),
            ("cluster shards -o json", true),
            ("cluster balance", true),
            ("cluster transfer --shard 3 --to 2", true),
            ("cluster transfer --shard 3", false),
            ("cluster decommission 3 --wait", true),
            ("cluster decommission --wait=10m 3", true),
            ("cluster decommission", false),
            ("cluster recommission 3", true),
            ("cluster copies 3", true),
            ("cluster copies 2", false),
        ];
        for (line, fits) in table {
            let words = std::iter::once("barrage").chain(line.split_whitespace());
            let parsed = Cli::try_parse_from(words);
            assert_eq!(parsed.is_ok(), fits, "{line}: {parsed:?}");
        }
    }
}
