//! Nodes of a world: a log, peers, copies, and metadata that applies at once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_log::{
    Ack, Append, AppendTicket, Commit, Flush, Log, LogOptions, Moved, Partition, PartitionSettings,
    PartitionSpec, ReplicaAppend, Role, SegmentSpec,
};
use mainstem_metadata::{
    AlterIsr, Command, Image, NewSegment, NextSegment, PartitionRecord, RemoveCopy, SealAndOpen,
    SegmentCopy, SegmentFlush, SegmentRecord, SegmentState, TopicOrigin, apply,
};
use mainstem_peers::{PeerAddress, Peers, PeersOptions};
use mainstem_record::{
    BrokerId, EncodedRecord, Incarnation, Member, Offset, PartitionId, PartitionIndex, SegmentId,
    TimestampMs, TimestampType, TopicId,
};
use mainstem_simulation::{HostId, Process, SimFs, World};
use parking_lot::Mutex;
use prometheus::Registry;
use uuid::Uuid;

use super::super::{Copies, Repair, RepairOptions};
use crate::{host::NotAppended, machine::FenceAnswer};

/// Longer than anything takes.
pub(super) const LONG: Duration = Duration::from_secs(600);
const PORT: u16 = 9301;
const TOPIC: TopicId = TopicId(Uuid::from_u128(0xabc));
/// All of them hold the partition.
pub(super) const NODES: i32 = 3;

/// What all nodes agree on.
#[derive(Clone, Default)]
pub(super) struct Meta {
    inner: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    image: Arc<Image>,
    watchers: Vec<Arc<Moved>>,
    drawn: u128,
}

/// A node in one life.
pub(super) struct Node {
    pub(super) id: i32,
    pub(super) process: Process,
    pub(super) fs: SimFs,
    pub(super) log: Log,
    pub(super) host: Double,
    pub(super) repair: Repair<Double>,
    registry: Registry,
}

/// What hosts partitions here, instead of the host.
#[derive(Clone)]
pub(super) struct Double {
    pub(super) meta: Meta,
    me: Member,
    log: Log,
    /// The certificate of the open segment, once it is fenced.
    pub(super) certificate: Arc<Mutex<Option<Offset>>>,
}

pub(super) fn partition() -> PartitionId {
    PartitionId {
        topic: TOPIC,
        index: PartitionIndex(0),
    }
}

pub(super) fn spec(segment: &SegmentRecord, held: bool) -> SegmentSpec {
    SegmentSpec {
        id: segment.id,
        base: segment.base,
        epoch: segment.epoch,
        end: segment.end,
        compacted_from: None,
        held,
    }
}

// === impl Meta ===

impl Meta {
    /// One partition on all nodes, in which only the first is in sync.
    pub(super) fn create(&self) {
        let id = self.draw_segment();
        let members: Vec<Member> = (1..=NODES).map(|id| self.register(id)).collect();
        self.apply(&Command::CreateTopic {
            id: TOPIC,
            name: "t".to_owned(),
            internal: false,
            origin: TopicOrigin::Admin,
            replication_factor: 3,
            configs: BTreeMap::new(),
            partitions: vec![NewSegment {
                id,
                replicas: (1..=NODES).map(BrokerId).collect(),
                leader: Some(BrokerId(1)),
                flush: SegmentFlush::Os,
            }],
            leader: BrokerId(1),
        });
        let version = self.record().active().expect("open").version;
        self.apply(&Command::AlterIsr {
            changes: vec![AlterIsr {
                partition: partition(),
                segment: id,
                version,
                isr: vec![members[0]],
            }],
        });
    }

    fn draw(&self) -> Uuid {
        let mut state = self.inner.lock();
        state.drawn += 1;
        Uuid::from_u128(state.drawn)
    }

    pub(super) fn draw_segment(&self) -> SegmentId {
        SegmentId(self.draw())
    }

    /// A new life of a broker, which proves nothing.
    pub(super) fn register(&self, id: i32) -> Member {
        let broker = BrokerId(id);
        let expected = self.image().member(broker).map(|member| member.incarnation);
        self.apply(&Command::RegisterBroker {
            broker,
            directory_id: Uuid::from_u128(id as u128),
            expected,
            listeners: BTreeMap::new(),
            peer: None,
            roles: mainstem_metadata::Roles::default(),
            intact: None,
            directory_life: None,
            request: self.draw(),
        });
        self.image().member(broker).expect("registered")
    }

