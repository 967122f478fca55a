//! Responses as chains of slices, and their vectored writing.

use std::{collections::VecDeque, io, io::IoSlice, time::Duration};

use bytes::{Buf, Bytes};
use mainstem_env::Env;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The most slices that one write takes (`IOV_MAX` on Linux). Small batches lie in the tail cache
/// one by one: with 64 of 1 KiB to a write a third of the CPU time went into system calls.
const WRITE_SLICES_MAX: usize = 1024;

/// A client that takes no byte for this long is closed: its responses hold memory.
const WRITE_STALL_MAX: Duration = Duration::from_secs(60);

/// Bytes to be written one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chain {
    pieces: VecDeque<Bytes>,
    bytes: usize,
}

// === impl Chain ===

impl Chain {
    /// Appends a slice.
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.bytes += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// Appends another chain.
    pub(crate) fn append(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.pieces.extend(other.pieces);
    }

    /// Total length.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    /// Writes everything and leaves the chain empty. Fails with `TimedOut` if the peer stops
    /// reading.
    pub(crate) async fn write<W: AsyncWrite + Unpin>(
        &mut self,
        env: &Env,
        stream: &mut W,
    ) -> io::Result<()> {
        while !self.pieces.is_empty() {
            let slices: Vec<IoSlice<'_>> = self
                .pieces
                .iter()
                .take(WRITE_SLICES_MAX)
                .map(|piece| IoSlice::new(piece))
                .collect();
            let written = env
                .timeout(WRITE_STALL_MAX, stream.write_vectored(&slices))
                .await
                .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        Ok(())
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(front) = self.pieces.front_mut() {
            if front.len() > written {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.pieces.pop_front();
        }
    }
}

impl From<Bytes> for Chain {
    fn from(bytes: Bytes) -> Self {
        let mut chain = Self::default();
        chain.push(bytes);
        chain
    }
}

#[cfg(test)]
impl Chain {
    /// All pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.pieces.iter()
    }

    /// The content in one buffer.
    pub(crate) fn to_bytes(&self) -> Bytes {
        self.pieces.iter().flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn chains_of_many_pieces_arrive_whole_through_a_narrow_pipe() {
        let mut chain = Chain::default();
        let mut expected = Vec::new();
        for index in 0..500usize {
            let piece: Vec<u8> = (0..index % 97).map(|at| (at + index) as u8).collect();
            expected.extend_from_slice(&piece);
            chain.push(Bytes::from(piece));
        }
        assert_eq!(chain.len(), expected.len());
        let (mut near, mut far) = tokio::io::duplex(100);
        let env = Env::real();
        let (written, received) = tokio::join!(
            async {
                let result = chain.write(&env, &mut near).await;
                drop(near);
                result
            },
            async {
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.expect("read");
                received
            }
        );
        written.expect("write");
        assert_eq!(received, expected);
        assert_eq!(chain.len(), 0);
    }
}
