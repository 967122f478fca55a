//! Any sequence of commands, mostly legal ones.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::snapshot;

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
            let new = (0..partitions).map(|_| new_segment(log.fresh())).collect();
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
                add: (0..by).map(|_| new_segment(log.fresh())).collect(),
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
            Command::SealAndOpenSingle {
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
