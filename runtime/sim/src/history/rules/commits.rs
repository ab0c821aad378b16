//! I7: a group's stored offset moves forward, by members of the present generation.
//!
//! Demands: who asks for the offset is told at least what every earlier commit stored and every
//! earlier question was told, unless a reset came in between; what is told was committed or reset
//! by somebody since the last reset, and not only by a member whose generation was over when it
//! asked; a commit of a generation that was over when it was sent is refused.
//!
//! Where members meet, a generation is over for all at once; where partitions are handed over one
//! by one, it is for a member that was told the next one.
//!
//! Owns: what each group may have stored. Cost: about fifty bytes per different offset committed.

use std::collections::BTreeMap;

use barrage_model::Offset;

use crate::history::event::CommitOffset;
use crate::history::facts::Facts;
use crate::history::ledger::{ClientId, GroupId, PartitionId};
use crate::history::name::Nanos;
use crate::history::verdict::{Report, Rule};

/// What a group stores for a partition.
pub(crate) type Cursor = (GroupId, PartitionId);

/// An open question for a stored offset, or a change of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) client: ClientId,
    pub(crate) cursor: Cursor,
    /// What is stored is at least this, unless it is reset.
    floor: Option<Offset>,
    /// Resets begun when it was asked; none when one of them could still take effect.
    resets: Option<u64>,
}

/// An open commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenCommit {
    question: Question,
    offset: Offset,
    generation: Option<u32>,
    /// The newest generation known when it was sent.
    newest: u32,
}

/// An open reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenReset {
    cursor: Cursor,
    offset: Offset,
    /// Which reset of the cursor it is, if no other was open when it began.
    number: Option<u64>,
}

/// Commits of one offset that may have been stored.
#[derive(Clone, Copy, Debug, Default)]
struct Source {
    valid: u32,
    stale: u32,
    /// Of the valid ones, those that were accepted.
    accepted: u32,
    /// Of these, those accepted before the last reset began.
    before_reset: u32,
    /// Of these, those of which a reset that was done has left nothing.
    gone: u32,
}

#[derive(Debug, Default)]
struct Stored {
    floor: Option<Offset>,
    sources: BTreeMap<Offset, Source>,
    resets_begun: u64,
    /// Resets that may still take effect.
    resets_open: u64,
}

/// Every group's stored offsets.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// By joins, in which all meet.
    newest: BTreeMap<GroupId, u32>,
    /// By heartbeats, each for itself.
    newest_of: BTreeMap<(GroupId, ClientId), u32>,
    stored: BTreeMap<Cursor, Stored>,
}

impl Commits {
    /// A member was told its generation.
    pub(crate) fn joined(&mut self, group: GroupId, generation: u32) {
        let newest = self.newest.entry(group).or_default();
        *newest = (*newest).max(generation);
    }

    /// A member was told its generation, and others were not.
    pub(crate) fn told_generation(&mut self, group: GroupId, client: ClientId, generation: u32) {
        let newest = self.newest_of.entry((group, client)).or_default();
        *newest = (*newest).max(generation);
    }

    /// Somebody begins to ask.
    pub(crate) fn ask(&mut self, client: ClientId, cursor: Cursor) -> Question {
        let stored = self.stored.entry(cursor).or_default();
        // While a reset may still take effect, anything may be told.
        let resets = (stored.resets_open == 0).then_some(stored.resets_begun);
        Question { client, cursor, floor: stored.floor.filter(|_| resets.is_some()), resets }
    }

    /// Somebody begins to commit.
    pub(crate) fn commit(
        &mut self,
        client: ClientId,
        cursor: Cursor,
        commit: &CommitOffset,
    ) -> OpenCommit {
        let question = self.ask(client, cursor);
        let of_all = self.newest.get(&cursor.0).copied().unwrap_or_default();
        let own = self.newest_of.get(&(cursor.0, client)).copied().unwrap_or_default();
        let newest = of_all.max(own);
        let CommitOffset { offset, generation, .. } = *commit;
        let open = OpenCommit { question, offset, generation, newest };
        let stored = self.stored.entry(cursor).or_default();
        let source = stored.sources.entry(offset).or_default();
        match open.is_stale() {
            true => source.stale += 1,
            false => source.valid += 1,
        }
        open
    }

    /// A commit was refused.
    pub(crate) fn refused(&mut self, open: &OpenCommit) {
        let stored = self.stored.entry(open.question.cursor).or_default();
        if let Some(source) = stored.sources.get_mut(&open.offset) {
            match open.is_stale() {
                true => source.stale = source.stale.saturating_sub(1),
                false => source.valid = source.valid.saturating_sub(1),
            }
        }
    }

