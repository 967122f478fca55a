//! A sync that fails: the shard says so and acknowledges nothing more, although later syncs would
//! succeed; what was readable stays readable.

use std::sync::Arc;

use mainstem_metadata::MemoryDisk;
use mainstem_simulation::World;
use parking_lot::Mutex;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

use crate::{
    disk::{Crash, Disk, Syncs},
    kafka::{Gone, KAFKA_STORAGE_ERROR, Kafka, NONE, batch},
    mqtt::{Mqtt, Packet},
    node::{self, Node},
    world::Place,
};

/// When records were made; a topic takes any time that is past.
const NOW_MS: i64 = 1_700_000_000_000;

/// The text of the errors that were logged.
#[derive(Debug, Clone, Default)]
struct Errors(Arc<Mutex<Vec<String>>>);

/// The fields of one of them.
struct Text(String);

impl Errors {
    fn any_has(&self, part: &str) -> bool {
        self.0.lock().iter().any(|text| text.contains(part))
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!("{}={value:?} ", field.name()));
    }
}

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        self.0.lock().push(text.0);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// A life of a node on a disk that the test can spoil.
struct Life {
    place: Place,
    disk: Disk,
    node: Node,
}

async fn start(
    world: &World,
    number: u64,
    disk: Disk,
    metadata: &MemoryDisk,
    shards: &str,
) -> Life {
    let place = Place::new(world, 1, number, Arc::new(disk.clone()));
    let config = node::config(&[("mainstem.io.shards", shards)]);
    let node = Node::start(&place, &config, metadata).await;
    let node = node.expect("the node starts");
    Life { place, disk, node }
}

/// Produces a record to partition 0: the error code and the offset.
async fn produce(kafka: &mut Kafka, topic: &str, acks: i16, value: &str) -> (i16, i64) {
    let bytes = batch(&[value.to_owned()], None, NOW_MS);
    kafka.send_batch(topic, acks, bytes).await.unwrap();
    kafka.produced().await.unwrap()
}

async fn values(kafka: &mut Kafka, topic: &str) -> Vec<String> {
    let records = kafka.read_all(topic).await.unwrap();
    records.into_values().collect()
}

#[test]
fn node_whose_shard_failed_acknowledges_nothing_and_serves_what_it_had() {
    mainstem_simulation::run(1, |world| async move {
        let metadata = MemoryDisk::default();
        let life = start(&world, 0, Disk::new(world.disk()), &metadata, "1").await;
        let Life { place, disk, node } = &life;
        let mut kafka = Kafka::connect(node).await.unwrap();
        assert_eq!(kafka.create("t", &[]).await, Ok(NONE));
        assert_eq!(produce(&mut kafka, "t", -1, "before").await, (NONE, 0));
        assert_eq!(kafka.commit("group", "t", 1).await, Ok(NONE));
        let (mut publisher, _) = Mqtt::connect(node, "publisher", false).await.unwrap();
        publisher
            .publish(("m/x", 1, 1), "before", false)
            .await
            .unwrap();
        assert_eq!(publisher.receive().await, Ok(Packet::PubAck(1)));
        assert_eq!(node.broker.readiness(), Vec::<String>::new());

        disk.set_syncs(Syncs::FailOnce);
        let lines = Errors::default();
        let logged = tracing::subscriber::set_default(lines.clone());
        let error = produce(&mut kafka, "t", -1, "lost").await;
        drop(logged);
        assert_eq!(error, (KAFKA_STORAGE_ERROR, -1));
        assert_eq!(disk.syncs(), Syncs::Work, "later syncs would succeed");
        let readiness = node.broker.readiness();
        assert!(readiness[0].starts_with("log shard 0: "), "{readiness:?}");
        assert_eq!(node.metric("mainstem_log_shard_failed"), 1.0);
        assert!(
            lines.any_has("injected"),
            "the log says how the disk failed: {lines:?}"
        );

        // Nothing is acknowledged any more, whatever was asked for.
        for acks in [-1, 1] {
            let (error, _) = produce(&mut kafka, "t", acks, "refused").await;
            assert_eq!(error, KAFKA_STORAGE_ERROR, "acks={acks}");
        }
        assert!(kafka.commit("group", "t", 2).await.unwrap() != NONE);
        publisher
            .publish(("m/x", 1, 2), "refused", false)
            .await
            .unwrap();
        assert_eq!(
            publisher.receive().await,
            Err(Gone),
            "closed without PUBACK"
        );

        // What was readable is readable.
        assert_eq!(values(&mut kafka, "t").await, ["before"]);
        assert_eq!(values(&mut kafka, "m").await, ["before"]);
        assert_eq!(kafka.committed("group", "t").await, Ok(Ok(1)));

        // A restart on what the failed sync has left serves again, with all that was acknowledged.
        disk.end_now(Crash::PowerCut, 7);
        place.process.end();
        let next = Disk::new(disk.left());
        let life = start(&world, 1, next, &metadata.copy(), "1").await;
        let mut kafka = Kafka::connect(&life.node).await.unwrap();
        assert_eq!(life.node.broker.readiness(), Vec::<String>::new());
        assert_eq!(values(&mut kafka, "m").await, ["before"]);
        let found = values(&mut kafka, "t").await;
        let (first, rest) = found.split_first().unwrap();
        assert_eq!(first, "before");
        assert!(rest.iter().all(|value| value == "lost"), "{rest:?}");
        assert_eq!(produce(&mut kafka, "t", -1, "after").await.0, NONE);
    });
}

#[test]
fn other_shards_go_on_when_one_has_failed() {
    mainstem_simulation::run(2, |world| async move {
        let metadata = MemoryDisk::default();
        let life = start(&world, 0, Disk::new(world.disk()), &metadata, "2").await;
        let Life { disk, node, .. } = &life;
        let mut kafka = Kafka::connect(node).await.unwrap();
        let topics: Vec<String> = (0..16).map(|number| format!("t{number}")).collect();
        for topic in &topics {
            assert_eq!(kafka.create(topic, &[]).await, Ok(NONE));
            assert_eq!(produce(&mut kafka, topic, -1, "before").await, (NONE, 0));
        }
        disk.set_syncs(Syncs::FailOnce);
        assert_eq!(
            produce(&mut kafka, "t0", -1, "lost").await.0,
            KAFKA_STORAGE_ERROR
        );
        assert_eq!(node.metric("mainstem_log_shard_failed"), 1.0);
        let mut failed = 0;
        for topic in &topics {
            let (error, offset) = produce(&mut kafka, topic, -1, "after").await;
            let expected: &[&str] = if error == NONE {
                assert_eq!(offset, 1);
                &["before", "after"]
            } else {
                assert_eq!(error, KAFKA_STORAGE_ERROR);
                failed += 1;
                &["before"]
            };
            assert_eq!(values(&mut kafka, topic).await, expected, "{topic}");
        }
        assert!(
            (1..topics.len()).contains(&failed),
            "{failed} of 16 on one shard"
        );
    });
}
