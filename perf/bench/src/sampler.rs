//! What the processes of a run take while it lasts: processor, disk and memory, once a second.
//!
//! Owns: the thread that looks, and what it saw. Must never: look at a process that is not part of
//! the run, or so often that looking is measured.
//! Invariants: a sample has an entry for every process that was known by then; what cannot be read
//! has none.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::cost::Taken;
use crate::meter::MIB;
use crate::timeline::signed_seconds;

/// Looks until it is stopped.
#[derive(Debug)]
pub(crate) struct Sampler {
    watched: Arc<Mutex<Vec<Watched>>>,
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

#[derive(Clone, Debug)]
struct Watched {
    name: String,
    pid: Pid,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    names: Vec<String>,
    list: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    at: Instant,
    /// How busy each core was since the sample before, as a part of 1.
    cores: Vec<f64>,
    processes: Vec<Option<Counters>>,
}

/// What a process has taken since it began.
#[derive(Clone, Copy, Debug)]
struct Counters {
    cpu_ms: u64,
    written_bytes: u64,
    read_bytes: u64,
    memory_bytes: u64,
}

/// The same over a run's time, for reports.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Usage {
    pub processes: Vec<ProcessUsage>,
    pub cores: Vec<CoreUsage>,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessUsage {
    pub name: String,
    pub points: Vec<ProcessPoint>,
}

/// What it took from the sample before until `at_s`.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ProcessPoint {
    pub at_s: f64,
    /// Cores it kept busy.
    pub cpu_cores: f64,
    pub written_mib_per_s: f64,
    pub read_mib_per_s: f64,
    pub memory_mib: f64,
}

/// One core of the machine.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CoreUsage {
    pub core: usize,
    pub points: Vec<CorePoint>,
}

/// How busy it was until `at_s`, as a part of 1, with whatever ran there.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct CorePoint {
    pub at_s: f64,
    pub busy: f64,
}

/// The name of this process, if it loads the servers.
pub(crate) const LOAD: &str = "load";
/// What the names of processes of their own that load begin with.
pub(crate) const CLIENT: &str = "client";
const PAUSE: Duration = Duration::from_secs(1);
/// With more, every other one is dropped and pauses are twice as long.
const SAMPLES_MAX: usize = 1_200;
/// A shorter time between two samples says nothing: processor time is counted in steps of 10 ms.
const APART_MIN: Duration = Duration::from_millis(100);

impl Sampler {
    /// Begins with these processes.
    pub(crate) fn start(processes: Vec<(String, u32)>) -> Self {
        let watched = |(name, pid)| Watched { name, pid: Pid::from_u32(pid) };
        let watched = processes.into_iter().map(watched).collect();
        let watched = Arc::new(Mutex::new(watched));
        let shared = Arc::clone(&watched);
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::spawn(move || look(&shared, &stopped));
        Self { watched, stop, thread }
    }

    /// Looks at these from now on, too.
    pub(crate) fn watch(&self, processes: Vec<(String, u32)>) {
        let watched = |(name, pid)| Watched { name, pid: Pid::from_u32(pid) };
        lock(&self.watched).extend(processes.into_iter().map(watched));
    }

    /// Ends, and says what was seen.
    pub(crate) fn stop(self) -> Samples {
        drop(self.stop);
        let names = lock(&self.watched).iter().map(|watched| watched.name.clone()).collect();
        // One that panicked has seen nothing: figures over time are left out.
        let list = self.thread.join().unwrap_or_default();
        Samples { names, list }
    }
}

fn lock(watched: &Mutex<Vec<Watched>>) -> std::sync::MutexGuard<'_, Vec<Watched>> {
    // Nothing is left half done under this lock.
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look(watched: &Mutex<Vec<Watched>>, stopped: &mpsc::Receiver<()>) -> Vec<Sample> {
    let Ok(mut system) = System::new() else { return Vec::new() };
    let (mut list, mut pause) = (Vec::new(), PAUSE);
    loop {
        let pids: Vec<Pid> = lock(watched).iter().map(|watched| watched.pid).collect();
        list.push(sample(&mut system, &pids));
        if list.len() > SAMPLES_MAX {
            let mut number = 0_usize;
            list.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            pause *= 2;
        }
        match stopped.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => break,
        }
    }
    let pids: Vec<Pid> = lock(watched).iter().map(|watched| watched.pid).collect();
    list.push(sample(&mut system, &pids));
    list
}

fn sample(system: &mut System, pids: &[Pid]) -> Sample {
    let kind = ProcessRefreshKind::nothing().with_cpu().with_disk_usage().with_memory();
    let kind = kind.without_tasks();
    system.refresh_cpu_usage();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(pids), true, kind);
    let counters = |pid: &Pid| {
        let process = system.process(*pid)?;
        let disk = process.disk_usage();
        Some(Counters {
            cpu_ms: process.accumulated_cpu_time(),
            written_bytes: disk.total_written_bytes,
            read_bytes: disk.total_read_bytes,
            memory_bytes: process.memory(),
        })
    };
    Sample {
        at: Instant::now(),
        cores: system.cpus().iter().map(|core| f64::from(core.usage()) / 100.0).collect(),
        processes: pids.iter().map(counters).collect(),
    }
}

impl Samples {
    /// What all servers together had taken each time they were looked at; nothing if none was.
    pub(crate) fn servers(&self) -> Vec<(Instant, Taken)> {
        if self.names.iter().all(|name| loads(name)) {
            return Vec::new();
        }
        let sum = |sample: &Sample| {
            let mut sum = Taken::default();
            for (name, counters) in self.names.iter().zip(&sample.processes) {
                if !loads(name) {
                    let counters = (*counters)?;
                    sum.cpu += Duration::from_millis(counters.cpu_ms);
                    sum.resident_bytes += counters.memory_bytes;
                }
            }
            Some((sample.at, sum))
        };
        self.list.iter().filter_map(sum).collect()
    }

