//! What happens at the limits: a disk that stalls, a disk that is full, topics that MQTT makes.

use std::{cell::Cell, sync::Arc, time::Duration};

use mainstem_env::Clock as _;
use mainstem_metadata::MemoryDisk;
use mainstem_simulation::{SOCKET_BUFFER_BYTES, Stall, World};

use crate::{
    disk::Disk,
    kafka::{KAFKA_STORAGE_ERROR, Kafka, NONE, batch},
    mqtt::{Mqtt, Packet},
    node::{self, Node},
    world::Place,
};

/// `mainstem.shard.inflight.bytes`, and shards.
const SHARD_BYTES: usize = 1 << 20;
const SHARDS: usize = 2;

/// The topics of the clients that write as fast as they can.
const TOPICS: [&str; 6] = ["t0", "t1", "t2", "t3", "t4", "t5"];

/// Bytes of one value.
const VALUE_BYTES: usize = 32 << 10;

/// What each client has to write.
const WRITES: usize = 100;

struct Life {
    disk: Disk,
    node: Node,
    stall: Arc<Stall>,
}

async fn start(world: &World, flags: &[(&str, &str)]) -> Life {
    let disk = Disk::new(world.disk());
    let place = Place::new(world, 1, 0, Arc::new(disk.clone()));
    let config = node::config(flags);
    let node = Node::start(&place, &config, &MemoryDisk::default()).await;
    let node = node.expect("the node starts");
    let stall = place.stall;
    Life { disk, node, stall }
}

/// Writes by Kafka without waiting for answers, and takes the answers.
async fn flood_kafka(node: &Node, topic: &str, pushed: &Cell<usize>, answered: &Cell<usize>) {
    let mut kafka = Kafka::connect(node).await.expect("a connection");
    let value = "v".repeat(VALUE_BYTES);
    let bytes = batch(&[value], None, node.env.wall_ms());
    let Kafka { sender, receiver } = &mut kafka;
    let push = async {
        for _ in 0..WRITES {
            sender
                .send_batch(topic, -1, bytes.clone())
                .await
                .expect("sent");
            pushed.set(pushed.get() + bytes.len());
        }
    };
    let take = async {
        for number in 0..WRITES {
            let answer = receiver.produced().await;
            assert_eq!(answer, Ok((NONE, i64::try_from(number).expect("few"))));
            answered.set(answered.get() + 1);
        }
    };
    tokio::join!(push, take);
}

/// While the disk stalls nothing is acknowledged, and what clients can push into the node is bounded
/// by the limit of requests or by that of the shards; afterwards everything is stored.
fn stalled_disk_stops_producers(seed: u64, request_bytes: usize, held_max: usize) {
    mainstem_simulation::run(seed, |world| async move {
        let flags = [
            ("mainstem.shard.inflight.bytes", SHARD_BYTES.to_string()),
            ("queued.max.request.bytes", request_bytes.to_string()),
            ("mainstem.io.shards", SHARDS.to_string()),
            // While a segment is being sealed, appends to its partition wait apart.
            ("log.segment.bytes", (1 << 28).to_string()),
        ];
        let flags = flags.each_ref().map(|(key, value)| (*key, value.as_str()));
        let Life { node, stall, .. } = start(&world, &flags).await;
        let mut kafka = Kafka::connect(&node).await.unwrap();
        for topic in TOPICS {
            assert_eq!(kafka.create(topic, &[]).await, Ok(NONE));
        }
        let (pushed, answered) = (Cell::new(0), Cell::new(0));
        let watch = async {
            stall.set(true);
            world.clock().sleep(Duration::from_secs(5)).await;
            let held = pushed.get();
            world.clock().sleep(Duration::from_secs(20)).await;
            assert_eq!((pushed.get(), answered.get()), (held, 0), "all stands");
            // Besides: what lies in the connections, and a request of each that is being read.
            let bound = held_max + TOPICS.len() * (SOCKET_BUFFER_BYTES + VALUE_BYTES);
            assert!(held <= bound, "{held} bytes in the node, {bound} allowed");
            assert!(held > held_max / 2, "the limit is made use of: {held}");
            stall.set(false);
        };
        let floods = async {
            let flood = |topic| flood_kafka(&node, topic, &pushed, &answered);
            let [a, b, c, d, e, f] = TOPICS.map(flood);
            tokio::join!(a, b, c, d, e, f);
        };
        tokio::join!(floods, watch);
        for topic in TOPICS {
            let records = kafka.read_all(topic).await.unwrap();
            assert_eq!(records.len(), WRITES, "{topic}");
        }
    });
}

#[test]
fn stalled_disk_stops_producers_at_the_limit_of_requests() {
    stalled_disk_stops_producers(3, 1 << 20, 1 << 20);
}

#[test]
fn stalled_disk_stops_producers_at_the_limit_of_the_shards() {
    stalled_disk_stops_producers(4, 1 << 30, SHARDS * SHARD_BYTES);
}

