//! Writes records, mostly on a thread of its own: the shard goes on while the disk works.

use std::{
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_env::File;
use tokio::sync::{mpsc, oneshot};

use crate::planted::{Bug, planted};

use super::record::{self, BLOCK_BYTES, Entry, Head};

/// The batches of one entry, in order.
pub(crate) type Payloads = Vec<Bytes>;

/// A record to write.
pub(crate) struct Write {
    /// Where it begins in the file, in bytes.
    pub(crate) position: u64,
    pub(crate) head: Head,
    /// Their checksums are still to be filled in.
    pub(crate) entries: Vec<Entry>,
    /// One for each entry.
    pub(crate) payloads: Vec<Payloads>,
    /// It must be on stable storage before it counts as done.
    pub(crate) syncs: bool,
    pub(crate) reply: oneshot::Sender<io::Result<()>>,
}

/// What fills up the last block.
static ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// Runs until the shard is gone. Blocks its thread.
pub(crate) async fn run(file: Arc<dyn File>, mut writes: mpsc::Receiver<Write>) {
    while let Some(write) = writes.recv().await {
        write.run(&*file);
    }
}

// === impl Write ===

impl Write {
    /// Writes, syncs if asked to, and tells. Blocks.
    pub(super) fn run(mut self, file: &dyn File) {
        for (entry, payload) in self.entries.iter_mut().zip(&self.payloads) {
            entry.crc = payload
                .iter()
                .fold(0, |crc, batch| crc32c::crc32c_append(crc, batch));
        }
        let front = record::encode(&self.head, &self.entries);
        let batches = self.payloads.iter().flatten();
        let mut slices = vec![IoSlice::new(&front)];
        slices.extend(batches.map(|batch| IoSlice::new(batch)));
        let bytes = front.len() + self.head.payload;
        let filling = bytes.next_multiple_of(BLOCK_BYTES) - bytes;
        slices.push(IoSlice::new(ZEROS.get(..filling).unwrap_or_default()));
        let result = file
            .write_all_vectored_at(&slices, self.position)
            .and_then(|()| {
                if self.syncs && !planted(Bug::NoJournalSync) {
                    file.sync_data()
                } else {
                    Ok(())
                }
            });
        // The shard is gone only when nobody waits any more.
        let _ = self.reply.send(result);
    }
}
