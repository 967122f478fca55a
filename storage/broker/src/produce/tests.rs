//! What may enter a log, and what it looks like then.

use bytes::{Bytes, BytesMut};
use mainstem_config::{CleanupPolicy, TopicConfig};
use mainstem_record::{
    BatchBuilder, BatchHeader, BatchOptions, Codec, TimestampMs, compress, stamp_max_timestamp,
    validate,
};

use crate::{core::tests::start, error_code::ErrorCode};

fn batch(codec: Codec, now: i64, key: Option<&[u8]>) -> BytesMut {
    let options = BatchOptions {
        codec,
        ..BatchOptions::default()
    };
    let mut builder = BatchBuilder::new(options);
    for ahead in [0, 5] {
        let timestamp = TimestampMs(now + ahead);
        builder.push_record(0, timestamp, key, Some(b"value"), []);
    }
    builder.finish().expect("a batch")
}

/// The batch with another body and a right checksum.
fn with_body(batch: &[u8], body: &[u8]) -> BytesMut {
    let mut changed = BytesMut::from(&batch[..61]);
    changed.extend_from_slice(body);
    let length = i32::try_from(changed.len() - 12).expect("small");
    changed[8..12].copy_from_slice(&length.to_be_bytes());
    // Setting a field again computes the checksum anew.
    let header = BatchHeader::parse(&changed).expect("a header");
    stamp_max_timestamp(&mut changed, header.max_timestamp);
    changed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_batch_that_nobody_could_read_is_refused() {
    let (core, ..) = start().await;
    let config = TopicConfig::default();
    let now = core.env.wall_ms();
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let good = batch(codec, now, None);
        let stored = core.checked_batch(good.clone().freeze(), &config).await;
        assert_eq!(
            stored,
            Ok(good.clone().freeze()),
            "{codec:?} is stored as it was sent"
        );
        let bad = with_body(&good, b"garbage").freeze();
        let refused = core
            .checked_batch(bad, &config)
            .await
            .map_err(|error| error.code);
        assert_eq!(refused, Err(ErrorCode::InvalidRecord), "{codec:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decompression_bomb_is_refused_by_the_configured_limit() {
    let (core, ..) = start().await;
    let limit = core.config.storage.decompressed_batch_bytes_max;
    let good = batch(Codec::Zstd, core.env.wall_ms(), None);
    let bomb = compress(Codec::Zstd, &vec![0; limit + 1]).expect("compressed");
    assert!(bomb.len() < 1 << 20, "a bomb is small");
    let bomb = with_body(&good, &bomb).freeze();
    let refused = core.checked_batch(bomb, &TopicConfig::default()).await;
    assert_eq!(
        refused.map_err(|error| error.code),
        Err(ErrorCode::InvalidRecord)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_max_timestamp_of_the_header_is_corrected() {
    let (core, ..) = start().await;
    let now = core.env.wall_ms();
    let mut lying = batch(Codec::None, now, None);
    stamp_max_timestamp(&mut lying, TimestampMs(now));
    let stored: Bytes = core
        .checked_batch(lying.freeze(), &TopicConfig::default())
        .await
        .expect("accepted");
    let header = validate(&stored).expect("a right checksum");
    assert_eq!(header.max_timestamp, TimestampMs(now + 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timestamps_of_records_count_not_what_the_header_says() {
    let (core, ..) = start().await;
    let now = core.env.wall_ms();
    let config = TopicConfig {
        timestamp_after_max_ms: 1000,
        timestamp_before_max_ms: 1000,
        ..TopicConfig::default()
    };
    for wrong in [now + 3_600_000, now - 3_600_000] {
        let mut lying = batch(Codec::None, wrong, None);
        stamp_max_timestamp(&mut lying, TimestampMs(now));
        let refused = core.checked_batch(lying.freeze(), &config).await;
        assert_eq!(
            refused.map_err(|error| error.code),
            Err(ErrorCode::InvalidTimestamp)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compacted_topic_takes_no_record_without_a_key() {
    let (core, ..) = start().await;
    let cleanup = CleanupPolicy {
        delete: false,
        compact: true,
    };
    let config = TopicConfig {
        cleanup,
        ..TopicConfig::default()
    };
    let now = core.env.wall_ms();
    for codec in Codec::ALL {
        let keyless = batch(codec, now, None).freeze();
        let refused = core
            .checked_batch(keyless, &config)
            .await
            .map_err(|error| error.code);
        assert_eq!(refused, Err(ErrorCode::InvalidRecord), "{codec:?}");
        let keyed = batch(codec, now, Some(b"k")).freeze();
        assert!(
            core.checked_batch(keyed, &config).await.is_ok(),
            "{codec:?}"
        );
    }
}
