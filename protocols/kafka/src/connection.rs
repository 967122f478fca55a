//! One connection: requests in, responses out in the same order.
//!
//! ```text
//!  socket ─► FrameReader ─► gate ─► decode ─► handler ─┐
//!                                                      ▼
//!  socket ◄── vectored write ◄── [ answers in order, bounded ]
//! ```
//!
//! A Produce request takes its places in the logs and leaves a future in the queue, so that many of
//! them are on their way to the disk at once. Every other request waits until the queue is empty
//! and is answered before the next one is read, which is what Kafka's clients are used to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mainstem_broker::Caller;
use mainstem_env::BoxFuture;
use mainstem_net::{ByteLease, Connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{Notify, mpsc},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    chain::Chain,
    context::{Call, Context},
    frame::{Frame, FrameError, FrameLimits, FrameReader, RequestMemory},
    handlers,
    header::{Header, Prefix},
    metrics::Closed,
    wire::DecodeError,
};

/// The most requests of a connection that wait for their responses to be written.
const RESPONSES_WAITING_MAX: usize = 128;
/// What is kept of a client id, for as long as its connection lives.
const CLIENT_ID_BYTES_MAX: usize = 1024;
/// Responses are gathered up to this size before they are written.
const GATHER_BYTES_MAX: usize = 256 << 10;

/// How a request ends.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// With a response.
    Send(Chain),
    /// Without one (acks=0).
    Silent,
    /// With the end of the connection (acks=0 and an error).
    Close,
}

/// A request's end, now or later.
pub(crate) enum Answer {
    /// It is there.
    Ready(Outcome),
    /// It is on its way.
    Pending(BoxFuture<'static, Outcome>),
}

/// What a handler hands back.
pub(crate) struct Served {
    /// How the request ends.
    pub(crate) answer: Answer,
    /// Memory of the response, held until it is written.
    pub(crate) lease: Option<ByteLease>,
}

/// Why no further request is read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The node drains.
    #[error("the node is shutting down")]
    Drain,
    /// The byte stream ended or is broken.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A request is malformed.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// A response could not be encoded: our fault.
    #[error("a response could not be encoded: {0}")]
    Encode(String),
}

/// A place in the queue of responses.
struct Waiting {
    api: usize,
    began: Duration,
    served: Served,
    memory: RequestMemory,
}

/// How many requests are not answered yet.
#[derive(Default)]
struct InFlight {
    count: AtomicUsize,
    changed: Notify,
}

/// What the reading and the writing half share.
struct Shared {
    context: Arc<Context>,
    drain: CancellationToken,
    in_flight: InFlight,
}

/// Serves a connection until either side ends it.
pub(crate) async fn serve(context: Arc<Context>, connection: Connection) {
    let Connection {
        stream,
        peer,
        id,
        drain,
    } = connection;
    let shared = Shared {
        context,
        drain,
        in_flight: InFlight::default(),
    };
    let (input, output) = tokio::io::split(stream);
    let (answers, queue) = mpsc::channel(RESPONSES_WAITING_MAX);
    let kafka = &shared.context.config.kafka;
    let limits = FrameLimits {
        frame_bytes_max: kafka.request_bytes_max,
        idle: Duration::from_millis(kafka.connections_idle_ms),
    };
    let env = shared.context.env.clone();
    let frames = FrameReader::new(env, input, limits, shared.context.requests.clone());
    let caller = Caller::anonymous(peer, "");
    let mut reading = Box::pin(read_requests(&shared, frames, answers, caller));
    let mut writing = Box::pin(write_responses(&shared, output, queue));
    // The writer first: what is ready goes out before more is taken in.
    let end = tokio::select! {
        biased;
        () = &mut writing => return,
        end = &mut reading => end,
    };
    report(&shared, &end, id);
    // What was accepted is still answered; the queue is closed, so this ends.
    writing.await;
}

fn report(shared: &Shared, end: &End, connection: u64) {
    let reason = match end {
        End::Drain | End::Frame(FrameError::Closed | FrameError::Truncated | FrameError::Io(_)) => {
            None
        }
        End::Frame(FrameError::Idle) => Some(Closed::Idle),
        End::Frame(FrameError::Stalled) => Some(Closed::Stalled),
        End::Frame(FrameError::Length(_)) => Some(Closed::Malformed),
        End::Decode(DecodeError::Unsupported { .. }) => Some(Closed::Unsupported),
        End::Decode(_) => Some(Closed::Malformed),
        End::Encode(_) => Some(Closed::Internal),
    };
    match reason {
        Some(Closed::Internal) => tracing::error!(connection, %end, "kafka connection closed"),
        _ => tracing::debug!(connection, %end, "kafka connection closed"),
    }
    if let Some(reason) = reason {
        shared.context.metrics.closed(reason);
    }
}

// === the reading half ===

async fn read_requests<R: AsyncRead + Unpin>(
    shared: &Shared,
    mut frames: FrameReader<R>,
    answers: mpsc::Sender<Waiting>,
    mut caller: Caller,
) -> End {
    loop {
        let frame = tokio::select! {
            biased;
            () = shared.drain.cancelled() => return End::Drain,
            frame = frames.next() => frame,
        };
        let frame = match frame {
            Ok(frame) => frame,
            Err(error) => return error.into(),
        };
        // The writer lives as long as this half, so the queue is open.
        let Ok(place) = answers.reserve().await else {
            return End::Drain;
        };
        match serve_request(shared, frame, &mut caller).await {
            Ok(waiting) => {
                shared.in_flight.add();
                place.send(waiting);
            }
            Err(end) => return end,
        }
    }
}

