//! Two and three nodes in one world.

mod node;

use std::time::Duration;

use mainstem_log::{Ack, Flush};
use mainstem_record::Offset;
use mainstem_simulation::{LinkOptions, World, run};

use self::node::{Node, Start, bytes_of, equal, member, partition, produce, segment, until};

const DELAY: Duration = Duration::from_millis(5);

/// Two nodes, the first of which leads `partitions` partitions.
async fn pair(world: &World, partitions: i32, flush: Flush) -> (Node, Node) {
    let leader = Node::start(world, 1, 1, Start::default()).await;
    let follower = Node::start(world, 2, 1, Start::default()).await;
    for index in 0..partitions {
        let mut segment = segment(index, 0, 0, &[member(1, 1), member(2, 1)]);
        segment.flush_always = flush == Flush::Always;
        leader.open(index, &[segment.clone()], flush).await;
        follower.open(index, &[segment], flush).await;
    }
    (leader, follower)
}

#[test]
fn an_append_is_exposed_after_one_round_trip_and_no_timer() {
    run(1, |world| async move {
        let (leader, follower) = pair(&world, 1, Flush::Os).await;
        let log = leader.part(0);
        produce(&log, 10, Ack::Durable).await.await.unwrap();
        let links = LinkOptions {
            delay: DELAY,
            ..LinkOptions::default()
        };
        world.net().set_links(links);
        for _ in 0..10 {
            let began = leader.process.env.now();
            produce(&log, 100, Ack::Durable).await.await.unwrap();
            let took = leader.process.env.now() - began;
            assert_eq!(took, 2 * DELAY, "there and back");
        }
        equal(&world, &log, &follower.part(0)).await;
    });
}

#[test]
fn a_thousand_partitions_go_over_one_stream() {
    run(2, |world| async move {
        const PARTITIONS: i32 = 1000;
        let (leader, follower) = pair(&world, PARTITIONS, Flush::Os).await;
        for round in 0..3 {
            let mut tickets = Vec::new();
            for index in 0..PARTITIONS {
                let bytes = 10 + (index as usize + round) % 500;
                tickets.push(produce(&leader.part(index), bytes, Ack::Durable).await);
            }
            for ticket in tickets {
                ticket.await.unwrap();
            }
        }
        for index in 0..PARTITIONS {
            equal(&world, &leader.part(index), &follower.part(index)).await;
        }
        assert_eq!(leader.metric("mainstem_replication_streams", "leader"), 1);
        assert_eq!(
            follower.metric("mainstem_replication_streams", "follower"),
            1
        );
        assert_eq!(follower.metric("mainstem_replication_resumed_total", ""), 0);
    });
}
