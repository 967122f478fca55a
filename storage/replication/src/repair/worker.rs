//! The task that knows what is missing here, and has it copied.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mainstem_log::Moved;
use mainstem_metadata::{SegmentCopy, SegmentState};
use mainstem_record::{PartitionId, SegmentId};
use tokio::sync::mpsc;

use super::{
    Copies, Repair,
    copier::NotCopied,
    plan::{self, Step, Wanted},
};

/// Segments that are copied at the same time.
const COPIES_MAX: usize = 4;
/// How often spoilt segments are looked for, and what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The pause before a segment is tried again: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What one task knows. The image and the logs tell it anew after a restart.
pub(super) struct Worker<H: Copies> {
    repair: Repair<H>,
    changed: Arc<Moved>,
    /// What is missing, by partition.
    wanted: BTreeMap<PartitionId, Vec<Wanted>>,
    running: BTreeSet<SegmentId>,
    failed: BTreeMap<SegmentId, Failed>,
    /// Own files that were looked at without success.
    looked_at: BTreeSet<SegmentId>,
    /// What is whole and synced here, until metadata says so too.
    synced: BTreeMap<PartitionId, BTreeSet<SegmentId>>,
    damaged: BTreeMap<PartitionId, BTreeSet<SegmentId>>,
    done: (mpsc::Sender<Done>, mpsc::Receiver<Done>),
}

/// What did not work.
struct Failed {
    times: u32,
    again: Duration,
}

/// How a copy ended.
struct Done {
    wanted: Wanted,
    result: Result<(), NotCopied>,
    /// The own file was looked at, and is not the segment.
    looked: bool,
}

// === impl Worker ===

impl<H: Copies> Worker<H> {
    pub(super) fn new(repair: Repair<H>) -> Self {
        let changed = repair.inner.host.watch();
        Self {
            repair,
            changed,
            wanted: BTreeMap::new(),
            running: BTreeSet::new(),
            failed: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            synced: BTreeMap::new(),
            damaged: BTreeMap::new(),
            done: mpsc::channel(COPIES_MAX),
        }
    }

    pub(super) async fn run(mut self) {
        let env = self.repair.inner.env.clone();
        let mut look = std::pin::pin!(env.sleep(LOOK_EVERY));
        loop {
            let mut due = self.next_due().map(|due| {
                let wait = due.saturating_sub(env.now());
                Box::pin(env.sleep(wait))
            });
            let ids = tokio::select! {
                biased;
                Some(done) = self.done.1.recv() => self.over(done),
                ids = self.changed.next() => ids,
                () = when(&mut due) => BTreeSet::new(),
                () = &mut look => {
                    look.set(env.sleep(LOOK_EVERY));
                    self.look_for_damage()
                }
            };
            for id in ids {
                self.look_at(id).await;
            }
            self.begin();
        }
    }

    /// Partitions of which something was found to be spoilt, or is no more.
    fn look_for_damage(&mut self) -> BTreeSet<PartitionId> {
        let mut damaged: BTreeMap<PartitionId, BTreeSet<SegmentId>> = BTreeMap::new();
        for damage in self.repair.inner.log.damages() {
            let of = damaged.entry(damage.partition).or_default();
            of.insert(damage.segment);
        }
        let before = std::mem::replace(&mut self.damaged, damaged);
        // Also those that were known: what was said of them may have been lost.
        let now = self.damaged.keys().copied();
        now.chain(before.into_keys()).collect()
    }

    /// Finds out what is missing of a partition, and says what is not any more.
    async fn look_at(&mut self, id: PartitionId) {
        self.wanted.remove(&id);
        let host = &self.repair.inner.host;
        let (image, me) = (host.image(), host.me());
        let (Some(record), Some(log)) = (image.partition(id), host.log(id)) else {
            self.synced.remove(&id);
            return;
        };
        let segments = log.segments();
        let none = BTreeSet::new();
        let damaged = self.damaged.get(&id).unwrap_or(&none);
        for sealed in record.segments.iter() {
            if sealed.state == SegmentState::Sealed {
                log.tell_max_timestamp(sealed.id, sealed.max_timestamp);
            }
        }
        let (mut wanted, mut given_up) = (Vec::new(), Vec::new());
        for step in plan::steps(&image, me, (id, record), &segments, damaged) {
            match step {
                Step::Copy(segment) => wanted.push(segment),
                Step::Disown(copy) => {
                    let (partition, segment) = (copy.partition, copy.segment);
                    tracing::error!(%partition, %segment, "a copy is not its segment");
                    host.remove_complete(copy);
                }
                Step::GiveUp(segment) => match log.remove_copy(segment).await {
                    // It is missing from now on, and what comes in its place is not spoilt.
                    Ok(()) => given_up.push(segment),
                    Err(error) => tracing::warn!(partition = %id, %segment, %error, "not given up"),
                },
            }
        }
        if !given_up.is_empty() {
            self.changed.add(id);
            if let Some(damaged) = self.damaged.get_mut(&id) {
                damaged.retain(|segment| !given_up.contains(segment));
            }
        }
        if !wanted.is_empty() {
            self.wanted.insert(id, wanted);
        }
        self.tell(id);
        self.repair.remember(id);
        let missing = self.wanted.values().map(Vec::len).sum::<usize>();
        let metrics = &self.repair.inner.metrics;
        metrics
            .missing
            .set(i64::try_from(missing).unwrap_or(i64::MAX));
    }

