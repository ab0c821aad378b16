//! A whole cluster: three to five nodes, each the whole broker on a machine of its own, found and
//! joined over the wire; clients that follow the leaders; processes that end, links that break,
//! nodes that come and go.
//!
//! Owns: the course of a run (form the cluster, load under faults, heal, come to rest, read
//! everything from every copy, end all processes, read everything again) and the judgement: the
//! history checker's, and what it cannot know: who leads in a term, which ids are given, that a
//! healed cluster is whole in time.
//!
//! Must never: judge by what the nodes say of themselves alone.

mod audit;
mod damage;
mod delays;
mod flushed;
mod folders;
mod nemesis;
mod operator;
mod plan;
mod process;
mod register;
mod seeding;
mod streams;
mod strike;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use barrage_model::Retention;
use barrage_model::group::Order;
use barrage_wire::{ClusterChange, ClusterDescription, Request, Response};
use barrage_world as world;
use barrage_world::sim::{self, Disk, Host, Machine, Network, Rng};

use self::audit::Moved;
pub(super) use self::delays::SCENARIO as DELAYS;
use self::flushed::Flushed;
use self::nemesis::Nemesis;
use self::operator::change_once;
use self::plan::Plan;
use self::process::{Node, shared_address};
use self::register::{Register, is_at_rest};
use self::seeding::Seeding;
pub(super) use self::streams::SCENARIO as STREAMS;
use self::streams::StreamsPlan;
use super::Scenario;
use crate::history;
use crate::runner::{FaultGate, Gates, Outcome};
use crate::workload::{
    Client, Company, Connection, Consumer, Contest, Context, Disturbance, Factory, Group, Producer,
    Rival, RivalPlan, Topic, TopicPlan, Waiting, Witness, Worker, WorkerPlan, create, create_group,
    inspect, keep_passing, milliseconds, read_all,
};

/// The scenario.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "cluster",
    about: "three to five whole nodes, clients that follow leaders: ends, cuts, coming and going",
    turns: 1,
    run,
    gates: Gates {
        mean_commits_min: 100,
        mean_records_compared_min: 1_000,
        faults: &[
            FaultGate { kind: "kill", once_in_seeds: 8 },
            FaultGate { kind: "power-loss", once_in_seeds: 8 },
            FaultGate { kind: "orderly-stop", once_in_seeds: 16 },
            FaultGate { kind: "isolate-leader", once_in_seeds: 10 },
            FaultGate { kind: "lead-changed", once_in_seeds: 2 },
            FaultGate { kind: "members-changed", once_in_seeds: 2 },
            FaultGate { kind: "node-swapped", once_in_seeds: 20 },
            FaultGate { kind: "node-replaced", once_in_seeds: 40 },
            FaultGate { kind: "hint-followed", once_in_seeds: 4 },
            FaultGate { kind: "strike", once_in_seeds: 6 },
            FaultGate { kind: "away", once_in_seeds: 16 },
            FaultGate { kind: "slow-disk", once_in_seeds: 16 },
            FaultGate { kind: "records-let-go", once_in_seeds: 8 },
            FaultGate { kind: "copied-anew", once_in_seeds: 20 },
            FaultGate { kind: "damage-repaired", once_in_seeds: 100 },
            FaultGate { kind: "looked-on-all", once_in_seeds: 8 },
            FaultGate { kind: "claimed", once_in_seeds: 3 },
            FaultGate { kind: "claim-refused", once_in_seeds: 4 },
        ],
        ..Gates::OPEN
    },
};

/// The same with a queue group and its workers.
pub(super) const QUEUE: Scenario = Scenario {
    name: "queue",
    about: "a cluster with a queue group: leases, acks, retries and dead letters under all faults",
    turns: 1,
    run: run_queue,
    gates: Gates {
        mean_commits_min: 100,
        mean_records_compared_min: 1_000,
        faults: &[
            FaultGate { kind: "lead-changed", once_in_seeds: 2 },
            FaultGate { kind: "leased", once_in_seeds: 2 },
            FaultGate { kind: "leased-again", once_in_seeds: 2 },
            FaultGate { kind: "acked-and-gone", once_in_seeds: 8 },
        ],
        ..Gates::OPEN
    },
};

