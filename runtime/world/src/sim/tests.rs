//! Tests of the simulated world: determinism, time, tasks, and the crash model of the disk.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::*;
use crate::{BLOCK_SIZE, Buffer, File, Instant, Slice, fs, sleep, spawn, timeout, yield_now};

mod faults;
mod network;
mod streams;

const BLOCK: u64 = BLOCK_SIZE as u64;

fn filled(byte: u8, block_count: usize) -> Slice {
    let mut buffer = Buffer::new(block_count * BLOCK_SIZE);
    buffer.fill(byte);
    buffer.freeze()
}

/// A disk that durably holds the file `/f` of `block_count` blocks of 0x11.
fn disk_with_file(block_count: usize) -> Disk {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let file = File::create("/f", BLOCK * block_count as u64).await.unwrap();
        file.write_at(&filled(0x11, block_count), 0).await.unwrap();
        file.sync_data().await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0))
}

async fn workload(order: Rc<RefCell<Vec<u64>>>) {
    let file = Rc::new(File::create("/f", 8 * BLOCK).await.unwrap());
    let mut tasks = Vec::new();
    for number in 0..8_u8 {
        let (file, order) = (Rc::clone(&file), Rc::clone(&order));
        tasks.push(spawn(async move {
            file.write_at(&filled(number, 1), u64::from(number) * BLOCK).await.unwrap();
            order.borrow_mut().push(u64::from(number) + crate::random_u64() % 2 * 100);
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    file.sync_data().await.unwrap();
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let trace = |seed| {
        let order = Rc::new(RefCell::new(Vec::new()));
        run(seed, workload(Rc::clone(&order)));
        (trace_hash(), order.take())
    };
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let (first, second) = (trace(seed), trace(seed));
        assert_eq!(first, second, "seed {seed}");
        hashes.insert(first);
    }
    assert_eq!(hashes.len(), 20);
}

#[test]
fn writes_overtake_each_other() {
    let order = Rc::new(RefCell::new(Vec::new()));
    run(3, workload(Rc::clone(&order)));
    let order: Vec<u64> = order.take().into_iter().map(|number| number % 100).collect();
    assert_eq!(order.len(), 8);
    assert!(!order.is_sorted());
}

#[test]
fn time_jumps_to_the_next_timer() {
    run(1, async {
        let (start, unix_start) = (Instant::now(), crate::unix_time_ms());
        let task = spawn(async {
            sleep(Duration::from_secs(3600)).await;
            7
        });
        assert_eq!(task.await, Some(7));
        let passed = start.elapsed();
        assert!(passed >= Duration::from_secs(3600));
        assert!(passed < Duration::from_secs(3601));
        assert!(crate::unix_time_ms() - unix_start >= 3_600_000);
        Machine::current().set_unix_offset_ms(-5_000_000);
        assert!(crate::unix_time_ms() < unix_start);
    });
}

#[test]
fn a_timeout_drops_its_future() {
    run(1, async {
        let late = timeout(Duration::from_millis(5), sleep(Duration::from_secs(1))).await;
        assert!(late.is_err());
        let early = timeout(Duration::from_secs(1), sleep(Duration::from_millis(5))).await;
        assert!(early.is_ok());
    });
}

#[test]
fn a_spinning_task_sees_time_pass() {
    run(1, async {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(1) {
            yield_now().await;
        }
    });
}

#[test]
#[should_panic(expected = "deadlock: nothing is ready and no timer is set; 1 spawned tasks wait")]
fn a_deadlock_is_found() {
    run(1, async {
        let task = spawn(std::future::pending::<()>());
        task.await;
    });
}

#[test]
fn tasks_left_at_the_end_are_dropped() {
    struct Flag(Rc<Cell<u32>>);
    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    let dropped = Rc::new(Cell::new(0));
    let (first, second) = (Flag(Rc::clone(&dropped)), Flag(Rc::clone(&dropped)));
    run(1, async move {
        drop(spawn(async move {
            let _first = first;
            std::future::pending::<()>().await;
        }));
        yield_now().await;
        drop(spawn(async move {
            let _second = second;
        }));
    });
    assert_eq!(dropped.get(), 2);
}

#[test]
fn a_killed_machine_runs_nothing_and_its_writes_land() {
    let disk = Disk::default();
    run(1, async {
        let machine = Machine::new(&disk);
        let ticks = Rc::new(Cell::new(0));
        let counted = Rc::clone(&ticks);
        let writer = machine.spawn(async move {
            let file = File::create("/f", BLOCK).await.unwrap();
            counted.set(1);
            file.write_at(&filled(9, 1), 0).await.unwrap();
            counted.set(2);
        });
        while ticks.get() == 0 {
            sleep(Duration::from_micros(1)).await;
        }
        machine.kill();
        assert_eq!(writer.await, None);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(ticks.get(), 1);
        let next = Machine::new(&disk);
        let read = next.spawn(async { fs::read("/f").await.unwrap() });
        assert_eq!(read.await.unwrap(), vec![9; BLOCK_SIZE]);
    });
}

#[test]
fn one_machine_loses_power_and_the_other_goes_on() {
    let (first, second) = (Disk::default(), Disk::default());
    first.crash_at(3);
    let after_crash = run(1, async {
        let (machine, other) = (Machine::new(&first), Machine::new(&second));
        let ticks = Rc::new(Cell::new(0));
        for _ in 0..5 {
            let (ticks, disk) = (Rc::clone(&ticks), first.clone());
            drop(machine.spawn(async move {
                loop {
                    sleep(Duration::from_micros(10)).await;
                    assert!(!disk.is_crashed(), "a task ran without power");
                    ticks.set(ticks.get() + 1);
                }
            }));
        }
        let writer = machine.spawn(async {
            let file = File::create("/f", BLOCK).await.unwrap();
            file.sync_data().await.unwrap();
            file.sync_data().await.unwrap();
        });
        let written = other.spawn(async { fs::write_atomic("/g", b"kept").await });
        assert_eq!(writer.await, None);
        assert!(written.await.unwrap().is_ok());
        let before = ticks.get();
        assert!(before > 0);
        sleep(Duration::from_secs(1)).await;
        let rebooted = Machine::new(&Disk::boot(first.crash(&mut Rng::new(1))));
        assert!(rebooted.spawn(async { fs::list("/").await.unwrap() }).await.is_some());
        ticks.get() - before
    });
    assert_eq!(after_crash, 0);
    assert_eq!(second.read_raw("/g", 0, 9).unwrap(), b"kept");
}

#[test]
fn writes_in_flight_land_when_the_process_ends() {
    let disk = disk_with_file(1);
    run_on(1, &disk, async {
        let file = Rc::new(File::open("/f").await.unwrap());
        let lock = fs::lock_dir("/").await.unwrap();
        drop(spawn(async move {
            let _lock = lock;
            file.write_at(&filled(0x22, 1), 0).await.unwrap();
        }));
        yield_now().await;
        yield_now().await;
    });
    run_on(2, &disk, async {
        assert_eq!(fs::read("/f").await.unwrap()[0], 0x22);
        drop(fs::lock_dir("/").await.unwrap());
    });
}

#[test]
fn a_write_goes_on_when_its_future_is_dropped() {
    let disk = disk_with_file(1);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        let data = filled(0x22, 1);
        let write = file.write_at(&data, 0);
        assert!(timeout(Duration::from_nanos(1), write).await.is_err());
        sleep(Duration::from_millis(10)).await;
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap()[..4], [0x22; 4]);
    });
}

