//! Who leads a partition does not hold what came before: others do, and it copies nothing in time.

use mainstem_metadata::{BeginSeal, Command, SealReason, TopicOrigin};
use mainstem_record::{Offset, PartitionId, PartitionIndex};

use super::{cluster::Cluster, *};
use crate::internal::{InternalTopic, KeyValue, ReplayRecord};

/// Has the partition led by another node than `from`, which alone holds all that is in it. Returns by
/// whom.
async fn move_away(cluster: &Cluster, id: PartitionId, from: i32) -> i32 {
    let core = cluster.core(from);
    let open = core.image().partition(id).and_then(|r| r.active()).cloned();
    let open = open.expect("open");
    let drain = Command::DrainBroker { member: core.me() };
    core.metadata.propose(drain).await.expect("draining");
    let seal = BeginSeal {
        partition: id,
        segment: open.id,
        version: open.version,
    };
    let seal = Command::BeginSeal {
        seals: vec![seal],
        reason: SealReason::Requested,
    };
    core.metadata.propose(seal).await.expect("sealing");
    let leader = async {
        loop {
            let mut others = cluster.nodes.iter().filter(|(node, _)| **node != from);
            if let Some((node, _)) = others.find(|(_, life)| life.core.leads(id)) {
                return *node;
            }
            Env::real().sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(20);
    let leader = Env::real().timeout(limit, leader).await.expect("in time");
    lacks_the_first(cluster, id, leader);
    leader
}

fn lacks_the_first(cluster: &Cluster, id: PartitionId, node: i32) {
    let log = cluster.core(node).log.partition(id).expect("open");
    assert!(!log.segments()[0].held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn session_catches_up_from_what_the_leader_lacks() {
    let cluster = Box::pin(Cluster::start_with(1)).await;
    let id = cluster.topic_of("t", 1, TopicOrigin::Admin).await;
    let publisher = cluster.connect(1, "p", 0).await.session;
    let mut expected = Vec::new();
    for node in 1..=3 {
        let session = cluster
            .connect(node, &format!("s{node}"), 600)
            .await
            .session;
        subscribe(&session, "t/#", QoS::AtLeastOnce).await;
        let end = Disconnect {
            publish_will: false,
            session_expiry_s: None,
        };
        session.disconnect(end).await;
    }
    for number in 0..40 {
        let text = format!("{number} {}", "x".repeat(300));
        put(&publisher, "t/x", &text, QoS::AtLeastOnce).await;
        expected.push(text);
    }
    let leader = move_away(&cluster, id, 1).await;
    let publisher = cluster.connect(leader, "q", 0).await.session;
    for number in 40..50 {
        let text = number.to_string();
        put(&publisher, "t/x", &text, QoS::AtLeastOnce).await;
        expected.push(text);
    }
    // At the leader, where the old segment is, and at a node that has nothing of the partition.
    for node in 1..=3 {
        let connected = cluster.connect(node, &format!("s{node}"), 600).await;
        assert!(connected.session_present);
        let taken = take(&connected.session, expected.len()).await;
        assert!(texts(&taken) == expected, "at node {node}");
    }
    lacks_the_first(&cluster, id, leader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn internal_topic_is_replayed_from_what_the_leader_lacks() {
    let cluster = Box::pin(Cluster::start_with(1)).await;
    let id = cluster.topic_of("__state", 1, TopicOrigin::Internal).await;
    let index = PartitionIndex(0);
    let opened = InternalTopic::open(cluster.core(1), "__state", 1).await;
    let first = opened.expect("it is there");
    for number in 0..20 {
        let record = KeyValue {
            key: Bytes::from(format!("key {number}")),
            value: Some(Bytes::from(vec![b'v'; 300])),
        };
        let ticket = first.append(index, vec![record]).await.expect("led");
        ticket.await.expect("stored");
    }
    let leader = move_away(&cluster, id, 1).await;
    let opened = InternalTopic::open(cluster.core(leader), "__state", 1).await;
    let next = opened.expect("it is there");
    let mut keys = Vec::new();
    let mut each = |record: ReplayRecord<'_>| keys.push((record.offset, record.key.to_vec()));
    let replayed = next.replay_led(index, &mut each).await;
    replayed.expect("replayed");
    let expected = (0..20).map(|number| (Offset(number), format!("key {number}").into_bytes()));
    assert!(keys.into_iter().eq(expected));
    lacks_the_first(&cluster, id, leader);
}
