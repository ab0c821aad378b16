//! How a workload is shared out to clients.
//!
//! Owns: which producer and which partitions belong to whom. Must never: give a record to two
//! consumers of a subscription, or leave a partition to none.
//! Invariants: numbers go round: clients have as many producers as each other, or one more.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::affinity::CoreList;
use crate::args::Plan;
use crate::client::task::{Backlog, ConsumerTask, ProducerTask, Sending, Task, Topic};
use crate::hlog::About;
use crate::machine::{self, Machine};
use crate::produce;
use crate::sampler::CLIENT;
use crate::workload::Workload;

/// Behind by so little is not behind, whatever the rate.
const REST_MIN: u64 = 1_000;
/// What comes in such a time is always under way.
const UNDER_WAY: Duration = Duration::from_millis(100);

/// A task for each client.
pub(crate) fn tasks(
    plan: &Plan,
    workload: &Workload,
    topics: &[Topic],
    folder: &Path,
) -> Result<Vec<Task>> {
    let producers = producers(workload);
    let consumers = consumers(workload);
    let most = producers.len().max(consumers.len());
    ensure!(
        plan.clients <= most,
        "{} clients have too little to do: there are {} producers and {} consumers; give fewer \
         clients, or more of those",
        plan.clients,
        producers.len(),
        consumers.len(),
    );
    let machine = Machine::read(folder);
    let commit = machine::commit();
    let sending = sending(plan, workload)?;
    let cores = plan.client_cores.deal(plan.clients);
    let task = |(number, cores): (usize, &CoreList)| {
        let mine = |index: usize| index % plan.clients == number;
        let client = format!("{CLIENT}-{number}");
        let own: Vec<ProducerTask> =
            producers.iter().copied().filter(|producer| mine(producer.number)).collect();
        let read = consumers.iter().enumerate().filter(|(index, _)| mine(*index));
        let read: Vec<ConsumerTask> = read.map(|(_, consumer)| consumer.clone()).collect();
        Task {
            about: About {
                client: client.clone(),
                workload: workload.name.clone(),
                record_size: workload.record_size,
                commit: commit.clone(),
                machine: machine.clone(),
            },
            cores: cores.to_string(),
            log: folder.join(format!("{client}.hlog")),
            topics: topics.to_vec(),
            backlog: backlog(workload, own.len(), &read),
            producers: own,
            consumers: read,
            sending: sending.clone(),
            fetch_bytes: plan.fetch_bytes,
            warm_up: workload.warm_up,
        }
    };
    Ok(cores.iter().enumerate().map(task).collect())
}

/// All producers; neighbours belong to different topics.
fn producers(workload: &Workload) -> Vec<ProducerTask> {
    let topic = |number| number % workload.topics as usize;
    let all = 0..workload.producers_all();
    all.map(|number| ProducerTask { topic: topic(number), number }).collect()
}

/// All consumers that have a partition.
fn consumers(workload: &Workload) -> Vec<ConsumerTask> {
    let mut consumers = Vec::new();
    for _ in 0..workload.subscriptions {
        for topic in 0..workload.topics as usize {
            for place in 0..workload.consumers {
                let own = |partition: &u32| partition % workload.consumers == place;
                let partitions: Vec<u32> = (0..workload.partitions).filter(own).collect();
                if !partitions.is_empty() {
                    consumers.push(ConsumerTask { topic, partitions });
                }
            }
        }
    }
    consumers
}

fn sending(plan: &Plan, workload: &Workload) -> Result<Sending> {
    let size = produce::batches(plan, plan.batch)?.size();
    Ok(Sending {
        record_size: workload.record_size,
        payload: workload.payload.clone(),
        keys: workload.keys,
        batch: plan.batch,
        in_flight: produce::in_flight(plan, size),
        in_flight_asked: plan.in_flight,
        spacing: workload.spacing(),
        linger: workload.linger,
        producers_all: workload.producers_all(),
    })
}

