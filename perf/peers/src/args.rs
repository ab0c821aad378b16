//! The command line, and the plan it stands for.
//!
//! Owns: flags, their defaults and what they may not be. Must never: start anything.
//! Invariants: a [`Plan`] names at least one peer, one durability, one scenario and one round, and
//! its shapes fit.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::{Parser, ValueEnum};

use crate::cores::CoreList;
use crate::scenario::{Scenario, Shape, Wish};
use crate::subject::{Durability, Peer};

/// Compare Barrage with other brokers on this machine.
///
/// Each is started with data of its own on the same cores and loaded from the same others, one
/// after the other and again, at its strictest durability and at its default one.
#[derive(Parser, Clone, Debug)]
#[command(name = "barrage-peers", version)]
pub(crate) struct Args {
    /// Barrage's binary, of the release profile.
    #[arg(long, value_name = "FILE", default_value = "./target/release/barrage")]
    pub(crate) barrage: PathBuf,
    /// Whom to compare it with.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_values = ["nats", "redis", "rabbitmq"])]
    pub(crate) peers: Vec<Peer>,
    /// When a peer answers.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values = ["strict", "default"])]
    pub(crate) durability: Vec<Durability>,
    /// What to measure.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    #[arg(default_values = ["produce", "produce-single", "queue"])]
    pub(crate) scenario: Vec<Scenario>,
    /// How often each is measured.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Seconds that count, after one that does not.
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub(crate) duration: f64,
    /// Seconds for which the queue of a peer is filled before it is measured [default: twice
    /// --duration, at least 4].
    #[arg(long, value_name = "S")]
    pub(crate) fill: Option<f64>,
    /// Bytes of a record's value.
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(crate) record_size: usize,
    /// Records of a request in `produce`, and of a receive in `queue`.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) batch_records: u32,
    /// Connections [default: 8; `produce-single` and `queue`: 1].
    #[arg(long, value_name = "N")]
    pub(crate) connections: Option<usize>,
    /// Requests under way on all connections together [default: 32; `produce-single`: 64;
    /// `queue`: 4].
    #[arg(long, value_name = "N")]
    pub(crate) in_flight: Option<usize>,
    /// Cores of the server [default: all but the last].
    #[arg(long, value_name = "LIST")]
    pub(crate) server_cores: Option<CoreList>,
    /// Cores of the load [default: the last].
    #[arg(long, value_name = "LIST")]
    pub(crate) client_cores: Option<CoreList>,
    /// Folder under which the servers' data is made; it must allow direct I/O.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) data: PathBuf,
    /// Another nats-server than the installed one.
    #[arg(long, value_name = "FILE")]
    pub(crate) nats_server: Option<PathBuf>,
    /// Another redis-server than the installed one.
    #[arg(long, value_name = "FILE")]
    pub(crate) redis_server: Option<PathBuf>,
    /// Another start script of RabbitMQ than the installed one.
    #[arg(long, value_name = "FILE")]
    pub(crate) rabbitmq_server: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What is to be done, with every default filled in.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) barrage: PathBuf,
    pub(crate) peers: Vec<(Peer, Option<PathBuf>)>,
    pub(crate) durabilities: Vec<Durability>,
    pub(crate) scenarios: Vec<Scenario>,
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
    pub(crate) fill_time: Duration,
    wish: Wish,
    pub(crate) server_cores: CoreList,
    pub(crate) client_cores: CoreList,
    pub(crate) data: PathBuf,
    pub(crate) output: Output,
}

const ROUNDS_MAX: usize = 1_000;
const SECONDS_MAX: f64 = 3_600.0;
const FILL_SECONDS_MIN: f64 = 4.0;
/// What NATS takes by default.
const RECORD_SIZE_MAX: usize = 1 << 20;
/// What `barrage bench queue` leases at once.
const BATCH_RECORDS_MAX: u32 = 10_000;