#[test]
fn a_read_is_short_at_the_end() {
    let disk = disk_with_file(2);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        assert_eq!(file.read_at(BLOCK, 4 * BLOCK_SIZE).await.unwrap().len(), BLOCK_SIZE);
        assert_eq!(file.read_at(8 * BLOCK, BLOCK_SIZE).await.unwrap().len(), 0);
    });
}

#[test]
#[should_panic(expected = "only a whole frozen buffer can be written")]
fn a_part_of_a_buffer_is_not_written() {
    run(1, async {
        let file = File::create("/f", BLOCK).await.unwrap();
        let part = filled(1, 2).slice(0..BLOCK_SIZE);
        drop(file.write_at(&part, 0).await);
    });
}

/// Outcomes of a crash after `0x22` was written over both blocks: sync before or not.
fn outcomes(style: CrashStyle, synced: bool) -> BTreeSet<Vec<u8>> {
    let disk = disk_with_file(2);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.write_at(&filled(0x22, 2), 0).await.unwrap();
        if synced {
            file.sync_data().await.unwrap();
        }
    });
    let mut choices = Choices::default();
    let mut outcomes = BTreeSet::new();
    loop {
        let image = disk.crash_as(style, |count| choices.choose(count));
        let bytes = Disk::boot(image).read_raw("/f", 0, 2 * BLOCK).unwrap();
        outcomes.insert(bytes.chunks(512).map(|sector| sector[0]).collect());
        if !choices.advance() {
            return outcomes;
        }
    }
}

