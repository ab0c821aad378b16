//! Cutting the byte stream of a connection into frames, and reading the requests in them.

use std::hint::black_box;

use anyhow::{Result, ensure};
use barrage_broker::counting::partition;
use barrage_model::limits::FRAME_BYTES_MAX;
use barrage_model::{GroupId, Offset};
use barrage_wire::{
    Acks, Correlation, FetchRequest, FrameDecoder, ProduceRequest, QueueReceive, QueueSettle,
    Receipt, Request, Settlement,
};
use bytes::BytesMut;

use crate::{Task, batches};

/// Receipts that are settled at once.
const RECEIPTS: u32 = 10;
/// Requests of an operation: one of each kind.
const REQUESTS: usize = 4;

/// An operation is four requests: produce, fetch, receive and ack.
pub(crate) fn decode(task: Task) -> Result<()> {
    let mut decoder = FrameDecoder::new(u32::try_from(FRAME_BYTES_MAX)?);
    let batch = batches::batch(1)?;
    let mut out = BytesMut::new();
    for request in requests(&batch) {
        request.encode(Correlation(7), &mut out);
    }
    for _ in 0..task.prepared {
        decoder.push(&out);
    }
    for _ in 0..task.done {
        for _ in 0..REQUESTS {
            let frame = decoder.next_frame()?;
            let Some(frame) = frame else { anyhow::bail!("a frame is missing") };
            black_box(Request::decode(&frame.header, &frame.body)?);
        }
    }
    let left = (task.prepared - task.done) as usize;
    ensure!(decoder.buffered() == left * out.len(), "all others are left");
    Ok(())
}

fn requests(batch: &[u8]) -> [Request<'_>; REQUESTS] {
    let (key, group) = (partition(3), GroupId(1));
    let receipt = |at| Receipt { offset: Offset(u64::from(at)), tag: at };
    [
        Request::Produce(ProduceRequest { key, acks: Acks::Quorum, timeout_ms: 0, batch }),
        Request::Fetch(FetchRequest {
            key,
            offset: Offset(1_000),
            bytes_max: 1 << 20,
            bytes_min: 1,
            wait_ms: 500,
        }),
        Request::QueueReceive(QueueReceive {
            key,
            group,
            count_max: RECEIPTS,
            bytes_max: 1 << 20,
            visibility_ms: None,
            wait_ms: 500,
        }),
        Request::QueueSettle(QueueSettle {
            key,
            group,
            settlement: Settlement::Ack,
            receipts: (0..RECEIPTS).map(receipt).collect(),
        }),
    ]
}
