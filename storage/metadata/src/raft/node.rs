//! One Raft node: starting, proposing, closing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use mainstem_env::{BoxFuture, Env};
use openraft::{
    BasicNode, Config, Raft, ServerState, SnapshotPolicy,
    error::{ClientWriteError, Fatal, RaftError},
};

use super::{
    NodeId, Published,
    log_store::LogStore,
    network::Alone,
    runtime::EnvRaft,
    state_machine::{State, StateMachine},
};
use crate::{
    command::{Applied, Command, Envelope},
    error::{MetadataError, ProposeError, StoreError, Unavailability},
    log::MetadataLog,
    service::MetadataHealth,
    store::{Store, on_store},
};

/// Entries after which the image is stored and the log trimmed.
const SNAPSHOT_ENTRIES: u64 = 5_000;
/// Entries that a snapshot covers and that are kept all the same, for followers a little behind.
const ENTRIES_KEPT: u64 = 1_000;
/// Raft's timers. A lone voter does not wait for them: it is told to elect itself.
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS_MIN: u64 = 300;
const ELECTION_MS_MAX: u64 = 600;
/// How long a start waits for a leader. A lone voter needs two synced writes.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(30);

/// The metadata log of this node.
pub(crate) struct RaftLog {
    env: Env,
    raft: EnvRaft,
    store: Arc<dyn Store>,
    committed: Arc<AtomicU64>,
    closing: AtomicBool,
}

// === impl RaftLog ===

impl RaftLog {
    /// Starts the only voter on a checked store; makes the quorum if there is none yet. Returns once
    /// it leads.
    pub(crate) async fn start(
        env: Env,
        node: NodeId,
        store: Arc<dyn Store>,
        published: Arc<Published>,
    ) -> Result<Self, MetadataError> {
        let committed = Arc::new(AtomicU64::new(0));
        let state = on_store(&env, &store, State::load)
            .await
            .map_err(raft_failed)?;
        let machine = StateMachine::new(env.clone(), Arc::clone(&store), published, state);
        let log = LogStore::new(env.clone(), Arc::clone(&store), Arc::clone(&committed));
        let config = Arc::new(config()?);
        let raft = EnvRaft::start(&env, Raft::new(node, config, Alone, log, machine))
            .await
            .map_err(raft_failed)?;
        let this = Self {
            env,
            raft,
            store,
            committed,
            closing: AtomicBool::new(false),
        };
        if let Err(error) = Box::pin(this.lead(node)).await {
            // The error matters more than how the stop goes.
            let _ = this.close().await;
            return Err(error);
        }
        Ok(this)
    }

    async fn lead(&self, node: NodeId) -> Result<(), MetadataError> {
        let initialized = self.raft.call(|raft| raft.is_initialized()).await;
        if !initialized.map_err(raft_failed)? {
            let members = BTreeMap::from([(node, BasicNode::default())]);
            let made = self.raft.call(|raft| raft.initialize(members)).await;
            made.map_err(raft_failed)?;
        }
        let elected = self.raft.call(async |raft| raft.trigger().elect().await);
        elected.await.map_err(raft_failed)?;
        let mut metrics = self.raft.metrics();
        let leads = metrics.wait_for(|metrics| {
            metrics.state == ServerState::Leader || metrics.running_state.is_err()
        });
        let running = match self.env.timeout(LEADER_WAIT_MAX, leads).await {
            Err(_) => return Err(MetadataError::NoLeader(LEADER_WAIT_MAX)),
            Ok(Err(closed)) => return Err(raft_failed(closed)),
            Ok(Ok(metrics)) => metrics.running_state.clone(),
        };
        running.map_err(raft_failed)
    }

    async fn write(&self, command: Command) -> Result<Applied, ProposeError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(ProposeError::Unavailable(Unavailability::Closing));
        }
        let envelope = Envelope::new(command);
        match self.raft.call(|raft| raft.client_write(envelope)).await {
            // Raft's own entries are never proposed here, so a command always has an outcome.
            Ok(response) => response
                .data
                .0
                .unwrap_or(Ok(Applied::Barrier))
                .map_err(Into::into),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id;
                Err(ProposeError::Unavailable(Unavailability::NotLeader {
                    leader,
                }))
            }
            Err(RaftError::Fatal(Fatal::Stopped)) => {
                Err(ProposeError::Unavailable(Unavailability::Closing))
            }
            Err(error) => {
                tracing::error!(%error, "metadata command failed");
                Err(ProposeError::Fatal)
            }
        }
    }

    #[cfg(test)]
    pub(super) fn raft(&self) -> &EnvRaft {
        &self.raft
    }
}

impl MetadataLog for RaftLog {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(self.write(command))
    }

    fn health(&self) -> MetadataHealth {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let running = metrics.running_state.is_ok() && !self.closing.load(Ordering::Acquire);
        MetadataHealth {
            leader: running && metrics.state == ServerState::Leader,
            applied,
            committed: self.committed.load(Ordering::Relaxed).max(applied),
            term: metrics.current_term,
            failed: matches!(&metrics.running_state, Err(error) if *error != Fatal::Stopped),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), MetadataError>> {
        Box::pin(async {
            self.closing.store(true, Ordering::Release);
            let stopped = self.raft.call(|raft| raft.shutdown()).await;
            stopped.map_err(raft_failed)?;
            on_store(&self.env, &self.store, |store| store.close())
                .await
                .map_err(|error| match error {
                    StoreError::ShuttingDown => MetadataError::ShuttingDown,
                    error => raft_failed(error),
                })
        })
    }
}

fn config() -> Result<Config, MetadataError> {
    let config = Config {
        cluster_name: "mainstem".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS_MIN,
        election_timeout_max: ELECTION_MS_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    };
    config.validate().map_err(raft_failed)
}

fn raft_failed(error: impl std::fmt::Display) -> MetadataError {
    MetadataError::Raft(error.to_string())
}
