//! A file system of its own for a node: ext4 in a file, so that it can be filled.
//!
//! Owns: the image and its mount. Must never: fill a disk that others use.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::shell::{shell, try_shell};

/// Room for the segments prepared ahead of four shards, and for a run's records.
const IMAGE_SIZE: &str = "2000M";
/// What fills the rest of a disk after the bulk is gone.
const CRUMB_SIZE_BYTES: usize = 4096;

/// A mounted image; dropping it unmounts.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Makes an image below `home` and mounts it there.
    pub(crate) fn new(home: &Path) -> anyhow::Result<Self> {
        let (image, root) = (home.join("disk.img"), home.join("disk"));
        fs::create_dir_all(&root).with_context(|| root.display().to_string())?;
        let (image, at) = (image.display().to_string(), root.display().to_string());
        shell("truncate", &["-s", IMAGE_SIZE, &image])?;
        // No reserved blocks: root would still find room.
        shell("mkfs.ext4", &["-q", "-F", "-m", "0", &image])?;
        shell("mount", &["-o", "loop", &image, &at])?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Leaves no room.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let at = self.root.display().to_string();
        let free = shell("df", &["--output=avail", "-B1", &at])?;
        let free = free.lines().last().unwrap_or_default().trim().to_owned();
        try_shell("fallocate", &["-l", &free, &self.filler().display().to_string()]);
        let mut crumbs = fs::File::options().create(true).append(true).open(self.filler())?;
        while crumbs.write_all(&[1; CRUMB_SIZE_BYTES]).and_then(|()| crumbs.sync_data()).is_ok() {}
        Ok(())
    }

    /// Takes the filling away.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        fs::remove_file(self.filler()).context("free the disk")
    }

    fn filler(&self) -> PathBuf {
        self.root.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        try_shell("umount", &["-l", &self.root.display().to_string()]);
    }
}
