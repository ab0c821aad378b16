//! The checker: takes the events of a history one by one and ends with a verdict.
//!
//! Owns: the calls that are open, and handing each event to the rules that read it. Must never:
//! look ahead, sort, or keep an event. Invariants: the same events give the same verdict; one
//! event costs time in proportion to its own records (times the logarithm of what is known), and
//! memory as the rooms of the rules say: about 60 bytes per record sent and read, 130 per batch.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use barrage_model::Offset;

use super::event::{
    Answer, ChangeDelay, Event, MemberBeat, Note, Operation, Place, ReadFrom, ReadOut, SeenRecord,
    SendBatch, SentAt, Taken, Told as ToldShare, What,
};
use super::facts::{Facts, Moment, Told};
use super::ledger::{BatchId, ClientId, GroupId, Outgoing, PartitionId, ReadId};
use super::name::{Call, Name, Nanos};
use super::rules::agreement::Sighting;
use super::rules::commits::{Commits, OpenCommit, OpenReset, Question};
use super::rules::delays::{Delays, OpenChange};
use super::rules::holders::{Holders, OpenClaim};
use super::rules::intact::{self, Shown};
use super::rules::kept::Kept;
use super::rules::keys::Keys;
use super::rules::leases::{Leases, OpenSettlement, Take};
use super::rules::offsets::Answered;
use super::rules::replicas::Replicas;
use super::rules::shares::{Begun, OpenBeat, Share, Shares, Sign};
use super::rules::unread::Unread;
use super::rules::{appended, lost, order, phantom};
use super::verdict::{Report, Rule, Verdict};

/// What the checker is told beside the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many violations of each rule keep their text.
    pub texts_per_rule_max: u64,
    /// How much earlier than promised a lease or session may end, in millionths of its length:
    /// what the clocks of the nodes may differ in rate.
    pub lease_early_ppm: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { texts_per_rule_max: 10, lease_early_ppm: 0 }
    }
}

/// A call without an answer so far.
#[derive(Debug)]
struct Open {
    client: ClientId,
    asked: Asked,
}

#[derive(Debug)]
enum Asked {
    /// Reported when it began; its answer says nothing.
    Void,
    Send(BatchId),
    Read(Read),
    Join(GroupId),
    Commit(OpenCommit, Moment),
    Committed(Question),
    Reset(OpenReset),
    Take(Take),
    Settle(OpenSettlement),
    Beat(OpenBeat),
    Leave(GroupId),
    Delay(OpenChange),
    Claim(OpenClaim),
}

#[derive(Clone, Copy, Debug)]
struct Read {
    partition: PartitionId,
    from: Option<Offset>,
    begun: Moment,
}

/// Judges one history.
#[derive(Debug)]
pub struct Checker {
    facts: Facts,
    report: Report,
    calls: BTreeMap<Call, Open>,
    /// Where readers that go on stand.
    positions: BTreeMap<(ClientId, PartitionId), Offset>,
    commits: Commits,
    delays: Delays,
    holders: Holders,
    leases: Leases,
    kept: Kept,
    keys: Keys,
    shares: Shares,
    unread: Unread,
    replicas: Replicas,
    now: Nanos,
    moment: Moment,
}

