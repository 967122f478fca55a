//! Bytes to the client, until it takes them.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context as TaskContext, Poll},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

/// Bytes that may wait before nothing more is put in. A packet that begins below it is put in whole.
pub(crate) const OUTPUT_BYTES_MAX: usize = 256 << 10;

/// From this size on, a payload is not copied: the socket gets the memory that all receivers of the
/// message share.
const SHARED_BYTES_MIN: usize = 4 << 10;

/// What the first piece of memory for small packets holds.
const TAIL_BYTES: usize = 256;

/// Slices of one write.
const SLICES_MAX: usize = 16;

/// What is to be written: whole packets, in order.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// Comes first; no element is empty.
    chunks: VecDeque<Bytes>,
    chunk_bytes: usize,
    /// Small packets after the last chunk.
    tail: BytesMut,
    /// Whether the stream has something that it was not asked to flush.
    unflushed: bool,
}

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// Bytes that the stream took.
    pub(crate) bytes: usize,
    /// Whether nothing is left.
    pub(crate) all: bool,
}

// === impl Output ===

impl Output {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.chunk_bytes + self.tail.len()
    }

    /// Whether more may be put in.
    pub(crate) fn has_room(&self) -> bool {
        self.len() < OUTPUT_BYTES_MAX
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        !self.unflushed && self.len() == 0
    }

    /// Where small packets are appended.
    pub(crate) fn tail(&mut self) -> &mut BytesMut {
        if self.tail.capacity() == 0 {
            self.tail.reserve(TAIL_BYTES);
        }
        &mut self.tail
    }

    /// Appends a payload: copied if it is small, shared if it is large.
    pub(crate) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < SHARED_BYTES_MIN {
            self.tail().extend_from_slice(payload);
            return;
        }
        if !self.tail.is_empty() {
            self.push_chunk_of_tail();
        }
        self.chunk_bytes += payload.len();
        self.chunks.push_back(payload.clone());
    }

    fn push_chunk_of_tail(&mut self) {
        let tail = self.tail.split().freeze();
        self.chunk_bytes += tail.len();
        self.chunks.push_back(tail);
    }

    /// Writes until the stream takes no more, and flushes it when all is written.
    ///
    /// # Errors
    /// Those of the stream; that it takes nothing though it is ready is one.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        task: &mut TaskContext<'_>,
    ) -> io::Result<Written> {
        let mut bytes = 0;
        while self.len() > 0 {
            match self.poll_write_once(Pin::new(&mut *stream), task) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    self.advance(count);
                    self.unflushed = true;
                    bytes += count;
                }
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(Written { bytes, all: false }),
            }
        }
        self.tail = BytesMut::new();
        self.chunks = VecDeque::new();
        if self.unflushed {
            match Pin::new(stream).poll_flush(task) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(Written { bytes, all: false }),
            }
            self.unflushed = false;
        }
        Ok(Written { bytes, all: true })
    }

    fn poll_write_once<S: AsyncWrite + ?Sized>(
        &self,
        stream: Pin<&mut S>,
        task: &mut TaskContext<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.chunks.is_empty() {
            return stream.poll_write(task, &self.tail);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let waiting = self.chunks.iter().map(|chunk| &chunk[..]);
        let waiting = waiting.chain((!self.tail.is_empty()).then_some(&self.tail[..]));
        let mut count = 0;
        for (slice, chunk) in slices.iter_mut().zip(waiting) {
            *slice = IoSlice::new(chunk);
            count += 1;
        }
        stream.poll_write_vectored(task, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let Some(chunk) = self.chunks.front_mut() else {
                self.tail.advance(count.min(self.tail.len()));
                return;
            };
            let taken = count.min(chunk.len());
            chunk.advance(taken);
            self.chunk_bytes -= taken;
            count -= taken;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    /// Takes at most `piece` bytes of a write, and is not ready every other time.
    struct Slow {
        taken: Vec<u8>,
        piece: usize,
        ready: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut TaskContext<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.ready = !self.ready;
            if !self.ready {
                return Poll::Pending;
            }
            let count = bytes.len().min(self.piece);
            self.taken.extend_from_slice(&bytes[..count]);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        /// Whatever is put in comes out, in order, however slowly it is taken; in the end nothing
        /// is kept.
        #[test]
        fn bytes_come_out_as_they_were_put_in(
            sizes in proptest::collection::vec((0usize..6000, any::<bool>()), 0..20),
            piece in 1usize..9000,
        ) {
            let mut output = Output::default();
            let mut slow = Slow { taken: Vec::new(), piece, ready: false };
            let mut expected = Vec::new();
            let mut task = TaskContext::from_waker(Waker::noop());
            for (at, &(size, write)) in sizes.iter().enumerate() {
                let payload = Bytes::from(vec![at as u8; size]);
                output.tail().extend_from_slice(&[0xAA, at as u8]);
                output.put_payload(&payload);
                expected.extend_from_slice(&[0xAA, at as u8]);
                expected.extend_from_slice(&payload);
                if write {
                    output.poll_write(&mut slow, &mut task).expect("writes");
                }
                prop_assert_eq!(output.len() + slow.taken.len(), expected.len());
            }
            while !output.poll_write(&mut slow, &mut task).expect("writes").all {}
            prop_assert_eq!(slow.taken, expected);
            prop_assert!(output.is_idle());
            prop_assert_eq!(output.tail.capacity() + output.chunks.capacity(), 0);
        }
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let mut output = Output::default();
        let payload = Bytes::from(vec![7; SHARED_BYTES_MIN]);
        output.put_payload(&payload);
        assert_eq!(output.chunks[0].as_ptr(), payload.as_ptr());
        assert_eq!(output.len(), SHARED_BYTES_MIN);
    }
}
