//! Three replicas of one shard, on nodes with one, two and three cores, over these connections:
//! they form a group and commit while links are cut and healed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;

use barrage_commitlog::Options as LogOptions;
use barrage_model::{NodeId, ShardId};
use barrage_peer::{Acceptor, Contact, Handler, Links, Options, Refusal, Reply};
use barrage_raft::{
    Applied, Group, GroupOptions, Machine as StateMachine, Parts, Proposal, RestoreError, Timing,
    UnknownCommand,
};
use barrage_world as world;
use barrage_world::sim::{self, LinkOptions, Machine, Network, Rng};
use bytes::Bytes;

use crate::node::{CONTACT_PORT, SECOND, book, host, identity, listen, machine, ms, set_links};

const SHARD: ShardId = ShardId(5);
const NODES: u64 = 3;
const DIR: &str = "/data";

/// Remembers every command.
#[derive(Default)]
struct Journal {
    commands: Vec<Vec<u8>>,
}

impl StateMachine for Journal {
    type Reply = usize;

    fn apply(&mut self, entry: &Applied<'_>) -> Result<usize, UnknownCommand> {
        self.commands.push(entry.command.to_vec());
        Ok(self.commands.len())
    }

    fn checkpoint(&self) -> Parts {
        Parts::one(self.commands.concat())
    }

    fn restore(&mut self, _bytes: &[u8]) -> Result<(), RestoreError> {
        Err(RestoreError("no checkpoint is taken here".to_owned()))
    }
}

/// Hands requests to the group, as soon as it is open.
#[derive(Default)]
struct Door {
    group: Rc<RefCell<Option<Group<Journal>>>>,
}

impl Handler for Door {
    fn handle(&self, shard: ShardId, _from: NodeId, request: Bytes) -> Reply {
        let group = self.group.borrow().clone().filter(|group| group.shard() == shard);
        Box::pin(async move {
            let group = group.ok_or(Refusal::UnknownShard)?;
            group.handle(request).await.map_err(|_| Refusal::Damaged)
        })
    }
}

struct Replica {
    machine: Machine,
    group: Rc<RefCell<Option<Group<Journal>>>>,
}

impl Replica {
    /// Node `n` has `n` cores; the shard lies on one of them, the others only tell the contact.
    async fn start(node: u64) -> Self {
        let (machine, door) = (machine(node), Door::default());
        let group = Rc::clone(&door.group);
        let cores = node as u16;
        let core = (SHARD.0 % u32::from(cores)) as u16;
        let on_core = machine.core(core, cores);
        let opened = Rc::clone(&group);
        let running = on_core.spawn(async move {
            let contact = Contact::new((9400..9400 + cores).collect()).unwrap();
            let options = Options::default();
            let acceptor = Acceptor::new(identity(node), contact, Rc::new(door), options.clone());
            acceptor.serve(listen(CONTACT_PORT));
            acceptor.serve(listen(9400 + core));
            world::fs::create_dir_all(DIR).await.unwrap();
            world::fs::sync_dir("/").await.unwrap();
            let opening = GroupOptions {
                node: NodeId(node),
                shard: SHARD,
                dir: Path::new(DIR).join("shard"),
                log: LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(SHARD) },
                checkpoint_bytes: u64::MAX,
                timing: Timing::default(),
                peers: Rc::new(Links::new(identity(node), book(), options)),
                machine: Journal::default(),
            };
            *opened.borrow_mut() = Some(Group::open(opening).await.unwrap());
        });
        running.await.unwrap();
        Self { machine, group }
    }

    fn group(&self) -> Group<Journal> {
        self.group.borrow().clone().unwrap()
    }

    fn commands(&self) -> Vec<Vec<u8>> {
        self.group().with_machine(|machine| machine.commands.clone())
    }
}

/// Commands that were committed for certain, and whether to go on.
#[derive(Default)]
struct Ledger {
    committed: RefCell<Vec<Vec<u8>>>,
    stop: Cell<bool>,
}

/// Proposes one command after the other to whoever leads, until told to stop.
async fn propose(replicas: Rc<Vec<Replica>>, ledger: Rc<Ledger>) {
    for number in 0_u32.. {
        if ledger.stop.get() {
            break;
        }
        let mut command = number.to_le_bytes().to_vec();
        // Every eighth one is large.
        command.resize(if number % 8 == 0 { 100_000 } else { 20 }, 0);
        let leader = replicas.iter().find_map(|replica| {
            let term = replica.group().leader_term()?;
            Some((replica, term))
        });
        let Some((replica, term)) = leader else {
            world::sleep(ms(20)).await;
            continue;
        };
        let (group, bytes) = (replica.group(), Bytes::from(command.clone()));
        let proposing = replica.machine.spawn(async move {
            let proposal = Proposal { command: bytes, runs: Vec::new(), log_time_ms: 1 };
            world::timeout(3 * SECOND, group.propose(proposal, term)).await
        });
        if let Some(Ok(Ok(_))) = proposing.await {
            ledger.committed.borrow_mut().push(command);
        }
        world::sleep(ms(5)).await;
    }
}

