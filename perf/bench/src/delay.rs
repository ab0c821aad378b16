//! Delayed records that come due, and a consumer that waits for them.
//!
//! Owns: when each record is due, which its timestamp says as well. Must never: count a record that
//! came before that, or call it done while one is missing.
//! Invariants: records are due at random within the plan's duration, whatever batch they were
//! stored in: nothing that is stored side by side comes side by side.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use barrage_model::batch::{
    BatchBuilder, BatchView, Compression, DecompressionLimits, NewRecord, batches,
};
use barrage_model::{Offset, PartitionKey};
use barrage_wire::{Acks, Delay, FetchRequest, ProduceDelayed, Request, Response, TopicRoutes};

use crate::affinity;
use crate::args::{BatchShape, DELAYED_BATCH_RECORDS, Plan};
use crate::child::Folder;
use crate::cluster::Cluster;
use crate::meter::{Meter, Window};
use crate::run::{Measured, TOPIC};
use crate::session::Session;
use crate::{latency, produce};

/// Until the first one is due: time to store so many records a second, and some more.
const STORED_PER_S: u64 = 50_000;
const LEAD: Duration = Duration::from_secs(3);
/// How long the last one may be awaited.
const LATE_MAX: Duration = Duration::from_secs(60);
const WAIT_MS: u32 = 500;
/// Where records only wait, the first is due so late, and all of them within as long again.
const WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// A prime that is no factor of any number of records: steps of it meet each once.
const STEP: u64 = 2_654_435_761;

/// When what is due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    /// Milliseconds since 1970.
    start_ms: u64,
    length_ms: u64,
    records: u64,
}

impl Schedule {
    /// When record `number` is due, milliseconds since 1970.
    fn due_ms(&self, number: u64) -> u64 {
        let place = u128::from(number) * u128::from(STEP) % u128::from(self.records);
        let offset_ms = place * u128::from(self.length_ms) / u128::from(self.records);
        self.start_ms + u64::try_from(offset_ms).unwrap_or(0)
    }
}

/// Stores the plan's backlog, and waits until all of it has come.
pub(crate) fn run(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let records = (plan.backlog / u64::from(plan.partitions)).max(1);
    let lead = Duration::from_secs(plan.backlog / STORED_PER_S) + LEAD;
    let length_ms = u64::try_from(plan.duration.as_millis())?;
    let start_ms = u64::try_from((now()? + lead).as_millis())?;
    let schedule = Schedule { start_ms, length_ms, records };
    let window = Window::after(Duration::ZERO, LATE_MAX * 60);
    let stored = in_each(plan, &routes, schedule, window, store)?.read();
    let left = Duration::from_millis(start_ms).saturating_sub(now()?);
    let window = Window::after(left, plan.duration + LATE_MAX);
    let received = in_each(plan, &routes, schedule, window, receive)?;
    Ok(Measured::new(&[("receive", &received)], &cluster.stop()?).with([("store", stored)]))
}

/// Produces while nothing is delayed, and while the plan's backlog waits for tomorrow.
pub(crate) fn open(plan: &Plan, folder: &Folder) -> Result<Measured> {
    let cluster = Cluster::start_nodes(plan, folder)?;
    let routes = Session::connect(cluster.address())?.create_topic(TOPIC, plan.partitions)?;
    let before = latency::run_node(plan, &routes)?.read();
    let records = (plan.backlog / u64::from(plan.partitions)).max(1);
    let start_ms = u64::try_from((now()? + WAIT).as_millis())?;
    let schedule = Schedule { start_ms, length_ms: u64::try_from(WAIT.as_millis())?, records };
    let window = Window::after(Duration::ZERO, LATE_MAX * 60);
    let many = Plan { batch: BatchShape::Records(DELAYED_BATCH_RECORDS), ..plan.clone() };
    let stored = in_each(&many, &routes, schedule, window, store)?.read();
    let meter = latency::run_node(plan, &routes)?;
    let phases = [("produce, no delays", before), ("store", stored)];
    Ok(Measured::new(&[("produce", &meter)], &cluster.stop()?).with(phases))
}

fn now() -> Result<Duration> {
    SystemTime::UNIX_EPOCH.elapsed().context("the clock stands before 1970")
}

fn partitions(routes: &TopicRoutes) -> Result<Vec<(SocketAddr, PartitionKey)>> {
    let by_address = produce::partitions_of(0, 1, routes)?;
    let each = |(address, keys): (SocketAddr, Vec<PartitionKey>)| {
        keys.into_iter().map(move |key| (address, key))
    };
    Ok(by_address.into_iter().flat_map(each).collect())
}

