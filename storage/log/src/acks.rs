//! Acknowledgements of one turn of a shard, delivered together.
//!
//! Whoever waits runs on another runtime, and to complete a ticket wakes a thread of it. One after
//! the other, between the writes, each would find that thread asleep again: a wake, two switches and
//! a drain of a single message for every append. Delivered at the end of the turn they find it
//! asleep once. Failures are not held back: they are rare.

use tokio::sync::OwnedSemaphorePermit;

use crate::{
    append::{Appended, TicketSender},
    inbox::finish,
};

/// Room for so many is kept; one large turn must not leave its room to a shard that falls silent.
const IDLE_CAPACITY: usize = 1024;

/// What is to be acknowledged at the end of the turn, in order.
#[derive(Default)]
pub(crate) struct Acks {
    tickets: Vec<(TicketSender, Appended)>,
    /// The room in the inbox of all of them.
    permit: Option<OwnedSemaphorePermit>,
}

// === impl Acks ===

impl Acks {
    /// The append has become what its ticket waits for.
    pub(crate) fn push(
        &mut self,
        ticket: TicketSender,
        appended: Appended,
        permit: OwnedSemaphorePermit,
    ) {
        self.tickets.push((ticket, appended));
        match &mut self.permit {
            Some(all) => all.merge(permit),
            None => self.permit = Some(permit),
        }
    }

    /// Completes all tickets, and gives their room back first: who waits for room goes on with who
    /// waits for an acknowledgement.
    pub(crate) fn deliver(&mut self) {
        self.permit = None;
        for (ticket, appended) in self.tickets.drain(..) {
            finish(ticket, Ok(appended));
        }
        self.tickets.shrink_to(IDLE_CAPACITY);
    }
}
