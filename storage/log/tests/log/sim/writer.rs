//! Clients: what they have sent, what they were told, and what they send again.

use std::{collections::VecDeque, sync::Arc};

use mainstem_log::{Ack, Append, AppendError, Appended, QOS2_HEADER, Qos2Id};
use mainstem_record::{Codec, EncodedRecord, TimestampMs};
use mainstem_simulation::Dice;
use parking_lot::Mutex;

use super::model::{Id, Model};
use crate::support::{batch_of, encoded};

/// An idempotent producer has at most so many batches under way, and so many are recognised.
const IN_FLIGHT_MAX: usize = 5;

/// What kind of client it is, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The broker's own records.
    Internal,
    /// A Kafka producer that never sends again.
    Plain,
    /// An idempotent Kafka producer: it sends again until it is acknowledged.
    Idempotent,
    /// An MQTT client of QoS 2: it sends again until it is acknowledged.
    Qos2,
    /// An MQTT client of QoS 1 that never sends again.
    Qos1,
}

/// The clients of each partition.
pub(crate) const KINDS: [Kind; 6] = [
    Kind::Internal,
    Kind::Plain,
    Kind::Idempotent,
    Kind::Idempotent,
    Kind::Qos2,
    Kind::Qos1,
];

/// What a ticket said, and whether that was before the power was cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) result: Result<Appended, AppendError>,
    pub(crate) in_time: bool,
}

/// Where the task that waits for a ticket leaves what it said.
pub(crate) type Slot = Arc<Mutex<Option<Outcome>>>;

/// Something that was sent and not acknowledged yet.
struct Sent {
    ids: Vec<Id>,
    epoch: i16,
    sequence: i32,
    ack: Ack,
    attempts: u32,
    /// The partition's policy promised durability when it was sent.
    always: bool,
    /// `None`: it must be sent again.
    slot: Option<Slot>,
}

/// A client of one partition.
pub(crate) struct Writer {
    pub(crate) kind: Kind,
    partition: usize,
    number: usize,
    epoch: i16,
    next_sequence: i32,
    queue: VecDeque<Sent>,
    /// The offsets after acknowledged batches of this epoch.
    acked: Vec<i64>,
}

/// What the node said of itself through its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    MustRestart,
}

// === impl Writer ===

impl Writer {
    pub(crate) fn all(partition: usize) -> Vec<Self> {
        let each = KINDS.iter().enumerate();
        each.map(|(number, kind)| Self {
            kind: *kind,
            partition,
            number,
            epoch: 0,
            next_sequence: 0,
            queue: VecDeque::new(),
            acked: Vec::new(),
        })
        .collect()
    }

    fn sends_again(&self) -> bool {
        matches!(self.kind, Kind::Idempotent | Kind::Qos2)
    }

    pub(crate) fn waits(&self) -> bool {
        self.queue.iter().any(|sent| sent.slot.is_some())
    }

    /// What it sends now, each with where its outcome belongs.
    pub(crate) fn send(
        &mut self,
        model: &mut Model,
        dice: &mut Dice,
        numbers: &mut u64,
    ) -> Vec<(Append, Slot)> {
        if self.queue.iter().any(|sent| sent.slot.is_none()) {
            if self.waits() {
                return Vec::new();
            }
            for id in self.queue.iter().flat_map(|sent| &sent.ids) {
                model.failed.remove(id);
            }
            let again = self.queue.iter_mut();
            return again
                .map(|sent| {
                    sent.attempts += 1;
                    sent.always = model.always;
                    let slot = Slot::default();
                    sent.slot = Some(slot.clone());
                    (append(self.kind, self.number, self.partition, sent), slot)
                })
                .collect();
        }
        if self.queue.len() >= IN_FLIGHT_MAX {
            return Vec::new();
        }
        let several = !matches!(self.kind, Kind::Qos1 | Kind::Qos2);
        let count = if several { 1 + dice.below(4) } else { 1 };
        let ids = (0..count).map(|_| {
            *numbers += 1;
            Id {
                partition: self.partition,
                writer: self.number,
                number: *numbers,
            }
        });
        let ack = match dice.below(4) {
            0 => Ack::Written,
            1 if !self.sends_again() => Ack::None,
            _ => Ack::Durable,
        };
        let slot = Slot::default();
        let sent = Sent {
            ids: ids.collect(),
            epoch: self.epoch,
            sequence: self.next_sequence,
            ack,
            attempts: 1,
            always: model.always,
            slot: Some(slot.clone()),
        };
        self.next_sequence += count as i32;
        let append = append(self.kind, self.number, self.partition, &sent);
        self.queue.push_back(sent);
        vec![(append, slot)]
    }

    /// Takes note of what tickets have said.
    pub(crate) fn collect(&mut self, model: &mut Model) -> Verdict {
        let mut verdict = Verdict::Fine;
        let mut at = 0;
        while let Some(sent) = self.queue.get(at) {
            let outcome = sent.slot.as_ref().and_then(|slot| *slot.lock());
            let Some(outcome) = outcome.filter(|outcome| outcome.in_time) else {
                at += 1;
                continue;
            };
            match outcome.result {
                Ok(appended) => self.acknowledged(at, appended, model),
                Err(AppendError::OutOfOrderSequence { .. }) => {
                    let earlier = self.queue.iter().take(at);
                    if earlier.clone().any(|e| e.slot.is_some()) {
                        at += 1;
                        continue;
                    }
                    assert!(
                        self.kind == Kind::Idempotent && earlier.count() > 0,
                        "partition {}: {outcome:?} though nothing was left out",
                        self.partition
                    );
                    self.failed(&mut at, model);
                }
                Err(AppendError::NoSpace | AppendError::Io(_)) => self.failed(&mut at, model),
                Err(AppendError::ShardFailed | AppendError::PartitionFailed) => {
                    verdict = Verdict::MustRestart;
                    // Whether it was written is not known before the log is opened again.
                    at += 1;
                }
                Err(error) => panic!("partition {}: {error}", self.partition),
            }
        }
        verdict
    }

