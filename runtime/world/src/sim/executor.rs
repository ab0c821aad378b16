//! The executor of the simulation: one thread, one queue of ready tasks, one virtual clock.
//!
//! Owns the tasks, the timers, the clock, the random numbers and the trace of one run. Must never
//! look at the machine: no real time, no thread, no hash map with a random state.
//!
//! Invariants: the same seed and the same code give the same sequence of picks; time moves only
//! here; a task is polled only after it was woken; what a killed machine spawned is never polled
//! again; what a paused machine spawned waits, woken, until it goes on.
//!
//! ```text
//!   fire timers due -> pick one ready task by the seed -> poll -> (repeat)
//!        none ready -> jump to the next timer
//!        no timer   -> deadlock: panic with the seed
//! ```

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use super::disk::Disk;
use super::machine::Machine;
use super::network::Network;
use super::ready::{Ready, TaskWaker};
use super::rng::{Rng, mix};
use super::tasks::{MAIN_TASK, Task, TaskFuture, TaskKey, Tasks};

/// Everything one run owns.
pub(super) struct World {
    seed: u64,
    now_ns: Cell<u64>,
    schedule_random: RefCell<Rng>,
    disk_random: RefCell<Rng>,
    chaos_random: RefCell<Rng>,
    user_random: RefCell<Rng>,
    mood_random: RefCell<Rng>,
    trace: Cell<u64>,
    step_count: Cell<u64>,
    tasks: RefCell<Tasks>,
    ready: Arc<Ready>,
    /// Woken tasks of paused machines.
    held: RefCell<Vec<Arc<TaskWaker>>>,
    paused_count: Cell<u64>,
    timers: RefCell<BTreeMap<TimerKey, Due>>,
    timer_count: Cell<u64>,
    network: Network,
    main_machine: Machine,
    /// Of the task that is being polled.
    machine: RefCell<Machine>,
}

/// When a timer is due, and its number among all.
pub(super) type TimerKey = (u64, u64);

/// What a timer does.
pub(super) enum Due {
    Wake(Waker),
    /// Called with the timer's own key.
    Call(Box<dyn FnOnce(TimerKey)>),
}

/// Steps without an end are a livelock; a run of this many polls takes minutes.
const STEP_COUNT_MAX: u64 = 200_000_000;
/// The network's own timers go on when all tasks wait for each other. This many, and no poll, are
/// days of virtual time.
const JUMP_COUNT_MAX: u64 = 200_000;
/// A poll costs this much virtual time at most, so that a task that spins sees time move.
const POLL_COST_NS_MAX: u64 = 1_000;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    static TRACE_OF_LAST_RUN: Cell<u64> = const { Cell::new(0) };
    static POLLS_OF_LAST_RUN: Cell<u64> = const { Cell::new(0) };
    static RUN_COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Runs `future` on a machine with `disk`, and what it spawns, until it ends; None when its
/// machine was killed before.
pub(super) fn run<F: Future>(seed: u64, disk: &Disk, future: F) -> Option<F::Output> {
    RUN_COUNT.set(RUN_COUNT.get() + 1);
    let world = Rc::new(World::new(seed, Machine::new(disk)));
    let _guard = Running::enter(Rc::clone(&world));
    world.network.process_started(&world.main_machine);
    let output = world.drive(future);
    world.drop_tasks(|_| true);
    output
}

/// The world this thread is in.
///
/// # Panics
/// Outside of a run: the simulation has no clock, disk or randomness of its own.
pub(super) fn world() -> Rc<World> {
    match try_world() {
        Some(world) => world,
        None => panic!("not inside a simulated world: call this within barrage_world::sim::run"),
    }
}

pub(super) fn try_world() -> Option<Rc<World>> {
    WORLD.with(|world| world.borrow().clone())
}

/// The trace of the current run, or of the last one that ended on this thread.
pub(super) fn trace_hash() -> u64 {
    try_world().map_or_else(|| TRACE_OF_LAST_RUN.get(), |world| world.trace.get())
}

/// Counts the runs of this thread: what an earlier run left behind is told by it.
pub(super) fn run_number() -> u64 {
    RUN_COUNT.get()
}

/// The polls of the current run, or of the last one that ended on this thread.
pub(super) fn poll_count() -> u64 {
    try_world().map_or_else(|| POLLS_OF_LAST_RUN.get(), |world| world.step_count.get())
}

