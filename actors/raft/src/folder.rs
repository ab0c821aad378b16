//! A replica's folder: empty, whole, or not whole and known to be so.
//!
//! Owns: the file `incomplete`, which keeps the replica's vote while its log is not to be used, and
//! what makes a folder incomplete: a replica that is behind, dismantled or damaged.
//!
//! Must never: lose a vote. A replica that forgot one could vote twice in a term, and two leaders
//! of one term would both be believed. So the file is durable before anything else is touched, and
//! is removed last; see [`crate::seed`].

use std::io;
use std::path::{Path, PathBuf};

use barrage_commitlog::{self as commitlog, CommitLog, Vote};
use barrage_model::ShardId;
use barrage_world::{self as world, fs};

use crate::format::marker::{self, Held, Marker};

const MARKER: &str = "incomplete";
const QUARANTINE: &str = "quarantine";

/// What is in a replica's folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Nothing, or there is no folder: a new replica. Only one of the first voters of a new group
    /// may be opened like this; any other is seeded first.
    Empty,
    /// Something is missing: the replica must be seeded before it is opened.
    Incomplete,
    /// A replica that may be opened.
    Whole,
}

/// Why a folder cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The disk refused.
    #[error("replica's folder: {0}")]
    Io(#[from] io::Error),
    /// What the replica voted last is not known, so this identity must never vote again.
    #[error("vote is not certain, the node must rejoin under a new identity: {0}")]
    VoteUncertain(String),
}

impl FolderError {
    /// Whether there is no room on the disk: it may work later.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::StorageFull)
    }
}

/// The folder of one replica that is not open.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Where it is.
    pub dir: PathBuf,
    /// How its log is opened.
    pub log: commitlog::Options,
}

impl Folder {
    /// What is in it.
    ///
    /// # Errors
    /// When the disk refuses.
    pub async fn content(&self) -> io::Result<Content> {
        if !fs::exists(&self.dir).await? {
            return Ok(Content::Empty);
        }
        if fs::exists(&self.dir.join(MARKER)).await? {
            return Ok(Content::Incomplete);
        }
        let names = CommitLog::file_names(&self.dir).await?;
        let holds = |ending: &str| names.iter().any(|name| name.ends_with(ending));
        Ok(if holds(".log") || holds(".ckp") { Content::Whole } else { Content::Empty })
    }

    /// Notes that the replica must be seeded before it is opened again, what it voted and what it
    /// held. Its files stay: what the source has too is not copied again.
    ///
    /// # Errors
    /// When the vote is not certain or the disk refuses; then nothing has changed.
    pub async fn mark_incomplete(&self, held: Held) -> Result<(), FolderError> {
        if self.content().await? != Content::Whole {
            return Ok(());
        }
        let vote = self.vote().await?;
        Ok(self.save_marker(&Marker { shard: self.shard(), vote, held }).await?)
    }

    /// Removes all of the replica but its vote: it was moved away and may come back.
    ///
    /// # Errors
    /// When the vote is not certain or the disk refuses. After a refusal the replica is incomplete,
    /// and this may be tried again.
    pub async fn dismantle(&self) -> Result<(), FolderError> {
        self.mark_incomplete(Held::Unknown).await?;
        if self.content().await? == Content::Incomplete {
            CommitLog::remove_files(&self.dir).await?;
        }
        Ok(())
    }

    /// Moves the files of a damaged log aside, and notes that the replica must be seeded before it
    /// is opened again. Gives where the files are now.
    ///
    /// # Errors
    /// As [`Self::dismantle`]; a log whose newest part is damaged does not tell its vote.
    pub async fn set_damaged_aside(&self, held: Held) -> Result<PathBuf, FolderError> {
        self.mark_incomplete(held).await?;
        let aside = self.dir.join(QUARANTINE).join(format!("{:016x}", world::random_u64()));
        fs::create_dir_all(&aside).await?;
        fs::sync_dir(&self.dir.join(QUARANTINE)).await?;
        for name in CommitLog::file_names(&self.dir).await? {
            fs::rename(&self.dir.join(&name), &aside.join(&name)).await?;
        }
        // Where they came from last: a crash in between shows a file twice rather than never.
        fs::sync_dir(&aside).await?;
        fs::sync_dir(&self.dir).await?;
        Ok(aside)
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.log.shard
    }

    /// The newest vote in the log.
    async fn vote(&self) -> Result<Option<Vote>, FolderError> {
        match CommitLog::read_hard_state(&self.dir, &self.log).await {
            Ok(hard) => Ok(hard.vote),
            Err(commitlog::OpenError::Io { source, .. }) => Err(source.into()),
            Err(error) => Err(FolderError::VoteUncertain(error.to_string())),
        }
    }

    /// What a folder that is incomplete remembers.
    pub(crate) async fn marker(&self) -> Result<Option<Marker>, FolderError> {
        let path = self.dir.join(MARKER);
        if !fs::exists(&path).await? {
            return Ok(None);
        }
        let decoded = marker::decode(&fs::read(&path).await?, self.shard());
        let marker = decoded.map_err(|error| FolderError::VoteUncertain(error.to_string()))?;
        Ok(Some(marker))
    }

    /// Makes a folder that never held anything an incomplete one.
    pub(crate) async fn begin(&self) -> io::Result<Marker> {
        let marker = Marker { shard: self.shard(), vote: None, held: Held::Unknown };
        fs::create_dir_all(&self.dir).await?;
        if let Some(parent) = self.dir.parent() {
            fs::sync_dir(parent).await?;
        }
        self.save_marker(&marker).await?;
        Ok(marker)
    }

    /// Durable when it returns.
    pub(crate) async fn save_marker(&self, marker: &Marker) -> io::Result<()> {
        let bytes = marker::encode(marker).map_err(io::Error::other)?;
        fs::write_atomic(&self.dir.join(MARKER), &bytes).await
    }

    /// The replica is whole: durable when it returns.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        fs::remove(&self.dir.join(MARKER)).await?;
        fs::sync_dir(&self.dir).await
    }
}

/// Whether a replica's folder carries the marker.
pub(crate) async fn is_marked(dir: &Path) -> io::Result<bool> {
    fs::exists(&dir.join(MARKER)).await
}
