//! Many partitions on one node: what making and keeping them takes, and work spread over them.
//!
//! Owns: the topics they are in. Must never: count a partition that is not open.
//! Invariants: memory is a slope, between a tenth of the partitions and all: what the node has
//! anyway is in neither.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use barrage_model::PartitionKey;

use crate::args::Plan;
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::cost::{Taken, bytes_each, idle_percent, look};
use crate::lane::Lane;
use crate::meter::{Meter, Reading, Window};
use crate::produce;
use crate::progress::Progress;
use crate::run::{Measured, TOPIC};
use crate::session::Session;

/// Partitions of a topic: many topics of some, not one of all.
const PER_TOPIC: u32 = 1_000;
/// Memory is looked at when so many parts of all are made, and when all are.
const PART: u32 = 10;
/// Until a node has done what follows a topic.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest time that making all may take.
const LONG: Duration = Duration::from_secs(3_600);

/// Partitions that were made.
struct Made {
    /// Latency is that of a topic.
    reading: Reading,
    took: Duration,
    /// What the node took at first, and how many there were then.
    few: (Taken, u32),
    all: Taken,
}

/// Makes the partitions, leaves them alone for a while, then produces to all of them in turn.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let progress = Progress::new();
    let cluster = Cluster::start_nodes(plan, folder)?;
    let (pids, address) = (cluster.pids(), cluster.address());
    let topics = topics(plan.partitions);
    let made = make(&mut Session::connect(address)?, &pids, &topics, &progress)?;
    progress.say(format!("{} partitions idle", plan.partitions));
    let idle = idle_percent(&pids, plan.duration)?;
    progress.say(format!("producing to {} partitions", plan.partitions));
    let lanes = lanes(plan, &mut Session::connect(address)?, &topics)?;
    let produced = produce::run(lanes, Window::after(plan.warm_up, plan.duration))?;
    let mut measured = Measured::new(&[("produce", &produced)], &cluster.stop()?);
    let figures = &mut measured.figures;
    let count = f64::from(plan.partitions);
    figures.add("partitions", ("partitions", ""), count);
    let (few, few_count) = made.few;
    let bytes = bytes_each(few, made.all, u64::from(plan.partitions - few_count));
    figures.add("partition_bytes", ("server, memory per partition", "bytes"), bytes);
    let per_s = count / made.took.as_secs_f64();
    figures.add("partitions_per_s", ("partitions made", "/s"), per_s);
    figures.add("idle_cpu_percent", ("server idle with them, of a core", "%"), idle);
    Ok(measured.with([("create", Reading { records_per_s: per_s, ..made.reading })]))
}

/// The topics' names and how many partitions each has: `count` together.
fn topics(count: u32) -> Vec<(String, u32)> {
    let each = count.div_ceil(PART).min(PER_TOPIC);
    let starts = (0..count).step_by(each as usize);
    let topic = |start: u32| (format!("{TOPIC}-{start}"), each.min(count - start));
    starts.map(topic).collect()
}

/// Makes the topics, one after the other.
fn make(
    session: &mut Session,
    pids: &[u32],
    topics: &[(String, u32)],
    progress: &Progress,
) -> Result<Made> {
    let count: u32 = topics.iter().map(|(_, partitions)| partitions).sum();
    let mut meter = Meter::new(Window::after(Duration::ZERO, LONG));
    let (mut made, mut few, mut took) = (0, None, Duration::ZERO);
    for (name, partitions) in topics {
        progress.say(format!("{made} of {count} partitions made"));
        let began = Instant::now();
        session.create(name, *partitions).with_context(|| format!("after {made} partitions"))?;
        let now = Instant::now();
        took += now - began;
        meter.ended(began, now, u64::from(*partitions), 0);
        made += partitions;
        if few.is_none() && made >= count / PART {
            thread::sleep(SETTLE);
            few = Some((look(pids)?, made));
        }
    }
    thread::sleep(SETTLE);
    let few = few.context("no partition was made")?;
    Ok(Made { reading: meter.read(), took, few, all: look(pids)? })
}

/// Lanes to all partitions: each producer has every so-manieth of each topic.
fn lanes(plan: &Plan, session: &mut Session, topics: &[(String, u32)]) -> Result<Vec<Lane>> {
    let mut routes = Vec::with_capacity(topics.len());
    for (name, _) in topics {
        routes.push(session.routes_when_led(name)?);
    }
    let mut lanes = Vec::new();
    for index in 0..plan.producers {
        let mut mine: BTreeMap<SocketAddr, Vec<PartitionKey>> = BTreeMap::new();
        for routes in &routes {
            for (address, keys) in produce::partitions_of(index, plan.producers, routes)? {
                mine.entry(address).or_default().extend(keys);
            }
        }
        for there in mine {
            lanes.push(produce::node_lane(plan, there, lanes.len(), false)?);
        }
    }
    Ok(lanes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_hold_all_partitions_in_at_least_ten_parts() {
        let check = |count: u32, topic_count: usize, largest: u32| {
            let topics = topics(count);
            assert_eq!(topics.len(), topic_count, "{count}");
            assert_eq!(topics.iter().map(|topic| topic.1).sum::<u32>(), count);
            assert_eq!(topics.iter().map(|topic| topic.1).max(), Some(largest));
        };
        check(1, 1, 1);
        check(25, 9, 3);
        check(100_000, 100, 1_000);
        check(100_001, 101, 1_000);
    }
}