impl World {
    fn new(seed: u64, machine: Machine) -> Self {
        let mut random = Rng::new(seed);
        Self {
            seed,
            now_ns: Cell::new(START_NS),
            schedule_random: RefCell::new(random.fork()),
            disk_random: RefCell::new(random.fork()),
            user_random: RefCell::new(random.fork()),
            mood_random: RefCell::new(random.fork()),
            chaos_random: RefCell::new(random.fork()),
            network: Network::new(random.fork()),
            trace: Cell::new(mix(seed)),
            step_count: Cell::new(0),
            tasks: RefCell::default(),
            ready: Arc::new(Ready::default()),
            held: RefCell::default(),
            paused_count: Cell::new(0),
            timers: RefCell::new(BTreeMap::new()),
            timer_count: Cell::new(0),
            main_machine: machine.clone(),
            machine: RefCell::new(machine),
        }
    }

    /// The true time: the clocks of machines follow it, each in its way.
    pub(super) fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    pub(super) fn machine(&self) -> Machine {
        self.machine.borrow().clone()
    }

    pub(super) fn with_machine<T>(&self, ask: impl FnOnce(&Machine) -> T) -> T {
        ask(&self.machine.borrow())
    }

    pub(super) fn network(&self) -> Network {
        self.network.clone()
    }

    /// Numbers for code under test; apart from the scheduler's, so that neither shifts the other.
    pub(super) fn user_random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.user_random.borrow_mut())
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn mood_random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.mood_random.borrow_mut())
    }

    pub(super) fn chaos_random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.chaos_random.borrow_mut())
    }

    pub(super) fn disk_random<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.disk_random.borrow_mut())
    }

    /// Adds an event to the trace: two runs are equal when their traces are.
    pub(super) fn record(&self, event: u64, detail: u64) {
        let mixed = mix(self.trace.get().rotate_left(5) ^ mix(event) ^ detail);
        self.trace.set(mixed);
    }

    pub(super) fn spawn(&self, machine: Machine, future: TaskFuture) {
        let key = self.tasks.borrow_mut().add(machine, future);
        self.ready.waker(key).wake();
    }

    pub(super) fn timer_add(&self, at_ns: u64, due: Due) -> TimerKey {
        let key = (at_ns, self.timer_count.get());
        self.timer_count.set(key.1 + 1);
        self.timers.borrow_mut().insert(key, due);
        key
    }

    pub(super) fn timer_remove(&self, key: TimerKey) {
        let removed = self.timers.borrow_mut().remove(&key);
        drop(removed);
    }

    /// Whether a timer is still to fire, and will wake that task.
    pub(super) fn timer_wakes(&self, key: TimerKey, waker: &Waker) -> bool {
        let timers = self.timers.borrow();
        matches!(timers.get(&key), Some(Due::Wake(set)) if set.will_wake(waker))
    }

    /// Fires a timer before its time, if it has not fired yet.
    pub(super) fn timer_fire(&self, key: TimerKey) {
        let due = self.timers.borrow_mut().remove(&key);
        if let Some(due) = due {
            self.fire(key, due);
        }
    }

    /// Wakes all that wait for a time, so that they look at their clocks again.
    pub(super) fn wake_sleepers(&self) {
        for due in self.timers.borrow().values() {
            if let Due::Wake(waker) = due {
                waker.wake_by_ref();
            }
        }
    }

    /// A machine begins to pause: its tasks are held back from now on.
    pub(super) fn paused(&self) {
        self.paused_count.set(self.paused_count.get() + 1);
    }

    /// A machine goes on, or has ended while it paused: what was held for it is ready.
    pub(super) fn resumed(&self) {
        self.paused_count.set(self.paused_count.get() - 1);
        for waker in self.held.take() {
            if self.is_paused(waker.task()) {
                self.held.borrow_mut().push(waker);
            } else {
                self.ready.put_back(waker);
            }
        }
    }

    fn is_paused(&self, task: TaskKey) -> bool {
        if self.paused_count.get() == 0 {
            return false;
        }
        if task == MAIN_TASK {
            return self.main_machine.is_paused();
        }
        self.tasks.borrow().get(task).is_some_and(|task| task.machine.is_paused())
    }

    /// Drops the tasks that a killed machine spawned; the one being polled goes after its poll.
    pub(super) fn drop_killed_tasks(&self) {
        self.drop_tasks(|task| task.machine.is_killed());
    }

    /// Futures are dropped outside of every borrow: their destructors may spawn and wake.
    fn drop_tasks(&self, dropped: impl Fn(&Task) -> bool) {
        let mut slot = 0;
        loop {
            let next = self.tasks.borrow_mut().take_matching(slot, &dropped);
            match next {
                Some((task, next_slot)) => {
                    drop(task);
                    slot = next_slot;
                }
                None if slot == 0 => return,
                // What a destructor spawned may lie in a slot that was passed.
                None => slot = 0,
            }
        }
    }

    fn drive<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        self.ready.waker(MAIN_TASK).wake();
        loop {
            let picked = self.pick();
            if picked.task() == MAIN_TASK {
                self.machine.replace(self.main_machine.clone());
                let waker = picked.polled();
                let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                if let Poll::Ready(output) = polled {
                    return Some(output);
                }
            } else {
                self.poll_task(picked);
            }
            if self.main_machine.is_killed() {
                return None;
            }
        }
    }

    fn poll_task(&self, picked: Arc<TaskWaker>) {
        let key = picked.task();
        let Some((mut future, machine)) = self.tasks.borrow_mut().take(key) else {
            return;
        };
        self.machine.replace(machine.clone());
        let waker = picked.polled();
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        let killed = machine.is_killed();
        if killed {
            // The power may have gone during this poll: none of its other tasks runs again.
            self.drop_killed_tasks();
        }
        if polled.is_ready() || killed {
            self.tasks.borrow_mut().remove(key);
            drop(future);
        } else {
            self.tasks.borrow_mut().put_back(key, future);
        }
    }

    /// The next task to poll. Moves the clock when nothing is ready.
    fn pick(&self) -> Arc<TaskWaker> {
        let step = self.step_count.get() + 1;
        self.step_count.set(step);
        assert!(
            step < STEP_COUNT_MAX,
            "livelock: {step} polls and the run has not ended; seed {}",
            self.seed
        );
        let cost = self.schedule_random.borrow_mut().between(1, POLL_COST_NS_MAX);
        self.now_ns.set(self.now_ns.get() + cost);
        let mut jump_count = 0;
        loop {
            self.fire_timers();
            let picked = self.ready.pick(&mut self.schedule_random.borrow_mut());
            match picked {
                Some(picked) if self.is_paused(picked.task()) => {
                    self.held.borrow_mut().push(picked);
                }
                Some(picked) => {
                    self.record(EVENT_POLL, picked.task().number);
                    return picked;
                }
                None => self.jump_to_next_timer(),
            }
            jump_count += 1;
            assert!(
                jump_count < JUMP_COUNT_MAX,
                "deadlock: {jump_count} timers in a row woke no task; seed {}",
                self.seed
            );
        }
    }

    fn jump_to_next_timer(&self) {
        let next = self.timers.borrow().first_key_value().map(|(key, _)| key.0);
        let Some(at_ns) = next else {
            let (waiting, held) = (self.tasks.borrow().len(), self.held.borrow().len());
            panic!(
                "deadlock: nothing is ready and no timer is set; {waiting} spawned tasks wait, \
                 {held} tasks are held by paused machines; seed {}",
                self.seed
            );
        };
        assert!(at_ns > self.now_ns.get(), "due timers were fired before");
        self.now_ns.set(at_ns);
    }

    fn fire_timers(&self) {
        loop {
            let due = {
                let mut timers = self.timers.borrow_mut();
                let first = timers.first_entry();
                let due = first.filter(|entry| entry.key().0 <= self.now_ns.get());
                due.map(|entry| entry.remove_entry())
            };
            let Some((key, due)) = due else {
                return;
            };
            self.fire(key, due);
        }
    }

    fn fire(&self, key: TimerKey, due: Due) {
        self.record(EVENT_TIMER, key.0);
        match due {
            Due::Wake(waker) => waker.wake(),
            Due::Call(call) => call(key),
        }
    }
}

