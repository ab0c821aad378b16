//! Tests of the disk's faults: injected ones, those of chance, and what a crash makes of writes
//! between two barriers.

use super::*;
use crate::sim::{Chaos, Counters, keep_journal, note, take_journal};

const SECTORS: usize = BLOCK_SIZE / 512;

/// Writes, flushes, reads and names, whatever comes of them.
async fn use_everything() {
    for number in 0..40_u8 {
        let path = format!("/{number}");
        drop(fs::create_dir_all(format!("{path}.d")).await);
        let Ok(file) = File::create(&path, 4 * BLOCK).await else { continue };
        for block in 0..4 {
            drop(file.write_at(&filled(number | 0x40, 1), block * BLOCK).await);
            drop(file.read_at(block * BLOCK, BLOCK_SIZE).await);
        }
        drop(file.sync_data().await);
        drop(file.set_len(8 * BLOCK).await);
        drop(fs::sync_dir("/").await);
    }
}

fn fired(counters: &Counters) -> Vec<&'static str> {
    let faults = counters.faults().into_iter();
    faults.filter(|(_, count)| *count > 0).map(|(name, _)| name).collect()
}

#[test]
fn each_kind_of_chaos_fires_alone() {
    const RATE: u32 = 200_000;
    let calm = Chaos::default;
    let table: [(Chaos, &[&str]); 11] = [
        (calm(), &[]),
        (Chaos { eio_read_ppm: RATE, ..calm() }, &["disk-read-error"]),
        (Chaos { eio_write_ppm: RATE, ..calm() }, &["disk-write-error", "disk-torn-write"]),
        (Chaos { eio_flush_ppm: RATE, ..calm() }, &["disk-flush-error"]),
        (Chaos { eio_name_ppm: RATE, ..calm() }, &["disk-name-error"]),
        (Chaos { no_space_ppm: RATE, ..calm() }, &["disk-no-space"]),
        (Chaos { short_write_ppm: RATE, ..calm() }, &["disk-short-write"]),
        (Chaos { misdirected_write_ppm: RATE, ..calm() }, &["disk-misdirected-write"]),
        (Chaos { lost_write_ppm: RATE, ..calm() }, &["disk-lost-write"]),
        (Chaos { bit_flip_ppm: RATE, ..calm() }, &["disk-bit-flip"]),
        (Chaos { stall_ppm: RATE, ..calm() }, &["disk-stall"]),
    ];
    for (chaos, expected) in table {
        let run_once = || {
            let disk = Disk::default();
            disk.set_chaos(chaos.clone());
            run_on(7, &disk, use_everything());
            (disk.counters(), trace_hash())
        };
        let (counters, trace) = run_once();
        assert_eq!(fired(&counters), expected, "{chaos:?}");
        assert_eq!(run_once(), (counters, trace), "{chaos:?}");
    }
    let latent = Disk::default();
    latent.set_chaos(Chaos { latent_sector_ppm: RATE, ..calm() });
    run_on(7, &latent, use_everything());
    assert_eq!(fired(&latent.counters()), ["disk-read-error", "disk-latent-sector"]);
}

#[test]
fn a_calm_disk_leaves_the_run_alone() {
    let trace_of = |prepare: fn(&Disk)| {
        let disk = Disk::default();
        prepare(&disk);
        run_on(3, &disk, use_everything());
        trace_hash()
    };
    let calm = trace_of(|_| {});
    let elsewhere = Chaos { at: Some("/no".into()), stall_ppm: 1_000_000, ..Chaos::default() };
    assert_eq!(calm, trace_of(|disk| disk.set_chaos(Chaos::default())));
    let disk = Disk::default();
    disk.set_chaos(elsewhere);
    run_on(3, &disk, use_everything());
    assert_eq!(calm, trace_hash());
    let stalls = |disk: &Disk| {
        disk.set_chaos(Chaos { stall_ppm: 1_000_000, ..Chaos::default() });
        disk.clear_faults();
    };
    assert_eq!(calm, trace_of(stalls));
}

#[test]
fn rates_are_parts_of_a_million() {
    let disk = disk_with_file(1);
    disk.set_chaos(Chaos { eio_read_ppm: 100_000, ..Chaos::default() });
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        for _ in 0..10_000 {
            drop(file.read_at(0, BLOCK_SIZE).await);
        }
    });
    let errors = disk.counters().read_errors;
    assert!((900..1_100).contains(&errors), "{errors} of 10,000");
}

