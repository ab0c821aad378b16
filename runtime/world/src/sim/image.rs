//! Images of a simulated disk: what is found after the power comes back.
//!
//! Owns the crash model: which unsynced sectors, lengths and names survive. Must never lose what
//! a flush that succeeded has covered, nor keep more than what was issued.
//!
//! ```text
//!   surviving file = durable bytes + a subset of the sectors of pending writes (also in flight)
//!                    cut to the durable length, or to one of the pending lengths (in order)
//!   surviving name = durable name + a subset of the pending changes of names, in order
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use super::content::{ChangeKind, Content, FileData, SECTOR_SIZE, pieces};
use super::disk::{Disk, DiskOptions};
use super::rng::{Rng, mix};
use super::tree::{Directory, Inode, Node, ROOT, Tree};

/// The content of a disk at rest. `Disk::boot` makes a disk of it.
#[derive(Clone)]
pub struct Image {
    pub(super) tree: Tree,
    pub(super) options: DiskOptions,
}

/// How a crash chooses what survives of what was not durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CrashStyle {
    /// All of it, as if the process alone had died.
    KeepAll,
    /// Nothing of it.
    KeepNone,
    /// Each write as a whole or not at all.
    Writes,
    /// Of each write a prefix of its sectors: torn.
    Prefixes,
    /// Each sector by itself.
    Sectors,
}

/// All styles.
pub const CRASH_STYLES: [CrashStyle; 5] = [
    CrashStyle::KeepAll,
    CrashStyle::KeepNone,
    CrashStyle::Writes,
    CrashStyle::Prefixes,
    CrashStyle::Sectors,
];

impl Disk {
    /// What a power loss now would leave, with a style drawn from `random`. The disk itself is
    /// not changed: ask again for another outcome of the same moment.
    #[must_use]
    pub fn crash(&self, random: &mut Rng) -> Image {
        let style = match random.below(10) {
            0 => CrashStyle::KeepAll,
            1 => CrashStyle::KeepNone,
            2..=3 => CrashStyle::Writes,
            4..=6 => CrashStyle::Prefixes,
            _ => CrashStyle::Sectors,
        };
        self.crash_as(style, |count| random.below(count))
    }

    /// As `crash`, with each choice made by `choose`: given n it answers a number in [0, n).
    /// With `Choices` a test walks through every outcome.
    #[must_use]
    pub fn crash_as(&self, style: CrashStyle, mut choose: impl FnMut(u64) -> u64) -> Image {
        let choose: &mut dyn FnMut(u64) -> u64 = &mut choose;
        self.with(|inner| {
            let names = surviving_names(&inner.tree, style, choose);
            let mut nodes = BTreeMap::new();
            reach(&names, ROOT, &mut |inode, children| {
                let node = match inner.tree.nodes.get(&inode) {
                    Some(Node::File(file)) => Node::File(surviving_file(file, style, choose)),
                    _ => {
                        let visible = children.clone();
                        Node::Directory(Directory { durable: visible.clone(), visible })
                    }
                };
                nodes.insert(inode, node);
            });
            Image { tree: Tree::settled(nodes), options: inner.options.clone() }
        })
    }

    /// What a clean power-off now would leave: all that reads see.
    #[must_use]
    pub fn snapshot(&self) -> Image {
        self.crash_as(CrashStyle::KeepAll, |count| count - 1)
    }
}

impl Image {
    /// Files by path, with their lengths.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let mut files = Vec::new();
        self.walk(Path::new("/"), ROOT, &mut |path, file| {
            files.push((path.to_owned(), file.visible.len()));
        });
        files
    }

    /// Equal for images with equal names and bytes, so that a test checks each outcome once.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut digest = 0_u64;
        self.walk(Path::new("/"), ROOT, &mut |path, file| {
            for byte in path.as_os_str().as_encoded_bytes() {
                digest = mix(digest ^ u64::from(*byte));
            }
            digest = mix(digest ^ file.visible.len());
            for (number, block) in file.visible.blocks() {
                digest = mix(digest ^ number);
                for word in block.as_chunks::<8>().0 {
                    digest = mix(digest ^ u64::from_le_bytes(*word));
                }
            }
        });
        digest
    }

    fn walk(&self, path: &Path, inode: Inode, visit: &mut dyn FnMut(&Path, &FileData)) {
        match self.tree.nodes.get(&inode) {
            Some(Node::File(file)) => visit(path, file),
            Some(Node::Directory(directory)) => {
                for (name, child) in &directory.visible {
                    self.walk(&path.join(name), *child, visit);
                }
            }
            None => {}
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Image").field("files", &self.files()).finish_non_exhaustive()
    }
}

