//! A machine of the simulation: a disk, a clock and the tasks that run on it.
//!
//! Owns who belongs together: a spawned task inherits the machine (and the core) of its spawner,
//! so files it opens lie on that machine's disk, it waits by that machine's clock, and it dies
//! when the machine is killed. Must never share a disk between two machines that live at the same
//! time.
//!
//! ```text
//!   new --> running <--pause, resume--> paused
//!              |                          |
//!              +--kill: the process ends--+--> `new` on the same disk
//!              +--power_off, crash_at-----+--> `Disk::boot(disk.crash(..))`, then `new` on that
//! ```

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::rc::Rc;

use super::clock::Clock;
use super::disk::Disk;
use super::executor::{self, EVENT_MACHINE};
use super::host::Host;
use super::journal;
use super::node::CoreContext;
use super::rng::mix;
use super::task::{self, JoinHandle};

/// One simulated machine, or one core of it. Cloning gives another handle.
#[derive(Clone)]
pub struct Machine {
    state: Rc<State>,
    core: Option<CoreContext>,
}

struct State {
    host: Host,
    disk: Disk,
    clock: Clock,
    paused: Cell<bool>,
    killed: Rc<Cell<bool>>,
}

impl Machine {
    /// A machine that boots with `disk`: what a process before it left in flight arrives now, and
    /// the locks it held are gone. Its clock is right until it is set.
    #[must_use]
    pub fn new(disk: &Disk) -> Self {
        Self::at(Host::default(), disk)
    }

    /// As `new`, at a host of the network.
    #[must_use]
    pub fn at(host: Host, disk: &Disk) -> Self {
        let killed = Rc::new(Cell::new(false));
        disk.process_started(&killed);
        let state = State {
            host,
            disk: disk.clone(),
            clock: Clock::default(),
            paused: Cell::new(false),
            killed,
        };
        let machine = Self { state: Rc::new(state), core: None };
        if let Some(world) = executor::try_world() {
            world.network().process_started(&machine);
            machine.tell(Event::Started);
        }
        machine
    }

    /// The machine of the task that asks.
    #[must_use]
    pub fn current() -> Self {
        executor::world().machine()
    }

    /// This machine as one of its cores sees it: what is spawned through this handle, and all
    /// that such tasks spawn, runs on that core.
    #[must_use]
    pub fn core(&self, index: u16, count: u16) -> Self {
        assert!(index < count, "core {index} of {count}");
        let core = CoreContext { index, count, cpu: usize::from(index) };
        Self { state: Rc::clone(&self.state), core: Some(core) }
    }

    pub(super) fn core_context(&self) -> Option<CoreContext> {
        self.core
    }

    /// Where it is on the network.
    #[must_use]
    pub fn host(&self) -> Host {
        self.state.host
    }

