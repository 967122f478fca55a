//! Peers over the loopback network.

mod calls;
mod common;
