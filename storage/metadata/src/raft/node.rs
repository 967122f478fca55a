//! One Raft node: starting, proposing here or through the leader, reading, closing.

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
    Config, Raft, ServerState, SnapshotPolicy,
    error::{ClientWriteError, Fatal, InitializeError, RaftError},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    Metrics, NodeId, Published, QuorumNode,
    election::{Election, LEASE_MS, RAFT_LEASE_MS},
    log_store::LogStore,
    network::{LinkError, Links, SNAPSHOT_CHUNK_MS, broker},
    runtime::EnvRaft,
    state_machine::{State, StateMachine},
    wire::Kind,
};
use crate::{
    command::{Applied, ApplyError, Command, Envelope},
    error::{MetadataError, ProposeError, StoreError, Unavailability},
    log::MetadataLog,
    quorum::{Leadership, QuorumStatus},
    service::MetadataHealth,
    store::{Store, on_store},
    transport::CallError,
};

/// Entries after which the image is stored and the log trimmed.
const SNAPSHOT_ENTRIES: u64 = 5_000;
/// Entries that a snapshot covers and that are kept all the same, for followers a little behind.
const ENTRIES_KEPT: u64 = 1_000;
/// Bytes of one chunk of a snapshot.
const SNAPSHOT_CHUNK_BYTES: u64 = 1024 * 1024;
/// How long the start of a quorum of one waits until it leads: it needs two synced writes.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a proposal may take from the first attempt on, where there are other voters.
pub(super) const PROPOSE_MAX: Duration = Duration::from_secs(5);
/// How long a proposal that nobody took is tried again: an election takes less.
const LEADERLESS_MAX: Duration = Duration::from_secs(2);
/// The pause before it is tried again, unless a leader appears.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// A leader that no majority has answered for so long takes no proposals.
pub(super) const QUORUM_SILENCE_MS_MAX: u64 = 2 * LEASE_MS;
/// How long a node has to answer an append, or a leader's question whether it still leads: there and
/// back, and two syncs. While one is not answered, no other goes to that node.
const APPEND_MS_MAX: u64 = 1000;
/// Commands are bounded, so that an entry always fits into a body.
const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a Raft node is made of.
pub(crate) struct RaftOptions {
    pub(crate) env: Env,
    pub(crate) node: NodeId,
    /// A checked store.
    pub(crate) store: Arc<dyn Store>,
    pub(crate) published: Arc<Published>,
    pub(crate) links: Links,
    /// This node as the others are to know it.
    pub(crate) me: QuorumNode,
    /// Voters that the quorum grows to by itself.
    pub(crate) voters_wanted: usize,
}

/// What a Raft node does when its store is blank.
#[derive(Debug)]
pub(crate) enum Begin {
    /// It makes a quorum of one.
    Alone,
    /// It makes a quorum of these voters, all of which have promised to take part.
    Found(BTreeMap<NodeId, QuorumNode>),
    /// It waits until a leader sends it the log.
    Wait,
}

/// The metadata log of this node.
pub(crate) struct RaftLog {
    pub(super) env: Env,
    pub(super) node: NodeId,
    pub(super) raft: EnvRaft,
    pub(super) store: Arc<dyn Store>,
    pub(super) log: LogStore,
    pub(super) links: Links,
    pub(super) me: QuorumNode,
    pub(super) voters_wanted: usize,
    pub(super) election: Arc<Mutex<Election>>,
    /// Where nodes are that have moved and cannot tell the quorum, by their seed addresses.
    pub(super) found_at: Mutex<BTreeMap<NodeId, String>>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) closing: AtomicBool,
    committed: Arc<AtomicU64>,
}

/// What a leader answers to a forwarded proposal.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Proposed {
    /// Applied as this entry, with this outcome.
    Applied(u64, Result<Applied, ApplyError>),
    /// Not appended: this node does not lead, and knows that one does.
    NotLeader(Option<NodeId>),
    /// It may or may not come to pass.
    OutcomeUnknown,
    /// The log of this node has failed; nobody knows.
    Fatal,
}

