//! What the broker sees of replication: which partitions this node leads or holds, and what is done
//! with their segments.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mainstem_config::Config;
use mainstem_env::{BoxFuture, Env};
use mainstem_log::{
    Chunk, Log, LogEvent, Partition, PartitionSettings, ReadError, Sought, TimeFound,
};
use mainstem_metadata::{
    Endpoint, Metadata, MetadataError, NewSegment, ProposeError, SegmentFlush, SegmentState, Topic,
};
use mainstem_peers::Peers;
use mainstem_record::{BrokerId, LeaderEpoch, Member, Offset, PartitionId, SegmentId};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    controller::{Controller, ControllerDeps, Counts, NewPartitions, PlaceError, Placer},
    host::{Host, HostParts, LocalParty, Registration, RollError},
    repair::{Repair, RepairOptions},
    stream::{StreamOptions, Streams},
};

/// What replication is started with.
pub struct ReplicationDeps {
    /// The outside world.
    pub env: Env,
    /// The node's configuration.
    pub config: Arc<Config>,
    /// The metadata service, started.
    pub metadata: Metadata,
    /// The segment log, started, no partition open.
    pub log: Log,
    /// What the log tells its owner.
    pub log_events: mpsc::Receiver<LogEvent>,
    /// The connections to other nodes; `None` in a cluster that takes no others.
    pub peers: Option<Peers>,
    /// Where other nodes reach this one, as `host:port`; `None` without connections.
    pub peer_address: Option<String>,
    /// Where metrics are registered.
    pub registry: prometheus::Registry,
    /// What the log has to know of topics.
    pub policies: Arc<dyn Policies>,
    /// The identity of the data directory.
    pub directory_id: Uuid,
    /// Where clients reach this broker, by listener name.
    pub listeners: BTreeMap<String, Endpoint>,
}

/// What the log has to know of topics: whoever resolves their configs says it.
pub trait Policies: Send + Sync + 'static {
    /// How the partitions of a topic are written whose open segment was begun with `flush`: that
    /// policy holds for the whole life of the segment, a stricter one at once.
    fn settings(&self, topic: &Topic, flush: SegmentFlush) -> PartitionSettings;
    /// The flush policy of segments that begin from now on.
    fn flush(&self, topic: &Topic) -> SegmentFlush;
    /// How long the files of segments stay that are gone.
    fn delete_delay(&self, topic: &Topic) -> Duration;
}

/// Why a partition does not take appends here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLed {
    /// There is no such partition.
    #[error("unknown partition")]
    Unknown,
    /// Another broker leads it.
    #[error("broker {leader} leads it")]
    Elsewhere {
        /// Which.
        leader: BrokerId,
        /// Since which epoch.
        epoch: LeaderEpoch,
    },
    /// Its segment is being sealed: nobody leads it.
    #[error("nobody leads it")]
    NoLeader,
    /// This node leads it and has not opened it yet.
    #[error("it is being opened")]
    Opening,
    /// It is damaged, or its files do not work.
    #[error("failed: {0}")]
    Failed(String),
}

