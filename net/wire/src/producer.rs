//! InitProducer: a producer id, under which repeated batches are recognised. The request is empty.

use barrage_model::{ProducerEpoch, ProducerId};

use crate::field::fields;

/// A fresh id; sequences start at 0 in every partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducerReply {
    /// The id.
    pub producer: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
}
fields!(InitProducerReply { producer, epoch });
