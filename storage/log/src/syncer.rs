//! Syncs of segment files in place, and who wants which kind of sync.
//!
//! One round at a time: while it runs, the next group of appends forms, so one sync serves all of
//! them (group commit without a timer). The journal's rounds run beside these.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    io,
    sync::Arc,
    time::Duration,
};

use mainstem_env::{BoxFuture, Env, File};
use mainstem_record::{Offset, SegmentId};
use tokio::sync::oneshot;

use crate::{
    error::PartitionError,
    journal::Entry,
    planted::{Bug, planted},
    segment::Segment,
};

/// How many files of a round are synced at the same time.
const SYNC_CONCURRENCY: usize = 4;

/// What will be durable after a sync.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    pub(crate) slot: usize,
    pub(crate) segment: SegmentId,
    /// As offset and as position.
    pub(crate) upto: Offset,
    pub(crate) position: u64,
}

/// One file to sync.
pub(crate) struct SyncJob {
    pub(crate) mark: Mark,
    pub(crate) segment: Arc<Segment>,
    pub(crate) file: Arc<dyn File>,
}

/// What became of it.
pub(crate) struct SyncDone {
    pub(crate) job: SyncJob,
    pub(crate) result: io::Result<()>,
}

/// Where a partition's bytes are to be made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SyncKind {
    /// In the shard's journal.
    Journal,
    /// In the segment's file.
    InPlace,
}

/// Who waits until the journal has noted a cut.
pub(crate) type CutSender = oneshot::Sender<Result<(), PartitionError>>;

/// Which partitions of a shard want a sync, now or later. An entry may be out of date: the
/// partition knows.
#[derive(Default)]
pub(crate) struct SyncQueue {
    pub(crate) journal: VecDeque<usize>,
    pub(crate) in_place: Vec<usize>,
    /// Partitions that were synced in place, which the journal should note.
    pub(crate) notes: Vec<usize>,
    /// Segments that are cut, which the journal must note before their files are.
    pub(crate) cuts: Vec<(Entry, CutSender)>,
    /// The nearest deadline first; each partition has its own interval.
    armed: BinaryHeap<Reverse<(Duration, usize)>>,
}

/// A round under way.
pub(crate) type Round = BoxFuture<'static, Vec<SyncDone>>;

// === impl SyncQueue ===

impl SyncQueue {
    pub(crate) fn want(&mut self, kind: SyncKind, slot: usize) {
        match kind {
            SyncKind::Journal => self.journal.push_back(slot),
            SyncKind::InPlace => self.in_place.push(slot),
        }
    }

    pub(crate) fn arm(&mut self, deadline: Duration, slot: usize) {
        self.armed.push(Reverse((deadline, slot)));
    }

    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        self.armed.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// The next partition whose deadline has come.
    pub(crate) fn pop_due(&mut self, now: Duration) -> Option<usize> {
        let Reverse((deadline, slot)) = *self.armed.peek()?;
        if deadline > now {
            return None;
        }
        self.armed.pop();
        Some(slot)
    }
}

fn sync(file: &dyn File) -> io::Result<()> {
    if planted(Bug::NoSegmentSync) {
        return Ok(());
    }
    match file.sync_data() {
        Err(_) if planted(Bug::RetriedSync) => file.sync_data(),
        result => result,
    }
}

/// Starts a round; it runs whether or not the future is polled.
pub(crate) fn start(env: &Env, jobs: Vec<SyncJob>) -> Round {
    let per_thread = jobs.len().div_ceil(SYNC_CONCURRENCY).max(1);
    let mut receivers = Vec::with_capacity(SYNC_CONCURRENCY);
    let mut jobs = jobs.into_iter().peekable();
    while jobs.peek().is_some() {
        let part: Vec<SyncJob> = jobs.by_ref().take(per_thread).collect();
        let (sender, receiver) = oneshot::channel();
        // The pool of the shard's own thread.
        env.tasks.blocking(
            "log-sync",
            Box::new(move || {
                let done: Vec<SyncDone> = part
                    .into_iter()
                    .map(|job| {
                        let result = sync(&*job.file);
                        SyncDone { job, result }
                    })
                    .collect();
                // The shard is gone only when the process ends.
                let _ = sender.send(done);
            }),
        );
        receivers.push(receiver);
    }
    Box::pin(async move {
        let mut all = Vec::new();
        for receiver in receivers {
            match receiver.await {
                Ok(done) => all.extend(done),
                // The runtime is shutting down and dropped the work: nothing was promised of it,
                // and nobody may be told that it is durable.
                Err(_) => std::future::pending().await,
            }
        }
        all
    })
}
