//! Nothing of QoS 1 and 2 is missed, whatever the order of pushes, reads, sends, acknowledgements
//! and reconnects.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mainstem_record::{PartitionIndex, TopicId};
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::mqtt::{
    MessageProperties,
    session::records::{Options, OutboundRecord},
};

const LIMITS: QueueLimits = QueueLimits {
    messages: 4,
    bytes: 10_000,
};

fn partition() -> PartitionId {
    PartitionId {
        topic: TopicId(Uuid::nil()),
        index: PartitionIndex(0),
    }
}

fn qos_of(offset: i64) -> QoS {
    QoS::from_bits((offset % 3) as u8).expect("three of them")
}

fn delivery(offset: i64) -> Delivery {
    let flags = (qos_of(offset), false);
    let payload = Bytes::from(offset.to_string());
    let message = Message::new("t".into(), payload, flags, MessageProperties::default(), 0);
    let options = Options {
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: false,
        subscription_id: None,
    };
    let token = Token {
        origin: Origin::Feed,
        partition: partition(),
        offset: Offset(offset),
    };
    Delivery::new(Arc::new(message), &options, token)
}

/// A partition, its follower, a session and its client, step by step.
struct World {
    log_end: i64,
    position: Arc<Position>,
    inbox: Inbox,
    handed: VecDeque<Delivery>,
    next_id: u16,
    /// Packet id to offset, as the client sees what is in flight.
    client: BTreeMap<u16, i64>,
    /// How often the client got each record as a new message.
    received: BTreeMap<i64, u32>,
    /// What has survived so far.
    durable: OutboundRecord,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Append(u8),
    Follow(u8),
    Read(u8),
    Take(u8),
    Send,
    Acknowledge,
    Reconnect,
    Crash,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..6).prop_map(Step::Append),
        4 => (1u8..6).prop_map(Step::Follow),
        3 => (1u8..6).prop_map(Step::Read),
        4 => (0u8..4).prop_map(Step::Take),
        4 => Just(Step::Send),
        4 => Just(Step::Acknowledge),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Crash),
        1 => Just(Step::Checkpoint),
    ]
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            log_end: 0,
            position: Arc::new(Position::new(Offset::ZERO)),
            inbox: Inbox::new(LIMITS),
            handed: VecDeque::new(),
            next_id: 1,
            client: BTreeMap::new(),
            received: BTreeMap::new(),
            durable: OutboundRecord::default(),
        };
        world.attach(Offset::ZERO);
        world.checkpoint();
        world
    }

    fn attach(&mut self, at: Offset) {
        let feed = Feed {
            mode: Mode::Behind(at),
            position: self.position.clone(),
            online_from: Offset(self.log_end),
            _interest: None,
        };
        self.inbox.add_feed(partition(), feed);
    }

    fn checkpoint(&mut self) {
        let inflight = self
            .inbox
            .inflight()
            .into_iter()
            .map(|(id, flight)| flight.record(id));
        self.durable = OutboundRecord {
            feeds: self.inbox.positions(),
            inflight: inflight.collect(),
        };
    }

    /// The client's side of a message that is (again) sent under a packet id.
    fn deliver(&mut self, id: u16, offset: i64) {
        // QoS 2 is recognised by its packet id.
        let is_known = qos_of(offset) == QoS::ExactlyOnce && self.client.get(&id) == Some(&offset);
        if !is_known {
            *self.received.entry(offset).or_default() += 1;
        }
        self.client.insert(id, offset);
    }

    fn resume(&mut self, outbound: OutboundRecord) {
        self.handed.clear();
        // Of QoS 1 a client keeps nothing over a reconnect.
        self.client
            .retain(|_, offset| qos_of(*offset) == QoS::ExactlyOnce);
        for flight in &outbound.inflight {
            self.inbox
                .restore_flight(flight.packet_id, Flight::from_record(flight));
            match flight.released {
                // PUBREL again, and PUBCOMP.
                true => {
                    self.client.remove(&flight.packet_id);
                    self.inbox.completed(flight.packet_id);
                }
                false => self.deliver(flight.packet_id, flight.offset.0),
            }
        }
        let at = outbound
            .feeds
            .first()
            .map_or(Offset::ZERO, |(_, offset)| *offset);
        self.attach(at);
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Append(count) => self.log_end += i64::from(count),
            Step::Follow(count) => {
                let from = self.position.done().0;
                let end = (from + i64::from(count)).min(self.log_end);
                self.position.begin(Offset(end));
                let mut found: Vec<Delivery> = (from..end).map(delivery).collect();
                self.inbox.push_live(partition(), &mut found);
                self.position.finish(Offset(end));
            }
            Step::Read(count) => {
                if self.inbox.room() == 0 {
                    return;
                }
                let Some((partition, from)) = self.inbox.next_behind() else {
                    return;
                };
                let end = (from.0 + i64::from(count)).min(self.log_end);
                let found = (from.0..end).map(delivery).collect();
                self.inbox.push_read(partition, (from, Offset(end)), found);
            }
            Step::Take(window) => {
                if !self.handed.is_empty() {
                    return;
                }
                self.inbox.forget_handed();
                let (taken, _) = self.inbox.take(window.into(), 0);
                let acked = taken
                    .iter()
                    .filter(|delivery| delivery.qos > QoS::AtMostOnce)
                    .count();
                assert!(acked <= window.into());
                self.handed = taken.into();
            }
            Step::Send => self.send(),
            Step::Acknowledge => {
                let Some((id, offset)) = self.client.first_key_value() else {
                    return;
                };
                let (id, offset) = (*id, *offset);
                if qos_of(offset) == QoS::ExactlyOnce {
                    // PUBREC is durable before PUBREL goes out, and only that frees the id.
                    self.inbox.received(id);
                    self.checkpoint();
                }
                self.client.remove(&id);
                self.inbox.completed(id);
            }
            Step::Reconnect => {
                let (positions, flights) = {
                    let records = self.inbox.inflight();
                    let records = records.into_iter().map(|(id, flight)| flight.record(id));
                    (self.inbox.positions(), records.collect())
                };
                self.inbox.detach();
                self.inbox.inflight.clear();
                self.resume(OutboundRecord {
                    feeds: positions,
                    inflight: flights,
                });
            }
            Step::Crash => {
                self.inbox = Inbox::new(LIMITS);
                self.position = Arc::new(Position::new(Offset(self.log_end)));
                self.resume(self.durable.clone());
            }
            Step::Checkpoint => self.checkpoint(),
        }
    }

    fn send(&mut self) {
        let mut sent = Vec::new();
        while let Some(delivery) = self.handed.pop_front() {
            if delivery.qos == QoS::AtMostOnce {
                continue;
            }
            while self.inbox.inflight.contains_key(&self.next_id) {
                self.next_id = self.next_id.checked_add(1).unwrap_or(1);
            }
            self.inbox.sent(self.next_id, &delivery);
            sent.push((self.next_id, delivery));
            self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        }
        // What `Session::sent` makes durable before it returns.
        if sent
            .iter()
            .any(|(_, delivery)| delivery.qos == QoS::ExactlyOnce)
        {
            self.checkpoint();
        }
        for (id, delivery) in sent {
            self.deliver(id, delivery.token.offset.0);
        }
    }

    fn finish(&mut self) {
        for _ in 0..10_000 {
            for step in [
                Step::Follow(5),
                Step::Read(5),
                Step::Take(3),
                Step::Send,
                Step::Acknowledge,
                Step::Acknowledge,
                Step::Acknowledge,
            ] {
                self.apply(step);
            }
            let is_idle = self.inbox.queued() == 0
                && self.inbox.behind.is_empty()
                && self.position.done().0 == self.log_end
                && self.client.is_empty();
            if is_idle {
                return;
            }
        }
        panic!("the session never catches up");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn qos_1_is_never_missed_and_qos_2_comes_exactly_once(
        steps in prop::collection::vec(step(), 1..150)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.apply(*step);
            prop_assert!(world.inbox.queued() <= LIMITS.messages);
        }
        world.finish();
        let expected: BTreeSet<i64> =
            (0..world.log_end).filter(|offset| qos_of(*offset) > QoS::AtMostOnce).collect();
        let received: BTreeSet<i64> = world
            .received
            .keys()
            .copied()
            .filter(|offset| qos_of(*offset) > QoS::AtMostOnce)
            .collect();
        prop_assert_eq!(received, expected);
        for (offset, count) in &world.received {
            if qos_of(*offset) == QoS::ExactlyOnce {
                prop_assert_eq!(*count, 1, "record {}", offset);
            }
        }
        // At rest the cursor is at the end: nothing comes again.
        prop_assert_eq!(world.inbox.positions(), vec![(partition(), Offset(world.log_end))]);
    }

    #[test]
    fn order_is_kept_and_a_slow_session_drops_only_qos_0(
        steps in prop::collection::vec(step(), 1..100)
    ) {
        let mut world = World::new();
        let mut last = -1;
        for step in steps {
            if matches!(step, Step::Crash | Step::Reconnect) {
                continue;
            }
            let had = !world.handed.is_empty();
            world.apply(step);
            for delivery in &world.handed {
                if delivery.qos > QoS::AtMostOnce && matches!(step, Step::Take(_)) && !had {
                    prop_assert!(delivery.token.offset.0 > last);
                    last = delivery.token.offset.0;
                }
            }
        }
    }
}

