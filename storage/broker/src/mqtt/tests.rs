//! The MQTT side over a real log, without a protocol.

mod broken;
mod cluster;
mod counts;
mod dictionary;
mod elsewhere;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_config::Config;
use mainstem_env::Env;
use mainstem_log::{Log, LogOptions};
use mainstem_metadata::{Metadata, MetadataOptions, StoreKind};
use uuid::Uuid;

use super::*;
use crate::core::BrokerDeps;

/// A node whose metadata outlives its crashes.
struct Node {
    dir: tempfile::TempDir,
    metadata: Metadata,
    life: Option<Life>,
    config: Arc<Config>,
}

struct Life {
    core: Arc<Core>,
    log: Log,
    mqtt: Mqtt,
    registry: prometheus::Registry,
}

impl Node {
    async fn start() -> Self {
        Self::start_with(Config::default()).await
    }

    async fn start_with(config: Config) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = MetadataOptions {
            dir: dir.path().join("metadata"),
            node_id: 1,
            store: StoreKind::Memory,
        };
        let metadata = Metadata::start(Env::real(), options)
            .await
            .expect("metadata");
        let config = Arc::new(config);
        let life = Life::start(dir.path(), &metadata, &config).await;
        Self {
            dir,
            metadata,
            life: Some(life),
            config,
        }
    }

    fn mqtt(&self) -> &Mqtt {
        &self.life.as_ref().expect("a life").mqtt
    }

    /// Only what is in the log survives.
    async fn crash(&mut self) {
        let life = self.life.take().expect("a life");
        life.core.close(Duration::from_secs(10)).await;
        life.log.close().await.expect("the log closes");
        drop(life);
        self.life = Some(Life::start(self.dir.path(), &self.metadata, &self.config).await);
    }

    async fn connect(&self, client_id: &str, expiry_s: u32) -> Connected {
        self.connect_with(client_id, expiry_s, |_| ()).await
    }

    async fn connect_with(
        &self,
        client_id: &str,
        expiry_s: u32,
        change: impl FnOnce(&mut ConnectRequest),
    ) -> Connected {
        let mut request = ConnectRequest {
            client_id: client_id.into(),
            clean_start: expiry_s == 0,
            session_expiry_s: expiry_s,
            v5: true,
            will: None,
            receive_maximum: 100,
        };
        change(&mut request);
        let caller = Caller::anonymous(SocketAddr::from(([127, 0, 0, 1], 1)), client_id);
        self.mqtt()
            .connect(&caller, request)
            .await
            .expect("connected")
    }
}

impl Life {
    async fn start(dir: &Path, metadata: &Metadata, config: &Arc<Config>) -> Self {
        Self::start_with_peers(dir, metadata, config, None).await
    }

    async fn start_with_peers(
        dir: &Path,
        metadata: &Metadata,
        config: &Arc<Config>,
        peers: Option<mainstem_peers::Peers>,
    ) -> Self {
        let registry = prometheus::Registry::new();
        let options = LogOptions {
            shards: 1,
            tail_cache_bytes: 1 << 20,
            shard_inflight_bytes_max: 1 << 22,
            shard_inflight_count_max: 1024,
            index_interval_bytes: 4096,
            low_space_bytes: 0,
            producer_expiry: Duration::from_secs(3600),
            decompressed_bytes_max: 1 << 20,
            open_files_max: 64,
            dictionary_segment_bytes_min: 0,
            journal_bytes: 1 << 20,
            ..LogOptions::new(dir.join("log"))
        };
        let (log, log_events) = Log::start(Env::real(), options, &registry)
            .await
            .expect("the log");
        let deps = BrokerDeps {
            env: Env::real(),
            config: Arc::new(Config {
                data_dir: dir.to_owned(),
                ..(**config).clone()
            }),
            metadata: metadata.clone(),
            log: log.clone(),
            log_events,
            peer_address: peers
                .as_ref()
                .and_then(|peers| peers.local_addr())
                .map(|address| address.to_string()),
            peers,
            registry: registry.clone(),
            advertise: ("127.0.0.1".into(), 9092),
            directory_id: Uuid::from_u128(config.node_id.unsigned_abs().into()),
        };
        let core = Core::start(deps).await.expect("the core");
        let mqtt = Mqtt::start(&core).await.expect("mqtt");
        Self {
            core,
            log,
            mqtt,
            registry,
        }
    }
}

