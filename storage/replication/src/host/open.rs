//! Opening and closing partitions.

use std::sync::Arc;

use mainstem_log::LogError;
use mainstem_metadata::{Image, PartitionRecord};
use mainstem_record::PartitionId;

use super::{DOORS, Host, Hosted, spec};

// === impl Host ===

impl Host {
    /// Opens a partition, or remembers why it does not work: damage in one never stops the rest.
    pub(super) async fn open(
        &self,
        image: &Image,
        id: PartitionId,
        record: &PartitionRecord,
    ) -> Option<Arc<Hosted>> {
        let _door = self.door(id).lock().await;
        if let Some(hosted) = self.hosted(id) {
            return Some(hosted);
        }
        let topic = image.topic_by_id(id.topic)?;
        let recruited = self.is_recruited(id, record);
        let settings = self.settings_of(topic, record);
        let me = self.me();
        let spec = spec::partition_spec(image, (id, record), me, (settings, recruited));
        let role = spec.role;
        match self.inner.log.open_partition(spec).await {
            Ok(log) => {
                log.delete_files_after(self.inner.policies.delete_delay(topic));
                let hosted = Arc::new(Hosted::new(log, role, settings));
                self.inner.hosted.write().insert(id, hosted.clone());
                Some(hosted)
            }
            Err(error) => {
                let topic = &topic.name;
                tracing::error!(%topic, partition = id.index.0, %error, "partition failed");
                self.mark_failed(id, error.to_string());
                None
            }
        }
    }

    /// Removes a partition of which this node is to hold nothing any more, with its files.
    pub(super) async fn remove(&self, id: PartitionId) {
        let _door = self.door(id).lock().await;
        self.forget_failed(id);
        let hosted = self.inner.hosted.write().remove(&id);
        if let Some(hosted) = hosted {
            hosted.set_led(None);
            let _turn = hosted.turn.lock().await;
            hosted.detach();
            match self.inner.log.remove_partition(id).await {
                Ok(()) | Err(LogError::NotOpen(_)) => {}
                // What is left is removed at the next start.
                Err(error) => tracing::warn!(partition = %id, %error, "files left"),
            }
        }
        self.tell(id);
    }

    fn door(&self, id: PartitionId) -> &tokio::sync::Mutex<()> {
        let (high, low) = id.topic.0.as_u64_pair();
        let number = (high ^ low).wrapping_add(u64::from(id.index.0.unsigned_abs()));
        // The remainder is below the number of doors.
        &self.inner.doors[(number % DOORS as u64) as usize]
    }

    /// Whether this node is to help to seal a segment that it is no replica of (R23).
    pub(super) fn is_recruited(&self, id: PartitionId, record: &PartitionRecord) -> bool {
        let recruited = self.inner.recruited.lock().get(&id).copied();
        recruited.is_some() && record.active().map(|open| open.id) == recruited
    }

    /// Whether anything of the partition is to be here.
    pub(super) fn is_wanted(&self, id: PartitionId, record: &PartitionRecord) -> bool {
        spec::is_hosted(record, self.me().broker) || self.is_recruited(id, record)
    }
}

// === impl Host: what has failed ===

impl Host {
    /// Remembers that a partition does not work, and why.
    pub(crate) fn mark_failed(&self, id: PartitionId, reason: String) {
        self.inner.failed.write().insert(id, reason);
        self.tell(id);
    }

    /// It works again, or is gone.
    pub(super) fn forget_failed(&self, id: PartitionId) {
        let is_empty = self.inner.failed.read().is_empty();
        if !is_empty && self.inner.failed.write().remove(&id).is_some() {
            self.tell(id);
        }
    }

    /// Why a partition does not work.
    pub(crate) fn failure(&self, id: PartitionId) -> Option<String> {
        self.inner.failed.read().get(&id).cloned()
    }

    /// How many do not work.
    pub(crate) fn failure_count(&self) -> usize {
        self.inner.failed.read().len()
    }

    /// All that do not work, by id, with the reason.
    pub(crate) fn failures(&self) -> Vec<(PartitionId, String)> {
        let failed = self.inner.failed.read();
        failed.iter().map(|(id, why)| (*id, why.clone())).collect()
    }
}