    pub(super) fn image(&self) -> Arc<Image> {
        self.inner.lock().image.clone()
    }

    pub(super) fn record(&self) -> Arc<PartitionRecord> {
        self.image().partition(partition()).expect("there").clone()
    }

    /// Whether it was not refused.
    pub(super) fn apply(&self, command: &Command) -> bool {
        let mut state = self.inner.lock();
        let index = state.image.version + 1;
        let image = Arc::make_mut(&mut state.image);
        let applied = apply(image, index, command).is_ok();
        for watcher in &state.watchers {
            watcher.add(partition());
        }
        applied
    }

    /// Who has all of a segment, in its present life.
    pub(super) fn complete(&self, id: SegmentId) -> Vec<Member> {
        let image = self.image();
        let record = self.record();
        let segment = record.segments.iter().find(|segment| segment.id == id);
        let complete = segment.into_iter().flat_map(|segment| &segment.complete);
        let members = complete.map(|copy| copy.member());
        members.filter(|member| image.is_current(*member)).collect()
    }

    pub(super) fn sealed(&self) -> Vec<SegmentRecord> {
        let record = self.record();
        let sealed = record.segments.iter();
        let sealed = sealed.filter(|segment| segment.state == SegmentState::Sealed);
        sealed.cloned().collect()
    }
}

// === impl Node ===

impl Node {
    /// A new life, on what is left on the disk. It has registered, unless it is the first.
    pub(super) async fn start(world: &World, meta: &Meta, id: i32, fs: SimFs) -> Self {
        let me = meta.image().member(BrokerId(id)).expect("registered");
        let process = world.process_on(HostId(id as u16), &fs, id as u64 * 1000 + me.incarnation.0);
        let registry = Registry::new();
        let options = LogOptions {
            low_space_bytes: 0,
            journal_bytes: 1 << 20,
            scrub_bytes_per_second: 0,
            ..LogOptions::new("/log".into())
        };
        let started = Log::start(process.env.clone(), options, &registry).await;
        let (log, _events) = started.unwrap();
        let image = meta.image();
        let held = |segment: &SegmentRecord| {
            segment.state.is_open() || meta.complete(segment.id).contains(&me)
        };
        let record = image.partition(partition()).expect("there");
        let segments = record.segments.iter();
        let role = match id {
            1 => Role::Leader(Commit::Own),
            _ => Role::Follower,
        };
        let opened = log.open_partition(PartitionSpec {
            id: partition(),
            log_start: Offset(0),
            segments: segments
                .map(|segment| spec(segment, held(segment)))
                .collect(),
            settings: PartitionSettings {
                flush: Flush::Os,
                segment_bytes: 1 << 30,
                segment_ms: i64::MAX,
                timestamp_type: TimestampType::CreateTime,
            },
            role,
        });
        opened.await.unwrap();
        let listen = std::net::SocketAddr::new(HostId(id as u16).ip(), PORT);
        let options = PeersOptions {
            node: BrokerId(id),
            directory_id: Uuid::from_u128(id as u128),
            listen: Some(listen),
            secret: Some(mainstem_peers::Secret::new(&[7; 32]).unwrap()),
        };
        let peers = Peers::start(&process.env, options, &registry)
            .await
            .unwrap();
        let address = |id: i32| -> PeerAddress {
            std::net::SocketAddr::new(HostId(id as u16).ip(), PORT).into()
        };
        let addresses = (1..=NODES).map(|id| (BrokerId(id), address(id)));
        peers.set_addresses(addresses.collect());
        let host = Double {
            meta: meta.clone(),
            me,
            log: log.clone(),
            certificate: Arc::default(),
        };
        let options = RepairOptions {
            copy_rate: u64::MAX,
            serve_rate: u64::MAX,
        };
        let env = &process.env;
        let repair = Repair::start(env, Some(&peers), (&host, &log), options, &registry);
        Self {
            id,
            repair: repair.unwrap(),
            process,
            fs,
            log,
            host,
            registry,
        }
    }

    pub(super) fn part(&self) -> Partition {
        self.log.partition(partition()).expect("open")
    }

    pub(super) fn me(&self) -> Member {
        self.host.me
    }

