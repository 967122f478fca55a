//! Replication streams: batches from leaders to followers, acks back.
//!
//! ```text
//!   follower broker                                   leader broker
//!   Followers ── one Session per leader ──────────── one stream ──────────── Leaders
//!     Follow, Unfollow, Want, Ack      ──────────────────>   inbox -> Replicas::follow, acked
//!     Replicas::append, told           <──────────────────   Sender: Append, Exposed, Refused
//! ```
//!
//! A stream carries all segments that one broker leads and the other follows. Nothing is polled:
//! both sides are woken by what has moved in their logs ([`Moved`]) and by images that changed
//! something here.
//!
//! # Rules
//! - R9: batches are appended only where the log ends, in the segment and under the epoch that are
//!   followed; the log itself decides, in order with its role. What does not fit is followed anew
//!   from the log end, once nothing of it is under way any more.
//! - R10: an ack is sent for the life that the stream was opened with, and counted for it.
//! - R11: what is acked is asked of [`Replicas::written`] after the log has told that it moved, so it
//!   is written, with `flush=always` synced, and nothing where this node is fenced.
//! - Bytes: a leader sends Append frames within the credit of the follower, which gives back what its
//!   log has written.
//! - The tail comes from memory. Who is behind it is read for from disk, one read at a time per
//!   stream, and those that are not in sync no faster than [`StreamOptions::catch_up_rate`].
//!
//! The bodies are in [`crate::wire`]. What a segment's leader and replicas may do is decided by
//! [`crate::machine`], behind [`Replicas`].

mod follower;
mod hosted;
mod leader;
mod metrics;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_log::{AppendTicket, Moved, Partition};
use mainstem_peers::{Peers, Service};
use mainstem_record::{LeaderEpoch, Member, Offset, PartitionId, SegmentId};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{follower::Followers, leader::Leaders, metrics::Metrics};
use crate::{
    host::{Following, NotAppended},
    machine::leader::FollowRefusal,
};

/// Bytes of Append frames that a follower has under way from one leader.
const CREDIT_BYTES: u32 = 8 << 20;
/// How long a high watermark waits for batches to go with.
const EXPOSED_DELAY: Duration = Duration::from_millis(10);
/// When a segment is followed again that was refused, or that the log did not take: an image may have
/// changed nothing here.
const REFUSED_RETRY: Duration = Duration::from_secs(1);
/// The same where the log is not in the role that the image names: it is about to be.
const ROLE_RETRY: Duration = Duration::from_millis(50);
/// The pause before a stream is opened again: the first, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// What a partition remembers where a segment begins is at most so long.
const MEMORY_BYTES_MAX: usize = 96 << 20;

/// Whoever hosts the partitions of this node. All but `append` return at once.
pub(crate) trait Replicas: Clone + Send + Sync + 'static {
    /// This broker, in this life.
    fn me(&self) -> Member;
    /// Which partitions have changed: opened, closed, another segment, role or leader.
    fn watch(&self) -> Arc<Moved>;
    /// The log of a partition that is open here.
    fn log(&self, id: PartitionId) -> Option<Partition>;

    /// Whom this node follows in a partition.
    fn following(&self, id: PartitionId) -> Option<Following>;
    /// Appends what the leader has sent (R9); waits only for room.
    fn append(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> impl Future<Output = Result<AppendTicket, NotAppended>> + Send;
    /// What may be acked now (R11, R22).
    fn written(&self, id: PartitionId, segment: SegmentId) -> Option<Offset>;
    /// The leader has told its high watermark.
    fn told(&self, id: PartitionId, segment: SegmentId, hw: Offset);

    /// Follow, at the leader: the log to read from, and the high watermark.
    fn follow(
        &self,
        id: PartitionId,
        segment: (SegmentId, LeaderEpoch),
        follower: Member,
        leo: Offset,
    ) -> Result<(Partition, Offset), FollowRefusal>;
    /// Ack, at the leader.
    fn acked(
        &self,
        id: PartitionId,
        segment: SegmentId,
        follower: Member,
        leo: Offset,
    ) -> Result<Offset, FollowRefusal>;
    /// Whether this node leads the segment.
    fn leads(&self, id: PartitionId, segment: SegmentId) -> bool;
    /// Whether that follower is in the confirmed ISR of a segment that is led here.
    fn is_in_sync(&self, id: PartitionId, segment: SegmentId, follower: Member) -> bool;
}

/// How streams behave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOptions {
    /// Bytes per second that this node reads from disk for followers that are not in sync, all
    /// together.
    pub(crate) catch_up_rate: u64,
}

/// The streams of a node, both ways. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Streams {
    stop: CancellationToken,
    tasks: TaskTracker,
}

// === impl Streams ===

impl Streams {
    /// Serves followers from now on, and follows whom `replicas` says.
    ///
    /// # Errors
    /// The metrics are registered already.
    pub(crate) fn start<R: Replicas>(
        env: &Env,
        peers: &Peers,
        replicas: &R,
        options: StreamOptions,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Metrics::register(registry)?;
        let streams = Self {
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let changed = replicas.watch();
        let leaders = Arc::new(Leaders::new(env, replicas, options, &metrics));
        peers.serve(Service::REPLICATION, leaders.clone());
        let mut followers = Followers {
            env: env.clone(),
            peers: peers.clone(),
            replicas: replicas.clone(),
            metrics,
            streams: streams.clone(),
            sessions: std::collections::BTreeMap::new(),
            leaders: std::collections::BTreeMap::new(),
        };
        streams.spawn(env, "replication", async move {
            loop {
                let ids = changed.next().await;
                leaders.changed(&ids);
                followers.changed(&ids);
            }
        });
        Ok(streams)
    }

    /// Ends all streams.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn spawn(
        &self,
        env: &Env,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = self.stop.clone();
        let until_stop = async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => {}
            }
        };
        env.spawn(name, self.tasks.track_future(until_stop));
    }
}

/// Waits for what is there; for ever if nothing is.
async fn when<F: Future + Unpin>(there: &mut Option<F>) -> F::Output {
    match there {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// Waits until `deadline`; for ever without one.
async fn until(env: &Env, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => env.sleep(deadline.saturating_sub(env.now())).await,
        None => std::future::pending().await,
    }
}
