//! The targets.

mod batch;
mod bodies;
mod codec;
mod files;
mod journal;
mod node;
mod peers;

use crate::Trace;

/// Something that takes hostile bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Takes an input and panics if something that must hold does not.
    pub run: fn(&[u8], &mut Trace),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Makes the checksums of a mutated input right, so that it gets past them.
    pub repair: fn(&mut [u8]),
    /// Bytes that one execution may allocate whatever the input, in all.
    pub bytes_free: usize,
    /// Bytes that it may allocate per byte of input, in all.
    pub bytes_factor: usize,
    /// Executions of the short run.
    pub short: u64,
}

/// All targets.
pub static TARGETS: &[Target] = &[
    batch::BATCH,
    codec::DECOMPRESS,
    files::SEGMENT,
    files::ACTIVE,
    files::INDEX,
    files::SNAPSHOT,
    files::RECOVERY_POINT,
    files::JOURNAL,
    files::CHECKPOINT,
    files::SCRUB,
    files::FORMAT,
    files::MARK,
    peers::HANDSHAKE,
    peers::FRAMES,
    bodies::BODIES,
];