/// A client's share of the backlog.
fn backlog(workload: &Workload, producers: usize, consumers: &[ConsumerTask]) -> Option<Backlog> {
    if workload.backlog_records == 0 {
        return None;
    }
    let share = producers as f64 / workload.producers_all() as f64;
    let records = (workload.backlog_records as f64 * share).ceil() as u64;
    let undrained = workload.backlog_records as f64 * (1.0 - workload.drain_ratio);
    let under_way = workload.rate as f64 * UNDER_WAY.as_secs_f64();
    let rest = undrained.max(under_way).max(REST_MIN as f64);
    let partitions: usize = consumers.iter().map(|consumer| consumer.partitions.len()).sum();
    let all = workload.topics as usize * workload.partitions as usize;
    let rest = (rest * partitions as f64 / all as f64).ceil() as u64;
    Some(Backlog { records, rest })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::Parser;

    use super::*;
    use crate::args::BenchArgs;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn shared(flags: &str) -> Result<(Workload, Vec<Task>)> {
        let words = ["bench", "run"].into_iter().chain(flags.split_whitespace());
        let plan = Plan::new(&Command::parse_from(words).args).unwrap();
        let workload = plan.workload.clone().unwrap();
        let leaders = vec!["127.0.0.1:1".parse().unwrap(); workload.partitions as usize];
        let topics: Vec<Topic> = (0..workload.topics)
            .map(|id| Topic { id: id.into(), leaders: leaders.clone() })
            .collect();
        let tasks = tasks(&plan, &workload, &topics, Path::new("."))?;
        Ok((workload, tasks))
    }

    #[test]
    fn every_producer_and_every_partition_has_one_owner() {
        for flags in [
            "--topics 2 --partitions 5 --producers 3 --consumers 2 --subscriptions 2 --clients 3",
            "--topics 1 --partitions 2 --producers 1 --consumers 4 --subscriptions 1 --clients 2",
            "--topics 3 --partitions 1 --producers 1 --consumers 0 --clients 1",
        ] {
            let (workload, tasks) = shared(flags).unwrap();
            let mut producers: Vec<usize> =
                tasks.iter().flat_map(|task| &task.producers).map(|p| p.number).collect();
            producers.sort_unstable();
            assert_eq!(producers, (0..workload.producers_all()).collect::<Vec<_>>(), "{flags}");
            let mut readers = BTreeMap::<(usize, u32), u32>::new();
            for consumer in tasks.iter().flat_map(|task| &task.consumers) {
                for partition in &consumer.partitions {
                    *readers.entry((consumer.topic, *partition)).or_default() += 1;
                }
            }
            let read = workload.subscriptions_read();
            assert!(readers.values().all(|count| *count == read), "{flags}: {readers:?}");
            let all = (workload.topics * workload.partitions) as usize;
            assert_eq!(readers.len(), if read == 0 { 0 } else { all }, "{flags}");
            let busy = |task: &Task| !task.producers.is_empty() || !task.consumers.is_empty();
            assert!(tasks.iter().all(busy), "{flags}");
        }
        assert!(shared("--clients 2").unwrap_err().to_string().contains("too little to do"));
    }

    #[test]
    fn shares_of_a_backlog_add_up() {
        let flags = "--producers 4 --partitions 4 --consumers 4 --clients 2 --rate 100000 \
                     --backlog 1000000";
        let (_, tasks) = shared(flags).unwrap();
        for task in &tasks {
            let backlog = task.backlog.unwrap();
            assert_eq!(backlog.records, 500_000);
            // A tenth of a second at that rate, of which half the partitions are here.
            assert_eq!(backlog.rest, 5_000);
        }
        assert!(shared("--rate 10").unwrap().1.iter().all(|task| task.backlog.is_none()));
    }

    #[test]
    fn producers_share_what_is_under_way() {
        let (_, tasks) = shared("--producers 4 --batch-bytes 1MiB").unwrap();
        assert_eq!(tasks.first().unwrap().sending.in_flight, 4);
        let (_, tasks) = shared("--producers 100 --batch-bytes 1MiB").unwrap();
        assert_eq!(tasks.first().unwrap().sending.in_flight, 1);
        let (_, tasks) = shared("--producers 4 --in-flight 9").unwrap();
        assert_eq!(tasks.first().unwrap().sending.in_flight, 9);
    }
}
