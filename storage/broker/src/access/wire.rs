//! What nodes say to each other about appends and reads. Big-endian, versioned, read without trust.
//!
//! ```text
//! PRODUCE call   version, partition, incarnation, number, items        -> version, outcomes
//! FETCH call     version, 0, partition                                 -> version, ends
//!                version, 1, partition, from, most bytes               -> version, ends, records
//! FETCH stream   version, partition, from (a wish)                     -> version, partition, found,
//!                                                                         ends, next, records
//! ```
//!
//! A wish is answered once, when there is something behind `from` or the partition is not led here
//! (any more); so of each partition one answer at most is under way.

use bytes::Bytes;
use mainstem_log::{Ack, Append, AppendError, Appended, Chunk, Ends, Qos2Id};
use mainstem_record::{
    Batches, BrokerId, EncodedRecord, Incarnation, Member, Offset, PartitionId, TimestampMs,
};

use crate::mqtt::codec::{Reader, Writer};

/// The version of all bodies.
const VERSION: u8 = 1;
/// Appends of one group.
pub(crate) const ITEMS_MAX: usize = 1024;

/// Who owns an MQTT session: the claim with the highest term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    /// One more at each change of owner.
    pub(crate) term: u32,
    /// The owner.
    pub(crate) owner: Member,
}

/// Under what condition the leader appends records of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Guard {
    /// Whose session it is.
    pub(crate) client: String,
    /// Who writes; nobody if nobody has ever claimed it.
    pub(crate) claim: Option<Claim>,
    pub(crate) kind: GuardKind,
}

/// What an append is to the claim on a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardKind {
    /// It needs the claim to be the present one.
    Present,
    /// It is the claim itself, and needs it to be newer than any before.
    New,
    /// It ends the session, and the claim with it, which must be the present one.
    Last,
}

/// One append.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) what: What,
    pub(crate) ack: Ack,
    pub(crate) guard: Option<Guard>,
}

/// What is appended.
#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A publish.
    Record {
        record: EncodedRecord,
        attributes: u8,
        timestamp: TimestampMs,
        qos2: Option<Qos2Id>,
    },
    /// Records of the broker's own, in one batch.
    Records(Vec<(EncodedRecord, TimestampMs)>),
}

/// Appends to one partition, in order.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) partition: PartitionId,
    /// The life of the node that asks, and the number of the group in it: one that comes late is
    /// told by it.
    pub(crate) incarnation: Incarnation,
    pub(crate) number: u64,
    pub(crate) items: Vec<Item>,
}

/// A question about committed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    Ends(PartitionId),
    Read {
        partition: PartitionId,
        from: Offset,
        bytes_max: u32,
    },
}

/// What is known of a partition where it is led, and some of its records.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) ends: Ends,
    /// Where to go on.
    pub(crate) next: Offset,
    /// Whole batches.
    pub(crate) batches: Bytes,
}

/// What a wish on a stream is answered.
#[derive(Debug, Clone)]
pub(crate) struct Fulfilled {
    pub(crate) partition: PartitionId,
    /// `None`: it is not led there.
    pub(crate) answer: Option<Answer>,
}

// === impl Item ===

impl Item {
    pub(crate) fn new(append: Append, guard: Option<Guard>) -> Result<Self, AppendError> {
        let (what, ack) = match append {
            Append::Record {
                record,
                attributes,
                timestamp,
                qos2,
                ack,
            } => {
                let what = What::Record {
                    record,
                    attributes,
                    timestamp,
                    qos2,
                };
                (what, ack)
            }
            Append::Records { records, ack } => (What::Records(records), ack),
            // Kafka's producers find the leader themselves.
            Append::Batch { .. } => return Err(AppendError::NotLeader),
        };
        Ok(Self { what, ack, guard })
    }

    /// The append that it stands for.
    pub(crate) fn append(&self) -> Append {
        let ack = self.ack;
        match self.what.clone() {
            What::Record {
                record,
                attributes,
                timestamp,
                qos2,
            } => Append::Record {
                record,
                attributes,
                timestamp,
                qos2,
                ack,
            },
            What::Records(records) => Append::Records { records, ack },
        }
    }

