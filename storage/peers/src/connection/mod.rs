//! One connection after its handshake: calls and streams of who dialled, answered by who listens.
//!
//! ```text
//! callers, handlers, streams ──> Outbox ──> writer task ──> socket
//! callers, streams <── Table <── reader ──┐
//! handlers (tasks) <── Server <───────────┴── socket
//! ```
//! The reader never waits for a caller, a stream or a handler; where the other side asks more than
//! it may, it is told so, and where it does not even read that, it is not read from. Only the side
//! that listens ever does not read, so the two never wait for each other. A keeper pings
//! and ends the connection when nothing was heard for [`SILENCE_MAX`].

mod client;
mod reader;
mod server;
mod writer;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstem_env::{Env, Stream};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

pub(crate) use server::Server;
pub use server::{CALL_BYTES_PER_NODE_MAX, CALLS_PER_NODE_MAX};

use crate::{
    CallError, Lane, PeerIdentity, PeerStream, Refusal, StreamEnd,
    frame::{FrameError, Kind, encode_refusal},
    handshake::Remote,
    metrics::ConnectionMetrics,
    outbox::Outbox,
    stream::StreamShared,
};

/// How often the side that dialled pings.
pub const PING_INTERVAL: Duration = Duration::from_millis(500);
/// A connection on which nothing came for so long is over: its other side, or the way to it, is
/// gone or stopped. Twelve pings and pongs fit in.
pub const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Calls of one connection that are answered at a time; more are told [`CallError::Busy`].
pub const CALLS_PER_CONNECTION_MAX: usize = 256;
/// Streams of one connection at a time; more are told [`CallError::Busy`].
pub const STREAMS_PER_CONNECTION_MAX: usize = 64;
/// How long the last frames of a connection may take to be written.
const CLOSE_GRACE: Duration = Duration::from_millis(500);

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialled,
    Accepted,
}

/// Why a connection ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// This node wanted it: it stops, or the other is no node of the cluster.
    Here,
    /// The other side said so.
    There(Refusal),
    /// The bytes ended.
    Eof,
    Io(std::io::Error),
    Silent,
    /// The other side does not keep to the protocol.
    Violation(String),
}

/// What a new connection is made of.
pub(crate) struct Made {
    pub(crate) id: u64,
    pub(crate) env: Env,
    pub(crate) remote: Remote,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) side: Side,
    pub(crate) metrics: ConnectionMetrics,
    /// Cancelled to close it in order.
    pub(crate) closing: CancellationToken,
}

/// One connection.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) identity: PeerIdentity,
    pub(crate) lane: Lane,
    pub(crate) side: Side,
    env: Env,
    version: u8,
    outbox: Outbox,
    table: Mutex<Table>,
    /// Permits of calls that are being answered.
    serving: Arc<Semaphore>,
    /// When something was last heard, in ms of the environment's clock.
    heard_ms: AtomicU64,
    closing: CancellationToken,
    /// Stops reader and writer where they are.
    abort: CancellationToken,
    metrics: ConnectionMetrics,
}

/// What a caller waits for.
type Answer = oneshot::Sender<Result<Bytes, CallError>>;

#[derive(Debug, Default)]
struct Table {
    /// The next id to give, or that the other side may give.
    next_id: u64,
    /// Calls, and streams that are not open yet.
    waiting: BTreeMap<u64, Answer>,
    streams: BTreeMap<u64, Arc<StreamShared>>,
    is_over: bool,
}

// === impl Side ===

impl Side {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dialled => "dialled",
            Self::Accepted => "accepted",
        }
    }
}

// === impl Ended ===

impl Ended {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Here => "here",
            Self::There(_) => "there",
            Self::Eof => "end",
            Self::Io(_) => "error",
            Self::Silent => "silent",
            Self::Violation(_) => "violation",
        }
    }
}

impl From<FrameError> for Ended {
    fn from(error: FrameError) -> Self {
        Self::Violation(error.to_string())
    }
}

// === impl Connection ===

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.id)
            .field("identity", &self.identity)
            .field("lane", &self.lane)
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