    /// A commit was accepted.
    pub(crate) fn committed(
        &mut self,
        facts: &Facts,
        report: &mut Report,
        at: Nanos,
        open: &OpenCommit,
    ) {
        if open.is_stale() {
            let (generation, newest) = (open.generation.unwrap_or_default(), open.newest);
            report.add(Rule::I7, at, || {
                let who = tell(facts, &open.question);
                let offset = open.offset;
                format!("{who} committed {offset} in generation {generation}, over since {newest}")
            });
        } else if let Some(stored) = self.stored.get_mut(&open.question.cursor) {
            stored.sources.entry(open.offset).or_default().accepted += 1;
        }
        self.raise(&open.question, open.offset);
    }

    /// A question was answered.
    pub(crate) fn told(
        &mut self,
        facts: &mut Facts,
        report: &mut Report,
        at: Nanos,
        asked: &Question,
        answer: Option<Offset>,
    ) {
        facts.counters.offsets_compared += 1;
        let stored = self.stored.entry(asked.cursor).or_default();
        let is_reset = Some(stored.resets_begun) != asked.resets;
        let floor = asked.floor.filter(|floor| !is_reset && answer < Some(*floor));
        if let Some(floor) = floor {
            let told = answer.map_or_else(|| "nothing".to_owned(), |offset| offset.to_string());
            report.add(Rule::I7, at, || {
                let who = tell(facts, asked);
                format!("{who} was told {told}, but {floor} was stored before it asked")
            });
        }
        let Some(offset) = answer else { return };
        let stored = self.stored.entry(asked.cursor).or_default();
        let source = stored.sources.get(&offset).copied().unwrap_or_default();
        // What is too low is objected to once.
        let gone = if is_reset || floor.is_some() { 0 } else { source.gone };
        if source.valid <= gone {
            let why = match source.stale {
                0 => "which nobody committed",
                _ => "which only a generation that was over committed",
            };
            report.add(Rule::I7, at, || format!("{} was told {offset}, {why}", tell(facts, asked)));
        }
        self.raise(asked, offset);
    }

    /// Somebody begins to reset: until it is over, anything may be stored.
    pub(crate) fn reset(&mut self, cursor: Cursor, offset: Offset) -> OpenReset {
        let stored = self.stored.entry(cursor).or_default();
        stored.resets_begun += 1;
        let number = (stored.resets_open == 0).then_some(stored.resets_begun);
        stored.resets_open += 1;
        stored.floor = None;
        for source in stored.sources.values_mut() {
            source.before_reset = source.accepted;
        }
        stored.sources.entry(offset).or_default().valid += 1;
        OpenReset { cursor, offset, number }
    }

    /// A reset is over, and took effect or not; one of unknown outcome stays open.
    pub(crate) fn reset_over(&mut self, open: &OpenReset, is_done: bool) {
        let stored = self.stored.entry(open.cursor).or_default();
        stored.resets_open = stored.resets_open.saturating_sub(1);
        // Commits that overlap with it only raise what it set; another reset may have lowered it.
        let is_alone = open.number == Some(stored.resets_begun);
        stored.floor = (is_done && is_alone).then_some(open.offset);
        if is_done && is_alone {
            // What was accepted before is stored no more; what nobody was answered may come late.
            for source in stored.sources.values_mut() {
                source.gone = source.before_reset;
            }
        }
        let source = stored.sources.entry(open.offset).or_default();
        source.valid = source.valid.saturating_sub(u32::from(!is_done));
        source.accepted += u32::from(is_done);
    }

    fn raise(&mut self, asked: &Question, offset: Offset) {
        let stored = self.stored.entry(asked.cursor).or_default();
        if Some(stored.resets_begun) == asked.resets {
            stored.floor = stored.floor.max(Some(offset));
        }
    }
}

fn tell(facts: &Facts, asked: &Question) -> String {
    let (group, partition) = asked.cursor;
    let (group, place) = (facts.group_name(group), facts.tell_place(partition));
    format!("{} of group {group} in {place}", facts.client_name(asked.client))
}

impl OpenCommit {
    /// Who commits where.
    pub(crate) const fn who(&self) -> (ClientId, Cursor) {
        (self.question.client, self.question.cursor)
    }

    fn is_stale(&self) -> bool {
        self.generation.is_some_and(|generation| generation < self.newest)
    }
}

#[cfg(test)]
mod tests {
    use crate::history::script::check;
    use crate::history::verdict::Rule::I7;

