//! In which order the subjects are measured.
//!
//! Owns: the order. Must never: leave a subject out of a round, or measure it twice in one.

/// Every subject once in each round; the next round begins one subject later, so that none always
/// follows the same one or stands first while the machine is cold.
pub(crate) fn rounds<T: Clone>(subjects: &[T], count: usize) -> Vec<Vec<T>> {
    let mut order = subjects.to_vec();
    let mut rounds = Vec::with_capacity(count);
    for _ in 0..count {
        rounds.push(order.clone());
        if !order.is_empty() {
            order.rotate_left(1);
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_has_every_subject_and_begins_elsewhere() {
        let check = |subjects: &[u8], count, want: &[&[u8]]| {
            assert_eq!(rounds(subjects, count), want, "{subjects:?} {count}");
        };
        check(&[1, 2, 3], 4, &[&[1, 2, 3], &[2, 3, 1], &[3, 1, 2], &[1, 2, 3]]);
        check(&[1], 2, &[&[1], &[1]]);
        check(&[1, 2], 0, &[]);
        check(&[], 2, &[&[], &[]]);
    }
}
