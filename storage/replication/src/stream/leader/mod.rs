//! The side that leads: serves the streams of followers.

mod inbox;
mod sender;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use mainstem_log::Moved;
use mainstem_peers::{Handler, PeerIdentity, PeerStream, Refusal};
use mainstem_record::{BrokerId, Member, PartitionId};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::{inbox::Inbox, sender::Sender};
use super::{Replicas, StreamOptions, metrics::Metrics};
use crate::{throttle::Throttle, wire::FollowerHello};

/// The hello names another life of this node.
pub(super) const NOT_THIS_LIFE: u16 = 1;
/// The hello names another node than that of the connection.
const NOT_YOU: u16 = 2;
/// What was said makes no sense.
const MALFORMED: u16 = 3;

/// Serves followers.
pub(super) struct Leaders<R> {
    env: Env,
    replicas: R,
    metrics: Metrics,
    throttle: Arc<Throttle>,
    open: Mutex<Open>,
}

/// The streams that are open: one per follower, the newest.
#[derive(Default)]
struct Open {
    next_number: u64,
    streams: BTreeMap<BrokerId, OpenStream>,
}

struct OpenStream {
    number: u64,
    /// Partitions in which something has changed here.
    changed: Arc<Moved>,
    /// The follower has opened another one.
    replaced: CancellationToken,
}

/// Tells that a stream is over.
struct Registered<'a, R> {
    leaders: &'a Leaders<R>,
    follower: BrokerId,
    number: u64,
}

// === impl Leaders ===

impl<R: Replicas> Leaders<R> {
    pub(super) fn new(env: &Env, replicas: &R, options: StreamOptions, metrics: &Metrics) -> Self {
        Self {
            env: env.clone(),
            replicas: replicas.clone(),
            metrics: metrics.clone(),
            throttle: Arc::new(Throttle::new(env, options.catch_up_rate)),
            open: Mutex::default(),
        }
    }

    /// Something has changed in these partitions here.
    pub(super) fn changed(&self, ids: &BTreeSet<PartitionId>) {
        for stream in self.open.lock().streams.values() {
            stream.changed.add_all(ids.iter().copied());
        }
    }

    async fn serve(&self, from: &PeerIdentity, hello: Bytes, stream: PeerStream) {
        let hello = match self.admit(from, hello) {
            Ok(hello) => hello,
            Err(refusal) => return stream.refuse(refusal),
        };
        let follower = hello.follower;
        let (changed, replaced) = (Arc::new(Moved::default()), CancellationToken::new());
        let _registered = self.register(follower, changed.clone(), replaced.clone());
        tracing::debug!(%follower, "a follower has opened its stream");
        let inbox = Inbox::new(&hello);
        let (sender, mut receiver) = stream.split();
        let mut sending = Sender::new(self, follower, &inbox, changed);
        let ended = tokio::select! {
            biased;
            () = replaced.cancelled() => Ok(()),
            ended = inbox.receive(&self.replicas, &mut receiver) => ended,
            ended = sending.run(&sender) => Err(ended.to_string()),
        };
        match ended {
            Ok(()) => tracing::debug!(%follower, "the stream of a follower has ended"),
            Err(why) => tracing::warn!(%follower, why, "the stream of a follower has ended"),
        }
    }

    fn admit(&self, from: &PeerIdentity, hello: Bytes) -> Result<FollowerHello, Refusal> {
        let refusal = |code, text: String| Refusal { code, text };
        let hello =
            FollowerHello::decode(hello).map_err(|error| refusal(MALFORMED, error.to_string()))?;
        if hello.follower.broker != from.node {
            return Err(refusal(NOT_YOU, format!("node {} is not it", from.node)));
        }
        if hello.leader != self.replicas.me() {
            return Err(refusal(
                NOT_THIS_LIFE,
                format!("this is {}", self.replicas.me()),
            ));
        }
        if hello.credit == 0 {
            return Err(refusal(MALFORMED, "no credit".to_owned()));
        }
        Ok(hello)
    }

    fn register(
        &self,
        follower: Member,
        changed: Arc<Moved>,
        replaced: CancellationToken,
    ) -> Registered<'_, R> {
        let mut open = self.open.lock();
        let number = open.next_number;
        open.next_number += 1;
        let stream = OpenStream {
            number,
            changed,
            replaced,
        };
        // One that the follower has given up may not be known to be over yet.
        if let Some(older) = open.streams.insert(follower.broker, stream) {
            older.replaced.cancel();
        }
        self.metrics.leading.set(open.streams.len() as i64);
        Registered {
            leaders: self,
            follower: follower.broker,
            number,
        }
    }
}

impl<R: Replicas> Handler for Leaders<R> {
    fn call<'a>(&'a self, _: &'a PeerIdentity, _: Bytes) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        let text = "this service has streams only".to_owned();
        Box::pin(std::future::ready(Err(Refusal {
            code: MALFORMED,
            text,
        })))
    }

    fn stream<'a>(
        &'a self,
        from: &'a PeerIdentity,
        hello: Bytes,
        stream: PeerStream,
    ) -> BoxFuture<'a, ()> {
        Box::pin(self.serve(from, hello, stream))
    }
}

impl<R> Drop for Registered<'_, R> {
    fn drop(&mut self) {
        let mut open = self.leaders.open.lock();
        let stream = open.streams.get(&self.follower);
        if stream.is_some_and(|stream| stream.number == self.number) {
            open.streams.remove(&self.follower);
        }
        self.leaders.metrics.leading.set(open.streams.len() as i64);
    }
}
