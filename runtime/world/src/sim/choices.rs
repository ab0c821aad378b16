//! Walks through every sequence of choices, as an odometer does.
//!
//! Owns the current sequence. Invariant: each sequence is visited once, in lexical order; the
//! caller asks the same questions whenever the answers so far are the same.

/// An exhaustive chooser.
///
/// ```text
/// let mut choices = Choices::default();
/// loop {
///     let image = disk.crash_as(CrashStyle::Writes, |count| choices.choose(count));
///     check(image);
///     if !choices.advance() { break; }
/// }
/// ```
#[derive(Clone, Default, Debug)]
pub struct Choices {
    /// Answers given, each with how many answers there were.
    answers: Vec<(u64, u64)>,
    asked_count: usize,
}

impl Choices {
    /// The answer to the next question, in [0, count).
    pub fn choose(&mut self, count: u64) -> u64 {
        assert!(count > 0, "nothing to choose from");
        let asked = self.asked_count;
        self.asked_count += 1;
        if let Some((answer, count_before)) = self.answers.get(asked) {
            assert!(*count_before == count, "the same answers led to another question");
            return *answer;
        }
        self.answers.push((0, count));
        0
    }

    /// Turns to the next sequence; false when all were visited.
    pub fn advance(&mut self) -> bool {
        self.asked_count = 0;
        while let Some((answer, count)) = self.answers.pop() {
            if answer + 1 < count {
                self.answers.push((answer + 1, count));
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_is_visited_once() {
        let mut choices = Choices::default();
        let mut seen = Vec::new();
        loop {
            let first = choices.choose(3);
            let second = if first == 1 { choices.choose(2) } else { 9 };
            seen.push((first, second));
            if !choices.advance() {
                break;
            }
        }
        assert_eq!(seen, [(0, 9), (1, 0), (1, 1), (2, 9)]);
    }
}
