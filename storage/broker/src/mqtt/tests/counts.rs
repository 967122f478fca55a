//! What is counted and said of messages that do not go the usual way; and what waiting costs.

use super::*;

fn expiring(topic: &str) -> Publish {
    let mut publish = publish(topic, "late", QoS::AtLeastOnce, 1);
    publish.properties.expiry_s = Some(0);
    publish
}

async fn put_expired(publisher: &Session, topic: &str) {
    let ticket = publisher.publish(expiring(topic)).await.expect("published");
    ticket.await.expect("stored");
}

fn expired(node: &Node) -> u64 {
    node.mqtt().hub.metrics.dropped_expired.get()
}

async fn leave(session: Session) {
    let end = Disconnect {
        publish_will: false,
        session_expiry_s: None,
    };
    session.disconnect(end).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_message_is_counted_once_for_each_session_that_is_live() {
    let node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    let first = node.connect("a", 0).await.session;
    let second = node.connect("b", 0).await.session;
    subscribe(&first, "t/#", QoS::AtLeastOnce).await;
    subscribe(&first, "t/+", QoS::AtLeastOnce).await;
    subscribe(&second, "t/a", QoS::AtLeastOnce).await;
    put_expired(&publisher, "t/a").await;
    assert_drained(&publisher, &first, "t/a").await;
    assert_eq!(texts(&take(&second, 1).await), ["marker"]);
    assert_eq!(expired(&node), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expired_message_is_counted_for_a_session_that_catches_up() {
    for filter in ["t/#", "$share/g/t/#"] {
        let node = Node::start().await;
        let publisher = node.connect("p", 0).await.session;
        let session = node.connect("s", 1000).await.session;
        subscribe(&session, filter, QoS::AtLeastOnce).await;
        leave(session).await;
        put_expired(&publisher, "t/a").await;
        put_expired(&publisher, "t/a").await;
        let session = node.connect("s", 1000).await.session;
        assert_drained(&publisher, &session, "t/a").await;
        assert_eq!(expired(&node), 2, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_level_that_cannot_have_a_kafka_topic_is_warned_of() {
    let node = Node::start().await;
    let publisher = node.connect("p", 0).await.session;
    put(&publisher, "plain/a", "x", QoS::AtLeastOnce).await;
    let later = Duration::from_secs(1_000_000);
    let notices = &node.mqtt().hub.overflow_notices;
    assert!(!notices.was_given("plain") && !notices.was_given(""));
    put(&publisher, "/no/level", "x", QoS::AtLeastOnce).await;
    assert!(notices.was_given("") && !notices.note("", later));
    // Not at once, but when there is room for it.
    put(&publisher, "a b/c", "x", QoS::AtLeastOnce).await;
    assert!(!notices.was_given("a b") && notices.note("a b", later));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_tells_whether_there_is_a_record_for_it() {
    let node = Node::start().await;
    let publisher = node.connect("p", 1000).await.session;
    for expected in [true, false] {
        let publish = publish("t/a", "once", QoS::ExactlyOnce, 5);
        let ticket = publisher.publish(publish).await.expect("published");
        assert_eq!(ticket.is_appended(), expected);
        ticket.await.expect("stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_messages_takes_little_memory() {
    let node = Node::start().await;
    let session = node.connect("s", 0).await.session;
    let waiting = session.next(1);
    let bytes = std::mem::size_of_val(&waiting);
    assert!(bytes <= 256, "{bytes} bytes");
}