/// Makes a world the thread's own for as long as it lives, and says the seed when a run panics.
struct Running {
    world: Rc<World>,
}

impl Running {
    fn enter(world: Rc<World>) -> Self {
        WORLD.with(|slot| {
            let mut slot = slot.borrow_mut();
            assert!(slot.is_none(), "a simulated world runs inside another on this thread");
            *slot = Some(Rc::clone(&world));
        });
        Self { world }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step) = (self.world.seed, self.world.step_count.get());
            eprintln!("simulated run failed: seed {seed}, step {step}");
            // A destructor of a half-run task may assert and turn the panic into an abort that
            // hides it, so tasks of a failed run are leaked on purpose.
            std::mem::forget(self.world.tasks.take());
            std::mem::forget(self.world.timers.take());
        }
        TRACE_OF_LAST_RUN.set(self.world.trace.get());
        POLLS_OF_LAST_RUN.set(self.world.step_count.get());
        let timers = self.world.timers.take();
        drop(timers);
        let world = WORLD.with(RefCell::take);
        drop(world);
    }
}

/// Not zero, so that code which takes zero for "never" is found.
const START_NS: u64 = 1_000_000_000;
const EVENT_POLL: u64 = 1;
const EVENT_TIMER: u64 = 2;
pub(super) const EVENT_DISK: u64 = 3;
pub(super) const EVENT_DISK_FAULT: u64 = EVENT_DISK + 20;
pub(super) const EVENT_MACHINE: u64 = EVENT_DISK_FAULT + 20;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::Duration;

    use super::super::{poll_count, run, trace_hash};
    use crate::mailbox::mailbox;
    use crate::{sleep, spawn, yield_now};

    use super::*;

    /// A task that counts its polls, shows its waker and never ends.
    fn counter(polls: &Rc<Cell<u32>>, shown: &Rc<RefCell<Option<Waker>>>) {
        let (polls, shown) = (Rc::clone(polls), Rc::clone(shown));
        drop(spawn(poll_fn::<(), _>(move |context| {
            polls.set(polls.get() + 1);
            shown.replace(Some(context.waker().clone()));
            Poll::Pending
        })));
    }

    #[test]
    fn a_task_woken_often_is_polled_once_and_again_when_woken_again() {
        run(1, async {
            let (polls, shown) = (Rc::default(), Rc::default());
            counter(&polls, &shown);
            sleep(Duration::from_millis(1)).await;
            assert_eq!(polls.get(), 1);
            for expected in 2..5 {
                for _ in 0..3 {
                    shown.borrow().as_ref().unwrap().wake_by_ref();
                }
                sleep(Duration::from_millis(1)).await;
                assert_eq!(polls.get(), expected);
            }
        });
    }

    #[test]
    fn a_wake_within_a_poll_means_another_poll() {
        run(1, async {
            let mut polls = 0;
            poll_fn(|context| {
                polls += 1;
                context.waker().wake_by_ref();
                if polls < 5 { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        });
        assert_eq!(poll_count(), 5);
    }

    #[test]
    fn a_waker_of_a_task_that_ended_wakes_nobody() {
        run(1, async {
            let stale = Rc::new(RefCell::new(None));
            let show = Rc::clone(&stale);
            let ended = spawn(poll_fn(move |context| {
                show.replace(Some(context.waker().clone()));
                Poll::Ready(())
            }));
            ended.await.unwrap();
            // It lies where the other one lay.
            let polls = Rc::default();
            counter(&polls, &Rc::default());
            sleep(Duration::from_millis(1)).await;
            stale.take().unwrap().wake();
            sleep(Duration::from_millis(1)).await;
            assert_eq!(polls.get(), 1);
        });
    }

    #[test]
    fn every_ready_task_gets_its_turn() {
        run(1, async {
            let turns: Rc<RefCell<Vec<u32>>> = Rc::new(RefCell::new(vec![0; 100]));
            for task in 0..100 {
                let turns = Rc::clone(&turns);
                drop(spawn(async move {
                    loop {
                        turns.borrow_mut()[task] += 1;
                        yield_now().await;
                    }
                }));
            }
            sleep(Duration::from_millis(5)).await;
            let (least, most) = {
                let turns = turns.borrow();
                (*turns.iter().min().unwrap(), *turns.iter().max().unwrap())
            };
            assert!(least > most / 3, "{least} to {most} turns");
        });
    }

    #[test]
    fn a_panic_of_a_task_fails_the_run_and_leaves_the_next_one_alone() {
        let expected = {
            run(5, async { sleep(Duration::from_millis(1)).await });
            trace_hash()
        };
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            run(4, async {
                let machine = Machine::new(&Disk::default());
                drop(machine.spawn(async {
                    yield_now().await;
                    panic!("planned");
                }));
                sleep(Duration::from_secs(1)).await;
            });
        }));
        assert_eq!(panicked.unwrap_err().downcast_ref::<&str>(), Some(&"planned"));
        run(5, async { sleep(Duration::from_millis(1)).await });
        assert_eq!(trace_hash(), expected);
    }

    #[test]
    fn mailboxes_cross_between_cores_the_same_way_for_the_same_seed() {
        let ping_pong = |seed| {
            run(seed, async {
                let machine = Machine::new(&Disk::default());
                let (there, mut arriving) = mailbox::<u32>(8);
                let (back, mut returning) = mailbox::<u32>(8);
                drop(machine.core(1, 2).spawn(async move {
                    let outbox = back.outbox();
                    while let Some(messages) = arriving.recv().await {
                        for message in messages {
                            outbox.post(message + 100).unwrap();
                        }
                    }
                }));
                let asked = machine.core(0, 2).spawn(async move {
                    let outbox = there.outbox();
                    let mut answers = Vec::new();
                    for number in 0..50 {
                        outbox.post(number).unwrap();
                        if number % 4 == 3 {
                            answers.extend(returning.recv().await.unwrap());
                        }
                    }
                    while answers.len() < 50 {
                        answers.extend(returning.recv().await.unwrap());
                    }
                    answers
                });
                assert_eq!(asked.await.unwrap(), (100..150).collect::<Vec<u32>>());
            });
            trace_hash()
        };
        for seed in 0..20 {
            assert_eq!(ping_pong(seed), ping_pong(seed), "seed {seed}");
        }
        assert_ne!(ping_pong(1), ping_pong(2));
    }
}