/// Where a proposal goes.
enum Route {
    Here,
    To(NodeId),
    Nowhere,
}

// === impl RaftLog ===

impl RaftLog {
    /// Starts a Raft node on a checked store. Where this node is the only voter it returns once it
    /// leads, else at once.
    pub(crate) async fn start(
        options: RaftOptions,
        begin: Begin,
    ) -> Result<Arc<Self>, MetadataError> {
        let this = Self::open(options).await?;
        let begun = Box::pin(this.begin(begin)).await;
        if let Err(error) = begun {
            // The error matters more than how the stop goes.
            let _ = this.close().await;
            return Err(error);
        }
        this.env.spawn("metadata-quorum", Arc::clone(&this).drive());
        Ok(this)
    }

    async fn open(options: RaftOptions) -> Result<Arc<Self>, MetadataError> {
        let RaftOptions {
            env,
            node,
            store,
            published,
            links,
            me,
            voters_wanted,
        } = options;
        let committed = Arc::new(AtomicU64::new(0));
        let state = on_store(&env, &store, State::load)
            .await
            .map_err(raft_failed)?;
        let machine = StateMachine::new(env.clone(), Arc::clone(&store), published, state);
        let log = LogStore::new(env.clone(), Arc::clone(&store), Arc::clone(&committed));
        let config = Arc::new(config());
        let making = Raft::new(node, config, links.clone(), log.clone(), machine);
        let raft = EnvRaft::start(&env, making).await.map_err(raft_failed)?;
        let election = Election::new(env.now(), env.random_u64());
        let election = Arc::new(Mutex::new(election));
        Ok(Arc::new(Self {
            env,
            node,
            raft,
            store,
            log,
            links,
            me,
            voters_wanted,
            election,
            found_at: Mutex::default(),
            leadership: watch::Sender::new(Leadership::default()),
            closing: AtomicBool::new(false),
            committed,
        }))
    }

    async fn begin(&self, begin: Begin) -> Result<(), MetadataError> {
        let founders = match begin {
            Begin::Alone => BTreeMap::from([(self.node, self.me.clone())]),
            Begin::Found(founders) => founders,
            Begin::Wait => BTreeMap::new(),
        };
        let initialized = self.raft.call(|raft| raft.is_initialized()).await;
        if !founders.is_empty() && !initialized.map_err(raft_failed)? {
            match self.raft.call(|raft| raft.initialize(founders)).await {
                // Another founder was quicker to be elected: the quorum is there.
                Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {}
                Err(error) => return Err(raft_failed(error)),
            }
        }
        // The stored membership is known only once openraft has started.
        let state = self.raft.call(|raft| {
            raft.with_raft_state(|state| {
                let membership = state.membership_state.effective();
                let nodes = membership.membership().nodes().count();
                (membership.voter_ids().collect::<Vec<_>>(), nodes)
            })
        });
        let (voters, nodes) = state.await.map_err(raft_failed)?;
        if self.links.transport().is_none() && nodes > 1 {
            return Err(MetadataError::NoConnections { nodes });
        }
        if voters == [self.node] {
            return self.lead().await;
        }
        Ok(())
    }

