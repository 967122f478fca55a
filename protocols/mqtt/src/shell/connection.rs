//! The loop of one connection.
//!
//! Everything that a connection waits for is polled by one task, all of it in each pass, so that no
//! source can starve another: what a pass has found is answered with one write at its end.

mod effects;

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    task::{Context as TaskContext, Poll},
};

use mainstem_broker::{Delivery, OutboundPhase, PublishError, Refusal, Session, SessionEvent};
use mainstem_config::V3Refusal as ConfiguredRefusal;
use mainstem_env::Stream;
use tokio_util::sync::CancellationToken;

use super::{
    Context,
    connect::Start,
    convert,
    deadlines::{Deadlines, Passed},
    deliver,
    end::{End, Remains},
    inbound::{Inbound, Stepped, Ticket, Word},
    input::{Input, READ_BYTES_MAX},
    outbound::Outbound,
    output::Output,
};
use crate::{
    codec::{DecodeError, Packet, PacketId, Peer, ReasonCode},
    machine::{
        Effect, InboundPublish, Machine, Options, Outbound as Deliverable, Resume, ResumePhase,
        V3Refusal,
    },
};

/// A connection after its CONNECT.
pub(crate) struct Shell<'s> {
    context: &'s Context,
    session: &'s Session,
    stream: Box<dyn Stream>,
    peer: Peer,
    machine: Machine<Delivery>,
    effects: Vec<Effect<Delivery>>,
    input: Input,
    inbound: Inbound<'s>,
    outbound: Outbound<'s>,
    output: Output,
    deadlines: Deadlines,
    end: Option<End>,
}

// === impl Shell ===

impl<'s> Shell<'s> {
    pub(crate) fn new(context: &'s Context, session: &'s Session, start: Box<Start>) -> Self {
        let start = *start;
        let mqtt = &context.config.mqtt;
        let options = Options {
            version: start.peer.version,
            receive_maximum: mqtt.receive_maximum,
            awaiting_rel_max: usize::from(mqtt.awaiting_rel_max),
            topic_alias_maximum: mqtt.topic_alias_maximum,
            window: start.window,
            session_expiry_secs: start.session_expiry_s,
            payload_format_checked: true,
            v3_refusal: match mqtt.v3_refusal {
                ConfiguredRefusal::Disconnect => V3Refusal::Close,
                ConfiguredRefusal::AckAndDrop => V3Refusal::AckAndDrop,
            },
        };
        let mut effects = Vec::new();
        let released_not = start.inbound_qos2.into_iter().filter_map(PacketId::new);
        let resumed = start.outbound.into_iter().filter_map(resume);
        let machine = Machine::new(options, released_not, resumed, &mut effects);
        let stall = std::time::Duration::from_millis(mqtt.write_stall_ms);
        let mut shell = Self {
            context,
            session,
            stream: start.stream,
            peer: start.peer,
            machine,
            effects,
            input: start.input,
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            // A client that takes no CONNACK takes nothing.
            end: start.output.is_idle().then_some(End::Lost),
            output: start.output,
            deadlines: Deadlines::new(context.env.now(), start.keep_alive, stall),
        };
        shell.carry_out();
        shell
    }

    /// Serves the connection until it ends.
    pub(crate) async fn run(&mut self, drain: &CancellationToken) {
        let mut drained = pin!(drain.cancelled());
        while self.end.is_none() {
            let session = self.session;
            let wanted = self.wanted();
            let mut next = pin!(async move {
                match wanted {
                    Some(window) => session.next(window).await,
                    None => pending().await,
                }
            });
            poll_fn(|task| {
                if !self.deadlines.is_draining() && drained.as_mut().poll(task).is_ready() {
                    self.deadlines.drain();
                }
                match self.passes(task, wanted, next.as_mut()) {
                    Poll::Pending => {
                        self.let_go();
                        Poll::Pending
                    }
                    ready => ready,
                }
            })
            .await;
        }
    }

    /// What is left when it has ended.
    pub(crate) fn into_remains(self) -> Remains {
        Remains {
            stream: self.stream,
            output: self.output,
            peer: self.peer,
            end: self.end.unwrap_or(End::Internal),
        }
    }

    /// How many messages of QoS 1 and 2 the broker is asked for; `None`: it is not asked.
    fn wanted(&self) -> Option<usize> {
        let asks = self.outbound.has_no_messages()
            && self.output.has_room()
            && !self.inbound.is_subscribing()
            && !self.deadlines.is_draining();
        asks.then(|| self.machine.window_free())
    }

