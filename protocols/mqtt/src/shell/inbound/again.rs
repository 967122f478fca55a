//! PUBLISHes that have their place and are not answered; and what becomes of them when one fails in
//! a way that may pass, as on a full disk.
//!
//! ```text
//!            the oldest fails                 all have failed or succeeded
//!  Flowing ───────────────────> Failing ──────────────────────────────────> Settled
//!     ▲                                                                        │
//!     └──────────────── none is left: each was stored, in order ───────────────┘
//! ```
//!
//! Outside `Flowing` nothing is read. Those that failed are stored again one by one, each only when
//! all before it are; so none of this client overtakes another. If one was overtaken already (a
//! later message to its topic is stored), storing it now would turn their order round: it is only
//! held back, and the connection is closed as if it could not be stored.

use std::{
    collections::HashSet,
    future::Future,
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use mainstem_broker::{PublishError, PublishTicket, Session};
use mainstem_env::{BoxFuture, Env};

use super::{ATTEMPT_PAUSE, ATTEMPTS_MAX, Inbound, upward};
use crate::machine::{InboundPublish, Receipt};

/// A PUBLISH that waits for the broker's word.
pub(crate) struct Ticket<'s> {
    pub(crate) receipt: Receipt,
    pub(crate) publish: Box<InboundPublish>,
    pub(crate) began: Duration,
    /// Whether a record of it is appended; not for what was stored before.
    pub(crate) is_appended: bool,
    pub(crate) word: Word<'s>,
}

/// What the broker says of a PUBLISH.
pub(crate) enum Word<'s> {
    /// Nothing yet.
    Awaited(PublishTicket),
    /// This, while older ones were not answered.
    Given(Result<(), PublishError>),
    /// It is stored again, or held back.
    Again(BoxFuture<'s, Result<(), PublishError>>),
}

/// How the tickets stand.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// None has failed.
    #[default]
    Flowing,
    /// The oldest has failed; what became of the others is awaited.
    Failing,
    /// What became of all is known.
    Settled {
        /// A failed one may not be stored any more.
        is_overtaken: bool,
        /// None was stored again yet.
        is_first: bool,
    },
}

// === impl Inbound ===

impl<'s> Inbound<'s> {
    /// The oldest ticket, if it is done. Those behind it wait, as their acknowledgements do. A
    /// failure that may pass has been held back already.
    pub(crate) fn poll_ticket(
        &mut self,
        task: &mut TaskContext<'_>,
        session: &'s Session,
        env: &Env,
    ) -> Option<(Ticket<'s>, Result<(), PublishError>)> {
        loop {
            let Some(oldest) = self.tickets.front_mut() else {
                // A step that was started before may still make a ticket, and that is no failure.
                self.standing = Standing::Flowing;
                return None;
            };
            match self.standing {
                Standing::Flowing => {
                    let result = oldest.word.poll(task)?;
                    if let Err(PublishError::Transient(why)) = &result {
                        tracing::debug!(why, "PUBLISHes are held back");
                        oldest.word = Word::Given(result);
                        self.standing = Standing::Failing;
                        continue;
                    }
                    return self.tickets.pop_front().map(|ticket| (ticket, result));
                }
                Standing::Failing => self.settle(task)?,
                Standing::Settled {
                    is_overtaken,
                    is_first,
                } => {
                    if let Word::Given(Err(PublishError::Transient(why))) = &oldest.word {
                        let why = why.clone();
                        let publish = oldest.publish.clone();
                        oldest.word = Word::Again(match is_overtaken {
                            true => Box::pin(hold_back(env.clone(), why)),
                            false => Box::pin(store_again(session, env.clone(), publish, is_first)),
                        });
                    }
                    let result = oldest.word.poll(task)?;
                    self.standing = Standing::Settled {
                        is_overtaken,
                        is_first: false,
                    };
                    return self.tickets.pop_front().map(|ticket| (ticket, result));
                }
            }
        }
    }

    /// Waits for all that is under way, so that nothing can come between what is stored again.
    fn settle(&mut self, task: &mut TaskContext<'_>) -> Option<()> {
        let mut is_settled = self.step.is_none();
        for ticket in &mut self.tickets {
            if matches!(ticket.word, Word::Given(_)) {
                continue;
            }
            match ticket.word.poll(task) {
                Some(result) => ticket.word = Word::Given(result),
                None => is_settled = false,
            }
        }
        if !is_settled {
            return None;
        }
        let given = self.tickets.iter().map(|ticket| {
            let topic = ticket.publish.topic.as_str();
            (topic, ticket.word.fate())
        });
        let is_overtaken = is_overtaken(given);
        self.standing = Standing::Settled {
            is_overtaken,
            is_first: true,
        };
        Some(())
    }
}

// === impl Word ===

/// What became of a PUBLISH, as far as order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Failed,
    /// It is refused, and never stored.
    Refused,
}

impl Word<'_> {
    fn poll(&mut self, task: &mut TaskContext<'_>) -> Option<Result<(), PublishError>> {
        let poll = match self {
            Self::Awaited(ticket) => Pin::new(ticket).poll(task),
            Self::Given(result) => Poll::Ready(result.clone()),
            Self::Again(future) => future.as_mut().poll(task),
        };
        match poll {
            Poll::Ready(result) => Some(result),
            Poll::Pending => None,
        }
    }

    fn fate(&self) -> Fate {
        match self {
            Self::Given(Ok(())) => Fate::Stored,
            Self::Given(Err(PublishError::Refused(_))) => Fate::Refused,
            _ => Fate::Failed,
        }
    }
}

/// Whether one is stored behind a failed one of the same topic: the order that counts (4.6).
fn is_overtaken<'a>(given: impl Iterator<Item = (&'a str, Fate)>) -> bool {
    let mut failed = HashSet::new();
    for (topic, fate) in given {
        match fate {
            Fate::Failed => {
                failed.insert(topic);
            }
            Fate::Stored if failed.contains(topic) => return true,
            Fate::Stored | Fate::Refused => {}
        }
    }
    false
}

/// Stores a PUBLISH that has failed once; what may pass is waited for. The first of several waits
/// before it tries: the failure was only just now. Those behind it follow at once.
async fn store_again(
    session: &Session,
    env: Env,
    publish: Box<InboundPublish>,
    is_first: bool,
) -> Result<(), PublishError> {
    let mut attempts = 1;
    loop {
        if is_first || attempts > 1 {
            env.sleep(ATTEMPT_PAUSE).await;
        }
        attempts += 1;
        let result = match session.publish(upward(&publish)).await {
            Ok(ticket) => ticket.await,
            Err(error) => Err(error),
        };
        match result {
            Err(PublishError::Transient(_)) if attempts < ATTEMPTS_MAX => {}
            result => return result,
        }
    }
}

/// As long as [`store_again`] takes to give up: a client that connects again at once is no hot loop.
async fn hold_back(env: Env, why: String) -> Result<(), PublishError> {
    env.sleep(ATTEMPT_PAUSE * (ATTEMPTS_MAX - 1)).await;
    Err(PublishError::Transient(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_message_to_the_same_topic_overtakes() {
        use Fate::{Failed, Refused, Stored};
        for (given, expected) in [
            (&[("a", Failed), ("a", Failed)][..], false),
            (&[("a", Failed), ("b", Stored), ("a", Refused)], false),
            (&[("a", Stored), ("a", Failed)], false),
            (&[("a", Failed), ("a", Stored)], true),
            (&[("b", Failed), ("a", Failed), ("b", Stored)], true),
        ] {
            assert_eq!(is_overtaken(given.iter().copied()), expected, "{given:?}");
        }
    }
}
