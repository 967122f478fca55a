//! What all sessions of the node share.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use super::{
    MqttStats,
    delivery::{Followers, Target},
    limits::WILLS_AT_ONCE,
    metrics::MqttMetrics,
    overflow::OverflowNotices,
    retained::Retained,
    session::{Owners, SessionEntry},
    share::ShareGroup,
    timers::Timers,
    trie::Trie,
};
use crate::{
    core::{BrokerError, Core},
    internal::InternalTopic,
};

/// The internal topic of sessions.
const SESSIONS_TOPIC: &str = "__mqtt_sessions";
/// The internal topic of retained messages.
const RETAINED_TOPIC: &str = "__mqtt_retained";

/// What all sessions of the node share.
pub(crate) struct Hub {
    pub(crate) core: Arc<Core>,
    pub(crate) metrics: MqttMetrics,
    /// All sessions, by client identifier.
    pub(crate) sessions: DashMap<Arc<str>, Arc<SessionEntry>>,
    /// Those with a connection, by number.
    pub(crate) online: DashMap<u64, Arc<SessionEntry>>,
    /// Subscriptions of sessions with a connection, and shared ones with such a member.
    pub(crate) trie: RwLock<Trie<Target>>,
    pub(crate) followers: Arc<Followers>,
    pub(crate) groups: DashMap<Arc<str>, Arc<ShareGroup>>,
    pub(crate) retained: Retained,
    /// `__mqtt_sessions`.
    pub(crate) store: InternalTopic,
    /// What all nodes write to it.
    pub(crate) owners: Owners,
    /// It is applied as it comes, because there are other nodes.
    pub(crate) is_applying: AtomicBool,
    pub(crate) timers: Timers,
    /// Held while a route is decided.
    pub(crate) deciding: tokio::sync::Mutex<()>,
    pub(crate) will_turns: tokio::sync::Semaphore,
    /// What was said of first levels that cannot have a Kafka topic.
    pub(crate) overflow_notices: OverflowNotices,
    numbers: AtomicU64,
    /// Sessions whose positions are to be checkpointed.
    dirty: Mutex<Vec<Arc<SessionEntry>>>,
    closing: AtomicBool,
}

// === impl Hub ===

impl Hub {
    /// Opens the internal topics, rebuilds the state and starts the background work.
    pub(crate) async fn start(core: &Arc<Core>) -> Result<Arc<Self>, BrokerError> {
        let config = &core.config.mqtt;
        let store = InternalTopic::open(core, SESSIONS_TOPIC, config.sessions_partitions).await?;
        let retained =
            InternalTopic::open(core, RETAINED_TOPIC, config.retained_partitions).await?;
        let hub = Arc::new(Self {
            core: core.clone(),
            metrics: MqttMetrics::new(&core.registry)?,
            sessions: DashMap::new(),
            online: DashMap::new(),
            trie: RwLock::default(),
            followers: Arc::default(),
            groups: DashMap::new(),
            retained: Retained::new(retained, config.retained_messages_max),
            owners: Owners::new(store.partition_count()),
            is_applying: AtomicBool::new(false),
            store,
            timers: Timers::new(core.env.clone()),
            deciding: tokio::sync::Mutex::default(),
            will_turns: tokio::sync::Semaphore::new(WILLS_AT_ONCE),
            overflow_notices: OverflowNotices::default(),
            numbers: AtomicU64::new(1),
            dirty: Mutex::default(),
            closing: AtomicBool::new(false),
        });
        hub.serve_appends();
        hub.retained.replay().await;
        hub.repair_retained().await;
        if !core.is_cluster() {
            hub.replay_sessions().await;
        }
        if core.access().is_some() {
            core.spawn("mqtt owners", hub.clone().own_sessions());
        }
        core.spawn("mqtt metadata", hub.follow_metadata());
        core.spawn("mqtt timers", hub.clone().run_timers());
        core.spawn("mqtt retained", hub.clone().keep_retained());
        core.spawn("mqtt checkpoints", hub.clone().run_checkpoints());
        Ok(hub)
    }

    /// Unique in this process, never 0.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// A session's positions have changed; they are written with the next checkpoint.
    pub(crate) fn mark_dirty(&self, entry: &Arc<SessionEntry>) {
        {
            let mut state = entry.state.lock();
            if state.is_dirty || !state.is_persistent() {
                return;
            }
            state.is_dirty = true;
        }
        self.dirty.lock().push(entry.clone());
    }

    async fn run_checkpoints(self: Arc<Self>) {
        let interval = std::time::Duration::from_millis(self.core.config.mqtt.cursor_checkpoint_ms);
        loop {
            tokio::select! {
                biased;
                () = self.core.stop.cancelled() => return,
                () = self.core.env.sleep(interval) => {}
            }
            self.checkpoint().await;
            self.count_sessions();
        }
    }

    /// Writes the positions of the sessions that have moved.
    async fn checkpoint(&self) {
        let dirty = std::mem::take(&mut *self.dirty.lock());
        for entry in dirty {
            let epoch = {
                let mut state = entry.state.lock();
                state.is_dirty = false;
                if !state.online || state.gone {
                    continue;
                }
                state.epoch
            };
            self.checkpoint_session(&entry, epoch).await;
        }
        self.checkpoint_groups().await;
    }

    fn count_sessions(&self) {
        let stats = self.stats();
        self.metrics
            .sessions_online
            .set(stats.sessions_online as i64);
        self.metrics
            .sessions_offline
            .set(stats.sessions_offline as i64);
    }

    pub(crate) fn stats(&self) -> MqttStats {
        let online = self.online.len();
        MqttStats {
            sessions_online: online,
            sessions_offline: self.sessions.len().saturating_sub(online),
            subscriptions: usize::try_from(self.metrics.subscriptions.get()).unwrap_or(0),
            retained: self.retained.len(),
        }
    }

    /// The sessions that are online, by number.
    pub(crate) fn all_online(&self) -> Vec<Arc<SessionEntry>> {
        let online = self.online.iter();
        let mut all: Vec<_> = online.map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|entry| entry.number);
        all
    }

    /// The share groups, by name.
    pub(crate) fn all_groups(&self) -> Vec<Arc<ShareGroup>> {
        let groups = self.groups.iter();
        let mut all: Vec<_> = groups.map(|group| group.value().clone()).collect();
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Tells every connection that the node is ending, and writes what is not yet written.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let online = self.all_online();
        for entry in &online {
            entry.notify.notify_one();
        }
        for entry in &online {
            self.mark_dirty(entry);
        }
        self.checkpoint().await;
        let flushed = self.store_flushed().await;
        if !flushed {
            tracing::warn!("session checkpoints are not known to be durable");
        }
    }

    /// Whether everything that was appended to `__mqtt_sessions` is durable.
    async fn store_flushed(&self) -> bool {
        let image = self.core.image();
        let Some(topic) = image.topic(SESSIONS_TOPIC) else {
            return false;
        };
        let mut flushed = true;
        for id in super::delivery::partitions_of(topic) {
            flushed &= match self.core.partition(id) {
                Ok(partition) => partition.flush().await.is_ok(),
                // What other nodes lead they have made durable before they answered.
                Err(_) => self.core.access().is_some(),
            };
        }
        flushed
    }
}
