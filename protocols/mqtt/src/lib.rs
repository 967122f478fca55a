//! The MQTT protocol: codec, packet-level session machine, connection shell.
//!
//! - [`codec`]: bytes to packets and back; no state.
//! - [`machine`]: what each packet makes the server do next; no I/O, no clock.

pub mod codec;
pub mod machine;
