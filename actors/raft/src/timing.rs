//! How fast a group notices, elects and replicates.
//!
//! Owns: the timers and windows of a group, their defaults, and openraft's configuration.
//!
//! Must never: differ between the replicas of a group in what decides elections.

use std::time::Duration;

use openraft::SnapshotPolicy;

/// Timers and windows of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Timing {
    /// How often a leader says that it is there.
    pub heartbeat_interval: Duration,
    /// A follower that hears nothing stands for election after a random time between this
    pub election_timeout_min: Duration,
    /// and this.
    pub election_timeout_max: Duration,
    /// How long one append may take before the leader sends it again.
    pub append_deadline: Duration,
    /// How long a peer may take to receive and install a checkpoint.
    pub checkpoint_deadline: Duration,
    /// Appends on their way to one peer.
    pub appends_in_flight_max: usize,
    /// Entries in one append; their bytes are bounded by the log reader.
    pub append_entries_max: u64,
    /// A learner this many entries behind counts as caught up.
    pub learner_lag_max: u64,
}

/// openraft looks at a deadline only when it ticks: every 13/64 of a heartbeat. With heartbeats of
/// 100 ms that is `COARSE`, to which ticks are put off: other intervals tick less regularly.
const TICKS: (u32, u32) = (13, 64);

impl Timing {
    /// Whether a follower hears two heartbeats before it stands for election.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let tick = self.heartbeat_interval * TICKS.0 / TICKS.1;
        self.heartbeat_interval * 2 + tick < self.election_timeout_min
            && self.election_timeout_min < self.election_timeout_max
            && self.appends_in_flight_max > 0
            && self.append_entries_max > 0
    }

    pub(crate) fn raft_config(&self) -> Result<openraft::Config, openraft::ConfigError> {
        openraft::Config {
            cluster_name: "barrage".to_owned(),
            heartbeat_interval: milliseconds(self.heartbeat_interval),
            heartbeat_min_interval: Some(milliseconds(self.heartbeat_interval)),
            election_timeout_min: milliseconds(self.election_timeout_min),
            election_timeout_max: milliseconds(self.election_timeout_max),
            install_snapshot_timeout: milliseconds(self.checkpoint_deadline),
            enable_pre_vote: Some(true),
            max_payload_entries: self.append_entries_max,
            api_channel_size: Some(PROPOSALS_WAITING_MAX),
            api_batch_capacity: APPEND_BATCH_ENTRIES_MAX,
            // Checkpoints and the floor are ours.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            replication_lag_threshold: self.learner_lag_max,
            // A restarted leader stands for election anew: a stamp never outlives its term.
            enable_leader_restore: Some(false),
            // A wiped voter would be let back in and could lose what it had acknowledged.
            allow_log_reversion: Some(false),
            ..openraft::Config::default()
        }
        .validate()
    }
}

impl Default for Timing {
    fn default() -> Self {
        let timing = Self {
            heartbeat_interval: Duration::from_millis(100),
            // A failover takes the longer one, which is the lease of the leader that is gone, and
            // then a time between the two.
            election_timeout_min: Duration::from_millis(300),
            election_timeout_max: Duration::from_millis(550),
            append_deadline: Duration::from_secs(2),
            checkpoint_deadline: Duration::from_secs(30),
            appends_in_flight_max: 8,
            append_entries_max: 1024,
            learner_lag_max: 64,
        };
        assert!(timing.is_sound(), "a follower must hear a heartbeat before it stands");
        timing
    }
}

/// Proposals merged into one append. Their bytes are bounded by whoever proposes.
const APPEND_BATCH_ENTRIES_MAX: u64 = 64;
/// Proposals that may wait for openraft before `Full` is answered.
const PROPOSALS_WAITING_MAX: u64 = 4096;

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