    pub(super) fn is_same_process(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.state, &other.state)
    }

    /// Whether its system runs, if not its process.
    pub(super) fn has_power(&self) -> bool {
        !self.state.disk.is_crashed()
    }

    /// Its disk.
    #[must_use]
    pub fn disk(&self) -> Disk {
        self.state.disk.clone()
    }

    /// Starts a task on this machine.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        assert!(!self.is_killed(), "a killed machine runs no tasks");
        task::spawn_on(self.clone(), future)
    }

    /// Ends the process: all its tasks are dropped, the operations in flight still reach the
    /// disk, and its system closes or resets its connections. Another machine may start on the
    /// same disk at once.
    pub fn kill(&self) {
        self.resume();
        self.state.killed.set(true);
        self.tell(if self.has_power() { Event::Killed } else { Event::PoweredOff });
        let world = executor::world();
        world.network().process_ended(self);
        world.drop_killed_tasks();
    }

    /// Takes the power: all its tasks are dropped, no operation in flight completes any more, and
    /// the network hears nothing from its host until another machine boots there.
    /// `Disk::crash` tells what is left of the disk.
    pub fn power_off(&self) {
        self.state.disk.cut_power();
        self.kill();
    }

    /// Whether it was killed, or has no power.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        self.state.killed.get() || self.state.disk.is_crashed()
    }

    /// Stops the process where it is, as SIGSTOP does: none of its tasks is polled. The clock
    /// goes on, timers fire, the disk and the network work; its tasks see it when they go on.
    pub fn pause(&self) {
        if !self.state.paused.replace(true) {
            executor::world().paused();
            self.tell(Event::Paused);
        }
    }

    /// Lets a paused process go on.
    pub fn resume(&self) {
        if self.state.paused.replace(false) {
            executor::world().resumed();
            self.tell(Event::Resumed);
        }
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.state.paused.get()
    }

    /// Moves the wall clock of this machine; the monotonic clock does not see it.
    pub fn set_unix_offset_ms(&self, offset_ms: i64) {
        self.state.clock.set_unix_offset_ms(offset_ms);
        self.tell(Event::ClockOffset { ms: offset_ms });
    }

    /// Makes both clocks of this machine, and so its timers, fast or slow by this many parts in a
    /// million: 50,000 is 5 % fast. Waits that have begun end by the new rate.
    pub fn set_clock_rate_ppm(&self, rate_ppm: i64) {
        let world = executor::world();
        self.state.clock.set_rate_ppm(world.now_ns(), rate_ppm);
        world.wake_sleepers();
        self.tell(Event::ClockRate { ppm: rate_ppm });
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.state.clock
    }

    /// Writes what is done to it into the trace and the journal.
    fn tell(&self, event: Event) {
        let host = self.state.host.0;
        executor::world().record(EVENT_MACHINE.wrapping_add(event.code()), u64::from(host));
        journal::note(|| format!("host {host}: {event:?}"));
    }
}

/// What is done to a machine from outside.
#[derive(Clone, Copy, Debug)]
enum Event {
    Started,
    Killed,
    PoweredOff,
    Paused,
    Resumed,
    ClockOffset { ms: i64 },
    ClockRate { ppm: i64 },
}

