//! The lane against a server that forgets, loses and refuses: what it tells must be the truth.
//!
//! The fake server is what the real one promises: per producer id it takes only the sequence that
//! comes next, answers repeats of the last five batches with their offset, and forgets on request.

use std::collections::HashMap;

use barrage_model::batch::{BatchBuilder, BatchView, Compression, NewRecord};
use barrage_wire::{ErrorCode, ErrorReply};

use super::*;

const LIMITS: LaneLimits = LaneLimits {
    in_flight_max: 5,
    delivery_timeout: Duration::from_secs(30),
    retry_pause_min: Duration::from_millis(20),
    retry_pause_max: Duration::from_secs(1),
};

/// What happens to one transmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Written and answered.
    Arrive,
    /// Written, the answer is lost with the connection.
    LoseAnswer,
    /// Lost on its way there.
    LoseRequest,
    /// The server says later.
    Busy,
    /// The server refuses it for good.
    Refuse,
    /// The server forgot the producer before it came.
    Forget,
    /// Given up as lost; the server reads it so many attempts later.
    Late(usize),
}

/// One partition of a server.
#[derive(Default)]
struct Server {
    log: Vec<String>,
    producers: HashMap<i64, Known>,
    late: Vec<(usize, Vec<u8>)>,
}

#[derive(Default)]
struct Known {
    epoch: i16,
    sequence_next: i32,
    recent: VecDeque<(i32, u64)>,
}

fn error(code: ErrorCode) -> ClientError {
    ClientError::Refused(ErrorReply::new(code, "said the test"))
}

fn lost() -> Reply {
    let error = ClientError::Disconnected { server: "fake".into(), cause: "test".into() };
    Reply::Retry { certain: false, after: None, error }
}

