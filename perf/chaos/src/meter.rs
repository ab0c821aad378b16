//! How long partitions take no records after something was done to them.
//!
//! Owns: for each mark the first acknowledgement of a record that was sent after it, and the
//! longest silence since. Must never: count an answer to a record that was sent before the mark,
//! which may have been on its way already.

use std::time::Duration;

use barrage_sim::history::Nanos;

/// What happened since a mark, partition by partition.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    since: Nanos,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    /// From the mark to the first acknowledgement of a record that was sent after it.
    first: Option<Duration>,
    last_at: Nanos,
    silence: Duration,
}

impl Window {
    pub(crate) fn new(since: Nanos, partitions: u32) -> Self {
        let row = Row { first: None, last_at: since, silence: Duration::ZERO };
        Self { since, rows: vec![row; partitions as usize] }
    }

    /// A record that was sent at `sent` is acknowledged now.
    pub(crate) fn handle_acknowledged(&mut self, partition: u32, sent: Nanos, now: Nanos) {
        let since = self.since;
        let Some(row) = self.rows.get_mut(partition as usize) else { return };
        row.silence = row.silence.max(between(row.last_at, now));
        row.last_at = now;
        if sent >= since && row.first.is_none() {
            row.first = Some(between(since, now));
        }
    }

    /// The longest of these partitions' times to the first acknowledgement; none while one has
    /// none.
    pub(crate) fn served(&self, partitions: &[u32]) -> Option<Duration> {
        let firsts = partitions.iter().map(|partition| self.rows.get(*partition as usize)?.first);
        firsts.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// The longest silence of any of these partitions.
    pub(crate) fn silence(&self, partitions: &[u32]) -> Duration {
        let rows = partitions.iter().filter_map(|partition| self.rows.get(*partition as usize));
        rows.map(|row| row.silence).max().unwrap_or_default()
    }

    /// Those without an acknowledgement so far.
    pub(crate) fn waiting(&self) -> Vec<u32> {
        let waiting = (0..).zip(&self.rows).filter(|(_, row)| row.first.is_none());
        waiting.map(|(partition, _)| partition).collect()
    }
}

fn between(from: Nanos, to: Nanos) -> Duration {
    Duration::from_nanos(to.0.saturating_sub(from.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_an_earlier_record_does_not_end_an_outage() {
        let mut window = Window::new(Nanos(1_000), 2);
        window.handle_acknowledged(0, Nanos(900), Nanos(1_100));
        assert_eq!(window.served(&[0]), None);
        window.handle_acknowledged(0, Nanos(1_000), Nanos(1_500));
        assert_eq!(window.served(&[0]), Some(Duration::from_nanos(500)));
        assert_eq!(window.served(&[0, 1]), None, "the other partition still waits");
        assert_eq!(window.silence(&[0, 1]), Duration::from_nanos(400));
        assert_eq!(window.waiting(), [1]);
    }
}
