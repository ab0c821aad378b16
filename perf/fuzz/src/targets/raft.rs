//! What replicas keep and tell each other: memberships, checkpoints, requests, answers.
//!
//! The first byte of the input chooses: memberships and checkpoints, or messages. Checked: what
//! was read can be written and read again.

use barrage_commitlog::Entry;
use barrage_model::{LogId, LogIndex, Term};
use barrage_raft::fuzzing::{self, Checkpoint, Message, SHARD, TO, Voters};
use bytes::Bytes;

use super::sample;
use crate::meter::aside;
use crate::repair;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict, no_extra};

pub(super) const TARGET: Target =
    Target { name: "raft", input_bytes_max: 16 * 1024, run, memory_extra: no_extra, seeds, large };

/// Batches below this size are read when an entry is written, not only joined by their CRC.
const BATCH_BYTES_READ: usize = 16 * 1024;

fn run(input: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = input.split_first() else { return Verdict::Refused };
    let feed = if kind % 2 == 0 { stored } else { message };
    let right = aside(|| {
        let mut right = bytes.to_vec();
        if kind % 2 == 0 {
            repair::envelope(&mut right)
        } else {
            repair::message(&mut right)
        }
        right
    });
    feed(bytes);
    Verdict::from(feed(&right))
}

fn stored(bytes: &[u8]) -> bool {
    if let Some(voters) = Voters::decode(bytes) {
        aside(|| {
            let again = voters.encode().as_deref().and_then(Voters::decode);
            assert_eq!(again, Some(voters));
        });
        return true;
    }
    let Some(checkpoint) = Checkpoint::decode(bytes) else { return false };
    aside(|| {
        let again = checkpoint.encode();
        assert_eq!(again.as_deref().and_then(Checkpoint::decode), Some(checkpoint));
    });
    true
}

fn message(bytes: &[u8]) -> bool {
    let bytes = aside(|| Bytes::copy_from_slice(bytes));
    let Some(message) = Message::decode(&bytes, SHARD, TO) else { return false };
    aside(|| {
        let again = message.encode();
        assert!(again.is_some(), "a message that was read can be sent");
        let same = again.as_ref().and_then(|again| Message::decode(again, SHARD, TO));
        let is_read = bytes.len() < BATCH_BYTES_READ;
        assert!(same.is_some() || !is_read, "a message that was sent again is refused");
        let third = same.and_then(|same| same.encode());
        assert!(third == again || !is_read, "a message changes when it is sent again");
    });
    true
}

fn seeds() -> Vec<Seed> {
    let seed = |kind: u8, name: String, bytes: &[u8]| (name, [&[kind], bytes].concat());
    let memberships = fuzzing::memberships().into_iter().filter_map(|found| found.encode());
    let checkpoints = fuzzing::checkpoints(b"machine").into_iter().filter_map(|c| c.encode());
    let messages = fuzzing::messages(sample::entry(LogId { term: Term(4), index: LogIndex(7) }));
    let messages = messages.into_iter().filter_map(|message| message.encode());
    let mut seeds = Vec::new();
    seeds.extend((0..).zip(memberships).map(|(n, b)| seed(0, format!("membership-{n}"), &b)));
    seeds.extend((0..).zip(checkpoints).map(|(n, b)| seed(0, format!("checkpoint-{n}"), &b)));
    seeds.extend((0..).zip(messages).map(|(n, b)| seed(1, format!("message-{n}"), &b)));
    seeds
}

/// Many members, many entries.
fn large() -> Vec<Seed> {
    let count = LARGE_BYTES as u64 / 16;
    let entry = Entry { runs: Vec::new(), ..sample::entry(LogId::default()) };
    let command = Bytes::from(vec![1; LARGE_BYTES]);
    let long = Entry { command, ..entry.clone() };
    let cases = [
        ("voters", 0, fuzzing::membership_of(count, 0).encode()),
        ("learners", 0, fuzzing::membership_of(1, 2 * count).encode()),
        ("entries", 1, fuzzing::append_of(entry, LARGE_BYTES as u64 / 87).encode().map(Vec::from)),
        ("command", 1, fuzzing::append_of(long, 1).encode().map(Vec::from)),
    ];
    let seed = |(name, kind, bytes): (&str, u8, Option<Vec<u8>>)| {
        (name.to_owned(), [&[kind], &bytes.unwrap_or_default()[..]].concat())
    };
    cases.map(seed).into()
}
