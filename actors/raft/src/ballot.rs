//! The vote of a replica that is being copied.
//!
//! It takes no entries, and yet its group may need its vote: where one voter of three is lost for
//! good and the leader has been started again, nobody else can elect the one who has everything,
//! and of nobody else can this replica be copied.
//!
//! Owns: whom such a replica votes for, and that its marker says so before anybody hears of it.
//!
//! Must never: vote for one who lacks what was ever on this replica's disk; vote twice in a term;
//! vote while the vote is on its way from the marker into the log.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use barrage_commitlog::Vote;
use barrage_model::{LogId, NodeId, Term};
use barrage_world::channel::Mutex;
use barrage_world::{self as world, Instant};
use bytes::Bytes;
use openraft::raft::{AppendEntriesResponse, VoteRequest, VoteResponse};

use crate::folder::Folder;
use crate::format::marker::{Held, Marker};
use crate::format::rpc::{self, Answer, Request};
use crate::group::Group;
use crate::machine::Machine;
use crate::serve::HandleError;
use crate::vocabulary::{RaftVote, Types, from_raft_log_id, to_raft_log_id, to_raft_vote};

/// Votes for a replica while it is copied; nobody gets its vote before and after that.
pub struct Ballot {
    open: RefCell<Option<Open>>,
    /// When a leader was heard of last.
    heard: Cell<Option<Instant>>,
    /// Held while a vote is saved.
    saving: Mutex<()>,
}

struct Open {
    node: NodeId,
    folder: Folder,
    marker: Marker,
    /// For so long after a leader was heard of nobody else gets the vote.
    patience: Duration,
    /// The vote is on its way into the log.
    is_closed: bool,
}

impl Default for Ballot {
    fn default() -> Self {
        Self { open: RefCell::default(), heard: Cell::default(), saving: Mutex::new(()) }
    }
}

impl Ballot {
    /// Answers a peer that wants this replica's vote, or leads by an earlier one. `None` for any
    /// other request: a replica that is being copied does not answer it.
    ///
    /// # Errors
    /// When the bytes are damaged or meant for another replica.
    pub async fn handle(self: &Rc<Self>, request: Bytes) -> Result<Option<Bytes>, HandleError> {
        let decoded = match &*self.open.borrow() {
            None => return Ok(None),
            Some(open) if open.is_closed => return Ok(None),
            Some(open) => rpc::decode_request(&request, open.folder.shard(), open.node)?,
        };
        let answer = match decoded.1 {
            Request::Append(append) => {
                return Ok(match self.vote() {
                    // A leader learns of a later term from those that are in it, and stands again.
                    Some(own) if own.term.0 > append.vote.leader_id.term => {
                        let higher = AppendEntriesResponse::HigherVote(to_raft_vote(own));
                        Some(rpc::encode_answer(&Answer::Append(higher))?)
                    }
                    _ => {
                        self.hear();
                        None
                    }
                });
            }
            Request::PreVote(asked) => self.would_vote(&asked),
            Request::Vote(asked) => {
                // A task of its own: whoever asked may give up, and the next vote must not be
                // saved beside this one.
                let this = Rc::clone(self);
                world::spawn(async move { this.give_vote(&asked).await }).await.flatten()
            }
            Request::Transfer(_) | Request::Checkpoint { .. } | Request::Seed { .. } => None,
        };
        Ok(match answer {
            None => None,
            Some(answer) => Some(rpc::encode_answer(&Answer::Vote(answer))?),
        })
    }

    /// From here on the replica votes by what `marker` says, which lies in `folder`.
    pub(crate) fn open(&self, node: NodeId, folder: Folder, marker: Marker, patience: Duration) {
        // A leader may be there: one who was just started has heard of nobody yet.
        self.hear();
        let is_closed = false;
        *self.open.borrow_mut() = Some(Open { node, folder, marker, patience, is_closed });
    }

    /// Nobody gets a vote any more. Gives the newest one that was given.
    pub(crate) async fn close(&self) -> Option<Vote> {
        let _none_on_its_way = self.saving.lock().await;
        self.set_closed(true);
        self.vote()
    }

    /// The replica did not become whole after all.
    pub(crate) fn reopen(&self) {
        self.set_closed(false);
    }

    fn set_closed(&self, is_closed: bool) {
        if let Some(open) = self.open.borrow_mut().as_mut() {
            open.is_closed = is_closed;
        }
    }

    /// The newest vote that was given.
    pub(crate) fn vote(&self) -> Option<Vote> {
        self.open.borrow().as_ref().and_then(|open| open.marker.vote)
    }

    /// A leader was heard of.
    pub(crate) fn hear(&self) {
        self.heard.set(Some(Instant::now()));
    }

