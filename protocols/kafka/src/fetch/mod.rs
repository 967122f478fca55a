//! Fetch without its handler: the sessions that clients keep (KIP-227) and the encoding of
//! responses as chains of slices. Nothing here reads a log.

pub(crate) mod encode;
pub(crate) mod session;
