//! Flipped bits in a stopped node's files.
//!
//! Owns: choosing a byte that was written. Must never: touch the data of a node that runs.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::dice::Dice;

/// Bytes looked at around a place: files are laid out ahead, and zeros were not written yet.
const BLOCK_SIZE_BYTES: u64 = 512;
/// Places tried until one was written.
const ATTEMPTS_MAX: u32 = 4096;

/// Flips a bit of a written block somewhere below `folder`; says where.
pub(crate) fn flip(folder: &Path, dice: &mut Dice) -> anyhow::Result<String> {
    let mut files = Vec::new();
    collect(folder, &mut files)?;
    files.sort();
    for _ in 0..ATTEMPTS_MAX {
        let Some(path) = files.get(dice.index(files.len())) else { break };
        let file = fs::File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        if size == 0 {
            continue;
        }
        let at = dice.between(0..size);
        let start = at - at % BLOCK_SIZE_BYTES;
        let mut block = [0_u8; BLOCK_SIZE_BYTES as usize];
        let read = file.read_at(&mut block, start)?;
        if block.iter().take(read).all(|byte| *byte == 0) {
            continue;
        }
        let mut byte = [0_u8];
        file.read_exact_at(&mut byte, at)?;
        let bit = dice.between(0..8);
        file.write_all_at(&byte.map(|byte| byte ^ (1 << bit)), at)?;
        file.sync_all()?;
        let name = path.strip_prefix(folder).unwrap_or(path).display();
        return Ok(format!("bit {bit} of byte {at} of {name}"));
    }
    anyhow::bail!("nothing was written below {}", folder.display())
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
