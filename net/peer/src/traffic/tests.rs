//! What becomes of calls, step by step: limits, deadlines, lost ways, strange answers.

use super::*;

const ME: Identity = Identity { cluster: crate::identity::ClusterId(9), node: NodeId(1) };
const PEER: NodeId = NodeId(2);
const SHARD: ShardId = ShardId(5);
const WAY: Way = Way { core: Some(CoreId(1)), urgency: Urgency::Bulk };
const SECOND: Duration = Duration::from_secs(1);

/// Room for two frames of 100 bytes in the queue, and two in flight.
fn traffic() -> Traffic {
    let frames = 2 * (Header::SIZE as u64 + 100);
    let options = Options {
        queued_bytes_max: frames,
        in_flight_bytes_max: frames,
        calls_max: 8,
        overdue_max: 3 * SECOND,
        ..Options::default()
    };
    Traffic::new(ME, PEER, options)
}

fn at(seconds: u64) -> Instant {
    Instant(seconds * 1_000_000_000)
}

fn admit(traffic: &mut Traffic, way: Way, size: usize) -> Result<CallId, CallError> {
    let body = Pieces::from(vec![7; size]);
    let message = Message { shard: SHARD, body, deadline_in: 2 * SECOND };
    let id = traffic.admit(way, message, at(0));
    traffic.check_invariants();
    id
}

/// Sends what may be sent; answers the numbers.
fn send(traffic: &mut Traffic, now: Instant) -> Vec<u64> {
    let mut batch = Batch::default();
    traffic.take(WAY, &mut batch, now);
    traffic.check_invariants();
    let bytes: Vec<u8> = batch.writes().iter().flatten().flat_map(|slice| slice.to_vec()).collect();
    let mut inbox = crate::inbox::Inbox::new(1 << 20);
    inbox.buffer().unwrap().extend_from_slice(&bytes);
    let frames = std::iter::from_fn(|| inbox.next_frame().unwrap());
    frames.map(|frame| frame.header.number).collect()
}

fn frame(kind: Kind, number: u64) -> Frame {
    let sender = Identity { node: PEER, ..ME };
    let header = Header { shard: SHARD, ..Header::new(kind, sender, ME.node, number) };
    Frame { header, body: Bytes::new() }
}

