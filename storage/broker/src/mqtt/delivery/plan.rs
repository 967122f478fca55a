//! Who gets what of one read of a follower.

use std::{collections::HashMap, sync::Arc};

use mainstem_record::PartitionId;

use super::{Origin, Scanned, Target, Token};
use crate::mqtt::{
    Delivery, Message,
    metrics::MqttMetrics,
    session::{SessionEntry, Subscription},
    share::{Candidate, ShareGroup},
};

/// Lists of deliveries that are kept for the next read.
const SPARE_LISTS_MAX: usize = 64;

/// Who gets what. Kept between reads, so that its memory is.
#[derive(Default)]
pub(super) struct Plan {
    places: HashMap<u64, usize>,
    sessions: Vec<(Arc<SessionEntry>, Vec<Delivery>)>,
    groups: Vec<(Arc<ShareGroup>, Vec<Candidate>)>,
    spare: Vec<Vec<Delivery>>,
}

/// The record that is being matched: its message is made for the first who gets it.
pub(super) struct Current<'a> {
    pub(super) scanned: &'a Scanned<'a>,
    pub(super) partition: PartitionId,
    pub(super) message: Option<Arc<Message>>,
}

// === impl Current ===

impl Current<'_> {
    fn message(&mut self) -> Arc<Message> {
        let scanned = self.scanned;
        self.message
            .get_or_insert_with(|| Arc::new(scanned.message()))
            .clone()
    }

    fn is_from(&self, client_id: &str) -> bool {
        self.scanned.view.publisher() == Some(client_id.as_bytes())
    }
}

// === impl Plan ===

impl Plan {
    /// A filter matches the current record.
    pub(super) fn add(&mut self, target: &Target, current: &mut Current<'_>) {
        match target {
            Target::Session(entry, subscription) => self.add_session(entry, subscription, current),
            Target::Group(group) => self.add_group(group, current),
        }
    }

    fn add_session(
        &mut self,
        entry: &Arc<SessionEntry>,
        subscription: &Subscription,
        current: &mut Current<'_>,
    ) {
        let offset = current.scanned.offset;
        if !subscription.covers(current.partition, offset) {
            return;
        }
        let options = &subscription.options;
        if options.no_local && current.is_from(&entry.client_id) {
            return;
        }
        // Even if it has expired: whether it is this session's to drop and count, and not that of its
        // catching up, only its queue knows.
        let message = current.message();
        let Self {
            places,
            sessions,
            spare,
            ..
        } = self;
        let place = *places.entry(entry.number).or_insert_with(|| {
            sessions.push((entry.clone(), spare.pop().unwrap_or_default()));
            sessions.len() - 1
        });
        let deliveries = &mut sessions[place].1;
        match deliveries.last_mut() {
            Some(last) if last.token.offset == offset => last.merge(options),
            _ => {
                let token = Token {
                    origin: Origin::Feed,
                    partition: current.partition,
                    offset,
                };
                deliveries.push(Delivery::new(message, options, token));
            }
        }
    }

    fn add_group(&mut self, group: &Arc<ShareGroup>, current: &mut Current<'_>) {
        let message = current.message();
        let groups = &mut self.groups;
        let place = *self.places.entry(group.number).or_insert_with(|| {
            groups.push((group.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(Candidate {
            offset: current.scanned.offset,
            message,
        });
    }

    /// Hands everything over: each session is locked once and woken once.
    pub(super) fn flush(&mut self, partition: PartitionId, metrics: &MqttMetrics) {
        self.places.clear();
        for (entry, mut deliveries) in self.sessions.drain(..) {
            let pushed = entry
                .state
                .lock()
                .inbox
                .push_live(partition, &mut deliveries);
            if pushed.wake {
                entry.notify.notify_one();
            }
            if pushed.dropped > 0 {
                metrics.dropped_queue_full.inc_by(pushed.dropped);
            }
            if self.spare.len() < SPARE_LISTS_MAX {
                self.spare.push(deliveries);
            }
        }
        for (group, candidates) in self.groups.drain(..) {
            group.push_live(partition, candidates, metrics);
        }
    }
}
