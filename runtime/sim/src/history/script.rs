//! Histories for tests, written as a line of text.
//!
//! ```text
//!   p send a b -> 0          client p sends two records, acknowledged at offset 0
//!   p send t/1 #7.0.3 a@k    to partition 1 of topic t, producer 7 epoch 0 sequence 3, key k;
//!                            t/0 is meant without it, t/- lets the broker choose
//!   p send ~2 a, p send + a  on connection 2; by a library that repeats on its own
//!   c read 0 -> 0:a 1:! | 0 2   a record and a control record; start and high watermark
//!   c read * -> ...          goes on where it was
//!   1= p send a; ...; 1 -> 0 a call that stays open for a while
//!   m beat g*3 ^i 0 1 -> 4: 0 / 1   a heartbeat of generation 3 and instance i, held 0 and 1 of t:
//!                            has 0 and is to give up 1 in generation 4; -> none: is no member
//!   p send !5 a b            due in five seconds; delay a 9 moves it, delay a - cancels it
//!   p claim o/0 hold 7 60    producer 7 holds o/0, for a minute; keep goes on, take takes it over,
//!                            release gives it up
//!   -> fail, -> ?            refused; outcome unknown (1 fails, 1 ? for a labelled call)
//! ```
//!
//! Every event comes a millisecond after the one before; `wait 5` adds seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use barrage_model::{
    LogIndex, NodeId, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Term,
};

use super::event::{
    Answer, ChangeDelay, Claim, Claiming, CommitOffset, Identity, MemberBeat, Note, Operation,
    Place, ReadFrom, ReadOut, SeenRecord, SendBatch, SentAt, SentRecord, SettleLease, Settlement,
    Sight, Stamp, TakeLease, Taken, Told,
};
use super::name::{Call, Fingerprint, Key, Name, Nanos, StateHash};
use super::verdict::Rule;
use super::{History, Options, check_lines};

/// What a member of a script is promised.
const LASTS: Duration = Duration::from_secs(30);

