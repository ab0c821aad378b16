//! Reading: the newest records from memory, or everything from disk after a restart.
//!
//! Owns: filling the topic first, and who reads what. Must never: count a byte that was not
//! received and checked (`reader`).

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use barrage_wire::TopicRoutes;

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::lane::Lane;
use crate::meter::{Meter, Reading, Window};
use crate::produce;
use crate::reader::{AtEnd, Reader};
use crate::run::{Measured, TOPIC};
use crate::session::Session;

/// Longest time that filling or reading everything may take.
const LONG: Duration = Duration::from_secs(3_600);

/// Reads the newest records: after they were produced, over and over, or while they are.
pub(crate) fn tail(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    if plan.live {
        let lanes = produce::node_lanes(plan, &routes, false)?;
        let window = Window::after(plan.warm_up, plan.duration);
        let readers = readers(plan, &routes, AtEnd::Wait)?;
        let (read, written) = both(readers, lanes, window)?;
        let meters = [("consume", &read), ("produce", &written)];
        let measured = Measured::new(&meters, &cluster.stop()?);
        return Ok(measured.with([("produce, meanwhile", written.read())]));
    }
    let written = fill(plan, &routes)?;
    let readers = readers(plan, &routes, AtEnd::Again)?;
    let read = read_all(readers, Window::after(plan.warm_up, plan.duration))?;
    Ok(Measured::new(&[("consume", &read)], &cluster.stop()?).with([("fill", written)]))
}

/// Fills, restarts the node, reads everything from the start.
pub(crate) fn cold(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let written = fill(plan, &routes)?;
    cluster.stop()?;
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.routes(TOPIC)?;
    let readers = readers(plan, &routes, AtEnd::Stop)?;
    let read = read_all(readers, Window::after(Duration::ZERO, LONG))?;
    Ok(Measured::new(&[("consume", &read)], &cluster.stop()?).with([("fill", written)]))
}

/// Produces the plan's bytes, all producers together.
pub(crate) fn fill(plan: &Plan, routes: &TopicRoutes) -> Result<Reading> {
    let mut lanes = produce::node_lanes(plan, routes, false)?;
    let lane_count = lanes.len() as u64;
    for lane in &mut lanes {
        let batch_size = lane.batches.size() as u64;
        lane.batches_max = Some((plan.fill_bytes / batch_size / lane_count).max(1));
    }
    Ok(produce::run(lanes, Window::after(Duration::ZERO, LONG))?.read())
}

/// One reader per consumer and owning core.
fn readers(plan: &Plan, routes: &TopicRoutes, at_end: AtEnd) -> Result<Vec<Reader>> {
    let mut readers = Vec::new();
    // A partition is read once, however many producers share it.
    let consumers = plan.producers.min(routes.partitions.len());
    for index in 0..consumers {
        for (address, keys) in produce::partitions_of(index, consumers, routes)? {
            let core = plan.client_cores.nth(readers.len());
            readers.push(connect(plan, address, core, at_end, &keys)?);
        }
    }
    Ok(readers)
}

fn connect(
    plan: &Plan,
    address: SocketAddr,
    core: usize,
    at_end: AtEnd,
    keys: &[barrage_model::PartitionKey],
) -> Result<Reader> {
    let stream = Session::connect(address)?.into_stream();
    Ok(Reader::new(stream, core, at_end, keys, plan.fetch_bytes, plan.record_size))
}

fn read_all(readers: Vec<Reader>, window: Window) -> Result<Meter> {
    let runs = readers.into_iter().map(|reader| move || reader.run(window)).collect();
    produce::run_all(runs, window)
}

/// Reads and produces at once.
fn both(readers: Vec<Reader>, lanes: Vec<Lane>, window: Window) -> Result<(Meter, Meter)> {
    thread::scope(|scope| {
        let reading = scope.spawn(move || read_all(readers, window));
        let written = produce::run(lanes, window)?;
        let read = reading.join().map_err(|_| anyhow!("a load thread panicked"))??;
        Ok((read, written))
    })
}
