//! Stream groups: members, offsets and fences, and what a power cut leaves of them.

use barrage_broker::{
    Assignor, CommitError, CommitRequest, Heartbeat, HeartbeatRequest, Standing, StreamBeat,
    StreamError, StreamMember, StreamOffset, StreamReads,
};
use barrage_model::{GroupId, GroupName};

use super::*;

const SESSION_MS: u64 = 10_000;

/// A member as a client holds it.
struct Member {
    broker: Broker,
    group: GroupId,
    member: StreamMember,
    told: Heartbeat,
}

fn member(id: &str) -> StreamMember {
    StreamMember { id: id.to_owned(), instance: None }
}

async fn beat(
    broker: &Broker,
    (group, member): (GroupId, &StreamMember),
    beat: StreamBeat,
) -> Result<Heartbeat, StreamError> {
    broker.stream_heartbeat(HeartbeatRequest { group, member: member.clone(), beat }).await
}

impl Member {
    async fn join(broker: &Broker, group: GroupId, id: &str) -> Self {
        let member = member(id);
        let reads = StreamReads { topics: Vec::new(), assignor: Assignor::Sticky };
        let join = StreamBeat::Join { reads, session_ms: SESSION_MS, rebalance_ms: SESSION_MS };
        let told = beat(broker, (group, &member), join).await.unwrap();
        Self { broker: broker.clone(), group, member, told }
    }

    /// Says what it has, without what it is to give up.
    async fn beat(&mut self) -> Result<(), StreamError> {
        let (generation, held) = (self.told.generation, Some(self.told.own.clone()));
        let stay = StreamBeat::Stay { generation, held, reads: None };
        self.told = beat(&self.broker, (self.group, &self.member), stay).await?;
        Ok(())
    }

    async fn commit(
        &self,
        key: PartitionKey,
        offset: u64,
    ) -> Result<Result<(), CommitError>, StreamError> {
        let committer = Some((self.member.clone(), self.told.generation));
        let (leader_epoch, metadata) = (None, String::new());
        let offsets = vec![StreamOffset { key, offset: Offset(offset), leader_epoch, metadata }];
        let request = CommitRequest { group: self.group, committer, offsets };
        Ok(self.broker.stream_commit(request).await?.remove(0))
    }

    fn own(&self) -> Vec<u32> {
        self.told.own.iter().map(|key| key.partition.0).collect()
    }
}

/// Lets members speak, second by second.
async fn pass(members: &mut [&mut Member], seconds: u64) {
    for _ in 0..seconds {
        for member in members.iter_mut() {
            member.beat().await.unwrap();
        }
        sleep(Duration::from_secs(1)).await;
    }
}

async fn filled(broker: &Broker, partitions: u32) -> (TopicInfo, GroupId) {
    let topic = create(broker, "orders", partitions).await;
    let name = GroupName::parse("billing").unwrap();
    let group = broker.create_stream_group(topic.name.clone(), name, soon()).await.unwrap();
    (topic, group.id)
}

fn key(topic: &TopicInfo, partition: u32) -> PartitionKey {
    PartitionKey { topic: topic.id, partition: PartitionId(partition) }
}

/// What was committed stays, who was a member is one, and what belongs to an older assignment is
/// refused; the time for which nobody led ends no session.
#[test]
fn members_offsets_and_fences_survive_a_power_cut() {
    for cores in [1, 2] {
        let disk = Disk::default();
        let (topic, group, told) = run_on(11, &disk, async move {
            let brokers = start(cores).await;
            let (topic, group) = filled(&brokers[0], 4).await;
            let mut one = Member::join(&brokers[0], group, "one").await;
            assert_eq!((one.told.generation, one.own()), (1, vec![0, 1, 2, 3]));
            assert_eq!(one.commit(key(&topic, 3), 7).await.unwrap(), Ok(()));
            let mut two = Member::join(brokers.last().unwrap(), group, "two").await;
            pass(&mut [&mut one, &mut two], 4).await;
            assert_eq!((one.own().len(), two.own().len()), (2, 2));
            assert!(two.own().contains(&3) && !one.own().contains(&3));
            assert_eq!(two.commit(key(&topic, 3), 9).await.unwrap(), Ok(()));
            let behind = Err(CommitError::Behind { stored: Offset(9) });
            assert_eq!(two.commit(key(&topic, 3), 8).await.unwrap(), behind);
            let foreign = Err(CommitError::NotOwner);
            assert_eq!(one.commit(key(&topic, 3), 10).await.unwrap(), foreign);
            (topic, group, (one.told, two.told))
        });
        let rebooted = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
        run_on(12, &rebooted, async move {
            sleep(Duration::from_secs(60)).await;
            let brokers = start(cores).await;
            let broker = brokers[0].clone();
            let member =
                |id, told| Member { broker: broker.clone(), group, member: member(id), told };
            let (mut one, mut two) = (member("one", told.0), member("two", told.1));
            let stale = Heartbeat { generation: 1, ..two.told.clone() };
            let late = Member { told: stale, ..member("two", two.told.clone()) };
            let refused = late.commit(key(&topic, 3), 20).await;
            assert!(matches!(refused, Err(StreamError::StaleGeneration)), "{refused:?}");
            pass(&mut [&mut one, &mut two], 3).await;
            assert_eq!(two.commit(key(&topic, 3), 11).await.unwrap(), Ok(()));
            let stored = broker.stream_offsets(group, vec![key(&topic, 3)]).await.unwrap();
            assert_eq!(stored[0].offset, Offset(11));
            let busy = broker.stream_reset(group, vec![(key(&topic, 3), Offset(0))]).await;
            assert!(matches!(busy, Err(StreamError::HasMembers)), "{busy:?}");
        });
    }
}