impl Connection {
    pub(crate) fn new(made: Made) -> Arc<Self> {
        let version = u8::try_from(made.remote.version).expect("versions are far below 256");
        let identity = made.remote.identity;
        let this = Self {
            id: made.id,
            identity: PeerIdentity {
                node: identity.node,
                directory_id: identity.directory_id,
                cluster_id: identity.cluster_id,
                address: made.address,
            },
            lane: made.remote.lane,
            side: made.side,
            env: made.env,
            version,
            outbox: Outbox::new(version),
            table: Mutex::default(),
            serving: Arc::new(Semaphore::new(CALLS_PER_CONNECTION_MAX)),
            heard_ms: AtomicU64::new(0),
            closing: made.closing,
            abort: CancellationToken::new(),
            metrics: made.metrics,
        };
        this.heard();
        Arc::new(this)
    }

    /// Closes it in order; [`Self::run`] then ends.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    pub(crate) fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Reads and writes until it ends. Calls and streams are told before this returns.
    pub(crate) async fn run(
        self: Arc<Self>,
        stream: Box<dyn Stream>,
        server: Arc<Server>,
    ) -> Ended {
        let (read, write) = tokio::io::split(stream);
        let writing = writer::run(Arc::clone(&self), write);
        let mut written = self.env.start("peer-writer", writing);
        let ended = tokio::select! {
            biased;
            () = self.closing.cancelled() => Ended::Here,
            ended = reader::run(&self, read, &server) => ended,
            result = &mut written => match result {
                Ok(Err(error)) => Ended::Io(error),
                _ => Ended::Here,
            },
            () = self.keep() => Ended::Silent,
        };
        self.tell_all();
        let farewell = match &ended {
            Ended::Here => Some(Refusal {
                code: 0,
                text: String::new(),
            }),
            Ended::Violation(text) => Some(Refusal {
                code: 1,
                text: text.clone(),
            }),
            _ => None,
        };
        if let Some(refusal) = farewell
            && !written.is_terminated()
        {
            let payload = encode_refusal(&refusal);
            self.outbox
                .push_small(self.outbox.frame(Kind::Close, 0, payload));
            self.outbox.close();
            // Whoever does not take it in time does without.
            let _ = self.env.timeout(CLOSE_GRACE, &mut written).await;
        }
        self.outbox.close();
        self.abort.cancel();
        ended
    }

    fn heard(&self) {
        let now_ms = self.env.now().as_millis() as u64;
        self.heard_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Pings; ends when nothing was heard for too long.
    async fn keep(&self) {
        loop {
            self.env.sleep(PING_INTERVAL).await;
            let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
            if self.env.now().saturating_sub(heard) > SILENCE_MAX {
                return;
            }
            if self.side == Side::Dialled {
                let ping = self.outbox.frame(Kind::Ping, 0, Bytes::new());
                self.outbox.push_small(ping);
            }
        }
    }

    /// It is over: all who wait learn it, and nobody begins to.
    fn tell_all(&self) {
        let (waiting, streams) = {
            let mut table = self.table.lock();
            table.is_over = true;
            (
                std::mem::take(&mut table.waiting),
                std::mem::take(&mut table.streams),
            )
        };
        for answer in waiting.into_values() {
            // A caller that is gone wants nothing.
            let _ = answer.send(Err(CallError::Lost));
        }
        for stream in streams.into_values() {
            stream.finish(&StreamEnd::Lost);
        }
    }

    /// Forgets a stream that is over on both sides.
    pub(crate) fn forget(&self, stream: u64) {
        self.table.lock().streams.remove(&stream);
    }

    fn stream(&self, id: u64) -> Option<Arc<StreamShared>> {
        self.table.lock().streams.get(&id).map(Arc::clone)
    }

    /// The two halves of a new stream.
    fn new_stream(self: &Arc<Self>, id: u64) -> (Arc<StreamShared>, PeerStream) {
        let shared = Arc::new(StreamShared::new(id, Arc::clone(self)));
        let stream = PeerStream::new(Arc::clone(&shared));
        (shared, stream)
    }
}
