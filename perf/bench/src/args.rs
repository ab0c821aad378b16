//! The command line of `barrage bench`, and the plan it stands for.
//!
//! Owns: flags, their defaults and what they may not be. Must never: start anything.
//! Invariants: a [`Plan`] names at least one core on each side, one producer, one partition, and
//! one node or three.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use barrage_model::limits::{
    BATCH_BYTES_MAX, FRAME_BYTES_MAX, PARTITIONS_PER_TOPIC_MAX, RECORD_BYTES_MAX,
};
use barrage_model::units::{ByteSize, parse_duration};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::affinity::CoreList;
use crate::machine;
use crate::workload::keys::Keys;
use crate::workload::{DURATION_DEFAULT, RECORD_SIZE_DEFAULT, WARM_UP_DEFAULT, Workload};

/// Measure a node of this binary on this machine, beside what the machine allows.
///
/// A server is started on some cores and loaded from others, in a folder of its own that is
/// removed afterwards. Every figure stands beside the bare figure of the same run: receive,
/// CRC32C, direct write, fdatasync and answer, without a broker.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// What to measure.
    pub scenario: Scenario,
    /// `run`: a workload file, which flags go before; `merge`: logs of latency histograms.
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Bytes of a record's value [default: 100].
    #[arg(long, value_name = "SIZE")]
    pub record_size: Option<ByteSize>,
    /// Bytes of a batch: as many records as fit [default: 1MiB; `queue`: 64KiB; `backlog` and
    /// `partitions`: 100 records; `delay`: 1000 records; `latency` and `connections`: one].
    #[arg(long, value_name = "SIZE", conflicts_with = "batch_records")]
    pub batch_bytes: Option<ByteSize>,
    /// Records of a batch, instead of --batch-bytes.
    #[arg(long, value_name = "N")]
    pub batch_records: Option<u32>,
    /// Producers, each with connections of its own; consumers too, but for `run`, where it is
    /// the producers of each topic [default: 1].
    #[arg(long, value_name = "N")]
    pub producers: Option<usize>,
    /// Batches a producer sends ahead of their answers [default: 16 MiB of them, 4 to 64; `run`:
    /// so many of all producers together].
    #[arg(long, value_name = "N")]
    pub in_flight: Option<usize>,
    /// Servers that hold copies: 1, or 3 of which two must have a batch before its answer.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: usize,
    /// Partitions of the topic, or of each topic [default: 1; `partitions`: 100000, in topics of
    /// 1000].
    #[arg(long, value_name = "N")]
    pub partitions: Option<u32>,
    /// Seconds before those that count: connections grow their buffers, files their first segment
    /// [default: 1].
    #[arg(long, value_name = "S", value_parser = seconds_or_none)]
    pub warmup: Option<Duration>,
    /// Seconds that count [default: 10].
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// Seconds of the bare loop before it [default: as --duration, at most 10].
    #[arg(long, value_name = "S", value_parser = seconds)]
    pub bare_duration: Option<Duration>,
    /// Cores of the server [default: all but the last; with --nodes 3: all, a third for each].
    #[arg(long, value_name = "LIST")]
    pub server_cores: Option<CoreList>,
    /// Cores of the load generator [default: the last].
    #[arg(long, value_name = "LIST")]
    pub client_cores: Option<CoreList>,
    /// `latency`, `backlog`, `open-*`, `connections`, `run`: records per second offered, whatever
    /// comes back [default: 10000; `run`: 0, as many as go].
    #[arg(long, value_name = "N")]
    pub rate: Option<u64>,
    /// `connections`: idle connections; each takes a descriptor on both sides.
    #[arg(long, value_name = "N", default_value_t = 15_000)]
    pub connections: usize,
    /// `latency`: search the highest rate that keeps p99 below this, from --rate on.
    #[arg(long, value_name = "DURATION", value_parser = bound)]
    pub p99_below: Option<Duration>,
    /// `produce`: also build every batch from its records, as the SDK does; both are printed.
    #[arg(long)]
    pub build: bool,
    /// `consume-*`, `queue`: bytes produced before reading [default: 512MiB; `consume-cold`: 4GiB].
    #[arg(long, value_name = "SIZE")]
    pub fill: Option<ByteSize>,
    /// `consume-*`, `queue`: bytes asked for at once.
    #[arg(long, value_name = "SIZE", default_value = "4MiB")]
    pub fetch_bytes: ByteSize,
    /// `backlog`, `open-*`, `delay`, `run`: how many records lie there [default: 100000000;
    /// `open-leases`: 10000000; `delay`: 1000000; `run`: none].
    #[arg(long, value_name = "N")]
    pub backlog: Option<u64>,
    /// `queue`, `open-leases`: records of a lease, at most; one answer also holds at most
    /// --fetch-bytes.
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub lease_records: u32,
    /// `queue`: leases under way for each consumer and partition.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub leases: usize,
    /// What only `run` takes.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Folder under which the servers' data is made; it must allow direct I/O.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub data: PathBuf,
    /// A setting of the server, as for `start`.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
    /// How to print.
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Output,
    /// Also write the report as a page: one HTML file with plots, which needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Binary of the server [default: this one].
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Where a bare server writes its address.
    #[arg(long, hide = true)]
    pub ready_file: Option<PathBuf>,
    /// The two others, if a bare server is the one of three that receives.
    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub forward: Vec<SocketAddr>,
}

