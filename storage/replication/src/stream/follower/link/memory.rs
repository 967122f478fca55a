//! What the partition remembers where a segment begins, for a replica that has not what came before.

use bytes::BytesMut;

use super::{Installed, Link, Recalling};
use crate::{
    stream::{MEMORY_BYTES_MAX, REFUSED_RETRY, Replicas},
    wire::{MemoryOf, WantOf},
};

impl<R: Replicas> Link<'_, R> {
    /// Asks for what is remembered where a segment begins: one at a time, which bounds it.
    pub(super) fn ask_for_memory(&mut self) {
        if self.recalling.is_some() || self.installing.is_some() {
            return;
        }
        while let Some(id) = self.forgetful.pop_front() {
            if let Some(followed) = self.followed.get(&id) {
                let (segment, epoch) = (followed.segment, followed.epoch);
                self.recalling = Some(Recalling {
                    id,
                    segment,
                    bytes: BytesMut::new(),
                });
                self.want = Some(WantOf {
                    partition: id,
                    segment,
                    epoch,
                });
                return;
            }
        }
    }

    pub(super) fn recalled(&mut self, memory: &MemoryOf) -> Result<(), String> {
        let Some(recalling) = self.recalling.as_mut() else {
            return Ok(());
        };
        if recalling.segment != memory.segment {
            return Ok(());
        }
        if recalling.bytes.len() + memory.bytes.len() > MEMORY_BYTES_MAX {
            return Err("more is remembered than may be".to_owned());
        }
        recalling.bytes.extend_from_slice(&memory.bytes);
        if !memory.is_last {
            return Ok(());
        }
        let Some(Recalling { id, bytes, .. }) = self.recalling.take() else {
            return Ok(());
        };
        let Some(log) = self.session.replicas.log(id) else {
            self.stall(id, REFUSED_RETRY);
            return Ok(());
        };
        self.installing = Some(Box::pin(async move {
            let result = log.install_memory(bytes.freeze()).await;
            Installed { id, result }
        }));
        Ok(())
    }

    pub(super) fn installed(&mut self, installed: &Installed) {
        let id = installed.id;
        if let Err(error) = &installed.result {
            tracing::warn!(partition = %id, leader = %self.session.leader, %error,
                "what the partition remembers was not taken over");
        }
        // Followed from the beginning, with what has changed meanwhile.
        if self.followed.contains_key(&id) {
            self.forget(id);
            match installed.result {
                Ok(()) => self.begin(id),
                Err(_) => self.stall(id, REFUSED_RETRY),
            }
        }
    }
}
