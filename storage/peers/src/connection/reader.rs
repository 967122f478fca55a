//! Reads frames and hands them on.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use mainstem_env::Stream;
use tokio::io::{AsyncReadExt, ReadHalf};

use super::{Connection, Ended, Server, Side};
use crate::{
    CallError, StreamEnd,
    frame::{Failure, HEADER_BYTES, Header, Kind, decode_credit, decode_refusal},
};

/// Room that is made for reading at least.
const READ_BYTES: usize = 64 << 10;
/// Room that is made for what a frame announces; for a longer one only what it has already brought
/// is made again.
const ANNOUNCED_BYTES_MAX: usize = 1 << 20;

/// Buffers whose frames are still in use, kept to be used again: fresh memory costs page faults,
/// more than half of what reading costs. Longer ones than [`ANNOUNCED_BYTES_MAX`] are not kept.
const SPARES_MAX: usize = 8;

/// Frames out of bytes.
struct Input<'a> {
    connection: &'a Connection,
    read: ReadHalf<Box<dyn Stream>>,
    buffer: BytesMut,
    /// The buffer grew for a long frame.
    is_long: bool,
    /// Buffers of before, oldest first.
    spares: Vec<BytesMut>,
}

/// Reads until the connection ends.
pub(super) async fn run(
    connection: &Arc<Connection>,
    read: ReadHalf<Box<dyn Stream>>,
    server: &Arc<Server>,
) -> Ended {
    let mut input = Input {
        connection,
        read,
        buffer: BytesMut::new(),
        is_long: false,
        spares: Vec::new(),
    };
    loop {
        let (header, payload) = match input.next().await {
            Ok(frame) => frame,
            Err(ended) => return ended,
        };
        let result = match connection.side {
            Side::Dialled => connection.take_answer(&header, payload),
            Side::Accepted => connection.take_question(server, &header, payload).await,
        };
        if let Err(ended) = result {
            return ended;
        }
    }
}

// === impl Input ===

impl Input<'_> {
    async fn next(&mut self) -> Result<(Header, Bytes), Ended> {
        self.fill(HEADER_BYTES).await?;
        let header = self.buffer.split_to(HEADER_BYTES);
        let header = header
            .first_chunk()
            .expect("as many bytes as a header were split off");
        let header = Header::decode(header, self.connection.version)?;
        self.fill(header.payload_bytes).await?;
        let payload = self.buffer.split_to(header.payload_bytes).freeze();
        header.check(&payload)?;
        Ok((header, payload))
    }

    /// Reads until the buffer has `bytes`.
    async fn fill(&mut self, bytes: usize) -> Result<(), Ended> {
        while self.buffer.len() < bytes {
            let missing = bytes - self.buffer.len();
            if self.buffer.capacity() == self.buffer.len() {
                self.make_room(missing);
            }
            let read = self.read.read_buf(&mut self.buffer).await;
            let count = read.map_err(Ended::Io)?;
            if count == 0 {
                return Err(Ended::Eof);
            }
            self.connection.metrics.received.inc_by(count as u64);
            self.connection.heard();
        }
        Ok(())
    }

    /// Makes room behind what is in the buffer.
    fn make_room(&mut self, missing: usize) {
        let held = self.buffer.len();
        if missing > ANNOUNCED_BYTES_MAX || held > ANNOUNCED_BYTES_MAX / 2 {
            let room = missing.min(held.max(ANNOUNCED_BYTES_MAX));
            self.buffer.reserve(room.max(READ_BYTES));
            self.is_long = true;
            return;
        }
        let room = if missing > READ_BYTES {
            ANNOUNCED_BYTES_MAX
        } else {
            READ_BYTES
        };
        let spares = self.spares.iter_mut();
        let free = { spares }.position(|spare| spare.try_reclaim(held + missing));
        let mut next = match free {
            Some(at) => self.spares.remove(at),
            None => BytesMut::with_capacity(held + room),
        };
        next.extend_from_slice(&self.buffer);
        let mut used = std::mem::replace(&mut self.buffer, next);
        used.clear();
        if !std::mem::take(&mut self.is_long) {
            self.spares.push(used);
        }
        if self.spares.len() > SPARES_MAX {
            self.spares.remove(0);
        }
    }
}