/// What only `run` takes.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// `run`: topics [default: 1].
    #[arg(long, value_name = "N")]
    pub topics: Option<u32>,
    /// `run`: subscriptions of each topic; each is given every record [default: 1].
    #[arg(long, value_name = "N")]
    pub subscriptions: Option<u32>,
    /// `run`: consumers of each subscription, which share its partitions [default: 1].
    #[arg(long, value_name = "N")]
    pub consumers: Option<u32>,
    /// `run`: which record has which key [default: NO_KEY].
    #[arg(long, value_name = "HOW", ignore_case = true)]
    pub keys: Option<Keys>,
    /// `run`: how long a record waits for others of its batch [default: 1ms].
    #[arg(long, value_name = "DURATION", value_parser = parse_linger)]
    pub linger: Option<Duration>,
    /// `run`: processes that load the servers, each on its share of --client-cores.
    #[arg(long, value_name = "N")]
    pub clients: Option<usize>,
    /// `run`: load a cluster that runs elsewhere, instead of servers of this run.
    #[arg(long, value_name = "ADDRESS", value_parser = parse_server)]
    pub server: Option<SocketAddr>,
    /// `run`: keep each client's log of latency histograms in this folder.
    #[arg(long, value_name = "DIR")]
    pub logs: Option<PathBuf>,
    /// What a client is to do.
    #[arg(long, hide = true, value_name = "FILE")]
    pub task: Option<PathBuf>,
}

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// The yardstick alone: what this machine allows.
    Bare,
    /// Batches made beforehand, sent with new sequences; closed loop.
    Produce,
    /// Reading the newest records, which the server still holds in memory.
    ConsumeTail,
    /// Reading from the start after a restart: from disk.
    ConsumeCold,
    /// Producing, and reading all of it meanwhile; latency is from sending to having received.
    Pipe,
    /// Leasing and acking each record of a backlog, durably; latency is that of both together.
    Queue,
    /// Producing and leasing with a backlog of --backlog records, and before it with none; latency
    /// is that of a lease of at most 100 records and their acks.
    Backlog,
    /// Producing while --backlog records are leased and not acked, and before it with none: what
    /// checkpoints of so many leases cost. Their interval follows `--set storage.segment_size`.
    OpenLeases,
    /// --backlog delayed records that come due at random within --duration, and a consumer that
    /// waits for them; latency counts from when a record is due until it was received.
    Delay,
    /// Producing while --backlog delayed records wait, and before it with none: what checkpoints of
    /// so many cost. Their interval follows `--set storage.segment_size`.
    OpenDelays,
    /// Records offered at a fixed rate; latency counts from the intended time of sending.
    Latency,
    /// A light load beside --connections idle ones, and before it with none; what each takes.
    Connections,
    /// --partitions of one node: making them, what each takes, producing to all in turn.
    Partitions,
    /// A workload: topics that are produced to and consumed from at once, as FILE or flags say;
    /// latency is that of publishing, and beside it from when a record was due to its consumer.
    Run,
    /// Logs of several clients or machines as one report: latencies together, rates summed.
    Merge,
    /// The process that `bare` loads.
    #[value(hide = true)]
    BareServer,
    /// The process that reading is compared with.
    #[value(hide = true)]
    BareSender,
    /// Reads the log files below --data, at most --fill bytes.
    #[value(hide = true)]
    BareScan,
    /// A process that loads the servers of `run`.
    #[value(hide = true)]
    Client,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What is to be done, with every default filled in.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub scenario: Scenario,
    pub record_size: usize,
    pub batch: BatchShape,
    pub producers: usize,
    pub in_flight: Option<usize>,
    pub partitions: u32,
    /// What does not count, before every measurement in a loop that runs for a time.
    pub warm_up: Duration,
    pub duration: Duration,
    pub bare_duration: Duration,
    /// The cores of each node: of one, or of three.
    pub node_cores: Vec<CoreList>,
    pub client_cores: CoreList,
    pub rate: u64,
    pub build: bool,
    pub fill_bytes: u64,
    pub fetch_bytes: u32,
    pub backlog: u64,
    pub lease_records: u32,
    pub leases: usize,
    pub p99_below: Option<Duration>,
    pub connections: usize,
    /// What `run` does.
    pub workload: Option<Workload>,
    pub clients: usize,
    /// Whom it loads, if not servers of its own.
    pub server: Option<SocketAddr>,
    pub logs: Option<PathBuf>,
    pub data: PathBuf,
    pub settings: Vec<String>,
    pub binary: PathBuf,
}

