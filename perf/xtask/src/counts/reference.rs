//! The counts that are known, in a text file, and how others compare with them.
//!
//! ```text
//! with rustc 1.95.0 (...)       what the counts depend on beside the code
//! frame-decode 2160             instructions of an operation
//! ```

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};

/// So much more, or less, is the same: the compiler lays out code a little differently each time
/// anything beside it changes.
pub(super) const TOLERANCE_PERCENT: u64 = 5;
/// What counts are not compared across.
pub(super) const PROCESSOR: &str = "processor";
const HEAD: &str = "# Instructions of one operation of each piece, see README.md. Written by\n\
                    # `cargo xtask counts --update`.\n";
const WITH: &str = "with ";

/// Counts, and what they were made with.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reference {
    pub(super) made_with: Vec<(String, String)>,
    pub(super) counts: Vec<(String, u64)>,
}

/// A piece: what it took when it was recorded, and what it takes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) known: Option<u64>,
    pub(super) now: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Worse,
    Better,
    /// It is not in the reference.
    Unknown,
    /// It is in the reference alone.
    Gone,
}

impl Reference {
    /// Reads the file; nothing is known when there is none.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| format!("read {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        fs::write(path, self.print()).with_context(|| format!("write {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (is_with, pair) = match line.strip_prefix(WITH) {
                Some(rest) => (true, rest.split_once(' ')),
                None => (false, line.split_once(' ')),
            };
            let Some((name, value)) = pair else { bail!("neither count nor `with`: {line:?}") };
            if is_with {
                found.made_with.push((name.to_owned(), value.to_owned()));
                continue;
            }
            let count = value.parse().with_context(|| format!("no count: {line:?}"))?;
            if count == 0 {
                bail!("a piece takes at least one instruction: {line:?}");
            }
            found.counts.push((name.to_owned(), count));
        }
        Ok(found)
    }

    fn print(&self) -> String {
        let mut text = HEAD.to_owned();
        for (what, version) in &self.made_with {
            let _ = writeln!(text, "{WITH}{what} {version}");
        }
        for (name, count) in &self.counts {
            let _ = writeln!(text, "{name} {count}");
        }
        text
    }

    /// What these counts were made with and others were not: what, here, there.
    pub(super) fn differences<'a>(&'a self, other: &'a Self) -> Vec<(&'a str, &'a str, &'a str)> {
        let differs = |(what, version): &'a (String, String)| {
            let found = other.made_with.iter().find(|(name, _)| name == what);
            let found = found.map_or("unknown", |(_, version)| version.as_str());
            (found != version).then_some((what.as_str(), version.as_str(), found))
        };
        self.made_with.iter().filter_map(differs).collect()
    }

    /// Whether both are of the same kind of processor, as far as it is known.
    pub(super) fn is_of_machine(&self, other: &Self) -> bool {
        self.differences(other).iter().all(|(what, ..)| *what != PROCESSOR)
    }

    fn count(&self, name: &str) -> Option<u64> {
        self.counts.iter().find(|(found, _)| found == name).map(|(_, count)| *count)
    }
}

/// A row for each piece of either.
pub(super) fn compare(known: &Reference, now: &Reference) -> Vec<Row> {
    let gone = known.counts.iter().filter(|(name, _)| now.count(name).is_none());
    let names = now.counts.iter().chain(gone).map(|(name, _)| name);
    let row =
        |name: &String| Row { name: name.clone(), known: known.count(name), now: now.count(name) };
    names.map(row).collect()
}

impl Row {
    pub(super) fn verdict(&self) -> Verdict {
        match (self.known, self.now) {
            (None, _) => Verdict::Unknown,
            (Some(_), None) => Verdict::Gone,
            (Some(known), Some(now)) if now * 100 > known * (100 + TOLERANCE_PERCENT) => {
                Verdict::Worse
            }
            (Some(known), Some(now)) if now * 100 < known * (100 - TOLERANCE_PERCENT) => {
                Verdict::Better
            }
            _ => Verdict::Same,
        }
    }

    pub(super) fn change_percent(&self) -> Option<f64> {
        let (known, now) = self.known.zip(self.now)?;
        Some((now as f64 / known as f64 - 1.0) * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(counts: &[(&str, u64)]) -> Reference {
        let owned = |(name, count): &(&str, u64)| ((*name).to_owned(), *count);
        let made_with = vec![("rustc".to_owned(), "1.2.3 (a b)".to_owned())];
        Reference { made_with, counts: counts.iter().map(owned).collect() }
    }

    #[test]
    fn what_is_written_is_read() -> anyhow::Result<()> {
        let written = reference(&[("a-b", 1), ("c", 20)]);
        assert_eq!(Reference::parse(&written.print())?, written);
        for text in ["a", "a b", "a 0", "with rustc"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        Ok(())
    }

    #[test]
    fn five_percent_more_are_too_many_and_five_less_are_told() {
        let check = |known: u64, now: u64, want: Verdict| {
            let rows = compare(&reference(&[("a", known)]), &reference(&[("a", now)]));
            let verdicts: Vec<_> = rows.iter().map(Row::verdict).collect();
            assert_eq!(verdicts, [want], "{known} {now}");
        };
        check(1_000, 1_000, Verdict::Same);
        check(1_000, 1_050, Verdict::Same);
        check(1_000, 1_051, Verdict::Worse);
        check(1_000, 950, Verdict::Same);
        check(1_000, 949, Verdict::Better);
    }

    #[test]
    fn a_piece_of_one_side_alone_is_told() {
        let rows = compare(&reference(&[("a", 1), ("b", 1)]), &reference(&[("b", 1), ("c", 1)]));
        let found: Vec<_> = rows.iter().map(|row| (row.name.as_str(), row.verdict())).collect();
        let want = [("b", Verdict::Same), ("c", Verdict::Unknown), ("a", Verdict::Gone)];
        assert_eq!(found, want);
    }

    #[test]
    fn another_compiler_is_told() {
        let (old, mut new) = (reference(&[]), reference(&[]));
        assert!(old.differences(&new).is_empty());
        new.made_with = vec![("rustc".to_owned(), "1.2.4".to_owned())];
        assert_eq!(old.differences(&new), [("rustc", "1.2.3 (a b)", "1.2.4")]);
        assert!(old.is_of_machine(&new));
    }
}
