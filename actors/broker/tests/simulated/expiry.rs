//! Records that are too old for a group, or whose own time is over.

use barrage_broker::{QueueCounts, Settlement};
use barrage_model::group::Order;
use barrage_model::headers::TTL_MS;
use barrage_model::{GroupId, QueueSettings};

use super::queues::{ACK, NOW, create_group, group_name, leased, receive, settings, settle};
use super::*;

type Slot = (PartitionKey, GroupId);

fn wanted_for(max_age_ms: Option<u64>, dead_letter: bool) -> QueueSettings {
    let dead_letter = dead_letter.then(|| TopicName::parse("dead").unwrap());
    QueueSettings { max_age_ms, dead_letter, ..settings(None) }
}

async fn open(broker: &Broker, settings: QueueSettings) -> Slot {
    let topic = create(broker, "orders", 1).await;
    let group = create_group(broker, &topic, settings).await.unwrap();
    (PartitionKey { topic: topic.id, partition: PartitionId(0) }, group.id)
}

/// A batch of records with these headers.
fn with_headers(records: &[&[(&str, &str)]]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None, 1000);
    for (number, headers) in records.iter().enumerate() {
        let headers: Vec<_> = headers.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
        let (value, key) = (number.to_string(), Some(b"k".as_slice()));
        let value = Some(value.as_bytes());
        builder.push(&NewRecord { key, value, headers: &headers, timestamp_ms: 1000 }).unwrap();
    }
    Bytes::from(builder.finish().unwrap())
}

async fn counts(broker: &Broker, slot: Slot) -> QueueCounts {
    broker.counts(slot.0, slot.1).await.unwrap()
}

/// Values and why they are there.
async fn letters(broker: &Broker) -> Vec<(String, String)> {
    let dead = broker.topic(&TopicName::parse("dead").unwrap()).unwrap();
    let key = PartitionKey { topic: dead.id, partition: PartitionId(0) };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut letters = Vec::new();
    loop {
        let (offset, wait_until) = (Offset(letters.len() as u64), Instant::now());
        let request = FetchRequest { key, offset, bytes_max: 1 << 20, bytes_min: 1, wait_until };
        let fetched = broker.fetch(request).await.unwrap();
        let before = letters.len();
        for bytes in fetched.batches.iter().flat_map(|piece| batches(piece.as_ref())) {
            let view = BatchView::check(bytes.unwrap()).unwrap();
            assert!(!view.header().expires(), "a letter is kept");
            for record in &view.records(&Default::default()).unwrap() {
                let record = record.unwrap();
                let of = |name: &[u8]| record.headers.iter().find(|one| one.key == name);
                assert_eq!(of(TTL_MS.as_bytes()), None);
                let reason = text(of(b"dead-letter-reason").unwrap().value.unwrap());
                letters.push((text(record.value.unwrap()), reason));
            }
        }
        if letters.len() == before {
            return letters;
        }
    }
}

fn told(letters: &[(&str, &str)]) -> Vec<(String, String)> {
    letters.iter().map(|(value, why)| ((*value).to_owned(), (*why).to_owned())).collect()
}

/// What is too old is not handed out, and goes where dead letters go; what somebody has is left to
/// him, and goes there when he gives it back.
#[test]
fn what_is_too_old_becomes_a_dead_letter() {
    for cores in [1, 2] {
        run_on(51, &Disk::default(), async move {
            let brokers = start(cores).await;
            let broker = &brokers[0];
            create(broker, "dead", 1).await;
            let slot = open(broker, wanted_for(Some(2_000), true)).await;
            for value in ["0", "1", "2"] {
                produce(broker, slot.0, batch(value)).await.unwrap();
            }
            let first = receive(broker, slot, 1, NOW).await;
            assert_eq!(leased(&first), [(0, 1)]);
            sleep(Duration::from_millis(1_900)).await;
            assert_eq!(leased(&receive(broker, slot, 1, NOW).await), [(1, 1)], "young still");
            produce(broker, slot.0, batch("3")).await.unwrap();
            sleep(Duration::from_millis(200)).await;
            assert_eq!(leased(&receive(broker, slot, 9, NOW).await), [(3, 1)]);
            let nack = Settlement::Nack { delay_ms: Some(0) };
            settle(broker, slot, &first.leases, nack).await;
            sleep(Duration::from_secs(2)).await;
            let wanted = told(&[("2", "expired"), ("0", "expired")]);
            assert_eq!(letters(broker).await, wanted);
            let standing = counts(broker, slot).await;
            let wanted = QueueCounts { start: Offset(1), leased: 2, ..QueueCounts::default() };
            assert_eq!(standing, wanted);
        });
    }
}