#[test]
fn a_fault_for_good_stays_until_it_is_cleared() {
    let disk = disk_with_file(1);
    disk.inject(Injection::always(Operation::Flush, Fault::EIO).at("/f").after(1));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        let other = File::create("/g", BLOCK).await.unwrap();
        file.sync_data().await.unwrap();
        for _ in 0..3 {
            file.write_at(&filled(0x22, 1), 0).await.unwrap();
            assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(5));
            other.sync_data().await.unwrap();
        }
        Machine::current().disk().clear_faults();
        file.sync_data().await.unwrap();
    });
    assert_eq!(disk.counters().flush_errors, 3);
    let image = disk.crash_as(CrashStyle::KeepAll, |count| count - 1);
    assert_eq!(Disk::boot(image).read_raw("/f", 0, 1).unwrap(), [0x11]);
}

#[test]
fn reads_and_writes_fail_for_good_and_a_single_fault_goes_first() {
    let disk = disk_with_file(1);
    for operation in [Operation::Read, Operation::Write] {
        disk.inject(Injection::always(operation, Fault::EIO));
    }
    disk.inject(Injection::next(Operation::Write, Fault::ENOSPC));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        for expected in [28, 5, 5] {
            let failed = file.write_at(&filled(0x22, 1), 0).await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(expected));
            assert!(file.read_at(0, BLOCK_SIZE).await.is_err());
        }
    });
    assert_eq!(disk.read_raw("/f", 0, 1).unwrap(), [0x11]);
    let counters = disk.counters();
    assert_eq!((counters.read_errors, counters.write_errors, counters.no_space), (3, 2, 1));
}

#[test]
#[should_panic(expected = "Lost does not happen to Flush")]
fn a_fault_must_fit_its_operation() {
    drop(Injection::next(Operation::Flush, Fault::Lost));
}

#[test]
fn a_torn_write_fails_and_has_stored_some_sectors() {
    let mut stored_counts = BTreeSet::new();
    for seed in 0..30 {
        let disk = disk_with_file(1);
        disk.inject(Injection::next(Operation::Write, Fault::TORN));
        run_on(seed, &disk, async {
            let file = File::open("/f").await.unwrap();
            let failed = file.write_at(&filled(0x22, 1), 0).await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(5));
        });
        let bytes = disk.read_raw("/f", 0, BLOCK).unwrap();
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|byte| *byte == sector[0]), "sectors are whole");
        }
        stored_counts.insert(bytes.iter().filter(|byte| **byte == 0x22).count() / 512);
        assert_eq!((disk.counters().write_errors, disk.counters().torn_writes), (1, 1));
    }
    assert!(stored_counts.len() > 3, "{stored_counts:?}");
    assert!(stored_counts.iter().all(|count| *count <= SECTORS));
}

#[test]
fn a_latent_sector_stays_until_it_is_written() {
    let disk = disk_with_file(2);
    disk.inject(Injection::next(Operation::Read, Fault::LatentSector));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        for _ in 0..3 {
            let failed = file.read_at(BLOCK, BLOCK_SIZE).await.unwrap_err();
            assert_eq!(failed.raw_os_error(), Some(5));
        }
        assert_eq!(file.read_at(0, BLOCK_SIZE).await.unwrap()[0], 0x11);
    });
    assert_eq!((disk.counters().latent_sectors, disk.counters().read_errors), (1, 3));
    let disk = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        assert!(file.read_at(BLOCK, BLOCK_SIZE).await.is_err(), "a crash does not mend it");
        file.write_at(&filled(0x22, 1), BLOCK).await.unwrap();
        assert_eq!(file.read_at(BLOCK, BLOCK_SIZE).await.unwrap()[0], 0x22);
    });
}

#[test]
fn a_flipped_bit_is_on_the_medium() {
    for seed in 0..20 {
        let disk = disk_with_file(2);
        disk.inject(Injection::next(Operation::Read, Fault::BitFlip));
        let read = run_on(seed, &disk, async {
            let file = File::open("/f").await.unwrap();
            let first = file.read_at(0, BLOCK_SIZE).await.unwrap().to_bytes();
            assert_eq!(first, file.read_at(0, BLOCK_SIZE).await.unwrap().to_bytes());
            first
        });
        let flipped: u32 = read.iter().map(|byte| (byte ^ 0x11).count_ones()).sum();
        assert_eq!(flipped, 1, "seed {seed}");
        let durable = Disk::boot(disk.crash_as(CrashStyle::KeepNone, |_| 0));
        assert_eq!(durable.read_raw("/f", 0, BLOCK).unwrap(), read);
        assert_eq!(disk.counters().bit_flips, 1);
    }
}

