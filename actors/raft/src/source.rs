//! What a leader gives to a replica that is being copied.
//!
//! Owns: the plan (where the log begins and ends, cut into pieces), the pieces of the log and of
//! the newest checkpoint.
//!
//! Must never: make a plan unless it led for certain after it was asked, or the one who asks has
//! voted for nobody later; give a piece when it has voted anew since, unless all of it is
//! committed; keep more than a few pieces in memory.
//!
//! A replica that lost its log but kept its vote is safe with the plan of such a leader. Whatever
//! it had acknowledged was acknowledged before it asked, to some leader. If to this one in this
//! term: the log given out reaches to the last entry, committed or not, so that holds it. If to an
//! earlier one and it counted for a majority: this leader was elected by a majority that shares a
//! member with that one, and holds it. If to a leader of a later term: either a majority has voted
//! for that one, and the majority that has just confirmed this leader without the asking replica
//! shares a member with it that would have refused; or no majority was there to confirm anything,
//! and the asking replica's own vote, which it gave before it acknowledged, says that there was no
//! such leader. The latter makes a majority again where the third voter is lost for good.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::ReadError;
use barrage_model::{LogId, LogIndex, NodeId};
use barrage_world::{self as world, Instant, buggify};
use bytes::Bytes;
use openraft::async_runtime::WatchReceiver;
use openraft::{ReadPolicy, ServerState};

use crate::format::rpc::{Answer, SeedAsk, SeedPiece, SeedPlan};
use crate::group::Core;
use crate::vocabulary::{RaftVote, to_raft_vote};

/// Bytes of entries or of a checkpoint in one answer; one larger entry goes alone.
const PIECE_BYTES: usize = 4 << 20;
const PIECE_BYTES_FEW: usize = 24 << 10;
/// Pieces of one plan.
const PIECES_MAX: usize = 256;
/// Pieces that are read and on their way at once, whoever asks.
const GIVING_MAX: u32 = 8;

/// Smaller in a mood, so that little is much.
fn piece_bytes() -> usize {
    if buggify("raft-small-pieces", 2) { PIECE_BYTES_FEW } else { PIECE_BYTES }
}

/// A copy with so few pieces left is waited for.
const NEAR_PIECES: usize = 2;
/// For so long after it asked last: by then its replica follows, and what it lacks is known.
const NEAR_FOR: Duration = Duration::from_secs(10);

/// A replica that is being copied and has all but the newest entries.
pub(crate) struct Taker {
    node: NodeId,
    next: LogIndex,
    asked: Instant,
}

/// Counts a piece while it is read.
struct Giving(Rc<Cell<u32>>);

impl Giving {
    fn start(count: &Rc<Cell<u32>>) -> Option<Self> {
        let giving = count.get();
        if giving >= GIVING_MAX {
            return None;
        }
        count.set(giving + 1);
        Some(Self(Rc::clone(count)))
    }
}

impl Drop for Giving {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Core {
    pub(crate) async fn give(&self, to: NodeId, vote: RaftVote, ask: SeedAsk) -> Answer {
        let Some(_giving) = Giving::start(&self.giving) else {
            return Answer::Refused("too many pieces are being given".to_owned());
        };
        if let Some(taker) = self.takers.borrow_mut().iter_mut().find(|taker| taker.node == to) {
            taker.asked = Instant::now();
            if let SeedAsk::Entries { start, .. } = ask {
                taker.next = start;
            }
        }
        match ask {
            SeedAsk::Plan { previous } => {
                let answer = self.plan(vote, previous).await;
                if let Answer::SeedPlan(plan) = &answer {
                    self.note_taker(to, plan);
                }
                answer
            }
            SeedAsk::Committed { start, end } => self.committed_entries(start, end).await,
            _ if self.leading_vote() != Some(vote) => self.elsewhere(),
            SeedAsk::Entries { start, end } => self.entries(vote, start, end).await,
            SeedAsk::Checkpoint { index, position } => self.checkpoint(index, position).await,
        }
    }

    fn note_taker(&self, node: NodeId, plan: &SeedPlan) {
        let mut takers = self.takers.borrow_mut();
        takers.retain(|taker| taker.node != node);
        if plan.ends.len() <= NEAR_PIECES {
            takers.push(Taker { node, next: plan.start, asked: Instant::now() });
        }
    }

    /// Whether every copy that is nearly whole has the entry at `index`: one that the floor passes
    /// at the last moment begins anew, and where records go as fast as they come that would never
    /// end. A full disk waits for nobody.
    pub(crate) fn takers_have(&self, index: LogIndex) -> bool {
        let mut takers = self.takers.borrow_mut();
        takers.retain(|taker| taker.asked.elapsed() < NEAR_FOR);
        self.log.is_full() || takers.iter().all(|taker| taker.next > index)
    }

    async fn plan(&self, kept: RaftVote, previous: Option<(LogId, u64)>) -> Answer {
        if !self.is_confirmed().await && !self.led_no_earlier_than(&kept) {
            return self.elsewhere();
        }
        // What is asked from here on is of one moment, but for the look at entries.
        let follows = match previous {
            None => false,
            Some((id, fingerprint)) => match self.holds(id, fingerprint).await {
                Ok(holds) => holds,
                Err(error) => return self.cannot_give(&error),
            },
        };
        let Some(vote) = self.leading_vote() else { return self.elsewhere() };
        let (hard, last) = (self.log.hard_state(), self.log.last_log_id());
        let first = hard.floor.map_or(0, |floor| floor.index.0 + 1);
        let start = match previous {
            Some((id, _)) if follows => id.index.0 + 1,
            _ => first,
        };
        if start < first {
            return Answer::SeedGone;
        }
        let end = last.map_or(0, |last| last.index.0 + 1);
        let ends = self.log.piece_ends(start..end.max(start), piece_bytes(), PIECES_MAX).await;
        if self.leading_vote() != Some(vote) {
            // A log is cut off only after its replica has voted anew: what was looked at is all of
            // one log as long as it has not.
            return self.elsewhere();
        }
        if self.log.hard_state().floor.is_some_and(|floor| floor.index.0 >= start) {
            return Answer::SeedGone;
        }
        let ends = match ends {
            Ok(ends) => ends,
            Err(error) => return self.cannot_give(&error),
        };
        Answer::SeedPlan(SeedPlan {
            vote,
            floor: hard.floor,
            last,
            committed: hard.committed,
            follows,
            start: LogIndex(start),
            ends,
        })
    }