/// Below the watermark data is refused or held back, and what the coordinators and the metadata need
/// goes on; below a quarter of it only the metadata. All of it ends by itself.
#[test]
fn nearly_full_disk_refuses_data_first_and_resumes_by_itself() {
    const LOW_BYTES: u64 = 1 << 20;
    mainstem_simulation::run(5, |world| async move {
        let low = LOW_BYTES.to_string();
        let Life { disk, node, .. } = start(&world, &[("mainstem.low.space.bytes", &low)]).await;
        let mut kafka = Kafka::connect(&node).await.unwrap();
        let value = batch(&["v".to_owned()], None, node.env.wall_ms());
        let (mut device, _) = Mqtt::connect(&node, "device", false).await.unwrap();
        assert_eq!(kafka.create("t", &[]).await, Ok(NONE));

        let set_free = async |bytes| {
            disk.set_space(bytes, 1 << 30);
            // Longer than any look at the disk is believed.
            world.clock().sleep(Duration::from_secs(2)).await;
        };
        set_free(LOW_BYTES - 1).await;
        kafka.send_batch("t", -1, value.clone()).await.unwrap();
        assert_eq!(kafka.produced().await.unwrap().0, KAFKA_STORAGE_ERROR);
        assert_eq!(node.metric("mainstem_log_out_of_space"), 1.0);
        assert_eq!(kafka.commit("group", "t", 7).await, Ok(NONE));
        assert_eq!(kafka.create("u", &[]).await, Ok(NONE));
        device.publish(("m/x", 1, 1), "held", false).await.unwrap();
        let answer = node
            .env
            .timeout(Duration::from_millis(500), device.receive());
        assert!(answer.await.is_err(), "neither an answer nor a close");

        set_free(LOW_BYTES / 4 - 1).await;
        assert_eq!(
            kafka
                .commit("group", "t", 8)
                .await
                .map(|error| error == NONE),
            Ok(false)
        );
        assert_eq!(kafka.create("v", &[]).await, Ok(NONE));
        assert_eq!(kafka.committed("group", "t").await, Ok(Ok(7)));

        set_free(1 << 29).await;
        assert_eq!(node.metric("mainstem_log_out_of_space"), 0.0);
        for topic in ["t", "u", "v"] {
            kafka.send_batch(topic, -1, value.clone()).await.unwrap();
            assert_eq!(kafka.produced().await, Ok((NONE, 0)), "{topic}");
        }
        assert_eq!(kafka.commit("group", "t", 8).await, Ok(NONE));
        assert_eq!(
            device.receive().await,
            Ok(Packet::PubAck(1)),
            "what was held"
        );
        let records = kafka.read_all("m").await.unwrap();
        assert_eq!(records.into_values().collect::<Vec<_>>(), ["held"]);
    });
}

/// Topics that MQTT makes share a part of the disk, whether their segments are sealed or not; the
/// oldest data goes first, and what Kafka's clients made stays.
#[test]
fn topics_that_mqtt_made_stay_within_their_part_of_the_disk() {
    const TOTAL_BYTES: u64 = 5 << 20;
    for segment_bytes in ["16384", "268435456"] {
        mainstem_simulation::run(6, |world| async move {
            let flags = [
                ("log.segment.bytes", segment_bytes),
                ("mqtt.created.topics.disk.percent", "20"),
                ("log.retention.check.interval.ms", "1000"),
            ];
            let Life { disk, node, .. } = start(&world, &flags).await;
            disk.set_space(1 << 30, TOTAL_BYTES);
            let mut kafka = Kafka::connect(&node).await.unwrap();
            assert_eq!(kafka.create("kept", &[]).await, Ok(NONE));
            let value = "v".repeat(VALUE_BYTES);
            let bytes = batch(std::slice::from_ref(&value), None, node.env.wall_ms());
            let (mut device, _) = Mqtt::connect(&node, "device", true).await.unwrap();
            for round in 0..64 {
                kafka.send_batch("kept", -1, bytes.clone()).await.unwrap();
                assert_eq!(kafka.produced().await, Ok((NONE, round)));
                let topic = format!("made{}/x", round / 8);
                device.publish((&topic, 1, 1), &value, false).await.unwrap();
                assert_eq!(device.receive().await, Ok(Packet::PubAck(1)));
                world.clock().sleep(Duration::from_millis(10)).await;
            }
            world.clock().sleep(Duration::from_secs(3)).await;
            assert_eq!(kafka.read_all("kept").await.unwrap().len(), 64);
            let mut bytes = 0;
            let mut is_gone = Vec::new();
            for number in 0..8 {
                let made = format!("made{number}");
                let start = kafka.log_start(&made).await.unwrap();
                bytes += u64::try_from(8 - start).unwrap() * VALUE_BYTES as u64;
                is_gone.push(start > 0);
            }
            let budget = TOTAL_BYTES / 5;
            assert!(bytes <= budget, "{bytes} of {budget}");
            assert!(
                bytes > budget / 2,
                "no more than needed: {bytes} of {budget}"
            );
            assert!(
                is_gone.is_sorted_by(|a, b| a >= b),
                "oldest first: {is_gone:?}"
            );
            assert!(is_gone[0] && !is_gone[7]);
        });
    }
}
