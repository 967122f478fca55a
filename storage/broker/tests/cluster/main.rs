//! Three brokers that replicate: what Kafka asks of them when a leader and coordinator dies, and when
//! what is read is on other brokers.

mod elsewhere;
mod node;

use mainstem_broker::{ErrorCode, NewTopicRequest};
use mainstem_record::{BrokerId, LeaderEpoch, Offset};
use mainstem_simulation::run;

use self::node::{Cluster, INDEX, TOPIC, caller};

/// Kills the leader of the topic, or the coordinator of the group; often they are one.
fn fail_over(seed: u64, kill_coordinator: bool) {
    run(seed, move |world| async move {
        let mut cluster = Cluster::start(world).await;
        let any = cluster.nodes[&2].broker.clone();
        let new = NewTopicRequest {
            name: "t".to_owned(),
            partitions: 1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: vec![("min.insync.replicas".to_owned(), Some("2".to_owned()))],
        };
        let created = any.create_topics(&caller(), vec![new], false).await;
        let created = created.into_iter().next().expect("one").expect("created");
        assert_eq!(created.replication_factor, 3);
        let internal = any.image().topic("__consumer_offsets").cloned();
        assert_eq!(internal.expect("made").replication_factor, 3);

        let ids = any.init_producer_id(&caller(), None, None).await;
        let (producer, _) = ids.expect("an id");
        let (leader, first) = cluster.produce(producer, 0).await;
        assert_eq!(first.base_offset, Offset(0));
        let coordinator = cluster.commit(1).await;
        let knowing = cluster.nodes.values().filter(|node| {
            let hint = node.broker.leader_hint(&TOPIC, INDEX).expect("known");
            assert_eq!(hint.leader.expect("led").id, BrokerId(leader));
            let found = node.broker.groups().coordinator_of("g");
            found.expect("known").id == BrokerId(coordinator)
        });
        assert_eq!(knowing.count(), 3, "every node knows both");

        let victim = if kill_coordinator {
            coordinator
        } else {
            leader
        };
        let node = cluster.nodes.remove(&victim).expect("known");
        node.process.end();
        // A repeated send is recognised, and the next one goes on.
        let (next, again) = cluster.produce(producer, 0).await;
        assert_ne!(next, victim);
        assert_eq!(
            again.base_offset,
            Offset(0),
            "sequence state came with the log"
        );
        let (_, second) = cluster.produce(producer, 1).await;
        assert_eq!(second.base_offset, Offset(1));
        assert_eq!(cluster.committed().await, Offset(1));
        cluster.commit(2).await;
        assert_eq!(cluster.committed().await, Offset(2));

        // The old epoch ends where the new one begins; who asks with it is told to look again.
        let broker = cluster.nodes[&next].broker.clone();
        let image = broker.image();
        let record = image.topic("t").expect("known").partitions[0].clone();
        let (old, new) = (LeaderEpoch(0), record.epoch());
        if victim != leader {
            assert_eq!((new, next), (old, leader), "nobody else had to lead");
            return;
        }
        assert!(new > old);
        let end = broker.epoch_end(&caller(), (&TOPIC, INDEX), LeaderEpoch::NONE, old);
        assert_eq!(end, Ok((old, record.segments[0].end.expect("sealed"))));
        let fenced = broker.epoch_end(&caller(), (&TOPIC, INDEX), old, old);
        assert_eq!(fenced, Err(ErrorCode::FencedLeaderEpoch));
    });
}

#[test]
fn producers_and_groups_go_on_when_leader_or_coordinator_dies() {
    fail_over(1, false);
    fail_over(2, true);
}
