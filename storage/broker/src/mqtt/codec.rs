//! The bytes of our records in the internal topics: big-endian integers, varints and
//! length-prefixed strings. Reading never panics and never allocates by a claimed length.

use bytes::Bytes;
use mainstem_record::{Offset, PartitionId, PartitionIndex, TopicId};
use uuid::Uuid;

use super::{MessageProperties, QoS};

/// Builds a key or a value.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

/// Takes a key or a value apart; `None` means damaged.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

// === impl Writer ===

impl Writer {
    pub(crate) fn new(first: u8) -> Self {
        Self(vec![first])
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// LEB128.
    pub(crate) fn varint(&mut self, mut value: u64) -> &mut Self {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8)
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).raw(bytes)
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn partition(&mut self, id: PartitionId) -> &mut Self {
        self.raw(id.topic.0.as_bytes())
            .varint(u64::from(id.index.0.unsigned_abs()))
    }

    pub(crate) fn offset(&mut self, offset: Offset) -> &mut Self {
        self.varint(offset.0.max(0).unsigned_abs())
    }

    pub(crate) fn optional<T>(
        &mut self,
        value: Option<T>,
        write: impl FnOnce(&mut Self, T),
    ) -> &mut Self {
        match value {
            None => {
                self.u8(0);
            }
            Some(value) => {
                self.u8(1);
                write(self, value);
            }
        }
        self
    }

    pub(crate) fn properties(&mut self, properties: &MessageProperties) -> &mut Self {
        self.optional(properties.payload_format, |w, v| {
            w.u8(v);
        });
        self.optional(properties.expiry_s, |w, v| {
            w.u32(v);
        });
        self.optional(properties.content_type.as_deref(), |w, v| {
            w.text(v);
        });
        self.optional(properties.response_topic.as_deref(), |w, v| {
            w.text(v);
        });
        self.optional(properties.correlation_data.as_deref(), |w, v| {
            w.bytes(v);
        });
        self.varint(properties.user.len() as u64);
        for (name, value) in &properties.user {
            self.text(name).text(value);
        }
        self
    }

    pub(crate) fn finish(self) -> Bytes {
        self.0.into()
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// What has not been read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(crate) fn id(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A number of things, each of which takes at least one byte.
    pub(crate) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= self.0.len()).then_some(count)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = self.count()?;
        self.raw(count)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(crate) fn partition(&mut self) -> Option<PartitionId> {
        let topic = TopicId(Uuid::from_bytes(self.array()?));
        let index = PartitionIndex(i32::try_from(self.varint()?).ok()?);
        Some(PartitionId { topic, index })
    }

    pub(crate) fn offset(&mut self) -> Option<Offset> {
        i64::try_from(self.varint()?).ok().map(Offset)
    }

    pub(crate) fn bool(&mut self) -> Option<bool> {
        match self.u8()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn qos(&mut self) -> Option<QoS> {
        QoS::from_bits(self.u8()?)
    }

    pub(crate) fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.bool()? {
            false => Some(None),
            true => read(self).map(Some),
        }
    }

    pub(crate) fn list<T>(
        &mut self,
        mut read: impl FnMut(&mut Self) -> Option<T>,
    ) -> Option<Vec<T>> {
        let count = self.count()?;
        let mut list = Vec::new();
        for _ in 0..count {
            list.push(read(self)?);
        }
        Some(list)
    }

    pub(crate) fn properties(&mut self) -> Option<MessageProperties> {
        Some(MessageProperties {
            payload_format: self.optional(Self::u8)?,
            expiry_s: self.optional(Self::u32)?,
            content_type: self.optional(|r| r.text().map(str::to_owned))?,
            response_topic: self.optional(|r| r.text().map(str::to_owned))?,
            correlation_data: self.optional(|r| r.bytes().map(Bytes::copy_from_slice))?,
            user: self.list(|r| Some((r.text()?.to_owned(), r.text()?.to_owned())))?,
        })
    }
}
