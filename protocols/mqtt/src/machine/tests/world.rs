//! A world of a client, a machine and a broker with durable state, whose connection breaks at any
//! moment and loses what is under way. Whatever happens, QoS 2 is exactly once and QoS 1 at least
//! once, in both directions, and the machine never blames the client.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::{collection::vec, prelude::*};

use super::*;

const WINDOW: u16 = 2;
const RECEIVE_MAXIMUM: u16 = 3;

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The client sends its next message, if it may.
    ClientPublishes,
    /// The server reads a packet.
    ServerReads,
    /// The client reads a packet.
    ClientReads,
    /// The broker finishes what it was asked first (or another thing of the first few).
    BrokerAnswers(usize),
    /// The broker has something for the client.
    BrokerDelivers,
    /// The connection breaks; the broker still does this many of the things that it was asked.
    Break(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::ClientPublishes),
        8 => Just(Step::ServerReads),
        8 => Just(Step::ClientReads),
        8 => (0usize..3).prop_map(Step::BrokerAnswers),
        3 => Just(Step::BrokerDelivers),
        1 => (0usize..4).prop_map(Step::Break),
    ]
}

/// What goes from server to client.
#[derive(Debug)]
enum Down {
    Publish(SendPublish<u32>),
    Ack(AckKind, Ack),
}

/// The client refuses every seventh QoS 2 message for good.
fn is_refused_by_client(message: u32) -> bool {
    message % 7 == 6
}

