//! What [`Session::next`] does until it has something for the connection.

use std::sync::Arc;

use mainstem_record::{Offset, PartitionId};

use super::{RetainedJob, Session};
use crate::mqtt::{
    Delivery, SessionEvent,
    delivery::{Origin, Token},
    limits::CLEAN_SESSION_LAG_MAX,
    share::ShareGroup,
};

/// One thing to do.
enum Step {
    /// Tell the connection.
    Event(SessionEvent),
    /// A feed is behind: read the log for it.
    CatchUp(PartitionId, Offset),
    /// Queue retained messages.
    Retained(RetainedJob),
    /// A shared subscription has something to give out.
    Share(Arc<ShareGroup>),
    /// Wait.
    Wait,
}

// === impl Session ===

impl Session {
    /// Reading the log is boxed: most connections wait most of the time, and what is seldom done
    /// would make the task of each of them larger for good.
    pub(super) async fn next_inner(&self, window: usize) -> SessionEvent {
        self.entry.state.lock().inbox.forget_handed();
        let mut is_share_idle = false;
        loop {
            match self.step(window, is_share_idle) {
                Step::Event(event) => return event,
                Step::CatchUp(partition, from) => {
                    Box::pin(async {
                        let mut filters = self.filters.lock().await;
                        self.hub
                            .catch_up(&self.entry, (partition, from), &mut filters)
                            .await;
                    })
                    .await;
                }
                Step::Retained(job) => {
                    self.deliver_retained(job);
                    tokio::task::yield_now().await;
                }
                Step::Share(group) => {
                    let driving = Box::pin(group.drive(&self.hub, self.entry.number));
                    is_share_idle = !driving.await;
                }
                Step::Wait => {
                    self.entry.notify.notified().await;
                    is_share_idle = false;
                }
            }
        }
    }

    fn step(&self, window: usize, is_share_idle: bool) -> Step {
        let now_ms = self.hub.core.env.wall_ms();
        let mut state = self.entry.state.lock();
        if state.epoch != self.epoch || !state.online {
            return Step::Event(SessionEvent::TakenOver);
        }
        if self.hub.is_closing() {
            return Step::Event(SessionEvent::Shutdown);
        }
        if !state.is_persistent() && state.inbox.lag() > CLEAN_SESSION_LAG_MAX {
            self.hub.metrics.dropped_slow.inc();
            return Step::Event(SessionEvent::SlowConsumer);
        }
        if state.inbox.room() > 0 {
            // Before the queue is handed out: else one that never runs empty would never catch up.
            if let Some((partition, from)) = state.inbox.next_behind() {
                return Step::CatchUp(partition, from);
            }
            if let Some(job) = state.inbox.retained_jobs.front() {
                return Step::Retained(job.clone());
            }
            let mut groups = state
                .subscriptions
                .values()
                .filter_map(|sub| sub.group.as_ref());
            if !is_share_idle && let Some(group) = groups.find(|group| group.has_work()) {
                return Step::Share(group.clone());
            }
        }
        if !state.inbox.has_deliverable(window) {
            return Step::Wait;
        }
        let (deliveries, expired) = state.inbox.take(window, now_ms);
        drop(state);
        if expired > 0 {
            self.hub.metrics.dropped_expired.inc_by(expired);
        }
        if deliveries.is_empty() {
            return Step::Wait;
        }
        for delivery in &deliveries {
            self.hub.metrics.sent[delivery.qos as usize].inc();
        }
        Step::Event(SessionEvent::Deliveries(deliveries))
    }

    /// Queues some of the retained messages of a subscription.
    fn deliver_retained(&self, job: RetainedJob) {
        let page = self
            .hub
            .retained
            .page(&job.subscription.filter, job.after.as_ref());
        let now_ms = self.hub.core.env.wall_ms();
        let mut after = job.after;
        let mut is_full = false;
        let mut state = self.entry.state.lock();
        for entry in page.entries {
            let options = &job.subscription.options;
            let is_own = options.no_local && *entry.publisher == *self.entry.client_id;
            if is_own || entry.message.is_expired(now_ms) {
                after = Some(entry.topic.clone());
                continue;
            }
            let token = Token {
                origin: Origin::Retained,
                partition: entry.partition,
                offset: entry.offset,
            };
            let mut delivery = Delivery::new(entry.message.clone(), options, token);
            delivery.retain = true;
            if state.inbox.push(delivery).is_err() {
                is_full = true;
                break;
            }
            after = Some(entry.topic.clone());
        }
        let is_done = !is_full && page.next.is_none();
        let jobs = &mut state.inbox.retained_jobs;
        // It may have been replaced or removed meanwhile.
        let Some(front) = jobs.front_mut() else {
            return;
        };
        if !Arc::ptr_eq(&front.subscription, &job.subscription) {
            return;
        }
        if is_done {
            jobs.pop_front();
        } else {
            front.after = if is_full { after } else { page.next };
        }
    }
}