    fn acknowledged(&mut self, at: usize, appended: Appended, model: &mut Model) {
        let Some(sent) = self.queue.remove(at) else {
            return;
        };
        let mut earlier = self.queue.iter().take(at);
        assert!(
            self.kind != Kind::Idempotent || earlier.all(|e| e.slot.is_some()),
            "a sequence was acknowledged after one that had failed"
        );
        assert!(
            !appended.duplicate || sent.attempts > 1,
            "{:?} counts as a duplicate and was sent once",
            sent.ids
        );
        let base = appended.base_offset.0;
        if base < 0 {
            assert!(appended.duplicate && self.kind == Kind::Qos2);
            return;
        }
        let end = appended.last_offset.0 + 1;
        assert_eq!(end - base, sent.ids.len() as i64, "offsets of an append");
        for (offset, id) in (base..).zip(&sent.ids) {
            model.learn(offset, *id);
        }
        model.written = model.written.max(end);
        if sent.ack == Ack::Durable && sent.always && model.always {
            model.floor = model.floor.max(end);
        }
        if self.kind == Kind::Idempotent {
            self.acked.push(end);
        }
    }

    /// Nothing of it was written.
    fn failed(&mut self, at: &mut usize, model: &mut Model) {
        let Some(sent) = self.queue.get_mut(*at) else {
            return;
        };
        // An earlier attempt may have been written.
        if sent.attempts == 1 {
            model.failed.extend(&sent.ids);
        }
        if self.sends_again() {
            if let Some(sent) = self.queue.get_mut(*at) {
                sent.slot = None;
            }
            *at += 1;
        } else {
            self.queue.remove(*at);
        }
    }

    /// The node is back, with what `model` knows.
    pub(crate) fn came_back(&mut self, model: &Model, end: i64) {
        if !self.sends_again() {
            self.queue.clear();
            return;
        }
        let lost = self.acked.iter().any(|after| *after > end);
        let mut missing = false;
        for sent in std::mem::take(&mut self.queue) {
            let places: Vec<_> = sent.ids.iter().map(|id| model.place(*id)).collect();
            match (places.first(), places.last()) {
                (Some(Some(first)), Some(Some(last))) => {
                    assert!(
                        !missing || self.kind != Kind::Idempotent,
                        "{:?} is there and the batch before it is not",
                        sent.ids
                    );
                    assert_eq!(last - first + 1, sent.ids.len() as i64, "a part of a batch");
                    self.acked.push(last + 1);
                }
                _ => {
                    assert!(places.iter().all(Option::is_none), "a part of a batch");
                    missing = true;
                    self.queue.push_back(Sent { slot: None, ..sent });
                }
            }
        }
        if lost && self.kind == Kind::Idempotent {
            // What it was told to be stored is gone: no policy promised more. It begins anew.
            self.queue.clear();
            self.acked.clear();
            self.epoch += 1;
            self.next_sequence = 0;
        }
    }
}

fn producer(partition: usize, number: usize) -> i64 {
    (partition * 100 + number) as i64
}

fn append(kind: Kind, number: usize, partition: usize, sent: &Sent) -> Append {
    let ack = sent.ack;
    let first = sent.ids[0];
    match kind {
        Kind::Internal => {
            let record = |id: &Id| (encoded(&id.value(), &[]), TimestampMs(id.timestamp()));
            let records = sent.ids.iter().map(record).collect();
            Append::Records { records, ack }
        }
        Kind::Plain | Kind::Idempotent => {
            let records: Vec<_> = sent
                .ids
                .iter()
                .map(|id| (id.value(), id.timestamp()))
                .collect();
            let producer = (kind == Kind::Idempotent).then(|| {
                let id = producer(partition, number);
                (id, sent.epoch, sent.sequence)
            });
            let codec = if first.number.is_multiple_of(3) {
                Codec::Lz4
            } else {
                Codec::None
            };
            let batch = batch_of(&records, producer, codec);
            Append::Batch { batch, ack }
        }
        Kind::Qos1 | Kind::Qos2 => {
            let qos2 = (kind == Kind::Qos2).then_some(Qos2Id {
                session: [partition as u8; 16],
                epoch: 1,
                sequence: first.number,
            });
            Append::Record {
                record: mqtt_record(first, qos2),
                attributes: 1 << 4,
                timestamp: TimestampMs(first.timestamp()),
                qos2,
                ack,
            }
        }
    }
}

fn mqtt_record(id: Id, qos2: Option<Qos2Id>) -> EncodedRecord {
    let header = qos2.map(|id| id.to_header());
    let headers = header.as_ref().map(|header| {
        let name: &[u8] = QOS2_HEADER.as_bytes();
        (name, Some(&header[..]))
    });
    encoded(&id.value(), headers.as_slice())
}
