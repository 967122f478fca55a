//! The journal: one ring file per shard, so that one sync makes small appends to any number of
//! partitions durable.
//!
//! # Concepts
//! - A batch is first written to its segment's file, into the page cache, like under any flush
//!   policy. Under [`crate::Flush::Always`] a **round** then writes the batches of all partitions
//!   that wait into one **record** of the ring and syncs that file alone. Its blocks have been
//!   written before, which makes that sync cheap.
//! - A partition with [`record::ENTRY_PAYLOAD_BYTES_MAX`] or more to be synced is synced **in
//!   place**, in its segment's file, and not written twice. So is a segment that is being sealed.
//! - A record **counts** while the file of some segment in it has not been synced since. The oldest
//!   sequence that counts is the **trim point**. When half of the ring is in use, the segments of the
//!   older half are synced in place in the background; if there is no room at all, rounds are synced
//!   in place: nobody waits for the ring.
//! - **Notes** are entries without payload: they say up to where a segment was synced in place.
//!   They are written and not synced, for the start after a process that was killed. Nothing that an
//!   earlier record has of the segment lies above its note, unless the segment was **cut** there:
//!   that note is synced before the file is cut, and replay leaves out what was cut.
//!
//! # Invariants
//! - Rounds are strictly one after the other, and each is synced: so at most the newest record with
//!   payload may be torn, and nobody was told of it.
//! - Each record tells which ones before it were durable. One of those that cannot be read is
//!   damage below the synced point: the start reports it and shortens nothing.
//! - A record is overwritten only when a later record on stable storage says that it does not count.
//! - A failed write or sync of the ring fails the shard. It is never repeated.
//! - At the start ([`replay`]) the segments are written and synced, then the checkpoint, and only
//!   then the ring is emptied. One with bytes that could not be written to their segment is moved to
//!   the trash as it is: it may have the only copy.
//! - **Ids of segments are never used again**, also not after the segment was dropped or a compacted
//!   one took its place, and what was acknowledged at a position of a segment never changes, unless
//!   it was cut off. Replay depends on it: it writes to whatever file has the id, and may do so again
//!   at a later start.
//!
//! The file begins with two slots that tell which records are its own (`header.rs`), then come
//! records (`record.rs`) round and round (`ring.rs`). `<dir>/journal/<shard>.ring` is made when the
//! first partition of the shard needs it.

mod file;
mod header;
mod inspect;
mod record;
mod replay;
mod ring;
mod scan;
#[cfg(test)]
mod tests;
mod worker;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use mainstem_env::{Env, File};
use tokio::sync::{mpsc, oneshot};

pub(crate) use file::{RingFile, open};
pub(crate) use header::{RING_BYTES_MAX, RING_BYTES_MIN};
pub(crate) use inspect::{Inspected, Record, inspect};
pub(crate) use record::{ENTRIES_MAX, ENTRY_PAYLOAD_BYTES_MAX, Entry};
pub(crate) use replay::{Piece, Plan, Target, look_at_ring, replay};

use record::{BLOCK_BYTES, Head, blocks_of};
use ring::Ring;
use worker::{Payloads, Write};

use crate::syncer::Mark;

/// The magic of each thing in a ring, its version, and the bytes of its fixed part.
#[cfg(test)]
pub(crate) const FORMATS: [([u8; 4], u32, usize); 2] = [
    (header::MAGIC, header::VERSION, header::SLOT_BYTES),
    (record::MAGIC, record::VERSION, record::HEAD_BYTES),
];

/// Bytes of an entry of a record.
#[cfg(test)]
pub(crate) const ENTRY_BYTES: usize = record::ENTRY_BYTES;

/// The journal of a shard, as the shard sees it: it decides, the worker does the input and output.
pub(crate) struct Journal {
    path: PathBuf,
    file: Arc<dyn File>,
    header: header::Header,
    ring: Ring,
    /// Records that count, each with the slot of a partition that needs it: the oldest of each.
    holders: BTreeSet<(u64, usize)>,
    worker: mpsc::Sender<Write>,
    writing: Option<Writing>,
}

/// What a partition gives to a round.
pub(crate) struct JournalJob {
    pub(crate) mark: Mark,
    pub(crate) entry: Entry,
    pub(crate) payload: Payloads,
}

/// A record that is being written.
struct Writing {
    done: oneshot::Receiver<std::io::Result<()>>,
    round: RoundDone,
    sequence: u64,
    trim: u64,
    syncs: bool,
}

/// A round that is over.
pub(crate) struct RoundDone {
    pub(crate) marks: Vec<Mark>,
    pub(crate) started: Duration,
    /// Bytes of the record.
    pub(crate) bytes: u64,
    pub(crate) result: std::io::Result<()>,
}

/// The record that is to be written next.
pub(crate) struct Round {
    pub(crate) jobs: Vec<JournalJob>,
    pub(crate) notes: Vec<Entry>,
    pub(crate) place: RecordPlace,
    /// The notes must be on stable storage before it counts as done.
    pub(crate) sync_notes: bool,
}

/// Who writes a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The journal's thread, while the shard goes on.
    Worker,
    /// The shard itself, which has nothing else to do: its thread blocks, and two hand-offs between
    /// threads are saved.
    Shard,
}

