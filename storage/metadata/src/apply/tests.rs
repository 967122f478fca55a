//! What each command does, and when it is refused; the model of the log that the tests share.

mod cluster;
mod random;
mod restarts;
mod seals;
mod topics;
mod walks;

use std::collections::BTreeMap;

use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionIndex, SegmentId, TimestampMs,
};
use uuid::Uuid;

use super::*;
use crate::{
    command::{NewSegment, Opened, ReplacementSegment, SealAndOpenSingle},
    image::{Endpoint, Roles, SegmentFlush, SegmentRecord, SegmentState, TopicOrigin},
};

const BROKER: BrokerId = BrokerId(1);

/// Applies one command after the other, as the log would.
#[derive(Default)]
struct Log {
    image: Image,
    index: u64,
    ids: u128,
}

impl Log {
    fn with_broker() -> Self {
        let mut log = Self::default();
        log.register().expect("register");
        log
    }

    fn apply(&mut self, command: &Command) -> Result<Applied, ApplyError> {
        self.index += 1;
        apply(&mut self.image, self.index, command)
    }

    fn fresh(&mut self) -> SegmentId {
        self.ids += 1;
        SegmentId(Uuid::from_u128(self.ids))
    }

    fn register(&mut self) -> Result<Applied, ApplyError> {
        let expected = self
            .image
            .brokers
            .get(&BROKER)
            .map(|broker| broker.incarnation);
        self.apply(&registration(BROKER, 7, expected))
    }

    fn create(&mut self, topic: u128, partitions: usize) -> Result<Applied, ApplyError> {
        let new = (0..partitions).map(|_| new_segment(self.fresh())).collect();
        let command = creation(topic, &format!("t{topic}"), new);
        self.apply(&command)
    }

    /// A seal of the open segment that is right in every field.
    fn seal(&mut self, id: PartitionId, records: i64) -> Option<SealAndOpenSingle> {
        let next = self.fresh();
        let incarnation = self.image.brokers.get(&BROKER)?.incarnation;
        let open = self.image.partition(id)?.active()?;
        Some(SealAndOpenSingle {
            partition: id,
            segment: open.id,
            version: open.version,
            end: open.base.plus(records),
            bytes: records.unsigned_abs() * 100,
            max_timestamp: TimestampMs(1),
            digest: Some([3; 16]),
            next,
            leader: BROKER,
            leader_incarnation: incarnation,
        })
    }

    fn seal_now(&mut self, id: PartitionId, records: i64) -> Opened {
        let seal = self.seal(id, records).expect("open segment");
        self.seal_one(seal).expect("sealed")
    }

