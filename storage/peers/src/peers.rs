//! The peers of a node.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::{Env, Stream};
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use prometheus::Registry;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use crate::{
    BODY_BYTES_MAX, CallError, HELLO_BYTES_MAX, Handler, Lane, OPEN_TIMEOUT, PeerAddress,
    PeerIdentity, PeerStream, PeersError, Secret, Service, Unreachable,
    admission::{Admission, Admissions},
    connection::{Connection, Ended, Made, Server, Side},
    handshake::{Identity, Local, Remote},
    link::{self, Link},
    listener,
    metrics::Metrics,
};

/// How long [`Peers::close`] waits for handlers and connections to end.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who this node is, for its peers.
#[derive(Debug, Clone)]
pub struct PeersOptions {
    /// Its node id.
    pub node: BrokerId,
    /// The id of its data directory.
    pub directory_id: Uuid,
    /// Where to listen; port 0 takes a free one. Without, this node only dials.
    pub listen: Option<SocketAddr>,
    /// The cluster's secret; needed where any address is none of loopback.
    pub secret: Option<Secret>,
}

/// A node that refuses connections: its machine answers, but nobody listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When the first refusal since the last connection came ([`Env::now`]).
    pub since: Duration,
    /// How many came since.
    pub attempts: u64,
}

/// The connections to and from the other nodes. Cheap to clone; ends with [`Self::close`].
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
    local_addr: Option<SocketAddr>,
}

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
    server: Arc<Server>,
    tasks: TaskTracker,
    addresses: Mutex<BTreeMap<BrokerId, PeerAddress>>,
    links: Mutex<BTreeMap<(BrokerId, Lane), Arc<Link>>>,
    refused: Mutex<BTreeMap<BrokerId, Refused>>,
    changes: watch::Sender<u64>,
    last_id: AtomicU64,
    warned_at: Mutex<Option<Duration>>,
}

// === impl Peers ===

impl Peers {
    /// Listens, if asked to, and dials when there is something to say.
    ///
    /// # Errors
    /// The address cannot be bound, or needs a secret; the metrics are registered already.
    pub async fn start(
        env: &Env,
        options: PeersOptions,
        registry: &Registry,
    ) -> Result<Self, PeersError> {
        let listener = match options.listen {
            Some(address) if options.secret.is_none() && !address.ip().is_loopback() => {
                return Err(PeersError::SecretNeeded { address });
            }
            Some(address) => {
                let failed = |source| PeersError::Listen { address, source };
                let listener = env.net.listen(address).await.map_err(failed)?;
                let local_addr = listener.local_addr().map_err(failed)?;
                Some((listener, local_addr))
            }
            None => None,
        };
        let shared = Arc::new(Shared {
            env: env.clone(),
            options,
            admissions: Arc::default(),
            metrics: Metrics::register(registry)?,
            stop: CancellationToken::new(),
            server: Server::new(env),
            tasks: TaskTracker::new(),
            addresses: Mutex::default(),
            links: Mutex::default(),
            refused: Mutex::default(),
            changes: watch::Sender::new(0),
            last_id: AtomicU64::new(0),
            warned_at: Mutex::default(),
        });
        let local_addr = listener.map(|(listener, local_addr)| {
            shared.spawn("peers", listener::run(Arc::clone(&shared), listener));
            tracing::info!(address = %local_addr, "listening for peers");
            local_addr
        });
        Ok(Self { shared, local_addr })
    }

    /// This node.
    pub fn node(&self) -> BrokerId {
        self.shared.options.node
    }