/// Who is silent for its session is lost, and what it had is others'; what it says then is refused,
/// and nothing of it is stored.
#[test]
fn a_silent_member_is_lost_and_fenced() {
    run_on(13, &Disk::default(), async move {
        let brokers = start(2).await;
        let (topic, group) = filled(&brokers[0], 2).await;
        let mut one = Member::join(&brokers[0], group, "one").await;
        let mut two = Member::join(&brokers[1], group, "two").await;
        pass(&mut [&mut one, &mut two], 4).await;
        let lost = two.own()[0];
        pass(&mut [&mut one], SESSION_MS / 1_000 - 2).await;
        assert_eq!(one.own().len(), 1, "its session is not over");
        pass(&mut [&mut one], 6).await;
        assert_eq!(one.own(), [0, 1]);
        let late = two.commit(key(&topic, lost), 5).await;
        assert!(matches!(late, Err(StreamError::UnknownMember)), "{late:?}");
        let late = two.beat().await;
        assert!(matches!(late, Err(StreamError::UnknownMember)), "{late:?}");
        assert!(
            brokers[0].stream_offsets(group, vec![key(&topic, lost)]).await.unwrap().is_empty()
        );
        brokers[0].stream_leave(group, one.member.clone()).await.unwrap();
        let described = brokers[1].describe_stream(group, topic.id).await.unwrap();
        assert_eq!((described.standing, described.members.len()), (Standing::Empty, 0));
        let to = vec![(key(&topic, 0), Offset(0)), (key(&topic, 7), Offset(0))];
        let reset = brokers[1].stream_reset(group, to).await.unwrap();
        assert_eq!(reset, [Ok(()), Err(CommitError::UnknownPartition)]);
    });
}

/// A heartbeat that brings nothing new writes nothing, while most of the session is to come.
#[test]
fn quiet_heartbeats_cost_no_entry() {
    run_on(14, &Disk::default(), async move {
        let brokers = start(1).await;
        let (_, group) = filled(&brokers[0], 2).await;
        let mut one = Member::join(&brokers[0], group, "one").await;
        one.beat().await.unwrap();
        let flushes = async || -> u64 {
            let cores = brokers[0].stats(soon()).await.unwrap();
            cores.iter().flat_map(|core| &core.shards).map(|shard| shard.flushes).sum()
        };
        let before = flushes().await;
        for _ in 0..1_000 {
            one.beat().await.unwrap();
        }
        let after = flushes().await;
        assert!(after <= before + 1, "{} flushes", after - before);
        assert_eq!(one.told.interval_ms, 1_000, "a tenth of the session");
        // And it stays a member for as long as it speaks.
        pass(&mut [&mut one], 60).await;
        assert_eq!(one.own(), [0, 1]);
    });
}

#[test]
fn what_is_wrong_with_a_request_is_told() {
    run_on(15, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let (topic, group) = filled(broker, 1).await;
        let other = create(broker, "other", 1).await;
        let join = |topics, session_ms| {
            let reads = StreamReads { topics, assignor: Assignor::Range };
            StreamBeat::Join { reads, session_ms, rebalance_ms: 0 }
        };
        let foreign = beat(broker, (group, &member("m")), join(vec![other.id], 0)).await;
        assert!(matches!(foreign, Err(StreamError::UnknownTopic { .. })), "{foreign:?}");
        let short = beat(broker, (group, &member("m")), join(Vec::new(), 10)).await;
        assert!(matches!(short, Err(StreamError::Invalid { .. })), "{short:?}");
        let long = beat(broker, (group, &member(&"m".repeat(257))), join(Vec::new(), 0)).await;
        assert!(matches!(long, Err(StreamError::Invalid { .. })), "{long:?}");
        let named = beat(broker, (group, &member("")), join(vec![topic.id], 0)).await.unwrap();
        assert_eq!((named.member.len(), named.own.len()), (32, 1));
        let nobody = beat(broker, (GroupId(99), &member("m")), join(Vec::new(), 0)).await;
        assert!(matches!(nobody, Err(StreamError::UnknownGroup)), "{nobody:?}");
        let many = vec![key(&topic, 0); 1_001];
        let many = broker.stream_offsets(group, many).await;
        assert!(matches!(many, Err(StreamError::Invalid { .. })), "{many:?}");
        let name = GroupName::parse("billing").unwrap();
        broker.delete_group(topic.name.clone(), name, soon()).await.unwrap();
        let gone = broker.describe_stream(group, topic.id).await;
        assert!(matches!(gone, Err(StreamError::UnknownGroup)), "{gone:?}");
        assert_eq!(broker.list_groups(&topic.name).unwrap().1, []);
    });
}
