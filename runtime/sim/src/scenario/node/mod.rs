//! The whole broker on one node: every core, the log, the native gateway, sockets; and clients that
//! speak the native protocol, while processes end, power goes, disks fail and links break.
//!
//! Owns: the course of a run (make the topics, load under faults, heal, settle, end the process
//! once more, read everything) and the judgement: the history checker's, and what it cannot know:
//! bounds never fall, retention takes what it may, answers come in time and may be what they are.
//!
//! Must never: judge by what the node says of itself alone.

mod nemesis;
mod plan;
mod process;
mod vandal;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use barrage_world as world;
use barrage_world::sim::{self, Disk, Host, Machine, Network, Rng};

use self::nemesis::{Nemesis, SETTLE};
use self::plan::Plan;
use self::process::{Node, shared_address};
use super::Scenario;
use crate::history;
use crate::runner::{FaultGate, Gates, Outcome};
use crate::workload::{
    Client, Consumer, Context, Disturbance, Factory, Producer, Topic, Waiting, Witness, create,
    inspect, keep_passing, milliseconds, read_all,
};

/// The scenario.
pub(super) const SCENARIO: Scenario = Scenario {
    name: "node",
    about: "the whole broker on one node, its gateway and clients: kill, power loss, disk, network",
    turns: 3,
    run,
    gates: Gates {
        mean_commits_min: 300,
        mean_records_compared_min: 3_000,
        faults: &[
            FaultGate { kind: "kill", once_in_seeds: 8 },
            FaultGate { kind: "power-loss", once_in_seeds: 8 },
            FaultGate { kind: "orderly-stop", once_in_seeds: 16 },
            FaultGate { kind: "pause", once_in_seeds: 16 },
            FaultGate { kind: "cut", once_in_seeds: 16 },
            FaultGate { kind: "disk-full", once_in_seeds: 16 },
            FaultGate { kind: "disk-flush-error", once_in_seeds: 32 },
        ],
        ..Gates::OPEN
    },
};

/// Clients live on hosts behind the node's.
const FIRST_CLIENT_HOST: u16 = 100;
/// From the end of the faults until everything must be settled, in virtual time.
const SETTLE_WITHIN: Duration = milliseconds(90_000);
/// From the first start until the topics must be there.
const FORM_WITHIN: Duration = milliseconds(60_000);
/// How long reading everything may take.
const READ_WITHIN: Duration = milliseconds(60_000);

fn run(seed: u64) -> Outcome {
    let mut random = Rng::new(seed);
    let plan = Rc::new(Plan::draw(&mut random));
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
    node: Rc<Node>,
    nemesis: Rc<Nemesis>,
    hosts: Vec<Host>,
    used: Cell<usize>,
    random: RefCell<Rng>,
}

async fn course(plan: Rc<Plan>, mut random: Rng) -> Outcome {
    let began = world::Instant::now();
    let run = Run::new(&plan, &mut random);
    let witness = Rc::clone(&run.context.witness);
    witness.begin();
    witness.disturbances.begin(Disturbance::Down);
    Network::current().set_all(plan.link.clone());
    run.node.start(plan.cores);
    let made = run.on_client(|client| make_topics(client, Rc::clone(&plan)));
    let mut records = 0;
    match world::timeout(FORM_WITHIN, made).await {
        Ok(Some(topics)) => {
            drop(world::spawn(Rc::clone(&run.nemesis).supervise()));
            let clients = run.start_clients(&topics);
            run.nemesis.run().await;
            run.nemesis.heal();
            records = run.settle(clients, &topics).await;
        }
        _ => witness.object("liveness: no topics after the start"),
    }
    run.judge(records, began)
}

async fn make_topics(mut client: Client, plan: Rc<Plan>) -> Vec<Topic> {
    let mut topics = Vec::new();
    for topic in &plan.topics {
        topics.push(create(&mut client, topic).await);
        // Also to learn each core's own address.
        drop(client.topic(&topic.name).await);
    }
    client.hang_up();
    topics
}

