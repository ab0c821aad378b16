//! Executors that make no progress: a core, or the main thread at start, that waits for its ring
//! and will not be woken.
//!
//! Owns: telling it from one that merely waits for its turn. Must never: touch the process.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::Duration;

/// Where an executor waits for work, in the kernel's words.
const WAITS_IN: &str = "io_cqring_wait";
/// An executor that runs looks at its timers far more often than this.
const LOOK_TIME: Duration = Duration::from_secs(3);

/// What a thread did.
#[derive(Clone, Debug)]
struct Thread {
    name: String,
    switches: u64,
    waits_in: String,
}

/// Names the executors of a process that were not switched to within some seconds.
pub(crate) fn threads(pid: u32) -> Vec<String> {
    let before = look(pid);
    thread::sleep(LOOK_TIME);
    let after = look(pid);
    let still = |(id, then): (&u32, &Thread)| {
        let now = after.get(id)?;
        let words = format!("{} ({id}, in {})", now.name, now.waits_in);
        (now.waits_in == WAITS_IN && now.switches == then.switches).then_some(words)
    };
    before.iter().filter_map(still).collect()
}

fn look(pid: u32) -> BTreeMap<u32, Thread> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let threads = entries.flatten().filter_map(|entry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let text = |name: &str| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        let status = text("status");
        let switches = status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
            .sum();
        let (name, waits_in) = (text("comm").trim().to_owned(), text("wchan"));
        Some((id, Thread { name, switches, waits_in }))
    });
    threads.collect()
}
