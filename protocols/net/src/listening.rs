//! One listener and its connections.

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use mainstem_env::{BoxFuture, Env, Listener, Stream};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::{
    NetError,
    counted::Counted,
    metrics::{ListenerMetrics, NetMetrics},
};

/// The pause after the first accept that fails for want of something (descriptors, memory); it
/// doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// The longest pause between two tries to accept.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long dropped connections get to be gone before [`Listening::drained`] returns without them.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// How to listen.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// The name in metrics and logs: `kafka`, `mqtt` or `mqtt-ws`.
    pub name: &'static str,
    /// The address; port 0 takes a free one.
    pub address: SocketAddr,
    /// Connections at a time; more are closed at once.
    pub connections_max: usize,
}

/// An accepted connection.
pub struct Connection {
    /// Its bytes; what passes is counted.
    pub stream: Box<dyn Stream>,
    /// The address of the other side.
    pub peer: SocketAddr,
    /// Different for each connection of the process.
    pub id: u64,
    /// Cancelled when the connection should finish its work and close.
    pub drain: CancellationToken,
}

/// Serves one connection; it is closed when the future ends or is dropped.
pub type Handler = Arc<dyn Fn(Connection) -> BoxFuture<'static, ()> + Send + Sync>;

/// A bound address that accepts nothing yet: the port is known before what serves it is ready.
pub struct Bound {
    /// The bound address; tells the port where 0 was asked for.
    pub local_addr: SocketAddr,
    listener: Box<dyn Listener>,
    options: ListenerOptions,
}

/// A listener at work. Cheap to clone; it goes on when all clones are dropped, until
/// [`Self::stop_accepting`].
#[derive(Clone)]
pub struct Listening {
    /// The bound address; tells the port where 0 was asked for.
    pub local_addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    options: ListenerOptions,
    metrics: ListenerMetrics,
    /// The live connections.
    connections: TaskTracker,
    /// The accept loop, tracked apart so that `drained` cannot miss a connection it just accepted.
    accepting: TaskTracker,
    stop: CancellationToken,
    drain: CancellationToken,
    /// Drops the handlers that did not finish in time.
    abort: CancellationToken,
}

/// The accept loop.
struct Acceptor {
    env: Env,
    listener: Box<dyn Listener>,
    shared: Arc<Shared>,
    handler: Handler,
    /// The next pause after an error.
    backoff: Duration,
    /// Whether the last one was refused by the limit: one warning for each time it is reached.
    is_full: bool,
    _accepting: TaskTrackerToken,
}

// === impl Bound ===

impl Bound {
    /// Binds the address. Connections wait in the kernel until [`Self::serve`].
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn bind(env: &Env, options: ListenerOptions) -> Result<Self, NetError> {
        let (name, address) = (options.name, options.address);
        let refused = |source: io::Error| NetError::Listen {
            name,
            address,
            source,
        };
        let listener = env.net.listen(address).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        Ok(Self {
            local_addr,
            listener,
            options,
        })
    }

    /// Accepts from now on; each connection is served by a task that runs `handler`.
    pub fn serve(self, env: &Env, metrics: &NetMetrics, handler: Handler) -> Listening {
        let Self {
            local_addr,
            listener,
            options,
        } = self;
        let name = options.name;
        let shared = Arc::new(Shared {
            options,
            metrics: metrics.listener(name),
            connections: TaskTracker::new(),
            accepting: TaskTracker::new(),
            stop: CancellationToken::new(),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
        });
        let acceptor = Acceptor {
            env: env.clone(),
            listener,
            shared: Arc::clone(&shared),
            handler,
            backoff: BACKOFF_MIN,
            is_full: false,
            _accepting: shared.accepting.token(),
        };
        env.spawn(name, acceptor.run());
        tracing::info!(listener = name, address = %local_addr, "listening");
        Listening { local_addr, shared }
    }
}

// === impl Listening ===

