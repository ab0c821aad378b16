//! What the checker found, and how much it looked at.
//!
//! Owns: the names of the rules, the list of violations, the counters. Must never: judge.
//! Invariants: every violation is counted; only the first few of each rule keep their text.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::name::Nanos;

/// What must hold. The numbers are those of the project's list of invariants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Rule {
    /// The history contradicts itself: whoever recorded it made a mistake, and the other rules
    /// may be wrong about it.
    History,
    /// No acknowledged record is lost.
    I1,
    /// Nothing is read that was not sent, or that was refused.
    I2,
    /// Nothing is altered, and nothing stands in another topic or partition.
    I3,
    /// One record per offset, for every reader, sender and replica.
    I4,
    /// Offsets grow, without gaps.
    I5,
    /// A producer's records keep their order, and a reader's position does not jump back.
    I6,
    /// A group's stored offset does not fall, and an old generation does not move it: a partition
    /// is one member's at a time.
    I7,
    /// What was acked is not delivered again, and an old receipt settles nothing.
    I8,
    /// A lease is exclusive until it ends, and every record of a queue ends in one place.
    I9,
    /// A record that was sent again stands once, and a fenced producer's not at all.
    I10,
    /// A delayed record is not had before its time, nor after it was cancelled.
    I11,
    /// Replicas agree, and remember.
    I13,
}

impl Rule {
    /// The rule in a few words.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::History => "the history contradicts itself",
            Self::I1 => "an acknowledged record is lost",
            Self::I2 => "a record appeared from nowhere",
            Self::I3 => "a record is altered or misrouted",
            Self::I4 => "one offset, two records",
            Self::I5 => "offsets do not grow densely",
            Self::I6 => "order is broken",
            Self::I7 => "a stored offset or a member's share is wrong",
            Self::I8 => "an ack does not hold",
            Self::I9 => "a lease does not hold",
            Self::I10 => "a record stands twice",
            Self::I11 => "a delay does not hold",
            Self::I13 => "replicas disagree",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::History => formatter.write_str("history"),
            numbered => fmt::Debug::fmt(numbered, formatter),
        }
    }
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// When it showed.
    pub at: Nanos,
    /// Who, what, where and when.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, at, message } = self;
        write!(formatter, "{rule} {}, seen at {at}: {message}", rule.title())
    }
}

/// How much was looked at, so that an empty run does not pass for a good one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Events.
    pub events: u64,
    /// Sends begun, each repetition included.
    pub sends: u64,
    /// Sends acknowledged.
    pub sends_ok: u64,
    /// Sends that certainly failed.
    pub sends_failed: u64,
    /// Sends without a known outcome, those still open at the end included.
    pub sends_unknown: u64,
    /// Different records sent.
    pub records_sent: u64,
    /// Of these, acknowledged.
    pub records_acknowledged: u64,
    /// Of these, neither acknowledged nor certainly refused.
    pub records_unknown: u64,
    /// Reads and takes answered.
    pub reads: u64,
    /// Records in these answers.
    pub records_read: u64,
    /// Of these, compared with a record that was sent.
    pub records_compared: u64,
    /// Different sent records that were read at least once.
    pub records_seen: u64,
    /// Of the acknowledged records, those that the final reading showed.
    pub records_drained: u64,
    /// Of the acknowledged records, those that retention may have removed.
    pub records_expired: u64,
    /// Records that were gone when they were read over, from topics that keep them until they are
    /// done with; each as often as that was seen.
    pub records_gone: u64,
    /// Marks of a final reading.
    pub drains: u64,
    /// Stored offsets compared with what was committed before.
    pub offsets_compared: u64,
    /// Signs that a member has a partition, compared with those of another member.
    pub shares_compared: u64,
    /// Records that a stream group was to read, and has.
    pub records_reached: u64,
    /// Leases compared with earlier ones of the same record.
    pub leases_compared: u64,
    /// Delayed records compared with the time they were to come at, each time they were had.
    pub delays_compared: u64,
    /// Claims of producers compared with others.
    pub claims_compared: u64,
    /// Observations of replicas.
    pub replica_sights: u64,
    /// Of these, compared with another replica's or an earlier one.
    pub replica_compared: u64,
    /// Highest committed index of each shard, summed.
    pub entries_committed: u64,
    /// Shards whose committed entries were counted on a quorum at the end.
    pub quorums_counted: u64,
}

