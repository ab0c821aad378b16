//! The one place where the broker's errors become codes of the native protocol.

use barrage_broker::{
    AdminError, ClaimError, ClaimRefusal, FetchError, Leader, ProduceError, QueueError, StreamError,
};
use barrage_wire::{ErrorCode, ErrorReply, Hint};

/// How long a client should wait when the server is full, in milliseconds.
const RETRY_AFTER_FULL_MS: u32 = 20;
/// How long a client should wait when the disk is full, in milliseconds.
const RETRY_AFTER_DISK_FULL_MS: u32 = 1000;

pub(crate) fn produce(error: &ProduceError) -> ErrorReply {
    let code = match error {
        ProduceError::UnknownPartition => ErrorCode::UnknownPartition,
        ProduceError::NotLeader { hint } => return not_leader(hint.as_ref()),
        ProduceError::BadBatch(_) | ProduceError::Unsupported { .. } => ErrorCode::InvalidBatch,
        ProduceError::TooLarge { .. } => ErrorCode::BatchTooLarge,
        ProduceError::OutOfOrderSequence { .. } => ErrorCode::OutOfOrderSequence,
        ProduceError::Fenced { .. } | ProduceError::NotHolder => ErrorCode::ProducerFenced,
        ProduceError::NoDelay => ErrorCode::InvalidArgument,
        ProduceError::DuplicateOutOfWindow => ErrorCode::DuplicateSequence,
        ProduceError::UnknownProducer => ErrorCode::UnknownProducer,
        ProduceError::ProducersFull | ProduceError::DelayedFull { .. } => ErrorCode::LimitReached,
        ProduceError::DelayIsOver { .. } => ErrorCode::DelayIsOver,
        ProduceError::QueueFull => return queue_full(error.to_string()),
        ProduceError::DiskFull => return disk_full(error.to_string()),
        ProduceError::Poisoned => ErrorCode::StorageFailed,
        ProduceError::Expired => ErrorCode::Expired,
        ProduceError::Timeout => ErrorCode::Timeout,
        ProduceError::Retry => ErrorCode::Retry,
        ProduceError::ShuttingDown => ErrorCode::ShuttingDown,
        ProduceError::NotOnAll { have, want } => {
            let hint = Hint::Copies { have: *have, want: *want };
            return ErrorReply::with_hint(ErrorCode::NotOnAll, error.to_string(), hint);
        }
    };
    ErrorReply::new(code, error.to_string())
}