    /// The bound address; tells the port where 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.local_addr
    }

    /// Tells which cluster this node belongs to, once it knows. Peers of other clusters are
    /// refused from then on, and connections with them closed.
    pub fn set_cluster_id(&self, cluster_id: &str) {
        self.shared.admissions.set_cluster_id(cluster_id);
    }

    /// Tells where the nodes of the cluster listen: all of them; connections to others are closed.
    /// What is said of this node itself does not matter.
    pub fn set_addresses(&self, addresses: BTreeMap<BrokerId, PeerAddress>) {
        self.shared.set_addresses(addresses);
    }

    /// Serves a service from now on, instead of whoever did.
    pub fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        self.shared.server.serve(service, handler);
    }

    /// Asks `to` and waits for its answer, at most `timeout`, dialling included. While a node
    /// cannot be reached calls fail at once; it is dialled again meanwhile.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::is_outcome_unknown`] tells whether it may be executed.
    pub async fn call(
        &self,
        to: BrokerId,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, CallError> {
        let is_sent = AtomicBool::new(false);
        let calling = async {
            bounded(&body, BODY_BYTES_MAX)?;
            let connection = self.connection(to, service).await?;
            connection.call(service, body, &is_sent).await
        };
        let result = self.within(timeout, calling, &is_sent).await;
        self.shared.metrics.called(service.lane(), &result);
        result
    }

    /// Asks whoever listens at `address` over a connection of its own, and tells who it was.
    ///
    /// # Errors
    /// See [`CallError`]. [`crate::HandshakeError::Itself`] when it is this very node.
    pub async fn ask_address(
        &self,
        address: &PeerAddress,
        service: Service,
        body: Bytes,
        timeout: Duration,
    ) -> Result<(PeerIdentity, Bytes), CallError> {
        let is_sent = AtomicBool::new(false);
        let shared = &self.shared;
        let asking = async {
            bounded(&body, BODY_BYTES_MAX)?;
            if shared.stop.is_cancelled() {
                return Err(CallError::Closed);
            }
            let dialled = link::dial(shared, address, service.lane(), None).await;
            let (made, stream) = dialled.map_err(CallError::Unreachable)?;
            let connection = Arc::clone(&made.0);
            let _closed = CloseOnDrop(&connection);
            let running = Arc::clone(shared);
            shared.spawn("peer-asked", async move {
                running.run_connection(made, stream).await;
            });
            let answer = connection.call(service, body, &is_sent).await?;
            Ok((connection.identity.clone(), answer))
        };
        let result = self.within(timeout, asking, &is_sent).await;
        shared.metrics.called(service.lane(), &result);
        result
    }

    /// Opens a stream to a service of `to`; waits until it was accepted, at most
    /// [`OPEN_TIMEOUT`].
    ///
    /// # Errors
    /// See [`CallError`]; `hello` has at most [`HELLO_BYTES_MAX`] bytes.
    pub async fn open(
        &self,
        to: BrokerId,
        service: Service,
        hello: Bytes,
    ) -> Result<PeerStream, CallError> {
        let is_sent = AtomicBool::new(false);
        let opening = async {
            bounded(&hello, HELLO_BYTES_MAX)?;
            let connection = self.connection(to, service).await?;
            connection.open(service, hello, &is_sent).await
        };
        let result = self.within(OPEN_TIMEOUT, opening, &is_sent).await;
        self.shared.metrics.called(service.lane(), &result);
        result
    }

    /// Whether `node` refuses connections since the last one with it ended: its process is likely
    /// gone, or is not listening any more. A hint, never a proof. Only a node that was called or
    /// streamed to is dialled, and so known.
    pub fn refused(&self, node: BrokerId) -> Option<Refused> {
        self.shared.refused.lock().get(&node).copied()
    }

    /// Changes whenever a node was reached, lost or not reached, so that [`Self::refused`] is worth
    /// asking again.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changes.subscribe()
    }

    /// Closes the listener and all connections, after what waits was written; waits for that, and
    /// for handlers, at most [`CLOSE_TIMEOUT`].
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.stop.cancel();
        shared.admissions.close();
        let ended = async {
            shared.tasks.close();
            shared.tasks.wait().await;
            shared.server.tasks.close();
            shared.server.tasks.wait().await;
        };
        if shared.env.timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            tracing::warn!("handlers of peers did not end in time");
        }
        shared.server.abort.cancel();
    }

    async fn connection(
        &self,
        to: BrokerId,
        service: Service,
    ) -> Result<Arc<Connection>, CallError> {
        let link = self.shared.link(to, service.lane())?;
        link.connection().await
    }

    async fn within<T>(
        &self,
        timeout: Duration,
        work: impl Future<Output = Result<T, CallError>>,
        is_sent: &AtomicBool,
    ) -> Result<T, CallError> {
        let result = self.shared.env.timeout(timeout, work).await;
        result.unwrap_or_else(|_| {
            Err(match is_sent.load(Ordering::Relaxed) {
                true => CallError::TimedOut,
                false => CallError::Unreachable(Unreachable::TimedOut),
            })
        })
    }
}

fn bounded(body: &Bytes, bytes_max: usize) -> Result<(), CallError> {
    let bytes = body.len();
    if bytes > bytes_max {
        return Err(CallError::TooLarge { bytes });
    }
    Ok(())
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("node", &self.node())
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// Closes the connection of one question, also when nobody waits for the answer any more.
struct CloseOnDrop<'a>(&'a Connection);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === impl Shared ===

impl Shared {
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

    fn set_addresses(self: &Arc<Self>, addresses: BTreeMap<BrokerId, PeerAddress>) {
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
    fn link(self: &Arc<Self>, node: BrokerId, lane: Lane) -> Result<Arc<Link>, CallError> {
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
