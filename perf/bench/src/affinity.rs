//! Which core a thread runs on.
//!
//! Owns: pinning of the load generator's threads, and the parsing of a list of cores.
//! Must never: pin a thread it was not called on. The only module of this crate with `unsafe`.

use std::fmt;
use std::io;
use std::str::FromStr;

/// Cores by number, as in `0-1,3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreList(Vec<usize>);

/// Highest core number that fits the kernel's fixed-size set.
const CORE_MAX: usize = libc::CPU_SETSIZE as usize - 1;

/// A list of cores that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCoreList(String);

impl CoreList {
    /// The cores `[first, end)`.
    pub(crate) fn range(first: usize, end: usize) -> Self {
        assert!(first < end, "a list of cores names at least one");
        Self((first..end).collect())
    }

    /// A part for each of `count` servers: as many cores each as go round, at least one; with fewer
    /// cores than servers some share.
    pub(crate) fn deal(&self, count: usize) -> Vec<Self> {
        let size = (self.count() / count).max(1);
        let part = |index: usize| {
            let mut cores: Vec<usize> = (0..size).map(|n| self.nth(index * size + n)).collect();
            cores.sort_unstable();
            Self(cores)
        };
        (0..count).map(part).collect()
    }

    /// The list as `start --cores` reads it, where a lone number would be a count.
    pub(crate) fn flag(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(|core| format!("{core}-{core}")).collect();
        parts.join(",")
    }

    /// How many cores it names; never 0.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// The core for the thread of this index, going round.
    pub(crate) fn nth(&self, index: usize) -> usize {
        self.0.get(index % self.count()).copied().unwrap_or(0)
    }

    /// Whether it names this core.
    pub(crate) fn names(&self, core: usize) -> bool {
        self.0.contains(&core)
    }

    /// Whether both lists name a core.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|core| other.0.contains(core))
    }
}

impl FromStr for CoreList {
    type Err = BadCoreList;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || BadCoreList(text.to_owned());
        let number = |digits: &str| match digits.trim().parse::<usize>() {
            Ok(core) if core <= CORE_MAX => Ok(core),
            _ => Err(bad()),
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
                None => cores.push(number(part)?),
            }
        }
        cores.sort_unstable();
        cores.dedup();
        if cores.is_empty() { Err(bad()) } else { Ok(Self(cores)) }
    }
}

impl fmt::Display for CoreList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, core) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma}{core}")?;
        }
        Ok(())
    }
}

impl fmt::Display for BadCoreList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} is not a list of cores like 0-1,3", self.0)
    }
}

impl std::error::Error for BadCoreList {}

/// Binds the calling thread to one core. Fails when the machine has no such core, or the process
/// may not use it.
pub(crate) fn pin(core: usize) -> io::Result<()> {
    assert!(core <= CORE_MAX, "core {core} does not fit the kernel's set");
    // SAFETY: `cpu_set_t` is plain bytes, for which all zeroes is the empty set. `CPU_SET` writes
    // inside the set because `core` is below its size, asserted above. The kernel only reads the
    // set, whose exact size is passed; thread 0 is the caller.
    #[expect(unsafe_code, reason = "std offers no thread affinity")]
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_printed() {
        let check = |text: &str, printed: Option<&str>| {
            let parsed = text.parse::<CoreList>().ok().map(|list| list.to_string());
            assert_eq!(parsed.as_deref(), printed, "{text}");
        };
        check("0", Some("0"));
        check("0-2,5", Some("0,1,2,5"));
        check("3,1,3", Some("1,3"));
        check("", None);
        check("2-1", None);
        check("a", None);
        check("0,99999999", None);
    }

    #[test]
    fn cores_are_dealt_out_evenly_and_shared_when_few() {
        let check = |cores: &str, parts: &[&str]| {
            let dealt = cores.parse::<CoreList>().unwrap().deal(parts.len());
            assert_eq!(dealt.iter().map(ToString::to_string).collect::<Vec<_>>(), parts, "{cores}");
        };
        check("0,2", &["0,2"]);
        check("0", &["0", "0", "0"]);
        check("0-1", &["0", "1", "0"]);
        check("0-3", &["0", "1", "2"]);
        check("2-7", &["2,3", "4,5", "6,7"]);
        check("0-6", &["0,1", "2,3", "4,5"]);
    }

    #[test]
    fn a_thread_is_pinned_where_it_may_run() {
        let pinned = std::thread::spawn(|| pin(0).is_ok() && pin(CORE_MAX).is_err());
        assert!(pinned.join().is_ok_and(|both| both));
    }
}
