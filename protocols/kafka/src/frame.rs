//! Frames: a big-endian 32-bit length and that many bytes.
//!
//! A length is a claim. Memory is taken from the node's budget, and then from the allocator, in
//! steps as bytes arrive: a claim of 100 MiB that is never made good costs one small step.

use std::{io, sync::Arc, time::Duration};

use bytes::{BufMut, Bytes};
use mainstem_env::Env;
use mainstem_net::{ByteBudget, ByteLease};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Bytes of the length before each frame.
const LENGTH_BYTES: usize = 4;
/// The smallest frame: API key, version and correlation id.
const FRAME_BYTES_MIN: usize = 8;
/// What one read may take before the length of the next frame is known. Requests that are smaller
/// come with their length, often several of them, in one system call.
const AHEAD_BYTES: usize = 4096;
/// The first piece of memory for a frame, taken before any of its bytes is seen.
const STEP_BYTES: usize = 64 << 10;
/// Each further piece is at most this many times what has arrived.
const STEP_FACTOR: usize = 3;
/// A frame that has begun must go on within this time: its memory is held meanwhile.
const STALL_MAX: Duration = Duration::from_secs(30);

/// Where the memory of requests comes from, shared by all connections of a node.
#[derive(Clone)]
pub(crate) struct MemoryPool {
    budget: ByteBudget,
    /// Whoever holds it may go beyond the budget. Without it, connections that each hold a part of
    /// a frame could wait for each other for ever; with it, one of them always goes on. The node
    /// uses at most the budget and one frame.
    overdraft: Arc<Semaphore>,
}

/// The memory of one request, given back when dropped.
pub(crate) struct RequestMemory {
    pool: MemoryPool,
    leases: Vec<ByteLease>,
    overdraft: Option<OwnedSemaphorePermit>,
}

/// One frame without its length.
pub(crate) struct Frame {
    /// Header and body of a request.
    pub(crate) bytes: Bytes,
    /// What holds its place in the budget.
    pub(crate) memory: RequestMemory,
}

/// Why there is no further frame.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The client closed between frames.
    #[error("the client closed the connection")]
    Closed,
    /// The client closed within a frame.
    #[error("the connection ended within a request")]
    Truncated,
    /// Not a length of a request.
    #[error("a request of {0} bytes")]
    Length(i32),
    /// No request for as long as a connection may be idle.
    #[error("the connection was idle")]
    Idle,
    /// A request that did not go on.
    #[error("a request stopped halfway")]
    Stalled,
    /// The socket failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// What frames a connection may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameLimits {
    /// `socket.request.max.bytes`.
    pub(crate) frame_bytes_max: usize,
    /// `connections.max.idle.ms`.
    pub(crate) idle: Duration,
}

/// Takes frames from a byte stream.
pub(crate) struct FrameReader<R> {
    env: Env,
    stream: R,
    limits: FrameLimits,
    pool: MemoryPool,
    /// Bytes that were read and not yet taken.
    ahead: Box<[u8; AHEAD_BYTES]>,
    start: usize,
    end: usize,
}

// === impl MemoryPool ===

impl MemoryPool {
    /// A pool of `bytes_max` for all requests that are being read or worked on.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            budget: ByteBudget::new(bytes_max),
            overdraft: Arc::new(Semaphore::new(1)),
        }
    }

    /// The memory of a new request: none yet.
    pub(crate) fn request(&self) -> RequestMemory {
        RequestMemory {
            pool: self.clone(),
            leases: Vec::new(),
            overdraft: None,
        }
    }
}

// === impl RequestMemory ===

impl RequestMemory {
    /// Waits until the request may take `bytes` more.
    pub(crate) async fn grow(&mut self, bytes: usize) {
        if self.overdraft.is_some() || bytes == 0 {
            return;
        }
        if let Some(lease) = self.pool.budget.try_acquire(bytes) {
            self.leases.push(lease);
            return;
        }
        tokio::select! {
            biased;
            lease = self.pool.budget.acquire(bytes) => self.leases.push(lease),
            // The semaphore is never closed; if it were, going on is better than standing still.
            permit = self.pool.overdraft.clone().acquire_owned() => self.overdraft = permit.ok(),
        }
    }
}