#[test]
fn what_is_too_old_is_done_with_where_there_is_no_topic_for_it() {
    run_on(52, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let slot = open(broker, wanted_for(Some(1_000), false)).await;
        for number in 0..300 {
            produce(broker, slot.0, batch(&number.to_string())).await.unwrap();
        }
        sleep(Duration::from_secs(3)).await;
        let wanted = QueueCounts { start: Offset(300), ..QueueCounts::default() };
        assert_eq!(counts(broker, slot).await, wanted, "nobody had to ask for them");
        produce(broker, slot.0, batch("young")).await.unwrap();
        assert_eq!(leased(&receive(broker, slot, 9, NOW).await), [(300, 1)]);
    });
}

/// What a group does not want is no dead letter, however old it is; and an order by key goes on
/// behind what is too old.
#[test]
fn filters_and_orders_count_for_what_is_too_old() {
    let keyed = QueueSettings { order: Order::Key, ..wanted_for(Some(1_000), true) };
    let filter = Some("tags:new".to_owned());
    let filtered = QueueSettings { filter, ..wanted_for(Some(1_000), true) };
    for (settings, dead) in [(keyed, ["0", "1", "2"].as_slice()), (filtered, &["0", "2"])] {
        run_on(53, &Disk::default(), async move {
            let brokers = start(1).await;
            let broker = &brokers[0];
            create(broker, "dead", 1).await;
            let slot = open(broker, settings).await;
            let all = [[("tag", "new")].as_slice(), &[("tag", "old")], &[("tag", "new")]];
            produce(broker, slot.0, with_headers(&all)).await.unwrap();
            sleep(Duration::from_secs(6)).await;
            let dead: Vec<_> = dead.iter().map(|value| (*value, "expired")).collect();
            assert_eq!(letters(broker).await, told(&dead));
            produce(broker, slot.0, with_headers(&[&[("tag", "new")]])).await.unwrap();
            assert_eq!(leased(&receive(broker, slot, 9, NOW).await), [(3, 1)]);
        });
    }
}

/// However many records of a key are too old, they are away within seconds, in their order, and
/// hold those behind them no longer.
#[test]
fn old_records_of_one_key_do_not_go_one_a_second() {
    const OLD: usize = 900;
    for buries in [true, false] {
        run_on(57, &Disk::default(), async move {
            let brokers = start(1).await;
            let broker = &brokers[0];
            create(broker, "dead", 1).await;
            let (order, visibility_ms) = (Order::Key, 3_600_000);
            let wanted = wanted_for(Some(1_000), buries);
            let keyed = QueueSettings { order, visibility_ms, ..wanted };
            let slot = open(broker, keyed).await;
            // Somebody has the first one, and gives it back when the others are old.
            produce(broker, slot.0, with_headers(&[&[]])).await.unwrap();
            let first = receive(broker, slot, 9, NOW).await;
            assert_eq!(leased(&first), [(0, 1)]);
            produce(broker, slot.0, with_headers(&[[].as_slice(); OLD])).await.unwrap();
            sleep(Duration::from_secs(6)).await;
            assert!(letters(broker).await.is_empty(), "the first is not settled");
            settle(broker, slot, &first.leases, Settlement::Nack { delay_ms: Some(0) }).await;
            sleep(Duration::from_secs(5)).await;
            let numbers = (0..1).chain(0..OLD).map(|number| (number.to_string(), "expired".into()));
            let dead = if buries { numbers.collect() } else { Vec::new() };
            let there = letters(broker).await;
            let place = there.iter().zip(&dead).position(|(is, want)| is != want);
            assert_eq!((there.len(), place), (dead.len(), None), "{buries}");
            produce(broker, slot.0, with_headers(&[&[]])).await.unwrap();
            let young = receive(broker, slot, 9, NOW).await;
            assert_eq!(leased(&young), [(OLD as u64 + 1, 1)]);
        });
    }
}

