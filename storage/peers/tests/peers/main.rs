//! Peers over the loopback network, and over one of memory in virtual time.

mod calls;
mod common;
mod frames;
mod greeting;
mod impostor;
mod raw;
mod streams;
mod wire;
