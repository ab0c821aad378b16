//! Tests of the whole log: a workload, a restart, and what must be there.

#[cfg(sim)]
mod cold;
#[cfg(sim)]
mod crash;
mod fixture;
mod life;
#[cfg(sim)]
mod regression;
#[cfg(sim)]
mod replica;
mod rewrite;
#[cfg(sim)]
mod workload;