/// When a batch is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum BatchShape {
    /// At this many bytes at most, but with one record at least.
    Bytes(usize),
    /// At this many records.
    Records(u32),
}

const BATCH_BYTES_DEFAULT: usize = 1 << 20;
/// As many as are leased at once.
const BACKLOG_BATCH_RECORDS_DEFAULT: u32 = 100;
/// What a lease is of is sent in whole batches.
const QUEUE_BATCH_BYTES_DEFAULT: usize = 64 << 10;
/// Delayed records that are sent at once.
pub(crate) const DELAYED_BATCH_RECORDS: u32 = 1_000;
const RATE_DEFAULT: u64 = 10_000;
/// Of one run; each is a process.
const LOAD_CLIENTS_MAX: usize = 256;
const BARE_DURATION_MAX: Duration = Duration::from_secs(10);
const FILL_TAIL: ByteSize = ByteSize::mib(512);
const FILL_COLD: ByteSize = ByteSize::gib(4);
const BACKLOG: u64 = 100_000_000;
/// As many as one group may have open in a partition.
const OPEN: u64 = 10_000_000;
const DELAYED: u64 = 1_000_000;
/// Copies of everything, each a server of its own.
pub(crate) const NODES_MAX: usize = 3;
const PRODUCERS_MAX: usize = 1024;
const PARTITIONS: u32 = 100_000;
/// As many as a cluster holds.
const PARTITIONS_MAX: u32 = 200_000;
/// Memory is a slope between a third of them and all.
const CONNECTIONS_MIN: usize = 3;
const CONNECTIONS_MAX: usize = 1_000_000;
const IN_FLIGHT_MAX: usize = 4096;
/// What a server hands out at once.
const LEASE_RECORDS_MAX: usize = 10_000;
const SECONDS_MAX: f64 = 86_400.0;
/// Room for a fetch reply's head within the largest frame.
const FETCH_BYTES_MAX: usize = FRAME_BYTES_MAX - 4096;

