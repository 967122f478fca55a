//! Bytes from the client, until they are packets.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::codec::{
    DecodeError, Frame,
    frame::{self, Check},
};

/// Bytes that one read takes at most.
pub(crate) const READ_BYTES_MAX: usize = 16 << 10;

/// What was read and is not decoded yet.
///
/// There is no buffer to read into: a read goes to the stack and what came is copied, so that a
/// connection owns exactly the bytes that its client has sent, and an idle one owns none. A frame
/// shares this memory.
#[derive(Debug, Default)]
pub(crate) struct Input {
    buffer: BytesMut,
}

// === impl Input ===

impl Input {
    /// Reads once, at most `bytes_max` (and [`READ_BYTES_MAX`]). 0 is the end of the stream.
    pub(crate) fn poll_fill<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        task: &mut TaskContext<'_>,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        let mut scratch = [MaybeUninit::uninit(); READ_BYTES_MAX];
        let scratch = scratch.get_mut(..bytes_max.min(READ_BYTES_MAX));
        let mut read = ReadBuf::uninit(scratch.unwrap_or_default());
        ready!(Pin::new(stream).poll_read(task, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Whether [`Self::frame`] has something to say: a whole packet, or an error.
    pub(crate) fn has_frame(&self, packet_bytes_max: u32) -> bool {
        !matches!(
            frame::check(&self.buffer, packet_bytes_max),
            Ok(Check::NeedMore { .. })
        )
    }

    /// The next packet, if it is there.
    ///
    /// # Errors
    /// See [`frame::split`].
    pub(crate) fn frame(&mut self, packet_bytes_max: u32) -> Result<Option<Frame>, DecodeError> {
        let split = frame::split(&mut self.buffer, packet_bytes_max)?;
        self.let_go();
        Ok(split)
    }

    /// As [`Self::frame`], for the first packet.
    ///
    /// # Errors
    /// See [`frame::split_first`].
    pub(crate) fn first_frame(
        &mut self,
        packet_bytes_max: u32,
    ) -> Result<Option<Frame>, DecodeError> {
        let split = frame::split_first(&mut self.buffer, packet_bytes_max)?;
        self.let_go();
        Ok(split)
    }

    /// An empty rest would keep the memory of the frames alive.
    fn let_go(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn fill(input: &mut Input, mut bytes: &[u8], bytes_max: usize) -> usize {
        let mut task = TaskContext::from_waker(Waker::noop());
        match input.poll_fill(&mut bytes, &mut task, bytes_max) {
            Poll::Ready(Ok(count)) => count,
            other => panic!("a slice is always ready: {other:?}"),
        }
    }

    #[test]
    fn memory_follows_the_bytes_that_came_not_the_length_that_is_claimed() {
        let mut input = Input::default();
        // A PUBLISH of 268,435,455 bytes, of which three are there.
        assert_eq!(
            fill(&mut input, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F, 1, 2, 3], 4096),
            8
        );
        assert_eq!(input.frame(u32::MAX).expect("legal so far"), None);
        assert!(!input.has_frame(u32::MAX));
        assert!(input.buffer.capacity() <= 64, "{}", input.buffer.capacity());
        assert!(input.has_frame(2_000_000), "an error is to be told");
        assert!(input.frame(2_000_000).is_err());
    }

    #[test]
    fn an_input_that_is_used_up_owns_nothing() {
        let mut input = Input::default();
        fill(&mut input, &[0xC0, 0, 0xC0, 0], 4096);
        assert!(input.frame(100).expect("PINGREQ").is_some());
        assert!(input.has_frame(100));
        assert!(input.frame(100).expect("PINGREQ").is_some());
        assert_eq!(input.buffer.capacity(), 0);
        assert!(!input.has_frame(100));
    }

    #[test]
    fn one_read_takes_no_more_than_it_may() {
        let mut input = Input::default();
        assert_eq!(fill(&mut input, &[0x10; 9000], 4096), 4096);
        assert_eq!(
            fill(&mut input, &[0x10; 90_000], usize::MAX),
            READ_BYTES_MAX
        );
        assert_eq!(fill(&mut input, &[], 4096), 0);
    }
}
