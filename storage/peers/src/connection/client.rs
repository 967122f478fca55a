//! The side that asks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Connection;
use crate::{
    CallError, PeerStream, Service, Unreachable,
    frame::Kind,
    outbox::{Outgoing, Room},
};

/// Forgets a call whose caller went away.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
}

// === impl Connection ===

impl Connection {
    /// Asks and waits. `is_sent` becomes true when the call may reach the other side.
    pub(crate) async fn call(
        &self,
        service: Service,
        body: Bytes,
        is_sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        let mut frame = self.outbox.frame(Kind::Call, 0, body);
        frame.header.service = service;
        let room = self.outbox.reserve(frame.payload.len()).await;
        let room = room.ok_or_else(over)?;
        let (answer, answered) = oneshot::channel();
        let id = self.begin(frame, room, |table, id| {
            table.waiting.insert(id, answer);
        })?;
        is_sent.store(true, Ordering::Relaxed);
        let _waiting = Waiting {
            connection: self,
            id,
        };
        answered.await.unwrap_or(Err(CallError::Lost))
    }

    /// Opens a stream and waits until it has a handler.
    pub(crate) async fn open(
        self: &Arc<Self>,
        service: Service,
        hello: Bytes,
        is_sent: &AtomicBool,
    ) -> Result<PeerStream, CallError> {
        let mut frame = self.outbox.frame(Kind::Open, 0, hello);
        frame.header.service = service;
        let room = self.outbox.reserve(frame.payload.len()).await;
        let room = room.ok_or_else(over)?;
        let (answer, answered) = oneshot::channel();
        let mut stream = None;
        let id = self.begin(frame, room, |table, id| {
            let (shared, new) = self.new_stream(id);
            table.waiting.insert(id, answer);
            table.streams.insert(id, shared);
            stream = Some(new);
        })?;
        is_sent.store(true, Ordering::Relaxed);
        let _waiting = Waiting {
            connection: self,
            id,
        };
        // Dropped when this call is given up: the other side then learns that it is over.
        let stream = stream.ok_or(CallError::Lost)?;
        answered.await.unwrap_or(Err(CallError::Lost))?;
        Ok(stream)
    }

    /// Gives the frame its id and queues it, so that ids are written in their order.
    fn begin(
        &self,
        mut frame: Outgoing,
        room: Room,
        enter: impl FnOnce(&mut super::Table, u64),
    ) -> Result<u64, CallError> {
        let mut table = self.table.lock();
        if table.is_over {
            return Err(over());
        }
        let id = table.next_id;
        table.next_id += 1;
        enter(&mut table, id);
        frame.header.id = id;
        self.outbox.push(frame, room);
        Ok(id)
    }
}

/// The connection ended before anything was sent.
fn over() -> CallError {
    CallError::Unreachable(Unreachable::Failed("the connection ended".to_owned()))
}

// === impl Waiting ===

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.connection.table.lock().waiting.remove(&self.id);
    }
}
