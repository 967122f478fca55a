//! A deterministic world for tests: what a node takes from outside (`mainstem-env`), made of
//! memory, virtual time and one seed.
//!
//! The crates of the binary run in it unchanged. It is only ever a dev-dependency: nothing here is
//! linked into the binary.
//!
//! - [`SimFs`]: a disk with a page cache that tears, loses and reorders what is not synced, and
//!   whose calls fail on demand or by chance.
//! - [`SimNet`]: TCP between hosts, over links that delay, lose, hold and cut packets.
//! - [`SimClock`]: time that passes only when nothing else can happen; [`HostClock`]: what a host
//!   makes of it.
//! - [`SimTasks`]: tasks on one thread, taken in an order that the seed decides; the tasks of one
//!   process can be stopped and ended together.
//! - [`SlowTasks`]: blocking work that takes its time.
//! - [`schedule`]: faults of all of these at random times.
//! - [`Trace`]: what happened, to compare two runs.
//! - [`run`] and [`World`]: all of these together.
//!
//! The same seed gives the same history: the same calls of the disk in the same order with the same
//! bytes. Whatever a test wants random it takes from a [`Dice`] of its seed.

mod clock;
mod dice;
mod disk;
mod net;
mod seeds;
mod slow;
mod tasks;
mod trace;
mod world;

pub use clock::{HostClock, SimClock};
pub use dice::Dice;
pub use disk::{Chances, Counts, FaultKind, Faults, SimFs};
pub use net::{
    ChaosOptions, Fault, FaultClass, HostId, LinkOptions, NetOptions, SOCKET_BUFFER_BYTES, SimNet,
    Step, schedule,
};
pub use seeds::{each_seed, first_failure, seeds};
pub use slow::{SlowTasks, Stall};
pub use tasks::SimTasks;
pub use trace::Trace;
pub use world::{Process, World, run};
