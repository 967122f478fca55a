//! The MQTT protocol: codec, packet-level session machine, connection shell.
//!
//! - [`codec`]: bytes to packets and back; no state.
//! - [`machine`]: what each packet makes the server do next; no I/O, no clock.
//! - `shell`: sockets, clock and broker around the two: [`MqttProtocol`].

pub mod codec;
pub mod machine;
mod shell;

pub use shell::{MqttDeps, MqttProtocol, Transport};
