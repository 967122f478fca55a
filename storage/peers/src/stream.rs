//! Streams of messages within a connection.
//!
//! Each side may have sent [`WINDOW_BYTES`] that the other did not take yet, and begin one message
//! as long as it is below that: so a message of any length passes, and what waits is bounded by the
//! window and one message. Credit is given back a quarter of a window at a time.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    BODY_BYTES_MAX, Refusal,
    connection::{Connection, Side},
    frame::{HEADER_BYTES, Kind, encode_refusal},
};

/// Bytes of a stream that may be under way in one direction.
pub const WINDOW_BYTES: u32 = 4 << 20;
/// What was taken is told in parts of this.
const CREDIT_BYTES: u32 = WINDOW_BYTES / 4;

/// Messages both ways until either side has enough. Dropping it closes both directions.
#[derive(Debug)]
pub struct PeerStream {
    sender: StreamSender,
    receiver: StreamReceiver,
}

/// The way out of a stream. Dropping it tells the other side that nothing more comes.
#[derive(Debug)]
pub struct StreamSender {
    shared: Arc<StreamShared>,
}

/// The way in of a stream. Dropping it tells the other side that nothing more is wanted.
#[derive(Debug)]
pub struct StreamReceiver {
    shared: Arc<StreamShared>,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StreamEnd {
    /// The other side has nothing more to say, or wants nothing more.
    #[error("the stream has ended")]
    Finished,
    /// The handler gave up.
    #[error("the stream was refused with code {}: {}", .0.code, .0.text)]
    Refused(Refusal),
    /// The connection ended.
    #[error("the connection of the stream ended")]
    Lost,
    /// The message is longer than [`BODY_BYTES_MAX`]; it was not sent, and the stream goes on.
    #[error("the message has {0} bytes, more than a frame may")]
    TooLarge(usize),
}

/// Both halves, as the connection sees them.
#[derive(Debug)]
pub(crate) struct StreamShared {
    id: u64,
    connection: Arc<Connection>,
    state: Mutex<State>,
    readable: Notify,
    writable: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes that may still be sent; below zero after a long message.
    credit: i64,
    /// Why nothing more may be sent.
    out_end: Option<StreamEnd>,
    /// Whether the other side was told that nothing more comes.
    is_end_sent: bool,
    inbox: VecDeque<Bytes>,
    /// Bytes that the other side may still send.
    window: i64,
    /// Bytes that were taken and not told yet.
    taken: u32,
    /// Why nothing more comes.
    in_end: Option<StreamEnd>,
    /// The receiver is gone.
    is_stopped: bool,
}

/// Credit that goes back if the message is not sent.
struct Credit<'a> {
    shared: &'a StreamShared,
    bytes: i64,
}

/// What a message counts: empty ones are not free.
fn cost(message: &Bytes) -> i64 {
    (message.len() + HEADER_BYTES) as i64
}

// === impl PeerStream ===

impl PeerStream {
    pub(crate) fn new(shared: Arc<StreamShared>) -> Self {
        Self {
            sender: StreamSender {
                shared: Arc::clone(&shared),
            },
            receiver: StreamReceiver { shared },
        }
    }

    /// Sends a message; waits while the other side has too many bytes that it did not take yet.
    /// Cancel safe: the message is then not sent.
    ///
    /// # Errors
    /// The other side wants nothing more, the connection ended, or the message is too long.
    pub async fn send(&self, message: Bytes) -> Result<(), StreamEnd> {
        self.sender.send(message).await
    }

    /// The next message; `None` when there will be no more. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// Why [`Self::recv`] gave `None`; `None` before that.
    pub fn end(&self) -> Option<StreamEnd> {
        self.receiver.end()
    }

    /// A handler's no: closes the stream and tells why. Whoever opened a stream only closes it.
    pub fn refuse(self, refusal: Refusal) {
        self.sender.shared.refuse(&refusal);
    }

    /// Both directions, for two tasks.
    pub fn split(self) -> (StreamSender, StreamReceiver) {
        (self.sender, self.receiver)
    }
}

// === impl StreamSender ===

impl StreamSender {
    /// Sends a message; waits while the other side has too many bytes that it did not take yet.
    /// Cancel safe: the message is then not sent.
    ///
    /// # Errors
    /// The other side wants nothing more, the connection ended, or the message is too long.
    pub async fn send(&self, message: Bytes) -> Result<(), StreamEnd> {
        if message.len() > BODY_BYTES_MAX {
            return Err(StreamEnd::TooLarge(message.len()));
        }
        let shared = &self.shared;
        let credit = shared.spend(cost(&message)).await?;
        let outbox = shared.connection.outbox();
        let frame = outbox.frame(Kind::Data, shared.id, message);
        let room = outbox.reserve(frame.payload.len()).await;
        let state = shared.state.lock();
        if let Some(end) = &state.out_end {
            return Err(end.clone());
        }
        outbox.push(frame, room.ok_or(StreamEnd::Lost)?);
        drop(state);
        credit.keep();
        Ok(())
    }

    /// Completes when the other side wants nothing more, or the connection ended.
    pub async fn closed(&self) -> StreamEnd {
        let shared = &self.shared;
        loop {
            let mut changed = pin!(shared.writable.notified());
            changed.as_mut().enable();
            if let Some(end) = &shared.state.lock().out_end {
                return end.clone();
            }
            changed.await;
        }
    }
}

impl Drop for StreamSender {
    fn drop(&mut self) {
        self.shared.end();
    }
}