/// Checks that each history breaks exactly these rules, so often.
pub(crate) fn check(table: &[(&str, &str, &[Rule])]) {
    let mut wrong = Vec::new();
    for (what, text, want) in table {
        let history = history(text);
        let verdict = history.check(&Options::default());
        let mut broken: Vec<Rule> = Vec::new();
        for (rule, total) in &verdict.totals {
            broken.extend((0..*total).map(|_| *rule));
        }
        if broken != *want {
            wrong.push(format!("{what}: {text}\n{verdict}\nwanted {want:?}"));
        }
        let mut lines = Vec::new();
        history.write(&mut lines).unwrap();
        let again = check_lines(lines.as_slice(), &Options::default()).unwrap();
        assert_eq!(again, verdict, "{what}: the file is judged differently");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Reads a script.
pub(crate) fn history(text: &str) -> History {
    let mut script = Script::default();
    for line in text.split(';').map(str::trim).filter(|line| !line.is_empty()) {
        script.line(line);
    }
    script.history
}

/// The fingerprint of a record in a script.
pub(crate) fn fingerprint(name: &str) -> Fingerprint {
    Fingerprint::of(None, Some(name.as_bytes()))
}

#[derive(Default)]
struct Script {
    history: History,
    now: Nanos,
    labels: BTreeMap<String, (Call, Operation)>,
}

impl Script {
    fn tick(&mut self) -> Nanos {
        self.now.0 += 1_000_000;
        self.now
    }

    fn line(&mut self, line: &str) {
        let (head, answer) = match line.split_once("->") {
            Some((head, answer)) => (head.trim(), Some(answer.trim())),
            None => (line, None),
        };
        let mut words: Vec<&str> = head.split_whitespace().collect();
        if let Some((call, operation)) = self.labels.get(words[0]).cloned() {
            let answer = answer.unwrap_or_else(|| words[1]);
            return self.end(call, &operation, answer);
        }
        let label = words[0].strip_suffix('=').map(str::to_owned);
        if label.is_some() {
            words.remove(0);
        }
        if words[0] == "wait" {
            self.now.0 += number(words[1]) * 1_000_000_000;
        } else if let Some(note) = note(&words) {
            let at = self.tick();
            self.history.note(at, note);
        } else {
            let at = self.tick();
            let operation = operation(&words[1..], at);
            let call = self.history.invoke(at, &words[0].into(), operation.clone());
            match (label, answer) {
                (Some(label), _) => drop(self.labels.insert(label, (call, operation))),
                (None, Some(answer)) => self.end(call, &operation, answer),
                (None, None) => {}
            }
        }
    }

    fn end(&mut self, call: Call, operation: &Operation, text: &str) {
        let at = self.tick();
        match text {
            "fail" | "fails" => self.history.fail(at, call, "refused"),
            "?" => self.history.info(at, call, "timeout"),
            text => self.history.ok(at, call, answer(operation, text)),
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no number"))
}

/// The words without the first one that names a place, and that place.
fn place<'a>(words: &[&'a str]) -> (Vec<&'a str>, Name, Option<PartitionId>) {
    let mut words = words.to_vec();
    let Some(at) = words.iter().position(|word| word.contains('/')) else {
        return (words, "t".into(), Some(PartitionId(0)));
    };
    let (topic, partition) = words.remove(at).split_once('/').unwrap();
    let partition = (partition != "-").then(|| PartitionId(number(partition) as u32));
    (words, topic.into(), partition)
}

fn operation(words: &[&str], now: Nanos) -> Operation {
    let (words, topic, partition) = place(words);
    let there = || Place { topic: topic.clone(), partition: partition.unwrap() };
    let offset = |at: usize| Offset(number(words[at]));
    let group = || Name::from(words[1].split('*').next().unwrap());
    let seconds = |at: usize| Duration::from_secs(number(words[at]));
    let settle = |how| {
        let (record, count) = words[2].split_once('*').unwrap();
        let (fingerprint, count) = (fingerprint(record), number(count) as u32);
        Operation::Settle(SettleLease { group: group(), fingerprint, count, how })
    };
    match words[0] {
        "send" => Operation::Send(send(&words[1..], topic, partition, now)),
        "read" => {
            let from = (words[1] != "*").then(|| offset(1));
            Operation::Read(ReadFrom { place: there(), from })
        }
        "join" => Operation::Join { group: group() },
        "commit" => {
            let generation = words[1].split_once('*').map(|(_, text)| number(text) as u32);
            let (group, place) = (group(), there());
            Operation::Commit(CommitOffset { group, generation, place, offset: offset(2) })
        }
        "stored" => Operation::Committed { group: group(), place: there() },
        "reset" => Operation::Reset { group: group(), place: there(), offset: offset(2) },
        "take" => Operation::Take(TakeLease { group: group(), topic, visibility: seconds(2) }),
        "ack" => settle(Settlement::Ack),
        "nack" => settle(Settlement::Nack { delay: seconds(3) }),
        "release" => settle(Settlement::Release),
        "extend" => settle(Settlement::Extend { visibility: seconds(3) }),
        "beat" => Operation::Beat(beat(group(), &words[1..])),
        "leave" => Operation::Leave { group: group() },
        "delay" => {
            let to = (words[2] != "-").then(|| later(now, words[2]));
            Operation::Delay(ChangeDelay { fingerprint: fingerprint(words[1]), to })
        }
        "claim" => {
            let how = match words[1] {
                "hold" => Claiming::Hold,
                "take" => Claiming::TakeOver,
                "keep" => Claiming::Keep,
                "release" => Claiming::Release,
                other => panic!("{other:?} is no claim"),
            };
            let (producer, lasts) = (ProducerId(number(words[2]) as i64), seconds(3));
            Operation::Claim(Claim { place: there(), producer, how, lasts })
        }
        other => panic!("{other:?} is no operation"),
    }
}

/// So many seconds from now on.
fn later(now: Nanos, seconds: &str) -> Nanos {
    Nanos(now.0 + number(seconds) * 1_000_000_000)
}

fn beat(group: Name, words: &[&str]) -> MemberBeat {
    let generation = words[0].split_once('*').map(|(_, text)| number(text) as u32);
    let (names, held): (Vec<&str>, Vec<&str>) =
        words[1..].iter().partition(|word| word.starts_with('^'));
    let instance = names.first().map(|name| Name::from(&name[1..]));
    MemberBeat { group, generation, held: places(held), instance, lasts: LASTS }
}

/// Partitions of `t`.
fn places<'a>(numbers: impl IntoIterator<Item = &'a str>) -> Vec<Place> {
    let place = |text| Place { topic: "t".into(), partition: PartitionId(number(text) as u32) };
    numbers.into_iter().map(place).collect()
}

fn send(words: &[&str], topic: Name, partition: Option<PartitionId>, now: Nanos) -> SendBatch {
    let mut identity = Identity::Once;
    let (mut connection, mut records, mut due) = (None, Vec::new(), None);
    for word in words {
        if *word == "+" {
            identity = Identity::Repeating;
        } else if let Some(text) = word.strip_prefix('~') {
            connection = Some(number(text) as u32);
        } else if let Some(text) = word.strip_prefix('!') {
            due = Some(later(now, text));
        } else if let Some(text) = word.strip_prefix('#') {
            let numbers: Vec<i64> = text.split('.').map(|text| text.parse().unwrap()).collect();
            identity = Identity::Stamped(Stamp {
                producer: ProducerId(numbers[0]),
                epoch: ProducerEpoch(numbers[1] as i16),
                sequence: Sequence(numbers[2] as i32),
            });
        } else {
            let (name, key) = match word.split_once('@') {
                Some((name, key)) => (name, Some(Key::of(key.as_bytes()))),
                None => (*word, None),
            };
            records.push(SentRecord { fingerprint: fingerprint(name), key });
        }
    }
    let dues = due.into_iter().cycle().take(records.len()).collect();
    SendBatch { topic, partition, identity, connection, records, dues }
}

fn answer(operation: &Operation, text: &str) -> Answer {
    let words: Vec<&str> = text.split_whitespace().collect();
    let partition = |text: &str| PartitionId(number(text) as u32);
    match operation {
        Operation::Send(send) => {
            let (partition, base) = match text.split_once('@') {
                Some((number, base)) => (Some(partition(number)), base),
                None => (send.partition, text),
            };
            let base = (base != "ok").then(|| Offset(number(base)));
            Answer::Sent(SentAt { partition, base })
        }
        Operation::Read(_) => {
            let (records, bounds) = text.split_once('|').unwrap_or((text, ""));
            let mut bounds = bounds.split_whitespace().map(|text| Offset(number(text)));
            let (start, end) = (bounds.next(), bounds.next());
            Answer::Read(ReadOut { start, end, records: seen(records) })
        }
        Operation::Join { .. } => Answer::Joined { generation: number(text) as u32 },
        Operation::Committed { .. } => {
            Answer::Committed { offset: (text != "none").then(|| Offset(number(text))) }
        }
        Operation::Take(_) => Answer::Taken(words.into_iter().map(taken).collect()),
        Operation::Beat(_) if text == "none" => Answer::NoMember,
        Operation::Beat(_) => {
            let (generation, shares) = text.split_once(':').unwrap();
            let (own, give_up) = shares.split_once('/').unwrap_or((shares, ""));
            let (own, give_up) =
                (places(own.split_whitespace()), places(give_up.split_whitespace()));
            Answer::Told(Told { generation: number(generation) as u32, own, give_up })
        }
        Operation::Commit(_)
        | Operation::Reset { .. }
        | Operation::Settle(_)
        | Operation::Leave { .. }
        | Operation::Delay(_)
        | Operation::Claim(_) => {
            assert_eq!(text, "ok");
            Answer::Done
        }
    }
}

fn seen(text: &str) -> Vec<SeenRecord> {
    let one = |word: &str| {
        let (offset, name) = word.split_once(':').unwrap();
        let fingerprint = (name != "!").then(|| fingerprint(name));
        SeenRecord { offset: Offset(number(offset)), fingerprint }
    };
    text.split_whitespace().map(one).collect()
}

fn taken(word: &str) -> Taken {
    let (offset, record) = match word.split_once(':') {
        Some((offset, record)) => (Some(Offset(number(offset))), record),
        None => (None, word),
    };
    let (name, count) = record.split_once('*').unwrap();
    let partition = offset.map(|_| PartitionId(0));
    Taken { fingerprint: fingerprint(name), count: number(count) as u32, partition, offset }
}

fn note(words: &[&str]) -> Option<Note> {
    let name = |at: usize| Name::from(words[at]);
    let nodes = || words[1..].iter().map(|word| NodeId(number(word))).collect();
    Some(match words[0] {
        "drain" => Note::Drain,
        "trim" => {
            let (words, topic, partition) = place(words);
            let place = Place { topic, partition: partition? };
            Note::Trim { place, start: Offset(number(words[1])) }
        }
        "seek" => {
            let (_, topic, partition) = place(words);
            Note::Seek { client: name(1), place: Place { topic, partition: partition? } }
        }
        "dead" => {
            // Both by the same age.
            let not_before = Duration::from_secs(words.get(4).map_or(0, |_| number(words[4])));
            let (group, topic, into) = (name(1), name(2), name(3));
            Note::DeadLetters { group, topic, into, not_before, wanted_for: not_before }
        }
        "ahead" => Note::Ahead { by: Duration::from_secs(number(words[1])) },
        "keyed" => Note::Keyed { group: name(1) },
        "kept" => Note::KeptUntilDone { group: name(1), topic: name(2) },
        "reads" => {
            let partitions = number(words[3]) as u32;
            Note::Reads { group: name(1), topic: name(2), partitions }
        }
        "calm" => Note::Calm { group: name(1) },
        "stirred" => Note::Stirred { group: name(1) },
        "voters" => Note::Voters { shard: "s1".into(), voters: nodes() },
        node => return replica(node, &words[1..]),
    })
}

fn replica(node: &str, words: &[&str]) -> Option<Note> {
    let node = NodeId(node.strip_prefix('n')?.parse().ok()?);
    let (shard, words) = match words {
        [shard @ "s2", words @ ..] => (*shard, words),
        words => ("s1", words),
    };
    let hash = |at: usize| StateHash(u64::from_str_radix(words[at], 16).unwrap());
    let index = || LogIndex(number(words[1]));
    let saw = match words[0] {
        "starts" => Sight::Started,
        "votes" => {
            let vote = (words[2] != "-").then(|| NodeId(number(words[2])));
            Sight::Voted { term: Term(number(words[1])), vote }
        }
        "leads" => Sight::Led { term: Term(number(words[1])) },
        "commits" => {
            let term = Term(number(words[2].trim_start_matches('t')));
            Sight::Committed { index: index(), term, chain: hash(3) }
        }
        "applies" => Sight::Applied { index: index(), state: hash(2) },
        "holds" => Sight::Holds { index: index(), chain: hash(2) },
        _ => return None,
    };
    Some(Note::Replica { shard: shard.into(), node, saw })
}