    /// Says of what is whole here what metadata does not know yet (R32, R34).
    fn tell(&mut self, id: PartitionId) {
        let host = &self.repair.inner.host;
        let (image, me) = (host.image(), host.me());
        let Some(synced) = self.synced.get_mut(&id) else {
            return;
        };
        let record = image.partition(id);
        synced.retain(|segment| {
            let sealed = record.and_then(|record| {
                let mut segments = record.segments.iter();
                segments.find(|sealed| sealed.id == *segment)
            });
            let Some(sealed) = sealed else {
                return false;
            };
            let copy = SegmentCopy {
                partition: id,
                segment: *segment,
                member: me,
                digest: sealed.digest,
            };
            match sealed.complete.iter().find(|copy| copy.member() == me) {
                Some(known) if known.durable => return false,
                Some(_) => host.mark_durable(copy),
                None => host.add_complete(copy),
            }
            true
        });
        if synced.is_empty() {
            self.synced.remove(&id);
        }
    }

    /// When something that has failed is due.
    fn next_due(&self) -> Option<Duration> {
        if self.running.len() >= COPIES_MAX {
            return None;
        }
        let waiting = self.wanted.values().flatten();
        let failed = waiting.filter(|wanted| !self.running.contains(&wanted.segment));
        let due = failed.filter_map(|wanted| self.failed.get(&wanted.segment));
        due.map(|failed| failed.again).min()
    }

    /// Begins copies: those first that the fewest have.
    fn begin(&mut self) {
        let now = self.repair.inner.env.now();
        while self.running.len() < COPIES_MAX {
            let waiting = self.wanted.values().flatten().filter(|wanted| {
                let failed = self.failed.get(&wanted.segment);
                let is_due = failed.is_none_or(|failed| failed.again <= now);
                is_due && !self.running.contains(&wanted.segment)
            });
            let first = waiting.min_by_key(|wanted| (wanted.copies, wanted.partition, wanted.base));
            let Some(wanted) = first.cloned() else {
                return;
            };
            self.running.insert(wanted.segment);
            let times = self.failed.get(&wanted.segment).map_or(0, |f| f.times);
            let looks = !self.looked_at.contains(&wanted.segment);
            let (inner, done) = (self.repair.inner.clone(), self.done.0.clone());
            self.repair.spawn("copy segment", async move {
                let mut result = inner.copy_segment(&wanted, times as usize).await;
                let mut looked = false;
                if looks && let Err(NotCopied::NoSource | NotCopied::Ask { .. }) = &result {
                    match inner.verify_own(&wanted).await {
                        Ok(true) => result = Ok(()),
                        Ok(false) => looked = true,
                        Err(error) => result = Err(error),
                    }
                }
                let done_with = Done {
                    wanted,
                    result,
                    looked,
                };
                // The worker may be gone.
                let _ = done.send(done_with).await;
            });
        }
    }

    fn over(&mut self, done: Done) -> BTreeSet<PartitionId> {
        let Done {
            wanted,
            result,
            looked,
        } = done;
        let Wanted {
            partition, segment, ..
        } = wanted;
        self.running.remove(&segment);
        if looked {
            self.looked_at.insert(segment);
        }
        let metrics = &self.repair.inner.metrics;
        match result {
            Ok(()) => {
                tracing::info!(%partition, %segment, bytes = wanted.bytes, "segment copied");
                metrics.copied.inc();
                self.failed.remove(&segment);
                self.looked_at.remove(&segment);
                self.synced.entry(partition).or_default().insert(segment);
            }
            Err(error) => {
                tracing::info!(%partition, %segment, %error, "segment not copied");
                metrics.failed.inc();
                let failed = self.failed.entry(segment).or_insert(Failed {
                    times: 0,
                    again: Duration::ZERO,
                });
                let doubled = BACKOFF_MIN * 2_u32.saturating_pow(failed.times.min(16));
                failed.times = failed.times.saturating_add(1);
                failed.again = self.repair.inner.env.now() + doubled.min(BACKOFF_MAX);
            }
        }
        BTreeSet::from([partition])
    }
}

/// Waits for what is there; for ever if nothing is.
async fn when<F: Future + Unpin>(there: &mut Option<F>) -> F::Output {
    match there {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