    fn seal_one(&mut self, seal: SealAndOpenSingle) -> Result<Opened, ApplyError> {
        match self.apply(&Command::SealAndOpenSingle { seals: vec![seal] }) {
            Ok(Applied::SealedAndOpened { mut results }) => results.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn chain(&self, id: PartitionId) -> Vec<SegmentRecord> {
        let partition = self.image.partition(id).expect("partition");
        partition.segments.iter().cloned().collect()
    }
}

fn registration(broker: BrokerId, dir: u128, expected: Option<Incarnation>) -> Command {
    let at = Endpoint {
        host: "localhost".to_owned(),
        port: 9092,
    };
    Command::RegisterBroker {
        broker,
        directory_id: Uuid::from_u128(dir),
        expected,
        listeners: BTreeMap::from([("kafka".to_owned(), at)]),
        peer: None,
        roles: Roles::default(),
        intact: None,
        directory_life: None,
        request: Uuid::nil(),
    }
}

fn new_segment(id: SegmentId) -> NewSegment {
    NewSegment {
        id,
        replicas: vec![],
        leader: None,
        flush: SegmentFlush::Os,
    }
}

fn creation(topic: u128, name: &str, partitions: Vec<NewSegment>) -> Command {
    Command::CreateTopic {
        id: TopicId(Uuid::from_u128(topic)),
        name: name.to_owned(),
        internal: false,
        origin: TopicOrigin::Admin,
        replication_factor: 1,
        configs: BTreeMap::new(),
        partitions,
        leader: BROKER,
    }
}

fn partition(topic: u128, index: i32) -> PartitionId {
    PartitionId {
        topic: TopicId(Uuid::from_u128(topic)),
        index: PartitionIndex(index),
    }
}

/// What every image must be.
fn check_invariants(image: &Image) {
    assert_eq!(image.topics.len(), image.topics_by_id.len());
    for (name, id) in &image.topics {
        let topic = image.topic_by_id(*id).expect("topic of a name");
        assert_eq!((&topic.name, topic.id), (name, *id));
        assert!(!topic.partitions.is_empty());
        for partition in &topic.partitions {
            check_chain(partition);
        }
    }
    for route in image.routes.values() {
        if let RouteTarget::OwnTopic(id) = route.target {
            assert!(
                image.topic_by_id(id).is_some(),
                "route to a topic that is gone"
            );
        }
        assert!(route.since_version <= image.version);
    }
}

fn check_chain(partition: &PartitionRecord) {
    let chain: Vec<&SegmentRecord> = partition.segments.iter().collect();
    assert!(
        partition.log_start >= chain[0].base,
        "log starts before its first segment"
    );
    for pair in chain.windows(2) {
        // I-SEAL-4.
        if pair[0].lossy {
            assert!(pair[1].base >= pair[0].base.plus(UNCLEAN_GAP), "no gap");
        } else {
            assert_eq!(pair[0].end, Some(pair[1].base), "gap");
        }
        assert!(pair[0].epoch < pair[1].epoch, "epochs");
        assert!(pair[0].end > Some(pair[0].base), "empty sealed segment");
        assert_ne!(pair[0].id, pair[1].id);
    }
    let (last, sealed) = chain.split_last().expect("chain is not empty");
    assert!(
        sealed
            .iter()
            .all(|segment| segment.state == SegmentState::Sealed)
    );
    assert!(last.state.is_open() && last.end.is_none());
    assert_eq!(partition.active().map(|open| open.id), Some(last.id));
}

fn replacement(log: &mut Log, id: PartitionId, from: usize, count: usize) -> Command {
    let fresh = log.fresh();
    let chain = log
        .image
        .partition(id)
        .map(|found| found.segments.clone())
        .unwrap_or_default();
    let old: Vec<&SegmentRecord> = chain.iter().skip(from).take(count).collect();
    let last = old.last();
    Command::ReplaceSegments {
        partition: id,
        old: old.iter().map(|segment| segment.id).collect(),
        new: ReplacementSegment {
            id: fresh,
            base: old.first().map_or(Offset::ZERO, |segment| segment.base),
            end: last.and_then(|segment| segment.end).unwrap_or(Offset::ZERO),
            epoch: last.map_or(LeaderEpoch::NONE, |segment| segment.epoch),
            clean_end: last.and_then(|segment| segment.end).unwrap_or(Offset::ZERO),
            bytes: 1,
            max_timestamp: TimestampMs(2),
            digest: None,
            complete: vec![],
        },
    }
}

#[test]
fn registering_is_compare_and_set_and_stops_what_the_broker_led() {
    let mut log = Log::with_broker();
    log.create(1, 2).expect("create");
    let stale = log.apply(&registration(BROKER, 7, None));
    assert_eq!(
        stale,
        Err(ApplyError::StaleIncarnation {
            current: Some(Incarnation(1))
        })
    );
    let taken = log.apply(&registration(BrokerId(2), 7, None));
    assert_eq!(taken, Err(ApplyError::DirectoryTaken { owner: BROKER }));
    let mut listeners = registration(BROKER, 7, Some(Incarnation(1)));
    if let Command::RegisterBroker { listeners, .. } = &mut listeners {
        listeners.insert(
            "mqtt".to_owned(),
            Endpoint {
                host: String::new(),
                port: 1883,
            },
        );
    }
    assert_eq!(log.apply(&listeners), Err(ApplyError::InvalidEntries));

    let before = log.seal(partition(1, 0), 3).expect("seal");
    assert_eq!(
        log.register(),
        Ok(Applied::Registered {
            incarnation: Incarnation(2)
        })
    );
    let open = log
        .image
        .partition(partition(1, 1))
        .expect("partition")
        .active()
        .expect("open");
    assert_eq!((open.state, open.version), (SegmentState::Sealing, 1));
    assert_eq!(
        log.seal_one(before),
        Err(ApplyError::StaleVersion { current: 1 })
    );
    let opened = log.seal_now(partition(1, 0), 3);
    assert_eq!((opened.base, opened.epoch), (Offset(3), LeaderEpoch(1)));
    let chain = log.chain(partition(1, 0));
    assert_eq!(chain[0].state, SegmentState::Sealed);
    assert_eq!(chain[1].leader_incarnation, Incarnation(2));
    assert_eq!(chain[1].isr, [Member::new(BROKER, Incarnation(2))]);
}

#[test]
fn sealing_an_empty_segment_replaces_it() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    log.seal_now(id, 5);
    let opened = log.seal_now(id, 0);
    assert_eq!((opened.base, opened.epoch), (Offset(5), LeaderEpoch(2)));
    let chain = log.chain(id);
    assert_eq!(chain.len(), 2);
    assert_eq!(
        (chain[0].end, chain[0].bytes, chain[0].version),
        (Some(Offset(5)), 500, 1)
    );
}

#[test]
fn sealing_below_the_log_start_restarts_the_chain_there() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    log.seal_now(id, 5);
    let to = Command::SetLogStart {
        partition: id,
        log_start: Offset(9),
    };
    assert_eq!(
        log.apply(&to),
        Ok(Applied::LogStartSet {
            log_start: Offset(9)
        })
    );
    let opened = log.seal_now(id, 2);
    assert_eq!((opened.base, opened.epoch), (Offset(9), LeaderEpoch(2)));
    assert_eq!(log.chain(id).len(), 1);
    check_invariants(&log.image);
}