/// Of one batch some records are wanted for a while only; they count from when they came, also
/// where they were delayed.
#[test]
fn a_record_whose_own_time_is_over_is_not_handed_out() {
    run_on(54, &Disk::default(), async move {
        let brokers = start(2).await;
        let broker = &brokers[0];
        create(broker, "dead", 1).await;
        let slot = open(broker, wanted_for(None, true)).await;
        let (short, long) = ([(TTL_MS, "800")], [(TTL_MS, "60000")]);
        let all = || with_headers(&[&[], &short, &long, &short]);
        produce(broker, slot.0, all()).await.unwrap();
        let delay = Some(barrage_broker::Delay::After(vec![2_000]));
        let (key, batch, acks) = (slot.0, all(), Acks::Quorum);
        let later = ProduceRequest { key, batch, delay, acks, deadline: soon() };
        broker.produce(later).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let early = receive(broker, slot, 9, NOW).await;
        assert_eq!(leased(&early), [(0, 1), (2, 1)]);
        settle(broker, slot, &early.leases, ACK).await;
        let late = receive(broker, slot, 9, Duration::from_secs(9)).await;
        assert_eq!(leased(&late), [(4, 1), (5, 1), (6, 1), (7, 1)], "they have just come");
        let nack = Settlement::Nack { delay_ms: Some(0) };
        settle(broker, slot, &late.leases, nack).await;
        sleep(Duration::from_secs(1)).await;
        assert_eq!(leased(&receive(broker, slot, 9, NOW).await), [(4, 2), (6, 2)]);
        sleep(Duration::from_secs(1)).await;
        let expired = ["1", "3", "1", "3"].map(|value| (value, "expired"));
        assert_eq!(letters(broker).await, told(&expired));
    });
}

/// One that is wanted lies behind many that are not any more: a small receive finds it at once.
#[test]
fn behind_much_that_is_over_the_next_record_is_found() {
    run_on(55, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let slot = open(broker, wanted_for(None, false)).await;
        for _ in 0..30 {
            let many = vec![[(TTL_MS, "100")]; 20];
            let many: Vec<&[(&str, &str)]> = many.iter().map(<[_; 1]>::as_slice).collect();
            produce(broker, slot.0, with_headers(&many)).await.unwrap();
        }
        produce(broker, slot.0, batch("young")).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let began = Instant::now();
        let received = receive(broker, slot, 1, NOW).await;
        assert_eq!(leased(&received), [(600, 1)]);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        sleep(Duration::from_millis(100)).await;
        let wanted = QueueCounts { start: Offset(600), leased: 1, ..QueueCounts::default() };
        assert_eq!(counts(broker, slot).await, wanted);
    });
}

/// What was acked, and is too old by now, is no dead letter because somebody rewinds; and where the
/// dead-letter topic is given up, nothing waits for it.
#[test]
fn a_rewind_makes_no_dead_letters_and_none_wait_without_a_topic() {
    run_on(56, &Disk::default(), async move {
        let brokers = start(1).await;
        let broker = &brokers[0];
        let slot = open(broker, wanted_for(Some(2_000), true)).await;
        for value in ["acked", "old"] {
            produce(broker, slot.0, batch(value)).await.unwrap();
        }
        let first = receive(broker, slot, 1, NOW).await;
        settle(broker, slot, &first.leases, ACK).await;
        sleep(Duration::from_secs(4)).await;
        produce(broker, slot.0, batch("young")).await.unwrap();
        broker.seek(slot.0, slot.1, barrage_broker::Seek::Rewind(Offset(0))).await.unwrap();
        let standing = counts(broker, slot).await;
        assert_eq!((standing.dying, standing.visible), (1, 1), "the topic is away");
        let topic = TopicName::parse("orders").unwrap();
        let name = group_name();
        let without = wanted_for(Some(2_000), false);
        broker.alter_group(topic, name, without, soon()).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let wanted = QueueCounts { start: Offset(2), visible: 1, ..QueueCounts::default() };
        assert_eq!(counts(broker, slot).await, wanted);
    });
}
