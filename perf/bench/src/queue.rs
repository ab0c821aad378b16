//! Leasing and acking each record of a backlog.
//!
//! Owns: the backlog, the group, who works on what. Must never: count a record that was not acked
//! (`worker`).

use std::time::Duration;

use anyhow::Result;
use barrage_model::GroupId;
use barrage_model::group::Order;
use barrage_wire::{GroupCreate, GroupSettings, NewGroup, Request, Response, TopicRoutes};

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::meter::{Meter, Reading, Window};
use crate::run::{Measured, TOPIC};
use crate::session::Session;
use crate::worker::{Wish, Worker};
use crate::{consume, latency, produce};

const GROUP: &str = "workers";
/// What is leased at once where latency is what matters.
const FEW: u32 = 100;
/// Nothing is delivered twice because a run took long.
const VISIBILITY: Duration = Duration::from_secs(600);

/// Fills, then leases and acks until the time is over or the backlog is done.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let mut session = Session::connect(cluster.address())?;
    let routes = session.create_topic(TOPIC, plan.partitions)?;
    let group = create_group(&mut session)?;
    let written = consume::fill(plan, &routes)?.reading;
    let wish = Wish {
        group,
        count_max: plan.lease_records,
        bytes_max: plan.fetch_bytes,
        turns: plan.leases,
        acks: true,
    };
    let worked = work(plan, &routes, wish, plan.warm_up)?;
    let meters = [("lease and ack", &worked)];
    Ok(Measured::new(&meters, &cluster.stop()?).with([("fill", written)]))
}

/// Produces and leases in a topic that holds next to nothing, and in one with a backlog.
pub(crate) fn backlog(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let mut session = Session::connect(cluster.address())?;
    let routes = session.create_topic(TOPIC, plan.partitions)?;
    let group = create_group(&mut session)?;
    let wish = Wish { group, count_max: FEW, bytes_max: plan.fetch_bytes, turns: 1, acks: true };
    let measure = || -> Result<(Meter, Meter)> {
        let produced = latency::run_node(plan, &routes)?;
        Ok((produced, work(plan, &routes, wish, Duration::ZERO)?))
    };
    let (produced_before, before) = measure()?;
    let written = fill(plan, &routes)?;
    let (produced, worked) = measure()?;
    let phases = [
        ("produce, empty", produced_before.read()),
        ("lease and ack, empty", before.read()),
        ("fill", written),
        ("produce, backlog", produced.read()),
    ];
    Ok(Measured::new(&[("lease and ack", &worked)], &cluster.stop()?).with(phases))
}

/// Produces while nothing is leased, and while a backlog is.
pub(crate) fn open_leases(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let mut session = Session::connect(cluster.address())?;
    let routes = session.create_topic(TOPIC, plan.partitions)?;
    let group = create_group(&mut session)?;
    let before = latency::run_node(plan, &routes)?.read();
    let written = fill(plan, &routes)?;
    let wish = Wish {
        group,
        count_max: plan.lease_records,
        bytes_max: plan.fetch_bytes,
        turns: plan.leases,
        acks: false,
    };
    let all = Plan { duration: VISIBILITY, ..plan.clone() };
    let leased = work(&all, &routes, wish, Duration::ZERO)?.read();
    let meter = latency::run_node(plan, &routes)?;
    let phases = [("produce, no leases", before), ("fill", written), ("lease all", leased)];
    Ok(Measured::new(&[("produce", &meter)], &cluster.stop()?).with(phases))
}

/// Produces the plan's backlog.
fn fill(plan: &Plan, routes: &TopicRoutes) -> Result<Reading> {
    let batches = produce::batches(plan, plan.batch)?;
    let batch_count = plan.backlog.div_ceil(u64::from(batches.records()));
    let fill_bytes = batch_count * batches.size() as u64;
    Ok(consume::fill(&Plan { fill_bytes, ..plan.clone() }, routes)?.reading)
}

/// Leases, and acks if that is wished, until the time is over or nothing is left.
fn work(plan: &Plan, routes: &TopicRoutes, wish: Wish, warm_up: Duration) -> Result<Meter> {
    let mut workers = Vec::new();
    for index in 0..plan.producers {
        for (address, keys) in produce::partitions_of(index, plan.producers, routes)? {
            let core = plan.client_cores.nth(workers.len());
            let stream = Session::connect(address)?.into_stream();
            workers.push(Worker::new(stream, core, wish, &keys, plan.record_size));
        }
    }
    let window = Window::after(warm_up, plan.duration);
    let runs = workers.into_iter().map(|worker| move || worker.run(window)).collect();
    produce::run_all(runs, window)
}

fn create_group(session: &mut Session) -> Result<GroupId> {
    let settings = GroupSettings {
        visibility_ms: u64::try_from(VISIBILITY.as_millis())?,
        deliveries_max: None,
        max_age_ms: None,
        dead_letter: None,
        backoff: "1s".to_owned(),
        filter: None,
        order: Order::None,
    };
    let (topic, name) = (TOPIC.to_owned(), GROUP.to_owned());
    let kind = NewGroup::Queue { settings, at_end: false };
    let create = GroupCreate { topic, name, kind };
    session.ask(&Request::GroupCreate(create), |response| match response {
        Response::GroupCreate(summary) => Some(summary.group),
        _ => None,
    })
}
