//! What waits to be written to a connection: bounded in bytes, so that whoever sends waits for a
//! peer that does not read.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::{
    Service,
    frame::{HEADER_BYTES, Header, Kind},
};

/// Bytes that wait in one connection, beyond what the operating system holds. A frame that is
/// longer takes it all.
const QUEUED_BYTES_MAX: usize = 4 << 20;
/// Bytes of what the reader itself answers. They wait for no bodies, so that a peer that reads is
/// never taken for a silent one.
const REPLIES_BYTES_MAX: usize = 64 << 10;
/// Bytes that are written at once.
const BATCH_BYTES: usize = 256 << 10;

/// A frame that waits.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) header: Header,
    pub(crate) payload: Bytes,
    /// Room that is free again when the frame is written.
    room: Option<Room>,
}

/// Room for a frame.
#[derive(Debug)]
pub(crate) struct Room(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// The queue of one connection.
#[derive(Debug)]
pub(crate) struct Outbox {
    version: u8,
    queue: Mutex<Queue>,
    room: Arc<Semaphore>,
    replies: Arc<Semaphore>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    /// Pongs, pings and credit: they pass what waits. One pong and one ping at most.
    urgent: VecDeque<Outgoing>,
    ordered: VecDeque<Outgoing>,
    is_closed: bool,
}

// === impl Outbox ===

impl Outbox {
    pub(crate) fn new(version: u8) -> Self {
        Self {
            version,
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(QUEUED_BYTES_MAX)),
            replies: Arc::new(Semaphore::new(REPLIES_BYTES_MAX)),
            ready: Notify::new(),
        }
    }

    /// A frame of this connection, with its checksum.
    pub(crate) fn frame(&self, kind: Kind, id: u64, payload: Bytes) -> Outgoing {
        Outgoing {
            header: Header::of(self.version, kind, Service(0), id, &payload),
            payload,
            room: None,
        }
    }

    /// Waits for room for a payload of `bytes`; `None` when the connection is over.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<Room> {
        let bytes = (bytes + HEADER_BYTES).min(QUEUED_BYTES_MAX) as u32;
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await;
        room.ok().map(Room)
    }

    /// The same for the reader, which waits only for replies of its own.
    pub(crate) async fn reserve_reply(&self, bytes: usize) -> Option<Room> {
        let room = Arc::clone(&self.replies).acquire_many_owned(bytes as u32);
        room.await.ok().map(Room)
    }

    /// Queues a frame that has room.
    pub(crate) fn push(&self, mut frame: Outgoing, room: Room) {
        frame.room = Some(room);
        self.push_small(frame);
    }

    /// Queues a frame of which there can be only few, by its kind: it needs no room.
    pub(crate) fn push_small(&self, frame: Outgoing) {
        let mut queue = self.queue.lock();
        if queue.is_closed {
            return;
        }
        match frame.header.kind {
            kind @ (Kind::Ping | Kind::Pong) => {
                queue.urgent.retain(|waiting| waiting.header.kind != kind);
                queue.urgent.push_back(frame);
            }
            Kind::Credit => queue.urgent.push_back(frame),
            _ => queue.ordered.push_back(frame),
        }
        drop(queue);
        self.ready.notify_one();
    }

    /// What to write next; empty when the last frame was taken and none will follow. Cancel safe.
    pub(crate) async fn next(&self) -> Vec<Outgoing> {
        loop {
            {
                let mut queue = self.queue.lock();
                let batch = queue.take();
                if !batch.is_empty() || queue.is_closed {
                    return batch;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Takes no more frames; what waits may still be written.
    pub(crate) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.room.close();
        self.replies.close();
        self.ready.notify_one();
    }
}

// === impl Queue ===

impl Queue {
    fn take(&mut self) -> Vec<Outgoing> {
        let mut batch = Vec::with_capacity(self.urgent.len() + self.ordered.len().min(16));
        batch.extend(self.urgent.drain(..));
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(frame) = self.ordered.pop_front()
        {
            bytes += HEADER_BYTES + frame.payload.len();
            batch.push(frame);
        }
        batch
    }
}
