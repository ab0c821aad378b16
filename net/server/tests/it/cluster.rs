//! Several nodes as processes: they join, lose a leader, grow and shrink, and repair each other.

use std::fs;
use std::io::{Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::node::{Home, Node, barrage, command, numbers, words};

/// One core and few shards each: the machine is shared by all of them.
const FOUNDER: &[&str] = &["--cores", "1", "--shards", "3"];

/// Nodes with their homes, by number from 0; a node may be down.
struct Cluster {
    homes: Vec<Home>,
    nodes: Vec<Option<Node>>,
}

impl Cluster {
    /// Starts `count` nodes and waits until every shard has three copies.
    fn start(count: usize) -> Self {
        let mut cluster = Self { homes: Vec::new(), nodes: Vec::new() };
        for _ in 0..count {
            cluster.join();
        }
        cluster.await_healthy();
        cluster
    }

    /// Starts one more node.
    fn join(&mut self) {
        let at = self.homes.len();
        self.homes.push(Home::new());
        self.nodes.push(None);
        self.up(at);
    }

    /// Starts a node again, or for the first time.
    fn up(&mut self, at: usize) {
        let servers = self.servers();
        let joining = ["--cores", "1", "--join", &servers];
        let flags = if servers.is_empty() { FOUNDER } else { &joining };
        self.nodes[at] = Some(Node::start(&self.homes[at], flags));
    }

    fn down(&mut self, at: usize) -> Node {
        self.nodes[at].take().unwrap()
    }

    /// The addresses of those that are up.
    fn servers(&self) -> String {
        let up: Vec<String> = self.nodes.iter().flatten().map(Node::address).collect();
        up.join(",")
    }

    fn any(&self) -> &Node {
        self.nodes.iter().flatten().next().unwrap()
    }

    fn logs(&self) -> String {
        let told = self.nodes.iter().flatten().map(Node::log);
        told.collect::<Vec<_>>().join("\n----\n")
    }

    /// Runs a client command over all nodes that must succeed; returns its stdout.
    fn run(&self, args: &[&str]) -> String {
        let output = command(args).args(["--server", &self.servers()]).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}\n{}", words(&output), self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    fn await_healthy(&self) {
        self.run(&["cluster", "status", "--wait", "120s"]);
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(args)).unwrap()
    }

    /// The node, by number, that leads the first partition of a topic.
    fn leader_of(&self, topic: &str) -> usize {
        self.leader_where(topic, |partition| partition["partition"] == 0)
    }

    /// The node, by number, that leads the first partition of a topic of which this holds.
    fn leader_where(&self, topic: &str, is_so: impl Fn(&Value) -> bool) -> usize {
        let described = self.json(&["topic", "describe", topic, "-o", "json"]);
        let partitions = described["partitions"].as_array().unwrap();
        let partition = partitions.iter().find(|partition| is_so(partition)).unwrap();
        let leader = partition["leader"]["node"].as_u64().unwrap();
        let leads = |node: &Option<Node>| {
            node.as_ref().is_some_and(|node| node.ready()["node"].as_u64() == Some(leader))
        };
        self.nodes.iter().position(leads).unwrap()
    }

    /// All values of a topic, sorted.
    fn values(&self, topic: &str) -> Vec<u32> {
        let text = self.run(&["consume", topic, "--from", "start", "--exit"]);
        let mut values: Vec<u32> = text.lines().map(|line| line.parse().unwrap()).collect();
        values.sort_unstable();
        values
    }
}

#[test]
fn a_killed_leader_loses_nothing_and_comes_back() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t", "--partitions", "3"]);
    let servers = cluster.servers();
    let mut produce = command(&["produce", "t", "--acks", "all", "--timeout", "60s"]);
    produce.args(["--server", &servers]);
    produce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut produce = produce.spawn().unwrap();
    let mut stdin = produce.stdin.take().unwrap();
    let killed = cluster.leader_of("t");
    for part in 0..20_u32 {
        if part == 5 {
            cluster.down(killed).kill();
        }
        if part == 15 {
            cluster.up(killed);
        }
        stdin.write_all(numbers(part * 1000 + 1, part * 1000 + 1000).as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    drop(stdin);
    let done = produce.wait_with_output().unwrap();
    // What was not on all three when one of them was dead is told apart, and stays.
    let said = words(&done);
    assert!(said.contains("failed 0, unknown 0"), "{said}\n{}", cluster.logs());
    cluster.await_healthy();
    assert_eq!(cluster.values("t"), (1..=20_000).collect::<Vec<u32>>());
    // An orderly stop of one after the other keeps it serving.
    for at in 0..3 {
        assert_eq!(cluster.down(at).stop(), Some(0));
        cluster.run(&["topic", "describe", "t"]);
        cluster.up(at);
        cluster.await_healthy();
    }
    assert_eq!(cluster.values("t").len(), 20_000);
}

/// A member of a stream group, as a process: what it prints is heard when it has ended.
struct Member {
    child: std::process::Child,
    printed: thread::JoinHandle<String>,
}

impl Member {
    fn start(servers: &str, topic: &str, group: &str) -> Self {
        let mut consume = command(&["consume", topic, "--group", group, "--server", servers]);
        let mut child = consume.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        let printed = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        Self { child, printed }
    }

    fn values(self) -> Vec<u32> {
        self.printed.join().unwrap().lines().map(|line| line.parse().unwrap()).collect()
    }

    /// Interrupted, it stores what it has printed and leaves.
    fn interrupt(mut self) -> Vec<u32> {
        let pid = self.child.id().to_string();
        let kill = std::process::Command::new("kill").args(["-INT", &pid]).status();
        assert!(kill.unwrap().success() && self.child.wait().unwrap().success());
        self.values()
    }

    fn kill(mut self) -> Vec<u32> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.values()
    }
}