    #[test]
    fn a_stored_offset_does_not_fall() {
        check(&[
            (
                "grows",
                "c commit g 3 -> ok; c stored g -> 3; c commit g 5 -> ok; d stored g -> 5",
                &[],
            ),
            ("nothing stored", "c stored g -> none", &[]),
            (
                "an unknown commit may show or not",
                "c commit g 3 -> ok; c commit g 5 -> ?; c stored g -> 3; c stored g -> 5",
                &[],
            ),
            (
                "a lower commit changes nothing",
                "c commit g 5 -> ok; c commit g 3 -> ok; c stored g -> 5",
                &[],
            ),
            (
                "a question that overlaps the commit",
                "c commit g 3 -> ok; 1= c stored g; d commit g 5 -> ok; 1 -> 3",
                &[],
            ),
            ("a reset moves back", "c commit g 5 -> ok; a reset g 2 -> ok; c stored g -> 2", &[]),
            (
                "a reset that may have happened",
                "c commit g 5 -> ok; a reset g 2 -> ?; c stored g -> 5; c stored g -> 2",
                &[],
            ),
            (
                "two resets at once",
                "c commit g 9 -> ok; 1= a reset g 2; 2= b reset g 5; 1 -> ok; 2 -> ok; \
                 c stored g -> 2",
                &[],
            ),
            (
                "an answer from before a reset",
                "c commit g 9 -> ok; 1= a reset g 2; 2= c stored g; 1 -> ok; 2 -> 9; \
                 c stored g -> 2",
                &[],
            ),
            (
                "two resets, one after the other",
                "c commit g 9 -> ok; a reset g 2 -> ok; b reset g 5 -> ok; c stored g -> 5",
                &[],
            ),
            (
                "groups and partitions count for themselves",
                "c commit g 5 -> ok; c stored h -> none; c stored t/1 g -> none",
                &[],
            ),
            ("fell", "c commit g 5 -> ok; c commit g 3 -> ok; c stored g -> 3", &[I7]),
            (
                "fell between two questions",
                "c commit g 3 -> ok; c commit g 5 -> ?; c stored g -> 5; c stored g -> 3",
                &[I7],
            ),
            ("forgotten", "c commit g 5 -> ok; c stored g -> none", &[I7]),
            ("fell below a reset", "c commit g 1 -> ok; a reset g 4 -> ok; c stored g -> 1", &[I7]),
            (
                "fell below the second reset",
                "c commit g 9 -> ok; a reset g 2 -> ok; b reset g 5 -> ok; c stored g -> 2",
                &[I7],
            ),
            (
                "a refused reset moved it",
                "c commit g 5 -> ok; a reset g 2 -> fail; c commit g 6 -> ok; c stored g -> 2",
                &[I7, I7],
            ),
            ("not reset", "c commit g 5 -> ok; a reset g 2 -> ok; c stored g -> 5", &[I7]),
            (
                "not reset the second time",
                "c commit g 5 -> ok; a reset g 4 -> ok; a reset g 2 -> ok; c stored g -> 4",
                &[I7],
            ),
            (
                "committed again after a reset",
                "c commit g 5 -> ok; a reset g 2 -> ok; c commit g 5 -> ok; c stored g -> 5",
                &[],
            ),
            (
                "a late commit after a reset",
                "c commit g 5 -> ?; a reset g 2 -> ok; c stored g -> 5",
                &[],
            ),
            ("never committed", "c commit g 3 -> ok; c stored g -> 4", &[I7]),
            ("refused and stored", "c commit g 3 -> fail; c stored g -> 3", &[I7]),
        ]);
    }

    #[test]
    fn a_generation_is_over_for_a_member_that_was_told_the_next() {
        check(&[
            (
                "in its own, while another one knows more",
                "m beat g -> 1: 0; n beat g -> 2:; m commit g*1 3 -> ok",
                &[],
            ),
            ("refused", "m beat g -> 1: 0; m beat g*1 0 -> 2: 0; m commit g*1 3 -> fail", &[]),
            (
                "sent while the next was on its way",
                "m beat g -> 1: 0; 1= m beat g*1 0; m commit g*1 3 -> ok; 1 -> 2: 0",
                &[],
            ),
            ("accepted", "m beat g -> 1: 0; m beat g*1 0 -> 2: 0; m commit g*1 3 -> ok", &[I7]),
        ]);
    }

    #[test]
    fn an_old_generation_commits_nothing() {
        check(&[
            (
                "in its generation",
                "c join g -> 1; c commit g*1 3 -> ok; d join g -> 2; d commit g*2 4 -> ok",
                &[],
            ),
            (
                "refused",
                "c join g -> 1; d join g -> 2; c commit g*1 3 -> fail; c stored g -> none",
                &[],
            ),
            (
                "sent before the new one was known",
                "c join g -> 1; 1= c commit g*1 3; d join g -> 2; 1 -> ok; c stored g -> 3",
                &[],
            ),
            (
                "also committed by the new one",
                "d join g -> 2; c commit g*1 3 -> ?; d commit g*2 3 -> ok; d stored g -> 3",
                &[],
            ),
            (
                "another group's generation",
                "c join g -> 1; d join h -> 2; c commit g*1 3 -> ok",
                &[],
            ),
            ("accepted", "c join g -> 1; d join g -> 2; c commit g*1 3 -> ok", &[I7]),
            (
                "accepted much later",
                "d join g -> 5; d commit g*5 9 -> ok; c commit g*1 10 -> ok",
                &[I7],
            ),
            (
                "outcome unknown, but stored",
                "d join g -> 2; c commit g*1 3 -> ?; d stored g -> 3",
                &[I7],
            ),
        ]);
    }
}
