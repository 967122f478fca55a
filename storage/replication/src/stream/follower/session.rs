//! Following one life of one leader: its stream is opened again whenever it ends.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mainstem_env::Env;
use mainstem_log::Moved;
use mainstem_peers::{CallError, PeerStream, Peers, Service, StreamEnd};
use mainstem_record::{Member, PartitionId};

use super::link::Link;
use crate::{
    stream::{BACKOFF_MAX, BACKOFF_MIN, CREDIT_BYTES, Replicas, leader, metrics::Metrics},
    wire::FollowerHello,
};

/// Follows until it is dropped.
pub(super) struct Session<R> {
    pub(super) env: Env,
    pub(super) peers: Peers,
    pub(super) replicas: R,
    pub(super) metrics: Metrics,
    pub(super) leader: Member,
    /// Partitions to look at.
    pub(super) changed: Arc<Moved>,
}

/// Counts a stream while it is open.
struct Counted<'a>(&'a Metrics);

// === impl Session ===

impl<R: Replicas> Session<R> {
    pub(super) async fn run(self) {
        // What is followed over any of the streams.
        let mut ids: BTreeSet<PartitionId> = BTreeSet::new();
        let mut backoff = BACKOFF_MIN;
        loop {
            ids.extend(self.changed.take());
            match self.open().await {
                Ok(stream) => {
                    let began = self.env.now();
                    let end = self.follow(stream, &mut ids).await;
                    if self.env.now() >= began + BACKOFF_MAX {
                        backoff = BACKOFF_MIN;
                    }
                    self.tell(&end);
                }
                Err(error) => tracing::debug!(leader = %self.leader, %error, "no stream"),
            }
            self.env.sleep(jittered(backoff, &self.env)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn open(&self) -> Result<PeerStream, CallError> {
        let hello = FollowerHello {
            follower: self.replicas.me(),
            leader: self.leader,
            credit: CREDIT_BYTES,
        };
        let to = self.leader.broker;
        let opening = self.peers.open(to, Service::REPLICATION, hello.encode());
        opening.await
    }

    async fn follow(&self, stream: PeerStream, ids: &mut BTreeSet<PartitionId>) -> String {
        self.metrics.following.inc();
        let _counted = Counted(&self.metrics);
        tracing::debug!(leader = %self.leader, "a replication stream is open");
        let (sender, mut receiver) = stream.split();
        let mut link = Link::new(self, &sender);
        let failed = link.run(&mut receiver, ids).await;
        match (failed, receiver.end()) {
            (Some(why), _) => why,
            (None, Some(StreamEnd::Refused(refusal))) if refusal.code == leader::NOT_THIS_LIFE => {
                // Its next life is in an image soon.
                "the leader has another life".to_owned()
            }
            (None, end) => end.map_or_else(|| "it has ended".to_owned(), |end| end.to_string()),
        }
    }

    fn tell(&self, why: &str) {
        tracing::info!(leader = %self.leader, why, "a replication stream has ended");
    }
}

/// A pause of that length, less up to a quarter: so that not all come back at once.
fn jittered(pause: Duration, env: &Env) -> Duration {
    let quarter = pause / 4;
    let part = u32::try_from(env.random_u64() % 1024).unwrap_or_default();
    pause - quarter * part / 1024
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.following.dec();
    }
}
