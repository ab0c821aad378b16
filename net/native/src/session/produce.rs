//! Batches on their way in: taken up in the order of their frames, answered when they are durable.
//!
//! Must never: copy a large batch.

use std::rc::Rc;

use barrage_broker::{ProduceError, Produced};
use barrage_wire::{Correlation, Opcode, ProduceDelayed, ProduceReply, ProduceRequest, Response};
use barrage_world::{buggify, planted, sleep, spawn};
use bytes::Bytes;

use super::{BATCH_SIZE_COPIED, Permit, REPLY_DELAY, Session};
use crate::{delay, error, translate};

impl Session {
    pub(super) fn produce(
        self: &Rc<Self>,
        correlation: Correlation,
        request: &ProduceRequest<'_>,
        body: &Bytes,
        permit: Permit,
    ) {
        let batch = taken_from(body, request.batch);
        let now = self.active.get();
        let deadline = translate::deadline(request.timeout_ms, now, &self.shared.options);
        let request = translate::produce_request(request, batch, deadline);
        // The broker takes the batch up in this call: the order of frames is the order of appends.
        if planted("native-append-order-lost") {
            // Wrong: which of two batches is appended first depends on the scheduler.
            let session = Rc::clone(self);
            drop(spawn(async move {
                let appended = session.shared.broker.produce(request);
                session.answer_produce(correlation, appended.await, permit, Opcode::Produce).await;
            }));
            return;
        }
        self.append(correlation, request, permit, Opcode::Produce);
    }

    pub(super) fn produce_delayed(
        self: &Rc<Self>,
        correlation: Correlation,
        request: ProduceDelayed<'_>,
        body: &Bytes,
        permit: Permit,
    ) {
        let batch = taken_from(body, request.batch);
        let now = self.active.get();
        let deadline = translate::deadline(request.timeout_ms, now, &self.shared.options);
        let request = delay::produce_request(request, batch, deadline);
        self.append(correlation, request, permit, Opcode::ProduceDelayed);
    }

    fn append(
        self: &Rc<Self>,
        correlation: Correlation,
        request: barrage_broker::ProduceRequest,
        permit: Permit,
        opcode: Opcode,
    ) {
        let appended = self.shared.broker.produce(request);
        let session = Rc::clone(self);
        drop(spawn(async move {
            session.answer_produce(correlation, appended.await, permit, opcode).await;
        }));
    }

    async fn answer_produce(
        self: &Rc<Self>,
        mut correlation: Correlation,
        appended: Result<Produced, ProduceError>,
        permit: Permit,
        opcode: Opcode,
    ) {
        if buggify("native-reply-delayed", 4) {
            sleep(REPLY_DELAY).await;
        }
        if planted("native-replies-out-of-order") {
            // Wrong: two replies change places.
            correlation.0 ^= 1;
        }
        let response = match appended {
            Ok(Produced { base_offset, log_time_ms, .. }) => {
                let reply = ProduceReply { base_offset, log_time_ms };
                match opcode {
                    Opcode::ProduceDelayed => Response::ProduceDelayed(reply),
                    _ => Response::Produce(reply),
                }
            }
            Err(error) => {
                Response::Error { opcode: opcode.request_code(), error: error::produce(&error) }
            }
        };
        let refused = matches!(response, Response::Error { .. });
        if refused && planted("native-permit-leaked") {
            // Wrong: a request that was refused keeps its share of the budget.
            std::mem::forget(permit);
        } else {
            drop(permit);
        }
        self.answer(correlation, &response);
    }
}

/// The batch that was decoded from a body, as shared bytes: a small one keeps no large body.
fn taken_from(body: &Bytes, batch: &[u8]) -> Bytes {
    match batch.len() <= BATCH_SIZE_COPIED {
        true => Bytes::copy_from_slice(batch),
        false => body.slice_ref(batch),
    }
}