impl Server {
    /// What arrives late after `attempts` more attempts is there now.
    fn read_late(&mut self, attempts: usize) {
        let all = std::mem::take(&mut self.late);
        for (after, bytes) in all {
            match after.checked_sub(attempts) {
                Some(after) => self.late.push((after, bytes)),
                None => drop(self.append(&bytes)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8], fate: Fate) -> Reply {
        self.read_late(1);
        match fate {
            Fate::LoseRequest => return lost(),
            Fate::Busy => {
                let error = error(ErrorCode::QueueFull);
                return Reply::Retry { certain: true, after: None, error };
            }
            Fate::Refuse => {
                let error = error(ErrorCode::InvalidBatch);
                return Reply::Rejected { certain: true, error };
            }
            // A producer whose sequence 0 may still be repeated is not forgotten: no server could
            // tell that repetition from a beginning, which is why they keep producers for long.
            Fate::Forget => self.producers.retain(|_, known| known.sequence_next <= 10),
            Fate::Late(after) => {
                self.late.push((after, bytes.to_vec()));
                return lost();
            }
            Fate::Arrive | Fate::LoseAnswer => {}
        }
        let reply = self.append(bytes);
        if fate == Fate::LoseAnswer { lost() } else { reply }
    }

    fn append(&mut self, bytes: &[u8]) -> Reply {
        let view = BatchView::check(bytes).unwrap();
        let (id, epoch) = (view.producer_id().0, view.producer_epoch().0);
        let sequence = view.base_sequence().0;
        if !self.producers.contains_key(&id) && sequence != 0 {
            return Reply::UnknownProducer { error: error(ErrorCode::UnknownProducer) };
        }
        let known = self.producers.entry(id).or_insert(Known { epoch, ..Known::default() });
        if epoch < known.epoch {
            return Reply::Rejected { certain: true, error: error(ErrorCode::ProducerFenced) };
        }
        if epoch > known.epoch && sequence == 0 {
            *known = Known { epoch, ..Known::default() };
        }
        if epoch > known.epoch {
            return Reply::OutOfOrder { error: error(ErrorCode::OutOfOrderSequence) };
        }
        if let Some((_, offset)) = known.recent.iter().find(|(first, _)| *first == sequence) {
            return Reply::Acked { base_offset: Offset(*offset) };
        }
        if sequence != known.sequence_next {
            return Reply::OutOfOrder { error: error(ErrorCode::OutOfOrderSequence) };
        }
        let offset = self.log.len() as u64;
        known.sequence_next += view.record_count() as i32;
        known.recent.push_back((sequence, offset));
        if known.recent.len() > 5 {
            known.recent.pop_front();
        }
        self.log.extend(values(bytes));
        Reply::Acked { base_offset: Offset(offset) }
    }
}

fn values(bytes: &[u8]) -> Vec<String> {
    let records = batch::records(bytes, &Default::default()).unwrap();
    let text = |value: Option<&[u8]>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    records.iter().map(|record| text(record.unwrap().value)).collect()
}

fn sealed(name: &str, created: Duration) -> Sealed<Vec<String>> {
    let mut builder = BatchBuilder::new(Compression::None, 0);
    let waiting = vec![format!("{name}a"), format!("{name}b")];
    for value in &waiting {
        let record = NewRecord { value: Some(value.as_bytes()), ..NewRecord::default() };
        builder.push(&record).unwrap();
    }
    let record_count = builder.count();
    Sealed { bytes: builder.finish().unwrap(), record_count, created, delay: None, waiting }
}

fn fresh(lane: &mut Lane<Vec<String>>, next: &mut i64) {
    if lane.wants_identity() {
        *next += 1;
        lane.handle_identity(Identity { id: ProducerId(*next), epoch: ProducerEpoch(0) });
    }
}

/// Runs a lane until it is idle; answers come in order, the fate of each is chosen by `fate`.
fn run(
    count: usize,
    fate: impl FnMut(&Transmission) -> Fate,
) -> (Server, Vec<Completed<Vec<String>>>) {
    run_paced(LIMITS, (count, count), fate)
}

/// As `run`, with so many of the batches coming per round.
fn run_paced(
    limits: LaneLimits,
    (count, per_round): (usize, usize),
    mut fate: impl FnMut(&Transmission) -> Fate,
) -> (Server, Vec<Completed<Vec<String>>>) {
    let mut lane = Lane::new(PartitionId(0), limits);
    let (mut server, mut done, mut ids) = (Server::default(), Vec::new(), 0);
    let mut now = Duration::ZERO;
    let mut names = 0..count;
    while !lane.is_idle() || !names.is_empty() {
        for n in names.by_ref().take(per_round) {
            lane.enqueue(sealed(&n.to_string(), now));
        }
        fresh(&mut lane, &mut ids);
        let mut flying = VecDeque::new();
        while let Some(transmission) = lane.poll_transmit(now) {
            flying.push_back(transmission);
        }
        assert!(flying.len() <= LIMITS.in_flight_max);
        for transmission in flying {
            let reply = server.take(&transmission.bytes, fate(&transmission));
            done.extend(lane.handle_reply(now, transmission.number, reply));
        }
        now += Duration::from_millis(10);
        while let Some(completed) = lane.poll_expired(now) {
            done.push(completed);
        }
    }
    server.read_late(usize::MAX);
    (server, done)
}

/// What the lane told must be what the server holds.
fn check_truth(server: &Server, done: &[Completed<Vec<String>>], context: &str) {
    let mut places = Vec::new();
    for completed in done {
        let found: Vec<_> =
            (0..server.log.len()).filter(|at| server.log[*at] == completed.waiting[0]).collect();
        match &completed.outcome {
            Outcome::Acked { base_offset } => {
                assert_eq!(found, [base_offset.0 as usize], "{context}: once, where it was told");
                places.push(found[0]);
            }
            Outcome::Stored { .. } => panic!("{context}: this server remembers what is asked"),
            Outcome::Failed { .. } => {
                assert!(found.is_empty(), "{context}: failed means not written");
            }
            Outcome::Unknown { .. } => {
                assert!(found.len() <= 1, "{context}: never twice");
                places.extend(found);
            }
        }
    }
    let mut order = server.log.clone();
    order.sort_by_key(|value| value[..value.len() - 1].parse::<u32>().unwrap());
    assert_eq!(server.log, order, "{context}: in the order of sending");
    assert_eq!(places.len() * 2, server.log.len(), "{context}: nothing the caller did not send");
}

fn outcomes(done: &[Completed<Vec<String>>]) -> String {
    let letter = |completed: &Completed<Vec<String>>| match completed.outcome {
        Outcome::Acked { .. } => 'A',
        Outcome::Failed { .. } => 'F',
        Outcome::Unknown { .. } => 'U',
        Outcome::Stored { .. } => 'S',
    };
    let mut sorted: Vec<_> = done.iter().collect();
    sorted.sort_by_key(|completed| completed.waiting[0].clone());
    sorted.into_iter().map(letter).collect()
}

#[test]
fn each_fate_has_its_outcome() {
    // The fates of the first transmissions, one by one; all later ones arrive.
    use Fate::{Arrive, Busy, Forget, LoseAnswer, LoseRequest, Refuse};
    let table: &[(&[Fate], &str)] = &[
        (&[], "AAAAAA"),
        (&[LoseAnswer], "AAAAAA"),
        (&[LoseRequest], "AAAAAA"),
        (&[Busy], "AAAAAA"),
        (&[Arrive, LoseAnswer, LoseAnswer, LoseAnswer, LoseAnswer], "AAAAAA"),
        (&[Arrive, LoseRequest, LoseRequest, Busy, Busy], "AAAAAA"),
        (&[Busy, Arrive, Busy, Arrive, Busy, Busy, Busy], "AAAAAA"),
        (&[Refuse], "FAAAAA"),
        (&[Arrive, Refuse, Refuse], "AFFAAA"),
        (&[Arrive, Arrive, Forget], "AAAAAA"),
        // Written or not before the refusal: nobody can know.
        (&[LoseAnswer, Busy, Busy, Busy, Busy, Refuse], "UAAAAA"),
        (&[LoseRequest, Busy, Busy, Busy, Busy, Refuse], "UAAAAA"),
    ];
    for (fates, expected) in table {
        let mut fates_left = fates.iter().copied();
        let (server, done) = run(6, |_| fates_left.next().unwrap_or(Arrive));
        let context = format!("{fates:?}");
        check_truth(&server, &done, &context);
        assert_eq!(outcomes(&done), *expected, "{context}");
    }
}

#[test]
fn when_time_is_over_unsent_is_failed_and_unanswered_is_unknown() {
    let (server, done) = run(7, |_| Fate::Busy);
    check_truth(&server, &done, "busy for ever");
    assert_eq!(outcomes(&done), "FFFFFFF");
    let (server, done) = run(7, |_| Fate::LoseRequest);
    check_truth(&server, &done, "unreachable for ever");
    assert_eq!(outcomes(&done), "UUUUUFF", "five were sent and may have arrived");
    assert!(done.iter().all(|completed| completed.at >= LIMITS.delivery_timeout));
}

#[test]
fn repeats_carry_the_same_bytes() {
    let mut seen: HashMap<u64, Bytes> = HashMap::new();
    let mut turn = 0;
    let (server, done) = run(8, |transmission| {
        turn += 1;
        let first = seen.entry(transmission.number.0).or_insert(transmission.bytes.clone());
        assert_eq!(*first, transmission.bytes, "same producer, same sequence");
        if turn % 3 == 0 { Fate::LoseAnswer } else { Fate::Arrive }
    });
    check_truth(&server, &done, "every third answer lost");
    assert_eq!(outcomes(&done), "AAAAAAAA");
}

#[test]
fn pauses_between_attempts_grow_and_follow_the_server() {
    let mut lane = Lane::new(PartitionId(0), LIMITS);
    lane.enqueue(sealed("0", Duration::ZERO));
    fresh(&mut lane, &mut 0);
    let mut now = Duration::ZERO;
    let asked = Some(Duration::from_millis(300));
    let steady = [(None, 20); 5];
    let table = [(None, 40), (asked, 300), (None, 160), (None, 320), (None, 640), (None, 1000)];
    for (after, expected) in steady.into_iter().chain(table) {
        let transmission = lane.poll_transmit(now).unwrap();
        let reply = Reply::Retry { certain: true, after, error: error(ErrorCode::QueueFull) };
        assert!(lane.handle_reply(now, transmission.number, reply).is_none());
        let expected = now + Duration::from_millis(expected);
        assert_eq!(lane.deadline(now), Some(expected));
        assert!(!lane.is_ready(expected - Duration::from_millis(1)));
        assert!(lane.is_ready(expected));
        now = expected;
    }
}

#[test]
fn a_reply_after_the_deadline_frees_its_place_and_tells_nothing() {
    let mut lane = Lane::new(PartitionId(0), LIMITS);
    lane.enqueue(sealed("0", Duration::ZERO));
    fresh(&mut lane, &mut 0);
    let transmission = lane.poll_transmit(Duration::ZERO).unwrap();
    let expired = lane.poll_expired(LIMITS.delivery_timeout).unwrap();
    assert!(matches!(expired.outcome, Outcome::Unknown { .. }));
    let late = Reply::Acked { base_offset: Offset(0) };
    let now = LIMITS.delivery_timeout;
    assert!(lane.handle_reply(now, transmission.number, late).is_none());
    // The sequences have a gap now, which the given up attempt may still fill: the next batch goes
    // out under another epoch, and fences that attempt.
    lane.enqueue(sealed("1", now));
    let next = lane.poll_transmit(now).unwrap();
    let view = BatchView::check(&next.bytes).unwrap();
    assert_eq!((view.producer_id(), view.producer_epoch()), (ProducerId(1), ProducerEpoch(1)));
    assert_eq!(view.base_sequence(), Sequence(0));
}

#[test]
fn whatever_happens_it_tells_the_truth() {
    const SEEDS: u64 = 3_000;
    for seed in 1..=SEEDS {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        // A forgetful server breaks idempotence for batches of unknown outcome by itself, and the
        // lane must then say unknown; it is drawn seldom, so that the rest is reached too.
        let (server, done) = run(12, |_| match draw(20) {
            0..=7 => Fate::Arrive,
            8..=11 => Fate::LoseAnswer,
            12..=14 => Fate::LoseRequest,
            15..=17 => Fate::Busy,
            18 => Fate::Refuse,
            _ if seed % 3 == 0 => Fate::Forget,
            _ => Fate::Busy,
        });
        assert_eq!(done.len(), 12, "seed {seed}");
        check_truth(&server, &done, &format!("seed {seed}"));
    }
}

/// A leader that was stopped, or cut off, reads what was sent to it when it goes on: after the
/// client gave those attempts up, sent the batches elsewhere, or gave the batches up altogether.
#[test]
fn what_arrives_late_is_neither_twice_nor_out_of_order() {
    const SEEDS: u64 = 6_000;
    let limits = LaneLimits { delivery_timeout: Duration::from_millis(120), ..LIMITS };
    let (mut unknown, mut acked) = (0, 0);
    for seed in 1..=SEEDS {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (server, done) = run_paced(limits, (30, 1), |_| match draw(20) {
            0..=5 => Fate::Arrive,
            6..=7 => Fate::LoseAnswer,
            8..=9 => Fate::LoseRequest,
            10..=11 => Fate::Busy,
            _ => Fate::Late(draw(20) as usize),
        });
        check_truth(&server, &done, &format!("seed {seed}"));
        unknown += outcomes(&done).matches('U').count();
        acked += outcomes(&done).matches('A').count();
    }
    assert!(unknown > 1_000 && acked > 1_000, "{unknown} unknown, {acked} acked: nothing is shown");
}

#[test]
fn stored_with_less_than_was_asked_is_told_so_and_not_sent_again() {
    let mut lane = Lane::new(PartitionId(0), LIMITS);
    lane.enqueue(sealed("0", Duration::ZERO));
    fresh(&mut lane, &mut 0);
    let sent = lane.poll_transmit(Duration::ZERO).unwrap();
    let reply = Reply::Forgotten { error: error(ErrorCode::NotOnAll) };
    let done = lane.handle_reply(Duration::ZERO, sent.number, reply).unwrap();
    assert!(matches!(done.outcome, Outcome::Stored { .. }), "{:?}", done.outcome);
    assert!(lane.is_idle());
    lane.enqueue(sealed("1", Duration::ZERO));
    let next = lane.poll_transmit(Duration::ZERO).unwrap();
    assert_eq!(BatchView::check(&next.bytes).unwrap().base_sequence(), Sequence(2));
}