    async fn lead(&self) -> Result<(), MetadataError> {
        self.raft.elect().await.map_err(raft_failed)?;
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

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Whether this node leads and a majority has answered it lately. One that led before it was
    /// started again believes at first that it still does.
    pub(super) fn is_heard(&self, metrics: &Metrics) -> bool {
        metrics.state == ServerState::Leader
            && (is_sole_voter(metrics, self.node)
                || metrics
                    .millis_since_quorum_ack
                    .is_some_and(|ms| ms < QUORUM_SILENCE_MS_MAX))
    }

    fn route(&self) -> Route {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        match metrics.current_leader {
            Some(leader) if leader == self.node => {
                // A node that is alone fails by itself if it fails.
                if self.is_heard(&metrics) || self.links.transport().is_none() {
                    Route::Here
                } else {
                    Route::Nowhere
                }
            }
            Some(leader) => Route::To(leader),
            None if self.links.transport().is_none() => Route::Here,
            None => Route::Nowhere,
        }
    }

    async fn write(&self, command: Command) -> Result<Applied, ProposeError> {
        let envelope = Envelope::new(command);
        if self.links.transport().is_some() && is_too_large(&envelope) {
            return Err(ProposeError::Apply(ApplyError::InvalidCount));
        }
        let began = self.env.now();
        loop {
            if self.is_closing() {
                return Err(ProposeError::Unavailable(Unavailability::Closing));
            }
            let left = (began + PROPOSE_MAX).saturating_sub(self.env.now());
            let proposed = match self.route() {
                Route::Here => self.write_here(envelope.clone(), left).await,
                Route::To(leader) => self.forward(leader, &envelope, left).await,
                Route::Nowhere => Proposed::NotLeader(None),
            };
            match proposed {
                Proposed::Applied(index, outcome) => {
                    self.applied(index, PROPOSE_MAX).await?;
                    return outcome.map_err(Into::into);
                }
                Proposed::NotLeader(leader) => {
                    let leader = leader.map(broker);
                    let waited = self.env.now().saturating_sub(began);
                    if self.links.transport().is_none() || waited >= LEADERLESS_MAX {
                        let reason = Unavailability::NotLeader { leader };
                        return Err(ProposeError::Unavailable(reason));
                    }
                    self.leader_changes(RETRY_PAUSE).await;
                }
                Proposed::OutcomeUnknown if self.is_closing() => {
                    return Err(ProposeError::Unavailable(Unavailability::Closing));
                }
                Proposed::OutcomeUnknown => {
                    return Err(ProposeError::Unavailable(Unavailability::OutcomeUnknown));
                }
                Proposed::Fatal => return Err(ProposeError::Fatal),
            }
        }
    }

    /// Commits a command as the leader.
    pub(super) async fn write_here(&self, envelope: Envelope, limit: Duration) -> Proposed {
        let alone = is_sole_voter(&self.raft.metrics().borrow(), self.node);
        let write = self.raft.call(|raft| raft.client_write(envelope));
        let written = if alone {
            write.await
        } else {
            match self.env.timeout(limit, write).await {
                Ok(written) => written,
                Err(_) => return Proposed::OutcomeUnknown,
            }
        };
        match written {
            // Raft's own entries are never proposed here, so a command always has an outcome.
            Ok(response) => Proposed::Applied(
                response.log_id.index,
                response.data.0.unwrap_or(Ok(Applied::Barrier)),
            ),
            // Never appended, or replaced by another leader's entries before it was committed.
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Proposed::NotLeader(forward.leader_id)
            }
            Err(RaftError::Fatal(Fatal::Stopped)) => Proposed::OutcomeUnknown,
            Err(error) => {
                tracing::error!(%error, "metadata command failed");
                Proposed::Fatal
            }
        }
    }

    async fn forward(&self, leader: NodeId, envelope: &Envelope, limit: Duration) -> Proposed {
        let sent = self.links.call(leader, Kind::Propose, envelope, limit);
        match sent.await {
            // The leader's log has failed, not ours.
            Ok(Proposed::Fatal) => Proposed::OutcomeUnknown,
            Ok(proposed) => proposed,
            Err(error) => {
                tracing::debug!(leader, %error, "proposal not forwarded");
                match error {
                    LinkError::Call(CallError::OutcomeUnknown) => Proposed::OutcomeUnknown,
                    LinkError::Wire(_) => Proposed::OutcomeUnknown,
                    LinkError::Call(_) | LinkError::Alone => Proposed::NotLeader(None),
                }
            }
        }
    }

