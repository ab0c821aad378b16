//! What servers take for what they do: processor time and memory.
//!
//! Owns: the figures that tell it. Must never: guess; what was not looked at has none.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::figures::Figures;
use crate::meter::{MIB, Reading, Window};
use crate::sampler::Samples;

/// All servers of a measurement, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Processor time since they were started.
    pub cpu: Duration,
    pub resident_bytes: u64,
}

/// What servers took while something was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Cores that were busy on average.
    pub cores_busy: f64,
    /// Memory at the end.
    pub resident_bytes: u64,
}

const MIB_PER_GIB: f64 = 1024.0;

impl Cost {
    /// Of the servers that were looked at, within the window.
    pub(crate) fn of(samples: &Samples, window: Window) -> Option<Self> {
        let looks = samples.servers();
        let (_, last) = looks.last()?;
        let taken = cpu_at(&looks, window.end)? - cpu_at(&looks, window.start)?;
        Some(Self { cores_busy: taken / window.seconds(), resident_bytes: last.resident_bytes })
    }

    /// Processor seconds for each GiB of values.
    pub(crate) fn cpu_s_per_gib(&self, reading: &Reading) -> Option<f64> {
        let gib_per_s = reading.mib_per_s / MIB_PER_GIB;
        (gib_per_s > 0.0).then_some(self.cores_busy / gib_per_s)
    }

    /// Tells it of a reading.
    pub(crate) fn tell(&self, reading: &Reading, figures: &mut Figures) {
        figures.add("server_cores_busy", ("server, cores busy", ""), self.cores_busy);
        if let Some(per_gib) = self.cpu_s_per_gib(reading) {
            figures.add("server_cpu_s_per_gib", ("server, CPU per GiB", "s"), per_gib);
        }
        let resident_mib = self.resident_bytes as f64 / MIB;
        figures.add("server_resident_mib", ("server, memory at the end", "MiB"), resident_mib);
    }
}

/// Looks at servers now; those that have ended add nothing.
pub(crate) fn look(pids: &[u32]) -> Result<Taken> {
    let pids: Vec<Pid> = pids.iter().map(|pid| Pid::from_u32(*pid)).collect();
    let mut system = System::new().map_err(|error| anyhow!("no processes: {error:?}"))?;
    let kinds = ProcessRefreshKind::nothing().with_cpu().with_memory().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&pids), true, kinds);
    let mut taken = Taken::default();
    for process in pids.iter().filter_map(|pid| system.process(*pid)) {
        taken.cpu += Duration::from_millis(process.accumulated_cpu_time());
        taken.resident_bytes += process.memory();
    }
    Ok(taken)
}

/// What servers that are left alone take, in percent of one core.
pub(crate) fn idle_percent(pids: &[u32], duration: Duration) -> Result<f64> {
    let (began, before) = (Instant::now(), look(pids)?);
    thread::sleep(duration);
    let (took, after) = (began.elapsed(), look(pids)?);
    let cpu = after.cpu.checked_sub(before.cpu).context("a server has ended")?;
    Ok(100.0 * cpu.as_secs_f64() / took.as_secs_f64())
}

/// Bytes that each of `count` things takes, from what servers took before and after them.
pub(crate) fn bytes_each(before: Taken, after: Taken, count: u64) -> f64 {
    let grown = after.resident_bytes.saturating_sub(before.resident_bytes);
    grown as f64 / count.max(1) as f64
}

/// Processor seconds until `at`: between two looks as if they had been taken evenly.
fn cpu_at(looks: &[(Instant, Taken)], at: Instant) -> Option<f64> {
    let after = looks.partition_point(|(then, _)| *then < at);
    let (then, later) = looks.get(after).or_else(|| looks.last())?;
    let (before, earlier) = looks.get(after.saturating_sub(1))?;
    let length = then.saturating_duration_since(*before).as_secs_f64();
    if length == 0.0 {
        return Some(later.cpu.as_secs_f64());
    }
    let part = at.saturating_duration_since(*before).as_secs_f64() / length;
    let (earlier, later) = (earlier.cpu.as_secs_f64(), later.cpu.as_secs_f64());
    Some(earlier + (later - earlier) * part.min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_between_the_looks_around_it() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let look = |ms: u64, cpu_ms: u64| {
            (at(ms), Taken { cpu: Duration::from_millis(cpu_ms), resident_bytes: ms })
        };
        let looks = [look(0, 0), look(100, 50), look(200, 150), look(300, 150)];
        let check = |ms: u64, seconds: f64| {
            let found = cpu_at(&looks, at(ms)).unwrap();
            assert!((found - seconds).abs() < 1e-9, "{ms}: {found}");
        };
        check(0, 0.0);
        check(50, 0.025);
        check(150, 0.1);
        check(200, 0.15);
        // Beyond the last look nothing is known to have been taken.
        check(400, 0.15);
        assert_eq!(cpu_at(&[], start), None);
    }

    #[test]
    fn servers_are_looked_at_from_outside() {
        let me = [std::process::id()];
        assert!(look(&me).unwrap().resident_bytes > 1 << 20);
        assert!(idle_percent(&me, Duration::from_millis(10)).unwrap() >= 0.0);
        // A process that is not there takes nothing.
        assert_eq!(look(&[u32::MAX >> 1]).unwrap(), Taken::default());
    }

    #[test]
    fn memory_of_each_is_what_all_of_them_added() {
        let taken = |resident_bytes| Taken { resident_bytes, ..Taken::default() };
        assert_eq!(bytes_each(taken(1_000), taken(31_000), 10), 3_000.0);
        assert_eq!(bytes_each(taken(31_000), taken(1_000), 10), 0.0);
    }

    #[test]
    fn cost_is_told_by_the_gib() {
        let cost = Cost { cores_busy: 0.5, resident_bytes: 3 << 20 };
        let reading = Reading { mib_per_s: 512.0, ..Reading::default() };
        let mut figures = Figures::default();
        cost.tell(&reading, &mut figures);
        let told: Vec<_> = figures.lines().map(|(_, text)| text).collect();
        assert_eq!(told, ["0.500", "1.000 s", "3.000 MiB"]);
        assert_eq!(cost.cpu_s_per_gib(&Reading::default()), None);
    }
}
