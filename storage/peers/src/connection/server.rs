//! The side that answers.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mainstem_env::Env;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Connection, STREAMS_PER_CONNECTION_MAX};
use crate::{
    BODY_BYTES_MAX, Handler, Lane, REFUSAL_TEXT_BYTES_MAX, Refusal, Service,
    frame::{Failure, HEADER_BYTES, Header, Kind, encode_refusal},
};

/// Calls of a lane that a node answers at a time, over all connections.
pub const CALLS_PER_NODE_MAX: usize = 2048;
/// Bytes of the bodies of those calls.
pub const CALL_BYTES_PER_NODE_MAX: usize = 128 << 20;

/// What a stream may say without waiting for room: that it is open, that it ends, that it takes no
/// more, or a refusal.
const STREAM_WORDS_BYTES: usize = 4 * HEADER_BYTES + REFUSAL_TEXT_BYTES_MAX;

/// The services of a node, and how much it does for others at a time.
#[derive(Debug)]
pub(crate) struct Server {
    env: Env,
    handlers: Mutex<BTreeMap<Service, HandlerBox>>,
    control: Budget,
    data: Budget,
    /// The handlers at work.
    pub(crate) tasks: TaskTracker,
    /// Drops the handlers that do not end.
    pub(crate) abort: CancellationToken,
}

#[derive(Clone)]
struct HandlerBox(Arc<dyn Handler>);

#[derive(Debug)]
struct Budget {
    calls: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Held while a call is answered.
struct Serving {
    _connection: OwnedSemaphorePermit,
    _calls: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

// === impl Server ===

impl Server {
    pub(crate) fn new(env: &Env) -> Arc<Self> {
        Arc::new(Self {
            env: env.clone(),
            handlers: Mutex::default(),
            control: Budget::new(),
            data: Budget::new(),
            tasks: TaskTracker::new(),
            abort: CancellationToken::new(),
        })
    }

    pub(crate) fn serve(&self, service: Service, handler: Arc<dyn Handler>) {
        self.handlers.lock().insert(service, HandlerBox(handler));
    }

    /// What serves `service` on a connection of `lane`.
    fn handler(&self, service: Service, lane: Lane) -> Result<Arc<dyn Handler>, Failure> {
        let handlers = self.handlers.lock();
        let handler = handlers.get(&service).filter(|_| service.lane() == lane);
        let HandlerBox(handler) = handler.ok_or(Failure::NoService)?;
        Ok(Arc::clone(handler))
    }

    fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        let task = self.tasks.track_future(async move {
            abort.run_until_cancelled_owned(work).await;
        });
        self.env.spawn(name, task);
    }
}

// === impl HandlerBox ===

impl std::fmt::Debug for HandlerBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

// === impl Budget ===

impl Budget {
    fn new() -> Self {
        Self {
            calls: Arc::new(Semaphore::new(CALLS_PER_NODE_MAX)),
            bytes: Arc::new(Semaphore::new(CALL_BYTES_PER_NODE_MAX)),
        }
    }
}

// === impl Connection ===

impl Connection {
    /// Room for one more call.
    fn begin_serving(&self, server: &Server, bytes: usize) -> Option<Serving> {
        let budget = match self.lane {
            Lane::Control => &server.control,
            Lane::Data => &server.data,
        };
        let bytes = u32::try_from(bytes + HEADER_BYTES).ok()?;
        Some(Serving {
            _connection: Arc::clone(&self.serving).try_acquire_owned().ok()?,
            _calls: Arc::clone(&budget.calls).try_acquire_owned().ok()?,
            _bytes: Arc::clone(&budget.bytes)
                .try_acquire_many_owned(bytes)
                .ok()?,
        })
    }

    pub(super) fn serve_call(
        self: &Arc<Self>,
        server: &Server,
        header: &Header,
        body: Bytes,
    ) -> Result<(), Failure> {
        let handler = server.handler(header.service, self.lane)?;
        let serving = self
            .begin_serving(server, body.len())
            .ok_or(Failure::Busy)?;
        let (connection, id) = (Arc::clone(self), header.id);
        server.spawn("peer-call", async move {
            // Freed when the answer is queued: who does not read answers gets no more of them.
            let _serving = serving;
            let answer = handler.call(&connection.identity, body).await;
            let answer = answer.and_then(bounded);
            let (kind, payload) = match answer {
                Ok(body) => (Kind::Answer, body),
                Err(refusal) => (Kind::Refuse, encode_refusal(&refusal)),
            };
            match kind {
                Kind::Answer => connection.metrics.answered.inc(),
                _ => connection.metrics.refused.inc(),
            }
            let frame = connection.outbox.frame(kind, id, payload);
            if let Some(room) = connection.outbox.reserve(frame.payload.len()).await {
                connection.outbox.push(frame, room);
            }
        });
        Ok(())
    }

    pub(super) async fn serve_stream(
        self: &Arc<Self>,
        server: &Server,
        header: &Header,
        hello: Bytes,
    ) -> Result<(), Failure> {
        let handler = server.handler(header.service, self.lane)?;
        // Who opens streams and does not read what becomes of them is not read from.
        let Some(room) = self.outbox.reserve_reply(STREAM_WORDS_BYTES).await else {
            return Ok(());
        };
        let stream = {
            let mut table = self.table.lock();
            if table.is_over || table.streams.len() >= STREAMS_PER_CONNECTION_MAX {
                return Err(Failure::Busy);
            }
            let (shared, stream) = self.new_stream(header.id);
            table.streams.insert(header.id, shared);
            stream
        };
        let opened = self.outbox.frame(Kind::Opened, header.id, Bytes::new());
        self.outbox.push(opened, room);
        self.metrics.answered.inc();
        let connection = Arc::clone(self);
        server.spawn("peer-stream", async move {
            handler.stream(&connection.identity, hello, stream).await;
        });
        Ok(())
    }
}

fn bounded(answer: Bytes) -> Result<Bytes, Refusal> {
    if answer.len() <= BODY_BYTES_MAX {
        return Ok(answer);
    }
    Err(Refusal {
        code: Refusal::ANSWER_TOO_LARGE,
        text: format!("the answer has {} bytes", answer.len()),
    })
}
