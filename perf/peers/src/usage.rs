//! Processor time of processes, and who is still there.
//!
//! Owns: reading /proc. Must never: fail because a process ends while it looks.

use std::fs;
use std::time::Duration;

/// What is needed of a line of `/proc/PID/stat`.
///
/// A process whose first thread has ended looks like a zombie while others still write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    is_over: bool,
    group: u32,
    ticks: u64,
}

/// Processor time of all processes of a group so far.
pub(crate) fn of_group(group: u32) -> Duration {
    duration(members(group).map(|stat| stat.ticks).sum())
}

/// Processor time of this process so far.
pub(crate) fn of_self() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    duration(parse(&text).map_or(0, |stat| stat.ticks))
}

/// Whether a process of the group still runs.
pub(crate) fn group_runs(group: u32) -> bool {
    members(group).any(|stat| !stat.is_over)
}

fn members(group: u32) -> impl Iterator<Item = Stat> {
    let folders = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = folders.filter_map(|folder| {
        // Only processes are called by a number.
        folder.file_name().to_str()?.parse::<u32>().ok()?;
        parse(&fs::read_to_string(folder.path().join("stat")).ok()?)
    });
    stats.filter(move |stat| stat.group == group)
}

fn duration(ticks: u64) -> Duration {
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(ticks * 1000 / per_second)
}

/// The name of a process may hold anything, also `) `: what counts stands behind the last one.
fn parse(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let is_zombie = matches!(fields.next()?, "Z" | "X");
    let group = fields.nth(1)?.parse().ok()?;
    // Eight fields lie between the group and the time in user mode; that in the kernel follows.
    // Four more, and then comes the number of threads.
    let user: u64 = fields.nth(8)?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    let threads: u64 = fields.nth(4)?.parse().ok()?;
    Some(Stat { is_over: is_zombie && threads <= 1, group, ticks: user + kernel })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_read() {
        let check = |line: &str, want: Option<(bool, u32, u64)>| {
            let found = parse(line).map(|stat| (stat.is_over, stat.group, stat.ticks));
            assert_eq!(found, want, "{line}");
        };
        let rest = "1 40 40 0 -1 4194560 900 0 3 0 17 25 0 0 20 0";
        check(&format!("42 (a) b) S {rest} 4 0 100"), Some((false, 40, 42)));
        check(&format!("42 (a) Z {rest} 4 0 100"), Some((false, 40, 42)));
        check(&format!("42 (a) Z {rest} 1 0 100"), Some((true, 40, 42)));
        check("42 (a) S 1", None);
        check("", None);
    }

    #[test]
    fn this_process_is_found() {
        let text = fs::read_to_string("/proc/self/stat").unwrap();
        let group = parse(&text).unwrap().group;
        assert!(group_runs(group));
        assert!(!group_runs(u32::MAX));
    }
}
