//! The history of a run while it goes on.
//!
//! Owns: its clock, the numbers of its calls, the one order of its events, the history file and
//! the checker, which judges as it goes, so that memory is bounded by what it keeps.
//! Must never: hold a record's bytes. Invariants: an invocation stands before its record goes out,
//! a completion after its answer came in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use barrage_model::{Offset, PartitionId};
use barrage_sim::history::{
    Answer, Call, Checker, Event, Identity, Name, Nanos, Note, Operation, Options, Place, ReadFrom,
    ReadOut, SeenRecord, SendBatch, SentAt, SentRecord, Verdict, What, Writer,
};

use crate::meter::Window;

/// What a completion says.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// Durable, at this offset if it is known.
    Ok(Option<Offset>),
    /// Surely not written.
    Fail(String),
    /// Nobody knows.
    Info(String),
}

/// Which window of the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A fault was applied.
    Fault,
    /// It was taken back.
    Heal,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Recorder {
    topic: Name,
    partitions: u32,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    next_call: u64,
    checker: Checker,
    writer: Writer<BufWriter<File>>,
    write_error: Option<io::Error>,
    /// Sends without an outcome: bounded by the producers' buffers.
    open: BTreeMap<u64, Sent>,
    fault: Window,
    heal: Window,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    partition: PartitionId,
    at: Nanos,
}

impl Recorder {
    /// Begins a history, in this file too.
    pub(crate) fn new(topic: &str, partitions: u32, file: &Path) -> anyhow::Result<Self> {
        let out = File::create(file).with_context(|| file.display().to_string())?;
        let inner = Inner {
            next_call: 0,
            checker: Checker::new(&Options::default()),
            writer: Writer::new(BufWriter::new(out))?,
            write_error: None,
            open: BTreeMap::new(),
            fault: Window::new(Nanos(0), partitions),
            heal: Window::new(Nanos(0), partitions),
        };
        let inner = Mutex::new(inner);
        Ok(Self { topic: topic.into(), partitions, began: Instant::now(), inner })
    }

    pub(crate) fn place(&self, partition: PartitionId) -> Place {
        Place::new(&self.topic, partition)
    }

    /// A record is about to be sent. Returns the call, which its outcome names.
    pub(crate) fn send(
        &self,
        client: &Name,
        connection: u32,
        partition: PartitionId,
        record: SentRecord,
    ) -> Call {
        let mut inner = self.inner();
        let at = self.now();
        let send = SendBatch {
            topic: self.topic.clone(),
            partition: Some(partition),
            // The client repeats under the numbers of an idempotent producer: once in all.
            identity: Identity::Once,
            connection: Some(connection),
            records: vec![record],
            dues: Vec::new(),
        };
        let call = inner.invoke(at, client, Operation::Send(send));
        inner.open.insert(call.0, Sent { partition, at });
        call
    }

    /// A send has its outcome.
    pub(crate) fn sent(&self, call: Call, ended: Ended) {
        let mut inner = self.inner();
        let at = self.now();
        let Some(sent) = inner.open.remove(&call.0) else { return };
        let what = match ended {
            Ended::Ok(base) => {
                let partition = Some(sent.partition);
                inner.fault.handle_acknowledged(sent.partition.0, sent.at, at);
                inner.heal.handle_acknowledged(sent.partition.0, sent.at, at);
                What::Ok { call, answer: Answer::Sent(SentAt { partition, base }) }
            }
            Ended::Fail(reason) => What::Fail { call, reason: reason.into() },
            Ended::Info(reason) => What::Info { call, reason: reason.into() },
        };
        inner.record(Event { at, what });
    }

    /// A reader was shown these.
    pub(crate) fn read(
        &self,
        client: &Name,
        partition: PartitionId,
        from: Option<Offset>,
        records: Vec<SeenRecord>,
    ) {
        let mut inner = self.inner();
        let at = self.now();
        let read = ReadFrom { place: self.place(partition), from };
        let call = inner.invoke(at, client, Operation::Read(read));
        let answer = Answer::Read(ReadOut { start: None, end: None, records });
        inner.record(Event { at, what: What::Ok { call, answer } });
    }

    /// Something was observed.
    pub(crate) fn note(&self, note: Note) {
        let mut inner = self.inner();
        let at = self.now();
        inner.record(Event { at, what: What::Note(note) });
    }

    /// Begins a window of the meter.
    pub(crate) fn mark(&self, mark: Mark) {
        let mut inner = self.inner();
        let window = Window::new(self.now(), self.partitions);
        match mark {
            Mark::Fault => inner.fault = window,
            Mark::Heal => inner.heal = window,
        }
    }