    /// Passes over all sources until none has anything. Ready: the connection has ended, or the
    /// broker is to be asked anew.
    fn passes(
        &mut self,
        task: &mut TaskContext<'_>,
        wanted: Option<usize>,
        mut next: Pin<&mut impl Future<Output = SessionEvent>>,
    ) -> Poll<()> {
        loop {
            self.deadlines.now = self.context.env.now();
            let mut progress = self.poll_input(task);
            progress |= self.poll_answers(task);
            progress |= self.poll_outbound(task);
            progress |= self.poll_output(task);
            if self.end.is_none()
                && let Poll::Ready(event) = next.as_mut().poll(task)
            {
                self.event(event);
                return Poll::Ready(());
            }
            progress |= self.poll_stream(task);
            self.poll_deadlines(task);
            if self.end.is_some() || is_outdated(wanted, self.wanted()) {
                return Poll::Ready(());
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Memory that was needed for a moment is not kept for the hours in which nothing happens.
    fn let_go(&mut self) {
        if self.effects.is_empty() {
            self.effects = Vec::new();
        }
        self.inbound.let_go();
        self.outbound.let_go();
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
    }

    // === sources ===

    /// Whether the next packet may be decoded.
    fn takes_input(&self) -> bool {
        self.end.is_none()
            && self.inbound.is_open()
            && self.machine.wants_input()
            && self.output.has_room()
            && !self.deadlines.is_draining()
    }

    /// Decodes what was read until something must be waited for.
    fn poll_input(&mut self, task: &mut TaskContext<'_>) -> bool {
        let mut progress = false;
        loop {
            if let Some(stepped) = self.inbound.poll_step(task) {
                progress = true;
                self.stepped(stepped);
            }
            if !self.takes_input() {
                return progress;
            }
            match self.next_packet() {
                Ok(Some(packet)) => {
                    self.deadlines.heard();
                    self.machine.packet(packet, &mut self.effects);
                    self.carry_out();
                    progress = true;
                }
                Ok(None) => return progress,
                Err(error) => self.end(End::Protocol(error)),
            }
        }
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, DecodeError> {
        let Some(frame) = self.input.frame(self.context.packet_bytes_max)? else {
            return Ok(None);
        };
        self.context.metrics.received(frame.first);
        Packet::decode(frame, self.peer.version, &self.context.limits).map(Some)
    }

    /// Tickets and releases.
    fn poll_answers(&mut self, task: &mut TaskContext<'_>) -> bool {
        let mut progress = false;
        let (session, env) = (self.session, &self.context.env);
        while let Some((ticket, result)) = self.inbound.poll_ticket(task, session, env) {
            progress = true;
            self.ticket(&ticket, result);
        }
        while let Some((id, result)) = self.inbound.poll_release(task) {
            progress = true;
            match result {
                Ok(known) => self.machine.released(id, known, &mut self.effects),
                Err(error) => self.failed(&error),
            }
        }
        self.carry_out();
        progress
    }

    /// Tells the broker what it must know, and puts into the output what may be written then.
    fn poll_outbound(&mut self, task: &mut TaskContext<'_>) -> bool {
        if self.end.is_some() {
            return false;
        }
        let mut progress = self.outbound.start_round(self.session);
        while let Some(result) = self.outbound.poll_round(task) {
            progress = true;
            match result {
                Ok(received) => {
                    for id in received {
                        self.machine.marked_received(id, &mut self.effects);
                    }
                }
                Err(error) => self.failed(&error),
            }
            self.carry_out();
            self.outbound.start_round(self.session);
        }
        while self.output.has_room() && self.end.is_none() {
            let Some(message) = self.outbound.pop_ready() else {
                break;
            };
            progress = true;
            self.write(&message);
        }
        progress
    }

    /// Writes. Progress is only what lets something else go on.
    fn poll_output(&mut self, task: &mut TaskContext<'_>) -> bool {
        if self.output.is_idle() || self.end.is_some() {
            return false;
        }
        let was_full = !self.output.has_room();
        match self.output.poll_write(&mut *self.stream, task) {
            Ok(written) => {
                self.deadlines.wrote(written.bytes > 0, !written.all);
                let has_room = self.output.has_room();
                has_room && (was_full || self.outbound.has_ready())
            }
            Err(_) => {
                self.end(End::Lost);
                false
            }
        }
    }

    /// Reads, if there is nothing left to decode.
    fn poll_stream(&mut self, task: &mut TaskContext<'_>) -> bool {
        if !self.takes_input() || self.input.has_frame(self.context.packet_bytes_max) {
            return false;
        }
        match self
            .input
            .poll_fill(&mut *self.stream, task, READ_BYTES_MAX)
        {
            Poll::Pending => false,
            Poll::Ready(Ok(1..)) => true,
            Poll::Ready(Ok(0) | Err(_)) => {
                self.end(End::Lost);
                true
            }
        }
    }

    fn poll_deadlines(&mut self, task: &mut TaskContext<'_>) {
        if self.deadlines.is_draining() && self.inbound.is_idle() && self.outbound.is_settled() {
            self.end(End::Shutdown);
        }
        while self.end.is_none()
            && let Some(passed) = self.deadlines.poll(&self.context.env, task)
        {
            let listening =
                self.takes_input() && !self.input.has_frame(self.context.packet_bytes_max);
            match passed {
                Passed::KeepAlive if listening => self.end(End::KeepAlive),
                // Its packets may be waiting for us to read them.
                Passed::KeepAlive => self.deadlines.heard(),
                Passed::WriteStall => self.end(End::WriteStall),
                Passed::Drain => self.end(End::Shutdown),
            }
        }
    }

    // === what happened ===

    fn event(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Deliveries(deliveries) => {
                for delivery in deliveries {
                    let message = Deliverable {
                        qos: convert::qos_down(delivery.qos),
                        dup: delivery.duplicate,
                        delivery,
                    };
                    if self.machine.deliver(message, &mut self.effects).is_err() {
                        tracing::error!("more messages were handed out than were asked for");
                        self.end(End::Internal);
                        return;
                    }
                }
                self.carry_out();
            }
            SessionEvent::TakenOver => self.end(End::TakenOver),
            SessionEvent::Shutdown => self.end(End::Shutdown),
            SessionEvent::SlowConsumer => self.end(End::SlowConsumer),
        }
    }

    fn stepped(&mut self, stepped: Stepped) {
        match stepped {
            Stepped::Published {
                publish,
                began,
                result,
            } => match (publish.receipt, result) {
                (Some(receipt), Ok(ticket)) => self.inbound.wait_for(Ticket {
                    receipt,
                    publish,
                    began,
                    is_appended: ticket.is_appended(),
                    word: Word::Awaited(ticket),
                }),
                (Some(receipt), Err(PublishError::Refused(refusal))) => {
                    let refused = Err(refusal_code(refusal));
                    self.machine.published(receipt, refused, &mut self.effects);
                    self.carry_out();
                }
                // Nobody waits for the fate of a QoS 0 message; the broker counts it.
                (None, Ok(ticket)) => self.observe(&publish, began, ticket.is_appended()),
                (None, Err(PublishError::Refused(_) | PublishError::Transient(_))) => {}
                (_, Err(error)) => self.failed(&error),
            },
            Stepped::Subscribed(packet_id, Ok(granted)) => self.suback(packet_id, &granted),
            Stepped::Unsubscribed(packet_id, Ok(existed)) => self.unsuback(packet_id, &existed),
            Stepped::Subscribed(_, Err(error)) | Stepped::Unsubscribed(_, Err(error)) => {
                self.failed(&error);
            }
        }
    }

    fn ticket(&mut self, ticket: &Ticket<'_>, result: Result<(), PublishError>) {
        let outcome = match result {
            Ok(()) => {
                self.observe(&ticket.publish, ticket.began, ticket.is_appended);
                Ok(())
            }
            Err(PublishError::Refused(refusal)) => Err(refusal_code(refusal)),
            Err(error) => return self.failed(&error),
        };
        self.machine
            .published(ticket.receipt, outcome, &mut self.effects);
        self.carry_out();
    }

    fn observe(&self, publish: &InboundPublish, began: std::time::Duration, is_appended: bool) {
        let elapsed = self.context.env.now().saturating_sub(began);
        let metrics = &self.context.metrics;
        metrics.published(convert::qos_up(publish.qos), elapsed);
        if is_appended {
            metrics.produced(publish.payload.len());
        }
    }

    /// The broker could not do what had to be done.
    fn failed(&mut self, error: &PublishError) {
        let end = match error {
            PublishError::Fenced => End::TakenOver,
            PublishError::Transient(_) | PublishError::Refused(_) => End::Unavailable,
        };
        tracing::debug!(%error, "the broker could not go on with a connection");
        self.end(end);
    }
}

/// Whether the broker is to be asked anew. It may be in the middle of reading the log for us, so not
/// for every acknowledgement: only if a closed window has opened, or if it is not to be asked now.
/// What is not wanted is not left standing half done either: it might hold what others need.
fn is_outdated(asked: Option<usize>, wanted: Option<usize>) -> bool {
    match (asked, wanted) {
        (Some(0), Some(window)) => window > 0,
        (Some(_), Some(_)) | (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
    }
}

/// PUBACK and PUBREC have no 0x95 (tables 3-4 and 3-5): a limit is exceeded is what is left to say.
fn refusal_code(refusal: Refusal) -> ReasonCode {
    match refusal {
        Refusal::TooLarge => ReasonCode::QUOTA_EXCEEDED,
        other => ReasonCode(other as u8),
    }
}

fn resume(resume: mainstem_broker::Resume) -> Option<Resume<Delivery>> {
    let phase = match resume.phase {
        OutboundPhase::Published(delivery) => ResumePhase::Published {
            qos: convert::qos_down(delivery.qos),
            delivery,
        },
        OutboundPhase::Released => ResumePhase::Released,
    };
    Some(Resume {
        packet_id: PacketId::new(resume.packet_id)?,
        phase,
    })
}
