//! What the log was asked to hold, in order, and how much of it was promised.
//!
//! Owns the judgement after a restart: what is found must be the content after some prefix of
//! what was asked, at least as long as what was promised.
//!
//! ```text
//!   asked     entry entry vote entry truncate entry floor entry ...
//!             |<------ promised ------>|<--------- open --------->|
//!   found     must be the content here, or after any of these
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

use barrage_commitlog::{Entry, Vote};
use barrage_model::LogId;

use super::plan::SHARD;

/// An entry as it was appended.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) entry: Entry,
    /// All of it, payload included: what is read back must be these bytes.
    pub(super) bytes: Vec<u8>,
}

impl Sent {
    pub(super) fn new(entry: Entry) -> Rc<Self> {
        let bytes = entry.encode(SHARD);
        Rc::new(Self { entry, bytes })
    }

    /// Whether this is what was read, but for runs that are gone since: whether they may be is for
    /// who reads records.
    pub(super) fn is(&self, read: &Entry) -> bool {
        if read.runs.iter().all(|run| run.gone.is_none()) {
            return self.bytes == read.encode(SHARD);
        }
        let mut sent = self.entry.clone();
        for (run, read) in sent.runs.iter_mut().zip(&read.runs) {
            if read.gone.is_some() {
                run.gone = read.gone;
                run.batches.clear();
            }
        }
        sent.encode(SHARD) == read.encode(SHARD)
    }
}

/// One thing the log was asked for.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    Append(Rc<Sent>),
    Vote(Vote),
    Truncate(Option<LogId>),
    Floor(LogId),
}

/// What a log holds, as Raft sees it.
#[derive(Clone, Default, Debug)]
pub(super) struct Content {
    entries: VecDeque<Rc<Sent>>,
    vote: Option<Vote>,
    floor: Option<LogId>,
}

/// What was found in a log after a start.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) vote: Option<Vote>,
    pub(super) floor: Option<LogId>,
}

impl Content {
    fn apply(&mut self, asked: &Asked) {
        match asked {
            Asked::Append(sent) => self.entries.push_back(Rc::clone(sent)),
            Asked::Vote(vote) => self.vote = Some(*vote),
            Asked::Truncate(last) => {
                let keep = last.map_or(0, |last| last.index.0 + 1);
                while self.entries.back().is_some_and(|sent| sent.entry.id.index.0 >= keep) {
                    self.entries.pop_back();
                }
            }
            Asked::Floor(floor) => {
                self.floor = self.floor.max(Some(*floor));
                while self.entries.front().is_some_and(|sent| sent.entry.id.index <= floor.index) {
                    self.entries.pop_front();
                }
            }
        }
    }

    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(super) fn floor(&self) -> Option<LogId> {
        self.floor
    }

    /// The newest entry, or the floor.
    pub(super) fn last(&self) -> Option<LogId> {
        self.entries.back().map(|sent| sent.entry.id).or(self.floor)
    }

    pub(super) fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index.0 + 1)
    }

    /// The index of the first entry above the floor, whether or not it is there.
    pub(super) fn first_index(&self) -> u64 {
        self.floor.map_or(0, |floor| floor.index.0 + 1)
    }

    pub(super) fn entry(&self, index: u64) -> Option<&Rc<Sent>> {
        let at = index.checked_sub(self.first_index())?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    pub(super) fn entries(&self) -> impl DoubleEndedIterator<Item = &Rc<Sent>> {
        self.entries.iter()
    }

    /// The first difference to what was found.
    fn difference(&self, found: &Found) -> Option<String> {
        if self.vote != found.vote {
            return Some(format!("vote {:?}, found {:?}", self.vote, found.vote));
        }
        if self.floor != found.floor {
            return Some(format!("floor {:?}, found {:?}", self.floor, found.floor));
        }
        let ids = |sent: &Rc<Sent>| sent.entry.id;
        for (sent, found) in self.entries.iter().zip(&found.entries) {
            if sent.entry.id != found.id {
                return Some(format!("entry {}, found {}", Short(ids(sent)), Short(found.id)));
            }
            if !sent.is(found) {
                return Some(format!("entry {} has other bytes", Short(found.id)));
            }
        }
        if self.entries.len() == found.entries.len() {
            return None;
        }
        let last = self.entries.back().map(ids);
        let found = found.entries.last().map(|entry| entry.id);
        Some(format!("last entry {}, found {}", Last(last), Last(found)))
    }
}

