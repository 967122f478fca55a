use std::collections::HashMap;

use mainstem_record::{LeaderEpoch, Offset, PartitionIndex, SegmentId, TimestampMs};
use proptest::prelude::*;

use super::*;
use crate::{
    command::{NewSegment, Opened, ReplacementSegment, SealAndOpen},
    image::{SegmentRecord, TopicOrigin},
    snapshot,
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
        let new = (0..partitions)
            .map(|_| NewSegment { id: self.fresh() })
            .collect();
        let command = creation(topic, &format!("t{topic}"), new);
        self.apply(&command)
    }

    /// A seal of the open segment that is right in every field.
    fn seal(&mut self, id: PartitionId, records: i64) -> Option<SealAndOpen> {
        let next = self.fresh();
        let incarnation = self.image.brokers.get(&BROKER)?.incarnation;
        let open = self.image.partition(id)?.active()?;
        Some(SealAndOpen {
            partition: id,
            segment: open.id,
            version: open.version,
            end: open.base.plus(records),
            bytes: records as u64 * 100,
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

    fn seal_one(&mut self, seal: SealAndOpen) -> Result<Opened, ApplyError> {
        match self.apply(&Command::SealAndOpen { seals: vec![seal] }) {
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
        assert_eq!(pair[0].end, Some(pair[1].base), "gap");
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

/// What someone may do next; resolved against the image so that most of it is legal.
#[derive(Clone, Debug)]
enum Step {
    Register,
    Create {
        topic: u128,
        partitions: usize,
    },
    Delete {
        topic: u128,
    },
    Grow {
        topic: u128,
        by: usize,
    },
    Seal {
        topic: u128,
        index: i32,
        records: i64,
        skew: u32,
    },
    DeleteSegments {
        topic: u128,
        index: i32,
        count: usize,
    },
    LogStart {
        topic: u128,
        index: i32,
        to: i64,
    },
    Replace {
        topic: u128,
        index: i32,
        from: usize,
        count: usize,
    },
    Producers {
        count: i32,
    },
    Route {
        level: u8,
        topic: u128,
    },
    Config {
        topic: u128,
        value: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (t, i) = (1u128..4, 0i32..3);
    let step = prop_oneof![
        1 => Just(Step::Register),
        2 => (t.clone(), 0usize..4)
            .prop_map(|(topic, partitions)| Step::Create { topic, partitions }),
        1 => t.clone().prop_map(|topic| Step::Delete { topic }),
        1 => (t.clone(), 0usize..3).prop_map(|(topic, by)| Step::Grow { topic, by }),
        8 => (t.clone(), i.clone(), -1i64..5, prop_oneof![9 => Just(0u32), 1 => Just(1)])
            .prop_map(|(topic, index, records, skew)| Step::Seal { topic, index, records, skew }),
        2 => (t.clone(), i.clone(), 0usize..3)
            .prop_map(|(topic, index, count)| Step::DeleteSegments { topic, index, count }),
        1 => (t.clone(), i.clone(), -2i64..30)
            .prop_map(|(topic, index, to)| Step::LogStart { topic, index, to }),
        2 => (t.clone(), i, 0usize..3, 1usize..4)
            .prop_map(|(topic, index, from, count)| Step::Replace { topic, index, from, count }),
        1 => (-1i32..2000).prop_map(|count| Step::Producers { count }),
        1 => (0u8..4, t.clone()).prop_map(|(level, topic)| Step::Route { level, topic }),
        1 => (t, 0u8..3).prop_map(|(topic, value)| Step::Config { topic, value }),
    ];
    prop::collection::vec(step, 1..80)
}

/// The command that `step` means for this image.
fn resolve(log: &mut Log, step: &Step) -> Command {
    let current = log
        .image
        .brokers
        .get(&BROKER)
        .map(|broker| broker.incarnation);
    match *step {
        Step::Register => registration(BROKER, 7, current),
        Step::Create { topic, partitions } => {
            let new = (0..partitions)
                .map(|_| NewSegment { id: log.fresh() })
                .collect();
            creation(topic, &format!("t{topic}"), new)
        }
        Step::Delete { topic } => Command::DeleteTopic {
            id: TopicId(Uuid::from_u128(topic)),
        },
        Step::Grow { topic, by } => {
            let id = TopicId(Uuid::from_u128(topic));
            let count = log
                .image
                .topic_by_id(id)
                .map_or(0, |topic| topic.partitions.len());
            Command::CreatePartitions {
                topic: id,
                expected_count: count as i32,
                add: (0..by).map(|_| NewSegment { id: log.fresh() }).collect(),
            }
        }
        Step::Seal {
            topic,
            index,
            records,
            skew,
        } => {
            let seal = log.seal(partition(topic, index), records).map(|mut seal| {
                seal.version += skew;
                seal
            });
            Command::SealAndOpen {
                seals: seal.into_iter().collect(),
            }
        }
        Step::LogStart { topic, index, to } => Command::SetLogStart {
            partition: partition(topic, index),
            log_start: Offset(to),
        },
        Step::DeleteSegments {
            topic,
            index,
            count,
        } => {
            let id = partition(topic, index);
            let chain = log.image.partition(id).map(|found| found.segments.clone());
            let segments = chain
                .iter()
                .flatten()
                .take(count)
                .map(|segment| segment.id)
                .collect();
            Command::DeleteSegments {
                partition: id,
                segments,
                log_start: Offset::ZERO,
            }
        }
        Step::Replace {
            topic,
            index,
            from,
            count,
        } => replacement(log, partition(topic, index), from, count),
        Step::Producers { count } => Command::AllocateProducerIds { count },
        Step::Route { level, topic } => Command::DecideRoute {
            level: format!("l{level}"),
            target: RouteTarget::OwnTopic(TopicId(Uuid::from_u128(topic))),
        },
        Step::Config { topic, value } => Command::AlterTopicConfigs {
            topic: TopicId(Uuid::from_u128(topic)),
            set: BTreeMap::from([("min.insync.replicas".to_owned(), value.to_string())]),
            delete: vec!["retention.ms".to_owned()],
        },
    }
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
            bytes: 1,
            max_timestamp: TimestampMs(2),
            digest: None,
        },
    }
}

/// Everything that may only grow: versions by segment, log starts and epochs by partition.
fn high_marks(image: &Image) -> (HashMap<SegmentId, u32>, HashMap<PartitionId, (Offset, i32)>) {
    let mut versions = HashMap::new();
    let mut marks = HashMap::new();
    for topic in image.topics_by_id.values() {
        for (index, found) in topic.partitions.iter().enumerate() {
            let id = PartitionId {
                topic: topic.id,
                index: PartitionIndex(index as i32),
            };
            marks.insert(id, (found.log_start, found.epoch().0));
            versions.extend(
                found
                    .segments
                    .iter()
                    .map(|segment| (segment.id, segment.version)),
            );
        }
    }
    (versions, marks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_commands_keep_the_invariants_and_are_deterministic(steps in steps()) {
        let mut log = Log::with_broker();
        let mut commands = Vec::new();
        let mut answers = Vec::new();
        for step in &steps {
            let command = resolve(&mut log, step);
            let before = log.image.clone();
            let answer = log.apply(&command);
            check_invariants(&log.image);
            prop_assert_eq!(log.image.version, log.index);
            if answer.is_err() {
                let same = Image { version: log.index, ..before.clone() };
                prop_assert_eq!(&log.image, &same, "a refused command changed something");
            }
            if !matches!(command, Command::DeleteTopic { .. }) {
                let (old, new) = (high_marks(&before), high_marks(&log.image));
                prop_assert!(old.0.iter().all(|(id, v)| new.0.get(id).is_none_or(|n| n >= v)));
                let grown = old.1.iter().all(|(id, (start, epoch))| {
                    new.1.get(id).is_some_and(|n| n.0 >= *start && n.1 >= *epoch)
                });
                prop_assert!(grown, "a log start or an epoch went back");
            }
            commands.push(command);
            answers.push(answer);
        }

        // Again, by way of the stored forms: same answers, same image, same bytes.
        let mut again = Log::with_broker();
        for (command, answer) in commands.iter().zip(&answers) {
            let text = serde_json::to_vec(command).expect("encode");
            let read: Command = serde_json::from_slice(&text).expect("decode");
            prop_assert_eq!(&read, command);
            prop_assert_eq!(&again.apply(&read), answer);
            let text = serde_json::to_vec(answer).expect("encode");
            let read: Result<Applied, ApplyError> = serde_json::from_slice(&text).expect("decode");
            prop_assert_eq!(&read, answer);
        }
        prop_assert_eq!(&again.image, &log.image);
        let bytes = snapshot::encode(&log.image).expect("encode");
        prop_assert_eq!(&snapshot::encode(&again.image).expect("encode"), &bytes);
        prop_assert_eq!(&snapshot::decode(&bytes).expect("decode"), &log.image);
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
    assert_eq!(chain[1].isr, [(BROKER, Incarnation(2))]);
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
    let taken = SealAndOpen {
        next: good.segment,
        ..good.clone()
    };
    assert_eq!(
        log.seal_one(taken),
        Err(ApplyError::SegmentIdTaken { id: good.segment })
    );
    let stranger = SealAndOpen {
        leader: BrokerId(9),
        ..good.clone()
    };
    assert_eq!(
        log.seal_one(stranger),
        Err(ApplyError::NotReplica {
            broker: BrokerId(9)
        })
    );
    let old = SealAndOpen {
        leader_incarnation: Incarnation(0),
        ..good.clone()
    };
    let current = Some(Incarnation(1));
    assert_eq!(
        log.seal_one(old),
        Err(ApplyError::StaleIncarnation { current })
    );
    let back = SealAndOpen {
        end: Offset(-1),
        ..good.clone()
    };
    assert_eq!(log.seal_one(back), Err(ApplyError::InvalidRange));
    let nowhere = SealAndOpen {
        partition: partition(1, 1),
        ..good.clone()
    };
    assert_eq!(
        log.seal_one(nowhere.clone()),
        Err(ApplyError::UnknownPartition)
    );

    let both = Command::SealAndOpen {
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
}

#[test]
fn topics_are_checked() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let (one, two) = (
        NewSegment { id: log.fresh() },
        NewSegment { id: log.fresh() },
    );
    for name in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(250)] {
        assert_eq!(
            log.apply(&creation(2, name, vec![one])),
            Err(ApplyError::InvalidName)
        );
    }
    let id = TopicId(Uuid::from_u128(1));
    let exists = log.apply(&creation(2, "t1", vec![one]));
    assert_eq!(exists, Err(ApplyError::TopicExists { id }));
    assert_eq!(
        log.apply(&creation(1, "t2", vec![one])),
        Err(ApplyError::TopicIdTaken { id })
    );
    let none = log.apply(&creation(2, "t2", vec![]));
    assert!(matches!(
        none,
        Err(ApplyError::InvalidPartitionCount { current: 0, .. })
    ));
    let twice = log.apply(&creation(2, "t2", vec![one, one]));
    assert_eq!(twice, Err(ApplyError::SegmentIdTaken { id: one.id }));
    let mut three = creation(2, "t2", vec![one]);
    if let Command::CreateTopic {
        replication_factor, ..
    } = &mut three
    {
        *replication_factor = 3;
    }
    assert_eq!(
        log.apply(&three),
        Err(ApplyError::InvalidReplicationFactor { asked: 3 })
    );

    let grow = |expected_count, add| Command::CreatePartitions {
        topic: id,
        expected_count,
        add,
    };
    let stale = log.apply(&grow(2, vec![one]));
    assert!(matches!(
        stale,
        Err(ApplyError::InvalidPartitionCount { current: 1, .. })
    ));
    let grown = log.apply(&grow(1, vec![one, two]));
    assert_eq!(grown, Ok(Applied::PartitionsCreated { count: 3 }));
}

#[test]
fn configs_reach_segments_that_open_later() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    let alter = |value: &str| Command::AlterTopicConfigs {
        topic: id.topic,
        set: BTreeMap::from([("min.insync.replicas".to_owned(), value.to_owned())]),
        delete: vec![],
    };
    assert_eq!(log.apply(&alter("2")), Ok(Applied::ConfigsAltered));
    assert_eq!(log.chain(id)[0].min_insync, 1);
    log.seal_now(id, 1);
    assert_eq!(log.chain(id)[1].min_insync, 2);
    assert_eq!(
        log.apply(&alter(&"9".repeat(CONFIG_VALUE_BYTES_MAX + 1))),
        Err(ApplyError::InvalidEntries)
    );
    let many = (0..=CONFIGS_MAX)
        .map(|index| (format!("c{index}"), String::new()))
        .collect();
    let many = Command::AlterBrokerConfigs {
        set: many,
        delete: vec![],
    };
    assert_eq!(log.apply(&many), Err(ApplyError::InvalidEntries));
    assert!(log.image.broker_configs.is_empty());
}

#[test]
fn producer_ids_are_given_once() {
    let mut log = Log::default();
    let take = |count| Command::AllocateProducerIds { count };
    assert_eq!(
        log.apply(&take(1000)),
        Ok(Applied::ProducerIds {
            first: 0,
            count: 1000
        })
    );
    assert_eq!(
        log.apply(&take(5)),
        Ok(Applied::ProducerIds {
            first: 1000,
            count: 5
        })
    );
    for count in [i32::MIN, 0, PRODUCER_IDS_MAX + 1] {
        assert_eq!(log.apply(&take(count)), Err(ApplyError::InvalidCount));
    }
    log.image.next_producer_id = i64::MAX - 1;
    assert_eq!(log.apply(&take(2)), Err(ApplyError::ProducerIdsExhausted));
}

#[test]
fn first_route_decision_stands_until_its_topic_is_deleted() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let own = RouteTarget::OwnTopic(TopicId(Uuid::from_u128(1)));
    let decide = |level: &str, target| Command::DecideRoute {
        level: level.to_owned(),
        target,
    };
    let nowhere = RouteTarget::OwnTopic(TopicId(Uuid::from_u128(9)));
    assert_eq!(
        log.apply(&decide("t1", nowhere)),
        Err(ApplyError::UnknownTopic)
    );
    let first = log.apply(&decide("t1", own));
    let since_version = log.index;
    let route = Route {
        target: own,
        since_version,
    };
    assert_eq!(first, Ok(Applied::RouteDecided { route }));
    assert_eq!(log.apply(&decide("t1", RouteTarget::Overflow)), first);
    assert_eq!(
        log.apply(&decide("", RouteTarget::Overflow)),
        Err(ApplyError::InvalidLevel)
    );

    log.apply(&decide("other", RouteTarget::Overflow))
        .expect("decided");
    let delete = Command::DeleteTopic {
        id: TopicId(Uuid::from_u128(1)),
    };
    assert_eq!(log.apply(&delete), Ok(Applied::TopicDeleted));
    assert_eq!(log.apply(&delete), Err(ApplyError::UnknownTopic));
    let left: Vec<&String> = log.image.routes.keys().collect();
    assert_eq!(left, ["other"]);
}

#[test]
fn route_decisions_are_bounded() {
    let mut log = Log::default();
    for level in 0..=ROUTES_MAX {
        let command = Command::DecideRoute {
            level: level.to_string(),
            target: RouteTarget::Overflow,
        };
        let answer = log.apply(&command);
        assert_eq!(answer.is_ok(), level < ROUTES_MAX, "{answer:?}");
    }
}

#[test]
fn cluster_is_named_once() {
    let mut log = Log::default();
    let name = |text: &str| Command::SetClusterId {
        cluster_id: text.to_owned(),
    };
    assert_eq!(log.apply(&name("short")), Err(ApplyError::InvalidClusterId));
    let first = "MDEyMzQ1Njc4OWFiY2RlZg";
    let answer = Ok(Applied::ClusterId {
        cluster_id: first.to_owned(),
    });
    assert_eq!(log.apply(&name(first)), answer);
    assert_eq!(log.apply(&name(&"A".repeat(22))), answer);
}
