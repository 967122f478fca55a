//! The MQTT protocol: codec, packet-level session machine, connection shell.