fn publish(topic: &str, payload: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        packet_id,
        properties: MessageProperties::default(),
    }
}

fn filter(filter: &str, qos: QoS) -> SubscribeFilter {
    SubscribeFilter {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: 0,
        subscription_id: None,
    }
}

async fn put(session: &Session, topic: &str, payload: &str, qos: QoS) {
    let ticket = session
        .publish(publish(topic, payload, qos, 1))
        .await
        .expect("published");
    ticket.await.expect("stored");
    if qos == QoS::ExactlyOnce {
        assert!(session.release(1).await.expect("released"));
    }
}

async fn subscribe(session: &Session, name: &str, qos: QoS) {
    let granted = session
        .subscribe(vec![filter(name, qos)])
        .await
        .expect("subscribed");
    assert_eq!(granted, [Ok(qos)]);
}

async fn next(session: &Session) -> Vec<Delivery> {
    let limit = Duration::from_secs(20);
    match Env::real()
        .timeout(limit, session.next(10))
        .await
        .expect("in time")
    {
        SessionEvent::Deliveries(deliveries) => deliveries,
        other => panic!("{other:?}"),
    }
}

fn texts(deliveries: &[Delivery]) -> Vec<String> {
    let text =
        |delivery: &Delivery| String::from_utf8_lossy(&delivery.message.payload).into_owned();
    deliveries.iter().map(text).collect()
}

/// Takes `count` messages and acknowledges each, as a client would.
async fn take(session: &Session, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        for delivery in next(session).await {
            acknowledge(session, 7, &delivery).await;
            taken.push(delivery);
        }
    }
    assert_eq!(taken.len(), count, "{:?}", texts(&taken));
    taken
}

async fn acknowledge(session: &Session, packet_id: u16, delivery: &Delivery) {
    if delivery.qos == QoS::AtMostOnce {
        return;
    }
    session
        .sent(vec![(packet_id, delivery.clone())])
        .await
        .expect("sent");
    if delivery.qos == QoS::ExactlyOnce {
        session.received(vec![packet_id]).await.expect("received");
    }
    session.completed(vec![packet_id]).await.expect("completed");
}

