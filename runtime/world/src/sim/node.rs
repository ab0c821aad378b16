//! Cores of a simulated machine. Owns the backend side of `crate::node`, as far as code above
//! the world asks for it.
//!
//! A core here is only a name that tasks carry: `Machine::core` gives it, and what such a task
//! spawns inherits it. All cores of all machines share one thread, so any interleaving of cores
//! is an order of polls.

use super::executor;

/// Which core this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoreContext {
    /// 0-based index of the core in the node.
    pub index: u16,
    /// How many cores the node has.
    pub count: u16,
    /// The processor it is pinned to: here, its index.
    pub cpu: usize,
}

/// The core that runs the caller; `None` outside a node.
#[must_use]
pub fn current_core() -> Option<CoreContext> {
    executor::try_world().and_then(|world| world.with_machine(super::Machine::core_context))
}

/// Bytes of memory this process may use.
#[must_use]
pub fn memory_total() -> u64 {
    MEMORY_BYTES
}

/// Bytes of memory this process has in use now; 0, a simulated process does not tell.
#[must_use]
pub fn memory_resident() -> u64 {
    0
}

/// What every simulated machine has.
const MEMORY_BYTES: u64 = 4 << 30;
