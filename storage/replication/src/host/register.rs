//! The beginning and the end of this broker's life (R1, R2).

use std::collections::BTreeMap;

use mainstem_config::{Config, ProcessRoles};
use mainstem_env::Env;
use mainstem_metadata::{
    Applied, ApplyError, Command, Endpoint, Life, Metadata, ProposeError, Roles,
};
use mainstem_record::{BrokerId, Member};
use uuid::Uuid;

use crate::ReplicationError;

/// How long to wait before what had no answer is proposed again.
const RETRY: std::time::Duration = std::time::Duration::from_millis(250);

/// What a broker registers with.
pub(crate) struct Registration<'a> {
    pub(crate) env: &'a Env,
    pub(crate) config: &'a Config,
    pub(crate) metadata: &'a Metadata,
    pub(crate) directory_id: Uuid,
    pub(crate) listeners: BTreeMap<String, Endpoint>,
    pub(crate) peer: Option<String>,
}

// === impl Registration ===

impl Registration<'_> {
    /// Begins a new life. What the data directory proves of the last one goes with it, and the new
    /// one is noted before anything is acknowledged in it.
    ///
    /// # Errors
    /// The directory cannot be used, or metadata refuses for good.
    pub(crate) async fn register(self) -> Result<(Member, Life), ReplicationError> {
        let broker = BrokerId(self.config.node_id);
        let life = Life::load(self.env, &self.config.data_dir).await?;
        // Repeated with the same id until it has an answer: it changes nothing twice (R1).
        let request = Uuid::from_bytes(self.env.random_uuid());
        life.prepare(request).await?;
        let incarnation = loop {
            let command = self.command(broker, &life, request);
            match self.metadata.propose(command).await {
                Ok(Applied::Registered { incarnation }) => break incarnation,
                Ok(other) => panic!("metadata answered a registration with {other:?}"),
                // This node's image was behind.
                Err(ProposeError::Apply(ApplyError::StaleIncarnation { .. })) => {
                    self.metadata.barrier().await?;
                }
                Err(error) if error.is_retriable() => {
                    tracing::info!(reason = %error, "waiting to register");
                    self.env.sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        life.begin(incarnation).await?;
        tracing::info!(incarnation = incarnation.0, "registered");
        Ok((Member::new(broker, incarnation), life))
    }

    fn command(&self, broker: BrokerId, life: &Life, request: Uuid) -> Command {
        let image = self.metadata.image();
        let known = image.brokers.get(&broker);
        let claim = life.claim(known);
        Command::RegisterBroker {
            broker,
            directory_id: self.directory_id,
            expected: known.map(|known| known.incarnation),
            listeners: self.listeners.clone(),
            peer: self.peer.clone(),
            roles: Roles {
                broker: true,
                controller: self.config.cluster.roles == ProcessRoles::BrokerAndController,
            },
            intact: claim.intact,
            directory_life: claim.directory_life,
            request,
        }
    }
}