impl Plan {
    /// Fills in the defaults; an error is the user's.
    pub(crate) fn new(args: &BenchArgs) -> Result<Self, String> {
        let cores = machine::cores();
        let last = cores - 1;
        let servers_end = if args.nodes == 1 { last.max(1) } else { cores };
        let server_cores = args.server_cores.clone();
        let server_cores = server_cores.unwrap_or_else(|| CoreList::range(0, servers_end));
        let client_cores = args.client_cores.clone();
        let fill = args.fill.unwrap_or(match args.scenario {
            Scenario::ConsumeCold => FILL_COLD,
            _ => FILL_TAIL,
        });
        check_numbers(args)?;
        check_nodes(args)?;
        check_load(args)?;
        args.report.as_deref().map_or(Ok(()), check_report)?;
        let duration = args.duration.unwrap_or(DURATION_DEFAULT);
        let mut plan = Self {
            scenario: args.scenario,
            record_size: record_size(args),
            batch: batch_shape(args)?,
            producers: args.producers.unwrap_or(1),
            in_flight: args.in_flight,
            partitions: partitions(args)?,
            warm_up: args.warmup.unwrap_or(WARM_UP_DEFAULT),
            duration,
            bare_duration: args.bare_duration.unwrap_or(duration.min(BARE_DURATION_MAX)),
            node_cores: match args.load.server {
                Some(_) => Vec::new(),
                None => server_cores.deal(args.nodes),
            },
            client_cores: client_cores.unwrap_or_else(|| CoreList::range(last, cores)),
            rate: args.rate.unwrap_or(RATE_DEFAULT),
            build: args.build,
            fill_bytes: fill.0,
            fetch_bytes: u32::try_from(args.fetch_bytes.0).unwrap_or(u32::MAX),
            backlog: args.backlog.unwrap_or(match args.scenario {
                Scenario::OpenLeases | Scenario::OpenDelays => OPEN,
                Scenario::Delay => DELAYED,
                _ => BACKLOG,
            }),
            lease_records: args.lease_records,
            leases: args.leases,
            p99_below: args.p99_below,
            connections: args.connections,
            workload: None,
            clients: args.load.clients.unwrap_or(1),
            server: args.load.server,
            logs: args.load.logs.clone(),
            data: args.data.clone(),
            settings: args.settings.clone(),
            binary: match &args.binary {
                Some(binary) => binary.clone(),
                None => std::env::current_exe().map_err(|error| error.to_string())?,
            },
        };
        if args.scenario == Scenario::Run {
            plan.take(Workload::new(args)?, args);
        }
        Ok(plan)
    }

    /// Does this; what a scenario and a workload both have is the workload's.
    fn take(&mut self, workload: Workload, args: &BenchArgs) {
        self.record_size = workload.record_size;
        self.batch = workload.batch(self.batch);
        self.producers = workload.producers_all();
        self.partitions = workload.partitions;
        self.warm_up = workload.warm_up;
        self.duration = workload.duration;
        let bare_duration = workload.duration.min(BARE_DURATION_MAX);
        self.bare_duration = args.bare_duration.unwrap_or(bare_duration);
        self.rate = workload.rate;
        self.workload = Some(workload);
    }
}

fn record_size(args: &BenchArgs) -> usize {
    args.record_size.map_or(RECORD_SIZE_DEFAULT, |size| size.as_usize())
}

fn check_numbers(args: &BenchArgs) -> Result<(), String> {
    within("--record-size", record_size(args), 1, RECORD_BYTES_MAX - 64)?;
    within("--producers", args.producers.unwrap_or(1), 1, PRODUCERS_MAX)?;
    within("--in-flight", args.in_flight.unwrap_or(1), 1, IN_FLIGHT_MAX)?;
    within("--fetch-bytes", args.fetch_bytes.as_usize(), 1, FETCH_BYTES_MAX)?;
    within("--lease-records", args.lease_records as usize, 1, LEASE_RECORDS_MAX)?;
    within("--leases", args.leases, 1, IN_FLIGHT_MAX)?;
    within("--connections", args.connections, CONNECTIONS_MIN, CONNECTIONS_MAX)?;
    if args.p99_below.is_some() && args.scenario != Scenario::Latency {
        return Err("--p99-below is a search of `latency`".to_owned());
    }
    if args.rate == Some(0) && args.scenario != Scenario::Run {
        return Err("--rate must be at least 1".to_owned());
    }
    Ok(())
}

fn batch_shape(args: &BenchArgs) -> Result<BatchShape, String> {
    if let Some(records) = args.batch_records {
        within("--batch-records", records as usize, 1, 1_000_000)?;
        return Ok(BatchShape::Records(records));
    }
    if let Some(bytes) = args.batch_bytes {
        within("--batch-bytes", bytes.as_usize(), 1, BATCH_BYTES_MAX)?;
        return Ok(BatchShape::Bytes(bytes.as_usize()));
    }
    Ok(match args.scenario {
        Scenario::Latency | Scenario::Connections => BatchShape::Records(1),
        Scenario::Backlog | Scenario::OpenLeases | Scenario::OpenDelays | Scenario::Partitions => {
            BatchShape::Records(BACKLOG_BATCH_RECORDS_DEFAULT)
        }
        Scenario::Delay => BatchShape::Records(DELAYED_BATCH_RECORDS),
        Scenario::Queue => BatchShape::Bytes(QUEUE_BATCH_BYTES_DEFAULT),
        _ => BatchShape::Bytes(BATCH_BYTES_DEFAULT),
    })
}

