//! What goes on beside a group for as long as it is there.
//!
//! Owns: noticing that the replica leads, that openraft or the log has ended, that a checkpoint is
//! due. Must never: keep the group alive; each task ends when only it is left.

use std::pin::pin;
use std::rc::Weak;
use std::time::Duration;

use barrage_world as world;
use futures_util::FutureExt;
use futures_util::future::select;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use crate::group::{Core, leader_term};

/// After a checkpoint could not be written (a full disk), the next attempt.
const CHECKPOINT_RETRY: Duration = Duration::from_secs(5);

/// Follows the server's role, and reports the end of openraft. Ends with the group.
pub(crate) async fn watch_raft(core: Weak<Core>) {
    // The first changes with the server's role only, not with every entry.
    let watched = core.upgrade().map(|core| (core.raft.server_metrics(), core.raft.metrics()));
    let Some((mut server, mut all)) = watched else { return };
    let mut told = None;
    loop {
        let Some(strong) = core.upgrade() else { return };
        let metrics = all.borrow_watched().clone();
        let is_leader = metrics.state == ServerState::Leader;
        let others = metrics.membership_config.membership().nodes().count() > 1;
        strong.log.keep_payload(is_leader && others);
        let lead = leader_term(&metrics);
        if told != lead {
            told = lead;
            strong.lead_changed.notify_all();
        }
        drop(strong);
        let changed = server.changed().map(|changed| changed.is_ok());
        // It leads when the first entry of its term is applied.
        let goes_on = if is_leader && lead.is_none() {
            let applied = all.changed().map(|changed| changed.is_ok());
            select(pin!(changed), pin!(applied)).await.factor_first().0
        } else {
            changed.await
        };
        if !goes_on {
            break;
        }
    }
    let Some(core) = core.upgrade() else { return };
    core.lead_changed.notify_all();
    let state = core.metrics.borrow_watched().running_state.clone();
    core.fail(match state {
        Ok(()) => "raft ended without a reason".to_owned(),
        Err(fatal) => fatal.to_string(),
    });
}

/// Reports a poisoned log, also when nothing is proposed.
pub(crate) async fn watch_log(core: Weak<Core>) {
    let Some(log) = core.upgrade().map(|core| core.log.clone()) else { return };
    let reason = log.wait_poisoned().await;
    if let Some(core) = core.upgrade() {
        core.fail(format!("log is poisoned: {reason}"));
    }
}

/// Takes a checkpoint whenever enough was applied since the last.
pub(crate) async fn keep_checkpoints(core: Weak<Core>) {
    let Some(mut applied) = core.upgrade().map(|core| core.adapter.applied_watch()) else { return };
    while applied.changed().await.is_ok() {
        let Some(core) = core.upgrade() else { return };
        if core.closing.get() || core.failure.borrow().is_some() {
            return;
        }
        if core.adapter.bytes_since_checkpoint() < core.checkpoint_bytes {
            continue;
        }
        if let Err(error) = core.take_checkpoint().await {
            tracing::warn!(shard = %core.shard, %error, "checkpoint failed, will be retried");
            drop(core);
            world::sleep(CHECKPOINT_RETRY).await;
        }
    }
}
