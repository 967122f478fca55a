//! The way to one node on one lane: dialled when it is first needed, and from then on again each
//! time that it is lost, so that it is known at once whether the node is still there.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mainstem_env::Stream;
use mainstem_record::BrokerId;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    CallError, HandshakeError, Lane, PeerAddress, Unreachable,
    connection::{Connection, Side},
    greet,
    listener::HANDSHAKE_TIMEOUT,
    shared::{Admitted, Shared},
};

/// How long connecting may take, names included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after the first dial that fails; it doubles up to [`BACKOFF_MAX`]. A random part of up
/// to a quarter is added, so that nodes do not dial in step.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two dials, without its random part.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted so long was good: the next dial follows its end at once.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// The way to one node on one lane.
#[derive(Debug)]
pub(crate) struct Link {
    node: BrokerId,
    lane: Lane,
    state: Mutex<State>,
    /// The state changed.
    changed: Notify,
    /// The next dial should not be waited for.
    hurry: Notify,
    /// Cancelled when the node is no longer one of the cluster, or this node stops.
    pub(crate) stop: CancellationToken,
}

#[derive(Debug)]
enum State {
    Dialling,
    Up(Arc<Connection>),
    /// It failed and will be dialled again; nobody waits for that.
    Down(Unreachable),
    Over,
}

// === impl Link ===

impl Link {
    pub(crate) fn new(node: BrokerId, lane: Lane, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            node,
            lane,
            state: Mutex::new(State::Dialling),
            changed: Notify::new(),
            hurry: Notify::new(),
            stop,
        })
    }

    /// The connection, waited for while it is dialled.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            match &*self.state.lock() {
                State::Up(connection) => return Ok(Arc::clone(connection)),
                State::Down(why) => return Err(CallError::Unreachable(why.clone())),
                State::Over => return Err(CallError::Closed),
                State::Dialling => {}
            }
            changed.await;
        }
    }

    /// The node is there, as far as is known: dials without a pause.
    pub(crate) fn hurry(&self) {
        if matches!(*self.state.lock(), State::Down(_)) {
            self.hurry.notify_one();
        }
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
        self.changed.notify_waiters();
    }

    /// Dials and dials again until stopped.
    pub(crate) async fn run(self: Arc<Self>, shared: Arc<Shared>) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.dial_for_ever(&shared)).await;
        let last = std::mem::replace(&mut *self.state.lock(), State::Over);
        self.changed.notify_waiters();
        if let State::Up(connection) = last {
            connection.close();
        }
    }

    async fn dial_for_ever(&self, shared: &Arc<Shared>) {
        let mut backoff = BACKOFF_MIN;
        let mut last_failure = None;
        loop {
            match self.dial(shared).await {
                Ok((made, stream)) => {
                    last_failure = None;
                    let made_at = shared.env.now();
                    self.serve(shared, made, stream).await;
                    if shared.env.now().saturating_sub(made_at) >= GOOD_AFTER {
                        backoff = BACKOFF_MIN;
                        self.set(State::Dialling);
                        continue;
                    }
                    let why = "the last connection ended at once".to_owned();
                    self.set(State::Down(Unreachable::Failed(why)));
                }
                Err(why) => {
                    // Who is told of the change finds it.
                    self.set(State::Down(why.clone()));
                    self.failed(shared, why, &mut last_failure);
                }
            }
            let pause = shared.env.sleep(shared.with_jitter(backoff));
            tokio::select! {
                biased;
                () = self.hurry.notified() => {}
                () = pause => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
            // Callers go on being told why, rather than wait for a dial that likely fails too.
        }
    }

    /// Uses a connection until it ends.
    async fn serve(&self, shared: &Arc<Shared>, made: Admitted, stream: Box<dyn Stream>) {
        self.set(State::Up(Arc::clone(&made.0)));
        shared.reached(self.node);
        // A task of its own: when this link is stopped the connection still says farewell.
        let shared_ = Arc::clone(shared);
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        shared.spawn("peer-dialled", async move {
            shared_.run_connection(made, stream).await;
            drop(end);
        });
        // An error is all that ever comes: the sender is dropped.
        let _ = ended.await;
    }

    fn failed(&self, shared: &Shared, why: Unreachable, last: &mut Option<Unreachable>) {
        shared.metrics.dial_failed(&why);
        shared.not_reached(self.node, &why);
        let (node, lane) = (self.node, self.lane.name());
        if last.as_ref() == Some(&why) {
            tracing::debug!(%node, lane, %why, "a node cannot be reached still");
        } else {
            tracing::warn!(%node, lane, %why, "a node cannot be reached");
        }
        *last = Some(why);
    }

    async fn dial(&self, shared: &Shared) -> Result<(Admitted, Box<dyn Stream>), Unreachable> {
        let address = shared.address(self.node).ok_or(Unreachable::NoAddress)?;
        dial(shared, &address, self.lane, Some(self.node)).await
    }
}

/// Connects and shakes hands.
pub(crate) async fn dial(
    shared: &Shared,
    address: &PeerAddress,
    lane: Lane,
    expected: Option<BrokerId>,
) -> Result<(Admitted, Box<dyn Stream>), Unreachable> {
    let connecting = connect(shared, address);
    let connected = shared.env.timeout(CONNECT_TIMEOUT, connecting).await;
    let (mut stream, address) = connected.unwrap_or(Err(Unreachable::TimedOut))?;
    let greeting = greet::dialled(shared, &mut *stream, lane, expected, shared.next_id());
    let greeted = shared.env.timeout(HANDSHAKE_TIMEOUT, greeting).await;
    match greeted.unwrap_or(Err(HandshakeError::TimedOut)) {
        Ok((remote, admission)) => {
            let made = shared.admitted(remote, admission, address, Side::Dialled);
            Ok((made, stream))
        }
        Err(error) => {
            shared.metrics.handshake_refused("dialled", &error);
            Err(Unreachable::Handshake(error))
        }
    }
}

async fn connect(
    shared: &Shared,
    address: &PeerAddress,
) -> Result<(Box<dyn Stream>, SocketAddr), Unreachable> {
    let resolved = shared.env.net.resolve(address.as_str()).await;
    let resolved = resolved.map_err(|error| Unreachable::Unresolved(error.to_string()))?;
    let mut why = Unreachable::Unresolved("it has no address".to_owned());
    for address in resolved.into_iter().take(ADDRESSES_MAX) {
        if shared.options.secret.is_none() && !address.ip().is_loopback() {
            why = Unreachable::SecretNeeded;
            continue;
        }
        why = match shared.env.net.connect(address).await {
            Ok(stream) => return Ok((stream, address)),
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionRefused => Unreachable::Refused,
                io::ErrorKind::TimedOut => Unreachable::TimedOut,
                _ => Unreachable::Failed(error.to_string()),
            },
        };
    }
    Err(why)
}
