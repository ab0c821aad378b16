//! The names of a simulated disk: directories, files and changes to names not yet durable.
//!
//! Owns which name leads to which file, as seen and as durable. Must never make a name durable
//! before its directory was synced.
//!
//! A change touches one directory. A rename between two directories is two changes, of which the
//! second (the old name goes) never survives without the first.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use super::content::FileData;

pub(super) type Inode = u64;
pub(super) const ROOT: Inode = 1;

pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
const EEXIST: i32 = 17;
const ENOTDIR: i32 = 20;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
pub(super) const ENOSPC: i32 = 28;

pub(super) fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

#[derive(Clone)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<Inode, Node>,
    inode_count: u64,
    pub(super) names_pending: Vec<NameChange>,
    name_change_count: u64,
}

#[derive(Clone)]
pub(super) enum Node {
    File(FileData),
    Directory(Directory),
}

#[derive(Clone, Default)]
pub(super) struct Directory {
    pub(super) visible: BTreeMap<String, Inode>,
    pub(super) durable: BTreeMap<String, Inode>,
}

#[derive(Clone)]
pub(super) struct NameChange {
    pub(super) id: u64,
    pub(super) directory: Inode,
    pub(super) kind: NameChangeKind,
    /// Survives only if that one does.
    pub(super) after: Option<u64>,
}

#[derive(Clone)]
pub(super) enum NameChangeKind {
    Link { name: String, node: Inode },
    Unlink { name: String },
    Rename { from: String, to: String, node: Inode },
}