fn qos_of(message: u32) -> QoS {
    if message.is_multiple_of(2) {
        QoS::ExactlyOnce
    } else {
        QoS::AtLeastOnce
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Published,
    Released,
}

/// A client that follows the standard.
#[derive(Default)]
struct Client {
    next_message: u32,
    next_id: u16,
    /// Its unfinished messages, in order.
    sending: Vec<(u16, u32, Sending)>,
    /// Of those, the ones that count against the server's Receive Maximum.
    places: BTreeSet<u16>,
    /// QoS 2 identifiers of the server that are not released.
    holding: BTreeSet<PacketId>,
    got: Vec<u32>,
}

impl Client {
    fn packet(number: u16, message: u32, dup: bool) -> Packet {
        let payload = Bytes::copy_from_slice(&message.to_be_bytes());
        Packet::Publish(Publish {
            dup,
            payload,
            ..publish(qos_of(message), number)
        })
    }

    fn publish(&mut self, pipe: &mut VecDeque<Packet>, messages: u32) {
        let full = self.places.len() >= usize::from(RECEIVE_MAXIMUM);
        if full || self.next_message == messages {
            return;
        }
        loop {
            self.next_id = self.next_id % 9 + 1;
            if self
                .sending
                .iter()
                .all(|(number, ..)| *number != self.next_id)
            {
                break;
            }
        }
        self.sending
            .push((self.next_id, self.next_message, Sending::Published));
        self.places.insert(self.next_id);
        pipe.push_back(Self::packet(self.next_id, self.next_message, false));
        self.next_message += 1;
    }

    fn reconnect(&mut self, pipe: &mut VecDeque<Packet>) {
        self.places.clear();
        for &(number, message, state) in &self.sending {
            if state == Sending::Released {
                pipe.push_back(Packet::PubRel(Ack::new(id(number), ReasonCode::SUCCESS)));
            } else {
                // Never more than the Receive Maximum: they all had a place before.
                self.places.insert(number);
                pipe.push_back(Self::packet(number, message, true));
            }
        }
    }

    fn read(&mut self, down: Down, pipe: &mut VecDeque<Packet>) {
        match down {
            Down::Publish(sent) => {
                let id = sent.packet_id.expect("QoS 1 or 2");
                if sent.qos == QoS::AtLeastOnce {
                    self.got.push(sent.delivery);
                    pipe.push_back(Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
                } else if is_refused_by_client(sent.delivery) {
                    pipe.push_back(Packet::PubRec(Ack::new(id, ReasonCode::QUOTA_EXCEEDED)));
                } else {
                    if self.holding.insert(id) {
                        self.got.push(sent.delivery);
                    }
                    pipe.push_back(Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
                }
            }
            Down::Ack(AckKind::PubRel, ack) => {
                self.holding.remove(&ack.packet_id);
                pipe.push_back(Packet::PubComp(ack));
            }
            Down::Ack(AckKind::PubRec, ack) => {
                let number = ack.packet_id.get();
                for (sending, _, state) in &mut self.sending {
                    if *sending == number {
                        *state = Sending::Released;
                    }
                }
                pipe.push_back(Packet::PubRel(ack));
            }
            Down::Ack(AckKind::PubAck | AckKind::PubComp, ack) => {
                self.sending
                    .retain(|(number, ..)| *number != ack.packet_id.get());
                self.places.remove(&ack.packet_id.get());
            }
        }
    }
}

/// What the broker was asked and has not done yet.
enum Asked {
    Publish(InboundPublish),
    Release(PacketId),
    Received(PacketId),
}

/// The broker: all of it survives.
#[derive(Default)]
struct Broker {
    stored: Vec<u32>,
    not_released: BTreeSet<PacketId>,
    next_delivery: u32,
    outbound: Vec<Resume<u32>>,
}

impl Broker {
    fn publish(&mut self, up: &InboundPublish) {
        let bytes = up.payload[..].try_into().expect("four bytes");
        let message = u32::from_be_bytes(bytes);
        let id = up.packet_id.expect("QoS 1 or 2");
        if up.qos == QoS::AtLeastOnce || self.not_released.insert(id) {
            self.stored.push(message);
        }
    }

    fn received(&mut self, id: PacketId) {
        for resume in &mut self.outbound {
            if resume.packet_id == id {
                resume.phase = ResumePhase::Released;
            }
        }
    }
}

struct World {
    client: Client,
    broker: Broker,
    machine: Machine<u32>,
    up: VecDeque<Packet>,
    down: VecDeque<Down>,
    asked: VecDeque<Asked>,
    /// Identifiers of PUBLISHes on this connection that are not completed.
    on_the_wire: BTreeMap<PacketId, u32>,
    messages: u32,
}

impl World {
    fn options() -> Options {
        Options {
            window: WINDOW,
            receive_maximum: RECEIVE_MAXIMUM,
            awaiting_rel_max: 100,
            ..options(Version::V5)
        }
    }

    fn new(messages: u32) -> Self {
        Self {
            client: Client::default(),
            broker: Broker::default(),
            machine: Machine::new(Self::options(), [], [], &mut Vec::new()),
            up: VecDeque::new(),
            down: VecDeque::new(),
            asked: VecDeque::new(),
            on_the_wire: BTreeMap::new(),
            messages,
        }
    }

    fn carry_out(&mut self, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Publish(up) => self.asked.push_back(Asked::Publish(up)),
                Effect::Release(id) => self.asked.push_back(Asked::Release(id)),
                Effect::Received(id) => self.asked.push_back(Asked::Received(id)),
                Effect::Send(Outgoing::Ack(kind, ack)) => {
                    self.down.push_back(Down::Ack(kind, ack));
                }
                Effect::Deliver(sent) => self.send(sent),
                Effect::Completed(id) => {
                    self.on_the_wire.remove(&id);
                    self.broker.outbound.retain(|resume| resume.packet_id != id);
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    fn send(&mut self, sent: SendPublish<u32>) {
        let id = sent.packet_id.expect("QoS 1 or 2");
        let held = self
            .broker
            .outbound
            .iter()
            .any(|resume| resume.packet_id == id);
        assert_eq!(held, sent.resumed, "I-MQTT-3: no identifier twice");
        assert_eq!(sent.dup, sent.resumed);
        if !sent.resumed {
            let phase = ResumePhase::Published {
                qos: sent.qos,
                delivery: sent.delivery,
            };
            self.broker.outbound.push(Resume {
                packet_id: id,
                phase,
            });
        }
        let before = self.on_the_wire.insert(id, sent.delivery);
        assert_eq!(before, None, "once on a connection");
        assert!(self.on_the_wire.len() <= usize::from(WINDOW), "I-MQTT-4");
        self.down.push_back(Down::Publish(sent));
    }

    fn answer(&mut self, which: usize) {
        // Acknowledgements of publishes may come in any order, as they are of many partitions.
        let at = which.min(self.asked.len().saturating_sub(1));
        let Some(asked) = self.asked.remove(at) else {
            return;
        };
        let mut effects = Vec::new();
        match asked {
            Asked::Publish(up) => {
                self.broker.publish(&up);
                let receipt = up.receipt.expect("QoS 1 or 2");
                self.machine.published(receipt, Ok(()), &mut effects);
            }
            Asked::Release(id) => {
                let known = self.broker.not_released.remove(&id);
                assert!(known, "the machine releases what the broker holds");
                self.machine.released(id, known, &mut effects);
            }
            Asked::Received(id) => {
                self.broker.received(id);
                self.machine.marked_received(id, &mut effects);
            }
        }
        self.carry_out(effects);
    }

    fn reconnect(&mut self, still_done: usize) {
        for asked in self.asked.drain(..).take(still_done).collect::<Vec<_>>() {
            match asked {
                Asked::Publish(up) => self.broker.publish(&up),
                Asked::Release(id) => drop(self.broker.not_released.remove(&id)),
                Asked::Received(id) => self.broker.received(id),
            }
        }
        self.up.clear();
        self.down.clear();
        self.on_the_wire.clear();
        let mut effects = Vec::new();
        self.machine = Machine::new(
            Self::options(),
            self.broker.not_released.iter().copied(),
            self.broker.outbound.clone(),
            &mut effects,
        );
        self.client.reconnect(&mut self.up);
        self.carry_out(effects);
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::ClientPublishes => self.client.publish(&mut self.up, self.messages),
            Step::ServerReads => {
                if let Some(packet) = self.up.pop_front() {
                    let mut effects = Vec::new();
                    self.machine.packet(packet, &mut effects);
                    self.carry_out(effects);
                }
            }
            Step::ClientReads => {
                if let Some(down) = self.down.pop_front() {
                    self.client.read(down, &mut self.up);
                }
            }
            Step::BrokerAnswers(which) => self.answer(which),
            Step::BrokerDelivers => {
                if self.broker.next_delivery < self.messages && self.machine.window_free() > 0 {
                    let delivery = self.broker.next_delivery;
                    self.broker.next_delivery += 1;
                    let message = Outbound {
                        qos: qos_of(delivery),
                        dup: false,
                        delivery,
                    };
                    let mut effects = Vec::new();
                    self.machine
                        .deliver(message, &mut effects)
                        .expect("there is a place");
                    self.carry_out(effects);
                }
            }
            Step::Break(still_done) => self.reconnect(still_done),
        }
    }

    /// Nothing is lost any more; everything comes to its end.
    fn settle(&mut self) {
        for _ in 0..40 * self.messages + 40 {
            for step in [
                Step::ClientPublishes,
                Step::ServerReads,
                Step::BrokerAnswers(0),
                Step::ClientReads,
                Step::BrokerDelivers,
            ] {
                self.run(step);
            }
        }
    }
}

fn times(list: &[u32], message: u32) -> usize {
    list.iter().filter(|&&other| other == message).count()
}

/// The order in which messages were first seen.
fn first_seen(list: &[u32]) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    list.iter()
        .copied()
        .filter(|&message| seen.insert(message))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_and_qos_2_is_never_doubled(
        messages in 1u32..30,
        steps in vec(step(), 0..400),
    ) {
        let mut world = World::new(messages);
        for step in steps {
            world.run(step);
        }
        world.settle();
        prop_assert!(world.client.sending.is_empty(), "the client is done");
        prop_assert!(world.client.holding.is_empty());
        prop_assert!(world.broker.outbound.is_empty(), "the broker is done");
        prop_assert!(world.broker.not_released.is_empty());
        prop_assert_eq!(world.machine.in_flight(), (0, 0));
        prop_assert_eq!(world.machine.window_free(), usize::from(WINDOW), "no place leaks");
        for message in 0..messages {
            let stored = times(&world.broker.stored, message);
            let got = times(&world.client.got, message);
            match qos_of(message) {
                QoS::ExactlyOnce => {
                    prop_assert_eq!(stored, 1, "message {} to the broker", message);
                    let wanted = usize::from(!is_refused_by_client(message));
                    prop_assert_eq!(got, wanted, "message {} to the client", message);
                }
                _ => prop_assert!(stored >= 1 && got >= 1, "message {}", message),
            }
        }
        let got = first_seen(&world.client.got);
        prop_assert!(got.is_sorted(), "deliveries keep their order: {:?}", got);
    }
}