#[test]
fn a_crash_tears_what_was_not_synced() {
    for (style, expected_count) in [
        (CrashStyle::KeepAll, 1),
        (CrashStyle::KeepNone, 1),
        (CrashStyle::Writes, 2),
        (CrashStyle::Prefixes, 17),
        (CrashStyle::Sectors, 1 << 16),
    ] {
        assert_eq!(outcomes(style, false).len(), expected_count, "{style:?}");
        let synced = outcomes(style, true);
        assert_eq!(synced, BTreeSet::from([vec![0x22; 16]]), "{style:?}");
    }
}

#[test]
fn a_flush_covers_only_what_completed_before_it() {
    let disk = disk_with_file(2);
    let mut uncovered_count = 0;
    for seed in 0..50 {
        let disk = Disk::boot(disk.snapshot());
        let covered = run_on(seed, &disk, async {
            let file = Rc::new(File::open("/f").await.unwrap());
            let done = Rc::new(Cell::new(false));
            let (other, other_done) = (Rc::clone(&file), Rc::clone(&done));
            drop(spawn(async move {
                other.write_at(&filled(0x22, 1), 0).await.unwrap();
                other_done.set(true);
            }));
            sleep(Duration::from_micros(300)).await;
            let covered = done.get();
            file.sync_data().await.unwrap();
            covered
        });
        let image = disk.crash_as(CrashStyle::KeepNone, |_| 0);
        let kept = Disk::boot(image).read_raw("/f", 0, 1).unwrap() == [0x22];
        assert!(!covered || kept, "seed {seed}");
        uncovered_count += u32::from(!covered && !kept);
    }
    assert!(uncovered_count > 5, "the race never happened: {uncovered_count}");
}

#[test]
fn a_durable_write_covers_itself_alone() {
    let disk = disk_with_file(3);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.write_at(&filled(0x22, 2), 0).await.unwrap();
        file.write_durable_at(&filled(0x33, 1), BLOCK).await.unwrap();
        file.write_at(&filled(0x44, 1), 2 * BLOCK).await.unwrap();
        file.write_durable_at(&filled(0x55, 1), 2 * BLOCK).await.unwrap();
        file.write_at(&filled(0x66, 1), 0).await.unwrap();
    });
    let image = disk.crash_as(CrashStyle::KeepNone, |_| 0);
    let after = Disk::boot(image);
    let bytes = [0, BLOCK, 2 * BLOCK].map(|at| after.read_raw("/f", at, 1).unwrap()[0]);
    // The write before it goes with it where they touch, and the one behind it does not.
    assert_eq!(bytes, [0x22, 0x33, 0x55]);
}

#[test]
fn a_durable_write_fails_as_a_flush_does() {
    let disk = disk_with_file(1);
    disk.inject(Injection::next(Operation::Flush, Fault::EIO).at("/f"));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        let failed = file.write_durable_at(&filled(0x22, 1), 0).await.unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5));
    });
    let image = disk.crash_as(CrashStyle::KeepAll, |count| count - 1);
    assert_eq!(Disk::boot(image).read_raw("/f", 0, 1).unwrap(), [0x11]);
}

#[test]
fn a_failed_flush_drops_the_data_and_the_next_one_succeeds() {
    let disk = disk_with_file(1);
    disk.inject(Injection::next(Operation::Flush, Fault::EIO).at("/f"));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.write_at(&filled(0x22, 1), 0).await.unwrap();
        let failed = file.sync_data().await.unwrap_err();
        assert_eq!(failed.raw_os_error(), Some(5));
        file.sync_data().await.unwrap();
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap()[0], 0x22);
    });
    assert_eq!(disk.counters().flush_errors, 1);
    let image = disk.crash_as(CrashStyle::KeepAll, |count| count - 1);
    assert_eq!(Disk::boot(image).read_raw("/f", 0, 1).unwrap(), [0x11]);
}