async fn serve_request(shared: &Shared, frame: Frame, caller: &mut Caller) -> Result<Waiting, End> {
    let context = &shared.context;
    let began = context.env.now();
    let Frame { bytes, mut memory } = frame;
    let prefix = Prefix::parse(&bytes)?;
    let Prefix {
        key,
        version,
        correlation,
    } = prefix;
    let unsupported = DecodeError::Unsupported { key, version };
    let (api, entry) = api::find(key).ok_or_else(|| unsupported.clone())?;
    context.metrics.began(api);
    let produce = key == kafka_protocol::messages::ApiKey::Produce as i16;
    if !produce {
        shared.in_flight.idle().await;
    }
    let waiting = |served, memory| Waiting {
        api,
        began,
        served,
        memory,
    };
    if !entry.serves(version) {
        let chain = handlers::api_versions::fallback(entry, correlation).ok_or(unsupported)?;
        context
            .metrics
            .error(api, mainstem_broker::ErrorCode::UnsupportedVersion);
        return Ok(waiting(Served::ready(Outcome::Send(chain)), memory));
    }
    let header = Header::parse(entry, version, &bytes)?;
    let client_id = header.client_id;
    let client_id = &client_id[..client_id.floor_char_boundary(CLIENT_ID_BYTES_MAX)];
    if *caller.client_id != *client_id {
        // A copy: the caller outlives the frame.
        caller.client_id = Arc::from(client_id);
    }
    tracing::debug!(api = entry.name, version, client = %caller.client_id, "kafka request");
    let body = bytes.slice(header.body);
    let cost = crate::bounded::check(entry, version, &body)?;
    memory.grow(cost).await;
    let call = Call {
        context,
        caller,
        api,
        version,
        drain: &shared.drain,
    };
    let served = if produce {
        let frame_bytes = bytes.len();
        drop(bytes);
        handlers::produce::begin(context, &call, correlation, (body, frame_bytes), began).await?
    } else {
        drop(bytes);
        Box::pin(handlers::serve(&call, correlation, body)).await?
    };
    Ok(waiting(served, memory))
}

// === the writing half ===

async fn write_responses<W: AsyncWrite + Unpin>(
    shared: &Shared,
    mut output: W,
    mut queue: mpsc::Receiver<Waiting>,
) {
    let env = &shared.context.env;
    let mut gathered = Gathered::default();
    while let Some(first) = queue.recv().await {
        let mut next = Some(first);
        let mut open = true;
        while let Some(waiting) = next.take() {
            let outcome = match waiting.served.answer {
                Answer::Ready(outcome) => outcome,
                Answer::Pending(mut future) => {
                    // What is ready does not wait for what is not.
                    match poll_once(&mut future).await {
                        Some(outcome) => outcome,
                        None => {
                            if gathered.flush(shared, &mut output).await.is_err() {
                                return;
                            }
                            future.await
                        }
                    }
                }
            };
            let elapsed = env.now().saturating_sub(waiting.began);
            shared.context.metrics.finished(waiting.api, elapsed);
            gathered.held.push((waiting.memory, waiting.served.lease));
            match outcome {
                Outcome::Send(chain) => gathered.chain.append(chain),
                Outcome::Silent => {}
                Outcome::Close => {
                    shared.context.metrics.closed(Closed::Refused);
                    open = false;
                }
            }
            if open && gathered.chain.len() < GATHER_BYTES_MAX {
                next = queue.try_recv().ok();
            }
        }
        if gathered.flush(shared, &mut output).await.is_err() || !open {
            return;
        }
    }
    // The reader is done and everything is written. The peer may be gone already.
    let _ = output.shutdown().await;
}

/// Responses that are ready, with what holds their memory.
#[derive(Default)]
struct Gathered {
    chain: Chain,
    held: Vec<(RequestMemory, Option<ByteLease>)>,
}

impl Gathered {
    async fn flush<W: AsyncWrite + Unpin>(
        &mut self,
        shared: &Shared,
        output: &mut W,
    ) -> std::io::Result<()> {
        let written = self.chain.write(&shared.context.env, output).await;
        if written
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut)
        {
            shared.context.metrics.closed(Closed::Stalled);
        }
        shared.in_flight.remove(self.held.len());
        self.held.clear();
        written
    }
}

/// The output of a future if it is there now.
async fn poll_once<T>(future: &mut BoxFuture<'static, T>) -> Option<T> {
    std::future::poll_fn(|context| match future.as_mut().poll(context) {
        std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
        std::task::Poll::Pending => std::task::Poll::Ready(None),
    })
    .await
}

// === impl Served ===

impl Served {
    /// A request that is answered already.
    pub(crate) fn ready(outcome: Outcome) -> Self {
        Self {
            answer: Answer::Ready(outcome),
            lease: None,
        }
    }
}

// === impl InFlight ===

impl InFlight {
    fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    fn remove(&self, count: usize) {
        if count > 0 && self.count.fetch_sub(count, Ordering::AcqRel) == count {
            self.changed.notify_one();
        }
    }

    /// Returns when every request is answered. One task waits at a time.
    async fn idle(&self) {
        while self.count.load(Ordering::Acquire) > 0 {
            self.changed.notified().await;
        }
    }
}
