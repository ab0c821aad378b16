//! Reading: the newest records from memory, or everything from disk after a restart.
//!
//! Owns: filling the topic first, and who reads what. Must never: count a byte that was not
//! received and checked (`reader`).

use std::time::Duration;

use anyhow::Result;
use barrage_wire::TopicRoutes;

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::meter::{Meter, Reading, Window};
use crate::produce;
use crate::reader::{AtEnd, Reader, Wish};
use crate::run::{Measured, TOPIC};
use crate::session::Session;
use crate::yardstick;

/// Longest time that filling or reading everything may take.
const LONG: Duration = Duration::from_secs(3_600);

/// What a topic was filled with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub reading: Reading,
    pub records: u64,
    pub value_bytes: u64,
    /// Of batches, as they were sent.
    pub stored_bytes: u64,
}

/// Reads the newest records after they were produced, over and over.
pub(crate) fn tail(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let loopback = yardstick::loopback(plan, folder)?;
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let filled = fill(plan, &routes)?;
    let readers = readers(plan, &routes, &AtEnd::Again)?;
    let read = read_all(readers, Window::after(plan.warm_up, plan.duration))?;
    let measured = Measured::new(&[("consume", &read)], &cluster.stop()?).beside(loopback);
    Ok(measured.with([("fill", filled.reading)]))
}

/// Fills, restarts the node, reads everything from the start.
pub(crate) fn cold(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let loopback = yardstick::loopback(plan, folder)?;
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let filled = fill(plan, &routes)?;
    cluster.stop()?;
    let disk = yardstick::disk(plan, folder, &filled)?;
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.routes(TOPIC)?;
    let readers = readers(plan, &routes, &AtEnd::Stop)?;
    let read = read_all(readers, Window::after(Duration::ZERO, LONG))?;
    let measured = Measured::new(&[("consume", &read)], &cluster.stop()?);
    let phases = [loopback.phase(), disk.phase(), ("fill", filled.reading)];
    Ok(measured.with(phases).beside(loopback.lower(disk)))
}

/// Produces the plan's bytes, all producers together.
pub(crate) fn fill(plan: &Plan, routes: &TopicRoutes) -> Result<Filled> {
    let mut lanes = produce::node_lanes(plan, routes, false)?;
    let lane_count = lanes.len() as u64;
    let (mut records, mut value_bytes, mut stored_bytes) = (0, 0, 0);
    for lane in &mut lanes {
        let batch_size = lane.batches.size() as u64;
        let batches = (plan.fill_bytes / batch_size / lane_count).max(1);
        lane.batches_max = Some(batches);
        records += batches * u64::from(lane.batches.records());
        value_bytes += batches * lane.batches.value_bytes();
        stored_bytes += batches * batch_size;
    }
    let reading = produce::run(lanes, Window::after(Duration::ZERO, LONG))?.read();
    Ok(Filled { reading, records, value_bytes, stored_bytes })
}

/// One reader per consumer and owning core.
pub(crate) fn readers(plan: &Plan, routes: &TopicRoutes, at_end: &AtEnd) -> Result<Vec<Reader>> {
    let mut readers = Vec::new();
    // A partition is read once, however many producers share it.
    let consumers = plan.producers.min(routes.partitions.len());
    for index in 0..consumers {
        for (address, keys) in produce::partitions_of(index, consumers, routes)? {
            let core = plan.client_cores.nth(readers.len());
            let session = Session::connect(address)?;
            // Half of what a connection may have under way, as the SDK's consumer.
            let fetches_max = (session.limits.in_flight_requests_max as usize / 2).max(1);
            let wish = Wish {
                at_end: at_end.clone(),
                bytes_max: plan.fetch_bytes,
                fetches_max,
                record_size: plan.record_size,
            };
            readers.push(Reader::new(session.into_stream(), core, wish, &keys));
        }
    }
    Ok(readers)
}

/// Runs every reader on a thread of its own.
pub(crate) fn read_all(readers: Vec<Reader>, window: Window) -> Result<Meter> {
    let runs = readers.into_iter().map(|reader| move || reader.run(window)).collect();
    produce::run_all(runs, window)
}
