//! From a fingerprint to the message that carries it: eight to sixteen bytes per message.
//!
//! Owns: a table of message numbers, open addressing with linear steps. The fingerprints
//! themselves stay with the messages. Must never: depend on a random seed.
//! Invariants: at most half full; a number stands in it once.

use super::ledger::{Message, MessageId};
use super::name::Fingerprint;

const EMPTY: u32 = u32::MAX;
const SLOTS_MIN: usize = 64;

/// The table.
#[derive(Debug)]
pub(crate) struct Index {
    /// A power of two of them.
    slots: Vec<u32>,
    count: usize,
}

impl Index {
    pub(crate) fn new() -> Self {
        Self { slots: vec![EMPTY; SLOTS_MIN], count: 0 }
    }

    /// The message with this fingerprint.
    pub(crate) fn find(&self, fingerprint: Fingerprint, messages: &[Message]) -> Option<MessageId> {
        for place in self.probe(fingerprint) {
            let number = *self.slots.get(place)?;
            let message = messages.get(number as usize)?;
            if message.fingerprint == fingerprint {
                return Some(MessageId(number));
            }
        }
        None
    }

    /// Adds a message that is not in it; it stands in `messages` already.
    pub(crate) fn insert(&mut self, id: MessageId, messages: &[Message]) {
        assert!(id.0 != EMPTY, "the ledger refuses so many messages");
        if (self.count + 1) * 2 > self.slots.len() {
            self.grow(messages);
        }
        if let Some(message) = messages.get(id.0 as usize) {
            self.put(id.0, message.fingerprint);
            self.count += 1;
        }
    }

    fn grow(&mut self, messages: &[Message]) {
        let old = std::mem::take(&mut self.slots);
        self.slots = vec![EMPTY; old.len() * 2];
        for number in old.into_iter().filter(|number| *number != EMPTY) {
            if let Some(message) = messages.get(number as usize) {
                self.put(number, message.fingerprint);
            }
        }
    }

    fn put(&mut self, number: u32, fingerprint: Fingerprint) {
        let free = |place: &usize| self.slots.get(*place) == Some(&EMPTY);
        let place = self.probe(fingerprint).find(free);
        if let Some(slot) = place.and_then(|place| self.slots.get_mut(place)) {
            *slot = number;
        }
    }

    /// The places to look at, in order. The multiplication spreads small numbers, too.
    fn probe(&self, fingerprint: Fingerprint) -> impl Iterator<Item = usize> + use<> {
        const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
        let (count, mask) = (self.slots.len(), self.slots.len() - 1);
        let first = (fingerprint.0.wrapping_mul(GOLDEN) >> 32) as usize;
        (0..count).map(move |step| first.wrapping_add(step) & mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::ledger::BatchId;

    fn message(fingerprint: u64) -> Message {
        Message::new(Fingerprint(fingerprint), None, BatchId(0))
    }

    #[test]
    fn every_message_is_found_and_no_other() {
        let count = 10_000_u64;
        for stride in [1, 1 << 32, 0x1234_5678_9abc_def1] {
            let mut index = Index::new();
            let mut messages = Vec::new();
            for number in 0..count {
                messages.push(message(number.wrapping_mul(stride)));
                index.insert(MessageId(number as u32), &messages);
            }
            for number in 0..2 * count {
                let fingerprint = Fingerprint(number.wrapping_mul(stride));
                let want = (number < count).then_some(MessageId(number as u32));
                assert_eq!(index.find(fingerprint, &messages), want, "{number} of {stride}");
            }
            assert!(index.slots.len() >= 2 * index.count);
            assert!(index.slots.len() <= 4 * index.count);
        }
    }
}