    /// About how long it is.
    pub(crate) fn size_bytes(&self) -> usize {
        /// What an item takes besides its records.
        const FRAME_BYTES: usize = 128;
        let records = match &self.what {
            What::Record { record, .. } => record.size_bytes(),
            What::Records(records) => records.iter().map(|(record, _)| record.size_bytes()).sum(),
        };
        FRAME_BYTES + records
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(match self.ack {
            Ack::None => 0,
            Ack::Written => 1,
            Ack::Durable => 2,
        });
        writer.optional(self.guard.as_ref(), |w, guard| {
            w.text(&guard.client).u8(guard.kind as u8);
            w.optional(guard.claim, |w, claim| {
                write_claim(w, claim);
            });
        });
        match &self.what {
            What::Record {
                record,
                attributes,
                timestamp,
                qos2,
            } => {
                writer.u8(0).u8(*attributes).i64(timestamp.0);
                writer.optional(*qos2, |w, id| {
                    w.raw(&id.session).u32(id.epoch).u64(id.sequence);
                });
                writer.bytes(record.bytes());
            }
            What::Records(records) => {
                writer.u8(1).varint(records.len() as u64);
                for (record, timestamp) in records {
                    writer.i64(timestamp.0).bytes(record.bytes());
                }
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let ack = match reader.u8()? {
            0 => Ack::None,
            1 => Ack::Written,
            2 => Ack::Durable,
            _ => return None,
        };
        let guard = reader.optional(|r| {
            Some(Guard {
                client: r.text()?.to_owned(),
                kind: match r.u8()? {
                    0 => GuardKind::Present,
                    1 => GuardKind::New,
                    2 => GuardKind::Last,
                    _ => return None,
                },
                claim: r.optional(read_claim)?,
            })
        })?;
        let what = match reader.u8()? {
            0 => What::Record {
                attributes: reader.u8()?,
                timestamp: TimestampMs(reader.i64()?),
                qos2: reader.optional(|r| {
                    Some(Qos2Id {
                        session: r.id()?,
                        epoch: r.u32()?,
                        sequence: r.u64()?,
                    })
                })?,
                record: read_record(reader)?,
            },
            1 => What::Records(reader.list(|r| {
                let timestamp = TimestampMs(r.i64()?);
                Some((read_record(r)?, timestamp))
            })?),
            _ => return None,
        };
        Some(Self { what, ack, guard })
    }
}

fn read_record(reader: &mut Reader<'_>) -> Option<EncodedRecord> {
    EncodedRecord::from_bytes(Bytes::copy_from_slice(reader.bytes()?))
}

pub(crate) fn write_claim(writer: &mut Writer, claim: Claim) {
    writer.u32(claim.term).u32(claim.owner.broker.0 as u32);
    writer.u64(claim.owner.incarnation.0);
}

pub(crate) fn read_claim(reader: &mut Reader<'_>) -> Option<Claim> {
    let term = reader.u32()?;
    let broker = BrokerId(i32::try_from(reader.u32()?).ok()?);
    let owner = Member::new(broker, Incarnation(reader.u64()?));
    Some(Claim { term, owner })
}

// === impl Group ===

impl Group {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.partition(self.partition).u64(self.incarnation.0);
        writer.u64(self.number).varint(self.items.len() as u64);
        for item in &self.items {
            item.write(&mut writer);
        }
        writer.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = open(body)?;
        let group = Self {
            partition: reader.partition()?,
            incarnation: Incarnation(reader.u64()?),
            number: reader.u64()?,
            items: reader.list(Item::read)?,
        };
        let is_whole = reader.rest().is_empty() && group.items.len() <= ITEMS_MAX;
        is_whole.then_some(group)
    }
}

/// What became of the appends of a group, in their order.
pub(crate) fn encode_outcomes(outcomes: &[Result<Appended, AppendError>]) -> Bytes {
    let mut writer = Writer::new(VERSION);
    writer.varint(outcomes.len() as u64);
    for outcome in outcomes {
        match outcome {
            Ok(appended) => {
                writer.u8(0).i64(appended.base_offset.0);
                writer
                    .i64(appended.last_offset.0)
                    .offset(appended.log_start);
                writer.optional(appended.log_append_time, |w, time| {
                    w.i64(time.0);
                });
                writer.u8(appended.duplicate.into());
            }
            Err(error) => {
                writer.u8(error_code(error));
            }
        }
    }
    writer.finish()
}

pub(crate) fn decode_outcomes(body: &[u8]) -> Option<Vec<Result<Appended, AppendError>>> {
    open(body)?.list(|reader| {
        let code = reader.u8()?;
        if code != 0 {
            return Some(Err(error_of(code)));
        }
        Some(Ok(Appended {
            base_offset: Offset(reader.i64()?),
            last_offset: Offset(reader.i64()?),
            log_start: reader.offset()?,
            log_append_time: reader.optional(|r| r.i64().map(TimestampMs))?,
            duplicate: reader.bool()?,
        }))
    })
}

fn error_code(error: &AppendError) -> u8 {
    match error {
        AppendError::BatchTooLarge => 1,
        AppendError::InvalidBatch => 2,
        AppendError::InvalidProducerEpoch => 3,
        AppendError::Removed => 4,
        AppendError::NoSpace => 5,
        AppendError::WouldBlock => 6,
        AppendError::PartitionFailed => 7,
        AppendError::ShardFailed | AppendError::Io(_) => 8,
        AppendError::SegmentFull => 9,
        _ => 10,
    }
}

fn error_of(code: u8) -> AppendError {
    match code {
        1 => AppendError::BatchTooLarge,
        2 => AppendError::InvalidBatch,
        3 => AppendError::InvalidProducerEpoch,
        4 => AppendError::Removed,
        5 => AppendError::NoSpace,
        6 => AppendError::WouldBlock,
        7 => AppendError::PartitionFailed,
        8 => AppendError::ShardFailed,
        9 => AppendError::SegmentFull,
        _ => AppendError::NotLeader,
    }
}

// === impl Question ===

impl Question {
    pub(crate) fn encode(self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        match self {
            Self::Ends(partition) => {
                writer.u8(0).partition(partition);
            }
            Self::Read {
                partition,
                from,
                bytes_max,
            } => {
                writer.u8(1).partition(partition);
                writer.offset(from).u32(bytes_max);
            }
        }
        writer.finish()
    }

    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = open(body)?;
        match reader.u8()? {
            0 => Some(Self::Ends(reader.partition()?)),
            1 => Some(Self::Read {
                partition: reader.partition()?,
                from: reader.offset()?,
                bytes_max: reader.u32()?,
            }),
            _ => None,
        }
    }
}