fn outcome(traffic: &mut Traffic, id: CallId) -> Option<Result<Bytes, CallError>> {
    match traffic.poll(id, Waker::noop()) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

#[test]
fn a_call_is_sent_answered_and_gone() {
    let mut traffic = traffic();
    let id = admit(&mut traffic, WAY, 100).unwrap();
    assert_eq!(send(&mut traffic, at(0)), [id.0]);
    assert_eq!(outcome(&mut traffic, id), None);
    let answer = Frame { body: Bytes::from_static(b"yes"), ..frame(Kind::Answer, id.0) };
    let answer = Frame { header: Header { body_size: 3, ..answer.header }, ..answer };
    assert_eq!(traffic.handle_frame(WAY, answer), Ok(None));
    assert_eq!(traffic.take_woken().len(), 1);
    assert_eq!(outcome(&mut traffic, id), Some(Ok(Bytes::from_static(b"yes"))));
    assert_eq!(traffic.load(), Load::default());
    assert!(traffic.calls.is_empty());
    assert_eq!(traffic.handle_time(at(100)), (Vec::new(), None));
}

#[test]
fn a_refusal_says_which() {
    let mut traffic = traffic();
    let id = admit(&mut traffic, WAY, 1).unwrap();
    send(&mut traffic, at(0));
    let refusal = Refusal::UnknownShard;
    let refused = traffic.handle_frame(WAY, frame(Kind::Refused(refusal), id.0));
    assert_eq!(refused, Ok(Some(refusal)));
    assert_eq!(outcome(&mut traffic, id), Some(Err(CallError::Refused(refusal))));
}

#[test]
fn what_waits_and_what_flies_is_bounded() {
    let mut traffic = traffic();
    let first: Vec<CallId> = (0..2).map(|_| admit(&mut traffic, WAY, 100).unwrap()).collect();
    assert_eq!(admit(&mut traffic, WAY, 100), Err(CallError::Full(328)));
    let other = Way { urgency: Urgency::Urgent, ..WAY };
    assert!(admit(&mut traffic, other, 100).is_ok(), "the other way has its own room");
    assert_eq!(send(&mut traffic, at(0)).len(), 2);
    let third = admit(&mut traffic, WAY, 100).unwrap();
    assert_eq!(send(&mut traffic, at(0)), [] as [u64; 0], "two are in flight");
    assert_eq!(traffic.cancel(first[0]), Some(WAY));
    assert_eq!(send(&mut traffic, at(0)), [third.0], "a dropped call frees its room");
    let giant = admit(&mut traffic, WAY, 100_000).unwrap();
    assert_eq!(admit(&mut traffic, WAY, 1), Err(CallError::Full(100_064)));
    for id in [first[1], third] {
        assert!(send(&mut traffic, at(0)).is_empty());
        traffic.handle_frame(WAY, frame(Kind::Answer, id.0)).unwrap();
    }
    assert_eq!(send(&mut traffic, at(0)), [giant.0], "a giant flies alone");
}

#[test]
fn calls_without_an_answer_are_bounded_in_number() {
    let mut traffic = traffic();
    for _ in 0..8 {
        let id = admit(&mut traffic, WAY, 0).unwrap();
        send(&mut traffic, at(0));
        traffic.cancel(id);
    }
    assert_eq!(admit(&mut traffic, WAY, 0), Err(CallError::Crowded(8)));
}

#[test]
fn a_cancelled_call_is_not_sent_and_its_answer_is_ignored() {
    let mut traffic = traffic();
    let ids: Vec<CallId> = (0..3).map(|_| admit(&mut traffic, WAY, 10).unwrap()).collect();
    traffic.cancel(ids[1]);
    assert_eq!(send(&mut traffic, at(0)), [ids[0].0, ids[2].0]);
    traffic.cancel(ids[0]);
    assert_eq!(traffic.check_owed(WAY, ids[0].0), Ok(()));
    assert_eq!(traffic.handle_frame(WAY, frame(Kind::Answer, ids[0].0)), Ok(None));
    assert_eq!(outcome(&mut traffic, ids[2]), None, "not its answer");
    traffic.check_invariants();
}

#[test]
fn strange_answers_are_found() {
    let mut traffic = traffic();
    let id = admit(&mut traffic, WAY, 1).unwrap();
    let check = |traffic: &mut Traffic, frame: Frame, expected: Strange| {
        assert_eq!(traffic.handle_frame(WAY, frame), Err(expected));
    };
    check(&mut traffic, frame(Kind::Answer, id.0), Strange::NotAsked);
    send(&mut traffic, at(0));
    check(&mut traffic, frame(Kind::Answer, id.0 + 1), Strange::NotAsked);
    check(&mut traffic, frame(Kind::Request, id.0), Strange::NotAnAnswer);
    let good = frame(Kind::Answer, id.0);
    let from = Frame { header: Header { from: NodeId(3), ..good.header }, ..good.clone() };
    check(&mut traffic, from, Strange::OtherNode);
    let to = Frame { header: Header { to: NodeId(3), ..good.header }, ..good.clone() };
    check(&mut traffic, to, Strange::OtherNode);
    let shard = Frame { header: Header { shard: ShardId(6), ..good.header }, ..good };
    check(&mut traffic, shard, Strange::OtherShard);
}

#[test]
fn the_second_answer_to_a_call_is_strange() {
    let mut traffic = traffic();
    let id = admit(&mut traffic, WAY, 1).unwrap();
    send(&mut traffic, at(0));
    assert_eq!(traffic.handle_frame(WAY, frame(Kind::Answer, id.0)), Ok(None));
    assert_eq!(traffic.handle_frame(WAY, frame(Kind::Answer, id.0)), Err(Strange::NotAsked));
}

#[test]
fn deadlines_end_calls_and_silence_ends_the_way() {
    let mut traffic = traffic();
    let id = admit(&mut traffic, WAY, 1).unwrap();
    assert_eq!(traffic.handle_time(at(1)), (Vec::new(), Some(at(2))));
    send(&mut traffic, at(1));
    assert_eq!(traffic.handle_time(at(2)), (Vec::new(), Some(at(5))));
    assert_eq!(outcome(&mut traffic, id), Some(Err(CallError::TimedOut)));
    assert_eq!(traffic.load(), Load::default());
    traffic.handle_moved(WAY, at(4));
    assert_eq!(traffic.handle_time(at(5)), (Vec::new(), Some(at(7))), "something moved");
    assert_eq!(traffic.handle_time(at(7)), (vec![WAY], None));
    traffic.handle_lost(WAY, &CallError::TimedOut);
    assert_eq!(traffic.handle_time(at(8)), (Vec::new(), None));
}

#[test]
fn a_long_call_excuses_those_behind_it() {
    let mut traffic = traffic();
    let message = Message { shard: SHARD, body: Pieces::default(), deadline_in: 30 * SECOND };
    let long = traffic.admit(WAY, message, at(0)).unwrap();
    let short = admit(&mut traffic, WAY, 1).unwrap();
    assert_eq!(send(&mut traffic, at(0)), [long.0, short.0]);
    assert_eq!(traffic.handle_time(at(20)), (Vec::new(), Some(at(30))));
    traffic.handle_frame(WAY, frame(Kind::Answer, long.0)).unwrap();
    assert_eq!(traffic.handle_time(at(20)).0, vec![WAY]);
}

#[test]
fn a_lost_way_ends_its_calls_and_no_others() {
    let mut traffic = traffic();
    let other = Way { core: Some(CoreId(0)), ..WAY };
    let sent = admit(&mut traffic, WAY, 1).unwrap();
    send(&mut traffic, at(0));
    let queued = admit(&mut traffic, WAY, 1).unwrap();
    let elsewhere = admit(&mut traffic, other, 1).unwrap();
    let down = CallError::Down("gone".to_owned());
    traffic.handle_lost(WAY, &down);
    traffic.check_invariants();
    assert_eq!(outcome(&mut traffic, sent), Some(Err(down.clone())));
    assert_eq!(outcome(&mut traffic, queued), Some(Err(down)));
    assert_eq!(outcome(&mut traffic, elsewhere), None);
    assert_eq!(traffic.handle_frame(WAY, frame(Kind::Answer, sent.0)), Err(Strange::NotAsked));
}

#[test]
fn calls_made_before_the_first_contact_go_to_their_cores_in_order() {
    let mut traffic = traffic();
    let nowhere = |urgency| Way { core: None, urgency };
    let bulk: Vec<CallId> =
        (0..3).map(|_| admit(&mut traffic, nowhere(Urgency::Bulk), 1).unwrap()).collect();
    let urgent = admit(&mut traffic, nowhere(Urgency::Urgent), 1).unwrap();
    traffic.cancel(bulk[0]);
    let ways = traffic.assign(|shard| CoreId((shard.0 % 4) as u16), at(0));
    traffic.check_invariants();
    assert_eq!(ways, [Way { urgency: Urgency::Urgent, ..WAY }, WAY]);
    assert_eq!(send(&mut traffic, at(0)), [bulk[1].0, bulk[2].0]);
    assert!(traffic.has_queued(Way { urgency: Urgency::Urgent, ..WAY }));
    assert_eq!(outcome(&mut traffic, urgent), None);
    assert_eq!(traffic.assign(|_| CoreId(0), at(0)), []);
}
