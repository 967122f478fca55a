//! Fields of bodies, taken off and put on.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use mainstem_record::{
    BrokerId, Incarnation, LeaderEpoch, Member, Offset, PartitionId, PartitionIndex, SegmentId,
    TimestampMs, TopicId,
};
use uuid::Uuid;

use super::{SEGMENTS_MAX, VERSION, WireError};

/// Takes fields off the front of a body.
pub(super) struct Fields(Bytes);

/// Puts fields at the end of a body.
pub(super) struct Body(BytesMut);

// === impl Fields ===

impl Fields {
    /// Reads version and kind.
    pub(super) fn of(body: Bytes) -> Result<(Self, u8), WireError> {
        let mut fields = Self(body);
        let version = fields.u8()?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let kind = fields.u8()?;
        Ok((fields, kind))
    }

    /// The same of a service that says but one thing.
    pub(super) fn of_kind(body: Bytes, kind: u8) -> Result<Self, WireError> {
        match Self::of(body)? {
            (fields, found) if found == kind => Ok(fields),
            (_, found) => Err(WireError::Kind(found)),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let array = *self.0.first_chunk().ok_or(WireError::Truncated)?;
        self.0.advance(N);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, WireError> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Value("a yes or no")),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.array().map(i32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Result<i64, WireError> {
        self.array().map(i64::from_le_bytes)
    }

    pub(super) fn u128(&mut self) -> Result<u128, WireError> {
        self.array().map(u128::from_le_bytes)
    }

    pub(super) fn offset(&mut self) -> Result<Offset, WireError> {
        match self.i64()? {
            below if below < 0 => Err(WireError::Value("an offset below 0")),
            offset => Ok(Offset(offset)),
        }
    }

    pub(super) fn timestamp(&mut self) -> Result<TimestampMs, WireError> {
        self.i64().map(TimestampMs)
    }

    pub(super) fn epoch(&mut self) -> Result<LeaderEpoch, WireError> {
        self.i32().map(LeaderEpoch)
    }

    pub(super) fn segment(&mut self) -> Result<SegmentId, WireError> {
        self.array().map(|bytes| SegmentId(Uuid::from_bytes(bytes)))
    }

    pub(super) fn partition(&mut self) -> Result<PartitionId, WireError> {
        let topic = TopicId(Uuid::from_bytes(self.array()?));
        let index = PartitionIndex(self.i32()?);
        Ok(PartitionId { topic, index })
    }

    pub(super) fn member(&mut self) -> Result<Member, WireError> {
        let broker = BrokerId(self.i32()?);
        let incarnation = Incarnation(self.u64()?);
        Ok(Member::new(broker, incarnation))
    }

    /// A length and as many bytes, which stay where they are.
    pub(super) fn bytes(&mut self) -> Result<Bytes, WireError> {
        let length = self.u32()? as usize;
        if length > self.0.len() {
            return Err(WireError::Truncated);
        }
        Ok(self.0.split_to(length))
    }

    /// A count and as many things, each of at least `bytes_min` bytes.
    pub(super) fn list<T>(
        &mut self,
        bytes_min: usize,
        mut item: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.u32()? as usize;
        if count > SEGMENTS_MAX {
            return Err(WireError::TooMany(count));
        }
        if count * bytes_min > self.0.len() {
            return Err(WireError::Truncated);
        }
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// The rest, whatever it is.
    pub(super) fn rest(self) -> Bytes {
        self.0
    }

    /// Nothing may be left.
    pub(super) fn end<T>(self, value: T) -> Result<T, WireError> {
        match self.0.len() {
            0 => Ok(value),
            left => Err(WireError::LeftOver(left)),
        }
    }
}

// === impl Body ===

impl Body {
    /// Begins with version and kind.
    pub(super) fn new(kind: u8, capacity: usize) -> Self {
        let mut body = Self(BytesMut::with_capacity(2 + capacity));
        body.u8(VERSION);
        body.u8(kind);
        body
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.put_u8(value);
    }

    pub(super) fn bool(&mut self, value: bool) {
        self.0.put_u8(u8::from(value));
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.put_u32_le(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.put_u64_le(value);
    }

    pub(super) fn u128(&mut self, value: u128) {
        self.0.put_u128_le(value);
    }

    pub(super) fn offset(&mut self, value: Offset) {
        self.0.put_i64_le(value.0);
    }

    pub(super) fn timestamp(&mut self, value: TimestampMs) {
        self.0.put_i64_le(value.0);
    }

    pub(super) fn epoch(&mut self, value: LeaderEpoch) {
        self.0.put_i32_le(value.0);
    }

    pub(super) fn segment(&mut self, value: SegmentId) {
        self.0.put_slice(value.0.as_bytes());
    }

    pub(super) fn partition(&mut self, value: PartitionId) {
        self.0.put_slice(value.topic.0.as_bytes());
        self.0.put_i32_le(value.index.0);
    }

    pub(super) fn member(&mut self, value: Member) {
        self.0.put_i32_le(value.broker.0);
        self.0.put_u64_le(value.incarnation.0);
    }

    pub(super) fn slice(&mut self, value: &[u8]) {
        self.0.put_slice(value);
    }

    pub(super) fn length(&mut self, length: usize) {
        let length = u32::try_from(length).expect("bodies are bounded far below");
        self.0.put_u32_le(length);
    }

    /// A count and the things.
    ///
    /// # Panics
    /// More than [`SEGMENTS_MAX`]: who says it has to split it.
    pub(super) fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        assert!(
            items.len() <= SEGMENTS_MAX,
            "{} things in one message",
            items.len()
        );
        self.length(items.len());
        for each in items {
            item(self, each);
        }
    }

    /// Writes over 4 bytes that are there.
    pub(super) fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.0.get_mut(at..at + 4) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    pub(super) fn done(self) -> Bytes {
        self.0.freeze()
    }
}
