//! The bare server's files: the same kind of segment as the log writes.
//!
//! Owns: segments of full size, written through with zeros once and then overwritten round and
//! round, as a log recycles the segments of its pool. Must never: grow a file while measuring.
//! Invariants: a place lies within one segment; the places handed out follow one another.

use std::io;
use std::path::Path;
use std::rc::Rc;

use barrage_world::{BLOCK_SIZE, Buffer, File, fs};

/// Size of a segment: the log's default.
const SEGMENT_BYTES: u64 = 256 << 20;
/// Enough that a segment is long synced when its turn comes again: far more than is in flight.
const SEGMENTS: usize = 3;
const ZERO_BYTES: usize = 4 << 20;

/// Where the next bytes go.
#[derive(Debug)]
pub(super) struct Segments {
    files: Vec<Rc<File>>,
    active: usize,
    position: u64,
}

impl Segments {
    /// Makes and zeroes them.
    pub(super) async fn prepare(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder).await?;
        let mut files = Vec::new();
        for number in 0..SEGMENTS {
            let path = folder.join(format!("bare-{number}.segment"));
            let file = File::create(&path, SEGMENT_BYTES).await?;
            let mut zeros = Buffer::new(ZERO_BYTES);
            zeros.fill(0);
            let zeros = zeros.freeze();
            for position in (0..SEGMENT_BYTES).step_by(ZERO_BYTES) {
                file.write_at(&zeros, position).await?;
            }
            file.sync_data().await?;
            files.push(Rc::new(file));
        }
        Ok(Self { files, active: 0, position: 0 })
    }

    /// The file and position for the next `len` bytes.
    pub(super) fn place(&mut self, len: usize) -> (Rc<File>, u64) {
        let len = len as u64;
        assert!(len.is_multiple_of(BLOCK_SIZE as u64), "only whole blocks are written");
        assert!(len <= SEGMENT_BYTES, "a write fits a segment");
        if self.position + len > SEGMENT_BYTES {
            self.active = (self.active + 1) % self.files.len();
            self.position = 0;
        }
        let position = self.position;
        self.position += len;
        match self.files.get(self.active) {
            Some(file) => (Rc::clone(file), position),
            None => unreachable!("the active segment is one of the files"),
        }
    }
}
