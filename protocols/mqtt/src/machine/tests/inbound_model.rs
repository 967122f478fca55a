//! The inbound half against a reference model that remembers everything and counts nothing.

use proptest::{collection::vec, prelude::*};

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Publish {
        qos: QoS,
        number: u16,
    },
    PubRel {
        number: u16,
    },
    /// Answers one of the publishes that wait for it.
    Answer {
        which: prop::sample::Index,
        refused: bool,
    },
    /// Answers one of the releases that wait for it.
    Released {
        which: prop::sample::Index,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let qos = prop::sample::select(&[QoS::AtLeastOnce, QoS::ExactlyOnce][..]);
    prop_oneof![
        4 => (qos, 1u16..5).prop_map(|(qos, number)| Op::Publish { qos, number }),
        3 => (1u16..5).prop_map(|number| Op::PubRel { number }),
        4 => (any::<prop::sample::Index>(), prop::bool::weighted(0.2))
            .prop_map(|(which, refused)| Op::Answer { which, refused }),
        2 => any::<prop::sample::Index>().prop_map(|which| Op::Released { which }),
    ]
}

/// A PUBLISH as the model remembers it.
struct Arrival {
    number: u16,
    qos: QoS,
    /// Only wants another PUBREC.
    again: bool,
    outcome: Option<Result<(), ReasonCode>>,
    acked: bool,
    pub_rel: bool,
    over: bool,
}

#[derive(Default)]
struct Model {
    arrivals: Vec<Arrival>,
}

const REFUSED: ReasonCode = ReasonCode::QUOTA_EXCEEDED;

/// What the model expects of a step. Receipts are the machine's own affair.
#[derive(Debug, PartialEq, Eq)]
enum Expected {
    Up(u16),
    Release(u16),
    Send(AckKind, u16, ReasonCode),
    Close(ReasonCode),
}

impl Model {
    /// The open QoS 2 exchange of an identifier.
    fn exchange(&self, number: u16) -> Option<usize> {
        self.arrivals.iter().rposition(|arrival| {
            arrival.number == number
                && arrival.qos == QoS::ExactlyOnce
                && !arrival.again
                && !arrival.over
        })
    }

    fn publish(&mut self, qos: QoS, number: u16, receive_maximum: usize) -> Vec<Expected> {
        let mut arrival = Arrival {
            number,
            qos,
            again: false,
            outcome: None,
            acked: false,
            pub_rel: false,
            over: false,
        };
        if qos == QoS::ExactlyOnce
            && let Some(at) = self.exchange(number)
        {
            if self.arrivals[at].pub_rel {
                return vec![Expected::Close(ReasonCode::PROTOCOL_ERROR)];
            }
            let waits = self.arrivals[at..]
                .iter()
                .any(|other| other.number == number && other.qos == qos && !other.acked);
            if waits {
                return Vec::new();
            }
            arrival.again = true;
            arrival.outcome = Some(Ok(()));
            self.arrivals.push(arrival);
            return self.flush();
        }
        let taken = self
            .arrivals
            .iter()
            .filter(|other| !other.again && !other.over)
            .count();
        if taken == receive_maximum {
            return vec![Expected::Close(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED)];
        }
        self.arrivals.push(arrival);
        vec![Expected::Up(number)]
    }

    fn flush(&mut self) -> Vec<Expected> {
        let mut expected = Vec::new();
        for at in 0..self.arrivals.len() {
            let exchange = self.exchange(self.arrivals[at].number);
            let released =
                exchange.is_none_or(|exchange| self.arrivals[exchange].pub_rel || exchange > at);
            let arrival = &mut self.arrivals[at];
            if arrival.acked {
                continue;
            }
            let Some(outcome) = arrival.outcome else {
                break;
            };
            arrival.acked = true;
            let reason = outcome.err().unwrap_or_default();
            let (kind, said) = match (arrival.qos, arrival.again) {
                (QoS::ExactlyOnce, true) => (AckKind::PubRec, !released),
                (QoS::ExactlyOnce, false) => (AckKind::PubRec, true),
                _ => (AckKind::PubAck, true),
            };
            arrival.over = kind == AckKind::PubAck || arrival.again || outcome.is_err();
            if said {
                expected.push(Expected::Send(kind, arrival.number, reason));
            }
        }
        expected
    }