    /// What was taken between two points in time, which it counts from the first.
    pub(crate) fn between(&self, start: Instant, end: Instant) -> Usage {
        let mut usage = Usage::default();
        let pairs = self.list.iter().zip(self.list.iter().skip(1));
        let pairs: Vec<_> = pairs
            .filter(|(before, after)| {
                let apart = after.at - before.at;
                // What lies mostly outside would show another time's figures.
                let middle = before.at + apart / 2;
                middle > start && middle < end && apart >= APART_MIN
            })
            .collect();
        for (index, name) in self.names.iter().enumerate() {
            let points = pairs.iter().filter_map(|(before, after)| {
                let seconds = (after.at - before.at).as_secs_f64();
                let of = |sample: &Sample| sample.processes.get(index).copied().flatten();
                Some(of(before)?.until(of(after)?, seconds, signed_seconds(after.at, start)))
            });
            let points: Vec<ProcessPoint> = points.collect();
            if !points.is_empty() {
                usage.processes.push(ProcessUsage { name: name.clone(), points });
            }
        }
        let cores = pairs.first().map_or(0, |(_, after)| after.cores.len());
        for core in 0..cores {
            let point = |(_, after): &(&Sample, &Sample)| {
                let at_s = signed_seconds(after.at, start);
                after.cores.get(core).map(|busy| CorePoint { at_s, busy: *busy })
            };
            usage.cores.push(CoreUsage { core, points: pairs.iter().filter_map(point).collect() });
        }
        usage
    }
}

/// Whether a process is one that loads servers; all others are servers.
fn loads(name: &str) -> bool {
    name == LOAD || name.starts_with(CLIENT)
}

impl Counters {
    fn until(self, later: Self, seconds: f64, at_s: f64) -> ProcessPoint {
        let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
        ProcessPoint {
            at_s,
            cpu_cores: rate(self.cpu_ms, later.cpu_ms) / 1_000.0,
            written_mib_per_s: rate(self.written_bytes, later.written_bytes) / MIB,
            read_mib_per_s: rate(self.read_bytes, later.read_bytes) / MIB,
            memory_mib: later.memory_bytes as f64 / MIB,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_while_it_lasts() {
        let sampler = Sampler::start(vec![("me".to_owned(), std::process::id())]);
        let start = Instant::now();
        let mut sum = 0_u64;
        while start.elapsed() < Duration::from_millis(300) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert_ne!(sum, 1);
        let usage = sampler.stop().between(start, Instant::now());
        let me = &usage.processes[0];
        assert_eq!(me.name, "me");
        assert!(me.points[0].cpu_cores > 0.0, "{me:?}");
        assert!(me.points[0].memory_mib > 1.0, "{me:?}");
        assert!(!usage.cores.is_empty());
    }

    #[test]
    fn rates_are_of_the_time_between_two_samples() {
        let start = Instant::now();
        let counters = |cpu_ms, mib: u64| {
            let bytes = mib << 20;
            let (written_bytes, read_bytes, memory_bytes) = (bytes, bytes / 2, bytes);
            Some(Counters { cpu_ms, written_bytes, read_bytes, memory_bytes })
        };
        let sample = |ms, node, late| Sample {
            at: start + Duration::from_millis(ms),
            cores: vec![0.25, 1.0],
            processes: vec![node, late],
        };
        let list = vec![
            sample(0, counters(0, 0), None),
            sample(2_000, counters(1_000, 8), counters(5, 1)),
            sample(4_000, counters(5_000, 16), None),
            // Behind the end.
            sample(6_000, counters(9_000, 16), None),
        ];
        let samples = Samples { names: vec!["node".into(), "late".into()], list };
        let usage = samples.between(start, start + Duration::from_secs(4));
        // The second was never seen twice in a row.
        assert_eq!(usage.processes.len(), 1);
        let points = &usage.processes[0].points;
        let seen: Vec<_> =
            points.iter().map(|p| (p.at_s, p.cpu_cores, p.written_mib_per_s)).collect();
        assert_eq!(seen, [(2.0, 0.5, 4.0), (4.0, 2.0, 4.0)]);
        assert_eq!((points[1].read_mib_per_s, points[1].memory_mib), (2.0, 16.0));
        assert_eq!(usage.cores[1].points[1].busy, 1.0);
    }

    #[test]
    fn servers_are_all_but_what_loads_them() {
        let counters = |cpu_ms, memory_bytes| {
            Some(Counters { cpu_ms, written_bytes: 0, read_bytes: 0, memory_bytes })
        };
        let sample = |processes| Sample { at: Instant::now(), cores: Vec::new(), processes };
        let names = ["node-0", "node-1", "load", "client-1"].map(str::to_owned).to_vec();
        let ended = sample(vec![counters(1, 1), None, counters(9, 9), None]);
        let all = sample(vec![counters(2, 10), counters(3, 20), counters(9, 9), None]);
        let samples = Samples { names, list: vec![ended, all] };
        let expected = Taken { cpu: Duration::from_millis(5), resident_bytes: 30 };
        let seen: Vec<_> = samples.servers().into_iter().map(|(_, taken)| taken).collect();
        assert_eq!(seen, [expected]);
        let names = vec!["client-0".to_owned()];
        let elsewhere = Samples { names, list: vec![sample(vec![counters(1, 1)])] };
        assert_eq!(elsewhere.servers(), [], "servers that nobody looked at took nothing known");
    }
}
