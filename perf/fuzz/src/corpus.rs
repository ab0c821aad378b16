//! The kept inputs, and the figures of a long run.
//!
//! ```text
//! corpus/<target>/seed-<name>   made by a writer of the format
//! corpus/<target>/<hash>        found by a fuzzer: it reaches something that no other does
//! regressions/<target>/<name>   once broke a promise
//! ```

use std::cell::Cell;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::meter::Figures;
use crate::target::Target;

/// The package's folder.
#[must_use]
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Inputs that reach everything that was ever reached.
#[must_use]
pub fn corpus(target: &str) -> PathBuf {
    home().join("corpus").join(target)
}

/// Inputs that once broke a promise.
#[must_use]
pub fn regressions(target: &str) -> PathBuf {
    home().join("regressions").join(target)
}

/// The files of a folder with their names, in order; none when there is no folder.
pub fn read(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, fs::read(&path)?));
    }
    files.sort();
    Ok(files)
}

/// How the name of a seed begins.
pub const SEED_PREFIX: &str = "seed-";

/// Names a file that takes the figures of a fuzzer's run: a line for each that is the largest yet.
pub const FIGURES_FILE: &str = "BARRAGE_FUZZ_FIGURES";

const NOTHING: Figures = Figures { time: Duration::ZERO, peak_bytes: 0 };

thread_local! {
    static WORST: Cell<Figures> = const { Cell::new(NOTHING) };
    static WORST_SHARE: Cell<usize> = const { Cell::new(0) };
}

/// Notes figures that are worse than any before.
pub(crate) fn note(target: &Target, input: &[u8], figures: Figures) {
    let worst = WORST.get();
    let share = figures.peak_bytes * 1000 / target.memory_max(input);
    let is_worse = figures.time > worst.time
        || figures.peak_bytes > worst.peak_bytes
        || share > WORST_SHARE.get();
    if !is_worse {
        return;
    }
    let peak_bytes = worst.peak_bytes.max(figures.peak_bytes);
    WORST.set(Figures { time: worst.time.max(figures.time), peak_bytes });
    WORST_SHARE.set(WORST_SHARE.get().max(share));
    let Some(path) = std::env::var_os(FIGURES_FILE) else { return };
    let line = format!(
        "{} time_us {} peak_bytes {} input_bytes {} allowed_bytes {}\n",
        target.name,
        figures.time.as_micros(),
        figures.peak_bytes,
        input.len(),
        target.memory_max(input)
    );
    let file = fs::File::options().append(true).create(true).open(path);
    // A run goes on without its figures.
    drop(file.and_then(|mut file| file.write_all(line.as_bytes())));
}
