//! The side that follows: one session per leader.

pub(super) mod batches;
mod link;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mainstem_env::Env;
use mainstem_log::Moved;
use mainstem_peers::Peers;
use mainstem_record::{Member, PartitionId};
use tokio_util::sync::CancellationToken;

use self::session::Session;
use super::{Replicas, Streams, metrics::Metrics};

/// Whom this node follows, and where.
pub(super) struct Followers<R> {
    pub(super) env: Env,
    pub(super) peers: Peers,
    pub(super) replicas: R,
    pub(super) metrics: Metrics,
    pub(super) streams: Streams,
    /// By leader and its life.
    pub(super) sessions: BTreeMap<Member, Handle>,
    /// Who is followed in a partition.
    pub(super) leaders: BTreeMap<PartitionId, Member>,
}

/// A session, as its owner sees it.
pub(super) struct Handle {
    /// Partitions to look at.
    changed: Arc<Moved>,
    /// How many partitions are followed.
    count: usize,
    stop: CancellationToken,
}

// === impl Followers ===

impl<R: Replicas> Followers<R> {
    /// Something has changed in these partitions: whom to follow, from where on.
    pub(super) fn changed(&mut self, ids: &BTreeSet<PartitionId>) {
        for id in ids {
            let now = self
                .replicas
                .following(*id)
                .map(|following| following.leader);
            let before = self.leaders.get(id).copied();
            if before != now {
                self.leave(*id, before);
                self.join(*id, now);
            }
            if let Some(handle) = now.and_then(|leader| self.sessions.get(&leader)) {
                handle.changed.add(*id);
            }
        }
    }

    fn leave(&mut self, id: PartitionId, leader: Option<Member>) {
        self.leaders.remove(&id);
        let Some(leader) = leader else {
            return;
        };
        if let Some(handle) = self.sessions.get_mut(&leader) {
            handle.changed.add(id);
            handle.count -= 1;
            if handle.count == 0 {
                handle.stop.cancel();
                self.sessions.remove(&leader);
            }
        }
    }

    fn join(&mut self, id: PartitionId, leader: Option<Member>) {
        let Some(leader) = leader else {
            return;
        };
        self.leaders.insert(id, leader);
        if let Some(handle) = self.sessions.get_mut(&leader) {
            handle.count += 1;
            return;
        }
        let handle = self.begin(leader);
        self.sessions.insert(leader, handle);
    }

    fn begin(&self, leader: Member) -> Handle {
        let (changed, stop) = (Arc::new(Moved::default()), CancellationToken::new());
        let session = Session {
            env: self.env.clone(),
            peers: self.peers.clone(),
            replicas: self.replicas.clone(),
            metrics: self.metrics.clone(),
            leader,
            changed: changed.clone(),
        };
        let stopped = stop.clone();
        let work = async move {
            tokio::select! {
                biased;
                () = stopped.cancelled() => {}
                () = session.run() => {}
            }
        };
        self.streams.spawn(&self.env, "replication-follower", work);
        Handle {
            changed,
            count: 1,
            stop,
        }
    }
}
