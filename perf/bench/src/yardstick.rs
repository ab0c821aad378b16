//! What a run's figures stand beside: the same work without a broker, measured in the same run.
//!
//! Owns: which yardstick is whose, and the load on the bare servers. Must never: run one beside
//! what is measured.
//!
//! ```text
//! producing, queues  the bare loop: receive, CRC32C, write, fdatasync, answer
//! consume-tail       loopback: prepared batches sent without end, received and checked
//! consume-cold       the lower of loopback and the disk: the log's files read from front to back
//! ```

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

use crate::affinity;
use crate::args::{BatchShape, Plan};
use crate::bare::scan::Scanned;
use crate::bare::sender::{self, Pieces};
use crate::bare::{self, HEAD_SIZE};
use crate::child::{Child, Folder};
use crate::cluster::{self, Cluster};
use crate::consume::Filled;
use crate::cost::Cost;
use crate::dialect::Targets;
use crate::lane::ANSWER_TIMEOUT;
use crate::meter::{MIB, Meter, Reading, Window};
use crate::reader;
use crate::sampler::{Sampler, Samples};
use crate::timeline::{Percentile, curve};
use crate::workload::Workload;
use crate::{latency, produce};

/// What a figure is quoted beside.
#[derive(Clone, Debug)]
pub(crate) struct Yardstick {
    /// Its name in the report.
    pub name: &'static str,
    pub reading: Reading,
    /// The curve of its latencies.
    pub curve: Vec<Percentile>,
    /// What its servers took.
    pub cost: Option<Cost>,
}

/// The yardstick of all that writes.
pub(crate) const BARE: &str = "bare";
/// That of reading from memory.
pub(crate) const LOOPBACK: &str = "loopback";
/// That of reading from a disk.
pub(crate) const DISK: &str = "disk";
/// Connections in place of a workload's: more make it no faster, and each is a thread.
const BARE_PRODUCERS_MAX: usize = 64;
/// Most memory of a sender: more than any processor's cache.
const LOOPBACK_BYTES_MAX: u64 = 512 << 20;

/// The bare loop under the plan's load: in a closed loop, or in an open one at the plan's rate.
pub(crate) fn bare(plan: &Plan, folder: &Folder, open: bool) -> Result<(Meter, Samples)> {
    let cluster = Cluster::start_bare(plan, folder)?;
    let plan = &plan.workload.as_ref().map_or_else(|| plan.clone(), |load| alike(plan, load));
    let meter = if open {
        latency::run_bare(plan, cluster.address())?
    } else {
        let lanes = produce::bare_lanes(plan, cluster.address())?;
        produce::run(lanes, Window::after(plan.warm_up, plan.bare_duration))?
    };
    Ok((meter, cluster.end_bare()))
}

/// A workload's load on the bare loop: a few producers in place of many have as much under way,
/// and batches are such as keys leave of them.
fn alike(plan: &Plan, workload: &Workload) -> Plan {
    let producers = plan.producers.clamp(1, BARE_PRODUCERS_MAX);
    let in_flight = plan.in_flight.map(|of_one| (of_one * plan.producers).div_ceil(producers));
    let batch = workload.batch_usual(plan.batch);
    Plan { producers, in_flight, batch, ..plan.clone() }
}

