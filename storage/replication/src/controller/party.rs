//! How a controller asks brokers, and how a broker is asked: this node's own without a socket, by the
//! same code.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use mainstem_env::{BoxFuture, Env};
use mainstem_peers::{Handler, PeerIdentity, Peers, Refusal, Service};
use mainstem_record::Member;

use crate::wire::{RollOrder, SealAnswer, SealQuestion, WireError};

/// How long a broker may take to answer. What it could not do by then it says at the next question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A broker as a party of seals: it fences, copies tails and tells digests (R22, R24). All of it may
/// be asked again.
pub(crate) trait Party: Send + Sync + 'static {
    /// Does what is asked, and says so for those segments for which it is done.
    fn answer(&self, question: SealQuestion) -> BoxFuture<'_, SealAnswer>;

    /// Begins to seal a segment as its leader (R28), if it still leads it; must not wait for it.
    fn roll(&self, order: RollOrder);

    /// Whether everything that it holds is open.
    fn is_ready(&self) -> bool;
}

/// Serves the questions of controllers on other nodes.
pub(crate) struct SealService(pub(crate) Arc<dyn Party>);

/// All brokers, as this node asks them.
#[derive(Clone)]
pub(crate) struct Parties {
    pub(crate) env: Env,
    pub(crate) me: Member,
    pub(crate) local: Arc<dyn Party>,
    pub(crate) peers: Option<Peers>,
}

// === impl SealService ===

impl Handler for SealService {
    fn call<'a>(
        &'a self,
        _from: &'a PeerIdentity,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, Refusal>> {
        Box::pin(async move {
            let question = SealQuestion::decode(body).map_err(|error| refusal(&error))?;
            Ok(self.0.answer(question).await.encode())
        })
    }
}

/// What a body that cannot be read is answered.
pub(super) fn refusal(error: &WireError) -> Refusal {
    Refusal {
        code: REFUSED_BODY,
        text: error.to_string(),
    }
}

/// The code of a refusal of a body that cannot be read.
const REFUSED_BODY: u16 = 1;

// === impl Parties ===

impl Parties {
    /// Asks a broker; `None` if there is no answer. One of another life is none either.
    pub(crate) async fn ask(&self, to: Member, question: SealQuestion) -> Option<SealAnswer> {
        let answer = match (&self.peers, to == self.me) {
            (_, true) => {
                let answer = self.local.answer(question);
                self.env.timeout(ANSWER_TIMEOUT, answer).await.ok()?
            }
            (Some(peers), false) => {
                let body = question.encode();
                let called = peers.call(to.broker, Service::SEAL, body, ANSWER_TIMEOUT);
                match called.await {
                    Ok(body) => SealAnswer::decode(body)
                        .inspect_err(|error| tracing::warn!(%to, %error, "not an answer to a seal"))
                        .ok()?,
                    Err(error) => {
                        tracing::debug!(%to, %error, "no answer to a seal");
                        return None;
                    }
                }
            }
            (None, false) => return None,
        };
        let (SealAnswer::Fenced { member, .. } | SealAnswer::Digests { member, .. }) = &answer;
        (*member == to).then_some(answer)
    }
}
