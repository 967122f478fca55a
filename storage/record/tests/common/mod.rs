//! What the property tests of this crate share: a plain model of a batch, strategies, and a fixed seed.

use bytes::BytesMut;
use mainstem_record::{
    Attributes, BATCH_HEADER_BYTES, BatchBuilder, BatchOptions, Codec, ProducerEpoch, ProducerId,
    RecordView, Sequence, TimestampMs,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// A name and a nullable value.
pub(crate) type ModelHeader = (Vec<u8>, Option<Vec<u8>>);

/// More than any batch of these tests unpacks to.
pub(crate) const BYTES_MAX: usize = 1 << 20;

/// A record as plain values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelRecord {
    pub(crate) attributes: u8,
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<ModelHeader>,
}

/// A batch as plain values.
#[derive(Clone, Debug)]
pub(crate) struct ModelBatch {
    pub(crate) options: BatchOptions,
    pub(crate) records: Vec<ModelRecord>,
}

impl ModelRecord {
    pub(crate) fn of(view: &RecordView<'_>) -> Self {
        let headers = view.headers.iter();
        Self {
            attributes: view.attributes,
            timestamp: view.timestamp.0,
            key: view.key.map(<[u8]>::to_vec),
            value: view.value.map(<[u8]>::to_vec),
            headers: headers
                .map(|(n, v)| (n.to_vec(), v.map(<[u8]>::to_vec)))
                .collect(),
        }
    }
}

impl ModelBatch {
    pub(crate) fn build(&self) -> BytesMut {
        let mut builder = BatchBuilder::new(self.options);
        for record in &self.records {
            builder.push_record(
                record.attributes,
                TimestampMs(record.timestamp),
                record.key.as_deref(),
                record.value.as_deref(),
                record
                    .headers
                    .iter()
                    .map(|(name, value)| (name.as_slice(), value.as_deref())),
            );
        }
        builder.finish().expect("a batch with records")
    }
}

/// The same cases in every run; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` change them.
pub(crate) fn config() -> ProptestConfig {
    let mut config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(0x6d61_696e_7374_656d);
    }
    config
}

pub(crate) fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(Codec::ALL.to_vec())
}

/// Bytes that compress and bytes that do not.
pub(crate) fn payload(bytes_max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..bytes_max),
        (any::<u8>(), 0..bytes_max * 4).prop_map(|(byte, count)| vec![byte; count]),
    ]
}

pub(crate) fn record() -> impl Strategy<Value = ModelRecord> {
    let timestamp = prop_oneof![
        8 => 1_700_000_000_000i64..1_700_000_100_000,
        1 => Just(-1),
        1 => any::<i64>(),
    ];
    let header = (vec(any::<u8>(), 0..12), option::of(vec(any::<u8>(), 0..12)));
    (
        any::<u8>(),
        timestamp,
        option::of(vec(any::<u8>(), 0..40)),
        option::of(payload(200)),
        vec(header, 0..4),
    )
        .prop_map(|(attributes, timestamp, key, value, headers)| ModelRecord {
            attributes,
            timestamp,
            key,
            value,
            headers,
        })
}

pub(crate) fn options() -> impl Strategy<Value = BatchOptions> {
    let producer = option::of((0i64.., 0i16.., 0i32..));
    (codec(), any::<[bool; 3]>(), producer).prop_map(|(codec, marks, producer)| {
        let (id, epoch, sequence) = producer.unwrap_or((-1, -1, -1));
        BatchOptions {
            codec,
            attributes: Attributes::default()
                .with_transactional(marks[0])
                .with_control(marks[1])
                .with_mqtt(marks[2]),
            producer_id: ProducerId(id),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence),
        }
    })
}

pub(crate) fn batch() -> impl Strategy<Value = ModelBatch> {
    (options(), vec(record(), 1..20)).prop_map(|(options, records)| ModelBatch { options, records })
}

/// A batch with this header and body whose length and checksum fit, whatever else does not.
pub(crate) fn sealed(header: &[u8], body: &[u8]) -> Vec<u8> {
    let mut batch = header[..BATCH_HEADER_BYTES].to_vec();
    batch.extend_from_slice(body);
    let length = i32::try_from(batch.len() - 12).expect("a small batch");
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}
