//! Damage done to a log at rest, and what a start makes of it.
//!
//! Owns the trials: a bit, a sector or a block of one file changes while nobody looks, before the
//! start or after it. The log was closed, so nothing is ambiguous: it must be refused with the
//! file's name, or show everything; what rots later must be said, or not be needed.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use barrage_commitlog::{OpenError, VerifyReport, verify};
use barrage_world::fs;
use barrage_world::sim::{Disk, Rng, run_on};

use super::bench::Bench;
use super::life::{self, Start};
use super::plan::{DATA_DIR, DIR, LifePlan};
use super::reading;

/// What a clean stop left, looked at from outside.
pub(super) fn inspect(bench: &Bench, seed: u64, disk: &Disk) -> Option<VerifyReport> {
    let report = run_on(seed, disk, async { verify(DATA_DIR.as_ref()).await });
    bench.outcome.borrow_mut().world_ended();
    match report {
        Ok(report) if report.damage.is_empty() => Some(report),
        Ok(report) => {
            bench.violation(format!("verification finds damage: {:?}", report.damage));
            None
        }
        Err(error) => {
            bench.violation(format!("verification fails: {error}"));
            None
        }
    }
}

/// One trial on a copy of the disk.
pub(super) fn damage_and_start(
    bench: &Rc<Bench>,
    seed: u64,
    disk: &Disk,
    plan: &LifePlan,
    report: &VerifyReport,
) {
    let copy = Disk::boot(disk.snapshot());
    let segments = report.segments.iter().map(|segment| (segment.path.clone(), segment.data_end));
    let segments: Vec<(PathBuf, u64)> = segments.collect();
    if bench.draw(|random| random.one_in(2)) {
        return damage_while_it_runs(bench, seed, copy, plan, segments);
    }
    let Some((path, what)) = bench.draw(|random| damage(&copy, segments, random)) else { return };
    tracing::info!("damage: {what}");
    bench.outcome.borrow_mut().fault("damage", 1);
    // The damage counts as a fault of the disk: a read may say so. But an index is rebuilt.
    let derived = is_index(&path);
    let plan = LifePlan { lying: !derived, ..plan.clone() };
    let trial = Rc::clone(bench);
    let refused = run_on(seed, &copy, async move {
        match life::start(&trial, plan, !derived).await {
            Start::Running(life) => {
                reading::survey(&life).await;
                reading::entries(&life).await;
                None
            }
            Start::Refused(error) => Some(error),
        }
    });
    bench.outcome.borrow_mut().world_ended();
    match refused {
        None => {}
        Some(OpenError::Damaged(damage)) => {
            bench.outcome.borrow_mut().fault("damage-refused", 1);
            // An index is rebuilt. Without its checkpoint a log may not reach back far enough.
            let log = path.extension().is_some_and(|kind| kind == "log");
            if derived || (log && damage.path != path) {
                bench.violation(format!("{what}; refused: {damage}"));
            }
        }
        Some(error) => bench.violation(format!("{what}: {error}")),
    }
}

/// A log that runs has judged what lay there at its start; every read judges again.
fn damage_while_it_runs(
    bench: &Rc<Bench>,
    seed: u64,
    copy: Disk,
    plan: &LifePlan,
    segments: Vec<(PathBuf, u64)>,
) {
    let (trial, beneath, plan) = (Rc::clone(bench), copy.clone(), plan.clone());
    run_on(seed, &copy, async move {
        match life::start(&trial, plan, false).await {
            Start::Running(life) => {
                let done = trial.draw(|random| damage(&beneath, segments, random));
                if let Some((path, what)) = done {
                    tracing::info!("damage while it runs: {what}");
                    trial.outcome.borrow_mut().fault("damage-while-it-runs", 1);
                    // An index is rebuilt, whenever somebody wants it.
                    life.rotten.set(!is_index(&path));
                }
                reading::survey(&life).await;
                reading::entries(&life).await;
            }
            Start::Refused(error) => trial.violation(format!("a log at rest is refused: {error}")),
        }
    });
    bench.outcome.borrow_mut().world_ended();
}

/// Changes something in one file; gives the file and what was done to it.
fn damage(
    disk: &Disk,
    segments: Vec<(PathBuf, u64)>,
    random: &mut Rng,
) -> Option<(PathBuf, String)> {
    let mut files = segments;
    // Of the derived ones there are few: they are drawn by kind.
    if let Some(kind) = ["idx", "ckp"].get(random.below(4) as usize) {
        files = disk.snapshot().files();
        files.retain(|(path, _)| path.extension().is_some_and(|extension| extension == *kind));
    }
    files.retain(|(path, len)| *len > 0 && path.starts_with(DIR));
    let (path, len) = files.get(random.below(files.len().max(1) as u64) as usize)?.clone();
    let at = random.below(len);
    let shown = path.display();
    let (done, what) = match random.below(4) {
        0 => {
            let sector = at - at % SECTOR;
            (disk.overwrite(&path, sector, &[0; SECTOR as usize]), "sector zeroed")
        }
        1 => {
            let block = at - at % BLOCK;
            (disk.overwrite(&path, block, &[0; BLOCK as usize]), "block zeroed")
        }
        _ => (disk.flip_bit(&path, at, random.below(8) as u32), "bit flipped"),
    };
    done.ok()?;
    let what = format!("{what} around byte {at} of {shown}");
    Some((path, what))
}

/// What a start finds without any index file must be what it finds with them.
pub(super) fn rebuild_indexes(bench: &Rc<Bench>, seed: u64, disk: &Disk, plan: &LifePlan) {
    let mut seen = Vec::new();
    for without in [false, true] {
        let copy = Disk::boot(disk.snapshot());
        let (trial, plan) = (Rc::clone(bench), plan.clone());
        let found = run_on(seed, &copy, async move {
            let names = fs::list(DIR).await.unwrap_or_default();
            for name in names.iter().filter(|name| without && name.ends_with(".idx")) {
                fs::remove(PathBuf::from(DIR).join(name)).await.ok();
            }
            match life::start(&trial, plan, false).await {
                Start::Running(life) => {
                    let bytes = reading::sizes(&life);
                    reading::entries(&life).await;
                    Ok((reading::survey(&life).await, bytes))
                }
                Start::Refused(error) => Err(error),
            }
        });
        bench.outcome.borrow_mut().world_ended();
        match found {
            Ok(found) => seen.push(found),
            Err(error) => bench.violation(format!("a log at rest is refused: {error}")),
        }
    }
    if let [with, without] = seen.as_slice()
        && with != without
    {
        bench.violation(format!("indexes: {with:?}, rebuilt: {without:?}"));
    }
}

fn is_index(path: &Path) -> bool {
    path.extension().is_some_and(|kind| kind == "idx")
}

const SECTOR: u64 = 512;
const BLOCK: u64 = 4096;