impl NameChange {
    pub(super) fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match &self.kind {
            NameChangeKind::Link { name, node } => {
                names.insert(name.clone(), *node);
            }
            NameChangeKind::Unlink { name } => {
                names.remove(name);
            }
            NameChangeKind::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        let root = Node::Directory(Directory::default());
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            inode_count: ROOT,
            names_pending: Vec::new(),
            name_change_count: 0,
        }
    }

    /// A tree in which all of `nodes` is durable.
    pub(super) fn settled(nodes: BTreeMap<Inode, Node>) -> Self {
        let inode_count = nodes.last_key_value().map_or(ROOT, |(inode, _)| *inode);
        Self { nodes, inode_count, names_pending: Vec::new(), name_change_count: 0 }
    }

    pub(super) fn lookup(&self, path: &Path) -> io::Result<Inode> {
        let mut inode = ROOT;
        for name in names(path)? {
            let next = self.directory(inode)?.visible.get(&name);
            inode = *next.ok_or_else(|| error(ENOENT))?;
        }
        Ok(inode)
    }

    /// The directory a path lies in, and its last name.
    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let mut names = names(path)?;
        let last = names.pop().ok_or_else(|| error(EINVAL))?;
        let mut inode = ROOT;
        for name in names {
            let next = self.directory(inode)?.visible.get(&name);
            inode = *next.ok_or_else(|| error(ENOENT))?;
        }
        self.directory(inode)?;
        Ok((inode, last))
    }

    pub(super) fn directory(&self, inode: Inode) -> io::Result<&Directory> {
        match self.nodes.get(&inode) {
            Some(Node::Directory(directory)) => Ok(directory),
            Some(Node::File(_)) => Err(error(ENOTDIR)),
            None => Err(error(ENOENT)),
        }
    }

    pub(super) fn file(&self, inode: Inode) -> io::Result<&FileData> {
        match self.nodes.get(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(error(EISDIR)),
            None => Err(error(ENOENT)),
        }
    }

    pub(super) fn file_mut(&mut self, inode: Inode) -> io::Result<&mut FileData> {
        match self.nodes.get_mut(&inode) {
            Some(Node::File(file)) => Ok(file),
            Some(Node::Directory(_)) => Err(error(EISDIR)),
            None => Err(error(ENOENT)),
        }
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut FileData> {
        self.nodes.values_mut().filter_map(|node| match node {
            Node::File(file) => Some(file),
            Node::Directory(_) => None,
        })
    }

    /// Makes an empty file under a new name.
    pub(super) fn create_file(&mut self, path: &Path) -> io::Result<Inode> {
        self.create(path, Node::File(FileData::default()))
    }

    pub(super) fn create_directory_all(&mut self, path: &Path) -> io::Result<()> {
        let mut walked = std::path::PathBuf::new();
        for name in names(path)? {
            walked.push(name);
            match self.lookup(&walked) {
                Ok(inode) => {
                    self.directory(inode)?;
                }
                Err(_) => {
                    self.create(&walked, Node::Directory(Directory::default()))?;
                }
            }
        }
        Ok(())
    }

    fn create(&mut self, path: &Path, node: Node) -> io::Result<Inode> {
        let (directory, name) = self.parent(path)?;
        if self.directory(directory)?.visible.contains_key(&name) {
            return Err(error(EEXIST));
        }
        self.inode_count += 1;
        let inode = self.inode_count;
        self.nodes.insert(inode, node);
        self.change(directory, NameChangeKind::Link { name, node: inode }, None);
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.lookup(from)?;
        let (from_directory, from) = self.parent(from)?;
        let (to_directory, to) = self.parent(to)?;
        if let Some(replaced) = self.directory(to_directory)?.visible.get(&to) {
            if *replaced == node {
                return Ok(());
            }
            self.file(*replaced)?;
        }
        if from_directory == to_directory {
            self.change(to_directory, NameChangeKind::Rename { from, to, node }, None);
        } else {
            let link = self.change(to_directory, NameChangeKind::Link { name: to, node }, None);
            self.change(from_directory, NameChangeKind::Unlink { name: from }, Some(link));
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.lookup(path)?;
        self.file(inode)?;
        let (directory, name) = self.parent(path)?;
        self.change(directory, NameChangeKind::Unlink { name }, None);
        Ok(())
    }

    fn change(&mut self, directory: Inode, kind: NameChangeKind, after: Option<u64>) -> u64 {
        self.name_change_count += 1;
        let id = self.name_change_count;
        let change = NameChange { id, directory, kind, after };
        if let Some(Node::Directory(directory)) = self.nodes.get_mut(&directory) {
            change.apply(&mut directory.visible);
        }
        self.names_pending.push(change);
        id
    }

    /// The number up to which changes of names are covered by a directory sync issued now.
    pub(super) fn sync_issue(&self) -> u64 {
        self.name_change_count
    }

    /// A directory sync succeeded: the changes it covers are durable, and with them the other
    /// half of a rename, as in one journal transaction.
    pub(super) fn sync_complete(&mut self, directory: Inode, covered: u64) {
        for change in self.take_covered(directory, covered) {
            if let Some(Node::Directory(directory)) = self.nodes.get_mut(&change.directory) {
                change.apply(&mut directory.durable);
            }
        }
    }

    fn take_covered(&mut self, directory: Inode, covered: u64) -> Vec<NameChange> {
        let is_covered =
            |change: &NameChange| change.directory == directory && change.id <= covered;
        let own = self.names_pending.iter().filter(|change| is_covered(change));
        let halves: Vec<u64> = own.filter_map(|change| change.after).collect();
        let (taken, kept) = self
            .names_pending
            .drain(..)
            .partition(|change| is_covered(change) || halves.contains(&change.id));
        self.names_pending = kept;
        taken
    }

    /// Space taken by files that have a name or are open.
    pub(super) fn used_bytes(&self) -> u64 {
        let directories = self.nodes.values().filter_map(|node| match node {
            Node::Directory(directory) => Some(directory),
            Node::File(_) => None,
        });
        let named: std::collections::BTreeSet<Inode> =
            directories.flat_map(|directory| directory.visible.values().copied()).collect();
        let files = self.nodes.iter().filter_map(|(inode, node)| match node {
            Node::File(file) if file.open_count > 0 || named.contains(inode) => Some(file),
            _ => None,
        });
        files.map(|file| file.visible.len()).sum()
    }
}

/// The names along a path. Relative paths begin at the root.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => {
                names.push(name.to_str().ok_or_else(|| error(EINVAL))?.to_owned());
            }
            Component::ParentDir | Component::Prefix(_) => return Err(error(EINVAL)),
        }
    }
    Ok(names)
}
