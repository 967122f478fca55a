//! Writes what waits.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
};

use bytes::{Buf, Bytes, BytesMut};
use mainstem_env::Stream;
use tokio::io::{AsyncWriteExt, WriteHalf};

use super::Connection;
use crate::{frame::HEADER_BYTES, outbox::Outgoing};

/// Payloads up to this length are copied behind their header: cheaper than a slice of their own.
const COPIED_BYTES_MAX: usize = 4096;

/// Bytes of several frames, for one vectored write.
#[derive(Debug, Default)]
struct Batch {
    parts: VecDeque<Bytes>,
    bytes: usize,
}

/// Writes until the outbox is closed and empty, or the connection is given up.
pub(super) async fn run(
    connection: Arc<Connection>,
    write: WriteHalf<Box<dyn Stream>>,
) -> io::Result<()> {
    let abort = connection.abort.clone();
    let written = abort.run_until_cancelled(write_all(&connection, write));
    written.await.unwrap_or(Ok(()))
}

async fn write_all(
    connection: &Connection,
    mut write: WriteHalf<Box<dyn Stream>>,
) -> io::Result<()> {
    loop {
        let frames = connection.outbox.next().await;
        if frames.is_empty() {
            return write.shutdown().await;
        }
        let mut batch = Batch::of(&frames);
        let bytes = batch.bytes as u64;
        write.write_all_buf(&mut batch).await?;
        write.flush().await?;
        connection.metrics.sent.inc_by(bytes);
        // Their room is free only now.
        drop(frames);
    }
}

// === impl Batch ===

impl Batch {
    fn of(frames: &[Outgoing]) -> Self {
        let mut batch = Self::default();
        let mut copied = BytesMut::with_capacity(frames.len() * HEADER_BYTES * 2);
        for frame in frames {
            copied.extend_from_slice(&frame.header.encode());
            if frame.payload.len() <= COPIED_BYTES_MAX {
                copied.extend_from_slice(&frame.payload);
            } else {
                batch.push(copied.split().freeze());
                batch.push(frame.payload.clone());
            }
        }
        batch.push(copied.freeze());
        batch
    }

    fn push(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.bytes += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(&self.parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.bytes, "more was written than there is");
        self.bytes -= count;
        while let Some(part) = self.parts.front_mut() {
            if count < part.len() {
                part.advance(count);
                return;
            }
            count -= part.len();
            self.parts.pop_front();
        }
    }
}