/// Clients live on hosts behind the nodes'.
const FIRST_CLIENT_HOST: u16 = 100;
const OPERATOR_HOST: Host = Host(90);
const OBSERVER_HOST: Host = Host(91);
/// How often somebody looks how the cluster is.
const LOOK_EVERY: Duration = milliseconds(150);
const LOOK_WITHIN: Duration = milliseconds(1_000);
/// From the first start until the cluster must be there.
const FORM_WITHIN: Duration = milliseconds(60_000);
/// From the end of the faults until every shard must have all its copies.
const REST_WITHIN: Duration = milliseconds(120_000);
/// From then on until clients must have their answers.
const SETTLE_WITHIN: Duration = milliseconds(90_000);
/// How long the records of a queue group may be on their way: the longest lease and back-off, and
/// dead letters.
const FINISH_WITHIN: Duration = milliseconds(120_000);
/// How much faster than the driver's a node's clock may run.
const CLOCK_FAST_PPM: u32 = 60_000;
/// How long reading everything may take.
const READ_WITHIN: Duration = milliseconds(60_000);
/// How long leads may take to go where they are ordered to.
const TRANSFER_WITHIN: Duration = milliseconds(60_000);
/// Clients go on for so long after the faults.
const CALM_LOAD: Duration = milliseconds(3_000);
/// A disk that was full is looked at again, a lost connection is made again.
const AFTERMATH: Duration = milliseconds(6_000);

fn run(seed: u64) -> Outcome {
    run_as(seed, Plan::draw_cluster)
}

fn run_queue(seed: u64) -> Outcome {
    run_as(seed, Plan::draw_queue)
}

fn run_as(seed: u64, draw: fn(&mut Rng) -> Plan) -> Outcome {
    let mut random = Rng::new(seed);
    let plan = Rc::new(draw(&mut random));
    tracing::debug!(?plan, "drawn");
    sim::set_buggify(plan.buggify);
    let mut outcome = sim::run_on(seed, &Disk::default(), course(plan, random));
    outcome.world_ended();
    outcome
}

/// What the parts of a run have in common.
struct Run {
    plan: Rc<Plan>,
    context: Rc<Context>,
    register: Rc<Register>,
    nemesis: Rc<Nemesis>,
    flushed: Rc<Flushed>,
    seeding: Rc<Seeding>,
    hosts: Vec<Host>,
    used: Cell<usize>,
    random: RefCell<Rng>,
}

async fn course(plan: Rc<Plan>, mut random: Rng) -> Outcome {
    let began = world::Instant::now();
    let run = Run::new(&plan, &mut random);
    let records = match run.go().await {
        Ok(records) => records,
        Err(violation) => {
            run.context.witness.object(violation);
            0
        }
    };
    run.judge(records, began)
}

