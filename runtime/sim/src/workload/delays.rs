//! Delayed records: until when they wait, who cancels and moves them, and that in the end none
//! waits.
//!
//! Owns: which records are known to wait, by the ids that the broker gave. Must never: change a
//! record that nobody was told of, but at the very end.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use barrage_model::{Offset, PartitionKey};
use barrage_wire::{
    Delay, DelayChange, DelayChanged, DelayList, DelayListReply, DelayedFate, ErrorCode, Request,
    Response,
};
use barrage_world::sim::Rng;
use barrage_world::{Instant, sleep, unix_time_ms};

use super::batch::Later;
use super::client::{Client, Refusal, Topic};
use super::draw::{between, milliseconds, pick};
use crate::history::{Call, Fingerprint, Nanos};

const PAUSE: RangeInclusive<Duration> = milliseconds(20)..=milliseconds(400);
/// Between two looks whether anything waits.
const LOOK_EVERY: Duration = milliseconds(200);
/// Whatever is due within this is waited for at the end.
const SOON_MS: u64 = 10_000;
/// What is not to come by itself while a run goes on.
const FAR_MS: u64 = 3_600_000;
/// How long a record that is due may wait while all is well.
const LATE_MAX: Duration = milliseconds(10_000);
/// Records changed at once, and listed.
const CHANGED_MAX: u64 = 4;
const LISTED_MAX: u32 = 1_000;
/// Clocks of brokers count whole milliseconds.
const ROUNDING: u64 = 1_000_000;

/// Records that are known to wait.
#[derive(Default)]
pub(crate) struct Waiting {
    known: RefCell<BTreeMap<(PartitionKey, Offset), Fingerprint>>,
    cancelled: RefCell<BTreeSet<(PartitionKey, Offset)>>,
}

impl Waiting {
    /// Records were stored, the first one under the id `first`.
    pub(crate) fn add(
        &self,
        key: PartitionKey,
        first: u64,
        records: impl Iterator<Item = Fingerprint>,
    ) {
        let ids = (first..).map(|id| (key, Offset(id)));
        self.known.borrow_mut().extend(ids.zip(records));
    }

    /// A few that wait in one partition, perhaps.
    fn draw(&self, random: &mut Rng) -> Option<(PartitionKey, Vec<Row>)> {
        let known = self.known.borrow();
        let nth = random.below(known.len().max(1) as u64) as usize;
        let (key, from) = known.keys().nth(nth).copied()?;
        let count = random.between(1, CHANGED_MAX) as usize;
        let rows = known.range((key, from)..).take_while(|((of, _), _)| *of == key).take(count);
        Some((key, rows.map(|((_, id), fingerprint)| (*id, *fingerprint)).collect()))
    }

    fn find(&self, key: PartitionKey, id: Offset) -> Option<Fingerprint> {
        self.known.borrow().get(&(key, id)).copied()
    }

    fn remove(&self, key: PartitionKey, id: Offset) {
        self.known.borrow_mut().remove(&(key, id));
    }
}

/// A record that waits: its id, and what it says.
type Row = (Offset, Fingerprint);

/// What is to become of records.
#[derive(Clone, Copy, Debug)]
enum Change {
    Cancel,
    MoveTo { in_ms: u64 },
    Postpone { by_ms: u64 },
}

impl Change {
    fn draw(random: &mut Rng) -> Self {
        let later_ms = draw_delay_ms(random);
        match random.below(3) {
            0 => Self::Cancel,
            1 => Self::MoveTo { in_ms: later_ms },
            _ => Self::Postpone { by_ms: later_ms },
        }
    }

    fn fate(self) -> DelayedFate {
        match self {
            Self::Cancel => DelayedFate::Cancel,
            Self::MoveTo { in_ms } => DelayedFate::MoveTo(now_ms() + in_ms),
            Self::Postpone { by_ms } => DelayedFate::Postpone(by_ms),
        }
    }

    /// When a record may come then.
    fn due(self) -> Option<Nanos> {
        match self {
            Self::Cancel => None,
            Self::MoveTo { in_ms: later_ms } | Self::Postpone { by_ms: later_ms } => {
                Some(due_in(later_ms))
            }
        }
    }
}

/// The driver's clock, milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(unix_time_ms()).unwrap_or(0)
}

fn due_in(later_ms: u64) -> Nanos {
    Nanos((Instant::now().0 + later_ms * 1_000_000).saturating_sub(ROUNDING))
}

fn draw_delay_ms(random: &mut Rng) -> u64 {
    match random.below(16) {
        0 => FAR_MS,
        1..=3 => random.between(0, 20),
        4..=9 => random.between(0, 2_000),
        _ => random.between(500, 8_000),
    }
}

/// Until when the records of a batch are to wait.
pub(crate) fn draw_later(random: &mut Rng, count: usize) -> Later {
    let delays_ms: Vec<u64> = match random.one_in(2) {
        true => vec![draw_delay_ms(random)],
        false => (0..count).map(|_| draw_delay_ms(random)).collect(),
    };
    let dues = delays_ms.iter().map(|delay_ms| due_in(*delay_ms));
    let dues = dues.cycle().take(count).collect();
    let delay = match random.one_in(3) {
        true => Delay::After(delays_ms),
        false => Delay::At(delays_ms.iter().map(|delay_ms| now_ms() + delay_ms).collect()),
    };
    Later { delay, dues }
}

/// Cancels and moves records until it is told to stop.
pub(crate) async fn keep_changing(mut client: Client) {
    while !client.is_stopped() {
        sleep(between(&mut client.random, &PAUSE)).await;
        let drawn = client.context.waiting.draw(&mut client.random);
        let Some((key, rows)) = drawn else { continue };
        let change = Change::draw(&mut client.random);
        apply(&mut client, key, &rows, change).await;
    }
    client.hang_up();
}

