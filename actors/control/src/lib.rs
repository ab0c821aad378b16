//! The control plane: actix actors on an ordinary thread that decide what is not urgent.
//!
//! ```text
//!   catalog's core --Observation--> | thread "control"          |
//!                  <-----Plan------ | Placement (actix actor)   |  by barrage_cluster::plan
//!                    bounded        +---------------------------+
//! ```
//! A core never waits for it: what is observed while the actor is busy is dropped, because the next
//! observation says more, and a plan that comes too late is not proposed.
//!
//! Owns: the thread, its actors, how they are asked and answer.
//! Must never: hold the truth about anything (that is in the catalog), or decide by itself what a
//! pure function in `barrage_cluster` decides, which the simulator drives as well.

mod placement;

use std::io;
use std::thread;

use actix::{Actor, System};
use barrage_broker::ControlPort;

use crate::placement::{Observed, Placement};

/// Starts the control plane's thread. It ends when the cores let go of their ends, or with the
/// process: it holds nothing that must be put in order, so nobody waits for it.
///
/// # Errors
/// When the system has no thread left.
pub fn start(port: ControlPort) -> io::Result<()> {
    let run = move || {
        let system = System::new();
        system.block_on(async move {
            let placement = Placement::new(port.planned).start();
            let mut observed = port.observed;
            while let Some(observations) = observed.recv().await {
                // Only the newest one counts.
                let Some(newest) = observations.into_iter().next_back() else { continue };
                if placement.send(Observed(newest)).await.is_err() {
                    break;
                }
            }
        });
    };
    thread::Builder::new().name("control".to_owned()).spawn(run).map(drop)
}