// === impl Connection ===

impl Connection {
    /// A frame of the side that listens.
    fn take_answer(&self, header: &Header, payload: Bytes) -> Result<(), Ended> {
        let id = header.id;
        match header.kind {
            Kind::Answer | Kind::Opened => self.answer(id, Ok(payload)),
            Kind::Refuse => {
                let refusal = decode_refusal(Kind::Refuse, &payload)?;
                if let Some(stream) = self.stream(id) {
                    stream.finish(&StreamEnd::Refused(refusal));
                    return Ok(());
                }
                let (code, text) = (refusal.code, refusal.text);
                self.answer(id, Err(CallError::Refused { code, text }))
            }
            Kind::Fail => {
                let failure = Failure::decode(&payload)?;
                if let Some(stream) = self.stream(id) {
                    stream.never_opened();
                }
                self.answer(
                    id,
                    Err(match failure {
                        Failure::NoService => CallError::NoService,
                        Failure::Busy => CallError::Busy,
                    }),
                )
            }
            _ => self.take_common(header, payload),
        }
    }

    fn answer(&self, id: u64, answer: Result<Bytes, CallError>) -> Result<(), Ended> {
        let waiting = {
            let mut table = self.table.lock();
            if id >= table.next_id {
                return Err(violation("an answer to a call that was not made"));
            }
            table.waiting.remove(&id)
        };
        if let Some(waiting) = waiting {
            // A caller that is gone wants nothing.
            let _ = waiting.send(answer);
        }
        Ok(())
    }

    /// A frame of the side that dialled.
    async fn take_question(
        self: &Arc<Self>,
        server: &Arc<Server>,
        header: &Header,
        payload: Bytes,
    ) -> Result<(), Ended> {
        if !matches!(header.kind, Kind::Call | Kind::Open) {
            return self.take_common(header, payload);
        }
        {
            let mut table = self.table.lock();
            if header.id < table.next_id || header.id == u64::MAX {
                return Err(violation("a call whose id is not a new one"));
            }
            table.next_id = header.id + 1;
        }
        let failure = match header.kind {
            Kind::Call => self.serve_call(server, header, payload),
            _ => self.serve_stream(server, header, payload).await,
        };
        let Err(failure) = failure else { return Ok(()) };
        match failure {
            Failure::NoService => self.metrics.failed.inc(),
            Failure::Busy => self.metrics.busy.inc(),
        }
        let frame = self.outbox.frame(Kind::Fail, header.id, failure.encode());
        // Who asks and does not read the answers is not read from.
        if let Some(room) = self.outbox.reserve_reply(HEADER_BYTES).await {
            self.outbox.push(frame, room);
        }
        Ok(())
    }

    /// What both sides may say.
    fn take_common(&self, header: &Header, payload: Bytes) -> Result<(), Ended> {
        let id = header.id;
        match header.kind {
            Kind::Ping => {
                let pong = self.outbox.frame(Kind::Pong, id, Bytes::new());
                self.outbox.push_small(pong);
                return Ok(());
            }
            Kind::Pong => return Ok(()),
            Kind::Close => return Err(Ended::There(decode_refusal(Kind::Close, &payload)?)),
            Kind::Data | Kind::End | Kind::Stop | Kind::Credit => {}
            kind => return Err(violation(&format!("a {kind:?} frame from the wrong side"))),
        }
        let Some(stream) = self.stream(id) else {
            // The last words of a stream cross. Data never does: it ends before the stream is
            // forgotten.
            let is_known = id < self.table.lock().next_id && header.kind != Kind::Data;
            return if is_known {
                Ok(())
            } else {
                Err(violation("a message of a stream that is not open"))
            };
        };
        let result = match header.kind {
            Kind::Data => stream.received(payload),
            Kind::Credit => stream.credited(decode_credit(&payload)?),
            Kind::Stop => {
                stream.stopped();
                Ok(())
            }
            _ => {
                stream.ended();
                Ok(())
            }
        };
        result.map_err(violation)
    }
}

fn violation(what: &str) -> Ended {
    Ended::Violation(what.to_owned())
}
