//! The bug bank: wrong code that is planted in the product to show that the scenarios find it.
//!
//! Owns the list: every name that `planted(..)` is asked for anywhere. A bug stands in the code
//! as the smallest wrong branch at the line it is about, asleep unless it is switched on by name
//! in a simulated run.
//!
//! Must never hold a bug that no scenario is named for: it would show nothing.

/// A planted bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// The name it is switched on by: the crate, then what is wrong.
    pub name: &'static str,
    /// What goes wrong, and how it would hurt.
    pub story: &'static str,
    /// The scenarios that must find it, each by itself.
    pub scenarios: &'static [&'static str],
}

const fn bug(name: &'static str, scenarios: &'static [&'static str], story: &'static str) -> Bug {
    Bug { name, story, scenarios }
}

/// All planted bugs.
pub const BUGS: &[Bug] = &[
    bug("commitlog-ack-before-flush", LOG, "what was written is taken for durable"),
    bug("commitlog-checkpoint-ahead-of-log", REPLICAS, "a checkpoint outlives what it holds"),
    bug("commitlog-checkpoint-below-floor", LOG, "a damaged checkpoint's forerunner does for it"),
    bug("commitlog-cold-unapplied", LOG, "what may still be cut off leaves memory"),
    bug("commitlog-damage-taken-for-end", LOG, "what lies behind a damaged place is lost"),
    bug("commitlog-dropped-while-readable", LOG, "records go that retention has not let go"),
    bug("commitlog-durable-before-its-forerunner", LOG, "what lies before it is taken for durable"),
    bug("commitlog-end-not-flushed", LOG, "what a killed process left is vouched for too early"),
    bug("commitlog-end-not-written-again", LOG, "what a failed flush dropped is built upon"),
    bug("commitlog-flush-tried-again", LOG, "the second flush says yes, and the data is gone"),
    bug("commitlog-hard-state-lost-on-roll", LOG, "a new segment does not restate the vote"),
    bug("commitlog-index-trusted-over-log", LOG, "entries that Raft needs are passed over"),
    bug("commitlog-mark-ahead-of-sync", LOG, "a torn tail is taken for damage"),
    bug("commitlog-read-unchecked", LOG, "what rots on the disk is handed out"),
    bug("commitlog-recycled-under-reader", LOG, "a file gets a new life while it is read"),
    bug("commitlog-refused-run-forgotten", LOG, "what apply refused is found by offset"),
    bug("commitlog-rewritten-not-flushed", LOG, "a shorter file takes a segment's place too early"),
    bug("commitlog-row-of-next-entry", LOG, "an entry is read that another index was asked for"),
    bug("commitlog-segment-name-not-durable", LOG, "a power loss takes the name of a segment"),
    bug("commitlog-segments-go-before-floor", LOG, "a log begins behind its floor"),
    bug("commitlog-stale-sectors-accepted", LOG, "old sectors of a recycled file pass for new"),
    bug("commitlog-truncate-lost", LOG, "what was cut off comes back"),
    bug("commitlog-wanted-run-left-out", LOG, "records go that were only next to others"),
    bug("commitlog-vote-not-saved", LOG, "a vote is acknowledged and written nowhere"),
    bug("broker-ack-before-commit", NODE, "a producer is told yes before the flush"),
    bug("broker-create-answers-early", NODE, "a topic is announced before it takes records"),
    bug("broker-duplicate-answered-early", NODE, "a repeated batch is promised while under way"),
    bug("broker-duplicate-sequence-accepted", NODE, "what is sent twice is stored twice"),
    bug("broker-fence-not-checked", NODE, "a producer that was replaced goes on writing"),
    bug("broker-high-watermark-ahead-of-apply", NODE, "readers are told of what may be lost"),
    bug("broker-log-time-falls", NODE, "a clock set back takes the log time with it"),
    bug("broker-producer-id-given-twice", NODE, "two producers take each other for one"),
    bug("broker-producer-state-not-in-checkpoint", NODE, "a restart forgets what was sent"),
    bug("broker-retention-ahead-of-expiry", NODE, "young records go with the old ones"),
    bug("broker-wrong-partition", NODE, "records lie where nobody looks for them"),
    bug("broker-agreed-before-applied", NODE, "a shard says that it follows, and does not yet"),
    bug("broker-holder-not-checked", CLUSTER, "who lost a topic goes on writing to it"),
    bug("broker-claim-not-exclusive", CLUSTER, "two producers are told that each is alone"),
    bug("broker-lost-holder-returns", CLUSTER, "who lost a topic to another has it again"),
    bug("broker-holder-not-in-checkpoint", CLUSTER, "who holds a topic is forgotten"),
    bug("broker-apply-takes-its-own-time", CLUSTER, "the copies of a shard become different"),
    bug("broker-birth-forgotten", CLUSTER, "a newcomer that asks twice becomes two members"),
    bug("broker-copy-opened-before-whole", CLUSTER, "a copy votes without what came before"),
    bug(
        "broker-create-unknown-elsewhere",
        CLUSTER,
        "other nodes do not know a topic that is there",
    ),
    bug("broker-end-not-confirmed", CLUSTER, "a reader hears of an end that was passed before"),
    bug("broker-founder-founds-again", CLUSTER, "a founder that was removed asks for its cluster"),
    bug("broker-hint-to-itself", CLUSTER, "clients of a leader that was cut off go in circles"),
    bug("broker-repeats-what-may-be-done", CLUSTER, "a topic just made is said to have been there"),
    bug("broker-silence-taken-for-no", CLUSTER, "an order that nobody answered is given twice"),
    bug(
        "broker-acks-before-commit",
        QUEUE,
        "an ack that was promised is forgotten by the next leader",
    ),
    bug(
        "broker-dead-letter-not-awaited",
        QUEUE,
        "a record is given up because its dead-letter topic is away",
    ),
    bug("broker-dead-letters-unnumbered", QUEUE, "a record is a dead letter twice"),
    bug("broker-delay-forgotten", QUEUE, "what was given back for a while comes back at once"),
    bug("broker-cancelled-record-waits", DELAYS, "a delayed record comes that was cancelled"),
    bug("broker-delay-not-moved", DELAYS, "a delayed record comes when it was to come at first"),
    bug("broker-delayed-record-early", DELAYS, "a delayed record comes a second before its time"),
    bug("broker-dying-record-reclaimed", QUEUE, "a record is gone before its dead letter is there"),
    bug("broker-leased-record-let-go", QUEUE, "what was handed out once counts as done with"),
    bug("broker-waiting-record-reclaimed", DELAYS, "what waits longest has nothing to come"),
    bug("broker-delayed-records-never-due", DELAYS, "what waits for one leader waits for ever"),
    bug("broker-delays-not-in-checkpoint", DELAYS, "after a restart nobody knows what waits"),
    bug("broker-old-records-gone", DELAYS, "what is too old is gone, and no dead letter"),
    bug("broker-old-records-handed-out", DELAYS, "a record is delivered however old it is"),
    bug("broker-young-records-expire", DELAYS, "a record is too old at half the age"),
    bug("broker-released-record-still-waits", DELAYS, "a delayed record comes once per leader"),
    bug("broker-deliveries-not-counted", QUEUE, "every delivery says that it is the first"),
    bug("broker-extension-forgotten", QUEUE, "a lease that was lengthened ends all the same"),
    bug(
        "broker-lease-clock-by-the-wall",
        GROUPS,
        "a clock that is set ahead ends every lease and session",
    ),
    bug("broker-wanted-record-passed", QUEUE, "a filter settles a record that is wanted"),
    bug("broker-keys-out-of-order", QUEUE, "records of one key are had side by side"),
    bug("broker-lease-ends-early", QUEUE, "a lease is a second shorter than granted"),
    bug("broker-leases-never-end", QUEUE, "what a consumer forgets stays away for ever"),
    bug(
        "broker-leases-not-in-checkpoint",
        QUEUE,
        "after a restart what was acked is delivered again",
    ),
    bug(
        "broker-old-receipt-taken",
        QUEUE,
        "whoever had a record once settles it for who has it now",
    ),
    bug(
        "broker-unsent-record-settled",
        QUEUE,
        "a record that did not fit into an answer counts as done",
    ),
    bug(
        "broker-foreign-commit-taken",
        STREAMS,
        "a member stores offsets of a partition that it let go",
    ),
    bug(
        "broker-generation-not-in-checkpoint",
        STREAMS,
        "after a restart generations are given out again",
    ),
    bug(
        "broker-heard-by-anybody",
        STREAMS,
        "a former leader tells members that they have what others have",
    ),
    bug("broker-offsets-not-in-checkpoint", STREAMS, "after a restart a group begins anew"),
    bug("broker-partition-given-before-let-go", STREAMS, "two members read a partition at a time"),
    bug("broker-reset-never-goes-back", STREAMS, "what is to be read again is not"),
    bug("broker-reset-not-awaited", STREAMS, "a reset is told done that perhaps never will be"),
    bug("broker-session-not-renewed", STREAMS, "a member that is heard of all the time is gone"),
    bug("broker-sessions-never-end", STREAMS, "what a dead member had is nobody's for ever"),
    bug(
        "broker-share-of-the-gone-waits",
        STREAMS,
        "what a member left is nobody's until another one comes",
    ),
    bug("broker-stale-commit-taken", STREAMS, "a commit by an assignment that is over is stored"),
    bug("broker-stored-offset-falls", STREAMS, "a late commit takes the group back"),
    bug("native-append-order-lost", NODE, "batches of a connection overtake each other"),
    bug("native-permit-leaked", NODE, "every refusal makes the server take less"),
    bug("native-replies-out-of-order", NODE, "a reply is taken for another request's"),
    bug("native-short-write-loses-tail", NODE, "the rest of a reply is never sent"),
    bug("peer-answer-to-another-call", CLUSTER, "who waits longest hears what another one asked"),
    bug("raft-ack-before-flush", REPLICAS, "an entry counts for the quorum before the flush"),
    bug("raft-all-means-majority", CLUSTER, "who asked for every copy's flush gets less"),
    bug("raft-append-answered-early", REPLICAS, "the leader counts a copy that is not there yet"),
    bug("raft-checkpoint-ahead-of-state", REPLICAS, "a checkpoint claims more than it holds"),
    bug("raft-checkpoint-installed-in-memory", REPLICAS, "an installed checkpoint is not written"),
    bug("raft-floor-ahead-of-retention", NODE, "entries go whose records are promised"),
    bug("raft-hole-replicated", REPLICAS, "what the floor has passed is left out for a follower"),
    bug("raft-leads-before-caught-up", REPLICAS, "a new leader serves before it has applied"),
    bug("raft-membership-not-in-checkpoint", REPLICAS, "a restored replica forgets who votes"),
    bug("raft-misrouted-request-accepted", REPLICAS, "a request for another node is answered"),
    bug("raft-overtaking-append-taken-for-lost-log", REPLICAS, "a late packet ends the leader"),
    bug("raft-proposal-in-any-term", REPLICAS, "a stamp outlives the term it was given in"),
    bug("raft-purge-before-checkpoint", REPLICAS, "entries go before a checkpoint covers them"),
    bug("raft-read-without-barrier", REPLICAS, "a leader that was cut off answers from the past"),
    bug("raft-transfer-to-everybody", CLUSTER, "who is told of a transfer stands for election"),
    bug("raft-unknown-called-failed", REPLICAS, "an open outcome is told as a failure"),
    bug("raft-vote-not-awaited", REPLICAS, "a vote is given that a power loss takes back"),
];

const CLUSTER: &[&str] = &["cluster"];
const QUEUE: &[&str] = &["queue"];
const STREAMS: &[&str] = &["streams"];
const DELAYS: &[&str] = &["delays"];
const GROUPS: &[&str] = &["queue", "streams"];
const NODE: &[&str] = &["node"];
const LOG: &[&str] = &["log"];
const REPLICAS: &[&str] = &["replicas"];

/// The bug of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Bug> {
    BUGS.iter().find(|bug| bug.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::scenario;

    /// A name that no code asks for finds nothing; one that is not listed is never looked for.
    #[test]
    fn the_bank_lists_what_the_sources_plant() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
        let mut planted = BTreeSet::new();
        for room in ["actors", "net", "runtime", "storage"] {
            gather(&root.join(room), &mut planted);
        }
        let listed: BTreeSet<String> = BUGS.iter().map(|bug| bug.name.to_owned()).collect();
        assert_eq!(listed.difference(&planted).collect::<Vec<_>>(), [""; 0], "not planted");
        assert_eq!(planted.difference(&listed).collect::<Vec<_>>(), [""; 0], "not listed");
    }

    /// Adds every name that `planted(..)` is asked for below `folder`, the world's tests apart.
    fn gather(folder: &Path, planted: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_world = path.ends_with("runtime/world") || path.ends_with("runtime/sim");
            if path.is_dir() && !is_world {
                gather(&path, planted);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let asked = text.split("planted(").skip(1);
                let names = asked.filter_map(|rest| rest.trim_start().strip_prefix('"'));
                planted.extend(names.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn every_bug_has_a_name_of_its_own_and_a_scenario_that_exists() {
        let names: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        for bug in BUGS {
            assert!(!bug.scenarios.is_empty(), "{} has no scenario", bug.name);
            for name in bug.scenarios {
                assert!(scenario::find(name).is_some(), "{}: no scenario {name}", bug.name);
            }
        }
    }
}
