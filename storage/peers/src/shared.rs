//! What all tasks of the peers share: who is where, the ways there, and the connections.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstem_env::{Env, Stream};
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    CallError, Lane, PeerAddress, PeersOptions, Refused, Unreachable,
    admission::{Admission, Admissions},
    connection::{Connection, Ended, Made, Server, Side},
    handshake::{Identity, Local, Remote},
    link::Link,
    metrics::Metrics,
};

/// A connection and its place.
pub(crate) struct Admitted(pub(crate) Arc<Connection>, Admission);

/// What all tasks of the peers have.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) options: PeersOptions,
    pub(crate) admissions: Arc<Admissions>,
    pub(crate) metrics: Metrics,
    /// Cancelled when the peers close.
    pub(crate) stop: CancellationToken,
    pub(crate) server: Arc<Server>,
    pub(crate) tasks: TaskTracker,
    addresses: Mutex<BTreeMap<BrokerId, PeerAddress>>,
    links: Mutex<BTreeMap<(BrokerId, Lane), Arc<Link>>>,
    pub(crate) refused: Mutex<BTreeMap<BrokerId, Refused>>,
    pub(crate) changes: watch::Sender<u64>,
    last_id: AtomicU64,
    warned_at: Mutex<Option<Duration>>,
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new(env: &Env, options: PeersOptions, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            options,
            admissions: Arc::default(),
            metrics,
            stop: CancellationToken::new(),
            server: Server::new(env),
            tasks: TaskTracker::new(),
            addresses: Mutex::default(),
            links: Mutex::default(),
            refused: Mutex::default(),
            changes: watch::Sender::new(0),
            last_id: AtomicU64::new(0),
            warned_at: Mutex::default(),
        })
    }

    pub(crate) fn spawn(
        &self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.env.spawn(name, self.tasks.track_future(work));
    }

    /// An id for a connection, higher than all before.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Fresh randomness.
    pub(crate) fn nonce(&self) -> [u8; 32] {
        let mut nonce = [0; 32];
        self.env.random.fill(&mut nonce);
        nonce
    }

    /// `pause` and up to a quarter.
    pub(crate) fn with_jitter(&self, pause: Duration) -> Duration {
        pause + pause.mul_f64((self.env.random_u64() % 256) as f64 / 1024.0)
    }

    /// Whether the last warning is long enough ago.
    pub(crate) fn may_warn(&self, interval: Duration) -> bool {
        let now = self.env.now();
        let mut warned_at = self.warned_at.lock();
        let may = warned_at.is_none_or(|at| now.saturating_sub(at) >= interval);
        if may {
            *warned_at = Some(now);
        }
        may
    }

    /// This side of a handshake.
    pub(crate) fn local(&self) -> Local {
        let identity = Identity {
            node: self.options.node,
            directory_id: self.options.directory_id,
            cluster_id: self.admissions.cluster_id(),
        };
        Local::new(identity, self.options.secret.clone())
    }

    pub(crate) fn admitted(
        &self,
        remote: Remote,
        admission: Admission,
        address: SocketAddr,
        side: Side,
    ) -> Admitted {
        let metrics = self.metrics.connection(remote.lane, side.name());
        let connection = Connection::new(Made {
            id: admission.id(),
            env: self.env.clone(),
            remote,
            address,
            side,
            metrics,
            closing: admission.closing.clone(),
        });
        Admitted(connection, admission)
    }

    /// Runs a connection to its end.
    pub(crate) async fn run_connection(&self, made: Admitted, stream: Box<dyn Stream>) {
        let Admitted(connection, admission) = made;
        let (lane, side) = (connection.lane.name(), connection.side.name());
        let id = connection.id;
        tracing::debug!(peer = %connection.identity, lane, side, id, "connected");
        if self.stop.is_cancelled() {
            connection.close();
        }
        let server = Arc::clone(&self.server);
        let ended = Arc::clone(&connection).run(stream, server).await;
        // Before anybody dials again.
        drop(admission);
        self.metrics.closed(ended.name());
        let peer = &connection.identity;
        match &ended {
            Ended::Here | Ended::Eof => tracing::debug!(%peer, id, "disconnected"),
            Ended::Io(error) => tracing::debug!(%peer, id, %error, "disconnected"),
            Ended::Silent => tracing::warn!(%peer, lane, side, "a peer is silent: disconnected"),
            Ended::There(refusal) if refusal.code == 0 => {
                tracing::debug!(%peer, id, "disconnected by the other side");
            }
            Ended::There(refusal) => {
                let text = refusal.text.escape_debug();
                tracing::warn!(%peer, lane, side, %text, "disconnected by the other side");
            }
            Ended::Violation(text) => {
                tracing::warn!(%peer, lane, side, %text, "a peer broke the protocol: disconnected");
            }
        }
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn set_addresses(self: &Arc<Self>, addresses: BTreeMap<BrokerId, PeerAddress>) {
        let before = std::mem::replace(&mut *self.addresses.lock(), addresses.clone());
        let mut links = self.links.lock();
        links.retain(|(node, _), link| {
            let is_known = addresses.contains_key(node);
            if !is_known {
                link.stop.cancel();
            }
            is_known
        });
        for ((node, _), link) in links.iter() {
            if before.get(node) != addresses.get(node) {
                link.hurry();
            }
        }
        drop(links);
        self.refused
            .lock()
            .retain(|node, _| addresses.contains_key(node));
    }

    pub(crate) fn address(&self, node: BrokerId) -> Option<PeerAddress> {
        self.addresses.lock().get(&node).cloned()
    }

    /// The way to a node, made when it is first asked for.
    pub(crate) fn link(
        self: &Arc<Self>,
        node: BrokerId,
        lane: Lane,
    ) -> Result<Arc<Link>, CallError> {
        if node == self.options.node {
            return Err(CallError::Unreachable(Unreachable::Itself));
        }
        let mut links = self.links.lock();
        if self.stop.is_cancelled() {
            return Err(CallError::Closed);
        }
        if let Some(link) = links.get(&(node, lane)) {
            return Ok(Arc::clone(link));
        }
        if self.address(node).is_none() {
            return Err(CallError::Unreachable(Unreachable::NoAddress));
        }
        let link = Link::new(node, lane, self.stop.child_token());
        links.insert((node, lane), Arc::clone(&link));
        drop(links);
        self.spawn("peer-link", Arc::clone(&link).run(Arc::clone(self)));
        Ok(link)
    }

    /// A node connected to this one: it is worth dialling.
    pub(crate) fn is_back(&self, node: BrokerId) {
        let links = self.links.lock();
        for lane in Lane::ALL {
            if let Some(link) = links.get(&(node, lane)) {
                link.hurry();
            }
        }
    }

    /// A dial succeeded.
    pub(crate) fn reached(&self, node: BrokerId) {
        self.refused.lock().remove(&node);
        self.changes.send_modify(|count| *count += 1);
    }

    /// A dial failed.
    pub(crate) fn not_reached(&self, node: BrokerId, why: &Unreachable) {
        {
            let mut refused = self.refused.lock();
            if *why == Unreachable::Refused {
                let since = self.env.now();
                let entry = refused
                    .entry(node)
                    .or_insert(Refused { since, attempts: 0 });
                entry.attempts += 1;
            } else {
                refused.remove(&node);
            }
        }
        self.changes.send_modify(|count| *count += 1);
    }
}
