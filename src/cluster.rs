//! This node's connections to the others, as configured.

use std::net::SocketAddr;

use mainstem_config::{Config, ProcessRoles};
use mainstem_env::Env;
use mainstem_metadata::{
    ClusterOptions, Identity, Metadata, MetadataError, MetadataOptions, StoreKind,
    transport::PeersTransport,
};
use mainstem_peers::{Peers, PeersError, PeersOptions, Secret};
use mainstem_record::BrokerId;
use prometheus::Registry;

/// The connections, where there are any.
pub(crate) struct Cluster {
    pub(crate) peers: Peers,
    /// Where other nodes are told to reach this one.
    pub(crate) advertise: String,
    /// Where it listens.
    pub(crate) listening: SocketAddr,
}

/// Why a node has no connections to others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("cluster: {0}")]
    Peers(#[from] PeersError),
}

// === impl Cluster ===

impl Cluster {
    /// Listens for other nodes; `None` if the configuration knows of none.
    pub(crate) async fn start(
        env: &Env,
        config: &Config,
        identity: &Identity,
        registry: &Registry,
    ) -> Result<Option<Self>, ClusterError> {
        let Some(listen) = config.cluster.listen_address() else {
            return Ok(None);
        };
        let secret = config.cluster.secret.bytes().map(Secret::new).transpose()?;
        let options = PeersOptions {
            node: BrokerId(config.node_id),
            directory_id: identity.directory_id,
            listen: Some(listen),
            secret,
        };
        let peers = Peers::start(env, options, registry).await?;
        let listening = peers.local_addr().unwrap_or(listen);
        let advertise = config.cluster.advertise.clone();
        Ok(Some(Self {
            peers,
            advertise: advertise.unwrap_or_else(|| listening.to_string()),
            listening,
        }))
    }
}

/// Starts the metadata of a node: alone, or together with others.
pub(crate) async fn start_metadata(
    env: &Env,
    config: &Config,
    identity: &Identity,
    cluster: Option<&Cluster>,
) -> Result<Metadata, MetadataError> {
    let options = MetadataOptions {
        dir: config.data_dir.clone(),
        node_id: identity.node_id,
        store: StoreKind::RocksDb,
    };
    let Some(cluster) = cluster else {
        return Metadata::start(env.clone(), options).await;
    };
    let together = ClusterOptions {
        transport: std::sync::Arc::new(PeersTransport::new(cluster.peers.clone())),
        seeds: config.cluster.seeds.clone(),
        address: cluster.advertise.clone(),
        directory_id: identity.directory_id,
        controller: config.cluster.roles == ProcessRoles::BrokerAndController,
    };
    Metadata::start_in_cluster(env.clone(), options, together).await
}