impl Run {
    fn new(plan: &Rc<Plan>, random: &mut Rng) -> Self {
        let places = plan.cores.len();
        let witness = Rc::new(Witness::default());
        let context = Rc::new(Context {
            witness: Rc::clone(&witness),
            factory: Factory::default(),
            waiting: Waiting::default(),
            stop: Cell::new(false),
            doors: (0..places).map(shared_address).collect(),
            addresses: RefCell::default(),
            on_all: RefCell::default(),
            follows: true,
        });
        let register = Rc::new(Register::new(&witness, places));
        // Producers, consumers, operators, readers of every copy.
        let workers = plan.queue.as_ref().map_or(0, |queue| queue.workers.len() + 1);
        let members = plan.streams.as_ref().map_or(0, StreamsPlan::clients);
        let changers = plan.delays.as_ref().map_or(0, |delays| delays.changers + 1);
        let readers = plan.consumers.len() + workers + members + plan.rivals.len();
        let count = plan.producers.len() + readers + changers + 12;
        let hosts: Vec<Host> = (FIRST_CLIENT_HOST..).take(count).map(Host).collect();
        let nemesis = Rc::new(Nemesis {
            plan: Rc::clone(plan),
            nodes: (0..places).map(|place| Node::new(place, plan, &register)).collect(),
            register: Rc::clone(&register),
            context: Rc::clone(&context),
            clients: hosts.clone(),
            operators: OPERATOR_HOST,
            random: RefCell::new(random.fork()),
            fired: RefCell::default(),
            is_healed: Cell::new(false),
            moves: Cell::new(0),
            has_moved: Cell::new(false),
            damaged: Cell::new(None),
            strikes: Cell::new(0),
            ended_well: Cell::new(0),
        });
        let flushed = Rc::new(Flushed::new(&nemesis));
        let judge = Rc::clone(&flushed);
        let look = move |key, base, log_time_ms, batch: &[u8]| {
            judge.judge(key, base, log_time_ms, batch);
        };
        *context.on_all.borrow_mut() = Some(Box::new(look));
        let random = RefCell::new(random.fork());
        let plan = Rc::clone(plan);
        let (seeding, used) = (Rc::default(), Cell::new(0));
        Self { plan, context, register, nemesis, flushed, seeding, hosts, used, random }
    }

    /// The whole course; answers how many records were read at the end.
    async fn go(&self) -> Result<u64, String> {
        let witness = &self.context.witness;
        witness.begin();
        witness.disturbances.begin(Disturbance::Down);
        Network::current().set_all(self.plan.link.clone());
        let observer = Machine::at(OBSERVER_HOST, &Disk::default());
        drop(observer.spawn(observe(Rc::clone(&self.nemesis), Rc::clone(&self.seeding))));
        for node in self.nemesis.nodes.iter().take(self.plan.nodes) {
            node.start();
        }
        drop(world::spawn(Rc::clone(&self.nemesis).supervise()));
        if !self.plan.growing {
            self.rest(FORM_WITHIN, "after the start").await?;
            witness.disturbances.end(Disturbance::Down);
        }
        let plan = Rc::clone(&self.plan);
        let made = self.on_client(|client| make_topics(client, plan));
        let Ok(Some(made)) = world::timeout(FORM_WITHIN, made).await else {
            return Err("liveness: no topics after the start".to_owned());
        };
        let mut clients = self.start_clients(&made.topics);
        clients.extend(self.start_rivals(made.topics.last()));
        clients.extend(self.start_workers(made.group.as_ref()));
        clients.extend(self.start_members(made.company.as_ref()));
        clients.extend(self.start_changers());
        self.nemesis.run().await;
        self.nemesis.heal();
        self.settle(clients, made).await
    }