impl Plan {
    /// Fills in the defaults for a machine with so many cores; an error is the user's.
    pub(crate) fn new(args: &Args, cores: usize) -> Result<Self> {
        let seconds = |flag: &str, seconds: f64| {
            let fits = (0.1..=SECONDS_MAX).contains(&seconds);
            ensure!(fits, "{flag} must be from 0.1 to {SECONDS_MAX}, not {seconds}");
            Ok(Duration::from_secs_f64(seconds))
        };
        within("--rounds", args.rounds, ROUNDS_MAX)?;
        within("--record-size", args.record_size, RECORD_SIZE_MAX)?;
        within("--batch-records", args.batch_records as usize, BATCH_RECORDS_MAX as usize)?;
        let last = cores.max(1) - 1;
        let server_cores = args.server_cores.clone();
        let client_cores = args.client_cores.clone();
        let fill = args.fill.unwrap_or_else(|| (2.0 * args.duration).max(FILL_SECONDS_MIN));
        let plan = Self {
            barrage: args.barrage.clone(),
            peers: unique(&args.peers).into_iter().map(|peer| (peer, args.binary(peer))).collect(),
            durabilities: unique(&args.durability),
            scenarios: unique(&args.scenario),
            rounds: args.rounds,
            duration: seconds("--duration", args.duration)?,
            fill_time: seconds("--fill", fill)?,
            wish: Wish {
                record_size: args.record_size,
                batch_records: args.batch_records,
                connections: args.connections,
                in_flight: args.in_flight,
            },
            server_cores: server_cores.unwrap_or_else(|| CoreList::range(0, last.max(1))),
            client_cores: client_cores.unwrap_or_else(|| CoreList::range(last, last + 1)),
            data: args.data.clone(),
            output: args.output,
        };
        plan.scenarios.iter().try_for_each(|scenario| plan.shape(*scenario).map(drop))?;
        Ok(plan)
    }

    /// The load of a scenario.
    pub(crate) fn shape(&self, scenario: Scenario) -> Result<Shape> {
        scenario.shape(self.wish).map_err(|error| anyhow!(error))
    }
}

impl Args {
    fn binary(&self, peer: Peer) -> Option<PathBuf> {
        match peer {
            Peer::Nats => self.nats_server.clone(),
            Peer::Redis => self.redis_server.clone(),
            Peer::Rabbitmq => self.rabbitmq_server.clone(),
        }
    }
}

fn within(flag: &str, value: usize, max: usize) -> Result<()> {
    ensure!((1..=max).contains(&value), "{flag} must be from 1 to {max}, not {value}");
    Ok(())
}

/// Each once, in the order given.
fn unique<T: Copy + PartialEq>(items: &[T]) -> Vec<T> {
    let mut found = Vec::new();
    for item in items {
        if !found.contains(item) {
            found.push(*item);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(line: &str, cores: usize) -> Result<Plan, String> {
        let words = std::iter::once("barrage-peers").chain(line.split_whitespace());
        let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
        Plan::new(&args, cores).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fit_the_machine() {
        let check = |cores: usize, server: &str, client: &str| {
            let plan = plan("", cores).unwrap();
            assert_eq!(plan.server_cores.to_string(), server, "{cores}");
            assert_eq!(plan.client_cores.to_string(), client, "{cores}");
        };
        check(1, "0", "0");
        check(2, "0", "1");
        check(8, "0,1,2,3,4,5,6", "7");
        let plan = plan("", 2).unwrap();
        assert_eq!((plan.peers.len(), plan.durabilities.len(), plan.scenarios.len()), (3, 2, 3));
        assert_eq!(plan.fill_time, Duration::from_secs(10));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |line: &str, part: Option<&str>| {
            let found = plan(line, 2).err();
            let fits = match (part, &found) {
                (Some(part), Some(error)) => error.contains(part),
                (part, found) => part.is_none() && found.is_none(),
            };
            assert!(fits, "{line}: {found:?}");
        };
        check("--peers redis,nats --scenario produce-single --in-flight 8", None);
        check("--rounds 0", Some("--rounds"));
        check("--duration 0", Some("--duration"));
        check("--duration nan", Some("--duration"));
        check("--record-size 0", Some("--record-size"));
        check("--batch-records 10001", Some("--batch-records"));
        check("--connections 3 --in-flight 4", Some("--in-flight"));
        check("--peers kafka", Some("kafka"));
        check("--server-cores x", Some("not a list of cores"));
    }

    #[test]
    fn what_is_named_twice_is_measured_once() {
        let plan = plan("--peers redis,nats,redis --redis-server /a/redis", 2).unwrap();
        let want = [(Peer::Redis, Some(PathBuf::from("/a/redis"))), (Peer::Nats, None)];
        assert_eq!(plan.peers, want);
    }
}