/// The judgement of one history.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The first violations of each rule, in the order they showed.
    pub violations: Vec<Violation>,
    /// How many violations there are of each rule, those without a text included.
    pub totals: BTreeMap<Rule, u64>,
    /// How much was looked at.
    pub counters: Counters,
}

impl Verdict {
    /// True when every rule held.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.totals.is_empty()
    }

    /// The rules that were broken.
    pub fn broken(&self) -> impl Iterator<Item = Rule> {
        self.totals.keys().copied()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in &self.violations {
            writeln!(formatter, "{violation}")?;
        }
        for (rule, total) in &self.totals {
            let told = self.violations.iter().filter(|told| told.rule == *rule).count() as u64;
            if *total > told {
                writeln!(formatter, "{rule} {}: {} more", rule.title(), total - told)?;
            }
        }
        let counters = &self.counters;
        write!(
            formatter,
            "{} events, {} records acknowledged, {} unknown, {} read, {} compared: ",
            counters.events,
            counters.records_acknowledged,
            counters.records_unknown,
            counters.records_read,
            counters.records_compared,
        )?;
        if counters.drains == 0 {
            formatter.write_str("no final reading, so what is lost at the end does not show: ")?;
        }
        match self.totals.values().sum::<u64>() {
            0 => formatter.write_str("no violation"),
            1 => formatter.write_str("1 violation"),
            count => write!(formatter, "{count} violations"),
        }
    }
}

/// Collects violations while a history is judged.
#[derive(Debug)]
pub(crate) struct Report {
    violations: Vec<Violation>,
    totals: BTreeMap<Rule, u64>,
    /// Texts kept per rule.
    texts_max: u64,
}

impl Report {
    pub(crate) fn new(texts_max: u64) -> Self {
        Self { violations: Vec::new(), totals: BTreeMap::new(), texts_max }
    }

    /// Counts a violation; its text is made only if it is kept.
    pub(crate) fn add(&mut self, rule: Rule, at: Nanos, message: impl FnOnce() -> String) {
        let has_room = self.has_room(rule);
        *self.totals.entry(rule).or_default() += 1;
        if has_room {
            self.violations.push(Violation { rule, at, message: message() });
        }
    }

    /// Whether the next violation of this rule keeps its text.
    pub(crate) fn has_room(&self, rule: Rule) -> bool {
        self.totals.get(&rule).copied().unwrap_or_default() < self.texts_max
    }

    pub(crate) fn into_verdict(self, counters: Counters) -> Verdict {
        Verdict { violations: self.violations, totals: self.totals, counters }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_capped_per_rule_and_everything_is_counted() {
        let mut report = Report::new(2);
        for number in 0..5 {
            report.add(Rule::I1, Nanos(number), || format!("record {number}"));
        }
        report.add(Rule::I4, Nanos(9), || "offset 7".to_owned());
        let verdict = report.into_verdict(Counters::default());
        let told: Vec<_> = verdict.violations.iter().map(|told| told.message.as_str()).collect();
        assert_eq!(told, ["record 0", "record 1", "offset 7"]);
        assert_eq!(verdict.totals, BTreeMap::from([(Rule::I1, 5), (Rule::I4, 1)]));
        assert!(!verdict.is_clean());
        let text = verdict.to_string();
        assert!(text.contains("I1 an acknowledged record is lost: 3 more\n"), "{text}");
        assert!(text.ends_with("6 violations"), "{text}");
    }

    #[test]
    fn nothing_found_is_clean() {
        let verdict = Report::new(2).into_verdict(Counters::default());
        assert!(verdict.is_clean());
        assert!(verdict.to_string().ends_with("no violation"));
    }
}
