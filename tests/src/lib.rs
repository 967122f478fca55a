//! The launcher and the helpers of whole-binary tests: [`Node`] runs the very binary, [`kafka`] and
//! [`mqtt`] speak the protocols byte by byte over plain sockets, as a hostile peer would, and
//! [`Bystanders`] are ordinary clients that must not notice any of it.
//!
//! Nothing of the product is linked here: these tests know it from outside only. Tests with real
//! clients are in `tests/clients`.
#![allow(
    clippy::disallowed_methods,
    reason = "tests wait for real processes, in real time; the product injects its clock"
)]

mod bystanders;
pub mod files;
pub mod kafka;
pub mod mqtt;
mod node;
mod random;
pub mod trace;
mod wait;
pub mod websocket;

pub use bystanders::Bystanders;
pub use node::{Ended, Node, NodeOptions, binary, http_get, run_to_end, run_to_end_by};
pub use random::Random;
pub use wait::{until, within};