    /// Starts a client on a machine of its own.
    fn on_client<F>(&self, work: impl FnOnce(Client) -> F) -> world::JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let number = self.used.get();
        self.used.set(number + 1);
        let Some(host) = self.hosts.get(number) else { unreachable!("more clients than hosts") };
        let machine = Machine::at(*host, &Disk::default());
        let name = format!("client-{number}");
        let client = Client::new(&name, &self.context, self.random.borrow_mut().fork());
        machine.spawn(work(client))
    }

    fn start_clients(&self, topics: &[Topic]) -> Vec<world::JoinHandle<()>> {
        let mut clients = Vec::new();
        for producer in &self.plan.producers {
            let Some(topic) = producer.topic.and_then(|number| topics.get(number)) else {
                continue;
            };
            let (plan, topic) = (producer.clone(), topic.clone());
            clients.push(self.on_client(|client| async move {
                drop(Producer::new(client, plan, topic).run().await);
            }));
        }
        for (consumer, topic) in self.plan.consumers.iter().zip(topics.iter().cycle()) {
            let (plan, topic) = (consumer.clone(), topic.clone());
            clients.push(self.on_client(|client| async move {
                drop(Consumer::new(client, plan).run(&topic).await);
            }));
        }
        let all = topics.to_vec();
        clients.push(self.on_client(|client| inspect(client, all)));
        if self.plan.passing_topics {
            clients.push(self.on_client(keep_passing));
        }
        clients
    }

    /// Those who want the last topic, each for itself.
    fn start_rivals(&self, topic: Option<&Topic>) -> Vec<world::JoinHandle<()>> {
        let Some(topic) = topic else { return Vec::new() };
        let contest = Rc::new(Contest::default());
        let start = |plan: &RivalPlan| {
            let plan = plan.clone();
            self.on_client(|client| Rival::new(client, plan, topic, &contest).run())
        };
        self.plan.rivals.iter().map(start).collect()
    }

    fn start_workers(&self, group: Option<&Group>) -> Vec<world::JoinHandle<()>> {
        let (Some(group), Some(queue)) = (group, &self.plan.queue) else { return Vec::new() };
        let start = |plan: &WorkerPlan| {
            let (plan, group) = (plan.clone(), group.clone());
            self.on_client(|client| Worker::new(client, group).run(plan))
        };
        queue.workers.iter().map(start).collect()
    }

    /// Takes what a group has left until there is nothing.
    async fn finish(&self, group: Group) -> Result<u64, String> {
        let finished = self.on_client(|client| Worker::new(client, group).finish(FINISH_WITHIN));
        finished.await.unwrap_or_else(|| Err("the last worker ended".to_owned()))
    }

    /// No more faults: every shard gets all its copies, what is under way ends, everything is
    /// there on every copy, also after one more end of all processes.
    async fn settle(&self, clients: Vec<world::JoinHandle<()>>, made: Made) -> Result<u64, String> {
        let Made { topics, group, company } = made;
        let witness = &self.context.witness;
        self.rest(REST_WITHIN, "after the faults").await?;
        world::sleep(AFTERMATH).await;
        for disturbance in [Disturbance::Down, Disturbance::Network, Disturbance::Full] {
            witness.disturbances.end(disturbance);
        }
        if self.nemesis.damaged.get().is_none() {
            witness.disturbances.end(Disturbance::Disk);
        }
        world::sleep(CALM_LOAD).await;
        if let Some(company) = &company {
            self.come_to_rest(company).await?;
        }
        self.context.stop.set(true);
        let ended = async {
            for client in clients {
                client.await;
            }
        };
        if world::timeout(SETTLE_WITHIN, ended).await.is_err() {
            return Err("liveness: clients still wait after the faults".to_owned());
        }
        self.nemesis.wait_for_repair().await;
        self.rest(REST_WITHIN, "after repairs").await?;
        witness.disturbances.end(Disturbance::Disk);
        let mut records = 0;
        let copies = self.register.newest().map_or(1, |newest| newest.copies_wanted);
        self.known_everywhere().await;
        let mut moved = Moved::default();
        for _ in 0..copies {
            records += self.read_everything(&topics).await?;
            self.hand_on(&mut moved).await?;
        }
        self.judge_moves(moved);
        self.copies_are_equal().await?;
        witness.disturbances.begin(Disturbance::Down);
        for node in &self.nemesis.nodes {
            node.power_off(&mut self.random.borrow_mut());
        }
        self.rest(REST_WITHIN, "after a power loss of all").await?;
        witness.disturbances.end(Disturbance::Down);
        self.clear_delays(&topics).await?;
        witness.drain();
        if let Some(group) = group {
            records += self.finish(group).await?;
        }
        if let Some(company) = company {
            records += self.read_out(company).await?;
        }
        records += self.read_everything(&topics).await?;
        self.copies_are_equal().await?;
        Ok(records)
    }

    /// Waits until every node says that every shard is where it is to be.
    async fn rest(&self, within: Duration, when: &str) -> Result<(), String> {
        let unrest = RefCell::new(String::new());
        let rested = async {
            while let Some(reason) = self.unrest().await {
                unrest.replace(reason);
                world::sleep(LOOK_EVERY).await;
            }
        };
        if world::timeout(within, rested).await.is_ok() {
            return Ok(());
        }
        let unrest = unrest.take();
        Err(format!("liveness: not whole {within:?} {when}: {unrest}; {}", self.state()))
    }

    /// What is not as it is to be.
    async fn unrest(&self) -> Option<String> {
        if self.nemesis.moves.get() > 0 {
            return Some("a node is being replaced".to_owned());
        }
        let wanted = self.nemesis.wanted();
        for node in self.nemesis.nodes.iter().filter(|node| node.is_wanted.get()) {
            let (machine, operator) = self.nemesis.operator();
            let asked = machine.spawn(ask_at(node.place, operator.context.witness.clone()));
            let place = node.place;
            let Some(Some(description)) = asked.await else {
                return Some(format!("place {place} does not answer"));
            };
            let members = description.nodes.iter().map(|node| node.node).collect();
            if wanted != members {
                return Some(format!("place {place} knows {members:?}, not {wanted:?}"));
            }
            if !is_at_rest(&description) {
                return Some(format!("place {place} says {description:?}"));
            }
        }
        None
    }

    fn state(&self) -> String {
        let nodes: Vec<String> = self
            .nemesis
            .nodes
            .iter()
            .filter(|node| node.is_wanted.get())
            .map(|node| {
                let id = self.register.node_at(node.place);
                format!("place {}: {id:?}, serves: {}", node.place, node.is_serving())
            })
            .collect();
        let moves = self.nemesis.moves.get();
        format!("{}; moves {moves}; newest {:?}", nodes.join(", "), self.register.newest())
    }

    async fn read_everything(&self, topics: &[Topic]) -> Result<u64, String> {
        let topics = topics.to_vec();
        let read = self.on_client(|mut client| async move {
            let mut records = 0;
            for topic in &topics {
                for partition in 0..topic.partitions {
                    let key = topic.key(partition);
                    match read_all(&mut client, key).await {
                        Some(count) => records += count,
                        None => {
                            client.witness().object(format!("liveness: {key} cannot be read"));
                        }
                    }
                }
            }
            client.hang_up();
            records
        });
        match world::timeout(READ_WITHIN, read).await {
            Ok(Some(records)) => Ok(records),
            _ => Err("liveness: not everything can be read after the faults".to_owned()),
        }
    }

    fn judge(&self, records: u64, began: world::Instant) -> Outcome {
        let witness = &self.context.witness;
        let violations = witness.violations();
        let mut outcome = Outcome { violations, ..Outcome::default() };
        let options = history::Options {
            // A node's clock may run fast by so much.
            lease_early_ppm: CLOCK_FAST_PPM,
            ..history::Options::default()
        };
        let verdict = witness.take_history().check(&options);
        for violation in &verdict.violations {
            outcome.violation(violation.to_string());
        }
        let counts = *witness.counts.borrow();
        outcome.commits = counts.acknowledged;
        outcome.records_compared = verdict.counters.records_compared;
        for (kind, count) in self.nemesis.faults() {
            outcome.fault(kind, count);
        }
        for node in &self.nemesis.nodes {
            for (kind, count) in node.disk().counters().faults() {
                outcome.fault(kind, count);
            }
        }
        outcome.fault("lead-changed", self.register.lead_changes.get());
        outcome.fault("members-changed", self.register.member_changes.get());
        outcome.fault("hint-followed", counts.hints);
        outcome.fault("copied-first", self.seeding.first.get());
        outcome.fault("copied-anew", self.seeding.anew.get());
        outcome.fault("looked-on-all", self.flushed.looks.get());
        outcome.fault("records-let-go", counts.trims);
        outcome.fault("acked-and-gone", verdict.counters.records_gone);
        outcome.fault("leased", counts.taken);
        outcome.fault("leased-again", verdict.counters.leases_compared);
        outcome.fault("claimed", counts.claimed);
        outcome.fault("claim-refused", counts.claims_refused);
        outcome.fault("handed-over", verdict.counters.shares_compared);
        delays::count(&mut outcome, &counts, verdict.counters.delays_compared);
        streams::count(&mut outcome, &counts.streams);
        let elapsed = (world::Instant::now() - began).as_millis();
        outcome.virtual_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let starts: u64 = self.nemesis.nodes.iter().map(|node| node.starts.get()).sum();
        outcome.note = format!(
            "{} nodes, {} copies, {starts} starts, {} lead changes, {} member changes, {counts:?}, \
             {records} records read at the end",
            self.plan.nodes,
            self.plan.copies,
            self.register.lead_changes.get(),
            self.register.member_changes.get(),
        );
        outcome
    }
}