#[test]
fn qos_0_is_not_held_back_by_a_full_window() {
    let mut world = World::new();
    world.apply(Step::Read(1));
    world.apply(Step::Append(4));
    world.apply(Step::Follow(4));
    let (taken, _) = world.inbox.take(0, 0);
    let offsets: Vec<i64> = taken
        .iter()
        .map(|delivery| delivery.token.offset.0)
        .collect();
    assert_eq!(offsets, [0, 3]);
    assert!(!world.inbox.has_deliverable(0) && world.inbox.has_deliverable(1));
}

#[test]
fn what_is_not_sent_before_the_next_call_is_let_go() {
    let mut world = World::new();
    world.apply(Step::Read(1));
    world.apply(Step::Append(3));
    world.apply(Step::Follow(3));
    let (taken, _) = world.inbox.take(2, 0);
    assert_eq!(taken.len(), 3);
    assert_eq!(world.inbox.positions()[0].1, Offset(1));
    world.inbox.forget_handed();
    assert_eq!(world.inbox.positions()[0].1, Offset(3));
}

/// The follower has pushed a record and not yet said that it has passed it.
#[test]
fn what_is_in_flight_is_above_no_position_while_the_follower_is_at_it() {
    let mut inbox = Inbox::new(LIMITS);
    let position = Arc::new(Position::new(Offset(0)));
    let feed = Feed {
        mode: Mode::Live(Offset(0)),
        position: position.clone(),
        online_from: Offset(0),
        _interest: None,
    };
    inbox.add_feed(partition(), feed);
    position.begin(Offset(3));
    inbox.push_live(partition(), &mut vec![delivery(2)]);
    let (taken, _) = inbox.take(10, 0);
    inbox.sent(1, &taken[0]);
    assert_eq!(inbox.inflight_count(), 1);
    assert_eq!(inbox.positions(), [(partition(), Offset(3))]);
}
