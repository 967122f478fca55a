//! The heartbeats of this node's broker to whichever node is the controller, and what this node sees
//! of the others.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::BoxFuture;
use mainstem_peers::{Handler, PeerIdentity, Refusal, Service};
use mainstem_record::BrokerId;

use super::{Inner, party::refusal};
use crate::wire::{Heartbeat, HeartbeatAnswer, Session, Suspect};

/// A heartbeat that did not arrive is sent again after this.
const RETRY: Duration = Duration::from_millis(100);
/// The longest wait for the answer to one heartbeat.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves the heartbeats of other nodes.
pub(super) struct LivenessService(pub(super) Arc<Inner>);

// === impl LivenessService ===

impl Handler for LivenessService {
    fn call<'a>(
        &'a self,
        from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        let answer = Heartbeat::decode(body).map_err(|error| refusal(&error));
        let answer = answer.map(|heartbeat| {
            // Nobody speaks for another broker.
            match heartbeat.member.broker == from.node {
                true => self.0.take_heartbeat(&heartbeat),
                false => self.0.nothing(Session::Unknown),
            }
        });
        Box::pin(std::future::ready(answer.map(|answer| answer.encode())))
    }
}

// === impl Inner ===

impl Inner {
    /// Sends heartbeats until stopped: in the interval, and at once when the controller changes or
    /// another node is found to refuse connections.
    pub(super) async fn send_heartbeats(self: Arc<Self>) {
        let mut leadership = self.metadata.leadership();
        let mut reached = self.peers.as_ref().map(|peers| peers.changes());
        let mut due = self.env.now();
        loop {
            leadership.borrow_and_update();
            let has_news = self.look_at_peers();
            let now = self.env.now();
            if has_news {
                self.wake.notify_one();
            }
            if has_news || now >= due {
                due = now + self.interval;
                self.send_heartbeat();
            }
            let changed = async {
                let changed = match &mut reached {
                    Some(reached) => reached.changed().await.is_ok(),
                    None => false,
                };
                // There are none, or they are closed: then this ends soon, too.
                if !changed {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                changed = leadership.changed() => match changed {
                    Ok(()) => due = now,
                    Err(_) => return,
                },
                () = self.hurry.notified() => due = now,
                () = changed => {}
                () = self.env.sleep(due.saturating_sub(now)) => {}
            }
        }
    }

    fn look_at_peers(&self) -> bool {
        let Some(peers) = &self.peers else {
            return false;
        };
        let attempts = |node| peers.refused(node).map(|refused| refused.attempts);
        let image = self.metadata.image();
        let mut suspects = self.suspects.lock();
        suspects.look(&image, attempts, self.env.now())
    }

    /// Sends one, in a task of its own: others must not wait for a controller that does not answer.
    fn send_heartbeat(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        let sent = async move {
            let answer = match inner.metadata.leader() {
                Some(leader) => inner.send_to(leader).await,
                None => None,
            };
            let is_heard = answer.is_some_and(|answer| inner.told(&answer));
            if !is_heard {
                inner.env.sleep(RETRY).await;
                inner.hurry.notify_one();
            }
        };
        self.spawn("heartbeat", sent);
    }

    async fn send_to(&self, leader: BrokerId) -> Option<HeartbeatAnswer> {
        let heartbeat = self.own_heartbeat();
        if leader == self.parties.me.broker {
            return Some(self.take_heartbeat(&heartbeat));
        }
        let peers = self.peers.as_ref()?;
        let timeout = ANSWER_TIMEOUT.min(self.timers.session_timeout / 2);
        let called = peers.call(leader, Service::LIVENESS, heartbeat.encode(), timeout);
        match called.await {
            Ok(body) => HeartbeatAnswer::decode(body)
                .inspect_err(
                    |error| tracing::warn!(%leader, %error, "not an answer to a heartbeat"),
                )
                .ok(),
            Err(error) => {
                tracing::debug!(%leader, %error, "a heartbeat was not answered");
                None
            }
        }
    }

    fn own_heartbeat(&self) -> Heartbeat {
        let image = self.metadata.image();
        let me = self.parties.me;
        let now = self.env.now();
        let suspects = self.suspects.lock();
        let refused = suspects.refusing().map(|(member, at)| Suspect {
            member,
            ago_ms: u32::try_from(now.saturating_sub(at).as_millis()).unwrap_or(u32::MAX),
        });
        Heartbeat {
            member: me,
            image: image.version,
            ready: self.parties.local.is_ready(),
            draining: image.brokers.get(&me.broker).is_some_and(|it| it.draining),
            refused: refused.collect(),
        }
    }

    /// Takes the controller's answer; returns whether it was one.
    fn told(&self, answer: &HeartbeatAnswer) -> bool {
        for roll in &answer.rolls {
            self.parties.local.roll(*roll);
        }
        answer.session != Session::NotController
    }

    /// A heartbeat, as the controller takes it.
    fn take_heartbeat(&self, heartbeat: &Heartbeat) -> HeartbeatAnswer {
        let answer = self.with_term(|term, now| term.heartbeat(heartbeat, now));
        let answer = answer.unwrap_or_else(|| self.nothing(Session::NotController));
        if answer.session == Session::Fenced || !heartbeat.refused.is_empty() {
            self.wake.notify_one();
        }
        answer
    }

    fn nothing(&self, session: Session) -> HeartbeatAnswer {
        HeartbeatAnswer {
            image: self.metadata.image().version,
            session,
            interval_ms: u32::try_from(self.interval.as_millis()).unwrap_or(u32::MAX),
            rolls: Vec::new(),
        }
    }
}
