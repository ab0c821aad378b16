//! Producing and reading at once: consumers follow, live, what producers send.
//!
//! Owns: both ways together. Must never: call it measured while a record that was acknowledged was
//! not read. Invariants: a record counts for the reading when it was received and its batch's CRC
//! was right; its latency is that of its batch, from just before it was sent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Error, Result, anyhow, ensure};
use barrage_model::PartitionKey;
use barrage_wire::TopicRoutes;

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::meter::{Meter, Reading, Window};
use crate::reader::{AtEnd, Live};
use crate::run::{Measured, TOPIC, ratio};
use crate::session::Session;
use crate::trail::Trail;
use crate::{consume, produce};

/// Says that nothing more will come, also when producing failed.
struct Done<'a>(&'a Live);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.done.store(true, Ordering::Release);
    }
}

/// Produces, and reads all of it meanwhile.
pub(crate) fn run(plan: &Plan, folder: &Folder, bare: &Reading) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let (read, written) = load(plan, &routes)?;
    let meters = [("consume", &read), ("produce", &written)];
    let written = written.read();
    let mut measured = Measured::new(&meters, &cluster.stop()?).with([("produce", written)]);
    let to_bare = ratio(written.records_per_s, bare.records_per_s);
    measured.figures.add("produce_ratio_to_bare", ("produce, ratio to bare", ""), to_bare);
    Ok(measured)
}

/// What was read, and what was produced: the same records.
pub(crate) fn load(plan: &Plan, routes: &TopicRoutes) -> Result<(Meter, Meter)> {
    let key = |partition| PartitionKey { topic: routes.topic, partition };
    let keys = routes.partitions.iter().map(|route| key(route.partition));
    let live = Arc::new(Live { done: AtomicBool::new(false), trail: Trail::new(keys) });
    let mut lanes = produce::node_lanes(plan, routes, false)?;
    for lane in &mut lanes {
        lane.live = Some(Arc::clone(&live));
    }
    let readers = consume::readers(plan, routes, &AtEnd::Follow(Arc::clone(&live)))?;
    let window = Window::after(plan.warm_up, plan.duration);
    let (read, written) = thread::scope(|scope| {
        let reading = scope.spawn(move || consume::read_all(readers, window));
        let done = Done(&live);
        let written = produce::run(lanes, window);
        drop(done);
        let read = reading.join().map_err(|_| anyhow!("a load thread panicked"))?;
        Ok::<_, Error>((read?, written?))
    })?;
    let (sent, came) = (written.records_all(), read.records_all());
    ensure!(sent == came, "{sent} records were acknowledged, {came} were read");
    Ok((read, written))
}
