//! The listener: whoever connects has little time and little room until it has proven itself.

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use mainstem_env::{Listener, Stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{HandshakeError, connection::Side, greet, shared::Shared};

/// Connections that have not proven themselves yet. A newer one takes the place of the oldest, so
/// that whoever connects and says nothing keeps nobody out.
pub const HANDSHAKES_MAX: usize = 64;
/// How long a handshake may take, on both sides.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after an accept that failed for want of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// At most one warning of refused handshakes in this time; metrics count them all.
const WARN_INTERVAL: Duration = Duration::from_secs(1);

/// Handshakes under way, by the ids of connections, which grow.
#[derive(Debug, Default)]
struct Greeting {
    tokens: Mutex<BTreeMap<u64, CancellationToken>>,
}

/// Accepts until the peers are closed.
pub(crate) async fn run(shared: Arc<Shared>, listener: Box<dyn Listener>) {
    let greeting = Arc::new(Greeting::default());
    let stop = shared.stop.clone();
    while let Some(result) = stop.run_until_cancelled(listener.accept()).await {
        match result {
            Ok((stream, address)) => accepted(&shared, &greeting, stream, address),
            Err(error) => {
                shared.metrics.accepts_failed.inc();
                if !concerns_one_connection(&error) {
                    tracing::warn!(%error, "cannot accept peers");
                    let pause = shared.env.sleep(ACCEPT_PAUSE);
                    stop.run_until_cancelled(pause).await;
                }
            }
        }
    }
}

/// Whether only the connection is gone already: who connects and resets must not slow down others.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    let kind = error.kind();
    matches!(
        kind,
        ConnectionAborted | ConnectionReset | Interrupted | NotConnected
    )
}

fn accepted(
    shared: &Arc<Shared>,
    greeting: &Arc<Greeting>,
    stream: Box<dyn Stream>,
    address: SocketAddr,
) {
    let id = shared.next_id();
    let token = shared.stop.child_token();
    if let Some(oldest) = greeting.enter(id, token.clone()) {
        shared.metrics.evicted.inc();
        oldest.cancel();
    }
    let (task, greeting) = (Arc::clone(shared), Arc::clone(greeting));
    shared.spawn("peer-accepted", async move {
        let greeted = token
            .run_until_cancelled(greet(&task, stream, address, id))
            .await;
        greeting.leave(id);
        if let Some(Some((made, stream))) = greeted {
            let node = made.0.identity.node;
            task.is_back(node);
            task.run_connection(made, stream).await;
        }
    });
}

/// What a greeted connection goes on as.
type Greeted = (crate::shared::Admitted, Box<dyn Stream>);

async fn greet(
    shared: &Shared,
    mut stream: Box<dyn Stream>,
    address: SocketAddr,
    id: u64,
) -> Option<Greeted> {
    let greeting = greet::accepted(shared, &mut *stream, id);
    let result = shared.env.timeout(HANDSHAKE_TIMEOUT, greeting).await;
    match result.unwrap_or(Err(HandshakeError::TimedOut)) {
        Ok((remote, admission)) => {
            let made = shared.admitted(remote, admission, address, Side::Accepted);
            Some((made, stream))
        }
        Err(error) => {
            shared.metrics.handshake_refused("accepted", &error);
            if shared.may_warn(WARN_INTERVAL) {
                tracing::warn!(%address, %error, "a peer was refused");
            } else {
                tracing::debug!(%address, %error, "a peer was refused");
            }
            None
        }
    }
}

// === impl Greeting ===

impl Greeting {
    /// Takes a place; gives the one that must go for it.
    fn enter(&self, id: u64, token: CancellationToken) -> Option<CancellationToken> {
        let mut tokens = self.tokens.lock();
        let oldest = match tokens.len() >= HANDSHAKES_MAX {
            true => tokens.pop_first().map(|(_, token)| token),
            false => None,
        };
        tokens.insert(id, token);
        oldest
    }

    fn leave(&self, id: u64) {
        self.tokens.lock().remove(&id);
    }
}