/// Members of a stream group come and go while nodes are killed, the coordinator of the group among
/// them: nothing is skipped, and the group ends with nothing left to read.
#[test]
fn a_stream_group_reads_on_when_its_coordinator_is_killed() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t", "--partitions", "3"]);
    cluster.run(&["group", "create", "t", "g", "--kind", "stream"]);
    let servers = cluster.servers();
    let mut members = vec![Member::start(&servers, "t", "g"), Member::start(&servers, "t", "g")];
    let mut values = Vec::new();
    // The first group of a cluster of three shards is coordinated by the leader of the second.
    let first = cluster.leader_where("t", |partition| partition["shard"] == 2);
    let second = (first + 1) % 3;
    for part in 0..8_u32 {
        let text = numbers(part * 1000 + 1, part * 1000 + 1000);
        let mut produce = command(&["produce", "t", "--timeout", "60s", "--server", &servers]);
        produce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut produce = produce.spawn().unwrap();
        produce.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        match part {
            2 => cluster.down(first).kill(),
            3 => members.push(Member::start(&servers, "t", "g")),
            4 => {
                cluster.up(first);
                cluster.await_healthy();
                values.extend(members.remove(0).interrupt());
            }
            5 => cluster.down(second).kill(),
            6 => values.extend(members.remove(0).kill()),
            _ => {}
        }
        assert!(produce.wait().unwrap().success(), "{}", cluster.logs());
        thread::sleep(Duration::from_millis(500));
    }
    cluster.up(second);
    cluster.await_healthy();
    let lag = || cluster.json(&["group", "describe", "t", "g", "-o", "json"])["lag"].as_u64();
    let began = std::time::Instant::now();
    while lag() != Some(0) {
        assert!(began.elapsed() < Duration::from_secs(180), "lag {:?}", lag());
        thread::sleep(Duration::from_millis(500));
    }
    values.extend(members.remove(0).interrupt());
    values.sort_unstable();
    values.dedup();
    assert_eq!(values, (1..=8_000).collect::<Vec<u32>>());
}

/// The leader of a group with a filter is killed while records come and go: whoever leads next goes
/// on behind what was settled, and nobody is given what the filter does not let through.
#[test]
fn a_filter_holds_when_the_leader_is_killed() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t"]);
    cluster.run(&["group", "create", "t", "g", "--filter", "tags:wanted", "--visibility", "5s"]);
    let servers = cluster.servers();
    let produce = |tag: &str, first: u32| {
        let mut produce = command(&["produce", "t", "--tag", tag, "--compression", "lz4"]);
        produce.args(["--timeout", "60s", "--server", &servers]);
        produce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut produce = produce.spawn().unwrap();
        let lines = numbers(first, first + 499);
        produce.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(produce.wait().unwrap().success());
    };
    // What is printed counts, also where the ack was lost: it comes again then.
    let consume = |flags: &[&str]| {
        let mut consume = command(&["consume", "t", "--group", "g", "--server", &servers]);
        let printed = consume.args(flags).output().unwrap().stdout;
        let printed = String::from_utf8(printed).unwrap();
        printed.lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>()
    };
    let mut values = Vec::new();
    let killed = cluster.leader_of("t");
    for part in 0..8_u32 {
        produce("other", part * 1_000 + 501);
        produce("wanted", part * 1_000 + 1);
        match part {
            3 => cluster.down(killed).kill(),
            6 => {
                cluster.up(killed);
                cluster.await_healthy();
            }
            _ => {}
        }
        values.extend(consume(&["-n", "300"]));
    }
    // By now every lease has ended whose ack was lost.
    thread::sleep(Duration::from_secs(6));
    values.extend(consume(&["--exit"]));
    values.sort_unstable();
    values.dedup();
    let wanted = (0..8).flat_map(|part| part * 1_000 + 1..=part * 1_000 + 500);
    assert_eq!(values, wanted.collect::<Vec<u32>>(), "{}", cluster.logs());
    let described = cluster.json(&["group", "describe", "t", "g", "-o", "json"]);
    assert_eq!((&described["visible"], &described["leased"]), (&0.into(), &0.into()));
}

