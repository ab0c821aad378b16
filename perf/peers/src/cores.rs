//! Which cores a process or thread runs on.
//!
//! Owns: lists of cores and pinning to them. Must never: name no core.

use std::fmt;
use std::io;
use std::str::FromStr;

use rustix::thread::{CpuSet, sched_setaffinity};

/// Cores by number, as in `0-1,3`; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CoreList(Vec<usize>);

impl CoreList {
    /// The cores `[first, end)`.
    pub(crate) fn range(first: usize, end: usize) -> Self {
        assert!(first < end, "a list of cores names at least one");
        Self((first..end).collect())
    }

    /// How many there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether both lists name a core.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|core| other.0.contains(core))
    }

    /// Binds the calling thread, and what it starts from now on, to these cores.
    pub(crate) fn pin(&self) -> io::Result<()> {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|core| set.set(*core));
        sched_setaffinity(None, &set).map_err(io::Error::from)
    }
}

impl FromStr for CoreList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a list of cores like 0-1,3");
        let number = |digits: &str| match digits.trim().parse::<usize>() {
            Ok(core) if core < CpuSet::MAX_CPU => Ok(core),
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
        let cores: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        formatter.write_str(&cores.join(","))
    }
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
        check("0,99999999", None);
    }

    #[test]
    fn a_thread_is_pinned_where_it_may_run() {
        let pinned = std::thread::spawn(|| {
            let impossible = CoreList(vec![CpuSet::MAX_CPU - 1]);
            CoreList::range(0, 1).pin().is_ok() && impossible.pin().is_err()
        });
        assert!(pinned.join().is_ok_and(|both| both));
    }
}