/// What one thread does for one partition.
type Work = fn(&Plan, (SocketAddr, PartitionKey), Schedule, Window) -> Result<Meter>;

/// Does it for every partition, each on a thread and a core.
fn in_each(
    plan: &Plan,
    routes: &TopicRoutes,
    schedule: Schedule,
    window: Window,
    work: Work,
) -> Result<Meter> {
    let runs = partitions(routes)?.into_iter().enumerate().map(|(index, there)| {
        let core = plan.client_cores.nth(index);
        move || {
            affinity::pin(core).with_context(|| format!("cannot run on core {core}"))?;
            work(plan, there, schedule, window)
        }
    });
    produce::run_all(runs.collect(), window)
}

fn store(
    plan: &Plan,
    (address, key): (SocketAddr, PartitionKey),
    schedule: Schedule,
    window: Window,
) -> Result<Meter> {
    let mut session = Session::connect(address)?;
    let mut meter = Meter::new(window);
    let value = vec![b'd'; plan.record_size];
    let per_batch = match plan.batch {
        BatchShape::Records(records) => u64::from(records),
        BatchShape::Bytes(bytes) => (bytes / (plan.record_size + 16)).max(1) as u64,
    };
    let mut next = 0;
    while next < schedule.records {
        ensure!(
            now()? < Duration::from_millis(schedule.start_ms),
            "storing takes too long: begin with a smaller --backlog"
        );
        let end = schedule.records.min(next + per_batch);
        let dues: Vec<u64> = (next..end).map(|number| schedule.due_ms(number)).collect();
        let mut builder = BatchBuilder::new(Compression::None, i64::try_from(schedule.start_ms)?);
        for due_ms in &dues {
            let (value, timestamp_ms) = (Some(value.as_slice()), i64::try_from(*due_ms)?);
            let record = NewRecord { key: None, value, headers: &[], timestamp_ms };
            builder.push(&record)?;
        }
        let batch = builder.finish()?;
        let request = ProduceDelayed {
            key,
            acks: Acks::Quorum,
            timeout_ms: 0,
            delay: Delay::At(dues),
            batch: &batch,
        };
        let began = Instant::now();
        session.ask(&Request::ProduceDelayed(request), |response| match response {
            Response::ProduceDelayed(_) => Some(()),
            _ => None,
        })?;
        meter.ended(began, Instant::now(), end - next, (end - next) * plan.record_size as u64);
        next = end;
    }
    meter.close(Instant::now());
    Ok(meter)
}

fn receive(
    plan: &Plan,
    (address, key): (SocketAddr, PartitionKey),
    schedule: Schedule,
    window: Window,
) -> Result<Meter> {
    let mut session = Session::connect(address)?;
    let mut meter = Meter::new(window);
    let mut next = Offset(0);
    while next.0 < schedule.records {
        let missing = schedule.records - next.0;
        ensure!(Instant::now() < window.end, "{missing} records of {key} are late");
        let request = FetchRequest {
            key,
            offset: next,
            bytes_max: plan.fetch_bytes,
            bytes_min: 1,
            wait_ms: WAIT_MS,
        };
        let fetched = session.ask(&Request::Fetch(request), |response| match response {
            Response::Fetch(reply) => Some(reply.batches.to_vec()),
            _ => None,
        })?;
        let (here, arrived) = (now()?, Instant::now());
        for batch in batches(&fetched) {
            let view = BatchView::check(batch?)?;
            for record in &view.records(&DecompressionLimits::default())? {
                let record = record?;
                ensure!(record.offset == next, "{key}: {} where {next} was next", record.offset);
                next = Offset(next.0 + 1);
                let due = Duration::from_millis(u64::try_from(record.timestamp_ms)?);
                let late = here.checked_sub(due).with_context(|| format!("{key}: one is early"))?;
                let due = arrived.checked_sub(late).context("a machine that has just started")?;
                meter.ended(due, arrived, 1, plan.record_size as u64);
            }
        }
    }
    meter.close(Instant::now());
    Ok(meter)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_are_due_within_the_time_and_neighbours_far_apart() {
        let schedule = Schedule { start_ms: 5_000, length_ms: 1_000, records: 1_000 };
        let dues: Vec<u64> = (0..1_000).map(|number| schedule.due_ms(number)).collect();
        assert_eq!(dues.iter().collect::<BTreeSet<_>>().len(), 1_000);
        assert!(dues.iter().all(|due_ms| (5_000..6_000).contains(due_ms)));
        let near = dues.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 50).count();
        assert!(near < 200, "{near}");
    }
}