/// Nothing more is to come: a marker is the next message.
async fn assert_drained(publisher: &Session, session: &Session, topic: &str) {
    put(publisher, topic, "marker", QoS::AtLeastOnce).await;
    assert_eq!(texts(&take(session, 1).await), ["marker"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publish_reaches_live_subscribers_of_every_qos() {
    let node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    let subscriber = node.connect("s", 0).await.session;
    put(
        &publisher,
        "sensors/kitchen/temp",
        "before",
        QoS::AtLeastOnce,
    )
    .await;
    subscribe(&subscriber, "sensors/+/temp", QoS::ExactlyOnce).await;
    for (payload, qos) in [
        ("0", QoS::AtMostOnce),
        ("1", QoS::AtLeastOnce),
        ("2", QoS::ExactlyOnce),
    ] {
        put(&publisher, "sensors/kitchen/temp", payload, qos).await;
        let taken = take(&subscriber, 1).await;
        assert_eq!(texts(&taken), [payload]);
        assert_eq!(taken[0].qos, qos);
        assert_eq!(taken[0].message.topic, "sensors/kitchen/temp");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_that_comes_after_the_subscription_is_seen_from_its_beginning() {
    let node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    let subscriber = node.connect("s", 0).await.session;
    subscribe(&subscriber, "#", QoS::AtLeastOnce).await;
    put(&publisher, "new/a", "1", QoS::AtLeastOnce).await;
    put(&publisher, "/overflow", "2", QoS::AtLeastOnce).await;
    let mut found = texts(&take(&subscriber, 2).await);
    found.sort();
    assert_eq!(found, ["1", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn persistent_session_gets_what_it_missed_over_disconnect_and_crash() {
    let mut node = Node::start().await;
    let subscriber = node.connect("s", 1000).await.session;
    subscribe(&subscriber, "t/#", QoS::ExactlyOnce).await;
    subscriber
        .disconnect(Disconnect {
            publish_will: false,
            session_expiry_s: None,
        })
        .await;
    let publisher = node.connect("p", 0).await.session;
    put(&publisher, "t/a", "1", QoS::AtLeastOnce).await;
    put(&publisher, "t/a", "0", QoS::AtMostOnce).await;
    put(&publisher, "t/b", "2", QoS::ExactlyOnce).await;
    node.crash().await;
    let connected = node.connect("s", 1000).await;
    assert!(connected.session_present && connected.outbound.is_empty());
    let publisher = node.connect("p", 0).await.session;
    // QoS 0 is not kept for those who are away.
    assert_eq!(texts(&take(&connected.session, 2).await), ["1", "2"]);
    assert_drained(&publisher, &connected.session, "t/c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outbound_qos_2_is_resumed_after_a_crash_and_never_repeated() {
    let mut node = Node::start().await;
    let subscriber = node.connect("s", 1000).await.session;
    subscribe(&subscriber, "t/#", QoS::ExactlyOnce).await;
    let publisher = node.connect("p", 0).await.session;
    for payload in ["done", "released", "published", "waiting"] {
        put(&publisher, "t/a", payload, QoS::ExactlyOnce).await;
    }
    let mut queue = Vec::new();
    while queue.len() < 3 {
        let window = 3 - queue.len();
        let SessionEvent::Deliveries(found) = subscriber.next(window).await else {
            panic!("no deliveries");
        };
        for delivery in found {
            let packet_id = 10 + queue.len() as u16;
            subscriber
                .sent(vec![(packet_id, delivery.clone())])
                .await
                .expect("sent");
            queue.push(delivery);
        }
    }
    subscriber.received(vec![10, 11]).await.expect("received");
    subscriber.completed(vec![10]).await.expect("completed");
    node.crash().await;
    let connected = node.connect("s", 1000).await;
    let resumed: Vec<String> = connected
        .outbound
        .iter()
        .map(|resume| match &resume.phase {
            OutboundPhase::Released => format!("{} released", resume.packet_id),
            OutboundPhase::Published(delivery) => {
                assert!(delivery.duplicate);
                format!(
                    "{} {}",
                    resume.packet_id,
                    texts(std::slice::from_ref(delivery))[0]
                )
            }
        })
        .collect();
    assert_eq!(resumed, ["10 released", "11 released", "12 published"]);
    connected
        .session
        .received(vec![12])
        .await
        .expect("received");
    connected
        .session
        .completed(vec![10, 11, 12])
        .await
        .expect("completed");
    let publisher = node.connect("p", 0).await.session;
    assert_eq!(texts(&take(&connected.session, 1).await), ["waiting"]);
    assert_drained(&publisher, &connected.session, "t/c").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inbound_qos_2_is_stored_once_over_repeat_takeover_and_crash() {
    let mut node = Node::start().await;
    let publisher = node.connect("p", 1000).await.session;
    let once = || publish("t/a", "once", QoS::ExactlyOnce, 5);
    publisher
        .publish(once())
        .await
        .expect("published")
        .await
        .expect("stored");
    publisher
        .publish(once())
        .await
        .expect("published")
        .await
        .expect("a repeat");
    let taken_over = node.connect("p", 1000).await;
    assert_eq!(taken_over.inbound_qos2, [5]);
    assert!(matches!(publisher.next(1).await, SessionEvent::TakenOver));
    assert_eq!(publisher.release(5).await, Err(PublishError::Fenced));
    taken_over
        .session
        .publish(once())
        .await
        .expect("published")
        .await
        .expect("a repeat");
    node.crash().await;
    let connected = node.connect("p", 1000).await;
    assert_eq!(connected.inbound_qos2, [5]);
    connected
        .session
        .publish(once())
        .await
        .expect("published")
        .await
        .expect("a repeat");
    assert_eq!(connected.session.release(5).await, Ok(true));
    assert_eq!(connected.session.release(5).await, Ok(false));
    connected
        .session
        .publish(once())
        .await
        .expect("published")
        .await
        .expect("a new one");
    let partition = {
        let core = &node.life.as_ref().expect("a life").core;
        let topic = core.image().topic("t").cloned().expect("the topic");
        let id = delivery::partitions_of(&topic).next().expect("a partition");
        core.partition(id).expect("open")
    };
    assert_eq!(partition.ends().committed_end.0, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_session_catches_up_from_the_log() {
    let mut config = Config::default();
    config.mqtt.queue_messages_max = 5;
    let node = Node::start_with(config).await;
    let publisher = node.connect("p", 0).await.session;
    let subscriber = node.connect("s", 0).await.session;
    subscribe(&subscriber, "t/#", QoS::AtLeastOnce).await;
    let expected: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    for payload in &expected {
        put(&publisher, "t/a", payload, QoS::AtLeastOnce).await;
    }
    assert_eq!(texts(&take(&subscriber, 200).await), expected);
    assert_drained(&publisher, &subscriber, "t/a").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_message_is_delivered_replaced_deleted_and_survives() {
    let mut node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    let retain = |payload: &str| Publish {
        retain: true,
        ..publish("r/a", payload, QoS::AtLeastOnce, 1)
    };
    for payload in ["old", "new"] {
        publisher
            .publish(retain(payload))
            .await
            .expect("published")
            .await
            .expect("stored");
    }
    node.crash().await;
    let subscriber = node.connect("s", 0).await.session;
    subscribe(&subscriber, "r/#", QoS::AtLeastOnce).await;
    let found = take(&subscriber, 1).await;
    assert_eq!(
        (texts(&found), found[0].retain),
        (vec!["new".to_owned()], true)
    );
    let publisher = node.connect("p", 0).await.session;
    publisher
        .publish(retain(""))
        .await
        .expect("published")
        .await
        .expect("stored");
    assert_eq!(texts(&take(&subscriber, 1).await), [""]);
    assert_eq!(node.mqtt().stats().retained, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn will_is_published_when_the_connection_is_lost_and_not_after_a_disconnect() {
    let node = Node::start().await;
    let watcher = node.connect("w", 0).await.session;
    subscribe(&watcher, "will/#", QoS::AtLeastOnce).await;
    let will = |payload: &'static str| Will {
        topic: "will/a".into(),
        payload: Bytes::from_static(payload.as_bytes()),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_s: 0,
        properties: MessageProperties::default(),
    };
    let quiet = node
        .connect_with("a", 0, |request| request.will = Some(will("no")))
        .await;
    quiet
        .session
        .disconnect(Disconnect {
            publish_will: false,
            session_expiry_s: None,
        })
        .await;
    let lost = node
        .connect_with("a", 0, |request| request.will = Some(will("lost")))
        .await;
    drop(lost.session);
    assert_eq!(texts(&take(&watcher, 1).await), ["lost"]);
    let kept = node
        .connect_with("b", 1000, |request| request.will = Some(will("kept")))
        .await;
    drop(kept.session);
    assert_eq!(texts(&take(&watcher, 1).await), ["kept"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shared_subscription_takes_turns_and_gives_on_what_was_not_acknowledged() {
    let node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    let first = node.connect("a", 0).await.session;
    let second = node.connect("b", 0).await.session;
    for session in [&first, &second] {
        subscribe(session, "$share/g/t/#", QoS::AtLeastOnce).await;
    }
    for payload in ["1", "2", "3", "4"] {
        put(&publisher, "t/a", payload, QoS::AtLeastOnce).await;
    }
    let mut found = texts(&take(&second, 2).await);
    // The other half is with the first one, which goes away without an acknowledgement.
    let held = next(&first).await;
    first.sent(vec![(1, held[0].clone())]).await.expect("sent");
    drop(first);
    found.extend(texts(&take(&second, 2).await));
    found.sort();
    assert_eq!(found, ["1", "2", "3", "4"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_are_permanent_ones() {
    let node = Node::start().await;
    let session = node.connect("p", 0).await.session;
    let refused = |publish: Publish| async {
        match session.publish(publish).await {
            Err(PublishError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    };
    let qos = QoS::AtLeastOnce;
    assert_eq!(
        refused(publish("$SYS/x", "", qos, 1)).await,
        Refusal::NotAuthorized
    );
    let huge = "x".repeat(2_000_000);
    assert_eq!(
        refused(publish("t/a", &huge, qos, 1)).await,
        Refusal::TooLarge
    );
    let mut binary = publish("t/a", "", qos, 1);
    binary.payload = Bytes::from_static(b"\xff");
    binary.properties.payload_format = Some(1);
    assert_eq!(refused(binary).await, Refusal::PayloadFormat);
    let bad = session
        .subscribe(vec![filter("a/#/b", qos), filter("$share/g", qos)])
        .await;
    assert_eq!(bad, Ok(vec![Err(0x8f), Err(0x8f)]));
}