#[test]
fn a_short_write_goes_on_when_its_caller_has_gone() {
    let mut whole_count = 0;
    for seed in 0..60 {
        let disk = disk_with_file(8);
        disk.inject(Injection::next(Operation::Write, Fault::Short));
        let left = run_on(seed, &disk, async {
            let file = File::open("/f").await.unwrap();
            let data = filled(0x22, 8);
            let left = timeout(Duration::from_micros(600), file.write_at(&data, 0)).await.is_err();
            sleep(Duration::from_millis(10)).await;
            left
        });
        let bytes = disk.read_raw("/f", 0, 8 * BLOCK).unwrap();
        let stored = bytes.iter().filter(|byte| **byte == 0x22).count();
        let is_whole = stored == bytes.len();
        assert!(is_whole || stored < BLOCK_SIZE, "seed {seed}: {stored} bytes stored, then none");
        whole_count += u32::from(left && is_whole);
    }
    assert!(whole_count > 10, "the caller never left in between: {whole_count}");
}

/// What is on the medium after two writes, with a barrier between them or not: (first, second).
fn pairs(barrier: bool) -> BTreeSet<(bool, bool)> {
    let disk = disk_with_file(2);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.write_at(&filled(0x22, 1), 0).await.unwrap();
        if barrier {
            file.sync_data().await.unwrap();
        }
        file.write_at(&filled(0x22, 1), BLOCK).await.unwrap();
    });
    let mut random = Rng::new(9);
    let outcome = |_| {
        let image = Disk::boot(disk.crash(&mut random));
        let stored = |position| image.read_raw("/f", position, 1).unwrap() == [0x22];
        (stored(0), stored(BLOCK))
    };
    (0..200).map(outcome).collect()
}

#[test]
fn writes_are_reordered_between_barriers_and_never_across_one() {
    let all = [(false, false), (false, true), (true, false), (true, true)];
    assert_eq!(pairs(false), BTreeSet::from(all));
    assert_eq!(pairs(true), BTreeSet::from([(true, false), (true, true)]));
}

#[test]
fn an_unsynced_size_may_be_lost_while_its_bytes_are_not_seen() {
    let disk = disk_with_file(1);
    run_on(1, &disk, async {
        let file = File::open("/f").await.unwrap();
        file.write_at(&filled(0x22, 1), BLOCK).await.unwrap();
    });
    let mut random = Rng::new(2);
    let outcome = |_| {
        let image = Disk::boot(disk.crash(&mut random));
        (image.len_raw("/f").unwrap(), image.read_raw("/f", BLOCK, 1).unwrap())
    };
    let outcomes: BTreeSet<(u64, Vec<u8>)> = (0..200).map(outcome).collect();
    let grown = |byte| (2 * BLOCK, vec![byte]);
    assert_eq!(outcomes, BTreeSet::from([(BLOCK, vec![]), grown(0), grown(0x22)]));
}

#[test]
fn an_atomic_write_goes_on_when_its_caller_has_gone() {
    let disk = Disk::default();
    run_on(1, &disk, async {
        let write = fs::write_atomic("/state", b"kept");
        assert!(timeout(Duration::from_micros(1), write).await.is_err());
        sleep(Duration::from_secs(1)).await;
        assert_eq!(fs::read("/state").await.unwrap(), b"kept");
    });
}

#[test]
fn a_journal_tells_of_faults_and_does_not_change_the_run() {
    let trace = |kept| {
        keep_journal(kept);
        let disk = Disk::default();
        disk.inject(Injection::next(Operation::Flush, Fault::EIO).at("/3"));
        run_on(4, &disk, async {
            use_everything().await;
            note(|| "done".to_owned());
        });
        let lines = take_journal();
        (trace_hash(), lines)
    };
    let ((with, lines), (without, none)) = (trace(true), trace(false));
    assert_eq!(with, without);
    assert!(none.is_empty());
    let texts: Vec<&str> = lines.iter().map(|(_, line)| line.as_str()).collect();
    assert_eq!(texts, ["host 0: Flush of /3: Error(5)", "done"]);
    assert!(lines[0].0 < lines[1].0);
    keep_journal(false);
}

#[test]
fn counters_add_up() {
    let disk = Disk::default();
    disk.set_chaos(Chaos { stall_ppm: 500_000, ..Chaos::default() });
    run_on(1, &disk, use_everything());
    let once = disk.counters();
    let mut twice = once;
    twice += once;
    assert_eq!((twice.writes, twice.stalls), (2 * once.writes, 2 * once.stalls));
}
