//! Random faults of a simulated disk.
//!
//! Owns how often each kind of fault happens, and the draw. Invariants: a rate of zero draws
//! nothing, so a calm disk leaves the numbers of the run alone; an operation has one fault at most.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fault::{Fault, Operation};
use super::rng::Rng;

/// How often operations go wrong by themselves, in parts per million of the operations of their
/// kind. The default is a disk on which nothing does.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Only on this path, or on paths below it.
    pub at: Option<PathBuf>,
    /// Reads that fail with EIO, once.
    pub eio_read_ppm: u32,
    /// Writes that fail with EIO; half of them have stored some of their sectors.
    pub eio_write_ppm: u32,
    /// Flushes that fail with EIO and drop what they covered.
    pub eio_flush_ppm: u32,
    /// Operations on names and lengths that fail with EIO.
    pub eio_name_ppm: u32,
    /// Files that are not made or grown for lack of space.
    pub no_space_ppm: u32,
    /// Writes that store only some of their sectors and say so.
    pub short_write_ppm: u32,
    /// Writes that say they are done and store nothing.
    pub lost_write_ppm: u32,
    /// Writes that say they are done and store their bytes elsewhere in the file.
    pub misdirected_write_ppm: u32,
    /// Reads that find a sector which cannot be read any more, until it is written again.
    pub latent_sector_ppm: u32,
    /// Reads that find a bit flipped on the medium.
    pub bit_flip_ppm: u32,
    /// Operations of any kind that take longer by `stall`.
    pub stall_ppm: u32,
    /// How long a stall lasts.
    pub stall: RangeInclusive<Duration>,
}

impl Default for Chaos {
    fn default() -> Self {
        Self {
            at: None,
            eio_read_ppm: 0,
            eio_write_ppm: 0,
            eio_flush_ppm: 0,
            eio_name_ppm: 0,
            no_space_ppm: 0,
            short_write_ppm: 0,
            lost_write_ppm: 0,
            misdirected_write_ppm: 0,
            latent_sector_ppm: 0,
            bit_flip_ppm: 0,
            stall_ppm: 0,
            stall: Duration::from_millis(10)..=Duration::from_secs(2),
        }
    }
}

impl Chaos {
    /// The fault of an operation issued now.
    pub(super) fn draw(
        &self,
        operation: Operation,
        path: &Path,
        random: &mut Rng,
    ) -> Option<Fault> {
        if self.at.as_ref().is_some_and(|prefix| !path.starts_with(prefix)) {
            return None;
        }
        match operation {
            Operation::Read => self.draw_read(random),
            Operation::Write => self.draw_write(random),
            Operation::Flush => happens(self.eio_flush_ppm, random).then_some(Fault::EIO),
            Operation::Create | Operation::Resize => {
                let full = happens(self.no_space_ppm, random).then_some(Fault::ENOSPC);
                full.or_else(|| self.draw_name(random))
            }
            _ => self.draw_name(random),
        }
        .or_else(|| self.draw_stall(random))
    }

    fn draw_read(&self, random: &mut Rng) -> Option<Fault> {
        [
            (self.eio_read_ppm, Fault::EIO),
            (self.latent_sector_ppm, Fault::LatentSector),
            (self.bit_flip_ppm, Fault::BitFlip),
        ]
        .into_iter()
        .find_map(|(ppm, fault)| happens(ppm, random).then_some(fault))
    }

    fn draw_write(&self, random: &mut Rng) -> Option<Fault> {
        if happens(self.eio_write_ppm, random) {
            return Some(if random.one_in(2) { Fault::TORN } else { Fault::EIO });
        }
        [
            (self.short_write_ppm, Fault::Short),
            (self.lost_write_ppm, Fault::Lost),
            (self.misdirected_write_ppm, Fault::Misdirected),
        ]
        .into_iter()
        .find_map(|(ppm, fault)| happens(ppm, random).then_some(fault))
    }

    fn draw_name(&self, random: &mut Rng) -> Option<Fault> {
        happens(self.eio_name_ppm, random).then_some(Fault::EIO)
    }

    fn draw_stall(&self, random: &mut Rng) -> Option<Fault> {
        happens(self.stall_ppm, random).then(|| {
            let (low, high) = (self.stall.start().as_nanos(), self.stall.end().as_nanos());
            let stall_ns = random.between(low as u64, high as u64);
            Fault::Stall(Duration::from_nanos(stall_ns))
        })
    }
}

fn happens(ppm: u32, random: &mut Rng) -> bool {
    ppm > 0 && random.below(MILLION) < u64::from(ppm)
}

const MILLION: u64 = 1_000_000;
