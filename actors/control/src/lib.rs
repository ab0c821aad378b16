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
use std::thread::{self, JoinHandle};

use actix::{Actor, System};
use barrage_broker::ControlPort;

use crate::placement::{Observed, Placement};

/// The running control plane. It ends when the cores let go of their ends.
#[derive(Debug)]
pub struct Control {
    thread: JoinHandle<()>,
}

impl Control {
    /// Starts the control plane's thread.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn start(port: ControlPort) -> io::Result<Self> {
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
        let thread = thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { thread })
    }

    /// Waits until it has ended; call it when the cores have.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the control plane has panicked");
        }
    }
}
