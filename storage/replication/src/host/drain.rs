//! Before a clean stop: others lead what this node leads.

use std::time::Duration;

use mainstem_metadata::Command;
use mainstem_record::{PartitionId, SegmentId};

use super::Host;

// === impl Host ===

impl Host {
    /// Marks this broker as draining, then seals what it leads and others can lead. What is not done
    /// in `limit` is sealed by the controller once this node is gone.
    pub(crate) async fn drain(&self, limit: Duration) {
        if self.image().brokers.len() < 2 {
            return;
        }
        let drain = async {
            let command = Command::DrainBroker { member: self.me() };
            if let Err(error) = self.inner.metadata.propose(command).await {
                tracing::warn!(%error, "not marked as draining");
                return;
            }
            self.hand_over().await;
        };
        if self.inner.env.timeout(limit, drain).await.is_err() {
            tracing::warn!("not everything was handed over in time");
        }
    }

    async fn hand_over(&self) {
        let image = self.image();
        let me = self.me().broker;
        let mut led: Vec<(PartitionId, SegmentId)> = Vec::new();
        for hosted in self.all() {
            let open = image.partition(hosted.id());
            let Some(open) = open.and_then(|record| record.active()) else {
                continue;
            };
            let has_others = image.current(&open.isr).any(|member| member.broker != me);
            if has_others && hosted.led_epoch() == Some(open.epoch) {
                led.push((hosted.id(), open.id));
            }
        }
        let host = self.clone();
        let rolls = led.into_iter().map(move |(id, segment)| {
            let host = host.clone();
            async move { host.roll(id, segment).await }
        });
        for rolled in self.all_at_once("hand over", rolls).await {
            if let Err(error) = rolled {
                tracing::info!(%error, "a partition was not handed over");
            }
        }
    }
}
