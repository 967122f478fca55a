//! Topics, configs, producer ids, routes and the cluster's name.

use super::*;

#[test]
fn topics_are_checked() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let (one, two) = (new_segment(log.fresh()), new_segment(log.fresh()));
    for name in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(250)] {
        assert_eq!(
            log.apply(&creation(2, name, vec![one.clone()])),
            Err(ApplyError::InvalidName)
        );
    }
    let id = TopicId(Uuid::from_u128(1));
    let exists = log.apply(&creation(2, "t1", vec![one.clone()]));
    assert_eq!(exists, Err(ApplyError::TopicExists { id }));
    assert_eq!(
        log.apply(&creation(1, "t2", vec![one.clone()])),
        Err(ApplyError::TopicIdTaken { id })
    );
    let none = log.apply(&creation(2, "t2", vec![]));
    assert!(matches!(
        none,
        Err(ApplyError::InvalidPartitionCount { current: 0, .. })
    ));
    let twice = log.apply(&creation(2, "t2", vec![one.clone(), one.clone()]));
    assert_eq!(twice, Err(ApplyError::SegmentIdTaken { id: one.id }));
    let mut three = creation(2, "t2", vec![one.clone()]);
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
    let stale = log.apply(&grow(2, vec![one.clone()]));
    assert!(matches!(
        stale,
        Err(ApplyError::InvalidPartitionCount { current: 1, .. })
    ));
    let grown = log.apply(&grow(1, vec![one, two]));
    assert_eq!(grown, Ok(Applied::PartitionsCreated { count: 3 }));
}

#[test]
fn more_replicas_are_for_the_segments_to_come() {
    let mut log = Log::with_broker();
    log.create(1, 1).expect("create");
    let id = partition(1, 0);
    let set = |expected, replication_factor| Command::SetReplicationFactor {
        topic: id.topic,
        expected,
        replication_factor,
    };
    assert_eq!(
        log.apply(&set(1, 2)),
        Err(ApplyError::InvalidReplicationFactor { asked: 2 }),
        "there is one broker"
    );
    for broker in [2, 3] {
        let registration = registration(BrokerId(broker), 70 + broker as u128, None);
        log.apply(&registration).expect("registered");
    }
    assert!(log.apply(&set(2, 3)).is_err());
    assert!(log.apply(&set(1, 0)).is_err());
    assert_eq!(log.apply(&set(1, 3)), Ok(Applied::ReplicationFactorSet));
    let configs = Command::AlterTopicConfigs {
        topic: id.topic,
        set: BTreeMap::from([("min.insync.replicas".to_owned(), "2".to_owned())]),
        delete: vec![],
    };
    assert_eq!(log.apply(&configs), Ok(Applied::ConfigsAltered));
    let open = &log.chain(id)[0];
    assert_eq!((open.replicas.len(), open.min_insync), (1, 1));
}

#[test]
fn configs_are_bounded_and_ask_for_no_more_replicas_than_a_topic_has() {
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
    assert_eq!(log.chain(id)[1].min_insync, 1);
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
