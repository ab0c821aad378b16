//! Torn tails, moved aside before the log goes on without them.
//!
//! Owns the folder `quarantine`. Must never keep a log from opening for lack of space.

use crate::error::OpenError;
use crate::scan::Tail;
use crate::segment::Segment;
use crate::writer::NO_SPACE;
use barrage_world::{Buffer, File, fs};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Bytes copied aside at a time.
const COPY_BYTES: usize = 1024 * 1024;

/// Copies a torn tail aside. On a full disk it stays where it is, behind the end of its segment:
/// a log that cannot be opened would be worse.
pub(crate) async fn set_aside(
    dir: &Path,
    segment: &Rc<Segment>,
    start: u64,
    tail: Tail,
) -> Result<Option<(PathBuf, u64)>, OpenError> {
    match copy(dir, segment, start, tail).await {
        Ok(copy) => Ok(Some(copy)),
        Err(OpenError::Io { source, path, .. }) if source.raw_os_error() == Some(NO_SPACE) => {
            fs::remove(&path).await.ok();
            let path = segment.path.display();
            tracing::warn!(%path, start, "disk full: torn tail not copied");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Copies a torn tail aside; it may be what somebody looks for after a disk has lied.
async fn copy(
    dir: &Path,
    segment: &Rc<Segment>,
    start: u64,
    tail: Tail,
) -> Result<(PathBuf, u64), OpenError> {
    let folder = dir.join("quarantine");
    let path = folder.join(format!("{:020}-{start:016x}.torn", segment.number()));
    let failed = |source| OpenError::Io { action: "quarantine", path: path.clone(), source };
    fs::create_dir_all(&folder).await.map_err(failed)?;
    let len = tail.written_end.saturating_sub(start);
    fs::remove(&path).await.ok();
    let copy = File::create(&path, len).await.map_err(failed)?;
    let mut at = 0;
    while at < len {
        let piece = usize::try_from(len - at).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        let from = segment.file_position(start + at);
        let bytes = segment.file.read_at(from, piece).await.map_err(failed)?;
        let mut buffer = Buffer::new(piece);
        buffer.copy_from_slice(&bytes);
        copy.write_at(&buffer.freeze(), at).await.map_err(failed)?;
        at += piece as u64;
    }
    copy.sync_data().await.map_err(failed)?;
    copy.close().await.map_err(failed)?;
    tracing::warn!(
        path = %path.display(), bytes = len, position = start,
        "the end of the log was torn by a crash and never acknowledged; moved aside"
    );
    Ok((path, len))
}
