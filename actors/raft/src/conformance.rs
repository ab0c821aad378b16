//! openraft's own suite for stores, on real files.

use std::cell::RefCell;
use std::rc::Rc;

use barrage_commitlog::{CommitLog, Floor, Options};
use barrage_model::ShardId;
use barrage_world as world;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::machine::{Adapter, Applied, Machine, Parts, RestoreError, UnknownCommand};
use crate::rot::Rot;
use crate::store::Store;
use crate::vocabulary::Types;

const SHARD: ShardId = ShardId(1);
const SEGMENT_BYTES: u64 = 1 << 20;

struct Nothing;

impl Machine for Nothing {
    type Reply = ();

    fn apply(&mut self, _entry: &Applied<'_>) -> Result<(), UnknownCommand> {
        Ok(())
    }

    fn checkpoint(&self) -> Parts {
        Parts::one(Vec::new())
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), RestoreError> {
        assert!(bytes.is_empty());
        Ok(())
    }
}

struct Files;

impl StoreBuilder<Types, Store, Adapter, tempfile::TempDir> for Files {
    async fn build(&self) -> Result<(tempfile::TempDir, Store, Adapter), StorageError<Types>> {
        let dir = tempfile::tempdir().unwrap();
        // In the simulated world the temporary directory is a name only.
        world::fs::create_dir_all(dir.path()).await.unwrap();
        world::prepare_directory(dir.path()).await.unwrap();
        let path = dir.path().join("shard");
        let options = Options { segment_bytes: SEGMENT_BYTES, ..Options::new(SHARD) };
        let (log, _) = CommitLog::open(path.clone(), options, None).await.unwrap();
        let place = (path, SHARD, Floor::Checkpoint);
        let adapter = Adapter::new(Rc::new(RefCell::new(Nothing)), log.clone(), place, None);
        Ok((dir, Store::new(log, Rc::new(Rot::new(ShardId(1)))), adapter))
    }
}

#[test]
fn store_conforms_to_openraft() {
    world::run_local(Suite::test_all(Files)).unwrap();
}
