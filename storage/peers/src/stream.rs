//! Streams of messages within a connection.

use bytes::Bytes;

use crate::Refusal;

/// Messages both ways until either side has enough. Dropping it closes both directions.
#[derive(Debug)]
pub struct PeerStream {
    sender: StreamSender,
    receiver: StreamReceiver,
}

/// The way out of a stream. Dropping it tells the other side that nothing more comes.
#[derive(Debug)]
pub struct StreamSender {
    _private: (),
}

/// The way in of a stream. Dropping it tells the other side that nothing more is wanted.
#[derive(Debug)]
pub struct StreamReceiver {
    _private: (),
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
    /// The message is longer than [`crate::BODY_BYTES_MAX`]; it was not sent.
    #[error("the message has {0} bytes, more than a frame may")]
    TooLarge(usize),
}

// === impl PeerStream ===

impl PeerStream {
    /// Sends a message; waits while the other side has too many bytes that it did not take yet.
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

    /// Why [`Self::recv`] gave `None`.
    pub fn end(&self) -> Option<StreamEnd> {
        self.receiver.end()
    }

    /// Both directions, for two tasks.
    pub fn split(self) -> (StreamSender, StreamReceiver) {
        (self.sender, self.receiver)
    }
}

// === impl StreamSender ===

impl StreamSender {
    /// Sends a message; waits while the other side has too many bytes that it did not take yet.
    ///
    /// # Errors
    /// The other side wants nothing more, the connection ended, or the message is too long.
    pub async fn send(&self, message: Bytes) -> Result<(), StreamEnd> {
        let _ = message;
        Err(StreamEnd::Lost)
    }

    /// Completes when the other side wants nothing more, or the connection ended.
    pub async fn closed(&self) -> StreamEnd {
        StreamEnd::Lost
    }
}

// === impl StreamReceiver ===

impl StreamReceiver {
    /// The next message; `None` when there will be no more. Cancel safe.
    pub async fn recv(&mut self) -> Option<Bytes> {
        None
    }

    /// Why [`Self::recv`] gave `None`; `None` before that.
    pub fn end(&self) -> Option<StreamEnd> {
        Some(StreamEnd::Lost)
    }
}
