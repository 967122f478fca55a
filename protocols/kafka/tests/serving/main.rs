//! The protocol over a real broker on an in-memory file system: requests go in as bytes, responses
//! come out as bytes, and nothing in between is replaced.

mod elsewhere;
mod groups;
mod harness;
mod records;
mod robustness;
mod versions;
