//! A WebSocket as a byte stream (RFC 6455; MQTT 5.0, chapter 6).
//!
//! Packets may lie across frames in any way, so frames are taken apart as their bytes pass:
//! a frame is never gathered, and its length is only a number to count down. What is written
//! becomes one frame for each write. Of the library we use the handshake; its framing gathers whole
//! messages in buffers of its own.

mod decoder;
mod handshake;

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use mainstem_env::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use decoder::{Decoder, Reply};
pub(crate) use handshake::upgrade;

/// A final frame of binary data, a pong and a close, as a server sends them: unmasked.
const BINARY: u8 = 0x82;
const PONG: u8 = 0x8A;
const CLOSE: u8 = 0x88;

/// The status of a close that nobody is to blame for.
const NORMAL_CLOSURE: u16 = 1000;

/// Slices of one write, the frame's header among them.
const SLICES_MAX: usize = 17;

/// A WebSocket after its handshake, the server's side.
struct WebSocket {
    inner: Box<dyn Stream>,
    decoder: Decoder,
    /// Read together with the handshake.
    ahead: Vec<u8>,
    /// Headers and control frames that come before anything else; written up to `prefix_at`.
    prefix: Vec<u8>,
    prefix_at: usize,
    /// Bytes of the frame that is announced and not yet written.
    frame_left: usize,
    close_sent: bool,
}

// === impl WebSocket ===

impl WebSocket {
    fn new(inner: Box<dyn Stream>, ahead: Vec<u8>, frame_bytes_max: usize) -> Self {
        Self {
            inner,
            decoder: Decoder::new(frame_bytes_max as u64),
            ahead,
            prefix: Vec::new(),
            prefix_at: 0,
            frame_left: 0,
            close_sent: false,
        }
    }

    /// Reads raw bytes and leaves in `place` what of them is payload; how much that is.
    fn poll_read_raw(
        &mut self,
        task: &mut TaskContext<'_>,
        place: &mut [u8],
    ) -> Poll<io::Result<(usize, usize)>> {
        let raw = if self.ahead.is_empty() {
            let mut read = ReadBuf::new(place);
            ready!(Pin::new(&mut *self.inner).poll_read(task, &mut read))?;
            read.filled().len()
        } else {
            let count = self.ahead.len().min(place.len());
            for (to, from) in place.iter_mut().zip(self.ahead.drain(..count)) {
                *to = from;
            }
            count
        };
        let payload = self
            .decoder
            .decode(place.get_mut(..raw).unwrap_or_default())?;
        Poll::Ready(Ok((raw, payload)))
    }

    fn has_prefix(&self) -> bool {
        self.prefix_at < self.prefix.len()
    }

    /// Puts a waiting control frame in line, where one may stand: not within a frame.
    fn queue_reply(&mut self) {
        if self.frame_left > 0 || self.has_prefix() || self.close_sent {
            return;
        }
        match self.decoder.take_reply() {
            Some(Reply::Pong(payload)) => self.set_prefix(PONG, &payload),
            Some(Reply::Close) => self.queue_close(),
            None => {}
        }
    }

    fn queue_close(&mut self) {
        self.close_sent = true;
        self.set_prefix(CLOSE, &NORMAL_CLOSURE.to_be_bytes());
    }

    /// Control frames have at most 125 bytes.
    fn set_prefix(&mut self, first: u8, payload: &[u8]) {
        self.prefix.clear();
        self.prefix_at = 0;
        self.prefix.push(first);
        self.prefix.push(u8::try_from(payload.len()).unwrap_or(0));
        self.prefix.extend_from_slice(payload);
    }

    fn begin_frame(&mut self, bytes: usize) {
        self.prefix.clear();
        self.prefix_at = 0;
        self.prefix.push(BINARY);
        match bytes {
            0..=125 => self.prefix.push(bytes as u8),
            126..=0xFFFF => {
                self.prefix.push(126);
                self.prefix.extend_from_slice(&(bytes as u16).to_be_bytes());
            }
            _ => {
                self.prefix.push(127);
                self.prefix.extend_from_slice(&(bytes as u64).to_be_bytes());
            }
        }
        self.frame_left = bytes;
    }

    fn wrote_prefix(&mut self, count: usize) {
        self.prefix_at += count;
        if !self.has_prefix() {
            self.prefix = Vec::new();
            self.prefix_at = 0;
        }
    }

    /// Writes what comes before anything else.
    fn poll_prefix(&mut self, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        loop {
            self.queue_reply();
            let Some(left @ [_, ..]) = self.prefix.get(self.prefix_at..) else {
                return Poll::Ready(Ok(()));
            };
            let count = ready!(Pin::new(&mut *self.inner).poll_write(task, left))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote_prefix(count);
        }
    }

    /// One write of the frame's header and as much of it as the slices have.
    fn poll_frame(
        &mut self,
        task: &mut TaskContext<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let header = self.prefix.get(self.prefix_at..).unwrap_or_default();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut left = self.frame_left;
        let mut count = 0;
        let parts = std::iter::once(header).chain(data.iter().map(|slice| &slice[..]));
        for (at, part) in parts.enumerate() {
            let part = if at == 0 {
                part
            } else {
                let part = part.get(..left.min(part.len())).unwrap_or_default();
                left -= part.len();
                part
            };
            if part.is_empty() {
                continue;
            }
            let Some(slice) = slices.get_mut(count) else {
                break;
            };
            *slice = IoSlice::new(part);
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let header_bytes = header.len();
        let written = ready!(Pin::new(&mut *self.inner).poll_write_vectored(task, slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_header = written.min(header_bytes);
        self.wrote_prefix(of_header);
        self.frame_left -= written - of_header;
        Poll::Ready(Ok(written - of_header))
    }
}

impl AsyncRead for WebSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        while buffer.remaining() > 0 {
            // A pong that cannot be written yet waits; a later ping takes its place.
            if let Poll::Ready(result) = socket.poll_prefix(task) {
                result?;
            }
            if socket.decoder.is_closed() {
                break;
            }
            // The bytes are decoded where they land: a payload is never longer than its frame.
            let place = buffer.initialize_unfilled();
            let (raw, payload) = ready!(socket.poll_read_raw(task, place))?;
            buffer.advance(payload);
            if raw == 0 || payload > 0 {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WebSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(task, &[IoSlice::new(bytes)])
    }

    /// What is announced as a frame must be offered again until it is written, as writers do.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        let slices = slices.get(..SLICES_MAX - 1).unwrap_or(slices);
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if bytes == 0 {
            return Poll::Ready(Ok(0));
        }
        loop {
            if socket.frame_left == 0 {
                ready!(socket.poll_prefix(task))?;
                if socket.close_sent {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                socket.begin_frame(bytes);
            }
            let written = ready!(socket.poll_frame(task, slices))?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(socket.poll_prefix(task))?;
        Pin::new(&mut *socket.inner).poll_flush(task)
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        ready!(socket.poll_prefix(task))?;
        if socket.frame_left == 0 && !socket.close_sent {
            socket.queue_close();
            ready!(socket.poll_prefix(task))?;
        }
        Pin::new(&mut *socket.inner).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests;
