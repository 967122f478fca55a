//! The tail cache: recent batches in memory, so that readers at the tail never touch a file.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use mainstem_record::Offset;

use crate::{
    metrics::Metrics,
    read::{Chunk, Read},
    shared::Shared,
};

/// Bookkeeping per cached batch, in bytes.
const ENTRY_BYTES: usize = 64;

/// One read returns no more batches: the shard waits for the lock of a partition that is read.
const READ_BATCHES_MAX: usize = 4096;

/// The cached batches of one partition: contiguous, the newest last.
#[derive(Debug, Default)]
pub(crate) struct TailCache {
    batches: VecDeque<Cached>,
}

#[derive(Debug)]
struct Cached {
    base: Offset,
    next: Offset,
    bytes: Bytes,
}

/// Which batches a shard has cached, in the order in which they go again.
pub(crate) struct ShardCache {
    bytes_max: usize,
    bytes: usize,
    queue: VecDeque<Run>,
}

/// Batches of one partition that were cached together.
struct Run {
    shared: Arc<Shared>,
    batches: usize,
    bytes: usize,
}

// === impl TailCache ===

impl TailCache {
    fn push(&mut self, base: Offset, next: Offset, bytes: Bytes) {
        // After a hole in the chain the older batches are of no use any more.
        if self.batches.back().is_some_and(|last| last.next != base) {
            self.batches.clear();
        }
        self.batches.push_back(Cached { base, next, bytes });
    }

    fn pop(&mut self, count: usize) {
        let count = count.min(self.batches.len());
        self.batches.drain(..count);
        // Idle partitions must cost nothing.
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        }
    }

    /// Lets go what begins at or above `end`.
    pub(crate) fn cut(&mut self, end: Offset) {
        let stays = self.batches.partition_point(|cached| cached.base < end);
        self.batches.truncate(stays);
        if self.batches.is_empty() {
            self.batches = VecDeque::new();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.batches = VecDeque::new();
    }

    /// What is cached from `read.from` on, of the batches that begin below `bound`; `None` if
    /// `read.from` is not cached.
    pub(crate) fn read(&self, read: &Read, bound: Offset) -> Option<Chunk> {
        if self.batches.front()?.base > read.from || self.batches.back()?.next <= read.from {
            return None;
        }
        let first = self.batches.partition_point(|c| c.next <= read.from);
        let mut chunk = Chunk::empty(read.from);
        for cached in self.batches.range(first..).take(READ_BATCHES_MAX) {
            let bytes = chunk.bytes + cached.bytes.len();
            let wanted =
                bytes <= read.bytes_max || (chunk.batches.is_empty() && read.at_least_one_batch);
            if cached.base >= bound || !wanted {
                break;
            }
            chunk.bytes = bytes;
            chunk.next = cached.next;
            chunk.batches.push(cached.bytes.clone());
        }
        Some(chunk)
    }
}

// === impl ShardCache ===

impl ShardCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            queue: VecDeque::new(),
        }
    }

    /// Takes batches of one partition, each with base and next offset, and lets the oldest of the
    /// shard go.
    pub(crate) fn push(
        &mut self,
        shared: &Arc<Shared>,
        batches: impl Iterator<Item = (Offset, Offset, Bytes)>,
        metrics: &Metrics,
    ) {
        if self.bytes_max == 0 {
            return;
        }
        let before = self.bytes;
        let mut run = Run {
            shared: shared.clone(),
            batches: 0,
            bytes: 0,
        };
        let mut cache = shared.cache.lock();
        for (base, next, bytes) in batches {
            run.batches += 1;
            run.bytes += bytes.len() + ENTRY_BYTES;
            cache.push(base, next, bytes);
        }
        drop(cache);
        self.bytes += run.bytes;
        self.queue.push_back(run);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.queue.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes;
            oldest.shared.cache.lock().pop(oldest.batches);
        }
        metrics.cache_bytes.add(self.bytes as i64 - before as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: i64, bytes_max: usize, at_least_one_batch: bool) -> Read {
        Read {
            from: Offset(from),
            bytes_max,
            at_least_one_batch,
            end: Offset(i64::MAX),
        }
    }

    #[test]
    fn reads_are_whole_batches_within_bounds() {
        let mut cache = TailCache::default();
        for i in 0..4 {
            cache.push(
                Offset(i * 10),
                Offset(i * 10 + 10),
                Bytes::from(vec![0; 100]),
            );
        }
        let bound = Offset(30);
        let next = |r: Read| cache.read(&r, bound).map(|c| (c.batches.len(), c.next.0));
        assert_eq!(next(read(15, 1000, false)), Some((2, 30)));
        assert_eq!(next(read(15, 100, false)), Some((1, 20)));
        assert_eq!(next(read(15, 99, false)), Some((0, 15)));
        assert_eq!(next(read(15, 1, true)), Some((1, 20)));
        assert_eq!(next(read(40, 1, true)), None);
        cache.pop(1);
        assert!(cache.read(&read(9, 1, true), bound).is_none());
        cache.push(Offset(100), Offset(101), Bytes::new());
        assert!(cache.read(&read(20, 1, true), bound).is_none());
    }
}