/// A wish: what is committed in a partition from an offset on.
pub(crate) fn encode_wish(partition: PartitionId, from: Offset) -> Bytes {
    let mut writer = Writer::new(VERSION);
    writer.partition(partition).offset(from);
    writer.finish()
}

pub(crate) fn decode_wish(body: &[u8]) -> Option<(PartitionId, Offset)> {
    let mut reader = open(body)?;
    Some((reader.partition()?, reader.offset()?))
}

// === impl Answer ===

impl Answer {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        self.write(&mut writer);
        writer.finish()
    }

    /// The batches share the memory of `body`.
    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        Self::read(&mut open(body)?, body)
    }

    fn write(&self, writer: &mut Writer) {
        let Ends {
            log_start,
            log_end,
            synced_end,
            committed_end,
        } = self.ends;
        for offset in [log_start, log_end, synced_end, committed_end, self.next] {
            writer.offset(offset);
        }
        writer.raw(&self.batches);
    }

    fn read(reader: &mut Reader<'_>, body: &Bytes) -> Option<Self> {
        let ends = Ends {
            log_start: reader.offset()?,
            log_end: reader.offset()?,
            synced_end: reader.offset()?,
            committed_end: reader.offset()?,
        };
        let next = reader.offset()?;
        let batches = body.slice_ref(reader.rest());
        // Whoever reads them expects whole ones.
        let is_whole = Batches::new(batches.clone()).all(|batch| batch.is_ok());
        is_whole.then_some(Self {
            ends,
            next,
            batches,
        })
    }

    /// As a read of a partition that is here gives it.
    pub(crate) fn into_chunk(self) -> Chunk {
        Chunk {
            bytes: self.batches.len(),
            batches: match self.batches.is_empty() {
                true => Vec::new(),
                false => vec![self.batches],
            },
            next: self.next,
            from_cache: false,
        }
    }
}

// === impl Fulfilled ===

impl Fulfilled {
    pub(crate) fn encode(&self) -> Bytes {
        let mut writer = Writer::new(VERSION);
        writer.partition(self.partition);
        writer.optional(self.answer.as_ref(), |w, answer| answer.write(w));
        writer.finish()
    }

    pub(crate) fn decode(body: &Bytes) -> Option<Self> {
        let mut reader = open(body)?;
        Some(Self {
            partition: reader.partition()?,
            answer: reader.optional(|r| Answer::read(r, body))?,
        })
    }
}

fn open(body: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(body);
    (reader.u8()? == VERSION).then_some(reader)
}