async fn course(seed: u64) -> (usize, u64) {
    set_links(LinkOptions { latency: ms(1)..=ms(3), ..LinkOptions::default() });
    let mut replicas = Vec::new();
    for node in 1..=NODES {
        replicas.push(Replica::start(node).await);
    }
    let replicas = Rc::new(replicas);
    let group = replicas[0].group();
    let voters: BTreeSet<NodeId> = (1..=NODES).map(NodeId).collect();
    let formed = replicas[0].machine.spawn(async move { group.form(&voters).await });
    formed.await.unwrap().unwrap();
    let ledger = Rc::new(Ledger::default());
    let proposing = world::spawn(propose(Rc::clone(&replicas), Rc::clone(&ledger)));
    let (network, mut random, mut leaders) = (Network::current(), Rng::new(seed), BTreeSet::new());
    for _ in 0..12 {
        world::sleep(ms(random.between(500, 3_000))).await;
        let leading = replicas.iter().find(|replica| replica.group().leader_term().is_some());
        let leading = leading.map(|replica| replica.machine.host());
        leaders.extend(leading);
        let (mut one, other) = (host(random.between(1, NODES)), host(random.between(1, NODES)));
        match random.below(4) {
            0 => network.heal_all(),
            1 if one != other => network.cut(one, other),
            2 => {
                // The leader, where there is one: others must take its place.
                one = leading.unwrap_or(one);
                let others: Vec<_> = (1..=NODES).map(host).filter(|host| *host != one).collect();
                network.partition(&[&[one], &others]);
            }
            _ => set_links(LinkOptions {
                loss_ppm: 20_000,
                corrupt_ppm: 2_000,
                corrupt_streams: true,
                ..LinkOptions::default()
            }),
        }
    }
    network.heal_all();
    set_links(LinkOptions::default());
    let before = ledger.committed.borrow().len();
    let again = async {
        while ledger.committed.borrow().len() <= before + 1 {
            world::sleep(ms(10)).await;
        }
    };
    world::timeout(6 * SECOND, again).await.unwrap();
    world::sleep(2 * SECOND).await;
    ledger.stop.set(true);
    proposing.await.unwrap();
    let committed = ledger.committed.take();
    world::sleep(5 * SECOND).await;
    let all = replicas[0].commands();
    for replica in replicas.iter() {
        assert!(replica.commands() == all, "the replicas differ, seed {seed}");
    }
    let mut rest = all.iter();
    for command in &committed {
        assert!(rest.any(|applied| applied == command), "a committed command is lost");
    }
    let terms = replicas.iter().map(|replica| replica.group().status().term.0);
    assert!(!leaders.is_empty());
    (committed.len(), terms.max().unwrap())
}

#[test]
fn a_group_commits_while_links_are_cut_and_healed() {
    let (mut committed_all, mut terms_all) = (0, 0);
    for seed in 0..12 {
        sim::set_buggify(seed % 2 == 0);
        let (committed, terms) = sim::run(seed, course(seed));
        committed_all += committed;
        terms_all += terms;
    }
    sim::set_buggify(false);
    assert!(committed_all > 12 * 300);
    assert!(terms_all > 24, "the lead was hardly ever lost: the terms sum up to {terms_all}");
}

/// Without faults the first leader stays.
#[test]
fn a_group_at_rest_keeps_its_leader() {
    for seed in 0..4 {
        sim::run(seed, async {
            let mut replicas = Vec::new();
            for node in 1..=NODES {
                replicas.push(Replica::start(node).await);
            }
            let group = replicas[0].group();
            let voters: BTreeSet<NodeId> = (1..=NODES).map(NodeId).collect();
            let formed = replicas[0].machine.spawn(async move { group.form(&voters).await });
            formed.await.unwrap().unwrap();
            world::sleep(5 * SECOND).await;
            let term = replicas[0].group().status().term;
            world::sleep(60 * SECOND).await;
            assert_eq!(replicas[0].group().status().term, term);
        });
    }
}
