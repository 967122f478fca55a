//! A retained message that is replaced again and again.

use super::PAUSE;
use crate::{
    kafka::Gone,
    mqtt::{Mqtt, Packet},
    node::Door,
};

const TOPIC: &str = "state/lamp";

/// The one who replaces it and looks at it.
#[derive(Default)]
pub(crate) struct Retained {
    /// The last number that was sent, and the last one that was acknowledged; 0 before.
    sent: u64,
    pub(crate) acknowledged: u64,
}

// === impl Retained ===

impl Retained {
    /// Looks at it, and replaces it so many times.
    pub(crate) async fn live(&mut self, door: &Door, mut times: u64) {
        while self.connected(door, &mut times).await.is_err() {
            door.clients.sleep(PAUSE).await;
        }
    }

    async fn connected(&mut self, door: &Door, times: &mut u64) -> Result<(), Gone> {
        self.look(door).await?;
        let (mut mqtt, _) = Mqtt::connect(door, "retainer", true).await?;
        while *times > 0 {
            *times -= 1;
            self.sent += 1;
            mqtt.retain(TOPIC, 1, &self.sent.to_string()).await?;
            let answer = mqtt.receive().await?;
            assert_eq!(answer, Packet::PubAck(1));
            self.acknowledged = self.sent;
        }
        self.look(door).await
    }

    /// What a new subscriber gets is at least as new as what was acknowledged.
    async fn look(&mut self, door: &Door) -> Result<(), Gone> {
        let (mut mqtt, _) = Mqtt::connect(door, "looker", true).await?;
        mqtt.subscribe(7, TOPIC, 0).await?;
        let answer = mqtt.receive().await?;
        assert_eq!(answer, Packet::SubAck(7, 0));
        if self.acknowledged == 0 {
            return Ok(());
        }
        match mqtt.receive().await? {
            Packet::Publish {
                payload, retain, ..
            } => {
                let found: u64 = payload.parse().expect("a number");
                let range = self.acknowledged..=self.sent;
                assert!(retain && range.contains(&found), "{found} of {range:?}");
                Ok(())
            }
            other => panic!("{other:?} instead of the retained message"),
        }
    }
}
