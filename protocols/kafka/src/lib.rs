//! The Kafka protocol: framing, bounded decode, one file per API family.