/// What there is when the run begins.
struct Made {
    topics: Vec<Topic>,
    group: Option<Group>,
    company: Option<Company>,
}

async fn make_topics(mut client: Client, plan: Rc<Plan>) -> Made {
    if plan.copies != 3 {
        let change = ClusterChange::SetCopies { copies: plan.copies };
        while !change_once(&mut client, change.clone()).await {
            world::sleep(LOOK_EVERY).await;
        }
    }
    let mut topics = Vec::new();
    for topic in &plan.topics {
        topics.push(create(&mut client, topic).await);
        // Also to learn each core's own address.
        drop(client.topic(&topic.name).await);
    }
    let mut company = None;
    if let Some(streams) = &plan.streams {
        company = Some(Company::make(&mut client, &topics, &streams.company).await);
    }
    let mut group = None;
    if let (Some(queue), Some(first)) = (&plan.queue, topics.first().cloned()) {
        let retention = Retention::UNLIMITED;
        let name = queue.group.dead_letter;
        let dead = TopicPlan::open(name.to_owned(), queue.dead_partitions, retention);
        let dead = create(&mut client, &dead).await;
        client.witness().dead_letters(&queue.group, &first, &dead);
        topics.push(dead);
        if client.witness().keeps_until_acked(first.id) {
            client.witness().kept_until_done(queue.group.name, &first);
        }
        if queue.group.order == Order::Key {
            client.witness().keyed(queue.group.name);
        }
        group = Some(create_group(&mut client, &first, &queue.group).await);
    }
    client.hang_up();
    Made { topics, group, company }
}

