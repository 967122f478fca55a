//! The start of a host, and its stop.

use std::{
    collections::HashSet,
    sync::Arc,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mainstem_log::LogEvent;
use mainstem_metadata::{BeginSeal, Image, SegmentState};
use mainstem_record::PartitionId;
use tokio::sync::mpsc;

use super::{Host, spec};
use crate::ReplicationError;

/// How many partitions are opened at once at start.
const OPENERS: usize = 16;
/// How many partitions are looked after at once where all are waited for: most of it is waiting for
/// syncs.
const AT_ONCE: usize = 64;
/// How often a long start says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(3);

/// The partitions that are still to be opened.
struct Opening {
    left: parking_lot::Mutex<std::vec::IntoIter<PartitionId>>,
    opened: AtomicUsize,
}

// === impl Host ===

impl Host {
    /// Opens what this node is to hold, and begins to follow metadata and the log.
    pub(crate) async fn run(
        &self,
        events: mpsc::Receiver<LogEvent>,
    ) -> Result<(), ReplicationError> {
        let image = self.image();
        self.open_all(&image).await?;
        self.inner.is_open.store(true, Ordering::Release);
        self.start_proposing();
        let host = self.clone();
        self.spawn("seals", async move { host.propose_seals().await });
        let host = self.clone();
        self.spawn("images", async move { host.follow_images(image).await });
        let host = self.clone();
        self.spawn("log ends", async move { host.follow_ends().await });
        let host = self.clone();
        self.spawn("replication clock", async move { host.tick().await });
        let host = self.clone();
        self.spawn(
            "log events",
            async move { host.follow_events(events).await },
        );
        Ok(())
    }

    async fn open_all(&self, image: &Arc<Image>) -> Result<(), ReplicationError> {
        let mut known = Vec::new();
        for topic in image.topics_by_id.values() {
            for (index, record) in (0..).zip(&topic.partitions) {
                let index = mainstem_record::PartitionIndex(index);
                let topic = topic.id;
                if spec::is_hosted(record, self.me().broker) {
                    known.push(PartitionId { topic, index });
                }
            }
        }
        known.sort_unstable();
        let kept: HashSet<PartitionId> = known.iter().copied().collect();
        let moved = self.inner.log.remove_unknown(&kept).await?;
        if moved > 0 {
            tracing::warn!(
                moved,
                "moved aside partitions that metadata does not name here"
            );
        }
        let total = known.len();
        let work = Arc::new(Opening {
            left: parking_lot::Mutex::new(known.into_iter()),
            opened: AtomicUsize::new(0),
        });
        let openers: Vec<_> = (0..OPENERS.min(total))
            .map(|_| {
                let (host, work) = (self.clone(), work.clone());
                let open = async move { host.open_some(&work).await };
                self.inner.env.start("open partitions", open)
            })
            .collect();
        let all = async {
            for opener in openers {
                // Dropped only when the runtime ends, and then nobody asks.
                let _ = opener.await;
            }
        };
        let mut all = std::pin::pin!(all);
        loop {
            tokio::select! {
                biased;
                () = &mut all => return Ok(()),
                () = self.inner.env.sleep(PROGRESS_INTERVAL) => {}
            }
            let opened = work.opened.load(Ordering::Relaxed);
            let scanned_bytes = self.inner.log.scanned_bytes();
            tracing::info!(opened, total, scanned_bytes, "opening partitions");
        }
    }

    /// Opens partitions until none is left.
    async fn open_some(&self, work: &Opening) {
        loop {
            let next = work.left.lock().next();
            let Some(id) = next else {
                return;
            };
            if let Err(error) = self.bring_in_line(id).await {
                tracing::debug!(partition = %id, %error, "opened, not in line yet");
                self.look_later(id);
            }
            work.opened.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that only this node can lead is led here, or has failed: what an earlier life
    /// led is sealed first (R5). Says how far it is.
    pub(crate) async fn lead_what_is_ours(&self) {
        let mut changes = self.changes();
        loop {
            let left = self.unsettled();
            if left == 0 {
                return;
            }
            let wait = self.inner.env.timeout(PROGRESS_INTERVAL, changes.changed());
            match wait.await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => tracing::info!(left, "sealing what the last life led"),
            }
        }
    }

    /// Whether everything that this node is to hold is open, or has failed.
    pub(crate) fn is_in_line(&self) -> bool {
        self.inner.is_open.load(Ordering::Acquire)
    }

    fn unsettled(&self) -> usize {
        let image = self.image();
        let me = self.me().broker;
        let mut left = 0;
        for hosted in self.all() {
            let open = image.partition(hosted.id());
            let Some(open) = open.and_then(|record| record.active()) else {
                continue;
            };
            let only_here = open.replicas.iter().all(|broker| *broker == me);
            let is_led = hosted.led_epoch() == Some(open.epoch);
            if only_here && !is_led && self.failure(hosted.id()).is_none() {
                left += 1;
            }
        }
        left
    }

    /// Brings partitions in line with the image, and waits, at most `limit`, until those that this
    /// node is to lead take appends and those that are gone are gone.
    pub(crate) async fn settle(&self, ids: &[PartitionId], limit: Duration) {
        let mut changes = self.changes();
        let settle = async {
            let host = self.clone();
            let all = ids.to_vec();
            let in_line = all.into_iter().map(move |id| {
                let host = host.clone();
                async move {
                    if host.bring_in_line(id).await.is_err() {
                        host.look_later(id);
                    }
                }
            });
            self.all_at_once("settle", in_line).await;
            while !ids.iter().all(|id| self.is_settled(*id)) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        };
        // Who asked goes on with what is there.
        let _ = self.inner.env.timeout(limit, settle).await;
    }

    /// Whether nothing is to be waited for in a partition.
    fn is_settled(&self, id: PartitionId) -> bool {
        let image = self.image();
        let hosted = self.hosted(id);
        let Some(record) = image.partition(id) else {
            return hosted.is_none();
        };
        let open = record.active();
        let open = open
            .filter(|open| open.state == SegmentState::Active && open.leader_member() == self.me());
        let Some(open) = open else {
            return true;
        };
        hosted.is_some_and(|hosted| hosted.led_epoch() == Some(open.epoch))
            || self.failure(id).is_some()
    }

    /// Runs all of `work`, a few at a time; the results are in its order.
    pub(super) async fn all_at_once<T: Send + 'static, F>(
        &self,
        name: &'static str,
        work: impl Iterator<Item = F>,
    ) -> Vec<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let mut results = Vec::new();
        let mut work = work.peekable();
        while work.peek().is_some() {
            let some = work.by_ref().take(AT_ONCE);
            let started: Vec<_> = some.map(|work| self.inner.env.start(name, work)).collect();
            for started in started {
                // Dropped only when the runtime ends, and then nobody asks.
                results.extend(started.await);
            }
        }
        results
    }

    async fn follow_events(&self, mut events: mpsc::Receiver<LogEvent>) {
        while let Some(event) = events.recv().await {
            match event {
                LogEvent::RollWanted {
                    partition,
                    segment,
                    reason,
                } => {
                    tracing::debug!(%partition, ?reason, "rolling");
                    let host = self.clone();
                    self.spawn("roll", async move {
                        // The log asks again at the next append.
                        if let Err(error) = host.roll(partition, segment).await {
                            tracing::debug!(%partition, %error, "not rolled");
                        }
                    });
                }
                LogEvent::PartitionFailed { partition, failure } => {
                    tracing::error!(%partition, %failure, "partition failed");
                    self.mark_failed(partition, failure.to_string());
                    self.resign(partition);
                }
                // The log has written it into its log and counted it; the rest of the segment is
                // served.
                LogEvent::SegmentDamaged { .. } => {}
                LogEvent::ShardFailed { shard, failure } => {
                    tracing::error!(shard, %failure, "I/O shard failed: it acknowledges no more");
                    self.doubt_disk().await;
                }
            }
        }
    }

    /// The log of a partition does not work here: another replica is to lead it.
    fn resign(&self, id: PartitionId) {
        let Some(hosted) = self.hosted(id) else {
            return;
        };
        let seal = {
            let state = hosted.state.lock();
            let replica = state.replica.as_ref();
            let replica = replica.filter(|replica| replica.leader().is_some());
            replica.map(|replica| BeginSeal {
                partition: id,
                segment: replica.segment().id,
                version: replica.segment().version,
            })
        };
        hosted.set_led(None);
        if let Some(seal) = seal {
            self.inner.proposals.begin_seal(seal);
        }
    }

    /// The disk has failed, so what is in the page cache may be less than was acknowledged: that the
    /// process dies proves nothing any more.
    async fn doubt_disk(&self) {
        if let Err(error) = self.inner.life.doubt().await {
            tracing::error!(%error, "the doubt about the disk is not noted");
        }
    }

    /// Ends its tasks, and waits for them, at most `limit`.
    pub(crate) async fn close(&self, limit: Duration) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let ended = self.inner.env.timeout(limit, self.inner.tasks.wait());
        if ended.await.is_err() {
            let left = self.inner.tasks.len();
            tracing::warn!(left, "tasks of replication did not end in time");
        }
    }
}
