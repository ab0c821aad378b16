//! What a member does that it should not do, or need not: commits by a former generation, of what
//! it let go, below what is stored; going, dying, falling silent.
//!
//! Must never: commit what nobody of the group has read.

use std::collections::BTreeMap;

use barrage_model::PartitionKey;
use barrage_world::{Instant, sleep};

use super::{Member, PAUSE, Part};
use crate::workload::draw::milliseconds;

/// How long who is slow says nothing.
const SILENT_MS_MAX: u64 = 9_000;

impl Member {
    /// Does what it should not do, or need not.
    pub(super) async fn err(&mut self) {
        if !self.client.random.one_in(self.plan.err_one_in) {
            return;
        }
        let Some(generation) = self.life.generation else { return };
        let life = self.life.clone();
        let positions = |parts: &BTreeMap<PartitionKey, Part>| -> Vec<(PartitionKey, u64)> {
            parts.iter().filter_map(|(key, part)| Some((*key, part.position?))).collect()
        };
        let mistake = self.client.random.below(7);
        tracing::debug!(member = %self.life.id, mistake, "errs");
        match mistake {
            0 => {
                if let Some(former) = life.former {
                    self.store(&life, former, &positions(&life.parts)).await;
                }
            }
            1 => {
                let had: Vec<_> = life.had.iter().map(|(key, at)| (*key, *at)).collect();
                let others = had.into_iter().filter(|(key, _)| !life.parts.contains_key(key));
                let others: Vec<_> = others.collect();
                if !others.is_empty() {
                    self.store(&life, generation, &others).await;
                }
            }
            2 => {
                let mut lower = positions(&life.parts);
                for (_, offset) in &mut lower {
                    *offset = self.client.random.between(0, *offset);
                }
                self.store(&life, generation, &lower).await;
            }
            3 => self.leave().await,
            4 => {
                // It ends, and comes back at once as somebody else; its last words come later.
                self.ghost = Some(life);
                self.client.hang_up();
                self.be_born();
            }
            5 => self.fall_silent().await,
            _ => {
                if let Some(ghost) = self.ghost.take() {
                    let generation = ghost.generation.unwrap_or(0);
                    self.store(&ghost, generation, &positions(&ghost.parts)).await;
                }
            }
        }
    }

    /// Says nothing for a while, and comes back as the one it was, with its last words first.
    async fn fall_silent(&mut self) {
        self.company.went(&self.life.id);
        self.client.hang_up();
        let back = Instant::now() + milliseconds(self.client.random.between(200, SILENT_MS_MAX));
        let is_called = |member: &Self| {
            let company = &member.company;
            company.is_closed() || company.is_calm() || member.client.is_stopped()
        };
        while Instant::now() < back && !is_called(self) {
            sleep(PAUSE).await;
        }
        if self.client.random.one_in(2) {
            self.commit().await;
        }
    }
}