fn check_nodes(args: &BenchArgs) -> Result<(), String> {
    if ![1, NODES_MAX].contains(&args.nodes) {
        return Err(format!("--nodes must be 1 or {NODES_MAX}, not {}", args.nodes));
    }
    if args.nodes > 1 && args.scenario == Scenario::ConsumeCold {
        // It restarts what it reads from; a node that comes back on another port is no member.
        return Err("consume-cold measures one node".to_owned());
    }
    if args.nodes > 1 && matches!(args.scenario, Scenario::Connections | Scenario::Partitions) {
        return Err("connections and partitions measure what one node takes".to_owned());
    }
    if ![0, NODES_MAX - 1].contains(&args.forward.len()) {
        return Err(format!("--forward must be given {} times", NODES_MAX - 1));
    }
    Ok(())
}

/// What only `run` takes is not passed over elsewhere.
fn check_load(args: &BenchArgs) -> Result<(), String> {
    let LoadArgs { topics, subscriptions, consumers, keys, linger, clients, server, logs, task } =
        &args.load;
    let given = [
        ("--topics", topics.is_some()),
        ("--subscriptions", subscriptions.is_some()),
        ("--consumers", consumers.is_some()),
        ("--keys", keys.is_some()),
        ("--linger", linger.is_some()),
        ("--clients", clients.is_some()),
        ("--server", server.is_some()),
        ("--logs", logs.is_some()),
        ("FILE", !args.files.is_empty() && args.scenario != Scenario::Merge),
    ];
    let given = given.iter().find(|(_, given)| *given);
    if let (true, Some((flag, _))) = (args.scenario != Scenario::Run, given) {
        return Err(format!("{flag} is for `run`"));
    }
    if args.scenario == Scenario::Merge && args.files.is_empty() {
        return Err("merge needs the logs to merge".to_owned());
    }
    if task.is_some() != (args.scenario == Scenario::Client) {
        return Err("--task is what a client does".to_owned());
    }
    let flags = [args.nodes > 1, !args.settings.is_empty(), args.server_cores.is_some()];
    if server.is_some() && flags.contains(&true) {
        return Err("--nodes, --set and --server-cores are of servers that are started; --server \
                    loads those that run"
            .to_owned());
    }
    within("--clients", clients.unwrap_or(1), 1, LOAD_CLIENTS_MAX)
}

/// Told before anything is measured, not after.
fn check_report(file: &Path) -> Result<(), String> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    if file.is_dir() || !folder.is_dir() {
        return Err(format!("--report {} is no file in an existing folder", file.display()));
    }
    Ok(())
}

fn partitions(args: &BenchArgs) -> Result<u32, String> {
    let (usual, most) = match args.scenario {
        Scenario::Partitions => (PARTITIONS, PARTITIONS_MAX),
        _ => (1, PARTITIONS_PER_TOPIC_MAX),
    };
    let partitions = args.partitions.unwrap_or(usual);
    within("--partitions", partitions as usize, 1, most as usize)?;
    Ok(partitions)
}

fn within(flag: &str, value: usize, min: usize, max: usize) -> Result<(), String> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(format!("{flag} must be from {min} to {max}, not {value}"))
}

fn parse_linger(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { bound(text) }
}

/// A name or an address with its port.
fn parse_server(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| format!("{error}; give HOST:PORT"))?;
    found.into_iter().next().ok_or_else(|| "the name has no address".to_owned())
}

/// Parses `5ms`, `1s`.
fn bound(text: &str) -> Result<Duration, String> {
    let parsed = parse_duration(text).map_err(|error| error.to_string())?;
    if parsed.is_zero() { Err("must not be 0".to_owned()) } else { Ok(parsed) }
}

/// As [`seconds`], or none at all.
fn seconds_or_none(text: &str) -> Result<Duration, String> {
    if text == "0" { Ok(Duration::ZERO) } else { seconds(text) }
}

/// Parses `10`, `0.5` or a duration with a unit, as `500ms`.
fn seconds(text: &str) -> Result<Duration, String> {
    let parsed = match text.parse::<f64>() {
        Ok(number) if (0.001..=SECONDS_MAX).contains(&number) => Duration::from_secs_f64(number),
        Ok(_) => return Err("must be from 0.001 to 86400 seconds".to_owned()),
        Err(_) => parse_duration(text).map_err(|error| error.to_string())?,
    };
    if parsed.is_zero() { Err("must not be 0".to_owned()) } else { Ok(parsed) }
}
