//! A folder for the data of one measurement.
//!
//! Owns: the folder. Must never: outlive the measurement.
//! Invariants: it is dropped after the processes that write in it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// A folder that is removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Makes an empty folder of its own below `parent`.
    pub(crate) fn make(parent: &Path) -> Result<Self> {
        let path = parent.join(format!(".barrage-peers-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| {
            format!("cannot make {}; --data names a folder to make it in", path.display())
        })?;
        Ok(Self(fs::canonicalize(path)?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
        // What nobody synced is written now, and not while the next one is measured.
        rustix::fs::sync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_what_is_in_it() {
        let parent = std::env::temp_dir();
        let folder = Folder::make(&parent).unwrap();
        let path = folder.path().to_owned();
        fs::write(path.join("data"), "x").unwrap();
        drop(folder);
        assert!(!path.exists());
        assert!(Folder::make(Path::new("/proc")).is_err());
    }
}