    /// Whether a majority says that this replica leads.
    async fn is_confirmed(&self) -> bool {
        if self.leading_vote().is_none() {
            return false;
        }
        // openraft waits for ever where what it waits for was cut off by another leader.
        let asked = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        matches!(world::timeout(self.confirmed_within, asked).await, Ok(Ok(_)))
    }

    /// Whether this replica leads in the term of a vote, or later. Who kept no vote may have
    /// forgotten one.
    fn led_no_earlier_than(&self, kept: &RaftVote) -> bool {
        let Some(led) = self.leading_vote() else { return false };
        let (led, kept) = (led.leader_id, &kept.leader_id);
        // A term has one leader: what was acknowledged in this one was acknowledged to this one.
        kept.term > 0 && led.term >= kept.term
    }

    /// Whether that very entry is in the log, as far as it can be told.
    async fn holds(&self, id: LogId, fingerprint: u64) -> Result<bool, ReadError> {
        if self.log.log_id_at(id.index) != Some(id) {
            return Ok(false);
        }
        let own = self.log.fingerprint(id.index).await?;
        Ok(fingerprint == 0 || own.is_none_or(|own| own == fingerprint))
    }

    async fn entries(&self, vote: RaftVote, start: LogIndex, end: LogIndex) -> Answer {
        match self.log.piece_ends(start.0..end.0, PIECE_BYTES, 1).await {
            Ok(fits) if fits.first() == Some(&end) => {}
            // Below the floor, behind the end, or larger than any plan makes it.
            Ok(_) => return Answer::SeedGone,
            Err(error) => return self.cannot_give(&error),
        }
        let read = self.log.read_raw_entries(start.0..end.0).await;
        if self.leading_vote() != Some(vote) {
            // A log is cut off only after its replica has voted anew; nothing read before that is
            // of another leader.
            return self.elsewhere();
        }
        match read {
            Ok(Some(bytes)) => Answer::SeedEntries(Bytes::from(bytes)),
            Ok(None) => Answer::SeedGone,
            Err(error) => self.cannot_give(&error),
        }
    }

    /// For a copy whose source cannot read them. What is committed is the same in every log, and is
    /// never cut off: no lead is needed to give it.
    async fn committed_entries(&self, start: LogIndex, end: LogIndex) -> Answer {
        let committed = self.log.hard_state().committed;
        if committed.is_none_or(|committed| committed.index.0 + 1 < end.0) {
            return Answer::SeedDamaged;
        }
        match self.log.piece_ends(start.0..end.0, PIECE_BYTES, 1).await {
            Ok(fits) if fits.first() == Some(&end) => {}
            Ok(_) | Err(_) => return Answer::SeedDamaged,
        }
        match self.log.read_raw_entries(start.0..end.0).await {
            Ok(Some(bytes)) => Answer::SeedEntries(Bytes::from(bytes)),
            Ok(None) => Answer::SeedDamaged,
            Err(error) => self.cannot_give(&error),
        }
    }

    fn cannot_give(&self, error: &ReadError) -> Answer {
        if self.rot.note(error) {
            return Answer::SeedDamaged;
        }
        tracing::error!(shard = %self.shard, %error, "entries cannot be given to another replica");
        Answer::Refused(error.to_string())
    }

    async fn checkpoint(&self, index: Option<LogIndex>, position: u64) -> Answer {
        // Before the file is looked for: what apply refused is forgotten up to the floor only, so a
        // file that is there now knows all of it behind a floor that was there before.
        let floor = self.log.hard_state().floor;
        match self.log.read_checkpoint_piece(index, position, piece_bytes()).await {
            Ok(Some(piece)) => Answer::SeedCheckpoint(SeedPiece {
                index: Some(piece.index),
                size: piece.size,
                floor,
                bytes: Bytes::from(piece.bytes),
            }),
            Ok(None) if index.is_none() => {
                let (size, bytes) = (0, Bytes::new());
                Answer::SeedCheckpoint(SeedPiece { index: None, size, floor, bytes })
            }
            Ok(None) => Answer::SeedGone,
            Err(error) => Answer::Refused(error.to_string()),
        }
    }

    /// The vote of the term it leads in.
    fn leading_vote(&self) -> Option<RaftVote> {
        let metrics = self.metrics.borrow_watched();
        let vote = self.log.hard_state().vote?;
        let leads = metrics.running_state.is_ok()
            && metrics.state == ServerState::Leader
            && vote.committed
            && vote.node == self.node
            && vote.term.0 == metrics.current_term;
        leads.then(|| to_raft_vote(vote))
    }

    fn elsewhere(&self) -> Answer {
        let leader = self.metrics.borrow_watched().current_leader;
        let leader = leader.map(NodeId).filter(|leader| *leader != self.node);
        Answer::SeedElsewhere(leader)
    }
}