    /// Waits until this node has applied an entry.
    async fn applied(&self, index: u64, limit: Duration) -> Result<(), ProposeError> {
        let mut metrics = self.raft.metrics();
        let reached = metrics.wait_for(|metrics| {
            metrics.last_applied.is_some_and(|id| id.index >= index)
                || metrics.running_state.is_err()
        });
        let lost = ProposeError::Unavailable(Unavailability::OutcomeUnknown);
        match self.env.timeout(limit, reached).await {
            Ok(Ok(metrics)) if metrics.running_state.is_ok() => Ok(()),
            // This node has applied it before it failed, or another has.
            Ok(_) if self.is_closing() => Err(ProposeError::Unavailable(Unavailability::Closing)),
            Ok(_) => Err(ProposeError::Fatal),
            Err(_) => Err(lost),
        }
    }

    /// Waits until another leader is known, or for a while.
    pub(super) async fn leader_changes(&self, limit: Duration) {
        let mut metrics = self.raft.metrics();
        let before = metrics.borrow().current_leader;
        let changed = metrics.wait_for(|metrics| metrics.current_leader != before);
        // Both ends are fine: the caller looks again.
        let _ = self.env.timeout(limit, changed).await;
    }

    /// Up to where the log must be applied for a read that sees everything committed before; `None`
    /// if this node does not lead, or no majority says so.
    pub(super) async fn read_index(&self) -> Option<u64> {
        let asked = self.raft.call(|raft| raft.get_read_log_id());
        let (id, _) = self.env.timeout(LEADERLESS_MAX, asked).await.ok()?.ok()?;
        Some(id.map_or(0, |id| id.index))
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        let began = self.env.now();
        loop {
            if self.is_closing() {
                return Err(ProposeError::Unavailable(Unavailability::Closing));
            }
            let (index, leader) = match self.route() {
                Route::Here => (self.read_index().await, Some(self.node)),
                Route::Nowhere => (None, None),
                Route::To(leader) => {
                    let asked = self
                        .links
                        .call(leader, Kind::ReadIndex, &(), LEADERLESS_MAX);
                    (asked.await.ok().flatten(), Some(leader))
                }
            };
            if let Some(index) = index {
                return self.applied(index, PROPOSE_MAX).await;
            }
            if self.env.now().saturating_sub(began) >= LEADERLESS_MAX {
                let leader = leader.filter(|leader| *leader != self.node).map(broker);
                let reason = Unavailability::NotLeader { leader };
                return Err(ProposeError::Unavailable(reason));
            }
            self.leader_changes(RETRY_PAUSE).await;
        }
    }

    pub(super) fn raft(&self) -> &EnvRaft {
        &self.raft
    }
}

impl MetadataLog for RaftLog {
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Applied, ProposeError>> {
        Box::pin(self.write(command))
    }

    fn barrier(&self) -> BoxFuture<'_, Result<(), ProposeError>> {
        Box::pin(self.read_barrier())
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn status(&self) -> QuorumStatus {
        self.quorum_status()
    }

    fn health(&self) -> MetadataHealth {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let running = metrics.running_state.is_ok() && !self.is_closing();
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

fn is_too_large(envelope: &Envelope) -> bool {
    serde_json::to_vec(envelope).map_or(true, |bytes| bytes.len() > COMMAND_BYTES_MAX)
}

pub(super) fn is_sole_voter(metrics: &Metrics, node: NodeId) -> bool {
    metrics.membership_config.voter_ids().eq([node])
}

/// It is not validated: openraft's rule that heartbeats are closer together than elections wait is
/// about heartbeats of its own, which are off.
fn config() -> Config {
    Config {
        cluster_name: "mainstem".to_owned(),
        // A leader beats by itself: see `heartbeat`. To openraft this is how long appends may take.
        enable_heartbeat: false,
        heartbeat_interval: APPEND_MS_MAX,
        // Also how long a vote may take.
        election_timeout_min: RAFT_LEASE_MS - 1,
        // Also the lease within which openraft gives no vote against a leader.
        election_timeout_max: RAFT_LEASE_MS,
        // Votes are sought by `drive`, after others were asked.
        enable_elect: false,
        install_snapshot_timeout: SNAPSHOT_CHUNK_MS,
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_ENTRIES),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        ..Config::default()
    }
}

pub(super) fn raft_failed(error: impl std::fmt::Display) -> MetadataError {
    MetadataError::Raft(error.to_string())
}
