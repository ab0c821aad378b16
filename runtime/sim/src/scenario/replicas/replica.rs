//! One replica: a machine with a disk, and the process that runs on it.
//!
//! Owns: starting, killing and cutting the power of it, and what the process does: open the
//! group, answer peers and clients. Must never: let anything of a dead process live on but its
//! disk.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use barrage_model::NodeId;
use barrage_raft::{Group, GroupOptions, Role};
use barrage_world as world;
use barrage_world::sim::{Disk, DiskOptions, Machine, Rng};

use super::client::{self, Desk};
use super::ledger::Ledger;
use super::links::{Links, host};
use super::plan::Plan;
use super::witness::Witness;

const DIR: &str = "/data";
/// How often a replica's own view of the group is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The log and its pool must fit; more is allowed for checkpoints and a long run.
pub(super) const DISK_BYTES: u64 = 1 << 30;

/// One replica. It outlives its processes.
pub(super) struct Replica {
    pub(super) node: NodeId,
    pub(super) disk: RefCell<Disk>,
    machine: RefCell<Option<Machine>>,
    group: Rc<RefCell<Option<Group<Ledger>>>>,
    /// A fault of the disk was injected since the process began: it may end by itself.
    pub(super) disk_faulty: Cell<bool>,
    pub(super) paused: Cell<bool>,
    pub(super) starts: Cell<u64>,
}

/// What a process needs.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) plan: Rc<Plan>,
    pub(super) witness: Rc<Witness>,
    pub(super) nodes: u64,
}

impl Replica {
    pub(super) fn new(node: NodeId) -> Self {
        let disk = Disk::new(DiskOptions { capacity_bytes: DISK_BYTES, ..DiskOptions::default() });
        Self {
            node,
            disk: RefCell::new(disk),
            machine: RefCell::new(None),
            group: Rc::default(),
            disk_faulty: Cell::new(false),
            paused: Cell::new(false),
            starts: Cell::new(0),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.machine.borrow().as_ref().is_some_and(|machine| !machine.is_killed())
    }

    pub(super) fn machine(&self) -> Option<Machine> {
        self.machine.borrow().clone().filter(|machine| !machine.is_killed())
    }

    /// The group, while the process has it open.
    pub(super) fn group(&self) -> Option<Group<Ledger>> {
        self.machine()?;
        self.group.borrow().clone()
    }

    /// Starts a process on the disk as it is.
    pub(super) fn start(&self, context: &Context) {
        assert!(!self.is_running(), "one process per machine");
        let disk = self.disk.borrow().clone();
        disk.clear_faults();
        disk.set_capacity_bytes(DISK_BYTES);
        self.disk_faulty.set(false);
        self.paused.set(false);
        self.starts.set(self.starts.get() + 1);
        let machine = Machine::at(host(self.node), &disk);
        *self.group.borrow_mut() = None;
        *self.machine.borrow_mut() = Some(machine.clone());
        let process = run(self.node, context.clone(), Rc::clone(&self.group));
        drop(machine.spawn(process));
    }

    /// Ends the process; what it wrote stays with the kernel.
    pub(super) fn kill(&self) {
        *self.group.borrow_mut() = None;
        if let Some(machine) = self.machine.borrow_mut().take()
            && !machine.is_killed()
        {
            machine.kill();
        }
    }

    /// Takes the power: the disk keeps what a power loss leaves of it.
    pub(super) fn power_off(&self, random: &mut Rng) {
        *self.group.borrow_mut() = None;
        if let Some(machine) = self.machine.borrow_mut().take()
            && !machine.is_killed()
        {
            machine.power_off();
        }
        let image = self.disk.borrow().crash(random);
        *self.disk.borrow_mut() = Disk::boot(image);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        if let Some(machine) = self.machine() {
            self.paused.set(paused);
            if paused { machine.pause() } else { machine.resume() }
        }
    }
}

/// The process.
async fn run(node: NodeId, context: Context, slot: Rc<RefCell<Option<Group<Ledger>>>>) {
    let Context { plan, witness, nodes } = context;
    witness.started(node);
    let links = Links::bind(nodes, plan.misroute_one_in);
    let opened = open(node, &plan, &links, &witness).await;
    let group = match opened {
        Ok(group) => group,
        Err(error) => {
            // The judge asks whether the disk gave a reason for this.
            witness.did_not_open(node, error);
            Machine::current().kill();
            return;
        }
    };
    if group.recovery().restarted {
        // The process before this one ended between receiving a checkpoint and taking it in.
        witness.given_checkpoint(node);
    }
    let vote = group.log().hard_state().vote;
    witness.came_back(node, vote);
    *slot.borrow_mut() = Some(group.clone());
    drop(world::spawn(links.serve(group.clone())));
    let desk = Desk { node, group: group.clone(), witness: Rc::clone(&witness), plan };
    drop(world::spawn(client::serve(desk)));
    drop(world::spawn(look(node, group.clone(), Rc::clone(&witness))));
    let reason = group.failed().await;
    witness.failed(node, reason);
    // As the real process does: a group that has failed ends it.
    Machine::current().kill();
}

async fn open(
    node: NodeId,
    plan: &Plan,
    links: &Links,
    witness: &Rc<Witness>,
) -> Result<Group<Ledger>, String> {
    let described = |error: std::io::Error| error.to_string();
    world::fs::create_dir_all(DIR).await.map_err(described)?;
    world::fs::sync_dir("/").await.map_err(described)?;
    let options = GroupOptions {
        node,
        shard: plan.log.shard,
        dir: Path::new(DIR).join("shard"),
        log: plan.log.clone(),
        checkpoint_bytes: plan.checkpoint_bytes,
        timing: plan.timing.clone(),
        peers: Rc::new(links.clone()),
        machine: Ledger::new(node, Rc::clone(witness)),
    };
    Group::open(options).await.map_err(|error| error.to_string())
}

/// Tells the witness who leads.
async fn look(node: NodeId, group: Group<Ledger>, witness: Rc<Witness>) {
    loop {
        let status = group.status();
        if status.role == Role::Leader {
            witness.leads(node, status.term);
        }
        if let Some(term) = group.leader_term() {
            witness.serves(node, term, |client| group.with_machine(|ledger| ledger.next(client)));
        }
        world::sleep(LOOK_EVERY).await;
    }
}