pub(crate) fn fetch(error: &FetchError) -> ErrorReply {
    let code = match error {
        FetchError::UnknownPartition => ErrorCode::UnknownPartition,
        FetchError::OffsetOutOfRange { start, high_watermark } => {
            let hint = Hint::Offsets { start: *start, high_watermark: *high_watermark };
            return ErrorReply::with_hint(ErrorCode::OffsetOutOfRange, error.to_string(), hint);
        }
        FetchError::NotLeader { hint } => return not_leader(hint.as_ref()),
        FetchError::Damaged { .. } => ErrorCode::Damaged,
        FetchError::Io { .. } => ErrorCode::ReadFailed,
        FetchError::QueueFull => return queue_full(error.to_string()),
        FetchError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    ErrorReply::new(code, error.to_string())
}

pub(crate) fn queue(error: &QueueError) -> ErrorReply {
    let code = match error {
        QueueError::UnknownPartition => ErrorCode::UnknownPartition,
        QueueError::UnknownGroup => ErrorCode::UnknownGroup,
        QueueError::NotLeader { hint } => return not_leader(hint.as_ref()),
        QueueError::Invalid { .. } => ErrorCode::InvalidArgument,
        QueueError::DelayIsOver { .. } => ErrorCode::DelayIsOver,
        QueueError::Read(error) => return fetch(error),
        QueueError::QueueFull => return queue_full(error.to_string()),
        QueueError::DiskFull => return disk_full(error.to_string()),
        QueueError::Timeout => ErrorCode::Timeout,
        QueueError::Poisoned => ErrorCode::StorageFailed,
        QueueError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    ErrorReply::new(code, error.to_string())
}

pub(crate) fn claim(error: &ClaimError) -> ErrorReply {
    let code = match error {
        ClaimError::Refused(ClaimRefusal::Held { left_ms }) => {
            let milliseconds = u32::try_from(*left_ms).unwrap_or(u32::MAX);
            let hint = Hint::RetryAfter { milliseconds };
            return ErrorReply::with_hint(ErrorCode::ProducerHeld, error.to_string(), hint);
        }
        ClaimError::Refused(ClaimRefusal::ProducersFull) => ErrorCode::LimitReached,
        ClaimError::Refused(ClaimRefusal::Lost) => ErrorCode::ProducerFenced,
        ClaimError::Refused(ClaimRefusal::NotGlobal) => ErrorCode::InvalidArgument,
        ClaimError::Shard(error) => return queue(error),
    };
    ErrorReply::new(code, error.to_string())
}

pub(crate) fn stream(error: &StreamError) -> ErrorReply {
    let code = match error {
        StreamError::UnknownGroup => ErrorCode::UnknownGroup,
        StreamError::UnknownTopic { .. } => ErrorCode::UnknownTopic,
        StreamError::NotLeader { hint } => return not_leader(hint.as_ref()),
        StreamError::UnknownMember => ErrorCode::UnknownMember,
        StreamError::Fenced => ErrorCode::MemberFenced,
        StreamError::StaleGeneration => ErrorCode::StaleGeneration,
        StreamError::HasMembers => ErrorCode::GroupHasMembers,
        StreamError::OtherProtocol => ErrorCode::OtherProtocol,
        StreamError::Full => ErrorCode::LimitReached,
        StreamError::Invalid { .. } => ErrorCode::InvalidArgument,
        StreamError::QueueFull => return queue_full(error.to_string()),
        StreamError::DiskFull => return disk_full(error.to_string()),
        StreamError::Timeout => ErrorCode::Timeout,
        StreamError::Poisoned => ErrorCode::StorageFailed,
        StreamError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    ErrorReply::new(code, error.to_string())
}

pub(crate) fn admin(error: &AdminError) -> ErrorReply {
    let code = match error {
        AdminError::TopicExists => ErrorCode::TopicExists,
        AdminError::UnknownTopic => ErrorCode::UnknownTopic,
        AdminError::GroupExists => ErrorCode::GroupExists,
        AdminError::UnknownGroup => ErrorCode::UnknownGroup,
        AdminError::Invalid { .. } => ErrorCode::InvalidArgument,
        AdminError::LimitReached { .. } => ErrorCode::LimitReached,
        AdminError::NotLeader => ErrorCode::NotLeader,
        AdminError::DiskFull => return disk_full(error.to_string()),
        AdminError::QueueFull => return queue_full(error.to_string()),
        AdminError::Timeout => ErrorCode::Timeout,
        AdminError::Poisoned => ErrorCode::StorageFailed,
        AdminError::ShuttingDown => ErrorCode::ShuttingDown,
    };
    ErrorReply::new(code, error.to_string())
}

fn not_leader(leader: Option<&Leader>) -> ErrorReply {
    let hint = leader.map_or(Hint::None, |leader| Hint::Leader {
        node: leader.node,
        core: leader.core,
        address: leader.address.clone(),
    });
    ErrorReply::with_hint(
        ErrorCode::NotLeader,
        "this node does not lead the partition or group",
        hint,
    )
}

fn queue_full(message: String) -> ErrorReply {
    let hint = Hint::RetryAfter { milliseconds: RETRY_AFTER_FULL_MS };
    ErrorReply::with_hint(ErrorCode::QueueFull, message, hint)
}

fn disk_full(message: String) -> ErrorReply {
    let hint = Hint::RetryAfter { milliseconds: RETRY_AFTER_DISK_FULL_MS };
    ErrorReply::with_hint(ErrorCode::DiskFull, message, hint)
}

#[cfg(test)]
mod tests {
    use barrage_model::{CoreId, NodeId, Offset};

    use super::*;

    #[test]
    fn hints_travel_with_the_error() {
        let leader = Leader { node: NodeId(1), core: CoreId(2), address: "h:1".to_owned() };
        let error = produce(&ProduceError::NotLeader { hint: Some(leader) });
        assert_eq!(error.code, ErrorCode::NotLeader);
        let address = "h:1".to_owned();
        assert_eq!(error.hint, Hint::Leader { node: NodeId(1), core: CoreId(2), address });
        let range = FetchError::OffsetOutOfRange { start: Offset(3), high_watermark: Offset(9) };
        let error = fetch(&range);
        let hint = Hint::Offsets { start: Offset(3), high_watermark: Offset(9) };
        assert_eq!((error.code, error.hint), (ErrorCode::OffsetOutOfRange, hint));
        let error = produce(&ProduceError::NotOnAll { have: 2, want: 3 });
        assert!(!error.code.is_retriable() && !error.code.is_outcome_unknown());
        let hint = Hint::Copies { have: 2, want: 3 };
        assert_eq!((error.code, error.hint), (ErrorCode::NotOnAll, hint));
    }

    #[test]
    fn what_may_have_happened_is_told_apart_from_what_did_not() {
        for (error, unknown) in [
            (ProduceError::Timeout, true),
            (ProduceError::ShuttingDown, true),
            (ProduceError::Poisoned, true),
            (ProduceError::Expired, false),
            (ProduceError::Retry, false),
            (ProduceError::QueueFull, false),
        ] {
            assert_eq!(error.outcome_unknown(), unknown);
            assert_eq!(produce(&error).code.is_outcome_unknown(), unknown);
        }
    }
}