/// Everything asked of one log in all its lives.
#[derive(Default, Debug)]
pub(super) struct Ledger {
    /// The content after everything that was promised.
    promised: Content,
    promised_count: u64,
    /// Asked for and not promised.
    open: VecDeque<Asked>,
    /// The content after everything asked.
    latest: Content,
    /// Promises are not taken for what they say: the disk lies.
    doubted: bool,
    /// All entries that were ever appended.
    appended: BTreeMap<LogId, Rc<Sent>>,
}

impl Ledger {
    /// Notes a request; gives its number.
    pub(super) fn ask(&mut self, asked: Asked) -> u64 {
        self.latest.apply(&asked);
        if let Asked::Append(sent) = &asked {
            self.appended.insert(sent.entry.id, Rc::clone(sent));
        }
        self.open.push_back(asked);
        self.promised_count + self.open.len() as u64
    }

    /// Everything up to request `number` is durable, says the log.
    pub(super) fn promise(&mut self, number: u64) {
        if self.doubted {
            return;
        }
        while self.promised_count < number {
            let Some(asked) = self.open.pop_front() else { return };
            self.promised.apply(&asked);
            self.promised_count += 1;
        }
    }

    /// The index behind the last entry that is durable and stands, from `from` on: what a single
    /// voter may commit.
    pub(super) fn durable_next(&self, from: u64) -> u64 {
        let stands = |index: &u64| match (self.promised.entry(*index), self.latest.entry(*index)) {
            (Some(promised), Some(latest)) => Rc::ptr_eq(promised, latest),
            _ => false,
        };
        (from..).take_while(stands).last().map_or(from, |last| last + 1)
    }

    /// From now on nothing is believed.
    pub(super) fn doubt(&mut self) {
        self.doubted = true;
    }

    /// What the log holds if it keeps everything.
    pub(super) fn latest(&self) -> &Content {
        &self.latest
    }

    /// Judges what a start found and goes on from there.
    ///
    /// # Errors
    /// Tells what was found instead of what may be.
    pub(super) fn settle(&mut self, found: &Found) -> Result<(), String> {
        let mut content = self.promised.clone();
        let mut closest = content.difference(found);
        let mut kept = 0;
        while closest.is_some() {
            let Some(asked) = self.open.get(kept) else { break };
            content.apply(asked);
            kept += 1;
            let difference = content.difference(found);
            if difference.is_none() {
                closest = None;
            }
        }
        if let Some(difference) = closest {
            if self.doubted {
                return self.known(found);
            }
            let (promised, open) = (self.promised_count, self.open.len());
            return Err(format!(
                "the log is not what was asked of it up to request {promised} or up to one of \
                 the {open} after it; up to {promised}: {difference}",
            ));
        }
        self.promised_count += kept as u64;
        self.open.clear();
        self.promised = content.clone();
        self.latest = content;
        Ok(())
    }
}

impl Ledger {
    /// What a disk that lied has left must at least be what was once appended.
    fn known(&self, found: &Found) -> Result<(), String> {
        for entry in &found.entries {
            let sent = self.appended.get(&entry.id);
            if sent.is_none_or(|sent| !sent.is(entry)) {
                return Err(format!("entry {} was never appended like this", Short(entry.id)));
            }
        }
        Ok(())
    }
}

/// A log id, short.
#[derive(Debug)]
pub(super) struct Short(pub(super) LogId);

impl fmt::Display for Short {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.0.term.0, self.0.index.0)
    }
}

struct Last(Option<LogId>);

impl fmt::Display for Last {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => Short(id).fmt(formatter),
            None => formatter.write_str("none"),
        }
    }
}