    fn would_vote(&self, asked: &VoteRequest<Types>) -> Option<VoteResponse<Types>> {
        let open = self.open.borrow();
        let open = open.as_ref().filter(|open| !open.is_closed)?;
        let heard = self.heard.get().is_some_and(|heard| heard.elapsed() < open.patience);
        let leads_now = heard && !asked.leadership_transfer;
        Some(open.answer(!leads_now && grants(&open.marker, asked)))
    }

    async fn give_vote(&self, asked: &VoteRequest<Types>) -> Option<VoteResponse<Types>> {
        let _one = self.saving.lock().await;
        let would = self.would_vote(asked)?;
        if !would.vote_granted {
            return Some(would);
        }
        let (folder, marker) = {
            let open = self.open.borrow();
            let open = open.as_ref()?;
            (open.folder.clone(), Marker { vote: Some(to_vote(asked)), ..open.marker })
        };
        // Durability: who is told of a vote counts on it for ever.
        let saved = folder.save_marker(&marker).await;
        let mut open = self.open.borrow_mut();
        let open = open.as_mut()?;
        // Also when that failed: it may lie on the disk, and nobody else gets the vote then.
        open.marker = marker;
        if let Err(error) = saved {
            tracing::warn!(shard = %folder.shard(), %error, "a vote could not be saved");
            return None;
        }
        Some(open.answer(true))
    }
}

impl<M: Machine> Group<M> {
    /// What this replica had on its disk at most; for one that is shut down.
    #[must_use]
    pub fn held(&self) -> Held {
        match self.is_over() {
            true => Held::UpTo(self.log().last_log_id()),
            false => Held::Unknown,
        }
    }
}

impl Open {
    fn answer(&self, granted: bool) -> VoteResponse<Types> {
        let vote = self.marker.vote.map_or_else(|| RaftVote::new(0, 0), to_raft_vote);
        let held = match self.marker.held {
            Held::UpTo(last) => last.map(to_raft_log_id),
            Held::Unknown => None,
        };
        VoteResponse::new(vote, held, granted)
    }
}

fn to_vote(asked: &VoteRequest<Types>) -> Vote {
    let leader = &asked.vote.leader_id;
    Vote { term: Term(leader.term), node: NodeId(leader.voted_for), committed: false }
}

/// Whether a replica that is not whole may vote as asked: what it acknowledged before is in the
/// candidate's log, and no other candidate of the term has its vote.
fn grants(marker: &Marker, asked: &VoteRequest<Types>) -> bool {
    let Held::UpTo(held) = marker.held else { return false };
    let theirs: Option<LogId> = asked.last_log_id.as_ref().map(from_raft_log_id);
    let wanted = to_vote(asked);
    let is_free = |own: Vote| wanted.term > own.term || wanted == own;
    theirs >= held && marker.vote.is_none_or(is_free)
}

#[cfg(test)]
mod tests {
    use barrage_model::{LogIndex, ShardId};

    use super::*;
    use crate::vocabulary::{CommittedLeaderId, RaftLogId};

    fn asked(term: u64, node: u64, last: Option<(u64, u64)>) -> VoteRequest<Types> {
        let last = last.map(|(term, index)| RaftLogId::new(CommittedLeaderId::from(term), index));
        VoteRequest::new(RaftVote::new(term, node), last)
    }

    fn id((term, index): (u64, u64)) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    fn marker(vote: Option<(u64, u64, bool)>, held: Held) -> Marker {
        let to_vote =
            |(term, node, committed)| Vote { term: Term(term), node: NodeId(node), committed };
        Marker { shard: ShardId(1), vote: vote.map(to_vote), held }
    }

    #[test]
    fn who_lacks_what_was_here_gets_no_vote() {
        let here = marker(None, Held::UpTo(Some(id((4, 9)))));
        assert!(grants(&here, &asked(5, 2, Some((4, 9)))));
        assert!(grants(&here, &asked(6, 2, Some((5, 3)))));
        assert!(!grants(&here, &asked(5, 2, Some((4, 8)))));
        assert!(!grants(&here, &asked(9, 2, Some((3, 99)))));
        assert!(!grants(&here, &asked(9, 2, None)));
        let nothing = marker(None, Held::UpTo(None));
        assert!(grants(&nothing, &asked(1, 2, None)));
        let unknown = marker(None, Held::Unknown);
        assert!(!grants(&unknown, &asked(9, 2, Some((8, 99)))));
    }

    #[test]
    fn a_term_has_one_vote() {
        let held = Held::UpTo(Some(id((4, 9))));
        let last = Some((4, 9));
        let voted = marker(Some((5, 2, false)), held);
        assert!(grants(&voted, &asked(5, 2, last)), "again the same");
        assert!(!grants(&voted, &asked(5, 3, last)));
        assert!(!grants(&voted, &asked(4, 3, last)));
        assert!(grants(&voted, &asked(6, 3, last)));
        let led = marker(Some((5, 2, true)), held);
        assert!(!grants(&led, &asked(5, 3, last)));
        assert!(!grants(&led, &asked(5, 2, last)), "it has won already");
    }
}