// === impl FrameReader ===

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames of `stream`.
    pub(crate) fn new(env: Env, stream: R, limits: FrameLimits, pool: MemoryPool) -> Self {
        Self {
            env,
            stream,
            limits,
            pool,
            ahead: Box::new([0; AHEAD_BYTES]),
            start: 0,
            end: 0,
        }
    }

    /// The next frame. Not cancel-safe within a frame: after a cancelled call the connection must
    /// be closed.
    pub(crate) async fn next(&mut self) -> Result<Frame, FrameError> {
        let length = self.length().await?;
        let mut memory = self.pool.request();
        let mut body: Vec<u8> = Vec::new();
        while body.len() < length {
            if body.len() == body.capacity() {
                let step = step_bytes(length, body.len());
                memory.grow(step).await;
                body.reserve_exact(step);
            }
            // The capacity may be more than was asked for; the frame is not.
            let room = body.capacity().min(length) - body.len();
            self.fill(&mut body, room).await?;
        }
        Ok(Frame {
            bytes: Bytes::from(body),
            memory,
        })
    }

    async fn length(&mut self) -> Result<usize, FrameError> {
        while self.end - self.start < LENGTH_BYTES {
            self.ahead.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
            let begun = self.end > 0;
            let (limit, late) = match begun {
                true => (self.stall(), FrameError::Stalled),
                false => (self.limits.idle, FrameError::Idle),
            };
            let read = self.stream.read(&mut self.ahead[self.end..]);
            match self.env.timeout(limit, read).await {
                Err(_) => return Err(late),
                Ok(Ok(0)) if begun => return Err(FrameError::Truncated),
                Ok(Ok(0)) => return Err(FrameError::Closed),
                Ok(read) => self.end += read?,
            }
        }
        let mut bytes = [0; LENGTH_BYTES];
        bytes.copy_from_slice(&self.ahead[self.start..self.start + LENGTH_BYTES]);
        self.start += LENGTH_BYTES;
        let length = i32::from_be_bytes(bytes);
        usize::try_from(length)
            .ok()
            .filter(|length| (FRAME_BYTES_MIN..=self.limits.frame_bytes_max).contains(length))
            .ok_or(FrameError::Length(length))
    }

    /// Appends between 1 and `room` bytes to `body`.
    async fn fill(&mut self, body: &mut Vec<u8>, room: usize) -> Result<(), FrameError> {
        let ready = (self.end - self.start).min(room);
        if ready > 0 {
            body.extend_from_slice(&self.ahead[self.start..self.start + ready]);
            self.start += ready;
            return Ok(());
        }
        let limit = self.stall();
        let mut window = body.limit(room);
        let read = self.stream.read_buf(&mut window);
        match self.env.timeout(limit, read).await {
            Err(_) => Err(FrameError::Stalled),
            Ok(Ok(0)) => Err(FrameError::Truncated),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    fn stall(&self) -> Duration {
        self.limits.idle.min(STALL_MAX)
    }
}

/// How much more memory a frame of `length` gets when it has `have` bytes and no room.
fn step_bytes(length: usize, have: usize) -> usize {
    have.saturating_mul(STEP_FACTOR)
        .max(STEP_BYTES)
        .min(length - have)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        frame_bytes_max: 100 << 20,
        idle: Duration::from_secs(600),
    };

    fn reader<R: AsyncRead + Unpin>(stream: R, bytes_max: usize) -> FrameReader<R> {
        FrameReader::new(Env::real(), stream, LIMITS, MemoryPool::new(bytes_max))
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = (body.len() as i32).to_be_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[tokio::test]
    async fn frames_of_all_sizes_come_back_whole_however_they_are_cut() {
        let sizes = [8, 9, 100, 4092, 4093, 65_536, 65_537, 300_000, 8];
        let bodies: Vec<Vec<u8>> = sizes
            .iter()
            .map(|size| (0..*size).map(|at| (at * 7 % 251) as u8).collect())
            .collect();
        for cut in [3, 4096, 1 << 20] {
            let (mut client, server) = tokio::io::duplex(1 << 20);
            let stream: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
            let send = async {
                for piece in stream.chunks(cut) {
                    client.write_all(piece).await.expect("write");
                }
                drop(client);
            };
            let receive = async {
                let mut frames = reader(server, 1 << 20);
                for body in &bodies {
                    let frame = frames.next().await.expect("frame");
                    assert_eq!(frame.bytes, body[..]);
                }
                assert!(matches!(frames.next().await, Err(FrameError::Closed)));
            };
            tokio::join!(send, receive);
        }
    }

    #[tokio::test]
    async fn lengths_out_of_bounds_are_refused() {
        for length in [i32::MIN, -1, 0, 7, (100 << 20) + 1, i32::MAX] {
            let bytes = length.to_be_bytes();
            let error = reader(&bytes[..], 1 << 20).next().await.err();
            assert!(
                matches!(error, Some(FrameError::Length(found)) if found == length),
                "{length}"
            );
        }
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_told_apart_from_a_clean_one() {
        let bytes = framed(&[1; 20]);
        for end in 1..bytes.len() {
            let error = reader(&bytes[..end], 1 << 20).next().await.err();
            assert!(matches!(error, Some(FrameError::Truncated)), "{end}");
        }
    }

    #[tokio::test]
    async fn a_claimed_length_takes_no_more_than_a_step() {
        let pool = MemoryPool::new(256 << 20);
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let mut frames = FrameReader::new(Env::real(), server, LIMITS, pool.clone());
        client
            .write_all(&(100i32 << 20).to_be_bytes())
            .await
            .expect("write");
        client.write_all(&[0; 10]).await.expect("write");
        let mut next = Box::pin(frames.next());
        tokio::select! {
            biased;
            _ = &mut next => panic!("the frame is not there"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(pool.budget.in_use(), STEP_BYTES);
        drop(next);
        assert_eq!(pool.budget.in_use(), 0);
    }

    #[tokio::test]
    async fn frames_that_wait_for_each_other_still_come_through() {
        let pool = MemoryPool::new(300_000);
        let body = vec![7; 250_000];
        let bytes = framed(&body);
        // Each takes a part of the budget; together they need more than there is.
        let tasks = (0..4).map(|_| {
            let mut frames = FrameReader::new(Env::real(), &bytes[..], LIMITS, pool.clone());
            async move { frames.next().await.map(|frame| frame.bytes.len()) }
        });
        for task in tasks {
            assert_eq!(task.await.expect("frame"), body.len());
        }
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut memory = pool.request();
            memory.grow(90_000).await;
            held.push(memory);
        }
        let mut late = FrameReader::new(Env::real(), &bytes[..], LIMITS, pool.clone());
        let frame = late.next().await.expect("the overdraft carries one frame");
        assert_eq!(frame.bytes.len(), body.len());
    }

    /// A clock on which every wait is over at once.
    struct Impatient;

    impl mainstem_env::Clock for Impatient {
        fn now(&self) -> Duration {
            Duration::ZERO
        }

        fn wall_ms(&self) -> i64 {
            0
        }

        fn sleep(&self, _: Duration) -> mainstem_env::BoxFuture<'static, ()> {
            Box::pin(std::future::ready(()))
        }
    }

    #[tokio::test]
    async fn silence_between_frames_and_within_them_has_its_end() {
        let pool = MemoryPool::new(1 << 20);
        let bytes = framed(&[1; 20]);
        for sent in [0, 2, 4, 23, 24] {
            let (mut client, server) = tokio::io::duplex(1 << 10);
            let env = Env {
                clock: Arc::new(Impatient),
                ..Env::real()
            };
            let mut frames = FrameReader::new(env, server, LIMITS, pool.clone());
            client.write_all(&bytes[..sent]).await.expect("write");
            match (sent, frames.next().await) {
                (0, Err(FrameError::Idle)) => {}
                (2..=23, Err(FrameError::Stalled)) => {}
                (24, Ok(frame)) => assert_eq!(frame.bytes, [1; 20][..]),
                (sent, result) => panic!("{sent} bytes: {:?}", result.map(|frame| frame.bytes)),
            }
        }
    }

    #[test]
    fn steps_are_in_proportion_and_end_at_the_length() {
        for length in [8, 4096, 65_536, 1 << 20, 100 << 20] {
            let mut have = 0;
            while have < length {
                let step = step_bytes(length, have);
                assert!(step > 0 && step <= STEP_BYTES.max(STEP_FACTOR * have));
                have += step;
            }
            assert_eq!(have, length);
        }
    }
}
