//! Seeds that once failed, kept in `seeds.txt` and replayed first in every sweep.
//!
//! ```text
//! # scenario  seed  # story
//! log         4711  # a vote was lost when the segment rolled between its two copies
//! ```

use crate::scenario::{self, Scenario};

/// The kept seeds, as they were when the binary was built.
const TEXT: &str = include_str!("../../seeds.txt");

/// A seed that once failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) scenario: &'static Scenario,
    pub(crate) seed: u64,
}

/// All kept seeds, in the order of the file.
///
/// # Errors
/// Names the line that is not one.
pub(crate) fn all() -> anyhow::Result<Vec<Kept>> {
    parse(TEXT)
}

fn parse(text: &str) -> anyhow::Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let (fields, story) = line.split_once('#').unwrap_or((line, ""));
        if fields.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| anyhow::anyhow!("seeds.txt, line {}: {what}", index + 1);
        let mut words = fields.split_whitespace();
        let (Some(name), Some(seed), None) = (words.next(), words.next(), words.next()) else {
            return Err(wrong("it is not `scenario seed # story`"));
        };
        let scenario = scenario::find(name).ok_or_else(|| wrong("no such scenario"))?;
        let seed = seed.parse().map_err(|_| wrong("the seed is no number"))?;
        if story.trim().is_empty() {
            return Err(wrong("a kept seed tells its story"));
        }
        kept.push(Kept { scenario, seed });
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_well_formed() {
        all().unwrap();
    }

    #[test]
    fn lines_are_read_and_bad_ones_named() {
        let kept = parse("# heading\n\nlog 7 # a story\n").unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!((kept[0].scenario.name, kept[0].seed), ("log", 7));
        for bad in ["log 7", "log x # s", "nothing 7 # s", "log # s", "log 7 8 # s"] {
            let error = parse(&format!("\n{bad}")).unwrap_err().to_string();
            assert!(error.contains("line 2"), "{bad}: {error}");
        }
    }
}