#[test]
fn names_and_lengths_need_their_sync() {
    let disk = disk_with_file(1);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.set_len(4 * BLOCK).await.unwrap();
        drop(File::create("/new", BLOCK).await.unwrap());
        fs::rename("/f", "/g").await.unwrap();
        fs::create_dir_all("/a/b").await.unwrap();
    });
    let names = |image: &Image| {
        let files = image.files().into_iter();
        files.map(|(path, len)| (path.to_str().unwrap().to_owned(), len)).collect::<Vec<_>>()
    };
    let none = disk.crash_as(CrashStyle::KeepNone, |_| 0);
    assert_eq!(names(&none), [("/f".to_owned(), BLOCK)]);
    let all = disk.snapshot();
    assert_eq!(names(&all), [("/g".to_owned(), 4 * BLOCK), ("/new".to_owned(), BLOCK)]);
    let mut random = Rng::new(5);
    let digests: BTreeSet<u64> = (0..200).map(|_| disk.crash(&mut random).digest()).collect();
    assert!(digests.len() > 10);
    run_on(1, &disk, async {
        let file = File::open("/g").await.unwrap();
        file.sync_data().await.unwrap();
        fs::sync_dir("/").await.unwrap();
    });
    let synced = disk.crash_as(CrashStyle::KeepNone, |_| 0);
    assert_eq!(names(&synced), [("/g".to_owned(), 4 * BLOCK), ("/new".to_owned(), 0)]);
}

#[test]
fn a_file_moved_between_directories_is_never_lost() {
    let disk = disk_with_file(1);
    run_on(1, &disk, async {
        fs::create_dir_all("/other").await.unwrap();
        fs::sync_dir("/").await.unwrap();
        fs::rename("/f", "/other/f").await.unwrap();
    });
    let mut choices = Choices::default();
    loop {
        let image = disk.crash_as(CrashStyle::Writes, |count| choices.choose(count));
        assert!(!image.files().is_empty());
        if !choices.advance() {
            break;
        }
    }
}

#[test]
fn an_atomic_write_is_old_or_new_at_every_crash() {
    let replace = |bytes: &'static [u8]| async move {
        fs::write_atomic("/state", bytes).await.unwrap();
    };
    let dry = Disk::default();
    run_on(1, &dry, replace(b"old"));
    let base = dry.crash_as(CrashStyle::KeepNone, |_| 0);
    let before = Disk::boot(base.clone());
    run_on(2, &before, replace(b"the new one"));
    let mut seen = BTreeSet::new();
    for point in 1..=before.operation_count() + 1 {
        let disk = Disk::boot(base.clone());
        disk.crash_at(point);
        let ended = run_until_crash(2, &disk, replace(b"the new one")).is_some();
        assert_eq!(ended, point > before.operation_count());
        let mut random = Rng::new(point);
        for _ in 0..50 {
            let rebooted = Disk::boot(disk.crash(&mut random));
            let state = run_on(3, &rebooted, async { fs::read("/state").await.unwrap() });
            assert!(state == b"old" || state == b"the new one", "point {point}: {state:?}");
            assert!(!ended || state == b"the new one");
            seen.insert(state);
        }
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn faults_fire_once_and_are_counted() {
    let disk = disk_with_file(4);
    disk.inject(Injection::next(Operation::Read, Fault::EIO));
    disk.inject(Injection::next(Operation::Write, Fault::ENOSPC));
    disk.inject(Injection::next(Operation::Write, Fault::Short).after(1));
    disk.inject(Injection::next(Operation::Write, Fault::Lost).at("/g"));
    disk.inject(Injection::next(Operation::Rename, Fault::Stall(Duration::from_secs(9))));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap_err().raw_os_error(), Some(5));
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap()[0], 0x11);
        let data = filled(0x22, 2);
        assert_eq!(file.write_at(&data, 0).await.unwrap_err().raw_os_error(), Some(28));
        match file.write_at(&data, 0).await {
            Ok(written) => assert_eq!(written, data.len()),
            Err(full) => assert_eq!(full.raw_os_error(), Some(28)),
        }
        let start = Instant::now();
        fs::rename("/f", "/g").await.unwrap();
        assert!(start.elapsed() >= Duration::from_secs(9));
        let file = File::open("/g").await.unwrap();
        assert_eq!(file.write_at(&data, 2 * BLOCK).await.unwrap(), data.len());
        assert_eq!(file.read_at(2 * BLOCK, BLOCK_SIZE).await.unwrap()[0], 0x11);
    });
    let counters = disk.counters();
    assert_eq!((counters.read_errors, counters.no_space), (1, 1));
    assert_eq!((counters.short_writes, counters.lost_writes, counters.stalls), (1, 1, 1));
}

