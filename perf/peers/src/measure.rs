//! One measurement of one peer: start it, load it, end it.
//!
//! Owns: the order of these steps, the same for every peer. Must never: leave a server or its data
//! behind.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::args::Plan;
use crate::cores::CoreList;
use crate::folder::Folder;
use crate::installed::Installed;
use crate::load::{self, Lane, Reading, Window};
use crate::process::Process;
use crate::scenario::{Scenario, Shape};
use crate::subject::{Durability, Peer};
use crate::{nats, rabbitmq, redis};

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) binary: PathBuf,
    /// What it owns on disk.
    pub(crate) folder: PathBuf,
    pub(crate) cores: CoreList,
    pub(crate) durability: Durability,
}

/// A running server with one log or queue, as each peer has its own.
pub(crate) trait Broker: Sized {
    type Publisher: Lane;
    type Worker: Lane;
    /// Whether a queue may be filled at the default durability, which takes less time.
    const HARDENS: bool;

    /// Starts it and makes its log or queue.
    async fn start(setup: &Setup) -> Result<Self>;
    /// As many as the shape has requests under way.
    async fn publishers(&self, shape: &Shape) -> Result<Vec<Self::Publisher>>;
    /// As [`Self::publishers`], of those that receive and ack.
    async fn workers(&self, shape: &Shape) -> Result<Vec<Self::Worker>>;
    /// Goes on at the durability of `setup`, with what is there.
    async fn harden(self, setup: &Setup) -> Result<Self>;
    fn process(&self) -> &Process;
}

/// As in `barrage bench`.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// What a queue is filled with at most: some GiB of a peer that keeps all in memory.
const FILL_RECORDS_MAX: u64 = 10_000_000;
const FILL_RECORDS_MIN: u64 = 1_000;

/// Measures a peer once.
pub(crate) async fn measure(
    plan: &Plan,
    scenario: Scenario,
    subject: (Peer, Durability),
    installed: &Installed,
) -> Result<Reading> {
    let folder = Folder::make(&plan.data)?;
    let (peer, durability) = subject;
    let setup = Setup {
        binary: installed.binary.clone(),
        folder: folder.path().to_owned(),
        cores: plan.server_cores.clone(),
        durability,
    };
    match peer {
        Peer::Nats => run::<nats::Server>(plan, scenario, &setup).await,
        Peer::Redis => run::<redis::Server>(plan, scenario, &setup).await,
        Peer::Rabbitmq => run::<rabbitmq::Server>(plan, scenario, &setup).await,
    }
}

async fn run<B: Broker>(plan: &Plan, scenario: Scenario, setup: &Setup) -> Result<Reading> {
    let shape = plan.shape(scenario)?;
    let window = Window { warm_up: WARM_UP, duration: plan.duration, records: None };
    if scenario == Scenario::Queue {
        let (server, records) = filled::<B>(plan, setup, &shape).await?;
        let window = Window { records: Some(records), ..window };
        return load(&server, server.workers(&shape).await?, window).await;
    }
    let server = B::start(setup).await?;
    load(&server, server.publishers(&shape).await?, window).await
}

async fn load<B: Broker, L: Lane>(server: &B, lanes: Vec<L>, window: Window) -> Result<Reading> {
    let process = server.process();
    load::measure(lanes, window, process.group()).await.map_err(|error| process.explain(&error))
}

/// A server whose queue holds records, and how many.
async fn filled<B: Broker>(plan: &Plan, setup: &Setup, shape: &Shape) -> Result<(B, u64)> {
    let hardens = B::HARDENS && setup.durability != Durability::Default;
    let durability = if hardens { Durability::Default } else { setup.durability };
    let mut server = B::start(&Setup { durability, ..setup.clone() }).await?;
    let publishers = server.publishers(&shape.filling()).await?;
    let filled = load::fill(publishers, FILL_RECORDS_MAX, plan.fill_time).await;
    let records = filled.map_err(|error| server.process().explain(&error))?;
    ensure!(records >= FILL_RECORDS_MIN, "only {records} records in {:?}", plan.fill_time);
    if hardens {
        server = server.harden(setup).await?;
    }
    Ok((server, records))
}