// === impl StreamReceiver ===

impl StreamReceiver {
    /// The next message; `None` when there will be no more. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        loop {
            if let Some(next) = self.shared.take() {
                return next;
            }
            self.shared.readable.notified().await;
        }
    }

    /// Why [`Self::recv`] gave `None`; `None` before that.
    pub fn end(&self) -> Option<StreamEnd> {
        let state = self.shared.state.lock();
        state.in_end.clone().filter(|_| state.inbox.is_empty())
    }
}

impl Drop for StreamReceiver {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

// === impl StreamShared ===

impl StreamShared {
    pub(crate) fn new(id: u64, connection: Arc<Connection>) -> Self {
        Self {
            id,
            connection,
            state: Mutex::new(State {
                credit: i64::from(WINDOW_BYTES),
                out_end: None,
                is_end_sent: false,
                inbox: VecDeque::new(),
                window: i64::from(WINDOW_BYTES),
                taken: 0,
                in_end: None,
                is_stopped: false,
            }),
            readable: Notify::new(),
            writable: Notify::new(),
        }
    }

    // What this side does.

    async fn spend(&self, bytes: i64) -> Result<Credit<'_>, StreamEnd> {
        loop {
            let mut changed = pin!(self.writable.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if let Some(end) = &state.out_end {
                    return Err(end.clone());
                }
                if state.credit > 0 {
                    state.credit -= bytes;
                    return Ok(Credit {
                        shared: self,
                        bytes,
                    });
                }
            }
            changed.await;
        }
    }

    /// The next message, `Some(None)` after the last, `None` if none is there yet.
    fn take(&self) -> Option<Option<Bytes>> {
        let mut state = self.state.lock();
        let Some(message) = state.inbox.pop_front() else {
            return state.in_end.as_ref().map(|_| None);
        };
        state.taken += cost(&message) as u32;
        if state.taken >= CREDIT_BYTES && state.in_end.is_none() {
            let taken = std::mem::take(&mut state.taken);
            state.window += i64::from(taken);
            let payload = Bytes::copy_from_slice(&taken.to_le_bytes());
            self.say(Kind::Credit, payload);
        }
        Some(Some(message))
    }

    fn end(&self) {
        let mut state = self.state.lock();
        if !state.is_end_sent {
            state.is_end_sent = true;
            self.say(Kind::End, Bytes::new());
        }
        self.forget_if_over(&state);
    }

    fn stop(&self) {
        let mut state = self.state.lock();
        state.inbox.clear();
        if !state.is_stopped {
            state.is_stopped = true;
            if state.in_end.is_none() {
                self.say(Kind::Stop, Bytes::new());
            }
        }
    }

    fn refuse(&self, refusal: &Refusal) {
        let mut state = self.state.lock();
        if self.connection.side == Side::Accepted && !state.is_end_sent {
            state.is_end_sent = true;
            state.is_stopped = true;
            self.say(Kind::Refuse, encode_refusal(refusal));
        }
        self.forget_if_over(&state);
    }

    fn say(&self, kind: Kind, payload: Bytes) {
        let outbox = self.connection.outbox();
        outbox.push_small(outbox.frame(kind, self.id, payload));
    }

    // What the other side does.

    pub(crate) fn received(&self, message: Bytes) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        if state.in_end.is_some() {
            return Err("a message after the end of its stream");
        }
        if state.window <= 0 {
            return Err("more messages of a stream than it may send");
        }
        state.window -= cost(&message);
        if !state.is_stopped {
            state.inbox.push_back(message);
            self.readable.notify_one();
        }
        Ok(())
    }

    pub(crate) fn credited(&self, bytes: u32) -> Result<(), &'static str> {
        let mut state = self.state.lock();
        state.credit += i64::from(bytes);
        if state.credit > i64::from(WINDOW_BYTES) {
            return Err("more credit for a stream than was spent");
        }
        self.writable.notify_waiters();
        Ok(())
    }

    /// The other side takes no more.
    pub(crate) fn stopped(&self) {
        let mut state = self.state.lock();
        state.out_end.get_or_insert(StreamEnd::Finished);
        self.writable.notify_waiters();
    }

    /// The other side sends no more.
    pub(crate) fn ended(&self) {
        let mut state = self.state.lock();
        state.in_end.get_or_insert(StreamEnd::Finished);
        self.readable.notify_one();
        self.forget_if_over(&state);
    }

    /// Neither direction goes on.
    pub(crate) fn finish(&self, end: &StreamEnd) {
        let mut state = self.state.lock();
        state.in_end.get_or_insert_with(|| end.clone());
        state.out_end.get_or_insert_with(|| end.clone());
        self.readable.notify_one();
        self.writable.notify_waiters();
        self.forget_if_over(&state);
    }

    /// The other side does not know it: nothing must be said of it.
    pub(crate) fn never_opened(&self) {
        let mut state = self.state.lock();
        state.is_end_sent = true;
        state.is_stopped = true;
        state.in_end.get_or_insert(StreamEnd::Lost);
        state.out_end.get_or_insert(StreamEnd::Lost);
        self.forget_if_over(&state);
    }

    /// The connection forgets a stream when both sides have said that they send no more.
    fn forget_if_over(&self, state: &State) {
        if state.is_end_sent && state.in_end.is_some() {
            self.connection.forget(self.id);
        }
    }
}

// === impl Credit ===

impl Credit<'_> {
    fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().credit += self.bytes;
        self.shared.writable.notify_waiters();
    }
}