#[test]
fn a_misdirected_write_lands_elsewhere() {
    let mut elsewhere_count = 0;
    for seed in 0..20 {
        let disk = disk_with_file(8);
        disk.inject(Injection::next(Operation::Write, Fault::Misdirected));
        let read = run_on(seed, &disk, async {
            let file = File::open("/f").await.unwrap();
            file.write_at(&filled(0x22, 1), 0).await.unwrap();
            file.read_at(0, 8 * BLOCK_SIZE).await.unwrap().to_bytes()
        });
        assert_eq!(read.iter().filter(|byte| **byte == 0x22).count(), BLOCK_SIZE);
        elsewhere_count += u32::from(read[0] == 0x11);
    }
    assert!(elsewhere_count > 10);
}

#[test]
fn names_are_durable_only_after_a_directory_sync_that_succeeds() {
    let outcome = |seed, again: bool| {
        let disk = disk_with_file(1);
        disk.inject(Injection::next(Operation::SyncDirectory, Fault::EIO));
        run_on(1, &disk, async move {
            fs::rename("/f", "/g").await.unwrap();
            assert!(fs::sync_dir("/").await.is_err());
            assert!(!again || fs::sync_dir("/").await.is_ok());
            assert!(fs::exists("/g").await.unwrap());
        });
        assert_eq!(disk.counters().name_errors, 1);
        Disk::boot(disk.crash(&mut Rng::new(seed))).read_raw("/g", 0, 1).is_ok()
    };
    let survived = (0..20).filter(|seed| outcome(*seed, false)).count();
    assert!((1..20).contains(&survived), "{survived} of 20");
    assert!((0..20).all(|seed| outcome(seed, true)));
}

#[test]
fn a_full_disk_says_so_and_recovers() {
    let disk = Disk::new(DiskOptions { capacity_bytes: 4 * BLOCK, ..DiskOptions::default() });
    run_on(1, &disk, async {
        drop(File::create("/f", 3 * BLOCK).await.unwrap());
        let full = File::create("/g", 2 * BLOCK).await.unwrap_err();
        assert_eq!(full.raw_os_error(), Some(28));
        assert!(!fs::exists("/g").await.unwrap());
        assert_eq!(fs::free_space("/").await.unwrap(), BLOCK);
        fs::remove("/f").await.unwrap();
        drop(File::create("/g", 4 * BLOCK).await.unwrap());
    });
    assert_eq!(disk.counters().no_space, 1);
}

#[test]
fn damage_is_seen_and_survives() {
    let disk = disk_with_file(2);
    disk.flip_bit("/f", BLOCK + 3, 1).unwrap();
    disk.make_unreadable("/f", 100).unwrap();
    let disk = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        assert_eq!(file.read_at(BLOCK, BLOCK_SIZE).await.unwrap()[..5], [17, 17, 17, 19, 17]);
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap_err().raw_os_error(), Some(5));
        file.write_at(&filled(0x22, 1), 0).await.unwrap();
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap()[0], 0x22);
    });
    assert_eq!(disk.counters().read_errors, 1);
}

#[test]
fn a_directory_is_locked_once() {
    run(1, async {
        fs::create_dir_all("/data").await.unwrap();
        let lock = fs::lock_dir("/data").await.unwrap();
        assert!(fs::lock_dir("/data").await.is_err());
        drop(lock);
        assert!(fs::lock_dir("/data").await.is_ok());
    });
}
