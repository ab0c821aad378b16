//! A data shard: its commands, its checkpoint, what commands do to it; and a node's identity.
//!
//! The first byte of the input chooses: one command, one checkpoint, an identity, or a history,
//! which is a checkpoint and commands; commands and the parts of a checkpoint are each behind a
//! `u16` length. Checked: what was read is
//! written as something that reads the same; apply is total, and its result can be stored.
//!
//! A checkpoint becomes a state, and a history makes one. A state takes more memory than its bytes,
//! most of it for partitions with one producer each; how many there may be is bounded where it is
//! read. So the rule holds for commands, and states have a factor of their own.

use barrage_broker::fuzzing::{self, Command, State};

use super::history;
use crate::meter::aside;
use crate::target::{LARGE_BYTES, Seed, Target, Verdict};

pub(super) const TARGET: Target =
    Target { name: "shard", input_bytes_max: 4 * 1024, run, memory_extra, seeds, large };

const CHECKPOINT: u8 = 1;
const HISTORY: u8 = 3;
/// How a part of a checkpoint begins.
const PART: u8 = 4;
/// With producers; with leases; with dead letters; with members and offsets; with delayed records.
const CHECKPOINTS_AFTER: [usize; 5] = [1, 5, 6, 9, 14];
/// A partition with a producer is about 100 bytes, and becomes a node of 1.4 KiB.
const STATE_BYTES_PER_INPUT_BYTE: usize = 12;
/// A row of a command becomes a producer of 200 bytes, and is kept while its run may be undone.
const HISTORY_BYTES_PER_INPUT_BYTE: usize = 64;
/// A member that comes to a stream group may be given all the partitions of a cluster: 200,000,
/// in three sets of 16 bytes each and in the index of who has them.
const HISTORY_BYTES_OF_MEMBERS: usize = 48 << 20;

fn memory_extra(input: &[u8]) -> usize {
    match input.first().map(|kind| kind % 4) {
        Some(CHECKPOINT) => STATE_BYTES_PER_INPUT_BYTE * input.len(),
        Some(HISTORY) => HISTORY_BYTES_PER_INPUT_BYTE * input.len() + HISTORY_BYTES_OF_MEMBERS,
        _ => 0,
    }
}

fn run(input: &[u8]) -> Verdict {
    let Some((&kind, bytes)) = input.split_first() else { return Verdict::Refused };
    let feed = match kind % 4 {
        0 => command,
        CHECKPOINT => return Verdict::from(checkpoint(bytes)),
        2 => return Verdict::from(fuzzing::is_identity(bytes)),
        _ => return Verdict::from(apply(bytes)),
    };
    let right = aside(|| history::repaired(bytes));
    feed(bytes);
    Verdict::from(feed(&right))
}

fn command(bytes: &[u8]) -> bool {
    let Some(command) = Command::decode(bytes) else { return false };
    aside(|| assert_eq!(Command::decode(&command.encode()), Some(command)));
    true
}

fn checkpoint(bytes: &[u8]) -> bool {
    let parts = aside(|| history::read(bytes));
    let Some(state) = State::decode(&parts) else { return false };
    aside(|| assert_eq!(State::decode(&state.encode()), Some(state)));
    true
}

fn apply(bytes: &[u8]) -> bool {
    let steps = aside(|| history::read(bytes));
    let is_command = |step: &Vec<u8>| step.first() != Some(&PART);
    let (parts, commands) =
        steps.split_at(steps.iter().position(is_command).unwrap_or(steps.len()));
    let mut state = State::decode(parts).unwrap_or_default();
    let mut understood = false;
    for (step, time) in commands.iter().zip(0_i64..) {
        // Now and then a jump over what makes producers be forgotten.
        let log_time_ms = time * 7_000_000;
        let small = aside(|| Command::decode(step).map(|read| read.with_small_leases().encode()));
        understood |= state.apply(log_time_ms, small.as_ref().unwrap_or(step));
    }
    aside(|| assert_eq!(State::decode(&state.encode()), Some(state)));
    understood
}

fn seeds() -> Vec<Seed> {
    let mut state = State::default();
    let mut steps = state.encode();
    let whole = |state: &State| [&[CHECKPOINT], &history::write(&state.encode())[..]].concat();
    let mut seeds = vec![
        ("empty".to_owned(), whole(&state)),
        ("identity".to_owned(), b"\x02{\"format\":1,\"node\":1,\"cluster\":\"00ff\"}".to_vec()),
    ];
    for (number, command) in fuzzing::commands().into_iter().enumerate() {
        let bytes = command.encode();
        seeds.push((format!("command-{number}"), [&[0], &bytes[..]].concat()));
        assert!(state.apply(5, &bytes), "a sample command is understood");
        steps.push(bytes);
        if CHECKPOINTS_AFTER.contains(&number) {
            seeds.push((format!("checkpoint-{number}"), whole(&state)));
        }
    }
    seeds.push(("history".to_owned(), [&[HISTORY], &history::write(&steps)[..]].concat()));
    seeds
}

/// Commands and states of many rows.
fn large() -> Vec<Seed> {
    let rows = LARGE_BYTES as u32 / 20;
    let commands = fuzzing::commands_of(rows).into_iter().map(|command| command.encode());
    let states = [
        fuzzing::state_of(rows, 0),
        fuzzing::state_of(1, rows),
        fuzzing::state_of(rows / 5, 1),
        fuzzing::leased_of(1, 10_000),
        fuzzing::leased_of(rows / 10, 1),
    ];
    let mut seeds: Vec<Seed> = (0..)
        .zip(commands)
        .map(|(number, bytes): (u32, _)| (format!("command-{number}"), [&[0], &bytes[..]].concat()))
        .collect();
    seeds.extend((0..).zip(states).map(|(number, state): (u32, _)| {
        let parts = history::write(&state.encode());
        (format!("state-{number}"), [&[CHECKPOINT], &parts[..]].concat())
    }));
    seeds
}