/// The place of a record, with what it will say of the records before it.
pub(crate) struct RecordPlace {
    place: ring::Place,
    trim: u64,
}

// === impl Journal ===

impl Journal {
    /// Starts the worker of a ring that is empty.
    pub(crate) fn start(env: &Env, shard: usize, ring: RingFile) -> std::io::Result<Self> {
        let (worker, writes) = mpsc::channel(1);
        let run = worker::run(ring.file.clone(), writes);
        env.tasks.dedicated("log-journal", shard, Box::pin(run))?;
        Ok(Self {
            path: ring.path,
            file: ring.file,
            ring: Ring::new(ring.header.bytes),
            header: ring.header,
            holders: BTreeSet::new(),
            worker,
            writing: None,
        })
    }

    pub(crate) fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.ring.used_bytes()
    }

    /// The most payload of a round.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.ring.payload_bytes_max()
    }

    /// The sequence that the next record will have.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.ring.next_sequence()
    }

    /// The oldest record that counts, or the next one.
    fn trim(&self) -> u64 {
        let oldest = self.holders.first().map(|(sequence, _)| *sequence);
        oldest.unwrap_or(self.ring.next_sequence())
    }

    /// Takes room for a record of so many entries and bytes.
    pub(crate) fn place(&mut self, entries: usize, payload: usize) -> Option<RecordPlace> {
        let trim = self.trim();
        let place = self.ring.place(blocks_of(entries, payload), false)?;
        Some(RecordPlace { place, trim })
    }

    /// Takes room for a record that only says that older ones do not count, if some do not.
    pub(crate) fn place_trim(&mut self) -> Option<RecordPlace> {
        let trim = self.trim();
        if trim <= self.ring.durable_trim() {
            return None;
        }
        let place = self.ring.place(blocks_of(0, 0), true)?;
        Some(RecordPlace { place, trim })
    }

    /// A partition needs the records from this one on.
    pub(crate) fn hold(&mut self, sequence: u64, slot: usize) {
        self.holders.insert((sequence, slot));
    }

    /// It does not need them any more.
    pub(crate) fn release(&mut self, sequence: u64, slot: usize) {
        self.holders.remove(&(sequence, slot));
    }

    /// If the ring is getting full: some of those who hold its older half, the oldest first.
    pub(crate) fn in_the_way(&self, count_max: usize) -> Vec<(u64, usize)> {
        let Some(middle) = self.ring.crowded(self.trim()) else {
            return Vec::new();
        };
        let oldest = self.holders.range(..(middle, 0));
        oldest.take(count_max).copied().collect()
    }

    /// Begins to write a record; what has payload, or makes room, is synced. [`By::Shard`] blocks
    /// until that is over; [`Journal::done`] tells how it went, either way.
    pub(crate) fn write(&mut self, round: Round, by: By, now: Duration) {
        let Round {
            jobs,
            notes,
            place,
            sync_notes,
        } = round;
        let RecordPlace { place, trim } = place;
        let syncs = sync_notes || !jobs.is_empty() || notes.is_empty();
        let mut entries = notes;
        let mut marks = Vec::with_capacity(jobs.len());
        let mut payloads = vec![Payloads::new(); entries.len()];
        for job in jobs {
            marks.push(job.mark);
            entries.push(job.entry);
            payloads.push(job.payload);
        }
        let payload = entries.iter().map(|entry| entry.length as usize).sum();
        let head = Head {
            ring: self.header.ring,
            sequence: place.sequence,
            trim,
            durable: self.ring.durable(),
            entries: entries.len(),
            payload,
        };
        let bytes = blocks_of(entries.len(), payload) * BLOCK_BYTES as u64;
        let (reply, done) = oneshot::channel();
        let write = Write {
            position: place.position,
            head,
            entries,
            payloads,
            syncs,
            reply,
        };
        match by {
            By::Shard => write.run(&*self.file),
            By::Worker => {
                // There is room: the one before is over. If the worker is gone so is the process,
                // and `done` never completes.
                let _ = self.worker.try_send(write);
            }
        }
        let round = RoundDone {
            marks,
            started: now,
            bytes,
            result: Ok(()),
        };
        self.writing = Some(Writing {
            done,
            round,
            sequence: place.sequence,
            trim,
            syncs,
        });
    }

    /// Waits for the record that is being written; for ever if there is none.
    pub(crate) async fn done(&mut self) -> RoundDone {
        let Some(writing) = &mut self.writing else {
            return std::future::pending().await;
        };
        let result = match (&mut writing.done).await {
            Ok(result) => result,
            // The runtime is shutting down and dropped the work: nobody may be told that it is
            // durable.
            Err(_) => return std::future::pending().await,
        };
        let Some(writing) = self.writing.take() else {
            return std::future::pending().await;
        };
        if result.is_ok() && writing.syncs {
            self.ring.synced(writing.sequence, writing.trim);
        }
        RoundDone {
            result,
            ..writing.round
        }
    }

    /// Says in the file that nothing in it counts; all segments have been synced. Blocks.
    pub(crate) fn closing(self) -> impl FnOnce() -> std::io::Result<()> {
        move || file::close(&*self.file, &self.header)
    }
}