    fn pub_rel(&mut self, number: u16) -> Vec<Expected> {
        let not_found = ReasonCode::PACKET_ID_NOT_FOUND;
        let Some(at) = self.exchange(number) else {
            return vec![Expected::Send(AckKind::PubComp, number, not_found)];
        };
        let arrival = &mut self.arrivals[at];
        if !arrival.acked {
            return vec![Expected::Close(ReasonCode::PROTOCOL_ERROR)];
        }
        if arrival.pub_rel {
            return Vec::new();
        }
        arrival.pub_rel = true;
        vec![Expected::Release(number)]
    }

    fn released(&mut self, number: u16) -> Vec<Expected> {
        let at = self
            .exchange(number)
            .expect("a release is of an open exchange");
        self.arrivals[at].over = true;
        vec![Expected::Send(
            AckKind::PubComp,
            number,
            ReasonCode::SUCCESS,
        )]
    }
}

/// The machine beside the model, with what both wait for.
struct Pair {
    steps: Steps,
    model: Model,
    /// Receipts that wait for the broker, with the model's place of each.
    receipts: Vec<(Receipt, usize)>,
    releases: Vec<u16>,
}

impl Pair {
    fn run(&mut self, op: &Op) -> Option<(Effects, Vec<Expected>)> {
        Some(match op {
            Op::Publish { qos, number } => (
                self.steps.publish(publish(*qos, *number)),
                self.model.publish(*qos, *number, 3),
            ),
            Op::PubRel { number } => (self.steps.pub_rel(*number), self.model.pub_rel(*number)),
            Op::Answer { which, refused } => {
                if self.receipts.is_empty() {
                    return None;
                }
                let (receipt, at) = self.receipts.remove(which.index(self.receipts.len()));
                let outcome = if *refused { Err(REFUSED) } else { Ok(()) };
                self.model.arrivals[at].outcome = Some(outcome);
                (self.steps.published(receipt, outcome), self.model.flush())
            }
            Op::Released { which } => {
                if self.releases.is_empty() {
                    return None;
                }
                let number = self.releases.remove(which.index(self.releases.len()));
                let effects = self
                    .steps
                    .step(|machine, effects| machine.released(id(number), true, effects));
                (effects, self.model.released(number))
            }
        })
    }

    fn seen(&mut self, effects: Effects) -> Vec<Expected> {
        effects
            .into_iter()
            .map(|effect| match effect {
                Effect::Publish(up) => {
                    let at = self.model.arrivals.len() - 1;
                    self.receipts.push((up.receipt.expect("QoS 1 or 2"), at));
                    Expected::Up(up.packet_id.expect("QoS 1 or 2").get())
                }
                Effect::Release(id) => {
                    self.releases.push(id.get());
                    Expected::Release(id.get())
                }
                Effect::Send(Outgoing::Ack(kind, ack)) => {
                    Expected::Send(kind, ack.packet_id.get(), ack.reason)
                }
                Effect::Close(error) => Expected::Close(error.reason),
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_inbound_half_does_as_its_model(ops in vec(op(), 1..80)) {
        let options = Options { awaiting_rel_max: 100, ..options(Version::V5) };
        let mut pair = Pair {
            steps: Steps::new(options),
            model: Model::default(),
            receipts: Vec::new(),
            releases: Vec::new(),
        };
        for op in &ops {
            let Some((effects, expected)) = pair.run(op) else { continue };
            let seen = pair.seen(effects);
            prop_assert_eq!(&seen, &expected, "after {:?}", op);
            if matches!(expected.last(), Some(Expected::Close(_))) {
                prop_assert!(pair.steps.machine.is_closed());
                break;
            }
        }
    }
}
