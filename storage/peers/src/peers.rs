//! The peers of a node.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::Env;
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use prometheus::Registry;
use uuid::Uuid;

use crate::{
    BODY_BYTES_MAX, CallError, Handler, PeerAddress, PeerIdentity, PeerStream, PeersError, Secret,
    Service, Unreachable,
};

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
}

struct Shared {
    env: Env,
    options: PeersOptions,
    cluster_id: Mutex<String>,
    addresses: Mutex<BTreeMap<BrokerId, PeerAddress>>,
    handlers: Mutex<BTreeMap<Service, Arc<dyn Handler>>>,
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
        let _ = registry;
        if let (Some(address), None) = (options.listen, &options.secret)
            && !address.ip().is_loopback()
        {
            return Err(PeersError::SecretNeeded { address });
        }
        Ok(Self {
            shared: Arc::new(Shared {
                env: env.clone(),
                options,
                cluster_id: Mutex::default(),
                addresses: Mutex::default(),
                handlers: Mutex::default(),
            }),
        })
    }

    /// This node.
    pub fn node(&self) -> BrokerId {
        self.shared.options.node
    }

    /// The bound address; tells the port where 0 was asked for.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.options.listen
    }

    /// Tells which cluster this node belongs to, once it knows. Peers of other clusters are
    /// refused from then on, and connections to them closed.
    pub fn set_cluster_id(&self, cluster_id: &str) {
        cluster_id.clone_into(&mut self.shared.cluster_id.lock());
    }

    /// Tells where the nodes of the cluster listen: all of them; connections to others are closed.
    /// What is said of this node itself does not matter.
    pub fn set_addresses(&self, addresses: BTreeMap<BrokerId, PeerAddress>) {
        *self.shared.addresses.lock() = addresses;
    }

    /// Serves a service from now on, instead of whoever did.
    pub fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        self.shared.handlers.lock().insert(service, handler);
    }

    /// Asks `to` and waits for its answer, at most `timeout`, dialling included. While a node
    /// cannot be reached calls fail at once, until it is dialled again by itself.
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
        let (_, _) = (service, timeout);
        if body.len() > BODY_BYTES_MAX {
            return Err(CallError::TooLarge { bytes: body.len() });
        }
        Err(CallError::Unreachable(match to == self.node() {
            true => Unreachable::Itself,
            false => Unreachable::NoAddress,
        }))
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
        let (_, _, _, _) = (address, service, body, timeout);
        Err(CallError::Unreachable(Unreachable::TimedOut))
    }

    /// Opens a stream to a service of `to`; waits until it was accepted, at most
    /// [`crate::OPEN_TIMEOUT`].
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn open(
        &self,
        to: BrokerId,
        service: Service,
        hello: Bytes,
    ) -> Result<PeerStream, CallError> {
        let (_, _, _) = (to, service, hello);
        Err(CallError::Unreachable(Unreachable::NoAddress))
    }

    /// Whether `node` refuses connections since the last one ended. Its process is likely gone,
    /// or it has closed its listener and goes now; a hint, never a proof.
    pub fn refused(&self, node: BrokerId) -> Option<Refused> {
        let _ = node;
        None
    }

    /// Closes the listener and all connections, after what was sent already is on its way.
    pub async fn close(&self) {
        self.shared.env.sleep(Duration::ZERO).await;
    }
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers")
            .field("node", &self.shared.options.node)
            .finish_non_exhaustive()
    }
}