/// Why replication does not start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The metadata service refused or is not available.
    #[error("metadata: {0}")]
    Metadata(#[from] ProposeError),
    /// What the data directory says of the last life cannot be read or written.
    #[error("life: {0}")]
    Life(#[from] MetadataError),
    /// The log could not be opened.
    #[error("log: {0}")]
    Log(#[from] mainstem_log::LogError),
    /// A metric could not be registered.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The replication of one node. Cheap to clone.
#[derive(Clone)]
pub struct Replication {
    host: Host,
    placer: Placer,
    controller: Controller,
    streams: Option<Streams>,
    repair: Repair<Host>,
}

// === impl Replication ===

impl Replication {
    /// Registers this broker (R1-R6), opens what it holds, and has sealed what an earlier life of it
    /// led. Returns once it leads again what only it can lead.
    ///
    /// # Errors
    /// [`ReplicationError`]. One damaged partition is none.
    pub async fn start(deps: ReplicationDeps) -> Result<Self, ReplicationError> {
        let registration = Registration {
            env: &deps.env,
            config: &deps.config,
            metadata: &deps.metadata,
            directory_id: deps.directory_id,
            listeners: deps.listeners,
            peer: deps.peer_address,
        };
        let (me, life) = registration.register().await?;
        let placer = Placer::new(deps.env.clone(), deps.metadata.clone());
        let parts = HostParts {
            env: deps.env.clone(),
            metadata: deps.metadata.clone(),
            log: deps.log.clone(),
            policies: deps.policies.clone(),
            me,
            life,
            placer: placer.clone(),
        };
        let host = Host::new(parts, &deps.config);
        let options = RepairOptions {
            copy_rate: deps.config.cluster.copy_bytes_per_second,
            serve_rate: deps.config.cluster.catch_up_bytes_per_second,
        };
        let repair = Repair::start(
            &deps.env,
            deps.peers.as_ref(),
            (&host, &deps.log),
            options,
            &deps.registry,
        )?;
        let local = LocalParty {
            host: host.clone(),
            repair: repair.clone(),
        };
        // Before anything is opened: that may take longer than a session.
        let policies = deps.policies;
        let controller = Controller::start(ControllerDeps {
            env: deps.env.clone(),
            metadata: deps.metadata,
            peers: deps.peers.clone(),
            me,
            local: Arc::new(local),
            flush: Arc::new(move |topic: &Topic| policies.flush(topic)),
            unclean: deps.config.topic.unclean_leader_election,
            timers: host.timers(),
            interval: Duration::from_millis(deps.config.cluster.heartbeat_interval_ms),
            registry: deps.registry.clone(),
        })?;
        if let Err(error) = host.run(deps.log_events).await {
            controller.close().await;
            repair.close().await;
            return Err(error);
        }
        let streams = match &deps.peers {
            Some(peers) => {
                let options = StreamOptions {
                    catch_up_rate: deps.config.cluster.catch_up_bytes_per_second,
                };
                let streams = Streams::start(&deps.env, peers, &host, options, &deps.registry);
                Some(streams?)
            }
            None => None,
        };
        host.lead_what_is_ours().await;
        Ok(Self {
            host,
            placer,
            controller,
            streams,
            repair,
        })
    }

    /// This broker, in this life.
    pub fn me(&self) -> Member {
        self.host.me()
    }

    /// A partition that this node leads: the active segment is open and takes appends (R8).
    ///
    /// # Errors
    /// Who leads it instead, or why nobody does.
    pub fn led(&self, id: PartitionId) -> Result<Partition, NotLed> {
        let image = self.host.image();
        let record = image.partition(id).ok_or(NotLed::Unknown)?;
        let open = record.active().ok_or(NotLed::NoLeader)?;
        let (leader, epoch) = (open.leader, open.epoch);
        if leader != self.me().broker {
            return Err(match open.state {
                SegmentState::Active => NotLed::Elsewhere { leader, epoch },
                _ => NotLed::NoLeader,
            });
        }
        if let Some(reason) = self.host.failure(id) {
            return Err(NotLed::Failed(reason));
        }
        if open.state != SegmentState::Active || open.leader_member() != self.me() {
            return Err(NotLed::NoLeader);
        }
        let hosted = self.host.hosted(id).ok_or(NotLed::Opening)?;
        // Between the end of a segment and the beginning of the next one of the same leader, the log
        // keeps what comes for the next one: clients notice nothing.
        let goes_on = |since: LeaderEpoch| {
            let mut later = record.segments.iter().rev();
            later
                .by_ref()
                .take_while(|segment| segment.epoch >= since)
                .all(|segment| segment.leader_member() == self.me())
        };
        match hosted.led_epoch() {
            Some(since) if since == epoch || goes_on(since) => Ok(hosted.log().clone()),
            _ => Err(NotLed::Opening),
        }
    }

    /// A partition of which this node holds a replica that is open. Reads go up to the high watermark
    /// that it was last told.
    pub fn held(&self, id: PartitionId) -> Option<Partition> {
        Some(self.host.hosted(id)?.log().clone())
    }

    /// Reads whole batches of a sealed segment that is not held here, or damaged: at least one, from
    /// the one that holds `from` on or else the first after it, from a broker that has all of them.
    /// For what [`Partition::read`] answers with [`ReadError::NotHeld`] or [`ReadError::Damaged`]; it
    /// asks nothing of high watermarks.
    ///
    /// # Errors
    /// [`ReadError::NotHeld`] if nobody else has it; [`ReadError::OutOfRange`] if it is not sealed, or
    /// deleted; [`ReadError::Io`] if nobody who has it answers.
    pub async fn read_elsewhere(
        &self,
        id: PartitionId,
        from: Offset,
        bytes_max: usize,
    ) -> Result<Chunk, ReadError> {
        self.repair.read_elsewhere(id, from, bytes_max).await
    }

    /// Looks in sealed segment `segment`, which is not held here, for a record by its timestamp, at
    /// or above `from`: as [`Partition::find_in_segment`] of a broker that has it.
    ///
    /// # Errors
    /// As [`Replication::read_elsewhere`].
    pub async fn find_elsewhere(
        &self,
        id: PartitionId,
        (segment, from): (SegmentId, Offset),
        sought: Sought,
    ) -> Result<TimeFound, ReadError> {
        let within = (segment, from);
        self.repair.find_elsewhere(id, within, sought).await
    }

    /// All partitions that are open here, by id.
    pub fn all_held(&self) -> Vec<Partition> {
        let all = self.host.all();
        all.iter().map(|hosted| hosted.log().clone()).collect()
    }

    /// Whether acks=all can be answered: the confirmed ISR has at least `min.insync.replicas` members.
    pub fn has_min_insync(&self, id: PartitionId) -> bool {
        let image = self.host.image();
        let open = image.partition(id).and_then(|record| record.active());
        open.is_some_and(|open| image.current(&open.isr).count() >= open.min_insync_count())
    }

    /// Moves after each change of what is led or held here: look again then.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.host.changes()
    }

    /// Chooses who holds and leads new partitions.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn place(&self, ask: NewPartitions) -> Result<Vec<NewSegment>, PlaceError> {
        self.placer.place(ask)
    }

    /// How many partitions of the cluster are not as they should be.
    pub fn counts(&self) -> Counts {
        self.placer.counts()
    }

    /// Brings partitions in line with the present metadata, and waits, at most `limit`, until those
    /// that this node is to lead take appends, with the present configs, and those that were deleted
    /// are gone.
    pub async fn settled(&self, ids: &[PartitionId], limit: Duration) {
        // What waits for a topic is not to carry all of this in its own future.
        let settle: BoxFuture<'_, ()> = Box::pin(self.host.settle(ids, limit));
        settle.await;
    }

    /// Seals `segment`, the active one of a partition that is led here, and opens the next one. Does
    /// nothing if it is not the open one any more. Returns when this node goes on.
    ///
    /// # Errors
    /// [`RollError`]: nothing has changed, or it is not known yet.
    pub async fn roll(&self, id: PartitionId, segment: SegmentId) -> Result<(), RollError> {
        let roll: BoxFuture<'_, Result<(), RollError>> = Box::pin(self.host.roll(id, segment));
        roll.await
    }

    /// Partitions that do not work here, by id, with the reason.
    pub fn failures(&self) -> Vec<(PartitionId, String)> {
        let mut failures = self.host.failures();
        failures.sort_unstable();
        failures
    }

    /// How many partitions do not work here.
    pub fn failure_count(&self) -> usize {
        self.host.failure_count()
    }

    /// Why a partition does not work here; `None` if it does, or is not here.
    pub fn failure(&self, id: PartitionId) -> Option<String> {
        self.host.failure(id)
    }

    /// Why this node is not ready to serve; empty when it is.
    pub fn readiness(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.host.metadata().leader().is_none() {
            reasons.push("metadata: no leader".to_owned());
        }
        for shard in self.host.log().health() {
            if let Some(failure) = shard.failure {
                reasons.push(format!("log shard {}: {failure}", shard.shard));
            }
        }
        let image = self.host.image();
        if !image.is_current(self.me()) {
            reasons.push("this broker was declared lost; restart it".to_owned());
        }
        if self.host.is_stopping() {
            reasons.push("stopping".to_owned());
        }
        reasons
    }

    /// Before a clean stop: nothing new is placed here, and what others can lead is led by others.
    /// Takes at most `limit`.
    pub async fn drain(&self, limit: Duration) {
        self.host.drain(limit).await;
    }

    /// Ends the background work. The log is closed after this, metadata and connections after that.
    pub async fn close(&self, limit: Duration) {
        self.controller.close().await;
        self.repair.close().await;
        if let Some(streams) = &self.streams {
            streams.close().await;
        }
        self.host.close(limit).await;
    }

    /// Notes that this life ends with everything synced: after the log was closed cleanly.
    pub async fn note_clean_stop(&self) {
        if let Err(error) = self.host.life().end().await {
            tracing::warn!(%error, "the clean stop is not noted");
        }
    }
}
