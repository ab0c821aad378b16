//! Administrative errors on their way from one node to another: a number, and words where the
//! number alone does not say it.
//!
//! Owns: those numbers; they are for ever.
//! Must never: map two errors to one number; call undone what may be done.

use barrage_cluster::message::Answer;

use crate::api::AdminError;

/// What a beacon is answered whose sender is no member any more.
pub(crate) const REMOVED: u8 = 11;

/// The answer that tells an error.
pub(crate) fn answer(error: &AdminError) -> Answer {
    let (code, reason) = match error {
        AdminError::TopicExists => (1, String::new()),
        AdminError::UnknownTopic => (2, String::new()),
        AdminError::Invalid { reason } => (3, reason.clone()),
        AdminError::LimitReached { reason } => (4, reason.clone()),
        AdminError::NotLeader => (5, String::new()),
        AdminError::DiskFull => (6, String::new()),
        AdminError::QueueFull => (7, String::new()),
        AdminError::Timeout => (8, String::new()),
        AdminError::Poisoned => (9, String::new()),
        AdminError::ShuttingDown => (10, String::new()),
        AdminError::GroupExists => (12, String::new()),
        AdminError::UnknownGroup => (13, String::new()),
    };
    Answer::Refused { code, reason }
}

/// The error that an answer tells. One that a newer node tells is told in words.
pub(crate) fn error(code: u8, reason: String) -> AdminError {
    match code {
        1 => AdminError::TopicExists,
        2 => AdminError::UnknownTopic,
        3 => AdminError::Invalid { reason },
        4 => AdminError::LimitReached { reason },
        5 => AdminError::NotLeader,
        6 => AdminError::DiskFull,
        7 => AdminError::QueueFull,
        8 => AdminError::Timeout,
        9 => AdminError::Poisoned,
        // The command was under way when that node stopped: whoever leads next may carry it out.
        10 => AdminError::Timeout,
        12 => AdminError::GroupExists,
        13 => AdminError::UnknownGroup,
        other => AdminError::Invalid { reason: format!("refused with code {other}: {reason}") },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn errors_cross_nodes() {
        let reason = || "why".to_owned();
        let table = [
            AdminError::TopicExists,
            AdminError::UnknownTopic,
            AdminError::Invalid { reason: reason() },
            AdminError::LimitReached { reason: reason() },
            AdminError::NotLeader,
            AdminError::DiskFull,
            AdminError::QueueFull,
            AdminError::Timeout,
            AdminError::Poisoned,
            AdminError::GroupExists,
            AdminError::UnknownGroup,
        ];
        for expected in table {
            let Answer::Refused { code, reason } = answer(&expected) else { panic!("refused") };
            assert_eq!(error(code, reason), expected);
        }
    }

    /// The catalog's leader was stopped (`cluster` 1224) while it had a topic deleted. Taken for
    /// "not the leader" its answer had the order repeated, and its successor, which had carried the
    /// first one out, knew no such topic: its owner, who had asked once, was told so.
    #[test]
    fn what_a_stopping_leader_had_under_way_may_be_done() {
        let Answer::Refused { code, reason } = answer(&AdminError::ShuttingDown) else {
            panic!("refused")
        };
        assert_eq!(error(code, reason), AdminError::Timeout);
    }
}
