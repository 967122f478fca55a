//! What is read from disk for a follower: batches, and what is remembered where a segment begins.

use super::{AROUND_BYTES, Fetched, Place, Recalled, Sender};
use crate::{
    machine::leader::FollowRefusal,
    stream::{MEMORY_BYTES_MAX, Replicas},
    wire::{FRAME_BYTES, MemoryOf},
};

impl<R: Replicas> Sender<'_, R> {
    /// Reads for the one that is behind longest; one read at a time.
    pub(super) fn begin_reading(&mut self) {
        while self.reading.is_none()
            && self.fetched.is_none()
            && let Some(id) = self.behind.pop_front()
        {
            let sent = self.sent.get(&id);
            let Some(sent) = sent.filter(|sent| sent.place == Place::Behind) else {
                continue;
            };
            let (log, from, turn) = (sent.log.clone(), sent.next, sent.turn);
            let throttle = self.leaders.throttle.clone();
            let replicas = &self.leaders.replicas;
            // Who is in sync holds the high watermark down: it must not wait.
            let is_throttled = !replicas.is_in_sync(id, sent.segment, self.follower);
            self.reading = Some(Box::pin(async move {
                let chunk = log.read_tail(from, FRAME_BYTES - AROUND_BYTES).await;
                if let (Ok(chunk), true) = (&chunk, is_throttled) {
                    throttle.take(chunk.bytes).await;
                }
                Fetched { id, turn, chunk }
            }));
        }
    }

    /// Asks the log what it remembers where a segment begins; one at a time.
    pub(super) fn begin_recalling(&mut self) {
        while self.recalling.is_none()
            && self.memory.is_empty()
            && let Some(want) = self.wanted.pop_front()
        {
            let (id, segment) = (want.partition, want.segment);
            let log = self.leaders.replicas.log(id);
            let Some(log) = log.filter(|_| self.leaders.replicas.leads(id, segment)) else {
                self.refuse(segment, FollowRefusal::NotLeading);
                continue;
            };
            self.recalling = Some(Box::pin(async move {
                let memory = log.memory(segment).await;
                Recalled { segment, memory }
            }));
        }
    }

    pub(super) fn remember(&mut self, recalled: Recalled) {
        let Recalled { segment, memory } = recalled;
        let memory = match memory {
            Ok(memory) if memory.len() <= MEMORY_BYTES_MAX => memory,
            Ok(memory) => {
                tracing::error!(%segment, bytes = memory.len(), "too much is remembered to be sent");
                return self.refuse(segment, FollowRefusal::NotLeading);
            }
            Err(error) => {
                tracing::warn!(%segment, %error, "what a follower needs is not remembered here");
                return self.refuse(segment, FollowRefusal::NotLeading);
            }
        };
        let mut at = 0;
        loop {
            let end = memory.len().min(at + FRAME_BYTES);
            let is_last = end == memory.len();
            self.memory.push_back(MemoryOf {
                segment,
                is_last,
                bytes: memory.slice(at..end),
            });
            if is_last {
                return;
            }
            at = end;
        }
    }
}