type Names = BTreeMap<Inode, BTreeMap<String, Inode>>;

fn surviving_names(tree: &Tree, style: CrashStyle, choose: &mut dyn FnMut(u64) -> u64) -> Names {
    let mut names: Names = BTreeMap::new();
    for (inode, node) in &tree.nodes {
        if let Node::Directory(directory) = node {
            names.insert(*inode, directory.durable.clone());
        }
    }
    let mut lost: BTreeSet<u64> = BTreeSet::new();
    for change in &tree.names_pending {
        let first_half_lost = change.after.is_some_and(|first| lost.contains(&first));
        if first_half_lost || !keeps(style, choose) {
            lost.insert(change.id);
        } else if let Some(names) = names.get_mut(&change.directory) {
            change.apply(names);
        }
    }
    names
}

fn keeps(style: CrashStyle, choose: &mut dyn FnMut(u64) -> u64) -> bool {
    match style {
        CrashStyle::KeepAll => true,
        CrashStyle::KeepNone => false,
        CrashStyle::Writes | CrashStyle::Prefixes | CrashStyle::Sectors => choose(2) == 1,
    }
}

/// Visits what the names lead to from `inode`, each node once.
fn reach(names: &Names, inode: Inode, visit: &mut dyn FnMut(Inode, &BTreeMap<String, Inode>)) {
    let mut seen = BTreeSet::from([inode]);
    let mut waiting = vec![inode];
    let none = BTreeMap::new();
    while let Some(inode) = waiting.pop() {
        let children = names.get(&inode).unwrap_or(&none);
        visit(inode, children);
        waiting.extend(children.values().copied().filter(|child| seen.insert(*child)));
    }
}

fn surviving_file(
    file: &FileData,
    style: CrashStyle,
    choose: &mut dyn FnMut(u64) -> u64,
) -> FileData {
    let mut content = file.durable.clone();
    let mut lengths_left = lengths_kept(file, style, choose);
    for change in file.pending() {
        match &change.kind {
            ChangeKind::Write { position, data } => {
                write_survivors(&mut content, *position, data, style, choose);
            }
            // Lengths are metadata: a journal keeps their order, so a prefix of them survives.
            ChangeKind::SetLen(len) if lengths_left > 0 => {
                lengths_left -= 1;
                content.set_len(*len);
            }
            ChangeKind::SetLen(_) => {}
        }
    }
    content.cut(content.len());
    FileData::settled(content, file.unreadable.clone())
}

fn lengths_kept(file: &FileData, style: CrashStyle, choose: &mut dyn FnMut(u64) -> u64) -> u64 {
    let is_length = |kind: &ChangeKind| matches!(kind, ChangeKind::SetLen(_));
    let count = file.pending().iter().filter(|change| is_length(&change.kind)).count() as u64;
    match style {
        _ if count == 0 => 0,
        CrashStyle::KeepAll => count,
        CrashStyle::KeepNone => 0,
        CrashStyle::Writes | CrashStyle::Prefixes | CrashStyle::Sectors => choose(count + 1),
    }
}

fn write_survivors(
    content: &mut Content,
    position: u64,
    data: &[u8],
    style: CrashStyle,
    choose: &mut dyn FnMut(u64) -> u64,
) {
    let sectors = pieces(position, data, SECTOR_SIZE);
    match style {
        CrashStyle::KeepAll => content.write(position, data),
        CrashStyle::KeepNone => {}
        CrashStyle::Writes => {
            if choose(2) == 1 {
                content.write(position, data);
            }
        }
        CrashStyle::Prefixes => {
            let count = pieces(position, data, SECTOR_SIZE).count() as u64;
            let kept = choose(count + 1);
            for (at, sector) in sectors.take(kept as usize) {
                content.write(at, sector);
            }
        }
        CrashStyle::Sectors => {
            for (at, sector) in sectors {
                if choose(2) == 1 {
                    content.write(at, sector);
                }
            }
        }
    }
}
