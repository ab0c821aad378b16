//! Damage that nobody has asked for: sealed bytes are read in turn, and replicas compare what they
//! have made of the same entries.
//!
//! Owns: how fast both go, and what is known to be damaged.
//! Must never: repair; a copy is made anew where it is opened and closed.

use std::cell::Cell;
use std::time::Duration;

use barrage_commitlog::{ReadError, Scrub};
use barrage_world::sleep;

use super::Shard;
use super::handle::first_of;
use crate::command::Command;

/// Between two steps.
const STEP_INTERVAL: Duration = Duration::from_secs(10);
/// All sealed bytes are read within this many steps: six days, so that seven are kept.
const STEPS_PER_ROUND: u64 = 6 * 24 * 60 * 60 / STEP_INTERVAL.as_secs();
/// At least so much in one step.
const STEP_BYTES_MIN: u64 = 1 << 20;
/// How often replicas compare their states. It costs one checkpoint in memory.
const COMPARE_INTERVAL: Duration = Duration::from_secs(600);

impl Shard {
    /// Reads sealed segments in turn until the shard closes or damage is found.
    pub(crate) async fn keep_scrubbing(self) {
        let mut scrub = Scrub::default();
        loop {
            sleep(STEP_INTERVAL).await;
            if self.inner.group.is_over() {
                return;
            }
            let log = self.inner.group.log();
            let bytes = (log.sealed_bytes() / STEPS_PER_ROUND).max(STEP_BYTES_MIN);
            match log.scrub(&mut scrub, bytes).await {
                Ok(_) => {}
                Err(ReadError::Damaged(damage)) => {
                    tracing::error!(shard = %self.id(), %damage, "rot was found");
                    return self.found_damage(damage.to_string());
                }
                Err(error) => tracing::warn!(shard = %self.id(), %error, "cannot be scrubbed"),
            }
        }
    }

    /// While this node leads: has all replicas compare their states, until the shard closes.
    pub(crate) async fn keep_comparing(self) {
        loop {
            sleep(COMPARE_INTERVAL).await;
            if self.inner.group.is_over() {
                return;
            }
            if self.inner.group.leader_term().is_none() {
                continue;
            }
            let mark = self.inner.group.with_machine(|machine| machine.mark());
            let (index, hash) = mark.unwrap_or_default();
            if let Err(error) = self.command(Command::Compare { index, hash }).await {
                tracing::debug!(shard = %self.id(), %error, "states are compared later");
            }
        }
    }

    /// This copy is not what it should be.
    pub(crate) fn found_damage(&self, what: String) {
        self.inner.damage.borrow_mut().get_or_insert(what);
        self.inner.damaged.notify_all();
    }

    /// Whether this copy is known to be damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.inner.damage.borrow().is_some()
    }

    /// Waits until this copy is known to be damaged, and says how.
    pub(crate) async fn damaged(&self) -> String {
        let found = Cell::new(None);
        let here = async { found.set(Some(self.damage_here().await)) };
        first_of(here, async { found.set(Some(self.inner.group.damaged().await)) }).await;
        let what = found.take().unwrap_or_default();
        self.found_damage(what.clone());
        what
    }

    /// Waits for damage that the scrub or a reader has met, or a state that differs.
    async fn damage_here(&self) -> String {
        loop {
            let listener = self.inner.damaged.listen();
            if let Some(what) = self.inner.damage.borrow().clone() {
                return what;
            }
            let differs = self.inner.group.with_machine(|machine| machine.difference());
            if let Some(what) = differs {
                return what;
            }
            listener.await;
        }
    }
}
