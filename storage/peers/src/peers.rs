//! The peers of a node.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_record::BrokerId;
use prometheus::Registry;
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    BODY_BYTES_MAX, CallError, HELLO_BYTES_MAX, Handler, OPEN_TIMEOUT, PeerAddress, PeerIdentity,
    PeerStream, PeersError, Secret, Service, Unreachable, connection::Connection, link, listener,
    metrics::Metrics, shared::Shared,
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
        let shared = Shared::new(env, options, Metrics::register(registry)?);
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
