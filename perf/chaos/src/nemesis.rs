//! One fault at a time: applied, held, taken back, and how long nobody was served.
//!
//! ```text
//!   mark --> fault --> hold --> taken back --> mark --> every partition takes records --> healthy
//!    |                                          |                |
//!    +---- unavailable: to the first record ----+                +-- recovered
//! ```
//! Owns: the order of faults, which follows from the seed; what each does.
//! Must never: begin a fault before the cluster has healed from the last one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use barrage_model::{NodeId, ShardId};
use barrage_wire::ClusterChange;

use crate::args::Args;
use crate::cluster::Cluster;
use crate::damage;
use crate::dice::Dice;
use crate::fault::Fault;
use crate::recorder::{Mark, Recorder};
use crate::report::Cycle;

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a shard may take to be led by whom it was given to.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(15);
/// The rate of a slow link.
const SLOW_RATE: &str = "2mbit";
/// Bits flipped at once.
const FLIPS_MAX: u64 = 4;

/// What a fault did.
struct Done {
    what: String,
    /// The partitions that it may have kept from being served.
    affected: Vec<u32>,
}

/// See the module.
pub(crate) struct Nemesis<'a> {
    args: &'a Args,
    pub(crate) cluster: Cluster,
    recorder: Arc<Recorder>,
    dice: Dice,
    faults: Vec<Fault>,
    /// What is left of the faults until all are drawn again.
    deck: Vec<Fault>,
    shards: BTreeMap<u32, ShardId>,
    /// Nodes that refused to go on with damaged data, and what they said.
    pub(crate) refusals: Vec<String>,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(
        args: &'a Args,
        cluster: Cluster,
        recorder: &Arc<Recorder>,
        seed: u64,
        faults: Vec<Fault>,
        shards: BTreeMap<u32, ShardId>,
    ) -> Self {
        Self {
            args,
            cluster,
            recorder: Arc::clone(recorder),
            dice: Dice::new(seed),
            faults,
            deck: Vec::new(),
            shards,
            refusals: Vec::new(),
        }
    }

    /// The next fault.
    pub(crate) fn draw(&mut self) -> Fault {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.faults);
            self.dice.shuffle(&mut self.deck);
        }
        self.deck.pop().unwrap_or(Fault::Kill)
    }

    /// One fault and the recovery from it.
    pub(crate) fn cycle(&mut self, number: u32, fault: Fault) -> anyhow::Result<Cycle> {
        let at = self.recorder.elapsed();
        let done = self.apply(fault).with_context(|| fault.name())?;
        let context = || format!("{}: {}", fault.name(), done.what);
        self.recorder.mark(Mark::Heal);
        let everything: Vec<u32> = self.shards.keys().copied().collect();
        let limit = self.args.recover_timeout();
        let recovered = self.await_served(Mark::Heal, &everything, limit).with_context(context)?;
        let window = self.recorder.window(Mark::Fault);
        let healthy = self.await_healthy().with_context(context)?;
        Ok(Cycle {
            number,
            fault,
            what: done.what,
            at_ms: millis(at),
            unavailable_ms: window.served(&done.affected).map_or(0, millis),
            silence_ms: millis(window.silence(&done.affected)),
            recovered_ms: millis(recovered),
            healthy_ms: millis(healthy),
        })
    }

    fn apply(&mut self, fault: Fault) -> anyhow::Result<Done> {
        match fault {
            Fault::Kill => {
                let victim = self.any_node();
                self.kill(victim)
            }
            Fault::KillLeader => {
                let victim = self.any_leader()?;
                self.kill(victim)
            }
            Fault::KillAll => self.kill_all(),
            Fault::Stop => self.pause(),
            Fault::Partition => self.cut(),
            Fault::Slow => self.slow(),
            Fault::Transfer => self.transfer(),
            Fault::Rolling => self.roll(),
            Fault::DiskFull => self.fill(),
            Fault::Bitflip => self.flip(),
            Fault::Replace => {
                let victim = self.any_node();
                self.recorder.mark(Mark::Fault);
                let affected = self.led(victim);
                self.cluster.node(victim)?.kill();
                let what = self.replace(victim)?;
                Ok(Done { what, affected })
            }
        }
    }

    fn kill(&mut self, victim: usize) -> anyhow::Result<Done> {
        let affected = self.led(victim);
        let id = self.cluster.node(victim)?.id;
        self.recorder.mark(Mark::Fault);
        self.cluster.node(victim)?.kill();
        let mut what = format!("node {id}");
        // The others take over before it is back, or there was no failover to measure.
        if self.cluster.nodes.len() >= 3 && !affected.is_empty() {
            let led = self.await_led(id, &affected);
            let limit = self.args.recover_timeout();
            self.await_served(Mark::Fault, &affected, limit)?;
            what = format!("{what}, led elsewhere after {} ms", millis(led));
        }
        self.hold(0..2_000);
        self.restart(victim)?;
        Ok(Done { what, affected })
    }

    fn kill_all(&mut self) -> anyhow::Result<Done> {
        self.recorder.mark(Mark::Fault);
        for node in &mut self.cluster.nodes {
            node.kill();
        }
        self.hold(0..1_000);
        for node in &mut self.cluster.nodes {
            node.spawn()?;
        }
        for node in &mut self.cluster.nodes {
            node.await_ready()?;
        }
        Ok(Done { what: "all nodes".to_owned(), affected: self.everything() })
    }

    fn pause(&mut self) -> anyhow::Result<Done> {
        let victim = self.any_leader()?;
        let affected = self.led(victim);
        let id = self.cluster.node(victim)?.id;
        self.cluster.node(victim)?.pause()?;
        // After it has taken hold: what was answered in between is no sign of service.
        self.recorder.mark(Mark::Fault);
        let held = self.hold(1_000..self.args.hold_ms_max() + 2_000);
        self.cluster.node(victim)?.go_on()?;
        Ok(Done { what: format!("node {id} for {held} ms"), affected })
    }

    fn cut(&mut self) -> anyhow::Result<Done> {
        let is_leader = self.dice.percent(70);
        let victim = if is_leader { self.any_leader()? } else { self.any_node() };
        let id = self.cluster.node(victim)?.id;
        let mut others: Vec<usize> =
            self.cluster.nodes.iter().map(|node| node.index).filter(|at| *at != victim).collect();
        self.dice.shuffle(&mut others);
        let affected = self.led(victim);
        let way = self.dice.choose(&["from and to", "from", "to"]).unwrap_or("from and to");
        // A bridge: it still talks to one of them.
        let is_bridge = others.len() > 1 && self.dice.percent(25);
        if is_bridge {
            others.truncate(1);
        }
        let network = self.cluster.network.as_ref().context("no links to cut")?;
        for other in &others {
            if way != "to" {
                network.cut(victim, *other)?;
            }
            if way != "from" {
                network.cut(*other, victim)?;
            }
        }
        self.recorder.mark(Mark::Fault);
        let held = self.hold(2_000..self.args.hold_ms_max() + 2_000);
        self.cluster.heal()?;
        let whom = if is_bridge { "one other" } else { "all others" };
        let what = format!("packets {way} node {id} cut, {whom}, for {held} ms");
        Ok(Done { what, affected })
    }

    fn slow(&mut self) -> anyhow::Result<Done> {
        let victim = self.any_node();
        let affected = self.led(victim);
        let id = self.cluster.node(victim)?.id;
        let network = self.cluster.network.as_ref().context("no link to slow down")?;
        network.slow(victim, SLOW_RATE)?;
        self.recorder.mark(Mark::Fault);
        let held = self.hold(2_000..self.args.hold_ms_max());
        self.cluster.heal()?;
        Ok(Done { what: format!("node {id} at {SLOW_RATE} for {held} ms"), affected })
    }

    fn transfer(&mut self) -> anyhow::Result<Done> {
        let shard = self.any_shard()?;
        let leader = self.await_leader(shard)?;
        let others: Vec<NodeId> =
            self.cluster.nodes.iter().map(|node| node.id).filter(|id| *id != leader).collect();
        let to = self.dice.choose(&others).context("nobody to lead it")?;
        let affected = self.carried_by(&[shard]);
        let servers = self.cluster.servers();
        self.recorder.mark(Mark::Fault);
        let change = ClusterChange::Transfer { shard, to };
        self.cluster.control.change(&servers, change)?;
        let began = Instant::now();
        while self.cluster.leader(shard) != Some(to) {
            if began.elapsed() > TRANSFER_TIMEOUT {
                bail!("shard {} is not led by node {to} after {TRANSFER_TIMEOUT:?}", shard.0);
            }
            thread::sleep(LOOK_EVERY);
        }
        let took = began.elapsed().as_millis();
        let what = format!("shard {} from node {leader} to node {to} within {took} ms", shard.0);
        Ok(Done { what, affected })
    }

    /// Leads are evened out behind a fault: for a moment nobody may be known to lead.
    fn await_leader(&self, shard: ShardId) -> anyhow::Result<NodeId> {
        let began = Instant::now();
        loop {
            if let Some(leader) = self.cluster.leader(shard) {
                return Ok(leader);
            }
            if began.elapsed() > TRANSFER_TIMEOUT {
                bail!("nobody leads shard {} after {TRANSFER_TIMEOUT:?}", shard.0);
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn roll(&mut self) -> anyhow::Result<Done> {
        self.recorder.mark(Mark::Fault);
        let mut longest = Duration::ZERO;
        for index in 0..self.cluster.nodes.len() {
            longest = longest.max(self.cluster.node(index)?.stop()?);
            self.restart(index)?;
            self.await_healthy()?;
        }
        let what = format!("the slowest node stopped within {} ms", longest.as_millis());
        Ok(Done { what, affected: self.everything() })
    }

    fn fill(&mut self) -> anyhow::Result<Done> {
        let victim = self.any_node();
        let affected = self.led(victim);
        let id = self.cluster.node(victim)?.id;
        self.recorder.mark(Mark::Fault);
        let disk = |cluster: &mut Cluster, act: fn(&crate::disk::Disk) -> anyhow::Result<()>| {
            act(cluster.node(victim)?.disk.as_ref().context("no disk of its own")?)
        };
        disk(&mut self.cluster, crate::disk::Disk::fill)?;
        // Long enough for a segment to be full, whose follower finds no room.
        let held = self.hold(3_000..self.args.hold_ms_max() * 3);
        disk(&mut self.cluster, crate::disk::Disk::free)?;
        Ok(Done { what: format!("node {id} for {held} ms"), affected })
    }

    fn flip(&mut self) -> anyhow::Result<Done> {
        let victim = self.any_node();
        let affected = self.led(victim);
        let id = self.cluster.node(victim)?.id;
        let is_clean = self.dice.percent(50);
        self.recorder.mark(Mark::Fault);
        if is_clean {
            self.cluster.node(victim)?.stop()?;
        } else {
            self.cluster.node(victim)?.kill();
        }
        let data = self.cluster.node(victim)?.data();
        let mut where_to = Vec::new();
        for _ in 0..self.dice.between(1..FLIPS_MAX + 1) {
            where_to.push(damage::flip(&data, &mut self.dice)?);
        }
        let mut what = format!("node {id}: {}", where_to.join(", "));
        if let Err(error) = self.restart(victim) {
            // It may refuse, and say why; then an empty one takes its place.
            if self.cluster.node(victim)?.pid().is_some() {
                return Err(error.context(what));
            }
            self.refusals.push(format!("{what}: {error:#}"));
            what = format!("{what}; it refused; {}", self.replace(victim)?);
        }
        Ok(Done { what, affected })
    }

    /// An empty node takes the place of one that does not run.
    fn replace(&mut self, victim: usize) -> anyhow::Result<String> {
        let servers = self.cluster.others(victim);
        let node = self.cluster.node(victim)?;
        let old = node.id;
        node.forget()?;
        node.join.clone_from(&servers);
        node.spawn()?;
        node.await_ready()?;
        let new = node.id;
        if new == old {
            bail!("the empty node was given the id {old} of the one whose data is lost");
        }
        let change = ClusterChange::Decommission { node: old };
        self.cluster.control.change(&servers, change).with_context(|| format!("node {old}"))?;
        Ok(format!("node {new} takes the place of node {old}"))
    }

    fn restart(&mut self, index: usize) -> anyhow::Result<()> {
        let node = self.cluster.node(index)?;
        node.spawn()?;
        node.await_ready()
    }

    /// Sleeps for so many milliseconds; returns how many.
    fn hold(&mut self, range_ms: std::ops::Range<u64>) -> u64 {
        let held = self.dice.between(range_ms);
        thread::sleep(Duration::from_millis(held));
        held
    }

    /// Waits until somebody names another leader than `old` for these partitions.
    fn await_led(&self, old: NodeId, partitions: &[u32]) -> Duration {
        let began = Instant::now();
        let mut shards: Vec<ShardId> =
            partitions.iter().filter_map(|partition| self.shards.get(partition)).copied().collect();
        shards.sort_unstable();
        shards.dedup();
        while began.elapsed() < self.args.recover_timeout() {
            shards.retain(|shard| self.cluster.leader(*shard).is_none_or(|leader| leader == old));
            if shards.is_empty() {
                break;
            }
            thread::sleep(LOOK_EVERY);
        }
        began.elapsed()
    }

    fn await_served(
        &mut self,
        mark: Mark,
        partitions: &[u32],
        limit: Duration,
    ) -> anyhow::Result<Duration> {
        let began = Instant::now();
        loop {
            let window = self.recorder.window(mark);
            if let Some(served) = window.served(partitions) {
                return Ok(served);
            }
            if partitions.is_empty() {
                return Ok(Duration::ZERO);
            }
            if began.elapsed() > limit {
                let waiting = window.waiting();
                bail!("no record is acknowledged after {limit:?} in partitions {waiting:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
    }

    fn await_healthy(&mut self) -> anyhow::Result<Duration> {
        self.cluster.await_healthy(self.args.whole_timeout())
    }

    fn any_node(&mut self) -> usize {
        self.dice.index(self.cluster.nodes.len())
    }

    fn any_shard(&mut self) -> anyhow::Result<ShardId> {
        let mut shards: Vec<ShardId> = self.shards.values().copied().collect();
        shards.sort_unstable();
        shards.dedup();
        self.dice.choose(&shards).context("no shards")
    }

    /// A node that leads a shard with partitions.
    fn any_leader(&mut self) -> anyhow::Result<usize> {
        let shard = self.any_shard()?;
        let leader = self.await_leader(shard)?;
        self.cluster.index_of(leader).with_context(|| format!("node {leader} is a stranger"))
    }

    /// The partitions that a node leads.
    fn led(&self, index: usize) -> Vec<u32> {
        let Some(node) = self.cluster.nodes.get(index) else { return Vec::new() };
        self.carried_by(&self.cluster.led_by(node.id))
    }

    fn carried_by(&self, shards: &[ShardId]) -> Vec<u32> {
        let carried = self.shards.iter().filter(|(_, shard)| shards.contains(shard));
        carried.map(|(partition, _)| *partition).collect()
    }

    fn everything(&self) -> Vec<u32> {
        self.shards.keys().copied().collect()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
