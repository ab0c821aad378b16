//! Folded stacks: the picture, and the functions where most samples are.

use std::collections::BTreeMap;

use anyhow::Context as _;
use inferno::flamegraph::color::{MultiPalette, Palette};
use inferno::flamegraph::{self, Options};

/// What is narrower is left out, in percent: a picture of a few hundred KiB at most.
const WIDTH_MIN_PERCENT: f64 = 0.1;
/// As wide as a page.
const WIDTH: usize = 1_600;

/// The kernel's threads that carry out what a ring was asked for; each has its number in its name.
const RING_WORKER: &str = "iou-wrk-";

/// Folded stacks in which such threads are one.
pub(super) fn by_kind(folded: &str) -> String {
    let mut renamed = String::with_capacity(folded.len());
    for line in folded.lines() {
        match line.strip_prefix(RING_WORKER).and_then(|rest| rest.split_once(';')) {
            Some((_, stack)) => {
                renamed.push_str(RING_WORKER.trim_end_matches('-'));
                renamed.push(';');
                renamed.push_str(stack);
            }
            None => renamed.push_str(line),
        }
        renamed.push('\n');
    }
    renamed
}

/// Draws folded stacks.
pub(super) fn draw(lines: &[&str], title: &str, subtitle: &str) -> anyhow::Result<Vec<u8>> {
    let mut options = Options::default();
    options.title = title.to_owned();
    options.subtitle = Some(subtitle.to_owned());
    options.colors = Palette::Multi(MultiPalette::Rust);
    options.min_width = WIDTH_MIN_PERCENT;
    options.image_width = Some(WIDTH);
    options.deterministic = true;
    let mut drawn = Vec::new();
    flamegraph::from_lines(&mut options, lines.iter().copied(), &mut drawn)
        .context("the stacks cannot be drawn")?;
    Ok(drawn)
}

/// The functions with most samples at their own code, and their share in percent.
pub(super) fn hottest<'a>(lines: &[&'a str], count: usize) -> Vec<(f64, &'a str)> {
    let mut own: BTreeMap<&str, u64> = BTreeMap::new();
    let mut all = 0;
    for (stack, samples) in lines.iter().filter_map(|line| line.rsplit_once(' ')) {
        let Ok(samples) = samples.parse::<u64>() else { continue };
        all += samples;
        *own.entry(stack.rsplit(';').next().unwrap_or(stack)).or_default() += samples;
    }
    let mut sorted: Vec<_> = own.into_iter().collect();
    sorted.sort_by_key(|(_, samples)| std::cmp::Reverse(*samples));
    let share = |(function, samples)| (samples as f64 * 100.0 / all as f64, function);
    sorted.into_iter().take(count).map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: [&str; 3] = ["core-0;a;b 6", "core-0;a 1", "core-1;c d;b 3"];

    #[test]
    fn the_hottest_come_first() {
        assert_eq!(hottest(&LINES, 9), [(90.0, "b"), (10.0, "a")]);
        assert_eq!(hottest(&LINES, 1).len(), 1);
        assert!(hottest(&[], 9).is_empty());
    }

    #[test]
    fn workers_of_a_ring_are_one() {
        let folded = by_kind("iou-wrk-17;a;b 2\niou-wrk-4;a;b 1\ncore-0;a 5\n");
        assert_eq!(folded, "iou-wrk;a;b 2\niou-wrk;a;b 1\ncore-0;a 5\n");
        let lines: Vec<&str> = folded.lines().collect();
        assert_eq!(hottest(&lines, 1), [(62.5, "a")]);
    }

    #[test]
    fn a_picture_tells_its_title_and_functions() -> anyhow::Result<()> {
        let drawn = String::from_utf8(draw(&LINES, "bench x", "on y")?)?;
        for word in ["bench x", "on y", "core-0", "c d"] {
            assert!(drawn.contains(word), "{word}");
        }
        Ok(())
    }
}
