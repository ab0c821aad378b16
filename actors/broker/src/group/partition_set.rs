//! Partitions, sorted and each once.
//!
//! Owns: the operations of sets on them. Invariants: a clone shares the memory; what changes is
//! made anew, which happens when partitions move and not otherwise.

use std::rc::Rc;

use barrage_model::PartitionKey;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PartitionSet(Rc<[PartitionKey]>);

impl PartitionSet {
    pub(crate) fn as_slice(&self) -> &[PartitionKey] {
        &self.0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = PartitionKey> {
        self.0.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn contains(&self, key: PartitionKey) -> bool {
        self.0.binary_search(&key).is_ok()
    }

    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.iter().all(|key| other.contains(key))
    }

    /// What is here and not there.
    pub(crate) fn without(&self, other: &Self) -> Self {
        Self(self.iter().filter(|key| !other.contains(*key)).collect())
    }

    /// What is here and there.
    pub(crate) fn shared_with(&self, other: &Self) -> Self {
        Self(self.iter().filter(|key| other.contains(*key)).collect())
    }

    /// What is here or there.
    pub(crate) fn with(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }
}

impl FromIterator<PartitionKey> for PartitionSet {
    fn from_iter<I: IntoIterator<Item = PartitionKey>>(keys: I) -> Self {
        let mut keys: Vec<PartitionKey> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        Self(keys.into())
    }
}

#[cfg(test)]
mod tests {
    use barrage_model::{PartitionId, TopicId};

    use super::*;

    fn set(numbers: &[u32]) -> PartitionSet {
        let key = |n: &u32| PartitionKey { topic: TopicId(1), partition: PartitionId(*n) };
        numbers.iter().map(key).collect()
    }

    #[test]
    fn sets() {
        let (odd, low) = (set(&[5, 1, 3, 3]), set(&[1, 2, 3]));
        assert_eq!((odd.len(), odd.is_empty(), set(&[]).is_empty()), (3, false, true));
        assert_eq!(odd.without(&low), set(&[5]));
        assert_eq!(odd.shared_with(&low), set(&[1, 3]));
        assert_eq!(odd.with(&low), set(&[1, 2, 3, 5]));
        assert!(set(&[1, 5]).is_within(&odd) && !low.is_within(&odd));
        assert!(odd.as_slice().is_sorted());
    }
}