/// What a bare sender gets through the loopback to as many consumers as the plan has.
pub(crate) fn loopback(plan: &Plan, folder: &Folder) -> Result<Yardstick> {
    let cores = plan.node_cores.first().context("a plan without nodes")?;
    let mut command = Command::new(&plan.binary);
    command.args(["bench", "bare-sender", "--server-cores"]).arg(cores.to_string());
    command.arg("--record-size").arg(plan.record_size.to_string());
    match plan.batch {
        BatchShape::Bytes(bytes) => command.arg("--batch-bytes").arg(bytes.to_string()),
        BatchShape::Records(records) => command.arg("--batch-records").arg(records.to_string()),
    };
    command.arg("--fetch-bytes").arg(plan.fetch_bytes.to_string());
    command.arg("--fill").arg(plan.fill_bytes.to_string());
    let sender = Child::start("sender", command, folder)?;
    let sampler = Sampler::start(vec![(LOOPBACK.to_owned(), sender.pid())]);
    let window = Window::after(plan.warm_up, plan.bare_duration);
    let consumers = plan.producers.min(plan.partitions as usize);
    let runs = (0..consumers).map(|index| {
        let (core, address) = (plan.client_cores.nth(index), sender.address);
        move || receive(plan, address, core, window)
    });
    let meter = produce::run_all(runs.collect(), window)?;
    Ok(Yardstick::of(LOOPBACK, &meter, &sampler.stop()))
}

/// What a bare sender sends: batches of the plan's shape, in pieces as large as its fetches.
pub(crate) fn pieces(plan: &Plan) -> Result<Pieces> {
    let mut batches = produce::batches(plan, plan.batch)?;
    let (_, stamp) = Targets::bare().next(batches.records());
    let bytes = usize::try_from(plan.fill_bytes.min(LOOPBACK_BYTES_MAX))?;
    sender::pieces(batches.next(stamp, false)?, plan.fetch_bytes as usize, bytes)
}

/// Receives and checks pieces until the window ends, as a reader does.
fn receive(plan: &Plan, address: SocketAddr, core: usize, window: Window) -> Result<Meter> {
    affinity::pin(core).with_context(|| format!("cannot run on core {core}"))?;
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    let mut meter = Meter::new(window);
    let mut body = Vec::new();
    let mut began = Instant::now();
    while began < window.end {
        let mut head = [0; HEAD_SIZE];
        stream.read_exact(&mut head).context("nothing is sent")?;
        let length = bare::length_of(&head);
        ensure!(length > 0, "an empty piece");
        body.resize(length, 0);
        stream.read_exact(&mut body).context("half a piece")?;
        let now = Instant::now();
        let records = reader::check_batches(&body)?;
        meter.ended(began, now, records, records * plan.record_size as u64);
        began = now;
    }
    Ok(meter)
}

/// What the disk gives of the log that `filled` was stored in: that its records were read.
pub(crate) fn disk(plan: &Plan, folder: &Folder, filled: &Filled) -> Result<Yardstick> {
    let cores = plan.node_cores.first().context("a plan without nodes")?;
    let mut command = Command::new(&plan.binary);
    command.args(["bench", "bare-scan", "--server-cores"]).arg(cores.to_string());
    command.arg("--data").arg(cluster::node_folder(folder.path(), 0));
    command.arg("--fill").arg(filled.stored_bytes.to_string());
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "the files cannot be read: {}", output.status);
    let scanned: Scanned = serde_json::from_slice(&output.stdout).context("a scan's figures")?;
    // So many of the records lie in what was read.
    let part = scanned.bytes as f64 / filled.stored_bytes.max(1) as f64;
    let (records, bytes) = (filled.records as f64 * part, filled.value_bytes as f64 * part);
    let reading = Reading {
        records_per_s: records / scanned.seconds,
        mib_per_s: bytes / scanned.seconds / MIB,
        ..Reading::default()
    };
    Ok(Yardstick { name: DISK, reading, curve: Vec::new(), cost: None })
}

impl Yardstick {
    /// What a meter counted.
    pub(crate) fn of(name: &'static str, meter: &Meter, samples: &Samples) -> Self {
        let cost = Cost::of(samples, meter.window());
        Self { name, reading: meter.read(), curve: curve(&meter.latencies()), cost }
    }

    /// Its row among the figures on the way.
    pub(crate) const fn phase(&self) -> (&'static str, Reading) {
        (self.name, self.reading)
    }

    /// The one with fewer records a second.
    pub(crate) fn lower(self, other: Self) -> Self {
        if self.reading.records_per_s <= other.reading.records_per_s { self } else { other }
    }
}