    /// The window since the mark.
    pub(crate) fn window(&self, mark: Mark) -> Window {
        let inner = self.inner();
        match mark {
            Mark::Fault => inner.fault.clone(),
            Mark::Heal => inner.heal.clone(),
        }
    }

    /// Time since the run began.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends the history and judges it.
    pub(crate) fn finish(&self) -> anyhow::Result<Verdict> {
        let mut inner = self.inner();
        let checker = std::mem::replace(&mut inner.checker, Checker::new(&Options::default()));
        let verdict = checker.finish();
        match inner.write_error.take() {
            Some(error) => Err(error).context("write the history"),
            None => Ok(verdict),
        }
    }

    fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn invoke(&mut self, at: Nanos, client: &Name, operation: Operation) -> Call {
        let call = Call(self.next_call);
        self.next_call += 1;
        self.record(Event { at, what: What::Invoke { call, client: client.clone(), operation } });
        call
    }

    fn record(&mut self, event: Event) {
        self.checker.observe(&event);
        if self.write_error.is_none() {
            self.write_error = self.writer.event(&event).err();
        }
    }
}

#[cfg(test)]
mod tests {
    use barrage_sim::history::{Fingerprint, Key, Rule};

    use super::*;

    /// What clients did, one after the other.
    enum Step {
        /// Record `0` goes to partition 0 over connection 1.
        Send(u64),
        /// It is acknowledged at this offset.
        Ok(u64, u64),
        Fail(u64),
        /// A reader is shown these, the first at this offset.
        Read(u64, &'static [u64]),
        Drain,
    }

    fn record_of(number: u64) -> SentRecord {
        SentRecord { fingerprint: fingerprint(number), key: Some(Key::of(b"k")) }
    }

    fn fingerprint(number: u64) -> Fingerprint {
        Fingerprint::of(Some(b"k"), Some(&number.to_le_bytes()))
    }

    fn check(what: &str, steps: &[Step], want: &[Rule]) {
        let folder = std::env::temp_dir().join(format!("chaos-recorder-{}", std::process::id()));
        let recorder = Recorder::new("t", 1, &folder).unwrap();
        let (partition, reader) = (PartitionId(0), Name::from("r"));
        for step in steps {
            match step {
                Step::Send(number) => {
                    let call = recorder.send(&Name::from("p"), 1, partition, record_of(*number));
                    // The tables number records from 0 in the order of their calls.
                    assert_eq!(call, Call(*number), "{what}");
                }
                Step::Ok(number, at) => {
                    recorder.sent(Call(*number), Ended::Ok(Some(Offset(*at))));
                }
                Step::Fail(number) => recorder.sent(Call(*number), Ended::Fail("no".to_owned())),
                Step::Read(first, numbers) => {
                    let seen = (*first..).zip(*numbers).map(|(offset, number)| SeenRecord {
                        offset: Offset(offset),
                        fingerprint: Some(fingerprint(*number)),
                    });
                    recorder.read(&reader, partition, None, seen.collect());
                }
                Step::Drain => recorder.note(Note::Drain),
            }
        }
        let verdict = recorder.finish().unwrap();
        let broken: Vec<_> = verdict.broken().collect();
        assert_eq!(broken, want, "{what}: {verdict}");
        std::fs::remove_file(&folder).unwrap();
    }

    #[test]
    fn what_clients_saw_is_judged() {
        use Step::{Drain, Fail, Ok, Read, Send};
        let two = || [Send(0), Send(1), Ok(0, 0), Ok(1, 1), Drain];
        let and = |last: Step| two().into_iter().chain([last]).collect::<Vec<_>>();
        check("all is there", &and(Read(0, &[0, 1])), &[]);
        check("the last is lost", &and(Read(0, &[0])), &[Rule::I1]);
        check("one is there twice", &and(Read(0, &[0, 1, 0])), &[Rule::I10]);
        check("another stands there", &and(Read(0, &[1, 0])), &[Rule::I4]);
        let turned = [Send(0), Send(1), Ok(0, 1), Ok(1, 0), Drain, Read(0, &[1, 0])];
        check("the order is turned round", &turned, &[Rule::I6]);
        check("a stranger", &and(Read(0, &[0, 1, 7])), &[Rule::I2]);
        let refused = [Send(0), Fail(0), Drain, Read(0, &[0])];
        check("what was refused is there", &refused, &[Rule::I2]);
        let unknown = [Send(0), Drain, Read(0, &[0])];
        check("nobody knew, and it is there", &unknown, &[]);
    }
}