impl Checker {
    /// A checker that has seen nothing.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            facts: Facts::new(),
            report: Report::new(options.texts_per_rule_max),
            calls: BTreeMap::new(),
            positions: BTreeMap::new(),
            commits: Commits::default(),
            delays: Delays::default(),
            holders: Holders::default(),
            leases: Leases::new(options.lease_early_ppm),
            kept: Kept::default(),
            keys: Keys::default(),
            shares: Shares::new(options.lease_early_ppm),
            unread: Unread::default(),
            replicas: Replicas::default(),
            now: Nanos(0),
            moment: 0,
        }
    }

    /// Takes the next event.
    pub fn observe(&mut self, event: &Event) {
        self.moment += 1;
        self.facts.counters.events += 1;
        if event.at < self.now {
            let (at, now) = (event.at, self.now);
            self.contradiction(|| format!("an event at {at} stands after one at {now}"));
        }
        self.now = self.now.max(event.at);
        match &event.what {
            What::Invoke { call, client, operation } => self.invoke(*call, client, operation),
            What::Ok { call, answer } => self.ok(*call, answer),
            What::Fail { call, .. } => self.fail(*call),
            What::Info { call, .. } => self.info(*call),
            What::Note(note) => self.note(note),
        }
    }

    /// The judgement, when everything was seen.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        let (facts, report, now) = (&mut self.facts, &mut self.report, self.now);
        let open = self.calls.values().filter(|open| matches!(open.asked, Asked::Send(_)));
        facts.counters.sends_unknown += open.count() as u64;
        let mut expired = lost::expired(facts);
        self.delays.add_cancelled(&mut expired);
        let settled = self.leases.done(facts);
        lost::finish(facts, report, now, &expired, &settled);
        phantom::finish(facts, report, now);
        appended::finish(facts, report, now);
        self.leases.finish(facts, report, now, &expired);
        self.kept.finish((facts, &self.leases), report);
        self.keys.finish(facts, report);
        self.holders.finish(facts, report, now);
        self.unread.finish(facts, report, now, &expired);
        let is_over = facts.drain.is_some();
        self.replicas.finish(&mut facts.counters, report, now, is_over);
        let counts = facts.ledger.batches().map(|batch| {
            let count = u64::from(batch.count);
            let is_unknown = batch.acknowledged.is_none() && batch.is_possible();
            let is_acknowledged = batch.acknowledged.is_some();
            (count * u64::from(is_acknowledged), count * u64::from(is_unknown))
        });
        let (acknowledged, unknown) =
            counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        facts.counters.records_sent = facts.ledger.message_count() as u64;
        facts.counters.records_acknowledged = acknowledged;
        facts.counters.records_unknown = unknown;
        let counters = facts.counters;
        self.report.into_verdict(counters)
    }

    fn contradiction(&mut self, message: impl FnOnce() -> String) {
        self.report.add(Rule::History, self.now, message);
    }

    fn invoke(&mut self, call: Call, client: &Name, operation: &Operation) {
        if self.calls.contains_key(&call) {
            self.contradiction(|| format!("call {call} of {client} begins, but it is open"));
            return;
        }
        let client = self.facts.client(client);
        let begun = self.moment;
        let asked = match operation {
            Operation::Send(batch) => self.send(client, batch),
            Operation::Read(ReadFrom { place, from }) => {
                Asked::Read(Read { partition: self.facts.place(place), from: *from, begun })
            }
            Operation::Join { group } => Asked::Join(self.facts.group(group)),
            Operation::Commit(commit) => {
                let cursor = (self.facts.group(&commit.group), self.facts.place(&commit.place));
                Asked::Commit(self.commits.commit(client, cursor, commit), begun)
            }
            Operation::Committed { group, place } => {
                let cursor = (self.facts.group(group), self.facts.place(place));
                Asked::Committed(self.commits.ask(client, cursor))
            }
            Operation::Reset { group, place, offset } => {
                let cursor = (self.facts.group(group), self.facts.place(place));
                self.unread.resets(cursor, *offset);
                Asked::Reset(self.commits.reset(cursor, *offset))
            }
            Operation::Take(take) => {
                let (group, topic) = (self.facts.group(&take.group), self.facts.topic(&take.topic));
                self.leases.takes(group, topic);
                let (visibility, begun_at) = (take.visibility, self.now);
                Asked::Take(Take { group, topic, visibility, begun, begun_at })
            }
            Operation::Settle(settle) => match self.facts.ledger.find(settle.fingerprint) {
                Some(message) => {
                    let (group, begun) = (self.facts.group(&settle.group), (begun, self.now));
                    Asked::Settle(self.leases.settle(group, message, settle, begun))
                }
                None => Asked::Void,
            },
            Operation::Beat(beat) => Asked::Beat(self.beat(client, beat)),
            Operation::Leave { group } => {
                let group = self.facts.group(group);
                self.shares.leaves(group, client);
                Asked::Leave(group)
            }
            Operation::Delay(ChangeDelay { fingerprint, to }) => {
                let message = self.facts.ledger.find(*fingerprint);
                let change =
                    message.and_then(|message| self.delays.change((call, begun), message, *to));
                change.map_or(Asked::Void, Asked::Delay)
            }
            Operation::Claim(claim) => {
                let partition = self.facts.place(&claim.place);
                Asked::Claim(self.holders.claim((call, self.now), partition, claim))
            }
        };
        self.calls.insert(call, Open { client, asked });
    }

    fn beat(&mut self, client: ClientId, beat: &MemberBeat) -> OpenBeat {
        let group = self.facts.group(&beat.group);
        let (held, instance) = (self.places(&beat.held), beat.instance.as_ref());
        let (generation, lasts) = (beat.generation, beat.lasts);
        let begun = (self.moment, self.now);
        self.unread.member(group, client);
        self.shares.beat(&Begun { group, client, generation, held, instance, lasts, begun })
    }

    fn places(&mut self, places: &[Place]) -> BTreeSet<PartitionId> {
        places.iter().map(|place| self.facts.place(place)).collect()
    }

    fn send(&mut self, sender: ClientId, batch: &SendBatch) -> Asked {
        self.facts.counters.sends += 1;
        if self.facts.drain.is_some() {
            self.contradiction(|| "a send begins after the mark of the final reading".to_owned());
        }
        let topic = self.facts.topic(&batch.topic);
        let wanted = batch.partition.map(|number| self.facts.place_in(topic, number.0));
        let floor = wanted.map_or(Offset(0), |wanted| self.facts.partition(wanted).known_end);
        let out = Outgoing { sender, topic, wanted, floor, at: self.now, batch };
        match self.facts.ledger.send(&out) {
            Ok(id) => {
                let messages = self.facts.ledger.batch(id).messages();
                messages
                    .zip(&batch.dues)
                    .for_each(|(message, due)| self.delays.sent(message, *due));
                Asked::Send(id)
            }
            Err(contradiction) => {
                let client = self.facts.client_name(sender).to_owned();
                self.contradiction(|| format!("a send of {client}: {contradiction}"));
                Asked::Void
            }
        }
    }

    fn close(&mut self, call: Call) -> Option<Open> {
        let open = self.calls.remove(&call);
        if open.is_none() {
            self.contradiction(|| format!("call {call} ends, but it is not open"));
        }
        open
    }

    fn ok(&mut self, call: Call, answer: &Answer) {
        let Some(Open { client, asked }) = self.close(call) else { return };
        match (asked, answer) {
            (Asked::Void, _) => {}
            (Asked::Send(batch), Answer::Sent(sent)) => self.sent(batch, *sent),
            (Asked::Read(asked), Answer::Read(out)) => self.read(client, asked, out),
            (Asked::Join(group), Answer::Joined { generation }) => {
                self.commits.joined(group, *generation);
            }
            (Asked::Commit(open, begun), Answer::Done) => {
                self.commits.committed(&self.facts, &mut self.report, self.now, &open);
                let (client, cursor) = open.who();
                let sign = Sign { client, begun, done: self.moment, at: self.now };
                self.shares.committed(&mut self.facts, &mut self.report, cursor, sign);
            }
            (Asked::Beat(open), Answer::Told(told)) => self.told(&open, told),
            (Asked::Beat(open), Answer::NoMember) => {
                self.shares.gone(&self.facts, &mut self.report, self.now, &open);
            }
            (Asked::Delay(change), Answer::Done) => {
                let now = (self.moment, self.now);
                self.delays.changed(&self.facts, &mut self.report, now, &change);
            }
            (Asked::Claim(open), Answer::Done) => self.holders.granted(open, self.now),
            (Asked::Leave(group), Answer::Done) => self.shares.left(group, client),
            (Asked::Committed(asked), Answer::Committed { offset }) => {
                let (facts, report) = (&mut self.facts, &mut self.report);
                self.commits.told(facts, report, self.now, &asked, *offset);
            }
            (Asked::Reset(open), Answer::Done) => self.commits.reset_over(&open, true),
            (Asked::Take(take), Answer::Taken(taken)) => self.taken(client, &take, taken),
            (Asked::Settle(open), Answer::Done) => {
                let now = (self.moment, self.now);
                self.leases.settled(&self.facts, &mut self.report, &open, now);
            }
            _ => {
                let client = self.facts.client_name(client).to_owned();
                self.contradiction(|| {
                    format!("call {call} of {client} has the answer of another operation")
                });
            }
        }
    }

    /// A member was told what it has.
    fn told(&mut self, open: &OpenBeat, told: &ToldShare) {
        let (own, give_up) = (self.places(&told.own), self.places(&told.give_up));
        let share = Share { generation: told.generation, own, give_up };
        self.commits.told_generation(open.group, open.client, told.generation);
        let now = (self.moment, self.now);
        self.shares.told(&mut self.facts, &mut self.report, now, open, share);
    }

    fn fail(&mut self, call: Call) {
        let Some(open) = self.close(call) else { return };
        match open.asked {
            Asked::Send(batch) => {
                self.facts.counters.sends_failed += 1;
                self.facts.ledger.batch_mut(batch).failures += 1;
            }
            Asked::Commit(open, _) => self.commits.refused(&open),
            Asked::Reset(open) => self.commits.reset_over(&open, false),
            Asked::Settle(open) => self.leases.refused(&open),
            Asked::Delay(change) => self.delays.refused(&change),
            Asked::Claim(open) => self.holders.refused(open),
            Asked::Void
            | Asked::Read(_)
            | Asked::Join(_)
            | Asked::Committed(_)
            | Asked::Beat(_)
            | Asked::Leave(_)
            | Asked::Take(_) => {}
        }
    }

    fn info(&mut self, call: Call) {
        let Some(open) = self.close(call) else { return };
        match open.asked {
            Asked::Send(_) => self.facts.counters.sends_unknown += 1,
            Asked::Beat(open) => self.shares.unclear(&open),
            _ => {}
        }
    }

    /// A send was acknowledged.
    fn sent(&mut self, id: BatchId, sent: SentAt) {
        self.facts.counters.sends_ok += 1;
        if self.facts.drain.is_some() {
            self.contradiction(|| "a send ends after the mark of the final reading".to_owned());
        }
        let batch = self.facts.ledger.batch(id).clone();
        let told = sent.partition.map(|number| self.facts.place_in(batch.topic, number.0));
        let is_wanted = told.is_none_or(|told| {
            intact::acknowledged(&self.facts, &mut self.report, self.now, &batch, told)
        });
        let place = told.or(batch.wanted).zip(sent.base).filter(|_| is_wanted);
        self.facts.ledger.acknowledge(id, self.now, place);
        let Some((partition, base)) = place else { return };
        let Some(end) = base.checked_add(u64::from(batch.count)) else {
            let client = self.facts.client_name(batch.sender).to_owned();
            self.contradiction(|| format!("a send of {client} was acknowledged at {base}"));
            return;
        };
        let (at, told) = (self.now, Told::Sender(batch.sender));
        for (message, offset) in batch.messages().zip((base.0..end.0).map(Offset)) {
            let sighting = Sighting { at, told, partition, offset };
            sighting.of(&mut self.facts, &mut self.report, message);
        }
        self.facts.raise_end(partition, end);
    }

    /// A read was answered.
    fn read(&mut self, client: ClientId, asked: Read, out: &ReadOut) {
        let Read { partition, from, begun } = asked;
        self.facts.counters.reads += 1;
        let is_final = self.facts.is_final(begun);
        let read = self.facts.reading(client, self.now);
        self.bounds(partition, read, out);
        let answered = Answered { at: self.now, read, partition, out };
        let position = self.positions.get(&(client, partition)).copied();
        let mut next = from.or(position);
        let first = out.records.first().map(|record| record.offset);
        if let (None, Some(position), Some(first)) = (from, position, first)
            && first < position
        {
            order::jumped_back(&self.facts, &mut self.report, &answered, position, first);
            next = None;
        }
        for record in &out.records {
            if let Some(expected) = next.filter(|expected| *expected < record.offset) {
                let range = expected.max(self.facts.partition(partition).trim)..record.offset;
                self.passed(partition, range);
            }
            if !answered.step(&self.facts, &mut self.report, next, record.offset) {
                continue;
            }
            next = record.offset.checked_add(1);
            self.shown(&answered, record, is_final);
        }
        let Some(next) = next.filter(|_| first.is_some()) else { return };
        self.facts.raise_end(partition, next);
        if let Some(begin) = from.or(position) {
            self.unread.read(client, partition, begin, next);
        }
        if from.is_none() {
            self.positions.insert((client, partition), next);
        }
    }

    /// These offsets are not there any more, or never were.
    fn passed(&mut self, partition: PartitionId, range: Range<Offset>) {
        let (facts, leases, report) = (&mut self.facts, &self.leases, &mut self.report);
        self.kept.passed((facts, leases), report, (partition, range), self.now);
    }

    /// A read was told where the partition begins and ends.
    fn bounds(&mut self, partition: PartitionId, read: ReadId, out: &ReadOut) {
        if let Some(end) = out.end {
            self.facts.raise_end(partition, end);
        }
        let row = self.facts.partition_mut(partition);
        let highest = row.start.map_or(Offset(0), |(start, _)| start);
        if let Some(start) = out.start.filter(|start| *start > highest) {
            row.start = Some((start, read));
        }
    }

    /// One record of a read.
    fn shown(&mut self, answered: &Answered<'_>, record: &SeenRecord, is_final: bool) {
        let SeenRecord { offset, fingerprint } = *record;
        let (at, read, partition) = (answered.at, answered.read, answered.partition);
        let (facts, report) = (&mut self.facts, &mut self.report);
        let Some(fingerprint) = fingerprint else {
            let told = Told::Reader(read);
            Sighting { at, told, partition, offset }.of_control(facts, report);
            return;
        };
        let topic = facts.partition(partition).topic;
        let place = Some((partition, offset));
        let shown = Shown { at, read, topic, place, fingerprint, is_final };
        let Some(message) = shown.of(facts, report) else { return };
        self.delays.shown(facts, report, (at, read), message);
        if facts.ledger.batch_of(message).topic != topic {
            let now = (self.moment, at, is_final);
            self.leases.dead_letter(facts, report, message, (partition, offset), now);
        }
    }

    /// A take was answered.
    fn taken(&mut self, client: ClientId, take: &Take, taken: &[Taken]) {
        self.facts.counters.reads += 1;
        let read = self.facts.reading(client, self.now);
        let is_final = self.facts.is_final(take.begun);
        for one in taken {
            let (at, topic, fingerprint) = (self.now, take.topic, one.fingerprint);
            let partition = one.partition.map(|number| self.facts.place_in(topic, number.0));
            let place = partition.zip(one.offset.filter(|offset| offset.0 != u64::MAX));
            let shown = Shown { at, read, topic, place, fingerprint, is_final };
            let (facts, report) = (&mut self.facts, &mut self.report);
            let Some(message) = shown.of(facts, report) else { continue };
            self.delays.shown(facts, report, (at, read), message);
            let given = (one.count, self.moment, at);
            let is_first = self.leases.deliver(facts, report, take, message, given);
            if let Some((partition, offset)) = place.filter(|_| is_first) {
                let reached = (partition, offset, self.moment, at);
                let known = (&*facts, &self.leases);
                self.keys.delivered(known, report, take, message, reached);
            }
        }
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::Trim { place, start } => {
                let id = self.facts.place(place);
                self.passed(id, self.facts.partition(id).trim..*start);
                let partition = self.facts.partition_mut(id);
                partition.trim = partition.trim.max(*start);
            }
            Note::Seek { client, place } => {
                let cursor = (self.facts.client(client), self.facts.place(place));
                self.positions.remove(&cursor);
            }
            Note::Drain => {
                self.facts.drain.get_or_insert(self.moment);
                self.facts.counters.drains += 1;
            }
            Note::Ahead { by } => {
                self.delays.ahead(*by);
                self.holders.ahead(*by);
                self.leases.ahead(*by);
            }
            Note::DeadLetters { group, topic, into, not_before, wanted_for } => {
                let (group, topic) = (self.facts.group(group), self.facts.topic(topic));
                let into = self.facts.topic(into);
                self.facts.dead_letters_of(topic, into);
                self.leases.dead_letters_of(group, (topic, into), (*not_before, *wanted_for));
            }
            Note::Reads { group, topic, partitions } => {
                let (group, topic) = (self.facts.group(group), self.facts.topic(topic));
                self.shares.reads(group, topic, *partitions);
                self.unread.reads(group, topic);
            }
            Note::Calm { group } => {
                let group = self.facts.group(group);
                self.shares.calm(group, self.moment);
            }
            Note::Stirred { group } => {
                let group = self.facts.group(group);
                self.shares.stirred(&mut self.facts, &mut self.report, self.now, group);
            }
            Note::KeptUntilDone { group, topic } => {
                let (group, topic) = (self.facts.group(group), self.facts.topic(topic));
                self.facts.kept_until_done(group, topic);
            }
            Note::Keyed { group } => {
                let group = self.facts.group(group);
                self.keys.keyed(group);
            }
            Note::Replica { shard, node, saw } => {
                let (counters, report) = (&mut self.facts.counters, &mut self.report);
                self.replicas.saw(counters, report, (shard, *node, self.now), saw);
            }
            Note::Voters { shard, voters } => self.replicas.voters(shard, voters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::script::{check, history};
    use crate::history::verdict::Rule::{History as Broken, I1, I3};
    use crate::history::{History, What};

    #[test]
    fn a_history_does_not_contradict_itself() {
        check(&[
            ("calls overlap", "1= p send a; 2= p send b; 2 -> 1; 1 -> 0", &[]),
            ("a call ends twice", "1= p send a; 1 -> 0; 1 -> 0", &[Broken]),
            ("a call fails after it ended", "1= p send a; 1 -> 0; 1 fails", &[Broken]),
            ("a record is sent twice", "p send a -> 0; q send t/1 a -> 0", &[Broken]),
            ("a batch is cut anew", "p send a b -> ?; p send a -> 0", &[Broken]),
            ("another identity", "p send #7.0.0 a -> ?; p send #7.0.1 a -> 0", &[Broken]),
            ("a send of nothing", "p send -> 0", &[Broken]),
            ("a stamped send to anywhere", "p send t/- #7.0.0 a -> 0@0", &[Broken]),
            ("an offset beyond all offsets", "p send a -> 18446744073709551615", &[Broken]),
            ("a send after the end", "drain; p send a -> ?", &[Broken]),
            ("an answer after the end", "1= p send a; drain; 1 -> 0; c read 0 -> 0:a", &[Broken]),
            ("no answer after the end", "1= p send a; drain; 1 ?; c read 0 -> 0:a", &[]),
        ]);
    }

    #[test]
    fn a_recorder_that_errs_is_told() {
        let events = history("p send a -> 0; c read 0 -> 0:a; drain; c read 0 -> 0:a");
        let broken = |change: fn(&mut Vec<Event>)| {
            let mut events = events.events().to_vec();
            change(&mut events);
            let verdict = events.into_iter().collect::<History>().check(&Options::default());
            verdict.totals.into_iter().collect::<Vec<_>>()
        };
        assert_eq!(broken(|_| {}), []);
        assert_eq!(broken(|events| events[2].at = events[1].at), []);
        assert_eq!(broken(|events| events[2].at = events[0].at), [(Broken, 1)]);
        let again = |events: &mut Vec<Event>| events.insert(1, events[0].clone());
        assert_eq!(broken(again), [(Broken, 1)]);
        let unknown = |events: &mut Vec<Event>| drop(events.remove(0));
        assert_eq!(broken(unknown), [(Broken, 1), (Rule::I2, 1)]);
        let mistaken = |events: &mut Vec<Event>| {
            if let What::Ok { answer, .. } = &mut events[6].what {
                *answer = Answer::Done;
            }
        };
        assert_eq!(broken(mistaken), [(Broken, 1), (I1, 1)]);
    }

    #[test]
    fn counters_count() {
        let verdict = history(
            "p send a b -> 0; p send c -> ?; p send d -> fail; 1= p send e; trim 1; \
             c read 1 -> 1:b 2:c; drain; c read 1 -> 1:b 2:c",
        )
        .check(&Options::default());
        assert!(verdict.is_clean(), "{verdict}");
        let counters = verdict.counters;
        let got = [
            counters.events,
            counters.sends,
            counters.sends_ok,
            counters.sends_failed,
            counters.sends_unknown,
            counters.records_sent,
            counters.records_acknowledged,
            counters.records_unknown,
            counters.reads,
            counters.records_read,
            counters.records_compared,
            counters.records_seen,
            counters.records_drained,
            counters.records_expired,
            counters.drains,
        ];
        assert_eq!(got, [13, 4, 1, 1, 2, 5, 2, 2, 2, 4, 4, 2, 1, 1, 1]);
    }

    #[test]
    fn options_are_heeded() {
        let text = "p send a -> 0; c take g 100 -> a*1; wait 95; d take g 100 -> a*2";
        let history = history(text);
        let count = |options: Options| history.check(&options).totals.len();
        assert_eq!(count(Options::default()), 1);
        assert_eq!(count(Options { lease_early_ppm: 40_000, ..Options::default() }), 1);
        assert_eq!(count(Options { lease_early_ppm: 60_000, ..Options::default() }), 0);
        let silent = history.check(&Options { texts_per_rule_max: 0, ..Options::default() });
        assert_eq!((silent.violations.len(), silent.totals.len()), (0, 1));
    }

    #[test]
    fn violations_say_who_where_and_when() {
        let verdict =
            history("p1 send #7.0.0 a -> 0; wait 60; c1 read 0 -> 0:x").check(&Options::default());
        let text = verdict.violations[0].to_string();
        let want = "I3 a record is altered or misrouted, seen at 60.004000s: c1 at 60.004000s \
                    read t/0@0: it says e443e89ac0c86af4, but there stands record \
                    130188a45e04469a (1 of 1 sent by p1 to t/0 at 0.001000s, producer 7 epoch 0 \
                    sequence 0, acknowledged at 0.002000s as t/0@0)";
        assert_eq!(text, want);
        assert_eq!(verdict.violations[0].rule, I3);
    }
}
