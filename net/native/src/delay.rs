//! The words of delayed records: from the wire's to the broker's and back.
//!
//! Must never: judge; the broker does.

use barrage_broker as broker;
use barrage_broker::Broker;
use barrage_wire as wire;
use barrage_wire::{ErrorReply, Response};
use barrage_world::Instant;
use bytes::Bytes;

use crate::error;
use crate::options::Options;
use crate::translate;

/// A batch that is to be stored until its records are due.
pub(crate) fn produce_request(
    request: wire::ProduceDelayed<'_>,
    batch: Bytes,
    deadline: Instant,
) -> broker::ProduceRequest {
    let delay = match request.delay {
        wire::Delay::At(times) => broker::Delay::At(times),
        wire::Delay::After(times) => broker::Delay::After(times),
    };
    let acks = translate::acks(request.acks);
    broker::ProduceRequest { key: request.key, batch, delay: Some(delay), acks, deadline }
}

/// Cancels or moves records.
pub(crate) async fn change(
    broker: &Broker,
    request: wire::DelayChange,
) -> Result<Response<'static>, ErrorReply> {
    let results = broker.change_delayed(change_request(request)).await;
    let results = results.map_err(|e| error::queue(&e))?.into_iter().map(changed);
    Ok(Response::DelayChange(wire::DelayChangeReply { results: results.collect() }))
}

/// Lists records.
pub(crate) async fn list(
    broker: &Broker,
    request: wire::DelayList,
) -> Result<Response<'static>, ErrorReply> {
    let wire::DelayList { key, count_max } = request;
    let count_max = (count_max as usize).min(Options::PEEK_COUNT_MAX);
    let delayed = broker.delayed(key, count_max).await.map_err(|e| error::queue(&e))?;
    let broker::Delayed { count, oldest } = delayed;
    let row = |(id, due_ms)| wire::DelayedRecord { id, due_ms };
    let oldest = oldest.into_iter().map(row).collect();
    Ok(Response::DelayList(wire::DelayListReply { count, oldest }))
}

fn change_request(request: wire::DelayChange) -> broker::DelayRequest {
    let wire::DelayChange { key, fate, ids } = request;
    let change = match fate {
        wire::DelayedFate::Cancel => broker::DelayChange::Cancel,
        wire::DelayedFate::MoveTo(due_ms) => broker::DelayChange::MoveTo(due_ms),
        wire::DelayedFate::Postpone(by_ms) => broker::DelayChange::Postpone(by_ms),
    };
    broker::DelayRequest { key, ids, change }
}

fn changed(result: Result<(), broker::DelayError>) -> wire::DelayChanged {
    match result {
        Ok(()) => wire::DelayChanged::Done,
        Err(broker::DelayError::Gone) => wire::DelayChanged::Gone,
        Err(broker::DelayError::Unknown) => wire::DelayChanged::Unknown,
    }
}
