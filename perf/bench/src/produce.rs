//! Producers in a closed loop: against the bare server and against a node.
//!
//! Owns: how producers, partitions and connections belong together. Must never: let a thread serve
//! two connections; a lane blocks.
//!
//! With fewer producers than partitions each writes to several, in turn; with more, several share
//! one. A producer has one connection per core that owns any of its partitions.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use barrage_model::PartitionKey;
use barrage_wire::{PartitionRoute, Request, Response, TopicRoutes};

use crate::args::{BatchShape, Plan};
use crate::batches::{Batches, Recipe};
use crate::dialect::{Dialect, Targets};
use crate::lane::Lane;
use crate::meter::{Meter, Window};
use crate::session::Session;

/// Bytes kept under way by a producer that was not told how many batches.
const IN_FLIGHT_BYTES: usize = 16 << 20;
const IN_FLIGHT_MIN: usize = 4;
const IN_FLIGHT_MAX: usize = 64;

/// Batches of the plan's shape.
pub(crate) fn batches(plan: &Plan, shape: BatchShape) -> Result<Batches> {
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let timestamp_ms = i64::try_from(now.as_millis())?;
    Batches::make(Recipe::new(shape, plan.record_size, timestamp_ms))
}

/// How many batches of this size a producer keeps under way; those of a workload share what one
/// alone would.
pub(crate) fn in_flight(plan: &Plan, batch_size: usize) -> usize {
    let by_bytes = (IN_FLIGHT_BYTES / batch_size.max(1)).clamp(IN_FLIGHT_MIN, IN_FLIGHT_MAX);
    let sharers = if plan.workload.is_some() { plan.producers } else { 1 };
    plan.in_flight.unwrap_or((by_bytes / sharers.max(1)).max(1))
}

/// Lanes to the bare server.
pub(crate) fn bare_lanes(plan: &Plan, address: SocketAddr) -> Result<Vec<Lane>> {
    let batches = batches(plan, plan.batch)?;
    let lane = |index| {
        Ok(Lane {
            stream: TcpStream::connect(address)?,
            dialect: Dialect::Bare,
            targets: Targets::bare(),
            in_flight: in_flight(plan, batches.size()),
            batches: batches.clone(),
            build: false,
            batches_max: None,
            live: None,
            core: plan.client_cores.nth(index),
        })
    };
    (0..plan.producers).map(lane).collect()
}

/// Lanes to a node.
pub(crate) fn node_lanes(plan: &Plan, routes: &TopicRoutes, build: bool) -> Result<Vec<Lane>> {
    let mut lanes = Vec::new();
    for index in 0..plan.producers {
        for (address, keys) in partitions_of(index, plan.producers, routes)? {
            lanes.push(node_lane(plan, (address, keys), lanes.len(), build)?);
        }
    }
    Ok(lanes)
}

/// A lane to these partitions, which are all at this address.
pub(crate) fn node_lane(
    plan: &Plan,
    (address, keys): (SocketAddr, Vec<PartitionKey>),
    index: usize,
    build: bool,
) -> Result<Lane> {
    let batches = batches(plan, plan.batch)?;
    let (stream, targets, allowed) = connect(address, keys, batches.size())?;
    check_in_flight(plan.in_flight, allowed)?;
    Ok(Lane {
        stream,
        dialect: Dialect::Native,
        targets,
        in_flight: in_flight(plan, batches.size()).min(allowed),
        batches,
        build,
        batches_max: None,
        live: None,
        core: plan.client_cores.nth(index),
    })
}

/// What was asked for is refused if it is more than a server allows, not lowered.
pub(crate) fn check_in_flight(asked: Option<usize>, allowed: usize) -> Result<()> {
    let asked = asked.unwrap_or(0);
    ensure!(
        asked <= allowed,
        "--in-flight {asked}: a connection may have {allowed} of these batches under way; ask for \
         fewer, or raise limits.in_flight_requests and limits.in_flight_size with --set"
    );
    Ok(())
}

/// Makes a connection with a producer id of its own; also how many batches it may have under way.
pub(crate) fn connect(
    address: SocketAddr,
    keys: Vec<PartitionKey>,
    batch_size: usize,
) -> Result<(TcpStream, Targets, usize)> {
    let mut session = Session::connect(address)?;
    let id = session.ask(&Request::InitProducer, |response| match response {
        Response::InitProducer(reply) => Some(reply),
        _ => None,
    })?;
    let limits = session.limits;
    let by_bytes = limits.in_flight_bytes_max as usize / batch_size.max(1);
    let allowed = by_bytes.min(limits.in_flight_requests_max as usize).max(1);
    Ok((session.into_stream(), Targets::new(id.producer, id.epoch, keys), allowed))
}

/// The partitions of one of `count` clients, by the address that owns them.
pub(crate) fn partitions_of(
    index: usize,
    count: usize,
    routes: &TopicRoutes,
) -> Result<BTreeMap<SocketAddr, Vec<PartitionKey>>> {
    let mut by_address: BTreeMap<SocketAddr, Vec<PartitionKey>> = BTreeMap::new();
    let partitions = routes.partitions.len();
    for (number, route) in routes.partitions.iter().enumerate() {
        let ours = match count <= partitions {
            true => number % count == index,
            false => number == index % partitions,
        };
        if !ours {
            continue;
        }
        let address = leader(route)?;
        let key = PartitionKey { topic: routes.topic, partition: route.partition };
        by_address.entry(address).or_default().push(key);
    }
    Ok(by_address)
}

/// Where a partition is led.
pub(crate) fn leader(route: &PartitionRoute) -> Result<SocketAddr> {
    route.address.parse().with_context(|| {
        format!("partition {} has the address {:?}", route.partition, route.address)
    })
}

/// Runs every lane on a thread of its own; the window opens after all are connected.
pub(crate) fn run(lanes: Vec<Lane>, window: Window) -> Result<Meter> {
    let runs = lanes.into_iter().map(|lane| move || lane.run(window)).collect();
    run_all(runs, window)
}

/// Runs each function on a thread and adds up what they count; the first error is told.
pub(crate) fn run_all<F>(runs: Vec<F>, window: Window) -> Result<Meter>
where
    F: FnOnce() -> Result<Meter> + Send,
{
    let mut sum: Option<Meter> = None;
    thread::scope(|scope| {
        let threads: Vec<_> = runs.into_iter().map(|run| scope.spawn(run)).collect();
        for thread in threads {
            let meter = thread.join().map_err(|_| anyhow!("a load thread panicked"))??;
            match &mut sum {
                Some(sum) => sum.add(&meter),
                None => sum = Some(meter),
            }
        }
        Ok(sum.unwrap_or_else(|| Meter::new(window)))
    })
}
