//! What a partition remembers, so that nothing is appended twice: idempotent producers and QoS 2
//! sessions. Sans-I/O: the shard feeds it, recovery replays the log into it.

mod producers;
mod qos2;

use mainstem_record::{BatchHeader, records};

pub(crate) use producers::{Mark, PRODUCER_BYTES_MAX, PRODUCERS_MAX, Producer, Producers, Verdict};
pub(crate) use qos2::{Qos2, Qos2Undo, SESSION_BYTES_MAX, SESSIONS_MAX};

use crate::{QOS2_HEADER, append::Qos2Id};

/// Both memories of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dedupe {
    pub(crate) producers: Producers,
    pub(crate) qos2: Qos2,
}

// === impl Dedupe ===

impl Dedupe {
    pub(crate) fn new(expiry_ms: i64) -> Self {
        Self {
            producers: Producers::new(expiry_ms),
            qos2: Qos2::new(expiry_ms),
        }
    }

    /// Whether nothing is remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.producers.iter().next().is_none() && self.qos2.len() == 0
    }

    /// Bytes of memory, about.
    pub(crate) fn size_bytes(&self) -> usize {
        self.producers.size_bytes() + self.qos2.size_bytes()
    }

    /// Takes over a batch of the log that is known to be whole. `now_ms` counts as the time at
    /// which its writer was last seen: a client's own timestamp may be years old.
    pub(crate) fn replay(
        &mut self,
        header: &BatchHeader,
        batch: &[u8],
        now_ms: i64,
        decompressed_bytes_max: usize,
    ) {
        if header.has_producer() {
            self.producers.record(header, now_ms);
        }
        qos2_of(header, batch, decompressed_bytes_max, |id| {
            self.qos2.record(&id, now_ms);
        });
    }
}

/// The QoS 2 publishes in a batch that is known to be whole, in order.
pub(crate) fn qos2_of(
    header: &BatchHeader,
    batch: &[u8],
    decompressed_bytes_max: usize,
    mut take: impl FnMut(Qos2Id),
) {
    if !header.attributes.is_mqtt() {
        return;
    }
    // The checksum held, so these are our own bytes; a record that cannot be read has no
    // identity that could be remembered.
    let Ok(records) = records(batch, decompressed_bytes_max) else {
        return;
    };
    for record in records.iter().map_while(Result::ok) {
        let value = record.headers.last(QOS2_HEADER.as_bytes());
        if let Some(id) = value.and_then(Qos2Id::from_header) {
            take(id);
        }
    }
}

/// Reads little-endian fields off the front of a section.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

// === impl Fields ===

impl Fields<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
