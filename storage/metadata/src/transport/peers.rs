//! The transport over the connections between nodes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_peers::{
    CallError as PeerError, HandshakeError, PeerAddress, PeerIdentity, Peers, Refusal, Service,
    Unreachable,
};
use mainstem_record::BrokerId;

use super::{BODY_BYTES_MAX, CallError, Handler, PeerName, Purpose, Transport};

// What a transport must carry, these connections do.
const _: () = assert!(BODY_BYTES_MAX <= mainstem_peers::BODY_BYTES_MAX);

/// The code of every refusal; what matters is its text.
const REFUSED: u16 = 1;

/// Calls over [`Peers`].
#[derive(Clone, Debug)]
pub struct PeersTransport(Peers);

/// The handler of all services.
struct Serving(Arc<dyn Handler>);

// === impl PeersTransport ===

impl PeersTransport {
    /// The services of the metadata quorum on `peers`.
    pub fn new(peers: Peers) -> Self {
        Self(peers)
    }
}

impl Transport for PeersTransport {
    fn call(
        &self,
        to: BrokerId,
        purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            let called = self.0.call(to, service(purpose), body, limit);
            called.await.map_err(failed)
        })
    }

    fn ask<'a>(
        &'a self,
        address: &'a str,
        purpose: Purpose,
        body: Bytes,
        limit: Duration,
    ) -> BoxFuture<'a, Result<Bytes, CallError>> {
        Box::pin(async move {
            let address = PeerAddress::parse(address)
                .map_err(|error| CallError::Unreachable(error.to_string()))?;
            let asked = self.0.ask_address(&address, service(purpose), body, limit);
            asked.await.map(|(_, answer)| answer).map_err(failed)
        })
    }

    fn serve(&self, handler: Arc<dyn Handler>) {
        let serving = Arc::new(Serving(handler));
        for purpose in [
            Purpose::Vote,
            Purpose::Append,
            Purpose::Snapshot,
            Purpose::Propose,
            Purpose::Join,
        ] {
            self.0.serve(service(purpose), serving.clone());
        }
    }

    fn set_cluster_id(&self, cluster_id: &str) {
        self.0.set_cluster_id(cluster_id);
    }

    fn set_addresses(&self, addresses: BTreeMap<BrokerId, String>) {
        let parsed = addresses.into_iter().filter_map(|(node, address)| {
            match PeerAddress::parse(&address) {
                Ok(address) => Some((node, address)),
                Err(error) => {
                    tracing::warn!(%node, %error, "the address of a node is not usable");
                    None
                }
            }
        });
        self.0.set_addresses(parsed.collect());
    }
}

impl mainstem_peers::Handler for Serving {
    fn call<'a>(
        &'a self,
        from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        let from = PeerName {
            node: from.node,
            directory_id: from.directory_id,
        };
        Box::pin(async move {
            let answer = self.0.call(from, body).await;
            answer.map_err(|text| Refusal {
                code: REFUSED,
                text,
            })
        })
    }
}

fn service(purpose: Purpose) -> Service {
    match purpose {
        Purpose::Vote => Service::RAFT_VOTE,
        Purpose::Append => Service::RAFT_APPEND,
        Purpose::Snapshot => Service::RAFT_SNAPSHOT,
        Purpose::Propose => Service::PROPOSE,
        Purpose::Join => Service::JOIN,
    }
}

fn failed(error: PeerError) -> CallError {
    match error {
        error if error.is_outcome_unknown() => CallError::OutcomeUnknown,
        PeerError::Refused { text, .. } => CallError::Refused(text),
        PeerError::Unreachable(Unreachable::Itself) => CallError::Myself,
        PeerError::Unreachable(Unreachable::Handshake(handshake)) => match handshake {
            HandshakeError::Itself => CallError::Myself,
            // These are a matter of configuration: they do not heal by waiting.
            error @ (HandshakeError::Cluster { .. }
            | HandshakeError::Secret
            | HandshakeError::Version { .. }
            | HandshakeError::OwnNodeId { .. }) => CallError::Never(error.to_string()),
            error => CallError::Unreachable(error.to_string()),
        },
        error => CallError::Unreachable(error.to_string()),
    }
}
