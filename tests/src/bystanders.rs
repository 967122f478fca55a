//! Ordinary clients that are connected all the while.

use crate::{Node, kafka, kafka::Batch, mqtt};

/// Room for buffers that grow with the very largest legal request (100 MiB) of one connection, and
/// for what the allocator keeps; far below what a hostile count asks for.
const GROWTH_BYTES_MAX: u64 = 192 << 20;

/// A Kafka connection and two MQTT sessions that must not notice what others do.
#[derive(Debug)]
pub struct Bystanders {
    kafka: kafka::Connection,
    publisher: mqtt::Connection,
    subscriber: mqtt::Connection,
    rounds: u32,
    memory_before: u64,
}

// === impl Bystanders ===

impl Bystanders {
    /// Connects them.
    ///
    /// # Panics
    /// If that fails.
    pub fn of(node: &Node) -> Self {
        let mut kafka = kafka::Connection::open(node.kafka());
        kafka.create("bystanders");
        let publisher = mqtt::Connection::session(node.mqtt(), "bystander-publisher", 5);
        let mut subscriber = mqtt::Connection::session(node.mqtt(), "bystander-subscriber", 4);
        assert_eq!(subscriber.subscribe("bystanders/#", 0), 0);
        let memory_before = node.peak_memory_bytes();
        let mut bystanders = Self {
            kafka,
            publisher,
            subscriber,
            rounds: 0,
            memory_before,
        };
        bystanders.work();
        bystanders
    }

    /// Each does its work, on the connection that it has had all the while.
    fn work(&mut self) {
        self.rounds += 1;
        let payload = self.rounds.to_string();
        assert_eq!(
            self.publisher.publish("bystanders/m", payload.as_bytes()),
            0
        );
        let (error, _) = self.kafka.produce(
            "bystanders",
            -1,
            &Batch::new(&[(b"k", payload.as_bytes())]).encode(),
        );
        assert_eq!(error, 0);
        for topic in ["bystanders/m", "bystanders/k"] {
            let message = self.subscriber.receive().expect("a message");
            assert_eq!(message.first, 0x30, "{message:?}");
            assert_eq!(&message.body[2..2 + topic.len()], topic.as_bytes());
            assert_eq!(&message.body[2 + topic.len()..], payload.as_bytes());
        }
    }

    /// The process is up, these clients' connections work, and memory is bounded.
    ///
    /// # Panics
    /// If not.
    pub fn check(&mut self, node: &mut Node, after: &str) {
        node.assert_up();
        self.work();
        let grown = node.peak_memory_bytes().saturating_sub(self.memory_before);
        assert!(
            grown <= GROWTH_BYTES_MAX,
            "memory grew by {} MiB: {after}",
            grown >> 20
        );
    }
}