impl Listening {
    /// Binds the address and accepts from then on; each connection is served by a task that runs
    /// `handler`.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(
        env: &Env,
        options: ListenerOptions,
        metrics: &NetMetrics,
        handler: Handler,
    ) -> Result<Self, NetError> {
        let bound = Bound::bind(env, options).await?;
        Ok(bound.serve(env, metrics, handler))
    }

    /// Closes the address to newcomers; live connections go on.
    pub fn stop_accepting(&self) {
        self.shared.stop.cancel();
    }

    /// Asks every connection, also one that is accepted later, to finish its work and close.
    pub fn begin_drain(&self) {
        self.shared.drain.cancel();
    }

    /// Stops accepting and waits until all connections are closed, at most `limit`; the ones that
    /// are left are then dropped as they are. Returns how many those were.
    pub async fn drained(&self, env: &Env, limit: Duration) -> usize {
        self.stop_accepting();
        let all_closed = self.all_closed();
        if env.timeout(limit, all_closed).await.is_ok() {
            return 0;
        }
        let aborted = self.connections();
        self.shared.abort.cancel();
        if env.timeout(ABORT_GRACE, self.all_closed()).await.is_err() {
            let left = self.connections();
            let listener = self.shared.options.name;
            tracing::warn!(listener, left, "connections did not end when dropped");
        }
        aborted
    }

    /// Live connections.
    pub fn connections(&self) -> usize {
        self.shared.connections.len()
    }

    async fn all_closed(&self) {
        self.shared.accepting.close();
        self.shared.accepting.wait().await;
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening")
            .field("name", &self.shared.options.name)
            .field("local_addr", &self.local_addr)
            .field("connections", &self.connections())
            .finish()
    }
}

// === impl Connection ===

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.peer)
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

// === impl Acceptor ===

impl Acceptor {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        while let Some(result) = shared
            .stop
            .run_until_cancelled(self.listener.accept())
            .await
        {
            match result {
                Ok((stream, peer)) => {
                    self.backoff = BACKOFF_MIN;
                    self.accepted(stream, peer);
                }
                Err(error) => {
                    shared.metrics.refused_error.inc();
                    if !concerns_one_connection(&error) {
                        self.pause(&error).await;
                    }
                }
            }
        }
        tracing::info!(listener = shared.options.name, "no longer accepting");
    }

    fn accepted(&mut self, stream: Box<dyn Stream>, peer: SocketAddr) {
        let shared = &self.shared;
        let (listener, limit) = (shared.options.name, shared.options.connections_max);
        if shared.connections.len() >= limit {
            shared.metrics.refused_limit.inc();
            if !self.is_full {
                tracing::warn!(listener, limit, %peer, "connections refused: the limit is reached");
            }
            self.is_full = true;
            return;
        }
        self.is_full = false;
        shared.metrics.accepted.inc();
        let connection = Connection {
            stream: Box::new(Counted {
                inner: stream,
                received: shared.metrics.received.clone(),
                sent: shared.metrics.sent.clone(),
            }),
            peer,
            id: shared.metrics.next_id(),
            drain: shared.drain.child_token(),
        };
        tracing::debug!(listener, %peer, connection = connection.id, "accepted");
        let live = shared.metrics.live();
        let abort = shared.abort.clone();
        let served = (self.handler)(connection);
        let task = shared.connections.track_future(async move {
            // Dropped with the task, whatever ends it.
            let _live = live;
            let _ = abort.run_until_cancelled_owned(served).await;
        });
        self.env.spawn(listener, task);
    }

    /// Waits before the next try, longer each time; ends at once when accepting stops.
    async fn pause(&mut self, error: &io::Error) {
        let listener = self.shared.options.name;
        let wait_ms = self.backoff.as_millis() as u64;
        tracing::warn!(listener, %error, wait_ms, "cannot accept");
        let sleep = self.env.sleep(self.backoff);
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        self.shared.stop.run_until_cancelled(sleep).await;
    }
}

/// Whether an accept failed because its connection was gone already, so that the next one may be
/// tried at once: a peer that connects and resets must not slow down the others.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, InvalidInput, NotConnected,
    };
    matches!(
        error.kind(),
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | Interrupted
            | InvalidInput
            | NotConnected
    )
}

#[cfg(test)]
mod tests;