#[test]
fn a_node_is_replaced_and_a_minority_refuses() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t", "--partitions", "3", "--retention", "unlimited"]);
    let file = cluster.homes[0].path("lines");
    fs::write(&file, numbers(1, 300_000)).unwrap();
    cluster.run(&["produce", "t", "--file", file.to_str().unwrap()]);
    // The first one goes for good, with the catalog it founded.
    cluster.down(0).kill();
    cluster.join();
    cluster.run(&["cluster", "decommission", "1", "--wait=120s"]);
    cluster.await_healthy();
    let nodes = cluster.json(&["cluster", "nodes", "-o", "json"]);
    let ids: Vec<u64> =
        nodes.as_array().unwrap().iter().map(|n| n["node"].as_u64().unwrap()).collect();
    assert_eq!(ids, [2, 3, 4]);
    assert_eq!(cluster.values("t").len(), 300_000);
    // It comes back and does not know: it was away when it was removed.
    let mut removed = Node::spawn(&cluster.homes[0], FOUNDER);
    assert_ne!(removed.await_end(), Some(0));
    assert!(removed.log().contains("node 1 was removed from the cluster"), "{}", removed.log());
    // One of three is left: it says no, and does not say that it stored anything.
    cluster.down(1).kill();
    cluster.down(2).kill();
    let left = cluster.any();
    let mut produce = left.client(&["produce", "t", "--timeout", "3s"]);
    produce.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut produce = produce.spawn().unwrap();
    produce.stdin.take().unwrap().write_all(b"1\n").unwrap();
    let output = produce.wait_with_output().unwrap();
    assert!(!output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("acked 0"), "{}", words(&output));
}

/// Each node moves twice, two of the three at a time: what comes back has another port.
fn move_by_twos(after_each: impl Fn(&Cluster)) {
    let mut cluster = Cluster::start(3);
    for round in 0..3 {
        let (one, other) = (round, (round + 1) % 3);
        cluster.down(one).kill();
        cluster.down(other).kill();
        cluster.up(one);
        cluster.up(other);
        after_each(&cluster);
    }
    cluster.await_healthy();
}

/// Two that come back at other ports know each other's old ones only.
#[test]
fn nodes_that_moved_at_the_same_time_find_each_other() {
    move_by_twos(Cluster::await_healthy);
}

/// Before anybody has stored where the first one is now, the two others move as well: only the
/// addresses that they were told to join by lead to it.
#[test]
fn nodes_that_moved_one_after_the_other_find_each_other() {
    move_by_twos(|_| ());
}

/// One bit of the first segment of every shard: records that only a read of them shows.
fn flip_bits(home: &Home) {
    for shard in ["1", "2", "3"] {
        let logs = fs::read_dir(home.data().join("shards").join(shard)).unwrap();
        let logs = logs.map(|entry| entry.unwrap().path());
        let first = logs.filter(|path| path.extension().is_some_and(|end| end == "log")).min();
        let path = first.unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[100_000] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
}

/// A damaged leader cannot give what a new node needs, and cannot be repaired while a third node is
/// gone for good: the second one, which has it all, must lead.
#[test]
fn a_node_is_replaced_although_another_one_is_damaged() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t", "--partitions", "3", "--retention", "unlimited"]);
    let file = cluster.homes[0].path("lines");
    fs::write(&file, numbers(1, 3_000_000)).unwrap();
    cluster.run(&["produce", "t", "--file", file.to_str().unwrap()]);
    assert_eq!(cluster.down(1).stop(), Some(0));
    flip_bits(&cluster.homes[1]);
    cluster.up(1);
    cluster.await_healthy();
    cluster.down(2).kill();
    for shard in ["1", "2", "3"] {
        cluster.run(&["cluster", "transfer", "--shard", shard, "--to", "2"]);
    }
    cluster.join();
    cluster.run(&["cluster", "decommission", "3", "--wait=120s"]);
    cluster.await_healthy();
    assert_eq!(cluster.values("t").len(), 3_000_000);
}

#[test]
fn damage_is_repaired_by_the_others() {
    let mut cluster = Cluster::start(3);
    cluster.run(&["topic", "create", "t", "--partitions", "3", "--retention", "unlimited"]);
    let file = cluster.homes[0].path("lines");
    fs::write(&file, numbers(1, 1_000_000)).unwrap();
    cluster.run(&["produce", "t", "--file", file.to_str().unwrap()]);
    let killed = cluster.leader_of("t");
    cluster.down(killed).kill();
    flip_bits(&cluster.homes[killed]);
    cluster.up(killed);
    cluster.await_healthy();
    let said = cluster.nodes[killed].as_ref().unwrap().log();
    assert!(said.contains("copied anew from its peers"), "{said}");
    // The repaired ones carry it alone with one other.
    let other = (killed + 1) % 3;
    cluster.down(other).kill();
    assert_eq!(cluster.values("t").len(), 1_000_000);
    for at in 0..3 {
        if let Some(node) = cluster.nodes[at].take() {
            node.kill();
        }
    }
    let verified = barrage(&["verify", cluster.homes[killed].data().to_str().unwrap()]);
    assert!(verified.status.success(), "{}", words(&verified));
}