    /// The value of a counter.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metrics = family.map_or(&[][..], |family| family.get_metric());
        metrics
            .iter()
            .map(|m| m.get_counter().get_value() as u64)
            .sum()
    }

    /// Appends a record of `bytes` bytes.
    pub(super) async fn produce(&self, bytes: usize) {
        let value = vec![b'x'; bytes];
        let none: [(&[u8], Option<&[u8]>); 0] = [];
        let record = EncodedRecord::new(None, Some(&value), none);
        let records = vec![(record, TimestampMs(bytes as i64))];
        let append = Append::Records {
            records,
            ack: Ack::Written,
        };
        let ticket: AppendTicket = self.part().append(append).await.unwrap();
        ticket.await.unwrap();
    }

    /// The leader seals its segment (R28), alone in its ISR.
    pub(super) async fn seal(&self) {
        let meta = &self.host.meta;
        let info = self.part().seal_begin().await.unwrap();
        let version = meta.record().active().expect("open").version;
        let next = NextSegment {
            id: meta.draw_segment(),
            replicas: (1..=NODES).map(BrokerId).collect(),
            isr: vec![self.me()],
            leader: self.me(),
            flush: SegmentFlush::Os,
        };
        let sealed = meta.apply(&Command::SealAndOpen {
            seals: vec![SealAndOpen {
                partition: partition(),
                segment: info.segment,
                version,
                end: info.end,
                bytes: info.bytes,
                max_timestamp: info.max_timestamp,
                digest: Some(info.digest.to_be_bytes()),
                durable: vec![self.me()],
                next,
            }],
        });
        assert!(sealed);
        let open = meta.record().active().expect("open").clone();
        self.part().seal_commit(spec(&open, true)).await.unwrap();
    }

    /// A follower learns of the seals that there were.
    pub(super) async fn follow(&self) {
        let record = self.host.meta.record();
        loop {
            let last = self.part().segments().pop().expect("some");
            let at = record.segments.iter().position(|s| s.id == last.id);
            let at = at.expect("of the chain");
            let Some(next) = record.segments.get(at + 1) else {
                return;
            };
            let part = self.part();
            if last.held {
                part.seal_begin().await.unwrap();
            }
            let sealed = record.segments.get(at).expect("there");
            let next = SegmentSpec {
                end: None,
                ..spec(next, next.state.is_open())
            };
            part.advance(spec(sealed, false), next).await.unwrap();
            self.host
                .meta
                .inner
                .lock()
                .watchers
                .iter()
                .for_each(|w| w.add(partition()));
        }
    }
}

// === impl Double ===

impl Copies for Double {
    fn me(&self) -> Member {
        self.me
    }

    fn image(&self) -> Arc<Image> {
        self.meta.image()
    }

    fn watch(&self) -> Arc<Moved> {
        let moved = Arc::new(Moved::default());
        moved.add(partition());
        self.meta.inner.lock().watchers.push(moved.clone());
        moved
    }

    fn log(&self, id: PartitionId) -> Option<Partition> {
        self.log.partition(id)
    }

    fn answer(&self, _: PartitionId, segment: SegmentId) -> Option<FenceAnswer> {
        let certificate = *self.certificate.lock();
        Some(FenceAnswer {
            segment,
            member: self.me,
            version: 1,
            certificate: certificate?,
            leo: self.log.partition(partition())?.ends().log_end,
        })
    }

    async fn copied(
        &self,
        id: PartitionId,
        segment: SegmentId,
        at: Offset,
        batches: Bytes,
    ) -> Result<AppendTicket, NotAppended> {
        let log = self.log.partition(id).ok_or(NotAppended::NotFollowing)?;
        let append = ReplicaAppend {
            segment,
            at,
            batches,
            ack: Ack::Durable,
        };
        Ok(log.append_copied(append).await?)
    }

    fn add_complete(&self, copy: SegmentCopy) {
        let copies = vec![copy];
        self.meta.apply(&Command::AddComplete { copies });
    }

    fn mark_durable(&self, copy: SegmentCopy) {
        let copies = vec![copy];
        self.meta.apply(&Command::MarkDurable { copies });
    }

    fn remove_complete(&self, copy: RemoveCopy) {
        let copies = vec![copy];
        self.meta.apply(&Command::RemoveComplete { copies });
    }
}

/// A member in its first life.
pub(super) fn first(id: i32) -> Member {
    Member::new(BrokerId(id), Incarnation(1))
}