/// Asks one node after the other how the cluster is, for ever.
async fn observe(nemesis: Rc<Nemesis>, seeding: Rc<Seeding>) {
    let witness = Rc::clone(&nemesis.context.witness);
    for place in nemesis.register.places().collect::<Vec<_>>().iter().cycle() {
        let serves = nemesis.nodes.get(*place).is_some_and(Node::is_serving);
        if serves && let Some(description) = ask_at(*place, Rc::clone(&witness)).await {
            nemesis.register.saw(description);
        }
        if let Some(newest) = nemesis.register.newest() {
            for node in &nemesis.nodes {
                let id = nemesis.register.node_at(node.place);
                id.into_iter().for_each(|id| seeding.look(node, id, &newest));
            }
        }
        world::sleep(LOOK_EVERY / 2).await;
    }
}

/// The cluster as one node knows it.
async fn ask_at(place: usize, witness: Rc<Witness>) -> Option<ClusterDescription> {
    let asked = world::timeout(LOOK_WITHIN, async {
        let connection =
            Connection::open(shared_address(place), "observer", &witness).await.ok()?;
        let frame = connection.call(&Request::ClusterDescribe, LOOK_WITHIN).await;
        connection.close();
        let frame = frame.ok()?;
        match Response::decode(&frame.header, &frame.body) {
            Ok(Response::ClusterDescribe(description)) => Some(description),
            _ => None,
        }
    });
    asked.await.ok()?
}