/// Changes records once.
async fn apply(client: &mut Client, key: PartitionKey, rows: &[Row], change: Change) {
    let witness = client.witness();
    let (name, due) = (client.name.clone(), change.due());
    let calls: Vec<Call> = rows
        .iter()
        .map(|(_, fingerprint)| witness.change_delay(&name, *fingerprint, due))
        .collect();
    let ids = rows.iter().map(|(id, _)| *id).collect();
    let asked_at = Instant::now();
    match ask(client, DelayChange { key, fate: change.fate(), ids }).await {
        Ok(results) if results.len() == calls.len() => {
            for ((call, result), (id, _)) in calls.into_iter().zip(results).zip(rows) {
                changed(client, call, (key, *id), result, change);
            }
        }
        Ok(results) => {
            witness.object(format!("{key}: {} results", results.len()));
            calls.into_iter().for_each(|call| witness.info(call, "no result"));
        }
        Err(refusal) => {
            calls.into_iter().for_each(|call| witness.refused(call, refusal.code()));
            match refusal {
                // A clock may be so far ahead.
                Refusal::Error(error) if error.code != ErrorCode::DelayIsOver => {
                    client.judge(&error, asked_at, &format!("change delays of {key}"));
                }
                _ => {}
            }
        }
    }
}

/// What came of one of them.
fn changed(
    client: &Client,
    call: Call,
    (key, id): (PartitionKey, Offset),
    result: DelayChanged,
    change: Change,
) {
    let (witness, waiting) = (client.witness(), &client.context.waiting);
    match result {
        DelayChanged::Done => {
            witness.done(call);
            if matches!(change, Change::Cancel) {
                witness.count(|counts| counts.cancelled += 1);
                waiting.remove(key, id);
                waiting.cancelled.borrow_mut().insert((key, id));
            } else {
                witness.count(|counts| counts.moved += 1);
            }
        }
        DelayChanged::Gone => {
            witness.count(|counts| counts.change_refused += 1);
            waiting.remove(key, id);
            witness.fail(call, "it does not wait any more");
        }
        DelayChanged::Unknown => {
            witness.object(format!("{key}: what was stored as {id} is said to be unknown"));
            witness.fail(call, "unknown");
        }
    }
}

async fn ask(client: &mut Client, change: DelayChange) -> Result<Vec<DelayChanged>, Refusal> {
    let (key, request) = (change.key, Request::DelayChange(change));
    let asked = client.ask_leader(key, &request, Duration::ZERO, |response| match response {
        Response::DelayChange(reply) => Some(reply.results.clone()),
        _ => None,
    });
    asked.await
}

/// Has everything that waits come or cancelled, until nothing waits; an error when that never is.
pub(crate) async fn clear_delays(
    mut client: Client,
    topics: Vec<Topic>,
    within: Duration,
) -> Result<(), String> {
    let (began, deadline) = (Instant::now(), Instant::now() + within);
    for key in topics.iter().flat_map(|topic| (0..topic.partitions).map(|one| topic.key(one))) {
        loop {
            let list = list(&mut client, key).await;
            match &list {
                Some(list) if list.count == 0 => break,
                Some(list) => {
                    if began.elapsed() > LATE_MAX {
                        object_to_late(&client, key, list);
                    }
                    clear(&mut client, key, list).await;
                }
                None => {}
            }
            if Instant::now() > deadline {
                client.hang_up();
                return Err(format!("liveness: delayed records of {key} wait still: {list:?}"));
            }
            sleep(LOOK_EVERY).await;
        }
    }
    client.hang_up();
    Ok(())
}

async fn list(client: &mut Client, key: PartitionKey) -> Option<DelayListReply> {
    let request = Request::DelayList(DelayList { key, count_max: LISTED_MAX });
    let asked = client.ask_leader(key, &request, Duration::ZERO, |response| match response {
        Response::DelayList(reply) => Some(reply.clone()),
        _ => None,
    });
    let reply = asked.await.ok()?;
    let listed = reply.oldest.len() as u64;
    if listed != reply.count.min(u64::from(LISTED_MAX)) {
        let count = reply.count;
        client.witness().object(format!("{key}: of {count} that wait {listed} are listed"));
    }
    for row in &reply.oldest {
        if client.context.waiting.cancelled.borrow().contains(&(key, row.id)) {
            client.witness().object(format!("I11: {} of {key} was cancelled, and waits", row.id));
        }
    }
    Some(reply)
}

/// While all is well nobody waits for long when it is due.
fn object_to_late(client: &Client, key: PartitionKey, list: &DelayListReply) {
    let early_ms = now_ms().saturating_sub(LATE_MAX.as_millis() as u64);
    if let Some(late) = list.oldest.iter().find(|row| row.due_ms < early_ms) {
        client.witness().object(format!("liveness: {key}: {late:?} waits, and is long due"));
    }
}

/// What is due in an hour comes now, or never.
async fn clear(client: &mut Client, key: PartitionKey, list: &DelayListReply) {
    let soon_ms = now_ms() + SOON_MS;
    let far = list.oldest.iter().filter(|row| row.due_ms > soon_ms);
    for row in far {
        match client.context.waiting.find(key, row.id) {
            Some(fingerprint) => {
                let now = Change::MoveTo { in_ms: 0 };
                let change = *pick(&mut client.random, &[Change::Cancel, now]);
                apply(client, key, &[(row.id, fingerprint)], change).await;
            }
            // Whoever sent it was never told where it is, and nobody else knows what it says.
            None => {
                let (fate, ids) = (DelayedFate::Cancel, vec![row.id]);
                drop(ask(client, DelayChange { key, fate, ids }).await);
            }
        }
    }
}
