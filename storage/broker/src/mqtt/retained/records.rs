//! The records of `__mqtt_retained`.
//!
//! ```text
//! 0 topic      -> the retained message of a topic, and the place of its record
//! 1 partition  -> a mark: below it, every retained record of the partition has its entry
//! ```

use bytes::Bytes;
use mainstem_record::{LeaderEpoch, Offset, PartitionId, TimestampMs};

use super::{Place, view::RetainedEntry};
use crate::mqtt::{
    Message,
    codec::{Reader, Writer},
};

/// The format of all values.
const FORMAT: u8 = 1;

/// What a record is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// The retained message of a topic.
    Topic(&'a str),
    /// The mark of a partition.
    Mark(PartitionId),
}

// === impl Key ===

impl<'a> Key<'a> {
    pub(super) fn encode(&self) -> Bytes {
        let writer = match self {
            Self::Topic(topic) => {
                let mut writer = Writer::new(0);
                writer.raw(topic.as_bytes());
                writer
            }
            Self::Mark(partition) => {
                let mut writer = Writer::new(1);
                writer.partition(*partition);
                writer
            }
        };
        writer.finish()
    }

    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        match reader.u8()? {
            0 => std::str::from_utf8(reader.rest()).ok().map(Key::Topic),
            1 => reader.partition().map(Key::Mark),
            _ => None,
        }
    }
}

pub(super) fn encode_entry(entry: &RetainedEntry) -> Bytes {
    let message = &entry.message;
    let mut writer = Writer::new(FORMAT);
    writer
        .partition(entry.partition)
        .u32(entry.epoch.0 as u32)
        .offset(entry.offset);
    writer
        .i64(entry.timestamp.0)
        .text(&entry.publisher)
        .u8(message.qos as u8);
    writer
        .properties(&message.properties)
        .bytes(&message.payload);
    writer.finish()
}

pub(super) fn decode_entry(topic: &str, bytes: &[u8]) -> Option<RetainedEntry> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != FORMAT {
        return None;
    }
    let place = Place {
        partition: reader.partition()?,
        epoch: LeaderEpoch(reader.u32()? as i32),
        offset: reader.offset()?,
        timestamp: TimestampMs(reader.i64()?),
    };
    let publisher = reader.text()?.into();
    let qos = reader.qos()?;
    let properties = reader.properties()?;
    let payload = Bytes::copy_from_slice(reader.bytes()?);
    let message = Message::new(
        topic.to_owned(),
        payload,
        (qos, true),
        properties,
        place.timestamp.0,
    );
    Some(RetainedEntry::new(message, publisher, place))
}

pub(super) fn encode_mark(at: Offset) -> Bytes {
    let mut writer = Writer::new(FORMAT);
    writer.offset(at);
    writer.finish()
}

pub(super) fn decode_mark(bytes: &[u8]) -> Option<Offset> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? == FORMAT {
        reader.offset()
    } else {
        None
    }
}
