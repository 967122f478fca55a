//! A damaged partition of an internal topic costs its own keys, not the start.

use super::*;

const PARTITIONS: i32 = 4;

/// The clients whose sessions lie in the same partition as that of `a0`, and the others.
fn split(node: &Node, clients: &[String]) -> (Vec<String>, Vec<String>) {
    let store = &node.mqtt().hub.store;
    let at = store.partition_of(b"a0");
    let with_a0 = |client: &&String| store.partition_of(client.as_bytes()) == at;
    let (same, others): (Vec<&String>, Vec<&String>) = clients.iter().partition(with_a0);
    let owned = |clients: Vec<&String>| clients.into_iter().cloned().collect();
    (owned(same), owned(others))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_partition_of_sessions_refuses_its_clients_and_the_rest_is_served() {
    let mut config = Config::default();
    config.mqtt.sessions_partitions = PARTITIONS;
    let mut node = Node::start_with(config).await;
    let clients: Vec<String> = (0..24).map(|n| format!("a{n}")).collect();
    for client in &clients {
        let session = node.connect(client, 3600).await.session;
        subscribe(&session, "x/y", QoS::AtLeastOnce).await;
    }
    let (same, others) = split(&node, &clients);
    assert!(!same.is_empty() && !others.is_empty());
    let life = node.life.take().expect("a life");
    let image = life.core.image();
    let topic = image.topic("__mqtt_sessions").expect("the topic");
    let index = life.mqtt.hub.store.partition_of(b"a0");
    life.core.close(std::time::Duration::from_secs(10)).await;
    life.log.close().await.expect("the log closes");
    drop(life);
    let dir = node.dir.path().join("log").join("partitions");
    let dir = dir.join(topic.id.0.to_string()).join(index.0.to_string());
    let mut damaged = 0;
    for entry in std::fs::read_dir(dir).expect("the partition") {
        let path = entry.expect("an entry").path();
        let mut bytes = std::fs::read(&path).expect("a file");
        if path.extension().is_some_and(|e| e == "log") && bytes.len() > 80 {
            bytes[80] ^= 1;
            std::fs::write(&path, bytes).expect("written");
            damaged += 1;
        }
    }
    assert_eq!(damaged, 1);

    node.life = Some(Life::start(node.dir.path(), &node.metadata, &node.config).await);
    for client in &others {
        assert!(node.connect(client, 3600).await.session_present);
    }
    let caller = Caller::anonymous(SocketAddr::from(([127, 0, 0, 1], 1)), "c");
    for client in same {
        let request = ConnectRequest {
            client_id: client,
            clean_start: false,
            session_expiry_s: 3600,
            v5: true,
            will: None,
            receive_maximum: 100,
        };
        let refused = node.mqtt().connect(&caller, request).await;
        assert_eq!(refused.err(), Some(ConnectError::Unavailable));
    }
    let core = &node.life.as_ref().expect("a life").core;
    assert!(core.readiness().is_empty());
    let degraded = core.degraded();
    assert!(
        degraded.len() == 1 && degraded[0].contains("__mqtt_sessions"),
        "{degraded:?}"
    );
}