impl Run {
    fn new(plan: &Rc<Plan>, random: &mut Rng) -> Self {
        let context = Rc::new(Context {
            witness: Rc::new(Witness::default()),
            factory: Factory::default(),
            waiting: Waiting::default(),
            stop: Cell::new(false),
            doors: vec![shared_address()],
            addresses: RefCell::default(),
            on_all: RefCell::default(),
            follows: false,
        });
        let node = Rc::new(Node::new(Rc::clone(plan), Rc::clone(&context.witness)));
        // Producers, consumers, vandals, operators, readers.
        let count = plan.producers.len() + plan.consumers.len() + plan.vandals as usize + 5;
        let hosts: Vec<Host> = (FIRST_CLIENT_HOST..).take(count).map(Host).collect();
        let nemesis = Rc::new(Nemesis {
            plan: Rc::clone(plan),
            node: Rc::clone(&node),
            context: Rc::clone(&context),
            hosts: hosts.clone(),
            random: RefCell::new(random.fork()),
            fired: RefCell::default(),
            healed: Cell::new(false),
            times_full: Cell::new(0),
        });
        let random = RefCell::new(random.fork());
        Self { plan: Rc::clone(plan), context, node, nemesis, hosts, used: Cell::new(0), random }
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
        let plan = &self.plan;
        let mut clients = Vec::new();
        for producer in &plan.producers {
            let Some(topic) = producer.topic.and_then(|number| topics.get(number)) else {
                continue;
            };
            let (plan, topic) = (producer.clone(), topic.clone());
            clients.push(self.on_client(|client| async move {
                drop(Producer::new(client, plan, topic).run().await);
            }));
        }
        for consumer in &plan.consumers {
            let number = self.random.borrow_mut().below(topics.len() as u64) as usize;
            let Some(topic) = topics.get(number).cloned() else { continue };
            let plan = consumer.clone();
            clients.push(self.on_client(|client| async move {
                drop(Consumer::new(client, plan).run(&topic).await);
            }));
        }
        for _ in 0..plan.vandals {
            let topics = topics.to_vec();
            let limit = plan.native.frame_bytes_max;
            clients.push(self.on_client(|client| vandal::run(client, topics, limit)));
        }
        let all = topics.to_vec();
        clients.push(self.on_client(|client| inspect(client, all)));
        if plan.passing_topics {
            clients.push(self.on_client(keep_passing));
        }
        clients
    }

    /// No more faults: what is under way ends, everything is there, also after one more end of
    /// the process. Answers how many records were read.
    async fn settle(&self, clients: Vec<world::JoinHandle<()>>, topics: &[Topic]) -> u64 {
        let witness = &self.context.witness;
        world::sleep(SETTLE).await;
        witness.disturbances.end(Disturbance::Full);
        witness.disturbances.end(Disturbance::Disk);
        self.context.stop.set(true);
        let ended = async {
            for client in clients {
                client.await;
            }
        };
        if world::timeout(SETTLE_WITHIN, ended).await.is_err() {
            witness.object("liveness: clients still wait after the faults");
            return 0;
        }
        let before = self.read_everything(topics).await;
        self.end_once_more().await;
        witness.drain();
        before + self.read_everything(topics).await
    }

    async fn end_once_more(&self) {
        let drawn = self.random.borrow_mut().below(3);
        match drawn {
            0 => self.node.kill(),
            1 => self.node.power_off(&mut self.random.borrow_mut()),
            _ => self.node.stop().await,
        }
    }

    async fn read_everything(&self, topics: &[Topic]) -> u64 {
        let witness = Rc::clone(&self.context.witness);
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
            Ok(Some(records)) => records,
            _ => {
                witness.object("liveness: not everything can be read after the faults");
                0
            }
        }
    }

    fn judge(&self, records: u64, began: world::Instant) -> Outcome {
        let witness = &self.context.witness;
        let violations = witness.violations();
        let mut outcome = Outcome { violations, ..Outcome::default() };
        let verdict = witness.take_history().check(&history::Options::default());
        for violation in &verdict.violations {
            outcome.violation(violation.to_string());
        }
        let counts = *witness.counts.borrow();
        outcome.commits = counts.acknowledged;
        outcome.records_compared = verdict.counters.records_compared;
        for (kind, count) in self.nemesis.faults() {
            outcome.fault(kind, count);
        }
        for (kind, count) in self.node.disk().counters().faults() {
            outcome.fault(kind, count);
        }
        let elapsed = (world::Instant::now() - began).as_millis();
        outcome.virtual_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        outcome.note = format!(
            "{} starts, {} cores, {counts:?}, {records} records read at the end",
            self.node.starts.get(),
            self.plan.cores,
        );
        outcome
    }
}