#[test]
fn seals_are_refused_one_by_one() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    let good = log.seal(id, 5).expect("seal");
    let taken = SealAndOpenSingle {
        next: good.segment,
        ..good
    };
    assert_eq!(
        log.seal_one(taken),
        Err(ApplyError::SegmentIdTaken { id: good.segment })
    );
    let stranger = SealAndOpenSingle {
        leader: BrokerId(9),
        ..good
    };
    assert_eq!(
        log.seal_one(stranger),
        Err(ApplyError::NotReplica {
            broker: BrokerId(9)
        })
    );
    let old = SealAndOpenSingle {
        leader_incarnation: Incarnation(0),
        ..good
    };
    let current = Some(Incarnation(1));
    assert_eq!(
        log.seal_one(old),
        Err(ApplyError::StaleIncarnation { current })
    );
    let back = SealAndOpenSingle {
        end: Offset(-1),
        ..good
    };
    assert_eq!(log.seal_one(back), Err(ApplyError::InvalidRange));
    let nowhere = SealAndOpenSingle {
        partition: partition(1, 1),
        ..good
    };
    assert_eq!(
        log.seal_one(nowhere.clone()),
        Err(ApplyError::UnknownPartition)
    );

    let both = Command::SealAndOpenSingle {
        seals: vec![nowhere, good.clone()],
    };
    let Ok(Applied::SealedAndOpened { results }) = log.apply(&both) else {
        panic!("refused")
    };
    assert_eq!(results[0], Err(ApplyError::UnknownPartition));
    assert!(results[1].is_ok());
    let current = Some(good.next);
    assert_eq!(
        log.seal_one(good),
        Err(ApplyError::StaleSegment { current })
    );
}

#[test]
fn only_a_sealed_prefix_is_deleted_and_the_start_follows() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    log.seal_now(id, 5);
    log.seal_now(id, 5);
    let ids: Vec<SegmentId> = log.chain(id).iter().map(|segment| segment.id).collect();
    let mut delete = |segments: &[SegmentId], log_start: i64| {
        let (segments, log_start) = (segments.to_vec(), Offset(log_start));
        log.apply(&Command::DeleteSegments {
            partition: id,
            segments,
            log_start,
        })
    };
    let open = Some(ids[2]);
    assert_eq!(
        delete(&ids[1..2], 0),
        Err(ApplyError::StaleSegment { current: open })
    );
    assert_eq!(delete(&[], 0), Err(ApplyError::InvalidCount));
    assert_eq!(delete(&ids, 0), Err(ApplyError::NotSealed { id: ids[2] }));
    assert_eq!(
        delete(&ids[..1], 0),
        Ok(Applied::SegmentsDeleted {
            log_start: Offset(5)
        })
    );
    assert_eq!(
        delete(&ids[1..2], 12),
        Ok(Applied::SegmentsDeleted {
            log_start: Offset(12)
        })
    );
    let back = Command::SetLogStart {
        partition: id,
        log_start: Offset(1),
    };
    assert_eq!(
        log.apply(&back),
        Ok(Applied::LogStartSet {
            log_start: Offset(12)
        })
    );
}

#[test]
fn compaction_replaces_neighbours_and_nothing_else() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    for _ in 0..4 {
        log.seal_now(id, 5);
    }
    let mut bad = replacement(&mut log, id, 1, 2);
    if let Command::ReplaceSegments { new, .. } = &mut bad {
        new.end = Offset(14);
    }
    assert_eq!(log.apply(&bad), Err(ApplyError::InvalidRange));
    let with_open = replacement(&mut log, id, 3, 2);
    assert!(matches!(
        log.apply(&with_open),
        Err(ApplyError::NotSealed { .. })
    ));
    let good = replacement(&mut log, id, 1, 2);
    assert_eq!(log.apply(&good), Ok(Applied::SegmentsReplaced));
    let bounds: Vec<_> = log
        .chain(id)
        .iter()
        .map(|segment| (segment.base.0, segment.epoch.0))
        .collect();
    assert_eq!(bounds, [(0, 0), (5, 2), (15, 3), (20, 4)]);
    check_invariants(&log.image);
    // Merged again, with its neighbours on both sides: every epoch's end is still known.
    let again = replacement(&mut log, id, 0, 3);
    assert_eq!(log.apply(&again), Ok(Applied::SegmentsReplaced));
    assert_eq!(log.chain(id).len(), 2);
    let ends: Vec<_> = (0..5)
        .map(|epoch| {
            let record = log.image.partition(id).expect("partition");
            let found = record.end_of_epoch(LeaderEpoch(epoch), Offset(22));
            found.map(|(epoch, end)| (epoch.0, end.0))
        })
        .collect();
    let expected = [(0, 5), (1, 10), (2, 15), (3, 20), (4, 22)].map(Some);
    assert_eq!(ends, expected);
    let first = log.chain(id).first().map(SegmentRecord::first_epoch);
    assert_eq!(first, Some(LeaderEpoch(0)));
}