impl Event {
    fn code(self) -> u64 {
        match self {
            Self::Started => 0,
            Self::Killed => 1,
            Self::PoweredOff => 2,
            Self::Paused => 3,
            Self::Resumed => 4,
            Self::ClockOffset { ms } => mix(ms.cast_unsigned()),
            Self::ClockRate { ppm } => mix(!ppm.cast_unsigned()),
        }
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Machine")
            .field("host", &self.state.host)
            .field("core", &self.core.map(|core| core.index))
            .field("killed", &self.is_killed())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use super::super::{CrashStyle, Fault, Injection, Operation, keep_journal, run, take_journal};
    use super::*;
    use crate::node::current_core;
    use crate::{BLOCK_SIZE, Buffer, File, Instant, fs, sleep, spawn, unix_time_ms, yield_now};

    const MS: Duration = Duration::from_millis(1);

    /// Counts up every millisecond of its machine's clock.
    fn ticker(machine: &Machine) -> Rc<Cell<u64>> {
        let ticks = Rc::new(Cell::new(0));
        let counted = Rc::clone(&ticks);
        drop(machine.spawn(async move {
            loop {
                sleep(MS).await;
                counted.set(counted.get() + 1);
            }
        }));
        ticks
    }

    async fn write(byte: u8) {
        let file = File::open("/f").await.unwrap();
        let mut buffer = Buffer::new(BLOCK_SIZE);
        buffer.fill(byte);
        file.write_at(&buffer.freeze(), 0).await.unwrap();
    }

    async fn first_byte() -> u8 {
        fs::read("/f").await.unwrap()[0]
    }

    /// A disk on which `/f` is one durable block of zeroes, and writes take 10 ms.
    async fn disk_with_file() -> Disk {
        let disk = Disk::default();
        let machine = Machine::new(&disk);
        let made = machine.spawn(async {
            let file = File::create("/f", BLOCK_SIZE as u64).await.unwrap();
            file.sync_data().await.unwrap();
            fs::sync_dir("/").await.unwrap();
        });
        made.await.unwrap();
        machine.kill();
        let stall = Fault::Stall(10 * MS);
        disk.inject(Injection::next(Operation::Write, stall));
        disk
    }

    #[test]
    fn a_paused_machine_stands_still_and_goes_on() {
        run(1, async {
            let (paused, other) = (Machine::new(&Disk::default()), Machine::new(&Disk::default()));
            let (paused_ticks, other_ticks) = (ticker(&paused), ticker(&other));
            sleep(10 * MS).await;
            let before = paused_ticks.get();
            assert!(before > 5);
            paused.pause();
            paused.pause();
            let late = paused.spawn(async { Instant::now() });
            sleep(1_000 * MS).await;
            assert_eq!(paused_ticks.get(), before);
            assert!(other_ticks.get() > 900);
            let resumed_at = Instant::now();
            paused.resume();
            assert!(late.await.unwrap() >= resumed_at, "it was polled while it paused");
            sleep(10 * MS).await;
            // One timer was due meanwhile, not a thousand.
            assert!(paused_ticks.get() > before + 5);
            assert!(paused_ticks.get() < before + 15);
        });
    }

    #[test]
    fn a_machine_may_pause_itself_and_die_in_the_pause() {
        run(1, async {
            let machine = Machine::new(&Disk::default());
            let ticks = ticker(&machine);
            let asleep = machine.spawn(async {
                Machine::current().pause();
                yield_now().await;
                7
            });
            sleep(50 * MS).await;
            assert!(machine.is_paused());
            let before = ticks.get();
            machine.kill();
            assert_eq!(asleep.await, None);
            sleep(50 * MS).await;
            assert_eq!(ticks.get(), before);
        });
    }

    #[test]
    #[should_panic(expected = "1 tasks are held by paused machines")]
    fn a_pause_for_ever_is_a_deadlock() {
        run(1, async {
            let machine = Machine::new(&Disk::default());
            machine.pause();
            machine.spawn(async {}).await;
        });
    }

    #[test]
    fn what_a_killed_process_left_in_flight_lands_before_the_next_one_and_once() {
        for seed in 0..20 {
            run(seed, async {
                let disk = disk_with_file().await;
                let first = Machine::new(&disk);
                drop(first.spawn(async {
                    std::mem::forget(fs::lock_dir("/").await.unwrap());
                    write(0x22).await;
                    panic!("it was killed before");
                }));
                sleep(5 * MS).await;
                first.kill();
                let second = Machine::new(&disk);
                let check = second.spawn(async {
                    assert_eq!(first_byte().await, 0x22);
                    write(0x33).await;
                    drop(fs::lock_dir("/").await.unwrap());
                    sleep(100 * MS).await;
                    first_byte().await
                });
                assert_eq!(check.await, Some(0x33), "the old write landed again");
            });
        }
    }

    #[test]
    fn without_power_nothing_lands() {
        run(1, async {
            let disk = disk_with_file().await;
            let machine = Machine::new(&disk);
            let writer = machine.spawn(write(0x22));
            sleep(5 * MS).await;
            machine.power_off();
            assert!(machine.is_killed());
            assert_eq!(writer.await, None);
            sleep(100 * MS).await;
            assert_eq!(disk.read_raw("/f", 0, 1).unwrap(), [0]);
            let outcomes = [(CrashStyle::KeepNone, 0), (CrashStyle::KeepAll, 0x22)];
            for (style, byte) in outcomes {
                let rebooted = Disk::boot(disk.crash_as(style, |count| count - 1));
                let found = Machine::new(&rebooted).spawn(first_byte());
                assert_eq!(found.await, Some(byte), "{style:?}");
            }
        });
    }

    #[test]
    fn a_machine_may_take_its_own_power() {
        run(1, async {
            let (disk, reached) = (Disk::default(), Rc::new(Cell::new(false)));
            let machine = Machine::new(&disk);
            let after = Rc::clone(&reached);
            let task = machine.spawn(async move {
                Machine::current().power_off();
                yield_now().await;
                after.set(true);
            });
            assert_eq!(task.await, None);
            assert!(!reached.get());
            assert!(disk.is_crashed());
        });
    }

    #[test]
    #[should_panic(expected = "a process uses the disk")]
    fn two_processes_do_not_share_a_disk() {
        run(1, async {
            let disk = Disk::default();
            let _first = Machine::new(&disk);
            let _second = Machine::new(&disk);
        });
    }

    #[test]
    fn a_fast_clock_ends_waits_early_and_a_slow_one_late() {
        for (rate_ppm, expected_ms) in [(0, 1_000), (50_000, 952), (-50_000, 1_052)] {
            run(1, async {
                let machine = Machine::new(&Disk::default());
                machine.set_clock_rate_ppm(rate_ppm);
                let began = Instant::now();
                let shown = machine.spawn(async {
                    let (began, unix_began) = (Instant::now(), unix_time_ms());
                    sleep(1_000 * MS).await;
                    (began.elapsed(), unix_time_ms() - unix_began)
                });
                let (local, unix_ms) = shown.await.unwrap();
                let passed = u64::try_from(began.elapsed().as_millis()).unwrap();
                assert!(passed.abs_diff(expected_ms) <= 1, "{rate_ppm}: {passed} ms");
                assert!(local >= 1_000 * MS, "{rate_ppm}: the wait ended early by its own clock");
                assert!(local < 1_001 * MS, "{rate_ppm}");
                assert!((1_000..=1_001).contains(&unix_ms), "{rate_ppm}: {unix_ms}");
            });
        }
    }

    #[test]
    fn a_new_rate_holds_for_waits_that_have_begun() {
        run(1, async {
            let machine = Machine::new(&Disk::default());
            let began = Instant::now();
            let wait = machine.spawn(sleep(1_000 * MS));
            sleep(500 * MS).await;
            machine.set_clock_rate_ppm(1_000_000);
            wait.await.unwrap();
            let passed = began.elapsed();
            assert!(passed > 749 * MS, "{passed:?}");
            assert!(passed < 751 * MS, "{passed:?}");
        });
    }

    #[test]
    fn a_wall_clock_jumps_alone() {
        run(1, async {
            let machine = Machine::new(&Disk::default());
            machine.set_unix_offset_ms(-3_600_000);
            let there = machine.spawn(async { (unix_time_ms(), Instant::now()) });
            let (unix, now) = there.await.unwrap();
            assert!(unix < unix_time_ms() - 3_599_000);
            assert!(now.elapsed() < MS);
        });
    }

    #[test]
    fn what_is_done_to_it_is_told() {
        keep_journal(true);
        run(1, async {
            let machine = Machine::at(Host(3), &Disk::default());
            machine.pause();
            machine.set_unix_offset_ms(-7);
            machine.set_clock_rate_ppm(9);
            machine.resume();
            machine.power_off();
        });
        let lines: Vec<String> = take_journal().into_iter().map(|(_, line)| line).collect();
        keep_journal(false);
        let expected = [
            "host 3: Started",
            "host 3: Paused",
            "host 3: ClockOffset { ms: -7 }",
            "host 3: ClockRate { ppm: 9 }",
            "host 3: Resumed",
            "host 3: PoweredOff",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn tasks_inherit_their_core() {
        run(1, async {
            assert_eq!(current_core(), None);
            let machine = Machine::new(&Disk::default());
            let seen = Rc::new(RefCell::new(Vec::new()));
            for index in 0..2 {
                let seen = Rc::clone(&seen);
                let task = machine.core(index, 2).spawn(async move {
                    let child = spawn(async { current_core() });
                    let core = child.await.unwrap().unwrap();
                    seen.borrow_mut().push((core.index, core.count));
                });
                task.await.unwrap();
            }
            assert_eq!(*seen.borrow(), [(0, 2), (1, 2)]);
            machine.core(0, 2).kill();
            assert!(machine.is_killed(), "a core is the same machine");
        });
    }
}
